//! The poller's settings.

use aws_support::settings::{Settings, SettingsError, queue_url};
use aws_text::Region;

/// The poller's settings, from its environment variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `FINDINGS_QUEUE_URL`: where events go
    pub findings_queue_url: String,
    /// `SECURITY_HUB_REGIONS`, else the function's own region; each once
    pub regions: Vec<Region>,
}

impl Config {
    /// Reads the settings through `lookup`.
    ///
    /// # Errors
    /// Every setting that is missing or wrong, in one error.
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut settings = Settings::new(lookup);
        let findings_queue_url = settings.required("FINDINGS_QUEUE_URL", queue_url);
        let regions = match settings.list("SECURITY_HUB_REGIONS", str::parse::<Region>) {
            Some(regions) => Some(regions),
            None => settings
                .required("AWS_REGION", str::parse::<Region>)
                .map(|own| vec![own]),
        };
        settings.finish(|| {
            let mut unique = Vec::new();
            for region in regions? {
                if !unique.contains(&region) {
                    unique.push(region);
                }
            }
            Some(Self {
                findings_queue_url: findings_queue_url?,
                regions: unique,
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

    const QUEUE: (&str, &str) = (
        "FINDINGS_QUEUE_URL",
        "https://sqs.us-east-1.amazonaws.com/111122223333/findings",
    );

    #[test]
    fn the_functions_own_region_is_the_default() {
        let config = config(&[QUEUE, ("AWS_REGION", "eu-west-1")]).unwrap();
        assert_eq!(config.findings_queue_url, QUEUE.1);
        assert_eq!(config.regions, ["eu-west-1".parse().unwrap()]);
    }

    #[test]
    fn each_region_is_polled_once() {
        let regions = ("SECURITY_HUB_REGIONS", "us-east-1, eu-west-1,us-east-1,");
        let config = config(&[QUEUE, regions]).unwrap();
        assert_eq!(
            config.regions,
            ["us-east-1".parse().unwrap(), "eu-west-1".parse().unwrap()]
        );
    }

    #[test]
    fn all_that_is_missing_or_wrong_is_named_at_once() {
        assert_eq!(
            config(&[]).unwrap_err().problems,
            ["FINDINGS_QUEUE_URL is not set", "AWS_REGION is not set"]
        );
        assert_eq!(
            config(&[
                ("FINDINGS_QUEUE_URL", "findings"),
                ("SECURITY_HUB_REGIONS", "us-east-1,Ireland"),
                ("AWS_REGION", "us-east-1")
            ])
            .unwrap_err()
            .problems,
            [
                "FINDINGS_QUEUE_URL: expected the URL of an SQS queue, not \"findings\"",
                "SECURITY_HUB_REGIONS: expected a region's code such as us-east-1, not \"us-east-1,Ireland\""
            ]
        );
    }
}
