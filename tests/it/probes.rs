//! Probes have a listener of their own, which responds whatever happens to the other listeners.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use crate::ports::free;
use crate::service_parts::{OUTCROP, Place, Running, request, until};

/// Opens a connection to `address` from a loopback address that ends with `from`, and sends `begun`.
fn half_open(from: u8, address: SocketAddr, begun: &str) -> Option<OwnedFd> {
    let fd = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&fd, &SocketAddr::from((Ipv4Addr::new(127, 0, 0, from), 0))).unwrap();
    connect(&fd, &address).ok()?;
    let _ = rustix::io::write(&fd, begun.as_bytes());
    Some(fd)
}

/// Fails if a probe at `address` is not answered with success, several times in a row.
fn assert_probes(address: SocketAddr, when: &str) {
    for _ in 0..10 {
        for path in ["/livez", "/readyz"] {
            let answer = request(address, path);
            assert!(answer.as_ref().is_some_and(|(status, _)| *status == 200), "{when}: {path}: {answer:?}");
        }
    }
}

#[test]
fn half_open_connections_to_any_listener_keep_no_probe_waiting() {
    let place = Place::start();
    until("readiness", || request(place.probes, "/readyz").is_some_and(|(status, _)| status == 200));
    for (name, address) in [("the API", place.api), ("agents", place.listen), ("probes", place.probes)] {
        for begun in ["", "GET /livez HTTP/1.1\r\nHost: "] {
            let flood = |count| (2..6).flat_map(move |from| (0..count).map(move |_| half_open(from, address, begun)));
            let mut held: Vec<_> = flood(256).collect();
            if name == "the API" {
                // Whoever comes now is turned away there. Places of the flood before may have been free too late for this one.
                until("the API to be full", || {
                    let is_full = request(place.api, "/livez").is_none();
                    if !is_full {
                        std::thread::sleep(Duration::from_secs(1));
                        held.extend(flood(64));
                    }
                    is_full
                });
            }
            assert_probes(place.probes, &format!("1024 half-open connections to {name} with {begun:?}"));
            drop(held);
        }
    }
}

#[test]
fn a_process_that_may_open_few_files_answers_probes_while_connections_exhaust_the_others() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokens"), "").unwrap();
    let [listen, api, probes] = [free(), free(), free()];
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 400; exec \"$@\"", "sh", OUTCROP, "aggregator", "--insecure"]);
    for (flag, address) in [("--listen", listen), ("--api", api), ("--probes", probes)] {
        command.args([flag, &address.to_string()]);
    }
    command.arg("--data").arg(dir.path().join("data")).arg("--tokens").arg(dir.path().join("tokens"));
    command.stdin(Stdio::null()).stderr(fs::File::create(dir.path().join("log")).unwrap());
    let _aggregator = Running(command.spawn().unwrap());
    until("readiness", || request(probes, "/readyz").is_some_and(|(status, _)| status == 200));
    let open = |from| (0..200).flat_map(move |_| [half_open(from, api, ""), half_open(from, listen, "")]);
    let _held: Vec<_> = (2..6).flat_map(open).collect();
    assert_probes(probes, "1,600 connections");
}

#[test]
fn the_listener_of_probes_answers_nothing_else() {
    let place = Place::start();
    until("readiness", || request(place.probes, "/readyz").is_some_and(|(status, _)| status == 200));
    for path in ["/", "/metrics", "/api/v1/status", "/api/v1/openapi.json", "/livez/", "/readyz/x", "/nothing"] {
        let (status, body) = request(place.probes, path).unwrap();
        assert_eq!((status, body.as_str()), (404, ""), "{path}");
    }
    for path in ["/livez", "/api/v1/database"] {
        let mut stream = TcpStream::connect(place.probes).unwrap();
        write!(stream, "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 40"), "{path}: {answer}");
    }
}

#[test]
fn a_process_that_waits_for_its_store_is_alive_and_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    fs::write(dir.path().join("tokens"), "").unwrap();
    let lock = fs::File::create(dir.path().join("data/outcrop.db.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let probes = free();
    let mut command = Command::new(OUTCROP);
    command.args(["aggregator", "--insecure", "--probes", &probes.to_string()]);
    command.args(["--listen", &free().to_string(), "--api", &free().to_string()]);
    command.arg("--data").arg(dir.path().join("data")).arg("--tokens").arg(dir.path().join("tokens"));
    command.stdin(Stdio::null()).stderr(fs::File::create(dir.path().join("log")).unwrap());
    let _aggregator = Running(command.spawn().unwrap());
    until("/livez", || request(probes, "/livez").is_some_and(|(status, _)| status == 200));
    let (status, text) = request(probes, "/readyz").unwrap();
    assert!(status == 503 && text.contains("[-]start failed"), "{status}: {text}");
    drop(lock);
    until("readiness", || request(probes, "/readyz").is_some_and(|(status, _)| status == 200));
}
