//! Metrics in CloudWatch's embedded metric format: lines of the log from which CloudWatch makes metrics
//! ("Specification: Embedded metric format" in the CloudWatch user guide).

use std::io::Write;

use serde_json::Value;

/// CloudWatch namespace of every metric.
pub const NAMESPACE: &str = "AiSOC/SecurityHub";

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
