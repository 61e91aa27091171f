//! What guards a state against what happens around it: exports onto its files, files that are moved or replaced while it is
//! open, lost locks, shared mounts, two containers, odd clocks and odd files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::program::{command, error, json, run};
use crate::common::role::{role, said, say, start, start_under};
use crate::common::skip::skip;
use crate::common::{Base, FIXTURE, TestResult, agent, base_of, conversation, export, import, task, within};
use agentmux_state::{
    AgentActivity, AgentState, BackedUpFile, BuildState, CheckpointReason, Clock, ConversationState, DirectoryLock,
    Error, Extra, GitState, ImportMode, ImportOptions, ListFilter, PersistedMessage, PlannedChange, ProjectState,
    PruneOptions, RollbackPlan, SelfImprovementBackup, SelfImprovementState, SelfImprovementTask, ServiceOptions,
    SharedMounts, SlackContext, StatePersistenceService, StateRetention, StateStore, StoreOptions, TaskCheckpoint,
    TaskState, TaskStatus, ValidationCheck, write_private_file,
};
use chrono::{DateTime, Utc};
use rusqlite::Connection;

fn name(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// In the processes that other tests start; else it does nothing.
#[test]
fn in_a_role() -> TestResult {
    let Some((role, base)) = role() else { return Ok(()) };
    match role.as_str() {
        // Updates until an update fails; says each one that was acknowledged, and how it ended.
        "update" => {
            let service = StatePersistenceService::with_options(
                ServiceOptions::default().base_dir(Some(base)).checkpoint_interval(Some(Duration::from_millis(100))),
            );
            service.initialize()?;
            say("ready");
            for number in 0..5000 {
                match service.update_task(&task(&format!("T-{number}"), TaskStatus::Pending)) {
                    Ok(()) => say(&format!("{number}")),
                    Err(error) => {
                        say(error.code());
                        break;
                    }
                }
                thread::sleep(Duration::from_millis(2));
            }
            say(service.prepare_for_shutdown().err().map_or("shut down", |error| error.code()));
            drop(service);
            say("ended");
        }
        // Holds the directory as a service of an older release does, until its input ends.
        "hold" => {
            let _held = DirectoryLock::acquire(&base.join(".agentmux/state"))?;
            say(&std::process::id().to_string());
            std::io::read_to_string(std::io::stdin())?;
        }
        "open" => {
            let opened = StateStore::open(base.join(".agentmux/state"));
            say(&std::process::id().to_string());
            say(opened.map_or_else(|error| error.code(), |_| "opened"));
        }
        other => panic!("no role {other}"),
    }
    Ok(())
}

#[test]
fn no_export_or_report_overwrites_a_database_or_a_file_of_a_state_directory() -> TestResult {
    let (base, other) = (Base::new()?, Base::new()?);
    import(&base.store()?, FIXTURE)?;
    let service = other.service();
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::Pending))?;
    service.save_state(CheckpointReason::UserRequest)?;
    let backup = other.store()?.backups().create("x")?;
    let damaged = other.file("damaged-1767225600000");
    fs::create_dir(&damaged)?;
    fs::set_permissions(&damaged, fs::Permissions::from_mode(0o700))?;
    fs::write(damaged.join("state.db"), "damaged")?;
    fs::write(damaged.join("state.db-wal"), "damaged")?;

    let elsewhere = base.path().join("elsewhere");
    fs::create_dir(&elsewhere)?;
    let (theirs, hard_link, link, folder_link) =
        (elsewhere.join("theirs.db"), elsewhere.join("hard"), elsewhere.join("link"), elsewhere.join("folder"));
    let live = Connection::open(&theirs)?;
    live.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (a)")?;
    fs::hard_link(other.file("state.db"), &hard_link)?;
    symlink(other.file("state.db"), &link)?;
    symlink(other.state_dir(), &folder_link)?;
    let closed = elsewhere.join("closed.db");
    Connection::open(&closed)?.execute_batch("CREATE TABLE t (a)")?;

    let mut targets = vec![
        theirs.clone(),
        elsewhere.join("theirs.db-wal"),
        elsewhere.join("theirs.db-shm"),
        closed,
        elsewhere.join("closed.db-journal"),
        hard_link.clone(),
        link,
        folder_link.join("state.db"),
        elsewhere.join("../elsewhere/./folder/service.lock"),
        elsewhere.join("state.db"),
        other.file("backups/new.json"),
        backup.path.clone(),
        PathBuf::from(format!("{}.sha256", backup.path.display())),
        damaged.join("state.db"),
        damaged.join("new"),
        other.file("current-state.json"),
        base.file("backups/report.html"),
    ];
    let own = ["own-objects-1795532466539.sql", "writers.lock", "service.lock"];
    for file in own.into_iter().chain(["state.db", "state.db-wal", "state.db-shm", "state.db-journal"]) {
        targets.extend([base.file(file), other.file(file)]);
    }
    let before: Vec<_> = targets.iter().map(|path| fs::symlink_metadata(path).map(|it| it.ino()).ok()).collect();
    for command in ["report", "export"] {
        for target in &targets {
            let message = error(&base, 1, &[command, name(target)]);
            let is_told = message.contains("belongs to the state") || message.contains("is an SQLite database");
            assert!(is_told, "{command} {}: {message}", target.display());
        }
    }
    let store = base.store()?;
    for target in &targets {
        for result in [store.export_to(target).map(drop), write_private_file(target, b"text")] {
            let error = result.expect_err("it is refused");
            assert!(matches!(error.code(), "OWN_FILE" | "WOULD_OVERWRITE_DATABASE"), "{}: {error}", target.display());
        }
    }
    // The files beside a database come and go with the connections of the programs here.
    for (target, before) in targets.iter().zip(before).filter(|(target, _)| !target.starts_with(base.state_dir())) {
        assert_eq!(fs::symlink_metadata(target).map(|it| it.ino()).ok(), before, "{}", target.display());
    }
    // Nothing was closed on the way that a database needs: nobody else takes these for unused.
    fs::remove_file(hard_link)?;
    service.update_task(&task("T-2", TaskStatus::Pending))?;
    service.save_state(CheckpointReason::UserRequest)?;
    live.execute_batch("INSERT INTO t VALUES (1)")?;
    assert!(json(&other, &["check"])["ok"].as_bool().expect("a boolean"));
    assert!(other.store()?.backups().verify(None)?.iter().all(|verdict| verdict.ok));
    service.prepare_for_shutdown()?;
    Ok(())
}

#[test]
fn other_files_are_written_as_before_also_through_links_pipes_and_devices() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let elsewhere = base.path().join("elsewhere");
    fs::create_dir(&elsewhere)?;
    let (target, link) = (elsewhere.join("target"), elsewhere.join("link"));
    for (command, begins) in [("export", "{\n"), ("report", "<!doctype html>")] {
        fs::write(&target, "old")?;
        let _ = fs::remove_file(&link);
        symlink(&target, &link)?;
        for path in [&target, &link, &elsewhere.join("current-state.json"), &base.file("report.html")] {
            run(&base, 0, &[command, name(path)]);
            assert!(fs::read_to_string(path)?.starts_with(begins), "{command} {}", path.display());
        }
        assert!(fs::symlink_metadata(&link)?.is_symlink(), "the link stays");
        // Its own device: where standard output is a pipe, the path behind /dev/stdout cannot be resolved.
        let output = crate::common::program::command(&base, &["-q", command, "/dev/stdout"]).output()?;
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8(output.stdout)?.starts_with(begins), "{command}");
    }
    Ok(())
}

/// What a process that updates without pause acknowledged until it was stopped by what `disturb` does, and the lines after.
fn stopped_by(
    base: &Base,
    disturb: impl FnOnce() -> TestResult,
) -> Result<(Vec<u64>, Vec<String>), Box<dyn std::error::Error>> {
    let (mut child, mut output) = start("update", base)?;
    let mut lines = said(&mut output);
    let mut acknowledged = Vec::new();
    assert_eq!(lines.next().as_deref(), Some("ready"));
    for line in lines.by_ref().take(50) {
        acknowledged.push(line.parse().map_err(|_| format!("it ended early: {line}"))?);
    }
    disturb()?;
    let disturbed = Instant::now();
    let rest: Vec<String> = lines.collect();
    assert!(disturbed.elapsed() < Duration::from_secs(20), "it was noticed");
    assert!(child.wait()?.success());
    let (numbers, ended): (Vec<_>, Vec<_>) = rest.into_iter().partition(|line| line.parse::<u64>().is_ok());
    acknowledged.extend(numbers.iter().filter_map(|line| line.parse::<u64>().ok()));
    Ok((acknowledged, ended))
}

/// Whether a database in a folder, with its WAL as the process that had it open left it, holds all that was acknowledged, and
/// at most the one update more that was committed while it was moved.
fn holds_all(folder: &Path, acknowledged: &[u64]) -> Result<bool, Box<dyn std::error::Error>> {
    let conn = Connection::open(folder.join("state.db"))?;
    let mut select = conn.prepare("SELECT id FROM tasks")?;
    let found: Vec<String> = select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let has_all = acknowledged.iter().all(|number| found.contains(&format!("T-{number}")));
    Ok(has_all && found.len() <= acknowledged.len() + 1)
}

#[test]
fn a_service_whose_database_is_moved_replaced_or_deleted_acknowledges_nothing_more() -> TestResult {
    // Moved with the files beside it: all that was acknowledged is in them.
    let base = Base::new()?;
    let moved = base.path().join("moved");
    fs::create_dir(&moved)?;
    let (acknowledged, ended) = stopped_by(&base, || {
        for file in ["state.db-wal", "state.db-shm", "state.db"] {
            fs::rename(base.file(file), moved.join(file))?;
        }
        Ok(())
    })?;
    assert_eq!(ended, ["DATABASE_MOVED", "DATABASE_MOVED", "ended"]);
    assert!(holds_all(&moved, &acknowledged)?);

    // The whole directory.
    let base = Base::new()?;
    let moved = base.path().join("moved");
    let (acknowledged, ended) = stopped_by(&base, || Ok(fs::rename(base.state_dir(), &moved)?))?;
    assert_eq!(ended, ["DATABASE_MOVED", "DATABASE_MOVED", "ended"]);
    assert!(holds_all(&moved, &acknowledged)?);

    // Another file in its place.
    let base = Base::new()?;
    let (_, ended) = stopped_by(&base, || {
        fs::write(base.file("new"), "<!doctype html>")?;
        Ok(fs::rename(base.file("new"), base.file("state.db"))?)
    })?;
    assert_eq!(ended, ["DATABASE_MOVED", "DATABASE_MOVED", "ended"]);
    assert_eq!(fs::read_to_string(base.file("state.db"))?, "<!doctype html>", "it is not touched");

    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        let base = Base::new()?;
        let (_, ended) = stopped_by(&base, || Ok(fs::remove_file(base.file(file))?))?;
        assert_eq!(ended, ["DATABASE_MOVED", "DATABASE_MOVED", "ended"], "{file}");
    }
    for replace in [false, true] {
        let base = Base::new()?;
        let (_, ended) = stopped_by(&base, || {
            fs::remove_file(base.file("service.lock"))?;
            if replace {
                fs::write(base.file("service.lock"), "1\n")?;
            }
            Ok(())
        })?;
        assert_eq!(ended, ["LOCK_LOST", "LOCK_LOST", "ended"], "replaced: {replace}");
    }
    Ok(())
}

#[test]
fn reads_of_a_moved_database_do_not_read_another_file() -> TestResult {
    let (base, other) = (Base::new()?, Base::new()?);
    other.store()?.update_task(&task("T-other", TaskStatus::Pending))?;
    let service = base.service();
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::Pending))?;
    fs::rename(base.file("state.db"), base.path().join("moved.db"))?;
    assert_eq!(service.state().unwrap_err().code(), "DATABASE_MOVED");
    fs::copy(other.file("state.db"), base.file("state.db"))?;
    assert_eq!(service.state().unwrap_err().code(), "DATABASE_MOVED");
    assert_eq!(service.store()?.check().unwrap_err().code(), "DATABASE_MOVED");
    assert_eq!(service.prepare_for_shutdown().unwrap_err().code(), "DATABASE_MOVED");
    // Moved back, it is the same as before.
    fs::rename(base.path().join("moved.db"), base.file("state.db"))?;
    assert_eq!(service.state()?.tasks.len(), 1);
    service.update_task(&task("T-2", TaskStatus::Pending))?;
    service.prepare_for_shutdown()?;
    assert_eq!(base.store()?.state()?.tasks.len(), 2);
    Ok(())
}

#[test]
fn a_service_that_lost_the_locks_of_sqlite_stops_at_the_next_checkpoint() -> TestResult {
    for file in ["state.db", "state.db-shm"] {
        let base = Base::new()?;
        let service = base.service();
        service.initialize()?;
        service.update_task(&task("T-1", TaskStatus::Pending))?;
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        if !locks.lines().any(|line| line.contains(&format!(" {} ", std::process::id()))) {
            skip("/proc/locks does not show the locks of this process");
            return Ok(());
        }
        service.save_state(CheckpointReason::UserRequest)?;
        // As a checksum or a copy by other code in the process does.
        drop(fs::File::open(base.file(file))?);
        assert_eq!(service.save_state(CheckpointReason::UserRequest).unwrap_err().code(), "LOCK_LOST", "{file}");
        assert_eq!(service.update_task(&task("T-2", TaskStatus::Pending)).unwrap_err().code(), "LOCK_LOST");
        // A second store on the same file cannot be better off.
        assert_eq!(base.store().map(drop).unwrap_err().code(), "LOCK_LOST");
        assert_eq!(service.state()?.tasks.len(), 1, "it can still be read");
        assert_eq!(service.prepare_for_shutdown().unwrap_err().code(), "LOCK_LOST");
        drop(service);
        // Once nothing holds the database open here, it can be opened anew.
        let service = base.service();
        assert_eq!(service.initialize()?.expect("a state").tasks.len(), 1);
        service.update_task(&task("T-2", TaskStatus::Pending))?;
        service.prepare_for_shutdown()?;
    }
    Ok(())
}

#[test]
fn the_timer_notices_a_lost_lock_where_nothing_changes() -> TestResult {
    let base = Base::new()?;
    let service =
        StatePersistenceService::with_options(base.options().checkpoint_interval(Some(Duration::from_millis(50))));
    service.initialize()?;
    thread::sleep(Duration::from_millis(200));
    assert_eq!(service.last_checkpoint_error(), None);
    fs::remove_file(base.file("service.lock"))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while service.last_checkpoint_error().is_none() {
        assert!(Instant::now() < deadline, "it was not noticed");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(service.last_checkpoint_error().expect("an error").contains("service.lock"));
    // Another service of this process does not inherit a lock that is gone.
    let next = base.service();
    next.initialize()?;
    next.update_task(&task("T-1", TaskStatus::Pending))?;
    assert_eq!(DirectoryLock::holder(&base.state_dir())?, Some(std::process::id()));
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
        skip("strace is not installed, or may not trace");
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
fn a_lock_that_is_held_counts_as_held_whoever_the_file_names() -> TestResult {
    let base = Base::new()?;
    base.store()?.update_task(&task("T-1", TaskStatus::Pending))?;
    let backup = base.store()?.backups().create("x")?;
    let held = DirectoryLock::acquire(&base.state_dir())?;
    for content in [
        String::new(),
        "no number\n".into(),
        // Another container's process has the same number as this one.
        format!("{}\n\nhost-2\nboot x pid-namespace 1 started 1\n", std::process::id()),
        format!("{}\n", std::process::id()),
    ] {
        fs::write(base.file("service.lock"), &content)?;
        for arguments in [&["migrate"][..], &["prune"], &["backup", "restore", &backup.id]] {
            let message = error(&base, 1, arguments);
            assert!(message.contains("in use by process"), "{content:?} {arguments:?}: {message}");
        }
    }
    drop(held);
    run(&base, 0, &["migrate"]);
    Ok(())
}

#[test]
fn a_run_is_active_only_while_its_own_process_holds_the_directory() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::Pending))?;
    let is_active = || json(&base, &["status"])["run"]["active"].as_bool().expect("a boolean");
    assert!(is_active());
    drop(service); // as a crash would
    assert!(!is_active());
    // Another process with the same number holds the directory: a command, another container, or a service that has not
    // started its run.
    let held = DirectoryLock::acquire(&base.state_dir())?;
    assert!(!is_active(), "it has no run");
    let pid = std::process::id();
    for (content, active) in [
        (format!("{pid}\nservice\nanother-host\nboot x pid-namespace 1 started 1\n"), false),
        (format!("{pid}\ncommand\n"), false),
        (format!("{pid}\n"), true), // an older release: it does not tell more
    ] {
        fs::write(base.file("service.lock"), &content)?;
        assert_eq!(is_active(), active, "{content:?}");
    }
    drop(held);
    Ok(())
}

#[test]
fn a_service_that_waits_for_its_directory_does_not_make_others_wait() -> TestResult {
    let (busy, free) = (Base::new()?, Base::new()?);
    let command = DirectoryLock::acquire_for_command(&busy.state_dir())?;
    let waiting = busy.service();
    let (done, is_done) = mpsc::channel();
    let thread = {
        let waiting = waiting.clone();
        thread::spawn(move || {
            let result = waiting.initialize();
            done.send(()).expect("the test waits");
            result.map(drop)
        })
    };
    thread::sleep(Duration::from_millis(300));
    assert!(is_done.try_recv().is_err(), "it waits for the command");
    let start = Instant::now();
    let service = free.service();
    service.initialize()?;
    service.prepare_for_shutdown()?;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(is_done.try_recv().is_err(), "it still waits");
    drop(command);
    thread.join().expect("no panic")?;
    assert!(waiting.is_initialized());
    Ok(())
}

#[test]
fn of_many_services_that_start_on_one_directory_at_once_one_stays() -> TestResult {
    let base = Base::new()?;
    let services: Vec<_> = (0..8).map(|_| base.service()).collect();
    thread::scope(|scope| {
        for service in &services {
            scope.spawn(|| service.initialize().expect("each of them starts"));
        }
    });
    assert_eq!(services.iter().filter(|service| service.is_initialized()).count(), 1);
    assert_eq!(base.store()?.runs(100)?.iter().filter(|run| run.outcome.is_none()).count(), 1);
    Ok(())
}

#[test]
fn a_lock_file_that_is_a_link_or_a_pipe_is_refused_and_left_alone() -> TestResult {
    let base = Base::new()?;
    fs::create_dir_all(base.state_dir())?;
    let target = base.path().join("target");
    fs::write(&target, "precious")?;
    symlink(&target, base.file("service.lock"))?;
    assert_eq!(base.service().initialize().unwrap_err().code(), "IO");
    assert!(DirectoryLock::acquire(&base.state_dir()).is_err() && DirectoryLock::holder(&base.state_dir()).is_err());
    assert_eq!(fs::read_to_string(&target)?, "precious");
    fs::remove_file(base.file("service.lock"))?;
    make_pipe(&base.file("service.lock"))?;
    within("a start on a lock that is no file", Duration::from_secs(10), {
        let service = base.service();
        move || service.initialize().map(drop).unwrap_err().code()
    });
    Ok(())
}

fn make_pipe(path: &Path) -> TestResult {
    assert!(Command::new("mkfifo").arg(path).status()?.success());
    Ok(())
}

#[test]
fn a_pipe_in_place_of_a_file_is_an_error_and_nothing_hangs() -> TestResult {
    let time = Duration::from_secs(15);
    for file in ["current-state.json", "orchestrator-state.json"] {
        let base = Base::new()?;
        fs::create_dir_all(base.state_dir())?;
        make_pipe(&base.file(file))?;
        let service = base.service();
        let error = within("a pipe in place of a file", time, move || service.initialize().unwrap_err());
        assert_eq!(error.code(), "IO", "{error}");
        assert!(error.to_string().contains(file), "{error}");
        let store = base.store()?;
        store.update_task(&task("T-1", TaskStatus::Pending))?;
        if file == "current-state.json" {
            let exported = store.clone();
            assert_eq!(
                within("a pipe in place of a file", time, move || exported.refresh_export().unwrap_err()).code(),
                "IO"
            );
        }
        within("a pipe in place of a file", time, move || store.check().map(drop))?;
    }
    let base = Base::new()?;
    base.store()?.update_task(&task("T-1", TaskStatus::Pending))?;
    for file in [
        "backups/backup-1767225600000-x.json",
        "backups/backup-1767225600001-y.db",
        "backups/backup-1767225600002-z.db.sha256",
    ] {
        make_pipe(&base.file(file))?;
    }
    let store = base.store()?;
    let backup = store.backups().create("x")?;
    fs::remove_file(format!("{}.sha256", backup.path.display()))?;
    make_pipe(Path::new(&format!("{}.sha256", backup.path.display())))?;
    let (listed, verified, checked) = within("a pipe in place of a file", time, move || {
        (
            store.backups().list().map(|it| it.len()),
            store.backups().verify(None).map(|it| it.len()),
            store.check().map(drop),
        )
    });
    assert_eq!((listed?, verified?), (1, 1), "pipes are no backups");
    checked?;
    let base = Base::new()?;
    fs::create_dir_all(base.state_dir())?;
    make_pipe(&base.file("state.db"))?;
    let state_dir = base.state_dir();
    assert!(within("a pipe in place of a file", time, move || StateStore::open(state_dir).map(drop)).is_err());
    Ok(())
}

/// Unmounts when it is dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_mount_that_is_shared_with_other_machines_is_reported_and_can_be_refused() -> TestResult {
    let base = Base::new()?;
    let (source, target) = (base.path().join("source"), base.path().join("mounted on"));
    fs::create_dir(&source)?;
    fs::create_dir(&target)?;
    let mounted =
        Command::new("bindfs").arg("-f").arg(&source).arg(&target).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(mut child) = mounted else {
        skip("bindfs, which makes a FUSE mount, is not installed");
        return Ok(());
    };
    let unmount = Mounted(target.clone());
    let is_mounted =
        || fs::read_to_string("/proc/self/mountinfo").is_ok_and(|mounts| mounts.contains("mounted\\040on"));
    let deadline = Instant::now() + Duration::from_secs(5);
    while !is_mounted() && Instant::now() < deadline && child.try_wait()?.is_none() {
        thread::sleep(Duration::from_millis(20));
    }
    if !is_mounted() {
        let _ = child.kill();
        skip("bindfs cannot mount here");
        return Ok(());
    }
    let shared = Base::new_in(&target)?;
    let with = |shared_mounts| shared.options().shared_mounts(shared_mounts);
    let refused = StatePersistenceService::with_options(with(SharedMounts::Refuse)).initialize().unwrap_err();
    assert!(
        matches!(&refused, Error::SharedMount { file_system, mount_point, .. }
        if file_system.starts_with("fuse") && mount_point.ends_with("mounted on")),
        "{refused}"
    );
    assert_eq!(refused.code(), "SHARED_MOUNT");
    let options = StoreOptions::default().shared_mounts(SharedMounts::Refuse);
    assert_eq!(StateStore::open_with(shared.state_dir(), options).map(drop).unwrap_err().code(), "SHARED_MOUNT");
    assert!(!shared.path().join(".agentmux").exists(), "nothing was made");

    StatePersistenceService::with_options(with(SharedMounts::Allow)).initialize()?;
    let warned = command(&shared, &["checkpoint"]).output()?;
    let warning = String::from_utf8(warned.stderr)?;
    assert!(warned.status.success() && warning.contains("SHARED_MOUNT") && warning.contains("fuse"), "{warning}");
    let checked = command(&shared, &["--json", "check"]).output()?;
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout)?;
    assert!(report["problems"].as_array().expect("an array").iter().any(|it| it["kind"] == "file_system"), "{report}");
    let local = json(
        &{
            let base = Base::new()?;
            base.store()?;
            base
        },
        &["check"],
    );
    assert!(local["problems"].as_array().expect("an array").is_empty(), "{local}");
    drop(shared);
    drop(unmount);
    child.wait()?;
    Ok(())
}

/// Texts that SQLite's `unixepoch` takes for times, and that are none.
const NO_TIMES: [&str; 9] = [
    "now",
    "2460000.5",
    "0",
    "2020-02-30",
    "2020-02-30T10:00:00.000Z",
    "2020-01-01T24:00:00.000Z",
    "2020-01-01 10:00:00Z",
    "2020-01-01T10:00:00",
    "10:00",
];

#[test]
fn what_is_no_time_counts_nowhere_as_one() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let number = NO_TIMES.len();
    let at = "2020-01-01T10:00:00.000Z"; // the one that is
    for (index, text) in NO_TIMES.into_iter().chain([at]).enumerate() {
        let mut done = task(&format!("T-{index}"), TaskStatus::Completed);
        (done.completed_at, done.created_at) = (Some(text.into()), text.into());
        store.update_task(&done)?;
        let mut active = task(&format!("A-{index}"), TaskStatus::InProgress);
        (active.last_activity_at, active.created_at) = (Some(text.into()), text.into());
        store.update_task(&active)?;
        store.update_conversation(&ConversationState {
            last_activity_at: text.into(),
            ..conversation(&format!("C-{index}"), [])
        })?;
        let activity = AgentActivity { timestamp: text.into(), ..AgentActivity::default() };
        store.update_agent(&AgentState { last_activity: Some(activity), ..agent(&format!("dev-{index}")) })?;
    }
    let count = |arguments: &[&str]| json(&base, arguments).as_array().expect("an array").len();
    for kind in ["tasks", "conversations", "agents"] {
        let expected = if kind == "tasks" { 2 } else { 1 };
        assert_eq!(count(&["list", kind, "--since", "1970-01-01"]), expected, "{kind}");
    }
    let dry_run =
        json(&base, &["prune", "--completed-before", "2021-01-01", "--idle-before", "2021-01-01", "--dry-run"]);
    assert_eq!(dry_run["removed"], serde_json::json!({"tasks": 1, "conversations": 1, "messages": 0}));
    let recent = store.conversations(
        &agentmux_state::ListFilter::default().order(agentmux_state::ListOrder::LastActivity).limit(1),
    )?;
    assert_eq!(recent[0].id, format!("C-{number}"), "those without a readable time come last");
    let resumed = json(&base, &["resume", "--now", "2020-01-01T10:30:00Z"]);
    let resumed = resumed["conversationsToResume"].as_array().expect("an array");
    let resumed: Vec<_> = resumed.iter().map(|it| it["id"].as_str().expect("an id")).collect();
    assert!(resumed.contains(&format!("C-{number}").as_str()), "{resumed:?}");
    // Times without an offset are some in JavaScript, whose rule this is.
    let is_some_time = |id: &&str| ["C-6", "C-7", "C-9"].contains(id);
    assert!(resumed.iter().all(is_some_time), "{resumed:?}");

    let of = |sql: &str| -> rusqlite::Result<i64> { base.sql()?.query_row(sql, [], |row| row.get(0)) };
    for view in ["task_overview", "agent_activity", "conversation_overview"] {
        let expected = if view == "task_overview" { 2 } else { 1 };
        assert_eq!(of(&format!("SELECT count(*) FROM {view} WHERE idle_seconds IS NOT NULL"))?, expected, "{view}");
    }
    assert_eq!(of("SELECT count(*) FROM resumable WHERE kind = 'conversation'")?, 0);
    assert_eq!(of("SELECT count(*) FROM stuck_tasks WHERE why LIKE '%over an hour'")?, 1);
    let sql = "SELECT count(*) FROM task_overview WHERE idle_seconds IS NOT NULL";
    match Command::new("sqlite3").arg("-readonly").arg(base.file("state.db")).arg(sql).output() {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "2"),
        Err(_) => skip("sqlite3 is not installed"),
    }
    Ok(())
}

#[test]
fn a_merge_that_overwrites_something_makes_a_backup_first() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let merge = |document: &str| -> Result<Option<String>, Box<dyn std::error::Error>> {
        let options = ImportOptions::default().mode(ImportMode::Merge);
        Ok(base.store()?.import_json(document.as_bytes(), options)?.backup)
    };
    assert_eq!(merge(FIXTURE)?, None, "the same again overwrites nothing");
    assert_eq!(merge(r#"{"version": "1.0.0", "tasks": [{"id": "new", "title": "t", "description": ""}]}"#)?, None);
    let before = export(&base.store()?)?;
    let state = base.store()?.state()?;
    let (talk, work, worker) = (&state.conversations[0], &state.tasks[0], &state.agents[0]);
    assert!(!talk.recent_messages.is_empty());
    let shorter = ConversationState { recent_messages: Vec::new(), ..talk.clone() };
    let other = "other".to_owned();
    let project = &state.projects[0];
    let mut improvement = state.self_improvement.clone().expect("the fixture has one");
    improvement.validation_checks.clear();
    for part in [
        serde_json::json!({"conversations": [shorter]}),
        serde_json::json!({"tasks": [TaskState { title: other.clone(), ..work.clone() }]}),
        serde_json::json!({"agents": [AgentState { role: other.clone(), ..worker.clone() }]}),
        serde_json::json!({"projects": [ProjectState { name: other.clone(), ..project.clone() }]}),
        serde_json::json!({"selfImprovement": improvement}),
    ] {
        let document = part.to_string().replacen('{', r#"{"version": "1.0.0", "#, 1);
        let backup = merge(&document)?.unwrap_or_else(|| panic!("no backup before {document}"));
        assert_ne!(export(&base.store()?)?, before, "{document}");
        base.store()?.backups().restore(&backup)?;
        assert_eq!(base.store()?.conversation(&talk.id)?.as_ref(), Some(talk), "{document}");
        assert_eq!(base.store()?.state()?.tasks.len(), state.tasks.len(), "{document}");
        assert_eq!(base.store()?.task(&work.id)?.as_ref(), Some(work), "{document}");
    }
    // What stands beside the lists.
    assert_eq!(merge(r#"{"version": "1.0.0", "note": "first"}"#)?, None);
    assert_eq!(merge(r#"{"version": "1.0.0", "note": "first"}"#)?, None);
    assert!(merge(r#"{"version": "1.0.0", "note": "second"}"#)?.is_some());
    Ok(())
}

#[test]
fn no_clock_makes_anything_panic() -> TestResult {
    let at = |year, month| chrono::NaiveDate::from_ymd_opt(year, month, 1).expect("a date").and_hms_opt(0, 0, 1);
    let utc = |year, month| at(year, month).expect("a time").and_utc();
    for moment in [
        DateTime::<Utc>::MIN_UTC,
        utc(-5000, 1),
        utc(1, 1),
        utc(1969, 12),
        utc(9999, 12),
        utc(10_000, 1),
        DateTime::<Utc>::MAX_UTC,
    ] {
        let base = Base::new()?;
        let options = || {
            base.options()
                .clock(Clock::new(move || moment))
                .checkpoint_interval(Some(Duration::from_millis(20)))
                .backup_interval(Some(Duration::from_secs(1)))
                .retention(
                    StateRetention::default()
                        .completed_tasks(Some(Duration::from_secs(u64::MAX)))
                        .idle_conversations(Some(Duration::from_secs(60))),
                )
        };
        for _ in 0..2 {
            let service = StatePersistenceService::with_options(options());
            service.initialize()?;
            service.update_task(&task("T-1", TaskStatus::InProgress))?;
            service.update_conversation(&conversation("C-1", 0..2))?;
            service.append_message("C-1", &crate::common::message(3))?;
            let checkpoint = service.save_state(CheckpointReason::UserRequest)?;
            assert!(checkpoint.checkpointed_at.parse().is_some(), "{moment}: {checkpoint:?}");
            let backup = service.create_backup("x")?;
            service.restore_from_backup(&backup)?;
            service.generate_resume_instructions(&service.state()?);
            agentmux_state::resume_instructions(&service.state()?, moment);
            service.store()?.resume_instructions(moment)?;
            let (completed_before, idle_before) = (Some(moment), Some(moment));
            service.store()?.prune(
                &PruneOptions::default().completed_before(completed_before).idle_before(idle_before).dry_run(true),
            )?;
            service.store()?.tasks(&ListFilter::default().since(moment))?;
            service.store()?.conversations(&ListFilter::default().since(moment))?;
            thread::sleep(Duration::from_millis(100));
            assert_eq!(service.last_checkpoint_error(), None, "{moment}");
            service.prepare_for_shutdown()?;
        }
        let checked = base.store()?.check()?;
        assert!(checked.ok, "{moment}: {checked:?}");
        assert!(base.store()?.backups().verify(None)?.iter().all(|it| it.ok));
    }
    Ok(())
}

#[test]
fn the_program_does_not_panic_before_1970() -> TestResult {
    let libraries =
        ["/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"];
    let Some(library) = libraries.into_iter().find(|library| Path::new(library).exists()) else {
        skip("libfaketime is not installed");
        return Ok(());
    };
    let base = Base::new()?;
    let at = |arguments: &[&str]| -> std::io::Result<String> {
        let mut command = command(&base, arguments);
        let output = command
            .env("LD_PRELOAD", library)
            .env("FAKETIME", "@1950-01-01 10:00:00")
            .env("FAKETIME_DONT_RESET", "1")
            .output()?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!errors.contains("panicked") && output.status.code().is_some(), "{arguments:?}: {errors}");
        assert!(output.status.success(), "{arguments:?}: {errors}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    at(&["import", "tests/fixtures/current-state.json"])?;
    let made = at(&["--json", "checkpoint"])?;
    assert!(made.contains("1970-01-01T00:00:00.000Z"), "the time is faked: {made}");
    let report = base.path().join("report.html");
    for arguments in [
        &["status"][..],
        &["list", "tasks", "--since", "2h"],
        &["list", "conversations"],
        &["resume"],
        &["backup", "create"],
        &["backup", "list"],
        &["check"],
        &["search", "build"],
        &["graph"],
        &["report", name(&report)],
        &["export"],
        &["prune", "--idle-before", "30days", "--dry-run"],
        &["migrate"],
    ] {
        at(arguments)?;
    }
    Ok(())
}

#[test]
fn a_table_takes_no_longer_for_a_text_of_megabytes() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let long = "日x".repeat(5_000_000);
    store.update_task(&TaskState {
        title: long.clone(),
        assigned_to: Some(long.clone()),
        ..task("T-1", TaskStatus::Pending)
    })?;
    store.update_conversation(&ConversationState { current_topic: Some(long.clone()), ..conversation("C-1", []) })?;
    store.update_agent(&AgentState { role: long.clone(), ..agent("dev-1") })?;
    store.update_project(&ProjectState { path: long.clone(), ..crate::common::project("P-1") })?;
    let short = "日x".repeat(100);
    for kind in ["tasks", "conversations", "agents", "projects"] {
        let start = Instant::now();
        let printed = crate::common::program::text(run(&base, 0, &["list", kind]));
        assert!(start.elapsed() < Duration::from_secs(10), "{kind}: {:?}", start.elapsed());
        assert!(printed.contains(&format!("{short}…")) && printed.len() < 10_000, "{kind}: {} bytes", printed.len());
        println!("list {kind}: {:?}", start.elapsed());
    }
    assert_eq!(json(&base, &["list", "tasks"])[0]["title"], long.as_str(), "JSON has all of it");
    Ok(())
}

#[test]
fn a_moment_that_does_not_exist_is_a_wrong_usage_that_names_it() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    for value in [
        "2026-02-30T10:00:00Z",
        "2026-02-30",
        "2026-01-01T24:00:00Z",
        "2026-11-22T10:00:00",
        "now",
        "12345",
        "",
        "2e9y",
    ] {
        for arguments in [
            &["resume", "--now", value][..],
            &["list", "tasks", "--since", value],
            &["graph", "--since", value],
            &["prune", "--dry-run", "--completed-before", value],
            &["prune", "--dry-run", "--idle-before", value],
        ] {
            let message = error(&base, 2, arguments);
            assert!(message.contains(value) && message.contains("expected a moment"), "{arguments:?}: {message}");
        }
    }
    Ok(())
}

#[test]
fn what_cannot_be_printed_is_a_failure_also_where_standard_output_is_closed() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    base.store()?.backups().create("x")?;
    let shell = |redirection: &str, arguments: &[&str]| {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec \"$@\" {redirection}")).arg("sh").arg(env!("CARGO_BIN_EXE_agentmux-state"));
        shell.arg("--state-dir").arg(base.state_dir()).args(arguments).output()
    };
    for redirection in [">&-", "1</dev/null", ">/dev/full"] {
        for arguments in [
            &["export", "-"][..],
            &["status"],
            &["--json", "status"],
            &["check"],
            &["resume"],
            &["list", "tasks"],
            &["--json", "list", "tasks"],
            &["show", "task", "task-1"],
            &["search", "build"],
            &["graph"],
            &["backup", "list"],
            &["backup", "verify"],
            &["migrate", "--status"],
            &["completions", "bash"],
            &["--help"],
            &["--version"],
        ] {
            // What clap prints itself is only looked at before.
            if redirection == ">/dev/full" && arguments[0].starts_with("--") && arguments.len() == 1 {
                continue;
            }
            let output = shell(redirection, arguments)?;
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{redirection} {arguments:?}: {errors}");
            assert!(errors.contains("cannot write the output"), "{redirection} {arguments:?}: {errors}");
        }
        // What was done is done.
        let output = shell(redirection, &["checkpoint"])?;
        assert_eq!(output.status.code(), Some(0), "{redirection}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("done, but the report could not be written"));
    }
    for redirection in [">/dev/null", "1<>/dev/null"] {
        assert!(shell(redirection, &["export", "-"])?.status.success(), "{redirection}");
    }
    Ok(())
}

#[test]
fn check_says_that_a_running_service_has_lost_its_database_or_its_lock() -> TestResult {
    let (base, other) = (Base::new()?, Base::new()?);
    other.store()?.update_task(&task("T-other", TaskStatus::Pending))?;
    let owner = || -> Vec<String> {
        let output = command(&base, &["--json", "check"]).output().expect("the program runs");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
        let problems = report["problems"].as_array().expect("an array").clone();
        problems.iter().filter(|it| it["kind"] == "owner").map(|it| it["message"].to_string()).collect()
    };
    let service = base.service();
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::Pending))?;
    assert_eq!(owner(), [""; 0], "all is well");
    assert_eq!(json(&base, &["status"])["run"]["hasLostDatabase"], serde_json::Value::Null);
    let lock = fs::read(base.file("service.lock"))?;
    fs::remove_file(base.file("service.lock"))?;
    let found = owner();
    assert!(found.len() == 1 && found[0].contains("lock file"), "{found:?}");
    fs::write(base.file("service.lock"), lock)?;
    assert_eq!(owner().len(), 1, "another file has its name");
    drop(service);
    assert_eq!(owner(), [""; 0], "nobody runs");

    let service = base.service();
    service.initialize()?;
    service.update_task(&task("T-2", TaskStatus::Pending))?;
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        fs::rename(base.file(file), base.path().join(file))?;
    }
    fs::copy(other.file("state.db"), base.file("state.db"))?;
    let found = owner();
    assert!(found.len() == 1 && found[0].contains(&std::process::id().to_string()), "{found:?}");
    assert!(found[0].contains("another file open"), "{found:?}");

    // The run that a copy of the database tells of.
    fs::copy(base.path().join("state.db"), base.file("state.db"))?;
    fs::copy(base.path().join("state.db-wal"), base.file("state.db-wal"))?;
    assert_eq!(json(&base, &["status"])["run"]["hasLostDatabase"], true);
    assert!(crate::common::program::text(run(&base, 0, &["status"])).contains("LOST ITS DATABASE"));
    Ok(())
}

#[test]
fn two_containers_that_are_both_process_1_are_two_processes() -> TestResult {
    let container = ["unshare", "--pid", "--fork"];
    if !Command::new(container[0]).args(&container[1..]).arg("true").status().is_ok_and(|status| status.success()) {
        skip("no PID namespace can be made here");
        return Ok(());
    }
    // A database of an older release, which nobody may upgrade under the service that runs.
    let base = base_of(4)?;
    let (mut holder, mut holder_says) = start_under(&container, "hold", &base)?;
    assert_eq!(said(&mut holder_says).next().as_deref(), Some("1"));
    let (mut opener, mut opener_says) = start_under(&container, "open", &base)?;
    assert_eq!(said(&mut opener_says).collect::<Vec<_>>(), ["1", "IN_USE"]);
    assert!(opener.wait()?.success());
    drop(holder.stdin.take());
    assert!(holder.wait()?.success());
    let (mut opener, mut opener_says) = start_under(&container, "open", &base)?;
    assert_eq!(said(&mut opener_says).collect::<Vec<_>>(), ["1", "opened"]);
    assert!(opener.wait()?.success());
    Ok(())
}

#[test]
fn a_database_with_two_names_is_not_written_through_either() -> TestResult {
    let (base, copy) = (Base::new()?, Base::new()?);
    import(&base.store()?, FIXTURE)?;
    // A WAL that stays, as after a kill, is linked, too.
    let killed = base.sql()?;
    killed.execute_batch("PRAGMA wal_autocheckpoint = 0; UPDATE tasks SET title = 'before'")?;
    fs::create_dir_all(copy.state_dir())?;
    for file in ["state.db", "state.db-wal"] {
        fs::hard_link(base.file(file), copy.file(file))?;
    }
    drop(killed);
    for base in [&base, &copy] {
        for message in [error(base, 1, &["checkpoint"]), base.store().err().expect("refused").to_string()] {
            assert!(message.contains("2 names (hard links)"), "{message}");
        }
    }
    // Once the copy is gone, all is well.
    fs::remove_file(copy.file("state.db"))?;
    base.store()?.update_task(&task("T-1", TaskStatus::Pending))?;
    // The remains of a process that was killed while it made the database are no second name.
    fs::hard_link(base.file("state.db"), base.file(".state-abc.tmp"))?;
    base.store()?.update_task(&task("T-2", TaskStatus::Pending))?;
    Ok(())
}

#[test]
fn what_stands_in_place_of_the_export_is_kept_and_no_matter_of_the_state() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    store.refresh_export()?;
    let copies = || base.backups().map(|all| all.iter().filter(|name| name.ends_with("-changed-export.json")).count());
    // A link to the database: it is neither opened, which would drop the locks on it, nor copied.
    let export = base.file("current-state.json");
    fs::remove_file(&export)?;
    symlink("state.db", &export)?;
    assert!(store.check()?.ok);
    store.refresh_export()?;
    fs::remove_file(&export)?;
    fs::hard_link(base.file("state.db"), &export)?;
    store.refresh_export()?;
    assert_eq!(copies()?, 0);
    assert!(fs::symlink_metadata(&export)?.is_file() && fs::read_to_string(&export)?.starts_with('{'));
    // Another file is copied, and need not be a state.
    fs::write(&export, "mine")?;
    store.refresh_export()?;
    assert_eq!(copies()?, 1);
    let report = store.check()?;
    assert!(report.ok, "{:?}", report.problems);
    assert!(report.notes.iter().any(|it| it.kind == "backup" && it.message.contains("changed-export")));
    Ok(())
}

/// The export would hold the key twice, and reading it back would lose one of the values.
#[test]
fn a_key_in_extra_that_names_a_field_is_refused_for_every_record() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let with = |key: &str| {
        let mut extra = Extra::new();
        extra.insert(key.into(), "a".into());
        extra
    };
    let refused = |result: agentmux_state::Result<()>, of: &str, expected: &str| match result {
        Err(Error::InvalidValue { record, detail }) => {
            assert_eq!(record, of);
            assert!(detail.starts_with(expected), "{detail}");
        }
        other => panic!("{of}, {expected}: {other:?}"),
    };
    store.update_task(&task("T-1", TaskStatus::Pending))?;
    store.update_conversation(&conversation("C-1", [1]))?;
    let before = export(&store)?;

    // Also the name of a field that is absent, and one that serde writes under another name than Rust.
    for key in ["id", "title", "assignedTo", "checkpoint", "lastActivityAt"] {
        let task = TaskState { extra: with(key), ..task("T-1", TaskStatus::Paused) };
        let expected = format!("extra holds the key \"{key}\"");
        refused(store.update_task(&task), "task T-1", &expected);
        refused(
            store.batch(|batch| {
                batch.remove_conversation("C-1")?;
                batch.update_task(&task)
            }),
            "task T-1",
            &expected,
        );
    }
    let mut nested = task("T-1", TaskStatus::Paused);
    nested.progress.extra = with("percentComplete");
    refused(store.update_task(&nested), "task T-1", "progress.extra holds the key \"percentComplete\"");
    nested.progress.extra.clear();
    nested.checkpoint = Some(TaskCheckpoint { extra: with("workData"), ..TaskCheckpoint::default() });
    refused(store.update_task(&nested), "task T-1", "checkpoint.extra holds the key \"workData\"");

    let message = |key: &str| PersistedMessage { extra: with(key), ..PersistedMessage::default() };
    let plain = conversation("C-1", [1]);
    let mut messages = plain.recent_messages.clone();
    messages.push(message("agentName"));
    for (conversation, expected) in [
        (
            ConversationState { extra: with("recentMessages"), ..plain.clone() },
            "extra holds the key \"recentMessages\"",
        ),
        (ConversationState { recent_messages: messages, ..plain.clone() }, "recentMessages[1].extra holds the key"),
        (
            ConversationState {
                slack_context: Some(SlackContext { extra: with("threadTs"), ..SlackContext::default() }),
                ..plain.clone()
            },
            "slackContext.extra holds the key \"threadTs\"",
        ),
    ] {
        refused(store.update_conversation(&conversation), "conversation C-1", expected);
    }
    refused(
        store.append_message("C-1", &message("role")),
        "message for conversation C-1",
        "extra holds the key \"role\"",
    );

    let activity = AgentActivity { extra: with("type"), ..AgentActivity::default() };
    for (agent, expected) in [
        (AgentState { extra: with("sessionName"), ..agent("A-1") }, "extra holds the key \"sessionName\""),
        (AgentState { last_activity: Some(activity), ..agent("A-1") }, "lastActivity.extra holds the key \"type\""),
    ] {
        refused(store.update_agent(&agent), "agent A-1", expected);
    }
    let plain = ProjectState { id: "P-1".into(), ..ProjectState::default() };
    let git = GitState { extra: with("branch"), ..GitState::default() };
    let build = BuildState { extra: with("lastBuildAt"), ..BuildState::default() };
    for (project, expected) in [
        (ProjectState { extra: with("gitState"), ..plain.clone() }, "extra holds the key \"gitState\""),
        (ProjectState { git_state: Some(git), ..plain.clone() }, "gitState.extra holds the key \"branch\""),
        (ProjectState { build_state: Some(build), ..plain.clone() }, "buildState.extra holds the key \"lastBuildAt\""),
    ] {
        refused(store.update_project(&project), "project P-1", expected);
    }

    let improvement = SelfImprovementState::default;
    let change = PlannedChange { extra: with("type"), ..PlannedChange::default() };
    let file = BackedUpFile { extra: with("checksum"), ..BackedUpFile::default() };
    let of_task = |it| SelfImprovementState { current_task: Some(it), ..SelfImprovementState::default() };
    let of_backup = |it| SelfImprovementState { backup: Some(it), ..SelfImprovementState::default() };
    for (state, expected) in [
        (SelfImprovementState { extra: with("backup"), ..improvement() }, "extra holds the key \"backup\""),
        (
            of_task(SelfImprovementTask { extra: with("status"), ..SelfImprovementTask::default() }),
            "currentTask.extra holds the key \"status\"",
        ),
        (
            of_task(SelfImprovementTask { planned_changes: vec![change], ..SelfImprovementTask::default() }),
            "currentTask.plannedChanges[0].extra holds the key \"type\"",
        ),
        (
            of_backup(SelfImprovementBackup { extra: with("gitCommit"), ..SelfImprovementBackup::default() }),
            "backup.extra holds the key \"gitCommit\"",
        ),
        (
            of_backup(SelfImprovementBackup { files: vec![file], ..SelfImprovementBackup::default() }),
            "backup.files[0].extra holds the key \"checksum\"",
        ),
        (
            SelfImprovementState {
                validation_checks: vec![ValidationCheck { extra: with("passed"), ..ValidationCheck::default() }],
                ..improvement()
            },
            "validationChecks[0].extra holds the key \"passed\"",
        ),
        (
            SelfImprovementState {
                rollback_plan: Some(RollbackPlan { extra: with("steps"), ..RollbackPlan::default() }),
                ..improvement()
            },
            "rollbackPlan.extra holds the key \"steps\"",
        ),
    ] {
        refused(store.update_self_improvement(&state), "self_improvement", expected);
    }
    assert_eq!(export(&store)?, before);

    // The same keys where they are no field, and a document that has them twice.
    let mut free = task("T-2", TaskStatus::Pending);
    free.extra = with("percentComplete");
    free.extra.insert("assigned_to".into(), "dev-2".into());
    free.progress.extra = with("title");
    store.update_task(&free)?;
    assert_eq!(store.task("T-2")?, Some(free.clone()));
    assert_eq!(TaskState::from_json(&serde_json::to_string(&free)?)?, free);
    let document = before.replace("\"tasks\": [", "\"tasks\": [{\"id\": \"T-3\", \"id\": \"T-4\"},");
    let options = ImportOptions::default().mode(ImportMode::Merge);
    store.import_json(document.as_bytes(), options)?;
    let exported = export(&store)?;
    let again = Base::new()?;
    let other = again.store()?;
    import(&other, &exported)?;
    assert_eq!(other.state()?.tasks, store.state()?.tasks);
    Ok(())
}

/// Everything in a directory: names, kinds, modes and contents.
fn picture(directory: &Path) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        let (name, mode, modified) = (path.display(), metadata.mode(), metadata.modified()?);
        if metadata.is_file() {
            found.push(format!("{name} {mode:o} {modified:?} {:?}", fs::read(&path)?));
        } else {
            found.push(format!("{name} {mode:o}"));
        }
        if metadata.is_dir() {
            found.extend(picture(&path)?);
        }
    }
    found.sort();
    Ok(found)
}

/// Each command that works on a database, as it is called where it may be refused.
const COMMANDS: [&[&str]; 24] = [
    &["list", "tasks"],
    &["show", "task", "T-1"],
    &["status"],
    &["check"],
    &["search", "word"],
    &["resume"],
    &["export", "-"],
    &["export"],
    &["checkpoint"],
    &["graph"],
    &["report", "/dev/null"],
    &["backup", "create"],
    &["backup", "list"],
    &["backup", "verify"],
    &["backup", "restore", "backup-1-a"],
    &["backup", "prune"],
    &["migrate"],
    &["migrate", "--status"],
    &["migrate", "--dry-run"],
    &["prune"],
    &["prune", "--dry-run"],
    &["recover"],
    &["import", "tests/fixtures/current-state.json"],
    &["import", "--replace", "tests/fixtures/current-state.json"],
];

/// Runs every command on what `make` puts in place of the database; each is refused and leaves everything as it was.
fn refused_without_a_trace(
    what: &str,
    expected: &str,
    make: impl Fn(&Path) -> TestResult,
) -> Result<(), Box<dyn std::error::Error>> {
    let base = Base::new()?;
    fs::create_dir_all(base.state_dir())?;
    make(&base.file("state.db"))?;
    let before = picture(&base.state_dir())?;
    for arguments in COMMANDS {
        let message = error(&base, 1, arguments);
        // `recover` reports damage that it cannot mend as damage, whatever it looks like.
        assert!(message.contains(expected) || arguments == ["recover"], "{what}, {arguments:?}: {message}");
        assert!(picture(&base.state_dir())? == before, "{what}, {arguments:?} left {:?}", names(&base.state_dir())?);
    }
    let opened = [
        StateStore::open(base.state_dir()).err(),
        StateStore::open_read_only(base.state_dir()).err(),
        StatePersistenceService::new(Some(base.path())).initialize().err(),
    ];
    for error in opened {
        let error = error.expect("it is refused").to_string();
        assert!(error.contains(expected), "{what}: {error}");
    }
    let clean = picture(&base.state_dir())? == before || expected == "is damaged";
    assert!(clean, "{what}: the library left {:?}", names(&base.state_dir())?);
    Ok(())
}

fn names(directory: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
}

#[test]
fn a_refused_command_leaves_another_programs_database_and_its_directory_as_they_are() -> TestResult {
    let make = |sql: &'static str| move |path: &Path| Ok(Connection::open(path)?.execute_batch(sql)?);
    let foreign = "another program's SQLite database, application_id 0";
    refused_without_a_trace("a database", foreign, make("CREATE TABLE t(a); INSERT INTO t VALUES (1);"))?;
    let numbered = make("PRAGMA application_id = 7; CREATE TABLE t(a);");
    refused_without_a_trace("a numbered one", "application_id 7", numbered)?;
    refused_without_a_trace("one in WAL mode", foreign, make("PRAGMA journal_mode = wal; CREATE TABLE t(a);"))?;
    // Of a program that was killed: what it committed last is in its WAL, or what it is to undo in its journal.
    for (mode, files) in [("wal", ["", "-wal", "-shm"].as_slice()), ("delete", &["", "-journal"])] {
        refused_without_a_trace(mode, foreign, |path| {
            let elsewhere = tempfile::tempdir()?;
            let live = elsewhere.path().join("live.db");
            let conn = Connection::open(&live)?;
            conn.execute_batch(&format!("PRAGMA journal_mode = {mode}; PRAGMA cache_size = 1; CREATE TABLE t(a);"))?;
            conn.execute_batch("BEGIN; WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO t SELECT i FROM n;")?;
            if mode == "wal" {
                conn.execute_batch("COMMIT")?;
            }
            for suffix in files {
                let of = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
                assert!(Command::new("cp").args([of(&live), of(path)]).status()?.success(), "{mode}{suffix}");
                assert!(fs::metadata(of(path))?.len() > 0, "{mode}{suffix}");
            }
            Ok(())
        })?;
    }
    refused_without_a_trace("a text", "no SQLite file", |path| Ok(fs::write(path, "a text\n".repeat(900))?))?;
    refused_without_a_trace("a directory", "it is a directory", |path| Ok(fs::create_dir(path)?))?;
    refused_without_a_trace("a pipe", "it is a named pipe", make_pipe)?;
    refused_without_a_trace("a socket", "it is a socket", |path| {
        Ok(std::os::unix::net::UnixListener::bind(path).map(drop)?)
    })?;
    refused_without_a_trace("a short text", "no SQLite file", |path| Ok(fs::write(path, "a text\n")?))
}

#[test]
fn a_refused_command_leaves_a_damaged_database_and_its_directory_as_they_are() -> TestResult {
    let whole = Base::new()?;
    run(&whole, 0, &["import", "tests/fixtures/current-state.json"]);
    let whole = fs::read(whole.file("state.db"))?;
    refused_without_a_trace("one that was cut", "is damaged", |path| Ok(fs::write(path, &whole[..20_000])?))
}

/// Also where nothing is wrong, reading leaves no file, and a command no lock.
#[test]
fn a_reading_command_makes_no_files() -> TestResult {
    let base = Base::new()?;
    run(&base, 0, &["import", "tests/fixtures/current-state.json"]);
    assert!(!base.file("service.lock").exists());
    let before = picture(&base.state_dir())?;
    for arguments in [["list", "tasks"].as_slice(), &["status"], &["check"], &["resume"], &["export", "-"], &["graph"]]
    {
        run(&base, 0, arguments);
        assert!(picture(&base.state_dir())? == before, "{arguments:?} left {:?}", names(&base.state_dir())?);
    }
    // Beside a process that has the database open, the files are in use.
    let store = base.store()?;
    store.update_task(&task("T-new", TaskStatus::Pending))?;
    let in_use = names(&base.state_dir())?.len();
    run(&base, 0, &["show", "task", "T-new"]);
    assert_eq!(names(&base.state_dir())?.len(), in_use);
    store.update_task(&task("T-newer", TaskStatus::Pending))?;
    drop(store);
    run(&base, 0, &["show", "task", "T-newer"]);
    Ok(())
}

/// A database that is mounted by itself has another WAL under its other path: the writes of one would overwrite those of the
/// other.
#[test]
fn a_database_that_is_a_mount_of_one_file_is_refused() -> TestResult {
    let base = Base::new()?;
    run(&base, 0, &["import", "tests/fixtures/current-state.json"]);
    let other = Base::new()?;
    fs::create_dir_all(other.state_dir())?;
    fs::write(other.file("state.db"), "")?;
    let mount = |arguments: &[&std::ffi::OsStr]| Command::new("mount").args(arguments).status();
    let (from, to) = (base.file("state.db"), other.file("state.db"));
    if !mount(&["--bind".as_ref(), from.as_ref(), to.as_ref()]).is_ok_and(|status| status.success()) {
        skip("no bind mounts here");
        return Ok(());
    }
    let result = (|| -> TestResult {
        assert!(matches!(other.store(), Err(Error::MountedFile { .. })));
        for arguments in [["status"].as_slice(), &["check"], &["list", "tasks"]] {
            let output = run(&other, 1, arguments);
            let message = String::from_utf8(output.stderr)?;
            assert!(message.contains("Mount the whole state directory"), "{message}");
        }
        assert!(base.store().is_ok(), "its first path");
        Ok(())
    })();
    Command::new("umount").arg(&to).status()?;
    result
}

/// Where this process may start no more threads, an error says so.
#[test]
fn without_a_thread_to_be_had_an_error_says_so() -> TestResult {
    let base = Base::new()?;
    run(&base, 0, &["import", "tests/fixtures/current-state.json"]);
    let shared = tempfile::tempdir()?;
    let program = shared.path().join("agentmux-state");
    fs::copy(assert_cmd::cargo::cargo_bin!("agentmux-state"), &program)?;
    let state = shared.path().join("state");
    run(&base, 0, &["backup", "create", "threads"]);
    Command::new("cp").arg("-a").arg(base.state_dir()).arg(&state).status()?;
    if !Command::new("chown").arg("-R").arg("65534:65534").arg(shared.path()).status()?.success() {
        skip("not root");
        return Ok(());
    }
    let script = format!("ulimit -u 1; exec {} --state-dir {} status", program.display(), state.display());
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "bash", "-c", &script])
        .output()?;
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!message.contains("panicked"), "{message}");
    // Other processes of that user may leave room for a thread or not.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{message}");
    Ok(())
}
