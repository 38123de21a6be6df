//! Sends requests.

use std::sync::Arc;
use std::time::Duration;

use leeward_store::bucket::{RequestClass, Requests};

use super::upload::{Movement, Upload};
use super::{Fault, Method, Request, Response};
use crate::runtime;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may move. A service may think about a large write for a while.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// How long an unused connection is kept.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// Sends requests, and counts them.
#[derive(Clone)]
pub struct Client {
    inner: reqwest::Client,
    requests: Arc<Requests>,
    idle_timeout: Duration,
}

impl Client {
    /// A client that counts into `requests`.
    ///
    /// # Errors
    /// TLS cannot be set up: there are no certificates of authorities, for instance.
    pub fn new(requests: Arc<Requests>) -> Result<Self, Fault> {
        Self::build(requests, builder())
    }

    /// A client that trusts the authorities in a PEM file beside those of the system.
    ///
    /// # Errors
    /// The file holds none, or TLS cannot be set up.
    pub fn trusting(requests: Arc<Requests>, pem: &[u8]) -> Result<Self, Fault> {
        let impossible = |what: String| Fault::Impossible { what };
        let authorities = reqwest::Certificate::from_pem_bundle(pem)
            .map_err(|error| impossible(format!("the file of authorities is none: {error}")))?;
        if authorities.is_empty() {
            return Err(impossible("the file of authorities holds no certificate".to_owned()));
        }
        Self::build(requests, builder().tls_certs_merge(authorities))
    }

    fn build(requests: Arc<Requests>, builder: reqwest::ClientBuilder) -> Result<Self, Fault> {
        let inner = builder.build().map_err(|error| Fault::of(&error, ""))?;
        Ok(Self { inner, requests, idle_timeout: IDLE_TIMEOUT })
    }

    /// The same client, which gives up when nothing has moved for so long.
    #[must_use]
    pub fn with_idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.idle_timeout = idle_timeout;
        self
    }

    /// What it has sent so far.
    #[must_use]
    pub fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }

    /// Sends a request and waits for its whole answer, whatever its status.
    ///
    /// # Errors
    /// There is no answer, or none of a bearable size.
    pub fn send(&self, request: Request, class: RequestClass) -> Result<Response, Fault> {
        let host = request.host().to_owned();
        self.requests.count(class, request.body_bytes());
        let (client, idle) = (self.inner.clone(), self.idle_timeout);
        let answer = runtime::wait(async move {
            let movement = Movement::begin();
            let host = request.host().to_owned();
            tokio::select! {
                answer = exchange(&client, request, &movement) => answer,
                () = movement.stalls(idle) => Err(Fault::Stalled { host, after: idle }),
            }
        });
        let answer = answer
            .unwrap_or(Err(Fault::Broken { host, what: "this process has no threads left".to_owned() }))?;
        self.requests.count_received(answer.body.len() as u64);
        Ok(answer)
    }
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(KEPT_FOR)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("leeward/", env!("CARGO_PKG_VERSION")))
}

async fn exchange(
    client: &reqwest::Client,
    request: Request,
    movement: &Arc<Movement>,
) -> Result<Response, Fault> {
    let host = request.host().to_owned();
    // An address may hold a signature that is as good as a password.
    let fault = |error: reqwest::Error| Fault::of(&error.without_url(), &host);
    let is_head = request.method == Method::HEAD;
    let size_max = request.answer_bytes_max;
    let mut builder = client.request(request.method.clone(), request.url()).headers(request.headers);
    if !request.body.is_empty() {
        builder = builder.body(reqwest::Body::wrap(Upload::new(request.body, Arc::clone(movement))));
    } else if matches!(request.method, Method::PUT | Method::POST) {
        builder = builder.header(reqwest::header::CONTENT_LENGTH, "0");
    }
    let mut answer = builder.send().await.map_err(fault)?;
    movement.note();
    let (status, headers) = (answer.status().as_u16(), std::mem::take(answer.headers_mut()));
    let announced = answer.content_length().filter(|_| !is_head);
    let too_large = |size| Fault::TooLarge { host: host.clone(), size, size_max };
    // An error's text comes instead of the object that was asked for, and is small.
    let bytes_max = if (200..300).contains(&status) { size_max } else { super::ANSWER_BYTES_MAX };
    if announced.is_some_and(|size| size > bytes_max) {
        return Err(too_large(announced));
    }
    let mut body = Vec::with_capacity(usize::try_from(announced.unwrap_or(0)).unwrap_or(0).min(256 << 20));
    while let Some(chunk) = answer.chunk().await.map_err(fault)? {
        movement.note();
        if (body.len() + chunk.len()) as u64 > bytes_max {
            return Err(too_large(None));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Response { status, headers, body })
}
