//! Keys in an `extra` map that name a field of its record: the export would hold such a key twice, and reading it back loses one value.
//!
//! The names are those that the reader of the record takes.

use super::Extra;
use super::object::{ReadJson, known_keys};

/// A record that has an `extra` map, and perhaps records inside it.
pub(crate) trait Record: ReadJson {
    fn extra(&self) -> &Extra;

    /// Looks into the records inside this one.
    fn look_inside(&self, _look: &mut Look) {}

    /// What is wrong where an `extra` map, of the record itself or of one inside it, has a key that names a field.
    fn misplaced_key(&self) -> Option<String> {
        let mut look = Look::default();
        look.walk(self);
        look.found.map(|(path, key)| {
            format!(
                "{path}extra holds the key {key:?}, which is the name of a field there; set the field, or remove the key from extra"
            )
        })
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

    pub(super) fn at<R: Record>(&mut self, field: &str, record: &R) {
        self.at_each(field, [record], false);
    }

    pub(super) fn at_option<R: Record>(&mut self, field: &str, record: &Option<R>) {
        self.at_each(field, record, false);
    }

    pub(super) fn at_list<R: Record>(&mut self, field: &str, records: &[R]) {
        self.at_each(field, records, true);
    }
}

/// Implements [`Record`] for records, with the records inside them by name.
macro_rules! records {
    ($($record:ty $({ $($look:ident $field:ident: $name:literal),+ })?;)+) => {$(
        impl $crate::model::Record for $record {
            fn extra(&self) -> &$crate::model::Extra {
                &self.extra
            }

            $(fn look_inside(&self, look: &mut $crate::model::Look) {
                $(look.$look($name, &self.$field);)+
            })?
        }
    )+};
}

pub(super) use records;

/// Whether a key is the name of a field of a record.
fn is_field<R: ReadJson>(key: &str) -> bool {
    known_keys::<R>().iter().any(|known| known == key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PlannedChange, TaskCheckpoint, TaskState, ValidationCheck};

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
