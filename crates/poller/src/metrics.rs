//! Metrics of a poll in CloudWatch's embedded metric format: one line on standard output for each region, from which
//! CloudWatch Logs makes the metrics ("Specification: Embedded metric format" in the CloudWatch user guide).

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::input::ModeName;
use crate::report::{PollReport, RegionReport};

/// What is measured beyond the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// How often Security Hub asked for fewer requests
    pub throttles: u64,
    /// Seconds since the point up to which everything is delivered
    pub lag_seconds: Option<i64>,
    /// Seconds since the last whole pass of the sweep began
    pub sweep_age_seconds: Option<i64>,
    /// Findings on all pages, the sweep's included
    pub findings_seen: u64,
    /// Findings that were delivered before, the sweep's included
    pub duplicates_skipped: u64,
    /// The most seconds between `UpdatedAt` and `ProcessedAt` of a finding that was delivered: how late findings
    /// arrive, and so what `LOOKBACK_SECONDS` has to cover
    pub lateness_seconds: Option<i64>,
}

/// The metrics of one region as a log line.
#[must_use]
pub fn of_region(report: &RegionReport, measured: &Measured, function: &str, now: Timestamp) -> Value {
    let mut metrics = vec![
        ("FindingsSeen", "Count", json!(measured.findings_seen)),
        ("EventsSent", "Count", json!(report.all_sent())),
        ("DuplicatesSkipped", "Count", json!(measured.duplicates_skipped)),
        ("Throttles", "Count", json!(measured.throttles)),
    ];
    for (name, seconds) in [
        ("OldestUndeliveredAge", measured.lag_seconds),
        ("Lateness", measured.lateness_seconds),
        ("SweepAge", measured.sweep_age_seconds),
    ] {
        if let Some(seconds) = seconds {
            metrics.push((name, "Seconds", json!(seconds)));
        }
    }
    let region = [("Region", report.region.as_str())];
    aws_support::metrics::line(now, function, &region, &metrics)
}

/// The metrics of a whole poll as a log line. `PollsSucceeded` is 1 where no region failed, which running out of time is
/// not, and 0 otherwise: its absence is how an alarm notices a poller that does not run at all. Only incremental polls
/// have it: a reconcile that works must not hide a schedule that does not.
#[must_use]
pub fn of_poll(report: &PollReport, function: &str, now: Timestamp) -> Option<Value> {
    if report.mode != ModeName::Incremental {
        return None;
    }
    let has_failed = report.regions.iter().any(|region| region.error.is_some());
    let metrics = [("PollsSucceeded", "Count", json!(u8::from(!has_failed)))];
    Some(aws_support::metrics::line(now, function, &[], &metrics))
}

/// How many events are parked, as a log line.
#[must_use]
pub fn of_parking(parked: usize, function: &str, now: Timestamp) -> Value {
    let metrics = [("EventsParked", "Count", json!(parked))];
    aws_support::metrics::line(now, function, &[], &metrics)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{ErrorCode, RegionError, SweepReport};

    #[test]
    fn each_metric_is_defined_and_has_a_value() {
        let report = RegionReport {
            events_sent: 2,
            sweep: Some(SweepReport {
                pages: 1,
                findings_seen: 4,
                events_sent: 5,
                complete: true,
                last_completed_at: None,
            }),
            ..RegionReport::new("us-east-1".parse().unwrap())
        };
        let measured = Measured {
            throttles: 1,
            lag_seconds: Some(90),
            sweep_age_seconds: Some(7),
            findings_seen: 5,
            duplicates_skipped: 3,
            lateness_seconds: Some(-4),
        };
        let line = of_region(&report, &measured, "poller", Timestamp::constant(1_000, 0));
        assert_eq!(line["_aws"]["Timestamp"], 1_000_000);
        assert_eq!(line["Region"], "us-east-1");
        let definition = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(
            definition["Dimensions"],
            json!([["FunctionName"], ["FunctionName", "Region"]])
        );
        let values: Vec<_> = definition["Metrics"]
            .as_array()
            .unwrap()
            .iter()
            .map(|metric| {
                (
                    metric["Name"].as_str().unwrap(),
                    line[metric["Name"].as_str().unwrap()].clone(),
                )
            })
            .collect();
        assert_eq!(
            values,
            [
                ("FindingsSeen", json!(5)),
                ("EventsSent", json!(7)),
                ("DuplicatesSkipped", json!(3)),
                ("Throttles", json!(1)),
                ("OldestUndeliveredAge", json!(90)),
                ("Lateness", json!(-4)),
                ("SweepAge", json!(7)),
            ]
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let report = RegionReport::new("us-east-1".parse().unwrap());
        let line = of_region(&report, &Measured::default(), "poller", Timestamp::UNIX_EPOCH);
        assert!(line.get("Lateness").is_none());
        assert!(line.get("OldestUndeliveredAge").is_none());
        assert_eq!(line["FindingsSeen"], 0);
    }

    #[test]
    fn a_poll_has_succeeded_where_no_region_failed() {
        let region = |error: Option<RegionError>| RegionReport {
            error,
            ..RegionReport::new("us-east-1".parse().unwrap())
        };
        let failed = RegionError {
            code: ErrorCode::Throttled,
            message: String::new(),
            remedy: String::new(),
        };
        let poll = PollReport::new;
        let succeeded =
            |report| of_poll(&report, "poller", Timestamp::UNIX_EPOCH).map(|line| line["PollsSucceeded"].clone());
        assert_eq!(
            succeeded(poll(ModeName::Incremental, vec![region(None)])),
            Some(json!(1))
        );
        let one_of_two = vec![region(None), region(Some(failed))];
        assert_eq!(succeeded(poll(ModeName::Incremental, one_of_two)), Some(json!(0)));
        assert_eq!(succeeded(poll(ModeName::Reconcile, vec![region(None)])), None);
    }
}
