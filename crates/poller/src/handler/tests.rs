    use std::cell::RefCell;
    use std::collections::HashMap;

    use aws_support::{AwsError, ErrorKind};
    use aws_text::Region;
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::config::Lookback;
    use crate::deliver::{EntryOutcome, Message};
    use crate::query::{Narrowing, Range};
    use crate::report::{GET_FINDINGS, SEND_MESSAGE};
    use crate::testing::{MemoryLedger, Metrics};

    /// Pages a region, or an error in place of one; calls are recorded as (region, page size, token).
    #[derive(Default)]
    struct Hub {
        pages: HashMap<&'static str, Vec<Result<String, AwsError>>>,
        calls: RefCell<Vec<(String, Query, Option<String>)>>,
    }

    impl FindingSource for Hub {
        async fn page(
            &self,
            region: &Region,
            query: &Query,
            token: Option<&str>,
            _: &Deadline,
        ) -> Result<String, AwsError> {
            self.calls
                .borrow_mut()
                .push((region.to_string(), query.clone(), token.map(str::to_owned)));
            let index = token.map_or(0, |token| token.parse::<usize>().unwrap());
            self.pages[region.as_str()][index].clone()
        }

        fn take_throttles(&self, _: &Region) -> u64 {
            0
        }
    }

    #[derive(Default)]
    struct Queue {
        bodies: RefCell<Vec<Value>>,
        refuse: Option<&'static str>,
        error: Option<AwsError>,
    }

    impl EventSink for Queue {
        async fn send(&self, batch: &[&Message], _: &Deadline) -> Result<Vec<EntryOutcome>, AwsError> {
            tokio::task::yield_now().await;
            if let Some(error) = &self.error {
                return Err(error.clone());
            }
            Ok(batch
                .iter()
                .map(|message| {
                    if message.finding_id.as_deref() == self.refuse && self.refuse.is_some() {
                        return EntryOutcome::Failed {
                            code: "InvalidMessageContents".to_owned(),
                            message: "no".to_owned(),
                            sender_fault: true,
                        };
                    }
                    self.bodies
                        .borrow_mut()
                        .push(serde_json::from_str(&message.body).unwrap());
                    EntryOutcome::Confirmed
                })
                .collect())
        }
    }

    struct At(&'static str);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            self.0.parse().unwrap()
        }
    }

    type TestPoller = Poller<Hub, Queue, MemoryLedger, At, Metrics>;

    fn poller(regions: &[&str], hub: Hub, queue: Queue) -> TestPoller {
        Poller {
            config: Config {
                function_name: "poller".to_owned(),
                findings_queue_url: String::new(),
                state_table_name: String::new(),
                narrowing: Narrowing::default(),
                lookback: Lookback {
                    overlap: Duration::from_hours(1),
                    initial: None,
                },
                state_ttl: Duration::ZERO,
                static_credentials_secret_arn: None,
                regions: regions.iter().map(|r| r.parse().unwrap()).collect(),
            },
            source: hub,
            sink: queue,
            ledger: MemoryLedger::default(),
            clock: At("2026-11-23T10:00:00Z"),
            metrics: Metrics::default(),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it stands beside errors in the lists of pages")]
    fn page(ids: &[&str], token: Option<&str>) -> Result<String, AwsError> {
        let findings: Vec<_> = ids.iter().map(|id| json!({"Id": id})).collect();
        Ok(json!({"Findings": findings, "NextToken": token}).to_string())
    }

    fn error(kind: ErrorKind, code: &str) -> AwsError {
        AwsError {
            kind,
            code: Some(code.to_owned()),
            ..AwsError::out_of_time(GET_FINDINGS)
        }
    }

    async fn run(poller: &TestPoller, input: Value) -> Result<Value, Diagnostic> {
        poller
            .handle(&input, "run", &Deadline::after(Duration::from_mins(1)))
            .await
    }

    #[tokio::test]
    async fn every_page_of_every_region_is_delivered() {
        let hub = Hub {
            pages: HashMap::from([
                (
                    "us-east-1",
                    vec![page(&["a", "b"], Some("1")), page(&[], Some("2")), page(&["c"], None)],
                ),
                ("eu-west-1", vec![page(&["d"], None)]),
            ]),
            ..Hub::default()
        };
        let poller = poller(&["us-east-1", "eu-west-1"], hub, Queue::default());
        assert_eq!(
            run(&poller, json!({})).await.unwrap(),
            json!({"mode": "incremental", "complete": true, "events_sent": 4, "regions": [
                {"region": "us-east-1", "pages": 3, "findings_seen": 3, "events_sent": 3, "duplicates_skipped": 0,
                 "updated_through": "2026-11-23T10:00:00.000Z", "complete": true},
                {"region": "eu-west-1", "pages": 1, "findings_seen": 1, "events_sent": 1, "duplicates_skipped": 0,
                 "updated_through": "2026-11-23T10:00:00.000Z", "complete": true},
            ]})
        );
        let mut sent: Vec<_> = poller
            .sink
            .bodies
            .borrow()
            .iter()
            .map(|e| {
                assert_eq!(e["ingested_at"], "2026-11-23T10:00:00.000Z");
                (
                    e["external_id"].as_str().unwrap().to_owned(),
                    e["aws_region"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        sent.sort();
        let expected = [
            ("a", "us-east-1"),
            ("b", "us-east-1"),
            ("c", "us-east-1"),
            ("d", "eu-west-1"),
        ];
        assert_eq!(sent, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[tokio::test]
    async fn a_finding_that_two_regions_give_is_sent_once() {
        // GIVEN cross-region aggregation: the home region gives the findings of the other as well
        let finding =
            |id: &str| json!({"Id": id, "ProductArn": "p", "UpdatedAt": "2026-11-23T00:00:00Z", "Region": "eu-west-1"});
        let page = |ids: &[&str]| {
            let findings: Vec<_> = ids.iter().map(|id| finding(id)).collect();
            Ok(json!({ "Findings": findings }).to_string())
        };
        let hub = Hub {
            pages: HashMap::from([
                ("us-east-1", vec![page(&["a", "b", "c"])]),
                ("eu-west-1", vec![page(&["b", "c", "d"])]),
            ]),
            ..Hub::default()
        };
        let poller = poller(&["us-east-1", "eu-west-1"], hub, Queue::default());
        let report = run(&poller, json!({})).await.unwrap();
        assert_eq!(
            (report["complete"].clone(), report["events_sent"].clone()),
            (json!(true), json!(4))
        );
        let mut sent: Vec<_> = poller
            .sink
            .bodies
            .borrow()
            .iter()
            .map(|e| e["external_id"].to_string())
            .collect();
        sent.sort();
        assert_eq!(sent, ["\"a\"", "\"b\"", "\"c\"", "\"d\""]);
        let skipped = |region: usize| report["regions"][region]["duplicates_skipped"].as_u64().unwrap();
        assert_eq!(skipped(0) + skipped(1), 2);
    }

    #[tokio::test]
    async fn a_region_that_fails_stops_no_other_and_fails_the_invocation() {
        let hub = Hub {
            pages: HashMap::from([
                ("us-east-1", vec![page(&["a"], None)]),
                (
                    "eu-west-1",
                    vec![Err(error(ErrorKind::Rejected, "InvalidAccessException"))],
                ),
                ("eu-north-1", vec![Err(error(ErrorKind::Throttled, "T"))]),
            ]),
            ..Hub::default()
        };
        let poller = poller(&["eu-west-1", "us-east-1", "eu-north-1"], hub, Queue::default());
        let failure = run(&poller, json!({"mode": "reconcile"})).await.unwrap_err();
        assert_eq!(failure.error_type, "PollFailed");
        assert_eq!(
            failure.error_message,
            "2 of 3 regions failed: eu-west-1 (not_subscribed), eu-north-1 (throttled); the log has the report"
        );
        assert_eq!(poller.sink.bodies.borrow().len(), 1);
    }

    #[tokio::test]
    async fn an_entry_that_sqs_refuses_costs_no_other_and_is_reported() {
        let hub = Hub {
            pages: HashMap::from([("us-east-1", vec![page(&["a", "bad"], Some("1")), page(&["c"], None)])]),
            ..Hub::default()
        };
        let queue = Queue {
            refuse: Some("bad"),
            ..Queue::default()
        };
        let poller = poller(&["us-east-1"], hub, queue);
        let failure = run(&poller, json!({})).await.unwrap_err();
        assert!(
            failure.error_message.contains("us-east-1 (delivery_failed)"),
            "{}",
            failure.error_message
        );
        assert_eq!(poller.sink.bodies.borrow().len(), 2);
    }

    #[tokio::test]
    async fn running_out_of_time_is_no_failure() {
        let hub = Hub {
            pages: HashMap::from([(
                "us-east-1",
                vec![page(&["a"], Some("1")), Err(AwsError::out_of_time(GET_FINDINGS))],
            )]),
            ..Hub::default()
        };
        let poller = poller(&["us-east-1"], hub, Queue::default());
        let report = run(&poller, json!({})).await.unwrap();
        assert_eq!(report["complete"], false);
        assert_eq!(report["events_sent"], 1);
        assert!(report["regions"][0].get("error").is_none());
    }

    #[tokio::test]
    async fn an_answer_that_is_no_page_or_repeats_its_token_is_an_error_in_the_end() {
        // A repeated token is not followed; the reading goes on from its position, thrice.
        for (second, calls) in [(Ok("<html>".to_owned()), 2), (page(&["b"], Some("1")), 8)] {
            let hub = Hub {
                pages: HashMap::from([("us-east-1", vec![page(&["a"], Some("1")), second])]),
                ..Hub::default()
            };
            let poller = poller(&["us-east-1"], hub, Queue::default());
            let failure = run(&poller, json!({})).await.unwrap_err();
            assert!(failure.error_message.contains("us-east-1 (unreachable)"));
            assert_eq!(poller.source.calls.borrow().len(), calls);
        }
    }

    #[tokio::test]
    async fn a_queue_that_is_down_is_an_error_of_the_region() {
        let hub = Hub {
            pages: HashMap::from([("us-east-1", vec![page(&["a"], None)])]),
            ..Hub::default()
        };
        let queue = Queue {
            error: Some(AwsError {
                kind: ErrorKind::AccessDenied,
                ..AwsError::out_of_time(SEND_MESSAGE)
            }),
            ..Queue::default()
        };
        let failure = run(&poller(&["us-east-1"], hub, queue), json!({})).await.unwrap_err();
        assert!(failure.error_message.contains("us-east-1 (access_denied)"));
    }

    #[tokio::test]
    async fn a_backfill_asks_for_its_range() {
        let hub = Hub {
            pages: HashMap::from([("us-east-1", vec![page(&[], None)])]),
            ..Hub::default()
        };
        let poller = poller(&["us-east-1"], hub, Queue::default());
        let (start, end) = ("2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z");
        let report = run(&poller, json!({"mode": "backfill", "start": start, "end": end}))
            .await
            .unwrap();
        assert_eq!(report["mode"], "backfill");
        assert_eq!(
            poller.source.calls.borrow()[0].1,
            Query::pages(
                Narrowing::default(),
                Some(Range {
                    start: start.parse().unwrap(),
                    end: end.parse().unwrap()
                })
            )
        );
    }

    #[tokio::test]
    async fn wrong_input_polls_nothing() {
        let poller = poller(&["us-east-1"], Hub::default(), Queue::default());
        let failure = run(&poller, json!({"mode": "pull"})).await.unwrap_err();
        assert_eq!(failure.error_type, "InvalidInput");
        assert!(failure.error_message.starts_with("mode must be"));
        assert!(poller.source.calls.borrow().is_empty());
    }

    #[tokio::test]
    async fn a_connection_test_asks_each_region_for_one_finding_and_sends_nothing() {
        let hub = Hub {
            pages: HashMap::from([
                ("us-east-1", vec![page(&["a"], Some("1"))]),
                (
                    "eu-west-1",
                    vec![Err(error(ErrorKind::AccessDenied, "AccessDeniedException"))],
                ),
                ("eu-north-1", vec![Err(AwsError::out_of_time(GET_FINDINGS))]),
            ]),
            ..Hub::default()
        };
        let poller = poller(&["us-east-1", "eu-west-1", "eu-north-1"], hub, Queue::default());
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
        assert!(poller.sink.bodies.borrow().is_empty());
    }
}
