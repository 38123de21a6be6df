//! A bucket over HTTP, of any service.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use leeward_store::bucket::{Bucket, Comparison, Condition, Head, Read, RequestClass, RequestCounts};
use leeward_store::{Entry, Error, Key, Lock, Locks, Result};

use crate::adapter::Adapter;
use crate::answer::{At, at};
use crate::encode::hex;
use crate::exchange;
use crate::http::{Client, Method, Request, Response};
use crate::past::{ListedVersion, Past, Shown, listed};
use crate::pieces::pieces;
use crate::service::{InParts, Page, Service};
use crate::settings::Settings;

/// How many pages a listing may have: a service that always has another one is not believed.
const PAGES_MAX: usize = 100_000;

/// The part of a bucket under a prefix.
pub struct RemoteBucket {
    service: Box<dyn Service>,
    client: Client,
    name: String,
    /// Empty, or ends with a slash.
    prefix: String,
    /// How far the service's clock was ahead of this machine's when it last answered.
    ahead: Mutex<Option<SignedDuration>>,
    /// The moment at which it is shown, if that is not now.
    past: Option<Past>,
}

impl RemoteBucket {
    /// The objects of `service` whose names begin with `prefix` and a slash, or all if `prefix` is empty. `name` is what
    /// messages call it.
    #[must_use]
    pub fn new(service: Box<dyn Service>, client: Client, name: impl Into<String>, prefix: &str) -> Self {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { service, client, name: name.into(), prefix, ahead: Mutex::new(None), past: None }
    }

    /// The same bucket as it was at a moment, which can only be read.
    #[must_use]
    pub fn at(self, time: Timestamp) -> Self {
        Self { past: Some(Past::new(time)), ..self }
    }

    fn object_name(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The request to read or look at an object: at the version that is shown.
    fn request_to_see(&self, method: Method, key: &Key) -> Result<Request> {
        let request = self.service.object(method, &self.object_name(key));
        let Some(past) = &self.past else { return Ok(request) };
        match self.past_objects(past)?.get(key) {
            Some(shown) => Ok(request.query("versionId", shown.version.as_str())),
            None => Err(Error::NotFound { store: self.name.clone(), key: key.to_string() }),
        }
    }

    /// Refuses to change the past.
    fn refuse_in_past(&self, at: &At<'_>) -> Result<()> {
        self.past.as_ref().map_or(Ok(()), |past| Err(past.denied(&self.name, at.action, at.key)))
    }

    fn past_objects<'a>(&self, past: &'a Past) -> Result<&'a BTreeMap<Key, Shown>> {
        past.objects(|| self.all_versions(), |name| Key::new(name.strip_prefix(&self.prefix)?))
    }

    /// All versions of all objects under the prefix.
    fn all_versions(&self) -> Result<Vec<ListedVersion>> {
        let at = At { store: &self.name, action: "list", key: "the versions of all objects" };
        let mut versions = Vec::new();
        let mut from = None;
        for _ in 0..PAGES_MAX {
            let request =
                self.service.versions(&self.prefix, from.as_ref()).ok_or_else(|| Error::Unsupported {
                    store: self.name.clone(),
                    what: "its service tells no versions of objects, so at=TIME shows nothing".to_owned(),
                })?;
            let response = self.send(request, RequestClass::List, &at)?;
            if !response.is_success() {
                return Err(self.refused(&response, &at, None));
            }
            let page = self.service.versions_page(&response.body).map_err(|what| at.nonsense(what))?;
            versions.extend(page.versions);
            if page.next.is_none() {
                return Ok(versions);
            }
            if page.next == from {
                return Err(at.nonsense("a listing that does not advance"));
            }
            from = page.next;
        }
        Err(at.nonsense("a listing without an end"))
    }

    /// Signs and sends, and notes what the service's clock shows.
    fn send(&self, request: Request, class: RequestClass, at: &At<'_>) -> Result<Response> {
        let response = exchange::send(self.service.as_ref(), &self.client, request, class, at)?;
        self.note_clock(&response);
        Ok(response)
    }

    fn note_clock(&self, response: &Response) {
        let told = response.header("date").and_then(crate::time::parse_http_date);
        if let Some(told) = told {
            let ahead = told.duration_since(Timestamp::now());
            *self.ahead.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(ahead);
        }
    }

    fn refused(&self, response: &Response, at: &At<'_>, condition: Option<Condition<'_>>) -> Error {
        let refusal = self.service.refusal(response);
        let hint = self.service.hint(&refusal);
        refusal.into_error(at, condition, hint)
    }

    /// Writes what is too large for one request. Nothing is seen of it until the last one.
    fn write_in_parts(
        &self,
        way: &dyn InParts,
        key: &Key,
        parts: &[&[u8]],
        condition: Condition<'_>,
    ) -> Result<()> {
        let at = at(&self.name, "write", key);
        let name = self.object_name(key);
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce)
            .map_err(|error| at.denied(format!("this machine has no random numbers: {error}")))?;
        let nonce = hex(&nonce);
        let mut count = 0;
        for piece in pieces(parts, way.part_bytes()) {
            let response = self.send(way.part(&name, &nonce, count, &piece), RequestClass::Put, &at)?;
            if !response.is_success() {
                return Err(self.refused(&response, &at, None));
            }
            count += 1;
        }
        let response = self.send(way.join(&name, &nonce, count, condition), RequestClass::Put, &at)?;
        if response.is_success() { Ok(()) } else { Err(self.refused(&response, &at, Some(condition))) }
    }

    fn page(&self, prefix: &str, from: Option<&str>, at: &At<'_>) -> Result<Page> {
        let response = self.send(self.service.list(prefix, from), RequestClass::List, at)?;
        if !response.is_success() {
            return Err(match self.refused(&response, at, None) {
                Error::NotFound { .. } => at.nonsense("there is nothing to list"),
                error => error,
            });
        }
        self.service.page(&response.body).map_err(|what| at.nonsense(what))
    }
}

impl Adapter for RemoteBucket {
    fn make(&self) -> Result<()> {
        let at = At { store: &self.name, action: "make", key: "the bucket" };
        let response = self.send(self.service.make(), RequestClass::Other, &at)?;
        let is_there = ["BucketAlreadyOwnedByYou", "BucketAlreadyExists", "ContainerAlreadyExists"];
        if response.is_success() || is_there.contains(&self.service.refusal(&response).code.as_str()) {
            return Ok(());
        }
        Err(self.refused(&response, &at, None))
    }

    fn settings(&self) -> Settings {
        let at = At { store: &self.name, action: "read", key: "the bucket's settings" };
        self.service.settings(&self.prefix, &|request| self.send(request, RequestClass::Other, &at))
    }

    fn clock_ahead(&self) -> Option<SignedDuration> {
        *self.ahead.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn use_bare_tags(&self, bare: bool) {
        self.service.use_bare_tags(bare);
    }

    fn promises(&self) -> Comparison {
        self.service.promises()
    }

    fn lag(&self) -> Duration {
        self.service.lag()
    }
}

impl Bucket for RemoteBucket {
    fn name(&self) -> &str {
        &self.name
    }

    fn requests(&self) -> Option<RequestCounts> {
        Some(self.client.requests().counts())
    }

    fn read(&self, key: &Key, range: Option<Range<u64>>, size_max: u64) -> Result<Read> {
        let at = at(&self.name, "read", key);
        let mut request = self.request_to_see(Method::GET, key)?;
        request.answer_bytes_max = size_max;
        if let Some(range) = &range {
            let last = range.end.saturating_sub(1);
            request.set_header("range", &format!("bytes={}-{last}", range.start));
            request.answer_bytes_max = range.end.saturating_sub(range.start);
        }
        let response = self.send(request, RequestClass::Get, &at)?;
        let tag = self.service.tag(&response);
        let told = response.header("content-range").and_then(total_of);
        match (response.status, range) {
            (200, None) => Ok(Read { size: response.body.len() as u64, content: response.body, tag }),
            // A service may leave the range out where it covers the whole object.
            (200, Some(range)) if range.start == 0 => {
                Ok(Read { size: response.body.len() as u64, content: response.body, tag })
            }
            (206, Some(range)) => {
                let end = range.start.saturating_add(response.body.len() as u64);
                let size = told.ok_or_else(|| at.nonsense("a range without the object's size"))?;
                if end != range.end.min(size) {
                    return Err(at.nonsense("another range than was asked for"));
                }
                Ok(Read { content: response.body, size, tag })
            }
            (416, Some(_)) => Ok(Read { content: Vec::new(), size: told.unwrap_or(0), tag }),
            _ if response.is_success() => Err(at.nonsense("it is not the range that was asked for")),
            _ => Err(self.refused(&response, &at, None)),
        }
    }

    fn head(&self, key: &Key) -> Result<Head> {
        let at = at(&self.name, "look at", key);
        let request = self.request_to_see(Method::HEAD, key)?;
        let response = self.send(request, RequestClass::Head, &at)?;
        if !response.is_success() {
            return Err(self.refused(&response, &at, None));
        }
        let size = response.header("content-length").and_then(|size| size.parse().ok());
        let size = size.ok_or_else(|| at.nonsense("an object without a size"))?;
        Ok(Head { size, tag: self.service.tag(&response) })
    }

    fn write(&self, key: &Key, parts: &[&[u8]], condition: Condition<'_>) -> Result<()> {
        let at = at(&self.name, "write", key);
        self.refuse_in_past(&at)?;
        let size: usize = parts.iter().map(|part| part.len()).sum();
        if let Some(way) = self.service.in_parts().filter(|way| size > way.part_bytes()) {
            return self.write_in_parts(way, key, parts, condition);
        }
        let mut request = self.service.object(Method::PUT, &self.object_name(key)).body(parts);
        self.service.prepare_write(&mut request, condition);
        let response = self.send(request, RequestClass::Put, &at)?;
        if response.is_success() { Ok(()) } else { Err(self.refused(&response, &at, Some(condition))) }
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let at = at(&self.name, "delete", key);
        self.refuse_in_past(&at)?;
        let request = self.service.object(Method::DELETE, &self.object_name(key));
        let response = self.send(request, RequestClass::Delete, &at)?;
        if response.is_success() {
            return Ok(());
        }
        match self.refused(&response, &at, None) {
            Error::NotFound { .. } => Ok(()),
            error => Err(error),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        if let Some(past) = &self.past {
            return Ok(listed(self.past_objects(past)?, prefix));
        }
        let at = At { store: &self.name, action: "list", key: prefix };
        let whole = format!("{}{prefix}/", self.prefix);
        let mut entries = Vec::new();
        let mut from: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let page = self.page(&whole, from.as_deref(), &at)?;
            entries.extend(page.objects.into_iter().filter_map(|object| {
                // What is no key is nobody's object here.
                let key = Key::new(object.name.strip_prefix(&self.prefix)?)?;
                key.as_str()
                    .starts_with(&whole[self.prefix.len()..])
                    .then_some(Entry { key, size: object.size })
            }));
            if page.next.is_none() {
                entries.sort_by(|a, b| a.key.cmp(&b.key));
                return Ok(entries);
            }
            if page.next == from {
                return Err(at.nonsense("a listing that does not advance"));
            }
            from = page.next;
        }
        Err(at.nonsense("a listing without an end"))
    }

    fn locks(&self) -> Option<&dyn Locks> {
        (self.service.has_locks() && self.past.is_none()).then_some(self as &dyn Locks)
    }
}

impl Locks for RemoteBucket {
    fn lock_of(&self, key: &Key) -> Result<Option<Lock>> {
        let at = at(&self.name, "look at", key);
        let response = self.send(self.request_to_see(Method::HEAD, key)?, RequestClass::Head, &at)?;
        if !response.is_success() {
            return Err(self.refused(&response, &at, None));
        }
        Ok(self.service.lock_in(&response).filter(|lock| lock.until > self.clock()))
    }

    fn lock(&self, key: &Key, lock: Lock) -> Result<()> {
        let at = at(&self.name, "lock", key);
        self.refuse_in_past(&at)?;
        let request = self.service.lock(&self.object_name(key), lock).ok_or_else(|| Error::Unsupported {
            store: self.name.clone(),
            what: "its service locks no objects".to_owned(),
        })?;
        let response = self.send(request, RequestClass::Other, &at)?;
        if response.is_success() { Ok(()) } else { Err(self.refused(&response, &at, None)) }
    }

    fn clock(&self) -> SystemTime {
        let ahead = self.clock_ahead().unwrap_or_default();
        Timestamp::now().checked_add(ahead).map_or_else(|_| SystemTime::now(), SystemTime::from)
    }
}

/// The object's size in a `Content-Range` header: `bytes 0-9/100` or `bytes */100`.
pub(crate) fn total_of(header: &str) -> Option<u64> {
    header.rsplit_once('/')?.1.parse().ok()
}
