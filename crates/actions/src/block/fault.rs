//! What an audit finds: faults of block lists and of blocks. Each gives a result once when it is found and once when it
//! is over; what is mended at once gives one.

use std::collections::BTreeSet;

use aws_text::{Region, RoleArn, SecurityGroupId};
use serde::{Deserialize, Serialize};

use super::network_acl::{Entry, NetworkAcl};
use super::{Block, Comparison, ListState, State, Step};
use crate::ErrorCode;
use crate::policy::{Enforcement, Policy};
use crate::rule::IngressRule;
use jiff::Timestamp;

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FaultKind {
    /// A block list is attached: its rules would let in what is to be blocked
    ListInUse,
    /// A block list with blocks has lost the tag, or was deleted
    ListLost,
    /// A block has no effective deny entry in some network ACL
    NotEnforced,
    /// A block's rule is not on its block list, where it may stand
    RuleMissing,
    /// A block is past its end
    Overdue,
    /// A block that was to be lifted is not gone
    NotLifted,
}

impl FaultKind {
    /// The code in results.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::ListInUse => ErrorCode::GroupInUse,
            Self::ListLost => ErrorCode::BlockListLost,
            Self::NotEnforced | Self::RuleMissing => ErrorCode::BlockNotEnforced,
            Self::Overdue | Self::NotLifted => ErrorCode::BlockOverdue,
        }
    }
}

/// What is wrong with what: a block list, or one of its blocks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fault {
    pub kind: FaultKind,
    /// The role that reaches the account; `None` is the function's own account
    pub role: Option<RoleArn>,
    pub region: Region,
    pub group: SecurityGroupId,
    /// Of a block
    pub rule: Option<IngressRule>,
}

/// A fault in the table, from when it is found until it is told that it is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownFault {
    pub fault: Fault,
    /// A result said that it was found
    pub is_told: bool,
}

/// The fault of a block list, given whether blocks of it are in the table.
#[must_use]
pub fn of_list(list: &ListState, has_blocks: bool) -> Option<FaultKind> {
    match list {
        ListState::Detached => None,
        ListState::Attached(_) => Some(FaultKind::ListInUse),
        ListState::Deleted | ListState::NotEnrolled | ListState::DefaultGroup => {
            has_blocks.then_some(FaultKind::ListLost)
        }
    }
}

/// The fault of a block. That its list is attached or lost is the list's fault.
#[must_use]
pub fn of_block(block: &Block, comparison: &Comparison, now: Timestamp, policy: &Policy) -> Option<FaultKind> {
    match block.state {
        State::Lifted { .. } => None,
        State::Lifting { .. } => Some(FaultKind::NotLifted),
        State::Pending | State::InForce if block.is_overdue(now) => Some(FaultKind::Overdue),
        State::Pending | State::InForce if block.has_ended(now) => None,
        State::Pending | State::InForce => {
            let is_missing = |step: &Step| matches!(step, Step::Authorize { .. });
            if policy.enforcement == Enforcement::NetworkAcl && !comparison.is_enforced() {
                Some(FaultKind::NotEnforced)
            } else {
                comparison
                    .steps
                    .iter()
                    .any(is_missing)
                    .then_some(FaultKind::RuleMissing)
            }
        }
    }
}

/// Deny entries within our numbers that no block of the table explains.
#[must_use]
pub fn entries_without_block(acls: &[NetworkAcl], blocks: &[Block], policy: &Policy) -> usize {
    let known: BTreeSet<(&str, u16)> = blocks
        .iter()
        .filter(|block| !block.is_lifted())
        .flat_map(|block| &block.entries)
        .map(|placed| (placed.acl.as_str(), placed.number))
        .collect();
    let is_unknown = |acl: &NetworkAcl, entry: &Entry| !known.contains(&(acl.id.as_str(), entry.number));
    acls.iter()
        .map(|acl| {
            acl.denies_in(policy.rule_numbers)
                .filter(|entry| is_unknown(acl, entry))
                .count()
        })
        .sum()
}
