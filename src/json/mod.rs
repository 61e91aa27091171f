//! JSON text as JavaScript writes and reads it, and where a value stands in a text. Knows nothing of the state.

mod parse;
mod path;
mod text;
mod write;

pub(crate) use parse::{MAX_DEPTH, deserialize, is_within, parse};
pub(crate) use path::{Path, Step, shortened};
pub(crate) use text::{ParseError, parse_text, without_position};
pub(crate) use write::{optional_path, path, write_pretty};
pub use write::{to_json, to_string};
