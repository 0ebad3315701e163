//! What the operator configures, and why the aggregator cannot start or has to end.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::advisories::{AdvisoriesError, Policy};
use super::tokens::TokenError;
use crate::authority::AuthorityError;
use crate::cluster::PolicyError;
use crate::offline::Offline;
use crate::store::StoreError;
use crate::supervise::TaskEnded;
use crate::web;
use crate::web::listen;

/// What the operator chose.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster that it is for.
    pub cluster: String,
    /// Where its store lies.
    pub data: PathBuf,
    /// The advisory database to watch.
    pub database: Option<PathBuf>,
    /// What is demanded of databases.
    pub policy: Policy,
    /// The file of nodes and their tokens; without it nodes are known by their pods.
    pub tokens: Option<PathBuf>,
    /// The Kubernetes cluster that it is in, if it is in one.
    pub kubernetes: Option<Kubernetes>,
    /// What was left to this process to connect to, where it runs offline.
    pub offline: Option<Offline>,
    /// Where nodes are listened to.
    pub listen: SocketAddr,
    /// Certificate chain and key for nodes, PEM; without them nodes are spoken to in the clear.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Names of the certificate that it makes itself, for nodes and for the API, where it is brought none.
    pub tls_names: Vec<String>,
    /// The authority of that certificate, PEM, where it is to be published and is not our own.
    pub tls_ca: Option<PathBuf>,
    /// Where questions are answered.
    pub api: SocketAddr,
    /// Names by which the API is asked for.
    pub api_hosts: Vec<String>,
    /// The file of those who may ask; without it everybody may, on loopback.
    pub api_tokens: Option<PathBuf>,
    /// Certificate chain and key for the API, PEM.
    pub api_tls: Option<(PathBuf, PathBuf)>,
    /// Share of the layers on several nodes that another node reads as well, of 1.
    pub verify_share: f64,
    /// Layers below more containers than this are read by another node in any case.
    pub verify_containers: u32,
    /// Within what time after the first reading.
    pub verify_within: Duration,
    /// A node that is silent for longer is forgotten.
    pub forget_after: Duration,
    /// How long packages and inventories are kept that nobody runs.
    pub keep_unused: Duration,
    /// How long it is kept who ran what.
    pub keep_history: Duration,
}

/// What the operator chose for Kubernetes.
#[derive(Clone, Debug, Default)]
pub struct Kubernetes {
    /// The file that says where the API server is; without it `KUBECONFIG`, the home directory's, or the pod's own service account.
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces that are watched; all where none is named.
    pub namespaces: BTreeSet<String>,
    /// Namespaces that are out of view.
    pub excluded_namespaces: BTreeSet<String>,
    /// Namespaces whose workloads may take themselves out of view.
    pub annotations_in: BTreeSet<String>,
    /// A policy of what is in view, in Rego.
    pub policy: Option<PathBuf>,
    /// Labels or annotations that name a workload's owner, best first.
    pub owner_keys: Vec<String>,
    /// The service account of agents, namespace and name, where these are known by their pods.
    pub agent_account: Option<(String, String)>,
    /// The ConfigMap, namespace and name, in which the authority's certificate is published.
    pub publish_ca: Option<(String, String)>,
}

/// Why the aggregator could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AggregatorError {
    /// A file or directory that the operator named.
    #[error("accessing {path}: {source}", path = .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is the matter.
        source: std::io::Error,
    },
    /// An address that cannot be listened at.
    #[error("listening on {address}: {source}; choose another address with --listen or --api")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// What is the matter.
        source: std::io::Error,
    },
    /// The volume that the store lies on.
    #[error(transparent)]
    Volume(#[from] crate::store::VolumeError),
    /// The gRPC server.
    #[error("serving agents: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] listen::TlsError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The advisory databases.
    #[error(transparent)]
    Advisories(#[from] AdvisoriesError),
    /// The tokens of nodes.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The tokens of the API.
    #[error(transparent)]
    Access(#[from] web::AccessError),
    /// Where the API server is, or how it is spoken to.
    #[error(
        "connecting to the Kubernetes API server: {0}; pass --kubeconfig FILE, or run in a pod with a service account"
    )]
    Kubernetes(String),
    /// The policy of what is in view.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The own authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Nobody can tell who speaks for a node.
    #[error(
        "agent authentication is not configured: pass --tokens FILE, or --kubernetes with --agent-account NAMESPACE/NAME"
    )]
    Agents,
    /// A supervised task ended.
    #[error(transparent)]
    Task(#[from] TaskEnded),
}
