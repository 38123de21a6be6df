//! OCI Object Storage by its native API: entity tags that compare, requests signed with an RSA key.
//!
//! Names: an object is `/n/NAMESPACE/b/BUCKET/o/NAME`, a listing `/n/NAMESPACE/b/BUCKET/o`. Both conditions
//! (`if-none-match: *` and `if-match`) are kept atomically by the service.

mod key;
mod listing;
mod profile;
pub mod refusal;
mod settings;
mod sign;

pub use self::key::SigningKey;
pub use self::profile::Profile;
pub use self::sign::{Body, Clock, Signer};

use leeward_store::bucket::{Condition, Tag};

use crate::answer::Refusal;
use crate::digest;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::http::{Method, Request, Response};
use crate::location::Location;
use crate::service::{Page, Send, Service};
use crate::settings::Settings;

/// One bucket of OCI Object Storage.
pub struct Oci {
    origin: String,
    /// `/n/NAMESPACE/b/BUCKET`.
    bucket: String,
    /// The compartment in which a bucket is made: the root.
    tenancy: String,
    signer: Signer,
}

impl Oci {
    /// The bucket at a location `oci://BUCKET@NAMESPACE`, with the profile of the environment.
    ///
    /// # Errors
    /// The location names no namespace or region, or there are no credentials.
    pub fn at(location: &Location, environment: &Environment) -> Result<Self> {
        let signer = |what| Error::Credentials { store: location.to_string(), what };
        let profile = Profile::find(environment).map_err(signer)?;
        Self::of(location, profile)
    }

    /// The bucket at a location, with a profile.
    ///
    /// # Errors
    /// The location names no namespace or region.
    pub fn of(location: &Location, profile: Profile) -> Result<Self> {
        let (bucket, namespace) = location.bucket.split_once('@').ok_or_else(|| {
            location.wrong(
                "the namespace belongs behind the bucket: oci://BUCKET@NAMESPACE (oci os ns get prints it)",
            )
        })?;
        let region = location.option("region").or(profile.region.as_deref());
        let endpoint = match (location.option("endpoint"), region) {
            (Some(endpoint), _) => endpoint.to_owned(),
            (None, Some(region)) => Self::endpoint(region),
            (None, None) => {
                return Err(location.wrong("no region: add region=REGION, or write it into the profile"));
            }
        };
        Ok(Self {
            origin: location.origin(&endpoint)?,
            bucket: format!("/n/{namespace}/b/{bucket}"),
            tenancy: profile.tenancy.clone(),
            signer: Signer::new(profile),
        })
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// `/n/NAMESPACE/b/BUCKET`.
    pub(crate) fn bucket_path(&self) -> &str {
        &self.bucket
    }

    /// The same bucket by another clock.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { signer: self.signer.with_clock(clock), ..self }
    }

    /// The endpoint of a region of Oracle's commercial realm; other realms need theirs to be named.
    #[must_use]
    pub fn endpoint(region: &str) -> String {
        format!("https://objectstorage.{region}.oraclecloud.com")
    }
}

impl Service for Oci {
    fn object(&self, method: Method, name: &str) -> Request {
        Request::new(method, self.origin.as_str(), format!("{}/o/{name}", self.bucket))
    }

    fn make(&self) -> Request {
        let (path, name) = self.bucket.rsplit_once('/').unwrap_or_default();
        let body = serde_json::json!({ "name": name, "compartmentId": self.tenancy });
        Request::new(Method::POST, self.origin.as_str(), path)
            .header("content-type", "application/json")
            .body(&[body.to_string().as_bytes()])
    }

    fn prepare_write(&self, request: &mut Request, condition: Condition<'_>) {
        request.set_header("content-type", "application/octet-stream");
        request.set_header("content-md5", &digest::md5_base64(&request.body));
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
        listing::request(&self.origin, &self.bucket, prefix, from)
    }

    fn page(&self, body: &[u8]) -> Result<Page, String> {
        listing::page(body)
    }

    fn sign(&self, request: &mut Request) -> Result<(), String> {
        // The service leaves out the body of PutObject, which is checked by its MD5.
        self.signer.sign(request, if request.method == Method::POST { Body::Signed } else { Body::Unsigned })
    }

    fn refusal(&self, response: &Response) -> Refusal {
        refusal::read(response, self.signer.now())
    }

    fn hint(&self, refusal: &Refusal) -> Option<String> {
        refusal::hint(refusal)
    }

    fn settings(&self, prefix: &str, send: &Send<'_>) -> Settings {
        settings::read(&self.origin, &self.bucket, prefix, send)
    }
}
