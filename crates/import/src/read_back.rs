//! A volume read from its medium rather than from memory, where the system lets that be done.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leeward_cloud::bridge::{BridgedDisk, Use};
use leeward_cloud::provider::Device;
use leeward_disk::{FileStorage, Format, OpenOptions as DiskOptions, SharedSource, open_storage};
use rustix::fs::Advice;

use crate::direct::{self, BLOCK};
use crate::target::{failed, unknown};
use crate::{Error, Result};

/// Opens a volume to read it.
///
/// # Errors
/// It is not there, or cannot be read.
pub(crate) fn source(device: &Device) -> Result<SharedSource> {
    match (BridgedDisk::of(device, Use::Read), device) {
        (Some(disk), _) => Ok(Arc::new(disk.map_err(Error::Device)?)),
        (None, Device::Path(path)) => of_path(path),
        (None, _) => Err(unknown(Path::new(&device.to_string()))),
    }
}

fn of_path(path: &Path) -> Result<SharedSource> {
    Ok(open_storage(Arc::new(FileStorage::open(path)?), &DiskOptions::with_format(Format::Raw))?)
}

/// A volume that is read back.
pub(crate) enum ReadBack {
    /// A block device, or a file that stands for one.
    Path(PathReadBack),
    /// What a bridge reaches; another one than that which wrote, and neither keeps anything in memory.
    Bridged(SharedSource),
}

impl ReadBack {
    /// Opens a volume, and tells where in it there is anything to read. A bridge is told that by the storage itself, as one is
    /// told by a file system where a file has holes.
    pub(crate) fn open(device: &Device) -> Result<(SharedSource, Self)> {
        let extents = source(device)?;
        let back = match device {
            Device::Path(path) => Self::Path(PathReadBack::open(path)?),
            _ => Self::Bridged(Arc::clone(&extents)),
        };
        Ok((extents, back))
    }

    /// Whether reads go past memory of this machine.
    pub(crate) fn is_direct(&self) -> bool {
        match self {
            Self::Path(back) => back.is_direct,
            Self::Bridged(_) => true,
        }
    }

    /// Reads a range that begins at a multiple of 4096; `buffer` is grown to what is needed, and the range of it returned
    /// in which the bytes are.
    pub(crate) fn read(
        &self,
        buffer: &mut Vec<u8>,
        offset: u64,
        length: u64,
    ) -> Result<std::ops::Range<usize>> {
        match self {
            Self::Path(back) => back.read(buffer, offset, length),
            Self::Bridged(disk) => {
                buffer.resize(buffer.len().max(length as usize), 0);
                disk.read_at(&mut buffer[..length as usize], offset)?;
                Ok(0..length as usize)
            }
        }
    }
}

/// The same of a path. Where reads do not go past the page cache, the cache is asked to forget what is read before it is read.
pub(crate) struct PathReadBack {
    file: File,
    path: PathBuf,
    is_direct: bool,
}

impl PathReadBack {
    fn open(path: &Path) -> Result<Self> {
        if let Some(file) = direct::open(OpenOptions::new().read(true), path) {
            return Ok(Self { file, path: path.to_owned(), is_direct: true });
        }
        let file = File::open(path).map_err(|source| failed(path, "open", source))?;
        Ok(Self { file, path: path.to_owned(), is_direct: false })
    }

    fn read(&self, buffer: &mut Vec<u8>, offset: u64, length: u64) -> Result<std::ops::Range<usize>> {
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
