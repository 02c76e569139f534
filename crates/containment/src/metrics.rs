//! Metrics in CloudWatch's embedded metric format, one line for each request that is done with or handed back, and one
//! for each place that was audited.

use aws_support::metrics::line;
use containment_plan::{Outcome, Status};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::audit::{AuditReport, PlaceReport};

/// How the handling of one request ended.
#[derive(Clone, Copy, Debug)]
pub enum Ending<'a> {
    /// With this result
    Decided(&'a Outcome),
    /// The message went back to its queue
    HandedBack(&'a Outcome),
}

/// The metrics of one request. Exactly one of those that end in a status is 1; `Changed` is 1 where a rule or an entry
/// was added or taken away, and `Enforced` where the target is kept out as read back.
#[must_use]
pub fn of_request(ending: Ending<'_>, function: &str, now: Timestamp) -> Value {
    let (outcome, status) = match ending {
        Ending::Decided(outcome) => (outcome, Some(outcome.status)),
        Ending::HandedBack(outcome) => (outcome, None),
    };
    // What a rejected request says may be anything, and each value would be a metric of its own.
    let action = outcome
        .action
        .as_deref()
        .filter(|action| ["BLOCK_IP", "ALLOW_IP", "AUDIT"].contains(action))
        .unwrap_or("UNKNOWN");
    let count = |name, is_so: bool| (name, "Count", json!(u8::from(is_so)));
    let metrics = [
        count("RequestsSucceeded", status == Some(Status::Succeeded)),
        count("RequestsRejected", status == Some(Status::Rejected)),
        count("RequestsFailed", status == Some(Status::Failed)),
        count("RequestsSimulated", status == Some(Status::Simulated)),
        count("RequestsHandedBack", status.is_none()),
        count("Changed", outcome.changed),
        count("Enforced", outcome.enforced),
    ];
    line(now, function, &[("Action", action)], &metrics)
}

/// The metrics of a whole audit: `AuditsSucceeded` is 1 where it looked everywhere, and 0 otherwise. Its absence is how an
/// alarm notices audits that do not run at all.
#[must_use]
pub fn of_audits(report: &AuditReport, function: &str, now: Timestamp) -> Value {
    let metrics = [("AuditsSucceeded", "Count", json!(u8::from(report.complete)))];
    line(now, function, &[], &metrics)
}

/// The metrics of one place that was audited.
#[must_use]
pub fn of_audit(place: &PlaceReport, function: &str, now: Timestamp) -> Value {
    let account = place
        .role_arn
        .as_ref()
        .and_then(|role| role.as_str().split(':').nth(4))
        .unwrap_or("own");
    line(
        now,
        function,
        &[("Region", place.region.as_str()), ("Account", account)],
        &[
            ("BlockListsAudited", "Count", json!(place.groups_audited)),
            ("BlockListsInUse", "Count", json!(place.groups_in_use)),
            ("RulesRevoked", "Count", json!(place.rules_revoked)),
            ("AuditErrors", "Count", json!(u8::from(place.error.is_some()))),
        ],
    )
}
