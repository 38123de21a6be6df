//! Large objects of Swift: segments in a container of their own, and a manifest that makes one object of them (a *static large
//! object*).
//!
//! Swift knows no uploads, so one is a folder in the container `CONTAINER_segments`: a marker, which is there as long as the upload is
//! under way and carries the object's metadata, and the segments. The manifest says in its metadata which upload it was made by
//! ([`UPLOAD_KEY`]), so an upload is never given up whose segments an object is made of, whatever died in between; and what an object
//! that was replaced had been made of is told from what the new one is.
//!
//! Folders are called by the digest of the object's name: a name in a manifest is read as it is by one server and decoded by another.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::{Range, RangeInclusive};

use leeward_store::bucket::{Condition, RequestClass, RequestCounts};
use leeward_store::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::dialect::is_hex;
use super::parts::{Existing, Part, Parts};
use super::remote::{RemoteObjects, check_metadata, metadata_in, set_metadata};
use super::{ListPage, Metadata, ObjectHead, ObjectVersion, Objects};
use crate::answer::At;
use crate::digest::md5_hex;
use crate::http::{Bytes, Method, Request, Response};

/// The key of a manifest's metadata with the upload that it was made by.
const UPLOAD_KEY: &str = "leeward-upload";
/// What Ceph's gateway adds to the metadata of manifests.
const LARGE_KEY: &str = "static-large-object";
/// The name of the marker in an upload's folder.
const MARKER: &str = "upload";
/// Digits of an upload's name.
const UPLOAD_DIGITS: usize = 16;
/// Segments of an object, at most: what servers take where nobody has told them otherwise.
const PARTS_MAX: u32 = 1000;
/// A segment is in memory while it is sent; Swift itself would take 5 GiB.
const PART_BYTES: RangeInclusive<u64> = 1..=(512 << 20);
/// Pages of a listing, at most.
const PAGES_MAX: usize = 100;
/// So many segments that no listing shows yet may have been sent at once.
const UNSEEN: u32 = 8;

/// The objects of a container.
pub(super) struct SwiftObjects {
    objects: RemoteObjects,
    container: String,
}

/// What a server says about a deletion of a manifest and its segments.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Deleted {
    #[serde(rename = "Response Status")]
    status: String,
    #[serde(default)]
    errors: Vec<serde_json::Value>,
}

/// The segments and markers of all uploads of an object: the names in each folder.
type Folders = BTreeMap<String, Vec<String>>;

impl SwiftObjects {
    pub(super) fn new(objects: RemoteObjects, container: &str) -> Self {
        Self { objects, container: container.to_owned() }
    }

    fn at<'a>(&'a self, action: &'static str, object: &'a str) -> At<'a> {
        At { store: &self.objects.name, action, key: object }
    }

    fn segments(&self) -> String {
        format!("{}_segments", self.container)
    }

    /// The folder of all uploads of an object.
    fn folder(&self, object: &str) -> Result<String> {
        let name = self.objects.whole(object)?;
        Ok(format!("leeward/{}", md5_hex(&[Bytes::from(name.into_bytes())])))
    }

    /// The request for something in the folder of an upload.
    fn inside(&self, method: Method, object: &str, upload: &str, name: &str) -> Result<Request> {
        if !is_hex(upload, UPLOAD_DIGITS) {
            return Err(self.not_found(object));
        }
        let folder = self.folder(object)?;
        Ok(Request::new(method, "", format!("/{}/{folder}/{upload}/{name}", self.segments())))
    }

    fn not_found(&self, object: &str) -> Error {
        Error::NotFound { store: self.objects.name.clone(), key: object.to_owned() }
    }

    /// The marker of an upload that is under way.
    fn marker(&self, object: &str, upload: &str, at: &At<'_>) -> Result<Response> {
        let request = self.inside(Method::HEAD, object, upload, MARKER)?;
        self.objects.ask(&request, RequestClass::Head, at).map_err(|error| match is_absent(&error) {
            true => self.not_found(object),
            false => error,
        })
    }

    fn remove(&self, request: &Request, at: &At<'_>) -> Result<()> {
        match self.objects.ask(request, RequestClass::Delete, at) {
            Err(error) if !is_absent(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes the container of the segments, where there is none.
    fn make_container(&self) -> Result<()> {
        let container = self.segments();
        let at = self.at("make the container of the segments,", &container);
        let request = |method| Request::new(method, "", format!("/{container}"));
        match self.objects.ask(&request(Method::HEAD), RequestClass::Other, &at) {
            Err(error) if is_absent(&error) => {
                self.objects.ask(&request(Method::PUT), RequestClass::Other, &at).map(drop)
            }
            other => other.map(drop),
        }
    }

    /// What lies in the folders of an object's uploads.
    fn folders(&self, object: &str, at: &At<'_>) -> Result<Folders> {
        let (prefix, mut found, mut from) = (format!("{}/", self.folder(object)?), Folders::new(), None);
        for _ in 0..PAGES_MAX {
            let mut request = Request::new(Method::GET, "", format!("/{}", self.segments()))
                .query("format", "json")
                .query("prefix", &prefix);
            if let Some(from) = &from {
                request = request.query("marker", from);
            }
            let response = match self.objects.ask(&request, RequestClass::List, at) {
                // There is no such container yet.
                Err(error) if is_absent(&error) => break,
                other => other?,
            };
            let page = self.objects.service.page(&response.body).map_err(|what| at.nonsense(what))?;
            for listed in page.objects {
                if let Some((upload, name)) =
                    listed.name.strip_prefix(&prefix).and_then(|rest| rest.split_once('/'))
                {
                    found.entry(upload.to_owned()).or_default().push(name.to_owned());
                }
            }
            match page.next {
                Some(next) if from.as_ref() != Some(&next) => from = Some(next),
                _ => break,
            }
        }
        Ok(found)
    }

    /// The upload that the object was made by which is there.
    fn made_by(&self, object: &str) -> Result<Option<String>> {
        match self.objects.head(object) {
            Ok(mut head) => Ok(head.metadata.remove(UPLOAD_KEY)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the folder of an upload: the marker last, by which it is found.
    fn remove_folder(&self, object: &str, upload: &str, names: &[String], at: &At<'_>) -> Result<()> {
        let last = names.iter().filter_map(|name| name.parse::<u32>().ok()).max().unwrap_or(0);
        // A listing may lag behind what was sent.
        let unseen = (last + 1..=last + UNSEEN).map(segment_name);
        for name in names.iter().filter(|name| *name != MARKER).cloned().chain(unseen) {
            self.remove(&self.inside(Method::DELETE, object, upload, &name)?, at)?;
        }
        self.remove(&self.inside(Method::DELETE, object, upload, MARKER)?, at)
    }

    /// Removes the segments of objects that were replaced: those that belong neither to an upload that is under way nor to the object
    /// that is there. The listing comes first: what ends after it is still told to be under way by it, or is the object that is there.
    /// As it may lag, each marker is asked for itself; `made` is what was just made, whatever the object is said to be.
    fn sweep(&self, object: &str, made: Option<&str>, at: &At<'_>) -> Result<()> {
        let folders = self.folders(object, at)?;
        let is_over = |names: &Vec<String>| !names.iter().any(|name| name == MARKER);
        let mut over = folders.iter().filter(|(_, names)| is_over(names)).peekable();
        if over.peek().is_none() {
            return Ok(());
        }
        let present = self.made_by(object)?;
        let is_there = |upload: &str| present.as_deref() == Some(upload) || made == Some(upload);
        for (upload, names) in over.filter(|(upload, _)| !is_there(upload)) {
            match self.marker(object, upload, at) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.remove_folder(object, upload, names, at)?;
                }
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// The request that makes the object of its segments, or an empty one of none.
    fn manifest(
        &self,
        object: &str,
        upload: &str,
        tags: &[String],
        mut metadata: Metadata,
        at: &At<'_>,
    ) -> Result<Request> {
        let (container, folder) = (self.segments(), self.folder(object)?);
        let mut entries = Vec::new();
        for (number, tag) in (1..).zip(tags) {
            let (etag, bytes) = tag.split_once(':').ok_or_else(|| at.nonsense("a segment without a size"))?;
            let bytes: u64 = bytes.parse().map_err(|_| at.nonsense("a segment without a size"))?;
            // No server takes an empty one.
            if bytes > 0 {
                let path = format!("/{container}/{folder}/{upload}/{}", segment_name(number));
                entries.push(serde_json::json!({ "path": path, "etag": etag, "size_bytes": bytes }));
            }
        }
        let mut request = self
            .objects
            .service
            .object(Method::PUT, &self.objects.whole(object)?)
            .header("content-type", "application/octet-stream");
        if !entries.is_empty() {
            metadata.insert(UPLOAD_KEY.to_owned(), upload.to_owned());
            let document = serde_json::Value::from(entries).to_string();
            request = request.query("multipart-manifest", "put").body(&[document.as_bytes()]);
        }
        set_metadata(&mut request, self.objects.service.metadata_prefix(), &metadata);
        Ok(request)
    }
}

/// Whether there is no such object, or not even the container of the segments.
fn is_absent(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound || matches!(error, Error::NoBucket { .. })
}

fn segment_name(number: u32) -> String {
    format!("{number:05}")
}

impl Objects for SwiftObjects {
    fn name(&self) -> &str {
        self.objects.name()
    }

    fn head(&self, object: &str) -> Result<ObjectHead> {
        let mut head = self.objects.head(object)?;
        head.metadata.retain(|key, _| key != UPLOAD_KEY && key != LARGE_KEY);
        Ok(head)
    }

    fn read(&self, object: &str, range: Range<u64>, version: &ObjectVersion) -> Result<Vec<u8>> {
        self.objects.read(object, range, version)
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage> {
        self.objects.list(prefix, after)
    }

    fn put(&self, object: &str, content: &mut dyn Read, metadata: &Metadata) -> Result<ObjectVersion> {
        let before = self.made_by(object)?;
        let version = self.objects.put(object, content, metadata)?;
        if before.is_some() {
            self.sweep(object, None, &self.at("delete the segments of", object))?;
        }
        Ok(version)
    }

    /// With its segments, where it was made from here: what others have made of segments may share them.
    fn delete(&self, object: &str) -> Result<()> {
        let Some(upload) = self.made_by(object)? else { return self.objects.delete(object) };
        let at = self.at("delete", object);
        let name = self.objects.whole(object)?;
        let request = self.objects.service.object(Method::DELETE, &name);
        let request = request.query("multipart-manifest", "delete").header("accept", "application/json");
        let response = match self.objects.ask(&request, RequestClass::Delete, &at) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let deleted: Deleted = serde_json::from_slice(&response.body)
            .map_err(|error| at.nonsense(format!("no account of a deletion: {error}")))?;
        if !["200", "404"].iter().any(|status| deleted.status.starts_with(status)) {
            let first = deleted.errors.first().map(ToString::to_string).unwrap_or_default();
            return Err(at.nonsense(format!("{}, {first}", deleted.status)));
        }
        self.remove(&self.inside(Method::DELETE, object, &upload, MARKER)?, &at)?;
        // And those of one that it replaced, if who did was killed before it removed them.
        let _ = self.sweep(object, None, &at);
        Ok(())
    }

    fn parts(&self) -> Option<&dyn Parts> {
        Some(self)
    }

    fn requests(&self) -> Option<RequestCounts> {
        self.objects.requests()
    }
}

impl Parts for SwiftObjects {
    fn part_bytes(&self) -> RangeInclusive<u64> {
        PART_BYTES
    }

    fn parts_max(&self) -> u32 {
        PARTS_MAX
    }

    fn begin(&self, object: &str, metadata: &Metadata) -> Result<String> {
        let at = self.at("begin to write", object);
        check_metadata(metadata).map_err(|what| at.denied(what))?;
        let name = self.objects.whole(object)?;
        self.make_container()?;
        let mut random = [0; UPLOAD_DIGITS / 2];
        getrandom::fill(&mut random).map_err(|error| at.nonsense(error.to_string()))?;
        let upload = crate::encode::hex(&random);
        // Who finds it reads whose it is.
        let mut request = self.inside(Method::PUT, object, &upload, MARKER)?.body(&[name.as_bytes()]);
        self.objects.service.prepare_write(&mut request, Condition::Always);
        set_metadata(&mut request, self.objects.service.metadata_prefix(), metadata);
        self.objects.ask(&request, RequestClass::Put, &at)?;
        Ok(upload)
    }

    fn send(&self, object: &str, upload: &str, part: &Part) -> Result<String> {
        let at = self.at("write a part of", object);
        // The folder of an upload that was given up would come back.
        self.marker(object, upload, &at)?;
        let mut request = self.inside(Method::PUT, object, upload, &segment_name(part.number))?;
        request.body = vec![part.content.clone()];
        self.objects.service.prepare_write(&mut request, Condition::Always);
        let response = self.objects.ask(&request, RequestClass::Put, &at)?;
        let etag = self.objects.version(&response, &at)?.0;
        Ok(format!("{}:{}", etag.trim_matches('"'), part.content.len()))
    }

    fn complete(
        &self,
        object: &str,
        upload: &str,
        tags: &[String],
        bytes: u64,
        existing: Existing,
    ) -> Result<ObjectVersion> {
        let at = self.at("write", object);
        let marker = self.marker(object, upload, &at)?;
        let metadata = metadata_in(&marker, self.objects.service.metadata_prefix());
        let mut request = self.manifest(object, upload, tags, metadata, &at)?;
        let condition = match existing {
            Existing::Keep => Condition::Absent,
            Existing::Replace => Condition::Always,
        };
        if existing == Existing::Keep {
            request.set_header("if-none-match", "*");
            // Ceph's gateway does not know the condition here, and would replace what is there.
            self.objects.check_absent(object)?;
        }
        let response = self.objects.ask_if(&request, condition, &at)?;
        let version = match self.objects.version(&response, &at) {
            Ok(version) => version,
            Err(_) => self.objects.head(object)?.version,
        };
        if bytes == 0 {
            self.remove_folder(object, upload, &[], &at)?;
        }
        self.remove(&self.inside(Method::DELETE, object, upload, MARKER)?, &at)?;
        // The object is there; what cannot be removed of one that it replaced is removed with the next that replaces this one.
        let _ = self.sweep(object, Some(upload), &at);
        Ok(version)
    }

    fn abort(&self, object: &str, upload: &str) -> Result<()> {
        let at = self.at("give up writing", object);
        if !is_hex(upload, UPLOAD_DIGITS) {
            return Ok(());
        }
        if self.made_by(object)?.as_deref() == Some(upload) {
            self.remove(&self.inside(Method::DELETE, object, upload, MARKER)?, &at)?;
            let _ = self.sweep(object, Some(upload), &at);
            return Ok(());
        }
        let names = self.folders(object, &at)?.remove(upload).unwrap_or_default();
        self.remove_folder(object, upload, &names, &at)
    }

    fn unfinished(&self, object: &str) -> Result<Vec<String>> {
        let folders = self.folders(object, &self.at("list the uploads of", object))?;
        let is_marked = |names: &Vec<String>| names.iter().any(|name| name == MARKER);
        Ok(folders.into_iter().filter(|(_, names)| is_marked(names)).map(|(upload, _)| upload).collect())
    }
}
