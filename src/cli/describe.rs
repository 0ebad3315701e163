//! `outcrop describe`: one workload in full, as kubectl describes an object.

use std::collections::HashSet;

use super::client::{Client, Server, segment};
use super::output::{self, Cell as _, Column, column};
use super::table::table;
use super::text::escape;
use super::{Exit, Fatal, columns, print};
use crate::web::list::MAX_LIMIT;
use crate::web::{FindingItem, Page, WorkloadContainer, WorkloadDetail, WorkloadItem};

/// Number of findings that are listed.
const MAX_FINDINGS: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Workload as KIND/NAME (deploy/web) or NAME, or its kind followed by NAME
    workload: String,

    /// Name of the workload, if the first argument is a kind
    name: Option<String>,

    /// Namespace of the workload; required only if several namespaces have a workload of this name
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Output format
    #[arg(long, short, value_enum, default_value = "table")]
    output: output::ObjectFormat,

    #[command(flatten)]
    server: Server,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Fatal> {
    let named = match &arguments.name {
        Some(name) => format!("{}/{name}", arguments.workload),
        None => arguments.workload.clone(),
    };
    let client = arguments.server.connect()?;
    let [namespace, kind, name] = find(&client, &named, arguments.namespace.as_deref())?;
    let path = format!("/api/v1/workloads/{}/{}/{}", segment(&namespace), segment(&kind), segment(&name));
    match arguments.output {
        output::ObjectFormat::Json => print(&output::json_document(&client.get(&path, &[])?))?,
        output::ObjectFormat::Yaml => print(&output::yaml_document(&client.get(&path, &[])?)?)?,
        output::ObjectFormat::Table => {
            let query = [("namespace", namespace), ("workload", format!("{kind}/{name}"))];
            let mut query = query.map(|(key, value)| (key.to_owned(), value)).to_vec();
            query.push(("limit".to_owned(), MAX_LIMIT.to_string()));
            let workload: WorkloadDetail = client.get(&path, &[])?;
            print(&describe(&workload, client.get("/api/v1/findings", &query)?))?;
        }
    }
    Ok(Exit::Done)
}

/// Returns namespace, kind and name of the only workload that `named` matches.
fn find(client: &Client, named: &str, namespace: Option<&str>) -> Result<[String; 3], Fatal> {
    let mut query = vec![("workload".to_owned(), named.to_owned()), ("limit".to_owned(), "10".to_owned())];
    query.extend(namespace.map(|namespace| ("namespace".to_owned(), namespace.to_owned())));
    let page: Page<WorkloadItem> = client.get("/api/v1/workloads", &query)?;
    let identify = |item: WorkloadItem| {
        let WorkloadItem { namespace, group, kind, name, .. } = item;
        [namespace, if group.is_empty() { kind } else { format!("{kind}.{group}") }, name]
    };
    let found: Vec<[String; 3]> = page.items.into_iter().map(identify).collect();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => {
            let place = namespace.map_or_else(String::new, |namespace| format!(" in namespace {namespace}"));
            Err(Fatal::failed(format!(
                "no workload {named:?} with pods found{place}; list them with outcrop get workloads"
            )))
        }
        several => {
            let names: Vec<String> =
                several.iter().map(|[space, kind, name]| format!("-n {space} {kind}/{name}")).collect();
            Err(Fatal::usage(format!("{named:?} matches several workloads: choose one of {}", names.join("; "))))
        }
    }
}

/// Returns a workload as text.
fn describe(detail: &WorkloadDetail, findings: Page<FindingItem>) -> String {
    let WorkloadDetail { workload, containers, configuration, pods } = detail;
    let mut out = String::new();
    for (name, value) in [
        ("Name", workload.name.cell()),
        ("Namespace", workload.namespace.cell()),
        ("Kind", workload.kind.cell()),
        ("Owner", workload.owner.cell()),
        ("Created", workload.created.cell()),
        ("Excluded", workload.excluded.cell()),
        ("Pods", pods.cell()),
        ("Coverage", workload.coverage.cell()),
        ("Findings", workload.findings.cell()),
        ("Withheld", workload.withheld.cell()),
        ("Pod security", workload.pod_security.cell()),
    ] {
        out.push_str(format!("{:<14}{}", format!("{name}:"), escape(&value)).trim_end());
        out.push('\n');
    }
    let (worst, more) = worst(findings);
    out.push_str(&section(CONTAINERS, &CONTAINERS.iter().map(|column| column.head).collect::<Vec<_>>(), containers));
    out.push_str(&section(columns::FINDINGS, &FINDINGS, &worst));
    out.push_str(&section(columns::ISSUES, &CONFIGURATION, configuration));
    if more {
        out.push_str("\nMore findings: outcrop get findings --workload WORKLOAD\n");
    }
    out
}

/// Columns of containers.
const CONTAINERS: &[Column<WorkloadContainer>] = &[
    column("CONTAINER", |container| container.name.cell()),
    column("KIND", |container| container.kind.cell()),
    column("REPLICAS", |container| container.replicas.cell()),
    column("IMAGE", |container| container.image.cell()),
    column("COVERAGE", |container| container.coverage.state.cell()),
    column("REASON", |container| container.coverage.reason.cell()),
    column("PACKAGES", |container| container.packages.cell()),
    column("FINDINGS", |container| columns::known(container.findings.as_ref())),
];

/// Headings of the columns of findings.
const FINDINGS: [&str; 8] = ["SEVERITY", "ID", "PACKAGE", "INSTALLED", "STATUS", "FIXED IN", "CONTAINER", "FIRST SEEN"];

/// Headings of the columns of configuration issues.
const CONFIGURATION: [&str; 5] = ["LEVEL", "RULE", "PATH", "FOUND", "FIX"];

/// Returns an empty line and a table of the columns with these headings; an empty text without items.
fn section<T>(columns: &[Column<T>], headings: &[&str], items: &[T]) -> String {
    if items.is_empty() {
        return String::new();
    }
    let columns: Vec<&Column<T>> =
        headings.iter().filter_map(|heading| columns.iter().find(|column| column.head == *heading)).collect();
    let heads: Vec<&'static str> = columns.iter().map(|column| column.head).collect();
    let row = |item: &T| columns.iter().map(|column| (column.cell)(item)).collect();
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    format!("\n{}", table(&heads, &rows))
}

/// Returns the most severe findings, those of replicas once, and whether there are more.
fn worst(findings: Page<FindingItem>) -> (Vec<FindingItem>, bool) {
    let mut seen = HashSet::new();
    let mut worst = findings.items;
    worst.retain(|finding| {
        let FindingItem { id, purl, evidence, container, .. } = finding;
        seen.insert((id.clone(), purl.clone(), evidence.clone(), container.name.clone(), container.stack.clone()))
    });
    let more = worst.len() > MAX_FINDINGS || findings.next.is_some();
    worst.truncate(MAX_FINDINGS);
    (worst, more)
}
