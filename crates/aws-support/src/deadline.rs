//! The end of an invocation, which bounds every call made in it.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// When work must stop so that the function can still say what it did.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

/// The deadline came before the work was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the invocation is about to end")]
pub struct OutOfTime;

impl Deadline {
    /// `reserve` before the time at which Lambda ends the invocation (the runtime API's `Lambda-Runtime-Deadline-Ms`).
    #[must_use]
    pub fn before(invocation_end: SystemTime, reserve: Duration) -> Self {
        let left = invocation_end.duration_since(SystemTime::now()).unwrap_or_default();
        Self::after(left.saturating_sub(reserve))
    }

    /// `time` from now.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        // Beyond a year the addition could overflow, and no invocation lasts that long.
        Self(Instant::now() + time.min(Duration::from_hours(24 * 365)))
    }

    /// A deadline this much later.
    #[must_use]
    pub fn later(&self, time: Duration) -> Self {
        Self(self.0 + time)
    }

    /// What is left.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Waits for `work`, but not beyond the deadline.
    ///
    /// # Errors
    /// [`OutOfTime`]; the work is then dropped.
    pub async fn bound<F: Future>(&self, work: F) -> Result<F::Output, OutOfTime> {
        tokio::time::timeout_at(self.0, work).await.map_err(|_| OutOfTime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_is_dropped_at_the_deadline() {
        let deadline = Deadline::after(Duration::from_secs(5));
        assert_eq!(deadline.bound(tokio::time::sleep(Duration::from_secs(4))).await, Ok(()));
        assert_eq!(deadline.left(), Duration::from_secs(1));
        assert_eq!(deadline.bound(std::future::pending::<()>()).await, Err(OutOfTime));
        assert_eq!(deadline.left(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_in_the_past_leaves_nothing() {
        let past = SystemTime::UNIX_EPOCH;
        assert_eq!(Deadline::before(past, Duration::from_secs(1)).left(), Duration::ZERO);
    }
}
