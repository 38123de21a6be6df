//! `/v1/events`: what happens, as it happens, by server-sent events.
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>)
//!
//! The id of an event is its number in the state; who comes back with `Last-Event-ID` is told what happened since.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, header};
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use leeward_runs::RunId;
use leeward_runs::state::{State, StoredEvent};
use tokio::sync::{broadcast, mpsc};

use super::access::{Caller, Right};
use super::feed::{WATCHERS_MAX, Watcher};
use super::problem::Problem;
use super::query::Query;
use super::{Asking, SiteState, only};

/// How often a comment is sent, so that both sides see that the connection lives.
const BEAT: Duration = Duration::from_secs(15);
/// Events that are read at once for one who was away.
const REPLAY: usize = 500;

pub(super) async fn handle(state: &SiteState, asking: &Asking, caller: &Caller) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    caller.needs(Right::See)?;
    let query = Query::parse(&asking.query, &["run"])?;
    let run: Option<RunId> = query.value("run")?;
    let after = match asking.header("last-event-id") {
        None => None,
        Some(text) => Some(
            text.parse::<u64>()
                .map_err(|_| Problem::invalid(format!("Last-Event-ID {text:?} is no number")))?,
        ),
    };
    let (watcher, receiver) =
        state.0.feed.watch().ok_or_else(|| Problem::busy(format!("{WATCHERS_MAX} watch already")))?;
    let reader = Arc::clone(state.0.feed.state());
    let after = match after {
        Some(after) => after,
        None => last_event(&reader).await?,
    };
    let (sender, pieces) = mpsc::channel(64);
    tokio::spawn(tell(Telling { state: reader, run, after, sender, _watcher: watcher }, receiver));
    let mut response = Response::new(Body::new(Pieces(pieces)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

async fn last_event(state: &Arc<dyn State>) -> Result<u64, Problem> {
    let state = Arc::clone(state);
    let last = tokio::task::spawn_blocking(move || state.last_event()).await;
    last.unwrap_or(Ok(0)).map_err(Problem::from)
}

struct Telling {
    state: Arc<dyn State>,
    run: Option<RunId>,
    after: u64,
    sender: mpsc::Sender<Bytes>,
    _watcher: Watcher,
}

async fn tell(mut telling: Telling, mut receiver: broadcast::Receiver<Arc<StoredEvent>>) {
    if telling.sender.send(Bytes::from_static(b": watching\n\n")).await.is_err() || !telling.replay().await {
        return;
    }
    loop {
        let goes_on = match tokio::time::timeout(BEAT, receiver.recv()).await {
            Err(_) => telling.sender.send(Bytes::from_static(b": beat\n\n")).await.is_ok(),
            Ok(Ok(event)) => telling.send(&event).await,
            // What was missed is in the state.
            Ok(Err(broadcast::error::RecvError::Lagged(_))) => telling.replay().await,
            Ok(Err(broadcast::error::RecvError::Closed)) => false,
        };
        if !goes_on {
            return;
        }
    }
}

impl Telling {
    /// Sends what happened since; false when nobody listens any more.
    async fn replay(&mut self) -> bool {
        loop {
            let (state, run, after) = (Arc::clone(&self.state), self.run.clone(), self.after);
            let read = tokio::task::spawn_blocking(move || state.events(run.as_ref(), after, REPLAY));
            let Ok(Ok(events)) = read.await else { return false };
            for event in &events {
                if !self.send(event).await {
                    return false;
                }
            }
            if events.len() < REPLAY {
                return true;
            }
        }
    }

    async fn send(&mut self, event: &StoredEvent) -> bool {
        let is_wanted = self.run.as_ref().is_none_or(|run| *run == event.run);
        if event.number <= self.after || !is_wanted {
            return !self.sender.is_closed();
        }
        self.after = event.number;
        let Ok(data) = serde_json::to_string(event) else { return true };
        self.sender.send(Bytes::from(format!("id: {}\ndata: {data}\n\n", event.number))).await.is_ok()
    }
}

/// A body of pieces that come over a channel.
struct Pieces(mpsc::Receiver<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}
