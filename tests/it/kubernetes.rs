//! The aggregator beside an API server that has what a test gives it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

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
    assert!(log.contains("outcrop store adopt --cluster test --cluster-uid uid-2"), "{log}");
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
