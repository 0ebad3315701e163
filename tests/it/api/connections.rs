//! Slow clients, clients with too many or too large requests, and clients that close the connection early.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outcrop::web::Loopback;

use super::fake::Fake;
use super::server::{Server, certificate};
use super::who::token;
use crate::skip::skip;
use crate::volumes::{FileSystem, Volume};

#[test]
fn who_talks_slowly_stops_nobody_else() {
    let server = Server::open(Fake::new(2, 2));
    let mut slow: Vec<TcpStream> = Vec::new();
    for number in 0..200 {
        let mut stream = server.connect();
        let begun = match number % 3 {
            0 => "GET /api/v1/sta",
            // A body that never comes whole.
            1 => {
                "POST /api/v1/database HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\nx"
            }
            _ => "GET /api/v1/findings HTTP/1.1\r\nHost: localhost\r\n\r\nGET /api/v1/fin",
        };
        stream.write_all(begun.as_bytes()).unwrap();
        slow.push(stream);
    }
    assert_eq!(server.get("/api/v1/status").status, 200);
    // Of one address there are only so many; those that go make room.
    let more: Vec<TcpStream> = (0..300).map(|_| server.connect()).collect();
    let mut last = more.last().unwrap().try_clone().unwrap();
    let mut none = [0; 1];
    assert!(matches!(last.read(&mut none), Ok(0) | Err(_)), "the last was turned away");
    drop((slow, more, last));
    let mut answered = false;
    for _ in 0..200 {
        let mut stream = server.connect();
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut text = String::new();
        answered = stream.read_to_string(&mut text).is_ok() && text.starts_with("HTTP/1.1 200");
        if answered {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(answered, "there is room again");
}

/// Waits until `met`, or fails.
fn until(what: &str, mut met: impl FnMut() -> bool) {
    let waited = (0..600).find(|_| {
        std::thread::sleep(Duration::from_millis(50));
        met()
    });
    assert!(waited.is_some(), "waited in vain for {what}");
}

#[test]
fn one_caller_with_forty_long_questions_keeps_no_other_waiting_and_they_end_with_their_connections() {
    let fake = Fake::new(2, 4);
    let gate = Arc::clone(&fake.gate);
    let server = Server::with_tokens(fake);
    let [greedy, other] = ["greedy", "other"].map(|name| format!("Bearer {}", token(&server, name, "read", "shop")));
    let get = |bearer: &str, target: &str| server.ask("GET", target, &[("Authorization", bearer)], b"");
    let waiting = || gate.waiting.load(Ordering::SeqCst);
    let ask = format!(
        "GET /api/v1/advisories/wait HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: {greedy}\r\n\r\n"
    );
    let begin = || {
        let mut stream = server.connect();
        stream.write_all(ask.as_bytes()).unwrap();
        stream
    };
    let answered = |streams: &[TcpStream]| {
        let is_answered = |stream: &&TcpStream| {
            stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            stream.peek(&mut [0]).is_ok()
        };
        streams.iter().filter(is_answered).count()
    };
    let long: Vec<TcpStream> = (0..40).map(|_| begin()).collect();
    // Two run, 32 wait, and six are told to come again.
    until("six questions to be refused", || answered(&long) == 6);
    until("two questions to run", || waiting() == 2);
    let late = get(&greedy, "/api/v1/status");
    assert_eq!((late.status, late.header("Retry-After").as_str()), (429, "5"), "{late:?}");
    // Another caller is answered while none of them has ended, and so is who keeps the process alive.
    assert_eq!(get(&other, "/api/v1/findings?limit=1").status, 200);
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!((waiting(), answered(&long)), (2, 6));
    // With whoever asked goes the work.
    drop(long);
    until("the work to end", || waiting() == 0);
    assert_eq!(get(&greedy, "/api/v1/status").status, 200);
    // Those that stay are answered, one after the other.
    let long: Vec<TcpStream> = (0..34).map(|_| begin()).collect();
    gate.open.add_permits(34);
    for mut stream in long {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 404"), "{text}");
    }
}

#[test]
fn what_was_begun_is_done_whole_though_who_asked_goes_away() {
    let fake = Fake::new(2, 2);
    let (gate, pushed) = (Arc::clone(&fake.gate), Arc::clone(&fake.pushed));
    let server = Server::open(fake);
    let mut stream = server.connect();
    let head = "POST /api/v1/database HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n";
    stream.write_all(format!("{head}slow").as_bytes()).unwrap();
    until("the push to wait", || gate.waiting.load(Ordering::SeqCst) == 1);
    let second = server.ask("POST", "/api/v1/database", &[("Content-Type", "application/json")], b"same");
    assert_eq!(second.status, 503, "one at a time: {second:?}");
    drop(stream);
    gate.open.add_permits(1);
    until("the push to end", || pushed.lock().unwrap().len() == 1);
    assert_eq!(pushed.lock().unwrap()[0].size, 4, "its file was there until the end");
    until("its file to go", || fs::read_dir(server.at("uploads")).unwrap().count() == 0);
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let server = Server::open(Fake::new(2, 2));
    let long = "x".repeat(300 << 10);
    for request in [
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(100)),
        "nonsense\r\n\r\n".to_owned(),
    ] {
        let mut stream = server.connect();
        let _ = stream.write_all(request.as_bytes());
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    assert_eq!(server.get("/api/v1/status").status, 200);
}

#[test]
fn a_pushed_file_is_whole_bounded_and_gone_afterwards() {
    let fake = Fake::new(2, 2);
    let pushed = Arc::clone(&fake.pushed);
    let server = Server::start(fake, |_| (Arc::new(Loopback), None), |config| config.max_upload = 3 << 20);
    let uploads = server.at("uploads");
    let file = server.at("advisories.db");
    let path = file.display().to_string();
    for (content, arguments, code, says) in [
        (vec![7; 3 << 20], &[][..], 0, "sha256:11: +12 −5 findings, 1.2 s, 0 nodes rescanned\n"),
        (b"same".to_vec(), &[], 0, "sha256:11 is already in use: nothing changed\n"),
        (b"shrunk".to_vec(), &["--allow-shrink"], 0, "sha256:11: +12"),
        (b"shrunk".to_vec(), &[], 1, "has far fewer records: --allow-shrink takes it"),
        (vec![7; (3 << 20) + 1], &[], 1, "limit of 3145728 bytes"),
        (Vec::new(), &[], 1, ""),
    ] {
        fs::write(&file, &content).unwrap();
        let output = server.outcrop(&[&["db", "push", &path][..], arguments].concat());
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8(told).unwrap();
        let code = if content.is_empty() { 64 } else { code };
        assert!(output.status.code() == Some(code) && told.contains(says), "{code} {says}: {told}");
        assert_eq!(fs::read_dir(&uploads).unwrap().count(), 0, "nothing is left behind");
    }
    // Without a length, as a pipe would send it.
    let chunked = [("Content-Type", "application/octet-stream"), ("Transfer-Encoding", "chunked")];
    let body = format!("5\r\nfresh\r\n100000\r\n{}\r\n0\r\n\r\n", "x".repeat(1 << 20));
    let mut stream = server.connect();
    let head: String = chunked.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "POST /api/v1/database HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n{body}")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    // The signature beside a file goes with it.
    fs::write(&file, "same").unwrap();
    fs::write(server.at("advisories.db.minisig"), "untrusted comment: x\nabc\n").unwrap();
    server.told(&["db", "push", &path]);
    let broken = [("Content-Type", "application/json"), ("Outcrop-Signature", "~")];
    assert_eq!(server.ask("POST", "/api/v1/database", &broken, b"same").status, 400);
    let pushed = pushed.lock().unwrap();
    let sizes: Vec<(usize, bool)> = pushed.iter().map(|push| (push.size, push.allow_shrink)).collect();
    assert_eq!(sizes, [(3 << 20, false), (4, false), (6, true), (6, false), ((1 << 20) + 5, false), (4, false)]);
    assert!(pushed.iter().all(|push| push.who == "loopback" && push.path.starts_with(&uploads) && !push.path.exists()));
    let signatures: Vec<Option<&[u8]>> = pushed.iter().map(|push| push.signature.as_deref()).collect();
    assert_eq!(signatures, [None, None, None, None, None, Some(&b"untrusted comment: x\nabc\n"[..])]);
    assert_eq!(fs::read_dir(&uploads).unwrap().count(), 0);
}

/// A `POST` of a database, one part after the other.
struct Push(TcpStream);

impl Push {
    fn begin(server: &Server, length: &str) -> Self {
        let mut stream = server.connect();
        let head =
            "POST /api/v1/database HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json";
        stream.write_all(format!("{head}\r\n{length}\r\n\r\n").as_bytes()).unwrap();
        Self(stream)
    }

    /// Sends bytes; `false` once there is a response.
    fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = self.0.write_all(bytes).is_ok();
        self.0.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        sent && self.0.peek(&mut [0]).is_err()
    }

    /// The status of the response.
    fn status(mut self) -> String {
        self.0.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut head = [0; 12];
        self.0.read_exact(&mut head).unwrap();
        String::from_utf8(head.to_vec()).unwrap().split_off(9)
    }
}

#[test]
fn a_push_leaves_the_room_of_the_store_and_no_file_behind() {
    for kind in [FileSystem::Tmpfs, FileSystem::Ext4] {
        let server =
            Server::start(Fake::new(2, 2), |_| (Arc::new(Loopback), None), |config| config.max_upload = 4 << 30);
        let uploads = server.at("uploads");
        let Some(volume) = Volume::mount(&uploads, kind, 48) else {
            skip("root", "mounting a small volume");
            return;
        };
        let stat = rustix::fs::statvfs(&uploads).unwrap();
        let reserve = stat.f_blocks * stat.f_frsize / 8;
        let gone = || {
            until("the file to be removed", || {
                let entries = fs::read_dir(&uploads).unwrap().map(|entry| entry.unwrap().file_name());
                entries.filter(|name| name != "lost+found").count() == 0
            });
        };
        let megabyte = vec![7; 1 << 20];
        let chunk = [format!("{:x}\r\n", megabyte.len()).as_bytes(), &megabyte, b"\r\n"].concat();

        // Refused by its length, before a byte is sent.
        let announced = Push::begin(&server, "Content-Length: 4000000000");
        assert_eq!(announced.status(), "507", "{kind:?}");
        gone();

        // Refused while it grows.
        let mut growing = Push::begin(&server, "Transfer-Encoding: chunked");
        let mut least = volume.free();
        while growing.send(&chunk) {
            least = least.min(volume.free());
        }
        assert_eq!(growing.status(), "507", "{kind:?}");
        assert!(least >= reserve, "{kind:?}: only {least} of {reserve} bytes are left to the store");
        gone();

        // The room goes meanwhile.
        let mut late = Push::begin(&server, "Content-Length: 8388608");
        assert!(late.send(&megabyte));
        volume.fill();
        while late.send(&megabyte[..1 << 16]) {}
        assert_eq!(late.status(), "507", "{kind:?}");
        volume.empty();
        gone();

        // Who pushes goes away.
        let mut away = Push::begin(&server, "Content-Length: 8388608");
        assert!(away.send(&megabyte));
        drop(away);
        gone();

        // The command line shows why, and what fits is accepted.
        let file = server.at("advisories.db");
        fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
        let path = file.display().to_string();
        let refused = server.outcrop(&["db", "push", &path]);
        let told = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(1) && told.contains("reserved for the store; free some space"), "{told}");
        fs::write(&file, &megabyte).unwrap();
        server.told(&["db", "push", &path]);
        gone();
    }
}

#[test]
fn over_tls_the_certificate_is_the_one_in_the_file() {
    let (one, two) = (certificate(), certificate());
    let server = Server::with_tls(Fake::new(2, 2), |dir| {
        fs::write(dir.join("tls.crt"), &one.0).unwrap();
        fs::write(dir.join("tls.key"), &one.1).unwrap();
    });
    let ca = |name: &str, text: &str| {
        fs::write(server.at(name), text).unwrap();
        server.at(name).display().to_string()
    };
    let (first, second) = (ca("one.pem", &one.0), ca("two.pem", &two.0));
    let code = |ca: &str| server.outcrop(&["status", "--ca", ca]).status.code();
    assert_eq!((code(&first), code(&second)), (Some(0), Some(1)));
    assert_eq!(server.outcrop(&["status"]).status.code(), Some(64), "nobody is trusted unasked");
    fs::write(server.at("tls.crt"), &two.0).unwrap();
    fs::write(server.at("tls.key"), &two.1).unwrap();
    until("the new certificate to be served", || code(&second) == Some(0));
    assert_eq!(code(&first), Some(1));
    assert_eq!(server.outcrop(&["status", "--ca", "/dev/null"]).status.code(), Some(1));
}
