//! Nothing grows without use: what is done with is dropped on request, what would grow by itself has limits, and space goes back
//! to the file system.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::program::{error, json, run, text};
use crate::common::{Base, FIXTURE, TestResult, conversation, import, random, task};
use agentmux_state::{
    CheckpointReason, Clock, ConversationState, Error, ImportMode, ImportOptions, Limits, PersistedMessage,
    PruneOptions, StatePersistenceService, StateRetention, StateStore, StoreOptions, TaskState, TaskStatus, Timestamp,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

fn at(text: &str) -> Option<DateTime<Utc>> {
    Some(Timestamp::from(text).parse().expect("a time"))
}

/// A completed task with these times: completed, last activity, created.
fn done(id: &str, completed: Option<&str>, last_activity: Option<&str>, created: &str) -> TaskState {
    TaskState {
        completed_at: completed.map(Timestamp::from),
        last_activity_at: last_activity.map(Timestamp::from),
        created_at: created.into(),
        ..task(id, TaskStatus::Completed)
    }
}

fn talk(id: &str, last_activity: &str) -> ConversationState {
    let mut talk = conversation(id, 0..3);
    talk.recent_messages.iter_mut().for_each(|message| message.timestamp = last_activity.into());
    ConversationState { last_activity_at: last_activity.into(), ..talk }
}

fn tasks(store: &StateStore) -> Vec<String> {
    store.state().expect("it can be read").tasks.into_iter().map(|task| task.id).collect()
}

fn pages(base: &Base, pragma: &str) -> rusqlite::Result<i64> {
    base.sql()?.pragma_query_value(None, pragma, |row| row.get(0))
}

const OLD: &str = "2026-01-01T00:00:00.000Z";
const NEW: &str = "2026-11-01T00:00:00.000Z";
const BEFORE: &str = "2026-06-01T00:00:00Z";

fn before(completed: Option<&str>, idle: Option<&str>) -> PruneOptions {
    PruneOptions::default().completed_before(completed.and_then(at)).idle_before(idle.and_then(at)).dry_run(false)
}

#[test]
fn completed_tasks_of_some_age_go_and_nothing_else() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let stay = [
        TaskState { created_at: OLD.into(), ..task("unfinished", TaskStatus::InProgress) },
        TaskState { completed_at: Some(OLD.into()), ..task("reopened", TaskStatus::Paused) },
        TaskState { created_at: OLD.into(), ..task("of-a-newer-release", TaskStatus::from("archived")) },
        done("new", Some(NEW), None, OLD),
        done("just-then", Some("2026-06-01T00:00:00.000Z"), None, OLD),
        done("active-since", None, Some(NEW), OLD),
        done("no-time", Some("soon"), None, ""),
        done("now", Some("now"), None, "2460000.5"),
        TaskState { blocked_by: Some(vec!["needed".into()]), ..task("waits", TaskStatus::Blocked) },
        done("needed", Some(OLD), None, OLD),
        TaskState { blocks: Some(vec!["unfinished".into()]), ..done("says-it-is-needed", Some(OLD), None, OLD) },
    ];
    let go = [
        done("old", Some(OLD), Some(NEW), OLD),
        done("old-by-offset", Some("2026-06-01T01:00:00+02:00"), None, NEW),
        done("unreadable", Some(""), Some(OLD), OLD),
        done("only-created", None, None, OLD),
        TaskState { blocked_by: Some(vec!["old".into(), "gone".into()]), ..done("after-old", Some(OLD), None, OLD) },
    ];
    for task in stay.iter().chain(&go) {
        store.update_task(task)?;
    }
    store.update_conversation(&talk("idle", OLD))?;
    let mut options = before(Some(BEFORE), None);
    options.dry_run = true;
    let expected = store.prune(&options)?;
    assert_eq!((expected.removed.tasks, expected.dry_run, tasks(&store).len()), (5, true, stay.len() + go.len()));
    options.dry_run = false;
    let report = store.prune(&options)?;
    assert_eq!((report.removed, report.backup), (expected.removed, None));
    assert_eq!(tasks(&store), stay.map(|task| task.id));
    assert_eq!(store.state()?.conversations.len(), 1, "they were not asked for");
    assert!(store.changes()?.changes.len() > 1, "the next export holds it");
    Ok(())
}

#[test]
fn idle_conversations_go_with_their_messages() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let mut answered = talk("answered", OLD);
    answered.recent_messages[2].timestamp = NEW.into();
    let mut odd = talk("odd-message", OLD);
    odd.recent_messages[2].timestamp = "when?".into();
    let empty = ConversationState { recent_messages: Vec::new(), ..talk("empty", OLD) };
    for talk in
        [talk("idle", OLD), talk("active", NEW), talk("no-time", "yesterday"), answered, odd, empty, talk("x", NEW)]
    {
        store.update_conversation(&talk)?;
    }
    store.update_task(&done("old", Some(OLD), None, OLD))?;
    store.update_message_index()?;
    let options = before(None, Some(BEFORE));
    let expected = store.prune(&options.clone().dry_run(true))?;
    let report = store.prune(&options)?;
    assert_eq!((report.removed.conversations, report.removed.messages, report.removed.tasks), (2, 3, 0));
    assert_eq!(report.removed, expected.removed);
    let left: Vec<_> = store.state()?.conversations.into_iter().map(|it| it.id).collect();
    assert_eq!(left, ["active", "no-time", "answered", "odd-message", "x"]);
    assert_eq!(store.search("message", 100)?.len(), 15, "what is left is found, and nothing else");
    assert!(store.check()?.ok);
    Ok(())
}

#[test]
fn the_program_prunes_and_says_what() -> TestResult {
    let base = Base::new()?;
    assert!(error(&base, 1, &["prune", "--completed-before", "1d"]).contains("does not exist"));
    assert!(!base.state_dir().exists(), "nothing is made");
    run(&base, 0, &["import", "tests/fixtures/current-state.json"]);
    let arguments = ["prune", "--completed-before", "1h", "--idle-before", "1h", "--dry-run"];
    let expected = json(&base, &arguments);
    assert_eq!(expected["removed"], json!({"tasks": 4, "conversations": 6, "messages": 72}));
    assert_eq!(expected["dryRun"], true);
    assert!(text(run(&base, 0, &arguments)).contains("Would drop 4 tasks and 6 conversations with 72 messages."));
    assert_eq!(json(&base, &["status"])["counts"]["tasks"], 24);
    let report = json(&base, &arguments[..5]);
    assert_eq!(report["removed"], expected["removed"]);
    assert!(report.get("dryRun").is_none() && report["bytesFreed"].as_u64().expect("a number") > 0, "{report}");
    // All messages went: the state as it was before is there.
    let backup = report["backup"].as_str().expect("a backup");
    assert_eq!(json(&base, &["list", "conversations"]), json!([]));
    assert_eq!(json(&base, &["status"])["tasksByStatus"].get("completed"), None);
    run(&base, 0, &["backup", "restore", backup]);
    assert!(text(run(&base, 0, &["export", "-"])) == FIXTURE);

    // Nothing is as old as that; without an age nothing goes.
    assert_eq!(json(&base, &["prune", "--completed-before", "100years"])["removed"]["tasks"], 0);
    assert_eq!(json(&base, &["prune", "--idle-before", "2026-11-01T00:00:00Z"])["removed"]["conversations"], 0);
    assert!(text(run(&base, 0, &["prune"])).contains("Dropped 0 tasks and 0 conversations with 0 messages."));
    assert!(error(&base, 2, &["prune", "--completed-before", "soon"]).contains("an age"));

    let service = base.service();
    service.initialize()?;
    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_agentmux-state"))
        .arg("--state-dir")
        .arg(base.state_dir())
        .args(["prune", "--completed-before", "1h"])
        .output()?;
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && errors.contains("in use by process"), "{errors}");
    assert_eq!(json(&base, &arguments)["removed"]["tasks"], 4, "a dry run works beside it");
    Ok(())
}

/// Fills a state with a megabyte or so of old conversations, and one that is not.
fn fill(store: &StateStore) -> agentmux_state::Result<()> {
    let long = |id: &str, last_activity: &str| {
        let mut talk = talk(id, last_activity);
        talk.recent_messages.iter_mut().for_each(|message| message.content = "word ".repeat(2000));
        talk
    };
    store.batch(|batch| {
        (0..100).try_for_each(|number| batch.update_conversation(&long(&format!("old-{number}"), OLD)))?;
        batch.update_conversation(&long("new", NEW))
    })
}

#[test]
fn freed_space_goes_back_to_the_file_system() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    fill(&store)?;
    let (full, page_size) = (pages(&base, "page_count")?, pages(&base, "page_size")?);
    let report = store.prune(&before(None, Some(BEFORE)))?;
    let left = pages(&base, "page_count")?;
    assert!(left < full / 5 && pages(&base, "freelist_count")? == 0, "{full} pages, then {left}");
    assert_eq!(report.bytes_freed as i64, (full - left) * page_size);
    assert_eq!(fs::metadata(base.file("state.db"))?.len() as i64, left * page_size);
    assert!(store.check()?.ok);
    // A backup and a restore keep what this needs.
    let backup = store.backups().create("small")?;
    store.backups().restore(report.backup.as_deref().expect("most of it went"))?;
    assert_eq!(store.state()?.conversations.len(), 101);
    store.prune(&before(None, Some(BEFORE)))?;
    assert!(pages(&base, "page_count")? < full / 5);
    store.backups().restore(&backup.id)?;
    assert_eq!(pages(&base, "auto_vacuum")?, 2);
    Ok(())
}

#[test]
fn a_database_that_another_program_wrote_gives_space_back_too() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    fill(&store)?;
    base.sql()?.execute_batch("PRAGMA auto_vacuum = none; VACUUM")?;
    assert_eq!(pages(&base, "auto_vacuum")?, 0);
    let full = pages(&base, "page_count")?;
    // Not under an orchestrator: all of it would have to be written anew.
    let service = base.service();
    service.initialize()?;
    service.store()?.prune(&before(None, Some("2025-01-01T00:00:00Z")))?;
    assert_eq!(pages(&base, "auto_vacuum")?, 0);
    service.prepare_for_shutdown()?;
    drop(service);
    let report = store.prune(&before(None, Some(BEFORE)))?;
    assert_eq!((report.removed.conversations, pages(&base, "auto_vacuum")?), (100, 2));
    assert!(pages(&base, "page_count")? < full / 5);
    assert!(store.check()?.problems.iter().all(|problem| problem.kind != "integrity"));
    Ok(())
}

#[test]
fn others_write_while_it_prunes() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    for _ in 0..3 {
        fill(&store)?;
        let writer = base.store()?;
        thread::scope(|scope| {
            let pruning = scope.spawn(|| store.prune(&before(None, Some(BEFORE))));
            let mut longest = Duration::ZERO;
            while !pruning.is_finished() {
                let start = Instant::now();
                writer.update_task(&task("T-1", TaskStatus::Pending)).expect("it waits for a moment at most");
                longest = longest.max(start.elapsed());
            }
            assert_eq!(pruning.join().expect("no panic").expect("it succeeds").removed.conversations, 100);
            eprintln!("waited for {longest:?} at most");
        });
    }
    Ok(())
}

/// A clock that is set by hand.
#[derive(Clone)]
struct Days(Arc<AtomicI64>);

impl Days {
    fn clock(&self) -> Clock {
        let day = self.clone();
        Clock::new(move || day.now())
    }

    fn now(&self) -> DateTime<Utc> {
        at("2026-01-01T00:00:00Z").expect("a time") + TimeDelta::days(self.0.load(Ordering::SeqCst))
    }

    fn next(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

#[test]
fn ten_windows_of_use_need_no_more_room_than_two() -> TestResult {
    const WINDOW: i64 = 3;
    let base = Base::new()?;
    let days = Days(Arc::default());
    let limits = Limits::default().checkpoints(50).runs(10);
    let options = || base.options().clock(days.clock()).limits(limits.clone()).backup_interval(None);
    let mut sizes = Vec::new();
    // Ten tasks are open at a time.
    let mut begun: VecDeque<_> = (0..10).map(|number| task(&format!("T-{number}"), TaskStatus::InProgress)).collect();
    for window in 0..10 {
        for day in 0..WINDOW {
            days.next();
            let now = Timestamp::from(days.now());
            // A run a day: it talks, completes what it began the day before, begins something, and is searched.
            let service = StatePersistenceService::with_options(options());
            service.initialize()?;
            let store = service.store()?;
            for number in 0..12 {
                let id = format!("{window}-{day}-{number}");
                let mut talk = talk(&id, now.as_str());
                for (index, message) in talk.recent_messages.iter_mut().enumerate() {
                    message.content =
                        format!("message {index} of {id} about subject{window}x{day}x{number} ").repeat(10);
                }
                service.update_conversation(&talk)?;
                if let Some(mut task) = begun.pop_front() {
                    (task.status, task.completed_at) = (TaskStatus::Completed, Some(now.clone()));
                    service.update_task(&task)?;
                }
                let task = TaskState { created_at: now.clone(), ..task(&id, TaskStatus::InProgress) };
                service.update_task(&task)?;
                begun.push_back(task);
            }
            for _ in 0..5 {
                service.save_state(CheckpointReason::TaskCompleted)?;
            }
            store.update_message_index()?;
            let ago = Some(days.now() - TimeDelta::days(WINDOW));
            let report = store.prune(&PruneOptions::default().completed_before(ago).idle_before(ago).dry_run(false))?;
            assert_eq!(
                report.removed.conversations > 0,
                window > 0 && day > 0 || window > 1,
                "{window} {day} {report:?}"
            );
            assert!(!store.search(&format!("subject{window}x{day}x7"), 10)?.is_empty());
            service.prepare_for_shutdown()?;
        }
        drop(base.store()?);
        assert_eq!(size(&base.file("state.db-wal")), 0, "nobody has it open");
        sizes.push(size(&base.file("state.db")));
    }
    eprintln!("bytes after each window: {sizes:?}");
    assert!(sizes[9] * 10 <= sizes[1] * 12, "{sizes:?}");
    assert!(base.store()?.check()?.ok);
    Ok(())
}

#[test]
fn a_service_drops_what_its_retention_says_and_nothing_without_one() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let month = Some(Duration::from_secs(30 * 24 * 60 * 60));
    let run = |retention| -> Result<StatePersistenceService, Error> {
        let service = StatePersistenceService::with_options(
            base.options()
                .retention(retention)
                .checkpoint_interval(Some(Duration::from_millis(10)))
                .clock(Clock::new(|| at("2027-01-01T00:00:00Z").expect("a time"))),
        );
        service.initialize()?;
        service.set_mode(&agentmux_state::OrchestratorMode::Onboarding)?;
        Ok(service)
    };
    let service = run(StateRetention::default())?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while service.list_backups()?.is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(50));
    assert_eq!((service.state()?.tasks.len(), service.state()?.conversations.len()), (24, 6));
    service.prepare_for_shutdown()?;

    let service = run(StateRetention::default().completed_tasks(month).idle_conversations(month))?;
    while service.state()?.conversations.len() + service.state()?.tasks.len() > 20 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    let state = service.state()?;
    assert!(state.conversations.is_empty() && state.tasks.len() == 20);
    assert!(state.tasks.iter().all(|task| task.status != TaskStatus::Completed));
    assert!(service.list_backups()?.iter().any(|backup| backup.label == "before-prune"));
    service.prepare_for_shutdown()?;
    Ok(())
}

#[test]
fn checkpoints_and_runs_have_limits() -> TestResult {
    let base = Base::new()?;
    let options = base.options().limits(Limits::default().checkpoints(20).runs(5));
    for _ in 0..12 {
        let service = StatePersistenceService::with_options(options.clone());
        service.initialize()?;
        for _ in 0..10 {
            service.save_state(CheckpointReason::UserRequest)?;
        }
        service.prepare_for_shutdown()?;
    }
    let service = StatePersistenceService::with_options(options);
    service.initialize()?;
    let store = service.store()?;
    assert_eq!(store.state()?.metadata.restart_count, 12, "it counts on");
    let runs: Vec<_> = store.runs(100)?.into_iter().map(|run| run.run_id).collect();
    assert_eq!(runs, [13, 12, 11, 10, 9]);
    service.save_state(CheckpointReason::UserRequest)?;
    let kept = store.checkpoints(1000)?.len();
    // The newest 20, and the last one of each run before them.
    assert!((20..=23).contains(&kept), "{kept}");
    let without: i64 = base.sql()?.query_row(
        "SELECT count(*) FROM run_history WHERE last_checkpoint_at IS NULL AND ended <> 'running or crashed'",
        [],
        |row| row.get(0),
    )?;
    assert_eq!(without, 0, "each run that is kept tells how far it came");
    assert!(service.previous_run().is_some_and(|run| run.run_id == 12));
    Ok(())
}

#[test]
fn who_had_no_limits_so_far_gets_there_bit_by_bit() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_task(&task("T-1", TaskStatus::Pending))?;
    base.sql()?.execute_batch(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
         INSERT INTO checkpoints (checkpointed_at, reason, hostname, pid, uptime_seconds) SELECT '', 'scheduled', '', 1, 0 FROM n;
         INSERT INTO export VALUES (1, '', 7)",
    )?;
    let number = || store.checkpoints(u32::MAX).map(|all| all.len());
    store.record_checkpoint(&CheckpointReason::UserRequest)?;
    assert_eq!(number()?, 29_001);
    for _ in 0..30 {
        store.record_checkpoint(&CheckpointReason::UserRequest)?;
    }
    assert_eq!(number()?, 10_001, "the newest 10,000, and the one that the export holds");
    Ok(())
}

fn set_aside(store: &StateStore, records: impl IntoIterator<Item = String>) -> agentmux_state::Result<Option<String>> {
    let records: Vec<_> = records.into_iter().collect();
    let document = format!(r#"{{"version": "1.0.0", "tasks": [{}]}}"#, records.join(", "));
    let options = ImportOptions::default().mode(ImportMode::Merge).source_name("x.json".into());
    store.import_json(document.as_bytes(), options).map(|report| report.backup)
}

#[test]
fn records_set_aside_have_a_limit_and_are_never_lost_without_a_backup() -> TestResult {
    let base = Base::new()?;
    let limits = Limits::default().set_aside_bytes(10_000);
    let store = StateStore::open_with(base.state_dir(), StoreOptions::default().limits(limits))?;
    let record = |name: &str| format!("\"{name} {}\"", "x".repeat(900));
    // The same file again and again adds nothing.
    for _ in 0..20 {
        assert_eq!(set_aside(&store, (0..4).map(|number| record(&number.to_string())))?, None);
    }
    assert_eq!(store.set_aside()?.len(), 4);
    assert_eq!(set_aside(&store, (4..8).map(|number| record(&number.to_string())))?, None);
    let before = store.set_aside()?;
    // Beyond the limit the oldest go, and a backup holds them.
    let backup = set_aside(&store, (8..12).map(|number| record(&number.to_string())))?.expect("a backup");
    let after = store.set_aside()?;
    assert!(after.len() < 12 && after.len() >= 8, "{}", after.len());
    assert!(after.last().expect("the newest").content.starts_with("\"11 "));
    let kept =
        agentmux_state::list_backups(base.state_dir())?.into_iter().find(|it| it.id == backup).expect("it is there");
    let conn = rusqlite::Connection::open(&kept.path)?;
    let in_backup: i64 = conn.query_row("SELECT count(*) FROM set_aside", [], |row| row.get(0))?;
    assert_eq!(in_backup as usize, before.len());
    assert!(before.iter().chain(&after).all(|it| before.contains(it) || after.contains(it)));
    // All of the newest import stays, however much that is.
    set_aside(&store, (12..40).map(|number| record(&number.to_string())))?;
    assert_eq!(store.set_aside()?.len(), 28);
    Ok(())
}

#[test]
fn backups_before_each_empty_start_do_not_pile_up() -> TestResult {
    let base = Base::new()?;
    for number in 0..6 {
        let options = base.options().start_empty(true).keep_backups(3);
        let service = StatePersistenceService::with_options(options);
        service.initialize()?;
        service.update_task(&task(&format!("T-{number}"), TaskStatus::Pending))?;
        service.prepare_for_shutdown()?;
    }
    let backups = agentmux_state::list_backups(base.state_dir())?;
    assert_eq!(backups.len(), 3);
    Ok(())
}

#[test]
fn a_file_grows_no_further_where_messages_come_and_go() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_conversation(&conversation("C-1", 0..0))?;
    let mut after = Vec::new();
    for round in 0..6 {
        for _ in 0..5 {
            store.batch(|batch| {
                (0..100).try_for_each(|number| {
                    let content = format!("message {round} {number} ").repeat(20);
                    batch.append_message("C-1", &PersistedMessage { content, ..PersistedMessage::default() })
                })
            })?;
            store.update_message_index()?;
        }
        after.push(pages(&base, "page_count")?);
    }
    // Of the index, what belongs to messages that are gone stays until it is most of 50,000.
    assert!(after[5] <= after[1] * 2, "{after:?}");
    Ok(())
}

/// Words that stand nowhere else, and that the search index does not shorten to what they have in common.
fn secret(number: u64) -> String {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let letters: Vec<_> = (0..24).map(|_| b'a' + (random(&mut state) % 26) as u8).collect();
    String::from_utf8(letters).expect("letters")
}

/// Which of these words stand in files, at least with their second half.
fn found_in(files: &[std::path::PathBuf], words: &[String]) -> Vec<String> {
    let contents: Vec<_> = files.iter().filter_map(|file| fs::read(file).ok()).collect();
    let is_in = |word: &str| {
        let finder = memchr::memmem::Finder::new(&word.as_bytes()[12..]);
        contents.iter().any(|content| finder.find(content).is_some())
    };
    words.iter().filter(|word| is_in(word)).cloned().collect()
}

#[test]
fn what_is_pruned_leaves_no_bytes_in_the_database_the_search_index_and_the_wal() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let mut seed = 1;
    let mut next = || {
        seed += 1;
        secret(seed)
    };
    let (mut gone, mut kept) = (Vec::new(), Vec::new());
    // Small and large texts, old and new ones in turn, written again and again, so that pages are split, joined and freed.
    for round in 0..6 {
        for number in 0..40 {
            let is_old = number % 2 == 0;
            let words = if is_old { &mut gone } else { &mut kept };
            let mut talk = talk(&format!("C-{number}"), if is_old { OLD } else { NEW });
            for message in &mut talk.recent_messages {
                let word = next();
                let size = [1, 10, 400, 1500][(number + round) % 4];
                message.content = format!("{word} {}", "filler ".repeat(size));
                words.push(word);
            }
            store.update_conversation(&talk)?;
            let word = next();
            let mut task = if is_old {
                done(&format!("T-{number}"), Some(OLD), None, OLD)
            } else {
                task(&format!("T-{number}"), TaskStatus::InProgress)
            };
            task.title = format!("{word}{}", " title".repeat(round * 20));
            task.description = next().repeat(1 + 200 * (number % 3));
            task.progress.completed_steps = vec![next(), next()];
            words.push(word);
            words.push(task.description[..24].to_owned());
            words.extend(task.progress.completed_steps.iter().cloned());
            store.update_task(&task)?;
        }
        store.update_message_index()?;
    }
    // Of what is kept, only the last texts are there still.
    let state = serde_json::to_string(&store.state()?)?;
    kept.retain(|word| state.contains(word.as_str()));
    assert!(gone.iter().filter(|word| state.contains(word.as_str())).count() > 100 && kept.len() > 100);
    let report = store.prune(&before(Some(BEFORE), Some(BEFORE)))?;
    assert_eq!((report.removed.tasks, report.removed.conversations), (20, 20));
    let hit = store.search(kept.iter().find(|word| state.contains(&format!("\"{word} filler"))).expect("one"), 10)?;
    assert_eq!(hit.len(), 1, "what is left is found");
    // So that the WAL stays when the store is closed; these files are read when nothing is written any more.
    let conn = base.sql()?;
    conn.query_row("SELECT count(*) FROM tasks", [], |_| Ok(()))?;
    drop(store);
    let files = [base.file("state.db"), base.file("state.db-wal")];
    assert_eq!(found_in(&files, &gone), Vec::<String>::new(), "of {} words", gone.len());
    assert_eq!(found_in(&files, &kept).len(), kept.len(), "the words that are kept are seen");
    drop(conn);
    Ok(())
}

#[test]
fn a_retention_leaves_no_bytes_either() -> TestResult {
    let base = Base::new()?;
    import(&base.store()?, FIXTURE)?;
    let word = secret(7);
    let mut talk = talk("old", OLD);
    talk.recent_messages[1].content = format!("so {word} is it");
    base.store()?.update_conversation(&talk)?;
    base.store()?.update_message_index()?;
    assert_eq!(found_in(&[base.file("state.db")], std::slice::from_ref(&word)).len(), 1);
    let service = StatePersistenceService::with_options(
        base.options()
            .retention(StateRetention::default().idle_conversations(Some(Duration::from_secs(60))))
            .checkpoint_interval(Some(Duration::from_millis(10)))
            .clock(Clock::new(|| at("2026-11-01T00:00:00Z").expect("a time")))
            .backup_interval(None),
    );
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::Pending))?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while service.state()?.conversations.iter().any(|it| it.id == "old") && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    service.prepare_for_shutdown()?;
    drop(service);
    let files = [base.file("state.db"), base.file("state.db-wal")];
    assert_eq!(found_in(&files, &[word]), Vec::<String>::new());
    Ok(())
}

#[test]
fn what_is_removed_or_trimmed_leaves_no_bytes_in_its_rows() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let words: Vec<_> = (100..140).map(secret).collect();
    let mut trimmed = conversation("C-1", 0..0);
    for (number, word) in words.iter().enumerate() {
        let text = format!("{word} {}", "filler ".repeat([1, 50, 900][number % 3]));
        match number % 4 {
            0 => trimmed.recent_messages.push(PersistedMessage { content: text, ..PersistedMessage::default() }),
            1 => {
                let id = format!("T-{number}");
                store.update_task(&TaskState { description: text, ..task(&id, TaskStatus::Pending) })?;
                assert!(store.remove_task(&id)?);
            }
            2 => {
                let id = format!("C-{number}");
                let mut talk = talk(&id, NEW);
                talk.recent_messages[0].content = text;
                store.update_conversation(&talk)?;
                assert!(store.remove_conversation(&id)?);
            }
            _ => {
                let mut task = task("T", TaskStatus::Pending);
                task.description = text;
                store.update_task(&task)?;
            }
        }
    }
    store.update_task(&task("T", TaskStatus::Pending))?;
    store.update_conversation(&trimmed)?;
    // The newest 50 push the others out.
    for number in 0..60 {
        let content = format!("message {number}");
        store.append_message("C-1", &PersistedMessage { content, ..PersistedMessage::default() })?;
    }
    drop(store);
    assert_eq!(found_in(&[base.file("state.db"), base.file("state.db-wal")], &words), Vec::<String>::new());
    Ok(())
}
