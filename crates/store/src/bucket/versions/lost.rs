//! What is left of an object that lost parts to somebody else: pure values, from what a listing shows.
//!
//! The protocol itself never leaves an object so. Of a decided ballot it removes the first part first, and only when a
//! higher version was decided; lower versions go before higher ones; the anchor goes after the tombstone was decided. So where no
//! version counts, and there is an anchor, or a mark beside another part of its ballot, or a value above version 1 in an
//! open ballot, parts were lost.

use super::chain::{Chain, Decided, Parts};
use super::name::{Ballot, Kind, Part};

/// An object without a version that counts, though one was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    /// The highest version of which something tells that it was decided; the next one is open.
    pub version: u32,
    /// The value of that version, where it is there and is known to have been decided.
    pub value: Option<Decided>,
    /// Whether a ballot of the next version has a value: it goes before the one that is left.
    pub has_next: bool,
    /// Parts that are there: they go before anything that is decided later goes.
    pub remains: Vec<(Ballot, Part)>,
    /// What is missing, for people.
    pub what: String,
}

impl Lost {
    /// Whether what is left tells a value.
    pub(super) fn is_determined(&self) -> bool {
        self.has_next || self.value.is_some()
    }

    /// The nonce of the ballot whose value it is; 0 when none is known.
    pub(super) fn base_nonce(&self) -> u64 {
        self.value.map_or(0, |value| value.ballot.nonce)
    }

    /// What is left when the value of a version that counts is not what was written.
    pub(super) fn overwritten(current: &Decided, chain: &Chain) -> Self {
        let version = current.ballot.version;
        Self {
            version,
            value: None,
            has_next: has_value(chain, version + 1),
            remains: parts_of(current.ballot, chain.parts(current.ballot)),
            what: format!("the value of its version {version} was overwritten"),
        }
    }
}

/// Whether the parts of a ballot tell that its version was decided; late debris of a life that has ended has but one part.
fn proves(parts: &Parts, is_anchored: bool) -> bool {
    match parts.accepted {
        // The last that is left of a deletion, when the removal of the tombstone was interrupted.
        Some(accepted) if accepted.kind == Kind::Tombstone && parts.prepared.is_none() && !is_anchored => {
            false
        }
        accepted => parts.is_marked && (parts.prepared.is_some() || accepted.is_some()),
    }
}

fn parts_of(ballot: Ballot, parts: Parts) -> Vec<(Ballot, Part)> {
    let prepared = parts.prepared.map(|base| Part::Prepared { base });
    let accepted = parts.accepted.map(|a| Part::Accepted { operation: a.operation, kind: a.kind });
    let marked = parts.is_marked.then_some(Part::Marked);
    [prepared, accepted, marked].into_iter().flatten().map(|part| (ballot, part)).collect()
}

fn has_value(chain: &Chain, version: u32) -> bool {
    chain.highest_value(version).is_some()
}

impl Chain {
    /// What is left of an object of which no version counts; nothing where it is not there, as far as this look shows.
    pub(super) fn lost(&self) -> Option<Lost> {
        let is_anchored = self.is_anchored();
        let is_lost = |(ballot, parts): (Ballot, Parts)| {
            proves(&parts, is_anchored)
                || ballot.version > 1 && parts.prepared.is_some() && parts.accepted.is_some()
        };
        if self.current().is_some() || !self.ballots().any(is_lost) {
            return None;
        }
        // In doubt a version counts as decided: then nothing below it is taken for the object's value. There is no doubt
        // about a value that stands alone below an open ballot with a value: if any was decided, then that one.
        let decided = |(ballot, parts): (Ballot, Parts)| {
            let is_below = || self.highest_value(ballot.version).is_some_and(|open| open.ballot > ballot);
            match parts.is_marked || parts.prepared.is_none() && !is_below() {
                true => ballot.version,
                false => ballot.version - 1,
            }
        };
        let version = self.ballots().map(decided).max()?;
        let value = self.known_value(version);
        let has_next = has_value(self, version.saturating_add(1));
        Some(Lost { version, value, has_next, remains: self.remains(version), what: self.missing(version) })
    }

    /// Ballots without a first part, which do not count and never will: what came late, or what an interrupted removal left.
    pub(super) fn debris(&self) -> impl Iterator<Item = (Ballot, Parts)> + '_ {
        self.ballots().filter(|(_, parts)| parts.prepared.is_none())
    }

    /// The value of a version that was decided. All ballots that are marked have it, and all that were when somebody
    /// opened another one on them, and those above that have a value at all.
    fn known_value(&self, version: u32) -> Option<Decided> {
        let is_base =
            |nonce: u64| self.open(version.saturating_add(1)).any(|(_, parts)| parts.prepared == Some(nonce));
        let is_decided = |ballot: Ballot, parts: &Parts| parts.is_marked || is_base(ballot.nonce);
        let of_version: Vec<_> = self.ballots().filter(|(ballot, _)| ballot.version == version).collect();
        // A mark alone may be late debris of another life: what is below it or above it says nothing.
        let marked = of_version.iter().rev().find(|(ballot, parts)| is_decided(*ballot, parts))?.0;
        let is_above = |ballot: Ballot, parts: &Parts| ballot >= marked && parts.prepared.is_some();
        let with_value =
            |(ballot, parts): &(Ballot, Parts)| Some(Decided { ballot: *ballot, accepted: parts.accepted? });
        let sure =
            of_version.iter().filter(|(ballot, parts)| is_decided(*ballot, parts)).find_map(with_value);
        let above =
            || of_version.iter().filter(|(ballot, parts)| is_above(*ballot, parts)).find_map(with_value);
        sure.or_else(above)
    }

    /// Parts that nobody removes before whatever is decided from now on.
    fn remains(&self, version: u32) -> Vec<(Ballot, Part)> {
        let is_of = |(ballot, parts): &(Ballot, Parts)| {
            ballot.version >= version && (parts.is_marked || parts.accepted.is_some())
        };
        let found: Vec<_> =
            self.ballots().filter(is_of).flat_map(|(ballot, parts)| parts_of(ballot, parts)).collect();
        if !found.is_empty() {
            return found;
        }
        let is_anchor = |(ballot, parts): &(Ballot, Parts)| ballot.version == 1 && parts.is_marked;
        self.ballots().filter(is_anchor).flat_map(|(ballot, parts)| parts_of(ballot, parts)).collect()
    }

    fn missing(&self, version: u32) -> String {
        let of_version = || self.ballots().filter(move |(ballot, _)| ballot.version == version);
        if has_value(self, version.saturating_add(1)) {
            return format!("the mark of its version {} is missing", version.saturating_add(1));
        }
        match of_version().find(|(_, parts)| parts.is_marked) {
            Some((_, parts)) if parts.accepted.is_some() => {
                format!("the first part of its version {version} is missing")
            }
            Some(_) => format!("the value of its version {version} is missing"),
            None if self.known_value(version).is_some() => {
                format!("the mark of its version {version} is missing")
            }
            None => format!("all parts of its version {version} are missing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entry, Key};

    /// A chain of these parts, as `version.nonce.part`.
    fn chain(parts: &[&str]) -> Chain {
        let entry = |text: &&str| {
            let [version, nonce, part] = text.split('.').collect::<Vec<_>>()[..] else { unreachable!() };
            let part = match part {
                "p" => "p0000000000000001".to_owned(),
                "a" => format!("a{nonce:0>16}v"),
                "t" => format!("a{nonce:0>16}t"),
                _ => "d".to_owned(),
            };
            let key = format!("refs/x%3A/r{version:0>8}.00000001.{nonce:0>16}.{part}");
            Entry { key: Key::new(key).unwrap(), size: 600 }
        };
        Chain::of(&Key::new("refs/x").unwrap(), &parts.iter().map(entry).collect::<Vec<_>>())
    }

    fn told(parts: &[&str]) -> Option<(u32, Option<u64>, bool)> {
        let lost = chain(parts).lost()?;
        Some((lost.version, lost.value.map(|value| value.ballot.nonce), lost.has_next))
    }

    #[test]
    fn what_the_protocol_leaves_is_not_lost() {
        for sound in [
            // Nothing, an open creation, one that has a value, a version that counts, an open replacement.
            &[][..],
            &["1.1.p"],
            &["1.1.p", "1.1.a"],
            &["1.1.p", "1.1.a", "1.1.d"],
            &["1.1.p", "1.1.d", "2.2.p", "2.2.a", "2.2.d", "3.3.p"],
            // Late parts of a life that has ended, a removal that was interrupted, a slow replacement.
            &["3.3.a"],
            &["3.3.d"],
            &["3.3.t", "3.3.d"],
            &["3.3.p"],
        ] {
            assert_eq!(told(sound), None, "{sound:?}");
        }
    }

    #[test]
    fn each_part_that_is_lost_leaves_what_it_leaves() {
        let anchor = ["1.1.p", "1.1.d"];
        let with = |parts: &[&'static str]| told(&[&anchor[..], parts].concat());
        // The first part, the value, and the mark of version 2.
        assert_eq!(with(&["2.2.a", "2.2.d"]), Some((2, Some(2), false)));
        assert_eq!(with(&["2.2.p", "2.2.d"]), Some((2, None, false)));
        assert_eq!(with(&["2.2.p", "2.2.a"]), Some((1, None, true)));
        // The whole of it.
        assert_eq!(with(&[]), Some((1, None, false)));
        assert_eq!(with(&["3.3.p"]), Some((2, None, false)));
        // Of the only version there is; without its mark it is an open creation.
        assert_eq!(told(&["1.1.a", "1.1.d"]), Some((1, Some(1), false)));
        assert_eq!(told(&["1.1.p", "1.1.d"]), Some((1, None, false)));
        // A deletion goes on.
        assert_eq!(with(&["2.2.t", "2.2.d"]), Some((2, Some(2), false)));
    }

    #[test]
    fn what_may_have_been_replaced_is_not_taken_for_the_value() {
        // Something above it was decided or may have been.
        assert_eq!(told(&["2.2.a", "2.2.d", "3.3.d"]), Some((3, None, false)));
        assert_eq!(told(&["2.2.a", "2.2.d", "3.3.a"]), Some((3, None, false)));
        assert_eq!(told(&["2.2.a", "2.2.d", "4.4.p"]), Some((3, None, false)));
        // Whoever opened a ballot on it found its mark.
        assert_eq!(told(&["2.1.p", "2.1.a", "3.3.p"]), Some((2, Some(1), false)));
        assert_eq!(told(&["2.2.p", "2.2.a", "3.3.p"]), Some((2, None, false)));
        // A value that came late, of a ballot that was given up; where it is the highest, it may be what was decided.
        assert_eq!(told(&["2.1.a", "2.2.p", "2.2.a"]), Some((1, None, true)));
        assert_eq!(told(&["2.2.p", "2.2.a", "2.3.a"]), Some((2, None, false)));
        // A mark that came late, of another life.
        assert_eq!(told(&["1.1.d", "1.2.p", "1.2.a", "1.3.a", "1.3.d"]), Some((1, Some(3), false)));
        // A replacement that was accepted goes before what it replaces.
        assert_eq!(told(&["2.2.a", "2.2.d", "3.3.p", "3.3.a"]), Some((2, Some(2), true)));
        // A ballot below the one that is marked may have had another value, one above it had the same.
        assert_eq!(told(&["2.2.p", "2.2.a", "2.3.d"]), Some((2, None, false)));
        assert_eq!(told(&["2.2.d", "2.3.p", "2.3.a"]), Some((2, Some(3), false)));
    }
}
