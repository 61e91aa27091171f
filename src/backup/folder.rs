//! The folder of the backups, and what a backup is called.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::model::Timestamp;
use crate::state_dir::{self, BACKUP_DIRECTORY};

/// The label of the backup of a state that a restore replaced.
pub(crate) const SAFETY_LABEL: &str = "before-restore";

/// Labels of the copy of a file that another program wrote, and that an export replaced.
pub(crate) const KEPT_EXPORT_LABELS: [&str; 2] = ["before-first-export", "changed-export"];

/// Names of unfinished copies begin so.
pub(super) const COPY_PREFIX: &str = ".backup-";

/// The name of a backup: `backup-<unix ms>-<label>`.
pub type BackupId = String;

/// A backup of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// Its name; the label in it as far as a file name can hold it.
    pub id: BackupId,
    /// The file.
    #[serde(serialize_with = "crate::json::path")]
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// The label as given.
    pub label: String,
    /// Its checksum, in hexadecimal digits; `None` for a state document, as the TypeScript service made them.
    pub sha256: Option<String>,
}

impl Backup {
    /// Whether it is a state document, as the TypeScript service made them.
    pub fn is_document(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "json")
    }

    /// Whether it is a file that another program wrote in place of the export, and that an export replaced.
    pub(crate) fn is_kept_export(&self) -> bool {
        self.is_document() && KEPT_EXPORT_LABELS.contains(&self.label.as_str())
    }

    /// When it was made, by its name where that says so: also a year that no timestamp can be written with.
    pub(super) fn time(&self) -> DateTime<Utc> {
        time_of(&self.id).or_else(|| self.created_at.parse()).unwrap_or_default()
    }
}

/// The folder of the backups of a state.
///
/// Who holds it may wait for the database's write lock, never the other way round.
pub(crate) struct Folder {
    pub(super) path: PathBuf,
    /// Held against others who add or remove backups.
    _turn: Option<File>,
}

impl Folder {
    /// The folder, to look at.
    pub(super) fn look(state_dir: &Path) -> Result<Self> {
        // SQLite takes a relative path that begins with `file:` for something else.
        let state_dir = state_dir::resolve(state_dir).unwrap_or_else(|_| state_dir.to_path_buf());
        Ok(Self { path: followed(state_dir.join(BACKUP_DIRECTORY))?, _turn: None })
    }

    /// The folder, to change; waits for others who do. What killed ones left is cleared away.
    pub(crate) fn change(state_dir: &Path) -> Result<Self> {
        let path = followed(state_dir.join(BACKUP_DIRECTORY))?;
        state_dir::create_directory(&path)?;
        let turn = state_dir::lock_directory(&path)?;
        let folder = Self { path, _turn: Some(turn) };
        folder.clear_remains()?;
        Ok(folder)
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it that is removed when it is dropped, or by who changes the folder next.
    pub(crate) fn temporary_file(&self) -> Result<NamedTempFile> {
        state_dir::temporary_file(&self.path, COPY_PREFIX)
    }

    pub(super) fn file(&self, id: &str) -> PathBuf {
        self.path.join(format!("{id}.db"))
    }

    pub(super) fn checksum_file(&self, id: &str) -> PathBuf {
        self.path.join(format!("{id}.db.sha256"))
    }
}

/// The folder itself, where a link leads to it, for instance on another disk: SQLite opens nothing through a link.
fn followed(path: PathBuf) -> Result<PathBuf> {
    if !state_dir::is_link(&path) {
        return Ok(path);
    }
    fs::canonicalize(&path).map_err(|error| {
        let target = fs::read_link(&path).unwrap_or_default();
        let detail =
            format!("it is a link to {}, which cannot be reached ({error}): is that disk mounted?", target.display());
        Error::io("use", path)(io::Error::new(error.kind(), detail))
    })
}

/// The SHA-256 of what a reader gives, in hexadecimal digits, and its size. Never of a database that is open: closing
/// the file would drop SQLite's locks.
pub(super) fn checksum(
    mut reader: impl Read,
    path: &Path,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<(String, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        let read = reader.read(&mut buffer).map_err(Error::io("read", path))?;
        if read == 0 {
            return Ok((hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), bytes));
        }
        hasher.update(&buffer[..read]);
        each(&buffer[..read])?;
        bytes += read as u64;
    }
}

/// When a backup was made, where its id says so.
fn time_of(id: &str) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(parse_id(id)?.0?)
}

/// The time in milliseconds and the label of an id; the TypeScript service's may have no time.
pub(super) fn parse_id(id: &str) -> Option<(Option<i64>, &str)> {
    let rest = id.strip_prefix("backup-")?;
    let (millis, label) = rest.split_once('-').unwrap_or((rest, ""));
    match millis.parse() {
        Ok(millis) => Some((Some(millis), label)),
        Err(_) => Some((None, rest)),
    }
}
