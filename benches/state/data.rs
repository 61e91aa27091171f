//! A state of any size, the same each time: conversations of 50 messages, tasks with steps and checkpoints.

use agentmux_state::{
    AgentState, ConversationState, Error, PersistedMessage, ProjectState, SlackContext, StateStore, TaskCheckpoint,
    TaskState, TaskStatus,
};
use chrono::{DateTime, TimeDelta, Utc};

/// Messages of each conversation.
pub(crate) const MESSAGES: usize = 50;

const WORDS: &str = "deploy build test agent slack thread refactor login token parser queue retry branch commit merge review schema \
                     index vector cache socket stream 模型 状態 résumé naïve 🚀 café";

/// Which tasks a state holds.
#[derive(Clone, Copy)]
pub(crate) enum Tasks {
    /// Of all statuses; two in five are to be resumed.
    Mixed,
    /// One in so many is to be resumed.
    ResumableEvery(usize),
}

/// Fills a store with so many conversations and tasks. A thousand and five thousand make a document of 34 MB.
pub(crate) fn fill(store: &StateStore, conversations: usize, tasks: usize, kind: Tasks) -> Result<(), Error> {
    const BLOCK: usize = 500;
    for block in (0..conversations.max(tasks)).step_by(BLOCK) {
        store.batch(|batch| {
            for n in block..(block + BLOCK).min(conversations) {
                batch.update_conversation(&conversation(n))?;
            }
            for n in block..(block + BLOCK).min(tasks) {
                batch.update_task(&task(n, kind))?;
            }
            Ok::<_, Error>(())
        })?;
    }
    store.batch(|batch| {
        for n in 0..20 {
            batch.update_agent(&AgentState {
                session_name: format!("dev-{n}"),
                agent_id: format!("agent-{n}"),
                role: "developer".into(),
                context_summary: Some(words(n, 60)),
                ..AgentState::default()
            })?;
        }
        for n in 0..10 {
            batch.update_project(&ProjectState {
                id: format!("proj-{n}"),
                name: words(n, 2),
                path: format!("/srv/p/{n}"),
                active_tasks: vec![task_id(n), task_id(n + 1)],
                ..ProjectState::default()
            })?;
        }
        Ok::<_, Error>(())
    })
}

pub(crate) fn conversation_id(n: usize) -> String {
    format!("conv-{n}")
}

pub(crate) fn task_id(n: usize) -> String {
    format!("task-{n}")
}

pub(crate) fn conversation(n: usize) -> ConversationState {
    ConversationState {
        id: conversation_id(n),
        source: ["chat", "slack", "api"][n % 3].into(),
        recent_messages: (0..MESSAGES).map(|m| message(n, m)).collect(),
        summary: (n % 2 == 1).then(|| words(n, 40)),
        user_id: (n % 3 == 1).then(|| format!("U{n}")),
        slack_context: (n % 3 == 1).then(|| SlackContext {
            channel_id: format!("C{n}"),
            thread_ts: format!("{}.{n:06}", 1_761_955_200 + n),
            ..SlackContext::default()
        }),
        current_topic: Some(words(n, 3)),
        last_activity_at: time(n * MESSAGES + MESSAGES - 1).into(),
        ..ConversationState::default()
    }
}

pub(crate) fn message(conversation: usize, n: usize) -> PersistedMessage {
    let seed = conversation * MESSAGES + n;
    PersistedMessage {
        role: ["user", "orchestrator", "agent"][n % 3].into(),
        content: words(seed, 20 + seed.wrapping_mul(7919) % 80),
        timestamp: time(seed).into(),
        agent_name: (n % 3 == 2).then(|| format!("dev-{}", n % 7)),
        ..PersistedMessage::default()
    }
}

pub(crate) fn task(n: usize, kind: Tasks) -> TaskState {
    let status = match kind {
        Tasks::Mixed => ["pending", "in_progress", "blocked", "paused", "completed"][n % 5].into(),
        Tasks::ResumableEvery(every) if n.is_multiple_of(every) => TaskStatus::InProgress,
        Tasks::ResumableEvery(_) => ["pending", "blocked", "completed"][n % 3].into(),
    };
    let mut task = TaskState {
        id: task_id(n),
        title: words(n, 6),
        description: words(n + 1, 40),
        status,
        priority: ["low", "medium", "high", "critical"][n % 4].into(),
        assigned_to: Some(format!("dev-{}", n % 20)),
        team_id: Some(format!("team-{}", n % 3)),
        project_id: Some(format!("proj-{}", n % 10)),
        blocked_by: Some(if n % 5 == 2 { vec![task_id(n - 1)] } else { vec![] }),
        blocks: Some(if n % 5 == 1 { vec![task_id(n + 1)] } else { vec![] }),
        created_at: time(n).into(),
        started_at: Some(time(n + 1).into()),
        last_activity_at: Some(time(n + 2).into()),
        checkpoint: (n % 2 == 1).then(|| TaskCheckpoint {
            step_index: (n % 6) as i64,
            work_data: serde_json::json!({"attempt": n % 3, "nested": {"ok": true, "list": [1, 2.5, null, "x"]}})
                .as_object()
                .cloned(),
            modified_files: Some(vec![format!("src/{n}.ts")]),
            agent_context: Some(words(n + 2, 30)),
            pending_actions: Some(vec![words(n + 3, 4)]),
            ..TaskCheckpoint::default()
        }),
        ..TaskState::default()
    };
    task.progress.percent_complete = (n * 7 % 101) as f64;
    task.progress.current_step = Some(words(n, 4));
    task.progress.completed_steps = (0..n % 6).map(|step| words(n + step, 5)).collect();
    task.progress.remaining_steps = Some((0..n % 4).map(|step| words(n + step, 5)).collect());
    task.progress.blockers = Some(vec![]);
    task
}

fn words(seed: usize, number: usize) -> String {
    let all: Vec<&str> = WORDS.split(' ').collect();
    let mut state = seed as u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        all[(state >> 16) as usize % all.len()]
    };
    (0..number).map(|_| next()).collect::<Vec<_>>().join(" ")
}

fn time(seconds: usize) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_761_955_200 + seconds as i64)
}

/// Numbers below `limit` that jump about, the same each time.
pub(crate) fn shuffled(round: usize, limit: usize) -> usize {
    round.wrapping_mul(2_654_435_761) % limit
}
