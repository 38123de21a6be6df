//! ext2, ext3 and ext4.
//!
//! Written for this crate because the readers that exist give neither link counts, device numbers, holes nor extended
//! attributes; see `docs/decisions`. Format: `Documentation/filesystems/ext4` of Linux.

mod inode;
mod journal;
mod superblock;

use std::sync::Arc;

use crate::disk::{Disk, Run, extent};
use crate::{
    Entry, Error, Extent, FileKind, FileSystem, FileType, Flow, Metadata, Node, OpenOptions, Result, Summary,
    bytes,
};

use inode::Inode;
use superblock::Superblock;
pub(crate) use superblock::kind;

const ROOT: u64 = 2;
/// The largest directory that is read; Linux stops at 2 GiB without `large_dir`.
const DIRECTORY_MAX: u64 = 2 << 30;
const LINK_MAX: u64 = 4096;

/// An ext file system.
pub(crate) struct Ext {
    disk: Disk,
    superblock: Superblock,
    summary: Summary,
    kind: FileKind,
}

impl Ext {
    /// Opens it, and replays the journal in memory if it was not unmounted.
    pub(crate) fn open(disk: Disk, options: OpenOptions) -> Result<Self> {
        let (mut superblock, kind) = Superblock::read(&disk, options)?;
        let (mut disk, mut warnings) = (disk, Vec::new());
        if superblock.needs_recovery() {
            let outcome = journal::replay(&disk, &superblock, kind)?;
            disk = Disk::new(Arc::clone(&outcome.source), kind.name());
            warnings = outcome.warnings;
            superblock = Superblock::read(&disk, options)?.0;
        }
        let size = superblock.blocks.saturating_mul(superblock.block_bytes);
        if size > disk.size() {
            warnings.push(format!("it should have {size} bytes, but only {} are there", disk.size()));
        }
        let summary = Summary {
            kind,
            label: superblock.label.clone(),
            uuid: Some(bytes::uuid(&superblock.uuid)),
            size,
            block_bytes: superblock.block_bytes as u32,
            warnings,
        };
        Ok(Self { disk, superblock, summary, kind })
    }

    fn inode(&self, node: Node) -> Result<Inode> {
        let number = u32::try_from(node.id).unwrap_or(0);
        let inode = Inode::read(&self.disk, &self.superblock, number, self.kind)?;
        if !inode.is_used() {
            return Err(inode.corrupt("it is not in use"));
        }
        Ok(inode)
    }

    fn file(&self, node: Node) -> Result<Inode> {
        let inode = self.inode(node)?;
        if inode.file_type() != FileType::File {
            return Err(Error::WrongType { path: format!("inode {}", node.id), wanted: "file" });
        }
        inode.refuse_encrypted()?;
        Ok(inode)
    }

    fn map(&self, inode: &Inode, offset: u64, length: u64) -> Result<Run> {
        inode.map(&self.disk, &self.superblock, offset, length)
    }

    /// Visits the entries in a block; `false` when the visitor wants no more.
    fn entries(
        &self,
        inode: &Inode,
        block: &[u8],
        visit: &mut dyn FnMut(Entry) -> Result<Flow>,
    ) -> Result<bool> {
        let mut place = 0;
        while place + 8 <= block.len() {
            let number = bytes::le32(block, place);
            let mut length = usize::from(bytes::le16(block, place + 4));
            if block.len() > 0xffff && matches!(length, 0 | 0xffff) {
                length = block.len();
            } else if block.len() > 0xffff {
                // Bits 0 and 1 are the upper ones of lengths in blocks of 64 KiB.
                length = length & 0xfffc | (length & 3) << 16;
            }
            let name_bytes = if self.superblock.has_file_types() {
                usize::from(bytes::byte(block, place + 6))
            } else {
                usize::from(bytes::le16(block, place + 6))
            };
            if length < 8 || place + length > block.len() || 8 + name_bytes > length {
                return Err(inode.corrupt("an entry of the directory makes no sense"));
            }
            let name = bytes::part(block, place + 8, name_bytes);
            place += length;
            if number == 0 || name.is_empty() || matches!(name, b"." | b"..") {
                continue;
            }
            let entry = Entry { name: name.to_vec(), node: Node::new(u64::from(number)) };
            if visit(entry)? == Flow::Stop {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl FileSystem for Ext {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> Node {
        Node::new(ROOT)
    }

    fn metadata(&self, node: Node) -> Result<Metadata> {
        Ok(self.inode(node)?.metadata())
    }

    fn read_dir(&self, node: Node, visit: &mut dyn FnMut(Entry) -> Result<Flow>) -> Result<()> {
        let inode = self.inode(node)?;
        if inode.file_type() != FileType::Directory {
            return Err(Error::NotADirectory { path: format!("inode {}", node.id) });
        }
        inode.refuse_encrypted()?;
        if inode.is_inline() {
            // The number of the parent, then entries in the rest of the sixty bytes, then entries in the attribute.
            let content = inode.inline()?;
            let first = bytes::part(&content, 4, content.len().clamp(4, 60) - 4);
            if self.entries(&inode, first, visit)? {
                self.entries(&inode, content.get(60..).unwrap_or_default(), visit)?;
            }
            return Ok(());
        }
        let size = inode.size();
        if size > DIRECTORY_MAX {
            return Err(inode.corrupt("a directory of this size is not read"));
        }
        let block_bytes = self.superblock.block_bytes;
        let mut offset = 0;
        while offset < size {
            let run = self.map(&inode, offset, size - offset)?;
            // The inner nodes of a hashed directory look like blocks with one empty entry, so all can be read alike.
            if let Some(place) = run.place {
                let mut within = 0;
                while within < run.length {
                    let block = self.disk.bytes(place + within, block_bytes as usize)?;
                    if !self.entries(&inode, &block, visit)? {
                        return Ok(());
                    }
                    within += block_bytes;
                }
            }
            offset = offset.saturating_add(run.length.next_multiple_of(block_bytes));
        }
        Ok(())
    }

    fn read_link(&self, node: Node) -> Result<Vec<u8>> {
        let inode = self.inode(node)?;
        if inode.file_type() != FileType::Symlink {
            return Err(Error::WrongType { path: format!("inode {}", node.id), wanted: "symbolic link" });
        }
        inode.refuse_encrypted()?;
        if let Some(target) = inode.short_link() {
            return Ok(target);
        }
        if inode.is_inline() {
            return inode.inline();
        }
        if inode.size() > LINK_MAX {
            return Err(inode.corrupt("a link with so long a target"));
        }
        let mut target = vec![0; inode.size() as usize];
        self.disk
            .read_runs(&mut target, 0, inode.size(), |offset, length| self.map(&inode, offset, length))?;
        Ok(target)
    }

    fn extent(&self, node: Node, offset: u64, length: u64) -> Result<Option<Extent>> {
        let inode = self.file(node)?;
        let size = inode.size();
        if inode.is_inline() {
            let there = inode.inline()?.len() as u64;
            return extent(offset, length, size, |offset, length| {
                Ok(match there.checked_sub(offset).filter(|left| *left > 0) {
                    Some(left) => Run { length: left.min(length), place: Some(0) },
                    None => Run { length, place: None },
                })
            });
        }
        extent(offset, length, size, |offset, length| self.map(&inode, offset, length))
    }

    fn read_at(&self, node: Node, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let inode = self.file(node)?;
        if inode.is_inline() {
            // mke2fs leaves files of zeros in their inodes: what lies behind the sixty bytes is a hole.
            let length = (buffer.len() as u64).min(inode.size().saturating_sub(offset)) as usize;
            let target = buffer.get_mut(..length).unwrap_or_default();
            target.fill(0);
            read_memory(&inode.inline()?, target, offset);
            return Ok(length);
        }
        self.disk.read_runs(buffer, offset, inode.size(), |offset, length| self.map(&inode, offset, length))
    }

    fn attributes(&self, node: Node) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.inode(node)?.attributes(&self.disk, &self.superblock)
    }
}

/// Reads from content that is in memory.
fn read_memory(content: &[u8], buffer: &mut [u8], offset: u64) {
    let rest = usize::try_from(offset).ok().and_then(|offset| content.get(offset..)).unwrap_or_default();
    let length = rest.len().min(buffer.len());
    if let (Some(target), Some(from)) = (buffer.get_mut(..length), rest.get(..length)) {
        target.copy_from_slice(from);
    }
}
