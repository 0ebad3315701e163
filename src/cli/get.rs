//! `outcrop get`: lists from an aggregator, in kubectl's style.

use clap::ValueEnum;
use serde_json::Value;

use super::client::{Client, Parameters, Server, segment};
use super::listing::Listing;
use super::output::{self, Column, Format, cell, column, wide};
use super::table::table;
use super::text::escape;
use super::{Exit, Fatal, print};
use crate::web::list::{self, Resource};

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

const WORKLOADS: &[Column] = &[
    column("NAMESPACE", "/namespace"),
    column("KIND", "/kind"),
    column("NAME", "/name"),
    column("PODS", "/pods"),
    column("COVERAGE", "/coverage"),
    column("FINDINGS", "/findings"),
    column("POD SECURITY", "/pod_security"),
    wide("ISSUES", "/issues"),
    wide("OWNER", "/owner"),
    wide("IMAGES", "/images"),
    wide("WITHHELD", "/withheld"),
    wide("CREATED", "/created"),
    wide("EXCLUDED", "/excluded"),
    wide("GROUP", "/group"),
    wide("UID", "/uid"),
];

const ISSUES: &[Column] = &[
    column("NAMESPACE", "/namespace"),
    column("WORKLOAD", "/workload"),
    column("LEVEL", "/level"),
    column("RULE", "/rule"),
    column("PATH", "/path"),
    column("FOUND", "/found"),
    wide("TITLE", "/title"),
    wide("WHY", "/why"),
    wide("FIX", "/fix"),
];

const NODES: &[Column] = &[
    column("NAME", "/name"),
    column("ATTACHED", "/attached"),
    column("SILENT S", "/silent_seconds"),
    column("CONTAINERS", "/containers"),
    column("LAYERS READ", "/layers_read"),
    column("DISTRUSTED", "/distrusted"),
    column("SANDBOX", "/cage"),
    column("AGENT", "/agent_version"),
    wide("KUBELET", "/kubernetes/kubelet"),
    wide("RUNTIME", "/kubernetes/runtime"),
    wide("ARCHITECTURE", "/kubernetes/architecture"),
    wide("OS", "/kubernetes/image"),
    wide("KERNEL", "/kubernetes/kernel"),
    wide("WHY NO AGENT", "/blind"),
    wide("CATALOGERS", "/cataloguers"),
    wide("MARKS", "/marks"),
    wide("QUEUE", "/agent/queue"),
    wide("LAYERS FAILED", "/agent/layers_failed"),
    wide("WORKER DEATHS", "/agent/worker_deaths"),
    wide("GONE BEFORE READING", "/agent/gone_before_reading"),
];

const CONTAINERS: &[Column] = &[
    column("NODE", "/node"),
    column("NAMESPACE", "/namespace"),
    column("POD", "/pod"),
    column("NAME", "/name"),
    column("IMAGE", "/image"),
    column("COVERAGE", "/coverage/state"),
    column("PACKAGES", "/packages"),
    column("FINDINGS", "/findings"),
    wide("REASON", "/coverage/reason"),
    wide("WORKLOAD", "/workload"),
    wide("DISTRIBUTION", "/distribution"),
    wide("SINCE", "/since"),
    wide("RUNTIME", "/runtime"),
    wide("RUNTIME NAMESPACE", "/runtime_namespace"),
    wide("ID", "/id"),
    wide("STACK", "/stack"),
];

const IMAGES: &[Column] = &[
    column("NAMES", "/names"),
    column("COVERAGE", "/coverage/state"),
    column("LAYERS", "/layers"),
    column("PACKAGES", "/packages"),
    column("CONTAINERS", "/containers"),
    column("NODES", "/nodes"),
    column("FINDINGS", "/findings"),
    wide("WITHHELD", "/withheld"),
    wide("UNIDENTIFIED", "/unidentified"),
    wide("DISTRIBUTION", "/distribution"),
    wide("REASON", "/coverage/reason"),
    wide("STACK", "/stack"),
];

const LAYERS: &[Column] = &[
    column("FINDINGS", "/findings"),
    column("AFFECTED", "/affected_containers"),
    column("CONTAINERS", "/containers"),
    column("IMAGES", "/images"),
    column("STATE", "/state"),
    column("EXAMPLE IMAGE", "/image"),
    column("STEP", "/step/keyword"),
    column("ID", "/id"),
    wide("STEP NUMBER", "/step/number"),
    wide("DISPUTED", "/disputed"),
    wide("READ BY", "/read_by"),
    wide("READ AT", "/read_at"),
    wide("SANDBOX", "/cage"),
    wide("CATALOGERS", "/cataloguers"),
    wide("VERIFIED BY", "/verified_by"),
    wide("REASON", "/reason"),
];

const PACKAGES: &[Column] = &[
    column("TYPE", "/type"),
    column("NAME", "/name"),
    column("VERSION", "/version"),
    column("IMAGES", "/images"),
    column("CONTAINERS", "/containers"),
    column("FINDINGS", "/findings"),
    wide("PURL", "/purl"),
];

const FINDINGS: &[Column] = &[
    column("SEVERITY", "/severity"),
    column("ID", "/id"),
    column("PACKAGE", "/package"),
    column("INSTALLED", "/installed"),
    column("FIXED IN", "/fixed"),
    column("NAMESPACE", "/container/namespace"),
    column("CONTAINER", "/container/name"),
    column("NODE", "/container/node"),
    wide("STATUS", "/status"),
    wide("SCORE", "/score"),
    wide("WORKLOAD", "/container/workload"),
    wide("POD", "/container/pod"),
    wide("IMAGE", "/container/image"),
    wide("EVIDENCE", "/evidence"),
    wide("LAYER", "/layer"),
    wide("FIRST SEEN", "/first_seen"),
    wide("FIXED ON", "/fixed_on"),
    wide("PURL", "/purl"),
    wide("ALIASES", "/aliases"),
    wide("SUMMARY", "/summary"),
];

impl Kind {
    /// Returns the resource, its columns, and the filter that the positional name sets.
    const fn list(self) -> Option<(Resource, &'static [Column], &'static str)> {
        Some(match self {
            Self::Workloads => (list::WORKLOADS, WORKLOADS, "workload"),
            Self::Issues => (list::ISSUES, ISSUES, "rule"),
            Self::Nodes => (list::NODES, NODES, "name"),
            Self::Containers => (list::CONTAINERS, CONTAINERS, "name"),
            Self::Images => (list::IMAGES, IMAGES, "name"),
            Self::Layers => (list::LAYERS, LAYERS, "id"),
            Self::Packages => (list::PACKAGES, PACKAGES, "name"),
            Self::Findings => (list::FINDINGS, FINDINGS, "id"),
            Self::Advisory => return None,
        })
    }
}

/// Returns the query parameters. Filters and sort fields that the resource does not have are rejected before a request is sent.
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
    let Some((resource, columns, named)) = arguments.kind.list() else {
        return advisory(arguments);
    };
    let query = parameters(arguments, &resource, named)?;
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

fn advisory(arguments: &Arguments) -> Result<Exit, Fatal> {
    let Some(id) = &arguments.name else {
        return Err(Fatal::usage("the name of the advisory is missing: outcrop get advisory CVE-2021-44228"));
    };
    let client: Client = arguments.server.connect()?;
    let answer = client.get(&format!("/api/v1/advisories/{}", segment(id)), &[])?;
    match arguments.output {
        Format::Json => print(&output::json_document(&answer))?,
        Format::Yaml => print(&output::yaml_document(&answer))?,
        Format::Csv => return Err(Fatal::usage("-o csv is not available for one advisory: use table, json or yaml")),
        Format::Table | Format::Wide => print(&describe(&answer))?,
    }
    Ok(Exit::Done)
}

/// Formats an advisory for a terminal, in the style of kubectl describe.
fn describe(answer: &Value) -> String {
    let mut out = String::new();
    for (name, pointer) in [
        ("Name", "/id"),
        ("Aliases", "/aliases"),
        ("Summary", "/summary"),
        ("Severity", "/severity"),
        ("Containers", "/containers"),
        ("Images", "/images"),
        ("Nodes", "/nodes"),
    ] {
        let value = answer.pointer(pointer).map(cell).unwrap_or_default();
        out.push_str(format!("{:<13}{}", format!("{name}:"), escape(&value)).trim_end());
        out.push('\n');
    }
    let field = |package: &Value, pointer: &str| package.pointer(pointer).map(cell).unwrap_or_default();
    let rows: Vec<Vec<String>> = answer["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|package| {
            ["/name", "/version", "/status", "/fixed", "/containers", "/purl"].map(|at| field(package, at)).to_vec()
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
