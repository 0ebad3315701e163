//! `/metrics`: the status as metrics, and what the aggregator [observes](crate::metrics) while it works, in the
//! [OpenMetrics text format](https://prometheus.io/docs/specs/om/open_metrics_spec/).
//!
//! A label value is the word of an enum, the name of an authenticated node, or an ecosystem of the advisory database. Text that an image or an
//! agent chooses, and text that changes from day to day, is in the status and never in a label: it would create series without end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use outcrop_proto::escape::escape;
use outcrop_proto::{CoverageState, NodeState, clock};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::list::MAX_LIMIT;
use super::model::{NodeItem, Status, TargetItem};
use super::source::{Failure, List, Scope, Source};
use crate::metrics::Metrics;
use crate::problems::ProblemKind;

/// The content type of the answer.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Maximum number of ecosystems with series of their own.
const MAX_ECOSYSTEMS: usize = 64;

/// The label value for everything that has no series of its own.
const OTHER: &str = "other";

/// A reason why results are incomplete or not trustworthy. Each kind has exactly one series, also while its value is zero.
///
/// Each name starts with the counted objects. Names are stable, because dashboards and alerts use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    ContainersPartial,
    ContainersPending,
    ContainersUnsupported,
    ContainersTooLarge,
    ContainersFailed,
    ContainersExcluded,
    ContainersUnreported,
    ContainersStray,
    NodesWithoutAgent,
    NodesSilent,
    NodesDegraded,
    NodesDistrusted,
    NodesWeakSandbox,
    LayersFailed,
    LayersDisputed,
    LayersOutdated,
    FindingsWithheld,
    AssessmentsStale,
    AssessmentsUnmatched,
    DatabaseMissing,
    DatabaseRefused,
    StoreNotWritable,
    WatchNotSynced,
}

impl Gap {
    /// Every kind, with its name.
    const ALL: [(Self, &'static str); 23] = [
        (Self::ContainersPartial, "containers-partial"),
        (Self::ContainersPending, "containers-pending"),
        (Self::ContainersUnsupported, "containers-unsupported"),
        (Self::ContainersTooLarge, "containers-too-large"),
        (Self::ContainersFailed, "containers-failed"),
        (Self::ContainersExcluded, "containers-excluded"),
        (Self::ContainersUnreported, "containers-unreported"),
        (Self::ContainersStray, "containers-stray"),
        (Self::NodesWithoutAgent, "nodes-without-agent"),
        (Self::NodesSilent, "nodes-silent"),
        (Self::NodesDegraded, "nodes-degraded"),
        (Self::NodesDistrusted, "nodes-distrusted"),
        (Self::NodesWeakSandbox, "nodes-weak-sandbox"),
        (Self::LayersFailed, "layers-failed"),
        (Self::LayersDisputed, "layers-disputed"),
        (Self::LayersOutdated, "layers-outdated"),
        (Self::FindingsWithheld, "findings-withheld"),
        (Self::AssessmentsStale, "assessments-stale"),
        (Self::AssessmentsUnmatched, "assessments-unmatched"),
        (Self::DatabaseMissing, "database-missing"),
        (Self::DatabaseRefused, "database-refused"),
        (Self::StoreNotWritable, "store-not-writable"),
        (Self::WatchNotSynced, "watch-not-synced"),
    ];

    /// Returns the number of objects with this gap.
    fn size(self, status: &Status) -> u64 {
        let coverage = |state: CoverageState| {
            status.coverage.iter().filter(|count| count.state == state).map(|count| count.containers).sum()
        };
        let assessed = |state: &str| {
            status.assessed.iter().filter(|count| count.state.as_str() == state).map(|count| count.containers).sum()
        };
        let kubernetes = status.kubernetes.unwrap_or_default();
        match self {
            Self::ContainersPartial => coverage(CoverageState::Partial),
            Self::ContainersPending => coverage(CoverageState::Pending),
            Self::ContainersUnsupported => coverage(CoverageState::Unsupported),
            Self::ContainersTooLarge => coverage(CoverageState::TooLarge),
            Self::ContainersFailed => coverage(CoverageState::Failed),
            Self::ContainersExcluded => coverage(CoverageState::Excluded),
            Self::ContainersUnreported => kubernetes.untold,
            Self::ContainersStray => kubernetes.strays,
            Self::NodesWithoutAgent => status.nodes.without_agent,
            Self::NodesSilent => status.nodes.silent,
            Self::NodesDegraded => status.nodes.degraded,
            Self::NodesDistrusted => status.nodes.distrusted,
            Self::NodesWeakSandbox => status.nodes.weak_cage,
            Self::LayersFailed => status.layers.failed,
            Self::LayersDisputed => status.layers.disputed,
            Self::LayersOutdated => status.layers.outdated,
            Self::FindingsWithheld => status.withheld,
            Self::AssessmentsStale => assessed("stale"),
            Self::AssessmentsUnmatched => assessed("unmatched"),
            Self::DatabaseMissing => u64::from(status.database.is_none()),
            Self::DatabaseRefused => u64::from(status.database_error.is_some()),
            Self::StoreNotWritable => u64::from(status.store_error.is_some()),
            Self::WatchNotSynced => u64::from(status.kubernetes.is_some_and(|kubernetes| !kubernetes.synced)),
        }
    }
}

/// The labels of a sample.
type Labels = Vec<(&'static str, String)>;

/// Returns labels with values that are escaped as everywhere: the format itself escapes only what would end a value.
fn escaped(labels: Labels) -> Labels {
    labels.into_iter().map(|(key, value)| (key, escape(&value).into_owned())).collect()
}

/// A metric that is computed for one answer.
#[derive(Debug)]
struct Metric {
    /// The name, without `outcrop_`, the unit and `_total`.
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    is_counter: bool,
    /// By labels, so that none is there twice.
    samples: BTreeMap<Labels, f64>,
}

impl Metric {
    fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, unit: None, is_counter: false, samples: BTreeMap::new() }
    }

    fn counter(name: &'static str, help: &'static str) -> Self {
        Self { is_counter: true, ..Self::gauge(name, help) }
    }

    fn unit(self, unit: Unit) -> Self {
        Self { unit: Some(unit), ..self }
    }

    /// Adds to the sample with these labels.
    fn add(&mut self, labels: Labels, value: f64) {
        *self.samples.entry(escaped(labels)).or_default() += value;
    }

    /// Returns the metric with one sample, which has no labels.
    fn value(mut self, value: f64) -> Self {
        self.add(Labels::new(), value);
        self
    }

    /// Returns the metric with a sample for each value of one label.
    fn by<'a>(mut self, key: &'static str, samples: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        for (value, count) in samples {
            self.add(vec![(key, value.to_owned())], number(count));
        }
        self
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = if self.is_counter { MetricType::Counter } else { MetricType::Gauge };
        let mut metric = encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), kind)?;
        for (labels, value) in &self.samples {
            let mut one = metric.encode_family(labels)?;
            match self.is_counter {
                true => one.encode_counter::<Labels, _, f64>(value, None)?,
                false => one.encode_gauge(value)?,
            }
        }
        Ok(())
    }
}

/// The metrics of one answer.
#[derive(Debug)]
struct Exposition {
    version: String,
    cluster: String,
    metrics: Vec<Metric>,
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Version of the aggregator and name of its cluster.";
        let mut build = encoder.encode_descriptor("build", help, None, MetricType::Info)?;
        build.encode_info(&[("version", &*escape(&self.version)), ("cluster", &*escape(&self.cluster))])?;
        self.metrics
            .iter()
            .filter(|metric| !metric.samples.is_empty())
            .try_for_each(|metric| metric.encode(&mut encoder))
    }
}

/// Converts a count. Counts are far below 2^53, up to which a double is exact.
#[expect(clippy::cast_precision_loss, reason = "every value of a metric is a double")]
fn number(count: u64) -> f64 {
    count as f64
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// Returns every metric, computed over what `scope` may read. Observations of the aggregator's work are about all of the cluster.
pub(super) async fn text(source: &dyn Source, scope: &Scope, observed: &Metrics) -> Result<String, Failure> {
    let status = source.status(scope).await?;
    let mut metrics = status_metrics(&status, clock::timestamp());
    let mut nodes = NodeMetrics::new(&status.version);
    let mut list = List { limit: MAX_LIMIT, ..List::default() };
    loop {
        let page = source.nodes(scope, &list).await?;
        page.items.iter().for_each(|node| nodes.add(node));
        match page.next {
            // A source whose pages lead nowhere new must not keep this loop running.
            Some(next) if list.cursor.as_ref() != Some(&next) => list.cursor = Some(next),
            _ => break,
        }
    }
    metrics.extend(nodes.metrics);
    let mut registry = Registry::with_prefix("outcrop");
    registry.register_collector(Box::new(Exposition { version: status.version, cluster: status.cluster, metrics }));
    let mut out = String::new();
    let encoded = encode_registry(&mut out, &registry)
        .and_then(|()| if *scope == Scope::All { observed.encode(&mut out) } else { Ok(()) })
        .and_then(|()| encode_eof(&mut out));
    encoded.map_err(|error| Failure::Store(format!("encoding metrics: {error}")))?;
    Ok(out)
}

/// Returns the metrics of targets of deliveries. Their names come from the configuration.
fn targets(targets: &[TargetItem]) -> Vec<Metric> {
    let by = |metric: Metric, value: fn(&TargetItem) -> u64| {
        metric.by("target", targets.iter().map(|target| (target.name.as_str(), value(target))))
    };
    let mut outcomes = Metric::counter("deliveries", "Attempts to deliver, by target and outcome.");
    for target in targets {
        for (outcome, count) in
            [("accepted", target.accepted), ("refused", target.refusals), ("failed", target.failures)]
        {
            outcomes.add(vec![("target", target.name.clone()), ("outcome", outcome.to_owned())], number(count));
        }
    }
    vec![
        outcomes,
        by(Metric::counter("delivered_records", "Records in accepted deliveries."), |target| target.records),
        by(Metric::counter("delivered", "Bytes of accepted deliveries, as sent.").unit(Unit::Bytes), |target| {
            target.bytes
        }),
        by(Metric::gauge("delivery_waiting_events", "Events that wait for a target."), |target| target.waiting_events),
        by(
            Metric::gauge("delivery_oldest_waiting", "Age of the oldest event or delivery that waits.")
                .unit(Unit::Seconds),
            |target| target.oldest_seconds.unwrap_or(0),
        ),
        by(
            Metric::gauge("delivery_refused", "Deliveries that a target refused and that wait for a person."),
            |target| target.refused,
        ),
        by(Metric::counter("delivery_dropped_events", "Events that were dropped because too many waited."), |target| {
            target.dropped
        }),
    ]
}

fn status_metrics(status: &Status, now: jiff::Timestamp) -> Vec<Metric> {
    let (nodes, layers, lifetimes, reports) = (&status.nodes, &status.layers, &status.lifetimes, &status.reports);
    let mut metrics = vec![
        Metric::gauge("uptime", "Time since the aggregator started.")
            .unit(Unit::Seconds)
            .value(number(status.uptime_seconds)),
        Metric::gauge(
            "gaps",
            "Objects whose results are incomplete, by reason; a kind starts with the counted objects.",
        )
        .by("kind", Gap::ALL.into_iter().map(|(gap, word)| (word, gap.size(status)))),
        Metric::gauge("problems", "Current problems by kind; their messages are in the status.").by(
            "kind",
            ProblemKind::ALL.into_iter().map(|kind| {
                let count = status.problems.iter().filter(|problem| problem.kind == kind).count();
                (kind.as_str(), u64::try_from(count).unwrap_or(u64::MAX))
            }),
        ),
        Metric::gauge("nodes", "Nodes, by whether their agent is connected.")
            .by("state", [("attached", nodes.attached), ("silent", nodes.silent)]),
        Metric::gauge("containers", "Containers by coverage; each has exactly one state.")
            .by("coverage", status.coverage.iter().map(|count| (count.state.as_str(), count.containers))),
        Metric::gauge("layers", "Layers on nodes by state of reading; each has exactly one state.").by(
            "state",
            [
                ("known", layers.known),
                ("leased", layers.leased),
                ("waiting", layers.waiting),
                ("failed", layers.failed),
            ],
        ),
        Metric::gauge("findings", "Findings of containers by severity.")
            .by("severity", status.findings.iter().map(|(severity, count)| (severity.as_str(), count))),
        Metric::gauge(
            "oldest_unscanned",
            "Age of the container that has waited longest to be scanned; 0 if none waits.",
        )
        .unit(Unit::Seconds)
        .value(number(status.oldest_unscanned_seconds.unwrap_or(0))),
        Metric::counter("containers_seen", "Containers that nodes have reported.").value(number(lifetimes.seen)),
        Metric::counter("containers_ended", "Containers that have ended, by their last coverage.")
            .by("coverage", lifetimes.ended.iter().map(|(state, count)| (state.as_str(), *count))),
        Metric::counter("containers_gone_before_reading", "Containers that ended before anything of them was read.")
            .value(number(lifetimes.gone_before_reading)),
        Metric::counter("inventories", "Requested inventories that were stored.").value(number(reports.inventories)),
        Metric::counter("cross_reads", "Second reads of layers by another node, by outcome.")
            .by("outcome", [("verified", reports.verified), ("contradicted", reports.contradicted)]),
        Metric::counter("refusals", "Calls and streams of agents that were refused, by reason.")
            .by("reason", reports.refused_by_reason.iter().map(|(reason, count)| (reason.as_str(), *count))),
        Metric::gauge("connections", "Open connections of agents.").value(number(status.connections.open)),
        Metric::counter("connections_closed", "Connections of agents that the aggregator closed, by reason.").by(
            "reason",
            [
                ("turned-away", status.connections.turned_away),
                ("failed", status.connections.failed),
                ("unidentified", status.connections.unidentified),
                ("surplus", status.connections.surplus),
            ],
        ),
        Metric::counter("reports_unrequested", "Inventories and answers that the aggregator had not requested.")
            .value(number(reports.unasked)),
    ];
    metrics.extend(targets(&status.targets));
    let ecosystems: BTreeSet<&str> = status
        .database
        .iter()
        .flat_map(|database| &database.sources)
        .map(|source| family(&source.ecosystem))
        .take(MAX_ECOSYSTEMS)
        .collect();
    let known = |ecosystem: &str| ecosystems.get(family(ecosystem)).map_or(OTHER, |known| known).to_owned();
    let mut assessed =
        Metric::gauge("assessed_containers", "Containers by ecosystem, and whether it could be matched.");
    for count in &status.assessed {
        let labels = vec![("ecosystem", known(&count.ecosystem)), ("state", count.state.as_str().to_owned())];
        assessed.add(labels, number(count.containers));
    }
    metrics.push(assessed);
    metrics.extend(database(status, known, now));
    metrics
}

/// Returns the family of an ecosystem: `Debian` for `Debian:12`. The release comes from an image.
fn family(ecosystem: &str) -> &str {
    ecosystem.split(':').next().unwrap_or_default()
}

fn database(status: &Status, known: impl Fn(&str) -> String, now: jiff::Timestamp) -> Vec<Metric> {
    let mut records = Metric::gauge("database_records", "Records of the advisory database by ecosystem.");
    let mut age =
        Metric::gauge("database_age", "Age of the newest record of an ecosystem; the oldest of its releases.")
            .unit(Unit::Seconds);
    for source in status.database.iter().flat_map(|database| &database.sources) {
        let labels = vec![("ecosystem", known(&source.ecosystem))];
        records.add(labels.clone(), number(source.records));
        let exact = source.newest.parse::<jiff::Timestamp>().ok().map(|newest| now.as_second() - newest.as_second());
        if let Some(seconds) = exact.or(source.age_days.map(|days| days.saturating_mul(86_400))) {
            let seconds = number(u64::try_from(seconds).unwrap_or(0));
            let sample = age.samples.entry(escaped(labels)).or_insert(seconds);
            *sample = sample.max(seconds);
        }
    }
    let mut metrics = vec![records, age];
    if let Some(database) = &status.database
        && let Ok(loaded) = database.brought_at.parse::<jiff::Timestamp>()
    {
        metrics.push(
            Metric::gauge("database_loaded_timestamp", "Time at which the advisory database was loaded, since 1970.")
                .unit(Unit::Seconds)
                .value(number(u64::try_from(loaded.as_second()).unwrap_or(0))),
        );
    }
    let Some(rematch) = &status.rematch else { return metrics };
    if let Ok(at) = rematch.at.parse::<jiff::Timestamp>() {
        metrics.push(
            Metric::gauge("rematch_start_timestamp", "Time at which the last full rematch started, since 1970.")
                .unit(Unit::Seconds)
                .value(number(u64::try_from(at.as_second()).unwrap_or(0))),
        );
    }
    metrics.extend([
        Metric::gauge("rematch_duration", "Duration of the last full rematch.")
            .unit(Unit::Seconds)
            .value(rematch.seconds),
        Metric::gauge("rematch_stacks", "Stacks that the last full rematch matched.").value(number(rematch.stacks)),
        Metric::gauge("rematch_findings", "Findings of stacks that the last full rematch changed.")
            .by("change", [("opened", rematch.appeared), ("closed", rematch.went)]),
    ]);
    metrics
}

/// Metrics of nodes. Each node has the same series, whatever its agent reports.
struct NodeMetrics {
    /// The version of the aggregator.
    version: String,
    /// In the order in which [`Self::add`] adds to them.
    metrics: [Metric; 18],
}

impl NodeMetrics {
    fn new(version: &str) -> Self {
        let metrics = [
            Metric::gauge("node_attached", "Whether the agent of a node is connected."),
            Metric::gauge("node_degraded", "Whether the agent of a node reports that it cannot do a part of its work."),
            Metric::gauge("node_distrusted", "Whether a node is distrusted."),
            Metric::gauge("node_same_version", "Whether the agent of a node has the version of the aggregator."),
            Metric::gauge("node_marks", "Whether the agent of a node can read the marks of overlay file systems."),
            Metric::gauge("node_catalogers", "Version of the catalogers of a node's agent."),
            Metric::gauge("node_silent", "Time since the last message of a node.").unit(Unit::Seconds),
            Metric::gauge("node_containers", "Containers of a node."),
            Metric::gauge("node_layers_read", "Layers in the store that a node has read."),
            Metric::gauge("agent_resident", "Resident memory of an agent's processes by role.").unit(Unit::Bytes),
            Metric::counter("agent_cpu", "Processor time of an agent's processes by role.").unit(Unit::Seconds),
            Metric::counter("agent_starts", "Starts of an agent's processes by role."),
            Metric::counter("agent_layers_read", "Layers that an agent has read."),
            Metric::counter("agent_layers_verified", "Layers that an agent has read to verify another node."),
            Metric::counter("agent_layers_failed", "Layers that an agent could not read."),
            Metric::counter("agent_worker_deaths", "Workers of an agent that died while reading."),
            Metric::counter(
                "agent_gone_before_reading",
                "Containers that ended before an agent could read anything of them.",
            ),
            Metric::gauge("agent_queue", "Layers that wait to be read by an agent."),
        ];
        Self { version: version.to_owned(), metrics }
    }

    fn add(&mut self, node: &NodeItem) {
        let labels = || vec![("node", node.name.clone())];
        let [attached, degraded, distrusted, same, marks, catalogers, silent, containers, read, more @ ..] =
            &mut self.metrics;
        attached.add(labels(), flag(node.attached));
        degraded.add(labels(), flag(node.state == NodeState::Degraded));
        distrusted.add(labels(), flag(node.distrusted));
        same.add(labels(), flag(node.agent_version == self.version));
        marks.add(labels(), flag(node.marks));
        catalogers.add(labels(), f64::from(node.catalogers));
        silent.add(labels(), number(node.silent_seconds));
        containers.add(labels(), number(node.containers));
        read.add(labels(), number(node.layers_read));
        let Some(agent) = &node.agent else { return };
        let [resident, cpu, starts, counts @ ..] = more;
        for role in &agent.roles {
            let name = ["runtime", "reader", "worker"].into_iter().find(|known| *known == role.name).unwrap_or(OTHER);
            let labels = || vec![("node", node.name.clone()), ("role", name.to_owned())];
            resident.add(labels(), number(role.resident_bytes));
            cpu.add(labels(), number(role.cpu_milliseconds) / 1000.0);
            starts.add(labels(), number(role.starts));
        }
        let values = [
            agent.layers_read,
            agent.layers_verified,
            agent.layers_failed,
            agent.worker_deaths,
            agent.gone_before_reading,
            agent.queue,
        ];
        counts.iter_mut().zip(values).for_each(|(metric, value)| metric.add(labels(), number(value)));
    }
}
