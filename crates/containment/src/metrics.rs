//! Metrics in CloudWatch's embedded metric format, one line for each request that is done with or retried later, and one
//! for each place that was audited.

use actions::{Capability, Outcome, Status};
use aws_support::metrics::line;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::block::report::{AuditReport, PlaceReport};

/// How the handling of one request ended.
#[derive(Clone, Copy, Debug)]
pub enum Ending<'a> {
    /// With this result
    Decided(&'a Outcome),
    /// The message returned to its queue
    Retried(&'a Outcome),
}

/// The metrics of one request. Exactly one of those that end in a status is 1; `Changed` is 1 where a rule or an entry
/// was added or taken away or a finding changed, and `Enforced` where the target is kept out as read back.
#[must_use]
pub fn of_request(ending: Ending<'_>, function: &str, now: Timestamp) -> Value {
    let (outcome, status) = match ending {
        Ending::Decided(outcome) => (outcome, Some(outcome.status)),
        Ending::Retried(outcome) => (outcome, None),
    };
    // What a refused request says may be anything, and each value would be a metric of its own.
    let capability = Capability::REQUESTED
        .into_iter()
        .chain([Capability::Audit])
        .map(Capability::as_str)
        .find(|name| *name == outcome.capability)
        .unwrap_or("unknown");
    let count = |name, is_so: bool| (name, "Count", json!(u8::from(is_so)));
    let metrics = [
        count("RequestsSucceeded", status == Some(Status::Succeeded)),
        count("RequestsBlocked", status == Some(Status::Blocked)),
        count("RequestsFailed", status == Some(Status::Failed)),
        count("RequestsSimulated", status == Some(Status::Simulated)),
        count("RequestsRetried", status.is_none()),
        count("Changed", outcome.changed),
        count("Enforced", outcome.enforced),
    ];
    line(now, function, &[("Capability", capability)], &metrics)
}

/// The metrics of a whole audit: `AuditsSucceeded` is 1 where it looked everywhere, and 0 otherwise. Its absence is how an
/// alarm notices audits that do not run at all.
#[must_use]
pub fn of_audits(report: &AuditReport, function: &str, now: Timestamp) -> Value {
    let metrics = [("AuditsSucceeded", "Count", json!(u8::from(report.complete)))];
    line(now, function, &[], &metrics)
}

/// The metrics of one place that was audited. What could not be read is not counted: a fault is not over because nobody
/// could see it.
#[must_use]
pub fn of_audit(place: &PlaceReport, function: &str, now: Timestamp) -> Value {
    let account = place.role_arn.as_ref().map_or("own", |role| role.account_id());
    let count = |name, value: usize| (name, "Count", json!(value));
    let mut metrics = vec![
        count("RulesRevoked", place.rules_revoked),
        count("BlocksRestored", place.blocks_restored),
        count("BlocksLifted", place.blocks_lifted),
        count("AuditErrors", usize::from(place.error.is_some())),
    ];
    let faults = [
        count("BlockListsInUse", place.block_lists_in_use),
        count("BlocksNotEnforced", place.blocks_not_enforced),
        count("BlocksOverdue", place.blocks_overdue),
        count("BlockListsLost", place.block_lists_lost),
    ];
    if place.error.is_none() {
        metrics.extend([
            count("BlockLists", place.block_lists),
            count("Blocks", place.blocks),
            count("EntriesWithoutBlock", place.entries_without_block),
        ]);
        metrics.extend(faults);
    } else {
        metrics.extend(faults.into_iter().filter(|(_, _, value)| *value != json!(0)));
    }
    let dimensions = [("Region", place.region.as_str()), ("Account", account)];
    line(now, function, &dimensions, &metrics)
}
