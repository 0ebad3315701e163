//! Who has what, and who is to read what: the aggregator's picture of its nodes.
//!
//! Plain data and pure functions over it. It knows no clock, no network and no disk: whoever calls says what time it is, and does what
//! it answers. What is known of layers and stacks outlives a restart in the store; what nodes have is told again by themselves when they
//! attach. Whatever is counted is counted as it changes, so that a question about the whole fleet looks at stacks and not at
//! containers.

mod container;
mod counts;
mod layers;
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
use outcrop_proto::{ContainerKey, Coverage, CoverageState, Digest, LayerId, Runtime};

pub(super) use container::{Container, Key, Placed};
pub(super) use counts::{Overview, Visible};
pub(super) use runs::{subject, workload_key};
pub(super) use verify::{Distrusted, Verified};

use super::owner::State;
use crate::store::{Layer as KnownLayer, StackId, SubjectKey, Summary, inputs};
use crate::web::Lifetimes;
use container::{shortened, weight_of};
use layers::Layer;
use runs::Runs;
use shared::SharedMap;
use stacks::Stack;

/// How long a node may take to read what was leased to it, until another one is asked.
pub(super) const LEASE: Duration = Duration::from_secs(LEASE_SECONDS as u64);

/// The same as nodes are told it, seconds.
pub(super) const LEASE_SECONDS: u32 = 120;

/// Most containers of a node: a kubelet starts 110 pods by default.
const MAX_CONTAINERS: usize = 20_000;

/// Most bytes that what a node tells of its containers may take here. A thousand containers of a hundred images have some five MiB.
const MAX_WEIGHT: usize = 32 << 20;

/// What the operator chose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Share of the layers on several nodes that another node reads as well, of 1.
    pub(super) verify_share: f64,
    /// Layers below more containers than this are read by another node in any case.
    pub(super) verify_containers: u32,
    /// Within what time after the first reading.
    pub(super) verify_within: Duration,
    /// A node that is silent for longer is forgotten, with what it alone had.
    pub(super) forget_after: Duration,
    /// The version of the catalogers that the aggregator knows: what a node claims beyond it is taken for no better.
    pub(super) catalogers: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            verify_share: 0.05,
            verify_containers: 20,
            verify_within: Duration::from_secs(3600),
            forget_after: Duration::from_secs(24 * 3600),
            catalogers: outcrop_agent::catalog::VERSION,
        }
    }
}

/// The time, for pauses and for people.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// On the clock that never goes back.
    pub(super) instant: Instant,
    /// Seconds since 1970.
    pub(super) unix: i64,
}

/// A node, as it told of itself.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The version of its agent.
    pub(super) agent_version: String,
    /// The version of its catalogers.
    pub(super) catalogers: u32,
    /// The weakest cage of its agent's processes.
    pub(super) cage: String,
    /// Whether it can read overlay's marks.
    pub(super) marks: bool,
    /// Whether its stream lives.
    pub(super) attached: bool,
    /// The number of its latest stream.
    stream: u64,
    /// When it was last heard.
    pub(super) heard: Instant,
    /// What its agent told of itself.
    pub(super) metrics: Option<v1::Metrics>,
    /// The number of its last report of containers; `None` until it told of all.
    sequence: Option<u64>,
    /// What runs on it.
    pub(super) containers: BTreeMap<Key, Container>,
    /// Its stacks, each with how many of its containers have it.
    stacks: BTreeMap<Digest, u32>,
    /// What all of that takes, bytes.
    weight: usize,
    /// Layers that it is to read, for itself or for another's word.
    asked: HashSet<LayerId>,
}

/// What a node tells of its containers.
#[derive(Debug)]
pub(super) struct Report {
    /// The stream that it came over.
    pub(super) stream: u64,
    /// Counts its reports.
    pub(super) sequence: u64,
    /// Whether these are all that it has, and not what came since its last report.
    pub(super) full: bool,
    /// Those that are there, or are not as they were.
    pub(super) containers: Vec<Seen>,
    /// Keys of those that went.
    pub(super) gone: Vec<ContainerKey>,
}

/// Why a report of containers was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// It does not follow the last one: all containers are wanted again.
    Gap,
    /// It tells of more containers than a node can have.
    TooMany,
    /// It came over a stream whose place a later stream of the node has taken: what it tells may be old.
    Replaced,
}

/// What readers see of the fleet: a copy of it is cheap, and stays as it was.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    nodes: SharedMap<Arc<str>, Node>,
    stacks: SharedMap<Digest, Stack>,
    layers: SharedMap<LayerId, Layer>,
    /// Distrusted nodes, attached or not.
    distrusted: BTreeSet<String>,
    /// Containers that are not scanned, by reason and namespace.
    refused: BTreeMap<(Arc<Coverage>, Option<Arc<str>>), u32>,
    /// How many containers are [strays](Container::is_stray).
    strays: u32,
    /// Containers since the start.
    lifetimes: Lifetimes,
    /// Whether an advisory database is in use, so that a stack without complete findings is pending.
    matches: bool,
}

/// The picture, and what only the task that changes it needs.
#[derive(Debug)]
pub(super) struct Fleet {
    rules: Rules,
    picture: Picture,
    /// Stacks that may have become ready to be merged.
    touched: HashSet<Digest>,
    /// Stacks of the store that were not merged since its migration. Nobody may run them anymore.
    unmerged: Vec<Summary>,
    runs: Runs,
    /// When silent nodes were first looked for.
    started: Option<Instant>,
    /// Names that many containers share.
    names: HashSet<Arc<str>>,
    /// Decides which layers are read a second time, and by whom, so that no node can foresee it.
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
    /// A picture of no nodes, with what the store knows.
    pub(super) fn new(
        rules: Rules,
        layers: impl IntoIterator<Item = KnownLayer>,
        stacks: impl IntoIterator<Item = Summary>,
        distrusted: impl IntoIterator<Item = String>,
    ) -> Self {
        let layers: SharedMap<LayerId, Layer> =
            layers.into_iter().map(|known| (known.id, Layer::known(known))).collect();
        let (current, stale): (Vec<Summary>, Vec<Summary>) =
            stacks.into_iter().partition(|summary| is_current(&layers, summary));
        let unmerged = stale.into_iter().filter(|summary| summary.inputs.is_none() && summary.catalogers > 0).collect();
        let picture = Picture {
            nodes: SharedMap::default(),
            // A stack whose packages were removed, or that was not merged from its layers' inventories as they are now, is merged again
            // when a node reports it.
            stacks: current.into_iter().map(|summary| (summary.chain, Stack::stored(summary))).collect(),
            layers,
            distrusted: distrusted.into_iter().collect(),
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
            random: RandomState::new(),
        }
    }

    /// One copy of a name that many share.
    fn shared(&mut self, name: &str) -> Arc<str> {
        match self.names.get(name) {
            Some(known) => Arc::clone(known),
            None => {
                let name: Arc<str> = name.into();
                self.names.insert(Arc::clone(&name));
                name
            }
        }
    }

    /// Attaches a node by its stream of this number. What an earlier stream of it was to read, others may. An older stream than the
    /// known one changes nothing: it came late.
    pub(super) fn attach(&mut self, name: &str, hello: &v1::Hello, stream: u64, now: Now) {
        if let Some(earlier) = self.picture.nodes.get(name).map(|node| node.stream) {
            if earlier > stream {
                return;
            }
            self.detach(name, earlier);
        }
        let name = self.shared(name);
        let node = self.picture.nodes.entry(name, || Node {
            agent_version: String::new(),
            catalogers: 0,
            cage: String::new(),
            marks: false,
            attached: true,
            stream,
            heard: now.instant,
            metrics: None,
            sequence: None,
            containers: BTreeMap::new(),
            stacks: BTreeMap::new(),
            weight: 0,
            asked: HashSet::new(),
        });
        let cut = |text: &str| text.chars().take(100).collect();
        (node.agent_version, node.cage) = (cut(&hello.agent_version), cut(&hello.cage));
        (node.catalogers, node.marks) = (hello.catalogers, hello.marks);
        (node.attached, node.stream, node.heard, node.sequence) = (true, stream, now.instant, None);
    }

    /// Detaches a node whose stream of this number has ended: what it was to read, others may. Returns `false` where it was not
    /// attached by that stream.
    pub(super) fn detach(&mut self, name: &str, stream: u64) -> bool {
        let node = self.picture.nodes.get(name).filter(|node| node.attached && node.stream == stream);
        if node.is_none() {
            return false;
        }
        let Some(node) = self.picture.nodes.get_mut(name) else { return false };
        node.attached = false;
        for id in std::mem::take(&mut node.asked) {
            if let Some(layer) = self.picture.layers.get_mut(&id) {
                layer.release(name);
            }
        }
        for (digest, stack) in self.picture.stacks.select_mut(|_, stack| stack.is_asked(name)) {
            stack.unask();
            self.touched.insert(*digest);
        }
        true
    }

    /// From now on an advisory database is in use: a stack whose findings are not complete is pending.
    pub(super) fn use_database(&mut self) {
        self.picture.matches = true;
    }

    /// A node was heard.
    pub(super) fn heard(&mut self, node: &str, now: Now) {
        if let Some(node) = self.picture.nodes.get_mut(node) {
            node.heard = now.instant;
        }
    }

    /// A node's agent told of itself.
    pub(super) fn metrics(&mut self, node: &str, mut metrics: v1::Metrics) {
        metrics.roles.truncate(8);
        metrics.roles.iter_mut().for_each(|role| role.name = role.name.chars().take(32).collect());
        if let Some(node) = self.picture.nodes.get_mut(node) {
            node.metrics = Some(metrics);
        }
    }

    /// A node tells of its containers: of all, or of what changed since its last report. `place` says where each belongs.
    ///
    /// # Errors
    /// When a report before this one is missing, or the node would have too many; then nothing changes.
    pub(super) fn containers(
        &mut self,
        name: &str,
        report: Report,
        place: &dyn Fn(&Seen) -> Placed,
        now: Now,
    ) -> Result<(), NotTaken> {
        let Report { stream, sequence, full, containers, gone } = report;
        let node = self.picture.nodes.get_mut(name).ok_or(NotTaken::Gap)?;
        if node.stream != stream {
            return Err(NotTaken::Replaced);
        }
        if !full && node.sequence.and_then(|last| last.checked_add(1)) != Some(sequence) {
            return Err(NotTaken::Gap);
        }
        let (kept, weight) = if full { (0, 0) } else { (node.containers.len(), node.weight) };
        let told: usize = containers.iter().map(weight_of).sum();
        if kept + containers.len() > MAX_CONTAINERS || weight + told > MAX_WEIGHT {
            return Err(NotTaken::TooMany);
        }
        node.sequence = Some(sequence);
        let told: HashSet<(Runtime, &str, &str)> =
            containers.iter().map(|seen| (seen.key.runtime, &*seen.key.namespace, &*seen.key.id)).collect();
        let leaves = |key: &&Key| !told.contains(&(key.runtime, &*key.namespace, &*key.id));
        let mut left: Vec<Key> = match full {
            true => node.containers.keys().filter(leaves).cloned().collect(),
            false => Vec::new(),
        };
        left.extend(gone.into_iter().map(Key::from));
        for seen in containers {
            let placed = place(&seen);
            self.enter(name, seen, placed, now);
        }
        // Whoever leaves, leaves after whoever comes: one that is told of and gone at once was there.
        for key in left {
            self.leave(name, &key, now);
        }
        if full {
            self.runs.told_all(name, now.unix);
        }
        Ok(())
    }

    /// A container is there, or is not as it was.
    fn enter(&mut self, name: &str, seen: Seen, placed: Placed, now: Now) {
        let key = Key {
            runtime: seen.key.runtime,
            namespace: self.shared(&seen.key.namespace),
            id: Arc::from(seen.key.id.as_str()),
        };
        let weight = weight_of(&seen);
        let refused = self.contradiction(&seen).or(seen.refused).map(|coverage| Arc::new(shortened(coverage)));
        let names = (self.shared(&seen.name), self.shared(&seen.image));
        let mut container = Container::told(names, seen.pod, refused, weight, now);
        container.storage = seen.storage;
        container.belong(placed);
        let stack = seen.stack.filter(|_| container.refused.is_none());
        container.stack = stack.as_ref().map(|(stack, _)| *stack);
        let Some(node) = self.picture.nodes.get(name) else { return };
        let before = node.containers.get(&key);
        if before.is_some_and(|before| Container { since: before.since, ..container.clone() } == *before) {
            return;
        }
        // One that is told of again, and otherwise, has not ended in between.
        let since = before.map_or(now.unix, |before| before.since);
        let is_new = before.is_none();
        if let Some((digest, layers)) = stack {
            self.place(digest, layers, seen.steps, now);
        }
        if !is_new {
            self.remove(name, &key, now);
        } else {
            self.picture.lifetimes.seen += 1;
        }
        self.add(name, key, Container { since, ..container }, now);
    }

    /// A container is there no more.
    fn leave(&mut self, name: &str, key: &Key, now: Now) {
        let container = self.picture.nodes.get(name).and_then(|node| node.containers.get(key));
        let Some(coverage) = container.map(|container| self.coverage_of(container)) else { return };
        self.remove(name, key, now);
        let unread = coverage.state == CoverageState::Pending;
        let state = if unread { CoverageState::Failed } else { coverage.state };
        *self.picture.lifetimes.ended.entry(state.into()).or_default() += 1;
        if unread || coverage.reason == GONE_BEFORE_READING {
            self.picture.lifetimes.gone_before_reading += 1;
        }
    }

    fn add(&mut self, name: &str, key: Key, container: Container, now: Now) {
        let namespace = container.namespace().map(ToOwned::to_owned).map(|namespace| self.shared(&namespace));
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
            for id in stack.layers() {
                if let Some(layer) = self.picture.layers.get_mut(id) {
                    layer.containers += 1;
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

    fn remove(&mut self, name: &str, key: &Key, now: Now) -> Option<Container> {
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

    /// Looks anew where containers of Kubernetes belong: their nodes and IDs. Returns nodes that have to tell all that they have again, since
    /// something of theirs has come into view.
    pub(super) fn place_again(
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
            container.belong(place(&name, &key.id));
            if before.is_excluded && !container.is_excluded {
                again.insert(name);
            } else if container != *before {
                self.remove(&name, &key, now);
                self.add(&name, key, container, now);
            }
        }
        again
    }

    /// What the store knows of workloads, and no node has told of, has ended, by now, but for subjects that are awaited.
    pub(super) fn end_workloads(&mut self, is_awaited: impl Fn(&SubjectKey) -> bool, now: Now) {
        self.runs.end_workloads(is_awaited, now.unix);
    }

    /// Why a container is not believed to have the layers that its node names: its stack's identity does not prove them, and
    /// somebody else named others.
    fn contradiction(&self, seen: &Seen) -> Option<Coverage> {
        let (digest, layers) = seen.stack.as_ref().filter(|(_, layers)| !is_proved(layers))?;
        // Whoever has not the image's configuration has the layers that somebody else proved.
        let other =
            self.picture.stacks.get(digest).filter(|stack| stack.layers() != layers.as_slice() && !stack.is_proved());
        other.map(|_| {
            Coverage::failed(
                "disputed: another node names other layers for its stack, and no image configuration proves either",
            )
        })
    }

    /// Forgets nodes that have been silent for too long, and what nobody has and nobody read.
    pub(super) fn tidy(&mut self, now: Now) {
        let silent =
            |node: &Node| !node.attached && now.instant.saturating_duration_since(node.heard) > self.rules.forget_after;
        let forgotten: Vec<Arc<str>> =
            self.picture.nodes.iter().filter(|(_, node)| silent(node)).map(|(name, _)| Arc::clone(name)).collect();
        for name in forgotten {
            let keys: Vec<Key> =
                self.picture.nodes.get(&name).map(|node| node.containers.keys().cloned().collect()).unwrap_or_default();
            for key in keys {
                self.leave(&name, &key, now);
            }
            self.runs.told_all(&name, now.unix);
            self.picture.nodes.remove(&name);
            let failing = self.picture.layers.select_mut(|_, layer| layer.has_failed(&name));
            failing.for_each(|(_, layer)| layer.forgive(&name));
        }
        // Nodes that the store knows of and that never came again after the start.
        let started = *self.started.get_or_insert(now.instant);
        if now.instant.saturating_duration_since(started) > self.rules.forget_after {
            self.runs.forget_absent(|node| self.picture.nodes.contains_key(node), now.unix);
        }
        self.picture.stacks.retain(|_, stack| stack.containers() > 0 || stack.is_kept());
        self.picture.layers.retain(|_, layer| layer.is_kept());
        self.names.retain(|name| Arc::strong_count(name) > 1);
    }

    /// What the store has, after it removed what nobody needed, and while nothing is merged: whatever it has not is not known any more.
    /// Layers that were read after `since` are not looked at, since they may have come after the store was asked.
    pub(super) fn keep_only(&mut self, layers: &HashSet<LayerId>, stacks: &HashSet<Digest>, since: i64) {
        let mut lost = Vec::new();
        let is_gone =
            |id: &LayerId, layer: &Layer| layer.read().is_some_and(|read| read.read_at < since) && !layers.contains(id);
        for (_, layer) in self.picture.layers.select_mut(is_gone) {
            layer.unread();
            lost.extend(layer.stacks().copied());
        }
        let is_gone = |digest: &Digest, stack: &Stack| stack.summary().is_some() && !stacks.contains(digest);
        for (digest, stack) in self.picture.stacks.select_mut(is_gone) {
            stack.forget();
            // Somebody may run it again since the store was tidied.
            lost.push(*digest);
        }
        self.invalidate(lost);
    }

    /// Changes of who runs what, to be kept: begun and ended.
    pub(super) fn take_runs(&mut self) -> (Vec<crate::store::Run>, Vec<crate::store::Run>) {
        self.runs
            .take(|digest| self.picture.stacks.get(digest).and_then(|stack| stack.summary()).map(|summary| summary.id))
    }

    /// Runs that had not ended when the aggregator did, each with its stack's number.
    pub(super) fn restore_runs(&mut self, runs: impl IntoIterator<Item = (SubjectKey, Digest, StackId)>) {
        self.runs.restore(runs);
    }
}

impl Picture {
    /// The nodes, by name.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(name, node)| (&**name, node))
    }

    /// A node, by its name.
    pub(super) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// A container of Kubernetes, by its node and ID.
    pub(super) fn container(&self, node: &str, id: &Arc<str>) -> Option<&Container> {
        let containers = &self.nodes.get(node)?.containers;
        Key::of_kubernetes(id).find_map(|key| containers.get(&key))
    }

    /// The nodes from the one of this name on, which need not be there.
    pub(super) fn nodes_from(&self, name: &str) -> impl Iterator<Item = (&Arc<str>, &Node)> {
        self.nodes.range::<str>((Bound::Included(name), Bound::Unbounded))
    }

    /// Containers of those of the stacks in the store that `wanted` picks, each with its stack's number: by node and key. Looks at
    /// nodes that have one of them.
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

    /// Whether what a node reads is not believed.
    pub(super) fn is_distrusted(&self, node: &str) -> bool {
        self.distrusted.contains(node)
    }

    /// How many containers' nodes say that they are of pods that the API server does not know.
    pub(super) fn strays(&self) -> u64 {
        u64::from(self.strays)
    }
}

/// Returns whether a stack was merged from the inventories that its layers have now.
fn is_current(layers: &SharedMap<LayerId, Layer>, summary: &Summary) -> bool {
    let known = |id: &LayerId| layers.get(id)?.read().map(|known| (known.digest, known.marks));
    let known: Option<Vec<(Digest, bool)>> = summary.layers.iter().map(known).collect();
    let known = known.map(|known| inputs(known.iter().map(|(digest, marks)| (digest, *marks))));
    summary.catalogers > 0 && known.is_some() && summary.inputs == known
}

/// `name` is not to read the layer any more.
fn unask(nodes: &mut SharedMap<Arc<str>, Node>, name: &str, id: &LayerId) {
    if let Some(node) = nodes.get_mut(name) {
        node.asked.remove(id);
    }
}

/// Takes one off a count, and the count away when it is none.
fn decrement<K: Ord>(counts: &mut BTreeMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}
