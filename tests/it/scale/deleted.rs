//! A node that was deleted from the cluster is removed, with everything that only this node had.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::load::{runtime, settle};
use super::node::{Fleet, node_name};
use super::service::{OUTCROP, Service, until};
use super::world::{Shape, World};
use crate::api_server::{ApiServer, Objects, write_kubeconfig};

const SHAPE: Shape = Shape { nodes: 3, containers: 12, images: 4, layers: 20, seed: 3 };

fn node(name: &str, uid: &str) -> Value {
    json!({ "metadata": { "name": name, "uid": uid, "resourceVersion": "1" }, "spec": {}, "status": {} })
}

#[test]
fn a_deleted_node_is_gone_at_once_and_one_that_comes_back_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..SHAPE.nodes).map(node_name).collect();
    let nodes: BTreeMap<String, Value> = names.iter().map(|name| (name.clone(), node(name, "1"))).collect();
    let objects = Objects { nodes: Some(nodes), cluster: Some("uid-1".to_owned()), ..Objects::default() };
    let server = ApiServer::start(objects);
    let (kubeconfig, tokens) = (dir.path().join("kubeconfig"), dir.path().join("api-tokens"));
    write_kubeconfig(server.address(), &kubeconfig);
    let token =
        Command::new(OUTCROP).args(["token", "new", "--api", "test", "--tokens"]).arg(&tokens).output().unwrap();
    let flags =
        ["--kubernetes", "--kubeconfig", kubeconfig.to_str().unwrap(), "--api-tokens", tokens.to_str().unwrap()];
    let mut service = Service::start(names.iter().cloned(), &flags);
    service.bearer = Some(String::from_utf8(token.stdout).unwrap().trim().to_owned());
    let runtime = runtime();
    let fleet = Fleet::new(World::new(SHAPE), &service);
    runtime.block_on(async { fleet.start() });
    settle(&service, SHAPE, false);
    let gone = names[0].as_str();
    let of_node = |service: &Service, list: &str| {
        let place = |item: &Value| item["node"].as_str().or(item["container"]["node"].as_str()).map(str::to_owned);
        // What ran there until now may be listed as ended.
        let runs = |item: &&Value| item["ran_until"].is_null() && place(item).as_deref() == Some(gone);
        service.all(list).iter().filter(runs).count()
    };
    assert!(of_node(&service, "/api/v1/containers") > 0 && of_node(&service, "/api/v1/findings") > 0);
    let others = service.all("/api/v1/containers").len() - of_node(&service, "/api/v1/containers");

    // Its agent is attached, and attaches again: as a new node.
    let log = || fs::read_to_string(service.at("log")).unwrap();
    let seen = |service: &Service| service.status()["lifetimes"]["seen"].as_u64().unwrap();
    let before = seen(&service);
    server.objects.lock().unwrap().nodes.as_mut().unwrap().insert(names[0].clone(), node(gone, "2"));
    until("the node to be replaced", Duration::from_secs(60), || log().contains("node removed with its Node object"));
    let expected = of_node(&service, "/api/v1/containers") as u64;
    until("it to be reported again", Duration::from_secs(60), || {
        of_node(&service, "/api/v1/containers") + others == SHAPE.containers && seen(&service) > before
    });
    assert!(expected <= SHAPE.containers as u64);

    // It dies, and is deleted.
    fleet.stop();
    service.kill();
    fleet.next_life();
    service.run();
    let again = Fleet::new(World::new(SHAPE), &service);
    runtime.block_on(async { again.start() });
    settle(&service, SHAPE, false);
    again.stop();
    until("every stream to end", Duration::from_secs(60), || service.status()["nodes"]["attached"] == 0);
    assert_eq!(service.all("/api/v1/containers").len(), SHAPE.containers, "silent nodes keep what they had");
    server.objects.lock().unwrap().nodes.as_mut().unwrap().remove(gone);
    until("the node to be gone", Duration::from_secs(60), || service.status()["nodes"]["known"] == SHAPE.nodes - 1);
    assert_eq!(service.status()["containers"], others);
    for list in ["/api/v1/containers", "/api/v1/findings", "/api/v1/who-has?q=openssl"] {
        assert_eq!(of_node(&service, list), 0, "{list}");
    }
    assert_eq!(service.all("/api/v1/containers").len(), others);
    let metrics = service.ask("/metrics").unwrap().1;
    assert!(!metrics.contains(&format!("\"{gone}\"")) && metrics.contains(&format!("\"{}\"", names[1])), "{metrics}");
}
