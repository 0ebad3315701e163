//! Parsing of durations and shares in command line arguments and configurations.

use std::time::Duration;

use serde::{Deserialize as _, Deserializer};

/// Reads a duration in a configuration, as [`parse_duration`] does.
pub(crate) fn deserialize_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// Parses a number and a unit: `90s`, `15m`, `1h`, `8d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("invalid duration {text:?}: expected a number and one of s, m, h, d");
    let split = text.len().checked_sub(1).and_then(|last| text.split_at_checked(last));
    let (number, unit) = split.ok_or_else(wrong)?;
    let unit: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<u32>().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(seconds) * unit))
}

/// Parses a share between 0 and 1.
pub(crate) fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("invalid share {text:?}: expected a number from 0 to 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        let cases = [("90s", Some(90)), ("15m", Some(900)), ("1h", Some(3600)), ("8d", Some(691_200)), ("0s", Some(0))];
        let none = ["", "s", "5", "5 m", "-1h", "1.5h", "1w", "99999999999d", "ü"].map(|text| (text, None));
        for (text, seconds) in cases.into_iter().chain(none) {
            assert_eq!(parse_duration(text).ok(), seconds.map(Duration::from_secs), "{text}");
        }
        assert!(["", "-0.1", "1.1", "NaN"].iter().all(|text| parse_share(text).is_err()));
    }
}
