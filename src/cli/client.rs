//! HTTP client of an aggregator's API.

use std::cell::Cell;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use ureq::http::{Response, StatusCode, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{AsSendBody, Body};

use super::failure::explain;
use super::{Fatal, tunnel, unreadable};
use crate::web::Page;

/// Maximum size of a response, bytes; a page of a list is far smaller.
const MAX_ANSWER: u64 = 64 << 20;

/// Timeout of a request.
const PATIENCE: Duration = Duration::from_secs(90);

/// Timeout of a database upload, including the rematch.
const PUSH_PATIENCE: Duration = Duration::from_secs(1800);

/// Number of times that a question is repeated which the aggregator had no turn for (429).
const MAX_REPEATS: usize = 6;

/// Maximum pause before a question is repeated.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Number of items per page.
const PAGE: usize = 1000;

/// Default URL of an aggregator on this machine.
pub(super) const HERE: &str = "http://127.0.0.1:7480";

/// Flags that select the aggregator and the credentials.
#[derive(Debug, clap::Args)]
pub(super) struct Server {
    /// URL of the aggregator's API; default: the aggregator in the kubeconfig's cluster, reached through the API server, or
    /// http://127.0.0.1:7480 if there is no kubeconfig
    #[arg(long, value_name = "URL", env = "OUTCROP_SERVER")]
    server: Option<String>,

    /// File with the token for the API, from `outcrop token new --api` or `kubectl create token --audience outcrop`
    #[arg(long, value_name = "FILE", env = "OUTCROP_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    #[command(flatten)]
    cluster: tunnel::Cluster,

    /// CA certificates of the aggregator, PEM; required for https with --server
    #[arg(long, value_name = "FILE", env = "OUTCROP_CA")]
    ca: Option<PathBuf>,
}

impl Server {
    /// Returns whether an aggregator is selected, by a flag or a kubeconfig.
    pub(super) fn is_named(&self) -> bool {
        self.server.is_some() || self.cluster.is_named()
    }

    /// Returns the cluster of the aggregator, unless `--server` is given; in a pod, the pod's own cluster.
    pub(super) fn cluster(&self) -> Option<&tunnel::Cluster> {
        let in_pod = || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        Some(&self.cluster).filter(|cluster| self.server.is_none() && (cluster.is_named() || in_pod()))
    }

    /// Returns whether a token file is given; otherwise the API server issues a token.
    pub(super) fn has_token(&self) -> bool {
        self.token_file.is_some()
    }

    /// Connects to the selected aggregator.
    pub(super) fn connect(&self) -> Result<Client, Fatal> {
        if let Some(flag) = self.cluster.flag().filter(|_| self.server.is_some()) {
            return Err(Fatal::usage(format!(
                "{flag} selects an aggregator in a cluster, and --server, or the variable OUTCROP_SERVER, another one: omit one of them"
            )));
        }
        match &self.server {
            Some(server) => self.connect_to(server),
            None if self.cluster.is_named() => self.connect_through(&self.cluster),
            None => self.connect_to(HERE),
        }
    }

    /// Connects to the aggregator in a cluster.
    fn connect_through(&self, cluster: &tunnel::Cluster) -> Result<Client, Fatal> {
        let tunnel = cluster.open(self.token_file.is_none())?;
        let authorization = match &self.token_file {
            Some(path) => Some(read_token(path)?),
            None => tunnel.token.as_ref().map(|token| format!("Bearer {token}")),
        };
        let certificates = match (&self.ca, &tunnel.ca) {
            (Some(path), _) => read_certificates(path)?,
            (None, Some(ca)) => certificates(ca.as_bytes(), "the published ConfigMap")?,
            (None, None) => {
                return Err(Fatal::usage("the aggregator has not published its CA certificate; pass --ca FILE"));
            }
        };
        let base = tunnel.base.clone();
        let config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0);
        let agent = config.tls_config(trusting(&certificates)).build().into();
        Ok(Client { agent, base, authorization, certificates, _tunnel: Some(tunnel) })
    }

    /// Connects to the aggregator at a URL.
    fn connect_to(&self, server: &str) -> Result<Client, Fatal> {
        if !server.contains("://") {
            return Err(Fatal::usage(format!(
                "invalid value {server:?} for --server: the scheme is missing; pass http://{server} or https://{server}"
            )));
        }
        // The value may contain a password, so the message does not.
        let wrong = |reason: &str| {
            Fatal::usage(format!(
                "invalid value for --server: {reason}; expected http://HOST:PORT or https://HOST:PORT"
            ))
        };
        let uri: Uri = server.parse().map_err(|_| wrong("not a URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err(wrong("the scheme or the host is wrong"));
        }
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        if authority.contains('@') {
            return Err(wrong("it contains a user name; pass the token with --token-file"));
        }
        // A port that is not understood would be replaced by the one of the scheme.
        let has_port = authority.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
        if has_port && uri.port_u16().is_none_or(|port| port == 0) {
            return Err(wrong("the port is not a number from 1 to 65535"));
        }
        let path = uri.path().trim_end_matches('/');
        if !matches!(path, "" | "/api/v1") || uri.query().is_some() {
            return Err(wrong("it has a path or a query"));
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let secure = uri.scheme_str() == Some("https");
        if secure && self.ca.is_none() {
            return Err(Fatal::usage("https requires the CA certificate of the aggregator: pass --ca FILE"));
        }
        if self.token_file.is_some() && !secure && !is_loopback {
            return Err(Fatal::usage(format!(
                "refusing to send a token without TLS to {host}: use https, or a tunnel to a loopback address"
            )));
        }
        let authorization = self.token_file.as_deref().map(read_token).transpose()?;
        let mut config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0);
        let mut certificates = Vec::new();
        if let Some(path) = &self.ca {
            certificates = read_certificates(path)?;
            config = config.tls_config(trusting(&certificates));
        }
        // Without the path of the API, which the documentation shows in URLs.
        let base = format!("{}://{authority}", uri.scheme_str().unwrap_or_default());
        Ok(Client { agent: config.build().into(), base, authorization, certificates, _tunnel: None })
    }
}

/// Returns a TLS configuration that trusts exactly `certificates`.
fn trusting(certificates: &[Certificate<'static>]) -> TlsConfig {
    TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(certificates))
        .build()
}

fn read_token(path: &Path) -> Result<String, Fatal> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| unreadable("reading the token (--token-file) from", path, &error))?;
    match text.trim() {
        "" => Err(Fatal::failed(format!("the token file {} is empty", path.display()))),
        token => Ok(format!("Bearer {token}")),
    }
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate<'static>>, Fatal> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| unreadable("reading CA certificates (--ca) from", path, &error))?;
    certificates(&bytes, &name)
}

fn certificates(bytes: &[u8], name: &str) -> Result<Vec<Certificate<'static>>, Fatal> {
    let fail = |why: String| Fatal::failed(format!("reading CA certificates from {name}: {why}"));
    let mut certificates = Vec::new();
    for item in parse_pem(bytes) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| fail(error.to_string()))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(fail("no PEM certificate found".to_owned()));
    }
    Ok(certificates)
}

/// The characters that a segment of a path contains as they are ([RFC 3986](https://www.rfc-editor.org/rfc/rfc3986#section-2.3)).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Returns `text` as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Query parameters.
pub(super) type Parameters = Vec<(String, String)>;

/// A client of an aggregator.
#[derive(Debug)]
pub(super) struct Client {
    agent: ureq::Agent,
    base: String,
    authorization: Option<String>,
    /// Trusted CA certificates.
    certificates: Vec<Certificate<'static>>,
    /// Closes with the client.
    _tunnel: Option<tunnel::Tunnel>,
}

impl Client {
    /// Returns the base URL.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Returns the trusted CA certificates.
    pub(super) fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.certificates.iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect()
    }

    /// Returns the aggregator's `Date` header from a probe, which needs no token.
    pub(super) fn date(&self) -> Option<String> {
        let request = self.agent.get(format!("{}/healthz", self.base));
        let answer = request.config().timeout_global(Some(PATIENCE)).build().call().ok()?;
        Some(answer.headers().get("date")?.to_str().ok()?.to_owned())
    }

    /// Sends a GET request to `path`. Where the aggregator has no turn for it, it is repeated after the time that the response names, as
    /// kubectl does.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str, query: &[(String, String)]) -> Result<T, Fatal> {
        self.understand(self.repeat(|| self.ask(path, query, Some(PATIENCE))))
    }

    /// Sends a GET request for a document of any size, and returns its text while it arrives. Reading fails if the document is incomplete.
    pub(super) fn download(&self, path: &str, query: &[(String, String)]) -> Result<impl Read + use<>, Fatal> {
        match self.repeat(|| self.ask(path, query, None)) {
            Ok(response) if response.status().is_success() => Ok(response.into_body().into_reader()),
            answer => Err(self.understand::<Value>(answer).err().unwrap_or_else(|| Fatal::failed("no document"))),
        }
    }

    /// Repeats a request for which the aggregator has no turn.
    fn repeat(&self, ask: impl Fn() -> Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, ureq::Error> {
        let mut repeats = 0;
        loop {
            match ask() {
                Ok(response) if response.status() == StatusCode::TOO_MANY_REQUESTS && repeats < MAX_REPEATS => {
                    std::thread::sleep(retry_after(&response).min(LONGEST_PAUSE));
                    repeats += 1;
                }
                answer => return answer,
            }
        }
    }

    /// `within` limits the time for the whole response; the time until the response begins is limited in any case.
    fn ask(
        &self,
        path: &str,
        query: &[(String, String)],
        within: Option<Duration>,
    ) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        request = request.query_pairs(query.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        request.config().timeout_global(within).timeout_recv_response(Some(PATIENCE)).build().call()
    }

    /// Sends a POST request to `path`.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(String, String)],
        headers: &[(&str, &str)],
        body: impl AsSendBody,
    ) -> Result<T, Fatal> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // The body is not sent if the server refuses the headers.
        request = request.header("Expect", "100-continue");
        request = request.query_pairs(query.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let answer = request.config().timeout_global(Some(PUSH_PATIENCE)).build().send(body);
        self.understand(answer)
    }

    /// Reads an answer: the value of a successful one, the error in another one.
    fn understand<T: DeserializeOwned>(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<T, Fatal> {
        let fail = |error: ureq::Error| Fatal::failed(explain(&self.base, &error));
        let mut answer = answer.map_err(fail)?;
        let status = answer.status();
        let text = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_string().map_err(fail)?;
        if status.is_success() {
            return serde_json::from_str(&text).map_err(|error| self.unreadable(status, &error));
        }
        let problem: ProblemDetail = serde_json::from_str(&text).map_err(|error| self.unreadable(status, &error))?;
        let detail = problem.detail.unwrap_or_else(|| status.to_string());
        Err(match status {
            StatusCode::BAD_REQUEST => Fatal::usage(detail),
            StatusCode::UNAUTHORIZED if self.authorization.is_none() => {
                Fatal::failed(format!("{detail}; pass --token-file FILE"))
            }
            StatusCode::UNAUTHORIZED => Fatal::failed("unknown token; check --token-file and --server"),
            _ => Fatal::failed(detail),
        })
    }

    /// The error for an answer that is not one of the API's.
    fn unreadable(&self, status: StatusCode, error: &serde_json::Error) -> Fatal {
        let base = &self.base;
        // Text that is not JSON at all is of another server, and its parser's message tells nothing.
        let is_json = !(error.is_syntax() || error.is_eof());
        let detail = if is_json { format!("{status}: {error}") } else { status.to_string() };
        Fatal::failed(format!(
            "requesting {base}: the response is not from an aggregator of this version ({detail}); check --server, and the versions of both"
        ))
    }

    /// Returns the list at `path`, limited to `limit` items.
    pub(super) fn pages(&self, path: &str, query: Parameters, limit: Option<usize>) -> Pages<'_> {
        Pages {
            client: self,
            path: path.to_owned(),
            query,
            limit: limit.unwrap_or(usize::MAX),
            has_more: Cell::new(false),
        }
    }
}

/// Returns the pause that a response asks for, in whole seconds ([RFC 9110](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)).
fn retry_after(response: &Response<Body>) -> Duration {
    let seconds = response.headers().get("Retry-After").and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1))
}

/// The part of an error ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) that is printed.
#[derive(Deserialize)]
struct ProblemDetail {
    detail: Option<String>,
}

/// A list of the API.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    client: &'a Client,
    path: String,
    query: Parameters,
    limit: usize,
    /// Whether the list has items beyond the limit; known after the last page.
    has_more: Cell<bool>,
}

impl Pages<'_> {
    /// Returns whether the list has items beyond the limit. Before the last page is read, it returns `false`.
    pub(super) fn has_more(&self) -> bool {
        self.has_more.get()
    }

    /// Returns the pages one after the other; each is requested when the iterator reaches it.
    pub(super) fn iter<T: DeserializeOwned>(&self) -> impl Iterator<Item = Result<Vec<T>, Fatal>> {
        let mut left = self.limit;
        // Where the next page starts; the outer `None` after the last one.
        let mut next = Some(None);
        std::iter::from_fn(move || {
            let cursor: Option<String> = next.take()?;
            let page = self.page::<T>(cursor.as_deref(), left).map(|page| {
                left -= page.items.len();
                self.has_more.set(page.next.is_some() && left == 0);
                next = page.next.filter(|_| left > 0).map(Some);
                page.items
            });
            Some(page)
        })
    }

    fn page<T: DeserializeOwned>(&self, cursor: Option<&str>, limit: usize) -> Result<Page<T>, Fatal> {
        let mut query = self.query.clone();
        query.push(("limit".to_owned(), limit.min(PAGE).to_string()));
        query.extend(cursor.map(|cursor| ("continue".to_owned(), cursor.to_owned())));
        let mut page: Page<T> = self.client.get(&self.path, &query)?;
        page.items.truncate(limit);
        if page.next.is_some() && page.next.as_deref() == cursor {
            return Err(Fatal::failed(format!(
                "requesting {}: the list repeats a page; check the versions with outcrop status",
                self.client.base
            )));
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn path_segments_are_percent_encoded() {
        assert_eq!(segment("CVE-2021-44228"), "CVE-2021-44228");
        assert_eq!(segment("../status?x=ü"), "..%2Fstatus%3Fx%3D%C3%BC");
    }

    #[test]
    fn a_question_without_a_turn_is_repeated_and_not_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let busy = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 17\r\nConnection: close\r\n\r\n{\"detail\":\"busy\"}";
        let good = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n7";
        let responses: Vec<&str> = [busy, busy, good].into_iter().chain([busy; MAX_REPEATS + 1]).collect();
        let server = std::thread::spawn(move || {
            for response in responses {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
                stream.write_all(response.as_bytes()).unwrap();
            }
        });
        let server_flags =
            Server { server: Some(url), token_file: None, cluster: tunnel::Cluster::default(), ca: None };
        let client = server_flags.connect().unwrap();
        assert_eq!(client.get::<u64>("/", &[]).unwrap(), 7);
        assert_eq!(client.get::<u64>("/", &[]).unwrap_err().message, "busy");
        server.join().unwrap();
    }

    #[test]
    fn tokens_are_sent_over_tls_or_loopback_only() {
        let server = |url: &str, ca: Option<&str>| Server {
            server: Some(url.to_owned()),
            token_file: Some("/nonexistent/token".into()),
            cluster: tunnel::Cluster::default(),
            ca: ca.map(Into::into),
        };
        for (url, says) in [
            ("http://outcrop.example:7480", "without TLS"),
            ("http://127.0.0.1.evil.example", "without TLS"),
            ("https://outcrop.example", "--ca"),
            ("http://127.0.0.1:1", "/nonexistent/token"),
            ("http://[::1]:1", "/nonexistent/token"),
        ] {
            let error = server(url, None).connect().unwrap_err();
            assert!(error.message.contains(says), "{url}: {}", error.message);
        }
    }
}
