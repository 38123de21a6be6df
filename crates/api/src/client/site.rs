//! The other side of a site's routes: JSON asked for and JSON sent, from the command line.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use leeward_store::with_causes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{Location, Trust, tls, trust};
use crate::token::TokenText;

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// The largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why a site did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SiteError {
    /// The site cannot be reached.
    #[error("{site}: {what}")]
    Unreachable {
        /// Its URL.
        site: String,
        /// Why.
        what: String,
    },
    /// It refused.
    #[error("{site}: {title}: {detail}")]
    Refused {
        /// Its URL.
        site: String,
        /// The status of the answer.
        status: u16,
        /// What kind of problem it is.
        title: String,
        /// What exactly.
        detail: String,
        /// What to do next.
        hint: String,
    },
    /// What came is no answer of a site.
    #[error("{site}: {what}")]
    Nonsense {
        /// Its URL.
        site: String,
        /// What is wrong.
        what: String,
    },
}

#[derive(Deserialize)]
struct Problem {
    title: String,
    detail: String,
    #[serde(default)]
    hint: String,
}

/// A client of one site.
pub struct SiteClient {
    location: Location,
    authorization: HeaderValue,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Runtime,
}

impl SiteClient {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// Certificates or token make no sense, or the system gives no threads; in words.
    pub fn new(location: &Location, token: &TokenText, trust: &Trust) -> Result<Self, String> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
            .map_err(|_| "the token has characters that no token has".to_owned())?;
        authorization.set_sensitive(true);
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(Duration::from_secs(20)));
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls::config(trust)?);
        let builder = if location.is_secure { builder.https_only() } else { builder.https_or_http() };
        let connector = builder.enable_all_versions().wrap_connector(http);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("the system gives no threads: {error}"))?;
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { location: location.clone(), authorization, client, runtime })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// The site cannot be reached, refuses, or answers nonsense.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, SiteError> {
        self.exchange(Method::GET, path, None)
    }

    /// Sends something.
    ///
    /// # Errors
    /// The site cannot be reached, refuses, or answers nonsense.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, SiteError> {
        self.exchange(Method::POST, path, Some(body))
    }

    fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, SiteError> {
        let site = self.location.to_string();
        let nonsense = |what: String| SiteError::Nonsense { site: site.clone(), what };
        let (status, bytes) = self.runtime.block_on(self.talk(method, path, body, &[]))?;
        if (200..300).contains(&status) {
            return serde_json::from_slice(&bytes)
                .map_err(|error| nonsense(format!("the answer makes no sense: {error}")));
        }
        let problem: Problem = serde_json::from_slice(&bytes)
            .map_err(|_| nonsense(format!("the answer is of status {status} and none of a site's")))?;
        Err(SiteError::Refused {
            site,
            status,
            title: problem.title,
            detail: problem.detail,
            hint: problem.hint,
        })
    }

    /// Asks for bytes, with headers; returns the status and what came.
    ///
    /// # Errors
    /// The site cannot be reached.
    pub(super) fn fetch(&self, path: &str, headers: &[(&str, &str)]) -> Result<(u16, Bytes), SiteError> {
        self.runtime.block_on(self.talk(Method::GET, path, None, headers))
    }

    async fn talk(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<(u16, Bytes), SiteError> {
        let site = || self.location.to_string();
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(self.location.url(path))
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(bytes))
            .map_err(|error| SiteError::Nonsense { site: site(), what: error.to_string() })?;
        let unreachable = |what: String| SiteError::Unreachable { site: site(), what };
        let asked = tokio::time::timeout(ANSWER_TIME, self.client.request(request)).await;
        let response = asked
            .map_err(|_| unreachable(format!("no answer within {} s", ANSWER_TIME.as_secs())))?
            .map_err(|error| {
                let what = with_causes(&error);
                unreachable(match trust::hint(&error, &what) {
                    Some(hint) => format!("{what} — {hint}"),
                    None => what,
                })
            })?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
        let taken = tokio::time::timeout(ANSWER_TIME, body).await;
        let taken = taken
            .map_err(|_| unreachable("the answer does not end".to_owned()))?
            .map_err(|error| unreachable(error.to_string()))?;
        Ok((status, taken.to_bytes()))
    }
}
