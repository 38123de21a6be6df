//! Users' objects over HTTP, of any service that has a [`Dialect`].

use std::io::Read;
use std::ops::Range;

use hyper::header::{HeaderName, HeaderValue};
use leeward_store::bucket::{Backoff, Condition, Pace, PacePolicy, RequestClass, RequestCounts, RetryPolicy};
use leeward_store::{Error, ErrorKind, Result};

use super::dialect::{Dialect, Uploads};
use super::{ListPage, Metadata, ObjectHead, ObjectVersion, Objects, Parts, name};
use crate::answer::At;
use crate::bucket::total_of;
use crate::exchange;
use crate::http::{Bytes, Client, Method, Request, Response};

/// Size of the parts of an upload, by their number: an upload may have 10,000 of them, and small ones cost less memory.
const PARTS: [(u32, usize); 3] = [(1000, 16 << 20), (5000, 64 << 20), (10_000, 128 << 20)];
/// The longest metadata that is sent, in bytes of keys and values: what all services take.
const METADATA_BYTES_MAX: usize = 2000;

/// A user's bucket, or the part of it under a prefix.
pub(super) struct RemoteObjects {
    pub(super) service: Box<dyn Dialect>,
    client: Client,
    pub(super) name: String,
    /// Empty, or ends with a slash.
    prefix: String,
    pace: Pace,
    retry: RetryPolicy,
}

impl RemoteObjects {
    pub(super) fn new(service: Box<dyn Dialect>, client: Client, name: String, prefix: &str) -> Self {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let (pace, retry) = (Pace::new(PacePolicy::default()), RetryPolicy::default());
        Self { service, client, name, prefix, pace, retry }
    }

    /// The whole name in the bucket, if it is one.
    pub(super) fn whole(&self, object: &str) -> Result<String> {
        name::check(&self.name, object)?;
        Ok(format!("{}{object}", self.prefix))
    }

    /// Does it at the service's pace, and again while it fails in passing.
    pub(super) fn repeat<T>(&self, act: impl Fn() -> Result<T>) -> Result<T> {
        let mut backoff = Backoff::new(self.retry);
        loop {
            match self.pace.run(&act) {
                Err(error) if backoff.pause(&error) => {}
                other => return other,
            }
        }
    }

    pub(super) fn send(&self, request: Request, class: RequestClass, at: &At<'_>) -> Result<Response> {
        exchange::send(self.service.as_ref(), &self.client, request, class, at)
    }

    /// Sends what must succeed.
    pub(super) fn ask(&self, request: &Request, class: RequestClass, at: &At<'_>) -> Result<Response> {
        self.repeat(|| {
            let response = self.send(request.clone(), class, at)?;
            if response.is_success() { Ok(response) } else { Err(self.refused(&response, at)) }
        })
    }

    /// Sends what must succeed where a condition holds.
    pub(super) fn ask_if(
        &self,
        request: &Request,
        condition: Condition<'_>,
        at: &At<'_>,
    ) -> Result<Response> {
        self.repeat(|| {
            let response = self.send(request.clone(), RequestClass::Put, at)?;
            if response.is_success() {
                return Ok(response);
            }
            let refusal = self.service.refusal(&response);
            let hint = self.service.hint(&refusal);
            Err(refusal.into_error(at, Some(condition), hint))
        })
    }

    /// Sees that there is no such object.
    pub(super) fn check_absent(&self, object: &str) -> Result<()> {
        match self.head(object) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Ok(_) => Err(Error::AlreadyExists { store: self.name.clone(), key: object.to_owned() }),
            Err(error) => Err(error),
        }
    }

    fn refused(&self, response: &Response, at: &At<'_>) -> Error {
        let refusal = self.service.refusal(response);
        let hint = self.service.hint(&refusal);
        refusal.into_error(at, None, hint)
    }

    fn read_once(
        &self,
        name: &str,
        range: &Range<u64>,
        version: &ObjectVersion,
        at: &At<'_>,
    ) -> Result<Vec<u8>> {
        let wanted = range.end.saturating_sub(range.start);
        let mut request = self.service.object(Method::GET, name);
        request.set_header("range", &format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        request.answer_bytes_max = wanted;
        self.service.pin(&mut request, version);
        let conflict = || Error::Conflict { store: self.name.clone(), key: at.key.to_owned() };
        let response = match self.send(request, RequestClass::Get, at) {
            // The whole object instead of a range of it: it has become another one.
            Err(Error::TooLarge { .. }) => return Err(conflict()),
            other => other?,
        };
        match response.status {
            412 | 416 => return Err(conflict()),
            200 | 206 => {}
            _ if response.is_success() => return Err(at.nonsense("it is not the range that was asked for")),
            _ => return Err(self.refused(&response, at)),
        }
        let told = self.service.tag(&response);
        if told.is_some_and(|tag| !is_same(&tag.0, &version.0)) {
            return Err(conflict());
        }
        let starts = match (response.status, response.header("content-range")) {
            (206, Some(header)) => {
                total_of(header).is_some() && header.contains(&format!(" {}-", range.start))
            }
            (200, None) => range.start == 0,
            _ => false,
        };
        if !starts || response.body.len() as u64 != wanted {
            return Err(at.nonsense("it is another range than was asked for"));
        }
        Ok(response.body)
    }

    fn put_whole(
        &self,
        name: &str,
        content: &[u8],
        metadata: &Metadata,
        at: &At<'_>,
    ) -> Result<ObjectVersion> {
        let mut request = self.service.object(Method::PUT, name).body(&[content]);
        self.service.prepare_write(&mut request, Condition::Always);
        set_metadata(&mut request, self.service.metadata_prefix(), metadata);
        let response = self.ask(&request, RequestClass::Put, at)?;
        self.version(&response, at)
    }

    pub(super) fn version(&self, response: &Response, at: &At<'_>) -> Result<ObjectVersion> {
        let tag = self.service.tag(response);
        tag.map(|tag| ObjectVersion(tag.0)).ok_or_else(|| at.nonsense("an object without an entity tag"))
    }

    fn put_parts(
        &self,
        way: &dyn Uploads,
        name: &str,
        first: Vec<u8>,
        content: &mut dyn Read,
        metadata: &Metadata,
        at: &At<'_>,
    ) -> Result<ObjectVersion> {
        let begun = self.ask(&way.start(name, metadata), RequestClass::Put, at)?;
        let upload = way.started(&begun).map_err(|what| at.nonsense(what))?;
        let made = self.send_parts(way, name, &upload, first, content, at);
        if made.is_err() {
            // What cannot be given up now is left to the bucket's rule for unfinished uploads.
            let _ = self.ask(&way.abort(name, &upload), RequestClass::Delete, at);
        }
        made
    }

    fn send_parts(
        &self,
        way: &dyn Uploads,
        name: &str,
        upload: &str,
        first: Vec<u8>,
        content: &mut dyn Read,
        at: &At<'_>,
    ) -> Result<ObjectVersion> {
        let (mut parts, mut part) = (Vec::new(), first);
        while !part.is_empty() {
            let number = parts.len() as u32 + 1;
            let request = way.part(name, upload, number, Bytes::from(part));
            let response = self.ask(&request, RequestClass::Put, at)?;
            parts.push((number, self.version(&response, at)?.0));
            let Some(size) = part_bytes(number + 1) else {
                return Err(at.denied("it is larger than an upload in 10,000 parts can be"));
            };
            part = read_part(content, size, at)?;
        }
        let response = self.ask(&way.complete(name, upload, &parts), RequestClass::Put, at)?;
        match way.completed(&response).map_err(|what| at.nonsense(what))? {
            Some(version) => Ok(version),
            None => Ok(self.head(at.key)?.version),
        }
    }
}

impl Objects for RemoteObjects {
    fn name(&self) -> &str {
        &self.name
    }

    fn head(&self, object: &str) -> Result<ObjectHead> {
        let name = self.whole(object)?;
        let at = At { store: &self.name, action: "look at", key: object };
        let mut request = self.service.object(Method::HEAD, &name);
        self.service.prepare_look(&mut request);
        let response = self.ask(&request, RequestClass::Head, &at)?;
        let bytes = response.header("content-length").and_then(|size| size.parse().ok());
        Ok(ObjectHead {
            bytes: bytes.ok_or_else(|| at.nonsense("an object without a size"))?,
            version: self.version(&response, &at)?,
            digests: self.service.digests(&response),
            metadata: metadata_in(&response, self.service.metadata_prefix()),
            modified: response.header("last-modified").and_then(crate::time::parse_http_date),
        })
    }

    fn read(&self, object: &str, range: Range<u64>, version: &ObjectVersion) -> Result<Vec<u8>> {
        let name = self.whole(object)?;
        let at = At { store: &self.name, action: "read", key: object };
        self.repeat(|| self.read_once(&name, &range, version, &at))
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage> {
        let at = At { store: &self.name, action: "list", key: prefix };
        let whole = format!("{}{prefix}", self.prefix);
        let after = after.map(|after| format!("{}{after}", self.prefix));
        let request = self.service.list_after(&whole, after.as_deref());
        let response = self.ask(&request, RequestClass::List, &at).map_err(|error| match error {
            error if error.kind() == ErrorKind::NotFound => at.nonsense("there is nothing to list"),
            error => error,
        })?;
        let (mut objects, goes_on) =
            self.service.entries(&response.body).map_err(|what| at.nonsense(what))?;
        if goes_on
            && objects.last().is_none_or(|last| after.as_ref().is_some_and(|after| last.name <= *after))
        {
            return Err(at.nonsense("a listing that does not advance"));
        }
        let last = objects.last().and_then(|last| Some(last.name.strip_prefix(&self.prefix)?.to_owned()));
        objects.retain(|listed| {
            listed.name.starts_with(&whole) && after.as_ref().is_none_or(|after| listed.name > *after)
        });
        for listed in &mut objects {
            listed.name.drain(..self.prefix.len());
        }
        // Names that are no objects here: folders' markers, and what could lead elsewhere.
        objects.retain(|listed| name::check(&self.name, &listed.name).is_ok());
        Ok(ListPage { objects, goes_on, last })
    }

    fn put(&self, object: &str, content: &mut dyn Read, metadata: &Metadata) -> Result<ObjectVersion> {
        let name = self.whole(object)?;
        let at = At { store: &self.name, action: "write", key: object };
        check_metadata(metadata).map_err(|what| at.denied(what))?;
        let size = part_bytes(1).unwrap_or_default();
        let first = read_part(content, size, &at)?;
        match self.service.uploads() {
            Some(way) if first.len() == size => self.put_parts(way, &name, first, content, metadata, &at),
            None if first.len() == size && !read_part(content, 1, &at)?.is_empty() => Err(at.denied(
                "objects of more than 16 MiB are not written to this service from here; use s3:// or oci://",
            )),
            _ => self.put_whole(&name, &first, metadata, &at),
        }
    }

    fn delete(&self, object: &str) -> Result<()> {
        let name = self.whole(object)?;
        let at = At { store: &self.name, action: "delete", key: object };
        match self.ask(&self.service.object(Method::DELETE, &name), RequestClass::Delete, &at) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn parts(&self) -> Option<&dyn Parts> {
        self.service.uploads().map(|_| self as &dyn Parts)
    }

    fn requests(&self) -> Option<RequestCounts> {
        Some(self.client.requests().counts())
    }
}

/// Whether two entity tags name one state; servers differ in the quotes around them.
fn is_same(one: &str, other: &str) -> bool {
    one.trim_matches('"') == other.trim_matches('"')
}

fn part_bytes(number: u32) -> Option<usize> {
    PARTS.iter().find(|(last, _)| number <= *last).map(|(_, bytes)| *bytes)
}

/// The next bytes of a content; fewer than `size` at its end only.
fn read_part(content: &mut dyn Read, size: usize, at: &At<'_>) -> Result<Vec<u8>> {
    let mut part = Vec::new();
    content.take(size as u64).read_to_end(&mut part).map_err(|source| Error::Io {
        store: at.store.to_owned(),
        action: "read what is to become",
        key: at.key.to_owned(),
        source,
    })?;
    Ok(part)
}

/// Refuses metadata that a service would refuse, or keep otherwise than it was given.
pub(super) fn check_metadata(metadata: &Metadata) -> Result<(), String> {
    let is_key = |key: &str| {
        !key.is_empty()
            && key.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
            })
    };
    let is_value =
        |value: &str| value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && value.trim() == value;
    for (key, value) in metadata {
        if !is_key(key) {
            return Err(format!("the metadata key {key:?} is not of small letters, digits, - and _"));
        }
        if !is_value(value) {
            return Err(format!("the metadata {key} is not of printable ASCII characters"));
        }
    }
    let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        return Err(format!("the metadata has {bytes} bytes, and {METADATA_BYTES_MAX} are taken"));
    }
    Ok(())
}

/// Adds metadata to a request that writes.
pub(super) fn set_metadata(request: &mut Request, prefix: &str, metadata: &Metadata) {
    for (key, value) in metadata {
        let name = HeaderName::try_from(format!("{prefix}{key}"));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            request.headers.insert(name, value);
        }
    }
}

/// The metadata in an answer. What is no text is shown as what could be read of it.
pub(super) fn metadata_in(response: &Response, prefix: &str) -> Metadata {
    let read = |(name, value): (&HeaderName, &HeaderValue)| {
        let key = name.as_str().strip_prefix(prefix)?;
        Some((key.to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
    };
    response.headers.iter().filter_map(read).collect()
}
