//! Security groups of one account and region, in EC2.

use std::collections::BTreeMap;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Filter, IpPermission, IpRange, Ipv6Range, SecurityGroup, SecurityGroupRule};
use aws_support::{AwsError, Deadline, ErrorKind, call};
use aws_text::SecurityGroupId;
use containment_plan::{GroupState, IngressRule, Protocol, Step, Target};
use ipnet::IpNet;

/// Security groups of one account and region.
pub trait SecurityGroups {
    /// The group, its rules and, where `with_interfaces`, what it is attached to.
    ///
    /// # Errors
    /// Where any of it could not be read: then nothing is known of it.
    fn state(
        &self,
        group: &SecurityGroupId,
        with_interfaces: bool,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<GroupState, AwsError>>;

    /// The group's rules with their ids.
    ///
    /// # Errors
    /// Where they could not be read.
    fn rules(
        &self,
        group: &SecurityGroupId,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<BTreeMap<IngressRule, String>, AwsError>>;

    /// Makes a change.
    ///
    /// # Errors
    /// Where it was not made, or is not known to be.
    fn apply(&self, step: &Step, deadline: &Deadline) -> impl Future<Output = Result<Change, AwsError>>;

    /// Asks whether the change may be made, and makes none (EC2's `DryRun`).
    ///
    /// # Errors
    /// Where it may not.
    fn ask(&self, step: &Step, deadline: &Deadline) -> impl Future<Output = Result<(), AwsError>>;
}

/// What a call changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is as asked now
    Made,
    /// It was as asked before
    AlreadySo,
}

/// Security groups in EC2.
#[derive(Clone, Debug)]
pub struct Ec2 {
    client: Client,
}

const DESCRIBE_GROUPS: &str = "ec2:DescribeSecurityGroups";
const DESCRIBE_RULES: &str = "ec2:DescribeSecurityGroupRules";
const DESCRIBE_INTERFACES: &str = "ec2:DescribeNetworkInterfaces";
const AUTHORIZE: &str = "ec2:AuthorizeSecurityGroupIngress";
const REVOKE: &str = "ec2:RevokeSecurityGroupIngress";

impl Ec2 {
    /// The account and region of `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    async fn group(&self, group: &SecurityGroupId, deadline: &Deadline) -> Result<SecurityGroup, AwsError> {
        let request = self.client.describe_security_groups().group_ids(group.as_str());
        let answer = call(DESCRIBE_GROUPS, deadline, request.send()).await?;
        answer
            .security_groups
            .unwrap_or_default()
            .into_iter()
            .find(|described| described.group_id() == Some(group.as_str()))
            .ok_or_else(|| AwsError {
                kind: ErrorKind::Rejected,
                code: Some("InvalidGroup.NotFound".to_owned()),
                message: format!("the answer does not hold {group}"),
                ..AwsError::out_of_time(DESCRIBE_GROUPS)
            })
    }

    async fn interfaces(&self, group: &SecurityGroupId, deadline: &Deadline) -> Result<Vec<String>, AwsError> {
        let pages = self
            .client
            .describe_network_interfaces()
            .filters(group_filter(group))
            .into_paginator()
            .items()
            .send();
        let interfaces = call(DESCRIBE_INTERFACES, deadline, pages.collect::<Result<Vec<_>, _>>()).await?;
        // An interface without an id is an interface all the same.
        Ok(interfaces
            .into_iter()
            .map(|interface| {
                interface
                    .network_interface_id
                    .unwrap_or_else(|| "an interface without id".to_owned())
            })
            .collect())
    }

    /// With `dry_run` EC2 always answers with an error: `DryRunOperation` where the call would have gone through.
    async fn send(&self, step: &Step, dry_run: bool, deadline: &Deadline) -> Result<Change, AwsError> {
        match step {
            Step::AuthorizeIngress {
                group,
                rule,
                description,
            } => {
                let request = self
                    .client
                    .authorize_security_group_ingress()
                    .group_id(group.as_str())
                    .ip_permissions(permission(rule, Some(description)))
                    .dry_run(dry_run);
                call(AUTHORIZE, deadline, request.send()).await?;
                Ok(Change::Made)
            }
            Step::RevokeIngress { group, rule } => {
                let request = self
                    .client
                    .revoke_security_group_ingress()
                    .group_id(group.as_str())
                    .ip_permissions(permission(rule, None))
                    .dry_run(dry_run);
                let answer = call(REVOKE, deadline, request.send()).await?;
                // So answers a default VPC where other regions and VPCs fail with InvalidPermission.NotFound.
                Ok(if answer.unknown_ip_permissions().is_empty() {
                    Change::Made
                } else {
                    Change::AlreadySo
                })
            }
        }
    }
}

impl SecurityGroups for Ec2 {
    async fn state(
        &self,
        group: &SecurityGroupId,
        with_interfaces: bool,
        deadline: &Deadline,
    ) -> Result<GroupState, AwsError> {
        let interfaces = async {
            if with_interfaces {
                self.interfaces(group, deadline).await
            } else {
                Ok(Vec::new())
            }
        };
        let (described, rules, interfaces) =
            futures::join!(self.group(group, deadline), self.rules(group, deadline), interfaces);
        let described = described?;
        Ok(GroupState {
            id: group.clone(),
            name: described.group_name.unwrap_or_default(),
            vpc_id: described.vpc_id,
            owner_id: described.owner_id,
            tags: described
                .tags
                .unwrap_or_default()
                .into_iter()
                .filter_map(|tag| Some((tag.key?, tag.value?)))
                .collect(),
            rules: rules?,
            interfaces: interfaces?,
        })
    }

    async fn rules(
        &self,
        group: &SecurityGroupId,
        deadline: &Deadline,
    ) -> Result<BTreeMap<IngressRule, String>, AwsError> {
        let pages = self
            .client
            .describe_security_group_rules()
            .filters(group_filter(group))
            .into_paginator()
            .items()
            .send();
        let rules = call(DESCRIBE_RULES, deadline, pages.collect::<Result<Vec<_>, _>>()).await?;
        Ok(rules
            .iter()
            .filter_map(|rule| {
                let id = rule.security_group_rule_id().unwrap_or_default();
                Some((ingress_rule(rule)?, id.to_owned()))
            })
            .collect())
    }

    async fn apply(&self, step: &Step, deadline: &Deadline) -> Result<Change, AwsError> {
        match self.send(step, false, deadline).await {
            Err(error)
                if error.has_code("InvalidPermission.Duplicate") || error.has_code("InvalidPermission.NotFound") =>
            {
                Ok(Change::AlreadySo)
            }
            outcome => outcome,
        }
    }

    async fn ask(&self, step: &Step, deadline: &Deadline) -> Result<(), AwsError> {
        match self.send(step, true, deadline).await {
            Err(error) if !error.has_code("DryRunOperation") => Err(error),
            _ => Ok(()),
        }
    }
}

fn group_filter(group: &SecurityGroupId) -> Filter {
    Filter::builder().name("group-id").values(group.as_str()).build()
}

fn permission(rule: &IngressRule, description: Option<&str>) -> IpPermission {
    let source = rule.source().to_string();
    let (from, to) = match rule.ports() {
        Some((from, to)) => (Some(i32::from(from)), Some(i32::from(to))),
        None => (None, None),
    };
    let permission = IpPermission::builder()
        .ip_protocol(rule.protocol().as_str())
        .set_from_port(from)
        .set_to_port(to);
    let description = description.map(str::to_owned);
    match rule.source().network() {
        IpNet::V4(_) => permission.ip_ranges(IpRange::builder().cidr_ip(source).set_description(description).build()),
        IpNet::V6(_) => permission.ipv6_ranges(
            Ipv6Range::builder()
                .cidr_ipv6(source)
                .set_description(description)
                .build(),
        ),
    }
    .build()
}

/// The rule as a request could be about it; `None` for any other (egress, another group or a prefix list as source,
/// another protocol).
fn ingress_rule(rule: &SecurityGroupRule) -> Option<IngressRule> {
    if rule.is_egress() == Some(true) {
        return None;
    }
    let source: Target = rule.cidr_ipv4().or_else(|| rule.cidr_ipv6())?.parse().ok()?;
    let protocol = Protocol::from_name(rule.ip_protocol()?)?;
    let ports = match protocol {
        Protocol::All => (0, u16::MAX),
        Protocol::Tcp | Protocol::Udp => (
            u16::try_from(rule.from_port()?).ok()?,
            u16::try_from(rule.to_port()?).ok()?,
        ),
    };
    Some(IngressRule::new(source, protocol, ports))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_sdk_ec2::config::{BehaviorVersion, Credentials, Region};
    use aws_sdk_ec2::error::ErrorMetadata;
    use aws_sdk_ec2::operation::authorize_security_group_ingress::{
        AuthorizeSecurityGroupIngressError, AuthorizeSecurityGroupIngressOutput,
    };
    use aws_sdk_ec2::operation::describe_network_interfaces::DescribeNetworkInterfacesOutput;
    use aws_sdk_ec2::operation::describe_security_group_rules::DescribeSecurityGroupRulesOutput;
    use aws_sdk_ec2::operation::describe_security_groups::{DescribeSecurityGroupsError, DescribeSecurityGroupsOutput};
    use aws_sdk_ec2::operation::revoke_security_group_ingress::{
        RevokeSecurityGroupIngressError, RevokeSecurityGroupIngressOutput,
    };
    use aws_sdk_ec2::types::{NetworkInterface, Tag};
    use aws_smithy_mocks::{MockResponseInterceptor, Rule, RuleMode, create_mock_http_client, mock};

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
        Ec2::new(Client::from_conf(config))
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
        }
    }

    fn revoke() -> Step {
        Step::RevokeIngress {
            group: group(),
            rule: rule("203.0.113.7", Protocol::Tcp),
        }
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
        let state = ec2(&[&described(), &first, &second, &interfaces])
            .state(&group(), true, &deadline())
            .await
            .unwrap();
        assert_eq!(
            state,
            GroupState {
                id: group(),
                name: "blocklist".to_owned(),
                vpc_id: Some("vpc-1".to_owned()),
                owner_id: Some("111122223333".to_owned()),
                tags: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
                rules: BTreeMap::from([
                    (rule("203.0.113.7", Protocol::Tcp), "sgr-1".to_owned()),
                    (rule("2001:db8::/64", Protocol::All), "sgr-3".to_owned()),
                ]),
                interfaces: vec!["eni-1".to_owned(), "an interface without id".to_owned()],
            }
        );
    }

    #[tokio::test]
    async fn a_group_that_is_not_there_is_an_error() {
        let missing = mock!(Client::describe_security_groups)
            .then_error(|| DescribeSecurityGroupsError::generic(metadata("InvalidGroup.NotFound")));
        let empty =
            mock!(Client::describe_security_groups).then_output(|| DescribeSecurityGroupsOutput::builder().build());
        for describe in [&missing, &empty] {
            let error = ec2(&[describe, &no_rules()])
                .state(&group(), false, &deadline())
                .await
                .unwrap_err();
            assert!(error.has_code("InvalidGroup.NotFound"), "{error}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_no_empty_list() {
        let denied = mock!(Client::describe_network_interfaces).then_error(|| {
            aws_sdk_ec2::operation::describe_network_interfaces::DescribeNetworkInterfacesError::generic(metadata(
                "UnauthorizedOperation",
            ))
        });
        let error = ec2(&[&described(), &no_rules(), &denied])
            .state(&group(), true, &deadline())
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::AccessDenied);
        assert_eq!(error.action, DESCRIBE_INTERFACES);
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
