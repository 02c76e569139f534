//! The network of one account and region, in EC2.

mod translate;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{
    Filter, ResourceType, RuleAction, SecurityGroup, SecurityGroupRule, Tag, TagSpecification, Vpc,
};
use aws_support::{AwsError, Deadline, ErrorKind, call};
use aws_text::{NetworkAclId, Region, SecurityGroupId};
use containment_plan::audit::{Enrolled, Revoked};
use containment_plan::plan::DenyEntry;
use containment_plan::record::RecordTags;
use containment_plan::{GroupState, IngressRule, NetworkAcl, RecordedRule, State, Step, policy};
use futures::future::try_join_all;
use ipnet::IpNet;

use crate::network::{Change, Look, LookAtAcls, Network, Purpose};

/// The network of one account and region in EC2.
#[derive(Clone, Debug)]
pub struct Ec2 {
    client: Client,
    region: Region,
    /// The VPC of each group seen. It never changes, and no id is given twice
    vpcs: Arc<std::sync::Mutex<HashMap<SecurityGroupId, String>>>,
}

const DESCRIBE_GROUPS: &str = "ec2:DescribeSecurityGroups";
const DESCRIBE_RULES: &str = "ec2:DescribeSecurityGroupRules";
const DESCRIBE_INTERFACES: &str = "ec2:DescribeNetworkInterfaces";
const DESCRIBE_ACLS: &str = "ec2:DescribeNetworkAcls";
const DESCRIBE_VPCS: &str = "ec2:DescribeVpcs";
/// The IAM action of a block's record.
pub const AUTHORIZE: &str = "ec2:AuthorizeSecurityGroupIngress";
const REVOKE: &str = "ec2:RevokeSecurityGroupIngress";
const CREATE_TAGS: &str = "ec2:CreateTags";
/// The IAM action of a block's effect.
pub const CREATE_ENTRY: &str = "ec2:CreateNetworkAclEntry";
const DELETE_ENTRY: &str = "ec2:DeleteNetworkAclEntry";

/// EC2's error for a network ACL that takes no further entry, by its quota.
pub const ENTRY_LIMIT: &str = "NetworkAclEntryLimitExceeded";

/// EC2's error for the id of a rule that is gone.
pub const NO_SUCH_RULE: &str = "InvalidSecurityGroupRuleId.NotFound";

/// The most values of one filter ("Filtering" in the EC2 user guide).
const MAX_FILTER_VALUES: usize = 200;

/// The rules of a group that a request can be about.
type Rules = BTreeMap<IngressRule, RecordedRule>;

impl Ec2 {
    /// The account and region of `client`.
    #[must_use]
    pub fn new(client: Client, region: Region) -> Self {
        Self {
            client,
            region,
            vpcs: Arc::default(),
        }
    }

    async fn group(&self, group: &SecurityGroupId, deadline: &Deadline) -> Result<SecurityGroup, AwsError> {
        let request = self.client.describe_security_groups().group_ids(group.as_str());
        let answer = call(DESCRIBE_GROUPS, deadline, request.send()).await?;
        answer
            .security_groups
            .unwrap_or_default()
            .into_iter()
            .find(|described| described.group_id() == Some(group.as_str()))
            .ok_or_else(|| missing(DESCRIBE_GROUPS, "InvalidGroup.NotFound", group.as_str()))
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

    async fn all_rules(
        &self,
        group: &SecurityGroupId,
        deadline: &Deadline,
    ) -> Result<Vec<SecurityGroupRule>, AwsError> {
        let pages = self
            .client
            .describe_security_group_rules()
            .filters(filter("group-id", [group.as_str()]))
            .into_paginator()
            .items()
            .send();
        call(DESCRIBE_RULES, deadline, pages.collect::<Result<Vec<_>, _>>()).await
    }

    async fn rules(&self, group: &SecurityGroupId, deadline: &Deadline) -> Result<Rules, AwsError> {
        let rules = self.all_rules(group, deadline).await?;
        Ok(rules
            .iter()
            .filter_map(|rule| Some((translate::ingress_rule(rule)?, translate::recorded(rule))))
            .collect())
    }

    /// What the group is attached to, where a look is to show it.
    async fn attachments(&self, look: &Look, deadline: &Deadline) -> Result<Vec<String>, AwsError> {
        match look.purpose {
            Purpose::Block => {
                let found = self.interfaces(std::slice::from_ref(&look.group), deadline).await?;
                Ok(found.into_values().flatten().collect())
            }
            Purpose::Lift { .. } => Ok(Vec::new()),
        }
    }

    /// With `vpc_id` that VPC, without it all of the region: so that they can be read before it is known which it is.
    async fn vpcs(&self, look: &Look, vpc_id: Option<&str>, deadline: &Deadline) -> Result<Vec<Vpc>, AwsError> {
        match look.purpose {
            Purpose::Block => {
                let pages = self
                    .client
                    .describe_vpcs()
                    .set_filters(vpc_id.map(|id| vec![filter("vpc-id", [id])]))
                    .into_paginator()
                    .items()
                    .send();
                call(DESCRIBE_VPCS, deadline, pages.collect::<Result<Vec<_>, _>>()).await
            }
            Purpose::Lift { .. } => Ok(Vec::new()),
        }
    }

    /// As [`Ec2::vpcs`]; `None` where they are not looked at.
    async fn acls(
        &self,
        look: &Look,
        vpc_id: Option<&str>,
        deadline: &Deadline,
    ) -> Result<Option<Vec<aws_sdk_ec2::types::NetworkAcl>>, AwsError> {
        if look.network_acls == LookAtAcls::Never {
            return Ok(None);
        }
        let filters = vpc_id.map(|id| vec![filter("vpc-id", [id])]);
        match self.describe_acls(filters, deadline).await {
            Err(error) if error.kind == ErrorKind::AccessDenied && look.network_acls == LookAtAcls::IfAllowed => {
                tracing::warn!(%error, "the network ACLs cannot be looked at");
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    async fn describe_acls(
        &self,
        filters: Option<Vec<Filter>>,
        deadline: &Deadline,
    ) -> Result<Vec<aws_sdk_ec2::types::NetworkAcl>, AwsError> {
        let pages = self
            .client
            .describe_network_acls()
            .set_filters(filters)
            .into_paginator()
            .items()
            .send();
        call(DESCRIBE_ACLS, deadline, pages.collect::<Result<Vec<_>, _>>()).await
    }

    /// The block lists other than the look's that carry its rule.
    async fn holders(
        &self,
        look: &Look,
        vpc_id: Option<&str>,
        deadline: &Deadline,
    ) -> Result<Vec<SecurityGroup>, AwsError> {
        let Purpose::Lift { tag } = &look.purpose else {
            return Ok(Vec::new());
        };
        let mut filters = vec![tag_filter(tag)];
        filters.extend(vpc_id.map(|id| filter("vpc-id", [id])));
        let mut groups = self.groups(filters, deadline).await?;
        groups.retain(|group| group.group_id() != Some(look.group.as_str()) && translate::holds(group, &look.rule));
        Ok(groups)
    }

    fn known_vpc(&self, group: &SecurityGroupId) -> Option<String> {
        let vpcs = self.vpcs.lock().unwrap_or_else(PoisonError::into_inner);
        vpcs.get(group).cloned()
    }

    /// With `dry_run` EC2 always answers with an error: `DryRunOperation` where the call would have gone through.
    async fn send(&self, step: &Step, dry_run: bool, deadline: &Deadline) -> Result<Change, AwsError> {
        match step {
            Step::AuthorizeIngress {
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
            Step::RenewTags { rule_id, tags } => {
                let request = self
                    .client
                    .create_tags()
                    .resources(rule_id)
                    .set_tags(Some(tag_list(tags)))
                    .dry_run(dry_run);
                call(CREATE_TAGS, deadline, request.send()).await?;
            }
            Step::RevokeIngress { group, rule } => {
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
                let request = self
                    .client
                    .delete_network_acl_entry()
                    .network_acl_id(acl.as_str())
                    .rule_number(i32::from(*number))
                    .egress(false)
                    .dry_run(dry_run);
                call(DELETE_ENTRY, deadline, request.send()).await?;
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
        Step::AuthorizeIngress { .. } => error.has_code("InvalidPermission.Duplicate"),
        Step::RevokeIngress { .. } => error.has_code("InvalidPermission.NotFound"),
        // The rule has been revoked since it was read; if that is not as it should be, the look afterwards shows it.
        Step::RenewTags { .. } => error.has_code(NO_SUCH_RULE) || error.has_code("InvalidSecurityGroupRule.NotFound"),
        Step::AddDeny(_) => error.has_code("NetworkAclEntryAlreadyExists"),
        Step::RemoveDeny(_) => error.has_code("InvalidNetworkAclEntry.NotFound"),
        Step::PutSchedule(_) | Step::DeleteSchedule { .. } => false,
    }
}

impl Network for Ec2 {
    async fn look(&self, look: &Look, deadline: &Deadline) -> Result<State, AwsError> {
        let known = self.known_vpc(&look.group);
        let vpc = known.as_deref();
        let (group, rules, interfaces, vpcs, acls, holders) = futures::join!(
            self.group(&look.group, deadline),
            self.rules(&look.group, deadline),
            self.attachments(look, deadline),
            self.vpcs(look, vpc, deadline),
            self.acls(look, vpc, deadline),
            self.holders(look, vpc, deadline),
        );
        let group = group?;
        let vpc_id = group
            .vpc_id
            .ok_or_else(|| missing(DESCRIBE_GROUPS, "InvalidGroup.NotFound", "the group's VPC"))?;
        let vpc_cidrs = match look.purpose {
            Purpose::Block => {
                let vpc = vpcs?.into_iter().find(|vpc| vpc.vpc_id() == Some(&vpc_id));
                cidrs(&vpc.ok_or_else(|| missing(DESCRIBE_VPCS, "InvalidVpcID.NotFound", &vpc_id))?)
            }
            Purpose::Lift { .. } => Vec::new(),
        };
        let state = State {
            region: self.region.clone(),
            group: GroupState {
                id: look.group.clone(),
                name: group.group_name.unwrap_or_default(),
                owner_id: group.owner_id,
                tags: translate::tags(group.tags.as_deref().unwrap_or_default()),
                rules: rules?,
                interfaces: interfaces?,
                vpc_id: vpc_id.clone(),
            },
            vpc_cidrs,
            network_acls: acls?.map(|acls| acls_of(&acls, &vpc_id)),
            other_holders: ids_in(holders?, &vpc_id),
        };
        let mut vpcs = self.vpcs.lock().unwrap_or_else(PoisonError::into_inner);
        vpcs.insert(look.group.clone(), vpc_id);
        Ok(state)
    }

    async fn look_again(&self, look: &Look, before: &State, deadline: &Deadline) -> Result<State, AwsError> {
        let vpc_id = &before.group.vpc_id;
        let (rules, interfaces, acls, holders) = futures::join!(
            self.rules(&look.group, deadline),
            self.attachments(look, deadline),
            self.acls(look, Some(vpc_id), deadline),
            self.holders(look, Some(vpc_id), deadline),
        );
        Ok(State {
            group: GroupState {
                rules: rules?,
                interfaces: interfaces?,
                ..before.group.clone()
            },
            network_acls: acls?.map(|acls| acls_of(&acls, vpc_id)),
            other_holders: ids_in(holders?, vpc_id),
            ..before.clone()
        })
    }

    async fn network_acl(&self, id: &NetworkAclId, deadline: &Deadline) -> Result<NetworkAcl, AwsError> {
        let request = self.client.describe_network_acls().network_acl_ids(id.as_str());
        let answer = call(DESCRIBE_ACLS, deadline, request.send()).await?;
        answer
            .network_acls()
            .iter()
            .filter_map(translate::network_acl)
            .find(|acl| acl.id == *id)
            .ok_or_else(|| missing(DESCRIBE_ACLS, "InvalidNetworkAclID.NotFound", id.as_str()))
    }

    async fn apply(&self, step: &Step, deadline: &Deadline) -> Result<Change, AwsError> {
        match self.send(step, false, deadline).await {
            Err(error) if means_already_so(step, &error) => Ok(Change::AlreadySo),
            outcome => outcome,
        }
    }

    async fn ask(&self, step: &Step, deadline: &Deadline) -> Result<(), AwsError> {
        match self.send(step, true, deadline).await {
            Err(error) if !error.has_code("DryRunOperation") => Err(error),
            _ => Ok(()),
        }
    }

    async fn enrolled(&self, tag: &policy::Tag, deadline: &Deadline) -> Result<Vec<Enrolled>, AwsError> {
        let groups = self.groups(vec![tag_filter(tag)], deadline).await?;
        Ok(groups.into_iter().filter_map(translate::enrolled).collect())
    }

    async fn interfaces(
        &self,
        groups: &[SecurityGroupId],
        deadline: &Deadline,
    ) -> Result<BTreeMap<SecurityGroupId, BTreeSet<String>>, AwsError> {
        let pages = groups.chunks(MAX_FILTER_VALUES).map(|groups| {
            let pages = self
                .client
                .describe_network_interfaces()
                .filters(filter("group-id", groups.iter().map(SecurityGroupId::as_str)))
                .into_paginator()
                .items()
                .send();
            call(DESCRIBE_INTERFACES, deadline, pages.collect::<Result<Vec<_>, _>>())
        });
        let mut found: BTreeMap<SecurityGroupId, BTreeSet<String>> = BTreeMap::new();
        for interface in try_join_all(pages).await?.into_iter().flatten() {
            // An interface without an id is an interface all the same, and one that was asked for by a single group
            // is that group's, whatever it says of its groups.
            let id = interface.network_interface_id().unwrap_or("an interface without id");
            let named = |group: &&SecurityGroupId| {
                let is_named = |named: &aws_sdk_ec2::types::GroupIdentifier| named.group_id() == Some(group.as_str());
                groups.len() == 1 || interface.groups().iter().any(is_named)
            };
            for group in groups.iter().filter(named) {
                found.entry(group.clone()).or_default().insert(id.to_owned());
            }
        }
        Ok(found)
    }

    async fn ingress_rules(&self, group: &SecurityGroupId, deadline: &Deadline) -> Result<Vec<Revoked>, AwsError> {
        let rules = self.all_rules(group, deadline).await?;
        Ok(rules.iter().filter_map(translate::revocable).collect())
    }

    async fn revoke_rules(&self, group: &SecurityGroupId, ids: &[String], deadline: &Deadline) -> Result<(), AwsError> {
        let request = self
            .client
            .revoke_security_group_ingress()
            .group_id(group.as_str())
            .set_security_group_rule_ids(Some(ids.to_vec()));
        call(REVOKE, deadline, request.send()).await.map(|_| ())
    }

    async fn network_acls(&self, vpc_id: &str, deadline: &Deadline) -> Result<Vec<NetworkAcl>, AwsError> {
        let filters = vec![filter("vpc-id", [vpc_id])];
        let acls = self.describe_acls(Some(filters), deadline).await?;
        Ok(acls_of(&acls, vpc_id))
    }
}

/// EC2 answered, and what was asked for is not in the answer.
fn missing(action: &'static str, code: &str, what: &str) -> AwsError {
    AwsError {
        code: Some(code.to_owned()),
        ..AwsError::new(action, ErrorKind::Rejected, format!("the answer does not hold {what}"))
    }
}

fn acls_of(acls: &[aws_sdk_ec2::types::NetworkAcl], vpc_id: &str) -> Vec<NetworkAcl> {
    acls.iter()
        .filter(|acl| acl.vpc_id() == Some(vpc_id))
        .filter_map(translate::network_acl)
        .collect()
}

fn ids_in(groups: Vec<SecurityGroup>, vpc_id: &str) -> Vec<SecurityGroupId> {
    groups
        .into_iter()
        .filter(|group| group.vpc_id() == Some(vpc_id))
        .filter_map(|group| group.group_id?.parse().ok())
        .collect()
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
mod tests {
    use std::time::Duration;

    use aws_sdk_ec2::config::{BehaviorVersion, Credentials, Region};
    use aws_sdk_ec2::error::ErrorMetadata;
    use aws_sdk_ec2::operation::authorize_security_group_ingress::{
        AuthorizeSecurityGroupIngressError, AuthorizeSecurityGroupIngressOutput,
    };
    use aws_sdk_ec2::operation::create_network_acl_entry::{CreateNetworkAclEntryError, CreateNetworkAclEntryOutput};
    use aws_sdk_ec2::operation::create_tags::{CreateTagsError, CreateTagsOutput};
    use aws_sdk_ec2::operation::delete_network_acl_entry::{DeleteNetworkAclEntryError, DeleteNetworkAclEntryOutput};
    use aws_sdk_ec2::operation::describe_network_acls::{DescribeNetworkAclsError, DescribeNetworkAclsOutput};
    use aws_sdk_ec2::operation::describe_network_interfaces::DescribeNetworkInterfacesOutput;
    use aws_sdk_ec2::operation::describe_security_group_rules::DescribeSecurityGroupRulesOutput;
    use aws_sdk_ec2::operation::describe_security_groups::{DescribeSecurityGroupsError, DescribeSecurityGroupsOutput};
    use aws_sdk_ec2::operation::describe_vpcs::DescribeVpcsOutput;
    use aws_sdk_ec2::operation::revoke_security_group_ingress::{
        RevokeSecurityGroupIngressError, RevokeSecurityGroupIngressOutput,
    };
    use aws_sdk_ec2::types::{
        GroupIdentifier, IpPermission, IpRange, NetworkAclAssociation, NetworkAclEntry, NetworkInterface,
        VpcCidrBlockAssociation, VpcIpv6CidrBlockAssociation,
    };
    use aws_smithy_mocks::{MockResponseInterceptor, Rule, RuleMode, create_mock_http_client, mock};

    use containment_plan::network_acl::Effect;
    use containment_plan::{Policy, Protocol, Request};
    use serde_json::json;

    use super::*;

    fn ec2(rules: &[&Rule]) -> Ec2 {
        let interceptor = rules.iter().fold(
            MockResponseInterceptor::new().rule_mode(RuleMode::MatchAny),
            |interceptor, rule| interceptor.with_rule(rule),
        );
        let config = aws_sdk_ec2::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
            .http_client(create_mock_http_client())
            .interceptor(interceptor)
            .build();
        Ec2::new(Client::from_conf(config), "us-east-1".parse().unwrap())
    }

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_mins(1))
    }

    fn group() -> SecurityGroupId {
        "sg-0123abcd".parse().unwrap()
    }

    fn rule(source: &str, protocol: Protocol) -> IngressRule {
        IngressRule::new(source.parse().unwrap(), protocol, (0, 65535))
    }

    fn authorize(source: &str, protocol: Protocol) -> Step {
        Step::AuthorizeIngress {
            group: group(),
            rule: rule(source, protocol),
            description: "why".to_owned(),
            tags: tags(),
        }
    }

    fn revoke() -> Step {
        Step::RevokeIngress {
            group: group(),
            rule: rule("203.0.113.7", Protocol::Tcp),
        }
    }

    fn request(action: &str) -> Request {
        let body = json!({"request_id": "r-1", "action": action, "target": "203.0.113.7", "requested_by": "ana",
                          "params": {"aws_security_group_id": "sg-0123abcd"}});
        Request::read(&body.to_string(), "m").unwrap()
    }

    fn tags() -> RecordTags {
        RecordTags::of(&request("BLOCK_IP"), None)
    }

    fn policy(enforcement: containment_plan::Enforcement) -> Policy {
        Policy {
            protected: vec![],
            allow_private: false,
            allowed_roles: vec![],
            tag: "aisoc:containment=blocklist".parse().unwrap(),
            enforcement,
            rule_numbers: containment_plan::network_acl::RuleNumbers::default(),
            expiry_lacks: vec![],
        }
    }

    fn look(action: &str, enforcement: containment_plan::Enforcement) -> Look {
        Look::of(&request(action), &policy(enforcement))
    }

    const ENFORCED: containment_plan::Enforcement = containment_plan::Enforcement::NetworkAcl;
    const RECORD_ONLY: containment_plan::Enforcement = containment_plan::Enforcement::None;

    fn deny() -> Step {
        Step::AddDeny(DenyEntry {
            acl: "acl-0123abcd".parse().unwrap(),
            number: 7,
            rule: rule("203.0.113.7", Protocol::Tcp),
        })
    }

    fn remove() -> Step {
        Step::RemoveDeny(DenyEntry {
            acl: "acl-0123abcd".parse().unwrap(),
            number: 7,
            rule: rule("203.0.113.7", Protocol::Tcp),
        })
    }

    fn acl(id: &str, vpc: &str) -> aws_sdk_ec2::types::NetworkAcl {
        aws_sdk_ec2::types::NetworkAcl::builder()
            .network_acl_id(id)
            .vpc_id(vpc)
            .associations(NetworkAclAssociation::builder().subnet_id("subnet-1").build())
            .entries(
                NetworkAclEntry::builder()
                    .rule_number(100)
                    .rule_action(RuleAction::Allow)
                    .protocol("-1")
                    .egress(false)
                    .cidr_block("0.0.0.0/0")
                    .build(),
            )
            .build()
    }

    /// The ACLs of the whole region: those of another VPC are among them.
    fn acls() -> Rule {
        mock!(Client::describe_network_acls)
            .match_requests(|r| r.filters().is_empty())
            .then_output(|| {
                DescribeNetworkAclsOutput::builder()
                    .network_acls(acl("acl-0123abcd", "vpc-1"))
                    .network_acls(acl("acl-0123abce", "vpc-2"))
                    .build()
            })
    }

    fn vpc(id: &str) -> Vpc {
        Vpc::builder()
            .vpc_id(id)
            .cidr_block("10.0.0.0/16")
            .cidr_block_association_set(VpcCidrBlockAssociation::builder().cidr_block("10.9.0.0/16").build())
            .ipv6_cidr_block_association_set(
                VpcIpv6CidrBlockAssociation::builder()
                    .ipv6_cidr_block("2001:db8:1::/56")
                    .build(),
            )
            .build()
    }

    fn vpcs(id: &'static str) -> Rule {
        mock!(Client::describe_vpcs).then_output(move || DescribeVpcsOutput::builder().vpcs(vpc(id)).build())
    }

    fn no_interfaces() -> Rule {
        mock!(Client::describe_network_interfaces).then_output(|| DescribeNetworkInterfacesOutput::builder().build())
    }

    fn metadata(code: &str) -> ErrorMetadata {
        ErrorMetadata::builder().code(code).message("said so").build()
    }

    fn described() -> Rule {
        mock!(Client::describe_security_groups).then_output(|| {
            DescribeSecurityGroupsOutput::builder()
                .security_groups(
                    SecurityGroup::builder()
                        .group_id("sg-0123abcd")
                        .group_name("blocklist")
                        .vpc_id("vpc-1")
                        .owner_id("111122223333")
                        .tags(Tag::builder().key("a").value("b").build())
                        .build(),
                )
                .build()
        })
    }

    fn no_rules() -> Rule {
        mock!(Client::describe_security_group_rules).then_output(|| DescribeSecurityGroupRulesOutput::builder().build())
    }

    #[tokio::test]
    async fn the_state_is_read_from_every_page() {
        let rule_of = |id: &str, cidr: &str| {
            SecurityGroupRule::builder()
                .security_group_rule_id(id)
                .is_egress(false)
                .ip_protocol("tcp")
                .from_port(0)
                .to_port(65535)
                .cidr_ipv4(cidr)
                .description("why")
                .tags(Tag::builder().key("aisoc:request-id").value("r-1").build())
                .build()
        };
        let first = mock!(Client::describe_security_group_rules)
            .match_requests(|r| r.next_token().is_none() && r.filters()[0].values() == ["sg-0123abcd"])
            .then_output(move || {
                DescribeSecurityGroupRulesOutput::builder()
                    .security_group_rules(rule_of("sgr-1", "203.0.113.7/32"))
                    .next_token("2")
                    .build()
            });
        let second = mock!(Client::describe_security_group_rules)
            .match_requests(|r| r.next_token() == Some("2"))
            .then_output(move || {
                let all = SecurityGroupRule::builder()
                    .security_group_rule_id("sgr-3")
                    .ip_protocol("-1")
                    .from_port(-1)
                    .to_port(-1);
                DescribeSecurityGroupRulesOutput::builder()
                    .security_group_rules(all.clone().is_egress(false).cidr_ipv6("2001:DB8::/64").build())
                    .security_group_rules(all.clone().is_egress(true).cidr_ipv4("0.0.0.0/0").build())
                    .security_group_rules(all.is_egress(false).prefix_list_id("pl-1").build())
                    .build()
            });
        let interfaces = mock!(Client::describe_network_interfaces).then_output(|| {
            DescribeNetworkInterfacesOutput::builder()
                .network_interfaces(NetworkInterface::builder().network_interface_id("eni-1").build())
                .network_interfaces(NetworkInterface::builder().build())
                .build()
        });
        let state = ec2(&[&described(), &first, &second, &interfaces, &vpcs("vpc-1"), &acls()])
            .look(&look("BLOCK_IP", ENFORCED), &deadline())
            .await
            .unwrap();
        let recorded = RecordedRule {
            id: "sgr-1".to_owned(),
            description: "why".to_owned(),
            tags: BTreeMap::from([("aisoc:request-id".to_owned(), "r-1".to_owned())]),
        };
        let bare = RecordedRule {
            id: "sgr-3".to_owned(),
            ..RecordedRule::default()
        };
        assert_eq!(
            state.group,
            GroupState {
                id: group(),
                name: "blocklist".to_owned(),
                vpc_id: "vpc-1".to_owned(),
                owner_id: Some("111122223333".to_owned()),
                tags: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
                rules: BTreeMap::from([
                    (rule("203.0.113.7", Protocol::Tcp), recorded),
                    (rule("2001:db8::/64", Protocol::All), bare),
                ]),
                interfaces: vec!["an interface without id".to_owned(), "eni-1".to_owned()],
            }
        );
        let cidrs: Vec<String> = state.vpc_cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["10.0.0.0/16", "10.9.0.0/16", "2001:db8:1::/56"]);
        let acls = state.network_acls.unwrap();
        assert_eq!(acls.len(), 1, "that of another VPC is none of it");
        assert!(acls[0].has_subnet && acls[0].entries[0].effect == Effect::Allow);
    }

    #[tokio::test]
    async fn the_vpc_of_a_group_is_asked_for_once() {
        let of_vpc = mock!(Client::describe_network_acls)
            .match_requests(|r| r.filters().first().is_some_and(|f| f.values() == ["vpc-1"]))
            .then_output(|| {
                DescribeNetworkAclsOutput::builder()
                    .network_acls(acl("acl-0123abcd", "vpc-1"))
                    .build()
            });
        let all = acls();
        let (described, rules, interfaces, vpcs) = (described(), no_rules(), no_interfaces(), vpcs("vpc-1"));
        let ec2 = ec2(&[&described, &rules, &interfaces, &vpcs, &all, &of_vpc]);
        let look = look("BLOCK_IP", ENFORCED);
        let state = ec2.look(&look, &deadline()).await.unwrap();
        assert_eq!((all.num_calls(), of_vpc.num_calls()), (1, 0));
        ec2.look(&look, &deadline()).await.unwrap();
        assert_eq!((all.num_calls(), of_vpc.num_calls()), (1, 1));
        // A look after a change reads what a change shows in, and no more.
        ec2.look_again(&look, &state, &deadline()).await.unwrap();
        assert_eq!((described.num_calls(), vpcs.num_calls(), rules.num_calls()), (2, 2, 3));
        assert_eq!((interfaces.num_calls(), of_vpc.num_calls()), (3, 2));
    }

    #[tokio::test]
    async fn a_lift_looks_for_other_lists_with_the_rule() {
        let others = mock!(Client::describe_security_groups)
            .match_requests(|r| {
                r.filters()
                    .first()
                    .is_some_and(|f| f.name() == Some("tag:aisoc:containment") && f.values() == ["blocklist"])
            })
            .then_output(|| {
                let permission = IpPermission::builder()
                    .ip_protocol("tcp")
                    .from_port(0)
                    .to_port(65535)
                    .ip_ranges(IpRange::builder().cidr_ip("203.0.113.7/32").build())
                    .build();
                let group = |id: &str, vpc: &str| {
                    SecurityGroup::builder()
                        .group_id(id)
                        .vpc_id(vpc)
                        .ip_permissions(permission.clone())
                        .build()
                };
                DescribeSecurityGroupsOutput::builder()
                    .security_groups(group("sg-0123abcd", "vpc-1")) // itself
                    .security_groups(group("sg-0123abce", "vpc-1"))
                    .security_groups(group("sg-0123abcf", "vpc-2"))
                    .security_groups(SecurityGroup::builder().group_id("sg-01230000").vpc_id("vpc-1").build())
                    .build()
            });
        let itself = mock!(Client::describe_security_groups)
            .match_requests(|r| r.group_ids() == ["sg-0123abcd"])
            .then_output(|| {
                let group = SecurityGroup::builder().group_id("sg-0123abcd").vpc_id("vpc-1").build();
                DescribeSecurityGroupsOutput::builder().security_groups(group).build()
            });
        let state = ec2(&[&others, &itself, &no_rules(), &acls()])
            .look(&look("ALLOW_IP", ENFORCED), &deadline())
            .await
            .unwrap();
        assert_eq!(state.other_holders, ["sg-0123abce".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_group_that_is_not_there_is_an_error() {
        let missing = mock!(Client::describe_security_groups)
            .then_error(|| DescribeSecurityGroupsError::generic(metadata("InvalidGroup.NotFound")));
        let empty =
            mock!(Client::describe_security_groups).then_output(|| DescribeSecurityGroupsOutput::builder().build());
        for describe in [&missing, &empty] {
            let error = ec2(&[describe, &no_rules(), &no_interfaces(), &vpcs("vpc-1"), &acls()])
                .look(&look("BLOCK_IP", ENFORCED), &deadline())
                .await
                .unwrap_err();
            assert!(error.has_code("InvalidGroup.NotFound"), "{error}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_no_empty_list() {
        let denied_interfaces = mock!(Client::describe_network_interfaces).then_error(|| {
            aws_sdk_ec2::operation::describe_network_interfaces::DescribeNetworkInterfacesError::generic(metadata(
                "UnauthorizedOperation",
            ))
        });
        let denied_acls = mock!(Client::describe_network_acls)
            .then_error(|| DescribeNetworkAclsError::generic(metadata("UnauthorizedOperation")));
        let cases: [(&[&Rule], &str); 3] = [
            (&[&denied_interfaces, &vpcs("vpc-1"), &acls()], DESCRIBE_INTERFACES),
            (&[&no_interfaces(), &vpcs("vpc-1"), &denied_acls], DESCRIBE_ACLS),
            (&[&no_interfaces(), &vpcs("vpc-2"), &acls()], DESCRIBE_VPCS),
        ];
        for (rules, action) in cases {
            let (described, no_rules) = (described(), no_rules());
            let all: Vec<&Rule> = rules.iter().copied().chain([&described, &no_rules]).collect();
            let error = ec2(&all)
                .look(&look("BLOCK_IP", ENFORCED), &deadline())
                .await
                .unwrap_err();
            assert_eq!(error.action, action);
        }
        // Without enforcement a lift need not see them, and a block does not ask.
        let rules = [&described(), &no_rules(), &denied_acls];
        let lift = ec2(&rules)
            .look(&look("ALLOW_IP", RECORD_ONLY), &deadline())
            .await
            .unwrap();
        assert_eq!(lift.network_acls, None);
        let rules = [&described(), &no_rules(), &no_interfaces(), &vpcs("vpc-1")];
        let block = ec2(&rules)
            .look(&look("BLOCK_IP", RECORD_ONLY), &deadline())
            .await
            .unwrap();
        assert_eq!(block.network_acls, None);
    }

    #[tokio::test]
    async fn a_rule_is_authorized_as_ec2_wants_it() {
        let v4 = mock!(Client::authorize_security_group_ingress)
            .match_requests(|r| {
                let permission = &r.ip_permissions()[0];
                r.group_id() == Some("sg-0123abcd")
                    && r.dry_run() == Some(false)
                    && permission.ip_protocol() == Some("tcp")
                    && (permission.from_port(), permission.to_port()) == (Some(0), Some(65535))
                    && permission.ip_ranges()[0].cidr_ip() == Some("203.0.113.7/32")
                    && permission.ip_ranges()[0].description() == Some("why")
                    && r.tag_specifications()[0].resource_type() == Some(&ResourceType::SecurityGroupRule)
                    && r.tag_specifications()[0].tags()[0].value() == Some("r-1")
                    && permission.ipv6_ranges().is_empty()
            })
            .then_output(|| AuthorizeSecurityGroupIngressOutput::builder().build());
        let change = ec2(&[&v4])
            .apply(&authorize("203.0.113.7", Protocol::Tcp), &deadline())
            .await;
        assert_eq!(change.unwrap(), Change::Made);

        let v6 = mock!(Client::authorize_security_group_ingress)
            .match_requests(|r| {
                let permission = &r.ip_permissions()[0];
                permission.ip_protocol() == Some("-1")
                    && (permission.from_port(), permission.to_port()) == (None, None)
                    && permission.ipv6_ranges()[0].cidr_ipv6() == Some("2001:db8::7/128")
                    && permission.ip_ranges().is_empty()
            })
            .then_output(|| AuthorizeSecurityGroupIngressOutput::builder().build());
        let change = ec2(&[&v6])
            .apply(&authorize("2001:db8::7", Protocol::All), &deadline())
            .await;
        assert_eq!(change.unwrap(), Change::Made);
    }

    #[tokio::test]
    async fn what_is_already_so_is_success() {
        let duplicate = mock!(Client::authorize_security_group_ingress)
            .then_error(|| AuthorizeSecurityGroupIngressError::generic(metadata("InvalidPermission.Duplicate")));
        let step = authorize("203.0.113.7", Protocol::Tcp);
        assert_eq!(
            ec2(&[&duplicate]).apply(&step, &deadline()).await.unwrap(),
            Change::AlreadySo
        );

        let not_found = mock!(Client::revoke_security_group_ingress)
            .then_error(|| RevokeSecurityGroupIngressError::generic(metadata("InvalidPermission.NotFound")));
        let unknown = mock!(Client::revoke_security_group_ingress).then_output(|| {
            RevokeSecurityGroupIngressOutput::builder()
                .r#return(true)
                .unknown_ip_permissions(IpPermission::builder().build())
                .build()
        });
        for rule in [&not_found, &unknown] {
            assert_eq!(
                ec2(&[rule]).apply(&revoke(), &deadline()).await.unwrap(),
                Change::AlreadySo
            );
        }

        let taken = mock!(Client::create_network_acl_entry)
            .then_error(|| CreateNetworkAclEntryError::generic(metadata("NetworkAclEntryAlreadyExists")));
        let gone = mock!(Client::delete_network_acl_entry)
            .then_error(|| DeleteNetworkAclEntryError::generic(metadata("InvalidNetworkAclEntry.NotFound")));
        let no_rule = mock!(Client::create_tags)
            .then_error(|| CreateTagsError::generic(metadata("InvalidSecurityGroupRuleId.NotFound")));
        let renew = Step::RenewTags {
            rule_id: "sgr-1".to_owned(),
            tags: tags(),
        };
        for (rule, step) in [(&taken, deny()), (&gone, remove()), (&no_rule, renew)] {
            assert_eq!(ec2(&[rule]).apply(&step, &deadline()).await.unwrap(), Change::AlreadySo);
        }
        // The same words at another call mean something else.
        let odd = mock!(Client::create_network_acl_entry)
            .then_error(|| CreateNetworkAclEntryError::generic(metadata("InvalidNetworkAclEntry.NotFound")));
        assert!(ec2(&[&odd]).apply(&deny(), &deadline()).await.is_err());
    }

    #[tokio::test]
    async fn entries_are_written_as_ec2_wants_them() {
        let add = mock!(Client::create_network_acl_entry)
            .match_requests(|r| {
                let ports = r.port_range().unwrap();
                r.network_acl_id() == Some("acl-0123abcd")
                    && r.rule_number() == Some(7)
                    && r.rule_action() == Some(&RuleAction::Deny)
                    && r.egress() == Some(false)
                    && r.protocol() == Some("6")
                    && (ports.from(), ports.to()) == (Some(0), Some(65535))
                    && r.cidr_block() == Some("203.0.113.7/32")
                    && r.ipv6_cidr_block().is_none()
            })
            .then_output(|| CreateNetworkAclEntryOutput::builder().build());
        assert_eq!(ec2(&[&add]).apply(&deny(), &deadline()).await.unwrap(), Change::Made);
        let all = mock!(Client::create_network_acl_entry)
            .match_requests(|r| {
                r.protocol() == Some("-1")
                    && r.port_range().is_none()
                    && r.cidr_block().is_none()
                    && r.ipv6_cidr_block() == Some("2001:db8::/64")
            })
            .then_output(|| CreateNetworkAclEntryOutput::builder().build());
        let step = Step::AddDeny(DenyEntry {
            acl: "acl-0123abcd".parse().unwrap(),
            number: 1,
            rule: rule("2001:db8::/64", Protocol::All),
        });
        assert_eq!(ec2(&[&all]).apply(&step, &deadline()).await.unwrap(), Change::Made);
        let delete = mock!(Client::delete_network_acl_entry)
            .match_requests(|r| {
                r.network_acl_id() == Some("acl-0123abcd") && r.rule_number() == Some(7) && r.egress() == Some(false)
            })
            .then_output(|| DeleteNetworkAclEntryOutput::builder().build());
        assert_eq!(
            ec2(&[&delete]).apply(&remove(), &deadline()).await.unwrap(),
            Change::Made
        );
        let renew = mock!(Client::create_tags)
            .match_requests(|r| r.resources() == ["sgr-1"] && r.tags().len() == 3)
            .then_output(|| CreateTagsOutput::builder().build());
        let step = Step::RenewTags {
            rule_id: "sgr-1".to_owned(),
            tags: tags(),
        };
        assert_eq!(ec2(&[&renew]).apply(&step, &deadline()).await.unwrap(), Change::Made);
    }

    #[tokio::test]
    async fn an_audit_sees_each_groups_interfaces_and_revokes_by_id() {
        let interfaces = mock!(Client::describe_network_interfaces)
            .match_requests(|r| r.filters()[0].values() == ["sg-0123abcd", "sg-0123abce"])
            .then_output(|| {
                let in_group = |id: &str| GroupIdentifier::builder().group_id(id).build();
                DescribeNetworkInterfacesOutput::builder()
                    .network_interfaces(
                        NetworkInterface::builder()
                            .network_interface_id("eni-1")
                            .groups(in_group("sg-0123abce"))
                            .groups(in_group("sg-99999999"))
                            .build(),
                    )
                    .build()
            });
        let groups = [group(), "sg-0123abce".parse().unwrap()];
        let found = ec2(&[&interfaces]).interfaces(&groups, &deadline()).await.unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[&groups[1]].contains("eni-1"));
        let revoke = mock!(Client::revoke_security_group_ingress)
            .match_requests(|r| {
                r.group_id() == Some("sg-0123abcd") && r.security_group_rule_ids() == ["sgr-1", "sgr-2"]
            })
            .then_output(|| RevokeSecurityGroupIngressOutput::builder().build());
        let ids = ["sgr-1".to_owned(), "sgr-2".to_owned()];
        ec2(&[&revoke]).revoke_rules(&group(), &ids, &deadline()).await.unwrap();
        assert_eq!(revoke.num_calls(), 1);
    }

    #[tokio::test]
    async fn other_errors_stay_errors() {
        for code in [
            "RulesPerSecurityGroupLimitExceeded",
            "UnauthorizedOperation",
            "InvalidGroup.NotFound",
        ] {
            let rule = mock!(Client::authorize_security_group_ingress)
                .then_error(move || AuthorizeSecurityGroupIngressError::generic(metadata(code)));
            let error = ec2(&[&rule])
                .apply(&authorize("203.0.113.7", Protocol::Tcp), &deadline())
                .await
                .unwrap_err();
            assert!(error.has_code(code));
        }
    }

    #[tokio::test]
    async fn a_dry_run_asks_and_changes_nothing() {
        let allowed = mock!(Client::authorize_security_group_ingress)
            .match_requests(|r| r.dry_run() == Some(true))
            .then_error(|| AuthorizeSecurityGroupIngressError::generic(metadata("DryRunOperation")));
        let step = authorize("203.0.113.7", Protocol::Tcp);
        ec2(&[&allowed]).ask(&step, &deadline()).await.unwrap();

        let denied = mock!(Client::revoke_security_group_ingress)
            .match_requests(|r| r.dry_run() == Some(true))
            .then_error(|| RevokeSecurityGroupIngressError::generic(metadata("UnauthorizedOperation")));
        let error = ec2(&[&denied]).ask(&revoke(), &deadline()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::AccessDenied);
    }
}
