//! Where something stands in a document, and finding it again in the document's text.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::value::RawValue;

/// A step from a value to one inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The steps from the document to a value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Path(pub(super) Vec<Step>);

impl Path {
    /// The path to a top-level member.
    pub(super) fn member(key: &str) -> Self {
        Self(vec![Step::Key(key.to_owned())])
    }

    /// The path to something inside the value at this one.
    pub(super) fn join(&self, steps: &[Step]) -> Self {
        Self(self.0.iter().chain(steps).cloned().collect())
    }

    pub(super) fn index(&self, index: usize) -> Self {
        self.join(&[Step::Index(index)])
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("$")?;
        for step in &self.0 {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if is_identifier(key) => write!(f, ".{key}")?,
                Step::Key(key) => write!(f, "['{}']", key.escape_debug())?,
            }
        }
        Ok(())
    }
}

fn is_identifier(key: &str) -> bool {
    !key.starts_with(|c: char| c.is_ascii_digit())
        && !key.is_empty()
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The text of the value that these steps lead to from the value with this text.
pub(super) fn text_at<'t>(text: &'t str, steps: &[Step]) -> Option<&'t str> {
    steps.iter().try_fold(text, |text, step| match step {
        Step::Index(index) => Some(elements(text)?.get(*index)?.get()),
        Step::Key(key) => Some(members(text)?.get(key)?.get()),
    })
}

/// The steps from the value with this text to the innermost value at an offset in it, and that value's end.
pub(super) fn steps_to(text: &str, offset: usize) -> (Vec<Step>, usize) {
    let mut steps = Vec::new();
    let mut inner = text;
    while let Some((step, next)) = step_towards(inner, text.as_ptr() as usize + offset) {
        steps.push(step);
        inner = next;
    }
    (steps, inner.as_ptr() as usize + inner.len() - text.as_ptr() as usize)
}

fn step_towards(text: &str, address: usize) -> Option<(Step, &str)> {
    let holds = |value: &&RawValue| {
        let value = value.get();
        (value.as_ptr() as usize..value.as_ptr() as usize + value.len()).contains(&address)
    };
    if let Some(elements) = elements(text) {
        let (index, value) = elements.into_iter().enumerate().find(|(_, value)| holds(value))?;
        return Some((Step::Index(index), value.get()));
    }
    let (key, value) = members(text)?.into_iter().find(|(_, value)| holds(value))?;
    Some((Step::Key(key), value.get()))
}

fn elements(text: &str) -> Option<Vec<&RawValue>> {
    serde_json::from_str(text).ok()
}

fn members(text: &str) -> Option<BTreeMap<String, &RawValue>> {
    serde_json::from_str(text).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_value_by_its_steps_and_by_its_offset() {
        let text = r#"{"a": [1, {"b c": "x"}], "": null}"#;
        let steps = [Step::Key("a".into()), Step::Index(1), Step::Key("b c".into())];
        assert_eq!(text_at(text, &steps), Some("\"x\""));
        let at = text.find("\"x\"").unwrap();
        assert_eq!(steps_to(text, at + 1), (steps.to_vec(), at + 3));
        assert_eq!(Path::member("tasks").index(0).join(&steps).to_string(), "$.tasks[0].a[1]['b c']");
        assert_eq!(text_at(text, &[Step::Key("gone".into())]), None);
    }
}
