//! Determines whether a version is affected: it is listed explicitly or lies within a range
//! ([OSV's evaluation](https://ossf.github.io/osv-schema/#evaluation)).

use super::osv::{Event, Range};
use super::version::{Version, VersionOrder};

/// Maximum number of evaluated events of a range. The longest real range has about three hundred.
const MAX_EVENTS: usize = 10_000;

/// The result for one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not affected.
    Unaffected,
    /// Affected, with the first fixed version, if there is one.
    Affected(Option<String>),
}

/// The version of a package, parsed once for all its advisories.
#[derive(Debug)]
pub(super) struct Installed<'a> {
    order: VersionOrder,
    text: &'a str,
    parsed: Version,
}

impl<'a> Installed<'a> {
    pub(super) fn parse(order: VersionOrder, text: &'a str) -> Self {
        Self { order, text, parsed: Version::parse(order, text) }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }
}

/// Evaluates ranges and listed versions for `version`.
pub(super) fn evaluate(version: &Installed<'_>, ranges: &[Range], versions: &[String]) -> Verdict {
    let Installed { order, text, parsed } = version;
    let order = *order;
    let mut fixed: Option<(Version, String)> = None;
    let mut affected = versions.iter().any(|listed| listed == text || Version::parse(order, listed) == *parsed);
    let listed = affected;
    for range in ranges.iter().filter(|range| range.r#type != "GIT") {
        let (within, fix) = within(order, parsed, &range.events);
        affected |= within;
        // A listed version may lie outside of all ranges. Its fix is the next one above it.
        if within || listed {
            fixed = match (fixed, fix) {
                (Some(a), Some(b)) => Some(if b.0 < a.0 { b } else { a }),
                (a, b) => a.or(b),
            };
        }
    }
    if affected { Verdict::Affected(fixed.map(|(_, fixed)| fixed)) } else { Verdict::Unaffected }
}

/// Returns whether a version lies within a range, and the first fix above it.
fn within(order: VersionOrder, version: &Version, events: &[Event]) -> (bool, Option<(Version, String)>) {
    enum Boundary {
        Introduced,
        Fixed,
        LastAffected,
    }
    let mut boundaries: Vec<(Version, Boundary)> = Vec::new();
    let mut limits: Vec<Version> = Vec::new();
    let mut fix: Option<(Version, String)> = None;
    let mut from_start = false;
    for event in events.iter().take(MAX_EVENTS) {
        let parse = |text: &String| Version::parse(order, text);
        if let Some(introduced) = &event.introduced {
            if introduced == "0" {
                from_start = true;
            } else {
                boundaries.push((parse(introduced), Boundary::Introduced));
            }
        }
        if let Some(text) = &event.fixed {
            let parsed = parse(text);
            if parsed > *version && fix.as_ref().is_none_or(|(fix, _)| parsed < *fix) {
                fix = Some((parsed.clone(), text.clone()));
            }
            boundaries.push((parsed, Boundary::Fixed));
        }
        if let Some(last) = &event.last_affected {
            boundaries.push((parse(last), Boundary::LastAffected));
        }
        if let Some(limit) = event.limit.as_ref().filter(|limit| *limit != "*") {
            limits.push(parse(limit));
        }
    }
    // The sort is stable: events at the same version keep the order of the record.
    boundaries.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut affected = from_start;
    for (at, boundary) in &boundaries {
        match boundary {
            Boundary::Introduced if version >= at => affected = true,
            Boundary::Fixed if version >= at => affected = false,
            Boundary::LastAffected if version > at => affected = false,
            _ => {}
        }
    }
    let below_limit = limits.is_empty() || limits.iter().any(|limit| version < limit);
    (affected && below_limit, fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(events: &str) -> Vec<Range> {
        let event = |word: &str| {
            let (kind, version) = word.split_once('=').unwrap();
            let version = Some(version.to_owned());
            match kind {
                "introduced" => Event { introduced: version, ..Event::default() },
                "fixed" => Event { fixed: version, ..Event::default() },
                "last" => Event { last_affected: version, ..Event::default() },
                _ => Event { limit: version, ..Event::default() },
            }
        };
        vec![Range { r#type: "ECOSYSTEM".to_owned(), events: events.split(' ').map(event).collect() }]
    }

    #[test]
    fn ranges_are_evaluated_as_the_schema_defines() {
        let fixed = |version: &str| Verdict::Affected(Some(version.to_owned()));
        let cases = [
            ("introduced=0 fixed=1.2", "1.1", fixed("1.2")),
            ("introduced=0 fixed=1.2", "1.2", Verdict::Unaffected),
            ("introduced=1.0", "0.9", Verdict::Unaffected),
            ("introduced=1.0", "7", Verdict::Affected(None)),
            ("introduced=1.0 last=1.5", "1.5", Verdict::Affected(None)),
            ("introduced=1.0 last=1.5", "1.6", Verdict::Unaffected),
            ("introduced=1 fixed=1.2 introduced=2 fixed=2.2", "2.1", fixed("2.2")),
            ("introduced=1 fixed=1.2 introduced=2 fixed=2.2", "1.5", Verdict::Unaffected),
            ("fixed=2.2 introduced=2 fixed=1.2 introduced=1", "1.1", fixed("1.2")),
            ("introduced=0 limit=2", "1", Verdict::Affected(None)),
            ("introduced=0 limit=2", "2", Verdict::Unaffected),
        ];
        for (events, version, expected) in cases {
            let version = Installed::parse(VersionOrder::Dpkg, version);
            assert_eq!(evaluate(&version, &range(events), &[]), expected, "{events} {version:?}");
        }
    }

    #[test]
    fn listed_versions_are_affected_also_outside_of_ranges() {
        let listed = ["1.0".to_owned()];
        let version = |text| Installed::parse(VersionOrder::Pep440, text);
        assert_eq!(evaluate(&version("1.0.0"), &[], &listed), Verdict::Affected(None));
        assert_eq!(evaluate(&version("1.1"), &[], &listed), Verdict::Unaffected);
        let ranges = range("introduced=2 fixed=3");
        assert_eq!(evaluate(&version("1.0"), &ranges, &listed), Verdict::Affected(Some("3".to_owned())));
    }
}
