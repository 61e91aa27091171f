//! SIGKILL: at random moments, and at every write.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use agentmux_state::RunOutcome;

use super::ledger::{Ledgers, at, figures};
use super::{Random, choose};
use crate::common::role::{said, start, start_under};
use crate::common::trace::can_trace;
use crate::common::{Base, TestResult};

/// Kills processes in a role at random moments, one after the other on one state.
fn kill_at_random(role: &str, kills: u64) -> TestResult {
    let base = Base::new()?;
    let mut ledgers = Ledgers::default();
    let mut random = Random(7);
    let mut cut_off: BTreeMap<String, usize> = BTreeMap::new();
    let began = Instant::now();
    for kill in 0..kills {
        let first = 1 + ledgers.operations.values().sum::<usize>();
        let (mut child, mut output) = start(&format!("{role} {kill} {first}"), &base)?;
        // After so many lines, so that it gets as far on a busy machine; or while it starts.
        let lines = if kill % 8 == 0 { 0 } else { 1 + random.below(120) };
        let (heard, mut others) = thread::scope(|scope| -> Result<_, Box<dyn std::error::Error>> {
            let (sender, receiver) = mpsc::channel();
            scope.spawn(move || said(&mut output).try_for_each(|line| sender.send(line)));
            let heard: Vec<_> = receiver.iter().take(lines).collect();
            thread::sleep(Duration::from_micros(random.below(if kill % 2 == 0 { 1_000 } else { 15_000 }) as u64));
            child.kill()?;
            child.wait()?;
            Ok((heard, receiver.into_iter().collect::<Vec<_>>()))
        })?;
        let heard = heard.into_iter().chain(others.drain(..));
        ledgers.last_operation = "start".into();
        for line in heard {
            assert!(!line.starts_with("error"), "{line}");
            ledgers.hear(&line);
        }
        *cut_off.entry(ledgers.last_operation.clone()).or_default() += 1;
        at(&format!("kill {kill}"), ledgers.verify(&base, false))?;
    }
    let runs = base.store()?.runs(u32::MAX)?;
    let crashes = runs.iter().filter(|run| run.outcome == Some(RunOutcome::Crashed)).count();
    assert!(crashes as u64 > kills / 2, "crashes are recorded: {crashes}");
    let acknowledged = ledgers.total();
    assert!(acknowledged as u64 > kills, "it got somewhere: {acknowledged}");
    figures(
        &format!("SIGKILL at random moments, role {role}"),
        &format!(
            "points tried {kills}, acknowledged {acknowledged}, lost 0; cut off: {cut_off:?} ({:.0} s)",
            began.elapsed().as_secs_f64()
        ),
    )
}

#[test]
fn killed_at_any_moment_nothing_acknowledged_is_lost() -> TestResult {
    kill_at_random("work", choose(40, 800))
}

#[test]
fn killed_while_threads_share_commits_nothing_acknowledged_is_lost() -> TestResult {
    kill_at_random("group", choose(15, 400))
}

#[test]
fn killed_at_every_write_of_every_operation_nothing_acknowledged_is_lost() -> TestResult {
    if !can_trace() {
        return Ok(());
    }
    // What changes files. A kill between two of these is a kill before the second.
    const CALLS: &str = "pwrite64,write,ftruncate,rename,renameat,renameat2,unlink,unlinkat";
    let (mut points, mut acknowledged) = (0, 0);
    let mut cut_off: BTreeMap<String, usize> = BTreeMap::new();
    let began = Instant::now();
    for nth in (1..).step_by(choose(41, 1)) {
        let base = Base::in_memory()?;
        let trace = format!("trace={CALLS}");
        let inject = format!("inject={CALLS}:signal=SIGKILL:when={nth}");
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", trace.as_str(), "-e", inject.as_str()];
        let (mut child, mut output) = start_under(&strace, "script 1", &base)?;
        let mut ledgers = Ledgers::default();
        let mut is_done = false;
        for line in said(&mut output) {
            is_done |= line == "done";
            ledgers.hear(&line);
        }
        child.wait()?;
        if is_done {
            break;
        }
        points += 1;
        acknowledged += ledgers.total();
        let operation = ledgers.last_operation.clone();
        at(&format!("write {nth}, {operation}"), ledgers.verify(&base, false))?;
        *cut_off.entry(operation).or_default() += 1;
    }
    assert!(points >= choose(20, 400), "{points} points: {cut_off:?}");
    figures(
        "SIGKILL at every write",
        &format!(
            "points tried {points}, acknowledged {acknowledged}, lost 0; cut off: {cut_off:?} ({:.0} s)",
            began.elapsed().as_secs_f64()
        ),
    )
}
