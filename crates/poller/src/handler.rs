//! One invocation: input in, report out.

use std::time::Duration;

use aws_support::metrics::MetricSink;
use aws_support::{AwsError, Clock, Deadline};
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use lambda_runtime::Diagnostic;
use serde_json::Value;

use crate::config::Config;
use crate::delivery::in_flight::InFlight;
use crate::delivery::ledger::{Ledger, Memory};
use crate::delivery::parking::Parking;
use crate::delivery::{Counts, DeliveredItems, EventSink, ParkedEvents, Pipeline, RECORDING_GRACE};
use crate::input::{Input, Mode};
use crate::metrics::{self, Measured};
use crate::poll::Checkpoints;
use crate::poll::lease::{Lease, Leases};
use crate::poll::reader::Reader;
use crate::poll::region::{Polled, RegionRun};
use crate::poll::sweep::Swept;
use crate::report::{ConnectionReport, PollReport, RegionConnection, RegionError, RegionReport, SweepReport};
use crate::security_hub::{FindingSource, Query};

/// The function, with what it works on.
#[derive(Debug)]
pub struct Poller<F, S, T, C, M> {
    /// Settings
    pub config: Config,
    /// Where findings come from
    pub source: F,
    /// Where events go
    pub sink: S,
    /// What is remembered
    pub table: T,
    /// The time
    pub clock: C,
    /// Where metrics go
    pub metrics: M,
    /// What the process knows to be delivered
    pub memory: Memory,
}

/// With less than this left no further page is begun.
const STOP_MARGIN: Duration = Duration::from_secs(5);

impl<F, S, T, C, M> Poller<F, S, T, C, M>
where
    F: FindingSource,
    S: EventSink,
    T: DeliveredItems + ParkedEvents + Checkpoints + Leases,
    C: Clock,
    M: MetricSink,
{
    /// Does what the input asks for, all regions side by side. `run` names the invocation.
    ///
    /// # Errors
    /// `InvalidInput` where the input asks for nothing the poller does: nothing has been polled. `Busy` where another run
    /// is at work. `PollFailed` where a region failed, after all of them are done; the whole report is in the log.
    pub async fn handle(&self, input: &Value, run: &str, deadline: &Deadline) -> Result<Value, Diagnostic> {
        match Input::read(input).map_err(|error| failure("InvalidInput", error.to_string()))? {
            Input::TestConnection => answer(&self.test_connection(deadline).await),
            Input::Poll(mode) => self.poll(mode, run, deadline).await,
        }
    }

    async fn poll(&self, mode: Mode, run: &str, deadline: &Deadline) -> Result<Value, Diagnostic> {
        let now = self.clock.now();
        // What is recorded at the very end is still within the lease.
        let left = SignedDuration::try_from(deadline.left() + 2 * RECORDING_GRACE).unwrap_or(SignedDuration::MAX);
        let lease = Lease {
            holder: run.to_owned(),
            until: now.saturating_add(left).unwrap_or(now),
        };
        let report = match self.table.take(&lease, now, deadline).await {
            Ok(Err(until)) => return skipped(mode, until),
            Ok(Ok(())) => match Parking::load(&self.table, deadline).await {
                Ok(parking) => self.poll_regions(mode, run, deadline, &parking).await,
                Err(error) => self.report_of_failure(mode, &error),
            },
            // It may be taken all the same, and the answer lost.
            Err(error) => self.report_of_failure(mode, &error),
        };
        if let Err(error) = self.table.release(&lease, &deadline.later(RECORDING_GRACE)).await {
            tracing::warn!(%error, until = %lease.until, "the lease could not be released and ends by itself");
        }
        if let Some(line) = metrics::of_poll(&report, &self.config.function_name, self.clock.now()) {
            self.metrics.put(&line);
        }
        let failed: Vec<String> = report
            .regions
            .iter()
            .filter_map(|region| {
                let error = region.error.as_ref()?;
                Some(format!("{} ({})", region.region, error.code.as_str()))
            })
            .collect();
        let whole = answer(&report)?;
        if failed.is_empty() {
            tracing::info!(report = %whole, "poll done");
            return Ok(whole);
        }
        tracing::error!(report = %whole, "poll failed");
        let (count, all, list) = (failed.len(), report.regions.len(), failed.join(", "));
        Err(failure(
            "PollFailed",
            format!("{count} of {all} regions failed: {list}; the log has the report"),
        ))
    }

    async fn poll_regions(&self, mode: Mode, run: &str, deadline: &Deadline, parking: &Parking) -> PollReport {
        let in_flight = InFlight::default();
        let mut runs: Vec<RegionRun<'_, F, S, T, C>> = self
            .config
            .regions
            .iter()
            .map(|region| {
                let pipeline = Pipeline {
                    sink: &self.sink,
                    table: &self.table,
                    clock: &self.clock,
                    ledger: Ledger::new(&self.table, &self.memory, run, self.config.state_ttl),
                    parking,
                    in_flight: &in_flight,
                    region,
                    run,
                    deadline,
                    offers_parked: false,
                };
                let reader = Reader {
                    source: &self.source,
                    filters: &self.config.filters,
                    stop_margin: STOP_MARGIN.min(deadline.left() / 4),
                    pipeline,
                };
                RegionRun::new(reader, self.config.lookback)
            })
            .collect();
        let polled = join_all(runs.iter_mut().map(async |run| match mode {
            Mode::Incremental => run.poll().await,
            Mode::Backfill(range) => run.backfill(range).await,
            Mode::Reconcile => Polled::default(),
        }))
        .await;
        // A reconcile that ran out of time goes on where it has to, and begins nowhere again.
        let mut goes_on = vec![false; runs.len()];
        if mode == Mode::Reconcile {
            goes_on = join_all(runs.iter_mut().map(RegionRun::is_reconciling)).await;
        }
        let is_continued = goes_on.contains(&true);
        // The sweep has what time is left when all regions are polled.
        let every = self.config.sweep_every;
        let each = runs.iter_mut().zip(&polled).zip(goes_on);
        let swept = join_all(each.map(async |((run, polled), goes_on)| match mode {
            Mode::Incremental if polled.error.is_none() => run.sweep(every).await,
            Mode::Reconcile if is_continued && !goes_on => run.reconciled().await,
            Mode::Reconcile => run.reconcile().await,
            Mode::Incremental | Mode::Backfill(_) => Swept::default(),
        }))
        .await;
        let mut regions = Vec::new();
        for ((run, polled), swept) in runs.iter().zip(polled).zip(swept) {
            regions.push(self.report(mode, run, &polled, &swept));
        }
        let function = &self.config.function_name;
        self.metrics
            .put(&metrics::of_parking(parking.count(), function, self.clock.now()));
        PollReport::new(mode.name(), regions)
    }

    /// Without the lease, or what is parked, no region is polled.
    fn report_of_failure(&self, mode: Mode, error: &AwsError) -> PollReport {
        let failed = self.config.regions.iter().map(|region| RegionReport {
            error: RegionError::of_call(error, region),
            ..RegionReport::new(region.clone())
        });
        PollReport::new(mode.name(), failed.collect())
    }

    /// Reports on a region, and puts its metrics.
    fn report(&self, mode: Mode, run: &RegionRun<'_, F, S, T, C>, polled: &Polled, swept: &Swept) -> RegionReport {
        let region = run.region();
        let was_swept = swept.counts.pages > 0 || swept.is_complete || mode == Mode::Reconcile;
        let of_call = |error: &Option<AwsError>| RegionError::of_call(error.as_ref()?, region);
        let of_refused = |counts: &Counts| RegionError::of_refused(&counts.refused);
        let report = RegionReport {
            pages: polled.counts.pages,
            findings_seen: polled.counts.findings_seen,
            events_sent: polled.counts.events_sent,
            duplicates_skipped: polled.counts.duplicates_skipped,
            updated_through: polled.through.map(|through| format!("{through:.3}")),
            complete: match mode {
                Mode::Reconcile => swept.is_complete,
                Mode::Incremental | Mode::Backfill(_) => polled.is_complete(),
            },
            sweep: was_swept.then(|| SweepReport {
                pages: swept.counts.pages,
                findings_seen: swept.counts.findings_seen,
                events_sent: swept.counts.events_sent,
                complete: swept.is_complete,
                last_completed_at: swept.last_completed_at.map(|at| format!("{at:.3}")),
            }),
            events_parked: polled.counts.events_parked + swept.counts.events_parked,
            error: of_call(&polled.error)
                .or_else(|| of_refused(&polled.counts))
                .or_else(|| of_call(&swept.error))
                .or_else(|| of_refused(&swept.counts)),
            ..RegionReport::new(region.clone())
        };
        let measured = Measured {
            throttles: self.source.take_throttles(region),
            lag_seconds: polled.lag_seconds,
            sweep_age_seconds: swept.age_seconds.filter(|_| self.config.sweep_every.is_some()),
            findings_seen: polled.counts.findings_seen + swept.counts.findings_seen,
            duplicates_skipped: polled.counts.duplicates_skipped + swept.counts.duplicates_skipped,
            lateness_seconds: polled.counts.lateness_seconds,
        };
        let line = metrics::of_region(&report, &measured, &self.config.function_name, self.clock.now());
        self.metrics.put(&line);
        report
    }

    async fn test_connection(&self, deadline: &Deadline) -> ConnectionReport {
        let query = Query::probe();
        let tests = self.config.regions.iter().map(async |region| {
            let error = match self.source.page(region, &query, None, deadline).await {
                Ok(_) => None,
                Err(error) => {
                    RegionError::of_call(&error, region).or_else(|| Some(RegionError::no_answer_in_time(&error)))
                }
            };
            RegionConnection {
                region: region.clone(),
                success: error.is_none(),
                error,
            }
        });
        let regions = join_all(tests).await;
        let report = ConnectionReport {
            success: regions.iter().all(|region| region.success),
            connector: asff::event::SOURCE,
            capabilities: ["PULL_ALERTS", "BLOCK_IP", "ALLOW_IP"],
            regions,
        };
        tracing::info!(success = report.success, "connection tested");
        report
    }
}

/// Another run is at work. A scheduled poll has nothing to do then; somebody who asked for something is told.
fn skipped(mode: Mode, until: Timestamp) -> Result<Value, Diagnostic> {
    match mode {
        Mode::Incremental => {
            tracing::info!(%until, "poll skipped: another run is at work");
            answer(&PollReport {
                skipped: true,
                until: Some(format!("{until:.3}")),
                complete: false,
                ..PollReport::new(mode.name(), Vec::new())
            })
        }
        Mode::Reconcile | Mode::Backfill(_) => Err(failure(
            "Busy",
            format!("busy: another run is at work until {until:.3} at the latest; try again then"),
        )),
    }
}

fn answer(report: &impl serde::Serialize) -> Result<Value, Diagnostic> {
    serde_json::to_value(report).map_err(|error| failure("Internal", error.to_string()))
}

fn failure(error_type: &str, error_message: String) -> Diagnostic {
    Diagnostic {
        error_type: error_type.to_owned(),
        error_message,
    }
}

#[cfg(test)]
mod tests;
