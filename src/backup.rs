//! Backups: each is one complete file in `backups/` with its checksum beside it.
//!
//! A backup is copied by SQLite under a temporary name, checked, and put on the disk before it gets its name; the
//! checksum comes last, so that a backup with a checksum is complete.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rusqlite::params;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::db::copy_database;
use crate::directory::{self, BACKUP_DIRECTORY, DATABASE_FILE, private_file, replace_file, sync_directory};
use crate::error::{Error, Result};
use crate::model::Timestamp;
use crate::store::StateStore;

/// A backup of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// `backup-<unix ms>-<label>`; the label as far as a file name can hold it.
    pub id: String,
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// The label as given.
    pub label: String,
    /// Its checksum, in hexadecimal digits.
    pub sha256: String,
}

impl StateStore {
    /// Makes a backup in `backups/`: the state as it is in one moment, complete in one file, checked, on the disk. Others
    /// may write meanwhile.
    ///
    /// ```
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = agentmux_state::StateStore::open(dir.path())?;
    /// let backup = store.create_backup("before the upgrade")?;
    /// assert!(backup.id.ends_with("-before-the-upgrade"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_backup(&self, label: &str) -> Result<Backup> {
        create(self.state_dir(), label, self.options().clock.now())
    }
}

pub(crate) fn create(state_dir: &Path, label: &str, now: DateTime<Utc>) -> Result<Backup> {
    let directory = state_dir.join(BACKUP_DIRECTORY);
    directory::create_directory(&directory)?;
    let file = tempfile::Builder::new()
        .prefix(".backup-")
        .suffix(".tmp")
        .permissions(private_file())
        .tempfile_in(&directory)
        .map_err(Error::io("create a file in", &directory))?;
    let id = unused_id(&directory, label, now);
    let created_at = Timestamp::from(now);
    copy_database(&state_dir.join(DATABASE_FILE), file.path(), |copy| {
        copy.execute("DELETE FROM backup", [])?;
        copy.execute(
            "INSERT INTO backup (singleton, backup_id, label, created_at) VALUES (1, ?, ?, ?)",
            params![id, label, created_at.as_str()],
        )?;
        Ok(())
    })?;
    let (sha256, bytes) = checksum(file.path())?;
    file.as_file().sync_all().map_err(Error::io("write", file.path()))?;
    let path = directory.join(format!("{id}.db"));
    file.persist_noclobber(&path).map_err(|error| Error::io("create", &path)(error.error))?;
    sync_directory(&directory)?;
    replace_file(&directory.join(format!("{id}.db.sha256")), |out| {
        writeln!(out, "{sha256}  {id}.db").map_err(Error::io("write", &path))
    })?;
    Ok(Backup { id, path, bytes, created_at, label: label.to_owned(), sha256 })
}

/// An id that no file in the folder has: that of the moment, or of the next free millisecond.
pub(crate) fn unused_id(directory: &Path, label: &str, now: DateTime<Utc>) -> String {
    let name = file_name(label);
    let mut millis = now.timestamp_millis();
    loop {
        let id = format!("backup-{millis}-{name}");
        if ["db", "json"].iter().all(|extension| !directory.join(format!("{id}.{extension}")).exists()) {
            return id;
        }
        millis += 1;
    }
}

/// How many backups there are, those of the TypeScript service among them.
pub(crate) fn count(state_dir: &Path) -> Result<u64> {
    let directory = state_dir.join(BACKUP_DIRECTORY);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(Error::io("read", directory)(error)),
    };
    let is_backup = |name: &str| name.starts_with("backup-") && (name.ends_with(".db") || name.ends_with(".json"));
    Ok(entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_backup)).count() as u64)
}

/// A label as a part of a file name: letters, digits, `.`, `_` and `-`, at most 64 of them.
fn file_name(label: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let name: String = label.chars().map(safe).take(64).collect();
    if name.trim_matches(['-', '.']).is_empty() { "backup".to_owned() } else { name }
}

/// The SHA-256 of a file, in hexadecimal digits, and its size. Never of a database that is open: see [`crate::db`].
fn checksum(path: &Path) -> Result<(String, u64)> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if read == 0 {
            return Ok((hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), bytes));
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}
