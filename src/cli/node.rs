//! `outcrop node`: whose word counts.

use clap::Subcommand;

use super::client::{Server, segment};
use super::text::escape;
use super::{Exit, Fatal, print};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Believe a node no more: what it read is discarded, and read again by others
    Distrust(Node),
    /// Believe a node again
    Trust(Node),
}

#[derive(Debug, clap::Args)]
struct Node {
    /// The node
    name: String,

    #[command(flatten)]
    server: Server,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Fatal> {
    let (node, act, done) = match &arguments.command {
        Command::Distrust(node) => (node, "distrust", "distrusted"),
        Command::Trust(node) => (node, "trust", "trusted"),
    };
    let path = format!("/api/v1/nodes/{}/{act}", segment(&node.name));
    let answer = node.server.connect()?.post(&path, &[], &[("Content-Type", "application/json")], "{}")?;
    let layers = answer["layers"].as_u64().unwrap_or(0);
    print(&format!("{} {done}: {layers} layers have to be read again\n", escape(&node.name)))?;
    Ok(Exit::Done)
}
