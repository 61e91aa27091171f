use serde::{Deserialize, Serialize};

use super::open_enum::open_enum;
use super::{AgentState, ConversationState, Extra, ProjectState, SelfImprovementState, TaskState, Timestamp};

open_enum! {
    /// Why a checkpoint was made.
    CheckpointReason {
        Scheduled = "scheduled", BeforeRestart = "before_restart", TaskCompleted = "task_completed",
        UserRequest = "user_request", SelfImprovement = "self_improvement", ErrorRecovery = "error_recovery",
    }
}

open_enum! {
    /// What the orchestrator is doing as a whole.
    OrchestratorMode {
        Normal = "normal", Onboarding = "onboarding", OnboardingProvisioning = "onboarding-provisioning",
    }
}

/// The whole state: what `current-state.json` holds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrchestratorState {
    /// `state-<unix ms>`.
    pub id: String,
    /// Version of the document's layout, semver.
    pub version: String,
    /// When the last checkpoint was made.
    pub checkpointed_at: Timestamp,
    /// Why it was made.
    pub checkpoint_reason: CheckpointReason,
    /// What the orchestrator is doing. `None`, as in documents from before it existed, is normal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<OrchestratorMode>,
    /// Conversations.
    #[serde(default)]
    pub conversations: Vec<ConversationState>,
    /// Tasks.
    #[serde(default)]
    pub tasks: Vec<TaskState>,
    /// Agents.
    #[serde(default)]
    pub agents: Vec<AgentState>,
    /// Projects.
    #[serde(default)]
    pub projects: Vec<ProjectState>,
    /// The orchestrator's work on its own code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_improvement: Option<SelfImprovementState>,
    /// The run that wrote the state.
    #[serde(default)]
    pub metadata: OrchestratorMetadata,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The run of the orchestrator that wrote a state.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrchestratorMetadata {
    /// Version that the orchestrator gave itself.
    pub version: String,
    /// Its machine.
    pub hostname: String,
    /// Its process.
    pub pid: i64,
    /// When it started.
    pub started_at: Timestamp,
    /// Seconds from its start to the last checkpoint.
    pub uptime_seconds: i64,
    /// How often the orchestrator was restarted on this state; 0 in its first run.
    pub restart_count: i64,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}
