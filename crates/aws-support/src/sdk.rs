//! The SDK's configuration.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use std::{env, io};

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

/// Time for one attempt, from the signed request to the last byte of the answer. A full page of the largest findings
/// (100 of 240 KB) takes a few seconds.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest wait before the second attempt; it doubles with each further one.
const INITIAL_BACKOFF: Duration = Duration::from_millis(250);

/// How connections are opened, kept and given up.
#[derive(Clone, Copy, Debug)]
struct Connections {
    /// Time to connect
    connect_timeout: Duration,
    /// Time to the first byte of an answer, connecting included
    read_timeout: Duration,
    /// Attempts of one call, the first included
    max_attempts: u32,
    /// Idle connections kept for each host
    max_idle_per_host: usize,
    /// How long a connection is kept idle
    idle_timeout: Duration,
}

impl Connections {
    /// An idle connection can die unnoticed. NAT gateways forget one after 350 seconds (Amazon VPC User Guide,
    /// "Troubleshoot NAT gateways"), firewalls sooner or later and without a reset, and while Lambda has the function
    /// frozen between two invocations, nobody reads what the other side says. A request on such a connection gets no
    /// answer and costs an attempt. Two things keep a call from spending all its attempts that way: fewer idle connections
    /// are kept than a call has attempts, and none is kept for long.
    const FOR_LAMBDA: Self = Self {
        // Within one region it takes milliseconds; beyond this there is no route.
        connect_timeout: Duration::from_secs(3),
        // Two attempts on dead connections and one on a new one fit into a function's minute.
        read_timeout: Duration::from_secs(10),
        max_attempts: 4,
        max_idle_per_host: 2,
        idle_timeout: Duration::from_secs(30),
    };

    fn retry_config(&self) -> RetryConfig {
        RetryConfig::standard()
            .with_max_attempts(self.max_attempts)
            .with_initial_backoff(INITIAL_BACKOFF)
    }

    fn timeout_config(&self) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(self.connect_timeout)
            .read_timeout(self.read_timeout)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build()
    }

    fn http_client(&self) -> SharedHttpClient {
        aws_smithy_http_client::Builder::new()
            .pool_max_idle_per_host(self.max_idle_per_host)
            .pool_idle_timeout(self.idle_timeout)
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https()
    }
}

/// Credentials and region from the function's environment, one HTTP client for all that is made from it. Endpoints
/// follow `AWS_ENDPOINT_URL` and `AWS_ENDPOINT_URL_<SERVICE>`.
pub async fn load() -> SdkConfig {
    let connections = Connections::FOR_LAMBDA;
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(FreshAfterPause::new(connections))
        .retry_config(connections.retry_config())
        .timeout_config(connections.timeout_config())
        // It would watch the speed of every body. Each attempt has a time-out, and each call the invocation's end.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .load()
        .await
}

/// An HTTP client that drops its pool of connections after a pause.
///
/// The pool measures idle time by the monotonic clock, and nothing says whether that clock runs on while Lambda has the
/// function frozen. The wall clock is right after a freeze, so this client compares it with the time of the last
/// attempt, and starts with an empty pool if the pause was longer than a connection is kept.
///
/// The inner client is set up by the first call. By itself the SDK sets one up for each of its clients when that is made,
/// certificates included, and throws it away: only to see early that it can be done.
#[derive(Debug)]
struct FreshAfterPause {
    connections: Connections,
    pool: Mutex<Pool>,
}

#[derive(Debug)]
struct Pool {
    client: SharedHttpClient,
    last_attempt: SystemTime,
}

impl FreshAfterPause {
    fn new(connections: Connections) -> Self {
        Self {
            connections,
            pool: Mutex::new(Pool {
                client: connections.http_client(),
                last_attempt: SystemTime::UNIX_EPOCH,
            }),
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpClient for FreshAfterPause {
    /// Called by the SDK for each attempt.
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let now = components.time_source().unwrap_or_default().now();
        let mut pool = self.pool();
        // A clock that was set back shows no pause; the pool's own time-out still holds.
        let pause = now.duration_since(pool.last_attempt).unwrap_or_default();
        if pause > self.connections.idle_timeout {
            pool.client = self.connections.http_client();
        }
        pool.last_attempt = pool.last_attempt.max(now);
        pool.client.http_connector(settings, components)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.pool().client.connector_metadata()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_credential_types::Credentials;
    use aws_credential_types::provider::SharedCredentialsProvider;
    use aws_sdk_secretsmanager::Client;
    use aws_sdk_secretsmanager::config::Region;
    use aws_smithy_async::rt::sleep::TokioSleep;
    use aws_smithy_async::time::{SharedTimeSource, TimeSource};
    use futures::future::join_all;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Barrier;

    use super::*;

    const SECRET: &str = "{\"SecretString\":\"s\"}";

    /// As in a function, but with time-outs that a test can wait for.
    fn connections() -> Connections {
        Connections {
            read_timeout: Duration::from_millis(300),
            ..Connections::FOR_LAMBDA
        }
    }

    /// A service behind a NAT gateway that can forget every connection there is.
    #[derive(Debug, Default)]
    struct Service {
        /// Connections opened so far
        opened: AtomicUsize,
        /// Of them, how many are forgotten: their packets are dropped
        forgotten: AtomicUsize,
        /// Requests on forgotten connections
        lost: AtomicUsize,
    }

    impl Service {
        /// Starts it; the first `together` requests are answered only when all of them have come.
        async fn start(together: usize) -> (Arc<Self>, String) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let service = Arc::new(Self::default());
            let barrier = Arc::new(Barrier::new(together));
            let serving = Arc::clone(&service);
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let number = serving.opened.fetch_add(1, Ordering::SeqCst);
                    let barrier = (number < together).then(|| Arc::clone(&barrier));
                    tokio::spawn(Arc::clone(&serving).answer(stream, number, barrier));
                }
            });
            (service, url)
        }

        async fn answer(self: Arc<Self>, mut stream: TcpStream, number: usize, mut barrier: Option<Arc<Barrier>>) {
            while read_request(&mut stream).await {
                if number < self.forgotten.load(Ordering::SeqCst) {
                    self.lost.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                if let Some(barrier) = barrier.take() {
                    barrier.wait().await;
                }
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{SECRET}", SECRET.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }

        fn forget_connections(&self) {
            self.forgotten
                .store(self.opened.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }

    /// Reads one request with its body; false at the end of the connection.
    async fn read_request(stream: &mut TcpStream) -> bool {
        let mut text = Vec::new();
        loop {
            let mut bytes = [0; 4096];
            match stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return false,
                Ok(count) => text.extend_from_slice(&bytes[..count]),
            }
            let text = String::from_utf8_lossy(&text).to_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok())
                .unwrap_or_default();
            if body.len() >= length {
                return true;
            }
        }
    }

    /// A wall clock that a test sets.
    #[derive(Clone, Debug, Default)]
    struct WallClock(Arc<Mutex<Duration>>);

    impl WallClock {
        fn advance(&self, time: Duration) {
            *self.0.lock().unwrap() += time;
        }
    }

    impl TimeSource for WallClock {
        fn now(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH + Duration::from_hours(24) + *self.0.lock().unwrap()
        }
    }

    fn client(url: String, clock: WallClock) -> Client {
        let connections = connections();
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(url)
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                "id", "secret", None, None, "test",
            )))
            .sleep_impl(TokioSleep::new())
            .time_source(SharedTimeSource::new(clock))
            .http_client(FreshAfterPause::new(connections))
            .retry_config(connections.retry_config())
            .timeout_config(connections.timeout_config())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .build();
        Client::new(&config)
    }

    async fn ask(client: &Client) -> bool {
        client.get_secret_value().secret_id("s").send().await.is_ok()
    }

    #[test]
    fn a_call_has_more_attempts_than_there_are_idle_connections() {
        let Connections {
            max_attempts,
            max_idle_per_host,
            idle_timeout,
            read_timeout,
            ..
        } = Connections::FOR_LAMBDA;
        assert!(max_idle_per_host + 1 < max_attempts as usize);
        assert!(idle_timeout < Duration::from_secs(350));
        assert!(read_timeout < ATTEMPT_TIMEOUT);
    }

    #[tokio::test]
    async fn a_call_succeeds_though_every_idle_connection_is_dead() {
        let many = 8;
        let (service, url) = Service::start(many).await;
        let client = client(url, WallClock::default());
        assert!(join_all((0..many).map(|_| ask(&client))).await.into_iter().all(|ok| ok));
        assert_eq!(service.opened.load(Ordering::SeqCst), many);
        service.forget_connections();
        assert!(ask(&client).await);
        assert_eq!(
            service.lost.load(Ordering::SeqCst),
            Connections::FOR_LAMBDA.max_idle_per_host
        );
    }

    #[tokio::test]
    async fn after_a_pause_no_idle_connection_is_used() {
        let (service, url) = Service::start(1).await;
        let clock = WallClock::default();
        let client = client(url, clock.clone());
        assert!(ask(&client).await);
        clock.advance(Connections::FOR_LAMBDA.idle_timeout);
        assert!(ask(&client).await);
        assert_eq!(service.opened.load(Ordering::SeqCst), 1, "it is kept until then");
        service.forget_connections();
        // The function is frozen: the monotonic clock, by which the pool measures, may stand still.
        clock.advance(Connections::FOR_LAMBDA.idle_timeout + Duration::from_secs(1));
        assert!(ask(&client).await);
        assert_eq!(service.lost.load(Ordering::SeqCst), 0);
        assert_eq!(service.opened.load(Ordering::SeqCst), 2);
    }
}
