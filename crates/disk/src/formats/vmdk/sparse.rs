//! Sparse extents: a grain directory with the places of grain tables, grain tables with the places of grains, grains.
//!
//! In streamOptimized extents a grain is packed: a *marker* with the number of its first sector and the length of its
//! data, then the data in zlib's form. The number proves that a table entry leads to its own grain, so entries that share
//! one are found without keeping a list of places. In other extents places are claimed.

use std::io::Read;
use std::sync::Arc;

use super::super::bytes::{le32, le64};
use super::super::claims::Claims;
use super::super::image_file::{ImageFile, check_inside};
use super::super::mapped::{Content, Packed, Run};
use super::super::table::{Ledger, Pieces, Table, alike, piece};
use super::SECTOR_BYTES;
use super::header::{Header, TABLE_ENTRIES};
use crate::Result;
use crate::cache::Cache;

const TABLE_BYTES: u64 = TABLE_ENTRIES * 4;
/// Entry of a grain, or a grain table, that is not there.
const FREE: u32 = 0;
/// Entry of a grain of zeros, where the header allows it.
const ZEROED: u32 = 1;
const MARKER_BYTES: u64 = 12;
/// Grain tables kept: 256 KiB, for 4 GiB of disk with the usual grains.
const TABLES_KEPT: usize = 128;
/// Unpacked grains kept: 1 MiB with the usual grains.
const GRAINS_KEPT: usize = 16;

/// A sparse extent.
pub(super) struct SparseExtent {
    file: ImageFile,
    header: Header,
    directory: Table,
    tables: Pieces,
    grains: Pieces,
    ledger: Ledger,
}

impl SparseExtent {
    /// Opens an extent, which is taken for sparse whatever it looks like.
    pub(super) fn open(file: ImageFile) -> Result<Self> {
        let header = Header::read(&file)?;
        let grains = header.disk_bytes.div_ceil(header.grain_bytes);
        let entries = grains.div_ceil(TABLE_ENTRIES);
        let directory = Table::new(file.clone(), "the grain directory", header.directory_offset, entries, 4)?;
        let mut claims = Claims::new(header.grain_bytes);
        claim_header(&mut claims, &header, &directory).map_err(|what| file.corrupt(what))?;
        Ok(Self {
            ledger: Ledger::new(file.clone(), claims),
            tables: Cache::new(TABLES_KEPT),
            grains: Cache::new(if header.compressed { GRAINS_KEPT } else { 1 }),
            file,
            header,
            directory,
        })
    }

    /// The file of the extent.
    pub(super) fn file(&self) -> &ImageFile {
        &self.file
    }

    /// Length of the extent.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.header.disk_bytes
    }

    /// Length of a grain.
    pub(super) fn grain_bytes(&self) -> u64 {
        self.header.grain_bytes
    }

    /// Whether grains are compressed.
    pub(super) fn is_compressed(&self) -> bool {
        self.header.compressed
    }

    /// The embedded descriptor, if there is one that is not empty.
    pub(super) fn descriptor(&self) -> Result<Option<Vec<u8>>> {
        let Some((offset, length)) = self.header.descriptor else { return Ok(None) };
        let text = self.file.read("the descriptor", offset, length as usize)?;
        Ok((text.first() != Some(&0)).then_some(text))
    }

    /// The run at `offset` of the extent.
    pub(super) fn run(&self, offset: u64, length: u64) -> Result<Run<'_>> {
        let (grain, skip) = (offset / self.header.grain_bytes, offset % self.header.grain_bytes);
        let Some(table) = self.table(grain / TABLE_ENTRIES)? else {
            let span = TABLE_ENTRIES * self.header.grain_bytes;
            return Ok(Run { length: length.min(span - offset % span), content: Content::Unallocated });
        };
        let most = (skip + length).div_ceil(self.header.grain_bytes);
        let (entry, alike) = alike(&table, grain % TABLE_ENTRIES, most).unwrap_or_default();
        let (content, grains) = match u32::from_le_bytes(entry) {
            FREE => (Content::Unallocated, alike),
            ZEROED if self.header.zeroed_grains => (Content::Zero, alike),
            _ if self.header.compressed => {
                (Content::Packed { packed: self, block: grain, skip: skip as usize }, 1)
            }
            entry => (Content::Stored { storage: self.file.storage(), offset: place(entry) + skip }, 1),
        };
        Ok(Run { length: length.min(grains.max(1) * self.header.grain_bytes - skip), content })
    }

    /// Grain table number `index`, if it is there.
    fn table(&self, index: u64) -> Result<Option<Arc<[u8]>>> {
        // The directory itself holds nothing but the places of tables, which are checked as these are read.
        let (entry, _) = self.directory.entries(index, 1, |_, _, _| Ok(()))?;
        let entry = u32::from_le_bytes(entry);
        if entry == FREE {
            return Ok(None);
        }
        let table = piece(&self.tables, index, || {
            let bytes = self.file.read("a grain table", place(entry), TABLE_BYTES as usize)?;
            self.ledger.once(index, |claims| self.check_table(claims, index, entry, &bytes))?;
            Ok(bytes.into())
        })?;
        Ok(Some(table))
    }

    fn check_table(&self, claims: &mut Claims, index: u64, entry: u32, bytes: &[u8]) -> Result<(), String> {
        claims.area(&format!("grain table {index}"), place(entry), TABLE_BYTES)?;
        let mut grains = (index * TABLE_ENTRIES..).zip(bytes.as_chunks::<4>().0);
        grains.try_for_each(|(grain, entry)| self.check_grain(claims, grain, u32::from_le_bytes(*entry)))
    }

    fn check_grain(&self, claims: &mut Claims, grain: u64, entry: u32) -> Result<(), String> {
        // The last table may have entries past the end of the disk.
        let used = self.used_bytes(grain);
        if entry == FREE || (entry == ZEROED && self.header.zeroed_grains) || used == 0 {
            return Ok(());
        }
        let what = format!("grain {grain}");
        if self.header.compressed {
            return check_inside(self.file.size(), &what, place(entry), MARKER_BYTES).map(drop);
        }
        check_inside(self.file.size(), &what, place(entry), used)?;
        claims.block(&what, place(entry), self.header.grain_bytes)
    }

    /// Bytes of a grain that lie inside the extent.
    fn used_bytes(&self, grain: u64) -> u64 {
        let start = grain.saturating_mul(self.header.grain_bytes);
        self.header.disk_bytes.saturating_sub(start).min(self.header.grain_bytes)
    }

    fn unpack_anew(&self, grain: u64) -> Result<Arc<[u8]>> {
        let entry = match self.table(grain / TABLE_ENTRIES)? {
            Some(table) => le32(&table, (grain % TABLE_ENTRIES) as usize * 4),
            None => FREE,
        };
        let offset = place(entry);
        let marker = self.file.read("a grain's marker", offset, MARKER_BYTES as usize)?;
        let (sector, length) = (le64(&marker, 0), u64::from(le32(&marker, 8)));
        if sector != grain * (self.header.grain_bytes / SECTOR_BYTES) {
            return Err(self.file.corrupt(format!(
                "grain {grain} leads to offset {offset}, where the grain of sector {sector} is"
            )));
        }
        if length == 0 || length > 2 * self.header.grain_bytes {
            return Err(self
                .file
                .corrupt(format!("grain {grain} at offset {offset} has {length} bytes of data")));
        }
        let packed = self.file.read("a grain", offset + MARKER_BYTES, length as usize)?;
        self.inflate(grain, &packed)
    }

    /// Writers either pad the last grain of the disk or not, so that what is needed counts.
    fn inflate(&self, grain: u64, packed: &[u8]) -> Result<Arc<[u8]>> {
        let mut bytes = Vec::with_capacity(self.header.grain_bytes as usize);
        let read =
            flate2::read::ZlibDecoder::new(packed).take(self.header.grain_bytes + 1).read_to_end(&mut bytes);
        let right = self.used_bytes(grain)..=self.header.grain_bytes;
        match read {
            Ok(_) if right.contains(&(bytes.len() as u64)) => Ok(bytes.into()),
            Ok(_) => Err(self.file.corrupt(format!("grain {grain} unpacks to a wrong length"))),
            Err(error) => Err(self.file.corrupt(format!("grain {grain} does not unpack: {error}"))),
        }
    }
}

impl Packed for SparseExtent {
    fn unpack(&self, grain: u64) -> Result<Arc<[u8]>> {
        piece(&self.grains, grain, || self.unpack_anew(grain))
    }
}

/// Place in the file that an entry names.
fn place(entry: u32) -> u64 {
    u64::from(entry) * SECTOR_BYTES
}

fn claim_header(claims: &mut Claims, header: &Header, directory: &Table) -> Result<(), String> {
    claims.area("the header", 0, SECTOR_BYTES)?;
    if let Some((offset, length)) = header.descriptor {
        claims.area("the descriptor", offset, length)?;
    }
    if let Some(place) = header.footer {
        claims.area("the footer", place, 3 * SECTOR_BYTES)?;
    }
    claims.area("the grain directory", directory.offset(), directory.length())
}
