//! Lambda's runtime API: events to the function, answers from it.

use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::http::{Answer, Request};

/// The path under which the runtime API stands.
pub const PATH: &str = "/2018-06-01/runtime/";

/// What a function says.
#[derive(Debug)]
pub enum Said {
    /// It is ready for an event
    Next(Instant),
    /// Its answer
    Answered(Instant, String),
    /// Its error, of an event or of its start
    Failed(String),
}

/// The function's side.
#[derive(Debug)]
pub struct Runtime {
    said: Sender<Said>,
    events: Mutex<Receiver<String>>,
}

impl Runtime {
    /// A runtime API that passes on what the function says, and gives it these events.
    #[must_use]
    pub fn new(said: Sender<Said>, events: Receiver<String>) -> Self {
        Self {
            said,
            events: Mutex::new(events),
        }
    }

    /// Answers a request. One for an event waits until there is one; `None` where there will be none.
    pub fn answer(&self, request: &Request) -> Option<Answer> {
        let now = Instant::now();
        let call = request.path.strip_prefix(PATH).unwrap_or_default();
        let body = String::from_utf8_lossy(&request.body).into_owned();
        if call == "invocation/next" {
            self.said.send(Said::Next(now)).ok()?;
            let event = self.events.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()?;
            return Some(next(event));
        }
        let said = if call.ends_with("/response") {
            Said::Answered(now, body)
        } else {
            Said::Failed(body)
        };
        self.said.send(said).ok()?;
        Some(Answer {
            status: 202,
            ..Answer::ok("application/json", "{}")
        })
    }
}

fn next(event: String) -> Answer {
    // Far away: Lambda's own limit of 15 minutes is not what is measured.
    let deadline = SystemTime::now() + Duration::from_hours(1);
    let milliseconds = deadline.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut answer = Answer::ok("application/json", event);
    answer.headers.extend([
        (
            "lambda-runtime-aws-request-id",
            "00000000-0000-4000-8000-000000000000".to_owned(),
        ),
        ("lambda-runtime-deadline-ms", milliseconds.to_string()),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:us-east-1:123456789012:function:bench".to_owned(),
        ),
    ]);
    answer
}
