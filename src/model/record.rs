use serde::Serialize;

use super::{CheckpointReason, Timestamp};

/// A start of the orchestrator, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Its number; rises with each start.
    pub run_id: i64,
    /// Its machine.
    pub hostname: String,
    /// Its process.
    pub pid: i64,
    /// When it started.
    pub started_at: Timestamp,
    /// How often the orchestrator had been restarted by then; 0 in the first run.
    pub restart_count: i64,
    /// When it ended; `None` while it runs, and after a crash.
    pub ended_at: Option<Timestamp>,
    /// How it ended; `None` while it runs, and after a crash that no later start has noticed yet.
    pub outcome: Option<RunOutcome>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// It was shut down.
    Shutdown,
    /// It ended without a word; the next start noticed.
    Crashed,
    /// A second service in its process went on in its place.
    TakenOver,
}

impl RunOutcome {
    /// The text in the table `runs`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Crashed => "crashed",
            Self::TakenOver => "taken_over",
        }
    }

    /// The outcome that a text in the table `runs` stands for.
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "shutdown" => Self::Shutdown,
            "taken_over" => Self::TakenOver,
            _ => Self::Crashed,
        }
    }
}

/// A checkpoint: a marker that says when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// When it was made.
    pub checkpointed_at: Timestamp,
    /// Why.
    pub reason: CheckpointReason,
}

/// Something that stood in a document and could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SetAsideRecord {
    /// When it was set aside.
    pub set_aside_at: Timestamp,
    /// The file it came from.
    pub source: String,
    /// Where it stood in the document, for instance `$.tasks[3]`.
    pub path: String,
    /// Why it could not be read.
    pub reason: String,
    /// Its JSON text, as it stood in the file.
    pub content: String,
}
