"""What the integration tests share: one stand-in for AWS for all, empty before each test, and the real binaries."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import local

OTHER_ACCOUNT = "444455556666"


@pytest.fixture(scope="session")
def running_stand_in() -> Iterator[local.StandIn]:
    with local.StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def aws(running_stand_in: local.StandIn) -> local.StandIn:
    running_stand_in.reset()
    return running_stand_in


@pytest.fixture
def start(aws: local.StandIn) -> Iterator[Callable[..., local.Function]]:
    """Starts a function: `start("poller", NAME="value")`."""
    with ExitStack() as stack:

        def start(name: str, timeout: int = 60, **environment: str) -> local.Function:
            environment = {"AWS_ENDPOINT_URL": aws.url, **environment}
            return stack.enter_context(local.Function(local.binary(name), environment, timeout))

        yield start


@pytest.fixture
def findings_queue(aws: local.StandIn) -> str:
    return aws.client("sqs").create_queue(QueueName="findings")["QueueUrl"]


@pytest.fixture
def results_queue(aws: local.StandIn) -> str:
    return aws.client("sqs").create_queue(QueueName="results")["QueueUrl"]


@pytest.fixture
def start_poller(
    aws: local.StandIn, start: Callable[..., local.Function], findings_queue: str
) -> Callable[..., local.Function]:
    """Starts a poller with queue and table; settings are added, or replaced."""
    settings = {"FINDINGS_QUEUE_URL": findings_queue, "STATE_TABLE_NAME": aws.state_table()}
    return lambda timeout=60, **more: start("poller", timeout, **{**settings, "INITIAL_LOOKBACK_SECONDS": "0", **more})


@pytest.fixture
def poller(start_poller: Callable[..., local.Function]) -> local.Function:
    return start_poller()


@pytest.fixture
def containment(start: Callable[..., local.Function], results_queue: str) -> local.Function:
    return start(
        "containment",
        RESULTS_QUEUE_URL=results_queue,
        ALLOWED_ROLE_ARNS="arn:aws:iam::*:role/aisoc-containment",
        PROTECTED_CIDRS="192.0.2.0/28",
    )


def asff_samples() -> list[Path]:
    """Findings from elsewhere, if a folder of them is named by ASFF_SAMPLES."""
    folder = os.environ.get("ASFF_SAMPLES")
    return sorted(Path(folder).glob("*.json")) if folder else []


def own_findings() -> list[Path]:
    return sorted((local.LOCAL / "findings").glob("*.json"))


def operations(aws: local.StandIn, service: str) -> list[str]:
    """The operations of a service that were called, in order."""
    return [call["operation"] for call in aws.calls() if call["service"] == service]


def block_list(ec2: Any, tags: dict[str, str] | None = None) -> str:
    """A security group that is enrolled and attached to nothing."""
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    tags = {"aisoc:containment": "blocklist"} if tags is None else tags
    specification = [{"ResourceType": "security-group", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}]
    group = ec2.create_security_group(
        GroupName="blocklist",
        Description="block list",
        VpcId=vpc,
        **({"TagSpecifications": specification} if tags else {}),
    )
    return group["GroupId"]


def ingress(ec2: Any, group: str) -> list[tuple[str, str, int, int]]:
    """The group's ingress rules as (source, protocol, first port, last port)."""
    rules = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])["SecurityGroupRules"]
    return sorted(
        (rule.get("CidrIpv4") or rule["CidrIpv6"], rule["IpProtocol"], rule.get("FromPort", -1), rule.get("ToPort", -1))
        for rule in rules
        if not rule["IsEgress"]
    )
