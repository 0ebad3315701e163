//! A task of the aggregator that ends unexpectedly ends the process with its name.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::ports::free;
use crate::service_parts::{OUTCROP, Running, until};

/// Every task that runs outside of a cluster. Those that follow the API server are spawned in the same way.
const TASKS: [&str; 19] = [
    "fleet",
    "streams",
    "merges",
    "tokens",
    "history",
    "leasing",
    "advisories",
    "matching",
    "store",
    "tidy",
    "days",
    "problems",
    "conditions",
    "delivering",
    "outbox",
    "certificate",
    "grpc",
    "api",
    "probes",
];

/// The status code of `/readyz`; `None` where nobody answers.
fn readiness(api: SocketAddr) -> Option<u16> {
    let mut stream = TcpStream::connect_timeout(&api, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

/// An aggregator on loopback with nothing in its store. Only the task that renews certificates needs one, and only deliveries a target.
fn aggregator(dir: &tempfile::TempDir, api: SocketAddr, panics: Option<(&str, u64)>) -> Running {
    let log = fs::File::create(dir.path().join("log")).unwrap();
    fs::write(dir.path().join("tokens"), "").unwrap();
    let mut command = Command::new(OUTCROP);
    command.args(["aggregator", "--listen", &free().to_string(), "--api", &api.to_string(), "--probes", "127.0.0.1:0"]);
    match panics {
        Some(("certificate", _)) => command.args(["--tls-name", "localhost"]),
        _ => command.arg("--insecure"),
    };
    if matches!(panics, Some(("conditions" | "delivering" | "outbox", _))) {
        let (path, url) = (dir.path().join("deliver.yaml"), format!("http://{}", free()));
        fs::write(&path, format!("targets: [{{ name: central, http: {{ url: '{url}' }} }}]\n")).unwrap();
        command.arg("--deliver").arg(path);
    }
    command.arg("--data").arg(dir.path().join("data")).arg("--tokens").arg(dir.path().join("tokens"));
    command.args(["--log-format", "json"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    if let Some((task, milliseconds)) = panics {
        command.env("OUTCROP_PANIC_TASK", format!("{task}:{milliseconds}"));
    }
    Running(command.spawn().unwrap())
}

#[test]
fn a_panic_in_any_task_ends_the_process_with_its_name_and_readiness_is_never_green_after_it() {
    for task in TASKS {
        // A machine that is busy with other tests may take longer to start an aggregator than its task may live.
        let mut times = [700, 4_000, 20_000].into_iter();
        // Readiness is asked without TLS.
        let is_enough = |was_ready| was_ready || task == "certificate";
        assert!(times.any(|time| is_enough(panics(task, time))), "{task}: it was never ready before");
    }
}

/// Has a task panic after a time, and returns whether the aggregator was ready before.
fn panics(task: &str, milliseconds: u64) -> bool {
    let (dir, api) = (tempfile::tempdir().unwrap(), free());
    let mut process = aggregator(&dir, api, Some((task, milliseconds)));
    let log = || fs::read_to_string(dir.path().join("log")).unwrap();
    let begun = Instant::now();
    let mut was_ready = false;
    let status = loop {
        let has_ended = log().contains("task ended unexpectedly");
        let ready = readiness(api);
        was_ready |= ready == Some(200);
        assert!(!(has_ended && ready == Some(200)), "{task}: ready after its end");
        if let Some(status) = process.0.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{task}: it goes on: {}", log());
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(1), "{task}: {}", log());
    let named = format!("task {task} ended unexpectedly: it panicked: injected by OUTCROP_PANIC_TASK");
    assert!(log().contains(&named), "{task}: {}", log());
    was_ready
}

#[test]
fn sigterm_ends_the_process_with_success_and_the_log_says_so() {
    let (dir, api) = (tempfile::tempdir().unwrap(), free());
    let mut process = aggregator(&dir, api, None);
    until("the aggregator to listen", || TcpStream::connect(api).is_ok());
    let pid = rustix::process::Pid::from_child(&process.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = process.0.wait().unwrap();
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    let events: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let messages: Vec<&str> = events.iter().filter_map(|event| event["message"].as_str()).collect();
    assert!(messages.contains(&"aggregator started") && messages.ends_with(&["aggregator stopped"]), "{log}");
    let started = events.iter().find(|event| event["message"] == "aggregator started").unwrap();
    for field in ["version", "cluster", "listen", "api", "probes", "data"] {
        assert!(started[field].is_string(), "{field}: {started}");
    }
}
