//! The decision: request and state read, to the steps it takes.

use std::collections::BTreeMap;

use aws_text::SecurityGroupId;

use crate::policy::Policy;
use crate::request::{Action, Request};
use crate::rule::IngressRule;
use crate::{Refusal, RefusalCode};

/// A security group as EC2 describes it, with what is attached to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// The group
    pub id: SecurityGroupId,
    /// Its name; `default` is a VPC's default group, whose name cannot be given to another
    pub name: String,
    /// The VPC
    pub vpc_id: Option<String>,
    /// The account
    pub owner_id: Option<String>,
    /// Its tags
    pub tags: BTreeMap<String, String>,
    /// Its ingress rules that a request can be about, with their ids
    pub rules: BTreeMap<IngressRule, String>,
    /// Network interfaces it is attached to; read for `BLOCK_IP` only
    pub interfaces: Vec<String>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `AuthorizeSecurityGroupIngress`
    AuthorizeIngress {
        /// The block list
        group: SecurityGroupId,
        /// The rule
        rule: IngressRule,
        /// The rule's description
        description: String,
    },
    /// `RevokeSecurityGroupIngress`
    RevokeIngress {
        /// The block list
        group: SecurityGroupId,
        /// The rule
        rule: IngressRule,
    },
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::AuthorizeIngress { group, rule, .. } => {
                write!(f, "authorize ingress {rule} on {group}")
            }
            Step::RevokeIngress { group, rule } => write!(f, "revoke ingress {rule} on {group}"),
        }
    }
}

/// The changes that carry out a request, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The changes
    pub steps: Vec<Step>,
    /// By the state that was read there is nothing to change. That state may be older than a change just made
    /// ("Eventual consistency" in the EC2 developer guide), so the steps are taken all the same: EC2 then says itself
    /// that it is already so
    pub is_already_so: bool,
}

/// Decides what a request takes, given the state.
///
/// # Errors
/// `group_not_enrolled` for either action; `group_in_use` for a block.
pub fn plan(request: &Request, state: &GroupState, policy: &Policy) -> Result<Plan, Refusal> {
    check_enrolled(state, policy)?;
    let present = state.rules.contains_key(&request.rule);
    let group = state.id.clone();
    let rule = request.rule;
    let (step, is_already_so) = match request.action {
        Action::BlockIp => {
            check_harmless(state)?;
            let description = description(request);
            let step = Step::AuthorizeIngress {
                group,
                rule,
                description,
            };
            (step, present)
        }
        Action::AllowIp => (Step::RevokeIngress { group, rule }, !present),
    };
    Ok(Plan {
        steps: vec![step],
        is_already_so,
    })
}

/// The group is a block list. Asked of `ALLOW_IP` too, so that nobody strips another group's rules through us.
fn check_enrolled(state: &GroupState, policy: &Policy) -> Result<(), Refusal> {
    let tag = &policy.tag;
    if state.tags.get(&tag.key) == Some(&tag.value) {
        return Ok(());
    }
    Err(Refusal {
        code: RefusalCode::GroupNotEnrolled,
        message: format!(
            "{} is not a block list: it has no tag {}={}",
            state.id, tag.key, tag.value
        ),
        remedy: format!(
            "use a security group that is attached to nothing and is kept for this, and tag it {}={}",
            tag.key, tag.value
        ),
    })
}

/// A rule on the group lets nobody in: it is no default group, and attached to nothing.
fn check_harmless(state: &GroupState) -> Result<(), Refusal> {
    if state.name == "default" {
        return Err(Refusal {
            code: RefusalCode::GroupNotEnrolled,
            message: format!(
                "{} is the default group of its VPC, to which AWS attaches what names no other",
                state.id
            ),
            remedy: "use a security group that is attached to nothing and is kept for this".to_owned(),
        });
    }
    if !state.interfaces.is_empty() {
        return Err(Refusal {
            code: RefusalCode::GroupInUse,
            message: format!(
                "{} is attached to {}: a rule on it would let the target in there",
                state.id,
                state.interfaces.join(", ")
            ),
            remedy: format!(
                "detach {} from these interfaces, or use a security group that is attached to nothing",
                state.id
            ),
        });
    }
    Ok(())
}

/// The most characters of a rule's description (`IpRange` in the EC2 API reference).
const MAX_DESCRIPTION: usize = 255;

/// Says which request the rule is of. EC2 takes letters, digits, spaces and `._-:/()#,@[]+=&;{}!$*`; anything else
/// becomes `_`.
fn description(request: &Request) -> String {
    let by = request
        .requested_by
        .as_deref()
        .map(|by| format!(" requested_by={by}"))
        .unwrap_or_default();
    format!("aisoc block request_id={}{by}", request.request_id)
        .chars()
        .map(|c| {
            let is_legal = c.is_ascii_alphanumeric() || " ._-:/()#,@[]+=&;{}!$*".contains(c);
            if is_legal { c } else { '_' }
        })
        .take(MAX_DESCRIPTION)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::tests::policy;
    use crate::rule::Protocol;

    fn request(action: Action) -> Request {
        Request {
            request_id: "r-1".to_owned(),
            action,
            group: "sg-0123abcd".parse().unwrap(),
            region: None,
            rule: IngressRule::new("203.0.113.7".parse().unwrap(), Protocol::Tcp, (0, 65535)),
            role: None,
            dry_run: false,
            requested_by: Some("ana@example.com".to_owned()),
        }
    }

    fn block_list() -> GroupState {
        GroupState {
            id: "sg-0123abcd".parse().unwrap(),
            name: "blocklist".to_owned(),
            vpc_id: Some("vpc-1".to_owned()),
            owner_id: Some("111122223333".to_owned()),
            tags: BTreeMap::from([("aisoc:containment".to_owned(), "blocklist".to_owned())]),
            rules: BTreeMap::new(),
            interfaces: vec![],
        }
    }

    fn with_rule() -> GroupState {
        GroupState {
            rules: BTreeMap::from([(request(Action::BlockIp).rule, "sgr-1".to_owned())]),
            ..block_list()
        }
    }

    fn code(action: Action, state: &GroupState) -> RefusalCode {
        plan(&request(action), state, &policy()).unwrap_err().code
    }

    #[test]
    fn a_block_adds_the_rule_and_allow_removes_it_whatever_the_state_shows() {
        let authorize = Step::AuthorizeIngress {
            group: "sg-0123abcd".parse().unwrap(),
            rule: request(Action::BlockIp).rule,
            description: "aisoc block request_id=r-1 requested_by=ana@example.com".to_owned(),
        };
        let revoke = Step::RevokeIngress {
            group: "sg-0123abcd".parse().unwrap(),
            rule: request(Action::AllowIp).rule,
        };
        for (action, state, step, is_already_so) in [
            (Action::BlockIp, block_list(), &authorize, false),
            (Action::BlockIp, with_rule(), &authorize, true),
            (Action::AllowIp, with_rule(), &revoke, false),
            (Action::AllowIp, block_list(), &revoke, true),
        ] {
            let plan = plan(&request(action), &state, &policy()).unwrap();
            assert_eq!(
                (plan.steps.as_slice(), plan.is_already_so),
                (std::slice::from_ref(step), is_already_so)
            );
        }
    }

    #[test]
    fn a_rule_with_other_ports_is_another_rule() {
        let mut request = request(Action::AllowIp);
        request.rule = IngressRule::new(request.rule.source(), Protocol::Tcp, (443, 443));
        assert!(plan(&request, &with_rule(), &policy()).unwrap().is_already_so);
    }

    #[test]
    fn a_group_without_the_tag_is_left_alone() {
        for tags in [
            BTreeMap::new(),
            BTreeMap::from([("aisoc:containment".to_owned(), "Blocklist".to_owned())]),
            BTreeMap::from([("AISOC:containment".to_owned(), "blocklist".to_owned())]),
        ] {
            let state = GroupState { tags, ..with_rule() };
            for action in [Action::BlockIp, Action::AllowIp] {
                assert_eq!(code(action, &state), RefusalCode::GroupNotEnrolled);
            }
        }
    }

    #[test]
    fn an_attached_group_gets_no_rule_and_can_still_lose_one() {
        let state = GroupState {
            interfaces: vec!["eni-1".to_owned(), "eni-2".to_owned()],
            ..with_rule()
        };
        let refusal = plan(&request(Action::BlockIp), &state, &policy()).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::GroupInUse);
        assert!(refusal.message.contains("eni-1, eni-2"), "{}", refusal.message);
        assert_eq!(
            plan(&request(Action::AllowIp), &state, &policy()).unwrap().steps.len(),
            1
        );
    }

    #[test]
    fn a_default_group_is_never_a_block_list() {
        let state = GroupState {
            name: "default".to_owned(),
            ..block_list()
        };
        assert_eq!(code(Action::BlockIp, &state), RefusalCode::GroupNotEnrolled);
    }

    #[test]
    fn descriptions_are_what_ec2_takes() {
        let mut request = request(Action::BlockIp);
        request.request_id = format!("r\"<é\n{}", "x".repeat(300));
        let description = description(&request);
        assert!(description.starts_with("aisoc block request_id=r____xxx"));
        assert_eq!(description.chars().count(), 255);
    }

    prop_compose! {
        fn any_state()(
            name in prop_oneof![Just("default".to_owned()), Just("blocklist".to_owned()), any::<String>()],
            tag in prop::option::of(prop_oneof![Just("blocklist".to_owned()), any::<String>()]),
            present in any::<bool>(),
            interfaces in prop::collection::vec("eni-[0-9a-f]{8}", 0..3),
        ) -> GroupState {
            GroupState {
                name,
                tags: tag.map(|value| ("aisoc:containment".to_owned(), value)).into_iter().collect(),
                interfaces,
                ..if present { with_rule() } else { block_list() }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn no_plan_adds_a_rule_that_could_let_anyone_in(state in any_state(), block in any::<bool>()) {
            let action = if block { Action::BlockIp } else { Action::AllowIp };
            let Ok(plan) = plan(&request(action), &state, &policy()) else { return Ok(()) };
            let enrolled = state.tags.get("aisoc:containment").is_some_and(|value| value == "blocklist");
            prop_assert!(enrolled);
            for step in plan.steps {
                match step {
                    Step::AuthorizeIngress { .. } => {
                        prop_assert!(block && state.interfaces.is_empty() && state.name != "default");
                    }
                    Step::RevokeIngress { rule, .. } => {
                        prop_assert!(!block && rule == request(action).rule);
                    }
                }
            }
        }
    }
}
