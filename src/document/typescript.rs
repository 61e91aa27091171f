//! Finding the state file that the TypeScript service left.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use crate::directory::{EARLY_EXPORT_FILE, EXPORT_FILE, FORMER_STATE_DIRECTORY};
use crate::error::{Error, Result};

/// Opens the TypeScript service's state file: under its later name or its early one, in the state directory or, under
/// the product's former name, elsewhere below the base directory. The first one there is; `None` where there is none.
pub(crate) fn typescript_file(state_dir: &Path, base_dir: Option<&Path>) -> Result<Option<(PathBuf, BufReader<File>)>> {
    let home = std::env::home_dir();
    let former = base_dir.or(home.as_deref()).map(|base| base.join(FORMER_STATE_DIRECTORY));
    for directory in [Some(state_dir), former.as_deref()].into_iter().flatten() {
        for name in [EXPORT_FILE, EARLY_EXPORT_FILE] {
            let path = directory.join(name);
            match File::open(&path) {
                Ok(file) => return Ok(Some((path, BufReader::with_capacity(64 * 1024, file)))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("read", path)(error)),
            }
        }
    }
    Ok(None)
}
