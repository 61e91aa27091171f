//! Several processes on one state, and processes that are killed. Each is this test program itself, started again.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::thread;
use std::time::Duration;

use agentmux_state::{Error, RunOutcome, StatePersistenceService, StateStore, TaskStatus};
use common::role::{role, said, say, start};
use common::{Base, FIXTURE, TestResult, conversation, import, message, task};

/// In the processes that other tests start; else it does nothing.
#[test]
fn in_a_role() -> TestResult {
    let Some((role, base)) = role() else { return Ok(()) };
    let base = base.as_path();
    match role.as_str() {
        "update" => update(base),
        "hold" => hold(base),
        "export" => {
            let store = StateStore::open(base.join(".agentmux/state"))?;
            loop {
                say(&store.refresh_export()?.bytes.to_string());
            }
        }
        "write" => write(base),
        other => panic!("no role {other}"),
    }
}

/// Updates tasks, a conversation and batches, and says each one that returned.
fn update(base: &Path) -> TestResult {
    let service = StatePersistenceService::new(Some(base));
    let tasks = service.initialize()?.map_or(0, |state| state.tasks.len());
    say("ready");
    // On from the tasks of the previous processes; two tasks are not numbered.
    for number in tasks.saturating_sub(2).. {
        service.update_task(&task(&format!("T-{number}"), TaskStatus::InProgress))?;
        say(&format!("T-{number}"));
        service.append_message("C-1", &message(number))?;
        say(&format!("message {number}"));
        service.store()?.batch(|batch| {
            batch.update_task(&task("left", TaskStatus::Other(number.to_string())))?;
            batch.update_task(&task("right", TaskStatus::Other(number.to_string())))
        })?;
        say(&format!("batch {number}"));
    }
    Ok(())
}

/// Holds the directory until its input ends.
fn hold(base: &Path) -> TestResult {
    let service = StatePersistenceService::new(Some(base));
    service.initialize()?;
    say("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(service.prepare_for_shutdown()?)
}

/// Writes tasks of its own.
fn write(base: &Path) -> TestResult {
    let store = StateStore::open(base.join(".agentmux/state"))?;
    for number in 0..200 {
        store.update_task(&task(&format!("{}-{number}", std::process::id()), TaskStatus::Pending))?;
    }
    Ok(())
}

#[test]
fn killed_at_any_moment_it_finds_every_acknowledged_update() -> TestResult {
    let base = Base::new()?;
    base.store()?.update_conversation(&conversation("C-1", []))?;
    let mut acknowledged: HashMap<&str, usize> = HashMap::new();
    for kill in 0..100_u64 {
        let (mut child, mut output) = start("update", &base)?;
        // At moments all over the life of the process: while it starts, while it updates.
        let first = if kill % 4 == 0 { None } else { said(&mut output).next() };
        thread::sleep(Duration::from_micros(kill * 7_919 % 25_000));
        child.kill()?;
        child.wait()?;
        for line in first.into_iter().chain(said(&mut output)) {
            let (what, number) = line.split_once([' ', '-']).unwrap_or((&line, "0"));
            let what =
                ["T", "message", "batch", "ready"].into_iter().find(|known| *known == what).expect("a known word");
            acknowledged.insert(what, number.parse()?);
        }
        if !acknowledged.contains_key("T") {
            continue;
        }
        let store = base.store()?;
        let state = store.state()?;
        let tasks = acknowledged["T"];
        for number in 0..=tasks {
            assert!(store.task(&format!("T-{number}"))?.is_some(), "kill {kill}: T-{number} is lost");
        }
        if let Some(newest) = acknowledged.get("message") {
            let messages = &state.conversations[0].recent_messages;
            let last: usize = messages.last().expect("a message").content["message ".len()..].parse()?;
            assert!(last >= *newest, "kill {kill}: message {newest} is lost, the last one is {last}");
        }
        if let Some(newest) = acknowledged.get("batch") {
            let status = |id: &str| store.task(id).map(|task| task.expect("the task").status.to_string());
            assert_eq!(status("left")?, status("right")?, "kill {kill}: half a batch");
            assert!(status("left")?.parse::<usize>()? >= *newest, "kill {kill}: batch {newest} is lost");
        }
    }
    assert!(acknowledged["batch"] > 20, "it got somewhere: {acknowledged:?}");
    let crashed: i64 =
        base.sql()?.query_row("SELECT count(*) FROM runs WHERE outcome = 'crashed'", [], |row| row.get(0))?;
    assert!(crashed > 20, "crashes are recorded: {crashed}");
    Ok(())
}

#[test]
fn a_second_process_is_refused_until_the_first_is_gone() -> TestResult {
    let base = Base::new()?;
    let (mut holder, mut output) = start("hold", &base)?;
    assert_eq!(said(&mut output).next().as_deref(), Some("ready"));
    let service = base.service();
    match service.initialize() {
        Err(Error::InUse { pid, .. }) => assert_eq!(pid, Some(holder.id())),
        other => panic!("{other:?}"),
    }
    assert!(!service.is_initialized());
    assert!(base.store()?.state().is_ok(), "reading goes on beside it");
    holder.kill()?;
    holder.wait()?;
    service.initialize()?;
    assert_eq!(service.previous_run().expect("the run before").outcome, Some(RunOutcome::Crashed));
    service.prepare_for_shutdown()?;

    let (mut holder, mut output) = start("hold", &base)?;
    assert_eq!(said(&mut output).next().as_deref(), Some("ready"));
    drop(holder.stdin.take());
    assert!(holder.wait()?.success());
    service.initialize()?;
    assert_eq!(service.previous_run().expect("the run before").outcome, Some(RunOutcome::Shutdown));
    assert_eq!(service.state()?.metadata.restart_count, 3);
    Ok(())
}

#[test]
fn an_export_that_is_killed_leaves_the_old_file_or_the_new() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    store.refresh_export()?;
    let mut exports = 0;
    for kill in 0..40_u64 {
        let (mut child, mut output) = start("export", &base)?;
        exports += said(&mut output).take(1).count();
        thread::sleep(Duration::from_micros(kill * 3_571 % 15_000));
        child.kill()?;
        child.wait()?;
        exports += said(&mut output).count();
        assert!(std::fs::read_to_string(base.file("current-state.json"))? == FIXTURE, "kill {kill}");
    }
    assert!(exports > 40, "it got somewhere: {exports}");
    store.refresh_export()?;
    let left: Vec<_> = std::fs::read_dir(base.state_dir())?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.as_ref().is_ok_and(|name| name.starts_with(".writing-")))
        .collect();
    assert!(left.is_empty(), "the next export clears away what was left: {left:?}");
    Ok(())
}

#[test]
fn processes_that_write_at_once_all_succeed() -> TestResult {
    let base = Base::new()?;
    let writers: Vec<_> = (0..4).map(|_| start("write", &base)).collect::<std::io::Result<_>>()?;
    for (mut writer, mut output) in writers {
        output.read_to_end(&mut Vec::new())?;
        assert!(writer.wait()?.success());
    }
    assert_eq!(base.store()?.summary()?.counts.tasks, 800);
    Ok(())
}
