//! A network in memory, for tests of what stands above EC2. Each call takes 50 ms of paused time, and can be let fail.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_support::metrics::MetricSink;
use aws_support::{AwsError, Clock, Deadline, ErrorKind};
use aws_text::{NetworkAclId, Region, RoleArn, SecurityGroupId};
use containment_plan::audit::{Enrolled, Revoked};
use containment_plan::network_acl::{Effect, Entry, RuleNumbers, protocol_number};
use containment_plan::plan::{DenyEntry, Schedule};
use containment_plan::policy::Tag;
use containment_plan::{Enforcement, GroupState, IngressRule, NetworkAcl, Outcome, Policy, RecordedRule, State, Step};
use jiff::Timestamp;
use lambda_runtime::Diagnostic;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::accounts::Accounts;
use crate::audit::AuditScope;
use crate::ec2::ENTRY_LIMIT;
use crate::network::{Change, Look, LookAtAcls, Network, Purpose};
use crate::results::ResultSink;
use crate::schedules::Schedules;
use crate::{Containment, Executor};

pub(crate) const GROUP_A: &str = "sg-0000000a";
pub(crate) const GROUP_B: &str = "sg-0000000b";
pub(crate) const ACL_A: &str = "acl-0000000a";
pub(crate) const ACL_B: &str = "acl-0000000b";
pub(crate) const LATENCY: Duration = Duration::from_millis(50);

/// One moment, for ever.
pub(crate) struct At;

impl Clock for At {
    fn now(&self) -> Timestamp {
        "2026-11-23T10:00:00Z".parse().unwrap()
    }
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Things {
    pub(crate) rules: BTreeMap<String, BTreeMap<IngressRule, RecordedRule>>,
    pub(crate) entries: BTreeMap<String, Vec<Entry>>,
    pub(crate) schedules: BTreeMap<String, Schedule>,
}

/// What another does at a certain call, before it is carried out.
type Interference = (&'static str, Box<dyn FnOnce(&World)>);

/// An account with two block lists and two network ACLs, all of one VPC.
pub(crate) struct World {
    pub(crate) things: RefCell<Things>,
    /// What looks show while it is some: EC2 lags behind
    pub(crate) shown: RefCell<Option<Things>>,
    pub(crate) interfaces: RefCell<BTreeMap<String, Vec<String>>>,
    pub(crate) untagged: bool,
    /// Entries an ACL can hold
    pub(crate) quota: usize,
    pub(crate) policy: Policy,
    pub(crate) region: Region,
    /// Given once each, in order, by operation
    pub(crate) errors: RefCell<Vec<(&'static str, AwsError)>>,
    pub(crate) interferences: RefCell<Vec<Interference>>,
    pub(crate) calls: RefCell<Vec<String>>,
    /// When each call was done
    pub(crate) done_at: RefCell<Vec<(String, Instant)>>,
    pub(crate) forgotten: RefCell<Vec<String>>,
    pub(crate) sent: RefCell<Vec<Value>>,
    pub(crate) metrics: RefCell<Vec<Value>>,
    pub(crate) rule_ids: RefCell<u32>,
}

impl Default for World {
    fn default() -> Self {
        let entries = [ACL_A, ACL_B].map(|id| (id.to_owned(), default_entries()));
        Self {
            things: RefCell::new(Things {
                entries: entries.into(),
                ..Things::default()
            }),
            shown: RefCell::default(),
            interfaces: RefCell::default(),
            untagged: false,
            quota: 20,
            policy: Policy {
                protected: vec![],
                allow_private: false,
                allowed_roles: vec!["arn:aws:iam::*:role/aisoc".parse().unwrap()],
                tag: "aisoc:containment=blocklist".parse().unwrap(),
                enforcement: Enforcement::NetworkAcl,
                rule_numbers: RuleNumbers::default(),
                expiry_lacks: vec![],
            },
            region: "us-east-1".parse().unwrap(),
            errors: RefCell::default(),
            interferences: RefCell::default(),
            calls: RefCell::default(),
            done_at: RefCell::default(),
            forgotten: RefCell::default(),
            sent: RefCell::default(),
            metrics: RefCell::default(),
            rule_ids: RefCell::default(),
        }
    }
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

fn default_entries() -> Vec<Entry> {
    vec![
        entry(100, Effect::Allow, "0.0.0.0/0"),
        entry(32767, Effect::Deny, "0.0.0.0/0"),
    ]
}

pub(crate) fn aws_error(kind: ErrorKind, code: &str) -> AwsError {
    AwsError {
        code: Some(code.to_owned()),
        ..AwsError::new("ec2:Some", kind, "said so".to_owned())
    }
}

impl World {
    /// With an error for the next call of an operation.
    pub(crate) fn failing(operation: &'static str, kind: ErrorKind, code: &str) -> Self {
        let world = Self::default();
        world.fail(operation, kind, code);
        world
    }

    pub(crate) fn fail(&self, operation: &'static str, kind: ErrorKind, code: &str) {
        self.errors.borrow_mut().push((operation, aws_error(kind, code)));
    }

    /// At the next call of an operation something happens first.
    pub(crate) fn before(&self, operation: &'static str, interference: impl FnOnce(&World) + 'static) {
        self.interferences
            .borrow_mut()
            .push((operation, Box::new(interference)));
    }

    async fn call(&self, operation: &'static str, subject: &str) -> Result<(), AwsError> {
        let call = format!("{operation} {subject}");
        self.calls.borrow_mut().push(call.clone());
        let position = self
            .interferences
            .borrow()
            .iter()
            .position(|(name, _)| *name == operation);
        if let Some(position) = position {
            let (_, interference) = self.interferences.borrow_mut().remove(position);
            interference(self);
        }
        sleep(LATENCY).await;
        self.done_at.borrow_mut().push((call, Instant::now()));
        self.next_error(operation)
    }

    fn next_error(&self, operation: &str) -> Result<(), AwsError> {
        let mut errors = self.errors.borrow_mut();
        match errors.iter().position(|(name, _)| *name == operation) {
            Some(index) => Err(errors.remove(index).1),
            None => Ok(()),
        }
    }

    pub(crate) fn calls_of(&self, operations: &[&str]) -> Vec<String> {
        let is_of = |call: &&String| operations.iter().any(|operation| call.starts_with(operation));
        self.calls.borrow().iter().filter(is_of).cloned().collect()
    }

    pub(crate) fn writes(&self) -> Vec<String> {
        self.calls_of(&["authorize", "revoke", "renew", "add", "remove", "put", "delete"])
    }

    fn seen(&self) -> Things {
        self.shown
            .borrow()
            .clone()
            .unwrap_or_else(|| self.things.borrow().clone())
    }

    fn acls(&self) -> Vec<NetworkAcl> {
        let things = self.seen();
        things
            .entries
            .iter()
            .map(|(id, entries)| NetworkAcl {
                id: id.parse().unwrap(),
                has_subnet: true,
                entries: entries.clone(),
            })
            .collect()
    }

    /// The deny entries of a network ACL: number and source.
    pub(crate) fn denied(&self, acl: &str) -> Vec<(u16, String)> {
        self.things.borrow().entries[acl]
            .iter()
            .filter(|entry| entry.effect == Effect::Deny && entry.number < 32767)
            .map(|entry| (entry.number, entry.source.unwrap().to_string()))
            .collect()
    }

    /// Sources of the group's rules, with the request of each.
    pub(crate) fn recorded(&self, group: &str) -> Vec<(String, String)> {
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

    /// Another puts an entry into a network ACL.
    pub(crate) fn put_entry(&self, acl: &str, entry: Entry) {
        self.things.borrow_mut().entries.get_mut(acl).unwrap().push(entry);
    }

    /// The function, working on this.
    fn containment(&self) -> Containment<&World, &World, At, &World, &World> {
        Containment {
            function_name: "containment".to_owned(),
            executor: Executor {
                region: self.region.clone(),
                policy: self.policy.clone(),
                accounts: self,
                schedules: self,
                clock: At,
            },
            audit: AuditScope {
                regions: vec![self.region.clone()],
                roles: vec![],
            },
            results: self,
            metrics: self,
        }
    }

    pub(crate) async fn run(&self, input: &str) -> Result<Value, Diagnostic> {
        let deadline = Deadline::after(Duration::from_mins(1));
        self.containment().handle(input, "invocation-1", &deadline).await
    }

    pub(crate) async fn bare(&self, body: &Value) -> Value {
        self.run(&body.to_string()).await.unwrap()
    }

    /// The answers to two requests at once.
    pub(crate) async fn both(&self, one: &Value, other: &Value) -> (Value, Value) {
        tokio::join!(self.bare(one), self.bare(other))
    }

    /// Message ids handed back.
    pub(crate) async fn batch(&self, records: Vec<Value>) -> Vec<String> {
        let answer = self.run(&json!({ "Records": records }).to_string()).await.unwrap();
        answer["batchItemFailures"]
            .as_array()
            .unwrap()
            .iter()
            .map(|failure| failure["itemIdentifier"].as_str().unwrap().to_owned())
            .collect()
    }
}

pub(crate) fn body(id: &str, action: &str, group: &str) -> Value {
    json!({"request_id": id, "action": action, "target": "203.0.113.7", "params": {"aws_security_group_id": group}})
}

impl Network for &World {
    async fn look(&self, look: &Look, deadline: &Deadline) -> Result<State, AwsError> {
        let tag = ("aisoc:containment".to_owned(), "blocklist".to_owned());
        let nothing = State {
            region: self.region.clone(),
            group: GroupState {
                id: look.group.clone(),
                name: "blocklist".to_owned(),
                vpc_id: "vpc-1".to_owned(),
                owner_id: Some("111122223333".to_owned()),
                tags: BTreeMap::from_iter((!self.untagged).then_some(tag)),
                rules: BTreeMap::new(),
                interfaces: vec![],
            },
            vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
            network_acls: None,
            other_holders: vec![],
        };
        self.look_again(look, &nothing, deadline).await
    }

    async fn look_again(&self, look: &Look, before: &State, _: &Deadline) -> Result<State, AwsError> {
        self.call("look", look.group.as_str()).await?;
        let acls = match look.network_acls {
            LookAtAcls::Never => None,
            LookAtAcls::Always | LookAtAcls::IfAllowed => match self.next_error("acls") {
                Ok(()) => Some(self.acls()),
                Err(error) if look.network_acls == LookAtAcls::IfAllowed && error.kind == ErrorKind::AccessDenied => {
                    None
                }
                Err(error) => return Err(error),
            },
        };
        let things = self.seen();
        let is_block = look.purpose == Purpose::Block;
        let interfaces = self
            .interfaces
            .borrow()
            .get(look.group.as_str())
            .cloned()
            .unwrap_or_default();
        Ok(State {
            group: GroupState {
                rules: things.rules.get(look.group.as_str()).cloned().unwrap_or_default(),
                interfaces: if is_block { interfaces } else { vec![] },
                ..before.group.clone()
            },
            network_acls: acls,
            other_holders: things
                .rules
                .iter()
                .filter(|(id, rules)| !is_block && id.as_str() != look.group.as_str() && rules.contains_key(&look.rule))
                .map(|(id, _)| id.parse().unwrap())
                .collect(),
            ..before.clone()
        })
    }

    async fn network_acl(&self, id: &NetworkAclId, _: &Deadline) -> Result<NetworkAcl, AwsError> {
        self.call("acl", id.as_str()).await?;
        Ok(self.acls().into_iter().find(|acl| acl.id == *id).unwrap())
    }

    async fn apply(&self, step: &Step, _: &Deadline) -> Result<Change, AwsError> {
        let change = |is_made: bool| Ok(if is_made { Change::Made } else { Change::AlreadySo });
        match step {
            Step::AuthorizeIngress {
                group,
                rule,
                description,
                tags,
            } => {
                self.call("authorize", group.as_str()).await?;
                let mut things = self.things.borrow_mut();
                let rules = things.rules.entry(group.to_string()).or_default();
                if rules.contains_key(rule) {
                    return Ok(Change::AlreadySo);
                }
                *self.rule_ids.borrow_mut() += 1;
                let recorded = RecordedRule {
                    id: format!("sgr-{}", self.rule_ids.borrow()),
                    description: description.clone(),
                    tags: tags
                        .pairs()
                        .map(|(key, value)| (key.to_owned(), value.to_owned()))
                        .into(),
                };
                rules.insert(*rule, recorded);
                Ok(Change::Made)
            }
            Step::RenewTags { rule_id, tags } => {
                self.call("renew", rule_id).await?;
                let mut things = self.things.borrow_mut();
                for rule in things
                    .rules
                    .values_mut()
                    .flat_map(BTreeMap::values_mut)
                    .filter(|rule| rule.id == *rule_id)
                {
                    rule.tags
                        .extend(tags.pairs().map(|(key, value)| (key.to_owned(), value.to_owned())));
                }
                Ok(Change::Made)
            }
            Step::RevokeIngress { group, rule } => {
                self.call("revoke", group.as_str()).await?;
                let mut things = self.things.borrow_mut();
                change(
                    things
                        .rules
                        .entry(group.to_string())
                        .or_default()
                        .remove(rule)
                        .is_some(),
                )
            }
            Step::AddDeny(DenyEntry { acl, number, rule }) => {
                self.call("add", &format!("{acl} {number}")).await?;
                let mut things = self.things.borrow_mut();
                let entries = things.entries.get_mut(acl.as_str()).unwrap();
                if entries.iter().any(|entry| entry.number == *number) {
                    return Ok(Change::AlreadySo);
                }
                if entries.len() >= self.quota {
                    return Err(aws_error(ErrorKind::Rejected, ENTRY_LIMIT));
                }
                entries.push(Entry {
                    number: *number,
                    effect: Effect::Deny,
                    source: Some(rule.source().network()),
                    protocol: protocol_number(rule.protocol()),
                    ports: rule.ports(),
                });
                Ok(Change::Made)
            }
            Step::RemoveDeny(DenyEntry { acl, number, .. }) => {
                self.call("remove", &format!("{acl} {number}")).await?;
                let mut things = self.things.borrow_mut();
                let entries = things.entries.get_mut(acl.as_str()).unwrap();
                let before = entries.len();
                entries.retain(|entry| entry.number != *number);
                change(entries.len() < before)
            }
            Step::PutSchedule(_) | Step::DeleteSchedule { .. } => panic!("{step} is none of EC2's"),
        }
    }

    async fn ask(&self, step: &Step, _: &Deadline) -> Result<(), AwsError> {
        self.call("ask", &step.to_string()).await
    }

    async fn enrolled(&self, _: &Tag, _: &Deadline) -> Result<Vec<Enrolled>, AwsError> {
        self.call("enrolled", "").await?;
        let groups = [GROUP_A, GROUP_B].map(|id| Enrolled {
            id: id.parse().unwrap(),
            name: "blocklist".to_owned(),
            vpc_id: "vpc-1".to_owned(),
            owner_id: Some("111122223333".to_owned()),
        });
        Ok(groups.into())
    }

    async fn interfaces(
        &self,
        groups: &[SecurityGroupId],
        _: &Deadline,
    ) -> Result<BTreeMap<SecurityGroupId, BTreeSet<String>>, AwsError> {
        self.call("interfaces", "").await?;
        let interfaces = self.interfaces.borrow();
        Ok(groups
            .iter()
            .filter_map(|group| Some((group.clone(), interfaces.get(group.as_str())?.iter().cloned().collect())))
            .collect())
    }

    async fn ingress_rules(&self, group: &SecurityGroupId, _: &Deadline) -> Result<Vec<Revoked>, AwsError> {
        self.call("rules", group.as_str()).await?;
        let things = self.seen();
        let rules = things.rules.get(group.as_str()).cloned().unwrap_or_default();
        Ok(rules
            .iter()
            .map(|(rule, recorded)| Revoked {
                id: recorded.id.clone(),
                text: rule.to_string(),
                rule: Some(*rule),
            })
            .collect())
    }

    async fn revoke_rules(&self, group: &SecurityGroupId, ids: &[String], _: &Deadline) -> Result<(), AwsError> {
        self.call("revoke", group.as_str()).await?;
        let mut things = self.things.borrow_mut();
        things
            .rules
            .get_mut(group.as_str())
            .unwrap()
            .retain(|_, rule| !ids.contains(&rule.id));
        Ok(())
    }

    async fn network_acls(&self, vpc_id: &str, _: &Deadline) -> Result<Vec<NetworkAcl>, AwsError> {
        self.call("acls", vpc_id).await?;
        Ok(self.acls())
    }
}

impl<'w> Accounts for &'w World {
    type Network = &'w World;

    async fn network(&self, role: Option<&RoleArn>, region: &Region, _: &Deadline) -> Result<&'w World, AwsError> {
        if let Some(role) = role {
            self.call("assume", &format!("{role} {region}")).await?;
        }
        Ok(self)
    }

    async fn forget(&self, role: Option<&RoleArn>) {
        self.forgotten
            .borrow_mut()
            .push(role.map_or_else(|| "own".to_owned(), RoleArn::to_string));
    }
}

impl Schedules for &World {
    async fn put(&self, schedule: &Schedule, _: &Deadline) -> Result<(), AwsError> {
        self.call("put", &schedule.name).await?;
        let mut things = self.things.borrow_mut();
        things.schedules.insert(schedule.name.clone(), schedule.clone());
        Ok(())
    }

    async fn delete(&self, name: &str, _: &Deadline) -> Result<(), AwsError> {
        self.call("delete", name).await?;
        self.things.borrow_mut().schedules.remove(name);
        Ok(())
    }
}

impl ResultSink for &World {
    async fn send(&self, outcome: &Outcome, _: &Deadline) -> Result<(), AwsError> {
        self.call("send", &outcome.request_id).await?;
        self.sent.borrow_mut().push(serde_json::to_value(outcome).unwrap());
        Ok(())
    }
}

impl MetricSink for &World {
    fn put(&self, line: &Value) {
        self.metrics.borrow_mut().push(line.clone());
    }
}
