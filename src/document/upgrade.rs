//! Older versions of the document's layout: step by step, each part of a document is brought to the next major version.
//!
//! A step is never edited once a release had it, as a migration is not. A new major version adds one, and a document of
//! the version before it to the tests.

use serde_json::{Map, Value};

use super::version::major;
use crate::model::{EntityKind, STATE_VERSION};

/// What a part of a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// What stands beside the lists: id, version, metadata and so on.
    Head,
    /// An entity.
    Entity(EntityKind),
}

/// The way from one major version to the next.
pub(super) struct Upgrade {
    /// The major version that it starts from.
    pub(super) from: u64,
    /// The version that it leads to.
    pub(super) to: &'static str,
    /// Brings a part to that version; leaves alone what it cannot read, for the reader to set aside.
    pub(super) apply: fn(Part, &mut Map<String, Value>),
}

/// The layout that is read, and the steps to it from older ones.
pub(super) struct Layout {
    /// Its version.
    pub(super) version: &'static str,
    /// The steps, from the oldest version on.
    pub(super) steps: &'static [Upgrade],
}

/// The layout of this release.
pub(super) const LAYOUT: Layout = Layout {
    version: STATE_VERSION,
    steps: &[
        // No release wrote a version below 1. A document that has one, by hand or of a build before the first release, has
        // the layout of version 1.
        Upgrade { from: 0, to: "1.0.0", apply: |_, _| {} },
    ],
};

impl Layout {
    /// The steps that a document of a version has to take; none where it is no version number.
    pub(super) fn steps_from(&self, version: &str) -> &'static [Upgrade] {
        let Some(found) = major(version) else { return &[] };
        let first = self.steps.iter().position(|step| step.from >= found).unwrap_or(self.steps.len());
        &self.steps[first..]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::document::reader::{self, Sink};
    use crate::error::{Error, Result};
    use crate::rows::Entity;

    #[test]
    fn a_step_leads_from_every_older_major_version_to_the_next() {
        let supported = major(STATE_VERSION).unwrap();
        assert_eq!(LAYOUT.steps.iter().map(|step| step.from).collect::<Vec<_>>(), (0..supported).collect::<Vec<_>>());
        for step in LAYOUT.steps {
            assert_eq!(major(step.to), Some(step.from + 1), "the step from {}", step.from);
        }
        assert_eq!(LAYOUT.steps.last().unwrap().to, STATE_VERSION);
    }

    /// Two steps: in version 1 tasks got a status, in version 2 titles are in capitals and the head names its origin.
    const TEST_LAYOUT: Layout = Layout {
        version: "2.0.0",
        steps: &[
            Upgrade {
                from: 0,
                to: "1.0.0",
                apply: |part, members| {
                    if part == Part::Entity(EntityKind::Task) {
                        members.insert("status".into(), json!("paused"));
                        let order = members["description"].as_str().unwrap_or_default().to_owned() + "1";
                        members.insert("description".into(), order.into());
                    }
                },
            },
            Upgrade {
                from: 1,
                to: "2.0.0",
                apply: |part, members| match part {
                    Part::Entity(EntityKind::Task) => {
                        let order = members["description"].as_str().unwrap_or_default().to_owned() + "2";
                        members.insert("description".into(), order.into());
                    }
                    Part::Head => {
                        members.insert("id".into(), json!("from an older version"));
                    }
                    _ => {}
                },
            },
        ],
    };

    #[derive(Default)]
    struct Seen(Vec<String>);

    impl Sink for Seen {
        fn record<E: Entity>(&mut self, entity: E) -> Result<()> {
            let entity = serde_json::to_value(entity).unwrap();
            let text = |key: &str| entity[key].as_str().unwrap().to_owned();
            self.0.push(format!("{} {} {}", text("id"), text("status"), text("description")));
            Ok(())
        }

        fn set_aside(&mut self, path: &str, _: &str, content: &str) -> Result<()> {
            self.0.push(format!("{path} set aside: {content}"));
            Ok(())
        }
    }

    fn read(version: &str) -> Result<(String, String, Vec<String>)> {
        let document = format!(
            r#"{{"id": "state-1", {version} "tasks": [
                {{"id": "T-1", "title": "t", "description": "", "status": "pending", "priority": "low", "createdAt": ""}},
                {{"id": "T-2", "title": 7, "description": ""}}, 7], "metadata": {{}}}}"#,
        );
        let mut seen = Seen::default();
        let document = reader::read_as(&TEST_LAYOUT, document.as_bytes(), "test", u64::MAX, "", &mut seen)?;
        Ok((document.head.id, document.head.version, seen.0))
    }

    #[test]
    fn older_documents_take_every_step_from_theirs_on_in_order() {
        let rest = [
            r#"$.tasks[1] set aside: {"id": "T-2", "title": 7, "description": ""}"#.to_owned(),
            "$.tasks[2] set aside: 7".into(),
        ];
        let with = |task: &str| [vec![task.to_owned()], rest.to_vec()].concat();
        let old = "from an older version".to_owned();
        for (version, expected) in [
            (r#""version": "0.3.1","#, (old.clone(), "2.0.0".to_owned(), with("T-1 paused 12"))),
            (r#""version": "1.7.0-rc.1","#, (old, "2.0.0".into(), with("T-1 pending 2"))),
            (r#""version": "2.5.0","#, ("state-1".into(), "2.5.0".into(), with("T-1 pending "))),
            (r#""version": "first","#, ("state-1".into(), "first".into(), with("T-1 pending "))),
        ] {
            assert_eq!(read(version).unwrap(), expected, "{version}");
        }
        assert!(matches!(read(r#""version": "3.0.0","#), Err(Error::DocumentTooNew { supported: "2.0.0", .. })));
    }

    #[test]
    fn an_older_version_has_to_stand_before_what_it_changes() {
        let late = r#"{"tasks": [], "version": "1.0.0"}"#;
        let result = reader::read_as(&TEST_LAYOUT, late.as_bytes(), "test", u64::MAX, "", &mut Seen::default());
        assert!(matches!(result.map(drop), Err(Error::Document { line: 1, .. })));
        let late = r#"{"tasks": [], "version": "2.0.0"}"#;
        assert!(reader::read_as(&TEST_LAYOUT, late.as_bytes(), "test", u64::MAX, "", &mut Seen::default()).is_ok());
    }
}
