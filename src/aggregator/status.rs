//! What the aggregator knows, put into words for the web.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use outcrop_proto::wire::Seen;
use outcrop_proto::{Coverage, CoverageState, Digest, PackageType};

use super::who_has::{Query, is_within};
use super::{Aggregator, lock};
use crate::store::PackageRow;
use crate::web::{
    AssessedCount, ContainerItem, CoverageCount, DatabaseStatus, Failure, FindingItem, Future, HasItem, NodeStatus,
    ReasonCount, ReportCounts, Source, SourceStatus, Status,
};

/// A container, as far as its answers need it.
struct Row {
    item: ContainerItem,
    stack: Option<Digest>,
}

impl Aggregator {
    fn rows(&self) -> Vec<Row> {
        let fleet = self.fleet();
        let rows = fleet.coverage().map(|(node, seen, coverage)| Row {
            item: item(node, seen, coverage),
            stack: seen.stack.as_ref().map(|(stack, _)| *stack),
        });
        rows.collect()
    }

    async fn status_now(&self) -> Result<Status, Failure> {
        let now = Instant::now();
        let nodes = self
            .fleet()
            .nodes()
            .map(|(name, node)| NodeStatus {
                name: name.to_owned(),
                agent_version: node.agent_version.clone(),
                attached: node.attached,
                silent_seconds: now.saturating_duration_since(node.heard).as_secs(),
                containers: node.containers(),
            })
            .collect();
        let rows = self.rows();
        let mut coverage: BTreeMap<CoverageState, usize> =
            CoverageState::ALL.into_iter().map(|state| (state, 0)).collect();
        let mut reasons: BTreeMap<(CoverageState, String), usize> = BTreeMap::new();
        let mut by_stack: BTreeMap<Digest, usize> = BTreeMap::new();
        for row in &rows {
            let coverage_of = &row.item.coverage;
            *coverage.entry(coverage_of.state).or_default() += 1;
            if !coverage_of.reason.is_empty() {
                *reasons.entry((coverage_of.state, coverage_of.reason.clone())).or_default() += 1;
            }
            if let Some(stack) = row.stack {
                *by_stack.entry(stack).or_default() += 1;
            }
        }
        let mut assessed: BTreeMap<(String, String, String), usize> = BTreeMap::new();
        let mut findings: BTreeMap<String, usize> = BTreeMap::new();
        let mut withheld = 0;
        for (stack, ecosystem, state, reason) in self.store.assessed().await? {
            if let Some(containers) = by_stack.get(&stack) {
                *assessed.entry((ecosystem, state, reason)).or_default() += containers;
            }
        }
        for (stack, severities, left) in self.store.counts().await? {
            let Some(containers) = by_stack.get(&stack) else { continue };
            withheld += left * containers;
            for (severity, count) in severities {
                *findings.entry(severity).or_default() += count * containers;
            }
        }
        let database = match self.sources() {
            None => None,
            Some((path, sources)) => Some(DatabaseStatus {
                path,
                error: lock(&self.database_error).clone(),
                sources: sources
                    .map_err(|error| Failure::Store(error.to_string()))?
                    .into_iter()
                    .map(|source| SourceStatus {
                        ecosystem: source.ecosystem,
                        records: source.records,
                        newest: source.newest,
                    })
                    .collect(),
            }),
        };
        Ok(Status {
            version: env!("CARGO_PKG_VERSION"),
            cluster: self.cluster.clone(),
            uptime_seconds: now.saturating_duration_since(self.started).as_secs(),
            nodes,
            containers: rows.len(),
            coverage: coverage.into_iter().map(|(state, containers)| CoverageCount { state, containers }).collect(),
            reasons: reasons
                .into_iter()
                .map(|((state, reason), containers)| ReasonCount { state, reason, containers })
                .collect(),
            assessed: assessed
                .into_iter()
                .map(|((ecosystem, state, reason), containers)| AssessedCount { ecosystem, state, reason, containers })
                .collect(),
            layers: self.fleet().layer_counts(),
            reports: ReportCounts {
                inventories: self.counters.inventories.load(Relaxed),
                unasked: self.counters.unasked.load(Relaxed),
                refused: self.counters.refused.load(Relaxed),
            },
            database,
            findings,
            withheld,
        })
    }

    async fn findings_now(&self) -> Result<Vec<FindingItem>, Failure> {
        let mut known = BTreeMap::new();
        let mut items = Vec::new();
        for row in self.rows() {
            let Some(stack) = row.stack else { continue };
            if let std::collections::btree_map::Entry::Vacant(entry) = known.entry(stack) {
                entry.insert(self.store.findings(&stack).await?);
            }
            let found = known.get(&stack).into_iter().flatten();
            items.extend(found.map(|finding| FindingItem { container: row.item.clone(), finding: finding.clone() }));
        }
        Ok(items)
    }
}

impl Aggregator {
    async fn who_has_now(&self, question: &str) -> Result<Vec<HasItem>, Failure> {
        let query = Query::parse(question).map_err(|error| Failure::Question(error.to_string()))?;
        let mut packages = match &query {
            Query::Problem(name) => self.store.packages_with(name).await?,
            Query::Package { name, .. } => self.store.packages_named(name).await?,
        };
        if let Query::Package { kind, bound, .. } = &query {
            packages.retain(|(_, package)| {
                let Some(of) = PackageType::from_name(&package.r#type) else { return false };
                kind.is_none_or(|kind| kind == of)
                    && bound.as_ref().is_none_or(|bound| is_within(of, &package.version, bound))
            });
        }
        let mut by_stack: BTreeMap<Digest, Vec<PackageRow>> = BTreeMap::new();
        for (stack, package) in packages {
            by_stack.entry(stack).or_default().push(package);
        }
        let fleet = self.fleet();
        let mut items = Vec::new();
        for (node, seen, coverage) in fleet.coverage() {
            let Some((stack, layers)) = &seen.stack else { continue };
            for package in by_stack.get(stack).into_iter().flatten() {
                let layer = usize::try_from(package.layer).ok().and_then(|layer| layers.get(layer));
                items.push(HasItem {
                    container: item(node, seen, coverage.clone()),
                    package: package.clone(),
                    layer_id: layer.map(ToString::to_string),
                });
            }
        }
        Ok(items)
    }
}

/// A container in words.
fn item(node: &str, seen: &Seen, coverage: Coverage) -> ContainerItem {
    ContainerItem {
        node: node.to_owned(),
        containerd_namespace: seen.containerd_namespace.clone(),
        id: seen.id.clone(),
        name: seen.name.clone(),
        namespace: seen.pod.as_ref().map(|pod| pod.namespace.clone()),
        pod: seen.pod.as_ref().map(|pod| pod.name.clone()),
        image: seen.image.clone(),
        stack: seen.stack.as_ref().map(|(stack, _)| stack.to_string()),
        coverage,
    }
}

impl Source for Aggregator {
    fn status(&self) -> Future<'_, Status> {
        Box::pin(self.status_now())
    }

    fn containers(&self) -> Future<'_, Vec<ContainerItem>> {
        Box::pin(async { Ok(self.rows().into_iter().map(|row| row.item).collect()) })
    }

    fn who_has<'a>(&'a self, question: &'a str) -> Future<'a, Vec<HasItem>> {
        Box::pin(self.who_has_now(question))
    }

    fn findings(&self) -> Future<'_, Vec<FindingItem>> {
        Box::pin(self.findings_now())
    }
}
