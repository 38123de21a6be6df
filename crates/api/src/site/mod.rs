//! The routes of a site's daemon: runs, imports, images, events, and what watches them.
//!
//! Every request goes the same way: it gets an id; its address must be let in; who asks is found out; the role must suffice
//! for the route ([`access`]); the site, whose calls block, is called from a bounded number of threads; changes are logged.
//! Handlers are thin: what they do is a method of [`leeward_site::Site`].

mod access;
mod airflow;
mod events;
mod feed;
mod files;
mod images;
mod imports;
mod leftovers;
mod notify;
mod problem;
mod query;
mod reports;
mod restores;
mod runs;
mod schedules;
mod sign_in;
mod system;
mod turns;
mod work;

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
use turns::WorkTurns;

use crate::oidc::{self, Providers};
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
/// Files of snapshots that are sent at once.
const DOWNLOADS_MAX: usize = 8;
/// Reports that are made at once.
const REPORTS_MAX: usize = 2;

/// Characters that the log has of the beginning of what was asked.
const WHAT_BEGINNING: usize = 600;
/// Those of its end: the longest name of a file, each of its bytes in percent-encoding, has fewer.
const WHAT_END: usize = 1600;

/// What the routes share. Cheap to clone.
#[derive(Clone)]
pub struct SiteState(Arc<Inner>);

struct Inner {
    site: Arc<Site>,
    tokens: TokenBook,
    providers: oidc::Shared,
    audit: Audit,
    networks: Vec<Network>,
    failures: FailureBound,
    sign_in_failures: FailureBound,
    calls: Arc<Semaphore>,
    far_calls: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    reports: Arc<Semaphore>,
    exchanges: Arc<Semaphore>,
    work_turns: WorkTurns,
    feed: Feed,
    started: Instant,
}

impl SiteState {
    /// The state of the routes. Beside the site's own `tokens`, those of `providers` are taken. `networks` are those from which
    /// requests are taken; all where empty.
    #[must_use]
    pub fn new(
        site: Arc<Site>,
        tokens: TokenBook,
        providers: Providers,
        audit: Audit,
        networks: Vec<Network>,
    ) -> Self {
        let feed = Feed::new(Arc::clone(site.runs().state()));
        Self(Arc::new(Inner {
            site,
            tokens,
            providers: Arc::new(providers),
            audit,
            networks,
            failures: FailureBound::default(),
            sign_in_failures: FailureBound::default(),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            far_calls: Arc::new(Semaphore::new(FAR_CALLS_MAX)),
            downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            reports: Arc::new(Semaphore::new(REPORTS_MAX)),
            exchanges: Arc::new(Semaphore::new(sign_in::EXCHANGES_MAX)),
            work_turns: WorkTurns::default(),
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
        let busy = "earlier requests still wait for the repository or a source to answer";
        let turn = turn_of(&self.0.far_calls, busy).await?;
        self.act(turn, act).await
    }

    /// Calls the site. The turn ends with the call, not with who asked: a client that goes away leaves the thread behind.
    async fn act<T: Send + 'static>(
        &self,
        turn: OwnedSemaphorePermit,
        act: impl FnOnce(&Site) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        self.act_in(move |site| {
            let done = act(site);
            drop(turn);
            done
        })
        .await
    }

    /// Calls the site on a thread that may block; whoever calls has the turn for it.
    async fn act_in<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Site) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let site = Arc::clone(&self.0.site);
        let done = tokio::task::spawn_blocking(move || act(&site));
        let failed = |_| Problem::failed("the daemon failed at this request; its log says more");
        done.await.map_err(failed)?
    }
}

/// A turn, if there is one soon; else what is said of that.
async fn turn_of(turns: &Arc<Semaphore>, busy: &str) -> Result<OwnedSemaphorePermit, Problem> {
    match tokio::time::timeout(FAR_WAIT, Arc::clone(turns).acquire_owned()).await {
        Ok(Ok(turn)) => Ok(turn),
        _ => Err(Problem::busy(busy)),
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

/// The parts of a path by which requests find their way, and by which it is decided what is written down of them.
fn parts_of(path: &str) -> Vec<&str> {
    path.trim_matches('/').split('/').collect()
}

async fn dispatch(
    state: &SiteState,
    asking: &Asking,
    body: Body,
    caller: &mut Option<Caller>,
) -> Result<Response, Problem> {
    access::network(state, asking)?;
    let parts = parts_of(&asking.path);
    let is_read = matches!(asking.method, Method::GET | Method::HEAD);
    match parts.as_slice() {
        ["healthz"] => return only(asking, &[Method::GET]).map(|()| text("ok\n")),
        ["readyz"] => return system::ready(state, asking).await,
        ["v1", "openapi.json"] => return only(asking, &[Method::GET]).map(|()| system::openapi()),
        ["v1", "hear", source] => return imports::hear(state, asking, source, body).await,
        ["v1", "work", rest @ ..] => return work::handle(state, asking, rest, body).await,
        ["v1", "sign-in", rest @ ..] => return sign_in::handle(state, asking, caller, rest, body).await,
        ["auth", "token"] => return airflow::token(state, asking, body).await,
        ["v1" | "api" | "metrics", ..] => {}
        _ if is_read => return page(asking),
        _ => return Err(Problem::no_route(&asking.path)),
    }
    let found = access::caller(state, asking).await?;
    *caller = Some(found.clone());
    found.role()?;
    match parts.as_slice() {
        ["v1", "whoami"] => system::whoami(asking, &found),
        ["v1", "site"] => system::site(state, asking, &found).await,
        ["v1", "overview"] => system::overview(state, asking, &found).await,
        ["metrics"] => system::metrics(state, asking, &found).await,
        ["v1", "runs", rest @ ..] => runs::handle(state, asking, &found, rest, body).await,
        ["v1", "schedules", rest @ ..] => schedules::handle(state, asking, &found, rest, body).await,
        ["v1", "notify", rest @ ..] => notify::handle(state, asking, &found, rest, body).await,
        ["v1", "leftovers", rest @ ..] => leftovers::handle(state, asking, &found, rest, body).await,
        ["v1", "events"] => events::handle(state, asking, &found).await,
        ["v1", "imports"] => imports::begin(state, asking, &found, body).await,
        ["v1", "restores"] => restores::restore(state, asking, &found, body).await,
        ["v1", "exports"] => restores::export(state, asking, &found, body).await,
        ["v1", "heard"] => imports::heard(state, asking, &found).await,
        ["v1", "sources", source, "objects"] => imports::objects(state, asking, &found, source).await,
        ["v1", "images", rest @ ..] => images::handle(state, asking, &found, rest, body).await,
        ["v1", "repository"] => images::repository(state, asking, &found).await,
        ["v1", "reports"] => reports::handle(state, asking, &found).await,
        ["api", "v1" | "v2", "dags", dag, rest @ ..] => {
            airflow::handle(state, asking, &found, dag, rest, body).await
        }
        _ => Err(Problem::no_route(&asking.path)),
    }
}

impl SiteState {
    fn note(&self, asking: &Asking, caller: Option<&Caller>, status: StatusCode) {
        let is_change = !matches!(asking.method, Method::GET | Method::HEAD);
        let parts = parts_of(&asking.path);
        // Workers ask all the time; what comes of it stands in the logs of runs.
        let is_change = is_change && !(matches!(parts.as_slice(), ["v1", "work", ..]) && status.is_success());
        // To begin to sign in changes nothing here; what comes of it is written down.
        let is_change =
            is_change && !(matches!(parts.as_slice(), ["v1", "sign-in", _]) && status.is_success());
        // Who has looked into the files of machines is known afterwards as well, and at which.
        let is_look = is_of_files(&parts);
        if !is_change && !is_look && !matches!(status.as_u16(), 401 | 403) {
            return;
        }
        let mut what = format!("{} /{}", asking.method, asking.path.trim_matches('/'));
        if is_look && !asking.query.is_empty() {
            what.push('?');
            what.push_str(&files::looked_at(&asking.query));
        }
        self.0.audit.note(&Line {
            time: jiff::Timestamp::now().to_string(),
            request: &asking.id,
            peer: asking.peer.as_ref().map(|peer| peer.address.to_string()),
            token: caller.map(|caller| caller.name.as_str()),
            role: caller.map(Caller::role_name),
            issuer: caller.and_then(|caller| caller.vouched.as_ref()).map(|vouched| vouched.issuer.as_str()),
            subject: caller
                .and_then(|caller| caller.vouched.as_ref())
                .map(|vouched| vouched.subject.as_str()),
            // What was shown is named whole: its path is bounded, and no part of it may hide among the others.
            what: if is_look && status.is_success() { what } else { shortened(&what) },
            status: status.as_u16(),
        });
    }
}

/// Whether these are the parts of a path by which one looks into snapshots. Their queries hold no secret.
fn is_of_files(parts: &[&str]) -> bool {
    matches!(parts, ["v1", "images", .., "files"] | ["v1", "images", .., "files", "content"])
}

/// A text that is not too long for a line of the log: of a long one its beginning and its end, where the name of a file is.
fn shortened(text: &str) -> String {
    let count = text.chars().count();
    if count <= WHAT_BEGINNING + WHAT_END {
        return text.to_owned();
    }
    let beginning: String = text.chars().take(WHAT_BEGINNING).collect();
    let end: String = text.chars().skip(count - WHAT_END).collect();
    format!("{beginning}…{end}")
}

/// A line of the log of changes.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    request: &'a str,
    peer: Option<String>,
    token: Option<&'a str>,
    role: Option<&'a str>,
    /// Who vouches for whom, where the token is a provider's.
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
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
    body_with(body, &[]).await
}

/// The same; members of these names are objects as well.
async fn body_with<T: serde::de::DeserializeOwned>(body: Body, objects: &[&str]) -> Result<T, Problem> {
    let bytes = bytes_of(body).await?;
    let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    // A list would be taken for the members of an object in their order.
    let value: serde_json::Value = parse(bytes).map_err(no_sense)?;
    let is_object = |name: &&str| value.get(name).is_none_or(serde_json::Value::is_object);
    if !value.is_object() || !objects.iter().all(is_object) {
        return Err(no_sense("there is something else where an object is needed"));
    }
    parse(bytes).map_err(no_sense)
}

fn no_sense(why: impl std::fmt::Display) -> Problem {
    Problem::invalid(format!("the body makes no sense: {why}"))
}

/// Takes JSON, in which 2.0 is as good an integer as 2: JSON knows no difference, and some clients write all numbers so.
fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    if let Ok(mut value) = serde_json::from_slice(bytes)
        && make_whole(&mut value)
    {
        return serde_json::from_value(value);
    }
    // In this way more is told of what is wrong, and where.
    serde_json::from_slice(bytes)
}

/// Writes numbers without a fraction as integers; whether there were any that were not.
fn make_whole(value: &mut serde_json::Value) -> bool {
    use serde_json::Value;
    /// Up to here every integer is a floating-point number as well.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) if number.is_f64() => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() <= EXACT_MAX => {
                *value = Value::from(float as i64);
                true
            }
            _ => false,
        },
        // All of them, not up to the first that changes.
        Value::Array(values) => values.iter_mut().map(make_whole).filter(|changed| *changed).count() > 0,
        Value::Object(values) => values.values_mut().map(make_whole).filter(|changed| *changed).count() > 0,
        _ => false,
    }
}

async fn bytes_of(body: Body) -> Result<bytes::Bytes, Problem> {
    bytes_up_to(body, BODY_BYTES_MAX).await
}

async fn bytes_up_to(body: Body, most: usize) -> Result<bytes::Bytes, Problem> {
    let taken = axum::body::to_bytes(body, most);
    let taken = tokio::time::timeout(Duration::from_secs(30), taken).await;
    taken.map_err(|_| Problem::too_slow())?.map_err(|_| Problem::too_large(most))
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

    /// The state of a site in a folder, and a reader's token.
    fn site_in(folder: &std::path::Path, open: Option<leeward_site::OpenRepository>) -> (SiteState, String) {
        let mut tokens = TokenFile::load_or_new(&folder.join("tokens")).unwrap();
        let new = NewToken {
            name: "a".to_owned(),
            role: Role::Reader,
            prefixes: Vec::new(),
            quota_bytes: None,
            expires: None,
        };
        let token = tokens.add(new).unwrap().reveal().to_owned();
        tokens.save(&folder.join("tokens")).unwrap();
        let config = Config::parse("name='a'\nstate='state'", folder).unwrap();
        let site = Arc::new(Site::start(config, "test", open).unwrap());
        let book = TokenBook::open(&folder.join("tokens")).unwrap();
        (SiteState::new(site, book, Providers::none(), Audit::to_stderr(), Vec::new()), token)
    }

    #[test]
    fn a_repository_that_does_not_answer_leaves_the_rest_of_the_site_alone() {
        let folder = tempfile::tempdir().unwrap();
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let open = {
            let gate = Arc::clone(&gate);
            move |_: &leeward_site::Opening| {
                let is_open = gate.0.lock().unwrap();
                drop(gate.1.wait_while(is_open, |is_open| !*is_open).unwrap());
                Err("nobody answers".to_owned())
            }
        };
        let (state, token) = site_in(folder.path(), Some(Box::new(open)));
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

    #[test]
    fn a_long_line_of_the_log_keeps_its_end() {
        let most = WHAT_BEGINNING + WHAT_END;
        for length in [0, 1, most] {
            assert_eq!(shortened(&"ä".repeat(length)), "ä".repeat(length));
        }
        let cut = shortened(&format!("GET {}{}", "ä".repeat(most), "%C3%A4".repeat(255)));
        assert!(cut.starts_with("GET ä") && cut.ends_with(&"%C3%A4".repeat(255)), "{cut}");
        assert_eq!(cut.chars().count(), most + 1);
    }

    #[test]
    fn a_number_without_a_fraction_is_an_integer_however_it_is_written() {
        let numbers = |text: &str| parse::<Vec<u32>>(text.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(numbers("[2, 2.0, 2e1, 0.0, 4294967295.0]").unwrap(), [2, 2, 20, 0, u32::MAX]);
        for text in ["[2.5]", "[-1.0]", "[4294967296.0]", "[1e300]", "[\"2.0\"]"] {
            numbers(text).unwrap_err();
        }
        let message = parse::<Vec<u32>>(b"[1,\n-2]").unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
        let inputs: serde_json::Value = parse(b"{\"a\": {\"b\": [1.0, 1.5, null]}}").unwrap();
        assert_eq!(inputs, serde_json::json!({"a": {"b": [1, 1.5, null]}}));
    }

    #[test]
    fn a_watcher_to_whom_nothing_happens_stays_and_is_let_go_when_the_daemon_ends() {
        use std::io::{Read, Write};
        use std::sync::atomic::{AtomicBool, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let (state, token) = site_in(folder.path(), None);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let idle_time = Duration::from_millis(200);
        let options = crate::server::ListenOptions { idle_time, ..Default::default() };
        let must_stop = AtomicBool::new(false);
        let connect = |path: &str| {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            stream
        };
        std::thread::scope(|scope| {
            let stop = || must_stop.load(Ordering::Acquire);
            let served =
                scope.spawn(move || crate::server::serve(listener, None, routes(state), options, &stop));
            let (mut idle, mut watching) = (connect("/healthz"), connect("/v1/events"));
            idle.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let mut all = Vec::new();
            idle.read_to_end(&mut all).expect("who asks for nothing more is cut off");
            watching.set_read_timeout(Some(3 * idle_time)).unwrap();
            let mut told = [0; 4096];
            let silent = loop {
                match watching.read(&mut told) {
                    Ok(0) => panic!("a watcher was cut off"),
                    Ok(_) => {}
                    Err(error) => break error.kind(),
                }
            };
            assert_eq!(silent, std::io::ErrorKind::WouldBlock);
            must_stop.store(true, Ordering::Release);
            let ending = Instant::now();
            watching.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            watching.read_to_end(&mut all).expect("the answer ends");
            served.join().unwrap().unwrap();
            assert!(ending.elapsed() < Duration::from_secs(20), "it was not waited for who watches");
        });
    }
}
