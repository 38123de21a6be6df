//! One request and its answer, over HTTP/2 or 1.1, bounded in size and patience.
//!
//! The trait of stores is synchronous and its callers are threads; the connections live in a small runtime of their own.
//! Requests that are under way at once go over connections of their own ([`Lanes`]).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Response};
use leeward_store::{Version, with_causes};
use tokio::runtime::Runtime;

use super::handshake::Handshake;
use super::lanes::Lanes;
use super::location::Location;
use super::trust;
use super::{ClientOptions, Trust, tls};
use crate::limits::{Pace, Pacer};
use crate::problem::Problem;
use crate::token::TokenText;

/// Bytes of a body that are handed on at a time: the measure in which progress is seen.
const PIECE_BYTES: usize = 256 << 10;
/// The largest answer that only tells of a problem, in bytes.
const PROBLEM_BYTES_MAX: u64 = 64 << 10;

/// The condition of a write.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    Absent,
    Matches(Version),
}

/// What is asked.
pub(super) struct Request {
    method: Method,
    path: String,
    body: Vec<Bytes>,
    condition: Option<Condition>,
    range: Option<Range<u64>>,
    answer_bytes_max: u64,
}

impl Request {
    pub(super) fn new(method: Method, path: &str) -> Self {
        Self {
            method,
            path: path.to_owned(),
            body: Vec::new(),
            condition: None,
            range: None,
            answer_bytes_max: 0,
        }
    }

    /// Takes an answer of so many bytes at most.
    pub(super) fn taking(self, answer_bytes_max: u64) -> Self {
        Self { answer_bytes_max, ..self }
    }

    pub(super) fn with_body(self, body: &[Bytes]) -> Self {
        Self { body: body.to_vec(), ..self }
    }

    pub(super) fn on_condition(self, condition: Condition) -> Self {
        Self { condition: Some(condition), ..self }
    }

    pub(super) fn of_range(self, range: Range<u64>) -> Self {
        Self { range: Some(range), ..self }
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// Whether it asks for one object, not for a listing.
    pub(super) fn is_of_object(&self) -> bool {
        self.path.starts_with("/v1/objects/")
    }

    pub(super) fn body_bytes(&self) -> u64 {
        self.body.iter().map(|part| part.len() as u64).sum()
    }
}

/// What was answered.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    pub(super) version: Option<Version>,
    /// The length that the server tells.
    pub(super) length: Option<u64>,
    pub(super) problem: Option<Problem>,
}

/// Why there is no answer to be had.
pub(super) enum Fault {
    /// The way there or back.
    Way { what: String, may_be_done: bool },
    /// One side does not trust the other; trying again changes nothing.
    Untrusted(String),
    /// More than the answer may have.
    TooLarge { size: u64, size_max: u64 },
    /// What came is no answer of this protocol.
    Nonsense(String),
}

fn way(what: impl Into<String>) -> Fault {
    Fault::Way { what: what.into(), may_be_done: true }
}

/// Connections to one server.
pub(super) struct Transport {
    lanes: Lanes,
    location: Location,
    /// None where there is no TLS.
    handshake: Option<Handshake>,
    authorization: HeaderValue,
    pace: Pace,
    answer_time: Duration,
    /// None only while it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Transport {
    fn drop(&mut self) {
        // Not waited for: the store may be dropped within another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Transport {
    pub(super) fn new(
        location: &Location,
        token: &TokenText,
        trust: &Trust,
        options: &ClientOptions,
    ) -> Result<Self, String> {
        let lanes = Lanes::new(location, trust, options.connections)?;
        let handshake = Handshake::new(location, tls::config(trust)?);
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
            .map_err(|_| "the token has characters that no token has".to_owned())?;
        authorization.set_sensitive(true);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("leeward-http")
            .enable_all()
            .build()
            .map_err(|error| format!("the system gives no threads: {error}"))?;
        Ok(Self {
            lanes,
            location: location.clone(),
            handshake,
            authorization,
            pace: options.pace,
            answer_time: options.answer_time,
            runtime: Some(runtime),
        })
    }

    /// Sends a request and takes its answer.
    pub(super) fn exchange(&self, request: &Request) -> Result<Answer, Fault> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(self.talk(request)),
            None => Err(way("the store is being closed")),
        }
    }

    fn build(&self, request: &Request, sent: &Arc<AtomicU64>) -> Result<hyper::Request<Upload>, Fault> {
        let upload = Upload::new(&request.body, Arc::clone(sent));
        let mut builder = hyper::Request::builder()
            .method(request.method.clone())
            .uri(self.location.url(&request.path))
            .header(header::AUTHORIZATION, self.authorization.clone());
        if request.method == Method::PUT || !request.body.is_empty() {
            builder = builder.header(header::CONTENT_LENGTH, upload.left);
        }
        builder = match &request.condition {
            None => builder,
            Some(Condition::Absent) => builder.header(header::IF_NONE_MATCH, "*"),
            Some(Condition::Matches(version)) => builder.header(header::IF_MATCH, format!("\"{version}\"")),
        };
        if let Some(range) = &request.range {
            builder = builder.header(header::RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        builder.body(upload).map_err(|error| Fault::Nonsense(error.to_string()))
    }

    async fn talk(&self, request: &Request) -> Result<Answer, Fault> {
        let sent = Arc::new(AtomicU64::new(0));
        let total: u64 = request.body.iter().map(|part| part.len() as u64).sum();
        // Held until the answer has come whole.
        let lane = self.lanes.enter();
        let asked = lane.client().request(self.build(request, &sent)?);
        let response = match self.watched(asked, &sent, total).await {
            Err(fault @ Fault::Way { may_be_done: true, .. }) => return Err(self.explained(fault).await),
            other => other?,
        };
        self.answer(request, response).await
    }

    /// A fault of the way, or that it is one of trust.
    async fn explained(&self, fault: Fault) -> Fault {
        let Some(handshake) = &self.handshake else { return fault };
        handshake.objection().await.map_or(fault, Fault::Untrusted)
    }

    /// Waits for the head of the answer, while the body goes out at the pace at least.
    async fn watched(
        &self,
        asked: impl Future<Output = Result<Response<Incoming>, hyper_util::client::legacy::Error>>,
        sent: &AtomicU64,
        total: u64,
    ) -> Result<Response<Incoming>, Fault> {
        let mut asked = std::pin::pin!(asked);
        let (mut pacer, mut before) = (Pacer::new(self.pace), 0);
        let mut all_sent: Option<Instant> = None;
        loop {
            let step = self.pace.interval.div_f32(4.0).min(Duration::from_secs(1));
            match tokio::time::timeout(step, &mut asked).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => return Err(failed(&error)),
                Err(_) => {}
            }
            let now = sent.load(Ordering::Relaxed);
            pacer.count(now - before);
            before = now;
            if now >= total {
                let since = *all_sent.get_or_insert_with(Instant::now);
                if since.elapsed() > self.answer_time {
                    return Err(way(format!("the server did not answer in {:?}", self.answer_time)));
                }
            } else if pacer.left().is_zero() {
                return Err(way(format!(
                    "the server takes data more slowly than {}; it took {now} of {total} bytes",
                    self.pace
                )));
            }
        }
    }

    async fn answer(&self, request: &Request, response: Response<Incoming>) -> Result<Answer, Fault> {
        let status = response.status().as_u16();
        let is_good = response.status().is_success();
        let length = number(response.headers(), &header::CONTENT_LENGTH);
        let version = version(response.headers())?;
        let bytes_max = if is_good { request.answer_bytes_max } else { PROBLEM_BYTES_MAX };
        let is_head = request.method == Method::HEAD;
        if !is_head && let Some(size) = length.filter(|size| *size > bytes_max) {
            return Err(Fault::TooLarge { size, size_max: bytes_max });
        }
        let body = match is_head {
            true => Vec::new(),
            false => self.take(response.into_body(), bytes_max).await?,
        };
        if !is_head && let Some(length) = length.filter(|length| *length != body.len() as u64) {
            return Err(way(format!("the answer ended after {} of {length} bytes", body.len())));
        }
        let problem = match is_good {
            true => None,
            false => Some(problem(status, &body)?),
        };
        Ok(Answer { status, body, version, length, problem })
    }

    async fn take(&self, mut body: Incoming, bytes_max: u64) -> Result<Vec<u8>, Fault> {
        let (mut bytes, mut pacer) = (Vec::new(), Pacer::new(self.pace));
        loop {
            let next = tokio::time::timeout(pacer.left(), body.frame()).await.map_err(|_| {
                way(format!("the answer comes more slowly than {}; {} bytes came", self.pace, bytes.len()))
            })?;
            let Some(frame) = next else { return Ok(bytes) };
            let frame = frame.map_err(|error| {
                if let Some(hint) = trust::hint(&error, &with_causes(&error)) {
                    return Fault::Untrusted(format!("{} — {hint}", with_causes(&error)));
                }
                way(format!("the answer broke off after {} bytes: {}", bytes.len(), with_causes(&error)))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            pacer.count(data.len() as u64);
            let size = bytes.len() as u64 + data.len() as u64;
            if size > bytes_max {
                return Err(Fault::TooLarge { size, size_max: bytes_max });
            }
            bytes.extend_from_slice(&data);
        }
    }
}

fn number(headers: &HeaderMap, name: &header::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn version(headers: &HeaderMap) -> Result<Option<Version>, Fault> {
    let Some(tag) = headers.get(header::ETAG) else { return Ok(None) };
    let text = tag.to_str().unwrap_or_default().trim_matches('"');
    text.parse().map(Some).map_err(Fault::Nonsense)
}

/// The problem in an answer. A proxy on the way may have answered in words of its own.
fn problem(status: u16, body: &[u8]) -> Result<Problem, Fault> {
    use crate::Code;
    if let Ok(problem) = serde_json::from_slice::<Problem>(body) {
        return Ok(problem);
    }
    let code = match status {
        401 => Code::Unauthenticated,
        403 => Code::Denied,
        404 => Code::NotFound,
        408 => Code::TooSlow,
        412 => Code::Conflict,
        413 => Code::TooLarge,
        416 => Code::BadRange,
        429 => Code::TooMany,
        500 | 502..=504 => Code::Busy,
        507 => Code::Full,
        _ => {
            return Err(Fault::Nonsense(format!(
                "the answer has status {status} and is not one of a Leeward server"
            )));
        }
    };
    Ok(Problem::new(
        code,
        format!("the answer has status {status}"),
        "see that the URL is that of a Leeward server",
    ))
}

fn failed(error: &hyper_util::client::legacy::Error) -> Fault {
    let what = with_causes(error);
    if let Some(hint) = trust::hint(error, &what) {
        return Fault::Untrusted(format!("{what} — {hint}"));
    }
    match error.is_connect() {
        true => Fault::Way { what: format!("no connection: {what}"), may_be_done: false },
        false => way(what),
    }
}

/// A body that counts what of it has been taken.
pub(super) struct Upload {
    parts: VecDeque<Bytes>,
    left: u64,
    sent: Arc<AtomicU64>,
}

impl Upload {
    fn new(parts: &[Bytes], sent: Arc<AtomicU64>) -> Self {
        let left = parts.iter().map(|part| part.len() as u64).sum();
        Self { parts: parts.iter().cloned().collect(), left, sent }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(mut part) = self.parts.pop_front() else { return Poll::Ready(None) };
        let piece = part.split_to(part.len().min(PIECE_BYTES));
        if !part.is_empty() {
            self.parts.push_front(part);
        }
        self.left -= piece.len() as u64;
        self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
