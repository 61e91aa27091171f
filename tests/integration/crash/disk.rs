//! A file system that is full, a limit on the size of files, a directory that turns read-only, a clock that jumps.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command};
use std::sync::atomic::Ordering;

use agentmux_state::{CheckpointReason, Error, StatePersistenceService, StateStore};

use super::ledger::{Ledgers, at, figures};
use super::{Random, choose, work};
use crate::common::program::command;
use crate::common::role::{said, say, start_under};
use crate::common::skip::skip;
use crate::common::{Base, TestResult, clock_from};

/// The role of who does what its input says, and tells what it came to: one line each.
pub fn work_on_request(base: &Path) -> TestResult {
    let store = StateStore::open(base.join(".agentmux/state"))?;
    say("ready");
    let mut number = 0;
    for line in std::io::stdin().lines() {
        let result = match line?.as_str() {
            "update" => {
                number += 1;
                let mut task = work::task(&format!("W-task-{}", number % 50), &number.to_string());
                task.description = number.to_string().repeat(500);
                store.update_task(&task)
            }
            "read" => store.state().and_then(|_| store.export_json(std::io::sink())),
            "export" => store.refresh_export().map(drop),
            "backup" => store.backups().create("").map(drop),
            other => panic!("no request {other}"),
        };
        match result {
            Ok(()) => say("ok"),
            Err(error) => say(&format!("{}: {error}", work::kind(&error))),
        }
    }
    Ok(())
}

/// A process in that role.
struct OnRequest {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl OnRequest {
    fn start(program: &[&str], base: &Base) -> std::io::Result<Self> {
        let (child, output) = start_under(program, "toggle", base)?;
        let mut this = Self { child, output };
        assert_eq!(this.answer(), "ready");
        Ok(this)
    }

    fn answer(&mut self) -> String {
        said(&mut self.output).next().unwrap_or_else(|| "gone".into())
    }

    fn ask(&mut self, request: &str) -> String {
        let input = self.child.stdin.as_mut().expect("its input is piped");
        writeln!(input, "{request}").expect("it listens");
        self.answer()
    }

    fn expect(&mut self, requests: &[&str], answer: &str) {
        for request in requests {
            let told = self.ask(request);
            assert!(told.starts_with(answer), "{request}: {told}");
        }
    }

    fn end(mut self) -> TestResult {
        drop(self.child.stdin.take());
        self.output.read_to_end(&mut Vec::new())?;
        assert!(self.child.wait()?.success());
        Ok(())
    }
}

/// A file system of its own, in memory.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn new(directory: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory).output();
        if !mount.is_ok_and(|output| output.status.success()) {
            skip("no file system can be mounted here");
            return None;
        }
        Some(Self(directory.to_path_buf()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_file_system_of_one_megabyte_fills_and_is_freed_again() -> TestResult {
    let place = tempfile::tempdir()?;
    let Some(_mounted) = Mounted::new(place.path(), "1m") else { return Ok(()) };
    let base = Base::new_in(place.path())?;
    let ballast = base.path().join("ballast");
    let store = base.store()?;
    let mut ledgers = Ledgers::default();
    let mut random = Random(3);
    let (mut refused, mut number) = (0, 0);
    for round in 0..choose(6, 60) {
        fs::write(&ballast, vec![1; random.below(150_000)]).or_else(|_| fs::write(&ballast, ""))?;
        let mut failures = 0;
        // Until it is full, and a while longer.
        while failures < 5 {
            number += 1;
            // Known tasks over and over: it is the log that fills the disk.
            let (id, n) = (format!("W-task-{}", number % 10), number.to_string());
            ledgers.hear(&format!("W try {id}={n}"));
            match store.update_task(&work::task(&id, &n)) {
                Ok(()) => ledgers.hear("W did"),
                Err(error) => {
                    assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
                    failures += 1;
                    ledgers.hear("W undone");
                    // Whoever has it open goes on reading, and nothing refused is seen.
                    let found = store.state().expect("reads go on").tasks.into_iter().find(|task| task.id == id);
                    assert_ne!(found.map(|task| task.status.to_string()), Some(n));
                    store.export_json(std::io::sink()).expect("reads go on");
                    for result in [store.refresh_export().map(drop), store.backups().create("full").map(drop)] {
                        let may_be = |error: &Error| matches!(error, Error::DiskFull { .. });
                        assert!(result.as_ref().err().is_none_or(may_be), "{result:?}");
                    }
                }
            }
            if random.below(40) == 0 || failures > 0 {
                // Somebody else's file takes the rest.
                let mut file = fs::OpenOptions::new().append(true).create(true).open(&ballast)?;
                while file.write_all(&[1; 4096]).is_ok() {}
            }
        }
        refused += failures;
        // Who comes now is told as much, where the shared memory cannot be had; reading creates nothing else.
        let errors = String::from_utf8_lossy(&command(&base, &["status"]).output()?.stderr).into_owned();
        assert!(errors.is_empty() || errors.contains("no room left on the disk"), "{errors}");
        fs::remove_file(&ballast)?;
        for backup in store.backups().list()? {
            fs::remove_file(&backup.path)?;
        }
        number += 1;
        ledgers.hear(&format!("W try W-after={number}"));
        store.update_task(&work::task("W-after", &number.to_string())).expect("writes go on");
        ledgers.hear("W did");
        // What was refused is not there; the export may be missing, as there was no room for it.
        let _ = fs::remove_file(base.file("current-state.json"));
        at(&format!("round {round}"), ledgers.verify(&base, false))?;
    }
    let acknowledged = ledgers.total();
    figures("a file system of 1 MB", &format!("acknowledged {acknowledged}, refused {refused}, lost 0"))
}

#[test]
fn a_limit_on_the_size_of_files_is_told_by_its_kind_and_recovered_from() -> TestResult {
    let base = Base::new()?;
    let limit = |process: &OnRequest, limit: &str| -> TestResult {
        let pid = process.child.id().to_string();
        let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={limit}")]).status()?;
        assert!(limited.success());
        Ok(())
    };
    // Who goes on under such a limit has to ignore its signal; then writes fail.
    let mut process = OnRequest::start(&["bash", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""], &base)?;
    for round in 0..choose(3, 30) {
        process.expect(&["update", "read", "export", "backup"], "ok");
        limit(&process, &format!("{}:unlimited", 8192 + round * 4096))?;
        process.expect(&["update", "export", "backup"], "Io: cannot write ");
        process.expect(&["read"], "ok");
        process.expect(&["update"], "Io: cannot write ");
        limit(&process, "unlimited:unlimited")?;
        process.expect(&["update", "read", "export", "backup"], "ok");
    }
    process.end()?;
    assert_eq!(base.store()?.check()?.problems, []);

    // Else the signal ends it, as a kill does.
    let mut process = OnRequest::start(&[], &base)?;
    process.expect(&["update"], "ok");
    limit(&process, "8192:unlimited")?;
    assert_eq!(process.ask("update"), "gone");
    assert!(process.child.wait()?.signal().is_some());
    let store = base.store()?;
    assert_eq!(store.check()?.problems, []);
    assert_eq!(store.task("W-task-1")?.expect("the task").status.as_str(), "1");
    Ok(())
}

#[test]
fn a_directory_that_turns_read_only_is_told_by_its_kind_and_recovered_from() -> TestResult {
    const NOBODY: u32 = 65534;
    let base = Base::new()?;
    drop(base.store()?);
    let everything = || -> std::io::Result<Vec<PathBuf>> {
        let directories =
            [base.path().to_path_buf(), base.path().join(".agentmux"), base.state_dir(), base.file("backups")];
        let files = [base.file("state.db"), base.file("self-improvement")];
        Ok(directories.into_iter().chain(files).collect())
    };
    if chown(base.path(), Some(NOBODY), None).is_err() {
        skip("only root can become somebody whom permissions stop");
        return Ok(());
    }
    for path in everything()? {
        chown(path, Some(NOBODY), Some(NOBODY))?;
    }
    let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let read_only = |is: bool| -> std::io::Result<()> {
        for directory in [base.state_dir(), base.file("backups")] {
            fs::set_permissions(directory, fs::Permissions::from_mode(if is { 0o500 } else { 0o700 }))?;
        }
        Ok(())
    };
    let status = || -> std::io::Result<(bool, String)> {
        let program = command(&base, &["status"]);
        let output = Command::new(as_nobody[0])
            .args(&as_nobody[1..])
            .arg(program.get_program())
            .args(program.get_args())
            .output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let mut process = OnRequest::start(&as_nobody, &base)?;
    for _ in 0..choose(2, 10) {
        process.expect(&["update", "read", "export", "backup"], "ok");
        read_only(true)?;
        // The files that are open are written on; new ones cannot be made.
        process.expect(&["update", "read"], "ok");
        process.expect(&["export", "backup"], "Io: cannot create a file in ");
        assert_eq!(status()?, (true, String::new()), "reading beside it goes on");
        read_only(false)?;
        process.expect(&["update", "read", "export", "backup"], "ok");
    }
    process.end()?;
    // Nobody has it open: SQLite would have to make its shared memory file.
    read_only(true)?;
    let (succeeded, errors) = status()?;
    assert!(!succeeded && errors.contains("its directory cannot be written"), "{errors}");
    read_only(false)?;
    assert_eq!(status()?, (true, String::new()));
    Ok(())
}

#[test]
fn a_clock_that_jumps_does_no_harm() -> TestResult {
    let base = Base::new()?;
    let (clock, seconds) = clock_from("2026-11-22T12:00:00Z".parse()?);
    let service = || {
        let options = base.options().clock(clock.clone()).keep_backups(3);
        StatePersistenceService::with_options(options)
    };
    const DAY: i64 = 86_400;
    let mut ledgers = Ledgers::default();
    let mut number = 0;
    let mut running = service();
    running.initialize()?;
    // Days since the start: on, back an hour, a year back, ten years on, back again.
    for (jump, at_second) in [60, -3600, -365 * DAY, 3650 * DAY, 0, 1, -1, 86_399].into_iter().enumerate() {
        seconds.store(at_second, Ordering::Relaxed);
        let update = |running: &StatePersistenceService, ledgers: &mut Ledgers, number: u64| -> TestResult {
            ledgers.hear(&format!("W try W-task={number}"));
            running.update_task(&work::task("W-task", &number.to_string()))?;
            ledgers.hear("W did");
            Ok(())
        };
        number += 1;
        update(&running, &mut ledgers, number)?;
        let reason = CheckpointReason::UserRequest;
        let checkpoint = running.save_state(reason)?;
        ledgers.hear("W exported");
        let store = running.store()?;
        assert_eq!(store.summary()?.last_checkpoint, Some(checkpoint), "jump {jump}: the last one is the last made");
        assert!(store.state()?.metadata.uptime_seconds >= 0);
        let id = running.create_backup("jump")?;
        ledgers.hear(&format!("W did backup {id}"));
        let kept = running.cleanup_old_backups(3)?.kept;
        assert!(kept.contains(&id), "jump {jump}: the backup just made stays: {kept:?}");
        ledgers.hear("W remove_backups");
        // An update, gone back over.
        running.update_task(&work::task("W-doomed", "1"))?;
        running.restore_from_backup(&id)?;
        at(&format!("jump {jump}"), ledgers.verify(&base, false))?;
        if jump % 2 == 0 {
            running.prepare_for_shutdown()?;
        }
        // Else as in a crash.
        drop(running);
        running = service();
        running.initialize()?;
        assert_eq!(running.state()?.metadata.restart_count, jump as i64 + 1);
        assert!(running.run()?.expect("a run").ended_at.is_none());
    }
    running.prepare_for_shutdown()?;
    Ok(())
}
