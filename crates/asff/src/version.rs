//! What makes two deliveries the same event: the finding version and its id.

use sha2::{Digest, Sha256};

use crate::json::{Object, Value};

/// The members of a finding that identify it, then those whose change makes a new version of it.
/// `BatchUpdateFindings` (an analyst's edit) leaves `UpdatedAt` as it is, hence the statuses and the label.
const IDENTITY: [&[&str]; 3] = [&["ProductArn"], &["Id"], &["AwsAccountId"]];
const REVISION: [&[&str]; 5] = [
    &["UpdatedAt"],
    &["Workflow", "Status"],
    &["RecordState"],
    &["Severity", "Label"],
    &["Compliance", "Status"],
];

/// Without one of these a finding cannot be told from others, or one update of it from the next, by its members.
const INDISPENSABLE: [&str; 3] = ["ProductArn", "Id", "UpdatedAt"];

/// The `event_id` of a finding version: SHA-256 in lower-case hex, so 64 characters, over the members of the version.
///
/// Where a finding lacks `ProductArn`, `Id` or `UpdatedAt` (or has no string there), its whole text counts as well: it
/// keeps one id for as long as it stays the same to the letter, and shares it with no other finding.
pub(crate) fn event_id(text: &str, finding: &Object<'_>, region: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(b"aws_security_hub/finding-version/1");
    for path in IDENTITY {
        add(&mut digest, at(finding, path));
    }
    add_part(&mut digest, b's', region);
    for path in REVISION {
        add(&mut digest, at(finding, path));
    }
    if INDISPENSABLE.iter().any(|name| finding.str(name).is_none()) {
        add_part(&mut digest, b'r', text);
    }
    let digits = |byte: u8| [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]));
    digest.finalize().into_iter().flat_map(digits).collect()
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

    fn id(finding: &str) -> String {
        let raw = Value::new(serde_json::from_str(finding).unwrap());
        event_id(raw.text(), &raw.as_object(), "us-east-1")
    }

    const BASE: &str = r#"{"ProductArn":"p","Id":"i","AwsAccountId":"111122223333","UpdatedAt":"2026-11-01T00:00:00Z","Workflow":{"Status":"NEW"},"RecordState":"ACTIVE","Severity":{"Label":"LOW"},"Compliance":{"Status":"FAILED"},"Title":"t"}"#;

    #[test]
    fn what_is_not_of_the_version_does_not_change_the_id() {
        let reordered = r#"{ "Title":"another", "RecordState":"ACTIVE","Compliance":{"Status":"FAILED","Extra":1},"Severity":{"Label":"LOW","Normalized":3},"Workflow":{"Status":"NEW"},"UpdatedAt":"2026-11-01T00:00:00Z","AwsAccountId":"111122223333","Id":"\u0069","ProductArn":"p"}"#;
        assert_eq!(id(BASE), id(reordered));
        assert_eq!(id(BASE).len(), 64);
    }

    #[test]
    fn each_member_of_the_version_changes_the_id() {
        let mut ids = HashSet::from([id(BASE)]);
        let edits = [
            (r#""p""#, r#""q""#),
            (r#""i""#, r#""j""#),
            ("111122223333", "444455556666"),
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
        let raw = Value::new(serde_json::from_str(BASE).unwrap());
        assert!(ids.insert(event_id(raw.text(), &raw.as_object(), "eu-west-1")));
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
