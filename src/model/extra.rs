//! Keys in an `extra` map that name a field of its record: the export would hold such a key twice, and reading it back loses one value.
//!
//! The names come from serde's derived code, which alone knows them: a key is unknown if reading a record puts it into
//! `extra`, whatever renames the field. (`serde_aux` lists the fields of a struct, but not of one with a flattened map.)

use std::cell::Cell;

use serde::Deserializer;
use serde::de::value::{Error as Refused, MapDeserializer, StrDeserializer};
use serde::de::{DeserializeOwned, Error as _, IntoDeserializer, Visitor};

use super::{
    AgentActivity, AgentState, BackedUpFile, BuildState, ConversationState, Extra, GitState, PersistedMessage,
    PlannedChange, ProjectState, RollbackPlan, SelfImprovementBackup, SelfImprovementState, SelfImprovementTask,
    SlackContext, TaskCheckpoint, TaskProgress, TaskState, ValidationCheck,
};
use crate::error::{Error, Result};

/// A record that has an `extra` map, and perhaps records inside it.
pub(crate) trait Record: DeserializeOwned {
    fn extra(&self) -> &Extra;

    /// Looks into the records inside this one.
    fn look_inside(&self, _look: &mut Look) {}

    /// Fails where an `extra` map, of the record itself or of one inside it, has a key that names a field. `name` is called to name
    /// the record.
    fn require_unknown_keys(&self, name: impl FnOnce() -> String) -> Result<()> {
        let mut look = Look::default();
        look.walk(self);
        match look.found {
            None => Ok(()),
            Some((path, key)) => {
                let detail = format!(
                    "{path}extra holds the key {key:?}, which is the name of a field there; set the field, or remove the key from extra"
                );
                Err(Error::InvalidValue { record: name(), detail })
            }
        }
    }
}

/// A walk through a record and the records inside it.
#[derive(Default)]
pub(crate) struct Look {
    /// The path of the first record with a misplaced key, and the key.
    found: Option<(String, String)>,
}

impl Look {
    fn walk<R: Record>(&mut self, record: &R) {
        match record.extra().keys().find(|key| is_field::<R>(key)) {
            Some(key) => self.found = Some((String::new(), key.clone())),
            None => record.look_inside(self),
        }
    }

    fn at_each<'r, R: Record + 'r>(&mut self, field: &str, records: impl IntoIterator<Item = &'r R>, is_list: bool) {
        for (index, record) in records.into_iter().enumerate() {
            if self.found.is_some() {
                return;
            }
            self.walk(record);
            if let Some((path, _)) = &mut self.found {
                let index = if is_list { format!("[{index}]") } else { String::new() };
                *path = format!("{field}{index}.{path}");
            }
        }
    }

    fn at<R: Record>(&mut self, field: &str, record: &R) {
        self.at_each(field, [record], false);
    }

    fn at_option<R: Record>(&mut self, field: &str, record: &Option<R>) {
        self.at_each(field, record, false);
    }

    fn at_list<R: Record>(&mut self, field: &str, records: &[R]) {
        self.at_each(field, records, true);
    }
}

macro_rules! records {
    ($($record:ty $({ $($look:ident $field:ident: $name:literal),+ })?;)+) => {$(
        impl Record for $record {
            fn extra(&self) -> &Extra {
                &self.extra
            }

            $(fn look_inside(&self, look: &mut Look) {
                $(look.$look($name, &self.$field);)+
            })?
        }
    )+};
}

records! {
    ConversationState { at_option slack_context: "slackContext", at_list recent_messages: "recentMessages" };
    PersistedMessage;
    SlackContext;
    TaskState { at progress: "progress", at_option checkpoint: "checkpoint" };
    TaskProgress;
    TaskCheckpoint;
    AgentState { at_option last_activity: "lastActivity" };
    AgentActivity;
    ProjectState { at_option git_state: "gitState", at_option build_state: "buildState" };
    GitState;
    BuildState;
    SelfImprovementState {
        at_option current_task: "currentTask", at_option backup: "backup",
        at_list validation_checks: "validationChecks", at_option rollback_plan: "rollbackPlan"
    };
    SelfImprovementTask { at_list planned_changes: "plannedChanges" };
    PlannedChange;
    SelfImprovementBackup { at_list files: "files" };
    BackedUpFile;
    ValidationCheck;
    RollbackPlan;
}

/// Whether a key is the name of a field of a record.
fn is_field<R: DeserializeOwned>(key: &str) -> bool {
    let asked = Cell::new(false);
    // What comes of it is of no interest: other fields are missing.
    let _ = R::deserialize(MapDeserializer::new([(Key(key), Probe { asked: &asked })].into_iter()));
    asked.get()
}

struct Key<'k>(&'k str);

impl<'k> IntoDeserializer<'k, Refused> for Key<'k> {
    type Deserializer = StrDeserializer<'k, Refused>;

    fn into_deserializer(self) -> Self::Deserializer {
        self.0.into_deserializer()
    }
}

/// A value that notes whether it is asked for as the value of a field. What goes into a flattened map may be of any type.
struct Probe<'p> {
    asked: &'p Cell<bool>,
}

impl<'de> IntoDeserializer<'de, Refused> for Probe<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! as_field {
    ($($method:ident($($parameter:ident: $of:ty),*);)+) => {$(
        fn $method<V: Visitor<'de>>(self, $($parameter: $of,)* _: V) -> std::result::Result<V::Value, Refused> {
            self.asked.set(true);
            Err(Refused::custom("a field"))
        }
    )+};
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    as_field! {
        deserialize_bool();
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_str();
        deserialize_string();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_option();
        deserialize_unit();
        deserialize_unit_struct(_name: &'static str);
        deserialize_newtype_struct(_name: &'static str);
        deserialize_seq();
        deserialize_tuple(_length: usize);
        deserialize_tuple_struct(_name: &'static str, _length: usize);
        deserialize_map();
        deserialize_struct(_name: &'static str, _fields: &'static [&'static str]);
        deserialize_enum(_name: &'static str, _variants: &'static [&'static str]);
        deserialize_identifier();
        deserialize_ignored_any();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_names_in_the_document_are_fields() {
        for key in [
            "id",
            "title",
            "description",
            "status",
            "priority",
            "assignedTo",
            "teamId",
            "projectId",
            "progress",
            "blockedBy",
            "blocks",
            "createdAt",
            "startedAt",
            "lastActivityAt",
            "completedAt",
            "checkpoint",
        ] {
            assert!(is_field::<TaskState>(key), "{key}");
        }
        for key in ["", "extra", "assigned_to", "percentComplete", "Title", "title "] {
            assert!(!is_field::<TaskState>(key), "{key}");
        }
        assert!(is_field::<PlannedChange>("type") && !is_field::<PlannedChange>("changeType"));
        assert!(is_field::<ValidationCheck>("passed") && is_field::<TaskCheckpoint>("workData"));
    }
}
