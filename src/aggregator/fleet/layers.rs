//! Layers: each is leased to one node that has it, and read once.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outcrop_proto::{Coverage, CoverageState, Digest, LayerId, LayerState};

use super::stacks::Stack;
use super::verify::{CrossRead, Dispute};
use super::{Fleet, LEASE, Node, Now, Picture, shortened, unask};
use crate::store::Layer as KnownLayer;

/// Most layers that are leased to one node at a time: with few, a node that dies holds up little.
const LEASES_OF_A_NODE: usize = 4;

/// How long a layer that could not be read is left alone after the first failure; twice as long after each one more.
const PAUSE: Duration = Duration::from_secs(60);

/// How long a node is not asked again for a layer that it said is gone: its next report will say so as well.
const GONE_PAUSE: Duration = Duration::from_secs(5);

/// After so many failures a node is not asked for a layer again until its catalogers change.
const MAX_FAILURES: u32 = 6;

/// Most layers that are leased at a time to all nodes together: what they read is decoded and stored in one place, and a lease that waits
/// there for longer than its time would have its layer read twice.
const LEASES: usize = 1024;

/// So many nodes that could not read a layer are believed that nobody can: fewer may be broken, or lie.
const FAILED_BY: usize = 3;

/// How long a node that let a lease end comes after others.
const LATE_PAUSE: Duration = Duration::from_secs(10);

/// Of the nodes that have a layer, so many are looked at in one go: not all of thousands.
const HOLDERS: usize = 64;

/// Most layers at a time that are read again since there are better catalogers.
const RENEWALS: usize = 16;

/// Layers that are looked at in one go for whether they can be read again.
const RENEWABLE: usize = 256;

/// A node is to read a layer.
#[derive(Clone, Debug)]
struct Lease {
    node: Arc<str>,
    until: Instant,
}

/// A node could not read a layer.
#[derive(Clone, Debug)]
struct Failure {
    coverage: Coverage,
    count: u32,
    again: Instant,
    /// By these catalogers.
    catalogers: u32,
}

/// A layer that somebody has or had.
#[derive(Clone, Debug, Default)]
pub(in crate::aggregator) struct Layer {
    read: Option<KnownLayer>,
    lease: Option<Lease>,
    /// By node, so that one that fails, or says so, keeps no other from reading it.
    failures: BTreeMap<Arc<str>, Failure>,
    /// Who let the last lease end, and until when it comes after others.
    late: Option<(Arc<str>, Instant)>,
    pub(super) cross: Option<CrossRead>,
    /// Nodes that were asked for their word on it and gave none that counts.
    pub(super) unheard: Vec<Arc<str>>,
    /// Nobody could be asked for their word: until when that is not tried again.
    pub(super) alone: Option<Instant>,
    pub(super) dispute: Option<Dispute>,
    /// Stacks with it that somebody has.
    pub(super) stacks: BTreeSet<Digest>,
    /// How many containers stand on it.
    pub(super) containers: u32,
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
        let failures = self.failures.values().filter(|failure| failure.count > 0);
        failures.max_by_key(|failure| failure.count).map(|failure| &failure.coverage)
    }

    /// Nodes that could not read it, each with the reason.
    pub(in crate::aggregator) fn failures(&self) -> impl Iterator<Item = (&str, &Coverage)> {
        let failures = self.failures.iter().filter(|(_, failure)| failure.count > 0);
        failures.map(|(name, failure)| (&**name, &failure.coverage))
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

    /// Returns whether `node` is to read it, for itself or for another's word.
    pub(super) fn is_asked(&self, node: &str) -> bool {
        self.lease.as_ref().is_some_and(|lease| *lease.node == *node)
            || self.cross.as_ref().is_some_and(|cross| *cross.node == *node)
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

    /// Returns whether `node` could not read it.
    pub(super) fn has_failed(&self, node: &str) -> bool {
        self.failures.contains_key(node)
    }

    /// What `node` could not do with it does not matter any more.
    pub(super) fn forgive(&mut self, node: &str) {
        self.failures.remove(node);
    }

    /// Whether `node` may be asked for it now, as far as it was asked before.
    fn is_free(&self, name: &str, node: &Node, now: Now) -> bool {
        let version = node.catalogers;
        let leased = self.lease.as_ref().is_some_and(|lease| lease.until > now.instant);
        let late = self.late.as_ref().is_some_and(|(late, until)| **late == *name && *until > now.instant);
        let failed = match self.failures.get(name) {
            Some(failure) => {
                failure.again > now.instant || failure.count >= MAX_FAILURES && failure.catalogers >= version
            }
            None => {
                let others = self.failures.values();
                others.filter(|other| other.count > 0 && other.catalogers >= version).count() >= FAILED_BY
            }
        };
        !leased && !late && !failed
    }

    /// Whether `node` may be asked to make it known.
    fn is_wanted(&self, name: &str, node: &Node, now: Now) -> bool {
        // Where a dispute is settled, those that were wrong are not asked.
        let right = self.dispute.as_ref().is_none_or(|dispute| dispute.is_believed(name));
        self.read.is_none() && right && self.is_free(name, node, now)
    }

    /// Whether a node with catalogers of this version knows it better. What is claimed beyond `known`, the version that we know, is no
    /// better; and what was read by such and nobody vouches for is worth less, since no other node can compare it.
    fn is_renewed_by(&self, version: u32, known: u32) -> bool {
        self.read.as_ref().is_some_and(|read| {
            let is_alone = read.catalogers > known && read.verified_by.is_empty();
            read.catalogers < version.min(known) || is_alone && version <= known
        })
    }
}

impl Fleet {
    /// Layers that `node` has and nobody has read or is reading: from now on they are leased to it.
    pub(in crate::aggregator) fn lease(&mut self, name: &str, now: Now) -> Vec<LayerId> {
        let Some((name, node)) = self.picture.nodes.get_key_value(name) else { return Vec::new() };
        if !node.attached || self.picture.distrusted.contains(&**name) {
            return Vec::new();
        }
        let room = LEASES_OF_A_NODE.saturating_sub(node.asked.len());
        let mut leased: Vec<LayerId> = Vec::new();
        for id in node.stacks.keys().filter_map(|stack| self.picture.stacks.get(stack)).flat_map(Stack::layers) {
            if leased.len() >= room {
                break;
            }
            let wanted = self.picture.layers.get(id).is_some_and(|layer| layer.is_wanted(name, node, now));
            if wanted && !leased.contains(id) {
                leased.push(*id);
            }
        }
        if !leased.is_empty() {
            leased.truncate(self.room());
        }
        let name = Arc::clone(name);
        self.grant(&name, &leased, now);
        leased
    }

    /// How many more layers nodes may be asked for.
    fn room(&self) -> usize {
        let asked: usize = self.picture.nodes.values().map(|node| node.asked.len()).sum();
        LEASES.saturating_sub(asked)
    }

    fn grant(&mut self, name: &Arc<str>, leased: &[LayerId], now: Now) {
        for id in leased {
            if let Some(layer) = self.picture.layers.get_mut(id) {
                layer.lease = Some(Lease { node: Arc::clone(name), until: now.instant + LEASE });
                layer.late = None;
            }
        }
        if let Some(node) = self.picture.nodes.get_mut(name) {
            node.asked.extend(leased);
        }
    }

    /// Leases what nobody reads, since a lease ended or a pause is over, to whoever has it and is free; and a little of what better
    /// catalogers would know better.
    pub(in crate::aggregator) fn lease_again(&mut self, now: Now) -> Vec<(Arc<str>, Vec<LayerId>)> {
        self.expire(now);
        let mut nodes: BTreeSet<Arc<str>> = BTreeSet::new();
        let room = self.room();
        for (id, layer) in self.picture.layers.iter() {
            if nodes.len() >= room {
                break;
            }
            if layer.read.is_some() || layer.lease.is_some() {
                continue;
            }
            let holders = self
                .holders(id, layer, now)
                .filter(|(name, node)| node.asked.len() < LEASES_OF_A_NODE && layer.is_wanted(name, node, now));
            nodes.extend(holders.take(2).map(|(name, _)| Arc::clone(name)));
        }
        let leased = nodes.into_iter().map(|name| {
            let leased = self.lease(&name, now);
            (name, leased)
        });
        let mut all: Vec<_> = leased.filter(|(_, leased)| !leased.is_empty()).collect();
        // Better catalogers are no reason for haste: what is not known comes first, and few at a time.
        for (name, id) in self.renewals(now) {
            self.grant(&name, &[id], now);
            all.push((name, vec![id]));
        }
        all
    }

    /// Nodes that are attached and have a layer, from one that nobody can foresee.
    fn holders<'a>(
        &'a self,
        id: &LayerId,
        layer: &'a Layer,
        now: Now,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Node)> {
        let stacks = || layer.stacks.iter().filter_map(|stack| self.picture.stacks.get(stack));
        let total: usize = stacks().map(|stack| stack.nodes().len()).sum();
        let first = self.random.hash_one((id, now.unix)) % (total as u64).max(1);
        let first = usize::try_from(first).unwrap_or(0);
        let all = move || stacks().flat_map(Stack::nodes);
        let holders = all().skip(first).chain(all().take(first)).take(HOLDERS);
        holders
            .filter_map(|name| Some((name, self.picture.nodes.get(name)?)))
            .filter(|(name, node)| node.attached && !self.picture.distrusted.contains(&***name))
    }

    /// Layers that are to be read again by better catalogers, each by a node that has nothing else to do.
    fn renewals(&self, now: Now) -> Vec<(Arc<str>, LayerId)> {
        let known = self.rules.catalogers;
        let newest =
            self.picture.nodes.values().filter(|node| node.attached).map(|node| node.catalogers.min(known)).max();
        let running =
            self.picture.layers.values().filter(|layer| layer.read.is_some() && layer.lease.is_some()).count();
        let room = RENEWALS.saturating_sub(running);
        let is_quiet = |layer: &Layer| layer.lease.is_none() && layer.cross.is_none() && layer.dispute.is_none();
        let old: Vec<(&LayerId, &Layer)> = self
            .present_layers()
            .filter(|(_, layer)| is_quiet(layer) && newest.is_some_and(|newest| layer.is_renewed_by(newest, known)))
            .collect();
        let first = self.random.hash_one(now.unix) % (old.len() as u64).max(1);
        let first = usize::try_from(first).unwrap_or(0);
        let mut renewed: Vec<(Arc<str>, LayerId)> = Vec::new();
        for (id, layer) in old.iter().cycle().skip(first).take(old.len().min(RENEWABLE)) {
            if renewed.len() >= room {
                break;
            }
            let mut free = self.holders(id, layer, now).filter(|(name, node)| {
                node.asked.is_empty()
                    && layer.is_renewed_by(node.catalogers, known)
                    && layer.is_free(name, node, now)
                    && !renewed.iter().any(|(other, _)| other == *name)
                    && layer.read.as_ref().is_none_or(|read| read.catalogers <= known || read.node != ***name)
            });
            if let Some((name, _)) = free.next() {
                renewed.push((Arc::clone(name), **id));
            }
        }
        renewed
    }

    /// Ends leases and cross-reads whose time is over. Who was asked comes after others from now on.
    fn expire(&mut self, now: Now) {
        let ends = |until: Instant| until <= now.instant;
        let is_over = |_: &LayerId, layer: &Layer| {
            layer.lease.as_ref().is_some_and(|lease| ends(lease.until))
                || layer.cross.as_ref().is_some_and(|cross| ends(cross.until))
        };
        for (id, layer) in self.picture.layers.select_mut(is_over) {
            let lease = layer.lease.take_if(|lease| lease.until <= now.instant).map(|lease| lease.node);
            if let Some(name) = &lease {
                layer.late = Some((Arc::clone(name), now.instant + LATE_PAUSE));
            }
            let cross = layer.cross.take_if(|cross| cross.until <= now.instant).map(|cross| cross.node);
            layer.unheard.extend(cross.clone());
            for name in lease.into_iter().chain(cross) {
                unask(&mut self.picture.nodes, &name, id);
            }
        }
    }

    /// Whether `node` is to read the layer, and with which version of the catalogers: what it says of others is not believed.
    pub(in crate::aggregator) fn is_leased(&self, node: &str, layer: &LayerId) -> Option<u32> {
        let lease = self.picture.layers.get(layer).and_then(|layer| layer.lease.as_ref());
        lease.filter(|lease| *lease.node == *node)?;
        self.picture.nodes.get(node).map(|node| node.catalogers)
    }

    /// Whether an inventory is the one that a settled dispute came to; `true` where there was none, or where this one cannot be compared.
    pub(in crate::aggregator) fn is_settled(&self, read: &KnownLayer) -> bool {
        let dispute = self.picture.layers.get(&read.id).and_then(|layer| layer.dispute.as_ref());
        dispute.is_none_or(|dispute| dispute.allows(read))
    }

    /// The layer's inventory is in the store. `false` where it must not stay there: its node is not believed any more.
    pub(in crate::aggregator) fn known(&mut self, mut read: KnownLayer) -> bool {
        if self.picture.distrusted.contains(&read.node) {
            return false;
        }
        let layer = self.picture.layers.entry(read.id, Layer::default);
        let lease = layer.lease.take().map(|lease| lease.node);
        let cross = layer.cross.take().map(|cross| cross.node);
        for name in lease.into_iter().chain(cross) {
            unask(&mut self.picture.nodes, &name, &read.id);
        }
        if let Some(dispute) = layer.dispute.take() {
            read.verified_by
                .extend(dispute.agreeing(&read.digest).filter(|name| *name != read.node).map(ToOwned::to_owned));
        }
        layer.failures.clear();
        (layer.late, layer.alone) = (None, None);
        layer.unheard.clear();
        layer.read = Some(read);
        let stacks = layer_stacks(layer);
        self.invalidate(stacks);
        true
    }

    /// Something is different with a layer of these stacks.
    pub(super) fn invalidate(&mut self, stacks: Vec<Digest>) {
        for digest in stacks {
            if let Some(stack) = self.picture.stacks.get_mut(&digest) {
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
        let Some(node) = self.picture.nodes.get_mut(name) else { return };
        let Some(layer) = self.picture.layers.get_mut(id) else { return };
        node.asked.remove(id);
        if let Some(cross) = layer.cross.take_if(|cross| *cross.node == *name) {
            layer.unheard.push(cross.node);
            return;
        }
        let Some(lease) = layer.lease.take_if(|lease| *lease.node == *name) else { return };
        let version = node.catalogers;
        let before = layer.failures.get(name).filter(|failure| failure.catalogers >= version);
        let before = before.map_or(0, |failure| failure.count);
        let (count, pause) = match gone {
            true => (before, GONE_PAUSE),
            // What is too large stays so until the limits or the catalogers change.
            false if coverage.state == CoverageState::TooLarge => (MAX_FAILURES, PAUSE),
            false => (before + 1, PAUSE * 2_u32.saturating_pow(before.min(10))),
        };
        // Who only had it no more is not remembered for longer than it is left alone.
        layer.failures.retain(|_, failure| failure.count > 0 || failure.again > now.instant);
        let again = now.instant + pause;
        let coverage = shortened(coverage);
        layer.failures.insert(lease.node, Failure { coverage, count, again, catalogers: version });
    }
}

impl Picture {
    /// A layer, by its identity.
    pub(in crate::aggregator) fn layer(&self, id: &LayerId) -> Option<&Layer> {
        self.layers.get(id)
    }

    /// Layers that somebody has.
    pub(in crate::aggregator) fn present_layers(&self) -> impl Iterator<Item = (&LayerId, &Layer)> {
        self.layers.iter().filter(|(_, layer)| !layer.stacks.is_empty())
    }
}

/// Stacks with a layer that somebody has.
pub(super) fn layer_stacks(layer: &Layer) -> Vec<Digest> {
    layer.stacks.iter().copied().collect()
}
