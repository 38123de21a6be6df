//! Removing what does not count any more.
//!
//! Lower versions go before higher ones, and the version that counts, or the tombstone, stays till last: so whoever still
//! finds a version after a listing knows that nothing above it had been removed when the listing ended. Within a version
//! ballots that are not marked go first; of a ballot the first part goes first, for nothing counts without it.
//!
//! Every removal rests on a listing that began when the mark of the version that stays could be seen by all.

use super::VersionedStore;
use super::chain::{Chain, Decided, Parts};
use super::name::{Ballot, Kind, Part, folder, key_of};
use super::patience::TRIES_MAX;
use crate::bucket::Condition;
use crate::{Key, Result};

impl VersionedStore {
    /// Removes parts of a ballot, in this order. What fails stays as debris for the next to remove.
    pub(super) fn remove_parts(&self, key: &Key, ballot: Ballot, parts: impl Iterator<Item = Part>) {
        for part in parts {
            if let Ok(part) = key_of(&folder(key), ballot, part)
                && self.again(|| self.bucket.delete(&part)).is_err()
            {
                return;
            }
        }
    }

    fn remove_ballot(&self, key: &Key, ballot: Ballot, parts: Parts) -> Result<()> {
        let accepted = parts.accepted.map(|a| Part::Accepted { operation: a.operation, kind: a.kind });
        let prepared = parts.prepared.map(|base| Part::Prepared { base });
        let marked = parts.is_marked.then_some(Part::Marked);
        for part in [prepared, accepted, marked].into_iter().flatten() {
            let part = key_of(&folder(key), ballot, part)?;
            self.again(|| self.bucket.delete(&part))?;
        }
        Ok(())
    }

    /// Removes what came before a value that was decided. Of version 1 the anchor stays; the first parts of open ballots of
    /// version 1 stay too, for their owners may be about to create the object once more when all of it is gone. Their
    /// values go: one that was chosen and gets its mark late is an anchor then, and must not count where what came after
    /// it is lost.
    pub(super) fn remove_before(&self, key: &Key, value: &Decided) -> Result<()> {
        if value.ballot.version == 1 {
            return Ok(());
        }
        let Some(chain) = self.chain_with(key, value)? else { return Ok(()) };
        if !chain.is_anchored() && !self.anchor(key, &chain, value)? {
            return Ok(());
        }
        for (ballot, parts) in ascending(&chain).into_iter().filter(|(b, _)| b.version < value.ballot.version)
        {
            match ballot.version {
                1 => {
                    self.remove_ballot(key, ballot, Parts { accepted: parts.accepted, ..Parts::default() })?
                }
                _ => self.remove_ballot(key, ballot, parts)?,
            }
        }
        Ok(())
    }

    /// Gives a chain that lost its anchor to somebody else another one: a ballot of version 1 without a value. `false` when
    /// something later than `value` was decided: then that one's remover does it, or there is nothing left to do it for.
    ///
    /// As with any ballot, the first part is written once, and the mark when the version was confirmed after that: should
    /// the object be deleted from then on, the first part is listed and removed with it, and a late mark means nothing.
    fn anchor(&self, key: &Key, chain: &Chain, value: &Decided) -> Result<bool> {
        let is_latest = |chain: &Chain| chain.current().is_some_and(|latest| latest.ballot == value.ballot);
        if !is_latest(chain) {
            return Ok(false);
        }
        let rounds =
            chain.ballots().filter(|(ballot, _)| ballot.version == 1).map(|(ballot, _)| ballot.round);
        let round = rounds.max().unwrap_or(0).saturating_add(1);
        let ballot = Ballot { version: 1, round, nonce: self.surroundings.number()? };
        let part = Part::Prepared { base: 0 };
        let written = self.bucket.write(&key_of(&folder(key), ballot, part)?, &[], Condition::Always);
        self.surroundings.pause(self.lag);
        if written.is_err() || !self.chain_with(key, value)?.is_some_and(|chain| is_latest(&chain)) {
            self.remove_parts(key, ballot, [part].into_iter());
            return written.map(|()| false);
        }
        let mark = key_of(&folder(key), ballot, Part::Marked)?;
        self.again(|| self.bucket.write(&mark, &[], Condition::Always))?;
        self.surroundings.pause(self.lag);
        Ok(true)
    }

    /// Removes a chain that has come to its end, the tombstone last.
    pub(super) fn bury(&self, key: &Key, tombstone: &Decided) -> Result<()> {
        self.surroundings.pause(self.lag);
        // Without it somebody else has done it.
        let Some(chain) = self.chain_with(key, tombstone)? else { return Ok(()) };
        let creators: Vec<Ballot> =
            chain.open(1).filter(|(_, parts)| !parts.is_marked).map(|(ballot, _)| ballot).collect();
        let barrier = match creators.is_empty() {
            true => None,
            false => match self.bar(key, &chain, tombstone)? {
                None => return Ok(()),
                barrier => barrier,
            },
        };
        let version = tombstone.ballot.version;
        let (last, before): (Vec<_>, Vec<_>) =
            ascending(&chain).into_iter().partition(|(b, parts)| b.version == version && parts.is_marked);
        for (ballot, parts) in before.into_iter().filter(|(ballot, _)| ballot.version <= version).chain(last)
        {
            self.remove_ballot(key, ballot, parts)?;
        }
        if let Some(barrier) = barrier {
            self.remove_parts(key, barrier, [Part::Prepared { base: 0 }].into_iter());
        }
        Ok(())
    }

    /// Removes what the last life of an object left over, where it is not there. Found beside the next life it would be
    /// evidence of versions that this one never had.
    pub(super) fn remove_debris(&self, key: &Key, chain: &Chain) -> Result<()> {
        for (ballot, parts) in chain.debris() {
            self.remove_ballot(key, ballot, parts)?;
        }
        self.surroundings.pause(self.lag);
        Ok(())
    }

    /// Opens a ballot above all that mean to create the object, before theirs are removed: one of them could otherwise
    /// take the tombstone's absence for its right to go on, while its ballot is being removed. `None` when the tombstone
    /// has gone meanwhile: then it is somebody else who removes.
    fn bar(&self, key: &Key, chain: &Chain, tombstone: &Decided) -> Result<Option<Ballot>> {
        let round = chain.round_max(1).saturating_add(1);
        let part = Part::Prepared { base: 0 };
        for _ in 0..TRIES_MAX {
            let barrier = Ballot { version: 1, round, nonce: self.surroundings.number()? };
            let written = self.bucket.write(&key_of(&folder(key), barrier, part)?, &[], Condition::Always);
            self.surroundings.pause(self.lag);
            let is_written = match written {
                Err(error) if !error.is_transient() => return Err(error),
                other => other.is_ok(),
            };
            let stands = self.chain_with(key, tombstone)?.is_some();
            if is_written && stands {
                return Ok(Some(barrier));
            }
            self.remove_parts(key, barrier, [part].into_iter());
            if !stands {
                return Ok(None);
            }
        }
        Err(self.contended("delete", key))
    }

    /// A listing from now on, if it shows that a ballot counts, and its value is there when the listing has ended: then
    /// the listing shows nothing of a chain that was begun later.
    fn chain_with(&self, key: &Key, decided: &Decided) -> Result<Option<Chain>> {
        let chain = self.chain(key)?;
        self.surroundings.pause(self.lag);
        Ok((chain.counts(decided.ballot) && self.is_still(key, decided)?).then_some(chain))
    }

    /// Removes debris of one object; returns how many bytes that freed.
    pub(super) fn sweep(&self, key: &Key, chain: &Chain) -> Result<u64> {
        let size = |parts: &Parts| parts.accepted.map_or(0, |accepted| accepted.size);
        match chain.current() {
            Some(current) if current.accepted.kind == Kind::Tombstone => {
                self.bury(key, &current)?;
                return Ok(chain.ballots().map(|(_, parts)| size(&parts)).sum());
            }
            _ => {}
        }
        let mut freed = 0;
        if chain.lost().is_some() {
            // What is left of an object that somebody else damaged may tell what it was.
            return Ok(freed);
        }
        // The first part of a ballot is there before the others are sent, so these will never count.
        for (ballot, parts) in chain.ballots().filter(|(_, parts)| parts.prepared.is_none()) {
            self.surroundings.pause(self.lag);
            let later = self.chain(key)?;
            if later.parts(ballot).prepared.is_none() {
                self.remove_ballot(key, ballot, parts)?;
                freed += size(&parts);
            }
        }
        Ok(freed)
    }
}

/// All ballots in the order in which they may be removed.
fn ascending(chain: &Chain) -> Vec<(Ballot, Parts)> {
    let mut ballots: Vec<(Ballot, Parts)> = chain.ballots().collect();
    ballots.sort_by_key(|(ballot, parts)| (ballot.version, parts.is_marked, *ballot));
    ballots
}
