//! Containment: `BLOCK_IP` and `ALLOW_IP` requests to EC2, the audit that keeps what they asked for so, and verdicts to
//! Security Hub.
//!
//! What it guarantees:
//! - A request is answered once it is decided, and is retried later while it is not.
//! - Nothing is changed unless every check was made and passed ([`actions`]).
//! - What is put into a network is in the blocks table before, and stays there until it is gone ([`ports::Blocks`]).
//! - The same request twice is the same as once.
//!
//! What it must never do: report as verified what EC2 did not show when it was read back, or an item of the table as a
//! block.

pub mod aws;
pub mod block;
pub mod config;
pub mod handler;
pub mod metrics;
pub mod ports;
pub mod writeback;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod testing;

pub use block::request::Executor;
pub use config::Config;
pub use handler::Containment;
pub use writeback::WriteBack;
