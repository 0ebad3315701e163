//! The list of current problems.
//!
//! Each part of the aggregator raises a problem under a key and clears it under the same key. The status, the metrics, `outcrop doctor` and
//! the page all show this one list, so that they cannot disagree.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use outcrop_proto::{Word, clock};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

/// Maximum size of a message, in bytes: a cause may quote text from outside.
const MAX_MESSAGE: usize = 2048;

/// The part of Outcrop that has a problem.
///
/// The words are stable: they are in the status, and the value of the label `kind` in metrics. A client reads them leniently, since a newer
/// aggregator may have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemKind {
    /// The store accepts no writes, or a write failed.
    Store,
    /// The advisory database could not be loaded; the previous one stays in use.
    Database,
    /// Stacks could not be matched against the advisory database; matching is retried.
    Matching,
    /// A certificate could not be reloaded or renewed, or expires soon.
    Certificate,
    /// A token file could not be reloaded.
    Tokens,
    /// The certificate authority could not be published for agents.
    Publishing,
    /// The selection policy could not be loaded or evaluated.
    Policy,
    /// The API server does not answer a watch, or forbids it.
    Watch,
    /// A target does not accept deliveries.
    Delivery,
    /// Two agents attach as one node.
    Agents,
    /// Layers were set aside, because the aggregator ended while it merged them.
    Merging,
    /// The agent of a node cannot do a part of its work, or has been silent for long.
    Nodes,
}

impl ProblemKind {
    /// All kinds, in the order in which they are listed.
    pub const ALL: [Self; 12] = [
        Self::Store,
        Self::Database,
        Self::Matching,
        Self::Certificate,
        Self::Tokens,
        Self::Publishing,
        Self::Policy,
        Self::Watch,
        Self::Delivery,
        Self::Agents,
        Self::Merging,
        Self::Nodes,
    ];

    /// Returns the word for the kind, as JSON and metrics have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Database => "database",
            Self::Matching => "matching",
            Self::Certificate => "certificate",
            Self::Tokens => "tokens",
            Self::Publishing => "publishing",
            Self::Policy => "policy",
            Self::Watch => "watch",
            Self::Delivery => "delivery",
            Self::Agents => "agents",
            Self::Merging => "merging",
            Self::Nodes => "nodes",
        }
    }
}

impl Word for ProblemKind {
    const NAME: &'static str = "ProblemKind";
    const WORDS: &'static [Self] = &Self::ALL;

    fn word(self) -> &'static str {
        self.as_str()
    }
}

/// A problem that has been raised and not cleared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveProblem {
    /// The part of Outcrop that has the problem.
    pub kind: ProblemKind,
    /// Identifies one of several problems of a kind, such as the path of a file; empty if there is only one.
    pub subject: String,
    /// The cause, and a hint.
    pub message: String,
    /// When the problem was raised, in seconds since 1970.
    pub since: i64,
}

impl ActiveProblem {
    /// Returns what tells the problem from every other: the kind, and the subject where it has one.
    pub fn key(&self) -> String {
        match self.subject.as_str() {
            "" => self.kind.as_str().to_owned(),
            subject => format!("{} {subject}", self.kind.as_str()),
        }
    }
}

/// The registry of active problems. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    active: Arc<Mutex<BTreeMap<(ProblemKind, String), ActiveProblem>>>,
    changed: Arc<Notify>,
}

impl Problems {
    /// Raises a problem, or replaces the message of one that is active. Logs an event when it was not active before.
    pub fn raise(&self, kind: ProblemKind, subject: &str, message: impl Into<String>) {
        let mut message: String = message.into();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        let since = clock::timestamp().as_second();
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        match active.get_mut(&(kind, subject.to_owned())) {
            Some(known) if known.message == message => {}
            Some(known) => {
                debug!(kind = kind.as_str(), subject, reason = message, "problem changed");
                known.message = message;
            }
            None => {
                warn!(kind = kind.as_str(), subject, reason = message, "problem raised");
                let problem = ActiveProblem { kind, subject: subject.to_owned(), message, since };
                active.insert((kind, subject.to_owned()), problem);
                self.changed.notify_one();
            }
        }
    }

    /// Clears a problem. Logs an event when it was active.
    pub fn clear(&self, kind: ProblemKind, subject: &str) {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if active.remove(&(kind, subject.to_owned())).is_some() {
            info!(kind = kind.as_str(), subject, "problem cleared");
            self.changed.notify_one();
        }
    }

    /// Raises the problem where there is a message, and clears it where there is none.
    pub fn set(&self, kind: ProblemKind, subject: &str, message: Option<String>) {
        match message {
            Some(message) => self.raise(kind, subject, message),
            None => self.clear(kind, subject),
        }
    }

    /// Makes `messages` the active problems of a kind: raises those that are new and clears all others. Each message is its own subject's.
    pub fn replace(&self, kind: ProblemKind, messages: impl IntoIterator<Item = (String, String)>) {
        let wanted: BTreeMap<String, String> = messages.into_iter().collect();
        let active: Vec<String> =
            self.list().into_iter().filter(|problem| problem.kind == kind).map(|problem| problem.subject).collect();
        active.iter().filter(|subject| !wanted.contains_key(*subject)).for_each(|subject| self.clear(kind, subject));
        wanted.into_iter().for_each(|(subject, message)| self.raise(kind, &subject, message));
    }

    /// Waits until a problem was raised or cleared since the last call returned. There is one caller.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Returns the active problems, ordered by kind and subject.
    pub fn list(&self) -> Vec<ActiveProblem> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(problems: &Problems) -> Vec<(ProblemKind, String, String)> {
        problems.list().into_iter().map(|problem| (problem.kind, problem.subject, problem.message)).collect()
    }

    #[test]
    fn a_problem_is_listed_from_when_it_is_raised_until_it_is_cleared() {
        let problems = Problems::default();
        problems.raise(ProblemKind::Watch, "pods", "forbidden");
        problems.raise(ProblemKind::Store, "", "full");
        problems.raise(ProblemKind::Watch, "pods", "forbidden again");
        let store = (ProblemKind::Store, String::new(), "full".to_owned());
        let watch = (ProblemKind::Watch, "pods".to_owned(), "forbidden again".to_owned());
        assert_eq!(listed(&problems), [store.clone(), watch]);
        problems.set(ProblemKind::Watch, "pods", None);
        problems.clear(ProblemKind::Watch, "never raised");
        assert_eq!(listed(&problems), [store]);
    }

    #[test]
    fn replacing_the_problems_of_a_kind_leaves_other_kinds_alone() {
        let problems = Problems::default();
        problems.raise(ProblemKind::Store, "", "full");
        problems
            .replace(ProblemKind::Watch, [("pods".to_owned(), "a".to_owned()), ("nodes".to_owned(), "b".to_owned())]);
        problems.replace(ProblemKind::Watch, [("nodes".to_owned(), "c".to_owned())]);
        let store = (ProblemKind::Store, String::new(), "full".to_owned());
        assert_eq!(listed(&problems), [store, (ProblemKind::Watch, "nodes".to_owned(), "c".to_owned())]);
    }

    #[test]
    fn a_message_is_cut_at_a_bound_and_between_characters() {
        let problems = Problems::default();
        problems.raise(ProblemKind::Store, "", "ä".repeat(MAX_MESSAGE));
        assert!(
            problems
                .list()
                .iter()
                .all(|problem| problem.message.len() <= MAX_MESSAGE && problem.message.ends_with('ä'))
        );
    }

    #[test]
    fn every_kind_is_found_by_its_word() {
        for kind in ProblemKind::ALL {
            assert_eq!(ProblemKind::from_word(kind.word()), Some(kind));
        }
    }
}
