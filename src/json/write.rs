//! Writing JSON text as JavaScript's `JSON.stringify` does.
//!
//! serde_json does the work; only numbers and indentation are JavaScript's: `50` for 50.0, `1e-7`, `1e+21`. The one
//! departure is `-0`, which JavaScript prints as `0` and which would not read back the same.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

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
