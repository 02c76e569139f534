//! A block: what is to be blocked, as one item of the blocks table.
//!
//! The item is written before any effect and kept until the last effect is gone. A retry after any failure therefore
//! finds in it all that was put into a network, and gets to the same end.

pub mod compare;
pub mod fault;
pub mod known;
pub mod network_acl;
pub mod schedule;
pub mod tags;
#[cfg(test)]
mod tests;

use std::fmt;

use aws_text::{NetworkAclId, Region, RoleArn, SecurityGroupId};
use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};
use serde::{Deserialize, Serialize};

pub use compare::{Comparison, Group, ListState, Seen, compare};
pub use known::{Before, Changed, Known, Touched};
pub use network_acl::NetworkAcl;
pub use schedule::Schedule;

use crate::request::{Notes, Request};
use crate::rule::IngressRule;
use tags::{RecordTags, RecordedRule};

/// How long EC2's describes may lag behind its changes ("Eventual consistency" in the EC2 developer guide names no
/// bound). What was changed longer ago is taken to show.
pub const LAG: SignedDuration = SignedDuration::from_secs(12);

/// How long after its end a block is overdue: its schedule should have ended it by then.
pub const OVERDUE_AFTER: SignedDuration = SignedDuration::from_mins(2);

/// How long a lifted block is remembered.
pub const REMEMBERED_FOR: SignedDuration = SignedDuration::from_hours(24);

/// One block of a target by a block list. A region's security group ids are unique, so region, group and rule name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    pub region: Region,
    /// The block list
    pub group: SecurityGroupId,
    pub rule: IngressRule,
    /// The role that reaches the account; `None` is the function's own account
    pub role: Option<RoleArn>,
    pub account_id: Option<String>,
    pub vpc_id: String,
    pub state: State,
    /// What the newest request asked for
    pub terms: Terms,
    /// While the newest request is not in force: what it renews
    pub renews: Option<Terms>,
    /// Deny entries that were placed, or were about to be
    pub entries: Vec<Placed>,
    /// As last read: the rule stands on the block list
    pub rule_stands: bool,
    /// As last compared: a deny entry is effective in every network ACL concerned
    pub enforced: bool,
    /// From when on EC2 shows everything that was changed, at the latest: while a run is under way, [`LAG`] after the end
    /// of its lease
    pub settled_at: Timestamp,
    /// What stood before the newest request's first change, until its result is sent
    pub before: Option<Before>,
    /// Counts the writes of the item, from 1
    pub revision: u64,
}

/// What a request asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub request_id: String,
    pub requested_by: Option<String>,
    pub notes: Notes,
    /// The network ACLs that are to deny; `None` is every one of the VPC that has a subnet
    pub network_acl_ids: Option<Vec<NetworkAclId>>,
    /// When the block ends by itself
    pub expires_at: Option<Timestamp>,
}

/// How far a block is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// The newest request has no result yet
    Pending,
    /// It was made
    InForce,
    /// It is to be lifted, for this request
    Lifting { by: String },
    /// It was lifted, and is remembered for [`REMEMBERED_FOR`]
    Lifted { by: String, at: Timestamp },
}

/// A deny entry that a block placed, or was about to place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Placed {
    pub acl: NetworkAclId,
    pub number: u16,
}

impl Placed {
    /// Whether it is that entry.
    #[must_use]
    pub fn is(&self, acl: &NetworkAclId, number: u16) -> bool {
        self.acl == *acl && self.number == number
    }

    /// The entry, as a step takes it.
    #[must_use]
    pub fn entry(&self, rule: IngressRule) -> DenyEntry {
        DenyEntry {
            acl: self.acl.clone(),
            number: self.number,
            rule,
        }
    }
}

impl Block {
    /// The block that a BLOCK_IP asks for, given the item of the same rule, if there is one.
    ///
    /// A request that comes again goes on where it was. Another one renews the block that is in force, and keeps its
    /// terms until the renewal is in force itself.
    #[must_use]
    pub fn asked(existing: Option<&Self>, request: &Request, region: &Region, group: &Group, now: Timestamp) -> Self {
        let known = existing.filter(|block| block.terms.request_id == request.request_id && block.is_wanted());
        let end = expires_at(request, known.map(|block| &block.terms), now);
        let terms = Terms::of(request, end);
        let (state, renews) = match existing {
            Some(block) if known.is_some() => (block.state.clone(), block.renews.clone()),
            Some(block) if block.is_wanted() => (State::Pending, Some(block.terms_in_force().clone())),
            _ => (State::Pending, None),
        };
        let stands = existing.filter(|block| !block.is_lifted());
        Self {
            renews,
            // Of a block that was lifted nothing stands; of one that is being lifted something may.
            entries: stands.map(|block| block.entries.clone()).unwrap_or_default(),
            rule_stands: existing.is_some_and(|block| block.rule_stands),
            enforced: existing.is_some_and(|block| block.enforced && block.is_wanted()),
            ..Self::of(request, region, group, state, terms, existing)
        }
    }

    /// What an ALLOW_IP lifts that the table knows nothing of: the rule of the block list, and the deny entries equal
    /// to it, as they show.
    #[must_use]
    pub fn adopted(
        request: &Request,
        region: &Region,
        group: &Group,
        entries: Vec<Placed>,
        existing: Option<&Self>,
        rule: Option<&RecordedRule>,
    ) -> Self {
        let terms = Terms {
            request_id: rule.and_then(RecordedRule::request_id).unwrap_or_default().to_owned(),
            requested_by: None,
            notes: Notes::default(),
            network_acl_ids: None,
            expires_at: rule.and_then(RecordedRule::expires_at),
        };
        let state = State::Lifting {
            by: request.request_id.clone(),
        };
        Self {
            entries,
            rule_stands: rule.is_some(),
            ..Self::of(request, region, group, state, terms, existing)
        }
    }

    /// The item of a request's rule and list, of which nothing stands.
    fn of(
        request: &Request,
        region: &Region,
        group: &Group,
        state: State,
        terms: Terms,
        existing: Option<&Self>,
    ) -> Self {
        Self {
            region: region.clone(),
            group: request.group.clone(),
            rule: request.rule,
            role: request.role.clone(),
            account_id: group.owner_id.clone(),
            vpc_id: group.vpc_id.clone(),
            state,
            terms,
            renews: None,
            entries: Vec::new(),
            rule_stands: false,
            enforced: false,
            settled_at: existing.map_or(Timestamp::UNIX_EPOCH, |block| block.settled_at),
            before: existing.and_then(|block| block.before.clone()),
            revision: existing.map_or(0, |block| block.revision),
        }
    }

    /// Somebody wants the target blocked.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        matches!(self.state, State::Pending | State::InForce)
    }

    /// Only the memory of it is left.
    #[must_use]
    pub fn is_lifted(&self) -> bool {
        matches!(self.state, State::Lifted { .. })
    }

    /// The terms that hold: those of the block that a pending request renews, until the renewal is in force.
    #[must_use]
    pub fn terms_in_force(&self) -> &Terms {
        self.renews.as_ref().unwrap_or(&self.terms)
    }

    /// Whether the block ended so long ago that its schedule should have lifted it.
    #[must_use]
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.is_wanted()
            && self
                .terms_in_force()
                .expires_at
                .is_some_and(|end| end + OVERDUE_AFTER <= now)
    }

    /// Whether the block is past its end, overdue or not.
    #[must_use]
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.terms_in_force().expires_at.is_some_and(|end| end <= now)
    }

    /// Whether a request with this role reaches the block: it is the same role, or another one to the same account.
    #[must_use]
    pub fn is_reached_by(&self, role: Option<&RoleArn>) -> bool {
        self.role.as_ref() == role || role.is_some_and(|role| self.account_id.as_deref() == Some(role.account_id()))
    }

    /// Whether its deny entries for the rule are this block's as well: it is wanted, of the same VPC and rule.
    #[must_use]
    pub fn shares_with(&self, other: &Self) -> bool {
        other.is_wanted()
            && other.rule == self.rule
            && other.vpc_id == self.vpc_id
            && other.region == self.region
            && other.group != self.group
    }

    /// Whether the block, or the one that it renews, is to be denied in the network ACL.
    #[must_use]
    pub fn means(&self, acl: &NetworkAclId) -> bool {
        let means = |terms: &Terms| terms.network_acl_ids.as_ref().is_none_or(|ids| ids.contains(acl));
        means(&self.terms) || self.renews.as_ref().is_some_and(means)
    }

    /// A rule of a security group cannot say more about its block.
    #[must_use]
    pub fn tags(&self) -> RecordTags {
        RecordTags::of(self.terms_in_force())
    }

    /// Marks the block as to be lifted, for a request. From now on it is never restored.
    #[must_use]
    pub fn lifting(mut self, by: &str) -> Self {
        self.state = State::Lifting { by: by.to_owned() };
        self
    }

    /// The memory of the block.
    #[must_use]
    pub fn lifted(mut self, by: &str, now: Timestamp) -> Self {
        self.state = State::Lifted {
            by: by.to_owned(),
            at: now,
        };
        self.entries.clear();
        self.rule_stands = false;
        self.renews = None;
        self.enforced = false;
        self.before = None;
        self
    }

    /// The newest request is in force.
    #[must_use]
    pub fn in_force(mut self) -> Self {
        self.state = State::InForce;
        self.renews = None;
        self.before = None;
        self
    }

    /// The newest request failed for good: the block that it renewed stays, and a new one is to be lifted again.
    #[must_use]
    pub fn rolled_back(mut self) -> Self {
        if let Some(older) = self.renews.take() {
            self.terms = older;
            self.state = State::InForce;
            self
        } else {
            let by = self.terms.request_id.clone();
            self.lifting(&by)
        }
    }

    /// Puts entries on record that are not there yet. Gives whether there were any.
    pub fn record(&mut self, entries: &[Placed]) -> bool {
        let before = self.entries.len();
        for entry in entries {
            if !self.entries.contains(entry) {
                self.entries.push(entry.clone());
            }
        }
        self.entries.len() > before
    }

    /// The step that takes the block's rule off its list.
    #[must_use]
    pub fn revoke(&self) -> Step {
        Step::Revoke {
            group: self.group.clone(),
            rule: self.rule,
        }
    }

    /// The step that deletes the schedule which ends the block, where there may be one.
    #[must_use]
    pub fn unschedule(&self) -> Option<Step> {
        let may_exist = [Some(&self.terms), self.renews.as_ref()]
            .into_iter()
            .flatten()
            .any(|terms| terms.expires_at.is_some());
        may_exist.then(|| Step::DeleteSchedule {
            name: schedule::name(&self.region, &self.group, &self.rule),
        })
    }

    /// The step that lets the block end as the terms say.
    #[must_use]
    pub fn schedule(&self, terms: &Terms, now: Timestamp) -> Option<Step> {
        match Schedule::of(self, terms, now) {
            Some(schedule) => Some(Step::PutSchedule(schedule)),
            None => self.unschedule(),
        }
    }
}

impl Terms {
    /// What a BLOCK_IP asks for, with its end.
    #[must_use]
    pub fn of(request: &Request, expires_at: Option<Timestamp>) -> Self {
        Self {
            request_id: request.request_id.clone(),
            requested_by: request.requested_by.clone(),
            notes: request.notes.clone(),
            network_acl_ids: request.network_acl_ids.clone(),
            expires_at,
        }
    }
}

/// When a block ends by itself. A request that comes again keeps its end, as long as that is to come: delivered twice,
/// the block ends when it would have ended.
fn expires_at(request: &Request, known: Option<&Terms>, now: Timestamp) -> Option<Timestamp> {
    let seconds = request.expires_after_seconds?;
    let latest = in_whole_seconds(now + SignedDuration::from_secs(i64::from(seconds)));
    let kept = known
        .and_then(|terms| terms.expires_at)
        .filter(|at| now < *at && *at <= latest);
    Some(kept.unwrap_or(latest))
}

/// EventBridge Scheduler knows whole seconds; rounded up, no block ends early.
fn in_whole_seconds(at: Timestamp) -> Timestamp {
    let up = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Ceil);
    at.round(up).unwrap_or(at)
}

/// An inbound deny entry of a network ACL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DenyEntry {
    pub acl: NetworkAclId,
    pub number: u16,
    pub rule: IngressRule,
}

impl DenyEntry {
    /// As the table holds it.
    #[must_use]
    pub fn placed(&self) -> Placed {
        Placed {
            acl: self.acl.clone(),
            number: self.number,
        }
    }
}

/// One change of a network, or of the schedule that ends the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `AuthorizeSecurityGroupIngress`: what a person sees of the block in the console
    Authorize {
        group: SecurityGroupId,
        rule: IngressRule,
        description: String,
        tags: RecordTags,
    },
    /// `CreateTags` on the rule
    Retag { rule_id: String, tags: RecordTags },
    /// `RevokeSecurityGroupIngress`
    Revoke { group: SecurityGroupId, rule: IngressRule },
    /// `CreateNetworkAclEntry`: the effect of the block
    AddDeny(DenyEntry),
    /// `DeleteNetworkAclEntry`
    RemoveDeny(DenyEntry),
    /// `CreateSchedule`, or `UpdateSchedule` where there is one: the end of the block
    PutSchedule(Schedule),
    /// `DeleteSchedule`
    DeleteSchedule { name: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Authorize { group, rule, .. } => write!(f, "authorize ingress {rule} on {group}"),
            Step::Retag { rule_id, .. } => write!(f, "update the tags of {rule_id}"),
            Step::Revoke { group, rule } => write!(f, "revoke ingress {rule} on {group}"),
            Step::AddDeny(DenyEntry { acl, number, rule }) => write!(f, "add deny entry {number} to {acl}: {rule}"),
            Step::RemoveDeny(DenyEntry { acl, number, rule }) => {
                write!(f, "remove deny entry {number} from {acl}: {rule}")
            }
            Step::PutSchedule(schedule) => write!(f, "schedule ALLOW_IP at {} ({})", schedule.at, schedule.name),
            Step::DeleteSchedule { name } => write!(f, "delete the schedule {name}, if there is one"),
        }
    }
}
