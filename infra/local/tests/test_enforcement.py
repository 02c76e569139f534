"""What makes a block real, and what ends it: network ACLs, schedules, the audit, other accounts. Real binaries against
the stand-in.
"""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
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
    entries,
    ingress,
    ingress_rules,
    operations,
    put_entry,
    results,
    schedules,
    second_acl,
    tags_of,
)

EVENT_ACL = "acl-0123456789abcdef0"  # of the files in events/
TARGET = "203.0.113.45/32"
DENY = (1, TARGET, "6", (0, 65535))


@pytest.fixture
def acl(ec2: Any) -> str:
    return default_acl(ec2)


def request(group: str, name: str = "block-ip", **members: Any) -> dict[str, Any]:
    """A file of events/, about the group, with other members; `params` are added to those of the file."""
    event = json.loads(local.event(name).replace(EVENT_GROUP, group))
    params = {**event["params"], **members.pop("params", {})}
    return {**event, **members, "params": params}


def flags(answer: dict[str, Any]) -> tuple[str, bool, bool, bool]:
    return answer["status"], answer["changed"], answer["enforced"], answer["verified"]


BLOCKED = ("succeeded", True, True, True)
LIFTED = ("succeeded", True, False, True)


# ---- network ACLs --------------------------------------------------------------------------------------------------


def test_every_acl_in_use_denies_and_no_other(ec2: Any, group: str, acl: str, containment: local.Function) -> None:
    second = second_acl(ec2)
    unused = ec2.create_network_acl(VpcId=default_vpc(ec2))["NetworkAcl"]["NetworkAclId"]
    answer = containment.invoke(request(group))
    assert flags(answer) == BLOCKED
    assert [denied(ec2, each) for each in (acl, second, unused)] == [[DENY], [DENY], []]
    assert {entry["network_acl_id"] for entry in answer["details"]["network_acl_entries"]} == {acl, second}
    assert flags(containment.invoke(request(group, "allow-ip"))) == LIFTED
    assert [denied(ec2, each) for each in (acl, second, unused)] == [[], [], []]


def test_named_acls_deny_and_every_acl_is_lifted(ec2: Any, group: str, acl: str, containment: local.Function) -> None:
    second = second_acl(ec2)
    named = json.loads(local.event("block-ip-network-acls").replace(EVENT_GROUP, group).replace(EVENT_ACL, second))
    assert flags(containment.invoke(named)) == BLOCKED
    assert (denied(ec2, acl), denied(ec2, second)) == ([], [DENY])
    # An ALLOW_IP that names none lifts them all.
    assert flags(containment.invoke(request(group, "allow-ip"))) == LIFTED
    assert denied(ec2, second) == []


@pytest.mark.parametrize("where", ["nowhere", "another VPC"])
def test_an_acl_of_another_vpc_is_refused(where: str, ec2: Any, group: str, containment: local.Function) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    stranger = default_acl(ec2, vpc) if where == "another VPC" else EVENT_ACL
    answer = containment.invoke(request(group, params={"aws_network_acl_ids": [default_acl(ec2), stranger]}))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "network_acl_not_in_vpc")
    assert stranger in answer["details"]["error"]["message"]
    assert "params.aws_network_acl_ids" in answer["details"]["error"]["remedy"]
    assert (ingress(ec2, group), denied(ec2, default_acl(ec2))) == ([], [])


def test_a_group_of_another_vpc_than_the_acls(ec2: Any, acl: str, containment: local.Function) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")
    group = block_list(ec2, name="other", vpc=vpc)
    answer = containment.invoke(request(group, params={"aws_network_acl_ids": [acl]}))
    assert answer["details"]["error"]["code"] == "network_acl_not_in_vpc"
    # In its own VPC it works.
    assert flags(containment.invoke(request(group))) == BLOCKED
    assert (denied(ec2, default_acl(ec2, vpc)), denied(ec2, acl)) == ([DENY], [])


def test_a_vpc_without_a_subnet_has_nothing_that_could_block(ec2: Any, containment: local.Function) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    group = block_list(ec2, name="other", vpc=vpc)
    answer = containment.invoke(request(group))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "network_acl_without_subnet")
    assert ingress(ec2, group) == []


def test_the_deny_stands_before_the_first_allow_that_overlaps(
    ec2: Any, group: str, acl: str, containment: local.Function
) -> None:
    for number, source, action in [
        (1, "198.51.100.1/32", "deny"),
        (2, "192.0.2.0/24", "allow"),
        (4, "203.0.113.0/24", "allow"),
    ]:
        put_entry(ec2, acl, number, source, action)
    assert flags(containment.invoke(request(group))) == BLOCKED
    assert (3, *DENY[1:]) in denied(ec2, acl)
    # The next has no room before that allow.
    answer = containment.invoke(request(group, target="203.0.113.46"))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "network_acl_full")
    assert "its first allow entry that overlaps the target is number 4" in answer["details"]["error"]["message"]
    assert "NETWORK_ACL_RULE_NUMBERS" in answer["details"]["error"]["remedy"]
    assert [rule[0] for rule in ingress(ec2, group)] == [TARGET]


def test_a_full_acl_takes_no_record_either(
    aws: local.StandIn, ec2: Any, group: str, acl: str, containment: local.Function
) -> None:
    second = second_acl(ec2)
    for number in range(1, 19):  # with the allow of 100 and the final * that makes 20
        put_entry(ec2, second, number, f"198.51.100.{number}/32")
    before = [entries(ec2, each) for each in (acl, second)]
    answer = containment.invoke(request(group, "block-ip-expires"))
    assert flags(answer) == ("failed", False, False, False)
    assert (answer["details"]["error"]["code"], answer["details"]["error"]["retryable"]) == ("network_acl_full", False)
    assert "20 inbound IPv4 entries" in answer["details"]["error"]["message"]
    assert "Rules per network ACL" in answer["details"]["error"]["remedy"]
    # What was added in the other is taken back, then the record.
    assert [entries(ec2, each) for each in (acl, second)] == before
    assert (ingress(ec2, group), schedules(aws)) == ([], [])
    # IPv6 has a quota of its own.
    answer = containment.invoke(request(group, "block-ip-ipv6"))
    assert flags(answer) == BLOCKED
    assert denied(ec2, second)[-1][0] == 19


def test_numbers_of_the_settings(
    ec2: Any, group: str, acl: str, start_containment: Callable[..., local.Function]
) -> None:
    put_entry(ec2, acl, 40, "198.51.100.1/32")
    containment = start_containment(NETWORK_ACL_RULE_NUMBERS="40-50")
    assert flags(containment.invoke(request(group))) == BLOCKED
    assert [number for number, source, *_ in denied(ec2, acl) if source == TARGET] == [41]


def test_foreign_entries_are_never_touched(ec2: Any, group: str, acl: str, containment: local.Function) -> None:
    put_entry(ec2, acl, 1, TARGET, protocol="17")
    put_entry(ec2, acl, 2, TARGET, action="allow", protocol="17")
    put_entry(ec2, acl, 3, "203.0.113.0/24")
    put_entry(ec2, acl, 120, TARGET)
    before = entries(ec2, acl)
    assert flags(containment.invoke(request(group))) == BLOCKED
    assert len(entries(ec2, acl)) == len(before) + 1
    assert flags(containment.invoke(request(group, "allow-ip"))) == LIFTED
    assert entries(ec2, acl) == before


def test_two_lists_of_one_vpc_share_their_entries(ec2: Any, group: str, acl: str, containment: local.Function) -> None:
    other = block_list(ec2, name="other")
    assert flags(containment.invoke(request(group))) == BLOCKED
    assert flags(containment.invoke(request(other))) == BLOCKED
    assert denied(ec2, acl) == [DENY]
    first = containment.invoke(request(group, "allow-ip"))
    assert flags(first) == ("succeeded", True, True, True)
    assert other in first["summary"]
    assert denied(ec2, acl) == [DENY]
    assert flags(containment.invoke(request(other, "allow-ip"))) == LIFTED
    assert denied(ec2, acl) == []


def test_blocks_at_once_in_several_containers_all_get_their_number(
    ec2: Any, group: str, acl: str, start_containment: Callable[..., local.Function]
) -> None:
    containers = [start_containment() for _ in range(3)]
    answers: dict[int, dict[str, Any]] = {}

    def block(n: int) -> None:
        answers[n] = containers[n].invoke(request(group, request_id=f"r-{n}", target=f"203.0.113.{n}"))

    threads = [threading.Thread(target=block, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [flags(answers[n]) for n in range(3)] == [BLOCKED] * 3
    found = denied(ec2, acl)
    assert sorted(source for _, source, *_ in found) == [f"203.0.113.{n}/32" for n in range(3)]
    assert [number for number, *_ in found] == [1, 2, 3]
    for n in range(3):
        assert flags(containers[0].invoke(request(group, "allow-ip", target=f"203.0.113.{n}"))) == LIFTED
    assert denied(ec2, acl) == []


def test_a_target_inside_the_vpc_is_protected(
    ec2: Any, group: str, start_containment: Callable[..., local.Function]
) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")
    ec2.associate_vpc_cidr_block(VpcId=vpc, CidrBlock="10.77.0.0/16")
    inside = block_list(ec2, name="other", vpc=vpc)
    containment = start_containment(ALLOW_PRIVATE_TARGETS="true")
    for target in ("10.9.1.7", "10.77.0.0/24"):
        answer = containment.invoke(request(inside, target=target))
        assert (answer["status"], answer["details"]["error"]["code"]) == ("blocked", "protected_target")
        assert vpc in answer["details"]["error"]["message"]
    assert ingress(ec2, inside) == []
    assert flags(containment.invoke(request(inside, target="10.10.1.7"))) == BLOCKED


def test_enforcement_that_fails_for_good_leaves_nothing(
    aws: local.StandIn, ec2: Any, group: str, acl: str, containment: local.Function
) -> None:
    fault = {"service": "ec2", "operation": "CreateNetworkAclEntry", "code": "UnauthorizedOperation", "status": 403}
    aws.fail({**fault, "times": 9})
    answer = containment.invoke(request(group))
    assert flags(answer) == ("failed", False, False, False)
    assert (answer["details"]["error"]["code"], answer["details"]["error"]["retryable"]) == ("access_denied", False)
    assert "ec2:CreateNetworkAclEntry" in answer["details"]["error"]["remedy"]
    assert (ingress(ec2, group), denied(ec2, acl)) == ([], [])


def test_without_enforcement_the_record_is_kept_and_lifted(
    aws: local.StandIn, ec2: Any, group: str, acl: str, start_containment: Callable[..., local.Function]
) -> None:
    enforcing, recording = start_containment(), start_containment(ENFORCEMENT="none")
    answer = recording.invoke(request(group))
    assert flags(answer) == ("succeeded", True, False, True)
    assert "ENFORCEMENT is none" in answer["summary"]
    assert denied(ec2, acl) == []
    # WHEN it was enforced before the setting changed
    assert flags(enforcing.invoke(request(group))) == BLOCKED
    assert flags(recording.invoke(request(group, "allow-ip"))) == LIFTED
    assert (ingress(ec2, group), denied(ec2, acl)) == ([], [])
    # WHEN network ACLs may not be read
    recording.invoke(request(group, request_id="again"))
    denial = {"service": "ec2", "operation": "DescribeNetworkAcls", "code": "UnauthorizedOperation", "status": 403}
    aws.fail({**denial, "times": 9})
    answer = recording.invoke(request(group, "allow-ip", request_id="lift again"))
    assert flags(answer) == ("succeeded", True, False, False)
    assert "may not be read" in answer["summary"]


def test_a_target_that_became_protected_can_still_be_lifted(
    ec2: Any, group: str, acl: str, start_containment: Callable[..., local.Function]
) -> None:
    start_containment().invoke(request(group))
    protecting = start_containment(PROTECTED_CIDRS="203.0.113.0/24")
    assert protecting.invoke(request(group))["details"]["error"]["code"] == "protected_target"
    assert flags(protecting.invoke(request(group, "allow-ip"))) == LIFTED
    assert denied(ec2, acl) == []


def test_a_deleted_group_is_not_found(ec2: Any, group: str, containment: local.Function) -> None:
    ec2.delete_security_group(GroupId=group)
    for name in ("block-ip", "allow-ip"):
        answer = containment.invoke(request(group, name))
        assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "group_not_found")
        assert "params.aws_security_group_id" in answer["details"]["error"]["remedy"]


def test_a_default_vpc_answers_a_revoke_with_unknown_permissions(
    aws: local.StandIn, group: str, containment: local.Function
) -> None:
    aws.settings(revoke_unknown=True)
    assert flags(containment.invoke(request(group, "allow-ip"))) == ("succeeded", False, False, True)


def test_a_group_without_room_for_the_rule(ec2: Any, group: str, containment: local.Function) -> None:
    sources = [{"CidrIp": f"198.51.100.{n}/32"} for n in range(60)]
    permission = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "IpRanges": sources}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[permission])
    answer = containment.invoke(request(group))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "rule_limit_reached")
    assert "ALLOW_IP" in answer["details"]["error"]["remedy"]


def test_the_deny_is_in_force_within_four_calls_and_the_result_within_eight(
    aws: local.StandIn, group: str, containment: local.Function
) -> None:
    # So slow that calls which are made side by side are seen to be.
    aws.settings(latency_ms=200)
    before = len(aws.calls())
    assert containment.invoke(local.as_sqs_event([message(request(group, "block-ip-expires"))])) == DONE
    calls = aws.calls()[before:]
    depth: list[int] = []
    for call in calls:
        earlier = (depth[i] for i, other in enumerate(calls[: len(depth)]) if other["ended"] < call["began"])
        depth.append(1 + max(earlier, default=0))
    at = {call["operation"]: deep for call, deep in zip(calls, depth, strict=True)}
    assert at["CreateNetworkAclEntry"] <= 4, at
    assert at["SendMessage"] <= 8, at


DONE = {"batchItemFailures": []}


def message(body: dict[str, Any]) -> dict[str, Any]:
    """A message as it is received, without a queue."""
    group = body["params"]["aws_security_group_id"]
    return {
        "MessageId": body["request_id"],
        "ReceiptHandle": "r",
        "Body": json.dumps(body),
        "MD5OfBody": "",
        "Attributes": {"MessageGroupId": group},
    }


# ---- the end of a block --------------------------------------------------------------------------------------------


def receive(aws: local.StandIn, queue: str, containment: local.Function) -> None:
    """The function gets what is in the actions queue."""
    messages = local.drain(aws.client("sqs"), queue)
    assert messages
    assert containment.invoke(local.as_sqs_event(messages)) == DONE


def test_a_block_ends_by_itself(
    aws: local.StandIn,
    ec2: Any,
    group: str,
    acl: str,
    containment: local.Function,
    actions_queue: str,
    results_queue: str,
) -> None:
    before = datetime.now(UTC)
    answer = containment.invoke(request(group, "block-ip-expires"))
    assert flags(answer) == BLOCKED
    end = datetime.fromisoformat(answer["details"]["expires_at"])
    assert before + timedelta(hours=1) <= end <= datetime.now(UTC) + timedelta(hours=1, seconds=1)
    (schedule,) = schedules(aws)
    assert schedule["ScheduleExpression"] == f"at({end:%Y-%m-%dT%H:%M:%S})"
    assert schedule["ActionAfterCompletion"] == "DELETE"
    assert schedule["Target"]["Arn"].endswith(":" + actions_queue.rpartition("/")[2])
    assert schedule["Target"]["RoleArn"].startswith(f"arn:aws:iam::{local.ACCOUNT}:role/aisoc-ExpirySchedulerRole-")
    (rule,) = ingress_rules(ec2, group)
    assert tags_of(rule)["aisoc:expires-at"] == answer["details"]["expires_at"]
    # The block is in the table before anything else is changed.
    changes = {"TransactWriteItems", "AuthorizeSecurityGroupIngress", "CreateSchedule", "CreateNetworkAclEntry"}
    first, *others = (call["operation"] for call in aws.calls() if call["operation"] in changes)
    assert first == "TransactWriteItems" and changes <= {first, *others}

    aws.fire(schedule["Name"], SCHEDULE_GROUP)
    (sent,) = local.drain(aws.client("sqs"), actions_queue)
    assert sent["Attributes"]["MessageGroupId"] == group
    # It is what events/ shows of it.
    expected = json.loads(local.event("allow-ip-expiry").replace(EVENT_GROUP, group))
    lift = json.loads(sent["Body"])
    assert lift.keys() == {*expected, "requested_by"}
    assert lift["only_if_expires_at"] == answer["details"]["expires_at"]
    for member in ("request_id", "capability", "target", "only_if_blocked_by"):
        assert lift[member] == (TARGET if member == "target" else expected[member])
    assert containment.invoke(local.as_sqs_event([sent])) == DONE
    assert flags(results(aws, results_queue)[-1]) == LIFTED
    assert (ingress(ec2, group), denied(ec2, acl), schedules(aws)) == ([], [], [])


def test_the_end_of_a_block_lifts_no_newer_one(
    aws: local.StandIn,
    ec2: Any,
    group: str,
    acl: str,
    containment: local.Function,
    actions_queue: str,
    results_queue: str,
) -> None:
    containment.invoke(request(group, "block-ip-expires", request_id="old"))
    (schedule,) = schedules(aws)
    aws.fire(schedule["Name"], SCHEDULE_GROUP)
    # WHEN a newer block, without an end, is made before that message is received
    assert flags(containment.invoke(request(group, request_id="new"))) == ("succeeded", False, True, True)
    results(aws, results_queue)
    receive(aws, actions_queue, containment)
    (answer,) = results(aws, results_queue)
    assert flags(answer) == ("succeeded", False, True, True)
    assert "renewed by request new" in answer["summary"]
    (rule,) = ingress_rules(ec2, group)
    assert (tags_of(rule)["aisoc:request-id"], tags_of(rule)["aisoc:expires-at"]) == ("new", "never")
    assert denied(ec2, acl) == [DENY]


def test_the_end_of_a_block_that_was_lifted_by_hand_does_nothing(
    aws: local.StandIn, ec2: Any, group: str, containment: local.Function, actions_queue: str, results_queue: str
) -> None:
    containment.invoke(request(group, "block-ip-expires"))
    (schedule,) = schedules(aws)
    aws.fire(schedule["Name"], SCHEDULE_GROUP)
    containment.invoke(request(group, "allow-ip"))
    results(aws, results_queue)
    receive(aws, actions_queue, containment)
    (answer,) = results(aws, results_queue)
    assert flags(answer) == ("succeeded", False, False, True)
    assert ingress(ec2, group) == []


def test_blocking_again_replaces_the_end_and_lifting_deletes_it(
    aws: local.StandIn, group: str, containment: local.Function
) -> None:
    def block(name: str, **params: Any) -> dict[str, Any]:
        return containment.invoke(request(group, request_id=name, params=params))

    block("r-1", expires_after_seconds=60)
    (first,) = schedules(aws)
    answer = block("r-2", expires_after_seconds=31536000)
    (second,) = schedules(aws)
    assert second["Name"] == first["Name"]
    assert second["ScheduleExpression"] == f"at({answer['details']['expires_at'].removesuffix('Z')})"
    assert json.loads(second["Target"]["Input"])["only_if_blocked_by"] == "r-2"
    block("r-3")
    assert schedules(aws) == []
    block("r-4", expires_after_seconds=60)
    containment.invoke(request(group, "allow-ip"))
    assert schedules(aws) == []


def test_a_block_that_nothing_could_end_is_refused(
    aws: local.StandIn, group: str, start_containment: Callable[..., local.Function]
) -> None:
    containment = start_containment(SCHEDULER_ROLE_ARN="")
    before = len(operations(aws, "ec2"))
    answer = containment.invoke(request(group, "block-ip-expires"))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "expiry_not_configured")
    assert "SCHEDULER_ROLE_ARN" in answer["details"]["error"]["remedy"]
    assert len(operations(aws, "ec2")) == before


@pytest.mark.parametrize("seconds", [0, -1, 59, 1.5, 10**12, 31536001, "3600", None, True])
def test_an_end_that_is_none(seconds: Any, group: str, containment: local.Function) -> None:
    answer = containment.invoke(request(group, params={"expires_after_seconds": seconds}))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "invalid_request")
    assert (
        "params.expires_after_seconds must be a whole number from 60 to 31536000"
        in answer["details"]["error"]["message"]
    )


@pytest.mark.parametrize(
    ("code", "status", "expected", "part"),
    [
        ("AccessDeniedException", 403, "access_denied", "iam:PassRole on SCHEDULER_ROLE_ARN"),
        ("ResourceNotFoundException", 404, "aws_rejected", "SCHEDULE_GROUP"),
    ],
)
def test_a_schedule_that_cannot_be_made_makes_no_block_without_end(
    code: str,
    status: int,
    expected: str,
    part: str,
    aws: local.StandIn,
    ec2: Any,
    group: str,
    acl: str,
    containment: local.Function,
) -> None:
    aws.fail({"service": "scheduler", "operation": "CreateSchedule", "code": code, "status": status})
    answer = containment.invoke(request(group, "block-ip-expires"))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", expected)
    assert part in answer["details"]["error"]["remedy"]
    assert (ingress(ec2, group), denied(ec2, acl)) == ([], [])


# ---- the audit -----------------------------------------------------------------------------------------------------


def test_a_list_that_has_become_attached_loses_its_rules_and_the_blocks_hold(
    aws: local.StandIn, ec2: Any, group: str, acl: str, containment: local.Function, results_queue: str
) -> None:
    containment.invoke(request(group))
    other = block_list(ec2, name="other")
    containment.invoke(request(other, target="203.0.113.99"))
    results(aws, results_queue)
    interface = attach(ec2, group)
    (rule,) = ingress_rules(ec2, group)
    report = containment.invoke(local.event("audit"))
    assert report["complete"] is True
    place = report["places"][0]
    assert (place["block_lists"], place["block_lists_in_use"], place["rules_revoked"]) == (2, 1, 1)
    assert (ingress(ec2, group), len(ingress(ec2, other))) == ([], 1)
    assert DENY in denied(ec2, acl)
    (result,) = results(aws, results_queue)
    assert (result["capability"], result["details"]["error"]["code"]) == ("audit", "group_in_use")
    assert flags(result) == ("failed", True, True, True)
    assert interface in result["details"]["error"]["message"]
    assert rule["SecurityGroupRuleId"] in result["details"]["error"]["message"]
    log = containment.log()
    assert '"BlockListsInUse":1' in log and '"RulesRevoked":1' in log
    assert '"level":"ERROR"' in log

    # The deny entries are the record now: ALLOW_IP lifts them, attached or not.
    assert flags(containment.invoke(request(group, "allow-ip"))) == LIFTED
    assert DENY not in denied(ec2, acl)


def test_the_end_of_a_block_after_an_audit_still_comes(
    aws: local.StandIn, ec2: Any, group: str, acl: str, containment: local.Function, actions_queue: str
) -> None:
    containment.invoke(request(group, "block-ip-expires"))
    attach(ec2, group)
    containment.invoke(local.event("audit"))
    (schedule,) = schedules(aws)
    aws.fire(schedule["Name"], SCHEDULE_GROUP)
    receive(aws, actions_queue, containment)
    assert denied(ec2, acl) == []


def test_an_audit_takes_any_ingress_rule_of_an_attached_list_and_none_of_another_group(
    ec2: Any, group: str, containment: local.Function
) -> None:
    stranger = block_list(ec2, tags={}, name="web")
    permissions = [
        {"IpProtocol": "icmp", "FromPort": -1, "ToPort": -1, "IpRanges": [{"CidrIp": "198.51.100.0/24"}]},
        {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "UserIdGroupPairs": [{"GroupId": stranger}]},
    ]
    for each in (group, stranger):
        ec2.authorize_security_group_ingress(GroupId=each, IpPermissions=permissions)
        attach(ec2, each)
    report = containment.invoke(local.event("audit"))
    assert report["places"][0]["rules_revoked"] == 2
    assert (len(ingress_rules(ec2, group)), len(ingress_rules(ec2, stranger))) == (0, 2)


def test_the_audit_goes_into_other_regions_and_accounts(
    aws: local.StandIn, start_containment: Callable[..., local.Function]
) -> None:
    ireland = aws.client("ec2", "eu-west-1")
    theirs = aws.client("ec2", credentials=aws.account(OTHER_ACCOUNT))
    groups = []
    role = f"arn:aws:iam::{OTHER_ACCOUNT}:role/aisoc-containment"
    containment = start_containment(TARGET_REGIONS="us-east-1,eu-west-1", TARGET_ROLE_ARNS=role)
    for ec2, region, params in [
        (ireland, "eu-west-1", {}),
        (theirs, "us-east-1", {"aws_assume_role_arn": role}),
    ]:
        group = block_list(ec2)
        groups.append((ec2, group))
        assert flags(containment.invoke(request(group, params={"aws_region": region, **params}))) == BLOCKED
        attach(ec2, group)
    report = containment.invoke(local.event("audit"))
    revoked = {(place["role_arn"], place["region"]): place["rules_revoked"] for place in report["places"]}
    assert revoked == {
        (None, "us-east-1"): 0,
        (None, "eu-west-1"): 1,
        (role, "us-east-1"): 1,
        (role, "eu-west-1"): 0,
    }
    assert [ingress(ec2, group) for ec2, group in groups] == [[], []]


def test_a_place_that_cannot_be_audited_stops_no_other_and_fails_the_audit(
    aws: local.StandIn, ec2: Any, group: str, start_containment: Callable[..., local.Function]
) -> None:
    role = f"arn:aws:iam::{OTHER_ACCOUNT}:role/aisoc-containment"
    containment = start_containment(TARGET_ROLE_ARNS=role)
    containment.invoke(request(group))
    attach(ec2, group)
    aws.settings(roles_must_exist=True)
    with pytest.raises(local.FunctionError) as failure:
        containment.invoke(local.event("audit"))
    assert failure.value.type == "AuditFailed"
    assert role in failure.value.message and "access_denied" in failure.value.message
    assert ingress(ec2, group) == []


def test_a_mode_that_is_not_known(containment: local.Function) -> None:
    with pytest.raises(local.FunctionError) as failure:
        containment.invoke(local.event("bad-mode"))
    assert (failure.value.type, failure.value.message) == ("InvalidInput", 'mode must be "audit" or "list_blocks"')


# ---- other accounts and keys ---------------------------------------------------------------------------------------


def test_another_account_is_blocked_in_and_nothing_of_ours_is_touched(
    aws: local.StandIn, ec2: Any, acl: str, containment: local.Function
) -> None:
    theirs = aws.client("ec2", credentials=aws.account(OTHER_ACCOUNT))
    group = block_list(theirs)
    event = json.loads(local.event("block-ip-cross-account").replace(EVENT_GROUP, group))
    event["params"]["expires_after_seconds"] = 3600
    before = len(aws.calls())
    assert flags(containment.invoke(event)) == BLOCKED
    assert (denied(theirs, default_acl(theirs)), denied(ec2, acl)) == ([DENY], [])
    calls = aws.calls()[before:]
    accounts = {call["service"]: call["account"] for call in calls if call["operation"] not in ("DescribeVpcs",)}
    assert {"scheduler": local.ACCOUNT, "sqs": local.ACCOUNT}.items() <= accounts.items()
    functions = [call for call in calls if call["service"] == "ec2" and call["operation"].startswith("Create")]
    assert {call["account"] for call in functions} == {OTHER_ACCOUNT}
    (schedule,) = schedules(aws)
    lift = json.loads(schedule["Target"]["Input"])
    assert lift["params"]["aws_assume_role_arn"] == event["params"]["aws_assume_role_arn"]
    assert flags(containment.invoke(lift)) == LIFTED


def test_the_external_id_is_given(aws: local.StandIn, start_containment: Callable[..., local.Function]) -> None:
    theirs = aws.account(OTHER_ACCOUNT)
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": "arn:aws:iam::123456789012:role/aisoc-containment-function"},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"sts:ExternalId": "secret-handshake"}},
            }
        ],
    }
    iam = aws.client("iam", credentials=theirs)
    iam.create_role(RoleName="aisoc-containment", AssumeRolePolicyDocument=json.dumps(trust))
    rights = (local.ROOT / "infra" / "policies" / "read-and-containment.json").read_text()
    iam.put_role_policy(RoleName="aisoc-containment", PolicyName="containment", PolicyDocument=rights)
    group = block_list(aws.client("ec2", credentials=theirs))
    event = local.event("block-ip-cross-account").replace(EVENT_GROUP, group)
    assert flags(start_containment(ASSUME_ROLE_EXTERNAL_ID="secret-handshake").invoke(event)) == BLOCKED
    answer = start_containment(ASSUME_ROLE_EXTERNAL_ID="another").invoke(event)
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "access_denied")
    assert (
        "sts:AssumeRole" in answer["details"]["error"]["remedy"]
        and "ASSUME_ROLE_EXTERNAL_ID" in answer["details"]["error"]["remedy"]
    )


@pytest.fixture
def secret(aws: local.StandIn) -> str:
    key = {"AccessKeyId": "AKIASTATICKEY", "SecretAccessKey": "very-secret"}
    return aws.client("secretsmanager").create_secret(Name="aisoc/key", SecretString=json.dumps(key))["ARN"]


def keys_by_service(aws: local.StandIn, before: int) -> dict[str, set[str]]:
    keys: dict[str, set[str]] = {}
    for call in aws.calls()[before:]:
        keys.setdefault(call["service"], set()).add(call["access_key"])
    return keys


def test_a_static_key_is_used_for_networks_and_for_nothing_of_our_own(
    aws: local.StandIn, ec2: Any, group: str, secret: str, start_containment: Callable[..., local.Function]
) -> None:
    containment = start_containment(STATIC_CREDENTIALS_SECRET_ARN=secret)
    before = len(aws.calls())
    for seconds in (60, 61):
        answer = containment.invoke(request(group, params={"expires_after_seconds": seconds}))
        assert answer["enforced"] is True
    assert keys_by_service(aws, before) == {
        "secretsmanager": {"standin"},
        "ec2": {"AKIASTATICKEY"},
        "dynamodb": {"standin"},
        "scheduler": {"standin"},
        "sqs": {"standin"},
    }
    # Read once, and told nowhere.
    assert operations(aws, "secretsmanager").count("GetSecretValue") == 1
    assert "very-secret" not in containment.log()


def test_a_static_key_assumes_roles(
    aws: local.StandIn, secret: str, start_containment: Callable[..., local.Function]
) -> None:
    theirs = aws.client("ec2", credentials=aws.account(OTHER_ACCOUNT))
    event = local.event("block-ip-cross-account").replace(EVENT_GROUP, block_list(theirs))
    containment = start_containment(STATIC_CREDENTIALS_SECRET_ARN=secret)
    before = len(aws.calls())
    assert flags(containment.invoke(event)) == BLOCKED
    assert keys_by_service(aws, before)["sts"] == {"AKIASTATICKEY"}


@pytest.mark.parametrize("content", ["", "very-secret", '{"AccessKeyId":"AKIASTATICKEY","Secret":"very-secret"}'])
def test_a_secret_that_holds_no_key(
    content: str, aws: local.StandIn, group: str, secret: str, start_containment: Callable[..., local.Function]
) -> None:
    aws.client("secretsmanager").put_secret_value(SecretId=secret, SecretString=content or "{}")
    containment = start_containment(STATIC_CREDENTIALS_SECRET_ARN=secret)
    answer = containment.invoke(request(group))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "access_denied")
    assert "STATIC_CREDENTIALS_SECRET_ARN" in answer["details"]["error"]["remedy"]
    assert "very-secret" not in json.dumps(answer) + containment.log()


def test_a_secret_that_may_not_be_read(
    aws: local.StandIn, group: str, secret: str, start_containment: Callable[..., local.Function]
) -> None:
    aws.fail({"service": "secretsmanager", "operation": "GetSecretValue", "code": "AccessDeniedException", "times": 9})
    answer = start_containment(STATIC_CREDENTIALS_SECRET_ARN=secret).invoke(request(group))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "access_denied")
    assert "secretsmanager:GetSecretValue" in answer["details"]["error"]["remedy"]


def test_the_poller_reads_security_hub_with_the_static_key(
    aws: local.StandIn, secret: str, start_poller: Callable[..., local.Function]
) -> None:
    aws.client("securityhub").enable_security_hub()
    poller = start_poller(STATIC_CREDENTIALS_SECRET_ARN=secret)
    before = len(aws.calls())
    assert poller.invoke({})["complete"] is True
    keys = keys_by_service(aws, before)
    assert keys["securityhub"] == {"AKIASTATICKEY"}
    assert keys["dynamodb"] == keys["secretsmanager"] == {"standin"}
    aws.fail({"service": "secretsmanager", "operation": "GetSecretValue", "code": "AccessDeniedException", "times": 9})
    answer = start_poller(STATIC_CREDENTIALS_SECRET_ARN=secret).invoke(local.event("poll-test-connection"))
    (region,) = answer["regions"]
    assert region["error"]["code"] == "access_denied"
    assert "secretsmanager:GetSecretValue" in region["error"]["remedy"]
