//! The command line of `outcrop-agent`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};

use crate::agent::{Aggregator, Config, Filter, Runtime};
use crate::doctor::Subject;
use crate::worker::{LayerLimits, Manner};

/// Follows what containerd runs on this node, and reads its layers for the aggregator.
///
/// Its processes take from themselves what they do not need; nothing is written on the node, nothing listens, nothing is pulled.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "outcrop-agent",
    version,
    after_help = "Other commands: outcrop-agent runtime | reader (the two processes apart, for two containers of a pod), probe \
                  (does it live?), doctor (what is wrong here?), selftest (is the cage tight?); --help tells of each."
)]
pub struct AgentArguments {
    /// containerd's socket; without it the usual places are tried
    #[arg(long, value_name = "SOCKET", env = "OUTCROP_CONTAINERD")]
    containerd: Option<PathBuf>,

    #[command(flatten)]
    reading: Reading,
}

/// The part of the agent that sees storage and speaks to the aggregator, where `outcrop-agent runtime` is another container
#[derive(Clone, Debug, Parser)]
#[command(name = "outcrop-agent reader")]
pub struct ReaderArguments {
    /// The socket at which outcrop-agent runtime listens
    #[arg(long, value_name = "SOCKET", env = "OUTCROP_SIBLING")]
    sibling: PathBuf,

    #[command(flatten)]
    reading: Reading,
}

/// The part of the agent that speaks to containerd, where `outcrop-agent reader` is another container
#[derive(Clone, Debug, Parser)]
#[command(name = "outcrop-agent runtime")]
pub struct RuntimeArguments {
    /// Where to listen for outcrop-agent reader: in a directory that both containers have, best in memory
    #[arg(long, value_name = "SOCKET", env = "OUTCROP_LISTEN")]
    pub listen: PathBuf,

    /// containerd's socket; without it the usual places are tried. Mount its directory: a restarted containerd makes a new one
    #[arg(long, value_name = "SOCKET", env = "OUTCROP_CONTAINERD")]
    pub containerd: Option<PathBuf>,
}

/// Says whether the agent's processes that are seen here live: exit code 0, or 1 with the reason
#[derive(Clone, Debug, Parser)]
#[command(name = "outcrop-agent probe")]
pub struct ProbeArguments {
    /// Look at this process only
    #[arg(long)]
    pub pid: Option<u32>,
}

/// Tries every forbidden act in every role and says what stopped it: exit code 1 if anything was possible
#[derive(Clone, Debug, Parser)]
#[command(name = "outcrop-agent selftest")]
pub struct SelftestArguments {
    /// Try them through every mount below this directory as well, as the process that reads storage could: /host in a pod
    #[arg(long, value_name = "DIR")]
    pub through: Option<PathBuf>,
}

/// Looks at all that the agent needs here, and says what is wrong and what to do: exit code 0, or 1 if something fails
#[derive(Clone, Debug, Parser)]
#[command(name = "outcrop-agent doctor")]
pub struct DoctorArguments {
    /// containerd's socket; without it the usual places are tried
    #[arg(long, value_name = "SOCKET", env = "OUTCROP_CONTAINERD")]
    containerd: Option<PathBuf>,

    /// Where the host's root is seen; without it /host in the agent's pod, and / elsewhere
    #[arg(long, value_name = "DIR", env = "OUTCROP_HOST")]
    host: Option<PathBuf>,

    /// Where the aggregator is, as the agent is told it
    #[arg(long, value_name = "URL", env = "OUTCROP_AGGREGATOR")]
    aggregator: Option<String>,

    /// The authority of the aggregator's certificate, PEM
    #[arg(long, value_name = "FILE", env = "OUTCROP_CA")]
    ca: Option<PathBuf>,

    /// A file with this node's token
    #[arg(long, value_name = "FILE", env = "OUTCROP_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    /// Print the checks as JSON
    #[arg(long)]
    pub json: bool,
}

impl DoctorArguments {
    /// What is looked at.
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
struct Reading {
    /// Where the aggregator is: https://HOST:PORT; http:// on loopback only
    #[arg(long, value_name = "URL", env = "OUTCROP_AGGREGATOR")]
    aggregator: String,

    /// The authority of the aggregator's certificate, PEM; read again at each attach
    #[arg(long, value_name = "FILE", env = "OUTCROP_CA")]
    ca: Option<PathBuf>,

    /// The cluster that this node belongs to, as the aggregator calls it
    #[arg(long, value_name = "NAME", default_value = "default", env = "OUTCROP_CLUSTER")]
    cluster: String,

    /// This node's name, as its token was made for
    #[arg(long, value_name = "NAME", env = "OUTCROP_NODE")]
    node: String,

    /// A file with this node's token, as outcrop token new prints it; read again at each attach
    #[arg(long, value_name = "FILE", env = "OUTCROP_TOKEN_FILE")]
    token_file: PathBuf,

    /// Where the host's root is seen
    #[arg(long, value_name = "DIR", default_value = "/", env = "OUTCROP_HOST")]
    host: PathBuf,

    /// Seconds after which containerd is asked what runs, also when it told of no change
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600), env = "OUTCROP_INTERVAL")]
    interval: u64,

    /// containerd namespaces to look into, all others are excluded; without it all are looked into
    #[arg(long, value_name = "NAMES", value_delimiter = ',', env = "OUTCROP_NAMESPACES")]
    namespaces: Vec<String>,

    /// containerd namespaces not to look into; their containers are counted as excluded
    #[arg(long, value_name = "NAMES", value_delimiter = ',', env = "OUTCROP_EXCLUDE_NAMESPACES")]
    exclude_namespaces: Vec<String>,

    /// Kubernetes namespaces not to look into; their containers are counted as excluded
    #[arg(long, value_name = "NAMES", value_delimiter = ',', env = "OUTCROP_EXCLUDE_KUBERNETES_NAMESPACES")]
    exclude_kubernetes_namespaces: Vec<String>,

    /// Layers that are read at once
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2), env = "OUTCROP_SCAN_THREADS")]
    scan_threads: u8,

    /// Processors that reading may use, all threads together: 0.5 is half of one
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share, env = "OUTCROP_SCAN_CPU")]
    scan_cpu: f64,

    /// A layer of more files and directories is too large
    #[arg(long, value_name = "COUNT", default_value_t = LayerLimits::default().files, env = "OUTCROP_MAX_LAYER_FILES")]
    max_layer_files: u64,

    /// A layer whose paths take more bytes is too large
    #[arg(long, value_name = "BYTES", default_value_t = LayerLimits::default().path_bytes, env = "OUTCROP_MAX_LAYER_PATH_BYTES")]
    max_layer_path_bytes: u64,

    /// A layer with more files that could name packages is too large
    #[arg(long, value_name = "COUNT", default_value_t = LayerLimits::default().evidence_files, env = "OUTCROP_MAX_EVIDENCE_FILES")]
    max_evidence_files: u64,

    /// A layer of which more bytes would have to be read is too large
    #[arg(long, value_name = "BYTES", default_value_t = LayerLimits::default().evidence_bytes, env = "OUTCROP_MAX_EVIDENCE_BYTES")]
    max_evidence_bytes: u64,

    /// Tell the texts of images' build steps, too: they may hold secrets
    #[arg(long, env = "OUTCROP_HISTORY_TEXT")]
    history_text: bool,

    /// Refuse to start where this kernel cannot enforce the whole cage (Landlock of Linux 6.12)
    #[arg(long, env = "OUTCROP_REQUIRE_CAGE")]
    require_cage: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.05..=2.0).contains(&share) { Ok(share) } else { Err("it has to be from 0.05 to 2".to_owned()) }
}

impl AgentArguments {
    /// What the agent does with them.
    pub fn config(self) -> Config {
        self.reading.config(Runtime::Child(self.containerd))
    }
}

impl ReaderArguments {
    /// What the agent does with them.
    pub fn config(self) -> Config {
        self.reading.config(Runtime::Joined(self.sibling))
    }
}

impl Reading {
    fn config(self, runtime: Runtime) -> Config {
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
