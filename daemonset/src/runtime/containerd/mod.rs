//! containerd: [`Client`] calls a closed list of read-only gRPC methods ([`METHODS`]).
//!
//! The terms of containerd's API (snapshotter, snapshot key, containerd namespace) do not leave this module.

mod client;
mod describe;
mod event;
mod list;
mod read_only;
mod record;
mod snapshotter;
mod socket;

pub use client::Client;
pub use describe::{MAX_CONFIG, MAX_CONFIGS};
pub use read_only::METHODS;
pub use socket::{Opened, PLACES};
