//! Many at once: processes that write, processes that read, one that makes backups, and a person with a shell.

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agentmux_state::{OrchestratorState, Retention, StateStore};

use super::ledger::{Ledgers, at, figures};
use super::{choose, work};
use crate::common::role::{said, say, start};
use crate::common::skip::requires;
use crate::common::{Base, TestResult, task};

const WRITERS: usize = 8;

fn open(base: &Path) -> agentmux_state::Result<StateStore> {
    StateStore::open(base.join(".agentmux/state"))
}

/// The role of who writes. Its arguments: its name, and how many writes.
pub fn write(base: &Path, arguments: &str) -> TestResult {
    let (name, writes) = arguments.split_once(' ').ok_or("two words")?;
    let store = open(base)?;
    let mut longest = Duration::ZERO;
    for number in 0..writes.parse::<u64>()? {
        let n = number.to_string();
        let began = Instant::now();
        match number % 3 {
            0 => {
                say(&format!("{name} try {name}-left={n} {name}-right={n}"));
                store.batch(|batch| {
                    batch.update_task(&work::task(&format!("{name}-left"), &n))?;
                    batch.update_task(&work::task(&format!("{name}-right"), &n))
                })?;
            }
            1 => {
                say(&format!("{name} try {name}-agent={n}"));
                store.update_agent(&work::agent(&format!("{name}-agent"), &n))?;
            }
            _ => {
                let key = format!("{name}-task-{}", number % 50);
                say(&format!("{name} try {key}={n}"));
                store.update_task(&work::task(&key, &n))?;
            }
        }
        longest = longest.max(began.elapsed());
        say(&format!("{name} did"));
    }
    say(&format!("longest {}", longest.as_millis()));
    Ok(())
}

/// The role of who reads, until its input ends.
pub fn look(base: &Path) -> TestResult {
    until_input_ends(|| {
        let store = open(base)?;
        let state = store.state()?;
        for left in state.tasks.iter().filter(|task| task.id.ends_with("-left")) {
            let right = format!("{}-right", left.id.trim_end_matches("-left"));
            let right = state.tasks.iter().find(|task| task.id == right);
            assert_eq!(Some(&left.status), right.map(|task| &task.status), "half a batch");
        }
        let mut document = Vec::new();
        store.export_json(&mut document)?;
        serde_json::from_slice::<OrchestratorState>(&document)?;
        Ok(())
    })
}

/// The role of who makes backups, until its input ends.
pub fn back_up(base: &Path) -> TestResult {
    let store = open(base)?;
    until_input_ends(|| {
        let id = store.backups().create("loop")?.id;
        assert!(store.backups().verify(Some(&id))?[0].ok);
        store.backups().prune(&Retention::default().last(3), false)?;
        Ok(())
    })
}

fn until_input_ends(work: impl Fn() -> TestResult) -> TestResult {
    let ended = AtomicBool::new(false);
    let times = thread::scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            ended.store(true, Ordering::Relaxed);
        });
        for times in 1.. {
            if let Err(error) = work() {
                say(&format!("error {error}"));
                std::process::exit(1);
            }
            if ended.load(Ordering::Relaxed) {
                return times;
            }
        }
        0
    });
    say(&format!("times {times}"));
    Ok(())
}

/// Runs SQL in the shell, as a person does; `None` where there is no shell.
fn shell(base: &Base, sql: &str) -> Option<String> {
    if !requires(&["sqlite3"]) {
        return None;
    }
    let output = Command::new("sqlite3").args(["-cmd", ".timeout 60000"]).arg(base.file("state.db")).arg(sql).output();
    let output = output.expect("the shell starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{sql}: {errors}");
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn a_crowd_meets_no_busy_error_and_loses_nothing() -> TestResult {
    let writes = choose(200, 10_000);
    let base = Base::new()?;
    base.store()?.update_task(&task("of-a-person", agentmux_state::TaskStatus::Pending))?;
    let began = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| start(&format!("crowd P{writer} {writes}"), &base))
        .collect::<std::io::Result<_>>()?;
    let others: Vec<_> =
        ["look", "look", "back_up"].map(|role| start(role, &base)).into_iter().collect::<std::io::Result<_>>()?;
    let running = AtomicUsize::new(WRITERS);
    let (heard, by_hand) = thread::scope(|scope| -> Result<_, Box<dyn std::error::Error>> {
        let listeners: Vec<_> = writers
            .into_iter()
            .map(|(mut writer, mut output)| {
                let running = &running;
                scope.spawn(move || {
                    let heard: Vec<_> = said(&mut output).collect();
                    running.fetch_sub(1, Ordering::Relaxed);
                    (heard, writer.wait().is_ok_and(|status| status.success()))
                })
            })
            .collect();
        // A person looks and changes something now and then.
        let mut by_hand = 0;
        while running.load(Ordering::Relaxed) > 0 {
            let seen = shell(&base, "SELECT count(*) FROM task_overview");
            let change = format!("UPDATE tasks SET title = '{}' WHERE id = 'of-a-person'", by_hand + 1);
            if seen.is_some() && shell(&base, &change).is_some() {
                by_hand += 1;
            }
            thread::sleep(Duration::from_millis(choose(20, 100)));
        }
        let heard: Vec<_> = listeners.into_iter().map(|listener| listener.join().expect("no panic")).collect();
        Ok((heard, by_hand))
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let mut beside = Vec::new();
    for (mut other, mut output) in others {
        drop(other.stdin.take());
        let told: Vec<_> = said(&mut output).collect();
        assert!(other.wait()?.success(), "{told:?}");
        beside.extend(told);
    }
    let mut ledgers = Ledgers::default();
    let mut longest = 0;
    for (lines, succeeded) in heard {
        assert!(succeeded, "{:?}", lines.last());
        for line in lines {
            match line.strip_prefix("longest ") {
                Some(millis) => longest = longest.max(millis.parse::<u64>()?),
                None => ledgers.hear(&line),
            }
        }
    }
    assert_eq!(ledgers.total(), WRITERS * writes);
    at("afterwards", ledgers.verify(&base, false))?;
    let title = base.store()?.task("of-a-person")?.expect("the task").title;
    assert!(by_hand == 0 || title == by_hand.to_string(), "what the person wrote last is lost: {title}");
    figures(
        "a crowd",
        &format!(
            "{WRITERS} processes, acknowledged {}, lost 0, {seconds:.0} s, longest wait {longest} ms; by a person's shell \
             {by_hand}; readers and backups: {beside:?}",
            ledgers.total()
        ),
    )
}
