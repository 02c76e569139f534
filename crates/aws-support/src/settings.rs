//! Settings from the environment: all that is wrong with them, in one error.

use std::fmt;

/// Reads settings through a lookup, so that no test has to change the process's environment, and collects what is
/// missing or wrong. A setting that is set but empty counts as not set: that is how a template leaves one out.
pub struct Settings<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
}

/// Settings that are missing or wrong; `Display` names every one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// One sentence a setting, each starting with its name
    pub problems: Vec<String>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "environment variables to correct: {}", self.problems.join("; "))
    }
}

impl std::error::Error for SettingsError {}

impl<'a> Settings<'a> {
    /// Reads through `lookup`, which gives the value of a variable or `None`.
    #[must_use]
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            lookup,
            problems: Vec::new(),
        }
    }

    /// The setting, read by `parse`; `None` where it is not set, or wrong (which is then noted).
    pub fn optional<T, E: fmt::Display>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let text = self.text(name)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.note(format!("{name}: {problem}, not {text:?}"));
                None
            }
        }
    }

    /// As [`Settings::optional`], of a setting whose value is not repeated: it may be a key, put there by mistake.
    pub fn unrepeated<T, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(&self.text(name)?) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.note(format!("{name}: {problem}"));
                None
            }
        }
    }

    /// As [`Settings::optional`], but a setting that is not set is noted as well.
    pub fn required<T, E: fmt::Display>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        if self.text(name).is_none() {
            self.note(format!("{name} is not set"));
        }
        self.optional(name, parse)
    }

    /// The non-empty elements of a comma-separated setting, each once and in order; `None` where there are none.
    pub fn list<T: PartialEq, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let elements = self.optional(name, |text| {
            let mut elements = Vec::new();
            for element in text.split(',').map(str::trim).filter(|element| !element.is_empty()) {
                let element = parse(element)?;
                if !elements.contains(&element) {
                    elements.push(element);
                }
            }
            Ok::<_, E>(elements)
        })?;
        (!elements.is_empty()).then_some(elements)
    }

    /// `AWS_LAMBDA_FUNCTION_NAME`, which Lambda sets; elsewhere there may be none.
    pub fn function_name(&mut self) -> String {
        self.text("AWS_LAMBDA_FUNCTION_NAME")
            .unwrap_or_else(|| "unknown".to_owned())
    }

    /// Notes a problem that no single value shows.
    pub fn note(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// The whole, built by `build`.
    ///
    /// # Errors
    /// [`SettingsError`] with every problem noted.
    pub fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, SettingsError> {
        if self.problems.is_empty()
            && let Some(value) = build()
        {
            return Ok(value);
        }
        Err(SettingsError {
            problems: self.problems,
        })
    }

    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|text| !text.trim().is_empty())
    }
}

/// A queue's URL, as SQS gives it.
///
/// # Errors
/// What was expected instead.
pub fn queue_url(text: &str) -> Result<String, &'static str> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest.and_then(|rest| rest.split_once('/')) {
        Some((host, path)) if !host.is_empty() && path.contains('/') => Ok(text.to_owned()),
        _ => Err("expected the URL of an SQS queue"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Result<u32, &'static str> {
        text.parse().map_err(|_| "expected a number")
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let lookup = |name: &str| match name {
            "BAD" => Some("x".to_owned()),
            "EMPTY" => Some(" ".to_owned()),
            "LIST" => Some("1,,y".to_owned()),
            "GOOD" => Some("1".to_owned()),
            _ => None,
        };
        let mut settings = Settings::new(&lookup);
        assert_eq!(settings.required("GOOD", number), Some(1));
        settings.required("MISSING", number);
        settings.required("EMPTY", number);
        settings.optional("BAD", number);
        settings.list("LIST", number);
        assert_eq!(settings.optional("ABSENT", number), None);
        let error = settings.finish(|| Some(())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment variables to correct: MISSING is not set; EMPTY is not set; BAD: expected a number, \
             not \"x\"; LIST: expected a number, not \"1,,y\""
        );
    }

    #[test]
    fn lists_pass_over_empty_elements() {
        let lookup = |name: &str| {
            Some(match name {
                "LIST" => " 1, 2 ,,".to_owned(),
                _ => ",".to_owned(),
            })
        };
        let mut settings = Settings::new(&lookup);
        assert_eq!(settings.list("LIST", number), Some(vec![1, 2]));
        assert_eq!(settings.list("COMMAS", number), None);
        assert_eq!(settings.finish(|| Some(7)), Ok(7));
    }

    #[test]
    fn queue_urls() {
        assert!(queue_url("https://sqs.us-east-1.amazonaws.com/111122223333/findings").is_ok());
        for bad in [
            "",
            "findings",
            "https://sqs",
            "https:///1/findings",
            "arn:aws:sqs:us-east-1:111122223333:findings",
        ] {
            assert!(queue_url(bad).is_err(), "{bad}");
        }
    }
}
