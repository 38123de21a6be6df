//! NTFS 3.x.
//!
//! Written for this crate because the reader that exists has no compression, reads no reparse points and has seen no
//! release since 2023. Named streams, security descriptors and the change journal are not read; files have the mode
//! 0644, or 0444 if read-only. Format: the public descriptions of the Linux-NTFS project and Microsoft's [MS-FSCC].

mod compression;
mod record;

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::{Disk, Run, extent};
use crate::{
    Entry, Error, Extent, FileKind, FileSystem, FileType, Flow, Metadata, Node, Result, Summary, Time, bytes,
};

use record::{
    Attribute, BITMAP, COMPRESSED, DATA, ENCRYPTED, INDEX_ALLOCATION, INDEX_ROOT, KIND, LIST, REPARSE,
    Record, STANDARD, VOLUME_INFORMATION, VOLUME_NAME, Value, corrupt, fix,
};

const LOG_RECORD: u64 = 2;
const VOLUME_RECORD: u64 = 3;
const ROOT_RECORD: u64 = 5;
/// Records below are the file system's own.
const FIRST_FREE_RECORD: u64 = 16;
const EXTEND_RECORD: u64 = 11;
const LIST_BYTES_MAX: u64 = 1 << 20;
const RECORDS_PER_FILE_MAX: usize = 16_384;
const SMALL_VALUE_MAX: u64 = 64 << 20;
const FILES_KEPT: usize = 64;
const INDEX_NAME: &[u8] = b"$\0I\x003\x000\0";
const REPARSE_MOUNT: u32 = 0xa000_0003;
const REPARSE_LINK: u32 = 0xa000_000c;
const REPARSE_WSL_LINK: u32 = 0xa000_001d;
const FLAG_READ_ONLY: u32 = 1;

/// A file with all its attributes, those in other records included.
struct File {
    number: u64,
    record: Record,
}

/// An NTFS file system.
pub(crate) struct Ntfs {
    disk: Disk,
    cluster_bytes: u64,
    record_bytes: usize,
    clusters: u64,
    /// The content of the master file table.
    table: Value,
    kept: Mutex<VecDeque<(u64, Arc<File>)>>,
    summary: Summary,
}

/// A size given in clusters, or as a negative power of two in bytes.
fn size_of(value: u8, cluster_bytes: u64) -> u64 {
    if value < 0x80 {
        u64::from(value) * cluster_bytes
    } else {
        1_u64.checked_shl(256 - u32::from(value)).unwrap_or(0)
    }
}

impl Ntfs {
    pub(crate) fn open(disk: Disk) -> Result<Self> {
        let boot = disk.bytes(0, 512)?;
        let sector_bytes = u64::from(bytes::le16(&boot, 11));
        let per_cluster = match bytes::byte(&boot, 13) {
            // Up to 128 sectors as they are, more as a negative power of two.
            count @ 0..=0x80 => u64::from(count),
            power => size_of(power, 0),
        };
        let cluster_bytes = per_cluster.saturating_mul(sector_bytes);
        let sectors = bytes::le64(&boot, 40);
        let record_bytes = size_of(bytes::byte(&boot, 64), cluster_bytes);
        let is_sound = |size: u64, most: u64| size.is_power_of_two() && (512..=most).contains(&size);
        if !is_sound(sector_bytes, 4096)
            || !is_sound(cluster_bytes, 2 << 20)
            || !is_sound(record_bytes, 64 << 10)
        {
            return Err(corrupt("sectors, clusters or records of an impossible size".to_owned()));
        }
        let size = sectors.checked_mul(sector_bytes).filter(|size| *size < 1 << 62);
        let size = size.ok_or_else(|| corrupt(format!("it should have {sectors} sectors")))?;
        let summary = Summary {
            kind: FileKind::Ntfs,
            label: None,
            uuid: Some(format!("{:016X}", bytes::le64(&boot, 72))),
            size,
            block_bytes: cluster_bytes as u32,
            warnings: Vec::new(),
        };
        let clusters = size / cluster_bytes;
        let start = bytes::le64(&boot, 48);
        let pieces = vec![record::Piece { first: 0, count: 1 << 20, cluster: Some(start) }];
        let table = Value::Clusters { pieces, size: u64::MAX >> 1, valid: u64::MAX >> 1, unit_bits: 0 };
        let mut files = Self {
            disk,
            cluster_bytes,
            record_bytes: record_bytes as usize,
            clusters,
            table,
            kept: Mutex::default(),
            summary,
        };
        // The table describes itself: first its first record, which leads to the rest.
        let first = files.record(0)?;
        files.table = data(&first.attributes, b"")
            .ok_or_else(|| corrupt("its table of files has no content".to_owned()))?;
        let whole = files.load(0)?;
        files.table = data(&whole.record.attributes, b"").unwrap_or(files.table);
        files.kept = Mutex::default();
        files.read_state()?;
        Ok(files)
    }

    /// Label, and whether everything was written.
    fn read_state(&mut self) -> Result<()> {
        let volume = self.load(VOLUME_RECORD)?;
        let resident = |kind: u32| {
            let found = volume.record.attributes.iter().find(|attribute| attribute.kind == kind);
            found.and_then(|attribute| match &attribute.value {
                Value::Resident(value) => Some(value.as_slice()),
                Value::Clusters { .. } => None,
            })
        };
        let label =
            resident(VOLUME_NAME).map(|name| String::from_utf8_lossy(&bytes::utf16(name)).into_owned());
        let is_marked = resident(VOLUME_INFORMATION).is_some_and(|value| bytes::le16(value, 10) & 1 != 0);
        self.summary.label = label.filter(|label| !label.is_empty());
        if is_marked || !self.log_is_clean()? {
            self.summary.warnings.push(
                "it was not unmounted, and its log is not replayed here: recent changes may be missing, and files that were being changed may be inconsistent".to_owned(),
            );
        }
        if self.summary.size > self.disk.size() {
            let (size, there) = (self.summary.size, self.disk.size());
            self.summary.warnings.push(format!("it should have {size} bytes, but only {there} are there"));
        }
        Ok(())
    }

    /// Whether the newer of the two restart pages of the log says that no client has it open.
    fn log_is_clean(&self) -> Result<bool> {
        let log = self.load(LOG_RECORD)?;
        let Some(value) = data(&log.record.attributes, b"") else { return Ok(true) };
        let mut newest: Option<(u64, bool)> = None;
        for page in [0, 4096] {
            let mut block = vec![0; 4096];
            if self.read_value(&value, 0, &mut block, page)? < block.len() || !block.starts_with(b"RSTR") {
                continue;
            }
            if fix(&mut block, b"RSTR", "a page of its log").is_err() {
                return Ok(false);
            }
            let area = usize::from(bytes::le16(&block, 24));
            let is_clean =
                bytes::le16(&block, area + 12) == 0xffff || bytes::le16(&block, area + 14) & 2 != 0;
            let number = bytes::le64(&block, area);
            if newest.is_none_or(|(before, _)| number >= before) {
                newest = Some((number, is_clean));
            }
        }
        Ok(newest.is_none_or(|(_, is_clean)| is_clean))
    }

    fn record(&self, number: u64) -> Result<Record> {
        let offset = number.checked_mul(self.record_bytes as u64);
        let offset = offset.ok_or_else(|| corrupt(format!("there is no record {number}")))?;
        let mut block = vec![0; self.record_bytes];
        if self.read_value(&self.table, 0, &mut block, offset)? < block.len() {
            return Err(corrupt(format!("there is no record {number}")));
        }
        fix(&mut block, b"FILE", &format!("record {number}"))?;
        Record::read(&block, number)
    }

    /// Reads a record and those that its list of attributes names.
    fn load(&self, number: u64) -> Result<Arc<File>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = kept.iter().find(|(other, _)| *other == number) {
            return Ok(Arc::clone(file));
        }
        drop(kept);
        let mut record = self.record(number)?;
        if !record.is_used || record.base != 0 {
            return Err(corrupt(format!("record {number} is not in use as a file")));
        }
        if let Some(list) = record.attributes.iter().find(|attribute| attribute.kind == LIST) {
            let list = self.whole(&list.value, LIST_BYTES_MAX)?;
            for other in others(&list, number)? {
                let more = self.record(other)?;
                if more.base != number || !more.is_used {
                    return Err(corrupt(format!("record {other} should belong to {number}, but does not")));
                }
                record.attributes.extend(more.attributes);
            }
        }
        let file = Arc::new(File { number, record });
        kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((number, Arc::clone(&file)));
        if kept.len() > FILES_KEPT {
            kept.pop_front();
        }
        Ok(file)
    }

    fn node(&self, node: Node) -> Result<Arc<File>> {
        let file = self.load(node.id)?;
        if node.tree != 0 && u64::from(file.record.sequence) != node.tree {
            return Err(corrupt(format!("record {} is used by another file now", node.id)));
        }
        Ok(file)
    }

    /// A whole value of bounded size.
    fn whole(&self, value: &Value, most: u64) -> Result<Vec<u8>> {
        match value {
            Value::Resident(value) => Ok(value.clone()),
            Value::Clusters { size, .. } if *size > most => {
                Err(corrupt(format!("an attribute of {size} bytes")))
            }
            Value::Clusters { size, .. } => {
                let mut bytes = vec![0; *size as usize];
                self.read_value(value, 0, &mut bytes, 0)?;
                Ok(bytes)
            }
        }
    }

    fn map(&self, value: &Value, offset: u64, length: u64) -> Result<Run> {
        let Value::Clusters { pieces, valid, .. } = value else { return Ok(Run { length, place: Some(0) }) };
        if offset >= *valid {
            return Ok(Run { length, place: None });
        }
        let length = length.min(valid - offset);
        let (cluster, within) = (offset / self.cluster_bytes, offset % self.cluster_bytes);
        let after = pieces.partition_point(|piece| piece.first <= cluster);
        let piece = after.checked_sub(1).and_then(|index| pieces.get(index));
        let piece = piece.filter(|piece| cluster - piece.first < piece.count);
        let piece = piece.ok_or_else(|| corrupt(format!("no run for cluster {cluster} of a file")))?;
        let skipped = cluster - piece.first;
        let left = (piece.count - skipped).saturating_mul(self.cluster_bytes).saturating_sub(within);
        let place = match piece.cluster {
            None => None,
            Some(first) => {
                let at = first.checked_add(skipped).filter(|at| *at <= self.clusters);
                let at = at.ok_or_else(|| corrupt("a file lies outside the file system".to_owned()))?;
                Some(at * self.cluster_bytes + within)
            }
        };
        Ok(Run { length: left.min(length).max(1), place })
    }

    /// Reads an attribute's value.
    fn read_value(&self, value: &Value, flags: u16, buffer: &mut [u8], offset: u64) -> Result<usize> {
        match value {
            Value::Resident(content) => Ok(copy(content, buffer, offset)),
            Value::Clusters { size, unit_bits, .. } if flags & COMPRESSED != 0 && *unit_bits != 0 => {
                self.read_compressed(value, *unit_bits, *size, buffer, offset)
            }
            Value::Clusters { size, .. } => {
                self.disk.read_runs(buffer, offset, *size, |offset, length| self.map(value, offset, length))
            }
        }
    }

    /// A compressed value comes in units of some clusters: all there means stored, none there means zeros, some there
    /// means compressed.
    fn read_compressed(
        &self,
        value: &Value,
        unit_bits: u16,
        size: u64,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<usize> {
        let unit_bytes =
            self.cluster_bytes.checked_shl(u32::from(unit_bits)).filter(|bytes| *bytes <= 1 << 20);
        let unit_bytes = unit_bytes
            .ok_or_else(|| corrupt("a compressed file with units of an impossible size".to_owned()))?;
        let Value::Clusters { valid, .. } = value else { return Ok(0) };
        let length = (buffer.len() as u64).min(size.saturating_sub(offset)) as usize;
        let mut done = 0;
        while done < length {
            let position = offset + done as u64;
            let unit = position / unit_bytes;
            let content =
                if unit * unit_bytes >= *valid { Vec::new() } else { self.unit(value, unit, unit_bytes)? };
            let within = (position % unit_bytes) as usize;
            let count = (unit_bytes as usize - within).min(length - done);
            let target = buffer.get_mut(done..done + count).unwrap_or_default();
            target.fill(0);
            // What lies behind the written part is zero, whatever the unit holds there.
            let live = valid.saturating_sub(position).min(count as u64) as usize;
            let part = bytes::part(&content, within, live.min(content.len().saturating_sub(within)));
            if let Some(target) = target.get_mut(..part.len()) {
                target.copy_from_slice(part);
            }
            done += count;
        }
        Ok(length)
    }

    /// The content of one unit; nothing if it is a hole.
    fn unit(&self, value: &Value, unit: u64, unit_bytes: u64) -> Result<Vec<u8>> {
        let Value::Clusters { pieces, .. } = value else { return Ok(Vec::new()) };
        let per_unit = unit_bytes / self.cluster_bytes;
        let (start, end) = (unit * per_unit, (unit + 1) * per_unit);
        let mut packed = Vec::new();
        let from = pieces.partition_point(|piece| piece.first + piece.count <= start);
        for piece in pieces.iter().skip(from).take_while(|piece| piece.first < end) {
            let Some(cluster) = piece.cluster else { continue };
            let (first, last) = (piece.first.max(start), (piece.first + piece.count).min(end));
            let at = cluster.saturating_add(first - piece.first);
            if at.saturating_add(last - first) > self.clusters + 1 {
                return Err(corrupt("a file lies outside the file system".to_owned()));
            }
            packed.extend(
                self.disk.bytes(at * self.cluster_bytes, ((last - first) * self.cluster_bytes) as usize)?,
            );
        }
        if packed.is_empty() || packed.len() as u64 == unit_bytes {
            return Ok(packed);
        }
        compression::unpack(&packed, unit_bytes as usize)
            .ok_or_else(|| corrupt("a compressed file cannot be unpacked".to_owned()))
    }

    /// The content of a file, if it can be read.
    fn content(&self, node: Node) -> Result<(Value, u16)> {
        let file = self.node(node)?;
        if file.record.is_directory {
            return Err(Error::WrongType { path: format!("record {}", node.id), wanted: "file" });
        }
        if let Some((tag, _)) = self.reparse(&file)? {
            return Err(Error::unsupported(
                KIND,
                format!("the program behind the reparse point {tag:#x} of record {}", node.id),
            ));
        }
        let flags = file
            .record
            .attributes
            .iter()
            .find(|attribute| attribute.kind == DATA && attribute.name.is_empty());
        let flags = flags.map_or(0, |attribute| attribute.flags);
        if flags & ENCRYPTED != 0 {
            return Err(Error::unsupported(
                KIND,
                format!("the key of record {}, which is encrypted", node.id),
            ));
        }
        Ok((data(&file.record.attributes, b"").unwrap_or(Value::Resident(Vec::new())), flags))
    }

    /// Tag and content of a reparse point.
    fn reparse(&self, file: &File) -> Result<Option<(u32, Vec<u8>)>> {
        let Some(found) = file.record.attributes.iter().find(|attribute| attribute.kind == REPARSE) else {
            return Ok(None);
        };
        let value = self.whole(&found.value, 64 << 10)?;
        Ok(Some((bytes::le32(&value, 0), value)))
    }

    fn file_type(&self, file: &File) -> Result<FileType> {
        Ok(match self.reparse(file)? {
            Some((REPARSE_MOUNT | REPARSE_LINK | REPARSE_WSL_LINK, _)) => FileType::Symlink,
            Some(_) if !file.record.is_directory => FileType::Other,
            _ if file.record.is_directory => FileType::Directory,
            _ => FileType::File,
        })
    }

    /// Visits the entries of a node of an index; `false` when the visitor wants no more.
    fn entries(&self, node: &[u8], visit: &mut dyn FnMut(Entry) -> Result<Flow>) -> Result<bool> {
        let mut place = bytes::le32(node, 0) as usize;
        let end = (bytes::le32(node, 4) as usize).min(node.len());
        while place + 16 <= end {
            let (length, flags) = (usize::from(bytes::le16(node, place + 8)), bytes::le16(node, place + 12));
            if flags & 2 != 0 {
                break;
            }
            if length < 16 || place + length > end {
                return Err(corrupt("an entry of a directory makes no sense".to_owned()));
            }
            let key = bytes::part(node, place + 16, usize::from(bytes::le16(node, place + 10)));
            let reference = bytes::le64(node, place);
            place += length;
            let (number, sequence) = (reference & 0xffff_ffff_ffff, reference >> 48);
            let name = bytes::part(key, 66, usize::from(bytes::byte(key, 64)) * 2);
            // Names in the space of DOS stand beside those of Windows.
            let is_own = number < FIRST_FREE_RECORD && (number != ROOT_RECORD || name == b".\0")
                || number == EXTEND_RECORD;
            if name.is_empty() || bytes::byte(key, 65) == 2 || is_own {
                continue;
            }
            let entry = Entry { name: bytes::utf16(name), node: Node { tree: sequence, id: number } };
            if visit(entry)? == Flow::Stop {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The records that a list of attributes names, without the first one.
fn others(list: &[u8], number: u64) -> Result<BTreeSet<u64>> {
    let (mut place, mut found) = (0, BTreeSet::new());
    while place + 24 <= list.len() {
        let length = usize::from(bytes::le16(list, place + 4));
        if length < 24 || found.len() > RECORDS_PER_FILE_MAX {
            return Err(corrupt(format!("the list of attributes of record {number} makes no sense")));
        }
        let other = bytes::le64(list, place + 16) & 0xffff_ffff_ffff;
        if other != number {
            found.insert(other);
        }
        place += length;
    }
    Ok(found)
}

/// The value of the content with this name, put together from its parts.
fn value_of(attributes: &[Attribute], kind: u32, name: &[u8]) -> Option<Value> {
    let mut parts: Vec<&Attribute> =
        attributes.iter().filter(|attribute| attribute.kind == kind && attribute.name == name).collect();
    parts.sort_by_key(|part| part.first_cluster);
    let first = parts.first()?;
    let Value::Clusters { size, valid, unit_bits, .. } = &first.value else {
        return Some(first.value.clone());
    };
    let mut all = Vec::new();
    for part in &parts {
        if let Value::Clusters { pieces, .. } = &part.value {
            all.extend_from_slice(pieces);
        }
    }
    // Sorted and apart, whatever the parts claimed.
    all.sort_by_key(|piece| piece.first);
    Some(Value::Clusters { pieces: all, size: *size, valid: *valid, unit_bits: *unit_bits })
}

fn data(attributes: &[Attribute], name: &[u8]) -> Option<Value> {
    value_of(attributes, DATA, name)
}

fn copy(content: &[u8], buffer: &mut [u8], offset: u64) -> usize {
    let rest = usize::try_from(offset).ok().and_then(|offset| content.get(offset..)).unwrap_or_default();
    let length = rest.len().min(buffer.len());
    if let (Some(target), Some(from)) = (buffer.get_mut(..length), rest.get(..length)) {
        target.copy_from_slice(from);
    }
    length
}

/// Tenths of microseconds since 1601.
fn time(value: u64) -> Time {
    let seconds = (value / 10_000_000) as i64 - 11_644_473_600;
    Time { seconds, nanoseconds: (value % 10_000_000) as u32 * 100 }
}

/// Where a reparse point leads, with slashes.
fn target(tag: u32, value: &[u8]) -> Option<Vec<u8>> {
    if tag == REPARSE_WSL_LINK {
        return value.get(12..).map(<[u8]>::to_vec);
    }
    let start = if tag == REPARSE_LINK { 20 } else { 16 };
    let text = |place: usize| {
        let (offset, length) =
            (usize::from(bytes::le16(value, place)), usize::from(bytes::le16(value, place + 2)));
        bytes::utf16(bytes::part(value, start + offset, length))
    };
    // What is shown to people, else what the system uses.
    let name = Some(text(12)).filter(|name| !name.is_empty()).unwrap_or_else(|| text(8));
    let name = name.strip_prefix(b"\\??\\").unwrap_or(&name);
    (!name.is_empty()).then(|| name.iter().map(|&byte| if byte == b'\\' { b'/' } else { byte }).collect())
}

impl FileSystem for Ntfs {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> Node {
        Node::new(ROOT_RECORD)
    }

    fn metadata(&self, node: Node) -> Result<Metadata> {
        let file = self.node(node)?;
        let file_type = self.file_type(&file)?;
        let standard = file.record.attributes.iter().find(|attribute| attribute.kind == STANDARD);
        let (modified, flags) = match standard.map(|attribute| &attribute.value) {
            Some(Value::Resident(value)) => (time(bytes::le64(value, 8)), bytes::le32(value, 32)),
            _ => (Time::default(), 0),
        };
        let size = match file_type {
            FileType::File => match data(&file.record.attributes, b"") {
                Some(Value::Resident(value)) => value.len() as u64,
                Some(Value::Clusters { size, .. }) => size,
                None => 0,
            },
            FileType::Symlink => self.read_link(node).map_or(0, |target| target.len() as u64),
            _ => 0,
        };
        let mode = match file_type {
            FileType::Directory => 0o755,
            FileType::Symlink => 0o777,
            _ if flags & FLAG_READ_ONLY != 0 => 0o444,
            _ => 0o644,
        };
        let links = u64::from(file.record.links).max(1);
        Ok(Metadata { file_type, size, mode, uid: 0, gid: 0, modified, links, device: None })
    }

    fn read_dir(&self, node: Node, visit: &mut dyn FnMut(Entry) -> Result<Flow>) -> Result<()> {
        let file = self.node(node)?;
        if self.file_type(&file)? != FileType::Directory {
            return Err(Error::NotADirectory { path: format!("record {}", node.id) });
        }
        let attributes = &file.record.attributes;
        let root = value_of(attributes, INDEX_ROOT, INDEX_NAME);
        let Some(Value::Resident(root)) = root else {
            return Err(corrupt(format!("the directory of record {} has no index", file.number)));
        };
        let block_bytes = u64::from(bytes::le32(&root, 8));
        if !self.entries(root.get(16..).unwrap_or_default(), visit)? {
            return Ok(());
        }
        let Some(blocks) = value_of(attributes, INDEX_ALLOCATION, INDEX_NAME) else { return Ok(()) };
        let used = match value_of(attributes, BITMAP, INDEX_NAME) {
            Some(bitmap) => self.whole(&bitmap, SMALL_VALUE_MAX)?,
            None => Vec::new(),
        };
        if !block_bytes.is_power_of_two() || !(512..=64 << 10).contains(&block_bytes) {
            return Err(corrupt(format!(
                "the directory of record {} has blocks of {block_bytes} bytes",
                file.number
            )));
        }
        let Value::Clusters { size, .. } = &blocks else { return Ok(()) };
        for index in 0..(size / block_bytes).min(used.len() as u64 * 8) {
            if bytes::byte(&used, (index / 8) as usize) >> (index % 8) & 1 == 0 {
                continue;
            }
            let mut block = vec![0; block_bytes as usize];
            self.read_value(&blocks, 0, &mut block, index * block_bytes)?;
            fix(&mut block, b"INDX", &format!("a block of the directory of record {}", file.number))?;
            if !self.entries(block.get(24..).unwrap_or_default(), visit)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn read_link(&self, node: Node) -> Result<Vec<u8>> {
        let file = self.node(node)?;
        let wrong = || Error::WrongType { path: format!("record {}", node.id), wanted: "symbolic link" };
        let (tag, value) = self.reparse(&file)?.ok_or_else(wrong)?;
        if !matches!(tag, REPARSE_MOUNT | REPARSE_LINK | REPARSE_WSL_LINK) {
            return Err(wrong());
        }
        target(tag, &value).ok_or_else(|| corrupt(format!("the link of record {} leads nowhere", node.id)))
    }

    fn extent(&self, node: Node, offset: u64, length: u64) -> Result<Option<Extent>> {
        let (value, flags) = self.content(node)?;
        let size = match &value {
            Value::Resident(value) => value.len() as u64,
            Value::Clusters { size, .. } => *size,
        };
        let is_plain = flags & COMPRESSED == 0;
        extent(offset, length, size, |offset, length| {
            if is_plain { self.map(&value, offset, length) } else { Ok(Run { length, place: Some(0) }) }
        })
    }

    fn read_at(&self, node: Node, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let (value, flags) = self.content(node)?;
        self.read_value(&value, flags, buffer, offset)
    }
}
