//! The store on the other side of the wire.
//!
//! A [`HttpStore`] speaks to a Leeward server. What may be repeated is repeated when the way fails; what may have been done
//! though its answer was lost is settled by reading. The server is not trusted: sizes, versions, listings and what it has
//! acknowledged are compared with each other, and what does not fit is told as [`leeward_store::Error::Contradiction`] with
//! the server's name. (What the bytes of objects are worth, the repository finds out by their digests.)

mod control;
mod handshake;
mod lanes;
mod location;
mod object;
mod retry;
mod site;
mod tls;
mod transport;
mod trust;
mod work;

pub use control::{PACKS_OF_TRANSFER_MAX, PassText, ServerControl, TransferOrder};
pub use location::Location;
pub use retry::Patience;
pub use site::{SiteClient, SiteError};
pub use tls::{Trust, check_trust};
pub use work::{OrderObjects, WorkClient};

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hyper::Method;
use leeward_store::bucket::{RequestCounts, Requests};
use leeward_store::{Entry, Error, Key, Object, Result, Store, Version};
use serde::Deserialize;

use crate::limits::{PAGE_BYTES_MAX, Pace, RECORD_BYTES_MAX, size_max};
use crate::problem::Code;
use crate::token::TokenText;
use object::HttpObject;
use retry::Failed;
use transport::{Answer, Condition, Request, Transport};

/// Writes at once that pay, each over a connection of its own and with a pack of tens of MiB in memory.
const REQUESTS_AT_ONCE: usize = 6;

/// Bounds of a client.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// How slow the server may be.
    pub pace: Pace,
    /// How long the server may think before it answers.
    pub answer_time: std::time::Duration,
    /// What is done about failures that may pass.
    pub patience: Patience,
    /// The most objects of a listing.
    pub entries_max: usize,
    /// The most connections; one is opened when all others have a request under way.
    pub connections: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            pace: Pace::default(),
            answer_time: std::time::Duration::from_secs(180),
            patience: Patience::default(),
            entries_max: 8_000_000,
            connections: 16,
        }
    }
}

/// A repository's store behind a server.
pub struct HttpStore {
    shared: Arc<Shared>,
    /// Sizes of what the server has acknowledged since its prefix was last settled.
    acknowledged: Mutex<BTreeMap<Key, u64>>,
}

/// What objects that are open need as well.
struct Shared {
    transport: Transport,
    name: String,
    options: ClientOptions,
    requests: Requests,
}

#[derive(Deserialize)]
struct Page {
    entries: Vec<PageEntry>,
    more: bool,
}

#[derive(Deserialize)]
struct PageEntry {
    key: String,
    size: u64,
}

impl HttpStore {
    /// A store at a location. Nothing is sent yet.
    ///
    /// # Errors
    /// The certificates that are trusted make no sense, or the system gives no threads.
    pub fn new(location: &Location, token: TokenText, trust: &Trust, options: ClientOptions) -> Result<Self> {
        let unsupported = |what| Error::Unsupported { store: location.to_string(), what };
        let transport = Transport::new(location, &token, trust, &options).map_err(unsupported)?;
        let shared = Arc::new(Shared {
            transport,
            name: location.to_string(),
            options,
            requests: Requests::default(),
        });
        Ok(Self { shared, acknowledged: Mutex::default() })
    }

    fn acknowledged(&self) -> MutexGuard<'_, BTreeMap<Key, u64>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an object holds and which version the server says that it has.
    fn fetch(&self, key: &Key, size_max: u64) -> Result<(Vec<u8>, Version)> {
        let request = Request::new(Method::GET, &object_path(key)).taking(size_max);
        let answer = self.shared.repeat("read", key.as_str(), &request)?;
        let version = Version::of(&answer.body);
        match answer.version {
            Some(told) if told != version => Err(self.shared.contradiction(
                key.as_str(),
                format!("the server sent bytes of version {version} and said that it is {told}"),
            )),
            _ => Ok((answer.body, version)),
        }
    }

    /// Whether the object is there with this content. Packs, runs and manifests are named by their content, which the server
    /// has checked, and which not everybody may read: there the size has to do.
    fn holds(&self, key: &Key, content: &[Bytes]) -> Result<bool> {
        let size: u64 = content.iter().map(|part| part.len() as u64).sum();
        if is_named_by_content(key) {
            return match self.shared.size_of(key) {
                Ok(found) => Ok(found == size),
                Err(Error::NotFound { .. }) => Ok(false),
                Err(error) => Err(error),
            };
        }
        match self.fetch(key, size) {
            Ok((found, _)) => Ok(found == content.concat()),
            Err(Error::NotFound { .. } | Error::TooLarge { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes; when the answer is lost, reads what has become of it before it tries again.
    fn put(&self, key: &Key, content: &[Bytes], condition: &Condition) -> Result<()> {
        let request =
            Request::new(Method::PUT, &object_path(key)).with_body(content).on_condition(condition.clone());
        let mut attempts = self.shared.attempts();
        let mut may_be_done = false;
        loop {
            match self.shared.once("write", key.as_str(), &request) {
                Ok(answer) => return self.shared.written(key, content, &answer),
                Err(failed) if failed.is_transient => {
                    may_be_done |= failed.may_be_done;
                    if may_be_done {
                        match self.holds(key, content) {
                            Ok(true) => return Ok(()),
                            Ok(false) => {}
                            // Nobody can say whether it was written; the first reason is the one to tell.
                            Err(_) => return Err(failed.error),
                        }
                    }
                    attempts.wait(failed.error)?;
                }
                Err(failed) => {
                    let refused =
                        matches!(failed.error, Error::AlreadyExists { .. } | Error::Conflict { .. });
                    return match may_be_done && refused && self.holds(key, content)? {
                        true => Ok(()),
                        false => Err(failed.error),
                    };
                }
            }
        }
    }

    fn page(&self, prefix: &str, after: &str) -> Result<Page> {
        let path = format!("/v1/objects?prefix={}&after={}", encode(prefix), encode(after));
        let request = Request::new(Method::GET, &path).taking(PAGE_BYTES_MAX);
        let answer = self.shared.repeat("list", prefix, &request)?;
        serde_json::from_slice(&answer.body).map_err(|error| {
            self.shared.contradiction(prefix, format!("its listing cannot be read: {error}"))
        })
    }

    /// Everything that this process has written and the server has acknowledged must be in its listing.
    fn compare_with_acknowledged(&self, prefix: &str) -> Result<()> {
        let is_under =
            |key: &Key| key.as_str().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        let mut expected = self.acknowledged().clone();
        expected.retain(|key, _| is_under(key));
        if expected.is_empty() {
            return Ok(());
        }
        let listed: BTreeMap<Key, u64> =
            self.list(prefix)?.into_iter().map(|entry| (entry.key, entry.size)).collect();
        for (key, size) in &expected {
            if listed.get(key) != Some(size) {
                return Err(self.shared.contradiction(
                    key.as_str(),
                    format!(
                        "the server acknowledged that it stored these {size} bytes, and now {}",
                        listed
                            .get(key)
                            .map_or("does not have them".to_owned(), |found| format!("lists {found} bytes"))
                    ),
                ));
            }
        }
        self.acknowledged().retain(|key, _| !expected.contains_key(key));
        Ok(())
    }
}

impl Shared {
    fn contradiction(&self, key: &str, what: String) -> Error {
        Error::Contradiction { store: self.name.clone(), key: key.to_owned(), what }
    }

    fn size_of(&self, key: &Key) -> Result<u64> {
        let answer = self.repeat("open", key.as_str(), &Request::new(Method::HEAD, &object_path(key)))?;
        let size = answer
            .length
            .ok_or_else(|| self.contradiction(key.as_str(), "the server tells no size".to_owned()))?;
        match size <= size_max(key) {
            true => Ok(size),
            false => Err(Error::TooLarge {
                store: self.name.clone(),
                key: key.to_string(),
                size,
                size_max: size_max(key),
            }),
        }
    }

    fn written(&self, key: &Key, content: &[Bytes], answer: &Answer) -> Result<()> {
        let version = Version::of(&content.concat());
        match &answer.version {
            Some(told) if *told == version => Ok(()),
            told => Err(self.contradiction(
                key.as_str(),
                format!(
                    "version {version} was written and the server acknowledged {}",
                    told.as_ref().map_or("none".to_owned(), ToString::to_string)
                ),
            )),
        }
    }
}

fn is_named_by_content(key: &Key) -> bool {
    ["packs/", "index/", "snapshots/"].iter().any(|prefix| key.as_str().starts_with(prefix))
}

fn object_path(key: &Key) -> String {
    format!("/v1/objects/{}", encode(key.as_str()))
}

/// Keys and prefixes have letters, digits, `-`, `_`, `.`, `/` and `%`; only the last means something else in a URL.
fn encode(text: &str) -> String {
    text.replace('%', "%25")
}

fn copied(parts: &[&[u8]]) -> Vec<Bytes> {
    parts.iter().filter(|part| !part.is_empty()).map(|part| Bytes::copy_from_slice(part)).collect()
}

impl Store for HttpStore {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn requests(&self) -> Option<RequestCounts> {
        Some(self.shared.requests.counts())
    }

    fn requests_at_once(&self) -> usize {
        REQUESTS_AT_ONCE
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn Object>> {
        let size = self.shared.size_of(key)?;
        Ok(Arc::new(HttpObject { shared: Arc::clone(&self.shared), key: key.clone(), size }))
    }

    fn get(&self, key: &Key, bytes_max: u64) -> Result<(Vec<u8>, Version)> {
        self.fetch(key, bytes_max.min(size_max(key)))
    }

    fn put_if_absent(&self, key: &Key, parts: &[&[u8]]) -> Result<()> {
        let content = copied(parts);
        self.put(key, &content, &Condition::Absent)?;
        if is_named_by_content(key) {
            self.acknowledged().insert(key.clone(), content.iter().map(|part| part.len() as u64).sum());
        }
        Ok(())
    }

    fn put_if_match(&self, key: &Key, content: &[u8], expected: &Version) -> Result<()> {
        match self.put(key, &copied(&[content]), &Condition::Matches(expected.clone())) {
            Err(Error::NotFound { store, key }) => Err(Error::Conflict { store, key }),
            other => other,
        }
    }

    fn delete(&self, key: &Key) -> Result<bool> {
        let request = Request::new(Method::DELETE, &object_path(key)).taking(RECORD_BYTES_MAX);
        let mut attempts = self.shared.attempts();
        let mut may_be_done = false;
        loop {
            match self.shared.once("delete", key.as_str(), &request) {
                Ok(answer) => {
                    self.acknowledged().remove(key);
                    let was_there = serde_json::from_slice::<serde_json::Value>(&answer.body)
                        .ok()
                        .and_then(|value| value.get("deleted")?.as_bool());
                    // Gone after a lost answer: that was most likely us.
                    return was_there.map(|was_there| was_there || may_be_done).ok_or_else(|| {
                        self.shared
                            .contradiction(key.as_str(), "its answer to a deletion cannot be read".to_owned())
                    });
                }
                Err(Failed { error, is_transient: true, may_be_done: maybe }) => {
                    may_be_done |= maybe;
                    attempts.wait(error)?;
                }
                Err(failed) => return Err(failed.error),
            }
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let after = entries.last().map_or(String::new(), |entry| entry.key.to_string());
            let page = self.page(prefix, &after)?;
            let is_empty = page.entries.is_empty();
            for PageEntry { key, size } in page.entries {
                let key = Key::new(key)
                    .filter(|key| key.as_str().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')))
                    .filter(|key| entries.last().is_none_or(|last| last.key < *key))
                    .ok_or_else(|| {
                        self.shared.contradiction(
                            prefix,
                            "its listing is out of order or lists what was not asked for".to_owned(),
                        )
                    })?;
                entries.push(Entry { key, size });
            }
            if !page.more {
                return Ok(entries);
            }
            if is_empty || entries.len() > self.shared.options.entries_max {
                let count = entries.len();
                return Err(self.shared.contradiction(
                    prefix,
                    format!("its listing does not end; it has {count} objects so far"),
                ));
            }
        }
    }

    fn settle(&self, prefix: &str) -> Result<()> {
        let path = format!("/v1/settle?prefix={}", encode(prefix));
        self.shared.repeat("settle", prefix, &Request::new(Method::POST, &path).taking(RECORD_BYTES_MAX))?;
        self.compare_with_acknowledged(prefix)
    }

    fn sweep_leftovers(&self) -> Result<u64> {
        let request = Request::new(Method::POST, "/v1/sweep").taking(RECORD_BYTES_MAX);
        let answer = self.shared.repeat("sweep", "leftovers", &request)?;
        let value: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        Ok(value.get("freed_bytes").and_then(serde_json::Value::as_u64).unwrap_or(0))
    }
}

/// The store's error for a problem that the server told.
fn told(store: &str, action: &'static str, key: &str, problem: &crate::Problem) -> Error {
    let (store, key) = (store.to_owned(), key.to_owned());
    match problem.code {
        Code::NotFound => Error::NotFound { store, key },
        Code::Exists => Error::AlreadyExists { store, key },
        Code::Conflict => Error::Conflict { store, key },
        Code::Denied | Code::Unauthenticated => {
            Error::Denied { store, action, key, what: format!("{} — {}", problem.message, problem.hint) }
        }
        Code::Full => {
            let source = std::io::Error::new(std::io::ErrorKind::QuotaExceeded, problem.message.clone());
            Error::NoSpace { store, action, key, source }
        }
        _ => Error::Remote {
            store,
            action,
            key,
            what: format!("{} (request {})", problem.message, problem.request_id),
            is_transient: problem.is_transient(),
        },
    }
}
