//! Partition tables: where the parts of a disk lie.
//!
//! MBR with extended partitions, and GPT (UEFI specification 2.10, chapter 5) with sectors of 512 and 4096 bytes. A
//! table comes from a guest, so nothing in it is believed: a partition that reaches outside the disk or overlaps
//! another one is listed with its [`problem`](Partition::problem), and cannot be opened. The work and the memory are
//! bounded whatever the table says: at most [`PARTITIONS_MAX`] entries of a GPT are read and [`LOGICAL_MAX`] links of a
//! chain of extended partitions are followed, each once.

mod gpt;
mod mbr;
mod types;

use std::sync::Arc;

use serde::Serialize;

use crate::{Error, Result, SharedSource, Slice, Source};

pub use gpt::PARTITIONS_MAX;
pub use mbr::LOGICAL_MAX;

/// The kind of a partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// Master boot record, with logical partitions if there are some.
    Mbr,
    /// GUID partition table.
    Gpt,
    /// No table: the whole disk is one file system, or blank.
    None,
}

/// What a partition table says.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionTable {
    /// Which kind it is.
    pub kind: TableKind,
    /// Bytes of a sector, in which the table counts.
    pub sector_bytes: u64,
    /// Identity of the disk: eight hexadecimal digits (MBR) or a GUID.
    pub disk_id: Option<String>,
    /// The partitions, in the order of their numbers.
    pub partitions: Vec<Partition>,
    /// What is wrong with the table itself: a damaged header of which the copy was used, a chain that has a loop.
    pub problems: Vec<String>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Its number, as Linux counts: logical partitions of an MBR begin at 5.
    pub number: u32,
    /// First byte on the disk.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// The type as the table has it: two hexadecimal digits without leading zero (MBR), or a GUID.
    pub type_id: String,
    /// What the type means.
    pub type_name: &'static str,
    /// The name that a GPT gives it.
    pub name: Option<String>,
    /// Its identity: a GUID, or the disk's with the number (MBR), as in Linux' `PARTUUID`.
    pub uuid: Option<String>,
    /// Whether a BIOS would start from it.
    pub bootable: bool,
    /// Whether it holds other partitions and no data.
    pub extended: bool,
    /// Why it is not trusted: it reaches outside the disk, or overlaps another one.
    pub problem: Option<String>,
}

impl Partition {
    /// The first byte after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// The partition as a disk.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the partition is not trusted.
    pub fn open(&self, source: &SharedSource) -> Result<SharedSource> {
        if let Some(problem) = &self.problem {
            return Err(Error::Invalid {
                path: format!("partition {}", self.number),
                what: format!("it cannot be read: {problem}"),
            });
        }
        Ok(Arc::new(Slice::new(Arc::clone(source), self.offset, self.length)?))
    }
}

impl PartitionTable {
    /// The partition with this number.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.number == number)
    }

    /// The partitions that can hold data and are trusted.
    pub fn usable(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.iter().filter(|partition| !partition.extended && partition.problem.is_none())
    }

    fn new(kind: TableKind, sector_bytes: u64) -> Self {
        Self { kind, sector_bytes, disk_id: None, partitions: Vec::new(), problems: Vec::new() }
    }
}

/// Reads the partition table of a disk. A disk without one is no error; neither is a table that makes no sense, which
/// is told in [`PartitionTable::problems`].
///
/// # Errors
/// The disk cannot be read.
pub fn partitions(source: &dyn Source) -> Result<PartitionTable> {
    let Some(sector) = read(source, 0, mbr::SECTOR as usize)? else {
        return Ok(PartitionTable::new(TableKind::None, mbr::SECTOR));
    };
    let mut table = if mbr::is_table(&sector) {
        if mbr::is_protective(&sector) { gpt::read_table(source)? } else { mbr::read_table(source, &sector)? }
    } else {
        PartitionTable::new(TableKind::None, mbr::SECTOR)
    };
    distrust(&mut table, source.virtual_size());
    Ok(table)
}

/// Marks the partitions that reach outside the disk or overlap others.
fn distrust(table: &mut PartitionTable, disk_bytes: u64) {
    for partition in &mut table.partitions {
        if partition.problem.is_none() && partition.end() > disk_bytes {
            let (end, number) = (partition.end(), partition.number);
            partition.problem =
                Some(format!("partition {number} ends at {end}, the disk at {disk_bytes} bytes"));
        }
    }
    let mut order: Vec<usize> = (0..table.partitions.len())
        .filter(|&index| table.partitions[index].problem.is_none() && !table.partitions[index].extended)
        .collect();
    order.sort_by_key(|&index| (table.partitions[index].offset, table.partitions[index].number));
    // The one that reaches furthest so far is the only neighbour that has to be looked at.
    let mut furthest: Option<usize> = None;
    for index in order {
        let Some(before) = furthest else {
            furthest = Some(index);
            continue;
        };
        if table.partitions[index].offset < table.partitions[before].end() {
            let (first, second) = (table.partitions[before].number, table.partitions[index].number);
            for (of, with) in [(before, second), (index, first)] {
                let problem = &mut table.partitions[of].problem;
                problem.get_or_insert_with(|| format!("it overlaps partition {with}"));
            }
        }
        if table.partitions[index].end() > table.partitions[before].end() {
            furthest = Some(index);
        }
    }
}

/// Bytes of the disk; `None` where they reach past its end.
fn read(source: &dyn Source, offset: u64, length: usize) -> Result<Option<Vec<u8>>> {
    if offset.checked_add(length as u64).is_none_or(|end| end > source.virtual_size()) {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    source.read_at(&mut bytes, offset)?;
    Ok(Some(bytes))
}
