//! Rights: what a token may say and see, and what a pod of Outcrop may change and connect to.

use super::*;

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
pub(super) fn count_connections(cluster: &Cluster) {
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
pub(super) fn nothing_leaves(installed: &Installed) {
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
    assert_eq!(offline, json!({ "ports": [53, 443], "allowed": [], "enforced": true }));
    let [service, address, udp, tcp, aggregator, others] = all;
    println!(
        "connections of pods: API server {}, DNS {}, aggregator {aggregator}, others {others}",
        service + address,
        udp + tcp
    );
    assert!(service + address > 0 && udp > 0 && aggregator >= 2, "those are counted at all: {all:?}");
}

/// A token speaks for the node of its pod, and for nothing else.
pub(super) fn agents_speak_for_their_nodes(installed: &Installed) {
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
pub(super) fn namespaces_are_seen_by_their_own(installed: &Installed) {
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
pub(super) fn nothing_of_the_host_can_be_changed(installed: &Installed) {
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
