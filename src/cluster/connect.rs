//! Where the API server is.

use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// A client of the API server: as `kubeconfig` says; without it as `KUBECONFIG` or the home directory's file does, or by the service
/// account of the pod that this runs in.
///
/// # Errors
/// Where none of these says how to reach it. Nothing is sent yet.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, String> {
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| error.to_string())?;
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            config.map_err(|error| format!("{}: {error}", path.display()))?
        }
        None => Config::infer().await.map_err(|error| error.to_string())?,
    };
    Client::try_from(config).map_err(|error| error.to_string())
}
