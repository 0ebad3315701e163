//! Since when a subject has had a finding.

use std::collections::{BTreeMap, BTreeSet};

use super::time;
use crate::aggregator::Aggregator;
use crate::store::{Seen, StoreError, SubjectKey, VerdictId};

/// A subject, a vulnerability, and the type and name of the package that has it.
pub(super) type Had = (SubjectKey, String, (String, String));

/// Since when each subject has had each finding, in seconds since 1970.
#[derive(Debug, Default)]
pub(super) struct FirstSeen {
    since: BTreeMap<Had, i64>,
}

impl FirstSeen {
    /// Works it out from all that subjects ran, oldest first.
    ///
    /// A finding is as old as the oldest run since which every stack that the subject ran has had it: a new image with the same
    /// problem, a re-created container, a pause and a new database do not make it new; a stack without it does. Within a run it
    /// cannot be older than when matching first said so.
    fn of(rows: Vec<Seen>) -> Self {
        // Since when, and until when the last run with it lasted.
        let mut known: BTreeMap<Had, (i64, Option<i64>)> = BTreeMap::new();
        let mut runs: BTreeMap<(SubjectKey, i64, i64), Vec<Seen>> = BTreeMap::new();
        for row in rows {
            runs.entry((row.subject.clone(), row.since, row.package_set)).or_default().push(row);
        }
        for ((subject, began, _), rows) in runs {
            let until = rows.first().and_then(|row| row.until);
            let mut found: BTreeMap<Had, i64> = BTreeMap::new();
            for row in &rows {
                let Some(finding) = &row.finding else { continue };
                // Matching had taken it back before the run began, or first said so after the run had ended.
                let apart = finding.closed.is_some_and(|closed| closed < began)
                    || row.until.is_some_and(|until| finding.opened > until);
                if !apart {
                    let had = (subject.clone(), finding.vulnerability.clone(), finding.package.clone());
                    let first = found.entry(had).or_insert(i64::MAX);
                    *first = (*first).min(finding.opened.max(began));
                }
            }
            // A vulnerability that this run does not have starts anew later, unless another container of the subject has it meanwhile.
            known.retain(|had, (_, until)| {
                had.0 != subject || found.contains_key(had) || until.is_none_or(|until| until > began)
            });
            for (had, first) in found {
                let (_, last) = known.entry(had).or_insert((first, Some(began)));
                *last = match (*last, until) {
                    (Some(last), Some(until)) => Some(last.max(until)),
                    _ => None,
                };
            }
        }
        Self { since: known.into_iter().map(|(had, (first, _))| (had, first)).collect() }
    }

    /// Since when, in words; `otherwise` where nothing is known of it yet.
    pub(super) fn get(&self, had: &Had, otherwise: i64) -> String {
        time(self.since.get(had).copied().unwrap_or(otherwise))
    }
}

impl Aggregator {
    /// Returns since when these subjects have had findings of these vulnerabilities.
    pub(super) async fn first_seen(
        &self,
        subjects: BTreeSet<SubjectKey>,
        vulnerabilities: BTreeSet<String>,
    ) -> Result<FirstSeen, StoreError> {
        let subjects: Vec<SubjectKey> = subjects.into_iter().collect();
        let vulnerabilities: Vec<String> = vulnerabilities.into_iter().collect();
        Ok(FirstSeen::of(self.store.seen(&subjects, Some(&vulnerabilities)).await?))
    }
}

/// A finding that a subject had and has not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    /// The subject and the vulnerability.
    pub(super) had: Had,
    /// The last verdict that said so.
    pub(super) verdict: VerdictId,
    /// Since when it had been, in seconds since 1970.
    pub(super) since: i64,
    /// When it went.
    pub(super) on: i64,
}

/// Findings that subjects had and have not any more, from all that they ran; `now` is when those that run still do.
pub(super) fn fixed(rows: &[Seen], now: i64) -> Vec<Fixed> {
    let mut known: BTreeMap<Had, Fixed> = BTreeMap::new();
    for row in rows {
        let Some(finding) = &row.finding else { continue };
        let began = row.since.max(finding.opened);
        let ended = row.until.unwrap_or(now).min(finding.closed.unwrap_or(now));
        if ended < began {
            continue;
        }
        // A vulnerability of a current run is not fixed.
        let ended = if row.until.is_none() && finding.closed.is_none() { i64::MAX } else { ended };
        let had = (row.subject.clone(), finding.vulnerability.clone(), finding.package.clone());
        let fixed =
            known.entry(had.clone()).or_insert(Fixed { had, verdict: finding.verdict, since: began, on: ended });
        fixed.since = fixed.since.min(began);
        if ended >= fixed.on {
            (fixed.on, fixed.verdict) = (ended, finding.verdict);
        }
    }
    known.into_values().filter(|fixed| fixed.on < i64::MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SeenFinding;

    fn run(since: i64, until: Option<i64>, finding: Option<(i64, Option<i64>)>) -> Seen {
        let finding = finding.map(|(opened, closed)| SeenFinding {
            vulnerability: "CVE-1".to_owned(),
            package: ("npm".to_owned(), "a".to_owned()),
            verdict: 1,
            opened,
            closed,
        });
        Seen { subject: subject(), since, until, package_set: since, finding }
    }

    fn subject() -> SubjectKey {
        SubjectKey::Container { node: "node".into(), namespace: "shop".into(), container: "web".into() }
    }

    #[test]
    fn first_seen_survives_what_changes_nothing_and_begins_anew_after_it_was_mended() {
        let had = || (subject(), "CVE-1".to_owned(), ("npm".to_owned(), "a".to_owned()));
        let cases = [
            ("one run", vec![run(10, None, Some((12, None)))], 12),
            ("a run longer than matching knew", vec![run(10, None, Some((5, None)))], 10),
            ("a new image with it", vec![run(10, Some(20), Some((10, None))), run(20, None, Some((21, None)))], 10),
            ("a pause", vec![run(10, Some(20), Some((10, None))), run(900, None, Some((901, None)))], 10),
            (
                "an image without it between",
                vec![run(10, Some(20), Some((10, None))), run(20, Some(30), None), run(30, None, Some((31, None)))],
                31,
            ),
            (
                "a database that took it back, and one that has it again",
                vec![run(10, None, Some((10, Some(15)))), run(10, None, Some((18, None)))],
                10,
            ),
            (
                "taken back before the next image ran it",
                vec![
                    run(10, Some(20), Some((10, Some(15)))),
                    run(20, None, Some((1, Some(5)))),
                    run(30, None, Some((30, None))),
                ],
                30,
            ),
        ];
        for (what, rows, since) in cases {
            assert_eq!(FirstSeen::of(rows).get(&had(), 0), time(since), "{what}");
        }
    }

    #[test]
    fn what_is_fixed_is_known_with_its_time_and_what_is_open_is_not_fixed() {
        let cases = [
            ("it runs", vec![run(10, None, Some((12, None)))], None),
            ("an image without it", vec![run(10, Some(20), Some((10, None))), run(20, None, None)], Some((10, 20))),
            ("a database without it", vec![run(10, None, Some((10, Some(15))))], Some((10, 15))),
            ("and it is back", vec![run(10, None, Some((10, Some(15)))), run(10, None, Some((18, None)))], None),
            ("it was never there in that run", vec![run(10, Some(20), Some((30, None))), run(40, None, None)], None),
            (
                "another container has it still",
                vec![run(10, Some(20), Some((10, None))), run(12, None, Some((12, None)))],
                None,
            ),
        ];
        for (what, rows, expected) in cases {
            let fixed = fixed(&rows, 99);
            assert_eq!(fixed.first().map(|fixed| (fixed.since, fixed.on)), expected, "{what}");
        }
    }
}
