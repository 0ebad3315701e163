//! The clock for every date that a program evaluates or issues.
//!
//! `OUTCROP_CLOCK_OFFSET=400d` moves it, so that tests can show what a program does in 400 days. Durations are measured with
//! [`std::time::Instant`], which does not move. Certificates of peers are verified by the TLS library, with the machine's clock.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// The environment variable with the offset: a whole number of days and `d`.
pub const VARIABLE: &str = "OUTCROP_CLOCK_OFFSET";
/// A hundred years: every date that this gives can be written with four digits for the year.
const MAX_DAYS: u32 = 36_525;

static OFFSET: OnceLock<Duration> = OnceLock::new();

/// The offset is not one that the clock can be moved by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {VARIABLE} {value:?}: expected a number of days up to {MAX_DAYS} and d, for example 400d")]
pub struct ClockError {
    /// The value of the variable.
    pub value: String,
}

/// Reads the offset from the environment and returns a warning if there is one. Each program calls this once, first in `main`.
///
/// # Errors
/// When the variable is set to anything but a number of days.
pub fn init() -> Result<Option<String>, ClockError> {
    let offset = from_environment()?;
    OFFSET.get_or_init(|| offset);
    Ok(warning())
}

/// Returns what a service logs when it starts with an offset.
pub fn warning() -> Option<String> {
    let days = offset().as_secs() / 86_400;
    is_moved().then(|| format!("{VARIABLE} is set: all dates are {days} days ahead; this is for tests only"))
}

/// Returns whether an offset is set.
pub fn is_moved() -> bool {
    !offset().is_zero()
}

/// Returns the time.
pub fn now() -> SystemTime {
    system() + offset()
}

/// Returns the time.
pub fn timestamp() -> Timestamp {
    Timestamp::try_from(now()).unwrap_or(Timestamp::MAX)
}

/// Returns the date in UTC.
pub fn today() -> Date {
    TimeZone::UTC.to_datetime(timestamp()).date()
}

/// Returns the time of the machine's clock, without the offset: for comparisons with the clocks of other machines.
pub fn machine() -> Timestamp {
    Timestamp::try_from(system()).unwrap_or(Timestamp::MAX)
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
fn system() -> SystemTime {
    SystemTime::now()
}

/// The offset; read here where no `main` has called [`init`], as in unit tests.
fn offset() -> Duration {
    *OFFSET.get_or_init(|| from_environment().unwrap_or_default())
}

fn from_environment() -> Result<Duration, ClockError> {
    match std::env::var_os(VARIABLE) {
        None => Ok(Duration::ZERO),
        Some(value) => parse(&value.to_string_lossy()),
    }
}

fn parse(value: &str) -> Result<Duration, ClockError> {
    let days = value.strip_suffix('d').and_then(|days| days.parse::<u32>().ok()).filter(|days| *days <= MAX_DAYS);
    let days = days.ok_or_else(|| ClockError { value: value.to_owned() })?;
    Ok(Duration::from_secs(u64::from(days) * 86_400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_whole_days_or_refused() {
        for (value, days) in [("0d", Some(0)), ("400d", Some(400)), ("36525d", Some(36_525))]
            .into_iter()
            .chain(["", "d", "400", "-1d", "1.5d", "400 d", "36526d", "5 parsecs"].map(|value| (value, None)))
        {
            assert_eq!(parse(value).ok(), days.map(|days| Duration::from_secs(days * 86_400)), "{value}");
        }
    }

    #[test]
    fn all_dates_come_from_one_time() {
        let (first, now) = (now(), timestamp());
        assert!(Timestamp::try_from(first).unwrap() <= now);
        let ahead = first.duration_since(system()).unwrap_or_default();
        assert!(ahead <= offset() && ahead + Duration::from_secs(60) > offset(), "{ahead:?}");
        let days = now.as_second().div_euclid(86_400);
        let today = Date::constant(1970, 1, 1).until(today()).unwrap().get_days();
        assert!(i64::from(today) - days <= 1 && i64::from(today) >= days, "{today} {days}");
    }
}
