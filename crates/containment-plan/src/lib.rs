//! Containment without a client: reading a request, deciding what it takes, and the words of the result.
//!
//! ```text
//! message body ─► Request ─► Policy::check ─► (state is read) ─► plan ─► steps ─► (carried out) ─► Outcome
//! ```
//!
//! What it guarantees, whatever the request and the state: [`plan::plan`] adds no rule to a security group that is
//! attached to a network interface, lacks the block-list tag, or is a VPC's default group (a security group can only
//! allow: such a rule would let the attacker in); it touches no entry of a network ACL that is not ours; and it adds no
//! entry behind an allow that it must beat.
//!
//! What it must never do: guess. A member it does not know, or cannot read, refuses the request.

pub mod audit;
mod members;
pub mod network_acl;
pub mod outcome;
pub mod plan;
pub mod policy;
pub mod record;
pub mod request;
pub mod rule;
pub mod target;
#[cfg(feature = "schema")]
pub mod wire;

pub use network_acl::NetworkAcl;
pub use outcome::{Details, ErrorDetail, Outcome, Status};
pub use plan::{GroupState, Plan, State, Step, plan};
pub use policy::{Enforcement, Policy};
pub use record::RecordedRule;
pub use request::{Action, Rejection, Request};
pub use rule::{IngressRule, Protocol};
pub use target::Target;

use serde::Serialize;

/// Why a request is not carried out; it would be refused again until someone changes the request or a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs
    pub code: RefusalCode,
    /// What is wrong
    pub message: String,
    /// What to change
    pub remedy: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The request cannot be read, or asks for something that does not exist
    InvalidRequest,
    /// The target must not be blocked
    ProtectedTarget,
    /// The role is not in the allow list
    RoleNotAllowed,
    /// The block should end by itself, and nothing is set up that could end it
    ExpiryNotConfigured,
    /// The security group is not a block list
    GroupNotEnrolled,
    /// The security group is attached to a network interface
    GroupInUse,
    /// A network ACL that was named is none of the group's VPC, or the VPC has none in use
    NetworkAclNotInVpc,
    /// A network ACL has no room for a deny entry where it would count
    NetworkAclFull,
}

impl RefusalCode {
    /// The name used in results.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RefusalCode::InvalidRequest => "invalid_request",
            RefusalCode::ProtectedTarget => "protected_target",
            RefusalCode::RoleNotAllowed => "role_not_allowed",
            RefusalCode::ExpiryNotConfigured => "expiry_not_configured",
            RefusalCode::GroupNotEnrolled => "group_not_enrolled",
            RefusalCode::GroupInUse => "group_in_use",
            RefusalCode::NetworkAclNotInVpc => "network_acl_not_in_vpc",
            RefusalCode::NetworkAclFull => "network_acl_full",
        }
    }

    /// How a request ends that is refused so: rejected where it asks for what is not allowed, failed where it asks for
    /// what there is no room for.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            RefusalCode::InvalidRequest
            | RefusalCode::ProtectedTarget
            | RefusalCode::RoleNotAllowed
            | RefusalCode::ExpiryNotConfigured
            | RefusalCode::GroupNotEnrolled
            | RefusalCode::GroupInUse
            | RefusalCode::NetworkAclNotInVpc => Status::Rejected,
            RefusalCode::NetworkAclFull => Status::Failed,
        }
    }
}
