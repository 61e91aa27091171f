//! Times on the command line.

use agentmux_state::{Clock, Timestamp};
use chrono::{DateTime, TimeDelta, Utc};

/// The present time.
pub(super) fn now() -> DateTime<Utc> {
    Clock::default().now()
}

/// A moment, or how long ago it was.
pub(super) fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    let age = || humantime::parse_duration(text).ok().and_then(|age| TimeDelta::from_std(age).ok());
    let moment = Timestamp::from(text).parse().or_else(|| now().checked_sub_signed(age()?));
    moment.ok_or_else(|| "expected a moment such as 2026-11-22T10:00:00Z, or an age such as 90min, 2h, 3days".into())
}

/// A timestamp in full.
pub(super) fn timestamp(text: &str) -> Result<Timestamp, String> {
    let timestamp = Timestamp::from(text);
    match timestamp.parse() {
        Some(_) => Ok(timestamp),
        None => Err("expected a moment such as 2026-11-22T10:00:00Z".into()),
    }
}
