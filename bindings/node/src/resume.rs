//! The part of a state that resume instructions need. A state from JavaScript may be of any size and half made up: only what
//! is asked for is read.

use agentmux_state::{
    ConversationState, OrchestratorMetadata, OrchestratorState, Result, SelfImprovementState, SelfImprovementStatus,
    SelfImprovementTask, TaskCheckpoint, TaskState,
};
use serde::Deserialize;

use crate::error::invalid;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Previous {
    tasks: Vec<Task>,
    conversations: Vec<Conversation>,
    restart_count: i64,
    self_improvement: Option<SelfImprovement>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Task {
    id: String,
    status: String,
    has_checkpoint: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conversation {
    id: String,
    last_activity_at: String,
}

#[derive(Deserialize)]
struct SelfImprovement {
    description: String,
    status: String,
}

pub(crate) fn parse(previous: &str) -> Result<OrchestratorState> {
    let previous: Previous = serde_json::from_str(previous).map_err(|error| invalid("the previous state", &error))?;
    let task = |Task { id, status, has_checkpoint }| TaskState {
        id,
        status: status.into(),
        checkpoint: has_checkpoint.then(TaskCheckpoint::default),
        ..TaskState::default()
    };
    let conversation = |Conversation { id, last_activity_at }| ConversationState {
        id,
        last_activity_at: last_activity_at.into(),
        ..ConversationState::default()
    };
    let self_improvement = |SelfImprovement { description, status }| SelfImprovementState {
        current_task: Some(SelfImprovementTask {
            description,
            status: SelfImprovementStatus::from(status),
            ..SelfImprovementTask::default()
        }),
        ..SelfImprovementState::default()
    };
    Ok(OrchestratorState {
        tasks: previous.tasks.into_iter().map(task).collect(),
        conversations: previous.conversations.into_iter().map(conversation).collect(),
        metadata: OrchestratorMetadata { restart_count: previous.restart_count, ..OrchestratorMetadata::default() },
        self_improvement: previous.self_improvement.map(self_improvement),
        ..OrchestratorState::default()
    })
}
