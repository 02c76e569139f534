//! AWS in memory, for tests of what stands above the adapters. Each call takes 50 ms of paused time, and can be made to
//! fail, before or after it is carried out; reads of EC2 can lag behind.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use actions::block::fault::{Fault, KnownFault};
use actions::block::network_acl::{Effect, Entry, RuleNumbers, protocol_number};
use actions::block::tags::{RecordTags, RecordedRule};
use actions::block::{DenyEntry, Group, Schedule, Seen};
use actions::policy::{Places, Tag};
use actions::writeback::{Finding, FindingKey, Product, UPDATED_BY, Update};
use actions::{Block, Enforcement, IngressRule, NetworkAcl, Outcome, Policy, Step, writeback};
use aws_support::metrics::MetricSink;
use aws_support::{AwsError, Clock, Deadline, ErrorKind};
use aws_text::{Region, RoleArn, SecurityGroupId};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use lambda_runtime::Diagnostic;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::aws::ec2::ENTRY_LIMIT;
use crate::ports::{
    Accounts, ActionsQueue, Begun, Blocks, Change, Contents, Findings, Lease, ListRule, Network, Purpose, Read,
    ResultSink, Schedules, Survey, Updated, View,
};
use crate::{Containment, Executor, WriteBack};

/// A client of an SDK crate that answers as the rules say, whichever matches; with the SDK's own retries.
macro_rules! mock_client {
    ($sdk:ident, $rules:expr) => {{
        let rules: &[&aws_smithy_mocks::Rule] = $rules;
        let interceptor = rules.iter().fold(
            aws_smithy_mocks::MockResponseInterceptor::new().rule_mode(aws_smithy_mocks::RuleMode::MatchAny),
            |interceptor, rule| interceptor.with_rule(rule),
        );
        let config = $sdk::Config::builder()
            .behavior_version($sdk::config::BehaviorVersion::latest())
            .region($sdk::config::Region::new("us-east-1"))
            .credentials_provider($sdk::config::Credentials::new("id", "secret", None, None, "test"))
            .http_client(aws_smithy_mocks::create_mock_http_client())
            .interceptor(interceptor)
            .build();
        $sdk::Client::from_conf(config)
    }};
}
pub(crate) use mock_client;

pub(crate) const GROUP_A: &str = "sg-0000000a";
pub(crate) const GROUP_B: &str = "sg-0000000b";
pub(crate) const ACL_A: &str = "acl-0000000a";
pub(crate) const ACL_B: &str = "acl-0000000b";
pub(crate) const VPC: &str = "vpc-1";
pub(crate) const LATENCY: Duration = Duration::from_millis(50);

/// What EC2 and the scheduler hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Things {
    /// Groups with their tags and attachments
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) rules: BTreeMap<String, BTreeMap<IngressRule, RecordedRule>>,
    pub(crate) acls: BTreeMap<String, NetworkAcl>,
}

/// When a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// It is not carried out
    Before,
    /// It is, and its answer is lost
    After,
}

/// A fault of one call.
#[derive(Clone, Debug)]
pub(crate) struct CallFault {
    pub(crate) operation: String,
    pub(crate) error: AwsError,
    pub(crate) when: When,
}

type Interference = (String, Box<dyn FnOnce(&World)>);

/// An account with two block lists and two network ACLs, all of one VPC.
pub(crate) struct World {
    pub(crate) things: RefCell<Things>,
    /// What was so before each change, with the time until which it was
    history: RefCell<Vec<(Instant, Things)>>,
    /// How far reads of EC2 lag behind
    pub(crate) lag: Cell<Duration>,
    pub(crate) schedules: RefCell<BTreeMap<String, Schedule>>,
    pub(crate) blocks: RefCell<BTreeMap<(String, String), Block>>,
    pub(crate) leases: RefCell<BTreeMap<String, Lease>>,
    pub(crate) faults: RefCell<BTreeMap<Fault, KnownFault>>,
    /// Entries an ACL can hold
    pub(crate) quota: Cell<usize>,
    pub(crate) own_addresses: RefCell<Vec<(std::net::IpAddr, String)>>,
    /// What Security Hub holds, by id
    pub(crate) findings: RefCell<BTreeMap<String, Vec<Finding>>>,
    /// What reads of Security Hub show instead, this often
    pub(crate) stale_findings: RefCell<Vec<Vec<Finding>>>,
    pub(crate) writes_back: Cell<bool>,
    pub(crate) policy: RefCell<Policy>,
    /// Each strikes one call
    pub(crate) call_faults: RefCell<Vec<CallFault>>,
    /// An operation that the role may not call
    pub(crate) denied_operation: Cell<Option<&'static str>>,
    /// What another does at a certain call, before it is carried out
    interferences: RefCell<Vec<Interference>>,
    pub(crate) calls: RefCell<Vec<String>>,
    /// Changes that calls made, in order
    pub(crate) made: RefCell<Vec<Step>>,
    /// Deny entries that calls of ours placed and nobody removed, by network ACL and number
    pub(crate) ours: RefCell<BTreeSet<(String, u16)>>,
    /// Entries that an ALLOW_IP took over of which the table knew nothing
    adopted: RefCell<BTreeSet<(String, u16)>>,
    /// What must never happen, and did
    pub(crate) violations: RefCell<Vec<String>>,
    /// The function is killed at the beginning of this call, counted from 0
    pub(crate) killed_at: Cell<Option<usize>>,
    pub(crate) killed: Notify,
    /// When each call was done
    pub(crate) done_at: RefCell<Vec<(String, Instant)>>,
    pub(crate) forgotten: RefCell<usize>,
    pub(crate) sent: RefCell<Vec<Value>>,
    pub(crate) retried: RefCell<Vec<(String, i32)>>,
    pub(crate) metrics: RefCell<Vec<Value>>,
    rule_ids: Cell<u32>,
    invocations: Cell<u32>,
    start: Instant,
}

pub(crate) fn entry(number: u16, effect: Effect, source: &str) -> Entry {
    Entry {
        number,
        effect,
        source: Some(source.parse().unwrap()),
        protocol: None,
        ports: None,
    }
}

pub(crate) fn acl(id: &str) -> NetworkAcl {
    NetworkAcl {
        id: id.parse().unwrap(),
        has_subnet: true,
        owner_id: Some("111122223333".to_owned()),
        entries: vec![
            entry(100, Effect::Allow, "0.0.0.0/0"),
            entry(32767, Effect::Deny, "0.0.0.0/0"),
        ],
    }
}

pub(crate) fn group(id: &str) -> Group {
    Group {
        id: id.parse().unwrap(),
        name: "blocklist".to_owned(),
        vpc_id: VPC.to_owned(),
        owner_id: Some("111122223333".to_owned()),
        tags: [("aisoc:containment".to_owned(), "blocklist".to_owned())].into(),
        interfaces: BTreeSet::new(),
    }
}

pub(crate) fn aws_error(kind: ErrorKind, code: &str) -> AwsError {
    AwsError {
        code: Some(code.to_owned()),
        ..AwsError::new("ec2:Some", kind, "said so".to_owned())
    }
}

impl Default for World {
    fn default() -> Self {
        let region: Region = "us-east-1".parse().unwrap();
        Self {
            things: RefCell::new(Things {
                groups: [GROUP_A, GROUP_B].map(|id| (id.to_owned(), group(id))).into(),
                rules: BTreeMap::new(),
                acls: [ACL_A, ACL_B].map(|id| (id.to_owned(), acl(id))).into(),
            }),
            history: RefCell::default(),
            lag: Cell::default(),
            schedules: RefCell::default(),
            blocks: RefCell::default(),
            leases: RefCell::default(),
            faults: RefCell::default(),
            quota: Cell::new(20),
            own_addresses: RefCell::default(),
            findings: RefCell::default(),
            stale_findings: RefCell::default(),
            writes_back: Cell::new(true),
            policy: RefCell::new(Policy {
                protected: vec![],
                allow_private: false,
                places: Places {
                    roles: vec![],
                    regions: vec![region],
                },
                tag: "aisoc:containment=blocklist".parse().unwrap(),
                enforcement: Enforcement::NetworkAcl,
                rule_numbers: RuleNumbers::default(),
                expiry_lacks: vec![],
            }),
            call_faults: RefCell::default(),
            denied_operation: Cell::default(),
            interferences: RefCell::default(),
            calls: RefCell::default(),
            made: RefCell::default(),
            ours: RefCell::default(),
            adopted: RefCell::default(),
            violations: RefCell::default(),
            killed_at: Cell::default(),
            killed: Notify::new(),
            done_at: RefCell::default(),
            forgotten: RefCell::default(),
            sent: RefCell::default(),
            retried: RefCell::default(),
            metrics: RefCell::default(),
            rule_ids: Cell::default(),
            invocations: Cell::default(),
            start: Instant::now(),
        }
    }
}

/// The world's clock, which goes with paused time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorldClock(Instant);

impl Clock for WorldClock {
    fn now(&self) -> Timestamp {
        let start: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        let passed = Instant::now().duration_since(self.0);
        start + SignedDuration::try_from(passed).unwrap()
    }
}

impl World {
    /// With an error for the next call of an operation.
    pub(crate) fn failing(operation: &str, kind: ErrorKind, code: &str) -> Self {
        let world = Self::default();
        world.fail(operation, kind, code);
        world
    }

    /// The next call of an operation is not carried out.
    pub(crate) fn fail(&self, operation: &str, kind: ErrorKind, code: &str) {
        self.strike(operation, aws_error(kind, code), When::Before);
    }

    /// The next call of an operation is carried out, and its answer is lost.
    pub(crate) fn lose_answer(&self, operation: &str) {
        let error = AwsError::new("ec2:Some", ErrorKind::Unreachable, "no answer".to_owned());
        self.strike(operation, error, When::After);
    }

    pub(crate) fn strike(&self, operation: &str, error: AwsError, when: When) {
        self.call_faults.borrow_mut().push(CallFault {
            operation: operation.to_owned(),
            error,
            when,
        });
    }

    /// At the next call of an operation something happens first.
    pub(crate) fn before(&self, operation: &str, interference: impl FnOnce(&World) + 'static) {
        self.interferences
            .borrow_mut()
            .push((operation.to_owned(), Box::new(interference)));
    }

    /// Somebody or something changes EC2.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Things) -> R) -> R {
        let before = self.things.borrow().clone();
        let changed = change(&mut self.things.borrow_mut());
        let mut history = self.history.borrow_mut();
        history.push((Instant::now(), before));
        changed
    }

    pub(crate) fn clock(&self) -> WorldClock {
        WorldClock(self.start)
    }

    /// What reads of EC2 show now.
    pub(crate) fn shown(&self) -> Things {
        let Some(at) = Instant::now().checked_sub(self.lag.get()) else {
            return self.things.borrow().clone();
        };
        let history = self.history.borrow();
        history
            .iter()
            .find(|(until, _)| *until > at)
            .map_or_else(|| self.things.borrow().clone(), |(_, things)| things.clone())
    }

    /// A call begins: what happens first, the time it takes, and whether it is carried out. What is given is the error to
    /// answer with afterwards.
    async fn call(&self, operation: &str, subject: &str) -> Result<Option<AwsError>, AwsError> {
        let call = format!("{operation} {subject}");
        if self.killed_at.get().is_some_and(|at| self.calls.borrow().len() >= at) {
            self.killed.notify_waiters();
            std::future::pending::<()>().await;
        }
        self.calls.borrow_mut().push(call.clone());
        let position = self
            .interferences
            .borrow()
            .iter()
            .position(|(name, _)| name == operation);
        if let Some(position) = position {
            let (_, interference) = self.interferences.borrow_mut().remove(position);
            interference(self);
        }
        sleep(LATENCY).await;
        self.done_at.borrow_mut().push((call, Instant::now()));
        if self.denied_operation.get() == Some(operation) {
            return Err(aws_error(ErrorKind::AccessDenied, "UnauthorizedOperation"));
        }
        let mut faults = self.call_faults.borrow_mut();
        let position = faults
            .iter()
            .position(|fault| fault.operation == operation || fault.operation == "any");
        match position.map(|position| faults.remove(position)) {
            None => Ok(None),
            Some(fault) if fault.when == When::After => Ok(Some(fault.error)),
            Some(fault) => Err(fault.error),
        }
    }

    pub(crate) fn calls_of(&self, operations: &[&str]) -> Vec<String> {
        let is_of = |call: &&String| {
            operations
                .iter()
                .any(|operation| call.split(' ').next() == Some(operation))
        };
        self.calls.borrow().iter().filter(is_of).cloned().collect()
    }

    /// Calls that change a network or a schedule.
    pub(crate) fn writes(&self) -> Vec<String> {
        self.calls_of(&[
            "authorize",
            "revoke",
            "retag",
            "add",
            "remove",
            "put",
            "delete",
            "update",
        ])
    }

    /// The deny entries of a network ACL but the final one: number and source.
    pub(crate) fn denied(&self, acl: &str) -> Vec<(u16, String)> {
        self.things.borrow().acls[acl]
            .entries
            .iter()
            .filter(|entry| entry.effect == Effect::Deny && entry.number < 32767)
            .map(|entry| (entry.number, entry.source.unwrap().to_string()))
            .collect()
    }

    /// Sources of the group's rules, with the request that the tags of each name.
    pub(crate) fn rules(&self, group: &str) -> Vec<(String, String)> {
        let things = self.things.borrow();
        let rules = things.rules.get(group).cloned().unwrap_or_default();
        rules
            .iter()
            .map(|(rule, recorded)| {
                let by = recorded.request_id().unwrap_or("nobody").to_owned();
                (rule.source().to_string(), by)
            })
            .collect()
    }

    /// The block of the table for the default target.
    pub(crate) fn block(&self, group: &str) -> Option<Block> {
        let blocks = self.blocks.borrow();
        blocks.values().find(|block| block.group.as_str() == group).cloned()
    }

    /// Somebody puts an entry into a network ACL.
    pub(crate) fn put_entry(&self, acl: &str, entry: Entry) {
        self.change(|things| things.acls.get_mut(acl).unwrap().entries.push(entry));
    }

    /// Somebody deletes an entry.
    pub(crate) fn delete_entry(&self, acl: &str, number: u16) {
        self.ours.borrow_mut().remove(&(acl.to_owned(), number));
        self.change(|things| {
            let entries = &mut things.acls.get_mut(acl).unwrap().entries;
            entries.retain(|entry| entry.number != number);
        });
    }

    /// Somebody attaches a block list, or detaches it from everything.
    pub(crate) fn attach(&self, group: &str, interface: Option<&str>) {
        self.change(|things| {
            if let Some(group) = things.groups.get_mut(group) {
                group.interfaces = interface.map(str::to_owned).into_iter().collect();
            }
        });
    }

    /// Somebody takes a block list's tag.
    pub(crate) fn untag(&self, group: &str) {
        self.change(|things| {
            if let Some(group) = things.groups.get_mut(group) {
                group.tags.clear();
            }
        });
    }

    /// The function, working on this.
    pub(crate) fn containment(
        &self,
    ) -> Containment<&World, &World, &World, &World, WorldClock, &World, &World, &World> {
        Containment {
            function_name: "containment".to_owned(),
            executor: Executor {
                region: "us-east-1".parse().unwrap(),
                policy: self.policy.borrow().clone(),
                accounts: self,
                table: self,
                schedules: self,
                clock: self.clock(),
            },
            write_back: WriteBack {
                region: "us-east-1".parse().unwrap(),
                policy: writeback::Policy {
                    is_enabled: self.writes_back.get(),
                    regions: vec!["us-east-1".parse().unwrap()],
                },
                findings: self,
                clock: self.clock(),
            },
            results: self,
            actions_queue: self,
            metrics: self,
        }
    }

    pub(crate) async fn run(&self, input: &str) -> Result<Value, Diagnostic> {
        let deadline = Deadline::after(Duration::from_mins(1));
        self.invocations.set(self.invocations.get() + 1);
        let id = format!("invocation-{}", self.invocations.get());
        self.containment().handle(input, &id, &deadline).await
    }

    pub(crate) async fn bare(&self, body: &Value) -> Value {
        self.run(&body.to_string()).await.unwrap()
    }

    pub(crate) async fn audit(&self) -> Value {
        self.run(r#"{"mode":"audit"}"#).await.unwrap()
    }

    /// The answers to two requests at once.
    pub(crate) async fn both(&self, one: &Value, other: &Value) -> (Value, Value) {
        tokio::join!(Box::pin(self.bare(one)), Box::pin(self.bare(other)))
    }

    /// Message ids to retry later.
    pub(crate) async fn batch(&self, records: Vec<Value>) -> Vec<String> {
        let answer = self.run(&json!({ "Records": records }).to_string()).await.unwrap();
        answer["batchItemFailures"]
            .as_array()
            .unwrap()
            .iter()
            .map(|failure| failure["itemIdentifier"].as_str().unwrap().to_owned())
            .collect()
    }

    /// A message of the actions queue, received for the n-th time; the result, or `None` where it is retried later.
    pub(crate) async fn deliver(&self, body: &Value, receives: u32) -> Option<Value> {
        let record = json!({
            "messageId": "m-1", "body": body.to_string(), "receiptHandle": "receipt-1", "eventSource": "aws:sqs",
            "attributes": {"MessageGroupId": GROUP_A, "ApproximateReceiveCount": receives.to_string()},
            "messageAttributes": {},
        });
        let before = self.sent.borrow().len();
        let failed = self.batch(vec![record]).await;
        let sent = self.sent.borrow();
        failed.is_empty().then(|| sent[before].clone())
    }
}

pub(crate) fn body(id: &str, action: &str, group: &str) -> Value {
    json!({"request_id": id, "capability": action, "target": "203.0.113.7", "params": {"aws_security_group_id": group}})
}

/// The answer, or the error in its place.
fn answered<T>(lost: Option<AwsError>, answer: T) -> Result<T, AwsError> {
    lost.map_or(Ok(answer), Err)
}

fn tags_of(tags: &RecordTags) -> BTreeMap<String, String> {
    tags.pairs()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

impl Network for &World {
    async fn read(&self, read: &Read, _: &Deadline) -> Result<View, AwsError> {
        let lost = self.call("read", read.group.as_str()).await?;
        let of_acls = |faults: &[CallFault]| faults.iter().position(|fault| fault.operation == "acls");
        let position = of_acls(&self.call_faults.borrow());
        let fault = position.map(|position| self.call_faults.borrow_mut().remove(position));
        let network_acls = match fault {
            None => Some(self.shown().acls.into_values().collect()),
            Some(fault) if read.network_acls_if_allowed && fault.error.kind == ErrorKind::AccessDenied => None,
            Some(fault) => return Err(fault.error),
        };
        let things = self.shown();
        let decides = match read.purpose {
            Purpose::Decide(target) => Some(target),
            Purpose::Stand | Purpose::Lift => None,
        };
        let own = self.own_addresses.borrow();
        let own = own
            .iter()
            .filter(|(address, _)| decides.is_some_and(|target| target.overlaps(&IpNet::from(*address))));
        let group = things.groups.get(read.group.as_str()).cloned().map(|group| Group {
            interfaces: if read.purpose == Purpose::Lift {
                BTreeSet::new()
            } else {
                group.interfaces
            },
            ..group
        });
        let rules = things.rules.get(read.group.as_str());
        answered(
            lost,
            View {
                seen: Seen {
                    group,
                    rule: rules.and_then(|rules| rules.get(&read.rule)).cloned(),
                    network_acls,
                },
                vpc_cidrs: decides.map(|_| "10.0.0.0/16".parse().unwrap()).into_iter().collect(),
                vpc_owner: decides.map(|_| "111122223333".to_owned()),
                own_addresses: own.cloned().collect(),
            },
        )
    }

    async fn apply(&self, step: &Step, _: &Deadline) -> Result<Change, AwsError> {
        let (operation, subject) = match step {
            Step::Authorize { group, .. } => ("authorize", group.to_string()),
            Step::Retag { rule_id, .. } => ("retag", rule_id.clone()),
            Step::Revoke { group, .. } => ("revoke", group.to_string()),
            Step::AddDeny(DenyEntry { acl, number, .. }) => ("add", format!("{acl} {number}")),
            Step::RemoveDeny(DenyEntry { acl, number, .. }) => ("remove", format!("{acl} {number}")),
            Step::PutSchedule(_) | Step::DeleteSchedule { .. } => panic!("{step} is none of EC2's"),
        };
        let lost = self.call(operation, &subject).await?;
        let quota = self.quota.get();
        let is_made = self.change(|things| match step {
            Step::Authorize {
                group,
                rule,
                description,
                tags,
            } => {
                let Some(found) = things.groups.get(group.as_str()) else {
                    return Err(aws_error(ErrorKind::Rejected, "InvalidGroup.NotFound"));
                };
                if found.tags.is_empty() {
                    return Err(aws_error(ErrorKind::AccessDenied, "UnauthorizedOperation"));
                }
                let rules = things.rules.entry(group.to_string()).or_default();
                if rules.contains_key(rule) {
                    return Ok(false);
                }
                self.rule_ids.set(self.rule_ids.get() + 1);
                let recorded = RecordedRule {
                    id: format!("sgr-{}", self.rule_ids.get()),
                    description: description.clone(),
                    tags: tags_of(tags),
                };
                rules.insert(*rule, recorded);
                Ok(true)
            }
            Step::Retag { rule_id, tags } => {
                let rules = things.rules.values_mut().flat_map(BTreeMap::values_mut);
                let mut found = rules.filter(|rule| rule.id == *rule_id);
                Ok(found.next().map(|rule| rule.tags.extend(tags_of(tags))).is_some())
            }
            Step::Revoke { group, rule } => {
                if things
                    .groups
                    .get(group.as_str())
                    .is_some_and(|group| group.tags.is_empty())
                {
                    return Err(aws_error(ErrorKind::AccessDenied, "UnauthorizedOperation"));
                }
                let rules = things.rules.get_mut(group.as_str());
                Ok(rules.and_then(|rules| rules.remove(rule)).is_some())
            }
            Step::AddDeny(DenyEntry { acl, number, rule }) => {
                let Some(acl) = things.acls.get_mut(acl.as_str()) else {
                    return Err(aws_error(ErrorKind::Rejected, "InvalidNetworkAclID.NotFound"));
                };
                if !acl.is_free(*number) {
                    return Ok(false);
                }
                if acl.entries.len() >= quota {
                    return Err(aws_error(ErrorKind::Rejected, ENTRY_LIMIT));
                }
                acl.entries.push(Entry {
                    number: *number,
                    effect: Effect::Deny,
                    source: Some(rule.source().network()),
                    protocol: protocol_number(rule.protocol()),
                    ports: rule.ports(),
                });
                Ok(true)
            }
            Step::RemoveDeny(DenyEntry { acl, number, .. }) => {
                let Some(acl) = things.acls.get_mut(acl.as_str()) else {
                    return Ok(false);
                };
                let before = acl.entries.len();
                acl.entries.retain(|entry| entry.number != *number);
                Ok(acl.entries.len() < before)
            }
            Step::PutSchedule(_) | Step::DeleteSchedule { .. } => Ok(false),
        })?;
        if is_made {
            self.note_made(step);
        }
        answered(lost, if is_made { Change::Made } else { Change::AlreadySo })
    }

    async fn dry_run(&self, step: &Step, _: &Deadline) -> Result<(), AwsError> {
        let lost = self.call("dry-run", &step.to_string()).await?;
        answered(lost, ())
    }

    async fn survey(&self, tag: &Tag, groups: &[SecurityGroupId], _: &Deadline) -> Result<Survey, AwsError> {
        let lost = self.call("survey", "").await?;
        let things = self.shown();
        let found: BTreeMap<SecurityGroupId, Group> = things
            .groups
            .values()
            .filter(|group| group.tags.get(&tag.key) == Some(&tag.value) || groups.contains(&group.id))
            .map(|group| (group.id.clone(), group.clone()))
            .collect();
        let rules = things.rules.iter().map(|(id, rules)| {
            let listed = rules.iter().map(|(rule, recorded)| ListRule {
                text: rule.to_string(),
                rule: Some(*rule),
                recorded: recorded.clone(),
            });
            (id.parse().unwrap(), listed.collect())
        });
        let survey = Survey {
            groups: found,
            rules: rules.collect(),
            network_acls: [(VPC.to_owned(), things.acls.values().cloned().collect())].into(),
        };
        answered(lost, survey)
    }

    async fn revoke_rules(
        &self,
        group: &SecurityGroupId,
        ids: &[String],
        _: &Deadline,
    ) -> Result<Vec<String>, AwsError> {
        let lost = self.call("revoke", group.as_str()).await?;
        let mut revoked = Vec::new();
        self.change(|things| {
            if let Some(rules) = things.rules.get_mut(group.as_str()) {
                rules.retain(|_, rule| {
                    let is_meant = ids.contains(&rule.id);
                    if is_meant {
                        revoked.push(rule.id.clone());
                    }
                    !is_meant
                });
            }
        });
        answered(lost, revoked)
    }
}

impl World {
    /// Whatever was put into a network is in the table before, and nothing is removed that the table does not explain.
    fn note_made(&self, step: &Step) {
        self.made.borrow_mut().push(step.clone());
        let blocks = self.blocks.borrow();
        let explains = |entry: &DenyEntry| {
            let of_rule = blocks
                .values()
                .filter(|block| block.rule == entry.rule && !block.is_lifted());
            of_rule
                .flat_map(|block| &block.entries)
                .any(|held| held.is(&entry.acl, entry.number))
        };
        let violation = match step {
            Step::AddDeny(entry) => {
                self.ours.borrow_mut().insert((entry.acl.to_string(), entry.number));
                (!explains(entry)).then(|| format!("not in the table before: {step}"))
            }
            Step::RemoveDeny(entry) => {
                let is_ours = self.ours.borrow_mut().remove(&(entry.acl.to_string(), entry.number));
                let is_adopted = self.adopted.borrow().contains(&(entry.acl.to_string(), entry.number));
                (!is_ours && !is_adopted).then(|| format!("removed what is not ours: {step}"))
            }
            Step::Authorize { group, rule, .. } => {
                let is_known = blocks
                    .values()
                    .any(|block| block.group == *group && block.rule == *rule);
                (!is_known).then(|| format!("not in the table before: {step}"))
            }
            Step::Retag { .. } | Step::Revoke { .. } | Step::PutSchedule(_) | Step::DeleteSchedule { .. } => None,
        };
        self.violations.borrow_mut().extend(violation);
    }
}

impl Blocks for &World {
    async fn of_rule(&self, region: &Region, rule: &IngressRule, _: &Deadline) -> Result<Vec<Block>, AwsError> {
        let lost = self.call("of-rule", &rule.to_string()).await?;
        let blocks = self.blocks.borrow();
        let found = blocks
            .values()
            .filter(|block| block.region == *region && block.rule == *rule);
        answered(lost, found.cloned().collect())
    }

    async fn all(&self, _: &Deadline) -> Result<Contents, AwsError> {
        let lost = self.call("all", "").await?;
        let contents = Contents {
            blocks: self.blocks.borrow().values().cloned().collect(),
            faults: self.faults.borrow().values().cloned().collect(),
        };
        answered(lost, contents)
    }

    async fn begin(&self, lease: &Lease, block: &mut Block, now: Timestamp, _: &Deadline) -> Result<Begun, AwsError> {
        let lost = self.call("begin", lease.group.as_str()).await?;
        let held = self.leases.borrow().get(lease.group.as_str()).cloned();
        if let Some(held) = held.filter(|held| held.until >= now && held.holder != lease.holder) {
            return answered(lost, Begun::Busy(held.until));
        }
        if self.revision(block) != block.revision {
            return answered(lost, Begun::Changed);
        }
        self.leases.borrow_mut().insert(lease.group.to_string(), lease.clone());
        self.write(block);
        answered(lost, Begun::Yes)
    }

    async fn save(&self, block: &mut Block, _: &Deadline) -> Result<(), AwsError> {
        let lost = self.call("save", block.group.as_str()).await?;
        assert_eq!(
            self.revision(block),
            block.revision,
            "written under a lease that has ended"
        );
        self.write(block);
        answered(lost, ())
    }

    async fn finish(&self, lease: &Lease, block: &mut Block, _: &Deadline) -> Result<(), AwsError> {
        let lost = self.call("finish", lease.group.as_str()).await?;
        let mut leases = self.leases.borrow_mut();
        if leases
            .get(lease.group.as_str())
            .is_some_and(|held| held.holder == lease.holder)
        {
            leases.remove(lease.group.as_str());
            self.write(block);
        } else {
            return Err(aws_error(ErrorKind::Throttled, "TransactionCanceledException"));
        }
        answered(lost, ())
    }

    async fn put_fault(&self, fault: &KnownFault, _: &Deadline) -> Result<(), AwsError> {
        let lost = self.call("put-fault", fault.fault.group.as_str()).await?;
        self.faults.borrow_mut().insert(fault.fault.clone(), fault.clone());
        answered(lost, ())
    }

    async fn delete_fault(&self, fault: &KnownFault, _: &Deadline) -> Result<(), AwsError> {
        let lost = self.call("delete-fault", fault.fault.group.as_str()).await?;
        self.faults.borrow_mut().remove(&fault.fault);
        answered(lost, ())
    }
}

impl World {
    fn key(block: &Block) -> (String, String) {
        (block.rule.to_string(), block.group.to_string())
    }

    fn revision(&self, block: &Block) -> u64 {
        self.blocks
            .borrow()
            .get(&Self::key(block))
            .map_or(0, |found| found.revision)
    }

    fn write(&self, block: &mut Block) {
        block.revision += 1;
        // What DynamoDB holds is what can be read again.
        let item: Block = serde_json::from_value(serde_json::to_value(&*block).unwrap()).unwrap();
        assert_eq!(item, *block);
        let known = self
            .blocks
            .borrow()
            .get(&Self::key(block))
            .is_some_and(|known| !known.is_lifted());
        if !known && !block.is_wanted() {
            let entries = block
                .entries
                .iter()
                .map(|placed| (placed.acl.to_string(), placed.number));
            self.adopted.borrow_mut().extend(entries);
        }
        self.blocks.borrow_mut().insert(Self::key(block), item);
    }
}

impl<'w> Accounts for &'w World {
    type Network = &'w World;

    async fn network(&self, role: Option<&RoleArn>, region: &Region, _: &Deadline) -> Result<&'w World, AwsError> {
        if let Some(role) = role {
            let lost = self.call("assume", &format!("{role} {region}")).await?;
            return answered(lost, *self);
        }
        Ok(self)
    }

    async fn forget(&self, _: Option<&RoleArn>) {
        *self.forgotten.borrow_mut() += 1;
    }
}

impl Schedules for &World {
    async fn put(&self, schedule: &Schedule, _: &Deadline) -> Result<(), AwsError> {
        let lost = self.call("put", &schedule.name).await?;
        self.schedules
            .borrow_mut()
            .insert(schedule.name.clone(), schedule.clone());
        answered(lost, ())
    }

    async fn delete(&self, name: &str, _: &Deadline) -> Result<(), AwsError> {
        let lost = self.call("delete", name).await?;
        self.schedules.borrow_mut().remove(name);
        answered(lost, ())
    }
}

impl Findings for &World {
    async fn find(&self, region: &Region, key: &FindingKey, _: &Deadline) -> Result<Vec<Finding>, AwsError> {
        let lost = self.call("find", &format!("{region} {}", key.id)).await?;
        if !self.stale_findings.borrow().is_empty() {
            return answered(lost, self.stale_findings.borrow_mut().remove(0));
        }
        let findings = self.findings.borrow();
        let found = findings.get(&key.id).cloned().unwrap_or_default();
        let is_of = |finding: &Finding| match &key.product {
            Product::Asff(Some(arn)) => finding.product_arn.as_ref() == Some(arn),
            Product::Asff(None) | Product::Ocsf(_) => true,
        };
        answered(lost, found.into_iter().filter(is_of).collect())
    }

    async fn update(
        &self,
        region: &Region,
        key: &FindingKey,
        update: &Update,
        _: &Deadline,
    ) -> Result<Updated, AwsError> {
        let lost = self.call("update", &format!("{region} {}", key.id)).await?;
        let mut findings = self.findings.borrow_mut();
        let mut found = findings.get_mut(&key.id).into_iter().flatten();
        let finding = match &key.product {
            Product::Asff(arn) => found.find(|finding| finding.product_arn == *arn),
            Product::Ocsf(_) => found.next(),
        };
        let Some(finding) = finding else {
            return answered(lost, Updated::NoSuchFinding);
        };
        finding.note = Some(update.note.clone());
        if let Product::Ocsf(_) = key.product {
            finding.status_id = Some(update.verdict.status_id());
        } else {
            finding.workflow_status = Some(update.verdict.workflow_status().to_owned());
            finding.updated_by = Some(UPDATED_BY.to_owned());
            finding.fields.clone_from(&update.fields);
            if let Some(state) = update.verdict.verification_state() {
                finding.verification_state = Some(state.to_owned());
            }
        }
        answered(lost, Updated::Yes)
    }

    async fn forget(&self) {
        *self.forgotten.borrow_mut() += 1;
    }
}

impl ResultSink for &World {
    async fn send(&self, outcome: &Outcome, _: &Deadline) -> Result<(), AwsError> {
        let lost = self.call("send", &outcome.request_id).await?;
        self.sent.borrow_mut().push(serde_json::to_value(outcome).unwrap());
        answered(lost, ())
    }
}

impl ActionsQueue for &World {
    async fn retry_after(&self, receipt_handle: &str, seconds: i32, _: &Deadline) {
        self.retried.borrow_mut().push((receipt_handle.to_owned(), seconds));
    }
}

impl MetricSink for &World {
    fn put(&self, line: &Value) {
        self.metrics.borrow_mut().push(line.clone());
    }
}
