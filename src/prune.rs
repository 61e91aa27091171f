//! Dropping what is done with, completed tasks and idle conversations, and giving their space back.
//!
//! Both happen in short transactions, so that nobody who writes meanwhile waits for long.

use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::Connection;
use serde::{Serialize, Serializer};

use crate::db::Database;
use crate::error::Result;
use crate::model::Counts;
use crate::rows::Old;
use crate::setters::setters;

/// What is to be dropped. With nothing set, only free space is given back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PruneOptions {
    /// Tasks that were completed before that moment. One that has no readable `completedAt` goes by the latest of its other
    /// times; one without any readable time stays, and so does one that an unfinished task waits for or depends on.
    pub completed_before: Option<DateTime<Utc>>,
    /// Conversations in which nothing has happened since that time, by `lastActivityAt` and by their last message. One of
    /// which either is no readable time stays.
    pub idle_before: Option<DateTime<Utc>>,
    /// Only count.
    pub dry_run: bool,
}

setters! { PruneOptions { completed_before: Option<DateTime<Utc>>, idle_before: Option<DateTime<Utc>>, dry_run: bool } }

/// What was dropped, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "camelCase")]
pub struct PruneReport {
    /// How many tasks, conversations and messages. In JSON only these three.
    #[serde(serialize_with = "removed")]
    pub removed: Counts,
    /// By how much the database became smaller; of a dry run, about by how much it would.
    pub bytes_freed: u64,
    /// The backup of the state as it was before, where less than half of it was to stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Whether nothing was changed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What a service drops by itself, once it is that old; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateRetention {
    /// Tasks that were completed longer ago; see [`PruneOptions::completed_before`].
    pub completed_tasks: Option<Duration>,
    /// Conversations in which nothing has happened for longer; see [`PruneOptions::idle_before`].
    pub idle_conversations: Option<Duration>,
}

setters! { StateRetention { completed_tasks: Option<Duration>, idle_conversations: Option<Duration> } }

impl StateRetention {
    /// What is to be dropped now; `None` where nothing ever is.
    pub(crate) fn at(&self, now: DateTime<Utc>) -> Option<PruneOptions> {
        let before = |age: Option<Duration>| now.checked_sub_signed(TimeDelta::from_std(age?).ok()?);
        let (completed_before, idle_before) = (before(self.completed_tasks), before(self.idle_conversations));
        let is_any = completed_before.is_some() || idle_before.is_some();
        is_any.then_some(PruneOptions { completed_before, idle_before, dry_run: false })
    }
}

/// The kinds that are pruned, and their messages.
fn removed<S: Serializer>(counts: &Counts, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Removed {
        tasks: u64,
        conversations: u64,
        messages: u64,
    }
    let Counts { tasks, conversations, messages, .. } = *counts;
    Removed { tasks, conversations, messages }.serialize(serializer)
}

/// How long one transaction goes on, and how long others then have to get in between.
const TURN: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_millis(2);

/// What is to be dropped of each kind: what happened before that second.
fn old(options: &PruneOptions) -> impl Iterator<Item = Old> {
    let tasks = options.completed_before.map(|before| Old::DoneTasks { before: before.timestamp() });
    let conversations = options.idle_before.map(|before| Old::IdleConversations { before: before.timestamp() });
    tasks.into_iter().chain(conversations)
}

/// How much would be dropped, and about how many bytes would become free.
pub(crate) fn expected(conn: &Connection, options: &PruneOptions) -> Result<(Counts, u64)> {
    let mut removed = Counts::default();
    let mut freed = pragma(conn, "freelist_count")? * pragma(conn, "page_size")?;
    for old in old(options) {
        let (counts, bytes) = old.count(conn)?;
        removed += counts;
        freed += bytes;
    }
    Ok((removed, freed))
}

/// Drops what is old, and counts it in `removed`, also where it fails later; returns whether all of it is done.
pub(crate) fn remove_old(
    database: &Database,
    options: &PruneOptions,
    deadline: Option<Instant>,
    removed: &mut Counts,
) -> Result<bool> {
    for old in old(options) {
        let mut after = Some(i64::MIN);
        while let Some(position) = after {
            if is_past(deadline) {
                return Ok(false);
            }
            let step = database.transaction(|conn| old.remove_some(conn, position, TURN))?;
            *removed += step.removed;
            after = step.next;
            thread::sleep(PAUSE);
        }
    }
    Ok(true)
}

/// Gives free pages back to the file system; returns whether all.
pub(crate) fn give_back(database: &Database, deadline: Option<Instant>) -> Result<bool> {
    let mut free = database.read(|conn| pragma(conn, "freelist_count"))?;
    while free > 0 {
        if is_past(deadline) {
            return Ok(false);
        }
        let still_free = database.transaction(|conn| give_back_some(conn))?;
        if still_free >= free {
            break;
        }
        free = still_free;
        thread::sleep(PAUSE);
    }
    // The file itself shrinks at the next WAL checkpoint; where a reader holds the WAL, that is later.
    database.checkpoint_wal()?;
    Ok(true)
}

/// Whether space goes back only after the whole database was rewritten once, as another program made it.
pub(crate) fn lacks_incremental_vacuum(conn: &Connection) -> Result<bool> {
    Ok(pragma(conn, "auto_vacuum")? == 0)
}

/// Size of the database, in bytes.
pub(crate) fn database_bytes(conn: &Connection) -> Result<u64> {
    Ok(pragma(conn, "page_count")? * pragma(conn, "page_size")?)
}

fn is_past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// Gives some free pages back; returns how many are left.
fn give_back_some(conn: &Connection) -> Result<u64> {
    // It gives a page back with each row that it is asked for.
    let mut vacuum = conn.prepare_cached("PRAGMA incremental_vacuum(256)")?;
    let mut rows = vacuum.query([])?;
    while rows.next()?.is_some() {}
    pragma(conn, "freelist_count")
}

fn pragma(conn: &Connection, name: &str) -> Result<u64> {
    Ok(conn.pragma_query_value(None, name, |row| row.get(0))?)
}
