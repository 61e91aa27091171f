//! The one way in which the schema changes: the files in `migrations/`, in order, run by refinery.
//!
//! Reading the version, backing up, running what is pending, recording it and checking the result happen inside one
//! `BEGIN IMMEDIATE`: processes that open the same old database at once wait for each other, and a kill at any moment
//! leaves the old schema or the new one. Where a migration or the check after it fails, all of them are undone. Schemas of released
//! versions are made in memory once; the mutex around them is held while one is made.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use refinery_core::{Migration, Runner, Target};
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::history::{self, APPLICATION_ID, MigrationStatus, version_of};
use super::refinery_bridge;
use super::releases::STATE_VERSIONS;
use crate::db::own_objects::{self, LeftOut, OwnObjects, ReleasedSchema, schema};
use crate::error::{Error, HistoryProblem, Result};
use crate::progress::{ProgressCallback, Stage};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The migrations of this release.
pub(in crate::db) fn release() -> &'static MigrationSet {
    static RELEASE: LazyLock<MigrationSet> = LazyLock::new(|| {
        MigrationSet::new(embedded::migrations::runner().get_migrations().clone(), STATE_VERSIONS.to_vec())
    });
    &RELEASE
}

/// The schema version of this release, which every database has that is open.
pub(crate) fn latest_schema_version() -> u32 {
    release().latest_version()
}

/// Whether this release knows a database's schema: whether it can read and write it.
pub(crate) fn has_known_schema(conn: &Connection) -> bool {
    release().status(conn, Path::new("")).is_ok()
}

/// Migrations in order, and the version of the state document that each of them leads to.
pub(crate) struct MigrationSet {
    migrations: Vec<Migration>,
    state_versions: Vec<(u32, &'static str)>,
    /// The schemas of versions that were asked for.
    schemas: Mutex<HashMap<u32, Arc<ReleasedSchema>>>,
}

impl MigrationSet {
    fn new(migrations: Vec<Migration>, state_versions: Vec<(u32, &'static str)>) -> Self {
        let mut migrations: Vec<_> = migrations.into_iter().map(with_unix_lines).collect();
        migrations.sort();
        Self { migrations, state_versions, schemas: Mutex::default() }
    }

    /// The schema version that the last migration leads to.
    pub(in crate::db) fn latest_version(&self) -> u32 {
        self.migrations.last().map_or(0, version_of)
    }

    /// Gives a new, empty file the schema of a version.
    pub(in crate::db) fn create(&self, conn: &mut Connection, path: &Path, version: u32) -> Result<()> {
        // Freed pages can be given back to the file system bit by bit; this must be set before the first table.
        conn.pragma_update(None, "auto_vacuum", "incremental")?;
        locked(conn, path, |transaction| {
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            self.run(transaction, path, 0, version, &ProgressCallback::default())
        })
    }

    /// Brings an existing database to the latest schema. What a person added stays; what cannot is written to a file beside the
    /// database.
    ///
    /// Where a migration is due, `before` is called first, and what it returns under the write lock; where either fails,
    /// nothing is migrated.
    pub(in crate::db) fn migrate<B: FnOnce() -> Result<()>>(
        &self,
        conn: &mut Connection,
        path: &Path,
        progress: &ProgressCallback,
        before: impl FnOnce() -> Result<B>,
    ) -> Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        self.migrate_with(conn, path, progress, before, |left_out| {
            own_objects::keep_in_file(directory, &left_out).map(drop)
        })
    }

    /// As [`migrate`](Self::migrate), but that `left_out` is handed what of a person's cannot stay, before the commit.
    pub(in crate::db) fn migrate_with<B: FnOnce() -> Result<()>>(
        &self,
        conn: &mut Connection,
        path: &Path,
        progress: &ProgressCallback,
        before: impl FnOnce() -> Result<B>,
        left_out: impl FnOnce(Vec<LeftOut>) -> Result<()>,
    ) -> Result<()> {
        // Most databases are up to date: see without taking the write lock.
        if self.status(conn, path)?.pending.is_empty() {
            return Ok(());
        }
        let under_lock = before()?;
        locked(conn, path, |transaction| {
            // Another process may have been first.
            let status = self.status(transaction, path)?;
            if status.pending.is_empty() {
                return Ok(());
            }
            self.require_schema_of(transaction, path, status.schema_version)?;
            let own = OwnObjects::find(transaction, &*self.schema(status.schema_version, path)?)?;
            if !own.differences.is_empty() {
                return Err(Error::SchemaChanged { path: path.to_path_buf(), differences: own.differences });
            }
            under_lock()?;
            self.run_around(transaction, path, status.schema_version, progress, own, left_out)?;
            progress.report(Stage::Verifying, 0, Some(1));
            check(transaction, &*self.schema(self.latest_version(), path)?, path)?;
            progress.report(Stage::Verifying, 1, Some(1));
            Ok(())
        })
    }

    /// Reads which migrations a database has had. Fails where it is not one of ours, too new, or its record is damaged.
    pub(in crate::db) fn status(&self, conn: &Connection, path: &Path) -> Result<MigrationStatus> {
        history::status(&self.migrations, &self.state_versions, conn, path)
    }

    /// Fails where a database has what only a later version than the recorded one makes: the end of its record is lost, and
    /// migrations would run a second time. Additions of a person's do not count. For databases of the first releases, which did
    /// not set `user_version`.
    fn require_schema_of(&self, conn: &Connection, path: &Path, recorded: u32) -> Result<()> {
        let mut later: HashSet<_> = schema(conn)?.into_iter().collect();
        for object in schema(&self.fresh(recorded, path)?)? {
            later.remove(&object);
        }
        for version in recorded + 1..=self.latest_version() {
            if schema(&self.fresh(version, path)?)?.iter().any(|object| later.contains(object)) {
                let path = path.to_path_buf();
                return Err(Error::HistoryDamaged { path, problem: HistoryProblem::Cut { version } });
            }
        }
        Ok(())
    }

    /// Runs the pending migrations without conflicts with a person's objects.
    fn run_around(
        &self,
        transaction: &Transaction<'_>,
        path: &Path,
        from: u32,
        progress: &ProgressCallback,
        own: OwnObjects,
        left_out: impl FnOnce(Vec<LeftOut>) -> Result<()>,
    ) -> Result<()> {
        let latest = self.latest_version();
        if own.is_empty() {
            return self.run(transaction, path, from, latest, progress);
        }
        let later = (from + 1..=latest).map(|version| self.schema(version, path)).collect::<Result<Vec<_>>>()?;
        let later: Vec<_> = later.iter().map(|schema| &**schema).collect();
        let taken = own_objects::take_out(transaction, own, &later)?;
        self.run(transaction, path, from, latest, progress)?;
        left_out(own_objects::bring_back(transaction, taken)?)
    }

    /// Fails unless the database has the latest schema.
    pub(in crate::db) fn require_latest(&self, conn: &Connection, path: &Path) -> Result<()> {
        let status = self.status(conn, path)?;
        if status.pending.is_empty() {
            return Ok(());
        }
        Err(Error::SchemaOutdated {
            path: path.to_path_buf(),
            found: status.schema_version,
            required: self.latest_version(),
        })
    }

    /// A database in memory with the schema of a version. `path` is the database that it is to be compared with.
    pub(in crate::db) fn fresh(&self, version: u32, path: &Path) -> Result<Connection> {
        let mut conn = Connection::open_in_memory()?;
        conn.pragma_update(None, "foreign_keys", false)?;
        let transaction = conn.transaction()?;
        self.run(&transaction, path, 0, version, &ProgressCallback::default())?;
        transaction.commit()?;
        Ok(conn)
    }

    /// The schema of a version.
    pub(in crate::db) fn schema(&self, version: u32, path: &Path) -> Result<Arc<ReleasedSchema>> {
        let mut schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(schema) = schemas.get(&version) {
            return Ok(schema.clone());
        }
        let schema = Arc::new(ReleasedSchema::read(version, &self.fresh(version, path)?)?);
        schemas.insert(version, schema.clone());
        Ok(schema)
    }

    /// Runs and records the migrations from one version to another.
    fn run(
        &self,
        transaction: &Transaction<'_>,
        path: &Path,
        from: u32,
        to: u32,
        progress: &ProgressCallback,
    ) -> Result<()> {
        let due = self.migrations.iter().filter(|it| (from + 1..=to).contains(&version_of(it)));
        let total = Some(u64::from(to - from));
        for (done, migration) in (0..).zip(due) {
            progress.report(Stage::Migrating, done, total);
            let failed = |detail: String| Error::MigrationFailed {
                path: path.to_path_buf(),
                migration: migration.to_string(),
                detail,
            };
            // One at a time, so that the one that fails is known by name; all in the transaction that is open.
            Runner::new(&self.migrations)
                .set_grouped(true)
                .set_target(Target::Version(migration.version()))
                .run(&mut refinery_bridge::Locked(transaction))
                .map_err(|error| match std::error::Error::source(&error) {
                    Some(source) => {
                        match source.downcast_ref::<rusqlite::Error>().and_then(|it| it.sqlite_error_code()) {
                            Some(rusqlite::ErrorCode::DiskFull) => Error::DiskFull { path: path.to_path_buf() },
                            // Or the disk has failed to read, which the caller finds out.
                            Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
                                Error::Corrupt { path: path.to_path_buf(), detail: source.to_string() }
                            }
                            _ => failed(source.to_string()),
                        }
                    }
                    None => failed(error.to_string()),
                })?;
            // Says again which version this is, should the record of migrations lose its end.
            transaction.pragma_update(None, "user_version", version_of(migration))?;
            if transaction.is_autocommit() {
                return Err(failed("it ended the transaction that it runs in".into()));
            }
            tracing::info!(%migration, "ran a migration");
        }
        progress.report(Stage::Migrating, u64::from(to - from), total);
        Ok(())
    }
}

/// A checkout that turned the line ends into CRLF must not make another migration of it.
fn with_unix_lines(migration: Migration) -> Migration {
    let sql = migration.sql().filter(|sql| sql.contains('\r')).map(|sql| sql.replace("\r\n", "\n"));
    sql.and_then(|sql| Migration::unapplied(&migration.to_string(), &sql).ok()).unwrap_or(migration)
}

/// Runs `work` under the write lock with foreign keys off, and commits.
fn locked(conn: &mut Connection, path: &Path, work: impl FnOnce(&Transaction<'_>) -> Result<()>) -> Result<()> {
    // With foreign keys on, rebuilding a parent table would delete its children. They cannot be switched inside a
    // transaction; the caller switches them on, once the schema is the latest.
    conn.pragma_update(None, "foreign_keys", false)?;
    conn.pragma_update(None, "synchronous", "full")?;
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    work(&transaction).map_err(|error| error.with_path(path))?;
    Ok(transaction.commit()?)
}

/// Fails where migrations left anything wrong: a reference to nothing, a value that its column does not allow.
fn check(transaction: &Transaction<'_>, schema: &ReleasedSchema, path: &Path) -> Result<()> {
    let failed = |detail: String| Error::MigrationFailed {
        path: path.to_path_buf(),
        migration: "the check afterwards".into(),
        detail,
    };
    if let Some(table) = own_objects::broken_reference(transaction, schema)? {
        return Err(failed(format!("rows of {table} would refer to nothing")));
    }
    own_objects::integrity_problem(transaction, schema)?.map_or(Ok(()), |verdict| Err(failed(verdict)))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
