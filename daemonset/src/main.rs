//! `outcrop-agent`: what runs on a node.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use outcrop_agent::agent::{self, Config};

/// Follows what containerd runs on this node, and reads its layers for the aggregator.
#[derive(Debug, Parser)]
#[command(name = "outcrop-agent", version)]
struct Arguments {
    /// Where the aggregator is: https://HOST:PORT; http:// on loopback only
    #[arg(long, value_name = "URL", env = "OUTCROP_AGGREGATOR")]
    aggregator: String,

    /// The authority of the aggregator's certificate, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// The cluster that this node belongs to, as the aggregator calls it
    #[arg(long, value_name = "NAME", default_value = "default")]
    cluster: String,

    /// This node's name, as its token was made for
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: String,

    /// A file with this node's token, as outcrop token new prints it
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,

    /// containerd's socket; without it the usual places are tried
    #[arg(long, value_name = "SOCKET")]
    containerd: Option<PathBuf>,

    /// Where the host's root is seen
    #[arg(long, value_name = "DIR", default_value = "/")]
    host: PathBuf,

    /// Seconds after which containerd is asked what runs, also when it told of no change
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

fn main() -> ExitCode {
    // A worker is this program, started again: nothing may happen before it is told apart.
    if let Some(code) = outcrop_agent::role::enter() {
        return code;
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    let outcome = agent::run(Config {
        aggregator: arguments.aggregator,
        ca: arguments.ca,
        cluster: arguments.cluster,
        node: arguments.node,
        token: arguments.token_file,
        containerd: arguments.containerd,
        host: arguments.host,
        interval: Duration::from_secs(arguments.interval),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "outcrop-agent: {error}");
            ExitCode::FAILURE
        }
    }
}
