//! A first reading and a rematch that are interrupted at any of their writes are completed, whether the process ends there or the write
//! fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::load::{count, runtime};
use super::node::{Fleet, node_name};
use super::service::{Service, until};
use super::world::{Shape, World};

/// What is reported of each stack: a summary, and every finding.
pub(crate) type Contents = BTreeMap<String, (Value, Vec<String>)>;

/// How long a step may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// What interrupts a rematch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// The process is killed on entering the write.
    Kill,
    /// The write fails: the volume is full.
    Full,
}

/// The result of a run.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Writes of one rematch that was not interrupted.
    pub(crate) writes: u64,
    /// Interruptions that happened.
    pub(crate) interrupted: u64,
    /// Differences from the results of an aggregator that was not interrupted.
    pub(crate) wrong: Vec<String>,
}

/// A tracer of one process. The process continues when the tracer ends.
struct Tracer(Child);

impl Tracer {
    /// Attaches to `pid`. `None` where processes cannot be traced.
    fn attach(pid: u32, output: &Path, inject: Option<String>) -> Option<Self> {
        let mut command = Command::new("strace");
        command.args(["-f", "-s", "0", "-p", &pid.to_string(), "-e", "trace=pwrite64", "-o"]).arg(output);
        command.args(inject.into_iter().flat_map(|inject| ["-e".to_owned(), format!("inject={inject}")]));
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().ok()?;
        let mut lines = BufReader::new(child.stderr.take()?).lines().map_while(Result::ok);
        let is_attached = lines.any(|line| line.contains("attached"));
        // It reports each new thread, and would end if nobody read that.
        std::thread::spawn(move || lines.for_each(drop));
        let tracer = Self(child);
        is_attached.then_some(tracer)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // On SIGTERM strace detaches.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// What the aggregator reports of each stack: state, packages and findings; and every finding of one container of it.
pub(crate) fn contents(service: &Service) -> Contents {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut first: BTreeMap<String, (String, String)> = BTreeMap::new();
    for container in service.all("/api/v1/containers") {
        let place = (text(&container["node"]), text(&container["id"]));
        let first = first.entry(text(&container["stack"])).or_insert_with(|| place.clone());
        *first = place.min(first.clone());
    }
    let mut contents = BTreeMap::new();
    for image in service.all("/api/v1/images") {
        let stack = text(&image["stack"]);
        let (node, id) = &first[&stack];
        let findings = service.all(&format!("/api/v1/findings?stack={stack}&node={node}"));
        let of_one = findings.iter().filter(|finding| finding["container"]["id"] == id.as_str());
        let mut lines: Vec<String> = of_one
            .map(|finding| {
                let fields = ["id", "package", "installed", "severity", "status", "fixed", "layer", "summary"];
                fields.map(|field| finding[field].to_string()).join(" ")
            })
            .collect();
        lines.sort_unstable();
        contents.insert(stack, (of_image(&image), lines));
    }
    contents
}

/// The state, packages and findings of an image in the list of images.
pub(crate) fn of_image(image: &Value) -> Value {
    json!([image["coverage"]["state"], image["packages"], image["findings"], image["withheld"]])
}

/// The first differences between what is expected and what is reported.
pub(crate) fn differences(what: &str, expected: &Contents, reported: &Contents) -> Vec<String> {
    let mut wrong = Vec::new();
    if expected.len() != reported.len() {
        wrong.push(format!("{what}: {} stacks, expected {}", reported.len(), expected.len()));
    }
    for (stack, (summary, findings)) in expected {
        let Some((reported, listed)) = reported.get(stack) else {
            wrong.push(format!("{what}: {stack} is not listed"));
            continue;
        };
        if summary != reported {
            wrong.push(format!("{what}: {stack} is {reported}, expected {summary}"));
        }
        if findings != listed {
            let missing = findings.iter().find(|finding| !listed.contains(finding));
            let extra = listed.iter().find(|finding| !findings.contains(finding));
            let (here, there) = (listed.len(), findings.len());
            wrong.push(format!("{what}: {stack} lists {here} findings, expected {there}: {missing:?}, {extra:?}"));
        }
    }
    wrong
}

/// Advisories of each database besides those of the bundled feed.
const ADVISORIES: usize = 40;

/// Two advisory databases with equally many records, so that each may replace the other. Half of the advisories are about other
/// packages in each, the rest differ in severity.
struct Databases([PathBuf; 2]);

impl Databases {
    fn build(service: &Service) -> Self {
        let lines = include_str!("data/debian.tsv").lines().filter_map(|line| line.strip_prefix("base\t"));
        let sources: BTreeSet<&str> = lines.filter_map(|line| line.split('\t').nth(3)).collect();
        let sources: Vec<&str> = sources.into_iter().collect();
        Self([0, 1].map(|database| {
            let folder = service.at(&format!("records-{database}"));
            fs::create_dir(&folder).unwrap();
            for number in 0..ADVISORIES {
                let is_moved = number % 2 == 0;
                let source = sources[(number * 2 + database * usize::from(is_moved)) % sources.len()];
                let impact = if database == 0 { "N" } else { "H" };
                let record = json!({
                    "id": format!("CVE-2026-{}", 90_000 + number),
                    "modified": "2026-11-01T00:00:00Z",
                    "severity": [{ "type": "CVSS_V3", "score": format!("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:L/I:N/A:{impact}") }],
                    "affected": [{
                        "package": { "ecosystem": "Debian:12", "name": source },
                        "ranges": [{ "type": "ECOSYSTEM", "events": [{ "introduced": "0" }] }],
                    }],
                });
                fs::write(folder.join(format!("{number}.json")), record.to_string()).unwrap();
            }
            let path = service.at(&format!("advisories-{database}.db"));
            service.build(&path, &[folder]);
            path
        }))
    }
}

/// One aggregator whose rematches are interrupted.
struct Place {
    service: Service,
    shape: Shape,
    databases: Databases,
}

impl Place {
    /// Puts a database in place of the one in use.
    fn put(&self, number: usize) {
        fs::copy(&self.databases.0[number], self.service.at("advisories.new")).unwrap();
        fs::rename(self.service.at("advisories.new"), self.service.at("advisories.db")).unwrap();
    }

    /// Puts a database in place of the one in use, and waits until everything was matched against it.
    fn rematch(&self, number: usize) {
        let before = self.service.status();
        self.put(number);
        until("everything to be matched again", PATIENCE, || {
            let status = self.service.status();
            status["database"]["digest"] != before["database"]["digest"] && status["rematch"] != before["rematch"]
        });
        until("every container to have its final state", PATIENCE, || is_settled(&self.service, self.shape));
    }

    /// Waits until what is reported is what is expected; what differs is returned when it does not become so.
    fn wait(&self, what: &str, expected: &Contents) -> Vec<String> {
        let start = Instant::now();
        loop {
            until("every container to have its final state", PATIENCE, || is_settled(&self.service, self.shape));
            let wrong = differences(what, expected, &contents(&self.service));
            if wrong.is_empty() || start.elapsed() > Duration::from_secs(30) {
                return wrong;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Kills an aggregator that reads a fleet for the first time `times` times, each on an empty store, at writes that are spread over all of
/// them, and compares all findings after a restart. `None` where processes cannot be traced.
pub(crate) fn interrupt_first_readings(shape: Shape, times: u64, loud: bool) -> Option<Outcome> {
    let run = |inject: Option<String>| -> Option<(u64, bool, Contents)> {
        let runtime = runtime();
        let mut service = Service::start((0..shape.nodes).map(node_name), &["--verify-share", "0"]);
        let fleet = Fleet::new(World::new(shape), &service);
        let trace = service.at("writes");
        let tracer = Tracer::attach(service.pid(), &trace, inject)?;
        runtime.block_on(async { fleet.start() });
        until("the reading to be interrupted or to end", PATIENCE, || {
            service.has_ended() || is_settled(&service, shape)
        });
        let was_killed = service.has_ended();
        drop(tracer);
        if was_killed {
            fleet.next_life();
            service.run();
        }
        until("every container to have its final state", PATIENCE, || is_settled(&service, shape));
        let contents = contents(&service);
        fleet.stop();
        Some((busiest_thread(&fs::read_to_string(&trace).unwrap()), was_killed, contents))
    };
    let (writes, _, expected) = run(None)?;
    let mut outcome = Outcome { writes, ..Outcome::default() };
    for turn in 0..times {
        let write = 1 + turn * writes / times;
        let (_, was_killed, contents) = run(Some(format!("pwrite64:signal=SIGKILL:when={write}")))?;
        outcome.interrupted += u64::from(was_killed);
        outcome.wrong.extend(differences(&format!("killed at write {write}"), &expected, &contents));
        if loud && turn % 10 == 9 {
            println!("  {} of {times} kills, {write} of {writes} writes, {} wrong", turn + 1, outcome.wrong.len());
        }
    }
    Some(outcome)
}

/// Whether every container has its final state.
fn is_settled(service: &Service, shape: Shape) -> bool {
    let Ok((200, status)) = service.ask("/api/v1/status") else { return false };
    let status: Value = serde_json::from_str(&status).unwrap();
    status["nodes"]["attached"] == shape.nodes
        && status["containers"] == shape.containers
        && count(&status, "scanned") == shape.containers as u64
}

/// Interrupts a rematch `times` times, at writes that are spread over all of them; after each, completes it, matches everything
/// a second time, restarts, and compares all findings with those of undisturbed rematches. `None` where processes cannot be traced.
pub(crate) fn interrupt_rematches(shape: Shape, times: u64, how: Interruption, loud: bool) -> Option<Outcome> {
    let runtime = runtime();
    let service = Service::start((0..shape.nodes).map(node_name), &[]);
    let fleet = Fleet::new(World::new(shape), &service);
    runtime.block_on(async { fleet.start() });
    let databases = Databases::build(&service);
    let mut place = Place { service, shape, databases };
    until("every container to have its final state", PATIENCE, || is_settled(&place.service, shape));

    let expected = [0, 1].map(|number| {
        place.rematch(number);
        contents(&place.service)
    });
    let count_of = |number: usize| expected[number].values().map(|(_, findings)| findings.len()).sum::<usize>();
    println!("  {} and {} findings of {} stacks", count_of(0), count_of(1), expected[0].len());
    assert!(!differences("", &expected[0], &expected[1]).is_empty(), "the two databases find the same");
    place.rematch(0);
    let trace = place.service.at("writes");
    let tracer = Tracer::attach(place.service.pid(), &trace, None)?;
    place.rematch(1);
    drop(tracer);
    let writes = busiest_thread(&fs::read_to_string(&trace).unwrap());
    place.rematch(0);
    let mut outcome = Outcome { writes, ..Outcome::default() };
    for turn in 0..times {
        let write = 1 + (turn * writes) / times + turn / writes;
        let inject = match how {
            Interruption::Kill => format!("pwrite64:signal=SIGKILL:when={write}"),
            Interruption::Full => format!("pwrite64:error=ENOSPC:when={write}..{}", write + turn % 7),
        };
        let tracer = Tracer::attach(place.service.pid(), &trace, Some(inject))?;
        let was_interrupted = || fs::read_to_string(&trace).unwrap().lines().any(|line| line.contains(marker(how)));
        let before = place.service.status();
        place.put(1);
        until("the rematch to be interrupted or to end", PATIENCE, || {
            if how == Interruption::Kill && place.service.has_ended() {
                return true;
            }
            // Writes are counted by thread, and a new connection has a new one: its writes would fail for as long as there is a tracer.
            if how == Interruption::Full && was_interrupted() {
                return true;
            }
            let Ok((200, status)) = place.service.ask("/api/v1/status") else { return false };
            let status: Value = serde_json::from_str(&status).unwrap();
            let in_use = status["database"]["digest"] != before["database"]["digest"];
            in_use && status["rematch"] != before["rematch"]
        });
        drop(tracer);
        outcome.interrupted += u64::from(was_interrupted());
        if how == Interruption::Kill && place.service.has_ended() {
            fleet.next_life();
            place.service.run();
        }
        let what = format!("{how:?} at write {write}");
        outcome.wrong.extend(place.wait(&format!("{what}, completed"), &expected[1]));
        place.rematch(0);
        outcome.wrong.extend(place.wait(&format!("{what}, second rematch"), &expected[0]));
        place.service.kill();
        fleet.next_life();
        place.service.run();
        outcome.wrong.extend(place.wait(&format!("{what}, second rematch and restart"), &expected[0]));
        if loud && turn % 10 == 9 {
            let wrong = outcome.wrong.len();
            println!("  {} of {times} interruptions, {} of {writes} writes, {wrong} wrong", turn + 1, write);
        }
    }
    fleet.stop();
    Some(outcome)
}

/// How the trace shows that an interruption happened.
fn marker(how: Interruption) -> &'static str {
    match how {
        Interruption::Kill => "killed by SIGKILL",
        Interruption::Full => "(INJECTED)",
    }
}

/// Number of writes of the thread that writes most: the store has one writer.
fn busiest_thread(trace: &str) -> u64 {
    let mut writes: BTreeMap<&str, u64> = BTreeMap::new();
    for line in trace.lines().filter(|line| line.contains("pwrite64(")) {
        *writes.entry(line.split(' ').next().unwrap_or_default()).or_default() += 1;
    }
    writes.into_values().max().unwrap_or_default()
}
