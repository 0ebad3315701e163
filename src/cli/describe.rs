//! `outcrop describe`: one workload in full, in kubectl's style.

use std::collections::HashSet;

use serde_json::Value;

use super::client::{Client, Server, segment};
use super::output::{self, cell};
use super::table::table;
use super::text::escape;
use super::{Exit, Fatal, print};
use crate::web::list::MAX_LIMIT;

/// Number of findings that are shown individually.
const FINDINGS: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Workload as KIND/NAME (deploy/web) or NAME, or its kind followed by NAME
    workload: String,

    /// Name of the workload, if the first argument is a kind
    name: Option<String>,

    /// Namespace of the workload; required only if several namespaces have a workload of this name
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Output format: table, json or yaml
    #[arg(long, short, value_enum, default_value = "table")]
    output: output::Format,

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
    let workload = client.get(&path, &[])?;
    match arguments.output {
        output::Format::Json => print(&output::json_document(&workload))?,
        output::Format::Yaml => print(&output::yaml_document(&workload))?,
        output::Format::Csv => {
            return Err(Fatal::usage("-o csv is not available for one workload: use table, json or yaml"));
        }
        output::Format::Table | output::Format::Wide => {
            let query = [("namespace", namespace), ("workload", format!("{kind}/{name}"))];
            let mut query = query.map(|(key, value)| (key.to_owned(), value)).to_vec();
            query.push(("limit".to_owned(), MAX_LIMIT.to_string()));
            let findings = client.get("/api/v1/findings", &query)?;
            print(&in_words(&workload, &findings))?;
        }
    }
    Ok(Exit::Done)
}

/// Resolves a name to the namespace, kind and name of exactly one workload.
fn find(client: &Client, named: &str, namespace: Option<&str>) -> Result<[String; 3], Fatal> {
    let mut query = vec![("workload".to_owned(), named.to_owned()), ("limit".to_owned(), "10".to_owned())];
    query.extend(namespace.map(|namespace| ("namespace".to_owned(), namespace.to_owned())));
    let answer = client.get("/api/v1/workloads", &query)?;
    let found: Vec<[String; 3]> = answer["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| {
            let group = cell(&item["group"]);
            let kind = cell(&item["kind"]);
            let kind = if group.is_empty() { kind } else { format!("{kind}.{group}") };
            [cell(&item["namespace"]), kind, cell(&item["name"])]
        })
        .collect();
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

/// Formats a workload for a terminal.
fn in_words(workload: &Value, findings: &Value) -> String {
    let mut out = String::new();
    for (name, pointer) in [
        ("Name", "/workload/name"),
        ("Namespace", "/workload/namespace"),
        ("Kind", "/workload/kind"),
        ("Owner", "/workload/owner"),
        ("Created", "/workload/created"),
        ("Excluded", "/workload/excluded"),
        ("Pods", "/pods"),
        ("Coverage", "/workload/coverage"),
        ("Findings", "/workload/findings"),
        ("Withheld", "/workload/withheld"),
        ("Pod security", "/workload/pod_security"),
    ] {
        let value = workload.pointer(pointer).map(cell).unwrap_or_default();
        out.push_str(format!("{:<14}{}", format!("{name}:"), escape(&value)).trim_end());
        out.push('\n');
    }
    let (worst, more) = once(findings);
    for (heads, items, fields) in [
        (
            &["CONTAINER", "KIND", "REPLICAS", "IMAGE", "COVERAGE", "REASON", "PACKAGES", "FINDINGS"][..],
            &workload["containers"],
            &["/name", "/kind", "/replicas", "/image", "/coverage/state", "/coverage/reason", "/packages", "/findings"]
                [..],
        ),
        (
            &["SEVERITY", "ID", "PACKAGE", "INSTALLED", "FIXED IN", "CONTAINER", "FIRST SEEN"],
            &worst,
            &["/severity", "/id", "/package", "/installed", "/fixed", "/container/name", "/first_seen"],
        ),
        (
            &["LEVEL", "RULE", "PATH", "FOUND", "FIX"],
            &workload["configuration"],
            &["/level", "/rule", "/path", "/found", "/fix"],
        ),
    ] {
        let row = |item: &Value| fields.iter().map(|at| item.pointer(at).map(cell).unwrap_or_default()).collect();
        let rows: Vec<Vec<String>> = items.as_array().into_iter().flatten().map(row).collect();
        if !rows.is_empty() {
            out.push('\n');
            out.push_str(&table(heads, &rows));
        }
    }
    if more {
        out.push_str("\nMore findings: outcrop get findings --workload WORKLOAD\n");
    }
    out
}

/// Returns the most severe findings, without the duplicates of replicas, and whether there are more.
fn once(findings: &Value) -> (Value, bool) {
    let mut seen = HashSet::new();
    let all = findings["items"].as_array().into_iter().flatten();
    let mut worst: Vec<Value> = all
        .filter(|item| {
            let told = ["/id", "/purl", "/evidence", "/container/name", "/container/stack"];
            seen.insert(told.map(|at| item.pointer(at).map(cell).unwrap_or_default()))
        })
        .cloned()
        .collect();
    let more = worst.len() > FINDINGS || findings["continue"].is_string();
    worst.truncate(FINDINGS);
    (Value::Array(worst), more)
}
