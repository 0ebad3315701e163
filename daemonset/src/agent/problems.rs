//! Problems of the agent: parts of its work that it cannot do at the moment. The agent reports them with its metrics, since it has no listener.

use std::collections::BTreeMap;

use outcrop_proto::clock;
use outcrop_proto::wire::v1;

use super::containers::Containers;
use crate::logging::safe;
use crate::runtime::{Gap, Lacks};

/// Maximum number of problems in a report; the last one counts the others.
const MAX_PROBLEMS: usize = 8;

/// Maximum size of a message, bytes.
const MAX_MESSAGE: usize = 512;

/// Identity of a problem: the affected part of the work, and which one of several.
type Key = (Part, String);

/// A part of the agent's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// All requests to the runtime.
    Runtime,
    /// A part of the list of containers.
    List(Lacks),
    /// Looking up where containers can be read.
    Describing,
    /// The same, later.
    Postponed,
    /// Opening layers.
    Reading,
}

/// The current problems.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// Why the last request to the runtime failed as a whole.
    runtime: Option<String>,
    /// Why the last layer could not be read, if that says nothing about the layer.
    reading: Option<String>,
    current: BTreeMap<Key, v1::Problem>,
}

impl Problems {
    /// Records that a request to the runtime failed as a whole, or that one succeeded.
    pub(super) fn set_runtime(&mut self, reason: Option<String>) {
        self.runtime = reason;
    }

    /// Records that this process could not read a layer at all, or that it read one.
    pub(super) fn set_reading(&mut self, reason: Option<String>) {
        self.reading = reason;
    }

    /// Updates the list. Returns whether a problem began, changed or ended.
    pub(super) fn update(&mut self, containers: &Containers) -> bool {
        let mut next: BTreeMap<Key, String> = BTreeMap::new();
        next.extend(self.runtime.clone().map(|reason| ((Part::Runtime, String::new()), reason)));
        for gap in containers.gaps() {
            next.insert((Part::List(gap.lacks), gap.namespace.clone()), message(gap));
        }
        let counts = [
            (
                Part::Describing,
                containers.undescribed(),
                "cannot be read: the runtime does not report where their layers are",
            ),
            (Part::Postponed, containers.postponed(), "are not described yet: the runtime responds slowly"),
        ];
        for (part, count, what) in counts.into_iter().filter(|(_, count, _)| *count > 0) {
            let hint = "see the reasons with outcrop get containers -o wide, and the runtime's log";
            next.insert((part, String::new()), format!("{count} containers {what}; {hint}"));
        }
        let reading = self.reading.as_ref().map(|reason| {
            format!(
                "the last layer could not be read for a reason on the node: {reason}; run outcrop-agent doctor there"
            )
        });
        next.extend(reading.map(|reason| ((Part::Reading, String::new()), reason)));
        self.replace(next)
    }

    /// Makes `next` the current problems. A problem that stays keeps its start.
    fn replace(&mut self, next: BTreeMap<Key, String>) -> bool {
        let mut has_changed = false;
        for (_, ended) in self.current.extract_if(.., |key, _| !next.contains_key(key)) {
            tracing::info!(reason = %safe(&ended.message), "problem cleared");
            has_changed = true;
        }
        for (key, mut message) in next {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE));
            match self.current.get_mut(&key) {
                Some(known) if known.message == message => {}
                Some(known) => {
                    known.message = message;
                    has_changed = true;
                }
                None => {
                    tracing::warn!(reason = %safe(&message), "problem raised");
                    self.current.insert(key, v1::Problem { message, since: clock::timestamp().as_second() });
                    has_changed = true;
                }
            }
        }
        has_changed
    }

    /// Returns whether there is a problem that a later list may end.
    pub(super) fn has_gaps(&self) -> bool {
        self.current.keys().any(|(part, _)| matches!(part, Part::List(_)))
    }

    /// Returns the problems for a report.
    pub(super) fn report(&self) -> Vec<v1::Problem> {
        let mut problems: Vec<v1::Problem> = self.current.values().cloned().collect();
        if problems.len() > MAX_PROBLEMS {
            let more = problems.split_off(MAX_PROBLEMS - 1);
            let since = more.iter().map(|problem| problem.since).min().unwrap_or_default();
            problems.push(v1::Problem { message: format!("{} more problems, see the agent's log", more.len()), since });
        }
        problems
    }
}

/// Describes a gap and its effect.
fn message(gap: &Gap) -> String {
    let effect = match gap.lacks {
        Lacks::Namespaces => "namespaces that were created since then are not seen",
        Lacks::Containers => "its containers keep their last state, and new ones are not seen",
        Lacks::States => "its containers keep their last state, and new ones are assumed to be running",
        Lacks::Details => "its new containers cannot be read",
        Lacks::Events => return gap.reason.clone(),
    };
    format!("{}: {effect}", gap.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(problems: &Problems) -> Vec<String> {
        problems.report().into_iter().map(|problem| problem.message).collect()
    }

    #[test]
    fn a_problem_is_reported_until_it_ends_and_no_problem_is_left_out() {
        let key = |number: usize| (Part::List(Lacks::States), format!("namespace-{number:02}"));
        let some = |numbers: std::ops::Range<usize>| {
            numbers.map(|number| (key(number), format!("{number} {}", "ä".repeat(MAX_MESSAGE)))).collect()
        };
        let mut problems = Problems::default();
        assert!(problems.replace(some(0..2)) && problems.has_gaps());
        assert!(!problems.replace(some(0..2)), "nothing has changed");
        assert!(messages(&problems).iter().all(|message| message.len() <= MAX_MESSAGE));
        assert!(problems.replace(some(0..20)));
        let all = messages(&problems);
        assert_eq!((all.len(), all.last().unwrap().as_str()), (8, "13 more problems, see the agent's log"));
        assert!(problems.replace(some(1..2)) && messages(&problems).len() == 1);
        assert!(problems.replace(BTreeMap::new()) && problems.report().is_empty() && !problems.has_gaps());
    }
}
