//! To the aggregator in a cluster, through the API server: as `kubectl port-forward` and `kubectl create token` do it, with the rights of
//! who has the kubeconfig.

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
use crate::cluster::{AUDIENCE, connect, has_kubeconfig, words};

/// What the chart calls an aggregator's pods.
const AGGREGATOR: &str = "app.kubernetes.io/part-of=outcrop,app.kubernetes.io/component=aggregator";

/// What the chart calls what is for users: the service account that may see everything.
const USERS: &str = "app.kubernetes.io/part-of=outcrop,app.kubernetes.io/component=users";

/// What the chart calls its other objects.
pub(super) const OUTCROP: &str = "app.kubernetes.io/part-of=outcrop";

/// Where the aggregator's API listens in its pod.
const PORT: u16 = 7480;

/// How long the token is good for, seconds: the least that Kubernetes gives.
const TOKEN_SECONDS: i64 = 600;

/// Which cluster, and as whom.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Cluster {
    /// The kubeconfig of the cluster whose aggregator is asked
    #[arg(long, value_name = "FILE", env = "OUTCROP_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,

    /// The kubeconfig's context to use
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// The namespace that Outcrop is installed in; without it all are looked through
    #[arg(long, value_name = "NAMESPACE", env = "OUTCROP_NAMESPACE")]
    outcrop_namespace: Option<String>,

    /// The service account to ask as: what it may see is shown. Without it the one that the chart made for viewers
    #[arg(long, value_name = "NAMESPACE/NAME", env = "OUTCROP_SERVICE_ACCOUNT")]
    service_account: Option<String>,
}

/// A way to an aggregator, as long as it is kept.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// Where it begins.
    pub(super) base: String,
    /// What the aggregator's certificate is signed by, PEM, where it was published.
    pub(super) ca: Option<String>,
    /// A token for it.
    pub(super) token: Option<String>,
    /// Carries it.
    _runtime: Runtime,
}

impl Cluster {
    /// Whether somebody said which cluster: by a flag, or by a kubeconfig where kubectl looks for it.
    pub(super) fn is_named(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some() || has_kubeconfig()
    }

    /// The namespace that Outcrop is in, where it was said.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.outcrop_namespace.as_deref()
    }

    /// Opens a tunnel; asks for a token as well, if one is wanted.
    pub(super) fn open(&self, wants_token: bool) -> Result<Tunnel, Fatal> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| Fatal::failed(format!("starting: {error}")))?;
        let (base, ca, token) = runtime.block_on(self.find(wants_token)).map_err(|error| {
            Fatal::failed(format!("the aggregator in the cluster: {error}; --server URL asks one that is elsewhere"))
        })?;
        Ok(Tunnel { base, ca, token, _runtime: runtime })
    }

    /// A client of the API server; where no cluster is named, as the account of the pod that this runs in.
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
            format!("looking for its pod: {}; --outcrop-namespace NAMESPACE looks in one only", words(&error))
        })?;
        // Whoever may make pods may label them like this, and would be shown a token.
        let namespaces: BTreeSet<String> = pods.items.iter().filter_map(kube::ResourceExt::namespace).collect();
        if namespaces.len() > 1 {
            let all: Vec<String> = namespaces.into_iter().collect();
            return Err(format!(
                "there are pods of one in {}; --outcrop-namespace NAMESPACE says which",
                all.join(", ")
            ));
        }
        let running = |pod: &&Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        let Some(pod) = pods.items.iter().find(running) else {
            return Err(match pods.items.first() {
                Some(pod) => format!("its pod {} does not run", pod.name_any()),
                None => "there is none; helm install outcrop charts/outcrop makes one".to_owned(),
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
            return Err(format!("with {flag} say that it is in {namespace}: --outcrop-namespace {namespace}"));
        }
        let ca = published(&client, &namespace).await;
        let token = if wants_token { Some(self.token(&client, &namespace).await?) } else { None };
        let base = forward(client, &namespace, pod.name_any()).await.map_err(|error| error.to_string())?;
        Ok((format!("https://localhost:{}", base.port()), ca, token))
    }

    /// A token of the service account to ask as.
    async fn token(&self, client: &Client, namespace: &str) -> Result<String, String> {
        let (namespace, name) = match &self.service_account {
            Some(named) => {
                let split = named.split_once('/').ok_or(format!("--service-account {named}: give NAMESPACE/NAME"))?;
                (split.0.to_owned(), split.1.to_owned())
            }
            None => {
                let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
                let found = accounts.list(&ListParams::default().labels(USERS)).await;
                let found = found.map_err(|error| format!("looking for its viewers' account: {}", words(&error)))?;
                let none = "there is no account for viewers; --service-account NAMESPACE/NAME names one";
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
                "a token of {namespace}/{name}: {}; --service-account or --token-file asks as somebody else",
                words(&error)
            )
        })?;
        made.status.map(|status| status.token).ok_or_else(|| "the API server made no token".to_owned())
    }
}

/// The authority of the aggregator's certificate, where it has published one that can be read.
async fn published(client: &Client, namespace: &str) -> Option<String> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let maps = maps.list(&ListParams::default().labels(OUTCROP)).await.ok()?;
    maps.items.into_iter().find_map(|map| map.data?.remove("ca.crt"))
}

/// Listens on loopback, and passes on what comes to the pod.
async fn forward(client: Client, namespace: &str, pod: String) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (pods, pod) = (pods.clone(), pod.clone());
            tokio::spawn(async move {
                // What fails shows as a connection that ends, to who asks.
                let Ok(mut forwarder) = pods.portforward(&pod, &[PORT]).await else { return };
                if let Some(mut far) = forwarder.take_stream(PORT) {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    Ok(address)
}
