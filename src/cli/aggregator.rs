//! `outcrop aggregator`.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Exit, Fatal};
use crate::aggregator::Config;

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
