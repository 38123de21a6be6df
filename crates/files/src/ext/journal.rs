//! Replaying the journal in memory.
//!
//! A disk that was copied while its guest ran has changes in the journal (jbd2) that are not yet in their places. The
//! kernel brings them there at the next mount; here a map says which block is to be read from the journal instead.
//! As in the kernel three passes are made over the log: to find the last transaction that is complete, to collect the
//! blocks that were revoked, and to map the rest. Format: `Documentation/filesystems/ext4/journal.rst` of Linux.

use std::collections::HashMap;
use std::sync::Arc;

use leeward_disk::{Info, SharedSource, Source};

use crate::disk::Disk;
use crate::{Error, FileKind, Result, bytes, crc};

use super::inode::Inode;
use super::superblock::Superblock;

const MAGIC: u32 = 0xc03b_3998;
const INCOMPAT_REVOKE: u32 = 0x1;
const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_ASYNC: u32 = 0x4;
const INCOMPAT_CHECKSUM_2: u32 = 0x8;
const INCOMPAT_CHECKSUM_3: u32 = 0x10;
const INCOMPAT_FAST: u32 = 0x20;
const FLAG_ESCAPED: u32 = 1;
const FLAG_SAME_UUID: u32 = 2;
const FLAG_LAST: u32 = 8;
const FAST_BLOCKS_USUAL: u64 = 256;
/// A log of 64 GiB with blocks of 4 KiB; the largest that mke2fs makes has 40 GiB.
const BLOCKS_MAX: u64 = 16 << 20;

/// A block whose content is in the journal.
#[derive(Debug, Clone, Copy)]
struct Moved {
    /// Where it lies on the disk.
    place: u64,
    /// Whether its first four bytes were the journal's signature and are zero in the log.
    escaped: bool,
}

/// A disk some blocks of which are read from the journal.
struct Replayed {
    source: SharedSource,
    block_bytes: u64,
    moved: HashMap<u64, Moved>,
}

impl Source for Replayed {
    fn virtual_size(&self) -> u64 {
        self.source.virtual_size()
    }

    fn info(&self) -> Info {
        self.source.info()
    }

    fn extents(&self, offset: u64, length: u64) -> leeward_disk::Result<Vec<leeward_disk::Extent>> {
        // Nobody asks a file system's disk for its extents; data is always a right answer.
        let kind = leeward_disk::ExtentKind::Data;
        Ok(if length == 0 { Vec::new() } else { vec![leeward_disk::Extent { offset, length, kind }] })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> leeward_disk::Result<()> {
        self.source.read_at(buffer, offset)?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = offset.saturating_add(buffer.len() as u64);
        for block in offset / self.block_bytes..=(end - 1) / self.block_bytes {
            let Some(moved) = self.moved.get(&block) else { continue };
            let mut content = vec![0; self.block_bytes as usize];
            self.source.read_at(&mut content, moved.place)?;
            if moved.escaped {
                content[..4].copy_from_slice(&MAGIC.to_be_bytes());
            }
            let start = block * self.block_bytes;
            let (from, to) = (start.max(offset), (start + self.block_bytes).min(end));
            let part = bytes::part(&content, (from - start) as usize, (to - from) as usize);
            if let Some(target) = buffer.get_mut((from - offset) as usize..(to - offset) as usize) {
                target.copy_from_slice(part);
            }
        }
        Ok(())
    }
}

/// What came of the replay.
pub(super) struct Outcome {
    /// The disk to read from now on.
    pub(super) source: SharedSource,
    /// What a person must know.
    pub(super) warnings: Vec<String>,
}

/// The log of one file system.
struct Log<'a> {
    disk: &'a Disk,
    superblock: &'a Superblock,
    inode: Inode,
    kind: FileKind,
    blocks: u64,
    first: u64,
    incompat: u32,
    seed: u32,
}

/// Reads the journal that the superblock names and puts what it holds over the disk.
pub(super) fn replay(disk: &Disk, superblock: &Superblock, kind: FileKind) -> Result<Outcome> {
    let unchanged = |warning: String| Outcome { source: Arc::clone(disk.source()), warnings: vec![warning] };
    if !superblock.has_journal() || superblock.journal_inode == 0 {
        return Ok(unchanged(
            "it was not unmounted, and its journal is on another disk: recent changes may be missing"
                .to_owned(),
        ));
    }
    let inode = Inode::read(disk, superblock, superblock.journal_inode, kind)?;
    let mut log = Log { disk, superblock, inode, kind, blocks: 1, first: 1, incompat: 0, seed: 0 };
    let head = log.block(0)?;
    if bytes::be32(&head, 0) != MAGIC || !matches!(bytes::be32(&head, 4), 3 | 4) {
        return Err(Error::corrupt(kind.name(), "its journal has no superblock"));
    }
    if u64::from(bytes::be32(&head, 12)) != superblock.block_bytes {
        return Err(Error::corrupt(kind.name(), "its journal has blocks of another size"));
    }
    let is_old = bytes::be32(&head, 4) == 3;
    log.incompat = if is_old { 0 } else { bytes::be32(&head, 0x28) };
    let known = INCOMPAT_REVOKE
        | INCOMPAT_64BIT
        | INCOMPAT_ASYNC
        | INCOMPAT_CHECKSUM_2
        | INCOMPAT_CHECKSUM_3
        | INCOMPAT_FAST;
    if log.incompat & !known != 0 {
        return Ok(unchanged(format!(
            "its journal needs the features {:#x} and was not replayed: recent changes may be missing",
            log.incompat & !known
        )));
    }
    log.seed = crc::crc32c(u32::MAX, bytes::part(&head, 0x30, 16));
    if log.checks()
        && crc::crc32c_without(u32::MAX, &head[..1024.min(head.len())], 0xfc, 4) != bytes::be32(&head, 0xfc)
    {
        return Err(Error::corrupt(kind.name(), "the checksum of its journal's superblock does not match"));
    }
    let mut warnings = Vec::new();
    log.blocks = u64::from(bytes::be32(&head, 0x10));
    log.first = u64::from(bytes::be32(&head, 0x14)).max(1);
    if log.incompat & INCOMPAT_FAST != 0 {
        let fast = match u64::from(bytes::be32(&head, 0x54)) {
            0 => FAST_BLOCKS_USUAL,
            count => count,
        };
        log.blocks = log.blocks.saturating_sub(fast);
        warnings.push(
            "its journal has fast commits, which are not replayed: the last seconds of changes may be missing".to_owned(),
        );
    }
    if log.blocks <= log.first || log.blocks > BLOCKS_MAX {
        return Err(Error::corrupt(kind.name(), format!("its journal has {} blocks", log.blocks)));
    }
    let start = u64::from(bytes::be32(&head, 0x1c));
    let moved =
        if start == 0 { HashMap::new() } else { log.read(start, bytes::be32(&head, 0x18), &mut warnings)? };
    let source: SharedSource =
        Arc::new(Replayed { source: Arc::clone(disk.source()), block_bytes: superblock.block_bytes, moved });
    Ok(Outcome { source, warnings })
}

/// A block that the log is to put in place.
struct Tag {
    block: u64,
    flags: u32,
    checksum: u32,
}

impl Log<'_> {
    fn place(&self, block: u64) -> Result<u64> {
        let offset = block.saturating_mul(self.superblock.block_bytes);
        let run = self.inode.map(self.disk, self.superblock, offset, self.superblock.block_bytes)?;
        run.place.ok_or_else(|| {
            Error::corrupt(self.kind.name(), format!("block {block} of its journal is a hole"))
        })
    }

    fn block(&self, block: u64) -> Result<Vec<u8>> {
        self.disk.bytes(self.place(block)?, self.superblock.block_bytes as usize)
    }

    fn checks(&self) -> bool {
        self.incompat & (INCOMPAT_CHECKSUM_2 | INCOMPAT_CHECKSUM_3) != 0
    }

    fn next(&self, block: u64) -> u64 {
        if block + 1 >= self.blocks { self.first } else { block + 1 }
    }

    /// Whether the block's own checksum, at `place`, is right.
    fn is_sound(&self, block: &[u8], place: usize) -> bool {
        !self.checks() || crc::crc32c_without(self.seed, block, place, 4) == bytes::be32(block, place)
    }

    /// Goes over the log from `start` on; what is complete is returned as a map.
    fn read(&self, start: u64, first: u32, warnings: &mut Vec<String>) -> Result<HashMap<u64, Moved>> {
        let tail = self.superblock.block_bytes as usize - 4;
        let mut moved = HashMap::new();
        let mut revoked: HashMap<u64, u32> = HashMap::new();
        // What the transaction that is being read holds; it counts once its commit has been seen.
        let mut tags: Vec<(u64, Moved, u32)> = Vec::new();
        let mut all: Vec<(u64, Moved, u32)> = Vec::new();
        let mut revokes: Vec<u64> = Vec::new();
        let (mut position, mut sequence, mut steps) = (start, first, 0);
        if !(self.first..self.blocks).contains(&start) {
            return Err(Error::corrupt(self.kind.name(), format!("its journal begins at block {start}")));
        }
        while steps < self.blocks {
            steps += 1;
            let block = self.block(position)?;
            if bytes::be32(&block, 0) != MAGIC || bytes::be32(&block, 8) != sequence {
                break;
            }
            position = self.next(position);
            match bytes::be32(&block, 4) {
                1 => {
                    if !self.is_sound(&block, tail) {
                        break;
                    }
                    for tag in self.tags(&block) {
                        steps += 1;
                        let place = self.place(position)?;
                        let escaped = tag.flags & FLAG_ESCAPED != 0;
                        if self.is_intact(&tag, place, sequence)? {
                            tags.push((tag.block, Moved { place, escaped }, sequence));
                        } else {
                            warnings.push(format!(
                                "block {} in its journal is damaged and was left out: what it holds may be old",
                                tag.block
                            ));
                        }
                        position = self.next(position);
                    }
                }
                2 => {
                    if !self.is_sound(&block, 16) {
                        break;
                    }
                    all.append(&mut tags);
                    for block in revokes.drain(..) {
                        revoked.insert(block, sequence);
                    }
                    sequence = sequence.wrapping_add(1);
                }
                5 => {
                    if !self.is_sound(&block, tail) {
                        break;
                    }
                    revokes.extend(self.revoked(&block));
                }
                _ => break,
            }
        }
        for (block, place, sequence) in all {
            // A block that was revoked in this or a later transaction is not to be put back.
            let is_revoked = revoked.get(&block).is_some_and(|&by| by.wrapping_sub(sequence) < 1 << 31);
            if !is_revoked {
                moved.insert(block, place);
            }
        }
        Ok(moved)
    }

    fn tags(&self, block: &[u8]) -> Vec<Tag> {
        let wide = self.incompat & INCOMPAT_64BIT != 0;
        let third = self.incompat & INCOMPAT_CHECKSUM_3 != 0;
        let size = match (third, wide) {
            (true, _) => 16,
            (false, true) => 12 + if self.checks() { 2 } else { 0 },
            (false, false) => 8 + if self.checks() { 2 } else { 0 },
        };
        let end = block.len() - if self.checks() { 4 } else { 0 };
        let (mut place, mut tags) = (12, Vec::new());
        while place + size <= end {
            let low = u64::from(bytes::be32(block, place));
            let (flags, checksum, high) = if third {
                (bytes::be32(block, place + 4), bytes::be32(block, place + 12), bytes::be32(block, place + 8))
            } else {
                let flags = u32::from(bytes::be16(block, place + 6));
                (flags, u32::from(bytes::be16(block, place + 4)), bytes::be32(block, place + 8))
            };
            let high = if wide { u64::from(high) << 32 } else { 0 };
            tags.push(Tag { block: high | low, flags, checksum });
            place += size + if flags & FLAG_SAME_UUID == 0 { 16 } else { 0 };
            if flags & FLAG_LAST != 0 {
                break;
            }
        }
        tags
    }

    fn is_intact(&self, tag: &Tag, place: u64, sequence: u32) -> Result<bool> {
        if !self.checks() {
            return Ok(true);
        }
        let content = self.disk.bytes(place, self.superblock.block_bytes as usize)?;
        let sum = crc::crc32c(crc::crc32c(self.seed, &sequence.to_be_bytes()), &content);
        let third = self.incompat & INCOMPAT_CHECKSUM_3 != 0;
        Ok(tag.checksum == if third { sum } else { sum & 0xffff })
    }

    fn revoked(&self, block: &[u8]) -> Vec<u64> {
        let size = if self.incompat & INCOMPAT_64BIT != 0 { 8 } else { 4 };
        let end = (bytes::be32(block, 12) as usize).min(block.len());
        bytes::part(block, 16, end.saturating_sub(16))
            .chunks_exact(size)
            .map(|entry| entry.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
            .collect()
    }
}
