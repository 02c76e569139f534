//! A static access key, for users who must use one: kept in Secrets Manager, and read from there only.

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_secretsmanager::Client;
use serde::Deserialize;

use crate::deadline::Deadline;
use crate::error::{AwsError, ErrorKind, call};

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
#[must_use]
pub fn with_static_credentials(config: &SdkConfig, secret_arn: Option<&str>) -> SdkConfig {
    let Some(arn) = secret_arn else {
        return config.clone();
    };
    // arn:aws:secretsmanager:<region>:<account>:secret:<name>
    let region = arn.split(':').nth(3).unwrap_or_default().to_owned();
    let client = aws_sdk_secretsmanager::config::Builder::from(config)
        .region(aws_sdk_secretsmanager::config::Region::new(region))
        .build();
    let provider = SecretCredentials {
        client: Client::from_conf(client),
        secret_arn: arn.to_owned(),
    };
    config
        .to_builder()
        .credentials_provider(SharedCredentialsProvider::new(provider))
        .build()
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

/// Reads the key from its secret.
#[derive(Debug)]
struct SecretCredentials {
    client: Client,
    secret_arn: String,
}

/// What the secret holds.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Key {
    access_key_id: String,
    secret_access_key: String,
}

impl SecretCredentials {
    async fn read(&self) -> Result<Credentials, AwsError> {
        let deadline = Deadline::after(READ_TIMEOUT);
        let request = self.client.get_secret_value().secret_id(&self.secret_arn);
        let answer = call(GET_SECRET_VALUE, &deadline, request.send()).await?;
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

impl ProvideCredentials for SecretCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        // `AwsError::from_sdk` finds the cause again in the error of the call that needed the key.
        future::ProvideCredentials::new(async { self.read().await.map_err(CredentialsError::provider_error) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
