"""Runs of the poller one after the other and at once: the lease, sweeps, parked events, backfills, what comes and goes
between them, and what they cost. The real binary against the emulator.
"""

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

import local
from conftest import operations
from drain import resident_kib
from test_poller import (
    assert_delivered,
    checkpoint,
    events,
    finding,
    items,
    let_sweep_be_due,
    metrics,
    put,
    recent,
    subscribe,
)

REFUSE = {"service": "sqs", "operation": "SendMessageBatch", "effect": "refuse", "times": 1000}


def at(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ---- one run at a time -----------------------------------------------------------------------------------------------


def hold_lease(aws: local.StandIn, stack: local.Stack, until: datetime) -> None:
    put(
        aws,
        stack,
        {
            "pk": {"S": "lease"},
            "sk": {"S": "lease"},
            "holder": {"S": "another run"},
            "until": {"N": str(round(until.timestamp() * 1000))},
            "expires_at": {"N": str(round(until.timestamp()) + 86400)},
        },
    )


def test_of_two_runs_at_once_one_is_skipped_and_nothing_is_sent_twice(
    aws: local.StandIn, stack: local.Stack, start_poller: Callable[..., local.Function], findings_queue: str
) -> None:
    subscribe(aws)
    aws.import_findings([recent(n) for n in range(40)])
    aws.settings(page_seconds=1)
    pollers, reports = [start_poller(), start_poller()], []
    threads = [threading.Thread(target=lambda p=poller: reports.append(p.invoke({}))) for poller in pollers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    skipped, done = sorted(reports, key=lambda report: report["events_sent"])
    until = datetime.fromisoformat(skipped.pop("until"))
    assert timedelta() < until - datetime.now(UTC) < timedelta(minutes=2)
    assert skipped == {"mode": "incremental", "skipped": True, "complete": False, "regions": [], "events_sent": 0}
    assert (done["complete"], done["events_sent"], "skipped" in done) == (True, 40, False)
    assert len(events(aws, findings_queue)) == 40
    # The lease is given back, and one who was skipped says nothing of success.
    assert items(aws, stack, "lease") == []
    assert sum(line.get("PollsSucceeded", 0) for poller in pollers for line in metrics(poller)) == 1
    assert any("poll skipped: another run is at work" in poller.log() for poller in pollers)


@pytest.mark.parametrize("name", ["poll-reconcile", "poll-backfill"])
def test_who_asks_for_a_run_while_another_is_at_work_is_told_until_when(
    name: str, aws: local.StandIn, stack: local.Stack, poller: local.Function
) -> None:
    subscribe(aws)
    until = (datetime.now(UTC) + timedelta(minutes=3)).replace(microsecond=0)
    hold_lease(aws, stack, until)
    with pytest.raises(local.FunctionError) as failure:
        poller.invoke(local.event(name))
    assert failure.value.type == "Busy"
    assert failure.value.message.startswith(f"busy: another run is at work until {at(until)}")
    assert "GetFindings" not in operations(aws, "securityhub")
    # A connection test disturbs nobody.
    assert poller.invoke(local.event("poll-test-connection"))["success"] is True
    # WHEN the other has ended without a word
    hold_lease(aws, stack, datetime.now(UTC) - timedelta(seconds=1))
    assert poller.invoke(local.event(name))["complete"] is True


# ---- sweeps ----------------------------------------------------------------------------------------------------------


def test_without_sweeps_there_is_none_until_one_is_asked_for(
    aws: local.StandIn, start_poller: Callable[..., local.Function]
) -> None:
    subscribe(aws)
    aws.import_findings([finding(1)])
    poller = start_poller(SWEEP_HOURS="0", INITIAL_LOOKBACK_SECONDS="60")
    report = poller.invoke({})
    assert (report["events_sent"], report["regions"][0]["sweep"]) == (0, None)
    assert all("SweepAge" not in line for line in metrics(poller))
    assert poller.invoke({"mode": "reconcile"})["events_sent"] == 1


def test_a_sweep_goes_on_from_run_to_run_and_its_age_is_measured(
    aws: local.StandIn, start_poller: Callable[..., local.Function], findings_queue: str
) -> None:
    subscribe(aws)
    aws.import_findings([finding(n) for n in range(60)])
    aws.settings(page_size=3)
    poller = start_poller(timeout=4, INITIAL_LOOKBACK_SECONDS="60")
    sweeps = []
    while not sweeps or not sweeps[-1]["complete"]:
        (region,) = poller.invoke({})["regions"]
        # The poll itself has nothing to do.
        assert (region["complete"], region["events_sent"]) == (True, 0)
        sweeps.append(region["sweep"])
        assert len(sweeps) < 60
    assert len(sweeps) > 1
    assert [sweep["last_completed_at"] for sweep in sweeps[:-1]] == [None] * (len(sweeps) - 1)
    assert sweeps[-1]["last_completed_at"].endswith("Z")
    assert_delivered(aws, findings_queue, 60)
    ages = [line["SweepAge"] for line in metrics(poller) if "SweepAge" in line]
    assert ages == sorted(ages) and ages[0] >= 0 and ages[-1] < 300
    # It is not due again.
    assert poller.invoke({})["regions"][0]["sweep"] is None


# ---- events that SQS refuses -----------------------------------------------------------------------------------------


def parked_now(poller: local.Function) -> int:
    """The metric, as the last run wrote it."""
    return [line["EventsParked"] for line in metrics(poller) if "EventsParked" in line][-1]


def test_an_event_that_sqs_refuses_for_good_holds_nobody_up(
    aws: local.StandIn, stack: local.Stack, poller: local.Function, findings_queue: str
) -> None:
    subscribe(aws)
    aws.import_findings([recent(n) for n in range(10)])
    aws.fail({**REFUSE, "text": "finding-0003", "code": "InvalidMessageContents"})
    report = poller.invoke({})
    (region,) = report["regions"]
    assert (report["complete"], report["events_sent"], "error" in region) == (True, 9, False)
    assert region["events_parked"] >= 1
    assert "through" in checkpoint(aws, stack)
    (parked,) = items(aws, stack, "parked#")
    assert (parked["finding_id"]["S"], parked["code"]["S"]) == ("finding-0003", "InvalidMessageContents")
    assert parked["is_parked"]["BOOL"] is True
    line = next(json.loads(line) for line in poller.log().splitlines() if '"event parked"' in line)
    assert line["fields"]["event_id"] == parked["sk"]["S"]
    assert line["fields"]["code"] == "InvalidMessageContents"
    assert parked_now(poller) == 1
    # The polls after it pass it by.
    sends = operations(aws, "sqs").count("SendMessageBatch")
    assert poller.invoke({})["events_sent"] == 0
    assert operations(aws, "sqs").count("SendMessageBatch") == sends
    # WHEN a sweep is due it is offered again, in vain
    let_sweep_be_due(aws, stack)
    report = poller.invoke({})
    assert (report["complete"], report["events_sent"], report["regions"][0]["events_parked"]) == (True, 0, 1)
    assert operations(aws, "sqs").count("SendMessageBatch") == sends + 1
    # WHEN SQS takes it
    aws.fail()
    let_sweep_be_due(aws, stack)
    assert poller.invoke({})["events_sent"] == 1
    assert items(aws, stack, "parked#") == []
    assert parked_now(poller) == 0
    delivered = [event["external_id"] for event in events(aws, findings_queue)]
    assert sorted(delivered) == [f"finding-{n:04}" for n in range(10)]
    assert delivered[-1] == "finding-0003"


def test_a_parked_event_whose_finding_was_resolved_is_forgotten(
    aws: local.StandIn, stack: local.Stack, poller: local.Function, findings_queue: str
) -> None:
    subscribe(aws)
    text = recent(3)
    aws.import_findings([text])
    aws.fail({**REFUSE, "text": "finding-0003", "code": "InvalidMessageContents"})
    assert poller.invoke({})["complete"] is True
    assert len(items(aws, stack, "parked#")) == 1
    aws.import_findings([text.replace('"NEW"', '"RESOLVED"')])
    aws.fail()
    let_sweep_be_due(aws, stack)
    assert poller.invoke({})["events_sent"] == 0
    assert (items(aws, stack, "parked#"), events(aws, findings_queue)) == ([], [])
    assert parked_now(poller) == 0


def test_an_event_refused_in_three_runs_is_parked(
    aws: local.StandIn, stack: local.Stack, start_poller: Callable[..., local.Function], findings_queue: str
) -> None:
    subscribe(aws)
    aws.import_findings([recent(n) for n in range(5)])
    aws.fail({**REFUSE, "text": "finding-0003", "code": "InternalError", "for_good": False})
    poller = start_poller(SWEEP_HOURS="0")
    for _ in range(2):
        with pytest.raises(local.FunctionError) as failure:
            poller.invoke({})
        assert "us-east-1 (delivery_failed)" in failure.value.message
        assert parked_now(poller) == 0
    report = poller.invoke({})
    assert (report["complete"], report["regions"][0]["events_parked"]) == (True, 1)
    assert len(events(aws, findings_queue)) == 4
    # WHEN SQS has come round: a reconcile offers it again
    aws.fail()
    assert poller.invoke({"mode": "reconcile"})["events_sent"] == 1
    assert items(aws, stack, "parked#") == []


# ---- backfills -------------------------------------------------------------------------------------------------------


def test_a_backfill_to_the_end_of_today_can_be_asked_for_twice(
    aws: local.StandIn, stack: local.Stack, start_poller: Callable[..., local.Function], findings_queue: str
) -> None:
    subscribe(aws)
    aws.import_findings([recent(n) for n in range(30)])
    aws.settings(page_size=3)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    event = {"mode": "backfill", "start": at(today - timedelta(days=1)), "end": at(today + timedelta(days=1))}
    poller = start_poller(timeout=3)
    reports = [poller.invoke(event)]
    while not reports[-1]["complete"]:
        reports.append(poller.invoke(event))
        assert len(reports) < 30
    assert len(reports) > 1
    assert all(report["regions"][0]["sweep"] is None for report in reports)
    assert_delivered(aws, findings_queue, 30)
    # Nothing is left of it in the table, and what came since is found by the same again.
    assert [item["sk"]["S"] for item in items(aws, stack, "checkpoint#")] == []
    aws.settings()
    aws.import_findings([recent(30)])
    report = poller.invoke(event)
    assert (report["complete"], report["events_sent"]) == (True, 1)


# ---- what is asked for -----------------------------------------------------------------------------------------------


def test_playbooks_can_see_findings_close(
    aws: local.StandIn, start_poller: Callable[..., local.Function], findings_queue: str
) -> None:
    subscribe(aws)
    text = recent(1)
    aws.import_findings([text, recent(2, RecordState="ARCHIVED"), recent(3, Workflow={"Status": "SUPPRESSED"})])
    poller = start_poller(WORKFLOW_STATUSES="NEW,NOTIFIED,RESOLVED", RECORD_STATES="ACTIVE,ARCHIVED")
    assert poller.invoke({})["events_sent"] == 2
    aws.import_findings([text.replace('"NEW"', '"RESOLVED"')])
    assert poller.invoke({})["events_sent"] == 1
    states = [(e["external_id"], e["workflow_status"], e["record_state"]) for e in events(aws, findings_queue)]
    assert sorted(states) == [
        ("finding-0001", "NEW", "ACTIVE"),
        ("finding-0001", "RESOLVED", "ACTIVE"),
        ("finding-0002", "NEW", "ARCHIVED"),
    ]


def test_filters_of_any_length_have_keys_that_dynamodb_takes(
    aws: local.StandIn, start_poller: Callable[..., local.Function]
) -> None:
    names = [f"{n:02}{'x' * 110}" for n in range(20)]
    subscribe(aws)
    aws.import_findings([finding(1, ProductName=names[19])])
    poller = start_poller(PRODUCT_NAMES=",".join(names))
    report = poller.invoke({})
    assert (report["complete"], report["events_sent"]) == (True, 1)


@pytest.mark.parameters(SecurityHubRegions="us-east-1,eu-west-1")
def test_a_finding_without_a_region_that_two_regions_show_is_sent_once(
    aws: local.StandIn, poller: local.Function, findings_queue: str
) -> None:
    subscribe(aws, "us-east-1", "eu-west-1")
    text = recent(1)
    for region in ("us-east-1", "eu-west-1"):
        aws.import_findings([text], region)
    assert poller.invoke({})["events_sent"] == 1
    assert poller.invoke({})["events_sent"] == 0
    assert len(events(aws, findings_queue)) == 1


# ---- credentials and the network -------------------------------------------------------------------------------------


def test_a_rotated_key_is_read_again(aws: local.StandIn, start_poller: Callable[..., local.Function]) -> None:
    def key(name: str) -> str:
        return json.dumps({"AccessKeyId": name, "SecretAccessKey": "very-secret"})

    subscribe(aws)
    secrets = aws.client("secretsmanager")
    secret = secrets.create_secret(Name="aisoc/key", SecretString=key("AKIAOLDKEY"))["ARN"]
    poller = start_poller(STATIC_CREDENTIALS_SECRET_ARN=secret)
    assert poller.invoke({})["complete"] is True
    secrets.put_secret_value(SecretId=secret, SecretString=key("AKIANEWKEY"))
    code = "UnrecognizedClientException"
    aws.fail({"service": "securityhub", "operation": "GetFindings", "code": code, "status": 403})
    before = len(aws.calls())
    assert poller.invoke({})["complete"] is True
    calls = aws.calls()[before:]
    keys = [call["access_key"] for call in calls if call["service"] == "securityhub"]
    assert (keys[0], keys[-1]) == ("AKIAOLDKEY", "AKIANEWKEY")
    # Queue and table are called with the function's own.
    assert all(not call["access_key"].startswith("AKIA") for call in calls if call["service"] in ("sqs", "dynamodb"))


def test_connections_that_died_unnoticed_fail_no_poll(
    aws: local.StandIn, start_poller: Callable[..., local.Function]
) -> None:
    subscribe(aws)
    aws.import_findings([recent(n) for n in range(60)])
    poller = start_poller(timeout=120, SWEEP_HOURS="0")
    # Many calls at once, over as many connections as are kept
    aws.settings(latency_ms=50, page_size=10)
    assert poller.invoke({})["events_sent"] == 60
    aws.forget_connections()
    aws.import_findings([recent(n) for n in range(60, 70)])
    assert poller.invoke({})["events_sent"] == 10


def test_a_page_that_takes_long_comes_at_the_second_attempt(
    aws: local.StandIn, start_poller: Callable[..., local.Function]
) -> None:
    subscribe(aws)
    aws.import_findings([recent(1)])
    aws.settings(page_seconds=18)
    report = start_poller(timeout=120, SWEEP_HOURS="0").invoke({})
    assert (report["complete"], report["events_sent"]) == (True, 1)
    assert operations(aws, "securityhub").count("GetFindings") == 2


# ---- what it costs ---------------------------------------------------------------------------------------------------

OF_A_RUN = 3  # the lease taken and given back, what is parked


def test_calls_of_pages_and_of_idle_polls_are_few(
    aws: local.StandIn, start_poller: Callable[..., local.Function]
) -> None:
    def run(poller: local.Function) -> tuple[int, int, int]:
        before = len(aws.calls())
        report = poller.invoke({})
        assert report["complete"]
        calls = len(aws.calls()) - before
        return calls, report["regions"][0]["pages"], report["events_sent"]

    subscribe(aws)
    start = datetime.now(UTC) - timedelta(minutes=20)
    # Before midnight or after it, as the last page or two would have items of two days.
    start = max(start, start.replace(hour=0, minute=21)) if start.hour == 23 or start.hour == 0 else start
    aws.import_findings([finding(n, UpdatedAt=at(start + timedelta(seconds=n))) for n in range(582)])
    poller = start_poller(SWEEP_HOURS="0")
    calls, pages, sent = run(poller)
    # Of a region: its checkpoint is read and kept.
    assert (sent, pages) == (582, 6)
    assert calls <= OF_A_RUN + 2 + 14 * pages
    for again in (poller, start_poller(SWEEP_HOURS="0")):
        calls, pages, sent = run(again)
        assert (sent, pages >= 6) == (0, True)
        assert calls <= OF_A_RUN + 2 + 2 * pages


@pytest.mark.parameters(SecurityHubRegions="us-east-1,eu-west-1", SweepHours="0")
def test_an_idle_poll_makes_five_calls_a_region_at_most(aws: local.StandIn, poller: local.Function) -> None:
    subscribe(aws, "us-east-1", "eu-west-1")
    for region in ("us-east-1", "eu-west-1"):
        aws.import_findings([recent(n, Region=region) for n in range(10)], region)
    poller.invoke({})
    before = len(aws.calls())
    assert poller.invoke({})["regions"][0]["duplicates_skipped"] == 10
    assert len(aws.calls()) - before <= OF_A_RUN + 2 * 5


MINUTES_A_MONTH = 30 * 24 * 60
A_POLL = round(1_000_000 / (MINUTES_A_MONTH / 5))  # of a million findings a month, polled every 5 minutes


def test_request_units_of_a_million_findings_a_month(
    aws: local.StandIn, stack: local.Stack, start_poller: Callable[..., local.Function]
) -> None:
    """Of a poll every 5 minutes with an overlap of an hour, each by a process that knows nothing: here 5 seconds, and a
    minute."""
    subscribe(aws)
    table = stack.outputs["StateTableName"]
    settings = {"LOOKBACK_SECONDS": "60", "SWEEP_HOURS": "0"}
    now = datetime.now(UTC)
    hour = 12 * A_POLL
    aws.import_findings([finding(n, UpdatedAt=at(now - timedelta(seconds=60 * n / hour))) for n in range(hour)])
    assert start_poller(**settings).invoke({})["events_sent"] == hour
    polls, number, last = 3, hour, datetime.now(UTC)
    before = aws.units(table)
    for _ in range(polls):
        time.sleep(max(0, 5 - (datetime.now(UTC) - last).total_seconds()))
        now = datetime.now(UTC)
        step = (now - last) / A_POLL
        aws.import_findings([finding(number + n, UpdatedAt=at(last + step * n)) for n in range(A_POLL)])
        number, last = number + A_POLL, now
        report = start_poller(**settings).invoke({})
        assert (report["complete"], report["events_sent"]) == (True, A_POLL)
        assert report["regions"][0]["duplicates_skipped"] > hour / 2
    used = {kind: units - before[kind] for kind, units in aws.units(table).items()}
    a_million = {kind: units / (polls * A_POLL) for kind, units in used.items()}
    print(f"request units a finding: {a_million}")
    assert a_million["read"] <= 0.3
    assert a_million["write"] <= 0.3


def test_a_backlog_drains_through_short_runs_with_flat_memory(
    aws: local.StandIn, start_poller: Callable[..., local.Function]
) -> None:
    count = 6000
    subscribe(aws)
    # A hundred and more of one instant, and instants that cross the end of a page
    start = datetime(2026, 11, 1, tzinfo=UTC)
    texts = [
        finding(n, UpdatedAt=at(start + timedelta(seconds=n // 130)), Description="d" * 2000) for n in range(count)
    ]
    aws.import_findings(texts)
    poller = start_poller(timeout=12, SWEEP_HOURS="0")
    sent, kib = 0, []
    for _ in range(60):
        report = poller.invoke({})
        sent += report["events_sent"]
        kib.append(max(map(resident_kib, poller.processes()[1:])))
        if report["complete"]:
            break
    assert report["complete"] and len(kib) > 2
    # A call that the end of a run cuts off may have been carried out.
    assert sent <= count
    assert len({message["attributes"]["event_id"] for message in aws.messages()}) == count
    assert kib[-1] <= 1.2 * kib[0], kib
