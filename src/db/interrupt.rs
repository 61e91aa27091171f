//! Ending a read from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;

use crate::error::Result;

/// Instructions of SQLite's virtual machine between two looks at an interrupt: some ten microseconds.
const STEP: i32 = 1000;

/// A switch that ends the reads of a store from another thread; see
/// [`StateStore::interruptible`](crate::StateStore::interruptible). Clones are one switch.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// A switch that is off.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the reads that are in progress, and lets later ones fail, until [`reset`](Self::reset).
    pub fn interrupt(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Allows reads again.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether it was switched.
    pub fn is_interrupted(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Does work on a connection, whose statements end where this is switched.
    pub(crate) fn watch<T>(&self, conn: &Connection, work: impl FnOnce() -> Result<T>) -> Result<T> {
        /// Removes the handler, also after a panic: the connection serves others next.
        struct Unwatch<'c>(&'c Connection);
        impl Drop for Unwatch<'_> {
            fn drop(&mut self) {
                if let Err(error) = self.0.progress_handler(0, None::<fn() -> bool>) {
                    tracing::error!(%error, "could not remove the handler of an interrupt");
                }
            }
        }
        let switch = self.clone();
        conn.progress_handler(STEP, Some(move || switch.is_interrupted()))?;
        let _unwatch = Unwatch(conn);
        work()
    }
}
