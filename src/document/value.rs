//! From JSON text to a value, losing nothing that JavaScript would have kept.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use memchr::memmem;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// A value as parsed.
pub(super) struct Parsed<'t> {
    pub(super) value: Value,
    /// The text that was parsed: as given, but for halves of surrogate pairs, each replaced by `\ufffd`.
    pub(super) text: Cow<'t, str>,
    /// Offsets of halves of surrogate pairs.
    pub(super) lone_surrogates: Vec<usize>,
    /// Keys that stood twice in one object; the last one counts, as in JavaScript.
    pub(super) repeated_keys: Vec<String>,
}

/// Why a text cannot be parsed.
pub(super) enum ParseError {
    /// It is no JSON.
    Malformed(serde_json::Error),
    /// It is JSON, but holds a number out of range or is nested deeper than 127 levels.
    Unholdable(serde_json::Error),
}

pub(super) fn parse(text: &str) -> Result<Parsed<'_>, ParseError> {
    let (text, lone_surrogates) = replace_lone_surrogates(text);
    let repeated_keys = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let result = Seed(&repeated_keys).deserialize(&mut deserializer);
    match result.and_then(|value| deserializer.end().map(|()| value)) {
        Ok(value) => Ok(Parsed { value, text, lone_surrogates, repeated_keys: repeated_keys.into_inner() }),
        Err(error) if serde_json::from_str::<IgnoredAny>(&text).is_ok() => Err(ParseError::Unholdable(error)),
        Err(error) => Err(ParseError::Malformed(error)),
    }
}

/// The text with each escaped half of a surrogate pair, which no UTF-8 text can hold, replaced by `\ufffd`, which is as
/// long; and where.
fn replace_lone_surrogates(text: &str) -> (Cow<'_, str>, Vec<usize>) {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    // Only strings hold backslashes, and an escape is at least two bytes long.
    let mut at = memmem::find(bytes, b"\\").unwrap_or(bytes.len());
    while at < bytes.len() {
        let mut length = 2;
        if let Some(unit) = code_unit(bytes, at) {
            length = 6;
            match unit {
                0xd800..=0xdbff if matches!(code_unit(bytes, at + 6), Some(0xdc00..=0xdfff)) => length = 12,
                0xd800..=0xdfff => found.push(at),
                _ => {}
            }
        }
        at += length;
        at += bytes.get(at..).and_then(|rest| memmem::find(rest, b"\\")).unwrap_or(bytes.len());
    }
    if found.is_empty() {
        return (Cow::Borrowed(text), found);
    }
    let mut replaced = String::with_capacity(text.len());
    let mut from = 0;
    for &at in &found {
        replaced.push_str(&text[from..at]);
        replaced.push_str("\\ufffd");
        from = at + 6;
    }
    replaced.push_str(&text[from..]);
    (Cow::Owned(replaced), found)
}

/// The code unit of a `\uXXXX` at an offset.
fn code_unit(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)?))
}

/// Builds a value as serde_json does, and notes repeated keys.
struct Seed<'k>(&'k RefCell<Vec<String>>);

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
                self.0.borrow_mut().push(key.clone());
            }
            object.insert(key, members.next_value_seed(Seed(self.0))?);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_halves_of_pairs_are_replaced() {
        let cases = [
            (r#""\ud83d\ude80""#, r#""\ud83d\ude80""#),
            (r#""ab\ud83d""#, r#""ab\ufffd""#),
            (r#""\ude80\ud83d""#, r#""\ufffd\ufffd""#),
            (r#""\ud83d\ud83d\ude80""#, r#""\ufffd\ud83d\ude80""#),
            (r#""\\ud83d""#, r#""\\ud83d""#),
            (r#""\\\uDBFFx""#, r#""\\\ufffdx""#),
            (r#""\ud83"#, r#""\ud83"#),
            ("\"\\", "\"\\"),
        ];
        for (text, expected) in cases {
            assert_eq!(replace_lone_surrogates(text).0, expected, "{text}");
        }
    }
}
