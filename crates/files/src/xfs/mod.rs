//! XFS, versions 4 and 5. Format: *XFS Algorithms & Data Structures*, third edition.

mod inode;
mod log;
mod superblock;

use crate::disk::{Disk, Run, extent};
use crate::{
    Entry, Error, Extent, FileKind, FileSystem, FileType, Flow, Metadata, Node, OpenOptions, Result, Summary,
    bytes,
};

use inode::Inode;
use superblock::Superblock;

/// Behind this offset of a directory lie its indexes.
const DIRECTORY_DATA_MAX: u64 = 32 << 30;
const DIRECTORY_BYTES_MAX: u64 = 2 << 30;
const LINK_MAX: u64 = 1024;
const LINK_HEADER: u64 = 56;

/// An XFS file system.
pub(crate) struct Xfs {
    disk: Disk,
    superblock: Superblock,
    summary: Summary,
}

impl Xfs {
    pub(crate) fn open(disk: Disk, options: OpenOptions) -> Result<Self> {
        let superblock = Superblock::read(&disk, options)?;
        let mut warnings = Vec::new();
        match log::state(&disk, &superblock) {
            Ok(log::State::Clean) => {}
            Ok(log::State::Dirty) => warnings.push(
                "it was not unmounted, and its log is not replayed here: recent changes may be missing, and files that were being changed may be inconsistent".to_owned(),
            ),
            Ok(log::State::Unknown) => {
                warnings.push("its log is on another disk: recent changes may be missing".to_owned());
            }
            Err(error) => warnings.push(format!("its log cannot be read, recent changes may be missing: {error}")),
        }
        if superblock.needs_repair {
            warnings.push("it is marked as in need of repair".to_owned());
        }
        let size = superblock.blocks * superblock.block_bytes;
        if size > disk.size() {
            warnings.push(format!("it should have {size} bytes, but only {} are there", disk.size()));
        }
        let summary = Summary {
            kind: FileKind::Xfs,
            label: superblock.label.clone(),
            uuid: Some(bytes::uuid(&superblock.uuid)),
            size,
            block_bytes: superblock.block_bytes as u32,
            warnings,
        };
        Ok(Self { disk, superblock, summary })
    }

    fn inode(&self, node: Node) -> Result<Inode> {
        Inode::read(&self.disk, &self.superblock, node.id)
    }

    fn file(&self, node: Node) -> Result<Inode> {
        let inode = self.inode(node)?;
        if inode.file_type() != FileType::File {
            return Err(Error::WrongType { path: format!("inode {}", node.id), wanted: "file" });
        }
        Ok(inode)
    }

    fn map(&self, inode: &Inode, offset: u64, length: u64) -> Result<Run> {
        inode.map(&self.disk, &self.superblock, offset, length)
    }

    /// A directory that lies in its inode.
    fn short_entries(
        &self,
        inode: &Inode,
        fork: &[u8],
        visit: &mut dyn FnMut(Entry) -> Result<Flow>,
    ) -> Result<()> {
        let wide = bytes::byte(fork, 1) != 0;
        let number_bytes = if wide { 8 } else { 4 };
        let mut place = 2 + number_bytes;
        for _ in 0..bytes::byte(fork, 0).max(bytes::byte(fork, 1)) {
            let length = usize::from(bytes::byte(fork, place));
            let name = bytes::part(fork, place + 3, length);
            place += 3 + length + usize::from(self.superblock.has_file_types);
            let number = bytes::part(fork, place, number_bytes);
            place += number_bytes;
            if name.is_empty() || number.is_empty() {
                return Err(inode.corrupt("an entry of the directory makes no sense"));
            }
            let number = if wide { bytes::be64(number, 0) } else { u64::from(bytes::be32(number, 0)) };
            if visit(Entry { name: name.to_vec(), node: Node::new(number) })? == Flow::Stop {
                break;
            }
        }
        Ok(())
    }

    /// The entries in a block of a directory; `false` when the visitor wants no more.
    fn entries(
        &self,
        inode: &Inode,
        block: &[u8],
        visit: &mut dyn FnMut(Entry) -> Result<Flow>,
    ) -> Result<bool> {
        let signature = bytes::part(block, 0, 4);
        let (mut place, is_single) = match (self.superblock.is_v5, signature) {
            (true, b"XDB3") => (64, true),
            (true, b"XDD3") => (64, false),
            (false, b"XD2B") => (16, true),
            (false, b"XD2D") => (16, false),
            _ => return Err(inode.corrupt("a block of the directory has no signature")),
        };
        if self.superblock.is_v5 {
            self.superblock.check(block, 4, || format!("the directory of inode {}", inode.number))?;
        }
        // A directory of one block has its index at the end of it.
        let index = if is_single { 8 + bytes::be32(block, block.len() - 8) as usize * 8 } else { 0 };
        let end = block.len().saturating_sub(index);
        while place + 8 <= end {
            if bytes::be16(block, place) == 0xffff {
                let length = usize::from(bytes::be16(block, place + 2));
                if length < 8 || length % 8 != 0 {
                    return Err(inode.corrupt("a gap in the directory makes no sense"));
                }
                place += length;
                continue;
            }
            let length = usize::from(bytes::byte(block, place + 8));
            let name = bytes::part(block, place + 9, length);
            if name.is_empty() || place + 11 + length > end {
                return Err(inode.corrupt("an entry of the directory makes no sense"));
            }
            let number = bytes::be64(block, place);
            place += (11 + length + usize::from(self.superblock.has_file_types)).next_multiple_of(8);
            if matches!(name, b"." | b"..") {
                continue;
            }
            if visit(Entry { name: name.to_vec(), node: Node::new(number) })? == Flow::Stop {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl FileSystem for Xfs {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> Node {
        Node::new(self.superblock.root)
    }

    fn metadata(&self, node: Node) -> Result<Metadata> {
        Ok(self.inode(node)?.metadata())
    }

    fn read_dir(&self, node: Node, visit: &mut dyn FnMut(Entry) -> Result<Flow>) -> Result<()> {
        let inode = self.inode(node)?;
        if inode.file_type() != FileType::Directory {
            return Err(Error::NotADirectory { path: format!("inode {}", node.id) });
        }
        if let Some(fork) = inode.local()? {
            return self.short_entries(&inode, fork, visit);
        }
        let block_bytes = self.superblock.directory_block_bytes;
        let size = inode.size();
        if size > DIRECTORY_BYTES_MAX.min(DIRECTORY_DATA_MAX) {
            return Err(inode.corrupt("a directory of this size is not read"));
        }
        let mut offset = 0;
        let mut block = vec![0; block_bytes as usize];
        while offset < size {
            let run = self.map(&inode, offset, size - offset)?;
            if run.place.is_none() {
                offset = offset.saturating_add(run.length).next_multiple_of(block_bytes);
                continue;
            }
            self.disk
                .read_runs(&mut block, offset, u64::MAX, |offset, length| self.map(&inode, offset, length))?;
            if !self.entries(&inode, &block, visit)? {
                return Ok(());
            }
            offset += block_bytes;
        }
        Ok(())
    }

    fn read_link(&self, node: Node) -> Result<Vec<u8>> {
        let inode = self.inode(node)?;
        if inode.file_type() != FileType::Symlink {
            return Err(Error::WrongType { path: format!("inode {}", node.id), wanted: "symbolic link" });
        }
        if let Some(target) = inode.local()? {
            return Ok(target.to_vec());
        }
        let size = inode.size();
        if size > LINK_MAX {
            return Err(inode.corrupt("a link with so long a target"));
        }
        let (mut target, mut offset) = (Vec::new(), 0);
        while (target.len() as u64) < size {
            // In version 5 every piece has a head that says how much of the target is in it.
            let run = self.map(&inode, offset, 8 * self.superblock.block_bytes)?;
            let Some(place) = run.place else {
                return Err(inode.corrupt("a part of the link's target is missing"));
            };
            let piece = self.disk.bytes(place, run.length as usize)?;
            let rest = (size - target.len() as u64) as usize;
            let part = if self.superblock.is_v5 {
                if !piece.starts_with(b"XSLM") {
                    return Err(inode.corrupt("the link's target has no signature"));
                }
                self.superblock.check(&piece, 12, || format!("the target of link {}", inode.number))?;
                bytes::part(
                    &piece,
                    LINK_HEADER as usize,
                    rest.min(piece.len().saturating_sub(LINK_HEADER as usize)),
                )
            } else {
                bytes::part(&piece, 0, rest.min(piece.len()))
            };
            if part.is_empty() {
                return Err(inode.corrupt("a part of the link's target is missing"));
            }
            target.extend_from_slice(part);
            offset += run.length;
        }
        Ok(target)
    }

    fn extent(&self, node: Node, offset: u64, length: u64) -> Result<Option<Extent>> {
        let inode = self.file(node)?;
        extent(offset, length, inode.size(), |offset, length| self.map(&inode, offset, length))
    }

    fn read_at(&self, node: Node, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let inode = self.file(node)?;
        self.disk.read_runs(buffer, offset, inode.size(), |offset, length| self.map(&inode, offset, length))
    }
}
