//! The state directory on its disk: who may read it, what room there is, and whether SQLite can work there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::findings::Findings;
use crate::db::{DAMAGED_PREFIX, LEFT_OUT_PREFIX};
use crate::model::Run;
use crate::state_dir::{
    BACKUP_DIRECTORY, DATABASE_FILE, DirectoryLock, EXPORT_FILE, SharedMount, holds_deleted_lock, shared_mount,
};

/// With less room than this, updates are about to fail.
const LITTLE: u64 = 16 * 1024 * 1024;

/// Checks it; the bytes that are free, where the file system tells.
pub(super) fn check(
    state_dir: &Path,
    database_bytes: u64,
    last_run: Option<&Run>,
    findings: &mut Findings,
) -> Option<u64> {
    permissions(state_dir, findings);
    owner(state_dir, last_run, findings);
    for entry in fs::read_dir(state_dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(DAMAGED_PREFIX) {
            let files = fs::read_dir(entry.path()).into_iter().flatten().flatten();
            let bytes: u64 = files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum();
            let message = format!("{} holds a damaged database, {bytes} bytes", entry.path().display());
            findings.note("damaged", message);
        }
    }
    if let Some(SharedMount { file_system, mount_point }) = shared_mount(state_dir) {
        let message = format!(
            "{} is on {file_system}, mounted at {}, which is shared with other machines: SQLite needs a local disk",
            state_dir.display(),
            mount_point.display()
        );
        findings.problem("file_system", message);
    }
    let free = free_bytes(state_dir)?;
    if free < LITTLE {
        findings
            .problem("space", format!("{free} bytes are left for {}: updates are about to fail", state_dir.display()));
    } else if free < 2 * database_bytes {
        let message = format!("{free} bytes are left: too few for a backup and an upgrade, which copy the database");
        findings.note("space", message);
    }
    Some(free)
}

/// Whether the service that runs works on the files that are there.
fn owner(state_dir: &Path, last_run: Option<&Run>, findings: &mut Findings) {
    let database = state_dir.join(DATABASE_FILE);
    let holder = DirectoryLock::find_holder(state_dir).ok().flatten();
    if let Some(holder) = &holder
        && holder.works_on_database(state_dir) == Some(false)
    {
        let message = format!(
            "process {} runs on {}, and has another file open: the database was moved, replaced or deleted under it, and it \
             refuses updates; stop it, look which file is the right one, and start it again",
            holder.pid.unwrap_or_default(),
            database.display()
        );
        findings.problem("owner", message);
    }
    if let Some(run) = last_run
        && run.outcome.is_none()
        && !holder.is_some_and(|holder| holder.is_process_of(run))
        && holds_deleted_lock(run.pid, state_dir)
    {
        let message = format!(
            "process {} still runs on {}, though its lock file service.lock was deleted or replaced: another one may start beside \
             it; stop it and start it again",
            run.pid,
            state_dir.display()
        );
        findings.problem("owner", message);
    }
}

fn free_bytes(state_dir: &Path) -> Option<u64> {
    let status = rustix::fs::statvfs(state_dir).ok()?;
    Some(status.f_bavail * status.f_frsize)
}

/// How the names of what is ours in the state directory begin: the database and what SQLite keeps beside it, and the rest.
const OURS: &[&str] =
    &[DATABASE_FILE, EXPORT_FILE, BACKUP_DIRECTORY, DAMAGED_PREFIX, LEFT_OUT_PREFIX, "service.lock", "writers.lock"];

/// Everything of ours is for its owner alone.
fn permissions(state_dir: &Path, findings: &mut Findings) {
    let mut paths = vec![state_dir.to_path_buf()];
    for directory in [state_dir.to_path_buf(), state_dir.join(BACKUP_DIRECTORY)] {
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let ours = |name: &str| directory != state_dir || OURS.iter().any(|prefix| name.starts_with(prefix));
        paths.extend(entries.filter(|entry| ours(&entry.file_name().to_string_lossy())).map(|entry| entry.path()));
    }
    paths.sort();
    for path in paths {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 && !metadata.is_symlink() {
            let message = format!("{} can be reached by others (mode {mode:04o}); `chmod go=` it", path.display());
            findings.problem("permissions", message);
        }
    }
}
