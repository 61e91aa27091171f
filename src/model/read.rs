//! serde's `Deserialize`, by the one reader of an entity's members that serves documents and `from_json`, too.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::object::{Context, Notice, ReadJson, read};
use super::{
    AgentActivity, AgentState, BackedUpFile, BuildState, ConversationState, GitState, OrchestratorMetadata,
    OrchestratorState, PersistedMessage, PlannedChange, ProjectState, RollbackPlan, SelfImprovementBackup,
    SelfImprovementState, SelfImprovementTask, SlackContext, TaskCheckpoint, TaskProgress, TaskState, ValidationCheck,
};
use crate::json::{Path, deserialize};

/// Reads a value of which nothing may be quarantined.
pub(crate) fn complete<T: ReadJson>(value: Value, mut context: Context) -> Result<T, String> {
    let found = read(value, &mut context).map_err(|unreadable| unreadable.reason)?;
    match context.notices.into_iter().find(|notice| notice.set_aside) {
        Some(Notice { steps, message, .. }) => Err(format!("{}: {message}", Path(steps))),
        None => Ok(found),
    }
}

macro_rules! deserialize {
    ($($of:ty),+ $(,)?) => {$(
        impl<'de> Deserialize<'de> for $of {
            /// Reads it as a strict import does, but that missing and null arrays are empty.
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                complete(deserialize(deserializer)?, Context::default()).map_err(serde::de::Error::custom)
            }
        }
    )+};
}

deserialize! {
    AgentActivity, AgentState, BackedUpFile, BuildState, ConversationState, GitState, OrchestratorMetadata,
    OrchestratorState, PersistedMessage, PlannedChange, ProjectState, RollbackPlan, SelfImprovementBackup,
    SelfImprovementState, SelfImprovementTask, SlackContext, TaskCheckpoint, TaskProgress, TaskState, ValidationCheck,
}
