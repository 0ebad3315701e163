//! The closed list of methods that are ever called.
//!
//! The holder of containerd's socket is root on the node, and the API has no read-only mode. So each request passes this guard on its way
//! to the connection, and the guard refuses every method that is not on the list, whatever code called it.

use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};

/// The allowed methods. None of them changes anything in containerd or on the node.
pub const METHODS: &[&str] = &[
    "/containerd.services.version.v1.Version/Version",
    "/containerd.services.introspection.v1.Introspection/Plugins",
    "/containerd.services.namespaces.v1.Namespaces/List",
    "/containerd.services.containers.v1.Containers/Get",
    "/containerd.services.containers.v1.Containers/List",
    "/containerd.services.containers.v1.Containers/ListStream",
    "/containerd.services.tasks.v1.Tasks/List",
    "/containerd.services.snapshots.v1.Snapshots/Stat",
    "/containerd.services.snapshots.v1.Snapshots/Usage",
    "/containerd.services.snapshots.v1.Snapshots/Mounts",
    "/containerd.services.content.v1.Content/List",
    "/containerd.services.content.v1.Content/Read",
    "/containerd.services.events.v1.Events/Subscribe",
];

/// A connection that allows [`METHODS`] only.
#[derive(Clone, Debug)]
pub(super) struct ReadOnly<S>(pub(super) S);

impl<S> Service<http::Request<Body>> for ReadOnly<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if METHODS.contains(&path) {
            return Box::pin(self.0.call(request));
        }
        let refusal = Status::permission_denied(format!("{path} is not on the list of methods that only read"));
        Box::pin(async move { Ok(refusal.into_http()) })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use containerd_client::services::v1::containers_client::ContainersClient;
    use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
    use containerd_client::services::v1::snapshots::{MountsRequest, PrepareSnapshotRequest, ViewSnapshotRequest};
    use containerd_client::services::v1::{DeleteContainerRequest, GetContainerRequest};
    use tonic::Code;

    use super::*;

    /// Stands where the connection is, and writes down what reaches it.
    #[derive(Clone, Default)]
    struct Far(Arc<Mutex<Vec<String>>>);

    impl Service<http::Request<Body>> for Far {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            self.0.lock().unwrap().push(request.uri().path().to_owned());
            std::future::ready(Ok(Status::unimplemented("reached").into_http()))
        }
    }

    #[tokio::test]
    async fn a_method_that_changes_something_never_reaches_the_connection() {
        let far = Far::default();
        let guarded = ReadOnly(far.clone());
        let mut containers = ContainersClient::new(guarded.clone());
        let mut snapshots = SnapshotsClient::new(guarded);

        let refused = [
            containers.delete(DeleteContainerRequest::default()).await.unwrap_err(),
            snapshots.prepare(PrepareSnapshotRequest::default()).await.unwrap_err(),
            snapshots.view(ViewSnapshotRequest::default()).await.unwrap_err(),
        ];
        for status in refused {
            assert_eq!(status.code(), Code::PermissionDenied);
            assert!(status.message().contains("not on the list"), "{status}");
        }
        assert!(far.0.lock().unwrap().is_empty());

        assert_eq!(containers.get(GetContainerRequest::default()).await.unwrap_err().code(), Code::Unimplemented);
        assert_eq!(snapshots.mounts(MountsRequest::default()).await.unwrap_err().code(), Code::Unimplemented);
        assert_eq!(far.0.lock().unwrap().len(), 2);
    }

    #[test]
    fn every_method_on_the_list_only_reads_by_its_name() {
        for method in METHODS {
            let verb = method.rsplit('/').next().unwrap();
            assert!(
                ["Version", "Plugins", "Get", "List", "ListStream", "Stat", "Usage", "Mounts", "Read", "Subscribe"]
                    .contains(&verb),
                "{method}"
            );
        }
    }
}
