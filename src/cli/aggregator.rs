//! `outcrop aggregator`: checks the flags, starts the aggregator and runs until a signal ends it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use outcrop_agent::logging::{self, LogFormat};
use outcrop_proto::clock;

use super::{Exit, Fatal};
use crate::advisory;
use crate::advisory::trust::PublicKey;
use crate::aggregator::{self, Config, Policy};
use crate::cluster::api_server_port;
use crate::deliver;
use crate::duration::{parse_duration, parse_share};
use crate::offline::{self, Offline, Peer};
use crate::patterns::NamespacePatterns;
use crate::token::is_name;
use crate::trace::Traces;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Format of log events on standard error; OUTCROP_LOG sets the filter, for example "debug"
    #[arg(long, value_enum, value_name = "FORMAT", env = "OUTCROP_LOG_FORMAT", default_value_t)]
    log_format: LogFormat,

    /// Name of the cluster; agents with another name are refused; with --kubernetes the UID of the namespace kube-system identifies the cluster, and the name is only displayed
    #[arg(long, value_name = "NAME", env = "OUTCROP_CLUSTER", default_value = "default")]
    cluster: String,

    /// Directory for the store and the advisory database; must be on a local disk
    #[arg(long, value_name = "DIR", env = "OUTCROP_DATA")]
    data: PathBuf,

    /// Path of the advisory database (see `outcrop db build`); reloaded when the file is replaced
    #[arg(long, value_name = "FILE", env = "OUTCROP_DB")]
    db: Option<PathBuf>,

    /// Day, as YYYY-MM-DD, on which the age of the advisory database is judged; default: today; for a demo, shown in the status
    #[arg(long, value_name = "DATE", env = "OUTCROP_DB_AS_OF", value_parser = advisory::parse_date)]
    db_as_of: Option<jiff::civil::Date>,

    /// Minisign public key, or a file that contains one, that may sign advisory databases (repeatable or comma-separated)
    #[arg(long, value_name = "KEY", env = "OUTCROP_DB_KEY", value_delimiter = ',')]
    db_key: Vec<String>,

    /// Refuse advisory databases that are not signed with one of the keys
    #[arg(long, env = "OUTCROP_REQUIRE_SIGNATURE", requires = "db_key")]
    require_signature: bool,

    /// File with node names and the hashes of their tokens (see `outcrop token new`); with --kubernetes and without this file, agents authenticate with service account tokens
    #[arg(long, value_name = "FILE", env = "OUTCROP_TOKENS", required_unless_present = "kubernetes")]
    tokens: Option<PathBuf>,

    /// Address of the gRPC endpoint for agents
    #[arg(long, value_name = "ADDRESS", env = "OUTCROP_LISTEN", default_value = "127.0.0.1:7443", value_parser = super::address)]
    listen: SocketAddr,

    /// Host name for a self-issued certificate, for agents and for the API (repeatable or comma-separated); the certificate and its CA are kept in the data directory
    #[arg(long, value_name = "HOST", env = "OUTCROP_TLS_NAME", value_delimiter = ',', conflicts_with_all = ["tls_cert", "insecure"])]
    tls_name: Vec<String>,

    /// Certificate chain of the endpoint for agents, PEM; reloaded when the file changes
    #[arg(long, value_name = "FILE", env = "OUTCROP_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key of --tls-cert, PEM
    #[arg(long, value_name = "FILE", env = "OUTCROP_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// CA certificate of --tls-cert, PEM; --publish-ca publishes it, and the file is reloaded periodically
    #[arg(long, value_name = "FILE", env = "OUTCROP_TLS_CA", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,

    /// Serve agents without TLS; allowed on loopback addresses only
    #[arg(long, conflicts_with = "tls_cert")]
    insecure: bool,

    /// Address of the HTTP API and the web pages
    #[arg(long, value_name = "ADDRESS", env = "OUTCROP_API", default_value = "127.0.0.1:7480", value_parser = super::address)]
    api: SocketAddr,

    /// Address of the probes /livez and /readyz: HTTP without TLS and without a token, and nothing else; the API answers them, too
    #[arg(long, value_name = "ADDRESS", env = "OUTCROP_PROBES", default_value = "127.0.0.1:7481", value_parser = super::address)]
    probes: SocketAddr,

    /// File with the names, rights and token hashes of API users (see `outcrop token new --api`); with --kubernetes and without this file, API users authenticate with service account tokens; otherwise required unless --api is a loopback address
    #[arg(long, value_name = "FILE", env = "OUTCROP_API_TOKENS")]
    api_tokens: Option<PathBuf>,

    /// Host name accepted in the `Host` header of API requests (repeatable or comma-separated)
    #[arg(long, value_name = "HOST", env = "OUTCROP_API_HOST", value_delimiter = ',')]
    api_host: Vec<String>,

    /// Certificate chain of the API, PEM; reloaded when the file changes
    #[arg(long, value_name = "FILE", env = "OUTCROP_API_TLS_CERT", requires = "api_tls_key")]
    api_tls_cert: Option<PathBuf>,

    /// Private key of --api-tls-cert, PEM
    #[arg(long, value_name = "FILE", env = "OUTCROP_API_TLS_KEY", requires = "api_tls_cert")]
    api_tls_key: Option<PathBuf>,

    /// Make the kernel refuse all outgoing TCP connections except to the ports of the API server and of DNS
    #[arg(long, env = "OUTCROP_OFFLINE")]
    offline: bool,

    /// With --offline: address of a target of deliveries, or of its proxy, to which connections are allowed (repeatable or comma-separated)
    #[arg(long, value_name = "HOST:PORT", env = "OUTCROP_OFFLINE_ALLOW", value_delimiter = ',', requires = "offline", value_parser = parse_peer)]
    offline_allow: Vec<Peer>,

    /// URL of an OTLP collector (gRPC) to which traces are exported; cannot be used with --offline. Default: none
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,

    /// File of the CA certificate, in PEM, with which an https collector is verified
    #[arg(long, value_name = "FILE", env = "OTEL_EXPORTER_OTLP_CERTIFICATE", requires = "otlp_endpoint")]
    otlp_ca: Option<PathBuf>,

    #[command(flatten)]
    kubernetes: Kubernetes,

    /// Share of the layers present on several nodes that a second node re-reads for verification, from 0 to 1
    #[arg(long, value_name = "SHARE", env = "OUTCROP_VERIFY_SHARE", default_value = "1", value_parser = parse_share)]
    verify_share: f64,

    /// Number of containers above which a layer is always verified by a second node
    #[arg(long, value_name = "COUNT", env = "OUTCROP_VERIFY_CONTAINERS", default_value_t = 20)]
    verify_containers: u32,

    /// Maximum time until a second node re-reads a layer that was selected for verification
    #[arg(long, value_name = "TIME", env = "OUTCROP_VERIFY_INTERVAL", default_value = "1h", value_parser = parse_duration)]
    verify_interval: Duration,

    /// Time after which a silent node is removed, with everything that only this node had; in Kubernetes a node is removed with its Node object
    #[arg(long, value_name = "TIME", env = "OUTCROP_FORGET_AFTER", default_value = "24h", value_parser = parse_duration)]
    forget_after: Duration,

    /// Retention of packages and inventories after the last container that used them has ended
    #[arg(long, value_name = "TIME", env = "OUTCROP_KEEP_UNUSED", default_value = "8d", value_parser = parse_duration)]
    keep_unused: Duration,

    /// Retention of workload history
    #[arg(long, value_name = "TIME", env = "OUTCROP_KEEP_HISTORY", default_value = "400d", value_parser = parse_duration)]
    keep_history: Duration,

    /// File with the targets of deliveries, YAML (see docs/deliver.md). Default: nothing is delivered
    #[arg(long, value_name = "FILE", env = "OUTCROP_DELIVER")]
    deliver: Option<PathBuf>,

    /// Write events to the outbox without a target; for tests
    #[arg(long, hide = true)]
    outbox: bool,
}

/// Flags that need a Kubernetes API server.
#[derive(Debug, clap::Args)]
struct Kubernetes {
    /// Join containers to workloads through the Kubernetes API server of the kubeconfig or, in a pod, of the service account
    #[arg(long, env = "OUTCROP_KUBERNETES")]
    kubernetes: bool,

    /// Path of the kubeconfig; default: the KUBECONFIG variable, ~/.kube/config, or the service account of the pod
    #[arg(long, value_name = "FILE", env = "OUTCROP_KUBECONFIG", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,

    /// Namespace to watch (repeatable or comma-separated); default: all namespaces
    #[arg(long, value_name = "NAME", env = "OUTCROP_WATCH_NAMESPACE", value_delimiter = ',', requires = "kubernetes")]
    watch_namespace: Vec<String>,

    /// Namespace, or a glob such as team-*, whose workloads are included (repeatable or comma-separated); all others are excluded. Default: all namespaces
    #[arg(
        long,
        value_name = "GLOB",
        env = "OUTCROP_INCLUDE_NAMESPACE",
        value_delimiter = ',',
        requires = "kubernetes"
    )]
    include_namespace: Vec<String>,

    /// Namespace, or a glob such as team-*, whose workloads are excluded from lists and counted as `excluded` (repeatable or comma-separated)
    #[arg(
        long,
        value_name = "GLOB",
        env = "OUTCROP_EXCLUDE_NAMESPACE",
        value_delimiter = ',',
        requires = "kubernetes"
    )]
    exclude_namespace: Vec<String>,

    /// Namespace, or a glob, in which the annotation outcrop.dev/exclude=true, on a workload or on the namespace, excludes workloads (repeatable or comma-separated)
    #[arg(long, value_name = "GLOB", env = "OUTCROP_ANNOTATIONS_IN", value_delimiter = ',', requires = "kubernetes")]
    annotations_in: Vec<String>,

    /// Policy that selects workloads: Rego v0, package snyk, rule workload_events (as for the Snyk controller); reloaded when the file changes
    #[arg(long, value_name = "FILE", env = "OUTCROP_POLICY", requires = "kubernetes")]
    policy: Option<PathBuf>,

    /// Label or annotation that names the owner of a workload, read from the workload and then from its namespace (repeatable or comma-separated; the first match counts)
    #[arg(long, value_name = "KEY", env = "OUTCROP_OWNER_KEY", value_delimiter = ',', requires = "kubernetes")]
    owner_key: Vec<String>,

    /// Service account of the agents, which authenticate with tokens bound to their pods; used if --tokens is not set
    #[arg(long, value_name = "NAMESPACE/NAME", env = "OUTCROP_AGENT_ACCOUNT", requires = "kubernetes")]
    agent_account: Option<String>,

    /// Existing ConfigMap to which the CA certificate of --tls-name or --tls-ca is published as ca.crt
    #[arg(long, value_name = "NAMESPACE/NAME", env = "OUTCROP_PUBLISH_CA", requires = "kubernetes")]
    publish_ca: Option<String>,
}

/// Parses the value of `flag` as `NAMESPACE/NAME`.
fn pair(flag: &str, text: Option<String>) -> Result<Option<(String, String)>, Fatal> {
    let split = |text: String| match text.split_once('/') {
        Some((namespace, name)) if is_name(namespace) && is_name(name) => Ok((namespace.to_owned(), name.to_owned())),
        _ => Err(Fatal::usage(format!("invalid value {text:?} for {flag}: expected NAMESPACE/NAME"))),
    };
    text.map(split).transpose()
}

/// Parses the values of `flag` as namespaces or globs.
fn patterns(flag: &str, texts: &[String]) -> Result<NamespacePatterns, Fatal> {
    NamespacePatterns::parse(texts).map_err(|error| Fatal::usage(format!("invalid value for {flag}: {error}")))
}

impl Kubernetes {
    fn config(self) -> Result<Option<aggregator::Kubernetes>, Fatal> {
        let agent_account = pair("--agent-account", self.agent_account)?;
        let publish_ca = pair("--publish-ca", self.publish_ca)?;
        let included_namespaces = patterns("--include-namespace", &self.include_namespace)?;
        let excluded_namespaces = patterns("--exclude-namespace", &self.exclude_namespace)?;
        let annotations_in = patterns("--annotations-in", &self.annotations_in)?;
        Ok(self.kubernetes.then(|| aggregator::Kubernetes {
            kubeconfig: self.kubeconfig,
            namespaces: self.watch_namespace.into_iter().collect(),
            included_namespaces,
            excluded_namespaces,
            annotations_in,
            policy: self.policy,
            owner_keys: self.owner_key,
            agent_account,
            publish_ca,
        }))
    }
}

/// Parses the value of `--offline-allow`.
fn parse_peer(text: &str) -> Result<Peer, &'static str> {
    Peer::parse(text).ok_or("expected HOST:PORT, as in central.example:443 or [fd00::1]:443")
}

/// Fails if a target needs a connection that is not allowed.
fn check_offline(deliver: &deliver::Config, allowed: &[Peer]) -> Result<(), Fatal> {
    for target in &deliver.targets {
        let peer = target.peer().map_err(|error| Fatal::usage(format!("target {}: {error}", target.name)))?;
        let Some(peer) = peer else { continue };
        if !allowed.contains(&peer) {
            return Err(Fatal::usage(format!(
                "--offline refuses connections to the target {}: pass --offline-allow {peer}, or remove the target from --deliver",
                target.name
            )));
        }
    }
    Ok(())
}

fn go_offline(kubernetes: Option<&aggregator::Kubernetes>, allowed: Vec<Peer>) -> Result<Offline, Fatal> {
    let failed =
        |error: &dyn std::fmt::Display| Fatal::failed(format!("restricting network access (--offline): {error}"));
    let port = match kubernetes {
        Some(kubernetes) => {
            // A current-thread runtime starts no other thread, which Landlock requires here.
            let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| failed(&error))?;
            let port = runtime.block_on(api_server_port(kubernetes.kubeconfig.as_deref()));
            Some(port.map_err(|error| failed(&error))?)
        }
        None => None,
    };
    offline::enter(port, allowed).map_err(|error| failed(&error))
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Fatal> {
    let tls = arguments.tls_cert.zip(arguments.tls_key);
    let makes_own = !arguments.tls_name.is_empty();
    if tls.is_none() && !makes_own && !arguments.insecure {
        return Err(Fatal::usage(
            "TLS for agents is not configured: pass --tls-cert FILE --tls-key FILE, or --tls-name HOST, or --insecure on a loopback address",
        ));
    }
    if arguments.insecure && !arguments.listen.ip().is_loopback() {
        return Err(Fatal::usage(format!(
            "--insecure requires a loopback address for --listen, not {}",
            arguments.listen
        )));
    }
    if arguments.api_tokens.is_none() && !arguments.kubernetes.kubernetes && !arguments.api.ip().is_loopback() {
        return Err(Fatal::usage(format!(
            "--api {} is not a loopback address, so API users must authenticate: pass --api-tokens FILE (see outcrop token new --api)",
            arguments.api
        )));
    }
    if arguments.kubernetes.publish_ca.is_some() && !makes_own && arguments.tls_ca.is_none() {
        return Err(Fatal::usage(
            "--publish-ca has no CA certificate to publish: pass --tls-ca FILE with --tls-cert, or --tls-name HOST",
        ));
    }
    let api_tls = arguments.api_tls_cert.zip(arguments.api_tls_key);
    if api_tls.is_none() && !makes_own && !arguments.api.ip().is_loopback() {
        return Err(Fatal::usage(format!(
            "--api {} is not a loopback address, so the API must use TLS: pass --api-tls-cert FILE --api-tls-key FILE, or --tls-name HOST",
            arguments.api
        )));
    }
    let keys: Result<Vec<PublicKey>, _> = arguments.db_key.iter().map(|key| PublicKey::from_argument(key)).collect();
    let keys = keys.map_err(|error| Fatal::usage(format!("invalid value for --db-key: {error}")))?;
    if arguments.offline && arguments.otlp_endpoint.is_some() {
        return Err(Fatal::usage(
            "--otlp-endpoint cannot be used with --offline, because the kernel refuses connections to the collector",
        ));
    }
    let deliver = arguments.deliver.as_deref().map(deliver::Config::open).transpose();
    let deliver = deliver.map_err(|error| Fatal::usage(error.to_string()))?.unwrap_or_default();
    if arguments.offline {
        check_offline(&deliver, &arguments.offline_allow)?;
    }
    let kubernetes = arguments.kubernetes.config()?;
    if kubernetes.is_some() && clock::is_moved() {
        return Err(Fatal::usage(format!(
            "{} cannot be used with --kubernetes, because the API server uses the true time",
            clock::VARIABLE
        )));
    }
    // Landlock restricts the calling thread and its descendants: no other thread may exist yet.
    let offline = arguments.offline.then(|| go_offline(kubernetes.as_ref(), arguments.offline_allow)).transpose()?;
    let start = |endpoint: &String| Traces::start(endpoint, arguments.otlp_ca.as_deref(), &arguments.cluster);
    let traces = arguments.otlp_endpoint.as_ref().map(start).transpose();
    let traces = traces.map_err(|error| Fatal::usage(error.to_string()))?;
    logging::init_with(arguments.log_format, logging::SERVICE_FILTER, traces.as_ref().map(Traces::layer))
        .map_err(|error| Fatal::usage(error.to_string()))?;
    if let Some(warning) = clock::warning() {
        tracing::warn!(warning, "clock shifted");
    }
    if let Some(day) = arguments.db_as_of {
        tracing::warn!(warning = advisory::as_of_warning(day), "age of the advisory database not judged today");
    }
    let config = Config {
        cluster: arguments.cluster,
        data: arguments.data,
        database: arguments.db,
        database_as_of: arguments.db_as_of,
        policy: Policy { keys, require_signature: arguments.require_signature, ..Policy::default() },
        tokens: arguments.tokens,
        kubernetes,
        offline,
        listen: arguments.listen,
        tls,
        tls_names: arguments.tls_name,
        tls_ca: arguments.tls_ca,
        api: arguments.api,
        probes: arguments.probes,
        api_hosts: arguments.api_host,
        api_tokens: arguments.api_tokens,
        api_tls,
        verify_share: arguments.verify_share,
        verify_containers: arguments.verify_containers,
        verify_within: arguments.verify_interval,
        forget_after: arguments.forget_after,
        keep_unused: arguments.keep_unused,
        keep_history: arguments.keep_history,
        deliver,
        outbox: arguments.outbox,
    };
    logging::log_panics();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Fatal::failed(format!("starting the async runtime: {error}")))?;
    let ended = runtime.block_on(aggregator::run(config));
    // A migration that SIGTERM interrupts is not waited for: it begins anew at the next start.
    runtime.shutdown_background();
    ended.map_err(|error| Fatal::failed(error.to_string()))?;
    Ok(Exit::Done)
}
