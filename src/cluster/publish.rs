//! Publishes the certificate authority in a ConfigMap that agents mount. Nothing else is written in the cluster.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use tracing::info;

use super::connect::error_message;

/// The key of the ConfigMap that agents read.
const KEY: &str = "ca.crt";

/// Time between two checks of the ConfigMap, and the longest time between two attempts.
const INTERVAL: Duration = Duration::from_secs(60);

/// Largest size of the file of the authority, in bytes: a few certificates.
const MAX_SIZE: u64 = 256 << 10;

/// Publishes the file `authority`, PEM, in an existing ConfigMap, and restores it when it changes. `report` receives the outcome of every attempt.
pub async fn keep_published(
    client: Client,
    namespace: &str,
    name: &str,
    authority: &Path,
    report: impl Fn(Option<String>),
) {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let pauses = || ExponentialBuilder::new().with_max_delay(INTERVAL).without_max_times().with_jitter().build();
    let mut retries = pauses();
    loop {
        let outcome = match read(authority) {
            Ok(ca) => publish(&api, name, &ca).await.map_err(|error| error_message(&error)),
            Err(error) => Err(format!("reading {}: {error}", authority.display())),
        };
        if let Ok(true) = outcome {
            info!(namespace, name, "certificate authority published");
        }
        let pause = match &outcome {
            Ok(_) => {
                retries = pauses();
                INTERVAL
            }
            Err(_) => retries.next().unwrap_or(INTERVAL),
        };
        let failed = |error| format!("publishing the CA certificate in ConfigMap {namespace}/{name}: {error}");
        report(outcome.err().map(failed));
        tokio::time::sleep(pause).await;
    }
}

fn read(authority: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(authority)?.take(MAX_SIZE).read_to_string(&mut text)?;
    // The ConfigMap is readable for everybody in the namespace.
    if text.contains("PRIVATE KEY-----") {
        return Err(std::io::Error::other("the file contains a private key, which must not be published"));
    }
    match text.contains("-----BEGIN CERTIFICATE-----") {
        true => Ok(text),
        false => Err(std::io::Error::other("the file contains no certificate")),
    }
}

/// Returns whether the ConfigMap had to be changed.
async fn publish(api: &Api<ConfigMap>, name: &str, ca: &str) -> Result<bool, kube::Error> {
    let data = api.get(name).await?.data.unwrap_or_default();
    if data.get(KEY).map(String::as_str) == Some(ca) {
        return Ok(false);
    }
    let wanted = ConfigMap { data: Some(BTreeMap::from([(KEY.to_owned(), ca.to_owned())])), ..ConfigMap::default() };
    api.patch(name, &PatchParams::default(), &Patch::Merge(wanted)).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_are_published() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.crt");
        let certificate = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n";
        for (text, says) in [
            (certificate.to_owned(), None),
            (format!("{certificate}-----BEGIN EC PRIVATE KEY-----\n"), Some("private key")),
            (String::new(), Some("no certificate")),
        ] {
            std::fs::write(&path, &text).unwrap();
            let read = read(&path).map_err(|error| error.to_string());
            assert_eq!(read.is_err(), says.is_some(), "{text}");
            assert!(read.map_or_else(|error| error.contains(says.unwrap_or_default()), |read| read == text));
        }
        assert!(super::read(&dir.path().join("none")).is_err());
    }
}
