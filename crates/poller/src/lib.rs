//! The poller: Security Hub findings to SQS, one message a finding version.
//!
//! What it guarantees:
//! - Every finding the query returns is sent, or the region's report says that it was not, and why.
//! - One finding, entry, page or region that fails costs no other.
//! - A finding leaves as Security Hub sent it ([`asff`]).
//!
//! What it must never do: report as sent what SQS has not confirmed.

pub mod config;
pub mod deliver;
pub mod handler;
pub mod input;
pub mod poll;
pub mod query;
pub mod report;
pub mod security_hub;
pub mod sqs;

pub use config::Config;
pub use handler::Poller;
