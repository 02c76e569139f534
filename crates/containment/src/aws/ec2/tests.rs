use std::time::Duration;

use actions::block::network_acl::Effect;
use actions::block::tags::RecordedRule;
use actions::block::{Terms, tags};
use actions::request::Notes;
use actions::{IngressRule, Protocol};
use aws_sdk_ec2::error::ErrorMetadata;
use aws_sdk_ec2::operation::authorize_security_group_ingress::{
    AuthorizeSecurityGroupIngressError, AuthorizeSecurityGroupIngressOutput,
};
use aws_sdk_ec2::operation::create_network_acl_entry::{CreateNetworkAclEntryError, CreateNetworkAclEntryOutput};
use aws_sdk_ec2::operation::create_tags::{CreateTagsError, CreateTagsOutput};
use aws_sdk_ec2::operation::delete_network_acl_entry::{DeleteNetworkAclEntryError, DeleteNetworkAclEntryOutput};
use aws_sdk_ec2::operation::describe_network_acls::{DescribeNetworkAclsError, DescribeNetworkAclsOutput};
use aws_sdk_ec2::operation::describe_network_interfaces::{
    DescribeNetworkInterfacesError, DescribeNetworkInterfacesOutput,
};
use aws_sdk_ec2::operation::describe_security_group_rules::{
    DescribeSecurityGroupRulesError, DescribeSecurityGroupRulesOutput,
};
use aws_sdk_ec2::operation::describe_security_groups::{DescribeSecurityGroupsError, DescribeSecurityGroupsOutput};
use aws_sdk_ec2::operation::describe_vpcs::DescribeVpcsOutput;
use aws_sdk_ec2::operation::revoke_security_group_ingress::{
    RevokeSecurityGroupIngressError, RevokeSecurityGroupIngressOutput,
};
use aws_sdk_ec2::types::{
    GroupIdentifier, IpPermission, NetworkAclAssociation, NetworkAclEntry, NetworkInterfaceAssociation,
    NetworkInterfaceIpv6Address, NetworkInterfacePrivateIpAddress, VpcCidrBlockAssociation,
    VpcIpv6CidrBlockAssociation,
};
use aws_smithy_mocks::{Rule, mock};

use super::*;
use crate::testing::mock_client;

/// EC2 as these rules answer, with the SDK's own retries.
fn ec2(rules: &[&Rule]) -> Ec2 {
    Ec2::new(mock_client!(aws_sdk_ec2, rules))
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_mins(1))
}

fn group() -> SecurityGroupId {
    "sg-0123abcd".parse().unwrap()
}

fn other_group() -> SecurityGroupId {
    "sg-0123abce".parse().unwrap()
}

fn rule(source: &str, protocol: Protocol) -> IngressRule {
    IngressRule::new(source.parse().unwrap(), protocol, (0, 65535))
}

fn tcp() -> IngressRule {
    rule("203.0.113.7", Protocol::Tcp)
}

fn record_tags() -> RecordTags {
    RecordTags::of(&Terms {
        request_id: "r-1".to_owned(),
        requested_by: Some("ana".to_owned()),
        notes: Notes::default(),
        network_acl_ids: None,
        expires_at: None,
    })
}

fn authorize(rule: IngressRule) -> Step {
    Step::Authorize {
        group: group(),
        rule,
        description: "why".to_owned(),
        tags: record_tags(),
    }
}

fn revoke() -> Step {
    Step::Revoke {
        group: group(),
        rule: tcp(),
    }
}

fn retag() -> Step {
    Step::Retag {
        rule_id: "sgr-1".to_owned(),
        tags: record_tags(),
    }
}

fn entry(rule: IngressRule) -> DenyEntry {
    DenyEntry {
        acl: "acl-0123abcd".parse().unwrap(),
        number: 7,
        rule,
    }
}

fn add() -> Step {
    Step::AddDeny(entry(tcp()))
}

fn remove() -> Step {
    Step::RemoveDeny(entry(tcp()))
}

fn read(purpose: Purpose) -> Read {
    Read {
        group: group(),
        rule: tcp(),
        vpc_id: None,
        purpose,
        network_acls_if_allowed: false,
    }
}

fn decide() -> Read {
    read(Purpose::Decide("203.0.113.7".parse().unwrap()))
}

fn metadata(code: &str) -> ErrorMetadata {
    ErrorMetadata::builder().code(code).message("said so").build()
}

fn has_filter(filters: &[Filter], name: &str, values: &[&str]) -> bool {
    filters.len() == 1 && filters[0].name() == Some(name) && filters[0].values() == values
}

fn security_group(id: &str) -> SecurityGroup {
    SecurityGroup::builder()
        .group_id(id)
        .group_name("blocklist")
        .vpc_id("vpc-1")
        .owner_id("111122223333")
        .tags(Tag::builder().key("a").value("b").build())
        .build()
}

fn described() -> Rule {
    mock!(Client::describe_security_groups)
        .match_requests(|r| has_filter(r.filters(), "group-id", &["sg-0123abcd"]) && r.group_ids().is_empty())
        .then_output(|| {
            DescribeSecurityGroupsOutput::builder()
                .security_groups(security_group("sg-0123abcd"))
                .build()
        })
}

fn no_groups() -> Rule {
    mock!(Client::describe_security_groups).then_output(|| DescribeSecurityGroupsOutput::builder().build())
}

fn no_rules() -> Rule {
    mock!(Client::describe_security_group_rules).then_output(|| DescribeSecurityGroupRulesOutput::builder().build())
}

fn no_interfaces() -> Rule {
    mock!(Client::describe_network_interfaces).then_output(|| DescribeNetworkInterfacesOutput::builder().build())
}

fn vpcs(id: &'static str) -> Rule {
    mock!(Client::describe_vpcs).then_output(move || {
        let vpc = Vpc::builder()
            .vpc_id(id)
            .cidr_block("10.0.0.0/16")
            .cidr_block_association_set(VpcCidrBlockAssociation::builder().cidr_block("10.9.0.0/16").build())
            .ipv6_cidr_block_association_set(
                VpcIpv6CidrBlockAssociation::builder()
                    .ipv6_cidr_block("2001:db8:1::/56")
                    .build(),
            )
            .build();
        DescribeVpcsOutput::builder().vpcs(vpc).build()
    })
}

fn acl(id: &str, vpc: &str) -> aws_sdk_ec2::types::NetworkAcl {
    aws_sdk_ec2::types::NetworkAcl::builder()
        .network_acl_id(id)
        .vpc_id(vpc)
        .owner_id("111122223333")
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

/// The ACLs of the whole region, of two VPCs.
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

/// The ACLs of one VPC, if they are asked for.
fn acls_of_vpc() -> Rule {
    mock!(Client::describe_network_acls)
        .match_requests(|r| has_filter(r.filters(), "vpc-id", &["vpc-1"]))
        .then_output(|| {
            DescribeNetworkAclsOutput::builder()
                .network_acls(acl("acl-0123abcd", "vpc-1"))
                .build()
        })
}

fn interface(id: &str, groups: &[&str]) -> NetworkInterface {
    let groups = groups
        .iter()
        .map(|group| GroupIdentifier::builder().group_id(*group).build());
    NetworkInterface::builder()
        .network_interface_id(id)
        .set_groups(Some(groups.collect()))
        .build()
}

// ---- reads -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_block_is_read_from_every_page_and_by_filters() {
    let listed = |id: &str, cidr: &str| {
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
        .match_requests(|r| r.next_token().is_none() && has_filter(r.filters(), "group-id", &["sg-0123abcd"]))
        .then_output(move || {
            DescribeSecurityGroupRulesOutput::builder()
                .security_group_rules(listed("sgr-1", "203.0.113.8/32"))
                .next_token("2")
                .build()
        });
    let second = mock!(Client::describe_security_group_rules)
        .match_requests(|r| r.next_token() == Some("2"))
        .then_output(move || {
            DescribeSecurityGroupRulesOutput::builder()
                .security_group_rules(listed("sgr-2", "203.0.113.7/32"))
                .build()
        });
    let attached = mock!(Client::describe_network_interfaces)
        .match_requests(|r| has_filter(r.filters(), "group-id", &["sg-0123abcd"]))
        .then_output(|| {
            DescribeNetworkInterfacesOutput::builder()
                .network_interfaces(interface("eni-1", &[]))
                .network_interfaces(NetworkInterface::builder().build())
                .build()
        });
    let own = mock!(Client::describe_network_interfaces)
        .match_requests(|r| has_filter(r.filters(), "addresses.association.public-ip", &["203.0.113.7"]))
        .then_output(|| DescribeNetworkInterfacesOutput::builder().build());
    let view = ec2(&[&described(), &first, &second, &attached, &own, &vpcs("vpc-1"), &acls()])
        .read(&decide(), &deadline())
        .await
        .unwrap();
    let recorded = RecordedRule {
        id: "sgr-2".to_owned(),
        description: "why".to_owned(),
        tags: [(tags::REQUEST_ID.to_owned(), "r-1".to_owned())].into(),
    };
    assert_eq!(view.seen.rule, Some(recorded));
    assert_eq!(
        view.seen.group.unwrap(),
        Group {
            id: group(),
            name: "blocklist".to_owned(),
            vpc_id: "vpc-1".to_owned(),
            owner_id: Some("111122223333".to_owned()),
            tags: [("a".to_owned(), "b".to_owned())].into(),
            interfaces: ["an interface without id", "eni-1"].map(str::to_owned).into(),
        }
    );
    let cidrs: Vec<String> = view.vpc_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(cidrs, ["10.0.0.0/16", "10.9.0.0/16", "2001:db8:1::/56"]);
    assert_eq!(view.own_addresses, []);
    let acls = view.seen.network_acls.unwrap();
    assert_eq!(acls.len(), 1, "that of another VPC is none of it");
    assert!(acls[0].has_subnet && acls[0].entries[0].effect == Effect::Allow);
    assert_eq!(acls[0].owner_id.as_deref(), Some("111122223333"));
}

#[tokio::test]
async fn the_acls_of_a_known_vpc_are_read_alone() {
    let (all, of_vpc) = (acls(), acls_of_vpc());
    let (described, rules, interfaces, vpcs) = (described(), no_rules(), no_interfaces(), vpcs("vpc-1"));
    let ec2 = ec2(&[&described, &rules, &interfaces, &vpcs, &all, &of_vpc]);
    ec2.read(&decide(), &deadline()).await.unwrap();
    assert_eq!((all.num_calls(), of_vpc.num_calls()), (1, 0));
    // WHEN the group was seen before
    ec2.read(&decide(), &deadline()).await.unwrap();
    assert_eq!((all.num_calls(), of_vpc.num_calls()), (1, 1));
    let interfaces_before = interfaces.num_calls();
    // WHEN a change is read back: what must not be blocked is not read
    ec2.read(&read(Purpose::Stand), &deadline()).await.unwrap();
    assert_eq!(interfaces.num_calls(), interfaces_before + 1, "what it is attached to");
    assert_eq!(vpcs.num_calls(), 2);
    // WHEN a lift is read back: nor what it is attached to
    ec2.read(&read(Purpose::Lift), &deadline()).await.unwrap();
    assert_eq!(interfaces.num_calls(), interfaces_before + 1);
    assert_eq!((all.num_calls(), of_vpc.num_calls()), (1, 3));
}

#[tokio::test]
async fn a_deleted_group_is_none_and_its_blocks_vpc_is_read_all_the_same() {
    let gone = Read {
        vpc_id: Some("vpc-1".to_owned()),
        ..read(Purpose::Lift)
    };
    let view = ec2(&[&no_groups(), &no_rules(), &acls_of_vpc()])
        .read(&gone, &deadline())
        .await
        .unwrap();
    assert_eq!((view.seen.group, view.seen.rule), (None, None));
    assert_eq!(view.seen.network_acls.unwrap().len(), 1);
    // Of one that nobody knows there is no VPC.
    let view = ec2(&[&no_groups(), &no_rules(), &no_interfaces(), &vpcs("vpc-1"), &acls()])
        .read(&decide(), &deadline())
        .await
        .unwrap();
    assert_eq!(view.seen.group, None);
    assert!(view.vpc_cidrs.is_empty());
}

#[tokio::test]
async fn the_accounts_own_addresses_within_the_target_are_found() {
    let own = mock!(Client::describe_network_interfaces)
        .match_requests(|r| has_filter(r.filters(), "addresses.association.public-ip", &["203.0.113.*"]))
        .then_output(|| {
            let elastic = |address: &str| NetworkInterfaceAssociation::builder().public_ip(address).build();
            let second = NetworkInterfacePrivateIpAddress::builder().association(elastic("203.0.113.130"));
            DescribeNetworkInterfacesOutput::builder()
                .network_interfaces(
                    NetworkInterface::builder()
                        .network_interface_id("eni-nat")
                        .association(elastic("203.0.113.3"))
                        .private_ip_addresses(second.build())
                        .build(),
                )
                .build()
        });
    let attached = mock!(Client::describe_network_interfaces)
        .match_requests(|r| has_filter(r.filters(), "group-id", &["sg-0123abcd"]))
        .then_output(|| DescribeNetworkInterfacesOutput::builder().build());
    let request = read(Purpose::Decide("203.0.113.128/25".parse().unwrap()));
    let view = ec2(&[&described(), &no_rules(), &attached, &own, &vpcs("vpc-1"), &acls()])
        .read(&request, &deadline())
        .await
        .unwrap();
    let found = [("203.0.113.130".parse().unwrap(), "eni-nat".to_owned())];
    assert_eq!(view.own_addresses, found, "the filter finds more than the target");

    let own = mock!(Client::describe_network_interfaces)
        .match_requests(|r| has_filter(r.filters(), "ipv6-addresses.ipv6-address", &["2001:db8:9:*"]))
        .then_output(|| {
            let address = NetworkInterfaceIpv6Address::builder().ipv6_address("2001:db8:9::9");
            DescribeNetworkInterfacesOutput::builder()
                .network_interfaces(
                    NetworkInterface::builder()
                        .network_interface_id("eni-v6")
                        .ipv6_addresses(address.build())
                        .build(),
                )
                .build()
        });
    let request = read(Purpose::Decide("2001:db8:9::/64".parse().unwrap()));
    let view = ec2(&[&described(), &no_rules(), &attached, &own, &vpcs("vpc-1"), &acls()])
        .read(&request, &deadline())
        .await
        .unwrap();
    assert_eq!(
        view.own_addresses,
        [("2001:db8:9::9".parse().unwrap(), "eni-v6".to_owned())]
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_no_empty_list() {
    let (good_groups, good_rules, good_interfaces) = (described(), no_rules(), no_interfaces());
    let (good_vpcs, good_acls) = (vpcs("vpc-1"), acls());
    let groups = mock!(Client::describe_security_groups)
        .then_error(|| DescribeSecurityGroupsError::generic(metadata("UnauthorizedOperation")));
    let rules = mock!(Client::describe_security_group_rules)
        .then_error(|| DescribeSecurityGroupRulesError::generic(metadata("UnauthorizedOperation")));
    let interfaces = mock!(Client::describe_network_interfaces)
        .then_error(|| DescribeNetworkInterfacesError::generic(metadata("UnauthorizedOperation")));
    let acls = mock!(Client::describe_network_acls)
        .then_error(|| DescribeNetworkAclsError::generic(metadata("UnauthorizedOperation")));
    let other_vpc = vpcs("vpc-2");
    let good = [&good_groups, &good_rules, &good_interfaces, &good_vpcs, &good_acls];
    for (position, bad, action) in [
        (0, &groups, DESCRIBE_GROUPS),
        (1, &rules, DESCRIBE_RULES),
        (2, &interfaces, DESCRIBE_INTERFACES),
        (3, &other_vpc, DESCRIBE_VPCS),
        (4, &acls, DESCRIBE_ACLS),
    ] {
        let mut all = good;
        all[position] = bad;
        let error = ec2(&all).read(&decide(), &deadline()).await.unwrap_err();
        assert_eq!(error.action, action);
    }
    // Only who needs no network ACL gets along without them.
    let if_allowed = Read {
        network_acls_if_allowed: true,
        ..read(Purpose::Lift)
    };
    let view = ec2(&[&good_groups, &good_rules, &acls])
        .read(&if_allowed, &deadline())
        .await
        .unwrap();
    assert_eq!(view.seen.network_acls, None);
    let throttled = mock!(Client::describe_network_acls)
        .then_error(|| DescribeNetworkAclsError::generic(metadata("RequestLimitExceeded")));
    let read = ec2(&[&good_groups, &good_rules, &throttled])
        .read(&if_allowed, &deadline())
        .await;
    assert_eq!(read.unwrap_err().kind, ErrorKind::Throttled, "that passes");
}

#[tokio::test]
async fn a_survey_reads_enrolled_lists_and_those_named() {
    let tag: policy::Tag = "aisoc:containment=blocklist".parse().unwrap();
    let enrolled = mock!(Client::describe_security_groups)
        .match_requests(|r| has_filter(r.filters(), "tag:aisoc:containment", &["blocklist"]))
        .then_output(|| {
            DescribeSecurityGroupsOutput::builder()
                .security_groups(security_group("sg-0123abcd"))
                .build()
        });
    // Of two that the table names, one was deleted.
    let named = mock!(Client::describe_security_groups)
        .match_requests(|r| has_filter(r.filters(), "group-id", &["sg-0123abce", "sg-0123abcf"]))
        .then_output(|| {
            DescribeSecurityGroupsOutput::builder()
                .security_groups(security_group("sg-0123abce"))
                .build()
        });
    let both = |filters: &[Filter]| has_filter(filters, "group-id", &["sg-0123abcd", "sg-0123abce"]);
    let rules = mock!(Client::describe_security_group_rules)
        .match_requests(move |r| both(r.filters()))
        .then_output(|| {
            let rule = SecurityGroupRule::builder()
                .group_id("sg-0123abcd")
                .ip_protocol("tcp")
                .from_port(0)
                .to_port(65535)
                .cidr_ipv4("203.0.113.7/32");
            DescribeSecurityGroupRulesOutput::builder()
                .security_group_rules(rule.clone().security_group_rule_id("sgr-1").is_egress(false).build())
                .security_group_rules(rule.security_group_rule_id("sgr-2").is_egress(true).build())
                .build()
        });
    let attached = mock!(Client::describe_network_interfaces)
        .match_requests(move |r| both(r.filters()))
        .then_output(|| {
            DescribeNetworkInterfacesOutput::builder()
                .network_interfaces(interface("eni-1", &["sg-0123abce", "sg-99999999"]))
                .build()
        });
    let groups = [other_group(), "sg-0123abcf".parse().unwrap()];
    let survey = ec2(&[&enrolled, &named, &rules, &attached, &acls()])
        .survey(&tag, &groups, &deadline())
        .await
        .unwrap();
    assert_eq!(survey.groups.len(), 2);
    assert!(survey.groups[&group()].interfaces.is_empty());
    assert_eq!(survey.groups[&other_group()].interfaces, ["eni-1".to_owned()].into());
    assert_eq!(survey.rules.len(), 1);
    assert_eq!(
        (survey.rules[&group()].len(), survey.rules[&group()][0].rule),
        (1, Some(tcp()))
    );
    assert_eq!(survey.network_acls.keys().collect::<Vec<_>>(), ["vpc-1", "vpc-2"]);
}

#[tokio::test]
async fn more_groups_than_a_filter_takes_are_read_in_parts() {
    let tag: policy::Tag = "a=b".parse().unwrap();
    let ids: Vec<SecurityGroupId> = (0..201).map(|n| format!("sg-{n:08x}").parse().unwrap()).collect();
    let of = |count: usize| {
        mock!(Client::describe_security_groups)
            .match_requests(move |r| {
                r.filters()[0].values().len() == count && r.filters()[0].name() == Some("group-id")
            })
            .then_output(|| DescribeSecurityGroupsOutput::builder().build())
    };
    let (most, rest) = (of(200), of(1));
    let enrolled = mock!(Client::describe_security_groups)
        .match_requests(|r| has_filter(r.filters(), "tag:a", &["b"]))
        .then_output(|| DescribeSecurityGroupsOutput::builder().build());
    let survey = ec2(&[&enrolled, &most, &rest, &acls()])
        .survey(&tag, &ids, &deadline())
        .await;
    assert!(survey.unwrap().groups.is_empty());
    assert_eq!((most.num_calls(), rest.num_calls()), (1, 1));
}

// ---- changes ---------------------------------------------------------------------------------------------------

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
    let change = ec2(&[&v4]).apply(&authorize(tcp()), &deadline()).await;
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
        .apply(&authorize(rule("2001:db8::7", Protocol::All)), &deadline())
        .await;
    assert_eq!(change.unwrap(), Change::Made);
}

#[tokio::test]
async fn what_is_already_so_is_success() {
    let duplicate = mock!(Client::authorize_security_group_ingress)
        .then_error(|| AuthorizeSecurityGroupIngressError::generic(metadata("InvalidPermission.Duplicate")));
    let not_found = mock!(Client::revoke_security_group_ingress)
        .then_error(|| RevokeSecurityGroupIngressError::generic(metadata("InvalidPermission.NotFound")));
    let unknown = mock!(Client::revoke_security_group_ingress).then_output(|| {
        RevokeSecurityGroupIngressOutput::builder()
            .r#return(true)
            .unknown_ip_permissions(IpPermission::builder().build())
            .build()
    });
    let taken = mock!(Client::create_network_acl_entry)
        .then_error(|| CreateNetworkAclEntryError::generic(metadata("NetworkAclEntryAlreadyExists")));
    let gone = mock!(Client::delete_network_acl_entry)
        .then_error(|| DeleteNetworkAclEntryError::generic(metadata("InvalidNetworkAclEntry.NotFound")));
    let acl_gone = mock!(Client::delete_network_acl_entry)
        .then_error(|| DeleteNetworkAclEntryError::generic(metadata("InvalidNetworkAclID.NotFound")));
    let no_rule = mock!(Client::create_tags)
        .then_error(|| CreateTagsError::generic(metadata("InvalidSecurityGroupRuleId.NotFound")));
    for (answer, step) in [
        (&duplicate, authorize(tcp())),
        (&not_found, revoke()),
        (&unknown, revoke()),
        (&taken, add()),
        (&gone, remove()),
        (&acl_gone, remove()),
        (&no_rule, retag()),
    ] {
        let change = ec2(&[answer]).apply(&step, &deadline()).await;
        assert_eq!(change.unwrap(), Change::AlreadySo, "{step}");
    }
    // The same code at another call means something else.
    let odd = mock!(Client::create_network_acl_entry)
        .then_error(|| CreateNetworkAclEntryError::generic(metadata("InvalidNetworkAclID.NotFound")));
    assert!(ec2(&[&odd]).apply(&add(), &deadline()).await.is_err());
}

#[tokio::test]
async fn entries_are_written_as_ec2_wants_them() {
    let tcp_entry = mock!(Client::create_network_acl_entry)
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
    assert_eq!(
        ec2(&[&tcp_entry]).apply(&add(), &deadline()).await.unwrap(),
        Change::Made
    );
    let all = mock!(Client::create_network_acl_entry)
        .match_requests(|r| {
            r.protocol() == Some("-1")
                && r.port_range().is_none()
                && r.cidr_block().is_none()
                && r.ipv6_cidr_block() == Some("2001:db8::/64")
        })
        .then_output(|| CreateNetworkAclEntryOutput::builder().build());
    let step = Step::AddDeny(entry(rule("2001:db8::/64", Protocol::All)));
    assert_eq!(ec2(&[&all]).apply(&step, &deadline()).await.unwrap(), Change::Made);
    let delete = mock!(Client::delete_network_acl_entry)
        .match_requests(|r| {
            r.network_acl_id() == Some("acl-0123abcd")
                && r.rule_number() == Some(7)
                && r.egress() == Some(false)
                && r.dry_run() == Some(false)
        })
        .then_output(|| DeleteNetworkAclEntryOutput::builder().build());
    assert_eq!(
        ec2(&[&delete]).apply(&remove(), &deadline()).await.unwrap(),
        Change::Made
    );
    let tag = mock!(Client::create_tags)
        .match_requests(|r| r.resources() == ["sgr-1"] && r.tags().len() == 3)
        .then_output(|| CreateTagsOutput::builder().build());
    assert_eq!(ec2(&[&tag]).apply(&retag(), &deadline()).await.unwrap(), Change::Made);
    let revoked = mock!(Client::revoke_security_group_ingress)
        .match_requests(|r| {
            r.group_id() == Some("sg-0123abcd")
                && r.ip_permissions()[0].ip_ranges()[0].cidr_ip() == Some("203.0.113.7/32")
                && r.ip_permissions()[0].ip_ranges()[0].description().is_none()
        })
        .then_output(|| RevokeSecurityGroupIngressOutput::builder().build());
    assert_eq!(
        ec2(&[&revoked]).apply(&revoke(), &deadline()).await.unwrap(),
        Change::Made
    );
}

#[tokio::test(start_paused = true)]
async fn a_deletion_whose_answer_was_lost_is_not_repeated() {
    let lost = mock!(Client::delete_network_acl_entry)
        .sequence()
        .http_status(503, None)
        .output(|| DeleteNetworkAclEntryOutput::builder().build())
        .build();
    let error = ec2(&[&lost]).apply(&remove(), &deadline()).await.unwrap_err();
    assert_eq!((error.kind, lost.num_calls()), (ErrorKind::Unreachable, 1));
    // Other calls are repeated by the SDK.
    let lost = mock!(Client::create_network_acl_entry)
        .sequence()
        .http_status(503, None)
        .output(|| CreateNetworkAclEntryOutput::builder().build())
        .build();
    assert_eq!(ec2(&[&lost]).apply(&add(), &deadline()).await.unwrap(), Change::Made);
    assert_eq!(lost.num_calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_is_throttled_is_repeated() {
    let throttled = || DeleteNetworkAclEntryError::generic(metadata("RequestLimitExceeded"));
    let passes = mock!(Client::delete_network_acl_entry)
        .sequence()
        .error(throttled)
        .times(3)
        .output(|| DeleteNetworkAclEntryOutput::builder().build())
        .build();
    assert_eq!(
        ec2(&[&passes]).apply(&remove(), &deadline()).await.unwrap(),
        Change::Made
    );
    assert_eq!(passes.num_calls(), 4);
    let lasts = mock!(Client::delete_network_acl_entry)
        .sequence()
        .error(throttled)
        .times(4)
        .output(|| DeleteNetworkAclEntryOutput::builder().build())
        .build();
    let error = ec2(&[&lasts]).apply(&remove(), &deadline()).await.unwrap_err();
    assert_eq!((error.kind, lasts.num_calls()), (ErrorKind::Throttled, 4));
}

#[tokio::test]
async fn other_errors_stay_errors() {
    for code in [
        "RulesPerSecurityGroupLimitExceeded",
        "UnauthorizedOperation",
        "InvalidGroup.NotFound",
    ] {
        let refused = mock!(Client::authorize_security_group_ingress)
            .then_error(move || AuthorizeSecurityGroupIngressError::generic(metadata(code)));
        let error = ec2(&[&refused])
            .apply(&authorize(tcp()), &deadline())
            .await
            .unwrap_err();
        assert!(error.has_code(code));
    }
    let full = mock!(Client::create_network_acl_entry)
        .then_error(|| CreateNetworkAclEntryError::generic(metadata(ENTRY_LIMIT)));
    let error = ec2(&[&full]).apply(&add(), &deadline()).await.unwrap_err();
    assert!(error.has_code(ENTRY_LIMIT) && !error.is_retryable());
}

#[tokio::test]
async fn a_dry_run_asks_ec2_and_changes_nothing() {
    let allowed = mock!(Client::authorize_security_group_ingress)
        .match_requests(|r| r.dry_run() == Some(true))
        .then_error(|| AuthorizeSecurityGroupIngressError::generic(metadata("DryRunOperation")));
    ec2(&[&allowed]).dry_run(&authorize(tcp()), &deadline()).await.unwrap();
    let removal = mock!(Client::delete_network_acl_entry)
        .match_requests(|r| r.dry_run() == Some(true))
        .then_error(|| DeleteNetworkAclEntryError::generic(metadata("DryRunOperation")));
    ec2(&[&removal]).dry_run(&remove(), &deadline()).await.unwrap();
    let denied = mock!(Client::revoke_security_group_ingress)
        .match_requests(|r| r.dry_run() == Some(true))
        .then_error(|| RevokeSecurityGroupIngressError::generic(metadata("UnauthorizedOperation")));
    let error = ec2(&[&denied]).dry_run(&revoke(), &deadline()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::AccessDenied);
}

#[tokio::test]
async fn rules_of_an_attached_list_are_revoked_at_once_and_one_by_one_where_one_is_gone() {
    let ids = ["sgr-1".to_owned(), "sgr-2".to_owned()];
    let at_once = mock!(Client::revoke_security_group_ingress)
        .match_requests(|r| r.group_id() == Some("sg-0123abcd") && r.security_group_rule_ids() == ["sgr-1", "sgr-2"])
        .then_output(|| RevokeSecurityGroupIngressOutput::builder().build());
    let revoked = ec2(&[&at_once])
        .revoke_rules(&group(), &ids, &deadline())
        .await
        .unwrap();
    assert_eq!((revoked.as_slice(), at_once.num_calls()), (ids.as_slice(), 1));

    let none = mock!(Client::revoke_security_group_ingress)
        .match_requests(|r| r.security_group_rule_ids().len() == 2)
        .then_error(|| RevokeSecurityGroupIngressError::generic(metadata("InvalidSecurityGroupRuleId.NotFound")));
    let gone = mock!(Client::revoke_security_group_ingress)
        .match_requests(|r| r.security_group_rule_ids() == ["sgr-1"])
        .then_error(|| RevokeSecurityGroupIngressError::generic(metadata("InvalidSecurityGroupRuleId.NotFound")));
    let left = mock!(Client::revoke_security_group_ingress)
        .match_requests(|r| r.security_group_rule_ids() == ["sgr-2"])
        .then_output(|| RevokeSecurityGroupIngressOutput::builder().build());
    let revoked = ec2(&[&none, &gone, &left])
        .revoke_rules(&group(), &ids, &deadline())
        .await;
    assert_eq!(revoked.unwrap(), ["sgr-2"]);

    let denied = mock!(Client::revoke_security_group_ingress)
        .match_requests(|r| r.security_group_rule_ids() == ["sgr-2"])
        .then_error(|| RevokeSecurityGroupIngressError::generic(metadata("UnauthorizedOperation")));
    let error = ec2(&[&none, &gone, &denied])
        .revoke_rules(&group(), &ids, &deadline())
        .await;
    assert_eq!(error.unwrap_err().kind, ErrorKind::AccessDenied);
    assert!(
        ec2(&[&denied])
            .revoke_rules(&group(), &ids[1..], &deadline())
            .await
            .is_err()
    );
}
