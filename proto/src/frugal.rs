//! Codec of the wire: prost's, with small buffers, since an aggregator holds thousands of streams that are idle most of the time, and with
//! bounds on what a message takes before it is decoded.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf as _;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::ProstCodec;

use crate::shape::{Shaped, Unfit, check, other_field};
use crate::wire::{Refusal, v1};

/// Initial size of a stream's buffers (tonic's default is 8 KiB), and the size beyond which a message waits for the network; bytes.
const FIRST: usize = 1 << 10;
const WAITS: usize = 32 << 10;

/// Maximum size of the first message of a stream of reports, which is a Hello, bytes.
const MAX_HELLO: usize = 4 << 10;

/// The codec of every method.
#[derive(Debug)]
pub struct FrugalCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for FrugalCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// A message that this codec decodes.
pub trait Bounded: Shaped + Message + Default {
    /// The only fields that the first message of a stream may have, where there is such a rule.
    const FIRST_FIELDS: Option<&'static [u64]> = None;
}

impl Bounded for v1::Report {
    // The cluster and the Hello. Nothing else is decoded before a node has said who it is.
    const FIRST_FIELDS: Option<&'static [u64]> = Some(&[1, 2]);
}
impl Bounded for v1::Order {}
impl Bounded for v1::Piece {}
impl Bounded for v1::Stored {}

impl<T, U> Codec for FrugalCodec<T, U>
where
    T: Message + Send + 'static,
    U: Bounded + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(FIRST, WAITS))
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder { is_first: true, message: PhantomData }
    }
}

/// Decodes the messages of one stream.
#[derive(Debug)]
pub struct BoundedDecoder<U> {
    is_first: bool,
    message: PhantomData<U>,
}

impl<U: Bounded> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // tonic hands over a whole message in one piece.
        let bytes = buffer.chunk();
        if bytes.len() != buffer.remaining() {
            return Err(Status::internal("the message is in pieces"));
        }
        let is_first = std::mem::replace(&mut self.is_first, false);
        if let Some(fields) = U::FIRST_FIELDS.filter(|_| is_first) {
            if bytes.len() > MAX_HELLO {
                let reason = format!("the first message has {} bytes, more than the limit of {MAX_HELLO}", bytes.len());
                return Err(Refusal::TooLarge.status(reason));
            }
            if other_field(bytes, fields).map_err(refuse)?.is_some() {
                return Err(Refusal::Malformed.status("the first report must be a Hello"));
            }
        }
        check::<U>(bytes).map_err(refuse)?;
        let message = U::decode(buffer).map_err(|error| Refusal::Malformed.status(error.to_string()))?;
        Ok(Some(message))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(FIRST, WAITS)
    }
}

fn refuse(unfit: Unfit) -> Status {
    match unfit {
        Unfit::Malformed => Refusal::Malformed.status(unfit.to_string()),
        Unfit::OverBudget(_) => Refusal::TooLarge.status(unfit.to_string()),
    }
}
