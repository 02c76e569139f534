//! Network ACLs: which entries are ours, and where a deny has to stand to count.
//!
//! EC2 goes through the inbound entries by number, lowest first, and takes the first that matches ("Network ACL rules"
//! in the VPC user guide). A deny therefore works only below every allow that overlaps it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use aws_text::NetworkAclId;
use ipnet::IpNet;

use crate::rule::{IngressRule, Protocol};
use crate::{ErrorCode, Refusal};

/// `NETWORK_ACL_RULE_NUMBERS`: the numbers that deny entries may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleNumbers {
    first: u16,
    last: u16,
}

/// The highest number an entry can have; the final `*` has the next (`CreateNetworkAclEntry` in the EC2 API reference).
const MAX_NUMBER: u16 = 32766;

impl RuleNumbers {
    /// Whether the number is one of them.
    #[must_use]
    pub fn contains(self, number: u16) -> bool {
        (self.first..=self.last).contains(&number)
    }
}

impl Default for RuleNumbers {
    /// 1–99: below 100, the number that AWS gives the first entry of a VPC's default network ACL.
    fn default() -> Self {
        Self { first: 1, last: 99 }
    }
}

impl FromStr for RuleNumbers {
    type Err = &'static str;

    /// From `first-last`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u16>().ok().filter(|_| is_number)
        };
        text.split_once('-')
            .and_then(|(first, last)| Some((number(first)?, number(last)?)))
            .filter(|(first, last)| 1 <= *first && first <= last && *last <= MAX_NUMBER)
            .map(|(first, last)| Self { first, last })
            .ok_or("expected a range of rule numbers such as 1-99, within 1 to 32766")
    }
}

impl fmt::Display for RuleNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// A network ACL, as far as it matters here: its inbound entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkAcl {
    /// Its id
    pub id: NetworkAclId,
    /// A subnet is associated with it: traffic goes through it
    pub has_subnet: bool,
    /// The account it belongs to
    pub owner_id: Option<String>,
    /// Its inbound entries
    pub entries: Vec<Entry>,
}

/// An inbound entry. What could not be read is taken for "any", so that an allow overlaps rather more than less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, which is its place in the order, shared by IPv4 and IPv6
    pub number: u16,
    /// It allows or denies
    pub effect: Effect,
    /// Where the traffic comes from; `None` is anywhere
    pub source: Option<IpNet>,
    /// The protocol's number; `None` is all of them
    pub protocol: Option<u8>,
    /// First and last port; `None` is all of them
    pub ports: Option<(u16, u16)>,
}

/// What an entry does to the traffic it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It passes
    Allow,
    /// It stops
    Deny,
}

const ALL_PORTS: (u16, u16) = (0, u16::MAX);

/// The number of a rule's protocol; `None` is all protocols.
#[must_use]
pub fn protocol_number(protocol: Protocol) -> Option<u8> {
    match protocol {
        Protocol::Tcp => Some(6),
        Protocol::Udp => Some(17),
        Protocol::All => None,
    }
}

impl Entry {
    /// A deny equal to the rule in source, protocol and ports.
    fn is_deny_of(&self, rule: &IngressRule) -> bool {
        let same_ports = match rule.ports() {
            Some(ports) => self.ports.unwrap_or(ALL_PORTS) == ports,
            None => true, // with all protocols an entry has all ports, whatever it says
        };
        self.effect == Effect::Deny
            && self.source == Some(rule.source().network())
            && self.protocol == protocol_number(rule.protocol())
            && same_ports
    }

    /// Whether some packet matches both the entry and the rule.
    fn overlaps(&self, rule: &IngressRule) -> bool {
        let (protocol, ports) = (protocol_number(rule.protocol()), rule.ports().unwrap_or(ALL_PORTS));
        let same_protocol = self.protocol.is_none() || protocol.is_none() || self.protocol == protocol;
        let common_port = match (self.protocol, protocol) {
            (Some(_), Some(_)) => {
                let (from, to) = self.ports.unwrap_or(ALL_PORTS);
                from <= ports.1 && ports.0 <= to
            }
            _ => true,
        };
        self.source.is_none_or(|source| rule.source().overlaps(&source)) && same_protocol && common_port
    }
}

impl NetworkAcl {
    /// The entry with this number is a deny equal to the rule.
    #[must_use]
    pub fn denies_at(&self, number: u16, rule: &IngressRule) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.number == number && entry.is_deny_of(rule))
    }

    /// The numbers within a range whose entries are denies equal to the rule.
    pub fn denies_of(&self, rule: &IngressRule, numbers: RuleNumbers) -> impl Iterator<Item = u16> {
        self.entries
            .iter()
            .filter(move |entry| numbers.contains(entry.number) && entry.is_deny_of(rule))
            .map(|entry| entry.number)
    }

    /// The numbers of deny entries that overlap the rule, without the final `*`.
    pub fn denies_that_overlap(&self, rule: &IngressRule) -> impl Iterator<Item = u16> {
        self.entries
            .iter()
            .filter(|entry| entry.number <= MAX_NUMBER && entry.effect == Effect::Deny && entry.overlaps(rule))
            .map(|entry| entry.number)
    }

    /// With a deny equal to the rule at this number, whatever shows there.
    pub(super) fn put_deny(&mut self, number: u16, rule: &IngressRule) {
        self.entries.retain(|entry| entry.number != number);
        self.entries.push(Entry {
            number,
            effect: Effect::Deny,
            source: Some(rule.source().network()),
            protocol: protocol_number(rule.protocol()),
            ports: rule.ports(),
        });
    }

    /// Without the deny equal to the rule at this number, if it shows.
    pub(super) fn remove_deny(&mut self, number: u16, rule: &IngressRule) {
        self.entries
            .retain(|entry| entry.number != number || !entry.is_deny_of(rule));
    }

    /// No entry shows with this number.
    #[must_use]
    pub fn is_free(&self, number: u16) -> bool {
        !self.entries.iter().any(|entry| entry.number == number)
    }

    /// The deny entries with a number within a range, whatever they deny.
    pub fn denies_in(&self, numbers: RuleNumbers) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .filter(move |entry| entry.effect == Effect::Deny && numbers.contains(entry.number))
    }

    /// The number that a deny has to stay below: that of the first allow that overlaps the rule.
    #[must_use]
    pub fn first_allow(&self, rule: &IngressRule) -> Option<u16> {
        self.entries
            .iter()
            .filter(|entry| entry.effect == Effect::Allow && entry.overlaps(rule))
            .map(|entry| entry.number)
            .min()
    }

    /// The lowest free number within the range and below the first allow that overlaps the rule; none of those that are
    /// on record.
    ///
    /// # Errors
    /// `network_acl_full`, with the counts.
    pub fn free_number(
        &self,
        rule: &IngressRule,
        numbers: RuleNumbers,
        recorded: &BTreeSet<u16>,
    ) -> Result<u16, Refusal> {
        let limit = self.first_allow(rule);
        (numbers.first..=numbers.last)
            .take_while(|number| limit.is_none_or(|limit| *number < limit))
            .find(|number| self.is_free(*number) && !recorded.contains(number))
            .ok_or_else(|| self.full(rule, numbers, "no free number is left for the deny entry"))
    }

    /// The refusal of an ACL without room, with the counts.
    #[must_use]
    pub fn full(&self, rule: &IngressRule, numbers: RuleNumbers, why: &str) -> Refusal {
        let is_v4 = matches!(rule.source().network(), IpNet::V4(_));
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        let of_family = |entry: &&Entry| {
            entry
                .source
                .is_some_and(|source| matches!(source, IpNet::V4(_)) == is_v4)
        };
        let entries = self.entries.iter().filter(of_family).count();
        let in_range = self
            .entries
            .iter()
            .filter(|entry| numbers.contains(entry.number))
            .count();
        let limit = self
            .first_allow(rule)
            .map(|limit| format!("; its first allow entry that overlaps the target is number {limit}"))
            .unwrap_or_default();
        Refusal::new(
            ErrorCode::NetworkAclFull,
            format!(
                "{} has no room: {why}; it holds {entries} inbound {family} entries with the final *, and {in_range} \
                 entries with a number of {numbers}{limit}",
                self.id
            ),
            format!(
                "lift blocks that are no longer needed with ALLOW_IP, raise the quota \"Rules per network ACL\" (20 by \
                 default, 40 at most, for each direction and address family), widen NETWORK_ACL_RULE_NUMBERS ({numbers}), \
                 or give the allow entries of {} higher numbers",
                self.id
            ),
        )
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn acl(id: &str, entries: Vec<Entry>) -> NetworkAcl {
        NetworkAcl {
            id: id.parse().unwrap(),
            has_subnet: true,
            owner_id: None,
            entries,
        }
    }

    pub(crate) fn entry(
        number: u16,
        effect: Effect,
        source: &str,
        protocol: Option<u8>,
        ports: Option<(u16, u16)>,
    ) -> Entry {
        Entry {
            number,
            effect,
            source: Some(source.parse().unwrap()),
            protocol,
            ports,
        }
    }

    /// What AWS puts into a new VPC's ACL.
    pub(crate) fn default_entries() -> Vec<Entry> {
        vec![
            entry(100, Effect::Allow, "0.0.0.0/0", None, None),
            entry(101, Effect::Allow, "::/0", None, None),
            entry(32767, Effect::Deny, "0.0.0.0/0", None, None),
            entry(32768, Effect::Deny, "::/0", None, None),
        ]
    }

    fn rule(source: &str, protocol: Protocol, ports: (u16, u16)) -> IngressRule {
        IngressRule::new(source.parse().unwrap(), protocol, ports)
    }

    fn tcp() -> IngressRule {
        rule("203.0.113.7", Protocol::Tcp, ALL_PORTS)
    }

    const DENY: Effect = Effect::Deny;
    const ALLOW: Effect = Effect::Allow;

    #[test]
    fn ranges() {
        assert_eq!("1-99".parse(), Ok(RuleNumbers::default()));
        assert_eq!("200-32766".parse::<RuleNumbers>().unwrap().to_string(), "200-32766");
        assert!("7-7".parse::<RuleNumbers>().unwrap().contains(7));
        for bad in [
            "", "1", "-", "0-5", "9-3", "1-32767", "1-99999", "a-b", "1-2-3", "+1-9", " 1-9", "1 - 9",
        ] {
            assert!(bad.parse::<RuleNumbers>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_deny_of_this_very_rule_within_the_range_equals_it() {
        let all_ports = Some(ALL_PORTS);
        let acl = acl(
            "acl-0123abcd",
            vec![
                entry(1, DENY, "203.0.113.7/32", Some(6), all_ports),
                entry(2, DENY, "203.0.113.8/32", Some(6), all_ports), // another source
                entry(3, ALLOW, "203.0.113.7/32", Some(6), all_ports), // an allow
                entry(4, DENY, "203.0.113.7/32", Some(17), all_ports), // another protocol
                entry(5, DENY, "203.0.113.7/32", Some(6), Some((22, 22))), // other ports
                entry(6, DENY, "203.0.113.0/24", Some(6), all_ports), // a wider source
                entry(7, DENY, "203.0.113.7/32", None, None),         // all protocols
                entry(8, DENY, "203.0.113.7/32", Some(6), None),      // all ports, said otherwise
                entry(100, DENY, "203.0.113.7/32", Some(6), all_ports), // outside the range
            ],
        );
        let ours = |rule: &IngressRule| acl.denies_of(rule, RuleNumbers::default()).collect::<Vec<_>>();
        assert_eq!(ours(&tcp()), [1, 8]);
        assert_eq!(ours(&rule("203.0.113.7", Protocol::All, (1, 2))), [7]);
        assert_eq!(ours(&rule("203.0.113.7", Protocol::Tcp, (22, 22))), [5]);
        assert_eq!(ours(&rule("203.0.113.9", Protocol::Tcp, ALL_PORTS)), [0u16; 0]);
    }

    #[test]
    fn the_first_allow_is_one_that_lets_some_of_the_traffic_through() {
        let first = |rule: &IngressRule, entries: Vec<Entry>| acl("acl-0123abcd", entries).first_allow(rule);
        let web = rule("203.0.113.7", Protocol::Tcp, (443, 443));
        for (allow, overlaps) in [
            (entry(50, ALLOW, "0.0.0.0/0", Some(6), Some((443, 443))), true),
            (entry(50, ALLOW, "0.0.0.0/0", Some(6), Some((400, 500))), true),
            (entry(50, ALLOW, "0.0.0.0/0", Some(6), Some((80, 442))), false),
            (entry(50, ALLOW, "0.0.0.0/0", Some(6), None), true),
            (entry(50, ALLOW, "0.0.0.0/0", Some(17), None), false),
            (entry(50, ALLOW, "0.0.0.0/0", Some(1), None), false),
            (entry(50, ALLOW, "0.0.0.0/0", None, None), true),
            (entry(50, ALLOW, "0.0.0.0/0", None, Some((1, 1))), true),
            (entry(50, ALLOW, "203.0.112.0/24", None, None), false),
            (entry(50, ALLOW, "203.0.113.7/32", None, None), true),
            (entry(50, ALLOW, "::/0", None, None), false),
            (entry(50, DENY, "0.0.0.0/0", None, None), false),
            (
                Entry {
                    source: None,
                    ..entry(50, ALLOW, "::/0", None, None)
                },
                true,
            ),
        ] {
            assert_eq!(first(&web, vec![allow.clone()]), overlaps.then_some(50), "{allow:?}");
        }
        let everything = rule("203.0.113.7", Protocol::All, (0, 0));
        let icmp = entry(50, ALLOW, "203.0.113.0/24", Some(1), None);
        assert_eq!(first(&everything, vec![icmp]), Some(50));
        let two = vec![
            entry(90, ALLOW, "0.0.0.0/0", None, None),
            entry(30, ALLOW, "203.0.113.0/24", None, None),
        ];
        assert_eq!(first(&web, two), Some(30));
    }

    #[test]
    fn the_lowest_free_number_below_the_first_allow_is_taken() {
        let free = |entries: Vec<Entry>| {
            acl("acl-0123abcd", entries)
                .free_number(&tcp(), RuleNumbers::default(), &BTreeSet::new())
                .map_err(|refusal| refusal.code)
        };
        assert_eq!(free(default_entries()), Ok(1));
        // Numbers are shared by IPv4 and IPv6.
        let v6 = entry(1, DENY, "2001:db8::/64", None, None);
        assert_eq!(free(vec![v6, entry(3, ALLOW, "0.0.0.0/0", None, None)]), Ok(2));
        // An allow that concerns other traffic is passed.
        let ssh = entry(1, ALLOW, "192.0.2.0/24", Some(6), Some((22, 22)));
        assert_eq!(free(vec![ssh]), Ok(2));
        let no_room = entry(1, ALLOW, "0.0.0.0/0", None, None);
        assert_eq!(free(vec![no_room]), Err(ErrorCode::NetworkAclFull));
        let last = (1..=98).map(|n| entry(n, DENY, "192.0.2.1/32", None, None)).collect();
        assert_eq!(free(last), Ok(99));
        let full = (1..=99).map(|n| entry(n, DENY, "192.0.2.1/32", None, None)).collect();
        assert_eq!(free(full), Err(ErrorCode::NetworkAclFull));
    }

    #[test]
    fn an_allow_of_some_of_the_addresses_overlaps() {
        // A wider target, of which an allow lets a single address in: first, in the middle and last.
        let wide = rule("203.0.113.0/24", Protocol::Tcp, ALL_PORTS);
        for inside in [
            "203.0.113.0/32",
            "203.0.113.77/32",
            "203.0.113.255/32",
            "203.0.113.128/25",
        ] {
            let allow = entry(5, ALLOW, inside, None, None);
            assert_eq!(acl("acl-0123abcd", vec![allow]).first_allow(&wide), Some(5), "{inside}");
        }
        for outside in ["203.0.112.255/32", "203.0.114.0/32"] {
            let allow = entry(5, ALLOW, outside, None, None);
            assert_eq!(acl("acl-0123abcd", vec![allow]).first_allow(&wide), None, "{outside}");
        }
    }

    #[test]
    fn a_full_acl_gives_the_counts() {
        let mut entries = default_entries();
        entries.extend((1..=18).map(|n| entry(n, DENY, &format!("198.51.100.{n}/32"), None, None)));
        entries.push(entry(19, DENY, "2001:db8::/64", None, None));
        let refusal = acl("acl-0123abcd", entries).full(&tcp(), RuleNumbers::default(), "why");
        assert_eq!(
            refusal.message,
            "acl-0123abcd has no room: why; it holds 20 inbound IPv4 entries with the final *, and 19 entries with a \
             number of 1-99; its first allow entry that overlaps the target is number 100"
        );
        assert!(refusal.remedy.contains("NETWORK_ACL_RULE_NUMBERS"));
    }
}
