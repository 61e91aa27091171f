//! Copying a database through SQLite while others write it, and writing a copy back.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OptionalExtension};

use super::database::tell_from_failed_read;
use super::own_objects::{self, Carried, LeftOut, OwnObjects, quoted};
use super::schema::{own_objects, require_own_schema};
use super::shield::{Shield, without_triggers};
use super::{connection, migrations};
use crate::error::{Error, Result};
use crate::progress::{ProgressCallback, Stage};

/// How long a copy waits for locks that others hold.
const DEADLINE: Duration = Duration::from_secs(60);

/// Pages that are copied at a time: 8 MB.
const STEP: i32 = 2048;

/// Copies a database, as it is in one snapshot, into an empty file, and leaves that file complete by itself: without a
/// write-ahead log, so that it also opens on a read-only medium. `mark` writes into the copy, which is still to be verified.
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
        // Nothing that somebody added to the database runs in the copy.
        without_triggers(&copy, || mark(&copy))?;
        copy.close().map_err(|(_, error)| error)?;
        Ok(())
    };
    copy().map_err(|error: Error| match error.at(target) {
        // What is wrong with a copy was wrong with its source, or the disk has failed to read.
        Error::Corrupt { detail, .. } => tell_from_failed_read(corrupt(source_path, detail)),
        other => other,
    })
}

/// Copies the pages of a database into an empty file as they are, damaged ones, too.
pub(crate) fn copy_raw(source: &Connection, target: &Path) -> Result<()> {
    let mut copy = connection::open_writer(target)?;
    copy.pragma_update(None, "synchronous", "off")?;
    copy_pages(source, &mut copy, Stage::Copying, &ProgressCallback::default(), || Ok(true))?;
    copy.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// Opens a copy that belongs to us alone, brings it to this release's schema, lets `change` write into it, and checks it. Returns
/// what a person had added to it and could not stay.
pub(crate) fn prepare_copy(
    copy: &Path,
    progress: &ProgressCallback,
    change: impl FnOnce(&Connection) -> Result<()>,
) -> Result<Vec<LeftOut>> {
    prepare_copy_with(copy, progress, |_| Ok(Vec::new()), change)
}

/// As [`prepare_copy`], with what a person added to the live database, which takes the place of what the copy has of that name.
/// Returns what could not stay, and what could not come.
pub(crate) fn prepare_copy_for(
    live: &Connection,
    copy: &Path,
    progress: &ProgressCallback,
    change: impl FnOnce(&Connection) -> Result<()>,
) -> Result<Vec<LeftOut>> {
    let release = migrations::release();
    let carry = |conn: &Connection| {
        // Of a newer release's database, or one without a record of its migrations, what is whose cannot be told.
        let Ok(status) = release.status(live, copy) else { return Ok(Vec::new()) };
        let theirs = own_objects(live, copy, status.schema_version)?;
        let present = own_objects(conn, copy, release.latest_version())?;
        Ok(own_objects::carry((live, &theirs), (conn, &present))?.left_out)
    };
    prepare_copy_with(copy, progress, carry, change)
}

fn prepare_copy_with(
    copy: &Path,
    progress: &ProgressCallback,
    carry: impl FnOnce(&Connection) -> Result<Vec<LeftOut>>,
    change: impl FnOnce(&Connection) -> Result<()>,
) -> Result<Vec<LeftOut>> {
    let prepare = || {
        let mut conn = connection::open_writer(copy)?;
        let mut left_out = Vec::new();
        migrations::release().migrate_with(
            &mut conn,
            copy,
            progress,
            || Ok(|| Ok(())),
            |left| {
                left_out = left;
                Ok(())
            },
        )?;
        let transaction = conn.transaction()?;
        left_out.extend(carry(&transaction)?);
        let shield = Shield::default();
        shield.raise(&transaction, copy)?;
        change(&transaction).map_err(|error| shield.explain(error.at(copy)))?;
        transaction.commit()?;
        conn.close().map_err(|(_, error)| error)?;
        // By a new connection, which knows nothing of how the content came there.
        check(&connection::open_reader(copy)?, copy)?;
        Ok(left_out)
    };
    prepare().map_err(|error: Error| error.at(copy))
}

/// Carries what a person added to a damaged database into the one that is rebuilt from it, whose version is `version`. What could
/// not come is returned; so are the names of tables of which rows could not be read.
pub(crate) fn carry_own_objects(damaged: &Connection, copy: &Path, version: u32) -> Result<Carried> {
    let carry = || {
        let theirs = own_objects(damaged, copy, version)?;
        let mut conn = connection::open_writer(copy)?;
        let transaction = conn.transaction()?;
        let carried = own_objects::carry((damaged, &theirs), (&transaction, &OwnObjects::default()))?;
        transaction.commit()?;
        conn.close().map_err(|(_, error)| error)?;
        Ok(carried)
    };
    carry().map_err(|error: Error| error.at(copy))
}

/// Makes a database of this release in an empty file that belongs to us alone, lets `fill` write into it, and checks it.
pub(crate) fn create_copy(copy: &Path, fill: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
    create_copy_of_version(copy, migrations::release().latest_version(), |_| Ok(()))?;
    prepare_copy(copy, &ProgressCallback::default(), fill).map(drop)
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
        without_triggers(&transaction, || fill(&transaction))?;
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
    let release = migrations::release();
    let (verdict, broken) = match release.status(conn, path) {
        Ok(status) => {
            let schema = release.schema(status.schema_version, path)?;
            (own_objects::integrity_problem(conn, &schema)?, own_objects::broken_reference(conn, &schema)?)
        }
        // Of a newer release, or without a record of its migrations: what is whose cannot be told.
        Err(_) => {
            let verdict: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
            let broken = conn.query_row("PRAGMA foreign_key_check", [], |row| row.get(0)).optional()?;
            (Some(verdict).filter(|verdict| verdict != "ok"), broken)
        }
    };
    if let Some(verdict) = verdict {
        return Err(corrupt(path, verdict));
    }
    broken.map_or(Ok(()), |table: String| {
        Err(corrupt(path, format!("rows of {table} refer to nothing; `PRAGMA foreign_key_check` names them")))
    })
}

fn corrupt(path: &Path, detail: String) -> Error {
    Error::Corrupt { path: path.to_path_buf(), detail }
}

/// Verifies a database that nobody has open: what it is, that it is whole, that nothing of ours in its schema was changed, and, by
/// `read`, that what is in it can be read. What a person added to it does no harm: it never runs inside a write of ours.
pub(crate) fn verify_database(path: &Path, read: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
    let verify = || {
        let conn = connection::open_reader(path)?;
        let snapshot = conn.unchecked_transaction()?;
        let status = migrations::release().status(&snapshot, path)?;
        check(&snapshot, path)?;
        require_own_schema(&snapshot, path, status.schema_version)?;
        if status.pending.is_empty() {
            return read(&snapshot);
        }
        drop(snapshot);
        read_as_latest(&conn, path, status.schema_version, read)
    };
    verify().map_err(|error: Error| tell_from_failed_read(error.at(path)))
}

/// Verifies that SQLite finds nothing wrong with a database, which may be of another release or have been changed.
pub(crate) fn verify_integrity(path: &Path) -> Result<()> {
    connection::open_reader(path)
        .and_then(|conn| check(&conn, path))
        .map_err(|error| tell_from_failed_read(error.at(path)))
}

/// Reads a database of an older version by this release's readers: temporary views stand for its tables, with the default or NULL in
/// the columns that came later. Only a value that is there and cannot be read counts: this is no upgrade.
fn read_as_latest(
    conn: &Connection,
    path: &Path,
    version: u32,
    read: impl FnOnce(&Connection) -> Result<()>,
) -> Result<()> {
    let release = migrations::release();
    let fresh = release.fresh(release.latest_version(), path)?;
    let older = release.schema(version, path)?;
    conn.pragma_update(None, "query_only", false)?;
    let tables = "SELECT name, coalesce(sql, '') FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let mut select = fresh.prepare(tables)?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    for (table, sql) in rows.collect::<rusqlite::Result<Vec<(String, String)>>>()? {
        if sql.starts_with("CREATE VIRTUAL") {
            continue;
        }
        if !older.has_relation(&table) {
            conn.execute_batch(&sql.replacen("CREATE TABLE", "CREATE TEMP TABLE", 1))?;
            continue;
        }
        let mut columns = fresh.prepare("SELECT name, \"notnull\", dflt_value FROM pragma_table_info(?1)")?;
        let mut rows = columns.query([&table])?;
        let (mut items, mut differs) = (Vec::new(), false);
        while let Some(row) = rows.next()? {
            let (name, not_null, default): (String, bool, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if older.has_column(&table, &name) {
                items.push(quoted(&name));
                continue;
            }
            differs = true;
            match default {
                None if not_null => return Ok(()),
                default => items.push(format!("{} AS {}", default.as_deref().unwrap_or("NULL"), quoted(&name))),
            }
        }
        if differs {
            let (name, items) = (quoted(&table), items.join(", "));
            conn.execute_batch(&format!("CREATE TEMP VIEW {name} AS SELECT {items} FROM main.{name}"))?;
        }
    }
    match read(conn) {
        Err(error @ Error::InvalidRow { .. }) => Err(error),
        Err(error) => {
            tracing::debug!(%error, "a database of an older release was not read as a whole");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// The label of a backup, as it was given.
pub(crate) fn backup_label(path: &Path) -> Result<Option<String>> {
    let conn = connection::open_reader(path)?;
    Ok(conn.query_row("SELECT label FROM backup", [], |row| row.get(0)).optional()?)
}
