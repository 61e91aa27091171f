//! Searching messages, and when the index is brought up to date.

use std::thread;
use std::time::{Duration, Instant};

use super::state_store::StateStore;
use crate::error::{Error, Result};
use crate::rows::message_index;
use crate::search::{self, Query, SearchHit};

/// Up to this many messages that are not in the index are read as they are; more are indexed first.
const MOST_UNINDEXED: u64 = 50;

impl StateStore {
    /// Finds messages, the best first, and of equal ones the newest.
    ///
    /// Any text is taken as words, never as syntax. A message matches where each word stands in it; a word of three or more
    /// letters may also begin a longer one. Small and capital letters are one, and so are letters with and without accents.
    /// Scripts without blanks between words, such as Chinese, are found by any part. Better is a message that has the words
    /// side by side, in full, often, and little else. Where more than 5,000 messages match, the newest 5,000 are
    /// compared, those with the words in full before others. Of a text the first 100 words are looked for.
    ///
    /// Finds every message that is there, also one that was added just before: what is not indexed yet is read.
    ///
    /// ```
    /// use agentmux_state::*;
    ///
    /// # fn main() -> agentmux_state::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let state_dir = dir.path();
    /// let store = StateStore::open(state_dir)?;
    /// store.update_conversation(&ConversationState { id: "C-1".into(), ..Default::default() })?;
    /// let content = "The résumé is 完成了.".into();
    /// store.append_message("C-1", &PersistedMessage { content, ..Default::default() })?;
    /// for text in ["RESUME", "res", "完成", "is \"the"] {
    ///     assert_eq!(store.search(text, 10)?[0].conversation_id, "C-1");
    /// }
    /// assert!(store.search("resumed", 10)?.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn search(&self, text: &str, limit: usize) -> Result<Vec<SearchHit>> {
        let Some(query) = Query::new(text) else { return Ok(Vec::new()) };
        if self.read(message_index::missing)? > MOST_UNINDEXED {
            match self.try_update_message_index() {
                // Then all that is missing is read.
                Ok(_) | Err(Error::ReadOnly { .. } | Error::Busy { .. } | Error::DiskFull { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        // What is found and what is shown of it are one snapshot.
        self.read(|conn| search::search(conn, &query, limit))
    }

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
        self.index_batches(|| start.elapsed() < time, || self.transaction(|conn| search::index_some(conn)))
    }

    /// As [`update_message_index`](Self::update_message_index), but gives up where somebody else writes.
    fn try_update_message_index(&self) -> Result<u64> {
        self.index_batches(|| true, || self.database().try_write(|conn| search::index_some(conn)))
    }

    fn index_batches(&self, go_on: impl Fn() -> bool, batch: impl Fn() -> Result<u64>) -> Result<u64> {
        let mut total = 0;
        // Most often there is nothing to do, and no write lock to take.
        while go_on() && self.read(message_index::missing)? > 0 {
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
