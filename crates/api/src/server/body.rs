//! Bodies on their way in and out: bounded, and not slower than the pace.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt;
use leeward_store::Object;
use tokio::sync::mpsc;

use super::{Peer, ServerState};
use crate::limits::{Pace, Pacer};
use crate::problem::{Code, Problem};

/// Bytes that are read from the store, and sent, at a time.
const PIECE_BYTES: u64 = 512 << 10;

/// Takes a body of exactly so many bytes. Memory grows with what has come, not with what was announced.
pub(super) async fn take(mut body: Body, length: u64, pace: Pace) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let mut pacer = Pacer::new(pace);
    let hint = "nothing was stored; see the way to the server, then run the command again";
    loop {
        let frame = tokio::time::timeout(pacer.left(), body.frame()).await.map_err(|_| {
            Problem::new(
                Code::TooSlow,
                format!("the body moves more slowly than {pace}; {} of {length} bytes came", bytes.len()),
                hint,
            )
        })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| {
            Problem::new(
                Code::BadRequest,
                format!("the body broke off after {} of {length} bytes", bytes.len()),
                hint,
            )
        })?;
        let Ok(data) = frame.into_data() else { continue };
        pacer.count(data.len() as u64);
        if bytes.len() as u64 + data.len() as u64 > length {
            return Err(Problem::new(
                Code::BadRequest,
                format!("the body is longer than the {length} bytes announced"),
                hint,
            ));
        }
        bytes.extend_from_slice(&data);
    }
    match bytes.len() as u64 == length {
        true => Ok(bytes),
        false => Err(Problem::new(
            Code::BadRequest,
            format!("the body ended after {} of {length} bytes", bytes.len()),
            hint,
        )),
    }
}

/// A body whose pieces are read from the store while it is sent.
pub(crate) struct Pieces {
    pieces: mpsc::Receiver<Result<Bytes, std::io::Error>>,
    left: u64,
}

impl Pieces {
    /// A body of `left` bytes that come as pieces.
    pub(crate) fn new(pieces: mpsc::Receiver<Result<Bytes, std::io::Error>>, left: u64) -> Self {
        Self { pieces, left }
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        match std::task::ready!(self.pieces.poll_recv(context)) {
            Some(Ok(bytes)) => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => Poll::Ready(Some(Err(std::io::ErrorKind::UnexpectedEof.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left)
    }
}

/// Sends a range of an object. A client that takes less than the pace demands loses its connection.
pub(super) fn send(
    state: &ServerState,
    object: Arc<dyn Object>,
    range: Range<u64>,
    peer: Option<Peer>,
) -> Body {
    let (sender, pieces) = mpsc::channel(2);
    let left = range.end - range.start;
    let state = state.clone();
    tokio::spawn(async move {
        let _inside = peer.as_ref().map(|peer| peer.activity.enter());
        if !feed(&state, object, range, &sender).await
            && let Some(peer) = peer
        {
            peer.cut.notify_one();
        }
    });
    Body::new(Pieces::new(pieces, left))
}

/// Reads pieces and hands them on; `false` when they were taken too slowly.
async fn feed(
    state: &ServerState,
    object: Arc<dyn Object>,
    mut range: Range<u64>,
    sender: &mpsc::Sender<Result<Bytes, std::io::Error>>,
) -> bool {
    let mut pacer = Pacer::new(state.0.options.pace);
    while range.start < range.end {
        let (from, length) = (range.start, (range.end - range.start).min(PIECE_BYTES) as usize);
        let reader = Arc::clone(&object);
        let piece = state
            .blocking(move |_| {
                let mut buffer = vec![0; length];
                reader.read_at(&mut buffer, from)?;
                Ok(Bytes::from(buffer))
            })
            .await
            .map_err(std::io::Error::other);
        let failed = piece.is_err();
        match tokio::time::timeout(pacer.left(), sender.send(piece)).await {
            Err(_) => return false,
            Ok(Err(_)) => return true,
            Ok(Ok(())) if failed => return true,
            Ok(Ok(())) => {}
        }
        pacer.count(length as u64);
        range.start += length as u64;
    }
    // The last pieces are under way; whoever does not take them is noticed as well.
    loop {
        if sender.is_closed() || sender.capacity() == sender.max_capacity() {
            return true;
        }
        if pacer.left().is_zero() {
            return false;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50).min(pacer.left())).await;
    }
}
