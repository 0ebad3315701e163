//! The status as Prometheus' text, [exposition format 0.0.4](https://prometheus.io/docs/instrumenting/exposition_formats/).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use outcrop_proto::clock;

use super::escape::label;
use super::list::MAX_LIMIT;
use super::model::{NodeItem, Status};
use super::source::{Failure, List, Scope, Source};

/// Reasons that have a series of their own; the rest are counted together.
const MAX_REASONS: usize = 50;

/// A metric: its samples, by labels, so that none is there twice.
struct Metric {
    name: &'static str,
    help: &'static str,
    samples: BTreeMap<String, f64>,
}

impl Metric {
    fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, samples: BTreeMap::new() }
    }

    /// Adds to the sample with these labels.
    fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut text = String::new();
        for (key, value) in labels {
            // Writing into a string cannot fail.
            let _ = write!(text, "{}{key}=\"{}\"", if text.is_empty() { "" } else { "," }, label(value));
        }
        *self.samples.entry(text).or_default() += value;
    }

    /// One that has these samples, by one label.
    fn by<'a>(
        name: &'static str,
        help: &'static str,
        key: &str,
        samples: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> Self {
        let mut metric = Self::new(name, help);
        samples.into_iter().for_each(|(value, count)| metric.add(&[(key, value)], number(count)));
        metric
    }

    /// One that has one sample.
    fn one(name: &'static str, help: &'static str, value: f64) -> Self {
        let mut metric = Self::new(name, help);
        metric.add(&[], value);
        metric
    }

    fn write(&self, out: &mut String) {
        if self.samples.is_empty() {
            return;
        }
        let kind = if self.name.ends_with("_total") { "counter" } else { "gauge" };
        let _ = writeln!(out, "# HELP {0} {1}\n# TYPE {0} {kind}", self.name, self.help);
        for (labels, value) in &self.samples {
            let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            let _ = writeln!(out, "{}{labels} {value}", self.name);
        }
    }
}

/// Counts are far below what a double holds exactly.
#[expect(clippy::cast_precision_loss, reason = "every value of a metric is a double")]
fn number(count: u64) -> f64 {
    count as f64
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// Every metric, over what `scope` may see.
pub(super) async fn text(source: &dyn Source, scope: &Scope) -> Result<String, Failure> {
    let mut out = String::new();
    for metric in of_status(&source.status(scope).await?, clock::timestamp()) {
        metric.write(&mut out);
    }
    let mut nodes = Nodes::new();
    let mut list = List { limit: MAX_LIMIT, ..List::default() };
    loop {
        let page = source.nodes(scope, &list).await?;
        page.items.iter().for_each(|node| nodes.add(node));
        match page.next {
            // A source whose pages lead nowhere new must not keep us here.
            Some(next) if list.cursor.as_ref() != Some(&next) => list.cursor = Some(next),
            _ => break,
        }
    }
    nodes.0.iter().for_each(|metric| metric.write(&mut out));
    Ok(out)
}

fn of_status(status: &Status, now: jiff::Timestamp) -> Vec<Metric> {
    let mut metrics = Vec::new();
    let mut build = Metric::new("outcrop_build_info", "The aggregator's version and its cluster.");
    build.add(&[("cluster", &status.cluster), ("version", &status.version)], 1.0);
    metrics.push(build);
    metrics.push(Metric::one(
        "outcrop_uptime_seconds",
        "How long the aggregator has run.",
        number(status.uptime_seconds),
    ));
    let nodes = &status.nodes;
    metrics.push(Metric::by(
        "outcrop_nodes",
        "Nodes that are known, by whether their stream lives.",
        "state",
        [("attached", nodes.attached), ("silent", nodes.silent)],
    ));
    for (name, help, count) in [
        ("outcrop_nodes_known", "Nodes that are known.", nodes.known),
        ("outcrop_nodes_weak_cage", "Nodes whose agent has a weaker cage than the full one.", nodes.weak_cage),
        ("outcrop_nodes_distrusted", "Nodes that are not believed.", nodes.distrusted),
        ("outcrop_findings_withheld", "Findings of containers that are left to the distribution.", status.withheld),
        ("outcrop_layers_disputed", "Known layers that nodes disagree on.", status.layers.disputed),
        ("outcrop_layers_outdated", "Known layers that older catalogers read.", status.layers.outdated),
        (
            "outcrop_oldest_unscanned_seconds",
            "How long the container that waits longest has waited to be scanned; 0 if none waits.",
            status.oldest_unscanned_seconds.unwrap_or(0),
        ),
    ] {
        metrics.push(Metric::one(name, help, number(count)));
    }
    coverage(status, &mut metrics);
    let layers = &status.layers;
    metrics.push(Metric::by(
        "outcrop_layers",
        "Layers that nodes have, by how far they are; each has exactly one state.",
        "state",
        [("known", layers.known), ("leased", layers.leased), ("waiting", layers.waiting), ("failed", layers.failed)],
    ));
    metrics.push(Metric::by(
        "outcrop_findings",
        "Findings of containers by severity.",
        "severity",
        status.findings.iter().map(|(severity, count)| (severity.as_str(), count)),
    ));
    let lifetimes = &status.lifetimes;
    metrics.push(Metric::by(
        "outcrop_containers_ended_total",
        "Containers that have ended, by the coverage that they had in the end.",
        "coverage",
        lifetimes.ended.iter().map(|(state, count)| (state.as_str(), *count)),
    ));
    let reports = &status.reports;
    for (name, help, count) in [
        ("outcrop_containers_seen_total", "Containers that nodes have told of.", lifetimes.seen),
        (
            "outcrop_containers_gone_before_reading_total",
            "Containers that ended before anything could be read of them.",
            lifetimes.gone_before_reading,
        ),
        ("outcrop_inventories_total", "Inventories that were asked for and stored.", reports.inventories),
        ("outcrop_cross_reads_verified_total", "Cross-reads of layers that came to the same.", reports.verified),
        (
            "outcrop_cross_reads_contradicted_total",
            "Cross-reads of layers that came to something else.",
            reports.contradicted,
        ),
        ("outcrop_unasked_total", "Inventories and answers that nobody had asked for.", reports.unasked),
    ] {
        metrics.push(Metric::one(name, help, number(count)));
    }
    metrics.push(Metric::by(
        "outcrop_refused_streams_total",
        "Calls and streams of agents that were refused, by reason.",
        "reason",
        reports.refused_by_reason.iter().map(|(reason, count)| (reason.as_str(), *count)),
    ));
    metrics.push(Metric::one(
        "outcrop_store_writable",
        "Whether anything is taken from nodes: 0 while the store cannot be written.",
        flag(status.store_error.is_none()),
    ));
    database(status, now, &mut metrics);
    metrics
}

fn coverage(status: &Status, metrics: &mut Vec<Metric>) {
    metrics.push(Metric::by(
        "outcrop_containers",
        "Containers by coverage; each has exactly one state.",
        "coverage",
        status.coverage.iter().map(|count| (count.state.as_str(), count.containers)),
    ));
    let mut reasons = Metric::new(
        "outcrop_containers_reason",
        "Containers by the reason for their coverage; all but the commonest reasons are counted as other.",
    );
    let mut commonest: Vec<_> = status.reasons.iter().collect();
    commonest.sort_by_key(|count| std::cmp::Reverse(count.containers));
    for (place, count) in commonest.into_iter().enumerate() {
        let reason = if place < MAX_REASONS { count.reason.as_str() } else { "other" };
        reasons.add(&[("coverage", count.state.as_str()), ("reason", reason)], number(count.containers));
    }
    metrics.push(reasons);
    let mut assessed = Metric::new(
        "outcrop_assessed_containers",
        "Containers by ecosystem, and whether and why that could be matched against advisories.",
    );
    for count in &status.assessed {
        let labels = [
            ("ecosystem", count.ecosystem.as_str()),
            ("state", count.state.as_str()),
            ("reason", count.reason.as_str()),
        ];
        assessed.add(&labels, number(count.containers));
    }
    metrics.push(assessed);
}

fn database(status: &Status, now: jiff::Timestamp, metrics: &mut Vec<Metric>) {
    metrics.push(Metric::one(
        "outcrop_database_refused",
        "Whether the advisory database that was offered last was refused.",
        flag(status.database_error.is_some()),
    ));
    let mut info = Metric::new("outcrop_database_info", "The advisory database in use.");
    let mut records = Metric::new("outcrop_database_records", "Records of the advisory database by source.");
    let mut age =
        Metric::new("outcrop_database_age_seconds", "Age of a source's newest record in the advisory database.");
    if let Some(database) = &status.database {
        let signed_by = database.signed_by.as_deref().unwrap_or_default();
        info.add(&[("digest", &database.digest), ("brought_by", &database.brought_by), ("signed_by", signed_by)], 1.0);
        for source in &database.sources {
            let labels = [("ecosystem", source.ecosystem.as_str())];
            records.add(&labels, number(source.records));
            let exact =
                source.newest.parse::<jiff::Timestamp>().ok().map(|newest| now.as_second() - newest.as_second());
            let seconds = exact.or(source.age_days.map(|days| days.saturating_mul(86_400)));
            if let Some(seconds) = seconds {
                age.samples.insert(
                    format!("ecosystem=\"{}\"", label(&source.ecosystem)),
                    number(u64::try_from(seconds).unwrap_or(0)),
                );
            }
        }
    }
    metrics.extend([info, records, age]);
    let Some(rematch) = &status.rematch else { return };
    if let Ok(at) = rematch.at.parse::<jiff::Timestamp>() {
        let at = u64::try_from(at.as_second()).unwrap_or(0);
        metrics.push(Metric::one(
            "outcrop_rematch_start_timestamp_seconds",
            "When everything was last matched again.",
            number(at),
        ));
    }
    metrics.push(Metric::one(
        "outcrop_rematch_duration_seconds",
        "How long it took to match everything again.",
        rematch.seconds,
    ));
    for (name, help, count) in [
        ("outcrop_rematch_stacks", "Stacks that the last rematch looked at.", rematch.stacks),
        ("outcrop_rematch_appeared", "Findings of stacks that appeared in the last rematch.", rematch.appeared),
        ("outcrop_rematch_went", "Findings of stacks that went in the last rematch.", rematch.went),
        (
            "outcrop_rematch_nodes_rescanned",
            "Nodes that had to read something for the last rematch.",
            rematch.nodes_rescanned,
        ),
    ] {
        metrics.push(Metric::one(name, help, number(count)));
    }
}

/// The metrics of nodes, in the order in which [`Nodes::add`] fills them.
struct Nodes([Metric; 15]);

impl Nodes {
    fn new() -> Self {
        Self([
            Metric::new("outcrop_node_info", "A node's agent: its version, its catalogers', its weakest cage."),
            Metric::new("outcrop_node_attached", "Whether the stream of a node's agent lives."),
            Metric::new("outcrop_node_distrusted", "Whether a node is not believed."),
            Metric::new("outcrop_node_silent_seconds", "How long nothing was heard of a node."),
            Metric::new("outcrop_node_containers", "Containers of a node."),
            Metric::new("outcrop_node_layers_read", "Layers in the store that a node read."),
            Metric::new("outcrop_agent_resident_bytes", "Resident memory of an agent's processes by role."),
            Metric::new("outcrop_agent_cpu_seconds_total", "Processor time of an agent's processes by role."),
            Metric::new("outcrop_agent_starts_total", "How often an agent's processes were started, by role."),
            Metric::new("outcrop_agent_layers_read_total", "Layers that an agent has read."),
            Metric::new("outcrop_agent_layers_verified_total", "Layers that an agent has read for another's word."),
            Metric::new("outcrop_agent_layers_failed_total", "Layers that an agent could not read."),
            Metric::new("outcrop_agent_worker_deaths_total", "Workers of an agent that died of what they read."),
            Metric::new(
                "outcrop_agent_gone_before_reading_total",
                "Containers that ended before an agent could read anything of them.",
            ),
            Metric::new("outcrop_agent_queue", "Layers that wait to be read by an agent."),
        ])
    }

    fn add(&mut self, node: &NodeItem) {
        let [info, attached, distrusted, silent, containers, read, resident, cpu, starts, counts @ ..] = &mut self.0;
        let name = [("node", node.name.as_str())];
        let (catalogers, marks) = (node.catalogers.to_string(), node.marks.to_string());
        let labels = [
            ("node", node.name.as_str()),
            ("agent_version", node.agent_version.as_str()),
            ("catalogers", catalogers.as_str()),
            ("cage", node.cage.as_str()),
            ("marks", marks.as_str()),
        ];
        info.add(&labels, 1.0);
        attached.add(&name, flag(node.attached));
        distrusted.add(&name, flag(node.distrusted));
        silent.add(&name, number(node.silent_seconds));
        containers.add(&name, number(node.containers));
        read.add(&name, number(node.layers_read));
        let Some(agent) = &node.agent else { return };
        for role in &agent.roles {
            let labels = [("node", node.name.as_str()), ("role", role.name.as_str())];
            resident.add(&labels, number(role.resident_bytes));
            cpu.add(&labels, number(role.cpu_milliseconds) / 1000.0);
            starts.add(&labels, number(role.starts));
        }
        let values = [
            agent.layers_read,
            agent.layers_verified,
            agent.layers_failed,
            agent.worker_deaths,
            agent.gone_before_reading,
            agent.queue,
        ];
        counts.iter_mut().zip(values).for_each(|(metric, value)| metric.add(&name, number(value)));
    }
}
