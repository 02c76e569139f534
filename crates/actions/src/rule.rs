//! An ingress rule: source, protocol and ports.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::target::Target;

/// Protocol of a rule. ICMP is none: to cut it off, block all protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// 6
    Tcp,
    /// 17
    Udp,
    /// −1, EC2's number for all of them
    All,
}

impl Protocol {
    /// As EC2 names it in a security group rule.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::All => "-1",
        }
    }

    /// By EC2's name or number, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "tcp" | "6" => Some(Protocol::Tcp),
            "udp" | "17" => Some(Protocol::Udp),
            "-1" => Some(Protocol::All),
            _ => None,
        }
    }
}

/// The rule that a request is about. Two are the same where source, protocol and ports are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IngressRule {
    source: Target,
    protocol: Protocol,
    ports: Option<(u16, u16)>,
}

impl IngressRule {
    /// A rule for `source`. The ports (first and last, both inclusive) count for TCP and UDP only.
    #[must_use]
    pub fn new(source: Target, protocol: Protocol, ports: (u16, u16)) -> Self {
        let ports = match protocol {
            Protocol::Tcp | Protocol::Udp => Some(ports),
            Protocol::All => None,
        };
        Self {
            source,
            protocol,
            ports,
        }
    }

    /// Where the traffic comes from.
    #[must_use]
    pub fn source(&self) -> Target {
        self.source
    }

    /// The protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// First and last port; `None` for all protocols.
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        self.ports
    }
}

impl fmt::Display for IngressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ports {
            None => write!(f, "all protocols from {}", self.source),
            Some((from, to)) if from == to => {
                write!(f, "{} {from} from {}", self.protocol.as_str(), self.source)
            }
            Some((from, to)) => write!(f, "{} {from}-{to} from {}", self.protocol.as_str(), self.source),
        }
    }
}

/// A text that [`IngressRule`]'s `Display` did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a rule such as \"tcp 0-65535 from 203.0.113.7/32\"")]
pub struct NotARule;

impl FromStr for IngressRule {
    type Err = NotARule;

    /// From what `Display` writes.
    fn from_str(text: &str) -> Result<Self, NotARule> {
        let (traffic, source) = text.split_once(" from ").ok_or(NotARule)?;
        let source = source.parse().map_err(|_| NotARule)?;
        if traffic == "all protocols" {
            return Ok(Self::new(source, Protocol::All, (0, u16::MAX)));
        }
        let (protocol, ports) = traffic.split_once(' ').ok_or(NotARule)?;
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |text: &str| text.parse::<u16>().map_err(|_| NotARule);
        let rule = Self::new(
            source,
            Protocol::from_name(protocol).ok_or(NotARule)?,
            (port(first)?, port(last)?),
        );
        // One rule has one text: it is part of a key.
        if rule.to_string() == text {
            Ok(rule)
        } else {
            Err(NotARule)
        }
    }
}

impl<'de> Deserialize<'de> for IngressRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for IngressRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_count_only_where_there_are_ports() {
        let source: Target = "203.0.113.7".parse().unwrap();
        let rule = |protocol, ports| IngressRule::new(source, protocol, ports);
        assert_eq!(rule(Protocol::All, (1, 2)), rule(Protocol::All, (3, 4)));
        assert_ne!(rule(Protocol::Tcp, (1, 2)), rule(Protocol::Tcp, (1, 3)));
        assert_eq!(
            rule(Protocol::All, (1, 2)).to_string(),
            "all protocols from 203.0.113.7/32"
        );
        assert_eq!(
            rule(Protocol::Tcp, (0, 65535)).to_string(),
            "tcp 0-65535 from 203.0.113.7/32"
        );
        assert_eq!(rule(Protocol::Udp, (53, 53)).to_string(), "udp 53 from 203.0.113.7/32");
    }

    #[test]
    fn a_rule_is_read_from_its_own_text_alone() {
        for text in [
            "all protocols from 2001:db8::/64",
            "tcp 0-65535 from 203.0.113.7/32",
            "udp 53 from 203.0.113.0/24",
        ] {
            assert_eq!(text.parse::<IngressRule>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "tcp from 203.0.113.7/32",
            "tcp 53-53 from 203.0.113.7/32",
            "TCP 53 from 203.0.113.7/32",
            "-1 53 from 203.0.113.7/32",
            "udp 53 from 203.0.113.7",
            "udp 53 from 203.0.113.7/24",
            "icmp 0 from 203.0.113.7/32",
        ] {
            assert_eq!(bad.parse::<IngressRule>(), Err(NotARule), "{bad}");
        }
    }

    #[test]
    fn protocols_by_name_and_number() {
        for (name, protocol) in [
            ("tcp", Some(Protocol::Tcp)),
            ("TCP", Some(Protocol::Tcp)),
            ("6", Some(Protocol::Tcp)),
            ("Udp", Some(Protocol::Udp)),
            ("17", Some(Protocol::Udp)),
            ("-1", Some(Protocol::All)),
            ("icmp", None),
            ("foo", None),
            ("", None),
            ("06", None),
        ] {
            assert_eq!(Protocol::from_name(name), protocol, "{name}");
        }
    }
}
