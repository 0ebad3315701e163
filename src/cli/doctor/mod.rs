//! `outcrop doctor`: reports problems with their fixes, and writes a support archive without secrets.
//!
//! The checks cover this machine as a node (by the agent's library), the API server and Outcrop's objects in it, the connection to the
//! aggregator, and the status of the aggregator and its nodes. All access is read-only; pure functions evaluate the results.

mod answers;
mod bundle;
mod certificate;
mod cluster;
mod objects;
mod preflight;
mod redact;

use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use outcrop_agent::doctor::{Check, Outcome, Subject, examine, failed, judge_clock, skew};
use outcrop_proto::clock;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use self::bundle::Bundle;
use self::cluster::Found;
use super::client::{Client, HERE, Server};
use super::output;
use super::table::table;
use super::{Exit, Fatal, print};
use crate::web::{NodeItem, Status};

/// Maximum number of nodes in a support archive.
const MAX_NODES: usize = 5_000;

/// Output format of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Table
    Table,
    /// JSON
    Json,
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Check this machine as a node: containerd's socket, storage, rights and sandbox; the default if neither a cluster nor --server is given, and an aggregator on this machine is then checked as well
    #[arg(long)]
    node: bool,

    /// Check the kubeconfig's cluster before Outcrop is installed: its version, your permissions, the Pod Security level of the namespace of --outcrop-namespace (default: outcrop), the default StorageClass, the nodes' runtimes
    #[arg(long, conflicts_with_all = ["node", "bundle", "server"])]
    preflight: bool,

    /// Path of containerd's socket, with --node; default: the first existing socket of the common locations
    #[arg(long, value_name = "SOCKET", env = "OUTCROP_CONTAINERD")]
    containerd: Option<PathBuf>,

    /// Directory where the host's root is mounted, with --node; default: /
    #[arg(long, value_name = "DIR", env = "OUTCROP_HOST")]
    host: Option<PathBuf>,

    /// Age in days of the newest record above which a source of the advisory database is reported
    #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = days)]
    max_age: i64,

    /// Path of a support archive to write: checks, status, nodes, Outcrop's own objects, events and logs, without secrets
    #[arg(long, value_name = "FILE.tar.gz")]
    bundle: Option<PathBuf>,

    /// Output format
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,

    #[command(flatten)]
    server: Server,
}

/// Parses a number of days.
fn days(text: &str) -> Result<i64, &'static str> {
    let days = text.parse().ok().filter(|days| (0..=3650).contains(days));
    days.ok_or("expected a number of days from 0 to 3650")
}

/// Responses of the aggregator.
#[derive(Debug, Default)]
struct Answers {
    status: Option<Status>,
    nodes: Vec<NodeItem>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Fatal> {
    let mut bundle = Bundle::default();
    let mut checks = Vec::new();
    let (somewhere, cluster) = (arguments.server.is_named(), arguments.server.cluster());
    if arguments.preflight {
        let cluster = cluster.ok_or_else(|| Fatal::usage("--preflight requires a cluster: pass --kubeconfig FILE"))?;
        let checks = runtime()?.block_on(preflight::look(cluster));
        report(arguments.output, &document(&checks), &checks)?;
        return Ok(if failed(&checks) > 0 { Exit::Failed } else { Exit::Done });
    }
    if arguments.node || (!somewhere && cluster.is_none()) {
        let subject =
            Subject { containerd: arguments.containerd.clone(), host: arguments.host.clone(), ..Subject::default() };
        checks.extend(examine(&subject));
    }
    let mut found = None;
    let runtime = runtime()?;
    if let Some(cluster) = cluster.filter(|_| !arguments.node) {
        let mut of = runtime.block_on(cluster::look(cluster, !arguments.server.has_token()));
        checks.append(&mut of.checks);
        found = Some(of);
    }
    let mut answers = Answers::default();
    // The tunnel to the aggregator goes through the API server.
    let is_reachable = found.as_ref().is_none_or(|found| found.objects.is_some());
    // Without a flag or a cluster, other commands connect to the aggregator on this machine: so does this one, if there is one.
    let is_asked = if somewhere { is_reachable } else { cluster.is_none() && is_local_aggregator() };
    if is_asked && !arguments.node {
        checks.extend(ask(arguments, found.as_ref(), &mut answers));
    } else if !somewhere && cluster.is_none() && !arguments.node {
        checks.push(Check::skipped(
            "API",
            format!("nothing listens at {HERE}; pass --server URL to check an aggregator"),
        ));
    }
    if !somewhere && cluster.is_some() && !arguments.node {
        let found = "this pod has no token for the API: run outcrop doctor with a kubeconfig, or pass --server, --ca and --token-file";
        checks.push(Check::skipped("API", found));
    }
    let failures = failed(&checks);
    let document = document(&checks);
    report(arguments.output, &document, &checks)?;
    if let Some(path) = &arguments.bundle {
        bundle.json("checks.json", &document);
        bundle.json(
            "versions.json",
            &json!({
                "outcrop": env!("CARGO_PKG_VERSION"),
                "aggregator": answers.status.as_ref().map(|status| status.version.as_str()),
                "kubernetes": found.as_ref().and_then(|found| found.version.clone()),
                "written": clock::timestamp().to_string(),
            }),
        );
        if let Some(status) = &answers.status {
            bundle.json("api/status.json", status);
            bundle.json("api/nodes.json", &answers.nodes);
        }
        if let Some(found) = &found {
            runtime.block_on(found.pack(&mut bundle));
        }
        let bytes = bundle
            .write(path)
            .map_err(|error| Fatal::failed(format!("writing the support archive {}: {error}", path.display())))?;
        let note = format!("wrote {} ({bytes} bytes); review it before you share it", path.display());
        output::remark(&note);
    }
    Ok(if failures > 0 { Exit::Failed } else { Exit::Done })
}

fn runtime() -> Result<Runtime, Fatal> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.map_err(|error| Fatal::failed(format!("starting the async runtime: {error}")))
}

fn warned(checks: &[Check]) -> usize {
    checks.iter().filter(|check| check.result == Outcome::Warn).count()
}

/// Returns the checks as a JSON document.
fn document(checks: &[Check]) -> Value {
    json!({ "checks": checks, "failed": failed(checks), "warned": warned(checks) })
}

/// Prints the checks.
fn report(format: Format, document: &Value, checks: &[Check]) -> Result<(), Fatal> {
    if format == Format::Json {
        return print(&output::json_document(document));
    }
    let row = |check: &Check| {
        vec![check.check.clone(), check.result.as_str().to_owned(), check.found.clone(), check.todo.clone()]
    };
    let rows: Vec<Vec<String>> = checks.iter().map(row).collect();
    print(&table(&["CHECK", "RESULT", "FOUND", "HINT"], &rows))?;
    print(&format!("\n{} of {} checks fail, {} warn\n", failed(checks), checks.len(), warned(checks)))
}

/// Checks the connection to the aggregator and its status.
fn ask(arguments: &Arguments, found: Option<&Found>, answers: &mut Answers) -> Vec<Check> {
    let client = match arguments.server.connect() {
        Ok(client) => client,
        Err(error) => {
            return vec![Check::fail(
                "connection to the API",
                error.message,
                "fix the failures above first, or connect directly with --server, --ca and --token-file",
            )];
        }
    };
    let mut checks = Vec::new();
    if client.base().starts_with("https://") {
        let agents = found.and_then(|found| found.objects.as_ref()?.agents_name());
        checks.extend(certificate::look(client.base(), &client.roots(), agents.as_deref()));
    }
    if let Some(skew) = client.date().and_then(|date| skew(&date, clock::machine())) {
        checks.push(judge_clock("clock", skew, "the aggregator's"));
    }
    let status: Status = match client.get("/api/v1/status", &[]) {
        Ok(status) => status,
        Err(error) => {
            let hint = match found {
                Some(_) => {
                    "use an account with the ClusterRole …-view and a token for the audience outcrop, or pass --token-file"
                }
                // The message has the hint.
                None => "",
            };
            checks.push(Check::fail("API", error.message, hint));
            return checks;
        }
    };
    checks.extend(answers::status(&status, env!("CARGO_PKG_VERSION"), arguments.max_age));
    match nodes(&client) {
        Ok(nodes) => {
            checks.extend(answers::nodes(&nodes, &status));
            answers.nodes = nodes;
        }
        Err(error) => checks.push(Check::skipped("nodes", error.message)),
    }
    answers.status = Some(status);
    checks
}

/// Returns whether something listens at the default address of an aggregator's API.
fn is_local_aggregator() -> bool {
    let address = HERE.rsplit('/').next().and_then(|address| address.parse().ok());
    address.is_some_and(|address| TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok())
}

fn nodes(client: &Client) -> Result<Vec<NodeItem>, Fatal> {
    let pages = client.pages("/api/v1/nodes", Vec::new(), Some(MAX_NODES));
    let pages: Result<Vec<Vec<NodeItem>>, Fatal> = pages.iter().collect();
    Ok(pages?.into_iter().flatten().collect())
}
