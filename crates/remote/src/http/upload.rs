//! A body that tells how far it has been sent.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until};

/// How much is handed to the connection at once, in bytes: small enough that a slow line shows as movement.
const STEP_BYTES: usize = 128 << 10;

/// When a byte last moved, in either direction.
#[derive(Debug)]
pub(super) struct Movement(Mutex<Last>);

#[derive(Debug)]
struct Last {
    moved: Instant,
    /// Whether the other side waits for what the caller has not given yet: then it is not the connection that stands still.
    is_waiting: bool,
}

impl Movement {
    pub(super) fn begin() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Last { moved: Instant::now(), is_waiting: false })))
    }

    pub(super) fn note(&self) {
        *self.last() = Last { moved: Instant::now(), is_waiting: false };
    }

    fn wait_for_caller(&self) {
        self.last().is_waiting = true;
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Returns when nothing has moved for so long.
    pub(super) async fn stalls(&self, longest: Duration) {
        loop {
            let until = {
                let mut last = self.last();
                if last.is_waiting {
                    last.moved = Instant::now();
                }
                last.moved + longest
            };
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// The body was to be longer.
#[derive(Debug, thiserror::Error)]
#[error("the body ended {0} bytes before its end")]
pub(super) struct Cut(u64);

/// The body of a request.
pub(super) struct Upload {
    parts: VecDeque<Bytes>,
    /// Where more comes from.
    more: Option<Receiver<Bytes>>,
    remaining: u64,
    movement: Arc<Movement>,
}

impl Upload {
    pub(super) fn new(parts: Vec<Bytes>, movement: Arc<Movement>) -> Self {
        let remaining = parts.iter().map(|part| part.len() as u64).sum();
        Self { parts: parts.into(), more: None, remaining, movement }
    }

    /// A body of so many bytes, which come one part after the other.
    pub(super) fn fed(more: Receiver<Bytes>, bytes: u64, movement: Arc<Movement>) -> Self {
        Self { parts: VecDeque::new(), more: Some(more), remaining: bytes, movement }
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.movement.note();
        if self.remaining == 0 {
            return Poll::Ready(None);
        }
        if self.parts.is_empty()
            && let Some(more) = &mut self.more
        {
            match more.poll_recv(context) {
                Poll::Ready(Some(part)) => self.parts.push_back(part),
                Poll::Ready(None) => self.more = None,
                Poll::Pending => {
                    self.movement.wait_for_caller();
                    return Poll::Pending;
                }
            }
        }
        let Some(mut part) = self.parts.pop_front() else {
            return Poll::Ready(Some(Err(Cut(self.remaining))));
        };
        let length = part.len().min(STEP_BYTES).min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        let step = part.split_to(length);
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
