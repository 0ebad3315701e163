//! An aggregator with its files, which tests start, query, measure and kill.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use outcrop_proto::Digest;
use serde_json::Value;

use crate::control_group::Group;
use crate::ports::free;

pub(crate) const OUTCROP: &str = env!("CARGO_BIN_EXE_outcrop");

/// A child that is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An aggregator.
#[derive(Debug)]
pub(crate) struct Service {
    dir: tempfile::TempDir,
    data: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) arguments: Vec<String>,
    /// The token with which questions are asked.
    pub(crate) bearer: Option<String>,
    /// `OUTCROP_CLOCK_OFFSET`.
    pub(crate) clock_offset: Option<&'static str>,
    /// `OUTCROP_ABORT`.
    pub(crate) abort: Option<String>,
    /// `OUTCROP_LOG`.
    log_filter: Option<&'static str>,
    running: Option<Running>,
    /// The control group that limits its memory; dropped after the process has ended.
    pub(crate) group: Option<Group>,
    agent: ureq::Agent,
}

/// The token of a node; everybody can work it out, as it is for tests.
pub(crate) fn token(node: &str) -> String {
    Digest::of(node.as_bytes()).to_string().split_off("sha256:".len())
}

/// Waits for something that is to happen soon.
pub(crate) fn until(what: &str, within: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < within, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The folder of the bundled feed.
fn feed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/feed")
}

impl Service {
    /// One for the named nodes, with the bundled feed and further arguments.
    pub(crate) fn start(nodes: impl Iterator<Item = String>, arguments: &[&str]) -> Self {
        Self::start_on(nodes, arguments, None)
    }

    /// One that logs what `filter` selects.
    pub(crate) fn start_logging(nodes: impl Iterator<Item = String>, arguments: &[&str], filter: &'static str) -> Self {
        Self::start_all(nodes, arguments, None, Some(filter))
    }

    /// One that may take `memory` bytes, if this process may limit that.
    pub(crate) fn start_within(nodes: impl Iterator<Item = String>, arguments: &[&str], memory: u64) -> Self {
        let mut service = Self::prepare(arguments, None, None);
        service.group = Group::new(memory);
        service.start_new(nodes);
        service
    }

    /// One whose data lie in `data`.
    pub(crate) fn start_on(nodes: impl Iterator<Item = String>, arguments: &[&str], data: Option<&Path>) -> Self {
        Self::start_all(nodes, arguments, data, None)
    }

    /// One that continues with a copy of the files of another: its data, tokens, certificate and advisory database.
    pub(crate) fn start_from(kept: &Path) -> Self {
        let mut service = Self::prepare(&[], None, None);
        for name in ["data", "tokens", "cert.pem", "key.pem", "advisories.db"] {
            let copied = Command::new("cp").arg("-a").arg(kept.join(name)).arg(service.at(name)).status();
            assert!(copied.is_ok_and(|status| status.success()), "{name}");
        }
        service.run();
        service
    }

    fn start_all(
        nodes: impl Iterator<Item = String>,
        arguments: &[&str],
        data: Option<&Path>,
        log_filter: Option<&'static str>,
    ) -> Self {
        let mut service = Self::prepare(arguments, data, log_filter);
        service.start_new(nodes);
        service
    }

    /// Makes its tokens, its certificate and its advisory database, and starts it.
    fn start_new(&mut self, nodes: impl Iterator<Item = String>) {
        let line = |node: String| format!("{node} {}\n", Digest::of(token(&node).as_bytes()));
        fs::write(self.at("tokens"), nodes.map(line).collect::<String>()).unwrap();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        fs::write(self.at("cert.pem"), made.cert.pem()).unwrap();
        fs::write(self.at("key.pem"), made.signing_key.serialize_pem()).unwrap();
        self.build_database(&[]);
        self.run();
    }

    fn prepare(arguments: &[&str], data: Option<&Path>, log_filter: Option<&'static str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = data.map_or_else(|| dir.path().join("data"), Path::to_owned);
        Self {
            data,
            dir,
            listen: free(),
            api: free(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            bearer: None,
            clock_offset: None,
            abort: None,
            log_filter,
            running: None,
            group: None,
            agent: new_agent(),
        }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Builds the database of the bundled feed, and of further records, and puts it into the place of the one that is there.
    pub(crate) fn build_database(&self, more: &[Value]) {
        let file = |(number, record): (usize, &Value)| {
            let path = self.at(&format!("record-{number}.json"));
            fs::write(&path, record.to_string()).unwrap();
            path
        };
        let more: Vec<PathBuf> = more.iter().enumerate().map(file).collect();
        self.build(&self.at("advisories.new"), &more);
        fs::rename(self.at("advisories.new"), self.at("advisories.db")).unwrap();
    }

    /// Builds a database of the bundled feed, and of further files or folders of records.
    pub(crate) fn build(&self, out: &Path, more: &[PathBuf]) {
        let mut build = Command::new(OUTCROP);
        build.args(["db", "build", "--from"]).arg(feed()).arg("--out").arg(out);
        build.args(more.iter().flat_map(|path| ["--from".as_ref(), path.as_os_str()]));
        let built = build.output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }

    /// Starts it, and waits until it answers.
    pub(crate) fn run(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.at("log")).unwrap();
        let mut command = self.group.as_ref().map_or_else(|| Command::new(OUTCROP), |group| group.command(OUTCROP));
        let child = command
            .args(["aggregator", "--cluster", "scale", "--listen", &self.listen.to_string()])
            .args(["--probes", "127.0.0.1:0", "--api", &self.api.to_string(), "--data"])
            .arg(&self.data)
            .arg("--db")
            .arg(self.at("advisories.db"))
            .arg("--tokens")
            .arg(self.at("tokens"))
            .arg("--tls-cert")
            .arg(self.at("cert.pem"))
            .arg("--tls-key")
            .arg(self.at("key.pem"))
            .args(&self.arguments)
            .envs(self.log_filter.map(|filter| ("OUTCROP_LOG", filter)))
            .envs(self.abort.iter().map(|abort| ("OUTCROP_ABORT", abort)))
            .envs(self.clock_offset.map(|offset| ("OUTCROP_CLOCK_OFFSET", offset)))
            .stderr(log)
            .spawn()
            .unwrap();
        self.running = Some(Running(child));
        // Its connections led to the process before this one.
        self.agent = new_agent();
        let (api, log, agent) = (self.api, self.at("log"), self.agent.clone());
        let running = self.running.as_mut().unwrap();
        until("the aggregator to answer", Duration::from_secs(120), || {
            let ended = running.0.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", fs::read_to_string(&log).unwrap());
            // While it migrates a store, it answers that it is starting.
            ask(&agent, api, "/api/v1/status")
                .is_ok_and(|(status, body)| status != 503 || !body.contains("is starting"))
        });
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// SIGTERM; returns how long the process took to end.
    pub(crate) fn terminate(&mut self) -> Duration {
        let mut running = self.running.take().unwrap();
        let start = Instant::now();
        let pid = running.0.id().to_string();
        assert!(Command::new("kill").arg(pid).status().is_ok_and(|status| status.success()));
        let _ = running.0.wait();
        start.elapsed()
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().0.id()
    }

    /// Whether the process has ended by itself, or was killed by others.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.running.as_mut().is_none_or(|running| running.0.try_wait().is_ok_and(|ended| ended.is_some()))
    }

    /// What is answered at `path`, with the status.
    pub(crate) fn ask(&self, path: &str) -> Result<(u16, String), String> {
        ask_as(&self.agent, self.api, path, self.bearer.as_deref())
    }

    /// What is answered at `path` to another caller.
    pub(crate) fn ask_with(&self, bearer: &str, path: &str) -> Result<(u16, String), String> {
        ask_as(&self.agent, self.api, path, Some(bearer))
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        let (status, body) = self.ask(path).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    pub(crate) fn status(&self) -> Value {
        self.json("/api/v1/status")
    }

    /// Every item of a list, page by page.
    pub(crate) fn all(&self, path: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut cursor = None;
        loop {
            let separator = if path.contains('?') { '&' } else { '?' };
            let at: String =
                cursor.map_or_else(String::new, |cursor: String| format!("&continue={}", encoded(&cursor)));
            let mut page = self.json(&format!("{path}{separator}limit=500{at}"));
            items.append(page["items"].as_array_mut().unwrap());
            match page["continue"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return items,
            }
        }
    }

    /// A number of bytes from `/proc/PID/status`: `VmRSS`, `VmHWM`.
    pub(crate) fn memory(&self, field: &str) -> u64 {
        let pid = self.running.as_ref().unwrap().0.id();
        memory(pid, field)
    }

    /// Processor time so far.
    pub(crate) fn cpu(&self) -> Duration {
        cpu(self.running.as_ref().unwrap().0.id())
    }

    /// Bytes of the files of the store.
    pub(crate) fn store_size(&self) -> u64 {
        let files = fs::read_dir(&self.data).unwrap().filter_map(Result::ok);
        files.filter_map(|file| file.metadata().ok()).filter(|metadata| metadata.is_file()).map(|file| file.len()).sum()
    }
}

fn new_agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    config.timeout_global(Some(Duration::from_secs(60))).build().into()
}

pub(crate) fn ask(agent: &ureq::Agent, api: SocketAddr, path: &str) -> Result<(u16, String), String> {
    ask_as(agent, api, path, None)
}

fn ask_as(agent: &ureq::Agent, api: SocketAddr, path: &str, bearer: Option<&str>) -> Result<(u16, String), String> {
    let mut request = agent.get(format!("http://{api}{path}"));
    if let Some(token) = bearer {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut answer = request.call().map_err(|error| error.to_string())?;
    let body = answer.body_mut().with_config().limit(256 << 20).read_to_string().map_err(|error| error.to_string())?;
    Ok((answer.status().as_u16(), body))
}

/// A value in a question of a URL.
pub(crate) fn encoded(value: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    value.bytes().map(byte).collect()
}

/// A number of bytes from `/proc/PID/status`.
pub(crate) fn memory(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|value| value.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default() << 10
}

/// Processor time of a process so far.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}
