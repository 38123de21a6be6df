//! The block table and what it says of each block; [MS-VHDX] 2.5.
//!
//! The table has an entry per block. The blocks of 2²³ sectors are a *chunk*; after the entries of each chunk stands
//! one more, for the sector bitmap block of that chunk, used only in differencing images.

use super::super::bits::{BitOrder, same_bits};
use super::super::claims::Claims;
use super::super::image_file::{ImageFile, check_inside};
use super::super::mapped::{Content, Mapped, Run};
use super::super::table::{Ledger, Pieces, Table, piece};
use super::metadata::Metadata;
use super::parent::open_parent;
use super::region::Regions;
use super::{MIB, Vhdx};
use crate::cache::Cache;
use crate::{OpenOptions, Result};

/// Sectors in a chunk: as many as a sector bitmap block of 1 MiB has bits.
const CHUNK_SECTORS: u64 = 1 << 23;
/// Bytes of a bitmap read at once: the bits of 16 MiB with sectors of 512 bytes.
const BITMAP_PIECE_BYTES: u64 = 4096;
/// Pieces of bitmaps kept: 256 KiB.
const BITMAP_PIECES_KEPT: usize = 64;

/// What an entry says, apart from the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    NotPresent,
    /// Never written, or discarded; what it reads as is nobody's promise, so zeros.
    Undefined,
    Zero,
    Present,
    /// Some sectors are here, the others are the parent's.
    Partial,
}

/// The blocks of an image.
pub(super) struct Blocks {
    file: ImageFile,
    metadata: Metadata,
    /// Blocks per chunk.
    ratio: u64,
    table: Table,
    ledger: Ledger,
    bitmaps: Pieces,
    parent: Option<Box<Mapped<Vhdx>>>,
}

impl Blocks {
    /// Takes the table, and opens the parent if there is one and the caller allows it.
    pub(super) fn open(
        file: &ImageFile,
        regions: &Regions,
        metadata: Metadata,
        options: &OpenOptions,
    ) -> Result<Self> {
        let ratio = CHUNK_SECTORS * metadata.sector_bytes / metadata.block_bytes;
        let blocks = metadata.disk_bytes.div_ceil(metadata.block_bytes);
        let entries = match &metadata.parent {
            None => blocks + blocks.saturating_sub(1) / ratio,
            Some(_) => blocks.div_ceil(ratio) * (ratio + 1),
        };
        if entries * 8 > regions.block_table.length {
            return Err(file.corrupt(format!(
                "a disk of {} bytes needs a block table of {entries} entries, and the region has {} bytes",
                metadata.disk_bytes, regions.block_table.length
            )));
        }
        let table = Table::new(file.clone(), "the block table", regions.block_table.offset, entries, 8)?;
        let claims = regions.claims().map_err(|what| file.corrupt(what))?;
        let parent = match &metadata.parent {
            None => None,
            Some(locator) => Some(Box::new(Mapped(open_parent(file, locator, options)?))),
        };
        Ok(Self {
            file: file.clone(),
            ratio,
            table,
            ledger: Ledger::new(file.clone(), claims),
            bitmaps: Cache::new(BITMAP_PIECES_KEPT),
            metadata,
            parent,
        })
    }

    /// Size of the disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.metadata.disk_bytes
    }

    /// Facts for people.
    pub(super) fn details(&self) -> Vec<(&'static str, String)> {
        let kind = match (&self.parent, self.metadata.fixed) {
            (Some(_), _) => "differencing",
            (None, true) => "fixed",
            (None, false) => "dynamic",
        };
        let mut details = vec![
            ("subformat", kind.to_owned()),
            ("block size", self.metadata.block_bytes.to_string()),
            ("sector size", self.metadata.sector_bytes.to_string()),
        ];
        if let Some(parent) = &self.parent {
            details.push(("parent", parent.0.file.name().to_owned()));
        }
        details
    }

    /// The run at `offset`.
    pub(super) fn run(&self, offset: u64, length: u64) -> Result<Run<'_>> {
        let (block, skip) = (offset / self.metadata.block_bytes, offset % self.metadata.block_bytes);
        // After the blocks of a chunk stands an entry of another kind.
        let most = (skip + length).div_ceil(self.metadata.block_bytes).min(self.ratio - block % self.ratio);
        let (entry, alike) = self.entries(block + block / self.ratio, most)?;
        let (one, all) = (self.metadata.block_bytes - skip, alike * self.metadata.block_bytes - skip);
        // An entry was checked when its page was first read; the sum saturates for a file that changes meanwhile.
        let stored =
            Content::Stored { storage: self.file.storage(), offset: place(entry).saturating_add(skip) };
        let state = self.state(entry).map_err(|what| self.file.corrupt(format!("block {block}: {what}")))?;
        let (content, most) = match state {
            State::NotPresent => (self.absent(), all),
            State::Undefined => (Content::Unallocated, all),
            State::Zero => (Content::Zero, all),
            State::Present => (stored, one),
            State::Partial => match self.sectors(block, skip, length.min(one))? {
                (true, length) => (stored, length),
                (false, length) => (self.absent(), length),
            },
        };
        Ok(Run { length: length.min(most), content })
    }

    fn absent(&self) -> Content<'_> {
        self.parent.as_ref().map_or(Content::Unallocated, |parent| Content::Parent(parent.as_ref()))
    }

    fn state(&self, entry: u64) -> Result<State, String> {
        match entry & 7 {
            0 => Ok(State::NotPresent),
            1 | 3 => Ok(State::Undefined),
            2 => Ok(State::Zero),
            6 => Ok(State::Present),
            7 if self.metadata.parent.is_some() => Ok(State::Partial),
            7 => Err("it is partly present in an image without a parent".to_owned()),
            other => Err(format!("unknown state {other}")),
        }
    }

    /// Whether the sector at `skip` of a partial block is here, and how many bytes from there on are alike.
    fn sectors(&self, block: u64, skip: u64, length: u64) -> Result<(bool, u64)> {
        let sector_bytes = self.metadata.sector_bytes;
        let chunk = block / self.ratio;
        let (entry, _) = self.entries(chunk * (self.ratio + 1) + self.ratio, 1)?;
        if entry & 7 != 6 {
            return Err(self
                .file
                .corrupt(format!("block {block} is partly present, but its sector bitmap is missing")));
        }
        let first = block % self.ratio * (self.metadata.block_bytes / sector_bytes) + skip / sector_bytes;
        let part = first / 8 / BITMAP_PIECE_BYTES;
        let bits = piece(&self.bitmaps, chunk * (MIB / BITMAP_PIECE_BYTES) + part, || {
            let offset = place(entry).saturating_add(part * BITMAP_PIECE_BYTES);
            Ok(self.file.read("a sector bitmap", offset, BITMAP_PIECE_BYTES as usize)?.into())
        })?;
        let start = first % (8 * BITMAP_PIECE_BYTES);
        let wanted = (skip % sector_bytes + length).div_ceil(sector_bytes);
        let (present, sectors) =
            same_bits(&bits, BitOrder::LowFirst, start, (start + wanted).min(8 * BITMAP_PIECE_BYTES));
        Ok((present, length.min(sectors * sector_bytes - skip % sector_bytes)))
    }

    fn entries(&self, index: u64, most: u64) -> Result<(u64, u64)> {
        let (entry, count) = self.table.entries(index, most, |page, first, bytes| {
            self.ledger.once(page, |claims| {
                let mut entries = (first..).zip(bytes.as_chunks::<8>().0);
                entries.try_for_each(|(index, entry)| self.claim(claims, index, u64::from_le_bytes(*entry)))
            })
        })?;
        Ok((u64::from_le_bytes(entry), count))
    }

    fn claim(&self, claims: &mut Claims, index: u64, entry: u64) -> Result<(), String> {
        let (chunk, within) = (index / (self.ratio + 1), index % (self.ratio + 1));
        if within == self.ratio {
            return self.claim_bitmap(claims, chunk, entry);
        }
        let block = chunk * self.ratio + within;
        let what = format!("block {block}");
        let stored = matches!(
            self.state(entry).map_err(|fault| format!("{what}: {fault}"))?,
            State::Present | State::Partial
        );
        // A differencing image's table ends with whole chunks, so with entries of no block.
        let used = self.metadata.disk_bytes.saturating_sub(block.saturating_mul(self.metadata.block_bytes));
        if !stored || used == 0 {
            return Ok(());
        }
        check_inside(self.file.size(), &what, place(entry), used.min(self.metadata.block_bytes))?;
        claims.block(&what, place(entry), self.metadata.block_bytes)
    }

    fn claim_bitmap(&self, claims: &mut Claims, chunk: u64, entry: u64) -> Result<(), String> {
        let what = format!("the sector bitmap of chunk {chunk}");
        match entry & 7 {
            0 => Ok(()),
            6 if self.metadata.parent.is_none() => Ok(()),
            6 => {
                check_inside(self.file.size(), &what, place(entry), MIB)?;
                claims.block(&what, place(entry), MIB)
            }
            other => Err(format!("{what}: unknown state {other}")),
        }
    }
}

/// Place of a block in the file: the upper 44 bits, in MiB. Fewer than 2⁶⁴ bytes by construction.
fn place(entry: u64) -> u64 {
    entry & !(MIB - 1)
}
