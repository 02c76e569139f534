"""The template, deployed: what its parameters refuse, what they make, and that what it speaks of exists."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from samcli.yamlhelper import yaml_dump, yaml_parse

import local
import sam_local
from conftest import PARAMETERS, PLAYBOOKS, default_vpc, ingress

TEMPLATE = yaml_parse(local.TEMPLATE.read_text())
LONG_ROLE = "arn:aws:iam::123456789012:role/team/aisoc+playbooks@soc"
TARGET_ROLE = "arn:aws:iam::111122223333:role/aisoc-containment"

# Of each parameter with a pattern: what it takes, and mistakes that it refuses.
EXAMPLES: dict[str, tuple[list[str], list[str]]] = {
    "SweepHours": (["0", "1", "6", "24", "699", "720"], ["", "-1", "06", "721", "6.5", "rate(6 hours)"]),
    "PollIntervalMinutes": (["5", "15", "480"], ["", "4", "481", "7.5", "five", "05", "5 minutes"]),
    "AuditIntervalMinutes": (["1", "5", "480"], ["", "0", "-5", "481", "2.5", "05", "rate(5 minutes)"]),
    "LookbackSeconds": (["0", "3600", "99999999"], ["", "100000000", "-1", "1h", "3600.5"]),
    "InitialLookbackSeconds": (["0", "604800"], ["", "-1", "7 days", "0.5"]),
    "StateTtlDays": (["91", "120", "36500"], ["", "90", "9", "36501", "120.5"]),
    "SecurityHubRegions": (
        ["", "us-east-1", "us-east-1,eu-west-1", "us-east-1, us-gov-west-1,ap-southeast-4"],
        ["Ireland", "us-east-1a", "us-east-1;eu-west-1", "us-east-1,,eu-west-1,x", "*"],
    ),
    "TargetRegions": (
        ["", "us-east-1", "us-east-1, cn-north-1,us-iso-east-1"],
        ["Ireland", "us-east-1,", "us-east-1 eu-west-1", "all"],
    ),
    "WorkflowStatuses": (
        ["NEW", "NEW,NOTIFIED", "NEW, NOTIFIED,RESOLVED,SUPPRESSED"],
        ["", "new", "NEW,", "CLOSED", "NEW;NOTIFIED", "ACTIVE"],
    ),
    "RecordStates": (["ACTIVE", "ACTIVE,ARCHIVED", "ARCHIVED"], ["", "active", "ACTIVE,", "NEW"]),
    "SeverityLabels": (["", "HIGH", "CRITICAL,HIGH", "CRITICAL, HIGH"], ["high", "HIGH,", "SEVERE", "HIGH;LOW"]),
    "ProductNames": (
        ["", "GuardDuty", "GuardDuty,Security Hub", ",".join(["Inspector"] * 20)],
        [",", "GuardDuty,", " ", ",".join(["Inspector"] * 21)],
    ),
    "AwsAccountIds": (
        ["", "111122223333", "111122223333, 444455556666"],
        ["1111-2222-3333", "11112222333", "111122223333,", ",".join(["111122223333"] * 21)],
    ),
    "NetworkAclRuleNumbers": (
        ["1-99", "100-32766", "5-5"],
        ["", "1", "0-99", "1-32767", "1..99", "01-99", "1-99999", "a-b"],
    ),
    "NetworkAclVpcArns": (
        [
            "",
            "arn:aws:ec2:us-east-1:123456789012:vpc/vpc-0123456789abcdef0",
            "arn:aws:ec2:us-east-1:123456789012:vpc/vpc-01234567, arn:aws:ec2:eu-west-1:123456789012:vpc/vpc-01234567",
        ],
        [
            "vpc-0123456789abcdef0",
            "arn:aws:ec2:*:123456789012:vpc/*",
            "arn:aws:ec2:us-east-1:123456789012:subnet/subnet-01234567",
        ],
    ),
    "ProtectedCidrs": (
        ["", "198.51.100.0/24", "203.0.113.7", "198.51.100.0/24, 2001:db8::/32", "::1"],
        [
            *["office", "198.51.100", "198.51.100.0/24;203.0.113.0/24", "198.51.100.0/", "abc/24"],
            *["198.51.100.256", "198.51.100.0/33", "2001:db8::/129"],
        ],
    ),
    "TargetRoleArns": (
        [
            "",
            ",".join([TARGET_ROLE] * 49),  # as many as the descriptions say
            "arn:aws:iam::111122223333:role/aisoc-containment,arn:aws:iam::444455556666:role/soc/containment",
        ],
        [
            *["*", "aisoc-containment", "arn:aws:iam::*:role/aisoc-containment", "arn:aws:iam::111122223333:role/*"],
            *["arn:aws:iam::111122223333:user/ana", "arn:aws:sts::111122223333:assumed-role/a/b", f"{TARGET_ROLE},"],
            *[f"{TARGET_ROLE}, {TARGET_ROLE}", f"{TARGET_ROLE};{TARGET_ROLE}", ",".join([TARGET_ROLE] * 50)],
        ],
    ),
    "AssumeRoleExternalId": (["", "secret-handshake", "a:b/c=d@e"], ["x", "two words", "semi;colon"]),
    "PermissionsBoundaryArn": (
        ["", "arn:aws:iam::aws:policy/PowerUserAccess", "arn:aws:iam::123456789012:policy/team/boundary"],
        ["boundary", "arn:aws:iam::123456789012:role/boundary", "arn:aws:iam::123456789012:policy/*"],
    ),
    "PlaybookPrincipalArn": (
        ["", LONG_ROLE, "arn:aws-us-gov:iam::123456789012:user/ana"],
        ["*", "123456789012", "arn:aws:iam::123456789012:root", "arn:aws:iam::123456789012:role/*", "playbooks"],
    ),
    "VpcId": (
        ["", "vpc-0123456789abcdef0", "vpc-01234567"],
        ["vpc", "vpc-0123", "subnet-01234567", "vpc-0123456789ABCDEF0"],
    ),
    "KmsKeyArn": (
        [
            "",
            "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555",
            "arn:aws:kms:us-east-1:123456789012:key/mrk-0123456789abcdef0123456789abcdef",
        ],
        ["alias/aws/sqs", "arn:aws:kms:us-east-1:123456789012:alias/soc", "11111111-2222-3333-4444-555555555555"],
    ),
    "StaticCredentialsSecretArn": (
        ["", "arn:aws:secretsmanager:us-east-1:123456789012:secret:aisoc/key-AbCdEf"],
        ["aisoc/key", "AKIAIOSFODNN7EXAMPLE", "arn:aws:secretsmanager:us-east-1:123456789012:secret:key"],
    ),
    "AlarmTopicArn": (
        ["", "arn:aws:sns:us-east-1:123456789012:soc-alarms"],
        ["soc-alarms", "ana@example.com", "arn:aws:sns:us-east-1:123456789012:soc.fifo"],
    ),
    "PollerReservedConcurrency": (["", "2", "10", "999"], ["0", "1", "-1", "many", "1000"]),
    "ContainmentReservedConcurrency": (["", "2", "10"], ["0", "1", "2.5"]),
}
# Of each parameter with values or bounds of its own.
BOUNDS: dict[str, tuple[list[str], list[str]]] = {
    "Enforcement": (["network-acl", "none"], ["", "waf", "None"]),
    "EnableContainment": (["true", "false"], ["", "yes", "True"]),
    "EnableWriteBack": (["true", "false"], ["", "yes", "True"]),
    "AllowPrivateTargets": (["true", "false"], ["", "1"]),
    "StateTableDeletionProtection": (["true", "false"], ["", "on"]),
    "Architecture": (["x86_64", "arm64"], ["", "amd64"]),
    "LogRetentionDays": (["1", "3653"], ["0", "2", "forever"]),
}


def refused(aws: local.StandIn, name: str, value: str) -> str | None:
    """Why a value is refused; a stack with it is made otherwise."""
    try:
        aws.deploy("aisoc", **{name: value})
    except ClientError as error:
        assert error.response["Error"]["Code"] == "ValidationError"
        return error.response["Error"]["Message"]
    return None


def test_every_parameter_has_examples() -> None:
    parameters = TEMPLATE["Parameters"]
    assert set(EXAMPLES) == {name for name, rules in parameters.items() if "AllowedPattern" in rules}
    assert set(BOUNDS) == set(parameters) - set(EXAMPLES)


@pytest.mark.parametrize("name", [*EXAMPLES, *BOUNDS])
def test_a_parameter_takes_what_is_right_and_refuses_the_obvious_mistakes(name: str, aws: local.StandIn) -> None:
    right, wrong = {**EXAMPLES, **BOUNDS}[name]
    for value in right:
        aws.reset()
        assert refused(aws, name, value) is None, value
    for value in wrong:
        aws.reset()
        message = refused(aws, name, value)
        assert message, f"{value!r} is taken"
        expected = TEMPLATE["Parameters"][name].get("ConstraintDescription", "")
        assert f"Parameter {name} failed to satisfy constraint: {expected}" in message


def test_the_functions_start_with_what_the_parameters_take(
    aws: local.StandIn, start: Callable[..., local.Function]
) -> None:
    """The last of the good examples, all at once."""
    right = {name: next(v for v in reversed(values) if v) for name, (values, _) in {**EXAMPLES, **BOUNDS}.items()}
    # What the secret and the boundary name would have to exist; which VPC, EC2 knows.
    right.update(
        StaticCredentialsSecretArn="",
        PermissionsBoundaryArn="",
        VpcId=default_vpc(aws.client("ec2")),
        EnableContainment="true",
    )
    stack = aws.deploy(**right)
    aws.client("securityhub").enable_security_hub()
    answer = start("poller", **stack.environment("Poller")).invoke(local.event("poll-test-connection"))
    assert [region["region"] for region in answer["regions"]] == ["us-east-1", "us-gov-west-1", "ap-southeast-4"]
    answer = start("containment", **stack.environment("Containment")).invoke({"request_id": "r"})
    assert (answer["status"], answer["details"]["error"]["code"]) == ("failed", "invalid_request")


def test_a_stack_with_nothing_but_defaults(aws: local.StandIn, start: Callable[..., local.Function]) -> None:
    stack = aws.deploy()
    aws.client("securityhub").enable_security_hub()
    assert start("poller", **stack.environment("Poller")).invoke({})["complete"] is True
    assert start("containment", **stack.environment("Containment")).invoke({"mode": "audit"})["complete"] is True
    for function in ("Poller", "Containment"):  # a new account cannot reserve concurrency
        concurrency = aws.client("lambda").get_function_concurrency(FunctionName=stack.resources[function])
        assert "ReservedConcurrentExecutions" not in concurrency
    # Two stacks can stand side by side.
    other = aws.deploy("aisoc-2")
    assert set(other.outputs.values()).isdisjoint(stack.outputs.values())


@pytest.mark.parameters(EnableContainment="false", VpcId="vpc-0123456789abcdef0")
def test_a_read_only_deployment_has_no_containment(
    aws: local.StandIn, stack: local.Stack, poller: local.Function
) -> None:
    kinds = {name: resource["Type"] for name, resource in TEMPLATE["Resources"].items()}
    assert set(stack.outputs) == {
        "FindingsQueueUrl",
        "FindingsDeadLetterQueueUrl",
        "PollerDeadLetterQueueUrl",
        "PollerFunctionName",
        "StateTableName",
        "DashboardName",
    }
    assert len(aws.client("sqs").list_queues()["QueueUrls"]) == 3
    assert [f["FunctionName"] for f in aws.client("lambda").list_functions()["Functions"]] == [
        stack.resources["Poller"]
    ]
    assert "BlockList" not in stack.resources and "BlockList" in kinds
    iam = aws.client("iam")
    roles = [role["RoleName"] for role in iam.list_roles()["Roles"]]
    assert sorted(role.split("-")[1] for role in roles) == ["PollSchedulerRole", "PollerRole"]
    documents = [
        iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        for role in roles
        for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
    ]
    assert re.findall(r"(?:ec2|scheduler|sts):\w+", json.dumps(documents)) == []
    assert "Containment" not in json.dumps(dashboard(aws, stack))
    aws.client("securityhub").enable_security_hub()
    assert poller.invoke({})["complete"] is True


def test_the_block_list_of_the_stack_can_be_blocked_on(
    aws: local.StandIn, ec2: Any, start: Callable[..., local.Function]
) -> None:
    stack = aws.deploy(**PARAMETERS, VpcId=default_vpc(ec2))
    group = stack.outputs["BlockListId"]
    (described,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert {"Key": "aisoc:containment", "Value": "blocklist"} in described["Tags"]
    # moto leaves egress rules out.
    (egress,) = TEMPLATE["Resources"]["BlockList"]["Properties"]["SecurityGroupEgress"]
    assert egress["CidrIp"] == "127.0.0.1/32"
    containment = start("containment", **stack.environment("Containment"))
    params = {"aws_security_group_id": group}
    request = {"request_id": "r", "capability": "block_ip", "target": "203.0.113.45", "params": params}
    assert containment.invoke(request)["enforced"] is True
    assert ingress(ec2, group) == [("203.0.113.45/32", "tcp", 0, 65535)]
    assert TEMPLATE["Resources"]["BlockList"]["DeletionPolicy"] == "RetainExceptOnCreate"


def test_the_blocks_outlive_the_stack(aws: local.StandIn, stack: local.Stack) -> None:
    made = TEMPLATE["Resources"]["BlocksTable"]
    assert (made["DeletionPolicy"], made["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")
    name = stack.outputs["BlocksTableName"]
    assert stack.environment("Containment")["BLOCKS_TABLE_NAME"] == name
    dynamodb = aws.client("dynamodb")
    table = dynamodb.describe_table(TableName=name)["Table"]
    assert table["KeySchema"] == [
        {"AttributeName": "pk", "KeyType": "HASH"},
        {"AttributeName": "sk", "KeyType": "RANGE"},
    ]
    assert {a["AttributeName"]: a["AttributeType"] for a in table["AttributeDefinitions"]} == {"pk": "S", "sk": "S"}
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    # moto leaves the time to live and the backups out.
    assert made["Properties"]["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert made["Properties"]["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    # Encrypted as the state table is.
    assert "SSESpecification" not in made["Properties"]
    assert "SSESpecification" not in TEMPLATE["Resources"]["StateTable"]["Properties"]


def test_the_longest_list_of_roles_fits_into_lambdas_environment(aws: local.StandIn) -> None:
    # GIVEN the longest name that a stack can have, and the longest list of roles
    name = "a" * 54
    stack = aws.deploy(name, **{**PARAMETERS, "TargetRoleArns": ",".join([TARGET_ROLE] * 49)})
    variables = stack.configuration("Containment")["Environment"]["Variables"]
    assert len(variables["TARGET_ROLE_ARNS"]) == TEMPLATE["Parameters"]["TargetRoleArns"]["MaxLength"] == 2400
    size = sum(len(key) + len(value) for key, value in variables.items())
    # THEN there is room for a secret's ARN, an external id, some regions and some protected CIDR blocks
    assert size < 4096 - 600


@pytest.mark.parameters(PermissionsBoundaryArn="arn:aws:iam::123456789012:policy/boundary")
def test_a_permissions_boundary_is_that_of_every_role(aws: local.StandIn, stack: local.Stack) -> None:
    iam = aws.client("iam")
    roles = [physical for name, physical in stack.resources.items() if name.endswith("Role")]
    assert len(roles) == 5
    for role in roles:
        boundary = iam.get_role(RoleName=role)["Role"]["PermissionsBoundary"]
        assert boundary["PermissionsBoundaryArn"] == "arn:aws:iam::123456789012:policy/boundary"


# ---- queues --------------------------------------------------------------------------------------------------------


def queues(aws: local.StandIn, stack: local.Stack) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, resource in TEMPLATE["Resources"].items():
        if resource["Type"] == "AWS::SQS::Queue":
            attributes = aws.client("sqs").get_queue_attributes(QueueUrl=stack.resources[name], AttributeNames=["All"])[
                "Attributes"
            ]
            yield name, attributes


KEY = EXAMPLES["KmsKeyArn"][0][1]


@pytest.mark.parametrize("key", ["", KEY])
def test_every_queue_is_encrypted_and_refuses_plain_http(key: str, aws: local.StandIn) -> None:
    stack = aws.deploy(**PARAMETERS, KmsKeyArn=key)
    found = list(queues(aws, stack))
    assert len(found) == 8
    for name, attributes in found:
        assert attributes.get("KmsMasterKeyId", "") == key, name
        assert key or attributes["SqsManagedSseEnabled"] == "true", name
        refusal = json.loads(attributes["Policy"])["Statement"][0]
        assert refusal == {
            "Sid": "RefusePlainHttp",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "sqs:*",
            "Resource": attributes["QueueArn"],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
        if "DeadLetter" in name:
            assert attributes["MessageRetentionPeriod"] == "1209600", name


def test_a_request_is_not_received_again_while_it_is_carried_out(aws: local.StandIn, stack: local.Stack) -> None:
    attributes = dict(queues(aws, stack))["ActionsQueue"]
    assert int(attributes["VisibilityTimeout"]) >= 6 * stack.configuration("Containment")["Timeout"]
    (mapping,) = aws.client("lambda").list_event_source_mappings()["EventSourceMappings"]
    assert mapping["EventSourceArn"] == attributes["QueueArn"]
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    redrive = json.loads(attributes["RedrivePolicy"])
    assert redrive["deadLetterTargetArn"] == dict(queues(aws, stack))["ActionsDeadLetterQueue"]["QueueArn"]
    # By its receive count a request that is retried waits 5, 10, 20, 40, 60, 60, ... seconds: 10 minutes or so in all.
    waits = [min(5 * 2**n, 60) for n in range(int(redrive["maxReceiveCount"]))]
    assert waits[:6] == [5, 10, 20, 40, 60, 60]
    assert 600 <= sum(waits) <= 660
    assert stack.environment("Containment")["ACTIONS_QUEUE_URL"] == stack.outputs["ActionsQueueUrl"]


# ---- schedules -----------------------------------------------------------------------------------------------------


@pytest.mark.parameters(PollIntervalMinutes="15")
def test_schedules_invoke_the_functions_with_what_they_take(
    aws: local.StandIn, stack: local.Stack, poller: local.Function, containment: local.Function
) -> None:
    aws.client("securityhub").enable_security_hub()
    scheduler = aws.client("scheduler")
    expected = {
        "aisoc-poll": ("rate(15 minutes)", "Poller", poller),
        "aisoc-audit": ("rate(5 minutes)", "Containment", containment),
    }
    listed = scheduler.list_schedules(GroupName="default")["Schedules"]
    assert sorted(schedule["Name"] for schedule in listed) == sorted(expected)
    for name, (expression, function, running) in expected.items():
        schedule = scheduler.get_schedule(Name=name)
        assert schedule["ScheduleExpression"] == expression
        target = schedule["Target"]
        assert target["Arn"].endswith(f":{stack.resources[function]}")
        assert target["RetryPolicy"] == {"MaximumRetryAttempts": 2, "MaximumEventAgeInSeconds": 300}
        assert (
            target["DeadLetterConfig"]["Arn"].split(":")[-1]
            == stack.resources[f"{function}DeadLetterQueue"].split("/")[-1]
        )
        assert running.invoke(target["Input"])["complete"] is True


# ---- alarms and dashboard ------------------------------------------------------------------------------------------


def dashboard(aws: local.StandIn, stack: local.Stack) -> dict[str, Any]:
    name = stack.outputs["DashboardName"]
    return json.loads(aws.client("cloudwatch").get_dashboard(DashboardName=name)["DashboardBody"])


def emitted() -> set[str]:
    """The names of all metrics that the functions emit."""
    sources = [
        local.ROOT / "crates" / "poller" / "src" / "metrics.rs",
        local.ROOT / "crates" / "containment" / "src" / "metrics.rs",
    ]
    code = "".join(path.read_text().partition("#[cfg(test)]")[0] for path in sources)
    names = set(re.findall(r'\(\s*"([A-Z]\w+)",\s*"(?:Count|Seconds)"', code)) | set(
        re.findall(r'count\("(\w+)"', code)
    )
    return names | set(re.findall(r'\("(\w+)", measured', code))


# Of AWS's own metrics: those that the template may speak of ("Available metrics" of the services in their guides).
OF_AWS = {
    "AWS/Lambda": {"Errors", "Throttles", "Invocations", "Duration"},
    "AWS/SQS": {"ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage"},
    "AWS/Scheduler": {"InvocationDroppedCount"},
}


def test_each_alarm_watches_a_metric_that_exists_and_tells_the_topic() -> None:
    known = {"AiSOC/SecurityHub": emitted(), **OF_AWS}
    alarms = {name: r for name, r in TEMPLATE["Resources"].items() if r["Type"] == "AWS::CloudWatch::Alarm"}
    dead_letters = set()
    for name, alarm in alarms.items():
        properties = alarm["Properties"]
        metric = properties
        if "Metrics" in properties:
            metric = next(m["MetricStat"]["Metric"] for m in properties["Metrics"] if "MetricStat" in m)
        assert metric["MetricName"] in known[metric["Namespace"]], name
        (dimension,) = metric["Dimensions"]
        assert (metric["Namespace"], dimension["Name"]) in {
            ("AiSOC/SecurityHub", "FunctionName"),
            ("AWS/Lambda", "FunctionName"),
            ("AWS/SQS", "QueueName"),
            ("AWS/Scheduler", "ScheduleGroup"),
        }, name
        subject = dimension["Value"].get("Ref") or dimension["Value"]["Fn::GetAtt"][0]
        if "DeadLetter" in subject:
            dead_letters.add(subject)
        # It stands and falls with what it watches.
        condition = "Sweeps" if name == "SweepAgeAlarm" else TEMPLATE["Resources"][subject].get("Condition")
        assert alarm.get("Condition") == condition, name
        for event in ("AlarmActions", "OKActions"):
            topic = [{"Ref": "AlarmTopicArn"}]
            assert properties[event] == {"Fn::If": ["HasAlarmTopic", topic, {"Ref": "AWS::NoValue"}]}, name
        # Whoever is woken is told what it means and what to look at.
        assert len(properties["AlarmDescription"]) > 60, name
    queues = {
        name for name, r in TEMPLATE["Resources"].items() if r["Type"] == "AWS::SQS::Queue" and "DeadLetter" in name
    }
    assert dead_letters == queues


@pytest.mark.parameters(
    PollIntervalMinutes="30", AuditIntervalMinutes="20", AlarmTopicArn="arn:aws:sns:us-east-1:123456789012:soc"
)
@pytest.mark.parametrize(
    ("name", "minutes", "parameter"),
    [
        ("NoPollAlarm", 30, "PollIntervalMinutes"),
        ("SweepAgeAlarm", 30, "PollIntervalMinutes"),
        ("NoAuditAlarm", 20, "AuditIntervalMinutes"),
    ],
)
def test_what_has_stopped_is_noticed_after_three_intervals(
    name: str, minutes: int, parameter: str, aws: local.StandIn, stack: local.Stack
) -> None:
    alarms = aws.client("cloudwatch").describe_alarms()["MetricAlarms"]
    (alarm,) = [alarm for alarm in alarms if alarm["AlarmName"].startswith(f"aisoc-{name}-")]
    # moto leaves the queries out.
    properties = TEMPLATE["Resources"][name]["Properties"]
    (metric,) = [m["MetricStat"] for m in properties["Metrics"] if "MetricStat" in m]
    assert metric["Period"] * alarm["EvaluationPeriods"] == 3 * minutes * 60
    # At the longest interval that is all that CloudWatch lets an alarm look back over.
    longest = EXAMPLES[parameter][0][-1]
    assert metric["Period"] * int(longest) <= 24 * 3600
    assert (alarm["DatapointsToAlarm"], alarm["TreatMissingData"]) == (alarm["EvaluationPeriods"], "breaching")
    assert all(alarm["AlarmActions"] == ["arn:aws:sns:us-east-1:123456789012:soc"] for alarm in alarms)


def test_a_sweep_is_late_after_two_intervals_and_some_polls(aws: local.StandIn) -> None:
    (late,) = [m for m in TEMPLATE["Resources"]["SweepAgeAlarm"]["Properties"]["Metrics"] if "Expression" in m]
    expression = late["Expression"]["Fn::Sub"]
    for parameter, default in (("SweepHours", "6"), ("PollIntervalMinutes", "5")):
        assert TEMPLATE["Parameters"][parameter]["Default"] == default
        expression = expression.replace(f"${{{parameter}}}", default)
    # What no poll reports counts as too old, and two intervals with the polls of a whole pass do not.
    assert expression == "IF(FILL(age, 1000000000) > 7200 * 6 + 180 * 5 + 3600, 1, 0)"
    assert late["ReturnData"] is True
    # Where nothing is swept there is no alarm.
    stack = aws.deploy("unswept", SweepHours="0")
    assert "SweepAgeAlarm" not in stack.resources
    assert "SweepAge" not in json.dumps([w for w in dashboard(aws, stack)["widgets"] if w["type"] == "alarm"])


def test_alarms_on_what_an_audit_found_stand_until_an_audit_finds_it_repaired() -> None:
    alarms = {
        "BlocksNotEnforcedAlarm": "BlocksNotEnforced",
        "BlocksOverdueAlarm": "BlocksOverdue",
        "BlockListAttachedAlarm": "BlockListsInUse",
        "BlockListsLostAlarm": "BlockListsLost",
    }
    for name, metric in alarms.items():
        properties = TEMPLATE["Resources"][name]["Properties"]
        assert properties["MetricName"] == metric
        # The last data decides, and periods without data between two audits change nothing.
        assert (properties["EvaluationPeriods"], properties["TreatMissingData"]) == (1, "ignore")
        assert (properties["Statistic"], properties["ComparisonOperator"]) == ("Maximum", "GreaterThanThreshold")
        assert properties["Threshold"] == 0
        assert "audit" in properties["AlarmDescription"]
    parked = TEMPLATE["Resources"]["EventsParkedAlarm"]["Properties"]
    assert (parked["EvaluationPeriods"], parked["TreatMissingData"], parked["Threshold"]) == (1, "ignore", 0)


def test_the_dashboard_shows_metrics_logs_and_alarms_that_exist(
    aws: local.StandIn, stack: local.Stack, containment: local.Function
) -> None:
    known = {"AiSOC/SecurityHub": emitted(), **OF_AWS}
    alarms = {alarm["AlarmArn"] for alarm in aws.client("cloudwatch").describe_alarms()["MetricAlarms"]}
    shown = set()
    widgets = dashboard(aws, stack)["widgets"]
    titles = [w["properties"]["markdown"] for w in widgets if w["type"] == "text"]
    assert titles == ["## Is it running?", "## How late is it?", "## What did it block?"]
    places = [(w["x"] + dx, w["y"] + dy) for w in widgets for dx in range(w["width"]) for dy in range(w["height"])]
    assert len(places) == len(set(places)), "widgets overlap"
    for widget in widgets:
        properties = widget["properties"]
        if widget["type"] == "alarm":
            shown |= set(properties["alarms"])
        if widget["type"] == "metric":
            for namespace, name in metrics_of(properties["metrics"]):
                assert name in known[namespace], properties["title"]
    assert shown == alarms
    # The fields that the table of results shows are those of the log.
    (table,) = [w["properties"]["query"] for w in widgets if w["type"] == "log"]
    assert f"SOURCE '{stack.resources['ContainmentLogs']}'" in table
    containment.invoke(json.loads(local.event("bad-target-private")))
    (line,) = [json.loads(line) for line in containment.log().splitlines() if '"result"' in line]
    assert set(re.findall(r"fields\.(\w+)", table)) <= set(line["fields"])
    assert (line["fields"]["capability"], line["fields"]["status"]) == ("block_ip", "blocked")


def metrics_of(rows: list[list[Any]]) -> Iterator[tuple[str, str]]:
    """Namespace and name of each row; "." repeats the row before, "..." all of it that is not given."""
    namespace, name = "", ""
    for row in rows:
        if isinstance(row[0], dict):
            namespace, _, rest = re.search(r"\{([\w/]+)(,[\w,]+)\} (.*)", row[0]["expression"]).groups()
            yield namespace, re.search(r'MetricName="(\w+)"', rest)[1]
            continue
        if row[0] != "...":
            namespace = namespace if row[0] == "." else row[0]
            name = row[1]
        yield namespace, name


# ---- deployment by the SAM CLI -------------------------------------------------------------------------------------


def test_the_sam_cli_packages_and_deploys_what_it_built(
    tmp_path: Path, aws: local.StandIn, start: Callable[..., local.Function]
) -> None:
    # GIVEN what `sam build` leaves: a folder for each function, and a template that names it
    template = yaml_parse(local.TEMPLATE.read_text())
    del template["Globals"]["Function"]["CodeUri"]
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            (tmp_path / name).mkdir()
            (tmp_path / name / "bootstrap").write_text(name)
            resource["Properties"]["CodeUri"] = name
    for document in ("LICENSE", "README.md"):
        (tmp_path / document).write_text((local.ROOT / document).read_text())
    (tmp_path / "template.yaml").write_text(yaml_dump(template))

    stack = sam_local.deploy(aws, tmp_path)
    aws.client("securityhub").enable_security_hub()
    assert start("poller", **stack.environment("Poller")).invoke({})["complete"] is True
    assert start("containment", **stack.environment("Containment")).invoke({"mode": "audit"})["complete"] is True
    hashes = {stack.configuration(name)["CodeSha256"] for name in ("Poller", "Containment")}
    assert len(hashes) == 2, "each function has its own code"


def test_functions_are_as_the_template_says(aws: local.StandIn, stack: local.Stack) -> None:
    poller = stack.configuration("Poller")
    assert (poller["Runtime"], poller["Handler"], poller["Timeout"]) == ("provided.al2023", "bootstrap", 240)
    table = aws.client("dynamodb").describe_table(TableName=stack.outputs["StateTableName"])["Table"]
    assert str(table["DeletionProtectionEnabled"]).lower() == "false"
    # moto leaves the time to live out.
    ttl = TEMPLATE["Resources"]["StateTable"]["Properties"]["TimeToLiveSpecification"]
    assert ttl == {"AttributeName": "expires_at", "Enabled": True}
    protected = aws.deploy("protected", StateTableDeletionProtection="true")
    table = aws.client("dynamodb").describe_table(TableName=protected.outputs["StateTableName"])["Table"]
    assert str(table["DeletionProtectionEnabled"]).lower() == "true"
    groups = {g["logGroupName"]: g for g in aws.client("logs").describe_log_groups()["logGroups"]}
    for name in ("PollerLogs", "ContainmentLogs"):
        assert groups[stack.resources[name]]["retentionInDays"] == 90
    for resource in TEMPLATE["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            assert "LogGroup" in resource["Properties"]["LoggingConfig"]
    shared = TEMPLATE["Globals"]["Function"]
    assert (shared["Tracing"], shared["LoggingConfig"]["LogFormat"]) == ("Active", "JSON")


def test_the_playbooks_of_another_account_are_let_in(aws: local.StandIn) -> None:
    theirs = "arn:aws:iam::444455556666:role/playbooks"
    stack = aws.deploy(**{**PARAMETERS, "PlaybookPrincipalArn": theirs})
    policies = {name: json.loads(attributes["Policy"])["Statement"] for name, attributes in queues(aws, stack)}
    allowed = {name: {s["Sid"] for s in p if s.get("Principal") == {"AWS": theirs}} for name, p in policies.items()}
    expected = {
        "ActionsQueue": {"PlaybooksSend"},
        "FindingsQueue": {"PlaybooksRead"},
        "ResultsQueue": {"PlaybooksRead"},
        **{f"{name}DeadLetterQueue": {"PlaybooksRedrive"} for name in ("Actions", "Findings", "Results")},
    }
    assert {name: sids for name, sids in allowed.items() if sids} == expected
    (deny,) = [s for s in policies["ActionsQueue"] if s["Sid"] == "OnlyPlaybooksAndEndsOfBlocksSend"]
    assert deny["Condition"]["ArnNotEquals"]["aws:PrincipalArn"][1:] == [theirs]
    assert PLAYBOOKS not in json.dumps(policies)
