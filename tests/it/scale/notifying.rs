//! Messages of a whole aggregator to people: by real servers of e-mail and alerts, and by HTTP servers with faults.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::TINY;
use super::load::{self, settle};
use super::node::{Fleet, node_name};
use super::receiver::{Receiver, Reply, configuration, outcrop, text};
use super::service::{Running, Service, until};
use super::world::World;
use crate::ports::free;
use crate::skip::skip;

/// Longest wait for a message.
const PATIENCE: Duration = Duration::from_secs(120);

/// A target that tells people as soon as something happens. Records of the bundled feed are rarely critical.
fn target(name: &str, kind: &str) -> String {
    format!(
        "- name: {name}\n  {kind}\n  batch: {{ wait: 0s }}\n  notify: {{ wait: 1s, baseUrl: 'https://outcrop.example' }}\n"
    )
}

/// An advisory about a package that a fleet has.
fn advisory(service: &Service, id: &str) -> Value {
    let some = service.all("/api/v1/packages?sort=-containers&type=npm")[0].clone();
    json!({
        "id": id, "modified": "2026-11-01T00:00:00Z", "summary": "made up <script>",
        "severity": [{ "type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H" }],
        "affected": [{ "package": { "ecosystem": "npm", "name": some["name"] },
            "ranges": [{ "type": "SEMVER", "events": [{ "introduced": "0" }] }] }],
    })
}

/// Bodies of accepted requests.
fn bodies(receiver: &Receiver) -> Vec<String> {
    receiver.accepted().iter().map(|request| text(&request.body)).collect()
}

/// Returns the path that a script of tests/targets prints.
fn part(script: &str) -> Option<PathBuf> {
    let made = Command::new(format!("{}/tests/targets/{script}", env!("CARGO_MANIFEST_DIR"))).output().unwrap();
    if !made.status.success() {
        skip("tools", text(&made.stderr).lines().last().unwrap_or(script));
        return None;
    }
    Some(text(&made.stdout).trim().into())
}

fn answers(address: SocketAddr) -> bool {
    std::net::TcpStream::connect(address).is_ok()
}

/// A real SMTP server with STARTTLS and passwords.
struct Mail {
    dir: tempfile::TempDir,
    address: SocketAddr,
    _running: Running,
}

impl Mail {
    fn start() -> Option<Self> {
        let library = part("aiosmtpd")?;
        let (dir, address) = (tempfile::tempdir().unwrap(), free());
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
        fs::write(&cert, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        fs::write(dir.path().join("password"), "correct\n").unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets/smtp.py");
        let child = Command::new("python3")
            .arg(script)
            .arg(address.port().to_string())
            .args([&cert, &key])
            .arg(dir.path())
            .env("PYTHONPATH", library)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .spawn()
            .unwrap();
        let mail = Self { dir, address, _running: Running(child) };
        until("the SMTP server to answer", PATIENCE, || answers(address));
        Some(mail)
    }

    /// The kind of a target with this user's password and recipient.
    fn kind(&self, more: &str, to: &str) -> String {
        let (dir, port) = (self.dir.path().display(), self.address.port());
        format!(
            "email: {{ host: 127.0.0.1, port: {port}, from: Outcrop <outcrop@a.example>, to: [{to}] }}\n  \
             authorization: {{ basic: {{ username: outcrop, passwordFile: {dir}/password }} }}\n  {more}"
        )
    }

    fn kind_with_ca(&self, to: &str) -> String {
        self.kind(&format!("tls: {{ caFile: {}/cert.pem }}", self.dir.path().display()), to)
    }

    /// Messages that arrived, oldest first.
    fn messages(&self) -> Vec<String> {
        let files = fs::read_dir(self.dir.path()).unwrap().map(|file| file.unwrap().path());
        let files: BTreeSet<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "eml")).collect();
        files.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
    }
}

/// A real Alertmanager.
struct Alerts {
    _dir: tempfile::TempDir,
    address: SocketAddr,
    _running: Running,
}

impl Alerts {
    fn start() -> Option<Self> {
        let program = part("alertmanager")?;
        let (dir, address) = (tempfile::tempdir().unwrap(), free());
        let config = dir.path().join("alertmanager.yml");
        fs::write(&config, "route: { receiver: none }\nreceivers: [{ name: none }]\n").unwrap();
        let child = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--cluster.listen-address=", "--log.level=error"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("Alertmanager to answer", PATIENCE, || answers(address));
        Some(Self { _dir: dir, address, _running: Running(child) })
    }

    /// Alerts that fire.
    fn firing(&self) -> Vec<Value> {
        let answer = ureq::get(format!("http://{}/api/v2/alerts", self.address)).call().unwrap();
        let text = answer.into_body().read_to_string().unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

#[test]
fn people_are_told_once_of_what_is_new_by_every_kind_of_target() {
    let shape = TINY;
    let receivers = ["hook", "slack", "teams"].map(|_| Receiver::start(|_| Reply::Status(200, "")));
    let kind = |name: &str, at: usize| {
        let address = receivers[at].address;
        target(
            name,
            &format!("{}: {{ url: 'http://{address}/services/secret-path' }}", if at == 0 { "webhook" } else { name }),
        )
    };
    let mut yaml = format!("targets:\n{}{}{}", kind("hook", 0), kind("slack", 1), kind("teams", 2));
    let (mail, alerts) = (Mail::start(), Alerts::start());
    if let Some(mail) = &mail {
        yaml += &target("mail", &mail.kind_with_ca("Security <sec@a.example>"));
    }
    if let Some(alerts) = &alerts {
        yaml += &target("alerts", &format!("alertmanager: {{ url: 'http://{}' }}", alerts.address));
    }
    let (_dir, path) = configuration(&yaml);
    let runtime = load::runtime();
    let mut service = Service::start((0..shape.nodes).map(node_name), &["--deliver", &path]);
    let fleet = Fleet::new(World::new(shape), &service);
    runtime.block_on(async { fleet.start() });
    settle(&service, shape, false);
    until("the summaries", PATIENCE, || receivers.iter().all(|receiver| !bodies(receiver).is_empty()));
    let summary: Value = serde_json::from_str(&bodies(&receivers[0])[0]).unwrap();
    assert_eq!((&summary["occasion"], &summary["cluster"]), (&json!("summary"), &json!("scale")));

    service.build_database(&[advisory(&service, "CVE-2026-99999")]);
    let about = |receiver: &Receiver| bodies(receiver).iter().filter(|body| body.contains("CVE-2026-99999")).count();
    until("the messages", PATIENCE, || receivers.iter().all(|receiver| about(receiver) > 0));
    if let Some(mail) = &mail {
        let is_there = || mail.messages().iter().any(|message| message.contains("CVE-2026-99999"));
        until("the e-mail", PATIENCE, is_there);
        let message = mail.messages().pop().unwrap();
        let (plain, html) = message.split_once("Content-Type: text/html").unwrap();
        assert!(plain.contains("To: Security <sec@a.example>") && plain.contains("made up <script>"), "{message}");
        assert!(!html.contains("<scr") && html.contains("&lt;scr"), "{message}");
    }
    if let Some(alerts) = &alerts {
        until("the alert", PATIENCE, || {
            alerts.firing().iter().any(|alert| alert["labels"]["vulnerability"] == "CVE-2026-99999")
        });
    }
    let last = bodies(&receivers[0]).into_iter().find(|body| body.contains("CVE-2026-99999")).unwrap();
    let news: Value = serde_json::from_str(&last).unwrap();
    let entry = &news["vulnerabilities"][0];
    assert_eq!((&news["occasion"], &entry["severity"]), (&json!("news"), &json!("critical")), "{news:#}");
    assert_eq!(entry["places"][0]["kind"], "nodes", "a container without a pod is its node's: {entry:#}");
    assert_eq!(entry["link"], "https://outcrop.example/api/v1/findings?vulnerability=CVE%2D2026%2D99999");

    // A kill, and the same findings after it and another match of everything: nobody is told again. Another vulnerability that
    // the same match finds marks the end.
    let both = ["CVE-2026-99999", "CVE-2026-99998"].map(|id| advisory(&service, id));
    service.kill();
    service.run();
    service.build_database(&both);
    let marker = |receiver: &Receiver| bodies(receiver).iter().any(|body| body.contains("CVE-2026-99998"));
    until("the marker", PATIENCE, || receivers.iter().all(marker));
    for receiver in &receivers {
        let with_old = bodies(receiver).iter().filter(|body| body.contains("CVE-2026-99999")).count();
        assert_eq!(with_old, 1, "{:#?}", bodies(receiver));
    }
    let log = fs::read_to_string(service.at("log")).unwrap();
    assert!(!log.contains("secret-path"), "{log}");
    for (name, ok) in
        [("hook", true), ("slack", true), ("teams", true), ("mail", mail.is_some()), ("alerts", alerts.is_some())]
    {
        let tested = outcrop(&service, &["deliver", "test", name]);
        assert_eq!(tested.status.success(), ok, "{name}: {tested:?}");
    }
    if let Some(mail) = &mail {
        assert!(mail.messages().last().unwrap().contains("Subject: Test message of Outcrop"));
    }
    if let Some(alerts) = &alerts {
        assert!(alerts.firing().iter().any(|alert| alert["labels"]["alertname"] == "OutcropTest"));
    }
    fleet.stop();
}

#[test]
fn a_message_is_sent_again_as_it_was_and_problems_are_told_and_over() {
    let is_up = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let up = std::sync::Arc::clone(&is_up);
    let dead = Receiver::start(move |_| match up.load(std::sync::atomic::Ordering::SeqCst) {
        true => Reply::Status(200, ""),
        false => Reply::Status(503, ""),
    });
    let chat = Receiver::start(|number| match number % 3 {
        0 => Reply::Status(500, ""),
        1 => Reply::Cut { early: true },
        _ => Reply::Status(200, ""),
    });
    let template =
        "webhook: { url: 'http://ADDRESS/x', template: '{\"text\": {{ title }}, \"problems\": {{ problems }}}' }";
    let yaml = format!(
        "targets:\n- name: central\n  http: {{ url: 'http://{}/x' }}\n  batch: {{ wait: 0s }}\n{}",
        dead.address,
        target("chat", &template.replace("ADDRESS", &chat.address.to_string()))
    );
    let (_dir, path) = configuration(&yaml);
    let _service = Service::start([node_name(0)].into_iter(), &["--deliver", &path]);
    let told = |is_raised: bool| {
        let bodies: Vec<Value> = bodies(&chat).iter().map(|body| serde_json::from_str(body).unwrap()).collect();
        let problems: Vec<Value> =
            bodies.iter().flat_map(|body| body["problems"].as_array().unwrap().clone()).collect();
        problems.iter().filter(|of| of["problem"] == "delivery central" && of["is_raised"] == is_raised).count()
    };
    until("the problem to be told", PATIENCE, || told(true) == 1);
    is_up.store(true, std::sync::atomic::Ordering::SeqCst);
    until("its end to be told", PATIENCE, || told(false) == 1);
    assert_eq!(told(true), 1, "it is told once");
    // What was sent again is the same.
    let mut keys: Vec<(String, Vec<u8>)> = Vec::new();
    for request in &*chat.seen.lock().unwrap() {
        let key = request.headers["idempotency-key"].clone();
        match keys.iter().find(|(known, _)| *known == key) {
            Some((_, body)) => assert_eq!(*body, request.body),
            None => keys.push((key, request.body.clone())),
        }
    }
}

#[test]
fn e_mail_is_not_sent_to_a_server_without_the_right_certificate_or_password() {
    let Some(mail) = Mail::start() else { return };
    fs::write(mail.dir.path().join("wrong"), "wrong\n").unwrap();
    let wrong_password = mail.kind_with_ca("a@b.example").replace("/password", "/wrong");
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(mail.dir.path().join("other.pem"), other.cert.pem()).unwrap();
    let wrong_ca = mail.kind_with_ca("a@b.example").replace("/cert.pem", "/other.pem");
    let yaml = [
        target("password", &wrong_password),
        target("certificate", &wrong_ca),
        target("refused", &mail.kind_with_ca("refused@b.example")),
    ];
    let (_dir, path) = configuration(&format!("targets:\n{}", yaml.concat()));
    let service = Service::start([node_name(0)].into_iter(), &["--deliver", &path]);
    for (name, says) in [("password", "535"), ("certificate", "certificate"), ("refused", "554")] {
        let tested = outcrop(&service, &["deliver", "test", name]);
        let error = text(&tested.stderr);
        assert!(tested.status.code() == Some(1) && error.contains(says), "{name}: {error}");
        assert!(!error.contains("correct"), "{error}");
    }
    until("the refused one to be kept", PATIENCE, || {
        service.all("/api/v1/deliveries?state=refused").iter().any(|delivery| delivery["target"] == "refused")
    });
    assert_eq!(mail.messages(), [""; 0]);
}
