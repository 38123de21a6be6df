//! Which host clusters are taken.

use super::unsupported;
use crate::{Result, Storage};

/// Clusters of the largest file that is read: a bitmap of them takes 128 MiB, of which the kernel gives only what is used.
const CLUSTERS_MAX: u64 = 1 << 30;

/// A set of host clusters, a bit each.
pub(super) struct Occupied {
    words: Vec<u64>,
    cluster_bits: u32,
}

impl Occupied {
    /// An empty set for the clusters of a file.
    pub(super) fn new(storage: &dyn Storage, cluster_bits: u32) -> Result<Self> {
        let clusters = storage.size().div_ceil(1 << cluster_bits);
        if clusters > CLUSTERS_MAX {
            return Err(unsupported(storage, format!("a file of {clusters} clusters")));
        }
        Ok(Self { words: vec![0; clusters.div_ceil(64) as usize], cluster_bits })
    }

    /// Adds the clusters of a stretch, and says whether all were free. Clusters behind the end of the file are ignored.
    pub(super) fn insert(&mut self, host: u64, length: u64) -> bool {
        let mut free = true;
        for cluster in self.clusters(host, length) {
            let (word, bit) = ((cluster / 64) as usize, 1 << (cluster % 64));
            free &= self.words[word] & bit == 0;
            self.words[word] |= bit;
        }
        free
    }

    /// Whether a stretch touches a cluster of the set.
    pub(super) fn touches(&self, host: u64, length: u64) -> bool {
        self.clusters(host, length)
            .any(|cluster| self.words[(cluster / 64) as usize] >> (cluster % 64) & 1 == 1)
    }

    fn clusters(&self, host: u64, length: u64) -> std::ops::Range<u64> {
        let end = host.saturating_add(length).div_ceil(1 << self.cluster_bits);
        let known = self.words.len() as u64 * 64;
        host >> self.cluster_bits..end.min(known)
    }
}
