//! Swift, and Ceph's gateway when it speaks Swift: `X-Object-Meta-` headers. Objects that were written in segments are
//! read as any other; how they are written so is in `swift_parts.rs`.

use jiff::Timestamp;
use serde::Deserialize;

use super::dialect::{Dialect, Entries, is_hex};
use super::{ListedObject, ObjectVersion, StatedDigests};
use crate::http::{Request, Response};
use crate::service::Service;
use crate::swift::Swift;

#[derive(Deserialize)]
struct Entry {
    name: String,
    bytes: u64,
    #[serde(default)]
    hash: Option<String>,
    #[serde(default)]
    last_modified: Option<String>,
}

impl Dialect for Swift {
    fn metadata_prefix(&self) -> &'static str {
        "x-object-meta-"
    }

    /// The tags of objects that were written in segments are in quotes; Ceph's gateway compares such a tag with that of an empty
    /// object. What an answer was made of is told by its own tag then.
    fn pin(&self, request: &mut Request, version: &ObjectVersion) {
        if !version.0.starts_with('"') {
            request.set_header("if-match", &version.0);
        }
    }

    fn digests(&self, response: &Response) -> StatedDigests {
        let etag = response.header("etag").unwrap_or_default();
        let plain = etag.trim_matches('"');
        let is_large = response.header("x-static-large-object").is_some()
            || response.header("x-object-manifest").is_some();
        StatedDigests {
            md5: (is_hex(plain, 32) && !is_large).then(|| plain.to_ascii_lowercase()),
            sha256: None,
            of_parts: is_large.then(|| plain.to_owned()),
        }
    }

    fn list_after(&self, prefix: &str, after: Option<&str>) -> Request {
        self.list(prefix, after)
    }

    fn entries(&self, body: &[u8]) -> Result<Entries, String> {
        if body.is_empty() {
            return Ok((Vec::new(), false));
        }
        let entries: Vec<Entry> =
            serde_json::from_slice(body).map_err(|error| format!("no listing: {error}"))?;
        // There may be more until a page is empty: a server may give fewer entries than it has.
        let goes_on = !entries.is_empty();
        Ok((entries.into_iter().map(listed).collect(), goes_on))
    }
}

fn listed(entry: Entry) -> ListedObject {
    // Swift tells the time in UTC without saying so.
    let time = |text: String| {
        let zone = if text.ends_with('Z') { "" } else { "Z" };
        format!("{text}{zone}").parse::<Timestamp>().ok()
    };
    ListedObject {
        name: entry.name,
        bytes: entry.bytes,
        version: entry.hash.map(ObjectVersion),
        modified: entry.last_modified.and_then(time),
    }
}
