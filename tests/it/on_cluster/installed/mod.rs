//! Outcrop as it is installed: by its chart, from its images, in a real cluster without a registry.
//!
//! Needs a running test cluster with the images `debian`, `layers`, `outcrop` and `outcrop-agent`, and Helm: OUTCROP_CLUSTER names the
//! cluster's script, `tests/cluster/cluster`, and OUTCROP_HELM the program (`tests/chart/helm` fetches it).

mod operation;
mod results;
mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::on_cluster::cluster_parts::{Cluster, SLEEP, pod};
use crate::service_parts::{OUTCROP, until, within};
use crate::skip::skip;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outcrop_proto::clock;
use outcrop_proto::wire::v1;
use outcrop_proto::wire::v1::collector_client::CollectorClient;
use serde_json::{Value, json};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};

const NAMESPACE: &str = "outcrop";

/// Bindings that a test makes.
const OPERATOR: &str = "outcrop-test-operator";
const NEWCOMER: &str = "outcrop-test-newcomer";

/// Outcrop, installed.
struct Installed {
    cluster: Cluster,
    helm: PathBuf,
    dir: tempfile::TempDir,
}

impl Installed {
    /// Installs the chart, and waits until everything of it is ready.
    fn new() -> Option<Self> {
        let cluster = Cluster::running()?;
        let Some(helm) = std::env::var_os("OUTCROP_HELM") else {
            skip("cluster", "no Helm: OUTCROP_HELM does not name one");
            return None;
        };
        super::cluster_parts::enter("a");
        cluster.kubectl(&["delete", "namespace", NAMESPACE, "shop", "bank", "--ignore-not-found", "--timeout", "90s"]);
        cluster.kubectl(&["delete", "clusterrolebinding", OPERATOR, NEWCOMER, "--ignore-not-found"]);
        let dir = tempfile::tempdir().unwrap();
        keep(&cluster);
        let installed = Self { cluster, helm: helm.into(), dir };
        // What was there before cluster-wide objects belong to goes first.
        let _ = installed.helm(&["uninstall", "outcrop", "-n", NAMESPACE, "--ignore-not-found", "--wait"]);
        rights::count_connections(&installed.cluster);
        let start = Instant::now();
        installed.release("install", &[]);
        installed.ready();
        println!("helm install -> aggregator and agents ready: {:?}", start.elapsed());
        until("the aggregator to answer", || installed.ask(&["status", "-o", "json"]).is_ok());
        until("nothing to be pending", || installed.pending() == Some(0));
        println!("helm install -> every container in a final state: {:?}", start.elapsed());
        Some(installed)
    }

    fn helm(&self, args: &[&str]) -> Result<(), String> {
        let homes = ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"];
        let homes = homes.map(|name| (name, self.dir.path().join("helm")));
        let mut command = Command::new(&self.helm);
        let output = command.args(args).env("KUBECONFIG", self.cluster.kubeconfig()).envs(homes).output().unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// Installs or upgrades the release: with the cluster's values, what it knows on a volume, nothing but the API server to reach, and
    /// these values.
    fn release(&self, verb: &str, values: &[&str]) {
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/outcrop");
        let of_cluster = self.dir.path().join("values.yaml");
        std::fs::write(&of_cluster, self.cluster.run(&["values"])).unwrap();
        let kept = "offline=true,aggregator.persistence.enabled=true,aggregator.persistence.existingClaim=data";
        let all = [&[kept], values].concat().join(",");
        let of_cluster = of_cluster.to_str().unwrap();
        self.helm(&[verb, "outcrop", chart, "-n", NAMESPACE, "--values", of_cluster, "--set", &all]).unwrap();
    }

    fn ready(&self) {
        for of in ["deployment/outcrop-aggregator", "daemonset/outcrop-agent-a", "daemonset/outcrop-agent-b"] {
            self.cluster.kubectl(&["rollout", "status", "-n", NAMESPACE, of, "--timeout", "120s"]);
        }
    }

    /// What the command line says, which finds the aggregator by the kubeconfig.
    fn ask(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(OUTCROP);
        let output = command.args(args).env("KUBECONFIG", self.cluster.kubeconfig()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn json(&self, args: &[&str]) -> Value {
        let answer = self.ask(&[args, &["-o", "json"]].concat());
        serde_json::from_str(&answer.unwrap_or_else(|error| panic!("{args:?}: {error}"))).unwrap()
    }

    /// The status, where it is answered.
    fn status(&self) -> Option<Value> {
        Some(serde_json::from_str(&self.ask(&["status", "-o", "json"]).ok()?).unwrap())
    }

    fn pending(&self) -> Option<u64> {
        let status = self.status()?;
        let synced = status["kubernetes"]["synced"] == true && status["nodes"]["attached"] == 2;
        synced.then(|| covered(&status, "pending"))
    }

    /// The authority that the aggregator has published.
    fn ca(&self) -> String {
        let map = self.cluster.json(&["get", "configmap", "outcrop-ca", "-n", NAMESPACE]);
        map["data"]["ca.crt"].as_str().unwrap().to_owned()
    }

    /// Where its Service answers in the cluster.
    fn service(&self) -> String {
        let service = self.cluster.json(&["get", "service", "outcrop", "-n", NAMESPACE]);
        service["spec"]["clusterIP"].as_str().unwrap().to_owned()
    }

    /// A token of a service account; of a pod's, where one is named.
    fn token(&self, namespace: &str, account: &str, audience: &str, pod: Option<&str>) -> String {
        let mut args = vec!["create", "token", account, "-n", namespace, "--audience", audience];
        args.extend(pod.iter().flat_map(|pod| ["--bound-object-kind", "Pod", "--bound-object-name", pod]));
        self.cluster.kubectl(&args).trim().to_owned()
    }

    /// The same token with another end, in seconds from now, signed as the API server signs its own.
    fn ending(&self, token: &str, seconds: i64) -> String {
        let mut parts = token.split('.');
        let (header, claims) = (parts.next().unwrap(), URL_SAFE_NO_PAD.decode(parts.next().unwrap()).unwrap());
        let mut claims: Value = serde_json::from_slice(&claims).unwrap();
        claims["exp"] = json!(clock::machine().as_second() + seconds);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let key = Path::new(&self.cluster.kubeconfig()).with_file_name("keys").join("accounts.key");
        let message = self.dir.path().join("message");
        std::fs::write(&message, &signed).unwrap();
        let output = Command::new("openssl").args(["dgst", "-sha256", "-sign"]).args([key, message]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(output.stdout))
    }

    fn agent_pod(&self, node: &str) -> String {
        let pods = self.cluster.json(&["get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=agent"]);
        let pods = pods["items"].as_array().unwrap().clone();
        let pod = pods.iter().find(|pod| pod["spec"]["nodeName"] == node).unwrap();
        pod["metadata"]["name"].as_str().unwrap().to_owned()
    }

    /// What the API answers over its Service to who shows this token: the status and the body.
    fn get(&self, path: &str, token: &str) -> (u16, String) {
        let ca = self.dir.path().join("ca.crt");
        std::fs::write(&ca, self.ca()).unwrap();
        let resolve = format!("outcrop.{NAMESPACE}.svc:7480:{}", self.service());
        let url = format!("https://outcrop.{NAMESPACE}.svc:7480{path}");
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "20", "--resolve", &resolve, "--cacert"])
            .arg(ca)
            .args(["--header", &format!("Authorization: Bearer {token}"), "--write-out", "\n%{http_code}", &url])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    /// A pod's node speaks by hand: what is said to who shows this token and says that it is `node`.
    async fn attach(&self, token: &str, node: &str) -> Result<tonic::Streaming<v1::Order>, tonic::Status> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.ca()))
            .domain_name(format!("outcrop.{NAMESPACE}.svc"));
        let channel =
            Channel::from_shared(format!("https://{}:7443", self.service())).unwrap().tls_config(tls).unwrap();
        let mut client = CollectorClient::new(channel.connect().await.unwrap());
        let (reports, outbox) = tokio::sync::mpsc::channel(4);
        let hello = v1::Hello {
            node: node.to_owned(),
            agent_version: "0".to_owned(),
            catalogers: outcrop_agent::catalog::VERSION,
            wire_version: outcrop_proto::wire::VERSION,
            ..v1::Hello::default()
        };
        let report = v1::Report { report: Some(v1::report::Report::Hello(hello)), cluster: "default".to_owned() };
        reports.send(report).await.unwrap();
        let mut request = tonic::Request::new(ReceiverStream::new(outbox));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let orders = client.attach(request).await?.into_inner();
        // As long as it is held open it speaks.
        std::mem::forget(reports);
        Ok(orders)
    }
}

/// How many containers a status says to be in a state of coverage.
fn covered(status: &Value, state: &str) -> u64 {
    let coverage = status["coverage"].as_array().unwrap().iter().find(|of| of["state"] == state);
    coverage.unwrap()["containers"].as_u64().unwrap()
}

/// Makes the namespace, and in it a claim with a volume on node a: the cluster makes none by itself.
fn keep(cluster: &Cluster) {
    let path = cluster.socket("a").parent().unwrap().with_file_name("data");
    std::fs::create_dir_all(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(65532), Some(65532)).unwrap();
    cluster.kubectl(&["delete", "pv", "outcrop-data", "--ignore-not-found", "--timeout", "60s"]);
    cluster.kubectl(&["create", "namespace", NAMESPACE]);
    let size = json!({ "storage": "1Gi" });
    let on_a = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": ["a"] });
    cluster.create(&json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "outcrop-data" },
        "spec": { "capacity": size, "accessModes": ["ReadWriteOnce"], "storageClassName": "none", "hostPath": { "path": path },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [on_a] }] } } } }));
    cluster.create(&json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data", "namespace": NAMESPACE },
        "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": { "requests": size } } }));
}

/// A part of the test, with what it is for.
type Part = (&'static str, fn(&Installed));

#[test]
fn what_is_installed_is_trusted_and_trusts_as_it_should() {
    let Some(installed) = Installed::new() else { return };
    let cluster = &installed.cluster;
    for namespace in ["shop", "bank"] {
        cluster.kubectl(&["create", "namespace", namespace]);
        until("the namespace's account", || {
            cluster.kubectl(&["get", "serviceaccount", "-n", namespace, "-o", "name"]).contains("default")
        });
    }
    cluster.create(&pod("shop", "web", "a", "outcrop.example/debian:1", &SLEEP));
    cluster.create(&pod("bank", "vault", "b", "outcrop.example/layers:1", &SLEEP));
    for namespace in ["shop", "bank"] {
        cluster.kubectl(&["wait", "-n", namespace, "--for", "condition=Ready", "pod", "--all", "--timeout", "60s"]);
    }
    until("all to be looked into", || installed.pending() == Some(0));
    let parts: [Part; 11] = [
        ("a preflight finds what keeps pods from starting", operation::a_preflight_finds_what_keeps_pods_from_starting),
        ("agents speak for their nodes", rights::agents_speak_for_their_nodes),
        ("namespaces are seen by their own", rights::namespaces_are_seen_by_their_own),
        ("nothing of the host can be changed", rights::nothing_of_the_host_can_be_changed),
        ("findings follow workloads", results::findings_follow_workloads),
        ("images are told of as they are", results::images_are_told_of_as_they_are),
        ("a container that was started again is one", results::a_container_that_was_started_again_is_one),
        ("the command line asks a pod that is ready", results::the_command_line_asks_a_pod_that_is_ready),
        ("nothing leaves", rights::nothing_leaves),
        ("it heals", operation::it_heals),
        ("it can be narrowed", operation::it_can_be_narrowed),
    ];
    for (what, part) in parts {
        let start = Instant::now();
        part(&installed);
        println!("{what}: {:.1} s in all", start.elapsed().as_secs_f64());
    }
    cluster.kubectl(&["delete", "namespace", "shop", "bank", "--wait=false"]);
    cluster.kubectl(&["delete", "clusterrolebinding", OPERATOR, NEWCOMER]);
}
