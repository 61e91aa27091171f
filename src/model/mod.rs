//! The types of the state: one set for the library and for the JSON document.
//!
//! Field names are the document's in snake_case; serde writes them in camelCase and in the document's order. Nothing
//! that a document holds is dropped: enumerations keep values that this release does not know, [`Timestamp`] keeps its
//! text, and each `extra` keeps the keys that this release does not know. Numbers are JavaScript's: `50.0` is `50`, and
//! beside doubles only the integers of 64 bits are exact.

mod agent;
mod change;
mod conversation;
mod extra;
mod kind;
mod object;
mod open_enum;
mod project;
mod read;
mod record;
mod resume;
mod self_improvement;
mod state;
mod task;
mod timestamp;

pub use agent::{AgentActivity, AgentState, AgentStatus};
pub use change::{ChangeOperation, ChangeType, StateChange, StateDiff};
pub use conversation::{ConversationSource, ConversationState, MessageRole, PersistedMessage, SlackContext};
pub(crate) use extra::{Look, Record};
pub use kind::{Counts, EntityKind};
pub(crate) use object::{Context, MOST_NOTICES, Notice, Object, ReadJson, Readable, is_shallow, read, too_deep};
pub use project::{BuildState, BuildStatus, GitState, ProjectState, ProjectStatus};
pub(crate) use read::complete;
pub use record::{Checkpoint, Run, RunOutcome, SetAsideRecord};
pub use resume::{ConversationResume, NotificationType, ResumeInstructions, ResumeNotification, TaskResume};
pub use self_improvement::{
    BackedUpFile, ChangeRisk, FileChangeType, PlannedChange, RollbackPlan, SelfImprovementBackup, SelfImprovementState,
    SelfImprovementStatus, SelfImprovementTask, ValidationCheck, ValidationCheckType,
};
pub(crate) use state::Head;
pub use state::{CheckpointReason, OrchestratorMetadata, OrchestratorMode, OrchestratorState};
pub use task::{TaskCheckpoint, TaskPriority, TaskProgress, TaskState, TaskStatus};
pub use timestamp::Timestamp;

/// Keys of a JSON object that this release does not know, in their order, with their values.
///
/// They are written out again after the known ones. A key that names a field of the type does not belong here: an update with one
/// fails with [`Error::InvalidValue`](crate::Error::InvalidValue).
pub type Extra = serde_json::Map<String, serde_json::Value>;

/// Version of the state document's layout that this release writes.
pub const STATE_VERSION: &str = "1.0.0";

/// How many messages of a conversation an update keeps, unless an option says otherwise: the newest.
pub const MAX_PERSISTED_MESSAGES: usize = 50;
