"""The poller's binary against the stand-in."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
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
    (region,) = report["regions"]
    assert region.pop("updated_through").endswith("Z")
    assert region["sweep"].pop("last_completed_at").endswith("Z")
    # A query begins with the last findings of the one before.
    assert region == {
        "region": "us-east-1",
        "pages": 3,
        "findings_seen": 256,
        "events_sent": 250,
        "duplicates_skipped": 6,
        "complete": True,
        # The first page of a sweep has no time filter, and may hold findings without a time.
        "sweep": {"pages": 4, "findings_seen": 356, "events_sent": 0, "complete": True},
    }
    assert (report["mode"], report["complete"], report["events_sent"]) == ("incremental", True, 250)
    delivered = events(aws, findings_queue)
    assert sorted(event["external_id"] for event in delivered) == [f"finding-{n:04}" for n in range(250)]
    assert len({event["event_id"] for event in delivered}) == 250


def items(aws: local.StandIn, stack: local.Stack, prefix: str = "") -> list[dict[str, Any]]:
    """Of the state table, those whose partition key begins so."""
    pages = (
        aws.client("dynamodb")
        .get_paginator("scan")
        .paginate(TableName=stack.outputs["StateTableName"], ConsistentRead=True)
    )
    return [item for page in pages for item in page["Items"] if item["pk"]["S"].startswith(prefix)]


def put(aws: local.StandIn, stack: local.Stack, item: dict[str, Any]) -> None:
    aws.client("dynamodb").put_item(TableName=stack.outputs["StateTableName"], Item=item)


def checkpoint(aws: local.StandIn, stack: local.Stack, name: str = "incremental") -> dict[str, Any]:
    (item,) = [item for item in items(aws, stack, "checkpoint#") if item["sk"]["S"].startswith(name)]
    return item


def let_sweep_be_due(aws: local.StandIn, stack: local.Stack) -> None:
    """As 6 hours later."""
    for item in [checkpoint(aws, stack, "sweep"), *items(aws, stack, "parked#")]:
        for name in item.keys() & {"last_started_at", "last_completed_at", "offered_at"}:
            earlier = datetime.fromisoformat(item[name]["S"]) - timedelta(hours=6)
            item[name]["S"] = earlier.isoformat().replace("+00:00", "Z")
        put(aws, stack, item)


def recent(number: int, **more: Any) -> str:
    """A finding updated within the overlap of the next poll."""
    updated = datetime.now(UTC) - timedelta(seconds=number + 60)
    return finding(number, **{"UpdatedAt": updated.isoformat(timespec="milliseconds").replace("+00:00", "Z"), **more})


def test_a_version_that_was_delivered_is_not_sent_again(
    aws: local.StandIn, poller: local.Function, findings_queue: str
) -> None:
    subscribe(aws)
    texts = [recent(n) for n in range(30)]
    aws.import_findings(texts)
    assert poller.invoke({})["events_sent"] == 30
    again = poller.invoke({})
    assert (again["events_sent"], again["regions"][0]["duplicates_skipped"]) == (0, 30)
    # WHEN one of them changes
    aws.import_findings([texts[7].replace('"LOW"', '"HIGH"')])
    assert poller.invoke({})["events_sent"] == 1
    delivered = events(aws, findings_queue)
    assert len(delivered) == 31
    assert [e["severity"] for e in delivered if e["external_id"] == "finding-0007"] == ["low", "high"]


def test_what_was_delivered_is_known_to_the_table_and_not_to_the_process(
    aws: local.StandIn, poller: local.Function, start_poller: Callable[..., local.Function]
) -> None:
    subscribe(aws)
    aws.import_findings([recent(1)])
    assert poller.invoke({})["events_sent"] == 1
    assert start_poller().invoke({})["events_sent"] == 0
    assert start_poller(STATE_TABLE_NAME=aws.state_table("empty")).invoke({})["events_sent"] == 1


def test_what_arrives_late_is_caught_by_the_overlap_and_an_edit_by_a_sweep(
    aws: local.StandIn, stack: local.Stack, poller: local.Function, findings_queue: str
) -> None:
    subscribe(aws)
    old = finding(1)
    aws.import_findings([old])
    assert poller.invoke({})["events_sent"] == 1
    # WHEN a finding arrives that was updated before the last poll
    aws.import_findings([recent(2)])
    assert poller.invoke({})["events_sent"] == 1
    # WHEN an analyst reopens an old finding, which leaves UpdatedAt as it is, and one older than the overlap arrives
    aws.import_findings([old.replace('"NEW"', '"NOTIFIED"'), finding(3)])
    report = poller.invoke({})
    assert (report["events_sent"], report["regions"][0]["sweep"]) == (0, None)
    # THEN the next sweep finds both
    let_sweep_be_due(aws, stack)
    report = poller.invoke({})
    sweep = report["regions"][0]["sweep"]
    assert (report["events_sent"], sweep["events_sent"], sweep["complete"]) == (2, 2, True)
    sent = [(event["external_id"], event["workflow_status"]) for event in events(aws, findings_queue)]
    assert sent[:2] == [("finding-0001", "NEW"), ("finding-0002", "NEW")]
    assert sorted(sent[2:]) == [("finding-0001", "NOTIFIED"), ("finding-0003", "NEW")]
    # AND a reconcile is a whole sweep, whenever it is asked for
    aws.import_findings([old.replace('"NEW"', '"NOTIFIED"').replace('"LOW"', '"HIGH"')])
    report = poller.invoke({"mode": "reconcile"})
    assert (report["complete"], report["events_sent"], report["regions"][0]["pages"]) == (True, 1, 0)
    assert report["regions"][0]["sweep"]["complete"] is True


def test_an_update_time_with_an_offset_or_in_the_future(
    aws: local.StandIn, poller: local.Function, findings_queue: str
) -> None:
    subscribe(aws)
    hour_ahead = datetime.now(timezone(timedelta(hours=5))) + timedelta(hours=1)
    aws.import_findings(
        [
            recent(1).replace('Z"', '+00:00"'),
            finding(2, UpdatedAt="2026-11-20T23:30:00.000-05:00"),
            finding(3, UpdatedAt=hour_ahead.isoformat(timespec="milliseconds")),
        ]
    )
    # What claims to be of the future is in no window yet, and draws no checkpoint there: the sweep finds it.
    (region,) = poller.invoke({})["regions"]
    assert (region["complete"], region["events_sent"], region["sweep"]["events_sent"]) == (True, 2, 1)
    through = datetime.fromisoformat(region["updated_through"])
    assert through <= datetime.now(UTC)
    assert poller.invoke({"mode": "reconcile"})["events_sent"] == 0
    assert [event["external_id"] for event in events(aws, findings_queue)].count("finding-0003") == 1


def test_what_shows_later_is_delivered_later(aws: local.StandIn, poller: local.Function) -> None:
    subscribe(aws)
    aws.settings(arrival=3)
    aws.import_findings([recent(1)])
    # The first poll has a sweep, which is a call more.
    assert [poller.invoke({})["events_sent"] for _ in range(4)] == [0, 0, 1, 0]


def drain(poller: local.Function) -> list[dict[str, Any]]:
    """Polls until one is complete."""
    reports: list[dict[str, Any]] = []
    while not reports or not reports[-1]["complete"]:
        reports.append(poller.invoke({}))
        assert len(reports) < 60
    return reports


def assert_delivered(aws: local.StandIn, queue: str, count: int) -> None:
    """Each of them; how often is not asked, for a call that the deadline cuts off may have been carried out."""
    assert {event["external_id"] for event in events(aws, queue)} == {f"finding-{n:04}" for n in range(count)}


def test_a_backlog_drains_through_short_invocations(
    aws: local.StandIn, start_poller: Callable[..., local.Function], findings_queue: str
) -> None:
    subscribe(aws)
    aws.import_findings([finding(n) for n in range(60)])
    aws.settings(page_size=3)
    assert len(drain(start_poller(timeout=3))) > 1
    assert_delivered(aws, findings_queue, 60)


def test_any_number_of_findings_of_one_update_time_drain(
    aws: local.StandIn, start_poller: Callable[..., local.Function], findings_queue: str
) -> None:
    subscribe(aws)
    # A position in time alone would not get past them.
    aws.import_findings([finding(n, UpdatedAt="2026-11-20T00:00:00Z") for n in range(60)])
    aws.settings(page_size=3)
    assert len(drain(start_poller(timeout=3))) > 1
    assert_delivered(aws, findings_queue, 60)


@pytest.mark.parametrize("token_calls", [0, 1])
def test_tokens_gone_stale_are_no_end(
    token_calls: int, aws: local.StandIn, start_poller: Callable[..., local.Function], findings_queue: str
) -> None:
    subscribe(aws)
    aws.import_findings([finding(n) for n in range(20)])
    aws.import_findings([finding(n, UpdatedAt="2026-11-20T00:00:00Z") for n in range(20, 40)])
    # A page of the largest size holds all of one instant; of a smaller one it cannot, where no token can be used.
    aws.settings(page_size=30 if token_calls == 0 else 3, token_calls=token_calls)
    drain(start_poller(timeout=8))
    assert_delivered(aws, findings_queue, 40)


def test_findings_that_leave_the_query_between_pages_make_it_pass_none_over(
    aws: local.StandIn, start_poller: Callable[..., local.Function], findings_queue: str
) -> None:
    subscribe(aws)
    texts = [finding(n) for n in range(110)]
    aws.import_findings(texts)
    # Tokens count what the query finds, and between two pages one of the first page is resolved: what comes after it
    # has moved up by one.
    resolved = [json.loads(text) | {"Workflow": {"Status": "RESOLVED"}} for text in texts[:10]]
    aws.settings(page_size=10, tokens_count=True, changes=list(map(json.dumps, resolved)))
    report = start_poller(SWEEP_HOURS="0").invoke({})
    assert (report["complete"], report["events_sent"]) == (True, 110)
    assert_delivered(aws, findings_queue, 110)


def test_a_sweep_passes_none_over_either(aws: local.StandIn, poller: local.Function, findings_queue: str) -> None:
    subscribe(aws)
    texts = [finding(n) for n in range(60)]
    aws.import_findings(texts)
    resolved = [json.loads(text) | {"Workflow": {"Status": "RESOLVED"}} for text in texts[:5]]
    aws.settings(page_size=10, tokens_count=True, changes=list(map(json.dumps, resolved)))
    report = poller.invoke({"mode": "reconcile"})
    assert (report["complete"], report["events_sent"]) == (True, 60)
    assert_delivered(aws, findings_queue, 60)


def test_a_document_newer_than_its_index_leaves_the_position_within_its_window(
    aws: local.StandIn, stack: local.Stack, start_poller: Callable[..., local.Function], findings_queue: str
) -> None:
    subscribe(aws)
    aws.settings(page_size=3, index_lag=100)
    texts = [finding(n) for n in range(12)]
    aws.import_findings(texts)
    # The query finds them by the old time, and their documents have a later one than the window's end.
    ahead = (datetime.now(UTC) + timedelta(minutes=10)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    aws.import_findings([finding(n, UpdatedAt=ahead) for n in (2, 5, 8, 11)])
    poller = start_poller(timeout=3)
    for _ in range(60):
        report = poller.invoke({})
        window = checkpoint(aws, stack).get("window", {}).get("M", {})
        if "position" in window:
            assert window["position"]["S"] <= window["end"]["S"]
        if report["complete"]:
            break
    assert report["complete"]
    assert_delivered(aws, findings_queue, 12)
    assert start_poller().invoke({})["complete"] is True


def test_security_hubs_rate_is_kept_to(aws: local.StandIn, poller: local.Function) -> None:
    subscribe(aws)
    aws.import_findings([finding(n) for n in range(12)])
    aws.settings(page_size=1, rate_limit=True)
    report = poller.invoke({})
    assert (report["complete"], report["events_sent"]) == (True, 12)
    assert metrics(poller)[0]["Throttles"] == 0
    pages = report["regions"][0]["pages"] + report["regions"][0]["sweep"]["pages"]
    assert operations(aws, "securityhub").count("GetFindings") == pages >= 12


def test_filters_have_checkpoints_of_their_own(
    aws: local.StandIn, start_poller: Callable[..., local.Function], findings_queue: str
) -> None:
    subscribe(aws)
    aws.import_findings(
        [
            finding(1, Severity={"Label": "HIGH"}, ProductName="GuardDuty"),
            finding(2, Severity={"Label": "CRITICAL"}, ProductName="Inspector"),
            finding(3, Severity={"Label": "LOW"}, ProductName="GuardDuty"),
            finding(4, Severity={"Label": "HIGH"}, ProductName="GuardDuty", AwsAccountId="444455556666"),
        ]
    )
    environment = {"SEVERITY_LABELS": "HIGH,CRITICAL", "PRODUCT_NAMES": "GuardDuty", "AWS_ACCOUNT_IDS": local.ACCOUNT}
    narrow = start_poller(**environment)
    assert narrow.invoke({})["events_sent"] == 1
    # WHEN the filters are widened
    with local.Function(
        local.binary("poller"), {**narrow.environment, "SEVERITY_LABELS": "", "PRODUCT_NAMES": ""}
    ) as wide:
        # THEN what they had left out is read, however old
        assert wide.invoke({})["events_sent"] == 2
    assert [e["external_id"] for e in events(aws, findings_queue)] == ["finding-0001", "finding-0002", "finding-0003"]


def metrics(poller: local.Function) -> list[dict[str, Any]]:
    """Lines in CloudWatch's embedded metric format."""
    return [json.loads(line) for line in poller.log().splitlines() if line.startswith('{"_aws"')]


@pytest.mark.parameters(SecurityHubRegions="us-east-1,eu-west-1")
def test_metrics_are_written_for_each_region(aws: local.StandIn, stack: local.Stack, poller: local.Function) -> None:
    subscribe(aws, "us-east-1", "eu-west-1")
    aws.import_findings([finding(1, ProcessedAt="2026-11-01T00:01:31Z"), finding(2)])
    aws.fail({"service": "securityhub", "operation": "GetFindings", "code": "TooManyRequestsException", "status": 429})
    poller.invoke({})
    of_run = {name: value for line in metrics(poller) if "Region" not in line for name, value in line.items()}
    lines = {line["Region"]: line for line in metrics(poller) if "Region" in line}
    assert set(lines) == {"us-east-1", "eu-west-1"}
    line = lines["us-east-1"]
    # The poll and the first sweep have seen both.
    assert (line["FindingsSeen"], line["EventsSent"], line["DuplicatesSkipped"]) == (4, 2, 2)
    assert line["Lateness"] == 90
    assert line["OldestUndeliveredAge"] in range(60)
    assert sum(line["Throttles"] for line in lines.values()) == 1
    assert line["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "AiSOC/SecurityHub"
    assert all(line["SweepAge"] in range(60) for line in lines.values())
    assert (of_run["PollsSucceeded"], of_run["EventsParked"]) == (1, 0)
    assert of_run["FunctionName"] == stack.outputs["PollerFunctionName"]


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("incremental", "through", {"S": "yesterday"}),
        ("incremental", "through", {"S": "2099-01-01T00:00:00Z"}),
        ("incremental", "through", {"N": "7"}),
        ("incremental", "window", {"S": "x"}),
        ("incremental", "window", {"M": {"end": {"S": "x"}}}),
        ("sweep", "last_started_at", {"S": "yesterday"}),
        ("sweep", "pass", {"M": {}}),
    ],
)
def test_a_checkpoint_edited_to_nonsense_is_an_error_that_names_the_item(
    name: str, attribute: str, value: dict[str, str], aws: local.StandIn, stack: local.Stack, poller: local.Function
) -> None:
    subscribe(aws)
    aws.import_findings([finding(1)])
    poller.invoke({})
    item = checkpoint(aws, stack, name)
    put(aws, stack, {**item, attribute: value})
    aws.import_findings([recent(2)])
    with pytest.raises(local.FunctionError) as failure:
        poller.invoke({})
    assert "us-east-1 (invalid_request)" in failure.value.message
    (line,) = [line for line in poller.log().splitlines() if '"poll failed"' in line]
    assert item["pk"]["S"] in line and item["sk"]["S"] in line and "UnreadableItem" in line
    # WHEN it is deleted, as the remedy says
    aws.client("dynamodb").delete_item(
        TableName=stack.outputs["StateTableName"], Key={key: item[key] for key in ("pk", "sk")}
    )
    # THEN nothing was passed over, and nothing comes twice.
    poller.invoke({})
    assert [event["external_id"] for event in events(aws, stack.outputs["FindingsQueueUrl"])] == [
        "finding-0001",
        "finding-0002",
    ]


def test_a_table_that_is_missing_or_has_another_key(
    aws: local.StandIn, start_poller: Callable[..., local.Function]
) -> None:
    subscribe(aws)
    aws.client("dynamodb").create_table(
        TableName="other-key",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    poller = start_poller(STATE_TABLE_NAME="other-key")
    for name in ("other-key", "missing"):
        with local.Function(local.binary("poller"), {**poller.environment, "STATE_TABLE_NAME": name}) as function:
            with pytest.raises(local.FunctionError) as failure:
                function.invoke({})
            assert "us-east-1 (invalid_request)" in failure.value.message
            assert "check that STATE_TABLE_NAME names a table" in function.log()


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


def test_an_empty_hub_is_a_complete_poll(aws: local.StandIn, stack: local.Stack, poller: local.Function) -> None:
    subscribe(aws)
    report = poller.invoke({})
    assert (report["complete"], report["events_sent"], report["regions"][0]["pages"]) == (True, 0, 1)
    assert operations(aws, "sqs") == []
    assert {"lease", "checkpoint"} >= {item["pk"]["S"].partition("#")[0] for item in items(aws, stack)}


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


@pytest.mark.parameters(SecurityHubRegions="us-east-1, eu-west-1,eu-north-1")
def test_a_connection_test_asks_every_region_and_sends_nothing(
    aws: local.StandIn, poller: local.Function, findings_queue: str
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
            "times": 9,
        }
    )
    answer = poller.invoke(local.event("poll-test-connection"))
    codes = {region["region"]: region.get("error", {}).get("code") for region in answer["regions"]}
    assert codes == {"us-east-1": None, "eu-west-1": "not_subscribed", "eu-north-1": "access_denied"}
    assert answer["success"] is False
    assert "securityhub:GetFindings" in answer["regions"][2]["error"]["remedy"]
    assert operations(aws, "sqs") == []


@pytest.mark.parameters(SecurityHubRegions="us-east-1, eu-west-1,eu-north-1")
def test_a_region_that_fails_stops_no_other_and_fails_the_invocation(
    aws: local.StandIn, poller: local.Function, findings_queue: str
) -> None:
    subscribe(aws, "us-east-1", "eu-north-1")
    aws.import_findings([finding(1)], "us-east-1")
    aws.import_findings([finding(2)], "eu-north-1")
    with pytest.raises(local.FunctionError) as failure:
        poller.invoke({})
    assert failure.value.type == "PollFailed"
    assert failure.value.message == "1 of 3 regions failed: eu-west-1 (not_subscribed); the log has the report"
    assert sorted(event["aws_region"] for event in events(aws, findings_queue)) == ["eu-north-1", "us-east-1"]
    assert "enable Security Hub CSPM in eu-west-1" in poller.log()


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
    # A window in time cannot hold what has no time: reconcile does.
    report = poller.invoke({"mode": "reconcile"})
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
    assert poller.invoke({"mode": "reconcile"})["events_sent"] == 0


def test_everything_wrong_with_the_environment_is_named_at_once(start: Callable[..., local.Function]) -> None:
    poller = start("poller", SECURITY_HUB_REGIONS="Ireland")
    with pytest.raises(local.FunctionError):
        poller.invoke({})
    assert "FINDINGS_QUEUE_URL is not set; STATE_TABLE_NAME is not set" in poller.log()
    assert "SECURITY_HUB_REGIONS: expected a region's code" in poller.log()


def test_an_endpoint_variable_that_is_set_but_empty_counts_as_unset(
    aws: local.StandIn, start_poller: Callable[..., local.Function]
) -> None:
    subscribe(aws)
    poller = start_poller(AWS_ENDPOINT_URL_SQS="", AWS_ENDPOINT_URL_SECURITYHUB="")
    assert poller.invoke({})["complete"] is True
