//! `outcrop token`: creates tokens for nodes and for users of the API.

use std::path::PathBuf;

use super::{Exit, Fatal, output, print};
use crate::aggregator::make_token;
use crate::private::restrict_output;
use crate::token;
use crate::web::{Right, make_api_token};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TokenCommand {
    /// Create a token for a node or for an API user and print it; only its hash is stored, in the file of --tokens. If standard output is a file, only its owner can read it afterwards
    #[command(after_help = "Examples:
  outcrop token new node-1 --tokens tokens > node-1.token
  outcrop token new --api operator --rights read,push-database --tokens api-tokens > operator.token
  outcrop token new --api team --namespaces shop,bank --tokens api-tokens > team.token")]
    New {
        /// Name of the node
        #[arg(required_unless_present = "api", conflicts_with = "api")]
        node: Option<String>,
        /// Name of the API user
        #[arg(long, value_name = "NAME")]
        api: Option<String>,
        /// Rights of the API user, comma-separated: read, push-database, manage-nodes, manage-deliveries
        #[arg(
            long,
            value_name = "RIGHT",
            value_delimiter = ',',
            default_value = "read",
            requires = "api",
            conflicts_with = "node"
        )]
        rights: Vec<Right>,
        /// Namespaces that the API user may see, comma-separated; default: all namespaces and everything outside of namespaces
        #[arg(long, value_name = "NAMESPACE", value_delimiter = ',', requires = "api", conflicts_with = "node")]
        namespaces: Vec<String>,
        /// File to append to: the one that the aggregator reads with --tokens or --api-tokens
        #[arg(long, value_name = "FILE")]
        tokens: PathBuf,
    },
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Fatal> {
    let TokenCommand::New { node, api, rights, namespaces, tokens } = arguments.command;
    let name = api.as_ref().or(node.as_ref()).cloned().unwrap_or_default();
    let made = match api {
        Some(name) => make_api_token(&tokens, &name, &rights, &namespaces).map_err(|error| error.to_string()),
        None => make_token(&tokens, &name).map_err(|error| error.to_string()),
    };
    let made = made.map_err(Fatal::failed)?;
    restrict_output();
    print(&format!("{made}\n"))?;
    let count = token::count(&tokens, &name);
    if count > 1 {
        let file = tokens.display();
        output::remark(&format!("{name} has {count} tokens in {file}; each is valid until its line is removed"));
    }
    Ok(Exit::Done)
}
