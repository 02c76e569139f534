//! The poller with AWS behind it.

use aws_support::credentials::with_static_credentials;
use aws_support::metrics::StandardOutput;
use aws_support::{SystemClock, sdk};
use lambda_runtime::Diagnostic;

use crate::delivery::sqs::SqsQueue;
use crate::security_hub::SecurityHub;
use crate::state_table::StateTable;
use crate::{Config, Poller};

/// The poller in a Lambda function.
pub type AwsPoller = Poller<SecurityHub, SqsQueue, StateTable<SystemClock>, SystemClock, StandardOutput>;

/// Makes the clients.
///
/// # Errors
/// Where the SDK has no HTTP client.
pub async fn connect(config: &Config) -> Result<AwsPoller, Diagnostic> {
    let aws = sdk::load().await;
    let dynamodb = aws_sdk_dynamodb::Client::new(&aws);
    // Queue and table are the function's own; Security Hub may be read with a static key.
    let (hubs, key) = with_static_credentials(&aws, config.static_credentials_secret_arn.as_deref());
    Ok(Poller {
        source: SecurityHub::new(&hubs, key, &config.regions).ok_or("the SDK has no HTTP client")?,
        sink: SqsQueue::new(aws_sdk_sqs::Client::new(&aws), config.findings_queue_url.clone()),
        table: StateTable::new(dynamodb, config.state_table_name.clone(), config.state_ttl, SystemClock),
        clock: SystemClock,
        metrics: StandardOutput,
        memory: crate::delivery::ledger::Memory::default(),
        config: config.clone(),
    })
}
