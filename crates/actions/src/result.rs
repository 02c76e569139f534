//! What is answered to a request, and what an audit tells.

use aws_text::NetworkAclId;
use serde::Serialize;

use crate::block::compare::listed;
use crate::block::{DenyEntry, Step};
use crate::policy::Enforcement;
use crate::request::{Capability, Notes, Rejection, Request, Vendor};
use crate::rule::IngressRule;
use crate::{ErrorCode, ErrorDetail, Refusal, writeback};

/// The result of a request: to the results queue, to the log, and to whoever called the function directly.
/// Also of an audit, one for each thing that it mended or could not mend: `capability` is then `audit`.
///
/// It can be read as AiSOC's `LiveActionResult`. A later version may add members: readers should pass over those they do
/// not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The request's id, or where it has none the message's or the invocation's
    pub request_id: String,
    /// What was asked for: `block_ip`, `allow_ip`, `update_alert_disposition`, `ack_alert`, `suppress_alert`; or `audit`.
    /// As given where it could not be read, and `unknown` where it was not given
    pub capability: String,
    /// `aws_security_hub`, or as given
    pub vendor_id: String,
    /// The request's target: as a CIDR block where it is an address, and as given where it could not be read
    pub target: Option<String>,
    /// How it ended
    pub status: Status,
    /// The request changed something that is still so
    pub changed: bool,
    /// As read back: in each network ACL concerned a deny entry stands before every allow that overlaps it. Of an
    /// `ALLOW_IP`: some deny entry for the rule still stands. The security group's rule alone stops nothing. Of a verdict
    /// always false
    pub enforced: bool,
    /// Read back, it is as the request asked
    pub verified: bool,
    /// For a person, in one line
    pub summary: String,
    /// What went wrong, for a person; `details.error` says more
    pub error: Option<String>,
    /// What was read and changed
    pub details: AnyDetails,
    /// The request's own, as far as they could be read
    #[serde(flatten)]
    pub notes: Notes,
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
    /// The request is wrong, or could not be carried out
    Failed,
    /// A rule or a setting keeps the request from being carried out; nothing was changed
    Blocked,
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
            Status::Blocked => "blocked",
            Status::Simulated => "simulated",
        }
    }
}

/// What was read and changed: of a block, or of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum AnyDetails {
    Block(Details),
    Finding(FindingDetails),
}

impl From<Details> for AnyDetails {
    fn from(details: Details) -> Self {
        Self::Block(details)
    }
}

impl From<FindingDetails> for AnyDetails {
    fn from(details: FindingDetails) -> Self {
        Self::Finding(details)
    }
}

impl AnyDetails {
    /// What went wrong.
    #[must_use]
    pub fn error(&self) -> Option<&ErrorDetail> {
        match self {
            Self::Block(details) => details.error.as_ref(),
            Self::Finding(details) => details.error.as_ref(),
        }
    }

    fn set_error(&mut self, error: ErrorDetail) {
        match self {
            Self::Block(details) => details.error = Some(error),
            Self::Finding(details) => details.error = Some(error),
        }
    }

    fn set_planned_steps(&mut self, steps: Vec<String>) {
        match self {
            Self::Block(details) => details.planned_steps = Some(steps),
            Self::Finding(details) => details.planned_steps = Some(steps),
        }
    }
}

/// What was read and changed of a block. What is not known is null.
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
    /// Entries of network ACLs: those that stand, and those that the request removed
    pub network_acl_entries: Vec<NetworkAclEntry>,
    /// When the block ends by itself, RFC 3339 in UTC
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub expires_at: Option<String>,
    /// Of a dry run: the changes that would be made now
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub planned_steps: Option<Vec<String>>,
    /// Of a block list found attached: what it is attached to; at most 100
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub network_interface_ids: Option<Vec<String>>,
    /// Of an audit: the ingress rules it revoked; at most 100
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub revoked_rules: Option<Vec<String>>,
    /// What went wrong
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "ErrorDetail"))]
    pub error: Option<ErrorDetail>,
}

/// What was read and changed of a finding. What is not known is null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FindingDetails {
    /// The finding's id
    pub finding_id: String,
    /// Of Security Hub CSPM: the ARN of the product that the finding is of
    pub product_arn: Option<String>,
    /// Of Security Hub (V2): `metadata.uid`
    pub metadata_uid: Option<String>,
    /// The finding's account
    pub account_id: Option<String>,
    /// The finding's region
    pub region: Option<String>,
    /// Of Security Hub CSPM: `Workflow.Status`, as written, and as read where nothing was written
    pub workflow_status: Option<String>,
    /// Of Security Hub CSPM: `VerificationState`, likewise
    pub verification_state: Option<String>,
    /// Of Security Hub (V2): `status_id`, likewise
    pub status_id: Option<i32>,
    /// What the request is to do to the finding: `close`, `escalate`, `acknowledge` or `suppress`
    pub writeback_action: String,
    /// The finding is as the request asked, by this delivery of it or before
    pub written: bool,
    /// Of a dry run: the changes that would be made now
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub planned_steps: Option<Vec<String>>,
    /// What went wrong
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "ErrorDetail"))]
    pub error: Option<ErrorDetail>,
}

/// The most interfaces and rules in a result: it must fit into a message, whatever was found.
pub const MAX_LISTED: usize = 100;

/// An entry of a network ACL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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

/// What is so at the end of a request, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub changed: bool,
    pub enforced: bool,
    pub verified: bool,
}

/// What a result is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub request_id: String,
    pub capability: Capability,
    pub vendor: Vendor,
    pub target: Option<String>,
    pub notes: Notes,
}

impl Subject {
    /// Of what an audit found.
    #[must_use]
    pub fn of_audit(id: &str, target: Option<String>) -> Self {
        Self {
            request_id: id.to_owned(),
            capability: Capability::Audit,
            vendor: Vendor::default(),
            target,
            notes: Notes::default(),
        }
    }
}

impl From<&Request> for Subject {
    fn from(request: &Request) -> Self {
        Self {
            request_id: request.request_id.clone(),
            capability: request.action.capability(),
            vendor: request.vendor,
            target: Some(request.rule.source().to_string()),
            notes: request.notes.clone(),
        }
    }
}

impl From<&writeback::Request> for Subject {
    fn from(request: &writeback::Request) -> Self {
        Self {
            request_id: request.request_id.clone(),
            capability: request.verdict.capability(),
            vendor: request.vendor,
            target: Some(request.finding.id.clone()),
            notes: request.notes.clone(),
        }
    }
}

impl Outcome {
    /// Of a body that is no request.
    #[must_use]
    pub fn of_rejection(rejection: Rejection, completed_at: String) -> Self {
        let summary = format!("refused, nothing was read: {}", rejection.refusal.message);
        let outcome = Self {
            request_id: rejection.request_id,
            capability: rejection.capability.unwrap_or_else(|| "unknown".to_owned()),
            vendor_id: rejection
                .vendor
                .unwrap_or_else(|| Vendor::default().as_str().to_owned()),
            target: rejection.target,
            status: rejection.refusal.code.refusal_status(),
            changed: false,
            enforced: false,
            verified: false,
            summary: one_line(&summary),
            error: None,
            details: Details::default().into(),
            notes: rejection.notes,
            completed_at,
        };
        outcome.with_error(rejection.refusal.into())
    }

    /// Of a request that is refused before it changed anything.
    #[must_use]
    pub fn of_refusal(
        subject: impl Into<Subject>,
        refusal: Refusal,
        details: impl Into<AnyDetails>,
        completed_at: String,
    ) -> Self {
        let status = refusal.code.refusal_status();
        let summary = match status {
            Status::Blocked => format!("not allowed, nothing changed: {}", refusal.message),
            Status::Failed | Status::Succeeded | Status::Simulated => format!("not done: {}", refusal.message),
        };
        Self::of(subject, status, Flags::default(), &summary, details, completed_at).with_error(refusal.into())
    }

    /// Of a request that could not be carried out, or not wholly.
    #[must_use]
    pub fn of_failure(
        subject: impl Into<Subject>,
        error: ErrorDetail,
        flags: Flags,
        details: impl Into<AnyDetails>,
        completed_at: String,
    ) -> Self {
        let details = details.into();
        let mut summary = match (error.retryable, flags.changed) {
            (true, _) => format!("not done yet: {}", error.message),
            (false, false) => format!("not done: {}", error.message),
            (false, true) => format!("not done as asked: {}", error.message),
        };
        if let AnyDetails::Block(details) = &details
            && flags.changed
        {
            summary.push_str(&still_there(details));
        }
        Self::of(subject, Status::Failed, flags, &summary, details, completed_at).with_error(error)
    }

    /// Of a dry run that would have gone through.
    #[must_use]
    pub fn of_dry_run(
        subject: impl Into<Subject>,
        steps: Vec<String>,
        nothing_because: Option<String>,
        enforced: bool,
        details: impl Into<AnyDetails>,
        completed_at: String,
    ) -> Self {
        let summary = match (nothing_because, steps.is_empty()) {
            (Some(why), _) => format!("dry run: {why}"),
            (None, true) => "dry run: there is nothing to change".to_owned(),
            (None, false) => format!("dry run, nothing changed; would {}", listed(&steps)),
        };
        let mut details = details.into();
        details.set_planned_steps(steps);
        let flags = Flags {
            enforced,
            ..Flags::default()
        };
        Self::of(subject, Status::Simulated, flags, &summary, details, completed_at)
    }

    /// Of a request that was carried out.
    #[must_use]
    pub fn of_success(
        subject: impl Into<Subject>,
        flags: Flags,
        mut summary: String,
        details: impl Into<AnyDetails>,
        completed_at: String,
    ) -> Self {
        let details = details.into();
        if !flags.verified {
            summary.push_str(match &details {
                AnyDetails::Block(_) => "; it could not be verified: EC2 does not show it so yet",
                AnyDetails::Finding(_) => {
                    "; it could not be verified: Security Hub does not show it yet, which can take some minutes"
                }
            });
        }
        Self::of(subject, Status::Succeeded, flags, &summary, details, completed_at)
    }

    /// Of what an audit found: with an error where it is still so.
    #[must_use]
    pub fn of_audit(
        subject: Subject,
        error: Option<ErrorDetail>,
        flags: Flags,
        summary: &str,
        details: Details,
        completed_at: String,
    ) -> Self {
        match error {
            Some(error) => Self::of(subject, Status::Failed, flags, summary, details, completed_at).with_error(error),
            None => Self::of(subject, Status::Succeeded, flags, summary, details, completed_at),
        }
    }

    fn of(
        subject: impl Into<Subject>,
        status: Status,
        flags: Flags,
        summary: &str,
        details: impl Into<AnyDetails>,
        completed_at: String,
    ) -> Self {
        let subject = subject.into();
        Self {
            request_id: subject.request_id,
            capability: subject.capability.as_str().to_owned(),
            vendor_id: subject.vendor.as_str().to_owned(),
            target: subject.target,
            status,
            changed: flags.changed,
            enforced: flags.enforced,
            verified: flags.verified,
            summary: one_line(summary),
            error: None,
            details: details.into(),
            notes: subject.notes,
            completed_at,
        }
    }

    fn with_error(mut self, error: ErrorDetail) -> Self {
        let message = one_line(&error.message);
        self.error = Some(message.clone());
        self.details.set_error(ErrorDetail { message, ..error });
        self
    }
}

/// As AiSOC shows it.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<&str>>().join(" ")
}

/// What of a request is still there that could not be carried out.
fn still_there(details: &Details) -> String {
    let changed = details.network_acl_entries.iter().filter(|entry| entry.changed);
    let entries: Vec<String> = changed
        .map(|entry| format!("{} entry {}", entry.network_acl_id, entry.rule_number))
        .collect();
    if entries.is_empty() {
        String::new()
    } else {
        format!("; changed: {}", listed(&entries))
    }
}

/// The summary of a BLOCK_IP that was carried out.
#[must_use]
pub fn blocked_summary(
    request: &Request,
    changed: bool,
    standing: &[DenyEntry],
    open: &[NetworkAclId],
    enforcement: Enforcement,
    expires_at: Option<&str>,
) -> String {
    let (rule, group) = (&request.rule, &request.group);
    let mut parts = Vec::new();
    match enforcement {
        Enforcement::None => {
            let verb = if changed { "recorded on" } else { "was on" };
            parts.push(format!(
                "{verb} block list {group}: {rule}; ENFORCEMENT is none, and the record by itself stops no traffic"
            ));
        }
        Enforcement::NetworkAcl => {
            let verb = if changed { "blocked" } else { "was blocked already" };
            parts.push(format!(
                "{verb}: {rule}, denied by {}, recorded on {group}",
                named_entries(standing)
            ));
            if !open.is_empty() {
                parts.push(format!(
                    "NOT denied in {}",
                    listed(open.iter().map(NetworkAclId::as_str))
                ));
            }
        }
    }
    parts.extend(expires_at.map(|end| format!("ends by itself at {end}")));
    parts.join("; ")
}

/// The summary of an ALLOW_IP that was carried out.
#[must_use]
pub fn lifted_summary(rule: &IngressRule, group: &str, changed: bool, notes: &[String]) -> String {
    let mut parts = vec![if changed {
        format!("lifted: {rule}, taken off {group}")
    } else {
        format!("was not blocked: {rule} on {group}")
    }];
    parts.extend_from_slice(notes);
    parts.join("; ")
}

/// Entries for a summary.
#[must_use]
pub fn named_entries(entries: &[DenyEntry]) -> String {
    if entries.is_empty() {
        return "no network ACL".to_owned();
    }
    listed(
        entries
            .iter()
            .map(|entry| format!("{} entry {}", entry.acl, entry.number)),
    )
}

/// The steps of a dry run, as they are told.
#[must_use]
pub fn told(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

/// The refusal of a request that another one holds up.
#[must_use]
pub fn busy(group: &str) -> ErrorDetail {
    ErrorDetail {
        code: ErrorCode::Busy,
        message: format!("another request or an audit works on {group}"),
        remedy: "nothing: the request is tried again; a request that was sent directly is to be sent again".to_owned(),
        retryable: true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-11-23T10:00:00.000Z";

    #[test]
    fn every_member_is_there_whatever_happened() {
        let rejection = *Request::read("null", "message-1").unwrap_err();
        assert_eq!(
            serde_json::to_value(Outcome::of_rejection(rejection, NOW.to_owned())).unwrap(),
            json!({
                "request_id": "message-1", "capability": "unknown", "vendor_id": "aws_security_hub", "target": null,
                "status": "failed", "changed": false,
                "enforced": false, "verified": false,
                "summary": "refused, nothing was read: the body must be a JSON object, not null",
                "details": {"security_group_id": null, "security_group_rule_id": null, "vpc_id": null, "account_id": null,
                            "region": null, "network_acl_entries": [], "expires_at": null,
                            "error": {"code": "invalid_request", "message": "the body must be a JSON object, not null",
                                      "remedy": "correct what is named and send the request again",
                                      "retryable": false}},
                "error": "the body must be a JSON object, not null",
                "case_id": null, "playbook_run_id": null, "tenant_id": null, "event_id": null, "rationale": null,
                "completed_at": NOW,
            })
        );
    }

    fn request() -> Request {
        let body = r#"{"request_id":"r-1","capability":"block_ip","target":"203.0.113.7","case_id":"c-7",
                       "params":{"aws_security_group_id":"sg-0123abcd"}}"#;
        Request::read(body, "m").unwrap()
    }

    fn entry(acl: &str, number: u16) -> DenyEntry {
        DenyEntry {
            acl: acl.parse().unwrap(),
            number,
            rule: request().rule,
        }
    }

    #[test]
    fn a_block_tells_what_denies_it_and_what_does_not() {
        let standing = [entry("acl-0123abcd", 1), entry("acl-0123abce", 7)];
        let open = ["acl-0123abcf".parse().unwrap()];
        let summary = |changed, open: &[NetworkAclId], enforcement, end| {
            blocked_summary(&request(), changed, &standing, open, enforcement, end)
        };
        assert_eq!(
            summary(true, &[], Enforcement::NetworkAcl, None),
            "blocked: tcp 0-65535 from 203.0.113.7/32, denied by acl-0123abcd entry 1, acl-0123abce entry 7, recorded on \
             sg-0123abcd"
        );
        assert_eq!(
            summary(false, &open, Enforcement::NetworkAcl, Some("2026-11-23T11:00:00Z")),
            "was blocked already: tcp 0-65535 from 203.0.113.7/32, denied by acl-0123abcd entry 1, acl-0123abce entry 7, \
             recorded on sg-0123abcd; NOT denied in acl-0123abcf; ends by itself at 2026-11-23T11:00:00Z"
        );
        assert!(summary(true, &[], Enforcement::None, None).ends_with("the record by itself stops no traffic"));
    }

    #[test]
    fn what_a_failed_request_changed_is_named() {
        let error: ErrorDetail = Refusal::new(ErrorCode::AccessDenied, "said so", "do this").into();
        let details = Details {
            network_acl_entries: vec![
                NetworkAclEntry::of(&entry("acl-0123abcd", 1), true),
                NetworkAclEntry::of(&entry("acl-0123abce", 2), false),
            ],
            ..Details::default()
        };
        let flags = Flags {
            changed: true,
            ..Flags::default()
        };
        let outcome = Outcome::of_failure(&request(), error.clone(), flags, details, NOW.to_owned());
        assert_eq!(
            outcome.summary,
            "not done as asked: said so; changed: acl-0123abcd entry 1"
        );
        assert_eq!(outcome.notes.case_id.as_deref(), Some("c-7"));
        assert_eq!((outcome.details.error(), outcome.changed), (Some(&error), true));
        assert_eq!(outcome.error.as_deref(), Some("said so"));
        let nothing = Outcome::of_failure(&request(), error, Flags::default(), Details::default(), NOW.to_owned());
        assert_eq!(nothing.summary, "not done: said so");
    }

    #[test]
    fn a_refusal_says_that_nothing_changed() {
        let of = |code| {
            let refusal = Refusal::new(code, "it is so", "do this");
            Outcome::of_refusal(&request(), refusal, Details::default(), NOW.to_owned())
        };
        let blocked = of(ErrorCode::GroupInUse);
        assert_eq!(
            (blocked.status, blocked.summary.as_str()),
            (Status::Blocked, "not allowed, nothing changed: it is so")
        );
        let error = blocked.details.error().unwrap();
        assert_eq!((error.code, error.remedy.as_str()), (ErrorCode::GroupInUse, "do this"));
        assert_eq!(blocked.error.as_deref(), Some("it is so"));
        let failed = of(ErrorCode::NetworkAclFull);
        assert_eq!(
            (failed.status, failed.summary.as_str()),
            (Status::Failed, "not done: it is so")
        );
    }

    #[test]
    fn what_policy_forbids_is_blocked_and_all_else_failed() {
        let blocked: Vec<&str> = ErrorCode::ALL
            .into_iter()
            .filter(|code| code.refusal_status() == Status::Blocked)
            .map(ErrorCode::as_str)
            .collect();
        assert_eq!(
            blocked,
            [
                "protected_target",
                "role_not_allowed",
                "region_not_allowed",
                "write_back_not_enabled",
                "group_not_enrolled",
                "group_in_use",
                "network_acl_not_owned",
            ]
        );
    }

    #[test]
    fn a_summary_is_one_line_whatever_was_given() {
        let body = "{\"request_id\":\"r\",\"capability\":\"a\\nb\",\"params\":{\"port\":[1,\n2]}}";
        let outcome = Outcome::of_rejection(*Request::read(body, "m").unwrap_err(), NOW.to_owned());
        assert!(!outcome.summary.contains('\n') && !outcome.error.unwrap().contains('\n'));
        assert_eq!(
            (outcome.request_id.as_str(), outcome.capability.as_str()),
            ("r", "a\nb")
        );
    }

    #[test]
    fn every_status_is_written_as_serde_writes_it() {
        for status in [Status::Succeeded, Status::Failed, Status::Blocked, Status::Simulated] {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }

    #[test]
    fn a_success_that_could_not_be_verified_says_so() {
        let summary = |verified| {
            let flags = Flags {
                verified,
                ..Flags::default()
            };
            Outcome::of_success(&request(), flags, "done".to_owned(), Details::default(), NOW.to_owned()).summary
        };
        assert_eq!(summary(true), "done");
        assert!(summary(false).starts_with("done; it could not be verified"));
    }

    #[test]
    fn a_lift_tells_what_it_lifted_and_what_is_left() {
        let rule = request().rule;
        let notes = ["still denied, for sg-2 has the same rule".to_owned()];
        assert_eq!(
            lifted_summary(&rule, "sg-1", true, &notes),
            format!("lifted: {rule}, taken off sg-1; still denied, for sg-2 has the same rule")
        );
        assert_eq!(
            lifted_summary(&rule, "sg-1", false, &[]),
            format!("was not blocked: {rule} on sg-1")
        );
    }

    #[test]
    fn steps_are_told_one_by_one() {
        let deny = entry("acl-0123abcd", 1);
        let steps = [Step::AddDeny(deny.clone()), Step::RemoveDeny(deny)];
        let told = told(&steps);
        assert!(told[0].starts_with("add deny entry 1 to acl-0123abcd") && told.len() == 2);
        assert!(told[1].starts_with("remove deny entry 1 from acl-0123abcd"));
    }

    #[test]
    fn a_dry_run_tells_its_steps() {
        let of = |steps: &[&str], why: Option<&str>| {
            let steps = steps.iter().map(ToString::to_string).collect();
            let why = why.map(str::to_owned);
            Outcome::of_dry_run(&request(), steps, why, false, Details::default(), NOW.to_owned()).summary
        };
        assert_eq!(of(&["a", "b"], None), "dry run, nothing changed; would a, b");
        assert_eq!(of(&[], None), "dry run: there is nothing to change");
        assert_eq!(of(&[], Some("renewed")), "dry run: renewed");
        for enforced in [false, true] {
            let outcome = Outcome::of_dry_run(&request(), vec![], None, enforced, Details::default(), NOW.to_owned());
            assert_eq!((outcome.enforced, outcome.changed), (enforced, false));
        }
    }
}
