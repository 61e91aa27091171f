//! The program: what it prints, for people and as JSON, and how it exits.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use agentmux_state::{StateStore, TaskStatus};
use serde_json::{Value, json};

use crate::common::program::{command, error, json, json_with, outcome, run, text};
use crate::common::{Base, FIXTURE, TestResult, base_of, export, task};

const FIXTURE_PATH: &str = "tests/fixtures/current-state.json";
const QUIRKS_PATH: &str = "tests/fixtures/quirks.json";

fn with_stdin(base: &Base, arguments: &[&str], input: &[u8]) -> std::io::Result<Output> {
    let mut child =
        command(base, arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().expect("its input is piped").write_all(input)?;
    child.wait_with_output()
}

#[test]
fn import_and_export_give_the_same_bytes() -> TestResult {
    let base = Base::new()?;
    let report = json(&base, &["import", FIXTURE_PATH]);
    assert_eq!(
        report,
        json!({
            "sourceVersion": "1.0.0",
            "imported": {"conversations": 6, "messages": 72, "tasks": 24, "agents": 5, "projects": 3, "selfImprovement": 1},
            "setAside": [], "warnings": [], "backup": null
        })
    );
    assert!(text(run(&base, 0, &["export", "-"])) == FIXTURE);
    let file = base.path().join("copy.json");
    let name = file.to_str().expect("UTF-8");
    assert_eq!(json(&base, &["export", name]), json!({"path": name, "bytes": FIXTURE.len()}));
    assert!(std::fs::read_to_string(&file)? == FIXTURE);
    run(&base, 0, &["export"]);
    assert!(std::fs::read_to_string(base.file("current-state.json"))? == FIXTURE);
    assert!(error(&base, 1, &["export", "/dev/full"]).contains("no room left on the disk for /dev/full"));

    let other = Base::new()?;
    assert_eq!(with_stdin(&other, &["import", "-"], FIXTURE.as_bytes())?.status.code(), Some(0));
    assert!(text(run(&other, 0, &["export", "-"])) == FIXTURE);
    Ok(())
}

#[test]
fn import_of_a_file_with_quirks_names_what_it_set_aside() -> TestResult {
    let base = Base::new()?;
    let problems = error(&base, 1, &["import", "--strict", QUIRKS_PATH]);
    assert!(problems.contains("8 problems"), "{problems}");
    assert!(
        problems.contains("line 24: $.conversations[0].recentMessages[2]: content: expected a string"),
        "{problems}"
    );
    assert!(!base.state_dir().exists(), "a strict import that fails makes nothing");

    let report = json_with(&base, 3, &["import", QUIRKS_PATH]);
    let paths: Vec<_> = report["setAside"].as_array().expect("a list").iter().map(|it| &it["path"]).collect();
    assert_eq!(paths, ["$.conversations[0].recentMessages[2]", "$.tasks[1]", "$.tasks[2]", "$.tasks[3]"]);
    let before = json(&base, &["status"]);
    error(&base, 1, &["import", "--strict", "--merge", QUIRKS_PATH]);
    assert_eq!(json(&base, &["status"]), before);

    let people = text(run(&base, 3, &["import", "--replace", QUIRKS_PATH]));
    assert!(people.contains("$.tasks[3]: expected an object, found a string"), "{people}");
    assert!(people.contains("in backup backup-"), "{people}");
    Ok(())
}

#[test]
fn an_import_that_fails_changes_nothing() -> TestResult {
    let base = Base::new()?;
    for length in [0, 1, FIXTURE.len() / 2, FIXTURE.len() - 1] {
        let output = with_stdin(&base, &["import", "-"], &FIXTURE.as_bytes()[..length])?;
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("error: standard input, line "));
        assert!(!base.state_dir().exists(), "no empty database is left behind");
    }
    assert!(error(&base, 1, &["import", "gone.json"]).contains("cannot read gone.json"));
    run(&base, 0, &["import", FIXTURE_PATH]);
    assert!(error(&base, 1, &["import", FIXTURE_PATH]).contains("--replace"));
    assert!(error(&base, 1, &["import", "--replace", QUIRKS_PATH]).contains("--allow-shrink"));
    assert!(text(run(&base, 0, &["export", "-"])) == FIXTURE);
    run(&base, 3, &["import", "--replace", "--allow-shrink", QUIRKS_PATH]);
    Ok(())
}

#[test]
fn reading_commands_never_make_a_database() -> TestResult {
    let base = Base::new()?;
    for arguments in [
        &["status"][..],
        &["resume"],
        &["checkpoint"],
        &["export"],
        &["export", "-"],
        &["list", "tasks"],
        &["show", "task", "T-1"],
        &["migrate", "--status"],
    ] {
        let message = error(&base, 1, arguments);
        assert!(message.contains("state.db does not exist"), "{arguments:?}: {message}");
        assert!(!base.state_dir().exists(), "{arguments:?}");
    }
    Ok(())
}

#[test]
fn status_counts_and_tells_how_the_last_run_ended() -> TestResult {
    let base = Base::new()?;
    run(&base, 0, &["import", FIXTURE_PATH]);
    let status = json(&base, &["status"]);
    assert_eq!(
        status,
        json!({
            "stateDir": base.state_dir().canonicalize()?, "schemaVersion": StateStore::migration_status(base.state_dir())?.latest_schema_version, "stateVersion": "1.0.0",
            "databaseBytes": status["databaseBytes"],
            "wal": {"bytes": status["wal"]["bytes"], "heldBackBy": []}, "mode": "normal",
            "counts": {
                "conversations": 6, "messages": 72, "tasks": 24, "agents": 5, "projects": 3, "setAside": 0, "backups": 0
            },
            "tasksByStatus": {"blocked": 5, "completed": 4, "in_progress": 5, "paused": 5, "pending": 5},
            "lastCheckpoint": null, "run": null
        })
    );
    assert!(status["databaseBytes"].as_u64() > Some(100_000));

    let service = base.service();
    service.initialize()?;
    let running = json(&base, &["status"])["run"].clone();
    assert_eq!((&running["active"], &running["endedCleanly"]), (&json!(true), &Value::Null));
    assert_eq!((&running["pid"], &running["restartCount"]), (&json!(std::process::id()), &json!(4)));
    assert!(text(run(&base, 0, &["status"])).contains(&format!("process {} on ", std::process::id())));
    drop(service);
    let crashed = json(&base, &["status"])["run"].clone();
    assert_eq!((&crashed["active"], &crashed["endedCleanly"]), (&json!(false), &json!(false)));
    assert!(text(run(&base, 0, &["status"])).contains("a crash"));

    let service = base.service();
    service.initialize()?;
    service.prepare_for_shutdown()?;
    let status = json(&base, &["status"]);
    assert_eq!(status["run"]["endedCleanly"], true);
    assert_eq!(status["lastCheckpoint"]["reason"], "before_restart");
    Ok(())
}

#[test]
fn while_an_orchestrator_runs_only_what_would_disturb_it_is_refused() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::InProgress))?;
    for arguments in [&["import", FIXTURE_PATH][..], &["import", "--merge", FIXTURE_PATH], &["migrate"]] {
        let message = error(&base, 1, arguments);
        assert!(message.contains(&format!("in use by process {}", std::process::id())), "{message}");
    }
    for arguments in [
        &["status"][..],
        &["resume"],
        &["export"],
        &["export", "-"],
        &["list", "tasks"],
        &["show", "task", "T-1"],
        &["checkpoint"],
        &["migrate", "--status"],
    ] {
        run(&base, 0, arguments);
    }
    service.update_task(&task("T-2", TaskStatus::InProgress))?;
    assert_eq!(json(&base, &["list", "tasks"]).as_array().expect("a list").len(), 2);
    Ok(())
}

#[test]
fn checkpoint_records_the_reason_and_refreshes_the_export() -> TestResult {
    let base = Base::new()?;
    run(&base, 0, &["import", FIXTURE_PATH]);
    let checkpoint = json(&base, &["checkpoint", "--reason", "error_recovery"]);
    assert_eq!(checkpoint["reason"], "error_recovery");
    assert_eq!(json(&base, &["status"])["lastCheckpoint"], checkpoint);
    let document: Value = serde_json::from_slice(&std::fs::read(base.file("current-state.json"))?)?;
    assert_eq!(document["checkpointedAt"], checkpoint["checkpointedAt"]);
    assert!(error(&base, 2, &["checkpoint", "--reason", "whim"]).contains("user_request"), "it names what is possible");
    Ok(())
}

#[test]
fn list_and_show_print_entities_as_the_document_has_them() -> TestResult {
    let base = Base::new()?;
    run(&base, 0, &["import", FIXTURE_PATH]);
    let document: Value = serde_json::from_str(FIXTURE)?;
    for (list, kind, key) in [
        ("conversations", "conversation", "id"),
        ("tasks", "task", "id"),
        ("agents", "agent", "sessionName"),
        ("projects", "project", "id"),
    ] {
        assert_eq!(json(&base, &["list", list]), document[list]);
        let first = &document[list][0];
        let id = first[key].as_str().expect("its key");
        assert_eq!(&json(&base, &["show", kind, id]), first);
        assert!(text(run(&base, 0, &["list", list])).contains(id));
        assert!(text(run(&base, 0, &["show", kind, id])).contains(id));
        assert!(error(&base, 1, &["show", kind, "gone"]).contains(&format!("there is no {kind} \"gone\"")));
    }
    // The same numbers, to the letter.
    assert!(text(run(&base, 0, &["--json", "show", "task", "task-1"])).contains("\"percentComplete\": 7,"));
    let paused = json(&base, &["list", "tasks", "--status", "paused", "--limit", "2"]);
    assert_eq!((&paused[0]["id"], &paused[1]["id"], &paused[2]), (&json!("task-3"), &json!("task-8"), &Value::Null));
    error(&base, 2, &["list", "conversations", "--status", "paused"]);
    Ok(())
}

#[test]
fn resume_takes_the_moment_to_judge_by() -> TestResult {
    let base = Base::new()?;
    run(&base, 0, &["import", FIXTURE_PATH]);
    let early = json(&base, &["resume", "--now", "2026-11-01T00:05:00Z"]);
    assert_eq!(early["conversationsToResume"].as_array().expect("a list").len(), 6);
    assert_eq!(early["tasksToResume"].as_array().expect("a list").len(), 10);
    let late = json(&base, &["resume"]);
    assert_eq!(late["conversationsToResume"], json!([]));
    assert_eq!(
        early["notifications"][0]["message"],
        "AgentMux has restarted (restart #4). Resuming 10 tasks and 6 conversations."
    );
    error(&base, 2, &["resume", "--now", "yesterday"]);
    Ok(())
}

#[test]
fn migrate_makes_a_database_and_says_which_schema_it_has() -> TestResult {
    let base = Base::new()?;
    let made = text(run(&base, 0, &["migrate"]));
    assert!(made.starts_with("Made the database with schema version"), "{made}");
    let report = json(&base, &["migrate"]);
    assert_eq!(report["schemaVersion"], report["latestSchemaVersion"]);
    assert_eq!((&report["stateVersion"], &report["backup"]), (&json!("1.0.0"), &Value::Null));
    assert_eq!(report["applied"][0]["name"], "document");
    assert_eq!(report["pending"], json!([]));
    assert!(report.get("dryRun").is_none());
    assert_eq!(base.backups()?, [""; 0]);
    Ok(())
}

#[test]
fn an_outdated_database_is_only_upgraded_on_purpose() -> TestResult {
    let base = base_of(1)?;
    for command in ["status", "checkpoint", "check"] {
        assert!(error(&base, 1, &[command]).contains("run `agentmux-state migrate`"));
    }
    assert!(!base.file("backups").exists());
    Ok(())
}

#[test]
fn backups_are_made_listed_verified_restored_and_thinned_out() -> TestResult {
    let base = Base::new()?;
    error(&base, 1, &["backup", "create"]);
    assert!(!base.state_dir().exists(), "there is nothing to back up, and nothing is made");
    run(&base, 0, &["import", FIXTURE_PATH]);
    let made = json(&base, &["backup", "create", "before the change"]);
    let id = made["id"].as_str().expect("an id");
    assert_eq!(made["label"], "before the change");
    assert_eq!(made["bytes"], std::fs::metadata(made["path"].as_str().expect("a path"))?.len());
    assert_eq!(json(&base, &["backup", "list"]), json!([made]));
    assert_eq!(json(&base, &["backup", "verify"]), json!([{"id": id, "ok": true, "problems": []}]));
    assert_eq!(json(&base, &["status"])["counts"]["backups"], 1);

    // It overwrites an agent, and makes a backup first.
    let merged = json_with(&base, 3, &["import", "--merge", QUIRKS_PATH]);
    let restored = json(&base, &["backup", "restore", id]);
    assert_eq!(restored["restored"], id);
    assert!(restored["safetyBackup"].as_str().expect("an id").ends_with("-before-restore"));
    assert!(text(run(&base, 0, &["export", "-"])) == FIXTURE);
    assert!(std::fs::read_to_string(base.file("current-state.json"))? == FIXTURE);
    assert_eq!(json(&base, &["status"])["lastCheckpoint"]["reason"], "error_recovery");
    assert!(text(run(&base, 0, &["backup", "list"])).contains("before the change"));

    let before = base.backups()?;
    for id in ["backup-1-gone", "../../state", "/etc/passwd"] {
        assert!(error(&base, 1, &["backup", "restore", id]).contains(&format!("there is no backup {id:?}")));
    }
    assert_eq!(base.backups()?, before);
    let plan = json(&base, &["backup", "prune", "--keep", "1", "--dry-run"]);
    assert_eq!(plan, json!({"removed": [merged["backup"], id], "kept": [restored["safetyBackup"]]}));
    assert_eq!(base.backups()?, before, "a dry run removes nothing");
    assert_eq!(json(&base, &["backup", "prune", "--keep-daily", "1"]), plan);
    assert_eq!(base.backups()?.len(), 2);

    std::fs::write(base.file("backups/backup-5-bad.db"), "no database")?;
    let verdict = run(&base, 1, &["--json", "backup", "verify", "backup-5-bad"]);
    assert!(String::from_utf8(verdict.stdout)?.contains("checksum is missing"));
    assert!(text(run(&base, 1, &["backup", "verify"])).contains("backup-5-bad: CANNOT BE TRUSTED"));
    assert!(error(&base, 1, &["backup", "restore", "backup-5-bad"]).contains("cannot be trusted"));
    let service = base.service();
    service.initialize()?;
    assert!(error(&base, 1, &["backup", "restore", "backup-5-bad"]).contains("in use by process"));
    run(&base, 0, &["backup", "create", "beside it"]);
    Ok(())
}

#[test]
fn check_tells_what_is_wrong_and_what_is_worth_knowing() -> TestResult {
    let base = Base::new()?;
    run(&base, 3, &["import", QUIRKS_PATH]);
    let report = json(&base, &["check"]);
    assert_eq!((&report["ok"], &report["problems"]), (&json!(true), &json!([])));
    let notes: Vec<_> = report["notes"].as_array().expect("a list").iter().map(|it| &it["message"]).collect();
    assert_eq!(
        notes,
        [
            "task T-1 names task T-404, which is gone",
            "agent dev-1 names task T-404, which is gone",
            "project P-1 names task T-404, which is gone",
            "imports could not read 4 records; the table set_aside keeps them",
            "there is no backup",
        ]
    );
    let damage = |sql: &str| base.sql()?.execute_batch(sql);
    damage("PRAGMA foreign_keys = OFF; UPDATE messages SET conversation_id = 'gone' WHERE position = 0")?;
    damage("UPDATE agents SET extra = '{'; CREATE TRIGGER evil AFTER DELETE ON tasks BEGIN SELECT 1; END")?;
    damage("DROP TRIGGER messages_inserted")?;
    std::fs::write(base.file("backups/backup-5-bad.db"), "no database")?;
    std::fs::set_permissions(base.file("state.db"), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let report = json_with(&base, 1, &["check"]);
    let mut kinds: Vec<_> = report["problems"].as_array().expect("a list").iter().map(|it| &it["kind"]).collect();
    let number = kinds.len();
    kinds.dedup();
    assert_eq!(kinds, ["foreign_key", "unreadable", "schema", "backup", "permissions"], "{report}");
    assert!(text(run(&base, 1, &["check"])).contains(&format!("{number} problems:")));
    Ok(())
}

#[test]
fn output_for_people_holds_nothing_that_a_terminal_obeys() -> TestResult {
    let base = Base::new()?;
    let mut hostile = task("T-\u{1b}[2J", TaskStatus::Other("\u{1b}]0;x\u{7}".into()));
    hostile.title = "line\nbreak \u{202e}backwards".into();
    base.store()?.update_task(&hostile)?;
    for arguments in [&["list", "tasks"][..], &["show", "task", &hostile.id], &["status"]] {
        let printed = text(run(&base, 0, arguments));
        assert!(printed.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{printed:?}");
    }
    let printed = text(run(&base, 0, &["--json", "show", "task", &hostile.id]));
    assert_eq!(serde_json::from_str::<agentmux_state::TaskState>(&printed)?, hostile);
    Ok(())
}

#[test]
fn the_state_directory_comes_from_the_option_the_variable_or_the_home_directory() -> TestResult {
    let base = Base::new()?;
    let program = |home: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentmux-state"));
        command.env_remove("AGENTMUX_STATE_DIR").env("HOME", home);
        command
    };
    assert!(program(base.path()).args(["import", FIXTURE_PATH]).status()?.success());
    assert!(base.file("state.db").exists());
    let elsewhere = Base::new()?;
    let status =
        program(elsewhere.path()).args(["--json", "status"]).env("AGENTMUX_STATE_DIR", base.state_dir()).output()?;
    assert!(String::from_utf8(status.stdout)?.contains("\"tasks\": 24"));
    Ok(())
}

#[test]
fn help_teaches_and_a_wrong_usage_is_told() -> TestResult {
    let base = Base::new()?;
    let help = text(run(&base, 0, &["--help"]));
    for command in ["migrate", "import", "export", "status", "resume", "checkpoint", "list", "show", "Exit status"] {
        assert!(help.contains(command), "{command}");
    }
    error(&base, 2, &["no-such-command"]);
    error(&base, 2, &["import", "--replace", "--merge", "x"]);
    // Somebody who closes the pipe has seen enough.
    run(&base, 0, &["import", FIXTURE_PATH]);
    let program = env!("CARGO_BIN_EXE_agentmux-state");
    let script = format!("'{program}' --state-dir '{}' export - | head -c 10", base.state_dir().display());
    let output = Command::new("bash").args(["-o", "pipefail", "-c", &script]).output()?;
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    Ok(())
}

#[test]
fn directories_and_arguments_that_are_no_utf_8_do() -> TestResult {
    let base = Base::new()?;
    let directory = base.path().join(OsStr::from_bytes(b"st\xffate"));
    let shown = directory.to_string_lossy().into_owned();
    let json = |arguments: &[&OsStr]| -> std::io::Result<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentmux-state"));
        let output = command.arg("--state-dir").arg(&directory).arg("--json").args(arguments).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{arguments:?}: {errors}");
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let of = |arguments: &[&'static str]| json(&arguments.iter().map(OsStr::new).collect::<Vec<_>>());
    of(&["import", FIXTURE_PATH])?;
    assert_eq!(of(&["status"])?["stateDir"], shown);
    let backup = of(&["backup", "create"])?;
    assert!(backup["path"].as_str().expect("a path").starts_with(&shown));
    assert_eq!(of(&["backup", "list"])?, json!([backup]));
    assert_eq!(of(&["export"])?["path"], format!("{shown}/current-state.json"));
    let file = base.path().join(OsStr::from_bytes(b"\xff.json"));
    let exported = json(&["export".as_ref(), file.as_os_str()])?;
    assert_eq!((&exported["path"], file.exists()), (&file.to_string_lossy().into_owned().into(), true));
    let page = base.path().join(OsStr::from_bytes(b"\xff.html"));
    let reported = json(&["report".as_ref(), page.as_os_str()])?;
    assert_eq!(reported["path"], page.to_string_lossy().into_owned());
    std::fs::write(directory.join("state.db"), "damaged")?;
    for log in ["state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(directory.join(log));
    }
    assert!(of(&["recover"])?["setAsideAs"].as_str().expect("a path").starts_with(&shown));

    // What a shell asks to complete a line in which something is no text.
    let complete = |words: &[&[u8]]| -> std::io::Result<Output> {
        let words = words.iter().map(|word| OsStr::from_bytes(word));
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentmux-state"));
        command.env("COMPLETE", "fish").env("AGENTMUX_STATE_DIR", &directory);
        command.args(["--", "agentmux-state", "show", "task"]).args(words).output()
    };
    let none = complete(&[b"\xff"])?;
    assert_eq!((none.status.code(), none.stdout, none.stderr), (Some(0), Vec::new(), Vec::new()));
    let elsewhere = [b"--state-dir=".as_slice(), directory.as_os_str().as_bytes()].concat();
    assert!(text(complete(&[&elsewhere, b"task-2"])?).contains("task-23"));
    Ok(())
}

#[test]
fn what_cannot_be_opened_is_told_at_once() -> TestResult {
    let (base, elsewhere) = (Base::new()?, Base::new()?);
    elsewhere.store()?;
    fs::create_dir_all(base.state_dir())?;
    symlink(elsewhere.file("state.db"), base.file("state.db"))?;
    let start = Instant::now();
    let (status, _, errors) = outcome(&base, &["status"])?;
    assert_eq!(status, Some(1));
    assert!(errors.contains("it is a link"), "{errors}");
    fs::remove_file(base.file("state.db"))?;
    fs::create_dir(base.file("state.db"))?;
    assert_eq!(outcome(&base, &["status"])?.0, Some(1));
    assert!(start.elapsed() < Duration::from_secs(10), "no waiting for what cannot come");
    Ok(())
}

#[test]
fn a_document_may_come_through_a_pipe() -> TestResult {
    let base = Base::new()?;
    let mut child =
        command(&base, &["import", "--strict", "/dev/stdin"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    child.stdin.take().expect("its input is piped").write_all(FIXTURE.as_bytes())?;
    assert!(child.wait()?.success());
    assert!(export(&base.store()?)? == FIXTURE);
    Ok(())
}

#[test]
fn what_was_done_is_told_by_the_exit_status_also_where_it_cannot_be_printed() -> TestResult {
    let base = Base::new()?;
    let full = || fs::File::options().write(true).open("/dev/full");
    let imported = command(&base, &["import", "tests/fixtures/quirks.json"]).stdout(full()?).output()?;
    assert_eq!(imported.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&imported.stderr).contains("done, but the report could not be written"));
    assert_eq!(base.store()?.summary()?.counts.tasks, 2);
    assert_eq!(command(&base, &["status"]).stdout(full()?).output()?.status.code(), Some(1));
    Ok(())
}
