//! Reading the members of a JSON object, keeping track of what could not be read.
//!
//! The rule: what may be missing is set aside alone and counts as missing; only a required text, or a value that is no
//! object at all, makes the whole record unreadable.

use serde_json::{Map, Value};

use super::path::Step;
use crate::json;

/// Why a value cannot be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) reason: String,
}

pub(super) type Readable<T> = Result<T, Unreadable>;

/// Something noticed while a record was read.
#[derive(Debug)]
pub(super) struct Notice {
    /// Where, from the record.
    pub(super) steps: Vec<Step>,
    pub(super) message: String,
    /// Whether the value there was not read, and is to be kept word for word.
    pub(super) set_aside: bool,
}

/// How much is said of one record; beyond this, it is set aside whole.
pub(super) const MOST_NOTICES: usize = 1000;

/// What was noticed so far, one more than the most, and where reading stands.
#[derive(Debug, Default)]
pub(super) struct Context {
    steps: Vec<Step>,
    pub(super) notices: Vec<Notice>,
}

impl Context {
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

/// A JSON object whose members are taken one by one; the rest are keys that this release does not know.
pub(super) struct Object<'c> {
    members: Map<String, Value>,
    context: &'c mut Context,
}

impl<'c> Object<'c> {
    pub(super) fn new(value: Value, context: &'c mut Context) -> Readable<Self> {
        match value {
            Value::Object(members) => Ok(Self { members, context }),
            other => Err(expected("an object", &other)),
        }
    }

    /// The keys that this release does not know: those that were not taken. What is nested too deep is set aside.
    pub(super) fn rest(self) -> Map<String, Value> {
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
    pub(super) fn required<T: From<String>>(&mut self, key: &str) -> Readable<T> {
        match self.take(key) {
            Some(Value::String(text)) => Ok(T::from(text)),
            Some(other) => Err(Unreadable { reason: format!("{key}: {}", expected("a string", &other).reason) }),
            None => Err(Unreadable { reason: format!("{key}: a required string is missing or null") }),
        }
    }

    /// A text that may be missing.
    pub(super) fn optional<T: From<String>>(&mut self, key: &str) -> Option<T> {
        self.optional_with(key, text)
    }

    /// A text that should be there; `default` stands in for it, with a warning.
    pub(super) fn text_or<T: From<String>>(&mut self, key: &str, default: &str) -> T {
        self.or_warn(key, text, || default.to_owned().into(), &format!("missing or null, read as {default:?}"))
    }

    /// A number that should be there; 0 stands in for it, with a warning.
    pub(super) fn number(&mut self, key: &str) -> f64 {
        let read = |value: Value, _: &mut Context| value.as_f64().ok_or_else(|| expected("a number", &value));
        self.or_warn(key, read, || 0.0, "missing or null, read as 0")
    }

    /// An integer that should be there; 0 stands in for it, with a warning.
    pub(super) fn integer(&mut self, key: &str) -> i64 {
        self.or_warn(key, integer, || 0, "missing or null, read as 0")
    }

    /// A truth value that should be there; `false` stands in for it, with a warning.
    pub(super) fn boolean(&mut self, key: &str) -> bool {
        self.or_warn(key, boolean, || false, "missing or null, read as false")
    }

    /// A truth value that may be missing.
    pub(super) fn optional_boolean(&mut self, key: &str) -> Option<bool> {
        self.optional_with(key, boolean)
    }

    /// A list of texts that should be there; the empty one stands in for it, with a warning.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        self.list(key, text)
    }

    /// A list of texts that may be missing.
    pub(super) fn optional_texts(&mut self, key: &str) -> Option<Vec<String>> {
        self.optional_with(key, |value, context| read_list(value, context, &mut text))
    }

    /// A list that should be there; the empty one stands in for it, with a warning. Elements that cannot be read are set
    /// aside.
    pub(super) fn list<T>(&mut self, key: &str, mut read: impl FnMut(Value, &mut Context) -> Readable<T>) -> Vec<T> {
        self.or_warn(
            key,
            |value, context| read_list(value, context, &mut read),
            Vec::new,
            "missing or null, read as empty",
        )
    }

    /// An object that may be missing, whatever it holds.
    pub(super) fn optional_map(&mut self, key: &str) -> Option<Map<String, Value>> {
        self.optional_with(key, |value, context| match Object::new(value, context)?.members {
            members if members.values().all(is_shallow) => Ok(members),
            _ => Err(too_deep()),
        })
    }

    /// A value that should be there; `default` stands in for it, with a warning.
    pub(super) fn or_warn<T>(
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
    pub(super) fn optional_with<T>(
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
        self.members.shift_remove(key).filter(|value| !value.is_null())
    }
}

/// Whether a member of an object of any content is nested no deeper than can be stored.
pub(super) fn is_shallow(value: &Value) -> bool {
    json::is_within(value, json::MAX_DEPTH - 1)
}

pub(super) fn too_deep() -> Unreadable {
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
        let step = Step::Index(index);
        match context.inside(step.clone(), |context| read(element, context)) {
            Ok(element) => found.push(element),
            Err(error) => context.notice(step, error.reason, true),
        }
    }
    Ok(found)
}

fn text<T: From<String>>(value: Value, _: &mut Context) -> Readable<T> {
    match value {
        Value::String(text) => Ok(text.into()),
        other => Err(expected("a string", &other)),
    }
}

fn integer(value: Value, _: &mut Context) -> Readable<i64> {
    // JavaScript knows no integers: 3.0 is one too.
    let exact = |number: f64| (number.fract() == 0.0 && number.abs() < 2f64.powi(53)).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(exact)).ok_or_else(|| expected("an integer", &value))
}

fn boolean(value: Value, _: &mut Context) -> Readable<bool> {
    value.as_bool().ok_or_else(|| expected("true or false", &value))
}

pub(super) fn expected(what: &str, found: &Value) -> Unreadable {
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
