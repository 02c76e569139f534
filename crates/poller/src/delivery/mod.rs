//! From findings to SQS, whatever brought the findings: what is known is left out, the rest is sent and recorded, and
//! an event that SQS refuses for good is parked.

pub mod batch;
pub mod in_flight;
pub mod ledger;
pub mod parking;
pub mod pipeline;
pub mod sqs;

pub use batch::{EventSink, Message};
pub use ledger::DeliveredItems;
pub use parking::ParkedEvents;
pub use pipeline::{Counts, Finding, Pipeline};

use std::time::Duration;

/// How long after the deadline of all else a delivery may still be recorded: what was sent and is not recorded would
/// be sent again.
pub const RECORDING_GRACE: Duration = Duration::from_millis(700);
