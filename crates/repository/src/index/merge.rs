//! Many runs into few, whose ranges of names do not overlap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::run::{self, EncodedRun, RUN_ENTRIES_MAX};
use super::{Entry, Place, Run};
use crate::Result;
use crate::id::PackId;

/// Takes entries in order and hands out runs of bounded size.
pub(crate) struct RunWriter<F> {
    entries: Vec<Entry>,
    store: F,
}

impl<F: FnMut(EncodedRun) -> Result<()>> RunWriter<F> {
    /// A writer that hands complete runs to `store`.
    pub(crate) fn new(store: F) -> Self {
        Self { entries: Vec::new(), store }
    }

    /// Takes the next entry; a double of the last is dropped.
    pub(crate) fn push(&mut self, entry: Entry) -> Result<()> {
        if self.entries.last() == Some(&entry) {
            return Ok(());
        }
        if self.entries.len() >= RUN_ENTRIES_MAX {
            self.flush()?;
        }
        self.entries.push(entry);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let run = run::encode(&self.entries);
        self.entries.clear();
        (self.store)(run)
    }

    /// Hands out the last run.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

/// A run that is read in order.
struct Cursor {
    run: Arc<Run>,
    block: std::vec::IntoIter<Entry>,
    /// Rank of the first entry after the block.
    next_rank: usize,
    /// Rank of the next entry.
    rank: usize,
}

impl Cursor {
    fn next(&mut self) -> Result<Option<(Entry, usize)>> {
        if self.block.len() == 0 {
            let block = self.run.block(self.next_rank)?;
            self.next_rank += block.len();
            self.block = block.into_iter();
        }
        let rank = self.rank;
        self.rank += 1;
        Ok(self.block.next().map(|entry| (entry, rank)))
    }
}

/// Calls `visit` with every entry of some runs and the place where it stands, in order of the entries.
/// Memory is bounded by a block of each run.
pub(crate) fn visit_sorted(
    runs: &[Arc<Run>],
    mut visit: impl FnMut(Entry, Place) -> Result<()>,
) -> Result<()> {
    let mut cursors: Vec<Cursor> = runs
        .iter()
        .map(|run| Cursor { run: Arc::clone(run), block: Vec::new().into_iter(), next_rank: 0, rank: 0 })
        .collect();
    let mut heap = BinaryHeap::new();
    for (number, cursor) in cursors.iter_mut().enumerate() {
        if let Some((entry, rank)) = cursor.next()? {
            heap.push(Reverse((entry, number, rank)));
        }
    }
    while let Some(Reverse((entry, number, rank))) = heap.pop() {
        visit(entry, (number, rank))?;
        if let Some((entry, rank)) = cursors[number].next()? {
            heap.push(Reverse((entry, number, rank)));
        }
    }
    Ok(())
}

/// Merges runs, leaving out the entries of packs that `keep` refuses, and hands new runs to `store`.
/// Memory is bounded by one new run and a block of each old one.
pub(crate) fn merge(
    runs: &[Arc<Run>],
    keep: impl Fn(&PackId) -> bool,
    store: impl FnMut(EncodedRun) -> Result<()>,
) -> Result<()> {
    let mut writer = RunWriter::new(store);
    visit_sorted(runs, |entry, _| if keep(&entry.location.pack) { writer.push(entry) } else { Ok(()) })?;
    writer.finish()
}
