//! Reading one entity from its JSON text, as documents are read.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::json::{ParseError, parse_text};
use crate::model::{
    AgentState, Context, ConversationState, PersistedMessage, ProjectState, ReadJson, SelfImprovementState, TaskState,
    complete,
};

macro_rules! from_json {
    ($($entity:ty, $what:literal, $key:expr;)+) => {$(
        impl $entity {
            #[doc = concat!("Reads the ", $what, " in a JSON text of the document's layout, as an import does: missing and null")]
            /// lists are empty, null counts as absent, unknown keys and values are kept, and an unpaired surrogate becomes
            /// U+FFFD. Unlike an import, it reads a number or a boolean as the string that is expected, a numeric string as a
            /// number, and a missing time as the empty string, and leaves null out of arrays. What else an import would
            /// quarantine is an error.
            ///
            /// # Errors
            /// [`Error::InvalidValue`], which names the member.
            pub fn from_json(text: &str) -> Result<Self> {
                from_text($what, $key, text)
            }
        }
    )+};
}

from_json! {
    ConversationState, "conversation", "id";
    PersistedMessage, "message", "";
    TaskState, "task", "id";
    AgentState, "agent", "sessionName";
    ProjectState, "project", "id";
    SelfImprovementState, "self-improvement", "";
}

fn from_text<T: ReadJson>(what: &str, key: &str, text: &str) -> Result<T> {
    let invalid = |record: &str, detail: String| Error::InvalidValue { record: record.to_owned(), detail };
    // The caller holds all of it already, so its number of parts is not limited.
    let value = match parse_text(text, 0) {
        Ok(parsed) => parsed.value,
        Err(ParseError::Malformed(error)) => return Err(invalid(what, error.to_string())),
        Err(ParseError::Unholdable(reason)) => return Err(invalid(what, reason)),
    };
    let record = match value.get(key) {
        Some(Value::String(id)) => format!("{what} {id}"),
        Some(Value::Number(id)) => format!("{what} {id}"),
        _ => what.to_owned(),
    };
    complete(value, Context::converting()).map_err(|detail| invalid(&record, detail))
}
