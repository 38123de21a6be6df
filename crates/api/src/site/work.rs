//! `/v1/work`: what workers ask. They hold tokens of their own: a standing one that of its name with the role `worker`, a
//! temporary one that of its run. Each gets at its own orders, and at the objects of those, and at nothing else.

use std::io::Read;
use std::ops::Range;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use leeward_remote::encode::decoded;
use leeward_remote::objects::ObjectVersion;
use leeward_site::worker::{Grant, Refused, Report, Writer, program, token};
use leeward_store::{ErrorKind, with_causes};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::access;
use super::problem::Problem;
use super::query::Query;
use super::{Asking, SiteState, body_of, bytes_up_to, json, only};
use crate::server::Pieces;
use crate::token::Role;

/// How long a worker that asks for work waits for an answer.
const CLAIM_TIME: Duration = Duration::from_secs(20);
/// How often it is looked for work meanwhile.
const CLAIM_EVERY: Duration = Duration::from_millis(200);
/// The largest report, in bytes: the output of tools is in the last one.
const REPORT_BYTES_MAX: usize = 16 << 20;
/// The largest part of an object in one answer, in bytes.
const READ_BYTES_MAX: u64 = 8 << 20;
/// The longest name of a process, in bytes.
const PROCESS_BYTES_MAX: usize = 64;
/// Bytes of the program that are read and sent at a time.
const PIECE_BYTES: usize = 512 << 10;
/// How long a worker may take for one of them.
const PIECE_TIME: Duration = Duration::from_secs(60);
/// How long it may take for the whole program.
const PROGRAM_TIME: Duration = Duration::from_secs(900);

pub(super) async fn handle(
    state: &SiteState,
    asking: &Asking,
    parts: &[&str],
    body: Body,
) -> Result<Response, Problem> {
    let worker = worker(state, asking).await?;
    match parts {
        ["claim"] => claim(state, asking, worker, body).await,
        ["binary"] => binary(state, asking).await,
        [task, "report"] => report(state, asking, worker, task, body).await,
        [task, "head"] => head(state, asking, worker, task).await,
        [task, "object"] => object(state, asking, worker, task).await,
        _ => Err(Problem::no_route(&asking.path)),
    }
}

/// Which worker asks.
async fn worker(state: &SiteState, asking: &Asking) -> Result<Writer, Problem> {
    let Some(text) = access::token_text(asking) else {
        return Err(access::refused(state, asking, "the request has no token".to_owned()));
    };
    if text.reveal().starts_with(token::TEXT_PREFIX) {
        let found = state.call(move |site| Ok(site.worker_of(text.reveal())?)).await?;
        let unknown = "the token is not known here: its run is over, or another worker has taken its place";
        return found.ok_or_else(|| access::refused(state, asking, unknown.to_owned()));
    }
    let caller = access::find(state, asking, &text).await?;
    // No provider's value is this role: a worker is the site's own.
    if caller.role()? != Role::Worker {
        return Err(Problem::denied(format!(
            "token {:?} is a {}'s, and this is for workers",
            caller.name,
            caller.role_name()
        )));
    }
    state.0.site.worker_named(&caller.name).ok_or_else(|| {
        Problem::denied(format!("this site has no [worker.{}]", caller.name))
            .hint("name the worker in the site's configuration as its token is named")
    })
}

/// Who asks for work.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claiming {
    /// Tells one process of a worker from another: random.
    process: String,
}

/// What there is to do.
#[derive(Serialize)]
struct Claimed<T: Serialize> {
    /// Nothing for now: ask again.
    order: Option<T>,
}

fn check_process(process: &str) -> Result<(), Problem> {
    let is_plain = process.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match is_plain && (1..=PROCESS_BYTES_MAX).contains(&process.len()) {
        true => Ok(()),
        false => Err(Problem::invalid("a process is named by 1 to 64 letters and digits")),
    }
}

async fn claim(state: &SiteState, asking: &Asking, worker: Writer, body: Body) -> Result<Response, Problem> {
    only(asking, &[Method::POST])?;
    let Claiming { process } = body_of(body).await?;
    check_process(&process)?;
    let end = Instant::now() + CLAIM_TIME;
    let mut worker = worker;
    loop {
        // Looking is quick and blocks on nothing.
        let order = state.0.site.claim_work(&worker, &process);
        if order.is_some() || Instant::now() >= end {
            return Ok(json(&Claimed { order }));
        }
        tokio::time::sleep(CLAIM_EVERY).await;
        // A token may have ended meanwhile, and then it counts no more here either.
        worker = self::worker(state, asking).await?;
    }
}

fn refused(refused: Refused) -> Problem {
    match refused {
        Refused::Gone => Problem::gone("this order is not this worker's any more"),
        Refused::Busy => Problem::busy("the step has no time for the report now"),
    }
}

async fn report(
    state: &SiteState,
    asking: &Asking,
    worker: Writer,
    task: &str,
    body: Body,
) -> Result<Response, Problem> {
    only(asking, &[Method::POST])?;
    let query = Query::parse(&asking.query, &["process"])?;
    let process = query.text("process").unwrap_or_default().to_owned();
    check_process(&process)?;
    // Before anything large is taken: only who has the order has something to tell of it, and one thing at a time.
    state.0.site.work_held(&worker, task, &process).map_err(refused)?;
    let _turn = state.0.work_turns.report(&worker).await?;
    let bytes = bytes_up_to(body, REPORT_BYTES_MAX).await?;
    let report: Report = serde_json::from_slice(&bytes)
        .map_err(|error| Problem::invalid(format!("the report makes no sense: {error}")))?;
    let task = task.to_owned();
    let reply =
        state.call(move |site| site.report_work(&worker, &task, &process, report).map_err(refused)).await?;
    Ok(json(&reply))
}

fn grant(state: &SiteState, worker: &Writer, task: &str) -> Result<Grant, Problem> {
    state.0.site.work_grant(worker, task).map_err(refused)
}

fn named(asking: &Asking) -> Result<String, Problem> {
    let query = Query::parse(&asking.query, &["name"])?;
    query.text("name").map(str::to_owned).ok_or_else(|| Problem::invalid("name which object"))
}

async fn head(state: &SiteState, asking: &Asking, worker: Writer, task: &str) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    let (name, grant) = (named(asking)?, grant(state, &worker, task)?);
    let head = state.call_far(move |site| Ok(site.work_head(&grant, &name)?)).await?;
    Ok(json(&head))
}

/// A range of an object, of exactly the state that the order is about.
async fn object(state: &SiteState, asking: &Asking, worker: Writer, task: &str) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    let (name, grant) = (named(asking)?, grant(state, &worker, task)?);
    let range = range_of(asking)?;
    let version = grant.names.get(&name).cloned();
    let Some(version) = version else { return Err(Problem::not_found("this order has no such object")) };
    if asked_version(asking)? != version {
        return Err(Problem::changed("the order is about another state of the object"));
    }
    let turn = state.0.work_turns.read(&worker).await?;
    let asked = range.clone();
    let bytes = state
        .act_in(move |_| {
            grant.objects.read(&name, range, &version).map_err(|error| match error.kind() {
                ErrorKind::Conflict => Problem::changed("the object was replaced"),
                ErrorKind::NotFound => Problem::not_found("the object is not there any more"),
                _ => {
                    eprintln!("leeward: an object cannot be read for a worker: {}", with_causes(&error));
                    Problem::busy("the object's source does not answer; the daemon's log says more")
                }
            })
        })
        .await?;
    let bytes = Bytes::from(bytes);
    let left = bytes.len() as u64;
    let (sender, pieces) = mpsc::channel::<Result<Bytes, std::io::Error>>(2);
    tokio::spawn(async move {
        // What was read lies in memory until it is taken: so long it has its turn, and who takes nothing is not waited for.
        let _turn = turn;
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PIECE_BYTES));
            let sent = tokio::time::timeout(PIECE_TIME, sender.send(Ok(piece))).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    });
    let mut response = Response::new(Body::new(Pieces::new(pieces, left)));
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let told = format!("bytes {}-{}/*", asked.start, asked.end - 1);
    if let Ok(told) = HeaderValue::from_str(&told) {
        headers.insert(header::CONTENT_RANGE, told);
    }
    Ok(response)
}

/// `Range: bytes=FIRST-LAST`, of bounded length.
fn range_of(asking: &Asking) -> Result<Range<u64>, Problem> {
    let wrong =
        || Problem::invalid(format!("needed is Range: bytes=FIRST-LAST, of at most {READ_BYTES_MAX} bytes"));
    let text = asking.header("range").and_then(|text| text.strip_prefix("bytes="));
    let (first, last) = text.and_then(|text| text.split_once('-')).ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let (first, last) = (number(first)?, number(last)?);
    match last.checked_add(1).filter(|end| *end > first && end - first <= READ_BYTES_MAX) {
        Some(end) => Ok(first..end),
        None => Err(wrong()),
    }
}

/// `If-Match: "VERSION"`, percent-encoded: services call states of objects whatever they like.
fn asked_version(asking: &Asking) -> Result<ObjectVersion, Problem> {
    let text = asking.header("if-match").and_then(|text| text.strip_prefix('"')?.strip_suffix('"'));
    text.and_then(decoded)
        .map(ObjectVersion)
        .ok_or_else(|| Problem::invalid("needed is If-Match: with the version in quotes, percent-encoded"))
}

/// The running program.
async fn binary(state: &SiteState, asking: &Asking) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    let failed = |error: std::io::Error| {
        eprintln!("leeward: the running program cannot be read: {error}");
        Problem::failed("the running program cannot be read; the daemon's log says more")
    };
    let (mut file, left) = program::open().map_err(failed)?;
    let (sender, pieces) = mpsc::channel::<Result<Bytes, std::io::Error>>(2);
    let turn = state.0.work_turns.program().await?;
    let end = Instant::now() + PROGRAM_TIME;
    let activity = asking.peer.clone();
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let _inside = activity.as_ref().map(|peer| peer.activity.enter());
        loop {
            if Instant::now() >= end {
                return;
            }
            let mut buffer = vec![0; PIECE_BYTES];
            let piece = match file.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    buffer.truncate(count);
                    Ok(Bytes::from(buffer))
                }
                Err(error) => Err(error),
            };
            // A client that has gone away takes nothing more, and one that takes nothing is not waited for.
            let sent = runtime.block_on(tokio::time::timeout(PIECE_TIME, sender.send(piece)));
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    });
    let mut response = Response::new(Body::new(Pieces::new(pieces, left)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(left));
    Ok(response)
}
