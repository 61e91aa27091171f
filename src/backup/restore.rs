//! Going back to a backup.
//!
//! The backup itself is only read: it is copied, verified, brought to this release's schema, and given what must not go
//! backwards; then the copy replaces the live database in one transaction of SQLite's backup API.

use std::fs::File;
use std::io::{BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde::Serialize;
use tempfile::NamedTempFile;

use super::create::create_safety;
use super::folder::{Backup, Folder, checksum};
use super::verify::{checksum_problem, verify_content};
use crate::db::{
    Database, LeftOut, NEW_PREFIX, confirm_damage, create_copy, keep_in_file, move_damaged_files, open_damaged,
    prepare_copy, prepare_copy_for, publish,
};
use crate::document::{ImportMode, ImportOptions, import};
use crate::error::{Error, ForeignFile, Result};
use crate::model::Run;
use crate::progress::ProgressCallback;
use crate::rows::{carry_over, checkpoint, head};
use crate::state_dir::{self, DATABASE_FILE, DirectoryLock};

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
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

/// The run that goes on while the state is replaced, where there is one.
type OwnRun<'r> = &'r dyn Fn(&Connection) -> Result<Option<Run>>;

/// Goes back to a backup of the state in an open database; see [`Backups::restore`](crate::Backups::restore).
pub(crate) fn restore(
    database: &Database,
    state_dir: &Path,
    id: &str,
    now: DateTime<Utc>,
    progress: &ProgressCallback,
    own_run: OwnRun<'_>,
) -> Result<RestoreReport> {
    let folder = Folder::change(state_dir)?;
    let backup = folder.find(id)?;
    let safety = || create_safety(&folder, state_dir, now, progress);
    let (safety_backup, own_objects) = if backup.is_document() {
        (restore_document(database, &backup, now, own_run, safety)?, None)
    } else {
        let copy = verified_copy(folder.temporary_file()?, &backup)?;
        // What could not stay is written to a file before the database is replaced, whatever comes then.
        let mut own_objects = None;
        let safety = database.replace_by(copy.path(), progress, || {
            let safety = safety()?;
            let left_out = database.read(|live| {
                prepare_copy_for(live, copy.path(), progress, |copy| {
                    carry_over::carry_over(live, copy, now, own_run(live)?.as_ref())
                })
            })?;
            own_objects = keep_in_file(state_dir, &left_out)?.or(own_objects.take());
            Ok(safety)
        })?;
        (safety, own_objects)
    };
    let (restored, safety_backup) = (backup.id, Some(safety_backup.id));
    Ok(RestoreReport { restored, safety_backup, set_aside_as: None, own_objects })
}

fn restore_document(
    database: &Database,
    backup: &Backup,
    now: DateTime<Utc>,
    own_run: OwnRun<'_>,
    safety: impl Fn() -> Result<Backup>,
) -> Result<Backup> {
    database.transaction(|conn| {
        let live = head::read(conn)?;
        import_document(conn, &backup.path, now)?;
        let run = own_run(conn)?;
        if let (Some(live), Some(_)) = (live, &run) {
            carry_over::keep_run(conn, &live.metadata)?;
        }
        checkpoint::record_restore(conn, now, run.as_ref())?;
        // Nothing is committed yet: another connection still sees the state as it was.
        safety()
    })
}

/// Puts a backup in the place of a database that this release cannot open, or of none.
pub(crate) fn restore_whole(
    state_dir: &Path,
    id: &str,
    now: DateTime<Utc>,
    progress: &ProgressCallback,
    present: &Present,
) -> Result<RestoreReport> {
    let state_dir = state_dir::prepare(state_dir)?;
    DirectoryLock::refuse_other_service(&state_dir)?;
    let _turn = state_dir::lock_directory(&state_dir)?;
    let folder = Folder::change(&state_dir)?;
    let backup = folder.find(id)?;
    let path = state_dir.join(DATABASE_FILE);
    // In the state directory: the folder of the backups may be a link to another disk.
    let file = state_dir::temporary_file(&state_dir, NEW_PREFIX)?;
    // What somebody added to a database that can be read goes on, as far as it can be told from what is ours.
    let live = if matches!(present, Present::Unreadable) { open_damaged(&path).ok() } else { None };
    let (copy, left_out) =
        usable_copy(file, &backup, live.as_ref(), now, progress, |copy| carry_over::begin_anew(copy, now))?;
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
        report.set_aside_as = Some(move_damaged_files(&path, now)?);
    }
    publish(copy, &path)?;
    Ok(report)
}

/// What stands where a backup is to go, and cannot be opened.
pub(crate) enum Present {
    /// Nothing.
    Gone,
    /// One that SQLite can read and this release cannot.
    Unreadable,
    /// What is left of one.
    Damaged,
}

impl Present {
    /// What makes the database fail to open, where a backup may take its place.
    pub(crate) fn of(error: Error) -> Result<Self> {
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
    .map_err(confirm_damage)?;
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
    // SQLite says the same of a read of the copy that the disk has failed.
    verify_content(copy.path(), backup.time()).map_err(confirm_damage).map_err(|error| match error {
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
