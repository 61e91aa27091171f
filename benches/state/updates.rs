//! What one durable update costs: beside one row written and committed by SQLite itself, beside a large state, beside the
//! file that was rewritten for each, and shared by several threads.

use std::fs::File;
use std::io::{Seek, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use agentmux_state::{ConversationState, PersistedMessage, StateStore};
use rusqlite::Connection;

use crate::data::{self, MESSAGES, Tasks, fill, shuffled};
use crate::measure::{Group, Result, Target, Turn, Unit, in_turns, timed};
use crate::node::Node;

/// Until the logs have grown to their size: as long as a log grows, each commit also waits for the file system's own.
const WARM_UP: Range<usize> = 0..1000;
const ROUNDS: Range<usize> = 1000..3000;

pub(crate) fn beside_sqlite(dir: &Path) -> Result<Group> {
    let raw = raw(&dir.join("raw.db"))?;
    let synced = File::create(dir.join("synced"))?;
    let store = &StateStore::open(dir.join("updates"))?;
    let state = State { store, conversations: 20, tasks: 100 };
    state.fill()?;
    let mut short = ConversationState { id: "short".into(), ..ConversationState::default() };
    let short_message =
        |n: usize| PersistedMessage { content: format!("message {n} of some length"), ..Default::default() };
    short.recent_messages = (0..MESSAGES).map(short_message).collect();
    store.update_conversation(&short)?;
    store.update_conversation(&ConversationState { id: "appended to".into(), ..short.clone() })?;

    let mut measure = |rounds: Range<usize>| {
        let [task, message, conversation] = state.turns();
        let (mut synced, short) = (synced.try_clone()?, &mut short);
        in_turns(
            rounds,
            [
                Box::new(move |_| {
                    Ok(timed(|| {
                        synced.rewind()?;
                        synced.write_all(&[7; 4096])?;
                        synced.sync_data()
                    })?)
                }),
                Box::new(|round| Ok(timed(|| upsert(&raw, round, 1))?)),
                task,
                Box::new(|round| {
                    let message = short_message(round);
                    Ok(timed(|| store.append_message("appended to", &message))?)
                }),
                Box::new(move |round| {
                    short.recent_messages.remove(0);
                    short.recent_messages.push(short_message(round));
                    Ok(timed(|| store.update_conversation(short))?)
                }),
                Box::new(|round| Ok(timed(|| upsert(&raw, round, PAGES))?)),
                message,
                conversation,
            ],
        )
    };
    measure(WARM_UP)?;
    let [fsync, one, task, short_message, short, five, message, conversation] = measure(ROUNDS)?;

    let mut group = Group::new("One durable update, `synchronous=FULL`", Unit::Microseconds);
    group.times("raw fsync of 4 KB", &fsync);
    let floor = group.in_unit(one.median());
    group.times("raw upsert and commit", &one).over("raw upsert", floor);
    group.times("update_task, one field changed", &task).over("raw upsert", floor).target(Target::AtMost(1.3));
    group.times("append_message", &short_message).over("raw upsert", floor).target(Target::AtMost(1.3));
    let name = "update_conversation, 50 short messages, one new";
    group.times(name, &short).over("raw upsert", floor).target(Target::AtMost(1.5));
    group.times(format!("raw upsert of {PAGES} rows on as many pages, and commit"), &five).over("raw upsert", floor);
    let floor = group.in_unit(five.median());
    let any = "any of 20 conversations, messages of 400 bytes";
    group.times(format!("append_message, {any}"), &message).over("raw upsert of pages", floor);
    group.times(format!("update_conversation, {any}"), &conversation).over("raw upsert of pages", floor);
    Ok(group)
}

pub(crate) fn beside_a_large_state(dir: &Path, large: &State<'_>) -> Result<Group> {
    let store = StateStore::open(dir.join("small"))?;
    let small = State { store: &store, conversations: 20, tasks: 100 };
    small.fill()?;
    let turns = || {
        let ([a, c, e], [b, d, f]) = (small.turns(), large.turns());
        [a, b, c, d, e, f]
    };
    in_turns(WARM_UP, turns())?;
    let [task, large_task, message, large_message, conversation, large_conversation] = in_turns(ROUNDS, turns())?;
    let mut group = Group::new(
        format!(
            "One durable update, any record: {} messages and {} tasks, beside 1,000 and 100",
            large.conversations * MESSAGES,
            large.tasks
        ),
        Unit::Microseconds,
    );
    let pairs = [
        ("update_task", task, large_task),
        ("append_message", message, large_message),
        ("update_conversation", conversation, large_conversation),
    ];
    for (name, small, large) in &pairs {
        group.times(format!("{name}, small"), small);
        let floor = group.in_unit(small.median());
        group.times(format!("{name}, large"), large).over("small", floor).target(Target::AtMost(1.2));
    }
    Ok(group)
}

pub(crate) fn beside_the_file(dir: &Path, node: &mut Node) -> Result<Group> {
    const UPDATES: usize = 20;
    let mut group = Group::new("One durable update, beside the file that was rewritten for each", Unit::Milliseconds);
    for (conversations, tasks, rounds, target) in [(10, 50, 200, 15.0), (100, 500, 60, 100.0), (1000, 5000, 20, 1500.0)]
    {
        let store = StateStore::open(dir.join(format!("legacy-{tasks}")))?;
        fill(&store, conversations, tasks, Tasks::Mixed)?;
        let file = dir.join("legacy.json");
        let bytes = store.export_to(&file)?.bytes;
        node.load(&file)?;
        let [rewrite, update] = in_turns(
            0..rounds,
            [
                Box::new(|_| node.save(&file)),
                // Several, as the first one after so large a write finds nothing in the processor's caches.
                Box::new(|round| {
                    let mut updates = Duration::ZERO;
                    for n in 0..UPDATES {
                        let mut task = data::task(shuffled(round * UPDATES + n, tasks), Tasks::Mixed);
                        task.progress.percent_complete = (round % 101) as f64 + 0.5;
                        updates += timed(|| store.update_task(&task))?;
                    }
                    Ok(updates / UPDATES as u32)
                }),
            ],
        )?;
        let size = format!("{:.2} MB", bytes as f64 / 1e6);
        group.times(format!("file rewritten, {size}"), &rewrite);
        let rival = group.in_unit(rewrite.median());
        group
            .times(format!("update_task, mean of {UPDATES}, {size}"), &update)
            .faster_than("the file", rival)
            .target(Target::AtLeast(target));
    }
    Ok(group)
}

/// Threads that write at once, beside threads that an outer lock keeps from sharing a transaction.
pub(crate) fn together(dir: &Path) -> Result<Group> {
    const ALONE: &str = "1 thread, behind a lock of its own";
    let store = StateStore::open(dir.join("together"))?;
    let lock = Mutex::new(());
    updates_a_second(&store, 1, None);
    let mut group = Group::new("Updates a second, `synchronous=FULL`", Unit::UpdatesPerSecond);
    let counts = [1, 4, 16, 64];
    let (mut shared, mut apart) = ([const { Vec::new() }; 4], [const { Vec::new() }; 4]);
    for _ in 0..5 {
        for ((threads, shared), apart) in counts.iter().zip(&mut shared).zip(&mut apart) {
            apart.push(updates_a_second(&store, *threads, Some(&lock)));
            shared.push(updates_a_second(&store, *threads, None));
        }
    }
    let [shared, apart] = [shared, apart].map(|of_all| {
        of_all.map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        })
    });
    group.value(ALONE, apart[0]);
    for (threads, rate) in counts.iter().zip(&apart).skip(1) {
        group.value(format!("{threads} threads, one after the other"), *rate).over(ALONE, apart[0]);
    }
    for ((threads, rate), target) in counts.iter().zip(&shared).zip([Some(0.9), None, Some(3.0), Some(4.0)]) {
        let plural = if *threads == 1 { "" } else { "s" };
        let figure =
            group.value(format!("{threads} thread{plural}, sharing transactions"), *rate).over(ALONE, apart[0]);
        if let Some(target) = target {
            figure.target(Target::AtLeast(target));
        }
    }

    const MODIFIERS: usize = 8;
    store.update_task(&data::task(COUNTER, Tasks::Mixed))?;
    let step = || Ok::<_, agentmux_state::Error>(store.task(&data::task_id(COUNTER))?.and_then(|it| it.checkpoint));
    let before = step()?.map_or(0, |checkpoint| checkpoint.step_index);
    let mut rates = [const { Vec::new() }; 2];
    for _ in 0..5 {
        rates[0].push(updates_a_second(&store, MODIFIERS, None));
        rates[1].push(modifications_a_second(&store, MODIFIERS));
    }
    let added = step()?.map_or(0, |checkpoint| checkpoint.step_index) - before;
    assert_eq!(added, 5 * MODIFIERS as i64 * MODIFICATIONS, "an increment was lost");
    let [update, modify] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    let update_task = format!("{MODIFIERS} threads, update_task");
    group.value(&update_task, update);
    group
        .value(format!("{MODIFIERS} threads, modify_task of one counter"), modify)
        .over(&update_task, update)
        .target(Target::AtLeast(1.0));
    Ok(group)
}

/// The task whose counter is modified: none of those that are updated.
const COUNTER: usize = 1000;

/// What each thread adds to it.
const MODIFICATIONS: i64 = 1000;

fn modifications_a_second(store: &StateStore, threads: usize) -> f64 {
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..MODIFICATIONS {
                    let added = store.modify_task(&data::task_id(COUNTER), |task| {
                        task.checkpoint.get_or_insert_default().step_index += 1;
                    });
                    added.expect("a modification");
                }
            });
        }
    });
    threads as f64 * MODIFICATIONS as f64 / start.elapsed().as_secs_f64()
}

fn updates_a_second(store: &StateStore, threads: usize, lock: Option<&Mutex<()>>) -> f64 {
    let each = 3000 / threads.min(16);
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let mut task = data::task(thread, Tasks::Mixed);
                for round in 0..each {
                    task.progress.percent_complete = (round % 101) as f64;
                    let _turn = lock.map(Mutex::lock);
                    store.update_task(&task).expect("an update");
                }
            });
        }
    });
    (threads * each) as f64 / start.elapsed().as_secs_f64()
}

/// A store and how much is in it.
pub(crate) struct State<'s> {
    pub(crate) store: &'s StateStore,
    pub(crate) conversations: usize,
    pub(crate) tasks: usize,
}

impl State<'_> {
    pub(crate) const KIND: Tasks = Tasks::ResumableEvery(1000);

    pub(crate) fn fill(&self) -> Result<()> {
        Ok(fill(self.store, self.conversations, self.tasks, Self::KIND)?)
    }

    /// The three updates, of a record anywhere in the state.
    fn turns(&self) -> [Turn<'_>; 3] {
        let change = |n: usize, round: usize| {
            let mut task = data::task(n, Self::KIND);
            task.progress.percent_complete = (round % 101) as f64;
            task
        };
        [
            Box::new(move |round| {
                let task = change(shuffled(round, self.tasks), round);
                Ok(timed(|| self.store.update_task(&task))?)
            }),
            Box::new(move |round| {
                let n = shuffled(round, self.conversations);
                let message = data::message(n, round);
                Ok(timed(|| self.store.append_message(&data::conversation_id(n), &message))?)
            }),
            Box::new(move |round| {
                let n = shuffled(round + 1, self.conversations);
                let mut conversation = self.store.conversation(&data::conversation_id(n))?.ok_or("a conversation")?;
                conversation.recent_messages.remove(0);
                conversation.recent_messages.push(data::message(n, round));
                Ok(timed(|| self.store.update_conversation(&conversation))?)
            }),
        ]
    }
}

/// How many pages adding a message writes: the new one's and the oldest one's, their index, the conversation's and its index.
const PAGES: usize = 5;

/// Writes so many rows, each on a page of its own, in one transaction.
fn upsert(conn: &Connection, round: usize, rows: usize) -> rusqlite::Result<()> {
    let step = |sql| conn.prepare_cached(sql)?.execute([]).map(drop);
    if rows > 1 {
        step("BEGIN IMMEDIATE")?;
    }
    let mut write = conn.prepare_cached("INSERT INTO t VALUES (?1, ?2) ON CONFLICT DO UPDATE SET v = ?2")?;
    for id in 0..rows {
        write.execute((id, format!("{round:03000}")))?;
    }
    if rows > 1 { step("COMMIT") } else { Ok(()) }
}

fn raw(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open(path)?;
    conn.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "full")?;
    conn.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT) STRICT")?;
    Ok(conn)
}
