//! What a worker asks of a site's daemon: orders, the objects of one, and that its reports be taken.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leeward_remote::encode::component as encode;
use leeward_remote::objects::{ListPage, Metadata, ObjectHead, ObjectVersion, Objects};
use leeward_site::worker::{Order, Reply, Report};
use leeward_store::{Error, Result};
use serde::Deserialize;
use serde_json::json;

use super::{Location, SiteClient, SiteError, Trust};
use crate::token::TokenText;

/// For how long a request is repeated to a daemon that does not answer: it may be on its way up again. Work that nobody waits for
/// any more stops by its own clock meanwhile, and writes nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest pause before a request is repeated.
const PAUSE_MAX: Duration = Duration::from_secs(5);

fn patiently<T>(ask: impl Fn() -> Result<T>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(200);
    loop {
        match ask() {
            Err(Error::Remote { .. }) if Instant::now() + pause < end => std::thread::sleep(pause),
            done => return done,
        }
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

/// A worker's side of the daemon. Cheap to clone; usable from many threads.
#[derive(Clone)]
pub struct WorkClient {
    site: Arc<SiteClient>,
    process: String,
}

#[derive(Deserialize)]
struct Claimed {
    order: Option<Order>,
}

impl WorkClient {
    /// A client; nothing is sent yet. `process` is random letters and digits, which tell this process from others.
    ///
    /// # Errors
    /// As [`SiteClient::new`].
    pub fn new(
        location: &Location,
        token: &TokenText,
        trust: &Trust,
        process: &str,
    ) -> std::result::Result<Self, String> {
        let site = Arc::new(SiteClient::new(location, token, trust)?);
        Ok(Self { site, process: process.to_owned() })
    }

    /// Asks for an order and waits for one for some seconds.
    ///
    /// # Errors
    /// The daemon cannot be reached, or lets this worker in no more.
    pub fn claim(&self) -> std::result::Result<Option<Order>, SiteError> {
        let claimed: Claimed = self.site.post("/v1/work/claim", &json!({ "process": self.process }))?;
        Ok(claimed.order)
    }

    /// Tells how an order goes. What it says is kept when this returns.
    ///
    /// # Errors
    /// The daemon cannot be reached, or the order is somebody else's now: [`is_gone`](Self::is_gone).
    pub fn report(&self, task: &str, report: &Report) -> std::result::Result<Reply, SiteError> {
        let body = serde_json::to_value(report).unwrap_or_default();
        self.site.post(&format!("/v1/work/{task}/report?process={}", self.process), &body)
    }

    /// Whether an error says that the order is somebody else's now.
    #[must_use]
    pub fn is_gone(error: &SiteError) -> bool {
        matches!(error, SiteError::Refused { status: 404 | 410, .. })
    }

    /// Whether an error says that this worker's token is worth nothing, or not for this.
    #[must_use]
    pub fn is_shut_out(error: &SiteError) -> bool {
        matches!(error, SiteError::Refused { status: 401 | 403, .. })
    }

    /// The objects of an order.
    #[must_use]
    pub fn objects(&self, order: &str, place: &str) -> OrderObjects {
        OrderObjects { site: Arc::clone(&self.site), task: order.to_owned(), place: place.to_owned() }
    }
}

/// The objects of an order, read through the daemon. Nothing else can be read, and nothing be written.
pub struct OrderObjects {
    site: Arc<SiteClient>,
    task: String,
    /// What checkpoints call the bucket.
    place: String,
}

impl OrderObjects {
    fn path(&self, what: &str, name: &str) -> String {
        format!("/v1/work/{}/{what}?name={}", self.task, encode(name))
    }

    fn failed(&self, action: &'static str, name: &str, error: &SiteError) -> Error {
        let (store, key) = (self.place.clone(), name.to_owned());
        match error {
            SiteError::Refused { status: 404, .. } => Error::NotFound { store, key },
            SiteError::Refused { status: 412, .. } => Error::Conflict { store, key },
            SiteError::Refused { status: 401 | 403 | 410, .. } => {
                Error::Denied { store, action, key, what: error.to_string() }
            }
            _ => Error::Remote { store, action, key, what: error.to_string(), is_transient: true },
        }
    }

    fn unsupported<T>(&self, action: &'static str, name: &str) -> Result<T> {
        Err(Error::Denied {
            store: self.place.clone(),
            action,
            key: name.to_owned(),
            what: "a worker reads the objects of its order, and no more".to_owned(),
        })
    }

    fn read_once(&self, name: &str, range: &Range<u64>, version: &ObjectVersion) -> Result<Vec<u8>> {
        let headers = [
            ("range", format!("bytes={}-{}", range.start, range.end - 1)),
            ("if-match", format!("\"{}\"", encode(&version.0))),
        ];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = self.site.fetch(&self.path("object", name), &headers);
        let (status, bytes) = answer.map_err(|error| self.failed("read", name, &error))?;
        let refused = |status: u16| SiteError::Refused {
            site: self.place.clone(),
            status,
            title: "the daemon refuses to read it".to_owned(),
            detail: String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).into_owned(),
            hint: String::new(),
        };
        match status {
            206 if bytes.len() as u64 == range.end - range.start => Ok(bytes.to_vec()),
            206 => Err(self.failed("read", name, &refused(502))),
            status => Err(self.failed("read", name, &refused(status))),
        }
    }
}

impl Objects for OrderObjects {
    fn name(&self) -> &str {
        &self.place
    }

    fn head(&self, name: &str) -> Result<ObjectHead> {
        let path = self.path("head", name);
        patiently(|| self.site.get(&path).map_err(|error| self.failed("look at", name, &error)))
    }

    fn read(&self, name: &str, range: Range<u64>, version: &ObjectVersion) -> Result<Vec<u8>> {
        patiently(|| self.read_once(name, &range, version))
    }

    fn list(&self, prefix: &str, _: Option<&str>) -> Result<ListPage> {
        self.unsupported("list", prefix)
    }

    fn put(&self, name: &str, _: &mut dyn std::io::Read, _: &Metadata) -> Result<ObjectVersion> {
        self.unsupported("write", name)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.unsupported("delete", name)
    }
}
