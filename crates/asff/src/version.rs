//! What makes two deliveries the same event: the finding version and its id.

use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::json::{Object, Value};

/// Names a finding version: SHA-256 over the members of the version. Written in lower-case hex, 64 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId([u8; 32]);

/// The first half of an [`EventId`], by which deliveries are recorded.
pub type Digest = [u8; 16];

impl EventId {
    /// The id of these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The id as it is written.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// What of it is recorded. 128 bits of a good hash: two versions never share them.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        digest.copy_from_slice(&self.0[..16]);
        digest
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The members of a finding that identify it, then those whose change makes a new version of it.
/// `BatchUpdateFindings` (an analyst's edit) leaves `UpdatedAt` as it is, hence the statuses and the label.
///
/// `Region` is the finding's own: with cross-region aggregation one finding comes in several of the regions polled.
const IDENTITY: [&[&str]; 4] = [&["ProductArn"], &["Id"], &["AwsAccountId"], &["Region"]];
const REVISION: [&[&str]; 5] = [
    &["UpdatedAt"],
    &["Workflow", "Status"],
    &["RecordState"],
    &["Severity", "Label"],
    &["Compliance", "Status"],
];

/// Without one of these a finding cannot be told from others, or one update of it from the next, by its members.
const INDISPENSABLE: [&str; 3] = ["ProductArn", "Id", "UpdatedAt"];

/// The `event_id` of a finding version.
///
/// Where a finding lacks `ProductArn`, `Id` or `UpdatedAt` (or has no string there), its whole text counts as well: it
/// keeps one id for as long as it stays the same to the letter, and shares it with no other finding.
pub(crate) fn event_id(text: &str, finding: &Object<'_>) -> EventId {
    let mut digest = Sha256::new();
    digest.update(b"aws_security_hub/finding-version/1");
    for path in IDENTITY {
        add(&mut digest, at(finding, path));
    }
    for path in REVISION {
        add(&mut digest, at(finding, path));
    }
    if INDISPENSABLE.iter().any(|name| finding.str(name).is_none()) {
        add_part(&mut digest, b'r', text);
    }
    EventId(digest.finalize().into())
}

fn at<'a>(finding: &Object<'a>, path: &[&str]) -> Option<Value<'a>> {
    match path {
        [] => None,
        [name] => finding.get(name),
        [name, rest @ ..] => at(&finding.object(name), rest),
    }
}

/// Kind and length stand before each part, so that no two lists of parts give the same bytes.
fn add_part(digest: &mut Sha256, kind: u8, text: &str) {
    digest.update([kind]);
    digest.update((text.len() as u64).to_be_bytes());
    digest.update(text.as_bytes());
}

fn add(digest: &mut Sha256, value: Option<Value<'_>>) {
    match value {
        None => digest.update([b'-']),
        Some(value) => match value.as_str() {
            Some(text) => add_part(digest, b's', &text),
            None => add_part(digest, b'r', value.text()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn id(finding: &str) -> EventId {
        let raw = Value::new(serde_json::from_str(finding).unwrap());
        event_id(raw.text(), &raw.as_object())
    }

    const BASE: &str = r#"{"ProductArn":"p","Id":"i","AwsAccountId":"111122223333","Region":"eu-west-1","UpdatedAt":"2026-11-01T00:00:00Z","Workflow":{"Status":"NEW"},"RecordState":"ACTIVE","Severity":{"Label":"LOW"},"Compliance":{"Status":"FAILED"},"Title":"t"}"#;

    #[test]
    fn what_is_not_of_the_version_does_not_change_the_id() {
        let reordered = r#"{ "Title":"another", "Region":"eu-west-1", "RecordState":"ACTIVE","Compliance":{"Status":"FAILED","Extra":1},"Severity":{"Label":"LOW","Normalized":3},"Workflow":{"Status":"NEW"},"UpdatedAt":"2026-11-01T00:00:00Z","AwsAccountId":"111122223333","Id":"\u0069","ProductArn":"p"}"#;
        assert_eq!(id(BASE), id(reordered));
        let text = id(BASE).to_string();
        assert_eq!(text.len(), 64);
        assert_eq!(EventId::parse(&text), Some(id(BASE)));
        for bad in ["", &text[1..], &text.to_uppercase(), &format!("é{}", &text[2..])] {
            assert_eq!(EventId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn each_member_of_the_version_changes_the_id() {
        let mut ids = HashSet::from([id(BASE)]);
        let edits = [
            (r#""p""#, r#""q""#),
            (r#""i""#, r#""j""#),
            ("111122223333", "444455556666"),
            ("eu-west-1", "us-east-1"),
            ("00:00:00Z", "00:00:01Z"),
            ("NEW", "NOTIFIED"),
            ("ACTIVE", "ARCHIVED"),
            ("LOW", "HIGH"),
            ("FAILED", "PASSED"),
            (r#""Status":"NEW""#, r#""Status":null"#),
            (r#""Status":"NEW""#, r#""Status":7"#),
            (r#""Status":"NEW""#, r#""Status":"7""#),
        ];
        for (from, to) in edits {
            let edited = BASE.replacen(from, to, 1);
            assert_ne!(edited, BASE);
            assert!(ids.insert(id(&edited)), "{from} -> {to}");
        }
    }

    #[test]
    fn members_do_not_run_into_each_other() {
        assert_ne!(
            id(r#"{"ProductArn":"ab","Id":"c","UpdatedAt":"u"}"#),
            id(r#"{"ProductArn":"a","Id":"bc","UpdatedAt":"u"}"#)
        );
    }

    #[test]
    fn without_an_indispensable_member_the_whole_text_counts() {
        for lacking in [
            r#"{"Id":"i","UpdatedAt":"u","Title":"TITLE"}"#,
            r#"{"ProductArn":"p","UpdatedAt":"u","Title":"TITLE"}"#,
            r#"{"ProductArn":"p","Id":"i","Title":"TITLE"}"#,
            r#"{"ProductArn":"p","Id":5,"UpdatedAt":"u","Title":"TITLE"}"#,
            r#"["TITLE"]"#,
        ] {
            assert_eq!(id(lacking), id(lacking));
            assert_ne!(id(lacking), id(&lacking.replace("TITLE", "other")), "{lacking}");
        }
    }
}
