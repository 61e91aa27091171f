//! From JSON text to a value, losing nothing that JavaScript would have kept.

use std::borrow::Cow;

use memchr::memmem;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::parse;

/// A value as parsed.
pub(crate) struct Parsed<'t> {
    pub(crate) value: Value,
    /// The text that was parsed: as given, but for halves of surrogate pairs, each replaced by `\ufffd`.
    pub(crate) text: Cow<'t, str>,
    /// Offsets of halves of surrogate pairs.
    pub(crate) lone_surrogates: Vec<usize>,
    /// A key that stood twice in one object; the last one counts, as in JavaScript.
    pub(crate) repeated_key: Option<String>,
}

/// Why a text cannot be parsed.
pub(crate) enum ParseError {
    /// It is no JSON.
    Malformed(serde_json::Error),
    /// It is JSON, but holds a number out of range, is nested deeper than 127 levels, or has too many parts.
    Unholdable(String),
}

/// How many values and names a record may hold: each takes many times the memory that its text takes.
const MOST_PARTS: u64 = 4_000_000;

/// Parses a text of which is known how many parts it has at the most.
pub(crate) fn parse_text(text: &str, parts: u64) -> Result<Parsed<'_>, ParseError> {
    let (text, lone_surrogates) = replace_lone_surrogates(text);
    let is_json = || serde_json::from_str::<IgnoredAny>(&text);
    if parts > MOST_PARTS {
        let reason = format!("it holds more than {MOST_PARTS} values and names");
        return Err(is_json().map_or_else(ParseError::Malformed, |_| ParseError::Unholdable(reason)));
    }
    match parse::parse(&text) {
        Ok((value, repeated_key)) => Ok(Parsed { value, text, lone_surrogates, repeated_key }),
        Err(error) if is_json().is_ok() => Err(ParseError::Unholdable(without_position(&error))),
        Err(error) => Err(ParseError::Malformed(error)),
    }
}

/// What serde_json says, without the position, which counts from the beginning of the record.
pub(crate) fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(message, _)| message.to_owned())
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
