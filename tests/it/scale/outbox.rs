//! Events that the whole aggregator writes to the outbox, read from its store while it runs.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use super::load;
use super::node::{Stream, endpoint, node_name};
use super::service::{OUTCROP, Service, until};

/// Longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bodies of the events in the outbox, oldest first, of these kinds.
fn events(service: &Service, kinds: &[&str]) -> Vec<Value> {
    let store = Connection::open_with_flags(service.at("data/outcrop.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    store.busy_timeout(Duration::from_secs(10)).unwrap();
    let mut bodies = store.prepare("SELECT body FROM outbox ORDER BY id").unwrap();
    let bodies = bodies.query_map([], |row| row.get::<_, String>(0)).unwrap();
    let events = bodies.map(|body| serde_json::from_str::<Value>(&body.unwrap()).unwrap());
    events.filter(|event| kinds.iter().any(|kind| event["kind"] == *kind)).collect()
}

/// Waits until the events of these kinds have the text of `fields`, one line each.
fn until_told(service: &Service, kinds: &[&str], fields: &[&str], expected: &[&str]) {
    let lines = || -> Vec<String> {
        let line = |event: &Value| -> Vec<String> {
            fields.iter().map(|field| event[field].as_str().unwrap_or("-").to_owned()).collect()
        };
        events(service, kinds).iter().map(|event| line(event).join(" ")).collect()
    };
    let mut last = Vec::new();
    until(&format!("{kinds:?} to be told: {expected:?}"), PATIENCE, || {
        last = lines();
        last == expected
    });
}

#[test]
fn changes_of_databases_nodes_and_problems_are_in_the_outbox() {
    let node = node_name(0);
    let mut service = Service::start([node.clone()].into_iter(), &["--outbox"]);
    until("the database to be told of", PATIENCE, || !events(&service, &["database-changed"]).is_empty());
    let database = service.status()["database"]["digest"].as_str().unwrap().to_owned();
    assert_eq!(events(&service, &["database-changed"]), [json!({ "kind": "database-changed", "database": database })]);

    let problems = ["problem-raised", "problem-cleared"];
    let [raised, cleared] =
        ["raised", "cleared"].map(|word| format!("problem-{word} tokens {}", service.at("tokens").display()));
    let good = fs::read_to_string(service.at("tokens")).unwrap();
    fs::write(service.at("tokens"), "no token").unwrap();
    until_told(&service, &problems, &["kind", "problem"], &[&raised]);
    assert!(events(&service, &problems)[0]["message"].as_str().unwrap().contains("line 1: expected"));
    fs::write(service.at("tokens"), &good).unwrap();
    let both = [raised.as_str(), cleared.as_str()];
    until_told(&service, &problems, &["kind", "problem"], &both);
    // A problem that is mended while no aggregator runs is cleared by the next one.
    fs::write(service.at("tokens"), "no token").unwrap();
    until_told(&service, &problems, &["kind", "problem"], &[&both[..], &both[..1]].concat());
    service.kill();
    fs::write(service.at("tokens"), &good).unwrap();
    service.run();
    until_told(&service, &problems, &["kind", "problem"], &both.repeat(2));

    let runtime = load::runtime();
    let _stream = runtime.block_on(Stream::attach(&endpoint(&service), &node)).unwrap();
    until("the node to be known", PATIENCE, || service.status()["nodes"]["known"] == 1);
    let server = format!("http://{}", service.api);
    let outcrop = |arguments: &[&str]| {
        Command::new(OUTCROP).args(arguments).args(["--server", &server]).output().unwrap().status.success()
    };
    let file = service.at("advisories.db").display().to_string();
    assert!(outcrop(&["node", "distrust", &node]));
    assert!(outcrop(&["node", "trust", &node]));
    assert!(!outcrop(&["node", "distrust", "nobody"]));
    assert!(outcrop(&["db", "push", &file]));
    until_told(
        &service,
        &["audit"],
        &["actor", "action", "target", "outcome"],
        &[
            &format!("loopback distrust-node {node} done"),
            &format!("loopback trust-node {node} done"),
            "loopback distrust-node nobody failed",
            &format!("loopback push-database {database} done"),
        ],
    );
}

#[test]
fn without_a_target_the_outbox_stays_empty() {
    let service = Service::start([node_name(0)].into_iter(), &[]);
    fs::write(service.at("tokens"), "no token").unwrap();
    let is_tokens = |problem: &Value| problem["kind"] == "tokens";
    until("the problem to be raised", PATIENCE, || {
        service.status()["problems"].as_array().unwrap().iter().any(is_tokens)
    });
    let file = service.at("advisories.db").display().to_string();
    let server = format!("http://{}", service.api);
    let pushed = Command::new(OUTCROP).args(["db", "push", &file, "--server", &server]).output().unwrap();
    assert!(pushed.status.success());
    let store = Connection::open_with_flags(service.at("data/outcrop.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let rows: i64 = store.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 0);
}
