//! What attacks on earlier versions found; each stays closed.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agentmux_state::{
    ChangeOperation, CheckpointReason, ConversationState, Error, ImportMode, ImportOptions, StateStore, TaskCheckpoint,
    TaskStatus,
};
use common::{Base, FIXTURE, TestResult, conversation, export, import, message, task};
use serde_json::{Value, json};

fn program(base: &Base, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentmux-state"));
    command.arg("--state-dir").arg(base.state_dir()).args(arguments).env_remove("AGENTMUX_STATE_DIR");
    command
}

fn run(base: &Base, arguments: &[&str]) -> std::io::Result<(Option<i32>, String, String)> {
    let output = program(base, arguments).output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

/// The `sqlite3` shell as people use it: foreign keys off.
fn shell(base: &Base, sql: &str) -> rusqlite::Result<()> {
    let conn = base.sql()?;
    conn.pragma_update(None, "foreign_keys", false)?;
    conn.execute_batch(sql)
}

#[test]
fn an_export_never_takes_the_place_of_the_states_own_files() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let backup = base.store()?.create_backup("x")?;
    for path in [base.file("state.db"), base.file("state.db-wal"), base.file("service.lock"), backup.path.clone()] {
        let (status, _, errors) = run(&base, &["export", path.to_str().expect("UTF-8")])?;
        assert_eq!(status, Some(1), "{}", path.display());
        assert!(errors.contains("belongs to the state"), "{errors}");
    }
    assert!(export(&base.store()?)? == FIXTURE);
    assert!(base.store()?.verify_backups(None)?[0].ok);
    // By its own name the export goes the way that keeps somebody else's file.
    base.write("current-state.json", "somebody else's")?;
    run(&base, &["export", base.file("current-state.json").to_str().expect("UTF-8")])?;
    assert!(fs::read_to_string(base.file("current-state.json"))? == FIXTURE);
    assert!(base.backups()?.iter().any(|name| name.ends_with("-before-first-export.json")));
    Ok(())
}

#[test]
fn an_export_writes_through_links_and_pipes() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let (target, link, pipe) = (base.path().join("target"), base.path().join("link"), base.path().join("pipe"));
    fs::write(&target, "old")?;
    symlink(&target, &link)?;
    assert_eq!(run(&base, &["export", link.to_str().expect("UTF-8")])?.0, Some(0));
    assert!(fs::symlink_metadata(&link)?.is_symlink() && fs::read_to_string(&target)? == FIXTURE);
    assert!(Command::new("mkfifo").arg(&pipe).status()?.success());
    let reader = {
        let pipe = pipe.clone();
        thread::spawn(move || fs::read_to_string(pipe))
    };
    assert_eq!(run(&base, &["export", pipe.to_str().expect("UTF-8")])?.0, Some(0));
    assert!(reader.join().expect("no panic")? == FIXTURE);
    assert!(fs::metadata(&pipe)?.file_type().is_fifo());
    Ok(())
}

#[test]
fn commands_before_the_first_start_do_not_hide_the_typescript_services_state() -> TestResult {
    for name in ["current-state.json", "orchestrator-state.json"] {
        let base = Base::new()?;
        base.write(name, FIXTURE)?;
        assert_eq!(run(&base, &["migrate"])?.0, Some(0));
        for arguments in [&["export"][..], &["checkpoint"]] {
            let (status, _, errors) = run(&base, arguments)?;
            assert_eq!(status, Some(1), "{arguments:?}");
            assert!(errors.contains("holds no state yet"), "{errors}");
        }
        assert!(fs::read_to_string(base.file(name))? == FIXTURE);
        assert_eq!(base.service().initialize()?.expect("the TypeScript service's").tasks.len(), 24);
    }
    // Also where the first start failed on a damaged file.
    let base = Base::new()?;
    base.write("current-state.json", &FIXTURE[..3000])?;
    for _ in 0..2 {
        assert!(base.service().initialize().is_err());
        assert_eq!(run(&base, &["checkpoint"])?.0, Some(1));
    }
    fs::remove_file(base.file("current-state.json"))?;
    symlink("nowhere", base.file("current-state.json"))?;
    assert!(base.service().initialize().is_err(), "a link that leads nowhere is no absence");
    Ok(())
}

#[test]
fn of_several_typescript_files_the_newest_is_taken_over() -> TestResult {
    let base = Base::new()?;
    let renamed = base.path().join(".crewly/state");
    fs::create_dir_all(&renamed)?;
    base.write("orchestrator-state.json", r#"{"version": "1.0.0", "checkpointedAt": "2025-01-01T00:00:00.000Z"}"#)?;
    fs::write(renamed.join("orchestrator-state.json"), FIXTURE)?;
    let service = base.service();
    assert_eq!(service.initialize()?.expect("the newest").tasks.len(), 24);

    let base = Base::new()?;
    base.write("current-state.json", FIXTURE)?;
    base.write("orchestrator-state.json", "cut off")?;
    assert!(matches!(base.service().initialize(), Err(Error::Document { .. })), "it might be the newest");
    Ok(())
}

#[test]
fn no_handle_is_left_on_a_new_database_when_it_gets_its_name() -> TestResult {
    // Closing one later would drop SQLite's locks on the live database, and another process could take the log away.
    let base = Base::new()?;
    let log = base.path().join("calls");
    let traced = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=openat,close,rename,renameat,renameat2,link,linkat", "-o"])
        .arg(&log)
        .arg(env!("CARGO_BIN_EXE_agentmux-state"))
        .args(["-q", "--state-dir"])
        .arg(base.state_dir())
        .arg("migrate")
        .status();
    if !traced.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: strace is not here, or may not trace");
        return Ok(());
    }
    let mut open = Vec::new();
    let mut named = false;
    for line in fs::read_to_string(log)?.lines() {
        let result = line.rsplit_once(" = ").map(|(_, result)| result.trim().to_owned()).unwrap_or_default();
        if line.contains("openat(") && line.contains("/.state-") && !result.starts_with('-') {
            open.push(result);
        } else if let Some((_, handle)) = line.split_once(" close(") {
            open.retain(|it| !handle.starts_with(&format!("{it})")));
        } else if (line.contains("rename") || line.contains("link")) && line.contains("/state.db\"") {
            named = true;
            assert!(open.is_empty(), "handles {open:?} are open at {line}");
        }
    }
    assert!(named, "it got its name");
    Ok(())
}

#[test]
fn the_service_can_be_asked_inside_a_batch_while_it_is_shut_down() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    let store = service.store()?;
    let (in_batch, done) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let result = store.batch(|batch| {
                in_batch.store(true, Ordering::Release);
                thread::sleep(Duration::from_millis(100));
                assert!(service.is_initialized() && service.store().is_ok());
                batch.update_task(&task("T-1", TaskStatus::Pending))
            });
            done.store(true, Ordering::Release);
            result.expect("it was there before the shutdown");
        });
        while !in_batch.load(Ordering::Acquire) {
            thread::yield_now();
        }
        service.prepare_for_shutdown().expect("it ends");
        assert!(done.load(Ordering::Acquire));
    });
    assert_eq!(service.state()?.tasks.len(), 1);
    Ok(())
}

#[test]
fn every_update_acknowledged_before_a_shutdown_is_in_its_export() -> TestResult {
    let base = Base::new()?;
    for round in 0..5 {
        let service = base.service();
        service.initialize()?;
        let acknowledged = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut acknowledged = 0;
                while service.update_task(&task(&format!("{round}-{acknowledged}"), TaskStatus::Pending)).is_ok() {
                    acknowledged += 1;
                }
                acknowledged
            });
            thread::sleep(Duration::from_millis(30));
            service.prepare_for_shutdown().expect("it ends");
            writer.join().expect("no panic")
        });
        let exported: Value = serde_json::from_slice(&fs::read(base.file("current-state.json"))?)?;
        let prefix = format!("{round}-");
        let found = exported["tasks"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|it| it["id"].as_str().expect("an id").starts_with(&prefix))
            .count();
        assert_eq!(found, acknowledged);
        assert!(base.store()?.changes()?.changes.is_empty(), "nothing came after the last checkpoint");
    }
    Ok(())
}

#[test]
fn a_store_of_a_service_that_is_gone_writes_no_more() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    let store = service.store()?;
    let clone = service.clone();
    drop(service);
    store.update_task(&task("T-1", TaskStatus::Pending))?;
    drop(clone);
    let next = base.service();
    next.initialize()?;
    assert!(matches!(store.update_task(&task("T-2", TaskStatus::Pending)), Err(Error::ShutDown { .. })));
    assert_eq!(store.state()?.tasks.len(), 1, "it can still be read");
    Ok(())
}

#[test]
fn renaming_in_the_shell_takes_along_what_belongs_to_a_row() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    store.record_checkpoint(&CheckpointReason::UserRequest)?;
    let before = store.task("task-1")?.expect("the task");
    let talk = store.conversation("conv-1")?.expect("the conversation");
    shell(
        &base,
        "UPDATE tasks SET id = 'renamed' WHERE id = 'task-1'; UPDATE conversations SET id = 'talk' WHERE id = 'conv-1'",
    )?;
    let after = store.task("renamed")?.expect("the task");
    assert_eq!(after, agentmux_state::TaskState { id: "renamed".into(), ..before });
    assert_eq!(store.conversation("talk")?, Some(ConversationState { id: "talk".into(), ..talk }));
    let changes: Vec<_> = store.changes()?.changes.into_iter().map(|it| (it.id, it.operation)).collect();
    for expected in [("task-1", ChangeOperation::Delete), ("renamed", ChangeOperation::Add)] {
        assert!(changes.contains(&(expected.0.to_owned(), expected.1)), "{changes:?}");
    }
    assert!(store.create_backup("x").is_ok());
    Ok(())
}

#[test]
fn rows_that_belong_to_nothing_are_refused_also_in_the_shell() -> TestResult {
    let base = Base::new()?;
    base.store()?;
    for sql in [
        "INSERT INTO messages (conversation_id, position, role, content, timestamp) VALUES ('gone', 0, '', '', '')",
        "INSERT INTO task_steps VALUES ('gone', 'completed', 0, 'x')",
        "INSERT INTO task_checkpoint_files VALUES ('gone', 0, 'x')",
        "INSERT INTO project_tasks VALUES ('gone', 0, 'x')",
    ] {
        let error = shell(&base, sql).expect_err(sql).to_string();
        assert!(error.contains("names no row of"), "{sql}: {error}");
    }
    Ok(())
}

#[test]
fn what_was_added_and_removed_between_checkpoints_is_no_change() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_task(&task("T-1", TaskStatus::Pending))?;
    store.record_checkpoint(&CheckpointReason::UserRequest)?;
    store.update_conversation(&conversation("C-1", 0..3))?;
    store.remove_conversation("C-1")?;
    assert_eq!(store.changes()?.changes, []);
    store.remove_task("T-1")?;
    assert_eq!(store.changes()?.changes[0].operation, ChangeOperation::Delete);
    Ok(())
}

#[test]
fn an_update_that_fails_inside_a_batch_leaves_no_half() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let mut good = task("T-1", TaskStatus::Pending);
    good.checkpoint = Some(TaskCheckpoint { agent_context: Some("kept".into()), ..TaskCheckpoint::default() });
    store.update_task(&good)?;
    let mut bad = good.clone();
    bad.title = "changed".into();
    bad.checkpoint = Some(TaskCheckpoint { work_data: Some(nested(200)), ..TaskCheckpoint::default() });
    store.batch(|batch| {
        assert!(matches!(batch.update_task(&bad), Err(Error::InvalidValue { .. })));
        // The caller goes on all the same.
        batch.update_task(&task("T-2", TaskStatus::Pending))
    })?;
    assert_eq!(store.task("T-1")?, Some(good));
    assert!(store.task("T-2")?.is_some());
    Ok(())
}

/// An object with so many levels.
fn nested(levels: usize) -> serde_json::Map<String, Value> {
    let mut value = json!(1);
    for _ in 1..levels {
        value = json!([value]);
    }
    json!({"x": value}).as_object().expect("an object").clone()
}

#[test]
fn what_is_accepted_can_be_read_exported_and_imported_again_however_deep() -> TestResult {
    for levels in [90, 95, 96, 97, 100, 124, 125, 126, 127, 128, 300] {
        let base = Base::new()?;
        let store = base.store()?;
        let mut task = task("T-1", TaskStatus::Pending);
        task.checkpoint = Some(TaskCheckpoint { work_data: Some(nested(levels)), ..TaskCheckpoint::default() });
        let written = store.update_task(&task);
        assert_eq!(written.is_ok(), levels <= 96, "{levels}: {written:?}");
        let deep = format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        let step = r#""id": "T-2", "title": "", "description": "", "status": "", "priority": "", "createdAt": """#;
        let document = format!(r#"{{"version": "1.0.0", "u": {deep}, "tasks": [{{{step}, "u": {deep}}}]}}"#);
        let options = ImportOptions { mode: ImportMode::Merge, ..ImportOptions::default() };
        let report = store.import_json(document.as_bytes(), options)?;
        assert_eq!(report.set_aside.is_empty(), levels <= 95, "{levels}: {report:?}");
        for record in store.set_aside()? {
            assert!(record.content.contains(&deep), "{levels}: kept word for word");
        }
        let again = Base::new()?;
        let report = import(&again.store()?, &export(&store)?)?;
        assert_eq!(report.set_aside, [], "{levels}");
        assert_eq!(again.store()?.state()?, store.state()?);
    }
    Ok(())
}

#[test]
fn no_key_has_a_meaning_of_its_own() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let odd = json!({"$serde_json::private::RawValue": "[1", "$serde_json::private::Number": "7"});
    let document =
        json!({"version": "1.0.0", "u": odd, "tasks": [], "conversations": [], "agents": [], "projects": []});
    import(&store, &document.to_string())?;
    assert_eq!(store.state()?.extra["u"].to_string(), odd.to_string());
    assert!(export(&store)?.contains("\"$serde_json::private::RawValue\": \"[1\""));
    let halves = r#"{"version": "1.0.0", "x\ud83d": 1}"#;
    let other = Base::new()?;
    let report = import(&other.store()?, halves)?;
    assert!(report.warnings.iter().any(|warning| warning.message.contains("surrogate")), "{report:?}");
    assert_eq!(other.store()?.state()?.extra["x\u{fffd}"], 1);
    Ok(())
}

#[test]
fn a_newer_version_is_refused_however_it_is_written() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    for version in [
        r#""2""#,
        r#""2.0""#,
        r#""v2.0.0""#,
        r#"" 2.0.0""#,
        r#""2.0.0.0""#,
        r#""99999999999999999999.0.0""#,
        "2",
        "2.5",
        r#""2.0.0\ud83d""#,
        r#""\u0032""#,
    ] {
        let result = import(&store, &format!(r#"{{"version": {version}, "tasks": []}}"#));
        assert!(matches!(result, Err(Error::DocumentTooNew { .. })), "{version}: {result:?}");
    }
    Ok(())
}

#[test]
fn a_replacement_that_drops_the_messages_needs_a_word() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    let mut document: Value = serde_json::from_str(FIXTURE)?;
    for conversation in document["conversations"].as_array_mut().expect("a list") {
        conversation["recentMessages"] = json!([]);
    }
    let options = ImportOptions { mode: ImportMode::Replace, ..ImportOptions::default() };
    let result = store.import_json(document.to_string().as_bytes(), options);
    assert!(matches!(result, Err(Error::WouldShrink { before: 72, after: 0 })), "{result:?}");
    Ok(())
}

#[test]
fn what_cannot_be_opened_is_told_at_once() -> TestResult {
    let (base, elsewhere) = (Base::new()?, Base::new()?);
    elsewhere.store()?;
    fs::create_dir_all(base.state_dir())?;
    symlink(elsewhere.file("state.db"), base.file("state.db"))?;
    let start = Instant::now();
    let (status, _, errors) = run(&base, &["status"])?;
    assert_eq!(status, Some(1));
    assert!(errors.contains("it is a link"), "{errors}");
    fs::remove_file(base.file("state.db"))?;
    fs::create_dir(base.file("state.db"))?;
    assert_eq!(run(&base, &["status"])?.0, Some(1));
    assert!(start.elapsed() < Duration::from_secs(10), "no waiting for what cannot come");
    Ok(())
}

#[test]
fn a_store_that_may_not_write_leaves_the_export_alone() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    base.write("current-state.json", "somebody else's")?;
    let read_only = StateStore::open_read_only(base.state_dir())?;
    assert!(matches!(read_only.refresh_export(), Err(Error::ReadOnly { .. })));
    let first = base.service();
    first.initialize()?;
    let second = base.service();
    second.initialize()?;
    assert!(matches!(first.store()?.refresh_export(), Err(Error::TakenOver { .. })));
    assert_eq!(fs::read_to_string(base.file("current-state.json"))?, "somebody else's");
    assert_eq!(base.backups()?, [""; 0]);
    Ok(())
}

#[test]
fn a_checkpoint_after_a_crash_is_not_booked_on_the_dead_run() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::Pending))?;
    service.save_state(CheckpointReason::UserRequest)?;
    drop(service);
    assert_eq!(run(&base, &["checkpoint"])?.0, Some(0));
    let runs: Vec<Option<i64>> = base
        .sql()?
        .prepare("SELECT run_id FROM checkpoints ORDER BY checkpoint_id")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    assert_eq!(runs, [Some(1), None]);
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
                        run(&base, &["--json", "status"]).expect("the program runs").1.contains("\"active\": false")
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
fn a_document_may_come_through_a_pipe() -> TestResult {
    let base = Base::new()?;
    let mut child =
        program(&base, &["import", "--strict", "/dev/stdin"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    child.stdin.take().expect("its input is piped").write_all(FIXTURE.as_bytes())?;
    assert!(child.wait()?.success());
    assert!(export(&base.store()?)? == FIXTURE);
    Ok(())
}

#[test]
fn what_was_done_is_told_by_the_exit_status_also_where_it_cannot_be_printed() -> TestResult {
    let base = Base::new()?;
    let full = || fs::File::options().write(true).open("/dev/full");
    let imported = program(&base, &["import", "tests/fixtures/quirks.json"]).stdout(full()?).output()?;
    assert_eq!(imported.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&imported.stderr).contains("done, but the report could not be written"));
    assert_eq!(base.store()?.summary()?.counts.tasks, 2);
    assert_eq!(program(&base, &["status"]).stdout(full()?).output()?.status.code(), Some(1));
    Ok(())
}

#[test]
fn files_are_private_under_the_strangest_umask() -> TestResult {
    let base = Base::new()?;
    let program = env!("CARGO_BIN_EXE_agentmux-state");
    let script = format!(
        "umask 0777; for command in 'import tests/fixtures/current-state.json' checkpoint 'backup create'; do \
         '{program}' -q --state-dir '{}' $command || exit 1; done",
        base.state_dir().display()
    );
    assert!(Command::new("sh").args(["-c", &script]).status()?.success());
    for directory in [base.state_dir(), base.file("backups")] {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let expected = if entry.file_type()?.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(entry.metadata()?.permissions().mode() & 0o777, expected, "{}", entry.path().display());
        }
    }
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

#[test]
fn a_list_item_that_cannot_be_read_is_named_with_its_list() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_conversation(&conversation("C-1", 0..3))?;
    shell(&base, "UPDATE messages SET extra = '[]' WHERE position = 1")?;
    match store.conversation("C-1") {
        Err(Error::InvalidRow { table: "messages", row, column: "extra", .. }) => assert_eq!(row, "C-1, position 1"),
        other => panic!("{other:?}"),
    }
    shell(
        &base,
        "DELETE FROM conversations; INSERT INTO tasks (id, title, description, status, priority, percent_complete, created_at) VALUES ('T', '', '', '', '', 9e999, '')",
    )?;
    assert!(matches!(store.task("T"), Err(Error::InvalidRow { column: "percent_complete", .. })));
    Ok(())
}
