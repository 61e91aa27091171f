//! Reading the members of a JSON object, keeping track of what could not be read.
//!
//! The rule: what may be missing is set aside alone and counts as missing; only a required text, or a value that is no
//! object at all, makes the whole record unreadable.

use chrono::DateTime;
use serde_json::{Map, Value};

use super::Timestamp;
use crate::json::{self, Step};

/// Why a value cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) reason: String,
}

pub(crate) type Readable<T> = Result<T, Unreadable>;

/// Something noticed while a record was read.
#[derive(Debug)]
pub(crate) struct Notice {
    /// Where, from the record.
    pub(crate) steps: Vec<Step>,
    pub(crate) message: String,
    /// Whether the value there was not read, and is to be kept word for word.
    pub(crate) set_aside: bool,
}

/// How much is said of one record; beyond this, it is set aside whole.
pub(crate) const MOST_NOTICES: usize = 1000;

/// What was noticed so far, one more than the most, and where reading stands.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// Whether numbers, booleans and strings stand in for each other, an empty string for a missing time, and null in a list
    /// for nothing.
    converts: bool,
    steps: Vec<Step>,
    pub(crate) notices: Vec<Notice>,
    /// The keys that are asked for, where it is these that are wanted; whatever is required is there then.
    known_keys: Option<Vec<String>>,
}

impl Context {
    /// For an entity that a caller hands over, which nobody could repair as a document.
    pub(crate) fn converting() -> Self {
        Self { converts: true, ..Self::default() }
    }

    /// Reads something inside the present value. Where it cannot be read at all, what was noticed inside it is moot.
    fn inside<T>(&mut self, step: Step, read: impl FnOnce(&mut Self) -> Readable<T>) -> Readable<T> {
        let noticed = self.notices.len();
        self.steps.push(step);
        let result = read(self);
        self.steps.pop();
        if result.is_err() {
            self.notices.truncate(noticed);
        }
        result
    }

    fn notice(&mut self, step: Step, message: String, set_aside: bool) {
        if self.notices.len() > MOST_NOTICES {
            return;
        }
        let mut steps = self.steps.clone();
        steps.push(step);
        self.notices.push(Notice { steps, message, set_aside });
    }
}

/// An object that is read member by member: its known keys are those that [`read_json`](Self::read_json) takes.
pub(crate) trait ReadJson: Sized {
    fn read_json(object: Object<'_>) -> Readable<Self>;
}

/// Reads a value as one.
pub(crate) fn read<T: ReadJson>(value: Value, context: &mut Context) -> Readable<T> {
    T::read_json(Object::new(value, context)?)
}

/// The keys that an object of a type has fields for.
pub(crate) fn known_keys<T: ReadJson>() -> Vec<String> {
    let mut context = Context { known_keys: Some(Vec::new()), ..Context::default() };
    // What is read is of no interest.
    let _ = T::read_json(Object { members: Map::new(), context: &mut context });
    context.known_keys.unwrap_or_default()
}

/// A JSON object whose members are taken one by one; the rest are keys that this release does not know.
pub(crate) struct Object<'c> {
    members: Map<String, Value>,
    context: &'c mut Context,
}

impl<'c> Object<'c> {
    pub(crate) fn new(value: Value, context: &'c mut Context) -> Readable<Self> {
        match value {
            Value::Object(members) => Ok(Self { members, context }),
            other => Err(expected("an object", &other)),
        }
    }

    /// The keys that this release does not know: those that were not taken. What is nested too deep is set aside.
    pub(crate) fn rest(self) -> Map<String, Value> {
        let Self { mut members, context } = self;
        if members.values().all(is_shallow) {
            return members;
        }
        for (key, _) in members.iter().filter(|(_, value)| !is_shallow(value)) {
            context.notice(Step::Key(key.clone()), too_deep().reason, true);
        }
        members.retain(|_, value| is_shallow(value));
        members
    }

    /// A text without which the record means nothing.
    pub(crate) fn required<T: From<String>>(&mut self, key: &str) -> Readable<T> {
        match self.take(key) {
            Some(Value::String(text)) => Ok(T::from(text)),
            Some(Value::Number(number)) if self.context.converts => Ok(T::from(number.to_string())),
            Some(Value::Bool(value)) if self.context.converts => Ok(T::from(value.to_string())),
            Some(other) => Err(Unreadable { reason: format!("{key}: {}", expected("a string", &other).reason) }),
            None if self.context.known_keys.is_some() => Ok(T::from(String::new())),
            None => Err(Unreadable { reason: format!("{key}: a required string is missing or null") }),
        }
    }

    /// A time without which the record means nothing. A number counts as JavaScript's `Date` takes it, with a warning.
    pub(crate) fn required_time(&mut self, key: &str) -> Readable<Timestamp> {
        self.convert_time(key);
        if self.context.converts && self.members.get(key).is_none_or(Value::is_null) {
            self.members.shift_remove(key);
            return Ok(Timestamp::default());
        }
        self.required(key)
    }

    /// A time that may be missing. A number counts as JavaScript's `Date` takes it, with a warning.
    pub(crate) fn optional_time(&mut self, key: &str) -> Option<Timestamp> {
        self.convert_time(key);
        self.optional(key)
    }

    fn convert_time(&mut self, key: &str) {
        let Some(value) = self.members.get_mut(key) else { return };
        // The last millisecond of the year 9999: later ones are written in another form.
        let millis = value.as_f64().filter(|millis| (-62_135_596_800_000.0..253_402_300_800_000.0).contains(millis));
        if let Some(at) = millis.and_then(|millis| DateTime::from_timestamp_millis(millis as i64)) {
            let text = Timestamp::from(at).as_str().to_owned();
            let warning = format!("expected a string, found a number, read as {text}");
            *value = Value::String(text);
            self.context.notice(Step::Key(key.to_owned()), warning, false);
        }
    }

    /// A text that may be missing.
    pub(crate) fn optional<T: From<String>>(&mut self, key: &str) -> Option<T> {
        self.optional_with(key, text)
    }

    /// A text that should be there; `default` stands in for it, with a warning.
    pub(crate) fn text_or<T: From<String>>(&mut self, key: &str, default: &str) -> T {
        self.or_warn(key, text, || default.to_owned().into(), &format!("missing or null, read as {default:?}"))
    }

    /// A number that should be there; 0 stands in for it, with a warning.
    pub(crate) fn number(&mut self, key: &str) -> f64 {
        let read = |value: Value, context: &mut Context| {
            let of_text = || value.as_str()?.trim().parse().ok().filter(|number: &f64| number.is_finite());
            let converted = || if context.converts { of_text() } else { None };
            value.as_f64().or_else(converted).ok_or_else(|| expected("a number", &value))
        };
        self.or_warn(key, read, || 0.0, "missing or null, read as 0")
    }

    /// An integer that should be there; 0 stands in for it, with a warning.
    pub(crate) fn integer(&mut self, key: &str) -> i64 {
        self.or_warn(key, integer, || 0, "missing or null, read as 0")
    }

    /// A truth value that should be there; `false` stands in for it, with a warning.
    pub(crate) fn boolean(&mut self, key: &str) -> bool {
        self.or_warn(key, boolean, || false, "missing or null, read as false")
    }

    /// A truth value that may be missing.
    pub(crate) fn optional_boolean(&mut self, key: &str) -> Option<bool> {
        self.optional_with(key, boolean)
    }

    /// A list of texts that should be there; the empty one stands in for it, with a warning.
    pub(crate) fn texts(&mut self, key: &str) -> Vec<String> {
        self.list(key, text)
    }

    /// A list of texts that may be missing.
    pub(crate) fn optional_texts(&mut self, key: &str) -> Option<Vec<String>> {
        self.optional_with(key, |value, context| read_list(value, context, &mut text))
    }

    /// A list that should be there; the empty one stands in for it, with a warning. Elements that cannot be read are set
    /// aside.
    pub(crate) fn list<T>(&mut self, key: &str, mut read: impl FnMut(Value, &mut Context) -> Readable<T>) -> Vec<T> {
        self.or_warn(
            key,
            |value, context| read_list(value, context, &mut read),
            Vec::new,
            "missing or null, read as empty",
        )
    }

    /// An object that may be missing, whatever it holds.
    pub(crate) fn optional_map(&mut self, key: &str) -> Option<Map<String, Value>> {
        self.optional_with(key, |value, context| match Object::new(value, context)?.members {
            members if members.values().all(is_shallow) => Ok(members),
            _ => Err(too_deep()),
        })
    }

    /// A value that should be there; `default` stands in for it, with a warning.
    pub(crate) fn or_warn<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(Value, &mut Context) -> Readable<T>,
        default: impl FnOnce() -> T,
        warning: &str,
    ) -> T {
        let step = Step::Key(key.to_owned());
        match self.take(key) {
            None => self.context.notice(step, warning.to_owned(), false),
            Some(value) => match self.context.inside(step.clone(), |context| read(value, context)) {
                Ok(found) => return found,
                Err(error) => self.context.notice(step, error.reason, true),
            },
        }
        default()
    }

    /// A value that may be missing.
    pub(crate) fn optional_with<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(Value, &mut Context) -> Readable<T>,
    ) -> Option<T> {
        let value = self.take(key)?;
        let step = Step::Key(key.to_owned());
        match self.context.inside(step.clone(), |context| read(value, context)) {
            Ok(found) => Some(found),
            Err(error) => {
                self.context.notice(step, error.reason, true);
                None
            }
        }
    }

    /// A member's value; null, which JavaScript writes for what is not there, counts as missing.
    fn take(&mut self, key: &str) -> Option<Value> {
        if let Some(known) = &mut self.context.known_keys {
            known.push(key.to_owned());
        }
        self.members.shift_remove(key).filter(|value| !value.is_null())
    }
}

/// Whether a member of an object of any content is nested no deeper than can be stored.
pub(crate) fn is_shallow(value: &Value) -> bool {
    json::is_within(value, json::MAX_DEPTH - 1)
}

pub(crate) fn too_deep() -> Unreadable {
    Unreadable { reason: format!("nested deeper than {} levels", json::MAX_DEPTH) }
}

fn read_list<T>(
    value: Value,
    context: &mut Context,
    read: &mut impl FnMut(Value, &mut Context) -> Readable<T>,
) -> Readable<Vec<T>> {
    let Value::Array(elements) = value else { return Err(expected("a list", &value)) };
    let mut found = Vec::with_capacity(elements.len());
    for (index, element) in elements.into_iter().enumerate() {
        if context.converts && element.is_null() {
            continue;
        }
        let step = Step::Index(index);
        match context.inside(step.clone(), |context| read(element, context)) {
            Ok(element) => found.push(element),
            Err(error) => context.notice(step, error.reason, true),
        }
    }
    Ok(found)
}

fn text<T: From<String>>(value: Value, context: &mut Context) -> Readable<T> {
    match value {
        Value::String(text) => Ok(text.into()),
        Value::Number(number) if context.converts => Ok(number.to_string().into()),
        Value::Bool(value) if context.converts => Ok(value.to_string().into()),
        other => Err(expected("a string", &other)),
    }
}

fn integer(value: Value, _: &mut Context) -> Readable<i64> {
    // JavaScript knows no integers: 3.0 is one too.
    let exact = |number: f64| (number.fract() == 0.0 && number.abs() < 2f64.powi(53)).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(exact)).ok_or_else(|| expected("an integer", &value))
}

fn boolean(value: Value, context: &mut Context) -> Readable<bool> {
    // As JavaScript would branch on it.
    let converted = || match &value {
        Value::Number(number) if context.converts => number.as_f64().map(|number| number != 0.0),
        Value::String(text) if context.converts => Some(!text.is_empty() && text != "false"),
        _ => None,
    };
    value.as_bool().or_else(converted).ok_or_else(|| expected("true or false", &value))
}

pub(crate) fn expected(what: &str, found: &Value) -> Unreadable {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Unreadable { reason: format!("expected {what}, found {found}") }
}
