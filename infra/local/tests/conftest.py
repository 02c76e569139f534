"""What the integration tests share: one stand-in for AWS for all, empty before each test, and the real binaries."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import contract
import local

OTHER_ACCOUNT = "444455556666"
TARGET_ROLE = local.ROOT / "infra" / "target-account-role.yaml"
EXTERNAL_ID = "secret-handshake"
EVENT_GROUP = "sg-0123456789abcdef0"  # of the files in events/
SCHEDULE_GROUP = "aisoc-expiry"  # the stack's
PLAYBOOKS = f"arn:aws:iam::{local.ACCOUNT}:role/playbooks"
# The stack that the tests run on, where they ask for nothing else.
PARAMETERS = {
    "PlaybookPrincipalArn": PLAYBOOKS,
    "InitialLookbackSeconds": "0",
    "TargetRoleArns": f"arn:aws:iam::{OTHER_ACCOUNT}:role/aisoc-containment",
    "ProtectedCidrs": "192.0.2.0/28",
}


class StandIn(local.StandIn):
    """The emulator, whose messages are held against their schemas before they are forgotten, and which a test must have
    left without a request that AWS would refuse for its form: one that wants such a request takes it by `malformed`."""

    def reset(self) -> None:
        messages, malformed = self.messages(), self.malformed()
        super().reset()
        assert malformed == []
        contract.check_messages(messages)


class Function(local.Function):
    """A function, whose answers are held against their schemas."""

    def invoke(self, event: Any) -> Any:
        answer = super().invoke(event)
        contract.check_answer(self.name, answer)
        return answer


@pytest.fixture(scope="session")
def running_stand_in() -> Iterator[local.StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def aws(running_stand_in: local.StandIn) -> Iterator[local.StandIn]:
    running_stand_in.reset()
    yield running_stand_in
    running_stand_in.reset()


@pytest.fixture
def start(aws: local.StandIn) -> Iterator[Callable[..., local.Function]]:
    """Starts a function: `start("poller", NAME="value")`."""
    with ExitStack() as stack:

        def start(name: str, timeout: int = 60, **environment: str) -> local.Function:
            environment = {"AWS_ENDPOINT_URL": aws.url, **environment}
            return stack.enter_context(Function(local.binary(name), environment, timeout))

        yield start


@pytest.fixture
def stack(aws: local.StandIn, request: pytest.FixtureRequest) -> local.Stack:
    """The template, deployed; `@pytest.mark.parameters(Name="value")` adds parameters, or replaces them."""
    marker = request.node.get_closest_marker("parameters")
    return aws.deploy(**{**PARAMETERS, **(marker.kwargs if marker else {})})


@pytest.fixture
def findings_queue(stack: local.Stack) -> str:
    return stack.outputs["FindingsQueueUrl"]


@pytest.fixture
def results_queue(stack: local.Stack) -> str:
    return stack.outputs["ResultsQueueUrl"]


@pytest.fixture
def start_poller(stack: local.Stack, start: Callable[..., local.Function]) -> Callable[..., local.Function]:
    """Starts the poller as deployed; settings are added, or replaced."""
    return lambda timeout=60, **more: start("poller", timeout, **as_deployed(stack, "Poller", more))


@pytest.fixture
def poller(start_poller: Callable[..., local.Function]) -> local.Function:
    return start_poller()


@pytest.fixture
def ec2(aws: local.StandIn) -> Any:
    return aws.client("ec2")


@pytest.fixture
def group(ec2: Any) -> str:
    return block_list(ec2)


@pytest.fixture
def actions_queue(stack: local.Stack) -> str:
    return stack.outputs["ActionsQueueUrl"]


@pytest.fixture
def start_containment(stack: local.Stack, start: Callable[..., local.Function]) -> Callable[..., local.Function]:
    """Starts the containment function as deployed; settings are added, or replaced."""
    return lambda **more: start("containment", **as_deployed(stack, "Containment", more))


@pytest.fixture
def containment(start_containment: Callable[..., local.Function]) -> local.Function:
    return start_containment()


def as_deployed(stack: local.Stack, function: str, more: dict[str, str]) -> dict[str, str]:
    """The environment of a function. With the settings as deployed it has the rights as deployed; with others those
    rights would not fit, and it has the account's."""
    environment = stack.environment(function)
    return {**environment, **local.CREDENTIALS, **more} if more else environment


def asff_samples() -> list[Path]:
    """Findings from elsewhere, if folders of them are named by ASFF_SAMPLES, separated by colons."""
    folders = os.environ.get("ASFF_SAMPLES", "").split(os.pathsep)
    return sorted(path for folder in filter(None, folders) for path in Path(folder).glob("*.json"))


def own_findings() -> list[Path]:
    return sorted((local.LOCAL / "findings").glob("*.json"))


def operations(aws: local.StandIn, service: str) -> list[str]:
    """The operations of a service that were called, in order."""
    return [call["operation"] for call in aws.calls() if call["service"] == service]


def create_role(aws: local.StandIn, arn: str, rights: str) -> None:
    """A role of the functions' account that everybody may assume, with one policy."""
    iam, name = aws.client("iam"), arn.rpartition("/")[2]
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}]}
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
    iam.put_role_policy(RoleName=name, PolicyName="rights", PolicyDocument=rights)


def deploy_target_role(aws: local.StandIn, caller: str) -> None:
    """The stack with the role for containment, in the other account."""
    aws.client("cloudformation", credentials=aws.account(OTHER_ACCOUNT)).create_stack(
        StackName="aisoc",
        TemplateBody=TARGET_ROLE.read_text(),
        Parameters=[
            {"ParameterKey": "ContainmentRoleArn", "ParameterValue": caller},
            {"ParameterKey": "ExternalId", "ParameterValue": EXTERNAL_ID},
        ],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )


def actions(statement: dict[str, Any]) -> list[str]:
    """Of a policy's statement."""
    action = statement["Action"]
    return [action] if isinstance(action, str) else action


def default_vpc(ec2: Any) -> str:
    return ec2.describe_vpcs()["Vpcs"][0]["VpcId"]


def block_list(ec2: Any, tags: dict[str, str] | None = None, name: str = "blocklist", vpc: str | None = None) -> str:
    """A security group that is enrolled and attached to nothing."""
    vpc = vpc or default_vpc(ec2)
    tags = {"aisoc:containment": "blocklist"} if tags is None else tags
    specification = [{"ResourceType": "security-group", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}]
    group = ec2.create_security_group(
        GroupName=name,
        Description="block list",
        VpcId=vpc,
        **({"TagSpecifications": specification} if tags else {}),
    )
    return group["GroupId"]


def ingress(ec2: Any, group: str) -> list[tuple[str, str, int, int]]:
    """The group's ingress rules as (source, protocol, first port, last port)."""
    return sorted(
        (rule.get("CidrIpv4") or rule["CidrIpv6"], rule["IpProtocol"], rule.get("FromPort", -1), rule.get("ToPort", -1))
        for rule in ingress_rules(ec2, group)
    )


def default_acl(ec2: Any, vpc: str | None = None) -> str:
    filters = [{"Name": "vpc-id", "Values": [vpc or default_vpc(ec2)]}, {"Name": "default", "Values": ["true"]}]
    return ec2.describe_network_acls(Filters=filters)["NetworkAcls"][0]["NetworkAclId"]


def second_acl(ec2: Any) -> str:
    """Another network ACL of the default VPC, with one of its subnets, that lets all in."""
    vpc = default_vpc(ec2)
    acl = ec2.create_network_acl(VpcId=vpc)["NetworkAcl"]["NetworkAclId"]
    association = ec2.describe_network_acls(NetworkAclIds=[default_acl(ec2)])["NetworkAcls"][0]["Associations"][0]
    ec2.replace_network_acl_association(AssociationId=association["NetworkAclAssociationId"], NetworkAclId=acl)
    put_entry(ec2, acl, 100, "0.0.0.0/0", action="allow")
    return acl


def put_entry(ec2: Any, acl: str, number: int, source: str, action: str = "deny", protocol: str = "-1") -> None:
    """An entry of someone else's."""
    family = "Ipv6CidrBlock" if ":" in source else "CidrBlock"
    ec2.create_network_acl_entry(
        NetworkAclId=acl, RuleNumber=number, Protocol=protocol, RuleAction=action, Egress=False, **{family: source}
    )


def entries(ec2: Any, acl: str) -> list[dict[str, Any]]:
    """All entries, by number, inbound first."""
    described = ec2.describe_network_acls(NetworkAclIds=[acl])["NetworkAcls"][0]["Entries"]
    return sorted(described, key=lambda entry: (entry["Egress"], entry["RuleNumber"]))


def denied(ec2: Any, acl: str) -> list[tuple[int, str, str, tuple[int, int] | None]]:
    """The inbound deny entries before the final *, as (number, source, protocol, ports)."""
    return [
        (
            entry["RuleNumber"],
            entry.get("CidrBlock") or entry["Ipv6CidrBlock"],
            entry["Protocol"],
            (entry["PortRange"]["From"], entry["PortRange"]["To"]) if "PortRange" in entry else None,
        )
        for entry in entries(ec2, acl)
        if entry["RuleAction"] == "deny" and not entry["Egress"] and entry["RuleNumber"] < 32767
    ]


def ingress_rules(ec2: Any, group: str) -> list[dict[str, Any]]:
    rules = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])["SecurityGroupRules"]
    return [rule for rule in rules if not rule["IsEgress"]]


def tags_of(rule: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in rule["Tags"]}


def attach(ec2: Any, group: str) -> str:
    """A network interface with the group."""
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    return ec2.create_network_interface(SubnetId=subnet, Groups=[group])["NetworkInterface"]["NetworkInterfaceId"]


def results(aws: local.StandIn, queue: str) -> list[dict[str, Any]]:
    return [json.loads(message["Body"]) for message in local.drain(aws.client("sqs"), queue)]


def blocks(aws: local.StandIn, stack: local.Stack) -> list[dict[str, Any]]:
    """The blocks of the table, those that were lifted and are remembered included; by group."""
    found = [item["block"] for item in table(aws, stack) if item["pk"].startswith("block#")]
    return sorted(found, key=lambda block: block["group"])


def table(aws: local.StandIn, stack: local.Stack) -> list[dict[str, Any]]:
    """What the blocks table holds."""
    name = stack.resources["BlocksTable"]
    items = aws.client("dynamodb").scan(TableName=name, ConsistentRead=True)["Items"]
    return [{key: _READ.deserialize(value) for key, value in item.items()} for item in items]


def let_changes_show(aws: local.StandIn, stack: local.Stack, settled_at: str = "2026-01-01T00:00:00Z") -> None:
    """As some time after a function was killed: its lease has ended, and EC2 shows what it changed."""
    for item in table(aws, stack):
        if item["pk"].startswith("lease#"):
            keys = {key: {"S": item[key]} for key in ("pk", "sk")}
            aws.client("dynamodb").delete_item(TableName=stack.resources["BlocksTable"], Key=keys)
        elif item["pk"].startswith("block#"):
            item["block"]["settled_at"] = settled_at
            _put(aws, stack, item)


def let_blocks_age(aws: local.StandIn, stack: local.Stack, by: timedelta) -> None:
    """So much of each block's time is over. Its schedule has not run."""
    let_changes_show(aws, stack)
    for item in table(aws, stack):
        for terms in filter(None, (item.get("block", {}).get(name) for name in ("terms", "renews"))):
            if terms["expires_at"]:
                end = datetime.fromisoformat(terms["expires_at"]) - by
                terms["expires_at"] = end.isoformat().replace("+00:00", "Z")
                _put(aws, stack, item)


def _put(aws: local.StandIn, stack: local.Stack, item: dict[str, Any]) -> None:
    written = {key: _WRITE.serialize(value) for key, value in item.items()}
    aws.client("dynamodb").put_item(TableName=stack.resources["BlocksTable"], Item=written)


_READ, _WRITE = TypeDeserializer(), TypeSerializer()


def schedules(aws: local.StandIn, group: str = SCHEDULE_GROUP) -> list[dict[str, Any]]:
    scheduler = aws.client("scheduler")
    listed = scheduler.list_schedules(GroupName=group)["Schedules"]
    return [scheduler.get_schedule(Name=s["Name"], GroupName=s["GroupName"]) for s in listed]
