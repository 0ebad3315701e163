//! Outcrop as it is installed: by its chart, from its images, in a real cluster without a registry.
//!
//! Needs a running test cluster with the images `debian`, `layers`, `outcrop` and `outcrop-agent`, and Helm: OUTCROP_CLUSTER names the
//! cluster's script, `tests/cluster/cluster`, and OUTCROP_HELM the program (`tests/chart/helm` fetches it).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::cluster_parts::{Cluster, SLEEP, pod};
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
        count_connections(&installed.cluster);
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

/// The chain that counts whom pods connect to.
const CHAIN: &str = "OUTCROP-TEST";

/// What pods of Outcrop may connect to: the API server, by its Service and by its address; DNS; the aggregator.
const ALLOWED: [&[&str]; 5] = [
    &["-p", "tcp", "-d", "10.96.0.1", "--dport", "443"],
    &["-p", "tcp", "-d", "10.77.0.1", "--dport", "6443"],
    &["-p", "udp", "--dport", "53"],
    &["-p", "tcp", "--dport", "53"],
    &["-p", "tcp", "-d", "10.96.0.0/16", "--dport", "7443"],
];

/// Counts, from now on, every connection that a pod begins, on both nodes. The first packet of each comes through this table.
fn count_connections(cluster: &Cluster) {
    for (node, pods) in [("a", "10.78.1.0/24"), ("b", "10.78.2.0/24")] {
        let table = |args: &[&str]| cluster.attempt(&[&["on", node, "iptables", "-w", "-t", "nat"], args].concat());
        let jump = ["PREROUTING", "-s", pods, "-j", CHAIN];
        let _ = table(&[&["-D"], &jump[..]].concat());
        let _ = table(&["-F", CHAIN]);
        let _ = table(&["-X", CHAIN]);
        table(&["-N", CHAIN]).unwrap();
        for allowed in ALLOWED {
            table(&[&["-A", CHAIN], allowed, &["-j", "RETURN"]].concat()).unwrap();
        }
        table(&["-A", CHAIN, "-j", "RETURN"]).unwrap();
        table(&[&["-I"], &jump[..]].concat()).unwrap();
    }
}

/// No pod has begun a connection but to the API server, to DNS and to the aggregator.
fn nothing_leaves(installed: &Installed) {
    let mut all = [0_u64; ALLOWED.len() + 1];
    for node in ["a", "b"] {
        let table = installed.cluster.run(&["on", node, "iptables", "-w", "-t", "nat", "-L", CHAIN, "-n", "-v", "-x"]);
        let counts: Vec<u64> =
            table.lines().skip(2).map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect();
        assert_eq!(counts.len(), all.len(), "{table}");
        assert_eq!(counts.last(), Some(&0), "something else was connected to from node {node}: {table}");
        all.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    let offline = installed.json(&["status"])["offline"].clone();
    assert_eq!(offline, json!({ "ports": [53, 443], "enforced": true }));
    let [service, address, udp, tcp, aggregator, others] = all;
    println!(
        "connections of pods: API server {}, DNS {}, aggregator {aggregator}, others {others}",
        service + address,
        udp + tcp
    );
    assert!(service + address > 0 && udp > 0 && aggregator >= 2, "those are counted at all: {all:?}");
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

/// A token speaks for the node of its pod, and for nothing else.
fn agents_speak_for_their_nodes(installed: &Installed) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let attach = |token: &str, node: &str| runtime.block_on(installed.attach(token, node));
    let agent = installed.agent_pod("a");
    let token = |account: &str, audience: &str, pod: Option<&str>| installed.token(NAMESPACE, account, audience, pod);
    let good = token("outcrop-agent", "outcrop", Some(&agent));
    let api = "https://kubernetes.default.svc";
    for (what, token, node, says) in [
        ("another node", good.clone(), "b", "the token is for node \"a\""),
        ("another audience", token("outcrop-agent", api, Some(&agent)), "a", "audience outcrop"),
        ("no pod", token("outcrop-agent", "outcrop", None), "a", "not bound to a pod"),
        ("another account", token("outcrop-viewer", "outcrop", None), "a", "not the agents' service account"),
        ("nonsense", "nonsense".to_owned(), "a", "audience outcrop"),
        ("nothing", String::new(), "a", "the token is empty"),
    ] {
        let status = attach(&token, node).map(drop).unwrap_err();
        assert!(status.message().contains(says), "{what}: {status:?}");
    }
    // A pod of the agents' account that goes takes its stream with it. The honest agent of that node is away meanwhile: it would do so too.
    let select = |selector: Value| {
        let patch = json!({ "spec": { "template": { "spec": { "nodeSelector": selector } } } }).to_string();
        installed.cluster.kubectl(&["patch", "daemonset", "outcrop-agent-b", "-n", NAMESPACE, "--patch", &patch]);
    };
    select(json!({ "nobody": "here" }));
    until("the agent of b to be away", || installed.json(&["status"])["nodes"]["attached"] == 1);
    let mut ghost = pod(NAMESPACE, "ghost", "b", "outcrop.example/debian:1", &SLEEP);
    ghost["spec"]["serviceAccountName"] = json!("outcrop-agent");
    installed.cluster.create(&ghost);
    installed.cluster.kubectl(&["wait", "-n", NAMESPACE, "--for", "condition=Ready", "pod/ghost", "--timeout", "60s"]);
    let token = token("outcrop-agent", "outcrop", Some("ghost"));
    let ended = |orders: &mut tonic::Streaming<v1::Order>| {
        let ended = async {
            loop {
                match orders.message().await {
                    Ok(Some(_)) => {}
                    other => break other.map(drop),
                }
            }
        };
        let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), ended).await });
        let status = ended.expect("its stream ends within a minute").unwrap_err();
        assert!(status.message().contains("no longer valid"), "{status:?}");
    };
    // One that has ended (the API server grants a minute) is none, one that ends soon has to be replaced, and a stream ends before its token does.
    for (seconds, says) in [(-120, "does not accept this token"), (40, "about to expire")] {
        let status = attach(&installed.ending(&token, seconds), "b").map(drop).unwrap_err();
        assert!(status.message().contains(says), "{seconds}: {status:?}");
    }
    let attached = Instant::now();
    let mut orders = attach(&installed.ending(&token, 70), "b").unwrap();
    ended(&mut orders);
    println!("a token of 70 s -> its stream ends: {:?}", attached.elapsed());
    let mut orders = attach(&token, "b").unwrap();
    installed.cluster.kubectl(&["delete", "pod", "ghost", "-n", NAMESPACE, "--now", "--wait=false"]);
    let deleted = Instant::now();
    ended(&mut orders);
    println!("pod deleted -> its stream ends: {:?}", deleted.elapsed());
    attach(&token, "b").map(drop).unwrap_err();
    select(json!({ "nobody": null }));
    until("both nodes", || installed.pending() == Some(0));
}

/// Two namespaces with an administrator each, who sees that namespace and nothing else, wherever they look.
fn namespaces_are_seen_by_their_own(installed: &Installed) {
    let cluster = &installed.cluster;
    for namespace in ["shop", "bank"] {
        cluster.kubectl(&["create", "serviceaccount", "admin", "-n", namespace]);
        let account = format!("{namespace}:admin");
        cluster.kubectl(&[
            "create",
            "rolebinding",
            "admin",
            "-n",
            namespace,
            "--clusterrole",
            "admin",
            "--serviceaccount",
            &account,
        ]);
    }
    let all = installed.json(&["status"])["containers"].as_u64().unwrap();
    for (own, other, pod) in [("shop", "bank", "web"), ("bank", "shop", "vault")] {
        let token = installed.token(own, "admin", "outcrop", None);
        until("the role to be theirs", || installed.get("/api/v1/workloads", &token).0 == 200);
        for path in [
            "/api/v1/workloads",
            "/api/v1/containers",
            "/api/v1/issues",
            "/api/v1/findings",
            "/api/v1/images",
            "/",
            "/metrics",
        ] {
            let (status, body) = installed.get(path, &token);
            assert_eq!(status, 200, "{path}: {body}");
            assert!(!body.contains(other) && !body.contains("kube-system"), "{path} tells {own} of {other}: {body}");
        }
        let (_, status) = installed.get("/api/v1/status", &token);
        let status: Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["containers"], 1, "{status:#}");
        assert!(all > 1 && status["reports"]["inventories"] == 0 && status["kubernetes"]["strays"] == 0);
        let (status, _) = installed.get(&format!("/api/v1/workloads/{own}/pod/{pod}"), &token);
        assert_eq!(status, 200);
        // What is not theirs is not there.
        let foreign = if own == "shop" { "vault" } else { "web" };
        let (status, body) = installed.get(&format!("/api/v1/workloads/{other}/pod/{foreign}"), &token);
        let (_, nobodys) = installed.get(&format!("/api/v1/workloads/{other}/pod/nobody"), &token);
        assert_eq!(status, 404, "{body}");
        assert_eq!(body.replace(foreign, "x"), nobodys.replace("nobody", "x"));
        for list in ["workloads", "containers", "findings"] {
            let (_, body) = installed.get(&format!("/api/v1/{list}?namespace={other}"), &token);
            assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["items"], json!([]), "{list}");
        }
        let listed = installed
            .ask(&[
                "get",
                "workloads",
                "--no-headers",
                "--service-account",
                &format!("{own}/admin"),
                "--outcrop-namespace",
                NAMESPACE,
            ])
            .unwrap();
        assert!(listed.lines().count() == 1 && listed.starts_with(own), "{listed}");
    }
    // Whoever may make a pod may say that it is the aggregator, and is shown no token.
    let mut impostor = pod("bank", "impostor", "a", "outcrop.example/debian:1", &SLEEP);
    impostor["metadata"]["labels"] =
        json!({ "app.kubernetes.io/part-of": "outcrop", "app.kubernetes.io/component": "aggregator" });
    cluster.create(&impostor);
    let refused = installed.ask(&["status"]).unwrap_err();
    assert!(
        refused.contains("aggregator pods in namespaces bank, outcrop; select one with --outcrop-namespace"),
        "{refused}"
    );
    installed.ask(&["status", "--outcrop-namespace", NAMESPACE]).unwrap();
    cluster.kubectl(&["delete", "pod", "impostor", "-n", "bank", "--now"]);
    let refused = installed.ask(&["status", "--service-account", "bank/admin"]).unwrap_err();
    assert!(refused.contains("--outcrop-namespace outcrop"), "{refused}");
    // A token for the API server is none for Outcrop, and who may read nothing is told so.
    let api = installed.token("shop", "admin", "https://kubernetes.default.svc", None);
    assert_eq!(installed.get("/api/v1/workloads", &api).0, 401);
    let nobody = installed.token("shop", "default", "outcrop", None);
    let (status, body) = installed.get("/api/v1/workloads", &nobody);
    assert!(status == 403 && body.contains("is not allowed to list workloads.outcrop.dev"), "{status} {body}");
    // Changing something is another right.
    let viewer = installed.token(NAMESPACE, "outcrop-viewer", "outcrop", None);
    assert_eq!(installed.get("/api/v1/nodes", &viewer).0, 200);
    let refused = installed.ask(&["node", "distrust", "a"]).unwrap_err();
    assert!(refused.contains("is not allowed to update nodes.outcrop.dev"), "{refused}");
}

/// Every file below a directory with all that a change would change.
fn fingerprint(directory: &str) -> Vec<String> {
    let format = "%p %y %m %U %G %s %T@ %C@ %l\n";
    let output = Command::new("find").args([directory, "-printf", format]).output().unwrap();
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(ToOwned::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// The cage holds in both containers, through every mount of the host.
fn nothing_of_the_host_can_be_changed(installed: &Installed) {
    for node in ["a", "b"] {
        let state = installed.cluster.socket(node).parent().unwrap().parent().unwrap().to_owned();
        let container = installed.json(&["get", "containers", "--node", node, "-n", "shop"])["items"][0]["id"].clone();
        let container = container.as_str().map(ToOwned::to_owned);
        let roots = container.map(|id| state.join(format!("state/io.containerd.runtime.v2.task/k8s.io/{id}")));
        let watched: Vec<String> = roots
            .iter()
            .map(|path| path.display().to_string())
            .chain([state.join("root").display().to_string()])
            .collect();
        let before: Vec<Vec<String>> = watched.iter().map(|path| fingerprint(path)).collect();
        let pod = installed.agent_pod(node);
        let exec = ["exec", "-n", NAMESPACE, &pod, "-c"];
        let program = ["--", "/usr/bin/outcrop-agent", "selftest"];
        let socket = installed.cluster.socket(node).parent().unwrap().display().to_string();
        let table = installed.cluster.kubectl(&[&exec[..], &["runtime"], &program, &["--through", &socket]].concat());
        assert!(
            table.lines().any(|line| line.ends_with(&format!(" {socket}"))) && !table.contains("NOTHING"),
            "{table}"
        );
        let table = installed.cluster.kubectl(&[&exec[..], &["reader"], &program, &["--through", "/host"]].concat());
        let through: Vec<&str> =
            table.lines().filter(|line| line.starts_with("reader") && line.contains(" /host")).collect();
        println!("node {node}: {} mounts of the host tried", through.len());
        assert!(through.iter().any(|line| line.ends_with("/rootfs")) && !table.contains("NOTHING"), "{table}");
        let after: Vec<Vec<String>> = watched.iter().map(|path| fingerprint(path)).collect();
        for (before, after) in before.iter().zip(&after) {
            let new: Vec<&String> = after.iter().filter(|line| before.binary_search(line).is_err()).collect();
            // containerd itself writes its databases and logs meanwhile.
            let new: Vec<&&String> =
                new.iter().filter(|line| !line.contains(".db") && !line.contains("/log")).collect();
            assert!(before.len() > 3 && new.is_empty(), "changed on the host: {new:#?}");
        }
    }
}

/// `doctor --preflight` finds a missing default StorageClass, and a namespace that refuses agents.
fn a_preflight_finds_what_keeps_pods_from_starting(installed: &Installed) {
    const SPACE: &str = "outcrop-preflight";
    let cluster = &installed.cluster;
    let preflight = || -> BTreeMap<String, String> {
        let mut command = Command::new(OUTCROP);
        command.args(["doctor", "--preflight", "-o", "json", "--outcrop-namespace", SPACE]);
        let output = command.env("KUBECONFIG", cluster.kubeconfig()).output().unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |check: &Value, field: &str| check[field].as_str().unwrap().to_owned();
        let checks = document["checks"].as_array().unwrap();
        checks.iter().map(|check| (text(check, "check"), text(check, "result"))).collect()
    };
    cluster.kubectl(&["delete", "namespace", SPACE, "--ignore-not-found"]);
    let before = preflight();
    for (check, result) in [
        ("API server", "ok"),
        ("rights to install", "ok"),
        ("Pod Security", "ok"),
        ("default StorageClass", "fail"),
        ("container runtime", "ok"),
    ] {
        assert_eq!(before.get(check).map(String::as_str), Some(result), "{check}: {before:?}");
    }
    let class = json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "outcrop.example/none",
        "metadata": { "name": SPACE, "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } } });
    cluster.create(&class);
    let level = "pod-security.kubernetes.io/enforce=baseline";
    cluster.kubectl(&["create", "namespace", SPACE]);
    cluster.kubectl(&["label", "namespace", SPACE, level]);
    let after = preflight();
    cluster.kubectl(&["delete", "storageclass", SPACE]);
    cluster.kubectl(&["delete", "namespace", SPACE, "--wait=false"]);
    assert_eq!((&*after["default StorageClass"], &*after["Pod Security"]), ("ok", "fail"), "{after:?}");
}

/// Findings stand under the workload as soon as it runs, and go with it.
fn findings_follow_workloads(installed: &Installed) {
    let cluster = &installed.cluster;
    let database = installed.dir.path().join("advisories.db");
    let built = Command::new(OUTCROP)
        .args(["db", "build", "--from", concat!(env!("CARGO_MANIFEST_DIR"), "/data/feed"), "--out"])
        .arg(&database)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let push = ["db", "push", database.to_str().unwrap()];
    let refused = installed.ask(&push).unwrap_err();
    assert!(refused.contains("is not allowed to create databases.outcrop.dev"), "{refused}");
    cluster.kubectl(&["create", "serviceaccount", "operator", "-n", NAMESPACE]);
    let account = format!("{NAMESPACE}:operator");
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        OPERATOR,
        "--clusterrole",
        "outcrop-operate",
        "--serviceaccount",
        &account,
    ]);
    let operator = format!("{NAMESPACE}/operator");
    let push = [&push[..], &["--service-account", &operator]].concat();
    until("the role to be theirs", || installed.ask(&push).is_ok());

    let deploy =
        ["create", "deployment", "front", "-n", "shop", "--image", "outcrop.example/layers:1", "--dry-run=client"];
    let mut deployment = cluster.json(&deploy);
    deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(0);
    let container = &mut deployment["spec"]["template"]["spec"]["containers"][0];
    (container["imagePullPolicy"], container["command"]) = (json!("Never"), json!(SLEEP));
    cluster.create(&deployment);
    cluster.kubectl(&["rollout", "status", "-n", "shop", "deployment/front", "--timeout", "60s"]);
    let running = Instant::now();
    let findings = || installed.json(&["get", "findings", "--workload", "deploy/front", "-n", "shop"])["items"].clone();
    until("findings under the workload", || findings().as_array().is_some_and(|found| !found.is_empty()));
    println!("rollout of a known image reported -> findings under its workload: {:?}", running.elapsed());
    let first = findings()[0].clone();
    assert_eq!(first["container"]["workload"], "Deployment/front");
    let since = |findings: &Value| findings[0]["first_seen"].clone();
    // Another pod, another ReplicaSet, the same finding.
    cluster.kubectl(&["set", "env", "-n", "shop", "deployment/front", "AGAIN=1"]);
    cluster.kubectl(&["rollout", "status", "-n", "shop", "deployment/front", "--timeout", "60s"]);
    let pod = &first["container"]["pod"];
    until("the new pod alone", || {
        findings().as_array().is_some_and(|all| !all.is_empty() && all.iter().all(|of| of["container"]["pod"] != *pod))
    });
    assert_eq!(since(&findings()), since(&json!([first])), "first seen stays");
    let described = installed.ask(&["describe", "deploy/front", "-n", "shop"]).unwrap();
    assert!(described.contains("SEVERITY") && described.contains("run-as-non-root"), "{described}");
    assert!(described.contains("not true; the image runs as root"), "{described}");
    cluster.kubectl(&["delete", "deployment", "front", "-n", "shop", "--cascade=foreground", "--timeout", "60s"]);
    until("the workload to be gone", || installed.ask(&["describe", "deploy/front", "-n", "shop"]).is_err());
}

/// What an entrypoint did to its own files is no word about its image, whether it began before the agent or after it.
fn images_are_told_of_as_they_are(installed: &Installed) {
    let erase = ["sh", "-c", "rm -rf /var/lib/dpkg && mkdir /var/lib/dpkg && sleep infinity"];
    for (node, name) in [("a", "eraser-a"), ("b", "eraser-b")] {
        installed.cluster.create(&pod("bank", name, node, "outcrop.example/debian:1", &erase));
        installed.cluster.create(&pod("bank", &format!("opaque-{node}"), node, "outcrop.example/layers:1", &SLEEP));
    }
    installed.cluster.kubectl(&["wait", "-n", "bank", "--for", "condition=Ready", "pod", "--all", "--timeout", "60s"]);
    // The writable layer is not part of an image: what the entrypoint removed is there.
    let expected = [("eraser-a", DEBIAN), ("eraser-b", DEBIAN), ("opaque-a", LAYERS), ("opaque-b", LAYERS)];
    let expected = expected.map(|(pod, packages)| (pod.to_owned(), "scanned".to_owned(), packages));
    let expected: BTreeSet<(String, String, u64)> = expected.into();
    // An image whose paths a starting container did not decide is `partial` until the next check.
    until("all to be looked into, and decided", || {
        let containers = installed.json(&["get", "containers", "-n", "bank"])["items"].take();
        let seen = containers.as_array().unwrap().iter().map(|item| {
            let pod = item["pod"].as_str().unwrap().rsplit('/').next().unwrap();
            let coverage = &item["coverage"];
            println!("{pod} on {}: {coverage}, {} packages", item["node"], item["packages"]);
            let packages = item["packages"].as_u64().unwrap_or_default();
            (pod.to_owned(), coverage["state"].as_str().unwrap_or_default().to_owned(), packages)
        });
        expected.is_subset(&seen.collect())
    });
    // containerd measured the layers when it unpacked them.
    let images = installed.json(&["get", "images"])["items"].take();
    for image in images.as_array().unwrap().iter().filter(|image| image["coverage"]["state"] == "scanned") {
        let size = image["size"].as_u64().unwrap_or_default();
        println!("{}: {size} bytes", image["names"]);
        assert!((1 << 20..1 << 30).contains(&size), "{image:#}");
    }
}

/// How many packages the images have, as their own dpkg says.
const DEBIAN: u64 = 88;
const LAYERS: u64 = 109;

/// A pod of the aggregator that runs and is not ready, as on a node that is gone, is not asked: the other one is.
fn the_command_line_asks_a_pod_that_is_ready(installed: &Installed) {
    let cluster = &installed.cluster;
    let selector = ["-l", "app.kubernetes.io/component=aggregator"];
    let mut of = cluster.json(&[&["get", "pods", "-n", NAMESPACE][..], &selector].concat())["items"][0].take();
    let mut dead = pod(NAMESPACE, "aaa-dead", "a", "outcrop.example/debian:1", &SLEEP);
    of["metadata"]["labels"].as_object_mut().unwrap().remove("pod-template-hash");
    dead["metadata"]["labels"] = of["metadata"]["labels"].take();
    dead["spec"]["containers"][0]["readinessProbe"] = json!({ "exec": { "command": ["false"] } });
    cluster.create(&dead);
    until("the pod to run", || {
        cluster.json(&["get", "pod", "aaa-dead", "-n", NAMESPACE])["status"]["phase"] == "Running"
    });
    let answer = installed.ask(&["status"]);
    cluster.kubectl(&["delete", "pod", "aaa-dead", "-n", NAMESPACE, "--now"]);
    answer.unwrap();
}

/// The kubelet keeps the last container that ended, beside the one that it made instead.
fn a_container_that_was_started_again_is_one(installed: &Installed) {
    for node in ["a", "b"] {
        let name = format!("crasher-{node}");
        let command = ["sh", "-c", "sleep 1; exit 1"];
        installed.cluster.create(&pod("bank", &name, node, "outcrop.example/debian:1", &command));
        within(Duration::from_secs(60), "it to be started again", || {
            let pod = installed.cluster.json(&["get", "pod", &name, "-n", "bank"]);
            pod["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(1)
        });
    }
    within(Duration::from_secs(30), "nothing that nobody knows", || {
        let status = installed.json(&["status"]);
        status["kubernetes"]["strays"] == 0 && status["kubernetes"]["synced"] == true
    });
    let named = |pod: &str| installed.json(&["get", "containers", "--field-selector", &format!("pod={pod}")]);
    for pod in ["crasher-a", "crasher-b"] {
        assert_eq!(named(pod)["items"].as_array().unwrap().len(), 1, "{pod}");
        installed.cluster.kubectl(&["delete", "pod", pod, "-n", "bank", "--now"]);
    }
}

/// Everything is right again by itself, whatever ends.
fn it_heals(installed: &Installed) {
    let cluster = &installed.cluster;
    let healed = |what: &str| {
        let start = Instant::now();
        until(what, || installed.pending() == Some(0));
        println!("{what}: {:?}", start.elapsed());
    };
    cluster.kubectl(&["delete", "pod", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=aggregator", "--wait=true"]);
    installed.ready();
    healed("aggregator's pod deleted -> all in a final state");

    for node in ["a", "b"] {
        cluster.run(&["kill", &format!("{node}-containerd")]);
        cluster.run(&["revive", &format!("{node}-containerd")]);
        let name = format!("after-{node}");
        until("a pod to be taken", || cluster.attempt(&["kubectl", "get", "nodes"]).is_ok());
        cluster.create(&pod("bank", &name, node, "outcrop.example/debian:1", &SLEEP));
        cluster.kubectl(&[
            "wait",
            "-n",
            "bank",
            "--for",
            "condition=Ready",
            &format!("pod/{name}"),
            "--timeout",
            "60s",
        ]);
        until("it to be scanned", || {
            let found = installed.json(&["get", "containers", "--field-selector", &format!("pod={name}")]);
            found["items"][0]["coverage"]["state"] == "scanned"
        });
        healed(&format!("containerd of {node} restarted -> all in a final state"));
    }

    let on_b = || -> BTreeSet<String> {
        let all = installed.json(&["get", "containers", "--node", "b"])["items"].clone();
        all.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    let before = on_b();
    let start = Instant::now();
    cluster.run(&["reboot", "b"]);
    let agents =
        || cluster.json(&["get", "daemonset", "outcrop-agent-b", "-n", NAMESPACE])["status"]["numberReady"].clone();
    let patience = Duration::from_secs(180);
    within(patience, "the agent of b to be started anew", || {
        let now = on_b();
        !now.is_empty() && now.is_disjoint(&before) && agents() == 1 && installed.pending() == Some(0)
    });
    let kept = installed.json(&["get", "containers", "--node", "b", "-n", "bank"])["items"].clone();
    assert!(kept.as_array().unwrap().iter().all(|item| item["packages"] != 0), "{kept:#}");
    println!("node b lost its power -> all in a final state: {:?}", start.elapsed());

    // What may be seen is believed for a minute: somebody new, so that it begins now.
    let (account, view) = (format!("{NAMESPACE}:newcomer"), "outcrop-view");
    let bind = ["create", "clusterrolebinding", NEWCOMER, "--clusterrole", view, "--serviceaccount", &account];
    cluster.kubectl(&bind);
    cluster.kubectl(&["create", "serviceaccount", "newcomer", "-n", NAMESPACE]);
    std::thread::sleep(Duration::from_secs(2));
    let viewer = installed.token(NAMESPACE, "newcomer", "outcrop", None);
    let (ca, service) = (installed.ca(), installed.service());
    assert_eq!(installed.get("/api/v1/status", &viewer).0, 200);
    cluster.run(&["kill", "apiserver"]);
    std::thread::sleep(Duration::from_secs(20));
    // Who was known is answered still, and agents stay.
    let file = installed.dir.path().join("kept.crt");
    std::fs::write(&file, ca).unwrap();
    let resolve = format!("outcrop.{NAMESPACE}.svc:7480:{service}");
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "20", "--resolve", &resolve, "--cacert"])
        .arg(file)
        .args([
            "--header",
            &format!("Authorization: Bearer {viewer}"),
            &format!("https://outcrop.{NAMESPACE}.svc:7480/api/v1/status"),
        ])
        .output()
        .unwrap();
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["nodes"]["attached"], 2, "{status:#}");
    println!("without the API server: {}", status["problems"]);
    cluster.run(&["revive", "apiserver"]);
    until("the API server", || cluster.attempt(&["kubectl", "get", "nodes"]).is_ok());
    cluster.create(&pod("bank", "late", "b", "outcrop.example/debian:1", &SLEEP));
    // Kubelets come back to it by themselves, within two minutes.
    within(patience, "the nodes", || !cluster.kubectl(&["get", "nodes"]).contains("NotReady"));
    within(patience, "what came since", || {
        installed
            .ask(&["get", "containers", "--field-selector", "pod=late", "-o", "csv"])
            .is_ok_and(|text| text.contains("scanned"))
    });
    healed("API server gone for 20 s -> all in a final state");
}

/// Some namespaces only, with rights in these only, and a certificate that somebody else has made.
fn it_can_be_narrowed(installed: &Installed) {
    let cluster = &installed.cluster;
    let names = [&format!("outcrop.{NAMESPACE}.svc"), "localhost"].map(ToOwned::to_owned);
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let file = |name: &str, text: String| {
        let path = installed.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("--from-file={}", path.display())
    };
    let (certificate, key) = (file("tls.crt", made.cert.pem()), file("tls.key", made.signing_key.serialize_pem()));
    let ca = file("ca.crt", made.cert.pem());
    cluster.kubectl(&["create", "secret", "generic", "ours", "-n", NAMESPACE, &certificate, &key, &ca]);
    let narrow = ["scope=namespaced", "watchNamespaces={shop}", "tls.mode=secret", "tls.secretName=ours"];
    installed.release("upgrade", &narrow);
    installed.ready();
    within(Duration::from_secs(180), "both nodes, and nothing that nobody knows", || {
        let Some(status) = installed.status() else { return false };
        let kubernetes = &status["kubernetes"];
        let settled = kubernetes["synced"] == true && kubernetes["strays"] == 0 && covered(&status, "pending") == 0;
        settled && status["nodes"]["attached"] == 2 && status["problems"] == json!([])
    });
    let workloads = installed.json(&["get", "workloads", "-A"])["items"].clone();
    let seen: BTreeSet<&str> =
        workloads.as_array().unwrap().iter().map(|item| item["namespace"].as_str().unwrap()).collect();
    assert_eq!(seen, BTreeSet::from([NAMESPACE, "shop"]));
    let elsewhere = covered(&installed.json(&["status"]), "excluded");
    let shown = installed.json(&["get", "containers", "--field-selector", "coverage=excluded"])["items"].clone();
    let shown = shown.as_array().unwrap();
    assert!(elsewhere > 0 && shown.len() as u64 == elsewhere, "{shown:#?}");
    let reason = "not in a watched namespace";
    assert!(shown.iter().all(|item| item["coverage"]["reason"] == reason), "{shown:#?}");
    let account = format!("system:serviceaccount:{NAMESPACE}:outcrop-aggregator");
    let may = |verb: &str, what: &str, namespace: &str| {
        cluster.attempt(&["kubectl", "auth", "can-i", verb, what, "-n", namespace, "--as", &account]).is_ok()
    };
    assert!(may("watch", "pods", "shop") && !may("list", "pods", "bank") && !may("list", "nodes", ""));
    // The authority is published, and its key is nowhere but in the aggregator's pod.
    assert_eq!(installed.ca(), made.cert.pem());
    let agents = cluster.json(&["get", "daemonsets", "-n", NAMESPACE]).to_string();
    assert!(!agents.contains("ours") && agents.contains("outcrop-ca"), "{agents}");
    // A right that was taken away costs what it was for, and says so.
    cluster.kubectl(&["delete", "role", "outcrop-watch", "-n", "shop"]);
    cluster.kubectl(&["delete", "pod", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=aggregator", "--wait=true"]);
    installed.ready();
    within(Duration::from_secs(60), "both nodes, without that right", || {
        installed.status().is_some_and(|status| {
            let problems = status["problems"].to_string();
            status["nodes"]["attached"] == 2
                && problems.contains("deployments of shop")
                && problems.contains("forbidden")
        })
    });
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
        ("a preflight finds what keeps pods from starting", a_preflight_finds_what_keeps_pods_from_starting),
        ("agents speak for their nodes", agents_speak_for_their_nodes),
        ("namespaces are seen by their own", namespaces_are_seen_by_their_own),
        ("nothing of the host can be changed", nothing_of_the_host_can_be_changed),
        ("findings follow workloads", findings_follow_workloads),
        ("images are told of as they are", images_are_told_of_as_they_are),
        ("a container that was started again is one", a_container_that_was_started_again_is_one),
        ("the command line asks a pod that is ready", the_command_line_asks_a_pod_that_is_ready),
        ("nothing leaves", nothing_leaves),
        ("it heals", it_heals),
        ("it can be narrowed", it_can_be_narrowed),
    ];
    for (what, part) in parts {
        let start = Instant::now();
        part(&installed);
        println!("{what}: {:.1} s in all", start.elapsed().as_secs_f64());
    }
    cluster.kubectl(&["delete", "namespace", "shop", "bank", "--wait=false"]);
    cluster.kubectl(&["delete", "clusterrolebinding", OPERATOR, NEWCOMER]);
}
