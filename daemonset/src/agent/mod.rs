//! The roof of a node: follows what runs here, and reads for the aggregator what it asks for.
//!
//! Three roles. This process is the `reader`: it sees storage and speaks to the aggregator. `runtime`, its child or another
//! container of its pod, holds containerd's socket and sees no storage. Each job is done by a `worker`, which sees one layer
//! and speaks to nobody.

mod containers;
mod filter;
mod metrics;
mod node;
mod queue;
mod reading;
mod uplink;

use std::path::{Path, PathBuf};
use std::time::Duration;

use outcrop_proto::wire::v1;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::catalog;
use crate::role;
use crate::runtime::{self, Sibling};
use crate::scan::{Places, StackReader};
use crate::worker::{Cage, CageError, Landlock, Manner, Program, WorkerError, enter_reader_cage, hide_memory};
use containers::Containers;
pub use filter::Filter;
use metrics::Measures;
use node::{Command, Commands, Node};
use uplink::Uplink;

/// What the operator chose.
#[derive(Clone, Debug)]
pub struct Config {
    /// The aggregator.
    pub aggregator: Aggregator,
    /// The cluster that this node belongs to.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// Where the process is that holds containerd's socket.
    pub runtime: Runtime,
    /// Where the host's root is seen.
    pub host: PathBuf,
    /// How often containerd is asked what runs, at least.
    pub interval: Duration,
    /// Which containers are looked into.
    pub filter: Filter,
    /// How many layers are read at once.
    pub scan_threads: usize,
    /// How they are read.
    pub manner: Manner,
    /// Whether the texts of images' histories are told.
    pub history_text: bool,
    /// Whether to refuse to start where the cage is weaker than it could be.
    pub require_cage: bool,
}

/// Where the process is that holds containerd's socket.
#[derive(Clone, Debug)]
pub enum Runtime {
    /// A child of this one, with containerd's socket; without it the usual places are tried.
    Child(Option<PathBuf>),
    /// It listens at this socket.
    Joined(PathBuf),
}

/// The aggregator, and what it takes to speak to it.
#[derive(Clone, Debug)]
pub struct Aggregator {
    /// Where it is: `https://HOST:PORT`, or `http://` on loopback.
    pub address: String,
    /// The certificate authority of its certificate, PEM.
    pub ca: Option<PathBuf>,
    /// A file with this node's token.
    pub token: PathBuf,
}

/// Why the agent could not start, or ended.
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
    #[error("invalid aggregator address {address:?}: {reason}")]
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
    #[error("dropping rights: {0}")]
    Cage(#[from] CageError),
    /// No worker can be started.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The cage is weaker than the operator wants it.
    #[error(
        "the sandbox is \"{0}\" but --require-cage requires the complete one: {why}, or start without --require-cage; outcrop-agent selftest shows the possible actions",
        why = why(*.0)
    )]
    WeakCage(Cage),
    /// The operating system refused a thread.
    #[error("starting: {0}")]
    Start(#[source] std::io::Error),
    /// The way to the aggregator has ended for good.
    #[error("the uplink thread ended unexpectedly; please report this")]
    Ended,
}

fn why(cage: Cage) -> &'static str {
    match cage.landlock {
        Landlock::Missing => {
            "this kernel has no Landlock; use Linux 6.12 or later with landlock in the kernel parameter lsm="
        }
        _ => "the Landlock of this kernel lacks some rights; use Linux 6.12 or later",
    }
}

/// Runs the agent. Returns only when it cannot go on.
///
/// # Errors
/// When it cannot start, and when the process that holds containerd's socket is lost.
pub fn run(config: Config) -> Result<(), AgentError> {
    hide_memory()?;
    // What is unusable is said before anything is started.
    config.aggregator.token()?;
    config.aggregator.endpoint()?;
    let program = Program::this().with(config.manner);
    // Rights go after what needs them: a socket for the sibling. A child goes its own way before.
    let mut sibling = match &config.runtime {
        Runtime::Child(socket) => Sibling::spawn(role::runtime_command(&program, socket.as_deref()))?,
        Runtime::Joined(socket) => Sibling::over(runtime::connect(socket)?)?,
    };
    let cage = enter_reader_cage()?;
    let worker = program.started()?;
    let cage = cage.weaker(worker.cage).weaker(Cage::from_words(sibling.cage()));
    if config.require_cage && cage.landlock != Landlock::Full {
        return Err(AgentError::WeakCage(cage));
    }
    // Before anything is listed, so that nothing falls between.
    sibling.watch()?;

    let (commands, inbox) = node::commands().map_err(AgentError::Start)?;
    let reader = StackReader::new(program.clone());
    let tasks = reading::start(config.scan_threads, &reader, &commands).map_err(AgentError::Start)?;
    let hello = v1::Hello {
        node: config.node,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        cataloguers: catalog::VERSION,
        cage: cage.to_string(),
        marks: worker.marks,
    };
    let ending = Ending(commands.clone());
    let uplink = Uplink { aggregator: config.aggregator, cluster: config.cluster, hello, commands };
    let thread = std::thread::Builder::new().name("uplink".to_owned());
    let speak = move || {
        let _ending = ending;
        uplink.run();
    };
    thread.spawn(speak).map_err(AgentError::Start)?;

    let places = Places::new(program.clone()).with_history_texts(config.history_text);
    let containers = Containers::new(&config.host, config.filter, places);
    Node::new(sibling, containers, config.interval, tasks, Measures::new(program)).run(&inbox)?;
    Err(AgentError::Ended)
}

/// Tells the node when the thread that has it ends, however it ends.
struct Ending(Commands);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.send(Command::Ended);
    }
}

/// A line for the log.
fn say(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "outcrop-agent: {line}");
}

impl Aggregator {
    pub(crate) fn token(&self) -> Result<String, AgentError> {
        Ok(read(&self.token)?.trim().to_owned())
    }

    pub(crate) fn endpoint(&self) -> Result<Endpoint, AgentError> {
        let wrong = |reason: String| AgentError::Address { address: self.address.clone(), reason };
        let endpoint = Endpoint::from_shared(self.address.clone()).map_err(|error| wrong(error.to_string()))?;
        let host = endpoint.uri().host().unwrap_or_default().to_owned();
        let endpoint = endpoint
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        match (endpoint.uri().scheme_str(), &self.ca) {
            (Some("https"), Some(ca)) => {
                let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
                endpoint.tls_config(tls).map_err(|error| wrong(error.to_string()))
            }
            (Some("https"), None) => Err(wrong("https requires the CA certificate; pass --ca FILE".to_owned())),
            (Some("http"), _) if matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]") => Ok(endpoint),
            (Some("http"), _) => {
                Err(wrong("http is allowed on loopback only, because it exposes the token; use https".to_owned()))
            }
            _ => Err(wrong("expected https://HOST:PORT".to_owned())),
        }
    }
}

fn read(path: &Path) -> Result<String, AgentError> {
    std::fs::read_to_string(path).map_err(|source| AgentError::File { path: path.to_owned(), source })
}
