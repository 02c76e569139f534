//! The ports in AWS.

pub mod accounts;
pub mod actions_queue;
pub mod blocks;
pub mod ec2;
pub mod results;
pub mod scheduler;
pub mod security_hub;
