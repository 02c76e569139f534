"""The containment binary against the stand-in."""

import json
from collections.abc import Callable
from typing import Any

import pytest

import local
from conftest import (
    EVENT_GROUP,
    OTHER_ACCOUNT,
    attach,
    block_list,
    default_acl,
    denied,
    ingress,
    ingress_rules,
    operations,
    results,
    tags_of,
)


@pytest.fixture
def event(group: str) -> Callable[[str], str]:
    """A file of events/, about the group of this test."""
    return lambda name: local.event(name).replace(EVENT_GROUP, group)


EVERYWHERE = pytest.mark.parameters(TargetRegions="us-east-1,eu-west-1")


def writes(aws: local.StandIn) -> list[str]:
    """Calls to EC2 by the function that change something."""
    setup = {"CreateSecurityGroup", "CreateNetworkInterface"}
    return [op for op in operations(aws, "ec2") if not op.startswith("Describe") and op not in setup]


def test_block_and_allow(
    aws: local.StandIn,
    ec2: Any,
    group: str,
    event: Callable[[str], str],
    containment: local.Function,
    results_queue: str,
) -> None:
    blocked = containment.invoke(event("block-ip"))
    assert blocked["status"] == "succeeded"
    assert (blocked["changed"], blocked["verified"], blocked["enforced"]) == (True, True, True)
    assert blocked["target"] == "203.0.113.45/32"
    assert ingress(ec2, group) == [("203.0.113.45/32", "tcp", 0, 65535)]
    acl = default_acl(ec2)
    assert denied(ec2, acl) == [(1, "203.0.113.45/32", "6", (0, 65535))]
    (rule,) = ingress_rules(ec2, group)
    assert rule["Description"] == (
        "aisoc block added by request_id=5f0c3a52-6b1e-4a6e-9a53-0a8a0c6c9a01 requested_by=ana@example.com "
        "expires_at=never; renewals in the tags"
    )
    assert tags_of(rule) == {
        "aisoc:request-id": "5f0c3a52-6b1e-4a6e-9a53-0a8a0c6c9a01",
        "aisoc:requested-by": "ana@example.com",
        "aisoc:expires-at": "never",
    }
    vpc = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["VpcId"]
    assert blocked["details"] == {
        "security_group_id": group,
        "security_group_rule_id": rule["SecurityGroupRuleId"],
        "vpc_id": vpc,
        "account_id": local.ACCOUNT,
        "region": "us-east-1",
        "network_acl_entries": [{"network_acl_id": acl, "rule_number": 1, "changed": True}],
        "expires_at": None,
    }

    allowed = containment.invoke(event("allow-ip"))
    assert (allowed["status"], allowed["changed"], allowed["verified"]) == ("succeeded", True, True)
    assert allowed["enforced"] is False
    assert allowed["details"]["network_acl_entries"] == [{"network_acl_id": acl, "rule_number": 1, "changed": True}]
    assert ingress(ec2, group) == []
    assert denied(ec2, acl) == []
    assert results(aws, results_queue) == [blocked, allowed]


def test_the_same_request_again_changes_nothing(
    aws: local.StandIn, event: Callable[[str], str], containment: local.Function
) -> None:
    for name in ("block-ip", "allow-ip"):
        first, again = containment.invoke(event(name)), containment.invoke(event(name))
        assert (first["status"], again["status"]) == ("succeeded", "succeeded")
        assert (first["changed"], again["changed"]) == (True, False)
        assert again["verified"] is True
    made, removed = writes(aws)[:2], writes(aws)[2:]
    assert sorted(made) == ["AuthorizeSecurityGroupIngress", "CreateNetworkAclEntry"]
    assert sorted(removed) == ["DeleteNetworkAclEntry", "RevokeSecurityGroupIngress"]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("block-ip-all-members", ("203.0.113.45/32", "tcp", 22, 22)),
        ("block-ip-ipv6", ("2001:db8:ffff::9/128", "tcp", 0, 65535)),
        ("block-ip-ipv4-mapped", ("203.0.113.45/32", "tcp", 0, 65535)),
        ("block-ip-cidr", ("198.51.100.0/24", "-1", -1, -1)),
    ],
)
def test_each_kind_of_target(
    name: str,
    rule: tuple[str, str, int, int],
    ec2: Any,
    group: str,
    event: Callable[[str], str],
    containment: local.Function,
) -> None:
    request = json.loads(event(name))
    answer = containment.invoke(request)
    assert (answer["verified"], answer["enforced"]) == (True, True)
    assert ingress(ec2, group) == [rule]
    source, protocol, *ports = rule
    deny = (1, source, {"tcp": "6"}.get(protocol, protocol), tuple(ports) if protocol == "tcp" else None)
    assert denied(ec2, default_acl(ec2)) == [deny]
    assert containment.invoke(request)["changed"] is False
    assert containment.invoke({**request, "capability": "allow_ip"})["changed"] is True
    assert ingress(ec2, group) == []
    assert denied(ec2, default_acl(ec2)) == []


def test_the_ipv6_block_of_the_events_is_lifted_by_their_allow(
    ec2: Any, group: str, event: Callable[[str], str], containment: local.Function
) -> None:
    containment.invoke(event("block-ip-ipv6"))
    assert containment.invoke(event("allow-ip-ipv6"))["changed"] is True
    assert ingress(ec2, group) == []


@EVERYWHERE
def test_another_region(aws: local.StandIn, containment: local.Function) -> None:
    ireland = aws.client("ec2", "eu-west-1")
    group = block_list(ireland)
    answer = containment.invoke(local.event("block-ip-other-region").replace(EVENT_GROUP, group))
    assert (answer["status"], answer["details"]["region"]) == ("succeeded", "eu-west-1")
    assert ingress(ireland, group) == [("203.0.113.45/32", "tcp", 0, 65535)]


@EVERYWHERE
def test_a_group_of_another_region_is_not_found(event: Callable[[str], str], containment: local.Function) -> None:
    answer = containment.invoke(event("block-ip-other-region"))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "group_not_found")
    assert "params.aws_region" in answer["details"]["error"]["remedy"]


def test_another_account_by_assuming_a_role_once(aws: local.StandIn, containment: local.Function) -> None:
    theirs = aws.client("ec2", credentials=aws.account(OTHER_ACCOUNT))
    group = block_list(theirs)
    before = operations(aws, "sts").count("AssumeRole")
    request = json.loads(local.event("block-ip-cross-account").replace(EVENT_GROUP, group))
    answer = containment.invoke(request)
    assert (answer["status"], answer["details"]["account_id"]) == ("succeeded", OTHER_ACCOUNT)
    assert ingress(theirs, group) == [("203.0.113.45/32", "tcp", 0, 65535)]
    assert containment.invoke({**request, "capability": "allow_ip"})["changed"] is True
    assert ingress(theirs, group) == []
    assert operations(aws, "sts").count("AssumeRole") - before == 1


def test_a_role_that_cannot_be_assumed(
    aws: local.StandIn, event: Callable[[str], str], containment: local.Function
) -> None:
    aws.fail({"service": "sts", "operation": "AssumeRole", "code": "AccessDenied", "status": 403, "times": 9})
    answer = containment.invoke(event("block-ip-cross-account"))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "access_denied")
    assert "sts:AssumeRole" in answer["details"]["error"]["remedy"]
    assert writes(aws) == []


def test_a_dry_run_reads_and_changes_nothing(
    ec2: Any, group: str, event: Callable[[str], str], containment: local.Function
) -> None:
    answer = containment.invoke(event("block-ip-dry-run"))
    assert (answer["status"], answer["changed"], answer["error"]) == ("simulated", False, None)
    acl = default_acl(ec2)
    assert answer["details"]["planned_steps"] == [
        f"authorize ingress tcp 0-65535 from 203.0.113.45/32 on {group}",
        f"add deny entry 1 to {acl}: tcp 0-65535 from 203.0.113.45/32",
    ]
    assert ingress(ec2, group) == []
    assert denied(ec2, acl) == []
    # WHEN it is there, a dry run of its end changes nothing either
    containment.invoke(event("block-ip"))
    answer = containment.invoke({**json.loads(event("allow-ip")), "dry_run": True})
    assert (answer["status"], answer["enforced"]) == ("simulated", True)
    assert sorted(step.split()[0] for step in answer["details"]["planned_steps"]) == ["remove", "revoke"]
    assert (len(ingress(ec2, group)), len(denied(ec2, acl))) == (1, 1)


def test_a_group_that_is_attached_gets_no_rule(
    aws: local.StandIn, ec2: Any, group: str, event: Callable[[str], str], containment: local.Function
) -> None:
    interface = attach(ec2, group)
    answer = containment.invoke(event("block-ip"))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("blocked", "group_in_use")
    assert interface in answer["details"]["error"]["message"]
    assert writes(aws) == []


@pytest.mark.parametrize("name", ["block-ip", "allow-ip"])
def test_a_group_that_is_not_enrolled_is_left_alone(
    name: str, aws: local.StandIn, ec2: Any, containment: local.Function
) -> None:
    group = block_list(ec2, tags={})
    answer = containment.invoke(local.event(name).replace(EVENT_GROUP, group))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("blocked", "group_not_enrolled")
    assert "aisoc:containment=blocklist" in answer["details"]["error"]["remedy"]
    assert writes(aws) == []


def test_a_default_group_gets_no_rule(aws: local.StandIn, ec2: Any, containment: local.Function) -> None:
    filters = [{"Name": "group-name", "Values": ["default"]}]
    default = ec2.describe_security_groups(Filters=filters)["SecurityGroups"][0]["GroupId"]
    ec2.create_tags(Resources=[default], Tags=[{"Key": "aisoc:containment", "Value": "blocklist"}])
    answer = containment.invoke(local.event("block-ip").replace(EVENT_GROUP, default))
    assert (answer["status"], answer["details"]["error"]["code"]) == ("blocked", "group_not_enrolled")
    assert writes(aws) == ["CreateTags"]


def test_a_check_that_cannot_be_made_changes_nothing(
    aws: local.StandIn, event: Callable[[str], str], containment: local.Function
) -> None:
    for operation in (
        "DescribeSecurityGroups",
        "DescribeSecurityGroupRules",
        "DescribeNetworkInterfaces",
        "DescribeNetworkAcls",
        "DescribeVpcs",
    ):
        # Once it could be a session that was revoked: it is tried again with new credentials.
        denial = {"service": "ec2", "operation": operation, "code": "UnauthorizedOperation", "status": 403}
        aws.fail({**denial, "times": 9})
        answer = containment.invoke(event("block-ip"))
        assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "access_denied")
        assert f"ec2:{operation}" in answer["details"]["error"]["remedy"]
        aws.fail({"service": "ec2", "operation": operation, "code": "RequestLimitExceeded", "status": 503, "times": 9})
        answer = containment.invoke(event("block-ip"))
        assert (answer["status"], answer["details"]["error"]["code"], answer["details"]["error"]["retryable"]) == (
            "failed",
            "throttled",
            True,
        )
        aws.fail()
    assert writes(aws) == []


@pytest.mark.parametrize(
    ("name", "code", "part"),
    [
        ("bad-null", "invalid_request", "the body must be a JSON object, not null"),
        ("bad-array", "invalid_request", "the body must be a JSON object, not an array"),
        ("bad-missing-target", "invalid_request", "target is missing"),
        ("bad-missing-request-id", "invalid_request", "request_id is missing"),
        ("bad-missing-group", "invalid_request", "params.aws_security_group_id is missing"),
        ("bad-unknown-member", "invalid_request", "params.aws_form_port is not known"),
        ("bad-capability", "invalid_request", 'capability must be "block_ip", "allow_ip", "update_alert_disposition"'),
        ("bad-capabilities-differ", "invalid_request", "capability and action must agree where both stand"),
        ("bad-vendor", "invalid_request", 'vendor_id must be "aws_security_hub" or "aws_security_groups", not "panos"'),
        ("bad-auth-config", "invalid_request", "auth_config must be null or {}: credentials do not travel"),
        ("bad-credentials-in-params", "invalid_request", "params.aws_secret_access_key must be left out: credentials"),
        ("bad-two-names", "invalid_request", "params.aws_protocol and params.protocol must agree"),
        ("bad-port-and-ports", "invalid_request", "params.port stands for params.aws_from_port"),
        ("bad-ports-reversed", "invalid_request", "params.aws_from_port must be no greater than params.aws_to_port"),
        (
            "bad-port-too-high",
            "invalid_request",
            "params.aws_to_port must be a whole number from 0 to 65535, not 65536",
        ),
        ("bad-protocol", "invalid_request", 'params.aws_protocol must be "tcp"'),
        ("bad-protocol-icmp", "invalid_request", 'to block ICMP use "-1"'),
        ("bad-target-address", "invalid_request", "target must be an IPv4 or IPv6 address"),
        ("bad-target-prefix", "invalid_request", "target must be a CIDR block with a prefix length from 0 to 32"),
        ("bad-target-host-name", "invalid_request", "host names are not looked up"),
        ("bad-target-host-bits", "invalid_request", "the network is 203.0.113.0/24"),
        ("bad-target-protected", "protected_target", "169.254.0.0/16 is link-local"),
        ("bad-target-private", "protected_target", "10.0.0.0/8 is private"),
        ("bad-target-too-wide", "protected_target", "wider than /24"),
        ("bad-role", "role_not_allowed", "is not in TARGET_ROLE_ARNS"),
        ("bad-expiry", "invalid_request", "params.expires_after_seconds must be a whole number from 60 to 31536000"),
        ("bad-target-zone", "invalid_request", "target must be an address without a zone id"),
        ("bad-target-everything", "protected_target", "wider than /24"),
        ("bad-network-acl-id", "invalid_request", "params.aws_network_acl_ids must be an array of 1 to 40"),
        ("bad-region", "region_not_allowed", "TARGET_REGIONS"),
        ("bad-target-nat64", "protected_target", "NAT64"),
        ("bad-allow-with-expiry", "invalid_request", "params.expires_after_seconds must be left out of an ALLOW_IP"),
        (
            "bad-allow-with-network-acls",
            "invalid_request",
            "params.aws_network_acl_ids must be left out of an ALLOW_IP",
        ),
        ("bad-text-too-long", "invalid_request", "rationale must be a string of at most 512 characters"),
        ("bad-block-bound-to-a-block", "invalid_request", "only_if_blocked_by must be left out of a BLOCK_IP"),
    ],
)
def test_a_bad_request_is_answered_with_what_to_change_and_calls_nothing(
    name: str,
    code: str,
    part: str,
    aws: local.StandIn,
    event: Callable[[str], str],
    containment: local.Function,
    results_queue: str,
) -> None:
    calls = len(operations(aws, "ec2"))
    answer = containment.invoke(event(name))
    status = "failed" if code == "invalid_request" else "blocked"
    assert (answer["status"], answer["changed"], answer["details"]["error"]["code"]) == (status, False, code)
    assert answer["error"] == answer["details"]["error"]["message"]
    assert part in answer["details"]["error"]["message"]
    assert answer["details"]["error"]["remedy"]
    assert answer["request_id"]
    assert results(aws, results_queue) == [answer]
    assert len(operations(aws, "ec2")) == calls


def test_messages_of_the_actions_queue(
    aws: local.StandIn,
    ec2: Any,
    group: str,
    event: Callable[[str], str],
    containment: local.Function,
    results_queue: str,
) -> None:
    assert containment.invoke(event("sqs-block-ip")) == {"batchItemFailures": []}
    assert ingress(ec2, group) == [("203.0.113.45/32", "tcp", 0, 65535)]
    assert containment.invoke(event("sqs-block-then-allow")) == {"batchItemFailures": []}
    assert ingress(ec2, group) == []
    answers = results(aws, results_queue)
    assert [(a["request_id"][:6], a["status"], a["changed"]) for a in answers] == [
        ("5f0c3a", "succeeded", True),
        ("first", "succeeded", False),
        ("second", "succeeded", True),
    ]


def test_a_bad_message_costs_no_other_and_is_answered_under_its_own_id(
    aws: local.StandIn,
    ec2: Any,
    group: str,
    event: Callable[[str], str],
    containment: local.Function,
    results_queue: str,
) -> None:
    assert containment.invoke(event("sqs-bad-not-json")) == {"batchItemFailures": []}
    assert containment.invoke(event("sqs-bad-among-good")) == {"batchItemFailures": []}
    not_json, null, good = results(aws, results_queue)
    assert (not_json["request_id"], not_json["status"]) == ("00000000-0000-4000-8000-000000000001", "failed")
    assert (null["request_id"], null["status"]) == ("00000000-0000-4000-8000-000000000001", "failed")
    assert (good["request_id"], good["status"]) == ("good", "succeeded")
    assert len(ingress(ec2, group)) == 1


def test_what_can_be_retried_goes_back_with_all_behind_it_in_its_group(
    aws: local.StandIn,
    ec2: Any,
    group: str,
    event: Callable[[str], str],
    containment: local.Function,
    results_queue: str,
) -> None:
    aws.fail(
        {
            "service": "ec2",
            "operation": "AuthorizeSecurityGroupIngress",
            "code": "RequestLimitExceeded",
            "status": 503,
            "times": 4,
        }
    )
    failed = containment.invoke(event("sqs-block-then-allow"))["batchItemFailures"]
    assert [failure["itemIdentifier"][-1] for failure in failed] == ["1", "2"]
    assert results(aws, results_queue) == []
    # WHEN the queue delivers them again
    assert containment.invoke(event("sqs-block-then-allow")) == {"batchItemFailures": []}
    assert [answer["changed"] for answer in results(aws, results_queue)] == [True, True]
    assert ingress(ec2, group) == []


def test_an_undecided_bare_request_says_that_it_can_be_retried(
    aws: local.StandIn, event: Callable[[str], str], containment: local.Function, results_queue: str
) -> None:
    aws.fail(
        {
            "service": "ec2",
            "operation": "AuthorizeSecurityGroupIngress",
            "code": "Unavailable",
            "status": 503,
            "times": 4,
        }
    )
    answer = containment.invoke(event("block-ip"))
    assert (answer["status"], answer["details"]["error"]["code"], answer["details"]["error"]["retryable"]) == (
        "failed",
        "unreachable",
        True,
    )
    assert results(aws, results_queue) == []


def test_a_full_group_is_a_failure_for_good(
    aws: local.StandIn, event: Callable[[str], str], containment: local.Function, results_queue: str
) -> None:
    aws.fail(
        {"service": "ec2", "operation": "AuthorizeSecurityGroupIngress", "code": "RulesPerSecurityGroupLimitExceeded"}
    )
    assert containment.invoke(event("sqs-block-ip")) == {"batchItemFailures": []}
    (answer,) = results(aws, results_queue)
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "rule_limit_reached")


def test_a_result_that_cannot_be_sent_hands_its_message_back(
    aws: local.StandIn, event: Callable[[str], str], containment: local.Function, results_queue: str
) -> None:
    aws.fail({"service": "sqs", "operation": "SendMessage", "code": "AccessDenied", "status": 403})
    failed = containment.invoke(event("sqs-block-ip"))["batchItemFailures"]
    assert len(failed) == 1
    assert containment.invoke(event("sqs-block-ip")) == {"batchItemFailures": []}
    assert [answer["status"] for answer in results(aws, results_queue)] == ["succeeded"]


def test_a_protected_block_of_the_settings(event: Callable[[str], str], containment: local.Function) -> None:
    answer = containment.invoke(event("block-ip").replace("203.0.113.45", "192.0.2.9"))
    assert answer["details"]["error"]["code"] == "protected_target"
    assert "PROTECTED_CIDRS" in answer["details"]["error"]["remedy"]


def test_without_a_results_queue_the_answer_stands_in_the_log(
    start: Callable[..., local.Function], stack: local.Stack, event: Callable[[str], str]
) -> None:
    containment = start("containment", BLOCKS_TABLE_NAME=stack.resources["BlocksTable"])
    assert containment.invoke(event("sqs-block-ip")) == {"batchItemFailures": []}
    assert '\\"status\\":\\"succeeded\\"' in containment.log()


def test_everything_wrong_with_the_environment_is_named_at_once(start: Callable[..., local.Function]) -> None:
    wrong = {"PROTECTED_CIDRS": "office", "TARGET_ROLE_ARNS": "admin", "TARGET_REGIONS": "x", "CONTAINMENT_TAG": "x"}
    containment = start("containment", BLOCKS_TABLE_NAME="a b", **wrong)
    with pytest.raises(local.FunctionError):
        containment.invoke({})
    for name in (*wrong, "BLOCKS_TABLE_NAME"):
        assert f"{name}: expected" in containment.log()
