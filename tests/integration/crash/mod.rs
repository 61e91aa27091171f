//! Crash tests: what can happen to processes, files and disks, tried on purpose. A ledger outside holds what was
//! acknowledged, and nothing of that may be lost.
//!
//! `cargo test` runs the short form. The long form, with its figures:
//! `STATE_TEST_LONG=1 cargo test --release --test integration crash:: -- --nocapture --test-threads=2`

mod crowd;
mod cuts;
mod disk;
mod faults;
mod kill;
mod ledger;
mod power;
mod race;
mod reader;
mod recording;
mod shutdown;
mod spill;
mod work;

use crate::common::{TestResult, choose, is_long};

/// In the processes that the tests start; else it does nothing.
#[test]
fn in_a_role() -> TestResult {
    let Some((role, base)) = crate::common::role::role() else { return Ok(()) };
    let (name, arguments) = role.split_once(' ').unwrap_or((&role, ""));
    match name {
        "work" => work::for_ever(&base, arguments),
        "group" => work::in_threads(&base, arguments),
        "script" => work::script(&base, arguments),
        "many" => power::many_updates(&base, arguments),
        "crowd" => crowd::write(&base, arguments),
        "look" => crowd::look(&base),
        "back_up" => crowd::back_up(&base),
        "read" => reader::read_for_ever(&base),
        "toggle" => disk::work_on_request(&base),
        "new_tasks" => race::write_new_tasks(&base),
        "answer_sql" => race::answer_sql(&base),
        "repeat_sql" => race::repeat_sql(&base, arguments),
        "service" => shutdown::serve(&base),
        "power_cuts" => cuts::cut_in_namespace(&base, arguments),
        "paced" => cuts::update_at_a_pace(&base, arguments),
        "reopening" => cuts::open_again_and_again(&base, arguments),
        "after_cut" => cuts::look_after_cut(&base, arguments),
        other => panic!("no role {other}"),
    }
}

/// Random numbers by splitmix64: the same ones for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}
