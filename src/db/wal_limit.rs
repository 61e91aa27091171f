//! Restarts the WAL where it has become large: readers that overlap without a gap would let it grow without bound.
//!
//! Every reader holds the gate shared. A writer that restarts the WAL takes it exclusively for at most 2 × 50 ms; new readers wait
//! for that at most 100 ms, and then read without the gate. A restart that fails costs nothing but the wait: it is tried again
//! after a pause, which grows to 5 s. The caller holds the writer.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::deadline::until;
use super::group_commit::GroupConnection;
use crate::state_dir::beside;

/// The WAL is restarted at this size. Its size is looked at once in this number of commits.
const LARGE_WAL: u64 = 16 * 1024 * 1024;

const COMMITS_BETWEEN: u32 = 8;

/// How long new readers wait while the WAL is restarted, and how long the restart waits for present readers.
const GATE_PATIENCE: Duration = Duration::from_millis(100);

const RESTART_PATIENCE: Duration = Duration::from_millis(50);

/// The pause before the next restart: at first, and at most after several failures, as beside a long read.
const SHORT_RESTART_PAUSE: Duration = Duration::from_millis(100);

const LONG_RESTART_PAUSE: Duration = Duration::from_secs(5);

/// Keeps the WAL of one database from growing without bound.
pub(super) struct WalLimit {
    gate: RwLock<()>,
    /// When the WAL may be restarted again, and the pause after that.
    next_restart: Mutex<(Instant, Duration)>,
    commits: AtomicU32,
}

impl WalLimit {
    pub(super) fn new() -> Self {
        Self {
            gate: RwLock::new(()),
            next_restart: Mutex::new((Instant::now(), SHORT_RESTART_PAUSE)),
            commits: AtomicU32::new(0),
        }
    }

    /// To be held by a reader. It waits while the WAL is being restarted, so that there is one point in time without readers.
    pub(super) fn enter(&self) -> Option<RwLockReadGuard<'_, ()>> {
        self.gate.try_read_for(GATE_PATIENCE)
    }

    /// Restarts the WAL where it is large. To be called after a write.
    pub(super) fn apply(&self, database: &Path, conn: &mut GroupConnection) {
        if !self.commits.fetch_add(1, Ordering::Relaxed).is_multiple_of(COMMITS_BETWEEN)
            || fs::metadata(beside(database, "-wal")).is_ok_and(|wal| wal.len() < LARGE_WAL)
        {
            return;
        }
        let mut next_restart = self.next_restart.lock();
        if Instant::now() < next_restart.0 {
            return;
        }
        let restarted = self.gate.try_write_for(RESTART_PATIENCE).is_some_and(|_gate| {
            until(Instant::now() + RESTART_PATIENCE, || {
                let busy = conn.alone().query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get::<_, bool>(0));
                busy.is_ok_and(|busy| !busy)
            })
        });
        if !restarted {
            tracing::debug!("a reader keeps the WAL from being restarted");
        }
        let pause = if restarted { SHORT_RESTART_PAUSE } else { (next_restart.1 * 2).min(LONG_RESTART_PAUSE) };
        *next_restart = (Instant::now() + pause, pause);
    }
}
