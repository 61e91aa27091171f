//! Opening a database for writing: one of an older release is brought to this one's schema, after a verified backup.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::options::StoreOptions;
use crate::backup::{self, Backup};
use crate::db::{Database, LEFT_OUT_PREFIX};
use crate::error::{Error, Result};
use crate::state_dir::{DATABASE_FILE, DirectoryLock};

/// What came with the upgrade of a database.
pub(super) struct Upgrade {
    pub(super) backup: Backup,
    /// The file with what could not stay.
    pub(super) own_objects: Option<PathBuf>,
}

/// Opens the database for writing, upgraded where it is behind; with what came with that.
pub(super) fn open(state_dir: &Path, options: &StoreOptions) -> Result<(Database, Option<Upgrade>)> {
    // A service that is just starting upgrades the database itself, once it can.
    const SERVICE_PATIENCE: Duration = Duration::from_secs(5);
    let path = state_dir.join(DATABASE_FILE);
    let start = Instant::now();
    loop {
        let mut backup = None;
        let files_before = left_out_files(state_dir);
        let opened = Database::open(&path, options.durability, options.max_readers, &options.progress, || {
            // Before the write lock: somebody may hold the folder for long, as a dry run does.
            let folder = backup::Folder::change(state_dir).map_err(|error| backup_failed(&path, error))?;
            Ok(|| {
                // An orchestrator of an older release could write nothing more, once its database is upgraded under it.
                DirectoryLock::refuse_other_service(state_dir)?;
                let made =
                    backup::create_in(&folder, state_dir, "before-upgrade", options.clock.now(), &options.progress);
                backup = Some(made.map_err(|error| backup_failed(&path, error))?);
                drop(folder);
                Ok(())
            })
        });
        match opened {
            Err(Error::InUse { .. }) if start.elapsed() < SERVICE_PATIENCE => thread::sleep(Duration::from_millis(50)),
            opened => {
                let database = opened?;
                let new = || left_out_files(state_dir).into_iter().find(|file| !files_before.contains(file));
                let upgrade = backup.map(|backup| Upgrade { backup, own_objects: new() });
                return Ok((database, upgrade));
            }
        }
    }
}

/// The files in a state directory with what upgrades had no place for.
fn left_out_files(state_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(state_dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(LEFT_OUT_PREFIX))
        .map(|entry| entry.path())
        .collect()
}

fn backup_failed(path: &Path, source: Error) -> Error {
    Error::UpgradeBackupFailed { path: path.to_path_buf(), source: Box::new(source) }
}
