//! The words for a failed AWS call.

use aws_support::{AwsError, ErrorKind};
use containment_plan::{ErrorDetail, Request};

/// What happened and what to do about it, for the request in whose course the call failed.
#[must_use]
pub fn detail(error: &AwsError, request: &Request) -> ErrorDetail {
    let (code, remedy) = match error.kind {
        ErrorKind::Throttled => ("throttled", NOTHING.to_owned()),
        ErrorKind::Unreachable => (
            "unreachable",
            format!("{NOTHING}; if it lasts, check that the function's network reaches the service"),
        ),
        ErrorKind::ExpiredCredentials => ("expired_credentials", NOTHING.to_owned()),
        ErrorKind::OutOfTime => ("out_of_time", NOTHING.to_owned()),
        ErrorKind::AccessDenied => ("access_denied", access_remedy(error, request)),
        ErrorKind::Rejected => rejected(error, request),
    };
    ErrorDetail {
        code: code.to_owned(),
        message: error.to_string(),
        remedy,
        retryable: error.is_retryable(),
    }
}

const NOTHING: &str = "nothing: the request is tried again";

fn access_remedy(error: &AwsError, request: &Request) -> String {
    match (&request.role, error.action) {
        (Some(role), ASSUME_ROLE) => format!(
            "allow sts:AssumeRole on {role} to the containment function's role, and let the trust policy of {role} \
             name that role and the ASSUME_ROLE_EXTERNAL_ID in use"
        ),
        (Some(role), action) => format!("allow {action} to {role}"),
        (None, action) => format!(
            "allow {action} to the containment function's role; the template allows writes only on groups with the \
             block-list tag"
        ),
    }
}

/// EC2's codes are those of "Error codes for the Amazon EC2 API".
fn rejected(error: &AwsError, request: &Request) -> (&'static str, String) {
    match error.code.as_deref() {
        Some("InvalidGroup.NotFound" | "InvalidGroupId.Malformed" | "InvalidSecurityGroupID.NotFound") => (
            "group_not_found",
            format!(
                "check params.aws_security_group_id ({}), params.aws_region and params.aws_assume_role_arn: the group \
                 is looked for in that region of that account",
                request.group
            ),
        ),
        Some("RulesPerSecurityGroupLimitExceeded") => (
            "rule_limit_reached",
            format!(
                "lift blocks that are no longer needed from {} with ALLOW_IP, use a second block list, or raise the \
                 quota \"Inbound or outbound rules per security group\" (60 by default)",
                request.group
            ),
        ),
        _ => (
            "aws_rejected",
            "look the code up in \"Error codes for the Amazon EC2 API\", and report it to the connector's maintainers \
             if the request is as documented"
                .to_owned(),
        ),
    }
}

/// The IAM action of `AssumeRole`.
pub const ASSUME_ROLE: &str = "sts:AssumeRole";

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

    #[test]
    fn each_failure_has_its_code_and_a_remedy_that_names_what_to_change() {
        use ErrorKind::{AccessDenied, ExpiredCredentials, OutOfTime, Rejected, Throttled, Unreachable};
        const AUTHORIZE: &str = "ec2:AuthorizeSecurityGroupIngress";
        for (role, action, kind, code, expected, remedy, retryable) in [
            (
                false,
                AUTHORIZE,
                Throttled,
                Some("RequestLimitExceeded"),
                "throttled",
                "tried again",
                true,
            ),
            (false, AUTHORIZE, Unreachable, None, "unreachable", "network", true),
            (
                false,
                AUTHORIZE,
                ExpiredCredentials,
                None,
                "expired_credentials",
                "tried again",
                true,
            ),
            (false, AUTHORIZE, OutOfTime, None, "out_of_time", "tried again", true),
            (
                false,
                AUTHORIZE,
                AccessDenied,
                Some("UnauthorizedOperation"),
                "access_denied",
                "allow ec2:AuthorizeSecurityGroupIngress to the containment",
                false,
            ),
            (
                true,
                AUTHORIZE,
                AccessDenied,
                Some("UnauthorizedOperation"),
                "access_denied",
                "allow ec2:AuthorizeSecurityGroupIngress to arn:aws:iam::111122223333:role/r",
                false,
            ),
            (
                true,
                ASSUME_ROLE,
                AccessDenied,
                Some("AccessDenied"),
                "access_denied",
                "sts:AssumeRole on arn:aws:iam::111122223333:role/r",
                false,
            ),
            (
                false,
                AUTHORIZE,
                Rejected,
                Some("InvalidGroup.NotFound"),
                "group_not_found",
                "params.aws_security_group_id",
                false,
            ),
            (
                false,
                AUTHORIZE,
                Rejected,
                Some("RulesPerSecurityGroupLimitExceeded"),
                "rule_limit_reached",
                "ALLOW_IP",
                false,
            ),
            (
                false,
                AUTHORIZE,
                Rejected,
                Some("InvalidParameterValue"),
                "aws_rejected",
                "Error codes",
                false,
            ),
        ] {
            let error = AwsError {
                kind,
                code: code.map(str::to_owned),
                ..AwsError::out_of_time(action)
            };
            let detail = detail(&error, &request(role));
            assert_eq!(detail.code, expected);
            assert!(detail.remedy.contains(remedy), "{}", detail.remedy);
            assert_eq!(detail.retryable, retryable, "{expected}");
        }
    }
}
