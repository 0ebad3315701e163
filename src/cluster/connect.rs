//! Connecting to the API server, and the messages of its errors.

use std::path::Path;

use http::header::ACCEPT;
use http::{HeaderValue, Request};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tower::service_fn;

/// Returns a client of the API server. The configuration is the file `kubeconfig`; without it the files that kubectl reads; without those, and if no
/// context is given, the service account of the pod in which this process runs.
///
/// # Errors
/// When there is no usable configuration. Nothing is sent yet.
pub async fn connect(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Client, String> {
    Client::try_from(config(kubeconfig, context).await?).map_err(|error| error_message(&error))
}

/// Returns the port of the API server to which [`connect`] would connect.
///
/// # Errors
/// When there is no usable configuration.
pub async fn api_server_port(kubeconfig: Option<&Path>) -> Result<u16, String> {
    let url = config(kubeconfig, None).await?.cluster_url;
    let default = if url.scheme_str() == Some("http") { 80 } else { 443 };
    Ok(url.port_u16().unwrap_or(default))
}

async fn config(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Config, String> {
    let options = KubeConfigOptions { context: context.map(ToOwned::to_owned), ..KubeConfigOptions::default() };
    Ok(match kubeconfig {
        Some(path) => {
            let wrong = |error| match error {
                // The error of the library repeats the path.
                KubeconfigError::ReadConfig(error, _) => format!("reading the kubeconfig {}: {error}", path.display()),
                error => format!("reading the kubeconfig {}: {error}", path.display()),
            };
            let file = Kubeconfig::read_from(path).map_err(wrong)?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(wrong)?
        }
        None if context.is_some() || has_kubeconfig() => {
            let wrong = |error| match error {
                KubeconfigError::ReadConfig(error, path) => {
                    format!("reading the kubeconfig {}: {error}", path.display())
                }
                error => format!("reading the kubeconfig: {error}"),
            };
            Config::from_kubeconfig(&options).await.map_err(wrong)?
        }
        None if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() => {
            return Err("there is no kubeconfig, and this is not a pod".to_owned());
        }
        None => Config::incluster().map_err(|error| format!("reading the service account of the pod: {error}"))?,
    })
}

/// Returns a client that requests only the metadata of every object
/// ([`PartialObjectMetadata`](https://kubernetes.io/docs/reference/using-api/api-concepts/#metadata-only-fetches)).
pub(super) fn metadata_only(client: &Client) -> Client {
    let request_metadata = |mut request: Request<Body>| {
        let is_watch = request.uri().query().unwrap_or_default().split('&').any(|part| part == "watch=true");
        let list = if is_watch { "" } else { "List" };
        let accept = format!("application/json;as=PartialObjectMetadata{list};g=meta.k8s.io;v=v1");
        if let Ok(accept) = HeaderValue::try_from(accept) {
            request.headers_mut().insert(ACCEPT, accept);
        }
        request
    };
    let (client, namespace) = (client.clone(), client.default_namespace().to_owned());
    let send = move |request| {
        let client = client.clone();
        async move { client.send(request_metadata(request)).await }
    };
    Client::new(service_fn(send), namespace)
}

/// Returns whether there is a kubeconfig where kubectl looks for one.
pub fn has_kubeconfig() -> bool {
    let home = || std::env::home_dir().is_some_and(|home| home.join(".kube/config").exists());
    std::env::var_os("KUBECONFIG").is_some() || home()
}

/// Returns the message of an error of the API server in one line.
pub fn error_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => {
            // The message of a transport only says that the transport failed: the innermost cause is what helps.
            let mut inner = std::error::Error::source(other);
            while let Some(deeper) = inner.and_then(std::error::Error::source) {
                inner = Some(deeper);
            }
            match (other, inner) {
                (kube::Error::Service(_) | kube::Error::HyperError(_), Some(inner)) => {
                    format!("the API server did not respond: {inner}")
                }
                (_, Some(inner)) => format!("{other}: {inner}"),
                (_, None) => other.to_string(),
            }
        }
    }
}
