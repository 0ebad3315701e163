//! Merges that wait, and the nodes for which they are made.

use std::sync::Arc;

use outcrop_proto::Digest;

use super::Fleet;
use super::stacks::Progress;

/// Maximum number of nodes of a stack that are returned.
const NODES: usize = 64;

impl Fleet {
    /// Returns nodes that have each of these stacks, whose merges wait. A merge for which there is no node must be dropped: its stack becomes ready
    /// again when a node reports it.
    pub(in crate::aggregator) fn nodes_to_merge_for(&mut self, stacks: &[Digest]) -> Vec<Vec<Arc<str>>> {
        let nodes = |digest: &Digest| {
            let stack = self.picture.stacks.get(digest)?;
            let nodes: Vec<Arc<str>> = stack.nodes().take(NODES).cloned().collect();
            if nodes.is_empty()
                && let Some(stack) = self.picture.stacks.get_mut(digest)
                && matches!(stack.progress, Progress::Merging | Progress::MergingOutdated)
            {
                stack.progress = Progress::Idle;
            }
            Some(nodes)
        };
        stacks.iter().map(nodes).map(Option::unwrap_or_default).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Instant;

    use outcrop_proto::wire::{Seen, v1};
    use outcrop_proto::{ContainerKey, LayerId, Runtime};

    use super::super::{Now, Placed, Report, Rules};
    use super::*;
    use crate::store::Layer;

    /// Reports that `node` has these containers, all of one image.
    fn report(fleet: &mut Fleet, node: &str, containers: &[&str], now: Now) {
        let seen = |id: &&str| Seen {
            key: ContainerKey { runtime: Runtime::Containerd, namespace: "k8s.io".to_owned(), id: (*id).to_owned() },
            name: String::new(),
            pod: None,
            image: String::new(),
            storage: None,
            stack: Some((Digest([1; 32]), vec![LayerId::Chain(Digest([1; 32]))])),
            refused: None,
            steps: Vec::new(),
            details: None,
        };
        let containers = containers.iter().map(seen).collect();
        let (gone, unconfirmed) = (Vec::new(), Vec::new());
        let report = Report { stream: 1, sequence: 0, full: true, containers, gone, unconfirmed };
        fleet.containers(node, report, &|_| Placed::AsReported, now).unwrap();
    }

    #[test]
    fn a_merge_is_for_the_nodes_that_have_the_stack_and_is_made_later_if_none_has_it_yet() {
        let now = Now { instant: Instant::now(), unix: 1_000_000 };
        let layer = Layer {
            id: LayerId::Chain(Digest([1; 32])),
            digest: Digest([2; 32]),
            without_marks: None,
            size: 1,
            catalogers: 1,
            node: "a".to_owned(),
            cage: String::new(),
            marks: true,
            read_at: 0,
            verified_by: BTreeSet::new(),
        };
        let mut fleet = Fleet::new(Rules::default(), [layer], [], []);
        for node in ["a", "b"] {
            fleet.attach(node, &v1::Hello { catalogers: 1, ..v1::Hello::default() }, 1, now);
            report(&mut fleet, node, &[node], now);
        }
        let stack = [Digest([1; 32])];
        let nodes = |fleet: &mut Fleet| fleet.nodes_to_merge_for(&stack).concat().join(" ");
        assert_eq!(fleet.ready(now).len(), 1);
        assert_eq!(nodes(&mut fleet), "a b");
        report(&mut fleet, "a", &[], now);
        assert_eq!(nodes(&mut fleet), "b");
        report(&mut fleet, "b", &[], now);
        assert_eq!(nodes(&mut fleet), "");
        assert!(fleet.ready(now).is_empty());
        // The merge was dropped, so a node that has the stack again needs another one.
        report(&mut fleet, "b", &["again"], now);
        assert_eq!(fleet.ready(now).len(), 1);
        assert_eq!(nodes(&mut fleet), "b");
        report(&mut fleet, "b", &[], now);
        nodes(&mut fleet);
        fleet.tidy(now);
        assert!(fleet.stack(&stack[0]).is_none(), "it takes no memory");
    }
}
