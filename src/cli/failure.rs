//! Explains why a request failed before the aggregator answered: one line with the cause and a hint.

use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as TlsError, InvalidMessage};
use ureq::http::Uri;

/// Hint for an address at which nothing answers.
const ABSENT: &str = "check that the aggregator is running and that this is the address of its API (--api, by default port 7480), or pass --server URL";

/// Hint for an address at which something else answers.
const OTHER_PORT: &str =
    "check the port: the API is at --api, by default port 7480; the port of --listen is for agents";

/// Returns the cause and the hint for a request to the URL `base` that failed.
pub(super) fn explain(base: &str, error: &ureq::Error) -> String {
    let secure = base.starts_with("https://");
    let (cause, hint) = match error {
        ureq::Error::Io(error) => match inner(error) {
            Some(error) => tls(base, error),
            None => transport(error, secure),
        },
        ureq::Error::Rustls(error) => tls(base, error),
        ureq::Error::HostNotFound => host_not_found(),
        ureq::Error::Timeout(_) => ("timed out".to_owned(), ABSENT.to_owned()),
        ureq::Error::Protocol(_) | ureq::Error::Http(_) => not_http(secure),
        other => (other.to_string(), ABSENT.to_owned()),
    };
    format!("requesting {base}: {cause}; {hint}")
}

/// Returns the TLS error inside of an I/O error.
fn inner(error: &io::Error) -> Option<&TlsError> {
    let mut inner: &(dyn std::error::Error + 'static) = error.get_ref()?;
    loop {
        if let Some(error) = inner.downcast_ref::<TlsError>() {
            return Some(error);
        }
        inner = inner.source()?;
    }
}

fn transport(error: &io::Error, secure: bool) -> (String, String) {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            ("connection refused, so nothing listens there".to_owned(), ABSENT.to_owned())
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => not_http(secure),
        io::ErrorKind::TimedOut => ("timed out".to_owned(), ABSENT.to_owned()),
        // The resolver's errors have no kind of their own.
        _ if error.to_string().starts_with("failed to lookup address") => host_not_found(),
        _ => (error.to_string(), ABSENT.to_owned()),
    }
}

fn host_not_found() -> (String, String) {
    ("the host name was not found".to_owned(), "check --server".to_owned())
}

/// Returns the cause and the hint for a server that does not answer in HTTP.
fn not_http(secure: bool) -> (String, String) {
    let cause = "the server closed the connection or did not answer in HTTP/1.1".to_owned();
    let hint = if secure {
        OTHER_PORT.to_owned()
    } else {
        format!("if it serves TLS, pass https:// and --ca FILE; otherwise {OTHER_PORT}")
    };
    (cause, hint)
}

fn tls(base: &str, error: &TlsError) -> (String, String) {
    let uri: Option<Uri> = base.parse().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    match error {
        TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => (
            "the server does not speak TLS".to_owned(),
            format!(
                "pass {} if it is on this machine; otherwise {OTHER_PORT}",
                base.replacen("https://", "http://", 1)
            ),
        ),
        TlsError::NoApplicationProtocol | TlsError::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            ("the server does not serve HTTP/1.1".to_owned(), OTHER_PORT.to_owned())
        }
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => (
            "the certificate was not issued by a CA in --ca".to_owned(),
            "pass the aggregator's CA certificate: ca.crt in its data directory, or in the published ConfigMap"
                .to_owned(),
        ),
        TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => (
            format!("the certificate is not valid for {host:?}"),
            "pass a --server with a name that the certificate contains; outcrop aggregator adds names with --tls-name"
                .to_owned(),
        ),
        TlsError::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            ("the certificate has expired".to_owned(), "replace it, and check the clocks of both machines".to_owned())
        }
        other => (format!("TLS: {other}"), "check --server and --ca".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_one_line_and_a_hint() {
        let io = |kind: io::ErrorKind| ureq::Error::Io(kind.into());
        let tls = |error: TlsError| ureq::Error::Io(io::Error::new(io::ErrorKind::InvalidData, error));
        for (base, error, cause, hint) in [
            ("http://h:1", io(io::ErrorKind::ConnectionRefused), "connection refused", "by default port 7480"),
            ("http://h:1", io(io::ErrorKind::UnexpectedEof), "did not answer in HTTP/1.1", "pass https:// and --ca"),
            ("https://h:1", io(io::ErrorKind::ConnectionReset), "did not answer in HTTP/1.1", "is for agents"),
            ("http://h:1", ureq::Error::HostNotFound, "was not found", "--server"),
            (
                "https://h:1",
                tls(TlsError::InvalidMessage(InvalidMessage::InvalidContentType)),
                "does not speak TLS",
                "pass http://h:1",
            ),
            (
                "https://h:1",
                tls(TlsError::AlertReceived(AlertDescription::NoApplicationProtocol)),
                "does not serve HTTP/1.1",
                "is for agents",
            ),
            (
                "https://h:1",
                tls(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)),
                "not issued by a CA in --ca",
                "ca.crt",
            ),
            (
                "https://h:1",
                tls(TlsError::InvalidCertificate(CertificateError::NotValidForName)),
                "not valid for \"h\"",
                "--tls-name",
            ),
            ("https://h:1", tls(TlsError::InvalidCertificate(CertificateError::Expired)), "has expired", "clocks"),
        ] {
            let text = explain(base, &error);
            let (said, hinted) = text.split_once("; ").unwrap();
            assert!(said.starts_with(&format!("requesting {base}: ")), "{text}");
            assert!(said.contains(cause) && hinted.contains(hint) && text.lines().count() == 1, "{text}");
        }
    }
}
