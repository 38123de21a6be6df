//! Sends requests.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Uri;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use hyper_util::client::legacy::Client as Connections;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use leeward_store::bucket::{RequestClass, Requests};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::feed::{Feed, PARTS_AHEAD};
use super::upload::{Movement, Upload};
use super::way::Way;
use super::{Fault, Method, Request, Response};
use crate::runtime;

const NAME: HeaderValue = HeaderValue::from_static(concat!("leeward/", env!("CARGO_PKG_VERSION")));
/// How long nothing may move. A service may think about a large write for a while.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// How long an unused connection is kept.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// Sends requests, and counts them.
#[derive(Clone)]
pub struct Client {
    connections: Connections<Way, Upload>,
    way: Way,
    requests: Arc<Requests>,
    idle_timeout: Duration,
    whole_timeout: Option<Duration>,
}

impl Client {
    /// A client that counts into `requests`.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(requests: Arc<Requests>) -> Result<Self, Fault> {
        Self::by(requests, Way::of_environment())
    }

    /// A client that trusts the authorities in a PEM file beside those of the system.
    ///
    /// # Errors
    /// The file holds none, or TLS cannot be set up.
    pub fn trusting(requests: Arc<Requests>, pem: &[u8]) -> Result<Self, Fault> {
        Self::by(requests, Way::trusting(pem))
    }

    fn by(requests: Arc<Requests>, way: Result<Way, String>) -> Result<Self, Fault> {
        let way = way.map_err(|what| Fault::Impossible { what })?;
        let connections = Connections::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT_FOR)
            .build(way.clone());
        Ok(Self { connections, way, requests, idle_timeout: IDLE_TIMEOUT, whole_timeout: None })
    }

    /// The same client, which gives up when nothing has moved for so long.
    #[must_use]
    pub fn with_idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.idle_timeout = idle_timeout;
        self
    }

    /// The same client, which gives up a request ([`Client::send`]) that is not over after so long, whatever moves meanwhile:
    /// for small answers of somebody who may send them byte by byte.
    #[must_use]
    pub fn with_whole_timeout(mut self, whole_timeout: Duration) -> Self {
        self.whole_timeout = Some(whole_timeout);
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
        let (client, idle, whole) = (self.clone(), self.idle_timeout, self.whole_timeout);
        let answer = runtime::wait(async move {
            let movement = Movement::begin();
            let host = request.host().to_owned();
            tokio::select! {
                answer = client.exchange(request, None, &movement) => answer,
                () = movement.stalls(idle) => Err(Fault::Stalled { host, after: idle }),
                after = ends(whole) => Err(Fault::TooSlow { host, after }),
            }
        });
        let answer = answer
            .unwrap_or(Err(Fault::Broken { host, what: "this process has no threads left".to_owned() }))?;
        self.requests.count_received(answer.body.len() as u64);
        Ok(answer)
    }

    /// Begins to send a request whose body, of `bytes` bytes, the caller gives part by part. How long the caller takes for that
    /// is its own matter.
    ///
    /// # Errors
    /// This process has no threads left.
    pub fn feed(&self, request: Request, bytes: u64, class: RequestClass) -> Result<Feed, Fault> {
        let host = request.host().to_owned();
        self.requests.count(class, bytes);
        let (parts, body) = mpsc::channel::<Bytes>(PARTS_AHEAD);
        let (feed, done) = Feed::new(host.clone(), parts);
        let (client, idle) = (self.clone(), self.idle_timeout);
        let is_begun = runtime::spawn(async move {
            let movement = Movement::begin();
            let host = request.host().to_owned();
            let answer = tokio::select! {
                answer = client.exchange(request, Some((body, bytes)), &movement) => answer,
                () = movement.stalls(idle) => Err(Fault::Stalled { host, after: idle }),
            };
            done.tell(answer);
        });
        match is_begun {
            true => Ok(feed),
            false => Err(Fault::Broken { host, what: "this process has no threads left".to_owned() }),
        }
    }
}

impl Client {
    async fn exchange(
        &self,
        request: Request,
        fed: Option<(mpsc::Receiver<Bytes>, u64)>,
        movement: &Arc<Movement>,
    ) -> Result<Response, Fault> {
        let host = request.host().to_owned();
        let is_head = request.method == Method::HEAD;
        let size_max = request.answer_bytes_max;
        let outgoing = self.outgoing(request, fed, movement)?;
        let answer = self.connections.request(outgoing).await.map_err(|error| Fault::of(&error, &host))?;
        movement.note();
        let (head, body) = answer.into_parts();
        let status = head.status.as_u16();
        // An error's text comes instead of the object that was asked for, and is small.
        let bytes_max = if (200..300).contains(&status) { size_max } else { super::ANSWER_BYTES_MAX };
        let announced = body.size_hint().exact().filter(|_| !is_head);
        if announced.is_some_and(|size| size > bytes_max) {
            return Err(Fault::TooLarge { host, size: announced, size_max });
        }
        let room = usize::try_from(announced.unwrap_or(0)).unwrap_or(0).min(256 << 20);
        let mut content = Vec::with_capacity(room);
        if !read(body, &mut content, bytes_max, movement)
            .await
            .map_err(|error| Fault::midway(&error, &host))?
        {
            return Err(Fault::TooLarge { host, size: None, size_max });
        }
        Ok(Response { status, headers: head.headers, body: content })
    }

    /// The request as it leaves.
    fn outgoing(
        &self,
        request: Request,
        fed: Option<(mpsc::Receiver<Bytes>, u64)>,
        movement: &Arc<Movement>,
    ) -> Result<hyper::Request<Upload>, Fault> {
        let uri = address(&request)?;
        let bytes = fed.as_ref().map_or_else(|| request.body_bytes(), |(_, bytes)| *bytes);
        let needs_length = bytes == 0 && matches!(request.method, Method::PUT | Method::POST);
        let credential = self.way.credential(&uri);
        let body = match fed {
            Some((more, bytes)) => Upload::fed(more, bytes, Arc::clone(movement)),
            None => Upload::new(request.body, Arc::clone(movement)),
        };
        let mut outgoing = hyper::Request::new(body);
        (*outgoing.method_mut(), *outgoing.uri_mut()) = (request.method, uri);
        *outgoing.headers_mut() = request.headers;
        let headers = outgoing.headers_mut();
        headers.insert(USER_AGENT, NAME);
        if needs_length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        if let Some(credential) = credential {
            headers.insert(PROXY_AUTHORIZATION, credential);
        }
        Ok(outgoing)
    }
}

/// Returns when the time that there is for the whole request is over.
async fn ends(whole: Option<Duration>) -> Duration {
    match whole {
        Some(whole) => tokio::time::sleep(whole).await,
        None => std::future::pending().await,
    }
    whole.unwrap_or_default()
}

/// Where a request goes. What is wrong with an address is told without it: it may hold a signature that is as good as a
/// password.
fn address(request: &Request) -> Result<Uri, Fault> {
    let impossible = |what: String| Fault::Impossible { what };
    // Names of hosts in other scripts are spelt as the resolver knows them.
    let url: url::Url =
        request.url().parse().map_err(|error: url::ParseError| impossible(error.to_string()))?;
    url.as_str().parse().map_err(|error: hyper::http::uri::InvalidUri| impossible(error.to_string()))
}

/// Reads a body to its end, or says `false` when it has more than `bytes_max`.
async fn read(
    mut body: Incoming,
    content: &mut Vec<u8>,
    bytes_max: u64,
    movement: &Movement,
) -> Result<bool, hyper::Error> {
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        movement.note();
        let Some(data) = frame.data_ref() else { continue };
        if (content.len() + data.len()) as u64 > bytes_max {
            return Ok(false);
        }
        content.extend_from_slice(data);
    }
    Ok(true)
}
