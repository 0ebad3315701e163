//! Kinds of targets: one file each, and one row in [`Kind`] and in what reads the configuration.

mod http;
mod otlp;

pub(super) use http::Http;
pub(super) use otlp::Otlp;

use super::client::{Answer, Client, SendError};
use super::connection::Url;
use super::encode::{Encoded, Origin};
use super::record::Record;
use crate::store::Told;

/// A kind of target with its own settings.
#[derive(Clone, Debug)]
pub enum Kind {
    /// An HTTP endpoint.
    Http(Http),
    /// A collector of logs.
    Otlp(Otlp),
}

/// How a kind of target is served.
#[derive(Debug)]
pub enum Family<'a> {
    /// It is sent records of everything that changes.
    Stream(&'a dyn Stream),
}

/// A kind of target that is sent records.
pub trait Stream: std::fmt::Debug {
    /// Returns the URL.
    fn url(&self) -> &Url;

    /// Returns how many records one delivery contains at most, whatever is configured.
    fn most_records(&self) -> usize {
        usize::MAX
    }

    /// Returns the body of a delivery of these records.
    ///
    /// # Errors
    /// When a value cannot be written or compressed, which does not happen.
    fn encode(&self, origin: Origin<'_>, records: &[Record<'_>]) -> std::io::Result<Encoded>;

    /// Sends a body with its idempotency key. Blocks until the answer is there.
    ///
    /// # Errors
    /// When a file of the configuration cannot be used, or no answer comes.
    fn send(&self, client: &Client, key: &str, body: &Encoded) -> Result<Answer, SendError>;
}

impl Kind {
    /// Returns its key in the configuration.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Otlp(_) => "otlp",
        }
    }

    /// Returns how it is served.
    pub fn family(&self) -> Family<'_> {
        match self {
            Self::Http(http) => Family::Stream(http),
            Self::Otlp(otlp) => Family::Stream(otlp),
        }
    }

    /// Returns the URL that is contacted.
    pub fn url(&self) -> &Url {
        match self.family() {
            Family::Stream(stream) => stream.url(),
        }
    }
}

/// Returns the body of a delivery.
///
/// # Errors
/// As [`Stream::encode`].
pub fn encode(origin: Origin<'_>, told: &[Told], stream: &dyn Stream) -> std::io::Result<Encoded> {
    let records: Vec<Record<'_>> = told.iter().map(Record::of).collect();
    stream.encode(origin, &records)
}

/// Returns the body of a delivery that only shows that deliveries arrive.
///
/// # Errors
/// As [`Stream::encode`].
pub fn sample(origin: Origin<'_>, stream: &dyn Stream) -> std::io::Result<Encoded> {
    stream.encode(origin, &[Record::test()])
}
