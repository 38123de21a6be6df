//! Cutting a disk into pieces of work.

use std::collections::VecDeque;

use leeward_disk::{Extent, Source};

use crate::Result;
use crate::ledger::UNIT_BYTES;

/// The longest piece of zeros, in bytes: so that a walk over an empty disk can be stopped.
const ZEROS_MAX: u64 = 1 << 30;

/// A piece of work.
pub(crate) enum Work {
    /// One unit that may hold data.
    Data {
        /// Where it begins: a multiple of a unit.
        offset: u64,
        /// Its length: a unit, or what is left of the disk.
        length: u64,
        /// Its content, where it came with the plan.
        content: Option<Vec<u8>>,
    },
    /// Units that are zero.
    Zeros {
        /// Where they begin: a multiple of a unit.
        offset: u64,
        /// Their length: of whole units, or to the end of the disk.
        length: u64,
    },
}

impl Work {
    pub(crate) fn range(&self) -> (u64, u64) {
        match self {
            Self::Data { offset, length, .. } | Self::Zeros { offset, length } => (*offset, *length),
        }
    }

    /// Bytes that count as data.
    pub(crate) fn data_bytes(&self) -> u64 {
        match self {
            Self::Data { length, .. } => *length,
            Self::Zeros { .. } => 0,
        }
    }
}

/// Hands out work in the order of the disk.
pub(crate) trait Feed: Send {
    /// The next piece; `None` at the end of the disk.
    fn next(&mut self) -> Result<Option<Work>>;
}

/// Work from the extents of a disk, and zeros from its end to that of the volume.
pub(crate) struct ExtentFeed<'a> {
    source: &'a dyn Source,
    disk_bytes: u64,
    volume_bytes: u64,
    position: u64,
    extents: VecDeque<Extent>,
}

impl<'a> ExtentFeed<'a> {
    /// Work from `position` on, which is a multiple of a unit.
    pub(crate) fn new(source: &'a dyn Source, volume_bytes: u64, position: u64) -> Self {
        let disk_bytes = source.virtual_size();
        Self { source, disk_bytes, volume_bytes, position, extents: VecDeque::new() }
    }

    /// The first data at or after the position, looked for as far as `limit`, which is returned when there is none.
    fn data_from(&mut self, limit: u64) -> Result<u64> {
        let mut at = self.position;
        let end = limit.min(self.disk_bytes);
        while at < end {
            while self.extents.front().is_some_and(|extent| extent.end() <= at) {
                self.extents.pop_front();
            }
            let Some(extent) = self.extents.front() else {
                self.extents.extend(self.source.extents(at, self.disk_bytes - at)?);
                continue;
            };
            if extent.kind.is_data() {
                return Ok(extent.offset.max(at));
            }
            at = extent.end();
        }
        Ok(limit)
    }
}

impl Feed for ExtentFeed<'_> {
    fn next(&mut self) -> Result<Option<Work>> {
        let offset = self.position;
        if offset >= self.volume_bytes {
            return Ok(None);
        }
        let limit = offset.saturating_add(ZEROS_MAX).min(self.volume_bytes);
        let data = self.data_from(limit)?;
        let zeros_end = if data >= limit { limit } else { data & !(UNIT_BYTES - 1) };
        if zeros_end > offset {
            self.position = zeros_end;
            return Ok(Some(Work::Zeros { offset, length: zeros_end - offset }));
        }
        self.position = (offset + UNIT_BYTES).min(self.volume_bytes);
        Ok(Some(Work::Data { offset, length: self.position - offset, content: None }))
    }
}

/// Fills the buffer with the disk from `offset` on: data is read, all else is zero. `pay` is asked before each read.
pub(crate) fn read_unit(
    source: &dyn Source,
    buffer: &mut [u8],
    offset: u64,
    pay: &dyn Fn(u64) -> Result<()>,
) -> Result<()> {
    let end = (offset + buffer.len() as u64).min(source.virtual_size());
    let mut position = offset;
    buffer.fill(0);
    while position < end {
        for extent in source.extents(position, end - position)? {
            let start = (extent.offset - offset) as usize;
            if extent.kind.is_data() {
                pay(extent.length)?;
                source.read_at(&mut buffer[start..start + extent.length as usize], extent.offset)?;
            }
            position = extent.end();
        }
    }
    Ok(())
}
