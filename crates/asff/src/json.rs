//! Reading JSON leniently, one level at a time, over the original text.
//!
//! A typed parse of a whole finding fails as one piece. Here each member keeps its own text until it is asked for, so
//! a wrong type costs that member alone, whatever its depth.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON value, still as text.
#[derive(Clone, Copy)]
pub(crate) struct Value<'a>(&'a RawValue);

impl<'a> Value<'a> {
    #[cfg(test)]
    pub(crate) fn new(raw: &'a RawValue) -> Self {
        Self(raw)
    }

    /// The text as it stands in the finding.
    pub(crate) fn text(self) -> &'a str {
        self.0.get()
    }

    pub(crate) fn is_null(self) -> bool {
        self.text() == "null"
    }

    /// The string, unescaped. `None` for any other type, and for a string that Rust cannot hold (an unpaired
    /// surrogate escape).
    pub(crate) fn as_str(self) -> Option<Cow<'a, str>> {
        serde_json::from_str::<Text<'a>>(self.text()).ok().map(|text| text.0)
    }

    /// The number, where it is a whole one (`40` and `40.0`).
    pub(crate) fn as_integer(self) -> Option<i64> {
        serde_json::from_str::<i64>(self.text()).ok().or_else(|| {
            let number = serde_json::from_str::<f64>(self.text()).ok()?;
            // Severity scores are the only numbers read; beyond this bound a float would not be exact.
            #[expect(clippy::cast_possible_truncation, reason = "the bound is checked")]
            (number.fract() == 0.0 && number.abs() < 1e15).then_some(number as i64)
        })
    }

    /// The members; none for any other type.
    pub(crate) fn as_object(self) -> Object<'a> {
        serde_json::from_str(self.text()).unwrap_or_default()
    }

    /// The strings within, at any depth, unescaped; not the names of members. One that Rust cannot hold is passed over.
    pub(crate) fn strings(self) -> impl Iterator<Item = Cow<'a, str>> {
        // The text is JSON: a quotation mark outside a string opens one.
        let mut rest = self.text();
        std::iter::from_fn(move || {
            loop {
                let text = &rest[rest.find('"')?..];
                let end = closing_quotation_mark(text)? + 1;
                rest = &text[end..];
                let is_name = rest.trim_start_matches([' ', '\n', '\r', '\t']).starts_with(':');
                if is_name {
                    continue;
                }
                if let Ok(string) = serde_json::from_str::<Text<'a>>(&text[..end]) {
                    return Some(string.0);
                }
            }
        })
    }

    /// The elements; `None` for any other type.
    pub(crate) fn as_array(self) -> Option<Vec<Value<'a>>> {
        let elements: Vec<&'a RawValue> = serde_json::from_str(self.text()).ok()?;
        Some(elements.into_iter().map(Value).collect())
    }
}

/// Where the string ends that the text starts with.
fn closing_quotation_mark(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })?;
    Some(end + 1)
}

/// The members of a JSON object, in their order. Of members with one name the last counts, as in most parsers.
#[derive(Default)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

impl<'a> Object<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<Value<'a>> {
        self.0
            .iter()
            .rev()
            .find(|(member, _)| member == name)
            .map(|(_, value)| *value)
            .filter(|value| !value.is_null())
    }

    pub(crate) fn str(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name)?.as_str()
    }

    pub(crate) fn object(&self, name: &str) -> Object<'a> {
        self.get(name).map(Value::as_object).unwrap_or_default()
    }

    pub(crate) fn array(&self, name: &str) -> Option<Vec<Value<'a>>> {
        self.get(name)?.as_array()
    }

    /// The elements of an array as objects; what is no object has no members. Where all are objects, as nearly always,
    /// their text is gone over once.
    pub(crate) fn objects(&self, name: &str) -> Option<Vec<Object<'a>>> {
        let value = self.get(name)?;
        serde_json::from_str(value.text())
            .ok()
            .or_else(|| Some(value.as_array()?.into_iter().map(Value::as_object).collect()))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Value<'a>)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), *value))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    members.push((name.0, Value(value)));
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// A string that borrows where it holds no escapes.
#[derive(Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Text<'a> {
    pub(crate) fn into_inner(self) -> Cow<'a, str> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Value;

    fn value(text: &str) -> Value<'_> {
        Value(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_wrong_type_is_none_and_costs_only_its_member() {
        let object = value(r#"{"a":1,"b":"x","c":null,"d":["y",2],"e":{"f":"z"},"g":"\ud800"}"#).as_object();
        assert_eq!(object.str("a"), None);
        assert_eq!(object.str("b").as_deref(), Some("x"));
        assert!(object.get("c").is_none());
        assert!(object.array("b").is_none());
        assert_eq!(object.array("d").unwrap().len(), 2);
        assert_eq!(object.object("e").str("f").as_deref(), Some("z"));
        assert_eq!(object.object("a").iter().count(), 0);
        assert_eq!(object.str("g"), None);
    }

    #[test]
    fn of_two_members_with_one_name_the_last_counts() {
        assert_eq!(
            value(r#"{"a":"first","a":"last"}"#).as_object().str("a").as_deref(),
            Some("last")
        );
    }

    #[test]
    fn strings_at_any_depth_without_names() {
        let text = r#"{"a":"x","b":[{"c" : "y\"z"},7,["\u0041","\\",""]],"d":"\ud800","e" :"last"}"#;
        let strings: Vec<_> = value(text).strings().collect();
        assert_eq!(strings, ["x", "y\"z", "A", "\\", "", "last"]);
        assert_eq!(value("\"alone\"").strings().collect::<Vec<_>>(), ["alone"]);
        assert_eq!(value("[1,{},null]").strings().count(), 0);
    }

    proptest! {
        #[test]
        fn strings_are_read_as_a_parser_reads_them(texts in prop::collection::vec(any::<String>(), 0..8)) {
            let array = serde_json::to_string(&texts).unwrap();
            prop_assert_eq!(value(&array).strings().collect::<Vec<_>>(), texts);
        }
    }

    #[test]
    fn whole_numbers_only() {
        assert_eq!(value("40").as_integer(), Some(40));
        assert_eq!(value("40.0").as_integer(), Some(40));
        assert_eq!(value("4e1").as_integer(), Some(40));
        assert_eq!(value("40.5").as_integer(), None);
        assert_eq!(value("1e400").as_integer(), None);
        assert_eq!(value("\"40\"").as_integer(), None);
    }
}
