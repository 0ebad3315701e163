//! Stacks: merged when all their layers have been read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use outcrop_proto::identity::is_proved;
use outcrop_proto::{Coverage, CoverageState, Digest, LayerId, Step};

use super::checks::Checks;
use super::layers::Layer;
use super::{Container, Fleet, Now, Picture, decrement};
use crate::advisory::too_many;
use crate::store::{Counts, Summary, inputs};

/// The progress of a stack's merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// No work is in progress.
    Idle,
    /// The stack is being merged and matched.
    Merging,
    /// The stack is being merged, and one of its layers was read again meanwhile: it has to be merged again.
    MergingOutdated,
    /// A node checks paths that the inventories cannot decide.
    Checking {
        /// The node; `None` if no node could check them.
        node: Option<Arc<str>>,
        /// The deadline for the answer.
        until: Instant,
    },
    /// The stack could not be merged.
    Failed(Coverage),
}

/// A stack that is on a node or in the store.
#[derive(Clone, Debug)]
pub(in crate::aggregator) struct Stack {
    pub(super) layers: Arc<[LayerId]>,
    /// The node that reported these layers; empty if they come from the store.
    listed_by: Arc<str>,
    /// The build steps that created the layers.
    steps: Vec<Step>,
    pub(super) progress: Progress,
    /// The checks by nodes so far.
    pub(super) checks: Checks,
    /// The stack's summary in the store.
    summary: Option<Arc<Summary>>,
    /// Since when a node has the stack without interruption.
    since: Instant,
    /// Number of its containers by the namespace of their pods.
    by_namespace: BTreeMap<Option<Arc<str>>, u32>,
    pub(super) by_node: BTreeMap<Arc<str>, u32>,
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
    fn new(layers: Arc<[LayerId]>, listed_by: Arc<str>, summary: Option<Summary>, since: Instant) -> Self {
        Self {
            layers,
            listed_by,
            steps: Vec::new(),
            progress: Progress::Idle,
            checks: Checks::default(),
            summary: summary.map(Arc::new),
            since,
            by_namespace: BTreeMap::new(),
            by_node: BTreeMap::new(),
            total: 0,
        }
    }

    /// Creates a stack that is in the store and on no node.
    pub(super) fn stored(summary: Summary) -> Self {
        Self::new(summary.layers.as_slice().into(), "".into(), Some(summary), Instant::now())
    }

    /// Returns the layers, newest first.
    pub(in crate::aggregator) fn layers(&self) -> &[LayerId] {
        &self.layers
    }

    /// Returns whether the stack's identity proves its layers.
    pub(super) fn is_proved(&self) -> bool {
        is_proved(&self.layers)
    }

    /// Returns the build steps that created the layers, one per layer; empty if they are not known.
    pub(in crate::aggregator) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns the stack's summary in the store.
    pub(in crate::aggregator) fn summary(&self) -> Option<&Arc<Summary>> {
        self.summary.as_ref()
    }

    /// Returns the node that reported which layers it has; empty if they come from the store.
    pub(super) fn listed_by(&self) -> &str {
        &self.listed_by
    }

    /// Returns the number of its containers.
    pub(in crate::aggregator) fn containers(&self) -> u32 {
        self.total
    }

    /// Returns the number of its containers by the namespace of their pods.
    pub(in crate::aggregator) fn by_namespace(&self) -> impl Iterator<Item = (Option<&str>, u32)> {
        self.by_namespace.iter().map(|(namespace, count)| (namespace.as_deref(), *count))
    }

    /// Returns the nodes that have the stack.
    pub(in crate::aggregator) fn nodes(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.by_node.keys()
    }

    /// Returns since when a node has the stack without interruption.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Returns whether the stack is kept while no node has it.
    pub(super) fn is_kept(&self) -> bool {
        self.summary.is_some() || self.progress != Progress::Idle
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

    /// Discards the summary in the store, so that the stack is merged again.
    pub(super) fn forget(&mut self) {
        self.summary = None;
        self.checks.claims.clear();
    }

    /// Records that one of its layers has changed.
    pub(super) fn invalidate(&mut self) {
        self.checks.claims.clear();
        match self.progress {
            Progress::Merging => self.progress = Progress::MergingOutdated,
            Progress::Failed(_) => self.progress = Progress::Idle,
            _ => {}
        }
    }
}

impl Fleet {
    /// Adds the stack of a container of `name`, if it is new.
    pub(super) fn add_stack(&mut self, name: &str, digest: Digest, layers: Vec<LayerId>, steps: Vec<Step>, now: Now) {
        let name = self.intern(name);
        self.list(&name, digest, &layers);
        let new = || Stack::new(layers.into(), name, None, now.instant);
        let stack = self.picture.stacks.entry(digest, new);
        if stack.steps.is_empty() && steps.len() == stack.layers.len() {
            stack.steps = steps;
        }
        if stack.containers() == 0 {
            stack.since = now.instant;
        }
    }

    /// Replaces the layers of a stack by those that `name` reports, if they are better.
    ///
    /// The lowest layer stands for everything below it, so the same identity proves a shorter list as well: a node could leave out the layers
    /// of an image but the newest. A longer list needs the digests that the identity was computed from, which nobody can make up. Therefore no
    /// list replaces a longer one, proved or not, unless a distrusted node has reported that.
    fn list(&mut self, name: &Arc<str>, digest: Digest, layers: &[LayerId]) {
        let Some(stack) = self.picture.stacks.get(&digest) else { return };
        let is_discredited = self.picture.is_distrusted(stack.listed_by());
        let is_better = match is_proved(layers) {
            true if stack.is_proved() => stack.layers.len() < layers.len(),
            true => stack.layers.len() <= layers.len(),
            false => false,
        };
        let is_same = *stack.layers == *layers;
        let names = is_same && (is_discredited || stack.listed_by.is_empty());
        if self.picture.is_distrusted(name) || !(names || !is_same && (is_better || is_discredited)) {
            return;
        }
        let Some(stack) = self.picture.stacks.get_mut(&digest) else { return };
        stack.listed_by = Arc::clone(name);
        if is_same {
            return;
        }
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

    /// Returns the changed stacks that have to be merged, and marks them as being merged: all their layers have been read, and the stack was not
    /// merged yet, or newer catalogers have read its layers since.
    pub(in crate::aggregator) fn ready(&mut self, now: Now) -> Vec<Ready> {
        let touched: Vec<Digest> = self.touched.drain().collect();
        let (mut ready, mut doubted) = (Vec::new(), Vec::new());
        for digest in touched {
            let Some(stack) = self.picture.stacks.get(&digest).filter(|stack| stack.containers() > 0) else { continue };
            match &stack.progress {
                Progress::Idle => {}
                Progress::Checking { until, .. } if *until <= now.instant => {}
                _ => continue,
            }
            let catalogers: Option<Vec<u32>> = stack
                .layers
                .iter()
                .map(|id| self.picture.layers.get(id)?.read().map(|known| known.catalogers))
                .collect();
            let Some(oldest) = catalogers.map(|all| all.into_iter().min().unwrap_or(0)) else { continue };
            let is_due = stack.checks.is_due(now);
            let is_known = stack.summary.as_ref().is_some_and(|summary| summary.catalogers == oldest);
            let has_other_inputs = self.picture.has_other_inputs(&digest, stack);
            if is_known && !is_due && !has_other_inputs {
                continue;
            }
            // Nothing that doubted marks have hidden counts as scanned until it is merged again.
            if has_other_inputs && !self.picture.doubted(&digest).is_empty() {
                doubted.push(digest);
            }
            ready.push(Ready { stack: digest, layers: Arc::clone(&stack.layers) });
        }
        for digest in &doubted {
            if let Some(stack) = self.picture.stacks.get_mut(digest) {
                stack.forget();
            }
        }
        for Ready { stack, .. } in &ready {
            if let Some(stack) = self.picture.stacks.get_mut(stack) {
                (stack.progress, stack.checks.next) = (Progress::Merging, None);
            }
        }
        ready
    }

    /// Returns a stack that was not merged since the store's migration, that no node runs, and whose layers are all known. It counts as
    /// being merged from now on. Its history would otherwise stay as version 1 left it, because [`Self::ready`] omits stacks that no node runs.
    pub(in crate::aggregator) fn next_unmerged(&mut self, now: Now) -> Option<Ready> {
        while let Some(Summary { chain, layers, .. }) = self.unmerged.pop() {
            let is_read = |id: &LayerId| self.picture.layers.get(id).is_some_and(|layer| layer.read().is_some());
            if self.picture.stacks.contains_key(&chain) || !layers.iter().all(is_read) {
                continue;
            }
            let new = || Stack::new(layers.as_slice().into(), "".into(), None, now.instant);
            let stack = self.picture.stacks.entry(chain, new);
            stack.progress = Progress::Merging;
            return Some(Ready { stack: chain, layers: Arc::clone(&stack.layers) });
        }
        None
    }

    /// Records the result of a merge.
    pub(in crate::aggregator) fn merged(&mut self, digest: Digest, outcome: Result<Summary, Coverage>) {
        let Some(stack) = self.picture.stacks.get_mut(&digest) else { return };
        let is_outdated = stack.progress == Progress::MergingOutdated;
        stack.progress = Progress::Idle;
        match outcome {
            // The merge used an inventory that was replaced meanwhile.
            Ok(_) if is_outdated => {}
            Ok(summary) => {
                stack.summary = Some(Arc::new(summary));
                self.runs.stack_stored(&digest);
            }
            // An earlier summary stays in use.
            Err(coverage) if !is_outdated => stack.progress = Progress::Failed(coverage),
            Err(_) => {}
        }
        if is_outdated {
            self.touched.insert(digest);
        }
    }

    /// Schedules failed merges again, after the cause may have been removed.
    pub(in crate::aggregator) fn retry(&mut self) {
        let has_failed = |_: &Digest, stack: &Stack| matches!(stack.progress, Progress::Failed(_));
        for (digest, stack) in self.picture.stacks.select_mut(has_failed) {
            stack.progress = Progress::Idle;
            self.touched.insert(*digest);
        }
    }

    /// Records that the findings of a stack are complete for a database.
    pub(in crate::aggregator) fn matched(&mut self, digest: &Digest, counts: Counts, database: Digest) {
        if let Some(summary) = self.picture.stacks.get_mut(digest).and_then(|stack| stack.summary.as_mut()) {
            let summary = Arc::make_mut(summary);
            (summary.counts, summary.matched) = (counts, Some(database));
        }
    }
}

impl Picture {
    /// Returns the layers of a stack whose opaque marks may not take packages away: only the node that read the layer has reported them, and
    /// other nodes have the layer, too.
    pub(in crate::aggregator) fn doubted(&self, digest: &Digest) -> Vec<LayerId> {
        let Some(stack) = self.stacks.get(digest) else { return Vec::new() };
        let is_doubted = |id: &&LayerId| {
            let Some(layer) = self.layers.get(id) else { return false };
            let Some(read) = layer.read().filter(|read| read.has_unconfirmed_marks()) else { return false };
            let holders = layer.stacks.iter().filter_map(|stack| self.stacks.get(stack)).flat_map(Stack::nodes);
            holders.into_iter().any(|node| **node != *read.node)
        };
        stack.layers.iter().filter(is_doubted).copied().collect()
    }

    /// Returns whether a stack would be merged from other inventories than before, all of one version of the catalogers. While newer catalogers read
    /// its layers one after another, it is merged again after the last of them only.
    fn has_other_inputs(&self, digest: &Digest, stack: &Stack) -> bool {
        let Some(before) = stack.summary.as_ref().and_then(|summary| summary.inputs) else { return false };
        let doubted = self.doubted(digest);
        let read: Option<Vec<_>> = stack.layers.iter().map(|id| self.layers.get(id)?.read()).collect();
        let Some(read) = read else { return false };
        let is_mixed = read.windows(2).any(|two| two[0].catalogers != two[1].catalogers);
        let rows = read.iter().map(|read| (&read.digest, read.marks && !doubted.contains(&read.id)));
        !is_mixed && inputs(rows) != before
    }

    /// Returns the stack with this identity.
    pub(in crate::aggregator) fn stack(&self, digest: &Digest) -> Option<&Stack> {
        self.stacks.get(digest)
    }

    /// Returns the stacks that a node has.
    pub(in crate::aggregator) fn present(&self) -> impl Iterator<Item = (&Digest, &Stack)> {
        self.stacks.iter().filter(|(_, stack)| stack.containers() > 0)
    }

    /// Returns the coverage of a container.
    pub(in crate::aggregator) fn coverage_of(&self, container: &Container) -> Coverage {
        match (&container.refused, &container.stack) {
            (Some(refused), _) => Coverage::clone(refused),
            (None, Some(digest)) => self.coverage(digest),
            (None, None) => Coverage::failed("the node reported no storage"),
        }
    }

    /// Returns the coverage of a stack in the store: `pending` until its findings are complete, and then the coverage of its merge.
    pub(super) fn coverage_in_store(&self, summary: &Summary) -> Coverage {
        if self.matches && summary.matched.is_none() {
            return Coverage::new(CoverageState::Pending, "the packages have not been matched yet");
        }
        let coverage = summary.coverage.clone();
        match u64::from(summary.counts.dropped) {
            0 => coverage,
            dropped => coverage.but(&too_many(summary.counts.severities.total() + dropped)),
        }
    }

    /// Returns the coverage of a stack.
    pub(in crate::aggregator) fn coverage(&self, digest: &Digest) -> Coverage {
        let pending = |reason: String| Coverage::new(CoverageState::Pending, reason);
        let Some(stack) = self.stacks.get(digest) else { return pending("the stack is not known yet".to_owned()) };
        // One pass, because a status asks for the coverage of all stacks, and an image may have a hundred layers.
        let (mut failed, mut waiting) = (None, 0);
        for (id, layer) in stack.layers.iter().filter_map(|id| Some((id, self.layers.get(id)?))) {
            if layer.is_disputed() {
                return Coverage::new(
                    CoverageState::Partial,
                    format!("disputed: nodes report different contents of {id}"),
                );
            }
            failed = failed.or_else(|| layer.failed());
            waiting += u32::from(layer.read().is_none());
        }
        if let Some(summary) = &stack.summary {
            return self.coverage_in_store(summary);
        }
        match &stack.progress {
            Progress::Failed(coverage) => return coverage.clone(),
            Progress::Merging | Progress::MergingOutdated => return pending("the layers are being merged".to_owned()),
            Progress::Checking { node, .. } => {
                let who = if node.is_some() { "a node is checking" } else { "no attached node has the stack" };
                return pending(format!("the layers alone do not decide some paths, and {who}"));
            }
            Progress::Idle => {}
        }
        if let Some(failure) = failed {
            return failure.clone();
        }
        let distrusted = stack.containers() > 0 && stack.by_node.keys().all(|node| self.distrusted.contains(&**node));
        if waiting > 0 && distrusted {
            return Coverage::failed("only distrusted nodes have the layers; run outcrop node trust NAME");
        }
        pending(format!("{waiting} of {} layers have not been read", stack.layers.len()))
    }
}
