//! The time, as something that can be given.

use jiff::Timestamp;

/// Tells the time.
pub trait Clock {
    /// Now.
    fn now(&self) -> Timestamp;

    /// Now, as it stands in messages: RFC 3339 in UTC, to the millisecond.
    fn stamp(&self) -> String {
        format!("{:.3}", self.now())
    }
}

/// The system's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
