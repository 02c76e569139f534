//! The network of one account and region, in EC2.

mod translate;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use actions::block::network_acl::NetworkAcl;
use actions::block::tags::RecordTags;
use actions::block::{DenyEntry, Group, Seen};
use actions::{Step, Target, policy};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::Config;
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::types::{
    Filter, NetworkInterface, ResourceType, RuleAction, SecurityGroup, SecurityGroupRule, Tag, TagSpecification, Vpc,
};
use aws_support::{AwsError, Deadline, ErrorKind, call};
use aws_text::{NetworkAclId, SecurityGroupId};
use futures::future::{join_all, try_join_all};
use ipnet::IpNet;

use crate::ports::{Change, ListRule, Network, Purpose, Read, Survey, View};

/// The network of one account and region in EC2.
#[derive(Clone, Debug)]
pub struct Ec2 {
    client: Client,
    /// The VPC of each group seen. It never changes, and no id is given twice
    vpcs: Arc<std::sync::Mutex<HashMap<SecurityGroupId, String>>>,
}

const DESCRIBE_GROUPS: &str = "ec2:DescribeSecurityGroups";
const DESCRIBE_RULES: &str = "ec2:DescribeSecurityGroupRules";
const DESCRIBE_INTERFACES: &str = "ec2:DescribeNetworkInterfaces";
const DESCRIBE_ACLS: &str = "ec2:DescribeNetworkAcls";
const DESCRIBE_VPCS: &str = "ec2:DescribeVpcs";
const AUTHORIZE: &str = "ec2:AuthorizeSecurityGroupIngress";
const REVOKE: &str = "ec2:RevokeSecurityGroupIngress";
const CREATE_TAGS: &str = "ec2:CreateTags";
/// The IAM action of a block's effect.
pub const CREATE_ENTRY: &str = "ec2:CreateNetworkAclEntry";
const DELETE_ENTRY: &str = "ec2:DeleteNetworkAclEntry";

/// EC2's error for a network ACL that takes no further entry, by its quota.
pub const ENTRY_LIMIT: &str = "NetworkAclEntryLimitExceeded";

/// EC2's errors for the id of a rule that is gone.
const NO_SUCH_RULE: [&str; 2] = [
    "InvalidSecurityGroupRuleId.NotFound",
    "InvalidSecurityGroupRule.NotFound",
];

/// The most values of one filter ("Filtering" in the EC2 user guide).
const MAX_FILTER_VALUES: usize = 200;

/// Attempts to delete an entry that EC2 throttles, and the first pause between them; it doubles.
const DELETE_ATTEMPTS: u32 = 4;
const DELETE_PAUSE: Duration = Duration::from_millis(250);

impl Ec2 {
    /// The account and region of `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            vpcs: Arc::default(),
        }
    }

    async fn groups(&self, filters: Vec<Filter>, deadline: &Deadline) -> Result<Vec<SecurityGroup>, AwsError> {
        let pages = self
            .client
            .describe_security_groups()
            .set_filters(Some(filters))
            .into_paginator()
            .items()
            .send();
        call(DESCRIBE_GROUPS, deadline, pages.collect::<Result<Vec<_>, _>>()).await
    }

    /// Those of the groups that exist.
    async fn groups_of(&self, ids: &[SecurityGroupId], deadline: &Deadline) -> Result<Vec<SecurityGroup>, AwsError> {
        let pages = ids
            .chunks(MAX_FILTER_VALUES)
            .map(|ids| self.groups(vec![filter("group-id", names(ids))], deadline));
        Ok(try_join_all(pages).await?.into_iter().flatten().collect())
    }

    async fn rules_of(
        &self,
        groups: &[SecurityGroupId],
        deadline: &Deadline,
    ) -> Result<Vec<SecurityGroupRule>, AwsError> {
        let pages = groups.chunks(MAX_FILTER_VALUES).map(|groups| {
            let pages = self
                .client
                .describe_security_group_rules()
                .filters(filter("group-id", names(groups)))
                .into_paginator()
                .items()
                .send();
            call(DESCRIBE_RULES, deadline, pages.collect::<Result<Vec<_>, _>>())
        });
        Ok(try_join_all(pages).await?.into_iter().flatten().collect())
    }

    async fn interfaces(&self, by: Filter, deadline: &Deadline) -> Result<Vec<NetworkInterface>, AwsError> {
        let pages = self
            .client
            .describe_network_interfaces()
            .filters(by)
            .into_paginator()
            .items()
            .send();
        call(DESCRIBE_INTERFACES, deadline, pages.collect::<Result<Vec<_>, _>>()).await
    }

    /// The network interfaces of each of the groups.
    async fn attachments(
        &self,
        groups: &[SecurityGroupId],
        deadline: &Deadline,
    ) -> Result<BTreeMap<SecurityGroupId, BTreeSet<String>>, AwsError> {
        let pages = groups
            .chunks(MAX_FILTER_VALUES)
            .map(|groups| self.interfaces(filter("group-id", names(groups)), deadline));
        let mut found: BTreeMap<SecurityGroupId, BTreeSet<String>> = BTreeMap::new();
        for interface in try_join_all(pages).await?.into_iter().flatten() {
            let named = |group: &&SecurityGroupId| {
                let is_named = |named: &aws_sdk_ec2::types::GroupIdentifier| named.group_id() == Some(group.as_str());
                // One that was asked for by a single group is that group's, whatever it says of its groups.
                groups.len() == 1 || interface.groups().iter().any(is_named)
            };
            for group in groups.iter().filter(named) {
                let interfaces = found.entry(group.clone()).or_default();
                interfaces.insert(translate::interface_id(&interface).to_owned());
            }
        }
        Ok(found)
    }

    /// Public addresses of the account's own network interfaces that are within the target, each with its interface.
    async fn own_addresses(&self, target: Target, deadline: &Deadline) -> Result<Vec<(IpAddr, String)>, AwsError> {
        let interfaces = self.interfaces(translate::within(target), deadline).await?;
        Ok(interfaces
            .iter()
            .flat_map(|interface| {
                let id = translate::interface_id(interface);
                translate::public_addresses(interface).map(move |address| (address, id.to_owned()))
            })
            .filter(|(address, _)| target.overlaps(&IpNet::from(*address)))
            .collect())
    }

    /// With `vpc_id` that VPC, without it all of the region: so that they can be read before it is known which it is.
    async fn vpcs(&self, vpc_id: Option<&str>, deadline: &Deadline) -> Result<Vec<Vpc>, AwsError> {
        let pages = self
            .client
            .describe_vpcs()
            .set_filters(vpc_id.map(|id| vec![filter("vpc-id", [id])]))
            .into_paginator()
            .items()
            .send();
        call(DESCRIBE_VPCS, deadline, pages.collect::<Result<Vec<_>, _>>()).await
    }

    /// As [`Ec2::vpcs`].
    async fn acls(
        &self,
        vpc_id: Option<&str>,
        deadline: &Deadline,
    ) -> Result<Vec<aws_sdk_ec2::types::NetworkAcl>, AwsError> {
        let pages = self
            .client
            .describe_network_acls()
            .set_filters(vpc_id.map(|id| vec![filter("vpc-id", [id])]))
            .into_paginator()
            .items()
            .send();
        call(DESCRIBE_ACLS, deadline, pages.collect::<Result<Vec<_>, _>>()).await
    }

    fn known_vpc(&self, group: &SecurityGroupId) -> Option<String> {
        let vpcs = self.vpcs.lock().unwrap_or_else(PoisonError::into_inner);
        vpcs.get(group).cloned()
    }

    /// Deletes an entry by its number. The SDK would repeat a call whose answer was lost, and by then the number may be
    /// another's: only a call that EC2 throttled, and so did not carry out, is repeated.
    async fn delete_entry(
        &self,
        acl: &NetworkAclId,
        number: u16,
        dry_run: bool,
        deadline: &Deadline,
    ) -> Result<(), AwsError> {
        let mut pause = DELETE_PAUSE;
        for attempt in 1.. {
            let request = self
                .client
                .delete_network_acl_entry()
                .network_acl_id(acl.as_str())
                .rule_number(i32::from(number))
                .egress(false)
                .dry_run(dry_run)
                .customize()
                .config_override(Config::builder().retry_config(RetryConfig::disabled()));
            match call(DELETE_ENTRY, deadline, request.send()).await {
                Err(error) if error.kind == ErrorKind::Throttled && attempt < DELETE_ATTEMPTS => {
                    // Out of time is found by the next attempt.
                    let _ = deadline.bound(tokio::time::sleep(pause)).await;
                    pause *= 2;
                }
                outcome => return outcome.map(|_| ()),
            }
        }
        Ok(())
    }

    /// With `dry_run` EC2 always answers with an error: `DryRunOperation` where the call would have gone through.
    async fn send(&self, step: &Step, dry_run: bool, deadline: &Deadline) -> Result<Change, AwsError> {
        match step {
            Step::Authorize {
                group,
                rule,
                description,
                tags,
            } => {
                let specification = TagSpecification::builder()
                    .resource_type(ResourceType::SecurityGroupRule)
                    .set_tags(Some(tag_list(tags)))
                    .build();
                let request = self
                    .client
                    .authorize_security_group_ingress()
                    .group_id(group.as_str())
                    .ip_permissions(translate::permission(rule, Some(description)))
                    .tag_specifications(specification)
                    .dry_run(dry_run);
                call(AUTHORIZE, deadline, request.send()).await?;
            }
            Step::Retag { rule_id, tags } => {
                let request = self
                    .client
                    .create_tags()
                    .resources(rule_id)
                    .set_tags(Some(tag_list(tags)))
                    .dry_run(dry_run);
                call(CREATE_TAGS, deadline, request.send()).await?;
            }
            Step::Revoke { group, rule } => {
                let request = self
                    .client
                    .revoke_security_group_ingress()
                    .group_id(group.as_str())
                    .ip_permissions(translate::permission(rule, None))
                    .dry_run(dry_run);
                let answer = call(REVOKE, deadline, request.send()).await?;
                // So answers a default VPC where other regions and VPCs fail with InvalidPermission.NotFound.
                if !answer.unknown_ip_permissions().is_empty() {
                    return Ok(Change::AlreadySo);
                }
            }
            Step::AddDeny(DenyEntry { acl, number, rule }) => {
                let (protocol, ports) = translate::entry_traffic(rule);
                let request = self
                    .client
                    .create_network_acl_entry()
                    .network_acl_id(acl.as_str())
                    .rule_number(i32::from(*number))
                    .rule_action(RuleAction::Deny)
                    .egress(false)
                    .protocol(protocol)
                    .set_port_range(ports)
                    .dry_run(dry_run);
                let source = rule.source().to_string();
                let request = match rule.source().network() {
                    IpNet::V4(_) => request.cidr_block(source),
                    IpNet::V6(_) => request.ipv6_cidr_block(source),
                };
                call(CREATE_ENTRY, deadline, request.send()).await?;
            }
            Step::RemoveDeny(DenyEntry { acl, number, .. }) => {
                self.delete_entry(acl, *number, dry_run, deadline).await?;
            }
            // Schedules are EventBridge's, in the function's own account.
            Step::PutSchedule(_) | Step::DeleteSchedule { .. } => return Ok(Change::AlreadySo),
        }
        Ok(Change::Made)
    }
}

/// EC2's errors that mean "it is as asked", by the call.
fn means_already_so(step: &Step, error: &AwsError) -> bool {
    match step {
        Step::Authorize { .. } => error.has_code("InvalidPermission.Duplicate"),
        Step::Revoke { .. } => error.has_code("InvalidPermission.NotFound"),
        Step::Retag { .. } => NO_SUCH_RULE.iter().any(|code| error.has_code(code)),
        Step::AddDeny(_) => error.has_code("NetworkAclEntryAlreadyExists"),
        Step::RemoveDeny(_) => ["InvalidNetworkAclEntry.NotFound", "InvalidNetworkAclID.NotFound"]
            .iter()
            .any(|code| error.has_code(code)),
        Step::PutSchedule(_) | Step::DeleteSchedule { .. } => false,
    }
}

impl Network for Ec2 {
    async fn read(&self, read: &Read, deadline: &Deadline) -> Result<View, AwsError> {
        let ids = std::slice::from_ref(&read.group);
        let known = read.vpc_id.clone().or_else(|| self.known_vpc(&read.group));
        let vpc = known.as_deref();
        let decides = match read.purpose {
            Purpose::Decide(target) => Some(target),
            Purpose::Stand | Purpose::Lift => None,
        };
        let (groups, rules, attachments, vpcs, acls, own) = futures::join!(
            self.groups_of(ids, deadline),
            self.rules_of(ids, deadline),
            async {
                match read.purpose {
                    Purpose::Lift => Ok(BTreeMap::new()),
                    Purpose::Decide(_) | Purpose::Stand => self.attachments(ids, deadline).await,
                }
            },
            async {
                match decides {
                    Some(_) => self.vpcs(vpc, deadline).await,
                    None => Ok(Vec::new()),
                }
            },
            self.acls(vpc, deadline),
            async {
                match decides {
                    Some(target) => self.own_addresses(target, deadline).await,
                    None => Ok(Vec::new()),
                }
            },
        );
        let mut attached = attachments?;
        let group = groups?
            .into_iter()
            .filter_map(translate::group)
            .find(|group| group.id == read.group)
            .map(|group| Group {
                interfaces: attached.remove(&read.group).unwrap_or_default(),
                ..group
            });
        let rule = rules?
            .iter()
            .find(|rule| translate::ingress_rule(rule) == Some(read.rule))
            .map(translate::recorded);
        let acls = match acls {
            Err(error) if error.kind == ErrorKind::AccessDenied && read.network_acls_if_allowed => {
                tracing::warn!(%error, "the network ACLs may not be read");
                None
            }
            acls => Some(acls?),
        };
        let vpc_id = read
            .vpc_id
            .clone()
            .or_else(|| group.as_ref().map(|group| group.vpc_id.clone()));
        if let Some(group) = &group {
            let mut vpcs = self.vpcs.lock().unwrap_or_else(PoisonError::into_inner);
            vpcs.insert(read.group.clone(), group.vpc_id.clone());
        }
        let (vpc_cidrs, vpc_owner) = match (&vpc_id, decides) {
            (Some(vpc_id), Some(_)) => {
                let vpc = vpcs?.into_iter().find(|vpc| vpc.vpc_id() == Some(vpc_id));
                let vpc = vpc.ok_or_else(|| missing(DESCRIBE_VPCS, "InvalidVpcID.NotFound", vpc_id))?;
                (cidrs(&vpc), vpc.owner_id)
            }
            _ => (Vec::new(), None),
        };
        Ok(View {
            seen: Seen {
                group,
                rule,
                // Of a group that is gone the VPC is not known here: whoever knows its block picks the VPC's.
                network_acls: acls.map(|acls| acls_of(&acls, vpc_id.as_deref())),
            },
            vpc_cidrs,
            vpc_owner,
            own_addresses: own?,
        })
    }

    async fn apply(&self, step: &Step, deadline: &Deadline) -> Result<Change, AwsError> {
        match self.send(step, false, deadline).await {
            Err(error) if means_already_so(step, &error) => Ok(Change::AlreadySo),
            outcome => outcome,
        }
    }

    async fn dry_run(&self, step: &Step, deadline: &Deadline) -> Result<(), AwsError> {
        match self.send(step, true, deadline).await {
            Err(error) if !error.has_code("DryRunOperation") => Err(error),
            _ => Ok(()),
        }
    }

    async fn survey(
        &self,
        tag: &policy::Tag,
        groups: &[SecurityGroupId],
        deadline: &Deadline,
    ) -> Result<Survey, AwsError> {
        let (enrolled, named, acls) = futures::join!(
            self.groups(vec![tag_filter(tag)], deadline),
            self.groups_of(groups, deadline),
            self.acls(None, deadline),
        );
        let found: BTreeMap<SecurityGroupId, Group> = enrolled?
            .into_iter()
            .chain(named?)
            .filter_map(translate::group)
            .map(|group| (group.id.clone(), group))
            .collect();
        let ids: Vec<SecurityGroupId> = found.keys().cloned().collect();
        let (attachments, described) = futures::join!(self.attachments(&ids, deadline), self.rules_of(&ids, deadline));
        let (mut attachments, described) = (attachments?, described?);
        let mut rules: BTreeMap<SecurityGroupId, Vec<ListRule>> = BTreeMap::new();
        for rule in &described {
            let group = rule.group_id().and_then(|id| id.parse().ok());
            if let (Some(group), Some(rule)) = (group, translate::list_rule(rule)) {
                rules.entry(group).or_default().push(rule);
            }
        }
        let mut network_acls: BTreeMap<String, Vec<NetworkAcl>> = BTreeMap::new();
        for acl in &acls? {
            if let (Some(vpc), Some(acl)) = (acl.vpc_id(), translate::network_acl(acl)) {
                network_acls.entry(vpc.to_owned()).or_default().push(acl);
            }
        }
        let groups = found
            .into_iter()
            .map(|(id, group)| {
                let interfaces = attachments.remove(&id).unwrap_or_default();
                (id, Group { interfaces, ..group })
            })
            .collect();
        Ok(Survey {
            groups,
            rules,
            network_acls,
        })
    }

    async fn revoke_rules(
        &self,
        group: &SecurityGroupId,
        ids: &[String],
        deadline: &Deadline,
    ) -> Result<Vec<String>, AwsError> {
        let revoke = |ids: &[String]| {
            let request = self
                .client
                .revoke_security_group_ingress()
                .group_id(group.as_str())
                .set_security_group_rule_ids(Some(ids.to_vec()));
            call(REVOKE, deadline, request.send())
        };
        let is_gone = |error: &AwsError| NO_SUCH_RULE.iter().any(|code| error.has_code(code));
        match revoke(ids).await {
            Ok(_) => return Ok(ids.to_vec()),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
        // One has been revoked since they were read, and EC2 then revokes none: one by one, what is left goes.
        let one_by_one = join_all(ids.iter().map(|id| revoke(std::slice::from_ref(id)))).await;
        let mut revoked = Vec::new();
        for (id, outcome) in ids.iter().zip(one_by_one) {
            match outcome {
                Ok(_) => revoked.push(id.clone()),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(revoked)
    }
}

/// EC2 answered, and what was asked for is not in the answer.
fn missing(action: &'static str, code: &str, what: &str) -> AwsError {
    AwsError {
        code: Some(code.to_owned()),
        ..AwsError::new(action, ErrorKind::Rejected, format!("the answer does not hold {what}"))
    }
}

/// Those of the VPC; all of them where it is not known.
fn acls_of(acls: &[aws_sdk_ec2::types::NetworkAcl], vpc_id: Option<&str>) -> Vec<NetworkAcl> {
    acls.iter()
        .filter(|acl| vpc_id.is_none_or(|vpc_id| acl.vpc_id() == Some(vpc_id)))
        .filter_map(translate::network_acl)
        .collect()
}

fn names(ids: &[SecurityGroupId]) -> impl Iterator<Item = &str> {
    ids.iter().map(SecurityGroupId::as_str)
}

/// The blocks of a VPC, those being taken away or added included.
fn cidrs(vpc: &Vpc) -> Vec<IpNet> {
    let v4 = vpc
        .cidr_block_association_set()
        .iter()
        .filter_map(|block| block.cidr_block());
    let v6 = vpc
        .ipv6_cidr_block_association_set()
        .iter()
        .filter_map(|block| block.ipv6_cidr_block());
    vpc.cidr_block()
        .into_iter()
        .chain(v4)
        .chain(v6)
        .filter_map(|block| block.parse().ok())
        .collect()
}

fn filter<'v>(name: &str, values: impl IntoIterator<Item = &'v str>) -> Filter {
    let values = values.into_iter().map(str::to_owned).collect();
    Filter::builder().name(name).set_values(Some(values)).build()
}

fn tag_filter(tag: &policy::Tag) -> Filter {
    filter(&format!("tag:{}", tag.key), [tag.value.as_str()])
}

fn tag_list(tags: &RecordTags) -> Vec<Tag> {
    tags.pairs()
        .map(|(key, value)| Tag::builder().key(key).value(value).build())
        .into()
}

#[cfg(test)]
mod tests;
