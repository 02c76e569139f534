//! Synthetic findings of three sizes, in pages as `GetFindings` gives them. Their addresses are of documentation ranges.

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::{SignedDuration, Timestamp};

/// Findings on a page.
pub const PAGE: u64 = 100;

/// Findings of one size.
#[derive(Clone, Debug)]
pub struct Findings {
    template: &'static str,
    first_updated: Timestamp,
}

impl Findings {
    /// Findings of about this many kilobytes; `None` where there are none of the size.
    #[must_use]
    pub fn of_size(kilobytes: &str) -> Option<Self> {
        let template = match kilobytes {
            "1.5" => include_str!("../findings/1.5.json"),
            "5" => include_str!("../findings/5.json"),
            "15" => include_str!("../findings/15.json"),
            _ => return None,
        };
        Some(Self {
            template: template.trim_end(),
            // One a second: a hundred thousand of them are over a day, and all in the past.
            first_updated: Timestamp::now() - SignedDuration::from_hours(24 * 6),
        })
    }

    /// The number of the first finding that was updated at an instant or later.
    #[must_use]
    pub fn first_since(&self, instant: Timestamp) -> u64 {
        let milliseconds = instant.as_millisecond() - self.first_updated.as_millisecond();
        u64::try_from(milliseconds).unwrap_or_default().div_ceil(1000)
    }

    /// A finding as text. No two numbers give the same.
    #[must_use]
    pub fn text(&self, number: u64) -> String {
        let seconds = i64::try_from(number % 400_000).unwrap_or_default();
        let updated = self.first_updated + SignedDuration::from_secs(seconds);
        self.template
            .replace("@NUMBER@", &format!("{number:010}"))
            .replace("@UPDATED@", &format!("{updated:.3}"))
    }
}

/// Stands for a text in a sum: two lists with the same sum hold the same texts, whatever their order.
#[must_use]
pub fn fingerprint(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
