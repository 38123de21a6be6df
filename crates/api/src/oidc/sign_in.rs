//! Signing in at a provider: an authorization code with a proof key (RFC 6749, RFC 7636, OpenID Connect Core 1.0, and what
//! RFC 9700 says of both).
//!
//! A browser is sent to the provider with values of its [`Pending`] sign-in and comes back with a code. The code becomes tokens at the
//! provider, with the client's secret if it has one; the ID token must be for this client and this sign-in. What the pages
//! then get is the token that the site takes of this provider anyhow, judged as it is whenever it comes: signing in makes no
//! rights of its own, and ends when that token does.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use leeward_site::config::{Provider, SignIn, TokenKind, return_address};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::endpoints::Endpoints;
use super::fetch::{self, shortened};
use super::pending::Pending;
use super::{Identity, Known, Providers, Refused, claims};
use crate::token::TokenText;

/// What a provider's answer may hold at most, in bytes.
const CODE_BYTES_MAX: usize = 4096;

/// A sign-in that was begun.
pub(crate) struct Begun {
    /// Where the browser is sent.
    pub location: String,
    /// What it keeps in the meantime.
    pub cookie: String,
}

/// What a browser has come back with.
#[derive(Debug)]
pub(crate) struct Returned {
    /// For which sign-in.
    pub state: String,
    /// Who sends it, where that is said (RFC 9207).
    pub issuer: Option<String>,
    /// A code, or why there is none.
    pub answer: Result<String, ProviderError>,
}

/// Why a provider has let nobody in, as it says.
#[derive(Debug)]
pub(crate) struct ProviderError {
    /// Its name of that.
    pub error: String,
    /// Its own words, for the log alone.
    pub description: Option<String>,
}

/// Somebody who has signed in.
pub(crate) struct SignedIn {
    /// Who.
    pub identity: Identity,
    /// The token for the pages.
    pub token: TokenText,
    /// Where the person wants to go.
    pub back: String,
}

/// Why nobody was signed in, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotSignedIn {
    /// There is no such provider for it.
    Unknown,
    /// What came back is for no sign-in of this browser, and the one that it may have begun goes on.
    Foreign(String),
    /// It was refused, and is over.
    Refused(String),
    /// It cannot be told for now.
    Unready(String),
}

/// What a provider answers when a code becomes tokens.
#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    #[serde(default)]
    access_token: String,
}

/// What it answers otherwise.
#[derive(Deserialize, Default)]
struct Failure {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Providers {
    /// Where people can sign in.
    pub(crate) fn with_sign_in(&self) -> impl Iterator<Item = &str> {
        self.known.iter().filter(|known| known.config.sign_in.is_some()).map(|known| known.name.as_str())
    }

    /// What browsers call the site's origin.
    pub(crate) fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// Begins to sign somebody in. Nothing is sent, and nothing is kept.
    ///
    /// # Errors
    /// It is not possible here, or not now.
    pub(crate) fn begin(&self, name: &str, back: &str) -> Result<Begun, NotSignedIn> {
        let way = self.way(name)?;
        let endpoints = way.known.keyring.endpoints().map_err(|what| way.unready(&what))?;
        let pending = Pending::begin(name, back, Timestamp::now()).map_err(NotSignedIn::Unready)?;
        let mut location = endpoints.authorization;
        // A query that the endpoint has of its own stays (RFC 6749, section 3.1).
        location
            .query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &way.sign_in.client_id)
            .append_pair("redirect_uri", &way.return_address)
            .append_pair("scope", &way.sign_in.scopes.join(" "))
            .append_pair("state", &pending.state())
            .append_pair("nonce", &pending.nonce())
            .append_pair("code_challenge", &pending.challenge())
            .append_pair("code_challenge_method", "S256");
        Ok(Begun { location: location.into(), cookie: pending.text().to_owned() })
    }

    /// Whether what came back is for a sign-in that this browser has begun, and not too late.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn is_expected(
        &self,
        name: &str,
        cookie: Option<&str>,
        returned: &Returned,
    ) -> Result<(), NotSignedIn> {
        self.way(name)?;
        expected(name, cookie, returned).map(drop)
    }

    /// Signs in who has come back, with what the browser kept. The provider is asked in this turn, which ends with its answer
    /// even when nobody waits for it any more.
    ///
    /// # Errors
    /// Nobody was signed in.
    pub(crate) async fn finish(
        &self,
        name: &str,
        cookie: Option<&str>,
        returned: Returned,
        turn: OwnedSemaphorePermit,
    ) -> Result<SignedIn, NotSignedIn> {
        let way = self.way(name)?;
        let pending = expected(name, cookie, &returned)?;
        let endpoints = way.known.keyring.endpoints().map_err(|what| way.unready(&what))?;
        check_issuer(&way.known.config, &endpoints, returned.issuer.as_deref())?;
        let code = match returned.answer {
            Ok(code) if (1..=CODE_BYTES_MAX).contains(&code.len()) => code,
            Ok(_) => return Err(refused("the provider has sent a code of no sensible length")),
            Err(error) => return Err(way.refusal(&error)),
        };
        let tokens = way.exchange(endpoints, code, pending.verifier(), turn).await?;
        way.check_id_token(&tokens.id_token, &pending).await?;
        let token = TokenText::new(match way.known.config.tokens {
            TokenKind::Id => tokens.id_token,
            TokenKind::Access => tokens.access_token,
        });
        let identity = self.identify(&token).await.map_err(|refusal| way.judged(refusal))?;
        // The subjects need not be the same: some providers call a person otherwise towards each who asks.
        if identity.provider != name {
            return Err(refused("the provider has sent a token of another one"));
        }
        Ok(SignedIn { identity, token, back: pending.back().to_owned() })
    }

    fn way<'a>(&'a self, name: &str) -> Result<Way<'a>, NotSignedIn> {
        let known = self.known.iter().find(|known| known.name == name).ok_or(NotSignedIn::Unknown)?;
        let sign_in = known.config.sign_in.as_ref().ok_or(NotSignedIn::Unknown)?;
        let origin = self.origin.as_deref().ok_or(NotSignedIn::Unknown)?;
        Ok(Way { known, sign_in, return_address: return_address(origin, name) })
    }
}

/// The way by one provider.
struct Way<'a> {
    known: &'a Known,
    sign_in: &'a SignIn,
    return_address: String,
}

impl Way<'_> {
    fn unready(&self, what: &str) -> NotSignedIn {
        NotSignedIn::Unready(format!("nobody can sign in at {} for now: {what}", self.known.name))
    }

    /// What a provider's refusal is in our words. Its own go to the log: whoever writes them should not speak from these pages.
    fn refusal(&self, error: &ProviderError) -> NotSignedIn {
        let name = &self.known.name;
        self.complain(&error.error, error.description.as_deref().unwrap_or_default());
        match error.error.as_str() {
            "access_denied" => refused(&format!("{name} has not let you in, or you have declined")),
            "temporarily_unavailable" | "server_error" => self.unready("it has a trouble of its own"),
            "login_required" | "interaction_required" | "consent_required" | "account_selection_required" => {
                refused(&format!("{name} wants something of you that was not done"))
            }
            _ => refused(&format!("{name} does not take what this site asks; the daemon's log says more")),
        }
    }

    fn complain(&self, error: &str, description: &str) {
        let (error, description) = (shortened(error), shortened(description));
        eprintln!(
            "leeward: [server.oidc.{}]: nobody was signed in: {error:?} {description:?}",
            self.known.name
        );
    }

    /// Makes tokens of a code.
    async fn exchange(
        &self,
        endpoints: Endpoints,
        code: String,
        verifier: String,
        turn: OwnedSemaphorePermit,
    ) -> Result<Tokens, NotSignedIn> {
        let (config, sign_in) = (self.known.config.clone(), self.sign_in.clone());
        let return_address = self.return_address.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let (authorization, form) = form(&sign_in, &endpoints, &return_address, &code, &verifier)?;
            let answered = fetch::post(&config, &endpoints.token, authorization.as_deref(), &form);
            drop(turn);
            answered
        });
        let answered = match asked.await {
            Ok(answered) => answered,
            Err(_) => Err("the daemon failed at this".to_owned()),
        };
        let (status, body) = answered.map_err(|what| {
            self.complain("its token endpoint", &what);
            self.unready("codes cannot be made tokens; the daemon's log says more")
        })?;
        if status == 200 {
            return serde_json::from_slice(&body).map_err(|_| {
                self.complain("its token endpoint", "the answer has no ID token");
                refused("the provider has sent no ID token: is `openid` among the scopes that it gives?")
            });
        }
        let failure: Failure = serde_json::from_slice(&body).unwrap_or_default();
        self.complain(&format!("its token endpoint: {status} {}", failure.error), &failure.error_description);
        Err(match failure.error.as_str() {
            "invalid_grant" => refused("the provider does not take the code (any more): begin anew"),
            "" if status >= 500 => self.unready("it has a trouble of its own"),
            _ => self.unready(
                "it does not take this site as the client that it says to be; the daemon's log says more",
            ),
        })
    }

    /// Whether an ID token is for this client and this sign-in.
    async fn check_id_token(&self, text: &str, pending: &Pending) -> Result<(), NotSignedIn> {
        let (kind, claims) = self.known.verify(text).await.map_err(|refusal| self.judged(refusal))?;
        // OpenID Connect Core 1.0, section 3.1.3.7: whatever the site takes otherwise, here it is the client.
        let as_client = Provider {
            tokens: TokenKind::Id,
            audience: vec![self.sign_in.client_id.clone()],
            clients: Vec::new(),
            ..self.known.config.clone()
        };
        claims::judge(&self.known.name, &as_client, kind, &claims, Timestamp::now())
            .map_err(|why| refused(&why))?;
        match claims.nonce().is_some_and(|nonce| pending.has_nonce(nonce)) {
            true => Ok(()),
            false => Err(refused("the ID token was made for another sign-in (nonce)")),
        }
    }

    fn judged(&self, refusal: Refused) -> NotSignedIn {
        match refusal {
            Refused::Unready(why) => NotSignedIn::Unready(why),
            Refused::Invalid(why) => refused(&why),
            Refused::Foreign => refused(&format!(
                "the access tokens of {} are none that can be read here: have it issue JWTs for this site, or set tokens = \"id\" in [server.oidc.{}]",
                self.known.name, self.known.name
            )),
        }
    }
}

fn refused(why: &str) -> NotSignedIn {
    NotSignedIn::Refused(why.to_owned())
}

/// The sign-in that has come back, if it is this browser's.
fn expected(provider: &str, cookie: Option<&str>, returned: &Returned) -> Result<Pending, NotSignedIn> {
    let foreign = |why: &str| NotSignedIn::Foreign(why.to_owned());
    let cookie = cookie.ok_or_else(|| {
        foreign("this browser has not begun to sign in, has done it already, or keeps no cookies")
    })?;
    let pending = Pending::read(provider, cookie)
        .filter(|pending| pending.is_named_by(&returned.state))
        .ok_or_else(|| foreign("this is not the sign-in that this browser has begun last"))?;
    match pending.is_over(Timestamp::now()) {
        true => Err(refused("it took longer than ten minutes")),
        false => Ok(pending),
    }
}

/// Whether what came back is of whom it was asked, and not of another provider that wants a code which is not its own.
fn check_issuer(config: &Provider, endpoints: &Endpoints, issuer: Option<&str>) -> Result<(), NotSignedIn> {
    match issuer {
        Some(issuer) if issuer == config.issuer => Ok(()),
        Some(_) => Err(refused("this is an answer of another provider (iss)")),
        None if endpoints.names_issuer => {
            Err(refused("the provider does not say that it is its answer (iss)"))
        }
        None => Ok(()),
    }
}

/// The form by which a code becomes tokens, and the header that goes with it.
fn form(
    sign_in: &SignIn,
    endpoints: &Endpoints,
    return_address: &str,
    code: &str,
    verifier: &str,
) -> Result<(Option<String>, String), String> {
    let secret = sign_in.secret()?;
    // RFC 6749, section 2.3.1: both are encoded as in a form before they become a header.
    let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let header = secret.as_ref().filter(|_| !endpoints.takes_secret_in_form).map(|secret| {
        let pair = format!("{}:{}", encoded(&sign_in.client_id), encoded(secret));
        format!("Basic {}", STANDARD.encode(pair))
    });
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", "authorization_code")
        .append_pair("code", code)
        .append_pair("redirect_uri", return_address)
        .append_pair("code_verifier", verifier);
    if header.is_none() {
        form.append_pair("client_id", &sign_in.client_id);
        secret.iter().for_each(|secret| {
            form.append_pair("client_secret", secret);
        });
    }
    Ok((header, form.finish()))
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    #[test]
    fn a_client_shows_its_secret_as_the_provider_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), "a b:%").unwrap();
        let client = |has_secret: bool| SignIn {
            client_id: "a&b c".to_owned(),
            client_secret_file: has_secret.then(|| folder.path().join("secret")),
            client_secret_variable: None,
            scopes: Vec::new(),
        };
        let place = Url::parse("https://a.example/").unwrap();
        let of = |has_secret, takes_secret_in_form| {
            let endpoints = Endpoints {
                authorization: place.clone(),
                token: place.clone(),
                takes_secret_in_form,
                names_issuer: false,
            };
            form(&client(has_secret), &endpoints, "https://b.example/sign-in/x", "c&d", "v").unwrap()
        };
        let common = "grant_type=authorization_code&code=c%26d&redirect_uri=https%3A%2F%2Fb.example%2Fsign-in%2Fx&code_verifier=v";
        let public = (None, format!("{common}&client_id=a%26b+c"));
        assert_eq!(of(false, false), public);
        assert_eq!(of(false, true), public);
        let header = format!("Basic {}", STANDARD.encode("a%26b+c:a+b%3A%25"));
        assert_eq!(of(true, false), (Some(header), common.to_owned()));
        let in_form = format!("{common}&client_id=a%26b+c&client_secret=a+b%3A%25");
        assert_eq!(of(true, true), (None, in_form));
    }
}
