//! `outcrop status` and `outcrop who-has`.

use clap::ValueEnum;
use serde_json::Value;

use super::client::Server;
use super::listing::Listing;
use super::output::{self, Column, Format, cell, column, wide};
use super::table::table;
use super::text::escape;
use super::{Exit, Fatal, print};
use crate::store::RANKS;

/// Output format of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StatusFormat {
    /// Table
    Table,
    /// JSON, as the API responds
    Json,
    /// The same document as YAML
    Yaml,
}

#[derive(Debug, clap::Args)]
pub(super) struct StatusArguments {
    /// Output format
    #[arg(long, short, value_enum, default_value = "table")]
    output: StatusFormat,

    #[command(flatten)]
    server: Server,
}

#[derive(Debug, clap::Args)]
pub(super) struct WhoHasArguments {
    /// Package name (log4j-core), package URL ('pkg:npm/lodash@<4.17.21') or vulnerability (CVE-2021-44228)
    question: String,

    /// Output format
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,

    #[command(flatten)]
    listing: Listing,

    #[command(flatten)]
    server: Server,
}

pub(super) fn status(arguments: &StatusArguments) -> Result<Exit, Fatal> {
    let status = arguments.server.connect()?.get("/api/v1/status", &[])?;
    match arguments.output {
        StatusFormat::Table => print(&in_words(&status))?,
        StatusFormat::Json => print(&output::json_document(&status))?,
        StatusFormat::Yaml => print(&output::yaml_document(&status))?,
    }
    Ok(Exit::Done)
}

/// Returns one row per item of the list `value`; each field is a JSON pointer.
fn rows(value: &Value, fields: &[&str]) -> Vec<Vec<String>> {
    let row = |item: &Value| fields.iter().map(|field| item.pointer(field).map(cell).unwrap_or_default()).collect();
    value.as_array().map(|items| items.iter().map(row).collect()).unwrap_or_default()
}

/// Formats the status for a terminal.
fn in_words(status: &Value) -> String {
    let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let text = |pointer: &str| escape(&status.pointer(pointer).map(cell).unwrap_or_default()).into_owned();
    let mut out = format!(
        "aggregator {} in cluster {}, up {} s; {} containers\n\
         nodes: known {}, attached {}, silent {}, with a weaker sandbox {}, distrusted {}\n",
        text("/version"),
        text("/cluster"),
        number("/uptime_seconds"),
        number("/containers"),
        number("/nodes/known"),
        number("/nodes/attached"),
        number("/nodes/silent"),
        number("/nodes/weak_cage"),
        number("/nodes/distrusted")
    );
    if number("/nodes/known") == 0 {
        out.push_str("no node has attached; start outcrop-agent on a node\n");
    }
    if !status["kubernetes"].is_null() {
        out.push_str(&format!(
            "workloads {}, pods {}; nodes without an agent {}; containers not reported by a node {}, unknown to the API server {}\n",
            number("/kubernetes/workloads"),
            number("/kubernetes/pods"),
            number("/nodes/without_agent"),
            number("/kubernetes/untold"),
            number("/kubernetes/strays")
        ));
        if status.pointer("/kubernetes/synced").and_then(Value::as_bool) == Some(false) {
            out.push_str("the first list of the API server's objects is not complete yet\n");
        }
    }
    if let Some(ports) = status.pointer("/offline/ports").and_then(Value::as_array) {
        let ports: Vec<String> = ports.iter().map(cell).collect();
        out.push_str(&match status.pointer("/offline/enforced").and_then(Value::as_bool) {
            Some(true) => format!("offline: the kernel refuses TCP connections except to ports {}\n", ports.join(", ")),
            _ => "offline: this kernel cannot refuse connections; Linux 6.7 or later is required\n".to_owned(),
        });
    }
    if let Some(error) = status["store_error"].as_str() {
        out.push_str(&format!("NO INVENTORIES ARE ACCEPTED: {}\n", escape(error)));
    }
    out.push('\n');
    let mut section = |heads: &[&'static str], rows: Vec<Vec<String>>, none: &str| {
        if rows.is_empty() {
            out.push_str(none);
        } else {
            out.push_str(&table(heads, &rows));
        }
        out.push('\n');
    };
    let mut coverage = rows(&status["coverage"], &["/state", "/containers"]);
    coverage.retain(|row| row.get(1).is_some_and(|count| count != "0"));
    section(&["COVERAGE", "CONTAINERS"], coverage, "no containers\n");
    let reasons = rows(&status["reasons"], &["/containers", "/state", "/reason"]);
    if !reasons.is_empty() {
        section(&["CONTAINERS", "COVERAGE", "REASON"], reasons, "");
    }
    let assessed = rows(&status["assessed"], &["/ecosystem", "/state", "/containers", "/reason"]);
    section(
        &["ECOSYSTEM", "ASSESSED", "CONTAINERS", "REASON"],
        assessed,
        "nothing is assessed: no advisory database, or no container is scanned\n",
    );
    // Most severe first, as in every list.
    let findings = RANKS.iter().filter_map(|rank| {
        let count = status["findings"].get(rank)?;
        Some(vec![(*rank).to_owned(), cell(count)])
    });
    section(&["SEVERITY", "FINDINGS"], findings.collect(), "no findings in the assessed ecosystems\n");
    out.push_str(&format!(
        "findings withheld {}; layers: known {}, leased {}, waiting {}, failed {}, disputed {}, outdated {}\n",
        number("/withheld"),
        number("/layers/known"),
        number("/layers/leased"),
        number("/layers/waiting"),
        number("/layers/failed"),
        number("/layers/disputed"),
        number("/layers/outdated")
    ));
    if let Some(seconds) = status["oldest_unscanned_seconds"].as_u64() {
        out.push_str(&format!("oldest pending container: {seconds} s\n"));
    }
    out.push_str(&format!(
        "containers since the start: seen {}, ended before a layer was read {}\n",
        number("/lifetimes/seen"),
        number("/lifetimes/gone_before_reading")
    ));
    out.push_str(&database(status));
    out
}

/// Formats the part of the status that describes the advisory database.
fn database(status: &Value) -> String {
    let text = |pointer: &str| escape(&status.pointer(pointer).map(cell).unwrap_or_default()).into_owned();
    let mut out = String::new();
    if status["database"].is_null() {
        out.push_str("no advisory database; run outcrop db push FILE, or start the aggregator with --db FILE\n");
    } else {
        let signed = match status["database"]["signed_by"].as_str() {
            Some(key) => format!("signed by {}", escape(key)),
            None => "not signed".to_owned(),
        };
        let (digest, by, at) = (text("/database/digest"), text("/database/brought_by"), text("/database/brought_at"));
        out.push_str(&format!("advisory database {digest}, from {by} at {at}, {signed}\n"));
        let all = rows(&status["database"]["sources"], &["/ecosystem", "/records", "/newest", "/age_days"]);
        let assessed = rows(&status["assessed"], &["/ecosystem"]);
        // A database may cover every distribution; list only the ecosystems in use.
        let is_used = |source: &Vec<String>| assessed.iter().any(|assessed| assessed.first() == source.first());
        let (used, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_used);
        if !used.is_empty() {
            out.push_str(&format!("\n{}", table(&["SOURCE", "RECORDS", "NEWEST", "AGE DAYS"], &used)));
        }
        if !others.is_empty() {
            out.push_str(&format!(
                "and {} sources of ecosystems that are not in use; --output json lists all\n",
                others.len()
            ));
        }
    }
    // Those of the store and of the database have lines of their own.
    let problems = status["problems"].as_array().into_iter().flatten();
    for problem in problems.filter(|problem| problem["kind"] != "store" && problem["kind"] != "database") {
        out.push_str(&format!("problem: {}\n", escape(problem["message"].as_str().unwrap_or_default())));
    }
    if let Some(error) = status["database_error"].as_str() {
        out.push_str(&format!("the last offered advisory database was refused: {}\n", escape(error)));
    }
    if let Some(rematch) = rematch(&status["rematch"]) {
        out.push_str(&format!("last rematch {}: {rematch}\n", text("/rematch/at")));
    }
    out
}

/// Formats the changes of a rematch: `+N −M findings, T s, 0 nodes rescanned`.
pub(super) fn rematch(rematch: &Value) -> Option<String> {
    let number = |name: &str| rematch[name].as_u64().unwrap_or(0);
    rematch.is_object().then(|| {
        format!(
            "+{} −{} findings, {:.1} s, {} nodes rescanned",
            number("appeared"),
            number("went"),
            rematch["seconds"].as_f64().unwrap_or(0.0),
            number("nodes_rescanned")
        )
    })
}

const HAS: &[Column] = &[
    column("NODE", "/container/node"),
    column("NAMESPACE", "/container/namespace"),
    column("CONTAINER", "/container/name"),
    column("IMAGE", "/container/image"),
    column("PACKAGE", "/package"),
    column("VERSION", "/version"),
    column("EVIDENCE", "/evidence"),
    column("LAYER", "/layer"),
    wide("POD", "/container/pod"),
    wide("PURL", "/purl"),
    wide("STACK", "/container/stack"),
    wide("RUNTIME", "/container/runtime"),
    wide("RUNTIME NAMESPACE", "/container/runtime_namespace"),
    wide("ID", "/container/id"),
];

pub(super) fn who_has(arguments: &WhoHasArguments) -> Result<Exit, Fatal> {
    arguments.listing.check()?;
    let client = arguments.server.connect()?;
    let query = vec![("q".to_owned(), arguments.question.clone())];
    let count = arguments.listing.write(&client, "/api/v1/who-has", query, HAS, arguments.output)?;
    if count == 0 {
        let unread = unread(&client.get("/api/v1/status", &[])?);
        output::note(arguments.output, &format!("no matches: {unread}"))?;
    }
    Ok(Exit::Done)
}

/// Describes the containers that an empty result does not cover.
fn unread(status: &Value) -> String {
    let mut parts = Vec::new();
    for count in status["coverage"].as_array().into_iter().flatten() {
        let state = count["state"].as_str().unwrap_or_default();
        let containers = count["containers"].as_u64().unwrap_or(0);
        if state != "scanned" && containers > 0 {
            parts.push(format!("{containers} {state}"));
        }
    }
    let all = status["containers"].as_u64().unwrap_or(0);
    match (all, parts.is_empty()) {
        (0, _) => "no containers are known; see outcrop status".to_owned(),
        (_, true) => format!("all {all} containers are scanned; outcrop status shows what is not matched"),
        (_, false) => format!(
            "{} of {all} containers are not completely scanned; outcrop status shows the reasons",
            parts.join(", ")
        ),
    }
}
