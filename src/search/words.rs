//! A text as words: what is indexed, what is looked up, and what is compared.

use std::borrow::Cow;
use std::ops::Range;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Longer words are indexed by their beginning.
const LONGEST: usize = 64;

/// A word of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word<'t> {
    /// In small letters, without accents.
    pub(super) folded: Cow<'t, str>,
    /// Where it stands in the text, in bytes.
    pub(super) range: Range<usize>,
    /// Whether nothing stands between it and the word before.
    pub(super) is_joined: bool,
    /// Whether it is one sign that is a word by itself: scripts that put no blanks between words are searched sign by sign.
    pub(super) is_sign: bool,
}

impl Word<'_> {
    /// As it stands in the index.
    pub(super) fn indexed(&self) -> &str {
        let end = self.folded.char_indices().nth(LONGEST).map_or(self.folded.len(), |(at, _)| at);
        &self.folded[..end]
    }
}

enum Class {
    Letter,
    /// Belongs to the letter before it.
    Mark,
    Sign,
    Separator,
}

fn class(c: char) -> Class {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' => Class::Letter,
        c if c.is_ascii() => Class::Separator,
        // Without blanks between words: Han, Kana, Thai, Lao, Tibetan, Burmese, Khmer. And symbols, as emoji.
        '\u{0e00}'..='\u{0fff}'
        | '\u{1000}'..='\u{109f}'
        | '\u{1780}'..='\u{17ff}'
        | '\u{2190}'..='\u{2bff}'
        | '\u{3005}'..='\u{3007}'
        | '\u{3021}'..='\u{303c}'
        | '\u{3041}'..='\u{3096}'
        | '\u{309d}'..='\u{30fa}'
        | '\u{30fc}'..='\u{312f}'
        | '\u{31a0}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}'
        | '\u{1f000}'..='\u{1faff}'
        | '\u{20000}'..='\u{3ffff}' => Class::Sign,
        c if is_combining_mark(c) || is_invisible(c) => Class::Mark,
        c if c.is_alphanumeric() => Class::Letter,
        _ => Class::Separator,
    }
}

/// The words of a text, in order.
pub(super) fn words(text: &str) -> Vec<Word<'_>> {
    let mut words: Vec<Word<'_>> = Vec::with_capacity(text.len() / 6);
    let mut end = None;
    let mut open = false;
    for (at, c) in text.char_indices() {
        let range = at..at + c.len_utf8();
        match class(c) {
            Class::Separator => {
                open = false;
                continue;
            }
            Class::Letter | Class::Mark if open => {
                if let Some(word) = words.last_mut() {
                    word.range.end = range.end;
                }
            }
            Class::Mark => continue,
            class => {
                let is_sign = matches!(class, Class::Sign);
                let is_joined = end == Some(at);
                words.push(Word { folded: Cow::Borrowed(""), range: range.clone(), is_joined, is_sign });
                open = !is_sign;
            }
        }
        end = Some(range.end);
    }
    for word in &mut words {
        word.folded = fold(&text[word.range.clone()]);
    }
    // What folds to nothing cannot be looked up.
    words.retain(|word| !word.folded.is_empty());
    words
}

/// In small letters, without accents; of ASCII only letters and digits, at which the index would cut.
fn fold(word: &str) -> Cow<'_, str> {
    if word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Cow::Borrowed(word);
    }
    if word.is_ascii() {
        return Cow::Owned(word.to_ascii_lowercase());
    }
    let plain = word
        .nfkd()
        .flat_map(char::to_lowercase)
        .filter(|c| !is_accent(*c) && !is_invisible(*c) && (!c.is_ascii() || c.is_ascii_alphanumeric()));
    let mut folded = String::with_capacity(word.len());
    for c in plain {
        // Letters that are variants of others, and that Unicode does not take apart.
        match c {
            'ß' => folded.push_str("ss"),
            'æ' => folded.push_str("ae"),
            'œ' => folded.push_str("oe"),
            'ø' => folded.push('o'),
            'đ' => folded.push('d'),
            'ł' => folded.push('l'),
            'ı' => folded.push('i'),
            'ς' => folded.push('σ'),
            c => folded.push(c),
        }
    }
    Cow::Owned(folded)
}

/// Whether a mark is an accent, without which a word is still known: of Latin, Greek, Cyrillic, Hebrew and Arabic letters. In
/// other scripts marks are vowels, or tell letters apart.
fn is_accent(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{487}' | '\u{591}'..='\u{5c7}' | '\u{610}'..='\u{61a}'
        | '\u{64b}'..='\u{65f}' | '\u{670}')
}

/// Whether a character only says where a line may break, or how letters join.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(text: &str) -> Vec<String> {
        words(text)
            .into_iter()
            .map(|word| format!("{}{}", if word.is_joined { "+" } else { "" }, word.folded))
            .collect()
    }

    #[test]
    fn texts_fall_into_words() {
        for (text, expected) in [
            ("", &[][..]),
            (" -- \"; ", &[]),
            ("Fix the_build, v2.0!", &["fix", "the", "build", "v2", "0"]),
            ("Résumé NAÏVE re\u{301}sume\u{301}", &["resume", "naive", "resume"]),
            ("状態 模型abc", &["状", "+態", "模", "+型", "+abc"]),
            ("ＡＢＣ ﬁle ½", &["abc", "file", "1\u{2044}2"]),
            ("🚀go go🚀", &["🚀", "+go", "go", "+🚀"]),
            ("İstanbul STRASSE Straße", &["istanbul", "strasse", "strasse"]),
            ("ΔΡΌΜΟΣ δρόμος", &["δρομοσ", "δρομοσ"]),
            ("Đường Łódź smørrebrød IŞIK ışık", &["duong", "lodz", "smorrebrod", "isik", "isik"]),
            ("Donau\u{ad}dampf", &["donaudampf"]),
            ("दिल दाल", &["दिल", "दाल"]),
            ("กิน", &["ก", "+\u{e34}", "+น"]),
            ("バパハ", &["ハ\u{3099}", "+ハ\u{309a}", "+ハ"]),
            ("한국어 текст", &["\u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8}\u{110b}\u{1165}", "текст"]),
            ("a\0b", &["a", "b"]),
            ("\u{301}a", &["a"]),
        ] {
            assert_eq!(folded(text), expected, "{text:?}");
        }
    }
}
