//! Configuration of the aggregator, and the errors that end it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use outcrop_proto::clock;

use super::advisories::{AdvisoriesError, Policy};
use super::tokens::TokenError;
use crate::authority::AuthorityError;
use crate::cluster::PolicyError;
use crate::deliver;
use crate::offline::Offline;
use crate::patterns::NamespacePatterns;
use crate::store::StoreError;
use crate::supervise::TaskEnded;
use crate::web;
use crate::web::listen;

/// Configuration of the aggregator.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the cluster.
    pub cluster: String,
    /// The data directory.
    pub data: PathBuf,
    /// Path of the watched advisory database.
    pub database: Option<PathBuf>,
    /// Day on which the age of the advisory database is judged; `None` for today.
    pub database_as_of: Option<jiff::civil::Date>,
    /// Requirements on advisory databases.
    pub policy: Policy,
    /// Path of the token file of nodes; `None` if agents authenticate with tokens of their pods.
    pub tokens: Option<PathBuf>,
    /// Configuration for Kubernetes; `None` outside Kubernetes.
    pub kubernetes: Option<Kubernetes>,
    /// The allowed connections if the aggregator is offline.
    pub offline: Option<Offline>,
    /// Address of the gRPC endpoint for agents.
    pub listen: SocketAddr,
    /// Certificate chain and key of the endpoint for agents, PEM; `None` for no TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Host names of the self-issued certificate for agents and the API; used if no certificate is configured.
    pub tls_names: Vec<String>,
    /// CA certificate to publish, PEM, if it is not that of the self-issued certificate.
    pub tls_ca: Option<PathBuf>,
    /// Address of the API.
    pub api: SocketAddr,
    /// Address at which probes are answered.
    pub probes: SocketAddr,
    /// Allowed host names of the API.
    pub api_hosts: Vec<String>,
    /// Path of the token file of API users; `None` for Kubernetes RBAC, and outside Kubernetes for no authentication on loopback.
    pub api_tokens: Option<PathBuf>,
    /// Certificate chain and key for the API, PEM.
    pub api_tls: Option<(PathBuf, PathBuf)>,
    /// Share, from 0 to 1, of the layers on several nodes that a second node reads.
    pub verify_share: f64,
    /// A second node always reads layers of more containers than this.
    pub verify_containers: u32,
    /// Maximum time from the first to the second read.
    pub verify_within: Duration,
    /// Time after which a silent node is removed.
    pub forget_after: Duration,
    /// Retention of unused packages and inventories.
    pub keep_unused: Duration,
    /// Retention of workload history.
    pub keep_history: Duration,
    /// Targets of deliveries.
    pub deliver: deliver::Config,
    /// Set if events are written to the outbox without a target: for tests.
    pub outbox: bool,
}

impl Config {
    /// Returns whether events are written to the outbox.
    pub(super) fn has_outbox(&self) -> bool {
        self.outbox || !self.deliver.targets.is_empty()
    }

    /// Returns the day on which the age of the advisory database is judged.
    pub(super) fn judged_on(&self) -> jiff::civil::Date {
        self.database_as_of.unwrap_or_else(clock::today)
    }
}

/// Configuration for Kubernetes.
#[derive(Clone, Debug, Default)]
pub struct Kubernetes {
    /// Path of the kubeconfig; `None` for `KUBECONFIG`, `~/.kube/config`, or the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// Watched namespaces; empty for all.
    pub namespaces: BTreeSet<String>,
    /// Included namespaces; all if there are none.
    pub included_namespaces: NamespacePatterns,
    /// Excluded namespaces.
    pub excluded_namespaces: NamespacePatterns,
    /// Namespaces in which an annotation can exclude workloads.
    pub annotations_in: NamespacePatterns,
    /// Path of the policy that selects workloads, in Rego.
    pub policy: Option<PathBuf>,
    /// Labels or annotations that contain a workload's owner; the first match counts.
    pub owner_keys: Vec<String>,
    /// Namespace and name of the agents' service account, if agents authenticate with tokens of their pods.
    pub agent_account: Option<(String, String)>,
    /// Namespace and name of the ConfigMap to which the CA certificate is published.
    pub publish_ca: Option<(String, String)>,
}

/// Why the aggregator could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AggregatorError {
    /// A configured file or directory could not be used.
    #[error("accessing {path}: {source}", path = .path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The aggregator cannot listen on an address.
    #[error("listening on {address}: {source}; choose another address with --listen, --api or --probes")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] crate::private::DirectoryError),
    /// The volume of the data directory cannot be used.
    #[error(transparent)]
    Volume(#[from] crate::store::VolumeError),
    /// The gRPC server failed.
    #[error("serving agents: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// A certificate could not be loaded.
    #[error(transparent)]
    Tls(#[from] listen::TlsError),
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory of advisory databases cannot be used.
    #[error(transparent)]
    Advisories(#[from] AdvisoriesError),
    /// The token file of nodes could not be read.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The token file of the API could not be read.
    #[error(transparent)]
    Access(#[from] web::AccessError),
    /// The connection to the API server could not be configured.
    #[error(
        "connecting to the Kubernetes API server: {0}; pass --kubeconfig FILE, or run in a pod with a service account"
    )]
    Kubernetes(String),
    /// The API server refuses to say which cluster it is.
    #[error(
        "identifying the cluster by the UID of the namespace kube-system: {0}; allow the aggregator's service account to get this namespace (see docs/rbac.md)"
    )]
    Cluster(String),
    /// The policy could not be loaded.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The self-issued certificate could not be created.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The authentication of agents is not configured.
    #[error(
        "agent authentication is not configured: pass --tokens FILE, or --kubernetes with --agent-account NAMESPACE/NAME"
    )]
    Agents,
    /// A supervised task ended.
    #[error(transparent)]
    Task(#[from] TaskEnded),
}
