//! Looking at an object, and reading it.

use super::chain::{Chain, Decided};
use super::lost::Lost;
use super::name::{Ballot, Kind, Part, folder, key_of};
use super::patience::PAUSE;
use super::value::{HEADER_BYTES, History};
use super::{RESTARTS_MAX, VersionedStore};
use crate::{Error, ErrorKind, Key, Result};

/// How many looks must show the same to take an object for lost.
const SAME_LOOKS: u32 = 4;
/// How many must show the same to take what is left for debris of an object that is not there.
const SAME_DEBRIS: u32 = 2;

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// It is not there, and nothing of it is left that counts.
    Nothing,
    /// It has a value.
    Value(Decided),
    /// It was deleted, and its parts have not all been removed yet.
    Tombstone(Decided),
    /// It is there, and parts of it are lost.
    Lost(Lost),
}

/// What a look shows of an object of which no version counts.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rest {
    Lost(Lost),
    /// Ballots without a first part: debris of an object that is not there; or the anchor was lost, and the look ran
    /// while it was mended.
    Debris(Vec<Ballot>),
}

/// What looks showed of an object of which no version counted, one after the other.
#[derive(Debug, Default)]
pub(super) struct Rests(Option<(Rest, u32)>);

/// What an object is of which no version counts.
pub(super) enum Absence {
    /// Another look has to tell.
    Again,
    /// It is there, and parts of it are lost.
    Lost(Lost),
    /// It was not there at a moment of the look.
    Gone,
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

    /// What the object was at some moment since the call, with the value where `read` had it.
    fn find_with<T>(
        &self,
        key: &Key,
        read: impl Fn(&Decided) -> Result<Option<T>>,
    ) -> Result<(Found, Option<T>)> {
        let mut rests = Rests::default();
        for _ in 0..RESTARTS_MAX {
            let chain = self.chain(key)?;
            self.surroundings.pause(self.lag);
            let Some(current) = chain.current() else {
                match self.absence(key, &chain, &mut rests)? {
                    Absence::Again => continue,
                    Absence::Lost(lost) => return Ok((Found::Lost(lost), None)),
                    Absence::Gone => return Ok((Found::Nothing, None)),
                }
            };
            // That it can be read tells the same as asking whether it is still there.
            if let Some(value) = read(&current)? {
                return Ok((Found::of(current), Some(value)));
            }
            // Others replaced it during the listing.
            rests = Rests::default();
        }
        Err(self.contended("read", key))
    }

    /// What an object is when a look showed no version that counts, after the looks before.
    pub(super) fn absence(&self, key: &Key, chain: &Chain, before: &mut Rests) -> Result<Absence> {
        let rest = match chain.lost() {
            Some(lost) => Rest::Lost(lost),
            None => Rest::Debris(chain.debris().map(|(ballot, _)| ballot).collect()),
        };
        if rest == Rest::Debris(Vec::new()) {
            return Ok(Absence::Gone);
        }
        let looks = before.0.take().filter(|(same, _)| *same == rest).map_or(1, |(_, looks)| looks + 1);
        match &rest {
            Rest::Lost(lost) if looks >= SAME_LOOKS && self.remains(key, lost)? => {
                return Ok(Absence::Lost(lost.clone()));
            }
            Rest::Debris(_) if looks >= SAME_DEBRIS => return Ok(Absence::Gone),
            // Others may be replacing it: then another look shows something else.
            _ => self.surroundings.pause(PAUSE),
        }
        before.0 = Some((rest, looks));
        Ok(Absence::Again)
    }

    /// What the object was at some moment since the call.
    pub(super) fn find(&self, key: &Key) -> Result<Found> {
        let is_still = |current: &Decided| Ok(self.is_still(key, current)?.then_some(()));
        self.find_with(key, is_still).map(|(found, _)| found)
    }

    /// Whether all that was left of an object is still there.
    pub(super) fn remains(&self, key: &Key, lost: &Lost) -> Result<bool> {
        for (ballot, part) in &lost.remains {
            if !self.exists(&key_of(&folder(key), *ballot, *part)?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads an object's content of at most `size_max` bytes, with the version and the history that it has.
    pub(super) fn read_decided(&self, key: &Key, size_max: u64) -> Result<(Decided, History, Vec<u8>)> {
        let read = |current: &Decided| match current.accepted.kind {
            Kind::Value => self.value(key, current, size_max),
            // Nothing of it is read.
            Kind::Tombstone => Ok(Some((History::first(current.accepted.operation), Vec::new()))),
        };
        match self.find_with(key, read)? {
            (Found::Value(current), Some((history, content))) => Ok((current, history, content)),
            (Found::Lost(lost), _) => Err(self.damaged(key, lost.what)),
            _ => Err(self.not_found(key)),
        }
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
        match self.again(|| self.bucket.read(&part, None, size_max.saturating_add(HEADER_BYTES as u64))) {
            Ok(read) => match History::decode(read.content) {
                Some(found) => Ok(Some(found)),
                None => {
                    let what = format!("{part} is not what was written there: somebody else has replaced it");
                    Err(self.damaged(key, what))
                }
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == ErrorKind::Damaged => Err(Error::TooLarge {
                store: self.bucket.name().to_owned(),
                key: key.to_string(),
                size: decided.accepted.size.saturating_sub(HEADER_BYTES as u64),
                size_max,
            }),
            Err(error) => Err(error),
        }
    }

    pub(super) fn damaged(&self, key: &Key, what: String) -> Error {
        Error::Damaged { store: self.bucket.name().to_owned(), key: key.to_string(), what }
    }
}
