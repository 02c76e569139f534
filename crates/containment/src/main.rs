//! The containment Lambda function.

use std::time::Duration;

use anyhow::Context as _;
use aws_support::{Deadline, SystemClock, sdk};
use containment::accounts::AwsAccounts;
use containment::results::ResultsQueue;
use containment::{Config, Containment, Executor};
use lambda_runtime::{LambdaEvent, run, service_fn, tracing};
use serde_json::value::RawValue;

/// Kept free at the end of an invocation for the answer and its log lines.
const RESERVE: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    sdk::restart_without_empty_endpoint_urls()?;
    tracing::init_default_subscriber();
    let containment = containment().await.inspect_err(|error| {
        tracing::error!(error = format!("{error:#}"), "the function cannot start");
    })?;
    run(service_fn(async |event: LambdaEvent<Box<RawValue>>| {
        let deadline = Deadline::before(event.context.deadline(), RESERVE);
        containment
            .handle(event.payload.get(), &event.context.request_id, &deadline)
            .await
    }))
    .await
}

async fn containment() -> anyhow::Result<Containment<AwsAccounts, SystemClock, ResultsQueue>> {
    let config = Config::from_env().context("the settings are not usable")?;
    let aws = sdk::load().await;
    let sts = aws_sdk_sts::Client::new(&aws);
    let sqs = aws_sdk_sqs::Client::new(&aws);
    Ok(Containment {
        executor: Executor {
            region: config.region,
            policy: config.policy,
            accounts: AwsAccounts::new(aws, sts, config.external_id),
            clock: SystemClock,
        },
        results: ResultsQueue::new(sqs, config.results_queue_url),
    })
}
