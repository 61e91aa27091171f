use serde::Serialize;

use super::extra::records;
use super::object::{Object, ReadJson, Readable, read};
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
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
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
    pub active_tasks: Vec<String>,
    /// Session names of the agents at work. They may be gone.
    pub active_agents: Vec<String>,
    /// The working copy as last seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_state: Option<GitState>,
    /// The last build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_state: Option<BuildState>,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ProjectState {
    /// An active project, named after its id.
    pub fn new(id: impl Into<String>, path: impl Into<String>) -> Self {
        let id = id.into();
        Self { name: id.clone(), id, path: path.into(), ..Self::default() }
    }
}

impl ReadJson for ProjectState {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            id: object.required("id")?,
            name: object.required("name")?,
            path: object.required("path")?,
            status: object.required("status")?,
            active_tasks: object.texts("activeTasks"),
            active_agents: object.texts("activeAgents"),
            git_state: object.optional_with("gitState", read),
            build_state: object.optional_with("buildState", read),
            extra: object.rest(),
        })
    }
}

/// A git working copy as last seen.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GitState {
    /// The branch that is checked out.
    pub branch: String,
    /// The commit that is checked out.
    pub last_commit: String,
    /// Whether something is not committed.
    pub has_uncommitted_changes: bool,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ReadJson for GitState {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            branch: object.required("branch")?,
            last_commit: object.required("lastCommit")?,
            has_uncommitted_changes: object.boolean("hasUncommittedChanges"),
            extra: object.rest(),
        })
    }
}

/// The last build of a project.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildState {
    /// How it ended.
    pub last_build_status: BuildStatus,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_build_at: Option<Timestamp>,
    /// Whether the tests passed.
    pub tests_pass: bool,
    /// Keys that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ReadJson for BuildState {
    fn read_json(mut object: Object<'_>) -> Readable<Self> {
        Ok(Self {
            last_build_status: object.required("lastBuildStatus")?,
            last_build_at: object.optional_time("lastBuildAt"),
            tests_pass: object.boolean("testsPass"),
            extra: object.rest(),
        })
    }
}

records! {
    ProjectState { at_option git_state: "gitState", at_option build_state: "buildState" };
    GitState;
    BuildState;
}
