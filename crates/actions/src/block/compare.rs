//! The comparison: a block and what EC2 shows, to the steps that make EC2 agree with the block.
//!
//! - The rule stands on the block list exactly while the list is enrolled and attached to nothing.
//! - A deny entry of ours stands in each network ACL concerned, before every allow entry that overlaps it.
//! - An entry is ours if the table has it: what the table does not explain is never touched.

use std::collections::{BTreeMap, BTreeSet};

use aws_text::{NetworkAclId, SecurityGroupId};

use super::network_acl::NetworkAcl;
use super::tags::{self, RecordTags, RecordedRule};
use super::{Block, DenyEntry, Placed, Step, Terms};
use crate::policy::{Enforcement, Policy, Tag};
use crate::{ErrorCode, Refusal};

/// A VPC's default group has this name, and no other group can be given it.
pub const DEFAULT_GROUP: &str = "default";

/// A security group as EC2 describes it, with what is attached to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub id: SecurityGroupId,
    pub name: String,
    pub vpc_id: String,
    pub owner_id: Option<String>,
    pub tags: BTreeMap<String, String>,
    /// Network interfaces it is attached to; not read to lift a block
    pub interfaces: BTreeSet<String>,
}

/// What EC2 shows of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The block list; `None` where it does not exist
    pub group: Option<Group>,
    /// The block's rule on it
    pub rule: Option<RecordedRule>,
    /// The VPC's network ACLs; `None` where they may not be read and need not be
    pub network_acls: Option<Vec<NetworkAcl>>,
}

impl Seen {
    /// Whether EC2 shows the deny entry.
    #[must_use]
    pub fn shows(&self, entry: &DenyEntry) -> bool {
        acl_of(self, &entry.acl).is_some_and(|acl| acl.denies_at(entry.number, &entry.rule))
    }
}

/// Whether rules may stand on a block list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListState {
    /// Enrolled and attached to nothing: rules may stand on it
    Detached,
    /// Attached to these network interfaces: a rule on it would let the target in
    Attached(BTreeSet<String>),
    /// It does not exist
    Deleted,
    /// It has no block-list tag
    NotEnrolled,
    /// A VPC's default group is no block list, whatever its tags say
    DefaultGroup,
}

impl ListState {
    #[must_use]
    pub fn of(group: Option<&Group>, tag: &Tag) -> Self {
        match group {
            None => Self::Deleted,
            Some(group) if group.tags.get(&tag.key) != Some(&tag.value) => Self::NotEnrolled,
            Some(group) if group.name == DEFAULT_GROUP => Self::DefaultGroup,
            Some(group) if !group.interfaces.is_empty() => Self::Attached(group.interfaces.clone()),
            Some(_) => Self::Detached,
        }
    }

    /// IAM lets rules be changed on it.
    #[must_use]
    pub fn is_enrolled(&self) -> bool {
        matches!(self, Self::Detached | Self::Attached(_))
    }
}

/// What is to be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal<'a> {
    /// The block stands, by these terms
    Stands(&'a Terms),
    /// Nothing of it stands
    Gone,
}

impl<'a> Goal<'a> {
    /// What the table says of the block.
    #[must_use]
    pub fn of(block: &'a Block) -> Self {
        if block.is_wanted() {
            Self::Stands(block.terms_in_force())
        } else {
            Self::Gone
        }
    }
}

/// How a block and what EC2 shows differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    pub list: ListState,
    /// What makes EC2 agree. They do not depend on each other
    pub steps: Vec<Step>,
    /// What can only be done once every deny entry stands: entries that are no longer meant
    pub then: Vec<Step>,
    /// The block's entries once the steps are taken
    pub entries: Vec<Placed>,
    /// The effective deny entry of each network ACL concerned; of a block that is to be gone: those that still show
    pub standing: Vec<DenyEntry>,
    /// One of these stands in a network ACL that has a subnet: traffic goes through it
    pub denies_traffic: bool,
    /// Network ACLs concerned that have none
    pub open: Vec<NetworkAclId>,
    /// Why an entry can be added nowhere
    pub refused: Vec<Refusal>,
    /// A rule that should not stand and cannot be revoked, for its list lost the tag
    pub rule_left: Option<String>,
}

impl Comparison {
    /// Nothing is to be done.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.steps.is_empty() && self.then.is_empty() && self.refused.is_empty()
    }

    /// In each network ACL concerned a deny entry stands before every allow entry that overlaps it, and traffic goes
    /// through one of them.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        self.open.is_empty() && self.denies_traffic
    }

    fn new(list: ListState) -> Self {
        Self {
            list,
            steps: Vec::new(),
            then: Vec::new(),
            entries: Vec::new(),
            standing: Vec::new(),
            denies_traffic: false,
            open: Vec::new(),
            refused: Vec::new(),
            rule_left: None,
        }
    }
}

/// Compares a block with what EC2 shows. `others` are the table's other blocks of the same rule.
#[must_use]
pub fn compare(block: &Block, goal: Goal<'_>, seen: &Seen, others: &[Block], policy: &Policy) -> Comparison {
    let mut comparison = Comparison::new(ListState::of(seen.group.as_ref(), &policy.tag));
    match goal {
        Goal::Stands(terms) => {
            compare_rule(block, terms, seen, &mut comparison);
            compare_entries(block, terms, seen, others, policy, &mut comparison);
        }
        Goal::Gone => {
            if let Some(rule) = &seen.rule {
                if comparison.list.is_enrolled() {
                    comparison.steps.push(block.revoke());
                } else {
                    comparison.rule_left = Some(rule.id.clone());
                }
            }
            remove_entries(block, seen, others, &mut comparison);
        }
    }
    comparison
}

fn compare_rule(block: &Block, terms: &Terms, seen: &Seen, comparison: &mut Comparison) {
    let tags = RecordTags::of(terms);
    match (&comparison.list, &seen.rule) {
        (ListState::Detached, None) => comparison.steps.push(Step::Authorize {
            group: block.group.clone(),
            rule: block.rule,
            description: tags::description(terms),
            tags,
        }),
        (ListState::Detached, Some(rule)) if !tags.are_on(rule) => comparison.then.push(Step::Retag {
            rule_id: rule.id.clone(),
            tags,
        }),
        (ListState::Attached(_), Some(_)) => comparison.steps.push(block.revoke()),
        (ListState::NotEnrolled | ListState::DefaultGroup, Some(rule)) => {
            comparison.rule_left = Some(rule.id.clone());
        }
        (ListState::Detached, Some(_))
        | (ListState::Attached(_) | ListState::Deleted | ListState::NotEnrolled | ListState::DefaultGroup, _) => {}
    }
}

/// The network ACLs in which the target is to be denied, of those that EC2 shows.
pub fn concerned<'a>(terms: &'a Terms, seen: &'a Seen, policy: &Policy) -> impl Iterator<Item = &'a NetworkAcl> {
    let is_enforced = policy.enforcement == Enforcement::NetworkAcl;
    seen.network_acls
        .iter()
        .flatten()
        .filter(move |acl| match &terms.network_acl_ids {
            _ if !is_enforced => false,
            None => acl.has_subnet,
            Some(ids) => ids.contains(&acl.id),
        })
}

fn compare_entries(
    block: &Block,
    terms: &Terms,
    seen: &Seen,
    others: &[Block],
    policy: &Policy,
    comparison: &mut Comparison,
) {
    for acl in concerned(terms, seen, policy) {
        let theirs = held_by_others(block, others, &acl.id);
        let own = block.entries.iter().filter(|placed| placed.acl == acl.id);
        let limit = acl.first_allow(&block.rule);
        let is_before_allows = |placed: &&Placed| limit.is_none_or(|limit| placed.number < limit);
        let effective = own
            .clone()
            .chain(theirs.iter().copied())
            .filter(|placed| acl.denies_at(placed.number, &block.rule))
            .filter(is_before_allows)
            .min_by_key(|placed| placed.number);
        if let Some(placed) = effective {
            comparison.standing.push(placed.entry(block.rule));
            comparison.denies_traffic |= acl.has_subnet;
            comparison.entries.push(placed.clone());
            for surplus in own.filter(|own| own.number != placed.number) {
                surplus_entry(block, surplus, acl, &theirs, comparison);
            }
            continue;
        }
        comparison.open.push(acl.id.clone());
        // One that does not show may be late: with another number it could come to stand there twice.
        let unshown = own
            .clone()
            .chain(theirs.iter().copied())
            .filter(is_before_allows)
            .find(|placed| acl.is_free(placed.number) && policy.rule_numbers.contains(placed.number));
        let number = match unshown {
            Some(placed) => Ok(placed.number),
            None => acl.free_number(
                &block.rule,
                policy.rule_numbers,
                &recorded_by_others(block, others, &acl.id),
            ),
        };
        match number {
            Ok(number) => {
                let placed = Placed {
                    acl: acl.id.clone(),
                    number,
                };
                comparison.steps.push(Step::AddDeny(placed.entry(block.rule)));
                comparison.entries.push(placed);
            }
            Err(refusal) => comparison.refused.push(refusal),
        }
        // What stands there after an allow goes once a better one stands.
        for behind in own
            .filter(|own| !comparison.entries.contains(own))
            .cloned()
            .collect::<Vec<_>>()
        {
            comparison.entries.push(behind);
        }
    }
    leave_what_is_not_concerned(block, terms, seen, others, policy, comparison);
}

/// Entries in network ACLs that are not concerned: those outside the ACLs that were named go; those in an ACL that
/// lost its last subnet, or that `ENFORCEMENT` no longer concerns, stay until the block is lifted.
fn leave_what_is_not_concerned(
    block: &Block,
    terms: &Terms,
    seen: &Seen,
    others: &[Block],
    policy: &Policy,
    comparison: &mut Comparison,
) {
    let is_concerned: BTreeSet<&NetworkAclId> = concerned(terms, seen, policy).map(|acl| &acl.id).collect();
    for placed in block
        .entries
        .iter()
        .filter(|placed| !is_concerned.contains(&placed.acl))
    {
        let is_meant = terms
            .network_acl_ids
            .as_ref()
            .is_none_or(|ids| ids.contains(&placed.acl) || policy.enforcement == Enforcement::None);
        match acl_of(seen, &placed.acl) {
            Some(acl) if !is_meant => {
                let theirs = held_by_others(block, others, &acl.id);
                surplus_entry(block, placed, acl, &theirs, comparison);
            }
            _ => comparison.entries.push(placed.clone()),
        }
    }
}

/// An entry of the block that is not meant any more: it is removed if it shows and no other block has it.
fn surplus_entry(block: &Block, placed: &Placed, acl: &NetworkAcl, theirs: &[&Placed], comparison: &mut Comparison) {
    if theirs.iter().any(|held| held.number == placed.number) {
        return;
    }
    comparison.entries.push(placed.clone());
    if acl.denies_at(placed.number, &block.rule) {
        comparison.then.push(Step::RemoveDeny(placed.entry(block.rule)));
    }
}

fn remove_entries(block: &Block, seen: &Seen, others: &[Block], comparison: &mut Comparison) {
    for placed in &block.entries {
        let theirs = held_by_others(block, others, &placed.acl);
        if theirs.iter().any(|held| held.number == placed.number) {
            continue;
        }
        comparison.entries.push(placed.clone());
        let entry = placed.entry(block.rule);
        if seen.shows(&entry) {
            comparison.standing.push(entry.clone());
            comparison.steps.push(Step::RemoveDeny(entry));
        }
    }
}

/// The entries of a network ACL that other blocks of the same rule have and mean to keep. What nobody means is for
/// whoever comes to remove.
fn held_by_others<'a>(block: &Block, others: &'a [Block], acl: &NetworkAclId) -> Vec<&'a Placed> {
    others
        .iter()
        .filter(|other| block.shares_with(other) && other.means(acl))
        .flat_map(|other| &other.entries)
        .filter(|placed| placed.acl == *acl)
        .collect()
}

/// The numbers of a network ACL that other blocks of the same rule have on record: their entries may still be there, or
/// come late.
fn recorded_by_others(block: &Block, others: &[Block], acl: &NetworkAclId) -> BTreeSet<u16> {
    others
        .iter()
        .filter(|other| !other.is_lifted() && other.vpc_id == block.vpc_id)
        .flat_map(|other| &other.entries)
        .filter(|placed| placed.acl == *acl)
        .map(|placed| placed.number)
        .collect()
}

fn acl_of<'a>(seen: &'a Seen, id: &NetworkAclId) -> Option<&'a NetworkAcl> {
    seen.network_acls.iter().flatten().find(|acl| acl.id == *id)
}

/// The entries that were removed and that another block has by now: they are added again, as they were.
#[must_use]
pub fn to_restore_for_others(block: &Block, removed: &[DenyEntry], others: &[Block]) -> Vec<Step> {
    removed
        .iter()
        .filter(|entry| {
            held_by_others(block, others, &entry.acl)
                .iter()
                .any(|held| held.number == entry.number)
        })
        .cloned()
        .map(Step::AddDeny)
        .collect()
}

/// Deny entries within our numbers that equal the rule and that no block of the table has: what an ALLOW_IP lifts that
/// the table knows nothing of.
#[must_use]
pub fn equal_entries(block: &Block, seen: &Seen, others: &[Block], policy: &Policy) -> Vec<Placed> {
    seen.network_acls
        .iter()
        .flatten()
        .flat_map(|acl| {
            let theirs = held_by_others(block, others, &acl.id);
            acl.denies_of(&block.rule, policy.rule_numbers)
                .filter(move |number| !theirs.iter().any(|held| held.number == *number))
                .map(|number| Placed {
                    acl: acl.id.clone(),
                    number,
                })
        })
        .collect()
}

/// Deny entries of whatever origin that still overlap the rule, for the summary of an ALLOW_IP.
#[must_use]
pub fn still_denied(block: &Block, seen: &Seen) -> Vec<DenyEntry> {
    seen.network_acls
        .iter()
        .flatten()
        .flat_map(|acl| {
            acl.denies_that_overlap(&block.rule).map(|number| DenyEntry {
                acl: acl.id.clone(),
                number,
                rule: block.rule,
            })
        })
        .collect()
}

/// What must be so before a block is made: the network ACLs that were meant exist, are ours, and one of them has a
/// subnet.
///
/// # Errors
/// `network_acl_not_in_vpc`, `network_acl_not_owned`, `network_acl_without_subnet`.
pub fn check_network_acls(
    terms: &Terms,
    seen: &Seen,
    group: &Group,
    vpc_owner: Option<&str>,
    policy: &Policy,
) -> Result<(), Refusal> {
    if policy.enforcement == Enforcement::None {
        return Ok(());
    }
    let vpc = &group.vpc_id;
    let owners = concerned(terms, seen, policy).map(|acl| acl.owner_id.as_deref());
    if let Some(account) = &group.owner_id
        && let Some(owner) = owners.chain([vpc_owner]).flatten().find(|owner| owner != account)
    {
        return Err(Refusal::new(
            ErrorCode::NetworkAclNotOwned,
            format!(
                "the network ACLs of {vpc} belong to account {owner}, which shares the VPC with account {account}: only \
                 their owner can change them"
            ),
            format!(
                "block in account {owner}: with a block list there, and a role of that account in \
                 params.aws_assume_role_arn"
            ),
        ));
    }
    let of_vpc: Vec<&NetworkAcl> = seen.network_acls.iter().flatten().collect();
    if let Some(ids) = &terms.network_acl_ids {
        let strangers: Vec<&str> = ids
            .iter()
            .filter(|id| !of_vpc.iter().any(|acl| acl.id == **id))
            .map(NetworkAclId::as_str)
            .collect();
        if !strangers.is_empty() {
            return Err(Refusal::new(
                ErrorCode::NetworkAclNotInVpc,
                format!(
                    "{vpc}, the VPC of {}, has no network ACL {}",
                    group.id,
                    strangers.join(", ")
                ),
                "correct params.aws_network_acl_ids, or leave it out for every network ACL of the VPC that has a subnet",
            ));
        }
    }
    if concerned(terms, seen, policy).any(|acl| acl.has_subnet) {
        return Ok(());
    }
    let named = terms.network_acl_ids.as_ref().map_or_else(
        || format!("no network ACL of {vpc}"),
        |ids| {
            let ids: Vec<&str> = ids.iter().map(NetworkAclId::as_str).collect();
            format!("none of {}", ids.join(", "))
        },
    );
    Err(Refusal::new(
        ErrorCode::NetworkAclWithoutSubnet,
        format!("{named} has a subnet: nothing would be denied"),
        "use a block list in the VPC that is to be protected, and name network ACLs that have subnets, or none for all \
         of them",
    ))
}

/// The group is a block list to which a rule may be added.
///
/// # Errors
/// `group_not_found`, `group_not_enrolled`, `group_in_use`.
pub fn check_list(group: &SecurityGroupId, list: &ListState, tag: &Tag) -> Result<(), Refusal> {
    match list {
        ListState::Detached => Ok(()),
        ListState::Attached(interfaces) => Err(in_use(group, interfaces)),
        ListState::Deleted => Err(not_found(group)),
        ListState::NotEnrolled => Err(Refusal::new(
            ErrorCode::GroupNotEnrolled,
            format!("{group} is not a block list: it has no tag {}={}", tag.key, tag.value),
            format!(
                "use a security group that is attached to nothing and is kept for this, and tag it {}={}",
                tag.key, tag.value
            ),
        )),
        ListState::DefaultGroup => Err(Refusal::new(
            ErrorCode::GroupNotEnrolled,
            format!("{group} is the default group of its VPC, to which AWS attaches what names no other"),
            "use a security group that is attached to nothing and is kept for this",
        )),
    }
}

/// The refusal of a list that does not exist.
#[must_use]
pub fn not_found(group: &SecurityGroupId) -> Refusal {
    Refusal::new(
        ErrorCode::GroupNotFound,
        format!("{group} does not exist in this account and region"),
        "check params.aws_security_group_id, params.aws_region and params.aws_assume_role_arn",
    )
}

/// The most names that a message holds.
const MAX_NAMED: usize = 20;

/// Names for a message, bounded.
#[must_use]
pub fn listed<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let mut names = names.into_iter();
    let mut listed: Vec<String> = names
        .by_ref()
        .take(MAX_NAMED)
        .map(|name| name.as_ref().to_owned())
        .collect();
    let more = names.count();
    if more > 0 {
        listed.push(format!("and {more} more"));
    }
    listed.join(", ")
}

/// The refusal of a list that is attached.
#[must_use]
pub fn in_use(group: &SecurityGroupId, interfaces: &BTreeSet<String>) -> Refusal {
    Refusal::new(
        ErrorCode::GroupInUse,
        format!(
            "{group} is attached to {}: a rule on it would let the target in there",
            listed(interfaces)
        ),
        format!(
            "use a security group that is attached to nothing and is kept for this, or detach {group} from these \
             interfaces"
        ),
    )
}
