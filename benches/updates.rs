//! What one durable update costs, beside the floor: one row written and committed by SQLite itself, in the same run, in turns;
//! and how many updates a second several threads reach together.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::thread;
use std::time::{Duration, Instant};

use agentmux_state::{ConversationState, PersistedMessage, StateStore, TaskState};
use rusqlite::Connection;

const ROUNDS: usize = 2000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let raw = raw(dir.path())?;
    let store = StateStore::open(dir.path().join("state"))?;
    let mut task = TaskState { id: "T-1".into(), title: "A task".into(), ..TaskState::default() };
    let message = |n: usize| PersistedMessage { content: format!("message {n} of some length"), ..Default::default() };
    let mut conversation =
        ConversationState { id: "C-1".into(), recent_messages: (0..50).map(message).collect(), ..Default::default() };
    store.update_task(&task)?;
    store.update_conversation(&conversation)?;
    store.update_conversation(&ConversationState { id: "C-2".into(), ..Default::default() })?;

    // Both logs have grown to their size: as long as a log grows, each commit also waits for the file system's own.
    for round in 0..3000 {
        upsert(&raw, round)?;
        task.progress.percent_complete = (round % 100) as f64;
        store.update_task(&task)?;
    }
    let mut times: [Vec<Duration>; 4] = Default::default();
    for round in 0..ROUNDS {
        let start = Instant::now();
        upsert(&raw, round)?;
        times[0].push(start.elapsed());
        task.progress.percent_complete = (round % 100) as f64;
        let start = Instant::now();
        store.update_task(&task)?;
        times[1].push(start.elapsed());
        let message = message(round);
        let start = Instant::now();
        store.append_message("C-2", &message)?;
        times[2].push(start.elapsed());
        conversation.recent_messages.remove(0);
        conversation.recent_messages.push(message);
        let start = Instant::now();
        store.update_conversation(&conversation)?;
        times[3].push(start.elapsed());
    }
    println!("{:<44} {:>9} {:>9} {:>7}", "one durable update, in microseconds", "median", "p99", "ratio");
    let names = [
        "raw upsert and commit",
        "update_task, one field",
        "append_message",
        "update_conversation, 50 messages, one new",
    ];
    times.iter_mut().for_each(|times| times.sort_unstable());
    let floor = times[0][ROUNDS / 2].as_secs_f64();
    for (name, times) in names.iter().zip(&times) {
        let (median, p99) = (times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
        let ratio = median.as_secs_f64() / floor;
        println!("{name:<44} {:>9.0} {:>9.0} {ratio:>7.2}", median.as_secs_f64() * 1e6, p99.as_secs_f64() * 1e6);
    }

    println!("\n{:<44} {:>9} {:>9}", "updates a second, together", "", "ratio");
    let alone = together(&store, 1)?;
    for threads in [1, 4, 16, 64] {
        let rate = together(&store, threads)?;
        println!("{:<44} {rate:>9.0} {:>9.2}", format!("{threads} threads"), rate / alone);
    }
    Ok(())
}

/// Updates a second of so many threads at once.
fn together(store: &StateStore, threads: usize) -> Result<f64, Box<dyn std::error::Error>> {
    let each = 4000 / threads.min(16);
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for round in 0..each {
                    let mut task = TaskState { id: format!("T-{thread}"), ..TaskState::default() };
                    task.progress.percent_complete = (round % 100) as f64;
                    store.update_task(&task).expect("an update");
                }
            });
        }
    });
    Ok((threads * each) as f64 / start.elapsed().as_secs_f64())
}

fn upsert(conn: &Connection, round: usize) -> rusqlite::Result<usize> {
    conn.prepare_cached("INSERT INTO t VALUES (1, ?1) ON CONFLICT DO UPDATE SET v = ?1")?.execute([round.to_string()])
}

fn raw(dir: &std::path::Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open(dir.join("raw.db"))?;
    conn.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "full")?;
    conn.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT) STRICT")?;
    Ok(conn)
}
