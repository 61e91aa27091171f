//! How a service works.

use std::path::PathBuf;
use std::time::Duration;

use crate::clock::Clock;
use crate::db::Durability;
use crate::model::MAX_PERSISTED_MESSAGES;
use crate::prune::StateRetention;
use crate::setters::setters;
use crate::state_dir::SharedMounts;
use crate::store::{Limits, StoreOptions};

/// How often the state is checkpointed, unless an option says otherwise.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// How often the service makes a backup by itself, unless an option says otherwise.
pub const BACKUP_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// How many backups stay when the service has made one by itself, unless an option says otherwise.
pub const KEPT_BACKUPS: usize = 10;

/// How a service works.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServiceOptions {
    /// The state lies in `.agentmux/state` below it; `None` is the home directory.
    pub base_dir: Option<PathBuf>,
    /// Time between periodic checkpoints; `None` makes none. 60 seconds by default.
    pub checkpoint_interval: Option<Duration>,
    /// How many messages of a conversation an update keeps: the newest. 50 by default.
    pub message_limit: usize,
    /// How long a write waits for other writers, of this process and of others, in total; then it fails with [`Error::Busy`](crate::Error::Busy).
    /// 60 seconds by default.
    pub write_timeout: Duration,
    /// Start with no conversations, tasks, agents, projects and self-improvement. Those of the previous run are returned
    /// by [`initialize`](crate::StatePersistenceService::initialize) and lie in a backup first. Off by default.
    pub start_empty: bool,
    /// Write `current-state.json` at checkpoints where something changed. On by default.
    pub export: bool,
    /// Time between backups that the service makes by itself, at checkpoints, where something has changed since the last
    /// backup; `None` makes none. A day by default.
    pub backup_interval: Option<Duration>,
    /// How many backups stay when the service has made one by itself: the newest. 10 by default.
    pub keep_backups: usize,
    /// What the service drops by itself, every hour, at checkpoints: completed tasks and idle conversations of some age.
    /// Nothing by default.
    pub retention: StateRetention,
    /// How much is kept of what would grow by itself: checkpoints, runs, records set aside.
    pub limits: Limits,
    /// What is still there after the power fails. All, by default.
    pub durability: Durability,
    /// What `initialize` does where the state directory is on a mount that is shared with other machines. Warns, by default.
    pub shared_mounts: SharedMounts,
    /// Where the time comes from.
    pub clock: Clock,
}

setters! { ServiceOptions { base_dir: Option<PathBuf>, checkpoint_interval: Option<Duration>, message_limit: usize, write_timeout: Duration, start_empty: bool, export: bool, backup_interval: Option<Duration>, keep_backups: usize, retention: StateRetention, limits: Limits, durability: Durability, shared_mounts: SharedMounts, clock: Clock } }

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            base_dir: None,
            checkpoint_interval: Some(CHECKPOINT_INTERVAL),
            message_limit: MAX_PERSISTED_MESSAGES,
            write_timeout: StoreOptions::default().write_timeout,
            start_empty: false,
            export: true,
            backup_interval: Some(BACKUP_INTERVAL),
            keep_backups: KEPT_BACKUPS,
            retention: StateRetention::default(),
            limits: Limits::default(),
            durability: Durability::default(),
            shared_mounts: SharedMounts::default(),
            clock: Clock::default(),
        }
    }
}

impl ServiceOptions {
    pub(super) fn store_options(&self) -> StoreOptions {
        StoreOptions {
            durability: self.durability,
            message_limit: self.message_limit,
            write_timeout: self.write_timeout,
            limits: self.limits.clone(),
            shared_mounts: self.shared_mounts,
            clock: self.clock.clone(),
            ..StoreOptions::default()
        }
    }
}
