//! What a backup costs, beside the floor: a copy of the same bytes with an fsync, in the same run, in turns.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs::{self, File};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentmux_state::{
    ConversationState, Error, PersistedMessage, ProgressCallback, Stage, StateStore, StoreOptions, TaskState,
};

const ROUNDS: usize = 15;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let verifying = Arc::new(Mutex::new((Instant::now(), Duration::ZERO)));
    let progress = {
        let verifying = verifying.clone();
        ProgressCallback::new(move |progress| {
            if progress.stage == Stage::Verifying {
                let mut verifying = verifying.lock().expect("no panic");
                if progress.done == 0 {
                    verifying.0 = Instant::now();
                } else {
                    verifying.1 = verifying.0.elapsed();
                }
            }
        })
    };
    let store = StateStore::open_with(dir.path(), StoreOptions { progress, ..StoreOptions::default() })?;
    fill(&store)?;
    let mut document = Vec::new();
    store.export_json(&mut document)?;
    let source = store.create_backup("source")?;

    let (mut copies, mut whole, mut unverified) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let target = dir.path().join("copy");
        let start = Instant::now();
        fs::copy(&source.path, &target)?;
        File::open(&target)?.sync_all()?;
        copies.push(start.elapsed());

        let start = Instant::now();
        store.create_backup(&format!("round {round}"))?;
        let took = start.elapsed();
        whole.push(took);
        unverified.push(took - verifying.lock().expect("no panic").1);
    }
    let [copy, whole, unverified] = [copies, whole, unverified].map(median);
    let ratio = |time: Duration| time.as_secs_f64() / copy.as_secs_f64();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "state of a {:.1} MB document, database of {:.1} MB; medians of {ROUNDS} rounds",
        mb(document.len() as u64),
        mb(source.bytes)
    );
    println!("{:<34} {:>9} {:>7}", "", "ms", "ratio");
    println!("{:<34} {:>9.1} {:>7.2}", "cp and fsync of the same bytes", ms(copy), 1.0);
    println!("{:<34} {:>9.1} {:>7.2}", "create, without its verification", ms(unverified), ratio(unverified));
    println!("{:<34} {:>9.1} {:>7.2}", "create", ms(whole), ratio(whole));
    Ok(())
}

/// A state whose document is about 34 MB.
fn fill(store: &StateStore) -> Result<(), Error> {
    let text = |seed: usize, words: usize| -> String {
        let word =
            |n: usize| ["deploy", "build", "test", "agent", "naïve", "模型", "🚀", "refactor"][(seed * 31 + n * 7) % 8];
        (0..words).map(word).collect::<Vec<_>>().join(" ")
    };
    for block in 0..10 {
        store.batch(|batch| {
            for c in block * 100..(block + 1) * 100 {
                let message = |m: usize| PersistedMessage {
                    content: text(c + m, 70),
                    timestamp: format!("2026-11-01T00:{:02}:{:02}.000Z", m % 60, c % 60).as_str().into(),
                    ..PersistedMessage::default()
                };
                batch.update_conversation(&ConversationState {
                    id: format!("conv-{c}"),
                    recent_messages: (0..50).map(message).collect(),
                    last_activity_at: "2026-11-01T00:00:00.000Z".into(),
                    ..ConversationState::default()
                })?;
            }
            for t in block * 500..(block + 1) * 500 {
                let mut task = TaskState {
                    id: format!("task-{t}"),
                    title: text(t, 6),
                    description: text(t, 40),
                    created_at: "2026-11-01T00:00:00.000Z".into(),
                    ..TaskState::default()
                };
                task.progress.completed_steps = (0..t % 6).map(|s| text(t + s, 5)).collect();
                batch.update_task(&task)?;
            }
            Ok::<_, Error>(())
        })?;
    }
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
