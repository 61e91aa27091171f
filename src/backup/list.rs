//! Which backups there are.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use chrono::{DateTime, Utc};
use rustix::io::Errno;

use super::folder::{Backup, COPY_PREFIX, Folder, parse_id};
use crate::db::backup_label;
use crate::error::{Error, Result};
use crate::model::Timestamp;
use crate::state_dir::{WRITING_PREFIX, open_file, remove_temporary_files};

/// The backups of a state, newest first, as [`Backups::list`](crate::Backups::list), also where its database cannot be opened.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// assert_eq!(agentmux_state::list_backups(dir.path())?, []);
/// # Ok::<(), agentmux_state::Error>(())
/// ```
pub fn list_backups(state_dir: impl AsRef<Path>) -> Result<Vec<Backup>> {
    Folder::look(state_dir.as_ref())?.list()
}

/// The backup with that id.
pub(crate) fn find(state_dir: &Path, id: &str) -> Result<Backup> {
    Folder::look(state_dir)?.find(id)
}

/// How many backups there are; none where their folder cannot be reached, which is no matter of the state.
pub(crate) fn count(state_dir: &Path) -> Result<u64> {
    let folder = match Folder::look(state_dir) {
        Ok(folder) => folder,
        Err(error) => {
            tracing::warn!(%error, "the backups cannot be counted");
            return Ok(0);
        }
    };
    Ok(folder.entries()?.len() as u64)
}

impl Folder {
    /// All backups, newest first.
    pub(super) fn list(&self) -> Result<Vec<Backup>> {
        let mut backups = self.entries()?;
        for backup in backups.iter_mut().filter(|backup| !backup.is_document()) {
            // One that cannot be read keeps the label of its name; verifying it tells why.
            if let Ok(Some(label)) = backup_label(&backup.path) {
                backup.label = label;
            }
        }
        Ok(backups)
    }

    /// The backup with that id. An id is looked up, never made a path.
    pub(super) fn find(&self, id: &str) -> Result<Backup> {
        let found = self.entries()?.into_iter().find(|backup| backup.id == id);
        found.ok_or_else(|| Error::BackupNotFound { id: id.to_owned() })
    }

    /// All backups, newest first, as far as the folder tells without opening them. Links and other things that are no
    /// files are no backups.
    pub(super) fn entries(&self) -> Result<Vec<Backup>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", &self.path)(error)),
        };
        let mut backups = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &self.path))?;
            let name = entry.file_name();
            let Some((id, extension)) = name.to_str().and_then(|name| name.rsplit_once('.')) else { continue };
            let Some((millis, label)) = parse_id(id) else { continue };
            let metadata = match fs::symlink_metadata(entry.path()) {
                Ok(metadata) if metadata.is_file() && matches!(extension, "db" | "json") => metadata,
                _ => continue,
            };
            let sha256 = if extension == "db" { self.recorded_checksum(id)? } else { None };
            let changed = || metadata.modified().map(DateTime::<Utc>::from).unwrap_or_default();
            let created_at = millis.and_then(DateTime::from_timestamp_millis).unwrap_or_else(changed);
            backups.push(Backup {
                id: id.to_owned(),
                path: entry.path(),
                bytes: metadata.len(),
                created_at: Timestamp::from(created_at),
                label: label.to_owned(),
                sha256,
            });
        }
        backups.sort_by(|a, b| b.time().cmp(&a.time()).then_with(|| b.id.cmp(&a.id)));
        Ok(backups)
    }

    /// The checksum that was recorded for a backup, as `sha256sum` writes it; `None` where there is none that can be used.
    ///
    /// # Errors
    /// [`Error::Io`] where the disk fails to read it, which says nothing about the backup.
    fn recorded_checksum(&self, id: &str) -> Result<Option<String>> {
        let path = self.checksum_file(id);
        let mut line = String::new();
        // No more than a line: whatever else the file is, it is no checksum.
        match open_file(&path).and_then(|file| file.take(4096).read_to_string(&mut line)) {
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                return Err(Error::io("read", path)(error));
            }
            Err(_) => return Ok(None),
            Ok(_) => {}
        }
        let recorded = line.trim_end().split_once("  ").filter(|(_, file)| *file == format!("{id}.db"));
        Ok(recorded.map(|(sha256, _)| sha256.to_owned()))
    }

    /// Removes what killed processes left: unfinished files, and checksums without a backup. Only while the folder is held.
    pub(super) fn clear_remains(&self) -> Result<()> {
        remove_temporary_files(&self.path, &[COPY_PREFIX, WRITING_PREFIX])?;
        for entry in fs::read_dir(&self.path).map_err(Error::io("read", &self.path))?.flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".db.sha256"));
            if id.is_some_and(|id| parse_id(id).is_some() && !self.file(id).exists()) {
                fs::remove_file(entry.path()).map_err(Error::io("remove", entry.path()))?;
            }
        }
        Ok(())
    }
}
