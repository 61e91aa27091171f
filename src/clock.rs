use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, TimeDelta, Utc};

/// Where the time comes from; the system's clock unless a test says otherwise.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl Clock {
    /// A clock that tells what `now` tells.
    pub fn new(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The present time. One before 1970 or after the year 9999, as a clock that is not set shows it, is moved to the nearest
    /// time between: the state, the names of backups and SQLite hold no others.
    pub fn now(&self) -> DateTime<Utc> {
        (self.0)().clamp(DateTime::UNIX_EPOCH, LATEST)
    }
}

/// The last second that four digits of a year can name.
const LATEST: DateTime<Utc> = match DateTime::from_timestamp(253_402_300_799, 0) {
    Some(latest) => latest,
    None => DateTime::UNIX_EPOCH,
};

/// The time of the system's clock. `Utc::now` panics where that shows a time before 1970.
fn system_now() -> DateTime<Utc> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = TimeDelta::from_std(since).unwrap_or(TimeDelta::MAX);
    DateTime::UNIX_EPOCH.checked_add_signed(since).unwrap_or(LATEST)
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(system_now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
