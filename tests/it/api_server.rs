//! A test API server that has a few pods and the namespace `kube-system` only, for tests of how the aggregator handles its
//! responses. `on_cluster` tests a real API server.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;

/// What the API server has.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) pods: Vec<Value>,
    /// Nodes, by name; changes are watched. Without any, the API server does not have the kind.
    pub(crate) nodes: Option<BTreeMap<String, Value>>,
    /// UID of the namespace `kube-system`; requests for it are forbidden without one.
    pub(crate) cluster: Option<String>,
}

/// A running API server, until it is dropped.
pub(crate) struct ApiServer {
    address: SocketAddr,
    pub(crate) objects: Arc<Mutex<Objects>>,
    _runtime: Runtime,
}

impl ApiServer {
    pub(crate) fn start(objects: Objects) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), objects)
    }

    pub(crate) fn start_at(address: SocketAddr, objects: Objects) -> Self {
        let objects = Arc::new(Mutex::new(objects));
        let shared = Arc::clone(&objects);
        let routes = axum::Router::new().fallback(move |request: Request| {
            let answer = answer(&shared, &request);
            async move { answer }
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().accept_http1(true).add_routes(Routes::from(routes));
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, objects, _runtime: runtime }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Writes a kubeconfig that names a server.
pub(crate) fn write_kubeconfig(server: SocketAddr, path: &Path) {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": { "server": format!("http://{server}") } }],
        "users": [{ "name": "test", "user": {} }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
    });
    fs::write(path, config.to_string()).unwrap();
}

fn answer(shared: &Arc<Mutex<Objects>>, request: &Request) -> Response<Body> {
    let objects = &*shared.lock().unwrap();
    let query = request.uri().query().unwrap_or_default();
    match request.uri().path() {
        "/api/v1/pods" if query.contains("sendInitialEvents") => failure(StatusCode::BAD_REQUEST, "unknown field"),
        // Nothing changes, and the connection stays open.
        "/api/v1/pods" if query.contains("watch=true") => {
            Response::new(Body::from_stream(tokio_stream::pending::<Result<Vec<u8>, Infallible>>()))
        }
        "/api/v1/pods" => with_json(
            StatusCode::OK,
            &json!({ "apiVersion": "v1", "kind": "PodList", "metadata": { "resourceVersion": "1" }, "items": objects.pods }),
        ),
        "/api/v1/nodes" if objects.nodes.is_some() && query.contains("sendInitialEvents") => {
            failure(StatusCode::BAD_REQUEST, "unknown field")
        }
        "/api/v1/nodes" if objects.nodes.is_some() && query.contains("watch=true") => {
            Response::new(Body::from_stream(node_events(Arc::clone(shared), objects.nodes.clone().unwrap_or_default())))
        }
        "/api/v1/nodes" if objects.nodes.is_some() => {
            let nodes: Vec<&Value> = objects.nodes.iter().flatten().map(|(_, node)| node).collect();
            let metadata = json!({ "resourceVersion": "1" });
            with_json(
                StatusCode::OK,
                &json!({ "apiVersion": "v1", "kind": "NodeList", "metadata": metadata, "items": nodes }),
            )
        }
        "/api/v1/namespaces/kube-system" => match &objects.cluster {
            Some(uid) => with_json(
                StatusCode::OK,
                &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "kube-system", "uid": uid } }),
            ),
            None => failure(StatusCode::FORBIDDEN, "namespaces \"kube-system\" is forbidden"),
        },
        _ => failure(StatusCode::NOT_FOUND, "the server could not find the requested resource"),
    }
}

/// The changes of nodes since they were `known`, as a watch returns them.
fn node_events(
    shared: Arc<Mutex<Objects>>,
    known: BTreeMap<String, Value>,
) -> impl Stream<Item = Result<String, Infallible>> {
    futures_util::stream::unfold((shared, known), async |(shared, known)| {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = shared.lock().unwrap().nodes.clone().unwrap_or_default();
        let deleted = known.iter().filter(|(name, _)| !now.contains_key(*name)).map(|(_, node)| ("DELETED", node));
        let changed =
            now.iter().filter(|(name, node)| known.get(*name) != Some(*node)).map(|(_, node)| ("MODIFIED", node));
        let line = |(kind, object): (&str, &Value)| format!("{}\n", json!({ "type": kind, "object": object }));
        let events: String = deleted.chain(changed).map(line).collect();
        Some((Ok(events), (shared, now)))
    })
}

fn failure(status: StatusCode, message: &str) -> Response<Body> {
    let body = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "message": message, "reason": "", "code": status.as_u16(),
    });
    with_json(status, &body)
}

fn with_json(status: StatusCode, body: &Value) -> Response<Body> {
    let response = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
    response.body(Body::from(body.to_string())).unwrap()
}
