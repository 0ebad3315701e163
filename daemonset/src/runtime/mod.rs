//! Who runs here?
//!
//! containerd is asked over gRPC, by [`Client`], with a closed list of methods that only read ([`METHODS`]). What comes back
//! are plain [`Container`](outcrop_proto::Container) records: nothing of an image is parsed here, and no storage is touched.
//!
//! Whoever holds containerd's socket is root on the node. So it is held by a process of its own: [`role`] is that
//! process, and [`Sibling`] is its other end, for the process that reads storage and must not hold the socket.

mod client;
mod describe;
mod error;
mod event;
mod frame;
mod join;
mod list;
mod message;
mod read_only;
mod record;
pub mod role;
mod sibling;
mod snapshotter;
mod socket;

pub use client::Client;
pub use describe::{MAX_CONFIG, MAX_CONFIGS, Pin};
pub use error::Error;
pub use frame::FrameError;
pub use join::{accept, connect};
pub use message::{Snapshotter, Start};
pub use read_only::METHODS;
pub use sibling::Sibling;
pub use socket::{Opened, PLACES};
