//! A reader that never ends.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::ledger::figures;
use super::{choose, work};
use crate::common::program::{json, run, text};
use crate::common::role::{said, say, start};
use crate::common::{Base, TestResult};

/// The role of somebody's program that begins to read and does not stop.
pub fn read_for_ever(base: &Path) -> TestResult {
    let mut conn = Connection::open(base.join(".agentmux/state/state.db"))?;
    let transaction = conn.transaction()?;
    transaction.query_row("SELECT count(*) FROM tasks", [], |_| Ok(()))?;
    say("reads");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

#[test]
fn a_reader_that_never_ends_is_named_and_the_log_is_bounded_again_once_it_goes() -> TestResult {
    const MEGABYTE: u64 = 1024 * 1024;
    let base = Base::in_memory()?;
    let store = base.store()?;
    let size = || fs::metadata(base.file("state.db-wal")).map_or(0, |metadata| metadata.len());
    let update = |number: u64| {
        let mut task = work::task(&format!("T-{}", number % 10), &number.to_string());
        task.description = format!("{number:10}").repeat(10_000);
        store.update_task(&task)
    };
    (0..200).try_for_each(update)?;
    let without = size();
    assert!(without < 16 * MEGABYTE, "{without} bytes without a reader");
    assert!(store.write_ahead_log().held_back_by.is_empty());

    let (mut reader, mut output) = start("read", &base)?;
    assert_eq!(said(&mut output).next().as_deref(), Some("reads"));
    (200..choose(600, 2000)).try_for_each(update)?;
    let with = size();
    assert!(with > 20 * MEGABYTE, "{with} bytes: the reader does hold it back");
    // The library, `status` and `check` name it.
    assert_eq!(store.write_ahead_log().held_back_by, [reader.id()]);
    let status = json(&base, &["status"]);
    assert_eq!(status["wal"]["heldBackBy"], serde_json::json!([reader.id()]), "{status}");
    assert_eq!(status["wal"]["bytes"], with);
    let told = text(run(&base, 0, &["status"]));
    assert!(told.contains(&format!("held back by process {}", reader.id())), "{told}");
    let report = json(&base, &["check"]);
    let note = report["notes"].as_array().expect("notes").iter().find(|note| note["kind"] == "wal");
    let note = note.expect("a note on the log")["message"].as_str().expect("a text").to_owned();
    assert!(note.contains(&format!("process {} (", reader.id())), "{note}");

    reader.kill()?;
    reader.wait()?;
    // The next commits bring the log into the database and begin it anew.
    (0..40).try_for_each(update)?;
    let after = size();
    assert!(after <= 16 * MEGABYTE, "{after} bytes once it was gone");
    assert!(store.write_ahead_log().held_back_by.is_empty());
    assert!(store.check()?.notes.iter().all(|note| note.kind != "wal"));
    let megabytes = |bytes: u64| bytes as f64 / MEGABYTE as f64;
    figures(
        "a reader that never ends",
        &format!(
            "log {:.1} MB without, {:.1} MB with, {:.1} MB once it was gone",
            megabytes(without),
            megabytes(with),
            megabytes(after)
        ),
    )
}
