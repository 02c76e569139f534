//! One poll of one region: windows, their pages, and what is remembered of them.
//!
//! A page goes through four steps, and each is done before the next: what the ledger knows is left out, the rest is
//! sent, what SQS confirmed is recorded, and only then is the place kept to go on from. So whatever fails, and whenever
//! the process ends, nothing is passed over, and twice goes only what was confirmed and not yet recorded.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use asff::{Event, Observed};
use aws_support::{AwsError, Clock, Deadline, ErrorKind};
use aws_text::Region;
use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};

use crate::config::Lookback;
use crate::deliver::{self, EventSink, Message, Refused};
use crate::dynamodb::{self, NONSENSE};
use crate::in_flight::InFlight;
use crate::input::Mode;
use crate::ledger::{DeliveryLedger, Keeping, Kept, ReadingKey};
use crate::metrics::Measured;
use crate::query::{Narrowing, Query, Range};
use crate::reading::{NextPage, Reading, Window};
use crate::report::{GET_FINDINGS, RegionError, RegionReport, SEND_MESSAGE};
use crate::security_hub::FindingSource;

/// How long after the deadline of all else a delivery may still be recorded: what was sent and is not recorded would
/// be sent again.
pub const RECORDING_GRACE: Duration = Duration::from_millis(700);

/// How often a window is taken up anew from its position, without having come further, because a page token was not
/// usable.
const MAX_RESTARTS: u32 = 3;

/// How far in the future a cursor may be: our clock may have been ahead when it was kept, and is right now. Beyond that
/// it is none of ours, and to follow it would pass over what is to come.
const MAX_CLOCK_SKEW: SignedDuration = SignedDuration::from_hours(1);

/// How often it is tried to keep a reading that other runs keep changing.
const MAX_CONFLICTS: u32 = 5;

/// A poll of one region.
#[derive(Debug)]
pub struct RegionPoll<'a, F, S, L, C> {
    /// Where findings come from
    pub source: &'a F,
    /// Where events go
    pub sink: &'a S,
    /// What is remembered
    pub ledger: &'a L,
    /// The time
    pub clock: &'a C,
    /// The region
    pub region: &'a Region,
    /// Filters from the settings
    pub narrowing: &'a Narrowing,
    /// How far back to read
    pub lookback: Lookback,
    /// Bounds every call
    pub deadline: &'a Deadline,
    /// With less than this left no further page is begun
    pub stop_margin: Duration,
    /// Names this run
    pub run: &'a str,
    /// What the regions of this run are about to send
    pub in_flight: &'a InFlight,
}

/// How the reading of a window ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// At its end
    Finished(Window),
    /// Time ran out
    OutOfTime,
}

/// What is counted on the way.
#[derive(Debug, Default)]
struct Tally {
    pages: u64,
    findings_seen: u64,
    events_sent: u64,
    duplicates_skipped: u64,
    lateness_seconds: Option<i64>,
    refused: Vec<Refused>,
}

impl<F: FindingSource, S: EventSink, L: DeliveryLedger, C: Clock> RegionPoll<'_, F, S, L, C> {
    /// Delivers what is asked for, or as much of it as there is time for.
    pub async fn poll(&self, mode: &Mode) -> (RegionReport, Measured) {
        let mut tally = Tally::default();
        let mut progress = Progress::new(self, self.key(mode));
        let outcome = match mode {
            Mode::Incremental => self.incremental(&mut progress, &mut tally).await,
            Mode::Backfill { start, end } => {
                let range = Range {
                    start: *start,
                    end: *end,
                };
                self.once(&mut progress, Some(range), &mut tally).await
            }
            Mode::Reconcile | Mode::TestConnection => self.once(&mut progress, None, &mut tally).await,
        };
        let measured = Measured {
            throttles: self.source.take_throttles(self.region),
            lag_seconds: match mode {
                Mode::Incremental => progress.lag(self.now()),
                _ => None,
            },
            lateness_seconds: tally.lateness_seconds,
        };
        let report = RegionReport {
            pages: tally.pages,
            findings_seen: tally.findings_seen,
            events_sent: tally.events_sent,
            duplicates_skipped: tally.duplicates_skipped,
            updated_through: progress.reading.through.map(|through| format!("{through:.3}")),
            complete: matches!(outcome, Ok(true)) && tally.refused.is_empty(),
            error: outcome
                .err()
                .and_then(|error| RegionError::of_call(&error, self.region))
                .or_else(|| RegionError::of_refused(&tally.refused)),
            ..RegionReport::new(self.region.clone())
        };
        (report, measured)
    }

    /// Names the reading. It is kept by the filters it is made with: with others other findings have been passed over.
    fn key(&self, mode: &Mode) -> ReadingKey {
        let (kind, lasting) = match mode {
            Mode::Incremental => ("incremental".to_owned(), true),
            Mode::Reconcile | Mode::TestConnection => ("reconcile".to_owned(), false),
            Mode::Backfill { start, end } => (format!("backfill#{start}#{end}"), false),
        };
        ReadingKey {
            text: format!("reading#{kind}#{}{}", self.region, self.narrowing.key()),
            lasting,
        }
    }

    fn now(&self) -> Timestamp {
        to_millisecond(self.clock.now())
    }

    fn is_out_of_time(&self) -> bool {
        self.deadline.left() < self.stop_margin
    }

    /// What an earlier run left open, then everything since. `true` where it came to the end.
    async fn incremental(
        &self,
        progress: &mut Progress<'_, '_, F, S, L, C>,
        tally: &mut Tally,
    ) -> Result<bool, AwsError> {
        progress.load(self.now()).await?;
        if let Some(window) = progress.reading.open.clone() {
            let finished = self.read_to_the_end(progress, window, tally).await?;
            if !finished || self.is_out_of_time() {
                return Ok(false);
            }
        }
        let window = progress.reading.next_window(self.lookback, self.now());
        self.read_to_the_end(progress, window, tally).await
    }

    /// One window, from where an earlier run left it. `true` where it came to the end.
    async fn once(
        &self,
        progress: &mut Progress<'_, '_, F, S, L, C>,
        range: Option<Range>,
        tally: &mut Tally,
    ) -> Result<bool, AwsError> {
        progress.load(self.now()).await?;
        let window = progress.reading.open.clone().unwrap_or_else(|| Window::new(range));
        self.read_to_the_end(progress, window, tally).await
    }

    async fn read_to_the_end(
        &self,
        progress: &mut Progress<'_, '_, F, S, L, C>,
        window: Window,
        tally: &mut Tally,
    ) -> Result<bool, AwsError> {
        match self.read(progress, window, tally).await? {
            End::OutOfTime => Ok(false),
            End::Finished(window) => {
                progress.finish(&window).await?;
                Ok(true)
            }
        }
    }

    /// Reads a window page by page, each delivered while the next is fetched. In memory are one page in hand and one on
    /// its way.
    async fn read(
        &self,
        progress: &mut Progress<'_, '_, F, S, L, C>,
        mut window: Window,
        tally: &mut Tally,
    ) -> Result<End, AwsError> {
        let mut tokens: HashSet<u64> = window.page.iter().map(|page| hash(&page.token)).collect();
        let mut restarts = 0;
        let mut body = self.fetch(&window).await;
        loop {
            let page = match body {
                Err(error) if window.page.is_some() && is_about_the_token(&error) => {
                    restarts += 1;
                    if restarts > MAX_RESTARTS {
                        return Err(error);
                    }
                    tracing::warn!(region = %self.region, %error, "the page token is not usable; going on from the position");
                    window.page = None;
                    tokens.clear();
                    body = self.fetch(&window).await;
                    continue;
                }
                body => Page::read(&body?, self.region, self.clock)?,
            };
            tally.pages += 1;
            tally.findings_seen += page.findings.len() as u64;

            let updated: Vec<_> = page.findings.iter().map(|finding| finding.updated).collect();
            let is_of_one_instant = updated.len() > 1 && updated.first() == updated.last();
            let is_last = page.token.is_none();
            let range = window.page.as_ref().map_or_else(|| window.rest(), |page| page.range);
            let is_new = page.token.as_deref().is_none_or(|token| tokens.insert(hash(token)));
            let mut next = window.after(&updated, page.token.map(|token| NextPage { token, range }));
            if next.position > window.position {
                restarts = 0;
            }
            if !is_new {
                restarts += 1;
                if restarts > MAX_RESTARTS {
                    return Err(unusable("Security Hub keeps giving page tokens it gave before"));
                }
                tracing::warn!(region = %self.region, "a page token came again; going on from the position");
                next.page = None;
                tokens.clear();
            }

            let (delivered, following) = futures::join!(self.deliver(page.findings, tally), async {
                if is_last { None } else { Some(self.fetch(&next).await) }
            });
            next.unclean |= !delivered?;
            let Some(following) = following else {
                return Ok(End::Finished(next));
            };
            progress.keep(&next.as_kept(is_of_one_instant)).await?;
            if self.is_out_of_time() {
                return Ok(End::OutOfTime);
            }
            window = next;
            body = following;
        }
    }

    async fn fetch(&self, window: &Window) -> Result<String, AwsError> {
        let (range, token) = match &window.page {
            Some(page) => (page.range, Some(page.token.as_str())),
            None => (window.rest(), None),
        };
        let query = Query::pages(self.narrowing.clone(), range);
        self.source.page(self.region, &query, token, self.deadline).await
    }

    /// Delivers findings and records them. `true` where all of them are delivered now.
    async fn deliver(&self, findings: Vec<Finding>, tally: &mut Tally) -> Result<bool, AwsError> {
        let seen = findings.len() as u64;
        // A version that stands on the page twice is taken once.
        let mut ids = HashSet::new();
        let mut pending: Vec<Finding> = findings
            .into_iter()
            .filter(|finding| ids.insert(finding.message.event_id.clone()))
            .collect();
        let mut sent = 0;
        let mut clean = true;
        while !pending.is_empty() {
            // With cross-region aggregation one finding comes in several regions, which are polled side by side.
            let mut others = self.in_flight.watch();
            let claim = self
                .in_flight
                .claim(pending.iter().map(|finding| &finding.message.event_id));
            let is_mine = |finding: &Finding| claim.ids().contains(&finding.message.event_id);
            let mut mine: Vec<Finding>;
            (mine, pending) = pending.into_iter().partition(is_mine);
            if mine.is_empty() {
                let released = self.deadline.bound(others.changed()).await;
                released.map_err(|_| AwsError::out_of_time(SEND_MESSAGE))?.ok();
                continue;
            }
            let ids: Vec<&str> = claim.ids().iter().map(String::as_str).collect();
            let known = self.ledger.delivered(&ids, self.deadline).await?;
            mine.retain(|finding| !known.contains(&finding.message.event_id));
            for finding in &mine {
                tally.lateness_seconds = tally.lateness_seconds.max(finding.lateness_seconds);
            }
            sent += mine.len() as u64;
            clean &= self
                .send(mine.into_iter().map(|finding| finding.message).collect(), tally)
                .await?;
        }
        tally.duplicates_skipped += seen - sent;
        Ok(clean)
    }

    async fn send(&self, messages: Vec<Message>, tally: &mut Tally) -> Result<bool, AwsError> {
        let delivery = deliver::deliver(self.sink, &messages, self.deadline).await;
        tally.events_sent += delivery.confirmed.len() as u64;
        let recorded = if delivery.confirmed.is_empty() {
            Ok(())
        } else {
            let late = self.deadline.later(RECORDING_GRACE);
            self.ledger.record(&delivery.confirmed, &late).await
        };
        for refused in &delivery.refused {
            tracing::error!(
                region = %self.region,
                event_id = refused.event_id,
                finding_id = refused.finding_id,
                code = refused.code,
                "SQS did not take the event: {}", refused.message
            );
        }
        let clean = delivery.refused.is_empty();
        tally.refused.extend(delivery.refused);
        recorded?;
        match delivery.error {
            Some(error) => Err(error),
            None => Ok(clean),
        }
    }
}

/// How far a reading has come, and its copy in the ledger.
struct Progress<'p, 'a, F, S, L, C> {
    poll: &'p RegionPoll<'a, F, S, L, C>,
    key: ReadingKey,
    reading: Reading,
    revision: Option<u64>,
    /// Another run is further in another window: this one leaves the place to it
    yields: bool,
}

impl<'p, 'a, F, S, L: DeliveryLedger, C> Progress<'p, 'a, F, S, L, C> {
    fn new(poll: &'p RegionPoll<'a, F, S, L, C>, key: ReadingKey) -> Self {
        Self {
            poll,
            key,
            reading: Reading::default(),
            revision: None,
            yields: false,
        }
    }

    async fn load(&mut self, now: Timestamp) -> Result<(), AwsError> {
        let Some(kept) = self.poll.ledger.load(&self.key, self.poll.deadline).await? else {
            return Ok(());
        };
        let latest = now.saturating_add(MAX_CLOCK_SKEW).unwrap_or(now);
        if let Some(through) = kept.reading.through.filter(|through| *through > latest) {
            return Err(AwsError {
                kind: ErrorKind::Rejected,
                code: Some(NONSENSE.to_owned()),
                message: format!(
                    "the item {:?} says that all is read up to {through}, which is yet to come",
                    self.key.text
                ),
                ..AwsError::out_of_time(dynamodb::GET)
            });
        }
        self.reading = kept.reading;
        self.revision = Some(kept.revision);
        Ok(())
    }

    /// In the middle of a window.
    async fn keep(&mut self, window: &Window) -> Result<(), AwsError> {
        let reading = self.reading.at(window);
        if self.yields {
            self.reading = reading;
            return Ok(());
        }
        self.save(reading).await
    }

    /// At the end of a window.
    async fn finish(&mut self, window: &Window) -> Result<(), AwsError> {
        let reading = self.reading.finished(window);
        self.yields = false;
        self.save(reading).await
    }

    async fn save(&mut self, mut reading: Reading) -> Result<(), AwsError> {
        for _ in 0..MAX_CONFLICTS {
            let kept = Kept {
                reading: reading.clone(),
                revision: self.revision.map_or(0, |revision| revision + 1),
                writer: self.poll.run.to_owned(),
            };
            let late = self.poll.deadline.later(RECORDING_GRACE);
            match self.poll.ledger.keep(&self.key, &kept, self.revision, &late).await? {
                Keeping::Kept => {
                    self.revision = Some(kept.revision);
                    self.reading = reading;
                    return Ok(());
                }
                Keeping::Conflict => {
                    let theirs = self.poll.ledger.load(&self.key, &late).await?;
                    if theirs.as_ref() == Some(&kept) {
                        // It was this run's own, whose answer was lost.
                        self.revision = Some(kept.revision);
                        self.reading = reading;
                        return Ok(());
                    }
                    self.revision = theirs.as_ref().map(|kept| kept.revision);
                    let theirs = theirs.map(|kept| kept.reading).unwrap_or_default();
                    let Some(merged) = reading.over(&theirs) else {
                        self.yields = true;
                        self.reading = Reading {
                            through: theirs.through,
                            open: reading.open,
                        };
                        return Ok(());
                    };
                    reading = merged;
                }
            }
        }
        // Others are at work and keep what they have read; nothing is lost but the place.
        self.yields = true;
        Ok(())
    }

    /// Seconds since the point up to which everything is delivered.
    fn lag(&self, now: Timestamp) -> Option<i64> {
        let open = self.reading.open.as_ref();
        let reached = self.reading.through.max(open.and_then(|window| window.position));
        let start = || open.and_then(|window| window.range).map(|range| range.start);
        reached
            .or_else(start)
            .map(|reached| (now.as_second() - reached.as_second()).max(0))
    }
}

/// A page, ready to be sent.
struct Page {
    findings: Vec<Finding>,
    token: Option<String>,
}

struct Finding {
    message: Message,
    updated: Option<Timestamp>,
    lateness_seconds: Option<i64>,
}

impl Page {
    fn read(body: &str, region: &Region, clock: &impl Clock) -> Result<Self, AwsError> {
        let at = clock.stamp();
        let observed = Observed {
            region: region.as_str(),
            at: &at,
        };
        let instant = |text: &Option<Cow<'_, str>>| text.as_ref()?.parse::<Timestamp>().ok();
        let page = asff::split(body, |finding| {
            let event = Event::from_finding(&finding, observed);
            let updated = instant(&event.updated_at);
            let processed = instant(&event.processed_at);
            Ok(Finding {
                updated: updated.map(to_millisecond),
                lateness_seconds: processed.zip(updated).map(|(p, u)| p.as_second() - u.as_second()),
                message: Message {
                    body: event.to_body()?,
                    attributes: event.attributes(),
                    finding_id: event.external_id.map(Cow::into_owned),
                    event_id: event.event_id,
                },
            })
        })
        .map_err(|error| unusable(&format!("{error}: {}", error.0)))?;
        let findings = page
            .findings
            .into_iter()
            .collect::<Result<Vec<_>, serde_json::Error>>()
            .map_err(|error| unusable(&error.to_string()))?;
        Ok(Self {
            findings,
            token: page.next_token.map(Cow::into_owned),
        })
    }
}

/// Tokens are long, and a reading can have thousands. Two of one hash would only take up the reading from its position.
fn hash(token: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    token.hash(&mut hasher);
    hasher.finish()
}

/// Down to the millisecond, which every service's `UpdatedAt` and `DateFilter` have.
fn to_millisecond(instant: Timestamp) -> Timestamp {
    let round = TimestampRound::new().smallest(Unit::Millisecond).mode(RoundMode::Floor);
    instant.round(round).unwrap_or(instant)
}

/// Security Hub refuses a token that has gone stale, or that is not one of the query, as an invalid input.
fn is_about_the_token(error: &AwsError) -> bool {
    error.action == GET_FINDINGS && error.has_code("InvalidInputException")
}

/// An answer of Security Hub that cannot be used; the next one may be.
fn unusable(message: &str) -> AwsError {
    AwsError::new(GET_FINDINGS, ErrorKind::Unreachable, message.to_owned())
}
