//! The bytes in which an image lies.

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::SeekFrom;

use crate::{Error, Extent, ExtentKind, Result};

/// Positioned reads of the bytes in which an image lies, usable from many threads.
pub trait Storage: Send + Sync {
    /// Where it lies, for messages.
    fn name(&self) -> &str;

    /// Path of the file, where there is one.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// Size in bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// The medium fails or the range lies outside the storage.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// The extents of the storage itself, as [`crate::Source::extents`] does for a disk: holes of a sparse file are
    /// [`ExtentKind::Unallocated`]. A storage that cannot tell says that all is data.
    ///
    /// # Errors
    /// The medium fails.
    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        Ok(vec![Extent { offset, length, kind: ExtentKind::Data }])
    }

    /// Bytes taken on the medium, where it can be told.
    fn allocated_bytes(&self) -> Option<u64> {
        None
    }
}

/// Storage shared between threads.
pub type SharedStorage = Arc<dyn Storage>;

/// A file or block device opened for reading.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    path: PathBuf,
    name: String,
    size: u64,
    is_device: bool,
}

/// Extents returned by one call of [`Storage::extents`] of a file, at most.
const EXTENTS_MAX: usize = 4096;

impl FileStorage {
    /// Opens a regular file or a block device for reading.
    ///
    /// # Errors
    /// It does not exist, may not be read, or is neither a file nor a block device.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::open(path, "open", source))?;
        Self::from_file(file, path)
    }

    /// Takes an open file. `path` serves for messages and for references relative to the image.
    ///
    /// # Errors
    /// It is neither a regular file nor a block device.
    pub fn from_file(file: File, path: &Path) -> Result<Self> {
        let metadata = file.metadata().map_err(|source| Error::open(path, "examine", source))?;
        let is_device = metadata.file_type().is_block_device();
        if !is_device && !metadata.is_file() {
            return Err(Error::Invalid {
                path: path.display().to_string(),
                what: "neither a regular file nor a block device".to_owned(),
            });
        }
        let size = if is_device {
            rustix::fs::seek(&file, SeekFrom::End(0))
                .map_err(|errno| Error::open(path, "find the size of", errno.into()))?
        } else {
            metadata.len()
        };
        Ok(Self { file, path: path.to_owned(), name: path.display().to_string(), size, is_device })
    }

    fn seek(&self, position: SeekFrom) -> rustix::io::Result<u64> {
        rustix::fs::seek(&self.file, position)
    }

    /// The first data at or after `offset`; `None` when only a hole follows.
    fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        match self.seek(SeekFrom::Data(offset)) {
            Ok(position) => Ok(Some(position.max(offset))),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            // A file system without hole detection: everything counts as data.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(Some(offset)),
            Err(errno) => Err(self.io("seek in", offset, 0, errno.into())),
        }
    }

    /// The first hole after `offset`, which must hold data.
    fn next_hole(&self, offset: u64) -> Result<u64> {
        match self.seek(SeekFrom::Hole(offset)) {
            Ok(position) => Ok(position),
            Err(rustix::io::Errno::NXIO | rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => {
                Ok(self.size)
            }
            Err(errno) => Err(self.io("seek in", offset, 0, errno.into())),
        }
    }

    fn io(&self, action: &'static str, offset: u64, length: u64, source: std::io::Error) -> Error {
        Error::Io { path: self.name.clone(), action, offset, length, source }
    }
}

impl Storage for FileStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|source| self.io("read", offset, buffer.len() as u64, source))
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        let end = offset.saturating_add(length).min(self.size);
        if self.is_device {
            return Ok(vec![Extent { offset, length: end.saturating_sub(offset), kind: ExtentKind::Data }]);
        }
        let mut found = Vec::new();
        let mut position = offset;
        while position < end && found.len() < EXTENTS_MAX {
            let data = self.next_data(position)?.unwrap_or(end).min(end);
            Extent { offset: position, length: data - position, kind: ExtentKind::Unallocated }
                .push_merged(&mut found);
            position = data;
            if position < end {
                // A concurrent truncation could answer with no progress; the rest then counts as data.
                let hole = self.next_hole(position)?.min(end);
                let hole = if hole > position { hole } else { end };
                Extent { offset: position, length: hole - position, kind: ExtentKind::Data }
                    .push_merged(&mut found);
                position = hole;
            }
        }
        Ok(found)
    }

    fn allocated_bytes(&self) -> Option<u64> {
        use std::os::unix::fs::MetadataExt;
        self.file
            .metadata()
            .ok()
            .filter(|metadata| metadata.is_file())
            .map(|metadata| metadata.blocks() * 512)
    }
}

/// Bytes in memory: for tests, fuzzing and images that came over a network.
#[derive(Debug, Clone)]
pub struct MemoryStorage {
    name: String,
    bytes: Arc<[u8]>,
}

impl MemoryStorage {
    /// Storage over `bytes`, called `name` in messages.
    pub fn new(name: impl Into<String>, bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }
}

impl Storage for MemoryStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let wanted = usize::try_from(offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(buffer.len())?))
            .and_then(|range| self.bytes.get(range));
        match wanted {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(Error::Io {
                path: self.name.clone(),
                action: "read",
                offset,
                length: buffer.len() as u64,
                source: std::io::ErrorKind::UnexpectedEof.into(),
            }),
        }
    }

    fn allocated_bytes(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }
}
