//! Parsing JSON text as JavaScript's `JSON.parse` does.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// How deep a JSON object of any content may be nested: below the 127 levels that serde_json reads, with room for the
/// levels of the document around it.
pub(crate) const MAX_DEPTH: usize = 96;

/// Whether a value is nested no deeper than that many levels.
pub(crate) fn is_within(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(elements) => depth > 0 && elements.iter().all(|element| is_within(element, depth - 1)),
        Value::Object(members) => depth > 0 && members.values().all(|member| is_within(member, depth - 1)),
        _ => true,
    }
}

/// Parses a text, and also returns the first key that stands twice in one object; the last one counts, as in JavaScript.
///
/// Not `from_str::<Value>`: that gives a key of serde_json's own a meaning that it has nowhere else.
pub(crate) fn parse(text: &str) -> serde_json::Result<(Value, Option<String>)> {
    let repeated_key = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Seed(&repeated_key).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, repeated_key.into_inner()))
}

/// Reads a value of any content from a deserializer, as [`parse`] does from a text.
pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Seed(&RefCell::new(None)).deserialize(deserializer)
}

/// Builds a value as serde_json does, and notes repeated keys.
struct Seed<'k>(&'k RefCell<Option<String>>);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element_seed(Seed(self.0))? {
            list.push(element);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if object.contains_key(&key) {
                self.0.borrow_mut().get_or_insert_with(|| key.clone());
            }
            object.insert(key, members.next_value_seed(Seed(self.0))?);
        }
        Ok(Value::Object(object))
    }
}
