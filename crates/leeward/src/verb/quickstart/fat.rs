//! A FAT32 disk by Leeward's own means, where no other program is at hand.
//!
//! Own code and not the `fatfs` crate, which has had no release since January 2023: here everything is known
//! beforehand, so that a file system can be laid out from front to back, every file in one piece, in little code.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::gather::Found;
use super::generate::{Generated, PARTITION_OFFSET, Region, blank_disk};
use super::tools::{check_interrupt, io};
use crate::failure::{Code, Failure};

const SECTOR: u64 = 512;
const CLUSTER: u64 = 4096;
const FAT32_LBA: u8 = 0x0c;
/// With fewer clusters it would not be FAT32.
const CLUSTERS_MIN: u64 = 66_000;
const RESERVED_SECTORS_MIN: u64 = 32;
const ENTRY: usize = 32;
const CHARACTERS_PER_ENTRY: usize = 13;
const FOLDER: u8 = 0x10;
const END_OF_CHAIN: u32 = 0x0fff_ffff;
/// 1 January 2026: the same disk every time.
const DATE: u16 = 46 << 9 | 1 << 5 | 1;

/// A folder, by the upper-case names of what is in it: FAT does not tell letters' cases apart.
#[derive(Default)]
struct Folder<'a> {
    entries: BTreeMap<String, Entry<'a>>,
    first: u32,
}

struct Entry<'a> {
    name: &'a str,
    content: Content<'a>,
}

enum Content<'a> {
    Folder(Folder<'a>),
    File { file: &'a Found, first: u32 },
}

/// Makes a disk of the files.
pub fn make(files: &[Found], path: &Path) -> Result<Generated, Failure> {
    let mut root = Folder::default();
    for file in files {
        root.insert(&file.name, file);
    }
    let mut next = 2;
    root.assign(&mut next);
    let used = u64::from(next) - 2;
    let geometry = Geometry::for_clusters((used + used / 8).max(CLUSTERS_MIN))?;
    let size = (PARTITION_OFFSET + geometry.sectors * SECTOR).next_multiple_of(1 << 20);
    let disk = blank_disk(path, size, FAT32_LBA)?;
    let mut writer =
        Writer { disk, path, geometry, table: Vec::new(), files: 0, bytes: 0, regions: Vec::new() };
    writer.table.resize(next as usize, 0);
    writer.table[..2].copy_from_slice(&[0x0fff_fff8, END_OF_CHAIN]);
    writer.folder(&root, 0)?;
    writer.tables()?;
    writer.boot_sectors(next)?;
    Ok(Generated {
        path: path.to_owned(),
        how: "FAT32 in an MBR partition, made by Leeward itself".to_owned(),
        files: writer.files,
        file_bytes: writer.bytes,
        regions: writer.regions,
    })
}

impl<'a> Folder<'a> {
    /// Puts a file in its place; one whose name is there already but for the case of letters is left out.
    fn insert(&mut self, name: &'a str, file: &'a Found) {
        let (first, rest) = name.split_once('/').map_or((name, None), |(first, rest)| (first, Some(rest)));
        let entry = self.entries.entry(first.to_ascii_uppercase()).or_insert_with(|| Entry {
            name: first,
            content: match rest {
                Some(_) => Content::Folder(Folder::default()),
                None => Content::File { file, first: 0 },
            },
        });
        if let (Some(rest), Content::Folder(folder)) = (rest, &mut entry.content) {
            folder.insert(rest, file);
        }
    }

    fn bytes(&self) -> u64 {
        let entries: usize = self.entries.values().map(|entry| 1 + long_entries(entry.name)).sum();
        // The entries `.` and `..`, or the label of the volume; and the end.
        ((entries + 3) * ENTRY) as u64
    }

    /// Gives everything its clusters, one after the other.
    fn assign(&mut self, next: &mut u32) {
        self.first = *next;
        *next += clusters(self.bytes());
        for entry in self.entries.values_mut() {
            match &mut entry.content {
                Content::Folder(folder) => folder.assign(next),
                Content::File { file, first } => {
                    *first = *next;
                    *next += clusters(file.size);
                }
            }
        }
    }
}

fn clusters(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(CLUSTER)).unwrap_or(u32::MAX / 2)
}

fn long_entries(name: &str) -> usize {
    name.len().div_ceil(CHARACTERS_PER_ENTRY)
}

#[derive(Clone, Copy)]
struct Geometry {
    sectors: u64,
    reserved: u64,
    table_sectors: u64,
}

impl Geometry {
    /// Data begins at a multiple of a cluster, so that clusters are whole pages of the disk.
    fn for_clusters(clusters: u64) -> Result<Self, Failure> {
        let table_sectors = ((clusters + 2) * 4).div_ceil(SECTOR);
        let before_data = (RESERVED_SECTORS_MIN + 2 * table_sectors).next_multiple_of(CLUSTER / SECTOR);
        let sectors = before_data + clusters * (CLUSTER / SECTOR);
        if u32::try_from(sectors).is_err() {
            return Err(Failure::new(Code::Usage, "the disk would be too large for FAT32"));
        }
        Ok(Self { sectors, reserved: before_data - 2 * table_sectors, table_sectors })
    }

    fn offset(&self, cluster: u32) -> u64 {
        let before_data = (self.reserved + 2 * self.table_sectors) * SECTOR;
        PARTITION_OFFSET + before_data + (u64::from(cluster) - 2) * CLUSTER
    }
}

struct Writer<'a> {
    disk: File,
    path: &'a Path,
    geometry: Geometry,
    table: Vec<u32>,
    files: usize,
    bytes: u64,
    regions: Vec<Region>,
}

impl Writer<'_> {
    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), Failure> {
        self.disk.write_all_at(bytes, offset).map_err(io("write", self.path))
    }

    fn chain(&mut self, first: u32, count: u32) {
        for cluster in first..first + count {
            self.table[cluster as usize] =
                if cluster + 1 < first + count { cluster + 1 } else { END_OF_CHAIN };
        }
    }

    fn folder(&mut self, folder: &Folder<'_>, parent: u32) -> Result<(), Failure> {
        self.chain(folder.first, clusters(folder.bytes()));
        let mut list = Vec::new();
        if folder.first == 2 {
            list.extend(short_entry(b"LEEWARD    ", 0x08, 0, 0));
        } else {
            list.extend(short_entry(b".          ", FOLDER, folder.first, 0));
            // The root is meant by 0, whatever its cluster.
            list.extend(short_entry(b"..         ", FOLDER, if parent == 2 { 0 } else { parent }, 0));
        }
        for (number, entry) in folder.entries.values().enumerate() {
            check_interrupt()?;
            let short = short_name(number);
            list.extend(long_name(entry.name, &short));
            match &entry.content {
                Content::Folder(inner) => {
                    list.extend(short_entry(&short, FOLDER, inner.first, 0));
                    self.folder(inner, folder.first)?;
                }
                Content::File { file, first } => {
                    let size = u32::try_from(file.size).unwrap_or(u32::MAX);
                    list.extend(short_entry(&short, 0x20, *first, size));
                    self.file(file, *first)?;
                }
            }
        }
        self.write(&list, self.geometry.offset(folder.first))
    }

    /// A file that has become shorter, or cannot be read any more, keeps its size and ends in zeros.
    fn file(&mut self, file: &Found, first: u32) -> Result<(), Failure> {
        self.chain(first, clusters(file.size));
        let offset = self.geometry.offset(first);
        let mut content = Vec::new();
        if let Ok(open) = file.open() {
            open.take(file.size).read_to_end(&mut content).map_err(io("read", &file.path))?;
        }
        self.write(&content, offset)?;
        self.files += 1;
        self.bytes += file.size;
        self.regions.push(Region { offset, length: file.size / CLUSTER * CLUSTER });
        Ok(())
    }

    fn tables(&self) -> Result<(), Failure> {
        let bytes: Vec<u8> = self.table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        for number in 0..2 {
            let sector = self.geometry.reserved + number * self.geometry.table_sectors;
            self.write(&bytes, PARTITION_OFFSET + sector * SECTOR)?;
        }
        Ok(())
    }

    fn boot_sectors(&self, next: u32) -> Result<(), Failure> {
        let sectors = |count: u64| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
        let mut boot = [0; SECTOR as usize];
        let mut put = |offset: usize, bytes: &[u8]| boot[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, &[0xeb, 0x58, 0x90]);
        put(3, b"LEEWARD ");
        put(11, &(SECTOR as u16).to_le_bytes());
        put(13, &[(CLUSTER / SECTOR) as u8]);
        put(14, &(self.geometry.reserved as u16).to_le_bytes());
        put(16, &[2]);
        put(21, &[0xf8]);
        put(24, &[63, 0, 255, 0]);
        put(28, &sectors(PARTITION_OFFSET / SECTOR));
        put(32, &sectors(self.geometry.sectors));
        put(36, &sectors(self.geometry.table_sectors));
        put(44, &2_u32.to_le_bytes());
        put(48, &1_u16.to_le_bytes());
        put(50, &6_u16.to_le_bytes());
        put(64, &[0x80, 0, 0x29]);
        put(67, b"LEEW");
        put(71, b"LEEWARD    ");
        put(82, b"FAT32   ");
        put(510, &[0x55, 0xaa]);
        let data_sectors = self.geometry.sectors - self.geometry.reserved - 2 * self.geometry.table_sectors;
        let free = data_sectors / (CLUSTER / SECTOR) - (u64::from(next) - 2);
        let mut info = [0; SECTOR as usize];
        info[..4].copy_from_slice(b"RRaA");
        info[484..488].copy_from_slice(b"rrAa");
        info[488..492].copy_from_slice(&sectors(free));
        info[492..496].copy_from_slice(&next.to_le_bytes());
        info[510..].copy_from_slice(&[0x55, 0xaa]);
        for at in [0, 6] {
            self.write(&boot, PARTITION_OFFSET + at * SECTOR)?;
            self.write(&info, PARTITION_OFFSET + (at + 1) * SECTOR)?;
        }
        Ok(())
    }
}

/// A short name that nothing else in the folder has; people see the long one.
fn short_name(number: usize) -> [u8; 11] {
    let mut name = *b"           ";
    name[..8].copy_from_slice(format!("F{number:07X}").as_bytes().get(..8).unwrap_or(b"F0000000"));
    name
}

fn short_entry(name: &[u8; 11], attributes: u8, first: u32, size: u32) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    for at in [16, 18, 24] {
        entry[at..at + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    entry[20..22].copy_from_slice(&((first >> 16) as u16).to_le_bytes());
    entry[26..28].copy_from_slice(&(first as u16).to_le_bytes());
    entry[28..].copy_from_slice(&size.to_le_bytes());
    entry
}

/// The entries that hold a long name, last part first, as they stand before the short one.
fn long_name(name: &str, short: &[u8; 11]) -> Vec<u8> {
    const PLACES: [usize; CHARACTERS_PER_ENTRY] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
    let checksum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let parts: Vec<&[u8]> = name.as_bytes().chunks(CHARACTERS_PER_ENTRY).collect();
    let mut entries = Vec::new();
    for (index, part) in parts.iter().enumerate().rev() {
        let mut entry = [0; ENTRY];
        entry[0] = (index as u8 + 1) | if index + 1 == parts.len() { 0x40 } else { 0 };
        entry[11] = 0x0f;
        entry[13] = checksum;
        for (place, at) in PLACES.into_iter().enumerate() {
            let unit = match part.get(place) {
                Some(byte) => u16::from(*byte),
                None if place == part.len() => 0,
                None => 0xffff,
            };
            entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        entries.extend(entry);
    }
    entries
}
