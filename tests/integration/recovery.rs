//! Recovery against the ground truth: every row that is lost, comes back or is another afterwards is named in the report.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use agentmux_state::{
    CheckpointReason, Error, RecoveryFinding, RecoveryReport, SlackContext, StateStore, StoreOptions, TaskCheckpoint,
    TaskState, TaskStatus, recover,
};
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::common::program::{self, command};
use crate::common::trace::can_trace;
use crate::common::{
    Base, FIXTURE, TestResult, agent, below, conversation, copy_directory, import, is_long, message, project, random,
    task,
};

/// A task with a row in each table that belongs to tasks.
fn whole_task(number: usize, version: usize) -> TaskState {
    let mut task = task(&format!("T-{number:03}"), TaskStatus::InProgress);
    task.description = format!("description {version} of task {number}. ").repeat(4);
    task.progress.percent_complete = (number % 100) as f64 + 0.5;
    task.progress.completed_steps = (0..=version).map(|step| format!("step {step} of task {number}")).collect();
    task.progress.remaining_steps = Some((0..3).map(|step| format!("remaining step {step} of {number}")).collect());
    task.progress.blockers = Some(vec![format!("blocker of {number}"), "the review".into()]);
    task.blocked_by = Some(vec![format!("T-{:03}", number + 1), format!("T-{:03}", number + 2)]);
    task.blocks = Some(vec![format!("T-{:03}", number.saturating_sub(1))]);
    task.assigned_to = Some(format!("dev-{}", number % 7));
    task.checkpoint = Some(TaskCheckpoint {
        step_index: number as i64,
        modified_files: Some((0..4).map(|file| format!("/srv/project/src/file-{number}-{file}.rs")).collect()),
        pending_actions: Some((0..3).map(|action| format!("pending action {action} of {number}")).collect()),
        ..TaskCheckpoint::default()
    });
    task
}

/// What was there of good copies when the database was damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copies {
    None,
    Backup,
    Export,
    /// A backup, a later one that a restore has discarded, and the safety backup of that restore.
    Restored,
}

const COPIES: [Copies; 4] = [Copies::None, Copies::Backup, Copies::Export, Copies::Restored];

fn fill(store: &StateStore, from: usize, to: usize, version: usize) -> TestResult {
    store.batch(|batch| {
        for number in from..to {
            batch.update_task(&whole_task(number, version))?;
        }
        Ok::<_, Error>(())
    })?;
    Ok(())
}

/// A state directory with rows in all tables, with its newest changes in the WAL where `is_killed`.
fn state(dir: &Path, copies: Copies, is_killed: bool) -> TestResult {
    let store = StateStore::open(dir)?;
    import(&store, FIXTURE)?;
    fill(&store, 0, 100, 1)?;
    store.batch(|batch| {
        for number in 0..30 {
            let mut conversation = conversation(&format!("C-{number:02}"), 100 * number..100 * number + 25);
            conversation.slack_context = Some(SlackContext {
                channel_id: format!("C0{number}"),
                thread_ts: format!("17.{number}"),
                ..SlackContext::default()
            });
            batch.update_conversation(&conversation)?;
        }
        for number in 0..40 {
            batch.update_agent(&agent(&format!("dev-{number}")))?;
            let mut project = project(&format!("P-{number:02}"));
            project.active_tasks = (0..6).map(|task| format!("T-{:03}", number * 2 + task)).collect();
            project.active_agents = (0..4).map(|agent| format!("dev-{}", number + agent)).collect();
            batch.update_project(&project)?;
        }
        Ok::<_, Error>(())
    })?;
    for _ in 0..60 {
        store.record_checkpoint(&CheckpointReason::Scheduled)?;
    }
    if copies != Copies::None {
        let good = store.backups().create("good")?;
        if copies == Copies::Restored {
            fill(&store, 50, 70, 3)?;
            fill(&store, 300, 330, 3)?;
            store.append_message("C-01", &message(9000))?;
            store.record_checkpoint(&CheckpointReason::Scheduled)?;
            store.backups().create("discarded")?;
            store.backups().restore(&good.id)?;
        }
    }
    fill(&store, 90, 120, 2)?;
    for number in 0..10 {
        store.remove_task(&format!("T-{number:03}"))?;
        store.append_message(&format!("C-{number:02}"), &message(5000 + number))?;
    }
    if copies == Copies::Export {
        store.record_checkpoint(&CheckpointReason::UserRequest)?;
        store.refresh_export()?;
        fill(&store, 110, 115, 3)?;
    }
    if !is_killed {
        return Ok(());
    }
    let copy = dir.with_extension("killed");
    copy_directory(dir, &copy)?;
    drop(store);
    fs::remove_dir_all(dir)?;
    Ok(fs::rename(copy, dir)?)
}

/// The rows of each entity in each table.
type Rows = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Tables, and the column that names the entity that a row belongs to; rows are numbered anew where one is lost.
const TABLES: &[(&str, &str, &[&str])] = &[
    ("state", "singleton", &[]),
    ("conversations", "id", &["position"]),
    ("messages", "conversation_id", &["message_id"]),
    ("tasks", "id", &["position"]),
    ("task_steps", "task_id", &[]),
    ("task_blockers", "task_id", &[]),
    ("task_dependencies", "task_id", &[]),
    ("task_checkpoints", "task_id", &[]),
    ("task_checkpoint_files", "task_id", &[]),
    ("task_checkpoint_actions", "task_id", &[]),
    ("agents", "session_name", &["position"]),
    ("projects", "id", &["position"]),
    ("project_tasks", "project_id", &[]),
    ("project_agents", "project_id", &[]),
    ("self_improvement", "singleton", &[]),
    ("self_improvement_target_files", "position", &[]),
    ("self_improvement_planned_changes", "position", &[]),
    ("self_improvement_backup_files", "position", &[]),
    ("self_improvement_checks", "position", &[]),
    ("self_improvement_rollback_steps", "position", &[]),
    ("runs", "run_id", &[]),
    ("checkpoints", "checkpoint_id", &[]),
];

fn rows(dir: &Path) -> Result<Rows, Box<dyn std::error::Error>> {
    let conn = Connection::open(dir.join("state.db"))?;
    let mut all = Rows::new();
    for (table, entity, without) in TABLES {
        let mut select = conn.prepare(&format!("SELECT *, {entity} FROM {table}"))?;
        let columns: Vec<String> = select.column_names().iter().map(ToString::to_string).collect();
        let mut rows = select.query([])?;
        let entities = all.entry((*table).to_owned()).or_default();
        while let Some(row) = rows.next()? {
            let last = columns.len() - 1;
            let kept = (0..last).filter(|index| !without.contains(&columns[*index].as_str()));
            let row_text: Vec<String> = kept.map(|index| format!("{:?}", row.get::<_, Value>(index))).collect();
            let name = match row.get::<_, Value>(last)? {
                Value::Text(text) => text,
                other => format!("{other:?}"),
            };
            entities.entry(name).or_default().insert(row_text.join(" "));
        }
    }
    // Each recovery and restore adds its own.
    all.get_mut("checkpoints").unwrap().retain(|_, rows| !rows.iter().any(|row| row.contains("error_recovery")));
    Ok(all)
}

/// Whether a report names an entity of a table, or says of the table that nothing tells which rows are lost.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    ById,
    OfTable,
    No,
}

fn told(report: &RecoveryReport, table: &str, entity: &str) -> Told {
    let findings = || report.lost.iter().chain(&report.from_backup).filter(|it| it.kind == table);
    let names = |it: &RecoveryFinding| it.ids.iter().any(|id| id == entity);
    if findings().any(names) {
        Told::ById
    } else if findings().any(|it| it.ids.is_empty()) {
        Told::OfTable
    } else {
        Told::No
    }
}

/// The entities of which rows differ.
fn differences(expected: &Rows, found: &Rows) -> Vec<(String, String)> {
    let mut differences = Vec::new();
    for (table, expected) in expected {
        let found = &found[table];
        for entity in expected.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
            if expected.get(entity) != found.get(entity) {
                differences.push((table.clone(), entity.clone()));
            }
        }
    }
    differences
}

/// Pages of a database that lead to others, where their pointers stand.
fn pointers(bytes: &[u8]) -> Vec<usize> {
    let mut pointers = Vec::new();
    for page in 1..bytes.len() / 4096 {
        let at = page * 4096;
        if !matches!(bytes[at], 2 | 5) {
            continue;
        }
        pointers.push(at + 8);
        let cells = u16::from_be_bytes([bytes[at + 3], bytes[at + 4]]) as usize;
        for cell in 0..cells.min(400) {
            let cell = at + 12 + 2 * cell;
            let offset = u16::from_be_bytes([bytes[cell], bytes[cell + 1]]) as usize;
            if offset + 4 <= 4096 {
                pointers.push(at + offset);
            }
        }
    }
    pointers
}

/// Damages the files in one way; what was done, and whether only SQLite's structure tells of it, which a text does not change.
fn damage(dir: &Path, seed: &mut u64) -> (String, bool) {
    let (database, wal) = (dir.join("state.db"), dir.join("state.db-wal"));
    let mut bytes = fs::read(&database).unwrap();
    let mut frames = fs::read(&wal).unwrap_or_default();
    let pages = bytes.len() / 4096;
    let (what, is_quiet) = match random(seed) % 10 {
        0 => {
            let flips = 1 + below(seed, 20);
            for _ in 0..flips {
                let at = below(seed, bytes.len());
                bytes[at] ^= 1 << below(seed, 8);
            }
            (format!("{flips} bits of the database"), true)
        }
        1 | 2 => {
            let page = below(seed, pages);
            bytes[page * 4096..(page + 1) * 4096].fill(0);
            (format!("page {page} is zeros"), false)
        }
        3 => {
            let page = below(seed, pages);
            bytes[page * 4096..(page + 1) * 4096].fill_with(|| random(seed) as u8);
            (format!("page {page} is noise"), false)
        }
        4 | 5 => {
            let (from, to) = (below(seed, pages), below(seed, pages));
            bytes.copy_within(from * 4096..(from + 1) * 4096, to * 4096);
            (format!("page {to} is as page {from}"), false)
        }
        6 | 7 => {
            let pointers = pointers(&bytes);
            let page = 1 + below(seed, pages) as u32;
            let at = pointers.get(below(seed, pointers.len())).copied().unwrap_or(4096 + 8);
            bytes[at..at + 4].copy_from_slice(&page.to_be_bytes());
            (format!("the pointer at {at} leads to page {page}"), false)
        }
        8 => {
            let length = below(seed, bytes.len());
            let length = if random(seed).is_multiple_of(2) { length } else { length / 4096 * 4096 };
            bytes.truncate(length);
            // What is left of a page has zeros in the place of texts.
            (format!("the database is cut at {length}"), !length.is_multiple_of(4096))
        }
        _ if frames.is_empty() => {
            let page = below(seed, pages);
            bytes[page * 4096 + 2048..(page + 1) * 4096].fill(0);
            (format!("the second half of page {page} is zeros"), true)
        }
        _ => {
            let length = below(seed, frames.len());
            frames.truncate(length);
            (format!("the WAL is cut at {length}"), false)
        }
    };
    fs::write(&database, bytes).unwrap();
    if wal.exists() {
        fs::write(&wal, frames).unwrap();
    }
    (what, is_quiet)
}

#[derive(Debug, Default)]
struct Tally {
    damages: usize,
    not_found: usize,
    rebuilt: usize,
    nothing_left: usize,
    entities_named: usize,
    entities_told_of_by_table: usize,
    entities_changed_by_text: usize,
    longest_report: usize,
    /// What nobody was told of.
    silent: Vec<String>,
}

/// The first run of each damage, and where nothing tells that there is one, that no row is another one.
fn survive(dir: &Path, expected: &Rows, what: &str, is_quiet: bool, tally: &mut Tally) {
    tally.damages += 1;
    let report = match recover(dir, &StoreOptions::default()) {
        Ok(report) => report,
        Err(Error::NotDamaged { .. }) => {
            tally.not_found += 1;
            let store = StateStore::open(dir).unwrap_or_else(|error| panic!("{what}: {error:?}"));
            assert!(store.check().unwrap().ok, "{what}: {:?}", store.check());
            drop(store);
            let different = differences(expected, &rows(dir).unwrap());
            if !is_quiet && !different.is_empty() {
                tally.silent.push(format!("{what}: nobody found that these are others: {different:?}"));
            }
            tally.entities_changed_by_text += different.len();
            return;
        }
        Err(Error::Unrecoverable { .. }) => {
            assert!(fs::metadata(dir.join("state.db")).is_ok(), "{what}: it was left as it was");
            tally.nothing_left += 1;
            return;
        }
        Err(error) => panic!("{what}: {error:?}"),
    };
    tally.rebuilt += 1;
    tally.longest_report = tally.longest_report.max(report.lost.len() + report.from_backup.len());
    let store = StateStore::open(dir).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let check = store.check().unwrap();
    if !check.ok {
        tally.silent.push(format!("{what}: {:?}\n{report:#?}", check.problems));
    }
    store.state().unwrap();
    drop(store);
    let is_log_lost = report.lost.iter().any(|it| it.kind == "log");
    let mut silent = Vec::new();
    for (table, entity) in differences(expected, &rows(dir).unwrap()) {
        match told(&report, &table, &entity) {
            Told::ById => tally.entities_named += 1,
            Told::OfTable => tally.entities_told_of_by_table += 1,
            // What was in a WAL that is gone, nothing tells but that it is gone.
            Told::No if is_log_lost => tally.entities_told_of_by_table += 1,
            Told::No if is_quiet => tally.entities_changed_by_text += 1,
            Told::No => silent.push((table, entity)),
        }
    }
    if !silent.is_empty() {
        tally.silent.push(format!("{what}: nobody was told of {silent:?}\n{report:#?}"));
    }
}

#[test]
fn whatever_is_lost_or_comes_back_or_is_another_is_named() -> TestResult {
    let number = std::env::var("STATE_TEST_DAMAGES").ok().and_then(|number| number.parse().ok());
    let number = number.unwrap_or(if is_long() { 1000 } else { 64 });
    let first = std::env::var("STATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let master = Base::in_memory()?;
    let mut expected = BTreeMap::new();
    for copies in COPIES {
        for is_killed in [false, true] {
            let name = format!("{copies:?}-{is_killed}");
            let dir = master.path().join(&name);
            state(&dir, copies, is_killed)?;
            let copy = master.path().join("look");
            copy_directory(&dir, &copy)?;
            expected.insert(name, rows(&copy)?);
            fs::remove_dir_all(copy)?;
        }
    }
    let mut tally = Tally::default();
    for round in first.map_or(0..number, |first: usize| first..first + 1) {
        let copies = COPIES[round % 4];
        let name = format!("{copies:?}-{}", round / 4 % 2 == 1);
        let base = Base::in_memory()?;
        let dir = base.path().join("state");
        copy_directory(&master.path().join(&name), &dir)?;
        let mut seed = round as u64 * 104_729 + 17;
        let (what, is_quiet) = damage(&dir, &mut seed);
        survive(&dir, &expected[&name], &format!("round {round}, {name}: {what}"), is_quiet, &mut tally);
    }
    let silent = std::mem::take(&mut tally.silent);
    println!("{tally:?}");
    assert!(silent.is_empty(), "{} of {number} damages:\n{}", silent.len(), silent.join("\n\n"));
    assert!(first.is_some() || tally.rebuilt > number / 3);
    Ok(())
}

/// Tables and rows as they are, without what tells of the time of a recovery.
fn content(dir: &Path) -> Result<Rows, Box<dyn std::error::Error>> {
    let mut rows = rows(dir)?;
    // Which checkpoint says how old it is.
    rows.remove("state");
    Ok(rows)
}

/// A damaged state directory: a page of tasks is gone from the database, and the newest changes are in the WAL alone.
fn damaged() -> Result<Base, Box<dyn std::error::Error>> {
    let base = Base::in_memory()?;
    fs::create_dir_all(base.path().join(".agentmux"))?;
    state(&base.state_dir(), Copies::Backup, false)?;
    let mut bytes = fs::read(base.file("state.db"))?;
    let at = bytes.windows(24).position(|it| it == b"description 1 of task 40").ok_or("a task")? / 4096 * 4096;
    bytes[at..at + 4096].fill(0);
    let store = base.store()?;
    fill(&store, 200, 230, 5)?;
    let copy = base.state_dir().with_extension("killed");
    copy_directory(&base.state_dir(), &copy)?;
    drop(store);
    fs::remove_dir_all(base.state_dir())?;
    fs::rename(copy, base.state_dir())?;
    fs::write(base.file("state.db"), bytes)?;
    assert!(fs::metadata(base.file("state.db-wal"))?.len() > 10_000);
    Ok(base)
}

fn copy_of(master: &Base) -> Result<Base, Box<dyn std::error::Error>> {
    let base = Base::in_memory()?;
    let target = base.path().join(".agentmux");
    copy_directory(&master.path().join(".agentmux"), &target)?;
    Ok(base)
}

/// The folders of damaged files, and the names of the files in them.
fn folders(base: &Base) -> Result<Vec<BTreeSet<String>>, Box<dyn std::error::Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(base.state_dir())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("damaged-") {
            let names = fs::read_dir(entry.path())?.map(|it| Ok(it?.file_name().to_string_lossy().into_owned()));
            found.push(names.collect::<std::io::Result<_>>()?);
        }
    }
    Ok(found)
}

/// Runs the program under `strace`, which makes the nth of some system calls fail or kills the program at it; its exit status, and
/// what it said on standard error.
fn injected(base: &Base, calls: &str, inject: &str, arguments: &[&str]) -> std::io::Result<(Option<i32>, String)> {
    let mut strace = Command::new("strace");
    if calls == "pread64" {
        // Not what the program itself is read by.
        strace.arg("-P").arg(base.file("state.db")).arg("-P").arg(base.file("state.db-wal"));
    }
    let output = strace
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={calls}"))
        .args(["-e"])
        .arg(format!("inject={calls}:{inject}"))
        .arg(env!("CARGO_BIN_EXE_agentmux-state"))
        .arg("--state-dir")
        .arg(base.state_dir())
        .args(arguments)
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!errors.contains("panicked"), "{errors}");
    Ok((output.status.code(), errors))
}

#[test]
fn killed_at_any_step_the_next_run_ends_in_the_same_state() -> TestResult {
    if !can_trace() {
        return Ok(());
    }
    let master = damaged()?;
    let undisturbed = copy_of(&master)?;
    program::run(&undisturbed, 0, &["recover"]);
    let expected = content(&undisturbed.state_dir())?;
    assert!(expected["tasks"].contains_key("T-229"), "what was in the WAL is there");
    let files = folders(&undisturbed)?;
    assert_eq!(files.len(), 1);
    let is_long = is_long();
    let mut kills = BTreeMap::new();
    // All that names files, and what is written to them; of the many writes only some, but in the long form.
    for (calls, step) in [
        ("rename", 1),
        ("renameat", 1),
        ("renameat2", 1),
        ("link", 1),
        ("linkat", 1),
        ("mkdir", 1),
        ("rmdir", 1),
        ("unlink", 1),
        ("unlinkat", 1),
        ("fsync", if is_long { 1 } else { 5 }),
        ("fdatasync", if is_long { 1 } else { 5 }),
        ("ftruncate", 1),
        ("write", if is_long { 1 } else { 20 }),
        ("pwrite64", if is_long { 3 } else { 150 }),
    ] {
        for nth in (1..).step_by(step) {
            let base = copy_of(&master)?;
            let (status, errors) = injected(&base, calls, &format!("signal=SIGKILL:when={nth}"), &["recover"])?;
            let what = format!("{calls} {nth}");
            let is_done = status == Some(0);
            if !is_done {
                assert_eq!(status, None, "{what}: {errors}");
                *kills.entry(calls).or_insert(0) += 1;
                // Where it had come to its end, there is nothing left to do.
                let again = command(&base, &["recover"]).output()?;
                let said = String::from_utf8_lossy(&again.stderr).into_owned();
                assert!(again.status.success() || said.contains("is not damaged"), "{what}: {said}");
            }
            assert_eq!(content(&base.state_dir())?, expected, "{what}");
            let found = folders(&base)?;
            let with_files: Vec<_> = found.iter().filter(|names| names.contains("state.db")).collect();
            assert_eq!(with_files, files.iter().collect::<Vec<_>>(), "{what}: {found:?}");
            assert!(base.store()?.check()?.ok, "{what}");
            if is_done {
                break;
            }
        }
    }
    println!("{} kills: {kills:?}", kills.values().sum::<i32>());
    let renames: i32 = ["rename", "renameat", "renameat2"].iter().filter_map(|calls| kills.get(calls)).sum();
    assert!(renames >= 5, "{kills:?}");
    Ok(())
}

#[test]
fn a_disk_that_fails_to_read_is_no_damage() -> TestResult {
    if !can_trace() {
        return Ok(());
    }
    let is_long = is_long();
    // A sound database: no check says that it is damaged, and no recovery touches it.
    let sound = Base::in_memory()?;
    fs::create_dir_all(sound.path().join(".agentmux"))?;
    state(&sound.state_dir(), Copies::None, false)?;
    let expected = content(&sound.state_dir())?;
    let (mut errors, mut unaffected) = (0, 0);
    for when in ["", "+"] {
        for command in ["check", "recover"] {
            for nth in (1..).step_by(if is_long { 1 } else { 29 }) {
                let inject = format!("error=EIO:when={nth}{when}");
                let (status, said) = injected(&sound, "pread64", &inject, &[command])?;
                assert!(folders(&sound)?.is_empty(), "{command} {inject}: {said}");
                if said.contains("again") {
                    assert_eq!(status, Some(1), "{command} {inject}: {said}");
                    errors += 1;
                } else {
                    // As without the failure: it came too late, or where SQLite can do without.
                    let is_as_without =
                        if command == "check" { said.is_empty() } else { said.contains("is not damaged") };
                    assert!(
                        is_as_without && status == Some(i32::from(command == "recover")),
                        "{command} {inject}: {said}"
                    );
                    unaffected += 1;
                    if when == "+" || nth > 2000 {
                        break;
                    }
                }
            }
        }
    }
    assert_eq!(content(&sound.state_dir())?, expected);
    // Nor is it replaced by a backup that somebody goes back to: the restore fails, or makes its safety backup.
    let backup = sound.store()?.backups().create("good")?;
    for nth in (1..120).step_by(if is_long { 1 } else { 7 }) {
        let base = copy_of(&sound)?;
        let inject = format!("error=EIO:when={nth}");
        let (status, said) = injected(&base, "pread64", &inject, &["backup", "restore", &backup.id])?;
        assert!(folders(&base)?.is_empty(), "{inject}: {status:?} {said}");
    }
    // A damaged one: it is rebuilt as without the failure, or not at all.
    let master = damaged()?;
    let whole = copy_of(&master)?;
    program::run(&whole, 0, &["recover"]);
    let expected = content(&whole.state_dir())?;
    let (mut refused, mut rebuilt) = (0, 0);
    for when in ["", "+"] {
        for nth in 1..if is_long { 60 } else { 8 } {
            let base = copy_of(&master)?;
            let inject = format!("error=EIO:when={nth}{when}");
            let (status, said) = injected(&base, "pread64", &inject, &["recover"])?;
            if status == Some(0) {
                assert_eq!(content(&base.state_dir())?, expected, "{inject}");
                rebuilt += 1;
            } else {
                assert!(folders(&base)?.is_empty() && base.file("state.db").exists(), "{inject}: {said}");
                assert!(said.contains("again"), "{inject}: {said}");
                refused += 1;
            }
        }
    }
    println!("sound: {errors} errors, {unaffected} unaffected; damaged: {refused} refused, {rebuilt} rebuilt");
    assert!(errors > 0 && refused > 0);
    Ok(())
}

#[test]
fn what_a_restore_has_discarded_does_not_come_back() -> TestResult {
    for is_removed in [false, true] {
        let base = Base::new()?;
        fs::create_dir_all(base.path().join(".agentmux"))?;
        state(&base.state_dir(), Copies::Restored, false)?;
        let labels: Vec<_> = base.store()?.backups().list()?.into_iter().map(|backup| backup.label).collect();
        assert_eq!(labels, ["before-restore", "discarded", "good"]);
        if is_removed {
            // Not even its first page is left.
            let mut bytes = fs::read(base.file("state.db"))?;
            bytes[..4096].fill(0);
            fs::write(base.file("state.db"), bytes)?;
        } else {
            let mut bytes = fs::read(base.file("state.db"))?;
            // T-055 is as it was before the restore; so it is in `good`.
            let at = bytes.windows(24).position(|it| it == b"description 1 of task 55").ok_or("a task")? / 4096 * 4096;
            bytes[at..at + 4096].fill(0);
            fs::write(base.file("state.db"), bytes)?;
        }
        let report = recover(base.state_dir(), &StoreOptions::default())?;
        let told = report.from_backup.iter().filter(|it| it.kind == "backup").map(|it| &it.message);
        let told: Vec<_> = told.collect();
        assert!(told.iter().any(|it| it.contains("before-restore") && it.contains("was not used")), "{report:#?}");
        if !is_removed {
            let state = base.store()?.state()?;
            assert!(!state.tasks.iter().any(|task| task.id == "T-310"), "{report:#?}");
            let task = state.tasks.iter().find(|task| task.id == "T-055").expect("it was in a backup");
            assert!(task.description.starts_with("description 1 "), "{report:#?}");
            assert!(told.iter().any(|it| it.contains("-good ") && it.contains("nothing tells")), "{report:#?}");
            // A recovery is no restore: what it has made goes on with the same history.
            let backup = base.store()?.backups().create("later")?;
            let bytes = fs::read(base.file("state.db"))?;
            fs::write(base.file("state.db"), &bytes[..bytes.len() / 8192 * 4096])?;
            let report = recover(base.state_dir(), &StoreOptions::default())?;
            assert!(report.source.contains(&backup.id), "{report:#?}");
            assert!(!report.from_backup.iter().any(|it| it.message.contains("nothing tells")), "{report:#?}");
        }
    }
    Ok(())
}

#[test]
fn lists_of_a_shared_page_come_from_the_backup_or_are_named() -> TestResult {
    let base = Base::new()?;
    fs::create_dir_all(base.path().join(".agentmux"))?;
    state(&base.state_dir(), Copies::Backup, false)?;
    let expected = rows(&base.state_dir())?;
    // The tree of files leads to a page of the actions, which has the same form and the same tasks.
    let mut bytes = fs::read(base.file("state.db"))?;
    let page_of = |text: &[u8]| bytes.windows(text.len()).position(|it| it == text).map(|at| at / 4096 + 1);
    let (files, actions) = (
        page_of(b"/srv/project/src/file-60-0.rs").ok_or("files")? as u32,
        page_of(b"pending action 0 of 60").ok_or("actions")? as u32,
    );
    let pointer =
        pointers(&bytes).into_iter().find(|at| bytes[*at..*at + 4] == files.to_be_bytes()).ok_or("a parent")?;
    bytes[pointer..pointer + 4].copy_from_slice(&actions.to_be_bytes());
    fs::write(base.file("state.db"), bytes)?;
    let report = recover(base.state_dir(), &StoreOptions::default())?;
    let found = rows(&base.state_dir())?;
    assert_eq!(found["task_checkpoint_files"].get("T-060"), expected["task_checkpoint_files"].get("T-060"));
    for (table, entity) in differences(&expected, &found) {
        assert_ne!(told(&report, &table, &entity), Told::No, "{table} {entity}: {report:#?}");
    }
    let named = report.from_backup.iter().find(|it| it.kind == "task_checkpoint_files").expect("files came");
    assert!(named.message.contains("rows of") && named.ids.len() > 5, "{report:#?}");
    Ok(())
}

#[test]
fn a_half_of_a_pair_is_completed_or_quarantined_and_named() -> TestResult {
    let base = Base::new()?;
    fs::create_dir_all(base.path().join(".agentmux"))?;
    state(&base.state_dir(), Copies::Backup, false)?;
    base.sql()?.execute_batch(
        "UPDATE conversations SET slack_thread_ts = NULL WHERE id = 'C-05';
         UPDATE conversations SET slack_channel_id = 'another', slack_thread_ts = NULL WHERE id = 'C-06';
         UPDATE projects SET git_last_commit = NULL, git_branch = 'main' WHERE id = 'P-03';
         UPDATE projects SET build_last_at = '2026-11-22T10:00:00.000Z' WHERE id = 'P-04';
         UPDATE agents SET last_activity_type = 'command' WHERE session_name = 'dev-3';
         DELETE FROM task_steps WHERE task_id = 'T-020' AND position = 0",
    )?;
    let check = base.store()?.check()?;
    assert!(check.notes.iter().any(|it| it.kind == "invariant" && it.message.contains("slackContext")), "{check:?}");
    let report = recover(base.state_dir(), &StoreOptions::default())?;
    let names = |findings: &[RecoveryFinding], table: &str, id: &str| {
        findings.iter().any(|it| it.kind == table && it.ids.iter().any(|it| it == id))
    };
    assert!(names(&report.from_backup, "conversations", "C-05"), "{report:#?}");
    for (table, id) in [
        ("conversations", "C-06"),
        ("projects", "P-03"),
        ("projects", "P-04"),
        ("agents", "dev-3"),
        ("task_steps", "T-020"),
    ] {
        assert!(names(&report.lost, table, id), "{table} {id}: {report:#?}");
    }
    let store = base.store()?;
    let slack = store.conversation("C-05")?.and_then(|it| it.slack_context).expect("it was completed");
    assert_eq!((slack.channel_id.as_str(), slack.thread_ts.as_str()), ("C05", "17.5"));
    let quarantined = store.set_aside()?;
    for part in ["another", "main", "2026-11-22T10:00:00.000Z", "command"] {
        assert!(quarantined.iter().any(|it| it.content.contains(part)), "{part}: {quarantined:?}");
    }
    let check = store.check()?;
    assert!(check.ok && !check.notes.iter().any(|it| it.kind == "invariant"), "{check:?}");
    assert_eq!(store.task("T-020")?.expect("it is there").progress.completed_steps.len(), 1);
    Ok(())
}

#[test]
fn the_report_is_short_and_the_whole_one_is_kept() -> TestResult {
    let base = Base::new()?;
    fs::create_dir_all(base.path().join(".agentmux"))?;
    state(&base.state_dir(), Copies::Backup, false)?;
    let bytes = fs::read(base.file("state.db"))?;
    fs::write(base.file("state.db"), &bytes[..bytes.len() / 3 / 4096 * 4096])?;
    let text = program::text(program::run(&base, 0, &["recover"]));
    assert!(text.lines().count() < 60 && text.len() < 12_000, "{text}");
    assert!(text.contains("recovery.json") && text.contains("agentmux-state check"), "{text}");
    let folder =
        fs::read_dir(base.state_dir())?.flatten().find(|it| it.file_name().to_string_lossy().starts_with("damaged-"));
    let whole = fs::read(folder.expect("the damaged files").path().join("recovery.json"))?;
    let whole: serde_json::Value = serde_json::from_slice(&whole)?;
    assert!(!whole["lost"].as_array().expect("a list").is_empty() && whole["recoveredAt"].is_string());
    Ok(())
}

#[test]
fn a_database_that_another_process_has_open_is_not_recovered() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    base.sql()?.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let page: i64 = base.sql()?.query_row(
        "SELECT rootpage - 1 FROM sqlite_schema WHERE name = 'messages' AND type = 'table'",
        [],
        |row| row.get(0),
    )?;
    // By another process: to close the file here would drop the locks of the store.
    let damage = ["bs=4096", "count=1", "conv=notrunc", "if=/dev/urandom"];
    let of = format!("of={}", base.file("state.db").display());
    assert!(Command::new("dd").args(damage).args([of, format!("seek={page}")]).output()?.status.success());
    store.update_task(&task("T-1", TaskStatus::Pending))?;
    let message = program::error(&base, 1, &["recover"]);
    assert!(message.contains(&format!("in use by process {}", std::process::id())), "{message}");
    store.update_task(&task("T-2", TaskStatus::Pending))?;
    drop(store);
    assert!(command(&base, &["recover"]).output()?.status.success());
    let store = base.store()?;
    assert!(store.task("T-1")?.is_some() && store.task("T-2")?.is_some());
    Ok(())
}

/// The pages of a tree, from 0, by what SQLite says of an undamaged database.
fn pages_of(dir: &Path, tree: &str) -> Result<Vec<usize>, Box<dyn std::error::Error>> {
    let conn = Connection::open(dir.join("state.db"))?;
    let mut select = conn.prepare("SELECT pageno - 1 FROM dbstat WHERE name = ?1 ORDER BY pageno")?;
    let pages = select.query_map([tree], |row| row.get(0))?.collect::<Result<Vec<usize>, _>>()?;
    Ok(pages)
}

/// Rows of the tables that are this program's own, whichever version made them, after an upgrade; and those of a person.
fn upgraded(dir: &Path) -> Result<Rows, Box<dyn std::error::Error>> {
    drop(StateStore::open(dir)?);
    let mut found = rows(dir)?;
    found.remove("state");
    // A recovery ends the run of a process that is gone.
    found.remove("runs");
    Ok(found)
}

fn copy_dir(from: &Path, to: &Path) -> TestResult {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    copy_directory(from, to)?;
    Ok(())
}

/// State directories whose every page of `sqlite_schema` is to be damaged: of this release, and as older ones left it.
fn with_schemas(base: &Base) -> Result<Vec<std::path::PathBuf>, Box<dyn std::error::Error>> {
    let mut dirs = Vec::new();
    for copies in [Copies::None, Copies::Backup] {
        let dir = base.path().join(format!("{copies:?}"));
        state(&dir, copies, false)?;
        dirs.push(dir);
    }
    // With the newest rows in the WAL.
    let dir = base.path().join("killed");
    state(&dir, Copies::None, true)?;
    dirs.push(dir);
    for version in [1, 4] {
        let older = crate::common::base_of(version)?;
        let dir = base.path().join(format!("v{version}"));
        copy_dir(&older.state_dir(), &dir)?;
        assert!(Command::new("chmod").args(["-R", "go="]).arg(&dir).status()?.success());
        dirs.push(dir);
    }
    // As VACUUM leaves it: tables before indexes.
    let dir = base.path().join("vacuumed");
    copy_dir(&base.path().join("Backup"), &dir)?;
    Connection::open(dir.join("state.db"))?.execute_batch("VACUUM")?;
    dirs.push(dir);
    Ok(dirs)
}

#[test]
fn a_damaged_page_of_the_schema_costs_no_table() -> TestResult {
    let base = Base::in_memory()?;
    let (mut damages, mut whole, mut named) = (0, 0, 0);
    for master in with_schemas(&base)? {
        let what = master.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let look = base.path().join("look");
        copy_dir(&master, &look)?;
        let pages = pages_of(&look, "sqlite_schema")?;
        let expected = upgraded(&look)?;
        for (number, page) in pages.iter().enumerate() {
            let dir = base.path().join("damaged");
            copy_dir(&master, &dir)?;
            let mut bytes = fs::read(dir.join("state.db"))?;
            // Of the first page, the header alone, the tree alone, and both.
            let parts = [0..4096, 0..100, 100..4096].into_iter().take(if *page == 0 { 3 } else { 1 });
            for part in parts {
                let is_wal_newer = fs::metadata(dir.join("state.db-wal")).is_ok_and(|wal| wal.len() > 0);
                let range = page * 4096 + part.start..page * 4096 + part.end;
                if range.end > bytes.len() {
                    assert!(is_wal_newer);
                    continue;
                }
                copy_dir(&master, &dir)?;
                bytes = fs::read(dir.join("state.db"))?;
                let mut seed = number as u64 + 7;
                bytes[range.clone()].fill_with(|| if page % 2 == 0 { 0 } else { random(&mut seed) as u8 });
                fs::write(dir.join("state.db"), &bytes)?;
                damages += 1;
                let report = match recover(&dir, &StoreOptions::default()) {
                    Ok(report) => report,
                    // The WAL has a newer copy of the page.
                    Err(Error::NotDamaged { .. }) if is_wal_newer => continue,
                    Err(error) => panic!("{what}, page {page}, {part:?}: {error}"),
                };
                let found = upgraded(&dir)?;
                let different = differences(&expected, &found);
                for (table, entity) in &different {
                    assert_ne!(
                        told(&report, table, entity),
                        Told::No,
                        "{what}, page {page}: {table} {entity}: {report:#?}"
                    );
                }
                named += usize::from(!different.is_empty());
                whole += usize::from(different.is_empty());
                assert!(different.is_empty(), "{what}, page {page}, {part:?}: {different:?}\n{report:#?}");
                assert_eq!(report.source, "state.db", "{what}, page {page}: {report:#?}");
                let check = StateStore::open(&dir)?.check()?;
                assert!(check.ok, "{what}, page {page}: {:?}", check.problems);
            }
        }
    }
    println!("{damages} damages: {whole} with every row, {named} with rows named");
    assert!(damages > 50);
    Ok(())
}

#[test]
fn where_the_schema_is_gone_the_report_names_what_somebody_added() -> TestResult {
    let base = Base::new()?;
    fs::create_dir_all(base.path().join(".agentmux"))?;
    state(&base.state_dir(), Copies::Backup, false)?;
    fs::write(base.file("state.db"), vec![7; 40_000])?;
    let report = recover(base.state_dir(), &StoreOptions::default())?;
    assert!(report.source.starts_with("backup-"), "{report:#?}");
    assert!(report.lost.iter().any(|it| it.message.contains("somebody added")), "{report:#?}");
    let text = format!("{report:?}");
    assert!(!text.contains("agentmux-state recover") && !text.contains("/.state-"), "{text}");
    Ok(())
}
