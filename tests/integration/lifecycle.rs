//! The orchestrator's lifecycle, as the TypeScript service's own tests have it, and what that service lacked.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agentmux_state::{
    CheckpointReason, ConversationState, Error, OrchestratorMode, RunOutcome, SelfImprovementState,
    SelfImprovementStatus, SelfImprovementTask, StatePersistenceService, TaskCheckpoint, TaskStatus, Timestamp,
    reset_state_persistence_service, resume_instructions, state_persistence_service,
};
use chrono::{DateTime, FixedOffset, Local, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::common::program::outcome;
use crate::common::{
    Base, Ends, FIXTURE, QUIRKS, TestResult, agent, clock_from, conversation, import, message, project, task, within,
};

fn checkpoints(base: &Base) -> rusqlite::Result<Vec<String>> {
    let sql = base.sql()?;
    let mut select = sql.prepare("SELECT reason FROM checkpoints ORDER BY checkpoint_id")?;
    select.query_map([], |row| row.get(0))?.collect()
}

fn exported(base: &Base) -> Result<Value, Box<dyn std::error::Error>> {
    Ok(serde_json::from_slice(&std::fs::read(base.file("current-state.json"))?)?)
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn initialize_makes_the_directories_and_returns_none_at_first() -> TestResult {
    let base = Base::new()?;
    let service = StatePersistenceService::new(Some(base.path()));
    assert!(!service.is_initialized());
    assert!(!base.path().join(".agentmux").exists(), "a service touches nothing until it is initialized");
    assert!(service.initialize()?.is_none());
    assert!(service.is_initialized());
    assert_eq!(service.state_dir(), base.state_dir());
    for directory in ["backups", "self-improvement"] {
        assert!(base.file(directory).is_dir(), "{directory}");
    }
    let state = service.state()?;
    assert_eq!(state.version, "1.0.0");
    assert!(state.id.starts_with("state-"), "{}", state.id);
    assert_eq!((state.metadata.pid, state.metadata.restart_count), (std::process::id().into(), 0));
    Ok(())
}

#[test]
fn a_run_that_saved_nothing_is_no_previous_state() -> TestResult {
    let base = Base::new()?;
    for run in 0..3 {
        assert!(base.service().initialize()?.is_none(), "run {run}");
    }
    let works: [fn(&StatePersistenceService) -> TestResult; 3] = [
        |service| Ok(service.set_mode(&OrchestratorMode::Normal)?),
        |service| Ok(service.save_state(CheckpointReason::UserRequest).map(drop)?),
        |service| Ok(service.prepare_for_shutdown()?),
    ];
    for work in works {
        let base = Base::new()?;
        let service = base.service();
        service.initialize()?;
        work(&service)?;
        drop(service);
        assert!(base.service().initialize()?.is_some());
    }
    Ok(())
}

#[test]
fn before_initialize_everything_is_refused() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    assert!(matches!(service.state(), Err(Error::NotInitialized { .. })));
    assert!(matches!(service.update_task(&task("T-1", TaskStatus::Pending)), Err(Error::NotInitialized { .. })));
    assert!(matches!(service.save_state(CheckpointReason::UserRequest), Err(Error::NotInitialized { .. })));
    service.stop_periodic_checkpoint();
    service.prepare_for_shutdown()?;
    Ok(())
}

#[test]
fn state_is_saved_and_loaded() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::InProgress))?;
    let checkpoint = service.save_state(CheckpointReason::UserRequest)?;
    let document = exported(&base)?;
    assert_eq!(document["checkpointReason"], "user_request");
    assert_eq!(document["checkpointedAt"], checkpoint.checkpointed_at.as_str());
    assert_eq!(document["tasks"][0]["id"], "T-1");
    assert_eq!(document, serde_json::to_value(service.state()?)?);
    let left = service.state()?;
    drop(service);
    assert_eq!(base.service().initialize()?, Some(left));
    Ok(())
}

#[test]
fn conversations_are_added_updated_and_trimmed() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    service.update_conversation(&conversation("C-1", 0..3))?;
    service.update_conversation(&ConversationState { summary: Some("short".into()), ..conversation("C-1", 0..4) })?;
    let found = service.state()?.conversations;
    assert_eq!((found.len(), found[0].recent_messages.len()), (1, 4));
    assert_eq!(found[0].summary.as_deref(), Some("short"));
    service.update_conversation(&conversation("C-1", 0..120))?;
    assert_eq!(service.state()?.conversations, [conversation("C-1", 70..120)], "the newest 50, in order");
    service.append_message("C-1", &message(120))?;
    assert_eq!(service.state()?.conversations[0].recent_messages[49], message(120));
    Ok(())
}

#[test]
fn entities_are_added_updated_and_removed() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::Pending))?;
    service.update_task(&task("T-1", TaskStatus::Completed))?;
    service.update_agent(&agent("dev-1"))?;
    service.update_project(&project("P-1"))?;
    service.update_conversation(&conversation("C-1", 0..1))?;
    let state = service.state()?;
    assert_eq!(state.tasks, [task("T-1", TaskStatus::Completed)]);
    assert_eq!((state.agents, state.projects), (vec![agent("dev-1")], vec![project("P-1")]));
    assert!(service.remove_task("T-1")? && service.remove_agent("dev-1")?);
    assert!(service.remove_project("P-1")? && service.remove_conversation("C-1")?);
    assert!(!service.remove_task("T-1")? && !service.remove_agent("dev-1")?);
    assert!(!service.remove_project("P-1")? && !service.remove_conversation("C-1")?);
    let state = service.state()?;
    assert_eq!(state.tasks.len() + state.agents.len() + state.projects.len() + state.conversations.len(), 0);
    Ok(())
}

#[test]
fn self_improvement_is_set_and_cleared() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    let state = SelfImprovementState {
        current_task: Some(SelfImprovementTask { id: "si-1".into(), ..Default::default() }),
        ..Default::default()
    };
    service.update_self_improvement(&state)?;
    assert_eq!(service.state()?.self_improvement, Some(state));
    assert!(service.clear_self_improvement()?);
    assert_eq!(service.state()?.self_improvement, None);
    service.set_mode(&OrchestratorMode::Onboarding)?;
    assert_eq!(service.mode()?, OrchestratorMode::Onboarding);
    Ok(())
}

#[test]
fn resume_instructions_name_what_was_in_work() -> TestResult {
    let now: DateTime<Utc> = "2026-11-22T12:00:00Z".parse()?;
    let base = Base::new()?;
    let store = base.store()?;
    let mut with_checkpoint = task("T-2", TaskStatus::Paused);
    with_checkpoint.checkpoint = Some(TaskCheckpoint::default());
    for task in [
        task("T-1", TaskStatus::InProgress),
        with_checkpoint,
        task("T-3", TaskStatus::Completed),
        task("T-4", TaskStatus::Blocked),
        task("T-5", TaskStatus::Other("awaiting_review".into())),
    ] {
        store.update_task(&task)?;
    }
    for (id, at) in [
        ("recent", "2026-11-22T11:00:00.001Z"),
        ("an hour ago", "2026-11-22T11:00:00.000Z"),
        ("stale", "2026-11-21T11:59:59.000Z"),
        ("elsewhere", "2026-11-22T13:30:00.000+02:00"),
        ("to come", "2026-11-23T00:00:00.000Z"),
        ("no time", "yesterday"),
        ("hostile", "now"),
        ("empty", ""),
    ] {
        store.update_conversation(&ConversationState { last_activity_at: at.into(), ..conversation(id, []) })?;
    }
    let change = |status| SelfImprovementState {
        current_task: Some(SelfImprovementTask { description: "Faster".into(), status, ..Default::default() }),
        ..Default::default()
    };
    store.update_self_improvement(&change(SelfImprovementStatus::Testing))?;
    let instructions = store.resume_instructions(now)?;
    let message = "I'm back after a restart. Let me continue where we left off.";
    assert_eq!(
        serde_json::to_value(&instructions)?,
        json!({
            "resumeOrder": ["task:T-1", "task:T-2"],
            "conversationsToResume": [
                {"id": "recent", "resumeMessage": message},
                {"id": "elsewhere", "resumeMessage": message},
                {"id": "to come", "resumeMessage": message}
            ],
            "tasksToResume": [
                {"id": "T-1", "resumeFromCheckpoint": false},
                {"id": "T-2", "resumeFromCheckpoint": true}
            ],
            "notifications": [
                {"type": "slack", "message": "AgentMux has restarted (restart #1). Resuming 2 tasks and 3 conversations."},
                {"type": "slack", "message": ":warning: Self-improvement task \"Faster\" was in progress. Status: testing. Please verify the changes."}
            ]
        })
    );
    assert_eq!(instructions, resume_instructions(&store.state()?, now));
    store.update_self_improvement(&change(SelfImprovementStatus::Planning))?;
    assert_eq!(store.resume_instructions(now)?.notifications.len(), 1);
    Ok(())
}

#[test]
fn both_ways_to_resume_agree() -> TestResult {
    for document in [FIXTURE, QUIRKS] {
        let base = Base::new()?;
        let store = base.store()?;
        import(&store, document)?;
        let state = store.state()?;
        let mut moments: Vec<_> = state.conversations.iter().filter_map(|it| it.last_activity_at.parse()).collect();
        moments.extend(moments.clone().iter().flat_map(|at| [*at + TimeDelta::hours(1), *at + TimeDelta::minutes(59)]));
        assert!(!moments.is_empty());
        for now in moments {
            assert_eq!(store.resume_instructions(now)?, resume_instructions(&state, now), "{now}");
        }
    }
    Ok(())
}

#[test]
fn a_last_activity_counts_in_the_forms_that_javascript_takes() -> TestResult {
    let now = Utc::now();
    let base = Base::new()?;
    let store = base.store()?;
    type Form = fn(DateTime<Utc>) -> String;
    let forms: [(&str, Form); 12] = [
        ("toISOString", |at| Timestamp::from(at).to_string()),
        ("an offset", |at| at.with_timezone(&FixedOffset::east_opt(7200).expect("an offset")).to_rfc3339()),
        ("String(date)", |at| {
            at.with_timezone(&FixedOffset::east_opt(-3600).expect("an offset"))
                .format("%a %b %d %Y %H:%M:%S GMT%z (Somewhere (else))")
                .to_string()
        }),
        ("toUTCString", |at| at.format("%a, %d %b %Y %H:%M:%S GMT").to_string()),
        ("local", |at| at.with_timezone(&Local).format("%Y-%m-%dT%H:%M:%S%.3f").to_string()),
        ("local, to the minute", |at| at.with_timezone(&Local).format("%Y-%m-%dT%H:%M").to_string()),
        ("UTC, to the minute", |at| at.format("%Y-%m-%dT%H:%MZ").to_string()),
        ("with a space", |at| at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string()),
        ("with a space, UTC", |at| at.format("%Y-%m-%d %H:%M:%SZ").to_string()),
        ("toLocaleString", |at| at.with_timezone(&Local).format("%-m/%-d/%Y, %-I:%M:%S %p").to_string()),
        ("American", |at| at.with_timezone(&Local).format("%b %-d, %Y %H:%M:%S").to_string()),
        ("words", |_| "yesterday, or so".to_owned()),
    ];
    for (name, form) in forms {
        for minutes in [30, 90] {
            let last_activity_at = Timestamp::from(form(now - TimeDelta::minutes(minutes)));
            let id = format!("{name}, {minutes} minutes");
            store.update_conversation(&ConversationState { id, last_activity_at, ..Default::default() })?;
        }
    }
    let expected: Vec<_> = forms[..11].iter().map(|(name, _)| format!("{name}, 30 minutes")).collect();
    let instructions = store.resume_instructions(now)?;
    let resumed: Vec<_> = instructions.conversations_to_resume.iter().map(|it| it.id.clone()).collect();
    assert_eq!(resumed, expected);
    assert_eq!(resume_instructions(&store.state()?, now), instructions);
    Ok(())
}

#[test]
fn shutdown_records_a_checkpoint_and_frees_the_directory() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::InProgress))?;
    service.prepare_for_shutdown()?;
    service.prepare_for_shutdown()?;
    assert_eq!(checkpoints(&base)?, ["before_restart"], "once");
    assert_eq!(exported(&base)?["checkpointReason"], "before_restart");
    assert!(!service.is_initialized());
    assert!(matches!(service.update_task(&task("T-2", TaskStatus::Pending)), Err(Error::ShutDown { .. })));
    assert_eq!(service.state()?.tasks.len(), 1, "it can still be read");

    let next = base.service();
    next.initialize()?;
    assert_eq!(next.previous_run().expect("the run before").outcome, Some(RunOutcome::Shutdown));
    next.prepare_for_shutdown()?;
    assert!(service.initialize()?.is_some(), "a service can start again");
    assert_eq!(service.run()?.expect("its run").restart_count, 2);
    Ok(())
}

#[test]
fn after_a_shutdown_the_database_is_one_file_that_may_be_copied() -> TestResult {
    let base = Base::new()?;
    let (service, copied) = (base.service(), base.file("copy.db"));
    for restart in 0..3 {
        service.initialize()?;
        service.update_task(&task(&format!("T-{restart}"), TaskStatus::Pending))?;
        assert_eq!(service.state()?.tasks.len(), restart + 1);
        service.prepare_for_shutdown()?;
        assert!(!base.file("state.db-wal").exists(), "nothing is left beside it");
        // Other code of this process opens the file and closes it.
        std::fs::copy(base.file("state.db"), &copied)?;
        let copy = rusqlite::Connection::open(&copied)?;
        let count: usize = copy.query_row("SELECT count(*) FROM tasks", [], |row| row.get(0))?;
        assert_eq!(count, restart + 1, "the copy is complete");
        assert_eq!(service.state()?.tasks.len(), restart + 1, "it can still be read");
        std::fs::copy(base.file("state.db"), &copied)?;
    }
    let next = base.service();
    next.initialize()?;
    next.update_task(&task("T-3", TaskStatus::Pending))?;
    assert_eq!((next.state()?.tasks.len(), service.state()?.tasks.len()), (4, 4));
    Ok(())
}

#[test]
fn two_restarts_without_adding_anything_lose_nothing() -> TestResult {
    let base = Base::new()?;
    let first = base.service();
    first.initialize()?;
    first.store()?.import_json(FIXTURE.as_bytes(), Default::default())?;
    first.store()?.update_task(&task("T-new", TaskStatus::InProgress))?;
    let before = first.state()?;
    drop(first);
    for restart in 1..=2 {
        let service = base.service();
        let found = service.initialize()?.expect("the state");
        assert_eq!((&found.conversations, &found.tasks), (&before.conversations, &before.tasks));
        let now = service.state()?;
        assert_eq!((&now.tasks, &now.agents, &now.projects), (&before.tasks, &before.agents, &before.projects));
        assert_eq!(now.self_improvement, before.self_improvement);
        assert_eq!(now.metadata.restart_count, before.metadata.restart_count + restart);
        assert_eq!(found.metadata.restart_count, now.metadata.restart_count - 1, "as the previous run left it");
        let previous = service.previous_run().expect("the run before");
        assert_eq!(previous.outcome, Some(RunOutcome::Crashed), "nobody shut it down");
    }
    Ok(())
}

#[test]
fn the_restart_count_counts_from_zero() -> TestResult {
    let base = Base::new()?;
    for expected in 0..3 {
        let service = base.service();
        service.initialize()?;
        assert_eq!(service.state()?.metadata.restart_count, expected);
        service.prepare_for_shutdown()?;
    }
    Ok(())
}

#[test]
fn a_second_service_in_the_process_takes_over() -> TestResult {
    let base = Base::new()?;
    let interval = Some(Duration::from_millis(20));
    let first = StatePersistenceService::with_options(base.options().checkpoint_interval(interval));
    first.initialize()?;
    first.update_task(&task("T-1", TaskStatus::InProgress))?;
    let writer = first.store()?;
    let second = base.service();
    assert_eq!(second.initialize()?.expect("the state").tasks.len(), 1);
    assert!(!first.is_initialized());
    let refused = |result: agentmux_state::Result<()>| assert!(matches!(result, Err(Error::TakenOver { .. })));
    refused(first.update_task(&task("T-2", TaskStatus::Pending)));
    refused(writer.update_task(&task("T-2", TaskStatus::Pending)));
    refused(first.save_state(CheckpointReason::Scheduled).map(drop));
    first.prepare_for_shutdown()?;
    assert!(second.is_initialized(), "the first one's shutdown does not end the second's run");

    let before = checkpoints(&base)?.len();
    second.update_task(&task("T-2", TaskStatus::Pending))?;
    thread::sleep(Duration::from_millis(100));
    assert_eq!(checkpoints(&base)?.len(), before, "the first one's timer has stopped");
    assert_eq!(second.previous_run().expect("the run before").outcome, Some(RunOutcome::TakenOver));
    first.initialize()?;
    assert!(matches!(second.update_task(&task("T-3", TaskStatus::Pending)), Err(Error::TakenOver { .. })));
    Ok(())
}

#[test]
fn initialize_again_only_returns_the_state() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::Pending))?;
    assert_eq!(service.initialize()?.expect("the state").tasks.len(), 1);
    assert_eq!(service.run()?.expect("its run").run_id, 1);
    Ok(())
}

#[test]
fn start_empty_keeps_the_old_entities_in_a_backup() -> TestResult {
    let base = Base::new()?;
    let first = base.service();
    first.initialize()?;
    first.update_task(&task("T-1", TaskStatus::InProgress))?;
    first.prepare_for_shutdown()?;
    let service = StatePersistenceService::with_options(base.options().start_empty(true));
    assert_eq!(service.initialize()?.expect("as the previous run left it").tasks.len(), 1);
    assert_eq!(service.state()?.tasks.len(), 0);
    assert_eq!(service.state()?.metadata.restart_count, 1);
    let backups = base.backups()?;
    let backup = backups.iter().find(|name| name.ends_with("-before-start-empty.db")).expect("a backup");
    let sql = rusqlite::Connection::open(base.file("backups").join(backup))?;
    assert_eq!(sql.query_row("SELECT id FROM tasks", [], |row| row.get::<_, String>(0))?, "T-1");
    Ok(())
}

#[test]
fn start_empty_loses_no_update_that_another_program_makes_meanwhile() -> TestResult {
    let base = Base::new()?;
    let first = base.service();
    first.initialize()?;
    first.store()?.batch(|batch| {
        (0..1000).try_for_each(|number| batch.update_task(&task(&format!("T-{number}"), TaskStatus::Pending)))
    })?;
    first.prepare_for_shutdown()?;
    let (other, stop) = (base.store()?, AtomicBool::new(false));
    let service = StatePersistenceService::with_options(base.options().start_empty(true));
    let acknowledged = thread::scope(|scope| -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let ends = Ends(&stop);
        let writer = scope.spawn(|| {
            let mut acknowledged = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let id = format!("meanwhile-{}", acknowledged.len());
                other.update_task(&task(&id, TaskStatus::Pending))?;
                acknowledged.push(id);
            }
            Ok::<_, Error>(acknowledged)
        });
        let started = service.initialize();
        drop(ends);
        let acknowledged = writer.join().expect("no panic")?;
        started?;
        Ok(acknowledged)
    })?;
    let backup = service.list_backups()?.into_iter().find(|it| it.label == "before-start-empty").expect("a backup");
    let sql = rusqlite::Connection::open(backup.path)?;
    for id in &acknowledged {
        let is_in_backup = sql.prepare_cached("SELECT 1 FROM tasks WHERE id = ?1")?.exists([id])?;
        assert!(is_in_backup || other.task(id)?.is_some(), "{id} of {} is lost", acknowledged.len());
    }
    Ok(())
}

#[test]
fn start_empty_also_keeps_a_typescript_file_in_a_backup() -> TestResult {
    let base = Base::new()?;
    base.write("current-state.json", FIXTURE)?;
    let service = StatePersistenceService::with_options(base.options().start_empty(true));
    assert_eq!(service.initialize()?.expect("the TypeScript service's").tasks.len(), 24);
    assert_eq!(service.state()?.tasks.len(), 0);
    service.prepare_for_shutdown()?;
    let backups = base.backups()?;
    let copy = backups.iter().find(|name| name.ends_with(".json")).expect("a copy of the file");
    assert_eq!(std::fs::read_to_string(base.file("backups").join(copy))?, FIXTURE);
    Ok(())
}

#[test]
fn a_service_may_be_dropped_inside_a_batch() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    let store = service.store()?;
    let in_batch = store.clone();
    within("a batch that drops the service", Duration::from_secs(20), move || {
        in_batch.batch(move |batch| {
            batch.update_task(&task("T-1", TaskStatus::Pending))?;
            drop(service);
            batch.update_task(&task("T-2", TaskStatus::Pending))
        })
    })?;
    assert_eq!(store.state()?.tasks.len(), 2);
    // The writer is closed right after the batch, by another thread.
    let is_closed = || matches!(store.update_task(&task("T-3", TaskStatus::Pending)), Err(Error::ShutDown { .. }));
    wait_until("the store is closed for writing", is_closed);
    let next = base.service();
    next.initialize()?;
    next.update_task(&task("T-4", TaskStatus::Pending))?;
    Ok(())
}

#[test]
fn the_periodic_checkpoint_may_be_stopped_inside_a_batch() -> TestResult {
    let base = Base::new()?;
    let interval = Some(Duration::from_millis(5));
    let service = StatePersistenceService::with_options(base.options().checkpoint_interval(interval));
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::Pending))?;
    let stopping = service.clone();
    within("a batch that stops the checkpoint", Duration::from_secs(20), move || {
        stopping.store()?.batch(|batch| {
            batch.update_task(&task("T-2", TaskStatus::Pending))?;
            // The timer's thread comes to wait for this batch, with what an update before it has changed.
            thread::sleep(Duration::from_millis(100));
            stopping.stop_periodic_checkpoint();
            Ok::<_, Error>(())
        })
    })?;
    assert_eq!(service.state()?.tasks.len(), 2);
    service.prepare_for_shutdown()?;
    Ok(())
}

#[test]
fn periodic_checkpoints_are_recorded_only_where_something_changed() -> TestResult {
    let base = Base::new()?;
    let interval = Some(Duration::from_millis(20));
    let service = StatePersistenceService::with_options(base.options().checkpoint_interval(interval));
    service.initialize()?;
    thread::sleep(Duration::from_millis(200));
    assert_eq!(checkpoints(&base)?, [""; 0], "nothing changed");
    service.update_task(&task("T-1", TaskStatus::Pending))?;
    wait_until("the export is there", || base.file("current-state.json").exists());
    thread::sleep(Duration::from_millis(200));
    assert_eq!(checkpoints(&base)?, ["scheduled"]);
    assert_eq!(exported(&base)?["tasks"][0]["id"], "T-1");
    assert_eq!(exported(&base)?["checkpointReason"], "scheduled");

    // A person's change counts as well.
    base.sql()?.execute("UPDATE tasks SET title = 'edited'", [])?;
    wait_until("the edit is exported", || exported(&base).is_ok_and(|it| it["tasks"][0]["title"] == "edited"));
    assert_eq!(checkpoints(&base)?, ["scheduled"; 2]);

    service.stop_periodic_checkpoint_soon();
    service.stop_periodic_checkpoint();
    service.update_task(&task("T-2", TaskStatus::Pending))?;
    thread::sleep(Duration::from_millis(100));
    assert_eq!(checkpoints(&base)?.len(), 2);
    Ok(())
}

#[test]
fn the_periodic_checkpoint_survives_its_failures_and_reports_them() -> TestResult {
    let base = Base::new()?;
    let interval = Some(Duration::from_millis(20));
    let service = StatePersistenceService::with_options(base.options().checkpoint_interval(interval));
    service.initialize()?;
    assert_eq!(service.last_checkpoint_error(), None);
    // A directory in place of the export.
    std::fs::create_dir(base.file("current-state.json"))?;
    std::fs::write(base.file("current-state.json").join("x"), "x")?;
    service.update_task(&task("T-1", TaskStatus::Pending))?;
    wait_until("the failure is reported", || service.last_checkpoint_error().is_some());
    let error = service.last_checkpoint_error().expect("an error");
    assert!(error.contains("current-state.json"), "{error}");
    std::fs::remove_dir_all(base.file("current-state.json"))?;
    wait_until("it succeeds again", || service.last_checkpoint_error().is_none());
    assert_eq!(exported(&base)?["tasks"][0]["id"], "T-1", "the export catches up, though nothing changed since");
    Ok(())
}

#[test]
fn checkpoints_record_when_where_and_how_long() -> TestResult {
    let base = Base::new()?;
    let (clock, seconds) = clock_from("2026-11-22T12:00:00Z".parse()?);
    let service = StatePersistenceService::with_options(base.options().clock(clock));
    service.initialize()?;
    seconds.store(90, Ordering::Relaxed);
    let checkpoint = service.save_state(CheckpointReason::TaskCompleted)?;
    assert_eq!(checkpoint.checkpointed_at.as_str(), "2026-11-22T12:01:30.000Z");
    let metadata = service.state()?.metadata;
    assert_eq!((metadata.started_at.as_str(), metadata.uptime_seconds), ("2026-11-22T12:00:00.000Z", 90));
    let sql = base.sql()?;
    let columns = "SELECT run_id, checkpointed_at, reason, hostname, pid, uptime_seconds FROM checkpoints";
    let row: (i64, String, String, String, u32, i64) = sql.query_row(columns, [], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
    })?;
    let (at, reason) = ("2026-11-22T12:01:30.000Z".to_owned(), "task_completed".to_owned());
    assert_eq!(row, (1, at, reason, metadata.hostname, std::process::id(), 90));

    // A clock that was set back makes no negative time.
    seconds.store(-500, Ordering::Relaxed);
    service.save_state(CheckpointReason::UserRequest)?;
    assert_eq!(service.state()?.metadata.uptime_seconds, 0);
    Ok(())
}

#[test]
fn without_export_no_file_is_written() -> TestResult {
    let base = Base::new()?;
    let service = StatePersistenceService::with_options(base.options().export(false));
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::Pending))?;
    service.save_state(CheckpointReason::UserRequest)?;
    service.prepare_for_shutdown()?;
    assert!(!base.file("current-state.json").exists());
    assert_eq!(checkpoints(&base)?, ["user_request", "before_restart"]);
    Ok(())
}

#[test]
fn the_message_limit_is_an_option() -> TestResult {
    let base = Base::new()?;
    let service = StatePersistenceService::with_options(base.options().message_limit(2));
    service.initialize()?;
    service.update_conversation(&conversation("C-1", 0..5))?;
    assert_eq!(service.state()?.conversations, [conversation("C-1", 3..5)]);
    Ok(())
}

#[test]
fn the_service_of_the_process_is_one_until_it_is_reset() -> TestResult {
    let service = state_persistence_service();
    let home = std::env::home_dir().expect("a home directory");
    assert_eq!(service.state_dir(), home.join(".agentmux/state"));
    assert!(service.same(&state_persistence_service()));
    reset_state_persistence_service();
    assert!(!service.same(&state_persistence_service()));
    reset_state_persistence_service();
    reset_state_persistence_service();
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
fn a_checkpoint_after_a_crash_is_not_booked_on_the_dead_run() -> TestResult {
    let base = Base::new()?;
    let service = base.service();
    service.initialize()?;
    service.update_task(&task("T-1", TaskStatus::Pending))?;
    service.save_state(CheckpointReason::UserRequest)?;
    drop(service);
    assert_eq!(outcome(&base, &["checkpoint"])?.0, Some(0));
    let runs: Vec<Option<i64>> = base
        .sql()?
        .prepare("SELECT run_id FROM checkpoints ORDER BY checkpoint_id")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    assert_eq!(runs, [Some(1), None]);
    Ok(())
}
