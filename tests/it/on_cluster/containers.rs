//! Agents beside real kubelets: nodes report the same containers as the API server, joined to the right pods and workloads.
//!
//! Needs a running test cluster with the images `debian` and `layers`: OUTCROP_CLUSTER names its script, `tests/cluster/cluster`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::cluster_parts::Cluster;
use crate::service_parts::{Place, until};
use serde_json::{Value, json};

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/manifests/");

/// Every container of the shop that the API server knows by its ID, in pods that are not over: of one that is, nothing runs any more.
fn containers(cluster: &Cluster) -> BTreeMap<String, Known> {
    let pods = cluster.json(&["get", "pods", "-n", "shop"]);
    let mut known = BTreeMap::new();
    let over = |pod: &&Value| ["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or_default());
    for pod in pods["items"].as_array().unwrap().iter().filter(|pod| !over(pod)) {
        let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        for kind in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
            for status in pod["status"][kind].as_array().into_iter().flatten() {
                let Some((_, id)) = status["containerID"].as_str().and_then(|id| id.split_once("://")) else {
                    continue;
                };
                let name = status["name"].as_str().unwrap().to_owned();
                let container = Known {
                    node: text("/spec/nodeName"),
                    namespace: text("/metadata/namespace"),
                    pod: text("/metadata/name"),
                    name,
                };
                known.insert(id.to_owned(), container);
            }
        }
    }
    known
}

/// A container as both sides know it.
#[derive(Debug, Eq, PartialEq)]
struct Known {
    node: String,
    namespace: String,
    pod: String,
    name: String,
}

/// Where the two sides differ: a container that one of them does not know or knows otherwise, and one that is not scanned.
fn differences(cluster: &Cluster, place: &Place) -> Vec<String> {
    let items = place.json("/api/v1/containers?namespace=shop&limit=1000")["items"].take();
    let text = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    let mut known = containers(cluster);
    let mut differences = Vec::new();
    for item in items.as_array().unwrap() {
        let told = Known {
            node: text(item, "node"),
            namespace: text(item, "namespace"),
            pod: text(item, "pod"),
            name: text(item, "name"),
        };
        match known.remove(&text(item, "id")) {
            Some(known) if known == told => {}
            Some(known) => differences.push(format!("the node says {told:?}, the API server {known:?}")),
            None => differences.push(format!("the API server does not know {told:?}")),
        }
        if item["coverage"]["state"] != "scanned" {
            differences.push(format!("{told:?} is {}", item["coverage"]));
        }
    }
    differences.extend(known.values().map(|known| format!("no node told of {known:?}")));
    differences
}

/// Waits until both sides agree. What still differs after a minute fails the test.
fn agree(cluster: &Cluster, place: &Place) {
    let mut last = Vec::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        last = differences(cluster, place);
        if last.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("after a minute: {last:#?}");
}

/// A pod that a custom resource owns, and a ReplicaSet that outlived its Deployment.
fn unusual_owners(cluster: &Cluster) {
    cluster.kubectl(&["apply", "-f", &format!("{MANIFESTS}custom.yaml")]);
    cluster.kubectl(&["wait", "--for", "condition=Established", "crd/pools.outcrop.example", "--timeout", "60s"]);
    cluster.create(&json!({ "apiVersion": "outcrop.example/v1", "kind": "Pool", "metadata": { "name": "swim", "namespace": "shop" } }));
    let uid = cluster.kubectl(&["get", "pool", "swim", "-n", "shop", "-o", "jsonpath={.metadata.uid}"]);
    let owner =
        json!({ "apiVersion": "outcrop.example/v1", "kind": "Pool", "name": "swim", "uid": uid, "controller": true });
    cluster.create(&json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "owned", "namespace": "shop", "ownerReferences": [owner] },
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [{ "name": "main", "image": "outcrop.example/debian:1",
            "imagePullPolicy": "Never", "command": ["sleep", "infinity"] }] } }));
    cluster.kubectl(&["wait", "-n", "shop", "--for", "condition=Ready", "pod/owned", "--timeout", "60s"]);
    cluster.kubectl(&["delete", "deployment", "orphaned", "-n", "shop", "--cascade=orphan"]);
    until("the ReplicaSet to be let go", || {
        let sets = cluster.json(&["get", "replicasets", "-n", "shop"]);
        let orphan = sets["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|set| set["metadata"]["labels"]["app"] == "orphaned")
            .unwrap();
        orphan["metadata"]["ownerReferences"].is_null()
    });
}

/// Every kind of owner that a cluster makes by itself: the workload, its pods, and its containers.
const EXPECTED: [(&str, u64, u64); 10] = [
    ("/Pod bare", 1, 2),
    ("batch/Job done", 0, 0),
    ("apps/DaemonSet everywhere", 2, 2),
    ("/ReplicationController old", 1, 1),
    ("batch/CronJob nightly", 1, 1),
    ("apps/ReplicaSet orphaned-", 1, 1),
    ("outcrop.example/Pool swim", 1, 1),
    ("/Pod static-b", 1, 1),
    ("apps/StatefulSet store", 1, 1),
    ("apps/Deployment web", 2, 6),
];

/// What differs from [`EXPECTED`] in what the aggregator tells.
fn unexpected(place: &Place) -> Vec<String> {
    let items = place.json("/api/v1/workloads?namespace=shop&limit=1000")["items"].take();
    let mut expected = EXPECTED.to_vec();
    let mut wrong = Vec::new();
    for item in items.as_array().unwrap() {
        let text = |key: &str| item[key].as_str().unwrap();
        let named = format!("{}/{} {}", text("group"), text("kind"), text("name"));
        let is = |name: &str| named == name || name.ends_with('-') && named.starts_with(name);
        let Some(at) = expected.iter().position(|(name, ..)| is(name)) else {
            wrong.push(format!("nobody expects {named}"));
            continue;
        };
        let (_, pods, containers) = expected.remove(at);
        let scanned = if containers == 0 { json!({}) } else { json!({ "scanned": containers }) };
        if item["pods"] != pods || item["containers"] != containers || item["coverage"] != scanned {
            wrong.push(format!("{named} should have {pods} pods, {containers} scanned containers: {item}"));
        }
    }
    wrong.extend(expected.iter().map(|(name, ..)| format!("{name} is missing")));
    wrong
}

/// Each workload is told with what runs of it, and stands with each of its containers.
fn workloads_are_right(place: &Place) {
    let start = Instant::now();
    while !unexpected(place).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "{:#?}", unexpected(place));
        std::thread::sleep(Duration::from_millis(100));
    }
    let containers = place.json("/api/v1/containers?workload=deploy/web&namespace=shop")["items"].take();
    assert_eq!(containers.as_array().unwrap().len(), 6);
    let detail = place.json("/api/v1/workloads/shop/sts/store");
    assert_eq!(detail["pods"], json!(["store-0"]));
    assert_eq!(detail["containers"][0]["kind"], "main");
    let kinds = |name: &str| -> BTreeSet<String> {
        let all = place.json(&format!("/api/v1/workloads/shop/{name}"))["containers"].take();
        all.as_array().unwrap().iter().map(|of| of["kind"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kinds("deploy/web"), ["init", "main", "sidecar"].map(ToOwned::to_owned).into());
    assert_eq!(kinds("pod/bare"), ["ephemeral", "main"].map(ToOwned::to_owned).into());
    let issues = place.json("/api/v1/issues?workload=pod/bare&rule=read-only-root")["items"].take();
    assert_eq!(
        issues.as_array().unwrap().len(),
        1,
        "its own container's; the one to look at it is not of its specification: {issues:#}"
    );
    let status = place.status();
    assert_eq!(
        (&status["kubernetes"]["untold"], &status["kubernetes"]["strays"]),
        (&json!(0), &json!(0)),
        "{status:#}"
    );
    let nodes = place.json("/api/v1/nodes")["items"].take();
    let runtimes: Vec<&str> =
        nodes.as_array().unwrap().iter().map(|node| node["kubernetes"]["runtime"].as_str().unwrap()).collect();
    assert!(runtimes[0].starts_with("containerd://1.6") && runtimes[1].starts_with("containerd://2."), "{runtimes:?}");
}

/// What a workload's annotation takes out of view is counted still, and comes back with its findings.
fn what_is_excluded_is_counted(cluster: &Cluster, place: &Place) {
    let annotate = |value: &str| {
        cluster.kubectl(&["annotate", "-n", "shop", "statefulset/store", value, "--overwrite"]);
    };
    let coverage = || place.json("/api/v1/workloads/shop/sts/store")["workload"]["coverage"].take();
    let all = place.status()["containers"].clone();
    annotate("outcrop.dev/exclude=true");
    until("it to be out of view", || coverage() == json!({ "excluded": 1 }));
    assert_eq!(place.status()["containers"], all);
    annotate("outcrop.dev/exclude-");
    until("it to be back", || coverage() == json!({ "scanned": 1 }));
}

#[test]
#[allow(clippy::print_stdout, reason = "figures are for people")]
fn what_nodes_tell_is_what_the_api_server_knows_and_each_container_has_its_workload() {
    let Some(cluster) = Cluster::running() else { return };
    // What a test that failed has left.
    cluster.run(&["static", "b", "-"]);
    cluster.kubectl(&["delete", "namespace", "shop", "--ignore-not-found", "--timeout", "60s"]);
    super::cluster_parts::enter("a");
    let kubeconfig: &'static str = cluster.kubeconfig().leak();
    let place = Place::start_with(false, &["--kubernetes", "--kubeconfig", kubeconfig, "--annotations-in", "shop"]);
    let agents = ["a", "b"].map(|node| {
        place.token(node);
        place.agent(node, &cluster.socket(node))
    });

    cluster.kubectl(&["apply", "-f", &format!("{MANIFESTS}kinds.yaml")]);
    cluster.run(&["static", "b", &format!("{MANIFESTS}static.yaml")]);
    until("the namespace's account", || {
        cluster.kubectl(&["get", "serviceaccount", "-n", "shop", "-o", "name"]).contains("default")
    });
    cluster.kubectl(&["create", "job", "once", "-n", "shop", "--from", "cronjob/nightly"]);
    cluster.kubectl(&["wait", "-n", "shop", "--for", "condition=Complete", "job/done", "--timeout", "60s"]);
    for workload in ["daemonset/everywhere", "deployment/web", "deployment/orphaned", "statefulset/store"] {
        cluster.kubectl(&["rollout", "status", "-n", "shop", workload, "--timeout", "60s"]);
    }
    cluster.kubectl(&[
        "wait",
        "-n",
        "shop",
        "--for",
        "condition=Ready",
        "pod",
        "-l",
        "job-name=once",
        "--timeout",
        "60s",
    ]);
    for pod in ["bare", "static-b"] {
        cluster.kubectl(&["wait", "-n", "shop", "--for", "condition=Ready", &format!("pod/{pod}"), "--timeout", "60s"]);
    }
    let image = "--image=outcrop.example/debian:1";
    cluster.kubectl(&[
        "debug",
        "-n",
        "shop",
        "bare",
        image,
        "--image-pull-policy=Never",
        "--container=look",
        "--",
        "sleep",
        "600",
    ]);
    // Two of the DaemonSet, three times two of a Deployment, one of the other, StatefulSet, job, ReplicationController, bare, ephemeral, static.
    until("every container to be started", || containers(&cluster).len() == 15);

    let expected = containers(&cluster);
    agree(&cluster, &place);
    assert_eq!(expected.values().filter(|known| known.name == "look").count(), 1);

    unusual_owners(&cluster);
    workloads_are_right(&place);
    what_is_excluded_is_counted(&cluster, &place);
    agree(&cluster, &place);

    let start = Instant::now();
    cluster.kubectl(&["scale", "-n", "shop", "deployment/web", "--replicas", "3"]);
    cluster.kubectl(&["rollout", "status", "-n", "shop", "deployment/web", "--timeout", "60s"]);
    let running = Instant::now();
    agree(&cluster, &place);
    println!(
        "scaled: the kubelet reports it running after {:?}, scanned {:?} later",
        running - start,
        running.elapsed()
    );

    cluster.kubectl(&["delete", "namespace", "shop", "--wait=false"]);
    cluster.run(&["static", "b", "-"]);
    until("no container to be left", || containers(&cluster).is_empty());
    agree(&cluster, &place);
    cluster.kubectl(&["delete", "-f", &format!("{MANIFESTS}custom.yaml")]);
    drop(agents);
}
