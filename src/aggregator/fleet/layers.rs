//! Layers: each is leased to one node that has it, and is read once.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outcrop_proto::{Coverage, CoverageState, Digest, LayerId, LayerState};

use super::node::Rank;
use super::stacks::Stack;
use super::verify::{CrossRead, Dispute};
use super::{Fleet, LEASE, Node, Now, Picture, shortened, unassign};
use crate::store::Layer as KnownLayer;

/// Pause after a node's first failure to read a layer; it doubles with each further failure.
const PAUSE: Duration = Duration::from_secs(60);

/// Pause after a node reported that a layer is gone. By its end, the node has reported the end of the container, too.
const GONE_PAUSE: Duration = Duration::from_secs(5);

/// Number of failures after which a layer is not leased to a node again until the node's catalogers change.
const MAX_FAILURES: u32 = 6;

/// Maximum number of leases of all nodes together. The aggregator decodes and stores all inventories; with more of them, leases would
/// expire while their inventories wait for it.
const LEASES: usize = 1024;

/// Number of nodes whose failures mean that no node can read a layer. Fewer may be broken, or report false failures.
const FAILED_BY: usize = 3;

/// Time during which a node whose lease has expired does not get the same layer again.
const LATE_PAUSE: Duration = Duration::from_secs(10);

/// Maximum number of nodes with a layer that one search examines.
const HOLDERS: usize = 64;

/// Maximum number of layers for which one search looks for a better node.
const SEARCHES: usize = 64;

/// Maximum number of layers that are being read again because of newer catalogers.
const RENEWALS: usize = 16;

/// Maximum number of layers that one search for layers to read again examines.
const RENEWABLE: usize = 256;

/// A node has to read a layer.
#[derive(Clone, Debug)]
struct Lease {
    node: Arc<str>,
    until: Instant,
}

/// Failures of one node to read a layer.
#[derive(Clone, Debug)]
struct Failure {
    coverage: Coverage,
    count: u32,
    /// When the node may try again.
    retry_at: Instant,
    /// Version of the node's catalogers.
    catalogers: u32,
}

/// A layer that is on a node or in the store.
#[derive(Clone, Debug, Default)]
pub(in crate::aggregator) struct Layer {
    read: Option<KnownLayer>,
    lease: Option<Lease>,
    /// Failures by node, so that the failure of one node does not keep another from reading the layer.
    failures: BTreeMap<Arc<str>, Failure>,
    /// The node whose lease expired last, and the end of its pause.
    late: Option<(Arc<str>, Instant)>,
    pub(super) cross: Option<CrossRead>,
    /// Nodes whose cross-read did not lead to a comparable result.
    pub(super) inconclusive: Vec<Arc<str>>,
    /// Nodes that read the same of a layer with overlay's opaque marks, but cannot read the marks.
    pub(super) same_without_marks: BTreeSet<Arc<str>>,
    /// No node could cross-read the layer: the time until which no other search starts.
    pub(super) no_witness_until: Option<Instant>,
    pub(super) dispute: Option<Dispute>,
    /// Stacks with this layer that a node has.
    pub(super) stacks: BTreeSet<Digest>,
    /// Number of containers with this layer.
    pub(super) containers: u32,
}

impl Layer {
    /// Creates a layer whose inventory is in the store.
    pub(super) fn stored(layer: KnownLayer) -> Self {
        Self { read: Some(layer), ..Self::default() }
    }

    /// Returns the layer's row in the store, if it has been read.
    pub(in crate::aggregator) fn read(&self) -> Option<&KnownLayer> {
        self.read.as_ref()
    }

    pub(super) fn read_mut(&mut self) -> Option<&mut KnownLayer> {
        self.read.as_mut()
    }

    /// Discards the inventory in the store, so that the layer is read again.
    pub(super) fn discard(&mut self) {
        self.read = None;
        self.cross = None;
        self.same_without_marks.clear();
    }

    /// Returns why the layer could not be read, if a node has failed.
    pub(in crate::aggregator) fn failed(&self) -> Option<&Coverage> {
        let failures = self.failures.values().filter(|failure| failure.count > 0);
        failures.max_by_key(|failure| failure.count).map(|failure| &failure.coverage)
    }

    /// Returns the nodes that could not read the layer, each with the reason.
    pub(in crate::aggregator) fn failures(&self) -> impl Iterator<Item = (&str, &Coverage)> {
        let failures = self.failures.iter().filter(|(_, failure)| failure.count > 0);
        failures.map(|(name, failure)| (&**name, &failure.coverage))
    }

    /// Returns whether nodes have reported different contents.
    pub(in crate::aggregator) fn is_disputed(&self) -> bool {
        self.dispute.is_some()
    }

    /// Returns the state of the layer.
    pub(in crate::aggregator) fn state(&self) -> LayerState {
        match (&self.read, &self.lease) {
            (Some(_), _) => LayerState::Known,
            (None, Some(_)) => LayerState::Leased,
            (None, None) if self.failed().is_some() => LayerState::Failed,
            (None, None) => LayerState::Waiting,
        }
    }

    /// Returns the stacks with this layer that a node has.
    pub(in crate::aggregator) fn stacks(&self) -> impl Iterator<Item = &Digest> {
        self.stacks.iter()
    }

    /// Returns whether the layer is in the store or on a node.
    pub(super) fn is_kept(&self) -> bool {
        self.read.is_some() || !self.stacks.is_empty()
    }

    /// Returns whether `node` has to read the layer, by a lease or a cross-read.
    pub(super) fn is_assigned_to(&self, node: &str) -> bool {
        self.lease.as_ref().is_some_and(|lease| *lease.node == *node)
            || self.cross.as_ref().is_some_and(|cross| *cross.node == *node)
    }

    /// Ends the lease and the cross-read of `node`.
    pub(super) fn release(&mut self, node: &str) {
        if self.lease.as_ref().is_some_and(|lease| *lease.node == *node) {
            self.lease = None;
        }
        if self.cross.as_ref().is_some_and(|cross| *cross.node == *node) {
            self.cross = None;
        }
    }

    /// Returns whether `node` could not read the layer.
    pub(super) fn has_failed(&self, node: &str) -> bool {
        self.failures.contains_key(node)
    }

    /// Removes the failures of `node`.
    pub(super) fn clear_failures(&mut self, node: &str) {
        self.failures.remove(node);
    }

    /// Returns whether the layer may be leased to the node now: no other lease is active, and neither this node nor enough others have failed.
    fn is_free(&self, name: &str, node: &Node, now: Now) -> bool {
        let version = node.catalogers;
        let leased = self.lease.as_ref().is_some_and(|lease| lease.until > now.instant);
        let late = self.late.as_ref().is_some_and(|(late, until)| **late == *name && *until > now.instant);
        let failed = match self.failures.get(name) {
            Some(failure) => {
                failure.retry_at > now.instant || failure.count >= MAX_FAILURES && failure.catalogers >= version
            }
            None => {
                let others = self.failures.values();
                others.filter(|other| other.count > 0 && other.catalogers >= version).count() >= FAILED_BY
            }
        };
        !leased && !late && !failed
    }

    /// Returns whether the layer has to be read and may be leased to the node.
    fn is_wanted(&self, name: &str, node: &Node, now: Now) -> bool {
        // After a dispute, nodes whose claim was wrong may not read the layer.
        let is_allowed = self.dispute.as_ref().is_none_or(|dispute| dispute.may_read(name));
        self.read.is_none() && is_allowed && self.is_free(name, node, now)
    }

    /// Returns whether a node with catalogers of this version should read the layer again. A claimed version above `known`, the version of
    /// the aggregator, counts as `known`. An inventory of such a node that no other node has verified is replaced, too, because no other node
    /// can verify it.
    fn is_renewed_by(&self, version: u32, known: u32) -> bool {
        self.read.as_ref().is_some_and(|read| {
            let is_alone = read.catalogers > known && read.verified_by.is_empty();
            read.catalogers < version.min(known) || is_alone && version <= known
        })
    }
}

impl Fleet {
    /// Leases layers to a node that has them, if they have not been read, are not leased, and no node of a better rank should read them.
    /// Returns the leased layers.
    pub(in crate::aggregator) fn lease(&mut self, name: &str, now: Now) -> Vec<LayerId> {
        let Some((name, _)) = self.picture.nodes.get_key_value(name) else { return Vec::new() };
        let Some(node) = self.picture.usable(name) else { return Vec::new() };
        let (room, rank) = (node.room(), node.rank(now));
        let mut leased: Vec<LayerId> = Vec::new();
        let mut searches = SEARCHES;
        for id in node.stacks.keys().filter_map(|stack| self.picture.stacks.get(stack)).flat_map(Stack::layers) {
            if leased.len() >= room || searches == 0 {
                break;
            }
            let layer = self.picture.layers.get(id).filter(|layer| layer.is_wanted(name, node, now));
            let Some(layer) = layer.filter(|_| !leased.contains(id)) else { continue };
            if rank != Rank::Delivers {
                searches -= 1;
                if self.has_better_holder(id, layer, rank, now) {
                    continue;
                }
            }
            leased.push(*id);
        }
        if !leased.is_empty() {
            leased.truncate(self.room());
        }
        let name = Arc::clone(name);
        self.grant(&name, &leased, now);
        leased
    }

    /// Returns whether a node of a better rank should read the layer.
    fn has_better_holder(&self, id: &LayerId, layer: &Layer, rank: Rank, now: Now) -> bool {
        let mut holders = self.holders(id, layer, now);
        holders.any(|(name, node)| node.rank(now) < rank && layer.is_wanted(name, node, now))
    }

    /// Returns how many further layers may be assigned to nodes.
    fn room(&self) -> usize {
        let assigned: usize = self.picture.nodes.values().map(|node| node.assigned.len()).sum();
        LEASES.saturating_sub(assigned)
    }

    fn grant(&mut self, name: &Arc<str>, leased: &[LayerId], now: Now) {
        for id in leased {
            if let Some(layer) = self.picture.layers.get_mut(id) {
                layer.lease = Some(Lease { node: Arc::clone(name), until: now.instant + LEASE });
                layer.late = None;
            }
        }
        if let Some(node) = self.picture.nodes.get_mut(name) {
            node.assigned.extend(leased);
        }
    }

    /// Ends expired leases, leases layers whose lease or pause has ended, and leases a few layers that newer catalogers should read again.
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
            let wanted = || self.holders(id, layer, now).filter(|(name, node)| layer.is_wanted(name, node, now));
            let best = wanted().map(|(_, node)| node.rank(now)).min();
            let able = wanted().filter(|(_, node)| Some(node.rank(now)) == best && node.room() > 0);
            nodes.extend(able.take(2).map(|(name, _)| Arc::clone(name)));
        }
        let leased = nodes.into_iter().map(|name| {
            let leased = self.lease(&name, now);
            (name, leased)
        });
        let mut all: Vec<_> = leased.filter(|(_, leased)| !leased.is_empty()).collect();
        // Unread layers come first; newer catalogers read a few layers at a time.
        for (name, id) in self.renewals(now) {
            self.grant(&name, &[id], now);
            all.push((name, vec![id]));
        }
        all
    }

    /// Returns attached nodes with a layer, starting at a random one that no node can predict.
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
        holders.filter_map(|name| Some((name, self.picture.usable(name)?)))
    }

    /// Returns layers that newer catalogers should read again, each with a node that has no other layer to read.
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
            if !self.may_renew(id, layer, known, now) {
                continue;
            }
            let mut free = self.holders(id, layer, now).filter(|(name, node)| {
                node.assigned.is_empty()
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

    /// Returns whether newer catalogers may replace the inventory of a layer: if several nodes have the layer, two of them have such catalogers, so
    /// that one verifies what the other reads. Otherwise a node that claims a newer version would replace what others have verified.
    fn may_renew(&self, id: &LayerId, layer: &Layer, known: u32, now: Now) -> bool {
        let (mut holders, mut newer) = (0, 0);
        for (_, node) in self.holders(id, layer, now) {
            holders += 1;
            newer += usize::from(layer.is_renewed_by(node.catalogers, known));
        }
        let is_unknown = layer.read.as_ref().is_some_and(|read| read.catalogers > known);
        is_unknown || newer >= holders.min(2)
    }

    /// Ends leases and cross-reads that have expired.
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
            layer.inconclusive.extend(cross.clone());
            for name in lease.into_iter().chain(cross) {
                unassign(&mut self.picture.nodes, &name, id);
                if let Some(node) = self.picture.nodes.get_mut(&name) {
                    node.set_late(now);
                }
            }
        }
    }

    /// Returns the version of the catalogers with which `node` reads the layer, or `None` if the layer is not leased to it. An inventory of
    /// another version is refused.
    pub(in crate::aggregator) fn is_leased(&self, node: &str, layer: &LayerId) -> Option<u32> {
        let lease = self.picture.layers.get(layer).and_then(|layer| layer.lease.as_ref());
        lease.filter(|lease| *lease.node == *node)?;
        self.picture.nodes.get(node).map(|node| node.catalogers)
    }

    /// Returns whether an inventory agrees with the result of a settled dispute; `true` if there was none, or if the two cannot be compared.
    pub(in crate::aggregator) fn is_settled(&self, read: &KnownLayer) -> bool {
        let dispute = self.picture.layers.get(&read.id).and_then(|layer| layer.dispute.as_ref());
        dispute.is_none_or(|dispute| dispute.allows(read))
    }

    /// Records that the layer's inventory is in the store. Returns `false` if it must be removed, because its node is now distrusted.
    pub(in crate::aggregator) fn layer_stored(&mut self, mut read: KnownLayer) -> bool {
        if self.picture.distrusted.contains(&read.node) {
            return false;
        }
        let layer = self.picture.layers.entry(read.id, Layer::default);
        let lease = layer.lease.take().map(|lease| lease.node);
        let cross = layer.cross.take().map(|cross| cross.node);
        for name in lease.into_iter().chain(cross) {
            unassign(&mut self.picture.nodes, &name, &read.id);
        }
        if let Some(node) = self.picture.nodes.get_mut(read.node.as_str()) {
            node.delivers = true;
        }
        if let Some(dispute) = layer.dispute.take() {
            let agreeing = dispute.agreeing(&read);
            read.verified_by.extend(agreeing);
        }
        layer.failures.clear();
        (layer.late, layer.no_witness_until) = (None, None);
        layer.inconclusive.clear();
        layer.same_without_marks.clear();
        // The oldest catalogers of a stack do not change where others have read its other layers, so that [`Self::ready`] would keep what follows
        // from the inventory of unknown catalogers that is replaced.
        let was_unknown = layer.read.as_ref().is_some_and(|before| before.catalogers > read.catalogers);
        layer.read = Some(read);
        let stacks = layer_stacks(layer);
        if was_unknown {
            self.forget(stacks)
        } else {
            self.invalidate(stacks)
        }
        true
    }

    /// Records that a layer of these stacks has changed.
    pub(super) fn invalidate(&mut self, stacks: Vec<Digest>) {
        for digest in stacks {
            if let Some(stack) = self.picture.stacks.get_mut(&digest) {
                stack.invalidate();
            }
            self.touched.insert(digest);
        }
    }

    /// Records that a node could not read a layer. If `gone` is set, the node does not have the layer any more, which is not a failure.
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
        node.assigned.remove(id);
        if let Some(cross) = layer.cross.take_if(|cross| *cross.node == *name) {
            layer.inconclusive.push(cross.node);
            return;
        }
        let Some(lease) = layer.lease.take_if(|lease| *lease.node == *name) else { return };
        let version = node.catalogers;
        let before = layer.failures.get(name).filter(|failure| failure.catalogers >= version);
        let before = before.map_or(0, |failure| failure.count);
        let (count, pause) = match gone {
            true => (before, GONE_PAUSE),
            // A layer stays too large until the limits or the catalogers change.
            false if coverage.state == CoverageState::TooLarge => (MAX_FAILURES, PAUSE),
            false => (before + 1, PAUSE * 2_u32.saturating_pow(before.min(10))),
        };
        // An entry of a node that only does not have the layer any more is removed after its pause.
        layer.failures.retain(|_, failure| failure.count > 0 || failure.retry_at > now.instant);
        let retry_at = now.instant + pause;
        let coverage = shortened(coverage);
        layer.failures.insert(lease.node, Failure { coverage, count, retry_at, catalogers: version });
    }
}

impl Picture {
    /// Returns the layer with this identity.
    pub(in crate::aggregator) fn layer(&self, id: &LayerId) -> Option<&Layer> {
        self.layers.get(id)
    }

    /// Returns the layers that a node has.
    pub(in crate::aggregator) fn present_layers(&self) -> impl Iterator<Item = (&LayerId, &Layer)> {
        self.layers.iter().filter(|(_, layer)| !layer.stacks.is_empty())
    }
}

/// Returns the stacks with a layer that a node has.
pub(super) fn layer_stacks(layer: &Layer) -> Vec<Digest> {
    layer.stacks.iter().copied().collect()
}
