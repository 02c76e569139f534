//! The actions queue, as far as a message is retried.

use aws_sdk_sqs::Client;
use aws_support::{Deadline, call};

use crate::ports::ActionsQueue;

/// The actions queue in SQS, if its URL is known.
#[derive(Clone, Debug)]
pub struct SqsActionsQueue {
    client: Client,
    url: Option<String>,
}

const CHANGE_VISIBILITY: &str = "sqs:ChangeMessageVisibility";

impl SqsActionsQueue {
    /// The queue at `url`; without one, the queue's visibility time-out applies.
    #[must_use]
    pub fn new(client: Client, url: Option<String>) -> Self {
        Self { client, url }
    }
}

impl ActionsQueue for SqsActionsQueue {
    async fn retry_after(&self, receipt_handle: &str, seconds: i32, deadline: &Deadline) {
        let Some(url) = &self.url else {
            return;
        };
        let request = self
            .client
            .change_message_visibility()
            .queue_url(url)
            .receipt_handle(receipt_handle)
            .visibility_timeout(seconds);
        if let Err(error) = call(CHANGE_VISIBILITY, deadline, request.send()).await {
            tracing::warn!(%error, "the message comes again after the queue's visibility time-out");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_sdk_sqs::error::ErrorMetadata;
    use aws_sdk_sqs::operation::change_message_visibility::{
        ChangeMessageVisibilityError, ChangeMessageVisibilityOutput,
    };
    use aws_smithy_mocks::{Rule, mock};

    use super::*;
    use crate::testing::mock_client;

    fn queue(rule: &Rule, url: Option<&str>) -> SqsActionsQueue {
        SqsActionsQueue::new(mock_client!(aws_sdk_sqs, &[rule]), url.map(str::to_owned))
    }

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_mins(1))
    }

    #[tokio::test]
    async fn a_message_is_delivered_again_after_the_seconds_given() {
        let changed = mock!(Client::change_message_visibility)
            .match_requests(|r| {
                r.queue_url() == Some("https://q")
                    && r.receipt_handle() == Some("h")
                    && r.visibility_timeout() == Some(20)
            })
            .then_output(|| ChangeMessageVisibilityOutput::builder().build());
        queue(&changed, Some("https://q"))
            .retry_after("h", 20, &deadline())
            .await;
        assert_eq!(changed.num_calls(), 1);
        // Without a URL the queue's own visibility time-out applies.
        queue(&changed, None).retry_after("h", 20, &deadline()).await;
        assert_eq!(changed.num_calls(), 1);
    }

    #[tokio::test]
    async fn a_visibility_that_cannot_be_changed_is_no_failure() {
        let denied = mock!(Client::change_message_visibility).then_error(|| {
            ChangeMessageVisibilityError::generic(ErrorMetadata::builder().code("AccessDenied").build())
        });
        queue(&denied, Some("https://q")).retry_after("h", 5, &deadline()).await;
        assert_eq!(denied.num_calls(), 1);
    }
}
