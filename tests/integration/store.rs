//! What the store writes, keeps and refuses.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use agentmux_state::{
    AgentState, ChangeOperation, ChangeType, CheckpointReason, ConversationState, Error, ImportMode, ImportOptions,
    ListFilter, OrchestratorMode, PersistedMessage, SelfImprovementState, StateStore, StoreOptions, TaskCheckpoint,
    TaskState, TaskStatus, Timestamp, ValidationCheck,
};
use rusqlite::Connection;

use crate::common::{
    Base, Ends, FIXTURE, TestResult, agent, conversation, export, import, message, nested, project, task,
};

/// Tells which rows of which tables were inserted, updated and deleted, by what they were before. (A trigger would not: those of others
/// run in no write of the store.)
struct Audit(Connection, RefCell<Rows>);

/// The rows of every table, by table and key.
type Rows = BTreeMap<(String, String), String>;

impl Audit {
    fn new(base: &Base) -> rusqlite::Result<Self> {
        let audit = Self(base.sql()?, RefCell::default());
        audit.take()?;
        Ok(audit)
    }

    fn rows(&self) -> rusqlite::Result<Rows> {
        let texts = |sql: &str, parameter: &str| -> rusqlite::Result<Vec<String>> {
            self.0.prepare(sql)?.query_map([parameter], |row| row.get(0))?.collect()
        };
        let tables = "SELECT name FROM pragma_table_list WHERE type = 'table' AND schema = 'main' AND name NOT LIKE ?1
                      AND name <> 'changes_since_checkpoint'";
        let mut rows = Rows::new();
        for table in texts(tables, "sqlite_%")? {
            let columns = |condition: &str| {
                let columns = texts(&format!("SELECT name FROM pragma_table_info(?1) WHERE {condition}"), &table)?;
                Ok::<_, rusqlite::Error>(
                    columns.iter().map(|it| format!("quote({it})")).collect::<Vec<_>>().join(" || ','  || "),
                )
            };
            let (key, all) = (columns("pk > 0")?, columns("true")?);
            let key = if key.is_empty() { "rowid".to_owned() } else { key };
            let mut select = self.0.prepare(&format!("SELECT {key}, {all} FROM {table}"))?;
            let found = select.query_map([], |row| Ok(((table.clone(), row.get(0)?), row.get(1)?)))?;
            rows.extend(found.collect::<rusqlite::Result<Vec<_>>>()?);
        }
        Ok(rows)
    }

    /// What was written since the last call, in the order of the tables.
    fn take(&self) -> rusqlite::Result<Vec<String>> {
        let (before, after) = (self.1.take(), self.rows()?);
        let written = |row: &(String, String)| match (before.get(row), after.get(row)) {
            (None, _) => Some(format!("INSERT {}", row.0)),
            (_, None) => Some(format!("DELETE {}", row.0)),
            (before, after) => (before != after).then(|| format!("UPDATE {}", row.0)),
        };
        let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let written = keys.into_iter().filter_map(written).collect();
        self.1.replace(after);
        Ok(written)
    }

    /// Changes with each commit of another connection.
    fn version(&self) -> rusqlite::Result<i64> {
        self.0.pragma_query_value(None, "data_version", |row| row.get(0))
    }
}

#[test]
fn an_update_writes_only_what_changed() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let mut task = task("T-1", TaskStatus::InProgress);
    task.progress.completed_steps = vec!["one".into(), "two".into()];
    task.progress.remaining_steps = Some(vec!["three".into(), "four".into()]);
    task.checkpoint = Some(TaskCheckpoint { modified_files: Some(vec!["a".into()]), ..Default::default() });
    let mut conversation = conversation("C-1", 0..50);
    store.update_task(&task)?;
    store.update_conversation(&conversation)?;
    store.update_project(&project("P-1"))?;
    let audit = Audit::new(&base)?;
    let version = audit.version()?;

    store.update_task(&task)?;
    store.update_conversation(&conversation)?;
    store.update_project(&project("P-1"))?;
    assert_eq!(audit.take()?, [""; 0], "nothing changed");
    assert_eq!(audit.version()?, version, "nothing is written");

    task.progress.percent_complete = 40.0;
    store.update_task(&task)?;
    assert_eq!(audit.take()?, ["UPDATE tasks"]);

    // A step is done: it moves from one list to the other.
    task.progress.completed_steps.push("three".into());
    task.progress.remaining_steps = Some(vec!["four".into()]);
    store.update_task(&task)?;
    let written = audit.take()?;
    assert_eq!(written, ["INSERT task_steps", "UPDATE task_steps", "DELETE task_steps"]);

    // One new message, and the oldest goes.
    conversation.recent_messages.push(message(50));
    store.update_conversation(&conversation)?;
    assert_eq!(audit.take()?, ["DELETE messages", "INSERT messages"]);

    // The last message grows, as an answer does while it is written.
    conversation.recent_messages.last_mut().expect("a message").content.push_str(" and more");
    store.update_conversation(&conversation)?;
    assert_eq!(audit.take()?, ["UPDATE messages"]);

    conversation.recent_messages.push(message(51));
    store.append_message("C-1", &message(51))?;
    assert_eq!(audit.take()?, ["UPDATE conversations", "DELETE messages", "INSERT messages"]);
    conversation.last_activity_at = message(51).timestamp;
    conversation.recent_messages.drain(..2);
    assert_eq!(store.conversation("C-1")?, Some(conversation));
    assert_eq!(store.task("T-1")?, Some(task));
    Ok(())
}

#[test]
fn a_conversation_becomes_what_was_given_however_its_messages_changed() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let histories: [Vec<usize>; 10] = [
        (0..5).collect(),
        (2..9).collect(),
        vec![2, 3, 30, 5],
        vec![],
        (0..60).collect(),
        (5..60).collect(),
        vec![7, 7, 7],
        vec![7, 7, 7, 7],
        vec![1, 7],
        (100..160).collect(),
    ];
    for history in histories {
        let given = conversation("C-1", history.clone());
        store.update_conversation(&given)?;
        let kept = history[history.len().saturating_sub(50)..].to_vec();
        assert_eq!(store.conversation("C-1")?, Some(conversation("C-1", kept)), "{history:?}");
    }
    Ok(())
}

#[test]
fn the_newest_messages_are_kept() -> TestResult {
    let base = Base::new()?;
    let options = StoreOptions::default().message_limit(3);
    let store = StateStore::open_with(base.state_dir(), options)?;
    store.update_conversation(&conversation("C-1", 0..10))?;
    assert_eq!(store.conversation("C-1")?, Some(conversation("C-1", 7..10)));
    for number in 10..14 {
        store.append_message("C-1", &message(number))?;
    }
    let kept = store.conversation("C-1")?.expect("the conversation");
    assert_eq!(kept.recent_messages, conversation("C-1", 11..14).recent_messages);
    // What somebody deletes by hand does not make the limit smaller.
    base.sql()?.execute("DELETE FROM messages WHERE content = 'message 12'", [])?;
    store.append_message("C-1", &message(14))?;
    let kept = store.conversation("C-1")?.expect("the conversation");
    assert_eq!(kept.recent_messages, conversation("C-1", [11, 13, 14]).recent_messages);
    Ok(())
}

#[test]
fn appending_needs_a_conversation_and_moves_its_last_activity_on() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    match store.append_message("C-1", &message(1)) {
        Err(Error::NotFound { kind: agentmux_state::EntityKind::Conversation, id }) => assert_eq!(id, "C-1"),
        other => panic!("{other:?}"),
    }
    store.update_conversation(&conversation("C-1", []))?;
    let last_activity = |store: &StateStore| store.conversation("C-1").map(|it| it.map(|it| it.last_activity_at));
    store.append_message("C-1", &message(61))?;
    assert_eq!(last_activity(&store)?, Some("2026-11-22T10:01:01.000Z".into()));
    store.append_message("C-1", &message(2))?;
    assert_eq!(last_activity(&store)?, Some("2026-11-22T10:01:01.000Z".into()), "never back");
    let undated = agentmux_state::PersistedMessage { timestamp: "just now".into(), ..message(3) };
    store.append_message("C-1", &undated)?;
    assert_eq!(last_activity(&store)?, Some("2026-11-22T10:01:01.000Z".into()));
    Ok(())
}

#[test]
fn removing_leaves_nothing_behind_and_cascades_to_nobody() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    let state = store.state()?;
    for conversation in &state.conversations {
        assert!(store.remove_conversation(&conversation.id)?);
        assert!(!store.remove_conversation(&conversation.id)?);
    }
    assert!(store.remove_task("task-1")? && !store.remove_task("task-1")?);
    assert!(store.remove_agent("dev-1")? && !store.remove_agent("dev-1")?);
    assert_eq!(store.task("task-6")?.expect("the task").assigned_to.as_deref(), Some("dev-1"), "soft links stay");
    for task in &state.tasks {
        store.remove_task(&task.id)?;
    }
    for project in &state.projects {
        assert!(store.remove_project(&project.id)?);
    }
    assert!(store.clear_self_improvement()? && !store.clear_self_improvement()?);
    let sql = base.sql()?;
    for table in [
        "messages",
        "task_steps",
        "task_dependencies",
        "task_checkpoints",
        "task_checkpoint_files",
        "project_tasks",
        "project_agents",
        "self_improvement_checks",
        "self_improvement_backup_files",
    ] {
        let rows: i64 = sql.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
        assert_eq!(rows, 0, "{table}");
    }
    Ok(())
}

#[test]
fn a_batch_reads_what_it_has_changed() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_task(&task("T-1", TaskStatus::Pending))?;
    let found = store.batch(|batch| {
        assert!(
            batch.task("T-2")?.is_none() && batch.conversation("C-1")?.is_none() && batch.self_improvement()?.is_none()
        );
        assert!(batch.agent("dev-1")?.is_none() && batch.project("P-1")?.is_none());
        let mut task = batch.task("T-1")?.expect("the task");
        task.status = TaskStatus::Completed;
        batch.update_task(&task)?;
        batch.task("T-1")
    })?;
    assert_eq!(found, store.task("T-1")?);
    assert_eq!(found.map(|task| task.status), Some(TaskStatus::Completed));
    Ok(())
}

#[test]
fn a_batch_is_all_or_nothing() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_task(&task("T-1", TaskStatus::Pending))?;
    let before = store.state()?;
    let failed: Result<(), Error> = store.batch(|batch| {
        batch.update_task(&task("T-2", TaskStatus::Pending))?;
        batch.remove_task("T-1")?;
        batch.append_message("gone", &message(1))
    });
    assert!(matches!(failed, Err(Error::NotFound { .. })));
    assert_eq!(store.state()?, before);

    #[derive(Debug, PartialEq)]
    struct Mine(String);
    impl From<Error> for Mine {
        fn from(error: Error) -> Self {
            Self(error.to_string())
        }
    }
    let refused = store.batch(|batch| {
        batch.update_task(&task("T-2", TaskStatus::Pending))?;
        Err::<(), _>(Mine("changed my mind".into()))
    });
    assert_eq!(refused, Err(Mine("changed my mind".into())));
    assert_eq!(store.state()?, before);

    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.batch(|batch| -> Result<(), Error> {
            batch.update_task(&task("T-2", TaskStatus::Pending))?;
            panic!("in the middle")
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(store.state()?, before);
    store.update_task(&task("T-3", TaskStatus::Pending))?;
    assert_eq!(store.state()?.tasks.len(), 2, "the store goes on");
    Ok(())
}

#[test]
fn an_update_that_fails_inside_a_batch_leaves_no_half() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let mut good = task("T-1", TaskStatus::Pending);
    good.checkpoint = Some(TaskCheckpoint { agent_context: Some("kept".into()), ..TaskCheckpoint::default() });
    store.update_task(&good)?;
    let mut bad = good.clone();
    bad.title = "changed".into();
    bad.checkpoint = Some(TaskCheckpoint { work_data: Some(nested(200)), ..TaskCheckpoint::default() });
    store.batch(|batch| {
        assert!(matches!(batch.update_task(&bad), Err(Error::InvalidValue { .. })));
        // The caller goes on all the same.
        batch.update_task(&task("T-2", TaskStatus::Pending))
    })?;
    assert_eq!(store.task("T-1")?, Some(good));
    assert!(store.task("T-2")?.is_some());
    Ok(())
}

#[test]
fn what_no_document_can_hold_is_refused() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    for percent in [f64::NAN, f64::INFINITY] {
        let mut task = task("T-1", TaskStatus::Pending);
        task.progress.percent_complete = percent;
        let error = store.update_task(&task).expect_err("no document can hold it");
        assert!(matches!(&error, Error::InvalidValue { record, .. } if record == "task T-1"), "{error}");
    }
    assert_eq!(store.task("T-1")?, None);
    Ok(())
}

#[test]
fn an_unreadable_value_names_its_row_and_column() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_agent(&agent("dev-1"))?;
    base.sql()?.execute("UPDATE agents SET extra = '{cut' WHERE session_name = 'dev-1'", [])?;
    match store.agent("dev-1") {
        Err(Error::InvalidRow { table: "agents", row, column: "extra", .. }) => assert_eq!(row, "dev-1"),
        other => panic!("{other:?}"),
    }
    assert!(export(&store).is_err(), "an export never leaves out what it cannot read");
    Ok(())
}

#[test]
fn a_list_item_that_cannot_be_read_is_named_with_its_list() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_conversation(&conversation("C-1", 0..3))?;
    base.by_hand("UPDATE messages SET extra = '[]' WHERE position = 1")?;
    match store.conversation("C-1") {
        Err(Error::InvalidRow { table: "messages", row, column: "extra", .. }) => assert_eq!(row, "C-1, position 1"),
        other => panic!("{other:?}"),
    }
    base.by_hand(
        "DELETE FROM conversations;
         INSERT INTO tasks (id, title, description, status, priority, percent_complete, created_at)
         VALUES ('T', '', '', '', '', 9e999, '')",
    )?;
    assert!(matches!(store.task("T"), Err(Error::InvalidRow { column: "percent_complete", .. })));
    Ok(())
}

#[test]
fn lists_are_filtered_and_limited_in_document_order() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    let filter = ListFilter::default().status("paused").limit(2);
    let ids: Vec<_> = store.tasks(&filter)?.into_iter().map(|task| task.id).collect();
    assert_eq!(ids, ["task-3", "task-8"]);
    assert_eq!(store.agents(&ListFilter::default())?.len(), 5);
    assert_eq!(store.projects(&ListFilter::default().status("active"))?.len(), 1);
    assert_eq!(store.conversations(&ListFilter::default().limit(1))?[0].id, "conv-0");
    Ok(())
}

#[test]
fn new_entities_go_to_the_end_and_known_ones_stay_in_place() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    for id in ["b", "a", "c", "a"] {
        store.update_task(&task(id, TaskStatus::Pending))?;
    }
    let ids: Vec<_> = store.state()?.tasks.into_iter().map(|task| task.id).collect();
    assert_eq!(ids, ["b", "a", "c"]);
    Ok(())
}

#[test]
fn the_mode_is_kept_and_absent_means_normal() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    assert_eq!(store.mode()?, OrchestratorMode::Normal);
    import(&store, &FIXTURE.replace(r#"  "mode": "normal","#, ""))?;
    assert_eq!((store.mode()?, store.state()?.mode), (OrchestratorMode::Normal, None));
    store.set_mode(&OrchestratorMode::OnboardingProvisioning)?;
    assert_eq!(store.state()?.mode, Some(OrchestratorMode::OnboardingProvisioning));
    Ok(())
}

#[test]
fn changes_since_the_last_checkpoint_are_known_whoever_made_them() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_task(&task("T-1", TaskStatus::Pending))?;
    store.update_agent(&agent("dev-1"))?;
    store.record_checkpoint(&CheckpointReason::UserRequest)?;
    assert!(store.changes()?.changes.is_empty());

    // A person's shell, in which foreign keys are off.
    let sql = base.sql()?;
    sql.pragma_update(None, "foreign_keys", false)?;
    sql.execute("UPDATE tasks SET status = 'paused' WHERE id = 'T-1'", [])?;
    store.update_project(&project("P-1"))?;
    store.remove_agent("dev-1")?;
    store.update_self_improvement(&SelfImprovementState {
        validation_checks: vec![ValidationCheck { name: "Build".into(), ..Default::default() }],
        ..Default::default()
    })?;
    let changes = store.changes()?.changes;
    let found: Vec<_> =
        changes.iter().map(|it| (it.change_type.clone(), it.id.as_str(), it.operation.clone())).collect();
    assert_eq!(
        found,
        [
            (ChangeType::Agent, "dev-1", ChangeOperation::Delete),
            (ChangeType::Project, "P-1", ChangeOperation::Add),
            (ChangeType::SelfImprovement, "", ChangeOperation::Add),
            (ChangeType::Task, "T-1", ChangeOperation::Update),
        ]
    );
    assert_eq!(changes[3].data.as_ref().expect("the task")["status"], "paused");
    assert_eq!(changes[0].data, None);
    Ok(())
}

#[test]
fn what_was_added_and_removed_between_checkpoints_is_no_change() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_task(&task("T-1", TaskStatus::Pending))?;
    store.record_checkpoint(&CheckpointReason::UserRequest)?;
    store.update_conversation(&conversation("C-1", 0..3))?;
    store.remove_conversation("C-1")?;
    assert_eq!(store.changes()?.changes, []);
    store.remove_task("T-1")?;
    assert_eq!(store.changes()?.changes[0].operation, ChangeOperation::Delete);
    Ok(())
}

#[test]
fn an_import_is_a_change_of_each_of_its_entities() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let changes = || -> Result<Vec<_>, agentmux_state::Error> {
        Ok(store.changes()?.changes.into_iter().map(|it| (it.id, it.operation)).collect())
    };
    import(&store, FIXTURE)?;
    let state = store.state()?;
    let entities = [state.conversations.len(), state.tasks.len(), state.agents.len(), state.projects.len()];
    let imported = changes()?;
    assert_eq!(imported.len(), entities.iter().sum::<usize>() + usize::from(state.self_improvement.is_some()));
    assert!(imported.iter().all(|(_, operation)| *operation == ChangeOperation::Add), "{imported:?}");

    store.record_checkpoint(&CheckpointReason::UserRequest)?;
    store.update_task(&task("T-gone", TaskStatus::Pending))?;
    store.record_checkpoint(&CheckpointReason::UserRequest)?;
    let options = ImportOptions::default().mode(ImportMode::Replace);
    store.import_json(FIXTURE.as_bytes(), options)?;
    for (id, operation) in changes()? {
        let expected = if id == "T-gone" { ChangeOperation::Delete } else { ChangeOperation::Update };
        assert_eq!(operation, expected, "{id}");
    }

    // What comes after an import is noted by itself, also after one that failed in the middle.
    store.record_checkpoint(&CheckpointReason::UserRequest)?;
    let options = ImportOptions::default().mode(ImportMode::Replace);
    let reader = std::io::BufReader::new(FIXTURE.as_bytes().chain(Panics));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.import_json(reader, options))).expect_err("panic");
    assert_eq!(changes()?, []);
    store.update_task(&task("T-2", TaskStatus::Pending))?;
    assert_eq!(changes()?, [("T-2".to_owned(), ChangeOperation::Add)]);
    Ok(())
}

struct Panics;

impl Read for Panics {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        panic!("the caller's own")
    }
}

#[test]
fn every_kind_of_change_is_noticed() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let mut state = crate::common::task("T-1", TaskStatus::Pending);
    state.progress.blockers = Some(vec!["a".into()]);
    state.blocked_by = Some(vec!["T-0".into()]);
    state.progress.completed_steps = vec!["one".into()];
    state.checkpoint = Some(TaskCheckpoint {
        modified_files: Some(vec!["f".into()]),
        pending_actions: Some(vec!["p".into()]),
        ..Default::default()
    });
    store.update_task(&state)?;
    store.update_conversation(&conversation("C-1", 0..1))?;
    store.update_project(&agentmux_state::ProjectState {
        active_tasks: vec!["T-1".into()],
        active_agents: vec!["dev-1".into()],
        ..project("P-1")
    })?;
    store.update_agent(&AgentState { ..agent("dev-1") })?;
    import_self_improvement(&store)?;
    let sql = base.sql()?;
    for (table, column, kind) in [
        ("messages", "content", "conversation"),
        ("task_steps", "step", "task"),
        ("task_blockers", "blocker", "task"),
        ("task_dependencies", "other_task_id", "task"),
        ("task_checkpoints", "agent_context", "task"),
        ("task_checkpoint_files", "path", "task"),
        ("task_checkpoint_actions", "action", "task"),
        ("agents", "role", "agent"),
        ("project_tasks", "task_id", "project"),
        ("project_agents", "session_name", "project"),
        ("self_improvement_target_files", "path", "self_improvement"),
        ("self_improvement_planned_changes", "file", "self_improvement"),
        ("self_improvement_backup_files", "path", "self_improvement"),
        ("self_improvement_checks", "name", "self_improvement"),
        ("self_improvement_rollback_steps", "step", "self_improvement"),
        ("state", "mode", "mode"),
    ] {
        store.record_checkpoint(&CheckpointReason::UserRequest)?;
        assert!(sql.execute(&format!("UPDATE {table} SET {column} = 'other'"), [])? > 0, "{table} holds a row");
        let kinds: Vec<_> = store.changes()?.changes.into_iter().map(|it| it.change_type.to_string()).collect();
        assert_eq!(kinds, [kind], "{table}");
    }
    Ok(())
}

fn import_self_improvement(store: &StateStore) -> TestResult {
    let fixture: agentmux_state::OrchestratorState = serde_json::from_str(FIXTURE)?;
    Ok(store.update_self_improvement(&fixture.self_improvement.expect("the fixture has it"))?)
}

#[test]
fn readers_never_wait_for_a_writer_and_see_one_moment() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_task(&task("T-1", TaskStatus::Pending))?;
    let (inside, read) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| -> TestResult {
        scope.spawn(|| {
            store.batch(|batch| {
                batch.update_task(&task("T-2", TaskStatus::Pending))?;
                inside.wait();
                read.wait();
                Ok::<_, Error>(())
            })
        });
        inside.wait();
        // A reader that waited for the writer would never get past this line.
        let tasks = store.state()?.tasks.len();
        read.wait();
        assert_eq!(tasks, 1);
        Ok(())
    })?;
    assert_eq!(store.state()?.tasks.len(), 2);
    Ok(())
}

#[test]
fn many_threads_write_and_read_at_once() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let ends = Ends(&done);
        let reader = scope.spawn(|| -> agentmux_state::Result<()> {
            while !done.load(Ordering::Relaxed) {
                // Each task is written together with an agent of its name.
                let state = store.state()?;
                assert_eq!(state.tasks.len(), state.agents.len());
            }
            Ok(())
        });
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let store = store.clone();
                scope.spawn(move || {
                    (0..25).try_for_each(|number| {
                        let name = format!("{writer}-{number}");
                        store.batch(|batch| {
                            batch.update_task(&task(&name, TaskStatus::Pending))?;
                            batch.update_agent(&agent(&name))
                        })
                    })
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("no panic").expect("no error");
        }
        drop(ends);
        reader.join().expect("no panic").expect("no error");
    });
    assert_eq!(store.state()?.tasks.len(), 200);
    Ok(())
}

#[test]
fn a_store_for_reading_changes_nothing() -> TestResult {
    let base = Base::new()?;
    assert!(matches!(StateStore::open_read_only(base.state_dir()), Err(Error::NoDatabase { .. })));
    assert!(!base.state_dir().exists(), "nothing is made");
    base.store()?.update_task(&task("T-1", TaskStatus::Pending))?;
    let store = StateStore::open_read_only(base.state_dir())?;
    assert!(store.task("T-1")?.is_some());
    assert!(matches!(store.remove_task("T-1"), Err(Error::ReadOnly { .. })));
    Ok(())
}

#[test]
fn files_that_are_no_state_database_are_refused_untouched() -> TestResult {
    let base = Base::new()?;
    std::fs::create_dir_all(base.state_dir())?;
    let refused = |content: &[u8], expected: &str| -> TestResult {
        std::fs::write(base.file("state.db"), content)?;
        let error = base.store().map(drop).expect_err(expected);
        assert!(matches!(error, Error::NotAStateDatabase { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(std::fs::read(base.file("state.db"))?, content);
        Ok(())
    };
    refused(b"", "the file is empty")?;
    refused("no database at all, but a text ".repeat(100).as_bytes(), "no SQLite file")?;
    let other = base.path().join("other.db");
    Connection::open(&other)?.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)")?;
    refused(&std::fs::read(other)?, "another program's SQLite database")?;

    // A log without its database is a loss, not a beginning.
    std::fs::remove_file(base.file("state.db"))?;
    std::fs::write(base.file("state.db-wal"), b"frames")?;
    assert!(matches!(base.store().map(drop), Err(Error::Corrupt { .. })));
    assert!(!base.file("state.db").exists());
    Ok(())
}

#[test]
fn a_database_ahead_of_this_release_or_with_a_damaged_history_is_refused() -> TestResult {
    let base = Base::new()?;
    base.store()?;
    let damage = |sql: &str| base.sql()?.execute_batch(sql);
    let add = "INSERT INTO refinery_schema_history VALUES (99, 'future', '2026-11-22T10:00:00Z', '1')";
    damage(add)?;
    assert!(matches!(base.store().map(drop), Err(Error::SchemaTooNew { found: 99, .. })));
    let cases = [
        "DELETE FROM refinery_schema_history WHERE version = 99; UPDATE refinery_schema_history SET checksum = '7' WHERE version = 1",
        "UPDATE refinery_schema_history SET applied_on = 'yesterday'",
        "UPDATE refinery_schema_history SET checksum = NULL",
        "DELETE FROM refinery_schema_history WHERE version = 1",
        "DELETE FROM refinery_schema_history",
        "DROP TABLE refinery_schema_history",
    ];
    for sql in cases {
        damage(sql)?;
        assert!(matches!(base.store().map(drop), Err(Error::HistoryDamaged { .. })), "{sql}");
    }
    Ok(())
}

#[test]
fn a_link_in_place_of_the_database_is_refused() -> TestResult {
    let (base, elsewhere) = (Base::new()?, Base::new()?);
    elsewhere.store()?;
    std::fs::create_dir_all(base.state_dir())?;
    std::os::unix::fs::symlink(elsewhere.file("state.db"), base.file("state.db"))?;
    assert!(base.store().is_err());
    // The directory itself may be reached through one, as a home directory often is.
    let link = base.path().join("link");
    std::os::unix::fs::symlink(elsewhere.state_dir(), &link)?;
    StateStore::open(&link)?;
    Ok(())
}

#[test]
fn directories_and_files_are_private_whatever_the_umask() -> TestResult {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    let base = Base::new()?;
    let script = format!(
        "umask 000; exec '{}' --state-dir '{}' import tests/fixtures/current-state.json",
        env!("CARGO_BIN_EXE_agentmux-state"),
        base.state_dir().display()
    );
    assert!(Command::new("sh").args(["-c", &script]).status()?.success());
    base.store()?.refresh_export()?;
    base.store()?.backups().create("x")?;
    let mode = |path: &std::path::Path| path.metadata().map(|it| it.permissions().mode() & 0o777);
    let mut files = 0;
    for directory in
        [base.path().join(".agentmux"), base.state_dir(), base.file("backups"), base.file("self-improvement")]
    {
        assert_eq!(mode(&directory)?, 0o700, "{}", directory.display());
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_file() {
                files += 1;
                assert_eq!(mode(&path)?, 0o600, "{}", path.display());
            }
        }
    }
    assert!(files >= 5, "the database, the export, the lock, a backup and its checksum");
    Ok(())
}

#[test]
fn eight_stores_that_make_one_database_at_once_all_work() -> TestResult {
    for _ in 0..5 {
        let base = Base::new()?;
        let start = Barrier::new(8);
        thread::scope(|scope| {
            let openers: Vec<_> = (0..8)
                .map(|number| {
                    let (base, start) = (&base, &start);
                    scope.spawn(move || {
                        start.wait();
                        base.store()?.update_task(&task(&number.to_string(), TaskStatus::Pending))
                    })
                })
                .collect();
            for opener in openers {
                opener.join().expect("no panic").expect("no error");
            }
        });
        assert_eq!(base.store()?.state()?.tasks.len(), 8);
    }
    Ok(())
}

#[test]
fn exports_at_once_never_leave_a_part() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    store.refresh_export()?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| -> TestResult {
        let ends = Ends(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let document = std::fs::read_to_string(base.file("current-state.json")).expect("the export is there");
                serde_json::from_str::<serde_json::Value>(&document).expect("the export is whole");
            }
        });
        let exporters: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..20).try_for_each(|_| store.refresh_export().map(drop)))).collect();
        for exporter in exporters {
            exporter.join().expect("no panic")?;
        }
        drop(ends);
        Ok(())
    })?;
    assert_eq!(base.backups()?, [""; 0], "our own export is not kept before it is replaced");
    thread::sleep(Duration::from_millis(10));
    let edited = FIXTURE.replace("conv-0", "conv-edited");
    std::fs::write(base.file("current-state.json"), &edited)?;
    store.refresh_export()?;
    let kept = base.backups()?;
    assert_eq!(kept.len(), 1, "somebody else's file is");
    assert_eq!(std::fs::read_to_string(base.file("backups").join(&kept[0]))?, edited);
    Ok(())
}

#[test]
fn backups_hold_one_moment_and_carry_their_checksum() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    import(&store, FIXTURE)?;
    let backup = store.backups().create("vor dem Umbau: α/β")?;
    store.remove_task("task-1")?;
    assert!(backup.id.starts_with("backup-") && backup.id.ends_with("-vor-dem-Umbau-----"), "{}", backup.id);
    let copy = Connection::open(&backup.path)?;
    let label: String = copy.query_row("SELECT label FROM backup", [], |row| row.get(0))?;
    assert_eq!(label, "vor dem Umbau: α/β");
    let tasks: i64 = copy.query_row("SELECT count(*) FROM tasks", [], |row| row.get(0))?;
    assert_eq!(tasks, 24);
    let checksum = std::fs::read_to_string(base.file("backups").join(format!("{}.db.sha256", backup.id)))?;
    assert_eq!(checksum, format!("{}  {}.db\n", backup.sha256.expect("a checksum"), backup.id));
    assert_ne!(store.backups().create("again")?.id, store.backups().create("again")?.id);
    Ok(())
}

#[test]
fn timestamps_are_parsed_alike_by_the_library_and_by_sqlite() -> TestResult {
    let base = Base::new()?;
    base.store()?;
    let sql = base.sql()?;
    for text in [
        "2026-11-22T10:00:00.000Z",
        "2026-11-20T09:30:00+02:00",
        "2026-11-20",
        "2026-11-20T07:59:00Z",
        "2026-11-20T07:59:00.123456z",
        "2026-11-20T07:59:00-14:00",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
    ] {
        let at = Timestamp::from(text).parse().unwrap_or_else(|| panic!("{text}"));
        let seconds: i64 = sql.query_row("SELECT unixepoch(?1)", [text], |row| row.get(0))?;
        assert_eq!(at.timestamp(), seconds, "{text}");
    }
    for text in [
        "",
        "now",
        "yesterday",
        "12:00",
        "1732269600",
        "2026-11-22 10:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-12-31T23:59:60Z",
        "2026-11-20T00:00:00+23:00",
        "２026-11-20",
        "2026-11-22T10:00",
    ] {
        assert_eq!(Timestamp::from(text).parse(), None, "{text}");
    }
    Ok(())
}

#[test]
fn messages_become_what_an_update_says_whatever_was_there() -> TestResult {
    let message = |content: char| PersistedMessage { content: content.into(), ..PersistedMessage::default() };
    let conversation = |id: String, contents: &str| ConversationState {
        id,
        recent_messages: contents.chars().map(message).collect(),
        ..ConversationState::default()
    };
    // All lists of up to four messages of two kinds: equal ones, overlapping ones, cut at either end.
    let mut lists = vec![String::new()];
    for length in 1..=4_u32 {
        let list = |bits: u32| (0..length).map(|at| if bits >> at & 1 == 0 { 'a' } else { 'b' }).collect();
        lists.extend((0..1 << length).map(list));
    }
    let pairs = || lists.iter().flat_map(|before| lists.iter().map(move |after| (before, after)));
    let base = Base::new()?;
    let store = base.store()?;
    store.batch(|batch| {
        for (before, after) in pairs() {
            let id = || format!("{before}, {after}");
            batch.update_conversation(&conversation(id(), before))?;
            batch.update_conversation(&conversation(id(), after))?;
        }
        Ok::<_, Error>(())
    })?;
    for (before, after) in pairs() {
        let id = format!("{before}, {after}");
        assert_eq!(store.conversation(&id)?, Some(conversation(id, after)));
    }
    Ok(())
}

/// Eight threads add to one number: none of the additions is lost, as each reads and writes in one transaction.
#[test]
fn modifications_of_one_task_by_many_threads_all_count() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    store.update_task(&TaskState::new("T-1", "Count"))?;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..25 {
                        store.modify_task("T-1", |task| task.progress.percent_complete += 0.5)?;
                    }
                    Ok::<_, Error>(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })?;
    assert_eq!(store.task("T-1")?.expect("it is there").progress.percent_complete, 100.0);

    let error = store.modify_task("T-2", |_| ()).expect_err("there is none");
    assert!(matches!(error, Error::NotFound { kind: agentmux_state::EntityKind::Task, .. }), "{error:?}");
    let error = store.modify_task("T-1", |task| task.id = "T-2".into()).expect_err("a key stays");
    assert!(matches!(error, Error::InvalidValue { .. }), "{error:?}");
    store.update_agent(&AgentState::new("dev-1", "developer"))?;
    store.batch(|batch| {
        batch.modify_agent("dev-1", |agent| agent.current_task_id = Some("T-1".into()))?;
        assert_eq!(batch.agent("dev-1")?.expect("it is there").current_task_id.as_deref(), Some("T-1"));
        Ok::<_, Error>(())
    })?;
    Ok(())
}

/// What no caller can mean is refused; what came with a document stays as long as nobody changes it.
#[test]
fn an_empty_key_and_a_percentage_out_of_range_are_refused() -> TestResult {
    let base = Base::new()?;
    let store = base.store()?;
    let is_refused = |result: agentmux_state::Result<()>| matches!(result, Err(Error::InvalidValue { .. }));
    assert!(is_refused(store.update_task(&TaskState::default())));
    assert!(is_refused(store.update_agent(&AgentState::default())));
    assert!(is_refused(store.update_project(&agentmux_state::ProjectState::default())));
    assert!(is_refused(store.update_conversation(&ConversationState::default())));
    for percent in [-0.5, 100.5, f64::NAN, f64::INFINITY] {
        let mut task = TaskState::new("T-1", "Count");
        task.progress.percent_complete = percent;
        assert!(is_refused(store.update_task(&task)), "{percent}");
    }
    assert_eq!(store.summary()?.counts.entities(), 0);

    let document = r#"{"version": "1.0.0", "tasks": [{"id": "T-1", "title": "Of a document", "description": "",
        "status": "pending", "priority": "low", "progress": {"percentComplete": 150}, "createdAt": ""}]}"#;
    store.import_json(document.as_bytes(), ImportOptions::default())?;
    store.modify_task("T-1", |task| task.title = "Renamed".into())?;
    assert!(is_refused(store.modify_task("T-1", |task| task.progress.percent_complete = 160.0)));
    store.modify_task("T-1", |task| task.progress.percent_complete = 60.0)?;
    Ok(())
}

/// Lists in pages, by the latest activity, and one entity at a time until the caller has enough.
#[test]
fn long_lists_are_read_in_parts() -> TestResult {
    use std::ops::ControlFlow;

    use agentmux_state::{Interrupt, ListFilter, ListOrder};

    let base = Base::new()?;
    let store = base.store()?;
    for number in 0..10 {
        let mut task = TaskState::new(format!("T-{number}"), "Some work");
        task.last_activity_at = Some(format!("2026-11-0{}T00:00:00.000Z", number % 9 + 1).into());
        store.update_task(&task)?;
    }
    let ids = |filter: ListFilter| -> agentmux_state::Result<Vec<String>> {
        Ok(store.tasks(&filter)?.into_iter().map(|task| task.id).collect())
    };
    assert_eq!(ids(ListFilter::default().offset(8).limit(5))?, ["T-8", "T-9"]);
    assert_eq!(ids(ListFilter::default().order(ListOrder::LastActivity).limit(2))?, ["T-8", "T-7"]);
    let mut seen = 0;
    store.each_task(&ListFilter::default(), |_| {
        seen += 1;
        if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    assert_eq!(seen, 3);

    let interrupt = Interrupt::new();
    let watched = store.interruptible(&interrupt);
    let read = watched.each_task(&ListFilter::default(), |_| {
        interrupt.interrupt();
        ControlFlow::Continue(())
    });
    // So few rows may be read before SQLite looks; the next read fails in any case.
    assert!(matches!(read, Ok(()) | Err(Error::Interrupted { .. })));
    assert!(matches!(watched.state(), Err(Error::Interrupted { .. })));
    assert!(store.state().is_ok(), "reads through another clone go on");
    interrupt.reset();
    assert!(watched.state().is_ok());
    Ok(())
}
