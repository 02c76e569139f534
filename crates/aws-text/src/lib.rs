//! Text that AWS takes: names of things, checked before they are used, and what an SQS message can hold. No client.

mod name;
pub mod sqs;

pub use name::{NetworkAclId, NotAName, Region, RoleArn, SecurityGroupId};
