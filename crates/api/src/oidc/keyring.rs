//! The keys of one provider, and where people sign in there, kept and renewed.
//!
//! One thread asks for them: at the start, every quarter of an hour, and when a token names one that is not known, because
//! providers change keys without notice. Between two attempts there are some seconds, whatever tokens name: who sends made-up
//! ones makes this daemon ask no more often. Keys that could not be renewed for a day are not believed any more.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jsonwebtoken::Algorithm;
use leeward_site::config::Provider;
use tokio::sync::watch;

use super::endpoints::Endpoints;
use super::fetch::{self, Published};
use super::keys::Key;

/// How often keys are renewed: a key that was withdrawn is believed for so long at most.
const RENEW_EVERY: Duration = Duration::from_secs(15 * 60);
/// How long until a failed attempt is repeated.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// The least time between two attempts, whoever asks.
const PAUSE: Duration = Duration::from_secs(10);
/// For how long keys are believed that cannot be renewed.
const STALE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a request waits for keys.
const WAIT: Duration = Duration::from_secs(20);

/// What there is of a key.
pub(super) enum Lookup {
    /// These may be it.
    Found(Vec<Key>),
    /// The provider has no such key.
    Unknown,
    /// The provider's keys are not known; in words.
    Unready(String),
}

/// Gets what the provider publishes.
type Fetch = dyn Fn() -> Result<Published, String> + Send + Sync;

/// The keys of a provider. The thread ends with it.
pub(super) struct Keyring(Arc<Inner>);

struct Inner {
    /// How the provider is called in messages.
    label: String,
    fetch: Box<Fetch>,
    state: Mutex<State>,
    wake: Condvar,
    /// Counts attempts that are over.
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    published: Option<(Arc<Published>, Instant)>,
    /// When the last attempt began.
    attempted: Option<Instant>,
    is_attempting: bool,
    /// Why the last one failed.
    trouble: Option<String>,
    /// Somebody needs a key that is not there.
    is_wanted: bool,
    is_ending: bool,
}

impl State {
    /// When it is to be asked again.
    fn due(&self, now: Instant) -> Instant {
        let Some(attempted) = self.attempted else { return now };
        let pause = match (self.is_wanted, &self.trouble) {
            (true, _) => PAUSE,
            (false, Some(_)) => RETRY_AFTER,
            (false, None) => RENEW_EVERY,
        };
        attempted + pause
    }

    /// What the provider has published, as far as it is still to be believed.
    fn believed(&self, now: Instant) -> Option<&Arc<Published>> {
        let (published, fetched) = self.published.as_ref()?;
        (now.duration_since(*fetched) < STALE_MAX).then_some(published)
    }

    fn look_up(&self, id: Option<&str>, algorithm: Algorithm, now: Instant) -> Lookup {
        match self.believed(now) {
            None => {
                let why = self.trouble.as_deref().unwrap_or("they are being fetched");
                Lookup::Unready(format!("the keys of the token's issuer are not known for now: {why}"))
            }
            Some(published) => match published.keys.find(id, algorithm) {
                found if found.is_empty() => Lookup::Unknown,
                found => Lookup::Found(found),
            },
        }
    }

    /// Whether an attempt is under way, or may begin at once.
    fn may_change_soon(&self, now: Instant) -> bool {
        self.is_attempting || self.attempted.is_none_or(|attempted| now.duration_since(attempted) >= PAUSE)
    }
}

impl Keyring {
    /// Begins to keep the keys of a provider.
    ///
    /// # Errors
    /// The process gets no thread.
    pub fn start(name: &str, config: &Provider) -> std::io::Result<Self> {
        let label = format!("[server.oidc.{name}] ({})", config.issuer);
        let config = config.clone();
        Self::by(label, Box::new(move || fetch::published(&config)))
    }

    fn by(label: String, fetch: Box<Fetch>) -> std::io::Result<Self> {
        let inner = Arc::new(Inner {
            label,
            fetch,
            state: Mutex::default(),
            wake: Condvar::new(),
            news: watch::Sender::new(0),
        });
        let working = Arc::clone(&inner);
        std::thread::Builder::new().name("oidc-keys".to_owned()).spawn(move || working.work())?;
        Ok(Self(inner))
    }

    /// The keys that a token may be signed with; where none is known they are fetched first, if that was not tried just now.
    pub async fn look_up(&self, id: Option<&str>, algorithm: Algorithm) -> Lookup {
        let (found, _) = self.look_past(id, algorithm, |found| matches!(found, Lookup::Found(_))).await;
        found
    }

    /// The same, where what [`Keyring::look_up`] has found was not it: a key that has no name may have been changed. `None` where
    /// no others could be fetched.
    pub async fn look_again(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Lookup> {
        let (found, is_new) = self.look_past(id, algorithm, |_| false).await;
        is_new.then_some(found)
    }

    /// What there is; unless that is enough, what there is after an attempt, if one is possible, and whether there was one.
    async fn look_past(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        is_enough: impl Fn(&Lookup) -> bool,
    ) -> (Lookup, bool) {
        let mut news = self.0.news.subscribe();
        let seen = *news.borrow_and_update();
        {
            let mut state = self.0.lock();
            let now = Instant::now();
            let found = state.look_up(id, algorithm, now);
            if is_enough(&found) || !state.may_change_soon(now) {
                return (found, false);
            }
            if !state.is_attempting {
                state.is_wanted = true;
                self.0.wake.notify_all();
            }
        }
        // What an attempt that was under way has brought is as good as any: nobody waits twice.
        let _ = tokio::time::timeout(WAIT, news.wait_for(|count| *count > seen)).await;
        (self.0.lock().look_up(id, algorithm, Instant::now()), true)
    }

    /// How many keys there are for these algorithms, and whether the last attempt to get them failed.
    pub fn state(&self, algorithms: &[Algorithm]) -> (usize, bool) {
        let state = self.0.lock();
        let keys = state.believed(Instant::now()).map_or(0, |published| published.keys.usable(algorithms));
        (keys, state.trouble.is_some())
    }

    /// Where people sign in. Nobody is asked for it: who begins to sign in makes this daemon send nothing.
    ///
    /// # Errors
    /// It is not known, or there is no such place; in words.
    pub fn endpoints(&self) -> Result<Endpoints, String> {
        let state = self.0.lock();
        match state.believed(Instant::now()) {
            Some(published) => published.endpoints.clone(),
            // Why, is for the log: places and addresses in it are not for who has not been let in.
            None if state.trouble.is_some() => {
                Err("what it publishes cannot be had; the daemon's log says why".to_owned())
            }
            None => Err("it is being asked".to_owned()),
        }
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        self.0.lock().is_ending = true;
        self.0.wake.notify_all();
    }
}

impl Inner {
    fn work(&self) {
        while self.wait() {
            self.attempt();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is time for an attempt; false at the end.
    fn wait(&self) -> bool {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let due = state.due(now);
            if state.is_ending {
                return false;
            }
            if due <= now {
                (state.attempted, state.is_attempting, state.is_wanted) = (Some(now), true, false);
                return true;
            }
            (state, _) = self.wake.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn attempt(&self) {
        let fetched = (self.fetch)();
        let mut state = self.lock();
        state.is_attempting = false;
        match fetched {
            Ok(published) => {
                state.published = Some((Arc::new(published), Instant::now()));
                if state.trouble.take().is_some() {
                    eprintln!("leeward: {}: its keys are known again, its tokens are taken", self.label);
                }
            }
            Err(what) => {
                // Said once, not every half a minute.
                if state.trouble.as_ref() != Some(&what) {
                    let effect = match state.published {
                        Some(_) => "the keys that are known stay in use for a day",
                        None => "its tokens are not taken until they are; own tokens are",
                    };
                    eprintln!("leeward: {}: its keys cannot be had: {what}; {effect}", self.label);
                }
                state.trouble = Some(what);
            }
        }
        drop(state);
        self.news.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::keys::KeySet;
    use super::*;

    const ONE: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"one","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#;

    fn published(keys: &str) -> Published {
        let keys = KeySet::parse(keys.as_bytes()).unwrap();
        Published { keys, endpoints: Err("it has none".to_owned()) }
    }

    fn counted(result: Result<&'static str, &'static str>) -> (Keyring, Arc<AtomicU32>) {
        let count = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&count);
        let fetch = move || {
            counter.fetch_add(1, Ordering::SeqCst);
            result.map_err(str::to_owned).map(published)
        };
        (Keyring::by("test".to_owned(), Box::new(fetch)).unwrap(), count)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap()
    }

    #[test]
    fn made_up_keys_make_nobody_ask_more_often() {
        let (keyring, count) = counted(Ok(ONE));
        let began = Instant::now();
        runtime().block_on(async {
            let found = keyring.look_up(Some("one"), Algorithm::EdDSA).await;
            assert!(
                matches!(found, Lookup::Found(keys) if keys.len() == 1),
                "the first one waits for the keys"
            );
            for number in 0..500 {
                let found = keyring.look_up(Some(&number.to_string()), Algorithm::EdDSA).await;
                assert!(matches!(found, Lookup::Unknown));
            }
        });
        let most = 1 + began.elapsed().as_secs() / PAUSE.as_secs();
        assert!(u64::from(count.load(Ordering::SeqCst)) <= most + 1, "{count:?} of {most}");
    }

    #[test]
    fn a_provider_that_does_not_answer_is_told_as_such_and_asked_seldom() {
        let (keyring, count) = counted(Err("nobody answers"));
        let began = Instant::now();
        runtime().block_on(async {
            for _ in 0..100 {
                let found = keyring.look_up(None, Algorithm::EdDSA).await;
                assert!(matches!(found, Lookup::Unready(why) if why.contains("nobody answers")));
            }
        });
        assert_eq!(keyring.state(&[Algorithm::EdDSA]), (0, true));
        let most = 1 + began.elapsed().as_secs() / PAUSE.as_secs();
        assert!(u64::from(count.load(Ordering::SeqCst)) <= most + 1);
    }

    #[test]
    fn keys_are_renewed_in_time_and_not_believed_for_ever() {
        let began = Instant::now();
        let published = Some((Arc::new(published(ONE)), began));
        let mut state = State { published, attempted: Some(began), ..State::default() };
        assert_eq!(state.due(began), began + RENEW_EVERY);
        state.is_wanted = true;
        assert_eq!(state.due(began), began + PAUSE);
        (state.is_wanted, state.trouble) = (false, Some("down".to_owned()));
        assert_eq!(state.due(began), began + RETRY_AFTER);
        assert!(!state.may_change_soon(began + PAUSE / 2) && state.may_change_soon(began + PAUSE));
        let at = |now| state.look_up(Some("one"), Algorithm::EdDSA, now);
        assert!(matches!(at(began + STALE_MAX / 2), Lookup::Found(_)));
        assert!(matches!(at(began + STALE_MAX), Lookup::Unready(why) if why.contains("down")));
        assert_eq!(State::default().due(began), began);
    }
}
