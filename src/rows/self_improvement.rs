//! The orchestrator's work on its own code: at most one row, with its lists.

use rusqlite::{Connection, Params};

#[cfg(test)]
use super::entity::unknown;
use super::entity::{Each, Entity, Filters, first};
use crate::db::{List, RowReader, Table, boolean, integer, optional_boolean, optional_text, text, unknown_keys};
use crate::error::Result;
use crate::model::{
    BackedUpFile, EntityKind, OrchestratorState, PlannedChange, RollbackPlan, SelfImprovementBackup,
    SelfImprovementState, SelfImprovementStatus, SelfImprovementTask, ValidationCheck,
};

pub(super) static TABLE: Table<SelfImprovementState> = Table::new(
    "self_improvement",
    &[
        ("singleton", |_| integer(1)),
        ("task_id", |state| optional_text(state.current_task.as_ref().map(|task| task.id.as_str()))),
        ("task_description", |state| optional_text(state.current_task.as_ref().map(|task| task.description.as_str()))),
        ("task_status", |state| optional_text(state.current_task.as_ref().map(|task| task.status.as_str()))),
        ("task_extra", |state| unknown_keys(state.current_task.as_ref().map(|task| &task.extra))),
        ("backup_id", |state| optional_text(state.backup.as_ref().map(|backup| backup.id.as_str()))),
        ("backup_created_at", |state| optional_text(state.backup.as_ref().map(|backup| backup.created_at.as_str()))),
        ("backup_git_commit", |state| {
            optional_text(state.backup.as_ref().and_then(|backup| backup.git_commit.as_deref()))
        }),
        ("backup_extra", |state| unknown_keys(state.backup.as_ref().map(|backup| &backup.extra))),
        ("has_rollback_plan", |state| boolean(state.rollback_plan.is_some())),
        ("rollback_git_commit", |state| {
            optional_text(state.rollback_plan.as_ref().and_then(|plan| plan.git_commit.as_deref()))
        }),
        ("rollback_extra", |state| unknown_keys(state.rollback_plan.as_ref().map(|plan| &plan.extra))),
        ("extra", |state| unknown_keys(&state.extra)),
    ],
);

pub(super) static TARGET_FILES: List<String> =
    List::new("self_improvement_target_files", &[], &[("path", |path| text(path))]);
pub(super) static PLANNED_CHANGES: List<PlannedChange> = List::new(
    "self_improvement_planned_changes",
    &[],
    &[
        ("file", |change| text(&change.file)),
        ("type", |change| text(change.change_type.as_str())),
        ("description", |change| text(&change.description)),
        ("risk", |change| text(change.risk.as_str())),
        ("extra", |change| unknown_keys(&change.extra)),
    ],
);
pub(super) static BACKUP_FILES: List<BackedUpFile> = List::new(
    "self_improvement_backup_files",
    &[],
    &[
        ("path", |file| text(&file.path)),
        ("original_content", |file| text(&file.original_content)),
        ("backup_path", |file| text(&file.backup_path)),
        ("checksum", |file| text(&file.checksum)),
        ("extra", |file| unknown_keys(&file.extra)),
    ],
);
pub(super) static CHECKS: List<ValidationCheck> = List::new(
    "self_improvement_checks",
    &[],
    &[
        ("name", |check| text(&check.name)),
        ("type", |check| text(check.check_type.as_str())),
        ("command", |check| optional_text(check.command.as_deref())),
        ("required", |check| boolean(check.required)),
        ("passed", |check| optional_boolean(check.passed)),
        ("output", |check| optional_text(check.output.as_deref())),
        ("extra", |check| unknown_keys(&check.extra)),
    ],
);
pub(super) static ROLLBACK_STEPS: List<String> =
    List::new("self_improvement_rollback_steps", &[], &[("step", |step| text(step))]);

impl Entity for SelfImprovementState {
    const KIND: EntityKind = EntityKind::SelfImprovement;
    const ORDER: &'static str = "";
    const FILTERS: Filters = Filters { status: None, project: None, agent: None, since: None, activity: None };

    fn table() -> &'static Table<Self> {
        &TABLE
    }

    fn key(&self) -> &str {
        ""
    }

    fn write(&self, conn: &Connection) -> Result<()> {
        TABLE.write(conn, self)?;
        let task = self.current_task.as_ref();
        TARGET_FILES.write(conn, &[], task.map_or(&[], |task| &task.target_files))?;
        PLANNED_CHANGES.write(conn, &[], task.map_or(&[], |task| &task.planned_changes))?;
        BACKUP_FILES.write(conn, &[], self.backup.as_ref().map_or(&[], |backup| &backup.files))?;
        CHECKS.write(conn, &[], &self.validation_checks)?;
        ROLLBACK_STEPS.write(conn, &[], self.rollback_plan.as_ref().map_or(&[], |plan| &plan.steps))
    }

    fn read(conn: &Connection, rest: &str, parameters: impl Params, each: Each<'_, Self>) -> Result<()> {
        TABLE.read(conn, rest, parameters, |row| {
            row.get::<i64>("singleton")?;
            each(Self {
                current_task: current_task(conn, row)?,
                backup: backup(conn, row)?,
                validation_checks: CHECKS.reader(conn)?.read(&[], validation_check)?,
                rollback_plan: rollback_plan(conn, row)?,
                extra: row.extra("extra")?,
            })
        })
    }

    fn find(conn: &Connection, _: &str) -> Result<Option<Self>> {
        first(|each| Self::read(conn, "", [], each))
    }

    fn remove(conn: &Connection, _: &str) -> Result<bool> {
        // Its lists go with it.
        Ok(conn.execute("DELETE FROM self_improvement", [])? > 0)
    }

    fn put(entities: Vec<Self>, state: &mut OrchestratorState) {
        state.self_improvement = entities.into_iter().next();
    }

    #[cfg(test)]
    fn tables() -> Vec<(&'static str, Vec<&'static str>)> {
        vec![
            (TABLE.name(), TABLE.columns().collect()),
            (TARGET_FILES.name(), TARGET_FILES.columns().collect()),
            (PLANNED_CHANGES.name(), PLANNED_CHANGES.columns().collect()),
            (BACKUP_FILES.name(), BACKUP_FILES.columns().collect()),
            (CHECKS.name(), CHECKS.columns().collect()),
            (ROLLBACK_STEPS.name(), ROLLBACK_STEPS.columns().collect()),
        ]
    }

    #[cfg(test)]
    fn full() -> Self {
        Self {
            current_task: Some(SelfImprovementTask {
                id: "task".into(),
                description: "description".into(),
                target_files: vec!["target".into()],
                planned_changes: vec![PlannedChange {
                    file: "file".into(),
                    change_type: "type".into(),
                    description: "change".into(),
                    risk: "risk".into(),
                    extra: unknown("change"),
                }],
                status: "status".into(),
                extra: unknown("task"),
            }),
            backup: Some(SelfImprovementBackup {
                id: "backup".into(),
                created_at: "created".into(),
                files: vec![BackedUpFile {
                    path: "path".into(),
                    original_content: "content".into(),
                    backup_path: "backup path".into(),
                    checksum: "checksum".into(),
                    extra: unknown("file"),
                }],
                git_commit: Some("commit".into()),
                extra: unknown("backup"),
            }),
            validation_checks: vec![ValidationCheck {
                name: "name".into(),
                check_type: "type".into(),
                command: Some("command".into()),
                required: true,
                passed: Some(true),
                output: Some("output".into()),
                extra: unknown("check"),
            }],
            rollback_plan: Some(RollbackPlan {
                steps: vec!["step".into()],
                git_commit: Some("commit before".into()),
                extra: unknown("plan"),
            }),
            extra: unknown("self-improvement"),
        }
    }
}

/// Description and status of the change that is in progress.
pub(crate) fn change_in_progress(conn: &Connection) -> Result<Option<(String, SelfImprovementStatus)>> {
    let mut select = conn.prepare_cached(
        "SELECT task_description, task_status FROM self_improvement
         WHERE task_id IS NOT NULL AND task_description IS NOT NULL AND task_status IS NOT NULL",
    )?;
    let mut rows = select.query([])?;
    Ok(match rows.next()? {
        Some(row) => Some((row.get(0)?, row.get::<_, String>(1)?.into())),
        None => None,
    })
}

fn current_task(conn: &Connection, row: &mut RowReader<'_>) -> Result<Option<SelfImprovementTask>> {
    let (id, description) = (row.get("task_id")?, row.get("task_description")?);
    let (status, extra) = (row.optional_text("task_status")?, row.extra("task_extra")?);
    let (Some(id), Some(description), Some(status)) = (id, description, status) else { return Ok(None) };
    Ok(Some(SelfImprovementTask {
        id,
        description,
        target_files: TARGET_FILES.reader(conn)?.texts(&[])?,
        planned_changes: PLANNED_CHANGES.reader(conn)?.read(&[], |row| {
            Ok(PlannedChange {
                file: row.get("file")?,
                change_type: row.text("type")?,
                description: row.get("description")?,
                risk: row.text("risk")?,
                extra: row.extra("extra")?,
            })
        })?,
        status,
        extra,
    }))
}

fn backup(conn: &Connection, row: &mut RowReader<'_>) -> Result<Option<SelfImprovementBackup>> {
    let (id, created_at) = (row.get("backup_id")?, row.optional_text("backup_created_at")?);
    let (git_commit, extra) = (row.get("backup_git_commit")?, row.extra("backup_extra")?);
    let (Some(id), Some(created_at)) = (id, created_at) else { return Ok(None) };
    let files = BACKUP_FILES.reader(conn)?.read(&[], |row| {
        Ok(BackedUpFile {
            path: row.get("path")?,
            original_content: row.get("original_content")?,
            backup_path: row.get("backup_path")?,
            checksum: row.get("checksum")?,
            extra: row.extra("extra")?,
        })
    })?;
    Ok(Some(SelfImprovementBackup { id, created_at, files, git_commit, extra }))
}

fn validation_check(row: &mut RowReader<'_>) -> Result<ValidationCheck> {
    Ok(ValidationCheck {
        name: row.get("name")?,
        check_type: row.text("type")?,
        command: row.get("command")?,
        required: row.get("required")?,
        passed: row.get("passed")?,
        output: row.get("output")?,
        extra: row.extra("extra")?,
    })
}

fn rollback_plan(conn: &Connection, row: &mut RowReader<'_>) -> Result<Option<RollbackPlan>> {
    let is_present: bool = row.get("has_rollback_plan")?;
    let (git_commit, extra) = (row.get("rollback_git_commit")?, row.extra("rollback_extra")?);
    if !is_present {
        return Ok(None);
    }
    Ok(Some(RollbackPlan { steps: ROLLBACK_STEPS.reader(conn)?.texts(&[])?, git_commit, extra }))
}
