//! The audit: block lists that have become attached.
//!
//! A rule on an attached group lets the target in, so it is taken back at once, whatever it is: everything on a block
//! list stands there to be kept out. The deny entries stay, and with them the blocks.

use std::collections::{BTreeMap, BTreeSet};

use aws_text::{Region, SecurityGroupId};

use crate::network_acl::NetworkAcl;
use crate::outcome::{Details, ErrorDetail, Outcome, Status};
use crate::plan::DEFAULT_GROUP;
use crate::policy::Policy;
use crate::rule::IngressRule;
use crate::{Refusal, RefusalCode};

/// A security group with the block-list tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// Its id
    pub id: SecurityGroupId,
    /// Its name
    pub name: String,
    /// Its VPC
    pub vpc_id: String,
    /// Its account
    pub owner_id: Option<String>,
}

/// A group whose ingress rules have to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The group
    pub group: Enrolled,
    /// The network interfaces it is attached to
    pub interfaces: BTreeSet<String>,
}

/// The block lists among the groups that are attached. A VPC's default group is none, whatever its tags say: no block
/// was ever put on it, and its rules are not ours to take.
#[must_use]
pub fn attached(groups: Vec<Enrolled>, interfaces: &BTreeMap<SecurityGroupId, BTreeSet<String>>) -> Vec<Attached> {
    groups
        .into_iter()
        .filter(|group| group.name != DEFAULT_GROUP)
        .filter_map(|group| {
            let interfaces = interfaces.get(&group.id).filter(|found| !found.is_empty())?.clone();
            Some(Attached { group, interfaces })
        })
        .collect()
}

/// An ingress rule that an audit took back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Its id, `sgr-…`
    pub id: String,
    /// For a person
    pub text: String,
    /// The rule, where a request could be about it
    pub rule: Option<IngressRule>,
}

/// What an audit did to one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The group and where it is attached
    pub attached: Attached,
    /// Its ingress rules
    pub rules: Vec<Revoked>,
    /// A fresh look shows none of them
    pub is_verified: bool,
    /// The VPC's network ACLs, where they could be looked at
    pub network_acls: Option<Vec<NetworkAcl>>,
}

/// The most rules and interfaces that a message names.
const MAX_NAMED: usize = 20;

fn listed<T: AsRef<str>>(names: impl ExactSizeIterator<Item = T>) -> String {
    let count = names.len();
    let mut listed: Vec<String> = names.take(MAX_NAMED).map(|name| name.as_ref().to_owned()).collect();
    if count > MAX_NAMED {
        listed.push(format!("and {} more", count - MAX_NAMED));
    }
    listed.join(", ")
}

impl Closed {
    /// Whether every block that the rules recorded still holds: in each network ACL with a subnet a deny entry stands
    /// before every allow that overlaps it.
    #[must_use]
    pub fn is_enforced(&self, policy: &Policy) -> bool {
        let Some(acls) = &self.network_acls else { return false };
        let mut in_use = acls.iter().filter(|acl| acl.has_subnet).peekable();
        in_use.peek().is_some()
            && in_use.all(|acl| {
                self.rules.iter().all(|revoked| {
                    revoked
                        .rule
                        .is_some_and(|rule| acl.denied_at(&rule, policy.rule_numbers).is_some())
                })
            })
    }

    /// The result that says so.
    #[must_use]
    pub fn outcome(&self, region: &Region, audit_id: &str, policy: &Policy, completed_at: String) -> Outcome {
        let Attached { group, interfaces } = &self.attached;
        let refusal = Refusal {
            code: RefusalCode::GroupInUse,
            message: format!(
                "block list {} is attached to {}, where its rules let in what was to be blocked; revoked: {}",
                group.id,
                listed(interfaces.iter()),
                listed(self.rules.iter().map(|rule| format!("{} ({})", rule.id, rule.text))),
            ),
            remedy: format!(
                "detach {} from these interfaces and find out who attached it; the blocks whose deny entries stand can be \
                 lifted by ALLOW_IP as before",
                group.id
            ),
        };
        let is_enforced = self.is_enforced(policy);
        let holds = if is_enforced {
            "every deny entry stands, so the blocks hold"
        } else {
            "not every one of these blocks has a deny entry in every network ACL in use"
        };
        let seen = if self.is_verified {
            ""
        } else {
            "; a fresh look did not show them gone"
        };
        Outcome {
            request_id: format!("audit:{audit_id}:{}", group.id),
            action: Some("AUDIT".to_owned()),
            target: None,
            status: Status::Succeeded,
            changed: true,
            enforced: is_enforced,
            verified: self.is_verified,
            summary: format!(
                "block list {} has become attached to {}: {} ingress rules revoked; {holds}{seen}",
                group.id,
                listed(interfaces.iter()),
                self.rules.len()
            ),
            details: Details {
                security_group_id: Some(group.id.to_string()),
                vpc_id: Some(group.vpc_id.clone()),
                account_id: group.owner_id.clone(),
                region: Some(region.to_string()),
                network_interface_ids: Some(interfaces.iter().cloned().collect()),
                revoked_rules: Some(
                    self.rules
                        .iter()
                        .map(|rule| format!("{} {}", rule.id, rule.text))
                        .collect(),
                ),
                ..Details::default()
            },
            error: Some(ErrorDetail::from(refusal)),
            completed_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network_acl::Effect;
    use crate::network_acl::tests::{acl, default_entries, entry};
    use crate::policy::tests::policy;
    use crate::rule::Protocol;

    fn group(id: &str, name: &str) -> Enrolled {
        Enrolled {
            id: id.parse().unwrap(),
            name: name.to_owned(),
            vpc_id: "vpc-1".to_owned(),
            owner_id: Some("111122223333".to_owned()),
        }
    }

    fn on(id: &str, interfaces: &[&str]) -> (SecurityGroupId, BTreeSet<String>) {
        (
            id.parse().unwrap(),
            interfaces.iter().map(|&name| name.to_owned()).collect(),
        )
    }

    #[test]
    fn only_enrolled_groups_that_are_attached_are_closed() {
        let groups = vec![
            group("sg-0000000a", "a"),
            group("sg-0000000b", "b"),
            group("sg-0000000c", "default"),
        ];
        let interfaces = BTreeMap::from([
            on("sg-0000000a", &["eni-1", "eni-2"]),
            on("sg-0000000b", &[]),
            on("sg-0000000c", &["eni-3"]),
            on("sg-0000000d", &["eni-4"]), // on the same interface, and not enrolled
        ]);
        let found = attached(groups, &interfaces);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].group.id.as_str(), "sg-0000000a");
        assert_eq!(found[0].interfaces.len(), 2);
    }

    fn closed(deny: bool) -> Closed {
        let mut entries = default_entries();
        if deny {
            entries.push(entry(1, Effect::Deny, "203.0.113.7/32", Some(6), Some((0, 65535))));
        }
        Closed {
            attached: Attached {
                group: group("sg-0000000a", "a"),
                interfaces: BTreeSet::from(["eni-1".to_owned()]),
            },
            rules: vec![Revoked {
                id: "sgr-1".to_owned(),
                text: "tcp 0-65535 from 203.0.113.7/32".to_owned(),
                rule: Some(IngressRule::new(
                    "203.0.113.7".parse().unwrap(),
                    Protocol::Tcp,
                    (0, 65535),
                )),
            }],
            is_verified: true,
            network_acls: Some(vec![acl("acl-0123abcd", entries)]),
        }
    }

    #[test]
    fn the_result_names_interfaces_and_rules_and_whether_the_blocks_hold() {
        let outcome = closed(true).outcome(&"us-east-1".parse().unwrap(), "i-1", &policy(), "now".to_owned());
        assert_eq!(outcome.request_id, "audit:i-1:sg-0000000a");
        assert!(outcome.changed && outcome.verified && outcome.enforced);
        let error = outcome.error.unwrap();
        assert_eq!(error.code, "group_in_use");
        for part in ["eni-1", "sgr-1 (tcp 0-65535 from 203.0.113.7/32)"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
        assert!(outcome.summary.ends_with("so the blocks hold"), "{}", outcome.summary);
        assert!(!closed(false).is_enforced(&policy()));
        let unseen = Closed {
            network_acls: None,
            ..closed(true)
        };
        assert!(!unseen.is_enforced(&policy()));
    }

    #[test]
    fn a_message_is_short_whatever_was_revoked() {
        let rule = closed(true).rules[0].clone();
        let many = Closed {
            rules: vec![rule; 1000],
            ..closed(true)
        };
        let outcome = many.outcome(&"us-east-1".parse().unwrap(), "i-1", &policy(), "now".to_owned());
        assert!(outcome.error.unwrap().message.len() < 2000);
    }
}
