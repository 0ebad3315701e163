//! Layers: each is leased to one node that has it, and read once.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outcrop_proto::{Coverage, CoverageState, Digest, LayerId};

use super::verify::{CrossRead, Dispute};
use super::{Fleet, LEASE, Node, Now};
use crate::store::Layer as KnownLayer;

/// Most layers that are leased to one node at a time: with few, a node that dies holds up little.
const LEASES_OF_A_NODE: usize = 4;

/// How long a layer that could not be read is left alone after the first failure; twice as long after each one more.
const PAUSE: Duration = Duration::from_secs(60);

/// How long a node is not asked again for a layer that it said is gone: its next report will say so as well.
const GONE_PAUSE: Duration = Duration::from_secs(5);

/// After so many failures a layer is left alone until the cataloguers change.
const MAX_FAILURES: u32 = 6;

/// Most layers that are leased at a time to all nodes together: what they read is decoded and stored in one place, and a lease that waits
/// there for longer than its time would have its layer read twice.
const LEASES: usize = 1024;

/// Most layers at a time that are read again since there are better cataloguers.
const RENEWALS: usize = 16;

/// A node is to read a layer.
#[derive(Debug)]
struct Lease {
    node: Arc<str>,
    until: Instant,
}

/// A layer could not be read.
#[derive(Debug)]
struct Failure {
    coverage: Coverage,
    count: u32,
    again: Instant,
    /// By these cataloguers.
    cataloguers: u32,
}

/// A layer that somebody has or had.
#[derive(Debug, Default)]
pub(in crate::aggregator) struct Layer {
    read: Option<KnownLayer>,
    lease: Option<Lease>,
    failure: Option<Failure>,
    pub(super) cross: Option<CrossRead>,
    pub(super) dispute: Option<Dispute>,
    /// Stacks with it that somebody has.
    pub(super) stacks: BTreeSet<Digest>,
    /// How many containers stand on it.
    pub(super) containers: u32,
}

/// How far a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::aggregator) enum LayerState {
    /// Read.
    Known,
    /// Being read.
    Leased,
    /// Not read yet.
    Waiting,
    /// Could not be read.
    Failed,
}

impl LayerState {
    /// The word for it.
    pub(in crate::aggregator) const fn as_str(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Leased => "leased",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
        }
    }
}

impl Layer {
    /// One that is in the store.
    pub(super) fn known(layer: KnownLayer) -> Self {
        Self { read: Some(layer), ..Self::default() }
    }

    /// What is in the store.
    pub(in crate::aggregator) fn read(&self) -> Option<&KnownLayer> {
        self.read.as_ref()
    }

    pub(super) fn read_mut(&mut self) -> Option<&mut KnownLayer> {
        self.read.as_mut()
    }

    /// What is in the store is not believed any more.
    pub(super) fn unread(&mut self) {
        self.read = None;
        self.cross = None;
    }

    /// Why it could not be read, if so.
    pub(in crate::aggregator) fn failed(&self) -> Option<&Coverage> {
        self.failure.as_ref().filter(|failure| failure.count > 0).map(|failure| &failure.coverage)
    }

    /// Whether nodes disagree on what it holds.
    pub(in crate::aggregator) fn is_disputed(&self) -> bool {
        self.dispute.is_some()
    }

    /// How far it is.
    pub(in crate::aggregator) fn state(&self) -> LayerState {
        match (&self.read, &self.lease, self.failed()) {
            (Some(_), ..) => LayerState::Known,
            (None, Some(_), _) => LayerState::Leased,
            (None, None, Some(_)) => LayerState::Failed,
            (None, None, None) => LayerState::Waiting,
        }
    }

    /// Stacks with it that somebody has.
    pub(in crate::aggregator) fn stacks(&self) -> impl Iterator<Item = &Digest> {
        self.stacks.iter()
    }

    /// Whether it is worth to be remembered.
    pub(super) fn is_kept(&self) -> bool {
        self.read.is_some() || !self.stacks.is_empty()
    }

    /// `node` does not read it any more.
    pub(super) fn release(&mut self, node: &str) {
        if self.lease.as_ref().is_some_and(|lease| *lease.node == *node) {
            self.lease = None;
        }
        if self.cross.as_ref().is_some_and(|cross| *cross.node == *node) {
            self.cross = None;
        }
    }

    /// Whether `node` may be asked to read it now: to make it known, or to know it better.
    fn is_free(&self, name: &str, node: &Node, renew: bool, now: Now) -> bool {
        let version = node.cataloguers;
        let leased = self.lease.as_ref().is_some_and(|lease| lease.until > now.instant);
        let failed = self.failure.as_ref().is_some_and(|failure| {
            failure.again > now.instant || failure.count >= MAX_FAILURES && failure.cataloguers >= version
        });
        let wanted = match &self.read {
            None => !renew,
            Some(read) => renew && read.cataloguers < version && self.dispute.is_none(),
        };
        // Where a dispute is settled, only those that were right are asked.
        let right = self.dispute.as_ref().is_none_or(|dispute| dispute.is_believed(name));
        wanted && !leased && !failed && right
    }
}

impl Fleet {
    /// A layer, by its identity.
    pub(in crate::aggregator) fn layer(&self, id: &LayerId) -> Option<&Layer> {
        self.layers.get(id)
    }

    /// Layers that somebody has.
    pub(in crate::aggregator) fn present_layers(&self) -> impl Iterator<Item = (&LayerId, &Layer)> {
        self.layers.iter().filter(|(_, layer)| !layer.stacks.is_empty())
    }

    /// Layers that `node` has and nobody has read or is reading: from now on they are leased to it.
    pub(in crate::aggregator) fn lease(&mut self, name: &str, now: Now) -> Vec<LayerId> {
        let Some((name, node)) = self.nodes.get_key_value(name) else { return Vec::new() };
        if !node.attached || self.distrusted.contains(&**name) {
            return Vec::new();
        }
        let room = LEASES_OF_A_NODE.saturating_sub(node.asked.len()).min(LEASES.saturating_sub(self.outstanding));
        let mut leased: Vec<LayerId> = Vec::new();
        let has = || node.stacks.keys().filter_map(|stack| self.stacks.get(stack)).flat_map(Stack::layers);
        let free =
            |renew: bool, id: &LayerId| self.layers.get(id).is_some_and(|layer| layer.is_free(name, node, renew, now));
        for id in has() {
            if leased.len() >= room {
                break;
            }
            if free(false, id) && !leased.contains(id) {
                leased.push(*id);
            }
        }
        // Better cataloguers are no reason for haste: what is not known comes first, and few at a time.
        if leased.is_empty() && room == LEASES_OF_A_NODE {
            leased.extend(has().find(|id| free(true, id)).filter(|_| self.renewals(now) < RENEWALS));
        }
        let name = Arc::clone(name);
        self.grant(&name, &leased, now);
        leased
    }

    fn renewals(&self, now: Now) -> usize {
        let renewed = |layer: &&Layer| {
            layer.read.is_some() && layer.lease.as_ref().is_some_and(|lease| lease.until > now.instant)
        };
        self.layers.values().filter(renewed).count()
    }

    fn grant(&mut self, name: &Arc<str>, leased: &[LayerId], now: Now) {
        for id in leased {
            if let Some(layer) = self.layers.get_mut(id) {
                layer.lease = Some(Lease { node: Arc::clone(name), until: now.instant + LEASE });
            }
        }
        if let Some(node) = self.nodes.get_mut(name) {
            node.asked.extend(leased);
            self.outstanding += leased.len();
        }
    }

    /// `node` has done, or will not do, what it was asked about a layer.
    pub(super) fn answered(&mut self, name: &str, id: &LayerId) {
        if self.nodes.get_mut(name).is_some_and(|node| node.asked.remove(id)) {
            self.outstanding = self.outstanding.saturating_sub(1);
        }
    }

    /// `node` will do nothing more of what it was asked.
    pub(super) fn answers_nothing(&mut self, name: &str) -> HashSet<LayerId> {
        let asked = self.nodes.get_mut(name).map(|node| std::mem::take(&mut node.asked)).unwrap_or_default();
        self.outstanding = self.outstanding.saturating_sub(asked.len());
        asked
    }

    /// Leases what nobody reads, since a lease ended or a pause is over: to whoever has it and is free.
    pub(in crate::aggregator) fn lease_again(&mut self, now: Now) -> Vec<(Arc<str>, Vec<LayerId>)> {
        self.expire(now);
        let mut nodes: BTreeSet<Arc<str>> = BTreeSet::new();
        for layer in self.layers.values() {
            let wanted = layer.read.is_none() && layer.lease.is_none() && !layer.stacks.is_empty();
            if !wanted || layer.failure.as_ref().is_some_and(|failure| failure.again > now.instant) {
                continue;
            }
            let holders = layer.stacks.iter().filter_map(|stack| self.stacks.get(stack)).flat_map(Stack::nodes);
            let is_free = |name: &&Arc<str>| {
                self.nodes.get(*name).is_some_and(|node| {
                    node.attached && node.asked.len() < LEASES_OF_A_NODE && layer.is_free(name, node, false, now)
                })
            };
            nodes.extend(holders.filter(is_free).take(2).cloned());
        }
        let leased = nodes.into_iter().map(|name| {
            let leased = self.lease(&name, now);
            (name, leased)
        });
        leased.filter(|(_, leased)| !leased.is_empty()).collect()
    }

    /// Ends leases and cross-reads whose time is over.
    fn expire(&mut self, now: Now) {
        let mut ended: Vec<(Arc<str>, LayerId)> = Vec::new();
        for (id, layer) in &mut self.layers {
            let lease = layer.lease.take_if(|lease| lease.until <= now.instant).map(|lease| lease.node);
            let cross = layer.cross.take_if(|cross| cross.until <= now.instant).map(|cross| cross.node);
            ended.extend(lease.into_iter().chain(cross).map(|name| (name, *id)));
        }
        ended.iter().for_each(|(name, id)| self.answered(name, id));
    }

    /// Whether `node` is to read the layer, and with which version of the cataloguers: what it says of others is not believed.
    pub(in crate::aggregator) fn is_leased(&self, node: &str, layer: &LayerId) -> Option<u32> {
        let lease = self.layers.get(layer).and_then(|layer| layer.lease.as_ref());
        lease.filter(|lease| *lease.node == *node)?;
        self.nodes.get(node).map(|node| node.cataloguers)
    }

    /// Whether an inventory with this digest is the one that a settled dispute came to; `true` where there was none.
    pub(in crate::aggregator) fn is_settled(&self, layer: &LayerId, digest: &Digest) -> bool {
        let dispute = self.layers.get(layer).and_then(|layer| layer.dispute.as_ref());
        dispute.and_then(|dispute| dispute.settled).is_none_or(|settled| settled == *digest)
    }

    /// The layer's inventory is in the store.
    pub(in crate::aggregator) fn known(&mut self, mut read: KnownLayer) {
        let lease = self.layers.get_mut(&read.id).and_then(|layer| layer.lease.take());
        if let Some(lease) = lease {
            self.answered(&lease.node, &read.id);
        }
        let layer = self.layers.entry(read.id).or_default();
        if let Some(dispute) = layer.dispute.take() {
            read.verified_by
                .extend(dispute.agreeing(&read.digest).filter(|name| *name != read.node).map(ToOwned::to_owned));
        }
        layer.failure = None;
        layer.cross = None;
        layer.read = Some(read);
        let stacks = layer_stacks(layer);
        self.invalidate(stacks);
    }

    /// Something is different with a layer of these stacks.
    pub(super) fn invalidate(&mut self, stacks: Vec<Digest>) {
        for digest in stacks {
            if let Some(stack) = self.stacks.get_mut(&digest) {
                stack.invalidate();
            }
            self.touched.insert(digest);
        }
    }

    /// `node` could not read a layer that it was asked for; `gone` says only that it has it no more.
    pub(in crate::aggregator) fn unreadable(
        &mut self,
        name: &str,
        id: &LayerId,
        coverage: Coverage,
        gone: bool,
        now: Now,
    ) {
        self.answered(name, id);
        let Some(node) = self.nodes.get(name) else { return };
        let Some(layer) = self.layers.get_mut(id) else { return };
        if layer.cross.take_if(|cross| *cross.node == *name).is_some() {
            return;
        }
        if layer.lease.take_if(|lease| *lease.node == *name).is_none() {
            return;
        }
        let before = layer.failure.as_ref().filter(|failure| failure.cataloguers >= node.cataloguers);
        let before = before.map_or(0, |failure| failure.count);
        let (count, pause) = match gone {
            true => (before, GONE_PAUSE),
            // What is too large stays so until the limits or the cataloguers change.
            false if coverage.state == CoverageState::TooLarge => (MAX_FAILURES, PAUSE),
            false => (before + 1, PAUSE * 2_u32.saturating_pow(before.min(10))),
        };
        let again = now.instant + pause;
        layer.failure = Some(Failure { coverage, count, again, cataloguers: node.cataloguers });
    }
}

use super::stacks::Stack;

/// Stacks with a layer that somebody has.
pub(super) fn layer_stacks(layer: &Layer) -> Vec<Digest> {
    layer.stacks.iter().copied().collect()
}
