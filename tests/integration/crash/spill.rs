//! Faults inside large transactions, and faults while reading.
//!
//! A transaction that is larger than SQLite's cache writes pages before its commit. Where that fails, SQLite rolls the whole
//! transaction back by itself, in the middle of somebody's batch.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use agentmux_state::{Error, Result, StateStore, TaskState};

use super::disk::Mounted;
use super::ledger::{Ledgers, at, figures};
use super::{choose, work};
use crate::common::role::{said, start_under};
use crate::common::trace::can_trace;
use crate::common::{Base, Ends, TestResult};

/// A task of some 100 KB.
fn large(id: &str, number: usize) -> TaskState {
    TaskState { description: format!("{number:10}").repeat(10_000), ..work::task(id, "1") }
}

/// A file system with room for a state, and not for a large batch.
fn small_disk(place: &Path) -> std::io::Result<Option<(Mounted, Base)>> {
    let Some(mounted) = Mounted::new(place, "6m") else { return Ok(None) };
    Ok(Some((mounted, Base::new_in(place)?)))
}

/// How a closure takes an error in its middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closure {
    /// It returns the error.
    GivesUp,
    /// It ignores the error, does something small, and returns as if nothing had happened.
    GoesOn,
    /// It ignores the error and removes something that was there before.
    Removes,
}

fn too_large(store: &StateStore, closure: Closure) -> Result<Option<Error>> {
    let mut inside = None;
    store.batch(|batch| {
        batch.update_task(&work::task("W-before", "2"))?;
        for number in 0..80 {
            if let Err(error) = batch.update_task(&large(&format!("large-{number}"), number)) {
                if closure == Closure::GivesUp {
                    return Err(error);
                }
                inside = Some(error);
                break;
            }
        }
        if closure == Closure::Removes {
            let _ = batch.remove_task("W-kept");
        }
        let _ = batch.update_task(&work::task("W-after", "2"));
        Ok(())
    })?;
    Ok(inside)
}

#[test]
fn a_batch_that_fills_the_disk_is_undone_as_a_whole_and_says_so() -> TestResult {
    let mut texts = Vec::new();
    for closure in [Closure::GivesUp, Closure::GoesOn, Closure::Removes] {
        for has_others in [false, true] {
            let place = tempfile::tempdir()?;
            let Some((_mounted, base)) = small_disk(place.path())? else { return Ok(()) };
            let store = base.store()?;
            store.update_task(&work::task("W-before", "1"))?;
            store.update_task(&work::task("W-kept", "1"))?;
            let place = format!("{closure:?}, others {has_others}");
            let stop = AtomicBool::new(false);
            let (result, others) = thread::scope(|scope| {
                let ends = Ends(&stop);
                let others: Vec<_> = (0..if has_others { 4 } else { 0 })
                    .map(|thread| {
                        let (store, stop) = (store.clone(), &stop);
                        // Small updates that share a commit with the batch.
                        scope.spawn(move || {
                            let (mut number, mut acknowledged, mut errors) = (0, 0, Vec::new());
                            while !stop.load(Ordering::Relaxed) {
                                number += 1;
                                match store.update_task(&work::task(&format!("W-other-{thread}"), &number.to_string()))
                                {
                                    Ok(()) => acknowledged = number,
                                    Err(error) => errors.push(error),
                                }
                            }
                            (thread, acknowledged, number, errors)
                        })
                    })
                    .collect();
                let results: Vec<_> = (0..5).map(|_| too_large(&store, closure)).collect();
                drop(ends);
                let others: Vec<_> = others.into_iter().map(|other| other.join().expect("no panic")).collect();
                (results, others)
            });
            for result in result {
                match result {
                    Err(error @ Error::DiskFull { .. }) => texts.push(error.to_string()),
                    other => return Err(format!("{place}: the batch came to {other:?}").into()),
                }
            }
            let state = store.state()?;
            let number = |id: &str| state.tasks.iter().find(|task| task.id == id).map(|task| task.status.to_string());
            assert_eq!(number("W-before").as_deref(), Some("1"), "{place}: nothing of the batch is there");
            assert_eq!(number("W-kept").as_deref(), Some("1"), "{place}: nothing is removed");
            assert_eq!(number("W-after"), None, "{place}: what came after the error is not there");
            assert!(state.tasks.iter().all(|task| !task.id.starts_with("large")), "{place}");
            for (thread, acknowledged, tried, errors) in others {
                if let Some(error) = errors.iter().find(|error| !matches!(error, Error::DiskFull { .. })) {
                    return Err(format!("{place}: another caller got {error:?}").into());
                }
                let found = number(&format!("W-other-{thread}")).map_or(0, |number| number.parse().expect("a number"));
                assert!((acknowledged..=tried).contains(&found), "{place}: {acknowledged} acknowledged, {found} found");
            }
            // It goes on, with as much as there is room for.
            store.batch(|batch| (0..10).try_for_each(|n| batch.update_task(&large("one", n))))?;
            drop(store);
            let problems = base.store()?.check()?.problems;
            assert!(problems.iter().all(|problem| problem.kind == "space"), "{place}: {problems:?}");
        }
    }
    texts.dedup();
    figures("batches that fill the disk", &format!("{} refused, as {texts:?}", 30))
}

/// Errors of reading that `strace` injects: which calls, how many in a row, and at every how many-th call in the short form.
const READS: [(&str, u32, usize); 3] = [("pread64", 1, 131), ("pread64", 4, 211), ("read,readv", 1, 9)];

#[test]
fn a_disk_that_cannot_be_read_for_a_moment_is_no_damaged_database() -> TestResult {
    if !can_trace() {
        return Ok(());
    }
    let began = Instant::now();
    let (mut points, mut acknowledged) = (0, 0);
    let mut failures: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for (calls, times, step) in READS {
        for nth in (1..).step_by(choose(step, 3)) {
            let base = Base::in_memory()?;
            // What there is before is to be there afterwards, too.
            let earlier = base.store()?;
            (0..40).try_for_each(|number| earlier.update_task(&work::task(&format!("earlier-{number}"), "1")))?;
            drop(earlier);
            let trace = format!("trace={calls}");
            let inject = format!("inject={calls}:error=EIO:when={nth}..{}", nth + times - 1);
            let log = tempfile::NamedTempFile::new()?;
            let file = log.path().to_string_lossy().into_owned();
            let strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-y", "-o", &file, "-e", &trace, "-e", &inject];
            let (mut child, mut output) = start_under(&strace, "script 1 persists", &base)?;
            let mut ledgers = Ledgers::default();
            let (mut is_ready, mut is_done) = (false, false);
            for line in said(&mut output) {
                is_ready |= line == "ready";
                is_done |= line == "done";
                if let Some((kind, text)) = line.split_once("failed ").and_then(|(_, error)| error.split_once(": ")) {
                    *failures.entry(format!("{kind} in {}", ledgers.last_operation)).or_default() += 1;
                    let is_of_kind = ["Io", "PruneIncomplete", "MigrationFailed"].contains(&kind);
                    let blames_database = text.contains("recover") || text.contains("damaged");
                    if !is_of_kind || blames_database {
                        let entry = wrong.entry(format!("{kind} in {}", ledgers.last_operation)).or_default();
                        entry.0 += 1;
                        entry.1 = format!("{calls} x{times} at {nth}: {text}");
                    }
                }
                ledgers.hear(&line);
            }
            child.wait()?;
            let log = fs::read_to_string(log.path())?;
            if !log.contains("INJECTED") {
                break;
            }
            // Else it is the test runner, or the loader of programs, that could not read.
            let is_state = log.lines().filter(|line| line.contains("INJECTED")).any(|line| line.contains(".agentmux"));
            if !is_ready || !is_state {
                continue;
            }
            let place = format!("{calls} x{times} at {nth}, {}", ledgers.last_operation);
            points += 1;
            acknowledged += ledgers.total();
            // Several errors in a row may reach the look at what is there, after which the process ends.
            if !is_done && times == 1 {
                let entry = wrong.entry(format!("not done in {}", ledgers.last_operation)).or_default();
                entry.0 += 1;
                entry.1.clone_from(&place);
            }
            at(&place, ledgers.verify(&base, false))?;
            assert_eq!(
                base.store()?.state()?.tasks.iter().filter(|task| task.id.starts_with("earlier")).count(),
                40,
                "{place}"
            );
        }
    }
    figures(
        "EIO while reading",
        &format!(
            "points tried {points}, acknowledged {acknowledged}, lost 0; failed as {failures:?} ({:.0} s)",
            began.elapsed().as_secs_f64()
        ),
    )?;
    assert!(points >= choose(10, 100), "{points} points");
    assert!(wrong.is_empty(), "of another kind: {wrong:#?}");
    Ok(())
}
