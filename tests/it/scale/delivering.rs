//! Deliveries of a whole aggregator to real HTTP servers with faults, also through kills.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::load::{self, settle};
use super::node::{Fleet, node_name};
use super::receiver::{
    Known, PATIENCE, Receiver, Reply, Request, audited, audits, configuration, outcrop, shown, target, text,
};
use super::service::{OUTCROP, Service, until};
use super::world::World;
use super::{TINY, faults};

#[test]
fn a_target_knows_of_a_fleet_what_the_api_shows_of_it_also_after_another_database() {
    let shape = TINY;
    let receiver = Receiver::start(|_| Reply::Status(200, ""));
    let (_dir, path) = configuration(&format!("targets:\n{}", target("central", &receiver, "")));
    let runtime = load::runtime();
    let service = Service::start((0..shape.nodes).map(node_name), &["--deliver", &path]);
    let fleet = Fleet::new(World::new(shape), &service);
    runtime.block_on(async { fleet.start() });
    settle(&service, shape, false);
    let until_it_knows_all = || {
        let mut last = String::new();
        for _ in 0..600 {
            let known = Known::of(&receiver.records());
            let both = (shown(&service), (known.subjects.len(), known.findings() as u64));
            if both.0 == both.1 {
                return;
            }
            last = format!("{both:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("containers and findings of the fleet, and of the target: {last}");
    };
    until_it_knows_all();
    let before = Known::of(&receiver.records()).findings();
    assert!(before > 0);
    // One more advisory about a package that all have.
    let some = service.all("/api/v1/packages?sort=-containers&type=npm")[0].clone();
    let record = json!({
        "id": "CVE-2026-99999", "modified": "2026-11-01T00:00:00Z", "summary": "made up",
        "affected": [{ "package": { "ecosystem": "npm", "name": some["name"] },
            "ranges": [{ "type": "SEMVER", "events": [{ "introduced": "0" }] }] }],
    });
    service.build_database(&[record]);
    let opened = || {
        receiver
            .records()
            .iter()
            .filter(|record| record["kind"] == "finding-opened" && record["vulnerability"] == "CVE-2026-99999")
            .count()
    };
    until("the new findings to be told", PATIENCE, || opened() > 0);
    until_it_knows_all();
    assert!(Known::of(&receiver.records()).findings() > before);
}

#[test]
fn every_change_arrives_in_order_through_faults_of_the_target_and_kills_of_the_aggregator() {
    let outcome = faults::kill_while_delivering(4, false);
    assert!(outcome.is_right(), "{outcome:?}");
}

#[test]
fn what_was_delivered_is_counted_and_its_snapshot_comes_first() {
    let receiver = Receiver::start(|_| Reply::Status(200, ""));
    let (_dir, path) = configuration(&format!("targets:\n{}", target("central", &receiver, "")));
    let service = Service::start([node_name(0)].into_iter(), &["--deliver", &path]);
    let expected = audited(&service, 0, 2);
    until("every event to arrive", PATIENCE, || audits(&receiver.records()) == expected);
    let records = receiver.records();
    assert_eq!(
        (&records[0]["kind"], records.iter().filter(|of| of["kind"] == "snapshot-end").count()),
        (&json!("snapshot-begin"), 1)
    );
    until("the state to be good", PATIENCE, || {
        let target = &service.status()["targets"][0];
        target["state"] == "ok" && target["waiting_events"] == 0 && target["waiting_deliveries"] == 0
    });
    assert!(service.status()["targets"][0]["accepted"].as_u64().unwrap() > 0);
    let (_, metrics) = service.ask("/metrics").unwrap();
    assert!(metrics.contains("outcrop_deliveries_total{target=\"central\",outcome=\"accepted\"}"), "{metrics}");
}

#[test]
fn a_target_that_does_not_answer_delays_no_other_and_its_backlog_is_shown() {
    let (dead, good) = (Receiver::start(|_| Reply::Status(503, "")), Receiver::start(|_| Reply::Status(204, "")));
    let both = [target("dead", &dead, ""), target("good", &good, "")].concat();
    let (_dir, path) = configuration(&format!("targets:\n{both}"));
    let service = Service::start([node_name(0)].into_iter(), &["--deliver", &path]);
    let expected = audited(&service, 0, 3);
    until("the good target to be told", PATIENCE, || audits(&good.records()).len() >= 3);
    assert_eq!(audits(&good.records()), expected);
    // The failing one is a problem, which the other is told, too.
    until("the problem to be told", PATIENCE, || {
        good.records().iter().any(|record| record["kind"] == "problem-raised" && record["problem"] == "delivery dead")
    });
    until("the backlog to be shown", PATIENCE, || {
        let targets = service.status()["targets"].clone();
        targets[0]["state"] == "failing" && targets[0]["oldest_seconds"].is_u64() && targets[1]["state"] == "ok"
    });
    let shown = text(&outcrop(&service, &["deliver", "list"]).stdout);
    let dead_line = shown.lines().find(|line| line.starts_with("dead")).unwrap();
    assert!(dead_line.contains("failing") && !shown.contains("secret-path"), "{shown}");
    let problem = service.status()["problems"].to_string();
    assert!(
        problem.contains("503") && problem.contains("outcrop deliver test dead") && !problem.contains("secret-path"),
        "{problem}"
    );
    let tested = outcrop(&service, &["deliver", "test", "dead"]);
    assert!(tested.status.code() == Some(1) && text(&tested.stderr).contains("503"), "{tested:?}");
    let tested = outcrop(&service, &["deliver", "test", "good"]);
    assert!(
        tested.status.success() && text(&tested.stdout).contains("good accepted the sample with status 204"),
        "{tested:?}"
    );
    let is_sample = |request: &Request| request.records() == [json!({ "kind": "test" })];
    assert_eq!(good.accepted().iter().filter(|request| is_sample(request)).count(), 1);
}

#[test]
fn a_refused_delivery_is_listed_shown_replayed_or_dropped() {
    let is_mended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let receiver = Receiver::start(move |_| match mended.load(std::sync::atomic::Ordering::SeqCst) {
        true => Reply::Status(202, ""),
        false => Reply::Status(400, ""),
    });
    let (_dir, path) = configuration(&format!("targets:\n{}", target("central", &receiver, ", compression: none")));
    let service = Service::start([node_name(0)].into_iter(), &["--deliver", &path]);
    audited(&service, 0, 1);
    let refused = || service.all("/api/v1/deliveries?state=refused");
    until("two deliveries to be refused", PATIENCE, || refused().len() >= 2);
    let [first, second] = [0, 1].map(|index| refused()[index]["id"].to_string());
    let listed = text(&outcrop(&service, &["deliver", "list", "deliveries"]).stdout);
    assert!(listed.lines().nth(1).is_some_and(|line| line.starts_with(&first) && line.contains("400")), "{listed}");
    let shown = text(&outcrop(&service, &["deliver", "show", &first]).stdout);
    assert!(shown.contains("Reason:   400") && shown.contains("\"kind\":\"snapshot-begin\""), "{shown}");
    is_mended.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(outcrop(&service, &["deliver", "replay", &first]).status.success());
    until("it to arrive", PATIENCE, || receiver.records().iter().any(|record| record["kind"] == "snapshot-begin"));
    let dropped = outcrop(&service, &["deliver", "drop", &second]);
    assert!(text(&dropped.stdout).contains("removed"), "{dropped:?}");
    let missing = outcrop(&service, &["deliver", "show", &second]);
    assert!(text(&missing.stderr).contains("not found; outcrop deliver list"), "{missing:?}");
    let resynced = outcrop(&service, &["deliver", "resync", "central"]);
    assert!(resynced.status.success(), "{resynced:?}");
    let snapshots = || receiver.records().iter().filter(|record| record["kind"] == "snapshot-end").count();
    until("another snapshot", PATIENCE, || snapshots() >= 1);
    let unknown = outcrop(&service, &["deliver", "test", "nobody"]);
    assert!(text(&unknown.stderr).contains("target \"nobody\" not found"), "{unknown:?}");
}

#[test]
fn deliveries_are_signed_authorized_and_hold_no_secret() {
    let receiver = Receiver::start(|_| Reply::Status(200, ""));
    let signed = target("central", &receiver, ", signingSecretFile: DIR/signing");
    let (dir, path) = configuration(&format!("targets:\n{signed}  authorization: {{ bearerTokenFile: DIR/token }}\n"));
    fs::write(dir.path().join("signing"), "whsec_c2VjcmV0\n").unwrap();
    fs::write(dir.path().join("token"), "first-token\n").unwrap();
    let service = Service::start([node_name(0)].into_iter(), &["--deliver", &path]);
    until("the snapshot to arrive", PATIENCE, || !receiver.accepted().is_empty());
    // A secret that is rotated is used without a restart.
    fs::write(dir.path().join("token"), "second-token\n").unwrap();
    let expected = audited(&service, 0, 1);
    until("the event to arrive", PATIENCE, || audits(&receiver.records()) == expected);
    let requests = receiver.accepted().clone();
    let tokens: BTreeSet<&str> = requests.iter().map(|request| request.headers["authorization"].as_str()).collect();
    assert_eq!(tokens, BTreeSet::from(["Bearer first-token", "Bearer second-token"]));
    for Request { headers, body } in &requests {
        assert_eq!(headers["idempotency-key"], headers["webhook-id"]);
        let signed = [format!("{}.{}.", headers["webhook-id"], headers["webhook-timestamp"]).as_bytes(), body].concat();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"secret");
        let signature = headers["webhook-signature"].strip_prefix("v1,").unwrap();
        let signature = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, signature).unwrap();
        ring::hmac::verify(&key, &signed, &signature).unwrap();
        assert_eq!(
            (headers["content-encoding"].as_str(), headers["content-type"].as_str()),
            ("zstd", "application/x-ndjson")
        );
    }
    let everything = receiver.records().iter().map(Value::to_string).collect::<String>();
    let token = super::service::token(&node_name(0));
    for secret in ["first-token", "second-token", "c2VjcmV0", "secret-path", &token] {
        assert!(!everything.contains(secret), "{secret} was delivered");
    }
    let tested = text(&outcrop(&service, &["deliver", "test", "central"]).stdout);
    assert!(tested.contains("***") && !tested.contains("second-token"), "{tested}");
    let log = fs::read_to_string(service.at("log")).unwrap();
    assert!(!log.contains("secret-path") && !log.contains("-token\n"), "{log}");
}

#[test]
fn offline_a_target_is_refused_unless_its_address_is_allowed() {
    let receiver = Receiver::start(|_| Reply::Status(200, ""));
    let (dir, path) = configuration(&format!("targets:\n{}", target("central", &receiver, "")));
    let data = dir.path().join("data").display().to_string();
    let arguments =
        ["aggregator", "--data", &data, "--tokens", "/nonexistent", "--insecure", "--deliver", &path, "--offline"];
    let refused = Command::new(OUTCROP).args(arguments).output().unwrap();
    let says = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(64), "{says}");
    let allow = receiver.address.to_string();
    assert!(
        says.contains("refuses connections to the target central")
            && says.contains(&format!("--offline-allow {allow}")),
        "{says}"
    );
    let service =
        Service::start([node_name(0)].into_iter(), &["--deliver", &path, "--offline", "--offline-allow", &allow]);
    until("the snapshot to arrive", PATIENCE, || !receiver.accepted().is_empty());
    let offline = &service.status()["offline"];
    assert_eq!(offline["allowed"], json!([allow]));
    assert!(offline["ports"].as_array().unwrap().contains(&json!(receiver.address.port())), "{offline}");
    // A line with the key of what is wrong, and nothing else.
    fs::write(&path, "targets:\n- name: central\n  http: { urls: x }\n").unwrap();
    let wrong = Command::new(OUTCROP).args(&arguments[..arguments.len() - 1]).output().unwrap();
    let says = text(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(64), "{says}");
    assert!(says.contains("line 3, column 11: unknown field `urls`") && says.trim_end().lines().count() == 1, "{says}");
}
