//! S3: Amazon's, and the many that speak like it.

mod credentials;
mod lock;
pub(crate) mod settings;
pub(crate) mod sign;
mod versions;

use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use leeward_store::Lock;
use leeward_store::bucket::{Condition, Tag};

use self::sign::{Credentials, Names};
use crate::answer::Refusal;
use crate::environment::Environment;
use crate::error::Result;
use crate::http::{Method, Request, Response};
use crate::location::Location;
use crate::past::VersionsPage;
use crate::service::{Page, Send, Service};
use crate::settings::Settings;
use crate::xml;

/// Amazon's names in signatures.
pub(crate) const NAMES: Names = Names {
    algorithm: "AWS4-HMAC-SHA256",
    key_prefix: "AWS4",
    service: "s3",
    scope_end: "aws4_request",
    date_header: "x-amz-date",
    content_header: "x-amz-content-sha256",
    token_header: "x-amz-security-token",
    signs_host: true,
    signs_empty_value: true,
};

/// A bucket of S3.
pub struct S3 {
    origin: String,
    /// Before an object's name: `/`, or `/BUCKET/` where the bucket is not in the host's name.
    root: String,
    bucket: String,
    region: String,
    credentials: Credentials,
    /// Whether bodies are signed: not where nobody can change them on the way.
    signs_bodies: bool,
    bare_tags: AtomicBool,
}

impl S3 {
    /// The bucket at a location.
    ///
    /// # Errors
    /// An option makes no sense, or there are no credentials.
    pub fn new(location: &Location, environment: &Environment) -> Result<Self> {
        let profile = credentials::Profile::of(location, environment);
        let endpoint = location
            .option("endpoint")
            .map(str::to_owned)
            .or_else(|| environment.first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]))
            .or_else(|| profile.setting("endpoint_url"));
        let region = location
            .option("region")
            .map(str::to_owned)
            .or_else(|| environment.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]))
            .or_else(|| profile.setting("region"))
            .unwrap_or_else(|| "us-east-1".to_owned());
        let is_amazon = endpoint.is_none();
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let origin = location.origin(&endpoint)?;
        let is_in_path =
            location.flag("path-style")?.unwrap_or(!is_amazon || location.bucket.contains(['.', '_']));
        let (origin, root) = addressed(&origin, &location.bucket, is_in_path);
        let is_here = origin.starts_with("http://127.") || origin.starts_with("http://localhost");
        Ok(Self {
            signs_bodies: !(origin.starts_with("https://") || is_here),
            origin,
            root,
            bucket: location.bucket.clone(),
            region,
            credentials: profile.credentials(location, environment)?,
            bare_tags: AtomicBool::new(false),
        })
    }

    pub(crate) fn bucket_request(&self, method: Method) -> Request {
        let path = if self.root == "/" { "/".to_owned() } else { self.root.trim_end_matches('/').to_owned() };
        Request::new(method, &self.origin, path)
    }
}

/// Host and root of a bucket that is named in the path or in the host's name.
pub(crate) fn addressed(origin: &str, bucket: &str, is_in_path: bool) -> (String, String) {
    match origin.split_once("://") {
        Some((scheme, host)) if !is_in_path => (format!("{scheme}://{bucket}.{host}"), "/".to_owned()),
        _ => (origin.to_owned(), format!("/{bucket}/")),
    }
}

impl Service for S3 {
    fn object(&self, method: Method, name: &str) -> Request {
        Request::new(method, &self.origin, format!("{}{name}", self.root))
    }

    fn prepare_write(&self, request: &mut Request, condition: Condition<'_>) {
        set_checksum(request);
        match condition {
            Condition::Always => {}
            Condition::Absent => request.set_header("if-none-match", "*"),
            Condition::Matches(Tag(tag)) if self.bare_tags.load(Ordering::Relaxed) => {
                request.set_header("if-match", tag.trim_matches('"'));
            }
            Condition::Matches(Tag(tag)) => request.set_header("if-match", tag),
        }
    }

    fn tag(&self, response: &Response) -> Option<Tag> {
        response.header("etag").map(|tag| Tag(tag.to_owned()))
    }

    fn list(&self, prefix: &str, from: Option<&str>) -> Request {
        listing(self.bucket_request(Method::GET), prefix, from)
    }

    fn page(&self, body: &[u8]) -> Result<Page, String> {
        xml::listing(body)
    }

    fn sign(&self, request: &mut Request) -> Result<(), String> {
        let path = request.path.clone();
        let signs_body = self.signs_bodies || request.body.is_empty();
        sign::sign(request, &path, &self.credentials, &self.region, &NAMES, Timestamp::now(), signs_body);
        Ok(())
    }

    fn refusal(&self, response: &Response) -> Refusal {
        xml::refusal(response)
    }

    fn hint(&self, refusal: &Refusal) -> Option<String> {
        hint(
            refusal,
            &self.bucket,
            &self.region,
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile",
        )
    }

    fn make(&self) -> Request {
        self.bucket_request(Method::PUT)
    }

    fn settings(&self, prefix: &str, send: &Send<'_>) -> Settings {
        settings::read(prefix, &|setting| send(self.bucket_request(Method::GET).query(setting, "")))
    }

    fn has_locks(&self) -> bool {
        true
    }

    fn lock_in(&self, response: &Response) -> Option<Lock> {
        lock::told(response)
    }

    fn lock(&self, name: &str, lock: Lock) -> Option<Request> {
        let mut request =
            self.object(Method::PUT, name).query("retention", "").body(&[lock::document(lock)?.as_bytes()]);
        set_checksum(&mut request);
        Some(request)
    }

    fn versions(&self, prefix: &str, from: Option<&(String, String)>) -> Option<Request> {
        let request = self.bucket_request(Method::GET).query("versions", "").query("prefix", prefix);
        Some(match from {
            Some((name, version)) => request.query("key-marker", name).query("version-id-marker", version),
            None => request,
        })
    }

    fn versions_page(&self, body: &[u8]) -> Result<VersionsPage, String> {
        versions::page(body)
    }

    fn use_bare_tags(&self, bare: bool) {
        self.bare_tags.store(bare, Ordering::Relaxed);
    }
}

/// Makes a request about a bucket one for a page of its listing, version 2.
pub(crate) fn listing(request: Request, prefix: &str, from: Option<&str>) -> Request {
    let request = request.query("list-type", "2").query("prefix", prefix);
    match from {
        Some(from) => request.query("continuation-token", from),
        None => request,
    }
}

/// Says what the body should come to.
fn set_checksum(request: &mut Request) {
    let mut checksum = crc32fast::Hasher::new();
    request.body.iter().for_each(|part| checksum.update(part));
    request.set_header("x-amz-checksum-crc32", &STANDARD.encode(checksum.finalize().to_be_bytes()));
}

/// What to do about a refusal of S3 or a service with the same words.
pub(crate) fn hint(refusal: &Refusal, bucket: &str, region: &str, keys: &str) -> Option<String> {
    let hint = match refusal.code.as_str() {
        "NoSuchBucket" => format!("make the bucket {bucket} first, or see how its name is spelt"),
        "InvalidAccessKeyId" => format!("the service does not know this key: see {keys}"),
        "SignatureDoesNotMatch" => format!("the secret does not belong to the key: see {keys}"),
        "ExpiredToken" => format!("the session has ended; get new credentials: see {keys}"),
        "InvalidRequest" | "ObjectLockConfigurationNotFoundError" if refusal.message.contains("ock") => {
            format!(
                "the bucket {bucket} was not made with object lock: make one that is, and clone the repository into it"
            )
        }
        "RequestTimeTooSkewed" => "set this machine's clock".to_owned(),
        "AuthorizationHeaderMalformed"
        | "PermanentRedirect"
        | "TemporaryRedirect"
        | "IllegalLocationConstraintException" => wrong_region(refusal, region),
        _ if matches!(refusal.status, 301 | 307) => wrong_region(refusal, region),
        _ if matches!(refusal.status, 401 | 403) => {
            format!(
                "see that this key may read, write, list and delete in {bucket}, and that it is the right one ({keys})"
            )
        }
        _ => return None,
    };
    Some(hint)
}

fn wrong_region(refusal: &Refusal, region: &str) -> String {
    match &refusal.region {
        Some(right) => {
            format!("the bucket is in the region {right}, not {region}: add region={right} to the location")
        }
        None => format!(
            "the bucket is not in the region {region}: add the right region=… or endpoint=… to the location"
        ),
    }
}
