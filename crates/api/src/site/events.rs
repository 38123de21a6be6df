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
use jiff::Timestamp;
use leeward_runs::RunId;
use leeward_runs::state::{State, StoredEvent};
use tokio::sync::{Semaphore, broadcast, mpsc, watch};

use super::access::{Caller, Right};
use super::feed::{Feed, News, WATCHERS_MAX, Watcher};
use super::problem::Problem;
use super::query::Query;
use super::{Asking, SiteState, only};
use crate::server::Inside;

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
    let end = End { stop: asking.peer.as_ref().map(|peer| peer.stop.clone()), until: caller.until };
    let pieces = begin(&state.0.feed, run, after, end).await?;
    // Who watches is no idle client, however long nothing happens.
    let inside = asking.peer.as_ref().map(|peer| peer.activity.enter());
    let mut response = Response::new(Body::new(Pieces { pieces, _inside: inside }));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Begins to tell what happens after a number, or from now on.
async fn begin(
    feed: &Feed,
    run: Option<RunId>,
    after: Option<u64>,
    end: End,
) -> Result<mpsc::Receiver<Bytes>, Problem> {
    let (watcher, receiver) =
        feed.watch().ok_or_else(|| Problem::busy(format!("{WATCHERS_MAX} watch already")))?;
    let (state, readers) = (Arc::clone(feed.state()), Arc::clone(feed.readers()));
    let after = match after {
        Some(after) => after,
        None => last_event(&state).await?,
    };
    let (sender, pieces) = mpsc::channel(64);
    tokio::spawn(tell(Telling { state, readers, run, after, sender, _watcher: watcher }, receiver, end));
    Ok(pieces)
}

async fn last_event(state: &Arc<dyn State>) -> Result<u64, Problem> {
    let state = Arc::clone(state);
    let last = tokio::task::spawn_blocking(move || state.last_event()).await;
    last.unwrap_or(Ok(0)).map_err(Problem::from)
}

struct Telling {
    state: Arc<dyn State>,
    readers: Arc<Semaphore>,
    run: Option<RunId>,
    /// All up to this number was told, or is of other runs.
    after: u64,
    sender: mpsc::Sender<Bytes>,
    _watcher: Watcher,
}

/// What ends the telling. Who still watches then comes back with the number of the last event, and with a token that is valid.
#[derive(Default)]
struct End {
    /// The daemon ends.
    stop: Option<watch::Receiver<bool>>,
    /// The token ends.
    until: Option<Timestamp>,
}

impl End {
    async fn comes(&mut self) {
        let stop = async {
            match &mut self.stop {
                Some(stop) => drop(stop.wait_for(|is_ending| *is_ending).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop => {}
            () = passed(self.until) => {}
        }
    }
}

/// Until a time has come, by the clock on the wall: a machine that slept meanwhile has missed nothing.
async fn passed(until: Option<Timestamp>) {
    let Some(until) = until else { return std::future::pending().await };
    while let Ok(left) = Duration::try_from(until.duration_since(Timestamp::now()))
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(BEAT)).await;
    }
}

async fn tell(mut telling: Telling, mut receiver: broadcast::Receiver<News>, mut end: End) {
    if !telling.comment("watching").await || !telling.replay().await {
        return;
    }
    loop {
        let news = tokio::select! {
            // Who went away keeps no place among the watchers until the next event.
            () = telling.sender.closed() => return,
            () = end.comes() => return,
            news = tokio::time::timeout(BEAT, receiver.recv()) => news,
        };
        let goes_on = match news {
            // A look beside the beat costs little, and makes up for whatever else may have gone wrong.
            Err(_) => telling.comment("beat").await && telling.replay().await,
            Ok(Ok(News::Event(event))) => telling.send(&event).await,
            Ok(Ok(News::Since(number))) => number <= telling.after || telling.replay().await,
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
            let Ok(turn) = Arc::clone(&self.readers).acquire_owned().await else { return false };
            let (state, run, after) = (Arc::clone(&self.state), self.run.clone(), self.after);
            let read = tokio::task::spawn_blocking(move || state.events(run.as_ref(), after, REPLAY));
            let Ok(Ok(events)) = read.await else { return false };
            // Others need not wait until this watcher has taken its part.
            drop(turn);
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

    async fn comment(&self, text: &'static str) -> bool {
        self.sender.send(Bytes::from(format!(": {text}\n\n"))).await.is_ok()
    }

    async fn send(&mut self, event: &StoredEvent) -> bool {
        if event.number <= self.after {
            return !self.sender.is_closed();
        }
        self.after = event.number;
        if self.run.as_ref().is_some_and(|run| *run != event.run) {
            return !self.sender.is_closed();
        }
        let Ok(data) = serde_json::to_string(event) else { return true };
        self.sender.send(Bytes::from(format!("id: {}\ndata: {data}\n\n", event.number))).await.is_ok()
    }
}

/// A body of pieces that come over a channel.
struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    _inside: Option<Inside>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.pieces.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use leeward_runs::state::SqliteState;
    use leeward_runs::{OnCancel, OnFailure, Plan, Retry, Run, StepPlan};

    use super::*;

    /// Makes a run, which is an event.
    fn happen(state: &dyn State) {
        let step = StepPlan {
            name: "a".to_owned(),
            title: "Does a".to_owned(),
            after: Default::default(),
            retry: Retry::default(),
            deadline_seconds: None,
            may_skip: false,
            has_undo: false,
        };
        let plan = Plan {
            kind: "test".to_owned(),
            version: 1,
            steps: vec![step],
            on_failure: OnFailure::Hold,
            on_cancel: OnCancel::Undo,
            pools: Default::default(),
        };
        let now = state.now().unwrap();
        let run = Run::new(RunId::new(now).unwrap(), "x", plan, serde_json::Value::Null, "test", now);
        state.insert(&run, None).unwrap();
    }

    async fn newest(state: &Arc<dyn State>) -> u64 {
        last_event(state).await.unwrap()
    }

    fn number_of(piece: &Bytes) -> Option<u64> {
        let text = std::str::from_utf8(piece).unwrap();
        text.strip_prefix("id: ")?.lines().next()?.parse().ok()
    }

    /// Reads what is told until an event of at least this number has come.
    async fn read_until(pieces: &mut mpsc::Receiver<Bytes>, told: &mut Vec<u64>, number: u64) {
        let end = Instant::now() + Duration::from_secs(60);
        while told.last().is_none_or(|last| *last < number) {
            let left = end.saturating_duration_since(Instant::now());
            let piece = tokio::time::timeout(left, pieces.recv()).await;
            let piece = piece.unwrap_or_else(|_| panic!("{number} is not told after {:?}", told.last()));
            told.extend(number_of(&piece.unwrap()));
        }
    }

    /// Watches for a while; returns after which number, and what was told.
    async fn visit(feed: Arc<Feed>, state: Arc<dyn State>, stay: Duration) -> (u64, Vec<u64>) {
        let after = newest(&state).await;
        let mut pieces = begin(&feed, None, Some(after), End::default()).await.unwrap();
        let mut told = Vec::new();
        let end = tokio::time::Instant::now() + stay;
        while let Ok(piece) = tokio::time::timeout_at(end, pieces.recv()).await {
            told.extend(number_of(&piece.unwrap()));
        }
        let number = newest(&state).await;
        if number > after {
            read_until(&mut pieces, &mut told, number).await;
        }
        (after, told)
    }

    #[test]
    fn watchers_that_come_and_go_see_each_event_of_their_time_once_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let state: Arc<dyn State> = Arc::new(SqliteState::open(&folder.path().join("runs")).unwrap());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        let is_over = AtomicBool::new(false);
        let visits = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Acquire) {
                    happen(state.as_ref());
                    std::thread::sleep(Duration::from_millis(4));
                }
            });
            let visits = runtime.block_on(async {
                let feed = Arc::new(Feed::new(Arc::clone(&state)));
                let mut visits = Vec::new();
                for round in 0..4u64 {
                    let guests: Vec<_> = (0..12u64)
                        .map(|guest| {
                            let (feed, state) = (Arc::clone(&feed), Arc::clone(&state));
                            tokio::spawn(async move {
                                tokio::time::sleep(Duration::from_millis(guest * 37 % 200)).await;
                                visit(feed, state, Duration::from_millis(20 + (guest + round) * 53 % 500))
                                    .await
                            })
                        })
                        .collect();
                    for guest in guests {
                        visits.push(guest.await);
                    }
                    // Nobody watches for so long that the reader stops.
                    tokio::time::sleep(Duration::from_millis(600)).await;
                }
                visits
            });
            is_over.store(true, Ordering::Release);
            visits
        });
        let happened: Vec<u64> =
            state.events(None, 0, 1_000_000).unwrap().iter().map(|event| event.number).collect();
        for visit in visits {
            let (after, told) = visit.unwrap();
            let last = told.last().copied().unwrap_or(after);
            let expected = happened.iter().copied().filter(|number| *number > after && *number <= last);
            assert_eq!(told, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_event_just_after_a_watcher_has_come_is_told_though_nothing_follows() {
        let folder = tempfile::tempdir().unwrap();
        let state: Arc<dyn State> = Arc::new(SqliteState::open(&folder.path().join("runs")).unwrap());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        runtime.block_on(async {
            let feed = Feed::new(Arc::clone(&state));
            for _ in 0..3 {
                let mut pieces = begin(&feed, None, None, End::default()).await.unwrap();
                assert_eq!(pieces.recv().await.unwrap(), ": watching\n\n");
                happen(state.as_ref());
                let number = newest(&state).await;
                let mut told = Vec::new();
                let soon = read_until(&mut pieces, &mut told, number);
                tokio::time::timeout(BEAT / 2, soon).await.expect("it does not take a beat");
                assert_eq!(told, [number]);
                drop(pieces);
                tokio::time::sleep(Duration::from_millis(600)).await;
            }
        });
    }
}
