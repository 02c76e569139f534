//! What is answered to a request.

use serde::Serialize;

use crate::plan::Plan;
use crate::request::{Action, Rejection, Request};
use crate::{Refusal, RefusalCode};

/// The result of a request: to the results queue, to the log, and to whoever called the function directly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The request's
    pub request_id: String,
    /// The request's, as given where it could not be read
    pub action: Option<String>,
    /// The request's as a CIDR block, as given where it could not be read
    pub target: Option<String>,
    /// How it ended
    pub status: Status,
    /// The request changed something
    pub changed: bool,
    /// A network ACL denies the target. The security group's rule alone stops nothing
    pub enforced: bool,
    /// A fresh look showed the state that was asked for
    pub verified: bool,
    /// For a person
    pub summary: String,
    /// What was looked at and changed
    pub details: Details,
    /// What went wrong
    pub error: Option<ErrorDetail>,
    /// When the result was made, RFC 3339 in UTC
    pub completed_at: String,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is as asked
    Succeeded,
    /// It could not be done
    Failed,
    /// It was not tried: the request is wrong or not allowed
    Rejected,
    /// A dry run: it could have been done
    Simulated,
}

/// What was looked at and changed. What is not known is null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Details {
    /// The block list
    pub security_group_id: Option<String>,
    /// The rule on it
    pub security_group_rule_id: Option<String>,
    /// The group's VPC
    pub vpc_id: Option<String>,
    /// The group's account
    pub account_id: Option<String>,
    /// The group's region
    pub region: Option<String>,
    /// Entries of network ACLs
    pub network_acl_entries: Vec<NetworkAclEntry>,
    /// When the block ends by itself
    pub expires_at: Option<String>,
    /// Of a dry run: the changes that would have been made
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_steps: Option<Vec<String>>,
}

/// An entry of a network ACL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkAclEntry {
    /// The network ACL
    pub network_acl_id: String,
    /// The entry's number
    pub rule_number: u16,
    /// The request added or removed it
    pub changed: bool,
}

/// What went wrong and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorDetail {
    /// For programs
    pub code: String,
    /// What happened
    pub message: String,
    /// What to do
    pub remedy: String,
    /// The same request may succeed later without anyone changing anything
    pub retryable: bool,
}

impl From<Refusal> for ErrorDetail {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: refusal.code.as_str().to_owned(),
            message: refusal.message,
            remedy: refusal.remedy,
            retryable: false,
        }
    }
}

impl Outcome {
    /// Of a body that is no request.
    #[must_use]
    pub fn of_rejection(rejection: Rejection, completed_at: String) -> Self {
        Self {
            request_id: rejection.request_id,
            action: rejection.action,
            target: rejection.target,
            status: Status::Rejected,
            changed: false,
            enforced: false,
            verified: false,
            summary: rejected_summary(&rejection.refusal),
            details: Details::default(),
            error: Some(rejection.refusal.into()),
            completed_at,
        }
    }

    /// Of a request that is refused.
    #[must_use]
    pub fn of_refusal(request: &Request, refusal: Refusal, details: Details, completed_at: String) -> Self {
        Self {
            status: Status::Rejected,
            summary: rejected_summary(&refusal),
            error: Some(refusal.into()),
            ..Self::base(request, details, completed_at)
        }
    }

    /// Of a request that could not be carried out.
    #[must_use]
    pub fn of_failure(request: &Request, error: ErrorDetail, details: Details, completed_at: String) -> Self {
        Self {
            status: Status::Failed,
            summary: if error.retryable {
                format!("not known to be done: {}", error.message)
            } else {
                format!("not done: {}", error.message)
            },
            error: Some(error),
            ..Self::base(request, details, completed_at)
        }
    }

    /// Of a dry run that would have gone through.
    #[must_use]
    pub fn of_dry_run(request: &Request, plan: &Plan, mut details: Details, completed_at: String) -> Self {
        let steps: Vec<String> = if plan.is_already_so {
            Vec::new()
        } else {
            plan.steps.iter().map(ToString::to_string).collect()
        };
        let summary = if steps.is_empty() {
            "dry run: there is nothing to change".to_owned()
        } else {
            format!("dry run, nothing changed; would {}", steps.join(", then "))
        };
        details.planned_steps = Some(steps);
        Self {
            status: Status::Simulated,
            summary,
            ..Self::base(request, details, completed_at)
        }
    }

    /// Of a request that was carried out.
    #[must_use]
    pub fn of_success(
        request: &Request,
        changed: bool,
        verified: bool,
        details: Details,
        completed_at: String,
    ) -> Self {
        let (rule, group) = (&request.rule, &request.group);
        let mut summary = match (request.action, changed) {
            (Action::BlockIp, true) => format!("recorded on block list {group}: {rule}"),
            (Action::BlockIp, false) => format!("was on block list {group} already: {rule}"),
            (Action::AllowIp, true) => format!("taken off block list {group}: {rule}"),
            (Action::AllowIp, false) => format!("was not on block list {group}: {rule}"),
        };
        if request.action == Action::BlockIp {
            summary.push_str("; this is the record, which by itself stops no traffic");
        }
        if !verified {
            summary.push_str("; a fresh look did not show it so");
        }
        Self {
            status: Status::Succeeded,
            changed,
            verified,
            summary,
            ..Self::base(request, details, completed_at)
        }
    }

    fn base(request: &Request, details: Details, completed_at: String) -> Self {
        Self {
            request_id: request.request_id.clone(),
            action: Some(request.action.as_str().to_owned()),
            target: Some(request.rule.source().to_string()),
            status: Status::Failed,
            changed: false,
            enforced: false,
            verified: false,
            summary: String::new(),
            details,
            error: None,
            completed_at,
        }
    }
}

fn rejected_summary(refusal: &Refusal) -> String {
    match refusal.code {
        RefusalCode::InvalidRequest => {
            format!("rejected, nothing was looked at: {}", refusal.message)
        }
        RefusalCode::ProtectedTarget
        | RefusalCode::RoleNotAllowed
        | RefusalCode::ExpiryNotConfigured
        | RefusalCode::GroupNotEnrolled
        | RefusalCode::GroupInUse => format!("rejected, nothing changed: {}", refusal.message),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-11-23T10:00:00.000Z";

    fn request(action: &str) -> Request {
        let body = json!({"request_id": "r-1", "action": action, "target": "203.0.113.7",
                          "params": {"aws_security_group_id": "sg-0123abcd"}});
        Request::read(&body.to_string(), "m").unwrap()
    }

    #[test]
    fn every_member_is_there_whatever_happened() {
        let rejection = *Request::read("null", "message-1").unwrap_err();
        assert_eq!(
            serde_json::to_value(Outcome::of_rejection(rejection, NOW.to_owned())).unwrap(),
            json!({
                "request_id": "message-1", "action": null, "target": null, "status": "rejected", "changed": false,
                "enforced": false, "verified": false,
                "summary": "rejected, nothing was looked at: the body must be a JSON object, not null",
                "details": {"security_group_id": null, "security_group_rule_id": null, "vpc_id": null, "account_id": null,
                            "region": null, "network_acl_entries": [], "expires_at": null},
                "error": {"code": "invalid_request", "message": "the body must be a JSON object, not null",
                          "remedy": "correct what is named and send the request again", "retryable": false},
                "completed_at": NOW,
            })
        );
    }

    #[test]
    fn a_record_alone_is_never_reported_as_a_block() {
        for changed in [true, false] {
            let outcome = Outcome::of_success(&request("BLOCK_IP"), changed, true, Details::default(), NOW.to_owned());
            assert!(!outcome.enforced);
            assert!(
                outcome.summary.contains("by itself stops no traffic"),
                "{}",
                outcome.summary
            );
        }
    }

    #[test]
    fn a_dry_run_shows_the_steps() {
        let request = request("ALLOW_IP");
        let plan = Plan {
            steps: vec![crate::Step::RevokeIngress {
                group: request.group.clone(),
                rule: request.rule,
            }],
            is_already_so: false,
        };
        let outcome = Outcome::of_dry_run(&request, &plan, Details::default(), NOW.to_owned());
        assert_eq!(outcome.status, Status::Simulated);
        assert_eq!(
            outcome.details.planned_steps.unwrap(),
            ["revoke ingress tcp 0-65535 from 203.0.113.7/32 on sg-0123abcd"]
        );
        assert!(!outcome.changed);
    }
}
