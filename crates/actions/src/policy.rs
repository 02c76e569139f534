//! What may be asked for: protected targets, the places that are audited, and what the settings make possible.

use std::net::IpAddr;
use std::str::FromStr;

use aws_text::{Region, RoleArn};
use ipnet::IpNet;

use crate::block::network_acl::RuleNumbers;
use crate::request::{Action, Request};
use crate::target::Target;
use crate::{ErrorCode, Refusal};

/// The settings that decide what may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `PROTECTED_CIDRS`: blocks that hold nothing to be blocked
    pub protected: Vec<IpNet>,
    /// `ALLOW_PRIVATE_TARGETS`: private addresses may be blocked
    pub allow_private: bool,
    /// Where blocks may be, and are audited
    pub places: Places,
    /// `CONTAINMENT_TAG`: what makes a security group a block list
    pub tag: Tag,
    /// `ENFORCEMENT`: what stops the packets
    pub enforcement: Enforcement,
    /// `NETWORK_ACL_RULE_NUMBERS`: the numbers that deny entries may take
    pub rule_numbers: RuleNumbers,
    /// Settings that a block which ends by itself needs, and that are not set
    pub expiry_lacks: Vec<&'static str>,
}

/// Where blocks may be: in each of the regions, of the function's own account and of each role's. The audit goes through
/// all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// `TARGET_ROLE_ARNS`: the roles that may be assumed
    pub roles: Vec<RoleArn>,
    /// `TARGET_REGIONS`
    pub regions: Vec<Region>,
}

impl Places {
    /// Every place: a role (`None` for the function's own account) and a region.
    pub fn iter(&self) -> impl Iterator<Item = (Option<&RoleArn>, &Region)> {
        let roles = std::iter::once(None).chain(self.roles.iter().map(Some));
        roles.flat_map(|role| self.regions.iter().map(move |region| (role, region)))
    }
}

/// What stops the packets of a blocked target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// Deny entries in network ACLs
    NetworkAcl,
    /// Nothing: the block list is a record only
    None,
}

impl FromStr for Enforcement {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "network-acl" => Ok(Self::NetworkAcl),
            "none" => Ok(Self::None),
            _ => Err("expected network-acl or none"),
        }
    }
}

/// A tag's key and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The key
    pub key: String,
    /// The value
    pub value: String,
}

impl FromStr for Tag {
    type Err = &'static str;

    /// From `key=value`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err("expected a tag as key=value"),
        }
    }
}

/// The shortest prefix that may be blocked.
const MIN_PREFIX_V4: u8 = 24;
const MIN_PREFIX_V6: u8 = 64;

/// Never to be blocked: no address of the internet at large, and what an instance or its VPC itself needs.
const NEVER: [(&str, &str); 14] = [
    ("0.0.0.0/8", "unspecified"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
    // "Instance metadata and user data" and "Amazon DNS server" in the EC2 and VPC user guides
    ("fd00:ec2::/32", "link-local (AWS instance services)"),
    ("::ffff:0:0/96", "IPv4-mapped"),
    // "DNS64 and NAT64" in the VPC user guide, RFC 6052 and RFC 8215: subnets without IPv4 reach all of it through these
    ("64:ff9b::/96", "NAT64, which stands for IPv4 addresses"),
    ("64:ff9b:1::/48", "NAT64, which stands for IPv4 addresses"),
    ("::/96", "IPv4-compatible, which nobody uses any more"),
];

/// Private: RFC 1918, RFC 6598 (shared, in use in VPCs), RFC 4193.
const PRIVATE: [&str; 5] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "fc00::/7",
];

impl Policy {
    /// What can be checked of a request in this region before anything is read. `ALLOW_IP` only closes, so neither its
    /// target nor its region is checked: what was blocked under other settings can always be lifted.
    ///
    /// # Errors
    /// `role_not_allowed`, `region_not_allowed`, `protected_target` or `expiry_not_configured`.
    pub fn check(&self, request: &Request, region: &Region) -> Result<(), Refusal> {
        if let Some(role) = &request.role {
            self.check_role(role)?;
        }
        match request.action {
            Action::BlockIp => {
                self.check_region(region)?;
                self.check_target(request.rule.source())?;
                self.check_expiry(request)
            }
            Action::AllowIp => Ok(()),
        }
    }

    /// Whether a block can end by itself: everything that schedules need is set.
    #[must_use]
    pub fn can_end_blocks(&self) -> bool {
        self.expiry_lacks.is_empty()
    }

    fn check_expiry(&self, request: &Request) -> Result<(), Refusal> {
        if request.expires_after_seconds.is_none() || self.can_end_blocks() {
            return Ok(());
        }
        let lacking = self.expiry_lacks.join(" and ");
        Err(Refusal::new(
            ErrorCode::ExpiryNotConfigured,
            format!(
                "params.expires_after_seconds asks for a block that ends by itself, and nothing could end it: {lacking} \
                 not set"
            ),
            format!(
                "set {lacking} of the containment function, or leave params.expires_after_seconds out and send ALLOW_IP \
                 when the block is to end"
            ),
        ))
    }

    /// Whether the target may be blocked in a VPC with these CIDR blocks.
    ///
    /// # Errors
    /// `protected_target`.
    pub fn check_vpc(target: Target, vpc_id: &str, cidrs: &[IpNet]) -> Result<(), Refusal> {
        match cidrs.iter().find(|block| target.overlaps(block)) {
            None => Ok(()),
            Some(block) => Err(protected(
                target,
                &format!("{block} is the address space of {vpc_id} itself"),
                "correct the target; to cut off a host of the VPC, isolate it by its own security groups",
            )),
        }
    }

    /// Whether the target holds none of the public addresses of the account's own network interfaces in the region:
    /// those of elastic addresses, NAT gateways and load balancers.
    ///
    /// # Errors
    /// `protected_target`.
    pub fn check_own_addresses(target: Target, own: &[(IpAddr, String)]) -> Result<(), Refusal> {
        match own.iter().find(|(address, _)| target.overlaps(&IpNet::from(*address))) {
            None => Ok(()),
            Some((address, interface)) => Err(protected(
                target,
                &format!("{address} is the address of the account's own network interface {interface}"),
                "correct the target: this address is not an attacker's",
            )),
        }
    }

    fn check_role(&self, role: &RoleArn) -> Result<(), Refusal> {
        if self.places.roles.contains(role) {
            return Ok(());
        }
        Err(Refusal::new(
            ErrorCode::RoleNotAllowed,
            format!("{role} is not in TARGET_ROLE_ARNS"),
            "add the role to TARGET_ROLE_ARNS of the containment function, or correct params.aws_assume_role_arn",
        ))
    }

    fn check_region(&self, region: &Region) -> Result<(), Refusal> {
        if self.places.regions.contains(region) {
            return Ok(());
        }
        Err(Refusal::new(
            ErrorCode::RegionNotAllowed,
            format!("{region} is not in TARGET_REGIONS: no audit would watch over a block there"),
            "add the region to TARGET_REGIONS of the containment function, or correct params.aws_region",
        ))
    }

    fn check_target(&self, target: Target) -> Result<(), Refusal> {
        let refuse = |why: String, remedy: &str| Err(protected(target, &why, remedy));
        let network = target.network();
        let min = match network {
            IpNet::V4(_) => MIN_PREFIX_V4,
            IpNet::V6(_) => MIN_PREFIX_V6,
        };
        if network.prefix_len() < min {
            return refuse(
                format!("it is wider than /{min}"),
                "block the addresses seen, or blocks that are narrower",
            );
        }
        if let Some((block, kind)) = NEVER.iter().find(|(block, _)| overlaps(target, block)) {
            return refuse(
                format!("{block} is {kind}"),
                "correct the target; addresses of this kind are never those of an attacker",
            );
        }
        if let Some(block) = self.protected.iter().find(|block| target.overlaps(block)) {
            return refuse(
                format!("{block} is one of PROTECTED_CIDRS"),
                "correct the target, or take the block out of PROTECTED_CIDRS",
            );
        }
        if let Some(block) = PRIVATE.iter().find(|block| overlaps(target, block))
            && !self.allow_private
        {
            return refuse(
                format!("{block} is private"),
                "correct the target, or set ALLOW_PRIVATE_TARGETS to true",
            );
        }
        Ok(())
    }
}

fn protected(target: Target, why: &str, remedy: &str) -> Refusal {
    Refusal::new(
        ErrorCode::ProtectedTarget,
        format!("{target} must not be blocked: {why}"),
        remedy,
    )
}

/// The blocks of the tables above are checked by a test.
fn overlaps(target: Target, block: &str) -> bool {
    block.parse().is_ok_and(|block: IpNet| target.overlaps(&block))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn policy() -> Policy {
        Policy {
            protected: vec!["198.51.100.64/26".parse().unwrap(), "2001:db8:5::/48".parse().unwrap()],
            allow_private: false,
            places: Places {
                roles: vec!["arn:aws:iam::444455556666:role/aisoc".parse().unwrap()],
                regions: vec!["us-east-1".parse().unwrap(), "eu-west-1".parse().unwrap()],
            },
            tag: "aisoc:containment=blocklist".parse().unwrap(),
            enforcement: Enforcement::NetworkAcl,
            rule_numbers: RuleNumbers::default(),
            expiry_lacks: vec![],
        }
    }

    fn check(policy: &Policy, target: &str) -> Result<(), Refusal> {
        policy.check_target(target.parse().unwrap())
    }

    #[test]
    fn the_tables_hold_blocks() {
        for block in NEVER.iter().map(|(block, _)| block).chain(&PRIVATE) {
            let block: IpNet = block.parse().unwrap();
            assert_eq!(block, block.trunc());
        }
    }

    #[test]
    fn the_internet_at_large_may_be_blocked() {
        for target in [
            "203.0.113.7",
            "203.0.113.0/24",
            "198.51.100.0/26",
            "2001:db8::7",
            "2001:db8:4::/64",
            "64:ff9a::7",
            "64:ff9b:2::7",
            "172.32.0.1",
            "100.128.0.1",
        ] {
            assert_eq!(check(&policy(), target), Ok(()), "{target}");
        }
    }

    #[test]
    fn protected_targets_say_why() {
        for (target, why) in [
            ("0.0.0.0", "0.0.0.0/8 is unspecified"),
            ("127.0.0.1", "127.0.0.0/8 is loopback"),
            ("169.254.169.254", "169.254.0.0/16 is link-local"),
            ("224.0.0.1", "224.0.0.0/4 is multicast"),
            ("255.255.255.255", "255.255.255.255/32 is broadcast"),
            ("255.255.255.0/24", "255.255.255.255/32 is broadcast"),
            ("::", "::/128 is unspecified"),
            ("::1", "::1/128 is loopback"),
            ("fe80::1", "fe80::/10 is link-local"),
            ("ff02::1", "ff00::/8 is multicast"),
            ("fd00:ec2::254", "fd00:ec2::/32 is link-local (AWS instance services)"),
            ("0.0.0.0/0", "it is wider than /24"),
            ("203.0.112.0/23", "it is wider than /24"),
            ("::/0", "it is wider than /64"),
            ("2001:db8::/63", "it is wider than /64"),
            ("64:ff9b::/96", "64:ff9b::/96 is NAT64, which stands for IPv4 addresses"),
            (
                "64:ff9b::10.0.0.1",
                "64:ff9b::/96 is NAT64, which stands for IPv4 addresses",
            ),
            (
                "64:ff9b::ffff:ffff",
                "64:ff9b::/96 is NAT64, which stands for IPv4 addresses",
            ),
            (
                "64:ff9b:1::/64",
                "64:ff9b:1::/48 is NAT64, which stands for IPv4 addresses",
            ),
            (
                "64:ff9b:1:ffff::7",
                "64:ff9b:1::/48 is NAT64, which stands for IPv4 addresses",
            ),
            ("::203.0.113.7", "::/96 is IPv4-compatible, which nobody uses any more"),
            ("10.0.0.1", "10.0.0.0/8 is private"),
            ("172.31.255.255", "172.16.0.0/12 is private"),
            ("192.168.1.0/24", "192.168.0.0/16 is private"),
            ("100.64.0.1", "100.64.0.0/10 is private"),
            ("fd12:3456::1", "fc00::/7 is private"),
            ("198.51.100.100", "198.51.100.64/26 is one of PROTECTED_CIDRS"),
            ("198.51.100.0/24", "198.51.100.64/26 is one of PROTECTED_CIDRS"),
            ("2001:db8:5:1::/64", "2001:db8:5::/48 is one of PROTECTED_CIDRS"),
        ] {
            let refusal = check(&policy(), target).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::ProtectedTarget);
            assert!(refusal.message.ends_with(why), "{target}: {}", refusal.message);
        }
    }

    #[test]
    fn private_targets_can_be_allowed_and_nothing_else_with_them() {
        let policy = Policy {
            allow_private: true,
            ..policy()
        };
        assert_eq!(check(&policy, "10.0.0.1"), Ok(()));
        for target in ["169.254.169.254", "fd00:ec2::253", "10.0.0.0/16", "127.0.0.1"] {
            assert!(check(&policy, target).is_err(), "{target}");
        }
    }

    #[test]
    fn a_vpc_keeps_its_own_addresses() {
        let cidrs = ["10.1.0.0/16", "203.0.113.0/25", "2001:db8:7::/56"].map(|block| block.parse().unwrap());
        let check = |target: &str| Policy::check_vpc(target.parse().unwrap(), "vpc-1", &cidrs);
        for inside in ["203.0.113.7", "203.0.113.0/24", "2001:db8:7::1"] {
            assert_eq!(check(inside).unwrap_err().code, ErrorCode::ProtectedTarget, "{inside}");
        }
        for outside in ["203.0.113.128", "2001:db8:8::1"] {
            assert_eq!(check(outside), Ok(()), "{outside}");
        }
    }

    #[test]
    fn a_block_that_nothing_could_end_is_refused_rather_than_made_permanent() {
        let lacking = Policy {
            expiry_lacks: vec!["ACTIONS_QUEUE_ARN", "SCHEDULER_ROLE_ARN"],
            ..policy()
        };
        let request = |action: &str| {
            let expiry = if action == "BLOCK_IP" {
                r#","expires_after_seconds":60"#
            } else {
                ""
            };
            let body = format!(
                r#"{{"request_id":"r","action":"{action}","target":"203.0.113.7",
                     "params":{{"aws_security_group_id":"sg-0123abcd"{expiry}}}}}"#
            );
            Request::read(&body, "m").unwrap()
        };
        let refusal = lacking.check(&request("BLOCK_IP"), &region()).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::ExpiryNotConfigured);
        assert!(
            refusal.remedy.contains("ACTIONS_QUEUE_ARN and SCHEDULER_ROLE_ARN"),
            "{}",
            refusal.remedy
        );
        assert_eq!(policy().check(&request("BLOCK_IP"), &region()), Ok(()));
        assert_eq!(lacking.check(&request("ALLOW_IP"), &region()), Ok(()));
    }

    fn region() -> Region {
        "us-east-1".parse().unwrap()
    }

    #[test]
    fn the_accounts_own_addresses_are_not_blocked() {
        let own = [
            ("203.0.113.9".parse().unwrap(), "eni-1".to_owned()),
            ("2001:db8:9::9".parse().unwrap(), "eni-2".to_owned()),
        ];
        let check = |target: &str| Policy::check_own_addresses(target.parse().unwrap(), &own);
        for inside in [
            "203.0.113.9",
            "203.0.113.0/24",
            "203.0.113.8/31",
            "2001:db8:9::9",
            "2001:db8:9::/64",
        ] {
            assert_eq!(check(inside).unwrap_err().code, ErrorCode::ProtectedTarget, "{inside}");
        }
        for outside in ["203.0.113.8", "203.0.113.10/31", "2001:db8:9::8"] {
            assert_eq!(check(outside), Ok(()), "{outside}");
        }
    }

    #[test]
    fn a_block_outside_the_audited_places_is_refused() {
        let request = |action: &str, role: Option<&str>| {
            let role = role.map_or_else(String::new, |role| format!(r#","aws_assume_role_arn":"{role}""#));
            let body = format!(
                r#"{{"request_id":"r","action":"{action}","target":"203.0.113.7",
                     "params":{{"aws_security_group_id":"sg-0123abcd"{role}}}}}"#
            );
            Request::read(&body, "m").unwrap()
        };
        let code = |action, role, region: &str| {
            let checked = policy().check(&request(action, role), &region.parse().unwrap());
            checked.err().map(|refusal| refusal.code)
        };
        let allowed = Some("arn:aws:iam::444455556666:role/aisoc");
        for action in ["BLOCK_IP", "ALLOW_IP"] {
            assert_eq!(code(action, None, "eu-west-1"), None);
            assert_eq!(code(action, allowed, "us-east-1"), None);
            for role in [
                "arn:aws:iam::444455556666:role/aisoc-2",
                "arn:aws:iam::444455556666:role/path/aisoc",
                "arn:aws-cn:iam::444455556666:role/aisoc",
                "arn:aws:iam::111122223333:role/aisoc",
            ] {
                assert_eq!(
                    code(action, Some(role), "us-east-1"),
                    Some(ErrorCode::RoleNotAllowed),
                    "{role}"
                );
            }
        }
        assert_eq!(code("BLOCK_IP", None, "us-west-2"), Some(ErrorCode::RegionNotAllowed));
        assert_eq!(code("ALLOW_IP", None, "us-west-2"), None);
    }

    #[test]
    fn every_role_in_every_region_is_a_place() {
        let places: Vec<String> = policy()
            .places
            .iter()
            .map(|(role, region)| format!("{} {region}", role.map_or("own", |role| role.account_id())))
            .collect();
        assert_eq!(
            places,
            [
                "own us-east-1",
                "own eu-west-1",
                "444455556666 us-east-1",
                "444455556666 eu-west-1"
            ]
        );
    }

    #[test]
    fn an_enforcement_has_a_name() {
        assert_eq!("network-acl".parse(), Ok(Enforcement::NetworkAcl));
        assert_eq!("none".parse(), Ok(Enforcement::None));
        for bad in ["", "None", "network_acl", "security-group"] {
            assert!(bad.parse::<Enforcement>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tag_has_a_key_and_a_value() {
        let tag: Tag = "aisoc:containment=blocklist".parse().unwrap();
        assert_eq!(
            (tag.key.as_str(), tag.value.as_str()),
            ("aisoc:containment", "blocklist")
        );
        assert_eq!("a=b=c".parse::<Tag>().unwrap().value, "b=c");
        for bad in ["", "a", "=b", "a=", "="] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }
}
