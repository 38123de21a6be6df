//! Whether a machine could start from a disk, and where its partitions lie.

use leeward_disk::{Source, TableKind, partitions};

use super::generate::Region;

/// Types of a GPT: BIOS boot partition, EFI system partition.
const GPT_BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";
const GPT_EFI_SYSTEM: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";

/// How a machine could start from a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// By the boot sector.
    Bios,
    /// By an EFI system partition only.
    UefiOnly,
    /// Not at all.
    No,
}

/// What the first sectors of a disk say.
pub struct Layout {
    /// The partitions that can be trusted.
    pub partitions: Vec<Region>,
    /// How a machine could start from it.
    pub start: Start,
}

/// Reads the partition table. A disk without one has no partitions; a table that makes no sense is no error here.
pub fn layout(disk: &dyn Source) -> Layout {
    let (Some(sector), Ok(table)) = (read::<512>(disk, 0), partitions(disk)) else {
        return Layout { partitions: Vec::new(), start: Start::No };
    };
    let has_code = sector[..440].iter().any(|&byte| byte != 0);
    let has_type = |id: &str| table.partitions.iter().any(|partition| partition.type_id == id);
    let start = match table.kind {
        TableKind::Mbr => {
            let grub = sector[..440].windows(4).any(|word| word == b"GRUB");
            let active = table.partitions.iter().any(|partition| partition.bootable);
            if has_code && (active || grub) { Start::Bios } else { Start::No }
        }
        TableKind::Gpt if has_code && has_type(GPT_BIOS_BOOT) => Start::Bios,
        TableKind::Gpt if has_type(GPT_EFI_SYSTEM) => Start::UefiOnly,
        TableKind::Gpt | TableKind::None => Start::No,
    };
    let regions = table.usable().map(|found| Region { offset: found.offset, length: found.length });
    Layout { partitions: regions.collect(), start }
}

/// Bytes of the disk; `None` beyond its end, or where it cannot be read.
pub fn read<const N: usize>(disk: &dyn Source, offset: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let end = offset.checked_add(N as u64)?;
    (end <= disk.virtual_size()).then_some(())?;
    disk.read_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

/// A little-endian number of four bytes.
pub fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
}
