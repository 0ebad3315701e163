//! Layers that wait to be read, in a fair order: round robin over namespaces, so that a tenant with a thousand images does not delay
//! another one.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use outcrop_proto::LayerId;

/// Maximum number of waiting layers. Further layers are dropped, and their leases expire.
const MAX_WAITING: usize = 16_384;

/// Purpose of reading a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// Deliver its inventory.
    Inventory,
    /// Send the digest of its inventory, to verify another node's result.
    Verification,
    /// The same without reading overlay's marks, because the other node could not.
    VerificationWithoutMarks,
}

impl Purpose {
    /// Returns the name, for the log.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Inventory => "inventory",
            Self::Verification => "verification",
            Self::VerificationWithoutMarks => "verification without marks",
        }
    }
}

/// A layer that waits to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) layer: LayerId,
    pub(super) purpose: Purpose,
    /// End of the lease; afterwards another node may have got the layer.
    pub(super) until: Option<Instant>,
    /// Number of attempts so far.
    pub(super) tries: u32,
}

/// Queue of layers.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inventories: Lanes,
    verifications: Lanes,
    waiting: HashSet<(LayerId, Purpose)>,
}

/// One lane per namespace.
#[derive(Debug, Default)]
struct Lanes(VecDeque<(String, VecDeque<Wanted>)>);

impl Queue {
    /// Appends a layer to the shortest lane of `namespaces`, the namespaces of the containers that have the layer.
    pub(super) fn push(&mut self, wanted: Wanted, namespaces: &[String]) {
        if self.waiting.len() >= MAX_WAITING || !self.waiting.insert((wanted.layer, wanted.purpose)) {
            return;
        }
        let lanes = self.lanes(wanted.purpose);
        let length = |name: &String| lanes.0.iter().find(|(lane, _)| lane == name).map_or(0, |(_, lane)| lane.len());
        let name = namespaces.iter().min_by_key(|name| length(name)).cloned().unwrap_or_default();
        match lanes.0.iter_mut().find(|(lane, _)| *lane == name) {
            Some((_, lane)) => lane.push_back(wanted),
            None => lanes.0.push_back((name, VecDeque::from([wanted]))),
        }
    }

    /// Returns the next layer whose lease has not expired; verifications only when no inventory waits.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Wanted> {
        loop {
            let next = self.inventories.pop().or_else(|| self.verifications.pop())?;
            self.waiting.remove(&(next.layer, next.purpose));
            if next.until.is_none_or(|until| now < until) {
                return Some(next);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn lanes(&mut self, purpose: Purpose) -> &mut Lanes {
        match purpose {
            Purpose::Inventory => &mut self.inventories,
            Purpose::Verification | Purpose::VerificationWithoutMarks => &mut self.verifications,
        }
    }
}

impl Lanes {
    fn pop(&mut self) -> Option<Wanted> {
        let (name, mut lane) = self.0.pop_front()?;
        let next = lane.pop_front();
        if !lane.is_empty() {
            self.0.push_back((name, lane));
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outcrop_proto::Digest;

    use super::*;

    fn wanted(number: u32, purpose: Purpose) -> Wanted {
        Wanted { layer: LayerId::Diff(Digest::of(&number.to_le_bytes())), purpose, until: None, tries: 0 }
    }

    #[test]
    fn one_layer_of_a_small_tenant_waits_for_one_of_a_large_one() {
        let mut queue = Queue::default();
        let [large, small] = ["large", "small"].map(str::to_owned);
        for number in 0..1000 {
            queue.push(wanted(number, Purpose::Inventory), std::slice::from_ref(&large));
        }
        let few = wanted(5000, Purpose::Inventory);
        queue.push(few, std::slice::from_ref(&small));
        // A layer that both tenants have goes to the shorter lane; a layer that is queued twice is read once.
        let shared = wanted(6000, Purpose::Inventory);
        queue.push(shared, &[large, small]);
        queue.push(few, &["third".to_owned()]);
        let now = Instant::now();
        let order: Vec<Wanted> = std::iter::from_fn(|| queue.pop(now)).collect();
        assert_eq!(order.len(), 1002);
        assert_eq!((order[1], order[3]), (few, shared));
    }

    #[test]
    fn verifications_come_last_and_what_nobody_waits_for_never() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let late = Wanted { until: Some(now), ..wanted(1, Purpose::Inventory) };
        let verification = wanted(2, Purpose::Verification);
        let inventory = Wanted { until: Some(now + Duration::from_secs(1)), ..wanted(2, Purpose::Inventory) };
        [verification, late, inventory].into_iter().for_each(|wanted| queue.push(wanted, &[]));
        assert_eq!([queue.pop(now), queue.pop(now), queue.pop(now)], [Some(inventory), Some(verification), None]);
        for number in 0..20_000 {
            queue.push(wanted(number, Purpose::Inventory), &[]);
        }
        assert_eq!(queue.len(), MAX_WAITING);
        queue.clear();
        assert_eq!((queue.len(), queue.pop(now)), (0, None));
    }
}
