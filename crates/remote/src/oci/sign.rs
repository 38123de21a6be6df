//! Request signatures, version 1: HTTP signatures (draft-cavage-http-signatures-08) with RSA-SHA256.
//!
//! Signed are the date, the request target exactly as it is sent, and the host with its port; of a request with a body
//! also the body's digest, type and length, except where the service asks only for the former: PutObject and UploadPart.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::{Profile, SigningKey};
use crate::http::Request;
use crate::time::http_date;

/// Whether the signature covers the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// It does not: there is none, or the operation is PutObject.
    Unsigned,
    /// It does: every other writing operation.
    Signed,
}

/// The clock by which requests are dated.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Signs requests in the name of a profile, or of whom a key stands for.
pub struct Signer {
    key_id: String,
    key: SigningKey,
    clock: Clock,
    signs_host: bool,
}

impl Signer {
    /// A signer by this machine's clock.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self::of(profile.key_id(), profile.key)
    }

    /// A signer with a key that the service knows under an id: that of a session, for instance.
    #[must_use]
    pub fn of(key_id: String, key: SigningKey) -> Self {
        Self { key_id, key, clock: Arc::new(Timestamp::now), signs_host: true }
    }

    /// The same signer, which leaves out the host: so the service that gives tokens to instances has it.
    #[must_use]
    pub fn without_host(self) -> Self {
        Self { signs_host: false, ..self }
    }

    /// The key that it signs with.
    #[must_use]
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The same signer by another clock.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// What its clock shows.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Dates and signs a request; nothing of it may change afterwards.
    ///
    /// # Errors
    /// The machine gives no random numbers.
    pub fn sign(&self, request: &mut Request, body: Body) -> Result<(), String> {
        request.set_header("date", &http_date(self.now()));
        let mut names = vec!["date", "(request-target)"];
        names.extend(self.signs_host.then_some("host"));
        if body == Body::Signed {
            let digest = sha256_base64(&request.body);
            request.set_header("x-content-sha256", &digest);
            request.set_header("content-length", &request.body_bytes().to_string());
            names.extend(["content-length", "content-type", "x-content-sha256"]);
        }
        let lines: Option<Vec<String>> = names.iter().map(|name| line(request, name)).collect();
        let lines = lines.ok_or("the request lacks a header that is to be signed")?;
        let signature = self.key.sign(&lines.join("\n"))?;
        let header = format!(
            "Signature version=\"1\",keyId=\"{}\",algorithm=\"rsa-sha256\",headers=\"{}\",signature=\"{signature}\"",
            self.key_id,
            names.join(" ")
        );
        request.set_header("authorization", &header);
        Ok(())
    }
}

/// One line of what is signed.
fn line(request: &Request, name: &str) -> Option<String> {
    let value = match name {
        "(request-target)" => {
            let url = request.url();
            format!("{} {}", request.method.as_str().to_lowercase(), url.get(request.origin.len()..)?)
        }
        "host" => request.host().to_owned(),
        _ => request.headers.get(name)?.to_str().ok()?.to_owned(),
    };
    Some(format!("{name}: {value}"))
}

fn sha256_base64(parts: &[bytes::Bytes]) -> String {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    STANDARD.encode(context.finish().as_ref())
}

#[cfg(test)]
mod tests {
    use super::line;
    use crate::http::{Method, Request};

    #[test]
    fn the_target_is_signed_as_it_is_sent() {
        let request =
            Request::new(Method::GET, "http://127.0.0.1:12780", "/n/ns/b/bucket/o/a/refs/web%2Froot")
                .query("prefix", "a/b c%");
        assert_eq!(
            line(&request, "(request-target)").unwrap(),
            "(request-target): get /n/ns/b/bucket/o/a/refs/web%252Froot?prefix=a%2Fb%20c%25"
        );
        assert_eq!(line(&request, "host").unwrap(), "host: 127.0.0.1:12780");
        assert_eq!(line(&request, "content-type"), None);
    }
}
