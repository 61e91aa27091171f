use serde::Serialize;

use super::extra::records;
use super::object::{Object, ReadJson, Readable, read};
use super::open_enum::open_enum;
use super::{Extra, Timestamp};

open_enum! {
    /// What an agent is at.
    AgentStatus { Inactive = "inactive", Active = "active", Busy = "busy", Error = "error" }
}

/// An agent that the orchestrator runs.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_task_id: Option<String>,
    /// Where it works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_project_path: Option<String>,
    /// What it knows, in short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_summary: Option<String>,
    /// The last thing that it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_activity: Option<AgentActivity>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl AgentState {
    /// An inactive agent, whose own id is the name of its session.
    pub fn new(session_name: impl Into<String>, role: impl Into<String>) -> Self {
        let session_name = session_name.into();
        Self { agent_id: session_name.clone(), session_name, role: role.into(), ..Self::default() }
    }
}

impl ReadJson for AgentState {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            session_name: object.required("sessionName")?,
            agent_id: object.required("agentId")?,
            role: object.required("role")?,
            status: object.required("status")?,
            current_task_id: object.optional("currentTaskId"),
            current_project_path: object.optional("currentProjectPath"),
            context_summary: object.optional("contextSummary"),
            last_activity: object.optional_with("lastActivity", read),
            extra: object.rest(),
        })
    }
}

/// Something that an agent did.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentActivity {
    /// Its kind, for instance `code_edit`.
    #[serde(rename = "type")]
    pub activity_type: String,
    /// When it was done.
    pub timestamp: Timestamp,
    /// What it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ReadJson for AgentActivity {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            activity_type: object.required("type")?,
            timestamp: object.required_time("timestamp")?,
            description: object.optional("description"),
            extra: object.rest(),
        })
    }
}

records! {
    AgentState { at_option last_activity: "lastActivity" };
    AgentActivity;
}
