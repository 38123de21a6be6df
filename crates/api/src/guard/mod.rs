//! What a token may do with an object, decided by looking at the objects; no key of the repository is needed.
//!
//! What always holds, whatever requests come in whatever order:
//! - nothing is stored whose bytes are not what its name says ([`leeward_repository::verify`]);
//! - a run names packs that are there, a ref and a committed session snapshots whose manifests are there;
//! - a writer's ref keeps every old entry as it was and in its place in the order;
//! - a confined token decides nothing that rests on seeing everything: it sees a part, and a collection that saw a part would
//!   delete the rest.

mod history;
mod reading;
mod writing;

pub use reading::Reading;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use leeward_repository::ImageName;
use leeward_repository::verify::{Inspected, inspect, is_encrypted, verify_names};
use leeward_store::{ErrorKind, Key, SharedStore, Version};

use crate::ledger::Ledger;
use crate::limits::RECORD_BYTES_MAX;
use crate::problem::{Code, Problem};
use crate::token::{Role, Token};

/// What the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A repository; every object is checked and every role is confined.
    Repository,
    /// Anything: only admins may use it, and nothing is looked at. For tests of the protocol.
    Opaque,
}

/// The one condition under which an object is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// There is none.
    Absent,
    /// It has this version.
    Matches(Version),
}

/// Stands between the protocol and the store.
pub struct Guard {
    pub(crate) store: SharedStore,
    pub(crate) ledger: Ledger,
    content: Content,
    /// The images of manifests, which never change; none for those that cannot be read.
    images: Mutex<HashMap<String, Option<ImageName>>>,
}

/// The most manifests of which the image is remembered.
const IMAGES_MAX: usize = 1 << 20;

impl Guard {
    /// A guard before a store. What it has to remember goes into `ledger`, where one is given.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn new(store: SharedStore, content: Content, ledger: Option<&Path>) -> std::io::Result<Self> {
        Ok(Self { store, ledger: Ledger::open(ledger)?, content, images: Mutex::default() })
    }

    /// Bytes that were stored with a token.
    #[must_use]
    pub fn used(&self, token: &Token) -> u64 {
        self.ledger.used(token)
    }

    /// Compares the chunks of a pack with their names, where no key of the repository is needed for that.
    ///
    /// # Errors
    /// What is wrong with the pack, or the configuration cannot be read.
    pub(crate) fn names_fit(&self, pack: &Key, bytes: &[u8]) -> Result<Result<(), String>, Problem> {
        let config = key_of_config()?;
        let (config, _) = self.store.get(&config, RECORD_BYTES_MAX)?;
        let is_encrypted = is_encrypted(&config).map_err(|what| {
            Problem::new(
                Code::Failed,
                format!("the configuration on the server is damaged: {what}"),
                "run leeward check on the server",
            )
        })?;
        Ok(verify_names(pack.name(), bytes, is_encrypted))
    }

    fn record(&self, key: &Key) -> Result<Option<(Inspected, Version)>, Problem> {
        let (bytes, version) = match self.store.get(key, RECORD_BYTES_MAX) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let inspected = inspect(key.as_str(), &bytes).map_err(|what| {
            Problem::new(
                Code::Failed,
                format!("object {key} on the server is damaged: {what}"),
                "run leeward check on the server",
            )
        })?;
        Ok(Some((inspected, version)))
    }

    fn exists(&self, key: &Key) -> Result<bool, Problem> {
        match self.store.open(key) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Prefix of a key, and the name under it.
fn parts(key: &Key) -> (&str, &str) {
    key.as_str().split_once('/').unwrap_or((key.as_str(), ""))
}

/// The image whose ref has this name.
fn image_of(name: &str) -> Option<ImageName> {
    name.replace("%2F", "/").parse().ok()
}

fn key_of_config() -> Result<Key, Problem> {
    Key::new("config")
        .ok_or_else(|| Problem::new(Code::BadRequest, "config is no key", "see docs/protocol.md"))
}

fn key_under(prefix: &str, name: &str) -> Result<Key, Problem> {
    Key::under(prefix, name).ok_or_else(|| {
        Problem::new(Code::BadRequest, format!("{prefix}/{name} is no key"), "see docs/protocol.md")
    })
}

/// Who asks, for messages.
fn who(token: &Token) -> String {
    format!("token {:?} ({})", token.name, token.role.name())
}

/// Whether the role may remove and replace what is there.
fn rules(token: &Token) -> bool {
    matches!(token.role, Role::Admin | Role::Operator)
}
