//! Delivers findings: each step is done before the next, so whatever fails, and whenever the process ends, nothing is
//! passed over, and only what was confirmed and not yet recorded goes twice.

use std::collections::HashSet;

use asff::{Event, EventId};
use aws_support::{AwsError, Clock, Deadline, ErrorKind};
use aws_text::Region;
use jiff::{RoundMode, Timestamp, TimestampRound, Unit};

use super::RECORDING_GRACE;
use super::batch::{self, Delivery, EventSink, Message, Refused};
use super::in_flight::InFlight;
use super::ledger::{DeliveredItems, Known, Ledger, Version};
use super::parking::{ParkedEvents, Parking};
use super::sqs::SEND_MESSAGE;

/// Messages that are in memory beside the page they are made of: as many as are on their way at once.
const MESSAGES_AT_ONCE: usize = batch::CONCURRENT_BATCHES * batch::MAX_BATCH_ENTRIES;

/// A finding on its way to the queue.
#[derive(Debug)]
pub struct Finding<'a> {
    event: Event<'a>,
    /// `UpdatedAt`, to the millisecond
    pub updated: Option<Timestamp>,
}

impl<'a> Finding<'a> {
    /// The finding of an event.
    #[must_use]
    pub fn new(event: Event<'a>) -> Self {
        Self {
            updated: instant(event.updated_at.as_deref()).map(to_millisecond),
            event,
        }
    }

    fn version(&self) -> Version {
        Version {
            digest: self.event.event_id.digest(),
            updated: self.updated,
        }
    }

    /// Seconds between `UpdatedAt` and `ProcessedAt`.
    fn lateness(&self) -> Option<i64> {
        let processed = instant(self.event.processed_at.as_deref())?;
        Some(processed.as_second() - instant(self.event.updated_at.as_deref())?.as_second())
    }

    fn message(self) -> Result<Message, AwsError> {
        let body = self.event.to_body();
        Ok(Message {
            body: body.map_err(|error| AwsError::new(SEND_MESSAGE, ErrorKind::Rejected, error.to_string()))?,
            attributes: self.event.attributes(),
            finding_id: self.event.external_id.map(Into::into),
            event_id: self.event.event_id,
        })
    }
}

fn instant(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok()
}

/// Down to the millisecond, which every service's `UpdatedAt` and `DateFilter` have.
#[must_use]
pub fn to_millisecond(instant: Timestamp) -> Timestamp {
    let round = TimestampRound::new().smallest(Unit::Millisecond).mode(RoundMode::Floor);
    instant.round(round).unwrap_or(instant)
}

/// What is counted on the way.
#[derive(Debug, Default)]
pub struct Counts {
    /// Pages read
    pub pages: u64,
    /// Findings on them
    pub findings_seen: u64,
    /// Events SQS confirmed
    pub events_sent: u64,
    /// Findings that were delivered or parked before
    pub duplicates_skipped: u64,
    /// Events that were parked, or offered again and refused
    pub events_parked: u64,
    /// The most seconds between `UpdatedAt` and `ProcessedAt` of what was delivered
    pub lateness_seconds: Option<i64>,
    /// Events that SQS did not take and that will be sent again
    pub refused: Vec<Refused>,
}

/// Delivers the findings of one region.
#[derive(Debug)]
pub struct Pipeline<'a, S, T, C> {
    /// Where events go
    pub sink: &'a S,
    /// Where it is recorded what was delivered
    pub table: &'a T,
    /// The time
    pub clock: &'a C,
    /// What was delivered
    pub ledger: Ledger<'a, T>,
    /// What SQS has refused
    pub parking: &'a Parking,
    /// What all regions of the run are about to send
    pub in_flight: &'a InFlight,
    /// The region
    pub region: &'a Region,
    /// Names the run
    pub run: &'a str,
    /// Bounds every call
    pub deadline: &'a Deadline,
    /// Parked events are offered again
    pub offers_parked: bool,
}

impl<S: EventSink, T: DeliveredItems + ParkedEvents, C: Clock> Pipeline<'_, S, T, C> {
    /// Delivers findings and records them. `true` where none has to be sent again later.
    ///
    /// # Errors
    /// Where some are not known to be delivered and recorded.
    pub async fn deliver(&mut self, findings: Vec<Finding<'_>>, counts: &mut Counts) -> Result<bool, AwsError> {
        let seen = findings.len() as u64;
        // A version that stands on the page twice is taken once.
        let mut ids = HashSet::new();
        let mut pending = findings;
        pending.retain(|finding| ids.insert(finding.event.event_id));
        let mut offered = 0;
        let mut all_delivered = true;
        while !pending.is_empty() {
            // With cross-region aggregation one finding comes in several regions, which are polled side by side.
            let mut others = self.in_flight.watch();
            let claim = self
                .in_flight
                .claim(pending.iter().map(|finding| finding.event.event_id));
            let is_mine = |finding: &Finding<'_>| claim.ids().contains(&finding.event.event_id);
            let mine: Vec<Finding<'_>>;
            (mine, pending) = pending.into_iter().partition(is_mine);
            if mine.is_empty() {
                let released = self.deadline.bound(others.changed()).await;
                released.map_err(|_| AwsError::out_of_time(SEND_MESSAGE))?.ok();
                continue;
            }
            let (new, unrecorded) = self.unknown(mine).await?;
            offered += new.len() as u64;
            all_delivered &= self.send(new, unrecorded, counts).await?;
        }
        counts.duplicates_skipped += seen - offered;
        Ok(all_delivered)
    }

    /// Those that are to be sent, and those that are only to be recorded.
    async fn unknown<'f>(&mut self, findings: Vec<Finding<'f>>) -> Result<(Vec<Finding<'f>>, Vec<Version>), AwsError> {
        let versions: Vec<Version> = findings.iter().map(Finding::version).collect();
        let known = self.ledger.known(&versions, self.clock.now(), self.deadline).await?;
        let unrecorded = versions
            .iter()
            .zip(&known)
            .filter(|(_, known)| **known == Known::Unrecorded)
            .map(|(version, _)| *version)
            .collect();
        let mut new = Vec::new();
        for (finding, known) in findings.into_iter().zip(known) {
            let is_held = !self.offers_parked && self.parking.is_parked(&finding.event.event_id);
            if known == Known::No && !is_held {
                new.push(finding);
            }
        }
        Ok((new, unrecorded))
    }

    async fn send(
        &mut self,
        findings: Vec<Finding<'_>>,
        mut to_record: Vec<Version>,
        counts: &mut Counts,
    ) -> Result<bool, AwsError> {
        let versions: Vec<(EventId, Version)> = findings
            .iter()
            .map(|finding| (finding.event.event_id, finding.version()))
            .collect();
        let lateness = findings.iter().filter_map(Finding::lateness).max();
        counts.lateness_seconds = counts.lateness_seconds.max(lateness);
        let mut delivery = Delivery::default();
        let mut findings = findings.into_iter();
        while delivery.error.is_none() && findings.len() > 0 {
            let messages = findings.by_ref().take(MESSAGES_AT_ONCE).map(Finding::message);
            match messages.collect::<Result<Vec<_>, AwsError>>() {
                Ok(messages) => delivery.absorb(batch::deliver(self.sink, &messages, self.deadline).await),
                Err(error) => delivery.error = Some(error),
            }
        }
        counts.events_sent += delivery.confirmed.len() as u64;
        let confirmed: HashSet<EventId> = delivery.confirmed.iter().copied().collect();
        let of_confirmed = versions.iter().filter(|(event_id, _)| confirmed.contains(event_id));
        to_record.extend(of_confirmed.map(|(_, version)| *version));
        let late = self.deadline.later(RECORDING_GRACE);
        let now = self.clock.now();
        let recorded = if to_record.is_empty() {
            Ok(())
        } else {
            self.ledger.record(&to_record, now, &late).await
        };
        let mut all_delivered = true;
        let mut noted = self.parking.forget(self.table, &delivery.confirmed, &late).await;
        for refused in delivery.refused {
            let (table, region, run) = (self.table, self.region, self.run);
            let refusal = self
                .parking
                .note_refusal(table, &refused, region, run, now, &late)
                .await;
            let is_parked = *refusal.as_ref().unwrap_or(&false);
            tracing::error!(
                %region,
                event_id = %refused.event_id,
                finding_id = refused.finding_id,
                code = refused.code,
                reason = refused.message,
                "{}",
                if is_parked { "event parked" } else { "SQS did not take the event" }
            );
            noted = noted.and(refusal.map(|_| ()));
            if is_parked {
                counts.events_parked += 1;
            } else {
                all_delivered = false;
                counts.refused.push(refused);
            }
        }
        recorded?;
        noted?;
        match delivery.error {
            Some(error) => Err(error),
            None => Ok(all_delivered),
        }
    }
}
