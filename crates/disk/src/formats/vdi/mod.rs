//! The VirtualBox disk image: a header, a table with the place of every block, blocks.
//!
//! The format is the one of `VDICore.h` in VirtualBox, version 1.1, written by VirtualBox since 1.6 and by qemu. All
//! numbers are little-endian.
//!
//! Not read: images of versions 0.x, and undo and differencing images. A differencing image knows its parent by UUID only, so
//! finding the parent needs VirtualBox's own registry of disks: merge the snapshots there first.

mod header;

use std::sync::Arc;

use self::header::{Header, SIGNATURE, SIGNATURE_OFFSET};
use super::claims::Claims;
use super::image_file::{ImageFile, check_inside};
use super::mapped::{Content, Mapped, Mapping, Run};
use super::table::{Ledger, Table};
use crate::{Format, Info, OpenOptions, Result, SharedSource, SharedStorage, Storage};

/// Table entry of a block that was never written.
const FREE: u32 = 0xffff_ffff;
/// Table entry of a block that was written and then discarded: it reads as zeros.
const ZERO: u32 = 0xffff_fffe;

/// Whether the content carries the signature of this format.
pub(crate) fn matches(storage: &dyn Storage) -> Result<bool> {
    if storage.size() < SIGNATURE_OFFSET + 4 {
        return Ok(false);
    }
    let mut signature = [0; 4];
    storage.read_at(&mut signature, SIGNATURE_OFFSET)?;
    Ok(u32::from_le_bytes(signature) == SIGNATURE)
}

/// Opens an image.
pub(crate) fn open(storage: SharedStorage, options: &OpenOptions) -> Result<SharedSource> {
    let file = ImageFile::new(storage, Format::Vdi);
    file.refuse_snapshot(options)?;
    let header = Header::read(&file)?;
    let table = Table::new(file.clone(), "the block table", header.table_offset, header.blocks, 4)?;
    let mut claims = Claims::new(header.block_bytes);
    claims
        .area("the header", 0, header.end)
        .and_then(|()| claims.area("the block table", table.offset(), table.length()))
        .map_err(|what| file.corrupt(what))?;
    let ledger = Ledger::new(file.clone(), claims);
    Ok(Arc::new(Mapped(Vdi { file, header, table, ledger })))
}

struct Vdi {
    file: ImageFile,
    header: Header,
    table: Table,
    ledger: Ledger,
}

impl Vdi {
    fn entries(&self, block: u64, most: u64) -> Result<(u32, u64)> {
        let (entry, count) = self.table.entries(block, most, |page, first, bytes| {
            self.ledger.once(page, |claims| {
                let entries = (first..).zip(bytes.as_chunks::<4>().0);
                entries
                    .into_iter()
                    .try_for_each(|(block, entry)| self.claim(claims, block, u32::from_le_bytes(*entry)))
            })
        })?;
        Ok((u32::from_le_bytes(entry), count))
    }

    fn claim(&self, claims: &mut Claims, block: u64, entry: u32) -> Result<(), String> {
        if entry == FREE || entry == ZERO {
            return Ok(());
        }
        let (what, place) = (format!("block {block}"), self.place(entry));
        check_inside(self.file.size(), &what, place, self.used_bytes(block))?;
        claims.block(&what, place, self.header.block_bytes)
    }

    /// Place of a stored block in the file. It cannot overflow: 32 bits each for the entry, the size and the base.
    fn place(&self, entry: u32) -> u64 {
        self.header.data_offset + u64::from(entry) * self.header.block_bytes
    }

    /// Bytes of a block that lie inside the disk.
    fn used_bytes(&self, block: u64) -> u64 {
        self.header.block_bytes.min(self.header.disk_bytes - block * self.header.block_bytes)
    }
}

impl Mapping for Vdi {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn virtual_size(&self) -> u64 {
        self.header.disk_bytes
    }

    fn info(&self) -> Info {
        Info {
            format: Format::Vdi,
            virtual_size: self.header.disk_bytes,
            allocated_bytes: self.file.storage().allocated_bytes(),
            details: vec![
                ("subformat", self.header.kind.to_owned()),
                ("block size", self.header.block_bytes.to_string()),
            ],
        }
    }

    fn run(&self, offset: u64, length: u64) -> Result<Run<'_>> {
        let (block, skip) = (offset / self.header.block_bytes, offset % self.header.block_bytes);
        let (entry, alike) = self.entries(block, (skip + length).div_ceil(self.header.block_bytes))?;
        let (content, blocks) = match entry {
            FREE => (Content::Unallocated, alike),
            ZERO => (Content::Zero, alike),
            entry => (Content::Stored { storage: self.file.storage(), offset: self.place(entry) + skip }, 1),
        };
        Ok(Run { length: length.min(blocks * self.header.block_bytes - skip), content })
    }
}
