//! What one look shows of an object's chain. Nothing here talks to a store.

use std::collections::BTreeMap;

use super::name::{Ballot, Kind, Part, parse};
use crate::{Entry, Key};

/// The second part of a ballot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepted {
    /// The operation that proposed this value first.
    pub operation: u64,
    /// What the value is.
    pub kind: Kind,
    /// Size of the part in bytes.
    pub size: u64,
}

/// The parts of one ballot that were seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// The first part: the nonce that it builds on.
    pub prepared: Option<u64>,
    /// The second part.
    pub accepted: Option<Accepted>,
    /// Whether the third part was seen.
    pub is_marked: bool,
}

impl Parts {
    /// The value, if the ballot counts as decided: all three parts have to be there. A mark or a value that comes late,
    /// when the first part has been removed, is debris.
    fn decided(&self) -> Option<Accepted> {
        self.accepted.filter(|_| self.is_marked && self.prepared.is_some())
    }
}

/// A ballot that counts, with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decided {
    /// The ballot.
    pub ballot: Ballot,
    /// Its value.
    pub accepted: Accepted,
}

/// All ballots of an object that a listing showed.
#[derive(Debug, Default, Clone)]
pub(super) struct Chain {
    ballots: BTreeMap<Ballot, Parts>,
}

impl Chain {
    /// Sorts a listing by object. Keys that belong to no chain are left out.
    pub(super) fn all(entries: &[Entry]) -> BTreeMap<Key, Self> {
        let mut chains: BTreeMap<Key, Self> = BTreeMap::new();
        for entry in entries {
            let Some((object, ballot, part)) = parse(&entry.key) else { continue };
            let parts = chains.entry(object).or_default().ballots.entry(ballot).or_default();
            match part {
                Part::Prepared { base } => parts.prepared = Some(base),
                Part::Accepted { operation, kind } => {
                    parts.accepted = Some(Accepted { operation, kind, size: entry.size });
                }
                Part::Marked => parts.is_marked = true,
            }
        }
        chains
    }

    /// The chain of one object in a listing of its folder.
    pub(super) fn of(object: &Key, entries: &[Entry]) -> Self {
        Self::all(entries).remove(object).unwrap_or_default()
    }

    /// All ballots, in order.
    pub(super) fn ballots(&self) -> impl Iterator<Item = (Ballot, Parts)> + '_ {
        self.ballots.iter().map(|(ballot, parts)| (*ballot, *parts))
    }

    /// The parts of a ballot.
    pub(super) fn parts(&self, ballot: Ballot) -> Parts {
        self.ballots.get(&ballot).copied().unwrap_or_default()
    }

    /// The highest version that counts.
    pub(super) fn current(&self) -> Option<Decided> {
        let decided = |(ballot, parts): (Ballot, Parts)| Some(Decided { ballot, accepted: parts.decided()? });
        self.ballots().filter_map(decided).last()
    }

    /// Whether a ballot counts.
    pub(super) fn counts(&self, ballot: Ballot) -> bool {
        self.parts(ballot).decided().is_some()
    }

    /// A ballot that counts and has decided the same as this one, by choice this one.
    pub(super) fn same(&self, base: &Decided) -> Option<Decided> {
        let (version, operation) = (base.ballot.version, base.accepted.operation);
        let is_same =
            |other: &Decided| (other.ballot.version, other.accepted.operation) == (version, operation);
        let decided = |(ballot, parts): (Ballot, Parts)| Some(Decided { ballot, accepted: parts.decided()? });
        if self.counts(base.ballot) { Some(*base) } else { self.ballots().filter_map(decided).find(is_same) }
    }

    /// Whether the anchor of the chain was seen: what is left of version 1 until the whole chain is removed. Then the
    /// object is there or being removed, even if the look missed every version that counts.
    pub(super) fn is_anchored(&self) -> bool {
        self.ballots()
            .any(|(ballot, parts)| ballot.version == 1 && parts.is_marked && parts.prepared.is_some())
    }

    /// The open ballots of a version: those whose first part was seen.
    pub(super) fn open(&self, version: u32) -> impl Iterator<Item = (Ballot, Parts)> + '_ {
        self.ballots().filter(move |(ballot, parts)| ballot.version == version && parts.prepared.is_some())
    }

    /// The latest round of a version; 0 when there is none.
    pub(super) fn round_max(&self, version: u32) -> u32 {
        self.open(version).map(|(ballot, _)| ballot.round).max().unwrap_or(0)
    }

    /// The value of the highest ballot of a version that has one.
    pub(super) fn highest_value(&self, version: u32) -> Option<Decided> {
        let valued = |(ballot, parts): (Ballot, Parts)| Some(Decided { ballot, accepted: parts.accepted? });
        self.open(version).filter_map(valued).last()
    }
}
