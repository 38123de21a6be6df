//! One HTTP client for all services: sends a request, returns the whole answer.
//!
//! It does not try again, follow redirections or interpret what a service says. Connecting has a time-out, and so has
//! every pause in which no byte moves; a transfer as a whole has none, however slow the line. Answers are bounded by
//! what the caller expects. Every request that leaves is counted.

mod client;
mod fault;
mod feed;
mod prompt;
mod upload;
mod way;

pub use client::Client;
pub use fault::Fault;
pub use feed::Feed;

pub use bytes::Bytes;
pub use hyper::Method;
pub use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::encode;

/// The largest answer of a service to anything but a read, in bytes.
pub const ANSWER_BYTES_MAX: u64 = 32 << 20;

/// A request before it is sent. Path and query are kept apart, and in plain text, because services sign them so.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to do.
    pub method: Method,
    /// Scheme, host and port, without a slash at the end: `https://host:port`.
    pub origin: String,
    /// The path in plain text, beginning with a slash; percent-encoded when it is sent.
    pub path: String,
    /// The query in plain text, in the order in which it is sent; an empty value is sent as `name=`.
    pub query: Vec<(String, String)>,
    /// Path and query as they are sent, where somebody gave them encoded already; the other two then do not matter. Taking
    /// such an address apart and writing it anew may spell it otherwise, and what is signed by its spelling no longer fits.
    pub target: Option<String>,
    /// Headers other than those of the connection.
    pub headers: HeaderMap,
    /// The body in parts.
    pub body: Vec<Bytes>,
    /// The largest answer that is taken, in bytes.
    pub answer_bytes_max: u64,
}

impl Request {
    /// A request without headers and body.
    #[must_use]
    pub fn new(method: Method, origin: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            method,
            origin: origin.into(),
            path: path.into(),
            query: Vec::new(),
            target: None,
            headers: HeaderMap::new(),
            body: Vec::new(),
            answer_bytes_max: ANSWER_BYTES_MAX,
        }
    }

    /// Adds a parameter to the query.
    #[must_use]
    pub fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a header; what cannot be one (a control character in a credential, say) is left out, and the service then
    /// refuses the request.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.set_header(name, value);
        self
    }

    /// As [`Request::header`], in place; replaces one of the same name.
    pub fn set_header(&mut self, name: &'static str, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, parts: &[&[u8]]) -> Self {
        self.body =
            parts.iter().filter(|part| !part.is_empty()).map(|part| Bytes::copy_from_slice(part)).collect();
        self
    }

    /// Size of the body in bytes.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.body.iter().map(|part| part.len() as u64).sum()
    }

    /// Host and port as the `Host` header names them.
    #[must_use]
    pub fn host(&self) -> &str {
        self.origin.split_once("://").map_or(self.origin.as_str(), |(_, host)| host)
    }

    /// Whether others on the way can read it.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        !self.origin.starts_with("https://")
    }

    /// The whole address, encoded.
    #[must_use]
    pub fn url(&self) -> String {
        if let Some(target) = &self.target {
            return format!("{}{target}", self.origin);
        }
        let mut url = format!("{}{}", self.origin, encode::path(&self.path));
        for (number, (name, value)) in self.query.iter().enumerate() {
            url.push(if number == 0 { '?' } else { '&' });
            url.push_str(&encode::component(name));
            url.push('=');
            url.push_str(&encode::component(value));
        }
        url
    }
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether the service did what was asked.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}
