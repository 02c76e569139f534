//! The poller: Security Hub findings to SQS, one message a finding version.
//!
//! What it guarantees:
//! - Every finding the query returns is sent, or the region's report says that it was not, and why.
//! - No finding version is sent twice, unless the process ends, or SQS's answer is lost, between the confirmation and its
//!   record, or two polls overlap ([`poll`]).
//! - One finding, entry, page or region that fails costs no other.
//! - A finding leaves as Security Hub sent it ([`asff`]).
//!
//! What it must never do: take as delivered what SQS has not confirmed.

pub mod config;
pub mod deliver;
pub mod dynamodb;
pub mod handler;
pub mod in_flight;
pub mod input;
pub mod ledger;
pub mod metrics;
#[cfg(test)]
mod model;
pub mod poll;
pub mod query;
pub mod reading;
pub mod report;
pub mod security_hub;
pub mod sqs;
#[cfg(test)]
mod testing;

pub use config::Config;
pub use handler::Poller;
