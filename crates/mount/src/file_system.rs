//! The file system as the kernel asks for it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, Request,
};
use leeward_disk::SharedSource;
use leeward_repository::{Error, ErrorKind, ImageName, SnapshotEntry, SnapshotId};

use crate::Report;
use crate::catalogue::{Catalogue, FRESH, snapshot_name};
use crate::files::Files;
use crate::node::{Node, Nodes};

const DISK: &str = "disk.raw";
const MANIFEST: &str = "manifest.json";
/// Unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;
/// What programs should read at a time: a chunk.
const PREFERRED_BYTES: u32 = 64 << 10;
/// `lseek` to data and to a hole, as Linux numbers them.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// Why a request is not served.
enum Refusal {
    /// It is not there, or not allowed.
    Errno(Errno),
    /// Something has failed that a person should hear of.
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

type Answer<T> = Result<T, Refusal>;

/// What a file holds.
enum Content {
    Disk(SharedSource),
    Text(Vec<u8>),
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Disk(disk) => disk.virtual_size(),
            Self::Text(text) => text.len() as u64,
        }
    }
}

/// A file or directory that somebody has open. What it was then it stays, whatever is forgotten meanwhile.
enum Open {
    File { node: Node, content: Content, attributes: FileAttr },
    Directory(Vec<(String, FileType, u64)>),
}

thread_local! {
    /// Bytes on their way to the kernel: each thread serves one request at a time.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A repository, served read-only.
pub(crate) struct RepositoryFileSystem {
    catalogue: Catalogue,
    files: Files,
    nodes: Nodes,
    open: Mutex<HashMap<u64, Arc<Open>>>,
    next_handle: AtomicU64,
    report: Report,
    reported: Mutex<Option<Instant>>,
    started: SystemTime,
    owner: (u32, u32),
}

impl RepositoryFileSystem {
    pub(crate) fn new(catalogue: Catalogue, files: Files, report: Report) -> Self {
        Self {
            catalogue,
            files,
            nodes: Nodes::default(),
            open: Mutex::default(),
            next_handle: AtomicU64::new(1),
            report,
            reported: Mutex::default(),
            started: SystemTime::now(),
            owner: (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()),
        }
    }

    fn node(&self, number: INodeNo) -> Answer<Node> {
        self.nodes.get(number.0).ok_or(Refusal::Errno(Errno::ESTALE))
    }

    /// The snapshot as its image has it now.
    fn entry(&self, image: &ImageName, id: SnapshotId) -> Answer<SnapshotEntry> {
        self.catalogue.entry(image, id)?.ok_or(Refusal::Errno(Errno::ENOENT))
    }

    fn child(&self, parent: &Node, name: &str) -> Answer<Node> {
        let found = match parent {
            Node::Directory(directory) => self.catalogue.find(directory, name)?,
            Node::Snapshot(image, id) => {
                self.entry(image, *id)?;
                match name {
                    DISK => Some(Node::Disk(image.clone(), *id)),
                    MANIFEST => Some(Node::Manifest(image.clone(), *id)),
                    _ => match partition_number(name) {
                        Some(number) => {
                            let there = self.files.snapshot(*id)?.partition(number)?.is_some();
                            there.then(|| Node::Partition(image.clone(), *id, number))
                        }
                        None => None,
                    },
                }
            }
            _ => return Err(Errno::ENOTDIR.into()),
        };
        found.ok_or(Refusal::Errno(Errno::ENOENT))
    }

    /// What a directory holds, but for the two dots.
    fn list(&self, node: &Node) -> Answer<Vec<(String, Node)>> {
        match node {
            Node::Directory(directory) => Ok(self.catalogue.list(directory, |error| self.tell(error))?),
            Node::Snapshot(image, id) => {
                self.entry(image, *id)?;
                let mut entries = vec![(DISK.to_owned(), Node::Disk(image.clone(), *id))];
                // A disk whose beginning is damaged is listed all the same.
                match self.files.snapshot(*id).and_then(|snapshot| {
                    Ok(snapshot.table()?.usable().map(|partition| partition.number).collect::<Vec<_>>())
                }) {
                    Ok(numbers) => {
                        entries.extend(numbers.into_iter().map(|number| {
                            (partition_name(number), Node::Partition(image.clone(), *id, number))
                        }))
                    }
                    Err(error) => self.tell(&error),
                }
                entries.push((MANIFEST.to_owned(), Node::Manifest(image.clone(), *id)));
                Ok(entries)
            }
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    fn content(&self, node: &Node) -> Answer<Content> {
        match node {
            Node::Disk(_, id) => Ok(Content::Disk(self.files.snapshot(*id)?.disk())),
            Node::Partition(_, id, number) => {
                let partition = self.files.snapshot(*id)?.partition(*number)?;
                Ok(Content::Disk(partition.ok_or(Refusal::Errno(Errno::ENOENT))?))
            }
            Node::Manifest(_, id) => Ok(Content::Text(self.files.snapshot(*id)?.manifest()?)),
            Node::Directory(_) | Node::Snapshot(..) => Err(Errno::EISDIR.into()),
            Node::Latest(_) => Err(Errno::ELOOP.into()),
        }
    }

    /// Where the link to the last snapshot of an image leads.
    fn target(&self, image: &ImageName) -> Answer<(String, SystemTime)> {
        let found = self.catalogue.image_at(image.as_str())?;
        let last = found.and_then(|(_, image)| image.snapshots.last().cloned());
        let entry = last.ok_or(Refusal::Errno(Errno::ENOENT))?;
        Ok((snapshot_name(&entry), entry.created.into()))
    }

    fn attributes(&self, node: &Node, number: u64) -> Answer<FileAttr> {
        let file = |size: u64, stored: u64, time: SystemTime| {
            self.attribute(number, FileType::RegularFile, size, stored, time)
        };
        match node {
            Node::Directory(name) => {
                let image = self.catalogue.image_at(name);
                if !self.catalogue.is_directory(name)? {
                    return Err(Errno::ENOENT.into());
                }
                // A ref that cannot be read makes a directory that cannot be listed, not one that is not there.
                let last = image.ok().flatten().and_then(|(_, image)| image.snapshots.last().cloned());
                let time = last.map_or(self.started, |entry| entry.created.into());
                Ok(self.attribute(number, FileType::Directory, 0, 0, time))
            }
            Node::Snapshot(image, id) => {
                let time = self.entry(image, *id)?.created.into();
                Ok(self.attribute(number, FileType::Directory, 0, 0, time))
            }
            Node::Latest(image) => {
                let (target, time) = self.target(image)?;
                Ok(self.attribute(number, FileType::Symlink, target.len() as u64, 0, time))
            }
            Node::Disk(image, id) => {
                let entry = self.entry(image, *id)?;
                let data = self.files.snapshot(*id).map_or(entry.virtual_size, |open| open.data_bytes());
                Ok(file(entry.virtual_size, data, entry.created.into()))
            }
            Node::Partition(image, id, _) | Node::Manifest(image, id) => {
                let entry = self.entry(image, *id)?;
                let content = self.content(node)?;
                let data = self.files.snapshot(*id)?.data_bytes();
                let stored = if let Content::Text(text) = &content { text.len() as u64 } else { data };
                Ok(file(content.size(), stored, entry.created.into()))
            }
        }
    }

    /// Attributes; `stored` is how many bytes take room, at most. Programs look for holes where that is less than the size.
    fn attribute(&self, number: u64, kind: FileType, size: u64, stored: u64, time: SystemTime) -> FileAttr {
        let is_directory = kind == FileType::Directory;
        FileAttr {
            ino: INodeNo(number),
            size,
            blocks: stored.min(size).div_ceil(BLOCK_BYTES),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: match kind {
                FileType::Directory => 0o555,
                FileType::Symlink => 0o777,
                _ => 0o444,
            },
            nlink: if is_directory { 2 } else { 1 },
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: PREFERRED_BYTES,
            flags: 0,
        }
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Open>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_open(&self, open: Open) -> FileHandle {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.opened().insert(handle, Arc::new(open));
        FileHandle(handle)
    }

    fn handle(&self, handle: FileHandle) -> Answer<Arc<Open>> {
        self.opened().get(&handle.0).cloned().ok_or(Refusal::Errno(Errno::EBADF))
    }

    fn open_file(&self, number: INodeNo, flags: OpenFlags) -> Answer<FileHandle> {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return Err(Errno::EROFS.into());
        }
        let node = self.node(number)?;
        let attributes = self.attributes(&node, number.0)?;
        let content = self.content(&node)?;
        Ok(self.keep_open(Open::File { node, content, attributes }))
    }

    fn open_directory(&self, number: INodeNo) -> Answer<FileHandle> {
        let node = self.node(number)?;
        let mut entries = vec![
            (".".to_owned(), FileType::Directory, number.0),
            ("..".to_owned(), FileType::Directory, number.0),
        ];
        for (name, node) in self.list(&node)? {
            let kind = match node {
                Node::Directory(_) | Node::Snapshot(..) => FileType::Directory,
                Node::Latest(_) => FileType::Symlink,
                _ => FileType::RegularFile,
            };
            entries.push((name, kind, node.number()));
        }
        Ok(self.keep_open(Open::Directory(entries)))
    }

    /// The attributes of a file that is open though it is not listed any more.
    fn attributes_while_open(&self, node: &Node) -> Option<FileAttr> {
        self.opened().values().find_map(|open| match open.as_ref() {
            Open::File { node: other, attributes, .. } if other == node => Some(*attributes),
            _ => None,
        })
    }

    fn get_attributes(&self, number: INodeNo) -> Answer<FileAttr> {
        let node = self.node(number)?;
        match self.attributes(&node, number.0) {
            Err(refusal) => self.attributes_while_open(&node).ok_or(refusal),
            found => found,
        }
    }

    fn look_up(&self, parent: INodeNo, name: &OsStr) -> Answer<FileAttr> {
        let name = name.to_str().ok_or(Refusal::Errno(Errno::ENOENT))?;
        let node = self.child(&self.node(parent)?, name)?;
        let mut attributes = self.attributes(&node, 0)?;
        attributes.ino = INodeNo(self.nodes.remember(&node));
        Ok(attributes)
    }

    /// Where data or a hole begins at or after an offset.
    fn seek(content: &Content, offset: u64, whence: i32) -> Answer<u64> {
        let size = content.size();
        if offset >= size || !(whence == SEEK_DATA || whence == SEEK_HOLE) {
            return Err(if offset >= size { Errno::ENXIO } else { Errno::EINVAL }.into());
        }
        let Content::Disk(disk) = content else {
            return Ok(if whence == SEEK_DATA { offset } else { size });
        };
        let mut position = offset;
        while position < size {
            for extent in disk.extents(position, size - position).map_err(Error::Disk)? {
                if extent.kind.is_data() == (whence == SEEK_DATA) {
                    return Ok(extent.offset);
                }
                position = extent.end();
            }
        }
        // Every file ends with a hole.
        if whence == SEEK_HOLE { Ok(size) } else { Err(Errno::ENXIO.into()) }
    }

    /// Tells a person what has failed, at most once a second: programs try again and again.
    fn tell(&self, error: &Error) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.is_none_or(|at| at.elapsed() >= FRESH) {
            *reported = Some(Instant::now());
            (self.report)(error);
        }
    }

    fn errno(&self, refusal: Refusal) -> Errno {
        match refusal {
            Refusal::Errno(errno) => errno,
            Refusal::Failed(error) if error.kind() == ErrorKind::NotFound => Errno::ENOENT,
            Refusal::Failed(error) => {
                self.tell(&error);
                Errno::EIO
            }
        }
    }
}

/// The name of the file of a partition.
fn partition_name(number: u32) -> String {
    format!("partition-{number}.raw")
}

/// The number of the partition whose file has this name.
fn partition_number(name: &str) -> Option<u32> {
    let number = name.strip_prefix("partition-")?.strip_suffix(".raw")?.parse().ok()?;
    // As it is written, without signs and zeros in front.
    (partition_name(number) == name).then_some(number)
}

impl Filesystem for RepositoryFileSystem {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up(parent, name) {
            Ok(attributes) => reply.entry(&FRESH, &attributes, Generation(0)),
            Err(refusal) => reply.error(self.errno(refusal)),
        }
    }

    fn forget(&self, _: &Request, number: INodeNo, lookups: u64) {
        self.nodes.forget(number.0, lookups);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.get_attributes(number) {
            Ok(attributes) => reply.attr(&FRESH, &attributes),
            Err(refusal) => reply.error(self.errno(refusal)),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        let target = self.node(number).and_then(|node| match node {
            Node::Latest(image) => Ok(self.target(&image)?.0),
            _ => Err(Errno::EINVAL.into()),
        });
        match target {
            Ok(target) => reply.data(target.as_bytes()),
            Err(refusal) => reply.error(self.errno(refusal)),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(number, flags) {
            // A number stands for the same bytes for ever, so what the kernel has of them stays good.
            Ok(handle) => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
            Err(refusal) => reply.error(self.errno(refusal)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let open = match self.handle(handle) {
            Ok(open) => open,
            Err(refusal) => return reply.error(self.errno(refusal)),
        };
        let Open::File { content, .. } = open.as_ref() else { return reply.error(Errno::EISDIR) };
        let length = content.size().saturating_sub(offset).min(u64::from(size)) as usize;
        match content {
            Content::Text(_) if length == 0 => reply.data(&[]),
            Content::Text(text) => reply.data(&text[offset as usize..offset as usize + length]),
            Content::Disk(disk) => BUFFER.with_borrow_mut(|buffer| {
                if buffer.len() < length {
                    buffer.resize(length, 0);
                }
                match disk.read_at(&mut buffer[..length], offset) {
                    Ok(()) => reply.data(&buffer[..length]),
                    Err(error) => reply.error(self.errno(Error::Disk(error).into())),
                }
            }),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let closed = self.opened().remove(&handle.0);
        drop(closed);
        reply.ok();
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.open_directory(number) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(refusal) => reply.error(self.errno(refusal)),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let open = match self.handle(handle) {
            Ok(open) => open,
            Err(refusal) => return reply.error(self.errno(refusal)),
        };
        let Open::Directory(entries) = open.as_ref() else { return reply.error(Errno::ENOTDIR) };
        let first = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (name, kind, number)) in entries.iter().enumerate().skip(first) {
            if reply.add(INodeNo(*number), index as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.opened().remove(&handle.0);
        reply.ok();
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let found = self.handle(handle).and_then(|open| match open.as_ref() {
            Open::File { content, .. } => {
                let offset = u64::try_from(offset).map_err(|_| Refusal::Errno(Errno::ENXIO))?;
                let found = Self::seek(content, offset, whence)?;
                i64::try_from(found).map_err(|_| Refusal::Errno(Errno::EOVERFLOW))
            }
            Open::Directory(_) => Err(Errno::EISDIR.into()),
        });
        match found {
            Ok(offset) => reply.offset(offset),
            Err(refusal) => reply.error(self.errno(refusal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_have_one_name_each() {
        assert_eq!(partition_number("partition-12.raw"), Some(12));
        for bad in
            ["partition-.raw", "partition-+1.raw", "partition-01.raw", "partition-1", "partition-1.raw "]
        {
            assert_eq!(partition_number(bad), None, "{bad}");
        }
    }
}
