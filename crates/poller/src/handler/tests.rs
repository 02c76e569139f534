use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::pin;
use std::task::Poll;

use aws_support::ErrorKind;
use aws_support::clock::Clock as _;
use serde_json::json;

use super::*;
use crate::delivery::sqs::SEND_MESSAGE;
use crate::poll::checkpoint::{CheckpointKey, Lookback};
use crate::security_hub::{Filters, GET_FINDINGS, Range};
use crate::testing::{Given, Hub, MemoryTable, Metrics, Queue, WallClock};

type TestPoller = Poller<Hub, Queue, MemoryTable, WallClock, Metrics>;

const NOW: &str = "2026-11-23T10:00:00Z";
const US: &[&str] = &["us-east-1"];
const EU: &[&str] = &["eu-west-1"];
const BOTH: &[&str] = &["us-east-1", "eu-west-1"];

fn milliseconds(time: &str) -> i64 {
    time.parse::<Timestamp>().unwrap().as_millisecond()
}

fn given_at(regions: &'static [&'static str], id: &str, updated: i64) -> Given {
    let at = Timestamp::from_millisecond(updated).unwrap();
    let finding = json!({"Id": id, "ProductArn": "p", "AwsAccountId": "111122223333", "UpdatedAt": format!("{at:.3}")});
    Given {
        regions,
        updated,
        text: finding.to_string(),
    }
}

/// A finding, updated so many seconds before now.
fn given(regions: &'static [&'static str], id: &str, seconds_ago: i64) -> Given {
    given_at(regions, id, milliseconds(NOW) - seconds_ago * 1000)
}

fn poller(regions: &[&str], hub: Hub) -> TestPoller {
    Poller {
        config: Config {
            function_name: "poller".to_owned(),
            findings_queue_url: String::new(),
            state_table_name: String::new(),
            filters: Filters::default(),
            lookback: Lookback {
                overlap: Duration::from_hours(1),
                initial: None,
                settle: Duration::ZERO,
            },
            sweep_every: None,
            state_ttl: Duration::from_hours(24 * 120),
            static_credentials_secret_arn: None,
            regions: regions.iter().map(|region| region.parse().unwrap()).collect(),
        },
        source: hub,
        sink: Queue::default(),
        table: MemoryTable::default(),
        clock: WallClock(Cell::new(NOW.parse().unwrap())),
        metrics: Metrics::default(),
        memory: Memory::default(),
    }
}

fn error(kind: ErrorKind, code: &str) -> AwsError {
    AwsError {
        code: Some(code.to_owned()),
        ..AwsError::new(GET_FINDINGS, kind, "no".to_owned())
    }
}

fn instead(answers: &[(&'static str, Result<String, AwsError>)]) -> Hub {
    let mut instead: HashMap<&'static str, Vec<_>> = HashMap::new();
    for (region, answer) in answers {
        instead.entry(region).or_default().push(answer.clone());
    }
    Hub {
        instead: RefCell::new(instead),
        page: 10,
        ..Hub::default()
    }
}

async fn run(poller: &TestPoller, input: Value) -> Result<Value, Diagnostic> {
    let number = poller.table.calls.borrow().values().sum::<u64>();
    poller
        .handle(
            &input,
            &format!("run-{number}"),
            &Deadline::after(Duration::from_mins(4)),
        )
        .await
}

fn sent(poller: &TestPoller) -> Vec<String> {
    let bodies = poller.sink.bodies.borrow();
    let mut ids: Vec<String> = bodies
        .iter()
        .map(|body| body["external_id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

#[tokio::test(start_paused = true)]
async fn every_page_of_every_region_is_delivered_and_a_second_poll_sends_nothing() {
    let findings = vec![
        given(US, "a", 500),
        given(US, "b", 400),
        given(US, "c", 300),
        given(US, "d", 200),
        given(EU, "e", 100),
    ];
    let poller = poller(BOTH, Hub::of(findings, 3));
    assert_eq!(
        run(&poller, json!({})).await.unwrap(),
        json!({"mode": "incremental", "complete": true, "events_sent": 5, "regions": [
            {"region": "us-east-1", "pages": 2, "findings_seen": 6, "events_sent": 4, "duplicates_skipped": 2,
             "updated_through": "2026-11-23T10:00:00.000Z", "complete": true, "sweep": null},
            {"region": "eu-west-1", "pages": 1, "findings_seen": 1, "events_sent": 1, "duplicates_skipped": 0,
             "updated_through": "2026-11-23T10:00:00.000Z", "complete": true, "sweep": null},
        ]})
    );
    assert_eq!(sent(&poller), ["a", "b", "c", "d", "e"]);
    let ingested_at = poller.sink.bodies.borrow()[0]["ingested_at"].clone();
    assert_eq!(ingested_at, "2026-11-23T10:00:00.000Z");
    let again = run(&poller, json!({})).await.unwrap();
    assert_eq!((&again["complete"], &again["events_sent"]), (&json!(true), &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn a_finding_that_two_regions_give_is_sent_once_though_it_names_no_region() {
    // GIVEN cross-region aggregation: the home region gives the findings of the other as well
    let findings = vec![
        given(US, "a", 400),
        given(BOTH, "b", 300),
        given(BOTH, "c", 200),
        given(EU, "d", 100),
    ];
    let mut poller = poller(BOTH, Hub::of(findings, 10));
    poller.sink.latency = Duration::from_millis(300);
    let report = run(&poller, json!({})).await.unwrap();
    assert_eq!((&report["complete"], &report["events_sent"]), (&json!(true), &json!(4)));
    assert_eq!(sent(&poller), ["a", "b", "c", "d"]);
    let skipped = |region: usize| report["regions"][region]["duplicates_skipped"].as_u64().unwrap();
    assert_eq!(skipped(0) + skipped(1), 2);
}

#[tokio::test(start_paused = true)]
async fn regions_that_wait_for_one_another_sleep() {
    // GIVEN a home region, two linked ones, and a slow queue
    const ALL: &[&str] = &["us-east-1", "eu-west-1", "eu-north-1"];
    let findings = (0..5).map(|n| given(ALL, &n.to_string(), 500 - n)).collect();
    let mut poller = poller(ALL, Hub::of(findings, 10));
    poller.sink.latency = Duration::from_millis(300);
    let mut running = pin!(run(&poller, json!({})));
    let mut wake_ups = 0;
    let report = std::future::poll_fn(|context| {
        wake_ups += 1;
        assert!(wake_ups < 100, "they wake each other");
        match running.as_mut().poll(context) {
            Poll::Ready(report) => Poll::Ready(report.unwrap()),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    assert_eq!(report["events_sent"], 5);
}

#[tokio::test(start_paused = true)]
async fn a_region_that_fails_stops_no_other_and_fails_the_invocation() {
    let mut hub = instead(&[
        ("eu-west-1", Err(error(ErrorKind::Rejected, "InvalidAccessException"))),
        ("eu-north-1", Err(error(ErrorKind::Throttled, "T"))),
    ]);
    hub.findings.push(given(US, "a", 100));
    let poller = poller(&["eu-west-1", "us-east-1", "eu-north-1"], hub);
    let failure = run(&poller, json!({"mode": "reconcile"})).await.unwrap_err();
    assert_eq!(failure.error_type, "PollFailed");
    assert_eq!(
        failure.error_message,
        "2 of 3 regions failed: eu-west-1 (not_subscribed), eu-north-1 (throttled); the log has the report"
    );
    assert_eq!(sent(&poller), ["a"]);
    // The lease is given back all the same.
    assert!(poller.table.lease.borrow().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_event_at_fault_is_parked_at_once_and_offered_again_by_the_sweep() {
    let findings = vec![given(US, "a", 300), given(US, "bad", 200), given(US, "c", 100)];
    let mut poller = poller(US, Hub::of(findings, 10));
    poller.config.sweep_every = Some(SignedDuration::from_hours(6));
    *poller.sink.refuses.borrow_mut() = Some(("bad", true));
    let report = run(&poller, json!({})).await.unwrap();
    assert_eq!(report["complete"], true);
    // Once by the poll, once by the sweep that followed.
    assert_eq!(report["regions"][0]["events_parked"], 2);
    assert_eq!(sent(&poller), ["a", "c"]);
    let parked = |poller: &TestPoller| {
        let lines = poller.metrics.0.borrow();
        lines.iter().rev().find_map(|line| line.get("EventsParked").cloned())
    };
    assert_eq!(parked(&poller), Some(json!(1)));
    // Later polls leave it alone.
    let batches = poller.sink.batches.get();
    let report = run(&poller, json!({})).await.unwrap();
    assert_eq!(
        (&report["complete"], poller.sink.batches.get()),
        (&json!(true), batches)
    );
    assert_eq!(parked(&poller), Some(json!(1)));
    // Once SQS takes it, a sweep sends it.
    *poller.sink.refuses.borrow_mut() = None;
    let report = run(&poller, json!({"mode": "reconcile"})).await.unwrap();
    assert_eq!(report["events_sent"], 1);
    assert_eq!(sent(&poller), ["a", "bad", "c"]);
    assert!(poller.table.parked.borrow().is_empty());
    assert_eq!(parked(&poller), Some(json!(0)));
}

#[tokio::test(start_paused = true)]
async fn a_parked_event_whose_finding_is_resolved_is_forgotten_by_the_next_whole_sweep() {
    let mut poller = poller(US, Hub::of(vec![given(US, "bad", 200)], 10));
    *poller.sink.refuses.borrow_mut() = Some(("bad", true));
    run(&poller, json!({})).await.unwrap();
    assert_eq!(poller.table.parked.borrow().len(), 1);
    poller.source.findings.clear();
    poller.clock.0.set(poller.clock.now() + SignedDuration::from_hours(2));
    run(&poller, json!({"mode": "reconcile"})).await.unwrap();
    assert!(poller.table.parked.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_event_that_sqs_does_not_take_in_three_runs_is_parked_and_holds_nobody_up() {
    let findings = vec![given(US, "a", 300), given(US, "bad", 200)];
    let poller = poller(US, Hub::of(findings, 10));
    *poller.sink.refuses.borrow_mut() = Some(("bad", false));
    for _ in 0..2 {
        let failure = run(&poller, json!({})).await.unwrap_err();
        assert!(failure.error_message.contains("us-east-1 (delivery_failed)"));
        let kept = poller.table.load_now(&key(&poller));
        assert_eq!(kept.incremental.unwrap().unwrap().through, None);
    }
    let report = run(&poller, json!({})).await.unwrap();
    assert_eq!(report["complete"], true);
    assert_eq!(report["regions"][0]["updated_through"], "2026-11-23T10:00:00.000Z");
    assert_eq!(sent(&poller), ["a"]);
}

fn key(poller: &TestPoller) -> CheckpointKey {
    CheckpointKey {
        region: poller.config.regions[0].clone(),
        filters: poller.config.filters.key(),
    }
}

#[tokio::test(start_paused = true)]
async fn running_out_of_time_is_no_failure_and_the_next_run_goes_on() {
    let findings = (0..10).map(|n| given(US, &n.to_string(), 500 - n)).collect();
    let poller = poller(US, Hub::of(findings, 4));
    poller.source.pages_left.set(Some(1));
    let report = run(&poller, json!({})).await.unwrap();
    assert_eq!(
        (&report["complete"], &report["events_sent"]),
        (&json!(false), &json!(4))
    );
    assert!(report["regions"][0].get("error").is_none());
    poller.source.pages_left.set(None);
    let report = run(&poller, json!({})).await.unwrap();
    assert_eq!((&report["complete"], &report["events_sent"]), (&json!(true), &json!(6)));
}

#[tokio::test(start_paused = true)]
async fn one_pair_out_of_order_and_stale_tokens_still_end_with_a_page_a_run() {
    let mut findings: Vec<Given> = (0..50).map(|n| given(US, &n.to_string(), 500 - n)).collect();
    for pair in [9, 20, 27, 33] {
        findings.swap(pair, pair + 1);
    }
    let poller = poller(US, Hub::of(findings, 10));
    poller.source.has_stale_tokens.set(true);
    for runs in 0.. {
        assert!(runs < 30, "{} of 50 after {runs} runs", sent(&poller).len());
        poller.source.pages_left.set(Some(1));
        run(&poller, json!({})).await.unwrap();
        if poller
            .table
            .load_now(&key(&poller))
            .incremental
            .unwrap()
            .unwrap()
            .through
            .is_some()
        {
            break;
        }
    }
    assert_eq!(sent(&poller).len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_document_newer_than_its_index_moves_no_position() {
    // GIVEN that the last of the first page says a time after the window's end, and the run ends there
    let mut findings: Vec<Given> = (0..10).map(|n| given(US, &n.to_string(), 500 - n)).collect();
    findings[3].text = given(US, "3", -3600).text;
    let poller = poller(US, Hub::of(findings, 4));
    poller.source.pages_left.set(Some(1));
    assert_eq!(run(&poller, json!({})).await.unwrap()["complete"], false);
    poller.source.pages_left.set(None);
    assert_eq!(run(&poller, json!({})).await.unwrap()["complete"], true);
    assert_eq!(sent(&poller).len(), 10);
}

#[tokio::test(start_paused = true)]
async fn more_findings_of_one_instant_than_a_page_are_read_by_token_and_all_others_are_not() {
    let mut findings: Vec<Given> = (0..25).map(|n| given(US, &format!("same-{n}"), 300)).collect();
    findings.insert(0, given(US, "before", 301));
    findings.extend((0..9).map(|n| given(US, &format!("after-{n}"), 200 - n)));
    let poller = poller(US, Hub::of(findings, 10));
    assert_eq!(run(&poller, json!({})).await.unwrap()["complete"], true);
    assert_eq!(sent(&poller).len(), 35);
    for (_, query, token) in poller.source.calls.borrow().iter() {
        let range = query.updated.unwrap();
        assert!(token.is_none() || range.end.duration_since(range.start) < SignedDuration::from_millis(1));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_page_or_tokens_that_come_again_are_errors_in_the_end() {
    let no_page = instead(&[("us-east-1", Ok("<html>".to_owned()))]);
    let again = || ("us-east-1", Ok(r#"{"Findings":[],"NextToken":"1"}"#.to_owned()));
    for hub in [no_page, instead(&std::array::from_fn::<_, 20, _>(|_| again()))] {
        let poller = poller(US, hub);
        let failure = run(&poller, json!({})).await.unwrap_err();
        assert!(
            failure.error_message.contains("us-east-1 (unreachable)"),
            "{}",
            failure.error_message
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_down_is_an_error_of_the_region() {
    let poller = poller(US, Hub::of(vec![given(US, "a", 100)], 10));
    let down = AwsError::new(SEND_MESSAGE, ErrorKind::AccessDenied, "no".to_owned());
    *poller.sink.error.borrow_mut() = Some(down);
    let failure = run(&poller, json!({})).await.unwrap_err();
    assert!(failure.error_message.contains("us-east-1 (access_denied)"));
    *poller.sink.error.borrow_mut() = None;
    assert_eq!(run(&poller, json!({})).await.unwrap()["events_sent"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_state_table_that_cannot_be_used_is_an_error_of_every_region() {
    let poller = poller(BOTH, Hub::of(vec![given(US, "a", 100)], 10));
    let denied = AwsError::new("dynamodb:PutItem", ErrorKind::AccessDenied, "no".to_owned());
    *poller.table.refuses.borrow_mut() = Some(denied);
    let failure = run(&poller, json!({})).await.unwrap_err();
    assert_eq!(
        failure.error_message,
        "2 of 2 regions failed: us-east-1 (access_denied), eu-west-1 (access_denied); the log has the report"
    );
    assert!(sent(&poller).is_empty());
    let lines = poller.metrics.0.borrow();
    assert!(lines.iter().any(|line| line["PollsSucceeded"] == 0));
}

#[tokio::test(start_paused = true)]
async fn a_backfill_asks_for_its_range_and_works_as_often_as_it_is_asked_for() {
    // GIVEN an end in the future
    let (start, end) = ("2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z");
    let findings = (0..30).map(|n| given(US, &n.to_string(), 500 - n)).collect();
    let poller = poller(US, Hub::of(findings, 10));
    for (pages_left, complete) in [(Some(2), false), (None, true), (None, true)] {
        poller.source.pages_left.set(pages_left);
        let report = run(&poller, json!({"mode": "backfill", "start": start, "end": end}))
            .await
            .unwrap();
        assert_eq!(
            (&report["mode"], &report["complete"]),
            (&json!("backfill"), &json!(complete))
        );
    }
    assert_eq!(sent(&poller).len(), 30);
    let range = Range {
        start: start.parse().unwrap(),
        end: end.parse().unwrap(),
    };
    let first = poller.source.calls.borrow()[0].1.clone();
    assert_eq!(first, Query::pages(Filters::default(), Some(range)));
    assert!(poller.table.checkpoints.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn wrong_input_polls_nothing() {
    let poller = poller(US, Hub::default());
    let failure = run(&poller, json!({"mode": "pull"})).await.unwrap_err();
    assert_eq!(failure.error_type, "InvalidInput");
    assert!(failure.error_message.starts_with("mode must be"));
    assert!(poller.source.calls.borrow().is_empty() && poller.table.calls.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn while_another_run_is_at_work_a_scheduled_one_is_skipped_and_others_are_told() {
    let poller = poller(US, Hub::of(vec![given(US, "a", 100)], 10));
    let until: Timestamp = "2026-11-23T10:03:00Z".parse().unwrap();
    *poller.table.lease.borrow_mut() = Some(Lease {
        holder: "other".to_owned(),
        until,
    });
    assert_eq!(
        run(&poller, json!({})).await.unwrap(),
        json!({"mode": "incremental", "skipped": true, "until": "2026-11-23T10:03:00.000Z", "complete": false,
               "regions": [], "events_sent": 0})
    );
    let backfill = json!({"mode": "backfill", "start": NOW, "end": NOW});
    for input in [json!({"mode": "reconcile"}), backfill] {
        let failure = run(&poller, input).await.unwrap_err();
        assert_eq!(failure.error_type, "Busy");
        assert!(failure.error_message.contains("until 2026-11-23T10:03:00.000Z"));
    }
    assert!(poller.source.calls.borrow().is_empty());
    assert_eq!(
        run(&poller, json!({"mode": "test_connection"})).await.unwrap()["success"],
        true
    );
    // It ends with the invocation that took it, however that one ended.
    poller.clock.0.set(until + SignedDuration::from_secs(1));
    assert_eq!(run(&poller, json!({})).await.unwrap()["events_sent"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_test_asks_each_region_for_one_finding_and_sends_nothing() {
    let mut hub = instead(&[
        (
            "eu-west-1",
            Err(error(ErrorKind::AccessDenied, "AccessDeniedException")),
        ),
        ("eu-north-1", Err(AwsError::out_of_time(GET_FINDINGS))),
    ]);
    hub.findings.push(given(US, "a", 100));
    let poller = poller(&["us-east-1", "eu-west-1", "eu-north-1"], hub);
    let report = run(&poller, json!({"mode": "test_connection"})).await.unwrap();
    assert_eq!(report["success"], false);
    assert_eq!(report["connector"], "aws_security_hub");
    assert_eq!(report["capabilities"], json!(["PULL_ALERTS", "BLOCK_IP", "ALLOW_IP"]));
    assert_eq!(report["regions"][0], json!({"region": "us-east-1", "success": true}));
    assert_eq!(report["regions"][1]["error"]["code"], "access_denied");
    assert_eq!(report["regions"][2]["error"]["code"], "unreachable");
    let calls = poller.source.calls.borrow();
    assert_eq!(calls.len(), 3);
    assert!(calls.iter().all(|(_, query, _)| query.page_size == 1));
    assert!(poller.sink.bodies.borrow().is_empty() && poller.table.calls.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_edited_to_nonsense_is_an_error_that_names_it_and_stops_only_what_needs_it() {
    let poller = poller(US, Hub::of(vec![given(US, "a", 100)], 10));
    run(&poller, json!({})).await.unwrap();
    let name = poller.table.checkpoints.borrow().keys().next().unwrap().clone();
    for nonsense in [
        r#"{"through":"2099-01-01T00:00:00Z"}"#,
        r#"{"through":7}"#,
        r#"{"window":{"start":"2026-11-23T00:00:00Z","end":"2026-11-23T01:00:00Z","position":"2026-11-23T02:00:00Z"}}"#,
        r#"{"window":{"start":"2026-11-23T02:00:00Z","end":"2026-11-23T01:00:00Z"}}"#,
        r#"{"window":{"end":"2026-11-23T01:00:00Z"}}"#,
    ] {
        poller
            .table
            .checkpoints
            .borrow_mut()
            .insert(name.clone(), nonsense.to_owned());
        let failure = run(&poller, json!({})).await.unwrap_err();
        assert!(
            failure.error_message.contains("us-east-1 (invalid_request)"),
            "{nonsense}"
        );
        let backfill = json!({"mode": "backfill", "start": NOW, "end": NOW});
        assert_eq!(run(&poller, backfill).await.unwrap()["complete"], true);
        assert_eq!(
            run(&poller, json!({"mode": "reconcile"})).await.unwrap()["complete"],
            true
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_sweep_finds_an_edit_and_begins_as_often_as_is_set() {
    let day = 86_400;
    let mut poller = poller(US, Hub::of(vec![given(US, "a", day), given(US, "b", day)], 10));
    poller.config.sweep_every = Some(SignedDuration::from_hours(6));
    let report = run(&poller, json!({})).await.unwrap();
    assert_eq!(
        report["regions"][0]["sweep"],
        json!({"pages": 1, "findings_seen": 2, "events_sent": 0, "complete": true,
               "last_completed_at": "2026-11-23T10:00:00.000Z"})
    );
    // WHEN an analyst edits a finding, which leaves UpdatedAt as it is
    poller.source.findings[0].text = poller.source.findings[0]
        .text
        .replace("\"p\"", "\"p\",\"RecordState\":\"ACTIVE\"");
    let age = |poller: &TestPoller| {
        let lines = poller.metrics.0.borrow();
        lines.iter().rev().find_map(|line| line.get("SweepAge").cloned())
    };
    for (hours, sent) in [(5, 0), (6, 1)] {
        let now: Timestamp = NOW.parse().unwrap();
        poller.clock.0.set(now + SignedDuration::from_hours(hours));
        let report = run(&poller, json!({})).await.unwrap();
        assert_eq!(report["events_sent"], sent);
        assert_eq!(report["regions"][0]["sweep"].is_null(), sent == 0);
        let expected = if sent == 0 { hours * 3600 } else { 0 };
        assert_eq!(age(&poller), Some(json!(expected)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_has_no_time_goes_on_in_the_next_run_and_its_age_is_known() {
    let findings = (0..40).map(|n| given(US, &n.to_string(), 5000 - n)).collect();
    let mut poller = poller(US, Hub::of(findings, 10));
    poller.config.sweep_every = Some(SignedDuration::from_hours(6));
    let mut sweep_pages = 0;
    for runs in 0.. {
        assert!(runs < 10);
        poller.clock.0.set(poller.clock.now() + SignedDuration::from_mins(5));
        poller.source.pages_left.set(Some(6));
        let report = run(&poller, json!({})).await.unwrap();
        let sweep = &report["regions"][0]["sweep"];
        sweep_pages += sweep["pages"].as_u64().unwrap_or_default();
        if sweep["complete"] == true {
            break;
        }
    }
    assert!((5..=7).contains(&sweep_pages), "{sweep_pages}");
}

fn calls(poller: &TestPoller) -> u64 {
    let table: u64 = poller.table.calls.borrow().values().sum();
    table + poller.source.calls.borrow().len() as u64 + poller.sink.batches.get()
}

#[tokio::test(start_paused = true)]
async fn an_idle_poll_makes_at_most_five_calls_a_region_and_three_a_run() {
    for regions in [US, BOTH] {
        let mut poller = poller(regions, Hub::of(vec![given(regions, "a", 100)], 100));
        poller.config.sweep_every = Some(SignedDuration::from_hours(6));
        run(&poller, json!({})).await.unwrap();
        for is_cold in [false, true] {
            if is_cold {
                poller.memory = Memory::default();
            }
            let before = calls(&poller);
            run(&poller, json!({})).await.unwrap();
            let made = calls(&poller) - before;
            assert!(made <= 3 + 5 * regions.len() as u64, "{made}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_page_takes_at_most_fourteen_calls_and_one_read_again_two() {
    let of_day = milliseconds("2026-11-23T01:00:00Z");
    let findings = (0..9850)
        .map(|n| given_at(US, &n.to_string(), of_day + n * 100))
        .collect();
    let mut poller = poller(US, Hub::of(findings, 100));
    let mut made = Vec::new();
    for is_cold in [true, false, true] {
        if is_cold {
            poller.memory = Memory::default();
        }
        let before = calls(&poller);
        let report = run(
            &poller,
            json!({"mode": "backfill", "start": "2026-11-23T00:00:00Z", "end": NOW}),
        )
        .await
        .unwrap();
        let pages = report["regions"][0]["pages"].as_u64().unwrap();
        assert!((98..=102).contains(&pages), "{pages}");
        made.push((calls(&poller) - before, pages));
    }
    for ((made, pages), most) in made.into_iter().zip([14, 2, 2]) {
        assert!(made <= most * pages, "{made} calls for {pages} pages");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sweep_reads_about_a_request_unit_for_two_hundred_findings() {
    let of_day = milliseconds("2026-11-22T01:00:00Z");
    let findings = (0..9800)
        .map(|n| given_at(US, &n.to_string(), of_day + n * 8_000))
        .collect();
    let mut poller = poller(US, Hub::of(findings, 100));
    // A mebibyte of them, as DynamoDB gives.
    poller.table.items_a_page.set(Some(600));
    poller.sink.only_counts = true;
    run(&poller, json!({})).await.unwrap();
    assert_eq!(poller.sink.sent.get(), 9800);
    poller.memory = Memory::default();
    let before = poller.table.units_read.get();
    let report = run(&poller, json!({"mode": "reconcile"})).await.unwrap();
    assert_eq!((&report["complete"], &report["events_sent"]), (&json!(true), &json!(0)));
    let units = poller.table.units_read.get() - before;
    assert!(units <= 9800 / 180, "{units}");
}

/// A million findings a month: polls every 5 minutes, with an overlap of an hour.
#[tokio::test(start_paused = true)]
async fn a_million_findings_a_month_take_few_request_units() {
    const A_POLL: i64 = 116;
    for is_warm in [true, false] {
        let start = milliseconds("2026-11-23T06:00:00Z");
        let findings = (0..A_POLL * 36)
            .map(|n| given_at(US, &n.to_string(), start + n * 300_000 / A_POLL))
            .collect();
        let mut poller = poller(US, Hub::of(findings, 100));
        poller.sink.only_counts = true;
        let hour = SignedDuration::from_hours(1);
        let begin = Timestamp::from_millisecond(start).unwrap() + hour;
        let mut before = (0, 0, 0);
        for number in 0..24 {
            if !is_warm {
                poller.memory = Memory::default();
            }
            poller.clock.0.set(begin + SignedDuration::from_mins(5 * number));
            if number == 1 {
                before = (
                    poller.sink.sent.get(),
                    poller.table.units_read.get(),
                    poller.table.units_written.get(),
                );
            }
            run(&poller, json!({})).await.unwrap();
        }
        let sent = poller.sink.sent.get() - before.0;
        let of_a_million = |units: u64| units * 1_000_000 / sent;
        let read = of_a_million(poller.table.units_read.get() - before.1);
        let written = of_a_million(poller.table.units_written.get() - before.2);
        assert!(
            read <= 300_000 && written <= 300_000,
            "warm {is_warm}: read {read}, written {written}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_findings_drain_through_short_deadlines_with_bounded_memory() {
    let start = milliseconds("2026-11-22T00:00:00Z");
    let findings = (0..100_000)
        .map(|n| given_at(US, &n.to_string(), start + n * 1000))
        .collect();
    let mut poller = poller(US, Hub::of(findings, 100));
    poller.sink.only_counts = true;
    for runs in 0.. {
        assert!(runs < 25);
        // Every other process is a new one.
        if runs % 2 == 0 {
            poller.memory = Memory::default();
        }
        poller.source.pages_left.set(Some(60));
        let report = run(&poller, json!({})).await.unwrap();
        assert!(poller.memory.len() <= 100_000);
        if report["complete"] == true {
            break;
        }
    }
    assert_eq!(poller.sink.sent.get(), 100_000);
}

#[tokio::test(start_paused = true)]
async fn a_drain_of_three_hundred_pages_takes_little_more_than_the_rate_limit() {
    let findings = (0..30_000).map(|n| given(US, &n.to_string(), 80_000 - n)).collect();
    let mut hub = Hub::of(findings, 100);
    hub.interval = Duration::from_millis(333);
    let mut poller = poller(US, hub);
    poller.sink.only_counts = true;
    poller.sink.latency = Duration::from_millis(20);
    let before = tokio::time::Instant::now();
    let report = run(&poller, json!({})).await.unwrap();
    assert_eq!((&report["complete"], poller.sink.sent.get()), (&json!(true), 30_000));
    assert!(before.elapsed() <= Duration::from_secs(110), "{:?}", before.elapsed());
}
