//! What differs between services when users' objects are concerned.
//!
//! To add a service, implement [`Dialect`] beside its [`Service`] and name it in `connect.rs`.

use super::{ListedObject, Metadata, ObjectVersion, StatedDigests};
use crate::http::{Bytes, Request, Response};
use crate::service::Service;

/// One page of a listing, as it was read.
pub(crate) type Entries = (Vec<ListedObject>, bool);

/// One page of a listing of uploads: what they are called, and where the next page begins.
pub(crate) type Unfinished = (Vec<String>, Option<String>);

/// A service whose users' objects can be read.
pub(crate) trait Dialect: Service {
    /// What the names of headers with user metadata begin with, in lower case.
    fn metadata_prefix(&self) -> &'static str;

    /// Adds to a look at an object what makes the service tell all that it knows.
    fn prepare_look(&self, _request: &mut Request) {}

    /// Binds a read to a version.
    fn pin(&self, request: &mut Request, version: &ObjectVersion) {
        request.set_header("if-match", &version.0);
    }

    /// What an answer states about the content.
    fn digests(&self, response: &Response) -> StatedDigests;

    /// The request for a page of the objects after a name, which may be the first of the page itself; not signed.
    fn list_after(&self, prefix: &str, after: Option<&str>) -> Request;

    /// Reads a page: the objects, and whether there are more.
    ///
    /// # Errors
    /// It is not a listing: what is wrong with it.
    fn entries(&self, body: &[u8]) -> Result<Entries, String>;

    /// How objects are written that are too large for one request.
    fn uploads(&self) -> Option<&dyn Uploads> {
        None
    }
}

/// Uploads in parts.
pub(crate) trait Uploads {
    /// The request that begins one.
    fn start(&self, name: &str, metadata: &Metadata) -> Request;

    /// What the service calls it.
    ///
    /// # Errors
    /// The answer does not say.
    fn started(&self, response: &Response) -> Result<String, String>;

    /// The request that sends a part; numbers begin with 1.
    fn part(&self, name: &str, upload: &str, number: u32, content: Bytes) -> Request;

    /// The request that makes the object of its parts.
    fn complete(&self, name: &str, upload: &str, parts: &[(u32, String)]) -> Request;

    /// The version that came of it, where the answer says.
    ///
    /// # Errors
    /// It failed after all.
    fn completed(&self, response: &Response) -> Result<Option<ObjectVersion>, String>;

    /// The request that gives it up.
    fn abort(&self, name: &str, upload: &str) -> Request;

    /// The request for a page of the uploads of an object that are begun and not ended. `from` is where the page before said that
    /// the next one begins.
    fn unfinished(&self, name: &str, from: Option<&str>) -> Request;

    /// Reads such a page: what the uploads of the object are called, and where the next page begins.
    ///
    /// # Errors
    /// It is no such listing: what is wrong with it.
    fn unfinished_in(&self, name: &str, response: &Response) -> Result<Unfinished, String>;
}

/// Whether a text is so many hexadecimal digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A digest in Base64, as hexadecimal digits; `None` when it has not so many bytes.
pub(crate) fn from_base64(text: &str, bytes: usize) -> Option<String> {
    use base64::Engine as _;
    let plain = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    (plain.len() == bytes).then(|| crate::encode::hex(&plain))
}
