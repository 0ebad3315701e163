//! The served certificate, reloaded when its files change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use outcrop_proto::clock;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};
use tracing::{info, warn};

use crate::lock::lock;
use crate::stamp::Stamp;

/// Time before its expiry from which on a certificate is reported as a problem.
const EXPIRES_SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read, or is not PEM.
    #[error("reading {path}: {reason}; expected a certificate chain and its private key in PEM", path = .path.display())]
    Pem {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        reason: rustls::pki_types::pem::Error,
    },
    /// The certificate and the key do not belong together, or are of a kind that is not supported.
    #[error(
        "loading certificate {certificate} with key {key}: {reason}",
        certificate = .certificate.display(),
        key = .key.display()
    )]
    Pair {
        /// The path of the chain.
        certificate: PathBuf,
        /// The path of the key.
        key: PathBuf,
        /// The cause.
        reason: rustls::Error,
    },
}

/// The protocol that is spoken over TLS, for ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `h2`: gRPC.
    Http2,
    /// `http/1.1`: the API.
    Http1,
}

/// The certificate that is served now.
#[derive(Debug)]
struct Served(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// The stamps of the two files when they were last read.
type Stamps = (Option<Stamp>, Option<Stamp>);

/// The state of the files.
#[derive(Debug)]
struct Files {
    stamps: Stamps,
    /// Why they could not be reloaded.
    error: Option<String>,
    /// When the served certificate expires; `None` where its date cannot be read.
    expires: Option<Timestamp>,
}

/// A certificate chain and its key, reloaded when the files change. A pair that is invalid, or of which only one file was replaced so far, leaves the
/// previous pair in use.
#[derive(Debug)]
pub struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    served: Arc<Served>,
    files: Mutex<Files>,
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// When a file cannot be read, or the two do not belong together.
    pub fn open(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let stamps = (Stamp::of(certificate), Stamp::of(key));
        let pair = read_pair(certificate, key)?;
        let expires = expiry(&pair);
        Ok(Arc::new(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            served: Arc::new(Served(ArcSwap::from_pointee(pair))),
            files: Mutex::new(Files { stamps, error: None, expires }),
        }))
    }

    /// Reloads the files if they have changed. Costs two calls of `stat` if they have not.
    pub fn refresh(&self) {
        let mut files = self.files();
        let stamps = (Stamp::of(&self.certificate), Stamp::of(&self.key));
        if files.stamps == stamps {
            return;
        }
        let certificate = self.certificate.display();
        match read_pair(&self.certificate, &self.key) {
            Ok(pair) => {
                let expires = expiry(&pair);
                info!(%certificate, expires = expires.map(tracing::field::display), "certificate reloaded");
                *files = Files { stamps, error: None, expires };
                self.served.0.store(Arc::new(pair));
            }
            Err(error) => {
                warn!(%certificate, %error, "certificate not reloaded");
                files.stamps = stamps;
                files.error = Some(format!("{error}; the last valid certificate stays in use"));
            }
        }
    }

    /// Returns the path of the certificate.
    pub fn path(&self) -> &Path {
        &self.certificate
    }

    /// Returns what is wrong with the files or with the served certificate, if anything is.
    pub fn problem(&self) -> Option<String> {
        let files = self.files();
        let certificate = self.certificate.display();
        let expiry = files.expires.and_then(|expires| expiry_problem(expires, clock::timestamp()));
        let expiry = expiry.map(|problem| format!("the certificate {certificate} {problem}"));
        match (files.error.clone(), expiry) {
            (Some(error), Some(expiry)) => Some(format!("{error}; {expiry}")),
            (error, expiry) => error.or(expiry),
        }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        lock(&self.files)
    }

    /// Returns the configuration of a TLS server that serves this certificate.
    ///
    /// # Errors
    /// When the cryptography provider lacks a TLS version; ring does not.
    pub fn config(&self, protocol: Protocol) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.served) as Arc<dyn ResolvesServerCert>);
        let name: &[u8] = match protocol {
            Protocol::Http2 => b"h2",
            Protocol::Http1 => b"http/1.1",
        };
        config.alpn_protocols = vec![name.to_vec()];
        Ok(config)
    }
}

fn read_pair(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |reason| TlsError::Pem { path, reason }
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).map_err(pem(certificate))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
    let provider: CryptoProvider = ring::default_provider();
    CertifiedKey::from_der(chain, private, &provider).map_err(|reason| TlsError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        reason,
    })
}

/// Returns when a pair's certificate expires.
fn expiry(pair: &CertifiedKey) -> Option<Timestamp> {
    let (_, certificate) = x509_parser::parse_x509_certificate(pair.cert.first()?).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// Returns what is wrong with a certificate that expires at this time. The text stays the same until the certificate has expired.
fn expiry_problem(expires: Timestamp, now: Timestamp) -> Option<String> {
    if expires <= now {
        return Some(format!("expired at {expires}; replace its files"));
    }
    (expires.duration_since(now) < EXPIRES_SOON).then(|| format!("expires soon, at {expires}; replace its files"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A certificate that expires after so many hours, and its key, PEM.
    fn pair(hours: i64) -> (String, String) {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let now = time::OffsetDateTime::from_unix_timestamp(clock::timestamp().as_second()).unwrap();
        (params.not_before, params.not_after) = (now - time::Duration::days(90), now + time::Duration::hours(hours));
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_is_a_problem_two_weeks_before_it_expires_until_it_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let [certificate, key] = ["tls.crt", "tls.key"].map(|name| dir.path().join(name));
        let put = |hours| {
            let (chain, private) = pair(hours);
            fs::write(&certificate, chain).unwrap();
            fs::write(&key, private).unwrap();
        };
        put(15 * 24);
        let served = Certificate::open(&certificate, &key).unwrap();
        assert_eq!(served.problem(), None);
        for (hours, expected) in [(13 * 24, Some("expires soon, at ")), (-1, Some("expired at ")), (100 * 24, None)] {
            put(hours);
            served.refresh();
            let problem = served.problem();
            assert_eq!(problem.is_some(), expected.is_some(), "{hours}: {problem:?}");
            assert!(problem.unwrap_or_default().contains(expected.unwrap_or_default()), "{hours}");
        }
        // An invalid key is reported, and the previous certificate stays in use.
        fs::write(&key, "no key").unwrap();
        served.refresh();
        let problem = served.problem().unwrap();
        assert!(
            problem.contains("tls.key") && problem.contains("the last valid certificate stays in use"),
            "{problem}"
        );
    }
}
