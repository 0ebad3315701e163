//! Who has what, and who is to read what: the aggregator's picture of its nodes.
//!
//! Plain data and pure functions over it. It knows no clock, no network and no disk: whoever calls says what time it is, and does what
//! it answers. What is known of layers and stacks outlives a restart in the store; what nodes have is told again by
//! themselves when they attach.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use outcrop_proto::identity::is_proved;
use outcrop_proto::wire::Seen;
use outcrop_proto::{Coverage, CoverageState, Digest, LayerId};

use crate::web::LayerCounts;

/// How long a node may take to read what was leased to it, until another one is asked.
pub(super) const LEASE: Duration = Duration::from_secs(120);

/// Most layers that are leased to one node at a time: with few, a node that dies holds up little.
const LEASES_OF_A_NODE: usize = 4;

/// How long a layer that could not be read is left alone after the first failure; twice as long after each one more.
const PAUSE: Duration = Duration::from_secs(60);

/// After so many failures a layer is left alone until the cataloguers change.
const MAX_FAILURES: u32 = 6;

/// A container's key on its node: the runtime's namespace, and the ID.
type Key = (String, String);

/// A node, as it told of itself.
#[derive(Debug)]
pub(super) struct Node {
    /// The version of its agent.
    pub(super) agent_version: String,
    /// Whether its stream lives.
    pub(super) attached: bool,
    /// When it was last heard.
    pub(super) heard: Instant,
    /// The number of its last report of containers; `None` until it told of all.
    sequence: Option<u64>,
    containers: BTreeMap<Key, Seen>,
}

/// A node is to read a layer.
#[derive(Debug)]
struct Lease {
    node: String,
    until: Instant,
}

/// A layer could not be read.
#[derive(Debug)]
struct Failure {
    reason: String,
    count: u32,
    again: Instant,
}

/// How far a stack is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stack {
    /// It is being merged and matched.
    Merging,
    /// A node was asked what its inventories cannot decide.
    Asked {
        /// Which one; `None` where none could be asked.
        node: Option<String>,
        /// Until when it may answer.
        until: Instant,
    },
    /// It is in the store.
    Done(Coverage),
}

/// A stack that is ready to be merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    /// Its identity.
    pub(super) stack: Digest,
    /// Its layers, newest first.
    pub(super) layers: Vec<LayerId>,
}

/// A report of changes that does not follow the last one: all containers are wanted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap;

/// The picture.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    nodes: BTreeMap<String, Node>,
    /// Layers whose inventories are in the store.
    known: HashSet<LayerId>,
    leases: HashMap<LayerId, Lease>,
    failures: HashMap<LayerId, Failure>,
    stacks: HashMap<Digest, Stack>,
    /// Stacks that nodes have and that are not in the store, with their layers: what is looked through at every report.
    waiting: HashMap<Digest, Vec<LayerId>>,
}

impl Fleet {
    /// A picture of no nodes, with what the store knows.
    pub(super) fn new(
        layers: impl IntoIterator<Item = LayerId>,
        stacks: impl IntoIterator<Item = (Digest, Coverage)>,
    ) -> Self {
        Self {
            known: layers.into_iter().collect(),
            stacks: stacks.into_iter().map(|(id, coverage)| (id, Stack::Done(coverage))).collect(),
            ..Self::default()
        }
    }

    /// A node's stream begins.
    pub(super) fn attach(&mut self, node: &str, agent_version: &str, now: Instant) {
        let entry = self.nodes.entry(node.to_owned()).or_insert_with(|| Node {
            agent_version: String::new(),
            attached: true,
            heard: now,
            sequence: None,
            containers: BTreeMap::new(),
        });
        agent_version.clone_into(&mut entry.agent_version);
        (entry.attached, entry.heard, entry.sequence) = (true, now, None);
    }

    /// A node's stream has ended: what it was to read, others may.
    pub(super) fn detach(&mut self, node: &str) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.attached = false;
        }
        self.leases.retain(|_, lease| lease.node != node);
        self.stacks
            .retain(|_, stack| !matches!(stack, Stack::Asked { node: asked, .. } if asked.as_deref() == Some(node)));
    }

    /// A node was heard.
    pub(super) fn heard(&mut self, node: &str, now: Instant) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.heard = now;
        }
    }

    /// A node tells of its containers: of all, or of what changed since its last report.
    ///
    /// # Errors
    /// When a report before this one is missing; then nothing changes.
    pub(super) fn containers(
        &mut self,
        node: &str,
        sequence: u64,
        full: bool,
        containers: Vec<Seen>,
        gone: &[Key],
    ) -> Result<(), Gap> {
        let containers: Vec<Seen> = containers.into_iter().map(|seen| self.undisputed(node, seen)).collect();
        let node = self.nodes.get_mut(node).ok_or(Gap)?;
        if full {
            node.containers.clear();
        } else if node.sequence.and_then(|last| last.checked_add(1)) != Some(sequence) {
            return Err(Gap);
        }
        node.sequence = Some(sequence);
        for key in gone {
            node.containers.remove(key);
        }
        for (stack, layers) in containers.iter().filter_map(|seen| seen.stack.as_ref()) {
            if !matches!(self.stacks.get(stack), Some(Stack::Done(_))) {
                self.waiting.insert(*stack, layers.clone());
            }
        }
        node.containers
            .extend(containers.into_iter().map(|seen| ((seen.containerd_namespace.clone(), seen.id.clone()), seen)));
        Ok(())
    }

    /// A container whose stack's identity does not prove its layers, and of whose stack another node names other layers, is not
    /// looked into: one of the two is wrong.
    fn undisputed(&self, node: &str, seen: Seen) -> Seen {
        let Some((stack, layers)) = seen.stack.as_ref().filter(|(_, layers)| !is_proved(layers)) else { return seen };
        let others = self.nodes.keys().filter(|other| *other != node);
        let other = others.flat_map(|other| self.stacks_of(other)).find(|(id, other)| id == stack && other != layers);
        if other.is_none() {
            return seen;
        }
        let reason =
            "disputed: another node names other layers for its stack, and no image configuration proves either";
        Seen { stack: None, refused: Some(Coverage::failed(reason)), ..seen }
    }

    /// Layers that `node` has, and nobody has read or is reading: from now on they are leased to it.
    pub(super) fn lease(&mut self, node: &str, now: Instant) -> Vec<LayerId> {
        let Some(has) = self.nodes.get(node).filter(|node| node.attached) else { return Vec::new() };
        let held = self.leases.values().filter(|lease| lease.node == node && lease.until > now).count();
        let is_free = |id: &LayerId| {
            !self.known.contains(id)
                && self.leases.get(id).is_none_or(|lease| lease.until <= now)
                && self.failures.get(id).is_none_or(|failure| failure.count < MAX_FAILURES && failure.again <= now)
        };
        let mut leased: Vec<LayerId> = Vec::new();
        for id in has.containers.values().filter_map(|seen| seen.stack.as_ref()).flat_map(|(_, layers)| layers) {
            if held + leased.len() >= LEASES_OF_A_NODE {
                break;
            }
            if is_free(id) && !leased.contains(id) {
                leased.push(*id);
            }
        }
        self.leases.extend(leased.iter().map(|id| (*id, Lease { node: node.to_owned(), until: now + LEASE })));
        leased
    }

    /// Whether `node` is to read the layer: what it says of others is not believed.
    pub(super) fn is_leased(&self, node: &str, layer: &LayerId) -> bool {
        self.leases.get(layer).is_some_and(|lease| lease.node == node)
    }

    /// The layers of a stack that some node has, newest first.
    pub(super) fn layers_of(&self, stack: &Digest) -> Option<Vec<LayerId>> {
        let mut stacks = self.nodes.keys().flat_map(|node| self.stacks_of(node));
        stacks.find(|(id, _)| id == stack).map(|(_, layers)| layers.clone())
    }

    /// Whether `node` has the stack.
    pub(super) fn has_stack(&self, node: &str, stack: &Digest) -> bool {
        self.stacks_of(node).any(|(id, _)| id == stack)
    }

    fn stacks_of(&self, node: &str) -> impl Iterator<Item = &(Digest, Vec<LayerId>)> {
        self.nodes
            .get(node)
            .into_iter()
            .flat_map(|node| node.containers.values())
            .filter_map(|seen| seen.stack.as_ref())
    }

    /// Whether the layer's inventory is in the store.
    pub(super) fn is_known(&self, layer: &LayerId) -> bool {
        self.known.contains(layer)
    }

    /// The layer's inventory is in the store.
    pub(super) fn known(&mut self, layer: LayerId) {
        self.leases.remove(&layer);
        self.failures.remove(&layer);
        self.known.insert(layer);
    }

    /// `node` could not read a layer that was leased to it.
    pub(super) fn unreadable_by(&mut self, node: &str, layer: LayerId, reason: String, now: Instant) {
        if !self.is_leased(node, &layer) {
            return;
        }
        self.leases.remove(&layer);
        let before = self.failures.get(&layer).map_or(0, |failure| failure.count);
        let again = now + PAUSE * 2_u32.saturating_pow(before.min(10));
        self.failures.insert(layer, Failure { reason, count: before + 1, again });
    }

    /// Stacks whose layers are all known and that nobody merges yet: from now on they are being merged.
    pub(super) fn ready(&mut self, now: Instant) -> Vec<Ready> {
        let is_idle = |stack: &Digest| match self.stacks.get(stack) {
            None => true,
            Some(Stack::Asked { until, .. }) => *until <= now,
            Some(Stack::Merging | Stack::Done(_)) => false,
        };
        let ready: Vec<Ready> = self
            .waiting
            .iter()
            .filter(|(stack, layers)| is_idle(stack) && layers.iter().all(|layer| self.is_known(layer)))
            .map(|(stack, layers)| Ready { stack: *stack, layers: layers.clone() })
            .collect();
        self.stacks.extend(ready.iter().map(|ready| (ready.stack, Stack::Merging)));
        ready
    }

    /// Forgets stacks that wait and that no node has any more.
    pub(super) fn tidy(&mut self) {
        let there: HashSet<Digest> =
            self.nodes.keys().flat_map(|node| self.stacks_of(node)).map(|(stack, _)| *stack).collect();
        self.waiting.retain(|stack, _| there.contains(stack));
    }

    /// Picks an attached node that has the stack, to be asked what inventories cannot decide. Where there is none, it is
    /// looked for again after a while.
    pub(super) fn ask(&mut self, stack: Digest, now: Instant) -> Option<String> {
        let node = self.nodes.iter().find(|(name, node)| node.attached && self.has_stack(name, &stack));
        let node = node.map(|(name, _)| name.clone());
        self.stacks.insert(stack, Stack::Asked { node: node.clone(), until: now + LEASE });
        node
    }

    /// Whether `node` was asked about the stack.
    pub(super) fn was_asked(&self, node: &str, stack: &Digest) -> bool {
        matches!(self.stacks.get(stack), Some(Stack::Asked { node: asked, .. }) if asked.as_deref() == Some(node))
    }

    /// The stack is being merged again.
    pub(super) fn merging(&mut self, stack: Digest) {
        self.stacks.insert(stack, Stack::Merging);
    }

    /// The stack is in the store.
    pub(super) fn done(&mut self, stack: Digest, coverage: Coverage) {
        self.waiting.remove(&stack);
        self.stacks.insert(stack, Stack::Done(coverage));
    }

    /// The nodes, by name.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(name, node)| (name.as_str(), node))
    }

    /// Every container with its node and its one coverage.
    pub(super) fn coverage(&self) -> impl Iterator<Item = (&str, &Seen, Coverage)> {
        let all = self.nodes.iter().flat_map(|(name, node)| node.containers.values().map(move |seen| (name, seen)));
        all.map(|(name, seen)| (name.as_str(), seen, self.coverage_of(seen)))
    }

    fn coverage_of(&self, seen: &Seen) -> Coverage {
        let (stack, layers) = match (&seen.stack, &seen.refused) {
            (_, Some(refused)) => return refused.clone(),
            (Some(stack), None) => stack,
            (None, None) => return Coverage::failed("its node said nothing of its storage"),
        };
        match self.stacks.get(stack) {
            Some(Stack::Done(coverage)) => return coverage.clone(),
            Some(Stack::Merging) => return Coverage::new(CoverageState::Pending, "its layers are being merged"),
            Some(Stack::Asked { node, .. }) => {
                let who = node
                    .as_ref()
                    .map_or("no node that has it is attached".to_owned(), |node| format!("node {node} was asked"));
                return Coverage::new(CoverageState::Pending, format!("its layers leave something open, and {who}"));
            }
            None => {}
        }
        if let Some(failure) = layers.iter().find_map(|layer| self.failures.get(layer)) {
            return Coverage::failed(&failure.reason);
        }
        let waiting = layers.iter().filter(|layer| !self.is_known(layer)).count();
        Coverage::new(CoverageState::Pending, format!("{waiting} of its {} layers have not been read", layers.len()))
    }

    /// Layers that the nodes have, by how far they are.
    pub(super) fn layer_counts(&self) -> LayerCounts {
        let there: BTreeSet<&LayerId> = self
            .nodes
            .values()
            .flat_map(|node| node.containers.values())
            .filter_map(|seen| seen.stack.as_ref())
            .flat_map(|(_, layers)| layers)
            .collect();
        let mut counts = LayerCounts::default();
        for id in there {
            let count = if self.known.contains(id) {
                &mut counts.known
            } else if self.leases.contains_key(id) {
                &mut counts.leased
            } else if self.failures.contains_key(id) {
                &mut counts.failed
            } else {
                &mut counts.waiting
            };
            *count += 1;
        }
        counts
    }
}

impl Node {
    /// How many containers it told of.
    pub(super) fn containers(&self) -> usize {
        self.containers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> LayerId {
        LayerId::Diff(Digest::of(name.as_bytes()))
    }

    /// A container of an image with these layers, newest first.
    fn container(name: &str, layers: &[&str]) -> Seen {
        Seen {
            containerd_namespace: "k8s.io".to_owned(),
            id: name.to_owned(),
            name: name.to_owned(),
            pod: None,
            image: "example.org/image:1".to_owned(),
            stack: Some((Digest::of(layers.concat().as_bytes()), layers.iter().map(|name| id(name)).collect())),
            refused: None,
            steps: Vec::new(),
        }
    }

    /// Two nodes, of which each runs one image; both images stand on one base.
    fn two_nodes(now: Instant) -> Fleet {
        let mut fleet = Fleet::default();
        for (node, app) in [("a", "shop"), ("b", "bank")] {
            fleet.attach(node, "0.1.0", now);
            fleet.containers(node, 0, true, vec![container(app, &[app, "base"])], &[]).unwrap();
        }
        fleet
    }

    fn states(fleet: &Fleet) -> Vec<CoverageState> {
        fleet.coverage().map(|(_, _, coverage)| coverage.state).collect()
    }

    #[test]
    fn a_layer_on_two_nodes_is_leased_to_one() {
        let now = Instant::now();
        let mut fleet = two_nodes(now);
        assert_eq!(fleet.lease("a", now), [id("shop"), id("base")]);
        assert_eq!(fleet.lease("b", now), [id("bank")]);
        assert_eq!(fleet.lease("a", now), [], "what is leased is not leased again");
        assert_eq!(fleet.layer_counts(), LayerCounts { leased: 3, ..LayerCounts::default() });
    }

    #[test]
    fn a_lease_ends_with_its_time_and_with_its_node() {
        let now = Instant::now();
        let mut fleet = two_nodes(now);
        fleet.lease("a", now);
        assert_eq!(fleet.lease("b", now + LEASE), [id("bank"), id("base")]);
        let mut fleet = two_nodes(now);
        fleet.lease("a", now);
        fleet.detach("a");
        assert_eq!(fleet.lease("b", now), [id("bank"), id("base")]);
        assert_eq!(fleet.lease("a", now), [], "a node that is gone is asked nothing");
    }

    #[test]
    fn a_stack_is_ready_once_when_all_its_layers_are_known() {
        let now = Instant::now();
        let mut fleet = two_nodes(now);
        fleet.known(id("shop"));
        assert_eq!(fleet.ready(now), []);
        fleet.known(id("base"));
        let ready = fleet.ready(now);
        assert_eq!(ready.iter().map(|ready| ready.layers.clone()).collect::<Vec<_>>(), [vec![id("shop"), id("base")]]);
        assert_eq!(fleet.ready(now), []);
        fleet.done(ready[0].stack, Coverage::new(CoverageState::Scanned, ""));
        assert_eq!(states(&fleet), [CoverageState::Scanned, CoverageState::Pending]);
    }

    #[test]
    fn a_layer_that_cannot_be_read_is_left_alone_longer_each_time_and_in_the_end_for_good() {
        let mut now = Instant::now();
        let mut fleet = two_nodes(now);
        for failure in 0..MAX_FAILURES {
            assert!(fleet.lease("a", now).contains(&id("base")), "try {failure}");
            fleet.unreadable_by("a", id("base"), "bad sectors".to_owned(), now);
            assert!(!fleet.lease("a", now).contains(&id("base")));
            now += PAUSE * 2_u32.pow(failure);
        }
        assert!(!fleet.lease("a", now + LEASE * 1000).contains(&id("base")));
        assert!(states(&fleet).iter().all(|state| *state == CoverageState::Failed));
    }

    #[test]
    fn changes_that_do_not_follow_the_last_report_are_refused() {
        let now = Instant::now();
        let mut fleet = two_nodes(now);
        let more = || vec![container("more", &["more", "base"])];
        assert_eq!(fleet.containers("a", 2, false, more(), &[]), Err(Gap));
        assert_eq!(fleet.containers("a", 1, false, more(), &[]), Ok(()));
        assert_eq!(fleet.coverage().count(), 3);
        let gone = [("k8s.io".to_owned(), "shop".to_owned())];
        assert_eq!(fleet.containers("a", 2, false, Vec::new(), &gone), Ok(()));
        assert_eq!(fleet.coverage().count(), 2);
        fleet.attach("a", "0.2.0", now);
        assert_eq!(fleet.containers("a", 3, false, more(), &[]), Err(Gap), "after a new stream all are wanted");
    }

    #[test]
    fn an_open_question_goes_to_a_node_that_has_the_stack_and_to_another_when_that_one_goes() {
        let now = Instant::now();
        let mut fleet = two_nodes(now);
        fleet.containers("b", 1, false, vec![container("shop", &["shop", "base"])], &[]).unwrap();
        ["shop", "base"].into_iter().for_each(|layer| fleet.known(id(layer)));
        let stack = fleet.ready(now)[0].stack;
        assert_eq!(fleet.ask(stack, now).as_deref(), Some("a"));
        assert!(fleet.was_asked("a", &stack) && !fleet.was_asked("b", &stack));
        assert_eq!(fleet.ready(now), [], "it waits for the answer");
        fleet.detach("a");
        assert_eq!(fleet.ready(now).len(), 1);
        assert_eq!(fleet.ask(stack, now).as_deref(), Some("b"));
        fleet.detach("b");
        fleet.ready(now);
        assert_eq!(fleet.ask(stack, now), None);
        assert_eq!(fleet.ready(now), []);
        assert_eq!(fleet.ready(now + LEASE).len(), 1, "somebody may have come back");
    }

    #[test]
    fn two_nodes_that_name_other_layers_for_one_unproved_stack_are_not_both_believed() {
        let now = Instant::now();
        let mut fleet = two_nodes(now);
        let unproved = |name: &str, below: &str| {
            let chain = |name: &str| LayerId::Chain(Digest::of(name.as_bytes()));
            Seen { stack: Some((Digest::of(b"top"), vec![chain("top"), chain(below)])), ..container(name, &[]) }
        };
        fleet.containers("a", 1, true, vec![unproved("honest", "base")], &[]).unwrap();
        fleet.containers("b", 1, true, vec![unproved("liar", "empty"), unproved("other", "base")], &[]).unwrap();
        let said: Vec<(&str, CoverageState)> = fleet
            .coverage()
            .map(|(_, seen, coverage)| (if seen.id == "liar" { "liar" } else { "honest" }, coverage.state))
            .collect();
        assert_eq!(
            said,
            [("honest", CoverageState::Pending), ("liar", CoverageState::Failed), ("honest", CoverageState::Pending)]
        );
    }

    #[test]
    fn what_nobody_has_any_more_is_not_waited_for() {
        let now = Instant::now();
        let mut fleet = two_nodes(now);
        fleet.containers("a", 1, true, Vec::new(), &[]).unwrap();
        fleet.tidy();
        ["shop", "bank", "base"].into_iter().for_each(|layer| fleet.known(id(layer)));
        assert_eq!(fleet.ready(now).len(), 1, "the bank alone");
    }

    #[test]
    fn every_container_has_exactly_one_state() {
        let now = Instant::now();
        let mut fleet = two_nodes(now);
        let refused = Seen { stack: None, refused: Some(Coverage::unsupported("devmapper")), ..container("c", &[]) };
        fleet.containers("a", 1, false, vec![refused], &[]).unwrap();
        let counted: usize = CoverageState::ALL
            .iter()
            .map(|state| fleet.coverage().filter(|(_, _, coverage)| coverage.state == *state).count())
            .sum();
        assert_eq!((counted, fleet.coverage().count()), (3, 3));
    }
}
