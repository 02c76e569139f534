//! Checkpoints: what is kept between runs of how far findings were read, and what to ask for after a page.
//!
//! An incremental poll goes window by window. Everything with `UpdatedAt` up to `through` is delivered, as far as it had
//! arrived. The next window starts an overlap before that point, for findings that arrive late, and ends now. A window
//! too large for one run stays open, with the position it was read up to.
//!
//! Within a window nothing is believed that a service does not promise. After each page a new query goes on from the
//! position; a page token, which may count findings, is used only among findings of one instant. A page out of order shows
//! that the end of it is no position: a smaller range is asked for, until all of it is on one page or it is one instant.

use aws_support::{AwsError, Deadline};
use aws_text::Region;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::delivery::pipeline::to_millisecond;
use crate::security_hub::Range;

/// A range of time that is being read, oldest findings first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// First instant; `None` for all findings up to the end, those without `UpdatedAt`, which come first, included
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Timestamp>,
    /// Last instant
    pub end: Timestamp,
    /// Everything before it is delivered
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Timestamp>,
    /// Findings did not come in order: up to here it is read first
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_end: Option<Timestamp>,
    /// The millisecond that is read by itself: it has more findings than a page
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instant: Option<Timestamp>,
    /// Where the next page of the instant starts, or of findings without `UpdatedAt`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Something in it could not be delivered: it is to be read again
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_failures: bool,
}

/// The latest instant that a query is given where there is no end.
pub const FAR_FUTURE: Timestamp = Timestamp::constant(4_102_444_800, 0); // 2100-01-01T00:00:00Z

const MILLISECOND: SignedDuration = SignedDuration::from_millis(1);
/// From the first to the last instant of a millisecond: a service may keep finer times than it filters by.
const WITHIN_MILLISECOND: SignedDuration = SignedDuration::from_nanos(999_999);

impl Window {
    /// A window of which nothing is read yet.
    #[must_use]
    pub fn new(start: Option<Timestamp>, end: Timestamp) -> Self {
        Self {
            start,
            end,
            position: None,
            split_end: None,
            instant: None,
            token: None,
            has_failures: false,
        }
    }

    /// From where on it is to be read; `None` where findings without `UpdatedAt` are.
    fn lower(&self) -> Option<Timestamp> {
        self.position.or(self.start)
    }

    /// What to ask for next, together with the token.
    #[must_use]
    pub fn range(&self) -> Option<Range> {
        let last_of = |millisecond: Timestamp| later(millisecond, WITHIN_MILLISECOND).min(self.end);
        if let Some(instant) = self.instant {
            return Some(Range {
                start: self.start.map_or(instant, |start| start.max(instant)),
                end: last_of(instant),
            });
        }
        self.lower().map(|start| Range {
            start,
            end: self.split_end.map_or(self.end, last_of),
        })
    }

    /// What is being read, apart from the page.
    #[must_use]
    pub fn progress(&self) -> [Option<Timestamp>; 3] {
        [self.position, self.split_end, self.instant]
    }

    /// The window after one more page, whose findings were updated at these times, in their order; `None` at its end.
    #[must_use]
    pub fn after(&self, updated: &[Option<Timestamp>], token: Option<String>) -> Option<Self> {
        let mut next = Self {
            token: None,
            ..self.clone()
        };
        let Some(token) = token else {
            return next.after_range();
        };
        let lower = self.lower();
        let dated: Vec<Timestamp> = updated.iter().flatten().copied().collect();
        // Where a page has nothing to go on from, its token passes nothing over.
        if self.instant.is_some() || dated.is_empty() {
            next.token = Some(token);
            return Some(next);
        }
        let Some(lower) = lower.map(to_millisecond) else {
            // Those without a time are read. All others are asked for by time, from the beginning.
            let first = dated.into_iter().fold(Timestamp::UNIX_EPOCH, Timestamp::min);
            next.position = Some(first);
            return Some(next);
        };
        let upper = self.split_end.unwrap_or(self.end);
        // A document can be newer than the index that found it: a time outside of what was asked for says nothing.
        let mut inside = dated;
        inside.retain(|updated| (lower..=upper).contains(updated));
        if inside.is_empty() {
            next.split(lower, middle(lower, upper), upper);
        } else if inside.is_sorted() {
            let position = inside[(inside.len() - 1).saturating_sub(read_again(inside.len()))];
            if position > lower {
                next.position = Some(position);
            } else {
                next.instant = Some(lower);
            }
        } else {
            inside.sort_unstable();
            let median = inside[inside.len() / 2];
            let half = if median < upper { median } else { middle(lower, upper) };
            next.split(lower, half, upper);
        }
        Some(next)
    }

    /// Reads up to `half` first, or the first instant by itself where that is no less than all.
    fn split(&mut self, lower: Timestamp, half: Timestamp, upper: Timestamp) {
        if lower < half && half < upper {
            self.split_end = Some(half);
        } else {
            self.instant = Some(lower);
        }
    }

    /// After all pages of a range.
    fn after_range(mut self) -> Option<Self> {
        let read_up_to = match (self.instant.take(), self.split_end) {
            (Some(instant), split_end) => {
                if split_end.is_some_and(|end| end <= instant) {
                    self.split_end = None;
                }
                instant
            }
            (None, Some(split_end)) => {
                self.split_end = None;
                split_end
            }
            (None, None) => return None,
        };
        let position = later(read_up_to, MILLISECOND);
        self.position = Some(position);
        (position <= self.end).then_some(self)
    }

    /// Whether something of it is delivered that a new window would read again.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.progress().iter().any(Option::is_some) || self.token.is_some()
    }

    /// The window as it is kept for a later run: a token is good only for the one instant.
    #[must_use]
    pub fn as_kept(&self) -> Self {
        let is_good = self.instant.is_some() || self.lower().is_none();
        Self {
            token: self.token.clone().filter(|_| is_good),
            ..self.clone()
        }
    }

    /// As [`Incremental::check`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if self.start.is_some_and(|start| start > self.end) {
            return Err("has a start after its end".to_owned());
        }
        let is_outside = |at: Timestamp| at > self.end || self.start.is_some_and(|start| at < to_millisecond(start));
        match self.progress().into_iter().flatten().find(|at| is_outside(*at)) {
            Some(at) => Err(format!("has {at} outside of start and end")),
            None => Ok(()),
        }
    }
}

/// How many findings before the last of a page are read again with it: the order may be broken where one page ends and
/// another begins.
fn read_again(findings: usize) -> usize {
    (findings / 50).max(1)
}

fn later(instant: Timestamp, by: SignedDuration) -> Timestamp {
    instant.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn middle(lower: Timestamp, upper: Timestamp) -> Timestamp {
    to_millisecond(later(lower, upper.duration_since(lower) / 2))
}

/// How far back to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookback {
    /// `LOOKBACK_SECONDS`: before the point up to which everything is delivered. `UpdatedAt` is the finding provider's
    /// clock: a finding may arrive this much later than it says
    pub overlap: std::time::Duration,
    /// `INITIAL_LOOKBACK_SECONDS`: before the first poll; `None` for everything there is
    pub initial: Option<std::time::Duration>,
    /// `PUSH_SETTLE_SECONDS`: what is newer is left to the push
    pub settle: std::time::Duration,
}

impl Lookback {
    /// The end of a window.
    #[must_use]
    pub fn end(&self, now: Timestamp) -> Timestamp {
        before(now, self.settle)
    }
}

fn before(instant: Timestamp, by: std::time::Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    instant.checked_sub(by).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// What is kept of the polls of new findings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incremental {
    /// `UpdatedAt` up to which everything is delivered
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<Timestamp>,
    /// The window that is being read
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
}

/// A clock may have been ahead when a time was kept, and is right now. Beyond this it was none of ours, and to believe it
/// would pass over what is to come.
const MOST_AHEAD: SignedDuration = SignedDuration::from_hours(24);

impl Incremental {
    /// The next window.
    #[must_use]
    pub fn next_window(&self, lookback: Lookback, now: Timestamp) -> Window {
        let end = lookback.end(now);
        let start = match (self.through, lookback.initial) {
            // Our clock may have been set back since: the overlap is then one before now.
            (Some(through), _) => before(through.min(end), lookback.overlap),
            (None, Some(initial)) => before(end, initial),
            (None, None) => Timestamp::UNIX_EPOCH,
        };
        Window::new(Some(start.max(Timestamp::UNIX_EPOCH).min(end)), end)
    }

    /// After a window was read to its end. Where not everything in it was delivered, it is to be read again, with all
    /// that has come by then.
    pub fn finish(&mut self, window: &Window) {
        if !window.has_failures {
            self.through = Some(window.end);
        }
    }

    /// As it is kept for a later run.
    #[must_use]
    pub fn as_kept(&self) -> Self {
        Self {
            through: self.through,
            window: self
                .window
                .as_ref()
                .filter(|window| window.has_begun())
                .map(Window::as_kept),
        }
    }

    /// Seconds since the point up to which everything is delivered.
    #[must_use]
    pub fn lag(&self, now: Timestamp) -> Option<i64> {
        let open = self.window.as_ref().and_then(Window::lower);
        let reached = self.through.max(open)?;
        Some((now.as_second() - reached.as_second()).max(0))
    }

    /// Strict: what makes no sense must not be taken for a beginning, or for an end.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, now: Timestamp) -> Result<(), String> {
        let window_end = self.window.as_ref().map(|window| window.end);
        if let Some(at) = self.through.max(window_end).filter(|at| *at > later(now, MOST_AHEAD)) {
            return Err(format!("says that all is read up to {at}, which is yet to come"));
        }
        match &self.window {
            Some(window) if window.start.is_none() => Err("has a window without a start".to_owned()),
            Some(window) => window.check(),
            None => Ok(()),
        }
    }
}

/// What is kept of the sweeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sweep {
    /// The pass that is under way
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass: Option<Pass>,
    /// When the last whole pass began
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_started_at: Option<Timestamp>,
    /// When it ended
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_completed_at: Option<Timestamp>,
}

/// A pass over every wanted finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// When it began
    pub started_at: Timestamp,
    /// A `reconcile` began it, and one that finds it goes on with it
    #[serde(default)]
    pub requested: bool,
    /// How far it has come
    pub window: Window,
}

impl Pass {
    /// A pass that begins.
    #[must_use]
    pub fn new(now: Timestamp, requested: bool, lookback: Lookback) -> Self {
        // A provider's clock may be ahead. With a push, what is newest is left to it.
        let end = if lookback.settle.is_zero() {
            FAR_FUTURE
        } else {
            lookback.end(now)
        };
        Self {
            started_at: now,
            requested,
            window: Window::new(None, end),
        }
    }
}

impl Sweep {
    /// Whether a pass is under way, or the last whole one began so long ago. A clock that was ahead makes none wait.
    #[must_use]
    pub fn is_due(&self, every: SignedDuration, now: Timestamp) -> bool {
        self.pass.is_some()
            || self
                .last_started_at
                .is_none_or(|started| started > now || now.duration_since(started) >= every)
    }

    /// Seconds since the last whole pass began; before there is one, since the first began.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Option<i64> {
        let began = self
            .last_started_at
            .or(self.pass.as_ref().map(|pass| pass.started_at))?;
        Some((now.as_second() - began.as_second()).max(0))
    }

    /// As [`Incremental::check`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.pass.as_ref().map_or(Ok(()), |pass| pass.window.check())
    }
}

/// Whose checkpoints: those of a region, read with certain filters. With others other findings have been passed over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CheckpointKey {
    /// The region
    pub region: Region,
    /// [`crate::security_hub::Filters::key`]
    pub filters: String,
}

/// A checkpoint, to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// Of the polls of new findings
    Incremental(Incremental),
    /// Of the sweeps
    Sweep(Sweep),
    /// Of a backfill
    Backfill(Range, Window),
}

/// The checkpoints of a region. One that cannot be read stops only what needs it.
#[derive(Debug)]
pub struct Kept {
    /// Of the polls of new findings
    pub incremental: Result<Option<Incremental>, AwsError>,
    /// Of the sweeps
    pub sweep: Result<Option<Sweep>, AwsError>,
}

/// Where checkpoints are kept.
pub trait Checkpoints {
    /// Those of a region.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn load(&self, key: &CheckpointKey, deadline: &Deadline) -> impl Future<Output = Result<Kept, AwsError>>;

    /// That of a backfill which did not come to its end.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn backfill(
        &self,
        key: &CheckpointKey,
        range: Range,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Option<Window>, AwsError>>;

    /// Keeps one.
    ///
    /// # Errors
    /// Where it may not be kept.
    fn save(
        &self,
        key: &CheckpointKey,
        checkpoint: &Checkpoint,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<(), AwsError>>;

    /// Forgets that of a backfill.
    ///
    /// # Errors
    /// Where it may still be there.
    fn forget_backfill(
        &self,
        key: &CheckpointKey,
        range: Range,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<(), AwsError>>;

    /// The error of a checkpoint that makes no sense.
    fn nonsense(&self, key: &CheckpointKey, sort_key: &str, problem: &str) -> AwsError;
}

/// The sort key of a region's incremental checkpoint.
pub const INCREMENTAL: &str = "incremental";
/// The sort key of a region's sweep checkpoint.
pub const SWEEP: &str = "sweep";

#[cfg(test)]
mod tests;
