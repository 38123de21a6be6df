//! Tokens of OpenID Connect providers, as they are taken beside a site's own, and how people get them by signing in there
//! ([`sign_in`]).
//!
//! A token goes this way: its text is bounded; the issuer that it claims picks the provider, and nothing else that it says is
//! believed; the algorithm must be one that the site allows, the key one that the provider publishes for that algorithm
//! ([`keys`]); then the signature is checked, then every claim ([`claims`]). What is peculiar to a provider is in the site's
//! configuration. Keys come from a thread of each provider's own ([`keyring`]), which asks at most every few seconds, however
//! many tokens name keys that do not exist.

mod claims;
mod endpoints;
mod fetch;
mod keyring;
mod keys;
mod pending;
mod sign_in;

use std::sync::Arc;

use jiff::Timestamp;
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use leeward_site::config::{Provider, Server, SignatureAlgorithm};
use serde::Deserialize;

use crate::token::{Role, TokenText};
use claims::Claims;
use keyring::{Keyring, Lookup};

pub(crate) use pending::{PENDING_TIME, is_way_back};
pub(crate) use sign_in::{NotSignedIn, ProviderError, Returned, SignedIn};

/// The longest token that is looked at, in bytes. Those of providers with hundreds of groups have about half of it.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// The longest name of a key, in bytes.
const KEY_ID_BYTES_MAX: usize = 512;

/// Who a provider says that somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The provider, as the site's configuration calls it.
    pub provider: String,
    /// The issuer.
    pub issuer: String,
    /// Who it is, among all whom the issuer knows, for ever.
    pub subject: String,
    /// What people call it.
    pub name: String,
    /// The role, or why there is none, in words.
    pub role: Result<Role, String>,
    /// When the token ends, differences of clocks included.
    pub until: Timestamp,
}

/// Why a token is not taken, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is no token of a provider that is known here.
    Foreign,
    /// It is worth nothing.
    Invalid(String),
    /// Whether it is worth something cannot be told for now.
    Unready(String),
}

/// How a provider does.
#[derive(Debug, Clone)]
pub(crate) struct ProviderState {
    /// As the site's configuration calls it.
    pub name: String,
    /// How many keys are known with which a token may be signed.
    pub keys: usize,
    /// Whether the last attempt to get them failed.
    pub fails: bool,
}

/// What a provider was found to have.
#[derive(Debug, PartialEq, Eq)]
pub struct Probed {
    /// How many keys with which tokens may be signed.
    pub keys: usize,
    /// Whether people could sign in there, or why not, in words; absent where that is not configured.
    pub sign_in: Option<Result<(), String>>,
}

/// The providers whose tokens are taken.
pub struct Providers {
    known: Vec<Known>,
    /// What browsers call the site's origin, where that is said.
    origin: Option<String>,
}

struct Known {
    name: String,
    config: Provider,
    keyring: Keyring,
}

/// What is read of a token before anything of it is believed.
#[derive(Deserialize)]
struct Claimed {
    iss: String,
}

impl Providers {
    /// The providers of a configuration; their keys are fetched from now on. That a provider does not answer keeps nobody
    /// else out: it is said on standard error, and tried again.
    ///
    /// # Errors
    /// The process gets no threads.
    pub fn start(server: &Server) -> std::io::Result<Self> {
        let known = server.oidc.iter().map(|(name, config)| {
            let keyring = Keyring::start(name, config)?;
            Ok(Known { name: name.clone(), config: config.clone(), keyring })
        });
        Ok(Self { known: known.collect::<std::io::Result<_>>()?, origin: server.origin() })
    }

    /// No providers.
    #[must_use]
    pub fn none() -> Self {
        Self { known: Vec::new(), origin: None }
    }

    /// Asks a provider for what it publishes, once.
    ///
    /// # Errors
    /// Its tokens would not be taken; in words.
    pub fn probe(config: &Provider) -> Result<Probed, String> {
        let published = fetch::published(config)?;
        let keys = match published.keys.usable(&algorithms(config)) {
            0 => return Err(format!("it has no key for {}", names(config))),
            count => count,
        };
        let sign_in = config.sign_in.as_ref().map(|sign_in| {
            sign_in.secret()?;
            published.endpoints.map(drop)
        });
        Ok(Probed { keys, sign_in })
    }

    /// How each does.
    pub(crate) fn states(&self) -> Vec<ProviderState> {
        let state = |known: &Known| {
            let (keys, fails) = known.keyring.state(&algorithms(&known.config));
            ProviderState { name: known.name.clone(), keys, fails }
        };
        self.known.iter().map(state).collect()
    }

    /// Who a token's text stands for.
    ///
    /// # Errors
    /// It stands for nobody.
    pub(crate) async fn identify(&self, text: &TokenText) -> Result<Identity, Refused> {
        let text = text.reveal();
        if self.known.is_empty() || text.split('.').count() != 3 {
            return Err(Refused::Foreign);
        }
        check_length(text)?;
        let Ok(Claimed { iss }) = insecure_decode_claims(text) else { return Err(Refused::Foreign) };
        let known = self.known.iter().find(|known| known.config.issuer == iss).ok_or(Refused::Foreign)?;
        known.identify(text).await
    }
}

impl Known {
    async fn identify(&self, text: &str) -> Result<Identity, Refused> {
        let (kind, claims) = self.verify(text).await?;
        claims::judge(&self.name, &self.config, kind, &claims, Timestamp::now()).map_err(Refused::Invalid)
    }

    /// The claims of a token that the provider has signed, and what its header says that it is. What they are worth is another matter.
    async fn verify(&self, text: &str) -> Result<(Option<String>, Claims), Refused> {
        check_length(text)?;
        let invalid = |what: &str| Refused::Invalid(what.to_owned());
        // `none` is no algorithm here: such a header is not even read.
        let header = decode_header(text).map_err(|_| {
            invalid("the token's header makes no sense, or names an algorithm that is not taken")
        })?;
        let algorithm = header.alg;
        if !algorithms(&self.config).contains(&algorithm) {
            return Err(Refused::Invalid(format!("tokens signed by {algorithm:?} are not taken")));
        }
        if header.crit.is_some() {
            return Err(invalid("the token's header demands what is not known here (crit)"));
        }
        if header.kid.as_ref().is_some_and(|kid| kid.len() > KEY_ID_BYTES_MAX) {
            return Err(invalid("the name of the token's key is too long"));
        }
        let id = header.kid.as_deref();
        let mut claims = self.verified(text, self.keyring.look_up(id, algorithm).await, algorithm)?;
        // A key without a name is not missed when it is changed: it is noticed by what it has not signed.
        if claims.is_none()
            && id.is_none()
            && let Some(found) = self.keyring.look_again(id, algorithm).await
        {
            claims = self.verified(text, found, algorithm)?;
        }
        let claims = claims.ok_or_else(|| {
            invalid("the token's signature is not its issuer's, or its claims make no sense")
        })?;
        Ok((kind(&header), claims))
    }

    /// The claims of a token that is signed with one of the keys that were found.
    fn verified(&self, text: &str, found: Lookup, algorithm: Algorithm) -> Result<Option<Claims>, Refused> {
        match found {
            Lookup::Found(keys) => Ok(keys.iter().find_map(|key| verified(text, key, algorithm))),
            Lookup::Unknown => Err(Refused::Invalid(
                "the token is signed by a key that its issuer does not have, or whose name it leaves out"
                    .to_owned(),
            )),
            Lookup::Unready(why) => Err(Refused::Unready(format!("[server.oidc.{}]: {why}", self.name))),
        }
    }
}

fn check_length(text: &str) -> Result<(), Refused> {
    match text.len() > TOKEN_BYTES_MAX {
        true => Err(Refused::Invalid(format!("a token has at most {TOKEN_BYTES_MAX} bytes"))),
        false => Ok(()),
    }
}

/// The claims of a token that is signed with a key.
fn verified(text: &str, key: &keys::Key, algorithm: Algorithm) -> Option<Claims> {
    let mut validation = Validation::new(algorithm);
    // Every claim is judged in one place, with reasons that say more.
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_aud) = (false, false);
    decode(text, key.decoding(), &validation).ok().map(|token| token.claims)
}

/// What a header says that the token is, in small letters (RFC 7515, section 4.1.9: `application/` may be left out).
fn kind(header: &Header) -> Option<String> {
    let kind = header.typ.as_deref()?.to_ascii_lowercase();
    Some(kind.strip_prefix("application/").unwrap_or(&kind).to_owned())
}

fn algorithms(config: &Provider) -> Vec<Algorithm> {
    config.algorithms.iter().map(|algorithm| by_name(*algorithm)).collect()
}

fn by_name(algorithm: SignatureAlgorithm) -> Algorithm {
    match algorithm {
        SignatureAlgorithm::RS256 => Algorithm::RS256,
        SignatureAlgorithm::RS384 => Algorithm::RS384,
        SignatureAlgorithm::RS512 => Algorithm::RS512,
        SignatureAlgorithm::PS256 => Algorithm::PS256,
        SignatureAlgorithm::PS384 => Algorithm::PS384,
        SignatureAlgorithm::PS512 => Algorithm::PS512,
        SignatureAlgorithm::ES256 => Algorithm::ES256,
        SignatureAlgorithm::ES384 => Algorithm::ES384,
        SignatureAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}

fn names(config: &Provider) -> String {
    let names: Vec<_> = config.algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect();
    names.join(", ")
}

/// Providers are shared by all requests.
pub(crate) type Shared = Arc<Providers>;
