//! Verification: a second node reads the layers that several nodes have (a cross-read). If the two inventories differ, further nodes settle
//! the dispute.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outcrop_proto::{Digest, LayerId};

use super::layers::{Layer, layer_stacks};
use super::stacks::Stack;
use super::{Fleet, KnownLayer, LEASE, Now, unassign};

/// Maximum number of nodes that read a disputed layer. If they do not settle the dispute, an operator has to.
const MAX_CLAIMS: usize = 7;

/// Pause after no node could cross-read a layer.
const WITNESS_PAUSE: Duration = Duration::from_secs(10);

/// Maximum number of layers that a node with a further cross-read has to read at a time.
const MAX_ASSIGNED: usize = 8;

/// A node has to read a layer that another node has read.
#[derive(Clone, Debug)]
pub(in crate::aggregator) struct CrossRead {
    pub(super) node: Arc<str>,
    pub(super) until: Instant,
    /// Whether the node reads overlay's marks.
    pub(super) marks: bool,
}

/// A cross-read to order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::aggregator) struct Witness {
    /// The node that has to read the layer.
    pub(in crate::aggregator) node: Arc<str>,
    /// The layer.
    pub(in crate::aggregator) layer: LayerId,
    /// Whether the node reads overlay's marks. It does not if the reader could not, or if no other node can: what both can see is compared.
    pub(in crate::aggregator) marks: bool,
}

/// Nodes have reported different inventories of a layer.
#[derive(Clone, Debug, Default)]
pub(in crate::aggregator) struct Dispute {
    /// The digest of the inventory that each node has reported.
    claims: BTreeMap<String, Digest>,
    /// The digest of the majority, if it differs from the inventory in the store: then the layer has to be read again.
    pub(super) settled: Option<Digest>,
    /// Version of the catalogers of all claims. Inventories of different versions cannot be compared.
    catalogers: u32,
    /// Whether the claims are digests of inventories with overlay's marks. Inventories without them have other digests.
    marks: bool,
    /// Nodes that read the same as the reader without the marks. That does not settle a dispute about inventories with marks.
    same_without_marks: BTreeSet<String>,
}

impl Dispute {
    /// Returns whether `node` may read the layer again after the dispute was settled: nodes of the majority, and nodes without a claim, because
    /// those of the majority may be gone.
    pub(super) fn may_read(&self, node: &str) -> bool {
        self.settled.is_some_and(|settled| self.claims.get(node).is_none_or(|claim| *claim == settled))
    }

    /// Returns whether an inventory agrees with the majority, or cannot be compared with it.
    pub(super) fn allows(&self, read: &KnownLayer) -> bool {
        let comparable = read.digest_with(self.marks).filter(|_| read.catalogers == self.catalogers);
        self.settled.is_none_or(|settled| comparable.is_none_or(|digest| digest == settled))
    }

    /// Returns the nodes other than its reader that have reported this inventory.
    pub(super) fn agreeing(&self, read: &KnownLayer) -> Vec<String> {
        // Without the marks, nobody has agreed about them.
        let digest = read.digest_with(self.marks).filter(|_| self.marks || !read.has_marks());
        let agrees = |(name, claim): &(&String, &Digest)| Some(**claim) == digest && **name != read.node;
        self.claims.iter().filter(agrees).map(|(name, _)| name.clone()).collect()
    }

    /// Returns the digest that at least two nodes have reported, and more nodes than any other digest.
    fn majority(&self) -> Option<Digest> {
        let mut counts: BTreeMap<Digest, usize> = BTreeMap::new();
        self.claims.values().for_each(|claim| *counts.entry(*claim).or_default() += 1);
        let most = counts.values().copied().max().filter(|most| *most > 1)?;
        let mut first = counts.into_iter().filter(|(_, count)| *count == most).map(|(digest, _)| digest);
        first.next().filter(|_| first.next().is_none())
    }
}

/// The result of a cross-read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::aggregator) enum Verified {
    /// The cross-read was not requested.
    NotRequested,
    /// The inventories cannot be compared, because the node read with other rights or catalogers than it was asked to.
    Inconclusive,
    /// The inventories are equal. Contains the digest of the inventory in the store.
    Same(Digest),
    /// The inventories differ. Another node has to read the layer.
    Disputed,
    /// A dispute is settled: the inventory in the store, with this digest, is correct.
    Upheld(Digest),
    /// A dispute is settled: the inventory in the store, which this node reported, is wrong. The layer is read again.
    Overturned(String),
}

/// The changes in the store that follow from distrusting a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::aggregator) struct Distrusted {
    /// Layers that have to be read again.
    pub(in crate::aggregator) forgotten: Vec<LayerId>,
    /// Layers that another node has verified, with that node: the inventory counts as that node's now.
    pub(in crate::aggregator) attributed: Vec<(LayerId, String)>,
    /// Nodes that have to report all containers again.
    pub(in crate::aggregator) resync: BTreeSet<Arc<str>>,
}

impl Layer {
    /// Returns whether `node` reads, has read or has verified the layer, has failed to read it, or takes part in a dispute about it.
    fn concerns(&self, node: &str) -> bool {
        self.is_assigned_to(node)
            || self.has_failed(node)
            || self.same_without_marks.contains(node)
            || self.dispute.as_ref().is_some_and(|dispute| dispute.claims.contains_key(node))
            || self.read().is_some_and(|read| read.node == node || read.verified_by.contains(node))
    }

    /// Removes the claim of a distrusted node, and ends the dispute if no other claim supports it.
    fn remove_claim(&mut self, node: &str) {
        let Some(marks) = self.dispute.as_ref().map(|dispute| dispute.marks) else { return };
        let in_store = self.read().and_then(|read| read.digest_with(marks));
        let Some(dispute) = self.dispute.as_mut() else { return };
        if dispute.claims.remove(node).is_none() {
            return;
        }
        let is_over = match dispute.settled {
            Some(settled) => dispute.majority() != Some(settled),
            None => dispute.claims.values().all(|claim| Some(*claim) == in_store),
        };
        if is_over {
            self.dispute = None;
        }
    }
}

impl Fleet {
    /// Selects layers that another node has to read: those that several nodes have, or a sample of them, all layers of many containers, and
    /// disputed layers.
    pub(in crate::aggregator) fn cross_reads(&mut self, now: Now) -> Vec<Witness> {
        let due: Vec<LayerId> =
            self.picture.layers.iter().filter(|(id, layer)| self.is_due(id, layer, now)).map(|(id, _)| *id).collect();
        let mut selected = Vec::new();
        for id in due {
            let Some((node, marks)) = self.witness(&id, now) else {
                if let Some(layer) = self.picture.layers.get_mut(&id) {
                    // After the pause, nodes with an inconclusive result may read the layer again.
                    layer.inconclusive.clear();
                    layer.no_witness_until = Some(now.instant + WITNESS_PAUSE);
                }
                continue;
            };
            if let Some(layer) = self.picture.layers.get_mut(&id) {
                layer.cross = Some(CrossRead { node: Arc::clone(&node), until: now.instant + LEASE, marks });
            }
            if let Some(node) = self.picture.nodes.get_mut(&node) {
                node.assigned.insert(id);
            }
            selected.push(Witness { node, layer: id, marks });
        }
        selected
    }

    fn is_due(&self, id: &LayerId, layer: &Layer, now: Now) -> bool {
        let Some(read) = layer.read().filter(|_| layer.cross.is_none() && !layer.stacks.is_empty()) else {
            return false;
        };
        if layer.no_witness_until.is_some_and(|until| until > now.instant) {
            return false;
        }
        if let Some(dispute) = &layer.dispute {
            let claims = dispute.claims.len() + dispute.same_without_marks.len();
            return dispute.settled.is_none() && claims < MAX_CLAIMS;
        }
        if !read.verified_by.is_empty() {
            return false;
        }
        // Two random numbers that no node can predict: the first decides whether the layer is in the sample, the second when it is read again.
        let fraction = |number: u64| f64::from(u32::try_from(number & 0xffff_ffff).unwrap_or(0)) / 4_294_967_296.0;
        let random = self.random.hash_one(id);
        let sampled = layer.containers > self.rules.verify_containers || fraction(random) < self.rules.verify_share;
        let after = self.rules.verify_within.as_secs_f64() * fraction(random >> 32) * 0.8;
        let age = f64::from(i32::try_from(now.unix - read.read_at).unwrap_or(i32::MAX));
        sampled && age >= after
    }

    /// Returns a node that has the layer and the catalogers of the reader, and has not reported an inventory of it yet, and whether it has to
    /// read overlay's marks.
    ///
    /// What a node says about its own rights does not keep others from verifying its inventories. Where the reader could not read the marks, or
    /// no further node can, a node reads the layer without them.
    fn witness(&self, id: &LayerId, now: Now) -> Option<(Arc<str>, bool)> {
        let layer = self.picture.layers.get(id)?;
        let read = layer.read()?;
        let kinds = [true, false].into_iter().filter(|marks| {
            // A node that read the same without the marks has confirmed everything but the marks.
            let is_open = *marks || layer.same_without_marks.is_empty();
            // A dispute without marks cannot go on with them.
            is_open
                && read.digest_with(*marks).is_some()
                && layer.dispute.as_ref().is_none_or(|dispute| dispute.marks || !marks)
        });
        kinds.filter_map(|marks| Some((self.witness_with(id, layer, read, marks, now)?, marks))).next()
    }

    fn witness_with(&self, id: &LayerId, layer: &Layer, read: &KnownLayer, marks: bool, now: Now) -> Option<Arc<str>> {
        let has_reported = |name: &str| {
            name == read.node
                || layer.inconclusive.iter().any(|other| **other == *name)
                || layer.dispute.as_ref().is_some_and(|dispute| match dispute.marks == marks {
                    true => dispute.claims.contains_key(name),
                    false => dispute.same_without_marks.contains(name),
                })
        };
        let can_verify = |name: &&Arc<str>| {
            !has_reported(name)
                && self.picture.usable(name).is_some_and(|node| {
                    let can_compare = (node.marks || !marks) && node.catalogers == read.catalogers;
                    can_compare && node.assigned.len() < MAX_ASSIGNED
                })
        };
        let holders = layer.stacks.iter().filter_map(|stack| self.picture.stacks.get(stack)).flat_map(Stack::nodes);
        let candidates = holders.filter(can_verify).take(64);
        candidates
            .min_by_key(|name| {
                (self.picture.nodes.get(*name).map(|node| node.rank(now)), self.random.hash_one((id, name)))
            })
            .cloned()
    }

    /// Records the result of a cross-read.
    pub(in crate::aggregator) fn verified(
        &mut self,
        name: &str,
        id: &LayerId,
        digest: Digest,
        catalogers: u32,
        marks: bool,
    ) -> Verified {
        let Some(layer) = self.picture.layers.get_mut(id) else { return Verified::NotRequested };
        let Some(cross) = layer.cross.take_if(|cross| *cross.node == *name) else { return Verified::NotRequested };
        unassign(&mut self.picture.nodes, name, id);
        let is_disputed = layer.dispute.is_some();
        let read = layer.read_mut().filter(|read| read.catalogers == catalogers && cross.marks == marks);
        let Some((claim, read)) = read.and_then(|read| Some((read.digest_with(marks)?, read))) else {
            layer.inconclusive.push(cross.node);
            return Verified::Inconclusive;
        };
        let in_store = read.digest;
        let is_whole = marks || !read.has_marks();
        if !is_disputed && claim == digest {
            if !is_whole {
                layer.same_without_marks.insert(cross.node);
                return Verified::Inconclusive;
            }
            let confirms_marks = read.has_unconfirmed_marks();
            read.verified_by.insert(name.to_owned());
            if confirms_marks {
                let stacks = layer_stacks(layer);
                self.invalidate(stacks);
            }
            return Verified::Same(in_store);
        }
        let reader = read.node.clone();
        let dispute = layer.dispute.get_or_insert_default();
        if dispute.marks && !marks {
            if claim == digest {
                dispute.same_without_marks.insert(name.to_owned());
                return Verified::Inconclusive;
            }
            // Nodes without marks can settle this difference. The nodes with marks read the layer again without them.
            *dispute = Dispute::default();
        }
        (dispute.catalogers, dispute.marks) = (catalogers, marks);
        dispute.claims.insert(reader.clone(), claim);
        dispute.claims.insert(name.to_owned(), digest);
        match dispute.majority() {
            None => Verified::Disputed,
            Some(right) if right == claim => {
                if let Some(dispute) = layer.dispute.take()
                    && let Some(read) = layer.read_mut()
                {
                    let agreeing = dispute.agreeing(read);
                    read.verified_by.extend(agreeing);
                }
                if is_whole {
                    let stacks = layer_stacks(layer);
                    self.invalidate(stacks);
                    return Verified::Upheld(in_store);
                }
                layer.same_without_marks.insert(cross.node);
                Verified::Inconclusive
            }
            Some(right) => {
                dispute.settled = Some(right);
                layer.discard();
                let stacks = layer_stacks(layer);
                self.forget(stacks);
                Verified::Overturned(reader)
            }
        }
    }

    /// Discards the summaries of these stacks, because they follow from a discarded inventory.
    pub(super) fn forget(&mut self, stacks: Vec<Digest>) {
        for digest in &stacks {
            if let Some(stack) = self.picture.stacks.get_mut(digest) {
                stack.forget();
            }
        }
        self.invalidate(stacks);
    }

    /// Distrusts a node: layers that it has read and no other node has verified have to be read again.
    pub(in crate::aggregator) fn distrust(&mut self, name: &str) -> Distrusted {
        self.picture.distrusted.insert(name.to_owned());
        if let Some(node) = self.picture.nodes.get_mut(name) {
            node.assigned.clear();
        }
        let mut outcome = Distrusted { resync: self.relisting(name), ..Distrusted::default() };
        let mut stacks = Vec::new();
        for (id, layer) in self.picture.layers.select_mut(|_, layer| layer.concerns(name)) {
            layer.release(name);
            layer.clear_failures(name);
            layer.remove_claim(name);
            layer.same_without_marks.remove(name);
            let Some(read) = layer.read_mut() else { continue };
            read.verified_by.remove(name);
            if read.node != name {
                continue;
            }
            match read.verified_by.iter().find(|other| !self.picture.distrusted.contains(*other)).cloned() {
                Some(other) => {
                    read.verified_by.remove(&other);
                    read.node.clone_from(&other);
                    outcome.attributed.push((*id, other));
                }
                None => {
                    layer.discard();
                    layer.dispute = None;
                    stacks.extend(layer_stacks(layer));
                    outcome.forgotten.push(*id);
                }
            }
        }
        // Stacks that no node has at the moment contain discarded layers, too.
        let forgotten: std::collections::HashSet<&LayerId> = outcome.forgotten.iter().collect();
        let absent = self
            .picture
            .stacks
            .iter()
            .filter(|(_, stack)| stack.containers() == 0 && stack.layers().iter().any(|id| forgotten.contains(id)));
        stacks.extend(absent.map(|(digest, _)| *digest));
        stacks.extend(self.discard_answers(name));
        self.forget(stacks);
        outcome
    }

    /// Trusts a node again.
    pub(in crate::aggregator) fn trust(&mut self, name: &str) {
        self.picture.distrusted.remove(name);
    }
}
