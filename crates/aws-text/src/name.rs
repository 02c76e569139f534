//! Names of AWS things that are checked before they are used.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that has not the form of the name it should be. `Display` says what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAName {
    expected: &'static str,
}

impl NotAName {
    /// What the text should be.
    #[must_use]
    pub fn expected(&self) -> &'static str {
        self.expected
    }
}

impl fmt::Display for NotAName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", self.expected)
    }
}

impl std::error::Error for NotAName {}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:path, $expected:literal, $pattern:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl TryFrom<String> for $name {
            type Error = NotAName;

            fn try_from(text: String) -> Result<Self, NotAName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NotAName;

            fn from_str(text: &str) -> Result<Self, NotAName> {
                if $check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NotAName { expected: $expected })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "pattern": $pattern,
                })
            }
        }
    };
}

name!(
    /// A region's code. The form only: regions that are yet to come pass.
    Region, is_region, "a region's code such as us-east-1",
    r"^[a-z]{2,}(-[a-z]+)+-[0-9]{1,2}$"
);
name!(
    /// A security group's id.
    SecurityGroupId, is_security_group_id, "sg- and 8 or 17 hexadecimal digits",
    r"^sg-([0-9a-f]{8}|[0-9a-f]{17})$"
);
name!(
    /// A network ACL's id.
    NetworkAclId, is_network_acl_id, "acl- and 8 or 17 hexadecimal digits",
    r"^acl-([0-9a-f]{8}|[0-9a-f]{17})$"
);
name!(
    /// The ARN of an IAM role.
    RoleArn, is_role_arn, "a role's ARN such as arn:aws:iam::111122223333:role/name",
    r"^arn:aws(-[a-z-]*)?:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]*[A-Za-z0-9+=,.@_-]$"
);

impl RoleArn {
    /// The account that the role belongs to.
    #[must_use]
    pub fn account_id(&self) -> &str {
        self.0.split(':').nth(4).unwrap_or_default()
    }
}

fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [first, middle @ .., number] = parts.as_slice() else {
        return false;
    };
    let is_word = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    first.len() >= 2
        && is_word(first)
        && !middle.is_empty()
        && middle.iter().all(is_word)
        && (1..=2).contains(&number.len())
        && number.bytes().all(|b| b.is_ascii_digit())
}

fn is_security_group_id(text: &str) -> bool {
    is_resource_id(text, "sg-")
}

fn is_network_acl_id(text: &str) -> bool {
    is_resource_id(text, "acl-")
}

/// EC2's ids: 8 digits where the resource is old, 17 since 2018.
fn is_resource_id(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|digits| {
        matches!(digits.len(), 8 | 17) && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
    })
}

/// `arn:<partition>:iam::<12 digits>:role/<path and name>`; the characters are those of the IAM API reference
/// (`CreateRole`), and a wildcard is none of them.
fn is_role_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", account, resource] = parts.as_slice() else {
        return false;
    };
    let name = resource.strip_prefix("role/").unwrap_or_default();
    (*partition == "aws" || partition.starts_with("aws-"))
        && partition.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
        && account.len() == 12
        && account.bytes().all(|b| b.is_ascii_digit())
        && !name.is_empty()
        && !name.ends_with('/')
        && text.len() <= 2048
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+=,.@_/-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions() {
        for good in [
            "us-east-1",
            "us-gov-west-1",
            "us-isob-east-1",
            "ap-southeast-7",
            "eusc-de-east-1",
            "mx-central-1",
        ] {
            assert_eq!(good.parse::<Region>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "us",
            "us-1",
            "us-east",
            "US-EAST-1",
            "us-east-1 ",
            "us-east-1a",
            "us--east-1",
            "-east-1",
            "u-east-1",
            "us-east-111",
            "us_east_1",
            "evil.example/us-east-1",
        ] {
            assert!(bad.parse::<Region>().is_err(), "{bad}");
        }
    }

    #[test]
    fn security_groups() {
        for good in ["sg-0123abcd", "sg-0123456789abcdef0"] {
            assert_eq!(good.parse::<SecurityGroupId>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "sg-",
            "sg-123",
            "sg-0123ABCD",
            "sg-0123456789abcdefg",
            "acl-0123abcd",
            "sg-0123abcd,sg-0123abce",
            "default",
        ] {
            assert!(bad.parse::<SecurityGroupId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn network_acls() {
        assert!("acl-0123456789abcdef0".parse::<NetworkAclId>().is_ok());
        for bad in ["", "acl-", "sg-0123abcd", "acl-0123abcd,acl-0123abce", "acl-0123ABCD"] {
            assert!(bad.parse::<NetworkAclId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn roles() {
        for good in [
            "arn:aws:iam::111122223333:role/aisoc-containment",
            "arn:aws-us-gov:iam::111122223333:role/path/to/name+=,.@_-",
            "arn:aws-cn:iam::111122223333:role/x",
        ] {
            assert_eq!(good.parse::<RoleArn>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "aisoc-containment",
            "arn:aws:iam::1111:role/x",
            "arn:aws:iam::111122223333:role/",
            "arn:aws:iam::111122223333:role/*",
            "arn:aws:iam::111122223333:user/x",
            "arn:aws:sts::111122223333:role/x",
            "arn:evil:iam::111122223333:role/x",
            "arn:aws:iam:us-east-1:111122223333:role/x",
        ] {
            assert!(bad.parse::<RoleArn>().is_err(), "{bad}");
        }
    }
}
