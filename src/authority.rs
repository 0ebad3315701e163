//! A certificate authority of the aggregator's own, for operators who have none. Its key never leaves the data directory; agents receive its certificate.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outcrop_proto::clock;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Validity of the authority, in days. Its key is as well protected as everything else in the data directory.
const AUTHORITY_DAYS: i64 = 3650;

/// Validity of a certificate, in days.
const CERTIFICATE_DAYS: i64 = 90;

/// Time after which a running aggregator issues itself a new certificate. It also does so at each start.
pub(crate) const RENEWED: Duration = Duration::from_secs(30 * 24 * 3600);

/// Names that are in every certificate: the local end of a tunnel.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Why no certificate could be issued.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file.
    #[error("accessing {path}: {source}", path = .path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A name, or a key that was kept.
    #[error("creating a certificate in {path}: {source}", path = .path.display())]
    Certificate {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: rcgen::Error,
    },
}

/// The files of a certificate and of its authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    /// Certificate, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// Certificate of the authority, PEM, with which clients verify the certificate.
    pub authority: PathBuf,
}

impl Authority {
    fn at(dir: &Path) -> Self {
        let [certificate, key, authority] = ["tls.crt", "tls.key", "ca.crt"].map(|name| dir.join(name));
        Self { certificate, key, authority }
    }

    /// Returns the files that an earlier [`certify`] has written, if all of them exist.
    pub(crate) fn existing(dir: &Path) -> Option<Self> {
        let files = Self::at(dir);
        [&files.certificate, &files.key, &files.authority].iter().all(|path| path.exists()).then_some(files)
    }
}

/// Issues a certificate for `names` in `dir`, signed by the authority there. Creates the authority if there is none.
///
/// # Errors
/// When a file cannot be read or written, or a name is invalid.
pub(crate) fn certify(dir: &Path, names: &[String]) -> Result<Authority, AuthorityError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| AuthorityError::File { path, source }
    };
    let wrong = |source| AuthorityError::Certificate { path: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(file(dir))?;
    let (ca_key, files) = (dir.join("ca.key"), Authority::at(dir));
    let Authority { certificate, key, authority: ca } = files.clone();
    let params = authority_params().map_err(wrong)?;
    // The certificate is written last: if it exists, so does its key.
    let authority_key = match fs::metadata(&ca) {
        Ok(_) => {
            let kept = fs::read_to_string(&ca_key).map_err(file(&ca_key))?;
            let kept = KeyPair::from_pem(&kept).map_err(wrong)?;
            // The clock was ahead when it was created: the same key is valid from now on.
            if begins(&ca).is_some_and(|begins| begins > clock::timestamp().as_second()) {
                put(&ca, &params.self_signed(&kept).map_err(wrong)?.pem()).map_err(file(&ca))?;
            }
            kept
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = KeyPair::generate().map_err(wrong)?;
            let pem = params.self_signed(&made).map_err(wrong)?.pem();
            put(&ca_key, &made.serialize_pem()).map_err(file(&ca_key))?;
            put(&ca, &pem).map_err(file(&ca))?;
            made
        }
        Err(error) => return Err(file(&ca)(error)),
    };
    let mut all = names.to_vec();
    all.extend(LOCAL.map(ToOwned::to_owned).into_iter().filter(|name| !names.contains(name)));
    let mut leaf = CertificateParams::new(all).map_err(wrong)?;
    leaf.distinguished_name = named(names.first().map_or("localhost", String::as_str));
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    (leaf.not_before, leaf.not_after) = validity(CERTIFICATE_DAYS);
    let own = KeyPair::generate().map_err(wrong)?;
    let signed = leaf.signed_by(&own, &Issuer::new(params, authority_key)).map_err(wrong)?;
    // Both are on the disk before either is replaced: on a full volume the previous pair stays.
    let staged_key = stage(&key, &own.serialize_pem()).map_err(file(&key))?;
    let staged = stage(&certificate, &signed.pem()).map_err(file(&certificate))?;
    fs::rename(staged_key, &key).map_err(file(&key))?;
    fs::rename(staged, &certificate).map_err(file(&certificate))?;
    Ok(files)
}

/// Returns when a certificate begins to be valid, in seconds since 1970; `None` if it cannot be read.
fn begins(certificate: &Path) -> Option<i64> {
    let text = fs::read(certificate).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&text).ok()?;
    Some(pem.parse_x509().ok()?.validity().not_before.timestamp())
}

fn authority_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = named("Outcrop's own authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = validity(AUTHORITY_DAYS);
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// Returns the validity from a day ago, because clocks differ, for so many days.
fn validity(days: i64) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let now = time::OffsetDateTime::from(clock::now());
    (now - time::Duration::days(1), now + time::Duration::days(days))
}

/// Replaces a file atomically, readable only for its owner.
fn put(path: &Path, text: &str) -> io::Result<()> {
    fs::rename(stage(path, text)?, path)
}

/// Writes the next content of a file beside it, readable only for its owner. Returns the path of the new file.
fn stage(path: &Path, text: &str) -> io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let fresh = PathBuf::from(name);
    let _ = fs::remove_file(&fresh);
    let mut out = fs::File::options().write(true).create_new(true).mode(0o600).open(&fresh)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    Ok(fresh)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_authority_is_made_once_and_certificates_again() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("tls");
        let names = ["outcrop.outcrop.svc".to_owned()];
        let first = certify(&at, &names).unwrap();
        let certificate = fs::read_to_string(&first.certificate).unwrap();
        let second = certify(&at, &names).unwrap();
        assert_eq!(first, second, "the authority is kept");
        assert_ne!(certificate, fs::read_to_string(&second.certificate).unwrap());
        for key in ["ca.key", "tls.key"] {
            assert_eq!(fs::metadata(at.join(key)).unwrap().permissions().mode() & 0o777, 0o600);
        }
        // An authority of a clock that was ahead is valid from now on, with the same key.
        let key = fs::read_to_string(at.join("ca.key")).unwrap();
        let mut params = authority_params().unwrap();
        params.not_before += time::Duration::days(400);
        let ahead = params.self_signed(&KeyPair::from_pem(&key).unwrap()).unwrap().pem();
        fs::write(at.join("ca.crt"), ahead).unwrap();
        let now = clock::timestamp().as_second();
        assert!(begins(&at.join("ca.crt")).unwrap() > now);
        certify(&at, &names).unwrap();
        assert!(begins(&at.join("ca.crt")).unwrap() < now);
        assert_eq!(fs::read_to_string(at.join("ca.key")).unwrap(), key);
        fs::remove_file(at.join("ca.key")).unwrap();
        assert!(certify(&at, &names).unwrap_err().to_string().contains("ca.key"));
        fs::write(at.join("ca.key"), "no key").unwrap();
        assert!(certify(&at, &names).unwrap_err().to_string().contains("creating a certificate in"));
    }
}
