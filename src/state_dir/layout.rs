//! Where the state directory is, and making it.
//!
//! [`prepare`] may be called by any number of processes at once; it takes no lock. Where it fails, directories that it has made
//! stay.

use std::path::{Path, PathBuf};

use super::files::{create_directory, is_link, resolve};
use super::names::{BACKUP_DIRECTORY, SELF_IMPROVEMENT_DIRECTORY, STATE_DIRECTORY};
use crate::error::{Error, Result};

/// The state directory of this user: `.agentmux/state` below the home directory.
///
/// # Errors
/// [`Error::NoHome`] where the home directory is not known.
pub fn default_state_dir() -> Result<PathBuf> {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    Ok(home.ok_or(Error::NoHome)?.join(STATE_DIRECTORY))
}

/// Creates the state directory and its folders, and returns its absolute path without links.
///
/// SQLite refuses links on the way to a database; the directory itself may be reached through one.
pub(crate) fn prepare(state_dir: &Path) -> Result<PathBuf> {
    create_directory(state_dir)?;
    let state_dir = resolve(state_dir)?;
    // A link to a disk that is not mounted now concerns backups only.
    if !is_link(&state_dir.join(BACKUP_DIRECTORY)) {
        create_directory(&state_dir.join(BACKUP_DIRECTORY))?;
    }
    create_directory(&state_dir.join(SELF_IMPROVEMENT_DIRECTORY))?;
    Ok(state_dir)
}
