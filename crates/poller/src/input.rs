//! What the function is asked to do.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::security_hub::Range;

/// What the function is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Whether each region answers; nothing is sent
    TestConnection,
    /// To poll
    Poll(Mode),
}

/// What to poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What is new since the last poll, then the sweep
    Incremental,
    /// A whole sweep now: every finding that matches, whenever it was updated
    Reconcile,
    /// The findings updated in a range
    Backfill(Range),
}

/// A mode's name, as it stands in reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ModeName {
    /// `incremental`
    Incremental,
    /// `reconcile`
    Reconcile,
    /// `backfill`
    Backfill,
}

impl Mode {
    /// The mode's name.
    #[must_use]
    pub fn name(&self) -> ModeName {
        match self {
            Mode::Incremental => ModeName::Incremental,
            Mode::Reconcile => ModeName::Reconcile,
            Mode::Backfill(_) => ModeName::Backfill,
        }
    }
}

/// What the poller takes, for its JSON Schema; [`Input::read`] reads it.
#[cfg(feature = "schema")]
pub mod wire {
    use schemars::JsonSchema;

    /// Input of the poller.
    #[derive(Debug, JsonSchema)]
    #[schemars(untagged)]
    pub enum PollInput {
        /// A scheduled event of an EventBridge rule or of EventBridge Scheduler: an incremental poll
        Scheduled(ScheduledEvent),
        /// A poll, or a test of the connection
        Poll(Poll),
        /// The findings updated in a range of time, both ends inclusive
        Backfill(Backfill),
    }

    /// A scheduled event; its other members do not matter, but a `mode` must not stand in it.
    #[derive(Debug, JsonSchema)]
    #[schemars(extend("not" = {"required": ["mode"]}))]
    pub struct ScheduledEvent {
        /// As both senders give it
        #[schemars(rename = "detail-type", extend("const" = "Scheduled Event"))]
        pub detail_type: String,
        /// Who sends it
        #[schemars(extend("enum" = ["aws.events", "aws.scheduler"]))]
        pub source: String,
    }

    /// Without a mode: an incremental poll.
    #[derive(Debug, JsonSchema)]
    #[schemars(deny_unknown_fields)]
    pub struct Poll {
        /// `incremental`: what is new since the last poll, then the sweep. `reconcile`: a whole sweep now, which is every
        /// finding that matches, whenever it was updated. `test_connection`: whether each region answers; nothing is sent
        #[schemars(
            extend("enum" = ["incremental", "reconcile", "test_connection"], "default" = "incremental"),
            with = "String",
            skip_serializing_if = "Option::is_none"
        )]
        pub mode: Option<String>,
    }

    /// A poll of a range of time.
    #[derive(Debug, JsonSchema)]
    #[schemars(deny_unknown_fields)]
    pub struct Backfill {
        /// What is asked for
        #[schemars(extend("const" = "backfill"))]
        pub mode: String,
        /// First instant of the range, RFC 3339 with an offset
        #[schemars(extend("format" = "date-time"))]
        pub start: String,
        /// Last instant of the range, no earlier than the first; it may lie in the future
        #[schemars(extend("format" = "date-time"))]
        pub end: String,
    }
}

/// The input asks for nothing the poller does. `Display` names the member and what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Not an object
    #[error("the input must be a JSON object such as {{\"mode\":\"incremental\"}}, not {found}")]
    NotAnObject {
        /// The type that was found
        found: &'static str,
    },
    /// A member with a wrong value
    #[error("{member} must be {expected}, not {found}")]
    Wrong {
        /// The member's name
        member: &'static str,
        /// What it should be
        expected: &'static str,
        /// What it is, as JSON
        found: String,
    },
    /// A member that the mode needs
    #[error("{member} is missing: {expected}")]
    Missing {
        /// The member's name
        member: &'static str,
        /// What it should be
        expected: &'static str,
    },
    /// A member that the mode does not know
    #[error("{member:?} is no member of this input; known are {known}")]
    Unknown {
        /// The member's name
        member: String,
        /// The members that are known
        known: &'static str,
    },
}

const MODES: &str = "\"incremental\", \"reconcile\", \"backfill\" or \"test_connection\"";
const INSTANT: &str = "an RFC 3339 time with an offset, such as \"2026-11-01T00:00:00Z\"";

impl Input {
    /// Reads the function's input: a scheduled event of an EventBridge rule or of EventBridge Scheduler, or an object
    /// with a `mode`. An object without any member asks for an incremental poll.
    ///
    /// # Errors
    /// [`InputError`] for anything else, an unknown member included.
    pub fn read(input: &Value) -> Result<Self, InputError> {
        let Value::Object(input) = input else {
            return Err(InputError::NotAnObject {
                found: type_name(input),
            });
        };
        if is_scheduled_event(input) {
            return Ok(Self::Poll(Mode::Incremental));
        }
        let mode = match input.get("mode") {
            None => "incremental",
            Some(Value::String(mode)) => mode,
            Some(other) => return Err(wrong("mode", MODES, other)),
        };
        let (asked, known): (_, &[&str]) = match mode {
            "incremental" => (Self::Poll(Mode::Incremental), &["mode"]),
            "reconcile" => (Self::Poll(Mode::Reconcile), &["mode"]),
            "test_connection" => (Self::TestConnection, &["mode"]),
            "backfill" => (Self::Poll(Mode::Backfill(backfill(input)?)), &["mode", "start", "end"]),
            _ => return Err(wrong("mode", MODES, &input["mode"])),
        };
        match input.keys().find(|member| !known.contains(&member.as_str())) {
            None => Ok(asked),
            Some(member) => Err(InputError::Unknown {
                member: member.clone(),
                known: if known.len() == 1 {
                    "mode"
                } else {
                    "mode, start and end"
                },
            }),
        }
    }
}

/// Both senders give `"detail-type":"Scheduled Event"` (EventBridge User Guide, "Creating a rule that runs on a
/// schedule"; Scheduler User Guide, "Templated targets").
fn is_scheduled_event(input: &Map<String, Value>) -> bool {
    let text = |member| input.get(member).and_then(Value::as_str);
    text("detail-type") == Some("Scheduled Event")
        && matches!(text("source"), Some("aws.events" | "aws.scheduler"))
        && !input.contains_key("mode")
}

fn backfill(input: &Map<String, Value>) -> Result<Range, InputError> {
    let instant = |member| match input.get(member) {
        None => Err(InputError::Missing {
            member,
            expected: INSTANT,
        }),
        Some(value) => value
            .as_str()
            .and_then(|text| text.parse::<Timestamp>().ok())
            .ok_or_else(|| wrong(member, INSTANT, value)),
    };
    let (start, end) = (instant("start")?, instant("end")?);
    if start > end {
        return Err(wrong("end", "no earlier than start", &input["end"]));
    }
    Ok(Range { start, end })
}

fn wrong(member: &'static str, expected: &'static str, found: &Value) -> InputError {
    let mut found = found.to_string();
    if found.len() > 80 {
        found = found.chars().take(80).chain(['…']).collect();
    }
    InputError::Wrong {
        member,
        expected,
        found,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(input: &Value) -> String {
        Input::read(input).unwrap_err().to_string()
    }

    #[test]
    fn every_form_is_understood() {
        let scheduled = |source: &str, detail: Value| {
            json!({"version": "0", "id": "1", "detail-type": "Scheduled Event", "source": source, "account": "111122223333",
                   "time": "2026-11-23T10:00:00Z", "region": "us-east-1", "resources": ["arn"], "detail": detail})
        };
        for (input, mode) in [
            (json!({}), Input::Poll(Mode::Incremental)),
            (json!({"mode": "incremental"}), Input::Poll(Mode::Incremental)),
            (scheduled("aws.events", json!({})), Input::Poll(Mode::Incremental)),
            (scheduled("aws.scheduler", json!("{}")), Input::Poll(Mode::Incremental)),
            (json!({"mode": "reconcile"}), Input::Poll(Mode::Reconcile)),
            (json!({"mode": "test_connection"}), Input::TestConnection),
            (
                json!({"mode": "backfill", "start": "2026-11-01T00:00:00Z", "end": "2026-11-02T01:00:00+01:00"}),
                Input::Poll(Mode::Backfill(Range {
                    start: "2026-11-01T00:00:00Z".parse().unwrap(),
                    end: "2026-11-02T00:00:00Z".parse().unwrap(),
                })),
            ),
        ] {
            assert_eq!(Input::read(&input), Ok(mode), "{input}");
        }
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        for (input, message) in [
            (
                json!(null),
                "the input must be a JSON object such as {\"mode\":\"incremental\"}, not null",
            ),
            (
                json!([]),
                "the input must be a JSON object such as {\"mode\":\"incremental\"}, not an array",
            ),
            (
                json!({"mode": "poll"}),
                "mode must be \"incremental\", \"reconcile\", \"backfill\" or \"test_connection\", not \"poll\"",
            ),
            (
                json!({"mode": null}),
                "mode must be \"incremental\", \"reconcile\", \"backfill\" or \"test_connection\", not null",
            ),
            (
                json!({"mode": "incremental", "region": "us-east-1"}),
                "\"region\" is no member of this input; known are mode",
            ),
            (
                json!({"mdoe": "reconcile"}),
                "\"mdoe\" is no member of this input; known are mode",
            ),
            (
                json!({"mode": "reconcile", "start": "2026-11-01T00:00:00Z"}),
                "\"start\" is no member of this input; known are mode",
            ),
            (
                json!({"mode": "backfill", "end": "2026-11-01T00:00:00Z"}),
                "start is missing: an RFC 3339 time with an offset, such as \"2026-11-01T00:00:00Z\"",
            ),
            (
                json!({"mode": "backfill", "start": "yesterday", "end": "2026-11-01T00:00:00Z"}),
                "start must be an RFC 3339 time with an offset, such as \"2026-11-01T00:00:00Z\", not \"yesterday\"",
            ),
            (
                json!({"mode": "backfill", "start": "2026-11-02T00:00:00Z", "end": "2026-11-01T00:00:00Z"}),
                "end must be no earlier than start, not \"2026-11-01T00:00:00Z\"",
            ),
            (
                json!({"mode": "backfill", "start": "2026-11-01T00:00:00Z", "end": "2026-11-01T00:00:00Z", "dry": 1}),
                "\"dry\" is no member of this input; known are mode, start and end",
            ),
            (
                json!({"detail-type": "Security Hub Findings - Imported", "source": "aws.securityhub"}),
                "\"detail-type\" is no member of this input; known are mode",
            ),
        ] {
            assert_eq!(refusal(&input), message);
        }
    }
}
