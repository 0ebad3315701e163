//! The HTTP client of targets.

use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outcrop_proto::{Digest, clock};
use tokio_rustls::rustls::crypto::ring;
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::config::{Authorization, Compression, Format, Http, Tls};
use super::encode::Encoded;
use super::{Verdict, retry, secret, sign};

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
    /// Time that the target asks to wait.
    pub retry_after: Option<Duration>,
    /// The beginning of its body.
    pub text: String,
}

impl Answer {
    /// Returns the meaning of the answer.
    pub fn verdict(&self) -> Verdict {
        Verdict::of(self.status)
    }
}

/// Why no answer came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SendError(pub String);

/// A client of one target. It keeps its connection while the target's certificates stay the same.
#[derive(Debug)]
pub struct Client {
    http: Http,
    agent: Mutex<Option<(Digest, Agent)>>,
}

impl Client {
    /// Creates the client of an endpoint.
    pub fn new(http: Http) -> Self {
        Self { http, agent: Mutex::new(None) }
    }

    /// Sends a delivery with its idempotency key. Blocks until the answer is there.
    ///
    /// # Errors
    /// When a file of the configuration cannot be used, or the target gives no answer.
    pub fn send(&self, key: &str, body: &Encoded) -> Result<Answer, SendError> {
        let http = &self.http;
        let agent = self.agent().map_err(SendError)?;
        let kind = match http.format {
            Format::Outcrop => "application/x-ndjson",
            Format::Cloudevents => "application/cloudevents+json; charset=UTF-8",
            Format::CloudeventsBatch => "application/cloudevents-batch+json; charset=UTF-8",
        };
        let mut request = agent.post(http.url.uri()).header("Content-Type", kind).header("Idempotency-Key", key);
        match http.compression {
            Compression::Zstd => request = request.header("Content-Encoding", "zstd"),
            Compression::Gzip => request = request.header("Content-Encoding", "gzip"),
            Compression::None => {}
        }
        let credentials = self.credentials().map_err(SendError)?;
        if let Some(Credentials { header, value, .. }) = &credentials {
            request = request.header(*header, value);
        }
        if let Some(path) = &http.signing_secret_file {
            let secret = secret::read_text(path).map_err(SendError)?;
            for (name, value) in sign::headers(&secret, key, clock::timestamp().as_second(), &body.0) {
                request = request.header(name, value);
            }
        }
        let mut response = request.send(body.0.as_slice()).map_err(|error| SendError(self.explain(&error)))?;
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
        Ok(Answer { status: response.status().as_u16(), retry_after, text })
    }

    /// Returns an error of a request as one line, without the path of the URL.
    fn explain(&self, error: &ureq::Error) -> String {
        let target = self.http.url.origin();
        let hint = match error {
            ureq::Error::Timeout(_) => format!("no answer within {} s", self.http.timeout.as_secs()),
            ureq::Error::HostNotFound => {
                "the host name is not known; check http.url, and DNS in this network".to_owned()
            }
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) => {
                format!("{error}; check the certificates of the target, and http.tls")
            }
            error => error.to_string(),
        };
        format!("{target}: {hint}")
    }

    /// Returns the header with the credentials.
    fn credentials(&self) -> Result<Option<Credentials<'_>>, String> {
        let Some(authorization) = &self.http.authorization else { return Ok(None) };
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
    fn agent(&self) -> Result<Agent, String> {
        let http = &self.http;
        let proxy = http.proxy_url();
        let files = if http.url.is_secure() { Files::read(&http.tls)? } else { Files::default() };
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
            Some(url) => Some(ureq::Proxy::new(&url).map_err(|_| "http.proxy.url: not a URL of a proxy".to_owned())?),
        };
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(http.timeout))
            .user_agent(concat!("outcrop/", env!("CARGO_PKG_VERSION")))
            .proxy(proxy);
        if http.url.is_secure() {
            config = config.tls_config(files.tls()?);
        }
        let agent: Agent = config.build().into();
        *known = Some((digest, agent.clone()));
        Ok(agent)
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
struct Files {
    ca: Vec<u8>,
    client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Files {
    fn read(tls: &Tls) -> Result<Self, String> {
        let ca = match &tls.ca_file {
            Some(path) => secret::read(path)?,
            None => {
                let named = std::env::var("SSL_CERT_FILE").ok();
                let known = named.iter().map(String::as_str).chain(SYSTEM_CERTIFICATES);
                let found = known.map(Path::new).find(|path| path.exists());
                secret::read(found.ok_or("this system has no CA certificates; set http.tls.caFile")?)?
            }
        };
        let client = match (&tls.cert_file, &tls.key_file) {
            (Some(certificate), Some(key)) => Some((secret::read(certificate)?, secret::read(key)?)),
            _ => None,
        };
        Ok(Self { ca, client })
    }

    fn tls(&self) -> Result<TlsConfig, String> {
        let roots = certificates(&self.ca, "http.tls.caFile")?;
        let client = match &self.client {
            None => None,
            Some((chain, key)) => {
                let key = PrivateKey::from_pem(key).map_err(|_| "http.tls.keyFile: no private key in PEM")?;
                Some(ClientCert::new_with_certs(&certificates(chain, "http.tls.certFile")?, key))
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
