//! What the tests of several modules share.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use asff::{Digest, EventId};
use aws_support::{AwsError, Deadline, ErrorKind};
use jiff::Timestamp;
use serde_json::Value;

use crate::delivery::ledger::{Day, DeliveredItem, DeliveredItems, ItemPage};
use crate::delivery::parking::{Parked, ParkedEvents};
use crate::poll::checkpoint::{Checkpoint, CheckpointKey, Checkpoints, INCREMENTAL, Kept, SWEEP, Window};
use crate::poll::lease::{LONGEST, Lease, Leases};
use crate::security_hub::Range;
use crate::state_table::UNREADABLE;

/// The state table in memory. Checkpoints are kept as text, so that what is written has to be readable.
#[derive(Debug, Default)]
pub(crate) struct MemoryTable {
    pub(crate) delivered: RefCell<BTreeMap<(String, String), DeliveredItem>>,
    pub(crate) checkpoints: RefCell<BTreeMap<String, String>>,
    pub(crate) parked: RefCell<HashMap<EventId, Parked>>,
    pub(crate) lease: RefCell<Option<Lease>>,
    /// Calls of each operation
    pub(crate) calls: RefCell<BTreeMap<&'static str, u64>>,
}

/// A query gives so many items at a time.
const ITEMS_A_PAGE: usize = 3;

impl MemoryTable {
    pub(crate) fn count(&self, operation: &'static str) {
        *self.calls.borrow_mut().entry(operation).or_default() += 1;
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

impl DeliveredItems for MemoryTable {
    async fn items(
        &self,
        day: Day,
        from: Option<Timestamp>,
        after: Option<&str>,
        _: &Deadline,
    ) -> Result<ItemPage, AwsError> {
        self.count("query delivered");
        let delivered = self.delivered.borrow();
        let from = from.map(|from| stamp(Some(from))).unwrap_or_default();
        let mut items: Vec<(String, DeliveredItem)> = delivered
            .range((day.to_string(), from)..)
            .take_while(|((pk, _), _)| *pk == day.to_string())
            .filter(|((_, sk), _)| after.is_none_or(|after| sk.as_str() > after))
            .take(ITEMS_A_PAGE + 1)
            .map(|((_, sk), item)| (sk.clone(), item.clone()))
            .collect();
        let has_more = items.len() > ITEMS_A_PAGE;
        items.truncate(ITEMS_A_PAGE);
        let next = items.last().map(|(sk, _)| sk.clone()).filter(|_| has_more);
        Ok((items.into_iter().map(|(_, item)| item).collect(), next))
    }

    async fn add(&self, item: &DeliveredItem, run: &str, number: u64, _: &Deadline) -> Result<(), AwsError> {
        self.count("put delivered");
        let sk = format!("{}#{run}#{number}", stamp(item.last));
        assert!(item.digests.len() <= 400, "an item has its limits");
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
