//! Tests that cannot run on this machine. `cargo test` calls them "ok" and captures what they print, so each skip is written
//! past the capture, and all of them once more below the last test.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The skips so far, and the process that prints them when this one ends: the test runner has no hook for its end.
static SKIPS: Mutex<(BTreeSet<String>, Option<ChildStdin>)> = Mutex::new((BTreeSet::new(), None));

/// Prints the lines of its input when that ends, which it does with the test program. Needs nothing that a `PATH` may lack.
const SUMMARY: &str = r#"trap '' INT
number=0 lines=
while IFS= read -r line; do number=$((number + 1)) lines="$lines$line
"; done
printf '\nSKIPPED, as this machine lacks what they need: %s\n%s\n' "$number" "$lines" >&2"#;

/// Whether all of these programs are in the `PATH`; otherwise records the calling test as skipped.
pub fn requires(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &str| std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    let missing: Vec<_> = programs.iter().copied().filter(|program| !has(program)).collect();
    if !missing.is_empty() {
        skip(&format!("{} is not installed", missing.join(", ")));
    }
    missing.is_empty()
}

/// Records that the calling test, or a part of it, is skipped.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    // With one test thread, the tests run in the main thread, which is not named after them.
    let test = thread.name().filter(|name| *name != "main").unwrap_or("a test");
    let line = format!("  {test}: {reason}");
    let mut skips = SKIPS.lock().unwrap_or_else(PoisonError::into_inner);
    if !skips.0.insert(line.clone()) {
        return;
    }
    // The test runner captures what `eprintln!` prints, not what is written to the handle.
    let _ = std::io::stderr().write_all(format!("SKIPPED{line}\n").as_bytes());
    if skips.1.is_none() {
        let summary = Command::new("/bin/sh").args(["-c", SUMMARY]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        skips.1 = summary.ok().and_then(|mut child| child.stdin.take());
    }
    if let Some(summary) = &mut skips.1 {
        let _ = summary.write_all(format!("{line}\n").as_bytes());
    }
}

/// Without `--nocapture`, as `cargo test` runs.
#[test]
fn a_test_that_is_skipped_is_named_at_once_and_in_the_summary() -> std::io::Result<()> {
    let test = "litestream::a_state_is_replicated_restored_elsewhere_and_brought_back_to_a_moment";
    let mut tests = Command::new(std::env::current_exe()?);
    let output = tests.args(["--exact", test, "--test-threads=2"]).env("PATH", "").output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let line = format!("  {test}: litestream is not installed\n");
    assert_eq!(*errors, format!("SKIPPED{line}\nSKIPPED, as this machine lacks what they need: 1\n{line}\n"));
    Ok(())
}
