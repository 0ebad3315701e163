//! Composition root of a node: follows which containers run, and reads the layers that the aggregator leases to this node.
//!
//! There are three roles. This process is the `reader`: it sees storage and talks to the aggregator. `runtime`, its child or another
//! container of its pod, holds the runtime's socket and sees no storage. A `worker` per job sees one layer and talks to nobody.
//!
//! Threads of the reader: the main thread runs `node`, which decides everything and waits for nobody; `uplink` holds the
//! connection to the aggregator; `scan-N` wait for workers. A thread that ends unexpectedly ends the process.

mod containers;
mod filter;
mod metrics;
mod node;
mod problems;
mod queue;
mod reading;
mod uplink;

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outcrop_proto::wire::{self, v1};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::catalog;
use crate::logging::safe;
use crate::role::{self, Signals};
use crate::runtime::{self, Sibling};
use crate::scan::{Places, StackReader};
use crate::worker::{Cage, CageError, Landlock, Manner, Program, WorkerError, enter_reader_cage, hide_memory};
use containers::Containers;
pub use filter::Filter;
use metrics::Measures;
use node::{Command, Commands, Node};
use uplink::Uplink;

/// Configuration of the agent.
#[derive(Clone, Debug)]
pub struct Config {
    /// The aggregator.
    pub aggregator: Aggregator,
    /// The cluster that this node belongs to.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// The process that holds the runtime's socket.
    pub runtime: RuntimeRole,
    /// Directory at which the host's root is mounted.
    pub host: PathBuf,
    /// Maximum time between two full lists of containers.
    pub interval: Duration,
    /// The containers to scan.
    pub filter: Filter,
    /// Number of layers to read at the same time.
    pub scan_threads: usize,
    /// Limits and speed of reading.
    pub manner: Manner,
    /// Whether to report the texts of images' build steps.
    pub history_text: bool,
    /// Whether to fail where the kernel cannot enforce the whole cage.
    pub require_cage: bool,
}

/// The process that holds the runtime's socket.
#[derive(Clone, Debug)]
pub enum RuntimeRole {
    /// A child of this process, with the path of the socket; without a path the usual ones are tried.
    Child(Option<PathBuf>),
    /// Another container of the pod, which listens on this socket.
    Joined(PathBuf),
}

/// Address of the aggregator and the credentials for it.
#[derive(Clone)]
pub struct Aggregator {
    /// `https://HOST:PORT`, or `http://` on loopback.
    pub address: String,
    /// PEM file with the certificate authority of its certificate.
    pub ca: Option<PathBuf>,
    /// File with this node's token.
    pub token: PathBuf,
}

impl fmt::Debug for Aggregator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aggregator").field("address", &safe(&self.address)).finish_non_exhaustive()
    }
}

/// Why the agent could not start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file of the configuration cannot be read.
    #[error("reading {path}: {source}", path = .path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The aggregator's address is not usable.
    #[error("invalid aggregator address {address:?}: {reason}", address = safe(.address).to_string())]
    Address {
        /// The address as the operator wrote it.
        address: String,
        /// Cause, with a hint.
        reason: String,
    },
    /// The aggregator's address needs a CA certificate, and there is none.
    #[error("invalid aggregator address {address:?}: https requires the CA certificate; pass --ca FILE", address = safe(.address).to_string())]
    NoAuthority {
        /// The address as the operator wrote it.
        address: String,
    },
    /// The process that holds the runtime's socket failed.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// The process could not give up rights.
    #[error("dropping rights: {0}")]
    Cage(#[from] CageError),
    /// No worker can be started.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The kernel enforces less of the cage than the operator requires.
    #[error(
        "the sandbox is \"{0}\" but --require-cage requires the complete one: {why}, or start without --require-cage; outcrop-agent selftest shows the possible actions",
        why = why(*.0)
    )]
    WeakCage(Cage),
    /// The operating system refused a thread or a pipe.
    #[error("starting a thread: {0}")]
    Start(#[source] std::io::Error),
    /// A thread of the agent ended although nobody stopped it.
    #[error("the thread {0:?} {how} unexpectedly; please report this", how = if *.1 { "panicked" } else { "ended" })]
    Thread(String, bool),
}

fn why(cage: Cage) -> &'static str {
    match cage.landlock {
        Landlock::Missing => {
            "this kernel has no Landlock; use Linux 6.12 or later with landlock in the kernel parameter lsm="
        }
        _ => "the Landlock of this kernel lacks some rights; use Linux 6.12 or later",
    }
}

/// Runs the agent until `signals` stop it: then it finishes what it delivers, for at most four seconds.
///
/// # Errors
/// When it cannot start, when the process that holds the runtime's socket is lost, and when a thread ends unexpectedly.
pub fn run(config: Config, signals: Signals) -> Result<(), AgentError> {
    hide_memory()?;
    // An unusable configuration fails before anything is started.
    config.aggregator.token()?;
    config.aggregator.warn_of_open_token();
    config.aggregator.endpoint()?;
    let program = Program::this().with(config.manner);
    // Rights go after what needs them: a socket for the sibling. A child goes its own way before.
    let mut sibling = match &config.runtime {
        RuntimeRole::Child(socket) => Sibling::spawn(role::runtime_command(&program, socket.as_deref()))?,
        RuntimeRole::Joined(socket) => Sibling::over(runtime::connect(socket)?)?,
    };
    let cage = enter_reader_cage()?;
    let worker = program.started()?;
    let cage = cage.weaker(worker.cage).weaker(Cage::from_words(sibling.cage()));
    if config.require_cage && cage.landlock != Landlock::Full {
        return Err(AgentError::WeakCage(cage));
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = %safe(&config.node),
        cluster = %safe(&config.cluster),
        aggregator = %safe(&config.aggregator.address),
        runtime_version = %safe(sibling.version()),
        runtime_socket = %safe(sibling.socket()),
        cage = %cage,
        marks = worker.marks,
        "agent started"
    );
    // Before anything is listed, so that nothing falls between.
    sibling.watch()?;

    let (commands, inbox) = node::commands().map_err(AgentError::Start)?;
    let reader = StackReader::new(program.clone());
    let stop = CancellationToken::new();
    let tasks = reading::start(config.scan_threads, &reader, &commands).map_err(AgentError::Start)?;
    let hello = v1::Hello {
        node: config.node,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        catalogers: catalog::VERSION,
        cage: cage.to_string(),
        marks: worker.marks,
        wire_version: wire::VERSION,
        instance: uplink::random().max(1),
    };
    let (aggregator, cluster) = (config.aggregator, config.cluster);
    let uplink = Uplink { aggregator, cluster, hello, commands: commands.clone(), stop: stop.clone() };
    supervised("uplink".to_owned(), &commands, move || uplink.run()).map_err(AgentError::Start)?;

    let places = Places::new(program.clone()).with_history_texts(config.history_text);
    let containers = Containers::new(&config.host, config.filter, places);
    let threads = config.scan_threads;
    let node = Node::new(sibling, containers, config.interval, tasks, threads, Measures::new(program), stop);
    node.run(&inbox, &signals)?;
    tracing::info!("agent stopped");
    Ok(())
}

/// Starts a thread whose end the node learns of, whether it returns or panics.
fn supervised(name: String, commands: &Commands, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    struct Ending {
        thread: String,
        commands: Commands,
    }

    impl Drop for Ending {
        fn drop(&mut self) {
            let thread = std::mem::take(&mut self.thread);
            self.commands.send(Command::Ended { thread, panicked: std::thread::panicking() });
        }
    }

    let ending = Ending { thread: name.clone(), commands: commands.clone() };
    let body = move || {
        let _ending = ending;
        body();
    };
    std::thread::Builder::new().name(name).spawn(body).map(drop)
}

impl Aggregator {
    pub(crate) fn token(&self) -> Result<String, AgentError> {
        Ok(read(&self.token)?.trim().to_owned())
    }

    /// Warns if every user of the node can read the token. The agent changes nothing on the node, so it does not change the permissions either.
    fn warn_of_open_token(&self) {
        let mode = std::fs::metadata(&self.token).map_or(0, |file| file.permissions().mode() & 0o777);
        if mode & 0o007 != 0 {
            let (path, mode) = (self.token.display().to_string(), format!("{mode:04o}"));
            tracing::warn!(path = %safe(&path), mode, hint = "chmod 600", "token file accessible to other users");
        }
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
            (Some("https"), None) => Err(AgentError::NoAuthority { address: self.address.clone() }),
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
