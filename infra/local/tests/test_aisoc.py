"""AiSOC's own words: a request written by its model goes through the queues and the real function, and the result that
comes out is read by its model. The models here say what AiSOC's say, and were written for these tests."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from pydantic import BaseModel, Field

import contract
import local
from conftest import OTHER_ACCOUNT, attach, default_acl, denied, own_findings, results, schedules

pytestmark = pytest.mark.parameters(EnableWriteBack="true")


class Status(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SIMULATED = "simulated"
    BLOCKED = "blocked"
    PENDING_APPROVAL = "pending_approval"
    AWAITING_COMPLETION = "awaiting_completion"


class LiveActionRequest(BaseModel):
    request_id: UUID = Field(default_factory=uuid4)
    capability: str
    vendor_id: str
    target: str = ""
    params: dict[str, Any] = Field(default_factory=dict)
    auth_config: dict[str, Any] | None = None
    dry_run: bool = False
    case_id: UUID | None = None
    playbook_run_id: UUID | None = None
    tenant_id: UUID | None = None
    requested_by: str = "system"


class LiveActionResult(BaseModel):
    request_id: UUID
    status: Status
    capability: str
    vendor_id: str
    summary: str
    details: dict[str, Any]
    error: str | None
    completed_at: datetime


class Playbook:
    """Sends requests and reads results, as AiSOC does."""

    def __init__(self, aws: local.StandIn, stack: local.Stack, containment: local.Function):
        self._aws, self._stack, self._containment = aws, stack, containment
        self._sqs = aws.client("sqs")

    def send(self, request: LiveActionRequest, group: str = "g") -> tuple[LiveActionResult, dict[str, Any]]:
        """The result, as AiSOC reads it and as it came."""
        url = self._stack.outputs["ActionsQueueUrl"]
        self._sqs.send_message(QueueUrl=url, MessageBody=request.model_dump_json(), MessageGroupId=group)
        return self.receive()

    def receive(self) -> tuple[LiveActionResult, dict[str, Any]]:
        return self._answer(local.as_sqs_event(local.drain(self._sqs, self._stack.outputs["ActionsQueueUrl"])))

    def deliver(self, body: str) -> tuple[LiveActionResult, dict[str, Any]]:
        """Of a message that is no request, which no test sends to the queue itself."""
        event = json.loads(local.event("sqs-block-ip"))
        event["Records"][0]["body"] = body
        return self._answer(event)

    def _answer(self, event: dict[str, Any]) -> tuple[LiveActionResult, dict[str, Any]]:
        assert self._containment.invoke(event) == {"batchItemFailures": []}
        ((read, sent),) = self.results()
        return read, sent

    def results(self) -> list[tuple[LiveActionResult, dict[str, Any]]]:
        sent = results(self._aws, self._stack.outputs["ResultsQueueUrl"])
        return [(LiveActionResult.model_validate(result), result) for result in sent]


@pytest.fixture
def playbook(aws: local.StandIn, stack: local.Stack, containment: local.Function) -> Playbook:
    aws.client("securityhub").enable_security_hub()
    aws.import_findings([path.read_text() for path in own_findings()])
    return Playbook(aws, stack, containment)


FINDING = json.loads(local.event("ack-alert"))["target"]
UNKNOWN_ROLE = f"arn:aws:iam::{OTHER_ACCOUNT}:role/unknown"
UNKNOWN_GROUP = "sg-0000000000000000f"
VERDICTS: dict[str, dict[str, Any]] = {
    "update_alert_disposition": {"disposition": "false_positive", "confidence": 0.9, "rationale": "a scanner of ours"},
    "ack_alert": {"aisoc_alert_id": "5d9f0b1c-2a3b-4c5d-8e6f-0a1b2c3d4e5f"},
    "suppress_alert": {},
}
ENDS = ("succeeded", "simulated", "blocked", "failed")


def asked(capability: str, end: str, group: str) -> dict[str, Any]:
    """What of a request makes it end so, and the code that it then has."""
    if capability in VERDICTS:
        params = VERDICTS[capability]
        return {
            "blocked": {"target": FINDING, "params": {**params, "aws_region": "eu-west-1"}},
            "failed": {"target": "no-such-finding", "params": params},
        }.get(end, {"target": FINDING, "params": params, "dry_run": end == "simulated"})
    params = {"aws_security_group_id": group}
    return {
        "blocked": {"target": "203.0.113.7", "params": {**params, "aws_role_arn": UNKNOWN_ROLE}},
        "failed": {"target": "203.0.113.7", "params": {"aws_security_group_id": UNKNOWN_GROUP}},
    }.get(end, {"target": "203.0.113.7", "params": params, "dry_run": end == "simulated"})


@pytest.mark.parametrize("vendor", ["aws_security_hub", "aws_security_groups"])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("capability", ["block_ip", "allow_ip", *VERDICTS])
def test_a_request_of_aisoc_is_answered_in_its_words(
    capability: str, end: str, vendor: str, group: str, playbook: Playbook
) -> None:
    request = LiveActionRequest(
        capability=capability,
        vendor_id=vendor,
        case_id=uuid4(),
        playbook_run_id=uuid4(),
        tenant_id=uuid4(),
        **asked(capability, end, group),
    )
    before = datetime.now(UTC)
    read, sent = playbook.send(request)
    assert (read.status, read.request_id, read.capability, read.vendor_id) == (
        end,
        request.request_id,
        capability,
        vendor,
    )
    assert read.summary and "\n" not in read.summary
    assert before <= read.completed_at.replace(microsecond=999_999) and read.completed_at <= datetime.now(UTC)
    for name in ("case_id", "playbook_run_id", "tenant_id"):
        assert sent[name] == str(getattr(request, name))
    if end in ("blocked", "failed"):
        code = {
            "blocked": ("role_not_allowed", "region_not_allowed"),
            "failed": ("group_not_found", "finding_not_found"),
        }
        assert read.details["error"]["code"] == code[end][capability in VERDICTS]
        assert read.error == read.details["error"]["message"] and read.error in read.summary
        assert read.details["error"]["remedy"]
    else:
        assert read.error is None and "error" not in read.details
        assert ("planned_steps" in read.details) is (end == "simulated")
    if capability in VERDICTS:
        # By this AiSOC tells a finding that was written from one that was not.
        assert read.details["written"] is (end == "succeeded")


def test_what_cannot_be_read_is_answered_in_its_words(playbook: Playbook) -> None:
    for body in ("not json", "[]", "{}", '{"capability": "isolate_host", "vendor_id": "crowdstrike"}'):
        read, _ = playbook.deliver(body)
        assert (read.status, read.details["error"]["code"]) == ("failed", "invalid_request")
        if "isolate_host" in body:
            assert (read.capability, read.vendor_id) == ("isolate_host", "crowdstrike")
        else:
            assert (read.capability, read.vendor_id) == ("unknown", "aws_security_hub")


def test_what_an_audit_and_the_end_of_a_block_tell_is_in_its_words(
    aws: local.StandIn, ec2: Any, group: str, playbook: Playbook, containment: local.Function
) -> None:
    params = {"aws_security_group_id": group, "expires_after_seconds": 60, "port": -1, "protocol": "-1"}
    block = LiveActionRequest(
        capability="block_ip", vendor_id="aws_security_groups", target="203.0.113.7", params=params, tenant_id=uuid4()
    )
    assert playbook.send(block)[0].status == "succeeded"
    (schedule,) = schedules(aws)
    aws.fire(schedule["Name"], schedule["GroupName"])
    lifted, _ = playbook.receive()
    assert (lifted.status, lifted.capability) == ("succeeded", "allow_ip")
    assert lifted.request_id != block.request_id
    # A list that becomes attached, then detached again
    again = block.model_copy(update={"request_id": uuid4(), "params": {"aws_security_group_id": group}})
    assert playbook.send(again)[0].status == "succeeded"
    interface = attach(ec2, group)
    containment.invoke({"mode": "audit"})
    told = [read for read, _ in playbook.results()]
    assert {read.capability for read in told} == {"audit"} and "failed" in {read.status for read in told}
    (found,) = [read for read in told if read.status == "failed"]
    assert found.details["error"]["code"] == "group_in_use" and found.error == found.details["error"]["message"]
    ec2.delete_network_interface(NetworkInterfaceId=interface)
    containment.invoke({"mode": "audit"})
    assert {read.status for read, _ in playbook.results()} == {"succeeded"}


SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize("capability", ["block_ip", "update_alert_disposition"])
@pytest.mark.parametrize(
    "where",
    [
        {"auth_config": {"aws_access_key_id": SECRET, "aws_secret_access_key": SECRET}},
        {"params": {"aws_secret_access_key": SECRET}},
        {"params": {"aws_access_key_id": SECRET, "disposition": "benign"}},
    ],
)
def test_credentials_are_refused_and_appear_nowhere(
    where: dict[str, Any], capability: str, aws: local.StandIn, playbook: Playbook, containment: local.Function
) -> None:
    request = LiveActionRequest(capability=capability, vendor_id="aws_security_hub", target=FINDING, **where)
    services = [call["service"] for call in aws.calls()]
    read, sent = playbook.deliver(request.model_dump_json())
    assert (read.status, read.details["error"]["code"]) == ("failed", "invalid_request")
    assert "credentials do not travel in messages" in (read.error or "")
    assert SECRET not in json.dumps(sent) and SECRET not in containment.log()
    after = [call["service"] for call in aws.calls()][len(services) :]
    assert set(after) <= {"sqs"}


def test_a_request_with_the_names_of_aisocs_own_arm_blocks(ec2: Any, group: str, playbook: Playbook) -> None:
    example = json.loads(local.event("block-ip-aisoc"))
    example["params"]["aws_security_group_id"] = group
    read, _ = playbook.send(LiveActionRequest.model_validate(example))
    assert read.status == "succeeded"
    assert denied(ec2, default_acl(ec2)) == [(1, "203.0.113.45/32", "6", (22, 22))]


def test_the_plugin_says_what_the_connector_is() -> None:
    plugin = yaml.safe_load((local.ROOT / "plugin.yaml").read_text())
    assert list(plugin) == [
        *("id", "name", "version", "plugin_type", "tier", "description", "author", "tags", "homepage", "license"),
        *("min_aisoc_version", "config_schema"),
    ]
    assert plugin["version"] == contract.asyncapi()["info"]["version"]
    assert plugin["license"] == "Apache-2.0"
    connector = plugin["config_schema"]
    assert (connector["connector_id"], connector["category"]) == ("aws_security_hub", "cloud")
    fields = {field["name"]: field for field in connector["fields"]}
    assert fields["aws_region"]["required"] is True
    # A key is for reading findings without the stack; the functions take none from a message.
    assert [name for name, field in fields.items() if field["type"] == "secret"] == ["aws_secret_access_key"]
    # What it can do is what a request can ask for, and what the connector pulls.
    described = contract.schema("request")["$defs"]
    asked = {
        example
        for kind in ("BlockRequest", "WriteBackRequest")
        for example in described[kind]["properties"]["capability"]["examples"]
    }
    assert set(connector["capabilities"]) == {"pull_alerts", *asked}


def test_an_event_can_be_read_as_an_envelope_of_aisoc(
    aws: local.StandIn, findings_queue: str, playbook: Playbook, start_poller: Callable[..., local.Function]
) -> None:
    start_poller().invoke({"mode": "incremental"})
    events = [json.loads(message["Body"]) for message in local.drain(aws.client("sqs"), findings_queue)]
    assert events
    for event in events:
        assert event["source"] == "aws_security_hub" and isinstance(event["raw_event"], dict)
        for name in ("external_id", "title", "severity", "created_at"):
            assert isinstance(event[name], str), name
        for name in ("src_ip", "hostname", "actor"):
            assert event[name] is None or isinstance(event[name], str), name


def test_the_page_says_what_a_verdict_does(aws: local.StandIn, playbook: Playbook) -> None:
    """Each row of the table of docs/aisoc.md is tried."""
    page = (local.ROOT / "docs" / "aisoc.md").read_text().partition("## Verdicts")[2]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\|.*\|$", page, re.MULTILINE)[2:8]]
    capability, tried = "", []
    for given, dispositions, status, state, status_id, action in rows:
        capability = given.strip("`") or capability
        names = re.findall(r"`(\w+)`", dispositions) or [None]
        for name in names:
            params = {"disposition": name} if name else {}
            request = LiveActionRequest(
                capability=capability, vendor_id="aws_security_hub", target=FINDING, params=params, dry_run=True
            )
            if status == "refused":
                assert playbook.deliver(request.model_dump_json())[0].status == "failed"
                continue
            steps = playbook.send(request)[0].details
            assert f"set Workflow.Status to {status}" in steps["planned_steps"], name
            states = [step.rpartition(" ")[2] for step in steps["planned_steps"] if "VerificationState" in step]
            assert states == ([] if state == "as it is" else [state]), name
            assert f"`{steps['writeback_action']}`" == action
            of_v2 = request.model_copy(
                update={"request_id": uuid4(), "params": {**params, "aws_metadata_uid": "uid-1"}}
            )
            aws.put_ocsf({"metadata": {"uid": "uid-1"}})
            steps = playbook.send(of_v2)[0].details
            assert f"set status_id to {status_id[0]}" in steps["planned_steps"], name
            tried.append((capability, name))
    assert len(tried) == 7
