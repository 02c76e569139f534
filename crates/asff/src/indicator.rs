//! Indicators in a finding: addresses, domains, URLs and hashes, where they were found, and whose they are.

use std::collections::HashSet;
use std::net::IpAddr;

use serde::Serialize;

use crate::json::{Object, Value};

/// An indicator found in a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Indicator {
    /// What it is
    #[serde(rename = "type")]
    pub kind: Kind,
    /// An address without a prefix length, in its usual text form (IPv6 by RFC 5952; an IPv4-mapped IPv6 address as
    /// IPv4); a domain in lower case, without a final dot; a hash in lower case; a URL as given
    pub value: String,
    /// Whose it is
    pub role: Role,
    /// Who opened the connection, where the finding says so
    pub direction: Option<Direction>,
    /// The member of the finding it was found at
    pub path: String,
}

impl Indicator {
    /// The address, if it is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self.kind {
            Kind::Ipv4 | Kind::Ipv6 => self.value.parse().ok(),
            Kind::Domain | Kind::Url | Kind::HashMd5 | Kind::HashSha1 | Kind::HashSha256 | Kind::HashSha512 => None,
        }
    }
}

/// Type of an indicator
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An IPv4 address
    Ipv4,
    /// An IPv6 address
    Ipv6,
    /// A DNS name
    Domain,
    /// A URL
    Url,
    /// An MD5 hash in hexadecimal digits
    HashMd5,
    /// A SHA-1 hash in hexadecimal digits
    HashSha1,
    /// A SHA-256 hash in hexadecimal digits
    HashSha256,
    /// A SHA-512 hash in hexadecimal digits
    HashSha512,
}

/// Side of the connection
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The other side: what an analyst may block
    Remote,
    /// Our side: never to be blocked
    Local,
    /// The finding does not say which side it is
    Unknown,
}

/// Direction of the connection, seen from the resource
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum Direction {
    /// Opened by the remote side
    Inbound,
    /// Opened by the resource
    Outbound,
}

impl Direction {
    /// `INBOUND` and `OUTBOUND` as in `ConnectionDirection`, `IN` and `OUT` as in `Network.Direction`, in any case.
    /// `None` for anything else, GuardDuty's `UNKNOWN` included.
    fn of(object: &Object<'_>, name: &str) -> Option<Self> {
        match object.str(name)?.trim().to_ascii_uppercase().as_str() {
            "IN" | "INBOUND" => Some(Direction::Inbound),
            "OUT" | "OUTBOUND" => Some(Direction::Outbound),
            _ => None,
        }
    }
}

/// The most indicators an event has. A finding of 240 KB could hold so many that its event exceeds SQS's limit.
const MAX_INDICATORS: usize = 500;

/// The indicators of the finding, in the order of the members in [`Candidates::of`]. Each value is listed once for each
/// side, with the first place it was found at, and with no known side only if no place tells its side.
///
/// An address or a domain that the finding gives as a resource's own is local wherever it stands: an address in
/// `localIpDetails`, and whatever stands alone in a string under the `Details` of `resources`. A CIDR block there is
/// part of a rule, and no address of the resource.
pub(crate) fn of(finding: &Object<'_>, resources: &[Object<'_>]) -> Vec<Indicator> {
    let Candidates { mut found, mut own } = Candidates::of(finding);
    if found.is_empty() {
        return found;
    }
    add_own(&mut own, resources, &found);
    let mut seen = HashSet::new();
    let mut of_known_side = HashSet::new();
    for indicator in &mut found {
        if own.contains(&indicator.value) {
            indicator.role = Role::Local;
        }
        if indicator.role != Role::Unknown {
            of_known_side.insert(indicator.value.clone());
        }
    }
    found.retain(|indicator| {
        let is_new = seen.insert((indicator.kind, indicator.value.clone(), indicator.role));
        is_new && (indicator.role != Role::Unknown || !of_known_side.contains(&indicator.value))
    });
    found.truncate(MAX_INDICATORS);
    found
}

/// Adds what the details of resources name of the values found.
fn add_own(own: &mut HashSet<String>, resources: &[Object<'_>], found: &[Indicator]) {
    let values: HashSet<&str> = found.iter().map(|indicator| indicator.value.as_str()).collect();
    let has_domains = found.iter().any(|indicator| indicator.kind == Kind::Domain);
    let mut add = |value: String| {
        if values.contains(value.as_str()) {
            own.insert(value);
        }
    };
    for details in resources.iter().filter_map(|resource| resource.get("Details")) {
        for text in details.strings() {
            if let Ok(address) = text.trim().parse::<IpAddr>() {
                add(address.to_canonical().to_string());
            }
        }
        if has_domains {
            // `Other` is not described by ASFF: products also put what they observed there.
            let members = details.as_object();
            let described = members.iter().filter(|(name, _)| *name != "Other");
            for text in described.flat_map(|(_, value)| value.strings()) {
                if let Some((Kind::Domain, value)) = domain(&text) {
                    add(value);
                }
            }
        }
    }
}

/// Type and value of what a text says, `None` if it is not what is expected where it stands.
type Parsed = Option<(Kind, String)>;
type Parse = fn(&str) -> Parsed;

/// An address; one with the prefix length of a single address (`/32`, `/128`) is one too.
fn address(text: &str) -> Parsed {
    let text = text.trim();
    let address = match text.split_once('/') {
        None => text.parse::<IpAddr>().ok()?,
        Some((address, prefix)) => match (address.parse().ok()?, prefix) {
            (address @ IpAddr::V4(_), "32") | (address @ IpAddr::V6(_), "128") => address,
            (IpAddr::V4(_) | IpAddr::V6(_), _) => return None,
        },
    };
    let address = address.to_canonical();
    let kind = if address.is_ipv4() { Kind::Ipv4 } else { Kind::Ipv6 };
    Some((kind, address.to_string()))
}

/// A domain. Where one is expected an address may stand, and is read as such.
fn domain(text: &str) -> Parsed {
    if let Some(address) = address(text) {
        return Some(address);
    }
    let name = text.trim();
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        let has_its_characters = label.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'));
        !label.is_empty() && label.len() <= 63 && has_its_characters
    };
    // A name that ends in a number is a malformed address.
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_domain =
        name.len() <= 253 && name.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit());
    is_domain.then(|| (Kind::Domain, name.to_lowercase()))
}

fn url(text: &str) -> Parsed {
    let text = text.trim();
    let is_url = !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    is_url.then(|| (Kind::Url, text.to_owned()))
}

fn hash(text: &str, kind: Kind, digits: usize) -> Parsed {
    let text = text.trim();
    let is_hash = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| (kind, text.to_ascii_lowercase()))
}

/// What may become indicators, each place by itself.
#[derive(Default)]
struct Candidates {
    found: Vec<Indicator>,
    /// Values that the finding gives as a resource's own
    own: HashSet<String>,
}

impl Candidates {
    fn of(finding: &Object<'_>) -> Self {
        let mut candidates = Self::default();
        candidates.add_action(&finding.object("Action"));
        candidates.add_network(&finding.object("Network"));
        candidates.add_threat_intel(finding);
        candidates.add_sequence(&finding.object("Detection").object("Sequence"));
        candidates.add_guardduty_product_fields(&finding.object("ProductFields"));
        candidates
    }

    /// What was not read (a host name where an address is expected, an empty string) is passed over.
    fn add(&mut self, parsed: Parsed, role: Role, direction: Option<Direction>, path: String) {
        if let Some((kind, value)) = parsed {
            self.found.push(Indicator {
                kind,
                value,
                role,
                direction,
                path,
            });
        }
    }

    /// An address of `localIpDetails`, or of `remoteIpDetails`.
    fn add_of_details(&mut self, text: &str, role: Role, direction: Option<Direction>, path: String) {
        let parsed = address(text);
        if let (Role::Local, Some((_, value))) = (role, &parsed) {
            self.own.insert(value.clone());
        }
        self.add(parsed, role, direction, path);
    }

    /// `RemoteIpDetails` and `LocalIpDetails` of one action.
    fn add_details(&mut self, details: &Object<'_>, direction: Option<Direction>, path: &str) {
        for (member, role) in [("RemoteIpDetails", Role::Remote), ("LocalIpDetails", Role::Local)] {
            if let Some(text) = details.object(member).str("IpAddressV4") {
                self.add_of_details(&text, role, direction, format!("{path}.{member}.IpAddressV4"));
            }
        }
    }

    fn add_action(&mut self, action: &Object<'_>) {
        let connection = action.object("NetworkConnectionAction");
        let direction = Direction::of(&connection, "ConnectionDirection");
        self.add_details(&connection, direction, "Action.NetworkConnectionAction");
        self.add_details(&action.object("AwsApiCallAction"), None, "Action.AwsApiCallAction");
        let probes = action
            .object("PortProbeAction")
            .objects("PortProbeDetails")
            .unwrap_or_default();
        for (index, probe) in probes.iter().enumerate() {
            let path = format!("Action.PortProbeAction.PortProbeDetails[{index}]");
            self.add_details(probe, None, &path);
        }
        if let Some(text) = action.object("DnsRequestAction").str("Domain") {
            let path = "Action.DnsRequestAction.Domain".to_owned();
            self.add(domain(&text), Role::Remote, None, path);
        }
    }

    /// `Source` is the remote side of an inbound connection, `Destination` that of an outbound one. Without a
    /// direction neither can be said to be.
    fn add_network(&mut self, network: &Object<'_>) {
        let direction = Direction::of(network, "Direction");
        let (source, destination) = match direction {
            Some(Direction::Inbound) => (Role::Remote, Role::Local),
            Some(Direction::Outbound) => (Role::Local, Role::Remote),
            None => (Role::Unknown, Role::Unknown),
        };
        for (side, role) in [("Source", source), ("Destination", destination)] {
            let places: [(&str, Parse); 3] = [("IpV4", address), ("IpV6", address), ("Domain", domain)];
            for (what, read) in places {
                let member = format!("{side}{what}");
                if let Some(text) = network.str(&member) {
                    self.add(read(&text), role, direction, format!("Network.{member}"));
                }
            }
        }
    }

    fn add_threat_intel(&mut self, finding: &Object<'_>) {
        let indicators = finding.objects("ThreatIntelIndicators").unwrap_or_default();
        for (index, indicator) in indicators.iter().enumerate() {
            let (Some(kind), Some(text)) = (indicator.str("Type"), indicator.str("Value")) else {
                continue;
            };
            let parsed = match kind.as_ref() {
                "IPV4_ADDRESS" | "IPV6_ADDRESS" => address(&text),
                "DOMAIN" => domain(&text),
                "URL" => url(&text),
                "HASH_MD5" => hash(&text, Kind::HashMd5, 32),
                "HASH_SHA1" => hash(&text, Kind::HashSha1, 40),
                "HASH_SHA256" => hash(&text, Kind::HashSha256, 64),
                "HASH_SHA512" => hash(&text, Kind::HashSha512, 128),
                _ => None,
            };
            self.add(
                parsed,
                Role::Remote,
                None,
                format!("ThreatIntelIndicators[{index}].Value"),
            );
        }
    }

    /// The attack sequence of GuardDuty's Extended Threat Detection.
    fn add_sequence(&mut self, sequence: &Object<'_>) {
        const PATH: &str = "Detection.Sequence";
        let endpoints = sequence.objects("Endpoints").unwrap_or_default();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let direction = Direction::of(&endpoint.object("Connection"), "Direction");
            let places: [(&str, Parse); 2] = [("Ip", address), ("Domain", domain)];
            for (member, read) in places {
                if let Some(text) = endpoint.str(member) {
                    let path = format!("{PATH}.Endpoints[{index}].{member}");
                    self.add(read(&text), Role::Remote, direction, path);
                }
            }
        }
        self.add_values(sequence, "SequenceIndicators", PATH);
        let signals = sequence.objects("Signals").unwrap_or_default();
        for (index, signal) in signals.iter().enumerate() {
            self.add_values(signal, "SignalIndicators", &format!("{PATH}.Signals[{index}]"));
        }
    }

    /// `Values` of a list of indicators: tactics, API names and more beside addresses and domains. Only the key tells a
    /// domain from such a name.
    fn add_values(&mut self, holder: &Object<'_>, list: &str, path: &str) {
        for (index, indicator) in holder.objects(list).unwrap_or_default().iter().enumerate() {
            let key = indicator.str("Key").unwrap_or_default().to_ascii_uppercase();
            let read = if key.contains("DOMAIN") { domain } else { address };
            let values = indicator.array("Values").unwrap_or_default();
            for (number, value) in values.into_iter().enumerate() {
                if let Some(text) = value.as_str() {
                    let path = format!("{path}.{list}[{index}].Values[{number}]");
                    self.add(read(&text), Role::Remote, None, path);
                }
            }
        }
    }

    fn add_guardduty_product_fields(&mut self, fields: &Object<'_>) {
        let mut addresses: Vec<(GuardDutyAddress<'_>, Value<'_>)> = fields
            .iter()
            .filter_map(|(name, value)| Some((GuardDutyAddress::from_key(name)?, value)))
            .collect();
        addresses.sort_by(|(a, _), (b, _)| a.rank().cmp(&b.rank()));
        for (key, value) in addresses {
            let direction = Direction::of(fields, &format!("{}{}/connectionDirection", key.prefix, key.action));
            if let Some(text) = value.as_str() {
                self.add_of_details(&text, key.role, direction, format!("ProductFields.{}", key.name));
            }
        }
    }
}

/// A key of `ProductFields` under which GuardDuty gives an address:
/// `<prefix><action>[/<details with an index>]/{remoteIpDetails,localIpDetails}/ipAddressV4`.
struct GuardDutyAddress<'k> {
    name: &'k str,
    prefix: &'static str,
    action: &'k str,
    /// Of the details: `portProbeDetails.0_` and `portProbeDetails:0` both occur
    index: u64,
    role: Role,
}

impl<'k> GuardDutyAddress<'k> {
    const PREFIXES: [&'static str; 2] = ["aws/guardduty/service/action/", "action/"];
    const ACTIONS: [&'static str; 3] = ["networkConnectionAction", "awsApiCallAction", "portProbeAction"];

    fn from_key(name: &'k str) -> Option<Self> {
        let prefix = *Self::PREFIXES.iter().find(|prefix| name.starts_with(**prefix))?;
        let mut segments = name[prefix.len()..].split('/');
        let action = segments.next()?;
        let mut details = segments.next()?;
        let mut index = 0;
        if details.contains("Details") && !details.ends_with("IpDetails") {
            let digits: String = details.chars().filter(char::is_ascii_digit).collect();
            index = digits.parse().unwrap_or(u64::MAX);
            details = segments.next()?;
        }
        let role = match details {
            "remoteIpDetails" => Role::Remote,
            "localIpDetails" => Role::Local,
            _ => return None,
        };
        let is_address = matches!(segments.next(), Some("ipAddressV4" | "ipAddressV6"));
        (is_address && segments.next().is_none()).then_some(Self {
            name,
            prefix,
            action,
            index,
            role,
        })
    }

    /// Order of the definition; a probe's details by their index, remote before local.
    fn rank(&self) -> (usize, usize, u64, bool, &str) {
        let position = |list: &[&str], item| list.iter().position(|x| *x == item).unwrap_or(list.len());
        (
            position(&Self::PREFIXES, self.prefix),
            position(&Self::ACTIONS, self.action),
            self.index,
            self.role == Role::Local,
            self.name,
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::json::Value;

    fn indicators(finding: &str) -> Vec<Indicator> {
        let finding = Value::new(serde_json::from_str(finding).unwrap()).as_object();
        of(&finding, &finding.objects("Resources").unwrap_or_default())
    }

    fn found(finding: &str) -> Vec<String> {
        let line = |indicator: Indicator| {
            let role = format!("{:?}", indicator.role);
            let direction = match indicator.direction {
                Some(Direction::Inbound) => "INBOUND",
                Some(Direction::Outbound) => "OUTBOUND",
                None => "-",
            };
            format!("{} {role} {direction} {}", indicator.value, indicator.path)
        };
        indicators(finding).into_iter().map(line).collect()
    }

    #[test]
    fn every_place_in_the_order_of_the_definition() {
        let finding = r#"{
            "ProductFields": {
                "action/portProbeAction/portProbeDetails:0/remoteIpDetails/ipAddressV4": "203.0.113.19",
                "action/networkConnectionAction/remoteIpDetails/ipAddressV4": "203.0.113.18",
                "aws/guardduty/service/action/portProbeAction/portProbeDetails.10_/remoteIpDetails/ipAddressV4": "203.0.113.17",
                "aws/guardduty/service/action/portProbeAction/portProbeDetails.2_/remoteIpDetails/ipAddressV4": "203.0.113.16",
                "aws/guardduty/service/action/portProbeAction/portProbeDetails.2_/localIpDetails/ipAddressV4": "10.0.0.16",
                "aws/guardduty/service/action/awsApiCallAction/remoteIpDetails/ipAddressV4": "203.0.113.15",
                "aws/guardduty/service/action/networkConnectionAction/remoteIpDetails/ipAddressV4": "203.0.113.14",
                "aws/guardduty/service/action/networkConnectionAction/localIpDetails/ipAddressV4": "10.0.0.14",
                "aws/guardduty/service/action/networkConnectionAction/connectionDirection": "OUTBOUND",
                "aws/guardduty/service/action/networkConnectionAction/remoteIpDetails/country/countryName": "x",
                "aws/guardduty/service/resource/ipAddressV4": "203.0.113.99"
            },
            "ThreatIntelIndicators": [
                {"Type":"DOMAIN","Value":"intel.example.net"},
                {"Type":"IPV4_ADDRESS","Value":"203.0.113.12"},
                {"Type":"IPV6_ADDRESS","Value":"2001:DB8:0:0::13"}
            ],
            "Detection": {"Sequence": {
                "Signals": [{"SignalIndicators": [{"Key":"MALICIOUS_IP","Values":["203.0.113.22"]}]}],
                "SequenceIndicators": [{"Key":"ATTACK_TACTIC","Values":["Discovery"]},
                                       {"Key":"MALICIOUS_DOMAIN","Values":["203.0.113.21","c2.example.org"]}],
                "Endpoints": [{"Ip":"203.0.113.20","Domain":"host.example.org","Connection":{"Direction":"OUTBOUND"}}]
            }},
            "Network": {"Direction":"IN","DestinationDomain":"own.example.com","SourceDomain":"scan.example.net",
                        "SourceIpV4":"203.0.113.10","SourceIpV6":"2001:db8::11",
                        "DestinationIpV4":"10.0.0.10","DestinationIpV6":"2001:db8:1::10"},
            "Action": {
                "DnsRequestAction":{"Domain":"c2.example.net"},
                "PortProbeAction":{"PortProbeDetails":[
                    {"RemoteIpDetails":{"IpAddressV4":"203.0.113.3"},"LocalIpDetails":{"IpAddressV4":"10.0.0.3"}},
                    {"RemoteIpDetails":{"IpAddressV4":"203.0.113.4"}}]},
                "AwsApiCallAction":{"RemoteIpDetails":{"IpAddressV4":"203.0.113.2"}},
                "NetworkConnectionAction":{"ConnectionDirection":"INBOUND","RemoteIpDetails":{"IpAddressV4":"203.0.113.1"}}
            },
            "Resources":[{"Details":{"AwsEc2Instance":{"IpV4Addresses":["203.0.113.97"]}}}]
        }"#;
        assert_eq!(
            found(finding),
            [
                "203.0.113.1 Remote INBOUND Action.NetworkConnectionAction.RemoteIpDetails.IpAddressV4",
                "203.0.113.2 Remote - Action.AwsApiCallAction.RemoteIpDetails.IpAddressV4",
                "203.0.113.3 Remote - Action.PortProbeAction.PortProbeDetails[0].RemoteIpDetails.IpAddressV4",
                "10.0.0.3 Local - Action.PortProbeAction.PortProbeDetails[0].LocalIpDetails.IpAddressV4",
                "203.0.113.4 Remote - Action.PortProbeAction.PortProbeDetails[1].RemoteIpDetails.IpAddressV4",
                "c2.example.net Remote - Action.DnsRequestAction.Domain",
                "203.0.113.10 Remote INBOUND Network.SourceIpV4",
                "2001:db8::11 Remote INBOUND Network.SourceIpV6",
                "scan.example.net Remote INBOUND Network.SourceDomain",
                "10.0.0.10 Local INBOUND Network.DestinationIpV4",
                "2001:db8:1::10 Local INBOUND Network.DestinationIpV6",
                "own.example.com Local INBOUND Network.DestinationDomain",
                "intel.example.net Remote - ThreatIntelIndicators[0].Value",
                "203.0.113.12 Remote - ThreatIntelIndicators[1].Value",
                "2001:db8::13 Remote - ThreatIntelIndicators[2].Value",
                "203.0.113.20 Remote OUTBOUND Detection.Sequence.Endpoints[0].Ip",
                "host.example.org Remote OUTBOUND Detection.Sequence.Endpoints[0].Domain",
                "203.0.113.21 Remote - Detection.Sequence.SequenceIndicators[1].Values[0]",
                "c2.example.org Remote - Detection.Sequence.SequenceIndicators[1].Values[1]",
                "203.0.113.22 Remote - Detection.Sequence.Signals[0].SignalIndicators[0].Values[0]",
                "203.0.113.14 Remote OUTBOUND ProductFields.aws/guardduty/service/action/networkConnectionAction/remoteIpDetails/ipAddressV4",
                "10.0.0.14 Local OUTBOUND ProductFields.aws/guardduty/service/action/networkConnectionAction/localIpDetails/ipAddressV4",
                "203.0.113.15 Remote - ProductFields.aws/guardduty/service/action/awsApiCallAction/remoteIpDetails/ipAddressV4",
                "203.0.113.16 Remote - ProductFields.aws/guardduty/service/action/portProbeAction/portProbeDetails.2_/remoteIpDetails/ipAddressV4",
                "10.0.0.16 Local - ProductFields.aws/guardduty/service/action/portProbeAction/portProbeDetails.2_/localIpDetails/ipAddressV4",
                "203.0.113.17 Remote - ProductFields.aws/guardduty/service/action/portProbeAction/portProbeDetails.10_/remoteIpDetails/ipAddressV4",
                "203.0.113.18 Remote - ProductFields.action/networkConnectionAction/remoteIpDetails/ipAddressV4",
                "203.0.113.19 Remote - ProductFields.action/portProbeAction/portProbeDetails:0/remoteIpDetails/ipAddressV4",
            ]
        );
    }

    #[test]
    fn network_is_read_by_its_direction_in_any_case() {
        let network = |direction: &str| {
            found(&format!(
                r#"{{"Network":{{{direction}"SourceIpV4":"192.0.2.1","DestinationIpV4":"192.0.2.2"}}}}"#
            ))
        };
        for direction in ["OUT", "out", "Outbound"] {
            assert_eq!(
                network(&format!(r#""Direction":"{direction}","#)),
                [
                    "192.0.2.1 Local OUTBOUND Network.SourceIpV4",
                    "192.0.2.2 Remote OUTBOUND Network.DestinationIpV4"
                ]
            );
        }
        assert_eq!(
            network(r#""Direction":"in","#)[0],
            "192.0.2.1 Remote INBOUND Network.SourceIpV4"
        );
        for direction in [
            "",
            r#""Direction":"SIDEWAYS","#,
            r#""Direction":null,"#,
            r#""Direction":1,"#,
        ] {
            assert_eq!(
                network(direction),
                [
                    "192.0.2.1 Unknown - Network.SourceIpV4",
                    "192.0.2.2 Unknown - Network.DestinationIpV4"
                ]
            );
        }
    }

    #[test]
    fn types_and_forms_of_values() {
        let hash = |digits: usize| "aB0".repeat(digits).split_at(digits).0.to_owned();
        for (kind, value, expected) in [
            ("IPV4_ADDRESS", "203.0.113.7", Some(("ipv4", "203.0.113.7"))),
            ("IPV4_ADDRESS", " 203.0.113.7/32", Some(("ipv4", "203.0.113.7"))),
            ("IPV4_ADDRESS", "203.0.113.7/24", None),
            ("IPV4_ADDRESS", "203.0.113.7/032", None),
            ("IPV6_ADDRESS", "2001:DB8::7/128", Some(("ipv6", "2001:db8::7"))),
            ("IPV6_ADDRESS", "2001:db8::7/32", None),
            ("IPV6_ADDRESS", "::ffff:203.0.113.7/128", Some(("ipv4", "203.0.113.7"))),
            ("DOMAIN", "Bad.Example.com.", Some(("domain", "bad.example.com"))),
            (
                "DOMAIN",
                "_dmarc.xn--bcher-kva.example",
                Some(("domain", "_dmarc.xn--bcher-kva.example")),
            ),
            ("DOMAIN", "203.0.113.7", Some(("ipv4", "203.0.113.7"))),
            ("DOMAIN", "203.0.113.777", None),
            ("DOMAIN", "bad..example", None),
            ("DOMAIN", "https://bad.example", None),
            ("DOMAIN", "", None),
            (
                "URL",
                "https://bad.example/A?b=c",
                Some(("url", "https://bad.example/A?b=c")),
            ),
            ("URL", "a b", None),
            (
                "HASH_MD5",
                &hash(32),
                Some(("hash_md5", hash(32).to_lowercase().as_str())),
            ),
            (
                "HASH_SHA1",
                &hash(40),
                Some(("hash_sha1", hash(40).to_lowercase().as_str())),
            ),
            (
                "HASH_SHA256",
                &hash(64),
                Some(("hash_sha256", hash(64).to_lowercase().as_str())),
            ),
            (
                "HASH_SHA512",
                &hash(128),
                Some(("hash_sha512", hash(128).to_lowercase().as_str())),
            ),
            ("HASH_SHA256", &hash(63), None),
            ("HASH_MD5", &"z".repeat(32), None),
            ("EMAIL_ADDRESS", "a@bad.example", None),
            ("MUTEX", "203.0.113.7", None),
        ] {
            let finding = format!(r#"{{"ThreatIntelIndicators":[{{"Type":"{kind}","Value":"{value}"}}]}}"#);
            let found: Vec<_> = indicators(&finding)
                .into_iter()
                .map(|indicator| (serde_json::to_value(indicator.kind).unwrap(), indicator.value))
                .collect();
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(kind, value)| (kind.into(), value.to_owned()))
                .collect();
            assert_eq!(found, expected, "{kind} {value}");
        }
    }

    #[test]
    fn a_resources_own_is_local_wherever_it_stands() {
        let finding = r#"{
            "Action":{"AwsApiCallAction":{"RemoteIpDetails":{"IpAddressV4":"203.0.113.10"}},
                      "DnsRequestAction":{"Domain":"ec2-203-0-113-10.example.com"}},
            "Network":{"SourceIpV4":"::ffff:203.0.113.10","DestinationIpV6":"2001:db8::10"},
            "ThreatIntelIndicators":[{"Type":"IPV4_ADDRESS","Value":"203.0.113.11"}],
            "Detection":{"Sequence":{"Endpoints":[{"Ip":"203.0.113.12"}]}},
            "ProductFields":{"aws/guardduty/service/action/networkConnectionAction/localIpDetails/ipAddressV4":"203.0.113.12"},
            "Resources":[7,
                {"Details":{"AwsEc2NetworkInterface":{"PublicIp":"203.0.113.10","IpV6Addresses":[{"IpV6Address":"2001:DB8:0::10"}],
                            "PublicDnsName":"EC2-203-0-113-10.example.com"}}},
                {"Details":{"Other":{"bad":"\ud800","address":"203.0.113.11"}}}]
        }"#;
        assert_eq!(
            found(finding),
            [
                "203.0.113.10 Local - Action.AwsApiCallAction.RemoteIpDetails.IpAddressV4",
                "ec2-203-0-113-10.example.com Local - Action.DnsRequestAction.Domain",
                "2001:db8::10 Local - Network.DestinationIpV6",
                "203.0.113.11 Local - ThreatIntelIndicators[0].Value",
                "203.0.113.12 Local - Detection.Sequence.Endpoints[0].Ip",
            ]
        );
    }

    #[test]
    fn rules_names_and_what_products_add_make_nothing_a_resources_own() {
        let finding = r#"{
            "ThreatIntelIndicators":[{"Type":"IPV4_ADDRESS","Value":"203.0.113.10"},{"Type":"DOMAIN","Value":"bad.example"}],
            "Resources":[{"Id":"203.0.113.10","Tags":{"x":"203.0.113.10"},"Details":{
                "AwsEc2SecurityGroup":{"IpPermissions":[{"IpRanges":[{"CidrIp":"203.0.113.10/32"}]}]},
                "Other":{"203.0.113.10":"name","seen":"bad.example","text":"from 203.0.113.10"}}}]
        }"#;
        assert_eq!(
            found(finding),
            [
                "203.0.113.10 Remote - ThreatIntelIndicators[0].Value",
                "bad.example Remote - ThreatIntelIndicators[1].Value"
            ]
        );
    }

    #[test]
    fn a_side_that_is_known_somewhere_is_not_unknown() {
        let finding = r#"{
            "Network":{"SourceIpV4":"198.51.100.7","DestinationIpV4":"198.51.100.8"},
            "ThreatIntelIndicators":[{"Type":"IPV4_ADDRESS","Value":"198.51.100.7"}]}"#;
        assert_eq!(
            found(finding),
            [
                "198.51.100.8 Unknown - Network.DestinationIpV4",
                "198.51.100.7 Remote - ThreatIntelIndicators[0].Value",
            ]
        );
    }

    #[test]
    fn a_finding_full_of_addresses_gives_a_list_that_is_bounded() {
        let values: Vec<String> = (0..15_000)
            .map(|n| format!("\"10.0.{}.{}\"", n / 250, n % 250))
            .collect();
        let finding = format!(
            r#"{{"Detection":{{"Sequence":{{"SequenceIndicators":[{{"Key":"MALICIOUS_IP","Values":[{}]}}]}}}}}}"#,
            values.join(",")
        );
        assert_eq!(indicators(&finding).len(), MAX_INDICATORS);
    }

    #[test]
    fn an_address_is_listed_once_a_side_at_its_first_place() {
        let finding = r#"{
            "Action":{"AwsApiCallAction":{"RemoteIpDetails":{"IpAddressV4":"198.51.100.7"}}},
            "Network":{"Direction":"IN","SourceIpV4":"198.51.100.7","SourceIpV6":"::ffff:198.51.100.7","DestinationIpV4":"198.51.100.7"},
            "ThreatIntelIndicators":[{"Type":"IPV4_ADDRESS","Value":"198.51.100.7"}]}"#;
        assert_eq!(
            found(finding),
            [
                "198.51.100.7 Remote - Action.AwsApiCallAction.RemoteIpDetails.IpAddressV4",
                "198.51.100.7 Local INBOUND Network.DestinationIpV4"
            ]
        );
    }

    #[test]
    fn what_is_no_address_is_passed_over() {
        for finding in [
            r#"{"Action":{"AwsApiCallAction":{"RemoteIpDetails":{"IpAddressV4":"host.example"}}}}"#,
            r#"{"Action":{"AwsApiCallAction":{"RemoteIpDetails":{"IpAddressV4":7}}}}"#,
            r#"{"Action":{"AwsApiCallAction":[]},"Network":"x","ThreatIntelIndicators":{},"ProductFields":[]}"#,
            r#"{"Action":{"PortProbeAction":{"PortProbeDetails":{}}},"ThreatIntelIndicators":[null,1]}"#,
            r#"{"Action":{"DnsRequestAction":{"Domain":["bad.example"]}},"Network":{"SourceDomain":7}}"#,
            r#"{"Detection":{"Sequence":[{"Endpoints":[{"Ip":"192.0.2.1"}]}]}}"#,
            r#"{"Detection":{"Sequence":{"Endpoints":{"Ip":"192.0.2.1"},"Signals":[1,{"SignalIndicators":"x"}],
                "SequenceIndicators":[{"Values":"192.0.2.1"},{"Key":7,"Values":[7,null,"bad.example"]}]}}}"#,
            r#"{"ProductFields":{"action/remoteIpDetails/ipAddressV4":"192.0.2.1","aws/guardduty/service/action/a/b/remoteIpDetails/ipAddressV4":"192.0.2.1"}}"#,
            "[]",
        ] {
            assert!(found(finding).is_empty(), "{finding}");
        }
    }

    /// What may stand where a text is expected: few addresses and domains, so that they meet, and what is of no use.
    fn any_value() -> impl Strategy<Value = Json> {
        prop_oneof![
            8 => (0..6_u8).prop_map(|n| json!(format!("203.0.113.{n}"))),
            1 => (0..6_u8).prop_map(|n| json!(format!("203.0.113.{n}/32"))),
            1 => (0..6_u8).prop_map(|n| json!(format!("::ffff:203.0.113.{n}"))),
            2 => (0..3_u8).prop_map(|n| json!(format!("h{n}.example"))),
            1 => any::<String>().prop_map(Json::from),
            1 => Just(json!(null)),
            1 => Just(json!([{"Ip": ["x"]}, 7])),
            1 => Just(json!({"IpAddressV4": {}})),
        ]
    }

    fn any_direction() -> impl Strategy<Value = Json> {
        const KNOWN: [&str; 5] = ["IN", "out", "INBOUND", "Outbound", "UNKNOWN"];
        prop_oneof![3 => prop::sample::select(&KNOWN[..]).prop_map(Json::from), 1 => any_value()]
    }

    fn any_finding() -> impl Strategy<Value = Json> {
        const KINDS: [&str; 5] = ["IPV4_ADDRESS", "DOMAIN", "URL", "HASH_MD5", "MUTEX"];
        const KEYS: [&str; 3] = ["MALICIOUS_IP", "MALICIOUS_DOMAIN", "ATTACK_TACTIC"];
        let values = || prop::collection::vec(any_value(), 14);
        let details = prop::collection::vec(any_value(), 0..4);
        let directions = (any_direction(), any_direction(), any_direction());
        let names = (prop::sample::select(&KINDS[..]), prop::sample::select(&KEYS[..]));
        (values(), details, directions, names).prop_map(|(v, details, (d1, d2, d3), (kind, key))| {
            json!({
                "Action": {
                    "NetworkConnectionAction": {"ConnectionDirection": d1, "RemoteIpDetails": {"IpAddressV4": v[0]}},
                    "AwsApiCallAction": {"RemoteIpDetails": {"IpAddressV4": v[1]}},
                    "PortProbeAction": {"PortProbeDetails": [{"RemoteIpDetails": {"IpAddressV4": v[2]},
                                                              "LocalIpDetails": {"IpAddressV4": v[3]}}, v[4]]},
                    "DnsRequestAction": {"Domain": v[5]},
                },
                "Network": {"Direction": d2, "SourceIpV4": v[6], "SourceDomain": v[7], "DestinationIpV6": v[8]},
                "ThreatIntelIndicators": [{"Type": kind, "Value": v[9]}, v[10]],
                "Detection": {"Sequence": {
                    "Endpoints": [{"Ip": v[11], "Domain": v[12], "Connection": {"Direction": d3}}],
                    "SequenceIndicators": [{"Key": key, "Values": v}],
                }},
                "ProductFields": {"action/portProbeAction/portProbeDetails:0/remoteIpDetails/ipAddressV4": v[13]},
                "Resources": [{"Details": {"AwsEc2Instance": {"IpV4Addresses": details}}}],
            })
        })
    }

    proptest! {
        #[test]
        fn whatever_a_finding_holds(finding in any_finding()) {
            let found = indicators(&finding.to_string());
            // A resource's own address is never remote.
            let own: Vec<IpAddr> = finding["Resources"][0]["Details"]["AwsEc2Instance"]["IpV4Addresses"]
                .as_array()
                .into_iter()
                .flatten()
                .chain([&finding["Action"]["PortProbeAction"]["PortProbeDetails"][0]["LocalIpDetails"]["IpAddressV4"]])
                .filter_map(|text| text.as_str()?.parse::<IpAddr>().ok())
                .map(|address| address.to_canonical())
                .collect();
            for indicator in &found {
                if let Some(address) = indicator.address() {
                    prop_assert!(indicator.role == Role::Local || !own.contains(&address), "{indicator:?}");
                }
            }
            // Each is listed once, and what its path names is there.
            let mut seen = HashSet::new();
            for indicator in &found {
                prop_assert!(seen.insert((indicator.kind, &indicator.value, indicator.role)), "{indicator:?}");
                let pointer = if let Some(field) = indicator.path.strip_prefix("ProductFields.") {
                    format!("/ProductFields/{}", field.replace('/', "~1"))
                } else {
                    format!("/{}", indicator.path.replace(['.', '['], "/").replace(']', ""))
                };
                let text = finding.pointer(&pointer).and_then(Json::as_str).unwrap();
                let parsed = [address(text), domain(text), url(text)].into_iter().flatten();
                prop_assert!(parsed.map(|(_, value)| value).any(|value| value == indicator.value), "{indicator:?}");
            }
        }
    }
}
