//! A simulation: random histories of findings, faults of any call, kills and runs, against a Security Hub that is as
//! nasty as the service may be. After each, everything that is wanted was delivered, and nothing twice.
//!
//! Its tokens count findings or name one, and go stale; its order is broken here and there; a document can be newer than
//! the index that found it; findings leave and enter the query between two pages; pages can be empty.
//!
//! `SIMULATION_HISTORIES` sets how many are run; `SIMULATION_SEED` runs one alone.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use asff::EventId;
use aws_support::{AwsError, Clock, Deadline, ErrorKind};
use aws_text::Region;
use jiff::{SignedDuration, Timestamp};
use lambda_runtime::Diagnostic;
use serde_json::{Value, json};

use crate::Poller;
use crate::config::Config;
use crate::delivery::batch::{EntryOutcome, EventSink, Message};
use crate::delivery::ledger::{Day, DeliveredItem, DeliveredItems, ItemPage, Memory};
use crate::delivery::parking::{Parked, ParkedEvents};
use crate::poll::checkpoint::{Checkpoint, CheckpointKey, Checkpoints, Incremental, Kept, Lookback, Window};
use crate::poll::lease::{Lease, Leases};
use crate::security_hub::{Filters, FindingSource, GET_FINDINGS, Query, Range};
use crate::testing::{MemoryTable, Metrics};

const HISTORIES: u64 = 600;
const OVERLAP: i64 = 3600;
/// The world begins here, in milliseconds since 1970.
const BEGINNING: i64 = 1_000_000_000_000;
/// No run makes more calls than this.
const MOST_CALLS: u32 = 3000;
/// How long a run may last.
const TIMEOUT: Duration = Duration::from_mins(4);

/// `SplitMix64` (Steele, Lea, Flood 2014): one seed, one history.
#[derive(Debug)]
struct Random(Cell<u64>);

impl Random {
    fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut mixed = self.0.get();
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&self, end: u64) -> u64 {
        self.next() % end
    }

    fn index(&self, length: usize) -> usize {
        usize::try_from(self.below(length.max(1) as u64)).unwrap()
    }

    fn seconds(&self, end: u64) -> i64 {
        i64::try_from(self.below(end)).unwrap() * 1000
    }

    fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }
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

#[derive(Clone, Debug)]
struct Finding {
    /// `UpdatedAt`, in milliseconds; `None` where it has none
    updated: Option<i64>,
    /// As the index has it
    indexed: Option<i64>,
    shows: i64,
    /// When it last changed, or first showed
    since: i64,
    workflow: &'static str,
    severity: u32,
    /// The linked region it comes from; the home region, number 0, gives those of all
    region: usize,
    /// It says so
    has_region: bool,
    /// It comes after the one that should follow it
    is_displaced: bool,
}

/// Everything outside the poller.
struct World {
    seed: u64,
    random: Random,
    log: RefCell<Vec<String>>,
    findings: RefCell<Vec<Finding>>,
    now: Cell<i64>,
    clock_behind: Cell<i64>,
    regions: Vec<Region>,
    page: usize,
    tokens_count: bool,
    lookback: Lookback,
    sweep_every: Option<SignedDuration>,
    /// Tokens of another generation are stale
    generation: Cell<u32>,
    /// Between two calls something may change
    is_busy: Cell<bool>,
    /// A token was used for an instant of which a finding had left meanwhile: it may be passed over
    is_disturbed: Cell<bool>,
    has_changed: Cell<bool>,
    /// Pages that the run has time for in each region
    pages_left: RefCell<Vec<u32>>,
    table: MemoryTable,
    /// Events that SQS refuses, by the finding: 0 none, 1 for good, 2 by its own fault
    refuses: Cell<u32>,
    has_refused: Cell<bool>,
    sent: RefCell<BTreeMap<EventId, u32>>,
    versions: RefCell<BTreeSet<String>>,
    excused: RefCell<BTreeSet<EventId>>,
    trouble: Cell<Option<(u32, Trouble)>>,
    ended: Cell<bool>,
    calls: Cell<u32>,
    interleaves: Cell<bool>,
    /// Windows that were read to their ends, of each region
    completed: RefCell<Vec<(usize, Timestamp, Timestamp)>>,
    runs: Cell<u32>,
}

#[derive(Clone)]
struct Handle(Rc<World>);

type TestPoller = Poller<Handle, Handle, Handle, Handle, Metrics>;

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let random = Random(Cell::new(seed));
        let count = [1, 1, 1, 2, 3][random.index(5)];
        let regions = ["us-east-1", "eu-west-1", "eu-north-1"][..count]
            .iter()
            .map(|name| name.parse().unwrap());
        Self {
            seed,
            regions: regions.collect(),
            page: 4 + random.index(12),
            tokens_count: !random.one_in(3),
            lookback: Lookback {
                overlap: Duration::from_secs(OVERLAP.unsigned_abs()),
                initial: None,
                settle: Duration::from_secs([0, 0, 60][random.index(3)]),
            },
            sweep_every: [None, Some(1), Some(6)][random.index(3)].map(SignedDuration::from_hours),
            log: RefCell::default(),
            findings: RefCell::default(),
            now: Cell::new(BEGINNING),
            clock_behind: Cell::new(0),
            generation: Cell::new(0),
            is_busy: Cell::new(random.one_in(2)),
            is_disturbed: Cell::new(false),
            has_changed: Cell::new(false),
            pages_left: RefCell::default(),
            table: MemoryTable::default(),
            refuses: Cell::new(0),
            has_refused: Cell::new(false),
            sent: RefCell::default(),
            versions: RefCell::default(),
            excused: RefCell::default(),
            trouble: Cell::new(None),
            ended: Cell::new(false),
            calls: Cell::new(0),
            interleaves: Cell::new(false),
            completed: RefCell::default(),
            runs: Cell::new(0),
            random,
        }
    }

    fn fail(&self, what: &str) -> ! {
        panic!(
            "seed {}: {what}\npage {}, counting {}, {:?}\nhistory:\n{}\nfindings: {:#?}\ncheckpoints: {:#?}",
            self.seed,
            self.page,
            self.tokens_count,
            self.lookback,
            self.log.borrow().join("\n"),
            self.findings
                .borrow()
                .iter()
                .enumerate()
                .map(|(i, f)| format!("{i}: {f:?}"))
                .collect::<Vec<_>>(),
            self.table.checkpoints.borrow(),
        )
    }

    fn note(&self, what: impl Into<String>) {
        self.log
            .borrow_mut()
            .push(format!("{} {}", at(self.now.get()), what.into()));
    }

    /// Makes a call: lets others go first, and meets with trouble if it is its turn.
    async fn call<T>(&self, action: &'static str, carry_out: impl AsyncFnOnce() -> T) -> Result<T, AwsError> {
        if self.interleaves.get() {
            for _ in 0..self.random.below(4) {
                tokio::task::yield_now().await;
            }
        }
        self.calls.set(self.calls.get() + 1);
        if self.calls.get() > MOST_CALLS {
            self.fail("a run does not end");
        }
        let error = |kind| AwsError::new(action, kind, "trouble".to_owned());
        if self.ended.get() {
            return Err(error(ErrorKind::OutOfTime));
        }
        let trouble = match self.trouble.get() {
            Some((0, trouble)) => {
                self.trouble.set(None);
                self.note(format!("{action}: {trouble:?}"));
                Some(trouble)
            }
            Some((calls, trouble)) => {
                self.trouble.set(Some((calls - 1, trouble)));
                None
            }
            None => None,
        };
        let Some(trouble) = trouble else {
            return Ok(carry_out().await);
        };
        if matches!(trouble, Trouble::Lost | Trouble::EndsAfter) {
            carry_out().await;
        }
        self.excuse_unrecorded();
        self.ended
            .set(matches!(trouble, Trouble::EndsBefore | Trouble::EndsAfter));
        Err(error(match trouble {
            Trouble::Fails | Trouble::Lost => ErrorKind::Unreachable,
            Trouble::EndsBefore | Trouble::EndsAfter | Trouble::OutOfTime => ErrorKind::OutOfTime,
        }))
    }

    fn document(&self, number: usize, finding: &Finding) -> Value {
        let mut document = json!({
            "Id": format!("finding-{number}"), "ProductArn": "product", "AwsAccountId": "111122223333",
            "Workflow": {"Status": finding.workflow}, "RecordState": "ACTIVE",
            "Severity": {"Label": format!("L{}", finding.severity)},
        });
        if let Some(updated) = finding.updated {
            document["UpdatedAt"] = json!(at(updated).to_string());
        }
        if finding.has_region {
            document["Region"] = json!(self.regions[finding.region]);
        }
        document
    }

    /// Numbers of the findings that a query gives, in its order.
    fn matching(&self, region: usize, query: &Query) -> Vec<usize> {
        let findings = self.findings.borrow();
        let mut matching: Vec<usize> = (0..findings.len())
            .filter(|number| {
                let finding = &findings[*number];
                let is_in_range = match (query.updated, finding.indexed) {
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(range), Some(indexed)) => (range.start..=range.end).contains(&at(indexed)),
                };
                (region == 0 || finding.region == region)
                    && finding.shows <= self.now.get()
                    && query
                        .filters
                        .workflow_statuses
                        .iter()
                        .any(|status| status == finding.workflow)
                    && is_in_range
            })
            .collect();
        matching.sort_by_key(|number| (findings[*number].indexed, *number));
        let mut index = 0;
        while index + 1 < matching.len() {
            if findings[matching[index]].is_displaced {
                matching.swap(index, index + 1);
                index += 1;
            }
            index += 1;
        }
        matching
    }

    fn page_of(&self, region: &Region, query: &Query, token: Option<&str>) -> Result<String, AwsError> {
        let region = self.regions.iter().position(|r| r == region).unwrap();
        if self.is_busy.get() && self.random.one_in(4) {
            self.change_something();
        }
        let pinned = format!("{} {region} {:?}", self.generation.get(), query.updated);
        let matching = self.matching(region, query);
        let start = match token.map(|token| token.split_once('@')) {
            None => 0,
            Some(Some((start, of))) if of == pinned => {
                if self.has_changed.get() {
                    self.is_disturbed.set(true);
                }
                if let Some(count) = start.strip_prefix('=') {
                    count.parse().unwrap()
                } else {
                    // The one that the last page ended with; where it has left, the one that would come after it.
                    let key: (Option<i64>, usize) = serde_json::from_str(start).unwrap();
                    let findings = self.findings.borrow();
                    let position = matching.iter().position(|number| *number == key.1);
                    let after = || {
                        matching
                            .iter()
                            .position(|number| (findings[*number].indexed, *number) > key)
                    };
                    position
                        .map(|position| position + 1)
                        .or_else(after)
                        .unwrap_or(matching.len())
                }
            }
            Some(_) => {
                return Err(AwsError {
                    code: Some("InvalidInputException".to_owned()),
                    ..AwsError::new(GET_FINDINGS, ErrorKind::Rejected, "stale".to_owned())
                });
            }
        };
        let size = if self.random.one_in(15) && token.is_none() {
            0
        } else {
            self.page
        };
        let end = (start + size).min(matching.len());
        let findings = self.findings.borrow();
        let page: Vec<Value> = matching
            .get(start..end)
            .unwrap_or_default()
            .iter()
            .map(|number| self.document(*number, &findings[*number]))
            .collect();
        let token = (end < matching.len()).then(|| {
            if self.tokens_count || end == 0 {
                format!("={end}@{pinned}")
            } else {
                let last = matching[end - 1];
                format!("{}@{pinned}", json!((findings[last].indexed, last)))
            }
        });
        Ok(json!({"Findings": page, "NextToken": token}).to_string())
    }

    fn change(&self, number: usize, change: impl FnOnce(&mut Finding)) {
        let now = self.now.get();
        if let Some(finding) = self.findings.borrow_mut().get_mut(number) {
            change(finding);
            finding.since = now.max(finding.shows);
            self.has_changed.set(true);
        }
    }

    /// A finding is edited or updated.
    fn change_something(&self) {
        let number = self.random.index(self.findings.borrow().len());
        let now = self.now.get();
        match self.random.below(4) {
            0 => {
                let behind = self.random.seconds(3600);
                // One index at a time is behind its document.
                let lags = self.random.one_in(3);
                self.catch_up();
                self.note(format!(
                    "finding {number} is updated{}",
                    if lags { ", not in the index" } else { "" }
                ));
                self.change(number, |finding| {
                    finding.updated = finding.updated.map(|updated| updated.max(now - behind));
                    finding.severity += 1;
                    if !lags {
                        finding.indexed = finding.updated;
                    }
                });
            }
            1 => self.create(1),
            _ => {
                self.change(number, |finding| {
                    finding.workflow = match finding.workflow {
                        "NEW" => "NOTIFIED",
                        "NOTIFIED" => "RESOLVED",
                        _ => "NEW",
                    };
                });
                let workflow = self.findings.borrow().get(number).map(|finding| finding.workflow);
                self.note(format!("finding {number} is {workflow:?}"));
            }
        }
    }

    /// The index has what the documents have.
    fn catch_up(&self) {
        let now = self.now.get();
        for finding in self.findings.borrow_mut().iter_mut() {
            if finding.indexed != finding.updated {
                finding.indexed = finding.updated;
                finding.since = now.max(finding.shows);
            }
        }
    }

    /// Findings of one `UpdatedAt`, of a provider whose clock is behind, that show after a while.
    fn create(&self, count: usize) {
        let now = self.now.get();
        let delay = if self.random.one_in(3) {
            self.random.seconds(9000)
        } else {
            0
        };
        let behind = self.random.seconds(3600) + i64::try_from(self.random.below(3)).unwrap();
        let updated = (!self.random.one_in(12)).then_some(now - behind);
        let region = self.random.index(self.regions.len());
        self.note(format!("{count} findings of {:?}", updated.map(at)));
        for _ in 0..count {
            self.findings.borrow_mut().push(Finding {
                updated,
                indexed: updated,
                shows: now + delay,
                since: now + delay,
                workflow: "NEW",
                severity: 0,
                region,
                has_region: !self.random.one_in(4),
                is_displaced: updated.is_some() && self.random.one_in(12),
            });
        }
    }

    fn key(&self, region: usize) -> CheckpointKey {
        CheckpointKey {
            region: self.regions[region].clone(),
            filters: Filters::default().key(),
        }
    }

    fn incremental(&self, region: usize) -> Incremental {
        match self.table.load_now(&self.key(region)).incremental {
            Ok(kept) => kept.unwrap_or_default(),
            Err(error) => self.fail(&error.to_string()),
        }
    }

    /// Notes the windows that a run has completed.
    fn note_completed(&self, region: usize, before: &Incremental) {
        let through = self.incremental(region).through;
        let mut completed = self.completed.borrow_mut();
        let mut from = before.through;
        if let Some(window) = &before.window
            && through >= Some(window.end)
        {
            completed.push((region, window.start.unwrap(), window.end));
            from = from.max(Some(window.end));
        }
        if let Some(end) = through
            && through > from
        {
            let overlap = SignedDuration::from_secs(OVERLAP);
            let start = from.map_or(Timestamp::UNIX_EPOCH, |from| from - overlap);
            completed.push((region, start, end));
        }
    }

    /// What had arrived when a window was opened is delivered, or parked, when it is completed.
    fn check_windows(&self) {
        let findings = self.findings.borrow();
        let delivered = self.versions.borrow();
        let is_missing = |number: &usize| {
            let finding = &findings[*number];
            finding.indexed == finding.updated
                && !delivered.contains(&self.document(*number, finding).to_string())
                && !self.is_parked(*number)
        };
        let missing: Vec<usize> = (0..findings.len()).filter(is_missing).collect();
        if missing.is_empty() {
            return;
        }
        for (region, start, end) in self.completed.borrow().iter() {
            let (start, end) = (*start, *end);
            let query = Query::pages(Filters::default(), Some(Range { start, end }));
            let matching = self.matching(*region, &query);
            let was_there = |number: &&usize| at(findings[**number].since) < end && matching.contains(number);
            if let Some(number) = missing.iter().find(was_there) {
                self.fail(&format!("finding {number} is passed over by {start} to {end}"));
            }
        }
    }

    /// Its event is parked; once SQS takes it, the sweep sends it.
    fn is_parked(&self, number: usize) -> bool {
        let id = format!("finding-{number}");
        let parked = self.table.parked.borrow();
        parked
            .values()
            .any(|parked| parked.is_parked && parked.finding_id.as_deref() == Some(&id))
    }

    fn is_refused(&self, number: usize) -> bool {
        self.refuses.get() > 0 && number % 3 == 1
    }

    fn check_sent_once(&self) {
        let excused = self.excused.borrow();
        for (id, times) in self.sent.borrow().iter() {
            if *times > 1 && !excused.contains(id) {
                self.fail(&format!("sent {times} times: {id}"));
            }
        }
    }

    /// Versions that were sent and are not recorded may be sent again where the process ends.
    fn excuse_unrecorded(&self) {
        self.excuse(|id| !self.table.holds(&id.digest()));
    }

    /// Of these versions an answer of SQS was lost, or the record failed.
    fn excuse(&self, is_excused: impl Fn(&EventId) -> bool) {
        let sent = self.sent.borrow();
        let excused = sent.keys().filter(|id| is_excused(id)).copied();
        self.excused.borrow_mut().extend(excused);
    }

    fn undelivered(&self) -> Vec<usize> {
        let delivered = self.versions.borrow();
        let findings = self.findings.borrow();
        let wanted = self.matching(0, &Query::pages(Filters::default(), None));
        let is_missing = |number: &usize| !delivered.contains(&self.document(*number, &findings[*number]).to_string());
        wanted.into_iter().filter(is_missing).collect()
    }
}

impl Clock for Handle {
    fn now(&self) -> Timestamp {
        at(self.0.now.get() - self.0.clock_behind.get())
    }
}

impl FindingSource for Handle {
    async fn page(
        &self,
        region: &Region,
        query: &Query,
        token: Option<&str>,
        _: &Deadline,
    ) -> Result<String, AwsError> {
        let world = &self.0;
        let number = world.regions.iter().position(|known| known == region).unwrap();
        if let Some(left) = world.pages_left.borrow_mut().get_mut(number) {
            if *left == 0 {
                return Err(AwsError::out_of_time(GET_FINDINGS));
            }
            *left -= 1;
        }
        world
            .call(GET_FINDINGS, async || world.page_of(region, query, token))
            .await?
    }

    fn take_throttles(&self, _: &Region) -> u64 {
        0
    }
}

impl EventSink for Handle {
    async fn send(&self, batch: &[&Message], _: &Deadline) -> Result<Vec<EntryOutcome>, AwsError> {
        let world = &self.0;
        let take = async || {
            let mut outcomes = Vec::new();
            for message in batch {
                let body: Value = serde_json::from_str(&message.body).unwrap();
                let id = body["external_id"].as_str().unwrap();
                let number: usize = id.strip_prefix("finding-").unwrap().parse().unwrap();
                let is_refused = world.is_refused(number);
                if is_refused || world.random.one_in(25) {
                    let sender_fault = is_refused && world.refuses.get() == 1;
                    if is_refused {
                        world.has_refused.set(world.has_refused.get() || !sender_fault);
                    }
                    outcomes.push(EntryOutcome::Failed {
                        code: "InvalidMessageContents".to_owned(),
                        message: String::new(),
                        sender_fault,
                    });
                    continue;
                }
                outcomes.push(EntryOutcome::Confirmed);
                *world.sent.borrow_mut().entry(message.event_id).or_default() += 1;
                world.versions.borrow_mut().insert(body["raw_event"].to_string());
            }
            outcomes
        };
        let outcome = world.call("sqs:SendMessage", take).await;
        if outcome.is_err() {
            world.excuse(|id| batch.iter().any(|message| message.event_id == *id));
        }
        outcome
    }
}

impl DeliveredItems for Handle {
    async fn items(
        &self,
        day: Day,
        from: Option<Timestamp>,
        after: Option<&str>,
        deadline: &Deadline,
    ) -> Result<ItemPage, AwsError> {
        let table = &self.0.table;
        self.0
            .call("dynamodb:Query", async || table.items(day, from, after, deadline).await)
            .await?
    }

    async fn add(&self, item: &DeliveredItem, run: &str, number: u64, deadline: &Deadline) -> Result<(), AwsError> {
        let table = &self.0.table;
        let add = async || table.add(item, run, number, deadline).await;
        let outcome = self.0.call("dynamodb:PutItem", add).await.and_then(|added| added);
        if outcome.is_err() {
            self.0.excuse(|id| item.digests.contains(&id.digest()));
        }
        outcome
    }
}

impl ParkedEvents for Handle {
    async fn parked(&self, most: usize, deadline: &Deadline) -> Result<Vec<Parked>, AwsError> {
        let table = &self.0.table;
        self.0
            .call("dynamodb:Query", async || table.parked(most, deadline).await)
            .await?
    }

    async fn park(&self, parked: &Parked, deadline: &Deadline) -> Result<(), AwsError> {
        let table = &self.0.table;
        self.0
            .call("dynamodb:PutItem", async || table.park(parked, deadline).await)
            .await?
    }

    async fn unpark(&self, event_id: &EventId, deadline: &Deadline) -> Result<(), AwsError> {
        let table = &self.0.table;
        self.0
            .call("dynamodb:DeleteItem", async || table.unpark(event_id, deadline).await)
            .await?
    }
}

impl Checkpoints for Handle {
    async fn load(&self, key: &CheckpointKey, deadline: &Deadline) -> Result<Kept, AwsError> {
        let table = &self.0.table;
        self.0
            .call("dynamodb:Query", async || table.load(key, deadline).await)
            .await?
    }

    async fn backfill(
        &self,
        key: &CheckpointKey,
        range: Range,
        deadline: &Deadline,
    ) -> Result<Option<Window>, AwsError> {
        let table = &self.0.table;
        self.0
            .call("dynamodb:GetItem", async || table.backfill(key, range, deadline).await)
            .await?
    }

    async fn save(&self, key: &CheckpointKey, checkpoint: &Checkpoint, deadline: &Deadline) -> Result<(), AwsError> {
        let table = &self.0.table;
        self.0
            .call("dynamodb:PutItem", async || table.save(key, checkpoint, deadline).await)
            .await?
    }

    async fn forget_backfill(&self, key: &CheckpointKey, range: Range, deadline: &Deadline) -> Result<(), AwsError> {
        let table = &self.0.table;
        self.0
            .call("dynamodb:DeleteItem", async || {
                table.forget_backfill(key, range, deadline).await
            })
            .await?
    }

    fn nonsense(&self, key: &CheckpointKey, sort_key: &str, problem: &str) -> AwsError {
        self.0.fail(&format!("{key:?} {sort_key}: {problem}"))
    }
}

impl Leases for Handle {
    async fn take(
        &self,
        lease: &Lease,
        now: Timestamp,
        deadline: &Deadline,
    ) -> Result<Result<(), Timestamp>, AwsError> {
        let table = &self.0.table;
        self.0
            .call("dynamodb:PutItem", async || table.take(lease, now, deadline).await)
            .await?
    }

    async fn release(&self, lease: &Lease, deadline: &Deadline) -> Result<(), AwsError> {
        let table = &self.0.table;
        self.0
            .call("dynamodb:DeleteItem", async || table.release(lease, deadline).await)
            .await?
    }
}

struct Simulation {
    world: Rc<World>,
    /// Warm processes, of which each run uses one
    processes: Vec<TestPoller>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let world = Rc::new(World::new(seed));
        let processes = (0..2).map(|_| Self::process(&world)).collect();
        Self { world, processes }
    }

    fn process(world: &Rc<World>) -> TestPoller {
        let handle = Handle(Rc::clone(world));
        Poller {
            config: Config {
                function_name: "poller".to_owned(),
                findings_queue_url: String::new(),
                state_table_name: String::new(),
                regions: world.regions.clone(),
                filters: Filters::default(),
                lookback: world.lookback,
                sweep_every: world.sweep_every,
                state_ttl: Duration::from_hours(24 * 120),
                static_credentials_secret_arn: None,
            },
            source: handle.clone(),
            sink: handle.clone(),
            table: handle.clone(),
            clock: handle,
            metrics: Metrics::default(),
            memory: Memory::default(),
        }
    }

    async fn history(mut self) {
        let world = Rc::clone(&self.world);
        let random = &world.random;
        for _ in 0..6 + random.below(18) {
            match random.below(16) {
                0 | 1 => self.pass(random.seconds(5000)),
                2 => self.pass(random.seconds(90_000)),
                3 => {
                    world.clock_behind.set(random.seconds(3000));
                    world.note(format!("the clock is {} s behind", world.clock_behind.get() / 1000));
                }
                4 | 5 => world.create(1 + random.index(2)),
                6 => world.create(random.index(world.page * 3)),
                7 => world.change_something(),
                8 => {
                    for _ in 0..random.below(30) {
                        world.create(1);
                    }
                }
                9 => {
                    world.note("tokens are forgotten");
                    world.generation.set(world.generation.get() + 1);
                }
                10 => {
                    world.refuses.set(u32::try_from(random.below(3)).unwrap());
                    world.note(format!("SQS refuses: {}", world.refuses.get()));
                }
                11 => self.two_runs().await,
                _ => {
                    let input = self.any_input();
                    let pages = random.one_in(3).then(|| u32::try_from(1 + random.below(6)).unwrap());
                    let trouble = random.one_in(2).then(|| {
                        let kinds = [
                            Trouble::Fails,
                            Trouble::Lost,
                            Trouble::EndsBefore,
                            Trouble::EndsAfter,
                            Trouble::OutOfTime,
                        ];
                        (u32::try_from(random.below(60)).unwrap(), kinds[random.index(5)])
                    });
                    self.run(&input, pages, trouble).await;
                }
            }
        }
        self.come_to_rest().await;
    }

    fn pass(&self, milliseconds: i64) {
        let now = self.world.now.get() + milliseconds;
        self.world.now.set(now);
        self.world.note("time passes");
    }

    fn any_input(&self) -> Value {
        let (random, now) = (&self.world.random, self.world.now.get());
        match random.below(8) {
            0 => json!({"mode": "reconcile"}),
            1 => {
                let end = now - random.seconds(9000);
                json!({"mode": "backfill", "start": at(end - random.seconds(9000)), "end": at(end)})
            }
            2 => {
                json!({"mode": "backfill", "start": at(now - random.seconds(9000)), "end": at(BEGINNING + 400_000_000_000)})
            }
            _ => json!({}),
        }
    }

    async fn handle(&self, process: usize, input: &Value) -> Result<Value, Diagnostic> {
        let run = self.world.runs.get() + 1;
        self.world.runs.set(run);
        self.processes[process]
            .handle(input, &format!("run-{run}"), &Deadline::after(TIMEOUT))
            .await
    }

    /// A run, and what must hold after it.
    async fn run(&mut self, input: &Value, pages: Option<u32>, trouble: Option<(u32, Trouble)>) -> bool {
        let world = Rc::clone(&self.world);
        world.note(format!("run {input}, pages {pages:?}, trouble {trouble:?}"));
        let before: Vec<Incremental> = (0..world.regions.len())
            .map(|region| world.incremental(region))
            .collect();
        let had_backfill = world
            .table
            .checkpoints
            .borrow()
            .keys()
            .any(|key| key.contains("backfill"));
        let keeps = |name: &str| {
            world
                .table
                .checkpoints
                .borrow()
                .values()
                .any(|text| text.contains(name))
        };
        // What could not be delivered before is read again.
        let had_failures = keeps("has_failures");
        world.calls.set(0);
        *world.pages_left.borrow_mut() = pages.map_or_else(Vec::new, |pages| vec![pages; world.regions.len()]);
        world.trouble.set(trouble);
        world.has_refused.set(false);
        // A token that an earlier run kept may be used after what has changed since.
        world.has_changed.set(world.has_changed.get() && keeps("\"token\""));
        world.is_disturbed.set(world.is_disturbed.get() && keeps("\"start\""));
        let process = world.random.index(self.processes.len());
        let outcome = self.handle(process, input).await;
        let has_struck = trouble.is_some() && world.trouble.take().is_none();
        world.note(format!("{outcome:?}"));
        if world.ended.replace(false) {
            self.processes[process] = Self::process(&world);
        }
        // Of an instant with more findings than a page, one may be passed over: the sweep finds it.
        if !world.is_disturbed.get() {
            for (region, before) in before.iter().enumerate() {
                world.note_completed(region, before);
            }
            let is_whole = !had_backfill && outcome.as_ref().is_ok_and(|report| report["complete"] == true);
            if input["mode"] == "backfill" && is_whole {
                let time = |name: &str| input[name].as_str().unwrap().parse::<Timestamp>().unwrap();
                let end = time("end").min(at(world.now.get()));
                let windows = (0..world.regions.len()).map(|region| (region, time("start"), end));
                world.completed.borrow_mut().extend(windows);
            }
        }
        world.check_sent_once();
        world.check_windows();
        self.check_outcome(&outcome, has_struck, pages.is_some() || had_failures)
    }

    /// `true` where the run did all that was asked.
    fn check_outcome(&self, outcome: &Result<Value, Diagnostic>, has_struck: bool, is_short: bool) -> bool {
        let world = &self.world;
        match outcome {
            Ok(report) => {
                let is_complete = report["complete"] == true;
                let is_excused = has_struck || is_short || report["skipped"] == true || world.has_refused.get();
                if !is_complete && !is_excused {
                    world.fail("without trouble a run is complete");
                }
                is_complete
            }
            Err(error) if error.error_type == "Busy" => false,
            Err(error) => {
                if error.error_message.contains("invalid_request") {
                    world.fail("what was written cannot be read");
                }
                // SQS can fail an entry four times in a row by chance.
                if !has_struck && !world.has_refused.get() && !error.error_message.contains("delivery_failed") {
                    world.fail("without trouble a run does not fail");
                }
                false
            }
        }
    }

    async fn two_runs(&mut self) {
        let world = Rc::clone(&self.world);
        let input = self.any_input();
        world.note(format!("two runs at once, {input}"));
        world.calls.set(0);
        world.pages_left.borrow_mut().clear();
        world.interleaves.set(true);
        let none = json!({});
        let (first, second) = futures::join!(self.handle(0, &none), self.handle(1, &input));
        world.interleaves.set(false);
        world.note(format!("{first:?} {second:?}"));
        world.check_sent_once();
    }

    /// With time enough and no more trouble, everything is delivered, and nothing is left to send.
    async fn come_to_rest(mut self) {
        let world = Rc::clone(&self.world);
        world.note("come to rest");
        world.clock_behind.set(0);
        world.is_busy.set(false);
        world.refuses.set(0);
        if world.random.one_in(2) {
            world.catch_up();
        }
        self.pass(20_000_000);
        // Tokens stay good for one run, which has time for the findings of one instant.
        let mut instants: BTreeMap<Option<i64>, usize> = BTreeMap::new();
        for finding in world.findings.borrow().iter() {
            *instants.entry(finding.indexed).or_default() += 1;
        }
        let most = instants.values().max().copied().unwrap_or_default() / world.page;
        let pages = u32::try_from(most + 4).unwrap();
        for mode in ["incremental", "reconcile"] {
            let mut runs = 0;
            while !self.run(&json!({ "mode": mode }), Some(pages), None).await {
                world.generation.set(world.generation.get() + 1);
                runs += 1;
                if runs > 400 {
                    world.fail("it never ends");
                }
            }
        }
        // A pass that had begun before is finished by the first; the second is a whole one.
        if !self.run(&json!({"mode": "reconcile"}), None, None).await {
            self.run(&json!({"mode": "reconcile"}), None, None).await;
        }
        let undelivered = world.undelivered();
        if !undelivered.is_empty() {
            world.fail(&format!("not delivered: {undelivered:?}"));
        }
        if !world.table.parked.borrow().is_empty() {
            world.fail(&format!("still parked: {:?}", world.table.parked.borrow()));
        }
        let sent = world.sent.borrow().len();
        for input in [json!({}), json!({"mode": "reconcile"})] {
            self.run(&input, None, None).await;
        }
        if world.sent.borrow().len() != sent {
            world.fail("something was left to send");
        }
        if world.table.lease.borrow().is_some() {
            world.fail("the lease is not given back");
        }
    }
}

fn run(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async { Simulation::new(seed).history().await });
}

#[test]
fn histories_end_with_everything_delivered_and_nothing_twice() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("SIMULATION_SEED") {
        return run(seed);
    }
    let histories = number("SIMULATION_HISTORIES").unwrap_or(HISTORIES);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for first in (0..histories).take(threads) {
            scope.spawn(move || (first..histories).step_by(threads).for_each(run));
        }
    });
}
