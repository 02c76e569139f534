use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::ToSpan;
use proptest::prelude::*;

use super::compare::{
    DEFAULT_GROUP, Goal, check_list, check_network_acls, equal_entries, in_use, listed, still_denied,
    to_restore_for_others,
};
use super::fault::{self, FaultKind};
use super::network_acl::tests::{acl, default_entries, entry};
use super::network_acl::{Effect, Entry, RuleNumbers, protocol_number};
use super::*;
use crate::policy::tests::policy;
use crate::request::{Action, Vendor};
use crate::rule::Protocol;
use crate::{Enforcement, ErrorCode, Policy};

const A: &str = "acl-0000000a";
const B: &str = "acl-0000000b";
const C: &str = "acl-0000000c";

fn now() -> Timestamp {
    "2026-11-24T10:00:00Z".parse().unwrap()
}

fn region() -> Region {
    "us-east-1".parse().unwrap()
}

fn tcp(source: &str) -> IngressRule {
    IngressRule::new(source.parse().unwrap(), Protocol::Tcp, (0, 65535))
}

fn request(id: &str) -> Request {
    Request {
        request_id: id.to_owned(),
        action: Action::BlockIp,
        vendor: Vendor::default(),
        group: "sg-0123abcd".parse().unwrap(),
        region: None,
        rule: tcp("203.0.113.7"),
        role: None,
        dry_run: false,
        requested_by: Some("ana@example.com".to_owned()),
        notes: Notes::default(),
        network_acl_ids: None,
        expires_after_seconds: None,
        only_if_blocked_by: None,
        only_if_expires_at: None,
    }
}

fn is_uuid(id: &str) -> bool {
    let parts: Vec<usize> = id.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && id.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

fn group() -> Group {
    Group {
        id: "sg-0123abcd".parse().unwrap(),
        name: "blocklist".to_owned(),
        vpc_id: "vpc-1".to_owned(),
        owner_id: Some("111122223333".to_owned()),
        tags: BTreeMap::from([("aisoc:containment".to_owned(), "blocklist".to_owned())]),
        interfaces: BTreeSet::new(),
    }
}

fn attached() -> Group {
    Group {
        interfaces: BTreeSet::from(["eni-1".to_owned(), "eni-2".to_owned()]),
        ..group()
    }
}

fn without_tag() -> Group {
    Group {
        tags: BTreeMap::new(),
        ..group()
    }
}

fn asked(request: &Request, existing: Option<&Block>) -> Block {
    Block::asked(existing, request, &region(), &group(), now())
}

fn placed(acl: &str, number: u16) -> Placed {
    Placed {
        acl: acl.parse().unwrap(),
        number,
    }
}

/// Entries that stay on record although they do not show: no other entry has their number.
fn unseen(comparison: &Comparison, seen: &Seen) -> Vec<DenyEntry> {
    let entries = comparison.entries.iter().map(|placed| placed.entry(tcp("203.0.113.7")));
    let is_late = |entry: &DenyEntry| {
        let mut acls = seen.network_acls.iter().flatten();
        !seen.shows(entry)
            && acls
                .find(|acl| acl.id == entry.acl)
                .is_none_or(|acl| acl.is_free(entry.number))
    };
    entries.filter(is_late).collect()
}

/// A block in force by r-1, with these entries.
fn in_force(entries: &[Placed]) -> Block {
    let block = asked(&request("r-1"), None).in_force();
    Block {
        entries: entries.to_vec(),
        ..block
    }
}

/// The same of another block list of the VPC.
fn of_other_list(entries: &[Placed]) -> Block {
    Block {
        group: "sg-0123abce".parse().unwrap(),
        ..in_force(entries)
    }
}

fn deny(number: u16, rule: &IngressRule) -> Entry {
    Entry {
        number,
        effect: Effect::Deny,
        source: Some(rule.source().network()),
        protocol: protocol_number(rule.protocol()),
        ports: rule.ports(),
    }
}

/// The default ACL with denies of the block's rule at these numbers.
fn denying(id: &str, numbers: &[u16]) -> NetworkAcl {
    let mut shown = acl(id, default_entries());
    let denies = numbers.iter().map(|number| deny(*number, &tcp("203.0.113.7")));
    shown.entries.extend(denies);
    shown
}

fn recorded(terms: &Terms) -> RecordedRule {
    let tags = RecordTags::of(terms);
    RecordedRule {
        id: "sgr-1".to_owned(),
        description: tags::description(terms),
        tags: tags
            .pairs()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    }
}

/// What EC2 shows of a block whose rule stands.
fn shown(block: &Block, acls: Vec<NetworkAcl>) -> Seen {
    Seen {
        group: Some(group()),
        rule: Some(recorded(block.terms_in_force())),
        network_acls: Some(acls),
    }
}

fn compared(block: &Block, seen: &Seen) -> Comparison {
    compare(block, Goal::of(block), seen, &[], &policy())
}

fn lines(steps: &[Step]) -> Vec<String> {
    steps.iter().map(Step::to_string).collect()
}

const RULE: &str = "tcp 0-65535 from 203.0.113.7/32";

// ---- the comparison --------------------------------------------------------------------------------------------

#[test]
fn a_block_that_stands_needs_nothing() {
    let block = in_force(&[placed(A, 1)]);
    let comparison = compared(&block, &shown(&block, vec![denying(A, &[1])]));
    assert!(comparison.agrees() && comparison.is_enforced());
    assert_eq!(comparison.entries, [placed(A, 1)]);
    assert_eq!(comparison.standing, [placed(A, 1).entry(block.rule)]);
}

#[test]
fn a_new_block_takes_a_rule_and_an_entry_in_each_acl_in_use() {
    let block = asked(&request("r-1"), None);
    let mut unused = acl(C, default_entries());
    unused.has_subnet = false;
    let seen = Seen {
        rule: None,
        ..shown(&block, vec![denying(A, &[]), denying(B, &[]), unused])
    };
    let comparison = compared(&block, &seen);
    assert_eq!(
        lines(&comparison.steps),
        [
            format!("authorize ingress {RULE} on sg-0123abcd"),
            format!("add deny entry 1 to {A}: {RULE}"),
            format!("add deny entry 1 to {B}: {RULE}"),
        ]
    );
    assert!(!comparison.agrees() && !comparison.is_enforced());
    assert_eq!(comparison.entries, [placed(A, 1), placed(B, 1)]);
    assert_eq!(comparison.open.len(), 2);
}

#[test]
fn an_entry_that_was_deleted_is_added_again_with_its_number() {
    let block = in_force(&[placed(A, 7)]);
    let comparison = compared(&block, &shown(&block, vec![denying(A, &[])]));
    assert_eq!(
        lines(&comparison.steps),
        [format!("add deny entry 7 to {A}: {RULE}")],
        "one that is late must not come to stand there twice"
    );
}

#[test]
fn an_equal_entry_that_the_table_does_not_explain_is_not_ours() {
    let block = in_force(&[]);
    let seen = shown(&block, vec![denying(A, &[1])]);
    let comparison = compared(&block, &seen);
    assert!(!comparison.is_enforced());
    assert_eq!(lines(&comparison.steps), [format!("add deny entry 2 to {A}: {RULE}")]);
    let gone = compared(&block.lifting("r-2"), &seen);
    assert_eq!(lines(&gone.steps), [format!("revoke ingress {RULE} on sg-0123abcd")]);
}

#[test]
fn a_number_that_somebody_took_is_not_ours_any_more() {
    let block = in_force(&[placed(A, 1)]);
    let mut other = denying(A, &[]);
    other.entries.push(deny(1, &tcp("198.51.100.9")));
    let seen = shown(&block, vec![other]);
    assert_eq!(
        lines(&compared(&block, &seen).steps),
        [format!("add deny entry 2 to {A}: {RULE}")]
    );
    let gone = compared(&block.lifting("r-2"), &seen);
    assert_eq!(lines(&gone.steps), [format!("revoke ingress {RULE} on sg-0123abcd")]);
    assert!(unseen(&gone, &seen).is_empty() && gone.standing.is_empty());
}

#[test]
fn an_entry_that_came_to_stand_behind_an_allow_is_replaced_and_then_removed() {
    let block = in_force(&[placed(A, 50)]);
    let mut acl = denying(A, &[50]);
    acl.entries
        .push(entry(40, Effect::Allow, "203.0.113.7/32", Some(6), Some((443, 443))));
    let mut seen = shown(&block, vec![acl]);
    let first = compared(&block, &seen);
    assert_eq!(lines(&first.steps), [format!("add deny entry 1 to {A}: {RULE}")]);
    assert!(!first.is_enforced() && first.then.is_empty());
    assert_eq!(first.entries, [placed(A, 1), placed(A, 50)]);
    apply(&mut seen, &first.steps);
    let block = Block {
        entries: first.entries,
        ..block
    };
    let second = compared(&block, &seen);
    assert!(second.is_enforced() && second.steps.is_empty());
    assert_eq!(lines(&second.then), [format!("remove deny entry 50 from {A}: {RULE}")]);
}

#[test]
fn an_allow_that_shows_with_the_same_number_is_taken_to_come_first() {
    let block = in_force(&[placed(A, 7)]);
    let mut twice = denying(A, &[7]);
    twice
        .entries
        .push(entry(7, Effect::Allow, "203.0.113.0/24", None, None));
    assert!(!compared(&block, &shown(&block, vec![twice])).is_enforced());
}

#[test]
fn two_entries_for_one_block_are_one_too_many() {
    let block = in_force(&[placed(A, 1), placed(A, 2)]);
    let comparison = compared(&block, &shown(&block, vec![denying(A, &[1, 2])]));
    assert!(comparison.is_enforced() && comparison.steps.is_empty());
    assert_eq!(
        lines(&comparison.then),
        [format!("remove deny entry 2 from {A}: {RULE}")]
    );
    // One that does not show is gone, or EC2 lags behind.
    let seen = shown(&block, vec![denying(A, &[1])]);
    let comparison = compared(&block, &seen);
    assert!(comparison.agrees());
    assert_eq!(unseen(&comparison, &seen), [placed(A, 2).entry(block.rule)]);
}

#[test]
fn a_renewal_for_named_acls_leaves_the_others_once_it_stands() {
    let mut block = in_force(&[placed(A, 1), placed(B, 1), placed(C, 1)]);
    block.terms.network_acl_ids = Some(vec![B.parse().unwrap()]);
    let comparison = compared(&block, &shown(&block, vec![denying(A, &[1]), denying(B, &[1])]));
    assert!(comparison.is_enforced() && comparison.steps.is_empty());
    assert_eq!(
        lines(&comparison.then),
        [format!("remove deny entry 1 from {A}: {RULE}")]
    );
    assert!(
        comparison.entries.contains(&placed(C, 1)),
        "an ACL that does not show may be late"
    );
}

#[test]
fn an_acl_that_lost_its_last_subnet_keeps_its_entry() {
    let block = in_force(&[placed(A, 1)]);
    let mut unused = denying(A, &[1]);
    unused.has_subnet = false;
    let comparison = compared(&block, &shown(&block, vec![unused]));
    assert!(comparison.agrees() && !comparison.is_enforced());
    assert_eq!(comparison.entries, [placed(A, 1)]);
}

#[test]
fn without_enforcement_no_entry_is_added_or_removed() {
    let record_only = Policy {
        enforcement: Enforcement::None,
        ..policy()
    };
    let mut block = in_force(&[placed(A, 1)]);
    for named in [None, Some(vec![A.parse().unwrap()]), Some(vec![B.parse().unwrap()])] {
        block.terms.network_acl_ids = named;
        let seen = shown(&block, vec![denying(A, &[1]), denying(B, &[])]);
        let comparison = compare(&block, Goal::of(&block), &seen, &[], &record_only);
        assert!(comparison.agrees(), "{comparison:?}");
        assert!(!comparison.is_enforced() && comparison.open.is_empty());
        assert_eq!(comparison.entries, [placed(A, 1)]);
    }
    let block = block.lifting("r-2");
    let seen = shown(&block, vec![denying(A, &[1])]);
    let gone = compare(&block, Goal::of(&block), &seen, &[], &record_only);
    assert_eq!(gone.steps.len(), 2, "what was placed is removed whatever the setting");
}

#[test]
fn the_rule_stands_exactly_while_the_list_is_enrolled_and_attached_to_nothing() {
    let block = in_force(&[placed(A, 1)]);
    let rule = Some(recorded(&block.terms));
    let named_default = Group {
        name: DEFAULT_GROUP.to_owned(),
        ..group()
    };
    let authorize = format!("authorize ingress {RULE} on sg-0123abcd");
    let revoke = format!("revoke ingress {RULE} on sg-0123abcd");
    for (list, rule, steps, left) in [
        (Some(group()), None, vec![authorize], None),
        (Some(group()), rule.clone(), vec![], None),
        (Some(attached()), None, vec![], None),
        (Some(attached()), rule.clone(), vec![revoke.clone()], None),
        (Some(without_tag()), None, vec![], None),
        (Some(without_tag()), rule.clone(), vec![], Some("sgr-1")),
        (Some(named_default.clone()), None, vec![], None),
        (Some(named_default), rule.clone(), vec![], Some("sgr-1")),
        (None, None, vec![], None),
    ] {
        let seen = Seen {
            group: list.clone(),
            rule: rule.clone(),
            network_acls: Some(vec![denying(A, &[1])]),
        };
        let comparison = compared(&block, &seen);
        assert_eq!(lines(&comparison.steps), steps, "{list:?} {rule:?}");
        assert_eq!(comparison.rule_left.as_deref(), left);
        assert!(comparison.is_enforced(), "the deny entries hold whatever the list");
        // A block that is to be gone: its rule goes, where it may be changed.
        let gone = compared(&block.clone().lifting("r-2"), &seen);
        let is_enrolled = gone.list.is_enrolled();
        let revokes = lines(&gone.steps).contains(&revoke);
        assert_eq!(revokes, rule.is_some() && is_enrolled, "{list:?}");
        assert_eq!(gone.rule_left.is_some(), rule.is_some() && !is_enrolled);
        assert!(lines(&gone.steps).contains(&format!("remove deny entry 1 from {A}: {RULE}")));
    }
}

#[test]
fn tags_are_renewed_once_the_entries_stand() {
    let block = in_force(&[placed(A, 1)]);
    let mut seen = shown(&block, vec![denying(A, &[1])]);
    seen.rule.as_mut().unwrap().tags.clear();
    let comparison = compared(&block, &seen);
    assert!(comparison.steps.is_empty());
    assert_eq!(lines(&comparison.then), ["update the tags of sgr-1"]);
}

#[test]
fn a_block_takes_part_in_an_equal_entry_of_another() {
    let block = in_force(&[]);
    let other = of_other_list(&[placed(A, 1)]);
    let seen = shown(&block, vec![denying(A, &[1])]);
    let comparison = compare(&block, Goal::of(&block), &seen, std::slice::from_ref(&other), &policy());
    assert!(comparison.agrees() && comparison.is_enforced());
    assert_eq!(comparison.entries, [placed(A, 1)]);
    // The first of the two that is lifted leaves it.
    let block = in_force(&[placed(A, 1)]).lifting("r-2");
    let comparison = compare(&block, Goal::of(&block), &seen, std::slice::from_ref(&other), &policy());
    assert_eq!(
        lines(&comparison.steps),
        [format!("revoke ingress {RULE} on sg-0123abcd")]
    );
    assert!(comparison.entries.is_empty());
    // The second removes it.
    let comparison = compare(&block, Goal::of(&block), &seen, &[other.lifting("r-3")], &policy());
    assert_eq!(comparison.steps.len(), 2);
}

#[test]
fn what_cannot_be_read_is_neither_enforced_nor_forgotten() {
    let block = in_force(&[placed(A, 1)]);
    let seen = Seen {
        network_acls: None,
        ..shown(&block, vec![])
    };
    let comparison = compared(&block, &seen);
    assert!(!comparison.is_enforced());
    assert_eq!(comparison.entries, [placed(A, 1)]);
    let gone = compared(&block.lifting("r-2"), &seen);
    assert_eq!(gone.entries, [placed(A, 1)]);
    assert_eq!(unseen(&gone, &seen).len(), 1);
    assert_eq!(lines(&gone.steps), [format!("revoke ingress {RULE} on sg-0123abcd")]);
}

#[test]
fn an_entry_to_be_lifted_that_does_not_show_may_be_late() {
    let block = in_force(&[placed(A, 1), placed(B, 1)]).lifting("r-2");
    let seen = shown(&block, vec![denying(A, &[])]);
    let comparison = compared(&block, &seen);
    assert_eq!(
        unseen(&comparison, &seen),
        [placed(A, 1).entry(block.rule), placed(B, 1).entry(block.rule)]
    );
    assert_eq!(comparison.entries, block.entries);
    assert!(comparison.standing.is_empty());
}

#[test]
fn a_full_acl_is_refused_and_the_others_are_done() {
    let block = in_force(&[placed(C, 9)]);
    let full = acl(B, vec![entry(1, Effect::Allow, "0.0.0.0/0", None, None)]);
    let comparison = compared(&block, &shown(&block, vec![denying(A, &[]), full, denying(C, &[9])]));
    assert_eq!(lines(&comparison.steps), [format!("add deny entry 1 to {A}: {RULE}")]);
    assert_eq!(comparison.refused.len(), 1);
    assert_eq!(comparison.refused[0].code, ErrorCode::NetworkAclFull);
    assert!(!comparison.agrees());
    assert_eq!(comparison.open.len(), 2);
    assert_eq!(comparison.entries, [placed(A, 1), placed(C, 9)]);
}

#[test]
fn an_entry_that_another_block_took_over_meanwhile_is_restored() {
    let block = in_force(&[placed(A, 1), placed(A, 2)]).lifting("r-2");
    let removed = [placed(A, 1).entry(block.rule), placed(A, 2).entry(block.rule)];
    assert_eq!(to_restore_for_others(&block, &removed, &[]), []);
    let other = of_other_list(&[placed(A, 2), placed(B, 1)]);
    let again = to_restore_for_others(&block, &removed, std::slice::from_ref(&other));
    assert_eq!(lines(&again), [format!("add deny entry 2 to {A}: {RULE}")]);
    assert_eq!(to_restore_for_others(&block, &removed, &[other.lifting("r-3")]), []);
}

#[test]
fn equal_entries_are_those_that_no_block_explains() {
    let block = in_force(&[]);
    let outside = deny(150, &block.rule);
    let mut acl = denying(A, &[3, 5, 7]);
    acl.entries.push(outside);
    acl.entries.push(deny(4, &tcp("203.0.113.8")));
    let seen = shown(&block, vec![acl, denying(B, &[2])]);
    let numbers = |others: &[Block]| -> Vec<(String, u16)> {
        equal_entries(&block, &seen, others, &policy())
            .into_iter()
            .map(|placed| (placed.acl.to_string(), placed.number))
            .collect()
    };
    let all = [(A, 3), (A, 5), (A, 7), (B, 2)].map(|(acl, number)| (acl.to_owned(), number));
    assert_eq!(numbers(&[]), all);
    assert_eq!(
        numbers(&[of_other_list(&[placed(A, 5), placed(B, 3)])]),
        [all[0].clone(), all[2].clone(), all[3].clone()]
    );
}

#[test]
fn denies_that_still_overlap_are_named_whatever_their_origin() {
    let block = in_force(&[]);
    let mut acl = denying(A, &[]);
    acl.entries
        .push(entry(200, Effect::Deny, "203.0.113.0/24", Some(6), Some((22, 22))));
    acl.entries
        .push(entry(201, Effect::Deny, "203.0.113.0/24", Some(17), None));
    acl.entries.push(entry(202, Effect::Deny, "203.0.113.8/32", None, None));
    let still = still_denied(&block, &shown(&block, vec![acl, denying(B, &[1])]));
    let still: Vec<(&str, u16)> = still.iter().map(|deny| (deny.acl.as_str(), deny.number)).collect();
    assert_eq!(still, [(A, 200), (B, 1)]);
}

#[test]
fn the_acls_that_are_meant_exist_are_ours_and_have_a_subnet() {
    let mut terms = asked(&request("r-1"), None).terms;
    let mut unused = acl(B, default_entries());
    unused.has_subnet = false;
    let mut theirs = acl(C, default_entries());
    theirs.owner_id = Some("444455556666".to_owned());
    let check = |terms: &Terms, acls: Option<Vec<NetworkAcl>>, policy: &Policy| {
        let seen = Seen {
            group: Some(group()),
            rule: None,
            network_acls: acls,
        };
        check_network_acls(terms, &seen, &group(), None, policy).map_err(|refusal| (refusal.code, refusal.message))
    };
    let mut ours = acl(A, default_entries());
    ours.owner_id = Some("111122223333".to_owned());
    let all = || Some(vec![ours.clone(), unused.clone()]);
    assert_eq!(check(&terms, all(), &policy()), Ok(()));
    assert_eq!(
        check(&terms, Some(vec![ours.clone(), theirs.clone()]), &policy()),
        Err((
            ErrorCode::NetworkAclNotOwned,
            "the network ACLs of vpc-1 belong to account 444455556666, which shares the VPC with account 111122223333: only \
             their owner can change them"
                .to_owned()
        ))
    );
    for none in [None, Some(vec![]), Some(vec![unused.clone()])] {
        let (code, message) = check(&terms, none, &policy()).unwrap_err();
        assert_eq!(code, ErrorCode::NetworkAclWithoutSubnet);
        assert!(message.starts_with("no network ACL of vpc-1 has a subnet"), "{message}");
    }
    // WHEN they are named
    let mut named = |ids: &[&str], acls| {
        terms.network_acl_ids = Some(ids.iter().map(|id| id.parse().unwrap()).collect());
        check(&terms, acls, &policy())
    };
    assert_eq!(named(&[A, B], all()), Ok(()), "one with a subnet is enough");
    assert_eq!(
        named(&[A], Some(vec![ours.clone(), theirs])),
        Ok(()),
        "the other is not meant"
    );
    let (code, message) = named(&[B], all()).unwrap_err();
    assert_eq!(code, ErrorCode::NetworkAclWithoutSubnet);
    assert!(message.starts_with(&format!("none of {B} has a subnet")), "{message}");
    let (code, message) = named(&[A, C, "acl-0000000d"], all()).unwrap_err();
    assert_eq!(code, ErrorCode::NetworkAclNotInVpc);
    assert!(
        message.ends_with(&format!("has no network ACL {C}, acl-0000000d")),
        "{message}"
    );
    // Nothing of it matters where nothing is enforced.
    let record_only = Policy {
        enforcement: Enforcement::None,
        ..policy()
    };
    assert_eq!(check(&terms, None, &record_only), Ok(()));
}

#[test]
fn an_acl_whose_owner_does_not_show_is_taken_for_ours() {
    let terms = asked(&request("r-1"), None).terms;
    for (acl_owner, group_owner) in [(None, Some("1")), (Some("1"), None), (Some("1"), Some("1"))] {
        let seen = Seen {
            group: None,
            rule: None,
            network_acls: Some(vec![NetworkAcl {
                owner_id: acl_owner.map(str::to_owned),
                ..acl(A, vec![])
            }]),
        };
        let group = Group {
            owner_id: group_owner.map(str::to_owned),
            ..group()
        };
        assert_eq!(check_network_acls(&terms, &seen, &group, acl_owner, &policy()), Ok(()));
    }
}

#[test]
fn a_list_takes_rules_if_it_is_enrolled_and_attached_to_nothing() {
    let tag = policy().tag;
    let check = |group: Option<Group>| {
        let list = ListState::of(group.as_ref(), &tag);
        check_list(&"sg-0123abcd".parse().unwrap(), &list, &tag).map_err(|refusal| (refusal.code, refusal.message))
    };
    assert_eq!(check(Some(group())), Ok(()));
    let (code, message) = check(Some(attached())).unwrap_err();
    assert_eq!(code, ErrorCode::GroupInUse);
    assert!(
        message.contains("sg-0123abcd is attached to eni-1, eni-2:"),
        "{message}"
    );
    assert_eq!(check(None).unwrap_err().0, ErrorCode::GroupNotFound);
    let default = Group {
        name: DEFAULT_GROUP.to_owned(),
        ..attached()
    };
    let (code, message) = check(Some(default)).unwrap_err();
    assert_eq!(code, ErrorCode::GroupNotEnrolled);
    assert!(message.contains("the default group"), "{message}");
    for (key, value) in [("aisoc:containment", "Blocklist"), ("AISOC:containment", "blocklist")] {
        let strange = Group {
            tags: BTreeMap::from([(key.to_owned(), value.to_owned())]),
            ..group()
        };
        let (code, message) = check(Some(strange)).unwrap_err();
        assert_eq!(code, ErrorCode::GroupNotEnrolled);
        assert!(
            message.contains("it has no tag aisoc:containment=blocklist"),
            "{message}"
        );
    }
}

#[test]
fn messages_name_a_bounded_number_of_things() {
    let names = |count: usize| (1..=count).map(|n| format!("eni-{n}"));
    assert_eq!(listed(names(0)), "");
    assert_eq!(listed(names(2)), "eni-1, eni-2");
    assert!(listed(names(20)).ends_with("eni-19, eni-20"));
    assert!(listed(names(21)).ends_with("eni-20, and 1 more"));
    let many = in_use(&"sg-0123abcd".parse().unwrap(), &names(42_000).collect());
    assert!(many.message.len() < 1_000 && many.message.contains("and 41980 more"));
}

// ---- blocks ----------------------------------------------------------------------------------------------------

#[test]
fn a_request_that_comes_again_goes_on_where_it_was() {
    let first = Request {
        expires_after_seconds: Some(600),
        ..request("r-1")
    };
    let new = asked(&first, None);
    assert_eq!(new.state, State::Pending);
    assert_eq!(new.terms.expires_at, Some(now() + 10.minutes()));
    assert_eq!((new.revision, new.settled_at), (0, Timestamp::UNIX_EPOCH));
    assert!(!new.rule_stands && !new.enforced && new.entries.is_empty() && new.renews.is_none());
    // WHEN it comes again, later
    let stored = Block {
        entries: vec![placed(A, 1)],
        rule_stands: true,
        enforced: true,
        revision: 3,
        settled_at: now(),
        ..new
    };
    let later = now() + 5.minutes();
    let again = Block::asked(Some(&stored), &first, &region(), &group(), later);
    assert_eq!(again, stored, "with the same end");
    // WHEN it was made
    let made = stored.clone().in_force();
    assert_eq!(Block::asked(Some(&made), &first, &region(), &group(), later), made);
    // WHEN its end is past
    let long_after = now() + 11.minutes();
    let again = Block::asked(Some(&stored), &first, &region(), &group(), long_after);
    assert_eq!(again.terms.expires_at, Some(long_after + 10.minutes()));
    let at_the_end = now() + 10.minutes();
    let again = Block::asked(Some(&stored), &first, &region(), &group(), at_the_end);
    assert_eq!(
        again.terms.expires_at,
        Some(at_the_end + 10.minutes()),
        "an end has to be to come"
    );
    // WHEN the end kept is later than the request could ask for, as after an edit by hand
    let shorter = Request {
        expires_after_seconds: Some(60),
        ..request("r-1")
    };
    let again = Block::asked(Some(&stored), &shorter, &region(), &group(), now());
    assert_eq!(again.terms.expires_at, Some(now() + 1.minute()));
    // WHEN it is asked for the very same end
    let again = Block::asked(Some(&stored), &first, &region(), &group(), now());
    assert_eq!(again.terms.expires_at, stored.terms.expires_at);
}

#[test]
fn another_request_renews_the_block_in_force() {
    let first = Block {
        revision: 2,
        enforced: true,
        ..in_force(&[placed(A, 1)])
    };
    let second = Request {
        expires_after_seconds: Some(600),
        ..request("r-2")
    };
    let renewal = asked(&second, Some(&first));
    assert_eq!((&renewal.state, renewal.revision), (&State::Pending, 2));
    assert_eq!(renewal.renews.as_ref(), Some(&first.terms));
    assert_eq!(renewal.terms_in_force(), &first.terms, "until the renewal is in force");
    assert_eq!(renewal.tags(), first.tags());
    assert_eq!(renewal.terms.request_id, "r-2");
    assert!(renewal.enforced);
    // A third that comes while the second is on its way renews the first.
    let third = asked(&request("r-3"), Some(&renewal));
    assert_eq!(third.renews.as_ref(), Some(&first.terms));
    // The second comes again.
    assert_eq!(asked(&second, Some(&renewal)), renewal);
    // WHEN it is in force
    let made = renewal.clone().in_force();
    assert_eq!((made.terms_in_force(), &made.state), (&renewal.terms, &State::InForce));
    assert_eq!(made.renews, None);
    // WHEN it failed for good
    let back = renewal.rolled_back();
    assert_eq!(
        (&back.terms, &back.state, &back.renews),
        (&first.terms, &State::InForce, &None)
    );
}

#[test]
fn a_new_block_that_failed_for_good_is_to_be_lifted() {
    let failed = asked(&request("r-1"), None).rolled_back();
    assert_eq!(failed.state, State::Lifting { by: "r-1".to_owned() });
    assert!(!failed.is_wanted() && !failed.is_lifted());
}

#[test]
fn nothing_of_a_lifted_block_comes_back() {
    let lifted = in_force(&[placed(A, 1)]).lifting("l-1").lifted("l-1", now());
    assert!(lifted.is_lifted() && !lifted.is_wanted());
    assert!(lifted.entries.is_empty() && !lifted.rule_stands && !lifted.enforced && lifted.renews.is_none());
    // The same request after it was lifted is a new block.
    let mut stored = lifted.clone();
    stored.entries = vec![placed(A, 1)];
    let again = asked(&request("r-1"), Some(&stored));
    assert_eq!((&again.state, &again.renews), (&State::Pending, &None));
    assert!(again.entries.is_empty());
}

#[test]
fn a_block_that_is_being_lifted_may_still_have_entries() {
    let lifting = Block {
        enforced: true,
        rule_stands: true,
        settled_at: now(),
        ..in_force(&[placed(A, 1)]).lifting("l-1")
    };
    assert!(!lifting.is_wanted() && !lifting.is_lifted());
    for id in ["r-1", "r-2"] {
        let again = asked(&request(id), Some(&lifting));
        assert_eq!((&again.state, &again.renews), (&State::Pending, &None), "{id}");
        assert_eq!(again.entries, [placed(A, 1)]);
        assert!(again.rule_stands && !again.enforced);
        assert_eq!(again.settled_at, now());
    }
}

#[test]
fn a_lift_of_what_the_table_does_not_know_takes_what_shows() {
    let older = in_force(&[]).lifted("l-0", now());
    let allow = Request {
        action: Action::AllowIp,
        ..request("l-1")
    };
    let end = "2026-11-24T11:00:00Z".parse().unwrap();
    let terms = Terms {
        expires_at: Some(end),
        ..older.terms.clone()
    };
    let rule = recorded(&terms);
    let entries = vec![placed(A, 1)];
    let adopted = Block::adopted(&allow, &region(), &group(), entries.clone(), Some(&older), Some(&rule));
    assert_eq!(adopted.state, State::Lifting { by: "l-1".to_owned() });
    assert_eq!(
        (adopted.terms.request_id.as_str(), adopted.terms.expires_at),
        ("r-1", Some(end))
    );
    assert_eq!(adopted.entries, entries);
    assert!(adopted.rule_stands && !adopted.enforced);
    let unknown = Block::adopted(&allow, &region(), &group(), vec![], None, None);
    assert_eq!(
        (unknown.terms.request_id.as_str(), unknown.terms.expires_at),
        ("", None)
    );
    assert!(!unknown.rule_stands && unknown.revision == 0);
}

#[test]
fn a_block_is_overdue_two_minutes_after_its_end() {
    let end = now() + 1.minute();
    let mut block = in_force(&[]);
    assert!(!block.is_overdue(now() + 9999.hours()) && !block.has_ended(now() + 9999.hours()));
    block.terms.expires_at = Some(end);
    assert!(!block.has_ended(end - 1.nanosecond()));
    assert!(block.has_ended(end) && !block.is_overdue(end + 119.seconds()));
    assert!(block.is_overdue(end + 2.minutes()));
    // The end that counts is that of the block in force.
    let renewal = asked(&request("r-2"), Some(&block));
    assert!(renewal.is_overdue(end + 2.minutes()) && renewal.has_ended(end));
    let lifting = block.lifting("l-1");
    assert!(!lifting.is_overdue(end + 2.minutes()), "it is on its way out already");
}

#[test]
fn a_request_reaches_a_block_through_its_role_or_another_to_the_same_account() {
    let role =
        |account: &str, name: &str| -> RoleArn { format!("arn:aws:iam::{account}:role/{name}").parse().unwrap() };
    let (own, other, third) = (
        role("111122223333", "a"),
        role("111122223333", "b"),
        role("444455556666", "a"),
    );
    let mut block = in_force(&[]);
    assert!(block.is_reached_by(None) && block.is_reached_by(Some(&own)));
    assert!(!block.is_reached_by(Some(&third)));
    block.role = Some(own.clone());
    assert!(block.is_reached_by(Some(&own)) && block.is_reached_by(Some(&other)));
    assert!(!block.is_reached_by(None) && !block.is_reached_by(Some(&third)));
    block.account_id = None;
    assert!(block.is_reached_by(Some(&own)) && !block.is_reached_by(Some(&other)));
}

#[test]
fn an_entry_is_shared_by_wanted_blocks_of_one_rule_in_one_vpc() {
    let block = in_force(&[]);
    let other = of_other_list(&[]);
    assert!(block.shares_with(&other));
    assert!(block.shares_with(&Block {
        state: State::Pending,
        ..other.clone()
    }));
    for stranger in [
        block.clone(),
        other.clone().lifting("l-1"),
        other.clone().lifted("l-1", now()),
        Block {
            rule: tcp("203.0.113.8"),
            ..other.clone()
        },
        Block {
            vpc_id: "vpc-2".to_owned(),
            ..other.clone()
        },
        Block {
            region: "eu-west-1".parse().unwrap(),
            ..other.clone()
        },
    ] {
        assert!(!block.shares_with(&stranger), "{stranger:?}");
    }
}

#[test]
fn an_entry_is_named_by_acl_and_number() {
    let one = placed(A, 1);
    assert!(one.is(&A.parse().unwrap(), 1));
    assert!(!one.is(&A.parse().unwrap(), 2) && !one.is(&B.parse().unwrap(), 1));
}

#[test]
fn ends_are_whole_seconds_and_no_block_ends_early() {
    let first = Request {
        expires_after_seconds: Some(60),
        ..request("r-1")
    };
    let at = "2026-11-24T10:00:00.25Z".parse().unwrap();
    let block = Block::asked(None, &first, &region(), &group(), at);
    assert_eq!(block.terms.expires_at.unwrap().to_string(), "2026-11-24T10:01:01Z");
}

// ---- the end of a block ----------------------------------------------------------------------------------------

#[test]
fn a_schedule_is_deleted_where_there_may_be_one() {
    let name = schedule::name(&region(), &group().id, &request("r-1").rule);
    let delete = Some(Step::DeleteSchedule { name: name.clone() });
    let never = in_force(&[]);
    assert_eq!(never.unschedule(), None);
    assert_eq!(never.schedule(&never.terms, now()), None);
    let mut ending = never.clone();
    ending.terms.expires_at = Some(now() + 1.hour());
    assert_eq!(ending.unschedule(), delete);
    // A renewal without an end deletes that of what it renews.
    let renewal = asked(&request("r-2"), Some(&ending));
    assert_eq!(renewal.unschedule(), delete);
    assert_eq!(renewal.schedule(&renewal.terms, now()), delete);
    let put = renewal.schedule(renewal.terms_in_force(), now());
    assert!(
        matches!(&put, Some(Step::PutSchedule(schedule)) if schedule.name == name),
        "{put:?}"
    );
    // One list, one rule, one region: one schedule.
    let elsewhere = schedule::name(&"eu-west-1".parse().unwrap(), &group().id, &request("r-1").rule);
    let other_rule = schedule::name(&region(), &group().id, &tcp("203.0.113.8"));
    assert!(name.starts_with("aisoc-sg-0123abcd-") && name.len() <= 64);
    assert!(name != elsewhere && name != other_rule && elsewhere != other_rule);
}

fn any_id() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]-[0-9]{1,3}", "\\PC{1,8}", "\\PC{240,256}"]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_schedule_sends_what_ends_the_block_and_no_other(
        rule in any_rule(),
        id in any_id(),
        seconds in -1_000_000i64..31_536_000,
        role in any::<bool>(),
        by in prop::option::of("\\PC{0,512}"),
    ) {
        let end = now() + SignedDuration::from_secs(seconds);
        let mut block = in_force(&[]);
        block.rule = rule;
        block.role = role.then(|| "arn:aws:iam::444455556666:role/aisoc".parse().unwrap());
        let terms = Terms { request_id: id.clone(), requested_by: by, expires_at: Some(end), ..block.terms.clone() };
        let schedule = Schedule::of(&block, &terms, now()).unwrap();
        prop_assert!(schedule.at >= now() + 1.minute() && schedule.at >= end);
        prop_assert!(schedule.at == end || schedule.at == now() + 1.minute());
        prop_assert_eq!(&schedule.message_group, &block.group);
        let allow = Request::read(&schedule.request.to_string(), "m").unwrap();
        prop_assert_eq!((allow.action, allow.rule, &allow.group), (Action::AllowIp, rule, &block.group));
        prop_assert_eq!((allow.region.as_ref(), &allow.role), (Some(&block.region), &block.role));
        prop_assert_eq!((allow.only_if_blocked_by, allow.only_if_expires_at), (Some(id), Some(end)));
        prop_assert!(is_uuid(&allow.request_id));
        prop_assert!(!allow.dry_run);
        prop_assert_eq!(schedule::name(&block.region, &allow.group, &allow.rule), schedule.name);
        let endless = Terms { expires_at: None, ..terms };
        prop_assert_eq!(Schedule::of(&block, &endless, now()), None);
    }
}

// ---- faults ----------------------------------------------------------------------------------------------------

#[test]
fn faults_of_lists() {
    let eni = BTreeSet::from(["eni-1".to_owned()]);
    let of = |list: &ListState| [false, true].map(|has_blocks| fault::of_list(list, has_blocks));
    assert_eq!(of(&ListState::Detached), [None, None]);
    let in_use = Some(FaultKind::ListInUse);
    assert_eq!(of(&ListState::Attached(eni)), [in_use, in_use]);
    for lost in [ListState::Deleted, ListState::NotEnrolled, ListState::DefaultGroup] {
        assert_eq!(of(&lost), [None, Some(FaultKind::ListLost)], "{lost:?}");
    }
}

#[test]
fn faults_of_blocks() {
    let record_only = Policy {
        enforcement: Enforcement::None,
        ..policy()
    };
    let of = |block: &Block, seen: &Seen, at: Timestamp, policy: &Policy| {
        let comparison = compare(block, Goal::of(block), seen, &[], policy);
        fault::of_block(block, &comparison, at, policy)
    };
    let block = in_force(&[placed(A, 1)]);
    let good = shown(&block, vec![denying(A, &[1])]);
    let open = shown(&block, vec![denying(A, &[])]);
    let without_rule = Seen {
        rule: None,
        ..good.clone()
    };
    assert_eq!(of(&block, &good, now(), &policy()), None);
    assert_eq!(of(&block, &open, now(), &policy()), Some(FaultKind::NotEnforced));
    assert_eq!(
        of(&block, &without_rule, now(), &policy()),
        Some(FaultKind::RuleMissing)
    );
    assert_eq!(of(&block, &open, now(), &record_only), None);
    assert_eq!(
        of(&block, &without_rule, now(), &record_only),
        Some(FaultKind::RuleMissing)
    );
    // That its list is attached is the list's fault.
    let in_use = Seen {
        group: Some(attached()),
        ..without_rule.clone()
    };
    assert_eq!(of(&block, &in_use, now(), &policy()), None);
    // Past its end: first nothing, then overdue, whatever else.
    let mut ending = block.clone();
    let end = now() + 1.minute();
    ending.terms.expires_at = Some(end);
    let open = Seen { rule: None, ..open };
    assert_eq!(
        of(&ending, &open, end - 1.second(), &policy()),
        Some(FaultKind::NotEnforced)
    );
    assert_eq!(of(&ending, &open, end, &policy()), None);
    assert_eq!(
        of(&ending, &open, end + 2.minutes(), &policy()),
        Some(FaultKind::Overdue)
    );
    // To be lifted, and not gone
    let lifting = ending.lifting("l-1");
    assert_eq!(
        of(&lifting, &good, end + 2.minutes(), &policy()),
        Some(FaultKind::NotLifted)
    );
    assert_eq!(of(&lifting.lifted("l-1", now()), &good, now(), &policy()), None);
}

#[test]
fn faults_have_codes() {
    for (kind, code) in [
        (FaultKind::ListInUse, ErrorCode::GroupInUse),
        (FaultKind::ListLost, ErrorCode::BlockListLost),
        (FaultKind::NotEnforced, ErrorCode::BlockNotEnforced),
        (FaultKind::RuleMissing, ErrorCode::BlockNotEnforced),
        (FaultKind::Overdue, ErrorCode::BlockOverdue),
        (FaultKind::NotLifted, ErrorCode::BlockOverdue),
    ] {
        assert_eq!(kind.code(), code);
    }
}

#[test]
fn entries_that_no_block_explains_are_counted() {
    let mut strange = denying(B, &[1, 2]);
    strange
        .entries
        .push(entry(99, Effect::Deny, "192.0.2.0/24", None, None));
    strange
        .entries
        .push(entry(98, Effect::Allow, "192.0.2.0/24", None, None));
    let acls = [denying(A, &[1]), strange];
    let count = |blocks: &[Block]| fault::entries_without_block(&acls, blocks, &policy());
    assert_eq!(count(&[]), 4);
    assert_eq!(count(&[in_force(&[placed(A, 1), placed(B, 2), placed(B, 50)])]), 2);
    assert_eq!(count(&[in_force(&[placed(A, 1)]).lifting("l-1")]), 3);
    let mut lifted = in_force(&[]).lifted("l-1", now());
    lifted.entries = vec![placed(A, 1)];
    assert_eq!(count(&[lifted]), 4, "of a lifted block nothing is left");
}

// ---- properties of the comparison ------------------------------------------------------------------------------

/// What EC2 shows once the steps are taken.
fn apply(seen: &mut Seen, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Authorize { description, tags, .. } => {
                let tags = tags.pairs().map(|(key, value)| (key.to_owned(), value.to_owned()));
                seen.rule = Some(RecordedRule {
                    id: "sgr-2".to_owned(),
                    description: description.clone(),
                    tags: tags.into(),
                });
            }
            Step::Retag { rule_id, tags } => {
                let rule = seen.rule.as_mut().filter(|rule| rule.id == *rule_id).unwrap();
                let tags = tags.pairs().map(|(key, value)| (key.to_owned(), value.to_owned()));
                rule.tags.extend(tags);
            }
            Step::Revoke { .. } => assert!(seen.rule.take().is_some()),
            Step::AddDeny(added) => {
                let acl = shown_acl(seen, &added.acl);
                assert!(acl.is_free(added.number), "EC2 refuses a number that is taken");
                acl.entries.push(deny(added.number, &added.rule));
            }
            Step::RemoveDeny(removed) => {
                let acl = shown_acl(seen, &removed.acl);
                let count = acl.entries.len();
                acl.entries.retain(|entry| entry.number != removed.number);
                assert_eq!(acl.entries.len() + 1, count);
            }
            Step::PutSchedule(_) | Step::DeleteSchedule { .. } => panic!("the comparison has no schedules: {step}"),
        }
    }
}

fn shown_acl<'a>(seen: &'a mut Seen, id: &NetworkAclId) -> &'a mut NetworkAcl {
    let acls = seen.network_acls.iter_mut().flatten();
    acls.into_iter().find(|acl| acl.id == *id).unwrap()
}

/// Sources that overlap wholly, in part (at the first, a middle and the last address), or are neighbours.
const SOURCES: [&str; 15] = [
    "203.0.113.7/32",
    "203.0.113.0/24",
    "203.0.113.0/32",
    "203.0.113.255/32",
    "203.0.113.128/25",
    "203.0.112.0/23",
    "203.0.112.255/32",
    "203.0.114.0/32",
    "0.0.0.0/0",
    "2001:db8::7/128",
    "2001:db8::/64",
    "2001:db8::/128",
    "2001:db8::ffff:ffff:ffff:ffff/128",
    "2001:db8:0:1::/64",
    "::/0",
];

/// Ranges that touch each other at one port, or miss each other by one.
const PORTS: [(u16, u16); 9] = [
    (0, 65535),
    (0, 0),
    (65535, 65535),
    (22, 22),
    (20, 30),
    (30, 40),
    (31, 40),
    (23, 1000),
    (1, 65534),
];

fn any_rule() -> impl Strategy<Value = IngressRule> {
    let source = prop::sample::select(SOURCES.to_vec());
    let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::All]);
    (source, protocol, prop::sample::select(PORTS.to_vec()))
        .prop_map(|(source, protocol, ports)| IngressRule::new(source.parse().unwrap(), protocol, ports))
}

fn any_number() -> impl Strategy<Value = u16> {
    prop_oneof![6 => 1u16..9, 2 => 96u16..104, 1 => Just(32766u16), 1 => Just(32767u16)]
}

prop_compose! {
    fn any_entry()(
        number in any_number(),
        is_deny in any::<bool>(),
        source in prop::option::weighted(0.95, prop::sample::select(SOURCES.to_vec())),
        protocol in prop::sample::select(vec![None, Some(6u8), Some(17), Some(1)]),
        ports in prop::option::of(prop::sample::select(PORTS.to_vec())),
    ) -> Entry {
        Entry {
            number,
            effect: if is_deny { Effect::Deny } else { Effect::Allow },
            source: source.map(|source| source.parse().unwrap()),
            protocol,
            ports,
        }
    }
}

fn any_acl(id: &'static str) -> impl Strategy<Value = NetworkAcl> {
    let entries = prop::collection::vec(any_entry(), 0..7);
    (prop::bool::weighted(0.8), entries).prop_map(move |(has_subnet, entries)| {
        let mut numbers = BTreeSet::new();
        let entries = entries
            .into_iter()
            .filter(|entry| numbers.insert(entry.number))
            .collect();
        NetworkAcl {
            has_subnet,
            ..acl(id, entries)
        }
    })
}

/// An entry of a block, and whether EC2 shows it.
fn any_entries_of_a_block() -> impl Strategy<Value = Vec<(Placed, bool)>> {
    let one = (
        prop::sample::select(vec![A, B, C]),
        any_number(),
        prop::bool::weighted(0.7),
    )
        .prop_map(|(acl, number, shows)| (placed(acl, number), shows));
    prop::collection::vec(one, 0..4).prop_map(|entries| {
        let mut seen_before = BTreeSet::new();
        entries
            .into_iter()
            .filter(|(placed, _)| seen_before.insert(placed.clone()))
            .collect()
    })
}

fn any_state() -> impl Strategy<Value = State> {
    prop_oneof![
        3 => Just(State::InForce),
        2 => Just(State::Pending),
        2 => Just(State::Lifting { by: "l-1".to_owned() }),
        1 => Just(State::Lifted { by: "l-1".to_owned(), at: now() }),
    ]
}

fn any_group() -> impl Strategy<Value = Option<Group>> {
    let default = Group {
        name: DEFAULT_GROUP.to_owned(),
        ..group()
    };
    let other_value = Group {
        tags: BTreeMap::from([("aisoc:containment".to_owned(), "no".to_owned())]),
        ..attached()
    };
    prop_oneof![
        6 => Just(Some(group())),
        2 => Just(Some(attached())),
        1 => Just(Some(without_tag())),
        1 => Just(Some(other_value)),
        1 => Just(Some(default)),
        1 => Just(None),
    ]
}

/// A block, what EC2 shows, and the table's other blocks.
#[derive(Clone, Debug)]
struct Case {
    block: Block,
    seen: Seen,
    others: Vec<Block>,
    policy: Policy,
}

impl Case {
    fn compared(&self) -> Comparison {
        compare(
            &self.block,
            Goal::of(&self.block),
            &self.seen,
            &self.others,
            &self.policy,
        )
    }

    /// Whether another block that is wanted has the entry.
    fn is_shared(&self, placed: &DenyEntry) -> bool {
        self.others.iter().any(|other| {
            matches!(other.state, State::Pending | State::InForce)
                && other.group != self.block.group
                && (&other.region, &other.vpc_id, other.rule)
                    == (&self.block.region, &self.block.vpc_id, self.block.rule)
                && other
                    .entries
                    .iter()
                    .any(|held| held.acl == placed.acl && held.number == placed.number)
        })
    }

    fn acls(&self) -> &[NetworkAcl] {
        self.seen.network_acls.as_deref().unwrap_or_default()
    }

    fn acl(&self, id: &NetworkAclId) -> &NetworkAcl {
        self.acls().iter().find(|acl| acl.id == *id).unwrap()
    }

    /// The network ACLs in which the block is to deny.
    fn concerned(&self) -> Vec<&NetworkAcl> {
        let is_meant = |acl: &&NetworkAcl| match &self.block.terms_in_force().network_acl_ids {
            Some(ids) => ids.contains(&acl.id),
            None => acl.has_subnet,
        };
        let enforced = self.policy.enforcement == Enforcement::NetworkAcl;
        self.acls().iter().filter(is_meant).filter(|_| enforced).collect()
    }

    /// An entry of the block's, or shared by it, shows there and stands before every allow that lets in some packet of
    /// the rule.
    fn is_denied_in(&self, acl: &NetworkAcl) -> bool {
        acl.entries.iter().any(|shown| {
            let entry = DenyEntry {
                acl: acl.id.clone(),
                number: shown.number,
                rule: self.block.rule,
            };
            let is_own = self
                .block
                .entries
                .iter()
                .any(|own| own.acl == entry.acl && own.number == entry.number);
            (is_own || self.is_shared(&entry))
                && equals(shown, &self.block.rule)
                && is_before_every_allow(acl, shown.number, &self.block.rule)
        })
    }
}

prop_compose! {
    fn any_case()(
        rule in any_rule(),
        other_rule in any_rule(),
        is_same_rule in prop::bool::weighted(0.7),
        states in (any_state(), any_state()),
        named in prop::option::weighted(0.4, prop::sample::subsequence(vec![A, B, C], 1..3)),
        renews in prop::option::weighted(0.3, prop::option::of(prop::sample::subsequence(vec![A, B, C], 1..3))),
        own in any_entries_of_a_block(),
        theirs in any_entries_of_a_block(),
        other_vpc in prop::bool::weighted(0.2),
        group in any_group(),
        has_rule in prop::option::weighted(0.6, any::<bool>()),
        mut acls in prop::option::weighted(0.95, (any_acl(A), any_acl(B), 0usize..3).prop_map(
            |(one, other, count)| [one, other].into_iter().take(count).collect::<Vec<_>>())),
        enforced in prop::bool::weighted(0.9),
    ) -> Case {
        let ids = |ids: Vec<&str>| ids.into_iter().map(|id| id.parse().unwrap()).collect::<Vec<NetworkAclId>>();
        let mut block = in_force(&[]);
        block.rule = rule;
        block.state = states.0;
        block.terms.network_acl_ids = named.map(ids);
        block.renews = renews.map(|named| Terms {
            request_id: "r-0".to_owned(),
            network_acl_ids: named.map(ids),
            ..block.terms.clone()
        });
        block.entries = own.iter().map(|(placed, _)| placed.clone()).collect();
        let mut other = of_other_list(&[]);
        other.rule = if is_same_rule { rule } else { other_rule };
        other.state = states.1;
        if other_vpc {
            other.vpc_id = "vpc-2".to_owned();
        }
        other.entries = theirs.iter().map(|(placed, _)| placed.clone()).collect();
        for (placed, rule) in own.iter().map(|own| (own, &block.rule)).chain(theirs.iter().map(|own| (own, &other.rule))) {
            let (placed, shows) = placed;
            if let Some(acl) = acls.iter_mut().flatten().find(|acl| acl.id == placed.acl).filter(|_| *shows) {
                acl.entries.retain(|entry| entry.number != placed.number);
                acl.entries.push(deny(placed.number, rule));
            }
        }
        let mut rule = has_rule.map(|_| recorded(block.terms_in_force()));
        if has_rule == Some(false) {
            rule.as_mut().unwrap().tags.clear();
        }
        let seen = Seen { rule: rule.filter(|_| group.is_some()), group, network_acls: acls };
        let enforcement = if enforced { Enforcement::NetworkAcl } else { Enforcement::None };
        Case { block, seen, others: vec![other], policy: Policy { enforcement, ..policy() } }
    }
}

/// A packet as an entry sees it.
type Packet = (IpAddr, u8, u16);

/// Whether an entry matches a packet; written anew, so as not to test the code by itself.
fn matches(entry: &Entry, (source, protocol, port): Packet) -> bool {
    entry.source.is_none_or(|network| network.contains(&source))
        && match entry.protocol {
            None => true,
            Some(number) => number == protocol && entry.ports.is_none_or(|(from, to)| from <= port && port <= to),
        }
}

/// Whether an entry is a deny of exactly the rule's packets.
fn equals(entry: &Entry, rule: &IngressRule) -> bool {
    let everything = |ports: Option<(u16, u16)>| ports.unwrap_or((0, 65535));
    entry.effect == Effect::Deny
        && entry.source == Some(rule.source().network())
        && entry.protocol == protocol_number(rule.protocol())
        && (entry.protocol.is_none() || everything(entry.ports) == everything(rule.ports()))
}

/// Packets at both ends of both ranges, in every combination: where two ranges overlap, one of them is in both.
fn packets(entry: &Entry, rule: &Entry) -> Vec<Packet> {
    let ends = |network: IpNet| [network.network(), network.broadcast()];
    let sources = [entry.source, rule.source].into_iter().flatten().flat_map(ends);
    let ports: Vec<u16> = [entry.ports, rule.ports, Some((0, 65535))]
        .into_iter()
        .flatten()
        .flat_map(|(from, to)| [from, to])
        .collect();
    let protocols = [1, 6, 17, 58];
    sources
        .flat_map(|source| protocols.map(|protocol| (source, protocol)))
        .flat_map(|(source, protocol)| ports.iter().map(move |port| (source, protocol, *port)))
        .collect()
}

fn is_before_every_allow(acl: &NetworkAcl, number: u16, rule: &IngressRule) -> bool {
    let rule = deny(number, rule);
    let is_before = |entry: &&Entry| entry.effect == Effect::Allow && entry.number < number;
    !acl.entries.iter().filter(is_before).any(|allow| {
        packets(allow, &rule)
            .into_iter()
            .any(|packet| matches(allow, packet) && matches(&rule, packet))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn no_step_lets_anyone_in_or_touches_what_is_not_ours(case in any_case()) {
        let comparison = case.compared();
        let is_wanted = matches!(case.block.state, State::Pending | State::InForce);
        let is_tagged = |group: &Group| group.tags.get("aisoc:containment").is_some_and(|value| value == "blocklist");
        for step in comparison.steps.iter().chain(&comparison.then) {
            match step {
                Step::Authorize { group, rule, .. } => {
                    let list = case.seen.group.as_ref().unwrap();
                    prop_assert!(is_wanted && is_tagged(list) && list.name != "default" && list.interfaces.is_empty());
                    prop_assert_eq!((group, *rule), (&case.block.group, case.block.rule));
                }
                Step::Retag { rule_id, .. } => {
                    prop_assert!(is_wanted && is_tagged(case.seen.group.as_ref().unwrap()));
                    prop_assert_eq!(rule_id, &case.seen.rule.as_ref().unwrap().id);
                }
                Step::Revoke { group, rule } => {
                    let list = case.seen.group.as_ref().unwrap();
                    prop_assert!(is_tagged(list) && (!is_wanted || !list.interfaces.is_empty()));
                    prop_assert_eq!((group, *rule), (&case.block.group, case.block.rule));
                }
                Step::AddDeny(added) => {
                    let acl = case.acl(&added.acl);
                    prop_assert!(is_wanted && added.rule == case.block.rule);
                    prop_assert!(case.concerned().iter().any(|concerned| concerned.id == added.acl));
                    prop_assert!(acl.entries.iter().all(|entry| entry.number != added.number), "a free number");
                    prop_assert!(is_before_every_allow(acl, added.number, &added.rule));
                    let was_placed = case.block.entries.iter().any(|own| own.is(&added.acl, added.number));
                    prop_assert!((1..=99).contains(&added.number) || was_placed);
                    prop_assert!(comparison.entries.iter().any(|own| own.is(&added.acl, added.number)), "recorded");
                }
                Step::RemoveDeny(removed) => {
                    let entry = case.acl(&removed.acl).entries.iter().find(|entry| entry.number == removed.number);
                    prop_assert!(equals(entry.unwrap(), &case.block.rule));
                    prop_assert!(case.block.entries.iter().any(|own| own.is(&removed.acl, removed.number)));
                    prop_assert!(!case.is_shared(removed));
                }
                Step::PutSchedule(_) | Step::DeleteSchedule { .. } => prop_assert!(false, "{}", step),
            }
        }
    }

    #[test]
    fn enforced_means_that_no_packet_of_the_rule_meets_an_allow_first(case in any_case()) {
        let comparison = case.compared();
        let concerned = case.concerned();
        if matches!(case.block.state, State::Pending | State::InForce) {
            let is_denied = concerned.iter().all(|acl| case.is_denied_in(acl));
            prop_assert_eq!(comparison.is_enforced(), is_denied && concerned.iter().any(|acl| acl.has_subnet));
            // Each ACL concerned is either denied in or named as open.
            let denied: Vec<&NetworkAclId> = comparison.standing.iter().map(|deny| &deny.acl).collect();
            let (closed, open): (Vec<&NetworkAcl>, Vec<&NetworkAcl>) = concerned.iter().partition(|acl| case.is_denied_in(acl));
            prop_assert_eq!(denied, closed.iter().map(|acl| &acl.id).collect::<Vec<_>>());
            prop_assert_eq!(
                comparison.open.iter().collect::<Vec<_>>(), open.iter().map(|acl| &acl.id).collect::<Vec<_>>());
            for standing in &comparison.standing {
                let acl = case.acl(&standing.acl);
                prop_assert!(is_before_every_allow(acl, standing.number, &case.block.rule));
            }
        }
        let ends_open = comparison.open.len();
        let added = comparison.steps.iter().filter(|step| matches!(step, Step::AddDeny(_))).count();
        prop_assert_eq!(ends_open, added + comparison.refused.len());
    }

    #[test]
    fn the_steps_lead_to_agreement_and_touch_nothing_else(case in any_case()) {
        let mut now = case.clone();
        let mut refused = 0;
        for round in 0..4 {
            let comparison = now.compared();
            refused = comparison.refused.len();
            // Whatever of ours shows is recorded, or is another block's as well.
            for own in now.block.entries.iter().map(|placed| placed.entry(now.block.rule)) {
                let shows = now.acls().iter().any(|acl| acl.id == own.acl
                    && acl.entries.iter().any(|entry| entry.number == own.number && equals(entry, &own.rule)));
                let is_recorded = comparison.entries.iter().any(|placed| placed.is(&own.acl, own.number));
                prop_assert!(!shows || is_recorded || now.is_shared(&own));
            }
            if comparison.steps.is_empty() && comparison.then.is_empty() {
                break;
            }
            prop_assert!(round < 3, "no end: {:?}", comparison);
            apply(&mut now.seen, &comparison.steps);
            apply(&mut now.seen, &comparison.then);
            now.block.entries = comparison.entries;
        }
        let end = now.compared();
        prop_assert!(end.agrees() || refused > 0);
        let is_wanted = matches!(now.block.state, State::Pending | State::InForce);
        let list = ListState::of(now.seen.group.as_ref(), &now.policy.tag);
        if is_wanted {
            prop_assert_eq!(end.is_enforced(), refused == 0 && now.concerned().iter().any(|acl| acl.has_subnet));
            if list == ListState::Detached {
                prop_assert!(RecordTags::of(now.block.terms_in_force()).are_on(now.seen.rule.as_ref().unwrap()));
            }
        } else {
            prop_assert!(end.standing.is_empty());
        }
        if list.is_enrolled() {
            prop_assert_eq!(now.seen.rule.is_some(), is_wanted && list == ListState::Detached);
        } else {
            prop_assert_eq!(&now.seen.rule, &case.seen.rule);
        }
        // What is not ours, or is another block's as well, is as it was.
        for (before, after) in case.acls().iter().zip(now.acls()) {
            let is_foreign = |entry: &&Entry| {
                let named = DenyEntry { acl: before.id.clone(), number: entry.number, rule: case.block.rule };
                let is_own = |block: &Block| block.entries.iter().any(|own| own.is(&named.acl, named.number));
                !(is_own(&case.block) && equals(entry, &case.block.rule)) || case.is_shared(&named)
            };
            for entry in before.entries.iter().filter(is_foreign) {
                prop_assert!(after.entries.contains(entry), "{:?} is gone from {}", entry, before.id);
            }
        }
    }

    #[test]
    fn an_allow_overlaps_exactly_if_some_packet_is_in_both(rule in any_rule(), allow in any_entry()) {
        let allow = Entry { effect: Effect::Allow, ..allow };
        let rule_as_entry = deny(1, &rule);
        let common = packets(&allow, &rule_as_entry)
            .into_iter()
            .any(|packet| matches(&allow, packet) && matches(&rule_as_entry, packet));
        let shown = acl(A, vec![allow.clone()]);
        prop_assert_eq!(shown.first_allow(&rule), common.then_some(allow.number));
        let shown = acl(A, vec![Entry { effect: Effect::Deny, ..allow.clone() }]);
        let denies: Vec<u16> = shown.denies_that_overlap(&rule).collect();
        let last = allow.number == 32767;
        prop_assert_eq!(denies, (common && !last).then_some(allow.number).into_iter().collect::<Vec<_>>());
        prop_assert_eq!(shown.first_allow(&rule), None);
    }

    #[test]
    fn a_number_is_the_lowest_that_is_free_and_comes_before_every_allow(rule in any_rule(), acl in any_acl(A)) {
        let numbers: RuleNumbers = "3-98".parse().unwrap();
        let fits = |number: &u16| {
            acl.entries.iter().all(|entry| entry.number != *number) && is_before_every_allow(&acl, *number, &rule)
        };
        let found = acl.free_number(&rule, numbers, &BTreeSet::new());
        prop_assert_eq!(found.as_ref().ok().copied(), (3..=98u16).find(fits));
        if let Err(refusal) = found {
            prop_assert_eq!(refusal.code, ErrorCode::NetworkAclFull);
        }
    }
}
