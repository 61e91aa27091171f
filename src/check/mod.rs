//! Whether everything is as it should be. Reports facts, changes nothing.

mod budget;
mod disk;
mod findings;
mod integrity;

use std::fs;
use std::io::BufReader;
use std::path::Path;

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde::Serialize;

use crate::backup::{Backup, SAFETY_LABEL, list_backups, verify_backups};
use crate::db::{
    Database, FileId, broken_references, is_open_file, require_readable, schema_differences, write_ahead_log,
};
use crate::document::checkpointed_at;
use crate::error::{Error, Result};
use crate::model::{Counts, EntityKind, Timestamp};
use crate::progress::ProgressCallback;
use crate::rows::invariants::{self, GROUPS, broken_invariants};
use crate::rows::{self, checkpoint, export_mark, head, quarantine, with_entity};
use crate::state_dir::{EXPORT_FILE, open_file};
use crate::summary::summary;

use findings::Findings;

pub(crate) use budget::{Budget, is_interrupted};
pub use findings::CheckFinding;
pub(crate) use integrity::{integrity, is_read_failure};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// Whether there is no problem.
    pub ok: bool,
    /// What is wrong and needs somebody.
    pub problems: Vec<CheckFinding>,
    /// What is worth knowing and may well be meant.
    pub notes: Vec<CheckFinding>,
    /// Sizes and numbers, to be compared with those of another time.
    pub facts: CheckFacts,
}

/// Sizes and numbers of a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "camelCase")]
pub struct CheckFacts {
    /// Version of the database's schema.
    pub schema_version: u32,
    /// Size of `state.db`, in bytes.
    pub database_bytes: u64,
    /// Of it, bytes that hold nothing.
    pub unused_bytes: u64,
    /// Size of `state.db-wal`, in bytes.
    pub wal_bytes: u64,
    /// Bytes that the file system has left for this user; `None` where it does not tell.
    pub disk_free_bytes: Option<u64>,
    /// Entities of each kind, and messages.
    #[serde(flatten)]
    pub counts: Counts,
    /// Records that imports could not read.
    pub set_aside: u64,
    /// Backups.
    pub backups: u64,
    /// The newest backup.
    pub newest_backup: Option<String>,
    /// When the last checkpoint was made.
    pub checkpointed_at: Option<Timestamp>,
}

/// How many findings of one kind are told one by one.
const MOST: usize = 100;

/// Checks a state; see [`StateStore::check`](crate::StateStore::check). `quarantine_limit` is how many bytes of quarantined
/// records are kept.
pub(crate) fn check(database: &Database, state_dir: &Path, quarantine_limit: u64) -> Result<CheckReport> {
    let check = Check { database, state_dir, quarantine_limit };
    let is_damage = |it: &CheckFinding| ["integrity", "foreign_key", "unreadable", "schema"].contains(&it.kind);
    match check.once() {
        Ok(report) if !report.problems.iter().any(is_damage) => return Ok(report),
        Ok(_) | Err(Error::Corrupt { .. } | Error::HistoryDamaged { .. } | Error::NotAStateDatabase { .. }) => {}
        Err(error) => return Err(error),
    }
    // SQLite says the same of a page that the disk failed to read: what a second look does not find was not there.
    require_readable(database.path())?;
    check.once()
}

struct Check<'c> {
    database: &'c Database,
    state_dir: &'c Path,
    quarantine_limit: u64,
}

impl Check<'_> {
    fn once(&self) -> Result<CheckReport> {
        let mut findings = Findings::default();
        let path = self.database.path();
        let (summary, unused_bytes) = self.database.read_on_prepared_connection(
            |conn| Budget::limit(conn, path),
            |conn, budget| {
                self.check_content(conn, &budget, &mut findings)?;
                Ok((summary(conn, 0)?, unused(conn, &mut findings)?))
            },
        )?;
        let backups = self.check_backups(&mut findings)?;
        let wal = write_ahead_log(self.database.path());
        wal.trouble().into_iter().for_each(|message| findings.note("wal", message));
        let disk_free_bytes =
            disk::check(self.state_dir, summary.database_bytes, summary.last_run.as_ref(), &mut findings);
        let facts = CheckFacts {
            schema_version: summary.schema_version,
            database_bytes: summary.database_bytes,
            unused_bytes,
            wal_bytes: wal.bytes,
            disk_free_bytes,
            counts: summary.counts,
            set_aside: summary.set_aside,
            backups: backups.len() as u64,
            newest_backup: backups.into_iter().next().map(|backup| backup.id),
            checkpointed_at: summary.last_checkpoint.map(|checkpoint| checkpoint.checkpointed_at),
        };
        let Findings { problems, notes } = findings;
        Ok(CheckReport { ok: problems.is_empty(), problems, notes, facts })
    }

    /// Checks what is in the database, part by part. What SQLite cannot read makes the parts after it fail, and is a problem by
    /// then; that the disk fails is an error.
    fn check_content(&self, conn: &Connection, budget: &Budget, findings: &mut Findings) -> Result<()> {
        type Part<'p> = &'p dyn Fn(&mut Findings) -> Result<()>;
        match integrity(conn, budget, None) {
            Ok(problems) => problems.into_iter().for_each(|problem| findings.problem("integrity", problem)),
            // The rest can be checked all the same.
            Err(error @ Error::OwnObject { .. }) => findings.problem("schema", error.to_string()),
            Err(error) => return Err(error),
        }
        let foreign_keys = |findings: &mut Findings| foreign_keys(conn, findings);
        let rows = |findings: &mut Findings| {
            for problem in unreadable(conn)? {
                findings.problem("unreadable", problem);
            }
            Ok(())
        };
        let own_schema = |findings: &mut Findings| {
            for difference in schema_differences(conn, self.database.path())? {
                findings.problem("schema", difference);
            }
            Ok(())
        };
        let invariants = |findings: &mut Findings| {
            for problem in broken_invariants(conn)? {
                findings.problem("invariant", problem);
            }
            half_set(conn, findings)
        };
        let contradictions = |findings: &mut Findings| contradictions(conn, findings);
        let references = |findings: &mut Findings| dangling_references(conn, findings);
        let quarantined = |findings: &mut Findings| self.check_set_aside(conn, findings);
        let export = |findings: &mut Findings| self.check_export(conn, findings);
        let parts: [(&str, Part<'_>); 8] = [
            ("foreign keys", &foreign_keys),
            ("rows", &rows),
            ("the schema", &own_schema),
            ("invariants", &invariants),
            ("contradictions", &contradictions),
            ("references", &references),
            ("quarantined records", &quarantined),
            ("the export", &export),
        ];
        for (name, part) in parts {
            budget.renew();
            match part(findings) {
                Ok(()) => {}
                Err(error) if is_interrupted(&error) => findings.problem(
                    "integrity",
                    format!("gave up on {name} after far more work than a sound database of this size takes"),
                ),
                Err(Error::Sqlite { source, .. }) if !is_read_failure(&source) => {
                    findings.problem("unreadable", format!("{name}: {source}"));
                }
                Err(error) => return Err(error),
            }
        }
        budget.renew();
        Ok(())
    }

    fn check_set_aside(&self, conn: &Connection, findings: &mut Findings) -> Result<()> {
        let (records, bytes) = quarantine::size(conn)?;
        if records > 0 {
            findings
                .note("set_aside", format!("imports could not read {records} records; the table set_aside keeps them"));
        }
        let limit = self.quarantine_limit;
        if bytes > limit / 10 * 9 {
            let message = format!(
                "the table set_aside holds {bytes} of {limit} bytes; beyond that the oldest go, after a backup"
            );
            findings.note("set_aside", message);
        }
        Ok(())
    }

    fn check_export(&self, conn: &Connection, findings: &mut Findings) -> Result<()> {
        let is_there = self.state_dir.join(EXPORT_FILE).exists();
        if export_mark::last(conn)?.is_none() {
            return Ok(());
        }
        if !is_there {
            findings.note("export", format!("{EXPORT_FILE} is gone; the next checkpoint writes it again"));
        } else if export_mark::is_behind(conn)? {
            findings.note("export", format!("{EXPORT_FILE} is older than the last checkpoint"));
        } else if let Some(at) = export_checkpoint(&self.state_dir.join(EXPORT_FILE))
            && checkpoint::last(conn)?.and_then(|last| last.checkpointed_at.parse()).is_some_and(|last| last < at)
        {
            findings.problem(
                "export",
                format!(
                    "{EXPORT_FILE} tells of a checkpoint at {}, which the database does not know: it has lost what came after its \
                     own last one, or another program wrote the file",
                    Timestamp::from(at).as_str()
                ),
            );
        }
        Ok(())
    }

    /// The backups, newest first.
    fn check_backups(&self, findings: &mut Findings) -> Result<Vec<Backup>> {
        let backups = match list_backups(self.state_dir) {
            Ok(backups) => backups,
            Err(error) => {
                findings.problem("backup", error.to_string());
                return Ok(Vec::new());
            }
        };
        if backups.is_empty() {
            findings.note("backup", "there is no backup".into());
        }
        for backup in &backups {
            let verdicts = match verify_backups(self.state_dir, Some(&backup.id), &ProgressCallback::default()) {
                // Somebody has removed it meanwhile.
                Err(Error::BackupNotFound { .. }) => continue,
                verdicts => verdicts?,
            };
            let Some(verdict) = verdicts.into_iter().find(|verdict| !verdict.ok) else { break };
            let message = format!("backup {} cannot be trusted: {}", verdict.id, verdict.problems.join("; "));
            // What somebody else wrote in place of the export need not be a state.
            let is_kept_export = backup.is_kept_export();
            if backup.label != SAFETY_LABEL && !is_kept_export {
                findings.problem("backup", message);
                break;
            }
            // What was gone back from may be of a newer release, or have been damaged.
            findings.note("backup", message);
        }
        Ok(backups)
    }
}

/// When the checkpoint was made that an export holds; `None` where it cannot be read, which is no fault of the database.
fn export_checkpoint(path: &Path) -> Option<DateTime<Utc>> {
    // A link to our database: to open and close it here would drop this process's locks on it.
    if is_open_file(FileId::of(&fs::metadata(path).ok()?)) {
        return None;
    }
    let file = BufReader::with_capacity(64 * 1024, open_file(path).ok()?);
    checkpointed_at(file, &path.display().to_string()).ok()?.parse()
}

fn foreign_keys(conn: &Connection, findings: &mut Findings) -> Result<()> {
    for (table, number) in broken_references(conn)? {
        findings.problem("foreign_key", format!("{number} rows of {table} belong to nothing"));
    }
    Ok(())
}

/// Reads every entity, one at a time.
///
/// # Errors
/// [`Error::InvalidRow`] where one cannot be read.
pub(crate) fn read_each(conn: &Connection) -> Result<()> {
    reads().try_for_each(|read| read(conn))
}

/// The first row of each kind that cannot be read.
fn unreadable(conn: &Connection) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for read in reads() {
        match read(conn) {
            Ok(()) => {}
            Err(error @ Error::InvalidRow { .. }) => found.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

type Read = fn(&Connection) -> Result<()>;

/// Reads of the head and of all entities of each kind, of which no more than one is in memory.
fn reads() -> impl Iterator<Item = Read> {
    let head: Read = |conn| head::read(conn).map(drop);
    let kinds = EntityKind::ALL
        .into_iter()
        .map(|kind| -> Read { with_entity!(kind, E => |conn| rows::each::<E>(conn, &mut |_| Ok(()))) });
    std::iter::once(head).chain(kinds)
}

/// Notes what is left out of exports, because a part of it is missing.
fn half_set(conn: &Connection, findings: &mut Findings) -> Result<()> {
    for group in GROUPS {
        let rows = invariants::half_set(conn, group)?;
        if rows > 0 {
            let required = group.required.join(" and ");
            let message = format!(
                "{rows} rows of {} have a part of {}, which is left out while {required} are not set",
                group.table, group.name
            );
            findings.note("invariant", message);
        }
    }
    Ok(())
}

fn contradictions(conn: &Connection, findings: &mut Findings) -> Result<()> {
    let contradictions = invariants::contradictions(conn)?;
    if contradictions > 0 {
        let message =
            format!("two places say different things in {contradictions} cases; the view contradictions names them");
        findings.note("contradiction", message);
    }
    Ok(())
}

/// Bytes of the database that hold nothing.
fn unused(conn: &Connection, findings: &mut Findings) -> Result<u64> {
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let (free, pages, size) = (pragma("freelist_count")?, pragma("page_count")?, pragma("page_size")?);
    if free * 4 > pages && free * size > 1024 * 1024 {
        let message =
            format!("{} of {} bytes hold nothing; `agentmux-state prune` gives them back", free * size, pages * size);
        findings.note("space", message);
    }
    if pragma("auto_vacuum")? == 0 {
        let message =
            "another program has written this database; `agentmux-state prune` once makes space go back by itself";
        findings.note("space", message.into());
    }
    Ok(free * size)
}

fn dangling_references(conn: &Connection, findings: &mut Findings) -> Result<()> {
    let mut found = 0;
    invariants::dangling_references(conn, |[kind, key, missing_kind, missing_key]| {
        found += 1;
        if found <= MOST {
            let message = format!("{kind} {key} names {missing_kind} {missing_key}, which is gone");
            findings.note("dangling_reference", message);
        }
    })?;
    if found > MOST {
        findings.note("dangling_reference", format!("{} more references to what is gone", found - MOST));
    }
    Ok(())
}
