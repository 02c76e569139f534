//! A static access key, for users who must use one: kept in Secrets Manager, and read from there only.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_config::identity::IdentityCache;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_secretsmanager::Client;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::deadline::{Deadline, OutOfTime};
use crate::error::{AwsError, ErrorKind};

/// The IAM action of reading the secret.
pub const GET_SECRET_VALUE: &str = "secretsmanager:GetSecretValue";

/// What to do where the secret cannot be read or holds no key; `role` reads it.
#[must_use]
pub fn remedy(role: &str) -> String {
    format!(
        "allow {GET_SECRET_VALUE} on STATIC_CREDENTIALS_SECRET_ARN (and kms:Decrypt on its key) to {role}, and let the \
         secret hold AccessKeyId and SecretAccessKey"
    )
}

/// How long a key is used before the secret is read again: a key that was replaced is out of use after this.
const KEPT_FOR: Duration = Duration::from_mins(15);
/// The longest wait for the secret; the SDK itself waits no longer for credentials.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The configuration, with the access key of the secret in place of the execution role where there is one.
///
/// It is for calls to Security Hub, EC2 and STS. The function's own queues, table and schedules stay with the role.
///
/// The SDK caches what a provider of credentials gives it, and has no way to drop that. So its cache is turned off for
/// this configuration, and the key is cached in [`StaticKey`].
#[must_use]
pub fn with_static_credentials(config: &SdkConfig, secret_arn: Option<&str>) -> (SdkConfig, StaticKey) {
    let Some(arn) = secret_arn else {
        return (config.clone(), StaticKey::default());
    };
    // arn:aws:secretsmanager:<region>:<account>:secret:<name>
    let region = arn.split(':').nth(3).unwrap_or_default().to_owned();
    let client = aws_sdk_secretsmanager::config::Builder::from(config)
        .region(aws_sdk_secretsmanager::config::Region::new(region))
        .build();
    let key = Arc::new(SecretKey {
        client: Client::from_conf(client),
        secret_arn: arn.to_owned(),
        cached: Mutex::default(),
    });
    let provider: Arc<dyn ProvideCredentials> = Arc::<SecretKey>::clone(&key);
    let config = config
        .to_builder()
        .identity_cache(IdentityCache::no_cache())
        .credentials_provider(SharedCredentialsProvider::new(provider))
        .build();
    (config, StaticKey(Some(key)))
}

/// The cached access key of a configuration; the default one stands for a configuration without.
#[derive(Clone, Debug, Default)]
pub struct StaticKey(Option<Arc<SecretKey>>);

impl StaticKey {
    /// Drops the cached key: the next attempt of any call reads the secret.
    pub async fn forget(&self) {
        if let Some(key) = &self.0 {
            *key.cached.lock().await = None;
        }
    }
}

/// Whether a request has had fresh credentials yet.
///
/// Cached credentials that AWS refuses decide nothing: they are dropped, and the request is tried again. Where fresh ones
/// are refused too, that is final.
#[derive(Debug, Default)]
pub struct Refresh {
    is_done: bool,
}

impl Refresh {
    /// Whether fresh credentials have been tried.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Whether to drop the credentials used and try again; true at most once.
    pub fn may_help(&mut self, error: &AwsError) -> bool {
        let may_help = !self.is_done && error.fresh_credentials_may_help();
        self.is_done |= may_help;
        may_help
    }
}

/// Checks the ARN of a secret.
///
/// # Errors
/// What was expected.
pub fn secret_arn(text: &str) -> Result<String, &'static str> {
    let parts: Vec<&str> = text.splitn(7, ':').collect();
    match parts.as_slice() {
        ["arn", partition, "secretsmanager", region, account, "secret", name]
            if partition.starts_with("aws") && !region.is_empty() && account.len() == 12 && !name.is_empty() =>
        {
            Ok(text.to_owned())
        }
        _ => Err("expected the ARN of a secret such as arn:aws:secretsmanager:us-east-1:111122223333:secret:name"),
    }
}

/// A key in a secret.
#[derive(Debug)]
struct SecretKey {
    client: Client,
    secret_arn: String,
    /// Locked while the secret is read: many calls at once read it once
    cached: Mutex<Option<Credentials>>,
}

/// What the secret holds.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Key {
    access_key_id: String,
    secret_access_key: String,
}

impl SecretKey {
    async fn get(&self) -> Result<Credentials, AwsError> {
        let get = async {
            let mut cached = self.cached.lock().await;
            let now = SystemTime::now();
            if let Some(key) = cached.as_ref().filter(|key| key.expiry().is_some_and(|end| now < end)) {
                return Ok(key.clone());
            }
            Ok(cached.insert(self.read().await?).clone())
        };
        // Not `OutOfTime`: the invocation may have time left.
        let no_answer = || {
            let message = format!("no answer within {} seconds", READ_TIMEOUT.as_secs());
            AwsError::new(GET_SECRET_VALUE, ErrorKind::Unreachable, message)
        };
        let deadline = Deadline::after(READ_TIMEOUT);
        deadline.bound(get).await.unwrap_or_else(|OutOfTime| Err(no_answer()))
    }

    async fn read(&self) -> Result<Credentials, AwsError> {
        let request = self.client.get_secret_value().secret_id(&self.secret_arn);
        let answer = Box::pin(request.send())
            .await
            .map_err(|error| AwsError::from_sdk(GET_SECRET_VALUE, &error))?;
        let key = answer.secret_string().and_then(key).ok_or_else(|| {
            // What it holds instead is told nowhere: it may be the key, written otherwise.
            AwsError::new(
                GET_SECRET_VALUE,
                ErrorKind::AccessDenied,
                format!(
                    "{} does not hold {{\"AccessKeyId\":\"…\",\"SecretAccessKey\":\"…\"}}",
                    self.secret_arn
                ),
            )
        })?;
        Ok(Credentials::new(
            key.access_key_id,
            key.secret_access_key,
            None,
            Some(SystemTime::now() + KEPT_FOR),
            "SecretsManager",
        ))
    }
}

fn key(text: &str) -> Option<Key> {
    let key: Key = serde_json::from_str(text).ok()?;
    let is_usable = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    (is_usable(&key.access_key_id) && is_usable(&key.secret_access_key)).then_some(key)
}

impl ProvideCredentials for SecretKey {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        // `AwsError::from_sdk` finds the cause again in the error of the call that needed the key.
        future::ProvideCredentials::new(async { self.get().await.map_err(CredentialsError::provider_error) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_config::BehaviorVersion;
    use aws_smithy_async::rt::sleep::TokioSleep;
    use aws_smithy_http_client::test_util::infallible_client_fn;
    use aws_smithy_types::body::SdkBody;
    use futures::future::join_all;

    use super::*;

    const SECRET_ARN: &str = "arn:aws:secretsmanager:us-east-1:111122223333:secret:key-AbCdEf";

    /// AWS, where every read of the secret gives another key, `AKIA1` first, and the one that signs a call is noted.
    #[derive(Clone, Default)]
    struct Aws {
        reads: Arc<AtomicUsize>,
        signed_with: Arc<std::sync::Mutex<Vec<String>>>,
    }

    impl Aws {
        fn config(&self) -> SdkConfig {
            let aws = self.clone();
            let http = infallible_client_fn(move |request: http::Request<SdkBody>| {
                let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
                let body = if header("x-amz-target").ends_with("GetSecretValue") {
                    let number = aws.reads.fetch_add(1, Ordering::SeqCst) + 1;
                    let key = format!(r#"{{"AccessKeyId":"AKIA{number}","SecretAccessKey":"x"}}"#);
                    serde_json::json!({ "SecretString": key }).to_string()
                } else {
                    let authorization = header("authorization");
                    let (_, key) = authorization.split_once("Credential=").unwrap();
                    let (key, _) = key.split_once('/').unwrap();
                    aws.signed_with.lock().unwrap().push(key.to_owned());
                    "{}".to_owned()
                };
                http::Response::new(SdkBody::from(body))
            });
            SdkConfig::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(aws_config::Region::new("us-east-1"))
                .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                    "role", "x", None, None, "test",
                )))
                .identity_cache(IdentityCache::lazy().build())
                .sleep_impl(TokioSleep::new())
                .http_client(http)
                .build()
        }

        /// A call with the key: any service will do.
        async fn call(config: &SdkConfig) {
            let client = Client::new(config);
            client.describe_secret().secret_id("another").send().await.unwrap();
        }

        fn signed_with(&self) -> Vec<String> {
            self.signed_with.lock().unwrap().clone()
        }
    }

    #[tokio::test]
    async fn the_key_is_read_once_for_all_clients_and_anew_after_it_is_forgotten() {
        let aws = Aws::default();
        let (config, key) = with_static_credentials(&aws.config(), Some(SECRET_ARN));
        join_all((0..3).map(|_| Aws::call(&config))).await;
        assert_eq!(aws.signed_with(), ["AKIA1"; 3]);
        key.forget().await;
        join_all((0..2).map(|_| Aws::call(&config))).await;
        assert_eq!(aws.signed_with()[3..], ["AKIA2"; 2]);
        assert_eq!(aws.reads.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_client_that_was_made_before_uses_the_fresh_key() {
        let aws = Aws::default();
        let (config, key) = with_static_credentials(&aws.config(), Some(SECRET_ARN));
        let client = Client::new(&config);
        let call = async || client.describe_secret().secret_id("another").send().await.unwrap();
        call().await;
        call().await;
        key.forget().await;
        call().await;
        assert_eq!(aws.signed_with(), ["AKIA1", "AKIA1", "AKIA2"]);
    }

    #[tokio::test]
    async fn without_a_secret_there_is_nothing_to_forget() {
        let aws = Aws::default();
        let (config, key) = with_static_credentials(&aws.config(), None);
        key.forget().await;
        Aws::call(&config).await;
        assert_eq!(aws.signed_with(), ["role"]);
    }

    #[test]
    fn fresh_credentials_are_tried_once() {
        let refused = AwsError::new("ec2:DescribeSubnets", ErrorKind::CredentialsRefused, String::new());
        let throttled = AwsError::new("ec2:DescribeSubnets", ErrorKind::Throttled, String::new());
        let mut refresh = Refresh::default();
        assert!(!refresh.may_help(&throttled));
        assert!(refresh.may_help(&refused));
        assert!(!refresh.may_help(&refused), "the fresh ones are refused too");
    }

    #[test]
    fn arns() {
        for good in [
            "arn:aws:secretsmanager:us-east-1:111122223333:secret:aisoc/key-AbCdEf",
            "arn:aws-us-gov:secretsmanager:us-gov-west-1:111122223333:secret:x",
        ] {
            assert_eq!(secret_arn(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "AKIAIOSFODNN7EXAMPLE",
            "arn:aws:secretsmanager:us-east-1:111122223333:secret:",
            "arn:aws:secretsmanager::111122223333:secret:x",
            "arn:aws:ssm:us-east-1:111122223333:parameter/x",
        ] {
            assert!(secret_arn(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_whole_key_is_one() {
        assert!(key(r#"{"AccessKeyId":"AKIAIOSFODNN7EXAMPLE","SecretAccessKey":"wJalr"}"#).is_some());
        for bad in [
            "",
            "wJalr",
            r#"{"AccessKeyId":"AKIAIOSFODNN7EXAMPLE"}"#,
            r#"{"AccessKeyId":"","SecretAccessKey":"x"}"#,
            r#"{"AccessKeyId":"a b","SecretAccessKey":"x"}"#,
            r#"{"AccessKeyId":"a","SecretAccessKey":"x","SessionToken":"y"}"#,
            r#"{"accessKeyId":"a","secretAccessKey":"x"}"#,
        ] {
            assert!(key(bad).is_none(), "{bad}");
        }
    }
}
