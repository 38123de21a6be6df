//! A body that tells how far it has been sent.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

/// How much is handed to the connection at once, in bytes: small enough that a slow line shows as movement.
const STEP_BYTES: usize = 128 << 10;

/// When a byte last moved, in either direction.
#[derive(Debug)]
pub(super) struct Movement(Mutex<Instant>);

impl Movement {
    pub(super) fn begin() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Instant::now())))
    }

    pub(super) fn note(&self) {
        *self.last() = Instant::now();
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Returns when nothing has moved for so long.
    pub(super) async fn stalls(&self, longest: Duration) {
        loop {
            let until = *self.last() + longest;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// The body of a request.
pub(super) struct Upload {
    parts: VecDeque<Bytes>,
    remaining: u64,
    movement: Arc<Movement>,
}

impl Upload {
    pub(super) fn new(parts: Vec<Bytes>, movement: Arc<Movement>) -> Self {
        let remaining = parts.iter().map(|part| part.len() as u64).sum();
        Self { parts: parts.into(), remaining, movement }
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.movement.note();
        let Some(mut part) = self.parts.pop_front() else {
            return Poll::Ready(None);
        };
        let step = part.split_to(part.len().min(STEP_BYTES));
        if !part.is_empty() {
            self.parts.push_front(part);
        }
        self.remaining -= step.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(step))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}
