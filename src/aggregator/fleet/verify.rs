//! A node is not believed alone: what one read, another one reads as well; where two differ, a third settles it.

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outcrop_proto::{Digest, LayerId};

use super::layers::{Layer, layer_stacks};
use super::stacks::Stack;
use super::{Fleet, KnownLayer, LEASE, Now, unask};

/// Nodes whose word is heard on a layer in dispute. Where so many do not agree, people have to look.
const MAX_CLAIMS: usize = 7;

/// How long it is not looked again for somebody who could be asked, after there was nobody.
const ALONE: Duration = Duration::from_secs(10);

/// Most layers that a node is to read at a time, for its own word or for another's.
const ASKED_AT_ONCE: usize = 8;

/// A node was asked to read a layer for another one's word.
#[derive(Clone, Debug)]
pub(in crate::aggregator) struct CrossRead {
    pub(super) node: Arc<str>,
    pub(super) until: Instant,
}

/// Nodes disagree on what a layer holds.
#[derive(Clone, Debug, Default)]
pub(in crate::aggregator) struct Dispute {
    /// What each says.
    claims: BTreeMap<String, Digest>,
    /// What most of them say, where that is not what is in the store: it has to be read again.
    pub(super) settled: Option<Digest>,
    /// With which catalogers they read it, and whether they saw overlay's marks: with others it says something else.
    catalogers: u32,
    marks: bool,
}

impl Dispute {
    /// Whether `node` may read the layer: once it is settled, those that were right, and those that nobody heard: the others may
    /// be gone.
    pub(super) fn is_believed(&self, node: &str) -> bool {
        self.settled.is_some_and(|settled| self.claims.get(node).is_none_or(|claim| *claim == settled))
    }

    /// Whether this is what it came to, as far as that can be compared.
    pub(super) fn allows(&self, read: &KnownLayer) -> bool {
        let same_kind = read.catalogers == self.catalogers && read.marks == self.marks;
        self.settled.is_none_or(|settled| settled == read.digest || !same_kind)
    }

    /// Nodes that say so.
    pub(super) fn agreeing(&self, digest: &Digest) -> impl Iterator<Item = &str> {
        self.claims.iter().filter(move |(_, claim)| *claim == digest).map(|(name, _)| name.as_str())
    }

    /// What more than one say, and more than say anything else.
    fn majority(&self) -> Option<Digest> {
        let mut counts: BTreeMap<Digest, usize> = BTreeMap::new();
        self.claims.values().for_each(|claim| *counts.entry(*claim).or_default() += 1);
        let most = counts.values().copied().max().filter(|most| *most > 1)?;
        let mut first = counts.into_iter().filter(|(_, count)| *count == most).map(|(digest, _)| digest);
        first.next().filter(|_| first.next().is_none())
    }
}

/// What a cross-read came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::aggregator) enum Verified {
    /// Nobody had asked for it.
    Unasked,
    /// It cannot be compared: with other rights or other catalogers a layer says something else.
    Inconclusive,
    /// The same.
    Same,
    /// Something else. Another node is asked.
    Disputed,
    /// A dispute is over: what is in the store is right.
    Upheld,
    /// A dispute is over: what is in the store, which this node read, is wrong, and is read again.
    Overturned(String),
}

/// What follows from believing a node no more, for the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::aggregator) struct Distrusted {
    /// Layers that are to be read again.
    pub(in crate::aggregator) forgotten: Vec<LayerId>,
    /// Layers that another node came to the same of: they are that one's word now.
    pub(in crate::aggregator) attributed: Vec<(LayerId, String)>,
}

impl Layer {
    /// Returns whether `node` has anything to do with it: it reads it, read it, vouches for it, failed at it or has a say in a dispute.
    fn concerns(&self, node: &str) -> bool {
        self.is_asked(node)
            || self.has_failed(node)
            || self.dispute.as_ref().is_some_and(|dispute| dispute.claims.contains_key(node))
            || self.read().is_some_and(|read| read.node == node || read.verified_by.contains(node))
    }

    /// `node` is not believed any more: a dispute that nobody else keeps up is over.
    fn unclaim(&mut self, node: &str) {
        let in_store = self.read().map(|read| read.digest);
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
    /// Layers that another node is to read as well, and who: a sample of those that several nodes have, all that many containers
    /// stand on, and those in dispute.
    pub(in crate::aggregator) fn cross_reads(&mut self, now: Now) -> Vec<(Arc<str>, LayerId)> {
        let due: Vec<LayerId> =
            self.picture.layers.iter().filter(|(id, layer)| self.is_due(id, layer, now)).map(|(id, _)| *id).collect();
        let mut asked = Vec::new();
        for id in due {
            let Some(name) = self.witness(&id) else {
                if let Some(layer) = self.picture.layers.get_mut(&id) {
                    // Those that gave no word may be asked once more after that.
                    layer.unheard.clear();
                    layer.alone = Some(now.instant + ALONE);
                }
                continue;
            };
            let cross = CrossRead { node: Arc::clone(&name), until: now.instant + LEASE };
            if let Some(layer) = self.picture.layers.get_mut(&id) {
                layer.cross = Some(cross);
            }
            if let Some(node) = self.picture.nodes.get_mut(&name) {
                node.asked.insert(id);
            }
            asked.push((name, id));
        }
        asked
    }

    fn is_due(&self, id: &LayerId, layer: &Layer, now: Now) -> bool {
        let Some(read) = layer.read().filter(|_| layer.cross.is_none() && !layer.stacks.is_empty()) else {
            return false;
        };
        if layer.alone.is_some_and(|until| until > now.instant) {
            return false;
        }
        if let Some(dispute) = &layer.dispute {
            return dispute.settled.is_none() && dispute.claims.len() < MAX_CLAIMS;
        }
        if !read.verified_by.is_empty() {
            return false;
        }
        // Two numbers that no node can foresee: whether this layer is in the sample, and how long after it was read.
        let parts = |number: u64| f64::from(u32::try_from(number & 0xffff_ffff).unwrap_or(0)) / 4_294_967_296.0;
        let random = self.random.hash_one(id);
        let sampled = layer.containers > self.rules.verify_containers || parts(random) < self.rules.verify_share;
        let after = self.rules.verify_within.as_secs_f64() * parts(random >> 32) * 0.8;
        let age = f64::from(i32::try_from(now.unix - read.read_at).unwrap_or(i32::MAX));
        sampled && age >= after
    }

    /// A node that has the layer, can compare it, and has not said anything of it yet.
    fn witness(&self, id: &LayerId) -> Option<Arc<str>> {
        let layer = self.picture.layers.get(id)?;
        let read = layer.read()?;
        let heard = |name: &str| {
            name == read.node
                || layer.unheard.iter().any(|other| **other == *name)
                || layer.dispute.as_ref().is_some_and(|dispute| dispute.claims.contains_key(name))
        };
        let can_tell = |name: &&Arc<str>| {
            let node = self.picture.nodes.get(*name);
            !heard(name)
                && !self.picture.distrusted.contains(&***name)
                && node.is_some_and(|node| {
                    let can_compare = node.marks == read.marks && node.catalogers == read.catalogers;
                    node.attached && can_compare && node.asked.len() < ASKED_AT_ONCE
                })
        };
        let holders = layer.stacks.iter().filter_map(|stack| self.picture.stacks.get(stack)).flat_map(Stack::nodes);
        let candidates = holders.filter(can_tell).take(64);
        candidates.min_by_key(|name| self.random.hash_one((id, name))).cloned()
    }

    /// A node read a layer for another one's word.
    pub(in crate::aggregator) fn verified(
        &mut self,
        name: &str,
        id: &LayerId,
        digest: Digest,
        catalogers: u32,
        marks: bool,
    ) -> Verified {
        let Some(layer) = self.picture.layers.get_mut(id) else { return Verified::Unasked };
        let Some(cross) = layer.cross.take_if(|cross| *cross.node == *name) else { return Verified::Unasked };
        unask(&mut self.picture.nodes, name, id);
        let is_disputed = layer.dispute.is_some();
        let Some(read) = layer.read_mut().filter(|read| read.catalogers == catalogers && read.marks == marks) else {
            layer.unheard.push(cross.node);
            return Verified::Inconclusive;
        };
        if !is_disputed && read.digest == digest {
            read.verified_by.insert(name.to_owned());
            return Verified::Same;
        }
        let (reader, in_store) = (read.node.clone(), read.digest);
        let dispute = layer.dispute.get_or_insert_default();
        (dispute.catalogers, dispute.marks) = (catalogers, marks);
        dispute.claims.insert(reader.clone(), in_store);
        dispute.claims.insert(name.to_owned(), digest);
        match dispute.majority() {
            None => Verified::Disputed,
            Some(right) if right == in_store => {
                let agreeing: Vec<String> = dispute.agreeing(&right).map(ToOwned::to_owned).collect();
                layer.dispute = None;
                if let Some(read) = layer.read_mut() {
                    read.verified_by.extend(agreeing.into_iter().filter(|name| *name != reader));
                }
                Verified::Upheld
            }
            Some(right) => {
                dispute.settled = Some(right);
                layer.unread();
                let stacks = layer_stacks(layer);
                self.forget(stacks);
                Verified::Overturned(reader)
            }
        }
    }

    /// What is in the store of these stacks follows from what is not believed any more.
    fn forget(&mut self, stacks: Vec<Digest>) {
        for digest in &stacks {
            if let Some(stack) = self.picture.stacks.get_mut(digest) {
                stack.forget();
            }
        }
        self.invalidate(stacks);
    }

    /// Believes a node no more: what it read and nobody else came to the same of is to be read again.
    pub(in crate::aggregator) fn distrust(&mut self, name: &str) -> Distrusted {
        self.picture.distrusted.insert(name.to_owned());
        if let Some(node) = self.picture.nodes.get_mut(name) {
            node.asked.clear();
        }
        let mut outcome = Distrusted::default();
        let mut stacks = Vec::new();
        for (id, layer) in self.picture.layers.select_mut(|_, layer| layer.concerns(name)) {
            layer.release(name);
            layer.forgive(name);
            layer.unclaim(name);
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
                    layer.unread();
                    layer.dispute = None;
                    stacks.extend(layer_stacks(layer));
                    outcome.forgotten.push(*id);
                }
            }
        }
        // Stacks that nobody has now stand on forgotten layers too.
        let forgotten: std::collections::HashSet<&LayerId> = outcome.forgotten.iter().collect();
        let absent = self
            .picture
            .stacks
            .iter()
            .filter(|(_, stack)| stack.containers() == 0 && stack.layers().iter().any(|id| forgotten.contains(id)));
        stacks.extend(absent.map(|(digest, _)| *digest));
        self.forget(stacks);
        outcome
    }

    /// Believes a node again.
    pub(in crate::aggregator) fn trust(&mut self, name: &str) {
        self.picture.distrusted.remove(name);
    }
}
