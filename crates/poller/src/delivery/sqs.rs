//! The findings queue.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::BuildError;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use aws_support::{AwsError, Deadline, ErrorKind, call};

use super::batch::{EntryOutcome, EventSink, Message};

/// The IAM action of `SendMessageBatch`.
pub const SEND_MESSAGE: &str = "sqs:SendMessage";

/// The findings queue in SQS.
#[derive(Clone, Debug)]
pub struct SqsQueue {
    client: Client,
    url: String,
}

impl SqsQueue {
    /// The queue at `url`.
    #[must_use]
    pub fn new(client: Client, url: String) -> Self {
        Self { client, url }
    }
}

impl EventSink for SqsQueue {
    async fn send(&self, batch: &[&Message], deadline: &Deadline) -> Result<Vec<EntryOutcome>, AwsError> {
        let entries = batch
            .iter()
            .enumerate()
            .map(|(index, message)| entry(index, message))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| AwsError::new(SEND_MESSAGE, ErrorKind::Rejected, error.to_string()))?;
        let request = self
            .client
            .send_message_batch()
            .queue_url(&self.url)
            .set_entries(Some(entries));
        let answer = call(SEND_MESSAGE, deadline, request.send()).await?;

        // An entry that is in neither list is not known to be in the queue.
        let mut outcomes = vec![
            EntryOutcome::Failed {
                code: "NoAnswer".to_owned(),
                message: "the answer of SQS names the entry neither as sent nor as failed".to_owned(),
                sender_fault: false,
            };
            batch.len()
        ];
        let mut set = |id: &str, outcome| {
            if let Some(slot) = id.parse::<usize>().ok().and_then(|id| outcomes.get_mut(id)) {
                *slot = outcome;
            }
        };
        for sent in answer.successful() {
            set(sent.id(), EntryOutcome::Confirmed);
        }
        for failed in answer.failed() {
            set(
                failed.id(),
                EntryOutcome::Failed {
                    code: failed.code().to_owned(),
                    message: failed.message().unwrap_or_default().to_owned(),
                    sender_fault: failed.sender_fault(),
                },
            );
        }
        Ok(outcomes)
    }
}

fn entry(index: usize, message: &Message) -> Result<SendMessageBatchRequestEntry, BuildError> {
    let mut entry = SendMessageBatchRequestEntry::builder()
        .id(index.to_string())
        .message_body(&message.body);
    for (name, value) in &message.attributes {
        let value = MessageAttributeValue::builder()
            .data_type("String")
            .string_value(value)
            .build()?;
        entry = entry.message_attributes(*name, value);
    }
    entry.build()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
    use aws_sdk_sqs::operation::send_message_batch::SendMessageBatchOutput;
    use aws_sdk_sqs::types::{BatchResultErrorEntry, SendMessageBatchResultEntry};
    use aws_smithy_mocks::{MockResponseInterceptor, Rule, create_mock_http_client, mock};

    use super::*;

    fn queue(rule: &Rule) -> SqsQueue {
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
            .http_client(create_mock_http_client())
            .interceptor(MockResponseInterceptor::new().with_rule(rule))
            .build();
        SqsQueue::new(Client::from_conf(config), "https://sqs/1/q".to_owned())
    }

    fn message(number: u8) -> Message {
        Message {
            event_id: asff::EventId::new([number; 32]),
            finding_id: None,
            body: "{}".to_owned(),
            attributes: vec![("severity", "high".to_owned())],
        }
    }

    #[tokio::test]
    async fn both_lists_of_the_answer_are_read_and_an_entry_in_neither_has_failed() {
        let rule = mock!(Client::send_message_batch)
            .match_requests(|request| {
                let attributes = request.entries()[0].message_attributes().unwrap();
                request.queue_url() == Some("https://sqs/1/q")
                    && request.entries().len() == 3
                    && attributes["severity"].string_value() == Some("high")
            })
            .then_output(|| {
                SendMessageBatchOutput::builder()
                    .successful(
                        SendMessageBatchResultEntry::builder()
                            .id("2")
                            .message_id("m")
                            .md5_of_message_body("x")
                            .build()
                            .unwrap(),
                    )
                    .failed(
                        BatchResultErrorEntry::builder()
                            .id("0")
                            .code("InvalidMessageContents")
                            .sender_fault(true)
                            .build()
                            .unwrap(),
                    )
                    .build()
                    .unwrap()
            });
        let list = [1, 2, 3].map(message);
        let batch: Vec<_> = list.iter().collect();
        let outcomes = queue(&rule)
            .send(&batch, &Deadline::after(Duration::from_secs(9)))
            .await
            .unwrap();
        assert!(
            matches!(&outcomes[0], EntryOutcome::Failed { code, sender_fault: true, .. } if code == "InvalidMessageContents")
        );
        assert!(matches!(&outcomes[1], EntryOutcome::Failed { code, sender_fault: false, .. } if code == "NoAnswer"));
        assert_eq!(outcomes[2], EntryOutcome::Confirmed);
    }
}
