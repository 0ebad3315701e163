//! Stacks: from layers that are known to what is in the store.

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outcrop_proto::identity::is_proved;
use outcrop_proto::merge::UNREAD_MARKS;
use outcrop_proto::{Coverage, CoverageState, Digest, LayerId, Step};

use super::layers::Layer;
use super::{Container, Fleet, LEASE, Now, Picture, decrement};
use crate::store::{Counts, Summary};

/// After what time a question is asked again whose answer left something open.
const AGAIN: Duration = Duration::from_secs(30);

/// How often it is asked at most.
const MAX_ASKED: u32 = 5;

/// How far a stack is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    /// Nobody does anything about it.
    Idle,
    /// It is being merged and matched.
    Merging,
    /// It is, and one of its layers was read again meanwhile: once more after that.
    MergingOnce,
    /// A node was asked what its inventories cannot decide.
    Asked {
        /// Which one; `None` where none could be asked.
        node: Option<Arc<str>>,
        /// Until when it may answer.
        until: Instant,
    },
    /// It could not be merged.
    Failed(Coverage),
}

/// A stack that somebody has or had.
#[derive(Clone, Debug)]
pub(in crate::aggregator) struct Stack {
    layers: Arc<[LayerId]>,
    /// The steps of the build that made them.
    steps: Vec<Step>,
    progress: Progress,
    /// How often a node was asked what its inventories cannot decide.
    asked: u32,
    /// When that is asked again, where the answer left something open: the container that showed it may have been just starting, or ending.
    again: Option<Instant>,
    /// What is in the store.
    summary: Option<Arc<Summary>>,
    /// Since when somebody has it, without a break.
    since: Instant,
    /// Its containers, by the namespace of their pods.
    by_namespace: BTreeMap<Option<Arc<str>>, u32>,
    by_node: BTreeMap<Arc<str>, u32>,
    total: u32,
}

/// A stack that is ready to be merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::aggregator) struct Ready {
    /// Its identity.
    pub(in crate::aggregator) stack: Digest,
    /// Its layers, newest first.
    pub(in crate::aggregator) layers: Arc<[LayerId]>,
}

impl Stack {
    fn new(layers: Arc<[LayerId]>, steps: Vec<Step>, summary: Option<Summary>, since: Instant) -> Self {
        Self {
            layers,
            steps,
            progress: Progress::Idle,
            asked: 0,
            again: None,
            summary: summary.map(Arc::new),
            since,
            by_namespace: BTreeMap::new(),
            by_node: BTreeMap::new(),
            total: 0,
        }
    }

    /// One that only the store knows of.
    pub(super) fn stored(summary: Summary) -> Self {
        Self::new(summary.layers.as_slice().into(), Vec::new(), Some(summary), Instant::now())
    }

    /// Its layers, newest first.
    pub(in crate::aggregator) fn layers(&self) -> &[LayerId] {
        &self.layers
    }

    /// Whether its identity proves them.
    pub(super) fn is_proved(&self) -> bool {
        is_proved(&self.layers)
    }

    /// The steps of the build that made its layers, one for each; none where that is not known.
    pub(in crate::aggregator) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// What is in the store.
    pub(in crate::aggregator) fn summary(&self) -> Option<&Arc<Summary>> {
        self.summary.as_ref()
    }

    /// How many containers have it.
    pub(in crate::aggregator) fn containers(&self) -> u32 {
        self.total
    }

    /// Its containers, by the namespace of their pods.
    pub(in crate::aggregator) fn by_namespace(&self) -> impl Iterator<Item = (Option<&str>, u32)> {
        self.by_namespace.iter().map(|(namespace, count)| (namespace.as_deref(), *count))
    }

    /// The nodes that have it.
    pub(in crate::aggregator) fn nodes(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.by_node.keys()
    }

    /// Since when somebody has it.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Whether it is worth to be remembered while nobody has it.
    pub(super) fn is_kept(&self) -> bool {
        self.summary.is_some() || self.progress != Progress::Idle
    }

    /// Whether what nodes answered left something open, and another answer may not.
    fn is_open(&self) -> bool {
        let summary = self.summary.as_ref().filter(|_| self.asked < MAX_ASKED && self.total > 0);
        self.progress == Progress::Idle && summary.is_some_and(|of| of.coverage.reason.contains(UNREAD_MARKS))
    }

    pub(super) fn add(&mut self, node: &Arc<str>, namespace: Option<Arc<str>>) {
        self.total += 1;
        *self.by_namespace.entry(namespace).or_default() += 1;
        *self.by_node.entry(Arc::clone(node)).or_default() += 1;
    }

    pub(super) fn remove(&mut self, node: &str, namespace: Option<Arc<str>>) {
        self.total = self.total.saturating_sub(1);
        decrement(&mut self.by_namespace, &namespace);
        decrement(&mut self.by_node, &Arc::from(node));
    }

    /// Returns whether `node` was asked to decide what the inventories cannot.
    pub(super) fn is_asked(&self, node: &str) -> bool {
        matches!(&self.progress, Progress::Asked { node: Some(asked), .. } if **asked == *node)
    }

    /// Forgets that a node was asked, since it will not answer.
    pub(super) fn unask(&mut self) {
        self.progress = Progress::Idle;
    }

    /// What is in the store of it is not believed any more.
    pub(super) fn forget(&mut self) {
        self.summary = None;
    }

    /// One of its layers is not what it was.
    pub(super) fn invalidate(&mut self) {
        match self.progress {
            Progress::Merging => self.progress = Progress::MergingOnce,
            Progress::Failed(_) => self.progress = Progress::Idle,
            _ => {}
        }
    }
}

impl Fleet {
    /// A container has a stack.
    pub(super) fn place(&mut self, digest: Digest, layers: Vec<LayerId>, steps: Vec<Step>, now: Now) {
        self.prove(digest, &layers);
        let new = || Stack::new(layers.into(), Vec::new(), None, now.instant);
        let stack = self.picture.stacks.entry(digest, new);
        if stack.steps.is_empty() && steps.len() == stack.layers.len() {
            stack.steps = steps;
        }
        if stack.containers() == 0 {
            stack.since = now.instant;
        }
    }

    /// Takes layers that a stack's identity proves in the place of others, which somebody only named.
    fn prove(&mut self, digest: Digest, layers: &[LayerId]) {
        let is_better = |stack: &&Stack| !stack.is_proved() && is_proved(layers);
        if self.picture.stacks.get(&digest).filter(is_better).is_none() {
            return;
        }
        let Some(stack) = self.picture.stacks.get_mut(&digest) else { return };
        let (before, containers) = (std::mem::replace(&mut stack.layers, layers.into()), stack.containers());
        stack.steps.clear();
        stack.forget();
        if containers > 0 {
            for id in before.iter() {
                if let Some(layer) = self.picture.layers.get_mut(id) {
                    layer.stacks.remove(&digest);
                    layer.containers = layer.containers.saturating_sub(containers);
                }
            }
            for id in layers {
                let layer = self.picture.layers.entry(*id, Layer::default);
                layer.stacks.insert(digest);
                layer.containers += containers;
            }
        }
        self.invalidate(vec![digest]);
    }

    /// Stacks whose layers are all known, and that were never merged or whose layers better catalogers have read since: from now on
    /// they are being merged. Looks at those that something happened to.
    pub(in crate::aggregator) fn ready(&mut self, now: Now) -> Vec<Ready> {
        let touched: Vec<Digest> = self.touched.drain().collect();
        let mut ready = Vec::new();
        for digest in touched {
            let Some(stack) = self.picture.stacks.get(&digest).filter(|stack| stack.containers() > 0) else { continue };
            match &stack.progress {
                Progress::Idle => {}
                Progress::Asked { until, .. } if *until <= now.instant => {}
                _ => continue,
            }
            let catalogers: Option<Vec<u32>> = stack
                .layers
                .iter()
                .map(|id| self.picture.layers.get(id)?.read().map(|known| known.catalogers))
                .collect();
            let Some(oldest) = catalogers.map(|all| all.into_iter().min().unwrap_or(0)) else { continue };
            let is_due = stack.again.is_some_and(|again| again <= now.instant);
            if stack.summary.as_ref().is_some_and(|summary| summary.catalogers == oldest) && !is_due {
                continue;
            }
            ready.push(Ready { stack: digest, layers: Arc::clone(&stack.layers) });
        }
        for Ready { stack, .. } in &ready {
            if let Some(stack) = self.picture.stacks.get_mut(stack) {
                (stack.progress, stack.again) = (Progress::Merging, None);
            }
        }
        ready
    }

    /// Takes a stack that was not merged since the store's migration, that nobody runs at the moment, and whose layers are all known: from now
    /// on it is being merged. Its history would otherwise stay as version 1 left it, since [`Self::ready`] leaves out what nobody runs.
    pub(in crate::aggregator) fn next_unmerged(&mut self, now: Now) -> Option<Ready> {
        while let Some(Summary { chain, layers, .. }) = self.unmerged.pop() {
            let is_read = |id: &LayerId| self.picture.layers.get(id).is_some_and(|layer| layer.read().is_some());
            if self.picture.stacks.contains_key(&chain) || !layers.iter().all(is_read) {
                continue;
            }
            let new = || Stack::new(layers.as_slice().into(), Vec::new(), None, now.instant);
            let stack = self.picture.stacks.entry(chain, new);
            stack.progress = Progress::Merging;
            return Some(Ready { stack: chain, layers: Arc::clone(&stack.layers) });
        }
        None
    }

    /// Questions that nobody answered in time, and those whose answer left something open, are asked again.
    pub(in crate::aggregator) fn wake(&mut self, now: Now) {
        for (_, stack) in self.picture.stacks.select_mut(|_, stack| stack.again.is_none() && stack.is_open()) {
            stack.again = Some(now.instant + AGAIN);
        }
        for (digest, stack) in self.picture.stacks.iter() {
            let is_late = matches!(&stack.progress, Progress::Asked { until, .. } if *until <= now.instant);
            if is_late || stack.again.is_some_and(|again| again <= now.instant) {
                self.touched.insert(*digest);
            }
        }
    }

    /// Picks an attached node that has the stack, to be asked what inventories cannot decide: every time another one, as far as there are,
    /// since the last one may never answer. Where there is none, it is looked for again after a while.
    pub(in crate::aggregator) fn ask(&mut self, stack: Digest, now: Now) -> Option<Arc<str>> {
        let entry = self.picture.stacks.get_mut(&stack)?;
        let can_tell = |name: &&Arc<str>| {
            !self.picture.distrusted.contains(&***name)
                && self.picture.nodes.get(*name).is_some_and(|node| node.attached)
        };
        entry.asked = entry.asked.wrapping_add(1);
        let tries = entry.asked;
        let node =
            entry.by_node.keys().filter(can_tell).min_by_key(|name| self.random.hash_one((name, tries))).cloned();
        entry.progress = Progress::Asked { node: node.clone(), until: now.instant + LEASE };
        node
    }

    /// Takes up that `node` answers what it was asked about the stack, which is merged now. Returns the stack's layers, newest first;
    /// `None` if the node was not asked.
    pub(in crate::aggregator) fn answered(&mut self, node: &str, stack: &Digest) -> Option<Arc<[LayerId]>> {
        if !self.picture.stacks.get(stack)?.is_asked(node) {
            return None;
        }
        let stack = self.picture.stacks.get_mut(stack)?;
        stack.progress = Progress::Merging;
        Some(Arc::clone(&stack.layers))
    }

    /// The stack was merged: it is in the store, or could not be.
    pub(in crate::aggregator) fn merged(&mut self, digest: Digest, outcome: Result<Summary, Coverage>) {
        let Some(stack) = self.picture.stacks.get_mut(&digest) else { return };
        let again = stack.progress == Progress::MergingOnce;
        stack.progress = Progress::Idle;
        match outcome {
            // What one of its layers was then is not worth to be believed.
            Ok(_) if again => {}
            Ok(summary) => stack.summary = Some(Arc::new(summary)),
            // What was known before stands, until it is tried again.
            Err(coverage) if !again => stack.progress = Progress::Failed(coverage),
            Err(_) => {}
        }
        if again {
            self.touched.insert(digest);
        }
    }

    /// Stacks that could not be merged are tried again: what was in the way is gone.
    pub(in crate::aggregator) fn retry(&mut self) {
        let has_failed = |_: &Digest, stack: &Stack| matches!(stack.progress, Progress::Failed(_));
        for (digest, stack) in self.picture.stacks.select_mut(has_failed) {
            stack.progress = Progress::Idle;
            self.touched.insert(*digest);
        }
    }

    /// The findings of a stack are complete for a database.
    pub(in crate::aggregator) fn matched(&mut self, digest: &Digest, counts: Counts, database: Digest) {
        if let Some(summary) = self.picture.stacks.get_mut(digest).and_then(|stack| stack.summary.as_mut()) {
            let summary = Arc::make_mut(summary);
            (summary.counts, summary.matched) = (counts, Some(database));
        }
    }
}

impl Picture {
    /// A stack, by its identity.
    pub(in crate::aggregator) fn stack(&self, digest: &Digest) -> Option<&Stack> {
        self.stacks.get(digest)
    }

    /// Stacks that somebody has.
    pub(in crate::aggregator) fn present(&self) -> impl Iterator<Item = (&Digest, &Stack)> {
        self.stacks.iter().filter(|(_, stack)| stack.containers() > 0)
    }

    /// How far a container was looked into.
    pub(in crate::aggregator) fn coverage_of(&self, container: &Container) -> Coverage {
        match (&container.refused, &container.stack) {
            (Some(refused), _) => Coverage::clone(refused),
            (None, Some(digest)) => self.coverage(digest),
            (None, None) => Coverage::failed("the node reported no storage"),
        }
    }

    /// Returns the coverage of a stack that is in the store: what its layers allow, once its findings are complete for a database.
    pub(super) fn coverage_in_store(&self, summary: &Summary) -> Coverage {
        if self.matches && summary.matched.is_none() {
            return Coverage::new(CoverageState::Pending, "the packages have not been matched yet");
        }
        summary.coverage.clone()
    }

    /// How far a stack was looked into.
    pub(in crate::aggregator) fn coverage(&self, digest: &Digest) -> Coverage {
        let pending = |reason: String| Coverage::new(CoverageState::Pending, reason);
        let Some(stack) = self.stacks.get(digest) else { return pending("the stack is not known yet".to_owned()) };
        if let Some(disputed) =
            stack.layers.iter().find(|id| self.layers.get(id).is_some_and(|layer| layer.is_disputed()))
        {
            return Coverage::new(
                CoverageState::Partial,
                format!("disputed: nodes report different contents of {disputed}"),
            );
        }
        if let Some(summary) = &stack.summary {
            return self.coverage_in_store(summary);
        }
        match &stack.progress {
            Progress::Failed(coverage) => return coverage.clone(),
            Progress::Merging | Progress::MergingOnce => return pending("the layers are being merged".to_owned()),
            Progress::Asked { node, .. } => {
                let who = if node.is_some() { "a node is checking" } else { "no attached node has the stack" };
                return pending(format!("the layers alone do not decide some paths, and {who}"));
            }
            Progress::Idle => {}
        }
        let layers = || stack.layers.iter().filter_map(|id| self.layers.get(id));
        if let Some(failure) = layers().find_map(|layer| layer.failed()) {
            return failure.clone();
        }
        let waiting = layers().filter(|layer| layer.read().is_none()).count();
        let distrusted = stack.containers() > 0 && stack.by_node.keys().all(|node| self.distrusted.contains(&**node));
        if waiting > 0 && distrusted {
            return Coverage::failed("only distrusted nodes have the layers; run outcrop node trust NAME");
        }
        pending(format!("{waiting} of {} layers have not been read", stack.layers.len()))
    }
}
