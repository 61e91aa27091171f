//! What a service does at each periodic checkpoint.

use std::time::{Duration, Instant};

use crate::backup::Retention;
use crate::error::Result;
use crate::model::CheckpointReason;
use crate::service::ServiceOptions;
use crate::store::{StateStore, checkpoint};

/// How often the service drops what its retention says.
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
    /// Whether the round at hand has had its backup.
    is_backed_up: bool,
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
        if store.read(checkpoint::has_changes)? {
            store.record_checkpoint(&CheckpointReason::Scheduled)?;
        }
        Ok(())
    });
    steps.run("refresh the export", || {
        if options.export && store.read(checkpoint::export_is_behind)? {
            store.refresh_export()?;
        }
        Ok(())
    });
    steps.run("index messages", || store.update_message_index_within(INDEXING_TIME).map(drop));
    let mut is_due = false;
    steps.run("make a backup", || {
        is_due = options.backup_interval.map_or(Ok(false), |interval| store.backup_is_due(interval))?;
        if is_due {
            store.create_backup("daily")?;
        }
        Ok(())
    });
    if is_due {
        // Also where the backup failed: it may be the old ones that fill the disk.
        steps.run("remove old backups", || thin_out_backups(store, options));
    }
    steps.run("prune", || prune(store, options, pruning));
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
        thin_out_backups(store, options)?;
    }
    if is_done {
        *pruning = Pruning { done: Some(Instant::now()), is_backed_up: false };
    }
    Ok(())
}

/// Removes the oldest backups, after the service has made one.
pub(crate) fn thin_out_backups(store: &StateStore, options: &ServiceOptions) -> Result<()> {
    store.prune_backups(&Retention { last: options.keep_backups, ..Retention::default() }, false).map(drop)
}
