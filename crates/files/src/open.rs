//! From a disk or partition to the reader of what is on it.

use leeward_disk::SharedSource;

use crate::disk::Disk;
use crate::ext::Ext;
use crate::guard::{Guarded, guarded};
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
    Ok(None)
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
        })
    })?;
    Ok(Box::new(Guarded { inner }))
}
