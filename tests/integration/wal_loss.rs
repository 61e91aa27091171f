//! A write-ahead log that was deleted, cut or garbled after a kill is noticed; one that a power cut left behind is not taken for it.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::role::{role, said, say, start};
use crate::common::{Base, Ends, TestResult, copy_directory, program, task};
use agentmux_state::{Error, StateStore, StoreOptions, TaskStatus, recover};
use rusqlite::Connection;

/// In the processes that other tests start; else it does nothing.
#[test]
fn in_a_role() -> TestResult {
    let Some((role, base)) = role() else { return Ok(()) };
    let words: Vec<&str> = role.split(' ').collect();
    let state_dir = base.join(".agentmux/state");
    match words[..] {
        ["update", updates, checkpoint] => {
            let store = StateStore::open(&state_dir)?;
            for number in 0..updates.parse()? {
                update(&store, number)?;
            }
            if !checkpoint.is_empty() {
                let conn = Connection::open(state_dir.join("state.db"))?;
                let sql = format!("PRAGMA wal_checkpoint({checkpoint})");
                conn.query_row(&sql, [], |row| row.get::<_, i64>(0)).map(|busy| assert_eq!(busy, 0))?;
                std::mem::forget(conn);
            }
            say("done");
            std::io::stdin().read_to_end(&mut Vec::new())?;
        }
        ["open"] => {
            let store = StateStore::open(&state_dir)?;
            assert!(store.task("T-0")?.is_some());
            let status = fs::read_to_string("/proc/self/status")?;
            say(status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak").trim());
        }
        _ => panic!("no role {role}"),
    }
    Ok(())
}

fn update(store: &StateStore, number: usize) -> agentmux_state::Result<()> {
    let mut task = task(&format!("T-{}", number % 40), TaskStatus::InProgress);
    task.description = format!("update {number} ").repeat(200);
    task.progress.percent_complete = (number % 100) as f64;
    store.update_task(&task)
}

/// A state directory as a process leaves it that was killed after so many updates and a checkpoint of that kind.
fn killed(base: &Base, updates: usize, checkpoint: &str) -> TestResult {
    let (mut child, mut output) = start(&format!("update {updates} {checkpoint}"), base)?;
    assert_eq!(said(&mut output).next().as_deref(), Some("done"));
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Overwrites a file in place, as the same inode.
fn put(path: &Path, content: &[u8]) -> TestResult {
    let file = OpenOptions::new().write(true).truncate(true).open(path)?;
    Ok(file.write_all_at(content, 0)?)
}

fn refused(base: &Base, what: &str) -> TestResult {
    for _ in 0..2 {
        match base.store() {
            Err(Error::Corrupt { .. }) => {}
            Err(other) => panic!("{what}: {other:?}"),
            Ok(_) => panic!("{what}: it opens, as if nothing were lost"),
        }
        // Nor is an old state shown by who only reads.
        for command in [&["check"][..], &["list", "tasks"], &["status"]] {
            let error = program::error(base, 1, command);
            assert!(error.contains("are missing or damaged"), "{what}: {error}");
        }
    }
    Ok(())
}

fn opens_whole(base: &Base, last: usize, what: &str) -> TestResult {
    let store = base.store().map_err(|error| format!("{what}: {error}"))?;
    let task = store.task(&format!("T-{}", last % 40))?.expect(what);
    assert!(task.description.starts_with(&format!("update {last} ")), "{what}: {:.20}", task.description);
    assert!(store.check()?.ok, "{what}");
    Ok(())
}

#[test]
fn a_wal_cut_after_it_was_backfilled_is_refused_as_its_beginning_hides_newer_pages() -> TestResult {
    for checkpoint in ["", "PASSIVE"] {
        for part in [1, 2, 3] {
            let base = Base::new()?;
            killed(&base, 90, checkpoint)?;
            let wal = fs::read(base.file("state.db-wal"))?;
            put(&base.file("state.db-wal"), &wal[..wal.len() * part / 4])?;
            refused(&base, &format!("checkpoint {checkpoint:?}, {part} quarters"))?;
            let report = recover(base.state_dir(), &StoreOptions::default())?;
            if checkpoint.is_empty() {
                assert!(report.lost.iter().any(|it| it.kind == "log"), "{report:?}");
                assert!(base.store()?.check()?.ok);
            } else {
                // The database file has all of it.
                assert!(report.lost.is_empty() && report.from_backup.is_empty(), "{report:?}");
                opens_whole(&base, 89, "recovered")?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_garbled_wal_is_refused() -> TestResult {
    let base = Base::new()?;
    killed(&base, 90, "PASSIVE")?;
    let mut wal = fs::read(base.file("state.db-wal"))?;
    let middle = wal.len() / 2;
    wal[middle] ^= 1;
    put(&base.file("state.db-wal"), &wal)?;
    refused(&base, "a flipped bit")?;

    let base = Base::new()?;
    killed(&base, 90, "")?;
    put(&base.file("state.db-wal"), b"")?;
    refused(&base, "emptied")?;

    let base = Base::new()?;
    killed(&base, 90, "")?;
    fs::remove_file(base.file("state.db-wal"))?;
    refused(&base, "deleted")
}

#[test]
fn a_wal_of_an_older_generation_is_refused() -> TestResult {
    let base = Base::new()?;
    killed(&base, 90, "RESTART")?;
    let old = fs::read(base.file("state.db-wal"))?;
    killed(&base, 90, "")?;
    put(&base.file("state.db-wal"), &old)?;
    refused(&base, "an older WAL")
}

#[test]
fn a_wal_that_is_gone_is_not_missed_where_the_database_has_all_of_it() -> TestResult {
    let base = Base::new()?;
    killed(&base, 90, "PASSIVE")?;
    fs::remove_file(base.file("state.db-wal"))?;
    opens_whole(&base, 89, "backfilled, then deleted")
}

#[test]
fn what_a_killed_process_left_opens_whole() -> TestResult {
    for checkpoint in ["", "PASSIVE", "RESTART", "TRUNCATE"] {
        let base = Base::new()?;
        killed(&base, 90, checkpoint)?;
        killed(&base, 41, checkpoint)?;
        opens_whole(&base, 40, checkpoint)?;
    }
    Ok(())
}

/// After a power cut the shared memory file is whatever the kernel wrote back at some time, under a mark of another boot, or on
/// another disk.
#[test]
fn a_shared_memory_file_from_before_a_power_cut_is_ignored() -> TestResult {
    for (truncate, is_same_file) in [(false, false), (false, true), (true, false)] {
        let base = Base::new()?;
        killed(&base, 90, "RESTART")?;
        let shared_memory = base.file("state.db-shm");
        let old = {
            let (mut child, mut output) = start("update 60 ", &base)?;
            assert_eq!(said(&mut output).next().as_deref(), Some("done"));
            let old = fs::read(&shared_memory)?;
            child.kill()?;
            child.wait()?;
            old
        };
        killed(&base, 30, if truncate { "TRUNCATE" } else { "RESTART" })?;
        killed(&base, 7, if truncate { "TRUNCATE" } else { "" })?;
        if is_same_file {
            put(&shared_memory, &old)?;
        } else {
            // As on a disk that was copied.
            fs::remove_file(&shared_memory)?;
            fs::write(&shared_memory, &old)?;
            fs::set_permissions(&shared_memory, fs::Permissions::from_mode(0o600))?;
        }
        opens_whole(&base, 6, &format!("truncated {truncate}, in the same file {is_same_file}"))?;
    }
    let base = Base::new()?;
    killed(&base, 90, "")?;
    let shared_memory = base.file("state.db-shm");
    // The mark of another boot: `setfattr` is not needed, as a file's own system calls do.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let inode = fs::metadata(&shared_memory)?.ino();
    let mark = format!("{} 0 {inode} 0", boot.trim().replace(|c: char| c.is_ascii_hexdigit(), "0"));
    let python = format!("import os; os.setxattr({shared_memory:?}, 'user.agentmux-state.boot', b'{mark}')");
    if !std::process::Command::new("python3").args(["-c", &python]).status()?.success() {
        return Err("python3 could not set an extended attribute".into());
    }
    put(&base.file("state.db-wal"), b"")?;
    assert!(base.store().is_ok(), "a power cut is no damage");
    Ok(())
}

/// To close any handle on the shared memory file would drop the locks that other threads have on it.
#[test]
fn opening_a_database_leaves_the_locks_of_other_threads_alone() -> TestResult {
    // Held on byte 128 as long as this process has the database open. A file with the same number on another file system is
    // another one.
    let is_locked = |base: &Base| -> std::io::Result<bool> {
        let file = fs::metadata(base.file("state.db-shm"))?;
        let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
        let lock = format!(" {} {major:02x}:{minor:02x}:{} 128 128", std::process::id(), file.ino());
        Ok(fs::read_to_string("/proc/locks")?.lines().any(|line| line.ends_with(&lock)))
    };
    // A look may miss a lock while others change the list; a lock that was dropped stays away.
    let stays_locked = |base: &Base| -> std::io::Result<bool> {
        for look in 0..10 {
            if is_locked(base)? {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(look));
        }
        Ok(false)
    };
    for round in 0..40 {
        let base = Base::in_memory()?;
        // Left by a kill, so that each opening looks at it.
        if round % 20 == 0 {
            killed(&base, 5, "")?;
        }
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| -> TestResult {
            let ends = Ends(&is_done);
            let openers: Vec<_> = (0..3)
                .map(|_| {
                    let (base, is_done) = (&base, &is_done);
                    scope.spawn(move || {
                        let mut store = base.store();
                        while !is_done.load(Ordering::Relaxed) {
                            store = base.store();
                        }
                        store
                    })
                })
                .collect();
            let store = base.store()?;
            store.mode()?;
            for _ in 0..20 {
                assert!(stays_locked(&base)?, "round {round}: this process has the database open, and no lock on it");
            }
            drop(ends);
            for opener in openers {
                opener.join().expect("no panic")?;
            }
            drop(store);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn opening_takes_no_memory_for_a_large_wal() -> TestResult {
    let base = Base::new()?;
    // A reader keeps the WAL from being started over.
    let store = base.store()?;
    update(&store, 0)?;
    let reader = base.sql()?;
    reader.execute_batch("BEGIN; SELECT count(*) FROM tasks")?;
    let mut large = task("T-large", TaskStatus::Pending);
    for number in 0..60 {
        large.description = number.to_string().repeat(500_000);
        store.update_task(&large)?;
    }
    let wal = base.file("state.db-wal");
    assert!(fs::metadata(&wal)?.len() > 50_000_000);
    let copies = Base::new()?;
    fs::create_dir_all(copies.path().join(".agentmux"))?;
    // As a killed process leaves it.
    copy_directory(&base.state_dir(), &copies.state_dir())?;
    let (mut child, mut output) = start("open", &copies)?;
    let peak = said(&mut output).next().expect("its peak");
    assert!(child.wait()?.success());
    let kilobytes: u64 = peak.trim_end_matches(" kB").parse()?;
    assert!(kilobytes < 40_000, "{peak}");
    Ok(())
}
