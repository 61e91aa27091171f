//! The time as JavaScript has it. Tests replace `Date`, and what is stored must then agree with what they see.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use agentmux_state::Clock;
use chrono::{DateTime, TimeDelta, Utc};

/// How far `Date` may be from the system's clock and still count as the same one.
const SAME: i64 = 1000;

thread_local! {
    /// The time of the call that this thread works for, where it is not the system's.
    static CALL: Cell<Option<DateTime<Utc>>> = const { Cell::new(None) };
}

/// The time as JavaScript gave it last.
#[derive(Clone, Default)]
pub(crate) struct JsClock {
    /// What is to be added to the system's time, in milliseconds.
    offset: Arc<AtomicI64>,
}

/// The time of a call; none where it is the system's.
#[derive(Clone, Copy, Default)]
pub(crate) struct CallTime(Option<DateTime<Utc>>);

impl JsClock {
    /// The clock of the library: the time of the call at hand; without one, as in the thread of the periodic checkpoint, the
    /// system's time, moved as `Date` was.
    pub(crate) fn clock(&self) -> Clock {
        let offset = self.offset.clone();
        Clock::new(move || {
            let shifted = || {
                let now = Utc::now();
                let offset = TimeDelta::try_milliseconds(offset.load(Ordering::Relaxed)).unwrap_or_default();
                now.checked_add_signed(offset).unwrap_or(now)
            };
            CALL.get().unwrap_or_else(shifted)
        })
    }

    /// The time of a call, from what `Date.now()` gives.
    pub(crate) fn at(&self, date_now: f64) -> CallTime {
        let now = Utc::now();
        // A mocked `Date.now` may give anything.
        let given = (date_now.abs() < 8.64e15).then(|| DateTime::from_timestamp_millis(date_now as i64)).flatten();
        // What has more than four digits for its year is written in another form than JavaScript's.
        let given = given.filter(|at| (0..253_402_300_800_000).contains(&at.timestamp_millis()));
        let difference = given.map_or(0, |at| at.timestamp_millis() - now.timestamp_millis());
        self.offset.store(if difference.abs() > SAME { difference } else { 0 }, Ordering::Relaxed);
        CallTime(given.filter(|_| difference != 0))
    }
}

impl CallTime {
    /// Does something at that time.
    pub(crate) fn during<T>(self, work: impl FnOnce() -> T) -> T {
        /// Also where the work panics.
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                CALL.set(None);
            }
        }
        CALL.set(self.0);
        let _reset = Reset;
        work()
    }
}
