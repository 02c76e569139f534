//! One run in one region: the poll or the backfill, and after it the sweep.

use aws_support::{AwsError, Clock};
use aws_text::Region;
use jiff::{SignedDuration, Timestamp};

use super::checkpoint::{
    Checkpoint, CheckpointKey, Checkpoints, INCREMENTAL, Incremental, Kept, Lookback, Sweep, Window,
};
use super::reader::{End, Reader};
use crate::delivery::pipeline::to_millisecond;
use crate::delivery::{Counts, DeliveredItems, EventSink, ParkedEvents, RECORDING_GRACE};
use crate::security_hub::FindingSource;
use crate::security_hub::Range;

/// A run in one region.
#[derive(Debug)]
pub struct RegionRun<'a, F, S, T, C> {
    pub(super) table: &'a T,
    pub(super) clock: &'a C,
    pub(super) lookback: Lookback,
    pub(super) key: CheckpointKey,
    pub(super) reader: Reader<'a, F, S, T, C>,
    /// The checkpoints, where they were read
    kept: Option<Kept>,
}

/// What became of a poll.
#[derive(Debug, Default)]
pub struct Polled {
    /// What was counted
    pub counts: Counts,
    /// All that was asked for is read
    pub is_finished: bool,
    /// `UpdatedAt` up to which everything is delivered
    pub through: Option<Timestamp>,
    /// Seconds since then
    pub lag_seconds: Option<i64>,
    /// What went wrong
    pub error: Option<AwsError>,
}

impl<'a, F, S, T, C> RegionRun<'a, F, S, T, C>
where
    F: FindingSource,
    S: EventSink,
    T: DeliveredItems + ParkedEvents + Checkpoints,
    C: Clock,
{
    /// A run that has not begun.
    #[must_use]
    pub fn new(reader: Reader<'a, F, S, T, C>, lookback: Lookback) -> Self {
        Self {
            table: reader.pipeline.table,
            clock: reader.pipeline.clock,
            lookback,
            key: CheckpointKey {
                region: reader.pipeline.region.clone(),
                filters: reader.filters.key(),
            },
            reader,
            kept: None,
        }
    }

    /// The region.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.key.region
    }

    pub(super) fn now(&self) -> Timestamp {
        to_millisecond(self.clock.now())
    }

    pub(super) async fn kept(&mut self) -> Result<&mut Kept, AwsError> {
        let kept = match self.kept.take() {
            Some(kept) => kept,
            None => self.table.load(&self.key, self.reader.pipeline.deadline).await?,
        };
        Ok(self.kept.insert(kept))
    }

    /// The incremental checkpoint; it is read once.
    async fn kept_incremental(&mut self) -> Result<Incremental, AwsError> {
        std::mem::replace(&mut self.kept().await?.incremental, Ok(None)).map(Option::unwrap_or_default)
    }

    /// The sweep checkpoint; it is read once.
    pub(super) async fn kept_sweep(&mut self) -> Result<Option<Sweep>, AwsError> {
        std::mem::replace(&mut self.kept().await?.sweep, Ok(None))
    }

    /// Keeps a checkpoint, also at the very end of the run.
    pub(super) async fn save(&self, checkpoint: &Checkpoint) -> Result<(), AwsError> {
        let late = self.reader.pipeline.deadline.later(RECORDING_GRACE);
        self.table.save(&self.key, checkpoint, &late).await
    }

    /// Delivers what is new since the last poll, or as much of it as there is time for.
    pub async fn poll(&mut self) -> Polled {
        let mut polled = Polled::default();
        let mut state = match self.kept_incremental().await {
            Ok(state) => state,
            Err(error) => {
                polled.error = not_out_of_time(error);
                return polled;
            }
        };
        let outcome = if let Err(problem) = state.check(self.now()) {
            Err(self.table.nonsense(&self.key, INCREMENTAL, &problem))
        } else {
            let outcome = self.read_what_is_new(&mut state, &mut polled.counts).await;
            let saved = self.save(&Checkpoint::Incremental(state.as_kept())).await;
            outcome.and_then(|is_finished| saved.map(|()| is_finished))
        };
        polled.through = state.through;
        polled.lag_seconds = state.lag(self.now());
        polled.settle(outcome);
        polled
    }

    /// What an earlier run left open, then everything since. `true` where it came to the end.
    async fn read_what_is_new(&mut self, state: &mut Incremental, counts: &mut Counts) -> Result<bool, AwsError> {
        loop {
            let left_open = state.window.take();
            let is_new = left_open.is_none();
            let mut window = left_open.unwrap_or_else(|| state.next_window(self.lookback, self.now()));
            let through = state.through;
            let (table, key, deadline) = (self.table, self.key.clone(), self.reader.pipeline.deadline);
            let keep = async |window: &Window| {
                let state = Incremental {
                    through,
                    window: Some(window.as_kept()),
                };
                table.save(&key, &Checkpoint::Incremental(state), deadline).await
            };
            match self.reader.read(&mut window, counts, keep).await {
                Ok(End::Finished) => state.finish(&window),
                Ok(End::OutOfTime) => {
                    state.window = Some(window);
                    return Ok(false);
                }
                Err(error) => {
                    state.window = Some(window);
                    return Err(error);
                }
            }
            if is_new || self.reader.is_out_of_time() {
                return Ok(is_new);
            }
        }
    }

    /// Delivers the findings of a range, or as many of them as there is time for.
    pub async fn backfill(&mut self, range: Range) -> Polled {
        let mut polled = Polled::default();
        let outcome = self.read_range(range, &mut polled.counts).await;
        polled.settle(outcome);
        polled
    }

    async fn read_range(&mut self, range: Range, counts: &mut Counts) -> Result<bool, AwsError> {
        let (table, key, deadline) = (self.table, self.key.clone(), self.reader.pipeline.deadline);
        let kept = table.backfill(&key, range, deadline).await?;
        let was_kept = kept.is_some();
        let mut window = kept.unwrap_or_else(|| Window::new(Some(range.start), range.end));
        let keep = async |window: &Window| {
            table
                .save(&key, &Checkpoint::Backfill(range, window.as_kept()), deadline)
                .await
        };
        let end = self.reader.read(&mut window, counts, keep).await;
        let late = deadline.later(RECORDING_GRACE);
        match end {
            Ok(End::Finished) => {
                if was_kept || counts.pages > 1 {
                    table.forget_backfill(&key, range, &late).await?;
                }
                Ok(!window.has_failures)
            }
            Ok(End::OutOfTime) => {
                self.save(&Checkpoint::Backfill(range, window.as_kept())).await?;
                Ok(false)
            }
            Err(error) => {
                self.save(&Checkpoint::Backfill(range, window.as_kept())).await.ok();
                Err(error)
            }
        }
    }
}

impl Polled {
    fn settle(&mut self, outcome: Result<bool, AwsError>) {
        match outcome {
            Ok(is_finished) => self.is_finished = is_finished,
            Err(error) => self.error = not_out_of_time(error),
        }
    }

    /// All that was asked for is delivered.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_finished && self.error.is_none() && self.counts.refused.is_empty()
    }
}

/// Running out of time is no failure.
pub(super) fn not_out_of_time(error: AwsError) -> Option<AwsError> {
    (error.kind != aws_support::ErrorKind::OutOfTime).then_some(error)
}

/// How often a pass of the sweep begins at most; `None` for never.
pub type SweepEvery = Option<SignedDuration>;
