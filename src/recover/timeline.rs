//! Which backup or export belongs to the history of a damaged database.
//!
//! A restore discards what came after the backup that it goes back to, but keeps the history of checkpoints, adds one to it
//! (`error_recovery`), and makes a safety backup at the same time. So a backup that was made after the last restore belongs to
//! what was discarded by none, the safety backup of a restore holds just what was discarded, and of what was made before a restore
//! nothing says whether that went back further.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension};
use tempfile::NamedTempFile;

use super::report::{RecoveryFinding, finding};
use super::shape::{Key, RowKey};
use crate::backup::{self, SAFETY_LABEL};
use crate::db::{self, RECOVERY_REPORT_FILE};
use crate::error::{Error, Result};
use crate::model::Timestamp;
use crate::progress::ProgressCallback;
use crate::rows::head;
use crate::state_dir::{self, EXPORT_FILE};

/// What is known to be good: a copy of a backup or of the export, in a database of this release.
pub(super) struct Good {
    pub(super) name: String,
    pub(super) at: Timestamp,
    /// Whether it numbers its rows as the damaged database does.
    pub(super) has_numbers: bool,
    copy: NamedTempFile,
}

impl Good {
    pub(super) fn open(&self) -> Result<Connection> {
        db::open_damaged(self.copy.path())
    }

    /// `backup-… (2026-…)`
    pub(super) fn title(&self) -> String {
        format!("{} ({})", self.name, self.at.as_str())
    }
}

/// How a backup or export stands to the history of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// It was made since the last restore, or there was none.
    Ours,
    /// It was made before the last restore; or nothing tells.
    Unclear,
    /// A restore discarded it.
    Discarded,
}

/// What a damaged database tells of its own history.
pub(super) struct Timeline {
    /// Times of checkpoints, by their numbers.
    checkpoints: BTreeMap<i64, String>,
    /// Checkpoints that restores made, perhaps: callers use that reason, too.
    restores: Vec<(i64, String)>,
    /// Whether all of them could be read.
    is_whole: bool,
}

impl Timeline {
    /// Reads it in the new database, into which its checkpoints were copied.
    pub(super) fn read(conn: &Connection, is_whole: bool, path: &Path) -> Result<Self> {
        let mut select = conn.prepare("SELECT checkpoint_id, checkpointed_at, reason FROM checkpoints")?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let rows: Vec<(i64, String, String)> = rows.collect::<rusqlite::Result<_>>()?;
        let recoveries = earlier_recoveries(path);
        let restores = rows.iter().filter(|(_, at, reason)| reason == "error_recovery" && !recoveries.contains(at));
        let restores = restores.map(|(id, at, _)| (*id, at.clone())).collect();
        let checkpoints = rows.iter().map(|(id, at, _)| (*id, at.clone())).collect();
        Ok(Self { checkpoints, restores, is_whole })
    }

    fn last_restore(&self) -> Option<&(i64, String)> {
        self.restores.iter().max()
    }

    /// `at` and `label` are those of a backup; the export has no label.
    fn relation(&self, copy: &Connection, at: &Timestamp, label: Option<&str>) -> Result<Relation> {
        let is_safety_backup = label == Some(SAFETY_LABEL);
        if is_safety_backup && self.restores.iter().any(|(_, restored_at)| restored_at == at.as_str()) {
            return Ok(Relation::Discarded);
        }
        // The newest checkpoint that it knows, by the number that the database gives it.
        let newest = match label {
            Some(_) => copy
                .query_row(
                    "SELECT checkpoint_id, checkpointed_at FROM checkpoints ORDER BY checkpoint_id DESC LIMIT 1",
                    [],
                    |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)),
                )
                .optional()?,
            None => {
                let known = self.checkpoints.iter().rev().find(|(_, known)| *known == at.as_str());
                known.map(|(id, at)| (*id, at.clone()))
            }
        };
        let is_known = |(id, at): &(i64, String)| self.checkpoints.get(id) == Some(at);
        Ok(match (self.last_restore(), newest) {
            _ if !self.is_whole => Relation::Unclear,
            (None, None) => Relation::Ours,
            // Old checkpoints are dropped in time.
            (None, Some(newest))
                if is_known(&newest) || self.checkpoints.keys().next().is_some_and(|first| newest.0 < *first) =>
            {
                Relation::Ours
            }
            (Some((restore, _)), Some(newest)) if newest.0 >= *restore && is_known(&newest) => Relation::Ours,
            // A number that the database gave to another checkpoint.
            (_, Some(newest)) if self.checkpoints.get(&newest.0).is_some_and(|known| *known != newest.1) => {
                Relation::Discarded
            }
            _ => Relation::Unclear,
        })
    }
}

/// The times of earlier recoveries, which record a checkpoint as restores do, and discard nothing.
fn earlier_recoveries(path: &Path) -> BTreeSet<String> {
    let recoveries = db::damaged_folders(path).into_iter().filter_map(|(_, folder)| {
        let report = fs::read(folder.join(RECOVERY_REPORT_FILE)).ok()?;
        let report: serde_json::Value = serde_json::from_slice(&report).ok()?;
        Some(report.get("recoveredAt")?.as_str()?.to_owned())
    });
    recoveries.collect()
}

/// The good copy that is best used, and what is to be said about that choice.
#[derive(Default)]
pub(super) struct Choice {
    pub(super) good: Option<Good>,
    pub(super) notes: Vec<RecoveryFinding>,
}

/// How many copies are compared where nothing tells which one belongs to the database.
const MOST_COMPARED: usize = 12;

/// Chooses a good copy. `database` holds what could be read, and `missing` what it is known to lack, by table; `None` where nothing
/// could be read.
pub(super) fn choose(
    state_dir: &Path,
    now: DateTime<Utc>,
    progress: &ProgressCallback,
    timeline: Option<&Timeline>,
    database: Option<&Connection>,
    missing: &BTreeMap<String, BTreeSet<RowKey>>,
) -> Result<Choice> {
    let mut export = export(state_dir, now)?;
    let mut choice = Choice::default();
    let mut unclear: Vec<(usize, Good)> = Vec::new();
    let mut safety: Vec<Good> = Vec::new();
    let mut look = |good: Good, label: Option<&str>| -> Result<ControlFlow<()>> {
        let relation = match timeline {
            Some(timeline) => timeline.relation(&good.open()?, &good.at, label)?,
            None => Relation::Unclear,
        };
        match relation {
            Relation::Ours => {
                // Everything that is newer is in doubt.
                unclear.clear();
                choice.good = Some(good);
                return Ok(ControlFlow::Break(()));
            }
            Relation::Discarded => choice.notes.push(finding(
                "backup",
                format!("{} was not used: it holds what a restore has discarded", good.title()),
            )),
            Relation::Unclear if timeline.is_none() && label == Some(SAFETY_LABEL) => safety.push(good),
            Relation::Unclear => {
                let foreign = match database {
                    Some(database) => foreign(&good.open()?, database, missing)?,
                    None => 0,
                };
                unclear.push((foreign, good));
                // Without the database, the newest one is as good as can be had.
                if database.is_none() || unclear.len() >= MOST_COMPARED {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    };
    let mut is_done = false;
    backup::each_usable(state_dir, now, progress, |backup, copy| {
        if export.as_ref().is_some_and(|export| export.at.parse() > backup.created_at.parse())
            && let Some(export) = export.take()
            && look(export, None)?.is_break()
        {
            is_done = true;
            return Ok(ControlFlow::Break(()));
        }
        let label = backup.label.clone();
        let good = Good { has_numbers: !backup.is_document(), name: backup.id, at: backup.created_at, copy };
        let flow = look(good, Some(&label))?;
        is_done |= flow.is_break();
        Ok(flow)
    })?;
    if !is_done && let Some(export) = export.take() {
        let _ = look(export, None)?;
    }
    if choice.good.is_none() {
        // The newest of those that hold the least that the database does not know.
        let least = unclear.iter().map(|(foreign, _)| *foreign).min();
        let index = unclear.iter().position(|(foreign, _)| Some(*foreign) == least);
        choice.good = index.map(|index| unclear.swap_remove(index).1);
        let restored = timeline.and_then(Timeline::last_restore);
        if let Some(good) = &choice.good {
            if let Some((_, at)) = restored {
                choice.notes.push(finding(
                    "backup",
                    format!(
                        "{} is from before a checkpoint error_recovery at {at}, which may be a restore; whether that discarded \
                         what is in it, nothing tells. It is the newest that fits best to the database",
                        good.title()
                    ),
                ));
            } else if timeline.is_some_and(|timeline| !timeline.is_whole) {
                let message = format!(
                    "{} is the newest that fits to what could be read; whether a restore has discarded it, nothing tells",
                    good.title()
                );
                choice.notes.push(finding("backup", message));
            }
        }
    }
    for safety in safety {
        if choice.good.is_none() {
            choice.notes.push(finding(
                "backup",
                format!("{} was made by a restore, which may have discarded what is in it", safety.title()),
            ));
            choice.good = Some(safety);
        } else {
            choice.notes.push(finding(
                "backup",
                format!(
                    "{} was not used: a restore made it of the state that it then discarded. Should that restore have failed, go \
                     back to it (`agentmux-state backup restore {}`)",
                    safety.title(),
                    safety.name
                ),
            ));
        }
    }
    Ok(choice)
}

/// How much a good copy holds that a database of the same history would know: entities that it has not, and conversations that go
/// on further.
fn foreign(good: &Connection, database: &Connection, missing: &BTreeMap<String, BTreeSet<RowKey>>) -> Result<usize> {
    let mut foreign = 0;
    let is_missing = |table: &str, key: RowKey| missing.get(table).is_some_and(|missing| missing.contains(&key));
    for (table, key) in [("tasks", "id"), ("conversations", "id"), ("agents", "session_name"), ("projects", "id")] {
        let mut is_there = database.prepare(&format!("SELECT 1 FROM {table} WHERE {key} = ?1"))?;
        let mut select = good.prepare(&format!("SELECT {key} FROM {table}"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let id: String = row.get(0)?;
            if !is_there.exists([&id])? && !is_missing(table, vec![Key::Text(id)]) {
                foreign += 1;
            }
        }
    }
    let mut last = database.prepare("SELECT max(position) FROM messages WHERE conversation_id = ?1")?;
    let mut select = good.prepare("SELECT conversation_id, max(position) FROM messages GROUP BY 1")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (id, position): (String, i64) = (row.get(0)?, row.get(1)?);
        let known: Option<i64> = last.query_row([&id], |row| row.get(0))?;
        let is_missing = is_missing("messages", vec![Key::Text(id), Key::Integer(position)]);
        if known.is_some_and(|known| known < position) && !is_missing {
            foreign += 1;
        }
    }
    Ok(foreign)
}

/// The export that the last checkpoint left.
fn export(state_dir: &Path, now: DateTime<Utc>) -> Result<Option<Good>> {
    let path = state_dir.join(EXPORT_FILE);
    if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
        return Ok(None);
    }
    let copy = state_dir::temporary_file(state_dir, db::NEW_PREFIX)?;
    match db::create_copy(copy.path(), |conn| backup::import_document(conn, &path, now)) {
        Ok(()) => {}
        // Perhaps it is good: an older backup must not take its place because of that.
        Err(error @ (Error::Io { .. } | Error::Stream { .. } | Error::DiskFull { .. })) => return Err(error),
        Err(error) => {
            tracing::warn!(%error, "the export cannot be used");
            return Ok(None);
        }
    }
    let Some(state) = head::read(&db::open_damaged(copy.path())?)? else { return Ok(None) };
    Ok(Some(Good { name: EXPORT_FILE.to_owned(), at: state.checkpointed_at, has_numbers: false, copy }))
}
