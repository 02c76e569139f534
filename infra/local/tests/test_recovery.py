"""What went wrong half-way, was done behind the function's back, or was asked for beyond all measure, and how it ended.
Real binaries against the emulator.
"""

import json
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

import local
from conftest import (
    EVENT_GROUP,
    OTHER_ACCOUNT,
    SCHEDULE_GROUP,
    attach,
    block_list,
    default_acl,
    default_vpc,
    denied,
    ingress,
    ingress_rules,
    let_changes_show,
    results,
    schedules,
    second_acl,
    tags_of,
)

TARGET = "203.0.113.45/32"
DENY = (1, TARGET, "6", (0, 65535))
DONE: list[str] = []
DENIAL = {"service": "ec2", "code": "UnauthorizedOperation", "status": 403, "times": 99}
THROTTLE = {"service": "ec2", "code": "RequestLimitExceeded", "status": 503, "times": 9}
FULL = {"service": "ec2", "operation": "CreateNetworkAclEntry", "code": "NetworkAclEntryLimitExceeded", "times": 9}


@pytest.fixture
def acl(ec2: Any) -> str:
    return default_acl(ec2)


def block(group: str, request_id: str = "r-1", **params: Any) -> dict[str, Any]:
    params = {"aws_security_group_id": group, **params}
    return {"request_id": request_id, "capability": "block_ip", "target": "203.0.113.45", "params": params}


def allow(group: str, request_id: str = "lift") -> dict[str, Any]:
    return {**block(group, request_id), "capability": "allow_ip"}


def deliver(containment: local.Function, *bodies: dict[str, Any], receives: int = 1) -> list[str]:
    """Messages of the actions queue. Gives those that are retried later."""
    messages = [
        {
            "MessageId": body["request_id"],
            "ReceiptHandle": "r",
            "Body": json.dumps(body),
            "MD5OfBody": "",
            "Attributes": {
                "MessageGroupId": body["params"]["aws_security_group_id"],
                "ApproximateReceiveCount": str(receives),
            },
        }
        for body in bodies
    ]
    failures = containment.invoke(local.as_sqs_event(messages))["batchItemFailures"]
    return [failure["itemIdentifier"] for failure in failures]


def flags(answer: dict[str, Any]) -> tuple[str, bool, bool, bool]:
    return answer["status"], answer["changed"], answer["enforced"], answer["verified"]


def fire(aws: local.StandIn, queue: str, containment: local.Function) -> None:
    """The only schedule's time has come."""
    (schedule,) = schedules(aws)
    aws.fire(schedule["Name"], SCHEDULE_GROUP)
    containment.invoke(local.as_sqs_event(local.drain(aws.client("sqs"), queue)))


BLOCKED = ("succeeded", True, True, True)
LIFTED = ("succeeded", True, False, True)


# ---- what went wrong half-way ---------------------------------------------------------------------------------------


def test_a_rule_that_lets_the_target_in_is_told_where_it_cannot_be_revoked(
    aws: local.StandIn, ec2: Any, group: str, acl: str, containment: local.Function, results_queue: str
) -> None:
    aws.fail({**THROTTLE, "operation": "CreateNetworkAclEntry"})
    assert deliver(containment, block(group)) == ["r-1"]
    (rule,) = ingress_rules(ec2, group)
    interface = attach(ec2, group)
    aws.fail({**DENIAL, "operation": "RevokeSecurityGroupIngress"})
    assert deliver(containment, block(group), receives=2) == DONE
    (result,) = results(aws, results_queue)
    assert (result["status"], result["changed"], result["details"]["error"]["code"]) == ("failed", True, "group_in_use")
    assert rule["SecurityGroupRuleId"] in result["details"]["error"]["message"]
    assert "could NOT be revoked" in result["details"]["error"]["message"] and "is revoked" not in containment.log()
    assert result["details"]["network_interface_ids"] == [interface]
    assert result["details"]["security_group_rule_id"] == rule["SecurityGroupRuleId"]
    # Once it may be revoked, the audit does it.
    aws.fail()
    assert containment.invoke({"mode": "audit"})["places"][0]["rules_revoked"] == 1
    assert (ingress(ec2, group), denied(ec2, acl)) == ([], [DENY])


def test_a_lift_that_is_retried_takes_nothing_from_a_block_made_meanwhile(
    aws: local.StandIn, ec2: Any, group: str, acl: str, stack: local.Stack, containment: local.Function
) -> None:
    other = block_list(ec2, name="other")
    assert flags(containment.invoke(block(group))) == BLOCKED
    # More often than the SDK tries
    aws.fail({"service": "ec2", "operation": "DeleteNetworkAclEntry", "effect": "lose", "times": 9})
    assert deliver(containment, allow(group)) == ["lift"]
    aws.fail()
    assert containment.invoke(block(other, "r-2"))["enforced"] is True
    let_changes_show(aws, stack)
    assert deliver(containment, allow(group), receives=2) == DONE
    # Not at the number that the lift may still remove
    assert denied(ec2, acl) == [(2, *DENY[1:])]
    assert (ingress(ec2, group), len(ingress(ec2, other))) == ([], 1)
    assert containment.invoke({"mode": "audit"})["places"][0]["blocks_restored"] == 0
    assert flags(containment.invoke(allow(other, "lift other"))) == LIFTED
    assert denied(ec2, acl) == []


def test_a_renewal_that_fails_for_good_after_a_throttle_leaves_the_older_end(
    aws: local.StandIn, ec2: Any, group: str, acl: str, containment: local.Function, results_queue: str
) -> None:
    end = containment.invoke(block(group, expires_after_seconds=3600))["details"]["expires_at"]
    second = second_acl(ec2)
    aws.fail({**THROTTLE, "operation": "CreateNetworkAclEntry"})
    assert deliver(containment, block(group, "r-2")) == ["r-2"]
    results(aws, results_queue)
    aws.fail(FULL)
    assert deliver(containment, block(group, "r-2"), receives=2) == DONE
    (result,) = results(aws, results_queue)
    assert (result["status"], result["changed"], result["details"]["error"]["code"]) == (
        "failed",
        False,
        "network_acl_full",
    )
    (rule,) = ingress_rules(ec2, group)
    assert (tags_of(rule)["aisoc:request-id"], tags_of(rule)["aisoc:expires-at"]) == ("r-1", end)
    (schedule,) = schedules(aws)
    assert schedule["ScheduleExpression"] == f"at({end.removesuffix('Z')})"
    assert json.loads(schedule["Target"]["Input"])["only_if_blocked_by"] == "r-1"
    assert (denied(ec2, acl), denied(ec2, second)) == ([DENY], [])


def test_a_block_whose_answer_came_late_has_one_entry(
    aws: local.StandIn, ec2: Any, group: str, acl: str, stack: local.Stack, start_containment: Any
) -> None:
    containment = start_containment()
    aws.lag()
    aws.fail({"service": "ec2", "operation": "CreateNetworkAclEntry", "effect": "hang-after"})
    first = containment.start_invocation(block(group))
    while "CreateNetworkAclEntry" not in {call["operation"] for call in aws.calls()}:
        pass
    containment.kill()
    first.join()
    aws.wait_until_idle()
    aws.fail()
    # The lease is over, and EC2 does not show the entry for longer than is waited for.
    let_changes_show(aws, stack, settled_at=datetime.now(UTC).isoformat().replace("+00:00", "Z"))
    again, before = start_containment(), len(aws.calls())
    answers: list[list[str]] = []
    second = threading.Thread(target=lambda: answers.append(deliver(again, block(group), receives=2)))
    second.start()
    while sum(call["operation"] == "DescribeNetworkAcls" for call in aws.calls()[before:]) < 3:
        pass
    aws.catch_up()
    second.join()
    assert answers == [DONE]
    assert denied(ec2, acl) == [DENY]
    assert len(ingress(ec2, group)) == 1


def test_what_a_block_added_before_another_acl_was_full_is_gone_again(
    aws: local.StandIn, ec2: Any, group: str, acl: str, containment: local.Function
) -> None:
    assert containment.invoke(block(group, aws_network_acl_ids=[acl]))["enforced"] is True
    others = [second_acl(ec2), second_acl(ec2)]
    assert len({acl, *others}) == 3
    # Of two that are added one is refused.
    aws.fail({**FULL, "skip": 1})
    answer = containment.invoke(block(group, "r-2"))
    assert (answer["status"], answer["changed"], answer["details"]["error"]["code"]) == (
        "failed",
        False,
        "network_acl_full",
    )
    assert (denied(ec2, acl), [denied(ec2, other) for other in others]) == ([DENY], [[], []])
    assert not [entry for entry in answer["details"]["network_acl_entries"] if entry["changed"]]


def test_half_a_lift_is_told_and_the_audit_goes_on_with_it(
    aws: local.StandIn, ec2: Any, group: str, acl: str, containment: local.Function, results_queue: str
) -> None:
    second = second_acl(ec2)
    assert flags(containment.invoke(block(group))) == BLOCKED
    results(aws, results_queue)
    aws.fail({**DENIAL, "operation": "DeleteNetworkAclEntry", "skip": 1})
    answer = containment.invoke(allow(group))
    assert (answer["status"], answer["changed"], answer["details"]["error"]["code"]) == (
        "failed",
        True,
        "access_denied",
    )
    left = [each for each in (acl, second) if denied(ec2, each)]
    assert len(left) == 1
    told = {entry["network_acl_id"]: entry["changed"] for entry in answer["details"]["network_acl_entries"]}
    assert told == {each: each not in left for each in (acl, second)}
    results(aws, results_queue)
    # It cannot be lifted yet, and that is told once.
    for _ in range(2):
        assert containment.invoke({"mode": "audit"})["places"][0]["blocks_overdue"] == 1
    (told_once,) = results(aws, results_queue)
    assert told_once["details"]["error"]["code"] == "block_overdue"
    aws.fail()
    place = containment.invoke({"mode": "audit"})["places"][0]
    assert (place["blocks_lifted"], place["blocks_overdue"]) == (1, 0)
    assert [denied(ec2, each) for each in (acl, second)] == [[], []]
    (over,) = results(aws, results_queue)
    assert (over["capability"], over["status"], over["changed"]) == ("audit", "succeeded", True)


def test_a_block_stands_although_its_target_is_protected_by_now(
    aws: local.StandIn, ec2: Any, group: str, acl: str, start_containment: Any, results_queue: str
) -> None:
    aws.fail({"service": "sqs", "operation": "SendMessage", "code": "AccessDenied", "status": 403, "times": 9})
    assert deliver(start_containment(), block(group)) == ["r-1"]
    aws.fail()
    protecting = start_containment(PROTECTED_CIDRS="203.0.113.0/24")
    assert deliver(protecting, block(group), receives=2) == DONE
    (result,) = results(aws, results_queue)
    assert result["details"]["error"]["code"] == "protected_target"
    assert flags(result)[:3] == ("failed", True, True)
    assert "stands until ALLOW_IP" in result["details"]["error"]["message"]
    assert denied(ec2, acl) == [DENY]


# ---- the end of a block ----------------------------------------------------------------------------------------------


def test_the_end_of_a_block_outlives_one_denial(
    aws: local.StandIn, ec2: Any, group: str, acl: str, actions_queue: str, containment: local.Function
) -> None:
    containment.invoke(block(group, expires_after_seconds=3600))
    aws.fail({**DENIAL, "operation": "DeleteNetworkAclEntry", "times": 1})
    fire(aws, actions_queue, containment)
    assert (denied(ec2, acl), ingress(ec2, group), schedules(aws)) == ([], [], [])


def test_a_block_whose_end_was_denied_is_lifted_by_the_audit(
    aws: local.StandIn, ec2: Any, group: str, acl: str, actions_queue: str, containment: local.Function
) -> None:
    containment.invoke(block(group, expires_after_seconds=3600))
    aws.fail({**DENIAL, "operation": "DeleteNetworkAclEntry"})
    fire(aws, actions_queue, containment)
    assert denied(ec2, acl) == [DENY]
    aws.fail()
    assert containment.invoke({"mode": "audit"})["places"][0]["blocks_lifted"] == 1
    assert (denied(ec2, acl), ingress(ec2, group), schedules(aws)) == ([], [], [])


@pytest.mark.parametrize("how", ["by itself", "by hand"])
@pytest.mark.parametrize("list_is", ["untagged, then attached", "deleted"])
def test_a_block_of_a_lost_list_still_ends(
    list_is: str,
    how: str,
    aws: local.StandIn,
    ec2: Any,
    group: str,
    acl: str,
    actions_queue: str,
    results_queue: str,
    containment: local.Function,
) -> None:
    containment.invoke(block(group, expires_after_seconds=3600))
    results(aws, results_queue)
    if list_is == "deleted":
        ec2.delete_security_group(GroupId=group)
    else:
        ec2.delete_tags(Resources=[group], Tags=[{"Key": "aisoc:containment"}])
        attach(ec2, group)
    for _ in range(2):
        place = containment.invoke({"mode": "audit"})["places"][0]
        assert (place["block_lists"], place["block_lists_lost"], place["blocks"]) == (0, 1, 1)
    (told_once,) = results(aws, results_queue)
    assert (told_once["status"], told_once["details"]["error"]["code"]) == ("failed", "block_list_lost")
    assert group in told_once["summary"]
    assert denied(ec2, acl) == [DENY]
    if how == "by hand":
        containment.invoke(allow(group))
    else:
        fire(aws, actions_queue, containment)
    assert denied(ec2, acl) == []
    (lifted,) = results(aws, results_queue)
    assert (lifted["status"], lifted["changed"]) == ("succeeded", True)
    if list_is != "deleted":
        (rule,) = ingress_rules(ec2, group)
        assert rule["SecurityGroupRuleId"] in lifted["summary"]
    place = containment.invoke({"mode": "audit"})["places"][0]
    assert (place["block_lists_lost"], place["blocks"]) == (0, 0)
    (over,) = results(aws, results_queue)
    assert (over["capability"], over["status"]) == ("audit", "succeeded")
    containment.invoke({"mode": "audit"})
    assert results(aws, results_queue) == []


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"aws_region": "eu-west-1"}, "region_not_allowed"),
        ({"aws_assume_role_arn": f"arn:aws:iam::{OTHER_ACCOUNT}:role/unknown"}, "role_not_allowed"),
    ],
)
def test_a_block_where_no_audit_goes_is_refused_and_nothing_is_called(
    params: dict[str, Any], code: str, aws: local.StandIn, group: str, containment: local.Function
) -> None:
    before = len(aws.calls())
    answer = containment.invoke(block(group, **params))
    assert (answer["status"], answer["changed"], answer["details"]["error"]["code"]) == ("blocked", False, code)
    assert {call["service"] for call in aws.calls()[before:]} == {"sqs"}


def test_a_deny_of_somebody_else_is_not_ours(ec2: Any, group: str, acl: str, containment: local.Function) -> None:
    foreign = {"NetworkAclId": acl, "Protocol": "6", "RuleAction": "deny", "Egress": False, "CidrBlock": TARGET}
    ec2.create_network_acl_entry(**foreign, RuleNumber=5, PortRange={"From": 0, "To": 65535})
    assert flags(containment.invoke(block(group))) == BLOCKED
    assert denied(ec2, acl) == [DENY, (5, *DENY[1:])]
    assert containment.invoke({"mode": "audit"})["places"][0]["entries_without_block"] == 1
    answer = containment.invoke(allow(group))
    assert (answer["status"], answer["changed"]) == ("succeeded", True)
    assert "deny entries still stand" in answer["summary"]
    assert denied(ec2, acl) == [(5, *DENY[1:])]


def test_network_acls_of_which_none_has_a_subnet(ec2: Any, group: str, containment: local.Function) -> None:
    unused = ec2.create_network_acl(VpcId=default_vpc(ec2))["NetworkAcl"]["NetworkAclId"]
    answer = containment.invoke(block(group, aws_network_acl_ids=[unused]))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "network_acl_without_subnet")
    assert unused in answer["details"]["error"]["message"]
    assert (ingress(ec2, group), denied(ec2, unused)) == ([], [])


def test_a_network_acl_of_a_shared_vpc_is_refused(aws: local.StandIn, group: str, containment: local.Function) -> None:
    aws.settings(vpc_owner=OTHER_ACCOUNT)
    answer = containment.invoke(block(group))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("blocked", "network_acl_not_owned")
    assert OTHER_ACCOUNT in answer["details"]["error"]["message"] + answer["details"]["error"]["remedy"]


@pytest.mark.parametrize("target", ["64:ff9b::/96", "64:ff9b::10.0.0.1", "64:ff9b:1::7", "::203.0.113.7"])
def test_ipv6_that_stands_for_ipv4_is_protected(target: str, group: str, containment: local.Function) -> None:
    answer = containment.invoke({**block(group), "target": target})
    assert (answer["status"], answer["details"]["error"]["code"]) == ("blocked", "protected_target")


def test_the_accounts_own_elastic_addresses_are_protected(
    ec2: Any, group: str, acl: str, containment: local.Function
) -> None:
    allocated = ec2.allocate_address(Domain="vpc", Address="198.51.100.71")
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    interface = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    ec2.associate_address(AllocationId=allocated["AllocationId"], NetworkInterfaceId=interface)
    own = allocated["PublicIp"]
    for target in (own, own.rpartition(".")[0] + ".0/24"):
        answer = containment.invoke({**block(group), "target": target})
        assert (answer["status"], answer["details"]["error"]["code"]) == ("blocked", "protected_target"), target
        assert interface in answer["details"]["error"]["message"]
    assert (ingress(ec2, group), denied(ec2, acl)) == ([], [])


@pytest.mark.parametrize(
    "members",
    [
        {"params": {"aws_network_acl_ids": [f"acl-{n:017x}" for n in range(42_000)]}},
        {"requested_by": "x" * 300_000},
        {"target": "y" * 300_000},
    ],
    ids=["42,000 network ACLs", "300 KB of requested_by", "300 KB of target"],
)
def test_whatever_is_asked_the_answer_is_small(
    members: dict[str, Any], aws: local.StandIn, group: str, containment: local.Function, results_queue: str
) -> None:
    body = block(group, expires_after_seconds=3600)
    body = {**body, **members, "params": {**body["params"], **members.get("params", {})}}
    answer = containment.invoke(body)
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "invalid_request")
    assert len(json.dumps(answer)) < 10_000
    assert results(aws, results_queue) == [answer]
    assert schedules(aws) == []


# ---- credentials and retries -----------------------------------------------------------------------------------------


def test_a_rotated_key_is_read_again(aws: local.StandIn, group: str, start_containment: Any) -> None:
    def key(name: str) -> str:
        return json.dumps({"AccessKeyId": name, "SecretAccessKey": "very-secret"})

    secrets = aws.client("secretsmanager")
    secret = secrets.create_secret(Name="aisoc/key", SecretString=key("AKIAOLDKEY"))["ARN"]
    containment = start_containment(STATIC_CREDENTIALS_SECRET_ARN=secret)
    assert flags(containment.invoke(block(group))) == BLOCKED
    secrets.put_secret_value(SecretId=secret, SecretString=key("AKIANEWKEY"))
    aws.fail({"service": "ec2", "operation": "DescribeSecurityGroups", "code": "AuthFailure", "status": 401})
    before = len(aws.calls())
    assert flags(containment.invoke(allow(group))) == LIFTED
    keys = [call["access_key"] for call in aws.calls()[before:] if call["service"] == "ec2"]
    assert (keys[0], keys[-1]) == ("AKIAOLDKEY", "AKIANEWKEY")


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "InvalidClientTokenId"])
def test_a_revoked_session_is_made_anew(code: str, aws: local.StandIn, containment: local.Function) -> None:
    theirs = aws.client("ec2", credentials=aws.account(OTHER_ACCOUNT))
    group = block_list(theirs)
    event = json.loads(local.event("block-ip-cross-account").replace(EVENT_GROUP, group))
    assert flags(containment.invoke(event)) == BLOCKED
    aws.fail({"service": "ec2", "operation": "DescribeSecurityGroups", "code": code, "status": 403})
    before = len(aws.calls())
    assert flags(containment.invoke({**event, "request_id": "lift", "capability": "allow_ip"})) == LIFTED
    assert [call["operation"] for call in aws.calls()[before:]].count("AssumeRole") == 1


def test_a_retry_comes_after_seconds(
    aws: local.StandIn, group: str, actions_queue: str, containment: local.Function
) -> None:
    sqs = aws.client("sqs")

    def throttled(name: str, *more: dict[str, Any]) -> list[str]:
        sqs.send_message(QueueUrl=actions_queue, MessageBody=json.dumps(block(group, name)), MessageGroupId=name)
        (message,) = sqs.receive_message(QueueUrl=actions_queue, AttributeNames=["All"])["Messages"]
        before = len(aws.calls())
        aws.fail(*more, {**THROTTLE, "operation": "DescribeVpcs"})
        assert len(containment.invoke(local.as_sqs_event([message]))["batchItemFailures"]) == 1
        return [call["operation"] for call in aws.calls()[before:]]

    calls = throttled("r-1")
    assert calls[-1] == "ChangeMessageVisibility"
    # Once more, to see what is asked; of a call that is no batch, `partial` strikes nothing.
    throttled("r-2", {"at": len(calls), "effect": "partial"})
    struck = aws.struck()
    assert struck and struck["operation"] == "ChangeMessageVisibility"
    assert json.loads(struck["body"])["VisibilityTimeout"] == 5
    (message,) = sqs.receive_message(QueueUrl=actions_queue, AttributeNames=["All"], WaitTimeSeconds=10)["Messages"]
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"
    aws.fail()
    assert containment.invoke(local.as_sqs_event([message])) == {"batchItemFailures": []}
