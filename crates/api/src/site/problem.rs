//! What the daemon says when it does not do what it was asked: problems as RFC 9457 has them.

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use leeward_site::ErrorKind;
use serde::Serialize;

/// A problem.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    status: StatusCode,
    /// The last part of its type; stable.
    kind: &'static str,
    title: &'static str,
    detail: String,
    hint: String,
    /// A header that says what there is instead.
    header: Option<Box<(header::HeaderName, String)>>,
}

/// What is sent (RFC 9457, section 3; `hint` and `request` are extensions).
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    hint: &'a str,
    request: &'a str,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, title, detail: detail.into(), hint: String::new(), header: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing", detail)
            .hint("see what there is at /v1/openapi.json, or in a listing")
    }

    pub fn no_route(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no-such-route",
            "There is no such route",
            format!("there is nothing at {path}"),
        )
        .hint("see what there is at /v1/openapi.json")
    }

    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", "The request makes no sense", detail)
            .hint("see /v1/openapi.json for what it may be")
    }

    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "Nobody is known by that token", detail)
            .hint("send a valid token; one is made at the site with: leeward token add --tokens STATE/tokens NAME --role ROLE")
    }

    pub fn too_many() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too-many",
            "Too many failures",
            "too many requests without a valid token",
        )
        .hint("wait a minute, and send a valid token")
    }

    pub fn denied(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "denied", "The token may not do that", detail)
            .hint("use a token of another role; see docs/server.md")
    }

    pub fn not_signed_in(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "not-signed-in", "Signing in did not work", detail)
            .hint("begin anew; if it stays so, ask who runs this site, whose log says more")
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "Not in this state", detail)
            .hint("look at it again and decide anew")
    }

    pub fn gone(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "gone", "It is somebody else's now, or over", detail)
            .hint("stop at once, and ask for work anew")
    }

    pub fn changed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "changed", "It was changed in the meantime", detail)
            .hint("look at it again and decide anew")
    }

    pub fn busy(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Not now", detail).hint("try again")
    }

    pub fn failed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "The daemon failed", detail)
            .hint("see the daemon's log")
    }

    pub fn not_offered(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-offered", "Not configured here", detail)
            .hint("add it to the site's configuration")
    }

    /// A disk holds something that cannot be read: that is so, and no failure of the daemon.
    pub fn unreadable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "unreadable", "This cannot be read", detail)
            .hint("see docs/user-guide.md for the file systems that are read; a restore gives the whole disk")
    }

    pub fn no_range(bytes: u64) -> Self {
        let detail = format!("it has {bytes} bytes");
        let mut problem = Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "no-range",
            "Nothing of it is in that range",
            detail,
        )
        .hint("ask for a range that begins within it, or for all of it");
        problem.header = Some(Box::new((header::CONTENT_RANGE, format!("bytes */{bytes}"))));
        problem
    }

    pub fn too_large(most: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "The body is too large",
            format!("at most {most} bytes are taken"),
        )
        .hint("send less")
    }

    pub fn too_slow() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "too-slow",
            "The body came too slowly",
            "it was waited for 30 s",
        )
        .hint("send it again")
    }

    pub fn method(allowed: &[Method]) -> Self {
        let names: Vec<_> = allowed.iter().map(Method::as_str).collect();
        let allow = names.join(", ");
        let detail = format!("here one can {allow}");
        let mut problem =
            Self::new(StatusCode::METHOD_NOT_ALLOWED, "method", "Another method is needed", detail)
                .hint("see /v1/openapi.json");
        problem.header = Some(Box::new((header::ALLOW, allow)));
        problem
    }

    /// The answer that tells it.
    pub fn response(&self, request: &str) -> Response {
        let document = Document {
            r#type: format!("urn:leeward:problem:{}", self.kind),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            hint: &self.hint,
            request,
        };
        let mut response = Response::new(Body::from(serde_json::to_vec(&document).unwrap_or_default()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
            }
            _ => {}
        }
        if let Some((name, value)) = self.header.as_deref()
            && let Ok(value) = HeaderValue::from_str(value)
        {
            headers.insert(name, value);
        }
        response
    }
}

impl From<leeward_site::Error> for Problem {
    fn from(error: leeward_site::Error) -> Self {
        let text = error.to_string();
        match error.kind() {
            ErrorKind::NotFound => Self::not_found(text),
            ErrorKind::Invalid => Self::invalid(text),
            ErrorKind::Conflict => Self::conflict(text),
            ErrorKind::NotOffered => Self::not_offered(text),
            ErrorKind::Unreadable => Self::unreadable(text),
            ErrorKind::Passing => {
                complain(&error);
                Self::busy("something that the daemon needs does not answer; its log says more")
            }
            ErrorKind::Unfit | ErrorKind::Lasting => {
                complain(&error);
                Self::failed("the daemon failed at this; its log says more")
            }
        }
    }
}

impl From<leeward_runs::Error> for Problem {
    fn from(error: leeward_runs::Error) -> Self {
        leeward_site::Error::from(error).into()
    }
}

/// Paths, hosts and reasons are for who operates the daemon, not for who asks it.
fn complain(error: &dyn std::error::Error) {
    eprintln!("leeward: {}", leeward_store::with_causes(error));
}
