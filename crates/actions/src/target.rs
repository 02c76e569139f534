//! What is to be blocked: an address or a CIDR block.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// A CIDR block without host bits; a single address is /32 or /128. An IPv4-mapped IPv6 address is the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target(IpNet);

/// A text that is no [`Target`]. `Display` says what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Neither an address nor a CIDR block
    #[error("an IPv4 or IPv6 address, or a CIDR block such as 203.0.113.0/24 (host names are not looked up)")]
    NotAnAddress,
    /// An IPv6 address with a zone
    #[error("an address without a zone id: {address} says nothing outside one host")]
    Zone {
        /// The text as given
        address: String,
    },
    /// A prefix length that the address family does not have
    #[error("a CIDR block with a prefix length from 0 to {max}")]
    PrefixLength {
        /// The longest of the family
        max: u8,
    },
    /// Host bits are set
    #[error("a CIDR block without host bits: the network is {network}, the single address {address}")]
    HostBits {
        /// The network meant
        network: IpNet,
        /// The address as given
        address: IpAddr,
    },
}

impl Target {
    /// The block.
    #[must_use]
    pub fn network(self) -> IpNet {
        self.0
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub fn overlaps(self, other: &IpNet) -> bool {
        self.0.contains(other) || other.contains(&self.0)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bits before the IPv4 address in an IPv4-mapped IPv6 address (`::ffff:0:0/96`).
const MAPPED_PREFIX: u8 = 96;

/// The block, as IPv4 where it is one of IPv4-mapped IPv6 addresses.
#[must_use]
pub fn canonical(block: IpNet) -> IpNet {
    let IpNet::V6(v6) = block else { return block };
    v6.addr()
        .to_ipv4_mapped()
        .zip(v6.prefix_len().checked_sub(MAPPED_PREFIX))
        .and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok())
        .map_or(block, IpNet::V4)
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if text.contains('%') {
            return Err(TargetError::Zone {
                address: text.to_owned(),
            });
        }
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| TargetError::NotAnAddress)?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(max), |digits| {
            let is_number = !digits.is_empty()
                && digits.bytes().all(|b| b.is_ascii_digit())
                && (digits == "0" || !digits.starts_with('0'));
            digits
                .parse()
                .ok()
                .filter(|length| is_number && *length <= max)
                .ok_or(TargetError::PrefixLength { max })
        })?;
        let network = IpNet::new(address, prefix)
            .map(canonical)
            .map_err(|_| TargetError::PrefixLength { max })?;
        if network.trunc() != network {
            return Err(TargetError::HostBits {
                network: network.trunc(),
                address: network.addr(),
            });
        }
        Ok(Self(network))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(text: &str) -> Result<String, String> {
        text.parse::<Target>().map(|t| t.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn addresses_and_blocks() {
        for (text, block) in [
            ("203.0.113.7", "203.0.113.7/32"),
            ("203.0.113.7/32", "203.0.113.7/32"),
            ("203.0.113.0/24", "203.0.113.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::7", "2001:db8::7/128"),
            ("2001:db8:0:0::/64", "2001:db8::/64"),
            ("::ffff:203.0.113.7", "203.0.113.7/32"),
            ("::ffff:cb00:7107", "203.0.113.7/32"),
            ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(target(text).as_deref(), Ok(block), "{text}");
        }
    }

    #[test]
    fn what_is_none_says_what_it_should_be() {
        for text in [
            "",
            "300.1.1.1",
            "host.example",
            "203.0.113",
            "203.0.113.07",
            "203.0.113.7 ",
            "0xcb007107",
            "203.0.113.7:80",
            "[2001:db8::7]",
            "2001:db8::7::",
            "203.0.113.0-203.0.113.9",
            "203.0.113.7,203.0.113.8",
            "*",
            "/24",
        ] {
            assert!(
                target(text).unwrap_err().starts_with("an IPv4 or IPv6 address"),
                "{text}"
            );
        }
        for (text, message) in [
            ("10.0.0.0/33", "a CIDR block with a prefix length from 0 to 32"),
            ("10.0.0.0/", "a CIDR block with a prefix length from 0 to 32"),
            ("10.0.0.0/08", "a CIDR block with a prefix length from 0 to 32"),
            ("10.0.0.0/+8", "a CIDR block with a prefix length from 0 to 32"),
            ("10.0.0.0/8/8", "a CIDR block with a prefix length from 0 to 32"),
            ("10.0.0.0/255.0.0.0", "a CIDR block with a prefix length from 0 to 32"),
            ("2001:db8::/129", "a CIDR block with a prefix length from 0 to 128"),
            (
                "203.0.113.7/24",
                "a CIDR block without host bits: the network is 203.0.113.0/24, the single address 203.0.113.7",
            ),
            (
                "2001:db8::7/64",
                "a CIDR block without host bits: the network is 2001:db8::/64, the single address 2001:db8::7",
            ),
            (
                "fe80::1%eth0",
                "an address without a zone id: fe80::1%eth0 says nothing outside one host",
            ),
        ] {
            assert_eq!(target(text).unwrap_err(), message, "{text}");
        }
        assert_eq!(
            target("::ffff:0:0/80").unwrap_err(),
            "a CIDR block without host bits: the network is ::/80, the single address ::ffff:0.0.0.0"
        );
    }

    #[test]
    fn overlap_is_seen_from_both_sides() {
        let target: Target = "203.0.113.0/24".parse().unwrap();
        for (other, overlaps) in [
            ("203.0.113.7/32", true),
            ("203.0.0.0/16", true),
            ("203.0.113.0/24", true),
            ("203.0.114.0/24", false),
            ("2001:db8::/32", false),
            ("::/0", false),
        ] {
            assert_eq!(target.overlaps(&other.parse().unwrap()), overlaps, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic_and_what_is_read_reads_again(text in "[0-9a-f:./% ]{0,40}|\\PC*") {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
            }
        }

        #[test]
        fn every_address_is_its_own_block(address: IpAddr) {
            let target: Target = address.to_string().parse().unwrap();
            prop_assert_eq!(target.network(), IpNet::from(address.to_canonical()));
        }
    }
}
