//! What an SQS message can hold.
//!
//! SQS takes the characters of XML 1.0 only: `#x9 | #xA | #xD | [#x20-#xD7FF] | [#xE000-#xFFFD] | [#x10000-#x10FFFF]`
//! (`SendMessage` in the SQS API reference).

/// Whether SQS takes the character.
#[must_use]
pub fn is_character(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{fffd}' | '\u{10000}'..)
}

/// JSON text in the characters that SQS takes. JSON has escaped all the others already but U+FFFE and U+FFFF, which
/// can stand in its strings as they are: they become `\ufffe` and `\uffff`, which any parser reads as the same.
#[must_use]
pub fn escape_json(json: String) -> String {
    // In UTF-8 both begin with 0xEF, which few texts hold: a search for one byte is many times faster.
    if json.as_bytes().contains(&0xef) {
        json.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
    } else {
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters() {
        for taken in [
            '\t',
            '\n',
            '\r',
            ' ',
            '\u{7f}',
            '\u{d7ff}',
            '\u{e000}',
            '\u{fffd}',
            '\u{10ffff}',
        ] {
            assert!(is_character(taken), "{taken:?}");
        }
        for refused in ['\0', '\u{b}', '\u{1f}', '\u{fffe}', '\u{ffff}'] {
            assert!(!is_character(refused), "{refused:?}");
        }
    }

    #[test]
    fn json_keeps_its_meaning() {
        let json = "{\"\u{ffff}\":\"a\u{fffe}\\\\b\"}".to_owned();
        assert_eq!(escape_json(json), r#"{"\uffff":"a\ufffe\\b"}"#);
        assert_eq!(escape_json("{}".to_owned()), "{}");
    }
}
