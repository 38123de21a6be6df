//! OpenStack Swift, and Ceph's RADOS gateway when it speaks Swift.
//!
//! A container is `STORAGE-URL/CONTAINER`, an object `STORAGE-URL/CONTAINER/NAME`; the storage URL comes with the token,
//! from Keystone's catalogue or from the older authentication (v1).
//!
//! What Swift does not promise:
//! - `If-None-Match: *` looks before it writes: two writers that race may both pass. So Swift counts as a service
//!   without comparison, whatever a probe finds;
//! - a listing may lag behind writes ([`Service::lag`]), and a replica that missed a write may answer a read. Whole objects
//!   are therefore read with `X-Newest`, which asks all replicas; parts of objects are not, because what is read in parts
//!   is written once.

mod account;
mod listing;
mod login;
mod refusal;
mod v1;

use std::time::Duration;

use leeward_store::bucket::{Comparison, Condition, RequestClass, Tag};

use self::account::Account;
use self::login::Login;
use crate::answer::{At, Refusal};
use crate::digest;
use crate::environment::Environment;
use crate::error::Result;
use crate::http::{Client, Method, Request, Response};
use crate::location::Location;
use crate::service::{Page, Service};

/// How long an object server waits for the container's listing to be updated before it answers a write and leaves the
/// update to a later round (`container_update_timeout`).
const UPDATE_WAIT: Duration = Duration::from_secs(1);
/// The longest lag that a location may name.
const LAG_MAX: Duration = Duration::from_secs(3600);

/// One container.
pub struct Swift {
    container: String,
    login: Login,
    lag: Duration,
}

impl Swift {
    /// Logs in and looks at the container of a location.
    ///
    /// # Errors
    /// An option makes no sense, there are no credentials, they are refused, or there is no such container.
    pub fn connect(location: &Location, environment: &Environment, client: &Client) -> Result<Self> {
        let told = lag_of(location)?;
        let login = Login::first(location, Account::find(location, environment)?, client)?;
        let is_ceph = login.storage_path().starts_with("/swift/");
        let lag = told.unwrap_or(if is_ceph { Duration::ZERO } else { UPDATE_WAIT });
        let swift = Self { container: location.bucket.clone(), login, lag };
        swift.look(location, client)?;
        Ok(swift)
    }

    /// Sees that the container is there: later a missing container looks like a missing object.
    fn look(&self, location: &Location, client: &Client) -> Result<()> {
        let name = location.to_string();
        let at = At { store: &name, action: "look at", key: "the container" };
        let mut request = Request::new(Method::HEAD, "", format!("/{}", self.container));
        self.login.sign(&mut request).map_err(|what| at.denied(what))?;
        let response = client.send(request, RequestClass::Other).map_err(|fault| at.fault(&fault))?;
        if response.is_success() {
            return Ok(());
        }
        let mut refusal = self.refusal(&response);
        if refusal.status == 404 {
            refusal.code = "NoSuchBucket".to_owned();
        }
        let hint = self.hint(&refusal);
        Err(refusal.into_error(&at, None, hint).into())
    }
}

/// What the location says: `lag=SECONDS`.
fn lag_of(location: &Location) -> Result<Option<Duration>> {
    let read = |text: &str| {
        let lag = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        lag.filter(|lag| *lag <= LAG_MAX)
            .ok_or_else(|| location.wrong("lag is a number of seconds, 3600 at most"))
    };
    location.option("lag").map(read).transpose()
}

impl Service for Swift {
    /// Where the storage is, is filled in by [`Service::sign`]: a new token may come with another place.
    fn object(&self, method: Method, name: &str) -> Request {
        Request::new(method, "", format!("/{}/{name}", self.container))
    }

    fn promises(&self) -> Comparison {
        Comparison::None
    }

    /// What the location says; else nothing for Ceph's gateway, whose index is written with the object, and a second for
    /// Swift, whose object servers wait that long for the listing.
    fn lag(&self) -> Duration {
        self.lag
    }

    fn make(&self) -> Request {
        Request::new(Method::PUT, "", format!("/{}", self.container))
    }

    fn prepare_write(&self, request: &mut Request, condition: Condition<'_>) {
        request.set_header("content-type", "application/octet-stream");
        // Swift refuses an upload whose MD5 is another.
        request.set_header("etag", &digest::md5_hex(&request.body));
        match condition {
            Condition::Always => {}
            Condition::Absent => request.set_header("if-none-match", "*"),
            Condition::Matches(tag) => request.set_header("if-match", &tag.0),
        }
    }

    fn tag(&self, response: &Response) -> Option<Tag> {
        response.header("etag").map(|tag| Tag(tag.to_owned()))
    }

    fn list(&self, prefix: &str, from: Option<&str>) -> Request {
        listing::request(&self.container, prefix, from)
    }

    fn page(&self, body: &[u8]) -> Result<Page, String> {
        listing::page(body)
    }

    fn sign(&self, request: &mut Request) -> Result<(), String> {
        let is_of_object = request.query.is_empty() && matches!(request.method, Method::GET | Method::HEAD);
        if is_of_object && !request.headers.contains_key("range") {
            request.set_header("x-newest", "true");
        }
        self.login.sign(request)
    }

    fn refusal(&self, response: &Response) -> Refusal {
        refusal::read(response)
    }

    fn hint(&self, refusal: &Refusal) -> Option<String> {
        refusal::hint(refusal, &self.container)
    }

    fn renew(&self) -> bool {
        self.login.renew()
    }
}
