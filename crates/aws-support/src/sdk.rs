//! The SDK's configuration.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;
use std::{env, io};

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

/// Time to connect. Within one region it takes milliseconds; beyond this there is no route.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for one attempt. A full page of the largest findings (100 of 240 KB) takes a few seconds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// First attempt included.
const MAX_ATTEMPTS: u32 = 4;
/// The longest wait before the second attempt; it doubles with each further one.
const INITIAL_BACKOFF: Duration = Duration::from_millis(250);

/// Credentials and region from the function's environment, one HTTP client for all that is made from it. Endpoints
/// follow `AWS_ENDPOINT_URL` and `AWS_ENDPOINT_URL_<SERVICE>`.
pub async fn load() -> SdkConfig {
    let http_client = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https();
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(OnFirstCall(http_client))
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(MAX_ATTEMPTS)
                .with_initial_backoff(INITIAL_BACKOFF),
        )
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .build(),
        )
        // It would watch the speed of every body. Each attempt has a time-out, and each call the invocation's end.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .load()
        .await
}

/// The HTTP client, set up by the first call. Left to itself the SDK sets one up for each of its clients when that is
/// made, certificates and all, and throws it away: only to see early that it can be done.
#[derive(Debug)]
struct OnFirstCall(SharedHttpClient);

impl HttpClient for OnFirstCall {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        self.0.http_connector(settings, components)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}

/// Starts the program anew without those `AWS_ENDPOINT_URL…` variables that are set but empty, if there are any. The
/// SDK panics on one, and a template can leave a variable empty but not leave it out. A process cannot change its own
/// environment safely; a new one can be given another.
///
/// # Errors
/// Where the program cannot be started anew. On success with such a variable it does not return.
pub fn restart_without_empty_endpoint_urls() -> io::Result<()> {
    let empty: Vec<OsString> = env::vars_os()
        .filter(|(name, value)| value.is_empty() && name.to_string_lossy().starts_with("AWS_ENDPOINT_URL"))
        .map(|(name, _)| name)
        .collect();
    if empty.is_empty() {
        return Ok(());
    }
    let mut command = Command::new(env::current_exe()?);
    command.args(env::args_os().skip(1));
    for name in empty {
        command.env_remove(name);
    }
    Err(command.exec())
}
