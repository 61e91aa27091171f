//! Reading one entity from its JSON text, as documents are read.

use serde_json::Value;

use super::decode;
use super::object::{Context, Notice, Readable};
use super::path::Path;
use super::value::{ParseError, parse};
use crate::error::{Error, Result};
use crate::model::{AgentState, ConversationState, PersistedMessage, ProjectState, SelfImprovementState, TaskState};

macro_rules! from_json {
    ($($entity:ty, $what:literal, $key:expr, $decode:path;)+) => {$(
        impl $entity {
            #[doc = concat!("The ", $what, " in a JSON text of the document's layout, read as an import does: missing and null")]
            /// lists are empty, null counts as absent, unknown keys and values are kept, and half of a surrogate pair becomes
            /// U+FFFD. Unlike an import, it reads a number or a boolean as the string that is expected, a numeric string as a
            /// number, and a missing time as the empty string, and leaves null out of lists. What else an import would quarantine is an error.
            ///
            /// # Errors
            /// [`Error::InvalidValue`], which names the member.
            pub fn from_json(text: &str) -> Result<Self> {
                read($what, $key, text, $decode)
            }
        }
    )+};
}

from_json! {
    ConversationState, "conversation", "id", decode::conversation;
    PersistedMessage, "message", "", decode::message;
    TaskState, "task", "id", decode::task;
    AgentState, "agent", "sessionName", decode::agent;
    ProjectState, "project", "id", decode::project;
    SelfImprovementState, "self-improvement", "", decode::self_improvement;
}

fn read<T>(what: &str, key: &str, text: &str, decode: impl FnOnce(Value, &mut Context) -> Readable<T>) -> Result<T> {
    let invalid = |record: &str, detail: String| Error::InvalidValue { record: record.to_owned(), detail };
    // The caller holds all of it already.
    let value = match parse(text, 0) {
        Ok(parsed) => parsed.value,
        Err(ParseError::Malformed(error)) => return Err(invalid(what, error.to_string())),
        Err(ParseError::Unholdable(reason)) => return Err(invalid(what, reason)),
    };
    let record = match value.get(key) {
        Some(Value::String(id)) => format!("{what} {id}"),
        Some(Value::Number(id)) => format!("{what} {id}"),
        _ => what.to_owned(),
    };
    let mut context = Context::converting();
    let entity = decode(value, &mut context).map_err(|unreadable| invalid(&record, unreadable.reason))?;
    match context.notices.into_iter().find(|notice| notice.set_aside) {
        Some(Notice { steps, message, .. }) => Err(invalid(&record, format!("{}: {message}", Path(steps)))),
        None => Ok(entity),
    }
}
