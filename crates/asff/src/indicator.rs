//! Addresses in a finding: where they stand, and which side of the connection they are.

use std::net::IpAddr;

use serde::Serialize;

use crate::json::Object;

/// An address found in a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Indicator {
    /// IPv4 or IPv6
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The address in its usual text form (IPv6 by RFC 5952; an IPv4-mapped IPv6 address as IPv4)
    pub value: IpAddr,
    /// Whose address it is
    pub role: Role,
    /// Who opened the connection, where the finding says so
    pub direction: Option<Direction>,
    /// The member of the finding it was found at
    pub path: String,
}

/// Address family
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// IPv4
    Ipv4,
    /// IPv6
    Ipv6,
}

/// Side of the connection
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The other side: what an analyst may block
    Remote,
    /// Our side: never to be blocked
    Local,
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
    /// `INBOUND` and `OUTBOUND` as in `ConnectionDirection`, `IN` and `OUT` as in `Network.Direction`. `None` for
    /// anything else, GuardDuty's `UNKNOWN` included.
    fn from_asff(text: &str) -> Option<Self> {
        match text {
            "IN" | "INBOUND" => Some(Direction::Inbound),
            "OUT" | "OUTBOUND" => Some(Direction::Outbound),
            _ => None,
        }
    }
}

/// Every address of the finding, in the order of the event's definition: `Action`, `Network`,
/// `ThreatIntelIndicators`, then `GuardDuty`'s `ProductFields`, newer keys before older ones. An address is listed once
/// for each side, at the first place it stands.
pub(crate) fn of(finding: &Object<'_>) -> Vec<Indicator> {
    let mut found = Indicators::default();
    found.add_action(&finding.object("Action"));
    found.add_network(&finding.object("Network"));
    found.add_threat_intel(finding);
    found.add_guardduty_product_fields(&finding.object("ProductFields"));
    found.0
}

#[derive(Default)]
struct Indicators(Vec<Indicator>);

impl Indicators {
    /// Text that is no address (a host name, an empty string) is passed over.
    fn add(&mut self, text: &str, role: Role, direction: Option<Direction>, path: String) {
        let Ok(address) = text.trim().parse::<IpAddr>() else {
            return;
        };
        let value = address.to_canonical();
        if self.0.iter().any(|known| known.value == value && known.role == role) {
            return;
        }
        self.0.push(Indicator {
            kind: if value.is_ipv4() { Kind::Ipv4 } else { Kind::Ipv6 },
            value,
            role,
            direction,
            path,
        });
    }

    /// `RemoteIpDetails` and `LocalIpDetails` of one action.
    fn add_details(&mut self, details: &Object<'_>, direction: Option<Direction>, path: &str) {
        for (member, role) in [("RemoteIpDetails", Role::Remote), ("LocalIpDetails", Role::Local)] {
            if let Some(address) = details.object(member).str("IpAddressV4") {
                self.add(&address, role, direction, format!("{path}.{member}.IpAddressV4"));
            }
        }
    }

    fn add_action(&mut self, action: &Object<'_>) {
        let connection = action.object("NetworkConnectionAction");
        let direction = connection
            .str("ConnectionDirection")
            .and_then(|text| Direction::from_asff(&text));
        self.add_details(&connection, direction, "Action.NetworkConnectionAction");
        self.add_details(&action.object("AwsApiCallAction"), None, "Action.AwsApiCallAction");
        let probes = action
            .object("PortProbeAction")
            .array("PortProbeDetails")
            .unwrap_or_default();
        for (index, probe) in probes.iter().enumerate() {
            let path = format!("Action.PortProbeAction.PortProbeDetails[{index}]");
            self.add_details(&probe.as_object(), None, &path);
        }
    }

    /// `Source` is the remote side of an inbound connection, `Destination` that of an outbound one. Without a
    /// direction neither can be said to be.
    fn add_network(&mut self, network: &Object<'_>) {
        let Some(direction) = network.str("Direction").and_then(|text| Direction::from_asff(&text)) else {
            return;
        };
        let (remote, local) = match direction {
            Direction::Inbound => ("Source", "Destination"),
            Direction::Outbound => ("Destination", "Source"),
        };
        for (side, role) in [(remote, Role::Remote), (local, Role::Local)] {
            for family in ["IpV4", "IpV6"] {
                let member = format!("{side}{family}");
                if let Some(address) = network.str(&member) {
                    self.add(&address, role, Some(direction), format!("Network.{member}"));
                }
            }
        }
    }

    fn add_threat_intel(&mut self, finding: &Object<'_>) {
        let indicators = finding.array("ThreatIntelIndicators").unwrap_or_default();
        for (index, indicator) in indicators.iter().enumerate() {
            let indicator = indicator.as_object();
            let is_address = matches!(indicator.str("Type").as_deref(), Some("IPV4_ADDRESS" | "IPV6_ADDRESS"));
            if let (true, Some(address)) = (is_address, indicator.str("Value")) {
                let path = format!("ThreatIntelIndicators[{index}].Value");
                self.add(&address, Role::Remote, None, path);
            }
        }
    }

    fn add_guardduty_product_fields(&mut self, fields: &Object<'_>) {
        let mut addresses: Vec<_> = fields
            .iter()
            .filter_map(|(name, value)| Some((GuardDutyAddress::from_key(name)?, value)))
            .collect();
        addresses.sort_by(|(a, _), (b, _)| a.rank().cmp(&b.rank()));
        for (key, value) in addresses {
            let direction = fields
                .str(&format!("{}{}/connectionDirection", key.prefix, key.action))
                .and_then(|text| Direction::from_asff(&text));
            if let Some(address) = value.as_str() {
                self.add(&address, key.role, direction, format!("ProductFields.{}", key.name));
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
    use super::*;
    use crate::json::Value;

    fn found(finding: &str) -> Vec<String> {
        of(&Value::new(serde_json::from_str(finding).unwrap()).as_object())
            .into_iter()
            .map(|i| {
                format!(
                    "{} {:?} {} {}",
                    i.value,
                    i.role,
                    match i.direction {
                        Some(Direction::Inbound) => "INBOUND",
                        Some(Direction::Outbound) => "OUTBOUND",
                        None => "-",
                    },
                    i.path
                )
            })
            .collect()
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
                {"Type":"DOMAIN","Value":"203.0.113.98"},
                {"Type":"IPV4_ADDRESS","Value":"203.0.113.12"},
                {"Type":"IPV6_ADDRESS","Value":"2001:DB8:0:0::13"}
            ],
            "Network": {"Direction":"IN","SourceIpV4":"203.0.113.10","SourceIpV6":"2001:db8::11",
                        "DestinationIpV4":"10.0.0.10","DestinationIpV6":"2001:db8:1::10"},
            "Action": {
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
                "203.0.113.10 Remote INBOUND Network.SourceIpV4",
                "2001:db8::11 Remote INBOUND Network.SourceIpV6",
                "10.0.0.10 Local INBOUND Network.DestinationIpV4",
                "2001:db8:1::10 Local INBOUND Network.DestinationIpV6",
                "203.0.113.12 Remote - ThreatIntelIndicators[1].Value",
                "2001:db8::13 Remote - ThreatIntelIndicators[2].Value",
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
    fn network_is_read_by_its_direction() {
        let network = |direction: &str| {
            format!(r#"{{"Network":{{{direction}"SourceIpV4":"192.0.2.1","DestinationIpV4":"192.0.2.2"}}}}"#)
        };
        assert_eq!(
            found(&network(r#""Direction":"OUT","#)),
            [
                "192.0.2.2 Remote OUTBOUND Network.DestinationIpV4",
                "192.0.2.1 Local OUTBOUND Network.SourceIpV4"
            ]
        );
        assert!(found(&network("")).is_empty());
        assert!(found(&network(r#""Direction":"SIDEWAYS","#)).is_empty());
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
            r#"{"ProductFields":{"action/remoteIpDetails/ipAddressV4":"192.0.2.1","aws/guardduty/service/action/a/b/remoteIpDetails/ipAddressV4":"192.0.2.1"}}"#,
            "[]",
        ] {
            assert!(found(finding).is_empty(), "{finding}");
        }
    }
}
