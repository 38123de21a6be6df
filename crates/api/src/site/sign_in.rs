//! Signing in at a provider from the pages: which there are, where the browser goes, and the token that comes of what it brings back.
//!
//! What is under way is kept by the browser alone, in a cookie that no script reads ([`crate::oidc`] says what it holds). The
//! cookie lets nobody in: requests are let in by the token, which the pages then send as one that was pasted. So other
//! pages that make a browser send requests gain nothing by it.

use axum::body::Body;
use axum::http::{HeaderValue, Method, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::access::Caller;
use super::problem::Problem;
use super::{Asking, SiteState, body_of, json, only, turn_of};
use crate::oidc::{NotSignedIn, PENDING_TIME, ProviderError, Returned, SignedIn, is_way_back};

/// The cookie of a sign-in that is under way. By its beginning browsers take it only from this host itself, and by TLS.
const COOKIE: &str = "__Host-leeward-sign-in";
/// Codes that become tokens at once.
pub(super) const EXCHANGES_MAX: usize = 4;
/// Failures from one address within a minute, after which it has to wait: people behind one address share it.
const FAILURES_MAX: u32 = 60;
/// The longest text that comes back from a provider, in characters.
const TEXT_CHARS_MAX: usize = 4096;

/// Where people can sign in: names, and nothing else, because nobody has been let in yet.
#[derive(Serialize)]
struct Offered<'a> {
    providers: Vec<OfferedProvider<'a>>,
}

#[derive(Serialize)]
struct OfferedProvider<'a> {
    name: &'a str,
}

#[derive(Deserialize)]
struct Begin {
    #[serde(default = "overview")]
    back: String,
}

fn overview() -> String {
    "/".to_owned()
}

#[derive(Serialize)]
struct Begun<'a> {
    location: &'a str,
}

/// What a provider has sent the browser back with (RFC 6749, sections 4.1.2 and 4.1.2.1; RFC 9207).
#[derive(Deserialize)]
struct Finish {
    state: String,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    iss: Option<String>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    error_description: Option<String>,
}

#[derive(Serialize)]
struct Finished<'a> {
    token: &'a str,
    until: String,
    back: &'a str,
}

pub(super) async fn handle(
    state: &SiteState,
    asking: &Asking,
    caller: &mut Option<Caller>,
    rest: &[&str],
    body: Body,
) -> Result<Response, Problem> {
    match rest {
        [] => {
            only(asking, &[Method::GET])?;
            let providers = state.0.providers.with_sign_in().map(|name| OfferedProvider { name });
            Ok(json(&Offered { providers: providers.collect() }))
        }
        [provider] => {
            only(asking, &[Method::POST])?;
            begin(state, asking, provider, body).await
        }
        [provider, "finish"] => {
            only(asking, &[Method::POST])?;
            finish(state, asking, caller, provider, body).await
        }
        _ => Err(Problem::no_route(&asking.path)),
    }
}

async fn begin(state: &SiteState, asking: &Asking, provider: &str, body: Body) -> Result<Response, Problem> {
    let given: Begin = body_of(body).await?;
    if !is_way_back(&given.back) {
        return Err(Problem::invalid(
            "`back` is a place within the pages, as /runs: it begins with one slash, and has up to 1024 characters",
        ));
    }
    check_origin(state, asking)?;
    let begun = state.0.providers.begin(provider, &given.back).map_err(|why| problem(provider, why))?;
    let response = json(&Begun { location: &begun.location });
    Ok(with_cookie(response, &format!("{}; Max-Age={}", begun.cookie, PENDING_TIME.as_secs())))
}

async fn finish(
    state: &SiteState,
    asking: &Asking,
    caller: &mut Option<Caller>,
    provider: &str,
    body: Body,
) -> Result<Response, Problem> {
    let returned = returned(body_of(body).await?)?;
    check_origin(state, asking)?;
    let address = asking.peer.as_ref().map(|peer| peer.address);
    // What fails has cost a request to the provider, in the name of this site.
    if state.0.sign_in_failures.has_reached(FAILURES_MAX, address) {
        return Err(Problem::too_many());
    }
    let done = sign_in(state, asking, provider, returned).await?;
    if let Err(NotSignedIn::Foreign(_) | NotSignedIn::Refused(_)) = &done {
        state.0.sign_in_failures.is_exceeded_by(address);
    }
    let answer = match done {
        // It goes on: what came was for another one.
        Err(why @ (NotSignedIn::Foreign(_) | NotSignedIn::Unknown)) => return Err(problem(provider, why)),
        Err(why) => Err(problem(provider, why)),
        Ok(done) => let_in(caller, provider, done),
    };
    // Whatever came of it, it is over, and no second answer is taken for it.
    let response = answer.unwrap_or_else(|problem| problem.response(&asking.id));
    Ok(with_cookie(response, "; Max-Age=0"))
}

/// What stands in the cookie is looked at first: who has not begun here takes no turn.
async fn sign_in(
    state: &SiteState,
    asking: &Asking,
    provider: &str,
    returned: Returned,
) -> Result<Result<SignedIn, NotSignedIn>, Problem> {
    let providers = &state.0.providers;
    if let Err(why) = providers.is_expected(provider, cookie(asking), &returned) {
        return Ok(Err(why));
    }
    let busy = "others are being signed in, and their providers are slow";
    let turn = turn_of(&state.0.exchanges, busy).await?;
    Ok(providers.finish(provider, cookie(asking), returned, turn).await)
}

fn let_in(caller: &mut Option<Caller>, provider: &str, done: SignedIn) -> Result<Response, Problem> {
    let until = done.identity.until.to_string();
    let found = Caller::from(done.identity);
    let role = found.role.clone();
    let name = found.name.clone();
    *caller = Some(found);
    // A token that opens nothing would lead back to the door at once.
    role.map_err(|why| {
        Problem::not_signed_in(format!("{name:?} is known at {provider} and has no role here")).hint(why)
    })?;
    Ok(json(&Finished { token: done.token.reveal(), until, back: &done.back }))
}

fn returned(given: Finish) -> Result<Returned, Problem> {
    let texts = [&given.code, &given.iss, &given.error, &given.error_description];
    let is_long = |text: &str| text.chars().count() > TEXT_CHARS_MAX;
    if is_long(&given.state) || texts.into_iter().flatten().any(|text| is_long(text)) {
        return Err(Problem::invalid(format!(
            "what comes of a provider has up to {TEXT_CHARS_MAX} characters each"
        )));
    }
    let answer = match (given.error, given.code) {
        (Some(error), _) => Err(ProviderError { error, description: given.error_description }),
        (None, Some(code)) => Ok(code),
        (None, None) => return Err(Problem::invalid("there is neither a code nor an error")),
    };
    Ok(Returned { state: given.state, issuer: given.iss, answer })
}

/// Refuses what pages of another origin ask for. That is also how it comes to light that the pages were opened under another name than
/// the one to which the provider sends the browser back: there the cookie would be missing.
fn check_origin(state: &SiteState, asking: &Asking) -> Result<(), Problem> {
    let (Some(given), Some(own)) = (asking.header(header::ORIGIN.as_str()), state.0.providers.origin())
    else {
        return Ok(());
    };
    match given == own {
        true => Ok(()),
        false => Err(Problem::not_signed_in(format!(
            "this page is not at {own}, to which the provider would send you back"
        ))
        .hint(format!("open {own} and sign in there"))),
    }
}

fn problem(provider: &str, why: NotSignedIn) -> Problem {
    match why {
        NotSignedIn::Unknown => Problem::not_found(format!("nobody can sign in at {provider:?} here")),
        NotSignedIn::Foreign(why) | NotSignedIn::Refused(why) => Problem::not_signed_in(why),
        NotSignedIn::Unready(why) => Problem::busy(why)
            .hint("try again later, or use one of the site's own tokens; see [server.oidc] in docs/site.md"),
    }
}

fn cookie(asking: &Asking) -> Option<&str> {
    let all = asking.headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find_map(|(name, value)| (name == COOKIE).then_some(value))
}

/// The same answer, with which the cookie gets a value. `Lax`: a request that another site's page sends has it only when a person
/// goes there.
fn with_cookie(mut response: Response, value: &str) -> Response {
    let text = format!("{COOKIE}={value}; Path=/; Secure; HttpOnly; SameSite=Lax");
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}
