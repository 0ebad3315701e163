//! The meaning of a target's answer, and the pauses between attempts.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

/// Base of the pauses.
const FIRST: Duration = Duration::from_secs(1);

/// Longest pause that Outcrop chooses.
const LONGEST: Duration = Duration::from_secs(300);

/// Longest pause that a target may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// Reads dates, also those whose day of the week is another.
static DATES: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);

/// The meaning of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The target has the delivery.
    Accepted,
    /// The same delivery may be accepted later: the target is busy or broken, or refuses the credentials or the address.
    Retry,
    /// The target never accepts this delivery.
    Refused,
}

impl Verdict {
    /// Returns the meaning of an HTTP status.
    ///
    /// A status that is about the sender or the address, such as 401 or 404, is retried: it concerns every delivery, and a person can mend it.
    /// One that is about the content, such as 400, is not.
    pub const fn of(status: u16) -> Self {
        match status {
            200..=299 => Self::Accepted,
            400 | 402 | 405 | 406 | 409 | 411..=424 | 426..=428 | 430..=499 => Self::Refused,
            _ => Self::Retry,
        }
    }
}

/// Returns how long the header `Retry-After` asks to wait ([RFC 9110, section 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)):
/// a number of seconds, or a date.
pub(super) fn asked(header: &str, now: Timestamp) -> Option<Duration> {
    let header = header.trim();
    let seconds = match header.parse::<u32>() {
        Ok(seconds) => i64::from(seconds),
        Err(_) => DATES.parse_timestamp(header).ok()?.as_second() - now.as_second(),
    };
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()).min(LONGEST_ASKED))
}

/// Returns the pause before the next attempt, after `failures` of them: full jitter, a random time below a limit that doubles
/// (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>), and at least what the target asked for. `random` is a number
/// below 1.
pub fn pause(failures: u32, random: f64, asked: Option<Duration>) -> Duration {
    let limit = FIRST.saturating_mul(1_u32.checked_shl(failures.min(16)).unwrap_or(u32::MAX)).min(LONGEST);
    limit.mul_f64(random.clamp(0.0, 1.0)).max(asked.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_if_the_same_delivery_can_be_accepted_later() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(Verdict::of(status), Verdict::Accepted, "{status}");
        }
        for status in [100, 301, 302, 307, 401, 403, 404, 407, 408, 410, 425, 429, 500, 502, 503, 504, 507, 599] {
            assert_eq!(Verdict::of(status), Verdict::Retry, "{status}");
        }
        for status in [400, 405, 406, 409, 413, 415, 422, 431, 451] {
            assert_eq!(Verdict::of(status), Verdict::Refused, "{status}");
        }
    }

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        for (header, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
            ("4000000000", Some(3600)),
            ("Sun, 06 Nov 2094 08:49:37 GMT", Some(3600)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(asked(header, now), seconds.map(Duration::from_secs), "{header:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_five_minutes_and_are_as_long_as_asked() {
        assert_eq!([1, 2, 3].map(|failures| pause(failures, 1.0, None).as_secs()), [2, 4, 8]);
        for failures in 9..100 {
            assert_eq!(pause(failures, 1.0, None), LONGEST, "{failures}");
        }
        assert_eq!(pause(5, 0.0, None), Duration::ZERO, "full jitter");
        assert_eq!(pause(5, 0.5, None), Duration::from_secs(16));
        assert_eq!(pause(1, 0.0, Some(Duration::from_secs(60))), Duration::from_secs(60));
    }
}
