//! Copying a database through SQLite while others write it, preparing the copy, and writing it back.
//!
//! A copy is taken inside one read transaction, so it is one snapshot. It belongs to the caller alone until it gets its name, and
//! is synced by the caller as a whole. A copy waits at most a minute for locks of others. Where a step fails, the copy is useless
//! and the source unchanged; writing back is one transaction.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OptionalExtension};

use super::own_objects::{self, Carried, LeftOut, OwnObjects};
use super::schema::own_objects;
use super::shield::{Shield, without_triggers};
use super::verify::{check, confirm_damage, corrupt};
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
        let mut source = connection::open_reader(source_path).map_err(|error| error.with_path(source_path))?;
        // One snapshot: without it, a copy in steps would start again with each write of others.
        let snapshot = source.transaction()?;
        snapshot.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        let mut copy = connection::open_writer(target)?;
        // Nobody relies on the copy until it is complete; then the caller puts all of it on the disk at once.
        copy.pragma_update(None, "synchronous", "off")?;
        copy_pages(&snapshot, &mut copy, Stage::Copying, progress, || Ok(true)).map_err(|error| {
            match error.with_path(target) {
                Error::Corrupt { detail, .. } => corrupt(source_path, detail),
                other => other,
            }
        })?;
        leave_wal_mode(&copy, target)?;
        // Nothing that somebody added to the database runs in the copy.
        without_triggers(&copy, || mark(&copy))?;
        copy.close().map_err(|(_, error)| error)?;
        Ok(())
    };
    copy().map_err(|error: Error| match error.with_path(target) {
        // What is wrong with a copy was wrong with its source, or the disk has failed to read.
        Error::Corrupt { detail, .. } => confirm_damage(corrupt(source_path, detail)),
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
        // Of a newer release's database, or one without a record of its migrations, the owner of an object is not known.
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
        change(&transaction).map_err(|error| shield.explain(error.with_path(copy)))?;
        transaction.commit()?;
        conn.close().map_err(|(_, error)| error)?;
        // By a new connection, which knows nothing of how the content came there.
        check(&connection::open_reader(copy)?, copy)?;
        Ok(left_out)
    };
    prepare().map_err(|error: Error| error.with_path(copy))
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
    carry().map_err(|error: Error| error.with_path(copy))
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
    create().map_err(|error: Error| error.with_path(copy))
}

/// The schema version of a damaged database, where it can still be read and is known; otherwise the latest.
pub(crate) fn version_of_damaged(conn: &Connection) -> u32 {
    let latest = migrations::release().latest_version();
    let stated = conn.pragma_query_value(None, "user_version", |row| row.get(0));
    let recorded = || conn.query_row("SELECT max(version) FROM refinery_schema_history", [], |row| row.get(0));
    let version = stated.ok().filter(|version| *version > 0).or_else(|| recorded().ok());
    version.filter(|version| (1..=latest).contains(version)).unwrap_or(latest)
}

/// Writes a copy into a live database: in one transaction. Readers see the old state or the new one.
///
/// `is_unchanged` is called once nobody else can write; where it returns `false`, nothing is changed. Returns its result.
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

/// Switches the WAL off, so that the file is complete by itself.
fn leave_wal_mode(conn: &Connection, path: &Path) -> Result<()> {
    let mode = connection::set_journal_mode(conn, "delete")?;
    if mode == "delete" { Ok(()) } else { Err(corrupt(path, format!("its journal mode stayed {mode}"))) }
}

/// The label of a backup, as it was given.
pub(crate) fn backup_label(path: &Path) -> Result<Option<String>> {
    let conn = connection::open_reader(path)?;
    Ok(conn.query_row("SELECT label FROM backup", [], |row| row.get(0)).optional()?)
}
