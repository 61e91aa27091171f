//! Importing a state document: a backup comes first where anything is replaced, and old quarantined records go beyond the limit.

use std::io::BufRead;

use super::state_store::StateStore;
use crate::backup;
use crate::document::{self, ImportMode, ImportOptions, ImportReport};
use crate::error::Result;
use crate::rows::{self, quarantine};

impl StateStore {
    /// Loads a state document, in one transaction.
    ///
    /// What can be read is imported; what cannot is kept, word for word, in the table `set_aside` and named in the
    /// report. With [`ImportOptions::strict`], anything that is not as the format says makes the import fail. A state that
    /// is replaced lies in a backup first, and so does one of which a merge overwrites anything. What is set aside already, word for word and from the same place, is not kept twice;
    /// see also [`Limits::set_aside_bytes`](crate::Limits::set_aside_bytes).
    ///
    /// ```
    /// use agentmux_state::{ImportOptions, StateStore};
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let document = r#"{"version": "1.0.0", "tasks": [{"id": "T-1", "title": "no description"}, 7]}"#;
    /// let store = StateStore::open(dir.path())?;
    /// let report = store.import_json(document.as_bytes(), ImportOptions::default())?;
    /// assert_eq!(report.set_aside[1].path, "$.tasks[1]");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Document`](crate::Error::Document) where it is no document, [`Error::DocumentTooLarge`](crate::Error::DocumentTooLarge), [`Error::DocumentTooNew`](crate::Error::DocumentTooNew), [`Error::DocumentProblems`](crate::Error::DocumentProblems) with
    /// `strict`, [`Error::NotEmpty`](crate::Error::NotEmpty), [`Error::WouldShrink`](crate::Error::WouldShrink): nothing was changed.
    pub fn import_json(&self, reader: impl BufRead, options: ImportOptions) -> Result<ImportReport> {
        let now = self.now();
        let folder = backup::Folder::change(self.state_dir())?;
        self.transaction(|conn| {
            let is_empty = rows::counts(conn)?.entities() == 0;
            let set_aside_before = quarantine::newest(conn)?;
            let reader = document::Counted::new(reader, options.total_bytes, &self.options().progress);
            let (mut report, overwrites) = document::import(conn, now, reader, &options)?;
            let limit = self.options().limits.set_aside_bytes;
            let excess = quarantine::excess(conn, set_aside_before, limit)?;
            if options.mode == ImportMode::Replace && !is_empty || overwrites || excess.is_some() {
                // Nothing is committed yet: another connection still sees the state as it was.
                let progress = &self.options().progress;
                report.backup = Some(backup::create_in(&folder, self.state_dir(), "before-import", now, progress)?.id);
            }
            if let Some(newest) = excess {
                let records = quarantine::drop_up_to(conn, newest)?;
                let backup = report.backup.as_deref().unwrap_or_default();
                tracing::warn!(
                    "dropped the oldest {records} records set aside, as all of them are larger than {limit} bytes; backup {backup} holds them"
                );
            }
            Ok(report)
        })
    }

    /// Reads a state document as [`import_json`](Self::import_json) would, and changes nothing anywhere.
    ///
    /// ```
    /// use agentmux_state::{Error, ImportOptions, StateStore};
    ///
    /// let cut_off = r#"{"version": "1.0.0", "tasks": ["#;
    /// let result = StateStore::validate_json(cut_off.as_bytes(), &ImportOptions::default());
    /// assert!(matches!(result, Err(Error::Document { line: 1, .. })));
    /// ```
    ///
    /// # Errors
    /// As `import_json`, as far as they come from the document.
    pub fn validate_json(reader: impl BufRead, options: &ImportOptions) -> Result<ImportReport> {
        document::validate(reader, options)
    }
}
