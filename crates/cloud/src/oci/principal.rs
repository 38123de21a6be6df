//! Instance principals: an instance shows its certificate, and gets a token for a key of its own making.
//!
//! The metadata service hands out a certificate, which OCI renews several times a day, its key, and an intermediate one.
//! A request to the auth service, signed with that key, exchanges them and a new public key for a token. From then on
//! requests are signed with the new key under the id `ST$TOKEN`. The token is never shown; it is renewed before it ends,
//! and when a request is refused for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use leeward_remote::http::{Client, Method, Request};
use leeward_remote::oci::{Body, Signer, SigningKey};
use leeward_store::bucket::RequestClass;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::caller::broken;
use super::metadata::Metadata;
use crate::provider::Fault;
use crate::{Error, ErrorKind, Result};

const NAME: &str = "oci";
const ACTION: &str = "get a token for this instance";
/// A token is not used for so long before its end.
const BEFORE_END: SignedDuration = SignedDuration::from_secs(120);
/// How long a token is used that does not say when it ends.
const USED_FOR: SignedDuration = SignedDuration::from_mins(5);

/// The identity of the instance that this process runs on.
pub(super) struct InstancePrincipal {
    metadata: Metadata,
    http: Client,
    auth: String,
    session: Mutex<Option<Session>>,
}

struct Session {
    signer: Arc<Signer>,
    until: Timestamp,
}

#[derive(Deserialize)]
struct Answer {
    token: String,
}

#[derive(Deserialize)]
struct Claims {
    exp: i64,
}

impl InstancePrincipal {
    /// The instance's identity, by the auth service at this origin.
    pub(super) fn new(metadata: Metadata, http: Client, auth: String) -> Self {
        Self { metadata, http, auth, session: Mutex::new(None) }
    }

    /// What signs now.
    pub(super) fn signer(&self) -> Result<Arc<Signer>> {
        // Held while a token is fetched: the others need it too.
        let mut session = self.session();
        if let Some(session) = session.as_ref().filter(|session| Timestamp::now() < session.until) {
            return Ok(Arc::clone(&session.signer));
        }
        let fresh = self.fetch()?;
        let signer = Arc::clone(&fresh.signer);
        *session = Some(fresh);
        Ok(signer)
    }

    /// Forgets the token; `true`, as there will be another.
    pub(super) fn forget(&self) -> bool {
        *self.session() = None;
        true
    }

    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetch(&self) -> Result<Session> {
        let certificate = base64_of(&self.metadata.text("identity/cert.pem")?, "CERTIFICATE")?;
        let intermediate = base64_of(&self.metadata.text("identity/intermediate.pem")?, "CERTIFICATE")?;
        let key = SigningKey::from_pem(&self.metadata.text("identity/key.pem")?).map_err(denied)?;
        let der =
            STANDARD.decode(&certificate).map_err(|_| denied("the instance's certificate is damaged"))?;
        let tenancy = tenancy(&der).ok_or_else(|| denied("the instance's certificate names no tenancy"))?;
        let signer = Signer::of(format!("{tenancy}/fed-x509/{}", fingerprint(&der)), key).without_host();
        let own = SigningKey::generate().map_err(denied)?;
        let public = own.public_base64().ok_or_else(|| denied("a new key has no public half"))?;
        let body = json!({
            "certificate": certificate,
            "publicKey": public,
            "intermediateCertificates": [intermediate],
        });
        let token = self.exchange(&signer, &body.to_string())?;
        let until = end_of(&token).unwrap_or_else(|| Timestamp::now() + USED_FOR);
        Ok(Session { signer: Arc::new(Signer::of(format!("ST${}", token.as_str()), own)), until })
    }

    fn exchange(&self, signer: &Signer, body: &str) -> Result<Zeroizing<String>> {
        let mut request = Request::new(Method::POST, self.auth.as_str(), "/v1/x509")
            .header("content-type", "application/json")
            .body(&[body.as_bytes()]);
        request.answer_bytes_max = 256 << 10;
        signer.sign(&mut request, Body::Signed).map_err(denied)?;
        let response =
            self.http.send(request, RequestClass::Other).map_err(|fault| broken(NAME, ACTION, &fault))?;
        if !response.is_success() {
            return Err(refused(response.status));
        }
        let answer: Result<Answer, _> = serde_json::from_slice(&response.body);
        // The answer itself is not shown: it may hold a token.
        let token = answer.map_err(|_| denied("the auth service's answer holds no token"))?.token;
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') {
            return Err(denied("the auth service's token cannot be one"));
        }
        Ok(Zeroizing::new(token))
    }
}

fn denied(what: impl Into<String>) -> Error {
    Error::denied(NAME, ACTION, what)
}

fn refused(status: u16) -> Error {
    let kind = if status == 429 || status >= 500 { ErrorKind::Passing } else { ErrorKind::Denied };
    let mut fault = Fault::new(kind, NAME, ACTION, format!("the auth service answered {status}"));
    fault.hint = (kind == ErrorKind::Denied)
        .then(|| "see that the clock of the instance is right, and that its certificate is fresh".to_owned());
    fault.into()
}

/// What stands between the markers of that label, on one line.
fn base64_of(pem: &str, label: &str) -> Result<String> {
    let inner = pem
        .split_once(&format!("-----BEGIN {label}-----"))
        .and_then(|(_, rest)| rest.split_once(&format!("-----END {label}-----")));
    let (body, _) = inner.ok_or_else(|| denied("the metadata service's certificate is no PEM"))?;
    Ok(body.split_whitespace().collect())
}

/// SHA-1 of a certificate: `2A:FE:…`. It only tells the certificate from others; the signature is another.
fn fingerprint(der: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der);
    let pairs: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

/// The tenancy that a certificate names in its subject, as a text that begins with `opc-tenant:` or `opc-identity:`. The
/// whole certificate was signed by OCI and comes from this machine's own hypervisor, so the text is looked for without
/// reading all of X.509: it is a string of DER, whose length stands before it.
fn tenancy(der: &[u8]) -> Option<String> {
    ["opc-tenant:", "opc-identity:"].iter().find_map(|mark| {
        let at = der.windows(mark.len()).position(|window| window == mark.as_bytes())?;
        let length = match der.get(..at)? {
            [.., 0x81, length] => *length,
            [.., length] if *length < 0x80 => *length,
            _ => return None,
        };
        let text = std::str::from_utf8(der.get(at..at + usize::from(length))?).ok()?;
        let tenancy = text.strip_prefix(mark)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (!tenancy.is_empty() && tenancy.bytes().all(plain)).then(|| tenancy.to_owned())
    })
}

/// When to get another token. Its signature is the service's matter.
fn end_of(token: &str) -> Option<Timestamp> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    Timestamp::from_second(claims.exp).ok()?.checked_sub(BEFORE_END).ok()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::{end_of, fingerprint, tenancy};

    #[test]
    fn the_tenancy_is_read_from_the_subject_and_from_nothing_broken() {
        let text = b"opc-tenant:ocid1.tenancy.oc1..aaaa";
        let of =
            |head: &[u8], text: &[u8]| tenancy(&[&[0x30, 0x82, 0x13], head, text, b"\x31\x0bmore"].concat());
        let wanted = Some("ocid1.tenancy.oc1..aaaa".to_owned());
        assert_eq!(of(&[0x0c, text.len() as u8], text), wanted);
        assert_eq!(of(&[0x0c, 0x81, text.len() as u8], text), wanted);
        assert_eq!(of(&[0x0c, 0xff], text), None);
        assert_eq!(of(&[0x0c, 11], b"opc-tenant:"), None);
        assert_eq!(of(&[0x0c, 120], text), None);
        assert_eq!(tenancy(b""), None);
    }

    #[test]
    fn a_token_is_renewed_two_minutes_before_its_end() {
        let claims = URL_SAFE_NO_PAD.encode(br#"{"sub":"x","exp":1000000}"#);
        assert_eq!(end_of(&format!("h.{claims}.s")).unwrap().as_second(), 999_880);
        for wrong in ["", "a", "a.b.c", "a.e30.c"] {
            assert_eq!(end_of(wrong), None, "{wrong}");
        }
        assert_eq!(fingerprint(b"abc"), "A9:99:3E:36:47:06:81:6A:BA:3E:25:71:78:50:C2:6C:9C:D0:D8:9D");
    }
}
