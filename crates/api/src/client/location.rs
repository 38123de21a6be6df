//! Where a server is: `https://HOST[:PORT][/PATH]`, or `http://` on this machine.

use std::fmt;
use std::net::IpAddr;

use hyper::Uri;

/// The place of a repository behind a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub(super) is_secure: bool,
    pub(super) host: String,
    pub(super) port: u16,
    path: String,
}

impl Location {
    /// Whether a text means a server.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        text.starts_with("https://") || text.starts_with("http://")
    }

    /// Reads a location.
    ///
    /// # Errors
    /// It is none, holds a secret, or asks for a connection that others can read; says what to do.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            return Err(
                "a URL with a secret in it: give the token in LEEWARD_TOKEN_FILE or LEEWARD_TOKEN".to_owned()
            );
        }
        if text.contains(['?', '#']) {
            return Err(format!("{text}: nothing may follow the path"));
        }
        let bad = |why: String| format!("{text}: not the URL of a server: {why}");
        let uri: Uri = text.parse().map_err(|error: hyper::http::uri::InvalidUri| bad(error.to_string()))?;
        let is_secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad("it begins neither with https:// nor with http://".to_owned())),
        };
        let host = uri.host().ok_or_else(|| bad("it has no host".to_owned()))?.to_owned();
        let is_local = host == "localhost"
            || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if !is_secure && !is_local {
            return Err(format!("{text}: refused: others could read and change what is sent — use https://"));
        }
        let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        Ok(Self { is_secure, host, port, path: uri.path().trim_end_matches('/').to_owned() })
    }

    /// The URL of a path of the protocol.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{self}{path}")
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::Location;

    #[test]
    fn only_locations_that_keep_secrets_are_taken() {
        for (text, url) in [
            ("https://example.org", "https://example.org:443/v1/whoami"),
            ("https://example.org:7443/site/a/", "https://example.org:7443/site/a/v1/whoami"),
            ("http://127.0.0.1:80", "http://127.0.0.1:80/v1/whoami"),
            ("http://[::1]:1", "http://[::1]:1/v1/whoami"),
        ] {
            assert_eq!(Location::parse(text).unwrap().url("/v1/whoami"), url);
        }
        for text in [
            "http://example.org",
            "https://me:secret@example.org",
            "https://",
            "ftp://a",
            "https://a?token=x",
        ] {
            let why = Location::parse(text).unwrap_err();
            assert!(!why.contains("me:secret"), "{why}");
        }
    }
}
