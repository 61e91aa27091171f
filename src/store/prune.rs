//! Dropping what is done with, completed tasks and idle conversations, and giving their space back.
//!
//! Both happen in short transactions, so that nobody who writes meanwhile waits for long.

use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::{Connection, Transaction};
use serde::Serialize;

use super::{StateStore, conversation, counts, task};
use crate::db::Table;
use crate::db::time::{has_activity, unix_time};
use crate::error::{Error, Result};
use crate::lock::DirectoryLock;
use crate::search;

/// What is to be dropped. With nothing set, only free space is given back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Tasks that were completed before that moment. One that has no readable `completedAt` goes by the latest of its other
    /// times; one without any readable time stays, and so does one that an unfinished task waits for or depends on.
    pub completed_before: Option<DateTime<Utc>>,
    /// Conversations in which nothing has happened since that moment, by `lastActivityAt` and by their last message. One whose
    /// last activity is no readable time stays.
    pub idle_before: Option<DateTime<Utc>>,
    /// Only count.
    pub dry_run: bool,
}

/// What was dropped, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneReport {
    /// How many of each kind.
    pub removed: Pruned,
    /// By how much the database became smaller; of a dry run, about by how much it would.
    pub bytes_freed: u64,
    /// The backup of the state as it was before, where less than half of it was to stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Whether nothing was changed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// How many of each kind were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pruned {
    /// Completed tasks.
    pub tasks: u64,
    /// Idle conversations.
    pub conversations: u64,
    /// Their messages.
    pub messages: u64,
}

/// What a service drops by itself, once it is that old; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateRetention {
    /// Tasks that were completed longer ago; see [`PruneOptions::completed_before`].
    pub completed_tasks: Option<Duration>,
    /// Conversations in which nothing has happened for longer; see [`PruneOptions::idle_before`].
    pub idle_conversations: Option<Duration>,
}

impl StateRetention {
    /// What is to be dropped now; `None` where nothing ever is.
    pub(crate) fn at(&self, now: DateTime<Utc>) -> Option<PruneOptions> {
        let before = |age: Option<Duration>| now.checked_sub_signed(TimeDelta::from_std(age?).ok()?);
        let (completed_before, idle_before) = (before(self.completed_tasks), before(self.idle_conversations));
        let is_any = completed_before.is_some() || idle_before.is_some();
        is_any.then_some(PruneOptions { completed_before, idle_before, dry_run: false })
    }
}

/// How long one transaction goes on, and how long others then have to get in between.
const TURN: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_millis(2);

/// Entities that one transaction looks at.
const BATCH: u32 = 200;

/// The label of the backup that comes before less than half is left.
const SAFETY_LABEL: &str = "before-prune";

/// Completed tasks that may go.
static DONE_TASKS: Kind = Kind {
    table: &task::TABLE,
    condition: concat!(
        "status = 'completed' AND coalesce(",
        unix_time!("completed_at"),
        ", (SELECT max(column1) FROM (VALUES (",
        unix_time!("last_activity_at"),
        "), (",
        unix_time!("started_at"),
        "), (",
        unix_time!("created_at"),
        ")))) < ?1
         AND NOT EXISTS (SELECT 1 FROM task_dependencies AS said JOIN tasks AS other ON other.id = said.other_task_id
                         WHERE said.task_id = tasks.id AND other.status <> 'completed')
         AND NOT EXISTS (SELECT 1 FROM task_dependencies AS said JOIN tasks AS other ON other.id = said.task_id
                         WHERE said.other_task_id = tasks.id AND other.status <> 'completed')"
    ),
    messages: "0",
    bytes: "octet_length(title) + octet_length(description) + 200
            + (SELECT coalesce(sum(octet_length(step)), 0) FROM task_steps WHERE task_id = tasks.id)",
};

/// Conversations that may go.
static IDLE_CONVERSATIONS: Kind = Kind {
    table: &conversation::TABLE,
    condition: concat!(
        has_activity!(),
        " AND unixepoch(last_activity_at) < ?1
         AND coalesce((SELECT ",
        unix_time!("timestamp"),
        " FROM messages WHERE conversation_id = conversations.id ORDER BY messages.position DESC LIMIT 1) < ?1, true)"
    ),
    messages: "(SELECT count(*) FROM messages WHERE conversation_id = conversations.id)",
    bytes: "200 + (SELECT coalesce(sum(octet_length(content) + 100), 0) FROM messages WHERE conversation_id = conversations.id)",
};

/// A kind of entity that is dropped.
struct Kind {
    table: &'static Table,
    /// Which of them; `?1` is the moment.
    condition: &'static str,
    /// How many messages one has.
    messages: &'static str,
    /// About how much room one takes.
    bytes: &'static str,
}

impl StateStore {
    /// Drops completed tasks and idle conversations, and gives free space back to the file system. Unfinished work never
    /// goes, whatever its age: only tasks with the status `completed` do. What names a task elsewhere stays as it is.
    ///
    /// It happens in short transactions, under others who read and write. Where less than half of the state would stay, a
    /// backup comes first. With [`PruneOptions::dry_run`], only counts.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// let done = TaskState { status: TaskStatus::Completed, completed_at: Some("2026-01-01".into()), ..Default::default() };
    /// store.update_task(&TaskState { id: "T-1".into(), ..done })?;
    /// store.update_task(&TaskState { id: "T-2".into(), created_at: "2026-01-01".into(), ..Default::default() })?;
    /// let before = Timestamp::from("2026-02-01").parse();
    /// let report = store.prune(&PruneOptions { completed_before: before, ..Default::default() })?;
    /// assert_eq!(report.removed.tasks, 1);
    /// assert!(store.task("T-2")?.is_some(), "it is not completed");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::PruneIncomplete`] where it failed after something was dropped already.
    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport> {
        if options.dry_run {
            let (removed, bytes_freed) = self.read(|conn| expected(conn, options))?;
            return Ok(PruneReport { removed, bytes_freed, backup: None, dry_run: true });
        }
        self.database().require_writable()?;
        self.prune_until(options, None, true).map(|(report, _)| report)
    }

    /// As [`prune`](Self::prune), but stops at the deadline; whether it is done.
    pub(crate) fn prune_until(
        &self,
        options: &PruneOptions,
        deadline: Option<Instant>,
        may_back_up: bool,
    ) -> Result<(PruneReport, bool)> {
        let backup = if may_back_up && self.leaves_less_than_half(options)? {
            Some(self.create_backup(SAFETY_LABEL)?.id)
        } else {
            None
        };
        let pages_before = self.read(|conn| pragma(conn, "page_count"))?;
        let mut removed = Pruned::default();
        let steps = self.remove_old(options, deadline, &mut removed).and_then(|is_done| {
            // Without a deadline, words of messages that were removed or trimmed in other ways go, too.
            if removed.messages > 0 || deadline.is_none() {
                self.tidy_index(deadline)?;
            }
            Ok(is_done && self.give_back(deadline)?)
        });
        let is_done = match steps {
            Err(source) if removed != Pruned::default() => {
                return Err(Error::PruneIncomplete { removed, source: Box::new(source) });
            }
            steps => steps?,
        };
        let (pages, page_size) = self.read(|conn| Ok((pragma(conn, "page_count")?, pragma(conn, "page_size")?)))?;
        let bytes_freed = pages_before.saturating_sub(pages) * page_size;
        tracing::info!(removed.tasks, removed.conversations, bytes_freed, is_done, "pruned");
        Ok((PruneReport { removed, bytes_freed, backup, dry_run: false }, is_done))
    }

    fn leaves_less_than_half(&self, options: &PruneOptions) -> Result<bool> {
        self.read(|conn| {
            let (before, (removed, _)) = (counts(conn)?, expected(conn, options)?);
            let entities = (before.entities(), removed.tasks + removed.conversations);
            Ok([entities, (before.messages, removed.messages)].iter().any(|(before, removed)| removed * 2 > *before))
        })
    }

    /// Drops what is old; whether all of it.
    fn remove_old(&self, options: &PruneOptions, deadline: Option<Instant>, removed: &mut Pruned) -> Result<bool> {
        for (kind, before) in kinds(options) {
            let mut after = Some(i64::MIN);
            while let Some(position) = after {
                if is_past(deadline) {
                    return Ok(false);
                }
                let batch = self.transaction(|conn| remove_batch(conn, kind, before, position))?;
                removed.add(kind, batch.entities, batch.messages);
                after = batch.next;
                thread::sleep(PAUSE);
            }
        }
        Ok(true)
    }

    /// Makes the search index anew where it holds words of messages that are gone. Under a deadline it is only emptied, as a
    /// service fills it at its checkpoints, and a large one not for a few words.
    fn tidy_index(&self, deadline: Option<Instant>) -> Result<()> {
        let is_cleared = self.transaction(|conn| search::index::clear_if_stale(conn, deadline.is_none()))?;
        if is_cleared && deadline.is_none() {
            self.update_message_index()?;
        }
        Ok(())
    }

    /// Gives free pages back to the file system; whether all.
    fn give_back(&self, deadline: Option<Instant>) -> Result<bool> {
        if self.read(|conn| pragma(conn, "auto_vacuum"))? == 0 {
            // Made by another program, such as the shell from a dump. Once, all of it has to be written anew, while nobody else
            // can write: never under an orchestrator, where free pages are used again.
            let is_ours = !self.is_running() && DirectoryLock::refuse_other_service(self.state_dir()).is_ok();
            if deadline.is_some() || !is_ours {
                return Ok(true);
            }
            self.database().enable_incremental_vacuum()?;
        }
        let mut free = self.read(|conn| pragma(conn, "freelist_count"))?;
        while free > 0 {
            if is_past(deadline) {
                return Ok(false);
            }
            let still_free = self.transaction(give_back_some)?;
            if still_free >= free {
                break;
            }
            free = still_free;
            thread::sleep(PAUSE);
        }
        // The file itself shrinks when the log reaches it; where a reader holds the log, that is later.
        self.database().write_back_log()?;
        Ok(true)
    }
}

impl Pruned {
    fn add(&mut self, kind: &Kind, entities: u64, messages: u64) {
        if kind.table.name() == task::TABLE.name() {
            self.tasks += entities;
        } else {
            self.conversations += entities;
        }
        self.messages += messages;
    }
}

fn is_past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// What is to be dropped of each kind: what happened before that second.
fn kinds(options: &PruneOptions) -> impl Iterator<Item = (&'static Kind, i64)> {
    let kinds = [(&DONE_TASKS, options.completed_before), (&IDLE_CONVERSATIONS, options.idle_before)];
    kinds.into_iter().filter_map(|(kind, before)| Some((kind, before?.timestamp())))
}

/// How much would be dropped, and about how many bytes would become free.
fn expected(conn: &Connection, options: &PruneOptions) -> Result<(Pruned, u64)> {
    let mut removed = Pruned::default();
    let mut freed = pragma(conn, "freelist_count")? * pragma(conn, "page_size")?;
    for (kind, before) in kinds(options) {
        let Kind { table, condition, messages, bytes } = kind;
        let sql = format!(
            "SELECT count(*), coalesce(sum({messages}), 0), coalesce(sum({bytes}), 0) FROM {} WHERE {condition}",
            table.name()
        );
        let (entities, messages, bytes) =
            conn.query_row(&sql, [before], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, u64>(2)?)))?;
        removed.add(kind, entities, messages);
        freed += bytes;
    }
    Ok((removed, freed))
}

/// What one transaction dropped.
struct Batch {
    entities: u64,
    messages: u64,
    /// The position after which to go on; `None` at the end.
    next: Option<i64>,
}

/// Drops some of a kind, those after a position first.
fn remove_batch(conn: &Connection, kind: &Kind, before: i64, after: i64) -> Result<Batch> {
    let Kind { table, condition, messages, .. } = kind;
    let start = Instant::now();
    let sql = format!(
        "SELECT position, id, {messages} FROM {} WHERE {condition} AND position > ?2 ORDER BY position LIMIT {BATCH}",
        table.name()
    );
    let found: Vec<(i64, String, u64)> = conn
        .prepare_cached(&sql)?
        .query_map([before, after], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut batch = Batch { entities: 0, messages: 0, next: None };
    for (position, id, messages) in &found {
        table.delete(conn, id)?;
        batch.entities += 1;
        batch.messages += messages;
        if start.elapsed() > TURN || batch.entities == u64::from(BATCH) {
            batch.next = Some(*position);
            break;
        }
    }
    Ok(batch)
}

/// Gives some free pages back; how many are left.
fn give_back_some(conn: &Transaction<'_>) -> Result<u64> {
    // It gives a page back with each row that it is asked for.
    let mut vacuum = conn.prepare_cached("PRAGMA incremental_vacuum(256)")?;
    let mut rows = vacuum.query([])?;
    while rows.next()?.is_some() {}
    pragma(conn, "freelist_count")
}

fn pragma(conn: &Connection, name: &str) -> Result<u64> {
    Ok(conn.pragma_query_value(None, name, |row| row.get(0))?)
}
