//! Old entities that may be removed: completed tasks and idle conversations.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::entity::{Entity, Removable};
use super::{conversation, task};
use crate::error::Result;
use crate::model::{ConversationState, Counts, EntityKind, TaskState};

/// Entities that one step looks at.
const STEP: u32 = 200;

/// The entities of a kind that happened before a second, in seconds since 1970.
#[derive(Clone, Copy)]
pub(crate) enum Old {
    /// Completed tasks.
    DoneTasks { before: i64 },
    /// Idle conversations.
    IdleConversations { before: i64 },
}

/// What one step removed.
pub(crate) struct Step {
    pub(crate) removed: Counts,
    /// The position after which to go on; `None` at the end.
    pub(crate) next: Option<i64>,
}

impl Old {
    fn parts(self) -> (EntityKind, &'static str, &'static Removable, i64) {
        match self {
            Self::DoneTasks { before } => (EntityKind::Task, TaskState::table().name(), &task::DONE, before),
            Self::IdleConversations { before } => {
                (EntityKind::Conversation, ConversationState::table().name(), &conversation::IDLE, before)
            }
        }
    }

    /// How many there are, and about how many bytes they take.
    pub(crate) fn count(self, conn: &Connection) -> Result<(Counts, u64)> {
        let (kind, table, Removable { condition, messages, bytes }, before) = self.parts();
        let sql = format!(
            "SELECT count(*), coalesce(sum({messages}), 0), coalesce(sum({bytes}), 0) FROM {table} WHERE {condition}"
        );
        let (entities, messages, bytes) =
            conn.query_row(&sql, [before], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, u64>(2)?)))?;
        Ok((counted(kind, entities, messages), bytes))
    }

    /// Removes some of them, those after a position first, and stops after a while.
    pub(crate) fn remove_some(self, conn: &Connection, after: i64, time: Duration) -> Result<Step> {
        let (kind, table, Removable { condition, messages, .. }, before) = self.parts();
        let start = Instant::now();
        let sql = format!(
            "SELECT position, id, {messages} FROM {table} WHERE {condition} AND position > ?2 ORDER BY position LIMIT {STEP}"
        );
        let found: Vec<(i64, String, u64)> = conn
            .prepare_cached(&sql)?
            .query_map([before, after], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let (mut entities, mut all_messages) = (0, 0);
        for (position, id, messages) in &found {
            match self {
                Self::DoneTasks { .. } => TaskState::remove(conn, id)?,
                Self::IdleConversations { .. } => ConversationState::remove(conn, id)?,
            };
            entities += 1;
            all_messages += messages;
            if start.elapsed() > time || entities == u64::from(STEP) {
                return Ok(Step { removed: counted(kind, entities, all_messages), next: Some(*position) });
            }
        }
        Ok(Step { removed: counted(kind, entities, all_messages), next: None })
    }
}

fn counted(kind: EntityKind, entities: u64, messages: u64) -> Counts {
    let mut counts = Counts { messages, ..Counts::default() };
    *counts.of_mut(kind) = entities;
    counts
}
