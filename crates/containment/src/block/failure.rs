//! The text for a failed AWS call.

use actions::{ErrorCode, ErrorDetail, Request};
use aws_support::credentials::{self, GET_SECRET_VALUE};
use aws_support::{AwsError, ErrorKind};
use aws_text::{RoleArn, SecurityGroupId};

use crate::aws::scheduler::{CREATE_SCHEDULE, DELETE_SCHEDULE, UPDATE_SCHEDULE};

/// What happened and what to do about it, for the request in whose course the call failed.
#[must_use]
pub(crate) fn detail(error: &AwsError, request: &Request) -> ErrorDetail {
    text(error, request.role.as_ref(), Some(&request.group), NOTHING)
}

/// As [`detail`], for an audit.
#[must_use]
pub(crate) fn of_audit(error: &AwsError, role: Option<&RoleArn>) -> ErrorDetail {
    text(error, role, None, "nothing: the next audit tries again")
}

const NOTHING: &str = "nothing: the request is tried again";

fn text(error: &AwsError, role: Option<&RoleArn>, group: Option<&SecurityGroupId>, nothing: &str) -> ErrorDetail {
    let (code, remedy) = match error.kind {
        ErrorKind::Throttled => (ErrorCode::Throttled, nothing.to_owned()),
        ErrorKind::Unreachable => (
            ErrorCode::Unreachable,
            format!("{nothing}; if it lasts, check that the function's network reaches the service"),
        ),
        ErrorKind::ExpiredCredentials => (ErrorCode::ExpiredCredentials, nothing.to_owned()),
        ErrorKind::OutOfTime => (ErrorCode::OutOfTime, nothing.to_owned()),
        ErrorKind::CredentialsRefused | ErrorKind::AccessDenied => {
            (ErrorCode::AccessDenied, access_remedy(error, role))
        }
        ErrorKind::Rejected => rejected(error, group),
    };
    ErrorDetail {
        code,
        message: error.to_string(),
        remedy,
        retryable: error.is_retryable(),
    }
}

fn access_remedy(error: &AwsError, role: Option<&RoleArn>) -> String {
    match (role, error.action) {
        (_, GET_SECRET_VALUE) => credentials::remedy("the containment function's role"),
        (_, action @ (CREATE_SCHEDULE | UPDATE_SCHEDULE)) => format!(
            "allow {action} on the schedules of SCHEDULE_GROUP, and iam:PassRole on SCHEDULER_ROLE_ARN, to the \
             containment function's role"
        ),
        (_, DELETE_SCHEDULE) => {
            format!("allow {DELETE_SCHEDULE} on the schedules of SCHEDULE_GROUP to the containment function's role")
        }
        (_, action) if action.starts_with("dynamodb:") => {
            format!("allow {action} on BLOCKS_TABLE_NAME to the containment function's role")
        }
        (Some(role), ASSUME_ROLE) => format!(
            "allow sts:AssumeRole on {role} to the containment function's role, and let the trust policy of {role} \
             name that role and the ASSUME_ROLE_EXTERNAL_ID in use"
        ),
        (Some(role), action) => {
            format!("allow {action} to {role}; the role of infra/target-account-role.yaml has what is needed")
        }
        (None, action) => format!(
            "allow {action} to the containment function's role (to the user of the key, where \
             STATIC_CREDENTIALS_SECRET_ARN is set); the template allows changes of security groups only where they have \
             the block-list tag"
        ),
    }
}

/// EC2's codes are those of "Error codes for the Amazon EC2 API".
fn rejected(error: &AwsError, group: Option<&SecurityGroupId>) -> (ErrorCode, String) {
    let group = group.map(SecurityGroupId::as_str).unwrap_or_default();
    match error.code.as_deref() {
        Some("InvalidGroup.NotFound" | "InvalidGroupId.Malformed" | "InvalidSecurityGroupID.NotFound") => (
            ErrorCode::GroupNotFound,
            format!(
                "check params.aws_security_group_id ({group}), params.aws_region and params.aws_assume_role_arn: the \
                 group must be in that region of that account"
            ),
        ),
        Some("RulesPerSecurityGroupLimitExceeded") => (
            ErrorCode::RuleLimitReached,
            format!(
                "lift blocks that are no longer needed from {group} with ALLOW_IP, use a second block list, or raise the \
                 quota \"Inbound or outbound rules per security group\" (60 by default)"
            ),
        ),
        Some("InvalidNetworkAclID.NotFound") => (
            ErrorCode::NetworkAclNotInVpc,
            "correct params.aws_network_acl_ids, or send the request again: the network ACL has been deleted"
                .to_owned(),
        ),
        _ if [CREATE_SCHEDULE, UPDATE_SCHEDULE].contains(&error.action) => (
            ErrorCode::AwsRejected,
            "check SCHEDULE_GROUP, SCHEDULER_ROLE_ARN (which EventBridge Scheduler must be able to assume) and \
             ACTIONS_QUEUE_ARN"
                .to_owned(),
        ),
        _ => (
            ErrorCode::AwsRejected,
            "look the code up in \"Error codes for the Amazon EC2 API\", and report it to the connector's maintainers \
             if the request is as documented"
                .to_owned(),
        ),
    }
}

/// The IAM action of `AssumeRole`.
pub(crate) const ASSUME_ROLE: &str = "sts:AssumeRole";

#[cfg(test)]
mod tests {
    use super::*;

    fn request(role: bool) -> Request {
        let role = if role {
            r#","aws_assume_role_arn":"arn:aws:iam::111122223333:role/r""#
        } else {
            ""
        };
        let body = format!(
            r#"{{"request_id":"r","action":"BLOCK_IP","target":"203.0.113.7","params":{{"aws_security_group_id":"sg-0123abcd"{role}}}}}"#
        );
        Request::read(&body, "m").unwrap()
    }

    const AUTHORIZE: &str = "ec2:AuthorizeSecurityGroupIngress";

    fn detail_of(role: bool, action: &'static str, kind: ErrorKind, code: Option<&str>) -> ErrorDetail {
        let error = AwsError {
            code: code.map(str::to_owned),
            ..AwsError::new(action, kind, "said so".to_owned())
        };
        detail(&error, &request(role))
    }

    #[test]
    fn what_passes_by_itself_is_retryable_and_asks_for_nothing() {
        for (kind, code) in [
            (ErrorKind::Throttled, ErrorCode::Throttled),
            (ErrorKind::Unreachable, ErrorCode::Unreachable),
            (ErrorKind::ExpiredCredentials, ErrorCode::ExpiredCredentials),
            (ErrorKind::OutOfTime, ErrorCode::OutOfTime),
        ] {
            let detail = detail_of(false, AUTHORIZE, kind, Some("Code"));
            assert_eq!((detail.code, detail.retryable), (code, true));
            assert!(detail.remedy.starts_with("nothing: the request is tried again"));
        }
    }

    #[test]
    fn who_may_not_is_told_which_action_to_allow_to_whom() {
        const ROLE: &str = "arn:aws:iam::111122223333:role/r";
        for (role, action, parts) in [
            (false, AUTHORIZE, [AUTHORIZE, "the containment function's role"]),
            (true, AUTHORIZE, [AUTHORIZE, ROLE]),
            (true, ASSUME_ROLE, [ASSUME_ROLE, ROLE]),
            (
                true,
                CREATE_SCHEDULE,
                [CREATE_SCHEDULE, "iam:PassRole on SCHEDULER_ROLE_ARN"],
            ),
            (true, UPDATE_SCHEDULE, [UPDATE_SCHEDULE, "SCHEDULE_GROUP"]),
            (
                true,
                DELETE_SCHEDULE,
                [DELETE_SCHEDULE, "the containment function's role"],
            ),
            (
                true,
                GET_SECRET_VALUE,
                [GET_SECRET_VALUE, "STATIC_CREDENTIALS_SECRET_ARN"],
            ),
        ] {
            let detail = detail_of(role, action, ErrorKind::AccessDenied, Some("UnauthorizedOperation"));
            assert_eq!((detail.code, detail.retryable), (ErrorCode::AccessDenied, false));
            for part in parts {
                assert!(detail.remedy.contains(part), "{part}: {}", detail.remedy);
            }
        }
    }

    #[test]
    fn what_aws_does_not_take_names_the_parameter_or_the_quota() {
        for (action, said, code, part) in [
            (
                AUTHORIZE,
                "InvalidGroup.NotFound",
                ErrorCode::GroupNotFound,
                "params.aws_security_group_id",
            ),
            (
                AUTHORIZE,
                "RulesPerSecurityGroupLimitExceeded",
                ErrorCode::RuleLimitReached,
                "ALLOW_IP",
            ),
            (
                AUTHORIZE,
                "InvalidParameterValue",
                ErrorCode::AwsRejected,
                "Error codes",
            ),
            (
                "ec2:CreateNetworkAclEntry",
                "InvalidNetworkAclID.NotFound",
                ErrorCode::NetworkAclNotInVpc,
                "params.aws_network_acl_ids",
            ),
            (
                CREATE_SCHEDULE,
                "ResourceNotFoundException",
                ErrorCode::AwsRejected,
                "SCHEDULE_GROUP",
            ),
        ] {
            let detail = detail_of(false, action, ErrorKind::Rejected, Some(said));
            assert_eq!((detail.code, detail.retryable), (code, false));
            assert!(detail.remedy.contains(part), "{}", detail.remedy);
        }
    }
}
