//! Power loss: what a run did to its files is recorded, and replayed up to a cut, with what was not synced dropped, torn or
//! reordered.

use std::path::Path;
use std::time::Instant;

use agentmux_state::{Durability, StateStore, StoreOptions};

use super::ledger::{Ledgers, at, figures};
use super::recording::{Disk, Event, UNSYNCED, Unsynced, record};
use super::work;
use super::{Random, choose};
use crate::common::role::say;
use crate::common::trace::can_trace;
use crate::common::{Base, TestResult};

/// The role of many small updates. Its arguments: how many, and `normal` or `full`.
pub fn many_updates(base: &Path, arguments: &str) -> TestResult {
    let (number, durability) = arguments.split_once(' ').ok_or("two words")?;
    let durability = if durability == "normal" { Durability::Normal } else { Durability::Full };
    let options = StoreOptions::default().durability(durability);
    let store = StateStore::open_with(base.join(".agentmux/state"), options)?;
    for number in 0..number.parse::<u64>()? {
        say(&format!("W try W-task-{}={number}", number % 20));
        store.update_task(&work::task(&format!("W-task-{}", number % 20), &number.to_string()))?;
        say("W did");
    }
    Ok(())
}

/// What the cuts of a recording came to.
#[derive(Default)]
struct Figures {
    cuts: usize,
    acknowledged: usize,
    cuts_with_loss: usize,
    lost: usize,
    lost_at_most: usize,
}

/// Cuts the power at moments all over a recording, about as often as `wanted`.
fn cut(events: &[Event], wanted: usize, may_lose: bool) -> Result<Figures, Box<dyn std::error::Error>> {
    let mut random = Random(99);
    let mut figures = Figures::default();
    let mut disk = Disk::default();
    // Only what changes something, or was said, is a moment of its own.
    for (index, event) in events.iter().enumerate() {
        disk.apply(event);
        let cuts = (wanted as f64 / events.len() as f64).max(0.0);
        let cuts = cuts as usize + usize::from((random.below(1_000_000) as f64) < cuts.fract() * 1e6);
        for _ in 0..cuts {
            let (content, names) = (UNSYNCED[random.below(4)], UNSYNCED[random.below(4)]);
            // Any subset of names is no order in which a file system can have written them: it keeps a journal.
            let names = if names == Unsynced::Any { Unsynced::Torn } else { names };
            let base = Base::in_memory()?;
            disk.cut(content, names, &mut random, base.path())?;
            let mut ledgers = Ledgers::default();
            for event in &events[..=index] {
                if let Event::Said(line) = event {
                    ledgers.hear(line);
                }
            }
            let place =
                format!("cut after event {index} ({}), unsynced content {content:?}, names {names:?}", name(event));
            let acknowledged = ledgers.total();
            let lost = at(&place, ledgers.verify(&base, may_lose))?;
            figures.cuts += 1;
            figures.acknowledged += acknowledged;
            figures.lost += lost;
            figures.cuts_with_loss += usize::from(lost > 0);
            figures.lost_at_most = figures.lost_at_most.max(lost);
        }
    }
    Ok(figures)
}

fn name(event: &Event) -> String {
    match event {
        Event::Write(path, at, bytes) => format!("write of {} bytes at {at} of {}", bytes.len(), path.display()),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_power_cut_loses_nothing_acknowledged() -> TestResult {
    if !can_trace() {
        return Ok(());
    }
    let began = Instant::now();
    let base = Base::in_memory()?;
    let mut events = record("script 1", &base)?;
    // A second process goes on from what the first one left.
    events.extend(record("script 100", &base)?);
    let found = cut(&events, choose(50, 1500), false)?;
    assert_eq!(found.lost, 0);
    assert!(found.cuts >= choose(30, 500) && found.acknowledged > found.cuts, "{} cuts", found.cuts);
    figures(
        "power loss, FULL, every operation",
        &format!(
            "recorded events {}, cuts {}, acknowledged {} in all, lost 0 ({:.0} s)",
            events.len(),
            found.cuts,
            found.acknowledged,
            began.elapsed().as_secs_f64()
        ),
    )
}

#[test]
fn a_power_cut_over_many_updates() -> TestResult {
    if !can_trace() {
        return Ok(());
    }
    for (durability, may_lose) in [("full", false), ("normal", true)] {
        let began = Instant::now();
        let base = Base::in_memory()?;
        let updates = choose(180, 1000);
        let events = record(&format!("many {updates} {durability}"), &base)?;
        let found = cut(&events, choose(20, 700), may_lose)?;
        if !may_lose {
            assert_eq!(found.lost, 0);
        }
        figures(
            &format!("power loss, {}, {updates} updates", durability.to_uppercase()),
            &format!(
                "cuts {}, acknowledged {} in all, cuts with loss {}, lost at most {} updates, {:.1} on average; damaged 0 ({:.0} s)",
                found.cuts,
                found.acknowledged,
                found.cuts_with_loss,
                found.lost_at_most,
                found.lost as f64 / found.cuts.max(1) as f64,
                began.elapsed().as_secs_f64()
            ),
        )?;
    }
    Ok(())
}

#[test]
fn a_power_cut_with_less_durability_loses_the_last_steps_and_damages_nothing() -> TestResult {
    if !can_trace() {
        return Ok(());
    }
    let base = Base::in_memory()?;
    let events = record("script 1 normal", &base)?;
    let found = cut(&events, choose(20, 700), true)?;
    figures(
        "power loss, NORMAL, every operation",
        &format!(
            "cuts {}, acknowledged {} in all, cuts with loss {}, lost at most {} steps; damaged 0",
            found.cuts, found.acknowledged, found.cuts_with_loss, found.lost_at_most
        ),
    )
}
