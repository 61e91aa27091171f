//! What updating a task costs the library itself: the floor for `bench/update.mjs`, which runs this beside Node.
//!
//! Reads a state's base directory and a task from the command line, then numbers from standard input; for each, updates
//! the task so often and prints the nanoseconds that one update took.

use std::error::Error;
use std::io::{BufRead, stdin};
use std::time::Instant;

use agentmux_state::{StatePersistenceService, TaskState};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (Some(base), Some(task)) = (arguments.next(), arguments.next()) else {
        println!("`npm run bench` runs this");
        return Ok(());
    };
    let service = StatePersistenceService::new(Some(base.as_ref()));
    service.initialize()?;
    let mut task = TaskState::from_json(&task)?;
    for number in stdin().lock().lines() {
        let number: u32 = number?.trim().parse()?;
        let start = Instant::now();
        for step in 0..number {
            task.progress.percent_complete = f64::from(step % 100);
            service.update_task(&task)?;
        }
        println!("{}", start.elapsed().as_nanos() / u128::from(number.max(1)));
    }
    Ok(service.prepare_for_shutdown()?)
}
