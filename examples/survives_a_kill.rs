//! An orchestrator process works on a state, is killed with SIGKILL in the middle, and starts again.
//!
//! The state is the file that the TypeScript service left. The process prints each update that was acknowledged; after the
//! kill, every one of them must be there.

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentmux_state::{PersistedMessage, StatePersistenceService, TaskStatus, to_json};

const STATE: &str = include_str!("../tests/fixtures/current-state.json");
const CONVERSATION: &str = "conv-0";

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args_os().nth(1) {
        Some(base) => work(base.as_ref()),
        None => demonstrate(),
    }
}

/// The orchestrator: goes on with its tasks until it is killed.
fn work(base: &Path) -> Result<(), Box<dyn Error>> {
    let service = StatePersistenceService::new(Some(base));
    let state = service.initialize()?.ok_or("no state to work on")?;
    for number in 1.. {
        let mut task = state.tasks[number % state.tasks.len()].clone();
        task.status = TaskStatus::InProgress;
        task.progress.current_step = Some(format!("update {number}"));
        service.update_task(&task)?;
        service.append_message(
            CONVERSATION,
            &PersistedMessage {
                content: format!("update {number}"),
                timestamp: chrono::Utc::now().into(),
                ..PersistedMessage::default()
            },
        )?;
        println!("{number} {}", task.id);
    }
    Ok(())
}

fn demonstrate() -> Result<(), Box<dyn Error>> {
    let base = tempfile::tempdir()?;
    let state_dir = base.path().join(".agentmux/state");
    std::fs::create_dir_all(&state_dir)?;
    std::fs::write(state_dir.join("current-state.json"), STATE)?;

    let mut orchestrator = Command::new(std::env::current_exe()?).arg(base.path()).stdout(Stdio::piped()).spawn()?;
    println!("Orchestrator {} works on the state that the TypeScript service left.", orchestrator.id());
    let output = orchestrator.stdout.take().ok_or("no output")?;
    let mut lines = BufReader::new(output).lines();
    let mut acknowledged = Vec::new();
    // The first update comes once the state has been taken over.
    acknowledged.extend(lines.next());
    let deadline = Instant::now() + Duration::from_millis(500);
    while Instant::now() < deadline {
        acknowledged.extend(lines.next());
    }
    orchestrator.kill()?; // SIGKILL
    orchestrator.wait()?;
    acknowledged.extend(lines);
    println!("Killed with SIGKILL after {} acknowledged updates.", acknowledged.len());

    let service = StatePersistenceService::new(Some(base.path()));
    let state = service.initialize()?.ok_or("the state is gone")?;
    let previous = service.previous_run().ok_or("no previous run")?;
    println!("Started again: the run of process {} ended as {:?}.", previous.pid, previous.outcome);

    // What each task must be at, or beyond: the update at hand may have been done, too.
    let mut last_update = HashMap::new();
    let mut newest = 0;
    for line in acknowledged {
        let line = line?;
        let (number, task) = line.split_once(' ').ok_or("not an acknowledgement")?;
        newest = number.parse::<u64>()?;
        last_update.insert(task.to_owned(), newest);
    }
    let number_in = |text: &str| text.strip_prefix("update ").and_then(|number| number.parse::<u64>().ok());
    for (id, expected) in last_update {
        let task = state.tasks.iter().find(|task| task.id == id).ok_or(format!("{id} is gone"))?;
        let found = task.progress.current_step.as_deref().and_then(number_in);
        if found < Some(expected) {
            return Err(format!("{id}: update {expected} is lost, found {found:?}").into());
        }
    }
    let conversation = state.conversations.iter().find(|it| it.id == CONVERSATION).ok_or("the conversation is gone")?;
    let last_message = conversation.recent_messages.last().and_then(|message| number_in(&message.content));
    if last_message < Some(newest) {
        return Err(format!("message {newest} is lost, found {last_message:?}").into());
    }
    println!("Every acknowledged update is there.\n");
    println!("{}", to_json(&service.generate_resume_instructions(&state))?);
    Ok(service.prepare_for_shutdown()?)
}
