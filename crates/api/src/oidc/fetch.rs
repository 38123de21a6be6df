//! Asks a provider: for what it publishes, its keys and where people sign in (OpenID Connect Discovery 1.0), and for the tokens of
//! who has signed in there.
//!
//! Redirections are not followed, answers are bounded in size and time, and nothing is fetched without TLS but from this machine.

use std::sync::Arc;
use std::time::Duration;

use leeward_remote::http::{Client, Method, Request};
use leeward_site::config::{Provider, endpoint};
use leeward_store::bucket::{RequestClass, Requests};
use serde::Deserialize;
use url::{Position, Url};

use super::endpoints::{Endpoints, Metadata};
use super::keys::KeySet;

/// The largest document of a provider, in bytes. Those of large ones have a tenth of it.
const DOCUMENT_BYTES_MAX: u64 = 512 << 10;
/// How long an answer may take as a whole.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How long no byte may move.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// What is read of a discovery document.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
    #[serde(flatten)]
    metadata: Metadata,
}

/// What a provider publishes.
#[derive(Debug, Clone)]
pub(super) struct Published {
    /// Its keys.
    pub keys: KeySet,
    /// Where people sign in, or why they cannot, in words. Tokens are taken all the same.
    pub endpoints: Result<Endpoints, String>,
}

/// What a provider publishes.
///
/// # Errors
/// What is wrong, in words. It takes half a minute at most until that is known.
pub(super) fn published(config: &Provider) -> Result<Published, String> {
    let client = client(config)?;
    let place = config.discovery()?;
    let document = get(&client, &place)?;
    let discovery: Discovery = serde_json::from_slice(&document)
        .map_err(|error| format!("{place} is no discovery document: {error}"))?;
    if discovery.issuer != config.issuer {
        // Who speaks for another issuer could have its tokens taken for that one's.
        return Err(format!(
            "{place} speaks for the issuer {:?}, not for {:?}: write it exactly so in the configuration, if it is the right one",
            shortened(&discovery.issuer),
            config.issuer
        ));
    }
    let place = endpoint(&discovery.jwks_uri)
        .map_err(|what| format!("its keys are at {:?}: {what}", shortened(&discovery.jwks_uri)))?;
    let keys =
        KeySet::parse(&get(&client, &place)?).map_err(|what| format!("{place} is no set of keys: {what}"))?;
    Ok(Published { keys, endpoints: Endpoints::of(&discovery.metadata) })
}

/// Sends a form to an endpoint of a provider; returns the answer's status and body.
///
/// # Errors
/// There is no answer, or none of a bearable size; in words.
pub(super) fn post(
    config: &Provider,
    place: &Url,
    authorization: Option<&str>,
    form: &str,
) -> Result<(u16, Vec<u8>), String> {
    let mut request = request(Method::POST, place)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(&[form.as_bytes()]);
    if let Some(authorization) = authorization {
        request.set_header("authorization", authorization);
    }
    let answer = client(config)?.send(request, RequestClass::Other).map_err(|fault| fault.to_string())?;
    Ok((answer.status, answer.body))
}

fn client(config: &Provider) -> Result<Client, String> {
    let requests = Arc::new(Requests::default());
    let client = match &config.ca {
        None => Client::new(requests),
        Some(file) => {
            // Read each time: an authority that was renewed needs no restart.
            let pem = std::fs::read(file)
                .map_err(|error| format!("{}: cannot be read: {error}", file.display()))?;
            Client::trusting(requests, &pem)
        }
    };
    let client = client.map_err(|fault| fault.to_string())?;
    Ok(client.with_idle_timeout(IDLE_TIME).with_whole_timeout(ANSWER_TIME))
}

fn get(client: &Client, place: &Url) -> Result<Vec<u8>, String> {
    let answer =
        client.send(request(Method::GET, place), RequestClass::Other).map_err(|fault| fault.to_string())?;
    match answer.status {
        200 => Ok(answer.body),
        status @ 300..=399 => Err(format!("{place} answered {status}: redirections are not followed")),
        status => Err(format!("{place} answered {status}")),
    }
}

fn request(method: Method, place: &Url) -> Request {
    let mut request = Request::new(method, &place[..Position::BeforePath], place.path())
        .header("accept", "application/json");
    request.target = Some(place[Position::BeforePath..].to_owned());
    request.answer_bytes_max = DOCUMENT_BYTES_MAX;
    request
}

/// What somebody else wrote, as it may stand in a message.
pub(super) fn shortened(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(200).collect()
}
