//! Rebuilding a damaged database.
//!
//! A new database is filled with the rows that can still be read, and where rows are missing, from a good backup or export. What is
//! certain to have been there and is in neither is named. The new one is checked, the damaged files are moved into a folder of
//! their own, and the new one takes their place. Killed at any point, the next run continues with the damaged files where they lie
//! by then, and ends in the same state.

mod fill;
mod lists;
mod mend;
mod pages;
mod report;
mod salvage;
mod schema;
mod shape;
mod timeline;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::check::{self, Budget, integrity};
use crate::db::{self, LostFrames, RECOVERY_REPORT_FILE};
use crate::error::{Error, ForeignFile, Result};
use crate::model::{Counts, EntityKind, SetAsideRecord, Timestamp};
use crate::progress::ProgressCallback;
use crate::rows::invariants::broken_invariants;
use crate::rows::{self, Entity, carry_over, head, quarantine, run, with_entity};
use crate::state_dir::{self, DATABASE_FILE, DirectoryLock, WRITING_PREFIX};
use fill::{Came, Wanted};
pub use report::{RecoveryFinding, RecoveryReport};
use report::{count, finding, finding_of, lists_of, rows_of};
use salvage::{Outcome, Source};
use shape::{Key, RowKey, Shape};
use timeline::{Choice, Good, Timeline};

/// The kind of what is lost with the write-ahead log.
const LOG: &str = "log";

/// The source of records that a recovery quarantines.
const SOURCE: &str = "recovery";

/// Rebuilds a damaged database; see [`recover`](crate::recover()).
pub(crate) fn recover(
    state_dir: impl AsRef<Path>,
    now: DateTime<Utc>,
    progress: &ProgressCallback,
) -> Result<RecoveryReport> {
    let state_dir = state_dir.as_ref();
    if !state_dir.is_dir() {
        return Err(Error::NoDatabase { path: state_dir.join(DATABASE_FILE) });
    }
    db::refuse_other_program(&state_dir.join(DATABASE_FILE))?;
    let _lock = DirectoryLock::acquire_for_command(state_dir)?;
    let state_dir = state_dir::resolve(state_dir)?;
    let _turn = state_dir::lock_directory(&state_dir)?;
    state_dir::remove_temporary_files(&state_dir, &[db::NEW_PREFIX, WRITING_PREFIX])?;
    let path = state_dir.join(DATABASE_FILE);
    if let Some(pid) = db::opened_by_another(&path) {
        // What it commits after the copy below would be in neither the new database nor the report.
        return Err(Error::InUse { path: state_dir, pid: Some(pid) });
    }
    let (damaged, lost_frames) = find_damaged(&path, now)?;
    // From here on, nothing but a copy is read: where the disk fails, copying fails, while SQLite would report damage.
    let copy = Copy::of(&damaged, &state_dir)?;
    // Without the rest of its WAL, which hides newer pages, the database is whole.
    if lost_frames.is_some_and(|lost| lost.is_in_database) {
        copy.leave_wal_out()?;
    }
    let lost_frames = require_damaged(&copy, &path, &damaged, lost_frames)?;

    let mut recovery = Recovery { now, damaged, copy, from_backup: Vec::new(), lost: Vec::new() };
    if let Some(LostFrames { missing, frames, .. }) = lost_frames.filter(|lost| !lost.is_in_database) {
        let message =
            format!("{missing} of the {frames} pages in the WAL are missing or damaged: the newest updates are lost");
        recovery.lost.push(finding(LOG, message));
    }
    let built = recovery.build(&state_dir, progress).map_err(|error| match error.with_path(&recovery.damaged) {
        // Its advice is to run what has just failed, perhaps on a copy that is gone by then.
        Error::Corrupt { detail, .. } => Error::Unrecoverable { path: recovery.damaged.clone(), detail },
        other => other,
    })?;
    let set_aside_as = db::move_damaged_files(&path, now)?;
    let Recovery { from_backup, lost, .. } = recovery;
    let mut report = RecoveryReport { source: built.source, restored: built.restored, from_backup, lost, set_aside_as };
    write_report(&report, now)?;
    db::publish(built.copy, &path)?;
    report.shorten();
    Ok(report)
}

/// Writes the whole report beside the damaged files: should this be killed before anybody has seen it, it is there.
fn write_report(report: &RecoveryReport, now: DateTime<Utc>) -> Result<()> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct File<'r> {
        recovered_at: Timestamp,
        #[serde(flatten)]
        report: &'r RecoveryReport,
    }
    state_dir::remove_temporary_files(&report.set_aside_as, &[WRITING_PREFIX])?;
    let path = report.set_aside_as.join(RECOVERY_REPORT_FILE);
    let failed = |error: serde_json::Error| Error::io("write", &path)(io::Error::from(error));
    let text = serde_json::to_string_pretty(&File { recovered_at: now.into(), report }).map_err(failed)?;
    state_dir::replace_file(&path, |out| out.write_all(text.as_bytes()).map_err(Error::io("write", &path))).map(drop)
}

/// A database, which may have been moved already, and how much of its WAL is missing.
fn find_damaged(path: &Path, now: DateTime<Utc>) -> Result<(PathBuf, Option<LostFrames>)> {
    let is_missing = fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if is_missing && db::newest_unfinished_folder(path).is_some() {
        // A recovery or a restore was killed when it had moved the database. Its WAL may not have followed yet.
        let moved = db::move_damaged_files(path, now)?.join(DATABASE_FILE);
        let lost_frames = db::lost_frames(&moved);
        return Ok((moved, lost_frames));
    }
    if !is_missing {
        // Killed right before its end.
        db::finish_damaged_folders(path)?;
    }
    Ok((path.to_path_buf(), db::lost_frames(path)))
}

/// Fails where a database needs no recovery, or this release cannot do one. Returns how much of its WAL is missing.
fn require_damaged(
    copy: &Copy,
    path: &Path,
    damaged: &Path,
    lost_frames: Option<LostFrames>,
) -> Result<Option<LostFrames>> {
    // One that was moved away was damaged. What is wrong with a link, or with nothing, the copy does not tell.
    let result = match (damaged == path, fs::symlink_metadata(path)) {
        (false, _) => Ok(()),
        (true, Ok(metadata)) if metadata.is_file() => require_good(copy.path()),
        (true, _) => db::require_whole(path, |_| Ok(())),
    };
    let path = path.to_path_buf();
    match result {
        Ok(()) if damaged == path && lost_frames.is_none() => Err(Error::NotDamaged { path }),
        Ok(())
        | Err(
            Error::Corrupt { .. }
            | Error::InvalidRow { .. }
            | Error::SchemaChanged { .. }
            | Error::OwnObject { .. }
            | Error::HistoryDamaged { .. }
            | Error::NotAStateDatabase { found: ForeignFile::Empty | ForeignFile::NotSqlite, .. },
        ) => Ok(lost_frames),
        // What SQLite says of tables that it cannot make sense of.
        Err(Error::Sqlite { source, .. }) if !check::is_read_failure(&source) => Ok(lost_frames),
        Err(Error::NotAStateDatabase { found, .. }) => match found {
            ForeignFile::OtherProgram { .. } if salvage::is_ours(copy.path())? => Ok(lost_frames),
            _ => Err(Error::NotAStateDatabase { path, found }),
        },
        Err(Error::SchemaTooNew { found, supported, .. }) => Err(Error::SchemaTooNew { path, found, supported }),
        Err(error) => Err(error),
    }
}

/// Fails where a database is damaged: where a check would report it.
fn require_good(path: &Path) -> Result<()> {
    let corrupt = |detail| Err(Error::Corrupt { path: path.to_path_buf(), detail });
    db::require_whole(path, |conn| {
        let budget = Budget::limit(conn, path)?;
        if let Some(problem) = integrity(conn, &budget, None)?.into_iter().next() {
            return corrupt(problem);
        }
        budget.renew();
        let broken = conn.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get::<_, u64>(0))?;
        if broken > 0 {
            return corrupt(format!("{broken} rows refer to nothing"));
        }
        if db::version_of_damaged(conn) < db::latest_schema_version() {
            // Its rows are looked at after the upgrade.
            return Ok(());
        }
        budget.renew();
        check::read_each(conn)?;
        budget.renew();
        broken_invariants(conn)?.into_iter().next().map_or(Ok(()), corrupt)
    })
}

/// A copy of damaged files, which is removed when it is dropped, or by who recovers next.
struct Copy(NamedTempFile);

impl Copy {
    fn of(damaged: &Path, state_dir: &Path) -> Result<Self> {
        let copy = Self(state_dir::temporary_file(state_dir, db::NEW_PREFIX)?);
        db::copy_files(damaged, copy.path())?;
        Ok(copy)
    }

    /// Removes the WAL from the copy.
    fn leave_wal_out(&self) -> Result<()> {
        let wal = db::beside(self.path(), "-wal");
        match fs::remove_file(&wal) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", wal)(error)),
            _ => Ok(()),
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        for suffix in ["-wal", "-shm", "-journal"] {
            let mut file = self.path().as_os_str().to_owned();
            file.push(suffix);
            // What stays is removed by the next recovery.
            let _ = fs::remove_file(file);
        }
    }
}

/// A new database that is ready to take the damaged one's place.
struct Built {
    copy: NamedTempFile,
    source: String,
    restored: Counts,
}

struct Recovery {
    now: DateTime<Utc>,
    damaged: PathBuf,
    /// What is read in its place.
    copy: Copy,
    from_backup: Vec<RecoveryFinding>,
    lost: Vec<RecoveryFinding>,
}

impl Recovery {
    /// Fills and checks the new database.
    fn build(&mut self, state_dir: &Path, progress: &ProgressCallback) -> Result<Built> {
        let copy = state_dir::temporary_file(state_dir, db::NEW_PREFIX)?;
        let mended = schema::mend(self.copy.path(), state_dir)?;
        let read = mended.as_ref().map_or(self.copy.path(), |mended| mended.file.path());
        let source = Source::open(read)?;
        let version = source.as_ref().map_or_else(db::latest_schema_version, |it| db::version_of_damaged(&it.conn));
        let salvaged = copy_all(source.as_ref(), copy.path(), version)?;
        let choice = self.choose(state_dir, copy.path(), source.is_some(), &salvaged, progress)?;
        // So may be one whose first page is gone, with what it said of a WAL, where nothing else is missing.
        let is_certain = |name: &&str| salvaged.iter().any(|(shape, it)| shape.name == **name && !it.is_damaged);
        let is_perhaps_older = mended.is_some() && ["runs", "checkpoints", "messages", "tasks"].iter().all(is_certain);
        let is_perhaps_older = is_perhaps_older || self.is_log_lost();
        if let (Some(good), Some(source), true) = (&choice.good, &source, is_perhaps_older) {
            // Without its WAL, the database is the state as it was at some earlier time, perhaps before the good copy.
            if salvage::progress(&good.open()?) > salvage::progress(&source.conn) {
                let copy = state_dir::temporary_file(state_dir, db::NEW_PREFIX)?;
                let salvaged = copy_all(None, copy.path(), version)?;
                return self.complete(copy, &salvaged, choice, progress);
            }
        }
        self.lost.extend(mended.iter().flat_map(|mended| mended.lost.clone()));
        if let Some(source) = &source {
            self.carry_own_objects(&source.conn, copy.path(), version)?;
            if source.trees.loose > 0 {
                let message =
                    "pages belong to no table any more, and nothing tells to which they did: any table may lack rows";
                self.lost.push(finding("database", message));
            }
        }
        if source.is_none() {
            let message = "the schema could not be read: tables, views and other objects that somebody added stay with the damaged files";
            self.lost.push(finding("database", message));
        }
        drop(source);
        self.complete(copy, &salvaged, choice, progress)
    }

    /// Chooses the backup or export from which what is missing comes.
    fn choose(
        &self,
        state_dir: &Path,
        copy: &Path,
        is_readable: bool,
        salvaged: &[(Shape, Outcome)],
        progress: &ProgressCallback,
    ) -> Result<Choice> {
        let conn = db::open_damaged(copy)?;
        let is_any = salvaged.iter().any(|(_, outcome)| outcome.rows > 0);
        if !is_readable || !is_any {
            return timeline::choose(state_dir, self.now, progress, None, None, &BTreeMap::new());
        }
        let checkpoints = salvaged.iter().find(|(shape, _)| shape.name == "checkpoints");
        let is_whole = checkpoints.is_some_and(|(_, outcome)| !outcome.is_damaged && outcome.refused_count == 0);
        let timeline = Timeline::read(&conn, is_whole, &state_dir.join(DATABASE_FILE))?;
        let missing =
            salvaged.iter().filter_map(|(shape, outcome)| Some((shape.name.clone(), outcome.missing.clone()?)));
        timeline::choose(state_dir, self.now, progress, Some(&timeline), Some(&conn), &missing.collect())
    }

    /// Completes what was read from a good copy, and makes it a state that a check accepts.
    fn complete(
        &mut self,
        copy: NamedTempFile,
        salvaged: &[(Shape, Outcome)],
        choice: Choice,
        progress: &ProgressCallback,
    ) -> Result<Built> {
        let Choice { good, notes } = choice;
        let good = good.as_ref();
        let mut came_from = (false, false);
        let mut restored = Counts::default();
        let left_out = db::prepare_copy(copy.path(), progress, |conn| {
            came_from.0 = rows::counts(conn)?.entities() > 0;
            let good_conn = good.map(Good::open).transpose()?;
            let good = good.zip(good_conn.as_ref());
            let shapes: Vec<_> = salvaged.iter().map(|(shape, _)| shape.clone()).collect();
            db::without_triggers(conn, || {
                self.separate(conn, good, salvaged)?;
                for (shape, outcome) in salvaged {
                    self.fill(conn, good, shape, outcome)?;
                }
                for shape in &shapes {
                    self.mend_columns(conn, good, shape)?;
                }
                self.mend_groups(conn, good, &shapes)?;
                self.read_each(conn, good, &shapes)?;
                self.quarantine_orphans(conn, &shapes)?;
                self.close_gaps(conn, &shapes)
            })?;
            came_from.1 = !self.from_backup.is_empty();
            self.from_backup.extend(notes);
            let counts = rows::counts(conn)?;
            if counts.entities() == 0 && !self.lost.is_empty() {
                let detail = "nothing in it can be read, and there is no good backup".to_owned();
                return Err(Error::Corrupt { path: self.damaged.clone(), detail });
            }
            head::ensure(conn, self.now)?;
            // No service runs.
            run::close_open_as_crashed(conn)?;
            carry_over::begin_anew(conn, self.now)?;
            restored = counts;
            check::read_each(conn)?;
            match broken_invariants(conn)?.into_iter().next() {
                Some(detail) => Err(Error::Corrupt { path: self.damaged.clone(), detail }),
                None => Ok(()),
            }
        })?;
        self.name_left_out(copy.path(), &left_out)?;
        let names = [(came_from.0, DATABASE_FILE), (came_from.1, good.map_or("", |good| &good.name))];
        let names: Vec<_> = names.into_iter().filter(|(came, _)| *came).map(|(_, name)| name).collect();
        Ok(Built { copy, source: names.join(" and "), restored })
    }

    fn is_log_lost(&self) -> bool {
        self.lost.iter().any(|it| it.kind == LOG)
    }

    /// Rows of a page that two tables share go to the one that they belong to.
    fn separate(
        &mut self,
        conn: &Connection,
        good: Option<(&Good, &Connection)>,
        salvaged: &[(Shape, Outcome)],
    ) -> Result<()> {
        for (shape, outcome) in salvaged {
            for (other, _) in salvaged.iter().filter(|(other, _)| outcome.shared_with.contains(&other.name)) {
                let (taken, unclear) = lists::separate(conn, good.map(|(_, good)| good), shape, other)?;
                if let (Some((good, _)), false) = (good, taken.is_empty()) {
                    let message = format!(
                        "shared a page with {}; its rows of {} were taken out, as {} has them there only",
                        other.name,
                        lists_of(shape, &taken),
                        good.title()
                    );
                    self.lost.push(finding_of(shape, message, &taken));
                }
                if !unclear.is_empty() {
                    let message = format!(
                        "shares a page with {}; nothing tells which of the two the rows of {} belong to, and both have them",
                        other.name,
                        lists_of(shape, &unclear)
                    );
                    self.lost.push(finding_of(shape, message, &unclear));
                }
            }
        }
        Ok(())
    }

    /// Completes a table from what is good, and names what is in neither.
    fn fill(
        &mut self,
        conn: &Connection,
        good: Option<(&Good, &Connection)>,
        shape: &Shape,
        outcome: &Outcome,
    ) -> Result<()> {
        let is_whole = !outcome.is_damaged && outcome.refused_count == 0;
        if is_whole && outcome.missing.as_ref().is_none_or(BTreeSet::is_empty) {
            return self.name_mended(shape, outcome);
        }
        let refused: BTreeSet<Key> = outcome.refused.iter().filter_map(|row| row.name.clone()).collect();
        let has_numbers = good.is_some_and(|(good, _)| good.has_numbers);
        let suspects: Option<BTreeSet<Key>> =
            outcome.suspects.as_ref().map(|suspects| suspects.union(&refused).cloned().collect());
        let numbered: BTreeSet<RowKey> = refused.iter().map(|key| vec![key.clone()]).collect();
        let wanted = match (&outcome.missing, &suspects) {
            (Some(missing), _) => Wanted::Rows(missing),
            _ if shape.has_rowid && !outcome.is_damaged => Wanted::Rows(&numbered),
            _ if shape.has_rowid && (has_numbers || shape.is_numbered()) => Wanted::Numbers(&outcome.holes),
            _ if shape.name == "messages" => Wanted::Later,
            _ if shape.has_rowid => Wanted::All,
            (None, Some(suspects)) => Wanted::Owners(suspects),
            (None, None) => Wanted::Lists,
        };
        let came = match good {
            Some((_, good)) => fill::fill(good, conn, shape, &wanted)?,
            None => Came::default(),
        };
        if let (Some((good, _)), false) = (good, came.rows == 0) {
            let rows = rows_of(shape, came.rows, &came.names);
            let were = if came.rows == 1 { "was" } else { "were" };
            let message = format!("{rows} {were} taken from {}, as they were then", good.title());
            self.from_backup.push(finding_of(shape, message, &came.names));
        }
        self.quarantine_refused(conn, shape, outcome)?;
        self.name_lost(shape, outcome, suspects.as_ref(), &came.keys, good.map(|(good, _)| good));
        self.name_mended(shape, outcome)
    }

    /// Names what a table lacks, or may lack.
    fn name_lost(
        &mut self,
        shape: &Shape,
        outcome: &Outcome,
        suspects: Option<&BTreeSet<Key>>,
        came: &BTreeSet<RowKey>,
        good: Option<&Good>,
    ) {
        let read = count(outcome.rows, "row");
        let since =
            good.map_or(String::new(), |good| format!(" (what changed since {} is in no copy)", good.at.as_str()));
        if let Some(missing) = &outcome.missing {
            let lost: BTreeSet<RowKey> = missing.difference(came).cloned().collect();
            if !lost.is_empty() {
                let names = names(&lost);
                let are = if lost.len() == 1 { "is" } else { "are" };
                let message = format!("{} {are} lost", rows_of(shape, lost.len() as u64, &names));
                self.lost.push(finding_of(shape, message, &names));
            }
        } else if shape.has_rowid {
            if outcome.is_damaged {
                let numbers: Vec<_> = outcome.holes.iter().take(5).map(|hole| numbers(*hole)).collect();
                let more = if outcome.holes.len() > 5 { " and others" } else { "" };
                let message = format!(
                    "{read} could be read; rows with the numbers {}{more} could not, and nothing tells which of them there were{since}",
                    numbers.join(", ")
                );
                self.lost.push(finding(&shape.name, message));
            }
        } else {
            match suspects {
                Some(suspects) if suspects.is_empty() => {}
                Some(suspects) => {
                    let message =
                        format!("{} may lack rows, as a page could not be read{since}", lists_of(shape, suspects));
                    self.lost.push(finding_of(shape, message, suspects));
                }
                None => {
                    let message = format!(
                        "{read} could be read; pages are damaged or in the wrong place, and nothing tells which rows are missing or \
                         false: compare any of its lists before you rely on it{since}"
                    );
                    self.lost.push(finding(&shape.name, message));
                }
            }
        }
    }

    fn name_mended(&mut self, shape: &Shape, outcome: &Outcome) -> Result<()> {
        if !outcome.mended.is_empty() {
            let rows = rows_of(shape, outcome.mended.len() as u64, &outcome.mended);
            let message = format!("texts of {rows} had bytes that are no characters; they are U+FFFD now");
            self.lost.push(finding_of(shape, message, &outcome.mended));
        }
        Ok(())
    }

    /// Quarantines the rows that cannot be true.
    fn quarantine_refused(&mut self, conn: &Connection, shape: &Shape, outcome: &Outcome) -> Result<()> {
        if outcome.refused_count == 0 {
            return Ok(());
        }
        for row in &outcome.refused {
            quarantine(conn, self.now, &shape.name, &row.reason, row.content.clone())?;
        }
        let names = outcome.refused.iter().filter_map(|row| row.name.clone()).collect();
        let mut message = format!("{} that cannot be true were quarantined", count(outcome.refused_count, "row"));
        let kept = outcome.refused.len() as u64;
        if kept < outcome.refused_count {
            message = format!("{message}, but for {}, which stay with the damaged files", outcome.refused_count - kept);
        }
        self.lost.push(finding_of(shape, message, &names));
        Ok(())
    }

    /// Quarantines the rows whose owner is lost.
    fn quarantine_orphans(&mut self, conn: &Connection, shapes: &[Shape]) -> Result<()> {
        for shape in shapes.iter().rev() {
            let (mut rows, mut names) = (0, BTreeSet::new());
            let now = self.now;
            lists::take_orphans(conn, shapes, shape, |name, row| {
                rows += 1;
                names.insert(Key::Text(name));
                quarantine(conn, now, &shape.name, "what it belongs to is lost", row)
            })?;
            if rows > 0 {
                let were = if rows == 1 { "was" } else { "were" };
                let message =
                    format!("{} {were} quarantined, as what they belong to is lost", rows_of(shape, rows, &names));
                self.lost.push(finding_of(shape, message, &names));
            }
        }
        Ok(())
    }

    /// Numbers lists anew that lack an item.
    fn close_gaps(&mut self, conn: &Connection, shapes: &[Shape]) -> Result<()> {
        for shape in shapes {
            let closed = lists::close_gaps(conn, shape)?;
            if !closed.is_empty() {
                let message =
                    format!("{} lacked an item in between; those after it have moved up", lists_of(shape, &closed));
                self.lost.push(finding_of(shape, message, &closed));
            }
        }
        Ok(())
    }

    /// Reads each entity, and puts the good one in the place of one that cannot be read.
    fn read_each(&mut self, conn: &Connection, good: Option<(&Good, &Connection)>, shapes: &[Shape]) -> Result<()> {
        for kind in EntityKind::ALL {
            with_entity!(kind, E => self.read_each_of::<E>(conn, good, shapes))?;
        }
        if let Err(error) = head::read(conn) {
            self.take_unreadable(conn, None, shapes, "state", "''", "", &error)?;
        }
        Ok(())
    }

    fn read_each_of<E: Entity>(
        &mut self,
        conn: &Connection,
        good: Option<(&Good, &Connection)>,
        shapes: &[Shape],
    ) -> Result<()> {
        let (table, key) = (E::table().name(), E::table().key());
        if E::KIND.is_single() {
            return match E::find(conn, "") {
                Err(error @ Error::InvalidRow { .. }) => {
                    self.take_unreadable(conn, None, shapes, table, "''", "", &error)
                }
                found => found.map(drop),
            };
        }
        let mut broken: Vec<(String, Error)> = Vec::new();
        {
            let mut select = conn.prepare(&format!("SELECT {key} FROM {table}"))?;
            let mut keys = select.query([])?;
            while let Some(row) = keys.next()? {
                let id: String = row.get(0)?;
                match E::find(conn, &id) {
                    Ok(_) => {}
                    Err(error @ Error::InvalidRow { .. }) => broken.push((id, error)),
                    Err(error) => return Err(error),
                }
            }
        }
        for (id, error) in broken {
            let found = good.map(|(_, good)| E::find(good, &id)).transpose()?.flatten();
            let replaced_from = good.map(|(good, _)| good).filter(|_| found.is_some());
            self.take_unreadable(conn, replaced_from, shapes, table, key, &id, &error)?;
            if let Some(entity) = found {
                entity.write(conn)?;
            }
        }
        Ok(())
    }

    /// Quarantines an entity that cannot be read, with the rows that belong to it, and says whether it comes from a good copy.
    #[allow(clippy::too_many_arguments)]
    fn take_unreadable(
        &mut self,
        conn: &Connection,
        replaced_from: Option<&Good>,
        shapes: &[Shape],
        table: &str,
        key: &str,
        id: &str,
        error: &Error,
    ) -> Result<()> {
        let now = self.now;
        let mut taken: Vec<(&Shape, &str)> = Vec::new();
        for shape in shapes {
            let is_taken = |owner: &str| taken.iter().any(|(shape, _)| shape.name == owner);
            match &shape.owner {
                _ if shape.name == table => taken.push((shape, key)),
                Some(owner) if is_taken(&owner.table) => taken.push((shape, &owner.from)),
                _ => {}
            }
        }
        for (shape, column) in taken.into_iter().rev() {
            lists::take_rows(conn, shape, &format!("{column} = ?1"), column, [id], &mut |_, row| {
                quarantine(conn, now, &shape.name, &error.to_string(), row)
            })?;
        }
        let ids = vec![id.to_owned()];
        let finding = |message| RecoveryFinding { kind: table.to_owned(), message, ids };
        match replaced_from {
            Some(good) => {
                let message = format!("{id} could not be read and was taken from {}: {error}", good.title());
                self.from_backup.push(finding(message));
            }
            None => self.lost.push(finding(format!("{id} could not be read and was quarantined: {error}"))),
        }
        Ok(())
    }

    /// Brings what a person added to the database, and names what could not come.
    fn carry_own_objects(&mut self, source: &Connection, copy: &Path, version: u32) -> Result<()> {
        let carried = match db::carry_own_objects(source, copy, version) {
            Ok(carried) => carried,
            Err(error @ (Error::DiskFull { .. } | Error::Io { .. })) => return Err(error),
            Err(error) => {
                // Neither the path of a copy, nor the advice to recover it.
                let reason = match error {
                    Error::Corrupt { detail, .. } => detail,
                    Error::Sqlite { source, .. } => source.to_string(),
                    Error::NotAStateDatabase { found, .. } => found.to_string(),
                    other => other.to_string(),
                };
                let message = format!("what somebody added to the database stays with the damaged files: {reason}");
                self.lost.push(finding("database", message));
                return Ok(());
            }
        };
        for table in carried.incomplete {
            let message =
                format!("pages of the table {table:?}, which somebody added, could not be read: rows may be missing");
            self.lost.push(finding("database", message));
        }
        self.name_left_out(copy, &carried.left_out)
    }

    /// Writes what of a person's could not come to a file, and names it.
    fn name_left_out(&mut self, copy: &Path, left_out: &[db::LeftOut]) -> Result<()> {
        let Some(file) = db::keep_in_file(copy.parent().unwrap_or(copy), left_out)? else { return Ok(()) };
        for it in left_out {
            let message = format!("the {}, which somebody added, is in {}: {}", it.object, file.display(), it.reason);
            self.lost.push(finding("database", message));
        }
        Ok(())
    }
}

/// Makes the new database, and copies into it what can be read.
fn copy_all(source: Option<&Source>, copy: &Path, version: u32) -> Result<Vec<(Shape, Outcome)>> {
    let mut salvaged: Vec<(Shape, Outcome)> = Vec::new();
    db::create_copy_of_version(copy, version, |conn| {
        for shape in shape::shapes(conn)? {
            let outcome = match source {
                Some(source) => salvage::copy(source, conn, &shape, || owners(conn, &salvaged, &shape))?,
                None => Outcome { is_damaged: true, holes: vec![(i64::MIN, i64::MAX)], ..Outcome::default() },
            };
            salvaged.push((shape, outcome));
        }
        Ok(())
    })?;
    Ok(salvaged)
}

/// The entities to which rows of a table may belong, also those that are missing; `None` where not all of them are known.
fn owners(conn: &Connection, salvaged: &[(Shape, Outcome)], shape: &Shape) -> Result<Option<BTreeSet<Key>>> {
    let Some(root) = shape::root(salvaged.iter().map(|(shape, _)| shape), shape) else { return Ok(None) };
    let Some((_, outcome)) = salvaged.iter().find(|(shape, _)| shape.name == root.table) else { return Ok(None) };
    if outcome.missing.is_none() && outcome.is_damaged {
        return Ok(None);
    }
    let mut select = conn.prepare(&format!("SELECT {} FROM {}", root.to, root.table))?;
    let ids = select.query_map([], |row| Ok(Key::Text(row.get(0)?)))?;
    let mut owners: BTreeSet<Key> = ids.collect::<rusqlite::Result<_>>()?;
    owners.extend(names(outcome.missing.as_ref().unwrap_or(&BTreeSet::new())));
    Ok(Some(owners))
}

/// What names the entities of rows.
fn names(rows: &BTreeSet<RowKey>) -> BTreeSet<Key> {
    rows.iter().filter_map(|key| key.first().cloned()).collect()
}

/// The row numbers in a range, for people.
fn numbers((low, high): (i64, i64)) -> String {
    match (low, high) {
        (i64::MIN, i64::MAX) => "from the first to the last".to_owned(),
        (i64::MIN, high) => format!("below {high}"),
        (low, i64::MAX) => format!("above {low}"),
        (low, high) if low + 2 == high => (low + 1).to_string(),
        (low, high) => format!("{} to {}", low + 1, high - 1),
    }
}

/// Quarantines a row, or a part of one.
fn quarantine(conn: &Connection, now: DateTime<Utc>, table: &str, reason: &str, content: String) -> Result<()> {
    let record = SetAsideRecord {
        set_aside_at: now.into(),
        source: SOURCE.to_owned(),
        path: table.to_owned(),
        reason: reason.to_owned(),
        content,
    };
    quarantine::insert(conn, &record)
}
