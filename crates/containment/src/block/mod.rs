//! Blocks in EC2: a request carried out, and the audit that keeps what was carried out so.

pub mod audit;
pub(crate) mod failure;
pub mod request;
mod run;
#[cfg(test)]
mod tests;
