"""At every call of a poll: the process is killed, or the call goes wrong. Nothing is lost, and twice goes only what was
confirmed and not yet recorded. One event SQS refuses for good, whatever happens: it is parked and holds up no other.

A poll of several pages with its sweep is run once to count its calls. Then, for every n, it is run anew and the n-th
call is struck; after that, polls are made until one is complete.
"""

import json
from collections import Counter
from typing import Any

import pytest

import local
from conftest import PARAMETERS, operations
from test_poller import finding, subscribe

FINDINGS = 11
PAGE = 6
REFUSED = {
    "service": "sqs",
    "operation": "SendMessageBatch",
    "effect": "refuse",
    "text": "finding-0003",
    "code": "InvalidMessageContents",
    "times": 1000,
}


class Scene:
    """An AWS with a few pages of findings that nobody has polled, and what came out of it so far."""

    def __init__(self, aws: local.StandIn):
        self.aws = aws
        aws.reset()
        subscribe(aws)
        aws.settings(page_size=PAGE)
        aws.import_findings([finding(n) for n in range(FINDINGS)])
        self.sqs, self.dynamodb = aws.client("sqs"), aws.client("dynamodb")
        stack = aws.deploy(**PARAMETERS)
        self.queue, self.table = stack.outputs["FindingsQueueUrl"], stack.outputs["StateTableName"]
        self.environment = stack.environment("Poller")
        self.fail()
        self.sent: Counter[str] = Counter()

    def fail(self, *faults: dict[str, Any]) -> None:
        """Faults, beside the refusal that stands."""
        self.aws.fail(*faults, REFUSED)

    def poller(self) -> local.Function:
        return local.Function(local.binary("poller"), self.environment)

    def collect(self) -> None:
        """Takes what has reached the queue."""
        self.aws.wait_until_idle()
        self.sent.update(json.loads(message["Body"])["event_id"] for message in local.drain(self.sqs, self.queue))

    def items(self) -> list[dict[str, Any]]:
        """What the state table holds."""
        pages = self.dynamodb.get_paginator("scan").paginate(TableName=self.table, ConsistentRead=True)
        return [item for page in pages for item in page["Items"]]

    def unrecorded(self) -> set[str]:
        """What was sent and is not recorded in the state table."""
        digests = b"".join(item["digests"]["B"] for item in self.items() if "digests" in item)
        recorded = {digests[at : at + 16].hex() for at in range(0, len(digests), 16)}
        return {event_id for event_id in self.sent if event_id[:32] not in recorded}

    def let_lease_end(self) -> None:
        """As some minutes after a run was killed."""
        for item in self.items():
            if item["pk"]["S"] == "lease":
                self.dynamodb.delete_item(TableName=self.table, Key={key: item[key] for key in ("pk", "sk")})

    def poll_until_complete(self) -> None:
        with self.poller() as poller:
            for _ in range(5):
                self.let_lease_end()
                try:
                    report = poller.invoke({})
                    if report["complete"] and report["regions"][0]["sweep"] is None:
                        break
                except local.FunctionError:
                    continue
            else:
                pytest.fail("no poll was complete")
        self.collect()

    def assert_all_delivered_once_but(self, twice: set[str]) -> None:
        parked = {item["sk"]["S"] for item in self.items() if item["pk"]["S"] == "parked#events"}
        assert len(parked) <= 1 and len(parked | set(self.sent)) == FINDINGS
        assert {event_id for event_id, times in self.sent.items() if times > 1} <= twice


@pytest.fixture(scope="module")
def calls_of_a_poll(running_stand_in: local.StandIn) -> int:
    scene = Scene(running_stand_in)
    before = len(scene.aws.calls())
    with scene.poller() as poller:
        report = poller.invoke({})
    calls = scene.aws.calls()[before:]
    assert report["complete"] and report["regions"][0]["sweep"]["complete"]
    # Every kind of call the poller makes is among them, and every page.
    assert {call["operation"] for call in calls} == {
        "GetFindings",
        "Query",
        "SendMessageBatch",
        "PutItem",
        "DeleteItem",
    }
    assert operations(scene.aws, "securityhub").count("GetFindings") > 2 * FINDINGS / PAGE
    scene.poll_until_complete()
    scene.assert_all_delivered_once_but(set())
    return len(calls)


@pytest.mark.parametrize("effect", ["hang", "hang-after"], ids=["before the call is carried out", "before its answer"])
def test_killed_at_every_call(effect: str, running_stand_in: local.StandIn, calls_of_a_poll: int) -> None:
    for n in range(1, calls_of_a_poll + 1):
        scene = Scene(running_stand_in)
        scene.fail({"at": n, "effect": effect})
        with scene.poller() as poller:
            invocation = poller.start_invocation({})
            assert scene.aws.struck(), f"call {n}"
            poller.kill()
            invocation.join()
        scene.collect()
        twice = scene.unrecorded()
        scene.fail()
        scene.poll_until_complete()
        scene.assert_all_delivered_once_but(twice)


FAULTS: dict[str, dict[str, Any]] = {
    "HTTP 500": {"code": "InternalFailure", "status": 500},
    "HTTP 503": {"code": "ServiceUnavailable", "status": 503},
    "throttled": {"code": "ThrottlingException", "status": 400},
    "access denied": {"code": "AccessDeniedException", "status": 403},
    "expired token": {"code": "ExpiredTokenException", "status": 403},
    "connection dropped": {"effect": "drop"},
    "answer lost": {"effect": "lose"},
    "half a batch": {"effect": "partial"},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_at_every_call(fault: dict[str, Any], running_stand_in: local.StandIn, calls_of_a_poll: int) -> None:
    for n in range(1, calls_of_a_poll + 1):
        scene = Scene(running_stand_in)
        scene.fail({"at": n, **fault})
        with scene.poller() as poller:
            try:
                poller.invoke({})
            except local.FunctionError as error:
                assert error.type == "PollFailed"
        struck = scene.aws.struck()
        assert struck, f"call {n}"
        scene.collect()
        twice = scene.unrecorded()
        if fault.get("effect") == "lose" and struck["operation"] == "SendMessageBatch":
            entries = json.loads(struck["body"])["Entries"]
            twice |= {json.loads(entry["MessageBody"])["event_id"] for entry in entries}
        scene.poll_until_complete()
        scene.assert_all_delivered_once_but(twice)
