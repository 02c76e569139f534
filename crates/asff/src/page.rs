//! Slicing a `GetFindings` answer into its findings without reading them.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::{Object, Text};

/// A finding, as the text Security Hub sent, and its members.
pub struct Finding<'a> {
    text: &'a str,
    members: Object<'a>,
}

impl<'a> Finding<'a> {
    /// Reads a finding. Any JSON value is one; what has no members that can be read has none.
    ///
    /// # Errors
    /// Where the text is no JSON.
    pub fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        let mut cursor = Cursor { rest: text };
        let finding = cursor.finding()?;
        cursor.end()?;
        Ok(finding)
    }

    /// The text as it stands in the page.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    pub(crate) fn members(&self) -> &Object<'a> {
        &self.members
    }
}

/// One page of findings.
#[derive(Debug)]
pub struct Page<'a, T> {
    /// What was made of the elements of `Findings`, whatever their type.
    pub findings: Vec<T>,
    /// Where the next page starts; `None` on the last page.
    pub next_token: Option<Cow<'a, str>>,
}

/// The answer was not the JSON object of a `GetFindings` response.
#[derive(Debug, thiserror::Error)]
#[error("the answer of GetFindings is not readable")]
pub struct UnreadablePage(#[from] pub serde_json::Error);

/// Slices the body of a `GetFindings` response, and makes something of each finding. An empty `NextToken` means what an
/// absent one does.
///
/// The text is gone over once: each finding is cut out as its members are read.
///
/// # Errors
/// [`UnreadablePage`] where the body is cut short, is not JSON, or has no `Findings` array. A finding of the wrong
/// shape is no error.
pub fn split<'a, T>(body: &'a str, mut read: impl FnMut(Finding<'a>) -> T) -> Result<Page<'a, T>, UnreadablePage> {
    let mut findings = None;
    let mut next_token = None;
    let mut cursor = Cursor { rest: body };
    cursor.take('{')?;
    if !cursor.has('}') {
        loop {
            let name: Cow<'a, str> = cursor.value::<Text<'a>>()?.0.into_inner();
            cursor.take(':')?;
            match name.as_ref() {
                "Findings" => findings = Some(cursor.findings(&mut read)?),
                "NextToken" => next_token = cursor.value::<Option<Text<'a>>>()?.0,
                _ => _ = cursor.value::<&RawValue>()?,
            }
            if !cursor.has(',') {
                break;
            }
        }
        cursor.take('}')?;
    }
    cursor.end()?;
    Ok(Page {
        findings: findings.ok_or_else(|| expected("`Findings`"))?,
        next_token: next_token.map(Text::into_inner).filter(|token| !token.is_empty()),
    })
}

fn expected(what: impl std::fmt::Display) -> serde_json::Error {
    serde::de::Error::custom(format_args!("expected {what}"))
}

/// A place in JSON text. What stands between values is read here, the values by `serde_json`.
struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn skip_white_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\n', '\r', '\t']);
    }

    fn has(&mut self, wanted: char) -> bool {
        self.skip_white_space();
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn take(&mut self, wanted: char) -> Result<(), serde_json::Error> {
        if self.has(wanted) {
            Ok(())
        } else {
            Err(expected(wanted))
        }
    }

    fn end(&mut self) -> Result<(), serde_json::Error> {
        self.skip_white_space();
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(expected("nothing more"))
        }
    }

    /// A value, and its text.
    fn value<T: Deserialize<'a>>(&mut self) -> Result<(T, &'a str), serde_json::Error> {
        self.skip_white_space();
        let mut values = serde_json::Deserializer::from_str(self.rest).into_iter();
        let value = values.next().ok_or_else(|| expected("a value"))??;
        let (text, rest) = self.rest.split_at(values.byte_offset());
        self.rest = rest;
        Ok((value, text))
    }

    fn finding(&mut self) -> Result<Finding<'a>, serde_json::Error> {
        self.skip_white_space();
        if self.rest.starts_with('{')
            && let Ok((members, text)) = self.value()
        {
            return Ok(Finding { text, members });
        }
        let (_, text) = self.value::<&RawValue>()?;
        Ok(Finding {
            text,
            members: Object::default(),
        })
    }

    fn findings<T>(&mut self, read: &mut impl FnMut(Finding<'a>) -> T) -> Result<Vec<T>, serde_json::Error> {
        let mut findings = Vec::new();
        self.take('[')?;
        if !self.has(']') {
            loop {
                findings.push(read(self.finding()?));
                if !self.has(',') {
                    break;
                }
            }
            self.take(']')?;
        }
        Ok(findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(body: &str) -> Result<Page<'_, &str>, UnreadablePage> {
        split(body, |finding| finding.text())
    }

    #[test]
    fn a_name_that_rust_cannot_hold_costs_its_findings_members_only() {
        let page = texts(r#"{"Findings":[{"\ud800":1,"Id":"a"},{"Id":"b"}],"Other":{"\ud800":[]}}"#).unwrap();
        assert_eq!(page.findings, [r#"{"\ud800":1,"Id":"a"}"#, r#"{"Id":"b"}"#]);
    }

    #[test]
    fn findings_keep_their_text() {
        let page =
            texts(r#"{ "Findings" : [ {"b": 1.10,"a" :1e2 ,"n":12345678901234567890} ,7, null], "NextToken":"t\/1" }"#)
                .unwrap();
        assert_eq!(
            page.findings,
            [r#"{"b": 1.10,"a" :1e2 ,"n":12345678901234567890}"#, "7", "null"]
        );
        assert_eq!(page.next_token.as_deref(), Some("t/1"));
    }

    #[test]
    fn the_last_page_has_no_token() {
        for body in [
            r#"{"Findings":[]}"#,
            r#"{"Findings":[],"NextToken":null}"#,
            r#"{"Findings":[],"NextToken":""}"#,
        ] {
            assert!(texts(body).unwrap().next_token.is_none(), "{body}");
        }
    }

    #[test]
    fn a_page_reads_the_same_whatever_stands_around_it() {
        let body = "\n{ \"Other\" : [ { } ] ,\t\"NextToken\":\"t\", \"Findings\" :[ { \"a\" : [ ] } , { } ] } \r\n";
        let page = texts(body).unwrap();
        assert_eq!(page.findings, [r#"{ "a" : [ ] }"#, "{ }"]);
        assert_eq!(page.next_token.as_deref(), Some("t"));
    }

    #[test]
    fn a_body_that_is_no_page_is_an_error() {
        for body in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"Findings":{}}"#,
            r#"{"Findings":[{"Id":"#,
            r#"{"Findings":[{"Id":tru}]}"#,
            r#"{"Findings":[{"Id":{"a":[1,]}}]}"#,
            r#"{"Findings":[{}{}]}"#,
            r#"{"Findings":[{},]}"#,
            r#"{"Findings":[{}]"#,
            r#"{"Findings":[{}],}"#,
            r#"{"Findings":[{}]}x"#,
            r#"{"Findings":[7.]}"#,
            r#"{"Findings":[],"NextToken":7}"#,
        ] {
            assert!(texts(body).is_err(), "{body}");
        }
    }
}
