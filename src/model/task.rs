use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::extra::records;
use super::object::{Object, ReadJson, Readable, read};
use super::open_enum::open_enum;
use super::{Extra, Timestamp};

open_enum! {
    /// How a task stands.
    TaskStatus {
        Pending = "pending", InProgress = "in_progress", Blocked = "blocked", Paused = "paused", Completed = "completed",
    }
}

impl TaskStatus {
    /// Whether a task in this status is taken up again after a restart.
    pub fn is_resumable(&self) -> bool {
        matches!(self, Self::InProgress | Self::Paused)
    }
}

open_enum! {
    /// How urgent a task is.
    TaskPriority { Medium = "medium", Low = "low", High = "high", Critical = "critical" }
}

/// A piece of work that an agent does.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskState {
    /// Its key.
    pub id: String,
    /// What it is, in a line.
    pub title: String,
    /// What is to be done.
    pub description: String,
    /// How it stands.
    pub status: TaskStatus,
    /// How urgent it is.
    pub priority: TaskPriority,
    /// Session name of the agent that does it. The agent may be gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assigned_to: Option<String>,
    /// The team that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team_id: Option<String>,
    /// The project that it belongs to. The project may be gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// How far it is.
    pub progress: TaskProgress,
    /// Ids of the tasks that it waits for. They may be gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<Vec<String>>,
    /// Ids of the tasks that wait for it. They may be gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<String>>,
    /// When it was given.
    pub created_at: Timestamp,
    /// When work on it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When something last happened to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_activity_at: Option<Timestamp>,
    /// When it was completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// Where to go on after a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<TaskCheckpoint>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl TaskState {
    /// A pending task, created now.
    ///
    /// ```
    /// let task = agentmux_state::TaskState::new("T-1", "Fix the build");
    /// assert!(task.created_at.parse().is_some());
    /// ```
    pub fn new(id: impl Into<String>, title: impl Into<String>) -> Self {
        let now = Timestamp::now();
        Self {
            id: id.into(),
            title: title.into(),
            created_at: now.clone(),
            last_activity_at: Some(now),
            ..Self::default()
        }
    }
}

impl ReadJson for TaskState {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            id: object.required("id")?,
            title: object.required("title")?,
            description: object.required("description")?,
            status: object.required("status")?,
            priority: object.required("priority")?,
            assigned_to: object.optional("assignedTo"),
            team_id: object.optional("teamId"),
            project_id: object.optional("projectId"),
            progress: object.or_warn("progress", read, TaskProgress::default, "missing or null, read as zero"),
            blocked_by: object.optional_texts("blockedBy"),
            blocks: object.optional_texts("blocks"),
            created_at: object.required_time("createdAt")?,
            started_at: object.optional_time("startedAt"),
            last_activity_at: object.optional_time("lastActivityAt"),
            completed_at: object.optional_time("completedAt"),
            checkpoint: object.optional_with("checkpoint", read),
            extra: object.rest(),
        })
    }
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskProgress {
    /// 0 to 100, may have a fraction. Must be finite.
    #[serde(serialize_with = "as_javascript")]
    pub percent_complete: f64,
    /// What is being done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_step: Option<String>,
    /// What has been done, in order.
    pub completed_steps: Vec<String>,
    /// What is still to be done, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_steps: Option<Vec<String>>,
    /// What holds it up, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blockers: Option<Vec<String>>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ReadJson for TaskProgress {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            percent_complete: object.number("percentComplete"),
            current_step: object.optional("currentStep"),
            completed_steps: object.texts("completedSteps"),
            remaining_steps: object.optional_texts("remainingSteps"),
            blockers: object.optional_texts("blockers"),
            extra: object.rest(),
        })
    }
}

/// Where to go on with a task after a restart.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskCheckpoint {
    /// The step to go on with, from 0.
    pub step_index: i64,
    /// Whatever the agent needs to go on: any JSON object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work_data: Option<Map<String, Value>>,
    /// Files that had been changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified_files: Option<Vec<String>>,
    /// What the agent knew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_context: Option<String>,
    /// What was still to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_actions: Option<Vec<String>>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ReadJson for TaskCheckpoint {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            step_index: object.integer("stepIndex"),
            work_data: object.optional_map("workData"),
            modified_files: object.optional_texts("modifiedFiles"),
            agent_context: object.optional("agentContext"),
            pending_actions: object.optional_texts("pendingActions"),
            extra: object.rest(),
        })
    }
}

/// A whole number without a fraction, as JavaScript writes it, whatever serde format it goes to.
fn as_javascript<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() < EXACT {
        serializer.serialize_i64(*number as i64)
    } else {
        serializer.serialize_f64(*number)
    }
}

records! {
    TaskState { at progress: "progress", at_option checkpoint: "checkpoint" };
    TaskProgress;
    TaskCheckpoint;
}
