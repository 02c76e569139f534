//! What a rule says of itself: its tags name the newest block, its description the one that added it.

use std::collections::BTreeMap;

use aws_text::Region;
use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};
use sha2::{Digest, Sha256};

use crate::request::Request;

/// Tag: `request_id` of the newest block.
pub const REQUEST_ID: &str = "aisoc:request-id";
/// Tag: who asked for the newest block.
pub const REQUESTED_BY: &str = "aisoc:requested-by";
/// Tag: when the newest block ends by itself, RFC 3339 in UTC, or [`NEVER`].
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
    /// Those of a rule whose newest block is `request`.
    #[must_use]
    pub fn of(request: &Request, expires_at: Option<Timestamp>) -> Self {
        Self {
            request_id: tag_value(&request.request_id),
            requested_by: request.requested_by.as_deref().map_or(UNKNOWN.to_owned(), tag_value),
            expires_at: expires_at.map_or(NEVER.to_owned(), |at| at.to_string()),
        }
    }

    /// Those that a rule carries; `None` where one is missing.
    #[must_use]
    pub fn on(rule: &RecordedRule) -> Option<Self> {
        Some(Self {
            request_id: rule.tags.get(REQUEST_ID)?.clone(),
            requested_by: rule.tags.get(REQUESTED_BY)?.clone(),
            expires_at: rule.tags.get(EXPIRES_AT)?.clone(),
        })
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
    /// Whether the newest block is that of the request with this id.
    #[must_use]
    pub fn is_of(&self, request_id: &str) -> bool {
        self.tags.get(REQUEST_ID) == Some(&tag_value(request_id))
    }

    /// The newest block's request, as the tag has it.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.tags.get(REQUEST_ID).map(String::as_str)
    }

    /// Whether the request with this id added the rule, and no other has renewed it since: then it is that request's
    /// to take back.
    #[must_use]
    pub fn was_added_by(&self, request_id: &str) -> bool {
        let start: String = description_start(request_id).chars().take(MAX_DESCRIPTION).collect();
        self.is_of(request_id) && self.description.starts_with(&start)
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

/// What the request adds to the rule as its description. It stays when the block is renewed, and says so.
#[must_use]
pub fn description(request: &Request, expires_at: Option<Timestamp>) -> String {
    let tags = RecordTags::of(request, expires_at);
    let rest = format!(
        "requested_by={} expires_at={}; renewals in the tags",
        legal_description(request.requested_by.as_deref().unwrap_or(UNKNOWN)),
        tags.expires_at
    );
    format!("{}{rest}", description_start(&request.request_id))
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

/// When the block ends by itself. A request that comes again keeps the end that stands on its rule, as long as that
/// is to come: delivered twice, it ends when it would have ended.
#[must_use]
pub fn expires_at(request: &Request, recorded: Option<&RecordedRule>, now: Timestamp) -> Option<Timestamp> {
    let seconds = request.expires_after_seconds?;
    let latest = in_whole_seconds(now + SignedDuration::from_secs(i64::from(seconds)));
    let kept = recorded
        .filter(|rule| rule.is_of(&request.request_id))
        .and_then(RecordedRule::expires_at)
        .filter(|at| now < *at && *at <= latest);
    Some(kept.unwrap_or(latest))
}

/// EventBridge Scheduler knows whole seconds; rounded up, no block ends early.
fn in_whole_seconds(at: Timestamp) -> Timestamp {
    let up = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Ceil);
    at.round(up).unwrap_or(at)
}

/// The schedule that ends a block: one for each rule of each group, so that a later block of the same finds it.
#[must_use]
pub fn schedule_name(region: &Region, request: &Request) -> String {
    format!(
        "aisoc-{}-{}",
        request.group,
        hash(&format!("{region} {}", request.rule))
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(id: &str, by: Option<&str>, seconds: Option<u32>) -> Request {
        let mut body = json!({"request_id": id, "action": "BLOCK_IP", "target": "203.0.113.7",
                              "params": {"aws_security_group_id": "sg-0123abcd"}});
        if let Some(by) = by {
            body["requested_by"] = json!(by);
        }
        if let Some(seconds) = seconds {
            body["params"]["expires_after_seconds"] = json!(seconds);
        }
        Request::read(&body.to_string(), "m").unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn recorded(request: &Request, expires_at: Option<Timestamp>) -> RecordedRule {
        RecordedRule {
            id: "sgr-1".to_owned(),
            description: description(request, expires_at),
            tags: RecordTags::of(request, expires_at)
                .pairs()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }
    }

    #[test]
    fn tags_say_whose_block_it_is_and_when_it_ends() {
        let tags = RecordTags::of(
            &request("r-1", Some("ana@example.com"), None),
            Some(at("2026-11-24T10:00:00Z")),
        );
        assert_eq!(
            tags.pairs(),
            [
                ("aisoc:request-id", "r-1"),
                ("aisoc:requested-by", "ana@example.com"),
                ("aisoc:expires-at", "2026-11-24T10:00:00Z"),
            ]
        );
        let tags = RecordTags::of(&request("r-1", None, None), None);
        assert_eq!(tags.pairs().map(|(_, value)| value), ["r-1", "unknown", "never"]);
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
        let text = description(&request("r-1", Some("ana@example.com"), None), None);
        assert_eq!(
            text,
            "aisoc block added by request_id=r-1 requested_by=ana@example.com expires_at=never; renewals in the tags"
        );
        let odd = description(&request(&format!("r\"<é{}", "x".repeat(250)), Some("\"\n"), None), None);
        assert!(odd.starts_with("aisoc block added by request_id=r___xxx"));
        assert_eq!(odd.chars().count(), 255);
    }

    #[test]
    fn a_rule_knows_who_added_it() {
        let first = request("r-1", None, None);
        assert!(recorded(&first, None).was_added_by("r-1"));
        assert!(!recorded(&first, None).was_added_by("r-"));
        assert!(!recorded(&first, None).was_added_by("r-11"));
        let renewed = RecordedRule {
            tags: recorded(&request("r-2", None, None), None).tags,
            ..recorded(&first, None)
        };
        assert!(!renewed.was_added_by("r-1") && !renewed.was_added_by("r-2"));
        assert!(renewed.is_of("r-2") && !renewed.is_of("r-1"));
        let long = "x".repeat(256);
        assert!(recorded(&request(&long, None, None), None).was_added_by(&long));
    }

    #[test]
    fn a_request_that_comes_again_keeps_its_end() {
        let now = at("2026-11-24T10:00:00.5Z");
        let request = request("r-1", None, Some(3600));
        let fresh = at("2026-11-24T11:00:01Z");
        assert_eq!(expires_at(&request, None, now), Some(fresh));
        let sooner = at("2026-11-24T10:59:00Z");
        assert_eq!(
            expires_at(&request, Some(&recorded(&request, Some(sooner))), now),
            Some(sooner)
        );
        for (other, end) in [
            (self::request("r-2", None, None), Some(sooner)),    // another request's
            (request.clone(), Some(at("2026-11-24T09:59:00Z"))), // over
            (request.clone(), Some(at("2030-01-01T00:00:00Z"))), // later than this request asks for
            (request.clone(), None),
        ] {
            assert_eq!(expires_at(&request, Some(&recorded(&other, end)), now), Some(fresh));
        }
        assert_eq!(expires_at(&self::request("r-1", None, None), None, now), None);
    }

    #[test]
    fn each_rule_of_each_group_has_its_schedule() {
        let region: Region = "us-east-1".parse().unwrap();
        let one = request("r-1", None, None);
        let name = schedule_name(&region, &one);
        assert_eq!(name, schedule_name(&region, &request("r-2", Some("b"), Some(60))));
        assert_ne!(name, schedule_name(&"us-east-2".parse().unwrap(), &one));
        assert!(name.starts_with("aisoc-sg-0123abcd-"));
        // "Name" of CreateSchedule in the EventBridge Scheduler API reference
        let longest = format!("aisoc-sg-{}-{}", "0".repeat(17), "0".repeat(HASH_DIGITS));
        assert!(longest.len() <= 64);
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
    }
}
