//! What is searched: any text, taken as words.

use std::collections::HashSet;
use std::ops::Range;

use super::words::{Word, words};

/// So many words of a text are looked for: nobody types more, and each one costs a look at every message that has it.
const MOST_WORDS: usize = 100;

/// The words of a search. A message matches where each of them stands in it, or begins a word of it; signs that stand side by
/// side, as Chinese ones, stand so in the message, too.
pub(crate) struct Query<'t> {
    /// The words, in order.
    words: Vec<Word<'t>>,
    /// Words that are joined, each run by itself.
    units: Vec<Range<usize>>,
}

impl<'t> Query<'t> {
    /// `None` where there is nothing to look for.
    pub(crate) fn new(text: &'t str) -> Option<Self> {
        let mut words = words(text);
        words.truncate(MOST_WORDS);
        let mut units: Vec<Range<usize>> = Vec::new();
        for (index, word) in words.iter().enumerate() {
            match units.last_mut() {
                Some(unit) if word.is_joined => unit.end = index + 1,
                _ => units.push(index..index + 1),
            }
        }
        let mut seen = HashSet::new();
        units
            .retain(|unit| seen.insert(words[unit.clone()].iter().map(|word| word.folded.clone()).collect::<Vec<_>>()));
        (!units.is_empty()).then_some(Self { words, units })
    }

    fn units(&self) -> impl Iterator<Item = &[Word<'t>]> {
        self.units.iter().map(|unit| &self.words[unit.clone()])
    }

    /// For the index: finds at least what matches, or what matches by words in full. Every word is quoted, so that nothing in
    /// it is syntax.
    pub(super) fn expression(&self, in_full: bool) -> String {
        let mut terms: Vec<String> = Vec::new();
        for unit in self.units() {
            for (index, word) in unit.iter().enumerate() {
                let is_prefix = !in_full && index + 1 == unit.len() && may_begin(word);
                let term = format!("\"{}\"{}", word.indexed(), if is_prefix { " *" } else { "" });
                if !terms.contains(&term) {
                    terms.push(term);
                }
            }
        }
        terms.join(" AND ")
    }

    /// How well a text matches; `None` where it does not.
    pub(super) fn score(&self, text: &[Word<'_>]) -> Option<f64> {
        let (mut exact, mut often) = (0.0, 0.0);
        for unit in self.units() {
            let (mut count, mut is_exact) = (0, false);
            for at in places(unit, text, true) {
                count += 1;
                is_exact |= text[at + unit.len() - 1].folded == unit[unit.len() - 1].folded;
            }
            if count == 0 {
                return None;
            }
            exact += f64::from(u8::from(is_exact));
            often += (1.0 + f64::from(count)).ln();
        }
        let units = self.units.len() as f64;
        let is_phrase =
            self.words.len() > 1 && self.units.len() > 1 && places(&self.words, text, false).next().is_some();
        let short = 1.0 / (1.0 + (1.0 + text.len() as f64).ln());
        Some(4.0 * f64::from(u8::from(is_phrase)) + 2.0 * exact / units + often / units + short)
    }

    /// The words of a text that match, by their numbers, in order.
    pub(super) fn places(&self, text: &[Word<'_>]) -> Vec<usize> {
        let words = self.units().flat_map(|unit| places(unit, text, true).flat_map(|at| at..at + unit.len()));
        let mut words: Vec<usize> = words.collect();
        words.sort_unstable();
        words.dedup();
        words
    }
}

/// Where words stand in a text, one after the other.
fn places(wanted: &[Word<'_>], text: &[Word<'_>], joined: bool) -> impl Iterator<Item = usize> {
    (0..text.len()).filter(move |at| stands_at(wanted, text, *at, joined))
}

/// Whether words stand in a text at a place, one after the other; the last one may begin a longer word.
fn stands_at(wanted: &[Word<'_>], text: &[Word<'_>], at: usize, joined: bool) -> bool {
    let Some(found) = text.get(at..at + wanted.len()) else { return false };
    let last = wanted.len() - 1;
    wanted.iter().zip(found).enumerate().all(|(index, (wanted, found))| {
        let is_equal = match index == last && may_begin(wanted) {
            true => found.folded.starts_with(&*wanted.folded),
            false => found.folded == wanted.folded,
        };
        is_equal && (!joined || index == 0 || found.is_joined)
    })
}

/// Whether a word is looked for at the beginning of longer ones, too. One or two letters begin too many.
fn may_begin(word: &Word<'_>) -> bool {
    !word.is_sign && word.folded.chars().nth(2).is_some()
}
