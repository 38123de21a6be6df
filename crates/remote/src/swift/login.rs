//! The token that all requests carry: fetched once, renewed before it expires and when it is refused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use leeward_store::bucket::{Backoff, RetryPolicy};

use super::account::Account;
use crate::answer::At;
use crate::error::Result;
use crate::http::{Client, Request};
use crate::keystone::{Keystone, address, split};
use crate::location::Location;
use crate::secret::Secret;

/// How long before it expires a token is renewed: longer than a large upload on a slow line should take.
const EARLY: SignedDuration = SignedDuration::from_mins(5);
/// A token that was renewed so shortly ago was renewed for this refusal too, by another thread.
const JUST_NOW: Duration = Duration::from_secs(2);
/// A login is tried again a few times; what lasts longer is told.
const POLICY: RetryPolicy =
    RetryPolicy { times_max: 5, first: Duration::from_millis(200), longest: Duration::from_secs(5) };

/// A token, and where it is good.
pub(super) struct Session {
    pub(super) origin: String,
    /// The storage's path, without a slash at the end.
    pub(super) path: String,
    pub(super) token: Secret,
    pub(super) expires: Option<Timestamp>,
}

/// How to reach a service that gives tokens.
pub(super) struct Way<'a> {
    pub(super) client: &'a Client,
    pub(super) location: &'a Location,
}

impl Way<'_> {
    /// Origin and path of an address, if secrets may be sent there.
    pub(super) fn split(&self, address: &str) -> Result<(String, String), String> {
        self.checked(split(address)?)
    }

    /// The same origin and path, if secrets may be sent there.
    pub(super) fn checked(&self, (origin, path): (String, String)) -> Result<(String, String), String> {
        let origin = self.location.origin(&origin).map_err(|error| error.to_string())?;
        Ok((origin, path))
    }
}

struct State {
    session: Arc<Session>,
    renewed: Option<Instant>,
}

/// An account that is logged in.
pub(super) struct Login {
    account: Account,
    location: Location,
    client: Client,
    state: Mutex<State>,
}

impl Login {
    /// Logs in for the first time.
    pub(super) fn first(location: &Location, account: Account, client: &Client) -> Result<Self> {
        let session = Arc::new(log_in(location, &account, client)?);
        let state = Mutex::new(State { session, renewed: None });
        Ok(Self { account, location: location.clone(), client: client.clone(), state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path of the storage.
    pub(super) fn storage_path(&self) -> String {
        self.state().session.path.clone()
    }

    /// Completes a request whose path begins with the container: with the storage's address and a token.
    pub(super) fn sign(&self, request: &mut Request) -> Result<(), String> {
        let session = self.session()?;
        request.origin.clone_from(&session.origin);
        request.path = format!("{}{}", session.path, request.path);
        request.set_header("x-auth-token", session.token.reveal());
        Ok(())
    }

    /// The present token, renewed when it is about to expire.
    fn session(&self) -> Result<Arc<Session>, String> {
        let mut state = self.state();
        let left = state.session.expires.map(|expires| expires.duration_since(Timestamp::now()));
        if left.is_some_and(|left| left < EARLY) {
            match log_in(&self.location, &self.account, &self.client) {
                Ok(session) => *state = State { session: Arc::new(session), renewed: Some(Instant::now()) },
                // It is good for a while yet.
                Err(_) if left.is_some_and(|left| left.is_positive()) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(Arc::clone(&state.session))
    }

    /// Fetches another token after this one was refused; other threads wait for it. `false` when that fails too.
    pub(super) fn renew(&self) -> bool {
        let mut state = self.state();
        if state.renewed.is_some_and(|renewed| renewed.elapsed() < JUST_NOW) {
            return true;
        }
        let Ok(session) = log_in(&self.location, &self.account, &self.client) else {
            return false;
        };
        *state = State { session: Arc::new(session), renewed: Some(Instant::now()) };
        true
    }
}

fn log_in(location: &Location, account: &Account, client: &Client) -> leeward_store::Result<Session> {
    let name = location.to_string();
    let at = At { store: &name, action: "log in to", key: "the account" };
    let way = Way { client, location };
    let mut backoff = Backoff::new(POLICY);
    loop {
        let session = match account {
            Account::Keystone(keystone) => by_keystone(keystone, &way, &at),
            Account::V1(v1) => v1.log_in(&way, &at),
        };
        match session {
            Err(error) if backoff.pause(&error) => {}
            other => return other,
        }
    }
}

fn by_keystone(keystone: &Keystone, way: &Way<'_>, at: &At<'_>) -> leeward_store::Result<Session> {
    let check = |origin: &str| way.checked((origin.to_owned(), String::new())).map(|(origin, _)| origin);
    let granted = keystone.token(way.client, &check, at)?;
    let service = ("object store", &["object-store"][..]);
    let url = address(&granted.catalogue, service, keystone.region.as_deref(), &keystone.interface);
    let url = url.map_err(|what| at.denied(what))?;
    let (origin, path) = split(url).and_then(|parts| way.checked(parts)).map_err(|what| at.denied(what))?;
    Ok(Session { origin, path, token: granted.token, expires: granted.expires })
}
