//! ASFF severity to event severity: the one place that decides it.

use serde::Serialize;

use crate::json::Object;

/// Severity of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// ASFF `CRITICAL` and `HIGH`
    High,
    /// ASFF `MEDIUM`
    Medium,
    /// ASFF `LOW`
    Low,
    /// ASFF `INFORMATIONAL`, or nothing usable
    Info,
}

impl Severity {
    /// The name used in events and message attributes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::High => "high",
            Severity::Medium => "medium",
            Severity::Low => "low",
            Severity::Info => "info",
        }
    }

    /// From an ASFF `Severity.Label`; `None` for a label that ASFF does not know.
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        match label {
            "CRITICAL" | "HIGH" => Some(Severity::High),
            "MEDIUM" => Some(Severity::Medium),
            "LOW" => Some(Severity::Low),
            "INFORMATIONAL" => Some(Severity::Info),
            _ => None,
        }
    }

    /// From an ASFF `Severity.Normalized` (0 to 100), by the bands of the ASFF reference for `Severity`: 0
    /// informational, 1–39 low, 40–69 medium, 70–89 high, 90–100 critical. `None` outside them.
    #[must_use]
    pub fn from_normalized(normalized: i64) -> Option<Self> {
        match normalized {
            0 => Some(Severity::Info),
            1..=39 => Some(Severity::Low),
            40..=69 => Some(Severity::Medium),
            70..=100 => Some(Severity::High),
            _ => None,
        }
    }

    /// `Severity.Label`, else `Severity.Normalized`, else `FindingProviderFields.Severity.Label`, else info.
    pub(crate) fn of(finding: &Object<'_>) -> Self {
        let severity = finding.object("Severity");
        let label = |object: &Object<'_>| Severity::from_label(&object.str("Label")?);
        label(&severity)
            .or_else(|| Severity::from_normalized(severity.get("Normalized")?.as_integer()?))
            .or_else(|| label(&finding.object("FindingProviderFields").object("Severity")))
            .unwrap_or(Severity::Info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Value;

    fn of(finding: &str) -> Severity {
        Severity::of(&Value::new(serde_json::from_str(finding).unwrap()).as_object())
    }

    #[test]
    fn the_label_decides() {
        for (label, severity) in [
            ("CRITICAL", "high"),
            ("HIGH", "high"),
            ("MEDIUM", "medium"),
            ("LOW", "low"),
            ("INFORMATIONAL", "info"),
        ] {
            // GIVEN a score and a provider's label that say otherwise
            let finding = format!(
                r#"{{"Severity":{{"Label":"{label}","Normalized":50}},"FindingProviderFields":{{"Severity":{{"Label":"LOW"}}}}}}"#
            );
            assert_eq!(of(&finding).as_str(), severity, "{label}");
        }
    }

    #[test]
    fn every_score_has_the_band_of_asff() {
        for score in -1..=101 {
            let expected = match score {
                1..=39 => Severity::Low,
                40..=69 => Severity::Medium,
                70..=100 => Severity::High,
                _ => Severity::Info,
            };
            assert_eq!(
                of(&format!(r#"{{"Severity":{{"Normalized":{score}}}}}"#)),
                expected,
                "{score}"
            );
        }
    }

    #[test]
    fn what_is_not_usable_falls_through() {
        let provider = r#""FindingProviderFields":{"Severity":{"Label":"MEDIUM"}}"#;
        for severity in [
            r#""Severity":{"Label":"URGENT"}"#,
            r#""Severity":{"Label":7,"Normalized":"70"}"#,
            r#""Severity":{"Normalized":101}"#,
            r#""Severity":{"Normalized":39.5}"#,
            r#""Severity":"HIGH""#,
            r#""Severity":null"#,
            r#""Other":1"#,
        ] {
            assert_eq!(
                of(&format!("{{{severity},{provider}}}")),
                Severity::Medium,
                "{severity}"
            );
            assert_eq!(of(&format!("{{{severity}}}")), Severity::Info, "{severity}");
        }
        assert_eq!(
            of(&format!(
                r#"{{"Severity":{{"Label":"URGENT","Normalized":90}},{provider}}}"#
            )),
            Severity::High
        );
    }
}
