//! What a recovery did, and how it is told.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;

use super::shape::{Key, Shape};
use crate::model::Counts;

/// What a recovery did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryReport {
    /// Where the state comes from: the damaged database, a backup or the export, or two of them.
    pub source: String,
    /// What the new database holds.
    pub restored: Counts,
    /// What the damaged database no longer had, and the backup or export did: as it was then. Also which of them were used, where
    /// that is in doubt.
    pub from_backup: Vec<RecoveryFinding>,
    /// What was there and is not any more, and what may be missing.
    pub lost: Vec<RecoveryFinding>,
    /// The folder with the damaged files, and with this report as `recovery.json`, where no list is cut short.
    #[serde(serialize_with = "crate::json::path")]
    pub set_aside_as: PathBuf,
}

/// Something that a recovery found, mostly of many rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryFinding {
    /// The table, `database`, `backup`, or `log` for the write-ahead log.
    pub kind: String,
    /// What it is, with the first of the ids.
    pub message: String,
    /// The entities that it is about: of rows in lists, the task, conversation or project that they belong to. At most 1000.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
}

/// How many ids a finding has in the report that is returned.
const MOST_IDS: usize = 1000;

/// How many of them its message names.
const MOST_NAMED: usize = 10;

impl RecoveryReport {
    /// Cuts long lists short.
    pub(super) fn shorten(&mut self) {
        for finding in self.from_backup.iter_mut().chain(&mut self.lost) {
            finding.ids.truncate(MOST_IDS);
        }
    }
}

/// A finding about no entity in particular.
pub(super) fn finding(kind: &str, message: impl Into<String>) -> RecoveryFinding {
    RecoveryFinding { kind: kind.to_owned(), message: message.into(), ids: Vec::new() }
}

/// A finding about entities, which are named after its message.
pub(super) fn finding_of(shape: &Shape, message: String, names: &BTreeSet<Key>) -> RecoveryFinding {
    let ids: Vec<_> = names.iter().filter(|_| noun(shape).is_some()).map(Key::to_string).collect();
    RecoveryFinding { kind: shape.name.clone(), message: with_names(message, &ids), ids }
}

pub(super) fn with_names(message: String, ids: &[String]) -> String {
    let named = ids.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match ids.len() {
        0 => message,
        number if number <= MOST_NAMED => format!("{message}: {named}"),
        number => format!("{message}: {named} and {} more", number - MOST_NAMED),
    }
}

/// What the first column of a row's identity names.
fn noun(shape: &Shape) -> Option<&'static str> {
    Some(match (shape.identity.first()?.as_str(), shape.name.as_str()) {
        (_, "conversations") | ("conversation_id", _) => "conversation",
        (_, "tasks") | ("task_id", _) => "task",
        (_, "agents") => "agent",
        (_, "projects") | ("project_id", _) => "project",
        _ => return None,
    })
}

/// `312 rows of 40 tasks`, `3 tasks` or `5 rows`.
pub(super) fn rows_of(shape: &Shape, rows: u64, names: &BTreeSet<Key>) -> String {
    match noun(shape) {
        Some(noun) if shape.owner.is_none() => count(names.len() as u64, noun),
        Some(noun) => format!("{} of {}", count(rows, "row"), count(names.len() as u64, noun)),
        None => count(rows, "row"),
    }
}

/// `the lists of 3 tasks`, or of the table itself.
pub(super) fn lists_of(shape: &Shape, names: &BTreeSet<Key>) -> String {
    match noun(shape) {
        Some(noun) => count(names.len() as u64, noun),
        None => "the list".to_owned(),
    }
}

pub(super) fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}
