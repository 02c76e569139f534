//! The containment function's settings.

use actions::policy::Places;
use actions::target::canonical;
use actions::{Enforcement, Policy, writeback};
use aws_support::credentials::secret_arn;
use aws_support::settings::{Settings, SettingsError, queue_url};
use aws_text::{Region, RoleArn};
use ipnet::IpNet;

use crate::aws::scheduler::ScheduleSettings;

/// The containment function's settings, from its environment variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `AWS_LAMBDA_FUNCTION_NAME`: whose metrics they are
    pub function_name: String,
    /// `AWS_REGION`: where a group is if the request does not say
    pub region: Region,
    /// `RESULTS_QUEUE_URL`: where results go; to the log only if not set
    pub results_queue_url: Option<String>,
    /// `ACTIONS_QUEUE_URL`: where requests come from; without it a retry waits for the queue's visibility time-out
    pub actions_queue_url: Option<String>,
    /// `BLOCKS_TABLE_NAME`: what is to be blocked
    pub blocks_table_name: String,
    /// `ASSUME_ROLE_EXTERNAL_ID`: given when a role is assumed
    pub external_id: Option<String>,
    /// `STATIC_CREDENTIALS_SECRET_ARN`: where a static access key is, for EC2 and `AssumeRole`
    pub static_credentials_secret_arn: Option<String>,
    /// `ACTIONS_QUEUE_ARN`, `SCHEDULER_ROLE_ARN`, `SCHEDULE_GROUP`: what ends blocks
    pub schedules: Option<ScheduleSettings>,
    /// What may be asked for, and where: `TARGET_REGIONS`, `TARGET_ROLE_ARNS`
    pub policy: Policy,
    /// Whether verdicts may be written, and where: `WRITE_BACK`, `SECURITY_HUB_REGIONS`
    pub write_back: writeback::Policy,
}

const DEFAULT_TAG: &str = "aisoc:containment=blocklist";
/// The schedule group that every account has.
const DEFAULT_SCHEDULE_GROUP: &str = "default";

impl Config {
    /// Reads the settings through `lookup`.
    ///
    /// # Errors
    /// Every setting that is missing or wrong, in one error.
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut settings = Settings::new(lookup);
        let function_name = settings.function_name();
        let region = settings.required("AWS_REGION", str::parse::<Region>);
        let results_queue_url = settings.optional("RESULTS_QUEUE_URL", queue_url);
        let actions_queue_url = settings.optional("ACTIONS_QUEUE_URL", queue_url);
        let blocks_table_name = settings.required("BLOCKS_TABLE_NAME", table_name);
        let external_id = settings.optional("ASSUME_ROLE_EXTERNAL_ID", external_id);
        let protected = settings.list("PROTECTED_CIDRS", cidr).unwrap_or_default();
        let allow_private = settings.optional("ALLOW_PRIVATE_TARGETS", flag);
        let writes_back = settings.optional("WRITE_BACK", flag);
        let finding_regions = settings.list("SECURITY_HUB_REGIONS", str::parse::<Region>);
        let roles = target_roles(&mut settings);
        let regions = settings.list("TARGET_REGIONS", str::parse::<Region>);
        let tag = settings
            .optional("CONTAINMENT_TAG", str::parse)
            .or_else(|| DEFAULT_TAG.parse().ok());
        let enforcement = settings.optional("ENFORCEMENT", str::parse::<Enforcement>);
        let rule_numbers = settings.optional("NETWORK_ACL_RULE_NUMBERS", str::parse);
        let queue_arn = settings.optional("ACTIONS_QUEUE_ARN", fifo_queue_arn);
        let scheduler_role_arn = settings.optional("SCHEDULER_ROLE_ARN", str::parse::<RoleArn>);
        let schedule_group = settings.optional("SCHEDULE_GROUP", schedule_group);
        let secret_arn = settings.unrepeated("STATIC_CREDENTIALS_SECRET_ARN", secret_arn);
        let lacking = |name, is_set: bool| (!is_set).then_some(name);
        let expiry_lacks = [
            lacking("ACTIONS_QUEUE_ARN", queue_arn.is_some()),
            lacking("SCHEDULER_ROLE_ARN", scheduler_role_arn.is_some()),
        ];
        settings.finish(|| {
            let region = region?;
            Some(Self {
                function_name,
                results_queue_url,
                actions_queue_url,
                blocks_table_name: blocks_table_name?,
                external_id,
                static_credentials_secret_arn: secret_arn,
                schedules: queue_arn
                    .zip(scheduler_role_arn)
                    .map(|(queue_arn, role_arn)| ScheduleSettings {
                        group: schedule_group.unwrap_or_else(|| DEFAULT_SCHEDULE_GROUP.to_owned()),
                        queue_arn,
                        role_arn: role_arn.to_string(),
                    }),
                policy: Policy {
                    protected,
                    allow_private: allow_private.unwrap_or(false),
                    places: Places {
                        roles,
                        regions: regions.unwrap_or_else(|| vec![region.clone()]),
                    },
                    tag: tag?,
                    enforcement: enforcement.unwrap_or(Enforcement::NetworkAcl),
                    rule_numbers: rule_numbers.unwrap_or_default(),
                    expiry_lacks: expiry_lacks.into_iter().flatten().collect(),
                },
                write_back: writeback::Policy {
                    is_enabled: writes_back.unwrap_or(false),
                    regions: finding_regions.unwrap_or_else(|| vec![region.clone()]),
                },
                region,
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

fn flag(text: &str) -> Result<bool, &'static str> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("expected true or false"),
    }
}

/// The most characters of `TARGET_ROLE_ARNS`. All of a function's environment must fit into 4 KB ("Lambda quotas"), and the
/// other settings need the rest.
const MAX_TARGET_ROLES: usize = 2400;

fn target_roles(settings: &mut Settings<'_>) -> Vec<RoleArn> {
    let roles = settings
        .list("TARGET_ROLE_ARNS", str::parse::<RoleArn>)
        .unwrap_or_default();
    let length: usize = roles.iter().map(|role| role.as_str().len() + 1).sum();
    if length > MAX_TARGET_ROLES + 1 {
        settings.note(format!(
            "TARGET_ROLE_ARNS: {} roles take {} characters, and at most {MAX_TARGET_ROLES} fit into the 4 KB that a Lambda \
             function's environment may have: serve the other accounts by a second stack, or give the roles shorter names",
            roles.len(),
            length - 1
        ));
    }
    roles
}

/// `ExternalId` of `AssumeRole` in the STS API reference.
fn external_id(text: &str) -> Result<String, &'static str> {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "_+=,.@:/-".contains(c);
    if (2..=1224).contains(&text.len()) && text.chars().all(is_legal) {
        Ok(text.to_owned())
    } else {
        Err("expected 2 to 1224 letters, digits and characters of _+=,.@:/-")
    }
}

/// `TableName` in the DynamoDB API reference.
fn table_name(text: &str) -> Result<String, &'static str> {
    let is_legal = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if (3..=255).contains(&text.len()) && text.bytes().all(is_legal) {
        Ok(text.to_owned())
    } else {
        Err("expected the name of a DynamoDB table")
    }
}

/// The actions queue is FIFO: what ends a block must not overtake it.
fn fifo_queue_arn(text: &str) -> Result<String, &'static str> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        ["arn", _, "sqs", region, account, name]
            if !region.is_empty()
                && account.len() == 12
                && name.strip_suffix(".fifo").is_some_and(|name| !name.is_empty()) =>
        {
            Ok(text.to_owned())
        }
        _ => Err("expected the ARN of a FIFO queue such as arn:aws:sqs:us-east-1:111122223333:actions.fifo"),
    }
}

/// `GroupName` of `CreateSchedule` in the EventBridge Scheduler API reference.
fn schedule_group(text: &str) -> Result<String, &'static str> {
    let is_name =
        (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if is_name {
        Ok(text.to_owned())
    } else {
        Err("expected the name of a schedule group")
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

    const TABLE: (&str, &str) = ("BLOCKS_TABLE_NAME", "aisoc-blocks");

    #[test]
    fn defaults_refuse_more_rather_than_less() {
        let config = config(&[("AWS_REGION", "us-east-1"), TABLE]).unwrap();
        assert_eq!(config.results_queue_url, None);
        assert!(!config.policy.allow_private);
        assert!(config.policy.places.roles.is_empty());
        assert_eq!(config.policy.tag, DEFAULT_TAG.parse().unwrap());
        assert_eq!(config.policy.enforcement, Enforcement::NetworkAcl);
        assert_eq!(config.policy.rule_numbers.to_string(), "1-99");
        assert_eq!(config.policy.expiry_lacks, ["ACTIONS_QUEUE_ARN", "SCHEDULER_ROLE_ARN"]);
        assert_eq!(config.schedules, None);
        assert_eq!(config.policy.places.regions, ["us-east-1".parse().unwrap()]);
        assert!(!config.write_back.is_enabled);
        assert_eq!(config.write_back.regions, ["us-east-1".parse().unwrap()]);
    }

    #[test]
    fn expiry_takes_a_queue_and_a_role() {
        let queue = ("ACTIONS_QUEUE_ARN", "arn:aws:sqs:us-east-1:111122223333:actions.fifo");
        let role = ("SCHEDULER_ROLE_ARN", "arn:aws:iam::111122223333:role/scheduler");
        let region = ("AWS_REGION", "us-east-1");
        let both = config(&[region, TABLE, queue, role]).unwrap();
        assert!(both.policy.expiry_lacks.is_empty());
        assert_eq!(both.schedules.unwrap().group, "default");
        let half = config(&[region, TABLE, queue]).unwrap();
        assert_eq!(
            (half.schedules, half.policy.expiry_lacks),
            (None, vec!["SCHEDULER_ROLE_ARN"])
        );
    }

    #[test]
    fn every_setting_is_read() {
        let config = config(&[
            ("AWS_REGION", "us-east-1"),
            ("RESULTS_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/results"),
            ("ASSUME_ROLE_EXTERNAL_ID", "external"),
            ("PROTECTED_CIDRS", "198.51.100.1/24, 2001:db8::1,::ffff:192.0.2.0/120"),
            ("ALLOW_PRIVATE_TARGETS", "true"),
            TABLE,
            (
                "ACTIONS_QUEUE_URL",
                "https://sqs.us-east-1.amazonaws.com/1/actions.fifo",
            ),
            (
                "TARGET_ROLE_ARNS",
                "arn:aws:iam::444455556666:role/aisoc, arn:aws:iam::111122223333:role/r,",
            ),
            ("CONTAINMENT_TAG", "team:list=deny"),
            ("ENFORCEMENT", "none"),
            ("NETWORK_ACL_RULE_NUMBERS", "10-20"),
            ("ACTIONS_QUEUE_ARN", "arn:aws:sqs:us-east-1:111122223333:actions.fifo"),
            ("SCHEDULER_ROLE_ARN", "arn:aws:iam::111122223333:role/scheduler"),
            ("SCHEDULE_GROUP", "aisoc"),
            (
                "STATIC_CREDENTIALS_SECRET_ARN",
                "arn:aws:secretsmanager:us-east-1:111122223333:secret:key",
            ),
            ("TARGET_REGIONS", "us-east-1, eu-west-1,us-east-1"),
            ("WRITE_BACK", "true"),
            ("SECURITY_HUB_REGIONS", "us-east-1, eu-west-1, eu-west-2"),
        ])
        .unwrap();
        assert_eq!(config.policy.enforcement, Enforcement::None);
        assert!(config.policy.rule_numbers.contains(20) && !config.policy.rule_numbers.contains(21));
        assert_eq!(config.schedules.unwrap().group, "aisoc");
        assert!(config.static_credentials_secret_arn.unwrap().ends_with(":key"));
        let places = &config.policy.places;
        assert_eq!((places.regions.len(), places.roles.len()), (2, 2));
        assert!(config.write_back.is_enabled);
        assert_eq!(config.write_back.regions.len(), 3);
        assert_eq!(config.blocks_table_name, "aisoc-blocks");
        assert!(config.actions_queue_url.unwrap().ends_with("/actions.fifo"));
        assert_eq!(
            config.policy.protected,
            ["198.51.100.0/24", "2001:db8::1/128", "192.0.2.0/24"].map(|block| block.parse().unwrap())
        );
        assert!(config.policy.allow_private);
        assert_eq!(config.policy.tag.key, "team:list");
        assert_eq!(config.external_id.as_deref(), Some("external"));
    }

    #[test]
    fn all_that_is_wrong_is_named_at_once() {
        let problems = config(&[
            ("RESULTS_QUEUE_URL", "results"),
            ("ACTIONS_QUEUE_URL", "actions"),
            ("BLOCKS_TABLE_NAME", "b"),
            ("ASSUME_ROLE_EXTERNAL_ID", "soc 1!"),
            ("PROTECTED_CIDRS", "office"),
            ("ALLOW_PRIVATE_TARGETS", "yes"),
            ("WRITE_BACK", "1"),
            ("SECURITY_HUB_REGIONS", "us-east-1, Ireland"),
            ("TARGET_ROLE_ARNS", "arn:aws:iam::*:role/aisoc"),
            ("TARGET_REGIONS", "Ireland"),
            ("CONTAINMENT_TAG", "blocklist"),
            ("ENFORCEMENT", "waf"),
            ("NETWORK_ACL_RULE_NUMBERS", "0-99"),
            ("ACTIONS_QUEUE_ARN", "arn:aws:sqs:us-east-1:111122223333:actions"),
            ("SCHEDULER_ROLE_ARN", "scheduler"),
            ("SCHEDULE_GROUP", "a b"),
            ("STATIC_CREDENTIALS_SECRET_ARN", "AKIAIOSFODNN7EXAMPLE"),
        ])
        .unwrap_err()
        .problems;
        let names = [
            "AWS_REGION is not set",
            "RESULTS_QUEUE_URL: ",
            "ACTIONS_QUEUE_URL: ",
            "BLOCKS_TABLE_NAME: ",
            "ASSUME_ROLE_EXTERNAL_ID: ",
            "PROTECTED_CIDRS: ",
            "ALLOW_PRIVATE_TARGETS: ",
            "WRITE_BACK: ",
            "SECURITY_HUB_REGIONS: ",
            "TARGET_ROLE_ARNS: ",
            "TARGET_REGIONS: ",
            "CONTAINMENT_TAG: ",
            "ENFORCEMENT: ",
            "NETWORK_ACL_RULE_NUMBERS: ",
            "ACTIONS_QUEUE_ARN: ",
            "SCHEDULER_ROLE_ARN: ",
            "SCHEDULE_GROUP: ",
            "STATIC_CREDENTIALS_SECRET_ARN: ",
        ];
        assert_eq!(problems.len(), names.len());
        for (problem, name) in problems.iter().zip(names) {
            assert!(problem.starts_with(name), "{problem}");
        }
    }

    #[test]
    fn more_roles_than_the_environment_holds_are_refused_with_words() {
        let roles = |count: usize| {
            let roles: Vec<String> = (0..count)
                .map(|n| format!("arn:aws:iam::{n:012}:role/aisoc-containment"))
                .collect();
            config(&[
                ("AWS_REGION", "us-east-1"),
                TABLE,
                ("TARGET_ROLE_ARNS", &roles.join(",")),
            ])
        };
        assert_eq!(roles(49).unwrap().policy.places.roles.len(), 49);
        let problem = roles(60).unwrap_err().to_string();
        assert!(
            problem.contains("60 roles take 2939 characters, and at most 2400 fit into the 4 KB"),
            "{problem}"
        );
    }

    #[test]
    fn external_ids_are_what_sts_takes() {
        let taken = |id: &str| config(&[("AWS_REGION", "us-east-1"), TABLE, ("ASSUME_ROLE_EXTERNAL_ID", id)]).is_ok();
        assert!(taken("ab") && taken("soc_1+=,.@:/-") && taken(&"x".repeat(1224)));
        for bad in ["a", "soc 1!", "é1", &"x".repeat(1225)] {
            assert!(!taken(bad), "{bad}");
        }
    }
}
