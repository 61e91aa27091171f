//! The orchestrator's work on its own code: at most one row, with its lists.

use rusqlite::{Connection, params};

use crate::db::{List, RowReader, Table, boolean, integer, optional_boolean, optional_text, text, unknown_keys};
use crate::error::Result;
use crate::model::{
    BackedUpFile, PlannedChange, RollbackPlan, SelfImprovementBackup, SelfImprovementState, SelfImprovementTask,
    ValidationCheck,
};

static TABLE: Table = Table::new(
    "self_improvement",
    &[
        "singleton",
        "task_id",
        "task_description",
        "task_status",
        "task_extra",
        "backup_id",
        "backup_created_at",
        "backup_git_commit",
        "backup_extra",
        "has_rollback_plan",
        "rollback_git_commit",
        "rollback_extra",
        "extra",
    ],
);

static TARGET_FILES: List = List::new("self_improvement_target_files", &[], &["path"]);
static PLANNED_CHANGES: List =
    List::new("self_improvement_planned_changes", &[], &["file", "type", "description", "risk", "extra"]);
static BACKUP_FILES: List =
    List::new("self_improvement_backup_files", &[], &["path", "original_content", "backup_path", "checksum", "extra"]);
static CHECKS: List =
    List::new("self_improvement_checks", &[], &["name", "type", "command", "required", "passed", "output", "extra"]);
static ROLLBACK_STEPS: List = List::new("self_improvement_rollback_steps", &[], &["step"]);

/// Writes it: the rows that differ.
pub(crate) fn write(conn: &Connection, state: &SelfImprovementState) -> Result<()> {
    let SelfImprovementState { current_task: task, backup, validation_checks, rollback_plan: plan, extra } = state;
    TABLE.write(
        conn,
        &[
            integer(1),
            optional_text(task.as_ref().map(|task| task.id.as_str())),
            optional_text(task.as_ref().map(|task| task.description.as_str())),
            optional_text(task.as_ref().map(|task| task.status.as_str())),
            unknown_keys(task.as_ref().map(|task| &task.extra))?,
            optional_text(backup.as_ref().map(|backup| backup.id.as_str())),
            optional_text(backup.as_ref().map(|backup| backup.created_at.as_str())),
            optional_text(backup.as_ref().and_then(|backup| backup.git_commit.as_deref())),
            unknown_keys(backup.as_ref().map(|backup| &backup.extra))?,
            boolean(plan.is_some()),
            optional_text(plan.as_ref().and_then(|plan| plan.git_commit.as_deref())),
            unknown_keys(plan.as_ref().map(|plan| &plan.extra))?,
            unknown_keys(extra)?,
        ],
    )?;

    let task = task.as_ref();
    TARGET_FILES.write_texts(conn, &[], task.map_or(&[], |task| &task.target_files))?;
    let mut changes = Vec::new();
    for change in task.map_or(&[][..], |task| &task.planned_changes) {
        let PlannedChange { file, change_type, description, risk, extra } = change;
        changes.push(vec![
            text(file),
            text(change_type.as_str()),
            text(description),
            text(risk.as_str()),
            unknown_keys(extra)?,
        ]);
    }
    PLANNED_CHANGES.write(conn, &[], &changes)?;

    let mut files = Vec::new();
    for file in backup.as_ref().map_or(&[][..], |backup| &backup.files) {
        let BackedUpFile { path, original_content, backup_path, checksum, extra } = file;
        files.push(vec![text(path), text(original_content), text(backup_path), text(checksum), unknown_keys(extra)?]);
    }
    BACKUP_FILES.write(conn, &[], &files)?;

    let mut checks = Vec::new();
    for check in validation_checks {
        let ValidationCheck { name, check_type, command, required, passed, output, extra } = check;
        checks.push(vec![
            text(name),
            text(check_type.as_str()),
            optional_text(command.as_deref()),
            boolean(*required),
            optional_boolean(*passed),
            optional_text(output.as_deref()),
            unknown_keys(extra)?,
        ]);
    }
    CHECKS.write(conn, &[], &checks)?;
    ROLLBACK_STEPS.write_texts(conn, &[], plan.as_ref().map_or(&[], |plan| &plan.steps))
}

/// Clears it; whether there was any.
pub(crate) fn clear(conn: &Connection) -> Result<bool> {
    // Its lists go with it.
    Ok(conn.execute("DELETE FROM self_improvement", [])? > 0)
}

/// Reads it.
pub(crate) fn read(conn: &Connection) -> Result<Option<SelfImprovementState>> {
    let mut found = None;
    TABLE.read(conn, "", params![], |mut row| {
        row.get::<i64>()?;
        let mut state = SelfImprovementState {
            current_task: current_task(&mut row)?,
            backup: backup(&mut row)?,
            rollback_plan: rollback_plan(&mut row)?,
            extra: row.extra()?,
            ..SelfImprovementState::default()
        };
        if let Some(task) = &mut state.current_task {
            task.target_files = TARGET_FILES.reader(conn)?.texts(&[])?;
            PLANNED_CHANGES.reader(conn)?.read(&[], |mut row| {
                task.planned_changes.push(PlannedChange {
                    file: row.get()?,
                    change_type: row.text()?,
                    description: row.get()?,
                    risk: row.text()?,
                    extra: row.extra()?,
                });
                Ok(())
            })?;
        }
        if let Some(backup) = &mut state.backup {
            BACKUP_FILES.reader(conn)?.read(&[], |mut row| {
                backup.files.push(BackedUpFile {
                    path: row.get()?,
                    original_content: row.get()?,
                    backup_path: row.get()?,
                    checksum: row.get()?,
                    extra: row.extra()?,
                });
                Ok(())
            })?;
        }
        CHECKS.reader(conn)?.read(&[], |mut row| {
            state.validation_checks.push(ValidationCheck {
                name: row.get()?,
                check_type: row.text()?,
                command: row.get()?,
                required: row.get()?,
                passed: row.get()?,
                output: row.get()?,
                extra: row.extra()?,
            });
            Ok(())
        })?;
        if let Some(plan) = &mut state.rollback_plan {
            plan.steps = ROLLBACK_STEPS.reader(conn)?.texts(&[])?;
        }
        found = Some(state);
        Ok(())
    })?;
    Ok(found)
}

fn current_task(row: &mut RowReader<'_>) -> Result<Option<SelfImprovementTask>> {
    let (id, description) = (row.get()?, row.get()?);
    let (status, extra) = (row.optional_text()?, row.extra()?);
    Ok(match (id, description, status) {
        (Some(id), Some(description), Some(status)) => {
            Some(SelfImprovementTask { id, description, status, extra, ..SelfImprovementTask::default() })
        }
        _ => None,
    })
}

fn backup(row: &mut RowReader<'_>) -> Result<Option<SelfImprovementBackup>> {
    let (id, created_at) = (row.get()?, row.optional_text()?);
    let (git_commit, extra) = (row.get()?, row.extra()?);
    Ok(match (id, created_at) {
        (Some(id), Some(created_at)) => {
            Some(SelfImprovementBackup { id, created_at, git_commit, extra, files: Vec::new() })
        }
        _ => None,
    })
}

fn rollback_plan(row: &mut RowReader<'_>) -> Result<Option<RollbackPlan>> {
    let is_there: bool = row.get()?;
    let plan = RollbackPlan { git_commit: row.get()?, extra: row.extra()?, steps: Vec::new() };
    Ok(is_there.then_some(plan))
}
