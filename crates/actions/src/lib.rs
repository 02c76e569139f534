//! Containment without a client: reading a request, deciding what it takes, and the text of the result.
//!
//! ```text
//! message body ─► Asked ─► Request ─► Policy::check ─► Block (what is to be so) ─┐
//!                   │                                  Seen (what EC2 shows) ────┴─► compare ─► Steps ─► … ─► Outcome
//!                   └────► writeback::Request ─► writeback::Policy::check ─► Update (of a finding) ─► … ─► Outcome
//! ```
//!
//! The table of blocks says what is to be blocked; [`block::compare()`] compares one block with what EC2 shows and
//! gives the steps that make EC2 agree. BLOCK_IP, ALLOW_IP, the end of a block and the audit all use it.
//!
//! What it guarantees, whatever the request and the network: it adds no rule to a security group that is attached to a
//! network interface, lacks the block-list tag, or is a VPC's default group (a security group can only allow: such a
//! rule would let the attacker in); it removes no network ACL entry that the table does not explain; and it adds no
//! deny entry behind an allow entry that overlaps it. It closes no finding that may be an attack.
//!
//! What it must never do: guess. A member it does not know, or cannot read, refuses the request.

pub mod block;
mod error;
mod members;
pub mod policy;
pub mod request;
pub mod result;
mod rule;
pub mod target;
#[cfg(feature = "schema")]
pub mod wire;
pub mod writeback;

pub use block::{Block, NetworkAcl, Seen, Step, compare};
pub use error::{ErrorCode, ErrorDetail, Refusal};
pub use policy::{Enforcement, Policy};
pub use request::{Action, Asked, Capability, Rejection, Request, Vendor};
pub use result::{Details, FindingDetails, Outcome, Status, Subject};
pub use rule::{IngressRule, Protocol};
pub use target::Target;
