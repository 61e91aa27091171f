//! Objects that JavaScript changed after it handed them over: what differs in them is written, and nothing else, so that what
//! other writers changed meanwhile stays.

use std::collections::HashMap;
use std::ops::Range;

use agentmux_state::{
    AgentState, Batch, ConversationState, Error, ProjectState, Result, SelfImprovementState, StateStore, TaskState,
};
use napi_derive::napi;
use serde::Serialize;
use serde_json::{Map, Value};
use similar::{Algorithm, DiffOp, capture_diff_slices};

use crate::error::{invalid, to_failure};

/// An object that has changed.
#[napi(object)]
pub struct LiveChange {
    /// `conversation`, `task`, `agent`, `project` or `selfImprovement`.
    pub kind: String,
    /// As it was when it was looked at last, as JSON.
    pub before: String,
    /// As it is now, as JSON.
    pub now: String,
}

/// What is to become of an entity.
struct Edit {
    kind: Kind,
    id: String,
    before: Map<String, Value>,
    now: Map<String, Value>,
}

#[derive(Clone, Copy)]
enum Kind {
    Conversation,
    Task,
    Agent,
    Project,
    SelfImprovement,
}

/// Writes changes in one transaction. For each, an empty text; `gone` where the entity is not there any more; or why it could
/// not be written, as the text of an error has it.
pub(crate) fn write(store: &StateStore, changes: &[LiveChange]) -> Result<Vec<String>> {
    let edits: Vec<Result<Edit>> = changes.iter().map(Edit::parse).collect();
    let write_all = |edits: &[&Edit]| {
        store.batch(|batch| edits.iter().map(|edit| edit.write(batch)).collect::<Result<Vec<bool>>>())
    };
    let readable: Vec<&Edit> = edits.iter().filter_map(|edit| edit.as_ref().ok()).collect();
    let all = if readable.is_empty() { Ok(Vec::new()) } else { write_all(&readable) };
    let mut written = match all {
        Ok(written) => written.into_iter().map(Ok).collect::<Vec<Result<bool>>>(),
        // One of them; the others are not to suffer from it.
        Err(error) if is_of_one(&error) => {
            let each = |edit: &&Edit| match write_all(&[edit]) {
                Ok(written) => Ok(written.first().copied().unwrap_or(false)),
                Err(error) => Err(error),
            };
            readable.iter().map(each).collect()
        }
        Err(error) => return Err(error),
    }
    .into_iter();
    let mut outcomes = Vec::with_capacity(edits.len());
    for edit in edits {
        let outcome = edit.and_then(|_| written.next().unwrap_or(Ok(false)));
        outcomes.push(match outcome {
            Ok(true) => String::new(),
            Ok(false) => "gone".to_owned(),
            Err(error) if is_of_one(&error) => to_failure(&error),
            Err(error) => return Err(error),
        });
    }
    Ok(outcomes)
}

/// Whether an error is about one entity, so that others can be written: its values, or an index of a person's that refuses them.
fn is_of_one(error: &Error) -> bool {
    matches!(error, Error::InvalidValue { .. } | Error::OwnObject { .. })
}

impl Edit {
    fn parse(change: &LiveChange) -> Result<Self> {
        let kind = match change.kind.as_str() {
            "conversation" => Kind::Conversation,
            "task" => Kind::Task,
            "agent" => Kind::Agent,
            "project" => Kind::Project,
            _ => Kind::SelfImprovement,
        };
        let (now, id) = kind.parse(&change.now)?;
        // Nothing is known of what was before where it cannot be read: then all of it counts as changed.
        let before = kind.parse(&change.before).map(|(before, _)| before).unwrap_or_default();
        Ok(Self { kind, id, before, now })
    }

    /// Writes what differs; whether the entity is there.
    fn write(&self, batch: &Batch<'_>) -> Result<bool> {
        let current = match self.kind {
            Kind::Conversation => batch.conversation(&self.id)?.map(|it| members(&it)),
            Kind::Task => batch.task(&self.id)?.map(|it| members(&it)),
            Kind::Agent => batch.agent(&self.id)?.map(|it| members(&it)),
            Kind::Project => batch.project(&self.id)?.map(|it| members(&it)),
            Kind::SelfImprovement => batch.self_improvement()?.map(|it| members(&it)),
        };
        let Some(current) = current.transpose()? else { return Ok(false) };
        let merged = self.merged(current.clone());
        if merged == current {
            return Ok(true);
        }
        let text = serde_json::to_string(&merged).map_err(|error| invalid("the change", &error))?;
        match self.kind {
            Kind::Conversation => batch.update_conversation(&ConversationState::from_json(&text)?)?,
            Kind::Task => batch.update_task(&TaskState::from_json(&text)?)?,
            Kind::Agent => batch.update_agent(&AgentState::from_json(&text)?)?,
            Kind::Project => batch.update_project(&ProjectState::from_json(&text)?)?,
            Kind::SelfImprovement => batch.update_self_improvement(&SelfImprovementState::from_json(&text)?)?,
        }
        Ok(true)
    }

    /// The present members with those that differ between `before` and `now`.
    fn merged(&self, mut current: Map<String, Value>) -> Map<String, Value> {
        for (key, value) in &self.now {
            let before = self.before.get(key);
            if before == Some(value) {
                continue;
            }
            let messages = match (key.as_str(), before, current.get(key)) {
                ("recentMessages", Some(Value::Array(before)), Some(Value::Array(there))) => {
                    value.as_array().map(|now| merged_messages(before, now, there))
                }
                _ => None,
            };
            current.insert(key.clone(), messages.map_or_else(|| value.clone(), Value::Array));
        }
        for key in self.before.keys().filter(|key| !self.now.contains_key(*key)) {
            current.shift_remove(key);
        }
        current
    }
}

impl Kind {
    /// The members of an entity, and its key.
    fn parse(self, text: &str) -> Result<(Map<String, Value>, String)> {
        Ok(match self {
            Self::Conversation => ConversationState::from_json(text).and_then(|it| Ok((members(&it)?, it.id)))?,
            Self::Task => TaskState::from_json(text).and_then(|it| Ok((members(&it)?, it.id)))?,
            Self::Agent => AgentState::from_json(text).and_then(|it| Ok((members(&it)?, it.session_name)))?,
            Self::Project => ProjectState::from_json(text).and_then(|it| Ok((members(&it)?, it.id)))?,
            Self::SelfImprovement => {
                SelfImprovementState::from_json(text).and_then(|it| Ok((members(&it)?, String::new())))?
            }
        })
    }
}

fn members(entity: &impl Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(entity) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Ok(Map::new()),
        Err(error) => Err(invalid("the entity", &error)),
    }
}

/// Messages that result where others have changed those of `before` to `there`, and the caller has changed them to `now`. No
/// message that others added is dropped, wherever it stands: the caller, whose list lacks it, cannot have meant it.
fn merged_messages(before: &[Value], now: &[Value], there: &[Value]) -> Vec<Value> {
    let (kept_here, kept_there) = (kept(before, now), kept(before, there));
    let count = |list: &[Value], message: &Value| list.iter().filter(|it| *it == message).count();
    let added = |list: &[Value], kept: &[Option<usize>], range: Range<usize>, other: &[Value]| -> Vec<Value> {
        let own = range.filter(|index| !kept.contains(&Some(*index))).filter_map(|index| list.get(index));
        // One that was only moved, and that the other side has removed, is not new.
        let is_new = |message: &&Value| other.contains(message) || count(list, message) > count(before, message);
        own.filter(is_new).cloned().collect()
    };
    let added_here = |range| added(now, &kept_here, range, there);
    let added_there = |range| added(there, &kept_there, range, now);
    let mut merged = Vec::new();
    let (mut next, mut here, mut elsewhere) = (0, 0, 0);
    loop {
        // Up to the next message that both have kept.
        let until = (next..before.len()).find_map(|index| Some((index, kept_here[index]?, kept_there[index]?)));
        let (end, here_end, there_end) = until.unwrap_or((before.len(), now.len(), there.len()));
        // What the caller edited or dropped, and others have kept: what the caller has instead goes there. What the caller only
        // added comes after what others added.
        let gone = next..end;
        let place = match gone.clone().find_map(|index| kept_there[index].filter(|_| kept_here[index].is_none())) {
            Some(place) => place,
            None if kept_here[gone].contains(&None) => elsewhere,
            None => there_end,
        };
        let others = united(&added_there(elsewhere..place), &added_here(here..here_end));
        merged.extend(united(&others, &added_there(place..there_end)));
        if until.is_none() {
            return merged;
        }
        merged.push(before[end].clone());
        (next, here, elsewhere) = (end + 1, here_end + 1, there_end + 1);
    }
}

/// Where the messages of one list are in another one; nothing for those that are not there any more.
fn kept(before: &[Value], now: &[Value]) -> Vec<Option<usize>> {
    let mut kept = vec![None; before.len()];
    for op in compared(before, now) {
        if let DiffOp::Equal { old_index, new_index, len } = op {
            for offset in 0..len {
                kept[old_index + offset] = Some(new_index + offset);
            }
        }
    }
    kept
}

/// The messages of both lists, those once that are in both.
fn united(first: &[Value], second: &[Value]) -> Vec<Value> {
    let parts = compared(first, second).into_iter().flat_map(|op| match op {
        DiffOp::Equal { old_index, len, .. } => [&first[old_index..old_index + len], &[]],
        op => [&first[op.old_range()], &second[op.new_range()]],
    });
    parts.flatten().cloned().collect()
}

fn compared(one: &[Value], other: &[Value]) -> Vec<DiffOp> {
    let mut numbers = HashMap::new();
    let mut numbered = |list: &'_ [Value]| -> Vec<usize> {
        list.iter()
            .map(|message| {
                let next = numbers.len();
                *numbers.entry(message.clone()).or_insert(next)
            })
            .collect()
    };
    let (one, other) = (numbered(one), numbered(other));
    capture_diff_slices(Algorithm::Myers, &one, &other)
}
