//! `outcrop node`: distrusts a node, or trusts it again.

use clap::Subcommand;

use super::client::{Server, segment};
use super::text::escape;
use super::{Exit, Fatal, print};
use crate::web::Requeued;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Distrust a node: discard its inventories and let other nodes read its layers again
    Distrust(Node),
    /// Trust a node again
    Trust(Node),
}

#[derive(Debug, clap::Args)]
struct Node {
    /// Name of the node
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
    let headers = [("Content-Type", "application/json")];
    let requeued: Requeued = node.server.connect()?.post(&path, &[], &headers, "{}")?;
    let again = match (&arguments.command, requeued.layers) {
        (Command::Trust(_), _) => String::new(),
        (Command::Distrust(_), 1) => ": 1 layer is read again as soon as another node has it".to_owned(),
        (Command::Distrust(_), layers) => format!(": {layers} layers are read again as soon as other nodes have them"),
    };
    print(&format!("{} {done}{again}\n", escape(&node.name)))?;
    Ok(Exit::Done)
}
