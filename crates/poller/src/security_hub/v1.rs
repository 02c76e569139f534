//! Security Hub CSPM (`GetFindings`).

use std::collections::HashMap;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_securityhub::Client;
use aws_sdk_securityhub::config::Builder;
use aws_sdk_securityhub::types::{
    AwsSecurityFindingFilters, DateFilter, SortCriterion, SortOrder, StringFilter, StringFilterComparison,
};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_support::capture::Capture;
use aws_support::credentials::{Refresh, StaticKey};
use aws_support::{AwsError, Deadline, ErrorKind, call};
use aws_text::Region;

use super::FindingSource;
use super::query::Query;
use super::rate::Gate;

/// The IAM action of `GetFindings`.
pub const GET_FINDINGS: &str = "securityhub:GetFindings";

/// Attempts of one call, the first included. Others may be using up the region's limit.
const MAX_ATTEMPTS: u32 = 6;
const INITIAL_BACKOFF: Duration = Duration::from_millis(500);

/// Security Hub in several regions.
#[derive(Debug)]
pub struct SecurityHub {
    regions: HashMap<Region, Endpoint>,
    http_client: SharedHttpClient,
    key: StaticKey,
}

/// Security Hub in one region.
#[derive(Debug)]
struct Endpoint {
    client: Client,
    /// Of the first attempt
    timeouts: TimeoutConfig,
    gate: Gate,
}

impl SecurityHub {
    /// Clients for `regions`, all with the configuration's HTTP client; `None` where it has none. `key` is what the
    /// configuration signs with.
    #[must_use]
    pub fn new(config: &SdkConfig, key: StaticKey, regions: &[Region]) -> Option<Self> {
        let timeouts = config.timeout_config().cloned().unwrap_or_else(TimeoutConfig::disabled);
        let endpoint = |region: &Region| {
            let config = Builder::from(config)
                .region(aws_sdk_securityhub::config::Region::new(region.as_str().to_owned()))
                // Attempts are made here, each after the wait for the rate limit, which is no part of them.
                .retry_config(RetryConfig::disabled())
                .build();
            let endpoint = Endpoint {
                client: Client::from_conf(config),
                timeouts: timeouts.clone(),
                gate: Gate::new(),
            };
            (region.clone(), endpoint)
        };
        Some(Self {
            regions: regions.iter().map(endpoint).collect(),
            http_client: config.http_client()?,
            key,
        })
    }

    async fn attempt(
        &self,
        endpoint: &Endpoint,
        query: &Query,
        token: Option<&str>,
        patience: u32,
        deadline: &Deadline,
    ) -> Result<String, AwsError> {
        let waited = deadline.bound(endpoint.gate.pass()).await;
        waited.map_err(|_| AwsError::out_of_time(GET_FINDINGS))?;
        let capture = Capture::new(self.http_client.clone());
        let timeouts = &endpoint.timeouts;
        let longer = |time: Option<Duration>| time.map(|time| time * patience);
        let mut attempt = timeouts.to_builder();
        attempt.set_read_timeout(longer(timeouts.read_timeout()));
        attempt.set_operation_attempt_timeout(longer(timeouts.operation_attempt_timeout()));
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
            .config_override(
                Builder::default()
                    .http_client(capture.clone())
                    .timeout_config(attempt.build()),
            );
        call(GET_FINDINGS, deadline, request.send()).await?;
        let body = capture.take().ok_or_else(|| no_page("the answer has no body"))?;
        // JSON is UTF-8. Should one finding hold bytes that are not, they become U+FFFD: SQS takes nothing else.
        Ok(String::from_utf8(body).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}

fn no_page(message: &str) -> AwsError {
    AwsError::new(GET_FINDINGS, ErrorKind::Unreachable, message.to_owned())
}

impl FindingSource for SecurityHub {
    async fn page(
        &self,
        region: &Region,
        query: &Query,
        token: Option<&str>,
        deadline: &Deadline,
    ) -> Result<String, AwsError> {
        let endpoint = self
            .regions
            .get(region)
            .ok_or_else(|| no_page("there is no client for the region"))?;
        let mut refresh = Refresh::default();
        let mut backoff = INITIAL_BACKOFF;
        let mut patience = 1;
        let mut attempt = 1;
        loop {
            let error = match self.attempt(endpoint, query, token, patience, deadline).await {
                Ok(page) => {
                    endpoint.gate.note_other_answer();
                    return Ok(page);
                }
                Err(error) => error,
            };
            if refresh.may_help(&error) {
                self.key.forget().await;
                continue;
            }
            let may_help = match error.kind {
                ErrorKind::Throttled => {
                    endpoint.gate.note_throttle();
                    true
                }
                ErrorKind::Unreachable => {
                    // A page may be large, or the service slow: the next attempt is given twice the time.
                    patience *= 2;
                    let waited = deadline.bound(tokio::time::sleep(backoff)).await;
                    waited.map_err(|_| AwsError::out_of_time(GET_FINDINGS))?;
                    backoff *= 2;
                    true
                }
                ErrorKind::OutOfTime
                | ErrorKind::ExpiredCredentials
                | ErrorKind::CredentialsRefused
                | ErrorKind::AccessDenied
                | ErrorKind::Rejected => false,
            };
            attempt += 1;
            if !may_help || attempt > MAX_ATTEMPTS {
                return Err(error);
            }
        }
    }

    fn take_throttles(&self, region: &Region) -> u64 {
        self.regions
            .get(region)
            .map_or(0, |endpoint| endpoint.gate.take_throttles())
    }
}

fn filters(query: &Query) -> AwsSecurityFindingFilters {
    let equals = |value: &String| {
        StringFilter::builder()
            .comparison(StringFilterComparison::Equals)
            .value(value)
            .build()
    };
    let any_of = |values: &[String]| (!values.is_empty()).then(|| values.iter().map(equals).collect::<Vec<_>>());
    let updated = query.updated.map(|range| {
        DateFilter::builder()
            .start(range.start.to_string())
            .end(range.end.to_string())
            .build()
    });
    AwsSecurityFindingFilters::builder()
        .set_workflow_status(any_of(&query.filters.workflow_statuses))
        .set_record_state(any_of(&query.filters.record_states))
        .set_severity_label(any_of(&query.filters.severity_labels))
        .set_product_name(any_of(&query.filters.product_names))
        .set_aws_account_id(any_of(&query.filters.aws_account_ids))
        .set_updated_at(updated.map(|range| vec![range]))
        .build()
}

#[cfg(test)]
mod tests {
    use aws_config::BehaviorVersion;
    use aws_sdk_securityhub::config::{Credentials, SharedCredentialsProvider};
    use aws_smithy_http_client::test_util::{ReplayEvent, StaticReplayClient, infallible_client_fn};
    use aws_smithy_runtime_api::client::http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
    };
    use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
    use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
    use aws_smithy_types::body::SdkBody;

    use aws_support::sdk::ATTEMPT_TIMEOUT;

    use super::*;
    use crate::security_hub::{Filters, Range};

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
        SecurityHub::new(&config(http), StaticKey::default(), &[region()]).unwrap()
    }

    fn config(http: impl HttpClient + 'static) -> SdkConfig {
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(
                TimeoutConfig::builder()
                    .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                    .build(),
            )
            .sleep_impl(aws_smithy_async::rt::sleep::TokioSleep::new())
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                "id", "secret", None, None, "test",
            )))
            .build()
    }

    fn all() -> Query {
        Query::pages(Filters::default(), None)
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
        let filters = Filters {
            severity_labels: vec!["CRITICAL".to_owned(), "HIGH".to_owned()],
            product_names: vec!["GuardDuty".to_owned()],
            aws_account_ids: vec!["111122223333".to_owned()],
            ..Filters::default()
        };
        let query = Query::pages(filters, Some(range));
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

    #[tokio::test(start_paused = true)]
    async fn waiting_for_the_rate_limit_costs_no_attempt_and_no_page_its_time() {
        // GIVEN a limit that is used up
        let (hub, http) = hub(vec![answer(200, &[], PAGE)]);
        let gate = &hub.regions[&region()].gate;
        for _ in 0..6 {
            gate.note_throttle();
        }
        let before = tokio::time::Instant::now();
        assert_eq!(page(&hub, &all(), None).await.unwrap(), PAGE);
        assert!(before.elapsed() >= Duration::from_secs(8));
        assert_eq!(http.actual_requests().count(), 1);
        // It ends with the invocation.
        gate.note_throttle();
        let soon = Deadline::after(Duration::from_secs(1));
        let error = hub.page(&region(), &all(), None, &soon).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::OutOfTime);
    }

    /// Answers after a while.
    #[derive(Clone, Debug)]
    struct Slow(Duration);

    impl HttpClient for Slow {
        fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
            SharedHttpConnector::new(self.clone())
        }
    }

    impl HttpConnector for Slow {
        fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
            let time = self.0;
            HttpConnectorFuture::new(async move {
                tokio::time::sleep(time).await;
                Ok(HttpResponse::new(200.try_into().unwrap(), SdkBody::from(PAGE)))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_takes_longer_than_an_attempt_is_given_more_time() {
        let hub = with_client(Slow(Duration::from_secs(18)));
        let deadline = Deadline::after(Duration::from_mins(4));
        assert_eq!(hub.page(&region(), &all(), None, &deadline).await.unwrap(), PAGE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_was_replaced_is_read_again_before_it_decides_anything() {
        // GIVEN a secret whose key is another with every read, and a service that knows the second
        let reads = std::sync::atomic::AtomicUsize::new(0);
        let http = infallible_client_fn(move |request: http::Request<SdkBody>| {
            if request.headers().contains_key("x-amz-target") {
                let number = reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
                let key = format!(r#"{{"AccessKeyId":"AKIA{number}","SecretAccessKey":"x"}}"#);
                let body = serde_json::json!({ "SecretString": key }).to_string();
                return http::Response::new(SdkBody::from(body));
            }
            let authorization = request.headers()["authorization"].to_str().unwrap();
            if authorization.contains("Credential=AKIA2/") {
                return http::Response::new(SdkBody::from(PAGE));
            }
            let refused = http::Response::builder()
                .status(403)
                .header("x-amzn-errortype", "UnrecognizedClientException");
            refused.body(SdkBody::from("{}")).unwrap()
        });
        let config = config(http);
        let secret = "arn:aws:secretsmanager:us-east-1:111122223333:secret:key-AbCdEf";
        let (config, key) = aws_support::credentials::with_static_credentials(&config, Some(secret));
        let hub = SecurityHub::new(&config, key, &[region()]).unwrap();
        assert_eq!(page(&hub, &all(), None).await.unwrap(), PAGE);
    }
}
