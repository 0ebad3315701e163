//! The roof of a node: follows what runs here, and reads for the aggregator what it asks for.
//!
//! Three roles. This process is the `reader`: it sees storage and speaks to the aggregator. Its child `runtime` holds
//! containerd's socket and sees no storage. Each job is done by a `worker`, which sees one layer and speaks to nobody.

mod node;
mod uplink;

use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::runtime;
use crate::worker::{CageError, enter_reader_cage, hide_memory};
use node::Node;
use uplink::Uplink;

/// What the operator chose.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the aggregator is: `https://HOST:PORT`, or `http://` on loopback.
    pub aggregator: String,
    /// The certificate authority of the aggregator's certificate, PEM.
    pub ca: Option<PathBuf>,
    /// The cluster that this node belongs to.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// A file with this node's token.
    pub token: PathBuf,
    /// containerd's socket; without it the usual places are tried.
    pub containerd: Option<PathBuf>,
    /// Where the host's root is seen.
    pub host: PathBuf,
    /// How often containerd is asked what runs.
    pub interval: Duration,
}

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file that the operator named.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is the matter.
        source: std::io::Error,
    },
    /// The aggregator's address.
    #[error("{address:?} is no address of an aggregator: {reason}")]
    Address {
        /// As it was given.
        address: String,
        /// What is the matter.
        reason: String,
    },
    /// The process that holds containerd's socket.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// Rights could not be given up.
    #[error("giving up rights: {0}")]
    Cage(#[from] CageError),
    /// The operating system refused a thread.
    #[error("starting: {0}")]
    Start(#[source] std::io::Error),
}

/// Runs the agent; returns only when its way to the aggregator has ended for good.
///
/// # Errors
/// When it cannot start.
pub fn run(config: Config) -> Result<(), AgentError> {
    hide_memory()?;
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|source| AgentError::File { path: path.clone(), source })
    };
    let token = read(&config.token)?.trim().to_owned();
    let endpoint = endpoint(&config.aggregator, config.ca.as_ref().map(read).transpose()?)?;
    // Its child goes its own way before this process gives up what only the child needs.
    let node = Node::start(&config)?;
    enter_reader_cage()?;
    let (commands, inbox) = node::commands().map_err(AgentError::Start)?;
    let uplink = Uplink { endpoint, token, cluster: config.cluster, node: config.node, commands };
    let thread = std::thread::Builder::new().name("uplink".to_owned());
    thread.spawn(move || uplink.run()).map_err(AgentError::Start)?;
    node.run(&inbox, config.interval);
    Ok(())
}

/// A line for the log.
fn say(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "outcrop-agent: {line}");
}

fn endpoint(address: &str, ca: Option<String>) -> Result<Endpoint, AgentError> {
    let wrong = |reason: String| AgentError::Address { address: address.to_owned(), reason };
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| wrong(error.to_string()))?;
    let host = endpoint.uri().host().unwrap_or_default().to_owned();
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    match (endpoint.uri().scheme_str(), ca) {
        (Some("https"), ca) => {
            let tls = ClientTlsConfig::new();
            let tls = match ca {
                Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
                None => return Err(wrong("https needs the authority of its certificate: --ca FILE".to_owned())),
            };
            endpoint.tls_config(tls).map_err(|error| wrong(error.to_string()))
        }
        (Some("http"), _) if matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]") => Ok(endpoint),
        (Some("http"), _) => {
            Err(wrong("http is for loopback only; elsewhere the token could be read on its way".to_owned()))
        }
        _ => Err(wrong("it has to begin with https://".to_owned())),
    }
}
