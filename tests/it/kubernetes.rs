//! The aggregator with a test API server, whose objects each test defines.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use outcrop_proto::wire::v1::collector_client::CollectorClient;
use outcrop_proto::wire::v1::report::Report;
use outcrop_proto::wire::{VERSION, v1};
use serde_json::{Value, json};
use tokio_stream::wrappers::ReceiverStream;

use crate::api_server::{ApiServer, Objects, write_kubeconfig};
use crate::ports::free;
use crate::service_parts::{OUTCROP, Place, Running, request, until};

/// A running pod with one container.
fn pod(name: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "shop", "uid": format!("uid of {name}"), "resourceVersion": "1" },
        "spec": { "nodeName": "one", "containers": [{ "name": "main" }] },
        "status": { "phase": "Running", "containerStatuses": [
            { "name": "main", "containerID": format!("containerd://{name}"), "state": { "running": {} } },
        ] },
    })
}

/// An aggregator that watches the API server, with these flags besides.
fn aggregator(server: &ApiServer, dir: &Path, flags: &[&'static str]) -> Place {
    let kubeconfig = dir.join("kubeconfig");
    write_kubeconfig(server.address(), &kubeconfig);
    let kubeconfig: &'static str = String::leak(kubeconfig.to_str().unwrap().to_owned());
    Place::start_with(false, &[&["--kubernetes", "--kubeconfig", kubeconfig], flags].concat())
}

/// Writes a policy that selects pods by name, as a mounted ConfigMap does: `..data` is a link that is replaced.
fn write_policy(dir: &Path, version: &str, rules: &str) {
    fs::create_dir(dir.join(version)).unwrap();
    fs::write(dir.join(version).join("workload-events.rego"), format!("package snyk\n{rules}\n")).unwrap();
    std::os::unix::fs::symlink(version, dir.join("..new")).unwrap();
    fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
}

#[test]
fn a_changed_policy_applies_without_a_restart_and_a_broken_one_is_a_problem_until_it_is_corrected() {
    let dir = tempfile::tempdir().unwrap();
    write_policy(dir.path(), "1", "workload_events { input.metadata.name == \"web\" }");
    let policy = dir.path().join("workload-events.rego");
    std::os::unix::fs::symlink("..data/workload-events.rego", &policy).unwrap();
    let policy: &'static str = String::leak(policy.to_str().unwrap().to_owned());
    let pods = vec![pod("web"), pod("job")];
    let server = ApiServer::start(Objects { pods, cluster: Some("uid-1".to_owned()), ..Objects::default() });
    let place = aggregator(&server, dir.path(), &["--policy", policy]);

    let excluded = || {
        let items = place.json("/api/v1/containers?namespace=shop")["items"].take();
        let items = items.as_array().unwrap().iter().filter(|item| item["coverage"]["state"] == "excluded");
        items.map(|item| item["pod"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let problems = || {
        let problems = place.status()["problems"].take();
        let problems = problems.as_array().unwrap().iter().filter(|problem| problem["kind"] == "policy");
        problems.map(|problem| problem["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until("the first policy", || excluded() == ["job"]);
    assert_eq!(problems(), Vec::<String>::new());
    write_policy(dir.path(), "2", "workload_events { input.metadata.name == \"job\" }");
    until("the second policy", || excluded() == ["web"]);
    write_policy(dir.path(), "3", "workload_events {");
    until("the problem", || !problems().is_empty());
    let [problem] = &problems()[..] else { panic!("{:?}", problems()) };
    assert!(problem.contains("not a Rego v0 policy") && problem.contains("stays in use"), "{problem}");
    assert_eq!(excluded(), ["web"]);
    write_policy(dir.path(), "4", "workload_events { input.metadata.name == \"web\" }");
    until("the corrected policy", || excluded() == ["job"] && problems().is_empty());
}

/// A node's stream, over which a test says what an agent would.
struct Node {
    reports: tokio::sync::mpsc::Sender<v1::Report>,
    _orders: tonic::Streaming<v1::Order>,
    runtime: tokio::runtime::Runtime,
}

impl Node {
    fn attach(place: &Place, name: &str) -> Self {
        let token = fs::read_to_string(place.at(&format!("{name}.token"))).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (reports, outbox) = tokio::sync::mpsc::channel(16);
        let hello = v1::Hello {
            node: name.to_owned(),
            catalogers: outcrop_agent::catalog::VERSION,
            wire_version: VERSION,
            ..v1::Hello::default()
        };
        reports.try_send(Self::addressed(Report::Hello(hello))).unwrap();
        let orders = runtime.block_on(async {
            let mut client = CollectorClient::connect(format!("http://{}", place.listen)).await.unwrap();
            let mut request = tonic::Request::new(ReceiverStream::new(outbox));
            request.metadata_mut().insert("authorization", format!("Bearer {}", token.trim()).parse().unwrap());
            client.attach(request).await.unwrap().into_inner()
        });
        Self { reports, _orders: orders, runtime }
    }

    fn addressed(report: Report) -> v1::Report {
        v1::Report { cluster: "test".to_owned(), report: Some(report) }
    }

    fn say(&self, report: Report) {
        self.runtime.block_on(self.reports.send(Self::addressed(report))).unwrap();
    }

    /// Says what the agent cannot do.
    fn say_problems(&self, messages: &[&str]) {
        let problem = |message: &&str| v1::Problem { message: (*message).to_owned(), since: 1_800_000_000 };
        let problems = messages.iter().map(problem).collect();
        self.say(Report::Metrics(v1::Metrics { problems, ..v1::Metrics::default() }));
    }
}

#[test]
fn a_node_whose_agent_cannot_list_is_degraded_and_its_pods_say_so_until_it_can() {
    const REASON: &str = "listing the tasks of namespace k8s.io: containerd did not respond within 30 s";
    let dir = tempfile::tempdir().unwrap();
    let pods = vec![pod("web")];
    let server = ApiServer::start(Objects { pods, cluster: Some("uid-1".to_owned()), ..Objects::default() });
    let place = aggregator(&server, dir.path(), &[]);
    let coverage = || {
        let containers = place.json("/api/v1/containers?namespace=shop");
        let coverage = &containers["items"][0]["coverage"];
        format!(
            "{}: {}",
            coverage["state"].as_str().unwrap_or_default(),
            coverage["reason"].as_str().unwrap_or_default()
        )
    };
    let problems = || {
        let problems = place.status()["problems"].take();
        let problems = problems.as_array().unwrap().iter().filter(|problem| problem["kind"] == "nodes");
        problems.map(|problem| problem["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until("the pod", || coverage() == "pending: no agent is attached on the node");

    let node = Node::attach(&place, "one");
    until("the node", || coverage() == "pending: the agent on the node has not reported the container yet");
    assert_eq!(place.json("/api/v1/nodes?name=one")["items"][0]["state"], "attached");
    node.say_problems(&[REASON, "another"]);
    let expected = format!("pending: the node is degraded and its agent has not reported the container yet: {REASON}");
    until("the reason", || coverage() == expected);
    until("the problem", || problems() == [format!("node one is degraded: {REASON}, and 1 more problems")]);
    let listed = place.json("/api/v1/nodes?state=degraded")["items"].take();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["name"]), (1, &json!("one")));
    assert_eq!(listed[0]["problems"][0], json!({ "message": REASON, "began_at": "2027-01-15T08:00:00Z" }));
    assert_eq!((&place.status()["nodes"]["degraded"], &place.status()["nodes"]["attached"]), (&json!(1), &json!(1)));
    let metrics = place.get("/metrics");
    for series in [
        "outcrop_gaps{kind=\"nodes-degraded\"} 1",
        "outcrop_problems{kind=\"nodes\"} 1",
        "outcrop_node_degraded{node=\"one\"} 1",
    ] {
        assert!(metrics.contains(series), "{series} is missing in:\n{metrics}");
    }

    node.say_problems(&[]);
    until("the end", || problems().is_empty() && place.status()["nodes"]["degraded"] == 0);
    assert_eq!(coverage(), "pending: the agent on the node has not reported the container yet");
    assert_eq!(place.json("/api/v1/nodes?name=one")["items"][0]["state"], "attached");
}

/// The command of an aggregator whose API server is at `server`.
fn command(dir: &Path, server: SocketAddr, api: SocketAddr) -> Command {
    let kubeconfig = dir.join("kubeconfig");
    write_kubeconfig(server, &kubeconfig);
    fs::write(dir.join("tokens"), "").unwrap();
    let mut command = Command::new(OUTCROP);
    command.args(["aggregator", "--cluster", "test", "--insecure", "--listen", &free().to_string()]);
    command
        .args(["--probes", "127.0.0.1:0", "--api", &api.to_string(), "--kubernetes", "--kubeconfig"])
        .arg(kubeconfig);
    command.arg("--data").arg(dir.join("data")).arg("--tokens").arg(dir.join("tokens"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(dir.join("log")).unwrap());
    command
}

/// Runs an aggregator until it is ready, and ends it.
fn becomes_ready(dir: &Path, server: SocketAddr) {
    let api = free();
    let _aggregator = Running(command(dir, server, api).spawn().unwrap());
    until("readiness", || request(api, "/readyz").is_some_and(|(status, _)| status == 200));
}

/// Runs an aggregator that does not start, and returns its log.
fn refuses(dir: &Path, server: SocketAddr) -> String {
    let status = command(dir, server, free()).status().unwrap();
    let log = fs::read_to_string(dir.join("log")).unwrap();
    assert_eq!(status.code(), Some(1), "{log}");
    log
}

#[test]
fn a_store_belongs_to_the_cluster_with_the_uid_of_its_kube_system() {
    let dir = tempfile::tempdir().unwrap();
    let server = ApiServer::start(Objects { cluster: Some("uid-1".to_owned()), ..Objects::default() });
    let set_uid = |uid: Option<&str>| server.objects.lock().unwrap().cluster = uid.map(ToOwned::to_owned);
    for _ in 0..2 {
        becomes_ready(dir.path(), server.address());
    }
    set_uid(Some("uid-2"));
    let log = refuses(dir.path(), server.address());
    assert!(
        log.contains("outcrop store adopt --data ") && log.contains(" --cluster test --cluster-uid uid-2"),
        "{log}"
    );
    let mut adopt = Command::new(OUTCROP);
    adopt
        .args(["store", "adopt", "--cluster", "test", "--cluster-uid", "uid-2", "--data"])
        .arg(dir.path().join("data"));
    let adopted = adopt.output().unwrap();
    let text = String::from_utf8_lossy(&adopted.stdout);
    assert!(adopted.status.success() && text.contains("uid-1") && text.contains("uid-2"), "{adopted:?}");
    becomes_ready(dir.path(), server.address());
    set_uid(None);
    let log = refuses(dir.path(), server.address());
    assert!(log.contains("forbidden") && log.contains("allow the aggregator's service account to get"), "{log}");
}

#[test]
fn an_aggregator_without_an_api_server_lives_and_becomes_ready_once_that_answers() {
    let (dir, api, address) = (tempfile::tempdir().unwrap(), free(), free());
    let mut aggregator = Running(command(dir.path(), address, api).spawn().unwrap());
    let waits = || {
        until("the probes", || request(api, "/livez").is_some_and(|(status, _)| status == 200));
        let (status, text) = request(api, "/readyz").unwrap();
        assert!(status == 503 && text.contains("[-]cluster failed"), "{status}: {text}");
        assert_eq!(request(api, "/api/v1/status").unwrap().0, 503);
    };
    waits();
    // A signal ends the process also while it waits.
    let pid = rustix::process::Pid::from_child(&aggregator.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(aggregator.0.wait().unwrap().code(), Some(0));

    let _aggregator = Running(command(dir.path(), address, api).spawn().unwrap());
    waits();
    let _server = ApiServer::start_at(address, Objects { cluster: Some("uid-1".to_owned()), ..Objects::default() });
    until("readiness", || request(api, "/readyz").is_some_and(|(status, _)| status == 200));
}

#[test]
fn in_kubernetes_an_api_on_loopback_answers_nobody_without_a_token() {
    let (dir, api) = (tempfile::tempdir().unwrap(), free());
    let server = ApiServer::start(Objects { cluster: Some("uid-1".to_owned()), ..Objects::default() });
    let _aggregator = Running(command(dir.path(), server.address(), api).spawn().unwrap());
    until("readiness", || request(api, "/readyz").is_some_and(|(status, _)| status == 200));
    for path in ["/", "/metrics", "/api/v1/status", "/api/v1/findings"] {
        assert_eq!(request(api, path).map(|(status, _)| status), Some(401), "{path}");
    }
}
