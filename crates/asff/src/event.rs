//! The event: what one SQS message says.

use std::borrow::Cow;

use aws_text::sqs;
use serde::Serialize;

use crate::entities;
use crate::indicator::{self, Indicator, Role};
use crate::json::{Object, Value};
use crate::page::Finding;
use crate::severity::Severity;
use crate::version::{self, EventId};

/// Version of the event's form.
pub const SCHEMA_VERSION: &str = "1.1";
/// `source` of every event.
pub const SOURCE: &str = "aws_security_hub";
/// `finding_format` of a finding in the AWS Security Finding Format.
pub const FINDING_FORMAT: &str = "asff";

/// What an event says that the finding does not: where and when it was read.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The region that was polled, such as `us-east-1`
    pub region: &'a str,
    /// When the finding was read, RFC 3339 in UTC
    pub at: &'a str,
}

/// A version of a finding. Every member is always there; one that the finding lacks, or holds as another type, is null.
///
/// A later version may add members: readers should pass over those they do not know.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(transform = with_raw_event))]
pub struct Event<'a> {
    /// Version of the event's form
    #[cfg_attr(feature = "schema", schemars(extend("const" = SCHEMA_VERSION)))]
    pub schema_version: &'static str,
    /// The same for every delivery of one finding version, and for no other: 64 hexadecimal digits
    #[cfg_attr(feature = "schema", schemars(with = "String", regex(pattern = r"^[0-9a-f]{64}$")))]
    pub event_id: EventId,
    /// The connector
    #[cfg_attr(feature = "schema", schemars(extend("const" = SOURCE)))]
    pub source: &'static str,
    /// The format of `raw_event`: the AWS Security Finding Format
    #[cfg_attr(feature = "schema", schemars(extend("const" = FINDING_FORMAT)))]
    pub finding_format: &'static str,
    /// `Id` of the finding
    pub external_id: Option<Cow<'a, str>>,
    /// `Title` of the finding
    pub title: Option<Cow<'a, str>>,
    /// `Description` of the finding
    pub description: Option<Cow<'a, str>>,
    /// By `Severity.Label`, else by `Severity.Normalized`, else by `FindingProviderFields.Severity.Label`
    pub severity: Severity,
    /// `Types` of the finding
    pub types: Option<Vec<Cow<'a, str>>>,
    /// `ProductName` of the finding
    pub product_name: Option<Cow<'a, str>>,
    /// `ProductArn` of the finding
    pub product_arn: Option<Cow<'a, str>>,
    /// `GeneratorId` of the finding
    pub generator_id: Option<Cow<'a, str>>,
    /// `AwsAccountId` of the finding
    pub aws_account_id: Option<Cow<'a, str>>,
    /// `Region`, else the region polled
    pub aws_region: Cow<'a, str>,
    /// `Compliance.Status` of the finding
    pub compliance_status: Option<Cow<'a, str>>,
    /// `Workflow.Status` of the finding
    pub workflow_status: Option<Cow<'a, str>>,
    /// `RecordState` of the finding
    pub record_state: Option<Cow<'a, str>>,
    /// `Resources` of the finding
    pub resources: Option<Vec<Resource<'a>>>,
    /// The machine: the id of the first `AwsEc2Instance` among the resources, else the name of the first container, task,
    /// EKS cluster, Lambda function or DB instance
    pub hostname: Option<Cow<'a, str>>,
    /// The principal that acted or is affected: `Details.AwsIamAccessKey.PrincipalName` of a resource, else the name of
    /// the first `AwsIamUser` or `AwsIamRole`
    pub actor: Option<Cow<'a, str>>,
    /// `Note.UpdatedBy` of the finding: who edited it last
    pub updated_by: Option<Cow<'a, str>>,
    /// The first remote address of `indicators`: the one an analyst would block
    pub src_ip: Option<std::net::IpAddr>,
    /// The addresses, domains, URLs and hashes in the finding
    pub indicators: Vec<Indicator>,
    /// `CreatedAt`, as given
    pub created_at: Option<Cow<'a, str>>,
    /// `UpdatedAt`, as given: the finding provider's clock
    pub updated_at: Option<Cow<'a, str>>,
    /// `FirstObservedAt`, as given
    pub first_observed_at: Option<Cow<'a, str>>,
    /// `LastObservedAt`, as given
    pub last_observed_at: Option<Cow<'a, str>>,
    /// When the connector read the finding: our clock, RFC 3339 in UTC
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub ingested_at: &'a str,
    /// The finding as Security Hub sent it: the last member of the body, into which it goes as it is
    #[serde(skip)]
    pub raw_event: &'a str,
    /// `ProcessedAt`: when Security Hub received it, by its own clock. Not a member of the event
    #[serde(skip)]
    pub processed_at: Option<Cow<'a, str>>,
}

/// An element of `Resources`.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Resource<'a> {
    /// `Id` of the resource
    pub id: Option<Cow<'a, str>>,
    /// `Type` of the resource
    #[serde(rename = "type")]
    pub kind: Option<Cow<'a, str>>,
    /// `Region` of the resource
    pub region: Option<Cow<'a, str>>,
}

impl<'a> Resource<'a> {
    fn of(resource: &Object<'a>) -> Self {
        Self {
            id: resource.str("Id"),
            kind: resource.str("Type"),
            region: resource.str("Region"),
        }
    }
}

impl<'a> Event<'a> {
    /// Reads what can be read.
    #[must_use]
    pub fn from_finding(whole: &Finding<'a>, observed: Observed<'a>) -> Self {
        let finding = whole.members();
        let aws_region = finding
            .str("Region")
            .filter(|region| !region.is_empty())
            .unwrap_or(Cow::Borrowed(observed.region));
        let resources = finding.objects("Resources");
        let listed = resources.as_deref().unwrap_or_default();
        let indicators = indicator::of(finding, listed);
        Self {
            schema_version: SCHEMA_VERSION,
            event_id: version::event_id(whole.text(), finding),
            source: SOURCE,
            finding_format: FINDING_FORMAT,
            external_id: finding.str("Id"),
            title: finding.str("Title"),
            description: finding.str("Description"),
            severity: Severity::of(finding),
            types: strings(finding, "Types"),
            product_name: finding.str("ProductName"),
            product_arn: finding.str("ProductArn"),
            generator_id: finding.str("GeneratorId"),
            aws_account_id: finding.str("AwsAccountId"),
            aws_region,
            compliance_status: finding.object("Compliance").str("Status"),
            workflow_status: finding.object("Workflow").str("Status"),
            record_state: finding.str("RecordState"),
            hostname: entities::hostname(listed),
            actor: entities::actor(listed),
            updated_by: finding.object("Note").str("UpdatedBy"),
            resources: resources
                .as_ref()
                .map(|resources| resources.iter().map(Resource::of).collect()),
            src_ip: indicators
                .iter()
                .filter(|indicator| indicator.role == Role::Remote)
                .find_map(Indicator::address),
            indicators,
            created_at: finding.str("CreatedAt"),
            updated_at: finding.str("UpdatedAt"),
            first_observed_at: finding.str("FirstObservedAt"),
            last_observed_at: finding.str("LastObservedAt"),
            ingested_at: observed.at,
            raw_event: whole.text(),
            processed_at: finding.str("ProcessedAt"),
        }
    }

    /// The message body, in the characters that SQS takes: one that a finding holds unescaped and SQS would refuse
    /// leaves escaped, see [`sqs::escape_json`].
    ///
    /// # Errors
    /// None that is known: the members are strings, numbers and lists of them.
    pub fn to_body(&self) -> Result<String, serde_json::Error> {
        // Most events have less than this beyond the finding: one allocation.
        let mut body = String::with_capacity(self.raw_event.len() + 2048);
        body.push_str(&serde_json::to_string(self)?);
        body.truncate(body.len() - "}".len());
        body.extend([",\"raw_event\":", self.raw_event, "}"]);
        Ok(sqs::escape_json(body))
    }

    /// The SQS message attributes, each of type `String`. One that would be empty, or holds a character SQS refuses,
    /// is left out: an attribute cannot be escaped, and the body has the value.
    #[must_use]
    pub fn attributes(&self) -> Vec<(&'static str, String)> {
        let event_id = self.event_id.to_string();
        [
            ("source", Some(self.source)),
            ("severity", Some(self.severity.as_str())),
            ("event_id", Some(event_id.as_str())),
            ("aws_account_id", self.aws_account_id.as_deref()),
            ("aws_region", Some(self.aws_region.as_ref())),
        ]
        .into_iter()
        .filter_map(|(name, value)| {
            let value = value.filter(|v| !v.is_empty() && v.chars().all(sqs::is_character))?;
            Some((name, value.to_owned()))
        })
        .collect()
    }
}

/// Adds the member that the body gets past the type's own serialization.
#[cfg(feature = "schema")]
fn with_raw_event(schema: &mut schemars::Schema) {
    use serde_json::{Value, json};

    const DESCRIPTION: &str = "The finding as Security Hub sent it: an object, unless it sent something else";
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert("raw_event".to_owned(), json!({ "description": DESCRIPTION }));
    }
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.push(json!("raw_event"));
    }
}

fn strings<'a>(finding: &Object<'a>, name: &str) -> Option<Vec<Cow<'a, str>>> {
    let elements = finding.array(name)?;
    Some(elements.into_iter().filter_map(Value::as_str).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;
    use serde_json::{Value as Json, json};

    use super::*;

    const OBSERVED: Observed<'static> = Observed {
        region: "us-east-1",
        at: "2026-11-23T10:00:00Z",
    };

    fn from(finding: &str) -> Event<'_> {
        Event::from_finding(&Finding::read(finding).unwrap(), OBSERVED)
    }

    fn body(finding: &str) -> String {
        from(finding).to_body().unwrap()
    }

    fn event(finding: &str) -> Json {
        serde_json::from_str(&body(finding)).unwrap()
    }

    /// `raw_event` as it stands in the body.
    fn raw_event(body: &str) -> String {
        #[derive(serde::Deserialize)]
        struct Body {
            raw_event: Box<RawValue>,
        }
        serde_json::from_str::<Body>(body).unwrap().raw_event.get().to_owned()
    }

    #[test]
    fn every_member_comes_from_its_asff_member() {
        let finding = r#"{"SchemaVersion":"2018-10-08","Id":"finding-1","ProductArn":"arn:aws:securityhub:eu-west-1::product/aws/guardduty",
            "ProductName":"GuardDuty","GeneratorId":"generator","AwsAccountId":"111122223333","Region":"eu-west-1",
            "Types":["TTPs/Initial Access"],"Title":"title","Description":"description","Severity":{"Label":"CRITICAL"},
            "Compliance":{"Status":"FAILED"},"Workflow":{"Status":"NEW"},"RecordState":"ACTIVE",
            "Resources":[{"Type":"AwsEc2Instance","Id":"i-1","Region":"eu-west-1","Partition":"aws"},
                         {"Type":"AwsIamRole","Id":"arn:aws:iam::111122223333:role/web"}],
            "Note":{"Text":"t","UpdatedBy":"aisoc"},
            "Action":{"NetworkConnectionAction":{"ConnectionDirection":"INBOUND","RemoteIpDetails":{"IpAddressV4":"203.0.113.7"}}},
            "CreatedAt":"2026-11-01T00:00:00.000Z","UpdatedAt":"2026-11-02T00:00:00+01:00",
            "FirstObservedAt":"2026-11-01T00:00:01Z","LastObservedAt":"2026-11-01T00:00:02Z"}"#;
        let mut event = event(finding);
        let id = event["event_id"].take();
        assert_eq!(id.as_str().unwrap().len(), 64);
        assert_eq!(
            event,
            json!({
                "schema_version": "1.1", "event_id": null, "source": "aws_security_hub",
                "finding_format": "asff", "external_id": "finding-1",
                "title": "title", "description": "description", "severity": "high", "types": ["TTPs/Initial Access"],
                "product_name": "GuardDuty", "product_arn": "arn:aws:securityhub:eu-west-1::product/aws/guardduty",
                "generator_id": "generator", "aws_account_id": "111122223333", "aws_region": "eu-west-1",
                "compliance_status": "FAILED", "workflow_status": "NEW", "record_state": "ACTIVE",
                "resources": [{"id": "i-1", "type": "AwsEc2Instance", "region": "eu-west-1"},
                              {"id": "arn:aws:iam::111122223333:role/web", "type": "AwsIamRole", "region": null}],
                "hostname": "i-1", "actor": "web", "updated_by": "aisoc",
                "src_ip": "203.0.113.7",
                "indicators": [{"type": "ipv4", "value": "203.0.113.7", "role": "remote", "direction": "INBOUND",
                                "path": "Action.NetworkConnectionAction.RemoteIpDetails.IpAddressV4"}],
                "created_at": "2026-11-01T00:00:00.000Z", "updated_at": "2026-11-02T00:00:00+01:00",
                "first_observed_at": "2026-11-01T00:00:01Z", "last_observed_at": "2026-11-01T00:00:02Z",
                "ingested_at": "2026-11-23T10:00:00Z",
                "raw_event": serde_json::from_str::<Json>(finding).unwrap(),
            })
        );
    }

    #[test]
    fn what_is_absent_or_of_the_wrong_type_is_null_and_the_rest_stands() {
        for finding in [
            r#"{"Title":"kept"}"#,
            r#"{"Title":"kept","Id":1,"Types":"x","Resources":{},"Severity":[],"Workflow":"NEW","UpdatedAt":0,"Region":7,"AwsAccountId":{},"Note":"n"}"#,
        ] {
            let event = event(finding);
            for (name, value) in event.as_object().unwrap() {
                let expected = match name.as_str() {
                    "schema_version" | "event_id" | "source" | "finding_format" | "ingested_at" | "raw_event" => {
                        continue;
                    }
                    "title" => json!("kept"),
                    "severity" => json!("info"),
                    "aws_region" => json!("us-east-1"),
                    "indicators" => json!([]),
                    _ => Json::Null,
                };
                assert_eq!(*value, expected, "{name} of {finding}");
            }
        }
    }

    #[test]
    fn src_ip_is_the_first_remote_address() {
        let src_ip = |finding: &str| event(finding)["src_ip"].take();
        let network = r#""Network":{"Direction":"in","SourceIpV4":"203.0.113.10","DestinationIpV4":"10.0.0.10"}"#;
        assert_eq!(src_ip(&format!("{{{network}}}")), "203.0.113.10");
        // GIVEN a domain before it
        let domain = r#""Action":{"DnsRequestAction":{"Domain":"c2.example.net"}}"#;
        assert_eq!(src_ip(&format!("{{{domain},{network}}}")), "203.0.113.10");
        assert_eq!(src_ip(&format!("{{{domain}}}")), Json::Null);
        // GIVEN that it is an address of the resource
        let own = r#""Resources":[{"Details":{"AwsEc2Instance":{"IpV4Addresses":["203.0.113.10","10.0.0.10"]}}}]"#;
        assert_eq!(src_ip(&format!("{{{network},{own}}}")), Json::Null);
        // GIVEN that its side is not known
        assert_eq!(src_ip(r#"{"Network":{"SourceIpV4":"203.0.113.10"}}"#), Json::Null);
    }

    #[test]
    fn any_json_value_gives_an_event() {
        for finding in [
            "null",
            "7",
            "\"x\"",
            "[]",
            "{}",
            "true",
            "[{}]",
            "{\"Resources\":[1,null]}",
        ] {
            assert_eq!(raw_event(&body(finding)), finding);
        }
        assert_eq!(
            event("{\"Resources\":[1]}")["resources"],
            json!([{"id": null, "type": null, "region": null}])
        );
    }

    #[test]
    fn raw_event_keeps_numbers_order_unknown_members_and_white_space() {
        let finding =
            "{ \"z\" : 1.10, \"a\":1e2,\n\t\"n\":12345678901234567890123, \"Id\":\"\\u0041\", \"Id\":\"\\/\" }";
        assert_eq!(raw_event(&body(finding)), finding);
    }

    #[test]
    fn characters_that_sqs_refuses_travel_escaped() {
        let finding = "{\"Title\":\"a\u{ffff}b\u{fffe}c\\u0000\u{7f}\u{1f512}\",\"\u{ffff}\":\"\\uffff\"}";
        let body = body(finding);
        assert!(body.chars().all(sqs::is_character));
        let event: Json = serde_json::from_str(&body).unwrap();
        assert_eq!(event["title"], "a\u{ffff}b\u{fffe}c\0\u{7f}\u{1f512}");
        assert_eq!(event["raw_event"], serde_json::from_str::<Json>(finding).unwrap());
    }

    #[test]
    fn a_description_of_240_kb_is_carried_whole() {
        let description = "d".repeat(240 * 1024);
        let event = event(&format!(r#"{{"Description":"{description}"}}"#));
        assert_eq!(event["description"], description);
        assert_eq!(event["raw_event"]["Description"], description);
    }

    #[test]
    fn the_event_of_a_finding_full_of_indicators_stays_within_what_sqs_takes() {
        let name = "n".repeat(63);
        let values: Vec<String> = (0..900)
            .map(|n| format!("\"{n}.{name}.{name}.{name}.example\""))
            .collect();
        let indicators = format!(r#"[{{"Key":"MALICIOUS_DOMAIN","Values":[{}]}}]"#, values.join(","));
        let finding = format!(r#"{{"Detection":{{"Sequence":{{"SequenceIndicators":{indicators}}}}}}}"#);
        assert!((180_000..240 * 1024).contains(&finding.len()));
        assert!(body(&finding).len() < 1024 * 1024 / 2);
    }

    #[test]
    fn attributes_leave_out_what_sqs_would_refuse() {
        let names = |finding: &str| -> Vec<&'static str> {
            from(finding).attributes().into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(
            names(r#"{"AwsAccountId":"111122223333"}"#),
            ["source", "severity", "event_id", "aws_account_id", "aws_region"]
        );
        for finding in [
            "{}",
            r#"{"AwsAccountId":""}"#,
            r#"{"AwsAccountId":"\u0001"}"#,
            r#"{"AwsAccountId":"\uffff"}"#,
        ] {
            assert_eq!(
                names(finding),
                ["source", "severity", "event_id", "aws_region"],
                "{finding}"
            );
        }
    }

    fn any_json() -> impl Strategy<Value = String> {
        let member = prop_oneof![
            Just("Id".to_owned()),
            Just("UpdatedAt".to_owned()),
            Just("Severity".to_owned()),
            Just("Label".to_owned()),
            Just("Resources".to_owned()),
            Just("Network".to_owned()),
            Just("Action".to_owned()),
            Just("ProductFields".to_owned()),
            any::<String>(),
        ];
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("1.10".to_owned()),
            Just("-1e-7".to_owned()),
            Just("98765432109876543210".to_owned()),
            any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        ];
        leaf.prop_recursive(4, 64, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(|list| format!("[{}]", list.join(" ,"))),
                prop::collection::vec((member.clone(), inner), 0..8).prop_map(|members| {
                    let members: Vec<_> = members
                        .into_iter()
                        .map(|(name, value)| format!("{}: {value}", serde_json::to_string(&name).unwrap()))
                        .collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn raw_event_is_the_finding_to_the_letter(finding in any_json()) {
            let body = body(&finding);
            prop_assert!(body.chars().all(sqs::is_character));
            let escaped = finding.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff");
            prop_assert_eq!(raw_event(&body), escaped);
        }

        #[test]
        fn ids_do_not_depend_on_when_the_finding_was_read(finding in any_json()) {
            let finding = Finding::read(&finding).unwrap();
            let later = Observed { at: "2030-01-01T00:00:00Z", ..OBSERVED };
            prop_assert_eq!(
                Event::from_finding(&finding, OBSERVED).event_id,
                Event::from_finding(&finding, later).event_id
            );
        }
    }
}
