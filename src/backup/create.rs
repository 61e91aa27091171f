//! Making a backup.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::folder::{Backup, Folder, SAFETY_LABEL, checksum};
use super::verify::verify_content;
use crate::db::{copy_database, has_known_schema, verify_integrity};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Timestamp};
use crate::progress::{ProgressCallback, Stage};
use crate::rows::backup_mark;
use crate::state_dir::{DATABASE_FILE, replace_file, sync_directory};

/// Whether the newest backup is older than the interval, and something was checkpointed since. Backups from the future, as
/// a clock that was wrong leaves them, do not count: they neither put off the next one nor ask for another at each checkpoint.
pub(crate) fn is_due(state_dir: &Path, interval: Duration, last: &Checkpoint, now: DateTime<Utc>) -> Result<bool> {
    let times = Folder::look(state_dir)?.entries()?.into_iter().map(|backup| backup.time());
    let Some(newest) = times.filter(|time| *time <= now).max() else { return Ok(true) };
    let is_old = now.signed_duration_since(newest).to_std().is_ok_and(|age| age >= interval);
    // A checkpoint from the future was made before the clock was set back.
    Ok(is_old && last.checkpointed_at.parse().is_none_or(|at| at > newest))
}

/// Makes a backup of the database in a state directory.
pub(crate) fn create(state_dir: &Path, label: &str, now: DateTime<Utc>, progress: &ProgressCallback) -> Result<Backup> {
    create_in(&Folder::change(state_dir)?, state_dir, label, now, progress)
}

/// As [`create`], in a folder that the caller holds already. The copy gets its name only where it passes what a later
/// verification looks at.
pub(crate) fn create_in(
    folder: &Folder,
    state_dir: &Path,
    label: &str,
    now: DateTime<Utc>,
    progress: &ProgressCallback,
) -> Result<Backup> {
    make(folder, state_dir, label, now, progress, |copy| verify_content(copy, now))
}

/// The backup of a state that is about to be gone back from. That state may be of a newer release, or hold what cannot be read, and
/// must not keep anybody from going back: such a backup is made all the same, and logged.
pub(super) fn create_safety(
    folder: &Folder,
    state_dir: &Path,
    now: DateTime<Utc>,
    progress: &ProgressCallback,
) -> Result<Backup> {
    make(folder, state_dir, SAFETY_LABEL, now, progress, |copy| {
        verify_integrity(copy)?;
        match verify_content(copy, now) {
            Ok(()) => {}
            // It is what the restore is for.
            Err(Error::SchemaTooNew { .. } | Error::HistoryDamaged { .. }) => {
                tracing::info!("the backup before the restore is one for another release");
            }
            Err(error) => {
                let path = copy.display().to_string();
                let problem = error.to_string().replace(&path, &state_dir.join(DATABASE_FILE).display().to_string());
                tracing::warn!(problem, "the backup before the restore holds the state with what is wrong with it");
            }
        }
        Ok(())
    })
}

fn make(
    folder: &Folder,
    state_dir: &Path,
    label: &str,
    now: DateTime<Utc>,
    progress: &ProgressCallback,
    verify: impl FnOnce(&Path) -> Result<()>,
) -> Result<Backup> {
    let file = folder.temporary_file()?;
    let id = folder.unused_id(label, now);
    let created_at = Timestamp::from(now);
    let source = state_dir.join(DATABASE_FILE);
    copy_database(&source, file.path(), progress, |copy| {
        if !has_known_schema(copy) {
            // The label is then that of the name.
            return Ok(());
        }
        backup_mark::note(copy, &id, label, &created_at)
    })?;
    progress.report(Stage::Verifying, 0, Some(1));
    verify(file.path()).map_err(|error| match error {
        // What is wrong with a copy was wrong with its source.
        Error::Corrupt { detail, .. } => Error::Corrupt { path: source.clone(), detail },
        Error::SchemaChanged { differences, .. } => Error::SchemaChanged { path: source.clone(), differences },
        Error::OwnObject { objects, source: reason, .. } => {
            Error::OwnObject { path: source.clone(), objects, source: reason }
        }
        Error::HistoryDamaged { problem, .. } => Error::HistoryDamaged { path: source.clone(), problem },
        other => other,
    })?;
    progress.report(Stage::Verifying, 1, Some(1));
    let copy = File::open(file.path()).map_err(Error::io("read", file.path()))?;
    // The disk and the processor work at the same time, where there is a thread to be had.
    let hash = |copy: File| checksum(copy, file.path(), |_| Ok(()));
    let second = copy.try_clone().map_err(Error::io("read", file.path()))?;
    let (synced, hashed) = thread::scope(|scope| {
        match thread::Builder::new().name("state-checksum".into()).spawn_scoped(scope, || hash(copy)) {
            Ok(hashing) => (file.as_file().sync_all(), hashing.join()),
            Err(_) => (file.as_file().sync_all(), Ok(hash(second))),
        }
    });
    synced.map_err(Error::io("write", file.path()))?;
    let (sha256, bytes) = hashed.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let path = folder.file(&id);
    let checksum_file = folder.checksum_file(&id);
    replace_file(&checksum_file, |out| writeln!(out, "{sha256}  {id}.db").map_err(Error::io("write", &checksum_file)))?;
    file.persist_noclobber(&path).map_err(|error| Error::io("create", &path)(error.error))?;
    sync_directory(&folder.path)?;
    tracing::info!(%id, bytes, "made a backup");
    Ok(Backup { id, path, bytes, created_at, label: label.to_owned(), sha256: Some(sha256) })
}

impl Folder {
    /// An id that no file in the folder has: that of the moment, or of the next free millisecond.
    pub(crate) fn unused_id(&self, label: &str, now: DateTime<Utc>) -> String {
        let name = file_name(label);
        let mut millis = now.timestamp_millis();
        loop {
            let id = format!("backup-{millis}-{name}");
            if ["db", "json"].iter().all(|extension| !self.path.join(format!("{id}.{extension}")).exists()) {
                return id;
            }
            millis += 1;
        }
    }
}

/// A label as a part of a file name: letters, digits, `.`, `_` and `-`, at most 64 of them.
fn file_name(label: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let name: String = label.chars().map(safe).take(64).collect();
    if name.trim_matches(['-', '.']).is_empty() { "backup".to_owned() } else { name }
}
