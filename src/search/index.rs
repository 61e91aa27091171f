//! The index over messages: brought up to date behind the writers, so that adding a message costs nothing more.

use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, params};

use super::words::{Word, words};
use crate::db::without_erasing_pages;
use crate::error::Result;
use crate::store::StateStore;

/// How much is indexed in one transaction, in bytes of text: others who write wait no longer than that takes.
const BATCH_BYTES: usize = 512 * 1024;
const BATCH_MESSAGES: u64 = 2000;

/// Entries after which the index may be made anew, where most of them are of messages that are gone.
const MOST_STALE: u64 = 50_000;

/// Entries that are made anew in a second or two.
const SMALL: u64 = 20_000;

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
        self.index_batches(|| start.elapsed() < time, || self.transaction(index_batch))
    }

    /// As [`update_message_index`](Self::update_message_index), but gives up where somebody else writes.
    pub(super) fn try_update_message_index(&self) -> Result<u64> {
        self.index_batches(|| true, || self.database().try_write(index_batch))
    }

    fn index_batches(&self, go_on: impl Fn() -> bool, batch: impl Fn() -> Result<u64>) -> Result<u64> {
        let mut total = 0;
        // Most often there is nothing to do, and no write lock to take.
        while go_on() && self.read(missing)? > 0 {
            let indexed = batch()?;
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

/// Takes the next messages in; how many.
fn index_batch(conn: &Transaction<'_>) -> Result<u64> {
    // Merging its parts frees many pages, of which nothing is deleted: the words are in other pages then.
    without_erasing_pages(conn, || index_next(conn))
}

fn index_next(conn: &Transaction<'_>) -> Result<u64> {
    clear_if_mostly_stale(conn)?;
    let mut batch = Batch { conn, messages: 0, bytes: 0 };
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

/// What one transaction takes in.
struct Batch<'c> {
    conn: &'c Connection,
    messages: u64,
    bytes: usize,
}

impl Batch<'_> {
    /// Takes messages in, as far as there is room for them; their numbers, in order.
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
                insert.execute((message_id, line(&content)))?;
                self.bytes += content.len();
            }
            self.messages += 1;
            taken.push(message_id);
        }
        Ok(taken)
    }
}

/// The words of a message, each once, as the index takes them.
fn line(content: &str) -> String {
    let words = words(content);
    let mut words: Vec<&str> = words.iter().map(Word::indexed).collect();
    words.sort_unstable();
    words.dedup();
    words.join(" ")
}
