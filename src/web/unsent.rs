//! Responses that are not sent yet.
//!
//! A client that reads slowly keeps its response in memory. A large one is therefore handed to the connection in pieces, and counts as a request of its
//! caller until the last piece is handed over.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, to_bytes};
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};

use super::problem::Problem;
use super::turns::{Sending, Turn};

/// Size of a piece, in bytes. Smaller responses are handed over at once: the connection buffers as much.
const PIECE: usize = 64 << 10;

/// Marks a response whose body is written while it is sent. It requests turns of its own for that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streamed;

/// Ends the turn of a request whose response is complete, and counts the response while it is sent.
pub(super) async fn send(response: Response, turn: Turn) -> Response {
    let is_small = response.body().size_hint().upper().is_some_and(|size| size <= PIECE as u64);
    if is_small {
        return response;
    }
    let (mut head, body) = response.into_parts();
    if head.extensions.remove::<Streamed>().is_some() {
        return Response::from_parts(head, Body::new(Streaming { body, _sending: turn.into_sending() }));
    }
    let sending = turn.into_sending();
    match to_bytes(body, usize::MAX).await {
        Ok(rest) => Response::from_parts(head, Body::new(Pieces { rest, _sending: sending })),
        // The bodies of this module are in memory; collecting them does not fail.
        Err(_) => Problem::defect().into_response(),
    }
}

/// A body that is written while it is sent.
struct Streaming {
    body: Body,
    _sending: Sending,
}

impl HttpBody for Streaming {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// A body in pieces.
struct Pieces {
    rest: Bytes,
    _sending: Sending,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let size = self.rest.len().min(PIECE);
        Poll::Ready((size > 0).then(|| Ok(Frame::data(self.rest.split_to(size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use outcrop_proto::Digest;
    use tokio_stream::StreamExt as _;

    use super::super::turns::{MAX_WAITING_EACH, QueueFull, Turns};
    use super::*;

    #[tokio::test]
    async fn large_responses_that_a_caller_does_not_read_count_as_its_requests() {
        let turns = Turns::new(2, 2);
        let caller = Digest::of(b"a");
        let body: Vec<u8> = (0..=255).cycle().take(3 * PIECE + 1).collect();
        let answer = async |body: Vec<u8>| {
            let turn = turns.request(caller).unwrap().await.unwrap();
            send(Response::new(Body::from(body)), turn).await
        };
        let mut unread = Vec::new();
        for _ in 0..MAX_WAITING_EACH {
            answer(b"small".to_vec()).await;
            unread.push(answer(body.clone()).await);
        }
        assert_eq!(turns.request(caller).unwrap_err(), QueueFull);
        assert!(turns.request(Digest::of(b"b")).is_ok());
        // One is read, piece by piece, and one connection is closed.
        let mut pieces = unread.pop().unwrap().into_body().into_data_stream();
        let mut read = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece.unwrap();
            assert!(piece.len() <= PIECE && turns.request(caller).is_err());
            read.extend_from_slice(&piece);
        }
        assert!(read == body, "the response is complete");
        drop(pieces);
        unread.pop();
        for _ in 0..2 {
            unread.push(answer(body.clone()).await);
        }
        assert_eq!(turns.request(caller).unwrap_err(), QueueFull);
    }
}
