//! The programs as a whole, for tests: an aggregator with its files, and agents that report to it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outcrop_proto::clock;
use serde_json::{Value, json};

use crate::ports::free;
use crate::runtime_parts::print_logs;

pub(crate) const OUTCROP: &str = env!("CARGO_BIN_EXE_outcrop");

/// A child that is killed when it is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Place {
    /// Prints the logs of a failed test: their directory is removed with it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_logs(self.dir.path());
        }
    }
}

/// An aggregator with its files.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) listen: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) probes: SocketAddr,
    pub(crate) tls: bool,
    /// Flags of the aggregator that are not the same in every test.
    pub(crate) flags: Vec<&'static str>,
    /// The token with which questions are asked; in Kubernetes nobody is answered without one.
    pub(crate) bearer: Option<String>,
    pub(crate) aggregator: Option<Running>,
    /// Seconds between the lists of agents: what happens in between containerd's events report.
    pub(crate) interval: &'static str,
}

impl Place {
    pub(crate) fn start() -> Self {
        Self::start_with(false, &[])
    }

    /// An aggregator that speaks TLS, with a certificate of its own authority.
    pub(crate) fn start_with(tls: bool, flags: &[&'static str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tokens"), "").unwrap();
        let mut place = Self {
            dir,
            listen: free(),
            api: free(),
            probes: free(),
            tls,
            flags: flags.to_vec(),
            bearer: None,
            aggregator: None,
            interval: "3600",
        };
        if tls {
            let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
            fs::write(place.at("cert.pem"), made.cert.pem()).unwrap();
            fs::write(place.at("key.pem"), made.signing_key.serialize_pem()).unwrap();
        }
        place.feed("1.0.0");
        for node in ["one", "two", "evil"] {
            place.token(node);
        }
        if flags.contains(&"--kubernetes") {
            let rights = "read,push-database,manage-nodes,manage-deliveries";
            let mut command = Command::new(OUTCROP);
            command.args(["token", "new", "--api", "test", "--rights", rights, "--tokens"]).arg(place.at("api-tokens"));
            place.bearer = Some(String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned());
        }
        place.run();
        place
    }

    /// Makes a node's token.
    pub(crate) fn token(&self, node: &str) {
        let output = Command::new(OUTCROP).args(["token", "new", node, "--tokens"]).arg(self.at("tokens")).output();
        fs::write(self.at(&format!("{node}.token")), output.unwrap().stdout).unwrap();
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A database that knows one problem of npm's `shop`, in versions up to `last`.
    pub(crate) fn feed(&self, last: &str) {
        let record = json!({ "id": "CVE-2026-1", "modified": clock::timestamp().to_string(), "affected": [{
            "package": { "ecosystem": "npm", "name": "shop" },
            "ranges": [{ "type": "SEMVER", "events": [{ "introduced": "0" }, { "last_affected": last }] }] }] });
        fs::write(self.at("record.json"), record.to_string()).unwrap();
        let out = self.at("advisories.new");
        let mut build = Command::new(OUTCROP);
        build.args(["db", "build", "--from"]).arg(self.at("record.json")).arg("--out").arg(&out);
        let built = build.output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        fs::rename(out, self.at("advisories.db")).unwrap();
    }

    pub(crate) fn run(&mut self) {
        let mut command = Command::new(OUTCROP);
        command.args(["aggregator", "--cluster", "test", "--listen", &self.listen.to_string()]);
        if self.tls {
            command.arg("--tls-cert").arg(self.at("cert.pem")).arg("--tls-key").arg(self.at("key.pem"));
        } else {
            command.arg("--insecure");
        }
        let child = command
            .args(["--probes", &self.probes.to_string(), "--api", &self.api.to_string(), "--data"])
            .arg(self.at("data"))
            .arg("--db")
            .arg(self.at("advisories.db"))
            .arg("--tokens")
            .arg(self.at("tokens"))
            .args(&self.flags)
            .args(self.bearer.iter().flat_map(|_| ["--api-tokens".into(), self.at("api-tokens")]))
            .stderr(fs::File::create(self.at("aggregator.log")).unwrap())
            .spawn()
            .unwrap();
        self.aggregator = Some(Running(child));
        until("the aggregator to answer", || TcpStream::connect(self.api).is_ok());
    }

    /// `kill -9`, and a new one on the same data.
    pub(crate) fn restart(&mut self) {
        self.aggregator = None;
        self.run();
    }

    pub(crate) fn agent(&self, node: &str, socket: &Path) -> Running {
        self.agent_by(&[], node, socket)
    }

    /// An agent that is started by another program.
    pub(crate) fn agent_by(&self, before: &[&str], node: &str, socket: &Path) -> Running {
        let program = Path::new(OUTCROP).with_file_name("outcrop-agent");
        let mut command = match before.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&program);
                command
            }
            None => Command::new(&program),
        };
        command.arg("run");
        let scheme = if self.tls { "https" } else { "http" };
        if self.tls {
            command.arg("--ca").arg(self.at("cert.pem"));
        }
        let child = command
            .args(["--aggregator", &format!("{scheme}://{}", self.listen), "--cluster", "test", "--node", node])
            .args(["--interval", self.interval, "--token-file"])
            .arg(self.at(&format!("{node}.token")))
            .arg("--containerd")
            .arg(socket)
            .stdin(Stdio::null())
            .stderr(fs::File::create(self.at(&format!("{node}.log"))).unwrap())
            .spawn();
        Running(child.unwrap_or_else(|error| panic!("{}: {error} (build with --workspace)", program.display())))
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.api).unwrap();
        let bearer = self.bearer.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{bearer}Connection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        body.to_owned()
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path)).unwrap()
    }

    pub(crate) fn status(&self) -> Value {
        self.json("/api/v1/status")
    }

    /// How many containers are in `state`.
    pub(crate) fn count(&self, state: &str) -> u64 {
        let status = self.status();
        let counts = status["coverage"].as_array().unwrap();
        let all: u64 = counts.iter().map(|count| count["containers"].as_u64().unwrap()).sum();
        assert_eq!(Some(all), status["containers"].as_u64(), "the states add up");
        counts.iter().find(|count| count["state"] == state).unwrap()["containers"].as_u64().unwrap()
    }

    pub(crate) fn until_scanned(&self, containers: u64) {
        until(&format!("{containers} scanned containers"), || self.count("scanned") == containers);
    }

    /// `container package id` of each finding, sorted.
    pub(crate) fn findings(&self) -> Vec<String> {
        let findings = self.json("/api/v1/findings?limit=1000")["items"].take();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let line = |finding: &Value| {
            format!("{} {} {}", text(&finding["container"]["id"]), text(&finding["package"]), text(&finding["id"]))
        };
        let mut lines: Vec<String> = findings.as_array().unwrap().iter().map(line).collect();
        lines.sort();
        lines
    }
}

/// Returns the status code and the body of `GET path`; `None` where nobody answers.
pub(crate) fn request(api: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&api, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

pub(crate) fn until(what: &str, done: impl FnMut() -> bool) {
    within(Duration::from_secs(60), what, done);
}

pub(crate) fn within(patience: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < patience, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
