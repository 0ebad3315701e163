//! Deliveries at full size: through kills and faults, 100,000 changes at once, targets that fail beside those that do not, and bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::load::{Poller, runtime, settle};
use super::node::{Counts, Fleet, node_name};
use super::receiver::{Receiver, Reply, configuration};
use super::service::{Service, encoded, until};
use super::table::{Table, mib, millis, quantile, seconds};
use super::world::{Shape, World};
use super::{faults, load};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// Findings that a new advisory database opens.
const CHANGES: u64 = 100_000;

/// A fleet of a thousand workloads with images of their own.
const FLEET: Shape = Shape { nodes: 50, containers: 1_000, images: 1_000, layers: 4_000, seed: 1 };

pub(crate) fn whole(table: &mut Table) {
    through_kills(table);
    let (_, alone) = swap(&[], table);
    let sound = || Receiver::start(|_| Reply::Status(200, ""));
    let (times, with) = swap(&[("central", &sound(), HTTP)], table);
    let told = times["central"];
    let what = format!("{CHANGES} opened findings told to one target, from the new database on");
    table.row(&what, seconds(told), "< 60 s", told < Duration::from_secs(60));
    table.note("the same until everything is matched, without a target", seconds(alone.matched));
    let more = with.peak.saturating_sub(alone.peak);
    let what = format!("aggregator resident meanwhile, most: {} without a target", mib(alone.peak));
    table.row(&what, format!("{} more", mib(more)), "< 32 MiB more", more < 32 << 20);
    five(told, table);
}

const HTTP: &str = "http: { url: 'URL' }";

fn through_kills(table: &mut Table) {
    let kills = std::env::var("OUTCROP_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(200);
    let outcome = faults::kill_while_delivering(kills, true);
    println!("  {outcome:?}");
    let what =
        format!("kill -9 {kills} times while a target fails at random (500, 429, 401, cut, slow, wrong certificate)");
    let measured = format!("{} of {} lost, {} out of order", outcome.lost, outcome.events, outcome.out_of_order);
    table.row(&what, measured, "0, 0", outcome.is_right());
    let [repeated, all] = [outcome.requests.1 - outcome.deliveries, outcome.deliveries];
    table.note(
        "deliveries that it accepted more than once, with the same key and bytes",
        format!("{repeated} of {all}"),
    );
}

/// One target that does not answer and one that is slow, beside three that are sound.
fn five(alone: Duration, table: &mut Table) {
    let [one, two, logs] = [0; 3].map(|_| Receiver::start(|_| Reply::Status(200, "")));
    let dead = Receiver::start(|_| Reply::Status(503, ""));
    let slow = Receiver::start(|_| Reply::Slow);
    let targets: [(&str, &Receiver, &str); 5] = [
        ("one", &one, HTTP),
        ("two", &two, "http: { url: 'URL', format: cloudevents-batch, compression: gzip }"),
        ("logs", &logs, "otlp: { url: 'URL' }"),
        ("dead", &dead, HTTP),
        ("slow", &slow, "http: { url: 'URL' }\n  batch: { records: 200 }"),
    ];
    let (times, measured) = swap(&targets, table);
    let most = ["one", "two", "logs"].map(|name| times[name]).into_iter().max().unwrap_or_default();
    let what = format!(
        "{CHANGES} findings told to three targets beside a dead and a slow one; to one alone: {}",
        seconds(alone)
    );
    table.row(&what, seconds(most), "< 60 s each", most < Duration::from_secs(60));
    table.note("to the slow one", seconds(times["slow"]));
    let p99 = quantile(&measured.status, 0.99);
    table.row("status meanwhile, p99", millis(p99), "< 100 ms", p99 < Duration::from_millis(100));
    let dead = &measured.targets[3];
    let is_shown =
        dead["state"] == "failing" && dead["waiting_events"].as_u64() > Some(0) && dead["oldest_seconds"].is_u64();
    let shown = format!("{} events, {} s old", dead["waiting_events"], dead["oldest_seconds"]);
    table.row("backlog of the dead one in the status", shown, "shown", is_shown);
    table.note("aggregator resident meanwhile, most", mib(measured.peak));
}

struct Measured {
    /// From the new database until everything is matched.
    matched: Duration,
    /// Resident memory meanwhile.
    peak: u64,
    status: Vec<Duration>,
    targets: Vec<Value>,
}

/// Starts a fleet with targets, has a new database open many findings, and measures how long it takes until each target was told, except for one that
/// is called `dead`.
fn swap(targets: &[(&str, &Receiver, &str)], table: &mut Table) -> (BTreeMap<String, Duration>, Measured) {
    let entry = |(name, to, kind): &(&str, &Receiver, &str)| {
        format!("- name: {name}\n  {}\n", kind.replace("URL", &format!("http://{}/", to.address)))
    };
    let (_dir, path) = configuration(&format!("targets:\n{}", targets.iter().map(entry).collect::<String>()));
    let arguments = if targets.is_empty() { vec![] } else { vec!["--deliver", path.as_str()] };
    let runtime = runtime();
    let service = Service::start((0..FLEET.nodes).map(node_name), &arguments);
    let fleet = Fleet::new(World::new(FLEET), &service);
    runtime.block_on(async { fleet.start() });
    settle(&service, FLEET, false);
    let alive = |status: &Value| -> Vec<Value> {
        let all = status["targets"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|target| target["name"] != "dead").collect()
    };
    until_idle(|| alive(&service.status()));
    if let [("central", to, _)] = targets {
        bytes(&service, &fleet, to, table);
    }
    // Peaks from before do not count.
    std::fs::write(format!("/proc/{}/clear_refs", service.pid()), "5").unwrap();
    let before: BTreeMap<String, u64> =
        alive(&service.status()).iter().map(|target| (name(target), records(target))).collect();
    let some = service.all("/api/v1/packages?sort=-containers&type=npm")[0].clone();
    let who = service.all(&format!("/api/v1/who-has?q={}", encoded(some["name"].as_str().unwrap())));
    let sets: BTreeSet<&str> = who.iter().filter_map(|item| item["container"]["stack"].as_str()).collect();
    let sets = sets.len() as u64;
    let advisories: Vec<Value> = (0..CHANGES.div_ceil(sets.max(1)))
        .map(|number| advisory(&format!("CVE-2026-{}", 900_000 + number), &some["name"]))
        .collect();
    println!("  {} advisories about {}, which {sets} of {} images have", advisories.len(), some["name"], FLEET.images);
    let poller = Poller::start(&service);
    let rematch = service.status()["rematch"].clone();
    service.build_database(&advisories);
    let start = Instant::now();
    let (mut times, mut matched) = (BTreeMap::new(), None);
    until("all to be told", PATIENCE, || {
        let status = service.status();
        if matched.is_none() && status["rematch"] != rematch {
            matched = Some(start.elapsed());
        }
        for target in alive(&status).iter().filter(|target| records(target) >= before[&name(target)] + CHANGES) {
            times.entry(name(target)).or_insert_with(|| start.elapsed());
        }
        matched.is_some() && times.len() == before.len()
    });
    let (status, _) = poller.finish();
    let targets = service.status()["targets"].as_array().cloned().unwrap_or_default();
    let measured = Measured { matched: matched.unwrap_or_default(), peak: service.memory("VmHWM"), status, targets };
    fleet.stop();
    runtime.shutdown_timeout(Duration::from_secs(5));
    (times, measured)
}

/// Waits until targets were told all that there is. What waits is counted every five seconds.
fn until_idle(targets: impl Fn() -> Vec<Value>) {
    std::thread::sleep(Duration::from_secs(12));
    let is_idle =
        |target: &Value| target["state"] == "ok" && target["waiting_events"] == 0 && target["waiting_deliveries"] == 0;
    until("targets to be told", PATIENCE, || targets().iter().all(is_idle));
}

fn name(target: &Value) -> String {
    target["name"].as_str().unwrap_or_default().to_owned()
}

fn records(target: &Value) -> u64 {
    target["records"].as_u64().unwrap_or_default()
}

fn advisory(id: &str, package: &Value) -> Value {
    json!({
        "id": id, "modified": "2026-11-01T00:00:00Z", "summary": "made up",
        "affected": [{ "package": { "ecosystem": "npm", "name": package },
            "ranges": [{ "type": "SEMVER", "events": [{ "introduced": "0" }] }] }],
    })
}

/// Prints how many bytes the snapshot has, and a day in which every twentieth container is replaced and twenty advisories are new; beside what trivy-operator's
/// webhook sends for the same. That is computed: one VulnerabilityReport for each container, uncompressed, at first and again on each day, since reports expire
/// after 24 hours.
fn bytes(service: &Service, fleet: &std::sync::Arc<Fleet>, to: &Receiver, table: &mut Table) {
    let sent = || to.accepted().iter().map(|request| request.body.len() as u64).sum::<u64>();
    let (snapshot, per_day) = (sent(), FLEET.containers as u64 / 20);
    let reports = reports(&to.records());
    let whole: u64 = reports.values().sum();
    fleet.churn(Duration::from_secs(20));
    until("containers to be replaced", PATIENCE, || Counts::get(&fleet.counts.changes) >= per_day);
    fleet.churn(Duration::ZERO);
    settle(service, FLEET, false);
    let some = service.all("/api/v1/packages?sort=-containers&type=npm");
    let new: Vec<Value> = (0..20)
        .map(|number| advisory(&format!("CVE-2026-{}", 800_000 + number), &some[number % some.len()]["name"]))
        .collect();
    let rematch = service.status()["rematch"].clone();
    service.build_database(&new);
    until("everything to be matched", PATIENCE, || service.status()["rematch"] != rematch);
    until_idle(|| service.status()["targets"].as_array().cloned().unwrap_or_default());
    let day = sent() - snapshot;
    let replaced = Counts::get(&fleet.counts.changes) as f64 / FLEET.containers as f64;
    let trivy = whole as f64 * (1.0 + replaced);
    let line = |ours: u64, theirs: f64| {
        format!("{} against {}: {:.0}x", kib(ours), kib(theirs as u64), theirs / ours.max(1) as f64)
    };
    let what =
        format!("{} containers: bytes of the snapshot, against VulnerabilityReports (computed)", FLEET.containers);
    table.note(&what, line(snapshot, whole as f64));
    let what = format!("a day with {:.0} % replaced and 20 new advisories, against the same", replaced * 100.0);
    table.note(&what, line(day, trivy));
}

fn kib(bytes: u64) -> String {
    format!("{} KiB", bytes >> 10)
}

/// Returns the size of a VulnerabilityReport of each subject, in the shape that trivy-operator 0.32 sends it.
fn reports(records: &[Value]) -> BTreeMap<String, u64> {
    let mut sets: BTreeMap<&str, u64> = BTreeMap::new();
    for record in records.iter().filter(|record| record["kind"] == "finding") {
        let id = record["vulnerability"].as_str().unwrap_or_default();
        let vulnerability = json!({
            "vulnerabilityID": id, "resource": record["package"], "installedVersion": record["version"],
            "fixedVersion": record["fixed_version"].as_str().unwrap_or_default(), "severity": record["severity"],
            "publishedDate": "2026-11-01T00:00:00Z", "lastModifiedDate": "2026-11-01T00:00:00Z",
            "title": record["summary"], "primaryLink": format!("https://avd.aquasec.com/nvd/{id}"),
            "links": [], "score": record["score"], "target": "",
        });
        *sets.entry(record["package_set"].as_str().unwrap_or_default()).or_default() +=
            vulnerability.to_string().len() as u64 + 1;
    }
    let frame = json!({ "verb": "update", "operatorObject": {
        "kind": "VulnerabilityReport", "apiVersion": "aquasecurity.github.io/v1alpha1",
        "metadata": { "name": "replicaset-web-7d4b9c6f5d-app", "namespace": "shop", "uid": "8e2d5f0e-0a57-4d0c-a3ff-8b2c1f8f3a11",
            "resourceVersion": "1234567", "generation": 1, "creationTimestamp": "2026-11-01T00:00:00Z",
            "labels": { "resource-spec-hash": "7d4b9c6f5d", "trivy-operator.container.name": "app", "trivy-operator.resource.kind": "ReplicaSet",
                "trivy-operator.resource.name": "web-7d4b9c6f5d", "trivy-operator.resource.namespace": "shop" },
            "annotations": { "trivy-operator.aquasecurity.github.io/report-ttl": "24h0m0s" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d4b9c6f5d", "uid": "8e2d5f0e-0a57-4d0c-a3ff-8b2c1f8f3a12",
                "controller": true, "blockOwnerDeletion": false }] },
        "report": { "updateTimestamp": "2026-11-01T00:00:00Z", "scanner": { "name": "Trivy", "vendor": "Aqua Security", "version": "0.68.0" },
            "registry": { "server": "registry.example" }, "artifact": { "repository": "shop/web", "digest": "sha256:0", "tag": "1" },
            "os": { "family": "debian", "name": "12" },
            "summary": { "criticalCount": 1, "highCount": 10, "mediumCount": 10, "lowCount": 10, "unknownCount": 0, "noneCount": 0 },
            "vulnerabilities": [] } } });
    let frame = frame.to_string().len() as u64;
    let subjects = records.iter().filter(|record| record["kind"] == "subject");
    let size = |subject: &Value| {
        let of = subject["package_sets"].as_array().into_iter().flatten().filter_map(Value::as_str);
        frame + of.filter_map(|set| sets.get(set)).sum::<u64>()
    };
    subjects.map(|subject| (subject["subject"].to_string(), size(subject))).collect()
}

/// The bars of the whole fleet, with two targets.
pub(crate) fn beside_load(shape: Shape, table: &mut Table) {
    let [one, two] = [0; 2].map(|_| Receiver::start(|_| Reply::Status(200, "")));
    let entry = |name: &str, to: &Receiver| format!("- name: {name}\n  http: {{ url: 'http://{}/' }}\n", to.address);
    let (_dir, path) = configuration(&format!("targets:\n{}{}", entry("one", &one), entry("two", &two)));
    load::whole(shape, &["--deliver", &path], table);
    for (name, to) in [("one", &one), ("two", &two)] {
        let accepted = to.accepted();
        let bytes = accepted.iter().map(|request| request.body.len() as u64).sum();
        table.note(&format!("delivered to {name}"), format!("{} deliveries, {}", accepted.len(), mib(bytes)));
    }
}
