//! Findings as products send them, from the text to the event.

use std::path::{Path, PathBuf};
use std::{env, fs};

use serde_json::{Value, json};

use crate::{Event, Finding, Observed, split};

const OBSERVED: Observed<'static> = Observed {
    region: "eu-west-1",
    at: "2026-11-23T10:00:00Z",
};

fn event(finding: &Finding<'_>) -> Value {
    let body = Event::from_finding(finding, OBSERVED).to_body().unwrap();
    serde_json::from_str(&body).unwrap()
}

fn sample(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("samples/{name}.json"));
    let text = fs::read_to_string(path).unwrap();
    event(&Finding::read(text.trim()).unwrap())
}

/// The indicators, a line each.
fn indicators(event: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let line = |indicator: &Value| {
        let members = ["type", "value", "role", "direction", "path"];
        members.map(|member| text(&indicator[member])).join(" ")
    };
    event["indicators"].as_array().unwrap().iter().map(line).collect()
}

/// `hostname`, `actor`, `updated_by` and `src_ip`.
fn entities(event: &Value) -> [&Value; 4] {
    ["hostname", "actor", "updated_by", "src_ip"].map(|member| &event[member])
}

#[test]
fn an_attack_sequence_gives_its_endpoints_and_indicators() {
    let event = sample("attack-sequence");
    assert_eq!(
        indicators(&event),
        [
            "ipv4 203.0.113.40 remote INBOUND Detection.Sequence.Endpoints[0].Ip",
            "ipv4 198.51.100.80 local - Detection.Sequence.Endpoints[1].Ip",
            "domain tunnel.example.net remote OUTBOUND Detection.Sequence.Endpoints[2].Domain",
            "ipv4 203.0.113.42 remote - Detection.Sequence.SequenceIndicators[1].Values[1]",
            "domain pool.example.org remote - Detection.Sequence.SequenceIndicators[2].Values[0]",
            "ipv4 203.0.113.41 remote - Detection.Sequence.Signals[0].SignalIndicators[0].Values[0]",
        ]
    );
    assert_eq!(
        entities(&event),
        [
            &json!("i-0a1b2c3d4e5f60718"),
            &json!("deploy-bot"),
            &Value::Null,
            &json!("203.0.113.40")
        ]
    );
}

#[test]
fn a_dns_request_gives_the_domain() {
    let event = sample("dns-request");
    assert_eq!(
        indicators(&event),
        ["domain c2.example.net remote - Action.DnsRequestAction.Domain"]
    );
    assert_eq!(
        entities(&event),
        [&json!("i-0a1b2c3d4e5f60718"), &Value::Null, &Value::Null, &Value::Null]
    );
}

#[test]
fn a_direction_in_lower_case_is_one() {
    let event = sample("network-in-lower-case");
    assert_eq!(
        indicators(&event),
        [
            "ipv4 203.0.113.50 remote INBOUND Network.SourceIpV4",
            "domain scanner.example.org remote INBOUND Network.SourceDomain",
            "ipv4 10.0.1.80 local INBOUND Network.DestinationIpV4",
        ]
    );
    assert_eq!(
        entities(&event),
        [&json!("ingest"), &Value::Null, &Value::Null, &json!("203.0.113.50")]
    );
}

#[test]
fn without_a_direction_the_side_is_unknown_unless_it_is_the_resource() {
    let event = sample("network-without-direction");
    assert_eq!(
        indicators(&event),
        [
            "ipv6 2001:db8:ffff::9 unknown - Network.SourceIpV6",
            "ipv6 2001:db8:1::80 local - Network.DestinationIpV6",
            "domain host.example.com unknown - Network.DestinationDomain",
        ]
    );
    assert_eq!(event["src_ip"], Value::Null);
}

#[test]
fn an_own_address_is_local_also_as_threat_intelligence() {
    let event = sample("own-address");
    assert_eq!(
        indicators(&event),
        [
            "ipv4 198.51.100.80 local OUTBOUND Network.SourceIpV4",
            "ipv4 203.0.113.60 remote OUTBOUND Network.DestinationIpV4",
            "hash_sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 remote - ThreatIntelIndicators[1].Value",
            "url https://files.example.net/Drop?id=1 remote - ThreatIntelIndicators[2].Value",
        ]
    );
    assert_eq!(
        entities(&event),
        [
            &json!("i-0a1b2c3d4e5f60718"),
            &Value::Null,
            &json!("ana@example.com"),
            &json!("203.0.113.60")
        ]
    );
}

/// The files of the folders that `ASFF_SAMPLES` names, separated by colons.
fn more_samples() -> Vec<PathBuf> {
    let folders = env::var_os("ASFF_SAMPLES").unwrap_or_default();
    let files = env::split_paths(&folders)
        .filter(|folder| !folder.as_os_str().is_empty())
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect()
}

/// Every address that stands alone in a string.
fn addresses(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => text
            .parse::<std::net::IpAddr>()
            .map(|address| address.to_canonical().to_string())
            .into_iter()
            .collect(),
        Value::Array(elements) => elements.iter().flat_map(addresses).collect(),
        Value::Object(members) => members.values().flat_map(addresses).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

#[test]
fn findings_from_elsewhere_keep_the_rules() {
    for path in more_samples() {
        let text = fs::read_to_string(&path).unwrap();
        let text = text.trim();
        let list = if text.starts_with('[') {
            text.to_owned()
        } else {
            format!("[{text}]")
        };
        let page = format!("{{\"Findings\":{list}}}");
        let events = split(&page, |finding| event(&finding)).unwrap().findings;
        assert!(!events.is_empty(), "{}", path.display());
        for event in events {
            let finding = &event["raw_event"];
            let name = format!("{} {}", path.display(), finding["Id"]);
            let resources = finding["Resources"].as_array().cloned().unwrap_or_default();
            let own: Vec<String> = resources
                .iter()
                .flat_map(|resource| addresses(&resource["Details"]))
                .collect();
            let listed = event["indicators"].as_array().unwrap();
            for indicator in listed {
                let value = indicator["value"].as_str().unwrap().to_owned();
                assert!(indicator["role"] == "local" || !own.contains(&value), "{name}: {value}");
            }
            let is_address = |indicator: &&Value| indicator["type"] == "ipv4" || indicator["type"] == "ipv6";
            let first_remote = listed
                .iter()
                .filter(is_address)
                .find(|indicator| indicator["role"] == "remote");
            assert_eq!(
                event["src_ip"],
                first_remote.map_or(Value::Null, |i| i["value"].clone()),
                "{name}"
            );
            let has_instance = resources.iter().any(|resource| resource["Type"] == "AwsEc2Instance");
            assert!(!has_instance || event["hostname"].is_string(), "{name}");
            for what in ["Network", "ThreatIntelIndicators", "Detection"] {
                assert!(finding[what].is_null() || !listed.is_empty(), "{name}: {what}");
            }
        }
    }
}
