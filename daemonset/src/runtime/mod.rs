//! The container runtimes of a node: which containers exist, and where their files are stored.
//!
//! [`RuntimeClient`] is the interface of one container runtime; [`containerd`] is its only implementation so far. A client returns
//! plain [`outcrop_proto::Container`] records: it parses no image bytes and touches no storage.
//!
//! The runtime's socket is root on the node. A separate process holds it: [`role`] is that process, and [`Sibling`] is the
//! connection to it for the process that reads storage and must not hold the socket.

pub mod containerd;
mod error;
mod event;
mod frame;
mod join;
mod message;
pub mod role;
mod sibling;

use std::path::Path;

use outcrop_proto::Container;
use tokio::sync::mpsc;

pub use error::Error;
pub use event::Event;
pub use frame::FrameError;
pub use join::{accept, connect};
pub use message::{Gap, Lacks, Pin, Plan, Start, StorageDriver};
pub use sibling::Sibling;

/// A container runtime, as the process that holds its socket uses it. Every method only reads.
///
/// One thread drives a client, so the futures need not be `Send`. An error for which [`Error::is_fatal`] holds means that the
/// connection is lost: the caller makes another client.
#[allow(async_fn_in_trait, reason = "one thread drives a client; no caller needs a bound on the futures")]
pub trait RuntimeClient: Sized {
    /// A connection over which no byte has been sent: a process gives up its rights after connecting and before speaking.
    type Connection;

    /// Connects to `socket`, or to the first known place where the runtime listens.
    fn open(socket: Option<&Path>) -> Result<Self::Connection, Error>;

    /// Greets the runtime, which proves that it is the expected program.
    async fn start(connection: Self::Connection) -> Result<Self, Error>;

    /// Returns the path of the socket.
    fn socket(&self) -> &Path;

    /// Returns the runtime's version, as the runtime reports it.
    fn version(&self) -> &str;

    /// Lists the containers of `namespaces`, of all namespaces where none is given, without the details that
    /// [`Self::describe`] adds. Containers that have ended count while their pod lives. A part that the runtime does not answer
    /// is a gap of the list; it takes a minute and a half at most. An error means that nothing is known.
    async fn plan(&mut self, namespaces: &[String]) -> Result<Plan, Error>;

    /// Adds the layers, mounts and image configurations of a container of [`Self::plan`], or the reason why it is not read.
    /// `None` when the container has been removed meanwhile.
    async fn describe(&mut self, container: Container) -> Result<Option<Container>, Error>;

    /// Returns whether the container still stands on the layers that it was described with; `false` when it is gone.
    async fn recheck(&mut self, pin: &Pin) -> Result<bool, Error>;

    /// Returns whether the layers below a container still exist, even if the container is gone.
    async fn stand(&mut self, pin: &Pin) -> Result<bool, Error>;

    /// Lists the loaded storage drivers and the directory of each.
    async fn storage_drivers(&self) -> Result<Vec<StorageDriver>, Error>;

    /// Subscribes to starts and ends of containers. Events may get lost; the channel closes when the runtime ends.
    fn watch(&self) -> mpsc::Receiver<Event>;

    /// Retries storage drivers that did not answer in time before.
    fn retry_slow(&mut self);
}
