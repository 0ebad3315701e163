//! Tests of the join of containers, pods and workloads.

use serde_json::{Value, json};

use super::containers::{MAX_IMAGE, cut};
use super::*;
use crate::patterns::NamespacePatterns;

fn pod(name: &str, owner: Option<(&str, &str, &str)>) -> Value {
    let owners = owner.map(|(api, kind, name)| {
        json!([{ "apiVersion": api, "kind": kind, "name": name, "uid": format!("uid of {name}"), "controller": true }])
    });
    json!({
        "metadata": { "name": name, "namespace": "shop", "uid": format!("uid of {name}"), "ownerReferences": owners },
        "spec": {
            "nodeName": "a",
            "initContainers": [{ "name": "first" }, { "name": "proxy", "restartPolicy": "Always" }],
            "containers": [{ "name": "main", "env": [{ "name": "PASSWORD", "value": "secret" }], "args": ["secret"] }],
        },
        "status": {
            "phase": "Running",
            "initContainerStatuses": [
                { "name": "first", "containerID": format!("containerd://{name}-first"), "state": { "terminated": {} } },
                { "name": "proxy", "containerID": format!("containerd://{name}-proxy"), "state": { "running": {} } },
            ],
            "containerStatuses": [
                { "name": "main", "containerID": format!("containerd://{name}-main"), "state": { "running": {} } },
            ],
        },
    })
}

fn set(cluster: &mut Cluster, pod: Value) -> Touched {
    cluster.set_pod(serde_json::from_value::<KubePod>(pod).unwrap().into())
}

fn owner(name: &str, above: Option<(&str, &str, &str)>) -> ObjectMeta {
    let value = pod(name, above);
    serde_json::from_value(value["metadata"].clone()).unwrap()
}

fn whose(cluster: &Cluster, id: &str) -> String {
    let place = cluster.place("a", id).unwrap();
    format!("{} {}", place.workload.kind, place.workload.name)
}

const REPLICAS: Option<(&str, &str, &str)> = Some(("apps/v1", "ReplicaSet", "web-5d"));
const DEPLOYMENT: Option<(&str, &str, &str)> = Some(("apps/v1", "Deployment", "web"));

#[test]
fn a_container_is_joined_by_its_id_on_its_node_and_by_nothing_else() {
    let mut cluster = Cluster::default();
    let touched = set(&mut cluster, pod("web-1", None));
    assert_eq!(touched.len(), 3, "{touched:?}");
    let place = cluster.place("a", "web-1-main").unwrap();
    assert_eq!((place.pod.namespace.as_str(), &*place.pod.name, &*place.name), ("shop", "web-1", "main"));
    for (node, id) in [("b", "web-1-main"), ("a", "web-1"), ("a", "")] {
        assert_eq!(cluster.place(node, id), None);
    }
    let kinds: Vec<&str> = cluster.pods().next().unwrap().containers.iter().map(|of| of.kind.as_str()).collect();
    assert_eq!(kinds, ["init", "sidecar", "main"]);
    // A container that was made again has another ID, and the old one is nobody's.
    let mut again = pod("web-1", None);
    again["status"]["containerStatuses"][0]["containerID"] = json!("containerd://second");
    assert_eq!(set(&mut cluster, again).len(), 4, "the old and the new");
    assert!(cluster.place("a", "web-1-main").is_none() && cluster.place("a", "second").is_some());
    assert_eq!(cluster.remove_pod("uid of web-1").len(), 3);
    assert!(cluster.place("a", "second").is_none() && cluster.workloads().next().is_none());
    assert!(cluster.below.is_empty() && cluster.containers.is_empty());
}

#[test]
fn an_image_has_the_name_that_its_pod_asks_for_and_the_digest_that_the_kubelet_resolved() {
    let long = "x".repeat(MAX_IMAGE + 1);
    for (asked, id, expected) in [
        ("web:1", "registry.example/web@sha256:aa", Some("registry.example/web@sha256:aa")),
        ("web:1", "docker-pullable://web@sha256:aa", Some("web@sha256:aa")),
        ("web:1", "sha256:cc", Some("sha256:cc")),
        ("web:1", "", None),
        (&long, &long, Some(&long[1..])),
    ] {
        let mut cluster = Cluster::default();
        let mut told = pod("web-1", None);
        told["spec"]["containers"][0]["image"] = json!(asked);
        // The runtime's name for the same image, by a tag that another pod asked for.
        told["status"]["containerStatuses"][0]["image"] = json!("docker.io/other/team:9");
        told["status"]["containerStatuses"][0]["imageID"] = json!(id);
        set(&mut cluster, told);
        let place = cluster.place("a", "web-1-main").unwrap();
        assert_eq!((&*place.image, place.image_id.as_deref()), (cut(asked), expected));
    }
}

#[test]
fn whose_a_pod_is_follows_from_what_is_known_in_whatever_order_it_comes() {
    let mut cluster = Cluster::default();
    set(&mut cluster, pod("web-1", REPLICAS));
    assert_eq!(whose(&cluster, "web-1-main"), "ReplicaSet web-5d");
    let touched = cluster.set_owner(Marks::default(), owner("web-5d", DEPLOYMENT));
    assert_eq!((touched.len(), whose(&cluster, "web-1-main").as_str()), (3, "Deployment web"));
    assert_eq!(cluster.workloads().count(), 1);
    // The Deployment itself brings its labels, and no other name.
    let marks = Marks { labels: [("team".to_owned(), "shop".to_owned())].into(), ..Marks::default() };
    assert!(cluster.set_owner(marks.clone(), owner("web", None)).is_empty());
    assert_eq!(cluster.marks(cluster.workloads().next().unwrap()), Some(&marks));
    set(&mut cluster, pod("web-2", REPLICAS));
    assert_eq!(cluster.workloads().next().unwrap().pods.len(), 2);
    // Deleted without its pods.
    cluster.remove_owner("uid of web");
    assert_eq!(cluster.set_owner(Marks::default(), owner("web-5d", None)).len(), 6);
    assert_eq!(whose(&cluster, "web-2-main"), "ReplicaSet web-5d");
    assert_eq!(cluster.remove_owner("uid of web-5d").len(), 0, "its pods still name it");
}

#[test]
fn what_is_in_another_namespace_owns_nothing_here() {
    let mut cluster = Cluster::default();
    set(&mut cluster, pod("web-1", REPLICAS));
    cluster.set_owner(Marks::default(), owner("web-5d", DEPLOYMENT));
    // Somebody elsewhere knows the identity of shop's Deployment, and says that it owns their pod.
    let mut foreign = pod("liar", Some(("x.example/v1", "Anything", "web")));
    foreign["metadata"]["namespace"] = json!("aaa");
    set(&mut cluster, foreign.clone());
    foreign["metadata"]["ownerReferences"] = pod("", REPLICAS)["metadata"]["ownerReferences"].clone();
    set(&mut cluster, foreign);
    let namespaces = |cluster: &Cluster| -> Vec<(String, String, usize)> {
        let all =
            cluster.workloads().map(|of| (of.workload.namespace.clone(), of.workload.kind.clone(), of.pods.len()));
        let mut all: Vec<_> = all.collect();
        all.sort();
        all
    };
    let [ours, theirs] = [("shop", "Deployment"), ("aaa", "ReplicaSet")].map(|(a, b)| (a.to_owned(), b.to_owned(), 1));
    assert_eq!(namespaces(&cluster), [theirs, ours]);
}

#[test]
fn what_one_node_says_of_a_container_counts_on_that_node() {
    let mut cluster = Cluster::default();
    set(&mut cluster, pod("web-1", None));
    let mut liar = pod("liar", None);
    liar["spec"]["nodeName"] = json!("b");
    liar["status"]["containerStatuses"][0]["containerID"] = json!("containerd://web-1-main");
    set(&mut cluster, liar);
    assert_eq!(&*cluster.place("a", "web-1-main").unwrap().pod.name, "web-1");
    cluster.remove_pod("uid of liar");
    assert_eq!(&*cluster.place("a", "web-1-main").unwrap().pod.name, "web-1");
    cluster.remove_pod("uid of web-1");
    assert!(cluster.texts.is_empty() && cluster.containers.is_empty());
}

#[test]
fn a_pod_whose_containers_stay_where_they_are_moves_none() {
    let mut cluster = Cluster::default();
    assert_eq!(set(&mut cluster, pod("web-1", None)).len(), 3);
    let mut labelled = pod("web-1", None);
    labelled["metadata"]["labels"] = json!({ "again": "1" });
    assert!(set(&mut cluster, labelled).is_empty());
    let mut moved = pod("web-1", REPLICAS);
    moved["metadata"]["labels"] = json!({ "again": "2" });
    assert_eq!(set(&mut cluster, moved).len(), 3);
}

#[test]
fn a_container_that_runs_without_an_id_is_there_nevertheless() {
    let mut bare = pod("web-1", None);
    bare["status"]["containerStatuses"][0]["containerID"] = json!(null);
    let mut cluster = Cluster::default();
    set(&mut cluster, bare);
    let pod = cluster.pods().next().unwrap();
    assert_eq!(pod.containers[2].id.as_deref(), Some("uid of web-1/main"));
}

#[test]
fn metadata_that_anybody_may_write_costs_nobody_a_list() {
    let mut odd = pod("web-1", None);
    odd["metadata"]["managedFields"] = json!([{ "time": "9999-12-31T23:59:59Z", "manager": "x" }]);
    odd["metadata"]["creationTimestamp"] = json!("2026-11-28T00:00:00Z");
    let owner = |number: usize| json!({ "apiVersion": "v1", "kind": "X".repeat(9_000), "name": "x", "uid": number.to_string() });
    odd["metadata"]["ownerReferences"] = (0..1_000).map(owner).collect();
    let told = PodTold::from(serde_json::from_value::<KubePod>(odd).unwrap());
    assert_eq!(told.marks.created, 1_795_824_000);
    let kept = told.meta.owner_references.unwrap();
    assert_eq!((kept.len(), kept[0].kind.len()), (1, 253));
}

#[test]
fn what_is_out_of_view_is_so_as_soon_as_its_namespace_or_owner_says_it() {
    let annotations_in = NamespacePatterns::parse(&["shop".to_owned()]).unwrap();
    let selection = Selection { annotations_in, ..Selection::default() };
    let mut cluster = Cluster::new(selection);
    set(&mut cluster, pod("web-1", REPLICAS));
    let marked =
        Marks { annotations: [(super::super::EXCLUDE.to_owned(), "true".to_owned())].into(), ..Marks::default() };
    assert_eq!(cluster.set_namespace("shop".to_owned(), marked.clone()).len(), 3);
    assert!(cluster.place("a", "web-1-main").unwrap().excluded.is_some());
    assert_eq!(cluster.set_namespace("shop".to_owned(), Marks::default()).len(), 3);
    assert_eq!(cluster.place("a", "web-1-main").unwrap().excluded, None);
    assert_eq!(cluster.set_owner(marked, owner("web-5d", None)).len(), 3);
    assert!(cluster.place("a", "web-1-main").unwrap().excluded.is_some());
}

#[test]
fn nodes_on_which_no_agent_can_run_are_known() {
    let cases = [
        (json!({ "metadata": { "labels": { "eks.amazonaws.com/compute-type": "fargate" } } }), Some("Fargate")),
        (json!({ "spec": { "taints": [{ "key": "virtual-kubelet.io/provider" }] } }), Some("virtual kubelet")),
        (json!({ "status": { "nodeInfo": { "operatingSystem": "windows" } } }), Some("Windows")),
        (json!({ "status": { "nodeInfo": { "operatingSystem": "linux" } } }), None),
        (json!({ "spec": { "taints": null }, "status": {} }), None),
    ];
    for (node, says) in cases {
        let blind = blind(&serde_json::from_value(node.clone()).unwrap());
        assert_eq!(blind.is_some(), says.is_some(), "{node}");
        assert!(blind.unwrap_or_default().contains(says.unwrap_or_default()), "{node}");
    }
}
