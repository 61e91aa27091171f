//! Conversations and their messages.

use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OptionalExtension, params};

use crate::db::{List, ListReader, RowReader, Table, optional_text, text, unknown_keys};
use crate::error::{Error, Result};
use crate::model::{ConversationState, PersistedMessage, SlackContext};

pub(super) static TABLE: Table = Table::new(
    "conversations",
    &[
        "id",
        "source",
        "summary",
        "user_id",
        "slack_channel_id",
        "slack_thread_ts",
        "slack_extra",
        "current_topic",
        "last_activity_at",
        "extra",
    ],
);

static MESSAGES: List =
    List::new("messages", &["conversation_id"], &["role", "content", "timestamp", "agent_name", "extra"]);

/// Writes a conversation, new or known, with the newest `limit` of its messages. Messages that are there already are
/// not written again.
pub(crate) fn write(conn: &Connection, conversation: &ConversationState, limit: usize) -> Result<()> {
    let ConversationState {
        id,
        source,
        recent_messages,
        summary,
        user_id,
        slack_context: slack,
        current_topic,
        last_activity_at,
        extra,
    } = conversation;
    TABLE.write(
        conn,
        &[
            text(id),
            text(source.as_str()),
            optional_text(summary.as_deref()),
            optional_text(user_id.as_deref()),
            optional_text(slack.as_ref().map(|slack| slack.channel_id.as_str())),
            optional_text(slack.as_ref().map(|slack| slack.thread_ts.as_str())),
            unknown_keys(slack.as_ref().map(|slack| &slack.extra))?,
            optional_text(current_topic.as_deref()),
            text(last_activity_at.as_str()),
            unknown_keys(extra)?,
        ],
    )?;
    write_messages(conn, id, &recent_messages[recent_messages.len().saturating_sub(limit)..])
}

/// Adds a message at the end of a conversation, drops what exceeds `limit`, and moves the conversation's last activity
/// on to the message's time. Reads none of the other messages.
pub(crate) fn append(conn: &Connection, id: &str, message: &PersistedMessage, limit: usize) -> Result<()> {
    let last_activity_at: Option<String> = conn
        .prepare_cached("SELECT last_activity_at FROM conversations WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    let Some(last_activity_at) = last_activity_at else {
        return Err(Error::NotFound { kind: "conversation", id: id.to_owned() });
    };
    let next: i64 = conn
        .prepare_cached("SELECT coalesce(max(position) + 1, 0) FROM messages WHERE conversation_id = ?1")?
        .query_row([id], |row| row.get(0))?;
    insert_messages(conn, id, next, &[columns(message)?])?;
    conn.prepare_cached(
        "DELETE FROM messages WHERE conversation_id = ?1 AND position <= (
           SELECT position FROM messages WHERE conversation_id = ?1 ORDER BY position DESC LIMIT 1 OFFSET ?2)",
    )?
    .execute(params![id, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let stored = crate::model::Timestamp::from(last_activity_at).parse();
    if message.timestamp.parse().is_some_and(|at| stored.is_none_or(|stored| stored < at)) {
        conn.prepare_cached("UPDATE conversations SET last_activity_at = ?2 WHERE id = ?1")?
            .execute([id, message.timestamp.as_str()])?;
    }
    Ok(())
}

/// Reads the conversations that the rest of a SELECT names, in its order.
pub(crate) fn read(
    conn: &Connection,
    condition: &str,
    parameters: impl rusqlite::Params,
    mut each: impl FnMut(ConversationState) -> Result<()>,
) -> Result<()> {
    let mut messages = MESSAGES.reader(conn)?;
    TABLE.read(conn, condition, parameters, |mut row| {
        let id: String = row.get()?;
        let mut conversation = ConversationState {
            source: row.text()?,
            summary: row.get()?,
            user_id: row.get()?,
            slack_context: slack_context(&mut row)?,
            current_topic: row.get()?,
            last_activity_at: row.text()?,
            extra: row.extra()?,
            id,
            recent_messages: Vec::new(),
        };
        conversation.recent_messages = read_messages(&mut messages, &conversation.id)?;
        each(conversation)
    })
}

fn slack_context(row: &mut RowReader<'_>) -> Result<Option<SlackContext>> {
    let (channel_id, thread_ts, extra) = (row.get()?, row.get()?, row.extra()?);
    Ok(match (channel_id, thread_ts) {
        (Some(channel_id), Some(thread_ts)) => Some(SlackContext { channel_id, thread_ts, extra }),
        _ => None,
    })
}

/// Brings the stored messages to `messages`, writing only what differs.
///
/// Mostly the new list is the stored one less some at the start and with some more at the end, and only those are
/// touched. Otherwise messages that stand at the same place are compared.
fn write_messages(conn: &Connection, id: &str, messages: &[PersistedMessage]) -> Result<()> {
    let new = messages.iter().map(columns).collect::<Result<Vec<_>>>()?;
    let borders = borders(messages);
    let mut positions = Vec::new();
    let mut differ_in_place = Vec::new();
    // How many of the last messages read are the first of the new ones, in the same order.
    let mut kept = 0;
    MESSAGES.reader(conn)?.read(&[id], |row| {
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
            delete_message(conn, id, position)?;
        }
    } else {
        for (index, position) in positions.iter().enumerate() {
            match new.get(index) {
                Some(message) if differ_in_place[index] => update_message(conn, id, *position, message)?,
                Some(_) => {}
                None => delete_message(conn, id, *position)?,
            }
        }
    }
    let next = positions.last().map_or(0, |last| last + 1);
    insert_messages(conn, id, next, new.get(positions.len()..).unwrap_or_default())
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

fn read_messages(reader: &mut ListReader<'_>, id: &str) -> Result<Vec<PersistedMessage>> {
    let mut messages = Vec::new();
    reader.read(&[id], |mut row| {
        messages.push(PersistedMessage {
            role: row.text()?,
            content: row.get()?,
            timestamp: row.text()?,
            agent_name: row.get()?,
            extra: row.extra()?,
        });
        Ok(())
    })?;
    Ok(messages)
}

fn insert_messages(conn: &Connection, id: &str, first: i64, messages: &[Columns<'_>]) -> Result<()> {
    let mut insert = conn.prepare_cached(
        "INSERT INTO messages (role, content, timestamp, agent_name, extra, conversation_id, position)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )?;
    for (position, [role, content, timestamp, agent_name, extra]) in (first..).zip(messages) {
        insert.execute(params![role, content, timestamp, agent_name, extra, id, position])?;
    }
    Ok(())
}

fn update_message(conn: &Connection, id: &str, position: i64, message: &Columns<'_>) -> Result<()> {
    let [role, content, timestamp, agent_name, extra] = message;
    conn.prepare_cached(
        "UPDATE messages SET role = ?, content = ?, timestamp = ?, agent_name = ?, extra = ?
         WHERE conversation_id = ? AND position = ?",
    )?
    .execute(params![role, content, timestamp, agent_name, extra, id, position])?;
    Ok(())
}

fn delete_message(conn: &Connection, id: &str, position: i64) -> Result<()> {
    conn.prepare_cached("DELETE FROM messages WHERE conversation_id = ?1 AND position = ?2")?
        .execute(params![id, position])?;
    Ok(())
}

/// The columns of a message that say what it is.
type Columns<'m> = [ToSqlOutput<'m>; 5];

fn columns(message: &PersistedMessage) -> Result<Columns<'_>> {
    let PersistedMessage { role, content, timestamp, agent_name, extra } = message;
    Ok([
        text(role.as_str()),
        text(content),
        text(timestamp.as_str()),
        optional_text(agent_name.as_deref()),
        unknown_keys(extra)?,
    ])
}
