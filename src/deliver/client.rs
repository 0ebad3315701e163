//! The HTTP client of targets.

use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outcrop_proto::{Digest, clock};
use tokio_rustls::rustls::{self, crypto::ring};
use ureq::Agent;
use ureq::http::Method;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::connection::{Authorization, Connection, Tls, Url};
use super::encode::Compression;
use super::{Verdict, retry, secret};

/// Bytes of an answer that are read.
const ANSWER: u64 = 4 << 10;

/// Stands for a secret in an answer.
const HIDDEN: &str = "***";

/// CA certificates of the system, in the order in which they are tried.
const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The answer of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The meaning of the answer.
    pub verdict: Verdict,
    /// Time that the target asks to wait.
    pub retry_after: Option<Duration>,
    /// The beginning of its body.
    pub text: String,
}

/// Why no answer came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SendError(pub String);

/// A request to a target.
#[derive(Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: Method,
    /// Its URL.
    pub url: &'a Url,
    /// Headers beside the credentials.
    pub headers: Vec<(&'static str, String)>,
    /// Its body.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Creates a request that posts a body.
    pub fn post(url: &'a Url, content_type: &str, body: &'a [u8]) -> Self {
        Self { method: Method::POST, url, headers: vec![("Content-Type", content_type.to_owned())], body }
    }

    /// Says how the body is compressed.
    pub fn compressed(&mut self, compression: Compression) {
        let name = match compression {
            Compression::Zstd => "zstd",
            Compression::Gzip => "gzip",
            Compression::None => return,
        };
        self.headers.push(("Content-Encoding", name.to_owned()));
    }
}

/// A client of one target. It keeps its connection while the target's certificates stay the same.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    agent: Mutex<Option<(Digest, Agent)>>,
}

impl Client {
    /// Creates a client with these settings.
    pub fn new(connection: Connection) -> Self {
        Self { connection, agent: Mutex::new(None) }
    }

    /// Returns the settings.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Sends a request. Blocks until the answer is there.
    ///
    /// # Errors
    /// When a file of the configuration cannot be used, or the target gives no answer.
    pub fn send(&self, request: &Request<'_>) -> Result<Answer, SendError> {
        let agent = self.agent(request.url).map_err(SendError)?;
        let credentials = self.credentials().map_err(SendError)?;
        let mut sent = ureq::http::Request::builder().method(&request.method).uri(request.url.uri());
        for (name, value) in &request.headers {
            sent = sent.header(*name, value);
        }
        if let Some(Credentials { header, value, .. }) = &credentials {
            sent = sent.header(*header, value);
        }
        let sent = sent.body(request.body).map_err(|error| SendError(format!("{}: {error}", request.url.origin())))?;
        let mut response = agent.run(sent).map_err(|error| SendError(self.explain(request.url, &error)))?;
        let header = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let retry_after = header.and_then(|header| retry::asked(header, clock::timestamp()));
        let mut text = Vec::new();
        // An answer that breaks off has a status all the same.
        let _ = response.body_mut().as_reader().take(ANSWER).read_to_end(&mut text);
        let mut text = String::from_utf8_lossy(&text).trim().to_owned();
        // A target that answers with what it was sent must not show it to others.
        if let Some(Credentials { value, secret, .. }) = credentials {
            text = text.replace(&value, HIDDEN).replace(&secret, HIDDEN);
        }
        let status = response.status().as_u16();
        Ok(Answer { status, verdict: Verdict::of(status), retry_after, text })
    }

    /// Returns an error of a request as one line, without the path of the URL.
    fn explain(&self, url: &Url, error: &ureq::Error) -> String {
        let target = url.origin();
        let hint = match error {
            ureq::Error::Timeout(_) => format!("no answer within {} s", self.connection.timeout.as_secs()),
            ureq::Error::HostNotFound => {
                "the host name is not known; check the URL, and DNS in this network".to_owned()
            }
            error if is_of_tls(error) => format!("{error}; check the certificates of the target, and tls"),
            error => error.to_string(),
        };
        format!("{target}: {hint}")
    }

    /// Returns the header with the credentials.
    fn credentials(&self) -> Result<Option<Credentials<'_>>, String> {
        let Some(authorization) = &self.connection.authorization else { return Ok(None) };
        let authorized = |scheme: &str, text: &str, secret: String| {
            Some(Credentials { header: "Authorization", value: format!("{scheme} {text}"), secret })
        };
        Ok(match authorization {
            Authorization::BearerTokenFile(path) => {
                let token = secret::read_text(path)?;
                authorized("Bearer", &token.clone(), token)
            }
            Authorization::Basic { username, password_file } => {
                let password = secret::read_text(password_file)?;
                authorized("Basic", &STANDARD.encode(format!("{username}:{password}")), password)
            }
            Authorization::Header { name, value_file } => {
                let value = secret::read_text(value_file)?;
                Some(Credentials { header: name, secret: value.clone(), value })
            }
        })
    }

    /// Returns the agent, a new one if a certificate changed.
    fn agent(&self, url: &Url) -> Result<Agent, String> {
        let connection = &self.connection;
        let proxy = connection.proxy_url(url);
        let files = if url.is_secure() { Files::read(&connection.tls)? } else { Files::default() };
        let digest = Digest::of(format!("{proxy:?} {files:?}").as_bytes());
        let mut known = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, agent)) = &*known
            && *of == digest
        {
            return Ok(agent.clone());
        }
        let proxy = match proxy {
            None => None,
            // The URL may contain a password, so the message does not.
            Some(url) => Some(ureq::Proxy::new(&url).map_err(|_| "proxy.url: not a URL of a proxy".to_owned())?),
        };
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(connection.timeout))
            .user_agent(concat!("outcrop/", env!("CARGO_PKG_VERSION")))
            .proxy(proxy);
        if url.is_secure() {
            config = config.tls_config(files.tls()?);
        }
        let agent: Agent = config.build().into();
        *known = Some((digest, agent.clone()));
        Ok(agent)
    }
}

/// Returns whether an error is about TLS. Errors of the handshake come as those of input and output.
fn is_of_tls(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => true,
        ureq::Error::Io(error) => error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
        _ => false,
    }
}

/// A header with credentials.
struct Credentials<'a> {
    header: &'a str,
    value: String,
    /// The part of it that nobody may see.
    secret: String,
}

/// Contents of certificate files.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// CA certificates.
    pub(super) ca: Vec<u8>,
    /// The client's certificate chain and its key.
    pub(super) client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Files {
    pub(super) fn read(tls: &Tls) -> Result<Self, String> {
        let ca = match &tls.ca_file {
            Some(path) => secret::read(path)?,
            None => {
                let named = std::env::var("SSL_CERT_FILE").ok();
                let known = named.iter().map(String::as_str).chain(SYSTEM_CERTIFICATES);
                let found = known.map(Path::new).find(|path| path.exists());
                secret::read(found.ok_or("this system has no CA certificates; set tls.caFile")?)?
            }
        };
        let client = match (&tls.cert_file, &tls.key_file) {
            (Some(certificate), Some(key)) => Some((secret::read(certificate)?, secret::read(key)?)),
            _ => None,
        };
        Ok(Self { ca, client })
    }

    fn tls(&self) -> Result<TlsConfig, String> {
        let roots = certificates(&self.ca, "tls.caFile")?;
        let client = match &self.client {
            None => None,
            Some((chain, key)) => {
                let key = PrivateKey::from_pem(key).map_err(|_| "tls.keyFile: no private key in PEM")?;
                Some(ClientCert::new_with_certs(&certificates(chain, "tls.certFile")?, key))
            }
        };
        Ok(TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&roots))
            .client_cert(client)
            .build())
    }
}

/// Returns the certificates of a PEM file.
fn certificates(pem: &[u8], key: &str) -> Result<Vec<Certificate<'static>>, String> {
    let items = parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let found: Vec<_> = items.collect();
    if found.is_empty() { Err(format!("{key}: no certificate in PEM")) } else { Ok(found) }
}
