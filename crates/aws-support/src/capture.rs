//! Takes the body of an answer of Security Hub before the SDK reads it.
//!
//! The SDK reads findings into types that drop what they do not know, one member of another type than expected fails the
//! whole answer, and that code needs more stack than a function has in a debug build. `Capture` stands between the SDK
//! and its HTTP client for one call, keeps the body of a good answer, and hands the SDK one without findings. Everything
//! else about the call — signing, time-outs, errors — stays the SDK's.

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
pub struct Capture {
    inner: SharedHttpClient,
    body: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Capture {
    /// Calls with this client.
    #[must_use]
    pub fn new(inner: SharedHttpClient) -> Self {
        Self {
            inner,
            body: Arc::default(),
        }
    }

    /// The body, where there was a good answer.
    #[must_use]
    pub fn take(&self) -> Option<Vec<u8>> {
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
    body: Arc<Mutex<Option<Vec<u8>>>>,
}

impl HttpConnector for CapturingConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (inner, kept) = (self.inner.clone(), Arc::clone(&self.body));
        HttpConnectorFuture::new(async move {
            let mut answer = inner.call(request).await?;
            if answer.status().is_success() {
                // A body cut short is an I/O error, after which the call is made again.
                let bytes = ByteStream::new(answer.take_body())
                    .collect()
                    .await
                    .map_err(|error| ConnectorError::io(error.into()))?
                    .into_bytes();
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes.into());
                *answer.body_mut() = SdkBody::from(r#"{"Findings":[]}"#);
                answer.headers_mut().remove("content-length");
            }
            Ok(answer)
        })
    }
}
