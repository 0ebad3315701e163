//! A receiver of deliveries with faults, and what is known to somebody who applies all of its records.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::service::{OUTCROP, Service};

/// Longest wait for a delivery.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// A request as a receiver got it.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// The records of the body, without the envelope.
    pub(super) fn records(&self) -> Vec<Value> {
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
pub(super) fn schema() -> &'static jsonschema::Validator {
    static SCHEMA: OnceLock<jsonschema::Validator> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/delivery.schema.json")).unwrap();
        jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap()
    })
}

/// What a receiver does with a request.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// Answers with this status, and these header lines.
    Status(u16, &'static str),
    /// Closes the connection: before the request is read, or after it.
    Cut { early: bool },
    /// Accepts after a while.
    Slow,
    /// Over TLS, shows a certificate that nobody trusts; accepts otherwise.
    Stranger,
}

/// An HTTP server that replies as it is told.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    /// Requests that were accepted, in the order of arrival.
    accepted: Arc<Mutex<Vec<Request>>>,
    /// All requests that were read.
    pub(super) seen: Arc<Mutex<Vec<Request>>>,
}

impl Receiver {
    /// Starts one that replies by the number of the connection, each of which has one request.
    pub(super) fn start(reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::run(None, reply)
    }

    /// Starts one that speaks TLS. Returns the certificate to trust, as PEM.
    pub(super) fn start_with_tls(reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> (Self, String) {
        let ((pem, trusted), (_, stranger)) = (certificate(), certificate());
        (Self::run(Some((trusted, stranger)), reply), pem)
    }

    fn run(
        tls: Option<(Arc<ServerConfig>, Arc<ServerConfig>)>,
        reply: impl Fn(usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, seen) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::<Mutex<Vec<Request>>>::default());
        let (of_thread, all) = (Arc::clone(&accepted), Arc::clone(&seen));
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (stream, reply) = (stream.unwrap(), reply(number));
                let _ = match &tls {
                    None => answer(stream, &reply, &of_thread, &all),
                    Some((trusted, stranger)) => {
                        let shown = if matches!(reply, Reply::Stranger) { stranger } else { trusted };
                        let connection = ServerConnection::new(Arc::clone(shown)).unwrap();
                        answer(StreamOwned::new(connection, stream), &reply, &of_thread, &all)
                    }
                };
            }
        });
        Self { address, accepted, seen }
    }

    pub(super) fn accepted(&self) -> MutexGuard<'_, Vec<Request>> {
        self.accepted.lock().unwrap()
    }

    /// Records of accepted requests, each request once by its key, in the order in which they came first. The same key has the same bytes.
    pub(super) fn records(&self) -> Vec<Value> {
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
    stream: impl Read + Write,
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
        Reply::Stranger => (200, ""),
        Reply::Status(status, more) => (*status, *more),
    };
    // As a debugging endpoint does, it answers with what it was sent.
    let echo = request.headers.get("authorization").cloned().unwrap_or_default();
    let head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n", echo.len());
    if (200..300).contains(&status) {
        accepted.lock().unwrap().push(request);
    }
    reader.get_mut().write_all(format!("{head}{echo}").as_bytes())?;
    reader.get_mut().flush()
}

/// Returns a new certificate for the address of receivers, as PEM and as a server has it.
fn certificate() -> (String, Arc<ServerConfig>) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    (made.cert.pem(), Arc::new(config))
}

/// A folder with the configuration of targets, and other files that it names.
pub(super) fn configuration(yaml: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deliver.yaml");
    fs::write(&path, yaml.replace("DIR", &dir.path().display().to_string())).unwrap();
    let path = path.display().to_string();
    (dir, path)
}

/// A target that is told as soon as something happens.
pub(super) fn target(name: &str, receiver: &Receiver, more: &str) -> String {
    format!(
        "- name: {name}\n  http: {{ url: 'http://{}/hook/secret-path'{more} }}\n  batch: {{ wait: 0s }}\n",
        receiver.address
    )
}

pub(super) fn outcrop(service: &Service, arguments: &[&str]) -> Output {
    let server = format!("http://{}", service.api);
    Command::new(OUTCROP).args(arguments).args(["--server", &server]).output().unwrap()
}

pub(super) fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// Has a problem raised and cleared again and again while `meanwhile` runs, by a person who tries to distrust a node that is not there. Each try is an event
/// of its own. Returns the names of the nodes, in order.
pub(super) fn audited(service: &Service, from: usize, count: usize) -> Vec<String> {
    let names: Vec<String> = (from..from + count).map(|number| format!("node-{number:05}")).collect();
    for name in &names {
        assert!(!outcrop(service, &["node", "distrust", name]).status.success());
    }
    names
}

pub(super) fn audits(records: &[Value]) -> Vec<String> {
    let audits = records.iter().filter(|record| record["kind"] == "audit");
    audits.map(|record| record["target"].as_str().unwrap().to_owned()).collect()
}

/// Containers of the same name on a node are one subject. Returns the number of subjects that the API shows, and of their findings.
pub(super) fn shown(service: &Service) -> (usize, u64) {
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
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) package_sets: BTreeMap<String, BTreeSet<(String, String)>>,
    pub(super) subjects: BTreeMap<String, BTreeSet<String>>,
}

impl Known {
    pub(super) fn of(records: &[Value]) -> Self {
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
    pub(super) fn findings(&self) -> usize {
        let of = |sets: &BTreeSet<String>| sets.iter().map(|set| self.package_sets[set].len()).sum::<usize>();
        self.subjects.values().map(of).sum()
    }
}
