//! The sweep: a pass over every wanted finding, whenever it was updated, kept and continued from run to run. It finds
//! what a poll cannot see: an analyst's edit, which leaves `UpdatedAt` as it is, and findings that arrive too late.

use aws_support::{AwsError, Clock};
use jiff::{SignedDuration, Timestamp};

use super::checkpoint::{Checkpoint, Checkpoints, Pass, SWEEP, Sweep, Window};
use super::reader::End;
use super::region::{RegionRun, SweepEvery, not_out_of_time};
use crate::delivery::{Counts, DeliveredItems, EventSink, ParkedEvents};
use crate::security_hub::FindingSource;

/// Our clock may have been set back while a pass was under way: an event that was parked meanwhile stays parked.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_hours(1);

/// What became of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    /// A pass is under way, or would be if there were time
    pub is_due: bool,
    /// What was counted
    pub counts: Counts,
    /// The pass came to its end
    pub is_complete: bool,
    /// When the last whole pass ended
    pub last_completed_at: Option<Timestamp>,
    /// Seconds since the last whole pass began
    pub age_seconds: Option<i64>,
    /// What went wrong
    pub error: Option<AwsError>,
}

impl<F, S, T, C> RegionRun<'_, F, S, T, C>
where
    F: FindingSource,
    S: EventSink,
    T: DeliveredItems + ParkedEvents + Checkpoints,
    C: Clock,
{
    /// Goes on with the pass that is under way, or begins one if it is time.
    pub async fn sweep(&mut self, every: SweepEvery) -> Swept {
        let is_due = |sweep: &Sweep, now: Timestamp| every.is_some_and(|every| sweep.is_due(every, now));
        self.sweep_if(is_due, false).await
    }

    /// A whole pass now: one that a schedule has begun is begun again.
    pub async fn reconcile(&mut self) -> Swept {
        self.sweep_if(|_, _| true, true).await
    }

    /// Whether an earlier `reconcile` ran out of time in the region; also where that cannot be told.
    pub async fn is_reconciling(&mut self) -> bool {
        match self.kept().await.map(|kept| &kept.sweep) {
            Ok(Ok(Some(sweep))) => sweep.pass.as_ref().is_some_and(|pass| pass.requested),
            Ok(Ok(None)) => false,
            Ok(Err(_)) | Err(_) => true,
        }
    }

    /// What an earlier `reconcile` came to, which goes on in other regions.
    pub async fn reconciled(&mut self) -> Swept {
        let swept = self.sweep_if(|_, _| false, true).await;
        Swept {
            is_complete: swept.last_completed_at.is_some(),
            ..swept
        }
    }

    async fn sweep_if(&mut self, is_due: impl FnOnce(&Sweep, Timestamp) -> bool, requested: bool) -> Swept {
        let mut swept = Swept::default();
        match self.kept_sweep().await {
            Err(error) => swept.error = not_out_of_time(error),
            Ok(kept) => {
                let is_first = kept.is_none();
                let mut sweep = kept.unwrap_or_default();
                if is_due(&sweep, self.now()) {
                    swept.is_due = true;
                    let outcome = self.pass(&mut sweep, is_first, requested, &mut swept.counts).await;
                    match outcome {
                        Ok(is_complete) => swept.is_complete = is_complete,
                        Err(error) => swept.error = not_out_of_time(error),
                    }
                }
                swept.last_completed_at = sweep.last_completed_at;
                swept.age_seconds = sweep.age(self.now());
            }
        }
        swept
    }

    /// `true` where the pass came to its end.
    async fn pass(
        &mut self,
        sweep: &mut Sweep,
        is_first: bool,
        requested: bool,
        counts: &mut Counts,
    ) -> Result<bool, AwsError> {
        if let Err(problem) = sweep.check() {
            return Err(self.table.nonsense(&self.key, SWEEP, &problem));
        }
        let under_way = sweep.pass.take().filter(|pass| pass.requested || !requested);
        let mut pass = under_way.unwrap_or_else(|| Pass::new(self.now(), requested, self.lookback));
        if self.reader.is_out_of_time() {
            // From now on its age is known.
            sweep.pass = Some(pass);
            if is_first {
                self.save(&Checkpoint::Sweep(sweep.clone())).await?;
            }
            return Ok(false);
        }
        self.reader.pipeline.offers_parked = true;
        let (table, key, deadline) = (self.table, self.key.clone(), self.reader.pipeline.deadline);
        let kept = Sweep {
            pass: Some(pass.clone()),
            ..sweep.clone()
        };
        let keep = async |window: &Window| {
            let mut kept = kept.clone();
            if let Some(pass) = &mut kept.pass {
                pass.window = window.as_kept();
            }
            table.save(&key, &Checkpoint::Sweep(kept), deadline).await
        };
        let end = self.reader.read(&mut pass.window, counts, keep).await;
        self.reader.pipeline.offers_parked = false;
        let is_complete = matches!(end, Ok(End::Finished)) && !pass.window.has_failures;
        let mut forgotten = Ok(());
        if is_complete {
            sweep.last_started_at = Some(pass.started_at);
            sweep.last_completed_at = Some(self.now());
            let parking = self.reader.pipeline.parking;
            let since = pass.started_at.saturating_sub(CLOCK_SKEW).unwrap_or(pass.started_at);
            forgotten = parking.forget_unmet(table, &key.region, since, deadline).await;
        } else if !matches!(end, Ok(End::Finished)) {
            pass.window = pass.window.as_kept();
            sweep.pass = Some(pass);
        }
        let saved = self.save(&Checkpoint::Sweep(sweep.clone())).await;
        end?;
        saved?;
        forgotten?;
        Ok(is_complete)
    }
}
