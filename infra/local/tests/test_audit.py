"""What an audit finds and repairs, and what it says of it: once when it is found, and once when it is over. Real
binaries against the emulator."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import local
from conftest import (
    attach,
    block_list,
    blocks,
    default_acl,
    default_vpc,
    denied,
    entries,
    ingress,
    ingress_rules,
    let_blocks_age,
    put_entry,
    results,
    schedules,
    second_acl,
    table,
    tags_of,
)
from test_recovery import BLOCKED, DENY, LIFTED, TARGET, allow, block, flags

# Counts of a place where nothing is wrong and there is one block.
FINE = {
    "block_lists": 1,
    "block_lists_in_use": 0,
    "rules_revoked": 0,
    "blocks": 1,
    "blocks_not_enforced": 0,
    "blocks_restored": 0,
    "blocks_overdue": 0,
    "blocks_lifted": 0,
    "block_lists_lost": 0,
    "entries_without_block": 0,
}


@pytest.fixture
def acl(ec2: Any) -> str:
    return default_acl(ec2)


class Audits:
    """Audits of the function's own account, with the results that each sends."""

    def __init__(self, aws: local.StandIn, containment: local.Function, queue: str):
        self._aws, self._containment, self._queue = aws, containment, queue

    def __call__(self) -> tuple[dict[str, int], list[dict[str, Any]]]:
        """What differs from a place where nothing is wrong, and the results."""
        results(self._aws, self._queue)
        report = self._containment.invoke({"mode": "audit"})
        assert report["complete"] is True
        place = report["places"][0]
        assert (place["role_arn"], place["region"]) == (None, "us-east-1")
        told = results(self._aws, self._queue)
        assert {result["capability"] for result in told} <= {"audit"}
        return {name: place[name] for name, fine in FINE.items() if place[name] != fine}, told

    def assert_silent(self, **left: int) -> None:
        before = len(self._aws.calls())
        assert self() == (left, [])
        changes = ("Create", "Delete", "Authorize", "Revoke", "Put")
        # What cannot be repaired is tried again, under the list's lease.
        changes = changes if "blocks_not_enforced" in left else (*changes, "Transact")
        changed = [call["operation"] for call in self._aws.calls()[before:] if call["service"] != "sqs"]
        assert not [operation for operation in changed if operation.startswith(changes)]


@pytest.fixture
def audit(aws: local.StandIn, containment: local.Function, results_queue: str) -> Audits:
    return Audits(aws, containment, results_queue)


Behind = Callable[[Any, str, str], Any]


def _delete_entry(ec2: Any, acl: str, group: str) -> None:
    ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=1, Egress=False)


def _allow_before(ec2: Any, acl: str, group: str) -> None:
    _delete_entry(ec2, acl, group)
    put_entry(ec2, acl, 3, "203.0.113.0/24", action="allow")
    entry = {"Protocol": "6", "RuleAction": "deny", "CidrBlock": TARGET, "PortRange": {"From": 0, "To": 65535}}
    ec2.create_network_acl_entry(NetworkAclId=acl, RuleNumber=1, Egress=False, **entry)
    put_entry(ec2, acl, 2, "198.51.100.7/32", action="deny")
    ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=1, Egress=False)


def _new_acl(ec2: Any, acl: str, group: str) -> None:
    second_acl(ec2)


def _delete_rule(ec2: Any, acl: str, group: str) -> None:
    ids = [rule["SecurityGroupRuleId"] for rule in ingress_rules(ec2, group)]
    ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=ids)


@pytest.mark.parametrize("edit", [_delete_entry, _new_acl, _delete_rule], ids=["entry", "new ACL", "rule"])
def test_what_is_missing_of_a_block_is_restored_and_told_once(
    edit: Behind, ec2: Any, group: str, acl: str, containment: local.Function, audit: Audits
) -> None:
    assert flags(containment.invoke(block(group))) == BLOCKED
    audit.assert_silent()
    edit(ec2, acl, group)
    found, (told,) = audit()
    assert found == {"blocks_restored": 1}
    assert flags(told) == BLOCKED
    assert (told["target"], told["error"]) == (TARGET, None)
    assert "r-1" in told["summary"]
    acls = ec2.describe_network_acls(Filters=[{"Name": "vpc-id", "Values": [default_vpc(ec2)]}])["NetworkAcls"]
    for each in acls:
        assert denied(ec2, each["NetworkAclId"]) == [DENY]
    (rule,) = ingress_rules(ec2, group)
    assert tags_of(rule)["aisoc:request-id"] == "r-1"
    audit.assert_silent()
    assert flags(containment.invoke(allow(group))) == LIFTED


def test_an_allow_before_the_deny_gets_a_deny_before_it(
    ec2: Any, group: str, acl: str, start_containment: Any, aws: local.StandIn, results_queue: str
) -> None:
    put_entry(ec2, acl, 1, "198.51.100.7/32")
    containment = start_containment()
    assert containment.invoke(block(group))["enforced"] is True
    assert (2, *DENY[1:]) in denied(ec2, acl)
    ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=1, Egress=False)
    put_entry(ec2, acl, 1, "198.51.100.9/32", action="allow")
    # An allow at 1 that does not overlap harms nothing; one that does, and leaves no room, is told.
    audit = Audits(aws, containment, results_queue)
    audit.assert_silent()
    ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=1, Egress=False)
    put_entry(ec2, acl, 1, "203.0.113.0/24", action="allow")
    found, (told,) = audit()
    assert found == {"blocks_not_enforced": 1}
    assert (told["status"], told["details"]["error"]["code"]) == ("failed", "block_not_enforced")
    assert acl in told["details"]["error"]["message"]
    (listed,) = containment.invoke({"mode": "list_blocks"})["blocks"]
    assert listed["enforced"] is False
    audit.assert_silent(blocks_not_enforced=1)
    # WHEN the allow is gone
    ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=1, Egress=False)
    found, (over,) = audit()
    assert (over["status"], over["error"]) == ("succeeded", None)
    audit.assert_silent()
    (listed,) = containment.invoke({"mode": "list_blocks"})["blocks"]
    assert listed["enforced"] is True


def test_a_block_past_its_end_is_lifted(
    aws: local.StandIn, ec2: Any, group: str, acl: str, stack: local.Stack, containment: local.Function, audit: Audits
) -> None:
    containment.invoke(block(group, expires_after_seconds=3600))
    let_blocks_age(aws, stack, by=timedelta(minutes=61))
    # Its schedule has another minute.
    audit.assert_silent()
    let_blocks_age(aws, stack, by=timedelta(minutes=2))
    found, (told,) = audit()
    assert found.items() >= {"blocks_lifted": 1}.items() and found.get("blocks_overdue", 0) == 0
    assert (told["status"], told["changed"], told["enforced"]) == ("succeeded", True, False)
    assert (denied(ec2, acl), ingress(ec2, group), schedules(aws)) == ([], [], [])
    audit.assert_silent(blocks=0)
    assert containment.invoke({"mode": "list_blocks"}) == {"blocks": []}


def test_the_rules_come_back_when_a_list_is_detached(
    ec2: Any, group: str, acl: str, containment: local.Function, audit: Audits
) -> None:
    containment.invoke(block(group))
    interface = attach(ec2, group)
    found, (told,) = audit()
    assert found == {"block_lists_in_use": 1, "rules_revoked": 1}
    assert (told["status"], told["details"]["error"]["code"]) == ("failed", "group_in_use")
    audit.assert_silent(block_lists_in_use=1)
    ec2.delete_network_interface(NetworkInterfaceId=interface)
    found, told_over = audit()
    assert found == {"blocks_restored": 1}
    assert {result["status"] for result in told_over} == {"succeeded"}
    assert (len(ingress(ec2, group)), denied(ec2, acl)) == (1, [DENY])
    audit.assert_silent()


def test_a_list_that_gets_its_tag_back_is_over(
    ec2: Any, group: str, acl: str, containment: local.Function, audit: Audits
) -> None:
    containment.invoke(block(group))
    tag = {"Key": "aisoc:containment", "Value": "blocklist"}
    ec2.delete_tags(Resources=[group], Tags=[tag])
    # Its deny entries are kept in force.
    _delete_entry(ec2, acl, group)
    found, told = audit()
    assert found == {"block_lists": 0, "block_lists_lost": 1, "blocks_restored": 1}
    assert sorted((t["status"], t["details"].get("error", {}).get("code")) for t in told) == [
        ("failed", "block_list_lost"),
        ("succeeded", None),
    ]
    assert denied(ec2, acl) == [DENY]
    audit.assert_silent(block_lists=0, block_lists_lost=1)
    ec2.create_tags(Resources=[group], Tags=[tag])
    assert audit()[1][0]["status"] == "succeeded"
    audit.assert_silent()


def test_what_no_block_explains_is_counted_and_never_touched(
    ec2: Any, group: str, acl: str, containment: local.Function, audit: Audits
) -> None:
    put_entry(ec2, acl, 7, "198.51.100.7/32")
    put_entry(ec2, acl, 120, "198.51.100.8/32")  # beyond the function's numbers
    containment.invoke(block(group))
    before = entries(ec2, acl)
    audit.assert_silent(entries_without_block=1)
    assert entries(ec2, acl) == before


def test_without_enforcement_nothing_is_added(
    aws: local.StandIn, ec2: Any, group: str, acl: str, start_containment: Any, results_queue: str
) -> None:
    containment = start_containment(ENFORCEMENT="none")
    containment.invoke(block(group))
    Audits(aws, containment, results_queue).assert_silent()
    assert denied(ec2, acl) == []


def test_the_blocks_are_listed_from_the_table(
    aws: local.StandIn, ec2: Any, group: str, stack: local.Stack, containment: local.Function
) -> None:
    other = block_list(ec2, name="other")
    first = containment.invoke({**block(group, expires_after_seconds=3600), "requested_by": "ana", "case_id": "C-1"})
    containment.invoke({**block(other, "r-2", aws_protocol="-1"), "target": "2001:db8:ffff::/64"})
    before = len(aws.calls())
    listed = containment.invoke({"mode": "list_blocks"})["blocks"]
    assert {call["service"] for call in aws.calls()[before:]} == {"dynamodb"}
    common = {"account_id": local.ACCOUNT, "region": "us-east-1", "enforced": True}
    assert sorted(listed, key=lambda each: each["request_id"]) == [
        {
            **common,
            "target": TARGET,
            "protocol": "tcp",
            "from_port": 0,
            "to_port": 65535,
            "security_group_id": group,
            "request_id": "r-1",
            "requested_by": "ana",
            "case_id": "C-1",
            "expires_at": first["details"]["expires_at"],
        },
        {
            **common,
            "target": "2001:db8:ffff::/64",
            "protocol": "-1",
            "from_port": None,
            "to_port": None,
            "security_group_id": other,
            "request_id": "r-2",
            "requested_by": None,
            "case_id": None,
            "expires_at": None,
        },
    ]
    assert not [item for item in table(aws, stack) if item["pk"].startswith("lease#")]
    # What was lifted is remembered, and no block any more.
    containment.invoke(allow(group))
    assert [each["request_id"] for each in containment.invoke({"mode": "list_blocks"})["blocks"]] == ["r-2"]
    assert len(blocks(aws, stack)) == 2


def test_a_result_of_an_audit_that_cannot_be_sent_is_sent_by_the_next(
    aws: local.StandIn, ec2: Any, group: str, acl: str, containment: local.Function, results_queue: str
) -> None:
    containment.invoke(block(group))
    results(aws, results_queue)
    _delete_entry(ec2, acl, group)
    aws.fail({"service": "sqs", "operation": "SendMessage", "code": "AccessDenied", "status": 403, "times": 9})
    with pytest.raises(local.FunctionError) as failure:
        containment.invoke({"mode": "audit"})
    assert failure.value.type == "ResultNotSent"
    assert denied(ec2, acl) == [DENY]
    aws.fail()
    audit = Audits(aws, containment, results_queue)
    _, (told,) = audit()
    assert (told["status"], told["target"]) == ("succeeded", TARGET)
    audit.assert_silent()
