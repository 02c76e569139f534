//! One invocation: an SQS event, a bare request, an audit or a question for the blocks in; the messages to retry later, the
//! result or a report out.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use actions::{Asked, Outcome};
use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use aws_support::metrics::MetricSink;
use aws_support::{AwsError, Clock, Deadline};
use futures::future::join_all;
use lambda_runtime::Diagnostic;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::block::audit::{Audit, Then};
use crate::block::report;
use crate::block::request::{Close, Delivery, Executor, Verdict};
use crate::metrics::{self, Ending};
use crate::ports::{Accounts, ActionsQueue, Blocks, Findings, ResultSink, Schedules};
use crate::writeback::WriteBack;

/// The function, with what it works on.
#[derive(Debug)]
pub struct Containment<A, T, S, F, C, R, Q, M> {
    /// Whose metrics they are
    pub function_name: String,
    /// Carries out requests about addresses
    pub executor: Executor<A, T, S, C>,
    /// Carries out requests about findings
    pub write_back: WriteBack<F, C>,
    /// Where results go
    pub results: R,
    /// Where requests come from
    pub actions_queue: Q,
    /// Where metrics go
    pub metrics: M,
}

/// A message that is not done with: it returns to its queue, and is retried later.
struct RetryLater;

impl<A, T, S, F, C, R, Q, M> Containment<A, T, S, F, C, R, Q, M>
where
    A: Accounts,
    T: Blocks,
    S: Schedules,
    F: Findings,
    C: Clock,
    R: ResultSink,
    Q: ActionsQueue,
    M: MetricSink,
{
    /// Takes an SQS event, and answers with the messages to retry later; or one request, and answers with its result; or
    /// `{"mode":"audit"}` or `{"mode":"list_blocks"}`, and answers with a report. `invocation_id` names a bare request
    /// that has no id of its own, and an audit.
    ///
    /// # Errors
    /// `InvalidInput` for an SQS event that cannot be read or whose records have no id, and for a mode that is not
    /// known: nothing has been done. `ResultNotSent` where the result of a bare request or of an audit could not be
    /// sent. `AuditFailed` where a place could not be audited, after all of them are done. `BlocksUnreadable` where the
    /// table could not be read.
    pub async fn handle(&self, input: &str, invocation_id: &str, deadline: &Deadline) -> Result<Value, Diagnostic> {
        match Kind::of(input) {
            Kind::Messages => self.handle_messages(input, invocation_id, deadline).await,
            Kind::Mode => match mode(input)? {
                Mode::Audit => self.handle_audit(invocation_id, deadline).await,
                Mode::ListBlocks => self.handle_list_blocks(deadline).await,
            },
            Kind::Request => self.handle_bare(input, invocation_id, deadline).await,
        }
    }

    async fn handle_messages(
        &self,
        input: &str,
        invocation_id: &str,
        deadline: &Deadline,
    ) -> Result<Value, Diagnostic> {
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
        let failed = self.handle_records(&event.records, &ids, invocation_id, deadline).await;
        join_all(failed.iter().filter_map(|index| {
            let record = &event.records[*index];
            let receipt = record.receipt_handle.as_deref()?;
            Some(
                self.actions_queue
                    .retry_after(receipt, retry_seconds(receives(record)), deadline),
            )
        }))
        .await;
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

    /// The indices of the records to retry later. Records of one message group are taken one after the other, and once
    /// one is to be retried so are all after it; different groups are taken side by side.
    async fn handle_records(
        &self,
        records: &[SqsMessage],
        ids: &[&str],
        invocation_id: &str,
        deadline: &Deadline,
    ) -> Vec<usize> {
        let handled = join_all(groups(records).into_iter().map(async |group: Vec<usize>| {
            for (position, &index) in group.iter().enumerate() {
                let delivery = Delivery {
                    invocation_id,
                    is_repeated: receives(&records[index]) > 1,
                    deadline,
                };
                let body = records[index].body.as_deref().unwrap_or_default();
                if let Err(RetryLater) = self.handle_message(body, ids[index], delivery).await {
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

    async fn handle_message(&self, body: &str, message_id: &str, delivery: Delivery<'_>) -> Result<(), RetryLater> {
        let (outcome, close) = match self.decide(body, message_id, delivery).await {
            Verdict::Decided { outcome, close } => (outcome, close),
            Verdict::Undecided { so_far, error } => {
                self.measure(Ending::Retried(&so_far));
                tracing::warn!(
                    message_id,
                    request_id = so_far.request_id,
                    code = error.code.as_str(),
                    "the message is retried later: {}",
                    error.message
                );
                return Err(RetryLater);
            }
        };
        log(&outcome, message_id);
        let sent = self.send(&outcome, close, delivery.deadline).await;
        self.measure(if sent.is_ok() {
            Ending::Decided(&outcome)
        } else {
            Ending::Retried(&outcome)
        });
        sent.map_err(|error| {
            tracing::error!(
                message_id,
                request_id = outcome.request_id,
                %error,
                "the result cannot be sent, and the message is retried later"
            );
            RetryLater
        })
    }

    /// Sends a result, and then lets the table say so too.
    async fn send(&self, outcome: &Outcome, close: Option<Close>, deadline: &Deadline) -> Result<(), AwsError> {
        if let Err(error) = self.results.send(outcome, deadline).await {
            self.executor.abandon(close, deadline).await;
            return Err(error);
        }
        if let Err(error) = self.executor.close(close, deadline).await {
            // The result is sent and true. The audit goes on with what the table still says.
            tracing::error!(request_id = outcome.request_id, %error, "the table could not be written");
        }
        Ok(())
    }

    async fn handle_bare(&self, input: &str, invocation_id: &str, deadline: &Deadline) -> Result<Value, Diagnostic> {
        let delivery = Delivery {
            invocation_id,
            is_repeated: false,
            deadline,
        };
        let outcome = match self.decide(input, invocation_id, delivery).await {
            Verdict::Decided { outcome, close } => {
                log(&outcome, invocation_id);
                self.measure(Ending::Decided(&outcome));
                self.send(&outcome, close, deadline)
                    .await
                    .map_err(|error| failure("ResultNotSent", error.to_string()))?;
                outcome
            }
            // Whoever called directly decides about another try; the results queue gets decided results only.
            Verdict::Undecided { so_far, .. } => {
                log(&so_far, invocation_id);
                self.measure(Ending::Retried(&so_far));
                so_far
            }
        };
        serde_json::to_value(outcome).map_err(|error| failure("Internal", error.to_string()))
    }

    async fn handle_audit(&self, invocation_id: &str, deadline: &Deadline) -> Result<Value, Diagnostic> {
        let audit = Audit {
            executor: &self.executor,
            delivery: Delivery {
                invocation_id,
                is_repeated: false,
                deadline,
            },
            id: invocation_id,
        };
        let audited = audit.run().await;
        // One time for all of an audit: alarms take the places of one audit together.
        let now = self.executor.clock.now();
        for place in &audited.report.places {
            self.metrics.put(&metrics::of_audit(place, &self.function_name, now));
        }
        self.metrics
            .put(&metrics::of_audits(&audited.report, &self.function_name, now));
        let mut untold = None;
        for telling in &audited.tellings {
            let outcome = &telling.outcome;
            tracing::error!(request_id = outcome.request_id, "{}", outcome.summary);
            log(outcome, invocation_id);
            self.measure(Ending::Decided(outcome));
            if let Err(error) = self.tell(outcome, &telling.then, deadline).await {
                untold = Some(failure("ResultNotSent", error.to_string()));
            }
        }
        let report = serde_json::to_value(&audited.report).map_err(|error| failure("Internal", error.to_string()))?;
        tracing::info!(%report, "audit");
        let failed = audited.report.places.iter().filter_map(|place| {
            let error = place.error.as_ref()?;
            let account = place.role_arn.as_ref().map_or("the own account", |role| role.as_str());
            Some(format!(
                "{} in {account}: {}: {}",
                place.region,
                error.code.as_str(),
                error.message
            ))
        });
        let failed: Vec<String> = failed.collect();
        if !failed.is_empty() {
            return Err(failure("AuditFailed", failed.join("; ")));
        }
        untold.map_or(Ok(report), Err)
    }

    /// A fault counts as told once SQS has confirmed its result.
    async fn tell(&self, outcome: &Outcome, then: &Then, deadline: &Deadline) -> Result<(), AwsError> {
        self.results.send(outcome, deadline).await?;
        match then {
            Then::Keep(fault) => self.executor.table.put_fault(fault, deadline).await,
            Then::Forget(fault) => self.executor.table.delete_fault(fault, deadline).await,
        }
    }

    async fn handle_list_blocks(&self, deadline: &Deadline) -> Result<Value, Diagnostic> {
        let contents = self.executor.table.all(deadline).await;
        let contents = contents.map_err(|error| failure("BlocksUnreadable", error.to_string()))?;
        serde_json::to_value(report::list(&contents)).map_err(|error| failure("Internal", error.to_string()))
    }

    fn measure(&self, ending: Ending<'_>) {
        let now = self.executor.clock.now();
        self.metrics.put(&metrics::of_request(ending, &self.function_name, now));
    }

    async fn decide(&self, body: &str, other_id: &str, delivery: Delivery<'_>) -> Verdict {
        match Asked::read(body, other_id) {
            Ok(Asked::Block(request)) => self.executor.execute(&request, delivery).await,
            Ok(Asked::WriteBack(request)) => self.write_back.execute(&request, delivery.deadline).await,
            Err(rejection) => Verdict::Decided {
                outcome: Box::new(Outcome::of_rejection(*rejection, self.executor.clock.stamp())),
                close: None,
            },
        }
    }
}

/// The longest wait before a message is delivered again.
const LONGEST_RETRY: i32 = 60;

/// Seconds until a message is delivered again that was received so often: 5, 10, 20, 40, then 60.
fn retry_seconds(receives: u32) -> i32 {
    let doublings = receives.saturating_sub(1).min(4);
    (5 << doublings).min(LONGEST_RETRY)
}

/// How often the message was received, this time included (`ApproximateReceiveCount`).
fn receives(record: &SqsMessage) -> u32 {
    let count = record.attributes.get("ApproximateReceiveCount");
    count.and_then(|count| count.parse().ok()).unwrap_or(1)
}

/// What an input is.
enum Kind {
    Messages,
    Mode,
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
            Kind::Mode
        } else {
            Kind::Request
        }
    }
}

enum Mode {
    Audit,
    ListBlocks,
}

fn mode(input: &str) -> Result<Mode, Diagnostic> {
    let members: HashMap<String, Value> = serde_json::from_str(input).unwrap_or_default();
    let mode = match members.get("mode").and_then(Value::as_str) {
        Some("audit") => Mode::Audit,
        Some("list_blocks") => Mode::ListBlocks,
        _ => {
            let message = "mode must be \"audit\" or \"list_blocks\"".to_owned();
            return Err(failure("InvalidInput", message));
        }
    };
    match members.keys().find(|name| *name != "mode") {
        None => Ok(mode),
        Some(unknown) => {
            let message = format!("{} is not known beside mode", shortened(unknown));
            Err(failure("InvalidInput", message))
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
        capability = outcome.capability,
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
