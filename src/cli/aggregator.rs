//! `outcrop aggregator`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use outcrop_proto::clock;

use super::{Exit, Fatal};
use crate::advisory::trust::PublicKey;
use crate::aggregator::{self, Config, Policy};
use crate::cluster::api_server_port;
use crate::duration::{parse_duration, parse_share};
use crate::offline::{self, Offline};
use crate::token::is_name;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The cluster that it is for; agents of others are refused
    #[arg(long, value_name = "NAME", env = "OUTCROP_CLUSTER", default_value = "default")]
    cluster: String,

    /// Where it keeps what it knows; a local disk
    #[arg(long, value_name = "DIR", env = "OUTCROP_DATA")]
    data: PathBuf,

    /// The advisory database, as outcrop db build makes it; one that is put in its place is taken at once
    #[arg(long, value_name = "FILE", env = "OUTCROP_DB")]
    db: Option<PathBuf>,

    /// A key that advisory databases may be signed with: a minisign public key, or a file with one; may be given again
    #[arg(long, value_name = "KEY", env = "OUTCROP_DB_KEY", value_delimiter = ',')]
    db_key: Vec<String>,

    /// Refuse advisory databases that none of the keys has signed
    #[arg(long, env = "OUTCROP_REQUIRE_SIGNATURE", requires = "db_key")]
    require_signature: bool,

    /// The file of nodes and hashes of their tokens, as outcrop token new makes it; with --kubernetes agents are known by their pods without it
    #[arg(long, value_name = "FILE", env = "OUTCROP_TOKENS", required_unless_present = "kubernetes")]
    tokens: Option<PathBuf>,

    /// Where agents are listened to
    #[arg(long, value_name = "ADDRESS", env = "OUTCROP_LISTEN", default_value = "127.0.0.1:7443")]
    listen: SocketAddr,

    /// Make a certificate for this name, and an authority for it, in the data directory: for agents and for the API; may be given again
    #[arg(long, value_name = "HOST", env = "OUTCROP_TLS_NAME", value_delimiter = ',', conflicts_with_all = ["tls_cert", "insecure"])]
    tls_name: Vec<String>,

    /// Certificate chain for agents, PEM; read again when it changes
    #[arg(long, value_name = "FILE", env = "OUTCROP_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Its private key, PEM
    #[arg(long, value_name = "FILE", env = "OUTCROP_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// The authority of that certificate, PEM, for --publish-ca to publish; read again now and then
    #[arg(long, value_name = "FILE", env = "OUTCROP_TLS_CA", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,

    /// Speak to agents in the clear; loopback only
    #[arg(long, conflicts_with = "tls_cert")]
    insecure: bool,

    /// Where questions are answered
    #[arg(long, value_name = "ADDRESS", env = "OUTCROP_API", default_value = "127.0.0.1:7480")]
    api: SocketAddr,

    /// The file of those who may ask, as outcrop token new --api makes it; needed unless --api is on loopback
    #[arg(long, value_name = "FILE", env = "OUTCROP_API_TOKENS")]
    api_tokens: Option<PathBuf>,

    /// A name that the API is asked for by; may be given again
    #[arg(long, value_name = "HOST", env = "OUTCROP_API_HOST", value_delimiter = ',')]
    api_host: Vec<String>,

    /// Certificate chain for the API, PEM; read again when it changes
    #[arg(long, value_name = "FILE", env = "OUTCROP_API_TLS_CERT", requires = "api_tls_key")]
    api_tls_cert: Option<PathBuf>,

    /// Its private key, PEM
    #[arg(long, value_name = "FILE", env = "OUTCROP_API_TLS_KEY", requires = "api_tls_cert")]
    api_tls_key: Option<PathBuf>,

    /// Have the kernel refuse every TCP connection but to the ports of the API server and of DNS
    #[arg(long, env = "OUTCROP_OFFLINE")]
    offline: bool,

    #[command(flatten)]
    kubernetes: Kubernetes,

    /// Share of the layers on several nodes that another node reads as well, from 0 to 1
    #[arg(long, value_name = "SHARE", env = "OUTCROP_VERIFY_SHARE", default_value = "0.05", value_parser = parse_share)]
    verify_share: f64,

    /// Have layers below more containers than this read by another node in any case
    #[arg(long, value_name = "COUNT", env = "OUTCROP_VERIFY_CONTAINERS", default_value_t = 20)]
    verify_containers: u32,

    /// Within what time after the first reading
    #[arg(long, value_name = "TIME", env = "OUTCROP_VERIFY_INTERVAL", default_value = "1h", value_parser = parse_duration)]
    verify_interval: Duration,

    /// Forget a node that has been silent for so long, and what it alone had
    #[arg(long, value_name = "TIME", env = "OUTCROP_FORGET_AFTER", default_value = "24h", value_parser = parse_duration)]
    forget_after: Duration,

    /// Keep packages and inventories so long after the last container with them has ended
    #[arg(long, value_name = "TIME", env = "OUTCROP_KEEP_UNUSED", default_value = "8d", value_parser = parse_duration)]
    keep_unused: Duration,

    /// Keep so long who ran what
    #[arg(long, value_name = "TIME", env = "OUTCROP_KEEP_HISTORY", default_value = "400d", value_parser = parse_duration)]
    keep_history: Duration,
}

/// What Kubernetes adds.
#[derive(Debug, clap::Args)]
struct Kubernetes {
    /// Join containers to workloads through the Kubernetes API server: KUBECONFIG's, or the one of the pod that this runs in
    #[arg(long, env = "OUTCROP_KUBERNETES")]
    kubernetes: bool,

    /// The file that says where the API server is
    #[arg(long, value_name = "FILE", env = "OUTCROP_KUBECONFIG", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,

    /// Watch this namespace only; may be given again. Without it all
    #[arg(long, value_name = "NAME", env = "OUTCROP_WATCH_NAMESPACE", value_delimiter = ',', requires = "kubernetes")]
    watch_namespace: Vec<String>,

    /// Keep the workloads of this namespace out of view, counted as excluded; may be given again
    #[arg(
        long,
        value_name = "NAME",
        env = "OUTCROP_EXCLUDE_NAMESPACE",
        value_delimiter = ',',
        requires = "kubernetes"
    )]
    exclude_namespace: Vec<String>,

    /// Let workloads of this namespace, or its own annotation, take them out of view: outcrop.dev/exclude=true; may be given again
    #[arg(long, value_name = "NAME", env = "OUTCROP_ANNOTATIONS_IN", value_delimiter = ',', requires = "kubernetes")]
    annotations_in: Vec<String>,

    /// A policy of what is in view: Rego v0, package snyk, rule workload_events, as Snyk's controller takes it
    #[arg(long, value_name = "FILE", env = "OUTCROP_POLICY", requires = "kubernetes")]
    policy: Option<PathBuf>,

    /// A label or annotation of workloads, else of their namespaces, that names their owner; may be given again, the first one counts
    #[arg(long, value_name = "KEY", env = "OUTCROP_OWNER_KEY", value_delimiter = ',', requires = "kubernetes")]
    owner_key: Vec<String>,

    /// The service account of agents; without --tokens an agent is known by a token that is bound to its pod
    #[arg(long, value_name = "NAMESPACE/NAME", env = "OUTCROP_AGENT_ACCOUNT", requires = "kubernetes")]
    agent_account: Option<String>,

    /// The ConfigMap in which the authority of --tls-name, or --tls-ca, is published, as ca.crt; it has to be there
    #[arg(long, value_name = "NAMESPACE/NAME", env = "OUTCROP_PUBLISH_CA", requires = "kubernetes")]
    publish_ca: Option<String>,
}

/// A namespace and a name in it.
fn pair(flag: &str, text: Option<String>) -> Result<Option<(String, String)>, Fatal> {
    let split = |text: String| match text.split_once('/') {
        Some((namespace, name)) if is_name(namespace) && is_name(name) => Ok((namespace.to_owned(), name.to_owned())),
        _ => Err(Fatal::usage(format!("{flag} {text}: give NAMESPACE/NAME"))),
    };
    text.map(split).transpose()
}

impl Kubernetes {
    fn config(self) -> Result<Option<aggregator::Kubernetes>, Fatal> {
        let agent_account = pair("--agent-account", self.agent_account)?;
        let publish_ca = pair("--publish-ca", self.publish_ca)?;
        Ok(self.kubernetes.then(|| aggregator::Kubernetes {
            kubeconfig: self.kubeconfig,
            namespaces: self.watch_namespace.into_iter().collect(),
            excluded_namespaces: self.exclude_namespace.into_iter().collect(),
            annotations_in: self.annotations_in.into_iter().collect(),
            policy: self.policy,
            owner_keys: self.owner_key,
            agent_account,
            publish_ca,
        }))
    }
}

fn go_offline(kubernetes: Option<&aggregator::Kubernetes>) -> Result<Offline, Fatal> {
    let failed = |error: &dyn std::fmt::Display| Fatal::failed(format!("--offline: {error}"));
    let port = match kubernetes {
        Some(kubernetes) => {
            // Of one thread, which is this one.
            let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| failed(&error))?;
            let port = runtime.block_on(api_server_port(kubernetes.kubeconfig.as_deref()));
            Some(port.map_err(|error| failed(&error))?)
        }
        None => None,
    };
    offline::enter(port).map_err(|error| failed(&error))
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Fatal> {
    let tls = arguments.tls_cert.zip(arguments.tls_key);
    let makes_own = !arguments.tls_name.is_empty();
    if tls.is_none() && !makes_own && !arguments.insecure {
        return Err(Fatal::usage(
            "agents are spoken to over TLS: --tls-cert FILE --tls-key FILE, or --tls-name HOST, or --insecure on loopback",
        ));
    }
    if arguments.insecure && !arguments.listen.ip().is_loopback() {
        return Err(Fatal::usage(format!("--insecure is for loopback only, and {} is not", arguments.listen)));
    }
    if arguments.api_tokens.is_none() && !arguments.kubernetes.kubernetes && !arguments.api.ip().is_loopback() {
        return Err(Fatal::usage(format!(
            "{} is not on loopback, so that those who ask have to say who they are: --api-tokens FILE, as outcrop token new --api makes it",
            arguments.api
        )));
    }
    if arguments.kubernetes.publish_ca.is_some() && !makes_own && arguments.tls_ca.is_none() {
        return Err(Fatal::usage(
            "--publish-ca: which authority? --tls-ca FILE has that of --tls-cert, --tls-name makes one",
        ));
    }
    let api_tls = arguments.api_tls_cert.zip(arguments.api_tls_key);
    if api_tls.is_none() && !makes_own && !arguments.api.ip().is_loopback() {
        return Err(Fatal::usage(format!(
            "{} is not on loopback, where tokens could be read on their way: --api-tls-cert FILE --api-tls-key FILE",
            arguments.api
        )));
    }
    let keys: Result<Vec<PublicKey>, _> = arguments.db_key.iter().map(|key| PublicKey::from_argument(key)).collect();
    let keys = keys.map_err(|error| Fatal::usage(format!("--db-key: {error}")))?;
    let kubernetes = arguments.kubernetes.config()?;
    if kubernetes.is_some() && clock::is_moved() {
        return Err(Fatal::usage(format!(
            "{} cannot be used with --kubernetes: the API server keeps the true time",
            clock::VARIABLE
        )));
    }
    // Before there is a second thread.
    let offline = arguments.offline.then(|| go_offline(kubernetes.as_ref())).transpose()?;
    let config = Config {
        cluster: arguments.cluster,
        data: arguments.data,
        database: arguments.db,
        policy: Policy { keys, require_signature: arguments.require_signature, ..Policy::default() },
        tokens: arguments.tokens,
        kubernetes,
        offline,
        listen: arguments.listen,
        tls,
        tls_names: arguments.tls_name,
        tls_ca: arguments.tls_ca,
        api: arguments.api,
        api_hosts: arguments.api_host,
        api_tokens: arguments.api_tokens,
        api_tls,
        verify_share: arguments.verify_share,
        verify_containers: arguments.verify_containers,
        verify_within: arguments.verify_interval,
        forget_after: arguments.forget_after,
        keep_unused: arguments.keep_unused,
        keep_history: arguments.keep_history,
    };
    // What was acknowledged is on the disk. In a container the kernel has no default for signals to the first process.
    outcrop_agent::role::end_on_signals().map_err(|error| Fatal::failed(format!("signals: {error}")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Fatal::failed(format!("starting: {error}")))?;
    runtime.block_on(aggregator::run(config)).map_err(|error| Fatal::failed(error.to_string()))?;
    Ok(Exit::Done)
}
