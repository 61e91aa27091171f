use serde::{Deserialize, Serialize};

use super::open_enum::open_enum;
use super::{Extra, Timestamp};

open_enum! {
    /// What an agent is at.
    AgentStatus { Inactive = "inactive", Active = "active", Busy = "busy", Error = "error" }
}

/// An agent that the orchestrator runs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentState {
    /// Its key: the name of its session.
    pub session_name: String,
    /// The agent's own id.
    pub agent_id: String,
    /// What it is for, for instance `developer`.
    pub role: String,
    /// What it is at.
    pub status: AgentStatus,
    /// The task that it works on. The task may be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_task_id: Option<String>,
    /// Where it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_project_path: Option<String>,
    /// What it knows, in short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_summary: Option<String>,
    /// The last thing that it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activity: Option<AgentActivity>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Something that an agent did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentActivity {
    /// Its kind, for instance `code_edit`.
    #[serde(rename = "type")]
    pub activity_type: String,
    /// When it was done.
    pub timestamp: Timestamp,
    /// What it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}
