//! Cutting a disk into units of work.

use std::collections::VecDeque;

use crate::{Extent, Result, Source};

/// The usual length of a unit, and the alignment of its end.
pub(crate) const UNIT_BYTES: u64 = 1 << 20;

/// A stretch of a disk for one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// To be read: at most [`UNIT_BYTES`] or one block, whichever is longer.
    Data { offset: u64, length: u64 },
    /// Reads as zeros; of any length.
    Gap { offset: u64, length: u64 },
}

impl Unit {
    /// Offset and length.
    pub(crate) fn range(self) -> (u64, u64) {
        match self {
            Self::Data { offset, length } | Self::Gap { offset, length } => (offset, length),
        }
    }
}

/// Cuts a source into units that begin and end at multiples of a block, so that no two workers touch one block. Extents
/// that do not are widened to blocks: the zeros beside them are then read, and found to be zeros again.
pub(crate) struct Planner<'a> {
    source: &'a dyn Source,
    block: u64,
    position: u64,
    end: u64,
    extents: VecDeque<Extent>,
}

impl<'a> Planner<'a> {
    /// Units of `source` up to `end`. `block` is a power of two.
    pub(crate) fn new(source: &'a dyn Source, end: u64, block: u64) -> Self {
        let end = end.min(source.virtual_size());
        Self { source, block, position: 0, end, extents: VecDeque::new() }
    }

    /// The next unit; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Unit>> {
        if self.position >= self.end {
            return Ok(None);
        }
        let offset = self.position;
        let gap_end = self.gap_end()?;
        if gap_end > offset {
            self.position = gap_end;
            return Ok(Some(Unit::Gap { offset, length: gap_end - offset }));
        }
        let data_end = self.data_end()?;
        self.position = data_end;
        Ok(Some(Unit::Data { offset, length: data_end - offset }))
    }

    /// Where the zeros end that begin at the position: at a block or the end of the disk.
    fn gap_end(&mut self) -> Result<u64> {
        let mut end = self.position;
        while let Some(extent) = self.extent_at(end)? {
            if extent.kind.is_data() {
                return Ok((end & !(self.block - 1)).max(self.position));
            }
            end = extent.end().min(self.end);
            // Long gaps come in parts, so that a walk over an empty disk can be stopped.
            if end - self.position >= 1 << 30 && end < self.end {
                return Ok(end & !(self.block - 1));
            }
        }
        Ok(end)
    }

    /// Where the unit of data ends that begins at the position, whose first block holds data.
    fn data_end(&mut self) -> Result<u64> {
        let unit = UNIT_BYTES.max(self.block);
        let limit = ((self.position & !(unit - 1)) + unit).min(self.end);
        let first_block = (self.position + self.block).min(limit);
        let mut end = self.position;
        while let Some(extent) = self.extent_at(end)?
            && end < limit
            && (extent.kind.is_data() || extent.end() <= first_block)
        {
            end = extent.end();
        }
        Ok(end.max(first_block).next_multiple_of(self.block).min(limit))
    }

    /// The extent that holds `at`; `None` at the end.
    fn extent_at(&mut self, at: u64) -> Result<Option<Extent>> {
        if at >= self.end {
            return Ok(None);
        }
        while self.extents.front().is_some_and(|extent| extent.end() <= self.position) {
            self.extents.pop_front();
        }
        loop {
            let index = self.extents.partition_point(|extent| extent.end() <= at);
            if let Some(extent) = self.extents.get(index) {
                return Ok(Some(*extent));
            }
            let known = self.extents.back().map_or(self.position, Extent::end);
            self.extents.extend(self.source.extents(known, self.end - known)?);
        }
    }
}
