//! Blocks of dynamic and differencing images.
//!
//! A block's bit map says which of its sectors hold something, the highest bit of the first byte standing for the first
//! sector. The others are the parent's, or zeros where there is no parent.

use super::super::bits::{BitOrder, same_bits};
use super::super::claims::Claims;
use super::super::image_file::{ImageFile, check_inside};
use super::super::mapped::{Content, Mapped, Run};
use super::super::table::{Ledger, Pieces, Table, piece};
use super::Vhd;
use super::footer::{FOOTER_BYTES, Footer, Kind};
use super::header::{HEADER_BYTES, Header};
use super::parent::open_parent;
use crate::cache::Cache;
use crate::{OpenOptions, Result};

const SECTOR_BYTES: u64 = 512;
/// Table entry of a block that is not there.
const FREE: u32 = 0xffff_ffff;
/// Bitmaps kept: 32 KiB for blocks of 2 MiB.
const BITMAPS_KEPT: usize = 64;

/// The blocks of an image.
pub(super) struct Dynamic {
    file: ImageFile,
    disk_bytes: u64,
    header: Header,
    table: Table,
    ledger: Ledger,
    bitmaps: Pieces,
    parent: Option<Mapped<Vhd>>,
}

impl Dynamic {
    /// Reads header and table, and opens the parent if there is one and the caller allows it.
    pub(super) fn open(file: &ImageFile, footer: &Footer, options: &OpenOptions) -> Result<Self> {
        let header = Header::read(file, footer)?;
        let table = Table::new(file.clone(), "the block table", header.table_offset, header.blocks, 4)?;
        let mut claims = Claims::new(header.bitmap_bytes + header.block_bytes);
        claim_tables(&mut claims, file, footer, &table).map_err(|what| file.corrupt(what))?;
        let parent = match footer.kind {
            Kind::Differencing => Some(Mapped(open_parent(file, &header, options)?)),
            _ => None,
        };
        Ok(Self {
            file: file.clone(),
            disk_bytes: footer.disk_bytes,
            ledger: Ledger::new(file.clone(), claims),
            bitmaps: Cache::new(BITMAPS_KEPT),
            header,
            table,
            parent,
        })
    }

    /// Facts for people.
    pub(super) fn details(&self) -> Vec<(&'static str, String)> {
        let mut details = vec![("block size", self.header.block_bytes.to_string())];
        if let Some(parent) = &self.parent {
            details.push(("parent", parent.0.file.name().to_owned()));
        }
        details
    }

    /// The run at `offset`.
    pub(super) fn run(&self, offset: u64, length: u64) -> Result<Run<'_>> {
        let (block, skip) = (offset / self.header.block_bytes, offset % self.header.block_bytes);
        let (entry, alike) = self.entries(block, (skip + length).div_ceil(self.header.block_bytes))?;
        if entry == FREE {
            let length = length.min(alike * self.header.block_bytes - skip);
            return Ok(Run { length, content: self.absent() });
        }
        let length = length.min(self.header.block_bytes - skip);
        let place = u64::from(entry) * SECTOR_BYTES;
        let bitmap = piece(&self.bitmaps, block, || {
            Ok(self.file.read("a block's bitmap", place, self.header.bitmap_bytes as usize)?.into())
        })?;
        let (present, sectors) = same_bits(
            &bitmap,
            BitOrder::HighFirst,
            skip / SECTOR_BYTES,
            (skip + length).div_ceil(SECTOR_BYTES),
        );
        let content = if present {
            Content::Stored { storage: self.file.storage(), offset: place + self.header.bitmap_bytes + skip }
        } else {
            self.absent()
        };
        Ok(Run { length: length.min(sectors * SECTOR_BYTES - skip % SECTOR_BYTES), content })
    }

    fn absent(&self) -> Content<'_> {
        self.parent.as_ref().map_or(Content::Unallocated, |parent| Content::Parent(parent))
    }

    fn entries(&self, block: u64, most: u64) -> Result<(u32, u64)> {
        let (entry, count) = self.table.entries(block, most, |page, first, bytes| {
            self.ledger.once(page, |claims| {
                let mut entries = (first..).zip(bytes.as_chunks::<4>().0);
                entries.try_for_each(|(block, entry)| self.claim(claims, block, u32::from_be_bytes(*entry)))
            })
        })?;
        Ok((u32::from_be_bytes(entry), count))
    }

    fn claim(&self, claims: &mut Claims, block: u64, entry: u32) -> Result<(), String> {
        if entry == FREE {
            return Ok(());
        }
        let (what, place) = (format!("block {block}"), u64::from(entry) * SECTOR_BYTES);
        let used = self.header.block_bytes.min(self.disk_bytes - block * self.header.block_bytes);
        check_inside(self.file.size(), &what, place, self.header.bitmap_bytes + used)?;
        claims.block(&what, place, self.header.bitmap_bytes + self.header.block_bytes)
    }
}

fn claim_tables(claims: &mut Claims, file: &ImageFile, footer: &Footer, table: &Table) -> Result<(), String> {
    claims.area("the copy of the footer", 0, FOOTER_BYTES)?;
    claims.area("the header", footer.header_offset, HEADER_BYTES as u64)?;
    claims.area("the block table", table.offset(), table.length())?;
    if footer.at_end {
        claims.area("the footer", file.size() - FOOTER_BYTES, FOOTER_BYTES)?;
    }
    Ok(())
}
