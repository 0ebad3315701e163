//! The whole fleet with one aggregator: the first reading, later changes, and the responses of the API meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use outcrop_proto::clock;
use serde_json::{Value, json};

use super::node::{Counts, Fleet, node_name};
use super::service::{Service, ask, encoded, until};
use super::table::{Table, mib, millis, quantile, seconds};
use super::world::{Shape, World, mix};

/// How long anything may take before the run is given up, which is far beyond each bar.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// A runtime for all nodes.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    raise_limit();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(4).enable_all().build().unwrap()
}

/// As many connections as the machine allows.
fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Asks for the status ten times a second, as long as it lives.
#[derive(Debug)]
pub(crate) struct Poller {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<(Vec<Duration>, usize)>>,
}

impl Poller {
    pub(crate) fn start(service: &Service) -> Self {
        let (stop, api) = (Arc::new(AtomicBool::new(false)), service.api);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let agent = ureq::Agent::new_with_defaults();
            let (mut times, mut failures) = (Vec::new(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                match ask(&agent, api, "/api/v1/status") {
                    Ok((200, _)) => times.push(start.elapsed()),
                    _ => failures += 1,
                }
                std::thread::sleep(Duration::from_millis(100).saturating_sub(start.elapsed()));
            }
            (times, failures)
        });
        Self { stop, thread: Some(thread) }
    }

    /// The times of all answers, and how many there were not.
    pub(crate) fn finish(mut self) -> (Vec<Duration>, usize) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// How many containers are in `state`.
pub(crate) fn count(status: &Value, state: &str) -> u64 {
    let counts = status["coverage"].as_array().unwrap();
    let all: u64 = counts.iter().map(|count| count["containers"].as_u64().unwrap()).sum();
    assert_eq!(Some(all), status["containers"].as_u64(), "the states add up");
    counts.iter().find(|count| count["state"] == state).map_or(0, |count| count["containers"].as_u64().unwrap())
}

/// Waits until every container has its final state; says how far it is.
pub(crate) fn settle(service: &Service, shape: Shape, loud: bool) -> Value {
    let mut said = Instant::now();
    let mut last = Value::Null;
    until("every container to have its final state", PATIENCE, || {
        let status = service.status();
        let done = status["nodes"]["attached"] == shape.nodes
            && status["containers"] == shape.containers
            && count(&status, "pending") == 0;
        if loud && said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            println!(
                "  {} nodes, {} containers, {} pending, layers {}, {}",
                status["nodes"]["attached"],
                status["containers"],
                count(&status, "pending"),
                status["layers"],
                mib(service.memory("VmRSS"))
            );
        }
        last = status;
        done
    });
    last
}

/// An advisory that nobody has heard of yet, about a package that some have.
pub(crate) fn advisory() -> Value {
    json!({ "id": "CVE-2026-99999", "modified": clock::timestamp().to_string(), "affected": [{
        "package": { "ecosystem": "npm", "name": "lodash" },
        "ranges": [{ "type": "SEMVER", "events": [{ "introduced": "0" }, { "last_affected": "4.17.20" }] }] }] })
}

/// Containers with one of these packages, as `node id`.
pub(crate) fn with_packages(fleet: &Fleet, packages: &[&str]) -> BTreeSet<String> {
    let world = &fleet.world;
    let has = |image: usize| {
        let all = world.packages(image);
        packages.iter().any(|package| all.contains(*package))
    };
    let images: BTreeSet<usize> = (0..world.shape.images).filter(|image| has(*image)).collect();
    let containers = (0..world.shape.nodes).flat_map(|node| {
        let containers = fleet.containers(node).into_iter();
        containers.map(move |(id, image)| (format!("{} {id}", node_name(node)), image))
    });
    containers.filter(|(_, image)| images.contains(image)).map(|(key, _)| key).collect()
}

/// Holds a sample of containers against what the world says; returns how many there were, and what is wrong.
pub(crate) fn sample(service: &Service, fleet: &Fleet, size: usize) -> (usize, Vec<String>) {
    let mut wrong = Vec::new();
    let shape = fleet.world.shape;
    for turn in 0..size {
        let random = mix(&[shape.seed, 6, turn as u64]) as usize;
        let node = random % shape.nodes;
        let containers = fleet.containers(node);
        let Some((id, image)) = containers.iter().nth(random / shape.nodes % containers.len().max(1)) else { continue };
        let listed = service.all(&format!("/api/v1/containers?node={}", node_name(node)));
        let Some(item) = listed.iter().find(|item| item["id"] == id.as_str()) else {
            wrong.push(format!("{id} is not listed"));
            continue;
        };
        if listed.len() != containers.len() || item["coverage"]["state"] != "scanned" {
            wrong.push(format!("{id}: {} of its node are listed, {}", listed.len(), item["coverage"]));
        }
        let expected = fleet.world.packages(*image);
        let stack = encoded(item["stack"].as_str().unwrap_or_default());
        let packages = service.all(&format!("/api/v1/packages?stack={stack}"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let line = |item: &Value| format!("{} {} {}", text(&item["type"]), text(&item["name"]), text(&item["version"]));
        let packages: BTreeSet<String> = packages.iter().map(line).collect();
        if let Some(difference) = packages.symmetric_difference(&expected).next() {
            wrong.push(format!("{id} has {} packages and not {}: {difference}", packages.len(), expected.len()));
        }
        if item["packages"] != expected.len() {
            wrong.push(format!("{id} is said to have {} packages and not {}", item["packages"], expected.len()));
        }
        let findings = service.all(&format!("/api/v1/findings?stack={stack}&node={}", node_name(node)));
        let foreign = findings.iter().find(|finding| {
            let package = format!(" {} {}", text(&finding["package"]), text(&finding["installed"]));
            !expected.iter().any(|expected| expected.ends_with(&package))
        });
        wrong.extend(foreign.map(|finding| format!("{id} has a finding in what it has not: {finding}")));
    }
    (size, wrong)
}

/// Who has it, as `node id`.
pub(crate) fn who_has(service: &Service, question: &str) -> BTreeSet<String> {
    let items = service.all(&format!("/api/v1/who-has?q={}", encoded(question)));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    items
        .iter()
        .map(|item| format!("{} {}", text(&item["container"]["node"]), text(&item["container"]["id"])))
        .collect()
}

/// Puts a database with one more advisory into the place of the one that is used, and waits for all to be matched again.
pub(crate) fn rematch(service: &Service) -> (Value, Duration) {
    let before = service.status()["rematch"].clone();
    let start = Instant::now();
    service.build_database(&[advisory()]);
    let built = start.elapsed();
    let mut last = Value::Null;
    until("everything to be matched again", PATIENCE, || {
        last = service.status()["rematch"].clone();
        last != before && !last.is_null()
    });
    (last, start.elapsed().saturating_sub(built))
}

/// Everything of the table that the simulated fleet shows.
pub(crate) fn whole(shape: Shape, arguments: &[&str], table: &mut Table) {
    println!("{shape:?}");
    let runtime = runtime();
    let world = World::new(shape);
    let service = Service::start((0..shape.nodes).map(node_name), arguments);
    let fleet = Fleet::new(world, &service);
    let poller = Poller::start(&service);
    let start = Instant::now();
    runtime.block_on(async { fleet.start() });
    let mut attached = Duration::ZERO;
    until("every node to attach", PATIENCE, || {
        attached = start.elapsed();
        Counts::get(&fleet.counts.attached) == shape.nodes as u64
    });
    println!("  all attached after {}", seconds(attached));
    let status = settle(&service, shape, true);
    let settled = start.elapsed();
    let (times, failures) = poller.finish();
    let minutes = Duration::from_secs(300);
    table.note("nodes attached (streams)", seconds(attached));
    table.row("all attached, and every container in its final state", seconds(settled), "< 5 min", settled < minutes);
    let p99 = quantile(&times, 0.99);
    table.note("status meanwhile, p50", millis(quantile(&times, 0.5)));
    table.row("status meanwhile, p99", millis(p99), "< 100 ms", p99 < Duration::from_millis(100));
    table.row("questions for the status that failed", failures.to_string(), "0", failures == 0);
    let peak = service.memory("VmHWM");
    table.row("aggregator resident, most until then", mib(peak), "< 1 GiB", peak < 1 << 30);
    table.note("aggregator's processor time until then", seconds(service.cpu()));
    let scanned = count(&status, "scanned");
    table.row("containers scanned", scanned.to_string(), "all", scanned == shape.containers as u64);
    table.row("layers known", status["layers"]["known"].to_string(), "all", status["layers"]["known"] == shape.layers);
    let read = Counts::get(&fleet.counts.read);
    table.row("layers read, cross-reads not counted", read.to_string(), "each once", read == shape.layers as u64);
    let refused = Counts::get(&fleet.counts.refused);
    table.row("deliveries of leased layers that were refused", refused.to_string(), "0", refused == 0);
    table.note("inventories, compressed", mib(Counts::get(&fleet.counts.read_bytes)));
    table.note("cross-reads until then", Counts::get(&fleet.counts.verified).to_string());
    let foreign = Counts::get(&fleet.counts.foreign);
    table.row("layers asked for of a node that has not offered them", foreign.to_string(), "0", foreign == 0);
    table.note("findings of containers", status["findings"].to_string());
    println!("  assessed {}", status["assessed"]);
    println!("  {}", status["reports"]);

    questions(&service, table, "");
    let (looked, wrong) = sample(&service, &fleet, 20);
    wrong.iter().take(5).for_each(|wrong| println!("  {wrong}"));
    table.row(
        "containers whose packages and findings are right",
        format!("{} of {looked}", looked - wrong.len().min(looked)),
        "all",
        wrong.is_empty(),
    );

    // Containers are replaced, a hundred a second for the whole fleet, while everything is matched again and asked.
    fleet.churn(Duration::from_secs(50));
    let poller = Poller::start(&service);
    let (rematch, seen) = rematch(&service);
    let took = rematch["seconds"].as_f64().unwrap_or(f64::MAX);
    table.row("full rematch, as told", format!("{took:.1} s"), "< 30 s", took < 30.0);
    table.note("from the new file to all being matched", seconds(seen));
    let nodes = &rematch["nodes_rescanned"];
    table.row("nodes rescanned for it", nodes.to_string(), "0", nodes == 0);
    println!("  {rematch}");
    questions(&service, table, ", while containers come and go");
    let (times, failures) = poller.finish();
    let p99 = quantile(&times, 0.99);
    table.row("status during the rematch and changes, p99", millis(p99), "< 100 ms", p99 < Duration::from_millis(100));
    table.row("questions for the status that failed then", failures.to_string(), "0", failures == 0);
    fleet.churn(Duration::ZERO);
    std::thread::sleep(Duration::from_secs(10));
    settle(&service, shape, true);
    table.note("containers replaced", Counts::get(&fleet.counts.changes).to_string());
    let expected = with_packages(&fleet, &["npm lodash 4.17.20"]);
    let answered = who_has(&service, "CVE-2026-99999");
    table.row("who has the new problem", answered.len().to_string(), &expected.len().to_string(), answered == expected);
    let lost = fleet.lost.lock().unwrap().len();
    table.row("layers asked for again", lost.to_string(), "0", lost == 0);
    let peak = service.memory("VmHWM");
    table.row("aggregator resident, most", mib(peak), "< 1 GiB", peak < 1 << 30);
    table.note("aggregator resident, at the end", mib(service.memory("VmRSS")));
    table.note("files of the store", mib(service.store_size()));
    println!("  {}", service.status()["reports"]);
    let failures = Counts::get(&fleet.counts.failures);
    table.row("streams that ended", failures.to_string(), "0", failures == 0);
    fleet.stop();
    runtime.shutdown_timeout(Duration::from_secs(5));
}

/// Continues with the store of an earlier version, which `kept` holds with what else the aggregator needs, and with the fleet that it
/// had (`fleet.json`: the containers of each node). `then` is run with the address of the API before the fleet stops.
pub(crate) fn migrate(shape: Shape, kept: &Path, then: Option<&str>, table: &mut Table) {
    let runtime = runtime();
    let world = World::new(shape);
    let start = Instant::now();
    let service = Service::start_from(kept);
    table.note("the store of an earlier version: from the start to the first answer", seconds(start.elapsed()));
    let containers = std::fs::read_to_string(kept.join("fleet.json")).unwrap();
    let containers: Vec<BTreeMap<String, usize>> = serde_json::from_str(&containers).unwrap();
    let fleet = Fleet::with(world, &service, containers.into_iter().enumerate().collect());
    let poller = Poller::start(&service);
    runtime.block_on(async { fleet.start() });
    let status = settle(&service, shape, true);
    let settled = start.elapsed();
    let (times, failures) = poller.finish();
    let minute = Duration::from_secs(60);
    table.row(
        "migrated, all attached, every container in its final state",
        seconds(settled),
        "< 60 s",
        settled < minute,
    );
    let p99 = quantile(&times, 0.99);
    table.row("status meanwhile, p99", millis(p99), "< 100 ms", p99 < Duration::from_millis(100));
    table.row("requests for the status that failed", failures.to_string(), "0", failures == 0);
    let scanned = count(&status, "scanned");
    table.row("containers scanned", scanned.to_string(), "all", scanned == shape.containers as u64);
    table.row("layers known", status["layers"]["known"].to_string(), "all", status["layers"]["known"] == shape.layers);
    let read = Counts::get(&fleet.counts.read);
    table.row("layers read again", read.to_string(), "0", read == 0);
    let peak = service.memory("VmHWM");
    table.row("aggregator resident, most", mib(peak), "< 1 GiB", peak < 1 << 30);
    questions(&service, table, "");
    let (looked, wrong) = sample(&service, &fleet, 20);
    wrong.iter().take(5).for_each(|wrong| println!("  {wrong}"));
    table.row(
        "containers whose packages and findings are wrong",
        format!("{} of {looked}", wrong.len()),
        "0",
        wrong.is_empty(),
    );
    if let Some(program) = then {
        let ended = Command::new("sh").args(["-c", &format!("{program} http://{}", service.api)]).status();
        println!("  {program}: {ended:?}");
        table.note("aggregator resident, most, then", mib(service.memory("VmHWM")));
    }
    fleet.stop();
    runtime.shutdown_timeout(Duration::from_secs(5));
}

/// Asks who has what, several ways.
fn questions(service: &Service, table: &mut Table, when: &str) {
    for question in ["log4j-core", "pkg:npm/lodash@<4.17.21", "openssl", "CVE-2021-44228", "CVE-2023-4911"] {
        let path = format!("/api/v1/who-has?q={}", encoded(question));
        let mut times = Vec::new();
        let mut items = 0;
        for _ in 0..30 {
            let start = Instant::now();
            let answer = service.json(&path);
            times.push(start.elapsed());
            items = answer["items"].as_array().map_or(0, Vec::len);
        }
        let (p50, p99) = (quantile(&times, 0.5), quantile(&times, 0.99));
        let what = format!("who-has {question} ({items} on the first page){when}, p50 and p99");
        let measured = format!("{}, {}", millis(p50), millis(p99));
        table.row(&what, measured, "< 100 ms", p99 < Duration::from_millis(100));
    }
}
