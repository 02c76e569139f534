"""What the templates grant and set, held against what the code calls and reads."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from samcli.yamlhelper import yaml_parse

import local
from conftest import EXTERNAL_ID, OTHER_ACCOUNT, TARGET_ROLE, actions, deploy_target_role

CRATES = local.ROOT / "crates"
CONDITIONS = {"WritesBack", "WritesNetworkAcls", "HasTargetRoles", "HasKmsKey", "HasStaticCredentials"}


def statements(template: dict[str, Any], role: str, but: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """Of a role's policies; those under a condition of `but` are left out."""
    for policy in template["Resources"][role]["Properties"]["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            if "Fn::If" not in statement:
                yield statement
                continue
            condition, conditional, otherwise = statement["Fn::If"]
            assert condition in CONDITIONS and otherwise == {"Ref": "AWS::NoValue"}
            if condition not in but:
                yield conditional


def granted(template: dict[str, Any], role: str, service: str, but: frozenset[str] = frozenset()) -> set[str]:
    found = {action for statement in statements(template, role, but) for action in actions(statement)}
    return {action for action in found if action.startswith(f"{service}:")}


def code_of(path: str) -> str:
    """A source file without its tests."""
    return (CRATES / path).read_text().partition("#[cfg(test)]")[0]


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    return yaml_parse(local.TEMPLATE.read_text())


@pytest.fixture(scope="module")
def target_role() -> dict[str, Any]:
    return yaml_parse(TARGET_ROLE.read_text())


def test_networks_are_changed_with_exactly_the_rights_the_code_uses(
    stack: dict[str, Any], target_role: dict[str, Any]
) -> None:
    called = set(re.findall(r'"(ec2:\w+)"', code_of("containment/src/aws/ec2.rs")))
    assert len(called) == 10
    assert granted(stack, "ContainmentRole", "ec2") == called
    assert granted(target_role, "ContainmentTarget", "ec2") == called
    called = set(re.findall(r'"(scheduler:\w+)"', code_of("containment/src/aws/scheduler.rs")))
    assert granted(stack, "ContainmentRole", "scheduler") == called
    called = set(re.findall(r'"(securityhub:\w+)"', code_of("containment/src/aws/security_hub.rs")))
    assert granted(stack, "ContainmentRole", "securityhub") == called
    assert granted(stack, "ContainmentRole", "securityhub", but=frozenset({"WritesBack"})) == set()
    # Another account holds none of our queues, schedules and secrets.
    assert all(action.startswith("ec2:") for s in statements(target_role, "ContainmentTarget") for action in actions(s))


def test_without_enforcement_deny_entries_can_be_lifted_and_not_added(
    stack: dict[str, Any], target_role: dict[str, Any]
) -> None:
    for template, role in ((stack, "ContainmentRole"), (target_role, "ContainmentTarget")):
        assert template["Conditions"]["WritesNetworkAcls"] == {"Fn::Equals": [{"Ref": "Enforcement"}, "network-acl"]}
        rights = granted(template, role, "ec2", but=frozenset({"WritesNetworkAcls"}))
        assert "ec2:DeleteNetworkAclEntry" in rights
        assert "ec2:CreateNetworkAclEntry" not in rights


def test_every_change_of_a_network_is_narrowed(stack: dict[str, Any], target_role: dict[str, Any]) -> None:
    for template, role in ((stack, "ContainmentRole"), (target_role, "ContainmentTarget")):
        for statement in statements(template, role):
            writes = [a for a in actions(statement) if a.startswith("ec2:") and not a.startswith("ec2:Describe")]
            if not writes:
                continue
            resource = statement["Resource"]["Fn::Sub"]
            assert resource.startswith("arn:${AWS::Partition}:ec2:*:${AWS::AccountId}:"), statement["Sid"]
            condition = statement.get("Condition", {})
            if resource.endswith(":security-group/*"):
                assert condition == {"StringEquals": {"aws:ResourceTag/aisoc:containment": "blocklist"}}
            elif not resource.endswith(":network-acl/*"):
                assert resource.endswith(":security-group-rule/*")
                # Rules are taken away by what may be done to their groups alone.
                assert set(writes) == {"ec2:AuthorizeSecurityGroupIngress", "ec2:CreateTags"}
                keys = set(condition["ForAllValues:StringEquals"]["aws:TagKeys"])
                assert keys == set(re.findall(r'"(aisoc:[\w-]+)"', code_of("actions/src/block/tags.rs")))
                assert condition["Null"] == {"aws:TagKeys": "false"}


def test_every_setting_is_set(stack: dict[str, Any]) -> None:
    for function, crate, by_hand in [
        ("Poller", "poller", {"AWS_REGION", "PUSH_SETTLE_SECONDS"}),
        ("Containment", "containment", {"AWS_REGION", "CONTAINMENT_TAG"}),
    ]:
        read = set(
            re.findall(r'\.(?:required|optional|unrepeated|list)\(\s*"([A-Z_]+)"', code_of(f"{crate}/src/config.rs"))
        )
        variables = stack["Resources"][function]["Properties"]["Environment"]["Variables"]
        assert set(variables) == read - by_hand
    # Every parameter is explained and grouped.
    grouped = stack["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(name for group in grouped for name in group["Parameters"]) == sorted(stack["Parameters"])
    assert all(parameter["Description"] for parameter in stack["Parameters"].values())


def test_the_role_of_another_account_names_one_principal(target_role: dict[str, Any]) -> None:
    (statement,) = target_role["Resources"]["ContainmentTarget"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Principal": {"AWS": {"Ref": "ContainmentRoleArn"}},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"sts:ExternalId": {"Ref": "ExternalId"}}},
    }
    assert all("Default" not in target_role["Parameters"][name] for name in ("ContainmentRoleArn", "ExternalId"))


def test_the_audit_is_scheduled(stack: dict[str, Any]) -> None:
    audit = stack["Resources"]["Containment"]["Properties"]["Events"]["Audit"]["Properties"]
    assert audit["Input"] == '{"mode":"audit"}'
    assert audit["ScheduleExpression"] == {"Fn::Sub": "rate(${AuditIntervalMinutes} minutes)"}
    assert stack["Parameters"]["AuditIntervalMinutes"]["Default"] == "5"


def test_no_schedule_can_have_an_interval_below_a_minute(stack: dict[str, Any]) -> None:
    # A number of minutes, or an expression of EventBridge Scheduler, whose least unit is the minute.
    expressions = set()
    for resource in stack["Resources"].values():
        for event in resource.get("Properties", {}).get("Events", {}).values():
            if event["Type"] == "ScheduleV2":
                expressions.add(str(event["Properties"]["ScheduleExpression"]))
    named = {name for name in stack["Parameters"] if any(name in expression for expression in expressions)}
    assert len(named) == len(expressions)
    for name in named:
        pattern = stack["Parameters"][name]["AllowedPattern"]
        for wrong in ("", "0", "-1", "00", "0.5", "rate(0 minutes)", "rate(-1 minutes)", "rate(0 hours)"):
            assert not re.fullmatch(pattern, wrong), (name, wrong)


def test_every_role_can_have_a_permissions_boundary(stack: dict[str, Any], target_role: dict[str, Any]) -> None:
    boundary = {"Fn::If": ["HasPermissionsBoundary", {"Ref": "PermissionsBoundaryArn"}, {"Ref": "AWS::NoValue"}]}
    for template in (stack, target_role):
        roles = {n: r["Properties"] for n, r in template["Resources"].items() if r["Type"] == "AWS::IAM::Role"}
        assert roles
        assert {name: role["PermissionsBoundary"] for name, role in roles.items()} == dict.fromkeys(roles, boundary)
    rules = {"Default": "", "AllowedPattern": stack["Parameters"]["PermissionsBoundaryArn"]["AllowedPattern"]}
    assert rules.items() <= target_role["Parameters"]["PermissionsBoundaryArn"].items()


OURS = f"arn:aws:iam::{local.ACCOUNT}:role/aisoc-containment-function"


def test_the_role_of_another_account_trusts_the_function_alone(aws: local.StandIn) -> None:
    theirs = aws.account(OTHER_ACCOUNT)
    cloudformation = aws.client("cloudformation", credentials=theirs)
    deploy_target_role(aws, OURS)
    (made,) = cloudformation.describe_stacks(StackName="aisoc")["Stacks"]
    (output,) = made["Outputs"]
    assert output["OutputValue"] == f"arn:aws:iam::{OTHER_ACCOUNT}:role/aisoc-containment"

    def assume(**external_id: str) -> Any:
        sts = aws.client("sts")
        return sts.assume_role(RoleArn=output["OutputValue"], RoleSessionName="aisoc-containment", **external_id)

    aws.settings(roles_must_exist=True, caller_arn=OURS)
    assert assume(ExternalId=EXTERNAL_ID)["Credentials"]
    for external_id in ({}, {"ExternalId": "guess"}):
        with pytest.raises(ClientError, match="AccessDenied"):
            assume(**external_id)
    aws.settings(roles_must_exist=True, caller_arn=f"arn:aws:iam::{local.ACCOUNT}:role/somebody-else")
    with pytest.raises(ClientError, match="AccessDenied"):
        assume(ExternalId=EXTERNAL_ID)
