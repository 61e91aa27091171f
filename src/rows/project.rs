//! Projects, with their active tasks and agents.

use rusqlite::{Connection, Params};

#[cfg(test)]
use super::entity::unknown;
use super::entity::{Each, Entity, Filters};
use crate::db::{List, RowReader, Table, optional_boolean, optional_text, text, unknown_keys};
use crate::error::Result;
use crate::model::{BuildState, EntityKind, GitState, OrchestratorState, ProjectState, Timestamp};

pub(super) static TABLE: Table<ProjectState> = Table::new(
    "projects",
    &[
        ("id", |project| text(&project.id)),
        ("name", |project| text(&project.name)),
        ("path", |project| text(&project.path)),
        ("status", |project| text(project.status.as_str())),
        ("git_branch", |project| optional_text(project.git_state.as_ref().map(|git| git.branch.as_str()))),
        ("git_last_commit", |project| optional_text(project.git_state.as_ref().map(|git| git.last_commit.as_str()))),
        ("git_has_uncommitted_changes", |project| {
            optional_boolean(project.git_state.as_ref().map(|git| git.has_uncommitted_changes))
        }),
        ("git_extra", |project| unknown_keys(project.git_state.as_ref().map(|git| &git.extra))),
        ("build_last_status", |project| {
            optional_text(project.build_state.as_ref().map(|build| build.last_build_status.as_str()))
        }),
        ("build_last_at", |project| {
            let build = project.build_state.as_ref();
            optional_text(build.and_then(|build| build.last_build_at.as_ref()).map(Timestamp::as_str))
        }),
        ("build_tests_pass", |project| optional_boolean(project.build_state.as_ref().map(|build| build.tests_pass))),
        ("build_extra", |project| unknown_keys(project.build_state.as_ref().map(|build| &build.extra))),
        ("extra", |project| unknown_keys(&project.extra)),
    ],
);

pub(super) static TASKS: List<String> = List::new("project_tasks", &["project_id"], &[("task_id", |id| text(id))]);
pub(super) static AGENTS: List<String> =
    List::new("project_agents", &["project_id"], &[("session_name", |name| text(name))]);

impl Entity for ProjectState {
    const KIND: EntityKind = EntityKind::Project;
    const FILTERS: Filters = Filters {
        status: Some("status = ?"),
        project: Some("id = ?"),
        agent: Some("id IN (SELECT project_id FROM project_agents WHERE session_name = ?)"),
        since: None,
        activity: None,
    };

    fn table() -> &'static Table<Self> {
        &TABLE
    }

    fn key(&self) -> &str {
        &self.id
    }

    fn write(&self, conn: &Connection) -> Result<()> {
        TABLE.write(conn, self)?;
        TASKS.write(conn, &[&self.id], &self.active_tasks)?;
        AGENTS.write(conn, &[&self.id], &self.active_agents)
    }

    fn read(conn: &Connection, rest: &str, parameters: impl Params, each: Each<'_, Self>) -> Result<()> {
        let (mut tasks, mut agents) = (TASKS.reader(conn)?, AGENTS.reader(conn)?);
        TABLE.read(conn, rest, parameters, |row| {
            let id: String = row.get("id")?;
            each(Self {
                name: row.get("name")?,
                path: row.get("path")?,
                status: row.text("status")?,
                active_tasks: tasks.texts(&[&id])?,
                active_agents: agents.texts(&[&id])?,
                git_state: git_state(row)?,
                build_state: build_state(row)?,
                extra: row.extra("extra")?,
                id,
            })
        })
    }

    fn put(entities: Vec<Self>, state: &mut OrchestratorState) {
        state.projects = entities;
    }

    #[cfg(test)]
    fn tables() -> Vec<(&'static str, Vec<&'static str>)> {
        vec![
            (TABLE.name(), TABLE.columns().collect()),
            (TASKS.name(), TASKS.columns().collect()),
            (AGENTS.name(), AGENTS.columns().collect()),
        ]
    }

    #[cfg(test)]
    fn full() -> Self {
        Self {
            id: "p".into(),
            name: "name".into(),
            path: "path".into(),
            status: "status".into(),
            active_tasks: vec!["task".into()],
            active_agents: vec!["agent".into()],
            git_state: Some(GitState {
                branch: "branch".into(),
                last_commit: "commit".into(),
                has_uncommitted_changes: true,
                extra: unknown("git"),
            }),
            build_state: Some(BuildState {
                last_build_status: "built".into(),
                last_build_at: Some("at".into()),
                tests_pass: true,
                extra: unknown("build"),
            }),
            extra: unknown("project"),
        }
    }
}

fn git_state(row: &mut RowReader<'_>) -> Result<Option<GitState>> {
    let (branch, last_commit) = (row.get("git_branch")?, row.get("git_last_commit")?);
    let has_uncommitted_changes: Option<bool> = row.get("git_has_uncommitted_changes")?;
    let extra = row.extra("git_extra")?;
    Ok(match (branch, last_commit) {
        (Some(branch), Some(last_commit)) => Some(GitState {
            branch,
            last_commit,
            has_uncommitted_changes: has_uncommitted_changes.unwrap_or_default(),
            extra,
        }),
        _ => None,
    })
}

fn build_state(row: &mut RowReader<'_>) -> Result<Option<BuildState>> {
    let (status, last_build_at) = (row.optional_text("build_last_status")?, row.optional_text("build_last_at")?);
    let (tests_pass, extra) = (row.get::<Option<bool>>("build_tests_pass")?, row.extra("build_extra")?);
    Ok(status.map(|last_build_status| BuildState {
        last_build_status,
        last_build_at,
        tests_pass: tests_pass.unwrap_or_default(),
        extra,
    }))
}
