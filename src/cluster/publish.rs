//! The one thing that is written in the cluster: the authority of our certificates, in a ConfigMap that agents mount.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};

use super::connect::words;

/// The key that agents look for.
const KEY: &str = "ca.crt";

/// How often it is looked whether it still stands there.
const INTERVAL: Duration = Duration::from_secs(60);

/// Most bytes of an authority's file: a few certificates.
const MAX_SIZE: u64 = 256 << 10;

/// Keeps what the file `authority` has, PEM, in the ConfigMap of this name, which is there already. `told` hears how each try went.
pub async fn keep_published(
    client: Client,
    namespace: &str,
    name: &str,
    authority: &Path,
    told: impl Fn(Option<String>),
) {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let mut pause = Duration::from_secs(1);
    loop {
        let outcome = match read(authority) {
            Ok(ca) => publish(&api, name, &ca).await.map_err(|error| words(&error)),
            Err(error) => Err(format!("{}: {error}", authority.display())),
        };
        pause = if outcome.is_ok() { INTERVAL } else { (pause * 2).min(INTERVAL) };
        told(
            outcome
                .err()
                .map(|error| format!("publishing the CA certificate in ConfigMap {namespace}/{name}: {error}")),
        );
        tokio::time::sleep(pause).await;
    }
}

fn read(authority: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(authority)?.take(MAX_SIZE).read_to_string(&mut text)?;
    // A file that holds more than it should is not for everybody's eyes.
    if text.contains("PRIVATE KEY-----") {
        return Err(std::io::Error::other("the file contains a private key, which must not be published"));
    }
    match text.contains("-----BEGIN CERTIFICATE-----") {
        true => Ok(text),
        false => Err(std::io::Error::other("the file contains no certificate")),
    }
}

async fn publish(api: &Api<ConfigMap>, name: &str, ca: &str) -> Result<(), kube::Error> {
    let data = api.get(name).await?.data.unwrap_or_default();
    if data.get(KEY).map(String::as_str) != Some(ca) {
        let wanted =
            ConfigMap { data: Some(BTreeMap::from([(KEY.to_owned(), ca.to_owned())])), ..ConfigMap::default() };
        api.patch(name, &PatchParams::default(), &Patch::Merge(wanted)).await?;
    }
    Ok(())
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
