//! The server: routes for a repository, and the listener that serves them.
//!
//! Every request goes the same way: it gets an id; who asks is found out; what is asked is judged by
//! [`crate::guard`]; the store, whose calls block, is called from a bounded number of threads; the answer is counted, and
//! logged where it was about a change.
//!
//! [`routes`] are for whoever has a listener of its own; [`serve`] is one, with TLS and bounds of its own. What bounds
//! connections (their number, a handshake that does not end, a client that takes nothing) is the listener's.

mod audit;
pub(crate) mod auth;
mod body;
mod listen;
mod metrics;
mod moving;
mod objects;
mod passes;
mod peers;
mod tls;
mod transfers;

pub use audit::Audit;
pub(crate) use body::Pieces;
pub(crate) use listen::Inside;
pub use listen::{ListenOptions, serve};
pub use passes::Purpose;
pub use peers::PeerServer;
pub use tls::{TlsFiles, make_certificates, tls_config};
pub(crate) use tls::{authorities, certificates, private_key};
pub(crate) use transfers::PACKS_MAX;
pub use transfers::{Direction, TransferState, TransferStatus};

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{any, get};
use tokio::sync::{Notify, Semaphore, watch};

use crate::guard::Guard;
use crate::limits::Pace;
use crate::problem::{Code, Problem};
use crate::token::{Role, Token, TokenBook, TokenFile};

/// Bounds of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// How slow a client may be.
    pub pace: Pace,
    /// Bytes of bodies that may be in memory at once. A body larger than that is refused.
    pub memory_bytes: u32,
    /// Calls of the store that may run at once.
    pub store_calls: usize,
    /// How long a request may wait for its turn.
    pub queue_time: Duration,
    /// The most entries of one page of a listing.
    pub page_entries: usize,
    /// Other servers that packs may be moved to and from.
    pub peers: Vec<PeerServer>,
    /// How long a transfer goes on though nobody asks for it.
    pub transfer_lease: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            pace: Pace::default(),
            memory_bytes: 1 << 30,
            store_calls: 16,
            queue_time: Duration::from_secs(60),
            page_entries: crate::limits::PAGE_ENTRIES_MAX,
            peers: Vec::new(),
            transfer_lease: transfers::LEASE,
        }
    }
}

/// What the routes share. Cheap to clone.
#[derive(Clone)]
pub struct ServerState(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) guard: Guard,
    tokens: TokenBook,
    audit: Audit,
    metrics: metrics::Metrics,
    failures: auth::FailureBound,
    pub(crate) options: ServerOptions,
    calls: Semaphore,
    /// In units of [`MEMORY_UNIT`].
    memory: Semaphore,
    passes: passes::Passes,
    transfers: transfers::Transfers,
}

/// Bytes that one permit of memory stands for.
const MEMORY_UNIT: u64 = 1 << 10;

impl ServerState {
    /// The state of a server.
    #[must_use]
    pub fn new(guard: Guard, tokens: TokenBook, audit: Audit, options: ServerOptions) -> Self {
        let calls = Semaphore::new(options.store_calls.max(1));
        let memory = Semaphore::new((u64::from(options.memory_bytes) / MEMORY_UNIT) as usize);
        Self(Arc::new(Inner {
            guard,
            tokens,
            audit,
            metrics: metrics::Metrics::default(),
            failures: auth::FailureBound::default(),
            options,
            calls,
            memory,
            passes: passes::Passes::default(),
            transfers: transfers::Transfers::default(),
        }))
    }

    /// Runs a call of the store, which blocks, when it is its turn.
    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Guard) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let busy = || Problem::new(Code::Busy, "the server has too much to do", "try again later");
        let inner = Arc::clone(&self.0);
        let wait = self.0.calls.acquire();
        let _turn = tokio::time::timeout(self.0.options.queue_time, wait)
            .await
            .map_err(|_| busy())?
            .map_err(|_| busy())?;
        let done = tokio::task::spawn_blocking(move || act(&inner.guard)).await;
        done.unwrap_or_else(|_| {
            Err(Problem::new(Code::Failed, "the server failed at this request", "see its log"))
        })
    }
}

/// The other side of a connection, which the listener puts beside each request.
#[derive(Clone)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Ends the connection.
    pub(crate) cut: Arc<Notify>,
    /// When a request of it was last let in, for the listener.
    pub(crate) activity: Arc<listen::Activity>,
    /// Whether the listener is to end: answers that have no end of their own end then.
    pub(crate) stop: watch::Receiver<bool>,
}

/// A request on its way.
struct Asking {
    id: String,
    began: Instant,
    class: &'static str,
    is_change: bool,
    what: String,
    peer: Option<Peer>,
}

/// Who asks, let in.
#[derive(Clone)]
struct Caller {
    token: Arc<Token>,
    tokens: Arc<TokenFile>,
    /// What the pass is for, where no token but a pass was shown.
    purpose: Option<Purpose>,
}

/// The routes of a repository: `/v1/…`, `/metrics` and `/health`.
pub fn routes(state: ServerState) -> Router {
    Router::new()
        .route("/v1/objects", any(handle))
        .route("/v1/objects/{*key}", any(handle))
        .route("/v1/settle", any(handle))
        .route("/v1/sweep", any(handle))
        .route("/v1/whoami", any(handle))
        .route("/v1/peers", any(handle))
        .route("/v1/passes", any(handle))
        .route("/v1/passes/{id}", any(handle))
        .route("/v1/transfers", any(handle))
        .route("/v1/transfers/{id}", any(handle))
        .route("/metrics", any(handle))
        .route("/health", get(|| async { "ok\n" }))
        .fallback(any(handle))
        .with_state(state)
}

async fn handle(State(state): State<ServerState>, request: Request) -> Response {
    let mut asking = begin(&request);
    let mut name = None;
    let result = match auth::authenticate(&state, &asking, request.headers()) {
        Ok(caller) => {
            name = Some((caller.token.name.clone(), caller.token.role));
            let _inside = asking.peer.as_ref().map(|peer| peer.activity.enter());
            act(&state, &mut asking, caller, request).await
        }
        Err(problem) => Err(problem),
    };
    let (response, code) = match result {
        Ok(response) => (response, None),
        Err(mut problem) => {
            problem.request_id.clone_from(&asking.id);
            (refusal(&problem), Some(problem))
        }
    };
    state.finish(&asking, name.as_ref(), &response, code.as_ref());
    with_id(response, &asking.id)
}

fn begin(request: &Request) -> Asking {
    let mut random = [0; 8];
    // Without random bytes the id is zeros: it is for finding a line in the log, no more.
    let _ = getrandom::fill(&mut random);
    let method = request.method().as_str();
    let path = request.uri().path();
    let class = match (method, path) {
        ("GET", "/v1/objects") => "list",
        ("GET", _) if path.starts_with("/v1/objects/") => "get",
        ("HEAD", _) if path.starts_with("/v1/objects/") => "head",
        ("PUT", _) if path.starts_with("/v1/objects/") => "put",
        ("DELETE", _) if path.starts_with("/v1/objects/") => "delete",
        ("POST", _) => "post",
        ("DELETE", _) => "end",
        ("GET", _) if path == "/v1/peers" || path.starts_with("/v1/transfers/") => "look",
        _ => "other",
    };
    Asking {
        id: crate::token::hex(&random),
        began: Instant::now(),
        class,
        is_change: !matches!(method, "GET" | "HEAD"),
        what: format!("{method} {}", path.chars().take(600).collect::<String>()),
        peer: request.extensions().get::<Peer>().cloned(),
    }
}

/// A pass opens what it is for, and nothing else.
fn confine(caller: &Caller, class: &str, path: &str) -> Result<(), Problem> {
    let Some(purpose) = caller.purpose else { return Ok(()) };
    match objects::key_of(path).is_ok_and(|key| purpose.covers(class, &key)) {
        true => Ok(()),
        false => {
            Err(Problem::denied(format!("token {:?} may move packs, and nothing else", caller.token.name)))
        }
    }
}

async fn act(
    state: &ServerState,
    asking: &mut Asking,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    confine(&caller, asking.class, &path)?;
    match (asking.class, path.as_str()) {
        ("list", _) => objects::list(state, caller, &query).await,
        ("get", _) => {
            let range = objects::range_of(request.headers())?;
            objects::read(state, caller, asking.peer.clone(), &path, range, false).await
        }
        ("head", _) => objects::read(state, caller, None, &path, None, true).await,
        ("put", _) => objects::write(state, caller, &path, request).await,
        ("delete", _) => objects::delete(state, caller, &path).await,
        ("post", "/v1/settle") => objects::settle(state, caller, &query).await,
        ("post", "/v1/sweep") => objects::sweep(state, caller).await,
        ("post", "/v1/passes") => transfers::make_pass(state, &caller, request).await,
        ("post", "/v1/transfers") => transfers::begin(state, caller, request).await,
        ("end", path) if path.starts_with("/v1/passes/") => Ok(transfers::end_pass(state, &caller, path)),
        ("end", path) if path.starts_with("/v1/transfers/") => transfers::cancel(state, &caller, path),
        ("look", path) if path.starts_with("/v1/transfers/") => transfers::status(state, &caller, path),
        ("look", "/v1/peers") => Ok(transfers::peers(state)),
        (_, "/v1/whoami") => objects::whoami(state, caller).await,
        (_, "/metrics") => match caller.token.role != Role::Writer && !caller.token.is_confined() {
            true => Ok(plain(state.0.metrics.text())),
            false => Err(Problem::denied(format!("token {:?} may not see the figures", caller.token.name))),
        },
        _ => Err(Problem::new(
            Code::BadRequest,
            format!("{} is not known here", asking.what),
            "see docs/protocol.md",
        )),
    }
}

impl ServerState {
    fn finish(
        &self,
        asking: &Asking,
        who: Option<&(String, Role)>,
        response: &Response,
        problem: Option<&Problem>,
    ) {
        let status = response.status().as_u16();
        self.0.metrics.count(asking.class, status, asking.began.elapsed());
        let is_noted = problem.is_none_or(|problem| problem.code != Code::TooMany);
        if is_noted && (asking.is_change || matches!(status, 401 | 403)) {
            self.0.audit.note(&audit::Line {
                time: jiff::Timestamp::now().to_string(),
                request: &asking.id,
                peer: asking.peer.as_ref().map(|peer| peer.address.to_string()),
                token: who.map(|(name, _)| name.as_str()),
                role: who.map(|(_, role)| role.name()),
                what: &asking.what,
                bytes: response.extensions().get::<objects::BodyBytes>().map(|bytes| bytes.0),
                status,
                problem: problem.map(|problem| problem.message.as_str()),
            });
        }
    }
}

fn refusal(problem: &Problem) -> Response {
    let mut response = json(problem);
    *response.status_mut() =
        StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if problem.code == Code::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if problem.is_transient() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn with_id(mut response: Response, id: &str) -> Response {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

fn json(value: &impl serde::Serialize) -> Response {
    // Our own plain types: they always have a JSON form.
    let mut response = Response::new(Body::from(serde_json::to_vec(value).unwrap_or_default()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn plain(text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
