//! What is read from Security Hub, and how far it has come: the polls of new findings, backfills, and the sweep.

pub mod checkpoint;
pub mod lease;
pub mod reader;
pub mod region;
pub mod sweep;

pub use checkpoint::Checkpoints;
