//! The poller against a model of Security Hub, SQS and the table, in which anything may happen between two polls and
//! at any call of one.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use aws_support::{AwsError, Clock, Deadline, ErrorKind};
use aws_text::Region;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::config::Lookback;
use crate::deliver::{EntryOutcome, EventSink, Message};
use crate::in_flight::InFlight;
use crate::input::Mode;
use crate::ledger::{DeliveryLedger, Keeping, Kept, ReadingKey};
use crate::poll::RegionPoll;
use crate::query::{Narrowing, Query};
use crate::reading::Reading;
use crate::report::{GET_FINDINGS, RegionReport};
use crate::security_hub::FindingSource;
use crate::testing::MemoryLedger;

const OVERLAP: i64 = 3600;
/// The most findings on a page, so that a few findings are several pages.
const PAGE: usize = 3;
/// The world begins here, in seconds since 1970.
const BEGINNING: i64 = 1_000_000;

/// What may happen.
#[derive(Clone, Debug)]
enum Action {
    /// Time passes
    Pass { seconds: i64 },
    /// The function's clock goes wrong: it is behind by so much
    SetClock { behind: i64 },
    /// A provider, whose clock is `behind`, makes findings of one `UpdatedAt` that show after `delay`
    Create { count: usize, behind: i64, delay: i64 },
    /// A provider updates one
    Update { which: usize, behind: i64 },
    /// An analyst changes its workflow status, which leaves `UpdatedAt` as it is
    Edit { which: usize },
    /// It is archived, or active again
    Archive { which: usize },
    /// Page tokens of before are not taken any more
    Forget,
    /// SQS refuses some events from now on, or takes them again
    Refuse { some: bool },
    /// The function runs
    Poll {
        trouble: Option<(u32, Trouble)>,
        reconcile: bool,
    },
    /// Two run at once
    PollTwice { reconcile: bool, seed: u32 },
}

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// It fails before it is carried out
    Fails,
    /// It is carried out, and the answer is lost
    Lost,
    /// The process ends before it
    EndsBefore,
    /// It is carried out, and the process ends
    EndsAfter,
    /// The invocation is about to end
    OutOfTime,
}

struct Finding {
    updated: i64,
    shows: i64,
    /// When it last changed, or first showed
    since: i64,
    workflow: &'static str,
    archived: bool,
    severity: u32,
}

/// Everything outside the poller.
struct World {
    findings: RefCell<Vec<Finding>>,
    now: Cell<i64>,
    clock_behind: Cell<i64>,
    /// Windows that were read to their ends
    completed: RefCell<Vec<(Timestamp, Timestamp)>>,
    generation: Cell<u32>,
    refuses: Cell<bool>,
    ledger: MemoryLedger,
    /// How often each version was sent, and the version by the event's id
    sent: RefCell<BTreeMap<String, u32>>,
    versions: RefCell<BTreeMap<String, String>>,
    /// Event ids that may have been sent twice
    excused: RefCell<HashSet<String>>,
    calls_until_trouble: Cell<Option<(u32, Trouble)>>,
    ended: Cell<bool>,
    random: Cell<u32>,
}

impl World {
    fn new() -> Self {
        Self {
            findings: RefCell::default(),
            now: Cell::new(BEGINNING),
            clock_behind: Cell::new(0),
            completed: RefCell::default(),
            generation: Cell::new(0),
            refuses: Cell::new(false),
            ledger: MemoryLedger::default(),
            sent: RefCell::default(),
            versions: RefCell::default(),
            excused: RefCell::default(),
            calls_until_trouble: Cell::new(None),
            ended: Cell::new(false),
            random: Cell::new(0),
        }
    }

    /// Makes a call: lets others go first, and meets with trouble if it is its turn.
    async fn call<T>(&self, action: &'static str, carry_out: impl FnOnce() -> T) -> Result<T, AwsError> {
        if self.random.get() != 0 {
            let next = self.random.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223) | 1;
            self.random.set(next);
            for _ in 0..(next >> 16) % 4 {
                tokio::task::yield_now().await;
            }
        }
        let error = |kind| AwsError {
            kind,
            ..AwsError::out_of_time(action)
        };
        if self.ended.get() {
            return Err(error(ErrorKind::OutOfTime));
        }
        let trouble = match self.calls_until_trouble.get() {
            None => None,
            Some((0, trouble)) => {
                self.calls_until_trouble.set(None);
                Some(trouble)
            }
            Some((calls, trouble)) => {
                self.calls_until_trouble.set(Some((calls - 1, trouble)));
                None
            }
        };
        match trouble {
            None => Ok(carry_out()),
            Some(Trouble::Fails) => Err(error(ErrorKind::Unreachable)),
            Some(Trouble::OutOfTime) => Err(error(ErrorKind::OutOfTime)),
            Some(Trouble::Lost) => {
                carry_out();
                Err(error(ErrorKind::Unreachable))
            }
            Some(Trouble::EndsBefore) => {
                self.ended.set(true);
                Err(error(ErrorKind::OutOfTime))
            }
            Some(Trouble::EndsAfter) => {
                carry_out();
                self.ended.set(true);
                Err(error(ErrorKind::OutOfTime))
            }
        }
    }

    fn finding(index: usize, finding: &Finding) -> Value {
        json!({
            "Id": format!("finding-{index}"), "ProductArn": "product", "AwsAccountId": "111122223333",
            "UpdatedAt": at(finding.updated).to_string(), "Workflow": {"Status": finding.workflow},
            "RecordState": "ACTIVE", "Severity": {"Label": format!("L{}", finding.severity)},
        })
    }

    /// Indices of the findings that a query gives, in its order.
    fn matching(&self, query: &Query) -> Vec<usize> {
        let findings = self.findings.borrow();
        let mut matching: Vec<usize> = (0..findings.len())
            .filter(|index| {
                let finding = &findings[*index];
                let is_in_range = query
                    .updated
                    .is_none_or(|range| (range.start..=range.end).contains(&at(finding.updated)));
                finding.shows <= self.now.get() && !finding.archived && finding.workflow != "RESOLVED" && is_in_range
            })
            .collect();
        matching.sort_by_key(|index| findings[*index].updated);
        matching
    }

    fn page_of(&self, query: &Query, token: Option<&str>) -> Result<String, AwsError> {
        let pinned = format!("{} {:?}", self.generation.get(), query.updated);
        let after: Option<(i64, usize)> = match token.map(|token| token.split_once('@')) {
            None => None,
            Some(Some((after, query))) if query == pinned => serde_json::from_str(after).ok(),
            Some(_) => {
                return Err(AwsError {
                    kind: ErrorKind::Rejected,
                    code: Some("InvalidInputException".to_owned()),
                    ..AwsError::out_of_time(GET_FINDINGS)
                });
            }
        };
        let findings = self.findings.borrow();
        // A token names the place in the order that it comes after.
        let place = |index: usize| (findings[index].updated, index);
        let mut rest = self.matching(query);
        rest.retain(|index| after.is_none_or(|after| place(*index) > after));
        let page: Vec<Value> = rest
            .iter()
            .take(PAGE)
            .map(|index| Self::finding(*index, &findings[*index]))
            .collect();
        let token = (rest.len() > PAGE).then(|| format!("{}@{pinned}", json!(place(rest[PAGE - 1]))));
        Ok(json!({"Findings": page, "NextToken": token}).to_string())
    }

    fn reading(&self) -> Reading {
        let readings = self.ledger.readings.borrow();
        let kept = readings.get("reading#incremental#us-east-1");
        kept.map(|kept| kept.reading.clone()).unwrap_or_default()
    }

    fn through(&self) -> Option<Timestamp> {
        self.reading().through
    }

    /// Notes the windows that an incremental poll has completed, given the reading before it.
    fn note_completed(&self, before: &Reading) {
        let through = self.through();
        let mut completed = self.completed.borrow_mut();
        let mut from = before.through;
        if let Some(range) = before.open.as_ref().and_then(|window| window.range)
            && through >= Some(range.end)
        {
            completed.push((range.start, range.end));
            from = from.max(Some(range.end));
        }
        if let Some(end) = through
            && through > from
        {
            let start = from.map_or(Timestamp::UNIX_EPOCH, |from| at(from.as_second() - OVERLAP));
            completed.push((start, end));
        }
    }

    /// What had arrived when a window was opened is delivered when it is completed.
    fn assert_windows_hold(&self) {
        let delivered: BTreeSet<String> = self.versions.borrow().values().cloned().collect();
        let findings = self.findings.borrow();
        for index in self.matching(&Query::pages(Narrowing::default(), None)) {
            let finding = &findings[index];
            let (updated, since) = (at(finding.updated), at(finding.since));
            let mut windows = self.completed.borrow().clone();
            windows.retain(|(start, end)| *start <= updated && updated <= *end && since < *end);
            let version = Self::finding(index, finding).to_string();
            assert!(
                windows.is_empty() || delivered.contains(&version),
                "passed over by {windows:?}: {version}"
            );
        }
    }

    async fn poll(&self, mode: &Mode) -> RegionReport {
        let region: Region = "us-east-1".parse().unwrap();
        let poll = RegionPoll {
            source: self,
            sink: self,
            ledger: self,
            clock: self,
            region: &region,
            narrowing: &Narrowing::default(),
            lookback: Lookback {
                overlap: Duration::from_secs(OVERLAP.unsigned_abs()),
                initial: None,
            },
            deadline: &Deadline::after(Duration::from_hours(1)),
            stop_margin: Duration::ZERO,
            run: &format!("run-{}", self.random.get()),
            in_flight: &InFlight::default(),
        };
        poll.poll(mode).await.0
    }

    /// Versions that were sent and are not recorded may be sent again.
    fn excuse_unrecorded(&self) {
        let recorded = self.ledger.delivered.borrow();
        let sent = self.sent.borrow();
        self.excused
            .borrow_mut()
            .extend(sent.keys().filter(|id| !recorded.contains(*id)).cloned());
    }

    /// Everything a query gives now is delivered.
    fn assert_delivered(&self, query: &Query) {
        let delivered: BTreeSet<String> = self.versions.borrow().values().cloned().collect();
        let findings = self.findings.borrow();
        for index in self.matching(query) {
            let version = Self::finding(index, &findings[index]).to_string();
            assert!(delivered.contains(&version), "not delivered: {version}");
        }
    }

    fn assert_sent_once(&self) {
        let excused = self.excused.borrow();
        for (id, times) in self.sent.borrow().iter() {
            assert!(*times == 1 || excused.contains(id), "sent {times} times: {id}");
        }
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::constant(second, 0)
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        at(self.now.get() - self.clock_behind.get())
    }
}

impl FindingSource for World {
    async fn page(&self, _: &Region, query: &Query, token: Option<&str>, _: &Deadline) -> Result<String, AwsError> {
        self.call(GET_FINDINGS, || self.page_of(query, token)).await?
    }

    fn take_throttles(&self, _: &Region) -> u64 {
        0
    }
}

impl EventSink for World {
    async fn send(&self, batch: &[&Message], _: &Deadline) -> Result<Vec<EntryOutcome>, AwsError> {
        let take = || {
            let mut outcomes = Vec::new();
            for message in batch {
                let body: Value = serde_json::from_str(&message.body).unwrap();
                if self.refuses.get() && body["external_id"].as_str().unwrap().ends_with(['1', '4', '7']) {
                    outcomes.push(EntryOutcome::Failed {
                        code: "InvalidMessageContents".to_owned(),
                        message: String::new(),
                        sender_fault: true,
                    });
                    continue;
                }
                outcomes.push(EntryOutcome::Confirmed);
                *self.sent.borrow_mut().entry(message.event_id.clone()).or_default() += 1;
                let version = body["raw_event"].to_string();
                self.versions.borrow_mut().insert(message.event_id.clone(), version);
            }
            outcomes
        };
        self.call("sqs:SendMessage", take).await
    }
}

impl DeliveryLedger for World {
    async fn delivered(&self, event_ids: &[&str], deadline: &Deadline) -> Result<HashSet<String>, AwsError> {
        self.call("dynamodb:BatchGetItem", || ()).await?;
        self.ledger.delivered(event_ids, deadline).await
    }

    async fn record(&self, event_ids: &[String], _: &Deadline) -> Result<(), AwsError> {
        let record = || self.ledger.delivered.borrow_mut().extend(event_ids.iter().cloned());
        self.call("dynamodb:BatchWriteItem", record).await
    }

    async fn load(&self, key: &ReadingKey, _: &Deadline) -> Result<Option<Kept>, AwsError> {
        let load = || self.ledger.readings.borrow().get(&key.text).cloned();
        self.call("dynamodb:GetItem", load).await
    }

    async fn keep(
        &self,
        key: &ReadingKey,
        kept: &Kept,
        revision: Option<u64>,
        _: &Deadline,
    ) -> Result<Keeping, AwsError> {
        let keep = || self.ledger.put(key, kept, revision);
        self.call("dynamodb:PutItem", keep).await
    }
}

async fn act(world: &World, action: &Action) {
    let count = world.findings.borrow().len().max(1);
    let which = |which: usize| which % count;
    match *action {
        Action::Pass { seconds } => world.now.set(world.now.get() + seconds),
        Action::SetClock { behind } => world.clock_behind.set(behind),
        Action::Create { count, behind, delay } => {
            let shows = world.now.get() + delay;
            world.findings.borrow_mut().extend((0..count).map(|_| Finding {
                updated: world.now.get() - behind,
                shows,
                since: shows,
                workflow: "NEW",
                archived: false,
                severity: 0,
            }));
        }
        Action::Update { which: w, behind } => change(world, which(w), |finding| {
            finding.updated = finding.updated.max(world.now.get() - behind);
            finding.severity += 1;
        }),
        Action::Edit { which: w } => change(world, which(w), |finding| {
            finding.workflow = match finding.workflow {
                "NEW" => "NOTIFIED",
                "NOTIFIED" => "RESOLVED",
                _ => "NEW",
            };
        }),
        Action::Archive { which: w } => change(world, which(w), |finding| finding.archived = !finding.archived),
        Action::Refuse { some } => world.refuses.set(some),
        Action::Forget => world.generation.set(world.generation.get() + 1),
        Action::Poll { trouble, reconcile } => {
            let before = world.reading();
            world.calls_until_trouble.set(trouble);
            let mode = if reconcile { Mode::Reconcile } else { Mode::Incremental };
            let report = world.poll(&mode).await;
            world.ended.set(false);
            let has_struck = trouble.is_some() && world.calls_until_trouble.take().is_none();
            if has_struck {
                world.excuse_unrecorded();
            }
            assert!(world.through() >= before.through, "the cursor moved back");
            let is_excused = has_struck || world.refuses.get();
            assert!(
                is_excused || report.complete,
                "without trouble a poll is complete: {report:?}"
            );
            world.note_completed(&before);
        }
        Action::PollTwice { reconcile, seed } => {
            let before = world.reading();
            world.random.set(seed | 1);
            let other = if reconcile { Mode::Reconcile } else { Mode::Incremental };
            let sent_before: BTreeSet<String> = world.sent.borrow().keys().cloned().collect();
            futures::join!(world.poll(&Mode::Incremental), world.poll(&other));
            world.random.set(0);
            let sent = world.sent.borrow();
            let new = sent.keys().filter(|id| !sent_before.contains(*id)).cloned();
            world.excused.borrow_mut().extend(new);
            drop(sent);
            assert!(world.through() >= before.through, "the cursor moved back");
            world.note_completed(&before);
        }
    }
    world.assert_sent_once();
    world.assert_windows_hold();
}

fn change(world: &World, which: usize, change: impl FnOnce(&mut Finding)) {
    if let Some(finding) = world.findings.borrow_mut().get_mut(which) {
        change(finding);
        finding.since = world.now.get().max(finding.shows);
    }
}

fn any_action() -> impl Strategy<Value = Action> {
    let trouble = (
        0u32..40,
        prop_oneof![
            Just(Trouble::Fails),
            Just(Trouble::Lost),
            Just(Trouble::EndsBefore),
            Just(Trouble::EndsAfter),
            Just(Trouble::OutOfTime),
        ],
    );
    prop_oneof![
        3 => (1i64..5000).prop_map(|seconds| Action::Pass { seconds }),
        1 => (0i64..3000).prop_map(|behind| Action::SetClock { behind }),
        6 => (prop_oneof![3 => Just(1usize), 1 => 2usize..9], 0i64..=3600, prop_oneof![Just(0i64), 0i64..9000])
            .prop_map(|(count, behind, delay)| Action::Create { count, behind, delay }),
        2 => (any::<usize>(), 0i64..=3600).prop_map(|(which, behind)| Action::Update { which, behind }),
        2 => any::<usize>().prop_map(|which| Action::Edit { which }),
        1 => any::<usize>().prop_map(|which| Action::Archive { which }),
        1 => Just(Action::Forget),
        1 => any::<bool>().prop_map(|some| Action::Refuse { some }),
        4 => (prop::option::of(trouble), prop::bool::weighted(0.2))
            .prop_map(|(trouble, reconcile)| Action::Poll { trouble, reconcile }),
        1 => (any::<bool>(), any::<u32>()).prop_map(|(reconcile, seed)| Action::PollTwice { reconcile, seed }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn after_a_reconcile_everything_was_delivered_and_nothing_twice(
        actions in prop::collection::vec(any_action(), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            for action in &actions {
                act(&world, action).await;
            }
            // WHEN all that is on its way has come
            world.now.set(world.now.get() + 10_000);
            world.clock_behind.set(0);
            world.refuses.set(false);
            let report = world.poll(&Mode::Reconcile).await;
            assert!(report.complete);
            world.assert_sent_once();
            // A reconcile that an earlier run left half done is finished by the first; the second is a whole one.
            assert!(world.poll(&Mode::Reconcile).await.complete);
            world.assert_delivered(&Query::pages(Narrowing::default(), None));
            world.assert_sent_once();
            // THEN there is nothing left to send.
            let sent = world.sent.borrow().len();
            assert!(world.poll(&Mode::Reconcile).await.complete);
            assert!(world.poll(&Mode::Incremental).await.complete);
            assert_eq!(world.sent.borrow().len(), sent);
            world.assert_sent_once();
        });
    }
}
