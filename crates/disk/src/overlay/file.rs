//! The two files of an overlay, as far as it needs them: what a crash does to them is simulated in the tests.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};

use crate::storage::{FileStorage, Storage};
use crate::targets::staged::{write_zeros, zero_range};
use crate::{Error, Extent, Result};

/// A file that is read and written at offsets, from many threads.
pub(super) trait LocalFile: Send + Sync {
    /// Where it lies, for messages.
    fn name(&self) -> &str;

    /// Its size when it was opened, in bytes.
    fn size(&self) -> u64;

    /// Fills `buffer`; what lies behind the end of the file reads as zeros.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;

    /// Makes a range read as zeros: by a hole, or, unless `may_unmap`, with the space kept.
    fn zero_at(&self, offset: u64, length: u64, may_unmap: bool) -> Result<()>;

    /// Sees to it that a later write to the range does not fail for want of space, where the file system can promise that.
    fn allocate(&self, offset: u64, length: u64) -> Result<()>;

    /// Brings all that was written to stable storage.
    fn sync(&self) -> Result<()>;

    /// Data and holes within the size, as [`Storage::extents`] has them.
    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>>;
}

/// A file of a file system.
pub(super) struct RealFile {
    file: File,
    storage: FileStorage,
}

impl RealFile {
    /// Opens a file that exists.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| Error::open(path, "open for writing", source))?;
        Self::from_file(file, path)
    }

    pub(super) fn from_file(file: File, path: &Path) -> Result<Self> {
        let again = file.try_clone().map_err(|source| Error::open(path, "open", source))?;
        Ok(Self { file, storage: FileStorage::from_file(again, path)? })
    }

    /// Takes the file for this process, until it is closed.
    ///
    /// # Errors
    /// [`Error::OverlayInUse`] when another process, or another part of this one, has it.
    pub(super) fn lock(&self, path: &Path) -> Result<()> {
        match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Error::OverlayInUse { path: path.display().to_string() })
            }
            Err(errno) => Err(Error::open(path, "lock", errno.into())),
        }
    }

    fn io(&self, action: &'static str, offset: u64, length: u64, source: std::io::Error) -> Error {
        Error::Io { path: self.storage.name().to_owned(), action, offset, length, source }
    }
}

impl LocalFile for RealFile {
    fn name(&self) -> &str {
        self.storage.name()
    }

    fn size(&self) -> u64 {
        self.storage.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => {
                    buffer[filled..].fill(0);
                    break;
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.io("read", offset, buffer.len() as u64, source)),
            }
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|source| self.io("write", offset, bytes.len() as u64, source))
    }

    fn zero_at(&self, offset: u64, length: u64, may_unmap: bool) -> Result<()> {
        let done = if may_unmap {
            zero_range(&self.file, offset, length)
        } else {
            let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
            match rustix::fs::fallocate(&self.file, flags, offset, length) {
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => {
                    write_zeros(&self.file, offset, offset + length)
                }
                other => other.map_err(Into::into),
            }
        };
        done.map_err(|source| self.io("zero", offset, length, source))
    }

    fn allocate(&self, offset: u64, length: u64) -> Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), offset, length) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(self.io("reserve space", offset, length, errno.into())),
        }
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|source| self.io("flush", 0, 0, source))
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.storage.extents(offset, length)
    }
}

/// The map beside a disk: its name with `.map` behind it.
pub(super) fn map_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".map");
    name.into()
}
