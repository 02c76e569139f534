//! Which findings are asked for: the one place that decides it.

use jiff::Timestamp;

/// A `GetFindings` query: what is common to all its pages. Findings come by `UpdatedAt`, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// `UpdatedAt` from and to, both inclusive; `None` for any time
    pub updated: Option<(Timestamp, Timestamp)>,
    /// Findings on a page, 1 to [`MAX_PAGE_SIZE`]
    pub page_size: i32,
}

/// The most findings `GetFindings` gives on one page (`MaxResults` in the Security Hub API reference).
pub const MAX_PAGE_SIZE: i32 = 100;

/// `WorkflowStatus` of the findings asked for.
pub const WORKFLOW_STATUSES: [&str; 2] = ["NEW", "NOTIFIED"];

/// `RecordState` of the findings asked for.
pub const RECORD_STATE: &str = "ACTIVE";

impl Query {
    /// Every finding to be delivered.
    #[must_use]
    pub fn all() -> Self {
        Self {
            updated: None,
            page_size: MAX_PAGE_SIZE,
        }
    }

    /// The findings to be delivered that were updated in a range.
    #[must_use]
    pub fn updated_between(start: Timestamp, end: Timestamp) -> Self {
        Self {
            updated: Some((start, end)),
            ..Self::all()
        }
    }

    /// The least that shows whether a region answers.
    #[must_use]
    pub fn probe() -> Self {
        Self {
            page_size: 1,
            ..Self::all()
        }
    }
}
