//! Who asks.
//!
//! Guessing is hopeless by the size of a token; what is bounded is the noise: of an address that fails again and again,
//! further failures are answered without a line in the log. A valid token is let in all the same, so nobody can shut out
//! others behind the same address by failing on purpose.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use jiff::Timestamp;

use super::{Asking, Caller, ServerState, passes};
use crate::problem::{Code, Problem};
use crate::token::{Role, TokenText};

const FAILURES_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses of which failures are counted; all others share one count.
const ADDRESSES_MAX: usize = 4096;

/// Counts failures by address.
#[derive(Default)]
pub(crate) struct FailureBound(Mutex<HashMap<IpAddr, (Instant, u32)>>);

impl FailureBound {
    /// Whether there were `most` of late, for what costs something before it fails.
    pub(crate) fn has_reached(&self, most: u32, address: Option<IpAddr>) -> bool {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let address = address.filter(|address| counts.contains_key(address) || counts.len() < ADDRESSES_MAX);
        let found = counts.get(&address.unwrap_or(others));
        found.is_some_and(|(since, count)| since.elapsed() < WINDOW && *count >= most)
    }

    /// Counts a failure; whether there were too many of late.
    pub(crate) fn is_exceeded_by(&self, address: Option<IpAddr>) -> bool {
        let now = Instant::now();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= ADDRESSES_MAX {
            counts.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        }
        let others = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let address = address.filter(|address| counts.contains_key(address) || counts.len() < ADDRESSES_MAX);
        let (since, count) = counts.entry(address.unwrap_or(others)).or_insert((now, 0));
        if now.duration_since(*since) >= WINDOW {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count > FAILURES_MAX
    }
}

pub(super) fn authenticate(
    state: &ServerState,
    asking: &Asking,
    headers: &HeaderMap,
) -> Result<Caller, Problem> {
    let tokens = state.0.tokens.current().map_err(|error| {
        eprintln!("leeward: nobody is let in: {error}");
        Problem::new(
            Code::Busy,
            "the server cannot read its tokens; its log says why",
            "mend the file of tokens",
        )
    })?;
    let hint =
        "give a valid token in LEEWARD_TOKEN_FILE or LEEWARD_TOKEN; one is made with: leeward token add";
    let failed = |what: String| {
        let address = asking.peer.as_ref().map(|peer| peer.address);
        match state.0.failures.is_exceeded_by(address) {
            true => Problem::new(Code::TooMany, "too many requests without a valid token", hint),
            false => Problem::new(Code::Unauthenticated, what, hint),
        }
    };
    let text = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let Some(text) = text else { return Err(failed("the request has no token".to_owned())) };
    let text = TokenText::new(text.trim());
    if text.reveal().starts_with(passes::TEXT_PREFIX) {
        let Some((token, purpose)) = state.0.passes.find(&text, &tokens) else {
            return Err(failed("the pass is not valid here any more".to_owned()));
        };
        return Ok(Caller { token: Arc::new(token), tokens, purpose: Some(purpose) });
    }
    let Some(token) = tokens.find(&text) else {
        return Err(failed(
            "the token is not known here: it was removed, or is of another server".to_owned(),
        ));
    };
    if token.has_expired(Timestamp::now()) {
        return Err(failed(format!("token {:?} has expired", token.name)));
    }
    if token.role == Role::Worker {
        let what = format!(
            "token {:?} is of a site's worker, which has nothing to do with a repository",
            token.name
        );
        return Err(Problem::new(Code::Denied, what, "use a token of another role"));
    }
    let token = Arc::new(token.clone());
    Ok(Caller { token, tokens, purpose: None })
}
