//! Signatures with the account's key ("Authorize with Shared Key"): HMAC-SHA256 over the method, some headers, the
//! headers of the service and the path with its query.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::encode::{hmac_sha256, path};
use crate::http::Request;

/// The headers that are signed by their values, in this order; one that is not there is an empty line.
const HEADERS: [&str; 8] = [
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// Signs a request; nothing of it may change afterwards.
pub(super) fn sign(request: &mut Request, account: &str, key: &[u8]) {
    let signature = STANDARD.encode(hmac_sha256(key, &to_sign(request, account)));
    request.set_header("authorization", &format!("SharedKey {account}:{signature}"));
}

fn to_sign(request: &Request, account: &str) -> String {
    let header =
        |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let length = match request.body_bytes() {
        0 => String::new(),
        length => length.to_string(),
    };
    // Neither encoding nor language of the content are ever sent.
    let mut text = format!("{}\n\n\n{length}\n", request.method);
    for name in HEADERS {
        text.push_str(header(name));
        text.push('\n');
    }
    text.push_str(&own_headers(request));
    text.push_str(&format!("/{account}{}", path(&request.path)));
    text.push_str(&parameters(request));
    text
}

/// The headers of the service, in order.
fn own_headers(request: &Request) -> String {
    let own = request.headers.iter().filter(|(name, _)| name.as_str().starts_with("x-ms-"));
    let mut lines: Vec<String> =
        own.map(|(name, value)| format!("{name}:{}\n", value.to_str().unwrap_or_default().trim())).collect();
    lines.sort();
    lines.concat()
}

/// The parameters of the query in plain text, in order. None occurs twice.
fn parameters(request: &Request) -> String {
    let mut lines: Vec<String> =
        request.query.iter().map(|(name, value)| format!("\n{}:{value}", name.to_lowercase())).collect();
    lines.sort();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::to_sign;
    use crate::http::{Method, Request};

    /// The example of Microsoft's documentation, "Authorize with Shared Key": Get Container Metadata.
    #[test]
    fn what_is_signed_is_that_of_microsofts_example() {
        let request = Request::new(Method::GET, "https://myaccount.blob.core.windows.net", "/mycontainer")
            .query("restype", "container")
            .query("comp", "metadata")
            .header("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT")
            .header("x-ms-version", "2015-02-21");
        assert_eq!(
            to_sign(&request, "myaccount"),
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
             /myaccount/mycontainer\ncomp:metadata\nrestype:container"
        );
    }

    #[test]
    fn length_conditions_and_ranges_are_signed() {
        let request = Request::new(Method::PUT, "https://a", "/c/refs/web%2Froot")
            .header("if-match", "\"0x8D\"")
            .header("range", "bytes=0-9")
            .body(&[b"abc"]);
        assert_eq!(
            to_sign(&request, "a"),
            "PUT\n\n\n3\n\n\n\n\n\"0x8D\"\n\n\nbytes=0-9\n/a/c/refs/web%252Froot"
        );
    }
}
