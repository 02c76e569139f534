//! The JSON Schemas of what users send and receive, made from the types that read and write it.
//!
//! The crate is apart, and the types have their schemas behind a feature that only this crate asks for, so that nothing
//! of it is compiled into a function.

use std::path::{Path, PathBuf};

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

/// What writes the files anew.
pub const COMMAND: &str = "make schemas";

/// Where the files stand in the checkout.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/schemas")
}

/// A file of `events/schemas`.
#[derive(Debug)]
pub struct File {
    /// The file's name
    pub name: String,
    /// What it holds
    pub text: String,
}

/// Every file.
#[must_use]
pub fn files() -> Vec<File> {
    vec![
        file::<asff::Event<'_>>("event", "Event"),
        file::<actions::wire::Request>("request", "Request"),
        file::<actions::Outcome>("result", "Result"),
        file::<poller::input::wire::PollInput>("poll-input", "Input of the poller"),
        file::<poller::report::PollReport>("poll-report", "Report of a poll"),
        file::<poller::report::ConnectionReport>("connection-report", "Report of a connection test"),
        file::<containment::block::report::AuditInput>("audit-input", "Input that asks for an audit"),
        file::<containment::block::report::AuditReport>("audit-report", "Report of an audit"),
        file::<containment::block::report::BlockListing>("block-listing", "Answer to list_blocks"),
    ]
}

fn file<T: JsonSchema>(name: &str, title: &str) -> File {
    // As things are written: a member that is always there is required, though it may be null. The types of what is
    // read are made for this alone, and say the same of what may be left out.
    let settings = SchemaSettings::draft2020_12()
        .for_serialize()
        .with_transform(RecursiveTransform(for_users));
    let schema = SchemaGenerator::new(settings).into_root_schema_for::<T>();
    // A name and no address: the files are found beside the events, not on a server.
    let id = json!(format!("urn:aisoc:aws-security-hub:{name}"));
    let mut members = Map::from_iter([
        (
            "$schema".to_owned(),
            json!(schemars::consts::meta_schemas::DRAFT2020_12),
        ),
        ("$id".to_owned(), id),
        ("title".to_owned(), json!(title)),
    ]);
    // What is there already stays where it is; what describes the whole comes first.
    for first in ["description", "type", "required"] {
        members.extend(schema.get(first).map(|value| (first.to_owned(), value.clone())));
    }
    for (member, value) in schema.as_object().into_iter().flatten() {
        members.entry(member.clone()).or_insert_with(|| value.clone());
    }
    File {
        name: format!("{name}.json"),
        text: format!("{:#}\n", Value::Object(members)),
    }
}

/// Comments become running text. JSON Schema has no format for the width of a number, whose limits stand beside it, and none for an address of either
/// family.
fn for_users(schema: &mut Schema) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        // As it stands in the code it is broken into lines.
        let paragraphs: Vec<String> = text.split("\n\n").map(|lines| lines.replace('\n', " ")).collect();
        *text = paragraphs.join("\n\n");
    }
    let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
    if format.starts_with("uint") {
        schema.remove("format");
    } else if format == "ip" {
        schema.remove("format");
        schema.insert("anyOf".to_owned(), json!([{"format": "ipv4"}, {"format": "ipv6"}]));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    #[test]
    fn the_files_are_current() {
        let folder = folder();
        let mut names = BTreeSet::new();
        for file in files() {
            let found = fs::read_to_string(folder.join(&file.name)).unwrap_or_default();
            assert!(found == file.text, "{} is not current: {COMMAND}", file.name);
            names.insert(file.name);
        }
        let found: BTreeSet<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(found, names);
    }

    #[test]
    fn what_is_described_is_described_for_users() {
        fn check(value: &Value) {
            match value {
                Value::Object(members) => {
                    if let Some(properties) = members.get("properties").and_then(Value::as_object)
                        && members.contains_key("type")
                    {
                        for (name, property) in properties {
                            assert!(property["description"].is_string(), "{name} has no description");
                        }
                    }
                    if let Some(text) = members.get("description").and_then(Value::as_str) {
                        assert!(
                            !text.contains("[`") && !text.contains("::"),
                            "a link into the code: {text}"
                        );
                    }
                    members.values().for_each(check);
                }
                Value::Array(elements) => elements.iter().for_each(check),
                _ => {}
            }
        }
        for file in files() {
            check(&serde_json::from_str(&file.text).unwrap());
        }
    }
}
