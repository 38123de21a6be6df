//! How much memory and how many threads reading a snapshot may take.

use super::SpillOptions;

/// How a snapshot is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// Bytes of decoded content that are kept, at most; a few chunks are kept however small this is.
    pub cache_bytes: u64,
    /// Bytes that are decoded ahead of each sequential stream, at most; 0 for none. No more than a quarter of the cache
    /// is used for it.
    pub read_ahead_bytes: u64,
    /// Threads that read ahead; 0 for none. They start with the first stream and end with the source.
    pub threads: usize,
    /// Where decoded chunks go that the cache has no room for; nowhere if `None`, then they are decoded again.
    pub spill: Option<SpillOptions>,
}

impl ReadOptions {
    /// For a disk that a machine or a file system uses: 1 GiB, 8 MiB ahead of each stream.
    #[must_use]
    pub fn serving() -> Self {
        Self {
            cache_bytes: 1 << 30,
            read_ahead_bytes: 8 << 20,
            threads: leeward_disk::default_threads(),
            spill: None,
        }
    }
}

impl Default for ReadOptions {
    /// For a disk that is read once, by threads of the reader: 64 MiB, nothing ahead.
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, read_ahead_bytes: 0, threads: 0, spill: None }
    }
}
