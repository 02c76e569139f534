//! The results queue.

use actions::Outcome;
use aws_sdk_sqs::Client;
use aws_support::{AwsError, Deadline, ErrorKind, call};
use aws_text::sqs;

use crate::ports::ResultSink;

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
        // A refused request may have held anything.
        let body = serde_json::to_string(outcome)
            .map(sqs::escape_json)
            .map_err(|error| AwsError::new(SEND_MESSAGE, ErrorKind::Rejected, error.to_string()))?;
        let request = self.client.send_message().queue_url(url).message_body(body);
        call(SEND_MESSAGE, deadline, request.send()).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actions::Request;
    use aws_sdk_sqs::error::ErrorMetadata;
    use aws_sdk_sqs::operation::send_message::{SendMessageError, SendMessageOutput};
    use aws_smithy_mocks::{Rule, mock};

    use super::*;
    use crate::testing::mock_client;

    fn results(rule: &Rule, url: Option<&str>) -> ResultsQueue {
        ResultsQueue::new(mock_client!(aws_sdk_sqs, &[rule]), url.map(str::to_owned))
    }

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_mins(1))
    }

    fn answer_to(body: &str) -> Outcome {
        let rejection = Request::read(body, "m-1").unwrap_err();
        Outcome::of_rejection(*rejection, "2026-11-24T10:00:00.000Z".to_owned())
    }

    /// SQS's limit of a message.
    const MAX_BYTES: usize = 1_048_576;

    #[tokio::test]
    async fn a_result_is_sent_as_json_that_sqs_takes() {
        let outcome = answer_to("{\"request_id\":\"r\\ufffe\",\"target\":\"\\u0000\\uffff\"}");
        let expected = serde_json::to_value(&outcome).unwrap();
        let sent = mock!(Client::send_message)
            .match_requests(move |r| {
                let body = r.message_body().unwrap();
                let is_taken = |c: char| c == '\n' || c >= ' ' && c != '\u{fffe}' && c != '\u{ffff}';
                r.queue_url() == Some("https://q")
                    && body.chars().all(is_taken)
                    && serde_json::from_str::<serde_json::Value>(body).unwrap() == expected
            })
            .then_output(|| SendMessageOutput::builder().build());
        results(&sent, Some("https://q"))
            .send(&outcome, &deadline())
            .await
            .unwrap();
        assert_eq!(sent.num_calls(), 1);
        // Without a queue results stand in the log.
        results(&sent, None).send(&outcome, &deadline()).await.unwrap();
        assert_eq!(sent.num_calls(), 1);
    }

    #[tokio::test]
    async fn a_result_is_within_sqs_limit_whatever_was_asked() {
        let huge = "\\uffff".repeat(200_000);
        let ids: Vec<String> = (0..42_000).map(|n| format!("\"acl-{n:08x}\"")).collect();
        for body in [
            format!(r#"{{"request_id":"{huge}","action":"{huge}","target":"{huge}","requested_by":"{huge}"}}"#),
            format!(
                r#"{{"request_id":"r","params":{{"aws_network_acl_ids":[{}]}}}}"#,
                ids.join(",")
            ),
            huge.clone(),
        ] {
            let sent = mock!(Client::send_message)
                .match_requests(|r| r.message_body().unwrap().len() < MAX_BYTES / 10)
                .then_output(|| SendMessageOutput::builder().build());
            let outcome = answer_to(&body);
            results(&sent, Some("https://q"))
                .send(&outcome, &deadline())
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_result_that_sqs_did_not_confirm_is_not_sent() {
        let denied = mock!(Client::send_message)
            .then_error(|| SendMessageError::generic(ErrorMetadata::builder().code("AccessDenied").build()));
        let outcome = answer_to("x");
        let error = results(&denied, Some("https://q"))
            .send(&outcome, &deadline())
            .await
            .unwrap_err();
        assert_eq!((error.action, error.kind), (SEND_MESSAGE, ErrorKind::AccessDenied));
    }
}
