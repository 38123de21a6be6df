//! What all file systems have in common.

use serde::Serialize;

use crate::{Error, Result};

/// A file, directory or other thing in a file system; valid for the file system that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// The tree that holds it, where a file system has several (subvolumes); else 0.
    pub tree: u64,
    /// Its number there: of the inode, or of the place of its directory entry.
    pub id: u64,
}

impl Node {
    pub(crate) fn new(id: u64) -> Self {
        Self { tree: 0, id }
    }
}

/// The format of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum FileKind {
    /// ext2, without journal.
    Ext2,
    /// ext3.
    Ext3,
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// FAT with 12, 16 or 32 bits.
    Fat,
    /// exFAT.
    ExFat,
    /// NTFS.
    Ntfs,
}

impl FileKind {
    /// The usual name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Xfs => "XFS",
            Self::Fat => "FAT",
            Self::ExFat => "exFAT",
            Self::Ntfs => "NTFS",
        }
    }
}

impl std::fmt::Display for FileKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known of a whole file system.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Its format.
    pub kind: FileKind,
    /// Its label.
    pub label: Option<String>,
    /// Its UUID, or serial number where it has no UUID.
    pub uuid: Option<String>,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of a block or cluster.
    pub block_bytes: u32,
    /// What a person must know before trusting what is read: changes that may be missing, damage that was stepped over.
    pub warnings: Vec<String>,
}

/// What a thing in a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Something that has no meaning outside of its system, such as a reparse point.
    Other,
}

impl FileType {
    /// The type in the upper bits of a Unix mode.
    pub(crate) fn from_mode(mode: u32) -> Self {
        match mode & 0o170_000 {
            0o100_000 => Self::File,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Symlink,
            0o020_000 => Self::CharacterDevice,
            0o060_000 => Self::BlockDevice,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            _ => Self::Other,
        }
    }
}

/// A moment, as the file system keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct Time {
    /// Seconds since 1970-01-01 00:00 UTC, negative before.
    pub seconds: i64,
    /// Nanoseconds after them, below 1 000 000 000.
    pub nanoseconds: u32,
}

/// What is known of a thing in a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub file_type: FileType,
    /// Length in bytes of a file's content or of the target of a link.
    pub size: u64,
    /// Permissions: the lower twelve bits of a Unix mode. Made up where the file system has none.
    pub mode: u32,
    /// Number of the owner; 0 where the file system has none.
    pub uid: u32,
    /// Number of the group; 0 where the file system has none.
    pub gid: u32,
    /// When the content was last changed.
    pub modified: Time,
    /// Directory entries that lead to it.
    pub links: u64,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name as it is stored: any bytes. Whoever makes a path of it has to check it.
    pub name: Vec<u8>,
    /// What it leads to.
    pub node: Node,
}

/// Whether a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// To the next one.
    Continue,
    /// No further.
    Stop,
}

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the file.
    pub offset: u64,
    /// Length in bytes, never 0.
    pub length: u64,
    /// Whether the file system holds bytes for it; a hole reads as zeros.
    pub is_data: bool,
}

/// A file system that can be read, from many threads at once.
pub trait FileSystem: Send + Sync {
    /// What is known of it as a whole.
    fn summary(&self) -> &Summary;

    /// Its root directory.
    fn root(&self) -> Node;

    /// What is known of one thing.
    ///
    /// # Errors
    /// The disk cannot be read or the file system is damaged; as for all methods.
    fn metadata(&self, node: Node) -> Result<Metadata>;

    /// Calls `visit` with every entry of a directory but `.` and `..`, in the order of the disk, until it says
    /// [`Flow::Stop`].
    ///
    /// # Errors
    /// `node` is no directory; those of `visit`.
    fn read_dir(&self, node: Node, visit: &mut dyn FnMut(Entry) -> Result<Flow>) -> Result<()>;

    /// The entry of a directory with this name.
    ///
    /// # Errors
    /// `node` is no directory.
    fn find(&self, node: Node, name: &[u8]) -> Result<Option<Node>> {
        let mut found = None;
        self.read_dir(node, &mut |entry| {
            if entry.name == name {
                found = Some(entry.node);
                return Ok(Flow::Stop);
            }
            Ok(Flow::Continue)
        })?;
        Ok(found)
    }

    /// Where a symbolic link leads to.
    ///
    /// # Errors
    /// `node` is no symbolic link.
    fn read_link(&self, node: Node) -> Result<Vec<u8>>;

    /// The stretch of a file's content that begins at `offset`, at most `length` bytes long; `None` at the end of the file.
    ///
    /// # Errors
    /// `node` is no file.
    fn extent(&self, node: Node, offset: u64, length: u64) -> Result<Option<Extent>>;

    /// Reads a file's content from `offset` on; holes read as zeros. Returns how many bytes were read: fewer than the
    /// buffer takes only at the end of the file.
    ///
    /// # Errors
    /// `node` is no file.
    fn read_at(&self, node: Node, buffer: &mut [u8], offset: u64) -> Result<usize>;

    /// Extended attributes, names with their prefix; none where they are not read.
    ///
    /// # Errors
    /// The disk cannot be read or the file system is damaged.
    fn attributes(&self, _node: Node) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        Ok(Vec::new())
    }
}

/// Calls `visit` with every extent of a file in order, neighbours of one kind merged.
///
/// # Errors
/// Those of [`FileSystem::extent`], and those of `visit`.
pub fn walk_extents<E: From<Error>>(
    files: &dyn FileSystem,
    node: Node,
    mut visit: impl FnMut(Extent) -> Result<(), E>,
) -> Result<(), E> {
    let mut pending: Option<Extent> = None;
    let mut position = 0;
    while let Some(extent) = files.extent(node, position, u64::MAX - position)? {
        position = extent.offset.saturating_add(extent.length);
        match &mut pending {
            Some(last) if last.is_data == extent.is_data => last.length += extent.length,
            _ => {
                if let Some(last) = pending.replace(extent) {
                    visit(last)?;
                }
            }
        }
    }
    pending.map_or(Ok(()), visit)
}
