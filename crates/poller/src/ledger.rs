//! What is remembered: which finding versions were delivered, and how far each reading has come.

use std::collections::HashSet;

use aws_support::{AwsError, Deadline};

use crate::reading::Reading;

/// The delivery ledger.
pub trait DeliveryLedger {
    /// Which of the events were delivered, by their ids.
    ///
    /// # Errors
    /// Where that cannot be told.
    fn delivered(
        &self,
        event_ids: &[&str],
        deadline: &Deadline,
    ) -> impl Future<Output = Result<HashSet<String>, AwsError>>;

    /// Records events as delivered.
    ///
    /// # Errors
    /// Where some may not be recorded: they may be delivered again.
    fn record(&self, event_ids: &[String], deadline: &Deadline) -> impl Future<Output = Result<(), AwsError>>;

    /// How far a reading has come; `None` where it has not begun.
    ///
    /// # Errors
    /// Where that cannot be told, or what is kept makes no sense.
    fn load(&self, key: &ReadingKey, deadline: &Deadline) -> impl Future<Output = Result<Option<Kept>, AwsError>>;

    /// Keeps how far a reading has come, if nobody has since it was `revision`.
    ///
    /// # Errors
    /// Where it is not known to be kept.
    fn keep(
        &self,
        key: &ReadingKey,
        kept: &Kept,
        revision: Option<u64>,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Keeping, AwsError>>;
}

/// Names a reading.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadingKey {
    /// The name
    pub text: String,
    /// It is kept for as long as there is a connector: what was read last decides what is read next. The others are
    /// of no use once they are done, and expire
    pub lasting: bool,
}

/// A reading as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How far it has come
    pub reading: Reading,
    /// Grows with each change
    pub revision: u64,
    /// The run that kept it
    pub writer: String,
}

/// What became of an attempt to keep a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// It is kept
    Kept,
    /// Another run has kept something since
    Conflict,
}
