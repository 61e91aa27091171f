use chrono::{DateTime, FixedOffset, NaiveDate, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// A point in time as the document holds it: its text, whatever that is.
///
/// The format is ISO 8601 in UTC with milliseconds, as JavaScript's `toISOString` prints it. Real files also hold other
/// offsets, empty strings and words; the text survives, and [`parse`](Self::parse) gives the instant where there is one.
///
/// ```
/// use agentmux_state::Timestamp;
///
/// let at = Timestamp::from("2026-11-20T09:30:00+02:00");
/// assert_eq!(at.parse().map(Timestamp::from), Some(Timestamp::from("2026-11-20T07:30:00.000Z")));
/// assert_eq!(Timestamp::from("yesterday").parse(), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(String);

impl Timestamp {
    /// The text as it stands in the document.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The instant, or `None` where the text is no date and time that both this library and SQLite read.
    ///
    /// Understood are ISO 8601 dates and times with `Z` or an offset; a date alone is its midnight in UTC.
    pub fn parse(&self) -> Option<DateTime<Utc>> {
        // Only what SQLite's date functions read alike, so that a query and the library agree on every text.
        let text = self.0.as_str();
        if !text.is_ascii() || !text.as_bytes().first()?.is_ascii_digit() {
            return None;
        }
        if text.len() == 10 {
            return NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0).map(|at| at.and_utc());
        }
        let leap_second = text.get(17..19) == Some("60");
        let at = DateTime::<FixedOffset>::parse_from_rfc3339(text).ok()?;
        let sqlite_reads_offset = at.offset().local_minus_utc().abs() < 15 * 3600;
        (sqlite_reads_offset && !leap_second && text.as_bytes().get(10) == Some(&b'T')).then(|| at.to_utc())
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(at: DateTime<Utc>) -> Self {
        Self(at.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl From<&str> for Timestamp {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Timestamp {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}
