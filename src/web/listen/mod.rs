//! Listeners for nodes and for the API: so many connections and no more, TLS whose certificate is read again when it changes.

mod incoming;
mod tls;

pub use incoming::{Connection, Counts, Incoming, Limits, Peer, allow_files};
pub use tls::{Certificate, Protocol, TlsError};
