//! `outcrop deliver`: targets of deliveries, and deliveries that wait or were refused.

use clap::{Subcommand, ValueEnum};

use super::client::{Client, Server, segment};
use super::columns;
use super::listing::Listing;
use super::output::{self, Cell as _, Format};
use super::text::escape;
use super::{Exit, Fatal, print};
use crate::web::{DeliveryChanged, DeliveryDetail, TargetTest};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  outcrop deliver list
  outcrop deliver list deliveries --state refused
  outcrop deliver show 17
  outcrop deliver test central")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List targets, or deliveries that wait or were refused
    List(List),
    /// Show a delivery and its content
    Show(Show),
    /// Send a refused delivery again
    Replay(Delivery),
    /// Remove a refused delivery
    Drop(Delivery),
    /// Send a marked sample to a target, and show its answer
    Test(Target),
    /// Send everything to a target again
    Resync(Target),
}

/// Kinds of objects that can be listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Targets, and what waits for each
    #[default]
    #[value(aliases = ["target"])]
    Targets,
    /// Deliveries that wait or were refused
    #[value(aliases = ["delivery"])]
    Deliveries,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Kind of objects
    #[arg(value_enum, default_value = "targets")]
    kind: Kind,

    /// Select deliveries by target
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,

    /// Select by state: ok, snapshot, retrying, failing of targets; waiting, refused of deliveries
    #[arg(long, value_name = "STATE")]
    state: Option<String>,

    /// Output format
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,

    #[command(flatten)]
    listing: Listing,

    #[command(flatten)]
    server: Server,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// Number of the delivery
    id: i64,

    #[command(flatten)]
    server: Server,
}

#[derive(Debug, clap::Args)]
struct Delivery {
    /// Number of the delivery
    id: i64,

    #[command(flatten)]
    server: Server,
}

#[derive(Debug, clap::Args)]
struct Target {
    /// Name of the target
    name: String,

    #[command(flatten)]
    server: Server,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Fatal> {
    match &arguments.command {
        Command::List(arguments) => list(arguments),
        Command::Show(arguments) => show(arguments),
        Command::Replay(arguments) => settle(arguments, "replay", "sent again"),
        Command::Drop(arguments) => settle(arguments, "drop", "removed"),
        Command::Test(arguments) => test(arguments),
        Command::Resync(arguments) => resync(arguments),
    }
}

fn list(List { kind, target, state, output, listing, server }: &List) -> Result<Exit, Fatal> {
    listing.check()?;
    let client = server.connect()?;
    let filter = |name: &str, value: &Option<String>| value.clone().map(|value| (name.to_owned(), value));
    let count = match kind {
        Kind::Targets => {
            let query = [filter("name", target), filter("state", state)].into_iter().flatten().collect();
            listing.write(&client, "/api/v1/targets", query, columns::TARGETS, *output)?
        }
        Kind::Deliveries => {
            let query = [filter("target", target), filter("state", state)].into_iter().flatten().collect();
            listing.write(&client, "/api/v1/deliveries", query, columns::DELIVERIES, *output)?
        }
    };
    if count == 0 {
        output::remark(match kind {
            Kind::Targets => "no targets found; the aggregator's flag --deliver names the file that configures them",
            Kind::Deliveries => "no deliveries found: none waits, and none was refused",
        });
    }
    Ok(Exit::Done)
}

fn show(Show { id, server }: &Show) -> Result<Exit, Fatal> {
    let DeliveryDetail { delivery, content, truncated } =
        server.connect()?.get(&format!("/api/v1/deliveries/{id}"), &[])?;
    let mut out = String::new();
    for (name, value) in [
        ("Delivery", delivery.id.cell()),
        ("Target", delivery.target.cell()),
        ("State", delivery.state.cell()),
        ("Reason", delivery.reason.cell()),
        ("Refused", delivery.refused_at.cell()),
        ("Made", delivery.made_at.cell()),
        ("Key", delivery.key.cell()),
        ("Records", delivery.records.cell()),
        ("Bytes", delivery.bytes.cell()),
    ] {
        if !value.is_empty() {
            out.push_str(&format!("{:<10}{}\n", format!("{name}:"), escape(&value)));
        }
    }
    out.push('\n');
    for line in content.lines() {
        out.push_str(&escape(line));
        out.push('\n');
    }
    print(&out)?;
    if truncated {
        output::remark("the content is longer");
    }
    Ok(Exit::Done)
}

/// Posts a change without content.
fn post<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Result<T, Fatal> {
    client.post(path, &[], &[("Content-Type", "application/json")], "{}")
}

fn settle(Delivery { id, server }: &Delivery, act: &str, done: &str) -> Result<Exit, Fatal> {
    let changed: DeliveryChanged = post(&server.connect()?, &format!("/api/v1/deliveries/{id}/{act}"))?;
    print(&format!("delivery {id} for {} {done}\n", escape(&changed.target)))?;
    Ok(Exit::Done)
}

fn resync(Target { name, server }: &Target) -> Result<Exit, Fatal> {
    let changed: DeliveryChanged = post(&server.connect()?, &format!("/api/v1/targets/{}/resync", segment(name)))?;
    print(&format!("{} gets everything again\n", escape(&changed.target)))?;
    Ok(Exit::Done)
}

fn test(Target { name, server }: &Target) -> Result<Exit, Fatal> {
    let tested: TargetTest = post(&server.connect()?, &format!("/api/v1/targets/{}/test", segment(name)))?;
    let TargetTest { target, accepted, status, answer, milliseconds } = tested;
    let status = status.map(|status| format!(" with status {status}")).unwrap_or_default();
    if !accepted {
        let reason = escape(&answer).into_owned();
        return Err(Fatal::failed(format!("{target} did not accept the sample after {milliseconds} ms: {reason}")));
    }
    let mut out = format!("{} accepted the sample{status} after {milliseconds} ms\n", escape(&target));
    if !answer.is_empty() {
        out.push_str(&format!("{}\n", escape(&answer)));
    }
    print(&out)?;
    Ok(Exit::Done)
}
