//! The floor: the least program that makes the poller's transfers with the same SDK. It fetches the pages, at the same
//! rate, and sends as many messages of as many bytes in as many batches; it reads nothing but the next page's token,
//! knows nothing of what was delivered, and keeps no checkpoint.

use std::time::Duration;

use anyhow::Context as _;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use aws_support::credentials::StaticKey;
use aws_support::{Deadline, sdk};
use aws_text::Region;
use jiff::Timestamp;
use lambda_runtime::{LambdaEvent, run, service_fn};
use poller::security_hub::{Filters, FindingSource, Query, Range, SecurityHub};
use serde_json::{Value, json};

const MESSAGES: usize = 100;
const BATCH: usize = 10;
/// As long as the poller's.
const ATTRIBUTES: [(&str, usize); 5] = [
    ("source", 16),
    ("severity", 6),
    ("event_id", 64),
    ("aws_account_id", 12),
    ("aws_region", 9),
];

struct Floor {
    hub: SecurityHub,
    sqs: Client,
    region: Region,
    queue_url: String,
    /// Of a message's body, beyond a hundredth of the page
    more_bytes: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let aws = sdk::load().await;
    let region: Region = env("AWS_REGION")?.parse()?;
    let floor = Floor {
        hub: SecurityHub::new(&aws, StaticKey::default(), std::slice::from_ref(&region)).context("no HTTP client")?,
        sqs: Client::new(&aws),
        region,
        queue_url: env("FINDINGS_QUEUE_URL")?,
        more_bytes: env("FLOOR_MORE_BYTES")?.parse()?,
    };
    let poll = async |_: LambdaEvent<Value>| floor.poll().await.map_err(|error| format!("{error:#}"));
    run(service_fn(poll)).await.map_err(anyhow::Error::from_boxed)
}

fn env(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}

impl Floor {
    async fn poll(&self) -> anyhow::Result<Value> {
        let deadline = Deadline::after(Duration::from_hours(1));
        let everything = Range {
            start: Timestamp::UNIX_EPOCH,
            end: Timestamp::now(),
        };
        let query = Query::pages(Filters::default(), Some(everything));
        let mut token: Option<String> = None;
        let mut sent = 0;
        loop {
            let page = self.hub.page(&self.region, &query, token.as_deref(), &deadline).await?;
            token = page
                .rsplit_once("\"NextToken\":\"")
                .and_then(|(_, token)| Some(token.split_once('"')?.0.to_owned()));
            sent += self.send(&page).await?;
            if token.is_none() {
                return Ok(json!({ "sent": sent }));
            }
        }
    }

    /// A hundred messages of what the page holds: as many quotes to escape as in events.
    async fn send(&self, page: &str) -> anyhow::Result<usize> {
        let size = page.len() / MESSAGES;
        for batch in 0..MESSAGES / BATCH {
            let entries = (0..BATCH)
                .map(|index| {
                    let start = (batch * BATCH + index) * size;
                    let piece = &page[start..start + size];
                    let mut entry = SendMessageBatchRequestEntry::builder()
                        .id(index.to_string())
                        .message_body([piece, &page[..self.more_bytes]].concat());
                    for (name, bytes) in ATTRIBUTES {
                        let value = MessageAttributeValue::builder()
                            .data_type("String")
                            .string_value("x".repeat(bytes))
                            .build()?;
                        entry = entry.message_attributes(name, value);
                    }
                    entry.build()
                })
                .collect::<Result<Vec<_>, _>>()?;
            let request = self.sqs.send_message_batch().queue_url(&self.queue_url);
            let answer = Box::pin(request.set_entries(Some(entries)).send()).await?;
            anyhow::ensure!(answer.successful().len() == BATCH, "SQS took {:?}", answer.successful());
        }
        Ok(MESSAGES)
    }
}
