//! Which findings are asked for: the one place that decides it.

use std::fmt::Write;

use jiff::Timestamp;

/// A `GetFindings` query: what is common to all its pages. Findings come by `UpdatedAt`, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Filters from the settings
    pub narrowing: Narrowing,
    /// `UpdatedAt`; `None` for any time, and for findings without one
    pub updated: Option<Range>,
    /// Findings on a page, 1 to [`MAX_PAGE_SIZE`]
    pub page_size: i32,
}

/// A range of time, both ends inclusive, as `DateFilter` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First instant
    pub start: Timestamp,
    /// Last instant
    pub end: Timestamp,
}

/// Filters from the settings; an empty one lets everything pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrowing {
    /// `SeverityLabel`
    pub severity_labels: Vec<String>,
    /// `ProductName`
    pub product_names: Vec<String>,
    /// `AwsAccountId`
    pub aws_account_ids: Vec<String>,
}

impl Narrowing {
    /// A text that is the same for the same filters, whatever their order. What was read up to a point was read with
    /// these filters only, so that point is kept by it.
    #[must_use]
    pub fn key(&self) -> String {
        let mut key = String::new();
        for (name, values) in [
            ("severity", &self.severity_labels),
            ("product", &self.product_names),
            ("account", &self.aws_account_ids),
        ] {
            let mut values = values.clone();
            values.sort();
            values.dedup();
            if !values.is_empty() {
                let _ = write!(key, "#{name}={values:?}"); // writing to a String does not fail
            }
        }
        key
    }
}

/// The most findings `GetFindings` gives on one page (`MaxResults` in the Security Hub API reference).
pub const MAX_PAGE_SIZE: i32 = 100;

/// `WorkflowStatus` of the findings asked for.
pub const WORKFLOW_STATUSES: [&str; 2] = ["NEW", "NOTIFIED"];

/// `RecordState` of the findings asked for.
pub const RECORD_STATE: &str = "ACTIVE";

impl Query {
    /// The findings to be delivered, of a range or all of them.
    #[must_use]
    pub fn pages(narrowing: Narrowing, updated: Option<Range>) -> Self {
        Self {
            narrowing,
            updated,
            page_size: MAX_PAGE_SIZE,
        }
    }

    /// The least that shows whether a region answers.
    #[must_use]
    pub fn probe() -> Self {
        Self {
            page_size: 1,
            ..Self::pages(Narrowing::default(), None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_tells_filters_apart_and_not_their_order() {
        let narrowing = |labels: &[&str], products: &[&str]| Narrowing {
            severity_labels: labels.iter().map(ToString::to_string).collect(),
            product_names: products.iter().map(ToString::to_string).collect(),
            aws_account_ids: vec![],
        };
        assert_eq!(Narrowing::default().key(), "");
        assert_eq!(
            narrowing(&["HIGH", "LOW"], &[]).key(),
            narrowing(&["LOW", "HIGH", "LOW"], &[]).key()
        );
        let keys = [
            narrowing(&["HIGH"], &[]),
            narrowing(&["HIGH", "LOW"], &[]),
            narrowing(&[], &["HIGH"]),
            narrowing(&["HIGH"], &["HIGH"]),
            narrowing(&[], &["a\", \"b"]),
            narrowing(&[], &["a", "b"]),
        ]
        .map(|narrowing| narrowing.key());
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{key}");
        }
    }
}
