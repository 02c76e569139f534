//! The containment Lambda function.

use std::time::Duration;

use aws_support::credentials::with_static_credentials;
use aws_support::metrics::StandardOutput;
use aws_support::{Deadline, SystemClock, sdk};
use containment::aws::accounts::AwsAccounts;
use containment::aws::actions_queue::SqsActionsQueue;
use containment::aws::blocks::DynamoBlocks;
use containment::aws::results::ResultsQueue;
use containment::aws::scheduler::EventBridgeSchedules;
use containment::aws::security_hub::SecurityHub;
use containment::{Config, Containment, Executor, WriteBack};
use lambda_runtime::{LambdaEvent, run, service_fn, tracing};
use serde_json::value::RawValue;
use tokio::sync::OnceCell;

/// Kept free at the end of an invocation for the answer and its log lines.
const RESERVE: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    sdk::restart_without_empty_endpoint_urls()?;
    tracing::init_default_subscriber();
    let config = Config::from_env().inspect_err(|error| {
        tracing::error!(%error, "the function cannot start: the settings are not usable");
    })?;
    // The clients are made by the first event: until then nothing but the settings is needed.
    let containment = OnceCell::new();
    run(service_fn(async |event: LambdaEvent<Box<RawValue>>| {
        let deadline = Deadline::before(event.context.deadline(), RESERVE);
        let containment: &RealContainment = containment.get_or_init(|| connect(config.clone())).await;
        containment
            .handle(event.payload.get(), &event.context.request_id, &deadline)
            .await
    }))
    .await
}

type RealContainment = Containment<
    AwsAccounts,
    DynamoBlocks,
    EventBridgeSchedules,
    SecurityHub,
    SystemClock,
    ResultsQueue,
    SqsActionsQueue,
    StandardOutput,
>;

async fn connect(config: Config) -> RealContainment {
    let aws = sdk::load().await;
    let sqs = aws_sdk_sqs::Client::new(&aws);
    let scheduler = aws_sdk_scheduler::Client::new(&aws);
    let table = aws_sdk_dynamodb::Client::new(&aws);
    // Queues, table and schedules are the function's own; networks and Security Hub may be reached with a static key.
    let (networks, key) = with_static_credentials(&aws, config.static_credentials_secret_arn.as_deref());
    let sts = aws_sdk_sts::Client::new(&networks);
    Containment {
        function_name: config.function_name,
        write_back: WriteBack {
            region: config.region.clone(),
            policy: config.write_back,
            findings: SecurityHub::new(networks.clone(), key.clone()),
            clock: SystemClock,
        },
        executor: Executor {
            region: config.region,
            policy: config.policy,
            accounts: AwsAccounts::new(networks, sts, config.external_id, key),
            table: DynamoBlocks::new(table, config.blocks_table_name),
            schedules: EventBridgeSchedules::new(scheduler, config.schedules),
            clock: SystemClock,
        },
        results: ResultsQueue::new(sqs.clone(), config.results_queue_url),
        actions_queue: SqsActionsQueue::new(sqs, config.actions_queue_url),
        metrics: StandardOutput,
    }
}
