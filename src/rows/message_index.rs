//! The search index over messages, an FTS5 table, and what it lacks. Triggers queue what changes; nothing is indexed while
//! a message is written, so that adding one costs nothing more.

use rusqlite::{Connection, Params, params};

use crate::db::without_erasing_pages;
use crate::error::Result;
use crate::model::{MessageRole, Timestamp};

/// How much is indexed in one transaction, in bytes of text: other writers wait no longer than that takes.
const BATCH_BYTES: usize = 512 * 1024;
const BATCH_MESSAGES: u64 = 2000;

/// Entries after which the index may be rebuilt, where most of them are of messages that are gone.
const MOST_STALE: u64 = 50_000;

/// Entries that are rebuilt in a second or two.
const SMALL: u64 = 20_000;

/// About how many messages are not in the index yet.
pub(crate) fn missing(conn: &Connection) -> Result<u64> {
    let sql = "SELECT missing FROM message_index_state";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// Empties the index: for when all messages are gone, or most of its entries are of such.
pub(crate) fn clear(conn: &Connection) -> Result<()> {
    conn.execute("INSERT INTO message_index (message_index) VALUES ('delete-all')", [])?;
    conn.execute("DELETE FROM messages_to_index", [])?;
    conn.execute("UPDATE message_index_progress SET indexed_to = 0, entries = 0", [])?;
    Ok(())
}

/// Empties the index where most of its entries are of messages that are gone, and there are more than [`MOST_STALE`].
fn clear_if_mostly_stale(conn: &Connection) -> Result<()> {
    let entries: u64 = conn.query_row("SELECT entries FROM message_index_progress", [], |row| row.get(0))?;
    if entries > MOST_STALE {
        let messages: u64 = conn.query_row("SELECT count(*) FROM messages", [], |row| row.get(0))?;
        if entries / 2 > messages {
            clear(conn)?;
        }
    }
    Ok(())
}

/// Empties the index where it may hold words of messages that are gone; whether it did. `at_any_cost` also where it is large and
/// that is true of few of its entries.
pub(crate) fn clear_if_stale(conn: &Connection, at_any_cost: bool) -> Result<bool> {
    let (entries, live): (u64, u64) = conn.query_row(
        "SELECT entries, (SELECT count(*) FROM messages WHERE message_id <= indexed_to) FROM message_index_progress",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let stale = entries.saturating_sub(live);
    let is_worth_it = at_any_cost || entries <= SMALL || stale >= entries / 8;
    let is_stale = stale > 0 && is_worth_it;
    if is_stale {
        // Its pages are used again at once, or given back.
        without_erasing_pages(conn, || clear(conn))?;
    }
    Ok(is_stale)
}

/// Indexes the next messages; returns how many. `words` makes the indexed words of a message's content, separated by
/// spaces.
pub(crate) fn index_some(conn: &Connection, words: fn(&str) -> String) -> Result<u64> {
    // Merging its parts frees many pages, of which nothing is deleted: the words are in other pages then.
    without_erasing_pages(conn, || index_next(conn, words))
}

fn index_next(conn: &Connection, words: fn(&str) -> String) -> Result<u64> {
    clear_if_mostly_stale(conn)?;
    let mut batch = Batch { conn, words, messages: 0, bytes: 0 };
    // Those that are gone are done, too.
    let queued =
        "SELECT queued.message_id, content FROM messages_to_index AS queued LEFT JOIN messages USING (message_id)";
    for message_id in batch.take(queued)? {
        conn.prepare_cached("DELETE FROM messages_to_index WHERE message_id = ?1")?.execute([message_id])?;
    }
    let new = "SELECT message_id, content FROM messages
               WHERE message_id > (SELECT indexed_to FROM message_index_progress) ORDER BY message_id";
    let newest = batch.take(new)?.last().copied();
    conn.execute(
        "UPDATE message_index_progress SET entries = entries + ?1, indexed_to = coalesce(?2, indexed_to)",
        params![batch.messages, newest],
    )?;
    Ok(batch.messages)
}

/// What one transaction indexes.
struct Batch<'c> {
    conn: &'c Connection,
    words: fn(&str) -> String,
    messages: u64,
    bytes: usize,
}

impl Batch<'_> {
    /// Indexes messages, as far as there is room for them; returns their numbers, in order.
    fn take(&mut self, sql: &str) -> Result<Vec<i64>> {
        let mut select = self.conn.prepare_cached(sql)?;
        let mut insert = self.conn.prepare_cached("INSERT INTO message_index (rowid, words) VALUES (?1, ?2)")?;
        let mut rows = select.query([])?;
        let mut taken = Vec::new();
        while self.messages < BATCH_MESSAGES
            && self.bytes < BATCH_BYTES
            && let Some(row) = rows.next()?
        {
            let (message_id, content): (i64, Option<String>) = (row.get(0)?, row.get(1)?);
            if let Some(content) = content {
                insert.execute((message_id, (self.words)(&content)))?;
                self.bytes += content.len();
            }
            self.messages += 1;
            taken.push(message_id);
        }
        Ok(taken)
    }
}

/// Which messages may match a search.
pub(crate) enum Candidates<'q> {
    /// Those that were added since the index was brought up to date.
    New,
    /// Those that were changed since.
    Changed,
    /// Those that the index finds, by an FTS5 expression.
    Indexed(&'q str),
}

/// Calls a closure with the number and the content of each candidate, the newest first, until it returns `false`.
pub(crate) fn each_candidate(
    conn: &Connection,
    candidates: &Candidates<'_>,
    mut each: impl FnMut(i64, &str) -> bool,
) -> Result<()> {
    let new = "SELECT message_id, content FROM messages
               WHERE message_id > (SELECT indexed_to FROM message_index_progress) ORDER BY message_id DESC";
    let changed = "SELECT message_id, content FROM messages
                   WHERE message_id IN (SELECT message_id FROM messages_to_index) ORDER BY message_id DESC";
    let indexed = "SELECT messages.message_id, messages.content
                   FROM message_index JOIN messages ON messages.message_id = message_index.rowid
                   WHERE message_index MATCH ?1 ORDER BY message_index.rowid DESC";
    match candidates {
        Candidates::New => read(conn, new, [], &mut each),
        Candidates::Changed => read(conn, changed, [], &mut each),
        Candidates::Indexed(expression) => read(conn, indexed, [expression], &mut each),
    }
}

fn read(conn: &Connection, sql: &str, parameters: impl Params, each: &mut dyn FnMut(i64, &str) -> bool) -> Result<()> {
    let mut select = conn.prepare_cached(sql)?;
    let mut rows = select.query(parameters)?;
    while let Some(row) = rows.next()? {
        let value = row.get_ref(1)?;
        let content = value
            .as_str()
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(1, value.data_type(), error.into()))?;
        if !each(row.get(0)?, content) {
            break;
        }
    }
    Ok(())
}

/// A message that was found.
pub(crate) struct FoundMessage {
    pub(crate) conversation_id: String,
    pub(crate) position: i64,
    pub(crate) role: MessageRole,
    pub(crate) timestamp: Timestamp,
    pub(crate) agent_name: Option<String>,
    pub(crate) content: String,
}

/// Reads the message with that number.
pub(crate) fn message(conn: &Connection, message_id: i64) -> Result<FoundMessage> {
    let mut select = conn.prepare_cached(
        "SELECT conversation_id, position, role, timestamp, agent_name, content FROM messages WHERE message_id = ?1",
    )?;
    Ok(select.query_row([message_id], |row| {
        Ok(FoundMessage {
            conversation_id: row.get(0)?,
            position: row.get(1)?,
            role: row.get::<_, String>(2)?.into(),
            timestamp: row.get::<_, String>(3)?.into(),
            agent_name: row.get(4)?,
            content: row.get(5)?,
        })
    })?)
}
