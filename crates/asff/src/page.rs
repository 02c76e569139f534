//! Slicing a `GetFindings` answer into its findings without reading them.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// One page of findings, each as the text Security Hub sent.
#[derive(Debug, Deserialize)]
pub struct Page<'a> {
    /// The elements of `Findings`, whatever their type.
    #[serde(borrow, rename = "Findings")]
    pub findings: Vec<&'a RawValue>,
    /// Where the next page starts; `None` on the last page.
    #[serde(borrow, default, rename = "NextToken")]
    pub next_token: Option<Cow<'a, str>>,
}

/// The answer was not the JSON object of a `GetFindings` response.
#[derive(Debug, thiserror::Error)]
#[error("the answer of GetFindings is not readable")]
pub struct UnreadablePage(#[from] pub serde_json::Error);

/// Slices the body of a `GetFindings` response. An empty `NextToken` means what an absent one does.
///
/// # Errors
/// [`UnreadablePage`] where the body is cut short, is not JSON, or has no `Findings` array. A finding of the wrong
/// shape is no error.
pub fn split(body: &str) -> Result<Page<'_>, UnreadablePage> {
    let mut page: Page<'_> = serde_json::from_str(body)?;
    page.next_token = page.next_token.filter(|token| !token.is_empty());
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_keep_their_text() {
        let page =
            split(r#"{ "Findings" : [ {"b": 1.10,"a" :1e2 ,"n":12345678901234567890} ,7, null], "NextToken":"t\/1" }"#)
                .unwrap();
        let texts: Vec<_> = page.findings.iter().map(|finding| finding.get()).collect();
        assert_eq!(
            texts,
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
            assert!(split(body).unwrap().next_token.is_none(), "{body}");
        }
    }

    #[test]
    fn a_body_that_is_no_page_is_an_error() {
        for body in ["", "null", "[]", "{}", r#"{"Findings":{}}"#, r#"{"Findings":[{"Id":"#] {
            assert!(split(body).is_err(), "{body}");
        }
    }
}
