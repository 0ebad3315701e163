//! A node.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use outcrop_proto::wire::v1;
use outcrop_proto::{Digest, LayerId, NodeState};

use super::{Container, Key, Now};

/// Maximum number of problems that an agent reports, and maximum size of each, in bytes.
const MAX_PROBLEMS: usize = 8;
const MAX_PROBLEM: usize = 512;

/// Maximum number of namespaces that are recorded as unconfirmed, and maximum size of their names, in bytes.
const MAX_UNCONFIRMED: usize = 64;
const MAX_NAMESPACE: usize = 256;

/// Maximum number of leases of one node. It is low, so that a node that dies delays few layers.
const LEASES: usize = 4;

/// Maximum number of leases of a node that has not delivered an inventory. It may never deliver one.
const FIRST_LEASES: usize = 1;

/// Time during which other nodes are preferred to a node that did not answer.
const LATE_FOR: Duration = Duration::from_secs(3600);

/// A node's record of answers to leases and cross-reads, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// It has delivered an inventory.
    Delivers,
    /// It has not delivered anything yet.
    New,
    /// It did not answer recently.
    Late,
}

/// A node, as its agent reports it.
#[derive(Clone, Debug)]
pub(in crate::aggregator) struct Node {
    /// The version of its agent.
    pub(in crate::aggregator) agent_version: String,
    /// The version of its catalogers.
    pub(in crate::aggregator) catalogers: u32,
    /// The weakest sandbox of its agent's processes.
    pub(in crate::aggregator) cage: String,
    /// Whether it can read overlay's marks.
    pub(in crate::aggregator) marks: bool,
    /// Whether its stream is open.
    pub(in crate::aggregator) attached: bool,
    /// The number of its latest stream.
    pub(super) stream: u64,
    /// When its last message arrived.
    pub(in crate::aggregator) last_message: Instant,
    /// The latest metrics of its agent.
    pub(in crate::aggregator) metrics: Option<v1::Metrics>,
    /// The number of its last report of containers; `None` until it has reported all of them.
    pub(super) sequence: Option<u64>,
    /// Namespaces of the runtime for which the node could not find out what runs.
    pub(super) unconfirmed: BTreeSet<String>,
    /// Its containers.
    pub(in crate::aggregator) containers: BTreeMap<Key, Container>,
    /// Its stacks, each with the number of its containers.
    pub(super) stacks: BTreeMap<Digest, u32>,
    /// Memory for its containers, in bytes.
    pub(super) weight: usize,
    /// Layers that the node has to read, by leases and cross-reads.
    pub(super) assigned: HashSet<LayerId>,
    /// Set if it has delivered an inventory since it last failed to answer.
    pub(super) delivers: bool,
    /// When it last failed to answer: a lease or a cross-read expired, or its stream ended before.
    pub(super) late: Option<Instant>,
}

impl Node {
    /// Returns the node's rank among the nodes that could read a layer; the lowest is preferred. Nodes that deliver come first, then those that
    /// have not been asked yet, so that nodes that take leases and never answer delay few layers, however many attach.
    pub(super) fn rank(&self, now: Now) -> Rank {
        match (self.late, self.delivers) {
            (Some(late), _) if now.instant.saturating_duration_since(late) < LATE_FOR => Rank::Late,
            (_, true) => Rank::Delivers,
            (_, false) => Rank::New,
        }
    }

    /// Returns how many further leases the node may have.
    pub(super) fn room(&self) -> usize {
        let most = if self.delivers { LEASES } else { FIRST_LEASES };
        most.saturating_sub(self.assigned.len())
    }

    /// Records that the node did not answer a lease or a cross-read.
    pub(super) fn set_late(&mut self, now: Now) {
        (self.delivers, self.late) = (false, Some(now.instant));
    }

    /// Returns what its agent cannot do at the moment, by its own report; nothing while its stream is not open.
    pub(in crate::aggregator) fn problems(&self) -> &[v1::Problem] {
        self.metrics.as_ref().filter(|_| self.attached).map_or(&[], |metrics| metrics.problems.as_slice())
    }

    /// Returns whether the node could not find out if a container still runs, so that its last known state is shown.
    pub(in crate::aggregator) fn is_unconfirmed(&self, key: &Key) -> bool {
        self.unconfirmed.contains(&*key.namespace)
    }

    /// Records the namespaces for which the node could not find out what runs, within a bound.
    pub(super) fn set_unconfirmed(&mut self, namespaces: &[String]) {
        let short = namespaces.iter().filter(|namespace| namespace.len() <= MAX_NAMESPACE);
        self.unconfirmed = short.take(MAX_UNCONFIRMED).cloned().collect();
    }

    /// Returns its state.
    pub(in crate::aggregator) fn state(&self) -> NodeState {
        match (self.attached, self.problems()) {
            (false, _) => NodeState::Silent,
            (true, []) => NodeState::Attached,
            (true, _) => NodeState::Degraded,
        }
    }
}

/// Shortens what an agent chooses in its metrics.
pub(super) fn bounded(mut metrics: v1::Metrics) -> v1::Metrics {
    metrics.roles.truncate(8);
    metrics.roles.iter_mut().for_each(|role| role.name = role.name.chars().take(32).collect());
    metrics.problems.truncate(MAX_PROBLEMS);
    for problem in &mut metrics.problems {
        problem.message = problem.message[..problem.message.floor_char_boundary(MAX_PROBLEM)].to_owned();
    }
    metrics
}
