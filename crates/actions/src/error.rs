//! Why a request or an audit could not do something: one enum of codes, and the text that goes with a code.

use serde::Serialize;

use crate::Status;

/// Codes of errors, as they stand in results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request cannot be read, or asks for something that does not exist
    InvalidRequest,
    /// The target must not be blocked
    ProtectedTarget,
    /// The role is not in `TARGET_ROLE_ARNS`
    RoleNotAllowed,
    /// The region is not in `TARGET_REGIONS`; of a verdict, not in `SECURITY_HUB_REGIONS`
    RegionNotAllowed,
    /// Verdicts are not written to Security Hub: `WRITE_BACK` is not `true`
    WriteBackNotEnabled,
    /// The finding does not exist in that region
    FindingNotFound,
    /// The block should end by itself, and nothing is set up that could end it
    ExpiryNotConfigured,
    /// The security group is not a block list
    GroupNotEnrolled,
    /// The security group is attached to a network interface
    GroupInUse,
    /// The security group does not exist in that account and region
    GroupNotFound,
    /// A named network ACL is not one of the group's VPC
    NetworkAclNotInVpc,
    /// None of the network ACLs meant has a subnet: nothing would be denied
    NetworkAclWithoutSubnet,
    /// A network ACL belongs to another account, which shares the VPC
    NetworkAclNotOwned,
    /// A network ACL has no room for a deny entry where it would take effect
    NetworkAclFull,
    /// The security group takes no further rule
    RuleLimitReached,
    /// Another request or an audit works on the same block list
    Busy,
    /// AWS asked for fewer requests
    Throttled,
    /// AWS gave no answer, or a server error
    Unreachable,
    /// The credentials expired
    ExpiredCredentials,
    /// The invocation was about to end
    OutOfTime,
    /// AWS denied the call
    AccessDenied,
    /// AWS refused the call for another reason
    AwsRejected,
    /// Found by an audit: a block has no effective deny entry in some network ACL, and none could be added
    BlockNotEnforced,
    /// Found by an audit: a block is past its end, and could not be lifted
    BlockOverdue,
    /// Found by an audit: a block list with blocks lost its tag, or was deleted
    BlockListLost,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 25] = [
        Self::InvalidRequest,
        Self::ProtectedTarget,
        Self::RoleNotAllowed,
        Self::RegionNotAllowed,
        Self::WriteBackNotEnabled,
        Self::FindingNotFound,
        Self::ExpiryNotConfigured,
        Self::GroupNotEnrolled,
        Self::GroupInUse,
        Self::GroupNotFound,
        Self::NetworkAclNotInVpc,
        Self::NetworkAclWithoutSubnet,
        Self::NetworkAclNotOwned,
        Self::NetworkAclFull,
        Self::RuleLimitReached,
        Self::Busy,
        Self::Throttled,
        Self::Unreachable,
        Self::ExpiredCredentials,
        Self::OutOfTime,
        Self::AccessDenied,
        Self::AwsRejected,
        Self::BlockNotEnforced,
        Self::BlockOverdue,
        Self::BlockListLost,
    ];

    /// The code as it stands in results.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::ProtectedTarget => "protected_target",
            Self::RoleNotAllowed => "role_not_allowed",
            Self::RegionNotAllowed => "region_not_allowed",
            Self::WriteBackNotEnabled => "write_back_not_enabled",
            Self::FindingNotFound => "finding_not_found",
            Self::ExpiryNotConfigured => "expiry_not_configured",
            Self::GroupNotEnrolled => "group_not_enrolled",
            Self::GroupInUse => "group_in_use",
            Self::GroupNotFound => "group_not_found",
            Self::NetworkAclNotInVpc => "network_acl_not_in_vpc",
            Self::NetworkAclWithoutSubnet => "network_acl_without_subnet",
            Self::NetworkAclNotOwned => "network_acl_not_owned",
            Self::NetworkAclFull => "network_acl_full",
            Self::RuleLimitReached => "rule_limit_reached",
            Self::Busy => "busy",
            Self::Throttled => "throttled",
            Self::Unreachable => "unreachable",
            Self::ExpiredCredentials => "expired_credentials",
            Self::OutOfTime => "out_of_time",
            Self::AccessDenied => "access_denied",
            Self::AwsRejected => "aws_rejected",
            Self::BlockNotEnforced => "block_not_enforced",
            Self::BlockOverdue => "block_overdue",
            Self::BlockListLost => "block_list_lost",
        }
    }

    /// The status of a request that is refused with this code before anything was changed: whether a rule or a setting
    /// keeps it from being carried out, or it is wrong or impossible as it is.
    #[must_use]
    pub fn refusal_status(self) -> Status {
        match self {
            Self::ProtectedTarget
            | Self::RoleNotAllowed
            | Self::RegionNotAllowed
            | Self::WriteBackNotEnabled
            | Self::GroupNotEnrolled
            | Self::GroupInUse
            | Self::NetworkAclNotOwned => Status::Blocked,
            Self::InvalidRequest
            | Self::FindingNotFound
            | Self::ExpiryNotConfigured
            | Self::GroupNotFound
            | Self::NetworkAclNotInVpc
            | Self::NetworkAclWithoutSubnet
            | Self::NetworkAclFull
            | Self::RuleLimitReached
            | Self::Busy
            | Self::Throttled
            | Self::Unreachable
            | Self::ExpiredCredentials
            | Self::OutOfTime
            | Self::AccessDenied
            | Self::AwsRejected
            | Self::BlockNotEnforced
            | Self::BlockOverdue
            | Self::BlockListLost => Status::Failed,
        }
    }
}

/// What went wrong and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorDetail {
    /// For programs
    pub code: ErrorCode,
    /// What happened
    pub message: String,
    /// What to do
    pub remedy: String,
    /// The same request may succeed later without anyone changing anything
    pub retryable: bool,
}

/// Why a request is not carried out. The same request is refused again until someone changes it, a setting or the
/// network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs
    pub code: ErrorCode,
    /// What is wrong
    pub message: String,
    /// What to change
    pub remedy: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

impl From<Refusal> for ErrorDetail {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: refusal.code,
            message: refusal.message,
            remedy: refusal.remedy,
            retryable: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_written_as_serde_writes_it() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
