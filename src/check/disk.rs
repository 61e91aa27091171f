//! The state directory on its disk: who may read it, what room there is, and whether SQLite can work there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Findings;
use crate::db::SET_ASIDE_PREFIX;
use crate::directory::{BACKUP_DIRECTORY, DATABASE_FILE, EXPORT_FILE};

/// With less room than this, updates are about to fail.
const LITTLE: u64 = 16 * 1024 * 1024;

/// Magic numbers of file systems whose locks and shared memory are those of another host, from `linux/magic.h` and the
/// file systems' own headers.
const NETWORK: &[(u64, &str)] = &[
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x517b, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x0102_1997, "9P"),
    (0x5346_414f, "AFS"),
    (0x0bd0_0bd0, "Lustre"),
    (0x7461_636f, "OCFS2"),
    (0x0116_1970, "GFS2"),
    (0x7375_7245, "Coda"),
];

/// Checks it; the bytes that are free, where the file system tells.
pub(super) fn check(state_dir: &Path, database_bytes: u64, findings: &mut Findings) -> Option<u64> {
    permissions(state_dir, findings);
    for entry in fs::read_dir(state_dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(SET_ASIDE_PREFIX) {
            let files = fs::read_dir(entry.path()).into_iter().flatten().flatten();
            let bytes: u64 = files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum();
            let message = format!("{} holds a damaged database, {bytes} bytes", entry.path().display());
            findings.note("damaged", message);
        }
    }
    if let Some(name) = network_file_system(state_dir) {
        let message = format!("{} lies on {name}: SQLite needs a disk of this host", state_dir.display());
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

fn network_file_system(state_dir: &Path) -> Option<&'static str> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // 32 bits of it are the magic number; how it is signed differs between machines.
        let found = rustix::fs::statfs(state_dir).ok()?.f_type as u64 & 0xffff_ffff;
        NETWORK.iter().find(|(magic, _)| *magic == found).map(|(_, name)| *name)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = (state_dir, NETWORK);
        None
    }
}

fn free_bytes(state_dir: &Path) -> Option<u64> {
    let status = rustix::fs::statvfs(state_dir).ok()?;
    Some(status.f_bavail * status.f_frsize)
}

/// How the names of what is ours in the state directory begin: the database and what SQLite keeps beside it, and the rest.
const OURS: &[&str] = &[DATABASE_FILE, EXPORT_FILE, BACKUP_DIRECTORY, SET_ASIDE_PREFIX, "service.lock", "writers.lock"];

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
