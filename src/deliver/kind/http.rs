//! An HTTP endpoint that accepts Outcrop's own format, which `docs/deliver.md` and `docs/delivery.schema.json` describe, or
//! [CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md).

use std::path::PathBuf;

use outcrop_proto::clock;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Stream;
use crate::deliver::client::{Answer, Client, Request, SendError};
use crate::deliver::connection::Url;
use crate::deliver::encode::{Compression, Encoded, FORMAT_VERSION, Origin, compress, line};
use crate::deliver::record::{Record, time};
use crate::deliver::{secret, sign};

/// An HTTP endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Http {
    /// Its URL.
    pub url: Url,
    /// Format of the body.
    #[serde(default)]
    pub format: Format,
    /// Compression of the body.
    #[serde(default)]
    pub compression: Compression,
    /// File with the secret of the signature (`whsec_` and base64, or any text).
    #[serde(default)]
    pub signing_secret_file: Option<PathBuf>,
}

/// Format of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// JSON Lines: an envelope, and one record in each line.
    #[default]
    Outcrop,
    /// One [CloudEvent](https://cloudevents.io) in structured mode for each request.
    Cloudevents,
    /// A batch of CloudEvents.
    CloudeventsBatch,
}

impl Format {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Outcrop => "application/x-ndjson",
            Self::Cloudevents => "application/cloudevents+json; charset=UTF-8",
            Self::CloudeventsBatch => "application/cloudevents-batch+json; charset=UTF-8",
        }
    }
}

impl Stream for Http {
    fn url(&self) -> &Url {
        &self.url
    }

    fn most_records(&self) -> usize {
        // An event in structured mode is a request of its own.
        if self.format == Format::Cloudevents { 1 } else { usize::MAX }
    }

    fn encode(&self, origin: Origin<'_>, records: &[Record<'_>]) -> std::io::Result<Encoded> {
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
        let events = || records.iter().enumerate().map(event);
        let body = match self.format {
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
            Format::Cloudevents => events().take(1).map(|event| line(&event)).collect::<Result<_, _>>()?,
            Format::CloudeventsBatch => line(&events().collect::<Vec<_>>())?,
        };
        compress(body.as_bytes(), self.compression).map(Encoded)
    }

    fn send(&self, client: &Client, key: &str, body: &Encoded) -> Result<Answer, SendError> {
        let mut request = Request::post(&self.url, self.format.content_type(), &body.0);
        request.headers.push(("Idempotency-Key", key.to_owned()));
        request.compressed(self.compression);
        if let Some(path) = &self.signing_secret_file {
            let secret = secret::read_text(path).map_err(SendError)?;
            request.headers.extend(sign::headers(&secret, key, clock::timestamp().as_second(), &body.0));
        }
        client.send(&request)
    }
}

#[cfg(test)]
mod tests {
    use outcrop_proto::Digest;
    use serde_json::Value;

    use super::*;
    use crate::deliver::encode::readable;
    use crate::deliver::kind::encode;
    use crate::store::{Change, ClusterIdentity, OutboxEvent, Told};

    fn http(format: Format, compression: Compression) -> Http {
        let url = "https://central.example".to_owned().try_into().unwrap();
        Http { url, format, compression, signing_secret_file: None }
    }

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
            let body = encode(origin(&cluster), &told(), &http(Format::Outcrop, compression)).unwrap();
            assert_eq!(
                body,
                encode(origin(&cluster), &told(), &http(Format::Outcrop, compression)).unwrap(),
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
        let batch = encode(origin(&cluster), &told(), &http(Format::CloudeventsBatch, Compression::None)).unwrap();
        let batch: Vec<Value> = serde_json::from_slice(&batch.0).unwrap();
        let one = encode(origin(&cluster), &told()[..1], &http(Format::Cloudevents, Compression::None)).unwrap();
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
