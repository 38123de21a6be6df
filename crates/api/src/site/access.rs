//! Who asks, and what they may.

use std::sync::Arc;

use axum::http::header;
use jiff::Timestamp;

use super::problem::Problem;
use super::{Asking, SiteState};
use crate::token::{Role, Token, TokenText};

/// What a route lets one do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// See everything.
    See,
    /// Begin imports.
    Begin,
    /// Retry, skip, cancel, undo.
    Command,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub token: Arc<Token>,
}

impl Caller {
    /// Whether the role suffices; a writer adds and sees nothing of others, as everywhere.
    ///
    /// | | see | begin | command |
    /// | --- | --- | --- | --- |
    /// | reader | yes | | |
    /// | writer | | yes | |
    /// | operator, admin | yes | yes | yes |
    pub fn needs(&self, right: Right) -> Result<(), Problem> {
        let may = match self.token.role {
            Role::Admin | Role::Operator => true,
            Role::Reader => right == Right::See,
            Role::Writer => right == Right::Begin,
        };
        if self.token.is_confined() {
            return Err(Problem::denied(format!(
                "token {:?} is confined to images of a repository; a site's runs need one that is not",
                self.token.name
            )));
        }
        match may {
            true => Ok(()),
            false => Err(Problem::denied(format!(
                "token {:?} is a {}'s, which may not do that",
                self.token.name,
                self.token.role.name()
            ))),
        }
    }
}

/// Refuses requests from other networks than those that are allowed.
pub(super) fn network(state: &SiteState, asking: &Asking) -> Result<(), Problem> {
    let networks = &state.0.networks;
    let Some(peer) = &asking.peer else { return Ok(()) };
    match networks.is_empty() || networks.iter().any(|network| network.has(peer.address)) {
        true => Ok(()),
        false => Err(Problem::denied("requests from this address are not taken")
            .hint("see `allow_from` in the site's configuration")),
    }
}

/// Who asks: a bearer token, or for clients that know no other way the password of basic authentication.
pub(super) fn caller(state: &SiteState, asking: &Asking) -> Result<Caller, Problem> {
    let Some(text) = token_text(asking) else {
        return Err(refused(state, asking, "the request has no token".to_owned()));
    };
    find(state, asking, &text)
}

/// Who a token's text stands for.
pub(super) fn find(state: &SiteState, asking: &Asking, text: &TokenText) -> Result<Caller, Problem> {
    let tokens = state.0.tokens.current().map_err(|error| {
        eprintln!("leeward: nobody is let in: {error}");
        Problem::busy("the daemon cannot read its tokens; its log says why")
    })?;
    let Some(token) = tokens.find(text) else {
        return Err(refused(
            state,
            asking,
            "the token is not known here: it was removed, or is of another site".to_owned(),
        ));
    };
    if token.has_expired(Timestamp::now()) {
        return Err(refused(state, asking, format!("token {:?} has expired", token.name)));
    }
    Ok(Caller { token: Arc::new(token.clone()) })
}

pub(super) fn refused(state: &SiteState, asking: &Asking, what: String) -> Problem {
    let address = asking.peer.as_ref().map(|peer| peer.address);
    match state.0.failures.is_exceeded_by(address) {
        true => Problem::too_many(),
        false => Problem::unauthenticated(what),
    }
}

fn token_text(asking: &Asking) -> Option<TokenText> {
    let value = asking.header(header::AUTHORIZATION.as_str())?;
    if let Some(text) = value.strip_prefix("Bearer ") {
        return Some(TokenText::new(text.trim()));
    }
    use base64::Engine;
    let decoded =
        base64::engine::general_purpose::STANDARD.decode(value.strip_prefix("Basic ")?.trim()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    decoded.split_once(':').map(|(_, password)| TokenText::new(password))
}
