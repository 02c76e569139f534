//! What an SDK error means: which call it was, what AWS said, and whether a retry can help.

use std::fmt;
use std::pin::Pin;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::deadline::{Deadline, OutOfTime};

/// What kind of failure it is. Matched without `_`, so that a new kind is decided everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// AWS asked for fewer requests
    Throttled,
    /// No answer, or one that says the service is at fault (HTTP 5xx): a time-out, a dropped connection, no route
    Unreachable,
    /// The credentials have expired; fresh ones come by themselves sooner or later
    ExpiredCredentials,
    /// AWS does not know the credentials, or no longer: the key was replaced, or the session revoked
    CredentialsRefused,
    /// The invocation was about to end
    OutOfTime,
    /// The caller may not do this
    AccessDenied,
    /// AWS refused the request itself
    Rejected,
}

/// A failed AWS call.
#[derive(Clone, Debug)]
pub struct AwsError {
    /// The IAM action of the call, such as `securityhub:GetFindings`
    pub action: &'static str,
    /// What kind of failure it is
    pub kind: ErrorKind,
    /// The error code AWS gave, such as `InvalidGroup.NotFound`
    pub code: Option<String>,
    /// What AWS said, or what stood in the way of asking
    pub message: String,
    /// AWS's id of the request, for a support case
    pub request_id: Option<String>,
}

impl fmt::Display for AwsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed", self.action)?;
        if let Some(code) = &self.code {
            write!(f, " with {code}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(id) = &self.request_id {
            write!(f, " (request {id})")?;
        }
        Ok(())
    }
}

impl std::error::Error for AwsError {}

impl AwsError {
    /// Whether the same call may succeed later without anyone changing anything.
    ///
    /// For refused credentials and denials this holds once fresh credentials have been tried
    /// ([`AwsError::fresh_credentials_may_help`]).
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind {
            ErrorKind::Throttled | ErrorKind::Unreachable | ErrorKind::ExpiredCredentials | ErrorKind::OutOfTime => {
                true
            }
            ErrorKind::CredentialsRefused | ErrorKind::AccessDenied | ErrorKind::Rejected => false,
        }
    }

    /// Whether the call may succeed with fresh credentials. [`crate::credentials::Refresh`] asks this once a request.
    ///
    /// A plain denial is among these: a session that was revoked (IAM's `AWSRevokeOlderSessions`) is denied everything,
    /// and a key whose user was changed may be. Calls that are always made with the execution role are not: nothing of
    /// theirs is cached here.
    #[must_use]
    pub fn fresh_credentials_may_help(&self) -> bool {
        let is_cached = ["ec2:", "securityhub:", "sts:"]
            .iter()
            .any(|service| self.action.starts_with(service));
        is_cached
            && match self.kind {
                ErrorKind::ExpiredCredentials | ErrorKind::CredentialsRefused | ErrorKind::AccessDenied => true,
                ErrorKind::Throttled | ErrorKind::Unreachable | ErrorKind::OutOfTime | ErrorKind::Rejected => false,
            }
    }

    /// Whether AWS answered with this code.
    #[must_use]
    pub fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// A failure that AWS did not give a code for.
    #[must_use]
    pub fn new(action: &'static str, kind: ErrorKind, message: String) -> Self {
        Self {
            action,
            kind,
            code: None,
            message,
            request_id: None,
        }
    }

    /// The call was given up because the invocation was about to end.
    #[must_use]
    pub fn out_of_time(action: &'static str) -> Self {
        Self::new(action, ErrorKind::OutOfTime, OutOfTime.to_string())
    }

    /// Reads what the SDK says of the failed call.
    pub fn from_sdk<E>(action: &'static str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        if let Some(cause) = call_before(error) {
            return cause;
        }
        let meta = error.as_service_error().map(ProvideErrorMetadata::meta);
        let code = meta.and_then(|meta| meta.code()).map(str::to_owned);
        let status = error.raw_response().map(|response| response.status().as_u16());
        Self {
            action,
            kind: kind_of(code.as_deref(), status),
            message: meta
                .and_then(|meta| meta.message())
                .map_or_else(|| chain(error), str::to_owned),
            request_id: meta.and_then(|meta| meta.extra("aws_request_id")).map(str::to_owned),
            code,
        }
    }
}

/// What the error and its causes say, for a person. The SDK's `DisplayErrorContext` would add the `Debug` form, and with
/// it the body of an answer that could not be read, which of `AssumeRole` and `GetSecretValue` holds a key.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// The failure of another call that this one needed: that for its credentials.
fn call_before(error: &dyn std::error::Error) -> Option<AwsError> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(cause) = error.downcast_ref::<AwsError>() {
            return Some(cause.clone());
        }
        source = error.source();
    }
    None
}

/// The codes are those of "Common error types" in the services' API references, "Error codes for the Amazon EC2 API",
/// and what the SDK itself retries (`aws_runtime::retries::classifiers`).
fn kind_of(code: Option<&str>, status: Option<u16>) -> ErrorKind {
    match (code, status) {
        (
            Some(
                "Throttling"
                | "ThrottlingException"
                | "ThrottledException"
                | "RequestThrottledException"
                | "RequestThrottled"
                | "TooManyRequestsException"
                | "LimitExceededException"
                | "RequestLimitExceeded"
                | "ProvisionedThroughputExceededException"
                | "BandwidthLimitExceeded"
                | "SlowDown"
                | "PriorRequestNotComplete"
                | "ConcurrentTagAccess"
                | "EC2ThrottledException"
                | "KMS.ThrottlingException"
                | "KmsThrottled",
            ),
            _,
        )
        | (_, Some(429)) => ErrorKind::Throttled,
        (Some("ExpiredToken" | "ExpiredTokenException" | "RequestExpired" | "TokenRefreshRequired"), _) => {
            ErrorKind::ExpiredCredentials
        }
        (
            Some(
                "AuthFailure"
                | "InvalidClientTokenId"
                | "InvalidAccessKeyId"
                | "UnrecognizedClientException"
                | "MissingAuthenticationToken"
                | "MissingAuthenticationTokenException"
                | "IncompleteSignature"
                | "SignatureDoesNotMatch"
                | "InvalidSignatureException",
            ),
            _,
        ) => ErrorKind::CredentialsRefused,
        (
            Some(
                "AccessDenied"
                | "AccessDeniedException"
                | "UnauthorizedOperation"
                | "UnauthorizedAccess"
                | "NotAuthorized"
                | "OptInRequired"
                | "Blocked"
                | "PendingVerification"
                | "KMS.AccessDeniedException"
                | "KmsAccessDenied",
            ),
            _,
        ) => ErrorKind::AccessDenied,
        (
            Some(
                "InternalError"
                | "InternalFailure"
                | "InternalException"
                | "InternalServerError"
                | "ServiceUnavailable"
                | "ServiceUnavailableException"
                | "Unavailable"
                | "RequestTimeout"
                | "RequestTimeoutException",
            ),
            _,
        )
        | (_, Some(500..)) => ErrorKind::Unreachable,
        (Some(_), _) | (None, Some(400..)) => ErrorKind::Rejected,
        // No answer, or a good status whose body could not be read.
        (None, _) => ErrorKind::Unreachable,
    }
}

/// Makes one AWS call within the deadline. The SDK's own retries happen inside it.
///
/// The SDK's futures are large (some 16 KB) and deeply nested types; behind the box neither reaches the caller's own.
///
/// # Errors
/// [`AwsError`], of kind [`ErrorKind::OutOfTime`] where the deadline came first.
pub fn call<'a, T: 'a, E>(
    action: &'static str,
    deadline: &'a Deadline,
    request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send + 'a,
) -> Pin<Box<dyn Future<Output = Result<T, AwsError>> + Send + 'a>>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    Box::pin(async move {
        match deadline.bound(request).await {
            Ok(answer) => answer.map_err(|error| AwsError::from_sdk(action, &error)),
            Err(OutOfTime) => Err(AwsError::out_of_time(action)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_statuses_have_their_kind() {
        use ErrorKind::{AccessDenied, CredentialsRefused, ExpiredCredentials, Rejected, Throttled, Unreachable};
        for (code, status, kind) in [
            (Some("ThrottlingException"), Some(400), Throttled),
            (Some("RequestLimitExceeded"), Some(503), Throttled),
            (Some("SomethingNew"), Some(429), Throttled),
            (Some("ProvisionedThroughputExceededException"), Some(400), Throttled),
            (Some("ExpiredTokenException"), Some(403), ExpiredCredentials),
            (Some("UnauthorizedOperation"), Some(403), AccessDenied),
            (Some("AccessDeniedException"), Some(400), AccessDenied),
            (Some("UnrecognizedClientException"), Some(403), CredentialsRefused),
            (Some("InvalidClientTokenId"), Some(403), CredentialsRefused),
            (Some("AuthFailure"), Some(401), CredentialsRefused),
            (Some("SignatureDoesNotMatch"), Some(403), CredentialsRefused),
            (Some("InternalException"), Some(500), Unreachable),
            (Some("SomethingNew"), Some(500), Unreachable),
            (None, Some(503), Unreachable),
            (None, Some(200), Unreachable),
            (None, None, Unreachable),
            (Some("InvalidGroup.NotFound"), Some(400), Rejected),
            (None, Some(404), Rejected),
        ] {
            assert_eq!(kind_of(code, status), kind, "{code:?} {status:?}");
        }
    }

    #[test]
    fn only_what_someone_must_change_is_final() {
        let retryable = |kind| {
            AwsError {
                kind,
                ..AwsError::out_of_time("a:B")
            }
            .is_retryable()
        };
        assert!(retryable(ErrorKind::Throttled));
        assert!(retryable(ErrorKind::Unreachable));
        assert!(retryable(ErrorKind::ExpiredCredentials));
        assert!(retryable(ErrorKind::OutOfTime));
        assert!(!retryable(ErrorKind::CredentialsRefused));
        assert!(!retryable(ErrorKind::AccessDenied));
        assert!(!retryable(ErrorKind::Rejected));
    }

    #[test]
    fn fresh_credentials_may_help_where_cached_ones_were_refused() {
        let may_help = |action, kind| AwsError::new(action, kind, String::new()).fresh_credentials_may_help();
        for kind in [
            ErrorKind::ExpiredCredentials,
            ErrorKind::CredentialsRefused,
            ErrorKind::AccessDenied,
        ] {
            for action in ["ec2:DescribeSubnets", "securityhub:GetFindings", "sts:AssumeRole"] {
                assert!(may_help(action, kind), "{action} {kind:?}");
            }
            for action in ["sqs:SendMessage", "secretsmanager:GetSecretValue"] {
                assert!(!may_help(action, kind), "{action} {kind:?}");
            }
        }
        for kind in [
            ErrorKind::Throttled,
            ErrorKind::Unreachable,
            ErrorKind::OutOfTime,
            ErrorKind::Rejected,
        ] {
            assert!(!may_help("ec2:DescribeSubnets", kind), "{kind:?}");
        }
    }

    #[test]
    fn a_call_that_got_no_credentials_fails_as_the_call_for_them_did() {
        use aws_smithy_types::error::metadata::ErrorMetadata;
        let cause = AwsError {
            kind: ErrorKind::AccessDenied,
            ..AwsError::out_of_time("secretsmanager:GetSecretValue")
        };
        let wrapped = aws_credential_types::provider::error::CredentialsError::provider_error(cause);
        let error: SdkError<ErrorMetadata, HttpResponse> = SdkError::construction_failure(wrapped);
        let error = AwsError::from_sdk("ec2:DescribeSecurityGroups", &error);
        assert_eq!(error.action, "secretsmanager:GetSecretValue");
        assert_eq!(error.kind, ErrorKind::AccessDenied);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_does_not_outlive_the_deadline() {
        let deadline = Deadline::after(std::time::Duration::from_secs(3));
        let never = std::future::pending::<
            Result<(), SdkError<aws_smithy_types::error::metadata::ErrorMetadata, HttpResponse>>,
        >();
        let error = call("sqs:SendMessage", &deadline, never).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::OutOfTime);
        assert_eq!(
            error.to_string(),
            "sqs:SendMessage failed: the invocation is about to end"
        );
    }
}
