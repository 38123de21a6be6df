//! Sends requests with the project's token, and again where that helps.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use jiff::SignedDuration;
use leeward_remote::Environment;
use leeward_remote::http::{self, Client, Feed, Method, Request, Response};
use leeward_remote::openstack::{self, IMAGES, Service, Session};
use leeward_store::bucket::{RequestClass, Requests};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::refusal;
use crate::provider::{Fault, LISTED_MAX};
use crate::{Error, ErrorKind, Result};

/// How long no byte may move: Glance may think about the end of a large image for a while.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// The largest answer that is taken, in bytes: a page of a thousand volumes with all their metadata.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// The most pages that a list may have.
const PAGES_MAX: usize = 1_000;
/// How often a call is repeated that failed in passing.
const REPEATS_MAX: u32 = 4;
/// The first pause; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that the service may ask for; a longer one is the caller's matter.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// How long a token is to be good for a request, and for an upload: Glance looks at it when the upload begins, and some stores
/// behind it again at the end.
const FOR_A_REQUEST: SignedDuration = SignedDuration::from_secs(60);
const FOR_AN_UPLOAD: SignedDuration = SignedDuration::from_mins(45);

/// The client, which trusts this file's authorities beside the system's.
pub(super) fn client(authority: Option<PathBuf>, environment: &Environment) -> Result<Client> {
    let path = authority.or_else(|| environment.get("LEEWARD_CA_FILE").map(Into::into));
    let requests = Arc::new(Requests::default());
    let made = match &path {
        None => Client::new(requests),
        Some(path) => {
            let pem = std::fs::read(path)
                .map_err(|source| Error::io(path.display().to_string(), "read the authorities", source))?;
            Client::trusting(requests, &pem)
        }
    };
    let made = made.map_err(|fault| Error::refused("openstack", "set up TLS", fault.to_string()))?;
    Ok(made.with_idle_timeout(IDLE_TIMEOUT))
}

/// Finds the address of the next page in one.
type Next<'a> = dyn Fn(&Value) -> Option<String> + 'a;

/// One project's way to the services.
pub(super) struct Caller {
    name: String,
    http: Client,
    session: Session,
}

impl Caller {
    pub(super) fn new(name: String, http: Client, session: Session) -> Self {
        Self { name, http, session }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Sends a request that may be repeated: it reads or removes. What fails in passing is repeated a few times.
    pub(super) fn call(&self, action: &str, service: Service, request: &Request) -> Result<Response> {
        let mut repeats = 0;
        loop {
            let error = match self.once(action, service, request) {
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
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        action: &str,
        service: Service,
        request: &Request,
    ) -> Result<T> {
        let response = self.call(action, service, request)?;
        self.read(action, &response)
    }

    /// Sends a request with a body, once: it makes or changes something.
    pub(super) fn tell(
        &self,
        action: &str,
        service: Service,
        request: Request,
        body: &Value,
    ) -> Result<Response> {
        let request = request.header("content-type", "application/json").body(&[body.to_string().as_bytes()]);
        self.once(action, service, &request)
    }

    /// All pages of a list: the things under `key`, the address of the next page as `next` finds it.
    pub(super) fn pages<T: DeserializeOwned>(
        &self,
        action: &str,
        service: Service,
        request: &Request,
        (key, next): (&str, &Next<'_>),
    ) -> Result<Vec<T>> {
        let mut all: Vec<T> = Vec::new();
        let mut marker: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let request =
                marker.iter().fold(request.clone(), |request, marker| request.query("marker", marker));
            let mut page: Value = self.ask(action, service, &request)?;
            let items = page.get_mut(key).map(Value::take).unwrap_or_default();
            let mut items: Vec<T> =
                serde_json::from_value(items).map_err(|error| self.nonsense(action, error))?;
            let is_empty = items.is_empty();
            all.append(&mut items);
            match next(&page).and_then(|link| marker_of(&link)) {
                None => return Ok(all),
                Some(_) if is_empty => return Ok(all),
                Some(next) if marker.as_ref() == Some(&next) || all.len() > LISTED_MAX => break,
                Some(next) => marker = Some(next),
            }
        }
        Err(self.nonsense(action, "the list has no end"))
    }

    /// Begins an upload.
    pub(super) fn upload(&self, action: &str, mut request: Request, bytes: u64) -> Result<Feed> {
        self.sign(action, IMAGES, FOR_AN_UPLOAD, &mut request)?;
        request.set_header("content-type", "application/octet-stream");
        self.http.feed(request, bytes, RequestClass::Other).map_err(|fault| self.broken(action, &fault))
    }

    /// What came of an upload. A token that was refused is renewed, for the next.
    pub(super) fn uploaded(&self, action: &str, answer: Result<Response, http::Fault>) -> Result<()> {
        let response = answer.map_err(|fault| self.broken(action, &fault))?;
        if response.is_success() {
            return Ok(());
        }
        let refused = self.refused(action, &response);
        if response.status == 401 && self.session.renew() {
            let what = "the token ended; there is a new one for the next attempt";
            return Err(Fault::new(ErrorKind::Passing, self.name(), action, what).into());
        }
        Err(refused)
    }

    pub(super) fn nonsense(&self, action: &str, what: impl std::fmt::Display) -> Error {
        let what = format!("the answer makes no sense ({what}); see that the endpoint is right");
        Fault::new(ErrorKind::Protocol, self.name(), action, what).into()
    }

    pub(super) fn read<T: DeserializeOwned>(&self, action: &str, response: &Response) -> Result<T> {
        serde_json::from_slice(&response.body).map_err(|error| self.nonsense(action, error))
    }

    fn once(&self, action: &str, service: Service, request: &Request) -> Result<Response> {
        let mut response = self.send(action, service, request)?;
        if response.status == 401 && self.session.renew() {
            response = self.send(action, service, request)?;
        }
        if response.is_success() { Ok(response) } else { Err(self.refused(action, &response)) }
    }

    fn send(&self, action: &str, service: Service, request: &Request) -> Result<Response> {
        let mut request = request.clone().header("accept", "application/json");
        request.answer_bytes_max = ANSWER_BYTES_MAX;
        self.sign(action, service, FOR_A_REQUEST, &mut request)?;
        let class = if request.method == Method::GET { RequestClass::Get } else { RequestClass::Other };
        self.http.send(request, class).map_err(|fault| self.broken(action, &fault))
    }

    fn sign(
        &self,
        action: &str,
        service: Service,
        good_for: SignedDuration,
        request: &mut Request,
    ) -> Result<()> {
        self.session.sign(service, good_for, request).map_err(|error| {
            let kind = match error.kind() {
                leeward_store::ErrorKind::Denied => ErrorKind::Denied,
                _ if error.is_transient() => ErrorKind::Passing,
                _ => ErrorKind::Io,
            };
            Fault::new(kind, self.name(), action, leeward_store::with_causes(&error)).into()
        })
    }

    fn broken(&self, action: &str, fault: &http::Fault) -> Error {
        let kind = match fault {
            fault if fault.is_transient() => ErrorKind::Passing,
            http::Fault::TooLarge { .. } => ErrorKind::Protocol,
            http::Fault::Impossible { .. } => ErrorKind::Refused,
            _ => ErrorKind::Io,
        };
        Fault::new(kind, self.name(), action, fault.to_string()).into()
    }

    fn refused(&self, action: &str, response: &Response) -> Error {
        let refusal = openstack::refusal(response);
        let what = match refusal.message.is_empty() {
            true => format!("the service answered {}", refusal.status),
            false => refusal.message.clone(),
        };
        let mut fault = Fault::new(refusal::kind(&refusal), self.name(), action, what);
        fault.hint = refusal::hint(&refusal);
        fault.request = ["x-openstack-request-id", "x-compute-request-id"]
            .iter()
            .find_map(|name| response.header(name))
            .map(str::to_owned);
        fault.wait = refusal.wait.filter(|wait| !wait.is_zero());
        fault.code = refusal.code;
        fault.into()
    }
}

/// A request of Cinder.
pub(super) fn cinder(method: Method, path: &str) -> Request {
    Request::new(method, "", path)
}

/// A request of Glance.
pub(super) fn glance(method: Method, path: &str) -> Request {
    Request::new(method, "", format!("/v2{path}"))
}

/// The marker in the address of a next page. The address itself is not followed: the token goes where the catalogue says.
fn marker_of(link: &str) -> Option<String> {
    let query = link.split_once('?')?.1;
    let value = query.split('&').find_map(|pair| pair.strip_prefix("marker="))?;
    let is_id = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (!value.is_empty() && value.bytes().all(is_id)).then(|| value.to_owned())
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
    use super::marker_of;

    #[test]
    fn of_a_next_page_only_the_marker_is_taken() {
        let id = "6e7a3b5c-0000-4000-8000-000000000001";
        assert_eq!(marker_of(&format!("/v2/images?limit=2&marker={id}")).as_deref(), Some(id));
        assert_eq!(
            marker_of(&format!("http://elsewhere/v3/p/volumes?marker={id}&limit=1")).as_deref(),
            Some(id)
        );
        for wrong in ["", "/v2/images", "/v2/images?marker=", "/v2/images?marker=a%2fb", "/v2/images?limit=1"]
        {
            assert_eq!(marker_of(wrong), None, "{wrong}");
        }
    }
}
