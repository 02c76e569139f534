//! The results queue.

use aws_sdk_sqs::Client;
use aws_support::{AwsError, Deadline, ErrorKind, call};
use aws_text::sqs;
use containment_plan::Outcome;

/// Takes results.
pub trait ResultSink {
    /// Sends a result.
    ///
    /// # Errors
    /// Where it is not known to be sent.
    fn send(&self, outcome: &Outcome, deadline: &Deadline) -> impl Future<Output = Result<(), AwsError>>;
}

/// The results queue in SQS, if there is one; without one, results stand in the log only.
#[derive(Clone, Debug)]
pub struct ResultsQueue {
    client: Client,
    url: Option<String>,
}

const SEND_MESSAGE: &str = "sqs:SendMessage";

impl ResultsQueue {
    /// The queue at `url`.
    #[must_use]
    pub fn new(client: Client, url: Option<String>) -> Self {
        Self { client, url }
    }
}

impl ResultSink for ResultsQueue {
    async fn send(&self, outcome: &Outcome, deadline: &Deadline) -> Result<(), AwsError> {
        let Some(url) = &self.url else {
            return Ok(());
        };
        // A rejected request may have held anything.
        let body = serde_json::to_string(outcome)
            .map(sqs::escape_json)
            .map_err(|error| AwsError::new(SEND_MESSAGE, ErrorKind::Rejected, error.to_string()))?;
        let request = self.client.send_message().queue_url(url).message_body(body);
        call(SEND_MESSAGE, deadline, request.send()).await?;
        Ok(())
    }
}
