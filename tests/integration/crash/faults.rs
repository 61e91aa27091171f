//! A disk that fails: EIO, ENOSPC and EROFS from every write, truncation, rename and sync in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::choose;
use super::ledger::{Ledgers, at, figures};
use crate::common::role::{said, start_under};
use crate::common::trace::can_trace;
use crate::common::{Base, TestResult};

/// The kinds of error that a disk that fails may come to; the last one where the database is just being made.
const KINDS: [&str; 5] = ["PruneIncomplete", "DiskFull", "Io", "ReadOnly", "MigrationFailed"];

/// What fails, how, for how many calls in a row; and in the short form, at every how many-th call.
const FAULTS: [(&str, &str, u32, usize); 9] = [
    ("pwrite64", "EIO", 1, 149),
    ("pwrite64", "ENOSPC", 3, 149),
    ("pwrite64", "EROFS", 1, 397),
    ("write", "EIO", 1, 47),
    ("write", "ENOSPC", 2, 47),
    ("fsync,fdatasync", "EIO", 1, 23),
    ("fsync,fdatasync", "ENOSPC", 2, 23),
    ("ftruncate", "EIO", 1, 11),
    ("rename,renameat,renameat2,unlink,unlinkat", "EIO", 1, 11),
];

#[test]
fn a_disk_that_fails_at_any_call_is_told_by_its_kind_and_recovered_from() -> TestResult {
    if !can_trace() {
        return Ok(());
    }
    let began = Instant::now();
    let (mut points, mut acknowledged) = (0, 0);
    let mut failures: BTreeMap<String, usize> = BTreeMap::new();
    let mut texts = BTreeSet::new();
    for (calls, error, times, step) in FAULTS {
        // A read-only disk fails as one with EIO does: not at every call.
        for nth in (1..).step_by(choose(step, if error == "EROFS" { 8 } else { 1 })) {
            let base = Base::in_memory()?;
            let trace = format!("trace={calls}");
            let inject = format!("inject={calls}:error={error}:when={nth}..{}", nth + times - 1);
            let log = tempfile::NamedTempFile::new()?;
            let file = log.path().to_string_lossy().into_owned();
            let strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", &file, "-e", &trace, "-e", &inject];
            let (mut child, mut output) = start_under(&strace, "script 1 persists", &base)?;
            let mut ledgers = Ledgers::default();
            let (mut is_ready, mut is_done) = (false, false);
            for line in said(&mut output) {
                is_ready |= line == "ready";
                is_done |= line == "done";
                if let Some((kind, text)) = line.split_once("failed ").and_then(|(_, error)| error.split_once(": ")) {
                    let place = format!("{calls} {error} at {nth}, {}: {text}", ledgers.last_operation);
                    assert!(KINDS.contains(&kind), "{kind}: {place}");
                    *failures.entry(format!("{kind} in {}", ledgers.last_operation)).or_default() += 1;
                    texts.insert(text.replace(&*base.path().to_string_lossy(), "BASE"));
                }
                ledgers.hear(&line);
            }
            child.wait()?;
            let was_injected = std::fs::read_to_string(log.path())?.contains("INJECTED");
            if !was_injected {
                break;
            }
            if !is_ready {
                // The test runner's own output failed.
                continue;
            }
            let place = format!("{calls} {error} at {nth}, {}", ledgers.last_operation);
            assert!(is_done, "{place}: it did not get through");
            points += 1;
            acknowledged += ledgers.total();
            at(&place, ledgers.verify(&base, false))?;
        }
    }
    if std::env::var_os("STATE_TEST_TEXTS").is_some() {
        eprintln!("{texts:#?}");
    }
    assert!(points >= choose(20, 400) && failures.values().sum::<usize>() > points / 4, "{points}: {failures:?}");
    figures(
        "EIO, ENOSPC and EROFS",
        &format!(
            "points tried {points}, acknowledged {acknowledged}, lost 0; failed as {failures:?} ({:.0} s)",
            began.elapsed().as_secs_f64()
        ),
    )
}
