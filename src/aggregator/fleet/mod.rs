//! The fleet: nodes, their containers, stacks and layers, and the decisions about which node reads which layer.
//!
//! Plain data and pure functions: the caller passes the time, and sends and stores what the functions return. After a restart, layers and
//! stacks come from the store, and containers from the nodes, which report all of them when they attach. Counts are updated with each
//! change, so that a query over the whole fleet iterates over stacks, of which there are far fewer than containers.

mod checks;
mod container;
mod counts;
mod layers;
mod node;
mod queue;
mod runs;
mod shared;
mod stacks;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::RandomState;
use std::ops::{Bound, Deref};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outcrop_proto::container::GONE_BEFORE_READING;
use outcrop_proto::identity::is_proved;
use outcrop_proto::wire::{Seen, v1};
use outcrop_proto::{ContainerKey, Coverage, CoverageState, Digest, ImageDetails, LayerId, Runtime};

pub(super) use checks::Answered;
pub(super) use container::{Container, Key, Placed};
pub(super) use counts::{Overview, Visible};
pub(super) use node::Node;
pub(super) use runs::{subject, workload_key};
pub(super) use stacks::Stack;
pub(super) use verify::{Distrusted, Verified, Witness};

use super::owner::State;
use crate::store::{Layer as KnownLayer, StackId, SubjectKey, Summary, inputs};
use crate::web::Lifetimes;
use container::{shortened, weight_of};
use layers::Layer;
use node::bounded;
use runs::Runs;
use shared::SharedMap;

/// Time after which a lease expires and another node may read the layer.
pub(super) const LEASE: Duration = Duration::from_secs(LEASE_SECONDS as u64);

/// [`LEASE`] in seconds, as it is sent to nodes.
pub(super) const LEASE_SECONDS: u32 = 120;

/// Maximum number of containers of a node. A kubelet starts 110 pods by default.
const MAX_CONTAINERS: usize = 20_000;

/// Maximum memory for the containers of one node, in bytes. A thousand containers of a hundred images need about five MiB.
const MAX_WEIGHT: usize = 32 << 20;

/// Configuration of leases and verification.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Share, from 0 to 1, of the layers on several nodes that a second node reads.
    pub(super) verify_share: f64,
    /// A second node always reads layers of more containers than this.
    pub(super) verify_containers: u32,
    /// Maximum time from the first to the second read.
    pub(super) verify_within: Duration,
    /// Time after which a silent node is removed, with everything that only this node had.
    pub(super) forget_after: Duration,
    /// The version of the catalogers that the aggregator knows. A higher version that a node claims counts as this version.
    pub(super) catalogers: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            verify_share: 1.0,
            verify_containers: 20,
            verify_within: Duration::from_secs(3600),
            forget_after: Duration::from_secs(24 * 3600),
            catalogers: outcrop_agent::catalog::VERSION,
        }
    }
}

/// First word of the reason of a container whose layers are not accepted.
const DISPUTED: &str = "disputed";

/// The time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Time of the monotonic clock, for timeouts.
    pub(super) instant: Instant,
    /// Seconds since 1970.
    pub(super) unix: i64,
}

/// A node's report of its containers.
#[derive(Debug)]
pub(super) struct Report {
    /// The stream that the report arrived on.
    pub(super) stream: u64,
    /// Sequence number of the report.
    pub(super) sequence: u64,
    /// Whether the report lists all containers of the node, and not only changes since the previous report.
    pub(super) full: bool,
    /// New and changed containers.
    pub(super) containers: Vec<Seen>,
    /// Keys of containers that have ended.
    pub(super) gone: Vec<ContainerKey>,
    /// Namespaces of the runtime for which the node could not find out what runs. A full report ends no container of theirs.
    pub(super) unconfirmed: Vec<String>,
}

/// Why a report of containers was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusedReport {
    /// The previous report is missing, so the node has to report all containers again.
    Gap,
    /// The node would have more containers than the limit.
    TooMany,
    /// The report arrived on a stream that a later stream of the node has replaced, so it may be outdated.
    Replaced,
}

/// A snapshot of the fleet for readers. Cloning it is cheap, and a clone never changes.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    nodes: SharedMap<Arc<str>, Node>,
    stacks: SharedMap<Digest, Stack>,
    layers: SharedMap<LayerId, Layer>,
    /// Distrusted nodes, attached or not.
    distrusted: BTreeSet<String>,
    /// Containers that are not scanned, by reason and namespace.
    refused: BTreeMap<(Arc<Coverage>, Option<Arc<str>>), u32>,
    /// Number of [strays](Container::is_stray).
    strays: u32,
    /// Containers since the start.
    lifetimes: Lifetimes,
    /// Whether an advisory database is in use, so that a stack without complete findings is pending.
    matches: bool,
}

/// The picture, and the state that only the task that changes it needs.
#[derive(Debug)]
pub(super) struct Fleet {
    rules: Rules,
    picture: Picture,
    /// Stacks that may have become ready to be merged.
    touched: HashSet<Digest>,
    /// Stacks of the store that were not merged since its migration. Nobody may run them anymore.
    unmerged: Vec<Summary>,
    runs: Runs,
    /// When [`Self::tidy`] ran first.
    started: Option<Instant>,
    /// Interned names.
    names: HashSet<Arc<str>>,
    /// Interned properties of images.
    details: HashSet<Arc<ImageDetails>>,
    /// Selects the layers to verify and the nodes that read them. No node can predict the selection.
    random: RandomState,
}

impl State for Fleet {
    type Snapshot = Picture;

    fn snapshot(&self) -> Picture {
        self.picture.clone()
    }
}

impl Deref for Fleet {
    type Target = Picture;

    fn deref(&self) -> &Picture {
        &self.picture
    }
}

impl Fleet {
    /// Creates a fleet without nodes, with the layers, stacks and distrusted nodes in the store.
    pub(super) fn new(
        rules: Rules,
        layers: impl IntoIterator<Item = KnownLayer>,
        stacks: impl IntoIterator<Item = Summary>,
        distrusted: impl IntoIterator<Item = String>,
    ) -> Self {
        let layers: SharedMap<LayerId, Layer> =
            layers.into_iter().map(|known| (known.id, Layer::stored(known))).collect();
        let distrusted: BTreeSet<String> = distrusted.into_iter().collect();
        let (current, stale): (Vec<Summary>, Vec<Summary>) = stacks
            .into_iter()
            .partition(|summary| is_current(&layers, summary) && !summary.is_decided_only_by(&distrusted));
        let unmerged = stale.into_iter().filter(|summary| summary.inputs.is_none() && summary.catalogers > 0).collect();
        let picture = Picture {
            nodes: SharedMap::default(),
            // Other stacks are merged again when a node reports them: their packages were removed, or were merged from other inventories
            // than those that are in the store now.
            stacks: current.into_iter().map(|summary| (summary.chain, Stack::stored(summary))).collect(),
            layers,
            distrusted,
            refused: BTreeMap::new(),
            strays: 0,
            lifetimes: Lifetimes::default(),
            matches: false,
        };
        Self {
            rules,
            picture,
            touched: HashSet::new(),
            unmerged,
            runs: Runs::default(),
            started: None,
            names: HashSet::new(),
            details: HashSet::new(),
            random: RandomState::new(),
        }
    }

    /// Returns the shared copy of a name.
    fn intern(&mut self, name: &str) -> Arc<str> {
        match self.names.get(name) {
            Some(known) => Arc::clone(known),
            None => {
                let name: Arc<str> = name.into();
                self.names.insert(Arc::clone(&name));
                name
            }
        }
    }

    /// Returns the shared copy of an image's properties.
    fn intern_details(&mut self, details: ImageDetails) -> Arc<ImageDetails> {
        if let Some(known) = self.details.get(&details) {
            return Arc::clone(known);
        }
        let details = Arc::new(details);
        self.details.insert(Arc::clone(&details));
        details
    }

    /// Attaches a node with this stream. The leases of an earlier stream of the node end. A stream older than the current one is ignored.
    pub(super) fn attach(&mut self, name: &str, hello: &v1::Hello, stream: u64, now: Now) {
        if let Some(earlier) = self.picture.nodes.get(name).map(|node| node.stream) {
            if earlier > stream {
                return;
            }
            self.detach(name, earlier, now);
        }
        let name = self.intern(name);
        let node = self.picture.nodes.entry(name, || Node {
            agent_version: String::new(),
            catalogers: 0,
            cage: String::new(),
            marks: false,
            attached: true,
            stream,
            last_message: now.instant,
            metrics: None,
            sequence: None,
            unconfirmed: BTreeSet::new(),
            containers: BTreeMap::new(),
            stacks: BTreeMap::new(),
            weight: 0,
            assigned: HashSet::new(),
            delivers: false,
            late: None,
        });
        let cut = |text: &str| text.chars().take(100).collect();
        (node.agent_version, node.cage) = (cut(&hello.agent_version), cut(&hello.cage));
        (node.catalogers, node.marks) = (hello.catalogers, hello.marks);
        (node.attached, node.stream, node.last_message, node.sequence) = (true, stream, now.instant, None);
    }

    /// Detaches a node whose stream has ended, and ends its leases. Returns `false` if the node was not attached with this stream.
    pub(super) fn detach(&mut self, name: &str, stream: u64, now: Now) -> bool {
        let node = self.picture.nodes.get(name).filter(|node| node.attached && node.stream == stream);
        if node.is_none() {
            return false;
        }
        let Some(node) = self.picture.nodes.get_mut(name) else { return false };
        node.attached = false;
        if !node.assigned.is_empty() {
            node.set_late(now);
        }
        for id in std::mem::take(&mut node.assigned) {
            if let Some(layer) = self.picture.layers.get_mut(&id) {
                layer.release(name);
            }
        }
        for (digest, stack) in self.picture.stacks.select_mut(|_, stack| stack.is_checked_by(name)) {
            stack.cancel_check();
            self.touched.insert(*digest);
        }
        true
    }

    /// Records that an advisory database is in use: from now on, a stack without complete findings is pending.
    pub(super) fn use_database(&mut self) {
        self.picture.matches = true;
    }

    /// Records the time of a node's message.
    pub(super) fn record_message(&mut self, node: &str, now: Now) {
        if let Some(node) = self.picture.nodes.get_mut(node) {
            node.last_message = now.instant;
        }
    }

    /// Records the metrics of a node's agent.
    pub(super) fn metrics(&mut self, node: &str, metrics: v1::Metrics) {
        if let Some(node) = self.picture.nodes.get_mut(node) {
            node.metrics = Some(bounded(metrics));
        }
    }

    /// Applies a node's report of its containers. `place` returns the pod and workload of each container.
    ///
    /// # Errors
    /// When the previous report is missing, or the node would have too many containers. In both cases nothing changes.
    pub(super) fn containers(
        &mut self,
        name: &str,
        report: Report,
        place: &dyn Fn(&Seen) -> Placed,
        now: Now,
    ) -> Result<(), RefusedReport> {
        let Report { stream, sequence, full, containers, gone, unconfirmed } = report;
        let is_complete = full && unconfirmed.is_empty();
        let node = self.picture.nodes.get_mut(name).ok_or(RefusedReport::Gap)?;
        if node.stream != stream {
            return Err(RefusedReport::Replaced);
        }
        if !full && node.sequence.and_then(|last| last.checked_add(1)) != Some(sequence) {
            return Err(RefusedReport::Gap);
        }
        let (kept, weight) = if is_complete { (0, 0) } else { (node.containers.len(), node.weight) };
        let added: usize = containers.iter().map(weight_of).sum();
        if kept + containers.len() > MAX_CONTAINERS || weight + added > MAX_WEIGHT {
            return Err(RefusedReport::TooMany);
        }
        node.sequence = Some(sequence);
        node.set_unconfirmed(&unconfirmed);
        let reported: HashSet<(Runtime, &str, &str)> =
            containers.iter().map(|seen| (seen.key.runtime, &*seen.key.namespace, &*seen.key.id)).collect();
        let unconfirmed: HashSet<&str> = unconfirmed.iter().map(String::as_str).collect();
        let has_ended = |key: &&Key| {
            !reported.contains(&(key.runtime, &*key.namespace, &*key.id)) && !unconfirmed.contains(&*key.namespace)
        };
        let mut ended: Vec<Key> = match full {
            true => node.containers.keys().filter(has_ended).cloned().collect(),
            false => Vec::new(),
        };
        ended.extend(gone.into_iter().map(Key::from));
        for seen in containers {
            let placed = place(&seen);
            self.upsert_container(name, seen, placed, now);
        }
        // Ended containers are removed last: a container that one report lists as new and as ended has existed.
        for key in ended {
            self.end_container(name, &key, now);
        }
        if is_complete {
            self.runs.report_completed(name, now.unix);
        }
        Ok(())
    }

    /// Adds a container, or replaces it if it has changed.
    fn upsert_container(&mut self, name: &str, seen: Seen, placed: Placed, now: Now) {
        let key = Key {
            runtime: seen.key.runtime,
            namespace: self.intern(&seen.key.namespace),
            id: Arc::from(seen.key.id.as_str()),
        };
        let weight = weight_of(&seen);
        let refused = self.contradiction(name, &seen).or(seen.refused).map(|coverage| Arc::new(shortened(coverage)));
        let names = (self.intern(&seen.name), self.intern(&seen.image));
        let mut container = Container::reported(names, seen.pod, refused, weight, now);
        container.storage = seen.storage;
        container.details = seen.details.map(|details| self.intern_details(details));
        container.set_place(placed);
        let stack = seen.stack.filter(|_| container.refused.is_none());
        container.stack = stack.as_ref().map(|(stack, _)| *stack);
        let Some(node) = self.picture.nodes.get(name) else { return };
        let before = node.containers.get(&key);
        if before.is_some_and(|before| Container { since: before.since, ..container.clone() } == *before) {
            return;
        }
        // A container that has changed keeps its start.
        let since = before.map_or(now.unix, |before| before.since);
        let is_new = before.is_none();
        if let Some((digest, layers)) = stack {
            self.add_stack(name, digest, layers, seen.steps, now);
        }
        if !is_new {
            self.remove_container(name, &key, now);
        } else {
            self.picture.lifetimes.seen += 1;
        }
        self.add(name, key, Container { since, ..container }, now);
    }

    /// Removes a container that has ended.
    fn end_container(&mut self, name: &str, key: &Key, now: Now) {
        let container = self.picture.nodes.get(name).and_then(|node| node.containers.get(key));
        let Some(coverage) = container.map(|container| self.coverage_of(container)) else { return };
        self.remove_container(name, key, now);
        let unread = coverage.state == CoverageState::Pending;
        let state = if unread { CoverageState::Failed } else { coverage.state };
        *self.picture.lifetimes.ended.entry(state.into()).or_default() += 1;
        if unread || coverage.reason == GONE_BEFORE_READING {
            self.picture.lifetimes.gone_before_reading += 1;
        }
    }

    fn add(&mut self, name: &str, key: Key, container: Container, now: Now) {
        let namespace = container.namespace().map(ToOwned::to_owned).map(|namespace| self.intern(&namespace));
        let Some((name, _)) = self.picture.nodes.get_key_value(name) else { return };
        let name = Arc::clone(name);
        self.picture.strays += u32::from(container.is_stray);
        if let Some(digest) = container.stack {
            self.runs.begin(&name, &key.namespace, &container, digest, now.unix);
            let Some(stack) = self.picture.stacks.get_mut(&digest) else { return };
            if stack.containers() == 0 {
                for id in stack.layers() {
                    self.picture.layers.entry(*id, Layer::default).stacks.insert(digest);
                }
                self.touched.insert(digest);
            }
            stack.add(&name, namespace);
            if stack.has_started_on(&name, now) {
                self.touched.insert(digest);
            }
            for id in stack.layers() {
                if let Some(layer) = self.picture.layers.get_mut(id) {
                    layer.containers += 1;
                    // On another node than its reader's, the layer is doubted from now on.
                    if layer.read().is_some_and(KnownLayer::has_unconfirmed_marks) {
                        self.touched.insert(digest);
                    }
                }
            }
        } else if let Some(refused) = &container.refused {
            *self.picture.refused.entry((Arc::clone(refused), namespace)).or_default() += 1;
        }
        if let Some(node) = self.picture.nodes.get_mut(&name) {
            if let Some(digest) = container.stack {
                *node.stacks.entry(digest).or_default() += 1;
            }
            node.weight += container.weight;
            node.containers.insert(key, container);
        }
    }

    fn remove_container(&mut self, name: &str, key: &Key, now: Now) -> Option<Container> {
        let shared = Arc::clone(self.picture.nodes.get_key_value(name)?.0);
        let node = self.picture.nodes.get_mut(name)?;
        let container = node.containers.remove(key)?;
        node.weight = node.weight.saturating_sub(container.weight);
        self.picture.strays -= u32::from(container.is_stray);
        let namespace = container.namespace().and_then(|namespace| self.names.get(namespace)).cloned();
        if let Some(digest) = container.stack {
            decrement(&mut node.stacks, &digest);
            self.runs.end(&shared, &key.namespace, &container, digest, now.unix);
            let stack = self.picture.stacks.get_mut(&digest)?;
            stack.remove(name, namespace);
            let is_last = stack.containers() == 0;
            for id in stack.layers() {
                if let Some(layer) = self.picture.layers.get_mut(id) {
                    layer.containers = layer.containers.saturating_sub(1);
                    if is_last {
                        layer.stacks.remove(&digest);
                    }
                }
            }
        } else if let Some(refused) = &container.refused {
            decrement(&mut self.picture.refused, &(Arc::clone(refused), namespace));
        }
        Some(container)
    }

    /// Updates pod and workload of these containers of Kubernetes, given by node and ID. Returns the nodes that have to report all containers
    /// again, because a container of theirs is not excluded any more and its layers were not recorded.
    pub(super) fn relocate(
        &mut self,
        touched: impl IntoIterator<Item = (Arc<str>, Arc<str>)>,
        place: &dyn Fn(&str, &str) -> Placed,
        now: Now,
    ) -> BTreeSet<Arc<str>> {
        let mut again = BTreeSet::new();
        for (name, id) in touched {
            let Some(node) = self.picture.nodes.get(&name) else { continue };
            let mut known = Key::of_kubernetes(&id).filter_map(|key| Some((node.containers.get(&key)?, key)));
            let Some((before, key)) = known.next() else { continue };
            let mut container = before.clone();
            container.set_place(place(&name, &key.id));
            if before.is_excluded && !container.is_excluded {
                again.insert(name);
            } else if container != *before {
                self.remove_container(&name, &key, now);
                self.add(&name, key, container, now);
            }
        }
        again
    }

    /// Ends stored runs of workloads that no node has reported since the restart, except for subjects that are still expected.
    pub(super) fn end_workloads(&mut self, is_expected: impl Fn(&SubjectKey) -> bool, now: Now) {
        self.runs.end_workloads(is_expected, now.unix);
    }

    /// Returns the coverage of a container whose layers are not accepted: another node has reported other layers for the same stack, and the stack's
    /// identity does not prove which are right.
    fn contradiction(&self, name: &str, seen: &Seen) -> Option<Coverage> {
        let (digest, layers) = seen.stack.as_ref()?;
        let stack = self.picture.stacks.get(digest).filter(|stack| stack.layers() != layers.as_slice())?;
        let is_replaced = self.picture.is_distrusted(stack.listed_by()) && !self.picture.is_distrusted(name);
        // Layers that are proved are used for a container whose node reports others, unless some are missing among them.
        let is_disputed = match (is_proved(layers), stack.is_proved()) {
            (true, true) => false,
            (true, false) => layers.len() < stack.layers().len(),
            (false, true) => stack.layers().len() < layers.len(),
            (false, false) => true,
        };
        (is_disputed && !is_replaced).then(|| {
            Coverage::failed(format!(
                "{DISPUTED}: another node reports other layers for the stack, and no image configuration proves either"
            ))
        })
    }

    /// Returns the nodes that have to report all containers again after `name` was distrusted, because layers that it reported for a stack are
    /// replaced by theirs.
    fn relisting(&self, name: &str) -> BTreeSet<Arc<str>> {
        let listed = self.picture.stacks.iter().filter(|(_, stack)| stack.listed_by() == name);
        let holders = listed.flat_map(|(_, stack)| stack.nodes()).map(Arc::clone);
        let is_disputed = |container: &Container| {
            container.refused.as_ref().is_some_and(|refused| refused.reason.starts_with(DISPUTED))
        };
        let refused = self.picture.nodes.iter().filter(|(_, node)| node.containers.values().any(is_disputed));
        let all = holders.chain(refused.map(|(name, _)| Arc::clone(name)));
        all.filter(|name| self.picture.usable(name).is_some()).collect()
    }

    /// Removes nodes that have been silent for too long, and stacks and layers that no node has and that are not in the store.
    pub(super) fn tidy(&mut self, now: Now) {
        let silent = |node: &Node| {
            !node.attached && now.instant.saturating_duration_since(node.last_message) > self.rules.forget_after
        };
        let forgotten: Vec<Arc<str>> =
            self.picture.nodes.iter().filter(|(_, node)| silent(node)).map(|(name, _)| Arc::clone(name)).collect();
        for name in forgotten {
            self.remove_node(&name, now);
        }
        // Nodes in the store that have not attached since the start.
        let started = *self.started.get_or_insert(now.instant);
        if now.instant.saturating_duration_since(started) > self.rules.forget_after {
            self.runs.forget_absent(|node| self.picture.nodes.contains_key(node), now.unix);
        }
        self.picture.stacks.retain(|_, stack| stack.containers() > 0 || stack.is_kept());
        self.picture.layers.retain(|_, layer| layer.is_kept());
        self.names.retain(|name| Arc::strong_count(name) > 1);
        self.details.retain(|details| Arc::strong_count(details) > 1);
    }

    /// Removes a node that was deleted, with everything that only this node had, unless it is attached with a later stream than `stream`, which is the
    /// one that was ended for this. Returns the number of its containers.
    pub(super) fn delete_node(&mut self, name: &str, stream: Option<u64>, now: Now) -> Option<usize> {
        let node = self.picture.nodes.get(name)?;
        let (containers, attached) = (node.containers.len(), node.stream);
        if node.attached {
            if stream != Some(attached) {
                return None;
            }
            self.detach(name, attached, now);
        }
        self.remove_node(name, now);
        Some(containers)
    }

    /// Removes a node that is not attached. A node of this name that attaches later is new.
    fn remove_node(&mut self, name: &str, now: Now) {
        let keys: Vec<Key> =
            self.picture.nodes.get(name).map(|node| node.containers.keys().cloned().collect()).unwrap_or_default();
        for key in keys {
            self.end_container(name, &key, now);
        }
        self.runs.report_completed(name, now.unix);
        self.picture.nodes.remove(name);
        let failing = self.picture.layers.select_mut(|_, layer| layer.has_failed(name));
        failing.for_each(|(_, layer)| layer.clear_failures(name));
    }

    /// Discards layers and stacks that are no longer in the store, after it has removed unused ones. Must not run during a merge. `layers` and
    /// `stacks` are those in the store; layers that were read after `since` are kept, because they may be newer than the two lists.
    pub(super) fn keep_only(&mut self, layers: &HashSet<LayerId>, stacks: &HashSet<Digest>, since: i64) {
        let mut lost = Vec::new();
        let is_gone =
            |id: &LayerId, layer: &Layer| layer.read().is_some_and(|read| read.read_at < since) && !layers.contains(id);
        for (_, layer) in self.picture.layers.select_mut(is_gone) {
            layer.discard();
            lost.extend(layer.stacks().copied());
        }
        let is_gone = |digest: &Digest, stack: &Stack| stack.summary().is_some() && !stacks.contains(digest);
        for (digest, stack) in self.picture.stacks.select_mut(is_gone) {
            stack.forget();
            // A container may have started with it since the store was tidied.
            lost.push(*digest);
        }
        self.invalidate(lost);
    }

    /// Returns the runs that have to be stored: those that have started, and those that have ended.
    pub(super) fn take_runs(&mut self) -> (Vec<crate::store::Run>, Vec<crate::store::Run>) {
        self.runs
            .take(|digest| self.picture.stacks.get(digest).and_then(|stack| stack.summary()).map(|summary| summary.id))
    }

    /// Restores the stored runs that had not ended when the aggregator stopped, each with the row id of its stack.
    pub(super) fn restore_runs(&mut self, runs: impl IntoIterator<Item = (SubjectKey, Digest, StackId)>) {
        self.runs.restore(runs);
    }
}

impl Picture {
    /// Returns the nodes, sorted by name.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(name, node)| (&**name, node))
    }

    /// Returns the node with this name.
    pub(super) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// Returns the Kubernetes container with this ID on a node.
    pub(super) fn container(&self, node: &str, id: &Arc<str>) -> Option<&Container> {
        let containers = &self.nodes.get(node)?.containers;
        Key::of_kubernetes(id).find_map(|key| containers.get(&key))
    }

    /// Returns the nodes whose name is `name` or greater, sorted by name.
    pub(super) fn nodes_from(&self, name: &str) -> impl Iterator<Item = (&Arc<str>, &Node)> {
        self.nodes.range::<str>((Bound::Included(name), Bound::Unbounded))
    }

    /// Returns the containers of the stacks that `wanted` selects by row id, sorted by node and key. Only nodes with such a stack are searched.
    pub(super) fn running(
        &self,
        wanted: impl Fn(StackId) -> bool,
    ) -> impl Iterator<Item = (StackId, &Arc<str>, &Key, &Container)> {
        let mut numbers: HashMap<Digest, StackId> = HashMap::new();
        let mut names: BTreeSet<&Arc<str>> = BTreeSet::new();
        for (digest, stack) in self.present() {
            if let Some(id) = stack.summary().map(|summary| summary.id).filter(|id| wanted(*id)) {
                numbers.insert(*digest, id);
                names.extend(stack.nodes());
            }
        }
        let nodes = names.into_iter().filter_map(|name| Some((name, self.nodes.get(name)?)));
        let all = nodes.flat_map(|(name, node)| node.containers.iter().map(move |(key, of)| (name, key, of)));
        all.filter_map(move |(name, key, of)| Some((*numbers.get(&of.stack?)?, name, key, of)))
    }

    /// Returns a node that may be asked for something: it is attached and not distrusted.
    fn usable(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name).filter(|node| node.attached && !self.distrusted.contains(name))
    }

    /// Returns whether a node is distrusted.
    pub(super) fn is_distrusted(&self, node: &str) -> bool {
        self.distrusted.contains(node)
    }

    /// Returns the number of containers that belong to a pod according to their node, where the API server does not know the pod.
    pub(super) fn strays(&self) -> u64 {
        u64::from(self.strays)
    }
}

/// Returns whether a stack was merged from the inventories that its layers have now.
fn is_current(layers: &SharedMap<LayerId, Layer>, summary: &Summary) -> bool {
    let read: Option<Vec<&KnownLayer>> = summary.layers.iter().map(|id| layers.get(id)?.read()).collect();
    let Some(read) = read.filter(|_| summary.catalogers > 0) else { return false };
    // Which nodes have the layers, and whether marks that nobody has confirmed count, is known when the nodes have reported.
    let with = |counts: fn(&KnownLayer) -> bool| inputs(read.iter().map(|read| (&read.digest, counts(read))));
    let all = with(|read| read.marks);
    let confirmed = with(|read| read.marks && !read.has_unconfirmed_marks());
    summary.inputs == Some(all) || summary.inputs == Some(confirmed)
}

/// Removes a layer from those that a node has to read.
fn unassign(nodes: &mut SharedMap<Arc<str>, Node>, name: &str, id: &LayerId) {
    if let Some(node) = nodes.get_mut(name) {
        node.assigned.remove(id);
    }
}

/// Decrements a count, and removes it when it is zero.
fn decrement<K: Ord>(counts: &mut BTreeMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}
