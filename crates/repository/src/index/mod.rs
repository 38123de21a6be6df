//! The index: where each blob lies.
//!
//! It is never the only truth: packs describe themselves, and [`crate::Repository::rebuild_index`] makes it anew from
//! them. It is a set of immutable runs, written by whoever wrote packs and merged by collections.

mod merge;
pub(crate) mod run;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub(crate) use merge::{merge, visit_sorted};
pub(crate) use run::{Entry, Run};

use crate::Result;
use crate::id::{BlobId, PackId};

/// Where a blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// Offset of its frame in the pack.
    pub offset: u32,
    /// Length of the frame in the pack.
    pub length: u32,
    /// Offset of the blob in the frame's content.
    pub content_offset: u32,
}

/// Whether a pack may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PackState {
    /// It is there, and nobody means to delete it.
    Present,
    /// It is there, but a collection means to delete it: nothing new may refer to it.
    Condemned,
    /// It is gone.
    Absent,
}

/// Which packs there are, as of one look at the store.
#[derive(Debug, Clone, Default)]
pub(crate) struct PackStates {
    /// Sizes of the packs that are there.
    pub(crate) present: HashMap<PackId, u64>,
    /// Those among them that a collection means to delete.
    pub(crate) condemned: HashSet<PackId>,
}

impl PackStates {
    pub(crate) fn of(&self, pack: &PackId) -> PackState {
        // A pack that is condemned and gone already is gone.
        match (self.present.contains_key(pack), self.condemned.contains(pack)) {
            (false, _) => PackState::Absent,
            (true, true) => PackState::Condemned,
            (true, false) => PackState::Present,
        }
    }
}

/// The index as of one look at the store.
pub(crate) struct Index {
    runs: Vec<Arc<Run>>,
    ranges: Ranges,
    states: PackStates,
}

/// Which runs may hold a name: many runs of a large index have ranges that do not overlap.
struct Ranges {
    /// The runs by the first of their names: first name, greatest last name so far, number of the run.
    runs: Vec<(BlobId, BlobId, usize)>,
}

impl Ranges {
    fn new(runs: &[Arc<Run>]) -> Self {
        let mut ranges: Vec<(BlobId, BlobId, usize)> =
            runs.iter().enumerate().map(|(number, run)| (run.first(), run.last(), number)).collect();
        Self::order(&mut ranges);
        Self { runs: ranges }
    }

    /// Puts ranges in order, and the greatest last name so far in place of each one's own.
    fn order(ranges: &mut [(BlobId, BlobId, usize)]) {
        ranges.sort_unstable();
        let mut greatest = BlobId([0; 32]);
        for (_, last, _) in ranges {
            greatest = greatest.max(*last);
            *last = greatest;
        }
    }

    /// The runs that begin at or before the name, and so many others as it takes to be sure.
    fn around(&self, id: &BlobId) -> impl Iterator<Item = usize> {
        let end = self.runs.partition_point(|(first, ..)| first <= id);
        let may_reach = |(_, greatest, _): &&(BlobId, BlobId, usize)| greatest >= id;
        self.runs[..end].iter().rev().take_while(may_reach).map(|(.., number)| *number)
    }
}

/// A place in an index: the run and the rank in it.
pub(crate) type Place = (usize, usize);

impl Index {
    pub(crate) fn new(runs: Vec<Arc<Run>>, states: PackStates) -> Self {
        Self { ranges: Ranges::new(&runs), runs, states }
    }

    pub(crate) fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    pub(crate) fn states(&self) -> &PackStates {
        &self.states
    }

    /// Whether every entry leads to a pack that is there and that nobody means to delete. Only then is an entry alone
    /// enough to know that a blob may be referred to.
    pub(crate) fn is_settled(&self) -> bool {
        self.states.condemned.is_empty() && self.speaks_of_present_packs()
    }

    /// Whether all packs that the runs speak of are there.
    pub(crate) fn speaks_of_present_packs(&self) -> bool {
        self.runs.iter().all(|run| run.packs.iter().all(|pack| self.states.present.contains_key(pack)))
    }

    /// Adds a run that this process has written.
    pub(crate) fn add(&mut self, run: Arc<Run>, sizes: impl IntoIterator<Item = (PackId, u64)>) {
        self.runs.push(run);
        self.ranges = Ranges::new(&self.runs);
        self.states.present.extend(sizes);
    }

    /// Whether the blob may be there, judged by memory alone; wrong once in thousands when it says yes.
    pub(crate) fn may_contain(&self, id: &BlobId) -> bool {
        self.ranges.around(id).any(|number| self.runs[number].may_contain(id))
    }

    /// The best place of a blob: in a pack that nobody means to delete where there is one; always the same for the
    /// same index.
    pub(crate) fn place(&self, id: &BlobId) -> Result<Option<(Place, Location, PackState)>> {
        let mut best: Option<(Place, Location, PackState)> = None;
        for number in self.ranges.around(id) {
            self.runs[number].find(id, |rank, location| {
                let state = self.states.of(&location.pack);
                let better = match (state, &best) {
                    (PackState::Absent, _) => false,
                    (_, None) | (PackState::Present, Some((.., PackState::Condemned))) => true,
                    (PackState::Condemned, Some((.., PackState::Present))) => false,
                    // Two copies: keep to the one whose pack comes first, so that every reader and every collection
                    // agrees on which of them is in use.
                    (_, Some((_, other, _))) => location < *other,
                };
                if better {
                    best = Some(((number, rank), location, state));
                }
            })?;
        }
        Ok(best)
    }

    /// All places of a blob, the best first; those in packs that are gone are left out.
    pub(crate) fn places(&self, id: &BlobId) -> Result<Vec<(Location, PackState)>> {
        let mut places = Vec::new();
        for number in self.ranges.around(id) {
            self.runs[number].find(id, |_, location| match self.states.of(&location.pack) {
                PackState::Absent => {}
                state => places.push((location, state)),
            })?;
        }
        places.sort_unstable_by_key(|(location, state)| (*state == PackState::Condemned, *location));
        places.dedup();
        Ok(places)
    }

    /// Whether any run speaks of the blob as lying in this pack.
    pub(crate) fn speaks_of_in(&self, id: &BlobId, pack: &PackId) -> Result<bool> {
        let mut found = false;
        for number in self.ranges.around(id) {
            self.runs[number].find(id, |_, location| found |= location.pack == *pack)?;
        }
        Ok(found)
    }

    /// Whether any run speaks of the blob, be its pack there or not.
    pub(crate) fn speaks_of(&self, id: &BlobId) -> Result<bool> {
        let mut found = false;
        for number in self.ranges.around(id) {
            self.runs[number].find(id, |_, _| found = true)?;
        }
        Ok(found)
    }

    /// Where a reader finds a blob.
    pub(crate) fn locate(&self, id: &BlobId) -> Result<Option<Location>> {
        Ok(self.place(id)?.map(|(_, location, _)| location))
    }

    /// Whether a writer may refer to the blob instead of storing it.
    pub(crate) fn can_reuse(&self, id: &BlobId) -> Result<bool> {
        Ok(matches!(self.place(id)?, Some((.., PackState::Present))))
    }

    /// Number of entries in all runs; blobs in several runs count several times.
    pub(crate) fn entry_count(&self) -> u64 {
        self.runs.iter().map(|run| run.len() as u64).sum()
    }

    /// Bytes of memory that the tables take.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.memory_bytes() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_that_may_hold_a_name_is_asked_and_few_others_are() {
        let name = |number: u8| BlobId([number; 32]);
        let of = |ranges: &[(u8, u8)]| {
            let mut runs: Vec<(BlobId, BlobId, usize)> = ranges
                .iter()
                .enumerate()
                .map(|(number, (first, last))| (name(*first), name(*last), number))
                .collect();
            Ranges::order(&mut runs);
            Ranges { runs }
        };
        let mut state = 7_u64;
        let mut random = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 33) % bound) as u8
        };
        for _ in 0..500 {
            let count = random(8);
            let pairs: Vec<(u8, u8)> = (0..count).map(|_| (random(50), random(50))).collect();
            let pairs: Vec<(u8, u8)> = pairs.iter().map(|(a, b)| (*a.min(b), *a.max(b))).collect();
            let ranges = of(&pairs);
            for number in 0..50 {
                let asked: HashSet<usize> = ranges.around(&name(number)).collect();
                let holding = |(_, (first, last)): &(usize, &(u8, u8))| (*first..=*last).contains(&number);
                assert!(pairs.iter().enumerate().filter(holding).all(|(run, _)| asked.contains(&run)));
            }
        }
        let apart = of(&[(10, 19), (0, 9), (20, 29)]);
        assert_eq!(apart.around(&name(15)).collect::<Vec<_>>(), [0], "one of many that do not overlap");
    }
}
