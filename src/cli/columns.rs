//! Columns of the tables of `outcrop get`. Other commands select some of them.

use outcrop_proto::SeverityCounts;

use super::output::{Cell as _, Column, column, wide};
use crate::web::{
    ContainerItem, DeliveryItem, FindingItem, ImageItem, IssueItem, LayerItem, NodeItem, PackageItem, TargetItem,
    WorkloadItem,
};

/// Columns of workloads.
pub(super) const WORKLOADS: &[Column<WorkloadItem>] = &[
    column("NAMESPACE", |workload| workload.namespace.cell()),
    column("KIND", |workload| workload.kind.cell()),
    column("NAME", |workload| workload.name.cell()),
    column("PODS", |workload| workload.pods.cell()),
    column("COVERAGE", |workload| workload.coverage.cell()),
    column("FINDINGS", |workload| workload.findings.cell()),
    column("POD SECURITY", |workload| workload.pod_security.cell()),
    wide("ISSUES", |workload| workload.issues.cell()),
    wide("OWNER", |workload| workload.owner.cell()),
    wide("IMAGES", |workload| workload.images.cell()),
    wide("WITHHELD", |workload| workload.withheld.cell()),
    wide("CREATED", |workload| workload.created.cell()),
    wide("EXCLUDED", |workload| workload.excluded.cell()),
    wide("GROUP", |workload| workload.group.cell()),
    wide("UID", |workload| workload.uid.cell()),
];

/// Columns of issues.
pub(super) const ISSUES: &[Column<IssueItem>] = &[
    column("NAMESPACE", |issue| issue.namespace.cell()),
    column("WORKLOAD", |issue| issue.workload.cell()),
    column("LEVEL", |issue| issue.level.cell()),
    column("RULE", |issue| issue.rule.cell()),
    column("PATH", |issue| issue.path.cell()),
    column("FOUND", |issue| issue.found.cell()),
    wide("TITLE", |issue| issue.title.cell()),
    wide("WHY", |issue| issue.why.cell()),
    wide("FIX", |issue| issue.fix.cell()),
];

/// Columns of nodes.
pub(super) const NODES: &[Column<NodeItem>] = &[
    column("NAME", |node| node.name.cell()),
    column("STATE", |node| node.state.cell()),
    column("ATTACHED", |node| node.attached.cell()),
    column("SILENT S", |node| node.silent_seconds.cell()),
    column("CONTAINERS", |node| node.containers.cell()),
    column("LAYERS READ", |node| node.layers_read.cell()),
    column("DISTRUSTED", |node| node.distrusted.cell()),
    column("SANDBOX", |node| node.cage.cell()),
    column("AGENT", |node| node.agent_version.cell()),
    wide("KUBELET", |node| node.kubernetes.as_ref().map(|node| node.kubelet.cell()).unwrap_or_default()),
    wide("RUNTIME", |node| node.kubernetes.as_ref().map(|node| node.runtime.cell()).unwrap_or_default()),
    wide("ARCHITECTURE", |node| node.kubernetes.as_ref().map(|node| node.architecture.cell()).unwrap_or_default()),
    wide("OS", |node| node.kubernetes.as_ref().map(|node| node.image.cell()).unwrap_or_default()),
    wide("KERNEL", |node| node.kubernetes.as_ref().map(|node| node.kernel.cell()).unwrap_or_default()),
    wide("PROBLEMS", |node| {
        let messages: Vec<&str> = node.problems.iter().map(|problem| problem.message.as_str()).collect();
        messages.join("; ").cell()
    }),
    wide("WHY NO AGENT", |node| node.blind.cell()),
    wide("CATALOGERS", |node| node.catalogers.cell()),
    wide("MARKS", |node| node.marks.cell()),
    wide("QUEUE", |node| node.agent.as_ref().map(|agent| agent.queue.cell()).unwrap_or_default()),
    wide("LAYERS FAILED", |node| node.agent.as_ref().map(|agent| agent.layers_failed.cell()).unwrap_or_default()),
    wide("WORKER DEATHS", |node| node.agent.as_ref().map(|agent| agent.worker_deaths.cell()).unwrap_or_default()),
    wide("GONE BEFORE READING", |node| {
        node.agent.as_ref().map(|agent| agent.gone_before_reading.cell()).unwrap_or_default()
    }),
];

/// Columns of containers.
pub(super) const CONTAINERS: &[Column<ContainerItem>] = &[
    column("NODE", |container| container.node.cell()),
    column("NAMESPACE", |container| container.namespace.cell()),
    column("POD", |container| container.pod.cell()),
    column("NAME", |container| container.name.cell()),
    column("IMAGE", |container| container.image.cell()),
    column("COVERAGE", |container| container.coverage.state.cell()),
    column("PACKAGES", |container| container.packages.cell()),
    column("FINDINGS", |container| known(container.findings.as_ref())),
    wide("REASON", |container| container.coverage.reason.cell()),
    wide("UNCONFIRMED", |container| container.unconfirmed.cell()),
    wide("WORKLOAD", |container| container.workload.cell()),
    wide("DISTRIBUTION", |container| container.distribution.cell()),
    wide("SINCE", |container| container.since.cell()),
    wide("RUNTIME", |container| container.runtime.cell()),
    wide("RUNTIME NAMESPACE", |container| container.runtime_namespace.cell()),
    wide("ID", |container| container.id.cell()),
    wide("IMAGE ID", |container| container.image_id.cell()),
    wide("STACK", |container| container.stack.cell()),
];

/// Columns of targets of deliveries.
pub(super) const TARGETS: &[Column<TargetItem>] = &[
    column("NAME", |target| target.name.cell()),
    column("KIND", |target| target.kind.cell()),
    column("ADDRESS", |target| target.address.cell()),
    column("STATE", |target| target.state.cell()),
    column("WAITING", |target| (target.waiting_events + target.waiting_deliveries).cell()),
    column("OLDEST", |target| target.oldest_seconds.map(age).unwrap_or_default()),
    column("REFUSED", |target| target.refused.cell()),
    column("DROPPED", |target| target.dropped.cell()),
    column("LAST ACCEPTED", |target| target.accepted_at.cell()),
    wide("RECORDS", |target| target.records.cell()),
    wide("BYTES", |target| target.bytes.cell()),
    wide("FAILURES", |target| target.failures.cell()),
    wide("ERROR", |target| target.error.cell()),
];

/// Columns of deliveries.
pub(super) const DELIVERIES: &[Column<DeliveryItem>] = &[
    column("ID", |delivery| delivery.id.cell()),
    column("TARGET", |delivery| delivery.target.cell()),
    column("STATE", |delivery| delivery.state.cell()),
    column("MADE", |delivery| delivery.made_at.cell()),
    column("RECORDS", |delivery| delivery.records.cell()),
    column("BYTES", |delivery| delivery.bytes.cell()),
    column("REASON", |delivery| delivery.reason.cell()),
    wide("REFUSED", |delivery| delivery.refused_at.cell()),
    wide("KEY", |delivery| delivery.key.cell()),
    wide("SEQUENCE", |delivery| delivery.sequence.cell()),
];

/// Returns findings of which it is known whether there are any: `0` if there are none. The cell is empty if it is not known.
pub(super) fn known(findings: Option<&SeverityCounts>) -> String {
    findings.map(|counts| if counts.total() == 0 { "0".to_owned() } else { counts.cell() }).unwrap_or_default()
}

/// Returns a label of an image by the end of its key.
fn label(image: &ImageItem, key: &str) -> String {
    image.labels.get(&format!("org.opencontainers.image.{key}")).cloned().unwrap_or_default()
}

/// Returns a time in its largest unit, as kubectl shows ages: `5s`, `12m`, `3h`, `8d`.
pub(super) fn age(seconds: u64) -> String {
    let units = [(24 * 3600, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let (unit, name) = units.into_iter().find(|(unit, _)| seconds >= *unit).unwrap_or((1, "s"));
    format!("{}{name}", seconds / unit)
}

/// Returns a size of disk space, as `crictl images` shows it: `74.1MB`.
fn size(bytes: Option<u64>) -> String {
    let Some(bytes) = bytes else { return String::new() };
    // Sizes that round up to the next unit have it.
    let units = [(999_950_000_u64, 1e9, "GB"), (999_950, 1e6, "MB"), (0, 1e3, "kB")];
    let (_, unit, name) = units.into_iter().find(|(least, ..)| bytes >= *least).unwrap_or(units[2]);
    format!("{:.1}{name}", bytes as f64 / unit)
}

/// Columns of images.
pub(super) const IMAGES: &[Column<ImageItem>] = &[
    column("NAMES", |image| image.names.cell()),
    column("COVERAGE", |image| image.coverage.state.cell()),
    column("LAYERS", |image| image.layers.cell()),
    column("PACKAGES", |image| image.packages.cell()),
    column("CONTAINERS", |image| image.containers.cell()),
    column("NODES", |image| image.nodes.cell()),
    column("FINDINGS", |image| known(image.findings.as_ref())),
    wide("WITHHELD", |image| image.withheld.cell()),
    wide("UNIDENTIFIED", |image| image.unidentified.cell()),
    wide("DISTRIBUTION", |image| image.distribution.cell()),
    wide("SIZE", |image| size(image.size)),
    wide("CREATED", |image| image.created.cell()),
    wide("PLATFORM", |image| image.platform.cell()),
    wide("USER", |image| image.user.cell()),
    wide("SOURCE", |image| label(image, "source")),
    wide("REVISION", |image| label(image, "revision")),
    wide("VERSION", |image| label(image, "version")),
    wide("VENDOR", |image| label(image, "vendor")),
    wide("BASE", |image| label(image, "base.name")),
    wide("REASON", |image| image.coverage.reason.cell()),
    wide("IDS", |image| image.ids.cell()),
    wide("STACK", |image| image.stack.cell()),
];

/// Columns of layers.
pub(super) const LAYERS: &[Column<LayerItem>] = &[
    column("FINDINGS", |layer| layer.findings.cell()),
    column("AFFECTED", |layer| layer.affected_containers.cell()),
    column("CONTAINERS", |layer| layer.containers.cell()),
    column("IMAGES", |layer| layer.images.cell()),
    column("STATE", |layer| layer.state.cell()),
    column("EXAMPLE IMAGE", |layer| layer.image.cell()),
    column("STEP", |layer| layer.step.as_ref().map(|step| step.keyword.cell()).unwrap_or_default()),
    column("ID", |layer| layer.id.cell()),
    wide("STEP NUMBER", |layer| layer.step.as_ref().map(|step| step.number.cell()).unwrap_or_default()),
    wide("DISPUTED", |layer| layer.disputed.cell()),
    wide("READ BY", |layer| layer.read_by.cell()),
    wide("READ AT", |layer| layer.read_at.cell()),
    wide("SANDBOX", |layer| layer.cage.cell()),
    wide("CATALOGERS", |layer| layer.catalogers.cell()),
    wide("VERIFIED BY", |layer| layer.verified_by.cell()),
    wide("REASON", |layer| layer.reason.cell()),
];

/// Columns of packages.
pub(super) const PACKAGES: &[Column<PackageItem>] = &[
    column("TYPE", |package| package.r#type.cell()),
    column("NAME", |package| package.name.cell()),
    column("VERSION", |package| package.version.cell()),
    column("IMAGES", |package| package.images.cell()),
    column("CONTAINERS", |package| package.containers.cell()),
    column("FINDINGS", |package| package.findings.cell()),
    wide("PURL", |package| package.purl.cell()),
];

/// Columns of findings.
pub(super) const FINDINGS: &[Column<FindingItem>] = &[
    column("SEVERITY", |finding| finding.severity.cell()),
    column("ID", |finding| finding.id.cell()),
    column("PACKAGE", |finding| finding.package.cell()),
    column("INSTALLED", |finding| finding.installed.cell()),
    column("STATUS", |finding| finding.status.cell()),
    column("FIXED IN", |finding| finding.fixed.cell()),
    column("NAMESPACE", |finding| finding.container.namespace.cell()),
    column("CONTAINER", |finding| finding.container.name.cell()),
    column("NODE", |finding| finding.container.node.cell()),
    wide("SCORE", |finding| finding.score.cell()),
    wide("WORKLOAD", |finding| finding.container.workload.cell()),
    wide("POD", |finding| finding.container.pod.cell()),
    wide("IMAGE", |finding| finding.container.image.cell()),
    wide("EVIDENCE", |finding| finding.evidence.cell()),
    wide("LAYER", |finding| finding.layer.cell()),
    wide("SOURCE", |finding| finding.source.cell()),
    wide("FIRST SEEN", |finding| finding.first_seen.cell()),
    wide("FIXED ON", |finding| finding.fixed_on.cell()),
    wide("PURL", |finding| finding.purl.cell()),
    wide("ALIASES", |finding| finding.aliases.cell()),
    wide("SUMMARY", |finding| finding.summary.cell()),
];

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_one_decimal_and_the_unit_that_fits() {
        for (bytes, expected) in [
            (None, ""),
            (Some(0), "0.0kB"),
            (Some(4096), "4.1kB"),
            (Some(999_949), "999.9kB"),
            (Some(999_950), "1.0MB"),
            (Some(74_123_456), "74.1MB"),
            (Some(999_950_000), "1.0GB"),
            (Some(u64::MAX), "18446744073.7GB"),
        ] {
            assert_eq!(size(bytes), expected, "{bytes:?}");
        }
    }
}
