//! Results of workloads and images, and the command line that asks for them.

use super::*;

/// Findings stand under the workload as soon as it runs, and go with it.
pub(super) fn findings_follow_workloads(installed: &Installed) {
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
pub(super) fn images_are_told_of_as_they_are(installed: &Installed) {
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
pub(super) fn the_command_line_asks_a_pod_that_is_ready(installed: &Installed) {
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
pub(super) fn a_container_that_was_started_again_is_one(installed: &Installed) {
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
