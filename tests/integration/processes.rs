//! Several processes on one state: who holds the directory, and exports that are killed. Each is this test program itself,
//! started again.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::thread;
use std::time::Duration;

use agentmux_state::{Error, RunOutcome, StatePersistenceService, StateStore};

use crate::common::program::outcome;
use crate::common::role::{role, said, say, start};
use crate::common::{Base, FIXTURE, TestResult, conversation, import, message};

/// In the processes that other tests start; else it does nothing.
#[test]
fn in_a_role() -> TestResult {
    let Some((role, base)) = role() else { return Ok(()) };
    let base = base.as_path();
    match role.as_str() {
        "hold" => hold(base),
        "export" => {
            let store = StateStore::open(base.join(".agentmux/state"))?;
            loop {
                say(&store.refresh_export()?.bytes.to_string());
            }
        }
        other => panic!("no role {other}"),
    }
}

/// Holds the directory until its input ends.
fn hold(base: &Path) -> TestResult {
    let service = StatePersistenceService::new(Some(base));
    service.initialize()?;
    say("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(service.prepare_for_shutdown()?)
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
        // A number of exports, so that it gets as far on a busy machine.
        exports += said(&mut output).take(1 + kill as usize % 3).count();
        thread::sleep(Duration::from_micros(kill * 3_571 % 15_000));
        child.kill()?;
        child.wait()?;
        exports += said(&mut output).count();
        assert!(std::fs::read_to_string(base.file("current-state.json"))? == FIXTURE, "kill {kill}");
    }
    assert!(exports >= 79, "every process says how far it gets: {exports}");
    store.refresh_export()?;
    let left: Vec<_> = std::fs::read_dir(base.state_dir())?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.as_ref().is_ok_and(|name| name.starts_with(".writing-")))
        .collect();
    assert!(left.is_empty(), "the next export clears away what was left: {left:?}");
    Ok(())
}

#[test]
fn those_who_look_do_not_take_each_other_for_a_running_orchestrator() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    drop(service);
    thread::scope(|scope| {
        let lookers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..25).all(|_| {
                        outcome(&base, &["--json", "status"]).expect("the program runs").1.contains("\"active\": false")
                    })
                })
            })
            .collect();
        for looker in lookers {
            assert!(looker.join().expect("no panic"));
        }
    });
    Ok(())
}

#[test]
fn what_killed_processes_left_is_cleared_away() -> TestResult {
    let base = Base::new()?;
    base.write(".state-AbCd.tmp", "half a database")?;
    base.write(".state-AbCd.tmp-journal", "its journal")?;
    base.write(".writing-AbCd.tmp", "half an export")?;
    let store = base.store()?;
    store.update_conversation(&conversation("C-1", 0..1))?;
    store.append_message("C-1", &message(1))?;
    store.refresh_export()?;
    let left: Vec<_> = fs::read_dir(base.state_dir())?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.as_ref().is_ok_and(|name| name.starts_with('.')))
        .collect::<Result<_, _>>()?;
    assert_eq!(left, [""; 0]);
    Ok(())
}
