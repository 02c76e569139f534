//! The function that does nothing: what Lambda's runtime itself takes to start, its log included, as `cargo lambda new`
//! sets it up.

use lambda_runtime::{LambdaEvent, run, service_fn, tracing};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    tracing::init_default_subscriber();
    run(service_fn(async |_: LambdaEvent<Value>| {
        Ok::<_, lambda_runtime::Error>(Value::Null)
    }))
    .await
}
