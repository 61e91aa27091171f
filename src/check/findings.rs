//! What a check found, while it is collected.

use serde::Serialize;

/// Something that a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckFinding {
    /// What kind of thing it is: `integrity`, `foreign_key`, `unreadable`, `schema`, `invariant`, `contradiction`,
    /// `dangling_reference`, `set_aside`, `damaged`, `export`, `backup`, `wal`, `space`, `file_system`, `owner` or `permissions`.
    pub kind: &'static str,
    /// What it is, and on which file or record.
    pub message: String,
}

#[derive(Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<CheckFinding>,
    pub(super) notes: Vec<CheckFinding>,
}

impl Findings {
    pub(super) fn problem(&mut self, kind: &'static str, message: String) {
        self.problems.push(CheckFinding { kind, message });
    }

    pub(super) fn note(&mut self, kind: &'static str, message: String) {
        self.notes.push(CheckFinding { kind, message });
    }
}
