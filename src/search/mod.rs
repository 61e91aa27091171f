//! Finding messages by what was said in them.

pub(crate) mod index;
mod query;
mod words;

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::Range;

use rusqlite::{Connection, Params, Row};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::{MessageRole, Timestamp};
use crate::store::StateStore;
use query::Query;
use words::{Word, words};

/// Where more messages match, the newest so many are compared for the best.
const MOST_COMPARED: usize = 5000;

/// Nor are more compared than those that hold so much text, in bytes.
const MOST_READ: usize = 64 * 1024 * 1024;

/// What is missing in the index up to so many messages is read as it is; more is indexed first.
const MOST_UNINDEXED: u64 = 50;

/// About how long a snippet is, in characters.
const SNIPPET: usize = 160;

/// A message that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SearchHit {
    /// The conversation that it stands in.
    pub conversation_id: String,
    /// Its place in the conversation, as the column `messages.position`.
    pub position: i64,
    /// Who spoke.
    pub role: MessageRole,
    /// When.
    pub timestamp: Timestamp,
    /// The agent, where one spoke.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<String>,
    /// What was said around the first words that match, on one line.
    pub snippet: String,
    /// Where words that match stand in the snippet, in bytes.
    #[serde(skip)]
    pub highlights: Vec<Range<usize>>,
}

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
        if self.read(index::missing)? > MOST_UNINDEXED {
            match self.try_update_message_index() {
                // Then all that is missing is read.
                Ok(_) | Err(Error::ReadOnly { .. } | Error::Busy { .. } | Error::DiskFull { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        // What is found and what is shown of it are of one moment.
        self.read(|conn| {
            let mut found = find(conn, &query)?;
            found.sort_unstable_by(|a, b| {
                let by_score = b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal);
                by_score.then(b.message_id.cmp(&a.message_id))
            });
            found.truncate(limit);
            found.iter().map(|it| hit(conn, &query, it.message_id)).collect()
        })
    }
}

struct Found {
    message_id: i64,
    score: f64,
}

const NEW: &str = "SELECT message_id, content FROM messages
    WHERE message_id > (SELECT indexed_to FROM message_index_progress) ORDER BY message_id DESC";
const CHANGED: &str = "SELECT message_id, content FROM messages
    WHERE message_id IN (SELECT message_id FROM messages_to_index) ORDER BY message_id DESC";
const INDEXED: &str = "SELECT messages.message_id, messages.content
    FROM message_index JOIN messages ON messages.message_id = message_index.rowid
    WHERE message_index MATCH ?1 ORDER BY message_index.rowid DESC";

fn find(conn: &Connection, query: &Query<'_>) -> Result<Vec<Found>> {
    let mut finder = Finder { query, seen: HashSet::new(), found: Vec::new(), read: 0 };
    finder.read(conn, NEW, [])?;
    finder.read(conn, CHANGED, [])?;
    // First by words in full: what begins common words stands in so many messages that only looking them up takes long.
    let (in_full, with_beginnings) = (query.expression(true), query.expression(false));
    finder.read(conn, INDEXED, [&in_full])?;
    if with_beginnings != in_full {
        finder.read(conn, INDEXED, [&with_beginnings])?;
    }
    Ok(finder.found)
}

struct Finder<'q> {
    query: &'q Query<'q>,
    seen: HashSet<i64>,
    found: Vec<Found>,
    read: usize,
}

impl Finder<'_> {
    fn has_enough(&self) -> bool {
        self.found.len() >= MOST_COMPARED || self.read >= MOST_READ
    }

    /// Compares messages, until enough are found.
    fn read(&mut self, conn: &Connection, sql: &str, parameters: impl Params) -> Result<()> {
        if self.has_enough() {
            return Ok(());
        }
        let mut select = conn.prepare_cached(sql)?;
        let mut rows = select.query(parameters)?;
        while !self.has_enough()
            && let Some(row) = rows.next()?
        {
            let message_id = row.get(0)?;
            if !self.seen.insert(message_id) {
                continue;
            }
            // What the index says is only a hint: the message may have been changed since.
            let content = content(row, 1)?;
            if let Some(score) = self.query.score(&words(content)) {
                self.read += content.len();
                self.found.push(Found { message_id, score });
            }
        }
        Ok(())
    }
}

fn content<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r str> {
    let value = row.get_ref(column)?;
    Ok(value
        .as_str()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, value.data_type(), error.into()))?)
}

fn hit(conn: &Connection, query: &Query<'_>, message_id: i64) -> Result<SearchHit> {
    let mut select = conn.prepare_cached(
        "SELECT conversation_id, position, role, timestamp, agent_name, content FROM messages WHERE message_id = ?1",
    )?;
    let mut rows = select.query([message_id])?;
    let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    let content = content(row, 5)?;
    let words = words(content);
    let (snippet, highlights) = snippet(content, &words, &query.places(&words));
    Ok(SearchHit {
        conversation_id: row.get(0)?,
        position: row.get(1)?,
        role: row.get::<_, String>(2)?.into(),
        timestamp: row.get::<_, String>(3)?.into(),
        agent_name: row.get(4)?,
        snippet,
        highlights,
    })
}

/// The part of a text around the first places, on one line, and where the places stand in it.
fn snippet(text: &str, words: &[Word<'_>], places: &[usize]) -> (String, Vec<Range<usize>>) {
    let first = places.first().map_or(0, |place| words[*place].range.start);
    let about = text[..first].char_indices().rev().take(SNIPPET / 4).last().map_or(first, |(at, _)| at);
    // From the beginning of a word to the end of one.
    let start = words.iter().map(|word| word.range.start).find(|at| *at >= about).map_or(0, |at| at.min(first));
    let start = if about == 0 { 0 } else { start };
    let about = text[start..].char_indices().nth(SNIPPET).map_or(text.len(), |(at, _)| start + at);
    let cut = words.iter().find(|word| word.range.start < about && about < word.range.end && word.range.start > first);
    let end = cut.map_or(about, |word| word.range.start);

    let mut snippet = String::from(if start > 0 { "…" } else { "" });
    // Where each byte of the part comes to stand.
    let mut moved = Vec::with_capacity(end - start + 1);
    for c in text[start..end].chars() {
        moved.extend(std::iter::repeat_n(snippet.len(), c.len_utf8()));
        match c.is_whitespace() || c.is_control() {
            true if snippet.ends_with(' ') => {}
            true => snippet.push(' '),
            false => snippet.push(c),
        }
    }
    moved.push(snippet.len());
    snippet.truncate(snippet.trim_end().len());
    let ranges = places.iter().map(|place| &words[*place].range);
    let shown = ranges.filter(|range| range.start >= start && range.end <= end);
    let highlights = shown.map(|range| moved[range.start - start]..moved[range.end - start]).collect();
    if end < text.trim_end().len() {
        snippet.push('…');
    }
    (snippet, highlights)
}
