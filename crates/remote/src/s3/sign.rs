//! Signatures of version 4, as S3 and Aliyun OSS want them.
//!
//! Both sign the method, the path, the query, some headers and the digest of the body (or the statement that it is not
//! signed) with a key that is derived from the secret for a day, a region and a service. They differ in names only.

use jiff::Timestamp;

use crate::encode::{component, hex, hmac_sha256, path, sha256};
use crate::http::Request;
use crate::secret::Secret;
use crate::time::compact;

/// What stands for the digest of a body that is not signed.
pub(crate) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// Who signs.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) access_key: String,
    pub(crate) secret: Secret,
    pub(crate) token: Option<Secret>,
}

/// The names that a service uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// Of the scheme.
    pub(crate) algorithm: &'static str,
    /// What the secret is prefixed with.
    pub(crate) key_prefix: &'static str,
    /// The service in the scope.
    pub(crate) service: &'static str,
    /// The end of the scope.
    pub(crate) scope_end: &'static str,
    /// Headers: time, digest of the body, session token.
    pub(crate) date_header: &'static str,
    pub(crate) content_header: &'static str,
    pub(crate) token_header: &'static str,
    /// Whether the host is among the signed headers, and all of them are listed.
    pub(crate) signs_host: bool,
    /// Whether a parameter without value is signed as `name=` rather than `name`.
    pub(crate) signs_empty_value: bool,
}

/// Signs a request of which the body is signed too, or not. `canonical_path` is what the service takes for the path.
pub(crate) fn sign(
    request: &mut Request,
    canonical_path: &str,
    credentials: &Credentials,
    region: &str,
    names: &Names,
    time: Timestamp,
    signs_body: bool,
) {
    let content = if signs_body { sha256(&request.body) } else { UNSIGNED.to_owned() };
    let time = compact(time);
    request.set_header(names.content_header, &content);
    request.set_header(names.date_header, &time);
    if let Some(token) = &credentials.token {
        request.set_header(names.token_header, token.reveal());
    }
    let day = &time[..8];
    let scope = format!("{day}/{region}/{}/{}", names.service, names.scope_end);
    let headers = signed_headers(request, names);
    let list = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
    let listed = if names.signs_host { list.as_str() } else { "" };
    let canonical = format!(
        "{}\n{}\n{}\n{}\n{listed}\n{content}",
        request.method,
        path(canonical_path),
        canonical_query(request, names),
        headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect::<String>(),
    );
    let to_sign = format!("{}\n{time}\n{scope}\n{}", names.algorithm, sha256(&[canonical.into()]));
    let first = format!("{}{}", names.key_prefix, credentials.secret.reveal());
    let key = [day, region, names.service, names.scope_end]
        .iter()
        .fold(first.into_bytes(), |key, part| hmac_sha256(&key, part));
    let signature = hex(&hmac_sha256(&key, &to_sign));
    let separator = if names.signs_host { ", " } else { "," };
    let headers = if names.signs_host { format!("{separator}SignedHeaders={list}") } else { String::new() };
    let authorization = format!(
        "{} Credential={}/{scope}{headers}{separator}Signature={signature}",
        names.algorithm, credentials.access_key
    );
    request.set_header("authorization", &authorization);
}

/// The headers that are signed, in order: those of the service, of the content, and perhaps the host.
fn signed_headers(request: &Request, names: &Names) -> Vec<(String, String)> {
    let own = names.date_header.trim_end_matches("date");
    let is_signed = |name: &str| name.starts_with(own) || name == "content-type" || name == "content-md5";
    let mut headers: Vec<(String, String)> = request
        .headers
        .iter()
        .filter(|(name, _)| is_signed(name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().trim().to_owned()))
        .collect();
    if names.signs_host {
        headers.push(("host".to_owned(), request.host().to_owned()));
    }
    headers.sort();
    headers
}

fn canonical_query(request: &Request, names: &Names) -> String {
    let mut pairs: Vec<(String, String)> =
        request.query.iter().map(|(name, value)| (component(name), component(value))).collect();
    pairs.sort();
    let one = |(name, value): &(String, String)| {
        if value.is_empty() && !names.signs_empty_value { name.clone() } else { format!("{name}={value}") }
    };
    pairs.iter().map(one).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::{Credentials, sign};
    use crate::http::{Method, Request};
    use crate::s3::NAMES;
    use crate::secret::Secret;

    /// The example of Amazon's documentation, "Example: GET Object".
    #[test]
    fn the_signature_is_the_one_of_amazons_example() {
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            token: None,
        };
        let time = "2013-05-24T00:00:00Z".parse().unwrap();
        let mut list = Request::new(Method::GET, "https://examplebucket.s3.amazonaws.com", "/")
            .query("prefix", "J")
            .query("max-keys", "2");
        sign(&mut list, "/", &credentials, "us-east-1", &NAMES, time, true);
        let authorization = list.headers.get("authorization").unwrap().to_str().unwrap();
        assert!(
            authorization
                .ends_with("Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
            "{authorization}"
        );
    }
}
