//! What happens, handed on to all who watch: one reader of the state for however many of them.
//!
//! The reader reads only while somebody watches. Where it begins again it says so ([`News::Since`]): what happened between a
//! watcher's own look at the state and that moment is told by nobody, so the watcher looks again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use leeward_runs::state::{State, StoredEvent};
use tokio::sync::{Semaphore, broadcast};

/// How often the state is asked for news.
const EVERY: Duration = Duration::from_millis(250);
/// Events that a slow watcher may be behind before it reads them from the state instead.
const BEHIND_MAX: usize = 1024;
/// Watchers at once.
pub(super) const WATCHERS_MAX: usize = 512;

/// Watchers that read the state themselves at once: all of them may have to when the reader begins again.
const READERS_MAX: usize = 8;

/// What watchers are told.
#[derive(Debug, Clone)]
pub(super) enum News {
    /// Something happened.
    Event(Arc<StoredEvent>),
    /// What happens after this number will be told; what happened up to it is in the state.
    Since(u64),
}

/// Hands on what happens.
pub(super) struct Feed {
    state: Arc<dyn State>,
    sender: broadcast::Sender<News>,
    watchers: Arc<AtomicUsize>,
    readers: Arc<Semaphore>,
    started: OnceLock<()>,
}

/// Counts a watcher while it lives.
pub(super) struct Watcher(Arc<AtomicUsize>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Feed {
    pub fn new(state: Arc<dyn State>) -> Self {
        let (sender, _) = broadcast::channel(BEHIND_MAX);
        let readers = Arc::new(Semaphore::new(READERS_MAX));
        Self { state, sender, watchers: Arc::default(), readers, started: OnceLock::new() }
    }

    /// The state that is read.
    pub fn state(&self) -> &Arc<dyn State> {
        &self.state
    }

    /// Turns at reading the state.
    pub fn readers(&self) -> &Arc<Semaphore> {
        &self.readers
    }

    /// One more watcher; `None` where there are too many. Who looks at the state after this, and heeds all news, misses nothing.
    pub fn watch(&self) -> Option<(Watcher, broadcast::Receiver<News>)> {
        let watcher = Watcher(Arc::clone(&self.watchers));
        let before = self.watchers.fetch_add(1, Ordering::AcqRel);
        if before >= WATCHERS_MAX {
            return None;
        }
        let receiver = self.sender.subscribe();
        self.started.get_or_init(|| self.start());
        Some((watcher, receiver))
    }

    fn start(&self) {
        let (state, sender, watchers) =
            (Arc::clone(&self.state), self.sender.clone(), Arc::clone(&self.watchers));
        tokio::spawn(async move {
            let mut last: Option<u64> = None;
            let mut tick = tokio::time::interval(EVERY);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                if watchers.load(Ordering::Acquire) == 0 {
                    // Nobody watches: what happens meanwhile is read by whoever comes.
                    last = None;
                    continue;
                }
                let reader = Arc::clone(&state);
                let news = tokio::task::spawn_blocking(move || match last {
                    None => reader.last_event().map(|newest| (newest, vec![News::Since(newest)])),
                    Some(after) => reader.events(None, after, BEHIND_MAX / 2).map(|events| {
                        let newest = events.last().map_or(after, |event| event.number);
                        (newest, events.into_iter().map(|event| News::Event(Arc::new(event))).collect())
                    }),
                });
                // A state that fails for a while is asked again.
                let Ok(Ok((newest, news))) = news.await else { continue };
                last = Some(newest);
                for one in news {
                    // Without watchers there is nobody to tell.
                    let _ = sender.send(one);
                }
            }
        });
    }
}
