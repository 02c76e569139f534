"""At every call of a request: the function is killed, or the call goes wrong. What is put into a network is in the
blocks table all the time, and once the request comes again everything is as it asked, as if nothing had happened.

Each request is carried out once undisturbed, to count its calls and to see what it leads to. Then, for every n, it is
carried out anew, the n-th call is struck, and the request is delivered again.
"""

import json
from typing import Any

import pytest

import local
from conftest import (
    PARAMETERS,
    block_list,
    blocks,
    default_acl,
    denied,
    ingress_rules,
    let_changes_show,
    results,
    schedules,
    second_acl,
    tags_of,
)

TARGET = "203.0.113.45"


def request(request_id: str, action: str, **more: Any) -> dict[str, Any]:
    return {"request_id": request_id, "capability": action, "target": TARGET, **more}


EXPIRING = {"expires_after_seconds": 3600}
# What was done before, then the request, each with its parameters.
HISTORIES: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "a block": [(request("r-1", "block_ip"), {})],
    "a block that ends": [(request("r-1", "block_ip"), EXPIRING)],
    "a block again, without an end": [(request("r-1", "block_ip"), EXPIRING), (request("r-2", "block_ip"), {})],
    "a lift": [(request("r-1", "block_ip"), EXPIRING), (request("r-2", "allow_ip"), {})],
    "the end of a block": [
        (request("r-1", "block_ip"), EXPIRING),
        (request("expiry:r-1", "allow_ip", only_if_blocked_by="r-1"), {}),
    ],
}


class Scene:
    """An AWS with a block list in a VPC with two network ACLs, and a history."""

    def __init__(self, aws: local.StandIn, history: list[tuple[dict[str, Any], dict[str, Any]]]):
        self.aws = aws
        aws.reset()
        self.ec2 = aws.client("ec2")
        self.group = block_list(self.ec2)
        self.acls = [default_acl(self.ec2), second_acl(self.ec2)]
        self.stack = stack = aws.deploy(**PARAMETERS)
        self.results_queue = stack.outputs["ResultsQueueUrl"]
        self.requests = [
            {**body, "params": {**params, "aws_security_group_id": self.group}} for body, params in history
        ]
        self.environment = stack.environment("Containment")

    def containment(self) -> local.Function:
        return local.Function(local.binary("containment"), self.environment)

    def event(self, body: dict[str, Any], receives: int = 1) -> dict[str, Any]:
        """The message as the actions queue delivers it, each time again."""
        message = {
            "MessageId": f"m-{body['request_id']}",
            "ReceiptHandle": "r",
            "Body": json.dumps(body),
            "MD5OfBody": "",
            "Attributes": {"MessageGroupId": self.group, "ApproximateReceiveCount": str(receives)},
        }
        return local.as_sqs_event([message])

    def prepare(self, containment: local.Function) -> dict[str, Any]:
        """Everything before the request, and the event of the request."""
        *earlier, last = self.requests
        for body in earlier:
            assert containment.invoke(self.event(body)) == {"batchItemFailures": []}
        results(self.aws, self.results_queue)
        return self.event(last)

    def state(self, with_ends: bool = True) -> dict[str, Any]:
        """What there is, without ids and times; `with_ends`, the schedules too."""
        rules = ingress_rules(self.ec2, self.group)
        state: dict[str, Any] = {
            "rules": [(rule["CidrIpv4"], tags_of(rule)["aisoc:request-id"]) for rule in rules],
            "denied": [denied(self.ec2, acl) for acl in self.acls],
        }
        if not with_ends:
            return state
        found = schedules(self.aws)
        # The rule says of itself when its schedule runs.
        ends = [f"at({tags_of(rule)['aisoc:expires-at'].removesuffix('Z')})" for rule in rules]
        assert [schedule["ScheduleExpression"] for schedule in found] == [end for end in ends if end != "at(never)"]
        ends = [json.loads(schedule["Target"]["Input"])["only_if_blocked_by"] for schedule in found]
        return {**state, "ends": ends}

    def assert_on_record(self) -> None:
        """Every deny entry is one that a block of the table placed, and so is every rule."""
        wanted = [block for block in blocks(self.aws, self.stack) if "Lifted" not in block["state"]]
        placed = {(entry["acl"], int(entry["number"])) for block in wanted for entry in block["entries"]}
        stand = {(acl, number) for acl in self.acls for number, *_ in denied(self.ec2, acl)}
        assert stand <= placed
        assert wanted or not ingress_rules(self.ec2, self.group)

    def deliver_again(self, expected: dict[str, Any], struck: str = "") -> None:
        """Until it is done with, as the queue does. After a fault that is final, in a call that a request goes without,
        things are as expected but for what is left to the audit, or to the end of a schedule."""
        results(self.aws, self.results_queue)
        let_changes_show(self.aws, self.stack)
        with self.containment() as containment:
            for receives in range(2, 5):
                if containment.invoke(self.event(self.requests[-1], receives)) == {"batchItemFailures": []}:
                    break
            else:
                pytest.fail("the message is retried again and again")
            if struck == "CreateTags":
                assert containment.invoke({"mode": "audit"})["complete"] is True
        # A schedule that may not be deleted is left over, and changes nothing when it comes.
        is_left_over = struck == "DeleteSchedule"
        assert self.state(with_ends=not is_left_over) == without_ends(expected, is_left_over)
        self.assert_on_record()
        assert {block["state"] == "InForce" for block in blocks(self.aws, self.stack)} == {bool(expected["rules"])}
        (result,) = results(self.aws, self.results_queue)
        assert (result["status"], result["verified"]) == ("succeeded", True)
        assert result["enforced"] is bool(expected["rules"])


def without_ends(state: dict[str, Any], is_so: bool = True) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != "ends" or not is_so}


HISTORY = pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES.keys())


def undisturbed(aws: local.StandIn, history: list[tuple[dict[str, Any], dict[str, Any]]]) -> tuple[int, dict[str, Any]]:
    """The calls that the request takes, and what it leads to."""
    scene = Scene(aws, history)
    with scene.containment() as containment:
        event = scene.prepare(containment)
        before = len(aws.calls())
        assert containment.invoke(event) == {"batchItemFailures": []}
    calls = [call["operation"] for call in aws.calls()[before:]]
    assert {"Query", "TransactWriteItems", "DescribeNetworkAcls", "SendMessage"} <= set(calls)
    is_block = scene.requests[-1]["capability"] == "block_ip"
    state = scene.state()
    assert [bool(state["rules"]), *map(bool, state["denied"])] == [is_block] * 3
    return len(calls), state


@HISTORY
@pytest.mark.parametrize("effect", ["hang", "hang-after"], ids=["before the call is carried out", "before its answer"])
def test_killed_at_every_call(
    effect: str, history: list[tuple[dict[str, Any], dict[str, Any]]], running_stand_in: local.StandIn
) -> None:
    calls, expected = undisturbed(running_stand_in, history)
    for n in range(1, calls + 1):
        scene = Scene(running_stand_in, history)
        with scene.containment() as containment:
            event = scene.prepare(containment)
            scene.aws.fail({"at": n, "effect": effect})
            invocation = containment.start_invocation(event)
            assert scene.aws.struck(), f"call {n}"
            containment.kill()
            invocation.join()
        scene.aws.wait_until_idle()
        scene.aws.fail()
        scene.assert_on_record()
        scene.deliver_again(expected)


FAULTS: dict[str, dict[str, Any]] = {
    "throttled": {"code": "RequestLimitExceeded", "status": 503, "times": 4},  # more often than the SDK tries
    "access denied": {"code": "AccessDeniedException", "status": 403},
    "expired token": {"code": "ExpiredTokenException", "status": 403},
    "answer lost": {"effect": "lose"},
}


@HISTORY
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_at_every_call(
    fault: dict[str, Any], history: list[tuple[dict[str, Any], dict[str, Any]]], running_stand_in: local.StandIn
) -> None:
    calls, expected = undisturbed(running_stand_in, history)
    for n in range(1, calls + 1):
        scene = Scene(running_stand_in, history)
        with scene.containment() as containment:
            event = scene.prepare(containment)
            scene.aws.fail({"at": n, **fault})
            handed_back = containment.invoke(event)["batchItemFailures"]
            struck = scene.aws.struck()
        assert struck, f"call {n}"
        scene.aws.fail()
        scene.assert_on_record()
        answers = results(scene.aws, scene.results_queue)
        # Either there is an answer, or the message comes again; where the answer's own confirmation was lost, both.
        assert len(answers) + len(handed_back) == 1 or struck["operation"] == "SendMessage"
        # Nobody is told of a block that is not there, or of a lift that is not made.
        for answer in answers:
            if answer["verified"]:
                # Tags fail no request: an audit repairs them.
                state, wanted = scene.state(with_ends=False), without_ends(expected)
                parts = ["denied"] if struck["operation"] == "CreateTags" else wanted
                assert {p: state[p] for p in parts} == {p: wanted[p] for p in parts}, f"call {n}, {struck['operation']}"
        scene.deliver_again(expected, struck["operation"])
