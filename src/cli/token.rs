//! `outcrop token`.

use std::path::PathBuf;

use super::{Exit, Fatal, print};
use crate::aggregator::make_token;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TokenCommand {
    /// Make a token for a node, and print it: it is nowhere else
    New {
        /// The node's name
        node: String,
        /// The file that the aggregator reads
        #[arg(long, value_name = "FILE")]
        tokens: PathBuf,
    },
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Fatal> {
    let TokenCommand::New { node, tokens } = arguments.command;
    let token = make_token(&tokens, &node).map_err(|error| Fatal::failed(error.to_string()))?;
    print(&format!("{token}\n"))?;
    Ok(Exit::Done)
}
