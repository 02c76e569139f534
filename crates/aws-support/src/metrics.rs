//! Metrics in CloudWatch's embedded metric format: lines of the log from which CloudWatch makes metrics
//! ("Specification: Embedded metric format" in the CloudWatch user guide).

use std::io::Write;

use jiff::Timestamp;
use serde_json::{Value, json};

/// CloudWatch namespace of every metric.
const NAMESPACE: &str = "AiSOC/SecurityHub";

/// The dimension by which two stacks of one account and region stay apart.
const FUNCTION_NAME: &str = "FunctionName";

/// A line of metrics, each with its unit and value, for the function as a whole and, if there are any, for the
/// `dimensions` together.
#[must_use]
pub fn line(now: Timestamp, function: &str, dimensions: &[(&str, &str)], metrics: &[(&str, &str, Value)]) -> Value {
    let mut sets = vec![vec![FUNCTION_NAME]];
    if !dimensions.is_empty() {
        sets.push(
            std::iter::once(FUNCTION_NAME)
                .chain(dimensions.iter().map(|(name, _)| *name))
                .collect(),
        );
    }
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
    line[FUNCTION_NAME] = json!(function);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_made_for_the_function_and_for_the_dimensions_together() {
        let sets = |dimensions: &[(&str, &str)]| {
            let line = line(
                Timestamp::UNIX_EPOCH,
                "poller-1",
                dimensions,
                &[("Polls", "Count", json!(1))],
            );
            assert_eq!((&line["FunctionName"], &line["Polls"]), (&json!("poller-1"), &json!(1)));
            line["_aws"]["CloudWatchMetrics"][0]["Dimensions"].clone()
        };
        assert_eq!(sets(&[]), json!([["FunctionName"]]));
        assert_eq!(
            sets(&[("Region", "us-east-1")]),
            json!([["FunctionName"], ["FunctionName", "Region"]])
        );
    }
}
