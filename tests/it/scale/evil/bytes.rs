//! Hostile messages as raw bytes.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use outcrop_proto::wire::v1::report::Report;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Request, Status};

use super::super::node::{endpoint, hello, report, seen};
use super::super::service::token;
use super::super::world::mix;
use super::{Place, containers, noise};

/// A call whose messages are bytes.
#[derive(Debug)]
pub(super) struct RawCall {
    /// Name of the method.
    pub(super) method: &'static str,
    pub(super) token: Option<String>,
    pub(super) messages: Vec<Vec<u8>>,
    pub(super) is_compressed: bool,
    /// `true` if the caller is silent after its last message, and does not end its side of the call either.
    pub(super) stays_open: bool,
}

impl RawCall {
    /// An attach of `node` with these messages.
    pub(super) fn attach(node: &str, messages: Vec<Vec<u8>>) -> Self {
        Self { method: "Attach", token: Some(token(node)), messages, is_compressed: false, stays_open: false }
    }

    /// Makes the call, and returns the status with which it ends if that is an error.
    pub(super) async fn run(self, endpoint: Endpoint) -> Option<Status> {
        let channel = endpoint.connect().await.unwrap();
        let mut client = tonic::client::Grpc::new(channel).max_encoding_message_size(128 << 20);
        if self.is_compressed {
            client = client.send_compressed(CompressionEncoding::Zstd);
        }
        let (sender, outbox) = tokio::sync::mpsc::channel(self.messages.len().max(1));
        for message in self.messages {
            sender.send(message).await.unwrap();
        }
        let _open = self.stays_open.then_some(sender);
        let mut request = Request::new(ReceiverStream::new(outbox));
        if let Some(token) = self.token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        client.ready().await.unwrap();
        let path: PathAndQuery = format!("/outcrop.v1.Collector/{}", self.method).parse().unwrap();
        let mut answers = match client.streaming(request, path, Raw).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return Some(status),
        };
        let end = async {
            loop {
                match answers.message().await {
                    Ok(Some(())) => {}
                    Ok(None) => return None,
                    Err(status) => return Some(status),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(90), end).await.expect("the call to be ended")
    }
}

/// Sends bytes as they are, where a message should be.
#[derive(Clone, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use prost::bytes::BufMut as _;
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        use prost::bytes::Buf as _;
        from.advance(from.remaining());
        Ok(Some(()))
    }
}

/// A report as bytes.
pub(super) fn encoded(what: Report) -> Vec<u8> {
    report(what).encode_to_vec()
}

/// A field with a length, as bytes.
pub(super) fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut bytes);
    encode_varint(content.len() as u64, &mut bytes);
    bytes.extend(content);
    bytes
}

/// A report of the cluster whose field `number` has this content.
pub(super) fn report_with(number: u32, content: &[u8]) -> Vec<u8> {
    [field(1, b"scale"), field(number, content)].concat()
}

#[test]
fn bytes_that_are_no_messages_end_the_stream_and_nothing_else() {
    let place = Place::start(&[]);
    place.honest();
    place.fleet.churn(Duration::from_millis(500));
    let name = place.name();
    let good = encoded(containers(1, true, vec![seen(&place.fleet.world, "x", 0)]));
    let mut nonsense: Vec<Vec<u8>> = (0..40).map(|salt| noise(1 + salt as usize * 37, salt)).collect();
    nonsense.extend((1..40).map(|cut| good[..good.len() * cut / 40].to_vec()));
    nonsense.extend((0..40).map(|flip| {
        let mut bytes = good.clone();
        let at = mix(&[9, flip]) as usize % bytes.len();
        bytes[at] ^= 1 << (flip % 8);
        bytes
    }));
    // More than a message may hold.
    nonsense.extend([vec![0; 20 << 20], vec![0; 64 << 20]]);
    let endpoint = endpoint(&place.service);
    for (number, bytes) in nonsense.into_iter().enumerate() {
        let first = (!number.is_multiple_of(5)).then(|| encoded(Report::Hello(hello(&name))));
        let call = RawCall::attach(&name, first.into_iter().chain([bytes]).collect());
        place.runtime.block_on(call.run(endpoint.clone()));
    }
    assert!(place.reports("refused") >= 40, "{}", place.service.status());
    // And where TLS should be.
    for salt in 0..20 {
        let mut stream = TcpStream::connect(place.service.listen).unwrap();
        let _ = stream.write_all(&noise(10_000, salt));
    }
    place.unharmed();
}
