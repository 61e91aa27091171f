//! Somebody's `sqlite3` shell beside a store that writes: SQLite's WAL-reset race.
//!
//! Up to SQLite 3.51.2, a WAL checkpoint that reads the header of the WAL-index just before another connection begins the WAL
//! anew goes on with the old header, and marks pages of the new WAL as copied which are not
//! (<https://www.sqlite.org/wal.html#walresetbug>). They are lost. The checkpoint is what has to be of an old release, and any
//! connection that writes makes checkpoints by itself, once the WAL has 1,000 pages.
//!
//! The long form: `STATE_TEST_LONG=1 cargo test --release --test integration crash::race -- --nocapture --test-threads=1`

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use agentmux_state::StateStore;
use rusqlite::Connection;

use super::ledger::figures;
use super::{choose, work};
use crate::common::role::{self, said, say, start};
use crate::common::skip::skip;
use crate::common::trace::can_trace;
use crate::common::{Base, TestResult};

/// What runs beside the store, over and over.
struct Beside {
    name: &'static str,
    sql: &'static str,
    /// Whether the README calls it safe beside a running orchestrator.
    is_safe: bool,
}

const BESIDE: [Beside; 6] = [
    Beside { name: "reads", sql: "SELECT count(*), max(title) FROM tasks;", is_safe: true },
    Beside {
        name: "writes without checkpoints",
        sql: "PRAGMA wal_autocheckpoint=0; INSERT INTO notes VALUES (hex(randomblob(500))); DELETE FROM notes WHERE rowid % 50 = 0;",
        is_safe: true,
    },
    Beside {
        name: "writes",
        sql: "INSERT INTO notes VALUES (hex(randomblob(500))); DELETE FROM notes WHERE rowid % 50 = 0;",
        is_safe: false,
    },
    Beside { name: "wal_checkpoint(PASSIVE)", sql: "PRAGMA wal_checkpoint(PASSIVE);", is_safe: false },
    Beside { name: "wal_checkpoint(RESTART)", sql: "PRAGMA wal_checkpoint(RESTART);", is_safe: false },
    Beside { name: "wal_checkpoint(TRUNCATE)", sql: "PRAGMA wal_checkpoint(TRUNCATE);", is_safe: false },
];

/// Writes a new task at a time, and says how many are acknowledged, until its input ends.
pub fn write_new_tasks(base: &Path) -> TestResult {
    let store = StateStore::open(base.join(".agentmux/state"))?;
    say("ready");
    thread::spawn(|| {
        let _ = std::io::stdin().read_line(&mut String::new());
        std::process::exit(0);
    });
    for number in 0_u64.. {
        store.update_task(&work::task(&format!("W-{number}"), &number.to_string()))?;
        say(&format!("did {number}"));
    }
    Ok(())
}

/// As a shell with SQL without end, on the SQLite of this library.
pub fn repeat_sql(base: &Path, sql: &str) -> TestResult {
    let conn = Connection::open(base.join(".agentmux/state/state.db"))?;
    conn.busy_timeout(Duration::from_secs(10))?;
    loop {
        conn.query_row(sql, [], |_| Ok(()))?;
    }
}

/// Children that are killed at the end.
struct Killed(Vec<Child>);

impl Drop for Killed {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a shell that does something over and over.
fn shell(database: &Path, sql: &str, children: &mut Killed) -> TestResult {
    let mut lines = Command::new("yes").arg(sql).stdout(Stdio::piped()).spawn()?;
    let input = lines.stdout.take().ok_or("its output is piped")?;
    children.0.push(lines);
    let mut shell = Command::new("sqlite3");
    shell.arg("-cmd").arg(".timeout 10000").arg(database).stdin(input).stdout(Stdio::null()).stderr(Stdio::null());
    children.0.push(shell.spawn()?);
    Ok(())
}

/// One state on which a store writes while that runs beside it; how many updates were acknowledged, and what is wrong
/// afterwards.
fn round(
    seconds: f64,
    beside: impl FnOnce(&Base, &mut Killed) -> TestResult,
) -> Result<(u64, Vec<String>), Box<dyn std::error::Error>> {
    let base = Base::in_memory()?;
    drop(base.store()?);
    base.sql()?.execute_batch("CREATE TABLE notes (text)")?;
    let (mut writer, mut output) = start("new_tasks", &base)?;
    let mut lines = said(&mut output);
    assert_eq!(lines.next().as_deref(), Some("ready"));
    let mut children = Killed(Vec::new());
    beside(&base, &mut children)?;
    let began = Instant::now();
    let mut acknowledged = 0;
    for line in lines.by_ref() {
        acknowledged = line.trim_start_matches("did ").parse::<u64>()? + 1;
        if began.elapsed().as_secs_f64() > seconds {
            break;
        }
    }
    drop(writer.stdin.take());
    for line in lines {
        acknowledged = line.trim_start_matches("did ").parse::<u64>()? + 1;
    }
    for child in &mut children.0 {
        assert!(child.try_wait()?.is_none(), "what is beside it goes on to the end");
    }
    let mut wrong = Vec::new();
    let status = writer.wait()?;
    if !status.success() {
        wrong.push(format!("the store failed: {status}"));
    }
    drop(children);
    let conn = base.sql()?;
    let integrity: rusqlite::Result<String> = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
    if integrity.as_deref() != Ok("ok") {
        wrong.push(format!("integrity_check: {integrity:?}"));
    }
    let found: rusqlite::Result<u64> =
        conn.query_row("SELECT count(*) FROM tasks WHERE title = 'Title ' || substr(id, 3)", [], |row| row.get(0));
    if found.as_ref().map_or(true, |found| *found < acknowledged) {
        wrong.push(format!("{acknowledged} acknowledged, {found:?} found"));
    }
    Ok((acknowledged, wrong))
}

/// The role of somebody who does SQL as it is said, on the SQLite of this library, as the shell does: one line, one answer.
pub fn answer_sql(base: &Path) -> TestResult {
    let conn = Connection::open(base.join(".agentmux/state/state.db"))?;
    say("answered");
    for line in std::io::stdin().lines() {
        conn.query_row(&line?, [], |_| Ok(()))?;
        say("answered");
    }
    Ok(())
}

/// What the race takes, one step after the other. A checkpoint by the process `pid`, to which `ask` gives SQL and waits for the
/// answer, is held up by `strace` between its read of the header and its work, as the scheduler does with bad luck; with a map
/// of the database, it makes a system call there. Returns what is wrong afterwards.
fn race(
    base: &Base,
    pid: u32,
    ask: &mut dyn FnMut(&str, &mut dyn FnMut() -> TestResult) -> TestResult,
) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let store = base.store()?;
    let conn = base.sql()?;
    let checkpoint = || conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)));
    let mut number = 0_u64;
    let mut write = |more: u64| -> TestResult {
        for _ in 0..more {
            store.update_task(&work::task(&format!("W-{number}"), &number.to_string()))?;
            number += 1;
        }
        Ok(())
    };
    write(30)?;
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    ask("PRAGMA mmap_size = 268435456;", &mut || Ok(()))?;
    ask("SELECT count(description) FROM tasks;", &mut || Ok(()))?;
    // A WAL of some length, all of it copied to the database.
    write(60)?;
    let (length, copied): (u64, u64) = checkpoint()?;
    assert_eq!(length, copied);
    let mut strace = Killed(Vec::new());
    let log = tempfile::NamedTempFile::new()?;
    let child = Command::new("strace")
        .args(["-f", "-tt", "-p", &pid.to_string(), "-o"])
        .arg(log.path())
        .args(["-e", "trace=munmap", "-e", "inject=munmap:delay_enter=1500000"])
        .stderr(Stdio::piped())
        .spawn()?;
    strace.0.push(child);
    let mut attached = BufReader::new(strace.0[0].stderr.take().ok_or("it is piped")?);
    attached.read_line(&mut String::new())?;
    ask("PRAGMA wal_checkpoint(PASSIVE);", &mut || {
        thread::sleep(Duration::from_millis(500));
        // A commit begins the WAL anew, with other pages.
        write(20)
    })?;
    drop(strace);
    let is_held_up = std::fs::read_to_string(log.path())?.contains("DELAYED");
    assert!(is_held_up, "the checkpoint was held up");
    // Past what is marked as copied; then the WAL is begun anew again.
    write(60)?;
    checkpoint()?;
    write(10)?;
    drop(store);
    let integrity: rusqlite::Result<String> = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
    let count = "SELECT count(*) FROM tasks WHERE title = 'Title ' || substr(id, 3)";
    let found: rusqlite::Result<u64> = conn.query_row(count, [], |row| row.get(0));
    let mut wrong = Vec::new();
    if integrity.as_deref() != Ok("ok") {
        wrong.push(format!("integrity_check: {integrity:?}"));
    }
    if found != Ok(number) {
        wrong.push(format!("{number} acknowledged, {found:?} found"));
    }
    Ok(wrong)
}

#[test]
fn a_checkpoint_that_is_overtaken_loses_nothing_with_the_sqlite_of_this_library() -> TestResult {
    if !can_trace() {
        return Ok(());
    }
    let base = Base::in_memory()?;
    drop(base.store()?);
    let (mut child, mut output) = start("answer_sql", &base)?;
    let mut input = child.stdin.take().ok_or("it is piped")?;
    let pid = child.id();
    let mut lines = said(&mut output);
    assert_eq!(lines.next().as_deref(), Some("answered"));
    let wrong = race(&base, pid, &mut |sql, meanwhile| {
        writeln!(input, "{sql}")?;
        meanwhile()?;
        assert_eq!(lines.next().as_deref(), Some("answered"));
        Ok(())
    })?;
    drop(input);
    child.wait()?;
    assert_eq!(wrong, Vec::<String>::new());

    // What it does to a database with the shell that is installed here is no fault of this library; it is what the README says.
    let base = Base::in_memory()?;
    drop(base.store()?);
    let shell = Command::new("sqlite3")
        .args(["-batch", "-cmd", ".print answered"])
        .arg(base.file("state.db"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(shell) = shell else {
        skip("sqlite3 is not installed");
        return Ok(());
    };
    let mut shell = Killed(vec![shell]);
    let pid = shell.0[0].id();
    let mut input = shell.0[0].stdin.take().ok_or("it is piped")?;
    let mut lines = BufReader::new(shell.0[0].stdout.take().ok_or("it is piped")?).lines();
    let mut answered = move || lines.by_ref().any(|line| line.is_ok_and(|line| line == "answered"));
    assert!(answered());
    let wrong = race(&base, pid, &mut |sql, meanwhile| {
        writeln!(input, "{sql}\n.print answered")?;
        meanwhile()?;
        assert!(answered());
        Ok(())
    })
    // The store may meet the damage before it is looked for.
    .unwrap_or_else(|error| vec![error.to_string()]);
    let version = String::from_utf8(Command::new("sqlite3").arg("--version").output()?.stdout)?;
    let version = version.split(' ').next().unwrap_or_default();
    figures(&format!("a checkpoint by the shell {version} that is overtaken"), &format!("wrong: {wrong:?}"))
}

#[test]
fn what_the_readme_calls_safe_beside_an_orchestrator_damages_nothing() -> TestResult {
    let Ok(version) = Command::new("sqlite3").arg("--version").output() else {
        skip("sqlite3 is not installed");
        return Ok(());
    };
    let version = String::from_utf8_lossy(&version.stdout).split(' ').next().unwrap_or_default().to_owned();
    let (rounds, seconds) = choose((1, 1.0), (20, 3.0));
    let report = |name: &str, is_safe: bool, beside: &dyn Fn(&Base, &mut Killed) -> TestResult| -> TestResult {
        let (mut acknowledged, mut damaged, mut first) = (0, 0, String::new());
        for _ in 0..rounds {
            let (some, wrong) = round(seconds, beside)?;
            acknowledged += some;
            damaged += usize::from(!wrong.is_empty());
            if first.is_empty() {
                first = wrong.join("; ");
            }
        }
        let text = format!("rounds {rounds} of {seconds} s, acknowledged {acknowledged}, damaged {damaged} {first}");
        figures(&format!("beside a store that writes, {name}"), text.trim())?;
        assert!(damaged == 0 || !is_safe, "{name}: {first}");
        Ok(())
    };
    for beside in BESIDE {
        // What is known to be unsafe takes its time to show.
        if beside.is_safe || super::is_long() {
            report(&format!("3 shells {version}: {}", beside.name), beside.is_safe, &|base, children| {
                (0..3).try_for_each(|_| shell(&base.file("state.db"), beside.sql, children))
            })?;
        }
    }
    let ours = |sql: &'static str| {
        move |base: &Base, children: &mut Killed| -> TestResult {
            for _ in 0..3 {
                let mut command = role::command(&[], &format!("repeat_sql {sql}"), base.path())?;
                children.0.push(command.stdout(Stdio::null()).spawn()?);
            }
            Ok(())
        }
    };
    let name = format!("3 connections of {}", rusqlite::version());
    report(&format!("{name}: wal_checkpoint(PASSIVE)"), true, &ours("PRAGMA wal_checkpoint(PASSIVE)"))?;
    report(&format!("{name}: wal_checkpoint(TRUNCATE)"), true, &ours("PRAGMA wal_checkpoint(TRUNCATE)"))
}
