//! `outcrop aggregator` and `outcrop token`.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Exit, Fatal, print};
use crate::aggregator::{Config, make_token};
use crate::web::{Right, make_api_token};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The cluster that it is for; agents of others are refused
    #[arg(long, value_name = "NAME", default_value = "default")]
    cluster: String,

    /// Where it keeps what it knows; a local disk
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// The advisory database, as outcrop db build makes it; one that is put in its place is taken at once
    #[arg(long, value_name = "FILE", env = "OUTCROP_DB")]
    db: Option<PathBuf>,

    /// The file of nodes and hashes of their tokens, as outcrop token new makes it
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,

    /// Where agents are listened to
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7443")]
    listen: SocketAddr,

    /// Where questions are answered; loopback only
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7480")]
    api: SocketAddr,

    /// Certificate chain for agents, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Speak to agents in the clear; loopback only
    #[arg(long, conflicts_with = "tls_cert")]
    insecure: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Fatal> {
    let tls = arguments.tls_cert.zip(arguments.tls_key);
    if tls.is_none() && !arguments.insecure {
        return Err(Fatal::usage(
            "agents are spoken to over TLS: --tls-cert FILE --tls-key FILE, or --insecure on loopback",
        ));
    }
    if arguments.insecure && !arguments.listen.ip().is_loopback() {
        return Err(Fatal::usage(format!("--insecure is for loopback only, and {} is not", arguments.listen)));
    }
    if !arguments.api.ip().is_loopback() {
        return Err(Fatal::usage(format!(
            "--api is for loopback only, since it asks nobody who they are, and {} is not",
            arguments.api
        )));
    }
    let config = Config {
        cluster: arguments.cluster,
        data: arguments.data,
        database: arguments.db,
        tokens: arguments.tokens,
        listen: arguments.listen,
        api: arguments.api,
        tls,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Fatal::failed(format!("starting: {error}")))?;
    // A signal ends it as it ends any program: what was acknowledged is on the disk.
    runtime.block_on(crate::aggregator::run(config)).map_err(|error| Fatal::failed(error.to_string()))?;
    Ok(Exit::Done)
}

#[derive(Debug, clap::Args)]
pub(super) struct TokenArguments {
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

pub(super) fn token(arguments: TokenArguments) -> Result<Exit, Fatal> {
    let TokenCommand::New { node, api, rights, namespaces, tokens } = arguments.command;
    let token = match api {
        Some(name) => make_api_token(&tokens, &name, &rights, &namespaces).map_err(|error| error.to_string()),
        None => make_token(&tokens, &node.unwrap_or_default()).map_err(|error| error.to_string()),
    };
    print(&format!("{}\n", token.map_err(Fatal::failed)?))?;
    Ok(Exit::Done)
}
