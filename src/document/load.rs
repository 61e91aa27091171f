//! Loading a document into the store: all of it in one transaction, or nothing.

use std::io::{self, BufRead, Read};

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde::Serialize;

use super::reader::{self, Document, Finding, Sink};
use crate::db;
use crate::error::{DocumentProblem, Error, Result};
use crate::model::{Counts, Extra, SetAsideRecord, Timestamp};
use crate::progress::{ProgressCallback, Stage};
use crate::rows::{self, Entity, changes, head, quarantine};
use crate::setters::setters;

/// What to do with the state that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
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
#[non_exhaustive]
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

setters! { ImportOptions { mode: ImportMode, strict: bool, allow_shrink: bool, source_name: String, total_bytes: Option<u64>, max_record_bytes: u64 } }

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
#[non_exhaustive]
#[serde(rename_all = "camelCase")]
pub struct ImportReport {
    /// The document's version.
    pub source_version: String,
    /// What was read.
    pub imported: Counts,
    /// What could not be read, and is kept in the table `set_aside`.
    pub set_aside: Vec<ReportedSetAside>,
    /// What was not as the format says, and was read all the same.
    pub warnings: Vec<ReportedWarning>,
    /// The backup of the state as it was before, where one was made.
    pub backup: Option<String>,
}

/// A record that an import set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReportedSetAside {
    /// Where it stood in the document.
    pub path: String,
    /// Why it could not be read.
    pub reason: String,
}

/// Something that was not as the format says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReportedWarning {
    /// Where it stands in the document.
    pub path: String,
    /// What it is, and how it was read.
    pub message: String,
}

/// Reads a document and changes nothing.
pub(crate) fn validate(reader: impl BufRead, options: &ImportOptions) -> Result<ImportReport> {
    let mut sink = Counter::default();
    let document = reader::read(reader, &options.source_name, options.max_record_bytes, "", &mut sink)?;
    report(document, sink.0, options)
}

/// A reader that reports how far a document has been read.
pub(crate) struct Counted<'s, R> {
    inner: R,
    done: u64,
    reported: u64,
    progress: &'s ProgressCallback,
    total: Option<u64>,
}

impl<'s, R> Counted<'s, R> {
    pub(crate) fn new(inner: R, total: Option<u64>, progress: &'s ProgressCallback) -> Self {
        Self { inner, done: 0, reported: 0, progress, total }
    }
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
            self.progress.report(Stage::Importing, self.done, self.total);
        }
    }
}

/// When the last checkpoint in a document was made.
pub(crate) fn checkpointed_at(reader: impl BufRead, source_name: &str) -> Result<Timestamp> {
    Ok(reader::read(reader, source_name, MAX_RECORD_BYTES, "", &mut Counter::default())?.head.checkpointed_at)
}

/// Imports a document inside a transaction of the caller's; also returns whether a record in a merge, or the head, has
/// overwritten something that was there.
pub(crate) fn import(
    conn: &Connection,
    now: DateTime<Utc>,
    reader: impl BufRead,
    options: &ImportOptions,
) -> Result<(ImportReport, bool)> {
    let before = rows::counts(conn)?;
    if options.mode == ImportMode::IntoEmpty && before.entities() > 0 {
        let path = conn.path().map(Into::into).unwrap_or_default();
        return Err(Error::NotEmpty { path });
    }
    let set_aside_before = quarantine::newest(conn)?;
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
        rows::clear(conn)?;
        let document = db::without_triggers(conn, read)?;
        changes::note_all_added(conn)?;
        document
    };
    let (counts, overwrites) = (sink.counter.0, sink.overwrites == Some(true));
    quarantine::drop_repeated(conn, set_aside_before)?;
    let overwrites = write_head(conn, &document, options.mode)? || overwrites;

    if options.mode == ImportMode::Replace && !options.allow_shrink {
        let after = rows::counts(conn)?;
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

fn report(document: Document, imported: Counts, options: &ImportOptions) -> Result<ImportReport> {
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

impl Sink for Writer<'_> {
    fn record<E: Entity>(&mut self, entity: E) -> Result<()> {
        if self.overwrites == Some(false) {
            self.overwrites = Some(E::find(self.conn, entity.key())?.is_some_and(|present| present != entity));
        }
        // Reading never trims.
        entity.write(self.conn)?;
        self.counter.record(entity)
    }

    fn set_aside(&mut self, path: &str, reason: &str, content: &str) -> Result<()> {
        quarantine::insert(
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
struct Counter(Counts);

impl Sink for Counter {
    fn record<E: Entity>(&mut self, entity: E) -> Result<()> {
        *self.0.of_mut(E::KIND) += 1;
        self.0.messages += entity.messages();
        Ok(())
    }

    fn set_aside(&mut self, _: &str, _: &str, _: &str) -> Result<()> {
        Ok(())
    }
}
