//! Counts over the containers in a scope.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::civil::Date;
use outcrop_proto::{Coverage, CoverageState, Digest, LayerId, LayerState, Severity};

use super::layers::Layer;
use super::stacks::Stack;
use super::{Now, Picture};
use crate::store::{DayCount, StackId, Summary};
use crate::web::{LayerCounts, Lifetimes, Scope};

/// Counts of containers.
#[derive(Debug, Default)]
pub(in crate::aggregator) struct Overview {
    /// Number of containers by coverage.
    pub(in crate::aggregator) coverage: BTreeMap<Coverage, u64>,
    /// Summaries of their stacks in the store, each with the number of containers.
    pub(in crate::aggregator) summaries: Vec<(Arc<Summary>, u32)>,
    /// Age of the oldest pending stack, in seconds.
    pub(in crate::aggregator) oldest_unscanned: Option<u64>,
}

/// A stack, and the number of its containers in a scope.
#[derive(Clone, Debug)]
pub(in crate::aggregator) struct Visible<'a> {
    /// Its identity.
    pub(in crate::aggregator) digest: &'a Digest,
    /// The stack.
    pub(in crate::aggregator) stack: &'a Stack,
    /// Number of its containers in the scope.
    pub(in crate::aggregator) containers: u32,
}

impl Picture {
    /// Returns the stacks with containers in `scope`.
    pub(in crate::aggregator) fn visible<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = Visible<'a>> {
        self.present().filter_map(|(digest, stack)| {
            let containers = match scope {
                Scope::All => stack.containers(),
                Scope::Namespaces(_) => {
                    stack.by_namespace().filter(|(namespace, _)| scope.sees(*namespace)).map(|(_, count)| count).sum()
                }
            };
            (containers > 0).then_some(Visible { digest, stack, containers })
        })
    }

    /// Counts the containers in `scope`, in one pass over stacks.
    pub(in crate::aggregator) fn overview(&self, scope: &Scope, now: Now) -> Overview {
        let mut overview = Overview::default();
        // Disputes are rare. Only if there is one, all layers of a stack have to be examined.
        let is_disputed = self.layers.values().any(Layer::is_disputed);
        for Visible { digest, stack, containers } in self.visible(scope) {
            let coverage = match stack.summary().filter(|_| !is_disputed) {
                Some(summary) => self.coverage_in_store(summary),
                None => self.coverage(digest),
            };
            if coverage.state == CoverageState::Pending {
                let waited = now.instant.saturating_duration_since(stack.since()).as_secs();
                overview.oldest_unscanned = overview.oldest_unscanned.max(Some(waited));
            }
            *overview.coverage.entry(coverage).or_default() += u64::from(containers);
            overview.summaries.extend(stack.summary().map(|summary| (Arc::clone(summary), containers)));
        }
        for ((coverage, namespace), containers) in &self.refused {
            if scope.sees(namespace.as_deref()) {
                *overview.coverage.entry(Coverage::clone(coverage)).or_default() += u64::from(*containers);
            }
        }
        overview
    }

    /// Counts the layers of containers in `scope`, by state.
    pub(in crate::aggregator) fn layer_counts(&self, scope: &Scope) -> LayerCounts {
        let newest = self.nodes.values().filter(|node| node.attached).map(|node| node.catalogers).max();
        let mut counts = LayerCounts::default();
        let seen: Option<HashSet<&LayerId>> = match scope {
            Scope::All => None,
            Scope::Namespaces(_) => Some(self.visible(scope).flat_map(|visible| visible.stack.layers()).collect()),
        };
        for (id, layer) in self.present_layers() {
            if seen.as_ref().is_some_and(|seen| !seen.contains(id)) {
                continue;
            }
            match layer.state() {
                LayerState::Known => counts.known += 1,
                LayerState::Leased => counts.leased += 1,
                LayerState::Waiting => counts.waiting += 1,
                LayerState::Failed => counts.failed += 1,
            }
            counts.disputed += u64::from(layer.is_disputed());
            counts.outdated += u64::from(layer.read().is_some_and(|read| Some(read.catalogers) < newest));
        }
        counts
    }

    /// Returns the open findings of all containers, by the namespace of their pods and by severity.
    pub(in crate::aggregator) fn day_counts(&self, day: Date) -> Vec<DayCount> {
        let mut counts: BTreeMap<(Option<String>, Reverse<Severity>), u64> = BTreeMap::new();
        for (_, stack) in self.present() {
            let Some(summary) = stack.summary() else { continue };
            for (namespace, containers) in stack.by_namespace() {
                for severity in Severity::WORST_FIRST {
                    let count = counts.entry((namespace.map(ToOwned::to_owned), Reverse(severity))).or_default();
                    *count += summary.counts.severities.get(severity) * u64::from(containers);
                }
            }
        }
        let rows = counts.into_iter();
        rows.map(|((namespace, Reverse(severity)), findings)| DayCount { day, namespace, severity, findings }).collect()
    }

    /// Returns the row ids of the stacks that a node has.
    pub(in crate::aggregator) fn present_ids(&self) -> Vec<StackId> {
        self.present().filter_map(|(_, stack)| stack.summary().map(|summary| summary.id)).collect()
    }

    /// Returns the counts of containers since the start.
    pub(in crate::aggregator) fn lifetimes(&self) -> Lifetimes {
        self.lifetimes.clone()
    }
}
