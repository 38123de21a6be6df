//! Azure Blob Storage by its REST API: block blobs, entity tags that compare, requests signed with the account's key or
//! authorised by a shared access signature.
//!
//! Names: a blob is `/CONTAINER/NAME` below the account's endpoint. Both conditions (`If-None-Match: *` and `If-Match`)
//! are kept atomically by the service, for Put Blob and for Put Block List alike.

mod account;
mod blocks;
mod listing;
mod settings;
mod sign;

use jiff::Timestamp;
use leeward_store::bucket::{Condition, Tag};

use self::account::{Account, Credentials};
use self::blocks::Blocks;
use crate::answer::Refusal;
use crate::digest;
use crate::environment::Environment;
use crate::error::Result;
use crate::http::{Method, Request, Response};
use crate::location::Location;
use crate::service::{InParts, Page, Send, Service};
use crate::settings::Settings;
use crate::time::http_date;
use crate::xml;

/// The version of the interface that requests are made for: a newer service answers them in the same way.
const VERSION: &str = "2021-12-02";

/// One container of Azure Blob Storage.
pub struct Azure {
    account: Account,
    container: String,
    blocks: Blocks,
}

impl Azure {
    /// The container at a location `azure://CONTAINER?account=NAME`.
    ///
    /// # Errors
    /// The location names no account, or there are no credentials.
    pub fn new(location: &Location, environment: &Environment) -> Result<Self> {
        let account = Account::of(location, environment)?;
        let root = format!("{}/{}", account.root, location.bucket);
        let blocks = Blocks { origin: account.origin.clone(), root: root.clone() };
        Ok(Self { account, container: root, blocks })
    }

    /// A request about the container itself.
    fn container_request(&self, method: Method) -> Request {
        Request::new(method, self.account.origin.as_str(), self.container.as_str())
            .query("restype", "container")
    }
}

/// Adds a condition to a request.
fn set_condition(request: &mut Request, condition: Condition<'_>) {
    match condition {
        Condition::Always => {}
        Condition::Absent => request.set_header("if-none-match", "*"),
        Condition::Matches(tag) => request.set_header("if-match", &tag.0),
    }
}

impl Service for Azure {
    fn object(&self, method: Method, name: &str) -> Request {
        let deletes = method == Method::DELETE;
        let request =
            Request::new(method, self.account.origin.as_str(), format!("{}/{name}", self.container));
        // A blob of which somebody took a snapshot could not be deleted otherwise.
        if deletes { request.header("x-ms-delete-snapshots", "include") } else { request }
    }

    fn make(&self) -> Request {
        self.container_request(Method::PUT)
    }

    fn prepare_write(&self, request: &mut Request, condition: Condition<'_>) {
        request.set_header("x-ms-blob-type", "BlockBlob");
        request.set_header("content-type", "application/octet-stream");
        request.set_header("content-md5", &digest::md5_base64(&request.body));
        set_condition(request, condition);
    }

    fn in_parts(&self) -> Option<&dyn InParts> {
        Some(&self.blocks)
    }

    fn tag(&self, response: &Response) -> Option<Tag> {
        response.header("etag").map(|tag| Tag(tag.to_owned()))
    }

    fn list(&self, prefix: &str, from: Option<&str>) -> Request {
        let request = self.container_request(Method::GET).query("comp", "list").query("prefix", prefix);
        match from {
            Some(from) => request.query("marker", from),
            None => request,
        }
    }

    fn page(&self, body: &[u8]) -> Result<Page, String> {
        listing::page(body)
    }

    fn sign(&self, request: &mut Request) -> Result<(), String> {
        request.set_header("x-ms-date", &http_date(Timestamp::now()));
        request.set_header("x-ms-version", VERSION);
        match &self.account.credentials {
            Credentials::Key(key) => sign::sign(request, &self.account.name, key),
            Credentials::Signature(pairs) => pairs
                .iter()
                .for_each(|(name, value)| request.query.push((name.clone(), value.reveal().to_owned()))),
        }
        Ok(())
    }

    fn refusal(&self, response: &Response) -> Refusal {
        let refusal = xml::refusal(response);
        if !refusal.code.is_empty() {
            return refusal;
        }
        // An answer without a body has its word in a header.
        let code = response.header("x-ms-error-code").unwrap_or_default().to_owned();
        Refusal { code, ..refusal }
    }

    fn hint(&self, refusal: &Refusal) -> Option<String> {
        let account = &self.account.name;
        let container = self.container.rsplit('/').next().unwrap_or_default();
        Some(match refusal.code.as_str() {
            "ContainerNotFound" => format!(
                "make the container first (az storage container create --name {container} --account-name {account}), or \
                 see how its name is spelt"
            ),
            "ContainerBeingDeleted" => "the container is being deleted; wait, or choose another".to_owned(),
            "AuthenticationFailed" | "AuthorizationFailure" | "KeyBasedAuthenticationNotPermitted" => format!(
                "see that the key or the shared access signature is one of the account {account}, that it has not \
                 expired ({}), that this machine's clock is right, and that the account lets requests come from this \
                 network and be authorised by keys",
                self.account.credentials.source()
            ),
            "AuthorizationPermissionMismatch" | "AuthorizationServiceMismatch" | "AuthorizationResourceTypeMismatch" => {
                "the shared access signature has to allow to read, write, create, delete and list (racwdl) in this \
                 container"
                    .to_owned()
            }
            code if code.starts_with("Lease") => "somebody holds a lease on it: break it with az storage blob lease \
                                                  break"
                .to_owned(),
            code if code.contains("Immutable") => {
                "a policy of immutability or a legal hold of the container forbids it: a repository needs a container \
                 without one"
                    .to_owned()
            }
            _ => return None,
        })
    }

    fn settings(&self, _prefix: &str, send: &Send<'_>) -> Settings {
        settings::read(send(self.container_request(Method::GET)), self)
    }
}
