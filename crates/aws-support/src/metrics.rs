//! Metrics in CloudWatch's embedded metric format: lines of the log from which CloudWatch makes metrics
//! ("Specification: Embedded metric format" in the CloudWatch user guide).

use std::io::Write;

use jiff::Timestamp;
use serde_json::{Value, json};

/// CloudWatch namespace of every metric.
const NAMESPACE: &str = "AiSOC/SecurityHub";

/// A line of metrics, each with its unit and value. `sets` are the sets of dimensions to make them for; an empty one
/// sums over all.
#[must_use]
pub fn line(now: Timestamp, dimensions: &[(&str, &str)], sets: &[&[&str]], metrics: &[(&str, &str, Value)]) -> Value {
    let definitions: Vec<Value> = metrics
        .iter()
        .map(|(name, unit, _)| json!({"Name": name, "Unit": unit}))
        .collect();
    let mut line = json!({
        "_aws": {
            "Timestamp": now.as_millisecond(),
            "CloudWatchMetrics": [{"Namespace": NAMESPACE, "Dimensions": sets, "Metrics": definitions}],
        },
    });
    for (name, value) in dimensions {
        line[*name] = json!(value);
    }
    for (name, _, value) in metrics {
        line[*name] = value.clone();
    }
    line
}

/// Takes metrics.
pub trait MetricSink {
    /// One line in embedded metric format.
    fn put(&self, line: &Value);
}

/// Where CloudWatch Logs finds metrics: a line of its own, in no other format's frame.
#[derive(Clone, Copy, Debug)]
pub struct StandardOutput;

impl MetricSink for StandardOutput {
    fn put(&self, line: &Value) {
        if let Err(error) = writeln!(std::io::stdout().lock(), "{line}") {
            tracing::warn!(%error, "metrics cannot be written");
        }
    }
}
