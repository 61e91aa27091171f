//! What the processes do that are killed, cut off and refused: every operation, each told before and after.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::Duration;

use agentmux_state::{
    AgentState, CheckpointReason, ConversationState, Durability, Error, ImportMode, ImportOptions, PersistedMessage,
    ProjectState, PruneOptions, Result, ServiceOptions, StatePersistenceService, StateStore, TaskProgress, TaskState,
    TaskStatus,
};

use super::Random;
use crate::common::TestResult;
use crate::common::role::say;

type Operation = fn(&Actor, u64) -> Result<()>;

/// Every operation, and how often it comes up among the others.
const OPERATIONS: &[(&str, u32, Operation)] = &[
    ("update", 30, update),
    ("append", 20, append),
    ("batch", 20, batch),
    ("remove", 10, remove),
    ("refused", 10, refused),
    ("import --merge", 5, merge),
    ("import --replace", 2, replace),
    ("checkpoint and export", 8, checkpoint),
    ("backup", 2, backup),
    ("restore", 2, restore),
    ("backup prune", 1, remove_backups),
    ("prune", 3, prune),
];

/// Those that are one small transaction.
const SMALL: [&str; 5] = ["update", "append", "batch", "remove", "refused"];

/// Those for who is alone: they take the place of everything.
const FOR_ONE: [&str; 4] = ["import --replace", "restore", "backup prune", "prune"];

/// Somebody who writes entities of its own: their keys begin with its name.
pub struct Actor {
    pub name: String,
    pub store: StateStore,
    /// `None` where it works on the store alone.
    pub service: Option<StatePersistenceService>,
    /// Whether it tries again what failed, after a look at what is there.
    pub persists: bool,
}

impl Actor {
    fn say(&self, what: &str) {
        say(&format!("{} {what}", self.name));
    }

    fn key(&self, key: &str) -> String {
        format!("{}-{key}", self.name)
    }

    /// Tries a step: says which keys get which numbers (none: removed), does it, says so.
    fn step(&self, changes: &[(&str, Option<u64>)], work: impl Fn() -> Result<String>) -> Result<()> {
        let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
        let changes: String = changes.iter().map(|(key, to)| format!(" {}={}", self.key(key), number(*to))).collect();
        self.say(&format!("try{changes}"));
        let result = self.persist(&work)?;
        self.say(&format!("did {result}"));
        Ok(())
    }

    /// Tries again what failed: after a read, which must work.
    fn persist<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        const ATTEMPTS: u32 = 8;
        let mut attempt = 1;
        loop {
            match work() {
                Err(error) if self.persists && attempt < ATTEMPTS => {
                    self.say(&format!("failed {}: {error}", kind(&error)));
                    self.store.state()?;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn perform(&self, name: &str, operation: Operation, number: u64) -> Result<()> {
        self.say(&format!("begin {name}"));
        operation(self, number)
    }
}

/// The kind of an error: the name of its variant.
pub fn kind(error: &Error) -> String {
    let text = format!("{error:?}");
    text.split([' ', '{', '(']).next().unwrap_or_default().to_owned()
}

/// The end of the key of a task that was completed long ago.
const PRUNED: &str = "-completed-long-ago";

/// A task with rows in every table that tasks have; all of it follows from its id and its number.
pub fn task(id: &str, number: &str) -> TaskState {
    let is_old = id.ends_with(PRUNED);
    TaskState {
        id: id.into(),
        title: format!("Title {number}"),
        description: number.repeat(40),
        status: if is_old { TaskStatus::Completed } else { number.into() },
        completed_at: is_old.then(|| "2020-01-01T00:00:00.000Z".into()),
        progress: TaskProgress { completed_steps: vec![number.into(); 3], ..TaskProgress::default() },
        blocked_by: Some(vec![format!("blocker {number}")]),
        created_at: "2026-11-22T09:00:00.000Z".into(),
        ..TaskState::default()
    }
}

pub fn agent(session_name: &str, number: &str) -> AgentState {
    AgentState {
        session_name: session_name.into(),
        agent_id: number.into(),
        role: "developer".into(),
        context_summary: Some(number.into()),
        ..AgentState::default()
    }
}

pub fn project(id: &str, number: &str) -> ProjectState {
    ProjectState {
        id: id.into(),
        name: number.into(),
        path: format!("/srv/{number}"),
        active_tasks: vec![number.into(); 2],
        ..ProjectState::default()
    }
}

fn message(number: u64) -> PersistedMessage {
    let timestamp = "2026-11-22T10:00:00.000Z".into();
    PersistedMessage { content: number.to_string(), timestamp, ..PersistedMessage::default() }
}

fn update(actor: &Actor, number: u64) -> Result<()> {
    let n = number.to_string();
    match number % 3 {
        0 => actor.step(&[("agent", Some(number))], || {
            actor.store.update_agent(&agent(&actor.key("agent"), &n)).map(|()| String::new())
        }),
        1 => actor.step(&[("project", Some(number))], || {
            actor.store.update_project(&project(&actor.key("project"), &n)).map(|()| String::new())
        }),
        _ => {
            let key = format!("task-{}", number % 20);
            actor.step(&[(&key, Some(number))], || {
                actor.store.update_task(&task(&actor.key(&key), &n)).map(|()| String::new())
            })
        }
    }
}

/// Messages are numbered by themselves, from 0, so that a missing one is noticed.
fn append(actor: &Actor, _: u64) -> Result<()> {
    let id = actor.key("talk");
    let last = actor.persist(|| actor.store.conversation(&id))?;
    let last = last.and_then(|it| it.recent_messages.last().map(|message| message.content.clone()));
    let Some(next) = last.map(|content| content.parse::<u64>().unwrap_or_default() + 1) else {
        let conversation = ConversationState { id, recent_messages: vec![message(0)], ..ConversationState::default() };
        return actor
            .step(&[("talk", Some(0))], || actor.store.update_conversation(&conversation).map(|()| String::new()));
    };
    actor.step(&[("talk", Some(next))], || actor.store.append_message(&id, &message(next)).map(|()| String::new()))
}

fn batch(actor: &Actor, number: u64) -> Result<()> {
    let n = number.to_string();
    actor.step(&[("left", Some(number)), ("right", Some(number)), ("middle", Some(number))], || {
        actor.store.batch(|batch| {
            batch.update_task(&task(&actor.key("left"), &n))?;
            batch.update_agent(&agent(&actor.key("middle"), &n))?;
            batch.update_task(&task(&actor.key("right"), &n)).map(|()| String::new())
        })
    })
}

/// Adds a task where it is not there, else removes it.
fn remove(actor: &Actor, number: u64) -> Result<()> {
    let id = actor.key("comes-and-goes");
    if actor.persist(|| actor.store.task(&id))?.is_none() {
        let task = task(&id, &number.to_string());
        return actor
            .step(&[("comes-and-goes", Some(number))], || actor.store.update_task(&task).map(|()| String::new()));
    }
    actor.step(&[("comes-and-goes", None)], || actor.store.remove_task(&id).map(|_| String::new()))
}

/// A batch that its own closure gives up: nothing of it may stay, whoever shares its transaction.
fn refused(actor: &Actor, number: u64) -> Result<()> {
    let id = actor.key("refused");
    let give_up = || Error::NotFound { kind: agentmux_state::EntityKind::Task, id: id.clone() };
    actor.step(&[], || {
        let result = actor.store.batch(|batch| {
            batch.update_task(&task(&id, &number.to_string()))?;
            Err::<(), _>(give_up())
        });
        match result {
            Err(Error::NotFound { .. }) => Ok(String::new()),
            Err(error) => Err(error),
            Ok(()) => unreachable!("it was given up"),
        }
    })
}

fn import(actor: &Actor, document: &[u8], mode: ImportMode) -> Result<String> {
    let options = ImportOptions::default().mode(mode).source_name("document".into());
    actor.store.import_json(document, options).map(|_| String::new())
}

fn merge(actor: &Actor, number: u64) -> Result<()> {
    let n = number.to_string();
    let tasks: Vec<_> = (0..4).map(|index| task(&actor.key(&format!("imported-{index}")), &n)).collect();
    let document = serde_json::json!({"version": "1.0.0", "tasks": tasks}).to_string();
    let keys: Vec<_> = (0..4).map(|index| format!("imported-{index}")).collect();
    let changes: Vec<_> = keys.iter().map(|key| (key.as_str(), Some(number))).collect();
    actor.step(&changes, || import(actor, document.as_bytes(), ImportMode::Merge))
}

/// Replaces the state by itself and a task more. Only for who is alone.
fn replace(actor: &Actor, number: u64) -> Result<()> {
    let mut state = actor.persist(|| actor.store.state())?;
    let id = actor.key("replaced");
    state.tasks.retain(|task| task.id != id);
    state.tasks.push(task(&id, &number.to_string()));
    let document = serde_json::to_vec(&state).expect("the state is JSON");
    actor.step(&[("replaced", Some(number))], || import(actor, &document, ImportMode::Replace))
}

fn checkpoint(actor: &Actor, _: u64) -> Result<()> {
    actor.step(&[], || {
        match &actor.service {
            Some(service) => service.save_state(CheckpointReason::Scheduled).map(drop)?,
            None => actor.store.record_checkpoint(&CheckpointReason::Scheduled).map(drop)?,
        }
        actor.store.refresh_export().map(|_| "export".into())
    })
}

fn backup(actor: &Actor, number: u64) -> Result<()> {
    actor.step(&[], || actor.store.backups().create(&number.to_string()).map(|backup| format!("backup {}", backup.id)))
}

/// Goes back over an update. Only for who is alone.
fn restore(actor: &Actor, number: u64) -> Result<()> {
    let backup = actor.persist(|| actor.store.backups().create("good"))?.id;
    let key = format!("doomed-{number}");
    let task = task(&actor.key(&key), &number.to_string());
    actor.step(&[(&key, Some(number))], || actor.store.update_task(&task).map(|()| String::new()))?;
    actor.step(&[(&key, None)], || actor.store.backups().restore(&backup).map(|_| String::new()))
}

fn remove_backups(actor: &Actor, _: u64) -> Result<()> {
    let keep = agentmux_state::Retention::default().last(3);
    actor.say("remove_backups");
    actor.step(&[], || {
        actor.store.backups().prune(&keep, false).map(|report| format!("backup {}", report.kept.join(" ")))
    })
}

/// Adds a task that was completed long ago, and drops what was, and gives the space back.
fn prune(actor: &Actor, number: u64) -> Result<()> {
    let key = &PRUNED[1..];
    let task = task(&actor.key(key), &number.to_string());
    actor.step(&[(key, Some(number))], || actor.store.update_task(&task).map(|()| String::new()))?;
    let options = PruneOptions::default().completed_before("2021-01-01T00:00:00Z".parse().ok());
    actor.step(&[(key, None)], || actor.store.prune(&options).map(|_| String::new()))
}

fn service(base: &Path, checkpoint_interval: Option<Duration>, durability: Durability) -> StatePersistenceService {
    StatePersistenceService::with_options(
        ServiceOptions::default()
            .base_dir(Some(base.to_path_buf()))
            .checkpoint_interval(checkpoint_interval)
            .backup_interval(None)
            .durability(durability),
    )
}

/// An operation by its weight; `alone` also those for who is alone.
fn any(random: &mut Random, is_alone: bool) -> (&'static str, Operation) {
    let total: u32 = OPERATIONS.iter().map(|(_, weight, _)| weight).sum();
    loop {
        let mut at = random.below(total as usize) as u32;
        for (name, weight, operation) in OPERATIONS {
            if at < *weight {
                if is_alone || !FOR_ONE.contains(name) {
                    return (name, *operation);
                }
                break;
            }
            at -= weight;
        }
    }
}

/// The role that does everything, in any order, until it is killed. Its arguments: a seed, and the number to begin with.
pub fn for_ever(base: &Path, arguments: &str) -> TestResult {
    let [seed, first] = numbers(arguments);
    let service = service(base, Some(Duration::from_millis(15)), Durability::Full);
    service.initialize()?;
    say("ready");
    let actor = Actor { name: "W".into(), store: service.store()?, service: Some(service), persists: false };
    let mut random = Random(seed);
    for number in first.. {
        let (name, operation) = any(&mut random, true);
        actor.perform(name, operation, number)?;
    }
    Ok(())
}

/// The role of several threads that write, so that they share commits, beside one that checkpoints, exports and backs up.
pub fn in_threads(base: &Path, arguments: &str) -> TestResult {
    let [seed, first] = numbers(arguments);
    let service = service(base, Some(Duration::from_millis(15)), Durability::Full);
    service.initialize()?;
    let store = service.store()?;
    say("ready");
    thread::scope(|scope| {
        for thread in 0..6 {
            let actor = Actor { name: format!("G{thread}"), store: store.clone(), service: None, persists: false };
            scope.spawn(move || {
                let mut random = Random(seed + thread);
                for number in first.. {
                    let (name, operation) = loop {
                        let any = any(&mut random, false);
                        if random.below(20) == 0 || SMALL.contains(&any.0) {
                            break any;
                        }
                    };
                    if let Err(error) = actor.perform(name, operation, number) {
                        say(&format!("error {error}"));
                        std::process::exit(1);
                    }
                }
            });
        }
    });
    Ok(())
}

/// The role that does everything once, in order, and shuts down. Its arguments: the number to begin with, and words:
/// `normal` for less durability, `persists` for who tries again, `long` for more than once.
pub fn script(base: &Path, arguments: &str) -> TestResult {
    let words: BTreeSet<_> = arguments.split(' ').collect();
    let first: u64 = arguments.split(' ').next().unwrap_or_default().parse()?;
    let durability = if words.contains("normal") { Durability::Normal } else { Durability::Full };
    let service = service(base, None, durability);
    let persists = words.contains("persists");
    say("ready");
    while let Err(error) = service.initialize() {
        if !persists {
            return Err(error.into());
        }
        say(&format!("W failed {}: {error}", kind(&error)));
    }
    let actor = Actor { name: "W".into(), store: service.store()?, service: Some(service.clone()), persists };
    let mut number = first;
    for (name, _, operation) in OPERATIONS {
        let times = if SMALL.contains(name) { 3 } else { 1 };
        for _ in 0..times {
            actor.perform(name, *operation, number)?;
            number += 1;
        }
        if !SMALL.contains(name) {
            actor.perform("update", update, number)?;
            number += 1;
        }
    }
    actor.perform(
        "shutdown",
        |actor, _| {
            let calls = Cell::new(0);
            actor.step(&[], || {
                calls.set(calls.get() + 1);
                let service = actor.service.as_ref().expect("it has one");
                // Where only the export failed, the run has ended all the same, and a second call does nothing.
                service.prepare_for_shutdown().map(|()| if calls.get() == 1 { "export".into() } else { String::new() })
            })
        },
        number,
    )?;
    say("done");
    Ok(())
}

pub fn numbers<const N: usize>(arguments: &str) -> [u64; N] {
    let mut numbers = arguments.split(' ').map(|word| word.parse().expect("a number"));
    std::array::from_fn(|_| numbers.next().expect("a number"))
}
