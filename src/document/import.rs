//! Loading a document into the store: all of it in one transaction, or nothing.

use std::io::{self, BufRead, Read};

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde::Serialize;

use super::reader::{self, Document, Finding, Record, Sink};
use crate::backup;
use crate::db;
use crate::error::{DocumentProblem, Error, Result};
use crate::model::{Extra, Timestamp};
use crate::progress::Stage;
use crate::store::{
    self, SetAsideRecord, StateStore, agent, checkpoint, conversation, head, limits, project, self_improvement,
    set_aside, task,
};

/// What to do with the state that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImportMode {
    /// There must be none: no conversation, task, agent, project or self-improvement.
    #[default]
    IntoEmpty,
    /// Replace all of it by the document.
    Replace,
    /// Add the document's entities; those with a key that is there already take the place of the present ones.
    Merge,
}

/// How a document is imported.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// What to do with the state that is there.
    pub mode: ImportMode,
    /// Import only a document in which everything is as the format says.
    pub strict: bool,
    /// Allow a replacement to leave the state empty, or with less than half of its entities.
    pub allow_shrink: bool,
    /// What messages and records set aside call the document, for instance its file name.
    pub source_name: String,
    /// Size of the document where it is known; only whoever is told the progress sees it.
    pub total_bytes: Option<u64>,
    /// How large one record may be, in bytes; so may all that stands beside the lists. It bounds the memory that an import takes,
    /// to some four times as much. 256 MiB by default.
    pub max_record_bytes: u64,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            mode: ImportMode::default(),
            strict: false,
            allow_shrink: false,
            source_name: String::new(),
            total_bytes: None,
            max_record_bytes: MAX_RECORD_BYTES,
        }
    }
}

/// How large a record of a document may be, unless an option says otherwise.
const MAX_RECORD_BYTES: u64 = 256 * 1024 * 1024;

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportReport {
    /// The document's version.
    pub source_version: String,
    /// What was read.
    pub imported: ImportCounts,
    /// What could not be read, and is kept in the table `set_aside`.
    pub set_aside: Vec<ReportedSetAside>,
    /// What was not as the format says, and was read all the same.
    pub warnings: Vec<ReportedWarning>,
    /// The backup of the state as it was before, where one was made.
    pub backup: Option<String>,
}

/// How much of each kind an import read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportCounts {
    /// Conversations.
    pub conversations: u64,
    /// Messages of all conversations.
    pub messages: u64,
    /// Tasks.
    pub tasks: u64,
    /// Agents.
    pub agents: u64,
    /// Projects.
    pub projects: u64,
    /// 1 where the document holds the orchestrator's work on its own code.
    pub self_improvement: u64,
}

/// A record that an import set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportedSetAside {
    /// Where it stood in the document.
    pub path: String,
    /// Why it could not be read.
    pub reason: String,
}

/// Something that was not as the format says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportedWarning {
    /// Where it stands in the document.
    pub path: String,
    /// What it is, and how it was read.
    pub message: String,
}

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
    /// [`Error::Document`] where it is no document, [`Error::DocumentTooLarge`], [`Error::DocumentTooNew`], [`Error::DocumentProblems`] with
    /// `strict`, [`Error::NotEmpty`], [`Error::WouldShrink`]: nothing was changed.
    pub fn import_json(&self, reader: impl BufRead, options: ImportOptions) -> Result<ImportReport> {
        let now = self.now();
        let folder = backup::Folder::change(self.state_dir())?;
        self.transaction(|conn| {
            let is_empty = store::counts(conn)?.entities() == 0;
            let set_aside_before = set_aside::newest(conn)?;
            let reader = Counted { inner: reader, done: 0, reported: 0, store: self, total: options.total_bytes };
            let (mut report, overwrites) = import_noting(conn, now, reader, &options)?;
            let limit = self.options().limits.set_aside_bytes;
            let excess = limits::excess_set_aside(conn, set_aside_before, limit)?;
            if options.mode == ImportMode::Replace && !is_empty || overwrites || excess.is_some() {
                // Nothing is committed yet: another connection still sees the state as it was.
                let progress = &self.options().progress;
                report.backup = Some(backup::create_in(&folder, self.state_dir(), "before-import", now, progress)?.id);
            }
            if let Some(newest) = excess {
                let records = limits::drop_set_aside(conn, newest)?;
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
        let mut sink = Counter::default();
        let document = reader::read(reader, &options.source_name, options.max_record_bytes, "", &mut sink)?;
        report(document, sink.0, options)
    }
}

/// Tells how far a document has been read.
struct Counted<'s, R> {
    inner: R,
    done: u64,
    reported: u64,
    store: &'s StateStore,
    total: Option<u64>,
}

impl<R: BufRead> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
        self.count(amount);
    }
}

impl<R> Counted<'_, R> {
    fn count(&mut self, amount: usize) {
        const STEP: u64 = 1024 * 1024;
        self.done += amount as u64;
        if self.done - self.reported >= STEP || Some(self.done) == self.total {
            self.reported = self.done;
            self.store.options().progress.report(Stage::Importing, self.done, self.total);
        }
    }
}

/// When the last checkpoint in a document was made.
pub(crate) fn checkpointed_at(reader: impl BufRead, source_name: &str) -> Result<Timestamp> {
    Ok(reader::read(reader, source_name, MAX_RECORD_BYTES, "", &mut Counter::default())?.head.checkpointed_at)
}

/// Imports a document inside a transaction of the caller's.
pub(crate) fn import(
    conn: &Connection,
    now: DateTime<Utc>,
    reader: impl BufRead,
    options: &ImportOptions,
) -> Result<ImportReport> {
    import_noting(conn, now, reader, options).map(|(report, _)| report)
}

/// As [`import`]; also returns whether a record in a merge, or the head, has overwritten something that was there.
fn import_noting(
    conn: &Connection,
    now: DateTime<Utc>,
    reader: impl BufRead,
    options: &ImportOptions,
) -> Result<(ImportReport, bool)> {
    let before = store::counts(conn)?;
    if options.mode == ImportMode::IntoEmpty && before.entities() > 0 {
        let path = conn.path().map(Into::into).unwrap_or_default();
        return Err(Error::NotEmpty { path });
    }
    let set_aside_before = set_aside::newest(conn)?;
    let is_merge = options.mode == ImportMode::Merge && before.entities() > 0;
    let mut sink = Writer {
        conn,
        now: now.into(),
        source_name: &options.source_name,
        counter: Counter::default(),
        overwrites: if is_merge { Some(false) } else { None },
    };
    let (name, limit, new_id) = (&options.source_name, options.max_record_bytes, head::new(now).id);
    let read = || reader::read(reader, name, limit, &new_id, &mut sink);
    let document = if is_merge {
        read()?
    } else {
        // Nothing stays of what is there, so that everything is new. To have the triggers find that out for each row takes
        // a third of the time.
        store::clear(conn)?;
        let document = db::without_triggers(conn, read)?;
        checkpoint::note_all_added(conn)?;
        document
    };
    let (counts, overwrites) = (sink.counter.0, sink.overwrites == Some(true));
    limits::forget_repeated_set_aside(conn, set_aside_before)?;
    let overwrites = write_head(conn, &document, options.mode)? || overwrites;

    if options.mode == ImportMode::Replace && !options.allow_shrink {
        let after = store::counts(conn)?;
        for (before, after) in [(before.entities(), after.entities()), (before.messages, after.messages)] {
            if before > 0 && after * 2 < before {
                return Err(Error::WouldShrink { before, after });
            }
        }
    }
    Ok((report(document, counts, options)?, overwrites))
}

/// Writes what stands beside the lists; whether that has overwritten anything but what each start and checkpoint writes.
fn write_head(conn: &Connection, document: &Document, mode: ImportMode) -> Result<bool> {
    let mut new = document.head.clone();
    let mut overwrites = false;
    if let Some(present) = head::read(conn)? {
        if mode == ImportMode::Merge {
            let added = new.extra;
            new = present;
            overwrites = added.iter().any(|(key, value)| new.extra.get(key).is_some_and(|present| present != value));
            new.extra.extend(added);
        } else {
            let is_lost = |present: &Extra, new: &Extra| present.iter().any(|(key, value)| new.get(key) != Some(value));
            overwrites = present.mode.is_some() && present.mode != new.mode
                || is_lost(&present.extra, &new.extra)
                || is_lost(&present.metadata.extra, &new.metadata.extra);
            new.metadata.restart_count = new.metadata.restart_count.max(present.metadata.restart_count);
        }
    }
    head::write(conn, &new)?;
    Ok(overwrites)
}

fn report(document: Document, imported: ImportCounts, options: &ImportOptions) -> Result<ImportReport> {
    let mut findings = document.findings;
    findings.sort_by_key(|finding| finding.line);
    if options.strict && !findings.is_empty() {
        let problem = |Finding { path, line, message, .. }| DocumentProblem { path, line, message };
        let problems = findings.into_iter().map(problem).collect();
        return Err(Error::DocumentProblems { source_name: options.source_name.clone(), problems });
    }
    let (set_aside, warnings): (Vec<_>, Vec<_>) = findings.into_iter().partition(|finding| finding.set_aside);
    Ok(ImportReport {
        source_version: document.source_version,
        imported,
        set_aside: set_aside.into_iter().map(|it| ReportedSetAside { path: it.path, reason: it.message }).collect(),
        warnings: warnings.into_iter().map(|it| ReportedWarning { path: it.path, message: it.message }).collect(),
        backup: None,
    })
}

/// Writes what is read to the tables.
struct Writer<'c> {
    conn: &'c Connection,
    now: Timestamp,
    source_name: &'c str,
    counter: Counter,
    /// Whether a record has taken the place of another one; `None` where that is not of interest.
    overwrites: Option<bool>,
}

impl Writer<'_> {
    /// Whether another record with the same key is there.
    fn is_other(&self, record: &Record) -> Result<bool> {
        let conn = self.conn;
        let mut is_other = false;
        match record {
            Record::Conversation(new) => conversation::read(conn, "WHERE id = ?1", [&new.id], |present| {
                is_other = present != *new;
                Ok(())
            })?,
            Record::Task(new) => task::read(conn, "WHERE id = ?1", [&new.id], |present| {
                is_other = present != **new;
                Ok(())
            })?,
            Record::Agent(new) => agent::read(conn, "WHERE session_name = ?1", [&new.session_name], |present| {
                is_other = present != *new;
                Ok(())
            })?,
            Record::Project(new) => project::read(conn, "WHERE id = ?1", [&new.id], |present| {
                is_other = present != *new;
                Ok(())
            })?,
            Record::SelfImprovement(new) => {
                is_other = self_improvement::read(conn)?.is_some_and(|present| present != *new);
            }
        }
        Ok(is_other)
    }
}

impl Sink for Writer<'_> {
    fn record(&mut self, record: Record) -> Result<()> {
        if self.overwrites == Some(false) {
            self.overwrites = Some(self.is_other(&record)?);
        }
        match &record {
            // Reading never trims.
            Record::Conversation(it) => conversation::write(self.conn, it, usize::MAX),
            Record::Task(it) => task::write(self.conn, it),
            Record::Agent(it) => agent::write(self.conn, it),
            Record::Project(it) => project::write(self.conn, it),
            Record::SelfImprovement(it) => self_improvement::write(self.conn, it),
        }?;
        self.counter.record(record)
    }

    fn set_aside(&mut self, path: &str, reason: &str, content: &str) -> Result<()> {
        set_aside::insert(
            self.conn,
            &SetAsideRecord {
                set_aside_at: self.now.clone(),
                source: self.source_name.to_owned(),
                path: path.to_owned(),
                reason: reason.to_owned(),
                content: content.to_owned(),
            },
        )
    }
}

/// Counts what is read.
#[derive(Default)]
struct Counter(ImportCounts);

impl Sink for Counter {
    fn record(&mut self, record: Record) -> Result<()> {
        let counts = &mut self.0;
        match record {
            Record::Conversation(it) => {
                counts.conversations += 1;
                counts.messages += it.recent_messages.len() as u64;
            }
            Record::Task(_) => counts.tasks += 1,
            Record::Agent(_) => counts.agents += 1,
            Record::Project(_) => counts.projects += 1,
            Record::SelfImprovement(_) => counts.self_improvement += 1,
        }
        Ok(())
    }

    fn set_aside(&mut self, _: &str, _: &str, _: &str) -> Result<()> {
        Ok(())
    }
}
