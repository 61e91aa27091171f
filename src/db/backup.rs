//! Copying a database through SQLite, while others write it.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OptionalExtension};

use super::connection;
use crate::error::{Error, Result};

/// How long a copy waits for locks that others hold.
const DEADLINE: Duration = Duration::from_secs(60);

/// Copies a database, as it is in one moment, into an empty file, and leaves that file complete by itself: without a
/// write-ahead log, so that it also opens on a read-only medium. `mark` writes into the copy, which is then checked.
pub(crate) fn copy_database(source: &Path, target: &Path, mark: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
    let source_conn = connection::open_reader(source).map_err(|error| error.at(source))?;
    copy(&source_conn, target, mark).map_err(|error| error.at(target))
}

fn copy(source: &Connection, target: &Path, mark: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
    let mut copy = connection::open_writer(target)?;
    {
        let backup = Backup::new(source, &mut copy)?;
        let deadline = Instant::now() + DEADLINE;
        // All pages in one step: in several ones, every write of others would start the copy anew.
        loop {
            match backup.step(-1)? {
                StepResult::Done => break,
                _ if Instant::now() > deadline => return Err(Error::Busy { path: target.to_path_buf() }),
                _ => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
    let mode: String = copy.pragma_update_and_check(None, "journal_mode", "delete", |row| row.get(0))?;
    if mode != "delete" {
        return Err(Error::Corrupt { path: target.to_path_buf(), detail: format!("its journal mode stayed {mode}") });
    }
    mark(&copy)?;
    check(&copy, target)?;
    copy.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// Fails where SQLite finds anything wrong with a database.
fn check(conn: &Connection, path: &Path) -> Result<()> {
    let corrupt = |detail| Error::Corrupt { path: path.to_path_buf(), detail };
    let verdict: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(corrupt(verdict));
    }
    let broken: Option<String> = conn.query_row("PRAGMA foreign_key_check", [], |row| row.get(0)).optional()?;
    broken.map_or(Ok(()), |table| Err(corrupt(format!("rows of {table} refer to nothing"))))
}
