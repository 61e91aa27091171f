//! Cuts a JSON text that comes from a reader into the raw texts of its values, without holding more than one of them.
//!
//! serde_json cannot do this: it tells neither where a value stands nor what kind it is before it is read. The scanner
//! only finds where values end; serde_json judges whether they are well-formed.

use std::io::BufRead;

use memchr::{memchr_iter, memchr2};

use crate::error::{Error, Result};

/// A position in a JSON text, between two of its tokens.
pub(super) struct Scanner<'s, R> {
    input: R,
    source_name: &'s str,
    line: u64,
    /// The most bytes that a value may have.
    limit: u64,
}

/// A value's text and the line on which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawValue {
    pub(super) text: String,
    pub(super) line: u64,
    /// How many values and names stand in it, at the most.
    pub(super) parts: u64,
}

/// Tells on which line something in a value stands, counting on from what was asked before.
pub(super) struct Lines<'t> {
    pub(super) text: &'t str,
    first: u64,
    /// The offset that was asked for last, and its line.
    last: (usize, u64),
}

impl<'t> Lines<'t> {
    pub(super) fn of(raw: &'t RawValue) -> Self {
        Self { text: &raw.text, first: raw.line, last: (0, raw.line) }
    }

    pub(super) fn at(&mut self, offset: usize) -> u64 {
        let (from, line) = if self.last.0 <= offset { self.last } else { (0, self.first) };
        let between = &self.text.as_bytes()[from..offset];
        self.last = (offset, line + memchr_iter(b'\n', between).count() as u64);
        self.last.1
    }
}

impl<'s, R: BufRead> Scanner<'s, R> {
    pub(super) fn new(input: R, source_name: &'s str, limit: u64) -> Self {
        Self { input, source_name, line: 1, limit }
    }

    /// The next byte that is no white space, without taking it; `None` at the end.
    pub(super) fn peek(&mut self) -> Result<Option<u8>> {
        loop {
            let buffer = fill(&mut self.input, self.source_name)?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let blank = buffer.iter().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')).count();
            let next = buffer.get(blank).copied();
            self.line += memchr_iter(b'\n', &buffer[..blank]).count() as u64;
            self.input.consume(blank);
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    /// Takes the next byte that is no white space if it is this one.
    pub(super) fn take_if(&mut self, byte: u8) -> Result<bool> {
        let found = self.peek()? == Some(byte);
        if found {
            self.input.consume(1);
        }
        Ok(found)
    }

    /// Takes the next byte that is no white space, which must be this one.
    pub(super) fn take(&mut self, byte: u8) -> Result<()> {
        if self.take_if(byte)? { Ok(()) } else { Err(self.unexpected(&format!("`{}`", char::from(byte)))?) }
    }

    /// Skips a byte order mark at the beginning of the text; whether there was one.
    pub(super) fn skip_byte_order_mark(&mut self) -> Result<bool> {
        // Byte by byte, as a reader may give no more at a time.
        for (index, &expected) in "\u{feff}".as_bytes().iter().enumerate() {
            match fill(&mut self.input, self.source_name)?.first() {
                Some(&found) if found == expected => self.input.consume(1),
                _ if index == 0 => return Ok(false),
                _ => return Err(self.error("the text is not UTF-8".into())),
            }
        }
        Ok(true)
    }

    /// The text of the key of an object's next member, with the colon behind it taken.
    pub(super) fn key(&mut self) -> Result<RawValue> {
        if self.peek()? != Some(b'"') {
            return Err(self.unexpected("a key in double quotes")?);
        }
        let key = self.value()?;
        self.take(b':')?;
        Ok(key)
    }

    /// The text of the next value.
    pub(super) fn value(&mut self) -> Result<RawValue> {
        let Some(first) = self.peek()? else { return Err(self.unexpected("a value")?) };
        let line = self.line;
        let mut text = Vec::new();
        let mut parts = 1;
        match first {
            b'{' | b'[' => parts = self.container(&mut text)?,
            b'"' => {
                self.copy(&mut text, 1)?;
                self.string(&mut text)?;
            }
            _ => self.scalar(&mut text)?,
        }
        if text.is_empty() {
            return Err(self.unexpected("a value")?);
        }
        self.line += memchr_iter(b'\n', &text).count() as u64;
        match String::from_utf8(text) {
            Ok(text) => Ok(RawValue { text, line, parts }),
            Err(error) => {
                let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = line + memchr_iter(b'\n', before).count() as u64;
                Err(self.error_at(line, "the text is not UTF-8".into()))
            }
        }
    }

    /// The line of the present position.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// An error at the present position.
    pub(super) fn error(&self, detail: String) -> Error {
        self.error_at(self.line, detail)
    }

    pub(super) fn error_at(&self, line: u64, detail: String) -> Error {
        Error::Document { source_name: self.source_name.to_owned(), line, detail }
    }

    /// The error for more than may be held at a time.
    pub(super) fn too_large(&self, line: u64) -> Error {
        Error::DocumentTooLarge { source_name: self.source_name.to_owned(), line, limit: self.limit }
    }

    /// The error for what stands here in place of `expected`.
    pub(super) fn unexpected(&mut self, expected: &str) -> Result<Error> {
        Ok(match self.peek()? {
            None => self.error(format!("the document is cut off: expected {expected}")),
            Some(byte) if byte.is_ascii_graphic() => {
                self.error(format!("this is not JSON: expected {expected}, found `{}`", char::from(byte)))
            }
            Some(byte) => self.error(format!("this is not JSON: expected {expected}, found byte {byte:#04x}")),
        })
    }

    /// A list or an object; how many values and names stand in it, at the most.
    fn container(&mut self, text: &mut Vec<u8>) -> Result<u64> {
        let mut depth = 0_usize;
        let mut parts = 0;
        loop {
            let buffer = self.filled(text)?;
            let mut taken = 0;
            let mut in_string = false;
            for &byte in buffer {
                taken += 1;
                match byte {
                    b'"' => in_string = true,
                    b'{' | b'[' => (depth, parts) = (depth + 1, parts + 2),
                    b'}' | b']' => depth -= 1,
                    b',' | b':' => parts += 1,
                    _ => {}
                }
                if in_string || depth == 0 {
                    break;
                }
            }
            self.copy(text, taken)?;
            if in_string {
                self.string(text)?;
            } else if depth == 0 {
                return Ok(parts);
            }
        }
    }

    /// The rest of a string whose opening quote was taken.
    fn string(&mut self, text: &mut Vec<u8>) -> Result<()> {
        loop {
            let buffer = self.filled(text)?;
            match memchr2(b'"', b'\\', buffer) {
                None => {
                    let all = buffer.len();
                    self.copy(text, all)?;
                }
                Some(at) if buffer[at] == b'"' => return self.copy(text, at + 1),
                Some(at) => {
                    self.copy(text, at + 1)?;
                    // Whatever is escaped, its first byte is no closing quote.
                    self.filled(text)?;
                    self.copy(text, 1)?;
                }
            }
        }
    }

    fn scalar(&mut self, text: &mut Vec<u8>) -> Result<()> {
        loop {
            let buffer = fill(&mut self.input, self.source_name)?;
            let length = buffer
                .iter()
                .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
                .count();
            let ends = length < buffer.len() || buffer.is_empty();
            self.copy(text, length)?;
            if ends {
                return Ok(());
            }
        }
    }

    /// The bytes at hand, inside a value of which `text` was read so far.
    fn filled(&mut self, text: &[u8]) -> Result<&[u8]> {
        if fill(&mut self.input, self.source_name)?.is_empty() {
            let line = self.line + memchr_iter(b'\n', text).count() as u64;
            return Err(self.error_at(line, "the document is cut off inside a value".into()));
        }
        fill(&mut self.input, self.source_name)
    }

    fn copy(&mut self, text: &mut Vec<u8>, length: usize) -> Result<()> {
        if (text.len() + length) as u64 > self.limit {
            return Err(self.too_large(self.line));
        }
        text.extend_from_slice(&fill(&mut self.input, self.source_name)?[..length]);
        self.input.consume(length);
        Ok(())
    }
}

/// The bytes at hand, at least one except at the end. Free of `self`, so that other fields stay usable beside them.
fn fill<'i, R: BufRead>(input: &'i mut R, source_name: &str) -> Result<&'i [u8]> {
    // `fill_buf` does not retry by itself when a signal comes in between.
    loop {
        match input.fill_buf() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Stream { name: source_name.to_owned(), source }),
            Ok(_) => break,
        }
    }
    input.fill_buf().map_err(|source| Error::Stream { name: source_name.to_owned(), source })
}
