//! One invocation: an SQS event or a bare request in, the messages to hand back or the result out.

use std::collections::HashMap;

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use aws_support::{Clock, Deadline};
use containment_plan::{Outcome, Request};
use futures::future::join_all;
use lambda_runtime::Diagnostic;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::accounts::Accounts;
use crate::executor::{Executor, Verdict};
use crate::results::ResultSink;

/// The function, with what it works on.
#[derive(Debug)]
pub struct Containment<A, C, R> {
    /// Carries out requests
    pub executor: Executor<A, C>,
    /// Where results go
    pub results: R,
}

/// A message that is not done with: it goes back to its queue.
struct HandBack;

impl<A: Accounts, C: Clock, R: ResultSink> Containment<A, C, R> {
    /// Takes an SQS event, and answers with the messages to hand back; or one request, and answers with its result.
    /// `invocation_id` names a bare request that has no id of its own.
    ///
    /// # Errors
    /// `InvalidInput` for an SQS event that cannot be read or whose records have no id: nothing has been done.
    /// `ResultNotSent` where the result of a bare request could not be sent.
    pub async fn handle(&self, input: &str, invocation_id: &str, deadline: &Deadline) -> Result<Value, Diagnostic> {
        if !is_sqs_event(input) {
            return self.handle_bare(input, invocation_id, deadline).await;
        }
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
        self.results.send(&outcome, deadline).await.map_err(|error| {
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
                self.results
                    .send(&outcome, deadline)
                    .await
                    .map_err(|error| failure("ResultNotSent", error.to_string()))?;
                outcome
            }
            // Whoever called directly decides about another try; the results queue gets decided results only.
            Verdict::Undecided { so_far, .. } => {
                log(&so_far, invocation_id);
                so_far
            }
        };
        serde_json::to_value(outcome).map_err(|error| failure("Internal", error.to_string()))
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

/// An object with a member `Records`.
fn is_sqs_event(input: &str) -> bool {
    serde_json::from_str::<HashMap<String, &RawValue>>(input).is_ok_and(|members| members.contains_key("Records"))
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
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::time::Duration;

    use aws_support::{AwsError, ErrorKind};
    use aws_text::{Region, RoleArn, SecurityGroupId};
    use containment_plan::{GroupState, IngressRule, Policy, Status, Step};
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::ec2::{Change, SecurityGroups};

    struct At;

    impl Clock for At {
        fn now(&self) -> Timestamp {
            "2026-11-23T10:00:00Z".parse().unwrap()
        }
    }

    /// An account with block lists, whose calls are recorded. `errors` are given once each, in order, by operation.
    #[derive(Default)]
    struct World {
        rules: RefCell<HashMap<String, BTreeMap<IngressRule, String>>>,
        interfaces: Vec<String>,
        untagged: bool,
        /// Describes show none of the changes
        stale: bool,
        errors: RefCell<Vec<(&'static str, AwsError)>>,
        calls: RefCell<Vec<String>>,
        forgotten: RefCell<Vec<String>>,
        sent: RefCell<Vec<Value>>,
    }

    impl World {
        fn call(&self, operation: &'static str, subject: &str) -> Result<(), AwsError> {
            self.calls.borrow_mut().push(format!("{operation} {subject}"));
            let mut errors = self.errors.borrow_mut();
            match errors.iter().position(|(name, _)| *name == operation) {
                Some(index) => Err(errors.remove(index).1),
                None => Ok(()),
            }
        }

        fn writes(&self) -> Vec<String> {
            let is_write = |call: &&String| call.starts_with("authorize") || call.starts_with("revoke");
            self.calls.borrow().iter().filter(is_write).cloned().collect()
        }
    }

    impl SecurityGroups for &World {
        async fn state(
            &self,
            group: &SecurityGroupId,
            with_interfaces: bool,
            deadline: &Deadline,
        ) -> Result<GroupState, AwsError> {
            self.call("state", group.as_str())?;
            let tag = ("aisoc:containment".to_owned(), "blocklist".to_owned());
            Ok(GroupState {
                id: group.clone(),
                name: "blocklist".to_owned(),
                vpc_id: Some("vpc-1".to_owned()),
                owner_id: Some("111122223333".to_owned()),
                tags: BTreeMap::from_iter((!self.untagged).then_some(tag)),
                rules: self.rules(group, deadline).await?,
                interfaces: if with_interfaces {
                    self.interfaces.clone()
                } else {
                    vec![]
                },
            })
        }

        async fn rules(
            &self,
            group: &SecurityGroupId,
            _: &Deadline,
        ) -> Result<BTreeMap<IngressRule, String>, AwsError> {
            self.call("rules", group.as_str())?;
            if self.stale {
                return Ok(BTreeMap::new());
            }
            Ok(self.rules.borrow().get(group.as_str()).cloned().unwrap_or_default())
        }

        async fn apply(&self, step: &Step, _: &Deadline) -> Result<Change, AwsError> {
            let mut rules = self.rules.borrow_mut();
            let changed = match step {
                Step::AuthorizeIngress { group, rule, .. } => {
                    self.call("authorize", group.as_str())?;
                    let rules = rules.entry(group.to_string()).or_default();
                    rules.insert(*rule, "sgr-1".to_owned()).is_none()
                }
                Step::RevokeIngress { group, rule } => {
                    self.call("revoke", group.as_str())?;
                    let rules = rules.entry(group.to_string()).or_default();
                    rules.remove(rule).is_some()
                }
            };
            Ok(if changed { Change::Made } else { Change::AlreadySo })
        }

        async fn ask(&self, step: &Step, _: &Deadline) -> Result<(), AwsError> {
            self.call("ask", &step.to_string())
        }
    }

    impl<'w> Accounts for &'w World {
        type Groups = &'w World;

        async fn groups(&self, role: Option<&RoleArn>, region: &Region, _: &Deadline) -> Result<&'w World, AwsError> {
            let role = role.map_or("own", RoleArn::as_str);
            self.call("groups", &format!("{role} {region}"))?;
            Ok(self)
        }

        async fn forget(&self, role: &RoleArn) {
            self.forgotten.borrow_mut().push(role.to_string());
        }
    }

    impl ResultSink for &World {
        async fn send(&self, outcome: &Outcome, _: &Deadline) -> Result<(), AwsError> {
            self.call("send", &outcome.request_id)?;
            self.sent.borrow_mut().push(serde_json::to_value(outcome).unwrap());
            Ok(())
        }
    }

    fn error(kind: ErrorKind, code: &str) -> AwsError {
        AwsError {
            kind,
            code: Some(code.to_owned()),
            ..AwsError::out_of_time("ec2:Some")
        }
    }

    async fn run(world: &World, input: &str) -> Result<Value, Diagnostic> {
        let containment = Containment {
            executor: Executor {
                region: "us-east-1".parse().unwrap(),
                policy: Policy {
                    protected: vec![],
                    allow_private: false,
                    allowed_roles: vec!["arn:aws:iam::*:role/aisoc".parse().unwrap()],
                    tag: "aisoc:containment=blocklist".parse().unwrap(),
                },
                accounts: world,
                clock: At,
            },
            results: world,
        };
        let deadline = Deadline::after(Duration::from_mins(1));
        containment.handle(input, "invocation-1", &deadline).await
    }

    fn body(id: &str, action: &str, group: &str) -> Value {
        json!({"request_id": id, "action": action, "target": "203.0.113.7", "params": {"aws_security_group_id": group}})
    }

    const GROUP_A: &str = "sg-0000000a";
    const GROUP_B: &str = "sg-0000000b";

    /// A record of a FIFO queue, in the group of the security group's id.
    fn record(id: &str, group: &str, body: &str) -> Value {
        json!({"messageId": format!("m-{id}"), "body": body, "attributes": {"MessageGroupId": group},
               "eventSource": "aws:sqs", "messageAttributes": {}})
    }

    async fn batch(world: &World, records: Vec<Value>) -> Vec<String> {
        let answer = run(world, &json!({ "Records": records }).to_string()).await.unwrap();
        answer["batchItemFailures"]
            .as_array()
            .unwrap()
            .iter()
            .map(|failure| failure["itemIdentifier"].as_str().unwrap().to_owned())
            .collect()
    }

    async fn bare(world: &World, body: &Value) -> Value {
        run(world, &body.to_string()).await.unwrap()
    }

    #[tokio::test]
    async fn a_block_is_made_verified_and_answered() {
        let world = World::default();
        let answer = bare(&world, &body("r-1", "BLOCK_IP", GROUP_A)).await;
        assert_eq!(
            answer,
            json!({
                "request_id": "r-1", "action": "BLOCK_IP", "target": "203.0.113.7/32", "status": "succeeded",
                "changed": true, "enforced": false, "verified": true,
                "summary": "recorded on block list sg-0000000a: tcp 0-65535 from 203.0.113.7/32; this is the record, \
                            which by itself stops no traffic",
                "details": {"security_group_id": GROUP_A, "security_group_rule_id": "sgr-1", "vpc_id": "vpc-1",
                            "account_id": "111122223333", "region": "us-east-1", "network_acl_entries": [],
                            "expires_at": null},
                "error": null, "completed_at": "2026-11-23T10:00:00.000Z",
            })
        );
        assert_eq!(*world.sent.borrow(), [answer]);
    }

    #[tokio::test]
    async fn redelivery_after_success_changes_nothing() {
        let world = World::default();
        for action in ["BLOCK_IP", "ALLOW_IP"] {
            let request = body("r-1", action, GROUP_A);
            assert_eq!(bare(&world, &request).await["changed"], true);
            let before = world.rules.borrow().clone();
            let again = bare(&world, &request).await;
            assert_eq!(again["status"], "succeeded");
            assert_eq!(again["changed"], false);
            assert_eq!(again["verified"], true);
            assert_eq!(*world.rules.borrow(), before);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_that_lags_behind_hides_no_rule_from_allow() {
        let world = World {
            stale: true,
            ..World::default()
        };
        bare(&world, &body("r-1", "BLOCK_IP", GROUP_A)).await;
        // WHEN the rule is there and the state does not show it
        let answer = bare(&world, &body("r-2", "ALLOW_IP", GROUP_A)).await;
        assert_eq!(answer["changed"], true);
        assert!(world.rules.borrow()[GROUP_A].is_empty());
    }

    #[tokio::test]
    async fn a_dry_run_writes_nothing() {
        let world = World::default();
        let mut request = body("r-1", "BLOCK_IP", GROUP_A);
        request["dry_run"] = json!(true);
        let answer = bare(&world, &request).await;
        assert_eq!(answer["status"], "simulated");
        assert_eq!(answer["changed"], false);
        assert_eq!(
            answer["details"]["planned_steps"],
            json!(["authorize ingress tcp 0-65535 from 203.0.113.7/32 on sg-0000000a"])
        );
        assert_eq!(world.writes(), [""; 0]);

        world
            .errors
            .borrow_mut()
            .push(("ask", error(ErrorKind::AccessDenied, "UnauthorizedOperation")));
        let answer = bare(&world, &request).await;
        assert_eq!(answer["status"], "failed");
        assert_eq!(answer["error"]["code"], "access_denied");
    }

    #[tokio::test]
    async fn refusals_reach_no_write() {
        let attached = World {
            interfaces: vec!["eni-1".to_owned()],
            ..World::default()
        };
        let untagged = World {
            untagged: true,
            ..World::default()
        };
        for (world, code) in [(attached, "group_in_use"), (untagged, "group_not_enrolled")] {
            let answer = bare(&world, &body("r-1", "BLOCK_IP", GROUP_A)).await;
            assert_eq!(answer["status"], "rejected");
            assert_eq!(answer["error"]["code"], code);
            assert_eq!(answer["error"]["retryable"], false);
            assert_eq!(world.writes(), [""; 0]);
        }
    }

    #[tokio::test]
    async fn what_the_policy_refuses_reaches_no_call() {
        let world = World::default();
        let mut protected = body("r-1", "BLOCK_IP", GROUP_A);
        protected["target"] = json!("10.0.0.1");
        let mut role = body("r-2", "ALLOW_IP", GROUP_A);
        role["params"]["aws_assume_role_arn"] = json!("arn:aws:iam::111122223333:role/admin");
        for (request, code) in [(protected, "protected_target"), (role, "role_not_allowed")] {
            let answer = bare(&world, &request).await;
            assert_eq!(answer["status"], "rejected");
            assert_eq!(answer["error"]["code"], code);
        }
        assert_eq!(*world.calls.borrow(), ["send r-1", "send r-2"]);
    }

    #[tokio::test]
    async fn a_check_that_cannot_be_made_changes_nothing() {
        for (kind, status) in [(ErrorKind::AccessDenied, "failed"), (ErrorKind::Throttled, "failed")] {
            let world = World {
                errors: RefCell::new(vec![("state", error(kind, "Code"))]),
                ..World::default()
            };
            let answer = bare(&world, &body("r-1", "BLOCK_IP", GROUP_A)).await;
            assert_eq!(answer["status"], status);
            assert_eq!(answer["error"]["retryable"], kind == ErrorKind::Throttled);
            assert_eq!(world.writes(), [""; 0]);
        }
    }

    #[tokio::test]
    async fn the_role_and_region_of_the_request_are_used() {
        let world = World::default();
        let mut request = body("r-1", "BLOCK_IP", GROUP_A);
        request["params"]["aws_region"] = json!("eu-west-1");
        request["params"]["aws_assume_role_arn"] = json!("arn:aws:iam::444455556666:role/aisoc");
        let answer = bare(&world, &request).await;
        assert_eq!(answer["details"]["region"], "eu-west-1");
        assert_eq!(
            world.calls.borrow()[0],
            "groups arn:aws:iam::444455556666:role/aisoc eu-west-1"
        );
    }

    #[tokio::test]
    async fn credentials_that_ran_out_are_forgotten_and_the_message_goes_back() {
        let world = World {
            errors: RefCell::new(vec![("state", error(ErrorKind::ExpiredCredentials, "RequestExpired"))]),
            ..World::default()
        };
        let mut request = body("r-1", "BLOCK_IP", GROUP_A);
        request["params"]["aws_assume_role_arn"] = json!("arn:aws:iam::444455556666:role/aisoc");
        let failed = batch(&world, vec![record("1", GROUP_A, &request.to_string())]).await;
        assert_eq!(failed, ["m-1"]);
        assert_eq!(*world.forgotten.borrow(), ["arn:aws:iam::444455556666:role/aisoc"]);
        assert!(world.sent.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_does_not_show_is_not_reported_as_verified() {
        let world = World {
            stale: true,
            ..World::default()
        };
        let answer = bare(&world, &body("r-1", "BLOCK_IP", GROUP_A)).await;
        assert_eq!(answer["status"], "succeeded");
        assert_eq!(answer["changed"], true);
        assert_eq!(answer["verified"], false);
        assert!(
            answer["summary"]
                .as_str()
                .unwrap()
                .ends_with("a fresh look did not show it so")
        );
        // One for the state, the others after the change.
        let looks = world
            .calls
            .borrow()
            .iter()
            .filter(|call| call.starts_with("rules"))
            .count();
        assert_eq!(looks, 5);
    }

    #[tokio::test]
    async fn once_a_message_fails_the_later_ones_of_its_group_are_handed_back() {
        let world = World {
            errors: RefCell::new(vec![("authorize", error(ErrorKind::Throttled, "T"))]),
            ..World::default()
        };
        let failed = batch(
            &world,
            vec![
                record("1", GROUP_A, &body("r-1", "BLOCK_IP", GROUP_A).to_string()),
                record("2", GROUP_B, &body("r-2", "BLOCK_IP", GROUP_B).to_string()),
                record("3", GROUP_A, &body("r-3", "ALLOW_IP", GROUP_A).to_string()),
                record("4", GROUP_B, &body("r-4", "ALLOW_IP", GROUP_B).to_string()),
            ],
        )
        .await;
        assert_eq!(failed, ["m-1", "m-3"]);
        let answered: Vec<_> = world
            .sent
            .borrow()
            .iter()
            .map(|result| result["request_id"].clone())
            .collect();
        assert_eq!(answered, ["r-2", "r-4"]);
        assert!(world.rules.borrow().get(GROUP_B).is_some_and(BTreeMap::is_empty));
    }

    #[tokio::test]
    async fn without_message_groups_each_message_stands_alone() {
        let world = World {
            errors: RefCell::new(vec![("authorize", error(ErrorKind::Throttled, "T"))]),
            ..World::default()
        };
        let records = ["1", "2"]
            .map(|id| json!({"messageId": format!("m-{id}"), "body": body(id, "BLOCK_IP", GROUP_A).to_string()}));
        assert_eq!(batch(&world, records.to_vec()).await, ["m-1"]);
    }

    #[tokio::test]
    async fn a_bad_message_is_answered_once_and_costs_no_other() {
        let world = World::default();
        let failed = batch(
            &world,
            vec![
                record("1", GROUP_A, "not json"),
                record("2", GROUP_A, "null"),
                record("3", GROUP_A, &body("r-3", "BLOCK_IP", GROUP_A).to_string()),
            ],
        )
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

    #[tokio::test]
    async fn a_result_that_cannot_be_sent_hands_its_message_back() {
        let world = World {
            errors: RefCell::new(vec![("send", error(ErrorKind::AccessDenied, "AccessDenied"))]),
            ..World::default()
        };
        let message = record("1", GROUP_A, &body("r-1", "BLOCK_IP", GROUP_A).to_string());
        assert_eq!(batch(&world, vec![message.clone()]).await, ["m-1"]);
        assert!(batch(&world, vec![message]).await.is_empty());
        assert_eq!(world.sent.borrow()[0]["status"], "succeeded");
    }

    #[tokio::test]
    async fn what_fails_for_good_is_answered_and_acknowledged() {
        let world = World {
            errors: RefCell::new(vec![(
                "authorize",
                error(ErrorKind::Rejected, "RulesPerSecurityGroupLimitExceeded"),
            )]),
            ..World::default()
        };
        let message = record("1", GROUP_A, &body("r-1", "BLOCK_IP", GROUP_A).to_string());
        assert!(batch(&world, vec![message]).await.is_empty());
        assert_eq!(world.sent.borrow()[0]["status"], "failed");
        assert_eq!(world.sent.borrow()[0]["error"]["code"], "rule_limit_reached");
    }

    #[tokio::test]
    async fn an_undecided_bare_request_is_answered_as_retryable_and_sent_nowhere() {
        let world = World {
            errors: RefCell::new(vec![("groups", error(ErrorKind::Unreachable, "x"))]),
            ..World::default()
        };
        let answer = bare(&world, &body("r-1", "BLOCK_IP", GROUP_A)).await;
        assert_eq!(answer["status"], serde_json::to_value(Status::Failed).unwrap());
        assert_eq!(answer["error"]["retryable"], true);
        assert!(world.sent.borrow().is_empty());
    }

    #[tokio::test]
    async fn an_event_that_cannot_be_read_fails_before_anything_is_done() {
        for input in [
            r#"{"Records":7}"#,
            r#"{"Records":[{"body":"{}"}]}"#,
            r#"{"Records":[{"messageId":5}]}"#,
        ] {
            let world = World::default();
            let failure = run(&world, input).await.unwrap_err();
            assert_eq!(failure.error_type, "InvalidInput", "{input}");
            assert!(world.calls.borrow().is_empty());
        }
    }

    #[tokio::test]
    async fn an_array_is_no_sqs_event() {
        let answer = bare(&World::default(), &json!([{"messageId": "m", "body": "{}"}])).await;
        assert_eq!(answer["status"], "rejected");
    }

    #[tokio::test]
    async fn an_empty_batch_is_no_failure() {
        assert!(batch(&World::default(), vec![]).await.is_empty());
    }
}
