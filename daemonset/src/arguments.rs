//! The command line of `outcrop-agent`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::agent::{Aggregator, Config, Filter, RuntimeRole};
use crate::doctor::Subject;
use crate::logging::LogFormat;
use crate::worker::{LayerLimits, Manner};

/// Read the image layers of this node's containers for an Outcrop aggregator
///
/// Each role gives up the rights that it does not need (Landlock and seccomp). The agent writes nothing on the node, opens no
/// listener and pulls nothing.
#[derive(Clone, Debug, Parser)]
#[command(name = "outcrop-agent", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct CommandLine {
    /// The command.
    #[command(subcommand)]
    pub command: AgentCommand,
}

/// Commands of the agent.
#[derive(Clone, Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one value per process")]
pub enum AgentCommand {
    /// Run the agent with all of its roles
    Run(RunArguments),
    /// Run the role that reads storage and reports to the aggregator; `outcrop-agent runtime` runs beside it
    Reader(ReaderArguments),
    /// Run the role that holds the container runtime's socket; `outcrop-agent reader` runs beside it
    Runtime(RuntimeArguments),
    /// Check that the agent's processes in this PID namespace are alive; exit code 1 if one hangs or none is found
    Probe(ProbeArguments),
    /// Check everything that the agent needs on this node, with hints; exit code 1 if a check fails
    Doctor(DoctorArguments),
    /// Attempt every forbidden action in every role and print what stopped it; exit code 1 if an action was possible
    Selftest(SelftestArguments),
}

/// Arguments of `outcrop-agent run`.
#[derive(Clone, Debug, Args)]
pub struct RunArguments {
    /// Path of containerd's socket; default: the first existing socket of the common locations
    #[arg(long, value_name = "SOCKET", env = "OUTCROP_CONTAINERD")]
    containerd: Option<PathBuf>,

    #[command(flatten)]
    reading: Reading,
}

/// Arguments of `outcrop-agent reader`.
#[derive(Clone, Debug, Args)]
pub struct ReaderArguments {
    /// Path of the socket on which outcrop-agent runtime listens
    #[arg(long, value_name = "SOCKET", env = "OUTCROP_SIBLING")]
    sibling: PathBuf,

    #[command(flatten)]
    reading: Reading,
}

/// Arguments of `outcrop-agent runtime`.
#[derive(Clone, Debug, Args)]
pub struct RuntimeArguments {
    /// Path of the socket to create for outcrop-agent reader, in a directory that both containers mount, preferably in memory
    #[arg(long, value_name = "SOCKET", env = "OUTCROP_LISTEN")]
    pub listen: PathBuf,

    /// Path of containerd's socket; mount its directory, not the socket itself, because containerd creates a new socket when it
    /// restarts; default: the first existing socket of the common locations
    #[arg(long, value_name = "SOCKET", env = "OUTCROP_CONTAINERD")]
    pub containerd: Option<PathBuf>,

    #[command(flatten)]
    logging: Logging,
}

/// Arguments of `outcrop-agent probe`.
#[derive(Clone, Debug, Args)]
pub struct ProbeArguments {
    /// Process ID of the only process to check
    #[arg(long)]
    pub pid: Option<u32>,
}

/// Arguments of `outcrop-agent selftest`.
#[derive(Clone, Debug, Args)]
pub struct SelftestArguments {
    /// Directory below which the actions are also attempted through every mount, for example /host in a pod; default: none
    #[arg(long, value_name = "DIR")]
    pub through: Option<PathBuf>,
}

/// Arguments of `outcrop-agent doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArguments {
    /// Path of containerd's socket; default: the first existing socket of the common locations
    #[arg(long, value_name = "SOCKET", env = "OUTCROP_CONTAINERD")]
    containerd: Option<PathBuf>,

    /// Directory where the host's root is mounted; default: /host in the agent's pod, / elsewhere
    #[arg(long, value_name = "DIR", env = "OUTCROP_HOST")]
    host: Option<PathBuf>,

    /// Address of the aggregator, as in the agent's own --aggregator
    #[arg(long, value_name = "URL", env = "OUTCROP_AGGREGATOR")]
    aggregator: Option<String>,

    /// File with the CA certificate of the aggregator, PEM
    #[arg(long, value_name = "FILE", env = "OUTCROP_CA")]
    ca: Option<PathBuf>,

    /// File with the node's token
    #[arg(long, value_name = "FILE", env = "OUTCROP_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    /// Print the checks as JSON
    #[arg(long)]
    pub json: bool,
}

impl DoctorArguments {
    /// Returns what to check.
    pub fn subject(self) -> Subject {
        Subject {
            containerd: self.containerd,
            host: self.host,
            aggregator: self.aggregator,
            ca: self.ca,
            token: self.token_file,
        }
    }
}

#[derive(Clone, Debug, Args)]
struct Logging {
    /// Format of log events on standard error; OUTCROP_LOG sets the filter (default: info)
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", env = "OUTCROP_LOG_FORMAT")]
    log_format: LogFormat,
}

#[derive(Clone, Debug, Args)]
struct Reading {
    /// Address of the aggregator: https://HOST:PORT, or http:// on loopback
    #[arg(long, value_name = "URL", env = "OUTCROP_AGGREGATOR")]
    aggregator: String,

    /// File with the CA certificate of the aggregator, PEM; reloaded at each attach
    #[arg(long, value_name = "FILE", env = "OUTCROP_CA")]
    ca: Option<PathBuf>,

    /// Name of the cluster; must equal --cluster of the aggregator
    #[arg(long, value_name = "NAME", default_value = "default", env = "OUTCROP_CLUSTER")]
    cluster: String,

    /// Name of this node; the token must belong to it
    #[arg(long, value_name = "NAME", env = "OUTCROP_NODE")]
    node: String,

    /// File with this node's token (see outcrop token new); reloaded at each attach
    #[arg(long, value_name = "FILE", env = "OUTCROP_TOKEN_FILE")]
    token_file: PathBuf,

    /// Directory where the host's root is mounted
    #[arg(long, value_name = "DIR", default_value = "/", env = "OUTCROP_HOST")]
    host: PathBuf,

    /// Maximum time between two full lists of containers, in seconds; events cause further lists
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600), env = "OUTCROP_INTERVAL")]
    interval: u64,

    /// Runtime namespaces to scan, comma-separated; containers in others are counted as excluded; default: all
    #[arg(long, value_name = "NAMES", value_delimiter = ',', env = "OUTCROP_NAMESPACES")]
    namespaces: Vec<String>,

    /// Runtime namespaces not to scan, comma-separated; their containers are counted as excluded
    #[arg(long, value_name = "NAMES", value_delimiter = ',', env = "OUTCROP_EXCLUDE_NAMESPACES")]
    exclude_namespaces: Vec<String>,

    /// Kubernetes namespaces not to scan, comma-separated; their containers are counted as excluded
    #[arg(long, value_name = "NAMES", value_delimiter = ',', env = "OUTCROP_EXCLUDE_KUBERNETES_NAMESPACES")]
    exclude_kubernetes_namespaces: Vec<String>,

    /// Number of layers to read at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2), env = "OUTCROP_SCAN_THREADS")]
    scan_threads: u8,

    /// Processors that all reading threads may use together: 0.5 is half of one
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share, env = "OUTCROP_SCAN_CPU")]
    scan_cpu: f64,

    /// Maximum number of files and directories of a layer; a larger layer is reported as too large
    #[arg(long, value_name = "COUNT", default_value_t = LayerLimits::default().files, env = "OUTCROP_MAX_LAYER_FILES")]
    max_layer_files: u64,

    /// Maximum size of a layer's paths, in bytes; a larger layer is reported as too large
    #[arg(long, value_name = "BYTES", default_value_t = LayerLimits::default().path_bytes, env = "OUTCROP_MAX_LAYER_PATH_BYTES")]
    max_layer_path_bytes: u64,

    /// Maximum number of files of a layer that could name packages; a larger layer is reported as too large
    #[arg(long, value_name = "COUNT", default_value_t = LayerLimits::default().evidence_files, env = "OUTCROP_MAX_EVIDENCE_FILES")]
    max_evidence_files: u64,

    /// Maximum number of bytes to read of a layer's files; a larger layer is reported as too large
    #[arg(long, value_name = "BYTES", default_value_t = LayerLimits::default().evidence_bytes, env = "OUTCROP_MAX_EVIDENCE_BYTES")]
    max_evidence_bytes: u64,

    /// Also report the texts of images' build steps, which may contain secrets
    #[arg(long, env = "OUTCROP_HISTORY_TEXT")]
    history_text: bool,

    /// Fail at start if this kernel cannot enforce the complete sandbox (Landlock of Linux 6.12)
    #[arg(long, env = "OUTCROP_REQUIRE_CAGE")]
    require_cage: bool,

    #[command(flatten)]
    logging: Logging,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if (0.05..=2.0).contains(&share) { Ok(share) } else { Err("expected a number from 0.05 to 2".to_owned()) }
}

impl RunArguments {
    /// Returns the format of log events.
    pub fn log_format(&self) -> LogFormat {
        self.reading.logging.log_format
    }

    /// Returns the agent's configuration, with the runtime role as a child process.
    pub fn config(self) -> Config {
        self.reading.config(RuntimeRole::Child(self.containerd))
    }
}

impl ReaderArguments {
    /// Returns the format of log events.
    pub fn log_format(&self) -> LogFormat {
        self.reading.logging.log_format
    }

    /// Returns the agent's configuration, with the runtime role in another container.
    pub fn config(self) -> Config {
        self.reading.config(RuntimeRole::Joined(self.sibling))
    }
}

impl RuntimeArguments {
    /// Returns the format of log events.
    pub fn log_format(&self) -> LogFormat {
        self.logging.log_format
    }
}

impl Reading {
    fn config(self, runtime: RuntimeRole) -> Config {
        let named = |list: Vec<String>| list.into_iter().filter(|name| !name.is_empty()).collect();
        Config {
            aggregator: Aggregator { address: self.aggregator, ca: self.ca, token: self.token_file },
            cluster: self.cluster,
            node: self.node,
            runtime,
            host: self.host,
            interval: Duration::from_secs(self.interval),
            filter: Filter {
                namespaces: named(self.namespaces),
                exclude_namespaces: named(self.exclude_namespaces),
                exclude_kubernetes_namespaces: named(self.exclude_kubernetes_namespaces),
            },
            scan_threads: self.scan_threads.into(),
            manner: Manner {
                limits: LayerLimits {
                    files: self.max_layer_files,
                    path_bytes: self.max_layer_path_bytes,
                    evidence_files: self.max_evidence_files,
                    evidence_bytes: self.max_evidence_bytes,
                },
                polite: true,
                share: (self.scan_cpu / f64::from(self.scan_threads)).min(1.0),
            },
            history_text: self.history_text,
            require_cage: self.require_cage,
        }
    }
}
