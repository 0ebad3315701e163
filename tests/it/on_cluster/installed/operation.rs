//! Operation: a look before the installation, recovery from what ends, and narrower configurations.

use super::*;

/// `doctor --preflight` finds a missing default StorageClass, and a namespace that refuses agents.
pub(super) fn a_preflight_finds_what_keeps_pods_from_starting(installed: &Installed) {
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

/// Everything is right again by itself, whatever ends.
pub(super) fn it_heals(installed: &Installed) {
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
pub(super) fn it_can_be_narrowed(installed: &Installed) {
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
