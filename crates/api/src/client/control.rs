//! What a client asks of a server beside its objects: its peers, passes, and transfers.

use hyper::Method;
use leeward_repository::PackId;
use leeward_store::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::retry::Failed;
use super::transport::Request;
use super::{ClientOptions, HttpStore, Location, Trust};
use crate::limits::RECORD_BYTES_MAX;
use crate::server::{Direction, Purpose, TransferStatus};
use crate::token::TokenText;

/// The most packs of one transfer.
pub const PACKS_OF_TRANSFER_MAX: usize = crate::server::PACKS_MAX;

/// A server, to be asked for more than objects.
pub struct ServerControl {
    store: HttpStore,
    location: Location,
}

/// A pass that was made. It holds a secret, so it does not print.
#[derive(Deserialize)]
pub struct PassText {
    /// Names it, where it is taken back.
    pub id: String,
    pass: String,
}

impl PassText {
    /// What is shown to the server that made it.
    #[must_use]
    pub fn text(&self) -> TokenText {
        TokenText::new(self.pass.as_str())
    }
}

/// A transfer to be begun.
pub struct TransferOrder<'a> {
    /// 32 hexadecimal digits.
    pub id: &'a str,
    /// The peer, as the server calls it.
    pub peer: &'a str,
    /// Which way packs go.
    pub direction: Direction,
    /// What opens the peer.
    pub pass: &'a PassText,
    /// What is to be moved.
    pub packs: &'a [PackId],
    /// No faster than this.
    pub bytes_per_second: Option<u64>,
}

#[derive(Deserialize)]
struct Peers {
    peers: Vec<Peer>,
}

#[derive(Deserialize)]
struct Peer {
    name: String,
    url: String,
}

impl ServerControl {
    /// A server at a location. Nothing is sent yet.
    ///
    /// # Errors
    /// As [`HttpStore::new`].
    pub fn new(location: &Location, token: TokenText, trust: &Trust, options: ClientOptions) -> Result<Self> {
        let store = HttpStore::new(location, token, trust, options)?;
        Ok(Self { store, location: location.clone() })
    }

    /// Where it is.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    fn value<T: DeserializeOwned>(&self, key: &str, body: &[u8]) -> Result<T> {
        serde_json::from_slice(body).map_err(|_| {
            self.store.shared.contradiction(key, "the server's answer cannot be read".to_owned())
        })
    }

    fn ask<T: DeserializeOwned>(&self, action: &'static str, key: &str, request: &Request) -> Result<T> {
        let answer = self.store.shared.repeat(action, key, request)?;
        self.value(key, &answer.body)
    }

    fn post(path: &str, body: &Value) -> Request {
        Request::new(Method::POST, path)
            .taking(RECORD_BYTES_MAX)
            .with_body(&[body.to_string().into_bytes().into()])
    }

    /// What the server calls the one at a location; none where its operator has not named it, or where it knows of no peers.
    ///
    /// # Errors
    /// The server cannot be reached, or lets nobody in.
    pub fn peer_at(&self, location: &Location) -> Result<Option<String>> {
        let request = Request::new(Method::GET, "/v1/peers").taking(RECORD_BYTES_MAX);
        let found: Result<Peers> = self.ask("list", "peers", &request);
        match found {
            Ok(found) => {
                let wanted = location.to_string();
                Ok(found.peers.into_iter().find(|peer| peer.url == wanted).map(|peer| peer.name))
            }
            // A server that is older than peers does not know the path.
            Err(
                Error::Remote { is_transient: false, .. } | Error::Denied { .. } | Error::NotFound { .. },
            ) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a pass of the token.
    ///
    /// # Errors
    /// The token may not lend that, or the server cannot be reached.
    pub fn make_pass(&self, purpose: Purpose, seconds: u64) -> Result<PassText> {
        self.ask(
            "lend",
            "a pass",
            &Self::post("/v1/passes", &json!({ "purpose": purpose, "seconds": seconds })),
        )
    }

    /// Takes a pass back. It ends by itself as well, so a failure is not told.
    pub fn end_pass(&self, pass: &PassText) {
        let request =
            Request::new(Method::DELETE, &format!("/v1/passes/{}", pass.id)).taking(RECORD_BYTES_MAX);
        let _ = self.store.shared.once("end", "a pass", &request);
    }

    /// Begins a transfer; asked for twice with the same id, it is one.
    ///
    /// # Errors
    /// The server does not do it.
    pub fn begin_transfer(&self, order: &TransferOrder<'_>) -> Result<TransferStatus> {
        let packs: Vec<String> = order.packs.iter().map(ToString::to_string).collect();
        let body = json!({
            "id": order.id, "peer": order.peer, "direction": order.direction, "pass": order.pass.pass,
            "packs": packs, "bytes_per_second": order.bytes_per_second,
        });
        self.ask("begin", "a transfer", &Self::post("/v1/transfers", &body))
    }

    /// How far a transfer is.
    ///
    /// # Errors
    /// The server does not know it any more, or cannot be reached.
    pub fn transfer(&self, id: &str) -> Result<TransferStatus> {
        let request = Request::new(Method::GET, &format!("/v1/transfers/{id}")).taking(RECORD_BYTES_MAX);
        self.ask("watch", "a transfer", &request)
    }

    /// Ends a transfer, if the server can be reached. It ends by itself as well when nobody asks for it any more.
    pub fn cancel_transfer(&self, id: &str) {
        let request = Request::new(Method::DELETE, &format!("/v1/transfers/{id}")).taking(RECORD_BYTES_MAX);
        let asked: Result<_, Failed> = self.store.shared.once("cancel", "a transfer", &request);
        drop(asked);
    }
}
