//! Damaged databases: none is taken for whole, and what can be read of one is not lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use agentmux_state::{
    Error, ImportMode, ImportOptions, OrchestratorState, PersistedMessage, RecoveryReport, StateStore, StoreOptions,
    TaskState, TaskStatus, recover,
};

use crate::common::{
    Base, TestResult, agent, below, conversation, copy_directory, export, is_long, message, program, project, random,
    task,
};

fn full_task(number: usize, status: TaskStatus) -> TaskState {
    let mut task = task(&format!("T-{number}"), status);
    task.description = format!("what is to be done for {number}, at some length. ").repeat(6);
    task.progress.completed_steps = vec!["read the code".into(), "write the test".into()];
    task.blocked_by = Some(vec![format!("T-{}", number + 1)]);
    task
}

fn long_message(number: usize) -> PersistedMessage {
    PersistedMessage { content: format!("message {number} ").repeat(20), ..message(number) }
}

/// A state directory as a killed process leaves it: a backup, changes after it, of which the newest are in the log.
fn killed(dir: &Path) -> Result<OrchestratorState, Box<dyn std::error::Error>> {
    let store = StateStore::open(dir)?;
    store.batch(|batch| {
        for number in 0..80 {
            batch.update_task(&full_task(number, TaskStatus::Pending))?;
        }
        for number in 0..12 {
            let mut conversation = conversation(&format!("C-{number}"), 0..0);
            conversation.recent_messages = (0..20).map(|it| long_message(100 * number + it)).collect();
            batch.update_conversation(&conversation)?;
        }
        batch.update_agent(&agent("dev-1"))?;
        batch.update_project(&project("P-1"))
    })?;
    store.backups().create("good")?;
    for number in 60..90 {
        store.update_task(&full_task(number, TaskStatus::InProgress))?;
    }
    store.remove_task("T-1")?;
    for number in 0..12 {
        store.append_message(&format!("C-{number}"), &long_message(5000 + number))?;
    }
    store.update_agent(&agent("dev-2"))?;
    let state = store.state()?;
    let copy = dir.with_extension("killed");
    // By another process: to close the files in this one would drop SQLite's locks on them.
    copy_directory(dir, &copy)?;
    drop(store);
    fs::remove_dir_all(dir)?;
    fs::rename(copy, dir)?;
    Ok(state)
}

/// What a state holds, by a name for each.
fn parts(state: &OrchestratorState) -> BTreeMap<String, String> {
    let mut parts = BTreeMap::new();
    for conversation in &state.conversations {
        parts.insert(format!("conversation {}", conversation.id), String::new());
        for message in &conversation.recent_messages {
            let name = format!("message {} {}", conversation.id, message.timestamp.as_str());
            parts.insert(name, message.content.clone());
        }
    }
    parts.extend(state.tasks.iter().map(|it| (format!("task {}", it.id), format!("{it:?}"))));
    parts.extend(state.agents.iter().map(|it| (format!("agent {}", it.session_name), format!("{it:?}"))));
    parts.extend(state.projects.iter().map(|it| (format!("project {}", it.id), format!("{it:?}"))));
    parts
}

fn names(parts: &BTreeMap<String, String>) -> BTreeSet<&str> {
    parts.keys().map(String::as_str).collect()
}

/// Damages the files in one way; what was done, and whether it can change a content that no structure depends on.
fn damage(dir: &Path, seed: &mut u64) -> (String, bool) {
    let (database, log) = (dir.join("state.db"), dir.join("state.db-wal"));
    let mut bytes = fs::read(&database).unwrap();
    let mut frames = fs::read(&log).unwrap();
    let pages = bytes.len() / 4096;
    let (what, is_quiet) = match random(seed) % 8 {
        0 | 1 => {
            let flips = 1 + below(seed, 20);
            for _ in 0..flips {
                let at = below(seed, bytes.len());
                bytes[at] ^= 1 << below(seed, 8);
            }
            (format!("{flips} bits of the database"), true)
        }
        2 => {
            let page = below(seed, pages);
            bytes[page * 4096..(page + 1) * 4096].fill(0);
            (format!("page {page} is zeros"), false)
        }
        3 => {
            let page = below(seed, pages);
            bytes[page * 4096..(page + 1) * 4096].fill_with(|| random(seed) as u8);
            (format!("page {page} is noise"), false)
        }
        4 => {
            let (from, to) = (below(seed, pages), below(seed, pages));
            bytes.copy_within(from * 4096..(from + 1) * 4096, to * 4096);
            (format!("page {to} is as page {from}"), false)
        }
        5 => {
            let length = below(seed, bytes.len());
            bytes.truncate(length);
            (format!("the database is cut at {length}"), false)
        }
        6 => {
            let length = below(seed, frames.len());
            frames.truncate(length);
            (format!("the log is cut at {length}"), false)
        }
        _ if random(seed).is_multiple_of(2) => {
            fs::remove_file(&log).unwrap();
            frames.clear();
            ("the log is gone".into(), false)
        }
        _ => {
            let at = below(seed, frames.len());
            frames[at] ^= 1 << below(seed, 8);
            (format!("a bit of the log at {at}"), false)
        }
    };
    fs::write(&database, bytes).unwrap();
    if log.exists() {
        fs::write(&log, frames).unwrap();
    }
    (what, is_quiet)
}

/// How many damages of each ending.
#[derive(Debug, Default)]
struct Tally {
    harmless: usize,
    refused: usize,
    found_by_check: usize,
    changed_content: usize,
    nothing_lost: usize,
}

/// Opens what was damaged, rebuilds it where it must be, and sees that nothing is missing that nobody told of.
fn survive(dir: &Path, expected: &OrchestratorState, what: &str, is_quiet: bool, tally: &mut Tally) {
    let expected = parts(expected);
    let opened = StateStore::open(dir).and_then(|store| {
        let state = store.state()?;
        Ok((state, store.check()?))
    });
    match opened {
        Ok((state, report)) => {
            let found = parts(&state);
            if found == expected && report.ok {
                tally.harmless += 1;
                return;
            }
            if report.ok {
                assert!(
                    is_quiet && names(&found) == names(&expected),
                    "{what}: opened, and nobody said that rows are missing"
                );
                tally.changed_content += 1;
                return;
            }
            tally.found_by_check += 1;
        }
        Err(
            Error::Corrupt { .. }
            | Error::InvalidRow { .. }
            | Error::NotAStateDatabase { .. }
            | Error::HistoryDamaged { .. },
        ) => {
            tally.refused += 1;
        }
        Err(error) => panic!("{what}: {error:?}"),
    }
    let report = match recover(dir, &StoreOptions::default()) {
        Ok(report) => report,
        Err(error) => panic!("{what}: {error:?}"),
    };
    assert!(report.set_aside_as.join("state.db").exists(), "{what}: the damaged files are kept");
    let store = StateStore::open(dir).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let after = parts(&store.state().unwrap());
    assert!(store.check().unwrap().ok, "{what}: {:?}", store.check());
    let told = !report.lost.is_empty() || !report.from_backup.is_empty();
    let is_same = after == expected;
    if is_same {
        tally.nothing_lost += 1;
    }
    let has_same_names = names(&after) == names(&expected);
    assert!(is_same || told || (is_quiet && has_same_names), "{what}: something is missing and nobody said so");
    store.update_task(&full_task(1000, TaskStatus::Pending)).unwrap();
}

#[test]
fn random_damages_are_found_and_what_can_be_read_is_kept() -> TestResult {
    let number = if is_long() { 1000 } else { 60 };
    let first = std::env::var("STATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let master = tempfile::tempdir()?;
    let expected = killed(&master.path().join("state"))?;
    let mut tally = Tally::default();
    for round in first.map_or(0..number, |first| first..first + 1) {
        let dir = tempfile::tempdir()?;
        let state_dir = dir.path().join("state");
        copy_directory(&master.path().join("state"), &state_dir)?;
        let mut seed = round as u64 * 7919 + 1;
        let (what, is_quiet) = damage(&state_dir, &mut seed);
        survive(&state_dir, &expected, &format!("round {round}: {what}"), is_quiet, &mut tally);
    }
    println!("{number} damages: {tally:?}");
    assert!(tally.refused > 0 && tally.harmless < number as usize / 2);
    Ok(())
}

/// A state directory that was killed, in a base directory.
fn base() -> Result<(Base, OrchestratorState), Box<dyn std::error::Error>> {
    let base = Base::new()?;
    fs::create_dir_all(base.path())?;
    let state = killed(&base.state_dir())?;
    Ok((base, state))
}

/// Writes into the database's file beside SQLite.
fn overwrite(base: &Base, at: usize, with: &[u8]) -> TestResult {
    let mut bytes = fs::read(base.file("state.db"))?;
    bytes[at..at + with.len()].copy_from_slice(with);
    Ok(fs::write(base.file("state.db"), bytes)?)
}

#[test]
fn a_damaged_database_is_never_started_empty() -> TestResult {
    let (base, expected) = base()?;
    fs::remove_file(base.file("state.db-wal"))?;
    fs::remove_file(base.file("state.db-shm"))?;
    overwrite(&base, 0, &[0; 4096])?;
    for _ in 0..2 {
        let error = base.service().initialize().expect_err("damaged");
        assert!(matches!(error, Error::NotAStateDatabase { .. } | Error::Corrupt { .. }), "{error:?}");
        assert!(error.to_string().contains("agentmux-state recover"), "{error}");
    }
    let report: serde_json::Value = program::json(&base, &["recover"]);
    assert!(report["source"].as_str().expect("a source").starts_with("backup-"), "{report}");
    assert_eq!(report["restored"]["tasks"], 80);
    assert!(!report["lost"].as_array().expect("a list").is_empty());
    let state = base.service().initialize()?.expect("the state as it was at the backup");
    assert_eq!(state.tasks.len(), 80);
    assert_ne!(state.tasks, expected.tasks);
    Ok(())
}

#[test]
fn a_log_that_is_gone_or_cut_is_no_older_state() -> TestResult {
    for keep in [0, 1, 2] {
        let (base, _) = base()?;
        let log = base.file("state.db-wal");
        match keep {
            0 => fs::remove_file(&log)?,
            _ => {
                let bytes = fs::read(&log)?;
                fs::write(&log, &bytes[..bytes.len() * keep / 3])?;
            }
        }
        let error = base.store().map(drop).expect_err("pages are missing");
        assert!(matches!(&error, Error::Corrupt { detail, .. } if detail.contains("in its log")), "{error:?}");
        let report = recover(base.state_dir(), &StoreOptions::default())?;
        assert!(report.lost.iter().any(|it| it.kind == "log"), "{report:?}");
        assert!(base.store()?.check()?.ok);
    }
    Ok(())
}

#[test]
fn what_is_whole_is_not_rebuilt() -> TestResult {
    let (base, expected) = base()?;
    assert!(matches!(recover(base.state_dir(), &StoreOptions::default()), Err(Error::NotDamaged { .. })));
    assert_eq!(base.store()?.state()?, expected);
    let empty = Base::new()?;
    assert!(matches!(recover(empty.state_dir(), &StoreOptions::default()), Err(Error::NoDatabase { .. })));
    assert!(!empty.state_dir().exists());
    let service = base.service();
    service.initialize()?;
    assert!(matches!(recover(base.state_dir(), &StoreOptions::default()), Err(Error::InUse { .. })));
    Ok(())
}

/// The page on which a row of a table lies, found by a text in it.
fn page_with(base: &Base, text: &str) -> Result<usize, Box<dyn std::error::Error>> {
    let bytes = fs::read(base.file("state.db"))?;
    let at = bytes.windows(text.len()).position(|window| window == text.as_bytes()).ok_or("not found")?;
    Ok(at / 4096)
}

fn damaged_page(base: &Base, text: &str) -> Result<RecoveryReport, Box<dyn std::error::Error>> {
    // All of it in the database's file.
    drop(base.store()?);
    let page = page_with(base, text)?;
    overwrite(base, page * 4096, &[0; 4096])?;
    Ok(recover(base.state_dir(), &StoreOptions::default())?)
}

#[test]
fn rows_of_a_damaged_page_come_from_the_backup_and_the_others_stay_as_they_are() -> TestResult {
    let (base, expected) = base()?;
    let report = damaged_page(&base, "what is to be done for 20,")?;
    assert!(report.source.starts_with("state.db and backup-"), "{report:?}");
    let replaced: Vec<_> = report.from_backup.iter().filter(|it| it.kind == "tasks").collect();
    let ids = &replaced.first().expect("tasks were replaced").ids;
    assert!(ids.iter().any(|id| id == "T-20") && ids.len() < 20, "{report:?}");
    assert!(replaced.len() == 1 && report.lost.iter().all(|it| it.kind != "tasks"), "{report:?}");
    // These had not changed since the backup.
    assert_eq!(parts(&base.store()?.state()?), parts(&expected));
    // T-1 was removed after the backup, and does not come back.
    assert_eq!(base.store()?.task("T-1")?, None);
    Ok(())
}

#[test]
fn what_is_in_no_backup_is_named() -> TestResult {
    let (base, _) = base()?;
    let report = damaged_page(&base, "what is to be done for 85,")?;
    let lost = report.lost.iter().find(|it| it.kind == "tasks").expect("tasks are lost");
    assert!(lost.ids.iter().any(|id| id == "T-85") && lost.message.contains("T-85"), "{report:?}");
    // Its steps could be read, and belong to nothing now.
    let set_aside = base.store()?.set_aside()?;
    assert!(set_aside.iter().any(|it| it.path == "task_steps" && it.content.contains("T-85")), "{set_aside:?}");
    let text = program::text(program::run(&base, 1, &["recover"])).to_string();
    assert_eq!(text, "", "it is whole now");
    Ok(())
}

#[test]
fn an_export_that_is_newer_than_the_backups_is_used() -> TestResult {
    let (base, expected) = base()?;
    let store = base.store()?;
    store.record_checkpoint(&agentmux_state::CheckpointReason::UserRequest)?;
    store.refresh_export()?;
    drop(store);
    let report = damaged_page(&base, "what is to be done for 85,")?;
    assert_eq!(report.source, "state.db and current-state.json");
    assert_eq!(report.lost, []);
    assert_eq!(parts(&base.store()?.state()?), parts(&expected));
    Ok(())
}

#[test]
fn a_row_that_sqlite_reads_and_the_library_cannot_is_set_aside() -> TestResult {
    let (base, expected) = base()?;
    base.sql()?.execute("UPDATE tasks SET extra = 'no JSON' WHERE id IN ('T-2', 'T-89')", [])?;
    assert!(matches!(base.store()?.state(), Err(Error::InvalidRow { .. })));
    let report = recover(base.state_dir(), &StoreOptions::default())?;
    let of = |findings: &[agentmux_state::RecoveryFinding], id: &str| {
        findings.iter().any(|it| it.kind == "tasks" && it.ids.iter().any(|it| it == id))
    };
    assert!(of(&report.from_backup, "T-2") && of(&report.lost, "T-89"), "{report:?}");
    let state = base.store()?.state()?;
    assert_eq!(state.tasks.iter().find(|it| it.id == "T-2"), expected.tasks.iter().find(|it| it.id == "T-2"));
    // The rest of the row stays.
    assert_eq!(state.tasks.iter().find(|it| it.id == "T-89"), expected.tasks.iter().find(|it| it.id == "T-89"));
    let quarantined = base.store()?.set_aside()?;
    assert!(quarantined.iter().any(|it| it.reason.contains("T-89") && it.content == "no JSON"), "{quarantined:?}");
    Ok(())
}

#[test]
fn killed_between_the_old_files_and_the_new_one_it_says_what_to_do() -> TestResult {
    let (base, _) = base()?;
    let folder = base.file("damaged-1800000000000");
    fs::create_dir(&folder)?;
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        fs::rename(base.file(name), folder.join(name))?;
    }
    let error = base.service().initialize().expect_err("nothing has taken its place");
    assert!(error.to_string().contains("agentmux-state recover"), "{error}");
    assert!(base.store().is_err());
    let report = recover(base.state_dir(), &StoreOptions::default())?;
    assert_eq!(report.set_aside_as, folder);
    assert_eq!(base.store()?.state()?.tasks.len(), 89);
    Ok(())
}

#[test]
fn without_a_backup_what_can_be_read_is_kept_and_nothing_is_made_of_nothing() -> TestResult {
    let (base, _) = base()?;
    fs::remove_dir_all(base.file("backups"))?;
    let report = damaged_page(&base, "message 305 ")?;
    assert_eq!(report.source, "state.db");
    assert!(report.lost.iter().any(|it| it.kind == "messages" && it.ids.iter().any(|id| id == "C-3")), "{report:?}");
    assert_eq!(base.store()?.state()?.tasks.len(), 89);
    assert_eq!(fs::read_dir(base.file("backups"))?.count(), 0);

    drop(base.store()?);
    let export_before = export(&base.store()?)?;
    let bytes = fs::read(base.file("state.db"))?;
    fs::write(base.file("state.db"), &bytes[..3000])?;
    let error = recover(base.state_dir(), &StoreOptions::default()).expect_err("nothing can be read");
    assert!(matches!(error, Error::Unrecoverable { .. }), "{error:?}");
    assert!(!error.to_string().contains("agentmux-state recover"), "{error}");
    fs::write(base.file("state.db"), bytes)?;
    assert_eq!(export(&base.store()?)?, export_before, "it was left as it was");
    // And of an import into what was recovered, nothing differs.
    let options = ImportOptions::default().mode(ImportMode::Replace);
    base.store()?.import_json(export_before.as_bytes(), options)?;
    Ok(())
}
