//! The volume that is written: a block device, a file that stands for one, or what a bridge reaches.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use leeward_cloud::ErrorKind as CloudKind;
use leeward_cloud::bridge::{BridgedDisk, Use};
use leeward_cloud::provider::{Device, Fault};
use leeward_disk::{DeviceTarget, Source, Target};

use crate::direct;
use crate::{Error, Result};

/// A volume that is open for writing. Nobody else may have it: a device that is mounted or part of something is refused
/// by the kernel, one that a virtual machine has open by QEMU's locks; of what a bridge reaches see
/// [`leeward_cloud::bridge`].
pub struct VolumeTarget {
    place: Place,
    path: PathBuf,
    bytes: u64,
    is_new: bool,
}

enum Place {
    File {
        device: DeviceTarget,
        file: File,
        /// The volume past the page cache, where the system lets that be done: all that is written is read back from the medium,
        /// so the cache is of no use, and copying into it takes more of the processors than all else in an import.
        direct: Option<File>,
    },
    Bridged(Box<BridgedDisk>),
}

impl VolumeTarget {
    /// Opens what is there, all of which will be overwritten; it must hold `needed` bytes. A file keeps its size.
    ///
    /// # Errors
    /// It is not there, too small, in use, or may not be written.
    pub fn open(device: impl Into<Device>, needed: u64) -> Result<Self> {
        let device = device.into();
        let path = PathBuf::from(device.to_string());
        let place = match (BridgedDisk::of(&device, Use::Write { is_blank: false }), &device) {
            (Some(disk), _) => {
                let disk = disk.map_err(Error::Device)?;
                disk.check_writable(0).map_err(Error::Device)?;
                Place::Bridged(Box::new(disk))
            }
            (None, Device::Path(path)) => Place::at(path)?,
            (None, _) => return Err(unknown(&path)),
        };
        let bytes = place.target().virtual_size();
        if bytes < needed {
            return Err(Error::TooSmall { path, bytes, needed });
        }
        Ok(Self { place, path, bytes, is_new: false })
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

    /// Where it is: a path, or the name of what a bridge reaches.
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
        let past_the_cache = self.write_direct(data, offset);
        let (rest, at) = (&data[past_the_cache..], offset + past_the_cache as u64);
        self.place.target().write_at(rest, at).map_err(|error| self.explained(error))
    }

    fn write_direct(&self, data: &[u8], offset: u64) -> usize {
        match &self.place {
            Place::File { direct: Some(direct), .. } => direct::write(direct, data, offset, self.bytes),
            _ => 0,
        }
    }

    /// Makes a range read as zeros: by the file system's or the device's own way, which the kernel uses only where it
    /// promises zeros (a discard does not), else by writing them. A bridge asks for zeros by a request that promises them, too;
    /// whether storage keeps none for them is its own affair.
    pub(crate) fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.place.target().zero_at(offset, length).map_err(|error| self.explained(error))
    }

    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        match &self.place {
            Place::File { file, .. } => {
                file.read_exact_at(buffer, offset).map_err(|source| failed(&self.path, "read", source))
            }
            Place::Bridged(disk) => Ok(disk.read_at(buffer, offset)?),
        }
    }

    /// Brings all that was written to the medium.
    pub(crate) fn sync(&self) -> Result<()> {
        match &self.place {
            Place::File { file, .. } => {
                file.sync_data().map_err(|source| failed(&self.path, "flush", source))
            }
            Place::Bridged(disk) => disk.finish(true).map_err(|error| self.explained(error)),
        }
    }

    /// Why nothing can be written, if the storage knows better than what serves it.
    fn explained(&self, error: leeward_disk::Error) -> Error {
        let what = match &self.place {
            Place::File { .. } => None,
            Place::Bridged(disk) => disk.lack_of_room(),
        };
        let name = self.path.display().to_string();
        let full = |what| Fault::new(CloudKind::Limit, name, "write the volume", what);
        what.map_or_else(|| error.into(), |what| Error::Device(full(what).into()))
    }
}

impl Place {
    fn at(path: &Path) -> Result<Self> {
        // First of all: QEMU's locks, which the next takes, go when any descriptor of the file is closed.
        let direct = direct::open(OpenOptions::new().read(true).write(true), path);
        let device = if DeviceTarget::is_device(path) {
            DeviceTarget::open(path, 0, true)?
        } else {
            DeviceTarget::open_file(path, 0)?
        };
        let file = File::open(path).map_err(|source| failed(path, "open", source))?;
        // A name may have come to mean another device meanwhile.
        let direct = direct.filter(|direct| direct::is_same(direct, &file));
        Ok(Self::File { device, file, direct })
    }

    fn target(&self) -> &dyn Target {
        match self {
            Self::File { device, .. } => device,
            Self::Bridged(disk) => disk.as_ref(),
        }
    }
}

/// A kind of device that came later than this.
pub(crate) fn unknown(path: &Path) -> Error {
    failed(path, "reach", std::io::ErrorKind::Unsupported.into())
}

pub(crate) fn failed(path: &Path, action: &'static str, source: std::io::Error) -> Error {
    Error::Volume { path: path.to_owned(), action, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direct::{BLOCK, aligned};
    use crate::read_back::ReadBack;

    #[test]
    fn a_volume_holds_what_was_written_past_the_cache_and_through_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume");
        // It does not end at a block.
        let bytes = (4 << 20) + 1000u64;
        let mut expected = vec![0xaa; bytes as usize];
        std::fs::write(&path, &expected).unwrap();
        let volume = VolumeTarget::open(path.as_path(), bytes).unwrap();
        let has_direct = matches!(volume.place, Place::File { direct: Some(_), .. });
        if !has_direct {
            println!("SKIPPED: {} has no way past the page cache", path.display());
        }
        let mut buffer = Vec::new();
        let data: Vec<u8> = (0..(2 << 20) + 1000u32).map(|number| (number / 7) as u8).collect();
        let pieces = [
            (0, 2 << 20),
            (2 << 20, (2 << 20) + 1000),
            (12288, 4096),
            (8192, 5000),
            (20000, 9000),
            (700, 90),
        ];
        for (offset, length) in pieces {
            let piece = aligned(&mut buffer, length);
            assert!(piece.as_ptr().align_offset(BLOCK as usize) == 0);
            piece.copy_from_slice(&data[data.len() - length..]);
            let whole = if offset % 4096 == 0 && has_direct { length - length % 4096 } else { 0 };
            assert_eq!(volume.write_direct(piece, offset as u64), whole, "{length} bytes at {offset}");
            volume.write_at(piece, offset as u64).unwrap();
            expected[offset..offset + length].copy_from_slice(piece);
            assert!(std::fs::read(&path).unwrap() == expected, "{length} bytes at {offset}");
            volume.zero_at(offset as u64 + 64, 33).unwrap();
            expected[offset + 64..offset + 97].fill(0);
        }
        let unaligned = &data[1..8193];
        assert!(
            unaligned.as_ptr().align_offset(BLOCK as usize) == 0 || volume.write_direct(unaligned, 0) == 0
        );
        volume.write_at(&data[..4096], bytes - 4095).unwrap_err();
        volume.sync().unwrap();
        assert!(std::fs::read(&path).unwrap() == expected);
        let (_, back) = ReadBack::open(&Device::Path(path)).unwrap();
        let range = back.read(&mut buffer, 4 << 20, 1000).unwrap();
        assert!(buffer[range] == expected[4 << 20..]);
    }
}
