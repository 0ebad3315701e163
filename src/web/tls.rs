//! The certificate that a listener shows, read again when its files change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that is not readable, or no PEM.
    #[error("{path}: {source}", path = .path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What is the matter.
        source: pem::Error,
    },
    /// A key that is not the certificate's, or of an unknown kind.
    #[error("the certificate {certificate} and the key {key}: {source}", certificate = .certificate.display(), key = .key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is the matter.
        source: tokio_rustls::rustls::Error,
    },
}

/// A certificate chain and its key, as PEM files. A pair that is put in their place counts from the next connection on; one that is
/// none leaves the one before in force.
#[derive(Clone, Debug)]
pub struct Certificates {
    certificate: PathBuf,
    key: PathBuf,
    protocols: Vec<Vec<u8>>,
    current: Arc<Mutex<(Stamp, Arc<ServerConfig>)>>,
}

type Stamp = [Option<SystemTime>; 2];

fn stamp(certificate: &Path, key: &Path) -> Stamp {
    [certificate, key].map(|path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok())
}

impl Certificates {
    /// Reads both files. `protocols` are those that are agreed on while greeting (ALPN): `http/1.1` for the API, `h2` for gRPC.
    ///
    /// # Errors
    /// When one is not readable, or they do not belong together.
    pub fn open(certificate: &Path, key: &Path, protocols: &[&str]) -> Result<Self, TlsError> {
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let current = (stamp(certificate, key), Arc::new(read(certificate, key, &protocols)?));
        let current = Arc::new(Mutex::new(current));
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), protocols, current })
    }

    /// Who greets the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.certificate, &self.key);
        if stamp != current.0
            && let Ok(config) = read(&self.certificate, &self.key, &self.protocols)
        {
            *current = (stamp, Arc::new(config));
        }
        Arc::clone(&current.1).into()
    }
}

fn read(certificate: &Path, key: &Path, protocols: &[Vec<u8>]) -> Result<ServerConfig, TlsError> {
    let broken = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate).map_err(broken(certificate))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(broken(certificate))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(broken(key))?;
    let pair = |source| TlsError::Pair { certificate: certificate.to_owned(), key: key.to_owned(), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(pair)?;
    config.alpn_protocols = protocols.to_vec();
    Ok(config)
}
