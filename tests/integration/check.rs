//! What `check` finds, each thing by itself; damage is in `damage.rs`, the program's output in `cli.rs`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::role::{role, say, start};
use crate::common::{Base, FIXTURE, TestResult, conversation, import, is_long, message, task};
use agentmux_state::{CheckReport, CheckpointReason, StateStore, TaskStatus};

fn base() -> Result<Base, Box<dyn std::error::Error>> {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    store.backups().create("now")?;
    Ok(base)
}

fn kinds(report: &CheckReport) -> (Vec<&str>, Vec<&str>) {
    let kinds = |findings: &[agentmux_state::CheckFinding]| findings.iter().map(|it| it.kind).collect();
    (kinds(&report.problems), kinds(&report.notes))
}

/// What a check finds after a person's shell has done something.
fn after(sql: &str) -> Result<CheckReport, Box<dyn std::error::Error>> {
    let base = base()?;
    let before = base.store()?.check()?;
    assert!(before.ok, "{before:?}");
    base.sql()?.execute_batch(sql)?;
    Ok(base.store()?.check()?)
}

#[test]
fn what_is_always_true_of_a_state_is_looked_at() -> TestResult {
    for (sql, kind, part) in [
        ("DELETE FROM task_steps WHERE position = 0", "invariant", "in task_steps lack an item"),
        ("DELETE FROM state", "invariant", "no row in the table state"),
        (
            "INSERT INTO runs (started_at, hostname, pid, restart_count) VALUES ('2026-11-22T10:00:00.000Z', 'h', 1, 0), ('2026-11-22T11:00:00.000Z', 'h', 2, 1)",
            "invariant",
            "several runs have not ended",
        ),
    ] {
        let report = after(sql)?;
        let found = report.problems.iter().any(|it| it.kind == kind && it.message.contains(part));
        assert!(found && !report.ok, "{sql}: {report:?}");
    }
    let report = after("DELETE FROM agents; DELETE FROM project_tasks; UPDATE tasks SET status = 'pending'")?;
    assert!(report.ok && !kinds(&report).1.contains(&"contradiction"), "{report:?}");
    let report = after("UPDATE tasks SET assigned_to = 'somebody-else'")?;
    assert!(report.ok && kinds(&report).1.contains(&"contradiction"), "{report:?}");
    Ok(())
}

#[test]
fn facts_can_be_compared() -> TestResult {
    let base = base()?;
    let store = base.store()?;
    let before = store.check()?.facts;
    store.update_task(&task("T-new", TaskStatus::Pending))?;
    let after = store.check()?.facts;
    assert_eq!((after.counts.tasks, after.counts.messages), (before.counts.tasks + 1, before.counts.messages));
    assert_eq!(before.database_bytes, fs::metadata(base.file("state.db"))?.len());
    assert_eq!(after.wal_bytes, fs::metadata(base.file("state.db-wal"))?.len());
    assert_eq!(after.newest_backup, Some(store.backups().list()?[0].id.clone()));
    assert!(after.disk_free_bytes.is_some_and(|bytes| bytes > 0));
    Ok(())
}

#[test]
fn an_export_that_knows_more_than_the_database_is_a_problem() -> TestResult {
    let base = base()?;
    let store = base.store()?;
    store.record_checkpoint(&CheckpointReason::UserRequest)?;
    store.refresh_export()?;
    assert!(store.check()?.ok);
    let newer = fs::read_to_string(base.file("current-state.json"))?
        .replace(store.state()?.checkpointed_at.as_str(), "2027-01-01T00:00:00.000Z");
    fs::write(base.file("current-state.json"), newer)?;
    let report = store.check()?;
    assert_eq!(kinds(&report).0, ["export"], "{report:?}");
    assert!(report.problems[0].message.contains("2027-01-01T00:00:00.000Z"));
    Ok(())
}

#[test]
fn space_that_is_unused_and_damaged_files_are_noted() -> TestResult {
    let base = base()?;
    let sql = base.sql()?;
    sql.execute_batch(
        "CREATE TABLE filler (x); INSERT INTO filler WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500)
         SELECT randomblob(4000) FROM n; DROP TABLE filler",
    )?;
    fs::create_dir(base.file("damaged-1"))?;
    fs::write(base.file("damaged-1/state.db"), "remains")?;
    let report = base.store()?.check()?;
    assert!(report.notes.iter().any(|it| it.kind == "space" && it.message.contains("prune")), "{report:?}");
    assert!(report.notes.iter().any(|it| it.kind == "damaged" && it.message.contains("7 bytes")), "{report:?}");
    assert!(report.facts.unused_bytes > 1024 * 1024);
    Ok(())
}

#[test]
fn every_file_that_others_can_reach_is_a_problem() -> TestResult {
    let base = base()?;
    let store = base.store()?;
    let backup = store.backups().list()?.remove(0);
    fs::write(base.file("notes-of-mine.txt"), "not ours")?;
    fs::set_permissions(base.file("notes-of-mine.txt"), Permissions::from_mode(0o644))?;
    assert!(store.check()?.ok);
    for path in [base.state_dir(), base.file("backups"), backup.path, base.file("state.db")] {
        let before = fs::metadata(&path)?.permissions();
        fs::set_permissions(&path, Permissions::from_mode(before.mode() | 0o044))?;
        let report = store.check()?;
        assert!(!report.ok && report.problems.iter().all(|it| it.kind == "permissions"), "{report:?}");
        assert!(report.problems[0].message.contains(&*path.to_string_lossy()), "{report:?}");
        fs::set_permissions(&path, before)?;
    }
    Ok(())
}

/// Adds messages and tasks, indexes them, prunes and trims, until it is told to stop; how often it wrote.
fn write_on(store: &StateStore, name: &str, is_done: impl Fn() -> bool) -> TestResult {
    store.update_conversation(&conversation(name, 0..5))?;
    for number in 0.. {
        if is_done() {
            break;
        }
        store.append_message(name, &message(number))?;
        store.update_task(&task(&format!("{name}-{}", number % 50), TaskStatus::InProgress))?;
        if number % 3 == 0 {
            store.update_message_index()?;
        }
        if number % 7 == 0 {
            store.remove_task(&format!("{name}-{}", number % 11))?;
        }
        if number % 50 == 0 {
            store.record_checkpoint(&CheckpointReason::Scheduled)?;
        }
    }
    Ok(())
}

#[test]
fn in_a_role() -> TestResult {
    let Some((_, base)) = role() else { return Ok(()) };
    let store = StateStore::open(base.join(".agentmux/state"))?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Until who started this closes its end.
            let _ = std::io::stdin().lock().lines().next();
            stop.store(true, Ordering::Relaxed);
        });
        say("writing");
        write_on(&store, "process", || stop.load(Ordering::Relaxed))
    })
}

#[test]
fn nothing_is_wrong_with_a_store_that_stays_open_while_others_write() -> TestResult {
    let base = base()?;
    let store = base.store()?;
    let (mut child, _output) = start("writer", &base)?;
    let seconds = if is_long() { 120 } else { 8 };
    let end = Instant::now() + Duration::from_secs(seconds);
    let is_done = || Instant::now() > end;
    let mut checks = 0;
    let (wrong, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_on(&store, "thread", is_done).map_err(|error| error.to_string()));
        // Readers that keep connections of the pool, with what these remember of the search index.
        let searcher = scope.spawn(|| {
            while !is_done() {
                store.search("message", 5).map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(())
        });
        let mut wrong = Vec::new();
        while !is_done() {
            checks += 1;
            match store.check() {
                Ok(report) => wrong.extend(report.problems),
                Err(error) => panic!("check {checks}: {error:?}"),
            }
        }
        (wrong, writer.join().expect("no panic").and(searcher.join().expect("no panic")))
    });
    child.stdin.take().expect("its input is piped").write_all(b"stop\n")?;
    child.wait()?;
    written?;
    println!("{checks} checks");
    assert!(checks > 3 && wrong.is_empty(), "{} problems in {checks} checks: {:?}", wrong.len(), wrong.first());
    Ok(())
}
