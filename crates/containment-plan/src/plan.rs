//! The decision: request and state read, to the steps it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use aws_text::{NetworkAclId, Region, RoleArn, SecurityGroupId};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::network_acl::NetworkAcl;
use crate::policy::{Enforcement, Policy};
use crate::record::{self, RecordTags, RecordedRule};
use crate::request::{Action, Request};
use crate::rule::IngressRule;
use crate::{Refusal, RefusalCode};

/// What was read before a decision, or after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Where all of it is
    pub region: Region,
    /// The block list
    pub group: GroupState,
    /// CIDR blocks of the group's VPC; read for `BLOCK_IP` only
    pub vpc_cidrs: Vec<IpNet>,
    /// The VPC's network ACLs; `None` where they were not looked at
    pub network_acls: Option<Vec<NetworkAcl>>,
    /// Other block lists of the VPC that carry the same rule: its deny entries are theirs as well. Read for `ALLOW_IP`
    /// only
    pub other_holders: Vec<SecurityGroupId>,
}

/// A security group as EC2 describes it, with what is attached to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// The group
    pub id: SecurityGroupId,
    /// Its name; `default` is a VPC's default group, whose name cannot be given to another
    pub name: String,
    /// The VPC
    pub vpc_id: String,
    /// The account
    pub owner_id: Option<String>,
    /// Its tags
    pub tags: BTreeMap<String, String>,
    /// Its ingress rules that a request can be about
    pub rules: BTreeMap<IngressRule, RecordedRule>,
    /// Network interfaces it is attached to; read for `BLOCK_IP` only
    pub interfaces: Vec<String>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `AuthorizeSecurityGroupIngress`: the record of a block
    AuthorizeIngress {
        /// The block list
        group: SecurityGroupId,
        /// The rule
        rule: IngressRule,
        /// The rule's description
        description: String,
        /// The rule's tags
        tags: RecordTags,
    },
    /// `CreateTags`: the record of a block that was there before
    RenewTags {
        /// The rule
        rule_id: String,
        /// Its tags
        tags: RecordTags,
    },
    /// `CreateSchedule`, or `UpdateSchedule` where there is one: the end of a block
    PutSchedule(Schedule),
    /// `DeleteSchedule`
    DeleteSchedule {
        /// The schedule
        name: String,
    },
    /// `CreateNetworkAclEntry`: the effect of a block
    AddDeny(DenyEntry),
    /// `DeleteNetworkAclEntry`
    RemoveDeny(DenyEntry),
    /// `RevokeSecurityGroupIngress`
    RevokeIngress {
        /// The block list
        group: SecurityGroupId,
        /// The rule
        rule: IngressRule,
    },
}

/// An inbound deny entry of a network ACL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenyEntry {
    /// The network ACL
    pub acl: NetworkAclId,
    /// The entry's number
    pub number: u16,
    /// What it denies
    pub rule: IngressRule,
}

impl DenyEntry {
    /// The entry of a network ACL with this number.
    #[must_use]
    pub fn at(acl: &NetworkAcl, number: u16, rule: IngressRule) -> Self {
        Self {
            acl: acl.id.clone(),
            number,
            rule,
        }
    }
}

/// A one-time schedule that sends an `ALLOW_IP` to the actions queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Its name, which is that of every schedule for the same rule
    pub name: String,
    /// When
    pub at: Timestamp,
    /// The group of the message in the FIFO queue
    pub message_group: SecurityGroupId,
    /// The message
    pub request: Value,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::AuthorizeIngress { group, rule, .. } => write!(f, "authorize ingress {rule} on {group}"),
            Step::RenewTags { rule_id, .. } => write!(f, "renew the tags of {rule_id}"),
            Step::PutSchedule(schedule) => write!(f, "schedule ALLOW_IP at {} ({})", schedule.at, schedule.name),
            Step::DeleteSchedule { name } => write!(f, "delete the schedule {name}, if there is one"),
            Step::AddDeny(DenyEntry { acl, number, rule }) => write!(f, "add deny entry {number} to {acl}: {rule}"),
            Step::RemoveDeny(DenyEntry { acl, number, rule }) => {
                write!(f, "remove deny entry {number} from {acl}: {rule}")
            }
            Step::RevokeIngress { group, rule } => write!(f, "revoke ingress {rule} on {group}"),
        }
    }
}

/// A step, and whether there is anything to change by the state that was read. That state may be older than a change
/// just made ("Eventual consistency" in the EC2 developer guide), so the step is taken all the same: EC2 then says
/// itself that it is already so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The step
    pub step: Step,
    /// There is nothing to change
    pub is_already_so: bool,
}

/// The changes that carry out a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// One after the other, each of steps that may be taken side by side
    pub stages: Vec<Vec<Planned>>,
    /// When the block will end by itself
    pub expires_at: Option<Timestamp>,
    /// The block that an expiry is bound to has been renewed by this request: the expiry changes nothing
    pub renewed_by: Option<String>,
}

impl Plan {
    /// Every step, in order.
    pub fn steps(&self) -> impl Iterator<Item = &Planned> {
        self.stages.iter().flatten()
    }
}

/// Decides what a request takes, given the state.
///
/// A block is written down before it is made, and unmade before it is struck out: the group's rule, then (if it ends by
/// itself) the schedule, then the deny entries; for `ALLOW_IP` the deny entries, then the rule. So nothing that is put
/// into a network is ever off the record, and a retry after any failure gets to the same end.
///
/// # Errors
/// `group_not_enrolled` for either action; `group_in_use`, `protected_target`, `network_acl_not_in_vpc` and
/// `network_acl_full` for a block.
pub fn plan(request: &Request, state: &State, policy: &Policy, now: Timestamp) -> Result<Plan, Refusal> {
    check_enrolled(&state.group, policy)?;
    match request.action {
        Action::BlockIp => plan_block(request, state, policy, now),
        Action::AllowIp => Ok(match renewed_by(request, state) {
            Some(other) => Plan {
                renewed_by: Some(other),
                ..Plan::default()
            },
            None => plan_lift(request, state, policy),
        }),
    }
}

fn plan_block(request: &Request, state: &State, policy: &Policy, now: Timestamp) -> Result<Plan, Refusal> {
    let group = &state.group;
    check_harmless(group)?;
    Policy::check_vpc(request.rule.source(), &group.vpc_id, &state.vpc_cidrs)?;
    let recorded = group.rules.get(&request.rule);
    let expires_at = record::expires_at(request, recorded, now);
    let tags = RecordTags::of(request, expires_at);
    let denies = denied_acls(request, state, policy)?
        .into_iter()
        .map(|acl| {
            let present = acl.denied_at(&request.rule, policy.rule_numbers);
            let number = match present {
                Some(number) => number,
                None => acl.free_number(&request.rule, policy.rule_numbers, &BTreeSet::new())?,
            };
            let step = Step::AddDeny(DenyEntry::at(acl, number, request.rule));
            Ok(planned(step, present.is_some()))
        })
        .collect::<Result<Vec<_>, Refusal>>()?;

    let authorize = Step::AuthorizeIngress {
        group: group.id.clone(),
        rule: request.rule,
        description: record::description(request, expires_at),
        tags: tags.clone(),
    };
    let renewal = recorded.filter(|rule| !tags.are_on(rule)).map(|rule| {
        let rule_id = rule.id.clone();
        planned(Step::RenewTags { rule_id, tags }, false)
    });
    let name = record::schedule_name(&state.region, request);
    let end = match expires_at {
        Some(at) => Some(planned(Step::PutSchedule(schedule(request, state, name, at)), false)),
        // What an older block left to end it would change nothing: the rule's tags name this request.
        None if policy.can_end_blocks() => Some(planned(Step::DeleteSchedule { name }, true)),
        None => None,
    };
    let authorize = vec![planned(authorize, recorded.is_some())];
    let is_renewal_of_another = recorded.is_some_and(|rule| !rule.is_of(&request.request_id));
    let mut stages = if is_renewal_of_another {
        // The older block's record covers the entries. Its tags and its end are replaced last: if an entry cannot be
        // added, the older block is as it was, and ends as it was to end.
        vec![
            authorize,
            denies,
            renewal.into_iter().collect(),
            end.into_iter().collect(),
        ]
    } else if expires_at.is_some() {
        vec![
            authorize,
            renewal.into_iter().collect(),
            end.into_iter().collect(),
            denies,
        ]
    } else {
        let effect = denies.into_iter().chain(end).collect();
        vec![authorize, renewal.into_iter().collect(), effect]
    };
    stages.retain(|stage| !stage.is_empty());
    Ok(Plan {
        stages,
        expires_at,
        renewed_by: None,
    })
}

/// The steps that lift the rule's block, whoever asked for it: those of `ALLOW_IP`, and of a block that has to be taken
/// back.
#[must_use]
pub fn plan_lift(request: &Request, state: &State, policy: &Policy) -> Plan {
    let rule = request.rule;
    let removals: Vec<Planned> = if state.other_holders.is_empty() {
        standing(request, state, policy)
            .map(|entry| planned(Step::RemoveDeny(entry), false))
            .collect()
    } else {
        Vec::new()
    };
    let revoke = Step::RevokeIngress {
        group: state.group.id.clone(),
        rule,
    };
    let mut record = vec![planned(revoke, !state.group.rules.contains_key(&rule))];
    if policy.can_end_blocks() {
        let name = record::schedule_name(&state.region, request);
        record.push(planned(Step::DeleteSchedule { name }, true));
    }
    let mut stages = vec![removals, record];
    stages.retain(|stage| !stage.is_empty());
    Plan {
        stages,
        ..Plan::default()
    }
}

/// Gives the rule back the tags, and the block the end, that it had before a renewal which fails for good.
#[must_use]
pub fn plan_restore(request: &Request, state: &State, policy: &Policy, now: Timestamp) -> Plan {
    let recorded = state.group.rules.get(&request.rule);
    let Some((rule, tags)) = recorded.and_then(|rule| Some((rule, RecordTags::on(rule)?))) else {
        return Plan::default();
    };
    let rule_id = rule.id.clone();
    let mut stages = vec![vec![planned(Step::RenewTags { rule_id, tags }, false)]];
    if policy.can_end_blocks() {
        let name = record::schedule_name(&state.region, request);
        let end = match rule.expires_at() {
            Some(at) => {
                let older = Request {
                    request_id: rule.request_id().unwrap_or_default().to_owned(),
                    requested_by: None,
                    ..request.clone()
                };
                // Never in the past: EventBridge Scheduler would not send it.
                let at = at.max(now + SignedDuration::from_mins(1));
                Step::PutSchedule(schedule(&older, state, name, at))
            }
            None => Step::DeleteSchedule { name },
        };
        stages.push(vec![planned(end, false)]);
    }
    Plan {
        stages,
        ..Plan::default()
    }
}

/// Every deny entry for the rule that is ours, in any network ACL of the VPC.
pub fn standing<'a>(
    request: &'a Request,
    state: &'a State,
    policy: &'a Policy,
) -> impl Iterator<Item = DenyEntry> + 'a {
    state.network_acls.iter().flatten().flat_map(|acl| {
        acl.ours(&request.rule, policy.rule_numbers)
            .map(|number| DenyEntry::at(acl, number, request.rule))
    })
}

fn planned(step: Step, is_already_so: bool) -> Planned {
    Planned { step, is_already_so }
}

/// The request that has renewed the block since, where the request is bound to an older one. A rule that is gone (an
/// audit took it back) was not renewed; one without a readable tag might have been.
fn renewed_by(request: &Request, state: &State) -> Option<String> {
    let bound_to = request.only_if_blocked_by.as_deref()?;
    let rule = state.group.rules.get(&request.rule)?;
    (!rule.is_of(bound_to)).then(|| rule.request_id().unwrap_or(record::UNKNOWN).to_owned())
}

/// The network ACLs in which the target has to be denied.
fn denied_acls<'a>(request: &Request, state: &'a State, policy: &Policy) -> Result<Vec<&'a NetworkAcl>, Refusal> {
    if policy.enforcement == Enforcement::None {
        return Ok(Vec::new());
    }
    let of_vpc: Vec<&NetworkAcl> = state.network_acls.iter().flatten().collect();
    let vpc = &state.group.vpc_id;
    let Some(ids) = &request.network_acl_ids else {
        let in_use: Vec<&NetworkAcl> = of_vpc.into_iter().filter(|acl| acl.has_subnet).collect();
        return if in_use.is_empty() {
            Err(Refusal {
                code: RefusalCode::NetworkAclNotInVpc,
                message: format!("no network ACL of {vpc} has a subnet: there is nothing that could stop the target"),
                remedy: "use a block list in the VPC that is to be protected, or name network ACLs in \
                         params.aws_network_acl_ids"
                    .to_owned(),
            })
        } else {
            Ok(in_use)
        };
    };
    let strangers: Vec<&str> = ids
        .iter()
        .filter(|id| !of_vpc.iter().any(|acl| acl.id == **id))
        .map(NetworkAclId::as_str)
        .collect();
    if strangers.is_empty() {
        return Ok(of_vpc.into_iter().filter(|acl| ids.contains(&acl.id)).collect());
    }
    Err(Refusal {
        code: RefusalCode::NetworkAclNotInVpc,
        message: format!(
            "{vpc}, the VPC of {}, has no network ACL {}",
            state.group.id,
            strangers.join(", ")
        ),
        remedy:
            "correct params.aws_network_acl_ids, or leave it out for every network ACL of the VPC that has a subnet"
                .to_owned(),
    })
}

/// The group is a block list. Asked of `ALLOW_IP` too, so that nobody strips another group's rules through us.
fn check_enrolled(group: &GroupState, policy: &Policy) -> Result<(), Refusal> {
    let tag = &policy.tag;
    if group.tags.get(&tag.key) == Some(&tag.value) {
        return Ok(());
    }
    Err(Refusal {
        code: RefusalCode::GroupNotEnrolled,
        message: format!(
            "{} is not a block list: it has no tag {}={}",
            group.id, tag.key, tag.value
        ),
        remedy: format!(
            "use a security group that is attached to nothing and is kept for this, and tag it {}={}",
            tag.key, tag.value
        ),
    })
}

/// A VPC's default group has this name, and no other group can be given it.
pub const DEFAULT_GROUP: &str = "default";

/// A rule on the group lets nobody in: it is no default group, and attached to nothing.
fn check_harmless(group: &GroupState) -> Result<(), Refusal> {
    if group.name == DEFAULT_GROUP {
        return Err(Refusal {
            code: RefusalCode::GroupNotEnrolled,
            message: format!(
                "{} is the default group of its VPC, to which AWS attaches what names no other",
                group.id
            ),
            remedy: "use a security group that is attached to nothing and is kept for this".to_owned(),
        });
    }
    if !group.interfaces.is_empty() {
        return Err(Refusal {
            code: RefusalCode::GroupInUse,
            message: format!(
                "{} is attached to {}: a rule on it would let the target in there",
                group.id,
                group.interfaces.join(", ")
            ),
            remedy: format!(
                "use a security group that is attached to nothing and is kept for this, or detach {} from these interfaces",
                group.id
            ),
        });
    }
    Ok(())
}

/// What ends the block: the matching `ALLOW_IP`, bound to this request.
fn schedule(request: &Request, state: &State, name: String, at: Timestamp) -> Schedule {
    let group = &state.group.id;
    let rule = request.rule;
    let mut params = json!({
        "aws_security_group_id": group,
        "aws_region": state.region,
        "aws_protocol": rule.protocol().as_str(),
    });
    if let Some((from, to)) = rule.ports() {
        params["aws_from_port"] = json!(from);
        params["aws_to_port"] = json!(to);
    }
    if let Some(role) = request.role.as_ref().map(RoleArn::as_str) {
        params["aws_assume_role_arn"] = json!(role);
    }
    Schedule {
        name,
        at,
        message_group: group.clone(),
        request: json!({
            "request_id": lifting_id(&request.request_id),
            "action": Action::AllowIp,
            "target": rule.source().to_string(),
            "params": params,
            "requested_by": request.requested_by,
            "rationale": format!("the block ends by itself at {at}"),
            "only_if_blocked_by": request.request_id,
        }),
    }
}

/// The id of the request that ends a block: its own with a word before it, no longer than an id may be.
fn lifting_id(request_id: &str) -> String {
    "expiry:"
        .chars()
        .chain(request_id.chars())
        .take(crate::request::MAX_REQUEST_ID)
        .collect()
}

/// What a fresh look shows of what was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assessment {
    /// It is as asked
    pub is_as_asked: bool,
    /// For a block: in each network ACL concerned a deny entry stands before every allow that overlaps it. For
    /// `ALLOW_IP`: some deny entry still stands
    pub is_enforced: bool,
    /// The deny entries that stand
    pub entries: Vec<DenyEntry>,
    /// Network ACLs concerned in which none stands that counts
    pub open: Vec<NetworkAclId>,
}

/// Holds what was read after a change against the request.
#[must_use]
pub fn assess(request: &Request, state: &State, policy: &Policy) -> Assessment {
    let rule = state.group.rules.get(&request.rule);
    match request.action {
        Action::BlockIp => {
            let concerned = denied_acls(request, state, policy).unwrap_or_default();
            let mut assessment = Assessment::default();
            for acl in &concerned {
                match acl.denied_at(&request.rule, policy.rule_numbers) {
                    Some(number) => assessment.entries.push(DenyEntry::at(acl, number, request.rule)),
                    None => assessment.open.push(acl.id.clone()),
                }
            }
            assessment.is_enforced = !concerned.is_empty() && assessment.open.is_empty();
            let is_recorded = rule.is_some_and(|rule| rule.is_of(&request.request_id));
            let has_effect = assessment.is_enforced || policy.enforcement == Enforcement::None;
            assessment.is_as_asked = is_recorded && has_effect;
            assessment
        }
        Action::AllowIp => {
            let entries: Vec<DenyEntry> = standing(request, state, policy).collect();
            Assessment {
                // What was not looked at is not known to be gone.
                is_as_asked: rule.is_none()
                    && state.network_acls.is_some()
                    && (entries.is_empty() || !state.other_holders.is_empty()),
                is_enforced: !entries.is_empty(),
                entries,
                open: Vec::new(),
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
