//! The few things that a directory store asks of a file system, so that tests can put a failing one below it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// A file that is open for reading.
pub trait OpenedFile: Send + Sync {
    /// Size in bytes when it was opened.
    fn size(&self) -> u64;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// As the operating system has it; the end of the file is an error.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// When it was last written, where that is known.
    pub modified: Option<SystemTime>,
}

/// Held until dropped; released by the system when the process dies.
pub trait FileLock: Send {}

/// The calls of a file system that a directory store makes. Paths are whole.
pub trait FileSystem: Send + Sync {
    /// Creates a file that must not exist, writes `parts` and brings its content (not its name) to stable storage.
    ///
    /// # Errors
    /// As the operating system has it; a file may be left behind.
    fn create_synced(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()>;

    /// Gives a file another name; fails with [`io::ErrorKind::AlreadyExists`] where that name is taken, atomically.
    ///
    /// # Errors
    /// As the operating system has it.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file another name, replacing what had it, atomically.
    ///
    /// # Errors
    /// As the operating system has it.
    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name.
    ///
    /// # Errors
    /// As the operating system has it.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Brings the names in a directory to stable storage.
    ///
    /// # Errors
    /// As the operating system has it.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory; it may exist. The names in its parent are then on stable storage.
    ///
    /// # Errors
    /// As the operating system has it.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Opens a file for reading.
    ///
    /// # Errors
    /// As the operating system has it.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn OpenedFile>>;

    /// The files in a directory (not its directories), in no order.
    ///
    /// # Errors
    /// As the operating system has it.
    fn list(&self, path: &Path) -> io::Result<Vec<FileEntry>>;

    /// Waits for and takes the lock that a file stands for, creating the file where it is missing.
    ///
    /// # Errors
    /// As the operating system has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>>;
}

/// The file system of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostFileSystem;

struct HostFile {
    file: File,
    size: u64,
}

impl OpenedFile for HostFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

struct HostLock(File);

impl FileLock for HostLock {}

impl Drop for HostLock {
    fn drop(&mut self) {
        // Closing the file releases the lock as well, so a failure here has no effect.
        let _ = self.0.unlock();
    }
}

fn write_parts(file: &mut File, parts: &[&[u8]]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) if rest.iter().all(|slice| slice.is_empty()) => return Ok(()),
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl FileSystem for HostFileSystem {
    fn create_synced(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        write_parts(&mut file, parts)?;
        file.sync_all()
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // File systems without this call have hard links, which give the same promise in two steps.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                fs::hard_link(from, to)?;
                fs::remove_file(from)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) => return Err(error),
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        self.sync_directory(parent.unwrap_or(Path::new(".")))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn OpenedFile>> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Arc::new(HostFile { file, size }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<FileEntry>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // A file may be removed between the listing and the look at it.
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                found.push(FileEntry { name, size: metadata.len(), modified: metadata.modified().ok() });
            }
        }
        Ok(found)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.lock()?;
        Ok(Box::new(HostLock(file)))
    }
}

/// `path` joined with the segments of a key.
pub(crate) fn join(path: &Path, key: &str) -> PathBuf {
    key.split('/').fold(path.to_owned(), |path, segment| path.join(segment))
}
