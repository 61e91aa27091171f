//! The index over messages: brought up to date behind the writers, so that adding a message costs nothing more.

use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::words::{Word, words};
use crate::error::Result;
use crate::store::StateStore;

/// How much is indexed in one transaction, in bytes of text: others who write wait no longer than that takes.
const BATCH_BYTES: usize = 512 * 1024;
const BATCH_MESSAGES: usize = 2000;

/// Entries after which the index may be made anew, where most of them are of messages that are gone.
const MOST_STALE: u64 = 50_000;

impl StateStore {
    /// Brings the index of [`search`](Self::search) up to date, in short transactions; how many messages it took in.
    ///
    /// A service does so after each checkpoint, and a search where much is missing. Nothing else needs it.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// store.update_conversation(&ConversationState { id: "C-1".into(), ..Default::default() })?;
    /// store.append_message("C-1", &PersistedMessage { content: "Ship it.".into(), ..Default::default() })?;
    /// assert_eq!(store.update_message_index()?, 1);
    /// assert_eq!(store.update_message_index()?, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn update_message_index(&self) -> Result<u64> {
        self.update_message_index_within(Duration::MAX)
    }

    /// As [`update_message_index`](Self::update_message_index), but takes no further messages in after a while.
    pub(crate) fn update_message_index_within(&self, time: Duration) -> Result<u64> {
        let start = Instant::now();
        let mut total = 0;
        // Most often there is nothing to do, and no write lock to take.
        while start.elapsed() < time && self.read(missing)? > 0 {
            let indexed = self.transaction(|conn| index_batch(conn))?;
            total += indexed;
            // Whoever waits to write comes first.
            thread::yield_now();
            if indexed == 0 {
                break;
            }
        }
        Ok(total)
    }
}

/// About how many messages are not in the index yet.
pub(super) fn missing(conn: &Connection) -> Result<u64> {
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

/// Takes the next messages in; how many.
fn index_batch(conn: &Connection) -> Result<u64> {
    let entries: u64 = conn.query_row("SELECT entries FROM message_index_progress", [], |row| row.get(0))?;
    if entries > MOST_STALE {
        let messages: u64 = conn.query_row("SELECT count(*) FROM messages", [], |row| row.get(0))?;
        if entries / 2 > messages {
            clear(conn)?;
        }
    }
    let mut select = conn.prepare_cached(
        "SELECT message_id, content FROM messages
         WHERE message_id IN (SELECT message_id FROM messages_to_index LIMIT ?1)
         UNION ALL
         SELECT message_id, content FROM messages
         WHERE message_id > (SELECT indexed_to FROM message_index_progress) LIMIT ?1",
    )?;
    let mut insert = conn.prepare_cached("INSERT INTO message_index (rowid, words) VALUES (?1, ?2)")?;
    let mut rows = select.query([BATCH_MESSAGES as u64])?;
    let (mut indexed, mut bytes, mut newest) = (0, 0, 0);
    let mut again = Vec::new();
    while let Some(row) = rows.next()? {
        let (message_id, content): (i64, String) = (row.get(0)?, row.get(1)?);
        insert.execute((message_id, line(&content)))?;
        again.push(message_id);
        newest = newest.max(message_id);
        indexed += 1;
        bytes += content.len();
        if bytes > BATCH_BYTES {
            break;
        }
    }
    drop(rows);
    let mut done = conn.prepare_cached("DELETE FROM messages_to_index WHERE message_id = ?1")?;
    for message_id in again {
        done.execute([message_id])?;
    }
    if indexed == 0 {
        // What is left there is of messages that are gone.
        conn.execute("DELETE FROM messages_to_index", [])?;
    }
    conn.execute(
        "UPDATE message_index_progress SET entries = entries + ?1, indexed_to = max(indexed_to, ?2)",
        [indexed as i64, newest],
    )?;
    Ok(indexed)
}

/// The words of a message, each once, as the index takes them.
fn line(content: &str) -> String {
    let words = words(content);
    let mut words: Vec<&str> = words.iter().map(Word::indexed).collect();
    words.sort_unstable();
    words.dedup();
    words.join(" ")
}
