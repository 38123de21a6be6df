//! Transfers: packs that this server moves to or from a peer, asked for by somebody who may do both.
//!
//! What is moved is named pack by pack; this server needs no key and decides nothing. On its own side everything is judged
//! as if whoever asked did it himself; at the peer it shows the pass that it was given. It speaks to peers that its operator has
//! named, and to nobody else.
//!
//! A transfer ends when nobody has asked for it for a while: who began it has gone, and will begin another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::Response;
use leeward_repository::PackId;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::passes::Purpose;
use super::{Caller, ServerState, body, json, moving};
use crate::problem::{Code, Problem};
use crate::token::{Role, TokenText};

/// The largest order, in bytes.
const ORDER_BYTES_MAX: u64 = 1 << 20;
/// The most packs of one transfer.
pub(crate) const PACKS_MAX: usize = 4096;
/// Transfers under way at once.
const RUNNING_MAX: usize = 4;
/// How long what has ended can still be asked for, and how many such transfers are kept.
const KEPT_TIME: Duration = Duration::from_secs(600);
const KEPT_MAX: usize = 256;
/// How long a transfer goes on without being asked for, usually.
pub(super) const LEASE: Duration = Duration::from_secs(120);

/// Which way packs go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the server that is asked to its peer.
    Send,
    /// From its peer to the server that is asked.
    Fetch,
}

/// What a transfer has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransferState {
    /// It is under way.
    Running,
    /// All packs were dealt with.
    Done,
    /// It cannot go on.
    Failed,
    /// Somebody ended it, or nobody asked for it any more.
    Cancelled,
}

/// How far a transfer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferStatus {
    /// Its state.
    pub state: TransferState,
    /// Packs that were named.
    pub packs: u64,
    /// Packs that were moved.
    pub packs_moved: u64,
    /// Their size in bytes.
    pub bytes_moved: u64,
    /// Packs that are gone or damaged where they should come from, or refused where they go.
    pub packs_left: u64,
    /// Why it failed, or the first pack was left.
    #[serde(default)]
    pub problem: Option<String>,
    /// Whether the same may succeed later.
    #[serde(default)]
    pub is_transient: bool,
}

/// What is asked for. It holds a secret, so it does not print.
#[derive(Deserialize)]
struct Order {
    /// 32 hexadecimal digits that the client chose: asked for twice, it is one transfer.
    id: String,
    peer: String,
    direction: Direction,
    pass: String,
    packs: Vec<String>,
    #[serde(default)]
    bytes_per_second: Option<u64>,
}

/// A transfer that was begun.
pub(super) struct Job {
    /// The id of the token that began it.
    token: String,
    status: Mutex<TransferStatus>,
    /// When it was last asked for.
    asked: Mutex<Instant>,
    lease: Duration,
    is_cancelled: AtomicBool,
}

impl Job {
    pub(super) fn status(&self) -> MutexGuard<'_, TransferStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, Instant> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is to end: somebody said so, or nobody cares.
    pub(super) fn is_over(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed) || self.asked().elapsed() > self.lease
    }
}

/// The transfers of a running server, by their ids.
#[derive(Default)]
pub(super) struct Transfers(Mutex<HashMap<String, Arc<Job>>>);

impl Transfers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Job>>> {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|_, job| {
            job.status().state == TransferState::Running || job.asked().elapsed() < KEPT_TIME
        });
        jobs
    }

    fn find(&self, caller: &Caller, id: &str) -> Result<Arc<Job>, Problem> {
        let found = self.lock().get(id).filter(|job| job.token == caller.token.id).cloned();
        found.ok_or_else(|| {
            Problem::new(
                Code::NotFound,
                "there is no such transfer",
                "it ended long ago, or the server was started anew; begin another",
            )
        })
    }

    /// A new job, or the one of that id; and whether it is new.
    fn begin(&self, id: &str, job: Job) -> Result<(Arc<Job>, bool), Problem> {
        let busy = |what: &str| Problem::new(Code::Busy, what, "try again when one of them has ended");
        let mut jobs = self.lock();
        if let Some(known) = jobs.get(id) {
            return match known.token == job.token {
                true => Ok((Arc::clone(known), false)),
                false => Err(bad("the id is taken")),
            };
        }
        let is_running = |job: &&Arc<Job>| job.status().state == TransferState::Running;
        if jobs.values().filter(is_running).count() >= RUNNING_MAX {
            return Err(busy("the server has as many transfers under way as it takes"));
        }
        if jobs.len() >= KEPT_MAX {
            return Err(busy("the server has had too many transfers of late"));
        }
        let job = Arc::new(job);
        jobs.insert(id.to_owned(), Arc::clone(&job));
        Ok((job, true))
    }
}

fn bad(what: impl Into<String>) -> Problem {
    Problem::new(Code::BadRequest, what, "see docs/protocol.md")
}

/// `GET /v1/peers`
pub(super) fn peers(state: &ServerState) -> Response {
    let peers = state.0.options.peers.iter();
    let peers: Vec<_> =
        peers.map(|peer| json!({"name": peer.name, "url": peer.location.to_string()})).collect();
    json(&json!({ "peers": peers }))
}

/// `POST /v1/passes`
pub(super) async fn make_pass(
    state: &ServerState,
    caller: &Caller,
    request: Request,
) -> Result<Response, Problem> {
    #[derive(Deserialize)]
    struct Wanted {
        purpose: Purpose,
        seconds: u64,
    }
    let wanted: Wanted = taken(state, request).await?;
    let pass = state.0.passes.make(&caller.token, wanted.purpose, wanted.seconds)?;
    let mut response = json(&json!({ "id": pass.id, "pass": pass.text.reveal(), "seconds": pass.seconds }));
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `DELETE /v1/passes/ID`
pub(super) fn end_pass(state: &ServerState, caller: &Caller, path: &str) -> Response {
    let id = path.strip_prefix("/v1/passes/").unwrap_or_default();
    json(&json!({ "ended": state.0.passes.end(&caller.token, id) }))
}

/// `POST /v1/transfers`
pub(super) async fn begin(
    state: &ServerState,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let order: Order = taken(state, request).await?;
    let is_id = order.id.len() == 32 && order.id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_id || order.packs.is_empty() || order.packs.len() > PACKS_MAX {
        return Err(bad(format!(
            "a transfer has an id of 32 hexadecimal digits, and 1 to {PACKS_MAX} packs"
        )));
    }
    may(&caller, order.direction)?;
    let packs: Result<Vec<PackId>, String> = order.packs.iter().map(|pack| pack.parse()).collect();
    let packs = packs.map_err(bad)?;
    let peer = state.0.options.peers.iter().find(|peer| peer.name == order.peer).cloned();
    let peer =
        peer.ok_or_else(|| Problem::denied(format!("this server has no peer of the name {:?}", order.peer)))?;
    let status = TransferStatus {
        state: TransferState::Running,
        packs: packs.len() as u64,
        packs_moved: 0,
        bytes_moved: 0,
        packs_left: 0,
        problem: None,
        is_transient: false,
    };
    let job = Job {
        token: caller.token.id.clone(),
        status: Mutex::new(status),
        asked: Mutex::new(Instant::now()),
        lease: state.0.options.transfer_lease,
        is_cancelled: AtomicBool::new(false),
    };
    let (job, is_new) = state.0.transfers.begin(&order.id, job)?;
    if is_new {
        let work = moving::Work {
            id: order.id,
            peer,
            direction: order.direction,
            pass: TokenText::new(order.pass),
            packs,
            bytes_per_second: order.bytes_per_second,
            token: caller.token.id.clone(),
        };
        moving::start(state, &job, work)?;
    }
    let mut response = json(&*job.status());
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

/// Refuses at once what whoever asks could not do himself.
fn may(caller: &Caller, direction: Direction) -> Result<(), Problem> {
    let is_allowed = match direction {
        Direction::Send => caller.token.role != Role::Writer,
        Direction::Fetch => caller.token.role != Role::Reader,
    };
    match is_allowed {
        true => Ok(()),
        false => Err(Problem::denied(format!(
            "token {:?} ({}) may not {} here",
            caller.token.name,
            caller.token.role.name(),
            if direction == Direction::Send { "read packs" } else { "add packs" }
        ))),
    }
}

/// `GET /v1/transfers/ID`
pub(super) fn status(state: &ServerState, caller: &Caller, path: &str) -> Result<Response, Problem> {
    let job = state.0.transfers.find(caller, id_of(path))?;
    *job.asked() = Instant::now();
    Ok(json(&*job.status()))
}

/// `DELETE /v1/transfers/ID`
pub(super) fn cancel(state: &ServerState, caller: &Caller, path: &str) -> Result<Response, Problem> {
    let job = state.0.transfers.find(caller, id_of(path))?;
    job.is_cancelled.store(true, Ordering::Relaxed);
    Ok(json(&*job.status()))
}

fn id_of(path: &str) -> &str {
    path.strip_prefix("/v1/transfers/").unwrap_or_default()
}

/// The value in the body of a request.
async fn taken<T: for<'a> Deserialize<'a>>(state: &ServerState, request: Request) -> Result<T, Problem> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let length = length.ok_or_else(|| {
        Problem::new(Code::LengthRequired, "the body has no Content-Length", "send it whole, with its length")
    })?;
    if length > ORDER_BYTES_MAX {
        let what = format!("a body of {length} bytes is announced, which may have {ORDER_BYTES_MAX}");
        return Err(Problem::new(Code::TooLarge, what, "ask for less at once"));
    }
    let bytes = body::take(request.into_body(), length, state.0.options.pace).await?;
    // What cannot be read may hold a secret: only the place is told.
    serde_json::from_slice(&bytes).map_err(|error| {
        bad(format!("the body cannot be read: line {}, column {}", error.line(), error.column()))
    })
}
