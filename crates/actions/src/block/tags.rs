//! What the rule on a block list tells a person in the console: its tags describe the block in force, its description
//! the request that added it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::Terms;

/// Tag: `request_id` of the block.
pub const REQUEST_ID: &str = "aisoc:request-id";
/// Tag: who asked for the block.
pub const REQUESTED_BY: &str = "aisoc:requested-by";
/// Tag: when the block ends by itself, RFC 3339 in UTC, or [`NEVER`].
pub const EXPIRES_AT: &str = "aisoc:expires-at";
/// The value of [`EXPIRES_AT`] where a block does not end by itself. It is written out: a tag that is not renewed
/// would go on telling the time of an older block.
pub const NEVER: &str = "never";
/// The value of [`REQUESTED_BY`] where the request does not say.
pub const UNKNOWN: &str = "unknown";

/// The tags of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordTags {
    request_id: String,
    requested_by: String,
    expires_at: String,
}

impl RecordTags {
    /// Those of a rule whose block has these terms.
    #[must_use]
    pub fn of(terms: &Terms) -> Self {
        Self {
            request_id: tag_value(&terms.request_id),
            requested_by: terms.requested_by.as_deref().map_or(UNKNOWN.to_owned(), tag_value),
            expires_at: terms.expires_at.map_or(NEVER.to_owned(), |at| at.to_string()),
        }
    }

    /// Keys and values.
    #[must_use]
    pub fn pairs(&self) -> [(&'static str, &str); 3] {
        [
            (REQUEST_ID, &self.request_id),
            (REQUESTED_BY, &self.requested_by),
            (EXPIRES_AT, &self.expires_at),
        ]
    }

    /// Whether a rule carries exactly these, beside whatever else.
    #[must_use]
    pub fn are_on(&self, rule: &RecordedRule) -> bool {
        self.pairs()
            .iter()
            .all(|(key, value)| rule.tags.get(*key).is_some_and(|found| found == value))
    }
}

/// A rule of a block list, as EC2 describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedRule {
    /// Its id, `sgr-…`
    pub id: String,
    /// Its description
    pub description: String,
    /// Its tags
    pub tags: BTreeMap<String, String>,
}

impl RecordedRule {
    /// Whether the tags name the request with this id.
    #[must_use]
    pub fn is_of(&self, request_id: &str) -> bool {
        self.tags.get(REQUEST_ID) == Some(&tag_value(request_id))
    }

    /// The block's request, as the tag has it.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.tags.get(REQUEST_ID).map(String::as_str)
    }

    /// When the block ends by itself.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.tags.get(EXPIRES_AT)?.parse().ok()
    }
}

/// The most characters of a tag's value ("Tag restrictions" in the EC2 user guide).
const MAX_TAG_VALUE: usize = 256;
/// Characters of a hash in hexadecimal that tell apart values which would be the same once made legal.
const HASH_DIGITS: usize = 16;

/// A text as a tag's value: letters, digits, spaces and `+-=._:/@` stay, anything else becomes `_`. A value that had to
/// be changed ends with a hash of what it was: two request ids never share a tag.
#[must_use]
pub fn tag_value(text: &str) -> String {
    let is_legal = |c: char| c.is_alphanumeric() || " +-=._:/@".contains(c);
    let is_kept = text.chars().all(is_legal)
        && text.chars().count() <= MAX_TAG_VALUE
        && text == text.trim()
        // A prefix that AWS keeps for itself
        && !text.to_ascii_lowercase().starts_with("aws:");
    if is_kept {
        return text.to_owned();
    }
    let legal = text.trim().chars().map(|c| if is_legal(c) { c } else { '_' });
    let start: String = "_".chars().chain(legal).take(MAX_TAG_VALUE - HASH_DIGITS - 1).collect();
    format!("{start}_{}", hash(text))
}

/// The start of a hash, in hexadecimal.
pub(crate) fn hash(text: &str) -> String {
    let digest = Sha256::digest(text);
    let start = digest
        .iter()
        .take(8)
        .fold(0, |start: u64, byte| start << 8 | u64::from(*byte));
    format!("{start:0HASH_DIGITS$x}")
}

/// The most characters of a rule's description (`IpRange` in the EC2 API reference).
const MAX_DESCRIPTION: usize = 255;

/// The description of a rule that a request adds. It stays when the block is renewed, and says so.
#[must_use]
pub fn description(terms: &Terms) -> String {
    let rest = format!(
        "requested_by={} expires_at={}; renewals in the tags",
        legal_description(terms.requested_by.as_deref().unwrap_or(UNKNOWN)),
        RecordTags::of(terms).expires_at
    );
    format!("{}{rest}", description_start(&terms.request_id))
        .chars()
        .take(MAX_DESCRIPTION)
        .collect()
}

fn description_start(request_id: &str) -> String {
    format!("aisoc block added by request_id={} ", legal_description(request_id))
}

/// EC2 takes letters, digits, spaces and `._-:/()#,@[]+=&;{}!$*`; anything else becomes `_`.
fn legal_description(text: &str) -> String {
    text.chars()
        .map(|c| {
            let is_legal = c.is_ascii_alphanumeric() || " ._-:/()#,@[]+=&;{}!$*".contains(c);
            if is_legal { c } else { '_' }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(id: &str, by: Option<&str>, expires_at: Option<&str>) -> Terms {
        Terms {
            request_id: id.to_owned(),
            requested_by: by.map(str::to_owned),
            notes: crate::request::Notes::default(),
            network_acl_ids: None,
            expires_at: expires_at.map(|at| at.parse().unwrap()),
        }
    }

    #[test]
    fn tags_say_whose_block_it_is_and_when_it_ends() {
        let tags = RecordTags::of(&terms("r-1", Some("ana@example.com"), Some("2026-11-24T10:00:00Z")));
        assert_eq!(
            tags.pairs(),
            [
                ("aisoc:request-id", "r-1"),
                ("aisoc:requested-by", "ana@example.com"),
                ("aisoc:expires-at", "2026-11-24T10:00:00Z"),
            ]
        );
        let tags = RecordTags::of(&terms("r-1", None, None));
        assert_eq!(tags.pairs().map(|(_, value)| value), ["r-1", "unknown", "never"]);
    }

    #[test]
    fn a_rule_knows_whose_block_it_is_and_when_it_ends() {
        let tags = |terms: &Terms| {
            let pairs = RecordTags::of(terms)
                .pairs()
                .map(|(key, value)| (key.to_owned(), value.to_owned()));
            RecordedRule {
                tags: pairs.into(),
                ..RecordedRule::default()
            }
        };
        let odd = tags(&terms("r\"1", None, Some("2026-11-24T10:00:00Z")));
        assert!(odd.is_of("r\"1") && !odd.is_of("r<1") && !odd.is_of("r-1"));
        assert_eq!(odd.expires_at(), Some("2026-11-24T10:00:00Z".parse().unwrap()));
        let plain = tags(&terms("r-1", None, None));
        assert_eq!((plain.request_id(), plain.expires_at()), (Some("r-1"), None));
        let bare = RecordedRule::default();
        assert!(!bare.is_of("") && bare.request_id().is_none() && bare.expires_at().is_none());
    }

    #[test]
    fn values_are_made_legal_and_stay_apart() {
        for kept in ["r-1", "Ana María", "a@b.example", "x:/+=_.-", "", &"x".repeat(256)] {
            assert_eq!(tag_value(kept), kept);
        }
        let changed = [
            "a\"b",
            "a<b",
            "a_b ",
            " a_b",
            "aws:x",
            &"x".repeat(257),
            &"x".repeat(258),
            "a\u{0}b",
            "é!",
        ];
        let values: Vec<String> = changed.iter().map(|text| tag_value(text)).collect();
        assert_eq!(values[5].chars().count(), MAX_TAG_VALUE, "as much of it as fits");
        for (index, value) in values.iter().enumerate() {
            assert!(value.chars().count() <= 256, "{value}");
            assert!(
                value.chars().all(|c| c.is_alphanumeric() || " +-=._:/@".contains(c)),
                "{value}"
            );
            assert!(!values[..index].contains(value), "{value}");
            assert!(!value.starts_with("aws:") && value == value.trim());
        }
    }

    #[test]
    fn descriptions_are_what_ec2_takes() {
        let text = description(&terms("r-1", Some("ana@example.com"), None));
        assert_eq!(
            text,
            "aisoc block added by request_id=r-1 requested_by=ana@example.com expires_at=never; renewals in the tags"
        );
        let odd = description(&terms(&format!("r\"<é{}", "x".repeat(250)), Some("\"\n"), None));
        assert!(odd.starts_with("aisoc block added by request_id=r___xxx"));
        assert_eq!(odd.chars().count(), 255);
    }
}
