//! Records → the body of a delivery.

use std::io::{Read as _, Write as _};

use outcrop_proto::escape::escape_json;
use serde::Serialize;
use serde_json::json;

use super::config::{Compression, Format};
use super::record::{Record, time};
use crate::store::{ClusterIdentity, Told};

/// Version of the format. It grows when a kind or a field changes its meaning or goes.
pub const FORMAT_VERSION: u32 = 1;

/// Level of Zstandard: fast, and half of what gzip needs.
const LEVEL: i32 = 3;

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

/// Returns the body of a delivery.
///
/// # Errors
/// When a value cannot be written as JSON or compressed, which does not happen.
pub fn encode(
    origin: Origin<'_>,
    told: &[Told],
    format: Format,
    compression: Compression,
) -> Result<Encoded, std::io::Error> {
    let records: Vec<Record<'_>> = told.iter().map(Record::of).collect();
    write(origin, &records, format, compression)
}

/// Returns the body of a delivery that only shows that deliveries arrive.
///
/// # Errors
/// As [`encode`].
pub fn sample(origin: Origin<'_>, format: Format, compression: Compression) -> Result<Encoded, std::io::Error> {
    write(origin, &[Record::test()], format, compression)
}

fn write(
    origin: Origin<'_>,
    records: &[Record<'_>],
    format: Format,
    compression: Compression,
) -> Result<Encoded, std::io::Error> {
    let Origin { cluster, target, key, sequence, at } = origin;
    let event = |(index, record): (usize, &Record<'_>)| {
        json!({
            "specversion": "1.0",
            "id": format!("{key}-{index}"),
            "source": format!("/outcrop/clusters/{}", cluster.key),
            "type": format!("dev.outcrop.{}.v{FORMAT_VERSION}", record.kind),
            "time": record.at.clone().unwrap_or_else(|| time(at)),
            "datacontenttype": "application/json",
            "data": record,
        })
    };
    let body = match format {
        Format::Outcrop => {
            let envelope = json!({
                "kind": "batch",
                "version": FORMAT_VERSION,
                "key": key,
                "sequence": sequence,
                "target": target,
                "cluster": { "uid": cluster.key, "name": cluster.name },
                "made_at": time(at),
                "records": records.len(),
                "outcrop": env!("CARGO_PKG_VERSION"),
            });
            let mut body = line(&envelope)?;
            for record in records {
                body.push_str(&line(record)?);
            }
            body
        }
        Format::Cloudevents => {
            records.iter().enumerate().map(event).take(1).map(|event| line(&event)).collect::<Result<_, _>>()?
        }
        Format::CloudeventsBatch => line(&records.iter().enumerate().map(event).collect::<Vec<_>>())?,
    };
    compress(body.as_bytes(), compression).map(Encoded)
}

/// Returns a value as one line. Texts come from images: no character misleads whoever reads the body itself.
fn line(value: &impl Serialize) -> Result<String, serde_json::Error> {
    Ok(format!("{}\n", escape_json(&serde_json::to_string(value)?)))
}

fn compress(body: &[u8], compression: Compression) -> Result<Vec<u8>, std::io::Error> {
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

#[cfg(test)]
mod tests {
    use outcrop_proto::Digest;
    use serde_json::Value;

    use super::*;
    use crate::store::{Change, OutboxEvent};

    fn origin(cluster: &ClusterIdentity) -> Origin<'_> {
        Origin { cluster, target: "central", key: "k1", sequence: 7, at: 0 }
    }

    fn told() -> Vec<Told> {
        let problem =
            |text: &str| OutboxEvent::ProblemRaised { problem: text.to_owned(), message: "\u{202e}m".to_owned() };
        vec![
            Told { at: None, change: Change::SnapshotBegins { database: Some(Digest([0; 32])) } },
            Told { at: Some(60), change: Change::Event(problem("store")) },
            Told { at: None, change: Change::SnapshotEnds },
        ]
    }

    #[test]
    fn a_body_is_an_envelope_and_one_record_in_each_line_in_every_compression() {
        let cluster = ClusterIdentity { key: "uid".to_owned(), name: "prod".to_owned() };
        let mut sizes = Vec::new();
        for compression in [Compression::Zstd, Compression::Gzip, Compression::None] {
            let body = encode(origin(&cluster), &told(), Format::Outcrop, compression).unwrap();
            assert_eq!(
                body,
                encode(origin(&cluster), &told(), Format::Outcrop, compression).unwrap(),
                "the same bytes"
            );
            let text = readable(&body.0, 1 << 20);
            let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(lines[0]["records"], 3);
            assert_eq!(
                (&lines[0]["key"], &lines[0]["sequence"], &lines[0]["version"]),
                (&json!("k1"), &json!(7), &json!(1))
            );
            assert_eq!(
                lines[2],
                json!({ "kind": "problem-raised", "at": "1970-01-01T00:01:00Z", "problem": "store", "message": "\u{202e}m" })
            );
            assert!(text.contains("\\u202em") && text.is_ascii(), "{text}");
            assert_eq!(lines[3], json!({ "kind": "snapshot-end" }));
            sizes.push(body.0.len());
        }
        assert!(sizes[0] < sizes[2] && sizes[1] < sizes[2], "{sizes:?}");
        assert_eq!(readable(&[0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3], 100), "");
    }

    #[test]
    fn cloudevents_have_what_their_specification_requires() {
        let cluster = ClusterIdentity { key: "uid".to_owned(), name: "prod".to_owned() };
        let batch = encode(origin(&cluster), &told(), Format::CloudeventsBatch, Compression::None).unwrap();
        let batch: Vec<Value> = serde_json::from_slice(&batch.0).unwrap();
        let one = encode(origin(&cluster), &told()[..1], Format::Cloudevents, Compression::None).unwrap();
        let one: Value = serde_json::from_slice(&one.0).unwrap();
        assert_eq!((batch.len(), &batch[0]), (3, &one));
        for (index, event) in batch.iter().enumerate() {
            assert_eq!(event["specversion"], "1.0");
            assert_eq!(event["id"], format!("k1-{index}"));
            assert_eq!(event["source"], "/outcrop/clusters/uid");
        }
        assert_eq!(batch[1]["type"], "dev.outcrop.problem-raised.v1");
        assert_eq!(batch[1]["time"], "1970-01-01T00:01:00Z");
        assert_eq!(batch[1]["data"]["problem"], "store");
    }
}
