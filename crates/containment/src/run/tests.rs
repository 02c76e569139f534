use serde_json::{Value, json};

use super::*;
use crate::testing::{ACL_A, ACL_B, GROUP_A, GROUP_B, LATENCY, World, body, entry};
use containment_plan::network_acl::{Effect, Entry};

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

/// What a schedule sends when its time has come, after which it is gone.
fn fire(world: &World) -> Value {
    let (_, schedule) = world.things.borrow_mut().schedules.pop_first().unwrap();
    schedule.request
}

fn at(number: u16) -> Vec<(u16, String)> {
    vec![(number, TARGET.to_owned())]
}

fn flags(answer: &Value) -> [&Value; 4] {
    ["status", "changed", "enforced", "verified"].map(|name| &answer[name])
}

fn is(answer: &Value, status: &str, changed: bool, enforced: bool, verified: bool) {
    let expected = [json!(status), json!(changed), json!(enforced), json!(verified)];
    assert_eq!(flags(answer), expected.each_ref(), "{answer}");
}

/// What is put into a network is on record.
fn assert_on_record(world: &World) {
    if !world.denied(ACL_A).is_empty() || !world.denied(ACL_B).is_empty() {
        assert!(!world.recorded(GROUP_A).is_empty() || !world.recorded(GROUP_B).is_empty());
    }
}

fn assert_nothing_left(world: &World) {
    let untouched = World::default();
    assert_eq!(world.things.borrow().entries, untouched.things.borrow().entries);
    assert!(world.recorded(GROUP_A).is_empty());
    assert!(world.things.borrow().schedules.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_same_request_again_changes_nothing() {
    let world = World::default();
    for request in [expiring("r-1", 3600), allow("r-2")] {
        let first = world.bare(&request).await;
        assert_eq!(
            (&first["status"], &first["changed"]),
            (&json!("succeeded"), &json!(true))
        );
        let before = world.things.borrow().clone();
        let again = world.bare(&request).await;
        assert_eq!(
            (&again["status"], &again["changed"]),
            (&json!("succeeded"), &json!(false))
        );
        assert_eq!(
            (&again["enforced"], &again["verified"]),
            (&first["enforced"], &json!(true))
        );
        assert_eq!(again["details"]["expires_at"], first["details"]["expires_at"]);
        assert_eq!(*world.things.borrow(), before);
    }
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn block_allow_block_ends_in_a_block() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.bare(&allow("r-2")).await;
    is(&world.bare(&block("r-3")).await, "succeeded", true, true, true);
    assert_eq!(world.recorded(GROUP_A), [(TARGET.to_owned(), "r-3".to_owned())]);
    assert_eq!(world.denied(ACL_A), at(1));
}

#[tokio::test(start_paused = true)]
async fn the_deny_is_in_force_within_four_calls_and_the_result_sent_within_eight() {
    for (request, deny, sent) in [(block("r-1"), 3, 5), (expiring("r-1", 60), 4, 6)] {
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
async fn the_loser_of_a_race_for_a_number_takes_the_next() {
    let world = World::default();
    world.before("add", |world| {
        world.put_entry(ACL_A, entry(1, Effect::Deny, "198.51.100.1/32"));
    });
    let answer = world.bare(&block("r-1")).await;
    is(&answer, "succeeded", true, true, true);
    let ours: Vec<_> = world
        .denied(ACL_A)
        .into_iter()
        .filter(|(_, source)| source == TARGET)
        .collect();
    assert_eq!(ours, at(2));
    assert_eq!(answer["details"]["network_acl_entries"][0]["rule_number"], 2);
}

#[tokio::test(start_paused = true)]
async fn two_blocks_at_once_share_their_entries_and_each_keeps_its_record() {
    let world = World::default();
    let (one, other) = world.both(&block("r-1"), &body("r-2", "BLOCK_IP", GROUP_B)).await;
    is(&one, "succeeded", true, true, true);
    assert_eq!(other["enforced"], true);
    assert_eq!(world.denied(ACL_A), at(1));
    // The first lift leaves the entries to the other block list.
    let first = world.bare(&allow("r-3")).await;
    is(&first, "succeeded", true, true, true);
    assert!(
        first["summary"]
            .as_str()
            .unwrap()
            .contains("still denied, for sg-0000000b")
    );
    assert_eq!(world.denied(ACL_A), at(1));
    is(
        &world.bare(&body("r-4", "ALLOW_IP", GROUP_B)).await,
        "succeeded",
        true,
        false,
        true,
    );
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn the_same_block_at_once_in_two_containers_is_one() {
    let world = World::default();
    let (one, other) = world.both(&block("r-1"), &block("r-1")).await;
    for answer in [&one, &other] {
        assert_eq!(answer["status"], "succeeded");
        assert_eq!((&answer["enforced"], &answer["verified"]), (&json!(true), &json!(true)));
    }
    assert_eq!(world.denied(ACL_A), at(1));
    assert_eq!(world.recorded(GROUP_A).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_block_list_that_gets_the_rule_while_it_is_lifted_elsewhere_gets_its_entries_back() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    // WHEN another function blocks the same on another list, after this one has looked, and sees the entries
    world.before("remove", |world| {
        let mut things = world.things.borrow_mut();
        let rules = things.rules[GROUP_A].clone();
        things.rules.insert(GROUP_B.to_owned(), rules);
    });
    let answer = world.bare(&allow("r-2")).await;
    assert_eq!(world.denied(ACL_A), at(1));
    assert_eq!(world.denied(ACL_B), at(1));
    is(&answer, "succeeded", true, true, true);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_lags_behind_hides_nothing() {
    let world = World::default();
    *world.shown.borrow_mut() = Some(world.things.borrow().clone());
    // Looks show nothing of the block until the third.
    let answer = world.bare(&block("r-1")).await;
    is(&answer, "succeeded", true, false, false);
    assert!(
        answer["summary"]
            .as_str()
            .unwrap()
            .ends_with("a fresh look did not show it so")
    );
    assert_eq!(world.denied(ACL_A), at(1), "no second entry is added");
    assert_eq!(world.calls_of(&["look"]).len(), 5, "one before, four after");
    // It is there all the same, and comes to light.
    *world.shown.borrow_mut() = None;
    is(&world.bare(&block("r-1")).await, "succeeded", false, true, true);
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_the_state_does_not_show_is_seen_before_it_is_renewed() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    *world.shown.borrow_mut() = Some(World::default().things.borrow().clone());
    world.before("authorize", |world| *world.shown.borrow_mut() = None);
    is(&world.bare(&block("r-2")).await, "succeeded", false, true, true);
    assert_eq!(world.recorded(GROUP_A), [(TARGET.to_owned(), "r-2".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn what_another_removes_meanwhile_is_put_back() {
    let world = World::default();
    world.before("delete", |world| {
        // after the first look, before the second: the entry of one ACL is gone again
        world.before("look", |world| {
            let mut things = world.things.borrow_mut();
            things.entries.get_mut(ACL_A).unwrap().retain(|entry| entry.number != 1);
        });
    });
    is(&world.bare(&block("r-1")).await, "succeeded", true, true, true);
    assert_eq!(world.denied(ACL_A), at(1));
}

#[tokio::test(start_paused = true)]
async fn an_allow_that_is_put_before_the_entry_is_beaten() {
    let world = World::default();
    world.put_entry(ACL_A, entry(1, Effect::Deny, "198.51.100.1/32"));
    world.put_entry(ACL_A, entry(2, Effect::Deny, "198.51.100.2/32"));
    // after the entry is added with the number 3, and before the look that is to show it
    world.before("delete", |world| {
        world.before("look", |world| {
            let mut things = world.things.borrow_mut();
            let entries = things.entries.get_mut(ACL_A).unwrap();
            entries.retain(|entry| ![1, 2].contains(&entry.number));
            entries.push(entry(2, Effect::Allow, "203.0.113.0/24"));
        });
    });
    is(&world.bare(&block("r-1")).await, "succeeded", true, true, true);
    let ours: Vec<u16> = world.denied(ACL_A).iter().map(|(number, _)| *number).collect();
    assert_eq!(ours, [3, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_full_acl_leaves_nothing_behind() {
    // No room by the numbers: found before anything is changed.
    let by_numbers = World::default();
    by_numbers.put_entry(ACL_B, entry(1, Effect::Allow, "203.0.113.0/24"));
    let answer = by_numbers.bare(&block("r-1")).await;
    assert_eq!(
        (&answer["status"], &answer["error"]["code"]),
        (&json!("failed"), &json!("network_acl_full"))
    );
    assert_eq!(by_numbers.writes(), [""; 0]);

    // No room by the quota: found by the call, in one of two.
    let by_quota = World {
        quota: 3,
        ..World::default()
    };
    by_quota.put_entry(ACL_B, entry(5, Effect::Deny, "198.51.100.1/32"));
    let before = by_quota.things.borrow().entries.clone();
    let answer = by_quota.bare(&expiring("r-1", 60)).await;
    is(&answer, "failed", false, false, false);
    assert_eq!(answer["error"]["code"], "network_acl_full");
    assert_eq!(answer["error"]["retryable"], false);
    assert_eq!(by_quota.things.borrow().entries, before);
    assert!(by_quota.recorded(GROUP_A).is_empty());
    assert!(by_quota.things.borrow().schedules.is_empty());
    // The effect is undone before the record.
    let undone = by_quota.calls_of(&["remove", "revoke"]);
    assert_eq!(undone, [format!("remove {ACL_A} 1"), format!("revoke {GROUP_A}")]);
}

#[tokio::test(start_paused = true)]
async fn what_was_there_before_is_not_taken_back() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world
        .things
        .borrow_mut()
        .entries
        .get_mut(ACL_B)
        .unwrap()
        .retain(|entry| entry.number != 1);
    world.fail("add", ErrorKind::AccessDenied, "UnauthorizedOperation");
    world.fail("add", ErrorKind::AccessDenied, "UnauthorizedOperation");
    let answer = world.bare(&block("r-2")).await;
    assert_eq!(
        (&answer["status"], &answer["error"]["code"]),
        (&json!("failed"), &json!("access_denied"))
    );
    assert_eq!(world.recorded(GROUP_A).len(), 1);
    assert_eq!(world.denied(ACL_A), at(1));
}

#[tokio::test(start_paused = true)]
async fn a_block_that_came_again_is_taken_back_as_at_first() {
    let world = World::failing("add", ErrorKind::Throttled, "RequestLimitExceeded");
    assert_eq!(world.bare(&block("r-1")).await["error"]["retryable"], true);
    assert_on_record(&world);
    assert_eq!(world.recorded(GROUP_A).len(), 1);
    // WHEN it comes again and fails for good
    world.fail("add", ErrorKind::AccessDenied, "UnauthorizedOperation");
    assert_eq!(world.bare(&block("r-1")).await["error"]["code"], "access_denied");
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn what_another_request_has_renewed_is_not_taken_back() {
    let world = World::failing("add", ErrorKind::AccessDenied, "UnauthorizedOperation");
    world.before("add", |world| {
        let mut things = world.things.borrow_mut();
        for rule in things.rules.get_mut(GROUP_A).unwrap().values_mut() {
            rule.tags.insert("aisoc:request-id".to_owned(), "r-2".to_owned());
        }
    });
    assert_eq!(world.bare(&block("r-1")).await["status"], "failed");
    assert_eq!(world.recorded(GROUP_A), [(TARGET.to_owned(), "r-2".to_owned())]);
    assert_on_record(&world);
}

#[tokio::test(start_paused = true)]
async fn where_taking_back_fails_the_request_is_tried_again_or_says_what_is_left() {
    let denied = || World::failing("add", ErrorKind::AccessDenied, "UnauthorizedOperation");
    let world = denied();
    world.fail("revoke", ErrorKind::Throttled, "RequestLimitExceeded");
    assert_eq!(world.bare(&block("r-1")).await["error"]["retryable"], true);
    let world = denied();
    world.fail("revoke", ErrorKind::AccessDenied, "UnauthorizedOperation");
    let answer = world.bare(&block("r-1")).await;
    assert_eq!(
        (&answer["status"], &answer["error"]["retryable"]),
        (&json!("failed"), &json!(false))
    );
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("its record is still on sg-0000000a"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_cannot_be_made_makes_no_block_without_end() {
    let world = World::failing("put", ErrorKind::AccessDenied, "AccessDeniedException");
    let answer = world.bare(&expiring("r-1", 60)).await;
    assert_eq!(
        (&answer["status"], &answer["error"]["code"]),
        (&json!("failed"), &json!("access_denied"))
    );
    assert_eq!(world.calls_of(&["add"]), [""; 0]);
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn a_block_ends_by_itself() {
    let world = World::default();
    let answer = world.bare(&expiring("r-1", 3600)).await;
    assert_eq!(answer["details"]["expires_at"], "2026-11-23T11:00:00Z");
    assert_eq!(world.things.borrow().schedules.len(), 1);
    let order = world.calls_of(&["authorize", "put", "add"]);
    assert!(order[0].starts_with("authorize") && order[1].starts_with("put") && order[2].starts_with("add"));
    is(&world.bare(&fire(&world)).await, "succeeded", true, false, true);
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn a_newer_block_survives_the_end_of_the_older() {
    let world = World::default();
    world.bare(&expiring("r-1", 60)).await;
    let late = fire(&world);
    // WHEN the older block's end is on its way and a newer block without an end is made
    world.bare(&block("r-2")).await;
    let answer = world.bare(&late).await;
    is(&answer, "succeeded", false, true, true);
    assert!(answer["summary"].as_str().unwrap().contains("renewed by request r-2"));
    assert_eq!(world.denied(ACL_A), at(1));
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
async fn blocking_again_replaces_the_end_and_lifting_deletes_it() {
    let world = World::default();
    let end = |world: &World| {
        let things = world.things.borrow();
        things
            .schedules
            .values()
            .map(|schedule| schedule.at.to_string())
            .collect::<Vec<_>>()
    };
    world.bare(&expiring("r-1", 3600)).await;
    world.bare(&expiring("r-2", 7200)).await;
    assert_eq!(end(&world), ["2026-11-23T12:00:00Z"]);
    world.bare(&block("r-3")).await;
    assert_eq!(end(&world), [""; 0]);
    world.bare(&expiring("r-4", 60)).await;
    world.bare(&allow("r-5")).await;
    assert_eq!(end(&world), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_left_over_spoils_nothing() {
    let world = World::failing("delete", ErrorKind::AccessDenied, "AccessDeniedException");
    is(&world.bare(&block("r-1")).await, "succeeded", true, true, true);
    // One that could be deleted at the next attempt is worth one.
    world.fail("delete", ErrorKind::Throttled, "ThrottlingException");
    assert_eq!(world.bare(&allow("r-2")).await["error"]["retryable"], true);
    is(&world.bare(&allow("r-2")).await, "succeeded", false, false, true);
}

#[tokio::test(start_paused = true)]
async fn after_an_audit_the_entries_alone_are_the_record() {
    for expiry in [true, false] {
        let world = World::default();
        world.bare(&expiring("r-1", 60)).await;
        let late = fire(&world);
        world.things.borrow_mut().rules.clear();
        let lift = if expiry { late } else { allow("r-2") };
        is(&world.bare(&lift).await, "succeeded", true, false, true);
        assert_nothing_left(&world);
    }
}

#[tokio::test(start_paused = true)]
async fn later_settings_make_no_block_permanent() {
    let mut world = World::default();
    world.bare(&block("r-1")).await;
    world.policy.enforcement = containment_plan::Enforcement::None;
    world.policy.protected = vec!["203.0.113.0/24".parse().unwrap()];
    world.policy.expiry_lacks = vec!["ACTIONS_QUEUE_ARN"];
    is(&world.bare(&allow("r-2")).await, "succeeded", true, false, true);
    assert_nothing_left(&world);
    // Not being allowed to look at network ACLs is no error by then.
    world.policy.protected.clear();
    world.bare(&block("r-3")).await;
    for _ in 0..2 {
        world.fail("acls", ErrorKind::AccessDenied, "UnauthorizedOperation");
    }
    let answer = world.bare(&allow("r-4")).await;
    is(&answer, "succeeded", true, false, false);
    assert!(
        answer["summary"]
            .as_str()
            .unwrap()
            .contains("the network ACLs could not be looked at")
    );
}

#[tokio::test(start_paused = true)]
async fn without_enforcement_a_block_is_a_record_and_says_so() {
    let mut world = World::default();
    world.policy.enforcement = containment_plan::Enforcement::None;
    let answer = world.bare(&block("r-1")).await;
    is(&answer, "succeeded", true, false, true);
    assert!(
        answer["summary"]
            .as_str()
            .unwrap()
            .contains("by itself stops no traffic")
    );
    assert_eq!(world.denied(ACL_A), vec![]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_attached_meanwhile_loses_the_rule_at_once() {
    let world = World::default();
    world.before("add", |world| {
        world
            .interfaces
            .borrow_mut()
            .insert(GROUP_A.to_owned(), vec!["eni-9".to_owned()]);
    });
    let answer = world.bare(&block("r-1")).await;
    is(&answer, "failed", true, true, false);
    assert_eq!(answer["error"]["code"], "group_in_use");
    assert!(answer["error"]["message"].as_str().unwrap().contains("eni-9"));
    assert!(world.recorded(GROUP_A).is_empty());
    assert_eq!(world.denied(ACL_A), at(1), "the deny entries stay, as after an audit");
    world.bare(&allow("r-2")).await;
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn foreign_entries_are_left_alone() {
    let world = World::default();
    let mut foreign = entry(3, Effect::Deny, TARGET);
    foreign.protocol = Some(17);
    world.put_entry(ACL_A, foreign);
    world.put_entry(ACL_A, entry(200, Effect::Deny, TARGET));
    let before = world.things.borrow().entries.clone();
    world.bare(&block("r-1")).await;
    world.bare(&allow("r-2")).await;
    assert_eq!(world.things.borrow().entries, before);
}

#[tokio::test(start_paused = true)]
async fn at_every_call_a_failure_leaves_all_on_record_and_a_retry_gets_there() {
    for (kind, code) in [
        (ErrorKind::Throttled, "T"),
        (ErrorKind::AccessDenied, "UnauthorizedOperation"),
    ] {
        for operation in [
            "look",
            "authorize",
            "renew",
            "put",
            "add",
            "delete",
            "remove",
            "revoke",
            "send",
        ] {
            let world = World::default();
            for request in [expiring("r-1", 60), expiring("r-2", 600), block("r-3"), allow("r-4")] {
                world.fail(operation, kind, code);
                let _ = world.run(&request.to_string()).await;
                assert_on_record(&world);
                world.errors.borrow_mut().clear();
                let answer = world.bare(&request).await;
                assert_eq!(answer["status"], "succeeded", "{operation} {request}");
                assert_eq!(answer["verified"], true);
                assert_on_record(&world);
            }
            assert_nothing_left(&world);
        }
    }
}

fn attach(world: &World) {
    let interfaces = vec!["eni-9".to_owned()];
    world.interfaces.borrow_mut().insert(GROUP_A.to_owned(), interfaces);
}

#[tokio::test(start_paused = true)]
async fn a_block_that_comes_again_to_a_list_that_was_attached_meanwhile_loses_its_rule() {
    let world = World::failing("add", ErrorKind::Throttled, "RequestLimitExceeded");
    assert_eq!(world.bare(&block("r-1")).await["error"]["retryable"], true);
    attach(&world);
    let answer = world.bare(&block("r-1")).await;
    is(&answer, "failed", true, false, false);
    assert_eq!(answer["error"]["code"], "group_in_use");
    assert!(world.recorded(GROUP_A).is_empty());
    // Another request's rule is the audit's to take.
    let world = World::default();
    world.bare(&block("r-1")).await;
    attach(&world);
    is(&world.bare(&block("r-2")).await, "rejected", false, false, false);
    assert_eq!(world.recorded(GROUP_A).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_block_that_comes_again_and_finds_no_room_is_taken_back() {
    let world = World::default();
    // The entry of the one ACL is added, the other is throttled, and full by the time it comes again.
    world.before("add", |world| {
        world.before("add", |world| {
            world.fail("add", ErrorKind::Throttled, "RequestLimitExceeded");
        });
    });
    assert_eq!(world.bare(&expiring("r-1", 600)).await["error"]["retryable"], true);
    let open = if world.denied(ACL_A).is_empty() { ACL_A } else { ACL_B };
    world.put_entry(open, entry(1, Effect::Allow, "203.0.113.0/24"));
    let answer = world.bare(&expiring("r-1", 600)).await;
    assert_eq!(answer["error"]["code"], "network_acl_full");
    assert!(world.recorded(GROUP_A).is_empty() && world.things.borrow().schedules.is_empty());
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_leaves_the_older_block_its_end() {
    for (failing, second) in [
        ("add", block("r-2")),
        ("add", expiring("r-2", 60)),
        ("renew", block("r-2")),
        ("put", expiring("r-2", 60)),
    ] {
        let world = World::default();
        world.bare(&expiring("r-1", 3600)).await;
        let before = world.things.borrow().clone();
        world.fail(failing, ErrorKind::AccessDenied, "AccessDenied");
        if failing == "add" {
            world.fail("add", ErrorKind::AccessDenied, "AccessDenied");
        }
        assert_eq!(world.bare(&second).await["status"], "failed");
        let after = world.things.borrow().clone();
        assert_eq!(
            (&after.rules, &after.entries),
            (&before.rules, &before.entries),
            "{failing}"
        );
        let end = |things: &crate::testing::Things| {
            let schedule = things.schedules.values().next().unwrap();
            (schedule.at, schedule.request["only_if_blocked_by"].clone())
        };
        assert_eq!(end(&after), end(&before), "{failing}");
        is(&world.bare(&fire(&world)).await, "succeeded", true, false, true);
    }
}

#[tokio::test(start_paused = true)]
async fn where_a_door_cannot_be_closed_the_deny_entries_stay() {
    for (kind, code, retryable) in [
        (ErrorKind::AccessDenied, "UnauthorizedOperation", false),
        (ErrorKind::Throttled, "RequestLimitExceeded", true),
    ] {
        let world = World::failing("revoke", kind, code);
        world.before("add", attach);
        let answer = world.bare(&block("r-1")).await;
        assert_eq!(
            (&answer["status"], &answer["error"]["retryable"]),
            (&json!("failed"), &json!(retryable))
        );
        assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(1), at(1)));
        // Once it can, it is.
        assert_eq!(world.bare(&block("r-1")).await["error"]["code"], "group_in_use");
        assert!(world.recorded(GROUP_A).is_empty());
        assert_eq!(world.denied(ACL_A), at(1));
    }
}

#[tokio::test(start_paused = true)]
async fn entries_of_an_older_block_survive_a_newer_one_that_fails() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.things.borrow_mut().rules.clear(); // an audit's work
    world.fail("put", ErrorKind::AccessDenied, "AccessDenied");
    assert_eq!(world.bare(&expiring("r-2", 60)).await["status"], "failed");
    assert!(world.recorded(GROUP_A).is_empty());
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(1), at(1)));
}

#[tokio::test(start_paused = true)]
async fn a_number_is_not_deleted_twice() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    // Looks go on showing the entries, while another takes the number.
    world.before("revoke", |world| {
        *world.shown.borrow_mut() = Some({
            let mut shown = world.things.borrow().clone();
            let ours = Entry {
                protocol: Some(6),
                ports: Some((0, 65535)),
                ..entry(1, Effect::Deny, TARGET)
            };
            shown.entries.get_mut(ACL_A).unwrap().push(ours);
            shown.rules.clear();
            shown
        });
        world.put_entry(ACL_A, entry(1, Effect::Deny, "198.51.100.1/32"));
    });
    is(&world.bare(&allow("r-2")).await, "succeeded", true, true, false);
    assert_eq!(world.denied(ACL_A), [(1, "198.51.100.1/32".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_lost_meanwhile_is_made_again() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    // An ALLOW_IP past the queue takes all of it, after the second block has looked.
    world.before("authorize", |world| {
        world.before("add", |world| {
            let mut things = world.things.borrow_mut();
            things.rules.clear();
            things.entries = World::default().things.borrow().entries.clone();
        });
    });
    is(&world.bare(&block("r-2")).await, "succeeded", true, true, true);
    assert_eq!(world.recorded(GROUP_A), [(TARGET.to_owned(), "r-2".to_owned())]);
    assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(1), at(1)));
}

#[tokio::test(start_paused = true)]
async fn a_number_that_another_took_over_is_left_to_it() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.before("add", |world| {
        let mut things = world.things.borrow_mut();
        let entries = things.entries.get_mut(ACL_A).unwrap();
        entries.retain(|entry| entry.number != 1);
        entries.push(entry(1, Effect::Deny, "198.51.100.1/32"));
    });
    is(&world.bare(&block("r-1")).await, "succeeded", true, true, true);
    assert_eq!(
        world.denied(ACL_A),
        [(1, "198.51.100.1/32".to_owned()), (2, TARGET.to_owned())]
    );
}

#[tokio::test(start_paused = true)]
async fn a_look_that_is_throttled_brings_the_request_back() {
    let world = World::default();
    world.before("delete", |world| {
        world.fail("look", ErrorKind::Throttled, "RequestLimitExceeded");
    });
    assert_eq!(world.bare(&block("r-1")).await["error"]["retryable"], true);
    is(&world.bare(&block("r-1")).await, "succeeded", false, true, true);
    // One that is denied for good is answered, with what was placed.
    world.bare(&allow("r-2")).await;
    world.before("delete", |world| {
        world.fail("look", ErrorKind::AccessDenied, "UnauthorizedOperation");
    });
    let answer = world.bare(&block("r-3")).await;
    is(&answer, "succeeded", true, false, false);
    assert_eq!(answer["details"]["network_acl_entries"].as_array().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn two_lists_lifted_at_once_do_not_leave_the_entries_to_each_other() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    world.bare(&body("r-2", "BLOCK_IP", GROUP_B)).await;
    // The first look after the change is behind: it shows the other list with its rule, which is being lifted too.
    world.before("revoke", |world| {
        *world.shown.borrow_mut() = Some({
            let mut shown = world.things.borrow().clone();
            shown.rules.remove(GROUP_A);
            shown
        });
        world.things.borrow_mut().rules.remove(GROUP_B);
        world.before("look", |world| {
            world.before("look", |world| *world.shown.borrow_mut() = None);
        });
    });
    is(&world.bare(&allow("r-3")).await, "succeeded", true, false, true);
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn a_taken_number_that_does_not_show_is_passed_all_the_same() {
    let world = World::default();
    world.before("add", |world| {
        *world.shown.borrow_mut() = Some(world.things.borrow().clone());
        world.put_entry(ACL_A, entry(1, Effect::Deny, "198.51.100.1/32"));
    });
    // Looks catch up once the entry is made.
    world.before("acl", |world| {
        world.before("look", |world| *world.shown.borrow_mut() = None);
    });
    is(&world.bare(&block("r-1")).await, "succeeded", true, true, true);
    assert_eq!(
        world.denied(ACL_A),
        [(1, "198.51.100.1/32".to_owned()), (2, TARGET.to_owned())]
    );
}

#[tokio::test(start_paused = true)]
async fn a_rule_whose_confirmation_was_lost_does_not_stay_on_a_list_that_is_attached_by_then() {
    let world = World::default();
    world.bare(&block("r-1")).await;
    let made = world.things.borrow().rules.clone();
    world.bare(&allow("r-2")).await;
    // The SDK's first attempt is carried out and its answer lost; the second is told that the rule is there.
    world.before("authorize", move |world| {
        world.things.borrow_mut().rules = made;
        attach(world);
    });
    let answer = world.bare(&block("r-1")).await;
    assert_eq!(
        (&answer["status"], &answer["error"]["code"]),
        (&json!("failed"), &json!("group_in_use"))
    );
    assert!(world.recorded(GROUP_A).is_empty());
}
