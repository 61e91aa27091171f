//! Reads a document record by record, hands on what can be read, and notes what cannot.

use std::collections::{HashMap, HashSet};
use std::io::BufRead;

use serde_json::{Map, Value};

use super::finder::Finder;
use super::scanner::{Lines, RawValue, Scanner};
use super::upgrade::{LAYOUT, Layout, Part, Upgrade};
use super::version;
use crate::error::{Error, Result};
use crate::json::{ParseError, Path, Step, parse_text, shortened, without_position};
use crate::model::{
    Context, EntityKind, Extra, MOST_NOTICES, Notice, Object, OrchestratorState, Readable, is_shallow,
    read as read_entity, too_deep,
};
use crate::rows::{Entity, with_entity};

/// Receives what is read from a document.
pub(super) trait Sink {
    fn record<E: Entity>(&mut self, entity: E) -> Result<()>;
    fn set_aside(&mut self, path: &str, reason: &str, content: &str) -> Result<()>;
}

/// What was read, beside what the sink was given.
pub(super) struct Document {
    /// The document without its records.
    pub(super) head: OrchestratorState,
    /// The version that the document has; that of the head is the one that it was brought to.
    pub(super) source_version: String,
    /// What was not as the format says, in the order of the document.
    pub(super) findings: Vec<Finding>,
}

/// Something that is not as the format says.
pub(super) struct Finding {
    pub(super) path: String,
    pub(super) line: u64,
    pub(super) message: String,
    /// Whether it was set aside; else it is a warning.
    pub(super) set_aside: bool,
}

const HEAD: [&str; 6] = ["id", "version", "checkpointedAt", "checkpointReason", "mode", "metadata"];
/// How many findings of each of the two kinds are told one by one.
const MOST_FINDINGS: usize = 100_000;

/// Reads a document to its end. `new_id` is the id of a document that has none, `limit` how many bytes one record may have.
pub(super) fn read(
    input: impl BufRead,
    source_name: &str,
    limit: u64,
    new_id: &str,
    sink: &mut impl Sink,
) -> Result<Document> {
    read_as(&LAYOUT, input, source_name, limit, new_id, sink)
}

/// As [`read`], in some layout.
pub(super) fn read_as(
    layout: &'static Layout,
    input: impl BufRead,
    source_name: &str,
    limit: u64,
    new_id: &str,
    sink: &mut impl Sink,
) -> Result<Document> {
    let mut reader = Reader {
        layout,
        steps: &[],
        scanner: Scanner::new(input, source_name, limit),
        source_name,
        sink,
        findings: Vec::new(),
        found: [0; 2],
        held: 0,
        limit,
        head: HashMap::new(),
        extra: Extra::new(),
        seen: HashSet::new(),
        keys: HashSet::new(),
    };
    reader.document()?;
    let mut head = reader.finish(new_id)?;
    reader.sum_up();
    let source_version = head.version.clone();
    if let Some(step) = reader.steps.last() {
        head.version = step.to.to_owned();
    }
    Ok(Document { head, source_version, findings: reader.findings })
}

struct Reader<'s, R, S> {
    scanner: Scanner<'s, R>,
    source_name: &'s str,
    layout: &'static Layout,
    /// What brings the parts of the document to the layout; none until its version is known.
    steps: &'static [Upgrade],
    sink: &'s mut S,
    findings: Vec<Finding>,
    /// How many warnings there were, and how much was set aside.
    found: [u64; 2],
    /// Bytes of the members that are held until the end, and how many that may be.
    held: u64,
    limit: u64,
    /// Members of the head, as they stand in the document.
    head: HashMap<String, RawValue>,
    /// Members that this release does not know.
    extra: Extra,
    /// Members that have been read.
    seen: HashSet<String>,
    /// Keys of the entities that have been read.
    keys: HashSet<(EntityKind, String)>,
}

impl<R: BufRead, S: Sink> Reader<'_, R, S> {
    fn document(&mut self) -> Result<()> {
        if self.scanner.skip_byte_order_mark()? {
            self.find(Path::default().to_string(), 1, "a byte order mark stands before the document".into(), false);
        }
        match self.scanner.peek()? {
            None => return Err(self.scanner.error("the document is empty".into())),
            Some(b'{') => self.scanner.take(b'{')?,
            Some(_) => {
                let value = self.scanner.value()?;
                self.parse(&value)?;
                let what = if value.text == "null" { "the document is null" } else { "the document is no object" };
                return Err(self.scanner.error_at(value.line, format!("{what}; a state document is an object")));
            }
        }
        if !self.scanner.take_if(b'}')? {
            loop {
                self.member()?;
                if self.scanner.take_if(b'}')? {
                    break;
                }
                self.scanner.take(b',')?;
            }
        }
        if self.scanner.peek()?.is_some() {
            return Err(self.scanner.unexpected("the end of the document")?);
        }
        if !self.seen.iter().any(|key| is_known(key)) {
            return Err(self.scanner.error("this is no state document: it has none of a state document's keys".into()));
        }
        Ok(())
    }

    fn member(&mut self) -> Result<()> {
        let raw = self.scanner.key()?;
        let Some(Value::String(key)) = self.parse(&raw)? else { return Err(self.scanner.unexpected("a key")?) };
        if raw.text.contains("\\u") && key.contains('\u{fffd}') {
            let message = "half a surrogate pair in a key, read as U+FFFD".to_owned();
            self.find(Path::member(&key).to_string(), raw.line, message, false);
        }
        if !self.seen.insert(key.clone()) {
            let value = self.scanner.value()?;
            self.parse(&value)?;
            let reason = format!("a second {:?}; the first one was read", shortened(&key));
            return self.set_aside(&Path::member(&key), &value.text, value.line, reason);
        }
        if let Some(kind) = EntityKind::ALL.into_iter().find(|kind| kind.document_key() == key) {
            return with_entity!(kind, E => self.entities::<E>());
        }
        match key.as_str() {
            known if HEAD.contains(&known) => {
                let raw = self.scanner.value()?;
                self.hold(&raw)?;
                if known == "version" {
                    self.version(&raw)?;
                }
                self.head.insert(key, raw);
                Ok(())
            }
            _ => {
                let raw = self.scanner.value()?;
                self.hold(&raw)?;
                let shallow = |value| if is_shallow(&value) { Ok(value) } else { Err(too_deep()) };
                if let Some(value) = self.record(None, &Path::member(&key), &raw, |value, _| shallow(value))? {
                    self.extra.insert(key, value);
                }
                Ok(())
            }
        }
    }

    fn entities<E: Entity>(&mut self) -> Result<()> {
        let name = E::KIND.document_key();
        let path = Path::member(name);
        if E::KIND.is_single() {
            let raw = self.scanner.value()?;
            if raw.text != "null"
                && let Some(entity) = self.record(Some(Part::Entity(E::KIND)), &path, &raw, read_entity::<E>)?
            {
                self.sink.record(entity)?;
            }
            return Ok(());
        }
        if self.scanner.peek()? != Some(b'[') {
            let raw = self.scanner.value()?;
            let found = self.parse(&raw)?;
            if matches!(found, Some(Value::Null)) {
                self.find(path.to_string(), raw.line, "missing or null, read as empty".into(), false);
                return Ok(());
            }
            return self.set_aside(&path, &raw.text, raw.line, "expected a list".into());
        }
        self.scanner.take(b'[')?;
        if self.scanner.take_if(b']')? {
            return Ok(());
        }
        for index in 0.. {
            let raw = self.scanner.value()?;
            let path = path.index(index);
            if let Some(entity) = self.record(Some(Part::Entity(E::KIND)), &path, &raw, read_entity::<E>)? {
                if self.keys.insert((E::KIND, entity.key().to_owned())) {
                    self.sink.record(entity)?;
                } else {
                    let key = shortened(entity.key());
                    let reason = format!("a second one named {key:?} in {name}; the first one was read");
                    self.set_aside(&path, &raw.text, raw.line, reason)?;
                }
            }
            if self.scanner.take_if(b']')? {
                break;
            }
            self.scanner.take(b',')?;
        }
        Ok(())
    }

    /// Takes note of what is held until the end: together it is no larger than a record may be.
    fn hold(&mut self, raw: &RawValue) -> Result<()> {
        // A name and its place, beside the value.
        self.held += raw.text.len() as u64 + 100;
        if self.held > self.limit { Err(self.scanner.too_large(raw.line)) } else { Ok(()) }
    }

    /// Takes note of the document's version.
    fn version(&mut self, raw: &RawValue) -> Result<()> {
        // As it is read later, halves of surrogate pairs included.
        let value = self.parse(raw)?.unwrap_or_default();
        if let Some(found) = version::newer(&value, self.layout.version) {
            let (source_name, found) = (self.source_name.to_owned(), shortened(&found).into_owned());
            return Err(Error::DocumentTooNew { source_name, found, supported: self.layout.version });
        }
        let version = value.as_str().unwrap_or_default().to_owned();
        self.steps = self.layout.steps_from(&version);
        let first_list = document_keys().find(|name| self.seen.contains(*name));
        match first_list {
            Some(name) if !self.steps.is_empty() => {
                let detail = format!(
                    "the document has version {}, older than {}, and says so after {name:?}; move \"version\" before it",
                    shortened(&version),
                    self.layout.version
                );
                Err(self.scanner.error_at(raw.line, detail))
            }
            _ => Ok(()),
        }
    }

    /// Brings a part of an older document to the layout that is read.
    fn upgrade(&self, part: Part, value: &mut Value) {
        if let Value::Object(members) = value {
            self.steps.iter().for_each(|step| (step.apply)(part, members));
        }
    }

    /// Parses and decodes a record; `None` where it was set aside.
    fn record<T>(
        &mut self,
        part: Option<Part>,
        path: &Path,
        raw: &RawValue,
        decode: impl FnOnce(Value, &mut Context) -> Readable<T>,
    ) -> Result<Option<T>> {
        let mut value = match parse_text(&raw.text, raw.parts) {
            Ok(parsed) => {
                if let Some(key) = &parsed.repeated_key {
                    let reason =
                        format!("the key {:?} stands twice in one object; the last one was read", shortened(key));
                    self.set_aside(path, &raw.text, raw.line, reason)?;
                }
                self.find_lone_surrogates(path, raw, &parsed.text, &parsed.lone_surrogates);
                parsed.value
            }
            Err(ParseError::Malformed(error)) => return Err(self.malformed(raw, &error)),
            Err(ParseError::Unholdable(error)) => {
                self.set_aside(path, &raw.text, raw.line, error)?;
                return Ok(None);
            }
        };
        if let Some(part) = part {
            self.upgrade(part, &mut value);
        }
        let mut context = Context::default();
        match decode(value, &mut context) {
            Ok(_) if context.notices.len() > MOST_NOTICES => {
                let reason = format!("more than {MOST_NOTICES} parts of it are not as the format says");
                self.set_aside(path, &raw.text, raw.line, reason)?;
                Ok(None)
            }
            Ok(record) => {
                let mut finder = Finder::new(&raw.text);
                let mut lines = Lines::of(raw);
                for notice in context.notices {
                    self.notice(path, &mut finder, &mut lines, notice)?;
                }
                Ok(Some(record))
            }
            Err(unreadable) => {
                self.set_aside(path, &raw.text, raw.line, unreadable.reason)?;
                Ok(None)
            }
        }
    }

    /// Makes sure that a value is well-formed.
    fn parse(&mut self, raw: &RawValue) -> Result<Option<Value>> {
        match parse_text(&raw.text, raw.parts) {
            Ok(parsed) => Ok(Some(parsed.value)),
            Err(ParseError::Unholdable(_)) => Ok(None),
            Err(ParseError::Malformed(error)) => Err(self.malformed(raw, &error)),
        }
    }

    /// Reads the head once all members are known, and notes what is missing.
    fn finish(&mut self, new_id: &str) -> Result<OrchestratorState> {
        for kind in EntityKind::ALL {
            let name = kind.document_key();
            if !kind.is_single() && !self.seen.contains(name) {
                self.find(Path::member(name).to_string(), 1, "missing or null, read as empty".into(), false);
            }
        }
        let raw = std::mem::take(&mut self.head);
        let mut members = Map::new();
        for key in HEAD {
            if let Some(raw) = raw.get(key)
                && let Some(value) = self.record(None, &Path::member(key), raw, |value, _| Ok(value))?
            {
                members.insert(key.to_owned(), value);
            }
        }
        let mut members = Value::Object(members);
        self.upgrade(Part::Head, &mut members);
        let mut context = Context::default();
        let Ok(mut object) = Object::new(members, &mut context) else {
            return Err(self.scanner.error("the document is no object".into()));
        };
        let head = OrchestratorState::read_head(&mut object, new_id, std::mem::take(&mut self.extra));
        let nothing = RawValue { text: String::new(), line: 1, parts: 0 };
        for notice in context.notices {
            let (base, steps) = notice.steps.split_at(1);
            let member = match &base[0] {
                Step::Key(key) => raw.get(key),
                Step::Index(_) => None,
            };
            let notice = Notice { steps: steps.to_vec(), ..notice };
            let member = member.unwrap_or(&nothing);
            self.notice(&Path(base.to_vec()), &mut Finder::new(&member.text), &mut Lines::of(member), notice)?;
        }
        if version::major(&head.version).is_none() {
            let line = raw.get("version").map_or(1, |raw| raw.line);
            self.find(Path::member("version").to_string(), line, "no version number, kept as it stands".into(), false);
        }
        Ok(head)
    }

    fn notice(&mut self, path: &Path, finder: &mut Finder<'_>, lines: &mut Lines<'_>, notice: Notice) -> Result<()> {
        let path = path.join(&notice.steps);
        // What is missing has no text: its line is that of the closest value around it.
        let text = (0..=notice.steps.len()).rev().find_map(|length| finder.text_at(&notice.steps[..length]));
        let text = text.unwrap_or(lines.text);
        let line = lines.at(text.as_ptr() as usize - lines.text.as_ptr() as usize);
        if notice.set_aside {
            self.set_aside(&path, text, line, notice.message)
        } else {
            self.find(path.to_string(), line, notice.message, false);
            Ok(())
        }
    }

    fn find_lone_surrogates(&mut self, path: &Path, raw: &RawValue, text: &str, offsets: &[usize]) {
        let mut finder = Finder::new(text);
        let mut lines = Lines::of(raw);
        let mut strings = 0;
        let mut seen_to = 0;
        for &offset in offsets {
            if offset < seen_to {
                continue;
            }
            strings += 1;
            if strings > MOST_NOTICES {
                self.find(path.to_string(), raw.line, "more halves of surrogate pairs, read as U+FFFD".into(), false);
                break;
            }
            // One warning for each string. A key has no path of its own: its object's then.
            let (steps, end) = finder.steps_to(offset);
            seen_to = if steps.is_empty() { offset + 1 } else { end };
            let message = "half a surrogate pair, read as U+FFFD".to_owned();
            self.find(path.join(&steps).to_string(), lines.at(offset), message, false);
        }
    }

    fn set_aside(&mut self, path: &Path, text: &str, line: u64, reason: String) -> Result<()> {
        let path = path.to_string();
        self.sink.set_aside(&path, &reason, text)?;
        self.find(path, line, reason, true);
        Ok(())
    }

    fn find(&mut self, path: String, line: u64, message: String, set_aside: bool) {
        let found = &mut self.found[usize::from(set_aside)];
        *found += 1;
        if *found <= MOST_FINDINGS as u64 {
            self.findings.push(Finding { path, line, message, set_aside });
        }
    }

    /// Says how many findings were not told one by one.
    fn sum_up(&mut self) {
        let [warnings, set_aside] = self.found.map(|found| found.saturating_sub(MOST_FINDINGS as u64));
        for (more, what, set_aside) in [(warnings, "warnings", false), (set_aside, "were set aside", true)] {
            if more > 0 {
                let (path, line) = (Path::default().to_string(), self.scanner.line());
                self.findings.push(Finding { path, line, message: format!("{more} more {what}"), set_aside });
            }
        }
    }

    fn malformed(&self, raw: &RawValue, error: &serde_json::Error) -> Error {
        let line = raw.line + (error.line() as u64).saturating_sub(1);
        self.scanner.error_at(line, format!("this is not JSON: {}", without_position(error)))
    }
}

fn is_known(key: &str) -> bool {
    HEAD.contains(&key) || document_keys().any(|known| known == key)
}

fn document_keys() -> impl Iterator<Item = &'static str> {
    EntityKind::ALL.into_iter().map(EntityKind::document_key)
}
