//! A verdict, written back to a finding: looked up, compared, changed, and read back.

use std::time::Duration;

use actions::result::{FindingDetails, Flags};
use actions::writeback::{Finding, FindingKey, Policy, Product, Request, Update, not_found, the_one};
use actions::{ErrorCode, ErrorDetail, Outcome, Refusal};
use aws_support::credentials::{self, GET_SECRET_VALUE, Refresh};
use aws_support::{AwsError, Clock, Deadline, ErrorKind};
use aws_text::Region;

use crate::block::request::Verdict;
use crate::ports::{Findings, Updated};

/// Carries out requests about findings.
#[derive(Debug)]
pub struct WriteBack<F, C> {
    /// The region of a request that names none
    pub region: Region,
    pub policy: Policy,
    pub findings: F,
    pub clock: C,
}

/// Between reads that do not show the change yet. Security Hub may take minutes ("`BatchUpdateFindings`" in its API
/// reference), which no request waits for.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// Left of the invocation's time when the change is read back: what is written is to be told.
const FOR_THE_RESULT: Duration = Duration::from_secs(10);

/// Why a request is not carried out.
enum Stop {
    Refused(Refusal),
    Failed(AwsError),
}

impl From<AwsError> for Stop {
    fn from(error: AwsError) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl<F: Findings, C: Clock> WriteBack<F, C> {
    /// Carries out one request.
    pub async fn execute(&self, request: &Request, deadline: &Deadline) -> Verdict {
        let region = request.region.as_ref().unwrap_or(&self.region);
        let mut refresh = Refresh::default();
        loop {
            let mut details = FindingDetails {
                finding_id: request.finding.id.clone(),
                region: Some(region.to_string()),
                writeback_action: request.verdict.action().to_owned(),
                ..FindingDetails::default()
            };
            match self.carry_out(request, region, deadline, &mut details).await {
                Ok(outcome) => return decided(outcome),
                Err(Stop::Refused(refusal)) => {
                    return decided(Outcome::of_refusal(request, refusal, details, self.clock.stamp()));
                }
                Err(Stop::Failed(error)) if refresh.may_help(&error) => {
                    tracing::info!(request_id = request.request_id, %error, "the credentials are renewed");
                    self.findings.forget().await;
                }
                Err(Stop::Failed(error)) => {
                    let error = detail(&error);
                    let outcome =
                        Outcome::of_failure(request, error.clone(), Flags::default(), details, self.clock.stamp());
                    return if error.retryable {
                        Verdict::Undecided {
                            so_far: Box::new(outcome),
                            error,
                        }
                    } else {
                        decided(outcome)
                    };
                }
            }
        }
    }

    async fn carry_out(
        &self,
        request: &Request,
        region: &Region,
        deadline: &Deadline,
        details: &mut FindingDetails,
    ) -> Result<Outcome, Stop> {
        self.policy.check(region)?;
        let found = self.findings.find(region, &request.finding, deadline).await?;
        let finding = the_one(found, &request.finding, region)?;
        note(details, request, &finding);
        let update = Update::of(request, &finding);
        let steps = update.steps(&finding);
        if request.dry_run {
            let details = std::mem::take(details);
            return Ok(Outcome::of_dry_run(
                request,
                steps,
                None,
                false,
                details,
                self.clock.stamp(),
            ));
        }
        let id = &request.finding.id;
        if steps.is_empty() {
            details.written = true;
            let summary = format!("was already {}: finding {id}", update.told());
            return Ok(self.success(request, false, true, summary, details));
        }
        let key = FindingKey {
            id: id.clone(),
            product: match &request.finding.product {
                Product::Asff(_) => Product::Asff(finding.product_arn.clone()),
                Product::Ocsf(uid) => Product::Ocsf(uid.clone()),
            },
        };
        if self.findings.update(region, &key, &update, deadline).await? == Updated::NoSuchFinding {
            return Err(not_found(&key, region).into());
        }
        let verified = self.is_shown(region, &key, &update, deadline).await;
        details.written = true;
        match key.product {
            Product::Ocsf(_) => details.status_id = Some(update.verdict.status_id()),
            Product::Asff(_) => {
                details.workflow_status = Some(update.verdict.workflow_status().to_owned());
                let state = update.verdict.verification_state().map(str::to_owned);
                details.verification_state = state.or(details.verification_state.take());
            }
        }
        let summary = format!("set to {}: finding {id}", update.told());
        Ok(self.success(request, true, verified, summary, details))
    }

    fn success(
        &self,
        request: &Request,
        changed: bool,
        verified: bool,
        summary: String,
        details: &mut FindingDetails,
    ) -> Outcome {
        let flags = Flags {
            changed,
            enforced: false,
            verified,
        };
        Outcome::of_success(request, flags, summary, std::mem::take(details), self.clock.stamp())
    }

    /// Whether Security Hub shows the change within some seconds. What is written is written, whether or not it can be
    /// read back.
    async fn is_shown(&self, region: &Region, key: &FindingKey, update: &Update, deadline: &Deadline) -> bool {
        let deadline = &Deadline::after(deadline.left().saturating_sub(FOR_THE_RESULT));
        for pause in std::iter::once(Duration::ZERO).chain(PAUSES) {
            if deadline.bound(tokio::time::sleep(pause)).await.is_err() {
                return false;
            }
            match self.findings.find(region, key, deadline).await {
                Ok(found) if found.iter().any(|finding| update.steps(finding).is_empty()) => return true,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(finding_id = key.id, %error, "the change could not be read back");
                    return false;
                }
            }
        }
        false
    }
}

fn decided(outcome: Outcome) -> Verdict {
    Verdict::Decided {
        outcome: Box::new(outcome),
        close: None,
    }
}

fn note(details: &mut FindingDetails, request: &Request, finding: &Finding) {
    details.product_arn.clone_from(&finding.product_arn);
    details.account_id.clone_from(&finding.account_id);
    details.workflow_status.clone_from(&finding.workflow_status);
    details.verification_state.clone_from(&finding.verification_state);
    details.status_id = finding.status_id;
    if let Product::Ocsf(uid) = &request.finding.product {
        details.metadata_uid = Some(uid.clone());
    }
}

/// What happened and what to do about it.
fn detail(error: &AwsError) -> ErrorDetail {
    const NOTHING: &str = "nothing: the request is tried again";
    let (code, remedy) = match error.kind {
        ErrorKind::Throttled => (ErrorCode::Throttled, NOTHING.to_owned()),
        ErrorKind::Unreachable => (
            ErrorCode::Unreachable,
            format!("{NOTHING}; if it lasts, check that the function's network reaches the service"),
        ),
        ErrorKind::ExpiredCredentials => (ErrorCode::ExpiredCredentials, NOTHING.to_owned()),
        ErrorKind::OutOfTime => (ErrorCode::OutOfTime, NOTHING.to_owned()),
        ErrorKind::CredentialsRefused | ErrorKind::AccessDenied if error.action == GET_SECRET_VALUE => (
            ErrorCode::AccessDenied,
            credentials::remedy("the containment function's role"),
        ),
        ErrorKind::CredentialsRefused | ErrorKind::AccessDenied => (
            ErrorCode::AccessDenied,
            format!(
                "allow {} to the containment function's role (to the user of the key, where \
                 STATIC_CREDENTIALS_SECRET_ARN is set); the template does so with EnableWriteBack=true",
                error.action
            ),
        ),
        ErrorKind::Rejected if error.has_code("InvalidAccessException") => (
            ErrorCode::AwsRejected,
            "enable Security Hub in that account and region, or correct params.aws_region".to_owned(),
        ),
        ErrorKind::Rejected => (
            ErrorCode::AwsRejected,
            "look the code up in the Security Hub API reference, and report it to the connector's maintainers if the \
             request is as documented"
                .to_owned(),
        ),
    };
    ErrorDetail {
        code,
        message: error.to_string(),
        remedy,
        retryable: error.is_retryable(),
    }
}

#[cfg(test)]
mod tests {
    use aws_support::ErrorKind;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{When, World, aws_error};

    const ID: &str = "arn:aws:guardduty:us-east-1:111122223333:detector/d0/finding/f0";
    const GUARDDUTY: &str = "arn:aws:securityhub:us-east-1::product/aws/guardduty";
    const OTHER: &str = "arn:aws:securityhub:us-east-1::product/aws/inspector";

    fn request(capability: &str, params: &Value) -> Value {
        json!({"request_id": "r-1", "capability": capability, "target": ID, "params": params, "requested_by": "ana"})
    }

    fn verdict(disposition: &str) -> Value {
        request(
            "update_alert_disposition",
            &json!({"disposition": disposition, "aisoc_alert_id": "a-1"}),
        )
    }

    fn finding(product: &str) -> Finding {
        Finding {
            product_arn: Some(product.to_owned()),
            account_id: Some("111122223333".to_owned()),
            workflow_status: Some("NEW".to_owned()),
            fields: [("theirs".to_owned(), "kept".to_owned())].into(),
            ..Finding::default()
        }
    }

    fn world(findings: &[Finding]) -> World {
        let world = World::default();
        world.findings.borrow_mut().insert(ID.to_owned(), findings.to_vec());
        world
    }

    fn stands(world: &World) -> Finding {
        world.findings.borrow()[ID][0].clone()
    }

    fn code(answer: &Value) -> &str {
        answer["details"]["error"]["code"].as_str().unwrap_or("none")
    }

    #[tokio::test(start_paused = true)]
    async fn a_verdict_is_written_verified_and_answered() {
        let world = world(&[finding(GUARDDUTY)]);
        let answer = world.bare(&verdict("False Positive")).await;
        let expected = json!({
            "request_id": "r-1", "capability": "update_alert_disposition", "vendor_id": "aws_security_hub", "target": ID,
            "status": "succeeded", "changed": true, "enforced": false, "verified": true, "error": null,
            "summary": format!("set to RESOLVED, FALSE_POSITIVE: finding {ID}"),
            "details": {"finding_id": ID, "product_arn": GUARDDUTY, "metadata_uid": null, "account_id": "111122223333",
                        "region": "us-east-1", "workflow_status": "RESOLVED", "verification_state": "FALSE_POSITIVE",
                        "status_id": null, "writeback_action": "close", "written": true},
        });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&answer[name], value, "{name}");
        }
        let written = stands(&world);
        assert_eq!(
            written.note.as_deref(),
            Some("AiSOC: false_positive, by ana, alert a-1")
        );
        assert_eq!(written.updated_by.as_deref(), Some("aisoc"));
        let fields: Vec<&str> = written.fields.values().map(String::as_str).collect();
        assert_eq!(fields, ["a-1", "false_positive", "kept"]);
        assert_eq!(*world.sent.borrow(), [answer]);
        // WHEN it is delivered again
        let again = world.deliver(&verdict("False Positive"), 2).await.unwrap();
        assert_eq!(
            (&again["status"], &again["changed"], &again["verified"]),
            (&json!("succeeded"), &json!(false), &json!(true))
        );
        assert_eq!(world.writes().len(), 1);
        assert_eq!(again["details"]["written"], true);
    }

    #[tokio::test(start_paused = true)]
    async fn each_capability_leaves_the_finding_as_the_table_says() {
        for (request, status, state) in [
            (verdict("true_positive"), "NOTIFIED", Some("TRUE_POSITIVE")),
            (verdict("escalate"), "NOTIFIED", Some("TRUE_POSITIVE")),
            (verdict("benign"), "RESOLVED", Some("BENIGN_POSITIVE")),
            (request("ack_alert", &json!({})), "NOTIFIED", None),
            (request("SUPPRESS_ALERT", &json!({})), "SUPPRESSED", None),
        ] {
            let world = world(&[finding(GUARDDUTY)]);
            let answer = world.bare(&request).await;
            assert_eq!(answer["status"], "succeeded", "{answer}");
            let written = stands(&world);
            assert_eq!(written.workflow_status.as_deref(), Some(status));
            assert_eq!(written.verification_state.as_deref(), state);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dry_run_names_the_steps_and_writes_nothing() {
        let world = world(&[finding(GUARDDUTY)]);
        let mut request = verdict("benign");
        request["dry_run"] = json!(true);
        let answer = world.bare(&request).await;
        assert_eq!(
            (&answer["status"], &answer["changed"]),
            (&json!("simulated"), &json!(false))
        );
        let steps = answer["details"]["planned_steps"].as_array().unwrap();
        assert_eq!(steps[0], "set Workflow.Status to RESOLVED");
        assert_eq!(answer["details"]["written"], false);
        assert_eq!(world.writes(), [""; 0]);
        // WHEN it is so already
        world.bare(&verdict("benign")).await;
        assert_eq!(world.bare(&request).await["details"]["planned_steps"], json!([]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_reaches_no_write() {
        let off = world(&[finding(GUARDDUTY)]);
        off.writes_back.set(false);
        let mut elsewhere = verdict("benign");
        elsewhere["params"]["aws_region"] = json!("eu-west-1");
        let mut of_other = verdict("benign");
        of_other["params"]["aws_product_arn"] = json!(OTHER);
        for (world, request, status, expected) in [
            (off, verdict("benign"), "blocked", "write_back_not_enabled"),
            (world(&[finding(GUARDDUTY)]), elsewhere, "blocked", "region_not_allowed"),
            (world(&[]), verdict("benign"), "failed", "finding_not_found"),
            (world(&[finding(GUARDDUTY)]), of_other, "failed", "finding_not_found"),
            (
                world(&[finding(GUARDDUTY), finding(OTHER)]),
                verdict("benign"),
                "failed",
                "invalid_request",
            ),
            (
                world(&[finding(GUARDDUTY)]),
                verdict("needs_review"),
                "failed",
                "invalid_request",
            ),
        ] {
            let answer = world.bare(&request).await;
            assert_eq!(
                (answer["status"].as_str(), code(&answer)),
                (Some(status), expected),
                "{answer}"
            );
            assert_eq!((&answer["changed"], answer["error"].is_string()), (&json!(false), true));
            assert_eq!(world.writes(), [""; 0]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_products_with_one_id_the_one_named_is_changed() {
        let world = world(&[finding(OTHER), finding(GUARDDUTY)]);
        let mut request = verdict("benign");
        request["params"]["aws_product_arn"] = json!(GUARDDUTY);
        assert_eq!(world.bare(&request).await["verified"], true);
        let findings = world.findings.borrow();
        let statuses: Vec<_> = findings[ID]
            .iter()
            .map(|finding| finding.workflow_status.as_deref())
            .collect();
        assert_eq!(statuses, [Some("NEW"), Some("RESOLVED")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_finding_that_is_deleted_between_lookup_and_write_is_not_found() {
        let world = world(&[finding(GUARDDUTY)]);
        world.before("update", |world| world.findings.borrow_mut().clear());
        let answer = world.bare(&verdict("benign")).await;
        assert_eq!(
            (&answer["status"], code(&answer)),
            (&json!("failed"), "finding_not_found")
        );
        assert_eq!(
            (&answer["changed"], &answer["details"]["written"]),
            (&json!(false), &json!(false))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_security_hub_shows_late_is_said_to_be_unverified() {
        // It shows it at the last read.
        let slow = world(&[finding(GUARDDUTY)]);
        *slow.stale_findings.borrow_mut() = vec![vec![finding(GUARDDUTY)]; 1 + PAUSES.len()];
        assert_eq!(slow.bare(&verdict("benign")).await["verified"], true);
        let slower = world(&[finding(GUARDDUTY)]);
        *slower.stale_findings.borrow_mut() = vec![vec![finding(GUARDDUTY)]; 2 + PAUSES.len()];
        let unreadable = world(&[finding(GUARDDUTY)]);
        unreadable.before("update", |world| {
            world.fail("find", ErrorKind::Throttled, "TooManyRequestsException");
        });
        for world in [slower, unreadable] {
            let answer = world.bare(&verdict("benign")).await;
            assert_eq!(
                (&answer["status"], &answer["changed"], &answer["verified"]),
                (&json!("succeeded"), &json!(true), &json!(false))
            );
            let summary = answer["summary"].as_str().unwrap();
            assert!(summary.contains("Security Hub does not show it yet"), "{summary}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reading_back_leaves_time_for_the_result() {
        let world = world(&[finding(GUARDDUTY)]);
        *world.stale_findings.borrow_mut() = vec![vec![finding(GUARDDUTY)]; 9];
        let started = tokio::time::Instant::now();
        let deadline = Deadline::after(FOR_THE_RESULT + Duration::from_secs(1));
        let request = verdict("benign").to_string();
        let answer = world.containment().handle(&request, "id", &deadline).await.unwrap();
        assert_eq!((&answer["changed"], &answer["verified"]), (&json!(true), &json!(false)));
        assert_eq!(world.sent.borrow().len(), 1);
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_returns_to_the_queue_and_is_done_once_it_has() {
        for (operation, kind) in [
            ("find", ErrorKind::Throttled),
            ("update", ErrorKind::Throttled),
            ("update", ErrorKind::Unreachable),
        ] {
            let world = world(&[finding(GUARDDUTY)]);
            world.fail(operation, kind, "Some");
            assert_eq!(world.deliver(&verdict("benign"), 1).await, None);
            assert_eq!(world.retried.borrow().len(), 1);
            assert_eq!(world.deliver(&verdict("benign"), 2).await.unwrap()["changed"], true);
        }
        // The answer is lost, and the change made: the next delivery finds it so.
        let world = world(&[finding(GUARDDUTY)]);
        world.strike("update", aws_error(ErrorKind::Unreachable, "x"), When::After);
        assert_eq!(world.deliver(&verdict("benign"), 1).await, None);
        let again = world.deliver(&verdict("benign"), 2).await.unwrap();
        assert_eq!(
            (&again["status"], &again["changed"]),
            (&json!("succeeded"), &json!(false))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_denial_is_final_once_fresh_credentials_were_denied_too() {
        let denied = || AwsError {
            action: "securityhub:BatchUpdateFindings",
            ..aws_error(ErrorKind::AccessDenied, "AccessDeniedException")
        };
        let world = world(&[finding(GUARDDUTY)]);
        world.strike("update", denied(), When::Before);
        assert_eq!(world.bare(&verdict("benign")).await["status"], "succeeded");
        assert_eq!(*world.forgotten.borrow(), 1);
        for _ in 0..2 {
            world.strike("update", denied(), When::Before);
        }
        let answer = world.bare(&verdict("true_positive")).await;
        assert_eq!((&answer["status"], code(&answer)), (&json!("failed"), "access_denied"));
        let remedy = answer["details"]["error"]["remedy"].as_str().unwrap();
        assert!(
            remedy.starts_with("allow securityhub:BatchUpdateFindings to"),
            "{remedy}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_finding_of_v2_gets_a_status_and_a_comment() {
        let world = world(&[Finding {
            status_id: Some(1),
            ..Finding::default()
        }]);
        let mut request = verdict("escalate");
        request["params"]["aws_metadata_uid"] = json!("uid-1");
        let answer = world.bare(&request).await;
        assert_eq!(
            (&answer["status"], &answer["verified"]),
            (&json!("succeeded"), &json!(true))
        );
        assert_eq!(
            (
                &answer["details"]["status_id"],
                &answer["details"]["metadata_uid"],
                &answer["details"]["workflow_status"]
            ),
            (&json!(2), &json!("uid-1"), &json!(null))
        );
        assert_eq!(
            stands(&world).note.as_deref(),
            Some("AiSOC: escalate, by ana, alert a-1")
        );
    }

    #[test]
    fn every_kind_of_failure_has_its_code_and_remedy() {
        for (kind, aws_code, code, part) in [
            (
                ErrorKind::Throttled,
                "TooManyRequestsException",
                ErrorCode::Throttled,
                "tried again",
            ),
            (
                ErrorKind::Unreachable,
                "InternalException",
                ErrorCode::Unreachable,
                "network",
            ),
            (
                ErrorKind::ExpiredCredentials,
                "ExpiredToken",
                ErrorCode::ExpiredCredentials,
                "tried again",
            ),
            (ErrorKind::OutOfTime, "x", ErrorCode::OutOfTime, "tried again"),
            (
                ErrorKind::AccessDenied,
                "AccessDeniedException",
                ErrorCode::AccessDenied,
                "EnableWriteBack",
            ),
            (
                ErrorKind::Rejected,
                "InvalidAccessException",
                ErrorCode::AwsRejected,
                "enable Security Hub",
            ),
            (
                ErrorKind::Rejected,
                "InvalidInputException",
                ErrorCode::AwsRejected,
                "API reference",
            ),
        ] {
            let detail = detail(&aws_error(kind, aws_code));
            assert_eq!(detail.code, code);
            assert!(detail.remedy.contains(part), "{}", detail.remedy);
        }
        let secret = AwsError::new(GET_SECRET_VALUE, ErrorKind::AccessDenied, "no".to_owned());
        assert!(detail(&secret).remedy.contains("STATIC_CREDENTIALS_SECRET_ARN"));
    }
}
