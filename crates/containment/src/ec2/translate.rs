//! Between EC2's types and those of the plan.

use aws_sdk_ec2::types::{
    IpPermission, IpRange, Ipv6Range, NetworkAcl, NetworkAclEntry, PortRange, RuleAction, SecurityGroup,
    SecurityGroupRule, Tag,
};
use containment_plan::audit::{Enrolled, Revoked};
use containment_plan::network_acl::{Effect, Entry, protocol_number};
use containment_plan::{self as plan, IngressRule, Protocol, RecordedRule, Target};
use ipnet::IpNet;

/// A rule as a permission, which is how EC2 takes rules.
pub(super) fn permission(rule: &IngressRule, description: Option<&str>) -> IpPermission {
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
pub(super) fn ingress_rule(rule: &SecurityGroupRule) -> Option<IngressRule> {
    if rule.is_egress() == Some(true) {
        return None;
    }
    let source = rule.cidr_ipv4().or_else(|| rule.cidr_ipv6())?;
    rule_of(source, rule.ip_protocol()?, rule.from_port(), rule.to_port())
}

fn rule_of(source: &str, protocol: &str, from: Option<i32>, to: Option<i32>) -> Option<IngressRule> {
    let source: Target = source.parse().ok()?;
    let protocol = Protocol::from_name(protocol)?;
    let ports = match protocol {
        Protocol::All => (0, u16::MAX),
        Protocol::Tcp | Protocol::Udp => (u16::try_from(from?).ok()?, u16::try_from(to?).ok()?),
    };
    Some(IngressRule::new(source, protocol, ports))
}

pub(super) fn recorded(rule: &SecurityGroupRule) -> RecordedRule {
    RecordedRule {
        id: rule.security_group_rule_id().unwrap_or_default().to_owned(),
        description: rule.description().unwrap_or_default().to_owned(),
        tags: tags(rule.tags()),
    }
}

pub(super) fn tags<M: FromIterator<(String, String)>>(tags: &[Tag]) -> M {
    tags.iter()
        .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned())))
        .collect()
}

/// Any ingress rule, for an audit.
pub(super) fn revocable(rule: &SecurityGroupRule) -> Option<Revoked> {
    if rule.is_egress() == Some(true) {
        return None;
    }
    let known = ingress_rule(rule);
    let text = known.map_or_else(
        || {
            let source = rule
                .cidr_ipv4()
                .or_else(|| rule.cidr_ipv6())
                .or_else(|| rule.prefix_list_id())
                .or_else(|| rule.referenced_group_info().and_then(|group| group.group_id()))
                .unwrap_or("an unknown source");
            format!("protocol {} from {source}", rule.ip_protocol().unwrap_or("unknown"))
        },
        |known| known.to_string(),
    );
    Some(Revoked {
        id: rule.security_group_rule_id()?.to_owned(),
        text,
        rule: known,
    })
}

/// Whether the group carries the rule.
pub(super) fn holds(group: &SecurityGroup, rule: &IngressRule) -> bool {
    group.ip_permissions().iter().any(|permission| {
        let v4 = permission.ip_ranges().iter().filter_map(IpRange::cidr_ip);
        let v6 = permission.ipv6_ranges().iter().filter_map(Ipv6Range::cidr_ipv6);
        v4.chain(v6).any(|source| {
            let protocol = permission.ip_protocol().unwrap_or_default();
            rule_of(source, protocol, permission.from_port(), permission.to_port()) == Some(*rule)
        })
    })
}

pub(super) fn enrolled(group: SecurityGroup) -> Option<Enrolled> {
    Some(Enrolled {
        id: group.group_id?.parse().ok()?,
        name: group.group_name.unwrap_or_default(),
        vpc_id: group.vpc_id.unwrap_or_default(),
        owner_id: group.owner_id,
    })
}

/// `None` where it has no id that can be used.
pub(super) fn network_acl(acl: &NetworkAcl) -> Option<plan::NetworkAcl> {
    Some(plan::NetworkAcl {
        id: acl.network_acl_id()?.parse().ok()?,
        has_subnet: !acl.associations().is_empty(),
        entries: acl
            .entries()
            .iter()
            .filter(|entry| entry.egress() != Some(true))
            .map(entry)
            .collect(),
    })
}

/// The number of no protocol: it is reserved (IANA, "Assigned Internet Protocol Numbers").
const NO_PROTOCOL: u8 = 255;

/// What cannot be read of an allow makes it an allow of everything, at the very front; of a deny, one of nothing.
fn entry(entry: &NetworkAclEntry) -> Entry {
    let is_deny = entry.rule_action() == Some(&RuleAction::Deny);
    let source = entry.cidr_block().or_else(|| entry.ipv6_cidr_block());
    let protocol = match entry.protocol() {
        Some("-1") => None,
        Some(text) => match (text.parse::<u8>(), Protocol::from_name(text)) {
            (Ok(number), _) => Some(number),
            (Err(_), Some(known)) => protocol_number(known),
            (Err(_), None) => is_deny.then_some(NO_PROTOCOL),
        },
        None => is_deny.then_some(NO_PROTOCOL),
    };
    let port = |port: Option<i32>| port.and_then(|port| u16::try_from(port).ok());
    Entry {
        number: entry
            .rule_number()
            .and_then(|number| u16::try_from(number).ok())
            .unwrap_or(if is_deny { u16::MAX } else { 0 }),
        effect: if is_deny { Effect::Deny } else { Effect::Allow },
        source: source.and_then(|block| block.parse().ok()),
        protocol,
        ports: entry
            .port_range()
            .and_then(|range| Some((port(range.from())?, port(range.to())?))),
    }
}

/// The protocol of an entry, which EC2 wants as a number, and its ports.
pub(super) fn entry_traffic(rule: &IngressRule) -> (String, Option<PortRange>) {
    let number = protocol_number(rule.protocol()).map_or("-1".to_owned(), |number| number.to_string());
    let ports = rule
        .ports()
        .map(|(from, to)| PortRange::builder().from(i32::from(from)).to(i32::from(to)).build());
    (number, ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl_entry(number: i32, action: RuleAction) -> aws_sdk_ec2::types::builders::NetworkAclEntryBuilder {
        NetworkAclEntry::builder()
            .rule_number(number)
            .rule_action(action)
            .egress(false)
    }

    #[test]
    fn entries_are_read_as_ec2_gives_them() {
        let all = acl_entry(100, RuleAction::Allow)
            .protocol("-1")
            .cidr_block("0.0.0.0/0")
            .build();
        assert_eq!(
            entry(&all),
            Entry {
                number: 100,
                effect: Effect::Allow,
                source: Some("0.0.0.0/0".parse().unwrap()),
                protocol: None,
                ports: None,
            }
        );
        let v6 = acl_entry(7, RuleAction::Deny)
            .protocol("6")
            .ipv6_cidr_block("2001:DB8::/64")
            .port_range(PortRange::builder().from(22).to(23).build())
            .build();
        assert_eq!(
            entry(&v6),
            Entry {
                number: 7,
                effect: Effect::Deny,
                source: Some("2001:db8::/64".parse().unwrap()),
                protocol: Some(6),
                ports: Some((22, 23)),
            }
        );
    }

    #[test]
    fn what_cannot_be_read_lets_through_rather_more_than_less() {
        let rule = IngressRule::new("203.0.113.7".parse().unwrap(), Protocol::All, (0, 0));
        let acl = |odd: NetworkAclEntry| plan::NetworkAcl {
            id: "acl-0123abcd".parse().unwrap(),
            has_subnet: true,
            entries: vec![entry(&odd)],
        };
        let allow = acl(acl_entry(-1, RuleAction::Allow)
            .protocol("odd")
            .cidr_block("odd")
            .build());
        assert_eq!(allow.first_allow(&rule), Some(0));
        let unknown = acl(acl_entry(5, RuleAction::from("audit")).build());
        assert_eq!(unknown.first_allow(&rule), Some(5));
        let deny = acl(acl_entry(5, RuleAction::Deny)
            .protocol("odd")
            .cidr_block("203.0.113.7/32")
            .build());
        assert_eq!(deny.denied_at(&rule, plan::network_acl::RuleNumbers::default()), None);
    }

    #[test]
    fn egress_entries_are_left_out() {
        let acl = NetworkAcl::builder()
            .network_acl_id("acl-0123abcd")
            .entries(acl_entry(1, RuleAction::Deny).egress(true).build())
            .entries(acl_entry(2, RuleAction::Deny).build())
            .build();
        let acl = network_acl(&acl).unwrap();
        assert_eq!(
            (acl.has_subnet, acl.entries.len(), acl.entries[0].number),
            (false, 1, 2)
        );
    }

    #[test]
    fn a_group_holds_a_rule_equal_in_every_part() {
        let range = |cidr: &str| IpRange::builder().cidr_ip(cidr).build();
        let group = SecurityGroup::builder()
            .ip_permissions(
                IpPermission::builder()
                    .ip_protocol("tcp")
                    .from_port(0)
                    .to_port(65535)
                    .ip_ranges(range("198.51.100.1/32"))
                    .ip_ranges(range("203.0.113.7/32"))
                    .ipv6_ranges(Ipv6Range::builder().cidr_ipv6("2001:DB8::/64").build())
                    .build(),
            )
            .build();
        let rule = |source: &str, protocol, ports| IngressRule::new(source.parse().unwrap(), protocol, ports);
        assert!(holds(&group, &rule("203.0.113.7", Protocol::Tcp, (0, 65535))));
        assert!(holds(&group, &rule("2001:db8::/64", Protocol::Tcp, (0, 65535))));
        assert!(!holds(&group, &rule("203.0.113.8", Protocol::Tcp, (0, 65535))));
        assert!(!holds(&group, &rule("203.0.113.7", Protocol::Tcp, (0, 1))));
        assert!(!holds(&group, &rule("203.0.113.7", Protocol::Udp, (0, 65535))));
    }

    #[test]
    fn any_ingress_rule_can_be_revoked_and_told() {
        let rule = SecurityGroupRule::builder()
            .security_group_rule_id("sgr-1")
            .ip_protocol("icmp");
        let text = |rule: SecurityGroupRule| revocable(&rule).map(|revoked| (revoked.text, revoked.rule.is_some()));
        assert_eq!(
            text(rule.clone().cidr_ipv4("203.0.113.7/32").build()),
            Some(("protocol icmp from 203.0.113.7/32".to_owned(), false))
        );
        assert_eq!(
            text(rule.clone().prefix_list_id("pl-1").build()),
            Some(("protocol icmp from pl-1".to_owned(), false))
        );
        assert_eq!(
            text(rule.clone().ip_protocol("-1").cidr_ipv4("203.0.113.7/32").build()),
            Some(("all protocols from 203.0.113.7/32".to_owned(), true))
        );
        assert_eq!(text(rule.is_egress(true).build()), None);
    }
}
