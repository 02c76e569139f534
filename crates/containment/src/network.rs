//! What the function sees and changes in the network of one account and region.

use std::collections::{BTreeMap, BTreeSet};

use aws_support::{AwsError, Deadline};
use aws_text::{NetworkAclId, SecurityGroupId};
use containment_plan::audit::{Enrolled, Revoked};
use containment_plan::policy::Tag;
use containment_plan::{Action, Enforcement, IngressRule, NetworkAcl, Policy, Request, State, Step};

/// The network of one account and region. Every method fails where what it was to read or to change is not known to
/// be read or changed: what could not be read is never an empty list.
pub trait Network {
    /// Everything a decision needs, read side by side.
    fn look(&self, look: &Look, deadline: &Deadline) -> impl Future<Output = Result<State, AwsError>>;

    /// What a change of ours shows in, read afresh; the rest is kept from the look before.
    fn look_again(
        &self,
        look: &Look,
        before: &State,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<State, AwsError>>;

    /// One network ACL, read afresh.
    fn network_acl(&self, id: &NetworkAclId, deadline: &Deadline)
    -> impl Future<Output = Result<NetworkAcl, AwsError>>;

    /// Makes a change.
    fn apply(&self, step: &Step, deadline: &Deadline) -> impl Future<Output = Result<Change, AwsError>>;

    /// Asks whether the change may be made, and makes none (EC2's `DryRun`).
    fn ask(&self, step: &Step, deadline: &Deadline) -> impl Future<Output = Result<(), AwsError>>;

    /// Every security group with the tag.
    fn enrolled(&self, tag: &Tag, deadline: &Deadline) -> impl Future<Output = Result<Vec<Enrolled>, AwsError>>;

    /// The network interfaces of each of the groups.
    fn interfaces(
        &self,
        groups: &[SecurityGroupId],
        deadline: &Deadline,
    ) -> impl Future<Output = Result<BTreeMap<SecurityGroupId, BTreeSet<String>>, AwsError>>;

    /// Every ingress rule of the group, whatever its source and protocol.
    fn ingress_rules(
        &self,
        group: &SecurityGroupId,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Vec<Revoked>, AwsError>>;

    /// Revokes ingress rules of the group by their ids.
    fn revoke_rules(
        &self,
        group: &SecurityGroupId,
        ids: &[String],
        deadline: &Deadline,
    ) -> impl Future<Output = Result<(), AwsError>>;

    /// The network ACLs of a VPC.
    fn network_acls(
        &self,
        vpc_id: &str,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Vec<NetworkAcl>, AwsError>>;
}

/// What a call changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is as asked now
    Made,
    /// It was as asked before; of a deny entry: its number is taken, by an entry of ours or another
    AlreadySo,
}

/// What is to be read for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The block list
    pub group: SecurityGroupId,
    /// The rule that the request is about
    pub rule: IngressRule,
    /// What it is for
    pub purpose: Purpose,
    /// The network ACLs
    pub network_acls: LookAtAcls,
}

/// What a look is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To block: what the group is attached to, and the VPC's own addresses
    Block,
    /// To lift: the other groups with this tag that carry the rule
    Lift {
        /// The tag of block lists
        tag: Tag,
    },
}

/// Whether network ACLs are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookAtAcls {
    /// They are
    Always,
    /// They are, where that is allowed
    IfAllowed,
    /// They are not
    Never,
}

impl Look {
    /// What is to be read for the request.
    #[must_use]
    pub fn of(request: &Request, policy: &Policy) -> Self {
        match request.action {
            Action::BlockIp => Self {
                group: request.group.clone(),
                rule: request.rule,
                purpose: Purpose::Block,
                network_acls: match policy.enforcement {
                    Enforcement::NetworkAcl => LookAtAcls::Always,
                    Enforcement::None => LookAtAcls::Never,
                },
            },
            Action::AllowIp => Self::to_lift(request, policy),
        }
    }

    /// What is to be read to lift the request's rule. Deny entries are removed whatever `ENFORCEMENT` says by now:
    /// no later setting makes a block permanent.
    #[must_use]
    pub fn to_lift(request: &Request, policy: &Policy) -> Self {
        Self {
            group: request.group.clone(),
            rule: request.rule,
            purpose: Purpose::Lift {
                tag: policy.tag.clone(),
            },
            network_acls: match policy.enforcement {
                Enforcement::NetworkAcl => LookAtAcls::Always,
                Enforcement::None => LookAtAcls::IfAllowed,
            },
        }
    }
}
