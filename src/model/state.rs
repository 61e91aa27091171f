use serde::Serialize;

use super::object::{Object, ReadJson, Readable, read};
use super::open_enum::open_enum;
use super::{
    AgentState, ConversationState, Extra, ProjectState, STATE_VERSION, SelfImprovementState, TaskState, Timestamp,
};

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
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<OrchestratorMode>,
    /// Conversations.
    pub conversations: Vec<ConversationState>,
    /// Tasks.
    pub tasks: Vec<TaskState>,
    /// Agents.
    pub agents: Vec<AgentState>,
    /// Projects.
    pub projects: Vec<ProjectState>,
    /// The orchestrator's work on its own code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_improvement: Option<SelfImprovementState>,
    /// The run that wrote the state.
    pub metadata: OrchestratorMetadata,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl OrchestratorState {
    /// Reads what stands beside the entities: all keys of the head, of which none has to be there.
    ///
    /// `new_id` is the id of a document without one; `extra` are the keys that this release does not know.
    pub(crate) fn read_head(object: &mut Object<'_>, new_id: &str, extra: Extra) -> Self {
        Self {
            id: object.text_or("id", new_id),
            version: object.text_or("version", STATE_VERSION),
            checkpointed_at: object.text_or("checkpointedAt", ""),
            checkpoint_reason: object.text_or("checkpointReason", "scheduled"),
            mode: object.optional("mode"),
            metadata: object.or_warn("metadata", read, new_metadata, "missing or null, read as that of no run"),
            extra,
            ..Self::default()
        }
    }
}

/// What stands in a state beside its entities, in the order of the document.
pub(crate) struct Head<'s> {
    pub(crate) id: &'s str,
    pub(crate) version: &'s str,
    pub(crate) checkpointed_at: &'s Timestamp,
    pub(crate) checkpoint_reason: &'s CheckpointReason,
    pub(crate) mode: Option<&'s OrchestratorMode>,
    pub(crate) metadata: &'s OrchestratorMetadata,
    pub(crate) extra: &'s Extra,
}

impl OrchestratorState {
    /// What stands beside the entities.
    pub(crate) fn head(&self) -> Head<'_> {
        // Named one by one: a field that is added must be in the head, or belong to an entity.
        let Self {
            id,
            version,
            checkpointed_at,
            checkpoint_reason,
            mode,
            conversations: _,
            tasks: _,
            agents: _,
            projects: _,
            self_improvement: _,
            metadata,
            extra,
        } = self;
        Head { id, version, checkpointed_at, checkpoint_reason, mode: mode.as_ref(), metadata, extra }
    }
}

impl ReadJson for OrchestratorState {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        let head = Self::read_head(&mut object, "", Extra::new());
        // Without `..`: a kind that is added must be read, too.
        Ok(Self {
            id: head.id,
            version: head.version,
            checkpointed_at: head.checkpointed_at,
            checkpoint_reason: head.checkpoint_reason,
            mode: head.mode,
            metadata: head.metadata,
            conversations: object.list("conversations", read),
            tasks: object.list("tasks", read),
            agents: object.list("agents", read),
            projects: object.list("projects", read),
            self_improvement: object.optional_with("selfImprovement", read),
            extra: object.rest(),
        })
    }
}

fn new_metadata() -> OrchestratorMetadata {
    OrchestratorMetadata { version: STATE_VERSION.to_owned(), ..OrchestratorMetadata::default() }
}

/// The run of the orchestrator that wrote a state.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
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

/// The metadata belong to the document, not to a record: whatever is missing in them is read as empty.
impl ReadJson for OrchestratorMetadata {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            version: object.text_or("version", STATE_VERSION),
            hostname: object.text_or("hostname", ""),
            pid: object.integer("pid"),
            started_at: object.text_or("startedAt", ""),
            uptime_seconds: object.integer("uptimeSeconds"),
            restart_count: object.integer("restartCount"),
            extra: object.rest(),
        })
    }
}
