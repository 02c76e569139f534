//! Security Hub, with findings taken as text.
//!
//! The SDK reads a page into types that drop what they do not know, and one member of the wrong type fails the whole
//! page. So the body is taken before the SDK reads it: [`Capture`] stands between the SDK and its HTTP client for one
//! call, keeps the body of a good answer, and hands the SDK an empty page. Everything else about the call — signing,
//! retries, time-outs, errors — stays the SDK's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_config::SdkConfig;
use aws_sdk_securityhub::Client;
use aws_sdk_securityhub::config::Builder;
use aws_sdk_securityhub::types::{
    AwsSecurityFindingFilters, DateFilter, SortCriterion, SortOrder, StringFilter, StringFilterComparison,
};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use aws_support::{AwsError, Deadline, ErrorKind, call};
use aws_text::Region;

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
}

/// Security Hub in several regions.
#[derive(Debug)]
pub struct SecurityHub {
    clients: HashMap<Region, Client>,
    http_client: SharedHttpClient,
}

impl SecurityHub {
    /// Clients for `regions`, all with the configuration's HTTP client; `None` where it has none.
    #[must_use]
    pub fn new(config: &SdkConfig, regions: &[Region]) -> Option<Self> {
        let client = |region: &Region| {
            let config = Builder::from(config)
                .region(aws_sdk_securityhub::config::Region::new(region.as_str().to_owned()))
                .build();
            (region.clone(), Client::from_conf(config))
        };
        Some(Self {
            clients: regions.iter().map(client).collect(),
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
        let no_page = |message: &str| AwsError {
            kind: ErrorKind::Unreachable,
            message: message.to_owned(),
            ..AwsError::out_of_time(GET_FINDINGS)
        };
        let client = self
            .clients
            .get(region)
            .ok_or_else(|| no_page("there is no client for the region"))?;
        let capture = Capture::new(self.http_client.clone());
        let request = client
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
}

fn filters(query: &Query) -> AwsSecurityFindingFilters {
    let equals = |value: &str| {
        StringFilter::builder()
            .comparison(StringFilterComparison::Equals)
            .value(value)
            .build()
    };
    let updated = query.updated.map(|(start, end)| {
        DateFilter::builder()
            .start(start.to_string())
            .end(end.to_string())
            .build()
    });
    AwsSecurityFindingFilters::builder()
        .set_workflow_status(Some(WORKFLOW_STATUSES.map(equals).into()))
        .record_state(equals(RECORD_STATE))
        .set_updated_at(updated.map(|range| vec![range]))
        .build()
}

/// Keeps the body of one call's answer.
#[derive(Clone, Debug)]
struct Capture {
    inner: SharedHttpClient,
    body: Arc<Mutex<Option<String>>>,
}

impl Capture {
    fn new(inner: SharedHttpClient) -> Self {
        Self {
            inner,
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
            body: Arc::clone(&self.body),
        })
    }
}

#[derive(Debug)]
struct CapturingConnector {
    inner: SharedHttpConnector,
    body: Arc<Mutex<Option<String>>>,
}

impl HttpConnector for CapturingConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let answer = self.inner.call(request);
        let kept = Arc::clone(&self.body);
        HttpConnectorFuture::new(async move {
            let mut answer = answer.await?;
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
    use std::time::Duration;

    use aws_config::{BehaviorVersion, retry::RetryConfig};
    use aws_sdk_securityhub::config::{Credentials, SharedCredentialsProvider};
    use aws_smithy_http_client::test_util::{ReplayEvent, StaticReplayClient};

    use super::*;

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
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http.clone())
            .retry_config(RetryConfig::standard().with_max_attempts(3))
            .sleep_impl(aws_smithy_async::rt::sleep::TokioSleep::new())
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                "id", "secret", None, None, "test",
            )))
            .build();
        (SecurityHub::new(&config, &[region()]).unwrap(), http)
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
        assert_eq!(page(&hub, &Query::all(), None).await.unwrap(), PAGE);
        assert_eq!(http.actual_requests().count(), 1);
    }

    #[tokio::test]
    async fn the_query_is_what_security_hub_is_asked() {
        let (hub, http) = hub(vec![answer(200, &[], PAGE)]);
        let query = Query::updated_between(
            "2026-11-01T00:00:00Z".parse().unwrap(),
            "2026-11-02T00:00:00.5Z".parse().unwrap(),
        );
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
        assert_eq!(page(&hub, &Query::all(), None).await.unwrap(), PAGE);
        assert_eq!(http.actual_requests().count(), 2);
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
            let (hub, _) = hub(vec![failed(), failed(), failed()]);
            let error = page(&hub, &Query::all(), None).await.unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert_eq!(
                error.to_string(),
                format!("securityhub:GetFindings failed with {code}: because (request r-1)")
            );
        }
    }

    #[tokio::test]
    async fn calls_side_by_side_get_each_its_own_body() {
        // GIVEN one HTTP client that answers in the order of the requests
        let (hub, _) = hub(vec![
            answer(200, &[], "{\"Findings\":[1]}"),
            answer(200, &[], "{\"Findings\":[2]}"),
        ]);
        let all = Query::all();
        let (first, second) = tokio::join!(page(&hub, &all, None), page(&hub, &all, None));
        assert_eq!(first.unwrap(), "{\"Findings\":[1]}");
        assert_eq!(second.unwrap(), "{\"Findings\":[2]}");
    }
}
