//! Output for people and for programs.

use std::io::{self, IsTerminal, Write};

use agentmux_state::{Timestamp, to_json};
use chrono::{DateTime, TimeDelta, Utc};
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use rustix::fs::OFlags;
use serde::Serialize;
use serde_json::Value;

/// Standard output, to be written to.
///
/// # Errors
/// Where it is closed, or open for reading only: Rust's own `stdout` takes such writes for done.
pub(super) fn stdout() -> io::Result<io::Stdout> {
    let out = io::stdout();
    let is_closed = std::env::var_os("AGENTMUX_STATE_STDOUT_IS_CLOSED").is_some();
    if is_closed {
        return Err(io::Error::other("standard output is closed"));
    }
    match rustix::fs::fcntl_getfl(&out)? & OFlags::RWMODE {
        OFlags::RDONLY => Err(io::Error::other("standard output is open for reading only")),
        _ => Ok(out),
    }
}

/// Prints one JSON document.
pub(super) fn json(value: &impl Serialize) -> io::Result<()> {
    let mut text = to_json(value)?;
    text.push('\n');
    let mut out = stdout()?;
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints text for people; colours only reach a terminal.
pub(super) fn text(text: &str) -> io::Result<()> {
    let mut out = anstream::AutoStream::auto(stdout()?);
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A table with aligned columns and no lines; on a terminal it fits the width.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_header(header.iter().map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    table
}

/// A table's text with a newline at the end and no blanks at the ends of lines.
pub(super) fn table_text(table: &mut Table) -> String {
    if let Some(last) = table.column_iter_mut().last() {
        last.set_padding((1, 0));
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Characters of a text that a cell shows. To measure the width of a text of some megabytes takes a minute.
const LONGEST_CELL: usize = 200;

/// A cell with any text, made harmless and cut off where it is too long for a table.
pub(super) fn cell(text: &str) -> Cell {
    let Some((cut, _)) = text.char_indices().nth(LONGEST_CELL) else { return Cell::new(clean(text)) };
    Cell::new(format!("{}…", clean(&text[..cut])))
}

/// A cell with a status, in its colour on a terminal.
pub(super) fn status_cell(status: &str) -> Cell {
    let cell = cell(status);
    match status {
        "in_progress" | "active" | "busy" => cell.fg(Color::Green),
        "blocked" | "error" => cell.fg(Color::Red),
        "paused" => cell.fg(Color::Yellow),
        "completed" | "inactive" => cell.fg(Color::DarkGrey),
        _ => cell,
    }
}

/// A percentage; on a terminal with a bar before it.
pub(super) fn progress(percent: f64) -> String {
    const WIDTH: usize = 10;
    let number = format!("{:>3.0}%", percent.floor());
    if !io::stdout().is_terminal() {
        return number;
    }
    let filled = (percent.clamp(0.0, 100.0) / 100.0 * WIDTH as f64) as usize;
    format!("{}{} {number}", "█".repeat(filled), "░".repeat(WIDTH - filled))
}

/// A text on one line, with nothing that a terminal would obey.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_direction(c) { ' ' } else { c }).collect()
}

/// A text on its lines, with nothing else that a terminal would obey.
pub(super) fn clean_lines(text: &str) -> String {
    text.split('\n').map(clean).collect::<Vec<_>>().join("\n")
}

/// Whether a character changes the direction in which a terminal shows the text.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// How long ago, as `5 min ago`; the text itself where it is no time.
pub(super) fn ago(at: &Timestamp, now: DateTime<Utc>) -> String {
    match at.parse() {
        Some(at) if at > now => "in the future".to_owned(),
        Some(at) => format!("{} ago", duration(now - at)),
        None => clean(at.as_str()),
    }
}

/// A duration in its largest unit.
pub(super) fn duration(duration: TimeDelta) -> String {
    match duration.num_seconds() {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// A size in its unit, as `3.4 MB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} bytes");
    }
    let mut size = bytes as f64 / 1000.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while size >= 1000.0 && units.len() > 0 {
        size /= 1000.0;
        unit = units.next();
    }
    format!("{size:.1} {}", unit.unwrap_or(&"TB"))
}

/// `1 task`, `2 tasks`.
pub(super) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A value as an indented outline: `key: value`, lists with dashes.
pub(super) fn outline(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(_) | Value::Array(_) => outline_into(value, 0, &mut out),
        scalar => out = format!("{}\n", scalar_text(scalar, 0)),
    }
    out
}

fn outline_into(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let mut entry = |label: &str, value: &Value| match value {
        Value::Object(members) if !members.is_empty() => {
            out.push_str(&format!("{indent}{label}\n"));
            outline_into(value, depth + 1, out);
        }
        Value::Array(elements) if !elements.is_empty() => {
            out.push_str(&format!("{indent}{label}\n"));
            outline_into(value, depth + 1, out);
        }
        scalar => out.push_str(&format!("{indent}{label} {}\n", scalar_text(scalar, depth + 1))),
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(key, value)| entry(&format!("{}:", clean(key)), value)),
        Value::Array(elements) => elements.iter().for_each(|value| entry("-", value)),
        _ => {}
    }
}

fn scalar_text(value: &Value, depth: usize) -> String {
    match value {
        Value::String(text) => clean_lines(text).replace('\n', &format!("\n{}", "  ".repeat(depth))),
        Value::Array(_) => "none".to_owned(),
        Value::Object(_) => "{}".to_owned(),
        other => to_json(other).unwrap_or_default(),
    }
}

/// Where something of a person's is that had to leave the database.
pub(super) fn own_objects(file: &std::path::Path) -> String {
    format!("What you had added to the database and could not stay in it is in\n  {}\n", file.display())
}
