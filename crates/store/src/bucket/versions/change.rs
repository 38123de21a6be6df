//! Creating, replacing and deleting an object: each proposes the next version.

use super::chain::Decided;
use super::decide::{Base, Outcome, Proposal, Proposer};
use super::look::Found;
use super::name::Kind;
use super::value::History;
use super::{COMPARED_BYTES_MAX, RESTARTS_MAX, VersionedStore};
use crate::{Error, ErrorKind, Key, Result, Version};

impl VersionedStore {
    pub(super) fn create(&self, key: &Key, content: &[u8]) -> Result<()> {
        let exists = || Error::AlreadyExists { store: self.bucket.name().to_owned(), key: key.to_string() };
        for _ in 0..RESTARTS_MAX {
            match self.find(key)? {
                Found::Value(_) => return Err(exists()),
                Found::Lost(lost) => return Err(self.damaged(key, lost.what)),
                // A tombstone ends its chain: no version builds on it, so its chain goes first.
                Found::Tombstone(tombstone) => self.bury(key, &tombstone)?,
                Found::Nothing => {
                    let operation = self.surroundings.number()?;
                    let bytes = Some(History::first(operation).encode(content));
                    let proposal = Proposal { base: Base::Nothing, operation, kind: Kind::Value, bytes };
                    match Proposer::new(self, "create", key, &proposal)?.run()? {
                        Outcome::Mine(_) => return Ok(()),
                        Outcome::Other(Kind::Value) => return Err(exists()),
                        Outcome::Other(Kind::Tombstone)
                        | Outcome::BaseGone
                        | Outcome::Damaged { is_exposed: false } => {}
                        Outcome::Unknown { .. } => return Err(self.unknown("create", key)),
                        Outcome::Damaged { is_exposed: true } => return Err(self.torn("create", key)),
                    }
                }
            }
        }
        Err(self.contended("create", key))
    }

    pub(super) fn replace(&self, key: &Key, content: &[u8], expected: &Version) -> Result<()> {
        let (base, history, present) = match self.read_decided(key, COMPARED_BYTES_MAX) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(self.conflict(key)),
            Err(error) => return Err(error),
        };
        if Version::of(&present) != *expected {
            return Err(self.conflict(key));
        }
        let operation = self.surroundings.number()?;
        let bytes = Some(history.then(operation).encode(content));
        let proposal = Proposal { base: Base::Decided(base), operation, kind: Kind::Value, bytes };
        match Proposer::new(self, "replace", key, &proposal)?.run()? {
            Outcome::Mine(_) => Ok(()),
            Outcome::Other(_) | Outcome::BaseGone => Err(self.conflict(key)),
            Outcome::Unknown { .. } => Err(self.unknown("replace", key)),
            Outcome::Damaged { is_exposed: true } => Err(self.torn("replace", key)),
            Outcome::Damaged { is_exposed: false } => {
                Err(self.damaged(key, "it lost parts while it was to be replaced".to_owned()))
            }
        }
    }

    /// Deletes an object; whether this caller did it. In doubt, when others removed every trace, it says so.
    pub(super) fn remove(&self, key: &Key) -> Result<bool> {
        for _ in 0..RESTARTS_MAX {
            let (base, history) = match self.find(key)? {
                Found::Nothing => return Ok(false),
                Found::Tombstone(tombstone) => {
                    self.bury(key, &tombstone)?;
                    return Ok(false);
                }
                Found::Value(base) => match self.history(key, base)? {
                    Some(history) => (Base::Decided(base), history),
                    None => continue,
                },
                Found::Lost(lost) => (Base::Lost(lost), History::default()),
            };
            let operation = self.surroundings.number()?;
            let bytes = Some(history.then(operation).encode(&[]));
            let proposal = Proposal { base, operation, kind: Kind::Tombstone, bytes };
            match Proposer::new(self, "delete", key, &proposal)?.run()? {
                Outcome::Mine(tombstone) => {
                    if let Some(tombstone) = tombstone {
                        // It is deleted already; whoever comes next removes what this one cannot.
                        let _ = self.bury(key, &tombstone);
                    }
                    return Ok(true);
                }
                // Then it was the last to delete it, or may as well have been.
                Outcome::Unknown { was_absent: true } => return Ok(true),
                Outcome::Unknown { was_absent: false } => return Err(self.unknown("delete", key)),
                Outcome::Other(Kind::Tombstone) => return Ok(false),
                // Whoever mends may decide the tombstone yet, and this caller must not delete what comes after that.
                Outcome::Damaged { is_exposed: true } => return Err(self.torn("delete", key)),
                Outcome::Other(Kind::Value) | Outcome::BaseGone | Outcome::Damaged { is_exposed: false } => {}
            }
        }
        Err(self.contended("delete", key))
    }

    /// The history of a version, also of one whose value was overwritten: then it begins with this version. `None` when it
    /// was replaced meanwhile.
    fn history(&self, key: &Key, version: Decided) -> Result<Option<History>> {
        match self.value(key, &version, COMPARED_BYTES_MAX) {
            Ok(found) => Ok(found.map(|(history, _)| history)),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                Ok(Some(History::first(version.accepted.operation)))
            }
            Err(error) => Err(error),
        }
    }
}
