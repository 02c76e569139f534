"""Every call has its right, and every right its call.

The stand-in keeps to the policies of roles, users and queues: in every test that runs a function as deployed, a call
without a right fails. Here everything is done that the connector can do, and what was granted is compared with what was
used; and what each right is on is held against a table, for a right that is too wide fails nothing.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

import local
from conftest import (
    EVENT_GROUP,
    EXTERNAL_ID,
    OTHER_ACCOUNT,
    PARAMETERS,
    PLAYBOOKS,
    SCHEDULE_GROUP,
    actions,
    attach,
    block_list,
    create_role,
    default_vpc,
    deploy_target_role,
    own_findings,
    results,
    schedules,
)

POLICIES = local.ROOT / "infra" / "policies"
KEY = f"arn:aws:kms:{local.REGION}:{local.ACCOUNT}:key/11111111-2222-3333-4444-555555555555"
THEIR_ROLE = f"arn:aws:iam::{OTHER_ACCOUNT}:role/aisoc-containment"

LOGS = {("WriteLogs", "logs:CreateLogStream"), ("WriteLogs", "logs:PutLogEvents")}
TRACES = {("WriteTraces", "xray:PutTraceSegments"), ("WriteTraces", "xray:PutTelemetryRecords")}
# Rights that no call of the code uses: AWS's own services call with them, and the stand-in has no such service.
USED_BY_AWS: dict[str, set[tuple[str, str]]] = {
    # Lambda: logs and traces
    "PollerRole": LOGS | TRACES,
    "ContainmentRole": LOGS | TRACES,
    # EventBridge Scheduler: the invocation, and the event of one that could not be made
    "PollSchedulerRole": {("Invoke", "lambda:InvokeFunction"), ("KeepWhatCouldNotBeInvoked", "sqs:SendMessage")}
    | {("UseKeyOfQueues", "kms:Decrypt"), ("UseKeyOfQueues", "kms:GenerateDataKey")},
    "AuditSchedulerRole": {("Invoke", "lambda:InvokeFunction"), ("KeepWhatCouldNotBeInvoked", "sqs:SendMessage")}
    | {("UseKeyOfQueues", "kms:Decrypt"), ("UseKeyOfQueues", "kms:GenerateDataKey")},
}


def rights(policy: dict[str, Any]) -> set[tuple[str, str]]:
    return {(s["Sid"], action) for s in policy["Statement"] for action in actions(s)}


def granted(iam: Any, role: str) -> set[tuple[str, str]]:
    """What the policies of a role allow, as deployed."""
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    policies = [iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names]
    assert policies
    return set().union(*map(rights, policies))


def used(aws: local.StandIn, holder: str) -> set[tuple[str, str]]:
    return {(sid, action) for name, sid, action in aws.used_rights() if name == holder}


@pytest.fixture
def their_group(aws: local.StandIn) -> str:
    """A block list in another account."""
    return block_list(aws.client("ec2", credentials=aws.account(OTHER_ACCOUNT)))


class Connector:
    """The functions of a stack as deployed, with what runs them in AWS."""

    def __init__(self, aws: local.StandIn, stack: local.Stack, start: Callable[..., local.Function]):
        self.aws, self.stack = aws, stack
        self.poller = start("poller", **stack.environment("Poller"))
        self.containment = start("containment", **stack.environment("Containment"))
        self.queues = aws.client("sqs", credentials=aws.assume(stack.outputs["ContainmentRoleArn"]))

    def poll(self) -> None:
        for event in ({"mode": "incremental"}, json.loads(local.event("poll-backfill"))):
            assert self.poller.invoke(event)["complete"] is True

    def order(self, **members: Any) -> dict[str, Any]:
        """An order through the queues, sent as playbooks send and received as Lambda receives: with their roles."""
        body = json.dumps(members)
        playbooks = self.aws.client("sqs", credentials=self.aws.assume(PLAYBOOKS))
        group = members["params"].get("aws_security_group_id", "verdicts")
        playbooks.send_message(QueueUrl=self.stack.outputs["ActionsQueueUrl"], MessageBody=body, MessageGroupId=group)
        return self.receive()

    def receive(self) -> dict[str, Any]:
        """What Lambda does with the function's role, by three rights ("Using Lambda with Amazon SQS" in its guide)."""
        url = self.stack.outputs["ActionsQueueUrl"]
        self.queues.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
        event = local.as_sqs_event(local.drain(self.queues, url))
        assert self.containment.invoke(event) == {"batchItemFailures": []}
        (result,) = results(self.aws, self.stack.outputs["ResultsQueueUrl"])
        return result

    def do_everything(self, group: str, role: str | None = None) -> None:
        """All that can be done to one block list."""
        params = {"aws_security_group_id": group, **({"aws_assume_role_arn": role} if role else {})}
        block = {"capability": "block_ip", "target": "203.0.113.45", "params": {**params, "expires_after_seconds": 60}}
        allow = {"capability": "allow_ip", "target": "203.0.113.45", "params": params}
        # dry run, block, again with another end, again without; lift; block, and let it end
        for request_id, order in enumerate(
            [{**block, "dry_run": True}, block, block, {**block, "params": params}, allow, block]
        ):
            result = self.order(request_id=f"{group}-{request_id}", **order)
            assert result["status"] in ("succeeded", "simulated"), result
            assert result["verified"] or result["status"] == "simulated", result
        (schedule,) = schedules(self.aws, self.stack.resources["ExpirySchedules"])
        self.aws.fire(schedule["Name"], schedule["GroupName"])
        result = self.receive()
        assert (result["status"], result["changed"], result["verified"]) == ("succeeded", True, True)

    def write_verdicts(self) -> None:
        """Each verdict, on a finding of either format."""
        uid = json.loads(local.event("update-alert-disposition-v2"))["params"]["aws_metadata_uid"]
        self.aws.put_ocsf({"metadata": {"uid": uid}})
        for name in ("ack-alert", "update-alert-disposition", "update-alert-disposition-v2"):
            result = self.order(**json.loads(local.event(name)))
            assert (result["status"], result["verified"]) == ("succeeded", True), result

    def audit(self) -> None:
        report = self.containment.invoke({"mode": "audit"})
        assert report["complete"] is True
        results(self.aws, self.stack.outputs["ResultsQueueUrl"])
        assert self.containment.invoke({"mode": "list_blocks"})["blocks"]

    def retry(self, group: str) -> None:
        """A request that EC2 throttles once: it is received again after some seconds, and then carried out."""
        fault = {"service": "ec2", "operation": "AuthorizeSecurityGroupIngress", "code": "RequestLimitExceeded"}
        self.aws.fail({**fault, "status": 503, "times": 20})
        playbooks = self.aws.client("sqs", credentials=self.aws.assume(PLAYBOOKS))
        url, params = self.stack.outputs["ActionsQueueUrl"], {"aws_security_group_id": group}
        request = {"request_id": "retried", "capability": "block_ip", "target": "203.0.113.47", "params": params}
        playbooks.send_message(QueueUrl=url, MessageBody=json.dumps(request), MessageGroupId=group)
        (message,) = self.queues.receive_message(QueueUrl=url, AttributeNames=["All"])["Messages"]
        failures = self.containment.invoke(local.as_sqs_event([message]))["batchItemFailures"]
        assert [failure["itemIdentifier"] for failure in failures] == [message["MessageId"]]
        self.aws.fail()
        # Far sooner than after the queue's own visibility timeout of 6 minutes.
        (message,) = self.queues.receive_message(QueueUrl=url, AttributeNames=["All"], WaitTimeSeconds=10)["Messages"]
        assert self.containment.invoke(local.as_sqs_event([message])) == {"batchItemFailures": []}
        self.queues.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        (result,) = results(self.aws, self.stack.outputs["ResultsQueueUrl"])
        assert (result["request_id"], result["enforced"]) == ("retried", True)


# Of the user of a static key, for all that the connector can do
KEY_POLICIES = ("read-and-containment", "other-accounts", "write-back")


@pytest.fixture
def secret(aws: local.StandIn) -> str:
    """A secret with the key of a user who has the ready-made policies."""
    iam = aws.client("iam")
    iam.create_user(UserName="aisoc")
    for policy in KEY_POLICIES:
        document = (POLICIES / f"{policy}.json").read_text()
        iam.put_user_policy(UserName="aisoc", PolicyName=policy, PolicyDocument=document)
    key = iam.create_access_key(UserName="aisoc")["AccessKey"]
    content = json.dumps({name: key[name] for name in ("AccessKeyId", "SecretAccessKey")})
    return aws.client("secretsmanager").create_secret(Name="aisoc/key", SecretString=content)["ARN"]


EVERYTHING = {
    **PARAMETERS,
    "AssumeRoleExternalId": EXTERNAL_ID,
    "KmsKeyArn": KEY,
    "EnableWriteBack": "true",
}


def exercise(aws: local.StandIn, connector: Connector, their_group: str) -> None:
    ours, theirs = aws.client("ec2"), aws.client("ec2", credentials=aws.account(OTHER_ACCOUNT))
    group = block_list(ours, name=f"blocklist-{connector.stack.name}")
    aws.client("securityhub").enable_security_hub()
    aws.import_findings([path.read_text() for path in own_findings()])
    connector.poll()
    connector.poll()
    connector.do_everything(group)
    connector.do_everything(their_group, THEIR_ROLE)
    connector.retry(group)
    connector.write_verdicts()
    # A block list that becomes attached, in either account
    for ec2, each, role in ((ours, group, {}), (theirs, their_group, {"aws_assume_role_arn": THEIR_ROLE})):
        params = {"aws_security_group_id": each, **role}
        result = connector.order(request_id=each, capability="block_ip", target="203.0.113.46", params=params)
        assert result["enforced"] is True
        attach(ec2, each)
    connector.audit()


def test_with_the_roles_of_the_stack_every_call_has_its_right_and_every_right_its_call(
    aws: local.StandIn, start: Callable[..., local.Function], their_group: str
) -> None:
    playbooks(aws)
    stack = aws.deploy(**EVERYTHING)
    aws.settings(roles_must_exist=True)
    deploy_target_role(aws, stack.outputs["ContainmentRoleArn"])
    exercise(aws, Connector(aws, stack, start), their_group)

    iam = aws.client("iam")
    roles = {name: physical for name, physical in stack.resources.items() if name.endswith("Role")}
    assert set(USED_BY_AWS) < set(roles)
    for name, role in roles.items():
        by_code, by_aws = used(aws, role), USED_BY_AWS.get(name, set())
        assert by_code & by_aws == set(), name
        assert by_code | by_aws == granted(iam, role), name
    assert aws.doubly_allowed() == []
    theirs = aws.client("iam", credentials=aws.account(OTHER_ACCOUNT))
    assert used(aws, "aisoc-containment") == granted(theirs, "aisoc-containment")


def test_with_a_static_key_the_ready_made_policies_are_what_is_used(
    aws: local.StandIn, start: Callable[..., local.Function], secret: str, their_group: str
) -> None:
    playbooks(aws)
    stack = aws.deploy(**EVERYTHING, StaticCredentialsSecretArn=secret)
    aws.settings(roles_must_exist=True)
    deploy_target_role(aws, f"arn:aws:iam::{local.ACCOUNT}:user/aisoc")
    exercise(aws, Connector(aws, stack, start), their_group)

    files = [json.loads((POLICIES / f"{name}.json").read_text()) for name in KEY_POLICIES]
    assert used(aws, "aisoc") == set().union(*map(rights, files))
    assert aws.doubly_allowed() == []
    for name in ("PollerRole", "ContainmentRole"):
        with_role = used(aws, stack.resources[name])
        assert ("ReadStaticCredentials", "secretsmanager:GetSecretValue") in with_role
        services = {action.partition(":")[0] for _, action in with_role}
        assert services.isdisjoint({"securityhub", "ec2", "sts"}), "the key is for these"


def test_with_a_static_key_for_findings_alone_the_read_only_policy_is_enough(
    aws: local.StandIn, start: Callable[..., local.Function], secret: str
) -> None:
    iam = aws.client("iam")
    for policy in iam.list_user_policies(UserName="aisoc")["PolicyNames"]:
        iam.delete_user_policy(UserName="aisoc", PolicyName=policy)
    document = (POLICIES / "read-only.json").read_text()
    iam.put_user_policy(UserName="aisoc", PolicyName="read-only", PolicyDocument=document)
    stack = aws.deploy(EnableContainment="false", StaticCredentialsSecretArn=secret, InitialLookbackSeconds="0")
    aws.client("securityhub").enable_security_hub()
    assert start("poller", **stack.environment("Poller")).invoke({})["complete"] is True
    assert used(aws, "aisoc") == rights(json.loads(document))


OWN = f"arn:aws:ec2:*:{local.ACCOUNT}"
SCHEDULES = f"arn:aws:scheduler:us-east-1:{local.ACCOUNT}"
BY_SQS = {"StringEquals": {"kms:ViaService": "sqs.us-east-1.amazonaws.com"}}
TAGS_OF_RULES = {
    "ForAllValues:StringEquals": {"aws:TagKeys": ["aisoc:request-id", "aisoc:requested-by", "aisoc:expires-at"]},
    "Null": {"aws:TagKeys": "false"},
}


def test_each_right_is_on_what_it_is_for_and_on_nothing_else(aws: local.StandIn, secret: str) -> None:
    stack = aws.deploy(**EVERYTHING, StaticCredentialsSecretArn=secret)

    def of_queue(name: str) -> str:
        return f"arn:aws:sqs:us-east-1:{local.ACCOUNT}:{stack.resources[name].rpartition('/')[2]}"

    def of_log(name: str) -> str:
        return f"arn:aws:logs:us-east-1:{local.ACCOUNT}:log-group:{stack.resources[name]}"

    def of_function(name: str) -> str:
        return f"arn:aws:lambda:us-east-1:{local.ACCOUNT}:function:{stack.resources[name]}"

    key, read_secret = (KEY, BY_SQS), (secret, None)
    table, blocks = (
        f"arn:aws:dynamodb:us-east-1:{local.ACCOUNT}:table/{stack.resources[name]}"
        for name in ("StateTable", "BlocksTable")
    )
    ends = f"arn:aws:iam::{local.ACCOUNT}:role/{stack.resources['ExpirySchedulerRole']}"
    group = stack.resources["ExpirySchedules"]
    enrolled = {"StringEquals": {"aws:ResourceTag/aisoc:containment": "blocklist"}}
    everywhere = ("*", None)
    here: dict[str, Any] = {"aws:RequestedRegion": "us-east-1"}
    asff, ocsf = "securityhub:ASFFSyntaxPath/", "securityhub:OCSFSyntaxPath/"
    others = ("Confidence", "Criticality", "RelatedFindings", "Severity.Label", "Severity.Normalized")
    no_other_field = {f"{asff}{name}": "true" for name in (*others, "Severity.Product", "Types")}
    by_us = {f"{asff}Note.UpdatedBy": "aisoc"}
    closed = {f"{asff}Workflow.Status": "RESOLVED", f"{asff}VerificationState": ["FALSE_POSITIVE", "BENIGN_POSITIVE"]}
    marked = {f"{asff}Workflow.Status": ["NOTIFIED", "SUPPRESSED"]}
    expected: dict[str, dict[str, tuple[Any, Any]]] = {
        "PollerRole": {
            "ReadFindings": ("*", {"StringEquals": {"aws:RequestedRegion": "us-east-1"}}),
            "KeepState": (table, None),
            "SendEvents": (of_queue("FindingsQueue"), None),
            "WriteLogs": (of_log("PollerLogs"), None),
            "WriteTraces": everywhere,
            "UseKeyOfQueues": key,
            "ReadStaticCredentials": read_secret,
        },
        "PollSchedulerRole": {
            "Invoke": (of_function("Poller"), None),
            "KeepWhatCouldNotBeInvoked": (of_queue("PollerDeadLetterQueue"), None),
            "UseKeyOfQueues": key,
        },
        "AuditSchedulerRole": {
            "Invoke": (of_function("Containment"), None),
            "KeepWhatCouldNotBeInvoked": (of_queue("ContainmentDeadLetterQueue"), None),
            "UseKeyOfQueues": key,
        },
        "ExpirySchedulerRole": {"SendAllowIp": (of_queue("ActionsQueue"), None), "UseKeyOfQueues": key},
        "ContainmentRole": {
            "LookAtNetworks": everywhere,
            "ChangeBlockLists": (f"{OWN}:security-group/*", enrolled),
            "TagRulesOfBlockLists": (f"{OWN}:security-group-rule/*", TAGS_OF_RULES),
            "LiftDenyEntries": (f"{OWN}:network-acl/*", None),
            "AddDenyEntries": (f"{OWN}:network-acl/*", None),
            "ReadFindings": ("*", {"StringEquals": here}),
            "CloseFindings": ("*", {"StringEquals": {**here, **closed, **by_us}, "Null": no_other_field}),
            "MarkFindings": (
                "*",
                {
                    "StringEquals": {**here, **marked, **by_us},
                    "StringEqualsIfExists": {f"{asff}VerificationState": "TRUE_POSITIVE"},
                    "Null": no_other_field,
                },
            ),
            "ChangeFindingsOfV2": (
                "*",
                {
                    "StringEquals": {**here, f"{ocsf}StatusId": ["2", "3", "4"]},
                    "Null": {f"{ocsf}SeverityId": "true"},
                },
            ),
            "KeepBlocks": (blocks, None),
            "ScheduleTheEndOfBlocks": (f"{SCHEDULES}:schedule/{group}/*", None),
            "LetSchedulesSend": (ends, {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}}),
            "ReceiveActions": (of_queue("ActionsQueue"), None),
            "SendResults": (of_queue("ResultsQueue"), None),
            "WriteLogs": (of_log("ContainmentLogs"), None),
            "WriteTraces": everywhere,
            "UseKeyOfQueues": key,
            "ReachOtherAccounts": ([THEIR_ROLE], None),
            "ReadStaticCredentials": read_secret,
        },
    }
    iam = aws.client("iam")
    assert set(expected) == {name for name in stack.resources if name.endswith("Role")}
    for name, statements in expected.items():
        role = stack.resources[name]
        (policy_name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
        document = iam.get_role_policy(RoleName=role, PolicyName=policy_name)["PolicyDocument"]
        found = {s["Sid"]: (s["Resource"], s.get("Condition")) for s in document["Statement"]}
        assert {
            sid: (str(r).removesuffix(":*") if sid == "WriteLogs" else r, c) for sid, (r, c) in found.items()
        } == statements


def test_each_role_trusts_its_own_service_and_no_other(aws: local.StandIn, stack: local.Stack) -> None:
    groups = f"{SCHEDULES}:schedule-group"

    def scheduler(group: str) -> dict[str, Any]:
        source = {"aws:SourceAccount": local.ACCOUNT}
        return {"StringEquals": source, "ArnEquals": {"aws:SourceArn": f"{groups}/{group}"}}

    expected = {
        "PollerRole": ("lambda.amazonaws.com", None),
        "ContainmentRole": ("lambda.amazonaws.com", None),
        "PollSchedulerRole": ("scheduler.amazonaws.com", scheduler("default")),
        "AuditSchedulerRole": ("scheduler.amazonaws.com", scheduler("default")),
        "ExpirySchedulerRole": ("scheduler.amazonaws.com", scheduler(SCHEDULE_GROUP)),
    }
    iam = aws.client("iam")
    for name, (service, condition) in expected.items():
        document = iam.get_role(RoleName=stack.resources[name])["Role"]["AssumeRolePolicyDocument"]
        (statement,) = document["Statement"]
        assert statement["Action"] == "sts:AssumeRole"
        assert (statement["Principal"], statement.get("Condition")) == ({"Service": service}, condition), name
    # The schedules stand in the groups that the trust speaks of.
    listed = aws.client("scheduler").list_schedules()["Schedules"]
    assert {schedule["GroupName"] for schedule in listed} == {"default"}


def test_a_right_that_is_missing_is_noticed(
    aws: local.StandIn, stack: local.Stack, start: Callable[..., local.Function], group: str
) -> None:
    """The proof that the tests above can fail: without one action of its role the function is denied."""
    playbooks(aws)
    iam = aws.client("iam")
    role = stack.resources["ContainmentRole"]
    policy = iam.get_role_policy(RoleName=role, PolicyName="containment")["PolicyDocument"]
    connector = Connector(aws, stack, start)
    params = {"aws_security_group_id": group, "expires_after_seconds": 60}
    order = {"capability": "block_ip", "target": "203.0.113.45", "params": params}
    for missing in ("ec2:DescribeVpcs", "ec2:CreateTags", "ec2:CreateNetworkAclEntry", "iam:PassRole"):
        statements = [
            {**s, "Action": [action for action in actions(s) if action != missing]} for s in policy["Statement"]
        ]
        document = json.dumps({**policy, "Statement": [s for s in statements if s["Action"]]})
        iam.put_role_policy(RoleName=role, PolicyName="containment", PolicyDocument=document)
        result = connector.order(request_id=missing, **order)
        assert (result["status"], result["details"]["error"]["code"]) == ("failed", "access_denied"), missing
        assert missing in result["details"]["error"]["message"] + result["details"]["error"]["remedy"]


def test_a_group_without_the_tag_cannot_be_changed_whatever_the_code_does(
    aws: local.StandIn, stack: local.Stack, ec2: Any
) -> None:
    role = f"arn:aws:iam::{local.ACCOUNT}:role/{stack.resources['ContainmentRole']}"
    ours = aws.client("ec2", credentials=aws.assume(role))
    permission = {"IpProtocol": "tcp", "FromPort": 0, "ToPort": 65535, "IpRanges": [{"CidrIp": "203.0.113.45/32"}]}
    enrolled, other = block_list(ec2), block_list(ec2, tags={}, name="other")
    ours.authorize_security_group_ingress(GroupId=enrolled, IpPermissions=[permission])
    for change in (ours.authorize_security_group_ingress, ours.revoke_security_group_ingress):
        with pytest.raises(ClientError, match="UnauthorizedOperation"):
            change(GroupId=other, IpPermissions=[permission])
    # Nor can a rule get other tags than ours, nor a group any: it could enrol itself.
    (rule,) = ours.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [enrolled]}])[
        "SecurityGroupRules"
    ][:1]
    for resource, key in ((rule["SecurityGroupRuleId"], "owner"), (other, "aisoc:containment")):
        with pytest.raises(ClientError, match="UnauthorizedOperation"):
            ours.create_tags(Resources=[resource], Tags=[{"Key": key, "Value": "blocklist"}])


def playbooks(aws: local.StandIn) -> None:
    """The playbooks' role. For the queues it needs no policy of its own, only for their key."""
    create_role(aws, PLAYBOOKS, policy(["kms:Decrypt", "kms:GenerateDataKey"], KEY))


def policy(action: str | list[str], resource: str) -> str:
    """A policy document of one statement."""
    statement = {"Sid": "Test", "Effect": "Allow", "Action": action, "Resource": resource}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def test_where_vpcs_are_named_entries_are_added_there_alone_and_lifted_everywhere(
    aws: local.StandIn, ec2: Any, group: str, start: Callable[..., local.Function]
) -> None:
    vpc = f"arn:aws:ec2:us-east-1:{local.ACCOUNT}:vpc/{default_vpc(ec2)}"
    here, elsewhere = (
        aws.deploy(name, **{**PARAMETERS, "NetworkAclVpcArns": arn})
        for name, arn in (("here", vpc), ("elsewhere", vpc.replace("us-east-1", "eu-west-1")))
    )
    order = {"request_id": "r", "target": "203.0.113.45", "params": {"aws_security_group_id": group}}
    with_right, without = (start("containment", **s.environment("Containment")) for s in (here, elsewhere))
    answer = without.invoke({**order, "capability": "block_ip"})
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "access_denied")
    assert "ec2:CreateNetworkAclEntry" in answer["details"]["error"]["remedy"]
    assert with_right.invoke({**order, "capability": "block_ip"})["enforced"] is True
    answer = without.invoke({**order, "capability": "allow_ip"})
    assert (answer["status"], answer["changed"], answer["verified"]) == ("succeeded", True, True)


def test_only_playbooks_and_the_ends_of_blocks_send_actions(
    aws: local.StandIn, stack: local.Stack, containment: local.Function, group: str
) -> None:
    playbooks(aws)
    administrator = f"arn:aws:iam::{local.ACCOUNT}:role/administrator"
    create_role(aws, administrator, policy("sqs:*", "*"))
    url = stack.outputs["ActionsQueueUrl"]

    def send(role: str) -> None:
        sqs = aws.client("sqs", credentials=aws.assume(role))
        sqs.send_message(QueueUrl=url, MessageBody=local.event("allow-ip"), MessageGroupId="g")

    send(PLAYBOOKS)
    for stranger in (
        administrator,
        f"arn:aws:iam::{local.ACCOUNT}:role/{stack.resources['PollerRole']}",
        stack.outputs["ContainmentRoleArn"],
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            send(stranger)
    # Events and results are the playbooks' to read, and nobody's but the functions' to send.
    sqs = aws.client("sqs", credentials=aws.assume(PLAYBOOKS))
    theirs = aws.client("sqs", credentials=aws.assume(administrator))
    for name in ("FindingsQueueUrl", "ResultsQueueUrl"):
        local.drain(sqs, stack.outputs[name])
        with pytest.raises(ClientError, match="AccessDenied"):
            theirs.send_message(QueueUrl=stack.outputs[name], MessageBody="{}")
    # The schedule that ends a block gets through: `fire` sends with its role.
    request = json.loads(local.event("block-ip-expires").replace(EVENT_GROUP, group))
    assert containment.invoke(request)["status"] == "succeeded"
    (schedule,) = schedules(aws)
    aws.fire(schedule["Name"], SCHEDULE_GROUP)


@pytest.mark.parameters(PlaybookPrincipalArn="")
def test_where_no_principal_is_named_nobody_sends_actions(aws: local.StandIn, stack: local.Stack) -> None:
    playbooks(aws)
    iam = aws.client("iam")
    everything = policy("sqs:*", "*")
    iam.put_role_policy(RoleName=PLAYBOOKS.rpartition("/")[2], PolicyName="all", PolicyDocument=everything)
    sqs = aws.client("sqs", credentials=aws.assume(PLAYBOOKS))
    with pytest.raises(ClientError, match="AccessDenied"):
        sqs.send_message(
            QueueUrl=stack.outputs["ActionsQueueUrl"], MessageBody=local.event("allow-ip"), MessageGroupId="g"
        )


@pytest.mark.parametrize("path", sorted(POLICIES.glob("*.json")), ids=lambda path: path.stem)
def test_each_action_of_the_ready_made_policies_has_its_reason(path: Path) -> None:
    table = (POLICIES / "README.md").read_text()
    for _, action in rights(json.loads(path.read_text())):
        assert re.search(rf"^\| [^|]*`{action}`[^|]* \| .+ \| .+ \|$", table, re.MULTILINE), action


@pytest.mark.parameters(EnableWriteBack="true")
@pytest.mark.parametrize(
    ("name", "kind"), [("read-and-containment", "ec2:"), ("write-back", "securityhub:BatchUpdateFindings")]
)
def test_the_ready_made_policies_say_what_the_template_says(
    name: str, kind: str, aws: local.StandIn, stack: local.Stack
) -> None:
    """Action by action the same resources and conditions as the role of the stack has."""
    iam = aws.client("iam")
    role = stack.resources["ContainmentRole"]
    ours = iam.get_role_policy(RoleName=role, PolicyName="containment")["PolicyDocument"]

    def condition(statement: dict[str, Any]) -> str:
        found = {op: dict(keys) for op, keys in statement.get("Condition", {}).items()}
        # Of which regions it is, only the stack knows.
        found.get("StringEquals", {}).pop("aws:RequestedRegion", None)
        return json.dumps(found, sort_keys=True)

    def narrowed(policy: dict[str, Any]) -> set[tuple[str, str, str]]:
        return {
            (action, re.sub(r":\d{12}:", ":*:", str(s["Resource"])), condition(s))
            for s in policy["Statement"]
            for action in actions(s)
            if action.startswith(kind)
        }

    assert narrowed(json.loads((POLICIES / f"{name}.json").read_text())) == narrowed(ours) != set()
