//! From a finding in the AWS Security Finding Format (ASFF) to an `AiSOC` event. No client, no clock, no I/O.
//!
//! What it guarantees:
//! - `raw_event` is the text of the finding as Security Hub sent it: every member, in its order, every digit of every
//!   number. Findings are sliced out of the page ([`page::split`]), never parsed and written again.
//! - Any JSON value in the page's `Findings` gives an event. A member that is absent or of the wrong type is `null` in
//!   the event; it never costs another member, or another finding.
//! - The same finding version always gives the same `event_id` ([`version`]).
//!
//! What it must never do: invent a value that the finding does not hold.

mod entities;
pub mod event;
pub mod indicator;
mod json;
pub mod page;
#[cfg(test)]
mod samples;
pub mod severity;
pub mod version;

pub use event::{Event, Observed};
pub use page::{Finding, Page, split};
pub use version::{Digest, EventId};
