//! How a store is opened.

use std::time::Duration;

use crate::clock::Clock;
use crate::db::{BUSY_TIMEOUT, Durability};
use crate::model::MAX_PERSISTED_MESSAGES;
use crate::progress::ProgressCallback;
use crate::setters::setters;
use crate::state_dir::SharedMounts;

/// How a store is opened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StoreOptions {
    /// What is still there after the power fails. All, by default.
    pub durability: Durability,
    /// How many messages of a conversation an update keeps: the newest. 50 by default.
    pub message_limit: usize,
    /// How many threads may read at once; further ones wait. 8 by default.
    pub max_readers: u32,
    /// How long a write waits for other writers, of this process and of others, in total; then it fails with [`Error::Busy`](crate::Error::Busy).
    /// 60 seconds by default.
    pub write_timeout: Duration,
    /// How much is kept of what would grow by itself.
    pub limits: Limits,
    /// What opening does where the state directory is on a mount that is shared with other machines. Warns, by default.
    pub shared_mounts: SharedMounts,
    /// Where the time comes from.
    pub clock: Clock,
    /// Who is told how far backups, restores, imports and exports are; nobody by default.
    pub progress: ProgressCallback,
}

setters! {
    StoreOptions {
        durability: Durability, message_limit: usize, max_readers: u32, write_timeout: Duration, limits: Limits,
        shared_mounts: SharedMounts, clock: Clock, progress: ProgressCallback,
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            message_limit: MAX_PERSISTED_MESSAGES,
            max_readers: 8,
            write_timeout: BUSY_TIMEOUT,
            limits: Limits::default(),
            shared_mounts: SharedMounts::default(),
            clock: Clock::default(),
            progress: ProgressCallback::default(),
        }
    }
}

/// How much is kept of what would grow by itself. What is beyond a limit goes when something is added.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Checkpoints: the newest so many, and the last one of each run that is kept. 10,000 by default, a week of one a
    /// minute. The newest one always stays, and so does the one that the export holds.
    pub checkpoints: u32,
    /// Runs: the newest so many. 1,000 by default. The newest two and runs that have not ended always stay.
    pub runs: u32,
    /// Records that imports could not read, in bytes. 64 MiB by default. Those of the oldest imports go, after a backup that
    /// holds them; those of the newest import always stay.
    pub set_aside_bytes: u64,
}

setters! { Limits { checkpoints: u32, runs: u32, set_aside_bytes: u64 } }

impl Default for Limits {
    fn default() -> Self {
        Self { checkpoints: 10_000, runs: 1_000, set_aside_bytes: 64 * 1024 * 1024 }
    }
}
