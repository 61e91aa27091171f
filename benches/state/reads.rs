//! What reading costs in a large state, and beside threads that write.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use agentmux_state::StateStore;

use crate::data::{self, Tasks, fill, shuffled};
use crate::measure::{Group, Result, Target, Turn, Unit, in_turns, timed};
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
    let read =
        || -> [Turn<'_>; 1] { [Box::new(|round| Ok(timed(|| store.task(&data::task_id(shuffled(round, TASKS))))?))] };
    in_turns(0..2000, read())?;
    let [idle] = in_turns(0..20_000, read())?;
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
        let busy = in_turns(0..20_000, read());
        stop.store(true, Ordering::Relaxed);
        busy
    });
    let [busy] = busy?;
    let mut group = Group::new(format!("Reading while {WRITERS} threads write"), Unit::Microseconds);
    group.times("task(id), idle", &idle);
    group.times("task(id), beside them", &busy);
    let (idle, busy) = (group.in_unit(idle.p99()), group.in_unit(busy.p99()));
    group.value("task(id), p99 beside p99", busy).over("p99, idle", idle).target(Target::AtMost(2.0));
    Ok(group)
}
