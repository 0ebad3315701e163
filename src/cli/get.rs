//! `outcrop get`: lists, as kubectl prints them.

use clap::ValueEnum;
use serde::de::DeserializeOwned;

use super::client::{Parameters, Server, segment};
use super::listing::Listing;
use super::output::{self, Cell as _, Column, Format};
use super::table::table;
use super::text::escape;
use super::{Exit, Fatal, columns, print, unmatched};
use crate::web::AdvisoryItem;
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
#[command(after_help = "Examples:
  outcrop get findings --severity high -n shop
  outcrop get findings --field-selector package=openssl,status=fixed
  outcrop get containers --field-selector coverage=partial -o wide
  outcrop get images --sort-by=-findings --limit 10
  outcrop get workloads -l team=payments -o json")]
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
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    older_than: Option<String>,

    /// Select by owner of the workload
    #[arg(long, value_name = "OWNER")]
    owner: Option<String>,

    /// Select by node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,

    /// Select by image: its name with or without registry, tag and digest, or its digest
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,

    /// Minimum severity of findings: negligible, low, medium, high, critical; for one severity: --field-selector severity=low
    #[arg(long, value_name = "SEVERITY")]
    severity: Option<String>,

    /// Select by field values: FIELD=VALUE, comma-separated
    #[arg(long, value_name = "FIELD=VALUE", value_delimiter = ',')]
    field_selector: Vec<String>,

    /// Field to sort by, as in findings, severity or id (each list has its own); severity puts the worst first; prefix it with - for the reverse order
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

/// Returns the parameters of the request. A filter or an order that the resource does not know is an error before the request is sent.
fn parameters(arguments: &Arguments, resource: &Resource, named: &str) -> Result<Parameters, Fatal> {
    if arguments.severity.as_ref().is_some_and(|severity| severity.eq_ignore_ascii_case("unknown")) {
        return Err(Fatal::usage(
            "--severity is a minimum, and unknown is below every other severity: omit it to list all findings, or pass --field-selector severity=unknown to list those without a rating",
        ));
    }
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
        if selector.contains("!=") {
            return Err(Fatal::usage(format!(
                "invalid value {selector:?} for --field-selector: fields are compared for equality only; expected FIELD=VALUE"
            )));
        }
        let (name, value) = selector.split_once('=').ok_or_else(|| {
            Fatal::usage(format!("invalid value {selector:?} for --field-selector: expected FIELD=VALUE"))
        })?;
        // A selector compares for equality; the filter of this name is a minimum.
        let name = if name == "severity" { "severity-is" } else { name };
        if name == "severity-is" && arguments.severity.is_some() {
            return Err(Fatal::usage("--severity and --field-selector severity=LEVEL exclude each other"));
        }
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
        Kind::Workloads => print_list(arguments, &list::WORKLOADS, columns::WORKLOADS, "workload"),
        Kind::Issues => print_list(arguments, &list::ISSUES, columns::ISSUES, "rule"),
        Kind::Nodes => print_list(arguments, &list::NODES, columns::NODES, "name"),
        Kind::Containers => print_list(arguments, &list::CONTAINERS, columns::CONTAINERS, "name"),
        Kind::Images => print_list(arguments, &list::IMAGES, columns::IMAGES, "name"),
        Kind::Layers => print_list(arguments, &list::LAYERS, columns::LAYERS, "id"),
        Kind::Packages => print_list(arguments, &list::PACKAGES, columns::PACKAGES, "name"),
        Kind::Findings => print_list(arguments, &list::FINDINGS, columns::FINDINGS, "id"),
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
    let count = arguments.listing.write(&client, &path, query.clone(), columns, arguments.output)?;
    if count == 0 {
        let lines = unmatched::explain(&client, resource, &query)?;
        // As kubectl: an object that is asked for by its name and does not exist is an error. Nobody has it, is a good answer about a package.
        let is_object = [&list::NODES, &list::CONTAINERS, &list::IMAGES, &list::LAYERS, &list::WORKLOADS];
        if is_object.iter().any(|of| of.name == resource.name) && query.len() == 1 && arguments.name.is_some() {
            return Err(Fatal::failed(lines.join("; ")));
        }
        for line in lines {
            output::remark(&line);
        }
        output::remark(&format!("no {} found; outcrop status shows what has not been scanned", resource.name));
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
