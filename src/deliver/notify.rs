//! When messages to people go out.

use std::time::Duration;

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde::{Deserialize, Deserializer};

use super::connection::Url;
use crate::duration::deserialize_duration;

/// Time in which messages are counted.
const HOUR: Duration = Duration::from_secs(3_600);

/// Settings of messages, which every kind of target shares that tells people.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Notify {
    /// Time for which notices are collected, from the first one on.
    #[serde(deserialize_with = "deserialize_duration")]
    pub wait: Duration,
    /// Maximum number of messages within an hour.
    pub max_per_hour: usize,
    /// When no message goes out.
    pub quiet_hours: Option<QuietHours>,
    /// When messages go out, instead of at once.
    pub digest: Option<Digest>,
    /// Address of the web pages, to which messages link.
    pub base_url: Option<Url>,
    /// Maximum number of vulnerabilities that a message lists; the others are counted.
    pub vulnerabilities: usize,
}

impl Default for Notify {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(300),
            max_per_hour: 12,
            quiet_hours: None,
            digest: None,
            base_url: None,
            vulnerabilities: 10,
        }
    }
}

/// Hours in which no message goes out.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuietHours {
    /// Their beginning, as `22:00`.
    #[serde(deserialize_with = "time")]
    from: Time,
    /// Their end, on the next day if it is earlier.
    #[serde(deserialize_with = "time")]
    to: Time,
    /// The time zone, by its IANA name.
    #[serde(deserialize_with = "zone")]
    timezone: TimeZone,
}

/// Times of digests.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Digest {
    /// The interval.
    every: Every,
    /// The time of the day, as `09:00`.
    #[serde(deserialize_with = "time", default = "morning")]
    at: Time,
    /// The day of a weekly one.
    #[serde(deserialize_with = "weekday", default = "monday")]
    on: Weekday,
    /// The time zone, by its IANA name.
    #[serde(deserialize_with = "zone", default = "utc")]
    timezone: TimeZone,
}

/// An interval of digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Every {
    Daily,
    Weekly,
}

impl Notify {
    /// Returns what is wrong with it.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if !(1..=600).contains(&self.max_per_hour) {
            return Err("notify.maxPerHour: expected 1 to 600");
        }
        if !(1..=25).contains(&self.vulnerabilities) {
            return Err("notify.vulnerabilities: expected 1 to 25");
        }
        if self.quiet_hours.as_ref().is_some_and(|quiet| quiet.from == quiet.to) {
            return Err("notify.quietHours: from and to are the same");
        }
        Ok(())
    }

    /// Returns when a message goes out at the earliest, `now` or later. Its first notice is from `oldest`, and `sent` are the times of
    /// messages within the last hour, oldest first. The summary waits for nothing but quiet hours.
    pub fn due(&self, oldest: Timestamp, is_summary: bool, sent: &[Timestamp], now: Timestamp) -> Timestamp {
        // A clock that was ahead must not delay it.
        let oldest = oldest.min(now);
        let collected = match &self.digest {
            _ if is_summary => oldest,
            Some(digest) => digest.after(oldest),
            None => oldest.saturating_add(self.wait).unwrap_or(Timestamp::MAX),
        };
        let mut due = collected.max(now);
        // The message before so many others has to be an hour old.
        if let Some(index) = sent.len().checked_sub(self.max_per_hour)
            && let Some(blocking) = sent.get(index)
        {
            due = due.max(blocking.saturating_add(HOUR).unwrap_or(Timestamp::MAX));
        }
        match &self.quiet_hours {
            Some(quiet) if quiet.contains(due) => next(due, quiet.to, &quiet.timezone, |_| true),
            _ => due,
        }
    }
}

impl QuietHours {
    fn contains(&self, at: Timestamp) -> bool {
        let time = at.to_zoned(self.timezone.clone()).time();
        match self.from < self.to {
            true => self.from <= time && time < self.to,
            false => self.from <= time || time < self.to,
        }
    }
}

impl Digest {
    /// Returns the first time of a digest after `at`.
    fn after(&self, at: Timestamp) -> Timestamp {
        next(at, self.at, &self.timezone, |day| self.every == Every::Daily || day == self.on)
    }
}

/// Returns the first `time` in a time zone after `at`, on a day that is selected. Where a day does not have the time because clocks go
/// forward, it is as much later; where it has it twice, it is the first one.
fn next(at: Timestamp, time: Time, zone: &TimeZone, selects: impl Fn(Weekday) -> bool) -> Timestamp {
    let mut date = at.to_zoned(zone.clone()).date();
    for _ in 0..9 {
        if selects(date.weekday())
            && let Ok(found) = zone.to_ambiguous_timestamp(date.to_datetime(time)).compatible()
            && found > at
        {
            return found;
        }
        let Ok(next) = date.checked_add(1.day()) else { break };
        date = next;
    }
    Timestamp::MAX
}

fn morning() -> Time {
    Time::constant(9, 0, 0, 0)
}

fn monday() -> Weekday {
    Weekday::Monday
}

fn utc() -> TimeZone {
    TimeZone::UTC
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed = text.split_once(':').and_then(|(hour, minute)| {
        let is_plain = |part: &str| part.len() <= 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        let parts = (is_plain(hour) && is_plain(minute)).then_some((hour.parse().ok()?, minute.parse().ok()?))?;
        Time::new(parts.0, parts.1, 0, 0).ok()
    });
    parsed.ok_or_else(|| serde::de::Error::custom(format!("invalid time {text:?}: expected HH:MM")))
}

fn weekday<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Weekday, D::Error> {
    let text = String::deserialize(deserializer)?;
    let names = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    let found = names.iter().position(|name| *name == text).and_then(|index| i8::try_from(index).ok());
    let day = found.and_then(|index| Weekday::from_monday_zero_offset(index).ok());
    day.ok_or_else(|| serde::de::Error::custom(format!("{text:?} is none of {}", names.join(", "))))
}

fn zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TimeZone, D::Error> {
    let text = String::deserialize(deserializer)?;
    let unknown = |_| serde::de::Error::custom(format!("unknown time zone {text:?}: expected a name as Europe/Berlin"));
    TimeZone::get(&text).map_err(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn notify(yaml: &str) -> Notify {
        let notify: Notify = serde_saphyr::from_str(yaml).unwrap();
        notify.check().unwrap();
        notify
    }

    #[test]
    fn a_message_waits_for_others_for_quiet_hours_and_for_its_turn() {
        let quiet = "quietHours: { from: '22:00', to: '07:00', timezone: Europe/Berlin }";
        let noon = "quietHours: { from: '12:00', to: '13:00', timezone: UTC }";
        for (yaml, oldest, now, due) in [
            ("{}", "2026-03-02T10:00:00Z", "2026-03-02T10:00:00Z", "2026-03-02T10:05:00Z"),
            ("{}", "2026-03-02T10:00:00Z", "2026-03-02T11:00:00Z", "2026-03-02T11:00:00Z"),
            // The clock was ahead.
            ("{}", "2027-01-01T00:00:00Z", "2026-03-02T11:00:00Z", "2026-03-02T11:05:00Z"),
            (quiet, "2026-03-02T20:50:00Z", "2026-03-02T20:50:00Z", "2026-03-02T20:55:00Z"),
            (quiet, "2026-03-02T20:56:00Z", "2026-03-02T20:56:00Z", "2026-03-03T06:00:00Z"),
            (quiet, "2026-03-03T03:00:00Z", "2026-03-03T03:00:00Z", "2026-03-03T06:00:00Z"),
            // In summer their end is an hour earlier, also in the night in which clocks go forward.
            (quiet, "2026-03-28T22:00:00Z", "2026-03-28T22:00:00Z", "2026-03-29T05:00:00Z"),
            (quiet, "2026-10-24T22:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T06:00:00Z"),
            (noon, "2026-03-02T11:54:00Z", "2026-03-02T11:54:00Z", "2026-03-02T11:59:00Z"),
            (noon, "2026-03-02T11:55:00Z", "2026-03-02T11:55:00Z", "2026-03-02T13:00:00Z"),
            (noon, "2026-03-02T12:55:00Z", "2026-03-02T12:55:00Z", "2026-03-02T13:00:00Z"),
        ] {
            assert_eq!(notify(yaml).due(at(oldest), false, &[], at(now)), at(due), "{yaml} {oldest} {now}");
        }
        let summary = notify(quiet).due(at("2026-03-02T20:50:00Z"), true, &[], at("2026-03-02T20:50:00Z"));
        assert_eq!(summary, at("2026-03-02T20:50:00Z"), "the summary waits for no other notice");
    }

    #[test]
    fn no_more_messages_go_out_in_an_hour_than_configured() {
        let notify = notify("maxPerHour: 3");
        let now = at("2026-03-02T10:30:00Z");
        let due = |sent: &[&str]| {
            let sent: Vec<Timestamp> = sent.iter().map(|time| at(&format!("2026-03-02T{time}:00Z"))).collect();
            notify.due(at("2026-03-02T10:20:00Z"), false, &sent, now)
        };
        assert_eq!(due(&["10:01", "10:02"]), now);
        assert_eq!(due(&["10:01", "10:02", "10:03"]), at("2026-03-02T11:01:00Z"));
        assert_eq!(due(&["09:40", "10:01", "10:02", "10:03"]), at("2026-03-02T11:01:00Z"));
    }

    #[test]
    fn digests_keep_their_hour_when_clocks_change() {
        let daily = "digest: { every: daily, at: '02:30', timezone: Europe/Berlin }";
        let weekly = "digest: { every: weekly, on: friday, at: '09:00', timezone: America/New_York }";
        for (yaml, oldest, due) in [
            (daily, "2026-03-27T12:00:00Z", "2026-03-28T01:30:00Z"),
            // Clocks go from 02:00 to 03:00: the digest goes out at 03:30, and on the next day at 02:30 again.
            (daily, "2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z"),
            (daily, "2026-03-29T12:00:00Z", "2026-03-30T00:30:00Z"),
            // Clocks go from 03:00 to 02:00: it goes out at the first 02:30 only.
            (daily, "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
            (daily, "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
            (weekly, "2026-03-05T12:00:00Z", "2026-03-06T14:00:00Z"),
            (weekly, "2026-03-06T14:00:00Z", "2026-03-13T13:00:00Z"),
            ("digest: { every: weekly }", "2026-11-30T09:00:00Z", "2026-12-07T09:00:00Z"),
        ] {
            assert_eq!(notify(yaml).due(at(oldest), false, &[], at(oldest)), at(due), "{yaml} {oldest}");
        }
    }

    #[test]
    fn wrong_times_days_and_zones_are_named() {
        for (yaml, says) in [
            ("digest: { every: daily, at: 9am }", "invalid time \"9am\""),
            ("digest: { every: daily, at: '24:00' }", "invalid time \"24:00\""),
            ("digest: { every: weekly, on: Friday }", "\"Friday\" is none of monday"),
            ("digest: { every: daily, timezone: Berlin }", "unknown time zone \"Berlin\""),
            ("digest: { every: hourly }", "hourly"),
        ] {
            let error = serde_saphyr::from_str::<Notify>(yaml).unwrap_err().to_string();
            assert!(error.contains(says), "{yaml}: {error}");
        }
        for (yaml, says) in [
            ("maxPerHour: 0", "maxPerHour"),
            ("vulnerabilities: 26", "vulnerabilities"),
            ("quietHours: { from: '07:00', to: '07:00', timezone: UTC }", "the same"),
        ] {
            let error = serde_saphyr::from_str::<Notify>(yaml).unwrap().check().unwrap_err();
            assert!(error.contains(says), "{yaml}: {error}");
        }
    }
}
