//! How long a caller waits: one deadline for everything that one call waits for.
//!
//! SQLite's own busy time-out starts again with each statement, and its pauses grow to 100 ms, in which other processes take
//! turn after turn. Every connection gets [`wait`] as its busy handler instead.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Result};

/// How long a call waits for locks of other threads and processes, in total, unless an option says otherwise.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

thread_local! {
    /// The deadline of the call that this thread is in; `None` where a statement stands for itself.
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Lets a connection wait for locks of other processes.
pub(super) fn wait_for_locks(conn: &Connection) -> Result<()> {
    conn.busy_handler(Some(wait))
}

/// Runs `work`, in which SQLite waits for locks of other processes until the deadline at most.
pub(super) fn until<T>(deadline: Instant, work: impl FnOnce() -> T) -> T {
    /// Puts the deadline of the call around this one back, also after a panic.
    struct Restore(Option<Instant>);
    impl Drop for Restore {
        fn drop(&mut self) {
            DEADLINE.set(self.0);
        }
    }
    let outer = DEADLINE.get();
    let _restore = Restore(outer);
    DEADLINE.set(Some(outer.map_or(deadline, |outer| outer.min(deadline))));
    work()
}

/// Runs `work`, in which SQLite does not wait for anybody.
pub(super) fn without_waiting<T>(work: impl FnOnce() -> T) -> T {
    until(Instant::now(), work)
}

/// Sleeps briefly for another process's lock; `false` gives up.
fn wait(attempts: i32) -> bool {
    let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
    let waited_enough = match DEADLINE.get() {
        Some(deadline) => Instant::now() >= deadline,
        None => SHORT_PAUSES * SHORT_PAUSE + attempts.saturating_sub(SHORT_PAUSES) * PAUSE >= BUSY_TIMEOUT,
    };
    if !waited_enough {
        thread::sleep(if attempts < SHORT_PAUSES { SHORT_PAUSE } else { PAUSE });
    }
    !waited_enough
}

// Longer than a turn of another process, so that the write lock does not stay unused when that ends.
const SHORT_PAUSES: u32 = 2000;
const SHORT_PAUSE: Duration = Duration::from_micros(250);
const PAUSE: Duration = Duration::from_millis(1);
