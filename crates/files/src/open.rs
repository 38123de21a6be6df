//! From a disk or partition to the reader of what is on it.

use leeward_disk::SharedSource;

use crate::disk::Disk;
use crate::ext::Ext;
use crate::fat::{ExFat, Fat};
use crate::guard::{Guarded, guarded};
use crate::ntfs::Ntfs;
use crate::xfs::Xfs;
use crate::{Error, FileKind, FileSystem, Result, bytes};

/// How to read a file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions {
    /// Reads metadata whose checksum is wrong: to save what can be saved.
    pub ignore_checksums: bool,
}

/// Bytes at the start that are looked at to tell what is there.
const HEAD: u64 = 68 << 10;

/// Finds out which file system the disk or partition carries, by its content.
///
/// # Errors
/// The disk cannot be read.
pub fn identify(source: &SharedSource) -> Result<Option<FileKind>> {
    let mut head = vec![0; HEAD.min(source.virtual_size()) as usize];
    source.read_at(&mut head, 0)?;
    if bytes::le16(&head, 1080) == 0xef53 {
        return Ok(Some(crate::ext::kind(bytes::part(&head, 1024, 1024))));
    }
    Ok(if head.starts_with(b"XFSB") {
        Some(FileKind::Xfs)
    } else if bytes::part(&head, 3, 8) == b"NTFS    " {
        Some(FileKind::Ntfs)
    } else if bytes::part(&head, 3, 8) == b"EXFAT   " {
        Some(FileKind::ExFat)
    } else if crate::fat::is_fat(&head) {
        Some(FileKind::Fat)
    } else {
        None
    })
}

/// Opens the file system that the disk or partition carries.
///
/// # Errors
/// There is none that is known here, it needs something that is not supported, or it is damaged.
pub fn open(source: SharedSource, options: OpenOptions) -> Result<Box<dyn FileSystem>> {
    let Some(kind) = identify(&source)? else {
        return Err(Error::Unknown { what: crate::volumes::describe(&source)? });
    };
    let inner = guarded(kind.name(), || {
        let disk = Disk::new(source, kind.name());
        Ok(match kind {
            FileKind::Ext2 | FileKind::Ext3 | FileKind::Ext4 => {
                Box::new(Ext::open(disk, options)?) as Box<dyn FileSystem>
            }
            FileKind::Xfs => Box::new(Xfs::open(disk, options)?),
            FileKind::Fat => Box::new(Fat::open(disk)?),
            FileKind::ExFat => Box::new(ExFat::open(disk)?),
            FileKind::Ntfs => Box::new(Ntfs::open(disk)?),
        })
    })?;
    Ok(Box::new(Guarded { inner }))
}
