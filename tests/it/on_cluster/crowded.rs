//! Thousands of nodes and pods in a real API server: how the aggregator counts them, and at what cost.
//!
//! Needs a running test cluster: OUTCROP_CLUSTER names its script, `tests/cluster/cluster`. How many: OUTCROP_CROWD=NODES/PODS. The objects are
//! put into etcd, as the API server would have written them: one of each kind is made through it, and its bytes are written again under other
//! names of the same length. No kubelet runs the pods and no agent reports them: the aggregator counts all of them with that reason.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::cluster_parts::Cluster;
use crate::service_parts::{Place, until};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Pods of a Deployment.
const REPLICAS: usize = 4;

/// Puts into one transaction: etcd takes 128 operations.
const AT_ONCE: usize = 64;

/// etcd's interface over HTTP.
fn etcd(path: &str, body: &Value) -> Value {
    let url = format!("http://127.0.0.1:2379/v3/kv/{path}");
    let mut answer = ureq::post(&url).send(body.to_string()).unwrap();
    serde_json::from_str(&answer.body_mut().with_config().limit(64 << 20).read_to_string().unwrap()).unwrap()
}

fn raw(key: &str) -> Vec<u8> {
    let answer = etcd("range", &json!({ "key": STANDARD.encode(key) }));
    STANDARD.decode(answer["kvs"][0]["value"].as_str().unwrap_or_else(|| panic!("{key}: {answer}"))).unwrap()
}

fn put(objects: &[(String, Vec<u8>)]) {
    for some in objects.chunks(AT_ONCE) {
        let puts: Vec<Value> = some
            .iter()
            .map(|(key, value)| {
                json!({ "requestPut": { "key": STANDARD.encode(key), "value": STANDARD.encode(value) } })
            })
            .collect();
        assert_eq!(etcd("txn", &json!({ "success": puts }))["succeeded"], true);
    }
}

/// The bytes with texts in the place of others that are as long: protobuf says how long each is.
fn replaced(bytes: &[u8], texts: &[(&str, String)]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for (old, new) in texts {
        assert_eq!(old.len(), new.len(), "{old} {new}");
        let places: Vec<usize> = out
            .windows(old.len())
            .enumerate()
            .filter(|(_, at)| *at == old.as_bytes())
            .map(|(place, _)| place)
            .collect();
        for place in places {
            out[place..place + new.len()].copy_from_slice(new.as_bytes());
        }
    }
    out
}

/// One object of each kind, as etcd holds it, and what in it is told apart.
struct Templates {
    node: Vec<u8>,
    deployment: Vec<u8>,
    replicas: Vec<u8>,
    pod: Vec<u8>,
    uids: BTreeMap<&'static str, String>,
}

const NODE: &str = "crowd-node-00000";
const DEPLOYMENT: &str = "crowd-00000";
const SET: &str = "crowd-00000-aaaaa";
const POD: &str = "crowd-00000-aaaaa-p0";
const CONTAINER: &str = "00000000000000000000000000000000000000000000000000000000c0ffee00";

impl Templates {
    fn make(cluster: &Cluster) -> Self {
        let template = json!({ "metadata": { "labels": { "app": "crowd" } }, "spec": { "containers": [
            { "name": "main", "image": "outcrop.example/debian:1", "env": [{ "name": "SOME", "value": "thing" }],
              "resources": { "limits": { "cpu": "1", "memory": "64Mi" } } }] } });
        let labels = json!({ "app": "crowd", "team": "crowd" });
        cluster.create(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE } }));
        cluster.create(&json!({ "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": DEPLOYMENT, "namespace": "crowd", "labels": labels },
            "spec": { "replicas": REPLICAS, "selector": { "matchLabels": { "app": "crowd" } }, "template": template } }));
        let uid = |kind: &str, name: &str| {
            cluster.json(&["get", kind, name, "-n", "crowd"])["metadata"]["uid"].as_str().unwrap().to_owned()
        };
        let owner = |api: &str, kind: &str, name: &str, uid: &str| json!([{ "apiVersion": api, "kind": kind, "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true }]);
        let deployment = uid("deployment", DEPLOYMENT);
        cluster.create(&json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": { "name": SET, "namespace": "crowd", "labels": labels,
                "ownerReferences": owner("apps/v1", "Deployment", DEPLOYMENT, &deployment) },
            "spec": { "replicas": REPLICAS, "selector": { "matchLabels": { "app": "crowd" } }, "template": template } }));
        let replicas = uid("replicaset", SET);
        let mut spec = template["spec"].clone();
        spec["nodeName"] = json!(NODE);
        cluster.create(&json!({ "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": POD, "namespace": "crowd", "labels": labels,
                "ownerReferences": owner("apps/v1", "ReplicaSet", SET, &replicas) },
            "spec": spec }));
        let status = json!({ "status": { "phase": "Running", "containerStatuses": [
            { "name": "main", "image": "outcrop.example/debian:1", "imageID": "", "ready": true, "restartCount": 0,
              "containerID": format!("containerd://{CONTAINER}"), "state": { "running": { "startedAt": "2026-11-01T00:00:00Z" } } }] } });
        cluster.kubectl(&[
            "patch",
            "pod",
            POD,
            "-n",
            "crowd",
            "--subresource",
            "status",
            "--type",
            "merge",
            "-p",
            &status.to_string(),
        ]);
        let pod = uid("pod", POD);
        let node = cluster.json(&["get", "node", NODE])["metadata"]["uid"].as_str().unwrap().to_owned();
        Self {
            node: raw(&format!("/registry/minions/{NODE}")),
            deployment: raw(&format!("/registry/deployments/crowd/{DEPLOYMENT}")),
            replicas: raw(&format!("/registry/replicasets/crowd/{SET}")),
            pod: raw(&format!("/registry/pods/crowd/{POD}")),
            uids: BTreeMap::from([("node", node), ("deployment", deployment), ("set", replicas), ("pod", pod)]),
        }
    }

    /// What stands in the place of the templates' texts in the pod of this number, and its owners.
    fn texts(&self, pod: usize, nodes: usize) -> Vec<(&str, String)> {
        let deployment = pod / REPLICAS;
        let uid = |kind: u8, number: usize| format!("{kind:08}-0000-4000-8000-{number:012}");
        let name = format!("crowd-{deployment:05}");
        vec![
            (CONTAINER, container(pod)),
            (NODE, node(pod, nodes)),
            (POD, format!("{name}-aaaaa-p{}", pod % REPLICAS)),
            (SET, format!("{name}-aaaaa")),
            (DEPLOYMENT, name),
            (&self.uids["pod"], uid(1, pod)),
            (&self.uids["set"], uid(2, deployment)),
            (&self.uids["deployment"], uid(3, deployment)),
            (&self.uids["node"], uid(4, pod)),
        ]
    }
}

fn node(pod: usize, nodes: usize) -> String {
    format!("crowd-node-{:05}", pod % nodes)
}

fn container(pod: usize) -> String {
    format!("{pod:056}c0ffee00")
}

/// Resident memory, and processor time so far, of a process.
fn usage(pid: u32) -> (u64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    (resident.trim().trim_end_matches(" kB").parse().unwrap(), ticks / 100.0)
}

#[test]
fn thousands_of_pods_are_each_under_their_workload() {
    let Some(cluster) = Cluster::running() else { return };
    let crowd = std::env::var("OUTCROP_CROWD").unwrap_or_else(|_| "200/2000".to_owned());
    let (nodes, pods) = crowd.split_once('/').unwrap();
    let (nodes, pods): (usize, usize) = (nodes.parse().unwrap(), pods.parse().unwrap());
    super::cluster_parts::enter("a");
    // Those who would tidy up after pods that nobody runs.
    for part in ["controllers", "scheduler"] {
        cluster.run(&["kill", part]);
    }
    cluster.kubectl(&["create", "namespace", "crowd"]);
    cluster.create(&json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default", "namespace": "crowd" } }));
    let templates = Templates::make(&cluster);

    let start = Instant::now();
    let mut objects = Vec::new();
    for number in 1..nodes {
        let texts = templates.texts(number, nodes);
        objects.push((format!("/registry/minions/{}", node(number, nodes)), replaced(&templates.node, &texts)));
    }
    for number in (0..pods).skip(1) {
        let texts = templates.texts(number, nodes);
        let name = |old: &str| texts.iter().find(|(known, _)| *known == old).unwrap().1.clone();
        if number % REPLICAS == 0 {
            objects.push((
                format!("/registry/deployments/crowd/{}", name(DEPLOYMENT)),
                replaced(&templates.deployment, &texts),
            ));
            objects.push((format!("/registry/replicasets/crowd/{}", name(SET)), replaced(&templates.replicas, &texts)));
        }
        objects.push((format!("/registry/pods/crowd/{}", name(POD)), replaced(&templates.pod, &texts)));
    }
    put(&objects);
    println!("{nodes} nodes, {pods} pods: {} objects put into etcd in {:?}", objects.len(), start.elapsed());

    let apiserver: u32 = cluster.run(&["pid", "apiserver"]).trim().parse().unwrap();
    let (_, before) = usage(apiserver);
    let start = Instant::now();
    let kubeconfig: &'static str = cluster.kubeconfig().leak();
    let place = Place::start_with(false, &["--kubernetes", "--kubeconfig", kubeconfig]);
    let aggregator = place.aggregator.as_ref().unwrap().0.id();
    until("all to be listed", || {
        let status = place.status();
        status["kubernetes"]["synced"] == true && status["kubernetes"]["pods"].as_u64().unwrap() >= pods as u64
    });
    let (resident, spent) = usage(aggregator);
    let (listed_resident, listing) = (resident, spent);
    let (server, after) = usage(apiserver);
    println!(
        "aggregator: all listed after {:?}, {} MiB resident, {spent:.1} s of processor",
        start.elapsed(),
        resident >> 10
    );
    println!("API server: {:.1} s of processor for that, {} MiB resident", after - before, server >> 10);

    // A sample, spread over all of them.
    let start = Instant::now();
    let (sample, mut checked) = (pods.min(200), 0);
    for number in (0..pods).step_by((pods / sample).max(1)) {
        let items = place.json(&format!("/api/v1/containers?node={}&limit=1000", node(number, nodes)))["items"].take();
        let id = container(number);
        let item = items.as_array().unwrap().iter().find(|item| item["id"] == id || number == 0).unwrap();
        assert_eq!(
            item["workload"],
            format!("Deployment/crowd-{:05}", if number == 0 { 0 } else { number / REPLICAS })
        );
        assert_eq!(item["coverage"]["reason"], "no agent is attached on the node");
        checked += 1;
    }
    println!(
        "{checked} pods of {pods} looked up by node, all under their workload: {:?} each",
        start.elapsed() / checked
    );
    for path in [
        "/api/v1/status",
        "/api/v1/workloads?limit=100",
        "/api/v1/workloads?sort=-findings&limit=100",
        "/api/v1/issues?limit=100",
    ] {
        let start = Instant::now();
        place.get(path);
        println!("{path}: {:?}", start.elapsed());
    }

    // Light churn: thirty pods a second change.
    let (_, before) = usage(apiserver);
    let (_, ours) = usage(aggregator);
    let start = Instant::now();
    let mut changed = 1;
    while start.elapsed() < Duration::from_secs(10) {
        let texts = templates.texts(changed, nodes);
        let name = texts.iter().find(|(known, _)| *known == POD).unwrap().1.clone();
        // It was restarted: another container.
        let mut again = texts.clone();
        again[0].1 = format!("{changed:056}deadbeef");
        put(&[(format!("/registry/pods/crowd/{name}"), replaced(&templates.pod, &again))]);
        changed += 1;
        std::thread::sleep(Duration::from_millis(33));
    }
    let seconds = start.elapsed().as_secs_f64();
    let last = changed - 1;
    until("the last change", || {
        let items = place.json(&format!("/api/v1/containers?node={}&limit=1000", node(last, nodes)))["items"].take();
        items.as_array().unwrap().iter().any(|item| item["id"] == format!("{last:056}deadbeef"))
    });
    let (resident, spent) = usage(aggregator);
    let (_, after) = usage(apiserver);
    println!(
        "{:.0} changes a second: aggregator {:.1} % of a processor, {} MiB resident; API server {:.1} %",
        f64::from(u32::try_from(last).unwrap()) / seconds,
        (spent - ours) / seconds * 100.0,
        resident >> 10,
        (after - before) / seconds * 100.0
    );
    // Ratios within this run: they hold on a slow machine, too. A change that costs as much as many pods looks at all of them.
    let count = |number: usize| f64::from(u32::try_from(number).unwrap());
    let (for_a_pod, for_a_change) = (listing / count(pods), (spent - ours) / count(last));
    assert!(
        for_a_change < 20.0 * for_a_pod,
        "{for_a_change} s of processor for a change, {for_a_pod} s for a listed pod"
    );
    assert!(resident < listed_resident * 3 / 2, "{resident} KiB after {last} changes, {listed_resident} KiB before");

    drop(place);
    for prefix in ["pods/crowd/", "replicasets/crowd/", "deployments/crowd/", "minions/crowd-node-"] {
        let key = format!("/registry/{prefix}");
        let mut end = key.clone().into_bytes();
        *end.last_mut().unwrap() += 1;
        etcd("deleterange", &json!({ "key": STANDARD.encode(&key), "range_end": STANDARD.encode(&end) }));
    }
    for part in ["scheduler", "controllers"] {
        cluster.run(&["revive", part]);
    }
    cluster.kubectl(&["delete", "namespace", "crowd", "--timeout", "60s"]);
}
