//! `status`

use std::collections::BTreeMap;
use std::path::Path;

use agentmux_state::{
    Checkpoint, DirectoryLock, LockHolder, OrchestratorMode, Run, RunOutcome, StateStore, Timestamp, WriteAheadLog,
};
use serde::Serialize;

use super::context::{Context, Ending, Outcome};
use super::{print, time};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    state_dir: String,
    schema_version: u32,
    state_version: String,
    database_bytes: u64,
    wal: WriteAheadLog,
    mode: OrchestratorMode,
    counts: Counts,
    tasks_by_status: BTreeMap<String, u64>,
    last_checkpoint: Option<Checkpoint>,
    run: Option<RunStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    conversations: u64,
    messages: u64,
    tasks: u64,
    agents: u64,
    projects: u64,
    set_aside: u64,
    backups: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunStatus {
    /// Whether its process still holds the state directory.
    active: bool,
    pid: i64,
    hostname: String,
    started_at: Timestamp,
    restart_count: i64,
    /// Whether its database was moved, replaced or deleted under it. Absent where that is not so, or cannot be seen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    has_lost_database: bool,
    /// `null` while it is active.
    ended_cleanly: Option<bool>,
}

/// Show what is there: counts, last checkpoint, whether an orchestrator runs or crashed
#[derive(clap::Args)]
pub(super) struct Status;

impl Status {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let store = context.read()?;
        let status = status(&store)?;
        context.show(&status, || for_people(&status))?;
        Ok(Ending::Complete)
    }
}

fn status(store: &StateStore) -> Result<Report, agentmux_state::Error> {
    let summary = store.summary()?;
    let holder = DirectoryLock::find_holder(store.state_dir())?;
    let counts = summary.counts;
    Ok(Report {
        state_dir: store.state_dir().to_string_lossy().into_owned(),
        schema_version: summary.schema_version,
        state_version: summary.state_version,
        database_bytes: summary.database_bytes,
        wal: store.write_ahead_log(),
        mode: summary.mode,
        counts: Counts {
            conversations: counts.conversations,
            messages: counts.messages,
            tasks: counts.tasks,
            agents: counts.agents,
            projects: counts.projects,
            set_aside: summary.set_aside,
            backups: summary.backups,
        },
        tasks_by_status: summary.tasks_by_status,
        last_checkpoint: summary.last_checkpoint,
        run: summary.last_run.map(|run| run_status(run, store.state_dir(), holder.as_ref())),
    })
}

fn run_status(run: Run, state_dir: &Path, holder: Option<&LockHolder>) -> RunStatus {
    let active = run.outcome.is_none() && holder.is_some_and(|holder| holder.is_process_of(&run));
    RunStatus {
        active,
        has_lost_database: active && holder.is_some_and(|it| it.works_on_database(state_dir) == Some(false)),
        ended_cleanly: (!active).then_some(matches!(run.outcome, Some(RunOutcome::Shutdown | RunOutcome::TakenOver))),
        pid: run.pid,
        hostname: run.hostname,
        started_at: run.started_at,
        restart_count: run.restart_count,
    }
}

fn for_people(status: &Report) -> String {
    let now = time::now();
    let counts = &status.counts;
    let by_status: Vec<_> =
        status.tasks_by_status.iter().map(|(status, number)| format!("{number} {}", print::clean(status))).collect();
    let tasks = match by_status.is_empty() {
        true => print::count(counts.tasks, "task"),
        false => format!("{} ({})", print::count(counts.tasks, "task"), by_status.join(", ")),
    };
    let run = status.run.as_ref().map_or("none yet".to_owned(), |run| {
        let process = format!("process {} on {}", run.pid, print::clean(&run.hostname));
        let since = print::ago(&run.started_at, now);
        let how = match run.ended_cleanly {
            None if run.has_lost_database => {
                format!("{process} runs, started {since}, and has LOST ITS DATABASE: see `agentmux-state check`")
            }
            None => format!("{process} runs, started {since}"),
            Some(true) => format!("{process}, started {since}, was shut down"),
            Some(false) => format!("{process}, started {since}, ended without being shut down (a crash)"),
        };
        format!("{how}; restart {}", run.restart_count)
    });
    let checkpoint = status.last_checkpoint.as_ref().map_or("none yet".to_owned(), |checkpoint| {
        format!("{} ({})", print::ago(&checkpoint.checkpointed_at, now), print::clean(checkpoint.reason.as_str()))
    });
    let pids: Vec<_> = status.wal.held_back_by.iter().map(u32::to_string).collect();
    let log = match pids.is_empty() {
        true => String::new(),
        false => format!(", log of {} held back by process {}", print::bytes(status.wal.bytes), pids.join(", ")),
    };
    let lines = [
        ("State", print::clean(&status.state_dir)),
        (
            "Database",
            format!(
                "{}, schema version {}, document version {}{log}",
                print::bytes(status.database_bytes),
                status.schema_version,
                print::clean(&status.state_version)
            ),
        ),
        ("Mode", print::clean(status.mode.as_str())),
        ("Run", run),
        ("Checkpoint", checkpoint),
        (
            "Holds",
            format!(
                "{} with {}",
                print::count(counts.conversations, "conversation"),
                print::count(counts.messages, "message")
            ),
        ),
        ("", tasks),
        ("", format!("{}, {}", print::count(counts.agents, "agent"), print::count(counts.projects, "project"))),
        ("", format!("{} set aside by imports", print::count(counts.set_aside, "record"))),
        ("Backups", counts.backups.to_string()),
    ];
    let bold = anstyle::Style::new().bold();
    lines.iter().map(|(label, text)| format!("{bold}{label:<11}{bold:#}{text}\n")).collect()
}
