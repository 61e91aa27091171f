//! Resume instructions for a state from JavaScript. It may be of any size and half made up: only what is asked for is read.
//! Which conversations are recent is decided in `lib/`, by the rules and the clock of `Date`.

use agentmux_state::{
    ConversationState, OrchestratorMetadata, OrchestratorState, Result, ResumeInstructions, SelfImprovementState,
    SelfImprovementStatus, SelfImprovementTask, TaskCheckpoint, TaskState, resume_instructions,
};
use chrono::Utc;
use serde::Deserialize;

use crate::error::invalid;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Previous {
    tasks: Vec<Task>,
    recent_conversations: Vec<String>,
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
struct SelfImprovement {
    description: String,
    status: String,
}

pub(crate) fn instructions(previous: &str) -> Result<ResumeInstructions> {
    let now = Utc::now();
    let previous: Previous = serde_json::from_str(previous).map_err(|error| invalid("the previous state", &error))?;
    let task = |Task { id, status, has_checkpoint }| TaskState {
        id,
        status: status.into(),
        checkpoint: has_checkpoint.then(TaskCheckpoint::default),
        ..TaskState::default()
    };
    let conversation = |id| ConversationState { id, last_activity_at: now.into(), ..ConversationState::default() };
    let self_improvement = |SelfImprovement { description, status }| SelfImprovementState {
        current_task: Some(SelfImprovementTask {
            description,
            status: SelfImprovementStatus::from(status),
            ..SelfImprovementTask::default()
        }),
        ..SelfImprovementState::default()
    };
    let state = OrchestratorState {
        tasks: previous.tasks.into_iter().map(task).collect(),
        conversations: previous.recent_conversations.into_iter().map(conversation).collect(),
        metadata: OrchestratorMetadata { restart_count: previous.restart_count, ..OrchestratorMetadata::default() },
        self_improvement: previous.self_improvement.map(self_improvement),
        ..OrchestratorState::default()
    };
    Ok(resume_instructions(&state, now))
}
