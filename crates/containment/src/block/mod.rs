//! Blocks in EC2: a request carried out, and the audit that keeps what was carried out so.

mod allow_ip;
mod answer;
pub mod audit;
mod block_ip;
pub(crate) mod failure;
pub mod report;
pub mod request;
mod run;
#[cfg(test)]
mod tests;
