//! Which migrations a state has had, and trying those out that it is to get.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use super::options::StoreOptions;
use super::state_store::{StateStore, existing};
use crate::backup::{self, Backup};
use crate::db::{Database, MigrationStatus, copy_database, prepare_copy};
use crate::document;
use crate::error::{Error, Result};
use crate::state_dir::DATABASE_FILE;

/// What an upgrade of a copy of the database came to. It succeeded: where it does not, that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "camelCase")]
pub struct MigrationDryRun {
    /// How long the backup took that comes before an upgrade: copying and checking. In JSON in milliseconds.
    #[serde(rename = "backupMs", serialize_with = "milliseconds")]
    pub backup: Duration,
    /// How long the migrations took, and checking that everything can still be read. In JSON in milliseconds.
    #[serde(rename = "migrateMs", serialize_with = "milliseconds")]
    pub migrate: Duration,
    /// Size of the database before, in bytes.
    pub bytes_before: u64,
    /// Size of the database after, in bytes.
    pub bytes_after: u64,
}

impl StateStore {
    /// Which migrations the database in a state directory has had and is to get. Changes nothing.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// StateStore::open(state_dir)?;
    /// assert!(StateStore::migration_status(state_dir)?.pending.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`open_read_only`](Self::open_read_only), but an outdated schema is none.
    pub fn migration_status(state_dir: impl AsRef<Path>) -> Result<MigrationStatus> {
        Database::migration_status(&existing(state_dir.as_ref())?.join(DATABASE_FILE))
    }

    /// Upgrades a copy of the database, checks that everything in it can be read, and removes it; `None` where no
    /// migration is due. The database is only read, also beside an orchestrator that runs. The copy lies in `backups/`
    /// and needs as much room as the backup before an upgrade.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// StateStore::open(state_dir)?;
    /// assert_eq!(StateStore::migrate_dry_run(state_dir, &StoreOptions::default())?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`open`](Self::open): what would make the upgrade fail.
    pub fn migrate_dry_run(state_dir: impl AsRef<Path>, options: &StoreOptions) -> Result<Option<MigrationDryRun>> {
        let state_dir = existing(state_dir.as_ref())?;
        let path = state_dir.join(DATABASE_FILE);
        if Database::migration_status(&path)?.pending.is_empty() {
            return Ok(None);
        }
        let progress = &options.progress;
        let folder = backup::Folder::change(&state_dir)?;
        let copy = folder.temporary_file()?;
        let bytes = || copy.as_file().metadata().map(|it| it.len()).map_err(Error::io("read", copy.path()));
        let start = Instant::now();
        copy_database(&path, copy.path(), progress, |_| Ok(()))?;
        let backup = start.elapsed();
        let bytes_before = bytes()?;
        let start = Instant::now();
        let tried = prepare_copy(copy.path(), progress, |conn| {
            document::export(conn, options.clock.now(), progress, &mut std::io::sink())
        });
        tried.map_err(|error| match error {
            // The copy is of no interest.
            Error::MigrationFailed { migration, detail, .. } => Error::MigrationFailed { path, migration, detail },
            Error::SchemaChanged { differences, .. } => Error::SchemaChanged { path, differences },
            Error::Corrupt { detail, .. } => Error::Corrupt { path, detail },
            other => other,
        })?;
        Ok(Some(MigrationDryRun { backup, migrate: start.elapsed(), bytes_before, bytes_after: bytes()? }))
    }

    /// The backup that was made before the database was upgraded; `None` where opening found it up to date.
    pub fn upgrade_backup(&self) -> Option<&Backup> {
        self.upgrade().map(|upgrade| &upgrade.backup)
    }

    /// The file with what somebody had added to the database and its upgrade had no place for, as SQL: a view or a table whose name
    /// the new schema needs, for instance. `None` where all of it stayed.
    pub fn upgrade_own_objects(&self) -> Option<&Path> {
        self.upgrade()?.own_objects.as_deref()
    }
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_millis() as u64)
}
