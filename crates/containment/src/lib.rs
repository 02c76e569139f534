//! Containment: `BLOCK_IP` and `ALLOW_IP` requests to EC2.
//!
//! What it guarantees:
//! - A request is answered once it is decided, and handed back to its queue while it is not.
//! - Nothing is changed unless every check was made and passed ([`containment_plan`]).
//! - What is put into a network is on record before, and stays there until it is gone ([`containment_plan::plan()`]).
//! - The same request twice is the same as once.
//!
//! What it must never do: report what a fresh look at EC2 has not shown as verified, or a record as a block.

pub mod accounts;
pub mod audit;
pub mod config;
pub mod ec2;
pub mod executor;
pub mod failure;
pub mod handler;
pub mod metrics;
pub mod network;
pub mod results;
mod run;
pub mod schedules;
#[cfg(test)]
mod testing;

pub use config::Config;
pub use executor::Executor;
pub use handler::Containment;
