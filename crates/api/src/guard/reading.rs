//! What a token may see.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use leeward_repository::verify::{Inspected, SessionState, pack_outline};
use leeward_repository::{BlobKind, ImageName};
use leeward_store::{Entry, Key, Object, Version};

use super::{Content, Guard, IMAGES_MAX, image_of, key_under, parts, rules, who};
use crate::limits::RECORD_BYTES_MAX;
use crate::problem::{Code, Problem};
use crate::token::{Role, Token};

/// Bytes of the header, and of the footer, of a pack.
const PACK_END_BYTES: usize = 64;

/// Whether an object is shown.
type Sees<'a> = Box<dyn Fn(&Key) -> Result<bool, Problem> + 'a>;

/// An object that may be read.
pub enum Reading {
    /// A record, whole.
    Record(Vec<u8>, Version),
    /// A pack or run, to be read in parts.
    Object(Arc<dyn Object>),
}

impl Reading {
    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Record(bytes, _) => bytes.len() as u64,
            Self::Object(object) => object.size(),
        }
    }
}

impl Guard {
    /// Opens an object, if the token may read that range of it; none is all of it. `head` asks for size and version only.
    ///
    /// # Errors
    /// It is not there, or not for this token.
    pub fn read(
        &self,
        token: &Token,
        key: &Key,
        range: Option<&Range<u64>>,
        head: bool,
    ) -> Result<Reading, Problem> {
        let (prefix, name) = parts(key);
        match prefix {
            _ if self.content == Content::Opaque => self.record_reading(key),
            "packs" => {
                let object = self.store.open(key)?;
                if token.role == Role::Writer && !head {
                    self.may_read_pack(token, key, object.as_ref(), range)?;
                }
                Ok(Reading::Object(object))
            }
            // It would give chunks away.
            "parity" if token.role == Role::Writer && !head => {
                Err(Problem::denied(format!("{} may not read chunks, and {key} could give them", who(token))))
            }
            "parity" | "index" => Ok(Reading::Object(self.store.open(key)?)),
            "config" if name.is_empty() => self.record_reading(key),
            "keys" | "condemned" => self.record_reading(key),
            "refs" if image_of(name).is_some_and(|image| token.covers(&image)) => self.record_reading(key),
            "snapshots" if self.sees_manifest(token, key, None)? => self.record_reading(key),
            "sessions" if self.sees_session(token, key)? => self.record_reading(key),
            "refs" | "snapshots" | "sessions" => {
                Err(Problem::denied(format!("{} may not read {key}: it lies outside its images", who(token))))
            }
            _ => Err(unknown(key)),
        }
    }

    fn record_reading(&self, key: &Key) -> Result<Reading, Problem> {
        let (bytes, version) = self.store.get(key, RECORD_BYTES_MAX)?;
        Ok(Reading::Record(bytes, version))
    }

    /// A writer reads nodes, to build on them, and what packs of chunks say that they hold, but no chunks.
    fn may_read_pack(
        &self,
        token: &Token,
        key: &Key,
        object: &dyn Object,
        range: Option<&Range<u64>>,
    ) -> Result<(), Problem> {
        let size = object.size();
        let (mut header, mut footer) = ([0; PACK_END_BYTES], [0; PACK_END_BYTES]);
        let damaged = |what: String| {
            Problem::new(Code::Failed, format!("{key} is damaged: {what}"), "run leeward check")
        };
        let last =
            size.checked_sub(PACK_END_BYTES as u64).ok_or_else(|| damaged("it is too short".to_owned()))?;
        object.read_at(&mut header, 0)?;
        object.read_at(&mut footer, last)?;
        let (kind, directory) = pack_outline(&header, &footer, size).map_err(damaged)?;
        let range = range.cloned().unwrap_or(0..size);
        if kind == BlobKind::Node || range.end <= PACK_END_BYTES as u64 || range.start >= directory {
            return Ok(());
        }
        Err(Problem::denied(format!("{} may not read chunks, and {key} holds chunks", who(token))))
    }

    /// Whether a manifest is of an image of the token. One that cannot be read is told by the refs, `known` if they were
    /// read before.
    fn sees_manifest(
        &self,
        token: &Token,
        key: &Key,
        known: Option<&HashSet<String>>,
    ) -> Result<bool, Problem> {
        if !token.is_confined() {
            return Ok(true);
        }
        match self.manifest_image(key)? {
            Some(image) => Ok(token.covers(&image)),
            None => match known {
                Some(known) => Ok(known.contains(key.name())),
                None => Ok(self.snapshots_in_refs(token)?.contains(key.name())),
            },
        }
    }

    /// The image of a manifest; none where it cannot be read or is not there.
    pub(super) fn manifest_image(&self, key: &Key) -> Result<Option<ImageName>, Problem> {
        let name = key.name().to_owned();
        let lock = || self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&name) {
            return Ok(known.clone());
        }
        let found = match self.record(key) {
            Ok(Some((Inspected::Manifest(image), _))) => image,
            Ok(None) => return Ok(None),
            Ok(Some(_)) => None,
            // A damaged one is nobody's.
            Err(problem) if problem.code == Code::Failed => None,
            Err(problem) => return Err(problem),
        };
        let mut images = lock();
        if images.len() >= IMAGES_MAX {
            images.clear();
        }
        images.insert(name, found.clone());
        Ok(found)
    }

    /// The names of all snapshots in the refs that the token may see.
    fn snapshots_in_refs(&self, token: &Token) -> Result<HashSet<String>, Problem> {
        let mut found = HashSet::new();
        for entry in self.store.list("refs")? {
            if image_of(entry.key.name()).is_some_and(|image| token.covers(&image))
                && let Some((Inspected::Ref(record), _)) = self.record(&entry.key)?
            {
                found.extend(record.image_ref.snapshots.iter().map(|entry| entry.id.to_string()));
            }
        }
        Ok(found)
    }

    /// Who sees everything sees all sessions. Others see their own, and those that have published something of their images:
    /// whoever reads must count that, whoever writes may complete it. A writer does not see what was revoked, which is for
    /// operators to clear away.
    fn sees_session(&self, token: &Token, key: &Key) -> Result<bool, Problem> {
        if !token.is_confined() && token.role != Role::Writer {
            return Ok(true);
        }
        if self.ledger.owns(key.name(), token) {
            return Ok(true);
        }
        let Some((Inspected::Session(SessionState::Committed(published)), _)) = self.record(key)? else {
            // One that is gone is told as such.
            return Ok(!self.exists(key)?);
        };
        Ok(published.iter().any(|(image, _)| token.covers(image)))
    }

    fn lists_session(&self, token: &Token, key: &Key) -> Result<bool, Problem> {
        if token.role != Role::Writer {
            return self.sees_session(token, key);
        }
        match self.record(key) {
            Ok(Some((Inspected::Session(SessionState::Revoked), _)) | None) => Ok(false),
            Ok(_) => self.sees_session(token, key),
            Err(problem) if problem.code == Code::Failed => Ok(false),
            Err(problem) => Err(problem),
        }
    }

    /// The objects under a prefix that the token may know of, in order.
    ///
    /// # Errors
    /// The prefix is none of a repository, or the store fails.
    pub fn list(&self, token: &Token, prefix: &str) -> Result<Vec<Entry>, Problem> {
        if self.content == Content::Opaque {
            return Ok(self.store.list(prefix)?);
        }
        let entries = match prefix {
            "packs" | "parity" | "index" | "snapshots" | "refs" | "sessions" | "condemned" | "keys" => {
                self.store.list(prefix)
            }
            _ => return Err(unknown(&key_under(prefix, "x")?)),
        };
        let entries = match entries {
            // Directories that a repository has only with the first such object.
            Err(error)
                if error.kind() == leeward_store::ErrorKind::NotFound
                    && matches!(prefix, "keys" | "parity") =>
            {
                Vec::new()
            }
            other => other?,
        };
        let sees: Sees<'_> = match prefix {
            "refs" => Box::new(|key| Ok(image_of(key.name()).is_some_and(|image| token.covers(&image)))),
            "snapshots" if token.is_confined() => {
                let known = self.snapshots_in_refs(token)?;
                Box::new(move |key| self.sees_manifest(token, key, Some(&known)))
            }
            "sessions" => Box::new(|key| self.lists_session(token, key)),
            _ => return Ok(entries),
        };
        let mut seen = Vec::new();
        for entry in entries {
            if sees(&entry.key)? {
                seen.push(entry);
            }
        }
        Ok(seen)
    }

    /// Makes durable what is under a prefix.
    ///
    /// # Errors
    /// The store fails.
    pub fn settle(&self, prefix: &str) -> Result<(), Problem> {
        Ok(self.store.settle(prefix)?)
    }

    /// Removes leftovers; returns the bytes freed.
    ///
    /// # Errors
    /// The token may not, or the store fails.
    pub fn sweep(&self, token: &Token) -> Result<u64, Problem> {
        match rules(token) && !token.is_confined() {
            true => Ok(self.store.sweep_leftovers()?),
            false => Err(Problem::denied(format!("{} may not remove leftovers", who(token)))),
        }
    }
}

pub(super) fn unknown(key: &Key) -> Problem {
    Problem::new(
        Code::Denied,
        format!("{key} is no object of a repository"),
        "the server keeps config, keys, packs, parity, index, snapshots, refs, sessions and condemned",
    )
}
