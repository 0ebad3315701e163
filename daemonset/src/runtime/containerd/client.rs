//! The connection to containerd, and its requests.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{PluginsRequest, SubscribeRequest};
use hyper_util::rt::TokioIo;
use outcrop_proto::Container;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::list::Slow;
use super::read_only::ReadOnly;
use super::socket::{CONNECT_TIMEOUT, Opened};
use super::{event, record};
use crate::runtime::event::MAX_WAITING;
use crate::runtime::{Error, Event, Lacks, Pin, Plan, RuntimeClient, StorageDriver};

/// containerd's limit for one message, bytes; tonic's default is a quarter of it, too small for a list of OCI specifications.
const MAX_MESSAGE: usize = 16 << 20;

/// Maximum time of a request, and of a list. containerd asks every shim for its tasks and waits two seconds for each, so lists of tasks
/// are the slowest.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// The connection behind its guard.
pub(super) type Guarded = ReadOnly<Channel>;

/// A read-only connection to containerd.
///
/// When containerd restarts, every call returns [`Error::Gone`]: the caller makes another client.
#[derive(Debug)]
pub struct Client {
    channel: Guarded,
    socket: PathBuf,
    version: String,
    /// Snapshotters that did not answer in time: requests for their next containers fail immediately.
    pub(super) slow: HashSet<String>,
    /// Snapshotters that did not return the size of a layer in time: the next containers of theirs have none.
    pub(super) slow_sizes: HashSet<String>,
    /// Maximum time of a list.
    pub(super) list_timeout: Duration,
    /// Lists that did not arrive in time: they are not requested again for a while.
    pub(super) slow_lists: HashMap<(Lacks, String), Slow>,
    /// The namespaces of the last list of them.
    pub(super) known_namespaces: Vec<String>,
    /// By namespace, the containers that had ended for good when its tasks were listed last.
    pub(super) ended: HashMap<String, HashSet<String>>,
    /// Disk space of layers, bytes, by snapshotter and name: images share layers, and a layer never changes.
    pub(super) sizes: HashMap<(String, String), u64>,
}

impl Client {
    /// Connects to `socket`, or to the first known place where containerd listens, and requests the version, which proves that the
    /// server is containerd.
    pub async fn connect(socket: Option<&Path>) -> Result<Self, Error> {
        Self::over(Opened::open(socket)?).await
    }

    /// Like [`Self::connect`], over a connection that was opened before.
    pub async fn over(opened: Opened) -> Result<Self, Error> {
        let Opened { stream, path } = opened;
        let failed = |error| Error::Connect(path.clone(), error);
        let stream = tokio::net::UnixStream::from_std(stream).map_err(failed)?;
        let once = Arc::new(Mutex::new(Some(stream)));
        let connector = tower::service_fn(move |_| {
            let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            std::future::ready(stream.map(TokioIo::new).ok_or_else(|| io::Error::other("the connection was closed")))
        });
        let not_containerd = |cause: String| Error::NotContainerd(path.clone(), cause);
        let silent = || Error::Silent(path.clone(), CONNECT_TIMEOUT.as_secs());
        let handshake = async {
            // HTTP requires an address; the connector has the connection already.
            let channel = Endpoint::from_static("http://containerd.invalid")
                .connect_with_connector(connector)
                .await
                .map_err(|error| not_containerd(error.to_string()))?;
            let channel = ReadOnly(channel);
            let answer = VersionClient::new(channel.clone())
                .version(())
                .await
                .map_err(|status| not_containerd(Error::call("requesting the version", status).to_string()))?;
            Ok::<_, Error>((channel, answer.into_inner().version))
        };
        let (channel, version) = tokio::time::timeout(CONNECT_TIMEOUT, handshake).await.map_err(|_| silent())??;
        Ok(Self {
            channel,
            socket: path,
            version: record::short(version),
            slow: HashSet::new(),
            slow_sizes: HashSet::new(),
            list_timeout: LIST_TIMEOUT,
            slow_lists: HashMap::new(),
            known_namespaces: Vec::new(),
            ended: HashMap::new(),
            sizes: HashMap::new(),
        })
    }

    /// Sets the maximum time of a list. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn with_list_timeout(self, list_timeout: Duration) -> Self {
        Self { list_timeout, ..self }
    }

    /// Returns the path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns containerd's version, as containerd reports it: `1.6.20~ds1`, `v2.4.2`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Lists the snapshotters that containerd has loaded, and the directory of each where the snapshotter reports one.
    pub async fn storage_drivers(&self) -> Result<Vec<StorageDriver>, Error> {
        let request = PluginsRequest { filters: vec!["type==io.containerd.snapshotter.v1".into()] };
        let mut client = IntrospectionClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let answer = within("listing snapshotters", CALL_TIMEOUT, client.plugins(request)).await?;
        let loaded = answer.plugins.into_iter().filter(|plugin| plugin.init_err.is_none());
        let mut found: Vec<_> = loaded
            .map(|mut plugin| StorageDriver { name: plugin.id, root: plugin.exports.remove("root").map(PathBuf::from) })
            .collect();
        found.sort();
        Ok(found)
    }

    /// Subscribes to starts and ends of containers in every namespace. Events may get lost; the channel closes when containerd
    /// ends.
    pub fn watch(&self) -> mpsc::Receiver<Event> {
        let request =
            SubscribeRequest { filters: event::TOPICS.iter().map(|topic| format!("topic==\"{topic}\"")).collect() };
        let mut client = EventsClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        // containerd sends the response to a subscription together with the first event, so nobody waits for the response.
        tokio::spawn(async move {
            let Ok(events) = client.subscribe(request).await else { return };
            let mut events = events.into_inner();
            while let Ok(Some(envelope)) = events.message().await {
                // If too many events wait, the waiting ones cause a list of all containers anyway.
                if let Err(TrySendError::Closed(_)) = sender.try_send(event::read(envelope)) {
                    return;
                }
            }
        });
        receiver
    }

    pub(super) fn namespaces(&self) -> NamespacesClient<Guarded> {
        NamespacesClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(super) fn containers(&self) -> ContainersClient<Guarded> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(super) fn tasks(&self) -> TasksClient<Guarded> {
        TasksClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(super) fn snapshots(&self) -> SnapshotsClient<Guarded> {
        SnapshotsClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(super) fn content(&self) -> ContentClient<Guarded> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }
}

impl RuntimeClient for Client {
    type Connection = Opened;

    fn open(socket: Option<&Path>) -> Result<Opened, Error> {
        Opened::open(socket)
    }

    async fn start(connection: Opened) -> Result<Self, Error> {
        Self::over(connection).await
    }

    fn socket(&self) -> &Path {
        &self.socket
    }

    fn version(&self) -> &str {
        &self.version
    }

    async fn plan(&mut self, namespaces: &[String]) -> Result<Plan, Error> {
        Self::plan(self, namespaces).await
    }

    async fn describe(&mut self, container: Container) -> Result<Option<Container>, Error> {
        Self::describe(self, container).await
    }

    async fn recheck(&mut self, pin: &Pin) -> Result<bool, Error> {
        Self::recheck(self, pin).await
    }

    async fn stand(&mut self, pin: &Pin) -> Result<bool, Error> {
        Self::stand(self, pin).await
    }

    async fn storage_drivers(&self) -> Result<Vec<StorageDriver>, Error> {
        Self::storage_drivers(self).await
    }

    fn watch(&self) -> mpsc::Receiver<Event> {
        Self::watch(self)
    }

    fn retry_slow(&mut self) {
        self.slow.clear();
        self.slow_sizes.clear();
    }
}

/// Creates a request for one of containerd's namespaces.
pub(super) fn about<T>(namespace: &str, message: T) -> Result<Request<T>, Error> {
    let refused = || Error::Namespace(namespace.to_owned());
    if namespace.is_empty() || !namespace.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    {
        return Err(refused());
    }
    let value: MetadataValue<Ascii> = namespace.parse().map_err(|_| refused())?;
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", value);
    Ok(request)
}

/// Waits for a response, for at most `limit`.
pub(super) async fn within<T>(
    doing: &str,
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::call(doing, status)),
        Err(_) => Err(Error::Slow(doing.to_owned(), limit.as_secs())),
    }
}
