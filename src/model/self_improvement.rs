use serde::Serialize;

use super::extra::records;
use super::object::{Object, ReadJson, Readable, read};
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
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfImprovementState {
    /// The change at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_task: Option<SelfImprovementTask>,
    /// The files as they were before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<SelfImprovementBackup>,
    /// What must hold before it counts as good.
    pub validation_checks: Vec<ValidationCheck>,
    /// How to undo it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_plan: Option<RollbackPlan>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ReadJson for SelfImprovementState {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            current_task: object.optional_with("currentTask", read),
            backup: object.optional_with("backup", read),
            validation_checks: object.list("validationChecks", read),
            rollback_plan: object.optional_with("rollbackPlan", read),
            extra: object.rest(),
        })
    }
}

/// A change of the orchestrator's own code.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfImprovementTask {
    /// Its key.
    pub id: String,
    /// What it is for.
    pub description: String,
    /// The files that it is about.
    pub target_files: Vec<String>,
    /// What it will do to which file.
    pub planned_changes: Vec<PlannedChange>,
    /// How far it is.
    pub status: SelfImprovementStatus,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ReadJson for SelfImprovementTask {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            id: object.required("id")?,
            description: object.required("description")?,
            target_files: object.texts("targetFiles"),
            planned_changes: object.list("plannedChanges", read),
            status: object.required("status")?,
            extra: object.rest(),
        })
    }
}

/// What a change will do to a file.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
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

impl ReadJson for PlannedChange {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            file: object.required("file")?,
            change_type: object.required("type")?,
            description: object.required("description")?,
            risk: object.required("risk")?,
            extra: object.rest(),
        })
    }
}

/// The files as they were before a change.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfImprovementBackup {
    /// Its key.
    pub id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The files.
    pub files: Vec<BackedUpFile>,
    /// The commit that was checked out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ReadJson for SelfImprovementBackup {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            id: object.required("id")?,
            created_at: object.required_time("createdAt")?,
            files: object.list("files", read),
            git_commit: object.optional("gitCommit"),
            extra: object.rest(),
        })
    }
}

/// A file as it was before a change.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
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

impl ReadJson for BackedUpFile {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            path: object.required("path")?,
            original_content: object.required("originalContent")?,
            backup_path: object.required("backupPath")?,
            checksum: object.required("checksum")?,
            extra: object.rest(),
        })
    }
}

/// Something that must hold before a change counts as good.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ValidationCheck {
    /// What people call it.
    pub name: String,
    /// What it runs.
    #[serde(rename = "type")]
    pub check_type: ValidationCheckType,
    /// The command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Whether the change fails without it.
    pub required: bool,
    /// How it ended; `None` where it has not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed: Option<bool>,
    /// What it printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ReadJson for ValidationCheck {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            name: object.required("name")?,
            check_type: object.required("type")?,
            command: object.optional("command"),
            required: object.boolean("required"),
            passed: object.optional_boolean("passed"),
            output: object.optional("output"),
            extra: object.rest(),
        })
    }
}

/// How to undo a change.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RollbackPlan {
    /// What to do, in order.
    pub steps: Vec<String>,
    /// The commit to go back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ReadJson for RollbackPlan {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self { steps: object.texts("steps"), git_commit: object.optional("gitCommit"), extra: object.rest() })
    }
}

records! {
    SelfImprovementState {
        at_option current_task: "currentTask", at_option backup: "backup",
        at_list validation_checks: "validationChecks", at_option rollback_plan: "rollbackPlan"
    };
    SelfImprovementTask { at_list planned_changes: "plannedChanges" };
    PlannedChange;
    SelfImprovementBackup { at_list files: "files" };
    BackedUpFile;
    ValidationCheck;
    RollbackPlan;
}
