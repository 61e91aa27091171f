use serde::{Deserialize, Serialize};

use super::open_enum::open_enum;
use super::{Extra, Timestamp};

open_enum! {
    /// How a project stands.
    ProjectStatus { Active = "active", Paused = "paused", Completed = "completed" }
}

open_enum! {
    /// How a build ended.
    BuildStatus { Unknown = "unknown", Success = "success", Failed = "failed" }
}

/// A project that agents work on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProjectState {
    /// Its key.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Where it lies.
    pub path: String,
    /// How it stands.
    pub status: ProjectStatus,
    /// Ids of the tasks in work. They may be gone.
    #[serde(default)]
    pub active_tasks: Vec<String>,
    /// Session names of the agents at work. They may be gone.
    #[serde(default)]
    pub active_agents: Vec<String>,
    /// The working copy as last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_state: Option<GitState>,
    /// The last build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_state: Option<BuildState>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A git working copy as last seen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GitState {
    /// The branch that is checked out.
    pub branch: String,
    /// The commit that is checked out.
    pub last_commit: String,
    /// Whether something is not committed.
    #[serde(default)]
    pub has_uncommitted_changes: bool,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The last build of a project.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildState {
    /// How it ended.
    pub last_build_status: BuildStatus,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_build_at: Option<Timestamp>,
    /// Whether the tests passed.
    #[serde(default)]
    pub tests_pass: bool,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}
