//! The log; [MS-VHDX] 2.3.
//!
//! The log is a ring of entries. Each says which 4 KiB pages of the file get which bytes. What counts is the newest
//! *sequence*: entries that follow each other in place and number, up to a head that names the sequence's tail. A log
//! that is in use but holds no sequence means that the image is damaged.

use super::super::bytes::{le32, le64};
use super::super::image_file::ImageFile;
use super::crc32c::crc32c_without_own;
use super::guid::Guid;
use super::header::Header;
use super::overlay::Overlay;
use crate::Result;

use std::collections::BTreeMap;
use std::sync::Arc;

const SECTOR_BYTES: usize = 4096;
const ENTRY_HEADER_BYTES: usize = 64;
const DESCRIPTOR_BYTES: usize = 32;
/// Entries of a real log do not overlap, and stale ones do little, so reading the log a few times over is enough to
/// check all; a log made to keep us busy is refused.
const CHECKED_LOGS_MAX: usize = 8;
/// Beyond the largest disk with all its tables.
const FILE_BYTES_MAX: u64 = 1 << 50;

/// The image as it is with the log applied, and how many entries were.
pub(super) fn replay(file: ImageFile, header: &Header) -> Result<(ImageFile, usize)> {
    if header.log.is_zero() {
        return Ok((file, 0));
    }
    let ring = Ring { bytes: file.read("the log", header.log_offset, header.log_bytes as usize)? };
    let entries = ring.entries(header.log).map_err(|what| file.corrupt(what))?;
    let Some(sequence) = newest_sequence(&entries, ring.bytes.len()) else {
        return Err(file.corrupt(
            "the log is in use but holds no complete sequence of entries — copy the image again, when nothing has it open",
        ));
    };
    let overlay = apply(&file, &ring, &sequence)?;
    Ok((ImageFile::new(Arc::new(overlay), file.format()), sequence.len()))
}

/// An entry with a right checksum.
struct Entry {
    position: usize,
    length: usize,
    /// Place of the first entry of the sequence of which this one was the head.
    tail: usize,
    number: u64,
    descriptors: usize,
    /// The file was at least this long.
    flushed_bytes: u64,
    /// The file is to be at least this long.
    needed_bytes: u64,
}

struct Ring {
    bytes: Vec<u8>,
}

impl Ring {
    /// The sound entries of the log that `log` names, by place.
    fn entries(&self, log: Guid) -> Result<BTreeMap<usize, Entry>, String> {
        let mut budget = self.bytes.len() * CHECKED_LOGS_MAX;
        let mut entries = BTreeMap::new();
        for position in (0..self.bytes.len()).step_by(SECTOR_BYTES) {
            let Some(entry) = self.header(position, log) else { continue };
            budget =
                budget.checked_sub(entry.length).ok_or("the log's entries lie over each other many times")?;
            if self.is_sound(&entry) {
                entries.insert(position, entry);
            }
        }
        Ok(entries)
    }

    /// The entry that begins at `position`, if its header makes sense.
    fn header(&self, position: usize, log: Guid) -> Option<Entry> {
        let bytes = self.bytes.get(position..position + SECTOR_BYTES)?;
        let entry = Entry {
            position,
            length: le32(bytes, 8) as usize,
            tail: le32(bytes, 12) as usize,
            number: le64(bytes, 16),
            descriptors: le32(bytes, 24) as usize,
            flushed_bytes: le64(bytes, 48),
            needed_bytes: le64(bytes, 56),
        };
        let fits = entry.length.is_multiple_of(SECTOR_BYTES)
            && entry.length <= self.bytes.len()
            && entry.length >= data_start(entry.descriptors);
        (bytes.starts_with(b"loge") && Guid::at(bytes, 32) == log && entry.number != 0 && fits)
            .then_some(entry)
    }

    fn is_sound(&self, entry: &Entry) -> bool {
        let bytes = self.copy(entry);
        crc32c_without_own(&bytes) == le32(&bytes, 4) && changes(&bytes, entry).all(|change| change.is_some())
    }

    /// The bytes of an entry, which may run over the end of the ring.
    fn copy(&self, entry: &Entry) -> Vec<u8> {
        let first = entry.length.min(self.bytes.len() - entry.position);
        let mut bytes = self.bytes[entry.position..entry.position + first].to_vec();
        bytes.extend_from_slice(&self.bytes[..entry.length - first]);
        bytes
    }
}

/// Where the data sectors of an entry begin.
fn data_start(descriptors: usize) -> usize {
    (ENTRY_HEADER_BYTES + descriptors * DESCRIPTOR_BYTES).next_multiple_of(SECTOR_BYTES)
}

/// A change of the file.
enum Change {
    Zeros { offset: u64, length: u64 },
    Page { offset: u64, bytes: Box<[u8]> },
}

/// The changes that an entry describes; `None` for one that makes no sense.
fn changes<'a>(bytes: &'a [u8], entry: &'a Entry) -> impl Iterator<Item = Option<Change>> + 'a {
    let mut data = data_start(entry.descriptors);
    (0..entry.descriptors).map(move |index| {
        let descriptor =
            bytes.get(ENTRY_HEADER_BYTES + index * DESCRIPTOR_BYTES..)?.get(..DESCRIPTOR_BYTES)?;
        let offset = le64(descriptor, 16);
        if le64(descriptor, 24) != entry.number || !offset.is_multiple_of(SECTOR_BYTES as u64) {
            return None;
        }
        match descriptor.first_chunk::<4>()? {
            b"zero" => {
                let length = le64(descriptor, 8);
                length.is_multiple_of(SECTOR_BYTES as u64).then_some(Change::Zeros { offset, length })
            }
            b"desc" => {
                let sector = bytes.get(data..data + SECTOR_BYTES)?;
                data += SECTOR_BYTES;
                page(descriptor, sector, entry.number).map(|bytes| Change::Page { offset, bytes })
            }
            _ => None,
        }
    })
}

/// A page of the file: the descriptor holds those bytes of it whose place a data sector needs for its own frame.
fn page(descriptor: &[u8], sector: &[u8], number: u64) -> Option<Box<[u8]>> {
    let framed = u64::from(le32(sector, 4)) << 32 | u64::from(le32(sector, SECTOR_BYTES - 4));
    if !sector.starts_with(b"data") || framed != number {
        return None;
    }
    let mut page: Box<[u8]> = sector.into();
    page[..8].copy_from_slice(&descriptor[8..16]);
    page[SECTOR_BYTES - 4..].copy_from_slice(&descriptor[4..8]);
    Some(page)
}

/// The sequence with the highest number at its head, tail first.
fn newest_sequence(entries: &BTreeMap<usize, Entry>, ring_bytes: usize) -> Option<Vec<&Entry>> {
    let after = |entry: &Entry| {
        entries
            .get(&((entry.position + entry.length) % ring_bytes))
            .filter(|next| entry.number.checked_add(1) == Some(next.number))
    };
    let mut heads: Vec<&Entry> = entries.values().filter(|entry| after(entry).is_none()).collect();
    heads.sort_by_key(|head| std::cmp::Reverse(head.number));
    heads.into_iter().find_map(|head| {
        // Numbers grow by one, so a walk ends after as many steps as there are entries.
        let mut sequence = vec![entries.get(&head.tail)?];
        while let Some(&last) = sequence.last()
            && last.position != head.position
        {
            sequence.push(after(last)?);
        }
        Some(sequence)
    })
}

fn apply(file: &ImageFile, ring: &Ring, sequence: &[&Entry]) -> Result<Overlay> {
    let flushed = sequence.iter().map(|entry| entry.flushed_bytes).max().unwrap_or(0);
    if flushed > file.size() {
        return Err(file.corrupt(format!(
            "the log was written for a file of {flushed} bytes, and this one has {} — it has been cut off: copy it again",
            file.size()
        )));
    }
    let needed = sequence.iter().map(|entry| entry.needed_bytes).max().unwrap_or(0);
    let size = file.size().max(needed);
    if needed > FILE_BYTES_MAX {
        return Err(file.corrupt(format!("the log asks for a file of {needed} bytes")));
    }
    let mut overlay = Overlay::new(Arc::clone(file.storage()), size);
    for entry in sequence {
        let bytes = ring.copy(entry);
        for change in changes(&bytes, entry).flatten() {
            let (offset, length) = match &change {
                Change::Zeros { offset, length } => (*offset, *length),
                Change::Page { offset, bytes } => (*offset, bytes.len() as u64),
            };
            if offset.checked_add(length).is_none_or(|end| end > size) {
                return Err(file.corrupt(format!(
                    "the log changes {length} bytes at offset {offset}, outside the file of {size} bytes"
                )));
            }
            match change {
                Change::Zeros { .. } => overlay.put_zeros(offset, length),
                Change::Page { bytes, .. } => overlay.put(offset, &bytes),
            }
        }
    }
    Ok(overlay)
}
