//! Copying a database through SQLite while others write it, and writing a copy back.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OptionalExtension};

use super::schema::schema_differences_from;
use super::{connection, migrations};
use crate::error::{Error, Result};
use crate::progress::{ProgressCallback, Stage};

/// How long a copy waits for locks that others hold.
const DEADLINE: Duration = Duration::from_secs(60);

/// Pages that are copied at a time: 8 MB.
const STEP: i32 = 2048;

/// Copies a database, as it is in one moment, into an empty file, and leaves that file complete by itself: without a
/// write-ahead log, so that it also opens on a read-only medium. `mark` writes into the copy, which is then checked.
pub(crate) fn copy_database(
    source: &Path,
    target: &Path,
    progress: &ProgressCallback,
    mark: impl FnOnce(&Connection) -> Result<()>,
) -> Result<()> {
    let source_path = source;
    let copy = || {
        let mut source = connection::open_reader(source_path).map_err(|error| error.at(source_path))?;
        // A moment that is held open: a copy in steps would else start anew with each write of others.
        let moment = source.transaction()?;
        moment.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        let mut copy = connection::open_writer(target)?;
        // Nobody relies on the copy until it is complete; then the caller puts all of it on the disk at once.
        copy.pragma_update(None, "synchronous", "off")?;
        copy_pages(&moment, &mut copy, Stage::Copying, progress, || Ok(true)).map_err(|error| {
            match error.at(target) {
                Error::Corrupt { detail, .. } => corrupt(source_path, detail),
                other => other,
            }
        })?;
        leave_log(&copy, target)?;
        mark(&copy)?;
        progress.report(Stage::Verifying, 0, Some(1));
        // What is wrong with a copy was wrong with its source.
        check(&copy, source_path)?;
        progress.report(Stage::Verifying, 1, Some(1));
        copy.close().map_err(|(_, error)| error)?;
        Ok(())
    };
    copy().map_err(|error: Error| error.at(target))
}

/// Copies the pages of a database into an empty file as they are, damaged ones, too.
pub(crate) fn copy_raw(source: &Connection, target: &Path) -> Result<()> {
    let mut copy = connection::open_writer(target)?;
    copy.pragma_update(None, "synchronous", "off")?;
    copy_pages(source, &mut copy, Stage::Copying, &ProgressCallback::default(), || Ok(true))?;
    copy.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// Opens a copy that belongs to us alone, brings it to this release's schema, lets `change` write into it, and checks it.
pub(crate) fn prepare_copy(
    copy: &Path,
    progress: &ProgressCallback,
    change: impl FnOnce(&Connection) -> Result<()>,
) -> Result<()> {
    let prepare = || {
        let mut conn = connection::open_writer(copy)?;
        migrations::release().migrate(&mut conn, copy, progress, || Ok(|| Ok(())))?;
        let transaction = conn.transaction()?;
        change(&transaction)?;
        transaction.commit()?;
        check(&conn, copy)?;
        conn.close().map_err(|(_, error)| error)?;
        Ok(())
    };
    prepare().map_err(|error: Error| error.at(copy))
}

/// Makes a database of this release in an empty file that belongs to us alone, lets `fill` write into it, and checks it.
pub(crate) fn create_copy(copy: &Path, fill: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
    create_copy_of_version(copy, migrations::release().latest_version(), |_| Ok(()))?;
    prepare_copy(copy, &ProgressCallback::default(), fill)
}

/// Makes a database with the schema of a version in an empty file that belongs to us alone, and lets `fill` write into it, where
/// references are looked at last and no trigger fires.
pub(crate) fn create_copy_of_version(
    copy: &Path,
    version: u32,
    fill: impl FnOnce(&Connection) -> Result<()>,
) -> Result<()> {
    let create = || {
        let mut conn = connection::open_writer(copy)?;
        migrations::release().create(&mut conn, copy, version)?;
        conn.pragma_update(None, "foreign_keys", false)?;
        let transaction = conn.transaction()?;
        connection::without_triggers(&transaction, || fill(&transaction))?;
        transaction.commit()?;
        conn.close().map_err(|(_, error)| error)?;
        Ok(())
    };
    create().map_err(|error: Error| error.at(copy))
}

/// The schema version of a damaged database, where it can still be told and is known; otherwise the latest.
pub(crate) fn version_of_damaged(conn: &Connection) -> u32 {
    let latest = migrations::release().latest_version();
    let told = conn.pragma_query_value(None, "user_version", |row| row.get(0));
    let recorded = || conn.query_row("SELECT max(version) FROM refinery_schema_history", [], |row| row.get(0));
    let told = told.ok().filter(|version| *version > 0).or_else(|| recorded().ok());
    told.filter(|version| (1..=latest).contains(version)).unwrap_or(latest)
}

/// Writes a copy into a live database: in one transaction, under readers who see the old state or the new.
///
/// `is_unchanged` is asked once nobody else can write any more; `false` gives up and changes nothing. Returns its answer.
pub(super) fn write_back(
    copy: &Path,
    live: &mut Connection,
    progress: &ProgressCallback,
    is_unchanged: impl FnOnce() -> Result<bool>,
) -> Result<bool> {
    let source = connection::open_reader(copy)?;
    copy_pages(&source, live, Stage::Restoring, progress, is_unchanged)
}

/// Gives a copy that belongs to us alone the page size of the database that it is to replace: SQLite cannot change that of a
/// live one.
pub(super) fn match_page_size(copy: &Path, live: &Connection) -> Result<()> {
    let page_size = |conn: &Connection| conn.pragma_query_value(None, "page_size", |row| row.get::<_, u32>(0));
    let wanted = page_size(live)?;
    if page_size(&connection::open_reader(copy)?)? != wanted {
        let conn = connection::open_writer(copy)?;
        connection::vacuum(&conn, |conn| Ok(conn.pragma_update(None, "page_size", wanted)?))?;
        conn.close().map_err(|(_, error)| error)?;
    }
    Ok(())
}

fn copy_pages(
    source: &Connection,
    target: &mut Connection,
    stage: Stage,
    progress: &ProgressCallback,
    go_on: impl FnOnce() -> Result<bool>,
) -> Result<bool> {
    let page_size: u64 = source.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let backup = Backup::new(source, target)?;
    let deadline = Instant::now() + DEADLINE;
    let step = |pages| {
        loop {
            match backup.step(pages)? {
                StepResult::Done => return Ok(true),
                StepResult::More => return Ok(false),
                _ if Instant::now() > deadline => return Err(Error::Busy { path: PathBuf::new() }),
                _ => thread::sleep(Duration::from_millis(5)),
            }
        }
    };
    // The first page takes the locks.
    let mut is_done = step(1)?;
    if !go_on()? {
        return Ok(false);
    }
    while !is_done {
        is_done = step(STEP)?;
        let at = backup.progress();
        let (total, remaining) = (at.pagecount.max(0) as u64, at.remaining.max(0) as u64);
        progress.report(stage, total.saturating_sub(remaining) * page_size, Some(total * page_size));
    }
    Ok(true)
}

/// Leaves write-ahead logging, so that the file stands by itself.
fn leave_log(conn: &Connection, path: &Path) -> Result<()> {
    let mode = connection::set_journal_mode(conn, "delete")?;
    if mode == "delete" { Ok(()) } else { Err(corrupt(path, format!("its journal mode stayed {mode}"))) }
}

/// Fails where SQLite finds anything wrong with a database.
pub(super) fn check(conn: &Connection, path: &Path) -> Result<()> {
    let verdict: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(corrupt(path, verdict));
    }
    let broken: Option<String> = conn.query_row("PRAGMA foreign_key_check", [], |row| row.get(0)).optional()?;
    broken.map_or(Ok(()), |table| {
        Err(corrupt(path, format!("rows of {table} refer to nothing; `PRAGMA foreign_key_check` names them")))
    })
}

fn corrupt(path: &Path, detail: String) -> Error {
    Error::Corrupt { path: path.to_path_buf(), detail }
}

/// Checks a database that nobody has open: what it is, that it is whole, and that its schema is the one that this
/// project's migrations make, so that no trigger or view of somebody else's comes with it.
pub(crate) fn verify_database(path: &Path) -> Result<()> {
    let verify = || {
        let conn = connection::open_reader(path)?;
        let status = migrations::release().status(&conn, path)?;
        check(&conn, path)?;
        match schema_differences_from(&conn, path, status.schema_version)?.into_iter().next() {
            Some(difference) => Err(corrupt(path, difference)),
            None => Ok(()),
        }
    };
    verify().map_err(|error: Error| error.at(path))
}

/// The label of a backup, as it was given.
pub(crate) fn backup_label(path: &Path) -> Result<Option<String>> {
    let conn = connection::open_reader(path)?;
    Ok(conn.query_row("SELECT label FROM backup", [], |row| row.get(0)).optional()?)
}
