use serde::{Deserialize, Serialize};

use super::open_enum::open_enum;

open_enum! {
    /// Where a notification goes.
    NotificationType { Log = "log", Slack = "slack" }
}

/// What to do after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResumeInstructions {
    /// What to take up, in order: `task:<id>`.
    pub resume_order: Vec<String>,
    /// Conversations in which something happened within the last hour.
    pub conversations_to_resume: Vec<ConversationResume>,
    /// Tasks that were in progress or paused.
    pub tasks_to_resume: Vec<TaskResume>,
    /// Whom to tell.
    pub notifications: Vec<ResumeNotification>,
}

/// A conversation to take up again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConversationResume {
    /// The conversation.
    pub id: String,
    /// What to say in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_message: Option<String>,
}

/// A task to take up again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskResume {
    /// The task.
    pub id: String,
    /// Whether it has a checkpoint to go on from.
    pub resume_from_checkpoint: bool,
}

/// A message about the restart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResumeNotification {
    /// Where it goes.
    #[serde(rename = "type")]
    pub notification_type: NotificationType,
    /// What it says.
    pub message: String,
}
