use actions::block::network_acl::Effect;
use aws_support::ErrorKind;
use serde_json::json;

use super::*;
use crate::testing::{ACL_A, ACL_B, GROUP_A, GROUP_B, When, World, aws_error, body, entry};

/// A record of a FIFO queue, in the group of the security group's id.
fn record(id: &str, group: &str, body: &str) -> Value {
    json!({"messageId": format!("m-{id}"), "body": body, "receiptHandle": format!("h-{id}"),
           "attributes": {"MessageGroupId": group, "ApproximateReceiveCount": "1"},
           "eventSource": "aws:sqs", "messageAttributes": {}})
}

fn block(id: &str, group: &str) -> String {
    body(id, "BLOCK_IP", group).to_string()
}

fn answered(world: &World) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    world
        .sent
        .borrow()
        .iter()
        .map(|result| (text(&result["request_id"]), text(&result["status"])))
        .collect()
}

// ---- requests --------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_block_is_made_verified_and_answered() {
    let world = World::default();
    let mut request = body("r-1", "BLOCK_IP", GROUP_A);
    request["case_id"] = json!("c-1");
    let answer = world.bare(&request).await;
    let expected = json!({
        "request_id": "r-1", "target": "203.0.113.7/32", "status": "succeeded",
        "changed": true, "enforced": true, "verified": true, "case_id": "c-1", "error": null,
        "details": {"security_group_id": GROUP_A, "security_group_rule_id": "sgr-1", "vpc_id": "vpc-1",
                    "account_id": "111122223333", "region": "us-east-1", "network_acl_entries": [
                        {"network_acl_id": ACL_A, "rule_number": 1, "changed": true},
                        {"network_acl_id": ACL_B, "rule_number": 1, "changed": true},
                    ], "expires_at": null},
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&answer[name], value, "{name}");
    }
    assert_eq!(*world.sent.borrow(), [answer]);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_writes_nothing_and_names_the_steps() {
    let world = World::default();
    let mut request = body("r-1", "BLOCK_IP", GROUP_A);
    request["dry_run"] = json!(true);
    request["params"]["expires_after_seconds"] = json!(60);
    let answer = world.bare(&request).await;
    assert_eq!(
        (&answer["status"], &answer["changed"]),
        (&json!("simulated"), &json!(false))
    );
    let steps: Vec<&str> = answer["details"]["planned_steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step.as_str().unwrap())
        .collect();
    assert_eq!(
        steps[..3],
        [
            "authorize ingress tcp 0-65535 from 203.0.113.7/32 on sg-0000000a",
            "add deny entry 1 to acl-0000000a: tcp 0-65535 from 203.0.113.7/32",
            "add deny entry 1 to acl-0000000b: tcp 0-65535 from 203.0.113.7/32",
        ]
    );
    assert!(
        steps[3].starts_with("schedule ALLOW_IP at 2026-11-23T10:01:"),
        "{steps:?}"
    );
    assert_eq!(world.writes(), [""; 0]);
    assert!(world.blocks.borrow().is_empty() && world.leases.borrow().is_empty());

    world.fail("dry-run", ErrorKind::Rejected, "InvalidParameterValue");
    let answer = world.bare(&request).await;
    assert_eq!(
        (&answer["status"], &answer["changed"]),
        (&json!("failed"), &json!(false))
    );
    assert_eq!(world.writes(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_tells_what_a_renewal_and_a_lift_would_do_now() {
    let world = World::default();
    let mut ending = body("r-1", "BLOCK_IP", GROUP_A);
    ending["params"]["expires_after_seconds"] = json!(3600);
    world.bare(&ending).await;
    let before = world.writes();
    let name = world.schedules.borrow().keys().next().unwrap().clone();
    for (request, steps) in [
        (
            body("r-2", "BLOCK_IP", GROUP_A),
            json!([
                "update the tags of sgr-1",
                format!("delete the schedule {name}, if there is one")
            ]),
        ),
        (
            body("r-3", "ALLOW_IP", GROUP_A),
            json!([
                "revoke ingress tcp 0-65535 from 203.0.113.7/32 on sg-0000000a",
                "remove deny entry 1 from acl-0000000a: tcp 0-65535 from 203.0.113.7/32",
                "remove deny entry 1 from acl-0000000b: tcp 0-65535 from 203.0.113.7/32",
                format!("delete the schedule {name}, if there is one"),
            ]),
        ),
    ] {
        let mut request = request;
        request["dry_run"] = json!(true);
        let answer = world.bare(&request).await;
        assert_eq!(answer["details"]["planned_steps"], steps, "{answer}");
        assert_eq!(world.writes(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_reach_no_write() {
    let attached = World::default();
    attached.attach(GROUP_A, Some("eni-1"));
    let untagged = World::default();
    untagged.untag(GROUP_A);
    let own = World::default();
    own.own_addresses
        .borrow_mut()
        .push(("203.0.113.7".parse().unwrap(), "eni-nat".to_owned()));
    let without_subnet = World::default();
    without_subnet.change(|things| things.acls.values_mut().for_each(|acl| acl.has_subnet = false));
    let not_owned = World::default();
    not_owned.change(|things| things.acls.get_mut(ACL_B).unwrap().owner_id = Some("444455556666".to_owned()));
    for (world, code) in [
        (attached, "group_in_use"),
        (untagged, "group_not_enrolled"),
        (own, "protected_target"),
        (without_subnet, "network_acl_without_subnet"),
        (not_owned, "network_acl_not_owned"),
    ] {
        let answer = world.bare(&body("r-1", "BLOCK_IP", GROUP_A)).await;
        let status = if code == "network_acl_without_subnet" {
            "failed"
        } else {
            "blocked"
        };
        assert_eq!(answer["status"], status, "{answer}");
        assert_eq!(answer["details"]["error"]["code"], code);
        assert_eq!(
            (&answer["changed"], &answer["details"]["error"]["retryable"]),
            (&json!(false), &json!(false))
        );
        assert_eq!(world.writes(), [""; 0]);
        assert!(world.blocks.borrow().is_empty() && world.leases.borrow().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_policy_refuses_reaches_no_call() {
    let world = World::default();
    let mut protected = body("r-1", "BLOCK_IP", GROUP_A);
    protected["target"] = json!("64:ff9b::10.0.0.1");
    let mut role = body("r-2", "ALLOW_IP", GROUP_A);
    role["params"]["aws_assume_role_arn"] = json!("arn:aws:iam::111122223333:role/admin");
    let mut elsewhere = body("r-3", "BLOCK_IP", GROUP_A);
    elsewhere["params"]["aws_region"] = json!("eu-west-1");
    for (request, code) in [
        (protected, "protected_target"),
        (role, "role_not_allowed"),
        (elsewhere, "region_not_allowed"),
    ] {
        let answer = world.bare(&request).await;
        assert_eq!(
            (&answer["status"], &answer["details"]["error"]["code"]),
            (&json!("blocked"), &json!(code))
        );
    }
    assert_eq!(*world.calls.borrow(), ["send r-1", "send r-2", "send r-3"]);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_cannot_be_made_changes_nothing() {
    for operation in ["read", "acls", "of-rule"] {
        for kind in [ErrorKind::Rejected, ErrorKind::Throttled] {
            let world = World::failing(operation, kind, "Code");
            let answer = world.bare(&body("r-1", "BLOCK_IP", GROUP_A)).await;
            assert_eq!(answer["status"], "failed");
            assert_eq!(
                answer["details"]["error"]["retryable"],
                kind == ErrorKind::Throttled,
                "{operation}"
            );
            assert_eq!(world.writes(), [""; 0]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_role_and_region_of_the_request_are_used() {
    let world = World::default();
    let role = "arn:aws:iam::444455556666:role/aisoc";
    world.policy.borrow_mut().places.roles.push(role.parse().unwrap());
    world
        .policy
        .borrow_mut()
        .places
        .regions
        .push("eu-west-1".parse().unwrap());
    let mut request = body("r-1", "BLOCK_IP", GROUP_A);
    request["params"]["aws_region"] = json!("eu-west-1");
    request["params"]["aws_assume_role_arn"] = json!(role);
    let answer = world.bare(&request).await;
    assert_eq!(
        (&answer["status"], &answer["details"]["region"]),
        (&json!("succeeded"), &json!("eu-west-1"))
    );
    assert_eq!(world.calls.borrow()[0], format!("assume {role} eu-west-1"));
}

#[tokio::test(start_paused = true)]
async fn a_bare_request_that_does_not_get_the_lease_is_busy_and_may_be_sent_again() {
    let world = World::default();
    let lease = crate::ports::Lease {
        region: "us-east-1".parse().unwrap(),
        group: GROUP_A.parse().unwrap(),
        holder: "another".to_owned(),
        until: "2026-11-23T12:00:00Z".parse().unwrap(),
    };
    world.leases.borrow_mut().insert(GROUP_A.to_owned(), lease);
    let answer = world.bare(&body("r-1", "BLOCK_IP", GROUP_A)).await;
    assert_eq!(
        (&answer["status"], &answer["changed"]),
        (&json!("failed"), &json!(false))
    );
    assert_eq!(
        (
            &answer["details"]["error"]["code"],
            &answer["details"]["error"]["retryable"]
        ),
        (&json!("busy"), &json!(true))
    );
    assert!(world.calls_of(&["begin"]).len() > 2, "it waits for it");
    assert!(world.sent.borrow().is_empty(), "only decided results are sent");
    assert_eq!(world.writes(), [""; 0]);
    // A message goes back to its queue.
    let failed = world.batch(vec![record("1", GROUP_A, &block("r-1", GROUP_A))]).await;
    assert_eq!(failed, ["m-1"]);
    // WHEN it has ended
    world.leases.borrow_mut().clear();
    assert_eq!(
        world.bare(&body("r-1", "BLOCK_IP", GROUP_A)).await["status"],
        "succeeded"
    );
}

#[tokio::test(start_paused = true)]
async fn an_undecided_bare_request_is_answered_as_retryable_and_sent_nowhere() {
    let world = World::failing("read", ErrorKind::Unreachable, "x");
    let answer = world.bare(&body("r-1", "BLOCK_IP", GROUP_A)).await;
    assert_eq!(
        (&answer["status"], &answer["details"]["error"]["retryable"]),
        (&json!("failed"), &json!(true))
    );
    assert!(world.sent.borrow().is_empty());
}

// ---- batches ---------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn once_a_message_fails_the_later_ones_of_its_group_are_retried_too() {
    let world = World::failing("authorize", ErrorKind::Throttled, "T");
    let failed = world
        .batch(vec![
            record("1", GROUP_A, &block("r-1", GROUP_A)),
            record("2", GROUP_B, &block("r-2", GROUP_B)),
            record("3", GROUP_A, &body("r-3", "ALLOW_IP", GROUP_A).to_string()),
            record("4", GROUP_B, &body("r-4", "ALLOW_IP", GROUP_B).to_string()),
        ])
        .await;
    assert_eq!(failed, ["m-1", "m-3"]);
    let requests: Vec<String> = answered(&world).into_iter().map(|(id, _)| id).collect();
    assert_eq!(requests, ["r-2", "r-4"]);
    assert!(world.rules(GROUP_B).is_empty());
    let retried: Vec<String> = world
        .retried
        .borrow()
        .iter()
        .map(|(handle, _)| handle.clone())
        .collect();
    assert_eq!(
        retried,
        ["h-1", "h-3"],
        "each message that returns is delivered again soon"
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_is_delivered_again_after_5_to_60_seconds_by_its_receive_count() {
    let world = World::default();
    for receives in 1..=7 {
        world.fail("read", ErrorKind::Throttled, "RequestLimitExceeded");
        world.fail("read", ErrorKind::Throttled, "RequestLimitExceeded");
        assert_eq!(world.deliver(&body("r-1", "BLOCK_IP", GROUP_A), receives).await, None);
        world.call_faults.borrow_mut().clear();
    }
    let seconds: Vec<i32> = world.retried.borrow().iter().map(|(_, seconds)| *seconds).collect();
    assert_eq!(seconds, [5, 10, 20, 40, 60, 60, 60]);
    assert_eq!(retry_seconds(0), 5);
    assert_eq!(retry_seconds(u32::MAX), 60);
    let mut without_count = record("1", GROUP_A, &block("r-1", GROUP_A));
    without_count["attributes"]
        .as_object_mut()
        .unwrap()
        .remove("ApproximateReceiveCount");
    world.retried.borrow_mut().clear();
    world.fail("read", ErrorKind::Throttled, "RequestLimitExceeded");
    world.batch(vec![without_count]).await;
    assert_eq!(*world.retried.borrow(), [("h-1".to_owned(), 5)]);
}

#[tokio::test(start_paused = true)]
async fn without_message_groups_each_message_stands_alone() {
    let world = World::failing("authorize", ErrorKind::Throttled, "T");
    let records = [(1, GROUP_A), (2, GROUP_B)]
        .map(|(id, group)| json!({"messageId": format!("m-{id}"), "body": block(&format!("r-{id}"), group)}));
    assert_eq!(world.batch(records.to_vec()).await, ["m-1"]);
    assert!(
        world.retried.borrow().is_empty(),
        "a message without a receipt is left to its queue"
    );
}

#[tokio::test(start_paused = true)]
async fn a_bad_message_is_answered_once_and_costs_no_other() {
    let world = World::default();
    let failed = world
        .batch(vec![
            record("1", GROUP_A, "not json"),
            record("2", GROUP_A, "null"),
            record("3", GROUP_A, &block("r-3", GROUP_A)),
        ])
        .await;
    assert!(failed.is_empty());
    let expected = [("m-1", "failed"), ("m-2", "failed"), ("r-3", "succeeded")];
    assert_eq!(
        answered(&world),
        expected.map(|(id, status)| (id.to_owned(), status.to_owned()))
    );
}

#[tokio::test(start_paused = true)]
async fn a_result_that_cannot_be_sent_returns_its_message_and_is_told_again() {
    let world = World::failing("send", ErrorKind::AccessDenied, "AccessDenied");
    let message = record("1", GROUP_A, &block("r-1", GROUP_A));
    assert_eq!(world.batch(vec![message.clone()]).await, ["m-1"]);
    assert!(world.batch(vec![message]).await.is_empty());
    assert_eq!(answered(&world), [("r-1".to_owned(), "succeeded".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_good_is_answered_and_acknowledged() {
    let world = World::failing("authorize", ErrorKind::Rejected, "RulesPerSecurityGroupLimitExceeded");
    assert!(
        world
            .batch(vec![record("1", GROUP_A, &block("r-1", GROUP_A))])
            .await
            .is_empty()
    );
    assert_eq!(world.sent.borrow()[0]["status"], "failed");
    assert_eq!(world.sent.borrow()[0]["details"]["error"]["code"], "rule_limit_reached");
    assert!(world.retried.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_read_fails_before_anything_is_done() {
    for input in [
        r#"{"Records":7}"#,
        r#"{"Records":[{"body":"{}"}]}"#,
        r#"{"Records":[{"messageId":5}]}"#,
    ] {
        let world = World::default();
        let failure = world.run(input).await.unwrap_err();
        assert_eq!(failure.error_type, "InvalidInput", "{input}");
        assert!(world.calls.borrow().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn an_array_is_no_sqs_event() {
    let answer = World::default().bare(&json!([{"messageId": "m", "body": "{}"}])).await;
    assert_eq!(answer["details"]["error"]["code"], "invalid_request");
}

#[tokio::test(start_paused = true)]
async fn an_empty_batch_is_no_failure() {
    assert!(World::default().batch(vec![]).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_request_is_counted_once_by_how_it_ended() {
    let world = World::default();
    world.batch(vec![record("1", "g", &block("r-1", GROUP_A))]).await;
    world.batch(vec![record("2", "g", r#"{"action":"DROP_TABLE"}"#)]).await;
    // WHEN EC2 is throttled, and when the result cannot be sent
    world.fail("read", ErrorKind::Throttled, "RequestLimitExceeded");
    world.batch(vec![record("3", "g", &block("r-1", GROUP_A))]).await;
    world.fail("send", ErrorKind::Throttled, "T");
    world.batch(vec![record("4", "g", &block("r-1", GROUP_A))]).await;
    let endings: Vec<Vec<String>> = world
        .metrics
        .take()
        .iter()
        .map(|line| {
            let counted = line.as_object().unwrap().iter();
            counted
                .filter(|(name, value)| name.starts_with("Requests") && **value == json!(1))
                .map(|(name, _)| name.clone())
                .collect()
        })
        .collect();
    let retried = "RequestsRetried";
    assert_eq!(
        endings,
        [["RequestsSucceeded"], ["RequestsFailed"], [retried], [retried]]
    );
}

// ---- modes -----------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_mode_that_is_not_known_does_nothing() {
    for (input, message) in [
        (r#"{"mode":"incremental"}"#, "mode must be \"audit\" or \"list_blocks\""),
        (r#"{"mode":7}"#, "mode must be \"audit\" or \"list_blocks\""),
        (
            r#"{"mode":"audit","region":"us-east-1"}"#,
            "region is not known beside mode",
        ),
        (r#"{"mode":"list_blocks","all":true}"#, "all is not known beside mode"),
    ] {
        let world = World::default();
        let failure = world.run(input).await.unwrap_err();
        assert_eq!(
            (failure.error_type.as_str(), failure.error_message.as_str()),
            ("InvalidInput", message)
        );
        assert!(world.calls.borrow().is_empty());
    }
    let long = format!(r#"{{"mode":"audit","{}":1}}"#, "x".repeat(100_000));
    assert!(World::default().run(&long).await.unwrap_err().error_message.len() < 200);
    // A request with a mode is a request with a member that is not known.
    for name in ["request_id", "action", "capability", "target"] {
        let request = json!({"mode": "audit", name: "x"});
        assert_eq!(
            World::default().bare(&request).await["details"]["error"]["code"],
            "invalid_request"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_blocks_are_listed_from_the_table_alone() {
    let world = World::default();
    assert_eq!(
        world.run(r#"{"mode":"list_blocks"}"#).await.unwrap(),
        json!({"blocks": []})
    );
    let mut request = body("r-1", "BLOCK_IP", GROUP_A);
    request["requested_by"] = json!("ana");
    request["case_id"] = json!("c-1");
    request["params"]["expires_after_seconds"] = json!(3600);
    world.bare(&request).await;
    world.bare(&body("r-2", "BLOCK_IP", GROUP_B)).await;
    world.bare(&body("r-3", "ALLOW_IP", GROUP_B)).await;
    world.calls.borrow_mut().clear();
    let expires_at = world.block(GROUP_A).unwrap().terms.expires_at.unwrap().to_string();
    assert_eq!(
        world.run(r#"{"mode":"list_blocks"}"#).await.unwrap(),
        json!({"blocks": [{
            "target": "203.0.113.7/32", "protocol": "tcp", "from_port": 0, "to_port": 65535,
            "security_group_id": GROUP_A, "account_id": "111122223333", "region": "us-east-1",
            "request_id": "r-1", "requested_by": "ana", "case_id": "c-1", "expires_at": expires_at, "enforced": true,
        }]})
    );
    assert_eq!(*world.calls.borrow(), ["all "]);
    world.fail("all", ErrorKind::AccessDenied, "AccessDeniedException");
    let failure = world.run(r#"{"mode":"list_blocks"}"#).await.unwrap_err();
    assert_eq!(failure.error_type, "BlocksUnreadable");
}

#[tokio::test(start_paused = true)]
async fn an_item_of_which_nothing_was_placed_is_listed_as_no_block() {
    let world = World::failing("authorize", ErrorKind::Throttled, "T");
    world.fail("add", ErrorKind::Throttled, "T");
    world.fail("add", ErrorKind::Throttled, "T");
    world.bare(&body("r-1", "BLOCK_IP", GROUP_A)).await;
    assert!(world.block(GROUP_A).is_some());
    assert_eq!(
        world.run(r#"{"mode":"list_blocks"}"#).await.unwrap(),
        json!({"blocks": []})
    );
}

// ---- audits ----------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn an_audit_that_could_not_read_a_place_fails_after_all_of_them_are_done() {
    let world = World::failing("survey", ErrorKind::Rejected, "InvalidParameterValue");
    let failure = world.run(r#"{"mode":"audit"}"#).await.unwrap_err();
    assert_eq!(failure.error_type, "AuditFailed");
    let start = "us-east-1 in the own account: aws_rejected";
    assert!(failure.error_message.starts_with(start), "{}", failure.error_message);
    let metrics = world.metrics.borrow();
    assert_eq!(
        (&metrics[0]["AuditErrors"], &metrics[1]["AuditsSucceeded"]),
        (&json!(1), &json!(0))
    );
}

#[tokio::test(start_paused = true)]
async fn a_fault_counts_as_told_once_sqs_has_confirmed_its_result() {
    let world = World::default();
    world.bare(&body("r-1", "BLOCK_IP", GROUP_A)).await;
    world.attach(GROUP_A, Some("eni-1"));
    world.sent.borrow_mut().clear();
    world.fail("send", ErrorKind::Throttled, "T");
    let failure = world.run(r#"{"mode":"audit"}"#).await.unwrap_err();
    assert_eq!(failure.error_type, "ResultNotSent");
    assert!(world.rules(GROUP_A).is_empty(), "repaired all the same");
    assert!(world.sent.borrow().is_empty());
    assert!(world.faults.borrow().values().all(|known| !known.is_told));
    // The next audit tells it, and the one after says nothing.
    let report = world.audit().await;
    assert_eq!(report["places"][0]["block_lists_in_use"], 1);
    assert_eq!(world.sent.borrow().len(), 1);
    assert_eq!(world.sent.borrow()[0]["details"]["error"]["code"], "group_in_use");
    assert!(world.faults.borrow().values().all(|known| known.is_told));
    world.audit().await;
    assert_eq!(world.sent.borrow().len(), 1);
    // WHEN it is over, and that cannot be told at first
    world.attach(GROUP_A, None);
    world.sent.borrow_mut().clear();
    for _ in 0..2 {
        world.strike("send", aws_error(ErrorKind::Unreachable, "x"), When::Before);
    }
    assert!(world.run(r#"{"mode":"audit"}"#).await.is_err());
    assert!(world.sent.borrow().is_empty());
    assert_eq!(world.rules(GROUP_A).len(), 1, "the rule is back");
    for _ in 0..3 {
        world.audit().await;
    }
    let told: Vec<Value> = world
        .sent
        .borrow()
        .iter()
        .map(|result| result["summary"].clone())
        .collect();
    let is_of_list = |summary: &&Value| summary.as_str().unwrap().contains("is attached to nothing any more");
    assert_eq!(told.iter().filter(is_of_list).count(), 1, "{told:?}");
    assert!(world.sent.borrow().iter().all(|result| result["status"] == "succeeded"));
    assert!(world.faults.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_audit_counts_every_fault_each_time() {
    let world = World::default();
    world.bare(&body("r-1", "BLOCK_IP", GROUP_A)).await;
    world.attach(GROUP_A, Some("eni-1"));
    // Every number below the allow is taken: nothing can be added.
    world.delete_entry(ACL_A, 1);
    world.put_entry(ACL_A, entry(1, Effect::Allow, "203.0.113.0/24"));
    for _ in 0..2 {
        world.metrics.take();
        world.audit().await;
        let metrics = world.metrics.take();
        let of_place = metrics
            .iter()
            .find(|line| line.get("BlockListsInUse").is_some())
            .unwrap();
        for (name, count) in [
            ("BlockListsInUse", 1),
            ("BlocksNotEnforced", 1),
            ("BlocksOverdue", 0),
            ("BlockListsLost", 0),
        ] {
            assert_eq!(of_place[name], json!(count), "{name} {of_place}");
        }
    }
    assert_eq!(world.sent.borrow().len(), 3, "one for the block, one for each fault");
}
