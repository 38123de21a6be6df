//! Giving a value back to an object that lost parts to somebody else.
//!
//! It is decided as any other version is, by ballots, above all that was decided: so it contends with whoever changes the
//! object at the same time, and with other repairs, by the same rules. In the place of the version that it builds on stand
//! the parts that are left: they go before anything that is decided after them goes, and so do the operation's own ballots. No
//! part is written anew.

use super::chain::Chain;
use super::decide::{Base, Outcome, Proposal, Proposer};
use super::look::Found;
use super::lost::Lost;
use super::name::Kind;
use super::value::History;
use super::{CHANGING, COMPARED_BYTES_MAX, VersionedStore};
use crate::{Chains, DamagedChain, ErrorKind, Key, Result};

/// How often an object is tried to be mended when others change it meanwhile.
const MENDS_MAX: u32 = 5;
/// An object at the root that changes.
const CONFIG: &str = "config";
/// The prefix of wrapped keys, chains like those that change more often.
const KEYS: &str = "keys";

impl VersionedStore {
    /// What is wrong with an object, if it cannot be read.
    fn flaw(&self, key: &Key) -> Result<Option<Lost>> {
        match self.find(key)? {
            Found::Lost(lost) => Ok(Some(lost)),
            Found::Value(current) => match self.value(key, &current, COMPARED_BYTES_MAX) {
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    let chain = self.chain(key)?;
                    self.surroundings.pause(self.lag);
                    Ok(chain.counts(current.ballot).then(|| Lost::overwritten(&current, &chain)))
                }
                Err(error) => Err(error),
                Ok(_) => Ok(None),
            },
            Found::Nothing | Found::Tombstone(_) => Ok(None),
        }
    }

    /// Decides what comes after what was lost.
    fn decide_after(
        &self,
        key: &Key,
        lost: Lost,
        kind: Kind,
        value: Option<(History, &[u8])>,
    ) -> Result<Outcome> {
        let operation = self.surroundings.number()?;
        let bytes = value.map(|(history, content)| history.then(operation).encode(content));
        let proposal = Proposal { base: Base::Lost(lost), operation, kind, bytes };
        let outcome = Proposer::new(self, "mend", key, &proposal)?.run()?;
        if let Outcome::Mine(Some(tombstone)) = outcome
            && kind == Kind::Tombstone
        {
            self.bury(key, &tombstone)?;
        }
        Ok(outcome)
    }

    /// Tries to mend once; `false` when what is left tells no value.
    fn mend_once(&self, key: &Key, lost: Lost) -> Result<bool> {
        let (mut kind, mut known) = (Kind::Value, None);
        if let Some(value) = lost.value {
            kind = value.accepted.kind;
            known = match self.value(key, &value, COMPARED_BYTES_MAX) {
                // Its owner gave this ballot up meanwhile; another look tells what is left.
                Ok(None) => return Ok(true),
                Ok(found) => found,
                // It is overwritten, too.
                Err(error) if error.kind() == ErrorKind::Damaged => None,
                Err(error) => return Err(error),
            };
        }
        if known.is_none() && !lost.has_next {
            return Ok(false);
        }
        let value = known.as_ref().map(|(history, content)| (history.clone(), content.as_slice()));
        self.decide_after(key, lost, kind, value)?;
        Ok(true)
    }

    /// Whether the configuration lacks nothing but its mark: then whoever made it had not ended, or the mark was lost.
    fn unmarked(chain: &Chain) -> bool {
        chain.current().is_none() && !chain.is_anchored() && chain.highest_value(1).is_some()
    }

    /// Ends the creation of an object for somebody else.
    fn end_creation(&self, key: &Key) -> Result<bool> {
        let operation = self.surroundings.number()?;
        let proposal = Proposal { base: Base::Nothing, operation, kind: Kind::Value, bytes: None };
        let outcome = Proposer::new(self, "mend", key, &proposal)?.run()?;
        Ok(matches!(outcome, Outcome::Other(Kind::Value)))
    }

    fn changing(&self) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        for prefix in CHANGING.into_iter().chain([KEYS]) {
            keys.extend(Chain::all(&self.again(|| self.bucket.list(prefix))?).into_keys());
        }
        keys.extend(Key::new(CONFIG));
        Ok(keys)
    }
}

impl Chains for VersionedStore {
    fn damaged(&self) -> Result<Vec<DamagedChain>> {
        let mut found = Vec::new();
        for key in self.changing()? {
            if let Some(lost) = self.flaw(&key)? {
                let is_determined = lost.is_determined();
                found.push(DamagedChain { key, what: lost.what, is_determined });
            } else if key.as_str() == CONFIG && Self::unmarked(&self.chain(&key)?) {
                let what = "the mark of its version 1 is missing".to_owned();
                found.push(DamagedChain { key, what, is_determined: true });
            }
        }
        Ok(found)
    }

    fn mend(&self, key: &Key) -> Result<bool> {
        for tried in 0..MENDS_MAX {
            match self.flaw(key)? {
                None if key.as_str() == CONFIG && Self::unmarked(&self.chain(key)?) => {
                    return self.end_creation(key);
                }
                None => return Ok(tried > 0),
                Some(lost) => {
                    if !lost.is_determined() || !self.mend_once(key, lost)? {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(self.flaw(key)?.is_none())
    }

    fn replace_lost(&self, key: &Key, content: &[u8]) -> Result<()> {
        // Whoever changed it when the damage was found may have stood in the way of its value, and have ended since.
        if self.mend(key)? {
            return Err(self.conflict(key));
        }
        let Some(lost) = self.flaw(key)? else { return Err(self.conflict(key)) };
        match self.decide_after(key, lost, Kind::Value, Some((History::default(), content)))? {
            Outcome::Mine(_) => Ok(()),
            Outcome::Other(_) | Outcome::BaseGone | Outcome::Damaged { is_exposed: false } => {
                Err(self.conflict(key))
            }
            Outcome::Unknown { .. } => Err(self.unknown("mend", key)),
            Outcome::Damaged { is_exposed: true } => Err(self.torn("mend", key)),
        }
    }
}
