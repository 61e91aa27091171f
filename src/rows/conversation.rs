//! Conversations and their messages.

use rusqlite::{Connection, OptionalExtension, Params, params};

#[cfg(test)]
use super::entity::unknown;
use super::entity::{Each, Entity, Filters, Removable};
use crate::db::time::{has_activity, unix_time};
use crate::db::{List, RowReader, Table, optional_text, text, unknown_keys};
use crate::error::{Error, Result};
use crate::model::{ConversationState, EntityKind, OrchestratorState, PersistedMessage, SlackContext, Timestamp};

pub(super) static TABLE: Table<ConversationState> = Table::new(
    "conversations",
    &[
        ("id", |conversation| text(&conversation.id)),
        ("source", |conversation| text(conversation.source.as_str())),
        ("summary", |conversation| optional_text(conversation.summary.as_deref())),
        ("user_id", |conversation| optional_text(conversation.user_id.as_deref())),
        ("slack_channel_id", |conversation| {
            optional_text(conversation.slack_context.as_ref().map(|slack| slack.channel_id.as_str()))
        }),
        ("slack_thread_ts", |conversation| {
            optional_text(conversation.slack_context.as_ref().map(|slack| slack.thread_ts.as_str()))
        }),
        ("slack_extra", |conversation| unknown_keys(conversation.slack_context.as_ref().map(|slack| &slack.extra))),
        ("current_topic", |conversation| optional_text(conversation.current_topic.as_deref())),
        ("last_activity_at", |conversation| text(conversation.last_activity_at.as_str())),
        ("extra", |conversation| unknown_keys(&conversation.extra)),
    ],
);

pub(super) static MESSAGES: List<PersistedMessage> = List::new(
    "messages",
    &["conversation_id"],
    &[
        ("role", |message| text(message.role.as_str())),
        ("content", |message| text(&message.content)),
        ("timestamp", |message| text(message.timestamp.as_str())),
        ("agent_name", |message| optional_text(message.agent_name.as_deref())),
        ("extra", |message| unknown_keys(&message.extra)),
    ],
);

impl Entity for ConversationState {
    const KIND: EntityKind = EntityKind::Conversation;
    const FILTERS: Filters = Filters {
        status: None,
        project: None,
        agent: None,
        since: Some(concat!(has_activity!(), " AND unixepoch(last_activity_at) >= ?")),
        activity: Some(unix_time!("last_activity_at")),
    };

    fn table() -> &'static Table<Self> {
        &TABLE
    }

    fn key(&self) -> &str {
        &self.id
    }

    fn messages(&self) -> u64 {
        self.recent_messages.len() as u64
    }

    fn write(&self, conn: &Connection) -> Result<()> {
        write(conn, self, usize::MAX)
    }

    fn read(conn: &Connection, rest: &str, parameters: impl Params, each: Each<'_, Self>) -> Result<()> {
        let mut messages = MESSAGES.reader(conn)?;
        TABLE.read(conn, rest, parameters, |row| {
            let id: String = row.get("id")?;
            each(Self {
                source: row.text("source")?,
                recent_messages: messages.read(&[&id], message)?,
                summary: row.get("summary")?,
                user_id: row.get("user_id")?,
                slack_context: slack_context(row)?,
                current_topic: row.get("current_topic")?,
                last_activity_at: row.text("last_activity_at")?,
                extra: row.extra("extra")?,
                id,
            })
        })
    }

    fn put(entities: Vec<Self>, state: &mut OrchestratorState) {
        state.conversations = entities;
    }

    #[cfg(test)]
    fn tables() -> Vec<(&'static str, Vec<&'static str>)> {
        vec![(TABLE.name(), TABLE.columns().collect()), (MESSAGES.name(), MESSAGES.columns().collect())]
    }

    #[cfg(test)]
    fn full() -> Self {
        Self {
            id: "c".into(),
            source: "source".into(),
            recent_messages: vec![PersistedMessage {
                role: "role".into(),
                content: "content".into(),
                timestamp: "timestamp".into(),
                agent_name: Some("agent name".into()),
                extra: unknown("message"),
            }],
            summary: Some("summary".into()),
            user_id: Some("user".into()),
            slack_context: Some(SlackContext {
                channel_id: "channel".into(),
                thread_ts: "thread".into(),
                extra: unknown("slack"),
            }),
            current_topic: Some("topic".into()),
            last_activity_at: "activity".into(),
            extra: unknown("conversation"),
        }
    }
}

fn message(row: &mut RowReader<'_>) -> Result<PersistedMessage> {
    Ok(PersistedMessage {
        role: row.text("role")?,
        content: row.get("content")?,
        timestamp: row.text("timestamp")?,
        agent_name: row.get("agent_name")?,
        extra: row.extra("extra")?,
    })
}

fn slack_context(row: &mut RowReader<'_>) -> Result<Option<SlackContext>> {
    let (channel_id, thread_ts) = (row.get("slack_channel_id")?, row.get("slack_thread_ts")?);
    let extra = row.extra("slack_extra")?;
    Ok(match (channel_id, thread_ts) {
        (Some(channel_id), Some(thread_ts)) => Some(SlackContext { channel_id, thread_ts, extra }),
        _ => None,
    })
}

/// Writes a conversation, new or known, with the newest `limit` of its messages. Messages that are stored already are not
/// written again.
pub(crate) fn write(conn: &Connection, conversation: &ConversationState, limit: usize) -> Result<()> {
    TABLE.write(conn, conversation)?;
    let messages = &conversation.recent_messages;
    write_messages(conn, &conversation.id, &messages[messages.len().saturating_sub(limit)..])
}

/// Adds a message at the end of a conversation, drops what exceeds `limit`, and moves the conversation's last activity
/// on to the message's time. Reads none of the other messages.
pub(crate) fn append(conn: &Connection, id: &str, message: &PersistedMessage, limit: usize) -> Result<()> {
    let last_activity_at: Option<String> = conn
        .prepare_cached("SELECT last_activity_at FROM conversations WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    let Some(last_activity_at) = last_activity_at else {
        return Err(Error::NotFound { kind: EntityKind::Conversation, id: id.to_owned() });
    };
    let next: i64 = conn
        .prepare_cached("SELECT coalesce(max(position) + 1, 0) FROM messages WHERE conversation_id = ?1")?
        .query_row([id], |row| row.get(0))?;
    MESSAGES.insert(conn, &[id], next, &[MESSAGES.values(message)?])?;
    conn.prepare_cached(
        "DELETE FROM messages WHERE conversation_id = ?1 AND position <= (
           SELECT position FROM messages WHERE conversation_id = ?1 ORDER BY position DESC LIMIT 1 OFFSET ?2)",
    )?
    .execute(params![id, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let stored = Timestamp::from(last_activity_at).parse();
    if message.timestamp.parse().is_some_and(|at| stored.is_none_or(|stored| stored < at)) {
        conn.prepare_cached("UPDATE conversations SET last_activity_at = ?2 WHERE id = ?1")?
            .execute([id, message.timestamp.as_str()])?;
    }
    Ok(())
}

/// Brings the stored messages to `messages`, writing only what differs.
///
/// Mostly the new list is the stored one less some at the start and with some more at the end, and only those are
/// touched. Otherwise messages that stand at the same place are compared.
fn write_messages(conn: &Connection, id: &str, messages: &[PersistedMessage]) -> Result<()> {
    let new = messages.iter().map(|message| MESSAGES.values(message)).collect::<Result<Vec<_>>>()?;
    let borders = borders(messages);
    let mut positions = Vec::new();
    let mut differ_in_place = Vec::new();
    // How many of the last messages read are the first of the new ones, in the same order.
    let mut kept = 0;
    MESSAGES.reader(conn)?.each(&[id], |row| {
        differ_in_place.push(match new.get(positions.len()) {
            Some(message) => !row.holds(message)?,
            None => true,
        });
        positions.push(row.position()?);
        loop {
            if let Some(message) = new.get(kept)
                && row.holds(message)?
            {
                kept += 1;
                return Ok(());
            }
            if kept == 0 {
                return Ok(());
            }
            kept = borders[kept - 1];
        }
    })?;
    if kept > 0 {
        for position in positions.drain(..positions.len() - kept) {
            MESSAGES.delete(conn, &[id], position)?;
        }
    } else {
        for (index, position) in positions.iter().enumerate() {
            match new.get(index) {
                Some(message) if differ_in_place[index] => MESSAGES.update(conn, &[id], *position, message)?,
                Some(_) => {}
                None => MESSAGES.delete(conn, &[id], *position)?,
            }
        }
    }
    let next = positions.last().map_or(0, |last| last + 1);
    MESSAGES.insert(conn, &[id], next, new.get(positions.len()..).unwrap_or_default())
}

/// For each beginning of a list, how long the longest shorter beginning is that it ends with: the failure function of
/// Knuth, Morris and Pratt, so that lists of equal messages take no longer than others.
fn borders(messages: &[PersistedMessage]) -> Vec<usize> {
    let mut borders = vec![0; messages.len()];
    let mut border = 0;
    for index in 1..messages.len() {
        while border > 0 && messages[index] != messages[border] {
            border = borders[border - 1];
        }
        border += usize::from(messages[index] == messages[border]);
        borders[index] = border;
    }
    borders
}

/// Number of messages of all conversations.
pub(crate) fn count_messages(conn: &Connection) -> Result<u64> {
    Ok(conn.query_row("SELECT count(*) FROM messages", [], |row| row.get(0))?)
}

/// Conversations whose last activity and last message are before a time. One of which either is no readable time is not
/// idle.
pub(super) const IDLE: Removable = Removable {
    condition: concat!(
        has_activity!(),
        " AND unixepoch(last_activity_at) < ?1
         AND coalesce((SELECT coalesce(",
        unix_time!("timestamp"),
        " < ?1, false) FROM messages WHERE conversation_id = conversations.id ORDER BY messages.position DESC LIMIT 1), true)"
    ),
    messages: "(SELECT count(*) FROM messages WHERE conversation_id = conversations.id)",
    bytes: "200 + (SELECT coalesce(sum(octet_length(content) + 100), 0) FROM messages WHERE conversation_id = conversations.id)",
};

/// Ids and times of the conversations whose last activity may be at `since` or later, in seconds since 1970.
///
/// Only of the usual form, UTC as `toISOString` prints it, does SQLite know as much as the library. Others are returned
/// whatever their time.
pub(crate) fn maybe_active_since(conn: &Connection, since: i64) -> Result<Vec<(String, Timestamp)>> {
    let mut select = conn.prepare_cached(
        "SELECT id, last_activity_at FROM conversations
         WHERE last_activity_at NOT GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T*Z'
            OR unixepoch(last_activity_at) >= ?1
         ORDER BY position",
    )?;
    let rows = select.query_map([since], |row| Ok((row.get(0)?, row.get::<_, String>(1)?.into())))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
