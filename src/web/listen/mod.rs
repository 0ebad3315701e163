//! Listeners for agents and for the API: a limited number of connections, and TLS with a certificate that is reloaded when it changes.

mod incoming;
mod tls;

pub use incoming::{Connection, Counts, Incoming, Limits, OpenCall, Peer, allow_files};
pub use tls::{Certificate, Protocol, TlsError};
