use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Timestamp;
use super::open_enum::open_enum;

open_enum! {
    /// What kind of thing changed.
    ChangeType {
        Conversation = "conversation", Task = "task", Agent = "agent", Project = "project",
        SelfImprovement = "self_improvement",
    }
}

open_enum! {
    /// What was done to it.
    ChangeOperation { Update = "update", Add = "add", Delete = "delete" }
}

/// One thing that was added, changed or deleted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateChange {
    /// What kind of thing it is.
    #[serde(rename = "type")]
    pub change_type: ChangeType,
    /// What was done to it.
    pub operation: ChangeOperation,
    /// Its key; empty for self-improvement.
    pub id: String,
    /// The thing as it is now, in the document's layout; absent once it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// What changed up to a moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateDiff {
    /// The moment.
    pub timestamp: Timestamp,
    /// The changes.
    pub changes: Vec<StateChange>,
}
