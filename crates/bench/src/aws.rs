//! Security Hub, SQS and DynamoDB, canned: what they answer does not depend on what was asked before, and what was asked
//! is counted.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::findings::{Findings, PAGE, fingerprint};
use crate::http::{Answer, Request};

const JSON: &str = "application/x-amz-json-1.0";

/// What reached the services since the last reset.
#[derive(Debug, Default, Serialize)]
pub struct Seen {
    /// Calls of each operation
    pub calls: BTreeMap<String, u64>,
    /// Findings that were given
    pub findings: u64,
    /// Messages that were sent
    pub messages: u64,
    /// Bytes of their bodies
    pub body_bytes: u64,
    /// Bytes of their attributes
    pub attribute_bytes: u64,
    /// Events of different ids among them
    pub events: usize,
    /// Digests that were put into the ledger
    pub digests_written: usize,
    /// The number after that of the last finding that was given
    #[serde(skip)]
    next: u64,
    #[serde(skip)]
    ids: HashSet<u64>,
    #[serde(skip)]
    given: u64,
    #[serde(skip)]
    sent: u64,
}

impl Seen {
    /// Whether the findings that were given were sent, each once, in `raw_event`, to the letter.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.given == self.sent && self.events as u64 == self.findings && self.messages == self.findings
    }
}

/// Findings, by which the benchmark is measured.
#[derive(Debug)]
pub struct Hub {
    /// What they look like
    pub findings: Findings,
    /// The number of the first
    pub first: u64,
    /// How many there are
    pub count: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetFindings<'a> {
    #[serde(borrow)]
    next_token: Option<Cow<'a, str>>,
    max_results: u64,
    #[serde(borrow)]
    filters: Filters<'a>,
    #[serde(borrow, rename = "SortCriteria")]
    _sort_criteria: &'a RawValue,
}

/// Every contender has to ask for the same.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Filters<'a> {
    #[serde(borrow, rename = "WorkflowStatus")]
    _workflow_status: &'a RawValue,
    #[serde(borrow, rename = "RecordState")]
    _record_state: &'a RawValue,
    updated_at: [DateFilter; 1],
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DateFilter {
    start: Timestamp,
}

/// A page of the ledger, or something else.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutItem<'a> {
    #[serde(borrow)]
    item: Item<'a>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    digests: Option<Binary<'a>>,
}

#[derive(Deserialize)]
struct Binary<'a> {
    #[serde(rename = "B")]
    base64: &'a str,
}

/// Bytes of a digest in the ledger.
const DIGEST: usize = 16;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SendMessageBatch<'a> {
    #[serde(borrow)]
    entries: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<'a> {
    id: &'a str,
    #[serde(borrow)]
    message_body: Cow<'a, str>,
    #[serde(borrow)]
    message_attributes: BTreeMap<&'a str, Attribute<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute<'a> {
    string_value: &'a str,
}

/// The body of a message, where it is an event.
#[derive(Deserialize)]
struct Event<'a> {
    event_id: &'a str,
    #[serde(borrow)]
    raw_event: &'a RawValue,
}

/// The answer to a call of a service with JSON; `None` where there is no such call.
pub fn answer(request: &Request, hub: &Hub, seen: &mut Seen) -> Option<Answer> {
    let operation = match (request.target.split_once('.'), request.path.as_str()) {
        (Some((_, operation)), _) => operation,
        (None, "/findings") => "GetFindings",
        (None, _) => return None,
    };
    *seen.calls.entry(operation.to_owned()).or_default() += 1;
    let body = str::from_utf8(&request.body).unwrap_or_default();
    let answer = match operation {
        "GetFindings" => serde_json::from_str(body).map(|asked| page(&asked, hub, seen)),
        "SendMessageBatch" => serde_json::from_str(body).map(|batch| take(&batch, seen)),
        "SendMessage" => Ok(r#"{"MessageId":"m","MD5OfMessageBody":"00000000000000000000000000000000"}"#.to_owned()),
        // Nothing is known, and nothing is kept: every poll starts anew.
        "Query" => Ok(r#"{"Items":[],"Count":0,"ScannedCount":0}"#.to_owned()),
        "PutItem" => serde_json::from_str::<PutItem<'_>>(body).map(|put| {
            let base64 = put
                .item
                .digests
                .map_or("", |digests| digests.base64.trim_end_matches('='));
            seen.digests_written += base64.len() * 3 / 4 / DIGEST;
            "{}".to_owned()
        }),
        "GetItem" | "DeleteItem" | "TransactWriteItems" => Ok("{}".to_owned()),
        _ => return None,
    };
    Some(match answer {
        Ok(body) => Answer::ok(JSON, body),
        Err(error) => Answer::refused(&format!("{operation}: {error}")),
    })
}

fn page(asked: &GetFindings<'_>, hub: &Hub, seen: &mut Seen) -> String {
    let skipped: u64 = asked.next_token.as_deref().map_or(0, |token| {
        token.trim_start_matches("page-").parse().unwrap_or(hub.count)
    });
    let [updated] = &asked.filters.updated_at;
    let first = hub.findings.first_since(updated.start).saturating_sub(hub.first);
    let start = hub.count.min(first + skipped);
    let end = hub.count.min(start + asked.max_results.min(PAGE));
    let mut body = String::from("{\"Findings\":[");
    for number in start..end {
        if number > start {
            body.push(',');
        }
        let finding = hub.findings.text(hub.first + number);
        // One that is given again counts once.
        if number >= seen.next {
            seen.given = seen.given.wrapping_add(fingerprint(&finding));
            seen.findings += 1;
            seen.next = number + 1;
        }
        body.push_str(&finding);
    }
    body.push(']');
    if end < hub.count {
        let _ = write!(body, ",\"NextToken\":\"page-{:08}\"", end - first); // writing to a String does not fail
    }
    body.push('}');
    body
}

fn take(batch: &SendMessageBatch<'_>, seen: &mut Seen) -> String {
    let mut successful = Vec::new();
    for entry in &batch.entries {
        seen.messages += 1;
        seen.body_bytes += entry.message_body.len() as u64;
        for (name, attribute) in &entry.message_attributes {
            seen.attribute_bytes += (name.len() + attribute.string_value.len()) as u64;
        }
        // The floor sends as many bytes, but no events.
        if let Ok(event) = serde_json::from_str::<Event<'_>>(&entry.message_body)
            && seen.ids.insert(fingerprint(event.event_id))
        {
            seen.events += 1;
            seen.sent = seen.sent.wrapping_add(fingerprint(event.raw_event.get()));
        }
        successful.push(format!(
            r#"{{"Id":"{}","MessageId":"00000000-0000-4000-8000-000000000000","MD5OfMessageBody":"00000000000000000000000000000000"}}"#,
            entry.id
        ));
    }
    format!(r#"{{"Successful":[{}],"Failed":[]}}"#, successful.join(","))
}
