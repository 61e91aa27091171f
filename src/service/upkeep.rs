//! What a service does at each periodic checkpoint.

use std::time::{Duration, Instant};

use super::options::ServiceOptions;
use crate::backup::Retention;
use crate::error::Result;
use crate::model::CheckpointReason;
use crate::rows::{changes, export_mark};
use crate::store::StateStore;

/// How often the service drops what its retention says, and updates the statistics of SQLite's query planner.
pub const PRUNE_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// How long messages are taken into the index of searches at each checkpoint: a shutdown waits no longer.
const INDEXING_TIME: Duration = Duration::from_millis(200);

/// The same for pruning.
const PRUNING_TIME: Duration = Duration::from_millis(200);

/// How far pruning is.
#[derive(Default)]
pub(crate) struct Pruning {
    /// When it was done last; `None` where it is due.
    done: Option<Instant>,
    /// Whether the present round has had its backup.
    is_backed_up: bool,
    /// When the statistics of the query planner were brought up to date last.
    statistics: Option<Instant>,
}

/// Records a checkpoint where something has changed, exports where the last export is behind, makes a backup where one is due,
/// and drops what is old. A step that fails keeps none of the others from being done.
///
/// # Errors
/// The first one; the others are logged. [`Error::DatabaseMoved`](crate::Error::DatabaseMoved) and
/// [`Error::LockLost`](crate::Error::LockLost) also where nothing has changed; then nothing else is done.
pub(crate) fn scheduled_checkpoint(store: &StateStore, options: &ServiceOptions, pruning: &mut Pruning) -> Result<()> {
    store.database().require_in_place()?;
    let mut steps = Steps::default();
    steps.run("record a checkpoint", || {
        if store.read(changes::exist)? {
            store.record_checkpoint(&CheckpointReason::Scheduled)?;
        }
        Ok(())
    });
    steps.run("refresh the export", || {
        if options.export && store.read(export_mark::is_behind)? {
            store.refresh_export()?;
        }
        Ok(())
    });
    steps.run("index messages", || store.update_message_index_within(INDEXING_TIME).map(drop));
    let mut is_due = false;
    steps.run("make a backup", || {
        is_due = options.backup_interval.map_or(Ok(false), |interval| store.backups().is_due(interval))?;
        if is_due {
            store.backups().create("daily")?;
        }
        Ok(())
    });
    if is_due {
        // Also where the backup failed: it may be the old ones that fill the disk.
        steps.run("remove old backups", || apply_backup_retention(store, options));
    }
    steps.run("prune", || prune(store, options, pruning));
    update_statistics(store, pruning);
    steps.first_error
}

/// Steps that are all done, whether or not one of them fails.
struct Steps {
    first_error: Result<()>,
}

impl Default for Steps {
    fn default() -> Self {
        Self { first_error: Ok(()) }
    }
}

impl Steps {
    fn run(&mut self, what: &str, step: impl FnOnce() -> Result<()>) {
        match (&self.first_error, step()) {
            (_, Ok(())) => {}
            (Ok(()), Err(error)) => self.first_error = Err(error),
            (Err(_), Err(error)) => tracing::warn!(%error, "could not {what} at a checkpoint, either"),
        }
    }
}

/// Drops what the retention says, where that is due. What there is no time for comes at the next checkpoint.
fn prune(store: &StateStore, options: &ServiceOptions, pruning: &mut Pruning) -> Result<()> {
    let Some(what) = options.retention.at(options.clock.now()) else { return Ok(()) };
    if pruning.done.is_some_and(|done| done.elapsed() < PRUNE_INTERVAL) {
        return Ok(());
    }
    let deadline = Instant::now() + PRUNING_TIME;
    let (report, is_done) = store.prune_until(&what, Some(deadline), !pruning.is_backed_up)?;
    if report.backup.is_some() {
        pruning.is_backed_up = true;
        apply_backup_retention(store, options)?;
    }
    if is_done {
        (pruning.done, pruning.is_backed_up) = (Some(Instant::now()), false);
    }
    Ok(())
}

/// Brings the statistics of SQLite's query planner up to date, where they are missing or much has changed; of a large table
/// it reads a part only. Once an hour, as SQLite advises for programs that keep a database open. A failure is only logged:
/// an index that a person added may need a function that this program does not have.
fn update_statistics(store: &StateStore, pruning: &mut Pruning) {
    /// Looks at all tables, not only those that this connection has read, and limits the work for each.
    const OPTIMIZE: &str = "PRAGMA optimize(0x10012)";
    if pruning.statistics.is_some_and(|done| done.elapsed() < PRUNE_INTERVAL) {
        return;
    }
    pruning.statistics = Some(Instant::now());
    if let Err(error) = store.transaction(|conn| Ok(conn.execute_batch(OPTIMIZE)?)) {
        tracing::debug!(%error, "could not update the statistics of the query planner");
    }
}

/// Removes the oldest backups, after the service has made one.
pub(crate) fn apply_backup_retention(store: &StateStore, options: &ServiceOptions) -> Result<()> {
    store.backups().prune(&Retention { last: options.keep_backups, ..Retention::default() }, false).map(drop)
}
