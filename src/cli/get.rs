//! `outcrop get`: lists, as kubectl prints them.

use clap::ValueEnum;
use serde::de::DeserializeOwned;

use super::client::{Parameters, Server, segment};
use super::listing::Listing;
use super::output::{self, Cell as _, Column, Format, column, wide};
use super::table::table;
use super::text::escape;
use super::{Exit, Fatal, print};
use crate::web::list::{self, Resource};
use crate::web::{
    AdvisoryItem, ContainerItem, FindingItem, ImageItem, IssueItem, LayerItem, NodeItem, PackageItem, WorkloadItem,
};

/// Kinds of objects that can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Workloads: Deployments, `StatefulSets`, Jobs and others
    #[value(aliases = ["workload", "wl"])]
    Workloads,
    /// Configuration issues of workloads
    #[value(aliases = ["issue"])]
    Issues,
    /// Nodes and their agents
    #[value(aliases = ["node", "no"])]
    Nodes,
    /// Containers and their coverage
    #[value(aliases = ["container", "ctr", "co"])]
    Containers,
    /// Images of running containers
    #[value(aliases = ["image", "img"])]
    Images,
    /// Layers and the findings that each introduces
    #[value(aliases = ["layer", "ly"])]
    Layers,
    /// Packages in running containers
    #[value(aliases = ["package", "pkg", "pkgs"])]
    Packages,
    /// Findings of containers
    #[value(aliases = ["finding", "find", "vulns", "vuln"])]
    Findings,
    /// One advisory and the packages it affects
    #[value(aliases = ["advisories", "adv"])]
    Advisory,
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Kind of objects: workloads, issues, nodes, containers, images, layers, packages, findings, or advisory NAME
    #[arg(value_enum, hide_possible_values = true)]
    kind: Kind,

    /// Name of one object: a workload, rule, node, container, image, layer identity, package or vulnerability
    name: Option<String>,

    /// Output format
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,

    /// Select by namespace of the pods
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// List all namespaces (the default)
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,

    /// Select by workload: NAME or KIND/NAME, as in deploy/web
    #[arg(long, value_name = "WORKLOAD")]
    workload: Option<String>,

    /// Select by kind of the workload: deployment, sts, runner.actions.example
    #[arg(long = "kind", value_name = "KIND")]
    kind_of: Option<String>,

    /// Select by labels of the workload: app=web,tier!=test
    #[arg(long, short = 'l', value_name = "LABELS")]
    selector: Option<String>,

    /// Select workloads created at least this long ago: 30d
    #[arg(long, value_name = "TIME")]
    older_than: Option<String>,

    /// Select by owner of the workload
    #[arg(long, value_name = "OWNER")]
    owner: Option<String>,

    /// Select by node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,

    /// Select by image name
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,

    /// Minimum severity of findings: negligible, low, medium, high, critical
    #[arg(long, value_name = "SEVERITY")]
    severity: Option<String>,

    /// Select by field values: FIELD=VALUE, comma-separated
    #[arg(long, value_name = "FIELD=VALUE", value_delimiter = ',')]
    field_selector: Vec<String>,

    /// Field to sort by; prefix it with - for descending order
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort_by: Option<String>,

    /// Sort layers by the number of findings that replacing them would resolve, most first
    #[arg(long, conflicts_with = "sort_by")]
    by_impact: bool,

    #[command(flatten)]
    listing: Listing,

    #[command(flatten)]
    server: Server,
}

const WORKLOADS: &[Column<WorkloadItem>] = &[
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

const ISSUES: &[Column<IssueItem>] = &[
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

const NODES: &[Column<NodeItem>] = &[
    column("NAME", |node| node.name.cell()),
    column("ATTACHED", |node| node.attached.cell()),
    column("SILENT S", |node| node.silent_seconds.cell()),
    column("CONTAINERS", |node| node.containers.cell()),
    column("LAYERS READ", |node| node.layers_read.cell()),
    column("DISTRUSTED", |node| node.distrusted.cell()),
    column("SANDBOX", |node| node.cage.cell()),
    column("AGENT", |node| node.agent_version.cell()),
    wide("KUBELET", |node| node.kubernetes.as_ref().map(|of| of.kubelet.cell()).unwrap_or_default()),
    wide("RUNTIME", |node| node.kubernetes.as_ref().map(|of| of.runtime.cell()).unwrap_or_default()),
    wide("ARCHITECTURE", |node| node.kubernetes.as_ref().map(|of| of.architecture.cell()).unwrap_or_default()),
    wide("OS", |node| node.kubernetes.as_ref().map(|of| of.image.cell()).unwrap_or_default()),
    wide("KERNEL", |node| node.kubernetes.as_ref().map(|of| of.kernel.cell()).unwrap_or_default()),
    wide("WHY NO AGENT", |node| node.blind.cell()),
    wide("CATALOGERS", |node| node.catalogers.cell()),
    wide("MARKS", |node| node.marks.cell()),
    wide("QUEUE", |node| node.agent.as_ref().map(|of| of.queue.cell()).unwrap_or_default()),
    wide("LAYERS FAILED", |node| node.agent.as_ref().map(|of| of.layers_failed.cell()).unwrap_or_default()),
    wide("WORKER DEATHS", |node| node.agent.as_ref().map(|of| of.worker_deaths.cell()).unwrap_or_default()),
    wide("GONE BEFORE READING", |node| node.agent.as_ref().map(|of| of.gone_before_reading.cell()).unwrap_or_default()),
];

const CONTAINERS: &[Column<ContainerItem>] = &[
    column("NODE", |container| container.node.cell()),
    column("NAMESPACE", |container| container.namespace.cell()),
    column("POD", |container| container.pod.cell()),
    column("NAME", |container| container.name.cell()),
    column("IMAGE", |container| container.image.cell()),
    column("COVERAGE", |container| container.coverage.state.cell()),
    column("PACKAGES", |container| container.packages.cell()),
    column("FINDINGS", |container| container.findings.cell()),
    wide("REASON", |container| container.coverage.reason.cell()),
    wide("WORKLOAD", |container| container.workload.cell()),
    wide("DISTRIBUTION", |container| container.distribution.cell()),
    wide("SINCE", |container| container.since.cell()),
    wide("RUNTIME", |container| container.runtime.cell()),
    wide("RUNTIME NAMESPACE", |container| container.runtime_namespace.cell()),
    wide("ID", |container| container.id.cell()),
    wide("STACK", |container| container.stack.cell()),
];

const IMAGES: &[Column<ImageItem>] = &[
    column("NAMES", |image| image.names.cell()),
    column("COVERAGE", |image| image.coverage.state.cell()),
    column("LAYERS", |image| image.layers.cell()),
    column("PACKAGES", |image| image.packages.cell()),
    column("CONTAINERS", |image| image.containers.cell()),
    column("NODES", |image| image.nodes.cell()),
    column("FINDINGS", |image| image.findings.cell()),
    wide("WITHHELD", |image| image.withheld.cell()),
    wide("UNIDENTIFIED", |image| image.unidentified.cell()),
    wide("DISTRIBUTION", |image| image.distribution.cell()),
    wide("REASON", |image| image.coverage.reason.cell()),
    wide("STACK", |image| image.stack.cell()),
];

const LAYERS: &[Column<LayerItem>] = &[
    column("FINDINGS", |layer| layer.findings.cell()),
    column("AFFECTED", |layer| layer.affected_containers.cell()),
    column("CONTAINERS", |layer| layer.containers.cell()),
    column("IMAGES", |layer| layer.images.cell()),
    column("STATE", |layer| layer.state.cell()),
    column("EXAMPLE IMAGE", |layer| layer.image.cell()),
    column("STEP", |layer| layer.step.as_ref().map(|of| of.keyword.cell()).unwrap_or_default()),
    column("ID", |layer| layer.id.cell()),
    wide("STEP NUMBER", |layer| layer.step.as_ref().map(|of| of.number.cell()).unwrap_or_default()),
    wide("DISPUTED", |layer| layer.disputed.cell()),
    wide("READ BY", |layer| layer.read_by.cell()),
    wide("READ AT", |layer| layer.read_at.cell()),
    wide("SANDBOX", |layer| layer.cage.cell()),
    wide("CATALOGERS", |layer| layer.catalogers.cell()),
    wide("VERIFIED BY", |layer| layer.verified_by.cell()),
    wide("REASON", |layer| layer.reason.cell()),
];

const PACKAGES: &[Column<PackageItem>] = &[
    column("TYPE", |package| package.r#type.cell()),
    column("NAME", |package| package.name.cell()),
    column("VERSION", |package| package.version.cell()),
    column("IMAGES", |package| package.images.cell()),
    column("CONTAINERS", |package| package.containers.cell()),
    column("FINDINGS", |package| package.findings.cell()),
    wide("PURL", |package| package.purl.cell()),
];

const FINDINGS: &[Column<FindingItem>] = &[
    column("SEVERITY", |finding| finding.severity.cell()),
    column("ID", |finding| finding.id.cell()),
    column("PACKAGE", |finding| finding.package.cell()),
    column("INSTALLED", |finding| finding.installed.cell()),
    column("FIXED IN", |finding| finding.fixed.cell()),
    column("NAMESPACE", |finding| finding.container.namespace.cell()),
    column("CONTAINER", |finding| finding.container.name.cell()),
    column("NODE", |finding| finding.container.node.cell()),
    wide("STATUS", |finding| finding.status.cell()),
    wide("SCORE", |finding| finding.score.cell()),
    wide("WORKLOAD", |finding| finding.container.workload.cell()),
    wide("POD", |finding| finding.container.pod.cell()),
    wide("IMAGE", |finding| finding.container.image.cell()),
    wide("EVIDENCE", |finding| finding.evidence.cell()),
    wide("LAYER", |finding| finding.layer.cell()),
    wide("FIRST SEEN", |finding| finding.first_seen.cell()),
    wide("FIXED ON", |finding| finding.fixed_on.cell()),
    wide("PURL", |finding| finding.purl.cell()),
    wide("ALIASES", |finding| finding.aliases.cell()),
    wide("SUMMARY", |finding| finding.summary.cell()),
];

/// Returns the parameters of the request. A filter or an order that the resource does not know is an error before the request is sent.
fn parameters(arguments: &Arguments, resource: &Resource, named: &str) -> Result<Parameters, Fatal> {
    let image = if resource.name == list::IMAGES.name { "name" } else { "image" };
    let mut parameters = Vec::new();
    let mut filter = |name: &str, value: &str| {
        if !resource.filters.iter().any(|(known, _)| *known == name) {
            let known: Vec<&str> = resource.filters.iter().map(|(known, _)| *known).collect();
            let known = known.join(", ");
            return Err(Fatal::usage(format!("{} have no filter {name:?}: expected one of {known}", resource.name)));
        }
        parameters.push((name.to_owned(), value.to_owned()));
        Ok(())
    };
    for (name, value) in [
        (named, &arguments.name),
        ("namespace", &arguments.namespace),
        ("node", &arguments.node),
        (image, &arguments.image),
        ("severity", &arguments.severity),
        ("workload", &arguments.workload),
        ("kind", &arguments.kind_of),
        ("labels", &arguments.selector),
        ("older-than", &arguments.older_than),
        ("owner", &arguments.owner),
    ] {
        value.as_deref().map_or(Ok(()), |value| filter(name, value))?;
    }
    for selector in &arguments.field_selector {
        let (name, value) = selector.split_once('=').ok_or_else(|| {
            Fatal::usage(format!("invalid value {selector:?} for --field-selector: expected FIELD=VALUE"))
        })?;
        filter(name, value.trim_start_matches('='))?;
    }
    if arguments.by_impact && resource.name != list::LAYERS.name {
        return Err(Fatal::usage("--by-impact applies to layers only: outcrop get layers --by-impact"));
    }
    let sort = if arguments.by_impact { Some("-findings".to_owned()) } else { arguments.sort_by.clone() };
    if let Some(sort) = sort {
        if !resource.sorts.contains(&sort.strip_prefix('-').unwrap_or(&sort)) {
            let known = resource.sorts.join(", ");
            return Err(Fatal::usage(format!(
                "{} cannot be sorted by {sort:?}: expected one of {known}",
                resource.name
            )));
        }
        parameters.push(("sort".to_owned(), sort));
    }
    Ok(parameters)
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Fatal> {
    arguments.listing.check()?;
    match arguments.kind {
        Kind::Workloads => print_list(arguments, &list::WORKLOADS, WORKLOADS, "workload"),
        Kind::Issues => print_list(arguments, &list::ISSUES, ISSUES, "rule"),
        Kind::Nodes => print_list(arguments, &list::NODES, NODES, "name"),
        Kind::Containers => print_list(arguments, &list::CONTAINERS, CONTAINERS, "name"),
        Kind::Images => print_list(arguments, &list::IMAGES, IMAGES, "name"),
        Kind::Layers => print_list(arguments, &list::LAYERS, LAYERS, "id"),
        Kind::Packages => print_list(arguments, &list::PACKAGES, PACKAGES, "name"),
        Kind::Findings => print_list(arguments, &list::FINDINGS, FINDINGS, "id"),
        Kind::Advisory => print_advisory(arguments),
    }
}

/// Prints a list of `resource`; `named` is the filter that a name on the command line sets.
fn print_list<T: DeserializeOwned>(
    arguments: &Arguments,
    resource: &Resource,
    columns: &[Column<T>],
    named: &str,
) -> Result<Exit, Fatal> {
    let query = parameters(arguments, resource, named)?;
    let client = arguments.server.connect()?;
    let path = format!("/api/v1/{}", resource.name);
    let count = arguments.listing.write(&client, &path, query, columns, arguments.output)?;
    if count == 0 {
        output::note(
            arguments.output,
            &format!("no {} found; outcrop status shows what has not been scanned", resource.name),
        )?;
    }
    Ok(Exit::Done)
}

fn print_advisory(arguments: &Arguments) -> Result<Exit, Fatal> {
    let Some(id) = &arguments.name else {
        return Err(Fatal::usage("the name of the advisory is missing: outcrop get advisory CVE-2021-44228"));
    };
    if arguments.output == Format::Csv {
        return Err(Fatal::usage("-o csv is not available for one advisory: use table, json or yaml"));
    }
    let client = arguments.server.connect()?;
    let path = format!("/api/v1/advisories/{}", segment(id));
    let text = match arguments.output {
        Format::Json => output::json_document(&client.get(&path, &[])?),
        Format::Yaml => output::yaml_document(&client.get(&path, &[])?)?,
        Format::Table | Format::Wide | Format::Csv => describe(&client.get(&path, &[])?),
    };
    print(&text)?;
    Ok(Exit::Done)
}

/// Returns an advisory as text, as kubectl describes an object.
fn describe(advisory: &AdvisoryItem) -> String {
    let mut out = String::new();
    for (name, value) in [
        ("Name", advisory.id.cell()),
        ("Aliases", advisory.aliases.cell()),
        ("Summary", advisory.summary.cell()),
        ("Severity", advisory.severity.cell()),
        ("Containers", advisory.containers.cell()),
        ("Images", advisory.images.cell()),
        ("Nodes", advisory.nodes.cell()),
    ] {
        out.push_str(format!("{:<13}{}", format!("{name}:"), escape(&value)).trim_end());
        out.push('\n');
    }
    let rows: Vec<Vec<String>> = advisory
        .packages
        .iter()
        .map(|package| {
            vec![
                package.name.cell(),
                package.version.cell(),
                package.status.cell(),
                package.fixed.cell(),
                package.containers.cell(),
                package.purl.cell(),
            ]
        })
        .collect();
    if rows.is_empty() {
        out.push_str("Packages:    none in the scanned containers\n");
    } else {
        out.push('\n');
        out.push_str(&table(&["PACKAGE", "VERSION", "STATUS", "FIXED IN", "CONTAINERS", "PURL"], &rows));
    }
    out
}
