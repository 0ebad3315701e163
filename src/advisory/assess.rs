//! Determines whether ecosystems could be matched.
//!
//! Zero findings are meaningful only if the database has current advisories for the ecosystem. Every ecosystem of every container is
//! `matched`, `stale` or `unmatched`, with a reason.

use std::collections::BTreeSet;

use outcrop_proto::{AssessedState, Distribution, PackageType};
use serde::Serialize;

use super::database::SourceInfo;

/// Hint for a source that is stale.
pub const REBUILD: &str = "rebuild the database from a current feed";

/// Age in days of a source's newest record above which the source is stale.
pub const STALE_AFTER_DAYS: i64 = 30;

/// Parses the date of `--db-as-of`.
///
/// # Errors
/// When the text is not a date.
pub fn parse_date(text: &str) -> Result<jiff::civil::Date, String> {
    text.parse().map_err(|_| "expected a date, for example 2026-11-30".to_owned())
}

/// Returns the warning about a day, other than today, on which the age of the database is judged.
pub fn as_of_warning(day: jiff::civil::Date) -> String {
    format!("the age of the advisory database is judged on {day} and not today (--db-as-of): it may be out of date")
}

/// The state of matching of one ecosystem of a target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Assessed {
    /// OSV's name of the ecosystem, with the release for a distribution.
    pub ecosystem: String,
    /// The state.
    pub state: AssessedState,
    /// The reason; empty if the ecosystem is matched.
    pub reason: String,
}

/// Dates, as (ecosystem, year, month, day), after which a release gets no more fixes from its distribution: the end of Debian's LTS, of Ubuntu's
/// standard support, and of the security support of Alpine and the RPM distributions, from their release pages.
const END_OF_LIFE: &[(&str, i16, u8, u8)] = &[
    ("Debian:8", 2020, 6, 30),
    ("Debian:9", 2022, 6, 30),
    ("Debian:10", 2024, 6, 30),
    ("Debian:11", 2026, 8, 31),
    ("Debian:12", 2028, 6, 30),
    ("Debian:13", 2030, 6, 30),
    ("Ubuntu:16.04:LTS", 2021, 4, 30),
    ("Ubuntu:18.04:LTS", 2023, 5, 31),
    ("Ubuntu:20.04:LTS", 2025, 5, 31),
    ("Ubuntu:22.04:LTS", 2027, 4, 30),
    ("Ubuntu:24.04:LTS", 2029, 4, 30),
    ("Alpine:v3.14", 2023, 5, 1),
    ("Alpine:v3.15", 2023, 11, 1),
    ("Alpine:v3.16", 2024, 5, 23),
    ("Alpine:v3.17", 2024, 11, 22),
    ("Alpine:v3.18", 2025, 5, 9),
    ("Alpine:v3.19", 2025, 11, 1),
    ("Alpine:v3.20", 2026, 4, 1),
    ("Alpine:v3.21", 2026, 11, 1),
    ("Alpine:v3.22", 2027, 5, 1),
    ("Alpine:v3.23", 2027, 11, 1),
    ("AlmaLinux:8", 2029, 3, 1),
    ("AlmaLinux:9", 2032, 5, 31),
    ("Rocky Linux:8", 2029, 5, 31),
    ("Rocky Linux:9", 2032, 5, 31),
];

/// Returns the state of each ecosystem of these types of packages on the day `now`.
pub fn assess(
    sources: &[SourceInfo],
    distribution: Option<&Distribution>,
    kinds: impl IntoIterator<Item = PackageType>,
    now: jiff::civil::Date,
) -> Vec<Assessed> {
    let kinds: BTreeSet<PackageType> = kinds.into_iter().collect();
    let mut assessed: Vec<Assessed> = kinds
        .into_iter()
        .map(|kind| match kind.ecosystem().osv() {
            Some(ecosystem) => by_source(sources, &[ecosystem.to_owned()], now),
            None => by_distribution(sources, kind, distribution, now),
        })
        .collect();
    assessed.sort();
    assessed.dedup();
    assessed
}

fn unmatched(ecosystem: impl Into<String>, reason: impl Into<String>) -> Assessed {
    Assessed { ecosystem: ecosystem.into(), state: AssessedState::Unmatched, reason: reason.into() }
}

fn by_distribution(
    sources: &[SourceInfo],
    kind: PackageType,
    distribution: Option<&Distribution>,
    now: jiff::civil::Date,
) -> Assessed {
    let Some(distribution) = distribution else {
        return unmatched(kind.as_str(), "unknown distribution: the image has no os-release");
    };
    match distribution.osv_ecosystems() {
        None => unmatched(&distribution.id, "no advisory source covers this distribution"),
        Some(names) if names.is_empty() => {
            unmatched(&distribution.id, "unknown release: os-release has no usable VERSION_ID")
        }
        Some(names) => by_source(sources, &names, now),
    }
}

impl SourceInfo {
    /// Returns the age of the newest record in days, or `None` if its date is unknown.
    pub fn age_days(&self, now: jiff::civil::Date) -> Option<i64> {
        let newest = self.newest.get(..10).and_then(|day| day.parse::<jiff::civil::Date>().ok());
        newest.and_then(|day| now.since(day).ok()).map(|span| i64::from(span.get_days()))
    }
}

/// Returns the state of the first of `names` that the database has.
fn by_source(sources: &[SourceInfo], names: &[String], now: jiff::civil::Date) -> Assessed {
    let first = names.first().cloned().unwrap_or_default();
    let ended = END_OF_LIFE
        .iter()
        .find(|(ecosystem, ..)| *ecosystem == first)
        .map(|(_, year, month, day)| jiff::civil::date(*year, (*month).cast_signed(), (*day).cast_signed()))
        .filter(|end| *end < now);
    let ended = ended.map(|end| format!("end of life since {end}: later vulnerabilities have no advisory"));
    let Some(source) = names.iter().find_map(|name| sources.iter().find(|source| source.ecosystem == *name)) else {
        return unmatched(first, ended.unwrap_or_else(|| "the advisory database has no source for it".to_owned()));
    };
    if let Some(reason) = ended {
        return unmatched(source.ecosystem.clone(), reason);
    }
    match source.age_days(now) {
        Some(age) if age <= STALE_AFTER_DAYS => {
            Assessed { ecosystem: source.ecosystem.clone(), state: AssessedState::Matched, reason: String::new() }
        }
        Some(age) => Assessed {
            ecosystem: source.ecosystem.clone(),
            state: AssessedState::Stale,
            reason: format!("the newest record is {age} days old; {REBUILD}"),
        },
        None => Assessed {
            ecosystem: source.ecosystem.clone(),
            state: AssessedState::Stale,
            reason: "the records have no modification date".to_owned(),
        },
    }
}
