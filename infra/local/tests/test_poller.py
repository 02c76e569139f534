"""The poller's binary against the stand-in."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import local
from conftest import asff_samples, operations, own_findings
from standin.security_hub import raw_elements, raw_members


def subscribe(aws: local.StandIn, *regions: str) -> None:
    for region in regions or (local.REGION,):
        aws.client("securityhub", region).enable_security_hub()


def finding(number: int, **more: Any) -> str:
    updated = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=number)
    return json.dumps(
        {
            "SchemaVersion": "2018-10-08",
            "Id": f"finding-{number:04}",
            "ProductArn": "arn:aws:securityhub:us-east-1::product/aws/guardduty",
            "AwsAccountId": local.ACCOUNT,
            "UpdatedAt": updated.isoformat().replace("+00:00", "Z"),
            "Severity": {"Label": "LOW"},
            "Workflow": {"Status": "NEW"},
            "RecordState": "ACTIVE",
            **more,
        }
    )


def bodies(aws: local.StandIn, queue: str) -> list[str]:
    return [message["Body"] for message in local.drain(aws.client("sqs"), queue)]


def events(aws: local.StandIn, queue: str) -> list[dict[str, Any]]:
    return [json.loads(body) for body in bodies(aws, queue)]


def findings_in(path: Path) -> list[str]:
    text = path.read_text()
    return raw_elements(text) if text.lstrip().startswith("[") else [text.strip()]


def is_wanted(text: str) -> bool:
    value = json.loads(text)
    status = value.get("Workflow", {}).get("Status", "NEW")
    return status in ("NEW", "NOTIFIED") and value.get("RecordState", "ACTIVE") == "ACTIVE"


@pytest.mark.parametrize("path", own_findings() + asff_samples(), ids=lambda path: path.stem)
def test_findings_leave_as_they_were_served_to_the_byte(
    path: Path, aws: local.StandIn, poller: local.Function, findings_queue: str
) -> None:
    texts = findings_in(path)
    subscribe(aws)
    aws.import_findings(texts)
    poller.invoke({})
    raw_events = [raw_members(body)["raw_event"] for body in bodies(aws, findings_queue)]
    assert sorted(raw_events) == sorted({text for text in texts if is_wanted(text)})


def test_every_page_is_delivered_once_and_only_what_is_wanted(
    aws: local.StandIn, poller: local.Function, findings_queue: str
) -> None:
    subscribe(aws)
    wanted = [finding(n, Workflow={"Status": "NOTIFIED" if n % 2 else "NEW"}) for n in range(250)]
    other = [finding(n, Workflow={"Status": "RESOLVED"}) for n in range(1000, 1010)]
    other += [finding(n, Workflow={"Status": "SUPPRESSED"}) for n in range(1010, 1020)]
    other += [finding(n, RecordState="ARCHIVED") for n in range(1020, 1030)]
    aws.import_findings(other + wanted[::-1])
    report = poller.invoke({})
    assert report == {
        "mode": "incremental",
        "complete": True,
        "events_sent": 250,
        "regions": [
            {
                "region": "us-east-1",
                "pages": 3,
                "findings_seen": 250,
                "events_sent": 250,
                "duplicates_skipped": 0,
                "updated_through": None,
                "complete": True,
            }
        ],
    }
    delivered = events(aws, findings_queue)
    assert sorted(event["external_id"] for event in delivered) == [f"finding-{n:04}" for n in range(250)]
    assert len({event["event_id"] for event in delivered}) == 250


def test_message_attributes_say_what_a_filter_needs(
    aws: local.StandIn, poller: local.Function, findings_queue: str
) -> None:
    subscribe(aws)
    aws.import_findings([finding(1, Severity={"Label": "CRITICAL"})])
    poller.invoke({})
    (message,) = local.drain(aws.client("sqs"), findings_queue)
    attributes = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
    assert attributes == {
        "source": "aws_security_hub",
        "severity": "high",
        "event_id": json.loads(message["Body"])["event_id"],
        "aws_account_id": local.ACCOUNT,
        "aws_region": "us-east-1",
    }


def test_an_empty_hub_is_a_complete_poll(aws: local.StandIn, poller: local.Function) -> None:
    subscribe(aws)
    report = poller.invoke({})
    assert (report["complete"], report["events_sent"], report["regions"][0]["pages"]) == (True, 0, 1)
    assert operations(aws, "sqs") == ["CreateQueue"]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("poll-eventbridge-rule", "incremental"),
        ("poll-scheduler", "incremental"),
        ("poll-incremental", "incremental"),
        ("poll-empty", "incremental"),
        ("poll-reconcile", "reconcile"),
    ],
)
def test_each_form_of_input_polls(
    name: str, mode: str, aws: local.StandIn, poller: local.Function, findings_queue: str
) -> None:
    subscribe(aws)
    aws.import_findings([finding(1)])
    report = poller.invoke(local.event(name))
    assert (report["mode"], report["events_sent"]) == (mode, 1)
    assert len(events(aws, findings_queue)) == 1


def test_a_backfill_delivers_its_range_both_ends_included(
    aws: local.StandIn, poller: local.Function, findings_queue: str
) -> None:
    subscribe(aws)
    times = ["2026-11-19T23:59:59.999Z", "2026-11-20T00:00:00Z", "2026-11-21T00:00:00.000Z", "2026-11-21T00:00:00.001Z"]
    aws.import_findings([finding(n, UpdatedAt=time) for n, time in enumerate(times)])
    poller.invoke(local.event("poll-backfill"))
    assert sorted(event["external_id"] for event in events(aws, findings_queue)) == ["finding-0001", "finding-0002"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("poll-bad-mode", 'mode must be "incremental", "reconcile", "backfill" or "test_connection", not "pull"'),
        ("poll-bad-member", '"region" is no member of this input; known are mode'),
        ("poll-bad-backfill", "end is missing: an RFC 3339 time"),
        ("poll-bad-array", "the input must be a JSON object"),
    ],
)
def test_wrong_input_polls_nothing_and_names_the_member(
    name: str, message: str, aws: local.StandIn, poller: local.Function
) -> None:
    subscribe(aws)
    with pytest.raises(local.FunctionError) as failure:
        poller.invoke(local.event(name))
    assert failure.value.type == "InvalidInput"
    assert failure.value.message.startswith(message)
    assert "GetFindings" not in operations(aws, "securityhub")


def test_a_connection_test_asks_every_region_and_sends_nothing(
    aws: local.StandIn, start: Callable[..., local.Function], findings_queue: str
) -> None:
    subscribe(aws, "us-east-1", "eu-north-1")
    aws.import_findings([finding(1)])
    aws.fail(
        {
            "service": "securityhub",
            "operation": "GetFindings",
            "region": "eu-north-1",
            "code": "AccessDeniedException",
            "status": 403,
        }
    )
    poller = start("poller", FINDINGS_QUEUE_URL=findings_queue, SECURITY_HUB_REGIONS="us-east-1,eu-west-1,eu-north-1")
    answer = poller.invoke(local.event("poll-test-connection"))
    codes = {region["region"]: region.get("error", {}).get("code") for region in answer["regions"]}
    assert codes == {"us-east-1": None, "eu-west-1": "not_subscribed", "eu-north-1": "access_denied"}
    assert answer["success"] is False
    assert "securityhub:GetFindings" in answer["regions"][2]["error"]["remedy"]
    assert operations(aws, "sqs") == ["CreateQueue"]


def test_a_region_that_fails_stops_no_other_and_fails_the_invocation(
    aws: local.StandIn, start: Callable[..., local.Function], findings_queue: str
) -> None:
    subscribe(aws, "us-east-1", "eu-north-1")
    aws.import_findings([finding(1)], "us-east-1")
    aws.import_findings([finding(2)], "eu-north-1")
    poller = start("poller", FINDINGS_QUEUE_URL=findings_queue, SECURITY_HUB_REGIONS="us-east-1,eu-west-1,eu-north-1")
    with pytest.raises(local.FunctionError) as failure:
        poller.invoke({})
    assert failure.value.type == "PollFailed"
    assert failure.value.message == "1 of 3 regions failed: eu-west-1 (not_subscribed); the log has the report"
    assert sorted(event["aws_region"] for event in events(aws, findings_queue)) == ["eu-north-1", "us-east-1"]
    assert "enable Security Hub in eu-west-1" in poller.log()


def test_a_passing_fault_is_retried(aws: local.StandIn, poller: local.Function, findings_queue: str) -> None:
    subscribe(aws)
    aws.import_findings([finding(1)])
    aws.fail(
        {"service": "securityhub", "operation": "GetFindings", "code": "TooManyRequestsException", "status": 429},
        {"service": "sqs", "operation": "SendMessageBatch", "code": "ServiceUnavailable", "status": 503},
    )
    assert poller.invoke({})["complete"] is True
    assert len(events(aws, findings_queue)) == 1


@pytest.mark.parametrize(
    ("service", "operation", "code", "status", "expected"),
    [
        ("securityhub", "GetFindings", "AccessDeniedException", 403, "access_denied"),
        ("securityhub", "GetFindings", "InvalidInputException", 400, "invalid_request"),
        ("sqs", "SendMessageBatch", "AccessDenied", 403, "access_denied"),
        ("sqs", "SendMessageBatch", "AWS.SimpleQueueService.NonExistentQueue", 400, "invalid_request"),
    ],
)
def test_a_lasting_fault_has_its_code(
    service: str, operation: str, code: str, status: int, expected: str, aws: local.StandIn, poller: local.Function
) -> None:
    subscribe(aws)
    aws.import_findings([finding(1)])
    aws.fail({"service": service, "operation": operation, "code": code, "status": status, "times": 100})
    with pytest.raises(local.FunctionError) as failure:
        poller.invoke({})
    assert f"us-east-1 ({expected})" in failure.value.message


def test_findings_that_are_not_as_they_should_be_are_delivered_with_the_others(
    aws: local.StandIn, poller: local.Function, findings_queue: str
) -> None:
    def without(name: str, text: str) -> str:
        return json.dumps({k: v for k, v in json.loads(text).items() if k != name})

    cases = {
        "no severity": without("Severity", finding(1)),
        "wrong types": finding(2, Severity=7, Resources="none", Types={"a": 1}, Title=["x"]),
        "240 KB of description": finding(3, Description="d" * 240 * 1024),
        "U+FFFF in the title": finding(4, Title="PLACE").replace("PLACE", "a\uffffb"),
        "no id": without("Id", finding(5)),
        "no update time": without("UpdatedAt", finding(6)),
        "unknown members": finding(7, Unknown={"b": [1, {"c": None}]}),
        "no object": "7",
        "numbers as they are": finding(8)[:-1] + ', "n": [1.10, 1e2, 123456789012345678901234567890]}',
        "an unpaired surrogate": finding(9, Title="PLACE").replace("PLACE", "\\ud800"),
    }
    subscribe(aws)
    aws.import_findings(list(cases.values()))
    report = poller.invoke({})
    assert report["events_sent"] == len(cases)
    delivered = bodies(aws, findings_queue)
    raw_events = {raw_members(body)["raw_event"]: json.loads(body) for body in delivered}
    for name, text in cases.items():
        # What SQS does not take leaves escaped, and means the same.
        assert text.replace("\uffff", "\\uffff") in raw_events, name
    by_text = {name: raw_events[text.replace("\uffff", "\\uffff")] for name, text in cases.items()}
    assert by_text["no severity"]["severity"] == "info"
    assert by_text["wrong types"]["title"] is None
    assert by_text["wrong types"]["external_id"] == "finding-0002"
    assert by_text["U+FFFF in the title"]["title"] == "a\uffffb"
    assert len(by_text["240 KB of description"]["description"]) == 240 * 1024
    assert by_text["no id"]["external_id"] is None
    assert len({event["event_id"] for event in by_text.values()}) == len(cases)


def test_everything_wrong_with_the_environment_is_named_at_once(start: Callable[..., local.Function]) -> None:
    poller = start("poller", SECURITY_HUB_REGIONS="Ireland")
    with pytest.raises(local.FunctionError):
        poller.invoke({})
    assert "FINDINGS_QUEUE_URL is not set" in poller.log()
    assert "SECURITY_HUB_REGIONS: expected a region's code" in poller.log()


def test_an_endpoint_variable_that_is_set_but_empty_counts_as_unset(
    aws: local.StandIn, start: Callable[..., local.Function], findings_queue: str
) -> None:
    subscribe(aws)
    poller = start(
        "poller", FINDINGS_QUEUE_URL=findings_queue, AWS_ENDPOINT_URL_SQS="", AWS_ENDPOINT_URL_SECURITYHUB=""
    )
    assert poller.invoke({})["complete"] is True
