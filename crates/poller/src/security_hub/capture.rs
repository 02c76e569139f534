//! Takes the body of an answer before the SDK reads it.
//!
//! The SDK reads a page into types that drop what they do not know, and one member of the wrong type fails the whole
//! page. `Capture` stands between the SDK and its HTTP client for one call, keeps the body of a good answer, and hands the
//! SDK an empty page. Everything else about the call — signing, time-outs, errors — stays the SDK's.

use std::sync::{Arc, Mutex, PoisonError};

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;

/// Keeps the body of one call's answer.
#[derive(Clone, Debug)]
pub(super) struct Capture {
    inner: SharedHttpClient,
    body: Arc<Mutex<Option<String>>>,
}

impl Capture {
    pub(super) fn new(inner: SharedHttpClient) -> Self {
        Self {
            inner,
            body: Arc::default(),
        }
    }

    pub(super) fn take(&self) -> Option<String> {
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
        let inner = self.inner.clone();
        let kept = Arc::clone(&self.body);
        HttpConnectorFuture::new(async move {
            let mut answer = inner.call(request).await?;
            if answer.status().is_success() {
                // A body cut short is an I/O error, after which the call is made again.
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
