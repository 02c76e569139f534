//! The poller: Security Hub findings to SQS, one message a finding version.
//!
//! What it guarantees:
//! - Every finding the query returns is sent, or the region's report says that it was not, and why; what a poll cannot
//!   see is found by the sweep ([`poll`]).
//! - No finding version is sent twice, unless the process ends, or SQS's answer is lost, between the confirmation and its
//!   record ([`delivery`]).
//! - One finding, entry, page or region that fails costs no other.
//! - A finding is delivered as Security Hub sent it ([`asff`]).
//!
//! What it must never do: take as delivered what SQS has not confirmed.

pub mod clients;
pub mod config;
pub mod delivery;
pub mod handler;
pub mod input;
pub mod metrics;
pub mod poll;
pub mod report;
pub mod security_hub;
#[cfg(test)]
mod simulation;
pub mod state_table;
#[cfg(test)]
mod testing;

pub use config::Config;
pub use handler::Poller;
