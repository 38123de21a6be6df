//! The GUID partition table: a header behind the protective MBR, its entries, and a copy of both at the end.

use super::{Partition, PartitionTable, TableKind, read, types};
use crate::formats::bytes::{le16, le32, le64};
use crate::{Result, Source};

/// Entries of a table that are read, at most; the usual table has 128.
pub const PARTITIONS_MAX: u32 = 4096;
const ENTRY_BYTES_MAX: u32 = 4096;
const TABLE_BYTES_MAX: u64 = 4 << 20;
const HEADER_BYTES: u32 = 92;
const BOOT_BY_BIOS: u64 = 1 << 2;

/// A header and entries whose checksums are right.
struct Sound {
    header: Vec<u8>,
    entries: Vec<u8>,
    entry_bytes: usize,
    sector_bytes: u64,
}

/// Reads the table; the copy at the end of the disk where the first one is damaged.
pub(super) fn read_table(source: &dyn Source) -> Result<PartitionTable> {
    let mut problems = Vec::new();
    for sector_bytes in [512, 4096] {
        match sound(source, 1, sector_bytes)? {
            Ok(found) => return Ok(table(&found, problems)),
            Err(Some(why)) => problems.push(format!("the GPT at the start of the disk is damaged: {why}")),
            Err(None) => {}
        }
    }
    for sector_bytes in [512, 4096] {
        let last = (source.virtual_size() / sector_bytes).saturating_sub(1);
        match sound(source, last, sector_bytes)? {
            Ok(found) => {
                if problems.is_empty() {
                    problems.push("the GPT at the start of the disk is missing".to_owned());
                }
                problems.push("its copy at the end was used".to_owned());
                return Ok(table(&found, problems));
            }
            Err(Some(why)) => problems.push(format!("the copy of the GPT at the end is damaged: {why}")),
            Err(None) => {}
        }
    }
    if problems.is_empty() {
        problems.push("a protective MBR, but no GPT at the start or the end of the disk".to_owned());
    }
    let mut table = PartitionTable::new(TableKind::Gpt, 512);
    table.problems = problems;
    Ok(table)
}

/// Header and entries at sector `lba`. The inner error is what is wrong with them, or `None` if there is no header.
fn sound(source: &dyn Source, lba: u64, sector_bytes: u64) -> Result<Result<Sound, Option<String>>> {
    let wrong = |what: &str| Ok(Err(Some(what.to_owned())));
    let header = read(source, lba.saturating_mul(sector_bytes), sector_bytes as usize)?;
    let Some(header) = header.filter(|header| header.starts_with(b"EFI PART")) else { return Ok(Err(None)) };
    let header_bytes = le32(&header, 12);
    if header_bytes < HEADER_BYTES || u64::from(header_bytes) > sector_bytes {
        return wrong("its header has no sensible length");
    }
    let mut checked = header.get(..header_bytes as usize).unwrap_or_default().to_vec();
    checked[16..20].fill(0);
    if crc32fast::hash(&checked) != le32(&header, 16) {
        return wrong("the checksum of its header does not match");
    }
    if le64(&header, 24) != lba {
        return wrong("its header belongs to another sector");
    }
    let (count, entry_bytes) = (le32(&header, 80), le32(&header, 84));
    if !(128..=ENTRY_BYTES_MAX).contains(&entry_bytes) || !entry_bytes.is_power_of_two() {
        return wrong("its entries have no sensible length");
    }
    let length = u64::from(count) * u64::from(entry_bytes);
    if count > PARTITIONS_MAX || length > TABLE_BYTES_MAX {
        return wrong("it has too many entries");
    }
    let Some(offset) = le64(&header, 72).checked_mul(sector_bytes) else {
        return wrong("its entries lie outside the disk");
    };
    let Some(entries) = read(source, offset, length as usize)? else {
        return wrong("its entries lie outside the disk");
    };
    if crc32fast::hash(&entries) != le32(&header, 88) {
        return wrong("the checksum of its entries does not match");
    }
    Ok(Ok(Sound { header, entries, entry_bytes: entry_bytes as usize, sector_bytes }))
}

fn table(sound: &Sound, problems: Vec<String>) -> PartitionTable {
    let mut table = PartitionTable::new(TableKind::Gpt, sound.sector_bytes);
    table.problems = problems;
    table.disk_id = Some(guid(&sound.header[56..72]));
    let usable = (le64(&sound.header, 40), le64(&sound.header, 48));
    for (number, entry) in (1..).zip(sound.entries.chunks_exact(sound.entry_bytes)) {
        if entry[..16] != [0; 16] {
            table.partitions.push(partition(number, entry, usable, sound.sector_bytes));
        }
    }
    table
}

fn partition(number: u32, entry: &[u8], usable: (u64, u64), sector_bytes: u64) -> Partition {
    let (first, last) = (le64(entry, 32), le64(entry, 40));
    let problem = if last < first {
        Some(format!("it ends (sector {last}) before it begins (sector {first})"))
    } else if first < usable.0 || last > usable.1 {
        Some(format!("sectors {first} to {last} are outside those that the table may use"))
    } else {
        None
    };
    let sectors = last.checked_sub(first).map_or(0, |more| more.saturating_add(1));
    let type_id = guid(&entry[..16]);
    Partition {
        number,
        offset: first.saturating_mul(sector_bytes),
        length: sectors.saturating_mul(sector_bytes),
        type_name: types::gpt(&type_id),
        type_id,
        name: name(&entry[56..128]),
        uuid: Some(guid(&entry[16..32])),
        bootable: le64(entry, 48) & BOOT_BY_BIOS != 0,
        extended: false,
        problem,
    }
}

/// UTF-16, up to the first zero.
fn name(bytes: &[u8]) -> Option<String> {
    let units = (0..bytes.len() / 2).map(|index| le16(bytes, index * 2));
    let text: Vec<u16> = units.take_while(|&unit| unit != 0).collect();
    (!text.is_empty()).then(|| String::from_utf16_lossy(&text))
}

/// A GUID in the usual way of writing: the first three numbers are little-endian on disk.
fn guid(bytes: &[u8]) -> String {
    let tail: String = bytes.iter().skip(10).map(|byte| format!("{byte:02X}")).collect();
    let clock = bytes.iter().skip(8).take(2).fold(0_u16, |value, &byte| value << 8 | u16::from(byte));
    format!("{:08X}-{:04X}-{:04X}-{clock:04X}-{tail}", le32(bytes, 0), le16(bytes, 4), le16(bytes, 6))
}
