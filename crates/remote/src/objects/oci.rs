//! OCI: `opc-meta-` headers, `content-md5`, uploads under `/u`.

use jiff::Timestamp;
use serde::Deserialize;

use super::dialect::{Dialect, Entries, Unfinished, Uploads, from_base64};
use super::{ListedObject, Metadata, ObjectVersion, StatedDigests};
use crate::digest;
use crate::http::{Bytes, Method, Request, Response};
use crate::oci::Oci;
use crate::service::Service;

/// The most that one page may hold.
const PAGE_ENTRIES: &str = "1000";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    objects: Vec<Entry>,
    #[serde(default)]
    next_start_with: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    size: u64,
    #[serde(default)]
    etag: Option<String>,
    #[serde(default)]
    time_modified: Option<Timestamp>,
    #[serde(default)]
    time_created: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Started {
    upload_id: String,
}

/// An upload in a listing.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Upload {
    object: String,
    upload_id: String,
}

impl Dialect for Oci {
    fn metadata_prefix(&self) -> &'static str {
        "opc-meta-"
    }

    fn digests(&self, response: &Response) -> StatedDigests {
        let header = |name| response.header(name);
        StatedDigests {
            md5: header("content-md5").and_then(|text| from_base64(text, 16)),
            sha256: header("opc-content-sha256").and_then(|text| from_base64(text, 32)),
            of_parts: header("opc-multipart-md5").map(str::to_owned),
        }
    }

    fn list_after(&self, prefix: &str, after: Option<&str>) -> Request {
        let request = Request::new(Method::GET, self.origin(), format!("{}/o", self.bucket_path()))
            .query("fields", "name,size,etag,timeCreated,timeModified")
            .query("limit", PAGE_ENTRIES)
            .query("prefix", prefix);
        match after {
            Some(after) => request.query("start", after),
            None => request,
        }
    }

    fn entries(&self, body: &[u8]) -> Result<Entries, String> {
        let page: Page = serde_json::from_slice(body).map_err(|error| format!("no listing: {error}"))?;
        let goes_on = page.next_start_with.is_some_and(|next| !next.is_empty());
        let listed = |entry: Entry| ListedObject {
            name: entry.name,
            bytes: entry.size,
            version: entry.etag.map(ObjectVersion),
            modified: entry.time_modified.or(entry.time_created),
        };
        Ok((page.objects.into_iter().map(listed).collect(), goes_on))
    }

    fn uploads(&self) -> Option<&dyn Uploads> {
        Some(self)
    }
}

impl Oci {
    fn upload(&self, method: Method, name: &str, upload: &str) -> Request {
        Request::new(method, self.origin(), format!("{}/u/{name}", self.bucket_path()))
            .query("uploadId", upload)
    }

    fn document(request: Request, document: &serde_json::Value) -> Request {
        request.header("content-type", "application/json").body(&[document.to_string().as_bytes()])
    }
}

impl Uploads for Oci {
    fn start(&self, name: &str, metadata: &Metadata) -> Request {
        let metadata: Metadata = metadata
            .iter()
            .map(|(key, value)| (format!("{}{key}", self.metadata_prefix()), value.clone()))
            .collect();
        let document = serde_json::json!({
            "object": name, "contentType": "application/octet-stream", "metadata": metadata,
        });
        let request = Request::new(Method::POST, self.origin(), format!("{}/u", self.bucket_path()));
        Self::document(request, &document)
    }

    fn started(&self, response: &Response) -> Result<String, String> {
        let started: Result<Started, _> = serde_json::from_slice(&response.body);
        started.map(|started| started.upload_id).map_err(|error| format!("no upload: {error}"))
    }

    fn part(&self, name: &str, upload: &str, number: u32, content: Bytes) -> Request {
        let mut request = self
            .upload(Method::PUT, name, upload)
            .query("uploadPartNum", number.to_string())
            .header("content-type", "application/octet-stream");
        request.body = vec![content];
        let md5 = digest::md5_base64(&request.body);
        request.set_header("content-md5", &md5);
        request
    }

    fn complete(&self, name: &str, upload: &str, parts: &[(u32, String)]) -> Request {
        let parts: Vec<_> = parts
            .iter()
            .map(|(number, etag)| serde_json::json!({ "partNum": number, "etag": etag }))
            .collect();
        let document = serde_json::json!({ "partsToCommit": parts });
        Self::document(self.upload(Method::POST, name, upload), &document)
    }

    fn completed(&self, response: &Response) -> Result<Option<ObjectVersion>, String> {
        Ok(self.tag(response).map(|tag| ObjectVersion(tag.0)))
    }

    fn abort(&self, name: &str, upload: &str) -> Request {
        self.upload(Method::DELETE, name, upload)
    }

    fn unfinished(&self, _name: &str, from: Option<&str>) -> Request {
        let request = Request::new(Method::GET, self.origin(), format!("{}/u", self.bucket_path()));
        let request = request.query("limit", PAGE_ENTRIES);
        match from {
            Some(from) => request.query("page", from),
            None => request,
        }
    }

    fn unfinished_in(&self, name: &str, response: &Response) -> Result<Unfinished, String> {
        let uploads: Result<Vec<Upload>, _> = serde_json::from_slice(&response.body);
        let uploads = uploads.map_err(|error| format!("no listing of uploads: {error}"))?;
        let mine = uploads.into_iter().filter(|upload| upload.object == name);
        Ok((
            mine.map(|upload| upload.upload_id).collect(),
            response.header("opc-next-page").map(str::to_owned),
        ))
    }
}
