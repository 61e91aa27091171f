//! JSON text as JavaScript's `JSON.stringify` writes it, and values as `JSON.parse` reads them.
//!
//! serde_json does the work; only numbers and indentation are JavaScript's: `50` for 50.0, `1e-7`, `1e+21`. The one
//! departure is `-0`, which JavaScript prints as `0` and which would not read back the same.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};
use serde_json::{Map, Value};

/// As [`to_json`], in one line, as `JSON.stringify` writes it where nothing is said of indentation.
pub fn to_string(value: &impl Serialize) -> serde_json::Result<String> {
    let mut text = Vec::with_capacity(128);
    value.serialize(&mut Serializer::with_formatter(&mut text, JavaScript(CompactFormatter)))?;
    String::from_utf8(text).map_err(serde::ser::Error::custom)
}

/// The JSON text of an entity or another serializable value as a document has it: numbers as JavaScript prints them, two
/// spaces of indentation, no newline at the end.
///
/// ```
/// let text = agentmux_state::to_json(&agentmux_state::TaskProgress { percent_complete: 50.0, ..Default::default() })?;
/// assert_eq!(text, "{\n  \"percentComplete\": 50,\n  \"completedSteps\": []\n}");
/// # Ok::<(), serde_json::Error>(())
/// ```
pub fn to_json(value: &impl Serialize) -> serde_json::Result<String> {
    let mut text = Vec::with_capacity(1024);
    write_pretty(&mut text, value)?;
    String::from_utf8(text).map_err(serde::ser::Error::custom)
}

/// Serializes a path as text: what in it is no UTF-8, which JSON cannot hold, becomes U+FFFD.
pub(crate) fn path<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// As [`path`], where there may be none.
pub(crate) fn optional_path<S: serde::Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
}

/// Writes the text with two spaces of indentation and no newline at the end.
pub(crate) fn write_pretty(out: impl io::Write, value: &impl Serialize) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, JavaScript(PrettyFormatter::new())))
}

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

struct JavaScript<F>(F);

impl<F: Formatter> Formatter for JavaScript<F> {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        if value == 0.0 && value.is_sign_negative() {
            return writer.write_all(b"-0");
        }
        writer.write_all(ryu_js::Buffer::new().format_finite(value).as_bytes())
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}
