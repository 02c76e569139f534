//! What the function works with, each named for what it can do, in the terms of `actions`. The AWS side of each is in
//! [`crate::aws`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use actions::block::fault::KnownFault;
use actions::block::tags::RecordedRule;
use actions::block::{Group, Schedule};
use actions::policy::Tag;
use actions::writeback::{Finding, FindingKey, Update};
use actions::{Block, IngressRule, NetworkAcl, Outcome, Seen, Step, Target};
use aws_support::{AwsError, Deadline};
use aws_text::{Region, RoleArn, SecurityGroupId};
use ipnet::IpNet;
use jiff::Timestamp;

/// Accounts whose networks can be reached.
pub trait Accounts {
    type Network: Network;

    /// The network of `region` in the account of `role`; in the function's own without a role.
    ///
    /// # Errors
    /// Where the role cannot be assumed.
    fn network(
        &self,
        role: Option<&RoleArn>,
        region: &Region,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Self::Network, AwsError>>;

    /// Drops the cached credentials that reach the account, so that the next call gets new ones.
    fn forget(&self, role: Option<&RoleArn>) -> impl Future<Output = ()>;
}

/// The network of one account and region. Every method returns an error unless the read or the change is confirmed:
/// what could not be read is never an empty list.
pub trait Network {
    /// What EC2 shows of a block, read side by side.
    fn read(&self, read: &Read, deadline: &Deadline) -> impl Future<Output = Result<View, AwsError>>;

    /// Makes a change.
    fn apply(&self, step: &Step, deadline: &Deadline) -> impl Future<Output = Result<Change, AwsError>>;

    /// Asks EC2 whether the change may be made, and makes none (`DryRun`).
    fn dry_run(&self, step: &Step, deadline: &Deadline) -> impl Future<Output = Result<(), AwsError>>;

    /// Every security group with the tag and those named, whatever their tags, with the network ACLs of the region.
    fn survey(
        &self,
        tag: &Tag,
        groups: &[SecurityGroupId],
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Survey, AwsError>>;

    /// Revokes ingress rules of a group by their ids; an id that is gone is no error. Gives those that were revoked.
    fn revoke_rules(
        &self,
        group: &SecurityGroupId,
        ids: &[String],
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Vec<String>, AwsError>>;
}

/// What a call changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is as asked now
    Made,
    /// It was as asked before. Of [`Step::AddDeny`]: the number is taken, by whatever entry
    AlreadySo,
}

/// What is to be read of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub group: SecurityGroupId,
    pub rule: IngressRule,
    /// The group's VPC, where it is known: then less has to be read
    pub vpc_id: Option<String>,
    pub purpose: Purpose,
    /// Network ACLs that may not be read are passed over
    pub network_acls_if_allowed: bool,
}

/// What a read is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To decide about a block of this target: also what must not be blocked
    Decide(Target),
    /// To see that a block stands: also what the list is attached to
    Stand,
    /// To see that it is gone
    Lift,
}

/// What EC2 shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub seen: Seen,
    /// Read for [`Purpose::Decide`] only
    pub vpc_cidrs: Vec<IpNet>,
    /// The account that the VPC belongs to; read for [`Purpose::Decide`] only
    pub vpc_owner: Option<String>,
    /// Addresses of the account's own network interfaces that are within the target, each with its interface's id; read
    /// for [`Purpose::Decide`] only
    pub own_addresses: Vec<(IpAddr, String)>,
}

/// What an audit reads of one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    pub groups: BTreeMap<SecurityGroupId, Group>,
    /// The ingress rules of each group
    pub rules: BTreeMap<SecurityGroupId, Vec<ListRule>>,
    /// By VPC
    pub network_acls: BTreeMap<String, Vec<NetworkAcl>>,
}

/// An ingress rule of a block list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRule {
    /// For a person
    pub text: String,
    /// The rule, where a request could be about it
    pub rule: Option<IngressRule>,
    pub recorded: RecordedRule,
}

/// The table of blocks, which says what is to be blocked.
pub trait Blocks {
    /// The blocks of a rule in a region, of whatever list. Consistent.
    fn of_rule(
        &self,
        region: &Region,
        rule: &IngressRule,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Vec<Block>, AwsError>>;

    /// All that the table holds. Consistent item by item.
    fn all(&self, deadline: &Deadline) -> impl Future<Output = Result<Contents, AwsError>>;

    /// Takes the lease of a block list and, in the same call, writes a block, if no other has changed it since it was
    /// read. The block's revision is then that of the table.
    fn begin(
        &self,
        lease: &Lease,
        block: &mut Block,
        now: Timestamp,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Begun, AwsError>>;

    /// Writes a block under the lease.
    fn save(&self, block: &mut Block, deadline: &Deadline) -> impl Future<Output = Result<(), AwsError>>;

    /// Writes a block and releases the lease, in one call.
    fn finish(
        &self,
        lease: &Lease,
        block: &mut Block,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<(), AwsError>>;

    /// Records a fault.
    fn put_fault(&self, fault: &KnownFault, deadline: &Deadline) -> impl Future<Output = Result<(), AwsError>>;

    /// Forgets a fault.
    fn delete_fault(&self, fault: &KnownFault, deadline: &Deadline) -> impl Future<Output = Result<(), AwsError>>;
}

/// All that the table holds, leases aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub blocks: Vec<Block>,
    pub faults: Vec<KnownFault>,
}

/// The right to change the rules and entries of one block list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub region: Region,
    pub group: SecurityGroupId,
    /// Unique to the holder and its invocation
    pub holder: String,
    /// When it ends: with its holder's invocation
    pub until: Timestamp,
}

/// What became of [`Blocks::begin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    Yes,
    /// Another holds the lease, until then
    Busy(Timestamp),
    /// The block was changed since it was read
    Changed,
}

/// Schedules by their names.
pub trait Schedules {
    /// Makes the schedule, or gives the one of this name another time and message.
    ///
    /// # Errors
    /// Unless it is confirmed that it is made.
    fn put(&self, schedule: &Schedule, deadline: &Deadline) -> impl Future<Output = Result<(), AwsError>>;

    /// Deletes the schedule of this name, if there is one.
    ///
    /// # Errors
    /// Unless it is confirmed that it is gone.
    fn delete(&self, name: &str, deadline: &Deadline) -> impl Future<Output = Result<(), AwsError>>;
}

/// The findings of Security Hub.
pub trait Findings {
    /// The findings with this id: several where several products have one.
    fn find(
        &self,
        region: &Region,
        key: &FindingKey,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Vec<Finding>, AwsError>>;

    /// Changes the one finding with this id, whose product is then known.
    ///
    /// # Errors
    /// Unless it is confirmed that it is changed, or that there is no such finding.
    fn update(
        &self,
        region: &Region,
        key: &FindingKey,
        update: &Update,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Updated, AwsError>>;

    /// Drops the cached credentials, so that the next call gets new ones.
    fn forget(&self) -> impl Future<Output = ()>;
}

/// What became of [`Findings::update`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    Yes,
    /// The finding is gone
    NoSuchFinding,
}

/// Takes results.
pub trait ResultSink {
    /// Sends a result.
    ///
    /// # Errors
    /// Unless it is confirmed that it is sent.
    fn send(&self, outcome: &Outcome, deadline: &Deadline) -> impl Future<Output = Result<(), AwsError>>;
}

/// The queue that requests come from.
pub trait ActionsQueue {
    /// Lets the queue deliver a message again after this many seconds. If that fails, the queue's own visibility
    /// time-out applies.
    fn retry_after(&self, receipt_handle: &str, seconds: i32, deadline: &Deadline) -> impl Future<Output = ()>;
}
