//! Google Cloud Storage by its XML API: signed with HMAC keys, compared by generations.
//!
//! It speaks like S3 but for three things: the names in signatures, the headers of conditions
//! (`x-goog-if-generation-match`, 0 for an object that must not be there), and its lifecycle rules. A generation is the
//! version of an object; the service keeps both conditions atomically.

mod credentials;
mod lifecycle;

use jiff::Timestamp;
use leeward_store::bucket::{Condition, Tag};

use crate::answer::Refusal;
use crate::digest;
use crate::environment::Environment;
use crate::error::Result;
use crate::http::{Method, Request, Response};
use crate::location::Location;
use crate::s3;
use crate::s3::sign::{self, Credentials, Names};
use crate::service::{Page, Send, Service};
use crate::settings::{Known, Settings};
use crate::xml;

/// Google's names in signatures.
const NAMES: Names = Names {
    algorithm: "GOOG4-HMAC-SHA256",
    key_prefix: "GOOG4",
    service: "storage",
    scope_end: "goog4_request",
    date_header: "x-goog-date",
    content_header: "x-goog-content-sha256",
    token_header: "x-goog-security-token",
    signs_host: true,
    signs_empty_value: true,
};
/// The region in a signature: any will do.
const REGION: &str = "auto";
const KEYS: &str =
    "GS_ACCESS_KEY_ID and GS_SECRET_ACCESS_KEY, or gs_access_key_id and gs_secret_access_key in ~/.boto";

/// A bucket of Google Cloud Storage.
pub struct Gcs {
    origin: String,
    bucket: String,
    credentials: Credentials,
}

impl Gcs {
    /// The bucket at a location `gs://BUCKET`.
    ///
    /// # Errors
    /// An option makes no sense, or there are no credentials.
    pub fn new(location: &Location, environment: &Environment) -> Result<Self> {
        let endpoint = location.option("endpoint").unwrap_or("https://storage.googleapis.com");
        Ok(Self {
            origin: location.origin(endpoint)?,
            bucket: location.bucket.clone(),
            credentials: credentials::find(location, environment)?,
        })
    }

    fn bucket_request(&self, method: Method) -> Request {
        Request::new(method, self.origin.as_str(), format!("/{}", self.bucket))
    }
}

impl Service for Gcs {
    fn object(&self, method: Method, name: &str) -> Request {
        Request::new(method, self.origin.as_str(), format!("/{}/{name}", self.bucket))
    }

    fn prepare_write(&self, request: &mut Request, condition: Condition<'_>) {
        request.set_header("content-type", "application/octet-stream");
        request.set_header("content-md5", &digest::md5_base64(&request.body));
        match condition {
            Condition::Always => {}
            Condition::Absent => request.set_header("x-goog-if-generation-match", "0"),
            Condition::Matches(tag) => request.set_header("x-goog-if-generation-match", &tag.0),
        }
    }

    fn tag(&self, response: &Response) -> Option<Tag> {
        response.header("x-goog-generation").map(|generation| Tag(generation.to_owned()))
    }

    fn list(&self, prefix: &str, from: Option<&str>) -> Request {
        s3::listing(self.bucket_request(Method::GET), prefix, from)
    }

    fn page(&self, body: &[u8]) -> Result<Page, String> {
        xml::listing(body)
    }

    fn sign(&self, request: &mut Request) -> Result<(), String> {
        let path = request.path.clone();
        let signs_body = request.body.is_empty() || request.is_plain();
        sign::sign(request, &path, &self.credentials, REGION, &NAMES, Timestamp::now(), signs_body);
        Ok(())
    }

    fn refusal(&self, response: &Response) -> Refusal {
        xml::refusal(response)
    }

    fn hint(&self, refusal: &Refusal) -> Option<String> {
        s3::hint(refusal, &self.bucket, REGION, KEYS)
    }

    fn make(&self) -> Request {
        self.bucket_request(Method::PUT)
    }

    fn settings(&self, prefix: &str, send: &Send<'_>) -> Settings {
        let get = |setting| send(self.bucket_request(Method::GET).query(setting, ""));
        Settings {
            versioning: s3::settings::versioning(&get),
            object_lock: Known::default(),
            lifecycle: s3::settings::lifecycle(&get, "NoSuchLifecycleConfiguration", &|root| {
                lifecycle::rules(root, prefix)
            }),
        }
    }
}
