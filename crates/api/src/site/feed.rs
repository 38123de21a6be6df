//! What happens, handed on to all who watch: one reader of the state for however many of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use leeward_runs::state::{State, StoredEvent};
use tokio::sync::broadcast;

/// How often the state is asked for news.
const EVERY: Duration = Duration::from_millis(250);
/// Events that a slow watcher may be behind before it reads them from the state instead.
const BEHIND_MAX: usize = 1024;
/// Watchers at once.
pub(super) const WATCHERS_MAX: usize = 512;

/// Hands on what happens.
pub(super) struct Feed {
    state: Arc<dyn State>,
    sender: broadcast::Sender<Arc<StoredEvent>>,
    watchers: Arc<AtomicUsize>,
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
        Self { state, sender, watchers: Arc::default(), started: OnceLock::new() }
    }

    /// The state that is read.
    pub fn state(&self) -> &Arc<dyn State> {
        &self.state
    }

    /// One more watcher; `None` where there are too many.
    pub fn watch(&self) -> Option<(Watcher, broadcast::Receiver<Arc<StoredEvent>>)> {
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
                    None => reader.last_event().map(|last| (last, Vec::new())),
                    Some(after) => reader
                        .events(None, after, BEHIND_MAX / 2)
                        .map(|events| (events.last().map_or(after, |event| event.number), events)),
                });
                // A state that fails for a while is asked again.
                let Ok(Ok((newest, events))) = news.await else { continue };
                last = Some(newest);
                for event in events {
                    // Without watchers there is nobody to tell.
                    let _ = sender.send(Arc::new(event));
                }
            }
        });
    }
}
