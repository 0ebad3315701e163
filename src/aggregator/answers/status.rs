//! The status: nodes, coverage, findings, the advisory database and problems.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use outcrop_proto::wire::Refusal;
use outcrop_proto::{AssessedState, CoverageState, Distribution, NodeState, PackageType, SeverityCounts};

use super::recent::{LARGE, Recent};
use super::{time, words};
use crate::aggregator::fleet::Overview;
use crate::aggregator::joining::missing;
use crate::aggregator::{Aggregator, now};
use crate::offline::Offline;
use crate::web::{
    AssessedCount, ConnectionCounts, CoverageCount, CoverageWord, DatabaseStatus, KubernetesStatus, NodeCounts,
    OfflineStatus, ReasonCount, ReportCounts, Scope, SourceStatus, Status,
};

/// Name of the complete sandbox.
const FULL_CAGE: &str = "landlock+seccomp";

/// Maximum number of reasons that are listed.
const MAX_REASONS: usize = 100;

impl Aggregator {
    /// Returns the status. That of a large fleet may be up to a second old for callers who may read everything, but for the problems.
    pub(super) fn status_now(self: &Arc<Self>, scope: &Scope) -> Status {
        if *scope != Scope::All || self.picture().nodes().count() <= LARGE {
            return self.compute_status(scope);
        }
        let status = match self.recent_status.get(Instant::now()) {
            Recent::Fresh(status) => status,
            Recent::Renew(status) => {
                let aggregator = Arc::clone(self);
                tokio::task::spawn_blocking(move || aggregator.renew_status());
                status
            }
            Recent::Missing => self.renew_status(),
        };
        Status { problems: self.problems.list().into_iter().map(Into::into).collect(), ..status }
    }

    fn renew_status(&self) -> Status {
        let at = Instant::now();
        let status = self.compute_status(&Scope::All);
        self.recent_status.set(at, status.clone());
        status
    }

    fn compute_status(&self, scope: &Scope) -> Status {
        let at = now();
        // Counts over all nodes and stacks are only for callers who may read everything.
        let is_all = *scope == Scope::All;
        let (nodes, overview, kubernetes, layers, lifetimes) = {
            let fleet = self.picture();
            let mut nodes = NodeCounts::default();
            let mut overview = fleet.overview(scope, at);
            let kubernetes = self.watch.as_ref().map(|watch| {
                let synced = watch.is_synced();
                let cluster = watch.cluster();
                let mut counts = KubernetesStatus { synced, ..KubernetesStatus::default() };
                for missing in missing(&cluster, &fleet, scope) {
                    counts.untold += 1;
                    *overview.coverage.entry(missing.coverage).or_default() += 1;
                }
                let sees = |namespace: &str| scope.sees(Some(namespace));
                counts.workloads = cluster.workloads().filter(|of| sees(&of.workload.namespace)).count() as u64;
                counts.pods = cluster.pods().filter(|pod| !pod.over && sees(&pod.name.namespace)).count() as u64;
                if is_all {
                    counts.strays = fleet.strays();
                    let bare = cluster.nodes().filter(|(name, _)| fleet.node(name).is_none());
                    nodes.without_agent = bare.count() as u64;
                }
                counts
            });
            for (name, node) in fleet.nodes() {
                if !sees_node(scope, node) {
                    continue;
                }
                nodes.known += 1;
                nodes.attached += u64::from(node.attached);
                nodes.degraded += u64::from(node.state() == NodeState::Degraded);
                nodes.silent += u64::from(!node.attached);
                nodes.weak_cage += u64::from(node.cage != FULL_CAGE);
                nodes.distrusted += u64::from(fleet.is_distrusted(name));
            }
            (
                nodes,
                overview,
                kubernetes,
                fleet.layer_counts(scope),
                // Ended containers belong to no namespace.
                if is_all { fleet.lifetimes() } else { Default::default() },
            )
        };
        let Overview { coverage: coverages, summaries, oldest_unscanned } = overview;
        let mut coverage: BTreeMap<CoverageState, u64> =
            CoverageState::ALL.into_iter().map(|state| (state, 0)).collect();
        let mut reasons = Vec::new();
        for (of, containers) in coverages {
            *coverage.entry(of.state).or_default() += containers;
            if !of.reason.is_empty() {
                reasons.push(ReasonCount { state: of.state.into(), reason: of.reason, containers });
            }
        }
        let reasons = commonest(reasons);
        let mut findings = SeverityCounts::default();
        let mut withheld = 0;
        let mut systems: BTreeMap<(Option<&Distribution>, &[PackageType]), u64> = BTreeMap::new();
        for (summary, containers) in &summaries {
            let containers = u64::from(*containers);
            findings.add_all(&summary.counts.severities, containers);
            withheld += u64::from(summary.counts.withheld) * containers;
            *systems.entry((summary.distribution.as_ref(), &summary.types)).or_default() += containers;
        }
        let judge = self.judge();
        let mut assessed: BTreeMap<(String, AssessedState, String), u64> = BTreeMap::new();
        for ((distribution, types), containers) in systems {
            for of in judge.assess(distribution, types) {
                let key = (of.ecosystem, of.state, of.reason);
                *assessed.entry(key).or_default() += containers;
            }
        }
        let rematch = self.matching.last();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: self.cluster.clone(),
            uptime_seconds: at.instant.saturating_duration_since(self.started).as_secs(),
            restricted: !is_all,
            nodes,
            containers: coverage.values().sum(),
            coverage: coverage
                .into_iter()
                .map(|(state, containers)| CoverageCount { state: state.into(), containers })
                .collect(),
            reasons,
            assessed: assessed
                .into_iter()
                .map(|((ecosystem, state, reason), containers)| AssessedCount {
                    ecosystem,
                    state: state.into(),
                    reason,
                    containers,
                })
                .collect(),
            kubernetes,
            offline: self.config.offline.clone().map(|Offline { ports, allowed, enforced }| OfflineStatus {
                ports,
                allowed: allowed.iter().map(ToString::to_string).collect(),
                enforced,
            }),
            layers,
            oldest_unscanned_seconds: oldest_unscanned,
            lifetimes,
            reports: if is_all { self.reports() } else { ReportCounts::default() },
            connections: if is_all { self.connections() } else { ConnectionCounts::default() },
            store_error: self.store.health().state().outage().map(|outage| outage.reason.clone()),
            database: judge.current.as_ref().map(|current| DatabaseStatus {
                digest: current.digest.to_string(),
                brought_by: current.brought_by.clone(),
                brought_at: time(current.brought_at.as_second()),
                as_of: self.config.database_as_of.map(|day| day.to_string()),
                signed_by: current.signed_by.as_ref().map(|signed| signed.key.clone()),
                sources: current
                    .sources
                    .iter()
                    .map(|source| SourceStatus {
                        ecosystem: source.ecosystem.clone(),
                        records: source.records,
                        newest: source.newest.clone(),
                        age_days: source.age_days(judge.today),
                    })
                    .collect(),
            }),
            database_error: self.advisories.refused(),
            problems: if is_all { self.problems.list().into_iter().map(Into::into).collect() } else { Vec::new() },
            targets: self.targets(scope),
            findings,
            withheld,
            rematch: rematch.filter(|_| is_all).map(words),
        }
    }

    fn connections(&self) -> ConnectionCounts {
        let Some(counts) = self.intake.connections() else { return ConnectionCounts::default() };
        ConnectionCounts {
            open: counts.open.load(Relaxed),
            turned_away: counts.turned_away.load(Relaxed),
            failed: counts.failed.load(Relaxed),
            unidentified: counts.unidentified.load(Relaxed),
            surplus: counts.surplus.load(Relaxed),
        }
    }

    fn reports(&self) -> ReportCounts {
        ReportCounts {
            inventories: self.counters.inventories.load(Relaxed),
            verified: self.counters.verified.load(Relaxed),
            contradicted: self.counters.contradicted.load(Relaxed),
            unasked: self.counters.unasked.load(Relaxed),
            refused: self.counters.refused.iter().map(|count| count.load(Relaxed)).sum(),
            refused_by_reason: Refusal::ALL
                .iter()
                .zip(&self.counters.refused)
                .map(|(refusal, count)| (refusal.as_str().to_owned(), count.load(Relaxed)))
                .collect(),
        }
    }
}

/// The commonest reasons, with the others of each state as one: nodes say what they like, and all containers are counted.
fn commonest(mut reasons: Vec<ReasonCount>) -> Vec<ReasonCount> {
    reasons.sort_by(|a, b| {
        b.containers.cmp(&a.containers).then_with(|| (&a.state, &a.reason).cmp(&(&b.state, &b.reason)))
    });
    let mut others: BTreeMap<CoverageWord, u64> = BTreeMap::new();
    for other in reasons.iter().skip(MAX_REASONS) {
        *others.entry(other.state.clone()).or_default() += other.containers;
    }
    reasons.truncate(MAX_REASONS);
    let other = |(state, containers)| ReasonCount { state, reason: "other reasons".to_owned(), containers };
    reasons.extend(others.into_iter().map(other));
    reasons
}

/// Returns whether the caller may read a node: a container on it is in the scope.
pub(super) fn sees_node(scope: &Scope, node: &crate::aggregator::fleet::Node) -> bool {
    *scope == Scope::All || node.containers.values().any(|container| scope.sees(container.namespace()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_reasons_are_told_and_all_containers_are_counted() {
        let reason = |number: u64| {
            let state = if number.is_multiple_of(3) { CoverageState::Failed } else { CoverageState::Unsupported };
            ReasonCount { state: state.into(), reason: format!("reason {number}"), containers: number }
        };
        let all: Vec<ReasonCount> = (1..1_000).map(reason).collect();
        let told = commonest(all.clone());
        assert_eq!((told.len(), told[0].containers), (MAX_REASONS + 2, 999));
        for state in [CoverageState::Failed, CoverageState::Unsupported] {
            let sum =
                |of: &[ReasonCount]| -> u64 { of.iter().filter(|of| of.state == state).map(|of| of.containers).sum() };
            assert_eq!(sum(&told), sum(&all));
        }
        assert_eq!(commonest(all[..7].to_vec()).len(), 7);
    }
}
