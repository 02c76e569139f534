//! The poller's Lambda function.

use std::time::Duration;

use aws_support::{Deadline, sdk};
use lambda_runtime::{LambdaEvent, run, service_fn, tracing};
use poller::Config;
use poller::clients::{AwsPoller, connect};
use serde_json::Value;
use tokio::sync::OnceCell;

/// Kept free at the end of an invocation for the report and its log line, and for recording what was sent.
const RESERVE: Duration = Duration::from_secs(1);

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
        let poller: &AwsPoller = poller.get_or_try_init(|| connect(&config)).await?;
        let run = &event.context.request_id;
        poller.handle(&event.payload, run, &deadline).await
    }))
    .await
}
