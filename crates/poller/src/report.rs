//! What the function answers, and the error texts.

use aws_support::credentials::{self, GET_SECRET_VALUE};
use aws_support::{AwsError, ErrorKind};
use aws_text::Region;
use serde::Serialize;

use crate::delivery::batch::Refused;
use crate::delivery::sqs::SEND_MESSAGE;
use crate::input::ModeName;
use crate::security_hub::GET_FINDINGS;
use crate::state_table::UNREADABLE;

/// Answer of a poll.
///
/// A later version may add members: readers should pass over those they do not know.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PollReport {
    /// The mode asked for
    pub mode: ModeName,
    /// Present, and true, where another run was at work and this one did nothing
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[cfg_attr(feature = "schema", schemars(extend("const" = true)))]
    pub skipped: bool,
    /// Where this run was skipped: when the other one ends at the latest
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "String", extend("format" = "date-time")))]
    pub until: Option<String>,
    /// Every region is complete
    pub complete: bool,
    /// One a region, in the order of the settings
    pub regions: Vec<RegionReport>,
    /// Sum over the regions, sweeps included
    pub events_sent: u64,
}

impl PollReport {
    /// Of a run that was not skipped.
    #[must_use]
    pub fn new(mode: ModeName, regions: Vec<RegionReport>) -> Self {
        Self {
            mode,
            skipped: false,
            until: None,
            complete: regions.iter().all(|region| region.complete),
            events_sent: regions.iter().map(RegionReport::all_sent).sum(),
            regions,
        }
    }
}

/// What was done in one region.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RegionReport {
    /// The region polled
    pub region: Region,
    /// Pages read
    pub pages: u64,
    /// Findings on them
    pub findings_seen: u64,
    /// Events SQS confirmed
    pub events_sent: u64,
    /// Findings that had been delivered before
    pub duplicates_skipped: u64,
    /// `UpdatedAt` up to which everything is delivered, where that is known
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub updated_through: Option<String>,
    /// All that was asked for is delivered
    pub complete: bool,
    /// The sweep; null where there was none
    pub sweep: Option<SweepReport>,
    /// Events that SQS refused for good: newly parked, or offered again and refused. Absent where there are none
    #[serde(skip_serializing_if = "is_zero")]
    pub events_parked: u64,
    /// What went wrong. Running out of time is no error
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "RegionError"))]
    pub error: Option<RegionError>,
}

/// What was done of a pass over every wanted finding.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SweepReport {
    /// Pages read
    pub pages: u64,
    /// Findings on them
    pub findings_seen: u64,
    /// Events SQS confirmed
    pub events_sent: u64,
    /// The pass came to its end
    pub complete: bool,
    /// When the last whole pass ended; null before the first
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub last_completed_at: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "stands where a member is written")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl RegionReport {
    /// Of a region in which nothing was done.
    #[must_use]
    pub fn new(region: Region) -> Self {
        Self {
            region,
            pages: 0,
            findings_seen: 0,
            events_sent: 0,
            duplicates_skipped: 0,
            updated_through: None,
            complete: false,
            sweep: None,
            events_parked: 0,
            error: None,
        }
    }

    /// Everything sent.
    #[must_use]
    pub fn all_sent(&self) -> u64 {
        self.events_sent + self.sweep.as_ref().map_or(0, |sweep| sweep.events_sent)
    }
}

/// Answer of a connection test.
///
/// A later version may add members: readers should pass over those they do not know.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConnectionReport {
    /// Every region answered
    pub success: bool,
    /// The connector's name
    #[cfg_attr(feature = "schema", schemars(extend("const" = "aws_security_hub")))]
    pub connector: &'static str,
    /// What the connector can do
    #[cfg_attr(feature = "schema", schemars(with = "Vec<&'static str>"))]
    pub capabilities: [&'static str; 3],
    /// One a region, in the order of the settings
    pub regions: Vec<RegionConnection>,
}

/// Whether a region answered.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RegionConnection {
    /// The region asked
    pub region: Region,
    /// It answered
    pub success: bool,
    /// Why it did not
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "RegionError"))]
    pub error: Option<RegionError>,
}

/// Why a region failed, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RegionError {
    /// For programs
    pub code: ErrorCode,
    /// What happened
    pub message: String,
    /// What to do
    pub remedy: String,
}

/// Kinds of failure a playbook may tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The function's role lacks a permission
    AccessDenied,
    /// Security Hub CSPM is not enabled in the region
    NotSubscribed,
    /// AWS asked for fewer requests, also after the retries
    Throttled,
    /// No usable answer, also after the retries
    Unreachable,
    /// AWS does not take the request
    InvalidRequest,
    /// SQS took the batch but not all of its entries
    DeliveryFailed,
}

impl ErrorCode {
    /// The name used in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::AccessDenied => "access_denied",
            ErrorCode::NotSubscribed => "not_subscribed",
            ErrorCode::Throttled => "throttled",
            ErrorCode::Unreachable => "unreachable",
            ErrorCode::InvalidRequest => "invalid_request",
            ErrorCode::DeliveryFailed => "delivery_failed",
        }
    }
}

impl RegionError {
    /// The error of a failed call. `None` where the invocation ran out of time, which is no failure.
    #[must_use]
    pub fn of_call(error: &AwsError, region: &Region) -> Option<Self> {
        let code = match error.kind {
            ErrorKind::OutOfTime => return None,
            // The API reference has InvalidAccessException for "not subscribed"; some guides have the other.
            ErrorKind::Rejected | ErrorKind::AccessDenied
                if error.has_code("InvalidAccessException")
                    || (error.action == GET_FINDINGS && error.has_code("ResourceNotFoundException")) =>
            {
                ErrorCode::NotSubscribed
            }
            ErrorKind::CredentialsRefused | ErrorKind::AccessDenied => ErrorCode::AccessDenied,
            ErrorKind::Throttled => ErrorCode::Throttled,
            ErrorKind::Unreachable | ErrorKind::ExpiredCredentials => ErrorCode::Unreachable,
            ErrorKind::Rejected => ErrorCode::InvalidRequest,
        };
        Some(Self {
            code,
            message: error.to_string(),
            remedy: remedy(code, error, region),
        })
    }

    /// The error of a connection test that the invocation's end cut off: for a test that is a failure.
    #[must_use]
    pub fn no_answer_in_time(error: &AwsError) -> Self {
        Self {
            code: ErrorCode::Unreachable,
            message: error.to_string(),
            remedy: "give the function more time, and check that its network reaches the service".to_owned(),
        }
    }

    /// The error of entries that SQS did not take.
    #[must_use]
    pub fn of_refused(refused: &[Refused]) -> Option<Self> {
        let first = refused.first()?;
        let ids: Vec<String> = refused.iter().take(5).map(|r| r.event_id.to_string()).collect();
        let more = if refused.len() > ids.len() {
            format!(" and {} more", refused.len() - ids.len())
        } else {
            String::new()
        };
        Some(Self {
            code: ErrorCode::DeliveryFailed,
            message: format!(
                "SQS did not take {} of the events, the first with {}: {} (event_id {}{more})",
                refused.len(),
                first.code,
                first.message,
                ids.join(", "),
            ),
            remedy: "search the function's log for the event ids: it names the finding of each; the other \
                     events were delivered, and the next polls send these again. Refused in three runs in a row, they \
                     are parked"
                .to_owned(),
        })
    }
}

fn remedy(code: ErrorCode, error: &AwsError, region: &Region) -> String {
    let action = error.action;
    let is_queue = action == SEND_MESSAGE;
    let is_state = action.starts_with("dynamodb:");
    match code {
        ErrorCode::AccessDenied if is_queue => format!(
            "allow {action} on the findings queue to the function's role, and kms:GenerateDataKey with kms:Decrypt \
             where the queue has a KMS key of its own"
        ),
        ErrorCode::AccessDenied if is_state => {
            format!("allow {action} on the table STATE_TABLE_NAME names to the function's role")
        }
        ErrorCode::AccessDenied if action == GET_SECRET_VALUE => credentials::remedy("the function's role"),
        ErrorCode::AccessDenied => format!(
            "allow {action} to the function's role; where the role has it, check that {region} is enabled for the \
             account and that no service control policy denies it"
        ),
        ErrorCode::NotSubscribed => {
            format!("enable Security Hub CSPM in {region}, or take {region} out of SECURITY_HUB_REGIONS")
        }
        ErrorCode::Throttled => format!(
            "nothing if it is rare, for the next poll goes on; if it lasts, find what else calls {action} in \
             {region}: the quota is the account's"
        ),
        ErrorCode::Unreachable => format!(
            "nothing if it is rare, for the next poll goes on; if it lasts, check that the function's network \
             reaches the service in {region} (in a VPC: NAT or an interface endpoint) and the AWS Health Dashboard"
        ),
        ErrorCode::InvalidRequest if is_queue => {
            "check that FINDINGS_QUEUE_URL names a standard queue that exists".to_owned()
        }
        ErrorCode::InvalidRequest if error.has_code(UNREADABLE) => {
            "repair the item, or delete it: without its checkpoint a poll begins anew, and what was delivered is not sent \
             again"
                .to_owned()
        }
        ErrorCode::InvalidRequest if is_state => "check that STATE_TABLE_NAME names a table that exists in the \
             function's region, with the partition key pk and the sort key sk, both of type string"
            .to_owned(),
        ErrorCode::InvalidRequest | ErrorCode::DeliveryFailed => {
            "report it to the connector's maintainers with this message".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region() -> Region {
        "eu-west-1".parse().unwrap()
    }

    fn error(action: &'static str, kind: ErrorKind, code: Option<&str>) -> AwsError {
        AwsError {
            code: code.map(str::to_owned),
            ..AwsError::new(action, kind, "said so".to_owned())
        }
    }

    #[test]
    fn each_failure_has_its_code_and_a_remedy_that_names_what_to_change() {
        use ErrorKind::{AccessDenied, ExpiredCredentials, Rejected, Throttled, Unreachable};
        for (action, kind, code, expected, remedy) in [
            (
                GET_FINDINGS,
                AccessDenied,
                Some("AccessDeniedException"),
                "access_denied",
                "allow securityhub:GetFindings",
            ),
            (
                GET_FINDINGS,
                Rejected,
                Some("InvalidAccessException"),
                "not_subscribed",
                "enable Security Hub CSPM in eu-west-1",
            ),
            (
                GET_FINDINGS,
                Rejected,
                Some("ResourceNotFoundException"),
                "not_subscribed",
                "SECURITY_HUB_REGIONS",
            ),
            (
                GET_FINDINGS,
                Throttled,
                Some("TooManyRequestsException"),
                "throttled",
                "securityhub:GetFindings",
            ),
            (GET_FINDINGS, Unreachable, None, "unreachable", "eu-west-1"),
            (
                GET_FINDINGS,
                ExpiredCredentials,
                Some("ExpiredTokenException"),
                "unreachable",
                "eu-west-1",
            ),
            (
                GET_FINDINGS,
                Rejected,
                Some("InvalidInputException"),
                "invalid_request",
                "report it",
            ),
            (
                SEND_MESSAGE,
                AccessDenied,
                Some("AccessDenied"),
                "access_denied",
                "allow sqs:SendMessage",
            ),
            (
                SEND_MESSAGE,
                Rejected,
                Some("QueueDoesNotExist"),
                "invalid_request",
                "FINDINGS_QUEUE_URL",
            ),
            (
                "dynamodb:GetItem",
                AccessDenied,
                Some("AccessDeniedException"),
                "access_denied",
                "allow dynamodb:GetItem",
            ),
            (
                "dynamodb:GetItem",
                Rejected,
                Some("ResourceNotFoundException"),
                "invalid_request",
                "STATE_TABLE_NAME",
            ),
            (
                "dynamodb:PutItem",
                Rejected,
                Some("ValidationException"),
                "invalid_request",
                "partition key pk",
            ),
            (
                "dynamodb:GetItem",
                Rejected,
                Some(UNREADABLE),
                "invalid_request",
                "delete it",
            ),
        ] {
            let error = RegionError::of_call(&error(action, kind, code), &region()).unwrap();
            assert_eq!(error.code.as_str(), expected);
            assert_eq!(serde_json::to_value(error.code).unwrap(), expected);
            assert!(error.remedy.contains(remedy), "{}", error.remedy);
            assert!(error.message.starts_with(action), "{}", error.message);
        }
    }

    #[test]
    fn running_out_of_time_is_no_error() {
        assert_eq!(
            RegionError::of_call(&AwsError::out_of_time(GET_FINDINGS), &region()),
            None
        );
    }
}
