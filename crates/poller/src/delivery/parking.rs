//! Events that SQS refuses: after a while, or at once where the event itself is at fault, they hold nobody up any more.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use asff::EventId;
use aws_support::{AwsError, Deadline};
use aws_text::Region;
use jiff::Timestamp;

use super::batch::Refused;

/// In how many runs in a row SQS refuses an event, by its own fault, until it is parked.
const MAX_REFUSALS: u32 = 3;
/// The most that are kept in memory. Beyond that they are offered by every poll.
const MAX_PARKED: usize = 10_000;

/// An event that SQS has refused. Its body is not kept: the sweep meets its finding again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The event
    pub event_id: EventId,
    /// The region whose poll met its finding
    pub region: Region,
    /// The finding's `Id`
    pub finding_id: Option<String>,
    /// SQS's error code
    pub code: String,
    /// What SQS said
    pub message: String,
    /// In how many runs it was refused
    pub refusals: u32,
    /// It is parked for good; otherwise it is still sent by every poll that meets it
    pub is_parked: bool,
    /// The run that refused it last
    pub run: String,
    /// When it was last offered
    pub offered_at: Timestamp,
}

/// The table's items of events that SQS has refused.
pub trait ParkedEvents {
    /// All of them, `most` at most.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn parked(&self, most: usize, deadline: &Deadline) -> impl Future<Output = Result<Vec<Parked>, AwsError>>;

    /// Writes one, over what there is of it.
    ///
    /// # Errors
    /// Where it may not be written.
    fn park(&self, parked: &Parked, deadline: &Deadline) -> impl Future<Output = Result<(), AwsError>>;

    /// Removes one.
    ///
    /// # Errors
    /// Where it may still be there.
    fn unpark(&self, event_id: &EventId, deadline: &Deadline) -> impl Future<Output = Result<(), AwsError>>;
}

/// The refused events of a run, which all regions share.
#[derive(Debug, Default)]
pub struct Parking(Mutex<HashMap<EventId, Parked>>);

impl Parking {
    /// What the table holds.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub async fn load(table: &impl ParkedEvents, deadline: &Deadline) -> Result<Self, AwsError> {
        let parked = table.parked(MAX_PARKED, deadline).await?;
        let by_id = parked.into_iter().map(|parked| (parked.event_id, parked));
        Ok(Self(Mutex::new(by_id.collect())))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EventId, Parked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is parked for good.
    #[must_use]
    pub fn is_parked(&self, event_id: &EventId) -> bool {
        self.lock().get(event_id).is_some_and(|parked| parked.is_parked)
    }

    /// How many are parked for good.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().values().filter(|parked| parked.is_parked).count()
    }

    /// Notes a refusal; `true` where the event is parked for good.
    ///
    /// # Errors
    /// Where that is not known to be in the table.
    pub async fn note_refusal(
        &self,
        table: &impl ParkedEvents,
        refused: &Refused,
        region: &Region,
        run: &str,
        now: Timestamp,
        deadline: &Deadline,
    ) -> Result<bool, AwsError> {
        let before = self.lock().get(&refused.event_id).cloned();
        let counted = before.as_ref().is_some_and(|before| before.run == run);
        let refusals = before.as_ref().map_or(0, |before| before.refusals) + u32::from(!counted);
        let parked = Parked {
            event_id: refused.event_id,
            region: region.clone(),
            finding_id: refused.finding_id.clone(),
            code: refused.code.clone(),
            message: refused.message.chars().take(1000).collect(),
            refusals,
            is_parked: refused.is_for_good || refusals >= MAX_REFUSALS || before.is_some_and(|before| before.is_parked),
            run: run.to_owned(),
            offered_at: now,
        };
        table.park(&parked, deadline).await?;
        let is_parked = parked.is_parked;
        self.lock().insert(parked.event_id, parked);
        Ok(is_parked)
    }

    /// Forgets events that SQS has confirmed.
    ///
    /// # Errors
    /// Where one may still be in the table.
    pub async fn forget(
        &self,
        table: &impl ParkedEvents,
        confirmed: &[EventId],
        deadline: &Deadline,
    ) -> Result<(), AwsError> {
        let known: Vec<EventId> = {
            let parked = self.lock();
            confirmed.iter().filter(|id| parked.contains_key(id)).copied().collect()
        };
        for event_id in known {
            table.unpark(&event_id, deadline).await?;
            self.lock().remove(&event_id);
        }
        Ok(())
    }

    /// Forgets what was last offered before `since`, after a whole sweep of the region: it has not met the finding, which
    /// was resolved, or has another version now.
    ///
    /// # Errors
    /// Where one may still be in the table.
    pub async fn forget_unmet(
        &self,
        table: &impl ParkedEvents,
        region: &Region,
        since: Timestamp,
        deadline: &Deadline,
    ) -> Result<(), AwsError> {
        let unmet: Vec<EventId> = {
            let parked = self.lock();
            let is_unmet = |parked: &&Parked| parked.region == *region && parked.offered_at < since;
            parked.values().filter(is_unmet).map(|parked| parked.event_id).collect()
        };
        self.forget(table, &unmet, deadline).await
    }
}
