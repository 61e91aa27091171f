//! SIGTERM, twice, while the orchestrator shuts down.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use agentmux_state::{ConversationState, PersistedMessage, RunOutcome, ServiceOptions, StatePersistenceService};
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;

use super::ledger::{Ledgers, at, figures};
use super::{choose, is_long, work};
use crate::common::role::{said, say, start};
use crate::common::{Base, TestResult};

/// How long the role listens for another signal: two that follow at once may be delivered as one.
const LISTENS: Duration = Duration::from_millis(900);

/// The role of an orchestrator: it writes until SIGTERM, and shuts down at each one in two threads of their own.
pub fn serve(base: &Path) -> TestResult {
    let mut signals = Signals::new([SIGTERM])?;
    let service = StatePersistenceService::with_options(
        ServiceOptions::default()
            .base_dir(Some(base.to_path_buf()))
            .checkpoint_interval(Some(Duration::from_millis(200)))
            .backup_interval(None),
    );
    service.initialize()?;
    let writer = {
        let service = service.clone();
        thread::spawn(move || {
            for number in 0.. {
                let n = number.to_string();
                say(&format!("W try W-task={n}"));
                match service.update_task(&work::task("W-task", &n)) {
                    Ok(()) => say("W did"),
                    Err(error) => return error,
                }
            }
            unreachable!("it writes until it is refused")
        })
    };
    say("ready");
    let mut shutdowns = Vec::new();
    let mut first = None;
    while first.is_none_or(|first: Instant| first.elapsed() < LISTENS) {
        for _ in signals.pending().flat_map(|_| 0..2) {
            first.get_or_insert_with(Instant::now);
            let service = service.clone();
            shutdowns.push(thread::spawn(move || {
                let began = Instant::now();
                service
                    .prepare_for_shutdown()
                    .map(|()| say(&format!("shut down in {} ms", began.elapsed().as_millis())))
            }));
        }
        thread::sleep(Duration::from_millis(1));
    }
    for shutdown in shutdowns {
        shutdown.join().expect("no panic")?;
    }
    say(&format!("refused as {}", work::kind(&writer.join().expect("no panic"))));
    Ok(())
}

#[test]
fn told_twice_to_stop_it_shuts_down_once_with_everything_acknowledged() -> TestResult {
    let base = Base::new()?;
    // A state of 34 MB in the long form.
    let store = base.store()?;
    let content = "What was said, at some length. ".repeat(66);
    store.batch(|batch| {
        (0..choose(30, 340)).try_for_each(|number| {
            let message =
                |n: usize| PersistedMessage { content: format!("{n} {content}"), ..PersistedMessage::default() };
            batch.update_conversation(&ConversationState {
                id: format!("C-{number}"),
                recent_messages: (0..50).map(message).collect(),
                last_activity_at: "2026-11-22T10:00:00.000Z".into(),
                ..ConversationState::default()
            })
        })
    })?;
    drop(store);
    let mut ledgers = Ledgers::default();
    let mut slowest = 0;
    // From one after the other at once to long after it is done.
    let gaps = [0, 1, 10, 100, 500];
    for gap in gaps {
        let (mut child, mut output) = start("service", &base)?;
        for line in said(&mut output).take_while(|line| line != "ready") {
            ledgers.hear(&line);
        }
        thread::sleep(Duration::from_millis(300));
        let terminate = || Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(terminate()?.success());
        thread::sleep(Duration::from_millis(gap));
        assert!(terminate()?.success());
        let heard: Vec<_> = said(&mut output).collect();
        assert!(child.wait()?.success(), "{heard:?}");
        let took: Vec<u64> = heard
            .iter()
            .filter_map(|line| line.strip_prefix("shut down in ")?.strip_suffix(" ms")?.parse().ok())
            .collect();
        assert!(took.len() == 4 || gap == 0 && took.len() == 2, "gap {gap}: {took:?}, {:?}", heard.last());
        assert_eq!(heard.last().map(String::as_str), Some("refused as ShutDown"));
        slowest = slowest.max(took.into_iter().max().unwrap_or_default());
        heard.iter().for_each(|line| ledgers.hear(line));
        // Nothing was written after the export.
        let ledger = ledgers.actors.get_mut("W").expect("it wrote");
        ledger.hear("exported");
        at(&format!("gap {gap}"), ledgers.verify(&base, false))?;
        assert_eq!(base.store()?.last_run()?.expect("its run").outcome, Some(RunOutcome::Shutdown));
    }
    let bytes = base.store()?.refresh_export()?.bytes;
    if is_long() && !cfg!(debug_assertions) {
        assert!(slowest < 5000, "{slowest} ms");
    }
    figures(
        "SIGTERM twice",
        &format!(
            "tried {}, acknowledged {}, lost 0; slowest shutdown {slowest} ms with a document of {:.0} MB",
            gaps.len(),
            ledgers.total(),
            bytes as f64 / 1e6
        ),
    )
}
