//! Deliveries of a whole aggregator to real HTTP servers with faults, also through kills.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};

use super::TINY;
use super::load::{self, settle};
use super::node::{Fleet, node_name};
use super::service::{OUTCROP, Service, until};
use super::world::World;

/// Longest wait for a delivery.
const PATIENCE: Duration = Duration::from_secs(120);

/// A request as a receiver got it.
#[derive(Clone, Debug)]
struct Request {
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    /// The records of the body, without the envelope.
    fn records(&self) -> Vec<Value> {
        let text = match self.headers.get("content-encoding").map(String::as_str) {
            Some("zstd") => String::from_utf8(zstd::decode_all(&self.body[..]).unwrap()).unwrap(),
            _ => String::from_utf8(self.body.clone()).unwrap(),
        };
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let all: Vec<Value> = lines.collect();
        let wrong = all.iter().find_map(|line| Some((line, schema().iter_errors(line).next()?.to_string())));
        assert_eq!(wrong, None, "docs/delivery.schema.json describes every line");
        assert_eq!((&all[0]["kind"], &all[0]["version"]), (&json!("batch"), &json!(1)));
        assert_eq!(all[0]["records"], all.len() - 1);
        all[1..].to_vec()
    }
}

/// The published schema of a line.
fn schema() -> &'static jsonschema::Validator {
    static SCHEMA: OnceLock<jsonschema::Validator> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/delivery.schema.json")).unwrap();
        jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap()
    })
}

/// What a receiver does with a request.
#[derive(Clone, Debug)]
enum Reply {
    /// Answers with this status, and these header lines.
    Status(u16, &'static str),
    /// Closes the connection: before the request is read, or after it.
    Cut { early: bool },
    /// Accepts after a while.
    Slow,
}

/// An HTTP server that replies as it is told.
struct Receiver {
    address: SocketAddr,
    /// Requests that were accepted, in the order of arrival.
    accepted: Arc<Mutex<Vec<Request>>>,
    /// All requests that were read.
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Receiver {
    /// Starts one that replies by the number of the request.
    fn start(reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, seen) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::<Mutex<Vec<Request>>>::default());
        let (of_thread, all) = (Arc::clone(&accepted), Arc::clone(&seen));
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let _ = answer(&stream.unwrap(), &reply(number), &of_thread, &all);
            }
        });
        Self { address, accepted, seen }
    }

    fn accepted(&self) -> MutexGuard<'_, Vec<Request>> {
        self.accepted.lock().unwrap()
    }

    /// Records of accepted requests, each request once by its key, in the order in which they came first. The same key has the same bytes.
    fn records(&self) -> Vec<Value> {
        let mut bodies: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut records = Vec::new();
        for request in &*self.accepted() {
            let key = request.headers["idempotency-key"].clone();
            match bodies.get(&key) {
                Some(body) => assert_eq!(*body, request.body, "a delivery that is sent again is the same"),
                None => {
                    records.extend(request.records());
                    bodies.insert(key, request.body.clone());
                }
            }
        }
        records
    }
}

/// Reads one request and replies.
fn answer(
    mut stream: &TcpStream,
    reply: &Reply,
    accepted: &Mutex<Vec<Request>>,
    seen: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    if matches!(reply, Reply::Cut { early: true }) {
        return Ok(());
    }
    let mut reader = BufReader::new(stream);
    let (mut line, mut headers) = (String::new(), BTreeMap::new());
    reader.read_line(&mut line)?;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request = Request { headers, body };
    seen.lock().unwrap().push(request.clone());
    let (status, more) = match reply {
        Reply::Cut { .. } => {
            // The receiver has it, and the sender does not know.
            accepted.lock().unwrap().push(request);
            return Ok(());
        }
        Reply::Slow => {
            std::thread::sleep(Duration::from_millis(300));
            (200, "")
        }
        Reply::Status(status, more) => (*status, *more),
    };
    // As a debugging endpoint does, it answers with what it was sent.
    let echo = request.headers.get("authorization").cloned().unwrap_or_default();
    let head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n", echo.len());
    if (200..300).contains(&status) {
        accepted.lock().unwrap().push(request);
    }
    stream.write_all(format!("{head}{echo}").as_bytes())
}

/// A folder with the configuration of targets, and other files that it names.
fn configuration(yaml: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deliver.yaml");
    fs::write(&path, yaml.replace("DIR", &dir.path().display().to_string())).unwrap();
    let path = path.display().to_string();
    (dir, path)
}

/// A target that is told as soon as something happens.
fn target(name: &str, receiver: &Receiver, more: &str) -> String {
    format!(
        "- name: {name}\n  http: {{ url: 'http://{}/hook/secret-path'{more} }}\n  batch: {{ wait: 0s }}\n",
        receiver.address
    )
}

fn outcrop(service: &Service, arguments: &[&str]) -> Output {
    let server = format!("http://{}", service.api);
    Command::new(OUTCROP).args(arguments).args(["--server", &server]).output().unwrap()
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// Has a problem raised and cleared again and again while `meanwhile` runs, by a person who tries to distrust a node that is not there. Each try is an event
/// of its own. Returns the names of the nodes, in order.
fn audited(service: &Service, from: usize, count: usize) -> Vec<String> {
    let names: Vec<String> = (from..from + count).map(|number| format!("node-{number:05}")).collect();
    for name in &names {
        assert!(!outcrop(service, &["node", "distrust", name]).status.success());
    }
    names
}

fn audits(records: &[Value]) -> Vec<String> {
    let audits = records.iter().filter(|record| record["kind"] == "audit");
    audits.map(|record| record["target"].as_str().unwrap().to_owned()).collect()
}

/// Containers of the same name on a node are one subject. Returns the number of subjects that the API shows, and of their findings.
fn shown(service: &Service) -> (usize, u64) {
    let mut subjects: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for container in service.all("/api/v1/containers") {
        let subject =
            json!([container["node"], container["runtime_namespace"], container["namespace"], container["name"]]);
        let findings = container["findings"].as_object().into_iter().flat_map(|counts| counts.values());
        let findings = findings.map(|count| count.as_u64().unwrap()).sum();
        subjects.entry(subject.to_string()).or_default().insert(container["stack"].to_string(), findings);
    }
    (subjects.len(), subjects.values().flat_map(BTreeMap::values).sum())
}

/// What a receiver knows that applies every record.
#[derive(Debug, Default)]
struct Known {
    package_sets: BTreeMap<String, BTreeSet<(String, String)>>,
    subjects: BTreeMap<String, BTreeSet<String>>,
}

impl Known {
    fn of(records: &[Value]) -> Self {
        let mut known = Self::default();
        let text = |record: &Value, field: &str| record[field].as_str().unwrap().to_owned();
        for record in records {
            match record["kind"].as_str().unwrap() {
                "snapshot-begin" => known = Self::default(),
                "package-set" if record["replace"] == true => {
                    known.package_sets.insert(text(record, "package_set"), BTreeSet::new());
                }
                "package-set-gone" => {
                    known.package_sets.remove(&text(record, "package_set")).unwrap();
                }
                "finding" | "finding-opened" | "finding-changed" => {
                    let of = known.package_sets.get_mut(&text(record, "package_set")).unwrap();
                    of.insert((text(record, "vulnerability"), text(record, "purl")));
                }
                "finding-closed" => {
                    let of = known.package_sets.get_mut(&text(record, "package_set")).unwrap();
                    of.remove(&(text(record, "vulnerability"), text(record, "purl")));
                }
                "subject" => {
                    let sets = record["package_sets"].as_array().unwrap().iter();
                    let sets = sets.map(|set| set.as_str().unwrap().to_owned()).collect();
                    known.subjects.insert(record["subject"].to_string(), sets);
                }
                "subject-gone" => {
                    known.subjects.remove(&record["subject"].to_string());
                }
                _ => {}
            }
        }
        known
    }

    /// Findings, each counted once for each subject that has it.
    fn findings(&self) -> usize {
        let of = |sets: &BTreeSet<String>| sets.iter().map(|set| self.package_sets[set].len()).sum::<usize>();
        self.subjects.values().map(of).sum()
    }
}

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
    let receiver = Receiver::start(|number| match number % 9 {
        1 => Reply::Status(500, ""),
        2 => Reply::Cut { early: false },
        3 => Reply::Slow,
        4 => Reply::Status(429, "Retry-After: 1\r\n"),
        5 => Reply::Cut { early: true },
        7 => Reply::Status(401, ""),
        _ => Reply::Status(200, ""),
    });
    let (_dir, path) = configuration(&format!("targets:\n{}", target("central", &receiver, "")));
    let mut service = Service::start([node_name(0)].into_iter(), &["--deliver", &path]);
    let mut expected = Vec::new();
    for round in 0..4 {
        expected.extend(audited(&service, round * 8, 8));
        service.kill();
        service.run();
    }
    until("every event to arrive", PATIENCE, || audits(&receiver.records()).len() >= expected.len());
    assert_eq!(audits(&receiver.records()), expected);
    let records = receiver.records();
    assert_eq!(
        (&records[0]["kind"], records.iter().filter(|of| of["kind"] == "snapshot-end").count()),
        (&json!("snapshot-begin"), 1)
    );
    let seen = receiver.seen.lock().unwrap().len();
    assert!(seen > receiver.accepted().len(), "faults were met");
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
