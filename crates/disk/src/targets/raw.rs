//! Raw targets: a sparse file, or a block device.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{OFlags, SeekFrom};

use super::staged::{StagedFile, zero_range};
use crate::source::check_range;
use crate::{Error, Result, Target, in_use};

/// A new raw file. What is not written takes no space.
pub struct RawFileTarget {
    staged: StagedFile,
    virtual_size: u64,
}

impl RawFileTarget {
    /// A raw disk that will appear as `path` when it is finished.
    ///
    /// # Errors
    /// The file exists and `overwrite` is not set, or it cannot be created.
    pub fn create(path: &Path, virtual_size: u64, overwrite: bool) -> Result<Self> {
        let staged = StagedFile::create(path, overwrite)?;
        staged.set_length(virtual_size)?;
        Ok(Self { staged, virtual_size })
    }
}

impl Target for RawFileTarget {
    fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    fn is_blank(&self) -> bool {
        true
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        check_range(self.staged.name(), offset, data.len() as u64, self.virtual_size)?;
        self.staged.write_at(data, offset)
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        check_range(self.staged.name(), offset, length, self.virtual_size)?;
        self.staged.zero_at(offset, length)
    }

    fn finish(&self, durable: bool) -> Result<()> {
        self.staged.commit(durable)
    }
}

/// A block device or an existing raw file, written in place.
pub struct DeviceTarget {
    file: File,
    name: String,
    size: u64,
}

impl DeviceTarget {
    /// Whether `path` is a block device.
    #[must_use]
    pub fn is_device(path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
    }

    /// The device `path`, which must hold a disk of `virtual_size` bytes and must not be in use (mounted, part of an
    /// array): the kernel refuses that.
    ///
    /// # Errors
    /// `overwrite` is not set, the device is too small, in use, or cannot be opened.
    pub fn open(path: &Path, virtual_size: u64, overwrite: bool) -> Result<Self> {
        let name = path.display().to_string();
        if !overwrite {
            return Err(Error::WouldOverwrite {
                path: name,
                what: "all that the device holds would be lost".to_owned(),
            });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::EXCL.bits().cast_signed())
            .open(path)
            .map_err(|source| Error::open(path, "open for writing", source))?;
        in_use::lock(&file, path)?;
        let size = rustix::fs::seek(&file, SeekFrom::End(0))
            .map_err(|errno| Error::open(path, "find the size of", errno.into()))?;
        if size < virtual_size {
            return Err(Error::Invalid {
                path: name,
                what: format!(
                    "the device has {size} bytes, {} fewer than the disk of {virtual_size} bytes",
                    virtual_size - size
                ),
            });
        }
        Ok(Self { file, name, size })
    }

    /// An existing raw file, written in place; it grows to `virtual_size` where it is shorter.
    ///
    /// # Errors
    /// It does not exist, is no regular file, a running machine has it, or it cannot be opened or extended.
    pub fn open_file(path: &Path, virtual_size: u64) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| Error::open(path, "open for writing", source))?;
        let metadata = file.metadata().map_err(|source| Error::open(path, "examine", source))?;
        let name = path.display().to_string();
        if !metadata.is_file() {
            return Err(Error::Invalid {
                path: name,
                what: "neither a regular file nor a block device".to_owned(),
            });
        }
        in_use::lock(&file, path)?;
        if metadata.len() < virtual_size {
            file.set_len(virtual_size).map_err(|source| Error::open(path, "extend", source))?;
        }
        Ok(Self { file, name, size: metadata.len().max(virtual_size) })
    }

    fn io(&self, action: &'static str, offset: u64, length: u64, source: std::io::Error) -> Error {
        Error::Io { path: self.name.clone(), action, offset, length, source }
    }
}

impl Target for DeviceTarget {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn is_blank(&self) -> bool {
        false
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        check_range(&self.name, offset, data.len() as u64, self.size)?;
        self.file
            .write_all_at(data, offset)
            .map_err(|source| self.io("write", offset, data.len() as u64, source))
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        check_range(&self.name, offset, length, self.size)?;
        zero_range(&self.file, offset, length).map_err(|source| self.io("zero", offset, length, source))
    }

    fn finish(&self, durable: bool) -> Result<()> {
        if durable {
            self.file.sync_all().map_err(|source| self.io("flush", 0, 0, source))?;
        }
        Ok(())
    }
}
