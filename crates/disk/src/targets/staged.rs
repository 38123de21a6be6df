//! A file that appears under its name only when it is complete.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{CWD, FallocateFlags, RenameFlags};

use crate::{Error, Result, in_use};

/// A new file under a temporary name beside its final one. Dropped without [`StagedFile::commit`] it disappears.
#[derive(Debug)]
pub(crate) struct StagedFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    name: String,
    overwrite: bool,
    committed: AtomicBool,
}

impl StagedFile {
    /// A new, empty file that will be called `path`. The check for an existing one comes twice: here, to fail before
    /// the work, and at the end, where only the rename can tell for certain.
    pub(crate) fn create(path: &Path, overwrite: bool) -> Result<Self> {
        let name = path.display().to_string();
        let existing = existing(path)?;
        if existing.is_some() && !overwrite {
            return Err(Error::WouldOverwrite { path: name, what: "the file exists".to_owned() });
        }
        if existing.is_some() {
            in_use::refuse(path)?;
        }
        // A link is followed, as an ordinary overwriting would.
        let path = if existing.is_some() {
            path.canonicalize().map_err(|source| Error::open(path, "find", source))?
        } else {
            path.to_owned()
        };
        let (file, temporary) =
            create_beside(&path).map_err(|source| Error::open(&path, "create", source))?;
        let staged = Self { file, temporary, path, name, overwrite, committed: AtomicBool::new(false) };
        if let Some(metadata) = existing {
            let permissions = metadata.permissions();
            staged
                .file
                .set_permissions(permissions)
                .map_err(|source| Error::open(&staged.path, "set the permissions of", source))?;
        }
        Ok(staged)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn set_length(&self, length: u64) -> Result<()> {
        self.file.set_len(length).map_err(|source| self.io("set the length", length, 0, source))
    }

    pub(crate) fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.file
            .write_all_at(data, offset)
            .map_err(|source| self.io("write", offset, data.len() as u64, source))
    }

    /// Fills `buffer` as far as the file reaches, and returns how far.
    pub(crate) fn read_available(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let position = offset + filled as u64;
            match self.file.read_at(&mut buffer[filled..], position) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.io("read", position, 0, source)),
            }
        }
        Ok(filled)
    }

    /// Makes a stretch inside the file read as zeros.
    pub(crate) fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        zero_range(&self.file, offset, length).map_err(|source| self.io("zero", offset, length, source))
    }

    /// Gives the file its name.
    pub(crate) fn commit(&self, durable: bool) -> Result<()> {
        if durable {
            self.file.sync_all().map_err(|source| self.io("flush", 0, 0, source))?;
        }
        self.rename()?;
        self.committed.store(true, Ordering::Release);
        if durable {
            sync_directory(directory(&self.path))
                .map_err(|source| Error::open(directory(&self.path), "flush", source))?;
        }
        Ok(())
    }

    fn rename(&self) -> Result<()> {
        use rustix::io::Errno;
        let flags = if self.overwrite { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let renamed = match rustix::fs::renameat_with(CWD, &self.temporary, CWD, &self.path, flags) {
            // A file system that cannot refuse in the rename itself: a link refuses as well.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if !self.overwrite => {
                rustix::fs::link(&self.temporary, &self.path)
                    .and_then(|()| rustix::fs::unlink(&self.temporary))
            }
            other => other,
        };
        match renamed {
            Err(Errno::EXIST) => Err(Error::WouldOverwrite {
                path: self.name.clone(),
                what: "a file of that name has appeared meanwhile".to_owned(),
            }),
            Err(errno) => Err(Error::open(&self.path, "give the finished file the name", errno.into())),
            Ok(()) => Ok(()),
        }
    }

    fn io(&self, action: &'static str, offset: u64, length: u64, source: std::io::Error) -> Error {
        Error::Io { path: self.name.clone(), action, offset, length, source }
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !*self.committed.get_mut() {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

fn existing(path: &Path) -> Result<Option<std::fs::Metadata>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        // A dangling link counts as something that is there.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match std::fs::symlink_metadata(path) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(_) => Ok(None),
        },
        Err(source) => Err(Error::open(path, "examine", source)),
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn create_beside(path: &Path) -> std::io::Result<(File, PathBuf)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let file_name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
    loop {
        let mut name = std::ffi::OsString::from(".");
        name.push(file_name);
        name.push(format!(".{}-{}.part", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
        let temporary = directory(path).join(name);
        match OpenOptions::new().read(true).write(true).create_new(true).open(&temporary) {
            Ok(file) => return Ok((file, temporary)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// Brings to stable storage which files lie beside `path`.
pub(crate) fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    sync_directory(directory(path))
}

/// Makes a stretch of a file or device read as zeros, without changing its size: by a hole where the medium has holes, by
/// its own way of zeroing otherwise, and by writing zeros at last.
pub(crate) fn zero_range(file: &File, offset: u64, length: u64) -> std::io::Result<()> {
    // A device takes whole blocks only; the edges of a range that is not made of them are written.
    let end = offset + length;
    let (inner, inner_end) = (offset.next_multiple_of(BLOCK), end & !(BLOCK - 1));
    if punch(file, offset, length) {
        Ok(())
    } else if inner < inner_end && punch(file, inner, inner_end - inner) {
        write_zeros(file, offset, inner)?;
        write_zeros(file, inner_end, end)
    } else {
        write_zeros(file, offset, end)
    }
}

const BLOCK: u64 = 4096;

fn punch(file: &File, offset: u64, length: u64) -> bool {
    length == 0
        || [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE].into_iter().any(|flags| {
            rustix::fs::fallocate(file, flags | FallocateFlags::KEEP_SIZE, offset, length).is_ok()
        })
}

/// Writes zeros from `position` to `end`.
pub(crate) fn write_zeros(file: &File, mut position: u64, end: u64) -> std::io::Result<()> {
    let zeros = vec![0; (end - position).min(1 << 20) as usize];
    while position < end {
        let part = (end - position).min(zeros.len() as u64);
        file.write_all_at(&zeros[..part as usize], position)?;
        position += part;
    }
    Ok(())
}
