//! The tree of an earlier snapshot, as something to build on.

use crate::Result;
use crate::blobs::Blobs;
use crate::config::Config;
use crate::id::BlobId;
use crate::repository::Repository;
use crate::snapshot::Snapshot;
use crate::tree::Node;

use super::Changed;

/// The nodes of a snapshot by their place.
pub(super) struct Tree {
    blobs: Blobs,
    root: Option<BlobId>,
    level: u8,
    fanout_bits: u8,
    chunk_count: u64,
}

impl Tree {
    pub(super) fn open(repository: &Repository, snapshot: &Snapshot) -> Result<Self> {
        Ok(Self {
            blobs: Blobs::open(repository)?,
            root: snapshot.root,
            level: snapshot.root_level,
            fanout_bits: snapshot.fanout_bits,
            chunk_count: snapshot.chunk_count(),
        })
    }

    pub(super) fn root(&self) -> Option<BlobId> {
        self.root
    }

    /// The node at a place; none where all below it is zero, or beyond the end of the disk.
    pub(super) fn node(&self, level: u8, number: u64) -> Result<Option<Node>> {
        let fanout_bits = u32::from(self.fanout_bits);
        let shift = (u32::from(level) + 1) * fanout_bits;
        let is_within = match number.checked_shl(shift) {
            Some(first) => first >> shift == number && first < self.chunk_count,
            None => number == 0 && self.chunk_count > 0,
        };
        if level > self.level || !is_within {
            return Ok(None);
        }
        let mut id = self.root;
        let mut at = self.level;
        loop {
            let Some(found) = id else { return Ok(None) };
            let node = self.blobs.node(found, at)?;
            if at == level {
                return Ok(Some(node));
            }
            at -= 1;
            let index = number >> (u32::from(at - level) * fanout_bits) & ((1 << fanout_bits) - 1);
            id = node.children.get(index as usize).copied().flatten();
        }
    }

    /// The leaf at a place, as a hint: none also where it cannot be read.
    pub(super) fn hint(&self, number: u64) -> Option<Node> {
        self.node(0, number).ok().flatten()
    }
}

/// The snapshot from which the new one differs in what has changed.
pub(super) struct Base {
    pub(super) tree: Tree,
    /// What may have changed, as chunk numbers, first and end, in order and apart.
    ranges: Vec<(u64, u64)>,
    /// Bytes of it that hold something other than zeros.
    pub(super) data_bytes: u64,
    /// Whether its blobs may be referred to without a look at where they lie.
    pub(super) is_settled: bool,
    fanout_bits: u8,
}

impl Base {
    pub(super) fn new(
        tree: Tree,
        data_bytes: u64,
        changed: &Changed,
        is_settled: bool,
        config: &Config,
    ) -> Result<Self> {
        let chunk_bytes = config.chunk_bytes() as u64;
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for &(offset, length) in &changed.ranges {
            let first = offset / chunk_bytes;
            let end = offset.saturating_add(length).div_ceil(chunk_bytes).min(tree.chunk_count);
            match ranges.last_mut() {
                Some(last) if first < last.0 => {
                    return Err(crate::Error::Invalid("the changed-block map is not in order".to_owned()));
                }
                Some(last) if first <= last.1 => last.1 = last.1.max(end),
                _ if first < end => ranges.push((first, end)),
                _ => {}
            }
        }
        Ok(Self { tree, ranges, data_bytes, is_settled, fanout_bits: config.fanout_bits })
    }

    /// Calls `visit` with the number of each leaf that has to be looked at, and the places of the chunks in it that may
    /// have changed, first and end.
    pub(super) fn leaves(&self, mut visit: impl FnMut(u64, Vec<(u64, u64)>) -> Result<()>) -> Result<()> {
        let fanout = 1_u64 << self.fanout_bits;
        let mut ranges = self.ranges.iter().copied().peekable();
        let mut next = 0;
        let leaf_count = self.tree.chunk_count.div_ceil(fanout);
        while next < leaf_count {
            if self.is_settled {
                match ranges.peek() {
                    Some((first, _)) => next = next.max(first / fanout),
                    None => break,
                }
            }
            let (start, end) = (next * fanout, (next + 1) * fanout);
            let mut places = Vec::new();
            while let Some(&(first, stop)) = ranges.peek().filter(|(first, _)| *first < end) {
                places.push((first.max(start) - start, stop.min(end) - start));
                if stop > end {
                    break;
                }
                ranges.next();
            }
            visit(next, places)?;
            next += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(ranges: &[(u64, u64)], is_settled: bool) -> Vec<(u64, Vec<(u64, u64)>)> {
        let directory = tempfile::tempdir().unwrap();
        let store = leeward_store::DirectoryStore::create(directory.path(), &crate::repository::PREFIXES);
        let repository =
            Repository::init(std::sync::Arc::new(store.unwrap()), &crate::InitOptions::default()).unwrap();
        let config = repository.config().clone();
        let tree = Tree {
            blobs: Blobs::open(&repository).unwrap(),
            root: None,
            level: 1,
            fanout_bits: config.fanout_bits,
            chunk_count: 1000,
        };
        let bytes = config.chunk_bytes() as u64;
        let changed = Changed {
            base: crate::SnapshotId([0; 32]),
            ranges: ranges
                .iter()
                .map(|(first, end)| (first * bytes + 5, (end - first) * bytes - 10))
                .collect(),
        };
        let mut found = Vec::new();
        let base = Base::new(tree, 0, &changed, is_settled, &config).unwrap();
        base.leaves(|number, places| {
            found.push((number, places));
            Ok(())
        })
        .unwrap();
        found
    }

    #[test]
    fn leaves_that_changed_are_visited_in_order() {
        let found = leaves(&[(0, 1), (5, 7), (100, 300), (999, 1200)], true);
        let expected = vec![
            (0, vec![(0, 1), (5, 7), (100, 128)]),
            (1, vec![(0, 128)]),
            (2, vec![(0, 44)]),
            (7, vec![(103, 104)]),
        ];
        assert_eq!(found, expected);
        assert!(leaves(&[], true).is_empty());
        let all = leaves(&[(130, 131)], false);
        assert_eq!(all.len(), 8);
        assert_eq!(all[1], (1, vec![(2, 3)]));
    }
}
