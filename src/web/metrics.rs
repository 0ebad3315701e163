//! The status as Prometheus' text, [exposition format 0.0.4](https://prometheus.io/docs/instrumenting/exposition_formats/).

use std::fmt::Write as _;

use super::Status;

/// A label's value with what would end it escaped: some of them are words out of images and feeds.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A metric's samples: labels, value.
type Sample<'a> = (Vec<(&'a str, &'a str)>, u64);

fn gauge<'a>(out: &mut String, name: &str, help: &str, samples: impl IntoIterator<Item = Sample<'a>>) {
    metric(out, "gauge", name, help, samples);
}

fn counter(out: &mut String, name: &str, help: &str, value: u64) {
    metric(out, "counter", name, help, [(Vec::new(), value)]);
}

/// One metric with all its samples.
fn metric<'a>(out: &mut String, kind: &str, name: &str, help: &str, samples: impl IntoIterator<Item = Sample<'a>>) {
    // Writing into a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", label(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}

/// Every metric.
pub(super) fn text(status: &Status) -> String {
    let mut out = String::new();
    let number = |count: usize| count as u64;
    gauge(&mut out, "outcrop_build_info", "The aggregator's version.", [(vec![("version", status.version)], 1)]);
    gauge(
        &mut out,
        "outcrop_node_attached",
        "Whether a node's agent is attached.",
        status.nodes.iter().map(|node| (vec![("node", node.name.as_str())], u64::from(node.attached))),
    );
    gauge(
        &mut out,
        "outcrop_node_silent_seconds",
        "How long nothing was heard of a node.",
        status.nodes.iter().map(|node| (vec![("node", node.name.as_str())], node.silent_seconds)),
    );
    gauge(
        &mut out,
        "outcrop_containers",
        "Containers by coverage: each has exactly one state.",
        status.coverage.iter().map(|count| (vec![("coverage", count.state.as_str())], number(count.containers))),
    );
    gauge(
        &mut out,
        "outcrop_assessed_containers",
        "Containers by ecosystem, and whether that could be matched.",
        status.assessed.iter().map(|count| {
            (vec![("ecosystem", count.ecosystem.as_str()), ("state", count.state.as_str())], number(count.containers))
        }),
    );
    let layers = &status.layers;
    let layers =
        [("known", layers.known), ("leased", layers.leased), ("waiting", layers.waiting), ("failed", layers.failed)];
    gauge(
        &mut out,
        "outcrop_layers",
        "Layers that nodes have, by how far they are.",
        layers.into_iter().map(|(state, count)| (vec![("state", state)], number(count))),
    );
    gauge(
        &mut out,
        "outcrop_findings",
        "Findings of containers by severity.",
        status.findings.iter().map(|(severity, count)| (vec![("severity", severity.as_str())], number(*count))),
    );
    gauge(
        &mut out,
        "outcrop_findings_withheld",
        "Findings that are left to the distribution.",
        [(Vec::new(), number(status.withheld))],
    );
    let reports = &status.reports;
    counter(&mut out, "outcrop_inventories_total", "Inventories that were asked for and stored.", reports.inventories);
    counter(&mut out, "outcrop_unasked_total", "Inventories and answers that nobody had asked for.", reports.unasked);
    counter(
        &mut out,
        "outcrop_refused_streams_total",
        "Streams of nodes that were not begun or ended.",
        reports.refused,
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_label_ends_no_line() {
        let mut out = String::new();
        gauge(&mut out, "m", "Help.", [(vec![("k", "a\"} 1\nevil 2\\")], 3)]);
        assert_eq!(out, "# HELP m Help.\n# TYPE m gauge\nm{k=\"a\\\"} 1\\nevil 2\\\\\"} 3\n");
    }
}
