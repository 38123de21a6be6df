//! Looking at an object, and reading it.

use super::chain::{Chain, Decided};
use super::name::{Ballot, Kind, Part, folder, key_of};
use super::value::{HEADER_BYTES, History};
use super::{RESTARTS_MAX, VersionedStore};
use crate::{Error, ErrorKind, Key, Result};

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It is not there, and nothing of it is left that counts.
    Nothing,
    /// It has a value.
    Value(Decided),
    /// It was deleted, and its parts have not all been removed yet.
    Tombstone(Decided),
}

impl Found {
    pub(super) fn of(current: Decided) -> Self {
        match current.accepted.kind {
            Kind::Value => Self::Value(current),
            Kind::Tombstone => Self::Tombstone(current),
        }
    }
}

impl VersionedStore {
    /// One listing of an object's folder.
    pub(super) fn chain(&self, key: &Key) -> Result<Chain> {
        let folder = folder(key);
        Ok(Chain::of(key, &self.again(|| self.bucket.list(&folder))?))
    }

    /// The key of the part that holds a value.
    pub(super) fn value_key(key: &Key, decided: &Decided) -> Result<Key> {
        let Decided { ballot, accepted } = *decided;
        let part = Part::Accepted { operation: accepted.operation, kind: accepted.kind };
        key_of(&folder(key), ballot, part)
    }

    /// Whether the value of a ballot is still there. If so, nothing above it was removed before now, and a listing that
    /// ended before now has missed nothing that was there when it began.
    pub(super) fn is_still(&self, key: &Key, decided: &Decided) -> Result<bool> {
        self.exists(&Self::value_key(key, decided)?)
    }

    /// Whether the first part of a ballot is still there.
    pub(super) fn is_still_prepared(&self, key: &Key, ballot: Ballot, base: u64) -> Result<bool> {
        self.exists(&key_of(&folder(key), ballot, Part::Prepared { base })?)
    }

    fn exists(&self, part: &Key) -> Result<bool> {
        match self.again(|| self.bucket.head(part)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What the object was at some moment since the call.
    pub(super) fn find(&self, key: &Key) -> Result<Found> {
        for _ in 0..RESTARTS_MAX {
            let chain = self.chain(key)?;
            self.surroundings.pause(self.lag);
            match chain.current() {
                Some(current) if self.is_still(key, &current)? => return Ok(Found::of(current)),
                None if !chain.is_anchored() => return Ok(Found::Nothing),
                // Others replaced it during the listing.
                _ => {}
            }
        }
        Err(self.contended("read", key))
    }

    /// Reads an object's content of at most `size_max` bytes, with the version and the history that it has.
    pub(super) fn read_decided(&self, key: &Key, size_max: u64) -> Result<(Decided, History, Vec<u8>)> {
        for _ in 0..RESTARTS_MAX {
            let chain = self.chain(key)?;
            self.surroundings.pause(self.lag);
            let current = match chain.current().map(Found::of) {
                Some(Found::Value(current)) => current,
                Some(_) => return Err(self.not_found(key)),
                None if chain.is_anchored() => continue,
                None => return Err(self.not_found(key)),
            };
            // That it can be read tells the same as asking whether it is still there.
            if let Some((history, content)) = self.value(key, &current, size_max)? {
                return Ok((current, history, content));
            }
        }
        Err(self.contended("read", key))
    }

    /// Reads an object and the history of its present version.
    pub(super) fn read(&self, key: &Key, size_max: u64) -> Result<(Vec<u8>, History)> {
        self.read_decided(key, size_max).map(|(_, history, content)| (content, history))
    }

    /// The value of a ballot; `None` when it has been removed.
    pub(super) fn value(
        &self,
        key: &Key,
        decided: &Decided,
        size_max: u64,
    ) -> Result<Option<(History, Vec<u8>)>> {
        let part = Self::value_key(key, decided)?;
        let damaged = |size: u64| Error::TooLarge {
            store: self.bucket.name().to_owned(),
            key: key.to_string(),
            size: size.saturating_sub(HEADER_BYTES as u64),
            size_max,
        };
        match self.again(|| self.bucket.read(&part, None, size_max.saturating_add(HEADER_BYTES as u64))) {
            Ok(read) => match History::decode(read.content) {
                Some(found) => Ok(Some(found)),
                None => Err(Error::Contradiction {
                    store: self.bucket.name().to_owned(),
                    key: part.to_string(),
                    what: "it is not what was written there: somebody else has replaced it".to_owned(),
                }),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == ErrorKind::Damaged => Err(damaged(decided.accepted.size)),
            Err(error) => Err(error),
        }
    }
}
