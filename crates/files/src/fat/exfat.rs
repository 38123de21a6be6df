//! exFAT.

use std::sync::Mutex;

use crate::disk::{Disk, Run, extent};
use crate::{
    Entry, Error, Extent, FileKind, FileSystem, FileType, Flow, Metadata, Node, Result, Summary, Time, bytes,
};

use super::chain::{Clusters, Width};
use super::{Found, mode, moment, serial};

const KIND: &str = "exFAT";
const RECORD: usize = 32;
const LABEL: u8 = 0x83;
const FILE: u8 = 0x85;
const STREAM: u8 = 0xc0;
const NAME: u8 = 0xc1;
const CONTIGUOUS: u8 = 2;
/// The format allows 256 MiB.
const DIRECTORY_BYTES_MAX: u64 = 256 << 20;
/// Bit of a node's tree: the directory has no chain.
const TREE_CONTIGUOUS: u64 = 1 << 32;

/// An exFAT file system. A node is the directory's first cluster, and the place of the entry in it, plus one.
pub(crate) struct ExFat {
    disk: Disk,
    clusters: Clusters,
    summary: Summary,
    root_cluster: u32,
}

/// The records of one entry.
type Records = Vec<[u8; RECORD]>;

impl ExFat {
    pub(crate) fn open(disk: Disk) -> Result<Self> {
        let boot = disk.bytes(0, 512)?;
        let (sector_bits, cluster_bits) = (bytes::byte(&boot, 108), bytes::byte(&boot, 109));
        if !(9..=12).contains(&sector_bits) || cluster_bits > 25 - sector_bits {
            return Err(Error::corrupt(KIND, "sectors or clusters of an impossible size"));
        }
        let sectors = |place: usize| u64::from(bytes::le32(&boot, place)) << sector_bits;
        let cluster_bytes = 1_u64 << (sector_bits + cluster_bits);
        let flags = bytes::le16(&boot, 106);
        // The second table is only used by TexFAT, which needs another reader.
        if flags & 1 != 0 {
            return Err(Error::unsupported(KIND, "its second table of clusters (TexFAT)"));
        }
        let clusters = Clusters {
            kind: KIND,
            width: Width::ExFat,
            table: sectors(80),
            heap: sectors(88),
            cluster_bytes,
            count: bytes::le32(&boot, 92).min(u32::MAX - 10),
            kept: Mutex::default(),
        };
        let mut warnings = Vec::new();
        if flags & 2 != 0 {
            warnings
                .push("it was not unmounted: files that were being changed may be inconsistent".to_owned());
        }
        let mut files = Self {
            disk,
            clusters,
            summary: Summary {
                kind: FileKind::ExFat,
                label: None,
                uuid: Some(serial(bytes::part(&boot, 100, 4))),
                size: bytes::le64(&boot, 72).saturating_mul(1 << sector_bits),
                block_bytes: cluster_bytes as u32,
                warnings,
            },
            root_cluster: bytes::le32(&boot, 96),
        };
        let mut label = None;
        files.records((files.root_cluster, false), 0, &mut |record, _| {
            if record[0] == LABEL {
                let units = usize::from(record[1]).min(11) * 2;
                label =
                    Some(String::from_utf8_lossy(&bytes::utf16(bytes::part(record, 2, units))).into_owned());
                return Ok(Flow::Stop);
            }
            Ok(Flow::Continue)
        })?;
        files.summary.label = label.filter(|label| !label.is_empty());
        Ok(files)
    }

    /// Visits the records of a directory with their offsets in it, up to the end mark.
    fn records(
        &self,
        directory: (u32, bool),
        from: u64,
        visit: &mut dyn FnMut(&[u8; RECORD], u64) -> Result<Flow>,
    ) -> Result<()> {
        let mut offset = from;
        while offset < DIRECTORY_BYTES_MAX {
            let run = self.clusters.map(
                &self.disk,
                directory,
                DIRECTORY_BYTES_MAX,
                offset,
                DIRECTORY_BYTES_MAX - offset,
            )?;
            let Some(Run { length, place: Some(place) }) = run else { return Ok(()) };
            for within in (0..length).step_by(RECORD) {
                let record = self.disk.bytes(place + within, RECORD)?;
                let record = bytes::array(&record, 0).unwrap_or([0; RECORD]);
                if record[0] == 0 || visit(&record, offset + within)? == Flow::Stop {
                    return Ok(());
                }
            }
            offset += length;
        }
        Ok(())
    }

    /// What the records of an entry say; `None` if they do not belong together.
    fn parse(records: &Records) -> Option<(Vec<u8>, Found)> {
        let (file, stream) = (records.first()?, records.get(1)?);
        if stream[0] != STREAM || !is_sound(records) {
            return None;
        }
        let units: Vec<u8> = records
            .iter()
            .skip(2)
            .filter(|record| record[0] == NAME)
            .flat_map(|record| record[2..].to_vec())
            .collect();
        let name = bytes::utf16(units.get(..usize::from(stream[3]) * 2)?);
        let attributes = bytes::le16(file, 4);
        let size = bytes::le64(stream, 24);
        let found = Found {
            attributes,
            size,
            valid: bytes::le64(stream, 8).min(size),
            cluster: bytes::le32(stream, 20),
            contiguous: stream[1] & CONTIGUOUS != 0,
            modified: modified(file),
        };
        Some((name, found))
    }

    fn found(&self, node: Node) -> Result<Found> {
        if node.id == 0 {
            return Ok(Found {
                attributes: super::DIRECTORY,
                size: DIRECTORY_BYTES_MAX,
                valid: DIRECTORY_BYTES_MAX,
                cluster: self.root_cluster,
                contiguous: false,
                modified: moment(0, 0x21),
            });
        }
        let mut records: Records = Vec::new();
        let directory = (node.tree as u32, node.tree & TREE_CONTIGUOUS != 0);
        self.records(directory, node.id - 1, &mut |record, _| {
            records.push(*record);
            let wanted = records.first().map_or(0, |first| usize::from(first[1]) + 1);
            Ok(if records.len() >= wanted { Flow::Stop } else { Flow::Continue })
        })?;
        let found = Self::parse(&records)
            .ok_or_else(|| Error::corrupt(KIND, "an entry of a directory makes no sense"))?;
        Ok(found.1)
    }

    fn file(&self, node: Node) -> Result<Found> {
        let found = self.found(node)?;
        if found.is_directory() {
            return Err(Error::WrongType { path: "a directory".to_owned(), wanted: "file" });
        }
        Ok(found)
    }

    fn map(&self, found: &Found, offset: u64, length: u64) -> Result<Run> {
        if offset >= found.valid {
            return Ok(Run { length, place: None });
        }
        let length = length.min(found.valid - offset);
        let run =
            self.clusters.map(&self.disk, (found.cluster, found.contiguous), found.size, offset, length)?;
        run.ok_or_else(|| {
            Error::corrupt(KIND, format!("the chain of cluster {} is too short", found.cluster))
        })
    }
}

/// The checksum over all records of an entry; it leaves itself out.
fn is_sound(records: &Records) -> bool {
    let all = records.iter().flatten().enumerate().filter(|(index, _)| !matches!(index, 2 | 3));
    let sum = all.fold(0_u16, |sum, (_, &byte)| sum.rotate_right(1).wrapping_add(u16::from(byte)));
    records.first().is_some_and(|first| bytes::le16(first, 2) == sum)
}

/// The time of the last change: words of time and date, hundredths of a second, and the distance to UTC.
fn modified(file: &[u8; RECORD]) -> Time {
    let mut time = moment(bytes::le16(file, 12), bytes::le16(file, 14));
    let hundredths = u32::from(file[21]).min(199);
    time.seconds += i64::from(hundredths / 100);
    time.nanoseconds = hundredths % 100 * 10_000_000;
    if file[23] & 0x80 != 0 {
        // Seven bits with a sign, in quarters of an hour.
        let quarters = i64::from(((file[23] & 0x7f) << 1).cast_signed() >> 1);
        time.seconds -= quarters * 900;
    }
    time
}

impl FileSystem for ExFat {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> Node {
        Node::new(0)
    }

    fn metadata(&self, node: Node) -> Result<Metadata> {
        let found = self.found(node)?;
        let is_directory = found.is_directory();
        Ok(Metadata {
            file_type: if is_directory { FileType::Directory } else { FileType::File },
            size: if is_directory { 0 } else { found.size },
            mode: mode(found.attributes),
            uid: 0,
            gid: 0,
            modified: found.modified,
            links: 1,
            device: None,
        })
    }

    fn read_dir(&self, node: Node, visit: &mut dyn FnMut(Entry) -> Result<Flow>) -> Result<()> {
        let found = self.found(node)?;
        if !found.is_directory() {
            return Err(Error::NotADirectory { path: "a file".to_owned() });
        }
        if found.cluster == 0 {
            return Ok(());
        }
        let tree = u64::from(found.cluster) | if found.contiguous { TREE_CONTIGUOUS } else { 0 };
        let (mut records, mut start, mut wanted): (Records, u64, usize) = (Vec::new(), 0, 0);
        self.records((found.cluster, found.contiguous), 0, &mut |record, offset| {
            if found.contiguous && offset >= found.size {
                return Ok(Flow::Stop);
            }
            if record[0] == FILE {
                (records, start, wanted) = (vec![*record], offset, usize::from(record[1]) + 1);
            } else if wanted > 0 {
                records.push(*record);
            }
            if wanted == 0 || records.len() < wanted {
                return Ok(Flow::Continue);
            }
            wanted = 0;
            let Some((name, _)) = Self::parse(&records) else {
                return Err(Error::corrupt(KIND, "an entry of a directory makes no sense"));
            };
            visit(Entry { name, node: Node { tree, id: start + 1 } })
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
