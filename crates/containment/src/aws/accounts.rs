//! The function's own account, and others by `AssumeRole`.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_support::credentials::StaticKey;
use aws_support::{AwsError, Deadline, ErrorKind, call};
use aws_text::{Region, RoleArn};
use tokio::sync::Mutex;

use super::ec2::Ec2;
use crate::block::failure::ASSUME_ROLE;
use crate::ports::Accounts;

/// The session's name, which CloudTrail records.
const SESSION_NAME: &str = "aisoc-containment";

/// Credentials are used no longer than this before they run out.
const MARGIN: Duration = Duration::from_mins(5);

/// AWS accounts. Credentials of a role are kept for their life, clients for that of their credentials.
#[derive(Debug)]
pub struct AwsAccounts {
    config: SdkConfig,
    sts: aws_sdk_sts::Client,
    external_id: Option<String>,
    key: StaticKey,
    /// Clients of the function's own account
    own: std::sync::Mutex<HashMap<Region, Ec2>>,
    /// Each role has a lock of its own: one that STS is slow to answer for holds up no other
    sessions: std::sync::Mutex<HashMap<RoleArn, Arc<Mutex<Option<Session>>>>>,
}

/// A role's credentials and the clients made with them.
#[derive(Debug)]
struct Session {
    credentials: Credentials,
    clients: HashMap<Region, Ec2>,
}

impl Session {
    fn is_fresh(&self, now: SystemTime) -> bool {
        self.credentials.expiry().is_some_and(|expiry| now + MARGIN < expiry)
    }
}

impl AwsAccounts {
    /// Accounts reached with the configuration's credentials; `key` is the static one among them, if there is one.
    #[must_use]
    pub fn new(config: SdkConfig, sts: aws_sdk_sts::Client, external_id: Option<String>, key: StaticKey) -> Self {
        Self {
            config,
            sts,
            external_id,
            key,
            own: std::sync::Mutex::default(),
            sessions: std::sync::Mutex::default(),
        }
    }

    fn client(&self, region: &Region, credentials: Option<&Credentials>) -> Ec2 {
        let mut config = aws_sdk_ec2::config::Builder::from(&self.config)
            .region(aws_sdk_ec2::config::Region::new(region.as_str().to_owned()));
        if let Some(credentials) = credentials {
            config = config.credentials_provider(credentials.clone());
        }
        Ec2::new(aws_sdk_ec2::Client::from_conf(config.build()))
    }

    fn session(&self, role: &RoleArn) -> Arc<Mutex<Option<Session>>> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(sessions.entry(role.clone()).or_default())
    }

    async fn assume(&self, role: &RoleArn, deadline: &Deadline) -> Result<Credentials, AwsError> {
        let request = self
            .sts
            .assume_role()
            .role_arn(role.as_str())
            .role_session_name(SESSION_NAME)
            .set_external_id(self.external_id.clone());
        let answer = call(ASSUME_ROLE, deadline, request.send()).await?;
        let credentials = answer.credentials.ok_or_else(|| {
            AwsError::new(
                ASSUME_ROLE,
                ErrorKind::Unreachable,
                "the answer holds no credentials".to_owned(),
            )
        })?;
        Ok(Credentials::new(
            credentials.access_key_id,
            credentials.secret_access_key,
            Some(credentials.session_token),
            SystemTime::try_from(credentials.expiration).ok(),
            "AssumeRole",
        ))
    }
}

impl Accounts for AwsAccounts {
    type Network = Ec2;

    async fn network(&self, role: Option<&RoleArn>, region: &Region, deadline: &Deadline) -> Result<Ec2, AwsError> {
        let Some(role) = role else {
            let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
            let client = own.entry(region.clone()).or_insert_with(|| self.client(region, None));
            return Ok(client.clone());
        };
        // Held while the role is assumed: two requests for one role assume it once.
        let session = self.session(role);
        let mut session = session.lock().await;
        let fresh = match session.take().filter(|session| session.is_fresh(SystemTime::now())) {
            Some(fresh) => fresh,
            None => Session {
                credentials: self.assume(role, deadline).await?,
                clients: HashMap::new(),
            },
        };
        let Session { credentials, clients } = session.insert(fresh);
        let client = clients
            .entry(region.clone())
            .or_insert_with(|| self.client(region, Some(credentials)));
        Ok(client.clone())
    }

    async fn forget(&self, role: Option<&RoleArn>) {
        if let Some(role) = role {
            *self.session(role).lock().await = None;
        }
        self.key.forget().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_config::BehaviorVersion;
    use aws_credential_types::provider::SharedCredentialsProvider;
    use aws_sdk_sts::operation::assume_role::{AssumeRoleError, AssumeRoleOutput};
    use aws_smithy_async::rt::sleep::TokioSleep;
    use aws_smithy_http_client::test_util::infallible_client_fn;
    use aws_smithy_mocks::{Rule, create_mock_http_client, mock};
    use aws_smithy_types::DateTime;
    use aws_smithy_types::body::SdkBody;
    use aws_smithy_types::error::ErrorMetadata;

    use aws_support::credentials::with_static_credentials;

    use super::*;
    use crate::testing::mock_client;

    fn accounts(rule: &Rule) -> AwsAccounts {
        let shared = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(create_mock_http_client())
            .build();
        AwsAccounts::new(
            shared,
            mock_client!(aws_sdk_sts, &[rule]),
            Some("external".to_owned()),
            StaticKey::default(),
        )
    }

    fn assumed(valid_for: Duration) -> Rule {
        mock!(aws_sdk_sts::Client::assume_role)
            .match_requests(|r| {
                r.role_session_name() == Some("aisoc-containment") && r.external_id() == Some("external")
            })
            .sequence()
            .output(move || {
                AssumeRoleOutput::builder()
                    .credentials(
                        aws_sdk_sts::types::Credentials::builder()
                            .access_key_id("id")
                            .secret_access_key("secret")
                            .session_token("token")
                            .expiration(DateTime::from(SystemTime::now() + valid_for))
                            .build()
                            .unwrap(),
                    )
                    .build()
            })
            .times(9)
            .build()
    }

    fn role(name: &str) -> RoleArn {
        format!("arn:aws:iam::111122223333:role/{name}").parse().unwrap()
    }

    async fn ask(accounts: &AwsAccounts, role: Option<&RoleArn>, region: &str) -> Result<Ec2, AwsError> {
        accounts
            .network(role, &region.parse().unwrap(), &Deadline::after(Duration::from_mins(1)))
            .await
    }

    #[tokio::test]
    async fn a_role_is_assumed_once_for_all_regions() {
        let rule = assumed(Duration::from_hours(1));
        let accounts = accounts(&rule);
        for region in ["us-east-1", "eu-west-1", "us-east-1"] {
            ask(&accounts, Some(&role("a")), region).await.unwrap();
        }
        assert_eq!(rule.num_calls(), 1);
        ask(&accounts, Some(&role("b")), "us-east-1").await.unwrap();
        assert_eq!(rule.num_calls(), 2);
    }

    #[tokio::test]
    async fn credentials_about_to_run_out_or_forgotten_are_fetched_anew() {
        let rule = assumed(Duration::from_mins(4));
        let short = accounts(&rule);
        for _ in 0..2 {
            ask(&short, Some(&role("a")), "us-east-1").await.unwrap();
        }
        assert_eq!(rule.num_calls(), 2);

        let rule = assumed(Duration::from_hours(1));
        let long = accounts(&rule);
        ask(&long, Some(&role("a")), "us-east-1").await.unwrap();
        long.forget(Some(&role("a"))).await;
        ask(&long, Some(&role("a")), "us-east-1").await.unwrap();
        assert_eq!(rule.num_calls(), 2);
    }

    /// AWS, where every read of the secret gives another key, `AKIA1` first. Notes which key signs each `AssumeRole`.
    fn accounts_with_a_static_key(assumed_with: &Arc<std::sync::Mutex<Vec<String>>>) -> AwsAccounts {
        let assumed_with = Arc::clone(assumed_with);
        let reads = AtomicUsize::new(0);
        let http = infallible_client_fn(move |request: http::Request<SdkBody>| {
            if request.headers().contains_key("x-amz-target") {
                let number = reads.fetch_add(1, Ordering::SeqCst) + 1;
                let key = format!(r#"{{"AccessKeyId":"AKIA{number}","SecretAccessKey":"x"}}"#);
                let body = serde_json::json!({ "SecretString": key }).to_string();
                return http::Response::new(SdkBody::from(body));
            }
            let authorization = request.headers()["authorization"].to_str().unwrap();
            let (_, key) = authorization.split_once("Credential=").unwrap();
            let (key, _) = key.split_once('/').unwrap();
            assumed_with.lock().unwrap().push(key.to_owned());
            http::Response::new(SdkBody::from(
                "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIA</AccessKeyId>\
                 <SecretAccessKey>x</SecretAccessKey><SessionToken>t</SessionToken>\
                 <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>",
            ))
        });
        let shared = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(aws_config::Region::new("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                "role", "x", None, None, "test",
            )))
            .sleep_impl(TokioSleep::new())
            .http_client(http)
            .build();
        let secret = "arn:aws:secretsmanager:us-east-1:111122223333:secret:key-AbCdEf";
        let (networks, key) = with_static_credentials(&shared, Some(secret));
        let sts = aws_sdk_sts::Client::new(&networks);
        AwsAccounts::new(networks, sts, None, key)
    }

    #[tokio::test]
    async fn a_forgotten_role_is_assumed_with_the_key_that_the_secret_holds_now() {
        let assumed_with = Arc::default();
        let accounts = accounts_with_a_static_key(&assumed_with);
        ask(&accounts, Some(&role("a")), "us-east-1").await.unwrap();
        ask(&accounts, Some(&role("b")), "us-east-1").await.unwrap();
        accounts.forget(Some(&role("a"))).await;
        ask(&accounts, Some(&role("a")), "us-east-1").await.unwrap();
        ask(&accounts, Some(&role("b")), "us-east-1").await.unwrap();
        assert_eq!(*assumed_with.lock().unwrap(), ["AKIA1", "AKIA1", "AKIA2"]);
    }

    #[tokio::test]
    async fn without_a_role_the_key_alone_is_forgotten() {
        let assumed_with = Arc::default();
        let accounts = accounts_with_a_static_key(&assumed_with);
        ask(&accounts, Some(&role("a")), "us-east-1").await.unwrap();
        accounts.forget(None).await;
        ask(&accounts, Some(&role("a")), "us-east-1").await.unwrap();
        ask(&accounts, Some(&role("b")), "us-east-1").await.unwrap();
        assert_eq!(*assumed_with.lock().unwrap(), ["AKIA1", "AKIA2"]);
    }

    #[tokio::test]
    async fn without_a_role_none_is_assumed() {
        let rule = assumed(Duration::from_hours(1));
        ask(&accounts(&rule), None, "us-east-1").await.unwrap();
        assert_eq!(rule.num_calls(), 0);
    }

    #[tokio::test]
    async fn a_role_that_cannot_be_assumed_is_an_error_and_no_other_account() {
        let rule = mock!(aws_sdk_sts::Client::assume_role)
            .then_error(|| AssumeRoleError::generic(ErrorMetadata::builder().code("AccessDenied").build()));
        let error = ask(&accounts(&rule), Some(&role("a")), "us-east-1").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::AccessDenied);
        assert_eq!(error.action, "sts:AssumeRole");
    }
}
