//! The volume that is written: a block device, or a file that stands for one.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use leeward_disk::{DeviceTarget, Target};
use rustix::fs::{Advice, OFlags};

use crate::{Error, Result};

/// Offsets, lengths and addresses of reads past the page cache are multiples of this: the largest block of a device.
const BLOCK: u64 = 4096;

/// A volume that is open for writing. Nobody else may have it: a device that is mounted or part of something is refused
/// by the kernel, one that a virtual machine has open by QEMU's locks.
pub struct VolumeTarget {
    device: DeviceTarget,
    file: File,
    path: PathBuf,
    bytes: u64,
    is_new: bool,
}

impl VolumeTarget {
    /// Opens a block device or an existing file, all of which will be overwritten; it must hold `needed` bytes. A file
    /// keeps its size.
    ///
    /// # Errors
    /// It is not there, too small, in use, or may not be written.
    pub fn open(path: &Path, needed: u64) -> Result<Self> {
        let device = if DeviceTarget::is_device(path) {
            DeviceTarget::open(path, 0, true)?
        } else {
            DeviceTarget::open_file(path, 0)?
        };
        let bytes = device.virtual_size();
        if bytes < needed {
            return Err(Error::TooSmall { path: path.to_owned(), bytes, needed });
        }
        let file = File::open(path).map_err(|source| failed(path, "open", source))?;
        Ok(Self { device, file, path: path.to_owned(), bytes, is_new: false })
    }

    /// Makes a file of that size, which must not exist: it reads as zeros from the start.
    ///
    /// # Errors
    /// It is there already, or cannot be made.
    pub fn create(path: &Path, bytes: u64) -> Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|source| failed(path, "make", source))?;
        file.set_len(bytes).map_err(|source| failed(path, "set the size of", source))?;
        drop(file);
        Ok(Self { is_new: true, ..Self::open(path, bytes)? })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it was made here just now, and so reads as zeros where nothing was written.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    pub(crate) fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        Ok(self.device.write_at(data, offset)?)
    }

    /// Makes a range read as zeros: by the file system's or the device's own way, which the kernel uses only where it
    /// promises zeros (a discard does not), else by writing them.
    pub(crate) fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        Ok(self.device.zero_at(offset, length)?)
    }

    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|source| failed(&self.path, "read", source))
    }

    /// Brings all that was written to the medium.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|source| failed(&self.path, "flush", source))
    }
}

pub(crate) fn failed(path: &Path, action: &'static str, source: std::io::Error) -> Error {
    Error::Volume { path: path.to_owned(), action, source }
}

/// A volume read from its medium rather than from memory, where the system lets that be done.
pub(crate) struct ReadBack {
    file: File,
    path: PathBuf,
    is_direct: bool,
}

impl ReadBack {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let direct =
            OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path);
        // Opening is not proof: some file systems take the flag and refuse the reads.
        if let Ok(file) = direct {
            let back = Self { file, path: path.to_owned(), is_direct: true };
            if back.fill(&mut vec![0; 2 * BLOCK as usize], 0, BLOCK as usize).is_ok() {
                return Ok(back);
            }
        }
        let file = File::open(path).map_err(|source| failed(path, "open", source))?;
        Ok(Self { file, path: path.to_owned(), is_direct: false })
    }

    /// Whether reads go past the page cache. Otherwise the cache is asked to forget what is read before it is read.
    pub(crate) fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// Reads a range that begins at a multiple of 4096; `buffer` is grown to what is needed, and the range of it returned
    /// in which the bytes are.
    pub(crate) fn read(
        &self,
        buffer: &mut Vec<u8>,
        offset: u64,
        length: u64,
    ) -> Result<std::ops::Range<usize>> {
        let whole = length.next_multiple_of(BLOCK) as usize;
        buffer.resize(buffer.len().max(whole + BLOCK as usize), 0);
        if !self.is_direct {
            let length = std::num::NonZeroU64::new(length);
            // Advice only: what is in use by others stays.
            let _ = rustix::fs::fadvise(&self.file, offset, length, Advice::DontNeed);
        }
        let (start, filled) =
            self.fill(buffer, offset, whole).map_err(|source| failed(&self.path, "read back", source))?;
        if (filled as u64) < length {
            return Err(failed(&self.path, "read back", std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(start..start + length as usize)
    }

    /// Fills an aligned part of the buffer as far as the volume reaches; returns where it begins, and how far it is.
    fn fill(&self, buffer: &mut [u8], offset: u64, length: usize) -> std::io::Result<(usize, usize)> {
        let start = buffer.as_ptr().align_offset(BLOCK as usize);
        let place = buffer.get_mut(start..start + length).ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut filled = 0;
        while filled < length {
            match self.file.read_at(&mut place[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // A short read past the cache ends at the end of the volume.
            if !filled.is_multiple_of(BLOCK as usize) {
                break;
            }
        }
        Ok((start, filled))
    }
}
