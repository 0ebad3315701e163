//! Connects to the aggregator in a cluster through the API server, as `kubectl port-forward` and `kubectl create token` do, with the rights
//! of the kubeconfig's user.

use std::collections::BTreeSet;
use std::ffi::OsStr;
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

    /// Returns a flag that is given on the command line. Variables may be set for every command.
    pub(super) fn flag(&self) -> Option<&'static str> {
        let path = self.kubeconfig.as_ref().map(|path| path.as_os_str());
        let [namespace, account] = [&self.outcrop_namespace, &self.service_account];
        let [namespace, account] = [namespace, account].map(|text| text.as_ref().map(OsStr::new));
        let is_set =
            |value: Option<&OsStr>, variable: &str| value.is_some() && std::env::var_os(variable).as_deref() != value;
        [
            ("--context", self.context.is_some()),
            ("--kubeconfig", is_set(path, "OUTCROP_KUBECONFIG")),
            ("--outcrop-namespace", is_set(namespace, "OUTCROP_NAMESPACE")),
            ("--service-account", is_set(account, "OUTCROP_SERVICE_ACCOUNT")),
        ]
        .into_iter()
        .find_map(|(flag, is_given)| is_given.then_some(flag))
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
            failed("listing its pods", &error, "to search one namespace only, pass --outcrop-namespace NAMESPACE")
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
        let candidates = candidates(&pods.items);
        let Some(pod) = candidates.first() else {
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
        let names = candidates.iter().map(|pod| pod.name_any()).collect();
        let base = forward(client, &namespace, names).await.map_err(|error| error.to_string())?;
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
                    let doing = format!("listing service accounts in namespace {namespace}");
                    failed(&doing, &error, "pass --service-account NAMESPACE/NAME or --token-file FILE")
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
            let doing = format!("requesting a token of service account {namespace}/{name}");
            failed(&doing, &error, "to authenticate in another way, pass --service-account or --token-file")
        })?;
        made.status.map(|status| status.token).ok_or_else(|| "the API server returned no token".to_owned())
    }
}

/// Returns the pods to connect to, the best first: those that are ready and not being deleted, then others that run; of equal ones the newest.
/// A pod of a node that is gone stays `Running` for minutes, but is not ready.
fn candidates(pods: &[Pod]) -> Vec<&Pod> {
    let status = |pod: &Pod| pod.status.clone().unwrap_or_default();
    let is_running = |pod: &&Pod| status(pod).phase.as_deref() == Some("Running");
    let is_ready = |pod: &Pod| {
        let mut conditions = status(pod).conditions.unwrap_or_default().into_iter();
        conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let is_deleted = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    let mut candidates: Vec<&Pod> = pods.iter().filter(is_running).collect();
    candidates.sort_by_key(|pod| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        std::cmp::Reverse((is_ready(pod) && !is_deleted(pod), !is_deleted(pod), created))
    });
    candidates
}

/// Returns the message for a request to the API server that failed: its refusal with a hint, or that it did not respond.
fn failed(doing: &str, error: &kube::Error, hint: &str) -> String {
    if let kube::Error::Api(_) = error {
        return format!("{doing}: {}; {hint}", error_message(error));
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    format!(
        "{doing}: the API server did not respond ({cause}); check the server in the kubeconfig, and that the cluster runs"
    )
}

/// Returns the published CA certificate of the aggregator, if it is readable.
async fn published(client: &Client, namespace: &str) -> Option<String> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let maps = maps.list(&ListParams::default().labels(OUTCROP)).await.ok()?;
    maps.items.into_iter().find_map(|map| map.data?.remove("ca.crt"))
}

/// Listens on loopback and forwards connections to the first of the pods that the API server reaches.
async fn forward(client: Client, namespace: &str, names: Vec<String>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (pods, names) = (pods.clone(), names.clone());
            tokio::spawn(async move {
                for name in names {
                    let Ok(mut forwarder) = pods.portforward(&name, &[PORT]).await else { continue };
                    if let Some(mut far) = forwarder.take_stream(PORT) {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                    return;
                }
                // The client sees a failure as a closed connection.
            });
        }
    });
    Ok(address)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_ready_pod_that_is_not_being_deleted_comes_first() {
        let pod = |name: &str, phase: &str, ready: bool, deleted: bool, hour: u8| {
            let ready = if ready { "True" } else { "False" };
            let mut pod = json!({
                "metadata": { "name": name, "creationTimestamp": format!("2026-11-01T{hour:02}:00:00Z") },
                "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": ready }] },
            });
            if deleted {
                pod["metadata"]["deletionTimestamp"] = json!("2026-11-02T00:00:00Z");
            }
            serde_json::from_value::<Pod>(pod).unwrap()
        };
        let names = |pods: &[Pod]| candidates(pods).into_iter().map(|pod| pod.name_any()).collect::<Vec<_>>();
        let good = || pod("good", "Running", true, false, 1);
        for (others, expected) in [
            (vec![], Some("good")),
            // Of a node that is gone: the kubelet does not report any more.
            (vec![pod("lost", "Running", false, false, 2)], Some("good")),
            (vec![pod("ending", "Running", true, true, 2)], Some("good")),
            (vec![pod("waiting", "Pending", false, false, 2), pod("evicted", "Failed", false, false, 3)], Some("good")),
            (vec![pod("newer", "Running", true, false, 2)], Some("newer")),
        ] {
            for pods in [[vec![good()], others.clone()].concat(), [others.clone(), vec![good()]].concat()] {
                assert_eq!(names(&pods).first().map(String::as_str), expected, "{pods:?}");
            }
        }
        // Without a ready one, the one that may become ready; and none that does not run.
        let starting = [pod("ending", "Running", true, true, 2), pod("starting", "Running", false, false, 1)];
        assert_eq!(names(&starting), ["starting", "ending"]);
        assert!(names(&[pod("waiting", "Pending", false, false, 1)]).is_empty());
    }
}
