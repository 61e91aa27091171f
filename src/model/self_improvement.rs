use serde::{Deserialize, Serialize};

use super::open_enum::open_enum;
use super::{Extra, Timestamp};

open_enum! {
    /// How far a change of the orchestrator's own code is.
    SelfImprovementStatus {
        Planning = "planning", Implementing = "implementing", Testing = "testing", Validating = "validating",
        Completed = "completed", RolledBack = "rolled_back",
    }
}

open_enum! {
    /// What a planned change does to a file.
    FileChangeType { Modify = "modify", Create = "create", Delete = "delete" }
}

open_enum! {
    /// How risky a planned change is.
    ChangeRisk { Low = "low", Medium = "medium", High = "high" }
}

open_enum! {
    /// What a check runs.
    ValidationCheckType { Custom = "custom", Build = "build", Test = "test", Lint = "lint" }
}

/// The orchestrator's work on its own code.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfImprovementState {
    /// The change at hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_task: Option<SelfImprovementTask>,
    /// The files as they were before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<SelfImprovementBackup>,
    /// What must hold before it counts as good.
    #[serde(default)]
    pub validation_checks: Vec<ValidationCheck>,
    /// How to undo it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_plan: Option<RollbackPlan>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A change of the orchestrator's own code.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfImprovementTask {
    /// Its key.
    pub id: String,
    /// What it is for.
    pub description: String,
    /// The files that it is about.
    #[serde(default)]
    pub target_files: Vec<String>,
    /// What it will do to which file.
    #[serde(default)]
    pub planned_changes: Vec<PlannedChange>,
    /// How far it is.
    pub status: SelfImprovementStatus,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What a change will do to a file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedChange {
    /// The file.
    pub file: String,
    /// What is done to it.
    #[serde(rename = "type")]
    pub change_type: FileChangeType,
    /// What for.
    pub description: String,
    /// How risky it is.
    pub risk: ChangeRisk,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The files as they were before a change.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfImprovementBackup {
    /// Its key.
    pub id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The files.
    #[serde(default)]
    pub files: Vec<BackedUpFile>,
    /// The commit that was checked out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A file as it was before a change.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackedUpFile {
    /// The file.
    pub path: String,
    /// What it held.
    pub original_content: String,
    /// Where the copy lies.
    pub backup_path: String,
    /// Checksum of the content, as the orchestrator computed it; empty for a file that did not exist.
    pub checksum: String,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Something that must hold before a change counts as good.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ValidationCheck {
    /// What people call it.
    pub name: String,
    /// What it runs.
    #[serde(rename = "type")]
    pub check_type: ValidationCheckType,
    /// The command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Whether the change fails without it.
    #[serde(default)]
    pub required: bool,
    /// How it ended; `None` where it has not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<bool>,
    /// What it printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// How to undo a change.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RollbackPlan {
    /// What to do, in order.
    #[serde(default)]
    pub steps: Vec<String>,
    /// The commit to go back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}
