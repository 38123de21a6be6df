//! What differs between services: addresses, headers, signatures, listings, refusals.
//!
//! To add a service, write a folder like `azure/`: `mod.rs` with a type that implements [`Service`], `sign.rs`,
//! `account.rs`, `settings.rs`; then name its scheme in `location.rs` and make it in `connect.rs`. Everything else —
//! sending, counting, pacing, trying again, probing — is the same for all.

use std::time::Duration;

use leeward_store::Lock;
use leeward_store::bucket::{Comparison, Condition, Tag};

use crate::answer::Refusal;
use crate::http::{Method, Request, Response};
use crate::past::VersionsPage;
use crate::settings::Settings;

/// An object as a page of a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its whole name in the bucket.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// One page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The objects.
    pub objects: Vec<Listed>,
    /// Where the next page begins, if there is one; in the form in which the service takes it.
    pub next: Option<String>,
}

/// Sends a signed request and returns the answer, whatever its status.
pub type Send<'a> = dyn Fn(Request) -> leeward_store::Result<Response> + 'a;

/// How a service takes an object in several requests: parts that nobody sees, and one that makes the object of them.
pub trait InParts: std::marker::Send + Sync {
    /// Size of a part in bytes, and of the largest object that is written in one request.
    fn part_bytes(&self) -> usize;

    /// The request that sends a part, not signed. `nonce` tells this writer's parts from all others.
    fn part(&self, name: &str, nonce: &str, number: u32, content: &[&[u8]]) -> Request;

    /// The request that makes the object of the parts 0 to `count`, under the condition; not signed.
    fn join(&self, name: &str, nonce: &str, count: u32, condition: Condition<'_>) -> Request;
}

/// One bucket of one service.
pub trait Service: std::marker::Send + Sync {
    /// The request for one object, not signed. `name` is its whole name in the bucket.
    fn object(&self, method: Method, name: &str) -> Request;

    /// Adds to a writing request what the service wants, and the condition.
    fn prepare_write(&self, request: &mut Request, condition: Condition<'_>);

    /// How large objects are written, where one request is not enough.
    fn in_parts(&self) -> Option<&dyn InParts> {
        None
    }

    /// The version of the object that an answer is about.
    fn tag(&self, response: &Response) -> Option<Tag>;

    /// The request for one page of the objects whose names begin with `prefix`, not signed.
    fn list(&self, prefix: &str, from: Option<&str>) -> Request;

    /// Reads a page.
    ///
    /// # Errors
    /// It is not a listing: what is wrong with it.
    fn page(&self, body: &[u8]) -> Result<Page, String>;

    /// Signs a request, as the last thing before it is sent.
    ///
    /// # Errors
    /// There is no way to sign: why, and what to do.
    fn sign(&self, request: &mut Request) -> Result<(), String>;

    /// What the service says in an answer that is not what was asked for.
    fn refusal(&self, response: &Response) -> Refusal;

    /// What a person can do about a refusal, where the service's own words do not say it.
    fn hint(&self, refusal: &Refusal) -> Option<String>;

    /// Makes or fetches credentials anew after a refusal of them; `false` when there are no others.
    fn renew(&self) -> bool {
        false
    }

    /// The most that the service promises when writers race: a probe may find more by luck.
    fn promises(&self) -> Comparison {
        Comparison::Native
    }

    /// How far reads and listings may lag behind writes.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }

    /// The request that makes the bucket, not signed.
    fn make(&self) -> Request;

    /// Reads the settings of the bucket that concern a repository under `prefix`.
    fn settings(&self, _prefix: &str, _send: &Send<'_>) -> Settings {
        Settings::default()
    }

    /// Whether the service locks objects, in buckets that were made for it.
    fn has_locks(&self) -> bool {
        false
    }

    /// The lock of the object that an answer is about, if it has one.
    fn lock_in(&self, _response: &Response) -> Option<Lock> {
        None
    }

    /// The request that locks an object, not signed; `None` where the service has no locks.
    fn lock(&self, _name: &str, _lock: Lock) -> Option<Request> {
        None
    }

    /// The request for one page of all versions of the objects whose names begin with `prefix`, not signed; `None` where
    /// the service keeps no versions. `from` is where the page before said that the next one begins.
    fn versions(&self, _prefix: &str, _from: Option<&(String, String)>) -> Option<Request> {
        None
    }

    /// Reads a page of versions.
    ///
    /// # Errors
    /// It is no such listing: what is wrong with it.
    fn versions_page(&self, _body: &[u8]) -> Result<VersionsPage, String> {
        Err("this service lists no versions".to_owned())
    }

    /// Uses tags without the quotes around them, where a server takes only those.
    fn use_bare_tags(&self, _bare: bool) {}
}
