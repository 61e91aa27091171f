//! Tasks, with their steps, blockers, dependencies and checkpoints.

use std::collections::BTreeMap;

use rusqlite::{Connection, Params};

#[cfg(test)]
use super::entity::unknown;
use super::entity::{Each, Entity, Filters, Removable};
use crate::db::time::unix_time;
use crate::db::{
    List, ListReader, Stored, Table, TableReader, json, optional_integer, optional_owned, optional_text, real, text,
    unknown_keys,
};
use crate::error::{Error, Result};
use crate::model::{
    EntityKind, OrchestratorState, TaskCheckpoint, TaskProgress, TaskResume, TaskState, TaskStatus, Timestamp,
};

/// The last activity of a task: else its start, else its creation.
macro_rules! last_activity {
    () => {
        concat!(
            "coalesce(",
            unix_time!("last_activity_at"),
            ", ",
            unix_time!("started_at"),
            ", ",
            unix_time!("created_at"),
            ")"
        )
    };
}
pub(super) static TABLE: Table<TaskState> = Table::new(
    "tasks",
    &[
        ("id", |task| text(&task.id)),
        ("title", |task| text(&task.title)),
        ("description", |task| text(&task.description)),
        ("status", |task| text(task.status.as_str())),
        ("priority", |task| text(task.priority.as_str())),
        ("assigned_to", |task| optional_text(task.assigned_to.as_deref())),
        ("team_id", |task| optional_text(task.team_id.as_deref())),
        ("project_id", |task| optional_text(task.project_id.as_deref())),
        ("percent_complete", percent_complete),
        ("current_step", |task| optional_text(task.progress.current_step.as_deref())),
        ("created_at", |task| text(task.created_at.as_str())),
        ("started_at", |task| optional_text(task.started_at.as_ref().map(Timestamp::as_str))),
        ("last_activity_at", |task| optional_text(task.last_activity_at.as_ref().map(Timestamp::as_str))),
        ("completed_at", |task| optional_text(task.completed_at.as_ref().map(Timestamp::as_str))),
        ("progress_extra", |task| unknown_keys(&task.progress.extra)),
        ("empty_lists", |task| {
            empty_lists(&[
                ("blockedBy", &task.blocked_by),
                ("blocks", &task.blocks),
                ("progress.remainingSteps", &task.progress.remaining_steps),
                ("progress.blockers", &task.progress.blockers),
            ])
        }),
        ("extra", |task| unknown_keys(&task.extra)),
    ],
);

pub(super) static STEPS: List<String> = List::new("task_steps", &["task_id", "kind"], &[("step", |step| text(step))]);
pub(super) static BLOCKERS: List<String> =
    List::new("task_blockers", &["task_id"], &[("blocker", |blocker| text(blocker))]);
pub(super) static DEPENDENCIES: List<String> =
    List::new("task_dependencies", &["task_id", "relation"], &[("other_task_id", |id| text(id))]);

/// Only of tasks that have a checkpoint.
pub(super) static CHECKPOINTS: Table<TaskState> = Table::new(
    "task_checkpoints",
    &[
        ("task_id", |task| text(&task.id)),
        ("step_index", |task| optional_integer(task.checkpoint.as_ref().map(|it| it.step_index))),
        ("work_data", |task| json(task.checkpoint.as_ref().and_then(|it| it.work_data.as_ref()))),
        ("agent_context", |task| optional_text(task.checkpoint.as_ref().and_then(|it| it.agent_context.as_deref()))),
        ("empty_lists", |task| match &task.checkpoint {
            Some(it) => empty_lists(&[("modifiedFiles", &it.modified_files), ("pendingActions", &it.pending_actions)]),
            None => optional_text(None),
        }),
        ("extra", |task| unknown_keys(task.checkpoint.as_ref().map(|it| &it.extra))),
    ],
);
pub(super) static FILES: List<String> =
    List::new("task_checkpoint_files", &["task_id"], &[("path", |path| text(path))]);
pub(super) static ACTIONS: List<String> =
    List::new("task_checkpoint_actions", &["task_id"], &[("action", |action| text(action))]);

impl Entity for TaskState {
    const KIND: EntityKind = EntityKind::Task;
    const FILTERS: Filters = Filters {
        status: Some("status = ?"),
        project: Some("project_id = ?"),
        agent: Some("assigned_to = ?"),
        since: Some(concat!(last_activity!(), " >= ?")),
        activity: Some(last_activity!()),
    };

    fn table() -> &'static Table<Self> {
        &TABLE
    }

    fn key(&self) -> &str {
        &self.id
    }

    fn own_problem(&self) -> Option<String> {
        let percent = self.progress.percent_complete;
        (!(0.0..=100.0).contains(&percent))
            .then(|| format!("progress.percentComplete is {percent}, which is not between 0 and 100"))
    }

    fn write(&self, conn: &Connection) -> Result<()> {
        let (id, progress) = (&self.id, &self.progress);
        TABLE.write(conn, self)?;
        STEPS.write(conn, &[id, "completed"], &progress.completed_steps)?;
        STEPS.write(conn, &[id, "remaining"], progress.remaining_steps.as_deref().unwrap_or_default())?;
        BLOCKERS.write(conn, &[id], progress.blockers.as_deref().unwrap_or_default())?;
        DEPENDENCIES.write(conn, &[id, "blocked_by"], self.blocked_by.as_deref().unwrap_or_default())?;
        DEPENDENCIES.write(conn, &[id, "blocks"], self.blocks.as_deref().unwrap_or_default())?;
        let Some(checkpoint) = &self.checkpoint else {
            // Its lists go with it.
            return CHECKPOINTS.delete(conn, id).map(drop);
        };
        CHECKPOINTS.write(conn, self)?;
        FILES.write(conn, &[id], checkpoint.modified_files.as_deref().unwrap_or_default())?;
        ACTIONS.write(conn, &[id], checkpoint.pending_actions.as_deref().unwrap_or_default())
    }

    fn read(conn: &Connection, rest: &str, parameters: impl Params, each: Each<'_, Self>) -> Result<()> {
        let mut lists = Lists::new(conn)?;
        TABLE.read(conn, rest, parameters, |row| {
            let id: String = row.get("id")?;
            let title = row.get("title")?;
            let description = row.get("description")?;
            let status = row.text("status")?;
            let priority = row.text("priority")?;
            let assigned_to = row.get("assigned_to")?;
            let team_id = row.get("team_id")?;
            let project_id = row.get("project_id")?;
            let percent_complete = row.finite("percent_complete")?;
            let current_step = row.get("current_step")?;
            let created_at = row.text("created_at")?;
            let started_at = row.optional_text("started_at")?;
            let last_activity_at = row.optional_text("last_activity_at")?;
            let completed_at = row.optional_text("completed_at")?;
            let progress_extra = row.extra("progress_extra")?;
            let empty: Option<String> = row.get("empty_lists")?;
            let extra = row.extra("extra")?;

            let Lists { steps, blockers, dependencies, checkpoints } = &mut lists;
            each(Self {
                title,
                description,
                status,
                priority,
                assigned_to,
                team_id,
                project_id,
                progress: TaskProgress {
                    percent_complete,
                    current_step,
                    completed_steps: steps.texts(&[&id, "completed"])?,
                    remaining_steps: optional(steps, &[&id, "remaining"], &empty, "progress.remainingSteps")?,
                    blockers: optional(blockers, &[&id], &empty, "progress.blockers")?,
                    extra: progress_extra,
                },
                blocked_by: optional(dependencies, &[&id, "blocked_by"], &empty, "blockedBy")?,
                blocks: optional(dependencies, &[&id, "blocks"], &empty, "blocks")?,
                created_at,
                started_at,
                last_activity_at,
                completed_at,
                checkpoint: checkpoints.read(&id)?,
                extra,
                id,
            })
        })
    }

    fn put(entities: Vec<Self>, state: &mut OrchestratorState) {
        state.tasks = entities;
    }

    #[cfg(test)]
    fn tables() -> Vec<(&'static str, Vec<&'static str>)> {
        vec![
            (TABLE.name(), TABLE.columns().collect()),
            (STEPS.name(), STEPS.columns().collect()),
            (BLOCKERS.name(), BLOCKERS.columns().collect()),
            (DEPENDENCIES.name(), DEPENDENCIES.columns().collect()),
            (CHECKPOINTS.name(), CHECKPOINTS.columns().collect()),
            (FILES.name(), FILES.columns().collect()),
            (ACTIONS.name(), ACTIONS.columns().collect()),
        ]
    }

    #[cfg(test)]
    fn full() -> Self {
        let list = |name: &str| Some(vec![format!("{name} 1"), format!("{name} 2")]);
        Self {
            id: "t".into(),
            title: "title".into(),
            description: "description".into(),
            status: "status".into(),
            priority: "priority".into(),
            assigned_to: Some("assigned".into()),
            team_id: Some("team".into()),
            project_id: Some("project".into()),
            progress: TaskProgress {
                percent_complete: 12.5,
                current_step: Some("step".into()),
                completed_steps: vec!["done".into()],
                remaining_steps: list("remaining"),
                blockers: list("blocker"),
                extra: unknown("progress"),
            },
            blocked_by: list("blocked by"),
            blocks: list("blocks"),
            created_at: "created".into(),
            started_at: Some("started".into()),
            last_activity_at: Some("activity".into()),
            completed_at: Some("completed".into()),
            checkpoint: Some(TaskCheckpoint {
                step_index: 3,
                work_data: Some(unknown("work")),
                modified_files: list("file"),
                agent_context: Some("context".into()),
                pending_actions: list("action"),
                extra: unknown("checkpoint"),
            }),
            extra: unknown("task"),
        }
    }
}

fn percent_complete(task: &TaskState) -> Stored<'_> {
    let percent = task.progress.percent_complete;
    if !percent.is_finite() {
        let detail = format!("progress.percentComplete is {percent}, which no document can hold");
        return Err(Error::InvalidValue { record: format!("task {}", task.id), detail });
    }
    real(percent)
}

/// Readers of the lists of one task after the other.
struct Lists<'c> {
    steps: ListReader<'c>,
    blockers: ListReader<'c>,
    dependencies: ListReader<'c>,
    checkpoints: CheckpointReader<'c>,
}

impl<'c> Lists<'c> {
    fn new(conn: &'c Connection) -> Result<Self> {
        Ok(Self {
            steps: STEPS.reader(conn)?,
            blockers: BLOCKERS.reader(conn)?,
            dependencies: DEPENDENCIES.reader(conn)?,
            checkpoints: CheckpointReader {
                checkpoint: CHECKPOINTS.reader(conn, "WHERE task_id = ?1")?,
                files: FILES.reader(conn)?,
                actions: ACTIONS.reader(conn)?,
            },
        })
    }
}

struct CheckpointReader<'c> {
    checkpoint: TableReader<'c>,
    files: ListReader<'c>,
    actions: ListReader<'c>,
}

impl CheckpointReader<'_> {
    fn read(&mut self, id: &str) -> Result<Option<TaskCheckpoint>> {
        let Self { checkpoint, files, actions } = self;
        let mut found = None;
        checkpoint.read([id], |row| {
            row.get::<String>("task_id")?;
            let (step_index, work_data) = (row.get("step_index")?, row.optional_json("work_data")?);
            let agent_context = row.get("agent_context")?;
            let empty: Option<String> = row.get("empty_lists")?;
            found = Some(TaskCheckpoint {
                step_index,
                work_data,
                modified_files: optional(files, &[id], &empty, "modifiedFiles")?,
                agent_context,
                pending_actions: optional(actions, &[id], &empty, "pendingActions")?,
                extra: row.extra("extra")?,
            });
            Ok(())
        })?;
        Ok(found)
    }
}

/// Names of the lists that are present but empty; rows alone do not distinguish them from absent ones.
fn empty_lists(lists: &[(&str, &Option<Vec<String>>)]) -> Stored<'static> {
    let empty: Vec<&str> =
        lists.iter().filter(|(_, list)| list.as_ref().is_some_and(Vec::is_empty)).map(|(name, _)| *name).collect();
    optional_owned((!empty.is_empty()).then(|| empty.join(",")))
}

/// Reads a list that may be absent; `empty_lists` names those that are present without an item.
fn optional(
    list: &mut ListReader<'_>,
    owner: &[&str],
    empty_lists: &Option<String>,
    name: &str,
) -> Result<Option<Vec<String>>> {
    let items = list.texts(owner)?;
    let is_empty = empty_lists.as_ref().is_some_and(|names| names.split(',').any(|empty| empty == name));
    Ok((!items.is_empty() || is_empty).then_some(items))
}

/// Tasks that were completed before a time. One without a readable `completed_at` goes by the latest of its other times;
/// one without any readable time is not done, nor is one that an unfinished task waits for or depends on.
pub(super) const DONE: Removable = Removable {
    condition: concat!(
        "status = 'completed' AND coalesce(",
        unix_time!("completed_at"),
        ", (SELECT max(column1) FROM (VALUES (",
        unix_time!("last_activity_at"),
        "), (",
        unix_time!("started_at"),
        "), (",
        unix_time!("created_at"),
        ")))) < ?1
         AND NOT EXISTS (SELECT 1 FROM task_dependencies AS said JOIN tasks AS other ON other.id = said.other_task_id
                         WHERE said.task_id = tasks.id AND other.status <> 'completed')
         AND NOT EXISTS (SELECT 1 FROM task_dependencies AS said JOIN tasks AS other ON other.id = said.task_id
                         WHERE said.other_task_id = tasks.id AND other.status <> 'completed')"
    ),
    messages: "0",
    bytes: "octet_length(title) + octet_length(description) + 200
            + (SELECT coalesce(sum(octet_length(step)), 0) FROM task_steps WHERE task_id = tasks.id)",
};

/// Number of tasks in each status.
pub(crate) fn count_by_status(conn: &Connection) -> Result<BTreeMap<String, u64>> {
    let mut select = conn.prepare_cached("SELECT status, count(*) FROM tasks GROUP BY status")?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Ids of the tasks that are taken up again after a restart, each with whether it has a checkpoint, in the order of the
/// document.
pub(crate) fn resumable(conn: &Connection) -> Result<Vec<TaskResume>> {
    let mut select = conn.prepare_cached(
        "SELECT id, EXISTS (SELECT 1 FROM task_checkpoints WHERE task_id = id)
         FROM tasks WHERE status IN (?1, ?2) ORDER BY position",
    )?;
    let rows = select.query_map([TaskStatus::InProgress.as_str(), TaskStatus::Paused.as_str()], |row| {
        Ok(TaskResume { id: row.get(0)?, resume_from_checkpoint: row.get(1)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
