//! Metrics of a poll in CloudWatch's embedded metric format: one line on standard output for each region, from which
//! CloudWatch Logs makes the metrics ("Specification: Embedded metric format" in the CloudWatch user guide).

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::report::RegionReport;

/// What is measured beyond the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// How often Security Hub asked for fewer requests
    pub throttles: u64,
    /// Seconds since the point up to which everything is delivered
    pub lag_seconds: Option<i64>,
    /// The most seconds between `UpdatedAt` and `ProcessedAt` of a finding that was delivered: how late findings
    /// arrive, and so what `LOOKBACK_SECONDS` has to cover
    pub lateness_seconds: Option<i64>,
}

/// The metrics of one region as a log line.
#[must_use]
pub fn line(report: &RegionReport, measured: &Measured, now: Timestamp) -> Value {
    let mut metrics = vec![
        ("FindingsSeen", "Count", json!(report.findings_seen)),
        ("EventsSent", "Count", json!(report.events_sent)),
        ("DuplicatesSkipped", "Count", json!(report.duplicates_skipped)),
        ("Throttles", "Count", json!(measured.throttles)),
    ];
    for (name, seconds) in [
        ("OldestUndeliveredAge", measured.lag_seconds),
        ("Lateness", measured.lateness_seconds),
    ] {
        if let Some(seconds) = seconds {
            metrics.push((name, "Seconds", json!(seconds)));
        }
    }
    aws_support::metrics::line(now, &[("Region", report.region.as_str())], &[&["Region"]], &metrics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_is_defined_and_has_a_value() {
        let report = RegionReport {
            findings_seen: 5,
            events_sent: 2,
            duplicates_skipped: 3,
            ..RegionReport::new("us-east-1".parse().unwrap())
        };
        let measured = Measured {
            throttles: 1,
            lag_seconds: Some(90),
            lateness_seconds: Some(-4),
        };
        let line = line(&report, &measured, Timestamp::constant(1_000, 0));
        assert_eq!(line["_aws"]["Timestamp"], 1_000_000);
        assert_eq!(line["Region"], "us-east-1");
        let definition = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(definition["Dimensions"], json!([["Region"]]));
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
                ("EventsSent", json!(2)),
                ("DuplicatesSkipped", json!(3)),
                ("Throttles", json!(1)),
                ("OldestUndeliveredAge", json!(90)),
                ("Lateness", json!(-4)),
            ]
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let report = RegionReport::new("us-east-1".parse().unwrap());
        let line = line(&report, &Measured::default(), Timestamp::UNIX_EPOCH);
        assert!(line.get("Lateness").is_none());
        assert!(line.get("OldestUndeliveredAge").is_none());
        assert_eq!(line["FindingsSeen"], 0);
    }
}
