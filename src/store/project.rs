//! Projects, with their active tasks and agents.

use rusqlite::{Connection, Params};

use crate::db::{List, RowReader, Table, optional_boolean, optional_text, text, unknown_keys};
use crate::error::Result;
use crate::model::{BuildState, GitState, ProjectState, Timestamp};

pub(super) static TABLE: Table = Table::new(
    "projects",
    &[
        "id",
        "name",
        "path",
        "status",
        "git_branch",
        "git_last_commit",
        "git_has_uncommitted_changes",
        "git_extra",
        "build_last_status",
        "build_last_at",
        "build_tests_pass",
        "build_extra",
        "extra",
    ],
);

static TASKS: List = List::new("project_tasks", &["project_id"], &["task_id"]);
static AGENTS: List = List::new("project_agents", &["project_id"], &["session_name"]);

/// Writes a project, new or known: the rows that differ.
pub(crate) fn write(conn: &Connection, project: &ProjectState) -> Result<()> {
    let ProjectState { id, name, path, status, active_tasks, active_agents, git_state: git, build_state: build, extra } =
        project;
    TABLE.write(
        conn,
        &[
            text(id),
            text(name),
            text(path),
            text(status.as_str()),
            optional_text(git.as_ref().map(|git| git.branch.as_str())),
            optional_text(git.as_ref().map(|git| git.last_commit.as_str())),
            optional_boolean(git.as_ref().map(|git| git.has_uncommitted_changes)),
            unknown_keys(git.as_ref().map(|git| &git.extra))?,
            optional_text(build.as_ref().map(|build| build.last_build_status.as_str())),
            optional_text(build.as_ref().and_then(|build| build.last_build_at.as_ref()).map(Timestamp::as_str)),
            optional_boolean(build.as_ref().map(|build| build.tests_pass)),
            unknown_keys(build.as_ref().map(|build| &build.extra))?,
            unknown_keys(extra)?,
        ],
    )?;
    TASKS.write_texts(conn, &[id], active_tasks)?;
    AGENTS.write_texts(conn, &[id], active_agents)
}

/// Reads the projects that the rest of a SELECT names, in its order.
pub(crate) fn read(
    conn: &Connection,
    condition: &str,
    parameters: impl Params,
    mut each: impl FnMut(ProjectState) -> Result<()>,
) -> Result<()> {
    let (mut tasks, mut agents) = (TASKS.reader(conn)?, AGENTS.reader(conn)?);
    TABLE.read(conn, condition, parameters, |mut row| {
        let mut project = ProjectState {
            id: row.get()?,
            name: row.get()?,
            path: row.get()?,
            status: row.text()?,
            git_state: git_state(&mut row)?,
            build_state: build_state(&mut row)?,
            extra: row.extra()?,
            ..ProjectState::default()
        };
        project.active_tasks = tasks.texts(&[&project.id])?;
        project.active_agents = agents.texts(&[&project.id])?;
        each(project)
    })
}

fn git_state(row: &mut RowReader<'_>) -> Result<Option<GitState>> {
    let (branch, last_commit) = (row.get()?, row.get()?);
    let (changes, extra) = (row.get::<Option<bool>>()?, row.extra()?);
    Ok(match (branch, last_commit) {
        (Some(branch), Some(last_commit)) => {
            Some(GitState { branch, last_commit, has_uncommitted_changes: changes.unwrap_or_default(), extra })
        }
        _ => None,
    })
}

fn build_state(row: &mut RowReader<'_>) -> Result<Option<BuildState>> {
    let (status, last_build_at) = (row.optional_text()?, row.optional_text()?);
    let (tests_pass, extra) = (row.get::<Option<bool>>()?, row.extra()?);
    Ok(status.map(|last_build_status| BuildState {
        last_build_status,
        last_build_at,
        tests_pass: tests_pass.unwrap_or_default(),
        extra,
    }))
}
