//! Backups: what they hold, whether they can be trusted, and going back to them.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::common::program::run;
use crate::common::{
    Base, Ends, FIXTURE, QUIRKS, TestResult, agent, base_of, conversation, export, fixture, import, is_long, project,
    random, task,
};
use agentmux_state::{
    AgentState, Clock, Error, ProgressCallback, ProjectState, Retention, RunOutcome, Stage, StatePersistenceService,
    StateStore, StoreOptions, TaskStatus, verify_backups,
};
use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::{Connection, OptionalExtension};

fn backup_path(base: &Base, id: &str) -> PathBuf {
    base.file("backups").join(format!("{id}.db"))
}

#[test]
fn create_change_restore_brings_the_same_bytes_back() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::InProgress))?;
    service.update_conversation(&conversation("C-1", 0..3))?;
    let before = export(&service.store()?)?;
    let id = service.create_backup("manual")?;
    service.update_task(&task("T-1", TaskStatus::Completed))?;
    service.update_agent(&agent("dev-1"))?;
    service.remove_conversation("C-1")?;
    let changed = export(&service.store()?)?;
    assert_ne!(changed, before);

    service.restore_from_backup(&id)?;
    assert_eq!(export(&service.store()?)?, before);
    assert_eq!(fs::read_to_string(base.file("current-state.json"))?, before, "the export follows");
    let safety = service.list_backups()?.into_iter().find(|it| it.label == "before-restore").expect("a safety backup");
    service.restore_from_backup(&safety.id)?;
    assert_eq!(export(&service.store()?)?, changed, "and back again");

    service.update_task(&task("T-2", TaskStatus::Pending))?;
    assert!(service.is_initialized(), "the run goes on");
    match service.restore_from_backup("backup-1-none") {
        Err(Error::BackupNotFound { id }) => assert_eq!(id, "backup-1-none"),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[test]
fn what_must_not_go_backwards_does_not() -> TestResult {
    let base = Base::new()?;
    let first = base.service();
    first.initialize()?;
    import(&first.store()?, QUIRKS)?;
    let id = first.create_backup("early")?;
    first.prepare_for_shutdown()?;
    let second = base.service();
    second.initialize()?;
    let restarts = second.state()?.metadata.restart_count;
    second.restore_from_backup(&id)?;
    let metadata = second.state()?.metadata;
    assert_eq!(metadata.restart_count, restarts);
    assert_eq!(metadata.pid, i64::from(std::process::id()));
    let run = second.run()?.expect("its run");
    assert_eq!((run.run_id, run.outcome), (2, None));
    assert_eq!(second.store()?.set_aside()?.len(), 4);
    let sql = base.sql()?;
    let checkpoints: Vec<String> = sql
        .prepare("SELECT reason FROM checkpoints ORDER BY checkpoint_id")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    assert_eq!(checkpoints, ["before_restart", "error_recovery"]);
    let change = second.store()?.changes()?.changes.remove(0);
    assert_eq!((change.change_type.as_str(), change.operation.as_str()), ("state", "replace"));
    let in_live: i64 = sql.query_row("SELECT count(*) FROM backup", [], |row| row.get(0))?;
    assert_eq!(in_live, 0, "a live database is no backup");
    second.prepare_for_shutdown()?;
    assert_eq!(base.store()?.last_run()?.expect("the run").outcome, Some(RunOutcome::Shutdown));
    Ok(())
}

#[test]
fn a_backup_from_elsewhere_brings_its_longer_history() -> TestResult {
    let (old, new) = (Base::new()?, Base::new()?);
    for _ in 0..4 {
        let service = old.service();
        service.initialize()?;
        service.update_task(&task("T-1", TaskStatus::InProgress))?;
        service.prepare_for_shutdown()?;
    }
    let backup = old.store()?.backups().create("moving")?;
    let service = new.service();
    service.initialize()?;
    for name in [format!("{}.db", backup.id), format!("{}.db.sha256", backup.id)] {
        fs::copy(old.file("backups").join(&name), new.file("backups").join(&name))?;
    }
    service.restore_from_backup(&backup.id)?;
    let run = service.run()?.expect("its run");
    assert_eq!((run.run_id, run.outcome, run.pid), (5, None, i64::from(std::process::id())));
    assert_eq!(service.state()?.metadata.restart_count, 3);
    service.prepare_for_shutdown()?;
    assert_eq!(new.store()?.last_run()?.expect("the run").outcome, Some(RunOutcome::Shutdown));
    Ok(())
}

#[test]
fn a_typescript_backup_goes_through_the_importer() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::InProgress))?;
    fs::write(base.file("backups/backup-1761955200000-manual.json"), FIXTURE)?;
    fs::write(base.file("backups/backup-1761955200001-cut.json"), &FIXTURE[..1000])?;
    let listed: Vec<_> = service.list_backups()?.into_iter().map(|it| (it.id, it.label, it.sha256)).collect();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1], ("backup-1761955200000-manual".into(), "manual".into(), None));
    let before = service.state()?;
    assert!(matches!(service.restore_from_backup("backup-1761955200001-cut"), Err(Error::Document { .. })));
    assert_eq!(service.state()?, before);
    service.restore_from_backup("backup-1761955200000-manual")?;
    let state = service.state()?;
    assert_eq!((state.tasks.len(), state.metadata.restart_count), (24, 3));
    assert_eq!(state.metadata.pid, i64::from(std::process::id()), "this run goes on");
    let safety = service.list_backups()?.into_iter().find(|it| it.label == "before-restore").expect("a safety backup");
    let tasks: i64 = Connection::open(safety.path)?.query_row("SELECT count(*) FROM tasks", [], |row| row.get(0))?;
    assert_eq!(tasks, 1);
    Ok(())
}

#[test]
fn backups_under_writers_that_never_pause_hold_one_moment_each() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    let done = AtomicBool::new(false);
    // What was acknowledged before a backup must be in it; what it holds must have been written by its end.
    let acknowledged = [Mutex::new(0_u64), Mutex::new(0_u64)];
    let rounds = if is_long() { 100 } else { 30 };
    thread::scope(|scope| -> TestResult {
        let ends = Ends(&done);
        for (writer, acknowledged) in acknowledged.iter().enumerate() {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                for number in 1.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let status = || TaskStatus::Other(number.to_string());
                    store
                        .batch(|batch| {
                            batch.update_task(&task(&format!("left-{writer}"), status()))?;
                            let mut right = task(&format!("right-{writer}"), status());
                            right.progress.completed_steps = vec![number.to_string()];
                            right.blocked_by = Some(vec![number.to_string()]);
                            batch.update_task(&right)?;
                            let name = format!("w-{writer}");
                            batch.update_agent(&AgentState { role: number.to_string(), ..agent(&name) })?;
                            let project = ProjectState { active_tasks: vec![number.to_string()], ..project(&name) };
                            batch.update_project(&project)?;
                            batch.update_conversation(&conversation(&name, [number as usize]))
                        })
                        .map_err(|error: Error| error)
                        .expect("it writes");
                    *acknowledged.lock().expect("no panic") = number;
                }
            });
        }
        let result = (|| -> TestResult {
            for round in 0..rounds {
                let before = [*acknowledged[0].lock().expect("no panic"), *acknowledged[1].lock().expect("no panic")];
                let backup = store.backups().create(&format!("round {round}"))?;
                let after = [*acknowledged[0].lock().expect("no panic"), *acknowledged[1].lock().expect("no panic")];
                assert!(store.backups().verify(Some(&backup.id))?[0].ok);
                let copy = Connection::open(&backup.path)?;
                for writer in 0..2 {
                    let status = |side: &str| -> rusqlite::Result<u64> {
                        let sql = "SELECT coalesce(max(CAST(status AS INTEGER)), 0) FROM tasks WHERE id = ?1";
                        copy.query_row(sql, [format!("{side}-{writer}")], |row| row.get(0))
                    };
                    let (left, right) = (status("left")?, status("right")?);
                    assert_eq!(left, right, "half a batch");
                    for sql in [
                        "SELECT step FROM task_steps WHERE task_id = 'right-' || ?1",
                        "SELECT other_task_id FROM task_dependencies WHERE task_id = 'right-' || ?1",
                        "SELECT role FROM agents WHERE session_name = 'w-' || ?1",
                        "SELECT task_id FROM project_tasks WHERE project_id = 'w-' || ?1",
                        "SELECT substr(content, 9) FROM messages WHERE conversation_id = 'w-' || ?1",
                    ] {
                        let found: Option<String> =
                            copy.query_row(sql, [writer as i64], |row| row.get(0)).optional()?;
                        assert_eq!(found, (left > 0).then(|| left.to_string()), "{sql}");
                    }
                    // One more may be written and not yet noted.
                    assert!((before[writer]..=after[writer] + 1).contains(&left), "{left}: {before:?} {after:?}");
                }
            }
            Ok(())
        })();
        drop(ends);
        result
    })?;
    let verdicts = store.backups().verify(None)?;
    assert!(verdicts.len() == rounds && verdicts.iter().all(|verdict| verdict.ok), "{verdicts:?}");
    let sums = std::process::Command::new("sh")
        .args(["-c", "sha256sum -c --quiet *.sha256"])
        .current_dir(base.file("backups"))
        .output()?;
    assert!(sums.status.success() && sums.stdout.is_empty(), "{sums:?}");
    Ok(())
}

#[test]
fn a_damaged_backup_is_named_and_refused_every_time() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    let id = store.backups().create("good")?.id;
    store.update_task(&task("T-new", TaskStatus::InProgress))?;
    let live = export(&store)?;
    let path = backup_path(&base, &id);
    let good = fs::read(&path)?;
    let mut seed = 7;
    let refused = |damage: &str| -> TestResult {
        let verdict = store.backups().verify(Some(&id))?.remove(0);
        assert!(!verdict.ok && !verdict.problems.is_empty(), "{damage}: verify");
        let result = store.backups().restore(&id);
        assert!(matches!(result, Err(Error::BackupDamaged { .. })), "{damage}: {result:?}");
        Ok(())
    };
    let (flips, cuts) = if is_long() { (1000, 200) } else { (150, 40) };
    for _ in 0..flips {
        let bit = random(&mut seed) as usize % (good.len() * 8);
        let mut damaged = good.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, damaged)?;
        refused(&format!("bit {bit}"))?;
    }
    for _ in 0..cuts {
        let length = random(&mut seed) as usize % good.len();
        fs::write(&path, &good[..length])?;
        refused(&format!("cut at {length}"))?;
    }
    assert_eq!(export(&store)?, live, "the live state never changed");
    fs::write(&path, good)?;
    store.backups().restore(&id)?;
    assert_eq!(export(&store)?, FIXTURE);
    Ok(())
}

#[test]
fn hostile_foreign_and_newer_backups_are_refused() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    // Each with a checksum that is right: somebody made it on purpose.
    let plant = |sql: &str| -> Result<String, Box<dyn std::error::Error>> {
        let backup = store.backups().create("planted")?;
        Connection::open(&backup.path)?.execute_batch(sql)?;
        let sum = std::process::Command::new("sha256sum")
            .arg(format!("{}.db", backup.id))
            .current_dir(base.file("backups"))
            .output()?;
        fs::write(base.file("backups").join(format!("{}.db.sha256", backup.id)), sum.stdout)?;
        Ok(backup.id)
    };
    for sql in [
        "DROP TRIGGER tasks_deleted; CREATE TRIGGER tasks_deleted AFTER DELETE ON tasks BEGIN DELETE FROM conversations; END",
        "DROP INDEX tasks_by_status",
        "DROP VIEW guide",
        "UPDATE tasks SET extra = '[' WHERE id = 'task-1'",
        "UPDATE messages SET extra = '{\"a\":' WHERE message_id = 2",
        "UPDATE tasks SET percent_complete = 9e999",
        "UPDATE state SET metadata_extra = '7'",
        "PRAGMA application_id = 7",
        "DELETE FROM refinery_schema_history",
        "PRAGMA foreign_keys = OFF; UPDATE messages SET conversation_id = 'gone' WHERE message_id = 1",
    ] {
        let id = plant(sql)?;
        let result = store.backups().restore(&id);
        assert!(matches!(result, Err(Error::BackupDamaged { .. })), "{sql}: {result:?}");
        assert!(!store.backups().verify(Some(&id))?[0].ok, "{sql}");
    }
    // What somebody added is theirs, and runs in no write of ours.
    let id = plant(
        "CREATE TRIGGER evil AFTER INSERT ON tasks BEGIN DELETE FROM conversations; END;
         CREATE TRIGGER worse BEFORE INSERT ON checkpoints BEGIN DELETE FROM tasks; END;
         CREATE VIEW evil_view AS SELECT load_extension('x');
         CREATE TABLE evil_table (id REFERENCES tasks (id) ON DELETE CASCADE ON UPDATE CASCADE)",
    )?;
    assert!(store.backups().verify(Some(&id))?[0].ok);
    store.backups().restore(&id)?;
    store.update_task(&agentmux_state::TaskState { id: "T-new".into(), ..Default::default() })?;
    assert!(store.remove_task("T-new")?);
    assert_eq!(export(&store)?.len(), FIXTURE.len(), "nothing else was changed");
    store.import_json(
        FIXTURE.as_bytes(),
        agentmux_state::ImportOptions::default().mode(agentmux_state::ImportMode::Replace),
    )?;
    let id = plant("INSERT INTO refinery_schema_history VALUES (99, 'future', '2026-11-22T10:00:00Z', '1')")?;
    assert!(matches!(store.backups().restore(&id), Err(Error::SchemaTooNew { found: 99, .. })));
    // No checksum, an empty file, a link, an id that is a path.
    let id = store.backups().create("alone")?.id;
    fs::remove_file(base.file("backups").join(format!("{id}.db.sha256")))?;
    assert!(matches!(store.backups().restore(&id), Err(Error::BackupDamaged { .. })));
    fs::write(base.file("backups/backup-1-empty.db"), "")?;
    assert!(matches!(store.backups().restore("backup-1-empty"), Err(Error::BackupDamaged { .. })));
    std::os::unix::fs::symlink(base.file("state.db"), base.file("backups/backup-2-link.db"))?;
    for id in ["backup-2-link", "../state", "/etc/passwd", "", "backup-1-empty/../backup-1-empty", "backup-1-empty\0"] {
        assert!(matches!(store.backups().restore(id), Err(Error::BackupNotFound { .. })), "{id:?}");
    }
    assert_eq!(export(&store)?, FIXTURE);
    Ok(())
}

#[test]
fn an_older_backup_is_upgraded_in_a_copy() -> TestResult {
    let old = base_of(1)?;
    old.sql()?.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))?;
    let content = fs::read(old.file("state.db"))?;
    let base = Base::new()?;
    let store = base.store()?;
    base.write("backups/backup-1700000000000-old.db", &content)?;
    let sum = std::process::Command::new("sha256sum")
        .arg("backup-1700000000000-old.db")
        .current_dir(base.file("backups"))
        .output()?;
    base.write("backups/backup-1700000000000-old.db.sha256", sum.stdout)?;
    store.backups().restore("backup-1700000000000-old")?;
    assert_eq!(export(&store)?, fixture(1)?.1);
    assert!(fs::read(backup_path(&base, "backup-1700000000000-old"))? == content, "the backup itself is only read");
    store.set_mode(&agentmux_state::OrchestratorMode::Onboarding)?;
    Ok(())
}

#[test]
fn readers_see_the_old_state_or_the_new_and_writers_go_on() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let put = |store: &StateStore, name: &str| {
        store.batch(|batch| {
            batch.update_task(&task("T-1", TaskStatus::Other(name.into())))?;
            batch.update_task(&task("T-2", TaskStatus::Other(name.into())))?;
            batch.update_conversation(&conversation(name, 0..40))
        })
    };
    put(&store, "one")?;
    let one = store.backups().create("one")?.id;
    put(&store, "two")?;
    let two = store.backups().create("two")?.id;
    let done = AtomicBool::new(false);
    thread::scope(|scope| -> TestResult {
        let ends = Ends(&done);
        let (done, base, store) = (&done, &base, &store);
        // A store of its own, as another process has it, and this one's.
        let other = base.store()?;
        let readers = [other.clone(), store.clone()].map(|store| {
            scope.spawn(move || -> Result<(), Error> {
                while !done.load(Ordering::Relaxed) {
                    let state = store.state()?;
                    let seen: HashSet<_> = state.tasks[..2].iter().map(|task| task.status.to_string()).collect();
                    assert_eq!(seen.len(), 1, "a mixture");
                }
                Ok(())
            })
        });
        let writer = scope.spawn(move || -> Result<(), Error> {
            for number in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                other.update_agent(&agent(&format!("dev-{number}")))?;
                thread::sleep(Duration::from_millis(3));
            }
            Ok(())
        });
        let restored = (0..10).try_for_each(|round| store.backups().restore([&one, &two][round % 2]).map(drop));
        drop(ends);
        for reader in readers {
            reader.join().expect("no panic")?;
        }
        writer.join().expect("no panic")?;
        Ok(restored?)
    })?;
    assert_eq!(store.task("T-1")?.expect("the task").status.as_str(), "two");
    Ok(())
}

#[test]
fn what_killed_processes_left_is_never_listed_and_is_cleared() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    fs::write(base.file("backups/.backup-AbCd.tmp"), "half a copy")?;
    fs::write(base.file("backups/backup-5-killed.db.sha256"), "0000  backup-5-killed.db\n")?;
    fs::write(base.file("backups/notes.txt"), "a person's")?;
    fs::write(base.file("backups/holiday.db.sha256"), "a person's")?;
    assert_eq!(store.backups().list()?, []);
    let id = store.backups().create("next")?.id;
    assert_eq!(
        base.backups()?,
        [format!("{id}.db"), format!("{id}.db.sha256"), "holiday.db.sha256".into(), "notes.txt".into()]
    );
    Ok(())
}

#[test]
fn a_backup_opens_on_a_read_only_medium() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    let backup = store.backups().create("x")?;
    assert_eq!(fs::read(&backup.path)?[18..20], [1, 1], "no write-ahead log");
    let names: HashSet<_> = base.backups()?.into_iter().collect();
    assert_eq!(names.len(), 2, "nothing beside it but its checksum: {names:?}");
    Ok(())
}

#[test]
fn retention_keeps_what_its_rules_say() {
    let at = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
    // Newest first: three on one day, one on each of the days before, then weeks and months.
    let backups: Vec<_> = [
        "2026-11-22T10:00:00Z",
        "2026-11-22T09:00:00Z",
        "2026-11-22T00:00:00Z",
        "2026-11-21T23:59:59Z",
        "2026-11-20T10:00:00Z",
        "2026-11-15T10:00:00Z",
        "2026-11-08T10:00:00Z",
        "2026-10-31T10:00:00Z",
        "2026-10-01T10:00:00Z",
        "2025-12-31T10:00:00Z",
    ]
    .map(at)
    .to_vec();
    let policy =
        |last, daily, weekly, monthly| Retention::default().last(last).daily(daily).weekly(weekly).monthly(monthly);
    let cases = [
        (policy(0, 0, 0, 0), ""),
        (policy(1, 0, 0, 0), "0"),
        (policy(3, 0, 0, 0), "012"),
        (policy(99, 0, 0, 0), "0123456789"),
        (policy(0, 1, 0, 0), "0"),
        (policy(0, 3, 0, 0), "034"),
        (policy(2, 3, 0, 0), "0134"),
        (policy(0, 0, 2, 0), "05"),
        (policy(0, 0, 4, 0), "0567"),
        (policy(0, 0, 0, 2), "07"),
        (policy(0, 0, 0, 12), "079"),
        (policy(1, 2, 2, 12), "03579"),
    ];
    for (retention, expected) in cases {
        let keep = retention.keep(&backups, at("2026-11-22T12:00:00Z"));
        let kept: String = (0..10).filter(|index| keep[*index]).map(|index| index.to_string()).collect();
        assert_eq!(kept, expected, "{retention:?}");
    }
    // Those from the future stay and use up no place.
    let keep = policy(1, 0, 0, 0).keep(&backups, at("2026-11-22T08:00:00Z"));
    assert_eq!(keep[..4], [true, true, true, false]);
    assert_eq!(policy(5, 5, 5, 5).keep(&[], at("2026-11-22T08:00:00Z")), [false; 0]);
}

#[test]
fn the_newest_backup_that_can_be_trusted_always_stays() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let ids: Vec<_> =
        (0..4).map(|n| store.backups().create(&n.to_string()).map(|it| it.id)).collect::<Result<_, _>>()?;
    fs::write(base.file("backups/notes.txt"), "a person's")?;
    // The two newest are damaged.
    for id in &ids[2..] {
        fs::write(backup_path(&base, id), "damaged")?;
    }
    let nothing = Retention::default();
    let plan = store.backups().prune(&nothing, true)?;
    assert_eq!((plan.kept.clone(), plan.removed.len()), (vec![ids[1].clone()], 3));
    assert_eq!(store.backups().list()?.len(), 4, "a dry run removes nothing");
    assert_eq!(store.backups().prune(&nothing, false)?, plan);
    assert_eq!(store.backups().list()?.len(), 1);
    assert_eq!(base.backups()?.len(), 3, "a backup, its checksum, and a person's file");
    Ok(())
}

#[test]
fn cleanup_keeps_the_newest() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    let ids: Vec<_> = (0..5).map(|n| service.create_backup(&n.to_string())).collect::<Result<_, _>>()?;
    let report = service.cleanup_old_backups(2)?;
    assert_eq!(report.kept, [ids[4].clone(), ids[3].clone()]);
    assert_eq!(service.list_backups()?.len(), 2);
    Ok(())
}

#[test]
fn the_service_makes_a_backup_a_day_where_something_changed_and_thins_out() -> TestResult {
    let base = Base::new()?;
    let start: DateTime<Utc> = "2026-11-22T12:00:00Z".parse()?;
    let hours = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let clock = {
        let hours = hours.clone();
        Clock::new(move || start + TimeDelta::hours(hours.load(Ordering::Relaxed)))
    };
    let options = base.options().checkpoint_interval(Some(Duration::from_millis(10))).keep_backups(2).clock(clock);
    let service = StatePersistenceService::with_options(options);
    service.initialize()?;
    let settle = || thread::sleep(Duration::from_millis(150));
    let labels = || -> Result<Vec<String>, Error> {
        Ok(service.list_backups()?.into_iter().map(|it| format!("{} {}", it.label, it.created_at)).collect())
    };
    settle();
    assert_eq!(labels()?, [""; 0], "nothing to back up");
    let update = |n: i64| service.update_task(&task("T-1", TaskStatus::Other(n.to_string())));
    let wait_for = |expected: &[&str]| -> TestResult {
        for _ in 0..500 {
            if labels()? == expected {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("expected {expected:?}, found {:?}", labels()?);
    };
    update(0)?;
    wait_for(&["daily 2026-11-22T12:00:00.000Z"])?;
    hours.store(23, Ordering::Relaxed);
    update(23)?;
    settle();
    assert_eq!(labels()?.len(), 1, "not yet");
    hours.store(24, Ordering::Relaxed);
    // For the change an hour ago.
    wait_for(&["daily 2026-11-23T12:00:00.000Z", "daily 2026-11-22T12:00:00.000Z"])?;
    hours.store(72, Ordering::Relaxed);
    settle();
    assert_eq!(labels()?.len(), 2, "nothing changed");
    update(72)?;
    wait_for(&["daily 2026-11-25T12:00:00.000Z", "daily 2026-11-23T12:00:00.000Z"])?;
    assert_eq!(service.last_checkpoint_error(), None);
    Ok(())
}

/// A service with a checkpoint every few milliseconds, and the hours that its clock shows since 2026-11-22 at noon.
fn service_with_clock(
    base: &Base,
    keep: usize,
) -> Result<(StatePersistenceService, Arc<std::sync::atomic::AtomicI64>), Error> {
    let hours = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let shown = hours.clone();
    let start: DateTime<Utc> = DateTime::from_timestamp(1_795_348_800, 0).unwrap();
    let clock = Clock::new(move || start + TimeDelta::hours(shown.load(Ordering::Relaxed)));
    let options = base.options().checkpoint_interval(Some(Duration::from_millis(5))).keep_backups(keep).clock(clock);
    let service = StatePersistenceService::with_options(options);
    service.initialize()?;
    Ok((service, hours))
}

#[test]
fn a_clock_that_was_wrong_neither_multiplies_backups_nor_puts_them_off_nor_evicts_them() -> TestResult {
    let base = Base::in_memory()?;
    let (service, hours) = service_with_clock(&base, 3)?;
    let mut changes = 0;
    let mut settle = |hour: i64| -> Result<Vec<i64>, Error> {
        hours.store(hour, Ordering::Relaxed);
        for _ in 0..20 {
            changes += 1;
            service.update_task(&task("T-1", TaskStatus::Other(changes.to_string())))?;
            thread::sleep(Duration::from_millis(10));
        }
        let hour = |millis: i64| (millis - 1_795_348_800_000) / 3_600_000;
        let mut made: Vec<_> =
            service.list_backups()?.iter().map(|it| hour(it.id.split('-').nth(1).unwrap().parse().unwrap())).collect();
        made.sort_unstable();
        Ok(made)
    };
    // In the id, to the millisecond: which year it was, no other text says beyond 9999.
    assert_eq!(settle(0)?, [0]);
    assert_eq!(settle(24)?, [0, 24]);
    // A day ahead, and years ahead, and back.
    assert_eq!(settle(48)?, [0, 24, 48]);
    assert_eq!(settle(25)?, [0, 24, 48], "not one at each checkpoint, and none evicted");
    assert_eq!(settle(24 * 365 * 9)?, [24, 48, 24 * 365 * 9], "one, as one was due by that clock");
    assert_eq!(settle(26)?, [24, 48, 24 * 365 * 9]);
    assert_eq!(settle(47)?, [24, 48, 24 * 365 * 9], "nothing is due yet");
    // Later on the day of the backup from the future, which is one like others by now.
    assert_eq!(settle(49)?, [24, 48, 24 * 365 * 9]);
    assert_eq!(settle(73)?, [24, 48, 73, 24 * 365 * 9], "nor put off");
    assert_eq!(settle(98)?, [48, 73, 98, 24 * 365 * 9], "those from the future take no place");
    // Years back: everything is in the future.
    let past = -24 * 365 * 20;
    assert_eq!(settle(past)?, [past, 48, 73, 98, 24 * 365 * 9]);
    assert_eq!(settle(past + 1)?, [past, 48, 73, 98, 24 * 365 * 9]);
    assert_eq!(settle(past + 24)?, [past, past + 24, 48, 73, 98, 24 * 365 * 9]);
    assert_eq!(service.last_checkpoint_error(), None);
    Ok(())
}

#[test]
fn a_backup_from_beyond_all_years_is_no_old_one() -> TestResult {
    let base = Base::in_memory()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    let id = store.backups().create("good")?.id;
    let name = |extension| base.file("backups").join(format!("{id}.{extension}"));
    fs::copy(name("db"), base.file("backups/backup-253402300800000-far.db"))?;
    let sum = fs::read_to_string(name("db.sha256"))?.replace(&id, "backup-253402300800000-far");
    fs::write(base.file("backups/backup-253402300800000-far.db.sha256"), sum)?;
    assert!(store.backups().list()?[0].id.ends_with("-far"), "the newest");
    for (last, daily, weekly, monthly) in [(usize::MAX, 0, 0, 0), (0, usize::MAX, usize::MAX, usize::MAX), (1, 1, 1, 1)]
    {
        let report = store
            .backups()
            .prune(&Retention::default().last(last).daily(daily).weekly(weekly).monthly(monthly), true)?;
        assert_eq!((report.kept.len(), report.removed.len()), (2, 0));
    }
    let most = usize::MAX.to_string();
    run(&base, 0, &["backup", "prune", "--keep-daily", &most, "--keep-weekly", &most, "--keep-monthly", &most]);
    assert_eq!(store.backups().list()?.len(), 2);
    Ok(())
}

#[test]
fn the_folder_of_the_backups_may_be_a_link_to_another_disk() -> TestResult {
    let base = Base::new()?;
    let disk = Base::in_memory()?;
    fs::create_dir_all(base.state_dir())?;
    fs::set_permissions(base.state_dir(), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    std::os::unix::fs::symlink(disk.path().join("backups"), base.file("backups"))?;
    // The disk is not there: the state works, and what needs the folder says why it does not.
    let store = base.store()?;
    store.update_task(&task("T-1", TaskStatus::Pending))?;
    assert_eq!(store.summary()?.backups, 0);
    let report = store.check()?;
    assert!(
        report.problems.iter().any(|it| it.kind == "backup" && it.message.contains("cannot be reached")),
        "{report:?}"
    );
    let refused = |result: Result<String, Error>| -> TestResult {
        let error = result.err().ok_or("worked")?;
        assert!(matches!(error, Error::Io { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains("it is a link to") && error.contains("cannot be reached"), "{error}");
        Ok(())
    };
    refused(store.backups().create("x").map(|it| it.id))?;
    refused(store.backups().list().map(|it| format!("{it:?}")))?;
    refused(store.backups().verify(None).map(|it| format!("{it:?}")))?;
    refused(store.backups().prune(&Retention::default(), false).map(|it| format!("{it:?}")))?;
    refused(store.backups().restore("backup-1-x").map(|it| format!("{it:?}")))?;
    // It is there.
    fs::create_dir(disk.path().join("backups"))?;
    fs::set_permissions(disk.path().join("backups"), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let options =
        || agentmux_state::ImportOptions::default().mode(agentmux_state::ImportMode::Replace).allow_shrink(true);
    assert!(store.import_json(FIXTURE.as_bytes(), options())?.backup.is_some());
    let backup = store.backups().create("linked")?;
    assert_eq!(store.backups().list()?[0], backup);
    assert!(store.backups().verify(None)?[0].ok);
    store.remove_task("task-1")?;
    let safety = store.backups().restore(&backup.id)?.safety_backup.ok_or("none")?;
    assert_eq!(export(&store)?, FIXTURE);
    assert!(store.import_json(QUIRKS.as_bytes(), options())?.backup.is_some());
    let report = store.backups().prune(&Retention::default().last(2), false)?;
    assert_eq!(report.kept.len(), 2);
    drop(store);
    // Where the database is gone, the backup comes over from the other file system.
    fs::remove_file(base.file("state.db"))?;
    let (store, _) = StateStore::open_restored(base.state_dir(), &safety, StoreOptions::default())?;
    assert!(store.task("task-1")?.is_none());
    drop(store);
    for command in [&["backup", "list"][..], &["backup", "verify"], &["backup", "create", "y"]] {
        run(&base, 0, command);
    }
    let report = base.store()?.check()?;
    assert!(report.ok, "{report:?}");
    // An upgrade makes its backup there.
    let old = base_of(1)?;
    std::os::unix::fs::symlink(disk.path().join("backups"), old.file("backups"))?;
    let store = old.store()?;
    assert!(store.upgrade_backup().is_some_and(|backup| backup.path.is_file()));
    Ok(())
}

#[test]
fn a_step_of_a_checkpoint_that_fails_keeps_none_of_the_others_from_being_done() -> TestResult {
    let base = Base::in_memory()?;
    let (service, hours) = service_with_clock(&base, 2)?;
    service.update_task(&task("T-1", TaskStatus::Pending))?;
    service.update_conversation(&conversation("C-1", 0..1))?;
    let wait_for = |what: &str, is_done: &dyn Fn() -> Result<bool, Box<dyn std::error::Error>>| -> TestResult {
        for _ in 0..500 {
            if is_done()? {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(format!("{what}: {:?}", service.last_checkpoint_error()).into())
    };
    wait_for("a backup", &|| Ok(service.list_backups()?.len() == 1))?;
    for label in ["one", "two", "three"] {
        service.create_backup(label)?;
    }
    // The export cannot be written, nor can a backup be made.
    fs::remove_file(base.file("current-state.json")).ok();
    fs::create_dir(base.file("current-state.json"))?;
    base.sql()?.execute("UPDATE conversations SET extra = '[' WHERE id = 'C-1'", [])?;
    service.update_task(&task("T-2", TaskStatus::Pending))?;
    hours.store(24 * 40, Ordering::Relaxed);
    service.append_message("C-1", &crate::common::message(7))?;
    wait_for("retention", &|| Ok(service.list_backups()?.len() == 2))?;
    let indexed = "SELECT missing FROM message_index_state";
    wait_for("the index", &|| Ok(base.sql()?.query_row(indexed, [], |row| row.get::<_, u64>(0))? == 0))?;
    let error = service.last_checkpoint_error().ok_or("none")?;
    assert!(error.contains("current-state.json"), "the first one is reported: {error}");
    Ok(())
}

#[test]
fn who_asks_is_told_the_progress() -> TestResult {
    let base = Base::new()?;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let progress = {
        let seen = seen.clone();
        ProgressCallback::new(move |progress| seen.lock().expect("no panic").push(progress))
    };
    let store = StateStore::open_with(base.state_dir(), StoreOptions::default().progress(progress))?;
    let document = format!(r#"{{"version": "1.0.0", "x": "{}", "tasks": []}}"#, "y".repeat(5_000_000));
    let total_bytes = Some(document.len() as u64);
    let reader = std::io::BufReader::with_capacity(64 * 1024, document.as_bytes());
    store.import_json(reader, agentmux_state::ImportOptions::default().total_bytes(total_bytes))?;
    for n in 0..250 {
        store.update_task(&task(&format!("T-{n}"), TaskStatus::Pending))?;
    }
    export(&store)?;
    let id = store.backups().create("x")?.id;
    store.backups().verify(Some(&id))?;
    store.backups().restore(&id)?;
    let seen = seen.lock().expect("no panic");
    for stage in [Stage::Importing, Stage::Exporting, Stage::Copying, Stage::Verifying, Stage::Restoring] {
        let last = seen.iter().rfind(|progress| progress.stage == stage).expect("a report");
        assert_eq!(Some(last.done), last.total, "{last:?}");
    }
    assert!(seen.iter().filter(|progress| progress.stage == Stage::Importing).count() >= 4);
    Ok(())
}

#[test]
fn a_backup_that_somebody_removes_meanwhile_is_no_bad_one() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let (first, second) = (store.backups().create("first")?, store.backups().create("second")?);
    let gone = first.path.clone();
    let prune = ProgressCallback::new(move |_| {
        let _ = fs::remove_file(&gone);
    });
    let verdicts = verify_backups(base.state_dir(), None, &prune)?;
    let found: Vec<_> = verdicts.iter().map(|it| (it.id.as_str(), it.ok)).collect();
    assert_eq!(found, [(second.id.as_str(), true)]);
    // Asked for by its name, it is not found.
    let gone = second.path.clone();
    let prune = ProgressCallback::new(move |_| {
        let _ = fs::remove_file(&gone);
    });
    let missing = verify_backups(base.state_dir(), Some(&second.id), &prune);
    assert!(matches!(missing, Err(Error::BackupNotFound { .. })), "{missing:?}");
    Ok(())
}

/// A file that another program wrote in place of the export may hold what is nowhere else: no rule removes its copy.
#[test]
fn copies_of_files_that_exports_replaced_are_never_rotated_out() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_task(&task("T-1", TaskStatus::Pending))?;
    store.refresh_export()?;
    fs::write(base.file("current-state.json"), r#"{"version": "1.0.0", "tasks": ["weeks of work"]}"#)?;
    store.refresh_export()?;
    for _ in 0..3 {
        store.backups().create("daily")?;
    }
    let report = store.backups().prune(&Retention::default().last(1), false)?;
    assert_eq!(report.removed.len(), 2);
    let kept = store.backups().list()?.into_iter().find(|backup| backup.label == "changed-export");
    let kept = kept.ok_or("the copy is gone")?;
    assert!(fs::read_to_string(kept.path)?.contains("weeks of work"));
    Ok(())
}
