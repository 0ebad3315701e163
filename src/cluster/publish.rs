//! The one thing that is written in the cluster: the authority of our certificates, in a ConfigMap that agents mount.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};

/// The key that agents look for.
const KEY: &str = "ca.crt";

/// How often it is looked whether it still stands there.
const INTERVAL: Duration = Duration::from_secs(60);

/// Keeps `ca`, PEM, in the ConfigMap of this name, which is there already. `failed` is told how each try went.
pub async fn keep_published(client: Client, namespace: &str, name: &str, ca: &str, told: impl Fn(Option<String>)) {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let mut pause = Duration::from_secs(1);
    loop {
        let outcome = publish(&api, name, ca).await;
        pause = if outcome.is_ok() { INTERVAL } else { (pause * 2).min(INTERVAL) };
        told(
            outcome.err().map(|error| format!("publishing the authority in the ConfigMap {namespace}/{name}: {error}")),
        );
        tokio::time::sleep(pause).await;
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
