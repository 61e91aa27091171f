//! From JSON values to the types of the model, member by member.

use serde_json::Value;

use super::object::{Context, Object, Readable};
use crate::model::{
    AgentActivity, AgentState, BackedUpFile, BuildState, ConversationState, GitState, OrchestratorMetadata,
    PersistedMessage, PlannedChange, ProjectState, RollbackPlan, STATE_VERSION, SelfImprovementBackup,
    SelfImprovementState, SelfImprovementTask, SlackContext, TaskCheckpoint, TaskProgress, TaskState, ValidationCheck,
};

pub(super) fn conversation(value: Value, context: &mut Context) -> Readable<ConversationState> {
    let mut object = Object::new(value, context)?;
    Ok(ConversationState {
        id: object.required("id")?,
        source: object.required("source")?,
        recent_messages: object.list("recentMessages", message),
        summary: object.optional("summary"),
        user_id: object.optional("userId"),
        slack_context: object.optional_with("slackContext", slack_context),
        current_topic: object.optional("currentTopic"),
        last_activity_at: object.required_time("lastActivityAt")?,
        extra: object.rest(),
    })
}

pub(super) fn message(value: Value, context: &mut Context) -> Readable<PersistedMessage> {
    let mut object = Object::new(value, context)?;
    Ok(PersistedMessage {
        role: object.required("role")?,
        content: object.required("content")?,
        timestamp: object.required_time("timestamp")?,
        agent_name: object.optional("agentName"),
        extra: object.rest(),
    })
}

fn slack_context(value: Value, context: &mut Context) -> Readable<SlackContext> {
    let mut object = Object::new(value, context)?;
    Ok(SlackContext {
        channel_id: object.required("channelId")?,
        thread_ts: object.required("threadTs")?,
        extra: object.rest(),
    })
}

pub(super) fn task(value: Value, context: &mut Context) -> Readable<TaskState> {
    let mut object = Object::new(value, context)?;
    Ok(TaskState {
        id: object.required("id")?,
        title: object.required("title")?,
        description: object.required("description")?,
        status: object.required("status")?,
        priority: object.required("priority")?,
        assigned_to: object.optional("assignedTo"),
        team_id: object.optional("teamId"),
        project_id: object.optional("projectId"),
        progress: object.or_warn("progress", progress, TaskProgress::default, "missing or null, read as zero"),
        blocked_by: object.optional_texts("blockedBy"),
        blocks: object.optional_texts("blocks"),
        created_at: object.required_time("createdAt")?,
        started_at: object.optional_time("startedAt"),
        last_activity_at: object.optional_time("lastActivityAt"),
        completed_at: object.optional_time("completedAt"),
        checkpoint: object.optional_with("checkpoint", checkpoint),
        extra: object.rest(),
    })
}

fn progress(value: Value, context: &mut Context) -> Readable<TaskProgress> {
    let mut object = Object::new(value, context)?;
    Ok(TaskProgress {
        percent_complete: object.number("percentComplete"),
        current_step: object.optional("currentStep"),
        completed_steps: object.texts("completedSteps"),
        remaining_steps: object.optional_texts("remainingSteps"),
        blockers: object.optional_texts("blockers"),
        extra: object.rest(),
    })
}

fn checkpoint(value: Value, context: &mut Context) -> Readable<TaskCheckpoint> {
    let mut object = Object::new(value, context)?;
    Ok(TaskCheckpoint {
        step_index: object.integer("stepIndex"),
        work_data: object.optional_map("workData"),
        modified_files: object.optional_texts("modifiedFiles"),
        agent_context: object.optional("agentContext"),
        pending_actions: object.optional_texts("pendingActions"),
        extra: object.rest(),
    })
}

pub(super) fn agent(value: Value, context: &mut Context) -> Readable<AgentState> {
    let mut object = Object::new(value, context)?;
    Ok(AgentState {
        session_name: object.required("sessionName")?,
        agent_id: object.required("agentId")?,
        role: object.required("role")?,
        status: object.required("status")?,
        current_task_id: object.optional("currentTaskId"),
        current_project_path: object.optional("currentProjectPath"),
        context_summary: object.optional("contextSummary"),
        last_activity: object.optional_with("lastActivity", last_activity),
        extra: object.rest(),
    })
}

fn last_activity(value: Value, context: &mut Context) -> Readable<AgentActivity> {
    let mut object = Object::new(value, context)?;
    Ok(AgentActivity {
        activity_type: object.required("type")?,
        timestamp: object.required_time("timestamp")?,
        description: object.optional("description"),
        extra: object.rest(),
    })
}

pub(super) fn project(value: Value, context: &mut Context) -> Readable<ProjectState> {
    let mut object = Object::new(value, context)?;
    Ok(ProjectState {
        id: object.required("id")?,
        name: object.required("name")?,
        path: object.required("path")?,
        status: object.required("status")?,
        active_tasks: object.texts("activeTasks"),
        active_agents: object.texts("activeAgents"),
        git_state: object.optional_with("gitState", git_state),
        build_state: object.optional_with("buildState", build_state),
        extra: object.rest(),
    })
}

fn git_state(value: Value, context: &mut Context) -> Readable<GitState> {
    let mut object = Object::new(value, context)?;
    Ok(GitState {
        branch: object.required("branch")?,
        last_commit: object.required("lastCommit")?,
        has_uncommitted_changes: object.boolean("hasUncommittedChanges"),
        extra: object.rest(),
    })
}

fn build_state(value: Value, context: &mut Context) -> Readable<BuildState> {
    let mut object = Object::new(value, context)?;
    Ok(BuildState {
        last_build_status: object.required("lastBuildStatus")?,
        last_build_at: object.optional_time("lastBuildAt"),
        tests_pass: object.boolean("testsPass"),
        extra: object.rest(),
    })
}

pub(super) fn self_improvement(value: Value, context: &mut Context) -> Readable<SelfImprovementState> {
    let mut object = Object::new(value, context)?;
    Ok(SelfImprovementState {
        current_task: object.optional_with("currentTask", self_improvement_task),
        backup: object.optional_with("backup", self_improvement_backup),
        validation_checks: object.list("validationChecks", validation_check),
        rollback_plan: object.optional_with("rollbackPlan", rollback_plan),
        extra: object.rest(),
    })
}

fn self_improvement_task(value: Value, context: &mut Context) -> Readable<SelfImprovementTask> {
    let mut object = Object::new(value, context)?;
    Ok(SelfImprovementTask {
        id: object.required("id")?,
        description: object.required("description")?,
        target_files: object.texts("targetFiles"),
        planned_changes: object.list("plannedChanges", planned_change),
        status: object.required("status")?,
        extra: object.rest(),
    })
}

fn planned_change(value: Value, context: &mut Context) -> Readable<PlannedChange> {
    let mut object = Object::new(value, context)?;
    Ok(PlannedChange {
        file: object.required("file")?,
        change_type: object.required("type")?,
        description: object.required("description")?,
        risk: object.required("risk")?,
        extra: object.rest(),
    })
}

fn self_improvement_backup(value: Value, context: &mut Context) -> Readable<SelfImprovementBackup> {
    let mut object = Object::new(value, context)?;
    Ok(SelfImprovementBackup {
        id: object.required("id")?,
        created_at: object.required_time("createdAt")?,
        files: object.list("files", backed_up_file),
        git_commit: object.optional("gitCommit"),
        extra: object.rest(),
    })
}

fn backed_up_file(value: Value, context: &mut Context) -> Readable<BackedUpFile> {
    let mut object = Object::new(value, context)?;
    Ok(BackedUpFile {
        path: object.required("path")?,
        original_content: object.required("originalContent")?,
        backup_path: object.required("backupPath")?,
        checksum: object.required("checksum")?,
        extra: object.rest(),
    })
}

fn validation_check(value: Value, context: &mut Context) -> Readable<ValidationCheck> {
    let mut object = Object::new(value, context)?;
    Ok(ValidationCheck {
        name: object.required("name")?,
        check_type: object.required("type")?,
        command: object.optional("command"),
        required: object.boolean("required"),
        passed: object.optional_boolean("passed"),
        output: object.optional("output"),
        extra: object.rest(),
    })
}

fn rollback_plan(value: Value, context: &mut Context) -> Readable<RollbackPlan> {
    let mut object = Object::new(value, context)?;
    Ok(RollbackPlan { steps: object.texts("steps"), git_commit: object.optional("gitCommit"), extra: object.rest() })
}

/// The metadata stand for the document, not for a record: whatever is missing in them is read as nothing.
pub(super) fn metadata(value: Value, context: &mut Context) -> Readable<OrchestratorMetadata> {
    let mut object = Object::new(value, context)?;
    Ok(OrchestratorMetadata {
        version: object.text_or("version", STATE_VERSION),
        hostname: object.text_or("hostname", ""),
        pid: object.integer("pid"),
        started_at: object.text_or("startedAt", ""),
        uptime_seconds: object.integer("uptimeSeconds"),
        restart_count: object.integer("restartCount"),
        extra: object.rest(),
    })
}
