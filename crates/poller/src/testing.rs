//! What the tests of several modules share.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use aws_support::{AwsError, Deadline};
use serde_json::Value;

use crate::ledger::{DeliveryLedger, Keeping, Kept, ReadingKey};

/// A ledger in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryLedger {
    pub(crate) delivered: RefCell<HashSet<String>>,
    pub(crate) readings: RefCell<HashMap<String, Kept>>,
}

impl MemoryLedger {
    /// As [`DeliveryLedger::keep`].
    pub(crate) fn put(&self, key: &ReadingKey, kept: &Kept, revision: Option<u64>) -> Keeping {
        let mut readings = self.readings.borrow_mut();
        if readings.get(&key.text).map(|kept| kept.revision) != revision {
            return Keeping::Conflict;
        }
        readings.insert(key.text.clone(), kept.clone());
        Keeping::Kept
    }
}

impl DeliveryLedger for MemoryLedger {
    async fn delivered(&self, event_ids: &[&str], _: &Deadline) -> Result<HashSet<String>, AwsError> {
        let delivered = self.delivered.borrow();
        Ok(event_ids
            .iter()
            .filter(|id| delivered.contains(**id))
            .map(ToString::to_string)
            .collect())
    }

    async fn record(&self, event_ids: &[String], _: &Deadline) -> Result<(), AwsError> {
        self.delivered.borrow_mut().extend(event_ids.iter().cloned());
        Ok(())
    }

    async fn load(&self, key: &ReadingKey, _: &Deadline) -> Result<Option<Kept>, AwsError> {
        Ok(self.readings.borrow().get(&key.text).cloned())
    }

    async fn keep(
        &self,
        key: &ReadingKey,
        kept: &Kept,
        revision: Option<u64>,
        _: &Deadline,
    ) -> Result<Keeping, AwsError> {
        Ok(self.put(key, kept, revision))
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
