//! Whether somebody else uses a disk.
//!
//! QEMU holds record locks on the images and devices that it has open: on byte 100 + n for a permission that it uses, and
//! on byte 200 + n for one that it does not leave to others, where n numbers the permissions (1 is writing). See
//! `block/file-posix.c` and `docs/system/images.rst` of QEMU ("Disk image file locking"). Whoever opens an image without
//! locking, or writes a device directly, is not seen.

use std::fs::File;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};

use crate::{Error, Result};

const USES_WRITING: u64 = 101;

/// Whether a running machine (or another program that locks as QEMU does) has the file or device open for writing.
///
/// # Errors
/// It cannot be opened or asked.
pub fn is_written(path: &Path) -> Result<bool> {
    let file = File::open(path).map_err(|source| Error::open(path, "open", source))?;
    let wanted = Flock {
        start: USES_WRITING,
        length: 1,
        pid: None,
        typ: FlockType::WriteLock,
        offset_type: FlockOffsetType::Set,
    };
    match fcntl_getlk(&file, &wanted) {
        Ok(found) => Ok(found.is_some()),
        // File systems without locks.
        Err(Errno::INVAL | Errno::NOLCK | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(Error::open(path, "ask for locks of", errno.into())),
    }
}

/// Locks a file or device that is about to be overwritten, so that no machine can start from it meanwhile. The lock goes
/// when this process closes any descriptor of it.
///
/// # Errors
/// A running machine or another program has it.
pub(crate) fn lock(file: &File, path: &Path) -> Result<()> {
    match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) | Err(Errno::INVAL | Errno::NOLCK | Errno::OPNOTSUPP) => Ok(()),
        Err(Errno::AGAIN | Errno::ACCESS) => Err(Error::InUse { path: path.display().to_string() }),
        Err(errno) => Err(Error::open(path, "lock", errno.into())),
    }
}

/// Refuses to replace a file that a running machine or another program has locked. What is not there, or is no file that
/// could be locked, is not in use.
///
/// # Errors
/// It is in use.
pub(crate) fn refuse(path: &Path) -> Result<()> {
    match std::fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => lock(&file, path),
        Err(_) => Ok(()),
    }
}

/// A disk that no machine can start from while this is kept.
#[derive(Debug)]
pub struct Held {
    _file: File,
}

impl Held {
    /// Locks the file or device. The lock goes when this is dropped, and also when this process closes any other
    /// descriptor of it: whoever reads it meanwhile keeps what it has opened for as long.
    ///
    /// # Errors
    /// It cannot be opened for writing, or a running machine or another program has it.
    pub fn lock(path: &Path) -> Result<Self> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| Error::open(path, "open for writing", source))?;
        lock(&file, path)?;
        Ok(Self { _file: file })
    }
}
