//! Rebuilding a damaged database.
//!
//! A new database is filled with the rows that can still be read, and where rows are missing, from the newest good backup or
//! export. What is certain to have been there and is in neither is named. The new one is checked, the damaged files are moved into
//! a folder of their own, and the new one takes their place. Killed in between, the state has no database, and opening it says
//! that this is to be run again.

mod salvage;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::backup;
use crate::db;
use crate::directory::{self, DATABASE_FILE, EXPORT_FILE};
use crate::error::{Error, ForeignFile, Result};
use crate::lock::DirectoryLock;
use crate::model::Timestamp;
use crate::store::{
    self, SetAsideRecord, StateStore, StoreOptions, agent, conversation, head, project, self_improvement, set_aside,
    task,
};
use salvage::Shape;

/// What a recovery did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryReport {
    /// Where the state comes from: the damaged database, a backup or the export, or two of them.
    pub source: String,
    /// What the new database holds.
    pub restored: RecoveredCounts,
    /// What the damaged database no longer had, and the backup or export did: as it was then.
    pub from_backup: Vec<RecoveryFinding>,
    /// What was there and is not any more, and what may be missing.
    pub lost: Vec<RecoveryFinding>,
    /// Where the damaged files lie now.
    pub set_aside_as: PathBuf,
}

/// How much of each kind there is after a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveredCounts {
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
}

/// Something that a recovery found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryFinding {
    /// The table, `database`, or `log` for the write-ahead log.
    pub kind: String,
    /// What it is.
    pub message: String,
}

/// How many rows of a table are told one by one.
const MOST: usize = 100;

/// The kind of what is lost with the write-ahead log.
const LOG: &str = "log";

/// What records that lost their owner are set aside under.
const SOURCE: &str = "recovery";

/// Rebuilds a damaged database from what can be read of it and from the newest good backup or export. Every
/// [`StateStore`] on it is to be closed.
///
/// ```no_run
/// use agentmux_state::{StoreOptions, recover};
///
/// let report = recover("/home/me/.agentmux/state", &StoreOptions::default())?;
/// println!("{} tasks; lost: {:?}", report.restored.tasks, report.lost);
/// # Ok::<(), agentmux_state::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotDamaged`]; [`Error::NoDatabase`]; [`Error::InUse`] while a service runs; [`Error::Corrupt`] where nothing can be
/// read and there is no good backup; [`Error::SchemaTooNew`] and [`Error::NotAStateDatabase`] for what is not this release's. Nothing
/// is changed then.
pub fn recover(state_dir: impl AsRef<Path>, options: &StoreOptions) -> Result<RecoveryReport> {
    let state_dir = state_dir.as_ref();
    if !state_dir.is_dir() {
        return Err(Error::NoDatabase { path: state_dir.join(DATABASE_FILE) });
    }
    let _lock = DirectoryLock::acquire_for_command(state_dir)?;
    let state_dir = directory::resolve(state_dir)?;
    let _turn = directory::lock(&state_dir)?;
    let now = options.clock.now();
    let path = state_dir.join(DATABASE_FILE);
    let (damaged, lost_frames) = damaged(&path)?;

    let good = Good::newest(&state_dir, now, options)?;
    let mut recovery = Recovery { now, damaged: damaged.clone(), from_backup: Vec::new(), lost: Vec::new() };
    if let Some((missing, frames)) = lost_frames {
        let message =
            format!("{missing} of the {frames} pages in the log are missing or damaged: the newest updates are lost");
        recovery.lost.push(finding(LOG, message));
    }
    let copy = directory::temporary_file(&state_dir, db::NEW_PREFIX)?;
    let (source, restored) = recovery.build(copy.path(), good.as_ref(), options)?;

    let set_aside_as = if damaged == path {
        db::set_aside(&path, now)?
    } else {
        // A recovery or a restore was killed when it had come so far.
        damaged.parent().map(Path::to_path_buf).unwrap_or_default()
    };
    db::publish(copy, &path)?;
    let Recovery { from_backup, lost, .. } = recovery;
    Ok(RecoveryReport { source, restored, from_backup, lost, set_aside_as })
}

/// The database that is damaged, which may have been set aside already, and how much of its log is missing.
fn damaged(path: &Path) -> Result<(PathBuf, Option<(u32, u32)>)> {
    let lost_frames = db::missing_frames(path);
    let state_dir = path.parent().unwrap_or(path);
    let is_readable = || match StateStore::open_read_only(state_dir).and_then(|store| store.state()) {
        Err(Error::InvalidRow { .. } | Error::Corrupt { .. }) => false,
        // Anything else was found above, or an upgrade is due.
        _ => true,
    };
    match db::require_whole(path) {
        Ok(()) if lost_frames.is_none() && is_readable() => Err(Error::NotDamaged { path: path.to_path_buf() }),
        Err(Error::NoDatabase { .. }) => match db::newest_set_aside(path) {
            Some(folder) => Ok((folder.join(DATABASE_FILE), None)),
            None => Err(Error::NoDatabase { path: path.to_path_buf() }),
        },
        Ok(())
        | Err(
            Error::Corrupt { .. }
            | Error::HistoryDamaged { .. }
            | Error::NotAStateDatabase { found: ForeignFile::Empty | ForeignFile::NotSqlite, .. },
        ) => Ok((path.to_path_buf(), lost_frames)),
        Err(Error::NotAStateDatabase { found: ForeignFile::OtherProgram { .. }, .. }) if salvage::is_ours(path) => {
            Ok((path.to_path_buf(), lost_frames))
        }
        Err(error) => Err(error),
    }
}

/// What is known to be good: a copy of a backup or of the export, in a database of this release.
struct Good {
    name: String,
    at: Timestamp,
    copy: NamedTempFile,
}

impl Good {
    /// The newest that can be used.
    fn newest(state_dir: &Path, now: DateTime<Utc>, options: &StoreOptions) -> Result<Option<Self>> {
        let export = Self::export(state_dir, now);
        let backup = backup::newest_usable(state_dir, now, &options.progress)?;
        let backup = backup.map(|(backup, copy)| Self { name: backup.id, at: backup.created_at, copy });
        Ok(match (backup, export) {
            (Some(backup), Some(export)) if backup.at.parse() >= export.at.parse() => Some(backup),
            (backup, export) => export.or(backup),
        })
    }

    /// The export that the last checkpoint left.
    fn export(state_dir: &Path, now: DateTime<Utc>) -> Option<Self> {
        let path = state_dir.join(EXPORT_FILE);
        fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let copy = directory::temporary_file(state_dir, db::NEW_PREFIX).ok()?;
        let imported = db::create_copy(copy.path(), |conn| backup::import_document(conn, &path, now));
        imported.inspect_err(|error| tracing::warn!(%error, "the export cannot be used")).ok()?;
        let at = db::open_damaged(copy.path()).ok().and_then(|conn| head::read(&conn).ok()?)?.checkpointed_at;
        Some(Self { name: EXPORT_FILE.to_owned(), at, copy })
    }
}

struct Recovery {
    now: DateTime<Utc>,
    damaged: PathBuf,
    from_backup: Vec<RecoveryFinding>,
    lost: Vec<RecoveryFinding>,
}

impl Recovery {
    /// Fills and checks the new database; where its content comes from, and how much it is.
    fn build(&mut self, copy: &Path, good: Option<&Good>, options: &StoreOptions) -> Result<(String, RecoveredCounts)> {
        let mut source = salvage::open(&self.damaged);
        if let (Some(good), Some(conn), true) = (good, &source, self.is_log_lost()) {
            // Without its log, the database is the state as it was at some earlier moment, perhaps before the good copy.
            if salvage::progress(&db::open_damaged(good.copy.path())?) > salvage::progress(conn) {
                source = None;
            }
        }
        let mut salvaged = Vec::new();
        let version = source.as_ref().map_or_else(db::latest_schema_version, db::version_of_damaged);
        db::create_copy_of_version(copy, version, |conn| {
            for shape in salvage::shapes(conn)? {
                let outcome = match &source {
                    Some(source) => salvage::copy(source, conn, &shape)?,
                    None => salvage::Outcome { is_damaged: true, ..salvage::Outcome::default() },
                };
                salvaged.push((shape, outcome));
            }
            Ok(())
        })?;
        if let Some(source) = &source {
            self.name_foreign_tables(source, copy)?;
        }
        drop(source);
        let mut came_from = (false, false);
        let mut restored = RecoveredCounts::default();
        db::prepare_copy(copy, &options.progress, |conn| {
            came_from.0 = store::counts(conn)?.entities() > 0;
            let good_conn = good.map(|good| db::open_damaged(good.copy.path())).transpose()?;
            let good = good.zip(good_conn.as_ref());
            db::without_triggers(conn, || {
                for (shape, outcome) in &salvaged {
                    self.fill(conn, good, shape, outcome)?;
                }
                let shapes: Vec<_> = salvaged.into_iter().map(|(shape, _)| shape).collect();
                self.set_orphans_aside(conn, &shapes)?;
                self.read_each(conn, good)
            })?;
            came_from.1 = !self.from_backup.is_empty();
            let counts = store::counts(conn)?;
            if counts.entities() == 0 && !self.lost.is_empty() {
                let detail = "nothing in it can be read, and there is no good backup".to_owned();
                return Err(Error::Corrupt { path: self.damaged.clone(), detail });
            }
            head::ensure(conn, self.now)?;
            backup::begin_anew(conn, self.now)?;
            let store::Counts { conversations, messages, tasks, agents, projects, .. } = counts;
            restored = RecoveredCounts { conversations, messages, tasks, agents, projects };
            Ok(())
        })?;
        let names = [(came_from.0, DATABASE_FILE), (came_from.1, good.map_or("", |good| &good.name))];
        let names: Vec<_> = names.into_iter().filter(|(came, _)| *came).map(|(_, name)| name).collect();
        Ok((names.join(" and "), restored))
    }

    fn is_log_lost(&self) -> bool {
        self.lost.iter().any(|it| it.kind == LOG)
    }

    /// Fills up a table from what is good, and names what is in neither.
    fn fill(
        &mut self,
        conn: &Connection,
        good: Option<(&Good, &Connection)>,
        shape: &Shape,
        outcome: &salvage::Outcome,
    ) -> Result<()> {
        let missing = outcome.missing.as_ref();
        let is_whole = match missing {
            Some(missing) => missing.is_empty(),
            None => !outcome.is_damaged && outcome.refused == 0,
        };
        if is_whole && !outcome.is_damaged {
            return Ok(());
        }
        let came = match good {
            Some((_, good)) if !is_whole => salvage::fill(good, conn, shape, missing)?,
            _ => BTreeSet::new(),
        };
        if let Some((good, _)) = good {
            let rows = came.iter().map(|row| format!("{row} as of {} from {}", good.at.as_str(), good.name));
            tell(&mut self.from_backup, &shape.name, rows.collect());
        }
        match missing {
            Some(missing) => {
                tell(&mut self.lost, &shape.name, missing.difference(&came).cloned().collect());
            }
            None => {
                let after = good.map_or(String::new(), |(good, _)| format!(" since {}", good.at.as_str()));
                let message = format!(
                    "pages could not be read, and nothing tells which rows they held: some may be missing{after}"
                );
                self.lost.push(finding(&shape.name, message));
            }
        }
        Ok(())
    }

    /// Sets aside the rows whose owner is lost.
    fn set_orphans_aside(&mut self, conn: &Connection, shapes: &[Shape]) -> Result<()> {
        let mut number = 0;
        let now = self.now;
        salvage::take_orphans(conn, shapes, |table, row| {
            number += 1;
            set_aside(conn, now, table, "what it belongs to is lost", row)
        })?;
        if number > 0 {
            let message = format!("{number} rows whose owner is lost were set aside");
            self.lost.push(finding("set_aside", message));
        }
        Ok(())
    }

    /// Reads each entity, and puts the good one in the place of one that cannot be read.
    fn read_each(&mut self, conn: &Connection, good: Option<(&Good, &Connection)>) -> Result<()> {
        macro_rules! each {
            ($table:literal, $key:literal, $entity:ident, $write:expr) => {
                let mut select = conn.prepare(concat!("SELECT ", $key, " FROM ", $table))?;
                let ids = select.query_map([], |row| row.get(0))?;
                for id in ids.collect::<rusqlite::Result<Vec<String>>>()? {
                    let condition = concat!("WHERE ", $key, " = ?1");
                    let Err(error) = $entity::read(conn, condition, [&id], |_| Ok(())) else { continue };
                    let mut found = None;
                    if let Some((_, good)) = good {
                        $entity::read(good, condition, [&id], |entity| {
                            found = Some(entity);
                            Ok(())
                        })?;
                    }
                    let replaced_from = good.map(|(good, _)| good).filter(|_| found.is_some());
                    self.take_unreadable(conn, replaced_from, $table, concat!($key, " = ?1"), &id, &error)?;
                    if let Some(entity) = found {
                        $write(&entity)?;
                    }
                }
            };
        }
        each!("conversations", "id", conversation, |it| conversation::write(conn, it, usize::MAX));
        each!("tasks", "id", task, |it| task::write(conn, it));
        each!("agents", "session_name", agent, |it| agent::write(conn, it));
        each!("projects", "id", project, |it| project::write(conn, it));
        if let Err(error) = self_improvement::read(conn) {
            self.take_unreadable(conn, None, "self_improvement", "'' = ?1", "", &error)?;
        }
        if let Err(error) = head::read(conn) {
            self.take_unreadable(conn, None, "state", "'' = ?1", "", &error)?;
        }
        Ok(())
    }

    /// Sets a row aside that cannot be read, and says whether it comes from a good copy.
    fn take_unreadable(
        &mut self,
        conn: &Connection,
        replaced_from: Option<&Good>,
        table: &str,
        condition: &str,
        id: &str,
        error: &Error,
    ) -> Result<()> {
        let columns: Vec<String> = {
            let select = conn.prepare(&format!("SELECT * FROM {table}"))?;
            select.column_names().into_iter().map(str::to_owned).collect()
        };
        let row = conn.query_row(&salvage::rows_as_json(table, &columns, condition), [id], |row| row.get(0))?;
        set_aside(conn, self.now, table, &error.to_string(), row)?;
        conn.execute(&format!("DELETE FROM {table} WHERE {condition}"), [id])?;
        match replaced_from {
            Some(good) => {
                let message = format!("{id} as of {} from {}: {error}", good.at.as_str(), good.name);
                self.from_backup.push(finding(table, message));
            }
            None => self.lost.push(finding(table, format!("{id}, set aside: {error}"))),
        }
        Ok(())
    }

    /// Names tables that are not of this release: they stay in the damaged files.
    fn name_foreign_tables(&mut self, source: &Connection, copy: &Path) -> Result<()> {
        let tables = |conn: &Connection| -> rusqlite::Result<Vec<String>> {
            let sql =
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_litestream\\_%' ESCAPE '\\'";
            conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
        };
        let ours = tables(&db::open_damaged(copy)?)?;
        for table in tables(source).unwrap_or_default() {
            if !ours.contains(&table) {
                self.lost.push(finding(
                    "database",
                    format!("the table {table} is not this program's, and stays with the damaged files"),
                ));
            }
        }
        Ok(())
    }
}

fn set_aside(conn: &Connection, now: DateTime<Utc>, table: &str, reason: &str, content: String) -> Result<()> {
    let record = SetAsideRecord {
        set_aside_at: now.into(),
        source: SOURCE.to_owned(),
        path: table.to_owned(),
        reason: reason.to_owned(),
        content,
    };
    set_aside::insert(conn, &record)
}

fn tell(findings: &mut Vec<RecoveryFinding>, table: &str, messages: Vec<String>) {
    let more = messages.len().saturating_sub(MOST);
    findings.extend(messages.into_iter().take(MOST).map(|message| finding(table, message)));
    if more > 0 {
        findings.push(finding(table, format!("{more} more rows")));
    }
}

fn finding(kind: &str, message: impl Into<String>) -> RecoveryFinding {
    RecoveryFinding { kind: kind.to_owned(), message: message.into() }
}
