//! The aggregator beside an API server that has what a test gives it.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::api_server::{ApiServer, Objects};
use crate::service_parts::{Place, until};

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
    server.write_kubeconfig(&kubeconfig);
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
    let server = ApiServer::start(Objects { pods, cluster: Some("uid-1".to_owned()) });
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
