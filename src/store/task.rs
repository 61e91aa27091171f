//! Tasks, with their steps, blockers, dependencies and checkpoints.

use rusqlite::{Connection, Params};

use crate::db::{List, ListReader, Table, TableReader, integer, json, optional_text, real, text, unknown_keys};
use crate::error::{Error, Result};
use crate::model::{TaskCheckpoint, TaskProgress, TaskState, Timestamp};

pub(super) static TABLE: Table = Table::new(
    "tasks",
    &[
        "id",
        "title",
        "description",
        "status",
        "priority",
        "assigned_to",
        "team_id",
        "project_id",
        "percent_complete",
        "current_step",
        "created_at",
        "started_at",
        "last_activity_at",
        "completed_at",
        "progress_extra",
        "empty_lists",
        "extra",
    ],
);

static STEPS: List = List::new("task_steps", &["task_id", "kind"], &["step"]);
static BLOCKERS: List = List::new("task_blockers", &["task_id"], &["blocker"]);
static DEPENDENCIES: List = List::new("task_dependencies", &["task_id", "relation"], &["other_task_id"]);

static CHECKPOINTS: Table =
    Table::new("task_checkpoints", &["task_id", "step_index", "work_data", "agent_context", "empty_lists", "extra"]);
static FILES: List = List::new("task_checkpoint_files", &["task_id"], &["path"]);
static ACTIONS: List = List::new("task_checkpoint_actions", &["task_id"], &["action"]);

/// Writes a task, new or known: the rows that differ.
pub(crate) fn write(conn: &Connection, task: &TaskState) -> Result<()> {
    let TaskState {
        id,
        title,
        description,
        status,
        priority,
        assigned_to,
        team_id,
        project_id,
        progress,
        blocked_by,
        blocks,
        created_at,
        started_at,
        last_activity_at,
        completed_at,
        checkpoint,
        extra,
    } = task;
    let TaskProgress {
        percent_complete,
        current_step,
        completed_steps,
        remaining_steps,
        blockers,
        extra: progress_extra,
    } = progress;
    if !percent_complete.is_finite() {
        let detail = format!("progress.percentComplete is {percent_complete}, which no document can hold");
        return Err(Error::InvalidValue { record: format!("task {id}"), detail });
    }
    let empty_lists = empty_lists(&[
        ("blockedBy", blocked_by),
        ("blocks", blocks),
        ("progress.remainingSteps", remaining_steps),
        ("progress.blockers", blockers),
    ]);
    TABLE.write(
        conn,
        &[
            text(id),
            text(title),
            text(description),
            text(status.as_str()),
            text(priority.as_str()),
            optional_text(assigned_to.as_deref()),
            optional_text(team_id.as_deref()),
            optional_text(project_id.as_deref()),
            real(*percent_complete),
            optional_text(current_step.as_deref()),
            text(created_at.as_str()),
            optional_text(started_at.as_ref().map(Timestamp::as_str)),
            optional_text(last_activity_at.as_ref().map(Timestamp::as_str)),
            optional_text(completed_at.as_ref().map(Timestamp::as_str)),
            unknown_keys(progress_extra)?,
            optional_text(empty_lists.as_deref()),
            unknown_keys(extra)?,
        ],
    )?;
    STEPS.write_texts(conn, &[id, "completed"], completed_steps)?;
    STEPS.write_texts(conn, &[id, "remaining"], remaining_steps.as_deref().unwrap_or_default())?;
    BLOCKERS.write_texts(conn, &[id], blockers.as_deref().unwrap_or_default())?;
    DEPENDENCIES.write_texts(conn, &[id, "blocked_by"], blocked_by.as_deref().unwrap_or_default())?;
    DEPENDENCIES.write_texts(conn, &[id, "blocks"], blocks.as_deref().unwrap_or_default())?;
    match checkpoint {
        Some(checkpoint) => write_checkpoint(conn, id, checkpoint),
        // Its lists go with it.
        None => CHECKPOINTS.delete(conn, id).map(drop),
    }
}

fn write_checkpoint(conn: &Connection, id: &str, checkpoint: &TaskCheckpoint) -> Result<()> {
    let TaskCheckpoint { step_index, work_data, modified_files, agent_context, pending_actions, extra } = checkpoint;
    let empty_lists = empty_lists(&[("modifiedFiles", modified_files), ("pendingActions", pending_actions)]);
    CHECKPOINTS.write(
        conn,
        &[
            text(id),
            integer(*step_index),
            json(work_data.as_ref())?,
            optional_text(agent_context.as_deref()),
            optional_text(empty_lists.as_deref()),
            unknown_keys(extra)?,
        ],
    )?;
    FILES.write_texts(conn, &[id], modified_files.as_deref().unwrap_or_default())?;
    ACTIONS.write_texts(conn, &[id], pending_actions.as_deref().unwrap_or_default())
}

/// Reads the tasks that the rest of a SELECT names, in its order.
pub(crate) fn read(
    conn: &Connection,
    condition: &str,
    parameters: impl Params,
    mut each: impl FnMut(TaskState) -> Result<()>,
) -> Result<()> {
    let mut lists = Lists::new(conn)?;
    TABLE.read(conn, condition, parameters, |mut row| {
        let mut task = TaskState {
            id: row.get()?,
            title: row.get()?,
            description: row.get()?,
            status: row.text()?,
            priority: row.text()?,
            assigned_to: row.get()?,
            team_id: row.get()?,
            project_id: row.get()?,
            ..TaskState::default()
        };
        task.progress.percent_complete = row.finite()?;
        task.progress.current_step = row.get()?;
        task.created_at = row.text()?;
        task.started_at = row.optional_text()?;
        task.last_activity_at = row.optional_text()?;
        task.completed_at = row.optional_text()?;
        task.progress.extra = row.extra()?;
        let empty: Option<String> = row.get()?;
        task.extra = row.extra()?;

        let id = task.id.as_str();
        let Lists { steps, blockers, dependencies, checkpoints } = &mut lists;
        task.progress.completed_steps = steps.texts(&[id, "completed"])?;
        task.progress.remaining_steps = optional(steps, &[id, "remaining"], &empty, "progress.remainingSteps")?;
        task.progress.blockers = optional(blockers, &[id], &empty, "progress.blockers")?;
        task.blocked_by = optional(dependencies, &[id, "blocked_by"], &empty, "blockedBy")?;
        task.blocks = optional(dependencies, &[id, "blocks"], &empty, "blocks")?;
        task.checkpoint = checkpoints.read(id)?;
        each(task)
    })
}

/// What reads the lists of one task after the other.
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
        checkpoint.read([id], |mut row| {
            row.get::<String>()?;
            let mut checkpoint = TaskCheckpoint {
                step_index: row.get()?,
                work_data: row.optional_json()?,
                agent_context: row.get()?,
                ..TaskCheckpoint::default()
            };
            let empty: Option<String> = row.get()?;
            checkpoint.extra = row.extra()?;
            checkpoint.modified_files = optional(files, &[id], &empty, "modifiedFiles")?;
            checkpoint.pending_actions = optional(actions, &[id], &empty, "pendingActions")?;
            found = Some(checkpoint);
            Ok(())
        })?;
        Ok(found)
    }
}

/// The names of the lists that are there but empty; rows alone could not tell them from absent ones.
fn empty_lists(lists: &[(&str, &Option<Vec<String>>)]) -> Option<String> {
    let empty: Vec<&str> =
        lists.iter().filter(|(_, list)| list.as_ref().is_some_and(Vec::is_empty)).map(|(name, _)| *name).collect();
    (!empty.is_empty()).then(|| empty.join(","))
}

/// Reads a list that may be absent; `empty_lists` names those that are there without an item.
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
