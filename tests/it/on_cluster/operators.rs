//! Guarantees against problems that operators of other scanners had, on both generations of containerd.
//!
//! Needs a running test cluster with the images `debian` and `layers`: OUTCROP_CLUSTER names its script, `tests/cluster/cluster`. Parts that
//! need the installed chart are in `installed.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::cluster_parts::{Cluster, SLEEP, pod};
use crate::service_parts::{Place, Running, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const DEBIAN: &str = "outcrop.example/debian:1";
const LAYERS: &str = "outcrop.example/layers:1";

/// Rights of an agent that cannot read overlay's marks.
const WEAK: [&str; 5] = ["setpriv", "--bounding-set", "-all,+dac_read_search,+sys_ptrace", "--inh-caps", "-all"];

/// A namespace of the cluster, and an aggregator beside it.
struct Stage {
    cluster: Cluster,
    space: &'static str,
    place: Place,
    start: Instant,
}

impl Stage {
    /// Makes the namespace `space`.
    fn new(space: &'static str) -> Option<Self> {
        let cluster = Cluster::running()?;
        let start = Instant::now();
        super::cluster_parts::enter("a");
        cluster.kubectl(&["delete", "namespace", space, "--ignore-not-found", "--timeout", "90s"]);
        cluster.kubectl(&["create", "namespace", space]);
        until("the namespace's account", || {
            cluster.kubectl(&["get", "serviceaccount", "-n", space, "-o", "name"]).contains("default")
        });
        let place = Self::aggregator(&cluster);
        Some(Self { cluster, space, place, start })
    }

    fn aggregator(cluster: &Cluster) -> Place {
        let kubeconfig: &'static str = cluster.kubeconfig().leak();
        let place = Place::start_with(false, &["--kubernetes", "--kubeconfig", kubeconfig]);
        ["a", "b"].iter().for_each(|node| place.token(node));
        place
    }

    fn agent(&self, node: &str) -> Running {
        self.place.agent(node, &self.cluster.socket(node))
    }

    fn agents(&self) -> [Running; 2] {
        ["a", "b"].map(|node| self.agent(node))
    }

    /// Creates a pod with one container of `image`, and waits until it runs.
    fn pod(&self, name: &str, node: &str, image: &str) {
        self.cluster.create(&pod(self.space, name, node, image, &SLEEP));
        self.running(name);
    }

    fn running(&self, pod: &str) {
        let pod = format!("pod/{pod}");
        self.cluster.kubectl(&["wait", "-n", self.space, "--for", "condition=Ready", &pod, "--timeout", "60s"]);
    }

    /// The containers of the namespace, with `query`.
    fn containers(&self, query: &str) -> Vec<Value> {
        items(&self.place, &format!("/api/v1/containers?namespace={}&limit=1000{query}", self.space))
    }

    /// Waits until the containers of these pods are scanned.
    fn until_scanned(&self, pods: &[&str]) {
        let expected: BTreeSet<&str> = pods.iter().copied().collect();
        until(&format!("{expected:?} to be scanned"), || {
            let containers = self.containers("");
            let scanned = containers.iter().filter(|container| container["coverage"]["state"] == "scanned");
            scanned.map(|container| container["pod"].as_str().unwrap()).collect::<BTreeSet<_>>() == expected
        });
    }

    fn gaps(&self) -> BTreeMap<String, f64> {
        let metrics = self.place.get("/metrics");
        let gaps = metrics.lines().filter_map(|line| line.strip_prefix("outcrop_gaps{kind=\""));
        gaps.map(|line| line.split_once("\"} ").unwrap())
            .map(|(kind, of)| (kind.to_owned(), of.parse().unwrap()))
            .collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.cluster.attempt(&["kubectl", "delete", "namespace", self.space, "--wait=false"]);
        println!("{}: {:.1} s", self.space, self.start.elapsed().as_secs_f64());
    }
}

fn items(place: &Place, path: &str) -> Vec<Value> {
    serde_json::from_value(place.json(path)["items"].take()).unwrap()
}

#[test]
fn an_ended_init_container_of_the_same_image_does_not_leave_it_partial() {
    let Some(mut stage) = Stage::new("init-containers") else { return };
    // The IDs are random: of some pods, one on each node is kept in which the container that has ended sorts first.
    let named = |node: &str, number: usize| format!("init-{node}-{number}");
    let all = ["a", "b"].into_iter().flat_map(|node| (0..8).map(move |number| (node, named(node, number))));
    let pods = all.map(|(node, name)| {
        let mut pod = pod(stage.space, &name, node, LAYERS, &SLEEP);
        let mut init = pod["spec"]["containers"][0].clone();
        (init["name"], init["command"]) = (json!("init"), json!(["true"]));
        pod["spec"]["initContainers"] = json!([init]);
        pod
    });
    stage.cluster.create(&json!({ "apiVersion": "v1", "kind": "List", "items": pods.collect::<Vec<_>>() }));
    let ready = ["--for", "condition=Ready", "pod", "--all", "--timeout", "60s"];
    stage.cluster.kubectl(&[&["wait", "-n", stage.space][..], &ready].concat());
    let pods = stage.cluster.json(&["get", "pods", "-n", stage.space])["items"].take();
    let id = |pod: &Value, kind: &str| pod["status"][kind][0]["containerID"].as_str().unwrap().to_owned();
    let kept = ["a", "b"].map(|node| {
        let mut pods = pods.as_array().unwrap().iter().filter(|pod| pod["spec"]["nodeName"] == node);
        let pod = pods.find(|pod| id(pod, "initContainerStatuses") < id(pod, "containerStatuses"));
        pod.expect("an init container whose ID sorts first")["metadata"]["name"].as_str().unwrap().to_owned()
    });
    let others = pods.as_array().unwrap().iter().map(|pod| pod["metadata"]["name"].as_str().unwrap());
    let others: Vec<&str> = others.filter(|name| !kept.iter().any(|kept| kept == name)).collect();
    stage.cluster.kubectl(&[&["delete", "pod", "--now", "-n", stage.space][..], &others].concat());
    for (node, name) in ["a", "b"].into_iter().zip(&kept) {
        // Nobody can read the marks, so the layers are decided in a container's mounted root.
        stage.place = Stage::aggregator(&stage.cluster);
        let _agent = stage.place.agent_by(&WEAK, node, &stage.cluster.socket(node));
        until("the image to be decided", || {
            let containers = stage.containers(&format!("&pod={name}"));
            containers.iter().any(|container| container["coverage"]["state"] == "scanned")
        });
    }
}

#[test]
fn an_image_has_the_name_and_the_digest_that_its_pods_have() {
    let Some(stage) = Stage::new("image-names") else { return };
    let other = "aaa.example/other:9";
    for node in ["a", "b"] {
        stage.cluster.run(&["ctr", node, "images", "tag", "--force", DEBIAN, other]);
        stage.pod(&format!("named-{node}"), node, DEBIAN);
    }
    let _agents = stage.agents();
    stage.until_scanned(&["named-a", "named-b"]);
    let images = items(&stage.place, "/api/v1/images?limit=1000");
    let named: Vec<&Value> =
        images.iter().filter(|image| image["names"].as_array().unwrap().contains(&json!(DEBIAN))).collect();
    assert_eq!(named.len(), 1, "{images:#?}");
    assert!(!json!(images).to_string().contains(other), "{images:#?}");
    let reported = |node: &str| {
        let pod = stage.cluster.json(&["get", "pod", &format!("named-{node}"), "-n", stage.space]);
        pod["status"]["containerStatuses"][0]["imageID"].as_str().unwrap().to_owned()
    };
    let ids = named[0]["ids"].as_array().unwrap();
    assert!(["a", "b"].iter().all(|node| ids.contains(&json!(reported(node)))), "{ids:?}");
    let digest = reported("b").rsplit(['@', '/']).next().unwrap().to_owned();
    for image in [DEBIAN, "outcrop.example/debian", "debian:1", "debian", &digest] {
        assert_eq!(stage.containers(&format!("&image={image}")).len(), 2, "{image}");
    }
    assert_eq!(stage.containers("&image=other").len(), 0);
    for node in ["a", "b"] {
        stage.cluster.run(&["ctr", node, "images", "rm", other]);
    }
}

#[test]
fn what_ran_a_moment_ago_is_found_and_marked() {
    let Some(stage) = Stage::new("ended-runs") else { return };
    let _agents = stage.agents();
    let mut template = pod(stage.space, "once", "b", LAYERS, &["sleep", "8"])["spec"].take();
    template["restartPolicy"] = json!("Never");
    let job = json!({ "spec": { "template": { "spec": template } } });
    stage.cluster.create(&json!({ "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": { "name": "nightly", "namespace": stage.space }, "spec": { "schedule": "0 0 1 1 *", "jobTemplate": job } }));
    stage.cluster.kubectl(&["create", "job", "once", "-n", stage.space, "--from", "cronjob/nightly"]);
    let has = |more: &str| {
        let found = items(&stage.place, &format!("/api/v1/who-has?q=dpkg{more}"));
        found
            .into_iter()
            .filter(|has| has["container"]["namespace"] == stage.space)
            .map(|mut has| (has["container"]["workload"].take(), has["ran_until"].take()))
            .collect::<Vec<_>>()
    };
    until("it to be read", || has("&running=true") == [(json!("CronJob/nightly"), Value::Null)]);
    stage.cluster.kubectl(&["wait", "-n", stage.space, "--for", "condition=Complete", "job/once", "--timeout", "60s"]);
    until("its end", || has("&running=true").is_empty());
    let ended = has("");
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert!(ended[0].0 == "CronJob/nightly" && ended[0].1.is_string(), "{ended:?}");
    let workloads = items(&stage.place, &format!("/api/v1/workloads?namespace={}", stage.space));
    assert_eq!(workloads.len(), 1, "a CronJob stays a workload between its runs: {workloads:#?}");
}

#[test]
fn a_hundred_labels_are_all_known_and_selected_by() {
    let Some(stage) = Stage::new("many-labels") else { return };
    let labels: BTreeMap<String, String> =
        (0..100).map(|number| (format!("label-{number:02}"), "x".repeat(20))).collect();
    for node in ["a", "b"] {
        let mut pod = pod(stage.space, &format!("labeled-{node}"), node, DEBIAN, &SLEEP);
        pod["metadata"]["labels"] = json!(labels);
        stage.cluster.create(&pod);
        stage.running(&format!("labeled-{node}"));
    }
    let _agents = stage.agents();
    stage.until_scanned(&["labeled-a", "labeled-b"]);
    for number in [0, 63, 64, 99] {
        let selector = format!("label-{number:02}={}", "x".repeat(20));
        let found = items(&stage.place, &format!("/api/v1/workloads?namespace={}&labels={selector}", stage.space));
        assert_eq!(found.len(), 2, "{selector}: {found:#?}");
    }
}

#[test]
fn a_deleted_node_takes_its_containers_with_it_and_is_counted_until_then() {
    let Some(stage) = Stage::new("deleted-nodes") else { return };
    ["a", "b"].iter().for_each(|node| stage.pod(&format!("on-{node}"), node, DEBIAN));
    let [_a, b] = stage.agents();
    stage.until_scanned(&["on-a", "on-b"]);
    until("no gap of nodes", || stage.gaps().iter().all(|(kind, count)| !kind.starts_with("nodes-") || *count == 0.0));
    let series: BTreeSet<String> = stage.gaps().into_keys().collect();

    drop(b);
    until("the silent node", || stage.gaps()["nodes-silent"] == 1.0);
    assert_eq!(stage.containers("&node=b").len(), 1, "what ran there is still known");
    stage.cluster.run(&["kill", "b-kubelet"]);
    stage.cluster.kubectl(&["delete", "node", "b"]);
    until("the node and all of its containers to be gone", || {
        let nodes = items(&stage.place, "/api/v1/nodes");
        nodes.iter().all(|node| node["name"] != "b") && items(&stage.place, "/api/v1/containers?node=b").is_empty()
    });
    assert_eq!(stage.gaps()["nodes-silent"], 0.0);
    assert_eq!(stage.gaps().into_keys().collect::<BTreeSet<_>>(), series, "one series for each kind of gap, always");

    stage.cluster.run(&["revive", "b-kubelet"]);
    until("the node to be back", || stage.cluster.attempt(&["kubectl", "get", "node", "b"]).is_ok());
    stage.cluster.kubectl(&["wait", "--for", "condition=Ready", "node/b", "--timeout", "90s"]);
    let _b = stage.agent("b");
    stage.pod("again-b", "b", DEBIAN);
    until("the new pod to be scanned", || {
        stage.containers("&node=b").iter().any(|of| of["pod"] == "again-b" && of["coverage"]["state"] == "scanned")
    });
}

#[test]
fn a_containerd_that_does_not_respond_degrades_its_node_and_hides_no_container() {
    let Some(mut stage) = Stage::new("slow-runtimes") else { return };
    ["a", "b"].iter().for_each(|node| stage.pod(&format!("on-{node}"), node, DEBIAN));
    stage.place.interval = "1";
    let _agents = stage.agents();
    stage.until_scanned(&["on-a", "on-b"]);
    let signal = |node: &str, signal: Signal| {
        let pid: i32 = stage.cluster.run(&["pid", &format!("{node}-containerd")]).trim().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    };
    let degraded = || {
        let nodes = items(&stage.place, "/api/v1/nodes?state=degraded");
        nodes.iter().map(|node| node["problems"].to_string()).collect::<Vec<_>>()
    };
    ["a", "b"].iter().for_each(|node| signal(node, Signal::STOP));
    let all = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        until("both nodes to be degraded", || degraded().len() == 2);
        assert!(degraded().iter().all(|said| said.contains("containerd did not respond")), "{:?}", degraded());
        assert_eq!(stage.gaps()["nodes-degraded"], 2.0);
        stage.until_scanned(&["on-a", "on-b"]);
    }));
    ["a", "b"].iter().for_each(|node| signal(node, Signal::CONT));
    if let Err(panic) = all {
        std::panic::resume_unwind(panic);
    }
    until("both nodes to be well", || degraded().is_empty());
    stage.until_scanned(&["on-a", "on-b"]);
}
