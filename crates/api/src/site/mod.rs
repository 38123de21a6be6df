//! The routes of a site's daemon: runs, imports, images, events, and what watches them.
//!
//! Every request goes the same way: it gets an id; its address must be let in; who asks is found out; the role must suffice
//! for the route ([`access`]); the site, whose calls block, is called from a bounded number of threads; changes are logged.
//! Handlers are thin: what they do is a method of [`leeward_site::Site`].

mod access;
mod airflow;
mod events;
mod feed;
mod images;
mod imports;
mod problem;
mod query;
mod runs;
mod schedules;
mod system;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use leeward_site::Site;
use leeward_site::config::Network;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use access::Caller;
use feed::Feed;
use problem::Problem;

use crate::server::auth::FailureBound;
use crate::server::{Audit, Peer};
use crate::token::TokenBook;

/// The largest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 256 << 10;
/// Calls of the site at once.
const CALLS_MAX: usize = 32;
/// Calls at once that ask the repository or a source, which may not answer for minutes. All else goes on beside them.
const FAR_CALLS_MAX: usize = 4;
/// How long a request waits for its turn at those.
const FAR_WAIT: Duration = Duration::from_secs(2);

/// What the routes share. Cheap to clone.
#[derive(Clone)]
pub struct SiteState(Arc<Inner>);

struct Inner {
    site: Arc<Site>,
    tokens: TokenBook,
    audit: Audit,
    networks: Vec<Network>,
    failures: FailureBound,
    calls: Arc<Semaphore>,
    far_calls: Arc<Semaphore>,
    feed: Feed,
    started: Instant,
}

impl SiteState {
    /// The state of the routes. `networks` are those from which requests are taken; all where empty.
    #[must_use]
    pub fn new(site: Arc<Site>, tokens: TokenBook, audit: Audit, networks: Vec<Network>) -> Self {
        let feed = Feed::new(Arc::clone(site.runs().state()));
        Self(Arc::new(Inner {
            site,
            tokens,
            audit,
            networks,
            failures: FailureBound::default(),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            far_calls: Arc::new(Semaphore::new(FAR_CALLS_MAX)),
            feed,
            started: Instant::now(),
        }))
    }

    /// Calls the site, which blocks, when it is its turn.
    async fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Site) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = Arc::clone(&self.0.calls).acquire_owned().await;
        self.act(turn.map_err(|_| Problem::busy("the daemon has too much to do"))?, act).await
    }

    /// Calls the site for something that asks the repository or a source. Where those do not answer, few threads wait for
    /// them, and who asks after them is told soon.
    async fn call_far<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Site) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = tokio::time::timeout(FAR_WAIT, Arc::clone(&self.0.far_calls).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(Problem::busy(
                "earlier requests still wait for the repository or a source to answer",
            ));
        };
        self.act(turn, act).await
    }

    /// Calls the site. The turn ends with the call, not with who asked: a client that goes away leaves the thread behind.
    async fn act<T: Send + 'static>(
        &self,
        turn: OwnedSemaphorePermit,
        act: impl FnOnce(&Site) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let site = Arc::clone(&self.0.site);
        let done = tokio::task::spawn_blocking(move || {
            let done = act(&site);
            drop(turn);
            done
        });
        let failed = |_| Problem::failed("the daemon failed at this request; its log says more");
        done.await.map_err(failed)?
    }
}

/// A request, taken apart.
struct Asking {
    id: String,
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    peer: Option<Peer>,
}

impl Asking {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// All routes of a site.
pub fn routes(state: SiteState) -> Router {
    Router::new().fallback(handle).with_state(state)
}

async fn handle(State(state): State<SiteState>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let asking = Asking {
        id: request_id(),
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        peer: parts.extensions.get::<Peer>().cloned(),
        headers: parts.headers,
    };
    let _inside = asking.peer.as_ref().map(|peer| peer.activity.enter());
    let mut caller = None;
    let answer = dispatch(&state, &asking, body, &mut caller).await;
    let response = match answer {
        Ok(response) => response,
        Err(problem) => problem.response(&asking.id),
    };
    state.note(&asking, caller.as_ref(), response.status());
    finish(response, &asking.id)
}

fn request_id() -> String {
    let mut random = [0; 8];
    // Without random bytes the id is zeros: it is for finding a line in the log, no more.
    let _ = getrandom::fill(&mut random);
    crate::token::hex(&random)
}

async fn dispatch(
    state: &SiteState,
    asking: &Asking,
    body: Body,
    caller: &mut Option<Caller>,
) -> Result<Response, Problem> {
    access::network(state, asking)?;
    let parts: Vec<&str> = asking.path.trim_matches('/').split('/').collect();
    let is_read = matches!(asking.method, Method::GET | Method::HEAD);
    match parts.as_slice() {
        ["healthz"] => return Ok(text("ok\n")),
        ["readyz"] => return system::ready(state).await,
        ["v1", "openapi.json"] if is_read => return Ok(system::openapi()),
        ["v1", "hear", source] => return imports::hear(state, asking, source, body).await,
        ["auth", "token"] => return airflow::token(state, asking, body).await,
        ["v1" | "api" | "metrics", ..] => {}
        _ if is_read => return page(asking),
        _ => return Err(Problem::no_route(&asking.path)),
    }
    let found = access::caller(state, asking)?;
    *caller = Some(found.clone());
    match parts.as_slice() {
        ["v1", "whoami"] => system::whoami(asking, &found),
        ["v1", "site"] => system::site(state, asking, &found).await,
        ["v1", "overview"] => system::overview(state, asking, &found).await,
        ["metrics"] => system::metrics(state, asking, &found).await,
        ["v1", "runs", rest @ ..] => runs::handle(state, asking, &found, rest, body).await,
        ["v1", "schedules", rest @ ..] => schedules::handle(state, asking, &found, rest, body).await,
        ["v1", "events"] => events::handle(state, asking, &found).await,
        ["v1", "imports"] => imports::begin(state, asking, &found, body).await,
        ["v1", "heard"] => imports::heard(state, asking, &found).await,
        ["v1", "sources", source, "objects"] => imports::objects(state, asking, &found, source).await,
        ["v1", "images", rest @ ..] => images::handle(state, asking, &found, rest).await,
        ["api", "v1" | "v2", "dags", dag, rest @ ..] => {
            airflow::handle(state, asking, &found, dag, rest, body).await
        }
        _ => Err(Problem::no_route(&asking.path)),
    }
}

impl SiteState {
    fn note(&self, asking: &Asking, caller: Option<&Caller>, status: StatusCode) {
        let is_change = !matches!(asking.method, Method::GET | Method::HEAD);
        if !is_change && !matches!(status.as_u16(), 401 | 403) {
            return;
        }
        self.0.audit.note(&Line {
            time: jiff::Timestamp::now().to_string(),
            request: &asking.id,
            peer: asking.peer.as_ref().map(|peer| peer.address.to_string()),
            token: caller.map(|caller| caller.token.name.as_str()),
            role: caller.map(|caller| caller.token.role.name()),
            what: format!("{} {}", asking.method, asking.path.chars().take(600).collect::<String>()),
            status: status.as_u16(),
        });
    }
}

/// A line of the log of changes.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    request: &'a str,
    peer: Option<String>,
    token: Option<&'a str>,
    role: Option<&'a str>,
    what: String,
    status: u16,
}

fn page(asking: &Asking) -> Result<Response, Problem> {
    let found = leeward_ui::asset(&asking.path).ok_or_else(|| Problem::no_route(&asking.path))?;
    let is_known = asking.header("if-none-match") == Some(found.etag.as_str());
    let cache = found.cache_control();
    let bytes = match found.bytes {
        std::borrow::Cow::Borrowed(bytes) => Body::from(bytes),
        std::borrow::Cow::Owned(bytes) => Body::from(bytes),
    };
    let mut response = Response::new(if is_known { Body::empty() } else { bytes });
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(found.content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    for (name, value) in leeward_ui::HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(etag) = HeaderValue::from_str(&found.etag) {
        headers.insert(header::ETAG, etag);
    }
    Ok(response)
}

fn finish(mut response: Response, id: &str) -> Response {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert("x-request-id", id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Takes a body of JSON, of a bounded size.
async fn body_of<T: serde::de::DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let bytes = bytes_of(body).await?;
    let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::invalid(format!("the body makes no sense: {error}")))
}

async fn bytes_of(body: Body) -> Result<bytes::Bytes, Problem> {
    let taken = axum::body::to_bytes(body, BODY_BYTES_MAX);
    let taken = tokio::time::timeout(Duration::from_secs(30), taken).await;
    taken.map_err(|_| Problem::too_slow())?.map_err(|_| Problem::too_large(BODY_BYTES_MAX))
}

fn json(value: &impl Serialize) -> Response {
    // Our own plain types: they always have a JSON form.
    let mut response = Response::new(Body::from(serde_json::to_vec(value).unwrap_or_default()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Refuses other methods than these.
fn only(asking: &Asking, methods: &[Method]) -> Result<(), Problem> {
    match methods.contains(&asking.method)
        || (asking.method == Method::HEAD && methods.contains(&Method::GET))
    {
        true => Ok(()),
        false => Err(Problem::method(methods)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use leeward_site::Config;

    use super::*;
    use crate::token::{NewToken, Role, TokenFile};

    fn get(path: &str, token: &str) -> Request {
        let request = Request::get(path).header("authorization", format!("Bearer {token}"));
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn a_repository_that_does_not_answer_leaves_the_rest_of_the_site_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut tokens = TokenFile::load_or_new(&folder.path().join("tokens")).unwrap();
        let new = NewToken {
            name: "a".to_owned(),
            role: Role::Reader,
            prefixes: Vec::new(),
            quota_bytes: None,
            expires: None,
        };
        let token = tokens.add(new).unwrap().reveal().to_owned();
        tokens.save(&folder.path().join("tokens")).unwrap();
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let open = {
            let gate = Arc::clone(&gate);
            move |_: &leeward_site::Opening| {
                let is_open = gate.0.lock().unwrap();
                drop(gate.1.wait_while(is_open, |is_open| !*is_open).unwrap());
                Err("nobody answers".to_owned())
            }
        };
        let config = Config::parse("name='a'\nstate='state'", folder.path()).unwrap();
        let site = Arc::new(Site::start(config, "test", Some(Box::new(open))).unwrap());
        let book = TokenBook::open(&folder.path().join("tokens")).unwrap();
        let state = SiteState::new(site, book, Audit::to_stderr(), Vec::new());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let ask = |path: &str| handle(State(state.clone()), get(path, &token));
            let many: Vec<_> = (0..2 * CALLS_MAX).map(|_| tokio::spawn(ask("/v1/overview"))).collect();
            let end = Instant::now() + Duration::from_secs(60);
            while state.0.far_calls.available_permits() > 0 {
                assert!(Instant::now() < end);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // A client that gives up does not make room for another one that would wait as well.
            many[0].abort();
            for path in ["/v1/images", "/metrics"] {
                let answer = ask(path).await;
                assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
                assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
                assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/problem+json");
            }
            let runs = tokio::time::timeout(Duration::from_secs(60), ask("/v1/runs")).await;
            assert_eq!(runs.expect("runs need no repository").status(), StatusCode::OK);
            *gate.0.lock().unwrap() = true;
            gate.1.notify_all();
            let mut answers = std::collections::BTreeMap::new();
            for asked in many.into_iter().skip(1) {
                *answers.entry(asked.await.unwrap().status().as_u16()).or_insert(0) += 1;
            }
            assert!(answers.contains_key(&200) && answers.contains_key(&503), "{answers:?}");
            assert_eq!(answers.len(), 2, "{answers:?}");
        });
    }
}
