//! Reading a JSON object strictly: every member is known, once, and of its type, or its name is noted.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// The members of an object, and what is wrong with them.
pub(crate) struct Members {
    /// Stands before names in problems: `params.`, or nothing
    prefix: &'static str,
    pairs: Vec<(String, Box<RawValue>)>,
    taken: Vec<&'static str>,
    problems: Vec<String>,
    /// Those of objects within, which are told last
    problems_within: Vec<String>,
}

impl Members {
    /// Reads an object; the error says what was found instead.
    pub(crate) fn read(text: &str, prefix: &'static str) -> Result<Self, String> {
        let pairs = serde_json::from_str::<Pairs>(text)
            .map_err(|error| match serde_json::from_str::<Value>(text) {
                Ok(value) => type_name(&value).to_owned(),
                Err(_) => format!("no JSON ({error})"),
            })?
            .0;
        let mut names = HashSet::new();
        let problems = pairs
            .iter()
            .filter(|(name, _)| !names.insert(name.as_str()))
            .map(|(name, _)| format!("{prefix}{} stands there twice", shortened(name)))
            .collect();
        Ok(Self {
            prefix,
            pairs,
            taken: Vec::new(),
            problems,
            problems_within: Vec::new(),
        })
    }

    /// The member's text. Whatever is never asked for is unknown.
    pub(crate) fn raw(&mut self, name: &'static str) -> Option<&str> {
        if !self.taken.contains(&name) {
            self.taken.push(name);
        }
        self.pairs
            .iter()
            .find(|(member, _)| member == name)
            .map(|(_, value)| value.get())
    }

    /// The member, read by `read`, which gives `None` for what it does not take; `expected` then says what it should
    /// have been.
    pub(crate) fn optional<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        self.checked(name, |value| read(value).ok_or_else(|| expected.to_owned()))
    }

    /// The member, read by `read`, whose error says what it should have been.
    pub(crate) fn checked<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.raw(name)?.to_owned();
        let outcome = serde_json::from_str(&text)
            .map_err(|_| "JSON that can be read".to_owned())
            .and_then(|value| read(&value));
        match outcome {
            Ok(value) => Some(value),
            Err(expected) => {
                self.problems.push(format!(
                    "{}{name} must be {expected}, not {}",
                    self.prefix,
                    shortened(&text)
                ));
                None
            }
        }
    }

    /// The member under either of two names, read by `read`. Where both stand they must say the same.
    pub(crate) fn either<T: PartialEq>(
        &mut self,
        name: &'static str,
        other: &'static str,
        read: impl Fn(&mut Self, &'static str) -> Option<T>,
    ) -> Option<T> {
        let (value, by_other) = (read(self, name), read(self, other));
        if let (Some(value), Some(by_other)) = (&value, &by_other)
            && value != by_other
        {
            let problem = format!("and {}{other} must agree where both stand", self.prefix);
            self.problem(name, &problem);
        }
        value.or(by_other)
    }

    /// Notes what is wrong with a member. Its value is not repeated.
    pub(crate) fn problem(&mut self, name: &str, problem: &str) {
        self.problems.push(format!("{}{name} {problem}", self.prefix));
    }

    /// Notes what is wrong with the members of a member, which is then done with.
    pub(crate) fn add_problems_of(&mut self, inner: Self) {
        self.problems_within.extend(inner.finish());
    }

    /// Notes that a member is missing.
    pub(crate) fn missing(&mut self, name: &str, expected: &str) {
        let problem = format!("{}{name} is missing: {expected}", self.prefix);
        self.problems.push(problem);
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(member, _)| member == name)
    }

    /// Every problem, the members that nobody asked for included.
    pub(crate) fn finish(mut self) -> Vec<String> {
        for (name, _) in &self.pairs {
            if !self.taken.contains(&name.as_str()) {
                self.problems.push(format!(
                    "{}{} is not known; known are {}",
                    self.prefix,
                    shortened(name),
                    self.taken.join(", ")
                ));
            }
        }
        self.problems.append(&mut self.problems_within);
        self.problems
    }
}

pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 80;
    if text.chars().count() > MOST {
        text.chars().take(MOST).chain(['…']).collect()
    } else {
        text.to_owned()
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object that cannot be read",
    }
}

struct Pairs(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Pairs(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_more_than_80_characters_are_shortened() {
        for (characters, kept) in [(0, 0), (80, 80), (81, 80), (100_000, 80)] {
            let text = "é".repeat(characters);
            let end = if characters > kept { "…" } else { "" };
            assert_eq!(shortened(&text), format!("{}{end}", "é".repeat(kept)));
        }
    }
}
