//! Sends signed requests, and again where that helps.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use leeward_remote::http::{self, Client, Method, Request, Response};
use leeward_remote::oci::Clock;
use leeward_remote::{Environment, oci};
use leeward_store::bucket::{RequestClass, Requests};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::identity::Identity;
use super::{Settings, refusal};
use crate::provider::{Fault, LISTED_MAX};
use crate::{Error, ErrorKind, Result};

/// How long no byte may move; the services answer in seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest answer that is taken, in bytes: a page of a thousand volumes with all their tags.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// The most pages that a list may have; a service may give pages of few things, but not for ever.
const PAGES_MAX: usize = 1_000;
/// How often a call is repeated that failed in passing.
const REPEATS_MAX: u32 = 4;
/// The first pause; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that the service may ask for; a longer one is the caller's matter.
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// The client that the settings ask for.
pub(super) fn client(settings: &Settings, environment: &Environment) -> Result<Client> {
    let path = settings.authority.clone().or_else(|| environment.get("LEEWARD_CA_FILE").map(Into::into));
    let requests = Arc::new(Requests::default());
    let made = match &path {
        None => Client::new(requests),
        Some(path) => {
            let pem = std::fs::read(path)
                .map_err(|source| Error::io(path.display().to_string(), "read the authorities", source))?;
            Client::trusting(requests, &pem)
        }
    };
    let made = made.map_err(|fault| Error::refused("oci", "set up TLS", fault.to_string()))?;
    Ok(made.with_idle_timeout(IDLE_TIMEOUT))
}

/// One identity's way to the services.
pub(super) struct Caller {
    name: String,
    http: Client,
    identity: Identity,
}

impl Caller {
    pub(super) fn new(name: String, http: Client, identity: Identity) -> Self {
        Self { name, http, identity }
    }

    pub(super) fn with_clock(self, clock: Clock) -> Self {
        let identity = match self.identity {
            Identity::Key(signer) => Identity::Key(Box::new(signer.with_clock(clock))),
            instance @ Identity::Instance(_) => instance,
        };
        Self { identity, ..self }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Sends a request that may be repeated: it reads, or names what is to be (PUT, DELETE), or has a retry token. What
    /// fails in passing is repeated a few times.
    pub(super) fn call(&self, action: &str, request: &Request) -> Result<Response> {
        let mut repeats = 0;
        loop {
            let error = match self.once(action, request) {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            match pause(&error, repeats) {
                Some(pause) => thread::sleep(pause),
                None => return Err(error),
            }
            repeats += 1;
        }
    }

    /// The same, for an answer that tells of something.
    pub(super) fn ask<T: DeserializeOwned>(&self, action: &str, request: &Request) -> Result<T> {
        let response = self.call(action, request)?;
        self.read(action, &response)
    }

    /// A call with a body.
    pub(super) fn tell<T: DeserializeOwned>(
        &self,
        action: &str,
        mut request: Request,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Error::refused(self.name(), action, format!("it cannot be written: {error}")))?;
        request.set_header("content-type", "application/json");
        self.ask(action, &request.body(&[&body]))
    }

    /// All pages of a list.
    pub(super) fn pages<T: DeserializeOwned>(&self, action: &str, request: &Request) -> Result<Vec<T>> {
        let mut all: Vec<T> = Vec::new();
        let mut page: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let request = page.iter().fold(request.clone(), |request, page| request.query("page", page));
            let response = self.call(action, &request)?;
            let mut items: Vec<T> = self.read(action, &response)?;
            all.append(&mut items);
            let next = response.header("opc-next-page").filter(|next| !next.is_empty()).map(str::to_owned);
            match next {
                None => return Ok(all),
                Some(_) if next == page || all.len() > LISTED_MAX => break,
                Some(next) => page = Some(next),
            }
        }
        Err(self.nonsense(action, "the list has no end"))
    }

    pub(super) fn nonsense(&self, action: &str, what: impl std::fmt::Display) -> Error {
        let what = format!("the answer makes no sense ({what}); see that the endpoint is right");
        Fault::new(ErrorKind::Protocol, self.name(), action, what).into()
    }

    fn read<T: DeserializeOwned>(&self, action: &str, response: &Response) -> Result<T> {
        serde_json::from_slice(&response.body).map_err(|error| self.nonsense(action, error))
    }

    fn once(&self, action: &str, request: &Request) -> Result<Response> {
        let mut response = self.send(action, request)?;
        if response.status == 401 && self.identity.renew() {
            response = self.send(action, request)?;
        }
        if response.is_success() { Ok(response) } else { Err(self.refused(action, &response)) }
    }

    fn send(&self, action: &str, request: &Request) -> Result<Response> {
        let mut request = request.clone();
        request.answer_bytes_max = ANSWER_BYTES_MAX;
        self.identity.sign(&self.name, &mut request)?;
        let class = if request.method == Method::GET { RequestClass::Get } else { RequestClass::Other };
        self.http.send(request, class).map_err(|fault| broken(&self.name, action, &fault))
    }

    fn refused(&self, action: &str, response: &Response) -> Error {
        let refusal = oci::refusal::read(response, self.identity.now());
        let what = if refusal.message.is_empty() {
            format!("the service answered {}", refusal.status)
        } else {
            refusal.message.clone()
        };
        let mut fault = Fault::new(refusal::kind(&refusal), self.name(), action, what);
        fault.hint = refusal::hint(&refusal, self.identity.hint());
        fault.request = response.header("opc-request-id").map(str::to_owned);
        fault.wait = refusal.wait;
        fault.code = refusal.code;
        fault.into()
    }
}

/// The error of a request that got no answer.
pub(super) fn broken(name: &str, action: &str, fault: &http::Fault) -> Error {
    let kind = match fault {
        fault if fault.is_transient() => ErrorKind::Passing,
        http::Fault::TooLarge { .. } => ErrorKind::Protocol,
        http::Fault::Impossible { .. } => ErrorKind::Refused,
        _ => ErrorKind::Io,
    };
    Fault::new(kind, name, action, fault.to_string()).into()
}

/// How long to pause after an error before the next attempt; `None` when there is none.
fn pause(error: &Error, repeats: u32) -> Option<Duration> {
    let asked = error.wait().unwrap_or_default();
    if !error.is_passing() || repeats >= REPEATS_MAX || asked > PAUSE_MAX {
        return None;
    }
    let bound = FIRST_PAUSE.saturating_mul(1 << repeats.min(16));
    let mut byte = [0];
    // Between half and all of the bound, so that many clients do not come back together; all of it without randomness.
    let part = getrandom::fill(&mut byte).map_or(1.0, |()| f64::from(byte[0]) / 255.0);
    Some(bound.mul_f64(0.5 + 0.5 * part).max(asked))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::pause;
    use crate::provider::Fault;
    use crate::{Error, ErrorKind};

    #[test]
    fn pauses_grow_keep_to_what_is_asked_and_end() {
        let mut fault = Fault::new(ErrorKind::Passing, "p", "a", "w");
        let error = Error::from(fault.clone());
        assert!((125..=250).contains(&pause(&error, 0).unwrap().as_millis()));
        assert!((1000..=2000).contains(&pause(&error, 3).unwrap().as_millis()));
        assert_eq!(pause(&error, 4), None);
        fault.wait = Some(Duration::from_secs(3));
        assert_eq!(pause(&fault.clone().into(), 0), Some(Duration::from_secs(3)));
        fault.wait = Some(Duration::from_secs(21));
        assert_eq!(pause(&fault.clone().into(), 0), None);
        fault.kind = ErrorKind::Limit;
        fault.wait = None;
        assert_eq!(pause(&fault.into(), 0), None);
    }
}
