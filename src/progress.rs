use std::fmt;
use std::sync::Arc;

/// How far a long operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// How much of it, in the unit of the stage.
    pub done: u64,
    /// How much there is; `None` where that is not known.
    pub total: Option<u64>,
}

/// What a long operation is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Copying a database; in bytes.
    Copying,
    /// Checking a database; in steps.
    Verifying,
    /// Running migrations; in migrations.
    Migrating,
    /// Writing a backup into the live database; in bytes.
    Restoring,
    /// Reading a document; in bytes.
    Importing,
    /// Writing a document; in entities.
    Exporting,
}

/// Who is told how far a long operation is; nobody unless an option says otherwise.
///
/// Called on the thread that works, several times a second at most for a document, once for each few megabytes of a
/// database. It should return at once.
#[derive(Clone, Default)]
pub struct ProgressCallback(Option<Arc<dyn Fn(Progress) + Send + Sync>>);

impl ProgressCallback {
    /// Tells `report`.
    pub fn new(report: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(report)))
    }

    pub(crate) fn report(&self, stage: Stage, done: u64, total: Option<u64>) {
        if let Some(report) = &self.0 {
            report(Progress { stage, done, total });
        }
    }
}

impl fmt::Debug for ProgressCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "ProgressCallback" } else { "no ProgressCallback" })
    }
}
