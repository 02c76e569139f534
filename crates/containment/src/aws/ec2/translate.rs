//! Between EC2's types and those of `actions`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use actions::block::Group;
use actions::block::network_acl::{Effect, Entry, protocol_number};
use actions::block::tags::RecordedRule;
use actions::{IngressRule, Protocol, Target};
use aws_sdk_ec2::types::{
    Filter, IpPermission, IpRange, Ipv6Range, NetworkAcl, NetworkAclEntry, NetworkInterface, PortRange, RuleAction,
    SecurityGroup, SecurityGroupRule, Tag,
};
use ipnet::IpNet;

use super::filter;
use crate::ports::ListRule;

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
pub(super) fn list_rule(rule: &SecurityGroupRule) -> Option<ListRule> {
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
    rule.security_group_rule_id()?;
    Some(ListRule {
        text,
        rule: known,
        recorded: recorded(rule),
    })
}

/// Without what it is attached to.
pub(super) fn group(group: SecurityGroup) -> Option<Group> {
    Some(Group {
        id: group.group_id?.parse().ok()?,
        name: group.group_name.unwrap_or_default(),
        vpc_id: group.vpc_id?,
        owner_id: group.owner_id,
        tags: tags(group.tags.as_deref().unwrap_or_default()),
        interfaces: BTreeSet::new(),
    })
}

/// An interface without an id is an interface all the same.
pub(super) fn interface_id(interface: &NetworkInterface) -> &str {
    interface.network_interface_id().unwrap_or("an interface without id")
}

/// Finds network interfaces with a public address within the target, and perhaps others: values of filters are texts, in
/// which `*` stands for any.
pub(super) fn within(target: Target) -> Filter {
    let network = target.network();
    let address = network.addr().to_string();
    let is_single = network.prefix_len() == network.max_prefix_len();
    match network {
        IpNet::V4(_) => {
            let start = address.rfind('.').map_or("", |end| &address[..=end]);
            let value = if is_single {
                address.clone()
            } else {
                format!("{start}*")
            };
            filter("addresses.association.public-ip", [value.as_str()])
        }
        IpNet::V6(v6) => {
            // The text of an address drops its longest run of zeroes: only the groups before the first zero are sure.
            let groups: Vec<String> = v6
                .addr()
                .segments()
                .iter()
                .take(usize::from(v6.prefix_len() / 16))
                .take_while(|group| **group != 0)
                .map(|group| format!("{group:x}:"))
                .collect();
            let value = if is_single {
                address
            } else {
                format!("{}*", groups.concat())
            };
            filter("ipv6-addresses.ipv6-address", [value.as_str()])
        }
    }
}

/// The public addresses of an interface. IPv6 addresses are public unless they are unique local (RFC 4193), which are
/// never blocked without `ALLOW_PRIVATE_TARGETS`.
pub(super) fn public_addresses(interface: &NetworkInterface) -> impl Iterator<Item = IpAddr> {
    let own = interface.association().and_then(|association| association.public_ip());
    let others = interface
        .private_ip_addresses()
        .iter()
        .filter_map(|address| address.association()?.public_ip());
    let v6 = interface
        .ipv6_addresses()
        .iter()
        .filter_map(|address| address.ipv6_address());
    own.into_iter()
        .chain(others)
        .chain(v6)
        .filter_map(|address| address.parse().ok())
}

/// `None` where it has no id that can be used.
pub(super) fn network_acl(acl: &NetworkAcl) -> Option<actions::NetworkAcl> {
    Some(actions::NetworkAcl {
        id: acl.network_acl_id()?.parse().ok()?,
        has_subnet: !acl.associations().is_empty(),
        owner_id: acl.owner_id().map(str::to_owned),
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
        let acl = |odd: NetworkAclEntry| actions::NetworkAcl {
            id: "acl-0123abcd".parse().unwrap(),
            has_subnet: true,
            owner_id: None,
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
        assert!(!deny.denies_at(5, &rule));
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
    fn own_addresses_are_looked_for_by_texts_that_miss_none() {
        for (target, name, value) in [
            ("203.0.113.7", "addresses.association.public-ip", "203.0.113.7"),
            ("203.0.113.0/25", "addresses.association.public-ip", "203.0.113.*"),
            ("2001:db8::7", "ipv6-addresses.ipv6-address", "2001:db8::7"),
            ("2001:db8:1:2::/64", "ipv6-addresses.ipv6-address", "2001:db8:1:2:*"),
            ("2001:db8:1:2::/120", "ipv6-addresses.ipv6-address", "2001:db8:1:2:*"),
            ("2001:db8:0:2::/64", "ipv6-addresses.ipv6-address", "2001:db8:*"),
            (
                "2001:db8:1:2:3:4:5:0/112",
                "ipv6-addresses.ipv6-address",
                "2001:db8:1:2:3:4:5:*",
            ),
        ] {
            let filter = within(target.parse().unwrap());
            assert_eq!(
                (filter.name(), filter.values()),
                (Some(name), [value.to_owned()].as_slice()),
                "{target}"
            );
        }
    }

    #[test]
    fn any_ingress_rule_of_a_list_is_read() {
        let rule = SecurityGroupRule::builder()
            .security_group_rule_id("sgr-1")
            .ip_protocol("icmp");
        let text = |rule: SecurityGroupRule| list_rule(&rule).map(|listed| (listed.text, listed.rule.is_some()));
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
