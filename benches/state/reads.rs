//! What reading costs in a large state, and beside threads that write.

use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use agentmux_state::StateStore;

use crate::data::{self, Tasks, fill, shuffled};
use crate::measure::{Group, Result, Target, Times, Turn, Unit, in_turns, timed};
use crate::updates::State;

pub(crate) fn of_a_large_state(large: &State<'_>) -> Result<Group> {
    let store = large.store;
    let now = chrono::Utc::now();
    let resumed = store.resume_instructions(now)?.tasks_to_resume.len();
    let (state_dir, tasks) = (store.state_dir(), large.tasks);
    let [task, resume, open, nothing, status] = in_turns(
        0..100,
        [
            Box::new(|round| Ok(timed(|| store.task(&data::task_id(shuffled(round, tasks))))?)),
            Box::new(|_| Ok(timed(|| store.resume_instructions(now))?)),
            Box::new(|_| Ok(timed(|| StateStore::open(state_dir))?)),
            Box::new(|_| timed(|| crate::run(crate::program(state_dir).arg("--version")))),
            Box::new(|_| timed(|| crate::run(crate::program(state_dir).arg("status")))),
        ],
    )?;
    let title = format!("Reading from {} messages and {tasks} tasks", large.conversations * data::MESSAGES);
    let mut group = Group::new(title, Unit::Milliseconds);
    group.times("task(id)", &task);
    group.times(format!("resume_instructions, {resumed} tasks to resume"), &resume).target(Target::AtMost(2.0));
    group.times("StateStore::open", &open).target(Target::AtMost(5.0));
    group.times("`agentmux-state --version`, the process", &nothing);
    group.times("`agentmux-state status`, the process", &status).target(Target::AtMost(20.0));
    Ok(group)
}

pub(crate) fn beside_writers(dir: &Path) -> Result<Group> {
    const TASKS: usize = 5000;
    const WRITERS: usize = 16;
    let store = StateStore::open(dir.join("readers"))?;
    fill(&store, 0, TASKS, Tasks::Mixed)?;
    // About as long as a read, with nothing in it but arithmetic: what it loses beside the writers, the scheduler takes.
    let arithmetic = || (0..25_000_u64).fold(0, |sum, n| black_box(sum ^ n));
    let turns = || -> [Turn<'_>; 2] {
        [
            Box::new(|round| Ok(timed(|| store.task(&data::task_id(shuffled(round, TASKS))))?)),
            Box::new(|_| timed(|| Ok(arithmetic()))),
        ]
    };
    in_turns(0..2000, turns())?;
    let [idle, arithmetic_idle] = in_turns(0..20_000, turns())?;
    let stop = AtomicBool::new(false);
    let busy = thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                let mut task = data::task(writer, Tasks::Mixed);
                while !stop.load(Ordering::Relaxed) {
                    task.progress.percent_complete = (task.progress.percent_complete + 1.0) % 101.0;
                    store.update_task(&task).expect("an update");
                }
            });
        }
        let busy = in_turns(0..20_000, turns());
        stop.store(true, Ordering::Relaxed);
        busy
    });
    let [busy, arithmetic_busy] = busy?;
    let mut group = Group::new(format!("Reading while {WRITERS} threads write"), Unit::Microseconds);
    group.times("task(id), idle", &idle);
    group.times("task(id), beside them", &busy);
    group.times("arithmetic alone, idle", &arithmetic_idle);
    group.times("arithmetic alone, beside them", &arithmetic_busy);
    let p99 = |group: &Group, times: &Times| group.in_unit(times.p99());
    let (floor, own) = (p99(&group, &arithmetic_idle), p99(&group, &arithmetic_busy));
    group.value("arithmetic alone, p99 beside p99", own).over("p99, idle", floor);
    let (floor, own) = (p99(&group, &idle), p99(&group, &busy));
    group.value("task(id), p99 beside p99", own).over("p99, idle", floor).target(Target::AtMost(2.0));
    Ok(group)
}
