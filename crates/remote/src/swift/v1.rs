//! The authentication that Swift began with, which Ceph's gateway and small installations still have: user and key in
//! headers, token and storage URL in the headers of the answer.

use jiff::{SignedDuration, Timestamp};
use leeward_store::bucket::RequestClass;

use super::login::{Session, Way};
use super::refusal;
use crate::answer::At;
use crate::http::{Method, Request};
use crate::keystone::split;
use crate::secret::Secret;

/// An account.
#[derive(Debug)]
pub(super) struct V1 {
    pub(super) url: String,
    pub(super) user: String,
    pub(super) key: Secret,
}

impl V1 {
    /// Fetches a token.
    ///
    /// # Errors
    /// Nobody answers, or the user is refused.
    pub(super) fn log_in(&self, way: &Way<'_>, at: &At<'_>) -> leeward_store::Result<Session> {
        let (origin, path) = way.split(&self.url).map_err(|what| at.denied(what))?;
        let request = Request::new(Method::GET, origin, path)
            .header("x-auth-user", &self.user)
            .header("x-auth-key", self.key.reveal());
        let response = way.client.send(request, RequestClass::Other).map_err(|fault| at.fault(&fault))?;
        if !response.is_success() {
            let hint = "see ST_AUTH, ST_USER and ST_KEY".to_owned();
            return Err(refusal::read(&response).into_error(at, None, Some(hint)));
        }
        let header = |name| response.header(name);
        let token = header("x-auth-token").or_else(|| header("x-storage-token")).map(Secret::new);
        let token = token.ok_or_else(|| at.nonsense("the login gave no token"))?;
        let url = header("x-storage-url").ok_or_else(|| at.nonsense("the login gave no storage URL"))?;
        let (origin, path) =
            split(url).and_then(|parts| way.checked(parts)).map_err(|what| at.denied(what))?;
        let seconds = header("x-auth-token-expires").and_then(|text| text.parse().ok());
        let expires =
            seconds.and_then(|seconds| Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).ok());
        Ok(Session { origin, path, token, expires })
    }
}
