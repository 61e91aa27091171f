//! Finding the state file that the TypeScript service left.

use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::path::{Path, PathBuf};

use super::load::checkpointed_at;
use crate::error::{Error, Result};
use crate::state_dir::{EARLY_EXPORT_FILE, EXPORT_FILE, RENAMED_STATE_DIRECTORY, is_link, open_file};

/// Opens the TypeScript service's state file: under its later name or its early one, in the state directory or where the
/// renamed product kept it below the base directory. Of several, the one with the newest checkpoint; `None` where there
/// is none.
///
/// # Errors
/// Where there are several and one cannot be read: it might be the newest.
pub(crate) fn typescript_file(state_dir: &Path, base_dir: Option<&Path>) -> Result<Option<(PathBuf, BufReader<File>)>> {
    let home = std::env::home_dir();
    let renamed = base_dir.or(home.as_deref()).map(|base| base.join(RENAMED_STATE_DIRECTORY));
    let mut found = Vec::new();
    for directory in [Some(state_dir), renamed.as_deref()].into_iter().flatten() {
        for name in [EXPORT_FILE, EARLY_EXPORT_FILE] {
            let path = directory.join(name);
            match open_file(&path) {
                Ok(file) => found.push((path, reader(file))),
                // A link that leads nowhere is no absence.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !is_link(&path) => {}
                Err(error) => return Err(Error::io("read", path)(error)),
            }
        }
    }
    if found.len() < 2 {
        return Ok(found.pop());
    }
    let mut newest = None;
    for (index, (path, file)) in found.iter_mut().enumerate() {
        let at = checkpointed_at(&mut *file, &path.display().to_string())?.parse();
        file.rewind().map_err(Error::io("read", &*path))?;
        // Of two with the same time, the one that stands first.
        if newest.is_none_or(|(newest, _)| at > newest) {
            newest = Some((at, index));
        }
    }
    let chosen = newest.map_or(0, |(_, index)| index);
    let (path, file) = found.swap_remove(chosen);
    for (other, _) in &found {
        tracing::warn!(taken = %path.display(), left = %other.display(), "several state files; the newest is taken over");
    }
    Ok(Some((path, file)))
}

fn reader(file: File) -> BufReader<File> {
    BufReader::with_capacity(64 * 1024, file)
}
