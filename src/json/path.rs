//! Where a value stands in a JSON text: the steps that lead to it.

use std::borrow::Cow;
use std::fmt;

/// A step from a value to one inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// The steps from the document to a value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Path(pub(crate) Vec<Step>);

impl Path {
    /// The path to a top-level member.
    pub(crate) fn member(key: &str) -> Self {
        Self(vec![Step::Key(key.to_owned())])
    }

    /// The path to something inside the value at this one.
    pub(crate) fn join(&self, steps: &[Step]) -> Self {
        Self(self.0.iter().chain(steps).cloned().collect())
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        self.join(&[Step::Index(index)])
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("$")?;
        for step in &self.0 {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if is_identifier(key) => write!(f, ".{}", shortened(key))?,
                Step::Key(key) => write!(f, "['{}']", shortened(key).escape_debug())?,
            }
        }
        Ok(())
    }
}

/// A name as far as it is told: a document may have names of any length.
pub(crate) fn shortened(name: &str) -> Cow<'_, str> {
    const MOST: usize = 200;
    match name.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &name[..end]).into(),
        None => name.into(),
    }
}

fn is_identifier(key: &str) -> bool {
    !key.starts_with(|c: char| c.is_ascii_digit())
        && !key.is_empty()
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
