//! What the tests of several modules share.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use asff::{Digest, EventId};
use aws_support::{AwsError, Deadline, ErrorKind};
use aws_text::Region;
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use crate::delivery::batch::{EntryOutcome, EventSink, Message};
use crate::delivery::ledger::{Day, DeliveredItem, DeliveredItems, ItemPage};
use crate::delivery::parking::{Parked, ParkedEvents};
use crate::poll::checkpoint::{Checkpoint, CheckpointKey, Checkpoints, INCREMENTAL, Kept, SWEEP, Window};
use crate::poll::lease::{LONGEST, Lease, Leases};
use crate::security_hub::{FindingSource, GET_FINDINGS, Query, Range};
use crate::state_table::UNREADABLE;

/// The state table in memory. Checkpoints are kept as text, so that what is written has to be readable.
#[derive(Debug, Default)]
pub(crate) struct MemoryTable {
    pub(crate) delivered: RefCell<BTreeMap<(String, String), DeliveredItem>>,
    pub(crate) checkpoints: RefCell<BTreeMap<String, String>>,
    pub(crate) parked: RefCell<HashMap<EventId, Parked>>,
    pub(crate) lease: RefCell<Option<Lease>>,
    pub(crate) items_a_page: Cell<Option<usize>>,
    /// What taking the lease fails with
    pub(crate) refuses: RefCell<Option<AwsError>>,
    /// Calls of each operation
    pub(crate) calls: RefCell<BTreeMap<&'static str, u64>>,
    /// Request units, as DynamoDB counts them: 4 KiB read, 1 KiB written
    pub(crate) units_read: Cell<u64>,
    pub(crate) units_written: Cell<u64>,
}

/// A query gives so many items at a time: few, unless a test counts request units.
const ITEMS_A_PAGE: usize = 3;

impl MemoryTable {
    pub(crate) fn count(&self, operation: &'static str) {
        *self.calls.borrow_mut().entry(operation).or_default() += 1;
    }

    fn read_units(&self, bytes: u64) {
        self.units_read.set(self.units_read.get() + bytes.div_ceil(4096).max(1));
    }

    fn write_units(&self, bytes: u64) {
        self.units_written
            .set(self.units_written.get() + bytes.div_ceil(1024).max(1));
    }

    pub(crate) fn holds(&self, digest: &Digest) -> bool {
        self.delivered
            .borrow()
            .values()
            .any(|item| item.digests.contains(digest))
    }

    fn name(key: &CheckpointKey, sort_key: &str) -> String {
        format!("{}#{}#{sort_key}", key.region, key.filters)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, AwsError> {
        let checkpoints = self.checkpoints.borrow();
        let Some(text) = checkpoints.get(name) else {
            return Ok(None);
        };
        serde_json::from_str(text)
            .map(Some)
            .map_err(|error| unreadable(name, &error.to_string()))
    }

    pub(crate) fn load_now(&self, key: &CheckpointKey) -> Kept {
        Kept {
            incremental: self.read(&Self::name(key, INCREMENTAL)),
            sweep: self.read(&Self::name(key, SWEEP)),
        }
    }
}

fn unreadable(name: &str, problem: &str) -> AwsError {
    AwsError {
        code: Some(UNREADABLE.to_owned()),
        ..AwsError::new("dynamodb:Query", ErrorKind::Rejected, format!("{name} {problem}"))
    }
}

fn stamp(updated: Option<Timestamp>) -> String {
    updated.map_or_else(|| "none".to_owned(), |updated| format!("{updated:.3}"))
}

/// Names and values (DynamoDB Developer Guide, "Item sizes").
fn item_bytes(sk: &str, item: &DeliveredItem) -> u64 {
    let names = "pkskdigestsfirstexpires_at".len();
    (names + "delivered#2026-11-23".len() + sk.len() + 24 + 8 + 16 * item.digests.len()) as u64
}

impl DeliveredItems for MemoryTable {
    async fn items(
        &self,
        day: Day,
        from: Option<Timestamp>,
        after: Option<&str>,
        _: &Deadline,
    ) -> Result<ItemPage, AwsError> {
        self.count("query delivered");
        let items_a_page = self.items_a_page.get().unwrap_or(ITEMS_A_PAGE);
        let delivered = self.delivered.borrow();
        let from = from.map(|from| stamp(Some(from))).unwrap_or_default();
        let mut items: Vec<(String, DeliveredItem)> = delivered
            .range((day.to_string(), from)..)
            .take_while(|((pk, _), _)| *pk == day.to_string())
            .filter(|((_, sk), _)| after.is_none_or(|after| sk.as_str() > after))
            .take(items_a_page + 1)
            .map(|((_, sk), item)| (sk.clone(), item.clone()))
            .collect();
        let has_more = items.len() > items_a_page;
        items.truncate(items_a_page);
        let next = items.last().map(|(sk, _)| sk.clone()).filter(|_| has_more);
        self.read_units(items.iter().map(|(sk, item)| item_bytes(sk, item)).sum());
        Ok((items.into_iter().map(|(_, item)| item).collect(), next))
    }

    async fn add(&self, item: &DeliveredItem, run: &str, number: u64, _: &Deadline) -> Result<(), AwsError> {
        self.count("put delivered");
        let sk = format!("{}#{run}#{number}", stamp(item.last));
        assert!(item.digests.len() <= 400, "an item has its limits");
        self.write_units(item_bytes(&sk, item));
        let before = self
            .delivered
            .borrow_mut()
            .insert((item.day.to_string(), sk.clone()), item.clone());
        assert!(before.is_none_or(|before| before == *item), "{sk} is written over");
        Ok(())
    }
}

impl ParkedEvents for MemoryTable {
    async fn parked(&self, most: usize, _: &Deadline) -> Result<Vec<Parked>, AwsError> {
        self.count("query parked");
        self.read_units(0);
        Ok(self.parked.borrow().values().take(most).cloned().collect())
    }

    async fn park(&self, parked: &Parked, _: &Deadline) -> Result<(), AwsError> {
        self.count("put parked");
        self.parked.borrow_mut().insert(parked.event_id, parked.clone());
        Ok(())
    }

    async fn unpark(&self, event_id: &EventId, _: &Deadline) -> Result<(), AwsError> {
        self.count("delete parked");
        self.parked.borrow_mut().remove(event_id);
        Ok(())
    }
}

fn backfill_key(range: Range) -> String {
    format!("backfill#{}#{}", range.start, range.end)
}

impl Checkpoints for MemoryTable {
    async fn load(&self, key: &CheckpointKey, _: &Deadline) -> Result<Kept, AwsError> {
        self.count("query checkpoint");
        self.read_units(1000);
        Ok(self.load_now(key))
    }

    async fn backfill(&self, key: &CheckpointKey, range: Range, _: &Deadline) -> Result<Option<Window>, AwsError> {
        self.count("get checkpoint");
        let name = Self::name(key, &backfill_key(range));
        let window: Option<Window> = self.read(&name)?;
        if let Some(Err(problem)) = window.as_ref().map(Window::check) {
            return Err(unreadable(&name, &problem));
        }
        Ok(window)
    }

    async fn save(&self, key: &CheckpointKey, checkpoint: &Checkpoint, _: &Deadline) -> Result<(), AwsError> {
        self.count("put checkpoint");
        self.write_units(600);
        let (sort_key, text) = match checkpoint {
            Checkpoint::Incremental(state) => (INCREMENTAL.to_owned(), serde_json::to_string(state)),
            Checkpoint::Sweep(state) => (SWEEP.to_owned(), serde_json::to_string(state)),
            Checkpoint::Backfill(range, window) => (backfill_key(*range), serde_json::to_string(window)),
        };
        let name = Self::name(key, &sort_key);
        self.checkpoints.borrow_mut().insert(name, text.unwrap());
        Ok(())
    }

    async fn forget_backfill(&self, key: &CheckpointKey, range: Range, _: &Deadline) -> Result<(), AwsError> {
        self.count("delete checkpoint");
        self.checkpoints
            .borrow_mut()
            .remove(&Self::name(key, &backfill_key(range)));
        Ok(())
    }

    fn nonsense(&self, key: &CheckpointKey, sort_key: &str, problem: &str) -> AwsError {
        unreadable(&Self::name(key, sort_key), problem)
    }
}

impl Leases for MemoryTable {
    async fn take(&self, lease: &Lease, now: Timestamp, _: &Deadline) -> Result<Result<(), Timestamp>, AwsError> {
        self.count("put lease");
        if let Some(error) = &*self.refuses.borrow() {
            return Err(error.clone());
        }
        self.write_units(200);
        let mut held = self.lease.borrow_mut();
        if let Some(held) = held.as_ref()
            && held.holder != lease.holder
            && held.until >= now
            && held.until <= now + LONGEST
        {
            return Ok(Err(held.until));
        }
        *held = Some(lease.clone());
        Ok(Ok(()))
    }

    async fn release(&self, lease: &Lease, _: &Deadline) -> Result<(), AwsError> {
        self.count("delete lease");
        self.write_units(200);
        let mut held = self.lease.borrow_mut();
        if held.as_ref().is_some_and(|held| held.holder == lease.holder) {
            *held = None;
        }
        Ok(())
    }
}

/// Keeps metric lines.
#[derive(Debug, Default)]
pub(crate) struct Metrics(pub(crate) RefCell<Vec<Value>>);

impl aws_support::metrics::MetricSink for Metrics {
    fn put(&self, line: &Value) {
        self.0.borrow_mut().push(line.clone());
    }
}

/// A finding as a hub has it: the regions that give it, its `UpdatedAt` in milliseconds, and its text.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) regions: &'static [&'static str],
    pub(crate) updated: i64,
    pub(crate) text: String,
}

/// A Security Hub that gives its findings in the order in which they stand here. Its tokens count.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    pub(crate) findings: Vec<Given>,
    pub(crate) page: usize,
    /// What the calls of a region are answered with, one after the other, in place of findings
    pub(crate) instead: RefCell<HashMap<&'static str, Vec<Result<String, AwsError>>>>,
    pub(crate) calls: RefCell<Vec<(String, Query, Option<String>)>>,
    /// Time between two answers
    pub(crate) interval: Duration,
    pub(crate) next: Cell<Option<Instant>>,
    /// Pages that are given before time runs out
    pub(crate) pages_left: Cell<Option<u32>>,
    pub(crate) has_stale_tokens: Cell<bool>,
}

impl Hub {
    pub(crate) fn of(findings: Vec<Given>, page: usize) -> Self {
        Self {
            findings,
            page,
            ..Self::default()
        }
    }

    fn answer(&self, region: &Region, query: &Query, token: Option<&str>) -> String {
        let is_wanted = |given: &&Given| {
            let is_in_range = query.updated.is_none_or(|range| {
                let updated = Timestamp::from_millisecond(given.updated).unwrap();
                (range.start..=range.end).contains(&updated)
            });
            is_in_range && given.regions.contains(&region.as_str())
        };
        let skipped: usize = token.map_or(0, |token| token.parse().unwrap());
        let mut wanted = self.findings.iter().filter(is_wanted).skip(skipped);
        let size = self.page.min(usize::try_from(query.page_size).unwrap());
        let page: Vec<&str> = wanted.by_ref().take(size).map(|given| given.text.as_str()).collect();
        let token = wanted.next().map(|_| skipped + page.len());
        let token = token
            .map(|token| format!(",\"NextToken\":\"{token}\""))
            .unwrap_or_default();
        format!("{{\"Findings\":[{}]{token}}}", page.join(","))
    }
}

impl FindingSource for Hub {
    async fn page(
        &self,
        region: &Region,
        query: &Query,
        token: Option<&str>,
        deadline: &Deadline,
    ) -> Result<String, AwsError> {
        self.calls
            .borrow_mut()
            .push((region.to_string(), query.clone(), token.map(str::to_owned)));
        if let Some(left) = self.pages_left.get() {
            if left == 0 {
                return Err(AwsError::out_of_time(GET_FINDINGS));
            }
            self.pages_left.set(Some(left - 1));
        }
        if !self.interval.is_zero() {
            let turn = self.next.get().unwrap_or_else(Instant::now).max(Instant::now());
            self.next.set(Some(turn + self.interval));
            let waited = deadline.bound(tokio::time::sleep_until(turn)).await;
            waited.map_err(|_| AwsError::out_of_time(GET_FINDINGS))?;
        }
        if let Some(answers) = self.instead.borrow_mut().get_mut(region.as_str())
            && !answers.is_empty()
        {
            return answers.remove(0);
        }
        if token.is_some() && self.has_stale_tokens.get() {
            return Err(AwsError {
                code: Some("InvalidInputException".to_owned()),
                ..AwsError::new(GET_FINDINGS, ErrorKind::Rejected, "stale".to_owned())
            });
        }
        Ok(self.answer(region, query, token))
    }

    fn take_throttles(&self, _: &Region) -> u64 {
        0
    }
}

/// A queue that keeps bodies, and refuses the events of some findings.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) bodies: RefCell<Vec<Value>>,
    pub(crate) batches: Cell<u64>,
    /// Of which finding, and whether the event is said to be at fault
    pub(crate) refuses: RefCell<Option<(&'static str, bool)>>,
    pub(crate) error: RefCell<Option<AwsError>>,
    pub(crate) latency: Duration,
    /// Bodies are not kept
    pub(crate) only_counts: bool,
    pub(crate) sent: Cell<u64>,
}

impl EventSink for Queue {
    async fn send(&self, batch: &[&Message], _: &Deadline) -> Result<Vec<EntryOutcome>, AwsError> {
        self.batches.set(self.batches.get() + 1);
        tokio::time::sleep(self.latency).await;
        if let Some(error) = &*self.error.borrow() {
            return Err(error.clone());
        }
        let take = |message: &&Message| {
            if let Some((refused, sender_fault)) = *self.refuses.borrow()
                && message.finding_id.as_deref() == Some(refused)
            {
                return EntryOutcome::Failed {
                    code: "InvalidMessageContents".to_owned(),
                    message: "no".to_owned(),
                    sender_fault,
                };
            }
            self.sent.set(self.sent.get() + 1);
            if !self.only_counts {
                let body = serde_json::from_str(&message.body).unwrap();
                self.bodies.borrow_mut().push(body);
            }
            EntryOutcome::Confirmed
        };
        Ok(batch.iter().map(take).collect())
    }
}

/// The wall clock stands still, unless a test sets it.
#[derive(Debug)]
pub(crate) struct WallClock(pub(crate) Cell<Timestamp>);

impl aws_support::Clock for WallClock {
    fn now(&self) -> Timestamp {
        self.0.get()
    }
}
