//! Rebuilding a damaged state.

use std::path::Path;

use super::options::StoreOptions;
use crate::error::Result;
use crate::recover::{self, RecoveryReport};

/// Rebuilds a damaged database from what can be read of it and from a good backup or export. Every [`StateStore`](crate::StateStore) on it is
/// to be closed.
///
/// ```no_run
/// use agentmux_state::{StoreOptions, recover};
///
/// let report = recover("/home/me/.agentmux/state", &StoreOptions::default())?;
/// println!("{} tasks; lost: {:?}", report.restored.tasks, report.lost);
/// # Ok::<(), agentmux_state::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotDamaged`](crate::Error::NotDamaged); [`Error::NoDatabase`](crate::Error::NoDatabase); [`Error::InUse`](crate::Error::InUse) while a service runs or another process has the database open; [`Error::Unrecoverable`](crate::Error::Unrecoverable) where nothing can be
/// read and there is no good backup; [`Error::Io`](crate::Error::Io) where the disk fails to read, which is no damage;
/// [`Error::SchemaTooNew`](crate::Error::SchemaTooNew) and [`Error::NotAStateDatabase`](crate::Error::NotAStateDatabase) for what is not this release's. Nothing is changed then.
pub fn recover(state_dir: impl AsRef<Path>, options: &StoreOptions) -> Result<RecoveryReport> {
    recover::recover(state_dir, options.clock.now(), &options.progress)
}
