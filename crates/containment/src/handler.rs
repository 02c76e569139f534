//! One invocation: an SQS event, a bare request or an audit in; the messages to hand back, the result or a report out.

use std::collections::HashMap;

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use aws_support::metrics::MetricSink;
use aws_support::{Clock, Deadline};
use containment_plan::{Outcome, Request};
use futures::future::join_all;
use lambda_runtime::Diagnostic;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::accounts::Accounts;
use crate::audit::{Audit, AuditScope};
use crate::executor::{Executor, Verdict};
use crate::metrics::{self, Ending};
use crate::results::ResultSink;
use crate::schedules::Schedules;

/// The function, with what it works on.
#[derive(Debug)]
pub struct Containment<A, S, C, R, M> {
    /// Whose metrics they are
    pub function_name: String,
    /// Carries out requests
    pub executor: Executor<A, S, C>,
    /// What an audit looks at
    pub audit: AuditScope,
    /// Where results go
    pub results: R,
    /// Where metrics go
    pub metrics: M,
}

/// A message that is not done with: it goes back to its queue.
struct HandBack;

impl<A: Accounts, S: Schedules, C: Clock, R: ResultSink, M: MetricSink> Containment<A, S, C, R, M> {
    /// Takes an SQS event, and answers with the messages to hand back; or one request, and answers with its result; or
    /// `{"mode":"audit"}`, and answers with a report. `invocation_id` names a bare request that has no id of its own,
    /// and an audit.
    ///
    /// # Errors
    /// `InvalidInput` for an SQS event that cannot be read or whose records have no id, and for a mode that is not
    /// known: nothing has been done. `ResultNotSent` where the result of a bare request or of an audit could not be
    /// sent. `AuditFailed` where a place could not be audited, after all of them are done.
    pub async fn handle(&self, input: &str, invocation_id: &str, deadline: &Deadline) -> Result<Value, Diagnostic> {
        match Kind::of(input) {
            Kind::Messages => self.handle_messages(input, deadline).await,
            Kind::Audit => self.handle_audit(input, invocation_id, deadline).await,
            Kind::Request => self.handle_bare(input, invocation_id, deadline).await,
        }
    }

    async fn handle_messages(&self, input: &str, deadline: &Deadline) -> Result<Value, Diagnostic> {
        let event: SqsEvent = serde_json::from_str(input)
            .map_err(|error| failure("InvalidInput", format!("the SQS event cannot be read: {error}")))?;
        let mut ids = Vec::with_capacity(event.records.len());
        for record in &event.records {
            ids.push(
                record
                    .message_id
                    .as_deref()
                    .ok_or_else(|| failure("InvalidInput", "a record of the SQS event has no messageId".to_owned()))?,
            );
        }
        let failed = self.handle_records(&event.records, &ids, deadline).await;
        let mut answer = SqsBatchResponse::default();
        answer.batch_item_failures = failed
            .into_iter()
            .map(|index| {
                let mut failure = BatchItemFailure::default();
                ids[index].clone_into(&mut failure.item_identifier);
                failure
            })
            .collect();
        serde_json::to_value(answer).map_err(|error| failure("Internal", error.to_string()))
    }

    /// The indices of the records to hand back. Records of one message group are taken one after the other, and once
    /// one is handed back so are all after it; different groups are taken side by side.
    async fn handle_records(&self, records: &[SqsMessage], ids: &[&str], deadline: &Deadline) -> Vec<usize> {
        let handled = join_all(groups(records).into_iter().map(async |group: Vec<usize>| {
            for (position, &index) in group.iter().enumerate() {
                let body = records[index].body.as_deref().unwrap_or_default();
                if let Err(HandBack) = self.handle_message(body, ids[index], deadline).await {
                    return group[position..].to_vec();
                }
            }
            Vec::new()
        }))
        .await;
        let mut failed: Vec<usize> = handled.into_iter().flatten().collect();
        failed.sort_unstable();
        failed
    }

    async fn handle_message(&self, body: &str, message_id: &str, deadline: &Deadline) -> Result<(), HandBack> {
        let outcome = match self.decide(body, message_id, deadline).await {
            Verdict::Decided(outcome) => outcome,
            Verdict::Undecided { so_far, error } => {
                self.measure(Ending::HandedBack(&so_far));
                tracing::warn!(
                    message_id,
                    request_id = so_far.request_id,
                    code = error.code,
                    "the message is handed back: {}",
                    error.message
                );
                return Err(HandBack);
            }
        };
        log(&outcome, message_id);
        let sent = self.results.send(&outcome, deadline).await;
        self.measure(if sent.is_ok() {
            Ending::Decided(&outcome)
        } else {
            Ending::HandedBack(&outcome)
        });
        sent.map_err(|error| {
            tracing::error!(
                message_id,
                request_id = outcome.request_id,
                %error,
                "the result cannot be sent, and the message is handed back"
            );
            HandBack
        })
    }

    async fn handle_bare(&self, input: &str, invocation_id: &str, deadline: &Deadline) -> Result<Value, Diagnostic> {
        let outcome = match self.decide(input, invocation_id, deadline).await {
            Verdict::Decided(outcome) => {
                log(&outcome, invocation_id);
                self.measure(Ending::Decided(&outcome));
                self.results
                    .send(&outcome, deadline)
                    .await
                    .map_err(|error| failure("ResultNotSent", error.to_string()))?;
                outcome
            }
            // Whoever called directly decides about another try; the results queue gets decided results only.
            Verdict::Undecided { so_far, .. } => {
                log(&so_far, invocation_id);
                self.measure(Ending::HandedBack(&so_far));
                so_far
            }
        };
        serde_json::to_value(outcome).map_err(|error| failure("Internal", error.to_string()))
    }

    async fn handle_audit(&self, input: &str, invocation_id: &str, deadline: &Deadline) -> Result<Value, Diagnostic> {
        let members: HashMap<String, Value> = serde_json::from_str(input).unwrap_or_default();
        if members.get("mode").and_then(Value::as_str) != Some("audit") {
            return Err(failure("InvalidInput", "mode must be \"audit\"".to_owned()));
        }
        if let Some(stranger) = members.keys().find(|name| *name != "mode") {
            let message = format!("{} is not known beside mode", shortened(stranger));
            return Err(failure("InvalidInput", message));
        }
        let audit = Audit {
            scope: &self.audit,
            policy: &self.executor.policy,
            accounts: &self.executor.accounts,
            clock: &self.executor.clock,
            id: invocation_id,
        };
        let audited = audit.run(deadline).await;
        for place in &audited.report.places {
            let now = self.executor.clock.now();
            self.metrics.put(&metrics::of_audit(place, &self.function_name, now));
        }
        let now = self.executor.clock.now();
        self.metrics
            .put(&metrics::of_audits(&audited.report, &self.function_name, now));
        let mut unsent = None;
        for outcome in &audited.outcomes {
            tracing::error!(request_id = outcome.request_id, "{}", outcome.summary);
            log(outcome, invocation_id);
            self.measure(Ending::Decided(outcome));
            if let Err(error) = self.results.send(outcome, deadline).await {
                unsent = Some(failure("ResultNotSent", error.to_string()));
            }
        }
        let report = serde_json::to_value(&audited.report).map_err(|error| failure("Internal", error.to_string()))?;
        tracing::info!(%report, "audit");
        let failed = audited.report.places.iter().filter_map(|place| {
            let error = place.error.as_ref()?;
            let account = place.role_arn.as_ref().map_or("the own account", |role| role.as_str());
            Some(format!(
                "{} in {account}: {}: {}",
                place.region, error.code, error.message
            ))
        });
        let failed: Vec<String> = failed.collect();
        if !failed.is_empty() {
            return Err(failure("AuditFailed", failed.join("; ")));
        }
        unsent.map_or(Ok(report), Err)
    }

    fn measure(&self, ending: Ending<'_>) {
        let now = self.executor.clock.now();
        self.metrics.put(&metrics::of_request(ending, &self.function_name, now));
    }

    async fn decide(&self, body: &str, stand_in_id: &str, deadline: &Deadline) -> Verdict {
        match Request::read(body, stand_in_id) {
            Ok(request) => self.executor.execute(&request, deadline).await,
            Err(rejection) => {
                Verdict::Decided(Box::new(Outcome::of_rejection(*rejection, self.executor.clock.stamp())))
            }
        }
    }
}

/// What an input is.
enum Kind {
    Messages,
    Audit,
    Request,
}

impl Kind {
    /// An object with `Records` is an SQS event. One with a `mode` and nothing of a request asks for that mode.
    fn of(input: &str) -> Self {
        let members: HashMap<String, &RawValue> = serde_json::from_str(input).unwrap_or_default();
        let has = |name| members.contains_key(name);
        if has("Records") {
            Kind::Messages
        } else if has("mode") && !["request_id", "action", "capability", "target"].into_iter().any(has) {
            Kind::Audit
        } else {
            Kind::Request
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Indices of records by message group, in their order. Without a group (a standard queue) each is its own.
fn groups(records: &[SqsMessage]) -> Vec<Vec<usize>> {
    let mut groups: Vec<(Option<&String>, Vec<usize>)> = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let name = record.attributes.get("MessageGroupId");
        match groups.iter_mut().find(|(group, _)| group.is_some() && *group == name) {
            Some((_, members)) => members.push(index),
            None => groups.push((name, vec![index])),
        }
    }
    groups.into_iter().map(|(_, members)| members).collect()
}

/// The one log line of a request that is done with.
fn log(outcome: &Outcome, message_id: &str) {
    let result = serde_json::to_string(outcome).unwrap_or_default();
    tracing::info!(
        message_id,
        request_id = outcome.request_id,
        action = outcome.action,
        target = outcome.target,
        status = outcome.status.as_str(),
        %result,
        "{}",
        outcome.summary
    );
}

fn failure(error_type: &str, error_message: String) -> Diagnostic {
    Diagnostic {
        error_type: error_type.to_owned(),
        error_message,
    }
}

#[cfg(test)]
mod tests {
    use aws_support::ErrorKind;
    use containment_plan::Status;
    use serde_json::json;

    use super::*;
    use crate::testing::{ACL_A, ACL_B, GROUP_A, GROUP_B, World, body};

    /// A record of a FIFO queue, in the group of the security group's id.
    fn record(id: &str, group: &str, body: &str) -> Value {
        json!({"messageId": format!("m-{id}"), "body": body, "attributes": {"MessageGroupId": group},
               "eventSource": "aws:sqs", "messageAttributes": {}})
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_is_made_verified_and_answered() {
        let world = World::default();
        let answer = world.bare(&body("r-1", "BLOCK_IP", GROUP_A)).await;
        assert_eq!(
            answer,
            json!({
                "request_id": "r-1", "action": "BLOCK_IP", "target": "203.0.113.7/32", "status": "succeeded",
                "changed": true, "enforced": true, "verified": true,
                "summary": "blocked: tcp 0-65535 from 203.0.113.7/32, denied by acl-0000000a entry 1, acl-0000000b \
                            entry 1, recorded on sg-0000000a",
                "details": {"security_group_id": GROUP_A, "security_group_rule_id": "sgr-1", "vpc_id": "vpc-1",
                            "account_id": "111122223333", "region": "us-east-1", "network_acl_entries": [
                                {"network_acl_id": ACL_A, "rule_number": 1, "changed": true},
                                {"network_acl_id": ACL_B, "rule_number": 1, "changed": true},
                            ], "expires_at": null},
                "error": null, "completed_at": "2026-11-23T10:00:00.000Z",
            })
        );
        assert_eq!(*world.sent.borrow(), [answer]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dry_run_writes_nothing() {
        let world = World::default();
        let mut request = body("r-1", "BLOCK_IP", GROUP_A);
        request["dry_run"] = json!(true);
        let answer = world.bare(&request).await;
        assert_eq!(answer["status"], "simulated");
        assert_eq!(answer["changed"], false);
        assert_eq!(
            answer["details"]["planned_steps"],
            json!([
                "authorize ingress tcp 0-65535 from 203.0.113.7/32 on sg-0000000a",
                "add deny entry 1 to acl-0000000a: tcp 0-65535 from 203.0.113.7/32",
                "add deny entry 1 to acl-0000000b: tcp 0-65535 from 203.0.113.7/32",
            ])
        );
        assert_eq!(world.writes(), [""; 0]);

        world.fail("ask", ErrorKind::AccessDenied, "UnauthorizedOperation");
        let answer = world.bare(&request).await;
        assert_eq!(answer["status"], "failed");
        assert_eq!(answer["error"]["code"], "access_denied");
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_reach_no_write() {
        let attached = World::default();
        attached
            .interfaces
            .borrow_mut()
            .insert(GROUP_A.to_owned(), vec!["eni-1".to_owned()]);
        let untagged = World {
            untagged: true,
            ..World::default()
        };
        for (world, code) in [(attached, "group_in_use"), (untagged, "group_not_enrolled")] {
            let answer = world.bare(&body("r-1", "BLOCK_IP", GROUP_A)).await;
            assert_eq!(answer["status"], "rejected");
            assert_eq!(answer["error"]["code"], code);
            assert_eq!(answer["error"]["retryable"], false);
            assert_eq!(world.writes(), [""; 0]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_policy_refuses_reaches_no_call() {
        let world = World::default();
        let mut protected = body("r-1", "BLOCK_IP", GROUP_A);
        protected["target"] = json!("10.0.0.1");
        let mut role = body("r-2", "ALLOW_IP", GROUP_A);
        role["params"]["aws_assume_role_arn"] = json!("arn:aws:iam::111122223333:role/admin");
        for (request, code) in [(protected, "protected_target"), (role, "role_not_allowed")] {
            let answer = world.bare(&request).await;
            assert_eq!(answer["status"], "rejected");
            assert_eq!(answer["error"]["code"], code);
        }
        assert_eq!(*world.calls.borrow(), ["send r-1", "send r-2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_cannot_be_made_changes_nothing() {
        for operation in ["look", "acls"] {
            for kind in [ErrorKind::AccessDenied, ErrorKind::Throttled] {
                let world = World::failing(operation, kind, "Code");
                let answer = world.bare(&body("r-1", "BLOCK_IP", GROUP_A)).await;
                assert_eq!(answer["status"], "failed");
                assert_eq!(answer["error"]["retryable"], kind == ErrorKind::Throttled);
                assert_eq!(world.writes(), [""; 0]);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_role_and_region_of_the_request_are_used() {
        let world = World::default();
        let mut request = body("r-1", "BLOCK_IP", GROUP_A);
        request["params"]["aws_region"] = json!("eu-west-1");
        request["params"]["aws_assume_role_arn"] = json!("arn:aws:iam::444455556666:role/aisoc");
        let answer = world.bare(&request).await;
        assert_eq!(answer["details"]["region"], "eu-west-1");
        assert_eq!(
            world.calls.borrow()[0],
            "assume arn:aws:iam::444455556666:role/aisoc eu-west-1"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_that_ran_out_are_forgotten_and_the_message_goes_back() {
        let world = World::failing("look", ErrorKind::ExpiredCredentials, "RequestExpired");
        let mut request = body("r-1", "BLOCK_IP", GROUP_A);
        request["params"]["aws_assume_role_arn"] = json!("arn:aws:iam::444455556666:role/aisoc");
        let failed = world.batch(vec![record("1", GROUP_A, &request.to_string())]).await;
        assert_eq!(failed, ["m-1"]);
        assert_eq!(*world.forgotten.borrow(), ["arn:aws:iam::444455556666:role/aisoc"]);
        assert!(world.sent.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn once_a_message_fails_the_later_ones_of_its_group_are_handed_back() {
        let world = World::failing("authorize", ErrorKind::Throttled, "T");
        let failed = world
            .batch(vec![
                record("1", GROUP_A, &body("r-1", "BLOCK_IP", GROUP_A).to_string()),
                record("2", GROUP_B, &body("r-2", "BLOCK_IP", GROUP_B).to_string()),
                record("3", GROUP_A, &body("r-3", "ALLOW_IP", GROUP_A).to_string()),
                record("4", GROUP_B, &body("r-4", "ALLOW_IP", GROUP_B).to_string()),
            ])
            .await;
        assert_eq!(failed, ["m-1", "m-3"]);
        let answered: Vec<_> = world
            .sent
            .borrow()
            .iter()
            .map(|result| result["request_id"].clone())
            .collect();
        assert_eq!(answered, ["r-2", "r-4"]);
        assert!(world.recorded(GROUP_B).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn without_message_groups_each_message_stands_alone() {
        let world = World::failing("authorize", ErrorKind::Throttled, "T");
        let records = ["1", "2"]
            .map(|id| json!({"messageId": format!("m-{id}"), "body": body(id, "BLOCK_IP", GROUP_A).to_string()}));
        assert_eq!(world.batch(records.to_vec()).await, ["m-1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_message_is_answered_once_and_costs_no_other() {
        let world = World::default();
        let failed = world
            .batch(vec![
                record("1", GROUP_A, "not json"),
                record("2", GROUP_A, "null"),
                record("3", GROUP_A, &body("r-3", "BLOCK_IP", GROUP_A).to_string()),
            ])
            .await;
        assert!(failed.is_empty());
        let answered: Vec<_> = world
            .sent
            .borrow()
            .iter()
            .map(|r| (r["request_id"].clone(), r["status"].clone()))
            .collect();
        assert_eq!(
            answered,
            [
                (json!("m-1"), json!("rejected")),
                (json!("m-2"), json!("rejected")),
                (json!("r-3"), json!("succeeded"))
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_that_cannot_be_sent_hands_its_message_back() {
        let world = World::failing("send", ErrorKind::AccessDenied, "AccessDenied");
        let message = record("1", GROUP_A, &body("r-1", "BLOCK_IP", GROUP_A).to_string());
        assert_eq!(world.batch(vec![message.clone()]).await, ["m-1"]);
        assert!(world.batch(vec![message]).await.is_empty());
        assert_eq!(world.sent.borrow()[0]["status"], "succeeded");
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_for_good_is_answered_and_acknowledged() {
        let world = World::failing("authorize", ErrorKind::Rejected, "RulesPerSecurityGroupLimitExceeded");
        let message = record("1", GROUP_A, &body("r-1", "BLOCK_IP", GROUP_A).to_string());
        assert!(world.batch(vec![message]).await.is_empty());
        assert_eq!(world.sent.borrow()[0]["status"], "failed");
        assert_eq!(world.sent.borrow()[0]["error"]["code"], "rule_limit_reached");
    }

    #[tokio::test(start_paused = true)]
    async fn an_undecided_bare_request_is_answered_as_retryable_and_sent_nowhere() {
        let world = World::failing("look", ErrorKind::Unreachable, "x");
        let answer = world.bare(&body("r-1", "BLOCK_IP", GROUP_A)).await;
        assert_eq!(answer["status"], serde_json::to_value(Status::Failed).unwrap());
        assert_eq!(answer["error"]["retryable"], true);
        assert!(world.sent.borrow().is_empty());
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
        assert_eq!(answer["status"], "rejected");
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_batch_is_no_failure() {
        assert!(World::default().batch(vec![]).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_audit_closes_what_has_become_attached_and_says_so() {
        let world = World::default();
        world.bare(&body("r-1", "BLOCK_IP", GROUP_A)).await;
        world.bare(&body("r-2", "BLOCK_IP", GROUP_B)).await;
        world
            .interfaces
            .borrow_mut()
            .insert(GROUP_A.to_owned(), vec!["eni-1".to_owned()]);
        world.sent.borrow_mut().clear();
        let report = world.bare(&json!({"mode": "audit"})).await;
        assert_eq!(
            report,
            json!({"mode": "audit", "complete": true, "places": [
                {"role_arn": null, "region": "us-east-1", "groups_audited": 2, "groups_in_use": 1, "rules_revoked": 1}
            ]})
        );
        assert!(world.recorded(GROUP_A).is_empty());
        assert_eq!(
            world.recorded(GROUP_B).len(),
            1,
            "the other group is attached to nothing"
        );
        // The deny entries stay, and with them the block.
        assert_eq!(world.denied(ACL_A), [(1, "203.0.113.7/32".to_owned())]);
        let result = world.sent.borrow()[0].clone();
        assert_eq!(
            (&result["action"], &result["status"]),
            (&json!("AUDIT"), &json!("succeeded"))
        );
        assert_eq!(
            (&result["changed"], &result["enforced"], &result["verified"]),
            (&json!(true), &json!(true), &json!(true))
        );
        assert_eq!(result["error"]["code"], "group_in_use");
        assert_eq!(result["details"]["network_interface_ids"], json!(["eni-1"]));
        let metrics = world.metrics.take();
        let audited = metrics
            .iter()
            .find(|line| line.get("BlockListsInUse").is_some())
            .unwrap();
        assert_eq!(
            (&audited["BlockListsInUse"], &audited["RulesRevoked"]),
            (&json!(1), &json!(1))
        );

        // The next one finds the group attached and nothing left to take.
        let report = world.bare(&json!({"mode": "audit"})).await;
        assert_eq!(report["places"][0]["groups_in_use"], 1);
        assert_eq!(world.sent.borrow().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rule_that_is_gone_already_keeps_no_other_on_an_attached_list() {
        let world = World::failing("revoke", ErrorKind::Rejected, "InvalidSecurityGroupRuleId.NotFound");
        world.bare(&body("r-1", "BLOCK_IP", GROUP_A)).await;
        world
            .interfaces
            .borrow_mut()
            .insert(GROUP_A.to_owned(), vec!["eni-1".to_owned()]);
        let report = world.bare(&json!({"mode": "audit"})).await;
        assert_eq!(report["places"][0]["rules_revoked"], 1);
        assert!(world.recorded(GROUP_A).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_audit_that_could_not_look_everywhere_fails() {
        for operation in ["enrolled", "interfaces"] {
            let world = World::failing(operation, ErrorKind::AccessDenied, "UnauthorizedOperation");
            let failure = world.run(r#"{"mode":"audit"}"#).await.unwrap_err();
            assert_eq!(failure.error_type, "AuditFailed");
            assert!(
                failure
                    .error_message
                    .starts_with("us-east-1 in the own account: access_denied")
            );
            let metrics = world.metrics.borrow();
            assert_eq!(
                (&metrics[0]["AuditErrors"], &metrics[1]["AuditsSucceeded"]),
                (&json!(1), &json!(0))
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_audit_whose_result_cannot_be_sent_fails_after_it_has_closed_the_door() {
        let world = World::default();
        world.bare(&body("r-1", "BLOCK_IP", GROUP_A)).await;
        world
            .interfaces
            .borrow_mut()
            .insert(GROUP_A.to_owned(), vec!["eni-1".to_owned()]);
        world.fail("send", ErrorKind::Throttled, "T");
        let failure = world.run(r#"{"mode":"audit"}"#).await.unwrap_err();
        assert_eq!(failure.error_type, "ResultNotSent");
        assert!(world.recorded(GROUP_A).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_is_counted_once_by_how_it_ended() {
        let block = body("r-1", "BLOCK_IP", GROUP_A).to_string();
        let world = World::default();
        world.batch(vec![record("1", "g", &block)]).await;
        world.batch(vec![record("2", "g", r#"{"action":"DROP_TABLE"}"#)]).await;
        // WHEN EC2 is throttled, and when the result cannot be sent
        world.fail("look", ErrorKind::Throttled, "RequestLimitExceeded");
        world.batch(vec![record("3", "g", &block)]).await;
        world.fail("send", ErrorKind::Throttled, "T");
        world.batch(vec![record("4", "g", &block)]).await;
        let endings: Vec<String> = world
            .metrics
            .take()
            .iter()
            .map(|line| {
                let ended: Vec<&str> = line
                    .as_object()
                    .unwrap()
                    .iter()
                    .filter(|(name, value)| name.starts_with("Requests") && **value == json!(1))
                    .map(|(name, _)| name.as_str())
                    .collect();
                format!("{} {}", line["Action"].as_str().unwrap(), ended.join(" "))
            })
            .collect();
        assert_eq!(
            endings,
            [
                "BLOCK_IP RequestsSucceeded",
                "UNKNOWN RequestsRejected",
                "BLOCK_IP RequestsHandedBack",
                "BLOCK_IP RequestsHandedBack",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_mode_that_is_not_known_does_nothing() {
        for (input, message) in [
            (r#"{"mode":"incremental"}"#, "mode must be \"audit\""),
            (r#"{"mode":7}"#, "mode must be \"audit\""),
            (
                r#"{"mode":"audit","region":"us-east-1"}"#,
                "region is not known beside mode",
            ),
        ] {
            let world = World::default();
            let failure = world.run(input).await.unwrap_err();
            assert_eq!(
                (failure.error_type.as_str(), failure.error_message.as_str()),
                ("InvalidInput", message)
            );
            assert!(world.calls.borrow().is_empty());
        }
        // A request with a mode is a request with a member that is not known.
        let mut request = body("r-1", "BLOCK_IP", GROUP_A);
        request["mode"] = json!("audit");
        assert_eq!(
            World::default().bare(&request).await["error"]["code"],
            "invalid_request"
        );
    }
}
