//! Since when a subject has had a finding.

use std::collections::{BTreeMap, BTreeSet};

use super::time;
use crate::aggregator::Aggregator;
use crate::store::{FindingName, PackageSetId, Seen, StoreError, SubjectKey};

/// A subject, and a finding that it has or had.
pub(super) type Had = (SubjectKey, FindingName);

/// Maximum number of pairs of a subject and a vulnerability whose history is read at a time.
const MAX_PAIRS: usize = 128;

/// Since when each subject has had each finding, in seconds since 1970.
#[derive(Debug, Default)]
pub(super) struct FirstSeen {
    since: BTreeMap<Had, i64>,
}

impl FirstSeen {
    /// Since when, in words; `otherwise` where nothing is known of it yet.
    pub(super) fn get(&self, had: &Had, otherwise: i64) -> String {
        time(self.since.get(had).copied().unwrap_or(otherwise))
    }
}

/// Works out [`FirstSeen`] from all that subjects ran, oldest first. It keeps one run at a time: a subject may have had very many.
///
/// A finding is as old as the oldest run since which every stack that the subject ran has had it: a new image with the same
/// problem, a re-created container, a pause and a new database do not make it new; a stack without it does. Within a run it
/// cannot be older than when matching first said so.
#[derive(Debug, Default)]
struct Runs {
    /// Since when, and until when the last run with it lasted.
    known: BTreeMap<Had, (i64, Option<i64>)>,
    current: Option<CurrentRun>,
}

/// The run whose rows are being read.
#[derive(Debug)]
struct CurrentRun {
    subject: SubjectKey,
    since: i64,
    until: Option<i64>,
    package_set: PackageSetId,
    found: BTreeMap<FindingName, i64>,
}

impl Runs {
    /// Adds a row of the store. The rows of a run come one after the other.
    fn add(&mut self, row: Seen) {
        let Seen { subject, since, until, package_set, finding } = row;
        let is_same = |run: &CurrentRun| (&run.subject, run.since, run.package_set) == (&subject, since, package_set);
        if !self.current.as_ref().is_some_and(is_same) {
            self.end_run();
        }
        let run = self.current.get_or_insert_with(|| CurrentRun {
            subject,
            since,
            until,
            package_set,
            found: BTreeMap::new(),
        });
        let Some(finding) = finding else { return };
        // Matching had taken it back before the run began, or first said so after the run had ended.
        let apart = finding.closed.is_some_and(|closed| closed < run.since)
            || run.until.is_some_and(|until| finding.opened > until);
        if !apart {
            let first = run.found.entry((finding.vulnerability, finding.package)).or_insert(i64::MAX);
            *first = (*first).min(finding.opened.max(run.since));
        }
    }

    fn end_run(&mut self) {
        let Some(CurrentRun { subject, since: began, until, found, .. }) = self.current.take() else { return };
        // A vulnerability that this run does not have starts anew later, unless another container of the subject has it meanwhile.
        self.known.retain(|(of, name), (_, until)| {
            *of != subject || found.contains_key(name) || until.is_none_or(|until| until > began)
        });
        for (name, first) in found {
            let (_, last) = self.known.entry((subject.clone(), name)).or_insert((first, Some(began)));
            *last = match (*last, until) {
                (Some(last), Some(until)) => Some(last.max(until)),
                _ => None,
            };
        }
    }

    /// Returns since when each finding has been there, after the last row.
    fn finish(mut self) -> impl Iterator<Item = (Had, i64)> {
        self.end_run();
        self.known.into_iter().map(|(had, (first, _))| (had, first))
    }
}

impl Aggregator {
    /// Returns since when subjects have had findings of vulnerabilities.
    pub(super) async fn first_seen(&self, pairs: BTreeSet<(SubjectKey, String)>) -> Result<FirstSeen, StoreError> {
        let pairs: Vec<(SubjectKey, String)> = pairs.into_iter().collect();
        let mut seen = FirstSeen::default();
        for pairs in pairs.chunks(MAX_PAIRS) {
            let (subjects, vulnerabilities): (BTreeSet<_>, BTreeSet<_>) = pairs.iter().cloned().unzip();
            let subjects: Vec<SubjectKey> = subjects.into_iter().collect();
            let vulnerabilities: Vec<String> = vulnerabilities.into_iter().collect();
            let mut runs = Runs::default();
            self.store.seen(&subjects, Some(&vulnerabilities), &mut |row| runs.add(row)).await?;
            seen.since.extend(runs.finish());
        }
        Ok(seen)
    }
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
        let had = || (subject(), ("CVE-1".to_owned(), ("npm".to_owned(), "a".to_owned())));
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
            let mut runs = Runs::default();
            rows.into_iter().for_each(|row| runs.add(row));
            let seen = FirstSeen { since: runs.finish().collect() };
            assert_eq!(seen.get(&had(), 0), time(since), "{what}");
        }
    }
}
