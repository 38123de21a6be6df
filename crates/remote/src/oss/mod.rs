//! Aliyun OSS by its own API, which is like S3's but for the names in signatures and the conditions.
//!
//! It creates without overwriting (`x-oss-forbid-overwrite`), but not in buckets that keep versions, and does not compare
//! before it replaces. So it counts as a service without comparison, whatever a probe finds by luck.

mod credentials;

use jiff::Timestamp;
use leeward_store::bucket::{Comparison, Condition, Tag};

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

/// Aliyun's names in signatures.
const NAMES: Names = Names {
    algorithm: "OSS4-HMAC-SHA256",
    key_prefix: "aliyun_v4",
    service: "oss",
    scope_end: "aliyun_v4_request",
    date_header: "x-oss-date",
    content_header: "x-oss-content-sha256",
    token_header: "x-oss-security-token",
    signs_host: false,
    signs_empty_value: false,
};
const KEYS: &str = "OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET, or ~/.ossutilconfig";

/// A bucket of OSS.
pub struct Oss {
    origin: String,
    /// Before an object's name: `/`, or `/BUCKET/` where the bucket is not in the host's name.
    root: String,
    bucket: String,
    region: String,
    credentials: Credentials,
}

impl Oss {
    /// The bucket at a location `oss://BUCKET?region=REGION`.
    ///
    /// # Errors
    /// It names no region, an option makes no sense, or there are no credentials.
    pub fn new(location: &Location, environment: &Environment) -> Result<Self> {
        let profile = credentials::Profile::of(environment);
        let region = location.option("region").map(str::to_owned).or_else(|| environment.get("OSS_REGION"));
        let region = region.or_else(|| profile.region()).ok_or_else(|| {
            location.wrong("no region: add region=REGION (cn-hangzhou, say), or set OSS_REGION")
        })?;
        let named =
            location.option("endpoint").map(str::to_owned).or_else(|| environment.get("OSS_ENDPOINT"));
        let endpoint = named.unwrap_or_else(|| format!("https://oss-{region}.aliyuncs.com"));
        let is_in_path = location.flag("path-style")?.unwrap_or(false);
        let (origin, root) = s3::addressed(&location.origin(&endpoint)?, &location.bucket, is_in_path);
        Ok(Self {
            origin,
            root,
            bucket: location.bucket.clone(),
            credentials: profile.credentials(location, environment)?,
            region,
        })
    }

    fn bucket_request(&self, method: Method) -> Request {
        Request::new(method, self.origin.as_str(), self.root.as_str())
    }
}

impl Service for Oss {
    fn object(&self, method: Method, name: &str) -> Request {
        Request::new(method, self.origin.as_str(), format!("{}{name}", self.root))
    }

    fn prepare_write(&self, request: &mut Request, condition: Condition<'_>) {
        request.set_header("content-type", "application/octet-stream");
        request.set_header("content-md5", &digest::md5_base64(&request.body));
        // No condition of the service stands for a comparison; nobody asks for one here, and if so, nothing is replaced.
        if !matches!(condition, Condition::Always) {
            request.set_header("x-oss-forbid-overwrite", "true");
        }
    }

    fn tag(&self, _response: &Response) -> Option<Tag> {
        // It tells entity tags, but they can be given back to no purpose.
        None
    }

    fn promises(&self) -> Comparison {
        Comparison::None
    }

    fn list(&self, prefix: &str, from: Option<&str>) -> Request {
        s3::listing(self.bucket_request(Method::GET), prefix, from)
    }

    fn page(&self, body: &[u8]) -> Result<Page, String> {
        xml::listing(body)
    }

    fn sign(&self, request: &mut Request) -> Result<(), String> {
        // The bucket is signed as the beginning of the path, wherever it stands in the address.
        let path =
            if self.root == "/" { format!("/{}{}", self.bucket, request.path) } else { request.path.clone() };
        // The service takes no signatures of bodies; the connection and Content-MD5 protect those.
        sign::sign(request, &path, &self.credentials, &self.region, &NAMES, Timestamp::now(), false);
        Ok(())
    }

    fn refusal(&self, response: &Response) -> Refusal {
        xml::refusal(response)
    }

    fn hint(&self, refusal: &Refusal) -> Option<String> {
        s3::hint(refusal, &self.bucket, &self.region, KEYS)
    }

    fn make(&self) -> Request {
        self.bucket_request(Method::PUT)
    }

    fn settings(&self, prefix: &str, send: &Send<'_>) -> Settings {
        let get = |setting| send(self.bucket_request(Method::GET).query(setting, ""));
        Settings {
            versioning: s3::settings::versioning(&get),
            object_lock: Known::default(),
            lifecycle: s3::settings::lifecycle(&get, "NoSuchLifecycle", &|root| {
                s3::settings::rules(root, prefix)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::NAMES;
    use crate::http::{Method, Request};
    use crate::s3::sign::{Credentials, sign};
    use crate::secret::Secret;

    /// The known answers in the tests of Aliyun's own SDKs for Go, Python, PHP and C++, without and with a session token.
    #[test]
    fn signatures_are_those_of_aliyuns_sdks() {
        let cases = [
            (
                "2023-12-16T16:20:57Z",
                None,
                "e21d18daa82167720f9b1047ae7e7f1ce7cb77a31e8203a7d5f4624fa0284afe",
            ),
            (
                "2023-12-17T03:47:36Z",
                Some("token"),
                "b94a3f999cf85bcdc00d332fbd3734ba03e48382c36fa4d5af5df817395bd9ea",
            ),
        ];
        for (time, token, expected) in cases {
            let credentials = Credentials {
                access_key: "ak".to_owned(),
                secret: Secret::new("sk"),
                token: token.map(Secret::new),
            };
            let mut request =
                Request::new(Method::PUT, "https://bucket.oss-cn-hangzhou.aliyuncs.com", "/1234+-/123/1.txt")
                    .header("x-oss-head1", "value")
                    .header("content-type", "text/plain");
            for (name, value) in [
                ("param1", "value1"),
                ("+param1", "value3"),
                ("|param1", "value4"),
                ("+param2", ""),
                ("|param2", ""),
                ("param2", ""),
            ] {
                request = request.query(name, value);
            }
            let path = "/bucket/1234+-/123/1.txt";
            sign(&mut request, path, &credentials, "cn-hangzhou", &NAMES, time.parse().unwrap(), false);
            let authorization = request.headers.get("authorization").unwrap().to_str().unwrap();
            assert!(authorization.ends_with(&format!(",Signature={expected}")), "{time}: {authorization}");
        }
    }
}
