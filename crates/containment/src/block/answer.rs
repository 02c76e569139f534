//! What the answer to a request says of how its block stands, and of what the request changed.

use std::collections::BTreeSet;

use actions::block::compare::{in_use, still_denied};
use actions::block::{DenyEntry, Group, Seen};
use actions::result::{self, Flags, MAX_LISTED, NetworkAclEntry};
use actions::{Block, Details, Refusal};
use aws_support::Clock;
use jiff::Timestamp;

use super::request::{Done, Failure, Job};
use super::run::{Aim, Stop, Work};
use crate::ports::{Blocks, Network, Schedules};

impl<N: Network, T: Blocks, S: Schedules, C: Clock> Job<'_, N, T, S, C> {
    /// The request at work on a block.
    pub(super) fn work(&self, block: Block, seen: Seen, seen_at: Timestamp, others: Vec<Block>) -> Work {
        Work::new(block, seen, seen_at, others, &self.request.request_id)
    }

    /// Lists what stands of a block and what the request changed.
    pub(super) fn tell(&self, work: &Work, aim: Aim, details: &mut Details) -> Flags {
        let (view, changed) = (work.view(), work.changed());
        details.security_group_rule_id = view
            .rule
            .as_ref()
            .and(work.seen.rule.as_ref())
            .map(|rule| rule.id.clone());
        let recorded = work.block.entries.iter().map(|placed| placed.entry(work.block.rule));
        let standing: BTreeSet<DenyEntry> = recorded
            .filter(|entry| view.shows(entry))
            .chain(work.compare(aim, self.run.policy).standing)
            .chain(changed.added.iter().cloned())
            .collect();
        details.network_acl_entries = standing
            .iter()
            .map(|entry| NetworkAclEntry::of(entry, changed.added.contains(entry)))
            .chain(changed.removed.iter().map(|entry| NetworkAclEntry::of(entry, true)))
            .collect();
        Flags {
            changed: changed.any(),
            enforced: work.is_shown_enforced(aim, self.run.policy),
            verified: false,
        }
    }

    /// Of a block that is made.
    pub(super) fn blocked(&self, work: &Work, verified: bool, details: &mut Details) -> Done {
        let comparison = work.compare(Aim::Newest, self.run.policy);
        let flags = Flags {
            verified,
            ..self.tell(work, Aim::Newest, details)
        };
        Done {
            flags,
            summary: result::blocked_summary(
                self.request,
                flags.changed,
                &comparison.standing,
                &comparison.open,
                self.run.policy.enforcement,
                details.expires_at.as_deref(),
            ),
        }
    }

    /// Of a block that is lifted.
    pub(super) fn lifted(&self, work: &Work, verified: bool, details: &mut Details) -> Done {
        note_rule(details, &work.seen);
        let changed = work.changed();
        let equal = equal_denies(work);
        details.network_acl_entries = equal
            .iter()
            .map(|entry| NetworkAclEntry::of(entry, changed.added.contains(entry)))
            .chain(changed.removed.iter().map(|entry| NetworkAclEntry::of(entry, true)))
            .collect();
        let mut notes = Vec::new();
        if let Some(rule) = work.compare(Aim::Newest, self.run.policy).rule_left {
            notes.push(format!(
                "the rule {rule} stays on {}, which lost its tag: nothing can be changed on it",
                work.block.group
            ));
        }
        let knows_all = work.seen.network_acls.is_some();
        if !knows_all {
            notes.push("the network ACLs may not be read".to_owned());
        }
        let holders: Vec<&str> = work
            .others
            .iter()
            .filter(|other| work.block.shares_with(other))
            .map(|other| other.group.as_str())
            .collect();
        if !holders.is_empty() {
            notes.push(format!("still denied, for {} has the same rule", holders.join(", ")));
        }
        let left = still_denied(&work.block, &work.view());
        if !left.is_empty() && holders.is_empty() {
            notes.push(format!(
                "deny entries still stand for it: {}",
                result::named_entries(&left)
            ));
        }
        Done {
            flags: Flags {
                changed: changed.any(),
                enforced: !equal.is_empty(),
                verified: verified && knows_all,
            },
            summary: result::lifted_summary(&work.block.rule, work.block.group.as_str(), changed.any(), &notes),
        }
    }

    /// Of a block whose list was found attached while it was made.
    pub(super) fn attached(
        &self,
        interfaces: &BTreeSet<String>,
        stop: Option<Stop>,
        work: &Work,
        flags: Flags,
        details: &mut Details,
    ) -> Failure {
        let group = &self.request.group;
        let mut refusal = in_use(group, interfaces);
        let rule = match (&work.seen.rule, stop) {
            (Some(rule), Some(Stop::Failed(error))) => {
                format!(
                    "its rule {} could NOT be revoked ({error}), and lets the target in",
                    rule.id
                )
            }
            (Some(rule), _) => format!("its rule {} is revoked, and EC2 does not show it yet", rule.id),
            (None, _) => "its rule does not stand".to_owned(),
        };
        refusal.message = format!(
            "{}; {rule}; the deny entries stay until ALLOW_IP, and the audit restores the rule once {group} is attached to \
             nothing",
            refusal.message
        );
        details.network_interface_ids = Some(interfaces.iter().take(MAX_LISTED).cloned().collect());
        Failure::after(Stop::Refused(refusal), flags)
    }

    /// Of a request that would be refused now, whose block stands.
    pub(super) fn still_blocked(mut refusal: Refusal, work: &Work, flags: Flags) -> Failure {
        refusal.message = format!(
            "{}; the block that an earlier delivery of this request made on {} stands until ALLOW_IP",
            refusal.message, work.block.group
        );
        Failure::after(Stop::Refused(refusal), flags)
    }
}

pub(super) fn note_group(details: &mut Details, group: Option<&Group>) {
    if let Some(group) = group {
        details.vpc_id = Some(group.vpc_id.clone());
        details.account_id.clone_from(&group.owner_id);
    }
}

pub(super) fn note_rule(details: &mut Details, seen: &Seen) {
    if let Some(rule) = &seen.rule {
        details.security_group_rule_id = Some(rule.id.clone());
    }
}

/// Deny entries equal to the rule, wherever they are from.
pub(super) fn equal_denies(work: &Work) -> Vec<DenyEntry> {
    let view = work.view();
    still_denied(&work.block, &view)
        .into_iter()
        .filter(|entry| view.shows(entry))
        .collect()
}
