//! The identity of the cluster: the UID of the namespace `kube-system`, which survives a new name and a new API server.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::Api;

use super::connect::error_message;

/// The namespace that every cluster has and that nobody can delete.
const NAMESPACE: &str = "kube-system";

/// How long the API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the cluster is not identified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The API server refuses the request. It will refuse the next one, too.
    #[error("{0}")]
    Refused(String),
    /// The API server did not respond. Try again.
    #[error("{0}")]
    Unavailable(String),
}

/// Returns the UID of the namespace `kube-system`. Only its metadata is requested.
///
/// # Errors
/// When the API server refuses the request, or does not answer within five seconds.
pub async fn cluster_uid(client: &Client) -> Result<String, IdentityError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let answer = tokio::time::timeout(PATIENCE, namespaces.get_metadata(NAMESPACE)).await;
    let late = |_| IdentityError::Unavailable(format!("no response within {} s", PATIENCE.as_secs()));
    let object = answer.map_err(late)?.map_err(|error| match &error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404) => {
            IdentityError::Refused(error_message(&error))
        }
        _ => IdentityError::Unavailable(error_message(&error)),
    })?;
    let uid = object.metadata.uid.filter(|uid| !uid.is_empty());
    uid.ok_or_else(|| IdentityError::Refused(format!("namespace {NAMESPACE} has no UID")))
}
