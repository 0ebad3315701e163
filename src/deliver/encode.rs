//! Bodies of deliveries, whatever the kind of target.

use std::io::{Read as _, Write as _};

use outcrop_proto::escape::escape_json;
use serde::{Deserialize, Serialize};

use crate::store::ClusterIdentity;

/// Version of the records. It grows when a kind or a field changes its meaning or goes.
pub(super) const FORMAT_VERSION: u32 = 1;

/// Level of Zstandard: fast, and half of what gzip needs.
const LEVEL: i32 = 3;

/// Compression of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Zstandard (RFC 8878).
    #[default]
    Zstd,
    /// gzip (RFC 1952).
    Gzip,
    /// None.
    None,
}

/// The body of a delivery, compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded(pub Vec<u8>);

/// Where a delivery comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The cluster.
    pub cluster: &'a ClusterIdentity,
    /// Name of the target.
    pub target: &'a str,
    /// The idempotency key.
    pub key: &'a str,
    /// Its number among the deliveries of the target; 0 for a test.
    pub sequence: u64,
    /// When it was made, seconds since 1970.
    pub at: i64,
}

/// Returns a value as one line. Texts come from images: no character misleads whoever reads the body itself.
pub(super) fn line(value: &impl Serialize) -> Result<String, serde_json::Error> {
    Ok(format!("{}\n", escape_json(&serde_json::to_string(value)?)))
}

pub(super) fn compress(body: &[u8], compression: Compression) -> std::io::Result<Vec<u8>> {
    match compression {
        Compression::Zstd => zstd::encode_all(body, LEVEL),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(body)?;
            encoder.finish()
        }
        Compression::None => Ok(body.to_vec()),
    }
}

/// Returns the beginning of a body as text, whatever its compression, for a person; at most `limit` bytes.
#[expect(clippy::disallowed_types, reason = "the reader below stops at `limit`")]
pub fn readable(body: &[u8], limit: u64) -> String {
    let mut text = Vec::new();
    // What is damaged is shown as far as it can be read.
    let _ = match body {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            zstd::Decoder::new(body).and_then(|decoder| decoder.take(limit).read_to_end(&mut text))
        }
        [0x1f, 0x8b, ..] => flate2::read::GzDecoder::new(body).take(limit).read_to_end(&mut text),
        plain => plain.take(limit).read_to_end(&mut text),
    };
    String::from_utf8_lossy(&text).into_owned()
}
