//! The certificate that is served: read again when its files change, while it is served.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};

use crate::lock::lock;
use crate::stamp::Stamp;

/// Why a certificate is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of PEM.
    #[error("reading {path}: {reason}; expected a certificate chain and its private key in PEM", path = .path.display())]
    Pem {
        /// Which one.
        path: PathBuf,
        /// What is the matter.
        reason: rustls::pki_types::pem::Error,
    },
    /// They do not belong together, or cannot be used.
    #[error("loading certificate {certificate} with key {key}: {reason}", certificate = .certificate.display(), key = .key.display())]
    Pair {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is the matter.
        reason: rustls::Error,
    },
}

/// What is spoken over TLS, as ALPN calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `h2`: gRPC.
    Http2,
    /// `http/1.1`: the API.
    Http1,
}

/// The certificate that is served now.
#[derive(Debug)]
struct Served(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// The two files, as they were when they were looked into.
type Stamps = (Option<Stamp>, Option<Stamp>);

/// A certificate chain and its key, read again when the files change. A pair that is bad, or half replaced, leaves the one before in use.
#[derive(Debug)]
pub struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    served: Arc<Served>,
    seen: Mutex<(Stamps, Option<String>)>,
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read, or they do not belong together.
    pub fn open(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let stamps = (Stamp::of(certificate), Stamp::of(key));
        let pair = read_pair(certificate, key)?;
        Ok(Arc::new(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            served: Arc::new(Served(RwLock::new(Arc::new(pair)))),
            seen: Mutex::new((stamps, None)),
        }))
    }

    /// Looks at the files, and reads them if they have changed. Two calls of `stat` where they have not.
    pub fn refresh(&self) {
        let mut seen = self.seen();
        let now = (Stamp::of(&self.certificate), Stamp::of(&self.key));
        if seen.0 == now {
            return;
        }
        match read_pair(&self.certificate, &self.key) {
            Ok(pair) => {
                *self.served.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                *seen = (now, None);
            }
            Err(error) => *seen = (now, Some(format!("{error}; the last valid certificate stays in use"))),
        }
    }

    /// What is wrong with the files, if anything is.
    pub fn problem(&self) -> Option<String> {
        self.seen().1.clone()
    }

    fn seen(&self) -> MutexGuard<'_, (Stamps, Option<String>)> {
        lock(&self.seen)
    }

    /// How TLS is spoken with it.
    ///
    /// # Errors
    /// When the provider of cryptography lacks what TLS needs; ring does not.
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
