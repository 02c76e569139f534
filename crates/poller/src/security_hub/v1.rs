//! Security Hub, with findings taken as text.
//!
//! The SDK reads a page into types that drop what they do not know, and one member of the wrong type fails the whole
//! page. So the body is taken before the SDK reads it: `Capture` stands between the SDK and its HTTP client for one
//! call, keeps the body of a good answer, and hands the SDK an empty page. Everything else about the call — signing,
//! retries, time-outs, errors — stays the SDK's.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_securityhub::Client;
use aws_sdk_securityhub::config::Builder;
use aws_sdk_securityhub::types::{
    AwsSecurityFindingFilters, DateFilter, SortCriterion, SortOrder, StringFilter, StringFilterComparison,
};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use aws_support::{AwsError, Deadline, ErrorKind, call};
use aws_text::Region;

use governor::clock::Clock as _;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::Instant;

use crate::query::{Query, RECORD_STATE, WORKFLOW_STATUSES};
use crate::report::GET_FINDINGS;

/// Where findings come from.
pub trait FindingSource {
    /// One page of a query: the body of the answer, as it came. `token` is the page's, `None` for the first.
    ///
    /// # Errors
    /// Where there is no page.
    fn page(
        &self,
        region: &Region,
        query: &Query,
        token: Option<&str>,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<String, AwsError>>;

    /// How often the region has asked for fewer requests since this was last called.
    fn take_throttles(&self, region: &Region) -> u64;
}

/// `GetFindings` is limited to 3 requests a second, with bursts of 6, for each account and region (API reference).
const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(3).unwrap();
/// One fewer than the burst that is allowed: requests arrive less evenly than they leave.
const BURST: NonZeroU32 = NonZeroU32::new(5).unwrap();

fn quota() -> Quota {
    Quota::per_second(REQUESTS_PER_SECOND).allow_burst(BURST)
}

/// Attempts of one call, the first included. Others may be using up the region's limit.
const MAX_ATTEMPTS: u32 = 6;
const INITIAL_BACKOFF: Duration = Duration::from_millis(500);

/// Security Hub in several regions.
#[derive(Debug)]
pub struct SecurityHub {
    regions: HashMap<Region, Endpoint>,
    http_client: SharedHttpClient,
}

/// Security Hub in one region.
#[derive(Debug)]
struct Endpoint {
    client: Client,
    gate: Arc<Gate>,
}

/// What every attempt of a region's calls goes through, the SDK's retries included: the published rate, and a pause
/// where Security Hub asks for fewer requests all the same (the limit is the account's, and others use it too). The
/// SDK's adaptive retry mode would do the latter, but waits 20 seconds after a single throttle.
#[derive(Debug)]
struct Gate {
    limiter: DefaultDirectRateLimiter,
    pause: Mutex<Pause>,
    throttles: AtomicU64,
}

/// Until when nothing is sent, and how long that was for.
#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    length: Duration,
}

const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

impl Gate {
    fn new() -> Self {
        Self {
            limiter: RateLimiter::direct(quota()),
            pause: Mutex::new(Pause {
                until: Instant::now(),
                length: Duration::ZERO,
            }),
            throttles: AtomicU64::new(0),
        }
    }

    async fn pass(&self) {
        let until = self.pause().until;
        tokio::time::sleep_until(until).await;
        while let Err(not_yet) = self.limiter.check() {
            let wait = not_yet.wait_time_from(self.limiter.clock().now());
            tokio::time::sleep(wait).await;
        }
    }

    /// Each throttle in a row doubles the pause.
    fn note(&self, answer: &HttpResponse) {
        let code = answer.headers().get("x-amzn-errortype").unwrap_or_default();
        let is_throttle = answer.status().as_u16() == 429 || code.contains("Throttl") || code.contains("LimitExceeded");
        let mut pause = self.pause();
        if is_throttle {
            self.throttles.fetch_add(1, Ordering::Relaxed);
            pause.length = (pause.length * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
            pause.until = Instant::now() + pause.length;
        } else {
            pause.length = Duration::ZERO;
        }
    }

    fn pause(&self) -> MutexGuard<'_, Pause> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SecurityHub {
    /// Clients for `regions`, all with the configuration's HTTP client; `None` where it has none.
    #[must_use]
    pub fn new(config: &SdkConfig, regions: &[Region]) -> Option<Self> {
        let endpoint = |region: &Region| {
            let retry = RetryConfig::standard()
                .with_max_attempts(MAX_ATTEMPTS)
                .with_initial_backoff(INITIAL_BACKOFF);
            let config = Builder::from(config)
                .region(aws_sdk_securityhub::config::Region::new(region.as_str().to_owned()))
                .retry_config(retry)
                .build();
            let endpoint = Endpoint {
                client: Client::from_conf(config),
                gate: Arc::new(Gate::new()),
            };
            (region.clone(), endpoint)
        };
        Some(Self {
            regions: regions.iter().map(endpoint).collect(),
            http_client: config.http_client()?,
        })
    }
}

impl FindingSource for SecurityHub {
    async fn page(
        &self,
        region: &Region,
        query: &Query,
        token: Option<&str>,
        deadline: &Deadline,
    ) -> Result<String, AwsError> {
        let no_page = |message: &str| AwsError::new(GET_FINDINGS, ErrorKind::Unreachable, message.to_owned());
        let endpoint = self
            .regions
            .get(region)
            .ok_or_else(|| no_page("there is no client for the region"))?;
        let capture = Capture::new(self.http_client.clone(), Arc::clone(&endpoint.gate));
        let request = endpoint
            .client
            .get_findings()
            .filters(filters(query))
            .sort_criteria(
                SortCriterion::builder()
                    .field("UpdatedAt")
                    .sort_order(SortOrder::Ascending)
                    .build(),
            )
            .max_results(query.page_size)
            .set_next_token(token.map(str::to_owned))
            .customize()
            .config_override(Builder::default().http_client(capture.clone()));
        call(GET_FINDINGS, deadline, request.send()).await?;
        capture.take().ok_or_else(|| no_page("the answer has no body"))
    }

    fn take_throttles(&self, region: &Region) -> u64 {
        self.regions
            .get(region)
            .map_or(0, |endpoint| endpoint.gate.throttles.swap(0, Ordering::Relaxed))
    }
}

fn filters(query: &Query) -> AwsSecurityFindingFilters {
    let equals = |value: &str| {
        StringFilter::builder()
            .comparison(StringFilterComparison::Equals)
            .value(value)
            .build()
    };
    let any_of = |values: &[String]| (!values.is_empty()).then(|| values.iter().map(|v| equals(v)).collect::<Vec<_>>());
    let updated = query.updated.map(|range| {
        DateFilter::builder()
            .start(range.start.to_string())
            .end(range.end.to_string())
            .build()
    });
    AwsSecurityFindingFilters::builder()
        .set_workflow_status(Some(WORKFLOW_STATUSES.map(equals).into()))
        .record_state(equals(RECORD_STATE))
        .set_severity_label(any_of(&query.narrowing.severity_labels))
        .set_product_name(any_of(&query.narrowing.product_names))
        .set_aws_account_id(any_of(&query.narrowing.aws_account_ids))
        .set_updated_at(updated.map(|range| vec![range]))
        .build()
}

/// Keeps the body of one call's answer, and takes each attempt through the region's gate.
#[derive(Clone, Debug)]
struct Capture {
    inner: SharedHttpClient,
    gate: Arc<Gate>,
    body: Arc<Mutex<Option<String>>>,
}

impl Capture {
    fn new(inner: SharedHttpClient, gate: Arc<Gate>) -> Self {
        Self {
            inner,
            gate,
            body: Arc::default(),
        }
    }

    fn take(&self) -> Option<String> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl HttpClient for Capture {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(CapturingConnector {
            inner: self.inner.http_connector(settings, components),
            gate: Arc::clone(&self.gate),
            body: Arc::clone(&self.body),
        })
    }
}

#[derive(Debug)]
struct CapturingConnector {
    inner: SharedHttpConnector,
    gate: Arc<Gate>,
    body: Arc<Mutex<Option<String>>>,
}

impl HttpConnector for CapturingConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let inner = self.inner.clone();
        let gate = Arc::clone(&self.gate);
        let kept = Arc::clone(&self.body);
        HttpConnectorFuture::new(async move {
            gate.pass().await;
            let mut answer = inner.call(request).await?;
            gate.note(&answer);
            if answer.status().is_success() {
                // A body cut short is an I/O error, which the SDK retries.
                let bytes = ByteStream::new(answer.take_body())
                    .collect()
                    .await
                    .map_err(|error| ConnectorError::io(error.into()))?
                    .into_bytes();
                // JSON is UTF-8. Should one finding hold bytes that are not, they become U+FFFD: SQS takes nothing else.
                let text = String::from_utf8(bytes.into())
                    .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
                *answer.body_mut() = SdkBody::from(r#"{"Findings":[]}"#);
                answer.headers_mut().remove("content-length");
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use aws_config::BehaviorVersion;
    use aws_sdk_securityhub::config::{Credentials, SharedCredentialsProvider};
    use aws_smithy_http_client::test_util::{ReplayEvent, StaticReplayClient, infallible_client_fn};

    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::query::{Narrowing, Range};

    const PAGE: &str =
        "{ \"Findings\": [ {\"Severity\": 7, \"n\": 1.10, \"Unknown\": {\"b\":1,\"a\":[]}} ], \"NextToken\":\"t\" }\n";

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> ReplayEvent {
        let mut response = http::Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        ReplayEvent::new(
            http::Request::new(SdkBody::empty()),
            response.body(SdkBody::from(body)).unwrap(),
        )
    }

    fn hub(events: Vec<ReplayEvent>) -> (SecurityHub, StaticReplayClient) {
        let http = StaticReplayClient::new(events);
        (with_client(http.clone()), http)
    }

    fn with_client(http: impl HttpClient + 'static) -> SecurityHub {
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .sleep_impl(aws_smithy_async::rt::sleep::TokioSleep::new())
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                "id", "secret", None, None, "test",
            )))
            .build();
        SecurityHub::new(&config, &[region()]).unwrap()
    }

    fn all() -> Query {
        Query::pages(Narrowing::default(), None)
    }

    fn region() -> Region {
        "eu-west-1".parse().unwrap()
    }

    async fn page(hub: &SecurityHub, query: &Query, token: Option<&str>) -> Result<String, AwsError> {
        hub.page(&region(), query, token, &Deadline::after(Duration::from_mins(1)))
            .await
    }

    #[tokio::test]
    async fn the_body_comes_as_it_was_sent() {
        let (hub, http) = hub(vec![answer(200, &[("content-length", "999")], PAGE)]);
        assert_eq!(page(&hub, &all(), None).await.unwrap(), PAGE);
        assert_eq!(http.actual_requests().count(), 1);
    }

    #[tokio::test]
    async fn the_query_is_what_security_hub_is_asked() {
        let (hub, http) = hub(vec![answer(200, &[], PAGE)]);
        let range = Range {
            start: "2026-11-01T00:00:00Z".parse().unwrap(),
            end: "2026-11-02T00:00:00.5Z".parse().unwrap(),
        };
        let narrowing = Narrowing {
            severity_labels: vec!["CRITICAL".to_owned(), "HIGH".to_owned()],
            product_names: vec!["GuardDuty".to_owned()],
            aws_account_ids: vec!["111122223333".to_owned()],
        };
        let query = Query::pages(narrowing, Some(range));
        page(&hub, &query, Some("token")).await.unwrap();
        let request = http.actual_requests().next().unwrap();
        assert!(request.uri().contains("securityhub.eu-west-1"));
        let body: serde_json::Value = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "Filters": {
                    "WorkflowStatus": [{"Value": "NEW", "Comparison": "EQUALS"}, {"Value": "NOTIFIED", "Comparison": "EQUALS"}],
                    "RecordState": [{"Value": "ACTIVE", "Comparison": "EQUALS"}],
                    "SeverityLabel": [{"Value": "CRITICAL", "Comparison": "EQUALS"}, {"Value": "HIGH", "Comparison": "EQUALS"}],
                    "ProductName": [{"Value": "GuardDuty", "Comparison": "EQUALS"}],
                    "AwsAccountId": [{"Value": "111122223333", "Comparison": "EQUALS"}],
                    "UpdatedAt": [{"Start": "2026-11-01T00:00:00Z", "End": "2026-11-02T00:00:00.5Z"}],
                },
                "SortCriteria": [{"Field": "UpdatedAt", "SortOrder": "asc"}],
                "NextToken": "token",
                "MaxResults": 100,
            })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_call_is_made_again_and_the_good_answer_kept() {
        let throttled = answer(
            429,
            &[("x-amzn-errortype", "TooManyRequestsException")],
            "{\"message\":\"slow down\"}",
        );
        let (hub, http) = hub(vec![throttled, answer(200, &[], PAGE)]);
        assert_eq!(page(&hub, &all(), None).await.unwrap(), PAGE);
        assert_eq!(http.actual_requests().count(), 2);
        assert_eq!(hub.take_throttles(&region()), 1);
        assert_eq!(hub.take_throttles(&region()), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn error_answers_reach_the_sdk_untouched() {
        for (status, code, kind) in [
            (403, "AccessDeniedException", ErrorKind::AccessDenied),
            (401, "InvalidAccessException", ErrorKind::Rejected),
            (400, "InvalidInputException", ErrorKind::Rejected),
            (403, "ExpiredTokenException", ErrorKind::ExpiredCredentials),
        ] {
            let failed = || {
                answer(
                    status,
                    &[("x-amzn-errortype", code), ("x-amzn-requestid", "r-1")],
                    "{\"Message\":\"because\"}",
                )
            };
            let (hub, _) = hub((0..MAX_ATTEMPTS).map(|_| failed()).collect());
            let error = page(&hub, &all(), None).await.unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert_eq!(
                error.to_string(),
                format!("securityhub:GetFindings failed with {code}: because (request r-1)")
            );
        }
    }

    #[tokio::test]
    async fn calls_side_by_side_get_each_its_own_body() {
        // GIVEN one HTTP client, which answers with the token it was asked with
        let echo = infallible_client_fn(|request: http::Request<SdkBody>| {
            let asked: serde_json::Value = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
            let body = format!("{{\"Findings\":[{}]}}", asked["NextToken"]);
            http::Response::builder().status(200).body(SdkBody::from(body)).unwrap()
        });
        let hub = with_client(echo);
        let query = all();
        let calls = ["1", "2", "3", "4"].map(|token| page(&hub, &query, Some(token)));
        let bodies: Vec<_> = futures::future::join_all(calls)
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(
            bodies,
            ["1", "2", "3", "4"].map(|token| format!("{{\"Findings\":[\"{token}\"]}}"))
        );
    }

    #[test]
    fn three_hundred_pages_take_little_more_than_the_limit_itself_and_never_break_it() {
        // GIVEN a limiter, and Security Hub's own with the whole burst, which see time pass in milliseconds
        let clock = FakeRelativeClock::default();
        let ours = RateLimiter::direct_with_clock(quota(), clock.clone());
        let allowed = Quota::per_second(REQUESTS_PER_SECOND).allow_burst(NonZeroU32::new(6).unwrap());
        let theirs = RateLimiter::direct_with_clock(allowed, clock.clone());
        let mut milliseconds = 0;
        for _ in 0..300 {
            while ours.check().is_err() {
                clock.advance(Duration::from_millis(1));
                milliseconds += 1;
            }
            assert!(theirs.check().is_ok());
        }
        // After the burst of six, the others take a third of a second each.
        let limit = (300 - 6) * 1000 / 3;
        assert!(milliseconds <= limit * 11 / 10, "{milliseconds} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn throttles_in_a_row_make_pauses_that_grow_and_end_with_the_first_good_answer() {
        let gate = Gate::new();
        let throttle = || HttpResponse::new(429.try_into().unwrap(), SdkBody::empty());
        let good = || HttpResponse::new(200.try_into().unwrap(), SdkBody::empty());
        let passing = async || {
            let before = Instant::now();
            gate.pass().await;
            before.elapsed().as_secs()
        };
        let mut pauses = vec![passing().await];
        for answer in [throttle(), throttle(), good(), throttle()] {
            gate.note(&answer);
            pauses.push(passing().await);
        }
        assert_eq!(pauses, [0, 1, 2, 0, 1]);
        for _ in 0..9 {
            gate.note(&throttle());
        }
        assert_eq!(gate.pause().length, LONGEST_PAUSE);
        assert_eq!(gate.throttles.load(Ordering::Relaxed), 12);
    }
}
