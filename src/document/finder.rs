//! Finding a value again in a document's text, by the steps that lead to it or by its offset.

use std::collections::HashMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::json::Step;

/// Finds values inside a JSON text again, reading each list and object around them once.
pub(super) struct Finder<'t> {
    text: &'t str,
    /// What stands in a list or object, by where that begins.
    contents: HashMap<usize, Contents<'t>>,
}

/// The elements of a list or the members of an object, in the order of the text.
#[derive(Default)]
struct Contents<'t> {
    values: Vec<(Step, &'t str)>,
    /// Places of the members; the last one of a name counts.
    members: HashMap<String, usize>,
}

impl<'t> Finder<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, contents: HashMap::new() }
    }

    /// The text of the value that these steps lead to.
    pub(super) fn text_at(&mut self, steps: &[Step]) -> Option<&'t str> {
        steps.iter().try_fold(self.text, |text, step| {
            let contents = self.contents(text);
            let place = match step {
                Step::Index(index) => *index,
                Step::Key(key) => *contents.members.get(key)?,
            };
            contents.values.get(place).map(|(_, value)| *value)
        })
    }

    /// The steps to the innermost value at an offset in the text, and that value's end.
    pub(super) fn steps_to(&mut self, offset: usize) -> (Vec<Step>, usize) {
        let wanted = address(self.text) + offset;
        let mut steps = Vec::new();
        let mut inner = self.text;
        loop {
            let values = &self.contents(inner).values;
            let before = values.partition_point(|(_, value)| address(value) <= wanted);
            match before.checked_sub(1).map(|place| &values[place]) {
                Some((step, value)) if wanted < address(value) + value.len() => {
                    steps.push(step.clone());
                    inner = value;
                }
                _ => return (steps, address(inner) + inner.len() - address(self.text)),
            }
        }
    }

    fn contents(&mut self, text: &'t str) -> &Contents<'t> {
        self.contents.entry(address(text)).or_insert_with(|| match text.as_bytes().first() {
            Some(b'[') => {
                let values: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
                let values = values.into_iter().enumerate().map(|(index, value)| (Step::Index(index), value.get()));
                Contents { values: values.collect(), members: HashMap::new() }
            }
            Some(b'{') => {
                let Members(members) = serde_json::from_str(text).unwrap_or_default();
                let places = members.iter().enumerate().map(|(place, (key, _))| (key.clone(), place)).collect();
                let values = members.into_iter().map(|(key, value)| (Step::Key(key), value.get())).collect();
                Contents { values, members: places }
            }
            _ => Contents::default(),
        })
    }
}

fn address(text: &str) -> usize {
    text.as_ptr() as usize
}

/// The members of an object in the order of the text, also those of the same name.
#[derive(Default)]
struct Members<'t>(Vec<(String, &'t RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = members.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Members(pairs))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::json::Path;

    #[test]
    fn finds_a_value_by_its_steps_and_by_its_offset() {
        let text = r#"{"a": [1, {"b c": "x"}], "": null}"#;
        let steps = [Step::Key("a".into()), Step::Index(1), Step::Key("b c".into())];
        let mut finder = Finder::new(text);
        assert_eq!(finder.text_at(&steps), Some("\"x\""));
        let at = text.find("\"x\"").unwrap();
        assert_eq!(finder.steps_to(at + 1), (steps.to_vec(), at + 3));
        assert_eq!(finder.steps_to(1), (Vec::new(), text.len()), "a key is of its object");
        assert_eq!(Path::member("tasks").index(0).join(&steps).to_string(), "$.tasks[0].a[1]['b c']");
        assert_eq!(finder.text_at(&[Step::Key("gone".into())]), None);
        let mut finder = Finder::new(r#"{"a": [1], "a": [2, 3]}"#);
        assert_eq!(finder.text_at(&[Step::Key("a".into()), Step::Index(1)]), Some("3"), "the last one counts");
        assert_eq!(finder.steps_to(7).0, [Step::Key("a".into()), Step::Index(0)]);
    }
}
