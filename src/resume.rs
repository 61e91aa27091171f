//! What to do after a restart: from a state in memory, or straight from the tables.
//!
//! The rules and the texts are the TypeScript service's. Both ways share them; `now` is passed in.

use chrono::{DateTime, Local, NaiveDateTime, TimeDelta, Utc};
use rusqlite::Connection;

use crate::error::Result;
use crate::model::{
    ConversationResume, NotificationType, OrchestratorState, ResumeInstructions, ResumeNotification,
    SelfImprovementStatus, TaskResume, Timestamp,
};
use crate::rows::{conversation, head, self_improvement, task};

/// A conversation is resumed where its last activity lies less than this before now.
const RESUME_WINDOW: TimeDelta = TimeDelta::hours(1);

const RESUME_MESSAGE: &str = "I'm back after a restart. Let me continue where we left off.";

/// What to do after a restart, from a state as the previous run left it.
///
/// ```
/// use agentmux_state::{OrchestratorState, TaskState, TaskStatus, resume_instructions};
///
/// let task = TaskState { id: "T-1".into(), status: TaskStatus::Paused, ..Default::default() };
/// let state = OrchestratorState { tasks: vec![task], ..Default::default() };
/// let instructions = resume_instructions(&state, chrono::Utc::now());
/// assert_eq!(instructions.resume_order, ["task:T-1"]);
/// assert!(instructions.notifications[0].message.starts_with("AgentMux has restarted (restart #1)."));
/// ```
pub fn resume_instructions(state: &OrchestratorState, now: DateTime<Utc>) -> ResumeInstructions {
    let tasks = state.tasks.iter().filter(|task| task.status.is_resumable());
    let recent = state.conversations.iter().filter(|it| is_recent(&it.last_activity_at, now));
    let change = state.self_improvement.as_ref().and_then(|state| state.current_task.as_ref());
    instructions(
        state.metadata.restart_count,
        tasks
            .map(|task| TaskResume { id: task.id.clone(), resume_from_checkpoint: task.checkpoint.is_some() })
            .collect(),
        recent.map(|conversation| conversation.id.clone()).collect(),
        change.map(|change| (change.description.as_str(), &change.status)),
    )
}

/// The same, straight from the tables: reads only what it returns.
pub(crate) fn resume_instructions_in(conn: &Connection, now: DateTime<Utc>) -> Result<ResumeInstructions> {
    let restart_count = head::read(conn)?.map_or(0, |state| state.metadata.restart_count);
    let change = self_improvement::change_in_progress(conn)?;
    let change = change.as_ref().map(|(description, status)| (description.as_str(), status));
    let since = now.checked_sub_signed(RESUME_WINDOW).unwrap_or(DateTime::<Utc>::MIN_UTC).timestamp() - 1;
    let recent = conversation::maybe_active_since(conn, since)?.into_iter();
    // The text decides.
    let recent = recent.filter(|(_, last_activity_at)| is_recent(last_activity_at, now)).map(|(id, _)| id);
    Ok(instructions(restart_count, task::resumable(conn)?, recent.collect(), change))
}

fn instructions(
    restart_count: i64,
    tasks: Vec<TaskResume>,
    conversations: Vec<String>,
    change: Option<(&str, &SelfImprovementStatus)>,
) -> ResumeInstructions {
    let mut notifications = vec![slack(format!(
        "AgentMux has restarted (restart #{}). Resuming {} tasks and {} conversations.",
        restart_count.saturating_add(1),
        tasks.len(),
        conversations.len()
    ))];
    if let Some((description, status)) = change
        && matches!(status, SelfImprovementStatus::Implementing | SelfImprovementStatus::Testing)
    {
        notifications.push(slack(format!(
            ":warning: Self-improvement task \"{description}\" was in progress. Status: {status}. \
             Please verify the changes."
        )));
    }
    let resume = |id| ConversationResume { id, resume_message: Some(RESUME_MESSAGE.to_owned()) };
    ResumeInstructions {
        resume_order: tasks.iter().map(|task| format!("task:{}", task.id)).collect(),
        conversations_to_resume: conversations.into_iter().map(resume).collect(),
        tasks_to_resume: tasks,
        notifications,
    }
}

fn slack(message: String) -> ResumeNotification {
    ResumeNotification { notification_type: NotificationType::Slack, message }
}

/// A time to come, as a clock that was set back leaves it, is recent too.
fn is_recent(last_activity_at: &Timestamp, now: DateTime<Utc>) -> bool {
    let at = last_activity_at.parse().or_else(|| javascript_date(last_activity_at.as_str()));
    at.is_some_and(|at| now.signed_duration_since(at) < RESUME_WINDOW)
}

/// What JavaScript's `Date` makes of a text that is not ISO 8601 with an offset: the forms in which `Date` itself prints a
/// time, and ISO 8601 without an offset, which is local time there.
fn javascript_date(text: &str) -> Option<DateTime<Utc>> {
    // The time zone's name in parentheses is a comment.
    let text = text.split_once(" (").map_or(text, |(before, _)| before).trim();
    let with_offset = ["%a %b %d %Y %H:%M:%S GMT%z", "%Y-%m-%dT%H:%M%#z", "%Y-%m-%d %H:%M:%S%.f%#z"];
    let local = [
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%d %H:%M",
        "%a %b %d %Y %H:%M:%S",
        "%b %d, %Y %H:%M:%S",
        "%m/%d/%Y, %I:%M:%S %p",
        "%m/%d/%Y %H:%M:%S",
    ];
    let of_offset = |form: &&str| DateTime::parse_from_str(text, form).ok().map(|at| at.to_utc());
    let of_local = |form: &&str| {
        let at = NaiveDateTime::parse_from_str(text, form).ok()?;
        Some(at.and_local_timezone(Local).earliest()?.to_utc())
    };
    let of_mail = || DateTime::parse_from_rfc2822(text).ok().map(|at| at.to_utc());
    with_offset.iter().find_map(of_offset).or_else(of_mail).or_else(|| local.iter().find_map(of_local))
}
