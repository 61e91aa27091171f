//! Failures of SQLite, by kind: classified by their code, never by their text.

use std::io;
use std::path::{Path, PathBuf};

use super::{Error, ForeignFile};

impl Error {
    /// Names the database that a failure of SQLite belongs to, and classifies it.
    pub(crate) fn with_path(self, path: &Path) -> Self {
        use rusqlite::{ErrorCode, ffi};

        let Self::Sqlite { source, .. } = self else { return self };
        let path = path.to_path_buf();
        // Every table is STRICT: no statement stores such a value.
        if matches!(
            source,
            rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::Utf8Error(..)
        ) {
            return Self::Corrupt { path, detail: source.to_string() };
        }
        let extended_code = source.sqlite_error().map(|error| error.extended_code);
        match source.sqlite_error_code() {
            // The shared memory file beside the database, which readers need, too, could not grow.
            _ if extended_code == Some(ffi::SQLITE_IOERR_SHMSIZE) => Self::DiskFull { path },
            Some(ErrorCode::SystemIoFailure) => {
                let action = match extended_code {
                    Some(ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_FSTAT) => "read",
                    Some(ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_TRUNCATE) => "write",
                    Some(ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC) => "sync",
                    _ => "read or write",
                };
                let mut detail = source.to_string();
                if action.starts_with("read") {
                    // It is no damage: nobody should go back to an older state because of it.
                    detail = format!("{detail}; try again, and if it fails again, check the disk");
                }
                Self::Io { action, path, source: io::Error::other(detail) }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path },
            Some(ErrorCode::DatabaseCorrupt) => Self::Corrupt { path, detail: source.to_string() },
            Some(ErrorCode::NotADatabase) => Self::NotAStateDatabase { path, found: ForeignFile::NotSqlite },
            Some(ErrorCode::DiskFull) => Self::DiskFull { path },
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => match (read_only_directory(&path), source) {
                (Some(detail), _) => Self::ReadOnly { path, detail },
                (None, source) if source.sqlite_error_code() == Some(ErrorCode::ReadOnly) => {
                    Self::ReadOnly { path, detail: source.to_string() }
                }
                (None, source) => Self::Io { action: "open", path, source: io::Error::other(source.to_string()) },
            },
            _ => Self::Sqlite { path, source },
        }
    }

    /// Whether SQLite could not make sense of a statement: the schema is not what the statement expects.
    pub(crate) fn is_refused_statement(&self) -> bool {
        let Self::Sqlite { source, .. } = self else { return false };
        match source {
            rusqlite::Error::SqlInputError { .. } => true,
            other => other.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_ERROR),
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite { path: PathBuf::new(), source }
    }
}

/// Why a database cannot be opened, where it is its directory that cannot be written.
fn read_only_directory(database: &Path) -> Option<String> {
    // A file without a name, which is gone at once.
    let refused = tempfile::tempfile_in(database.parent()?).err()?;
    let is_refused = matches!(refused.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
    (is_refused && database.exists()).then(|| {
        format!(
            "its directory cannot be written ({refused}), where SQLite keeps files while a database is open, also to read it. \
             Make the directory writable, or read a copy of it or a backup"
        )
    })
}
