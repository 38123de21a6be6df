//! The backup of a GPT, moved to the end of a volume that is larger than the image was.
//!
//! A GPT has a header and a table at the start of the disk, and a backup of both at its end, where nothing may come behind
//! it. After an import the backup lies in the middle, and the space behind it cannot be used. See the UEFI specification,
//! chapter 5.3 (GPT disk layout).
//!
//! The order of writes leaves a sound table on the disk whenever it stops: first the new backup, which nothing points to
//! yet; then the header at the start, which now points to it; then the size in the protective MBR; last the old backup is
//! erased. A call after a crash goes on from there.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, VolumeTarget};

const SIGNATURE: &[u8] = b"EFI PART";
/// The header's length in the specification, of which the checksum is made.
const HEADER_BYTES: usize = 92;
/// The largest table of partitions, in bytes: the usual one has 16 KiB.
const TABLE_BYTES_MAX: u64 = 1 << 20;
/// The type of the protective partition in the MBR.
const PROTECTIVE: u8 = 0xee;

/// What became of a partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moved {
    /// There is no GPT.
    NoTable,
    /// The backup is at the end already.
    InPlace,
    /// It was moved.
    Moved {
        /// Where it was, as a number of a sector.
        from_sector: u64,
        /// Where it is.
        to_sector: u64,
        /// Size of a sector in bytes.
        sector_bytes: u64,
    },
}

/// Moves the backup of the GPT on a volume to its end.
///
/// # Errors
/// The table at the start is damaged, or reaches past the end of the volume; or the volume fails.
pub fn move_backup(target: &VolumeTarget) -> Result<Moved> {
    for sector_bytes in [512, 4096] {
        if target.bytes() < 4 * sector_bytes {
            continue;
        }
        let mut sector = vec![0; sector_bytes as usize];
        target.read_at(&mut sector, sector_bytes)?;
        if sector.starts_with(SIGNATURE) {
            return Table::read(target, sector, sector_bytes)?.move_to_end(target);
        }
    }
    Ok(Moved::NoTable)
}

/// A header and its table.
struct Table {
    sector_bytes: u64,
    /// The whole sector in which the header lies.
    header: Vec<u8>,
    entries: Vec<u8>,
}

impl Table {
    fn read(target: &VolumeTarget, header: Vec<u8>, sector_bytes: u64) -> Result<Self> {
        let wrong = |what: &str| Err(damaged(target.path(), what));
        let mut table = Self { sector_bytes, header, entries: Vec::new() };
        let length = table.le32(12) as usize;
        if !(HEADER_BYTES..=sector_bytes as usize).contains(&length)
            || table.header_checksum() != table.le32(16)
        {
            return wrong("the header of its GPT is damaged");
        }
        if table.le64(24) != 1 {
            return wrong("the header of its GPT says that it lies elsewhere");
        }
        let bytes = u64::from(table.le32(80)) * u64::from(table.le32(84));
        let offset = table.le64(72).checked_mul(sector_bytes);
        let end = offset.and_then(|offset| offset.checked_add(bytes));
        let (Some(offset), true) = (offset, (1..=TABLE_BYTES_MAX).contains(&bytes)) else {
            return wrong("the table of its GPT has an impossible size or place");
        };
        if end.is_none_or(|end| end > target.bytes()) {
            return wrong("the table of its GPT lies behind its end");
        }
        table.entries = vec![0; bytes as usize];
        target.read_at(&mut table.entries, offset)?;
        if crc32fast::hash(&table.entries) != table.le32(88) {
            return wrong("the table of its GPT is damaged");
        }
        Ok(table)
    }

    fn le32(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.header[at..at + 4]);
        u32::from_le_bytes(bytes)
    }

    fn le64(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.header[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    fn set(&mut self, at: usize, value: u64) {
        self.header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn header_checksum(&self) -> u32 {
        let mut header = self.header[..self.le32(12) as usize].to_vec();
        header[16..20].fill(0);
        crc32fast::hash(&header)
    }

    fn sealed(mut self) -> Self {
        let checksum = self.header_checksum();
        self.header[16..20].copy_from_slice(&checksum.to_le_bytes());
        self
    }

    fn with_header(&self) -> Self {
        Self { sector_bytes: self.sector_bytes, header: self.header.clone(), entries: Vec::new() }
    }

    fn move_to_end(self, target: &VolumeTarget) -> Result<Moved> {
        let sector_bytes = self.sector_bytes;
        let last = target.bytes() / sector_bytes - 1;
        let old = self.le64(32);
        let table_sectors = (self.entries.len() as u64).div_ceil(sector_bytes);
        let new_table = last - table_sectors;
        if old == last {
            fix_protective(target, last)?;
            return Ok(Moved::InPlace);
        }
        if old > last || self.le64(48) >= new_table {
            return Err(damaged(
                target.path(),
                "its GPT is of a larger disk: the volume is too small for it",
            ));
        }
        let mut backup = self.with_header();
        backup.set(24, last);
        backup.set(32, 1);
        backup.set(48, new_table - 1);
        backup.set(72, new_table);
        let backup = backup.sealed();
        let mut entries = self.entries.clone();
        entries.resize((table_sectors * sector_bytes) as usize, 0);
        target.write_at(&entries, new_table * sector_bytes)?;
        target.write_at(&backup.header, last * sector_bytes)?;
        target.sync()?;

        let mut primary = self.with_header();
        primary.set(32, last);
        primary.set(48, new_table - 1);
        target.write_at(&primary.sealed().header, sector_bytes)?;
        target.sync()?;

        fix_protective(target, last)?;
        self.erase(target, old, new_table)?;
        target.sync()?;
        Ok(Moved::Moved { from_sector: old, to_sector: last, sector_bytes })
    }

    /// Erases the old backup: its header if it is one, and its table, but nothing of a partition or of the new backup.
    fn erase(&self, target: &VolumeTarget, old: u64, new_table: u64) -> Result<()> {
        let (sector_bytes, last_usable) = (self.sector_bytes, self.le64(48));
        let mut sector = vec![0; sector_bytes as usize];
        target.read_at(&mut sector, old * sector_bytes)?;
        if old <= last_usable || !sector.starts_with(SIGNATURE) {
            return Ok(());
        }
        let table_sectors = (self.entries.len() as u64).div_ceil(sector_bytes);
        let start = old.saturating_sub(table_sectors).max(last_usable + 1);
        let end = (old + 1).min(new_table);
        if start < end { target.zero_at(start * sector_bytes, (end - start) * sector_bytes) } else { Ok(()) }
    }
}

/// Sets the size of the protective partition, if the MBR has one that begins at sector 1.
fn fix_protective(target: &VolumeTarget, last: u64) -> Result<()> {
    let mut mbr = vec![0; 512];
    target.read_at(&mut mbr, 0)?;
    if mbr[510..512] != [0x55, 0xaa] {
        return Ok(());
    }
    let size = u32::try_from(last).unwrap_or(u32::MAX).to_le_bytes();
    let found = (0..4)
        .map(|number| 446 + 16 * number)
        .find(|&at| mbr[at + 4] == PROTECTIVE && mbr[at + 8..at + 12] == 1_u32.to_le_bytes());
    if let Some(at) = found.filter(|&at| mbr[at + 12..at + 16] != size) {
        mbr[at + 12..at + 16].copy_from_slice(&size);
        target.write_at(&mbr, 0)?;
        target.sync()?;
    }
    Ok(())
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::Table {
        path: path.to_owned(),
        what: format!("{what}: it is left as it is; repair it with sgdisk or gdisk"),
    }
}
