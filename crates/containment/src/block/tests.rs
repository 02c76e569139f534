use std::time::Duration;

use actions::Enforcement;
use actions::block::State;
use actions::block::network_acl::{Effect, Entry};
use aws_support::ErrorKind;
use serde_json::{Value, json};

use crate::testing::{ACL_A, ACL_B, GROUP_A, GROUP_B, LATENCY, World, acl, aws_error, body, entry};

const TARGET: &str = "203.0.113.7/32";

fn block(id: &str) -> Value {
    body(id, "BLOCK_IP", GROUP_A)
}

fn allow(id: &str) -> Value {
    body(id, "ALLOW_IP", GROUP_A)
}

fn expiring(id: &str, seconds: u32) -> Value {
    let mut request = block(id);
    request["params"]["expires_after_seconds"] = json!(seconds);
    request
}

fn at(number: u16) -> Vec<(u16, String)> {
    vec![(number, TARGET.to_owned())]
}

fn is(answer: &Value, status: &str, changed: bool, enforced: bool, verified: bool) {
    let flags = ["status", "changed", "enforced", "verified"].map(|name| answer[name].clone());
    let expected = [json!(status), json!(changed), json!(enforced), json!(verified)];
    assert_eq!(flags, expected, "{answer}");
}

fn assert_nothing_left(world: &World) {
    let untouched = World::default();
    assert_eq!(world.things.borrow().acls, untouched.things.borrow().acls);
    assert!(world.rules(GROUP_A).is_empty());
    assert!(world.schedules.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_same_request_again_changes_nothing() {
    let world = World::default();
    for request in [expiring("r-1", 3600), allow("r-2")] {
        let first = world.bare(&request).await;
        assert_eq!(
            (&first["status"], &first["changed"]),
            (&json!("succeeded"), &json!(true)),
            "{first}"
        );
        let before = (world.things.borrow().clone(), world.schedules.borrow().clone());
        let again = world.bare(&request).await;
        assert_eq!(
            (&again["status"], &again["changed"]),
            (&json!("succeeded"), &json!(false)),
            "{again}"
        );
        assert_eq!(
            (&again["enforced"], &again["verified"]),
            (&first["enforced"], &json!(true)),
            "{again}"
        );
        assert_eq!(again["details"]["expires_at"], first["details"]["expires_at"]);
        assert_eq!(
            (world.things.borrow().clone(), world.schedules.borrow().clone()),
            before
        );
    }
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn block_allow_block_ends_in_a_block() {
    let world = World::default();
    is(&world.bare(&block("r-1")).await, "succeeded", true, true, true);
    is(&world.bare(&allow("r-2")).await, "succeeded", true, false, true);
    is(&world.bare(&block("r-3")).await, "succeeded", true, true, true);
    assert_eq!(world.rules(GROUP_A), [(TARGET.to_owned(), "r-3".to_owned())]);
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(1), at(1)));
}

#[tokio::test(start_paused = true)]
async fn the_deny_is_in_force_within_four_calls_and_the_result_sent_within_eight() {
    for (request, deny, sent) in [(block("r-1"), 3, 5), (expiring("r-1", 60), 3, 5)] {
        let world = World::default();
        let start = tokio::time::Instant::now();
        world.bare(&request).await;
        let done = |operation: &str| {
            let done_at = world.done_at.borrow();
            let (_, at) = done_at
                .iter()
                .rev()
                .find(|(call, _)| call.starts_with(operation))
                .unwrap();
            (*at - start).as_millis() / LATENCY.as_millis()
        };
        assert_eq!((done("add"), done("send")), (deny, sent));
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_somebody_deletes_is_put_back_and_told_once() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.delete_entry(ACL_A, 1);
    world.sent.borrow_mut().clear();
    let report = world.audit().await;
    assert_eq!(world.denied(ACL_A), at(1));
    assert_eq!(report["places"][0]["blocks_restored"], 1, "{report}");
    assert_eq!(report["places"][0]["blocks_not_enforced"], 0);
    let sent = world.sent.borrow().clone();
    assert_eq!(sent.len(), 1, "{sent:?}");
    is(&sent[0], "succeeded", true, true, true);
    let before = world.calls.borrow().len();
    let report = world.audit().await;
    assert_eq!(report["places"][0]["blocks_restored"], 0);
    assert_eq!(world.sent.borrow().len(), 1, "a second audit says nothing");
    let calls = world.calls.borrow()[before..].to_vec();
    assert_eq!(calls, ["all ", "survey "], "and changes nothing");
}

const ACL_C: &str = "acl-0000000c";

fn block_b(id: &str) -> Value {
    body(id, "BLOCK_IP", GROUP_B)
}

fn throttle(world: &World, operation: &str, times: usize) {
    for _ in 0..times {
        world.fail(operation, ErrorKind::Throttled, "RequestLimitExceeded");
    }
}

/// A denial that fresh credentials do not cure: each attempt meets it.
fn deny(world: &World, operation: &str, times: usize) {
    for _ in 0..2 * times {
        world.fail(operation, ErrorKind::AccessDenied, "UnauthorizedOperation");
    }
}

/// The deny entry that a block places.
fn ours(number: u16) -> Entry {
    Entry {
        protocol: Some(6),
        ports: Some((0, 65535)),
        ..entry(number, Effect::Deny, TARGET)
    }
}

/// What a schedule sends when its time has come, after which it is gone.
fn fire(world: &World) -> Value {
    let (_, schedule) = world.schedules.borrow_mut().pop_first().unwrap();
    schedule.request
}

fn code(answer: &Value) -> &str {
    answer["details"]["error"]["code"].as_str().unwrap_or("none")
}

fn message(answer: &Value) -> &str {
    answer["details"]["error"]["message"].as_str().unwrap_or_default()
}

/// The entries of a result: network ACL, and whether it was changed.
fn told(answer: &Value) -> Vec<(String, bool)> {
    answer["details"]["network_acl_entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let acl = entry["network_acl_id"].as_str().unwrap();
            (acl.to_owned(), entry["changed"].as_bool().unwrap())
        })
        .collect()
}

fn place(report: &Value, count: &str) -> u64 {
    report["places"][0][count].as_u64().unwrap()
}

/// Everything that an audit finds is as it should be.
async fn assert_all_is_well(world: &World) {
    let before = (world.things.borrow().clone(), world.sent.borrow().len());
    let report = world.audit().await;
    for count in [
        "block_lists_in_use",
        "rules_revoked",
        "blocks_not_enforced",
        "blocks_restored",
        "blocks_overdue",
        "blocks_lifted",
        "block_lists_lost",
        "entries_without_block",
    ] {
        assert_eq!(place(&report, count), 0, "{count}: {report}");
    }
    assert_eq!((world.things.borrow().clone(), world.sent.borrow().len()), before);
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

// ---- what is told is what is so --------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_rule_that_cannot_be_revoked_on_an_attached_list_is_told_as_open() {
    let world = World::default();
    throttle(&world, "add", 2);
    assert_eq!(world.deliver(&block("r-1"), 1).await, None);
    assert_eq!(world.rules(GROUP_A).len(), 1);
    world.attach(GROUP_A, Some("eni-1"));
    deny(&world, "revoke", 1);
    let result = world.deliver(&block("r-1"), 2).await.unwrap();
    assert_eq!(
        (&result["status"], &result["changed"]),
        (&json!("failed"), &json!(true))
    );
    assert_eq!(code(&result), "group_in_use");
    assert!(
        message(&result).contains("could NOT be revoked"),
        "{}",
        message(&result)
    );
    assert_eq!(world.rules(GROUP_A).len(), 1);
    // The audit goes on with it.
    world.audit().await;
    assert!(world.rules(GROUP_A).is_empty());
    assert_eq!(
        (world.denied(ACL_A), world.denied(ACL_B)),
        (at(1), at(1)),
        "the block holds"
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_attached_while_a_block_is_made_loses_its_rule_and_keeps_its_entries() {
    let world = World::default();
    world.before("add", |world| world.attach(GROUP_A, Some("eni-9")));
    let answer = world.bare(&block("r-1")).await;
    is(&answer, "failed", true, true, false);
    assert_eq!(code(&answer), "group_in_use");
    assert!(message(&answer).contains("eni-9"));
    assert!(world.rules(GROUP_A).is_empty());
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(1), at(1)));
    // The same request again says the same.
    let again = world.bare(&block("r-1")).await;
    assert_eq!((&again["status"], code(&again)), (&json!("failed"), "group_in_use"));
    // Once the list is attached to nothing, the rule comes back.
    world.attach(GROUP_A, None);
    world.audit().await;
    assert_eq!(world.rules(GROUP_A), [(TARGET.to_owned(), "r-1".to_owned())]);
    world.bare(&allow("r-2")).await;
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn of_two_entries_of_which_one_cannot_be_removed_each_is_told_as_it_is() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.fail("remove", ErrorKind::Rejected, "OperationNotPermitted");
    let answer = world.bare(&allow("r-2")).await;
    is(&answer, "failed", true, true, false);
    assert_eq!(code(&answer), "aws_rejected");
    let mut told = told(&answer);
    told.sort();
    let open = if world.denied(ACL_A).is_empty() { ACL_B } else { ACL_A };
    assert_eq!(
        told,
        [(ACL_A.to_owned(), open != ACL_A), (ACL_B.to_owned(), open != ACL_B)]
    );
    // What is to be lifted is lifted by the audit, and never restored.
    let report = world.audit().await;
    assert_eq!(
        (place(&report, "blocks_lifted"), place(&report, "blocks_restored")),
        (1, 0)
    );
    assert_nothing_left(&world);
    assert_all_is_well(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_message_that_came_before_says_that_its_block_stands() {
    let world = World::failing("send", ErrorKind::Throttled, "T");
    assert_eq!(world.deliver(&block("r-1"), 1).await, None);
    world
        .policy
        .borrow_mut()
        .protected
        .push("203.0.113.0/24".parse().unwrap());
    let result = world.deliver(&block("r-1"), 2).await.unwrap();
    is(&result, "failed", true, true, false);
    assert_eq!(code(&result), "protected_target");
    assert!(
        message(&result).contains("stands until ALLOW_IP"),
        "{}",
        message(&result)
    );
    assert_eq!(told(&result).len(), 2);
    // One that made nothing is refused as at first.
    let result = world.deliver(&block("r-2"), 2).await.unwrap();
    is(&result, "blocked", false, false, false);
}

#[tokio::test(start_paused = true)]
async fn a_named_acl_without_a_subnet_is_no_enforcement() {
    let world = World::default();
    world.change(|things| things.acls.get_mut(ACL_A).unwrap().has_subnet = false);
    let mut request = block("r-1");
    request["params"]["aws_network_acl_ids"] = json!([ACL_A]);
    let answer = world.bare(&request).await;
    is(&answer, "failed", false, false, false);
    assert_eq!(code(&answer), "network_acl_without_subnet");
    assert_eq!(world.writes(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_item_alone_is_never_told_as_a_block() {
    let world = World::default();
    throttle(&world, "authorize", 1);
    throttle(&world, "add", 2);
    let answer = world.bare(&block("r-1")).await;
    is(&answer, "failed", false, false, false);
    assert!(world.block(GROUP_A).is_some(), "it is recorded before any effect");
}

// ---- other lists, other hands ----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_lift_that_comes_again_leaves_the_entries_to_a_list_that_blocks_the_same_by_then() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.lose_answer("remove");
    world.lose_answer("remove");
    assert_eq!(world.deliver(&allow("r-2"), 1).await, None);
    is(&world.bare(&block_b("r-3")).await, "succeeded", true, true, true);
    assert!(world.deliver(&allow("r-2"), 2).await.is_some());
    // Not at the numbers that the lift may still remove.
    assert_eq!(
        (world.denied(ACL_A), world.denied(ACL_B)),
        (at(2), at(2)),
        "what is recorded is denied"
    );
    assert_eq!(world.rules(GROUP_B).len(), 1);
    assert!(world.rules(GROUP_A).is_empty());
    assert_all_is_well(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_blocks_the_same_while_it_is_lifted_elsewhere_gets_its_entries_back() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    // Another function takes part in the entries after this one has read the table.
    world.before("remove", |world| {
        let mut shared = world.block(GROUP_A).unwrap();
        shared.group = GROUP_B.parse().unwrap();
        shared.state = State::InForce;
        shared.revision = 1;
        let key = (shared.rule.to_string(), GROUP_B.to_owned());
        world.blocks.borrow_mut().insert(key, shared);
    });
    let answer = world.bare(&allow("r-2")).await;
    assert_eq!(answer["status"], "succeeded", "{answer}");
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(1), at(1)));
}

#[tokio::test(start_paused = true)]
async fn two_blocks_at_once_share_their_entries_and_each_keeps_its_rule() {
    let world = World::default();
    let (one, other) = world.both(&block("r-1"), &block_b("r-2")).await;
    assert_eq!((&one["enforced"], &other["enforced"]), (&json!(true), &json!(true)));
    assert_eq!((world.rules(GROUP_A).len(), world.rules(GROUP_B).len()), (1, 1));
    assert_all_is_well(&world).await;
    world.bare(&allow("r-3")).await;
    assert!(!world.denied(ACL_A).is_empty() && !world.denied(ACL_B).is_empty());
    is(
        &world.bare(&body("r-4", "ALLOW_IP", GROUP_B)).await,
        "succeeded",
        true,
        false,
        true,
    );
    assert_nothing_left(&world);
    assert_all_is_well(&world).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_lift_of_two_says_that_the_other_list_still_denies() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    is(&world.bare(&block_b("r-2")).await, "succeeded", true, true, true);
    let first = world.bare(&allow("r-3")).await;
    is(&first, "succeeded", true, true, true);
    let summary = first["summary"].as_str().unwrap();
    assert!(summary.contains("still denied, for sg-0000000b"), "{summary}");
    assert_eq!(world.denied(ACL_A), at(1));
}

#[tokio::test(start_paused = true)]
async fn the_same_block_at_once_in_two_containers_is_one() {
    let world = World::default();
    let (one, other) = world.both(&block("r-1"), &block("r-1")).await;
    for answer in [&one, &other] {
        assert_eq!(
            (&answer["status"], &answer["enforced"]),
            (&json!("succeeded"), &json!(true)),
            "{answer}"
        );
    }
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(1), at(1)));
    assert_eq!(world.rules(GROUP_A).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deny_by_hand_that_equals_a_blocks_is_not_ours() {
    let world = World::default();
    world.put_entry(ACL_A, ours(1));
    let before = world.things.borrow().acls.clone();
    let answer = world.bare(&block("r-1")).await;
    is(&answer, "succeeded", true, true, true);
    assert_eq!(world.denied(ACL_A).len(), 2);
    let lifted = world.bare(&allow("r-2")).await;
    assert_eq!(
        (&lifted["status"], &lifted["changed"]),
        (&json!("succeeded"), &json!(true))
    );
    assert_eq!(world.things.borrow().acls, before);
    let summary = lifted["summary"].as_str().unwrap();
    assert!(summary.contains("deny entries still stand for it"), "{summary}");
    assert_eq!(lifted["enforced"], true);
    let report = world.audit().await;
    assert_eq!(place(&report, "entries_without_block"), 1);
    assert_eq!(world.things.borrow().acls, before);
}

#[tokio::test(start_paused = true)]
async fn foreign_entries_are_left_alone() {
    let world = World::default();
    world.put_entry(
        ACL_A,
        Entry {
            protocol: Some(17),
            ..ours(3)
        },
    );
    world.put_entry(ACL_A, ours(200));
    let before = world.things.borrow().acls.clone();
    world.bare(&block("r-1")).await;
    world.bare(&allow("r-2")).await;
    assert_eq!(world.things.borrow().acls, before);
}

#[tokio::test(start_paused = true)]
async fn the_loser_of_a_race_for_a_number_takes_the_next() {
    let world = World::default();
    world.before("add", |world| {
        world.put_entry(ACL_A, entry(1, Effect::Deny, "198.51.100.1/32"));
    });
    let answer = world.bare(&block("r-1")).await;
    is(&answer, "succeeded", true, true, true);
    assert_eq!(
        world.denied(ACL_A),
        [(1, "198.51.100.1/32".to_owned()), (2, TARGET.to_owned())]
    );
    world.bare(&allow("r-2")).await;
    assert_eq!(world.denied(ACL_A), [(1, "198.51.100.1/32".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn an_allow_that_is_put_before_an_entry_is_beaten() {
    let world = World::default();
    for number in [1, 2] {
        world.put_entry(ACL_A, entry(number, Effect::Deny, "198.51.100.1/32"));
    }
    world.bare(&block("r-1")).await;
    world.delete_entry(ACL_A, 1);
    world.delete_entry(ACL_A, 2);
    world.put_entry(ACL_A, entry(2, Effect::Allow, "203.0.113.0/24"));
    let report = world.audit().await;
    assert_eq!(
        (place(&report, "blocks_restored"), place(&report, "blocks_not_enforced")),
        (1, 0)
    );
    assert_eq!(world.denied(ACL_A), at(1), "the one behind is gone");
    assert_all_is_well(&world).await;
}

// ---- EC2 lags behind, answers get lost -------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_block_whose_answers_are_lost_while_reads_lag_takes_one_entry_in_each_acl() {
    let world = World::default();
    world.lag.set(Duration::from_secs(8));
    world.lose_answer("add");
    world.lose_answer("add");
    assert_eq!(world.deliver(&block("r-1"), 1).await, None);
    let result = world.deliver(&block("r-1"), 2).await.unwrap();
    is(&result, "succeeded", true, true, true);
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(1), at(1)));
    world.lag.set(Duration::ZERO);
    assert_all_is_well(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_function_that_is_killed_half_way_leaves_nothing_twice() {
    let world = World::default();
    world.lag.set(Duration::from_secs(5));
    let killed = tokio::time::timeout(LATENCY * 7 / 2, world.deliver(&block("r-1"), 1)).await;
    assert!(killed.is_err());
    pass(70).await; // its lease ends with its deadline
    let result = world.deliver(&block("r-1"), 2).await.unwrap();
    is(&result, "succeeded", true, true, true);
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(1), at(1)));
    assert!(world.leases.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_change_that_does_not_show_in_time_is_not_verified() {
    let world = World::default();
    world.lag.set(Duration::from_mins(1));
    let answer = world.bare(&block("r-1")).await;
    is(&answer, "succeeded", true, false, false);
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(1), at(1)));
    world.lag.set(Duration::ZERO);
    is(&world.bare(&block("r-1")).await, "succeeded", false, true, true);
}

#[tokio::test(start_paused = true)]
async fn a_number_is_not_deleted_twice() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    pass(20).await;
    // Reads go on showing the entry, while another takes its number.
    world.lag.set(Duration::from_secs(5));
    world.before("read", |world| {
        world.before("read", |world| {
            world.put_entry(ACL_A, entry(1, Effect::Deny, "198.51.100.1/32"));
        });
    });
    let answer = world.bare(&allow("r-2")).await;
    assert_eq!(
        (&answer["status"], &answer["changed"]),
        (&json!("succeeded"), &json!(true)),
        "{answer}"
    );
    assert_eq!(world.denied(ACL_A), [(1, "198.51.100.1/32".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_whose_answer_was_lost_takes_no_number_that_is_anothers_by_then() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.lose_answer("remove");
    assert_eq!(world.deliver(&allow("r-2"), 1).await, None);
    let gone = if world.denied(ACL_A).is_empty() { ACL_A } else { ACL_B };
    world.put_entry(gone, entry(1, Effect::Deny, "198.51.100.1/32"));
    let result = world.deliver(&allow("r-2"), 2).await.unwrap();
    is(&result, "succeeded", true, false, true);
    assert_eq!(world.denied(gone), [(1, "198.51.100.1/32".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_while_a_block_is_made_is_added_again() {
    let world = World::default();
    // After the entry is added, and before it is read back
    world.before("add", |world| {
        world.before("read", |world| world.delete_entry(ACL_A, 1));
    });
    is(&world.bare(&block("r-1")).await, "succeeded", true, true, true);
    assert_eq!(world.denied(ACL_A), at(1));
}

#[tokio::test(start_paused = true)]
async fn a_read_back_that_is_throttled_returns_the_request() {
    let world = World::default();
    world.before("add", |world| throttle(world, "read", 1));
    assert_eq!(world.deliver(&block("r-1"), 1).await, None);
    let result = world.deliver(&block("r-1"), 2).await.unwrap();
    is(&result, "succeeded", true, true, true);
    assert!(
        told(&result).iter().all(|(_, changed)| *changed),
        "by this request, if not by this delivery"
    );
}

// ---- what fails for good ---------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn an_entry_of_a_renewal_that_finds_another_acl_full_is_rolled_back() {
    let world = World::default();
    world.quota.set(4);
    world.change(|things| things.acls.insert(ACL_C.to_owned(), acl(ACL_C)));
    for number in [150, 151] {
        world.put_entry(ACL_C, entry(number, Effect::Deny, "198.51.100.1/32"));
    }
    let mut first = block("r-1");
    first["params"]["aws_network_acl_ids"] = json!([ACL_A]);
    is(&world.bare(&first).await, "succeeded", true, true, true);
    let before = world.things.borrow().clone();
    let answer = world.bare(&block("r-2")).await;
    assert_eq!(
        (&answer["status"], &answer["changed"]),
        (&json!("failed"), &json!(false))
    );
    assert_eq!(code(&answer), "network_acl_full");
    assert_eq!(told(&answer), [(ACL_A.to_owned(), false)]);
    assert_eq!(
        (&world.things.borrow().acls, world.rules(GROUP_A)),
        (&before.acls, vec![(TARGET.to_owned(), "r-1".to_owned())])
    );
    assert_all_is_well(&world).await;
    // WHEN the roll-back is denied, what is left is told, and the audit removes it.
    world.fail("remove", ErrorKind::Rejected, "OperationNotPermitted");
    let answer = world.bare(&block("r-3")).await;
    assert_eq!(
        (&answer["status"], &answer["changed"]),
        (&json!("failed"), &json!(true)),
        "{answer}"
    );
    assert!(told(&answer).contains(&(ACL_B.to_owned(), true)), "{answer}");
    world.audit().await;
    assert_eq!(world.things.borrow().acls, before.acls);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_leaves_the_older_block_its_end_also_after_a_redelivery() {
    let world = World::default();
    world.bare(&expiring("r-1", 3600)).await;
    let schedules = world.schedules.borrow().clone();
    world.delete_entry(ACL_B, 1);
    throttle(&world, "add", 1);
    assert_eq!(world.deliver(&block("r-2"), 1).await, None);
    world.put_entry(ACL_B, entry(1, Effect::Allow, "203.0.113.0/24"));
    let result = world.deliver(&block("r-2"), 2).await.unwrap();
    assert_eq!(
        (&result["status"], code(&result)),
        (&json!("failed"), "network_acl_full")
    );
    assert_eq!(result["details"]["expires_at"], "2026-11-23T11:00:01Z", "{result}");
    assert_eq!(world.rules(GROUP_A), [(TARGET.to_owned(), "r-1".to_owned())]);
    assert_eq!(*world.schedules.borrow(), schedules);
    let block = world.block(GROUP_A).unwrap();
    assert_eq!(
        (block.terms.request_id.as_str(), &block.state),
        ("r-1", &State::InForce)
    );
    // Its end ends it.
    assert_eq!(world.bare(&fire(&world)).await["status"], "succeeded");
    assert!(world.rules(GROUP_A).is_empty() && world.denied(ACL_A).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_at_any_call_leaves_the_older_block() {
    for (failing, second) in [("put", expiring("r-2", 60)), ("begin", block("r-2"))] {
        let world = World::default();
        world.bare(&expiring("r-1", 3600)).await;
        let before = (world.things.borrow().clone(), world.schedules.borrow().clone());
        world.fail(failing, ErrorKind::Rejected, "Some");
        let answer = world.bare(&second).await;
        assert_eq!(answer["status"], "failed", "{failing}");
        assert_eq!(
            (world.things.borrow().clone(), world.schedules.borrow().clone()),
            before,
            "{failing}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_acl_leaves_nothing_behind() {
    // No room by the numbers: found before anything is changed.
    let by_numbers = World::default();
    by_numbers.put_entry(ACL_B, entry(1, Effect::Allow, "203.0.113.0/24"));
    let answer = by_numbers.bare(&block("r-1")).await;
    assert_eq!(
        (&answer["status"], code(&answer)),
        (&json!("failed"), "network_acl_full")
    );
    assert_eq!(by_numbers.writes(), [""; 0]);

    // No room by the quota: found by the call, in one of two.
    let by_quota = World::default();
    by_quota.quota.set(3);
    by_quota.put_entry(ACL_B, entry(150, Effect::Deny, "198.51.100.1/32"));
    let before = by_quota.things.borrow().acls.clone();
    let answer = by_quota.bare(&expiring("r-1", 60)).await;
    is(&answer, "failed", false, false, false);
    assert_eq!(
        (code(&answer), &answer["details"]["error"]["retryable"]),
        ("network_acl_full", &json!(false))
    );
    assert_eq!(by_quota.things.borrow().acls, before);
    assert!(by_quota.rules(GROUP_A).is_empty() && by_quota.schedules.borrow().is_empty());
    assert_all_is_well(&by_quota).await;
}

#[tokio::test(start_paused = true)]
async fn a_block_that_comes_again_and_finds_no_room_is_rolled_back() {
    let world = World::default();
    world.before("add", |world| {
        world.before("add", |world| throttle(world, "add", 1));
    });
    assert_eq!(world.deliver(&expiring("r-1", 600), 1).await, None);
    let open = if world.denied(ACL_A).is_empty() { ACL_A } else { ACL_B };
    world.put_entry(open, entry(1, Effect::Allow, "203.0.113.0/24"));
    let result = world.deliver(&expiring("r-1", 600), 2).await.unwrap();
    assert_eq!(code(&result), "network_acl_full");
    assert!(world.rules(GROUP_A).is_empty() && world.schedules.borrow().is_empty());
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (vec![], vec![]));
    assert_all_is_well(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_roll_back_that_fails_is_tried_again_or_finished_by_the_audit() {
    let world = World::failing("add", ErrorKind::Rejected, "Some");
    throttle(&world, "revoke", 1);
    assert_eq!(world.deliver(&block("r-1"), 1).await, None);
    let world = World::failing("add", ErrorKind::Rejected, "Some");
    world.fail("revoke", ErrorKind::Rejected, "Some");
    let result = world.deliver(&block("r-1"), 1).await.unwrap();
    assert_eq!(
        (&result["status"], &result["details"]["error"]["retryable"]),
        (&json!("failed"), &json!(false))
    );
    assert_eq!(result["changed"], true, "its rule stands");
    assert!(
        message(&result).contains("the audit goes on with it"),
        "{}",
        message(&result)
    );
    let report = world.audit().await;
    assert_eq!(
        (place(&report, "blocks_lifted"), place(&report, "blocks_restored")),
        (1, 0)
    );
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_cannot_be_made_makes_no_block_without_end() {
    let world = World::failing("put", ErrorKind::AccessDenied, "AccessDeniedException");
    world.fail("put", ErrorKind::AccessDenied, "AccessDeniedException");
    let answer = world.bare(&expiring("r-1", 60)).await;
    assert_eq!((&answer["status"], code(&answer)), (&json!("failed"), "access_denied"));
    assert_nothing_left(&world);
    assert_all_is_well(&world).await;
}

#[tokio::test(start_paused = true)]
async fn credentials_that_fresh_ones_cure_are_renewed_once() {
    for (operation, kind, code) in [
        ("read", ErrorKind::CredentialsRefused, "AuthFailure"),
        ("assume", ErrorKind::CredentialsRefused, "InvalidClientTokenId"),
        ("read", ErrorKind::AccessDenied, "UnauthorizedOperation"),
        ("add", ErrorKind::AccessDenied, "UnauthorizedOperation"),
        ("authorize", ErrorKind::ExpiredCredentials, "ExpiredToken"),
    ] {
        let world = World::default();
        let role = "arn:aws:iam::111122223333:role/aisoc";
        world.policy.borrow_mut().places.roles.push(role.parse().unwrap());
        let mut request = block("r-1");
        request["params"]["aws_assume_role_arn"] = json!(role);
        world.fail(operation, kind, code);
        let answer = world.bare(&request).await;
        assert_eq!(
            (&answer["status"], &answer["enforced"]),
            (&json!("succeeded"), &json!(true)),
            "{operation} {answer}"
        );
        assert_eq!(*world.forgotten.borrow(), 1, "{operation}");
    }
    let world = World::default();
    for _ in 0..2 {
        world.fail("read", ErrorKind::AccessDenied, "UnauthorizedOperation");
    }
    let answer = world.bare(&block("r-1")).await;
    assert_eq!((code(&answer), *world.forgotten.borrow()), ("access_denied", 1));
}

#[tokio::test(start_paused = true)]
async fn at_every_call_a_failure_leaves_all_recorded_and_a_retry_gets_there() {
    for kind in [ErrorKind::Throttled, ErrorKind::Rejected] {
        for operation in [
            "read",
            "of-rule",
            "begin",
            "save",
            "authorize",
            "retag",
            "put",
            "add",
            "delete",
            "remove",
            "revoke",
            "finish",
            "send",
        ] {
            for lost in [false, true] {
                if lost && kind == ErrorKind::Rejected {
                    continue;
                }
                let world = World::default();
                for request in [expiring("r-1", 60), expiring("r-2", 600), block("r-3"), allow("r-4")] {
                    if lost {
                        world.lose_answer(operation);
                    } else {
                        world.fail(operation, kind, "Some");
                    }
                    let _ = world.run(&request.to_string()).await;
                    let is_denied = !world.denied(ACL_A).is_empty() || !world.denied(ACL_B).is_empty();
                    assert!(!is_denied || world.block(GROUP_A).is_some(), "{operation} {request}");
                    world.call_faults.borrow_mut().clear();
                    pass(70).await; // a lease that could not be released ends
                    let answer = world.bare(&request).await;
                    assert_eq!(answer["status"], "succeeded", "{operation} {kind:?} {lost} {answer}");
                    assert_eq!(answer["verified"], true, "{operation} {kind:?} {lost} {answer}");
                    assert!(world.leases.borrow().is_empty());
                }
                if operation == "delete" && kind == ErrorKind::Rejected {
                    world.schedules.borrow_mut().clear(); // it is bound to a block that is gone
                }
                assert_nothing_left(&world);
                assert_all_is_well(&world).await;
            }
        }
    }
}

// ---- the end of a block ----------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_block_ends_by_itself() {
    let world = World::default();
    let answer = world.bare(&expiring("r-1", 3600)).await;
    assert_eq!(world.schedules.borrow().len(), 1);
    assert_eq!(
        answer["details"]["expires_at"], "2026-11-23T11:00:01Z",
        "whole seconds, and not early"
    );
    is(&world.bare(&fire(&world)).await, "succeeded", true, false, true);
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_block_comes_over_a_denial_or_the_audit_goes_on() {
    let world = World::default();
    world.bare(&expiring("r-1", 3600)).await;
    let end = fire(&world);
    // One denial is cured by fresh credentials.
    world.fail("remove", ErrorKind::AccessDenied, "UnauthorizedOperation");
    is(&world.deliver(&end, 1).await.unwrap(), "succeeded", true, false, true);
    assert_nothing_left(&world);
    // One that lasts is told; the audit lifts it once it can.
    world.bare(&expiring("r-2", 3600)).await;
    let end = fire(&world);
    deny(&world, "remove", 2);
    let result = world.deliver(&end, 1).await.unwrap();
    assert_eq!((&result["status"], code(&result)), (&json!("failed"), "access_denied"));
    world.call_faults.borrow_mut().clear();
    let report = world.audit().await;
    assert_eq!(place(&report, "blocks_lifted"), 1, "{report}");
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn a_block_ends_although_its_list_lost_its_tag_or_is_gone() {
    for by_hand in [false, true] {
        for deleted in [false, true] {
            let world = World::default();
            world.bare(&expiring("r-1", 3600)).await;
            let end = fire(&world);
            if deleted {
                world.change(|things| {
                    things.groups.remove(GROUP_A);
                    things.rules.remove(GROUP_A);
                });
            } else {
                world.untag(GROUP_A);
            }
            let request = if by_hand { allow("r-2") } else { end };
            let result = world.deliver(&request, 1).await.unwrap();
            assert_eq!(
                (&result["status"], &result["changed"]),
                (&json!("succeeded"), &json!(true)),
                "{result}"
            );
            assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (vec![], vec![]));
            let summary = result["summary"].as_str().unwrap();
            assert_eq!(summary.contains("which lost its tag"), !deleted, "{summary}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_block_survives_the_end_of_the_older() {
    let world = World::default();
    world.bare(&expiring("r-1", 60)).await;
    let late = fire(&world);
    world.bare(&block("r-2")).await;
    let answer = world.bare(&late).await;
    is(&answer, "succeeded", false, true, true);
    assert!(answer["summary"].as_str().unwrap().contains("renewed by request r-2"));
    // WHEN it was lifted by hand and blocked anew
    world.bare(&allow("r-3")).await;
    world.bare(&block("r-4")).await;
    is(&world.bare(&late).await, "succeeded", false, true, true);
    // WHEN it was lifted by hand and nothing came after
    world.bare(&allow("r-5")).await;
    is(&world.bare(&late).await, "succeeded", false, false, true);
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn the_same_request_with_another_end_survives_the_end_it_had() {
    let world = World::default();
    world.bare(&expiring("r-1", 60)).await;
    let late = fire(&world);
    pass(120).await;
    let answer = world.bare(&expiring("r-1", 60)).await;
    assert_eq!(answer["status"], "succeeded");
    is(&world.bare(&late).await, "succeeded", false, true, true);
    assert_eq!(world.denied(ACL_A), at(1));
}

#[tokio::test(start_paused = true)]
async fn blocking_again_replaces_the_end_and_lifting_deletes_it() {
    let world = World::default();
    let ends = |world: &World| -> Vec<Value> {
        let schedules = world.schedules.borrow();
        schedules
            .values()
            .map(|schedule| schedule.request["only_if_blocked_by"].clone())
            .collect()
    };
    world.bare(&expiring("r-1", 3600)).await;
    world.bare(&expiring("r-2", 7200)).await;
    assert_eq!(ends(&world), ["r-2"]);
    world.bare(&block("r-3")).await;
    assert!(ends(&world).is_empty());
    world.bare(&expiring("r-4", 60)).await;
    world.bare(&allow("r-5")).await;
    assert!(ends(&world).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_schedule_left_over_spoils_nothing() {
    let world = World::default();
    world.bare(&expiring("r-1", 3600)).await;
    world.fail("delete", ErrorKind::AccessDenied, "AccessDeniedException");
    is(&world.bare(&allow("r-2")).await, "succeeded", true, false, true);
    assert_eq!(world.schedules.borrow().len(), 1);
    world.bare(&block("r-3")).await;
    is(&world.bare(&fire(&world)).await, "succeeded", false, true, true);
    // One that could be deleted at the next attempt is worth one.
    world.bare(&expiring("r-4", 3600)).await;
    throttle(&world, "delete", 1);
    assert_eq!(world.bare(&allow("r-5")).await["details"]["error"]["retryable"], true);
    assert_eq!(world.bare(&allow("r-5")).await["status"], "succeeded");
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn what_the_table_does_not_know_is_lifted_by_equality() {
    let world = World::default();
    world.bare(&expiring("r-1", 3600)).await;
    let end = fire(&world);
    world.blocks.borrow_mut().clear();
    // An end lifts what the rule's tags say is its block's, and nothing else.
    let mut strange = end.clone();
    strange["only_if_blocked_by"] = json!("r-0");
    is(&world.bare(&strange).await, "succeeded", false, true, true);
    is(&world.bare(&end).await, "succeeded", true, false, true);
    assert_nothing_left(&world);
    // An ALLOW_IP by hand lifts the rule of an enrolled list and equal entries within the numbers.
    world.bare(&block("r-2")).await;
    world.blocks.borrow_mut().clear();
    world.put_entry(ACL_A, ours(150));
    is(&world.bare(&allow("r-3")).await, "succeeded", true, true, true);
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(150), vec![]));
    // Of a list without the tag nothing is touched.
    world.bare(&block("r-4")).await;
    world.blocks.borrow_mut().clear();
    world.untag(GROUP_A);
    let before = world.things.borrow().clone();
    let answer = world.bare(&allow("r-5")).await;
    assert_eq!(
        (&answer["status"], code(&answer)),
        (&json!("blocked"), "group_not_enrolled")
    );
    assert_eq!(*world.things.borrow(), before);
}

#[tokio::test(start_paused = true)]
async fn later_settings_make_no_block_permanent() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    {
        let mut policy = world.policy.borrow_mut();
        policy.enforcement = Enforcement::None;
        policy.protected = vec!["203.0.113.0/24".parse().unwrap()];
        policy.expiry_lacks = vec!["ACTIONS_QUEUE_ARN"];
        policy.rule_numbers = "50-60".parse().unwrap();
        policy.places.regions = vec!["eu-west-1".parse().unwrap()];
    }
    is(&world.bare(&allow("r-2")).await, "succeeded", true, false, true);
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn without_enforcement_a_block_is_a_record_and_says_so() {
    let world = World::default();
    world.policy.borrow_mut().enforcement = Enforcement::None;
    let answer = world.bare(&block("r-1")).await;
    is(&answer, "succeeded", true, false, true);
    assert_eq!((world.denied(ACL_A), world.rules(GROUP_A).len()), (vec![], 1));
    let report = world.audit().await;
    assert_eq!(place(&report, "blocks_not_enforced"), 0);
    assert_eq!(world.denied(ACL_A), vec![]);
    // Network ACLs that may not be read are no error then, and the lift says so.
    deny(&world, "acls", 1);
    let answer = world.bare(&allow("r-2")).await;
    assert_eq!(
        (&answer["status"], &answer["changed"]),
        (&json!("succeeded"), &json!(true))
    );
    assert!(
        answer["summary"]
            .as_str()
            .unwrap()
            .contains("network ACLs may not be read"),
        "{answer}"
    );
}

// ---- the audit -------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_list_that_loses_its_tag_and_is_attached_is_named_and_its_blocks_hold() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.untag(GROUP_A);
    world.attach(GROUP_A, Some("eni-1"));
    world.delete_entry(ACL_A, 1);
    world.sent.borrow_mut().clear();
    for _ in 0..2 {
        let report = world.audit().await;
        assert_eq!(
            (
                place(&report, "block_lists_lost"),
                place(&report, "blocks_not_enforced")
            ),
            (1, 0),
            "{report}"
        );
    }
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(1), at(1)));
    let told: Vec<String> = world
        .sent
        .borrow()
        .iter()
        .map(|result| code(result).to_owned())
        .collect();
    assert_eq!(
        told.iter().filter(|code| *code == "block_list_lost").count(),
        1,
        "{told:?}"
    );
    // WHEN the tag is put back, that is told once, and the attached list loses its rule.
    world.change(|things| {
        let tags = &mut things.groups.get_mut(GROUP_A).unwrap().tags;
        tags.insert("aisoc:containment".to_owned(), "blocklist".to_owned());
    });
    let report = world.audit().await;
    assert_eq!(
        (place(&report, "block_lists_lost"), place(&report, "block_lists_in_use")),
        (0, 1)
    );
    assert!(world.rules(GROUP_A).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_was_deleted_is_named_and_its_blocks_hold() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.change(|things| {
        things.groups.remove(GROUP_A);
        things.rules.remove(GROUP_A);
    });
    world.delete_entry(ACL_B, 1);
    let report = world.audit().await;
    assert_eq!(
        (
            place(&report, "block_lists_lost"),
            place(&report, "blocks_not_enforced")
        ),
        (1, 0),
        "{report}"
    );
    assert_eq!(world.denied(ACL_B), at(1));
    is(&world.bare(&allow("r-2")).await, "succeeded", true, false, true);
    let report = world.audit().await;
    assert_eq!(place(&report, "block_lists_lost"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_attached_loses_every_rule_whoever_put_it_there() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.change(|things| {
        let by_hand = "tcp 22 from 198.51.100.9/32".parse().unwrap();
        let rules = things.rules.get_mut(GROUP_A).unwrap();
        let recorded = actions::block::tags::RecordedRule {
            id: "sgr-hand".to_owned(),
            ..Default::default()
        };
        rules.insert(by_hand, recorded);
    });
    world.attach(GROUP_A, Some("eni-1"));
    world.sent.borrow_mut().clear();
    let report = world.audit().await;
    assert_eq!(
        (place(&report, "rules_revoked"), place(&report, "block_lists_in_use")),
        (2, 1)
    );
    assert!(world.rules(GROUP_A).is_empty());
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(1), at(1)));
    assert_eq!(world.sent.borrow().len(), 1);
    assert_eq!(
        world.sent.borrow()[0]["details"]["network_interface_ids"],
        json!(["eni-1"])
    );
    world.audit().await;
    assert_eq!(world.sent.borrow().len(), 1);
    // Only the rules of blocks come back.
    world.attach(GROUP_A, None);
    world.audit().await;
    assert_eq!(world.rules(GROUP_A), [(TARGET.to_owned(), "r-1".to_owned())]);
    assert_all_is_well(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_block_that_its_schedule_did_not_end_is_lifted_two_minutes_after() {
    let world = World::default();
    world.bare(&expiring("r-1", 60)).await;
    world.sent.borrow_mut().clear();
    pass(70).await;
    let report = world.audit().await;
    assert_eq!(
        (place(&report, "blocks_lifted"), place(&report, "blocks_overdue")),
        (0, 0),
        "its schedule may come yet"
    );
    pass(120).await;
    let report = world.audit().await;
    assert_eq!(
        (place(&report, "blocks_lifted"), place(&report, "blocks_overdue")),
        (1, 0),
        "{report}"
    );
    assert_nothing_left(&world);
    assert_eq!(world.sent.borrow().len(), 1);
    assert_all_is_well(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_block_that_cannot_be_restored_is_told_once_and_again_when_it_is_over() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.delete_entry(ACL_A, 1);
    world.put_entry(ACL_A, entry(1, Effect::Allow, "203.0.113.0/24"));
    world.sent.borrow_mut().clear();
    for _ in 0..3 {
        let report = world.audit().await;
        assert_eq!(place(&report, "blocks_not_enforced"), 1, "{report}");
    }
    assert_eq!(world.sent.borrow().len(), 1);
    assert_eq!(code(&world.sent.borrow()[0]), "block_not_enforced");
    assert_eq!(
        world.bare(&json!({"mode": "list_blocks"})).await["blocks"][0]["enforced"],
        false
    );
    world.delete_entry(ACL_A, 1);
    let report = world.audit().await;
    assert_eq!(
        (place(&report, "blocks_not_enforced"), place(&report, "blocks_restored")),
        (0, 1),
        "{report}"
    );
    assert_eq!(world.sent.borrow().len(), 2);
    assert_eq!(world.sent.borrow()[1]["status"], "succeeded");
    assert_all_is_well(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_rule_or_its_tags_that_somebody_took_are_put_back() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.change(|things| things.rules.clear());
    let report = world.audit().await;
    assert_eq!(
        (place(&report, "blocks_restored"), place(&report, "blocks_not_enforced")),
        (1, 0)
    );
    assert_eq!(world.rules(GROUP_A), [(TARGET.to_owned(), "r-1".to_owned())]);
    world.change(|things| {
        let rules = things.rules.get_mut(GROUP_A).unwrap();
        for rule in rules.values_mut() {
            rule.tags.clear();
        }
    });
    world.audit().await;
    assert_eq!(world.rules(GROUP_A), [(TARGET.to_owned(), "r-1".to_owned())]);
    assert_all_is_well(&world).await;
}

#[tokio::test(start_paused = true)]
async fn an_acl_that_is_newly_in_use_is_denied_in_too() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.change(|things| things.acls.insert(ACL_C.to_owned(), acl(ACL_C)));
    let report = world.audit().await;
    assert_eq!(place(&report, "blocks_restored"), 1, "{report}");
    assert_eq!(world.denied(ACL_C), at(1));
    world.bare(&allow("r-2")).await;
    assert_eq!(world.denied(ACL_C), vec![]);
}

#[tokio::test(start_paused = true)]
async fn a_list_whose_lease_another_holds_is_reported_as_not_looked_at() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.delete_entry(ACL_A, 1);
    let lease = crate::ports::Lease {
        region: "us-east-1".parse().unwrap(),
        group: GROUP_A.parse().unwrap(),
        holder: "another".to_owned(),
        until: "2026-11-23T12:00:00Z".parse().unwrap(),
    };
    world.leases.borrow_mut().insert(GROUP_A.to_owned(), lease);
    let failure = world.run(r#"{"mode":"audit"}"#).await.unwrap_err();
    assert!(failure.error_message.contains("busy"), "{}", failure.error_message);
    assert_eq!(world.denied(ACL_A), vec![]);
}

#[tokio::test(start_paused = true)]
async fn blocks_in_places_that_are_not_audited_any_more_are_named() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.policy.borrow_mut().places.regions = vec!["eu-west-1".parse().unwrap()];
    let failure = world.run(r#"{"mode":"audit"}"#).await.unwrap_err();
    assert!(
        failure.error_message.contains("region_not_allowed"),
        "{}",
        failure.error_message
    );
    assert!(
        failure.error_message.contains("TARGET_REGIONS"),
        "{}",
        failure.error_message
    );
}

#[tokio::test(start_paused = true)]
async fn an_audit_that_cannot_read_the_table_still_revokes_on_attached_lists() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.attach(GROUP_A, Some("eni-1"));
    for _ in 0..2 {
        world.strike(
            "all",
            aws_error(ErrorKind::Rejected, "Some"),
            crate::testing::When::Before,
        );
    }
    let failure = world.run(r#"{"mode":"audit"}"#).await.unwrap_err();
    assert_eq!(failure.error_type, "AuditFailed");
    assert!(world.rules(GROUP_A).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_block_past_its_end_is_not_restored_while_its_schedule_lifts_it() {
    let world = World::default();
    world.bare(&expiring("r-1", 60)).await;
    pass(70).await;
    world.delete_entry(ACL_A, 1);
    let report = world.audit().await;
    assert_eq!(place(&report, "blocks_restored"), 0);
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (vec![], at(1)));
}

#[tokio::test(start_paused = true)]
async fn every_region_of_every_role_is_audited() {
    let world = World::default();
    let role = "arn:aws:iam::444455556666:role/aisoc";
    {
        let mut policy = world.policy.borrow_mut();
        policy.places.roles.push(role.parse().unwrap());
        policy.places.regions.push("eu-west-1".parse().unwrap());
    }
    let report = world.audit().await;
    let places: Vec<(Value, Value)> = report["places"]
        .as_array()
        .unwrap()
        .iter()
        .map(|place| (place["role_arn"].clone(), place["region"].clone()))
        .collect();
    let expected = [
        (Value::Null, "us-east-1"),
        (Value::Null, "eu-west-1"),
        (json!(role), "us-east-1"),
        (json!(role), "eu-west-1"),
    ];
    assert_eq!(places, expected.map(|(role, region)| (role, json!(region))));
    assert_eq!(world.calls_of(&["survey"]).len(), 4);
    assert_eq!(world.calls_of(&["assume"]).len(), 2);
}

// ---- what an earlier delivery did, and reads that lag behind it ------------------------------------------------

/// An ALLOW_IP whose deletions were carried out, while reads still show the entries, and another takes a number.
async fn lift_half_way(world: &World) -> (&'static str, Vec<(u16, String)>) {
    world.bare(&block("r-1")).await;
    pass(20).await;
    world.lag.set(Duration::from_secs(5));
    world.lose_answer("remove");
    assert_eq!(world.deliver(&allow("r-2"), 1).await, None);
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (vec![], vec![]));
    world.put_entry(ACL_A, entry(1, Effect::Deny, "198.51.100.1/32"));
    (ACL_A, vec![(1, "198.51.100.1/32".to_owned())])
}

#[tokio::test(start_paused = true)]
async fn a_lift_that_comes_again_while_reads_lag_deletes_nothing_of_anothers() {
    let world = World::default();
    let (acl, others) = lift_half_way(&world).await;
    let result = world.deliver(&allow("r-2"), 2).await.unwrap();
    is(&result, "succeeded", true, false, true);
    assert_eq!(world.denied(acl), others);
}

#[tokio::test(start_paused = true)]
async fn an_audit_that_goes_on_with_a_lift_while_reads_lag_deletes_nothing_of_anothers() {
    let world = World::default();
    let (acl, others) = lift_half_way(&world).await;
    let report = world.audit().await;
    assert_eq!(place(&report, "blocks_lifted"), 1, "{report}");
    assert_eq!(world.denied(acl), others);
    assert!(world.rules(GROUP_A).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_an_earlier_delivery_that_does_not_show_yet_is_rolled_back_too() {
    let world = World::default();
    world.before("add", |world| {
        world.before("add", |world| throttle(world, "add", 1));
    });
    world.lag.set(Duration::from_secs(5));
    assert_eq!(world.deliver(&block("r-1"), 1).await, None);
    let full = if world.denied(ACL_A).is_empty() { ACL_A } else { ACL_B };
    world.put_entry(full, entry(150, Effect::Deny, "198.51.100.1/32"));
    world.quota.set(3);
    let result = world.deliver(&block("r-1"), 2).await.unwrap();
    assert_eq!(code(&result), "network_acl_full");
    for acl in [ACL_A, ACL_B] {
        assert!(!world.denied(acl).iter().any(|(_, source)| source == TARGET), "{acl}");
    }
    assert!(world.rules(GROUP_A).is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_renewal_replaces_the_older_once_it_is_in_force() {
    let world = World::default();
    world.bare(&expiring("r-1", 3600)).await;
    let ends_of = |world: &World| {
        let schedules = world.schedules.borrow();
        schedules.values().next().unwrap().request["only_if_blocked_by"].clone()
    };
    world.delete_entry(ACL_B, 1);
    throttle(&world, "add", 1);
    assert_eq!(world.deliver(&expiring("r-2", 7200), 1).await, None);
    assert_eq!(ends_of(&world), "r-1");
    is(
        &world.deliver(&expiring("r-2", 7200), 2).await.unwrap(),
        "succeeded",
        true,
        true,
        true,
    );
    assert_eq!(ends_of(&world), "r-2");
}
