//! The API on loopback, and a client that can send any request.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use outcrop::problems::Problems;
use outcrop::web::listen::{Certificate, Incoming, Limits, Protocol};
use outcrop::web::{Authorizer, Config, Loopback, Probes, TokenFile, routes, serve};
use serde_json::Value;

use super::fake::Fake;

/// A server, until it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) dir: tempfile::TempDir,
    scheme: &'static str,
    _runtime: tokio::runtime::Runtime,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    head: String,
    pub(super) body: String,
}

impl Answer {
    /// All values of a header, joined.
    pub(super) fn header(&self, name: &str) -> String {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let values = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        values.collect::<Vec<_>>().join("; ")
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A certificate that is its own authority, and its key, PEM.
pub(super) fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

impl Server {
    /// One that lets everybody in, as on loopback.
    pub(super) fn open(fake: Fake) -> Self {
        Self::start(fake, |_| (Arc::new(Loopback), None), |_| ())
    }

    /// One that has a file of tokens, with these lines.
    pub(super) fn with_tokens(fake: Fake) -> Self {
        Self::start(
            fake,
            |dir| {
                let path = dir.join("tokens");
                fs::write(&path, "").unwrap();
                (Arc::new(TokenFile::open(&path, Problems::default()).unwrap()), None)
            },
            |_| (),
        )
    }

    /// One over TLS, with the certificate in `dir`.
    pub(super) fn with_tls(fake: Fake, make: impl FnOnce(&Path)) -> Self {
        let tls = |dir: &Path| {
            make(dir);
            let certificate = Certificate::open(&dir.join("tls.crt"), &dir.join("tls.key")).unwrap();
            (Arc::new(Loopback) as Arc<dyn Authorizer>, Some(certificate))
        };
        Self { scheme: "https", ..Self::start(fake, tls, |_| ()) }
    }

    pub(super) fn start(
        fake: Fake,
        access: impl FnOnce(&Path) -> (Arc<dyn Authorizer>, Option<Arc<Certificate>>),
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let uploads = dir.path().join("uploads");
        fs::create_dir(&uploads).unwrap();
        let mut config = Config {
            loopback: true,
            hosts: vec!["outcrop.example".to_owned()],
            uploads,
            max_upload: 1 << 20,
            metrics: Arc::default(),
            probes: Probes::default(),
        };
        change(&mut config);
        let (authorizer, tls) = access(dir.path());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { connections: 400, per_address: 256, identify_within: None, ..Limits::default() };
        let _within = runtime.enter();
        let incoming = Incoming::new(listener, tls.map(|certificate| (certificate, Protocol::Http1)), limits).unwrap();
        let stop = tokio_util::sync::CancellationToken::new();
        runtime.spawn(serve(incoming, routes(Arc::new(fake), authorizer, config), stop));
        drop(_within);
        Self { address, dir, scheme: "http", _runtime: runtime }
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Asks with these headers and this body, and nothing that is not said here but the host and the body's length.
    pub(super) fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request.push_str(&format!("Host: {}\r\n", self.address));
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        let mut stream = self.connect();
        stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
        // Who refuses a body may close before all of it is sent.
        let _ = stream.write_all(body);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {request}: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if is_chunked { unchunked(body) } else { body.to_owned() };
        Answer { status, head: head.to_owned(), body }
    }

    pub(super) fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[], b"")
    }

    /// Runs `outcrop` against it.
    pub(super) fn outcrop(&self, arguments: &[&str]) -> Output {
        let server = format!("{}://{}", self.scheme, self.address);
        let mut command = Command::new(env!("CARGO_BIN_EXE_outcrop"));
        for variable in ["OUTCROP_TOKEN_FILE", "OUTCROP_CA"] {
            command.env_remove(variable);
        }
        command.args(arguments).env("OUTCROP_SERVER", server).output().unwrap()
    }

    /// The same, where it has to go well: what it prints.
    pub(super) fn told(&self, arguments: &[&str]) -> String {
        let output = self.outcrop(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Joins the chunks of a body ([RFC 9112](https://www.rfc-editor.org/rfc/rfc9112#section-7.1)), which has to be complete.
fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    loop {
        let (size, more) = rest.split_once("\r\n").expect("the size of a chunk");
        let size = usize::from_str_radix(size, 16).expect("the size of a chunk");
        if size == 0 {
            return body;
        }
        body.push_str(&more[..size]);
        rest = more[size..].strip_prefix("\r\n").expect("the end of a chunk");
    }
}
