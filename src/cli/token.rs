//! `outcrop token`.

use std::path::PathBuf;

use super::{Exit, Fatal, print};
use crate::aggregator::make_token;
use crate::web::{Right, make_api_token};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TokenCommand {
    /// Make a token for a node, or for a caller of the API, and print it: it is nowhere else
    New {
        /// The node's name
        #[arg(required_unless_present = "api", conflicts_with = "api")]
        node: Option<String>,
        /// The name of a caller of the API
        #[arg(long, value_name = "NAME")]
        api: Option<String>,
        /// What the caller may do: read, push-database, manage-nodes
        #[arg(
            long,
            value_name = "RIGHT",
            value_delimiter = ',',
            default_value = "read",
            requires = "api",
            conflicts_with = "node"
        )]
        rights: Vec<Right>,
        /// The namespaces that the caller may see into; without it all, and what has none
        #[arg(long, value_name = "NAMESPACE", value_delimiter = ',', requires = "api", conflicts_with = "node")]
        namespaces: Vec<String>,
        /// The file that the aggregator reads
        #[arg(long, value_name = "FILE")]
        tokens: PathBuf,
    },
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Fatal> {
    let TokenCommand::New { node, api, rights, namespaces, tokens } = arguments.command;
    let token = match api {
        Some(name) => make_api_token(&tokens, &name, &rights, &namespaces).map_err(|error| error.to_string()),
        None => make_token(&tokens, &node.unwrap_or_default()).map_err(|error| error.to_string()),
    };
    print(&format!("{}\n", token.map_err(Fatal::failed)?))?;
    Ok(Exit::Done)
}
