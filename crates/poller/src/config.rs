//! The poller's settings.

use std::time::Duration;

use aws_support::credentials::secret_arn;
use aws_support::settings::{Settings, SettingsError, queue_url};
use aws_text::Region;
use jiff::SignedDuration;

use crate::poll::checkpoint::Lookback;
use crate::poll::region::SweepEvery;
use crate::security_hub::Filters;

/// The poller's settings, from its environment variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `AWS_LAMBDA_FUNCTION_NAME`: whose metrics they are
    pub function_name: String,
    /// `FINDINGS_QUEUE_URL`: where events go
    pub findings_queue_url: String,
    /// `STATE_TABLE_NAME`: the DynamoDB table of checkpoints and of what was delivered
    pub state_table_name: String,
    /// `SECURITY_HUB_REGIONS`, else the function's own region; each once
    pub regions: Vec<Region>,
    /// `WORKFLOW_STATUSES`, `RECORD_STATES`, `SEVERITY_LABELS`, `PRODUCT_NAMES`, `AWS_ACCOUNT_IDS`
    pub filters: Filters,
    /// `LOOKBACK_SECONDS`, `INITIAL_LOOKBACK_SECONDS`, `PUSH_SETTLE_SECONDS`
    pub lookback: Lookback,
    /// `SWEEP_HOURS`: a pass of the sweep begins at most so often; 0 turns it off
    pub sweep_every: SweepEvery,
    /// `STATE_TTL_DAYS`: how long a delivery is remembered
    pub state_ttl: Duration,
    /// `STATIC_CREDENTIALS_SECRET_ARN`: where a static access key is, for Security Hub
    pub static_credentials_secret_arn: Option<String>,
}

/// Security Hub keeps findings 90 days after their last update ("Quotas" in its user guide). A delivery that is
/// forgotten sooner would be made again.
const MIN_STATE_TTL_DAYS: u64 = 91;
/// The most values of one filter (`AwsSecurityFindingFilters` in the Security Hub API reference).
const MAX_FILTER_VALUES: usize = 20;
const DAY: Duration = Duration::from_hours(24);

impl Config {
    /// Reads the settings through `lookup`.
    ///
    /// # Errors
    /// Every setting that is missing or wrong, in one error.
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut settings = Settings::new(lookup);
        let function_name = settings.function_name();
        let findings_queue_url = settings.required("FINDINGS_QUEUE_URL", queue_url);
        let state_table_name = settings.required("STATE_TABLE_NAME", table_name);
        let regions = match settings.list("SECURITY_HUB_REGIONS", str::parse::<Region>) {
            Some(regions) => Some(regions),
            None => settings
                .required("AWS_REGION", str::parse::<Region>)
                .map(|own| vec![own]),
        };
        let defaults = Filters::default();
        let filters = Filters {
            workflow_statuses: settings
                .list("WORKFLOW_STATUSES", |text| one_of(&WORKFLOW_STATUSES, text))
                .unwrap_or(defaults.workflow_statuses),
            record_states: settings
                .list("RECORD_STATES", |text| one_of(&RECORD_STATES, text))
                .unwrap_or(defaults.record_states),
            severity_labels: settings.list("SEVERITY_LABELS", severity_label).unwrap_or_default(),
            product_names: settings.list("PRODUCT_NAMES", any_text).unwrap_or_default(),
            aws_account_ids: settings.list("AWS_ACCOUNT_IDS", account_id).unwrap_or_default(),
        };
        for (name, values) in [
            ("SEVERITY_LABELS", &filters.severity_labels),
            ("PRODUCT_NAMES", &filters.product_names),
            ("AWS_ACCOUNT_IDS", &filters.aws_account_ids),
        ] {
            if values.len() > MAX_FILTER_VALUES {
                settings.note(format!(
                    "{name}: {} values, of {MAX_FILTER_VALUES} that GetFindings takes",
                    values.len()
                ));
            }
        }
        let overlap = settings
            .optional("LOOKBACK_SECONDS", seconds)
            .unwrap_or(Duration::from_hours(1));
        let initial = settings
            .optional("INITIAL_LOOKBACK_SECONDS", seconds)
            .unwrap_or(7 * DAY);
        let settle = settings
            .optional("PUSH_SETTLE_SECONDS", |text| match text.parse::<u64>() {
                Ok(seconds @ 0..=3600) => Ok(Duration::from_secs(seconds)),
                _ => Err("expected a whole number of seconds from 0 to 3600"),
            })
            .unwrap_or(Duration::ZERO);
        let sweep_hours = settings
            .optional("SWEEP_HOURS", |text| match text.parse::<i64>() {
                Ok(hours @ 0..=720) => Ok(hours),
                _ => Err("expected a whole number of hours from 0 to 720"),
            })
            .unwrap_or(6);
        let state_ttl_days = settings
            .optional("STATE_TTL_DAYS", |text| match text.parse::<u64>() {
                Ok(days @ MIN_STATE_TTL_DAYS..=36_500) => Ok(days),
                _ => Err("expected a whole number of days, 91 or more, for Security Hub keeps findings 90"),
            })
            .unwrap_or(120);
        let static_credentials_secret_arn = settings.unrepeated("STATIC_CREDENTIALS_SECRET_ARN", secret_arn);
        settings.finish(|| {
            Some(Self {
                function_name,
                findings_queue_url: findings_queue_url?,
                state_table_name: state_table_name?,
                regions: regions?,
                filters,
                lookback: Lookback {
                    overlap,
                    initial: (!initial.is_zero()).then_some(initial),
                    settle,
                },
                sweep_every: (sweep_hours > 0).then(|| SignedDuration::from_hours(sweep_hours)),
                state_ttl: Duration::from_hours(24 * state_ttl_days),
                static_credentials_secret_arn,
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

/// Ten years are more than Security Hub has existed.
fn seconds(text: &str) -> Result<Duration, &'static str> {
    match text.parse::<u64>() {
        Ok(seconds @ 0..=315_360_000) => Ok(Duration::from_secs(seconds)),
        _ => Err("expected a whole number of seconds from 0 to 315360000"),
    }
}

fn table_name(text: &str) -> Result<String, &'static str> {
    let is_name =
        (3..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if is_name {
        Ok(text.to_owned())
    } else {
        Err("expected the name of a DynamoDB table")
    }
}

/// `Workflow.Status` and `RecordState` of ASFF.
const WORKFLOW_STATUSES: [&str; 4] = ["NEW", "NOTIFIED", "RESOLVED", "SUPPRESSED"];
const RECORD_STATES: [&str; 2] = ["ACTIVE", "ARCHIVED"];

fn one_of(values: &[&str], text: &str) -> Result<String, String> {
    if values.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("expected values of ASFF: {}", values.join(", ")))
    }
}

fn severity_label(text: &str) -> Result<String, &'static str> {
    if asff::severity::Severity::from_label(text).is_some() {
        Ok(text.to_owned())
    } else {
        Err("expected labels of ASFF: CRITICAL, HIGH, MEDIUM, LOW, INFORMATIONAL")
    }
}

fn account_id(text: &str) -> Result<String, &'static str> {
    if text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()) {
        Ok(text.to_owned())
    } else {
        Err("expected account ids of 12 digits")
    }
}

#[expect(clippy::unnecessary_wraps, reason = "stands where a setting is checked")]
fn any_text(text: &str) -> Result<String, &'static str> {
    Ok(text.to_owned())
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
    const TABLE: (&str, &str) = ("STATE_TABLE_NAME", "state");
    const REGION: (&str, &str) = ("AWS_REGION", "eu-west-1");

    #[test]
    fn defaults() {
        let config = config(&[QUEUE, TABLE, REGION]).unwrap();
        assert_eq!(config.findings_queue_url, QUEUE.1);
        assert_eq!(config.state_table_name, "state");
        assert_eq!(config.regions, ["eu-west-1".parse().unwrap()]);
        assert_eq!(config.filters, Filters::default());
        assert_eq!(config.lookback.overlap, Duration::from_hours(1));
        assert_eq!(config.lookback.initial, Some(Duration::from_hours(168)));
        assert_eq!(config.lookback.settle, Duration::ZERO);
        assert_eq!(config.sweep_every, Some(SignedDuration::from_hours(6)));
        assert_eq!(config.state_ttl, 120 * DAY);
    }

    #[test]
    fn every_setting_is_read() {
        let config = config(&[
            QUEUE,
            TABLE,
            ("SECURITY_HUB_REGIONS", "us-east-1, eu-west-1,us-east-1,"),
            ("WORKFLOW_STATUSES", "RESOLVED,SUPPRESSED"),
            ("RECORD_STATES", "ARCHIVED,ACTIVE"),
            ("SWEEP_HOURS", "0"),
            ("PUSH_SETTLE_SECONDS", "60"),
            ("SEVERITY_LABELS", "CRITICAL,HIGH"),
            ("PRODUCT_NAMES", "GuardDuty, Security Hub"),
            ("AWS_ACCOUNT_IDS", "111122223333"),
            ("LOOKBACK_SECONDS", "0"),
            ("INITIAL_LOOKBACK_SECONDS", "0"),
            ("STATE_TTL_DAYS", "91"),
        ])
        .unwrap();
        assert_eq!(
            config.regions,
            ["us-east-1".parse().unwrap(), "eu-west-1".parse().unwrap()]
        );
        assert_eq!(config.filters.workflow_statuses, ["RESOLVED", "SUPPRESSED"]);
        assert_eq!(config.filters.record_states, ["ARCHIVED", "ACTIVE"]);
        assert_eq!(config.sweep_every, None);
        assert_eq!(config.lookback.settle, Duration::from_mins(1));
        assert_eq!(config.filters.severity_labels, ["CRITICAL", "HIGH"]);
        assert_eq!(config.filters.product_names, ["GuardDuty", "Security Hub"]);
        assert_eq!(config.filters.aws_account_ids, ["111122223333"]);
        assert_eq!(config.lookback.overlap, Duration::ZERO);
        assert_eq!(config.lookback.initial, None);
        assert_eq!(config.state_ttl, 91 * DAY);
    }

    #[test]
    fn more_values_than_a_filter_takes_are_refused_at_the_start() {
        let accounts = |count: u64| (0..count).map(|n| format!("{n:012}")).collect::<Vec<_>>().join(",");
        let with = |accounts: &str| config(&[QUEUE, TABLE, REGION, ("AWS_ACCOUNT_IDS", accounts)]);
        assert!(with(&accounts(20)).is_ok());
        assert_eq!(
            with(&accounts(21)).unwrap_err().problems,
            ["AWS_ACCOUNT_IDS: 21 values, of 20 that GetFindings takes"]
        );
    }

    #[test]
    fn all_that_is_missing_or_wrong_is_named_at_once() {
        assert_eq!(
            config(&[]).unwrap_err().problems,
            [
                "FINDINGS_QUEUE_URL is not set",
                "STATE_TABLE_NAME is not set",
                "AWS_REGION is not set"
            ]
        );
        let problems = config(&[
            ("FINDINGS_QUEUE_URL", "findings"),
            ("STATE_TABLE_NAME", "arn:x"),
            ("SECURITY_HUB_REGIONS", "us-east-1,Ireland"),
            REGION,
            ("WORKFLOW_STATUSES", "new"),
            ("RECORD_STATES", "OPEN"),
            ("SWEEP_HOURS", "721"),
            ("PUSH_SETTLE_SECONDS", "3601"),
            ("SEVERITY_LABELS", "high"),
            ("AWS_ACCOUNT_IDS", "1"),
            ("LOOKBACK_SECONDS", "-1"),
            ("INITIAL_LOOKBACK_SECONDS", "week"),
            ("STATE_TTL_DAYS", "90"),
        ])
        .unwrap_err()
        .problems;
        let names = [
            "FINDINGS_QUEUE_URL: expected the URL of an SQS queue, not \"findings\"",
            "STATE_TABLE_NAME: ",
            "SECURITY_HUB_REGIONS: expected a region's code such as us-east-1, not \"us-east-1,Ireland\"",
            "WORKFLOW_STATUSES: expected values of ASFF: NEW, NOTIFIED, RESOLVED, SUPPRESSED, not \"new\"",
            "RECORD_STATES: ",
            "SEVERITY_LABELS: ",
            "AWS_ACCOUNT_IDS: ",
            "LOOKBACK_SECONDS: ",
            "INITIAL_LOOKBACK_SECONDS: ",
            "PUSH_SETTLE_SECONDS: ",
            "SWEEP_HOURS: ",
            "STATE_TTL_DAYS: ",
        ];
        assert_eq!(problems.len(), names.len());
        for (problem, name) in problems.iter().zip(names) {
            assert!(problem.starts_with(name), "{problem}");
        }
    }
}
