//! The containment function's settings.

use aws_support::settings::{Settings, SettingsError, queue_url};
use aws_text::Region;
use containment_plan::Policy;
use containment_plan::target::canonical;
use ipnet::IpNet;

/// The containment function's settings, from its environment variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `AWS_REGION`: where a group is if the request does not say
    pub region: Region,
    /// `RESULTS_QUEUE_URL`: where results go; to the log only if not set
    pub results_queue_url: Option<String>,
    /// `ASSUME_ROLE_EXTERNAL_ID`: given when a role is assumed
    pub external_id: Option<String>,
    /// What may be asked for
    pub policy: Policy,
}

const DEFAULT_TAG: &str = "aisoc:containment=blocklist";

impl Config {
    /// Reads the settings through `lookup`.
    ///
    /// # Errors
    /// Every setting that is missing or wrong, in one error.
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut settings = Settings::new(lookup);
        let region = settings.required("AWS_REGION", str::parse::<Region>);
        let results_queue_url = settings.optional("RESULTS_QUEUE_URL", queue_url);
        let external_id = settings.optional("ASSUME_ROLE_EXTERNAL_ID", |text| Ok::<_, &str>(text.to_owned()));
        let protected = settings.list("PROTECTED_CIDRS", cidr).unwrap_or_default();
        let allow_private = settings.optional("ALLOW_PRIVATE_TARGETS", |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("expected true or false"),
        });
        let allowed_roles = settings.list("ALLOWED_ROLE_ARNS", str::parse).unwrap_or_default();
        let tag = settings
            .optional("CONTAINMENT_TAG", str::parse)
            .or_else(|| DEFAULT_TAG.parse().ok());
        // Who asks for enforcement must not get a function that ignores it.
        settings.optional("ENFORCEMENT", |text| {
            if text == "none" {
                Ok(())
            } else {
                Err("expected none, for this version keeps the record only")
            }
        });
        settings.finish(|| {
            Some(Self {
                region: region?,
                results_queue_url,
                external_id,
                policy: Policy {
                    protected,
                    allow_private: allow_private.unwrap_or(false),
                    allowed_roles,
                    tag: tag?,
                },
            })
        })
    }

    /// Reads the process's environment.
    ///
    /// # Errors
    /// As [`Config::from_lookup`].
    pub fn from_env() -> Result<Self, SettingsError> {
        Self::from_lookup(&|name| std::env::var(name).ok())
    }
}

/// A CIDR block or an address. Host bits are taken off: whoever protects a block with one means all of it.
fn cidr(text: &str) -> Result<IpNet, &'static str> {
    text.parse::<IpNet>()
        .map(|block| canonical(block.trunc()))
        .or_else(|_| {
            text.parse()
                .map(|address: std::net::IpAddr| canonical(IpNet::from(address)))
        })
        .map_err(|_| "expected CIDR blocks such as 198.51.100.0/24")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(set: &[(&str, &str)]) -> Result<Config, SettingsError> {
        Config::from_lookup(&|name| {
            set.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn defaults_refuse_more_rather_than_less() {
        let config = config(&[("AWS_REGION", "us-east-1")]).unwrap();
        assert_eq!(config.results_queue_url, None);
        assert!(!config.policy.allow_private);
        assert!(config.policy.allowed_roles.is_empty());
        assert_eq!(config.policy.tag, DEFAULT_TAG.parse().unwrap());
    }

    #[test]
    fn every_setting_is_read() {
        let config = config(&[
            ("AWS_REGION", "us-east-1"),
            ("RESULTS_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/results"),
            ("ASSUME_ROLE_EXTERNAL_ID", "external"),
            ("PROTECTED_CIDRS", "198.51.100.1/24, 2001:db8::1,::ffff:192.0.2.0/120"),
            ("ALLOW_PRIVATE_TARGETS", "true"),
            (
                "ALLOWED_ROLE_ARNS",
                "arn:aws:iam::*:role/aisoc,arn:aws:iam::111122223333:role/r",
            ),
            ("CONTAINMENT_TAG", "team:list=deny"),
            ("ENFORCEMENT", "none"),
        ])
        .unwrap();
        assert_eq!(
            config.policy.protected,
            ["198.51.100.0/24", "2001:db8::1/128", "192.0.2.0/24"].map(|block| block.parse().unwrap())
        );
        assert!(config.policy.allow_private);
        assert_eq!(config.policy.allowed_roles.len(), 2);
        assert_eq!(config.policy.tag.key, "team:list");
        assert_eq!(config.external_id.as_deref(), Some("external"));
    }

    #[test]
    fn all_that_is_wrong_is_named_at_once() {
        let problems = config(&[
            ("RESULTS_QUEUE_URL", "results"),
            ("PROTECTED_CIDRS", "office"),
            ("ALLOW_PRIVATE_TARGETS", "yes"),
            ("ALLOWED_ROLE_ARNS", "admin"),
            ("CONTAINMENT_TAG", "blocklist"),
            ("ENFORCEMENT", "network-acl"),
        ])
        .unwrap_err()
        .problems;
        let names = [
            "AWS_REGION is not set",
            "RESULTS_QUEUE_URL: ",
            "PROTECTED_CIDRS: ",
            "ALLOW_PRIVATE_TARGETS: ",
            "ALLOWED_ROLE_ARNS: ",
            "CONTAINMENT_TAG: ",
            "ENFORCEMENT: ",
        ];
        assert_eq!(problems.len(), names.len());
        for (problem, name) in problems.iter().zip(names) {
            assert!(problem.starts_with(name), "{problem}");
        }
    }
}
