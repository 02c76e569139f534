//! Which findings are asked for: the one file that decides it.

use std::fmt::Write;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// A `GetFindings` query: what is common to all its pages. Findings come by `UpdatedAt`, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Filters from the settings
    pub filters: Filters,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filters {
    /// `WorkflowStatus`
    pub workflow_statuses: Vec<String>,
    /// `RecordState`
    pub record_states: Vec<String>,
    /// `SeverityLabel`
    pub severity_labels: Vec<String>,
    /// `ProductName`
    pub product_names: Vec<String>,
    /// `AwsAccountId`
    pub aws_account_ids: Vec<String>,
}

impl Default for Filters {
    fn default() -> Self {
        Self {
            workflow_statuses: ["NEW", "NOTIFIED"].map(str::to_owned).into(),
            record_states: vec!["ACTIVE".to_owned()],
            severity_labels: Vec::new(),
            product_names: Vec::new(),
            aws_account_ids: Vec::new(),
        }
    }
}

impl Filters {
    /// A short text that is the same for the same filters, whatever their order. What was read up to a point was read
    /// with these filters only, so that point is kept by it.
    #[must_use]
    pub fn key(&self) -> String {
        let mut digest = Sha256::new();
        for values in [
            &self.workflow_statuses,
            &self.record_states,
            &self.severity_labels,
            &self.product_names,
            &self.aws_account_ids,
        ] {
            let mut values: Vec<&String> = values.iter().collect();
            values.sort();
            values.dedup();
            // Lengths stand before what they are of, so that no two lists give the same bytes.
            digest.update((values.len() as u64).to_be_bytes());
            for value in values {
                digest.update((value.len() as u64).to_be_bytes());
                digest.update(value);
            }
        }
        let mut key = String::new();
        for byte in &digest.finalize()[..16] {
            let _ = write!(key, "{byte:02x}"); // writing to a String does not fail
        }
        key
    }
}

/// The most findings `GetFindings` gives on one page (`MaxResults` in the Security Hub API reference).
pub const MAX_PAGE_SIZE: i32 = 100;

impl Query {
    /// The findings to be delivered, of a range or all of them.
    #[must_use]
    pub fn pages(filters: Filters, updated: Option<Range>) -> Self {
        Self {
            filters,
            updated,
            page_size: MAX_PAGE_SIZE,
        }
    }

    /// The least that shows whether a region answers.
    #[must_use]
    pub fn probe() -> Self {
        Self {
            page_size: 1,
            ..Self::pages(Filters::default(), None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_tells_filters_apart_and_not_their_order() {
        let filters = |labels: &[&str], products: &[&str]| Filters {
            severity_labels: labels.iter().map(ToString::to_string).collect(),
            product_names: products.iter().map(ToString::to_string).collect(),
            ..Filters::default()
        };
        assert_eq!(
            filters(&["HIGH", "LOW"], &[]).key(),
            filters(&["LOW", "HIGH", "LOW"], &[]).key()
        );
        let closed = Filters {
            workflow_statuses: vec!["RESOLVED".to_owned()],
            ..Filters::default()
        };
        let keys = [
            Filters::default(),
            closed,
            filters(&["HIGH"], &[]),
            filters(&["HIGH", "LOW"], &[]),
            filters(&[], &["HIGH"]),
            filters(&["HIGH"], &["HIGH"]),
            filters(&[], &["a\", \"b"]),
            filters(&[], &["a", "b"]),
            filters(&[], &["ab"]),
        ]
        .map(|filters| filters.key());
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{key}");
        }
    }

    #[test]
    fn the_key_is_short_whatever_the_filters() {
        let long = Filters {
            product_names: (0..20).map(|n| format!("{n:0112}")).collect(),
            ..Filters::default()
        };
        assert_eq!(long.key().len(), 32);
    }
}
