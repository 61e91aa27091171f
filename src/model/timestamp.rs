use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;

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
    /// The present time by the system's clock, to the millisecond.
    pub fn now() -> Self {
        Clock::default().now().into()
    }

    /// The text as it stands in the document.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The instant, or `None` where the text is no date and time that exists.
    ///
    /// Readable are ISO 8601 dates with a time and `Z` or an offset, with or without seconds and fractions of them; a date
    /// alone is its midnight in UTC. A time without an offset is not: it depends on the machine. Queries and views have the
    /// same rule.
    pub fn parse(&self) -> Option<DateTime<Utc>> {
        // SQLite's date functions read all of these alike, so that a query and the library agree on every text.
        let text = self.0.as_str();
        if !text.is_ascii() {
            return None;
        }
        let (date, time) = text.split_at_checked(10)?;
        let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *date.as_bytes() else { return None };
        let number = |digits: &[u8]| {
            digits.iter().try_fold(0_u32, |number, digit| {
                digit.is_ascii_digit().then(|| number.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
            })
        };
        let year = i32::try_from(number(&[y1, y2, y3, y4])?).ok()?;
        let date = NaiveDate::from_ymd_opt(year, number(&[m1, m2])?, number(&[d1, d2])?)?;
        if time.is_empty() {
            return Some(date.and_time(NaiveTime::MIN).and_utc());
        }
        let [b'T', h1, h2, b':', m1, m2, rest @ ..] = time.as_bytes() else { return None };
        let (hour, minute) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
        let (second, nanos, zone) = match rest {
            [b':', s1, s2, b'.', fraction @ ..] => {
                let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let (digits, zone) = fraction.split_at(length);
                let first_nine = digits.iter().chain(std::iter::repeat(&b'0')).take(9).copied().collect::<Vec<_>>();
                (number(&[*s1, *s2])?, number(&first_nine).filter(|_| length > 0)?, zone)
            }
            [b':', s1, s2, zone @ ..] => (number(&[*s1, *s2])?, 0, zone),
            zone => (0, 0, zone),
        };
        let east = match zone {
            [b'Z' | b'z'] => 0,
            [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
                let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
                if hours > 14 || minutes > 59 {
                    return None;
                }
                let east = i64::from(hours * 3600 + minutes * 60);
                if *sign == b'-' { -east } else { east }
            }
            _ => return None,
        };
        let at = date.and_time(NaiveTime::from_hms_nano_opt(hour, minute, second, nanos)?).and_utc();
        at.checked_sub_signed(TimeDelta::seconds(east))
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
