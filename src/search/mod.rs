//! Finding messages by what was said in them.
//!
//! FTS5 is the index; words, ranking and snippets are our own. Measured on 2026-11-24 with SQLite 3.40, the oldest that opens the
//! database, on 24 pairs of a text and a search that must find it, and on 100,000 messages (40 MB) with one word in all:
//!
//! - Tokenizers: `unicode61 remove_diacritics 2` misses 10 of the 24 pairs, the same with `porter` 11, `trigram` 15; this module
//!   misses none. They lack parts of Chinese and Japanese text, emoji, ligatures and full-width letters (`ﬁ`, `ＡＢＣ`), soft
//!   hyphens, `ß`, `ł` and `ø`. `porter` also stems the text but not the prefix (`runni` misses "running"). `trigram` finds nothing
//!   shorter than three characters, and folds no accents before SQLite 3.45. All three find ids and paths (`T-1`, `mod.rs`).
//!   A tokenizer of our own inside FTS5 needs unsafe code, and the `sqlite3` shell could not read the table.
//! - Size: the index takes 32 % of the text (`detail=none`, each word once per message), `unicode61` with positions 62 %,
//!   `trigram` 362 %. Only with positions can FTS5 search phrases; without them it refuses.
//! - `bm25`: over all matches of the common word it takes 3 to 5 times as long as a whole search here, which compares the newest
//!   5,000. Limited to these it takes a third of the time, so speed is no reason against it. The reasons are that it has no
//!   bonus for phrases and for words in full, and that the index may be behind the messages: every candidate is read anyway.
//! - `snippet` works on the indexed text, which is folded here. It returns no positions, only markers that the text may hold
//!   itself (`[b]`), and counts tokens: a Chinese text without spaces is one token, and 408 of 408 characters came back.

mod query;
mod words;

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::Range;

use rusqlite::Connection;
use serde::Serialize;

use crate::error::Result;
use crate::model::{MessageRole, Timestamp};
use crate::rows::message_index::{self, Candidates, FoundMessage};
pub(crate) use query::Query;
use words::{Word, words};

/// Where more messages match, the newest so many are compared for the best.
const MOST_COMPARED: usize = 5000;

/// Nor are more compared than those that hold so much text, in bytes.
const MOST_READ: usize = 64 * 1024 * 1024;

/// About how long a snippet is, in characters.
const SNIPPET: usize = 160;

/// A message that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
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

/// Brings the index up to date by one batch, in the caller's transaction; returns how many messages it took in.
pub(crate) fn index_some(conn: &Connection) -> Result<u64> {
    message_index::index_some(conn, line)
}

/// The words of a message, each once, as the index takes them.
fn line(content: &str) -> String {
    let words = words(content);
    let mut words: Vec<&str> = words.iter().map(Word::indexed).collect();
    words.sort_unstable();
    words.dedup();
    words.join(" ")
}

/// Finds messages, the best first, and of equal ones the newest.
pub(crate) fn search(conn: &Connection, query: &Query<'_>, limit: usize) -> Result<Vec<SearchHit>> {
    let mut found = find(conn, query)?;
    found.sort_unstable_by(|a, b| {
        let by_score = b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal);
        by_score.then(b.message_id.cmp(&a.message_id))
    });
    found.truncate(limit);
    found.iter().map(|it| hit(conn, query, it.message_id)).collect()
}

struct Found {
    message_id: i64,
    score: f64,
}

fn find(conn: &Connection, query: &Query<'_>) -> Result<Vec<Found>> {
    let mut finder = Finder { query, seen: HashSet::new(), found: Vec::new(), read: 0 };
    finder.read(conn, &Candidates::New)?;
    finder.read(conn, &Candidates::Changed)?;
    // First by words in full: the beginning of common words stands in so many messages that only looking them up takes long.
    let (in_full, with_beginnings) = (query.expression(true), query.expression(false));
    finder.read(conn, &Candidates::Indexed(&in_full))?;
    if with_beginnings != in_full {
        finder.read(conn, &Candidates::Indexed(&with_beginnings))?;
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
    fn read(&mut self, conn: &Connection, candidates: &Candidates<'_>) -> Result<()> {
        if self.has_enough() {
            return Ok(());
        }
        message_index::each_candidate(conn, candidates, |message_id, content| {
            // What the index says is only a hint: the message may have been changed since.
            if self.seen.insert(message_id)
                && let Some(score) = self.query.score(&words(content))
            {
                self.read += content.len();
                self.found.push(Found { message_id, score });
            }
            !self.has_enough()
        })
    }
}

fn hit(conn: &Connection, query: &Query<'_>, message_id: i64) -> Result<SearchHit> {
    let FoundMessage { conversation_id, position, role, timestamp, agent_name, content } =
        message_index::message(conn, message_id)?;
    let words = words(&content);
    let (snippet, highlights) = snippet(&content, &words, &query.places(&words));
    Ok(SearchHit { conversation_id, position, role, timestamp, agent_name, snippet, highlights })
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
