//! What is answered to a request.

use aws_text::{NetworkAclId, SecurityGroupId};
use serde::Serialize;

use crate::plan::{Assessment, DenyEntry, Plan, State};
use crate::policy::{Enforcement, Policy};
use crate::request::{Action, Rejection, Request};
use crate::{Refusal, RefusalCode};

/// The result of a request: to the results queue, to the log, and to whoever called the function directly.
/// Also of an audit, one for each group that lost rules: `action` is then `AUDIT`.
///
/// A later version may add members: readers should pass over those they do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The request's id, or where it has none the message's or the invocation's
    pub request_id: String,
    /// The request's action, as given where it could not be read
    pub action: Option<String>,
    /// The request's target as a CIDR block, as given where it could not be read
    pub target: Option<String>,
    /// How it ended
    pub status: Status,
    /// The request changed something
    pub changed: bool,
    /// As read back: in each network ACL concerned a deny entry stands before every allow that overlaps it. Of an
    /// `ALLOW_IP`: some deny entry still stands. The security group's rule alone stops nothing
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
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub completed_at: String,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

impl Status {
    /// The name used in results.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Succeeded => "succeeded",
            Status::Failed => "failed",
            Status::Rejected => "rejected",
            Status::Simulated => "simulated",
        }
    }
}

/// What was looked at and changed. What is not known is null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// When the block ends by itself, RFC 3339 in UTC
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub expires_at: Option<String>,
    /// Of a dry run: the changes that would have been made
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub planned_steps: Option<Vec<String>>,
    /// Of an audit: what the group is attached to
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub network_interface_ids: Option<Vec<String>>,
    /// Of an audit: the ingress rules it took back
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub revoked_rules: Option<Vec<String>>,
}

/// An entry of a network ACL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetworkAclEntry {
    /// The network ACL
    pub network_acl_id: String,
    /// The entry's number
    pub rule_number: u16,
    /// The request added or removed it
    pub changed: bool,
}

impl NetworkAclEntry {
    /// Of an entry that stands, or stood.
    #[must_use]
    pub fn of(entry: &DenyEntry, changed: bool) -> Self {
        Self {
            network_acl_id: entry.acl.to_string(),
            rule_number: entry.number,
            changed,
        }
    }
}

/// How a request that was carried out came out.
#[derive(Clone, Debug)]
pub struct Done {
    /// It changed a rule or an entry
    pub changed: bool,
    /// What the last look showed; `None` where none could be taken
    pub seen: Option<(State, Assessment)>,
    /// The block that an expiry is bound to has been renewed by this request
    pub renewed_by: Option<String>,
}

/// What went wrong and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
            summary: refused_summary(&rejection.refusal),
            details: Details::default(),
            error: Some(rejection.refusal.into()),
            completed_at,
        }
    }

    /// Of a request that is refused.
    #[must_use]
    pub fn of_refusal(request: &Request, refusal: Refusal, details: Details, completed_at: String) -> Self {
        Self {
            status: refusal.code.status(),
            summary: refused_summary(&refusal),
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

    /// Of a dry run that would have gone through; `found` is the state it found.
    #[must_use]
    pub fn of_dry_run(
        request: &Request,
        plan: &Plan,
        found: &Assessment,
        mut details: Details,
        completed_at: String,
    ) -> Self {
        let steps: Vec<String> = plan
            .steps()
            .filter(|planned| !planned.is_already_so)
            .map(|planned| planned.step.to_string())
            .collect();
        let summary = match (&plan.renewed_by, steps.is_empty()) {
            (Some(other), _) => format!("dry run: {}", renewed_summary(other)),
            (None, true) => "dry run: there is nothing to change".to_owned(),
            (None, false) => format!("dry run, nothing changed; would {}", steps.join(", then ")),
        };
        details.planned_steps = Some(steps);
        Self {
            status: Status::Simulated,
            enforced: found.is_enforced,
            summary,
            ..Self::base(request, details, completed_at)
        }
    }

    /// Of a request that was carried out.
    #[must_use]
    pub fn of_success(request: &Request, done: &Done, policy: &Policy, details: Details, completed_at: String) -> Self {
        let seen = done.seen.as_ref().map(|(_, assessment)| assessment);
        let verified = seen.is_some_and(|seen| seen.is_as_asked) || (done.renewed_by.is_some() && seen.is_some());
        let mut summary = match (&done.renewed_by, request.action) {
            (Some(other), _) => renewed_summary(other),
            (None, Action::BlockIp) => blocked_summary(request, done, policy, &details),
            (None, Action::AllowIp) => lifted_summary(request, done),
        };
        if !verified {
            summary.push_str("; a fresh look did not show it so");
        }
        Self {
            status: Status::Succeeded,
            changed: done.changed,
            enforced: seen.is_some_and(|seen| seen.is_enforced),
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

fn refused_summary(refusal: &Refusal) -> String {
    match (refusal.code, refusal.code.status()) {
        (RefusalCode::InvalidRequest, _) => format!("rejected, nothing was looked at: {}", refusal.message),
        (_, Status::Rejected) => format!("rejected, nothing changed: {}", refusal.message),
        (_, Status::Failed | Status::Succeeded | Status::Simulated) => format!("not done: {}", refusal.message),
    }
}

fn renewed_summary(other: &str) -> String {
    format!("nothing changed: the block that was to end has been renewed by request {other}")
}

fn blocked_summary(request: &Request, done: &Done, policy: &Policy, details: &Details) -> String {
    let (rule, group) = (&request.rule, &request.group);
    if policy.enforcement == Enforcement::None {
        let verb = if done.changed { "recorded on" } else { "was on" };
        return format!(
            "{verb} block list {group}: {rule}; ENFORCEMENT is none, and the record by itself stops no traffic"
        );
    }
    let mut entries: Vec<String> = details
        .network_acl_entries
        .iter()
        .map(|entry| format!("{} entry {}", entry.network_acl_id, entry.rule_number))
        .collect();
    if entries.is_empty() {
        entries.push("no network ACL".to_owned());
    }
    let verb = if done.changed { "blocked" } else { "was blocked already" };
    let mut parts = vec![format!(
        "{verb}: {rule}, denied by {}, recorded on {group}",
        entries.join(", ")
    )];
    let open = done.seen.iter().flat_map(|(_, seen)| &seen.open);
    let open: Vec<&str> = open.map(NetworkAclId::as_str).collect();
    if !open.is_empty() {
        parts.push(format!("NOT denied in {}", open.join(", ")));
    }
    parts.extend(details.expires_at.iter().map(|end| format!("ends by itself at {end}")));
    parts.join("; ")
}

fn lifted_summary(request: &Request, done: &Done) -> String {
    let (rule, group) = (&request.rule, &request.group);
    let mut parts = vec![if done.changed {
        format!("lifted: {rule}, taken off {group}")
    } else {
        format!("was not blocked: {rule} on {group}")
    }];
    if let Some((state, seen)) = &done.seen {
        if state.network_acls.is_none() {
            parts.push("the network ACLs could not be looked at".to_owned());
        }
        let others: Vec<&str> = state.other_holders.iter().map(SecurityGroupId::as_str).collect();
        if seen.is_enforced && others.is_empty() {
            parts.push("a deny entry still stands".to_owned());
        } else if seen.is_enforced {
            parts.push(format!("still denied, for {} has the same rule", others.join(", ")));
        }
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::tests::{block_list, blocked_by, request};
    use crate::plan::{Planned, Step, assess};
    use crate::policy::tests::policy;

    const NOW: &str = "2026-11-23T10:00:00.000Z";

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

    fn done(action: Action, state: State, changed: bool) -> (Request, Done) {
        let request = request(action);
        let assessment = assess(&request, &state, &policy());
        let seen = Some((state, assessment));
        (
            request,
            Done {
                changed,
                seen,
                renewed_by: None,
            },
        )
    }

    fn success(action: Action, state: State, changed: bool) -> Outcome {
        let (request, done) = done(action, state, changed);
        let entries = done.seen.iter().flat_map(|(_, seen)| &seen.entries);
        let details = Details {
            network_acl_entries: entries.map(|entry| NetworkAclEntry::of(entry, changed)).collect(),
            ..Details::default()
        };
        Outcome::of_success(&request, &done, &policy(), details, NOW.to_owned())
    }

    #[test]
    fn a_block_is_reported_as_the_look_shows_it() {
        let block = request(Action::BlockIp);
        let outcome = success(Action::BlockIp, blocked_by(&block), true);
        assert!(outcome.changed && outcome.enforced && outcome.verified);
        assert_eq!(
            outcome.summary,
            "blocked: tcp 0-65535 from 203.0.113.7/32, denied by acl-0123abcd entry 1, recorded on sg-0123abcd"
        );
        // The rule without the entry is no block.
        let mut record_only = blocked_by(&block);
        record_only.network_acls = block_list().network_acls;
        let outcome = success(Action::BlockIp, record_only, true);
        assert!(!outcome.enforced && !outcome.verified);
        assert!(
            outcome.summary.contains("NOT denied in acl-0123abcd"),
            "{}",
            outcome.summary
        );
    }

    #[test]
    fn without_a_look_nothing_is_claimed() {
        let done = Done {
            changed: true,
            seen: None,
            renewed_by: None,
        };
        for action in [Action::BlockIp, Action::AllowIp] {
            let outcome = Outcome::of_success(&request(action), &done, &policy(), Details::default(), NOW.to_owned());
            assert!(outcome.changed && !outcome.enforced && !outcome.verified);
            assert!(
                outcome.summary.ends_with("a fresh look did not show it so"),
                "{}",
                outcome.summary
            );
        }
    }

    #[test]
    fn a_record_alone_is_never_reported_as_a_block() {
        let policy = Policy {
            enforcement: Enforcement::None,
            ..policy()
        };
        let block = request(Action::BlockIp);
        let state = blocked_by(&block);
        let assessment = assess(&block, &state, &policy);
        for changed in [true, false] {
            let done = Done {
                changed,
                seen: Some((state.clone(), assessment.clone())),
                renewed_by: None,
            };
            let outcome = Outcome::of_success(&block, &done, &policy, Details::default(), NOW.to_owned());
            assert!(!outcome.enforced && outcome.verified);
            assert!(
                outcome.summary.contains("by itself stops no traffic"),
                "{}",
                outcome.summary
            );
        }
    }

    #[test]
    fn a_lift_that_leaves_the_target_denied_says_so() {
        let mut state = blocked_by(&request(Action::BlockIp));
        state.group.rules.clear();
        state.other_holders = vec!["sg-0123abce".parse().unwrap()];
        let outcome = success(Action::AllowIp, state, true);
        assert!(outcome.enforced && outcome.verified);
        assert!(
            outcome
                .summary
                .ends_with("still denied, for sg-0123abce has the same rule"),
            "{}",
            outcome.summary
        );
        let gone = success(Action::AllowIp, block_list(), true);
        assert!(!gone.enforced && gone.verified);
        assert_eq!(
            gone.summary,
            "lifted: tcp 0-65535 from 203.0.113.7/32, taken off sg-0123abcd"
        );
    }

    #[test]
    fn an_expiry_of_a_renewed_block_says_who_renewed_it() {
        let (request, mut done) = done(Action::AllowIp, blocked_by(&request(Action::BlockIp)), false);
        done.renewed_by = Some("r-2".to_owned());
        let outcome = Outcome::of_success(&request, &done, &policy(), Details::default(), NOW.to_owned());
        assert_eq!(
            (outcome.status, outcome.changed, outcome.verified),
            (Status::Succeeded, false, true)
        );
        assert!(outcome.enforced && outcome.summary.ends_with("renewed by request r-2"));
    }

    #[test]
    fn a_dry_run_shows_the_steps() {
        let request = request(Action::AllowIp);
        let step = |is_already_so| Planned {
            step: Step::RevokeIngress {
                group: request.group.clone(),
                rule: request.rule,
            },
            is_already_so,
        };
        let plan = Plan {
            stages: vec![vec![step(false), step(true)]],
            ..Plan::default()
        };
        let found = Assessment::default();
        let outcome = Outcome::of_dry_run(&request, &plan, &found, Details::default(), NOW.to_owned());
        assert_eq!(outcome.status, Status::Simulated);
        assert_eq!(
            outcome.details.planned_steps.unwrap(),
            ["revoke ingress tcp 0-65535 from 203.0.113.7/32 on sg-0123abcd"]
        );
        assert!(!outcome.changed);
    }

    #[test]
    fn a_full_acl_is_a_failure_and_no_rejection() {
        let refusal = Refusal {
            code: RefusalCode::NetworkAclFull,
            message: "m".to_owned(),
            remedy: "r".to_owned(),
        };
        let outcome = Outcome::of_refusal(&request(Action::BlockIp), refusal, Details::default(), NOW.to_owned());
        assert_eq!(
            (outcome.status, outcome.summary.as_str()),
            (Status::Failed, "not done: m")
        );
        assert!(!outcome.error.unwrap().retryable);
    }
}
