//! A limit on the work that a database file can cause: a crafted or damaged b-tree may lead back into itself, so that reading it
//! never ends.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::{Connection, ErrorCode};

use crate::error::{Error, Result};

/// Instructions of SQLite's virtual machine between two looks at the budget.
const STEP: i32 = 1000;

/// Steps for any file, and bytes of a file for one more step. A check of a sound database takes less than a tenth of it.
const BASE: u64 = 20_000;
const BYTES_PER_STEP: u64 = 200;

/// The work that statements of one connection may still do before SQLite interrupts them.
#[derive(Clone)]
pub(crate) struct Budget {
    whole: i64,
    left: Arc<AtomicI64>,
}

impl Budget {
    /// Limits the statements of a connection by the size of its database's files.
    pub(crate) fn limit(conn: &Connection, path: &Path) -> Result<Self> {
        let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        let bytes = size(path) + size(Path::new(&wal));
        let whole = i64::try_from(BASE + bytes / BYTES_PER_STEP).unwrap_or(i64::MAX);
        let left = Arc::new(AtomicI64::new(whole));
        let counted = left.clone();
        conn.progress_handler(STEP, Some(move || counted.fetch_sub(1, Ordering::Relaxed) <= 0))?;
        Ok(Self { whole, left })
    }

    /// Grants the whole budget again, for the next part of the work.
    pub(crate) fn renew(&self) {
        self.left.store(self.whole, Ordering::Relaxed);
    }

    /// Whether statements were interrupted since it was last renewed.
    pub(crate) fn is_spent(&self) -> bool {
        self.left.load(Ordering::Relaxed) < 0
    }
}

/// Whether a statement failed because its budget was spent.
pub(crate) fn is_interrupted(error: &Error) -> bool {
    matches!(error, Error::Sqlite { source, .. } if source.sqlite_error_code() == Some(ErrorCode::OperationInterrupted))
}
