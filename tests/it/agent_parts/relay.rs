//! A relay in front of containerd's socket: it records the called methods, and makes some of them fail or hang.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tower::ServiceExt as _;

use crate::runtime_parts::Containerd;

/// The fault of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// containerd responds with an error.
    Fails,
    /// containerd does not respond.
    Hangs,
}

/// The end of a method's path, and the namespace that it is called for, if only that.
type Target = (&'static str, Option<&'static str>);

/// The state of the relay.
#[derive(Clone, Default)]
struct Shared {
    /// By method and namespace, the number of calls.
    calls: Arc<Mutex<BTreeMap<(String, String), usize>>>,
    faults: Arc<Mutex<BTreeMap<Target, Fault>>>,
}

pub(crate) struct Relay {
    dir: tempfile::TempDir,
    shared: Shared,
    _runtime: tokio::runtime::Runtime,
}

impl Relay {
    pub(crate) fn start(containerd: &Containerd) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shared = Shared::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener =
            runtime.block_on(async { tokio::net::UnixListener::bind(dir.path().join("relay.sock")).unwrap() });
        runtime.spawn(relay(listener, containerd.socket(), shared.clone()));
        Self { dir, shared, _runtime: runtime }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("relay.sock")
    }

    /// The paths of all methods that were called.
    pub(crate) fn methods(&self) -> BTreeSet<String> {
        self.shared.calls.lock().unwrap().keys().map(|(method, _)| method.clone()).collect()
    }

    /// How often a method was called for a namespace, which is empty for methods without one.
    pub(crate) fn calls(&self, method: &str, namespace: &str) -> usize {
        let calls = self.shared.calls.lock().unwrap();
        let of = calls.iter().filter(|((path, of), _)| path.ends_with(method) && of == namespace);
        of.map(|(_, count)| count).sum()
    }

    /// Lets a method fail or hang from now on, for one namespace or for all.
    pub(crate) fn fault(&self, method: &'static str, namespace: Option<&'static str>, fault: Fault) {
        self.shared.faults.lock().unwrap().insert((method, namespace), fault);
    }

    /// Ends all faults.
    pub(crate) fn heal(&self) {
        self.shared.faults.lock().unwrap().clear();
    }
}

impl Shared {
    /// Notes a call, and returns what happens to it.
    fn note(&self, path: &str, namespace: &str) -> Option<Fault> {
        *self.calls.lock().unwrap().entry((path.to_owned(), namespace.to_owned())).or_default() += 1;
        let is = |(method, of): &Target| path.ends_with(method) && of.is_none_or(|of| of == namespace);
        let faults = self.faults.lock().unwrap();
        faults.iter().find(|(target, _)| is(target)).map(|(_, fault)| *fault)
    }
}

async fn relay(from: tokio::net::UnixListener, to: PathBuf, shared: Shared) {
    let connector = tower::service_fn(move |_| {
        let to = to.clone();
        async move { tokio::net::UnixStream::connect(to).await.map(hyper_util::rt::TokioIo::new) }
    });
    let channel =
        tonic::transport::Endpoint::from_static("http://containerd.invalid").connect_with_connector_lazy(connector);
    let routes = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let namespace = request.headers().get("containerd-namespace").map(|value| value.to_str().unwrap().to_owned());
        let fault = shared.note(request.uri().path(), &namespace.unwrap_or_default());
        let channel = channel.clone();
        async move {
            match fault {
                // A plugin that is down: containerd itself works.
                Some(Fault::Fails) => tonic::Status::unavailable("for the test").into_http(),
                Some(Fault::Hangs) => std::future::pending().await,
                None => {
                    let answer = channel.oneshot(request.map(tonic::body::Body::new)).await.unwrap();
                    answer.map(axum::body::Body::new)
                }
            }
        }
    });
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(from);
    let routes = tonic::service::Routes::from(routes);
    tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming).await.unwrap();
}
