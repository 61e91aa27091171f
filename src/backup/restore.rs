//! Going back to a backup.
//!
//! The backup itself is only read: it is copied, verified, brought to this release's schema, and given what must not go
//! backwards; then the copy replaces the live database in one transaction of SQLite's backup API.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rusqlite::{Connection, params_from_iter, types::Value};
use serde::Serialize;
use tempfile::NamedTempFile;

use super::create::create_safety;
use super::verify::{checksum_problem, verify_backups, verify_content};
use super::{Backup, Folder, checksum};
use crate::db::{
    Database, LeftOut, NEW_PREFIX, create_copy, insert_sql, keep_in_file, open_damaged, prepare_copy, prepare_copy_for,
    publish, set_aside, tell_from_failed_read,
};
use crate::directory::{self, DATABASE_FILE};
use crate::document::{ImportMode, ImportOptions, import};
use crate::error::{Error, ForeignFile, Result};
use crate::lock::DirectoryLock;
use crate::model::OrchestratorMetadata;
use crate::progress::ProgressCallback;
use crate::store::{Run, StateStore, StoreOptions, checkpoint, head, run, set_aside};

/// What the backup of a state is called that was gone back from.
pub(crate) const SAFETY_LABEL: &str = "before-restore";

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreReport {
    /// The backup that the state was restored from.
    pub restored: String,
    /// The backup of the state as it was before; `None` where there was no database, or a damaged one.
    pub safety_backup: Option<String>,
    /// Where the files of a damaged database lie now, which are never deleted.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "crate::json::optional_path")]
    pub set_aside_as: Option<PathBuf>,
    /// The file with what somebody had added to the database and could not stay in it, as SQL; `None` where all of it stayed.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "crate::json::optional_path")]
    pub own_objects: Option<PathBuf>,
}

impl StateStore {
    /// Goes back to a backup: verifies it, makes a safety backup of the present state, and replaces the state in one
    /// transaction, under others who read. Killed at any point, it leaves the old state or the new.
    ///
    /// A backup of an older schema is upgraded in a copy first; a state document is imported. The history of runs and
    /// checkpoints, the restart count and records set aside do not go back; a checkpoint `error_recovery` is recorded. Nor does what
    /// somebody added to the database: tables of their own keep their rows, and columns that the backup lacks their values.
    ///
    /// ```
    /// use agentmux_state::{Error, StateStore, TaskState};
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = StateStore::open(dir.path())?;
    /// store.update_task(&TaskState { id: "T-1".into(), ..Default::default() })?;
    /// let backup = store.create_backup("good")?;
    /// store.remove_task("T-1")?;
    /// store.restore_backup(&backup.id)?;
    /// assert!(store.task("T-1")?.is_some());
    /// assert!(matches!(store.restore_backup("no-such-backup"), Err(Error::NotFound { kind: "backup", .. })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::BackupDamaged`], [`Error::SchemaTooNew`]: the state is as it was.
    pub fn restore_backup(&self, id: &str) -> Result<RestoreReport> {
        let folder = Folder::change(self.state_dir())?;
        let backup = folder.find(id)?;
        let now = self.now();
        let safety = || create_safety(&folder, self.state_dir(), now, &self.options().progress);
        let (safety_backup, own_objects) = if backup.is_document() {
            (self.restore_document(&backup, now, safety)?, None)
        } else {
            self.restore_database(&folder, &backup, now, safety)?
        };
        let (restored, safety_backup) = (backup.id, Some(safety_backup.id));
        Ok(RestoreReport { restored, safety_backup, set_aside_as: None, own_objects })
    }

    /// Opens the state as a backup holds it. Where the database can be opened, this is [`open_with`](Self::open_with) and
    /// [`restore_backup`](Self::restore_backup). It also goes back where the database cannot be opened: because it is gone,
    /// was upgraded by a newer release, its migration history or itself is damaged, or its upgrade fails. Such a one lies in
    /// a safety backup first, or its files are set aside, and it is replaced whole: runs, checkpoints and records set aside
    /// are then those of the backup.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// store.update_task(&TaskState { id: "T-1".into(), ..Default::default() })?;
    /// let backup = store.create_backup("good")?;
    /// drop(store);
    /// std::fs::remove_file(state_dir.join(DATABASE_FILE)).unwrap();
    /// let (store, report) = StateStore::open_restored(state_dir, &backup.id, StoreOptions::default())?;
    /// assert!(store.task("T-1")?.is_some());
    /// assert_eq!(report.safety_backup, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As both; [`Error::InUse`] where another process's service works on a database that this release cannot open.
    pub fn open_restored(
        state_dir: impl AsRef<Path>,
        id: &str,
        options: StoreOptions,
    ) -> Result<(Self, RestoreReport)> {
        let state_dir = state_dir.as_ref();
        // A mistyped id must not make anything.
        Folder::look(state_dir)?.find(id)?;
        let opened = Self::migration_status(state_dir).and_then(|status| {
            if !status.pending.is_empty() {
                // Before the database is upgraded for the sake of a backup that cannot be used.
                let verdict = verify_backups(state_dir, Some(id), &options.progress)?.remove(0);
                if !verdict.ok {
                    return Err(Error::BackupDamaged { id: verdict.id, problems: verdict.problems });
                }
            }
            Self::open_with(state_dir, options.clone())
        });
        let report = match opened {
            Ok(store) => return store.restore_backup(id).map(|report| (store, report)),
            Err(error) => restore_whole(state_dir, id, &options, &Present::of(error)?)?,
        };
        Ok((Self::open_with(state_dir, options)?, report))
    }

    fn restore_database(
        &self,
        folder: &Folder,
        backup: &Backup,
        now: DateTime<Utc>,
        safety: impl Fn() -> Result<Backup>,
    ) -> Result<(Backup, Option<PathBuf>)> {
        let copy = verified_copy(folder.temporary_file()?, backup)?;
        // What could not stay is written to a file before the database is replaced, whatever comes then.
        let mut own_objects = None;
        let safety = self.database().replace_by(copy.path(), &self.options().progress, || {
            let safety = safety()?;
            let left_out = self.read(|live| {
                prepare_copy_for(live, copy.path(), &self.options().progress, |copy| {
                    carry_over(live, copy, now, self.own_run(live)?.as_ref())
                })
            })?;
            own_objects = keep_in_file(self.state_dir(), &left_out)?.or(own_objects.take());
            Ok(safety)
        })?;
        Ok((safety, own_objects))
    }

    fn restore_document(
        &self,
        backup: &Backup,
        now: DateTime<Utc>,
        safety: impl Fn() -> Result<Backup>,
    ) -> Result<Backup> {
        self.transaction(|conn| {
            let live = head::read(conn)?;
            import_document(conn, &backup.path, now)?;
            let run = self.own_run(conn)?;
            if let (Some(live), Some(_)) = (live, &run) {
                keep_run(conn, &live.metadata)?;
            }
            checkpoint::record_restore(conn, now, run.as_ref())?;
            // Nothing is committed yet: another connection still sees the state as it was.
            safety()
        })
    }
}

/// Puts a backup in the place of a database that this release cannot open, or of none.
fn restore_whole(state_dir: &Path, id: &str, options: &StoreOptions, present: &Present) -> Result<RestoreReport> {
    let state_dir = directory::prepare(state_dir)?;
    DirectoryLock::refuse_other_service(&state_dir)?;
    let _turn = directory::lock(&state_dir)?;
    let folder = Folder::change(&state_dir)?;
    let backup = folder.find(id)?;
    let (now, progress) = (options.clock.now(), &options.progress);
    let path = state_dir.join(DATABASE_FILE);
    // In the state directory: the folder of the backups may be a link to another disk.
    let file = directory::temporary_file(&state_dir, NEW_PREFIX)?;
    // What somebody added to a database that can be read goes on, as far as it can be told from what is ours.
    let live = if matches!(present, Present::Unreadable) { open_damaged(&path).ok() } else { None };
    let (copy, left_out) = usable_copy(file, &backup, live.as_ref(), now, progress, |copy| begin_anew(copy, now))?;
    drop(live);
    let own_objects = keep_in_file(&state_dir, &left_out)?;
    let mut report = RestoreReport { restored: backup.id, safety_backup: None, set_aside_as: None, own_objects };
    if matches!(present, Present::Unreadable) {
        let safety = || create_safety(&folder, &state_dir, now, progress);
        match Database::open_to_replace(&path).and_then(|live| live.replace_by(copy.path(), progress, safety)) {
            Ok(safety) => {
                report.safety_backup = Some(safety.id);
                return Ok(report);
            }
            Err(Error::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if !matches!(present, Present::Gone) {
        report.set_aside_as = Some(set_aside(&path, now)?);
    }
    publish(copy, &path)?;
    Ok(report)
}

/// Writes into a copy that takes the place of a whole database: it is no backup any more, its export is another file, and those
/// who follow the changes start over.
pub(crate) fn begin_anew(copy: &Connection, now: DateTime<Utc>) -> Result<()> {
    copy.execute_batch("DELETE FROM backup; DELETE FROM export")?;
    checkpoint::record_restore(copy, now, None)
}

/// What stands where a backup is to go, and cannot be opened.
enum Present {
    /// Nothing.
    Gone,
    /// One that SQLite can read and this release cannot.
    Unreadable,
    /// What is left of one.
    Damaged,
}

impl Present {
    /// What makes the database fail to open, where a backup may take its place.
    fn of(error: Error) -> Result<Self> {
        match error {
            Error::NoDatabase { .. } => Ok(Self::Gone),
            Error::SchemaTooNew { .. }
            | Error::HistoryDamaged { .. }
            | Error::MigrationFailed { .. }
            | Error::SchemaChanged { .. } => Ok(Self::Unreadable),
            Error::Corrupt { .. } => Ok(Self::Damaged),
            Error::NotAStateDatabase { found: ForeignFile::Empty | ForeignFile::NotSqlite, .. } => Ok(Self::Damaged),
            Error::UpgradeBackupFailed { path, source } => match *source {
                Error::Corrupt { .. } => Ok(Self::Damaged),
                Error::InvalidRow { .. } => Ok(Self::Unreadable),
                other => Err(Error::UpgradeBackupFailed { path, source: Box::new(other) }),
            },
            other => Err(other),
        }
    }
}

/// Hands the backups that can be trusted to `take`, newest first, each with a copy of it in a database of this release, until it
/// wants no more.
pub(crate) fn each_usable(
    state_dir: &Path,
    now: DateTime<Utc>,
    progress: &ProgressCallback,
    mut take: impl FnMut(Backup, NamedTempFile) -> Result<ControlFlow<()>>,
) -> Result<()> {
    if Folder::look(state_dir)?.list()?.is_empty() {
        // No folder is made for none.
        return Ok(());
    }
    let folder = Folder::change(state_dir)?;
    for backup in folder.list()? {
        match usable_copy(folder.temporary_file()?, &backup, None, now, progress, |_| Ok(())) {
            Ok((copy, _)) => {
                if take(backup, copy)?.is_break() {
                    break;
                }
            }
            // Perhaps the backup is good: an older one must not take its place because of that.
            Err(error @ (Error::Io { .. } | Error::DiskFull { .. } | Error::Busy { .. })) => return Err(error),
            Err(error) => tracing::warn!(%error, backup = backup.id, "this backup cannot be used"),
        }
    }
    Ok(())
}

/// Fills an empty file with a copy of a backup that can be trusted, in a database of this release, into which `finish` has written;
/// with what somebody had added to the live database, where there is one, and what of that, or of the backup's, could not stay.
fn usable_copy(
    copy: NamedTempFile,
    backup: &Backup,
    live: Option<&Connection>,
    now: DateTime<Utc>,
    progress: &ProgressCallback,
    finish: impl FnOnce(&Connection) -> Result<()>,
) -> Result<(NamedTempFile, Vec<LeftOut>)> {
    let copy = if backup.is_document() {
        create_copy(copy.path(), |copy| import_document(copy, &backup.path, now))?;
        copy
    } else {
        verified_copy(copy, backup)?
    };
    let left_out = match live {
        Some(live) => prepare_copy_for(live, copy.path(), progress, finish),
        None => prepare_copy(copy.path(), progress, finish),
    }
    .map_err(tell_from_failed_read)?;
    Ok((copy, left_out))
}

/// Fills an empty file with a backup that is what its checksum says, and a state database of a schema that this release knows.
fn verified_copy(copy: NamedTempFile, backup: &Backup) -> Result<NamedTempFile> {
    let file = File::open(&backup.path).map_err(Error::io("read", &backup.path))?;
    let (found, _) =
        checksum(file, &backup.path, |bytes| copy.as_file().write_all(bytes).map_err(Error::io("write", copy.path())))?;
    let damaged = |problem| Error::BackupDamaged { id: backup.id.clone(), problems: vec![problem] };
    if let Some(problem) = checksum_problem(backup, &found) {
        return Err(damaged(problem));
    }
    verify_content(copy.path(), backup.time()).map_err(|error| match error {
        Error::SchemaTooNew { found, supported, .. } => {
            Error::SchemaTooNew { path: backup.path.clone(), found, supported }
        }
        // Not the backup's fault.
        Error::DiskFull { .. } | Error::Io { .. } | Error::Busy { .. } => error,
        other => damaged(other.to_string().replace(&copy.path().display().to_string(), "it")),
    })?;
    Ok(copy)
}

/// Replaces the state in a database by that of a state document.
pub(crate) fn import_document(conn: &Connection, path: &Path, now: DateTime<Utc>) -> Result<()> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let source_name = path.display().to_string();
    let options =
        ImportOptions { mode: ImportMode::Replace, allow_shrink: true, source_name, ..ImportOptions::default() };
    import(conn, now, BufReader::with_capacity(64 * 1024, file), &options).map(drop)
}

/// The metadata of the run that goes on, in a state that was restored.
fn keep_run(conn: &Connection, live: &OrchestratorMetadata) -> Result<()> {
    let Some(mut state) = head::read(conn)? else { return Ok(()) };
    state.metadata.hostname = live.hostname.clone();
    state.metadata.pid = live.pid;
    state.metadata.started_at = live.started_at.clone();
    head::write(conn, &state)
}

/// Brings into a copy what must not go backwards when it takes the live database's place.
///
/// `present` is the run that goes on, where one does.
fn carry_over(live: &Connection, copy: &Connection, now: DateTime<Utc>, present: Option<&Run>) -> Result<()> {
    // Of two histories the longer one stays: the live one, but where the backup comes from elsewhere.
    for (table, key) in [("checkpoints", "checkpoint_id"), ("runs", "run_id")] {
        let newest = format!("SELECT coalesce(max({key}), 0) FROM {table}");
        let of = |conn: &Connection| conn.query_row(&newest, [], |row| row.get::<_, i64>(0));
        if of(live)? >= of(copy)? {
            copy.execute(&format!("DELETE FROM {table}"), [])?;
            copy_rows(live, copy, table)?;
        } else if table == "runs" {
            run::close_open_as_crashed(copy)?;
            if let Some(run) = present {
                run::insert(copy, run)?;
            }
        }
    }
    copy.execute("DELETE FROM export", [])?;
    copy_rows(live, copy, "export")?;
    keep_set_aside(live, copy)?;
    copy.execute("DELETE FROM backup", [])?;
    if let Some(live) = head::read(live)? {
        if present.is_some() {
            keep_run(copy, &live.metadata)?;
        }
        if let Some(mut state) = head::read(copy)? {
            state.metadata.restart_count = state.metadata.restart_count.max(live.metadata.restart_count);
            head::write(copy, &state)?;
        }
    }
    let run = if present.is_some() { run::open(copy)? } else { None };
    checkpoint::record_restore(copy, now, run.as_ref())
}

fn keep_set_aside(live: &Connection, copy: &Connection) -> Result<()> {
    let kept: HashSet<_> = set_aside::read(copy)?.into_iter().collect();
    for record in set_aside::read(live)?.iter().filter(|record| !kept.contains(record)) {
        set_aside::insert(copy, record)?;
    }
    Ok(())
}

/// Copies all rows of a table, as far as both sides have its columns: a person may have added one.
fn copy_rows(from: &Connection, to: &Connection, table: &str) -> Result<()> {
    let columns = |conn: &Connection| -> Result<Vec<String>> {
        let select = conn.prepare(&format!("SELECT * FROM {table}"))?;
        Ok(select.column_names().iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect())
    };
    let known = columns(to)?;
    let columns: Vec<_> = columns(from)?.into_iter().filter(|column| known.contains(column)).collect();
    let mut select = from.prepare(&format!("SELECT {} FROM {table}", columns.join(", ")))?;
    let mut insert = to.prepare(&insert_sql(table, &columns))?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let values =
            (0..columns.len()).map(|index| row.get::<_, Value>(index)).collect::<rusqlite::Result<Vec<_>>>()?;
        insert.execute(params_from_iter(values))?;
    }
    Ok(())
}
