//! A limit on how fast disks are read.

use std::sync::Arc;

use leeward_disk::{Extent, Info, SharedSource, Source};
use leeward_store::RateLimit;

/// Reads larger than this are made and paid for in parts.
const PART_BYTES: usize = 1 << 20;

/// A disk that is read no faster than a limit allows, where there is one.
pub struct LimitedSource<'a> {
    source: SharedSource,
    limit: Option<Arc<RateLimit>>,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> LimitedSource<'a> {
    /// The source under the limit; `stop` says that nothing is to be waited for any more.
    pub fn new(
        source: SharedSource,
        limit: Option<Arc<RateLimit>>,
        stop: &'a (dyn Fn() -> bool + Sync),
    ) -> Self {
        Self { source, limit, stop }
    }
}

impl Source for LimitedSource<'_> {
    fn virtual_size(&self) -> u64 {
        self.source.virtual_size()
    }

    fn info(&self) -> Info {
        self.source.info()
    }

    fn extents(&self, offset: u64, length: u64) -> leeward_disk::Result<Vec<Extent>> {
        self.source.extents(offset, length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> leeward_disk::Result<()> {
        let Some(limit) = &self.limit else { return self.source.read_at(buffer, offset) };
        let mut position = offset;
        for part in buffer.chunks_mut(PART_BYTES) {
            limit.wait(part.len() as u64, self.stop);
            self.source.read_at(part, position)?;
            position += part.len() as u64;
        }
        Ok(())
    }

    fn internal_snapshots(&self) -> Vec<String> {
        self.source.internal_snapshots()
    }
}
