//! The poller's Lambda function.

use std::time::Duration;

use aws_support::credentials::with_static_credentials;
use aws_support::metrics::StandardOutput;
use aws_support::{Deadline, SystemClock, sdk};
use lambda_runtime::{Diagnostic, LambdaEvent, run, service_fn, tracing};
use poller::dynamodb::DynamoLedger;
use poller::security_hub::SecurityHub;
use poller::sqs::SqsQueue;
use poller::{Config, Poller};
use serde_json::Value;
use tokio::sync::OnceCell;

/// Kept free at the end of an invocation for the report and its log line, and for recording what was sent.
const RESERVE: Duration = Duration::from_secs(1);

type RealPoller = Poller<SecurityHub, SqsQueue, DynamoLedger<SystemClock>, SystemClock, StandardOutput>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    sdk::restart_without_empty_endpoint_urls()?;
    tracing::init_default_subscriber();
    let config = Config::from_env().inspect_err(|error| {
        tracing::error!(%error, "the function cannot start: the settings are not usable");
    })?;
    // The clients are made by the first event: until then nothing but the settings is needed.
    let poller = OnceCell::new();
    run(service_fn(async |event: LambdaEvent<Value>| {
        let deadline = Deadline::before(event.context.deadline(), RESERVE);
        let poller: &RealPoller = poller.get_or_try_init(|| connect(&config)).await?;
        poller
            .handle(&event.payload, &event.context.request_id, &deadline)
            .await
    }))
    .await
}

async fn connect(config: &Config) -> Result<RealPoller, Diagnostic> {
    let aws = sdk::load().await;
    let dynamodb = aws_sdk_dynamodb::Client::new(&aws);
    // Queue and table are the function's own; Security Hub may be read with a static key.
    let (hubs, _key) = with_static_credentials(&aws, config.static_credentials_secret_arn.as_deref());
    Ok(Poller {
        source: SecurityHub::new(&hubs, &config.regions).ok_or("the SDK has no HTTP client")?,
        sink: SqsQueue::new(aws_sdk_sqs::Client::new(&aws), config.findings_queue_url.clone()),
        ledger: DynamoLedger::new(dynamodb, config.state_table_name.clone(), config.state_ttl, SystemClock),
        clock: SystemClock,
        metrics: StandardOutput,
        config: config.clone(),
    })
}
