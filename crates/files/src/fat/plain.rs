//! FAT with 12, 16 and 32 bits.

use std::sync::Mutex;

use crate::disk::{Disk, Run, extent};
use crate::{
    Entry, Error, Extent, FileKind, FileSystem, FileType, Flow, Metadata, Node, Result, Summary, bytes,
};

use super::chain::{Clusters, Width};
use super::{Found, mode, moment, serial};

const KIND: &str = "FAT";
const ENTRY: u64 = 32;
const LONG_NAME: u16 = 0x0f;
const VOLUME: u16 = 0x08;
/// The format allows 65 536 entries.
const DIRECTORY_BYTES_MAX: u64 = 65_536 * ENTRY;
const ROOT: Node = Node { tree: 0, id: 0 };

/// A FAT file system.
pub(crate) struct Fat {
    disk: Disk,
    clusters: Clusters,
    summary: Summary,
    /// First byte and length of the root directory of FAT12 and FAT16, which is no chain.
    fixed_root: Option<(u64, u64)>,
    root_cluster: u32,
}

/// Whether this is the first sector of a FAT file system.
pub(crate) fn is_fat(head: &[u8]) -> bool {
    let sector_bytes = bytes::le16(head, 11);
    let cluster = bytes::byte(head, 13);
    matches!(head.first(), Some(0xeb | 0xe9))
        && bytes::part(head, 510, 2) == [0x55, 0xaa]
        && (512..=4096).contains(&sector_bytes)
        && sector_bytes.is_power_of_two()
        && cluster.is_power_of_two()
        && bytes::le16(head, 14) > 0
        && matches!(bytes::byte(head, 16), 1 | 2)
        && (bytes::byte(head, 21) >= 0xf8 || bytes::byte(head, 21) == 0xf0)
        && (bytes::le16(head, 22) > 0 || bytes::le32(head, 36) > 0)
}

impl Fat {
    pub(crate) fn open(disk: Disk) -> Result<Self> {
        let boot = disk.bytes(0, 512)?;
        let sector_bytes = u64::from(bytes::le16(&boot, 11));
        let cluster_bytes = sector_bytes * u64::from(bytes::byte(&boot, 13));
        let number = |short: usize, long: usize| match bytes::le16(&boot, short) {
            0 => u64::from(bytes::le32(&boot, long)),
            count => u64::from(count),
        };
        let (sectors, table_sectors) = (number(19, 32), number(22, 36));
        let root_bytes = u64::from(bytes::le16(&boot, 17)) * ENTRY;
        let table = u64::from(bytes::le16(&boot, 14)) * sector_bytes;
        let root = table + u64::from(bytes::byte(&boot, 16)) * table_sectors * sector_bytes;
        let heap = root + root_bytes.next_multiple_of(sector_bytes.max(1));
        let count = (sectors * sector_bytes).saturating_sub(heap).checked_div(cluster_bytes).unwrap_or(0);
        // The width follows from the number of clusters, and from nothing else.
        let width = match count {
            0..4085 => Width::Bits12,
            4085..65525 => Width::Bits16,
            _ => Width::Bits32,
        };
        let is_wide = width == Width::Bits32;
        if count == 0 || count > 0x0fff_fff5 || (is_wide && bytes::le16(&boot, 22) != 0) {
            return Err(Error::corrupt(KIND, "its size makes no sense"));
        }
        let details = if is_wide { 64 } else { 36 };
        let has_details = bytes::byte(&boot, details + 2) == 0x29;
        let clusters = Clusters {
            kind: KIND,
            width,
            table,
            heap,
            cluster_bytes,
            count: count as u32,
            kept: Mutex::default(),
        };
        let mut warnings = Vec::new();
        // The first two slots of the table are no clusters; bits of the second say whether all was written.
        let second = match width {
            Width::Bits16 => Some(bytes::le16(&disk.bytes(table + 2, 2)?, 0) & 0x8000 == 0),
            Width::Bits32 => Some(bytes::le32(&disk.bytes(table + 4, 4)?, 0) & 0x0800_0000 == 0),
            _ => None,
        };
        if second == Some(true) {
            warnings
                .push("it was not unmounted: files that were being changed may be inconsistent".to_owned());
        }
        let size = sectors * sector_bytes;
        if size > disk.size() {
            warnings.push(format!("it should have {size} bytes, but only {} are there", disk.size()));
        }
        let mut files = Self {
            disk,
            clusters,
            summary: Summary {
                kind: FileKind::Fat,
                label: None,
                uuid: has_details.then(|| serial(bytes::part(&boot, details + 3, 4))),
                size,
                block_bytes: cluster_bytes as u32,
                warnings,
            },
            fixed_root: (!is_wide).then_some((root, root_bytes)),
            root_cluster: bytes::le32(&boot, 44),
        };
        // The label is an entry of the root; the one in the boot sector is often out of date.
        let mut label = None;
        files.records(ROOT, &mut |record, _| {
            let attributes = u16::from(bytes::byte(record, 11));
            if attributes & LONG_NAME != LONG_NAME
                && attributes & VOLUME != 0
                && bytes::byte(record, 0) != 0xe5
            {
                label = Some(String::from_utf8_lossy(bytes::part(record, 0, 11)).trim_end().to_owned());
                return Ok(Flow::Stop);
            }
            Ok(Flow::Continue)
        })?;
        files.summary.label = label;
        Ok(files)
    }

    /// The entry at the place that a node names.
    fn found(&self, node: Node) -> Result<Found> {
        if node == ROOT {
            return Ok(Found {
                attributes: super::DIRECTORY,
                size: 0,
                valid: 0,
                cluster: self.root_cluster,
                contiguous: false,
                modified: moment(0, 0x21),
            });
        }
        Ok(found(&self.disk.bytes(node.id, ENTRY as usize)?, self.clusters.width))
    }

    fn file(&self, node: Node) -> Result<Found> {
        let found = self.found(node)?;
        if found.is_directory() {
            return Err(Error::WrongType { path: "a directory".to_owned(), wanted: "file" });
        }
        Ok(found)
    }

    /// Visits the records of a directory with their places on the disk, up to the end mark.
    fn records(&self, node: Node, visit: &mut dyn FnMut(&[u8], u64) -> Result<Flow>) -> Result<()> {
        let found = self.found(node)?;
        if !found.is_directory() {
            return Err(Error::NotADirectory { path: "a file".to_owned() });
        }
        let mut offset = 0;
        while offset < DIRECTORY_BYTES_MAX {
            let run = match self.fixed_root.filter(|_| node == ROOT) {
                Some((_, length)) if offset >= length => None,
                Some((start, length)) => Some(Run { length: length - offset, place: Some(start + offset) }),
                // A subdirectory of cluster 0 would be the root, as `..` has it.
                None => {
                    let cluster = if found.cluster == 0 { self.root_cluster } else { found.cluster };
                    self.clusters.map(
                        &self.disk,
                        (cluster, false),
                        DIRECTORY_BYTES_MAX,
                        offset,
                        DIRECTORY_BYTES_MAX,
                    )?
                }
            };
            let Some(Run { length, place: Some(place) }) = run else { return Ok(()) };
            let length = length.min(DIRECTORY_BYTES_MAX - offset);
            for within in (0..length).step_by(ENTRY as usize) {
                let record = self.disk.bytes(place + within, ENTRY as usize)?;
                if record.first() == Some(&0) || visit(&record, place + within)? == Flow::Stop {
                    return Ok(());
                }
            }
            offset += length;
        }
        Ok(())
    }

    fn map(&self, found: &Found, offset: u64, length: u64) -> Result<Run> {
        let run = self.clusters.map(&self.disk, (found.cluster, false), found.size, offset, length)?;
        run.ok_or_else(|| {
            Error::corrupt(KIND, format!("the chain of cluster {} is too short", found.cluster))
        })
    }
}

fn found(record: &[u8], width: Width) -> Found {
    let high = if width == Width::Bits32 { u32::from(bytes::le16(record, 20)) << 16 } else { 0 };
    let attributes = u16::from(bytes::byte(record, 11));
    let size = if attributes & super::DIRECTORY != 0 { 0 } else { u64::from(bytes::le32(record, 28)) };
    Found {
        attributes,
        size,
        valid: size,
        cluster: high | u32::from(bytes::le16(record, 26)),
        contiguous: false,
        modified: moment(bytes::le16(record, 22), bytes::le16(record, 24)),
    }
}

/// A long name that is being put together out of records that come before the short one, last part first.
#[derive(Default)]
struct LongName {
    /// The part that comes next.
    next: u8,
    checksum: u8,
    units: Vec<u8>,
}

impl LongName {
    fn add(&mut self, record: &[u8]) {
        let order = bytes::byte(record, 0);
        let part = order & 0x3f;
        let units =
            [bytes::part(record, 1, 10), bytes::part(record, 14, 12), bytes::part(record, 28, 4)].concat();
        if order & 0x40 != 0 {
            *self = Self { next: part, checksum: bytes::byte(record, 13), units: Vec::new() };
        } else if self.next == 0 || part != self.next || bytes::byte(record, 13) != self.checksum {
            *self = Self::default();
            return;
        }
        if part == 0 || part > 20 {
            *self = Self::default();
            return;
        }
        self.next = part - 1;
        self.units.splice(0..0, units);
    }

    /// The name, if it is complete and belongs to the short name.
    fn take(&mut self, short: &[u8]) -> Option<Vec<u8>> {
        let name = std::mem::take(self);
        let sum = short.iter().fold(0_u8, |sum, &byte| sum.rotate_right(1).wrapping_add(byte));
        if name.units.is_empty() || name.next != 0 || sum != name.checksum {
            return None;
        }
        let end = name.units.chunks_exact(2).position(|unit| unit == [0, 0]);
        let units = end.map_or(name.units.as_slice(), |end| bytes::part(&name.units, 0, end * 2));
        Some(bytes::utf16(units))
    }
}

/// `NAME.EXT` out of eleven bytes; two bits say that a part is in lower case, as Windows and Linux have it.
fn short_name(record: &[u8]) -> Vec<u8> {
    let lower = bytes::byte(record, 12);
    let part = |offset: usize, length: usize, is_lower: bool| {
        let bytes = bytes::part(record, offset, length);
        let end = bytes.iter().rposition(|&byte| byte != b' ').map_or(0, |last| last + 1);
        let bytes = bytes::part(bytes, 0, end).to_vec();
        if is_lower { bytes.to_ascii_lowercase() } else { bytes }
    };
    let mut name = part(0, 8, lower & 0x08 != 0);
    // A first letter that would mean "deleted" is written as 5.
    if let Some(first) = name.first_mut().filter(|first| **first == 5) {
        *first = 0xe5;
    }
    let extension = part(8, 3, lower & 0x10 != 0);
    if !extension.is_empty() {
        name.push(b'.');
        name.extend(extension);
    }
    name
}

impl FileSystem for Fat {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> Node {
        ROOT
    }

    fn metadata(&self, node: Node) -> Result<Metadata> {
        let found = self.found(node)?;
        Ok(Metadata {
            file_type: if found.is_directory() { FileType::Directory } else { FileType::File },
            size: found.size,
            mode: mode(found.attributes),
            uid: 0,
            gid: 0,
            modified: found.modified,
            links: 1,
            device: None,
        })
    }

    fn read_dir(&self, node: Node, visit: &mut dyn FnMut(Entry) -> Result<Flow>) -> Result<()> {
        let mut long = LongName::default();
        self.records(node, &mut |record, place| {
            let attributes = u16::from(bytes::byte(record, 11));
            if bytes::byte(record, 0) == 0xe5 {
                long = LongName::default();
                return Ok(Flow::Continue);
            }
            if attributes & 0x3f == LONG_NAME {
                long.add(record);
                return Ok(Flow::Continue);
            }
            let name = long.take(bytes::part(record, 0, 11)).unwrap_or_else(|| short_name(record));
            if attributes & VOLUME != 0 || matches!(name.as_slice(), b"." | b"..") {
                return Ok(Flow::Continue);
            }
            visit(Entry { name, node: Node::new(place) })
        })
    }

    fn read_link(&self, _node: Node) -> Result<Vec<u8>> {
        Err(Error::WrongType { path: "a file".to_owned(), wanted: "symbolic link" })
    }

    fn extent(&self, node: Node, offset: u64, length: u64) -> Result<Option<Extent>> {
        let found = self.file(node)?;
        extent(offset, length, found.size, |offset, length| self.map(&found, offset, length))
    }

    fn read_at(&self, node: Node, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let found = self.file(node)?;
        self.disk.read_runs(buffer, offset, found.size, |offset, length| self.map(&found, offset, length))
    }
}
