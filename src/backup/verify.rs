//! Whether a backup can be trusted.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::folder::{Backup, Folder, checksum};
use crate::db::verify_database;
use crate::document::{ImportOptions, export, validate};
use crate::error::{Error, Result};
use crate::progress::{ProgressCallback, Stage};

/// Whether a backup can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "camelCase")]
pub struct BackupVerdict {
    /// The backup.
    pub id: String,
    /// Whether nothing is wrong with it.
    pub ok: bool,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// Verifies one backup of a state, or all, as [`Backups::verify`](crate::Backups::verify), also where its database cannot be opened.
///
/// ```
/// use agentmux_state::{ProgressCallback, verify_backups};
///
/// # let dir = tempfile::tempdir().unwrap();
/// let verdicts = verify_backups(dir.path(), None, &ProgressCallback::default())?;
/// assert!(verdicts.iter().all(|verdict| verdict.ok));
/// # Ok::<(), agentmux_state::Error>(())
/// ```
///
/// # Errors
/// [`Error::BackupNotFound`] where there is no backup with that id.
pub fn verify_backups(
    state_dir: impl AsRef<Path>,
    id: Option<&str>,
    progress: &ProgressCallback,
) -> Result<Vec<BackupVerdict>> {
    let folder = Folder::look(state_dir.as_ref())?;
    let backups = match id {
        Some(id) => vec![folder.find(id)?],
        None => folder.entries()?,
    };
    let total = backups.len() as u64;
    let mut verdicts = Vec::new();
    for (done, backup) in (0..total).zip(&backups) {
        progress.report(Stage::Verifying, done, Some(total));
        let verdict = verify(backup);
        // One that somebody has removed meanwhile, as `prune` does beside this, is no bad one.
        match id {
            Some(id) if !verdict.ok && is_gone(backup) => {
                return Err(Error::BackupNotFound { id: id.to_owned() });
            }
            None if !verdict.ok && is_gone(backup) => {}
            _ => verdicts.push(verdict),
        }
    }
    progress.report(Stage::Verifying, total, Some(total));
    Ok(verdicts)
}

fn is_gone(backup: &Backup) -> bool {
    fs::symlink_metadata(&backup.path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

pub(super) fn verify(backup: &Backup) -> BackupVerdict {
    let problems = if backup.is_document() {
        verify_document(backup).err().map(|error| error.to_string())
    } else {
        verify_checksum(backup)
            .or_else(|| verify_content(&backup.path, backup.time()).err().map(|error| error.to_string()))
    };
    let problems: Vec<_> = problems.into_iter().collect();
    BackupVerdict { id: backup.id.clone(), ok: problems.is_empty(), problems }
}

/// Verifies the database in a backup, or in what is to become one: as a database, and that every entity in it can be read.
pub(super) fn verify_content(path: &Path, now: DateTime<Utc>) -> Result<()> {
    verify_database(path, |conn| export(conn, now, &ProgressCallback::default(), &mut std::io::sink()))
}

/// What is wrong with a backup's checksum.
fn verify_checksum(backup: &Backup) -> Option<String> {
    let found = File::open(&backup.path)
        .map_err(Error::io("read", &backup.path))
        .and_then(|file| checksum(file, &backup.path, |_| Ok(())));
    match found {
        Ok((found, _)) => checksum_problem(backup, &found),
        Err(error) => Some(error.to_string()),
    }
}

/// What is wrong where this is the checksum of a backup's file.
pub(super) fn checksum_problem(backup: &Backup, found: &str) -> Option<String> {
    match &backup.sha256 {
        None => Some("its checksum is missing or is not one".to_owned()),
        Some(recorded) if recorded != found => Some("its content is not what its checksum says".to_owned()),
        Some(_) => None,
    }
}

fn verify_document(backup: &Backup) -> Result<()> {
    let file = File::open(&backup.path).map_err(Error::io("read", &backup.path))?;
    let options = ImportOptions { source_name: backup.path.display().to_string(), ..ImportOptions::default() };
    validate(BufReader::with_capacity(64 * 1024, file), &options).map(drop)
}
