//! Checks of the aggregator's certificate: whether it verifies, for which names, and until when.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use outcrop_agent::doctor::Check;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};
use ureq::http::Uri;

const NAME: &str = "TLS";
const PATIENCE: Duration = Duration::from_secs(10);
const DAY: u64 = 24 * 3600;

/// Remaining days below which a certificate is reported. Self-issued certificates are renewed long before.
const SOON: u64 = 14;

/// Maximum remaining validity that is measured, days.
const FAR: u64 = 36_500;

/// Checks the certificate at the https URL `base`. `agents` is the host name that agents use.
pub(super) fn look(base: &str, roots: &[CertificateDer<'static>], agents: Option<&str>) -> Vec<Check> {
    let now = UnixTime::now().as_secs();
    match shown(base, roots) {
        Err(error) => vec![Check::fail(NAME, error.clone(), advice(&error))],
        Ok(shown) => {
            let name = shown.name.to_str().into_owned();
            let mut checks = vec![judge_end(&name, days(|at| shown.verify(&shown.name, at).is_ok(), now))];
            let called = agents.and_then(|agents| Some((agents, ServerName::try_from(agents.to_owned()).ok()?)));
            if let Some((agents, name)) = called {
                checks.push(match shown.verify(&name, now) {
                    Ok(()) => Check::ok("TLS for agents", format!("the certificate is also valid for {agents}")),
                    Err(error) => Check::fail("TLS for agents", format!("{agents}: {error}"), advice(&error)),
                });
            }
            checks
        }
    }
}

/// A certificate chain that verified during the handshake.
struct Shown {
    name: ServerName<'static>,
    chain: Vec<CertificateDer<'static>>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl Shown {
    fn verify(&self, name: &ServerName<'_>, at: u64) -> Result<(), String> {
        let (end, between) = self.chain.split_first().ok_or("the server sent no certificate")?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        self.verifier.verify_server_cert(end, between, name, &[], at).map(|_| ()).map_err(|error| error.to_string())
    }
}

fn shown(base: &str, roots: &[CertificateDer<'static>]) -> Result<Shown, String> {
    let uri: Uri = base.parse().map_err(|error| format!("{base}: {error}"))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    let (store, provider) = (Arc::new(store), Arc::new(ring::default_provider()));
    let failed = |error: &dyn std::fmt::Display| format!("{base}: {error}");
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(&store), Arc::clone(&provider)).build();
    let verifier = verifier.map_err(|error| failed(&error))?;
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| failed(&error))?.with_root_certificates(store).with_no_client_auth();
    let name = ServerName::try_from(host.clone()).map_err(|error| failed(&error))?;
    let port = uri.port_u16().unwrap_or(443);
    let mut addresses = (host.as_str(), port).to_socket_addrs().map_err(|error| failed(&error))?;
    let address = addresses.next().ok_or_else(|| failed(&"the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| failed(&error))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| failed(&error))?;
    let mut connection = ClientConnection::new(Arc::new(config), name.clone()).map_err(|error| failed(&error))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(|error| failed(&error))?;
    }
    let chain = connection.peer_certificates().unwrap_or_default().iter().map(|of| of.clone().into_owned()).collect();
    Ok(Shown { name, chain, verifier })
}

/// Returns for how many days from `now` a chain verifies, by bisection. The chain must verify now.
fn days(verifies: impl Fn(u64) -> bool, now: u64) -> u64 {
    let (mut good, mut bad) = (0, FAR);
    while bad - good > 1 {
        let middle = good.midpoint(bad);
        if verifies(now + middle * DAY) { good = middle } else { bad = middle }
    }
    good
}

fn judge_end(name: &str, days: u64) -> Check {
    let found = format!("the certificate of {name} is valid for {days} more days");
    if days < SOON {
        Check::warn(
            NAME,
            found,
            "renew the certificate; a self-issued certificate is renewed when the aggregator restarts",
        )
    } else {
        Check::ok(NAME, found)
    }
}

fn advice(error: &str) -> &'static str {
    let error = error.to_ascii_lowercase();
    if error.contains("unknownissuer") || error.contains("badsignature") {
        "the certificate was issued by another CA: check that --ca, or the ConfigMap …-ca, belongs to this aggregator"
    } else if error.contains("expired") || error.contains("not valid yet") || error.contains("notvalidyet") {
        "compare the clocks, then renew the certificate"
    } else if error.contains("not valid for name") || error.contains("notvalidforname") {
        "add the name to the certificate with --tls-name, or tls.extraNames in the chart"
    } else {
        "check that the aggregator's pod is running and that this is the port of its API"
    }
}

#[cfg(test)]
mod tests {
    use outcrop_agent::doctor::Outcome;

    use super::*;

    #[test]
    fn remaining_validity_is_exact_to_the_day() {
        for end in [0, 1, 13, 14, 89, 3650] {
            assert_eq!(days(|at| at < 1_000 + (end + 1) * DAY, 1_000), end);
        }
        assert_eq!(judge_end("x", 13).result, Outcome::Warn);
        assert_eq!(judge_end("x", 14).result, Outcome::Ok);
    }
}
