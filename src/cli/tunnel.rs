//! Connects to the aggregator in a cluster through the API server, as `kubectl port-forward` and `kubectl create token` do, with the rights
//! of the kubeconfig's user.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::Fatal;
use crate::cluster::{AUDIENCE, connect, error_message, has_kubeconfig};

/// Labels that the chart sets on the aggregator's pods.
const AGGREGATOR: &str = "app.kubernetes.io/part-of=outcrop,app.kubernetes.io/component=aggregator";

/// Labels that the chart sets on the service account for users, which may see everything.
const USERS: &str = "app.kubernetes.io/part-of=outcrop,app.kubernetes.io/component=users";

/// Label that the chart sets on all its objects.
pub(super) const OUTCROP: &str = "app.kubernetes.io/part-of=outcrop";

/// Port of the aggregator's API in its pod.
const PORT: u16 = 7480;

/// Lifetime of the requested token, seconds: the minimum that Kubernetes allows.
const TOKEN_SECONDS: i64 = 600;

/// Flags that select a cluster and the account to use there.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Cluster {
    /// Path of the kubeconfig; default: the KUBECONFIG variable or ~/.kube/config
    #[arg(long, value_name = "FILE", env = "OUTCROP_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig; default: the current context
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// Namespace in which Outcrop is installed; default: search all namespaces
    #[arg(long, value_name = "NAMESPACE", env = "OUTCROP_NAMESPACE")]
    outcrop_namespace: Option<String>,

    /// Service account to send requests as, which decides what is shown; default: the account that the chart creates for viewers
    #[arg(long, value_name = "NAMESPACE/NAME", env = "OUTCROP_SERVICE_ACCOUNT")]
    service_account: Option<String>,
}

/// A tunnel to an aggregator; it closes when the value is dropped.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// Base URL of the local end.
    pub(super) base: String,
    /// CA certificate of the aggregator, PEM, if it is published.
    pub(super) ca: Option<String>,
    /// Token for the aggregator, if one was requested.
    pub(super) token: Option<String>,
    /// Runs the tunnel.
    _runtime: Runtime,
}

impl Cluster {
    /// Returns whether a cluster is selected, by a flag or by a kubeconfig in a default location.
    pub(super) fn is_named(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some() || has_kubeconfig()
    }

    /// Returns the namespace of `--outcrop-namespace`.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.outcrop_namespace.as_deref()
    }

    /// Opens a tunnel and, if `wants_token` is set, requests a token.
    pub(super) fn open(&self, wants_token: bool) -> Result<Tunnel, Fatal> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| Fatal::failed(format!("starting the async runtime: {error}")))?;
        let (base, ca, token) = runtime.block_on(self.find(wants_token)).map_err(|error| {
            Fatal::failed(format!("connecting to the aggregator in the cluster: {error}; to use an aggregator elsewhere, pass --server URL"))
        })?;
        Ok(Tunnel { base, ca, token, _runtime: runtime })
    }

    /// Returns a client of the API server; without a selected cluster, the client of the pod's service account.
    pub(super) async fn client(&self) -> Result<Client, String> {
        connect(self.kubeconfig.as_deref(), self.context.as_deref()).await
    }

    async fn find(&self, wants_token: bool) -> Result<(String, Option<String>, Option<String>), String> {
        let client = self.client().await?;
        let pods: Api<Pod> = match &self.outcrop_namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let pods = pods.list(&ListParams::default().labels(AGGREGATOR)).await.map_err(|error| {
            format!(
                "listing its pods: {}; to search one namespace only, pass --outcrop-namespace NAMESPACE",
                error_message(&error)
            )
        })?;
        // Anyone who may create pods may set these labels, and would receive a token.
        let namespaces: BTreeSet<String> = pods.items.iter().filter_map(kube::ResourceExt::namespace).collect();
        if namespaces.len() > 1 {
            let all: Vec<String> = namespaces.into_iter().collect();
            return Err(format!(
                "found aggregator pods in namespaces {}; select one with --outcrop-namespace NAMESPACE",
                all.join(", ")
            ));
        }
        let running = |pod: &&Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        let Some(pod) = pods.items.iter().find(running) else {
            return Err(match pods.items.first() {
                Some(pod) => format!("pod {} is not running; check it with kubectl describe pod", pod.name_any()),
                None => {
                    "no aggregator pod found; install the chart with helm install outcrop charts/outcrop".to_owned()
                }
            });
        };
        let namespace = pod.namespace().unwrap_or_default();
        let foreign = match &self.service_account {
            _ if self.outcrop_namespace.is_some() => None,
            _ if !wants_token => Some("--token-file"),
            Some(account) if account.split('/').next() != Some(&namespace) => Some("--service-account"),
            _ => None,
        };
        if let Some(flag) = foreign {
            return Err(format!(
                "{flag} requires the namespace of the aggregator; pass --outcrop-namespace {namespace} if you trust the pods there"
            ));
        }
        let ca = published(&client, &namespace).await;
        let token = if wants_token { Some(self.token(&client, &namespace).await?) } else { None };
        let base = forward(client, &namespace, pod.name_any()).await.map_err(|error| error.to_string())?;
        Ok((format!("https://localhost:{}", base.port()), ca, token))
    }

    /// Requests a token of the service account.
    async fn token(&self, client: &Client, namespace: &str) -> Result<String, String> {
        let (namespace, name) = match &self.service_account {
            Some(named) => {
                let split = named
                    .split_once('/')
                    .ok_or(format!("invalid value {named:?} for --service-account: expected NAMESPACE/NAME"))?;
                (split.0.to_owned(), split.1.to_owned())
            }
            None => {
                let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
                let found = accounts.list(&ListParams::default().labels(USERS)).await;
                let found = found.map_err(|error| {
                    format!("listing service accounts in namespace {namespace}: {}", error_message(&error))
                })?;
                let none = "the namespace has no service account for viewers; pass --service-account NAMESPACE/NAME";
                (namespace.to_owned(), found.items.first().ok_or(none)?.name_any())
            }
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        let spec = TokenRequestSpec {
            audiences: vec![AUDIENCE.to_owned()],
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let made = accounts.create_token_request(&name, &PostParams::default(), &request).await;
        let made = made.map_err(|error| {
            format!(
                "requesting a token of service account {namespace}/{name}: {}; to authenticate in another way, pass --service-account or --token-file",
                error_message(&error)
            )
        })?;
        made.status.map(|status| status.token).ok_or_else(|| "the API server returned no token".to_owned())
    }
}

/// Returns the published CA certificate of the aggregator, if it is readable.
async fn published(client: &Client, namespace: &str) -> Option<String> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let maps = maps.list(&ListParams::default().labels(OUTCROP)).await.ok()?;
    maps.items.into_iter().find_map(|map| map.data?.remove("ca.crt"))
}

/// Listens on loopback and forwards connections to the pod.
async fn forward(client: Client, namespace: &str, pod: String) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (pods, pod) = (pods.clone(), pod.clone());
            tokio::spawn(async move {
                // The client sees a failure as a closed connection.
                let Ok(mut forwarder) = pods.portforward(&pod, &[PORT]).await else { return };
                if let Some(mut far) = forwarder.take_stream(PORT) {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    Ok(address)
}
