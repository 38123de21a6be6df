//! Where the partitions of a disk lie, and whether a machine could start from it.

use leeward_disk::Source;

use super::generate::Region;

const SECTOR: u64 = 512;
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
const PROTECTIVE: u8 = 0xee;
const GPT_ENTRIES_MAX: u64 = 256;
/// GUIDs as they lie on the disk: BIOS boot partition, EFI system partition.
const GPT_BIOS_BOOT: &[u8; 16] = b"Hah!IdontNeedEFI";
const GPT_EFI_SYSTEM: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];

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
    /// The partitions, as far as they lie within the disk.
    pub partitions: Vec<Region>,
    /// How a machine could start from it.
    pub start: Start,
}

/// Reads the partition table. A disk without one has no partitions; a table that makes no sense is no error here.
pub fn layout(disk: &dyn Source) -> Layout {
    let Some(sector) = read::<512>(disk, 0) else {
        return Layout { partitions: Vec::new(), start: Start::No };
    };
    if sector[510..] != [0x55, 0xaa] {
        return Layout { partitions: Vec::new(), start: Start::No };
    }
    let entries: Vec<&[u8]> = sector[446..510].chunks_exact(16).collect();
    let has_code = sector[..440].iter().any(|&byte| byte != 0);
    let grub = sector[..440].windows(4).any(|word| word == b"GRUB");
    if entries.iter().any(|entry| entry[4] == PROTECTIVE) {
        return gpt(disk, has_code);
    }
    let partitions = entries.iter().filter(|entry| entry[4] != 0 && !EXTENDED.contains(&entry[4]));
    let partitions = partitions.filter_map(|entry| {
        within(disk, u64::from(number(&entry[8..12])), u64::from(number(&entry[12..16])))
    });
    let active = entries.iter().any(|entry| entry[0] == 0x80 && entry[4] != 0);
    let start = if has_code && (active || grub) { Start::Bios } else { Start::No };
    Layout { partitions: partitions.collect(), start }
}

fn gpt(disk: &dyn Source, has_code: bool) -> Layout {
    let mut layout = Layout { partitions: Vec::new(), start: Start::No };
    let Some(header) = read::<92>(disk, SECTOR).filter(|header| header.starts_with(b"EFI PART")) else {
        return layout;
    };
    let first = long(&header[72..80]).saturating_mul(SECTOR);
    let size = u64::from(number(&header[84..88])).max(128);
    let (mut bios, mut efi) = (false, false);
    for index in 0..u64::from(number(&header[80..84])).min(GPT_ENTRIES_MAX) {
        let Some(entry) = read::<128>(disk, first.saturating_add(index * size)) else { break };
        let (from, last) = (long(&entry[32..40]), long(&entry[40..48]));
        if entry[..16] == [0; 16] || last < from {
            continue;
        }
        bios |= entry[..16] == *GPT_BIOS_BOOT;
        efi |= entry[..16] == GPT_EFI_SYSTEM;
        layout.partitions.extend(within(disk, from, (last - from).saturating_add(1)));
    }
    layout.start = match (has_code && bios, efi) {
        (true, _) => Start::Bios,
        (false, true) => Start::UefiOnly,
        (false, false) => Start::No,
    };
    layout
}

/// Sectors as bytes of the disk.
fn within(disk: &dyn Source, first: u64, count: u64) -> Option<Region> {
    let (offset, length) = (first.checked_mul(SECTOR)?, count.checked_mul(SECTOR)?);
    (offset.checked_add(length)? <= disk.virtual_size() && length > 0).then_some(Region { offset, length })
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

fn long(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}
