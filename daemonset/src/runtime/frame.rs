//! Messages on a stream: a length (four bytes, little-endian) followed by that many bytes of postcard.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Maximum size of a message, bytes: several times a container's configurations and mounts.
pub(super) const MAX_FRAME: usize = 64 << 20;

/// Reason why a message could not be sent or decoded.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream broke, timed out, or ended inside a message.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The message exceeds the maximum size.
    #[error("a message of {0} bytes exceeds the limit")]
    TooLong(usize),
    /// The bytes are not a message of the expected type.
    #[error("malformed message: {0}")]
    Malformed(#[from] postcard::Error),
    /// The message is not allowed at this point of the protocol.
    #[error("unexpected message")]
    OutOfTurn,
}

/// Writes one message.
pub(super) fn write(mut stream: impl Write, message: &impl Serialize) -> Result<(), FrameError> {
    Ok(stream.write_all(&encode(message)?)?)
}

/// Reads one message; `None` at the end of the stream.
pub(super) fn read<T: DeserializeOwned>(mut stream: impl Read) -> Result<Option<T>, FrameError> {
    let mut header = [0; 4];
    // The first byte is read separately: the end of the stream before it is a regular end.
    if stream.read(&mut header[..1])? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[1..])?;
    let length = length(header)?;
    let mut body = Vec::new();
    // The buffer grows as bytes arrive, since the length is not trusted.
    stream.take(length as u64).read_to_end(&mut body)?;
    decode(&body, length).map(Some)
}

/// [`write`] for tokio.
pub(super) async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> Result<(), FrameError> {
    Ok(stream.write_all(&encode(message)?).await?)
}

/// [`read`] for tokio.
pub(super) async fn receive<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, FrameError> {
    let mut header = [0; 4];
    if stream.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[1..]).await?;
    let length = length(header)?;
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body).await?;
    decode(&body, length).map(Some)
}

fn encode(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let mut frame = postcard::to_extend(message, vec![0; 4])?;
    let length = frame.len() - 4;
    let header = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME).ok_or(FrameError::TooLong(length))?;
    frame[..4].copy_from_slice(&header.to_le_bytes());
    Ok(frame)
}

fn length(header: [u8; 4]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(header) as usize;
    if length > MAX_FRAME { Err(FrameError::TooLong(length)) } else { Ok(length) }
}

fn decode<T: DeserializeOwned>(body: &[u8], length: usize) -> Result<T, FrameError> {
    if body.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    match postcard::take_from_bytes(body)? {
        (message, []) => Ok(message),
        _ => Err(FrameError::OutOfTurn),
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Reply, Request};
    use super::*;

    #[test]
    fn what_is_written_is_read_again_until_the_end() {
        let mut pipe = Vec::new();
        let asked = Request::List { namespaces: vec!["k8s.io".into()] };
        write(&mut pipe, &asked).unwrap();
        write(&mut pipe, &Request::StorageDrivers).unwrap();
        let mut pipe = pipe.as_slice();
        assert_eq!(read::<Request>(&mut pipe).unwrap(), Some(asked));
        assert_eq!(read::<Request>(&mut pipe).unwrap(), Some(Request::StorageDrivers));
        assert_eq!(read::<Request>(&mut pipe).unwrap(), None);
    }

    #[test]
    fn bytes_that_are_no_message_are_an_error_and_reserve_nothing() {
        let mut reply = Vec::new();
        write(&mut reply, &Reply::Failed("why".into())).unwrap();
        let cut_short = &reply[..reply.len() - 1];
        let cases: &[&[u8]] = &[
            &[1],
            &[1, 0, 0],
            &[1, 0, 0, 0],
            &[255, 255, 255, 255],
            &[0, 0, 0, 4, 1, 2, 3],
            &[1, 0, 0, 0, 99],
            &[2, 0, 0, 0, 2, 2],
            // A list of 2^63 containers.
            &[10, 0, 0, 0, 4, 255, 255, 255, 255, 255, 255, 255, 255, 127],
            cut_short,
        ];
        for case in cases {
            assert!(read::<Reply>(*case).is_err(), "{case:?}");
        }
    }

    #[tokio::test]
    async fn both_sides_speak_the_same() {
        let (mut near, mut far) = tokio::io::duplex(16);
        let reply = Reply::Failed("no".repeat(100));
        let (sent, received) = tokio::join!(send(&mut near, &reply), receive::<Reply>(&mut far));
        sent.unwrap();
        assert_eq!(received.unwrap(), Some(reply));
        drop(near);
        assert_eq!(receive::<Reply>(&mut far).await.unwrap(), None);
    }
}
