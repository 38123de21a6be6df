//! Who asks, and what they may.

use axum::http::header;
use jiff::Timestamp;

use super::problem::Problem;
use super::{Asking, SiteState};
use crate::oidc::{Identity, Refused};
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
    /// Hold snapshots, and let them go.
    Hold,
    /// See the files of machines, and take them: more than to see that there are snapshots.
    Files,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// Tells it from everybody else, now and later.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The role, or why there is none, in words.
    pub role: Result<Role, String>,
    /// Images to which it is confined; everything when empty.
    pub prefixes: Vec<String>,
    /// When its token ends.
    pub until: Option<Timestamp>,
    /// Who says so, where it is not this site itself.
    pub vouched: Option<Vouched>,
}

/// Somebody that a provider of OpenID Connect knows.
#[derive(Debug, Clone)]
pub(super) struct Vouched {
    /// The provider, as the site's configuration calls it.
    pub provider: String,
    /// The issuer.
    pub issuer: String,
    /// Who it is among all whom the issuer knows.
    pub subject: String,
}

impl From<&Token> for Caller {
    fn from(token: &Token) -> Self {
        Self {
            id: token.id.clone(),
            name: token.name.clone(),
            role: Ok(token.role),
            prefixes: token.prefixes.clone(),
            until: token.expires,
            vouched: None,
        }
    }
}

impl From<Identity> for Caller {
    fn from(found: Identity) -> Self {
        // Not the name: people change theirs, and two may have the same. Ids of own tokens have no colon.
        let both = blake3::hash(format!("{}\n{}", found.issuer, found.subject).as_bytes());
        Self {
            id: format!("oidc:{}", both.to_hex()),
            name: found.name,
            role: found.role,
            prefixes: Vec::new(),
            until: Some(found.until),
            vouched: Some(Vouched { provider: found.provider, issuer: found.issuer, subject: found.subject }),
        }
    }
}

impl Caller {
    /// As whom a run remembers it: a name of a provider is never the same as that of an own token.
    pub fn by(&self) -> String {
        match &self.vouched {
            None => self.name.clone(),
            Some(vouched) => format!("{} ({})", self.name, vouched.provider),
        }
    }

    /// The name of its role.
    pub fn role_name(&self) -> &'static str {
        self.role.as_ref().map_or("none", |role| role.name())
    }

    /// Its role.
    ///
    /// # Errors
    /// It has none, and may do nothing.
    pub fn role(&self) -> Result<Role, Problem> {
        self.role.clone().map_err(|why| {
            Problem::denied(format!("{:?} is known and has no role here", self.name)).hint(why)
        })
    }

    /// Whether the role suffices; a writer adds and sees nothing of others, as everywhere.
    ///
    /// | | see | begin | command, hold, files |
    /// | --- | --- | --- | --- |
    /// | reader | yes | | |
    /// | writer | | yes | |
    /// | operator, admin | yes | yes | yes |
    /// | worker | | | |
    pub fn needs(&self, right: Right) -> Result<(), Problem> {
        let may = match self.role()? {
            Role::Admin | Role::Operator => true,
            Role::Reader => right == Right::See,
            Role::Writer => right == Right::Begin,
            // What a worker may is in `work.rs`.
            Role::Worker => false,
        };
        if !self.prefixes.is_empty() {
            return Err(Problem::denied(format!(
                "token {:?} is confined to images of a repository; a site's runs need one that is not",
                self.name
            )));
        }
        match may {
            true => Ok(()),
            false => Err(Problem::denied(format!(
                "token {:?} is a {}'s, which may not do that",
                self.name,
                self.role_name()
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

/// Who asks: a bearer token, or for clients that know no other way the password of basic authentication. It may be somebody
/// without any role.
pub(super) async fn caller(state: &SiteState, asking: &Asking) -> Result<Caller, Problem> {
    let Some(text) = token_text(asking) else {
        return Err(refused(state, asking, "the request has no token".to_owned()));
    };
    find(state, asking, &text).await
}

/// Who a token's text stands for.
pub(super) async fn find(state: &SiteState, asking: &Asking, text: &TokenText) -> Result<Caller, Problem> {
    let tokens = state.0.tokens.current().map_err(|error| {
        eprintln!("leeward: nobody is let in: {error}");
        Problem::busy("the daemon cannot read its tokens; its log says why")
    })?;
    if let Some(token) = tokens.find(text) {
        if token.has_expired(Timestamp::now()) {
            return Err(refused(state, asking, format!("token {:?} has expired", token.name)));
        }
        return Ok(Caller::from(token));
    }
    match state.0.providers.identify(text).await {
        Ok(found) => Ok(Caller::from(found)),
        Err(Refused::Foreign) => Err(refused(
            state,
            asking,
            "the token is not known here: it was removed, or is of another site".to_owned(),
        )),
        Err(Refused::Invalid(why)) => {
            Err(refused(state, asking, why)
                .hint("get a new token from its issuer, or use one of the site's own"))
        }
        Err(Refused::Unready(why)) => Err(Problem::busy(why)
            .hint("try again, or use one of the site's own tokens; see [server.oidc] in docs/site.md")),
    }
}

pub(super) fn refused(state: &SiteState, asking: &Asking, what: String) -> Problem {
    let address = asking.peer.as_ref().map(|peer| peer.address);
    match state.0.failures.is_exceeded_by(address) {
        true => Problem::too_many(),
        false => Problem::unauthenticated(what),
    }
}

pub(super) fn token_text(asking: &Asking) -> Option<TokenText> {
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
