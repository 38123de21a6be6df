//! The master boot record, and the chain of extended boot records.

use std::collections::HashSet;

use super::{Partition, PartitionTable, TableKind, read, types};
use crate::formats::bytes::{le16, le32};
use crate::{Result, Source};

/// An MBR counts in sectors of 512 bytes.
pub(super) const SECTOR: u64 = 512;
/// Logical partitions that are followed, at most.
pub const LOGICAL_MAX: usize = 128;
const PROTECTIVE: u8 = 0xee;

/// One of the four slots of a boot record.
struct Slot {
    flag: u8,
    kind: u8,
    /// First sector, relative to a place that depends on the record.
    start: u64,
    sectors: u64,
}

impl Slot {
    fn is_used(&self) -> bool {
        self.kind != 0 && self.sectors != 0
    }

    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    /// The partition, where `base` is the sector that `start` counts from. 2^33 sectors fit well into an `u64`.
    fn partition(&self, number: u32, base: u64, disk_id: Option<&str>) -> Partition {
        Partition {
            number,
            offset: (base + self.start) * SECTOR,
            length: self.sectors * SECTOR,
            type_id: format!("{:x}", self.kind),
            type_name: types::mbr(self.kind),
            name: None,
            uuid: disk_id.map(|id| format!("{id}-{number:02x}")),
            bootable: self.flag & 0x80 != 0,
            extended: self.is_extended(),
            problem: None,
        }
    }
}

fn slots(sector: &[u8]) -> Vec<Slot> {
    let entries = sector.get(446..510).unwrap_or_default().chunks_exact(16);
    entries
        .map(|entry| Slot {
            flag: entry[0],
            kind: entry[4],
            start: u64::from(le32(entry, 8)),
            sectors: u64::from(le32(entry, 12)),
        })
        .collect()
}

fn is_signed(sector: &[u8]) -> bool {
    sector.get(510..512) == Some(&[0x55, 0xaa])
}

/// Whether the first sector is a partition table. The boot sector of a FAT or NTFS file system that takes the whole
/// disk carries the same signature, and its code lies where the table would be.
pub(super) fn is_table(sector: &[u8]) -> bool {
    if !is_signed(sector) {
        return false;
    }
    let slots = slots(sector);
    let sound = slots.iter().all(|slot| matches!(slot.flag, 0 | 0x80));
    let used = slots.iter().any(|slot| slot.is_used() && slot.start != 0);
    sound && (used || !is_boot_sector(sector))
}

/// Whether the sector is the first one of a FAT, exFAT or NTFS file system.
fn is_boot_sector(sector: &[u8]) -> bool {
    let named = |name: &[u8]| sector.get(3..3 + name.len()) == Some(name);
    let jumps = matches!(sector.first(), Some(0xeb | 0xe9));
    let sector_bytes = le16(sector, 11);
    let cluster = sector.get(13).copied().unwrap_or(0);
    let is_fat = jumps
        && (512..=4096).contains(&sector_bytes)
        && sector_bytes.is_power_of_two()
        && cluster.is_power_of_two()
        && matches!(sector.get(16), Some(1 | 2))
        && le16(sector, 14) > 0;
    is_fat || named(b"NTFS    ") || named(b"EXFAT   ")
}

/// Whether the record only protects a GPT.
pub(super) fn is_protective(sector: &[u8]) -> bool {
    slots(sector).iter().any(|slot| slot.kind == PROTECTIVE)
}

/// Reads the table whose first sector is `sector`.
pub(super) fn read_table(source: &dyn Source, sector: &[u8]) -> Result<PartitionTable> {
    let mut table = PartitionTable::new(TableKind::Mbr, SECTOR);
    let id = le32(sector, 440);
    table.disk_id = (id != 0).then(|| format!("{id:08x}"));
    let mut chains = Vec::new();
    for (number, slot) in (1..).zip(slots(sector)) {
        if slot.is_used() {
            table.partitions.push(slot.partition(number, 0, table.disk_id.as_deref()));
            if slot.is_extended() {
                chains.push(slot);
            }
        }
    }
    for chain in chains {
        follow(source, &chain, &mut table)?;
    }
    Ok(table)
}

/// Follows the chain of records in an extended partition. A record's first slot is a logical partition and counts from
/// the record; the second is the next record and counts from the extended partition.
fn follow(source: &dyn Source, extended: &Slot, table: &mut PartitionTable) -> Result<()> {
    let mut seen = HashSet::new();
    let mut record = 0_u64;
    loop {
        let place = extended.start + record;
        if !seen.insert(place) || seen.len() > LOGICAL_MAX {
            table.problems.push(format!("the chain of logical partitions has a loop at sector {place}"));
            return Ok(());
        }
        let sector = read(source, place * SECTOR, SECTOR as usize)?.filter(|sector| is_signed(sector));
        let Some(sector) = sector else {
            table.problems.push(format!("no record of a logical partition at sector {place}"));
            return Ok(());
        };
        let slots = slots(&sector);
        for slot in slots.iter().filter(|slot| slot.is_used() && !slot.is_extended()) {
            let logical = table.partitions.iter().filter(|partition| partition.number >= 5).count();
            if logical >= LOGICAL_MAX {
                table.problems.push(format!("more than {LOGICAL_MAX} logical partitions"));
                return Ok(());
            }
            let mut found = slot.partition(5 + logical as u32, place, table.disk_id.as_deref());
            if found.end() > (extended.start + extended.sectors) * SECTOR {
                found.problem = Some("it reaches outside its extended partition".to_owned());
            }
            table.partitions.push(found);
        }
        match slots.iter().find(|slot| slot.is_used() && slot.is_extended()) {
            Some(next) => record = next.start,
            None => return Ok(()),
        }
    }
}
