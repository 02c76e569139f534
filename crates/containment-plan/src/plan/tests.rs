use proptest::prelude::*;

use super::*;
use crate::network_acl::tests::{acl, default_entries, entry};
use crate::network_acl::{Effect, Entry, RuleNumbers, protocol_number};
use crate::policy::tests::policy;
use crate::rule::Protocol;
use crate::target::Target;

pub(crate) fn request(action: Action) -> Request {
    Request {
        request_id: "r-1".to_owned(),
        action,
        group: "sg-0123abcd".parse().unwrap(),
        region: None,
        rule: IngressRule::new("203.0.113.7".parse().unwrap(), Protocol::Tcp, (0, 65535)),
        role: None,
        dry_run: false,
        requested_by: Some("ana@example.com".to_owned()),
        network_acl_ids: None,
        expires_after_seconds: None,
        only_if_blocked_by: None,
    }
}

const ACL: &str = "acl-0123abcd";

pub(crate) fn block_list() -> State {
    State {
        region: "us-east-1".parse().unwrap(),
        group: GroupState {
            id: "sg-0123abcd".parse().unwrap(),
            name: "blocklist".to_owned(),
            vpc_id: "vpc-1".to_owned(),
            owner_id: Some("111122223333".to_owned()),
            tags: BTreeMap::from([("aisoc:containment".to_owned(), "blocklist".to_owned())]),
            rules: BTreeMap::new(),
            interfaces: vec![],
        },
        vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
        network_acls: Some(vec![acl(ACL, default_entries())]),
        other_holders: vec![],
    }
}

fn recorded(by: &Request, expires_at: Option<Timestamp>) -> RecordedRule {
    RecordedRule {
        id: "sgr-1".to_owned(),
        description: record::description(by, expires_at),
        tags: RecordTags::of(by, expires_at)
            .pairs()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    }
}

/// The state after a block by the request.
pub(crate) fn blocked_by(by: &Request) -> State {
    let mut state = block_list();
    let end = record::expires_at(by, None, now());
    state.group.rules.insert(by.rule, recorded(by, end));
    let deny = entry(1, Effect::Deny, "203.0.113.7/32", Some(6), Some((0, 65535)));
    state.network_acls.as_mut().unwrap()[0].entries.push(deny);
    state
}

fn now() -> Timestamp {
    "2026-11-24T10:00:00Z".parse().unwrap()
}

fn decide(request: &Request, state: &State) -> Result<Plan, Refusal> {
    plan(request, state, &policy(), now())
}

fn steps(request: &Request, state: &State) -> Vec<Vec<String>> {
    let plan = decide(request, state).unwrap();
    let line = |planned: &Planned| {
        let so = if planned.is_already_so { "= " } else { "" };
        format!("{so}{}", planned.step)
    };
    plan.stages
        .iter()
        .map(|stage| stage.iter().map(line).collect())
        .collect()
}

fn code(request: &Request, state: &State) -> RefusalCode {
    decide(request, state).unwrap_err().code
}

fn schedule_name() -> String {
    record::schedule_name(&"us-east-1".parse().unwrap(), &request(Action::BlockIp))
}

const RULE: &str = "tcp 0-65535 from 203.0.113.7/32";

#[test]
fn a_block_is_written_down_before_it_is_made() {
    let mut request = request(Action::BlockIp);
    let delete = format!("= delete the schedule {}, if there is one", schedule_name());
    assert_eq!(
        steps(&request, &block_list()),
        [
            vec![format!("authorize ingress {RULE} on sg-0123abcd")],
            vec![format!("add deny entry 1 to {ACL}: {RULE}"), delete],
        ]
    );
    request.expires_after_seconds = Some(3600);
    assert_eq!(
        steps(&request, &block_list()),
        [
            vec![format!("authorize ingress {RULE} on sg-0123abcd")],
            vec![format!(
                "schedule ALLOW_IP at 2026-11-24T11:00:00Z ({})",
                schedule_name()
            )],
            vec![format!("add deny entry 1 to {ACL}: {RULE}")],
        ]
    );
}

#[test]
fn a_block_that_is_there_is_asked_for_again_and_renewed_if_it_is_anothers() {
    let first = request(Action::BlockIp);
    let delete = format!("= delete the schedule {}, if there is one", schedule_name());
    let effect = vec![format!("= add deny entry 1 to {ACL}: {RULE}"), delete];
    let authorize = vec![format!("= authorize ingress {RULE} on sg-0123abcd")];
    assert_eq!(steps(&first, &blocked_by(&first)), [authorize.clone(), effect.clone()]);
    let second = Request {
        request_id: "r-2".to_owned(),
        ..first.clone()
    };
    let renew = vec!["renew the tags of sgr-1".to_owned()];
    let (deny, delete) = (vec![effect[0].clone()], vec![effect[1].clone()]);
    assert_eq!(steps(&second, &blocked_by(&first)), [authorize, deny, renew, delete]);
}

#[test]
fn a_lift_removes_the_effect_before_the_record() {
    let request = request(Action::AllowIp);
    let delete = format!("= delete the schedule {}, if there is one", schedule_name());
    let revoke = format!("revoke ingress {RULE} on sg-0123abcd");
    assert_eq!(
        steps(&request, &blocked_by(&self::request(Action::BlockIp))),
        [
            vec![format!("remove deny entry 1 from {ACL}: {RULE}")],
            vec![revoke.clone(), delete.clone()]
        ]
    );
    // WHEN an audit has taken the rule back
    let mut audited = blocked_by(&self::request(Action::BlockIp));
    audited.group.rules.clear();
    assert_eq!(
        steps(&request, &audited),
        [
            vec![format!("remove deny entry 1 from {ACL}: {RULE}")],
            vec![format!("= {revoke}"), delete.clone()]
        ]
    );
    // WHEN another block list of the VPC carries the rule as well
    let shared = State {
        other_holders: vec!["sg-0123abce".parse().unwrap()],
        ..blocked_by(&self::request(Action::BlockIp))
    };
    assert_eq!(steps(&request, &shared), [vec![revoke.clone(), delete.clone()]]);
    // WHEN the network ACLs could not be looked at
    let unseen = State {
        network_acls: None,
        ..blocked_by(&self::request(Action::BlockIp))
    };
    assert_eq!(steps(&request, &unseen), [vec![revoke, delete]]);
}

#[test]
fn without_schedules_none_is_touched() {
    let policy = Policy {
        expiry_lacks: vec!["SCHEDULER_ROLE_ARN"],
        ..policy()
    };
    for (action, state) in [
        (Action::BlockIp, block_list()),
        (Action::AllowIp, blocked_by(&request(Action::BlockIp))),
    ] {
        let plan = plan(&request(action), &state, &policy, now()).unwrap();
        let is_schedule =
            |planned: &Planned| matches!(planned.step, Step::PutSchedule(_) | Step::DeleteSchedule { .. });
        assert!(!plan.steps().any(is_schedule));
    }
}

#[test]
fn an_expiry_ends_its_own_block_and_no_newer_one() {
    let first = request(Action::BlockIp);
    let expiry = Request {
        only_if_blocked_by: Some("r-1".to_owned()),
        ..request(Action::AllowIp)
    };
    assert_eq!(decide(&expiry, &blocked_by(&first)).unwrap().stages.len(), 2);
    let renewed = blocked_by(&Request {
        request_id: "r-2".to_owned(),
        ..first.clone()
    });
    let plan = decide(&expiry, &renewed).unwrap();
    assert_eq!((plan.steps().count(), plan.renewed_by.as_deref()), (0, Some("r-2")));
    // A rule whose tags someone took away might be of any block.
    let mut untagged = blocked_by(&first);
    untagged.group.rules.get_mut(&first.rule).unwrap().tags.clear();
    assert_eq!(decide(&expiry, &untagged).unwrap().steps().count(), 0);
    // A rule that an audit revoked was not renewed.
    let mut gone = blocked_by(&first);
    gone.group.rules.clear();
    assert_eq!(decide(&expiry, &gone).unwrap().stages.len(), 2);
}

#[test]
fn the_schedule_sends_what_undoes_the_block() {
    let request = Request {
        expires_after_seconds: Some(60),
        role: Some("arn:aws:iam::444455556666:role/aisoc-containment".parse().unwrap()),
        request_id: "r".repeat(256),
        ..request(Action::BlockIp)
    };
    let plan = decide(&request, &block_list()).unwrap();
    let schedule = plan
        .steps()
        .find_map(|planned| match &planned.step {
            Step::PutSchedule(schedule) => Some(schedule.clone()),
            _ => None,
        })
        .unwrap();
    assert_eq!(schedule.at, plan.expires_at.unwrap());
    let lift = Request::read(&schedule.request.to_string(), "m").unwrap();
    assert_eq!(
        (lift.action, lift.rule, &lift.group),
        (Action::AllowIp, request.rule, &request.group)
    );
    assert_eq!(
        (lift.region.as_ref(), &lift.role),
        (Some(&block_list().region), &request.role)
    );
    assert_eq!(lift.only_if_blocked_by.as_deref(), Some(request.request_id.as_str()));
    assert!(lift.request_id.starts_with("expiry:rrr"));
    assert_eq!(
        record::schedule_name(&block_list().region, &lift),
        schedule.name,
        "an ALLOW_IP finds the schedule"
    );
}

#[test]
fn every_acl_in_use_denies_or_those_named() {
    let mut state = block_list();
    let mut unused = acl("acl-0123abce", vec![]);
    unused.has_subnet = false;
    state.network_acls = Some(vec![acl(ACL, default_entries()), unused, acl("acl-0123abcf", vec![])]);
    let denied = |request: &Request| -> Vec<String> {
        decide(request, &state)
            .unwrap()
            .steps()
            .filter_map(|planned| match &planned.step {
                Step::AddDeny(deny) => Some(deny.acl.to_string()),
                _ => None,
            })
            .collect()
    };
    let mut request = request(Action::BlockIp);
    assert_eq!(denied(&request), [ACL, "acl-0123abcf"]);
    request.network_acl_ids = Some(vec!["acl-0123abce".parse().unwrap()]);
    assert_eq!(denied(&request), ["acl-0123abce"]);
    request.network_acl_ids = Some(vec!["acl-0123abce".parse().unwrap(), "acl-99999999".parse().unwrap()]);
    let refusal = decide(&request, &state).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::NetworkAclNotInVpc);
    assert!(
        refusal.message.ends_with("has no network ACL acl-99999999"),
        "{}",
        refusal.message
    );
    assert!(refusal.remedy.contains("params.aws_network_acl_ids"));
}

#[test]
fn where_nothing_could_stop_the_target_nothing_is_recorded() {
    let mut state = block_list();
    state.network_acls.as_mut().unwrap()[0].has_subnet = false;
    assert_eq!(code(&request(Action::BlockIp), &state), RefusalCode::NetworkAclNotInVpc);
    state.network_acls = None;
    assert_eq!(code(&request(Action::BlockIp), &state), RefusalCode::NetworkAclNotInVpc);
    state.network_acls = Some(vec![acl(ACL, vec![entry(1, Effect::Allow, "0.0.0.0/0", None, None)])]);
    assert_eq!(code(&request(Action::BlockIp), &state), RefusalCode::NetworkAclFull);
}

#[test]
fn without_enforcement_only_the_record_is_kept() {
    let policy = Policy {
        enforcement: Enforcement::None,
        ..policy()
    };
    let state = State {
        network_acls: None,
        ..block_list()
    };
    let plan = plan(&request(Action::BlockIp), &state, &policy, now()).unwrap();
    assert!(!plan.steps().any(|planned| matches!(planned.step, Step::AddDeny(_))));
    let mut after = state;
    after.group.rules = blocked_by(&request(Action::BlockIp)).group.rules;
    let assessment = assess(&request(Action::BlockIp), &after, &policy);
    assert!(assessment.is_as_asked && !assessment.is_enforced);
}

#[test]
fn a_rule_with_other_ports_is_another_rule() {
    let mut request = request(Action::AllowIp);
    request.rule = IngressRule::new(request.rule.source(), Protocol::Tcp, (443, 443));
    let plan = decide(&request, &blocked_by(&self::request(Action::BlockIp))).unwrap();
    assert!(plan.steps().all(|planned| planned.is_already_so));
}

#[test]
fn a_group_without_the_tag_is_left_alone() {
    for tags in [
        BTreeMap::new(),
        BTreeMap::from([("aisoc:containment".to_owned(), "Blocklist".to_owned())]),
        BTreeMap::from([("AISOC:containment".to_owned(), "blocklist".to_owned())]),
    ] {
        let mut state = blocked_by(&request(Action::BlockIp));
        state.group.tags = tags;
        for action in [Action::BlockIp, Action::AllowIp] {
            assert_eq!(code(&request(action), &state), RefusalCode::GroupNotEnrolled);
        }
    }
}

#[test]
fn an_attached_group_gets_no_rule_and_can_still_lose_one() {
    let mut state = blocked_by(&request(Action::BlockIp));
    state.group.interfaces = vec!["eni-1".to_owned(), "eni-2".to_owned()];
    let refusal = decide(&request(Action::BlockIp), &state).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::GroupInUse);
    assert!(refusal.message.contains("eni-1, eni-2"), "{}", refusal.message);
    assert_eq!(decide(&request(Action::AllowIp), &state).unwrap().stages.len(), 2);
}

#[test]
fn a_default_group_is_never_a_block_list() {
    let mut state = block_list();
    state.group.name = "default".to_owned();
    assert_eq!(code(&request(Action::BlockIp), &state), RefusalCode::GroupNotEnrolled);
}

#[test]
fn a_target_of_the_vpc_itself_is_protected() {
    let mut state = block_list();
    state.vpc_cidrs.push("203.0.113.0/26".parse().unwrap());
    assert_eq!(code(&request(Action::BlockIp), &state), RefusalCode::ProtectedTarget);
    assert!(decide(&request(Action::AllowIp), &state).is_ok());
}

#[test]
fn a_record_alone_is_no_block() {
    let block = request(Action::BlockIp);
    assert!(assess(&block, &blocked_by(&block), &policy()).is_enforced);
    let mut state = blocked_by(&block);
    state.network_acls = Some(vec![acl(ACL, default_entries())]);
    let open = assess(&block, &state, &policy());
    assert!(!open.is_enforced && !open.is_as_asked);
    assert_eq!(open.open.len(), 1);
    // One of two is not enough.
    state = blocked_by(&block);
    state
        .network_acls
        .as_mut()
        .unwrap()
        .push(acl("acl-0123abce", default_entries()));
    assert!(!assess(&block, &state, &policy()).is_enforced);
    // Nor is the rule of another request, or none.
    let other = Request {
        request_id: "r-2".to_owned(),
        ..block.clone()
    };
    assert!(!assess(&other, &blocked_by(&block), &policy()).is_as_asked);
}

#[test]
fn a_lift_is_done_when_nothing_is_left_that_is_ours_alone() {
    let (block, allow) = (request(Action::BlockIp), request(Action::AllowIp));
    let after = assess(&allow, &block_list(), &policy());
    assert!(after.is_as_asked && !after.is_enforced);
    let mut state = blocked_by(&block);
    assert!(!assess(&allow, &state, &policy()).is_as_asked);
    state.group.rules.clear();
    let entry_left = assess(&allow, &state, &policy());
    assert!(!entry_left.is_as_asked && entry_left.is_enforced);
    state.other_holders = vec!["sg-0123abce".parse().unwrap()];
    let shared = assess(&allow, &state, &policy());
    assert!(shared.is_as_asked && shared.is_enforced);
}

// ---- properties ------------------------------------------------------------------------------------------------

/// Sources that often overlap.
fn any_source() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "203.0.113.7/32",
        "203.0.113.0/24",
        "203.0.113.8/32",
        "198.51.100.0/25",
        "2001:db8::7/128",
        "2001:db8::/64",
        "0.0.0.0/0",
        "::/0",
    ])
}

fn any_ports() -> impl Strategy<Value = Option<(u16, u16)>> {
    prop::sample::select(vec![
        None,
        Some((0, 65535)),
        Some((22, 22)),
        Some((20, 30)),
        Some((443, 443)),
    ])
}

prop_compose! {
    fn any_entry()(
        number in prop_oneof![1u16..12, 95u16..110, Just(32767)],
        deny in any::<bool>(),
        source in prop::option::weighted(0.95, any_source()),
        protocol in prop::sample::select(vec![None, Some(6u8), Some(17), Some(1)]),
        ports in any_ports(),
    ) -> Entry {
        Entry {
            number,
            effect: if deny { Effect::Deny } else { Effect::Allow },
            source: source.map(|source| source.parse().unwrap()),
            protocol,
            ports,
        }
    }
}

prop_compose! {
    fn any_acl(id: &'static str)(
        has_subnet in prop::bool::weighted(0.8),
        entries in prop::collection::vec(any_entry(), 0..12),
    ) -> NetworkAcl {
        let mut seen = BTreeSet::new();
        let entries = entries.into_iter().filter(|entry| seen.insert(entry.number)).collect();
        NetworkAcl { has_subnet, ..acl(id, entries) }
    }
}

fn any_acls() -> impl Strategy<Value = Option<Vec<NetworkAcl>>> {
    prop::option::weighted(
        0.9,
        (any_acl("acl-0000000a"), any_acl("acl-0000000b"), 0usize..3)
            .prop_map(|(one, other, count)| [one, other].into_iter().take(count).collect()),
    )
}

prop_compose! {
    fn any_request()(
        block in prop::bool::weighted(0.6),
        source in any_source(),
        protocol in prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::All]),
        ports in any_ports(),
        ids in prop::option::weighted(0.3, prop::sample::subsequence(
            vec!["acl-0000000a", "acl-0000000b", "acl-0000000c"], 1..3)),
        id in prop::sample::select(vec!["r-1", "r-2"]),
        expires in prop::option::of(60u32..31_536_000),
        bound in prop::option::of(prop::sample::select(vec!["r-1", "r-2"])),
    ) -> Request {
        let source: Target = source.parse().unwrap();
        Request {
            request_id: id.to_owned(),
            rule: IngressRule::new(source, protocol, ports.unwrap_or((0, 65535))),
            network_acl_ids: ids.map(|ids| ids.iter().map(|id| id.parse().unwrap()).collect()),
            expires_after_seconds: expires,
            only_if_blocked_by: bound.filter(|_| !block).map(str::to_owned),
            ..request(if block { Action::BlockIp } else { Action::AllowIp })
        }
    }
}

prop_compose! {
    fn any_state()(
        name in prop_oneof![1 => Just("default".to_owned()), 6 => Just("blocklist".to_owned())],
        tag in prop::option::weighted(0.9, prop_oneof![6 => Just("blocklist".to_owned()), 1 => any::<String>()]),
        recorded_by in prop::option::of(any_request()),
        interfaces in prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec("eni-[0-9a-f]{8}", 1..3)],
        cidrs in prop::collection::vec(prop::sample::select(vec!["10.0.0.0/16", "203.0.113.0/28"]), 0..2),
        network_acls in any_acls(),
        holders in prop::bool::weighted(0.2),
    ) -> State {
        let rules = recorded_by.map(|by| (by.rule, recorded(&by, None)));
        State {
            vpc_cidrs: cidrs.iter().map(|block| block.parse().unwrap()).collect(),
            network_acls,
            other_holders: if holders { vec!["sg-0123abce".parse().unwrap()] } else { vec![] },
            group: GroupState {
                name,
                tags: tag.map(|value| ("aisoc:containment".to_owned(), value)).into_iter().collect(),
                interfaces,
                rules: rules.into_iter().collect(),
                ..block_list().group
            },
            ..block_list()
        }
    }
}

/// Whether a packet of this source, protocol and port matches; written anew, so as not to test the code by itself.
fn matches(entry: &Entry, source: IpNet, protocol: u8, port: u16) -> bool {
    entry.source.is_none_or(|block| block.contains(&source.addr()))
        && entry.protocol.is_none_or(|number| number == protocol)
        && (entry.protocol.is_none() || entry.ports.is_none_or(|(from, to)| (from..=to).contains(&port)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn no_plan_lets_anyone_in_or_touches_what_is_not_ours(
        request in any_request(), state in any_state(), record_only in prop::bool::weighted(0.1),
    ) {
        let policy = Policy {
            enforcement: if record_only { Enforcement::None } else { Enforcement::NetworkAcl },
            ..policy()
        };
        let Ok(plan) = plan(&request, &state, &policy, now()) else { return Ok(()) };
        let block = request.action == Action::BlockIp;
        prop_assert_eq!(state.group.tags.get("aisoc:containment").map(String::as_str), Some("blocklist"));
        let acls = state.network_acls.as_deref().unwrap_or_default();
        let acl_of = |id: &NetworkAclId| acls.iter().find(|acl| acl.id == *id).unwrap();
        let (mut recorded, mut denied, mut undone) = (false, BTreeSet::new(), false);
        for Planned { step, .. } in plan.steps() {
            match step {
                Step::AuthorizeIngress { group, rule, .. } => {
                    prop_assert!(block && state.group.interfaces.is_empty() && state.group.name != "default");
                    prop_assert!(state.vpc_cidrs.iter().all(|cidr| !rule.source().overlaps(cidr)));
                    prop_assert_eq!((group, rule), (&request.group, &request.rule));
                    recorded = true;
                }
                Step::RenewTags { rule_id, .. } => {
                    prop_assert!(recorded && state.group.rules[&request.rule].id == *rule_id);
                }
                Step::PutSchedule(schedule) => prop_assert!(recorded && schedule.at > now()),
                Step::DeleteSchedule { .. } => {}
                Step::AddDeny(DenyEntry { acl, number, rule }) => {
                    prop_assert!(recorded && !record_only && *rule == request.rule);
                    let acl = acl_of(acl);
                    prop_assert!(RuleNumbers::default().contains(*number));
                    // It stands on a free number, or on one that is ours already.
                    prop_assert!(acl.entries.iter().all(|entry| entry.number != *number
                        || (entry.effect == Effect::Deny && entry.source == Some(rule.source().network()))));
                    // No packet that it denies is let through by an entry before it.
                    for entry in acl.entries.iter().filter(|e| e.effect == Effect::Allow && e.number < *number) {
                        for port in [0, 22, 25, 443, 65535] {
                            for protocol in [1, 6, 17] {
                                let concerned = protocol_number(rule.protocol()).is_none_or(|n| n == protocol)
                                    && rule.ports().is_none_or(|(from, to)| (from..=to).contains(&port));
                                let source = rule.source().network();
                                prop_assert!(!(concerned && matches(entry, source, protocol, port)));
                            }
                        }
                    }
                    denied.insert(acl.id.clone());
                }
                Step::RemoveDeny(DenyEntry { acl, number, rule }) => {
                    prop_assert!(!block && !undone && state.other_holders.is_empty());
                    let entry = acl_of(acl).entries.iter().find(|entry| entry.number == *number).unwrap();
                    prop_assert!(RuleNumbers::default().contains(*number) && entry.effect == Effect::Deny);
                    prop_assert_eq!(entry.source, Some(rule.source().network()));
                    prop_assert_eq!(entry.protocol, protocol_number(rule.protocol()));
                    prop_assert!(entry.protocol.is_none()
                        || entry.ports.unwrap_or((0, 65535)) == rule.ports().unwrap());
                }
                Step::RevokeIngress { group, rule } => {
                    prop_assert!(!block && (group, rule) == (&request.group, &request.rule));
                    undone = true;
                }
            }
        }
        if block && !record_only {
            // Every ACL concerned is denied in, and there is one.
            let wanted: BTreeSet<_> = match &request.network_acl_ids {
                Some(ids) => ids.iter().cloned().collect(),
                None => acls.iter().filter(|acl| acl.has_subnet).map(|acl| acl.id.clone()).collect(),
            };
            prop_assert!(!wanted.is_empty());
            prop_assert_eq!(denied, wanted);
        }
        if !block && plan.renewed_by.is_none() {
            prop_assert!(undone);
        }
    }

    #[test]
    fn what_a_plan_leads_to_is_what_was_asked_for(request in any_request(), state in any_state()) {
        let Ok(plan) = plan(&request, &state, &policy(), now()) else { return Ok(()) };
        let after = carried_out(&plan, state);
        let assessment = assess(&request, &after, &policy());
        if plan.renewed_by.is_none() {
            let was_seen = after.network_acls.is_some() || request.action == Action::BlockIp;
            prop_assert_eq!(assessment.is_as_asked, was_seen, "{:?}", after);
            // Once more changes nothing, but for the end of a block.
            let again = self::plan(&request, &after, &policy(), now()).unwrap();
            prop_assert_eq!(carried_out(&again, after.clone()), after);
        }
        if request.action == Action::BlockIp {
            prop_assert!(assessment.is_enforced);
        }
    }
}

/// The state after the steps.
fn carried_out(plan: &Plan, mut state: State) -> State {
    let entries = |state: &'_ mut State, id: &NetworkAclId, change: &dyn Fn(&mut Vec<Entry>)| {
        let acls = state.network_acls.as_mut().unwrap();
        change(&mut acls.iter_mut().find(|acl| acl.id == *id).unwrap().entries);
    };
    for Planned { step, .. } in plan.steps() {
        match step.clone() {
            Step::AuthorizeIngress {
                rule,
                description,
                tags,
                ..
            } => {
                let tags = tags
                    .pairs()
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into();
                let id = "sgr-2".to_owned();
                state
                    .group
                    .rules
                    .entry(rule)
                    .or_insert(RecordedRule { id, description, tags });
            }
            Step::RenewTags { rule_id, tags } => {
                for rule in state.group.rules.values_mut().filter(|rule| rule.id == rule_id) {
                    rule.tags
                        .extend(tags.pairs().map(|(key, value)| (key.to_owned(), value.to_owned())));
                }
            }
            Step::PutSchedule(_) | Step::DeleteSchedule { .. } => {}
            Step::AddDeny(deny) => entries(&mut state, &deny.acl, &|entries| {
                if entries.iter().all(|entry| entry.number != deny.number) {
                    entries.push(Entry {
                        number: deny.number,
                        effect: Effect::Deny,
                        source: Some(deny.rule.source().network()),
                        protocol: protocol_number(deny.rule.protocol()),
                        ports: deny.rule.ports(),
                    });
                }
            }),
            Step::RemoveDeny(deny) => {
                entries(&mut state, &deny.acl, &|entries| {
                    entries.retain(|entry| entry.number != deny.number);
                });
            }
            Step::RevokeIngress { rule, .. } => {
                state.group.rules.remove(&rule);
            }
        }
    }
    state
}
