//! Files that appear together under their names, or not at all.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use leeward_disk::in_use::Held;
use rustix::fs::{CWD, FlockOperation, RenameFlags};

use crate::failure::{Code, Failure};
use crate::verb::quickstart::tools::{check_interrupt, io};

const SUFFIX: &str = ".part";

/// A directory beside the final names, in which files are made. Dropped, it disappears with all that is in it.
pub struct Staging {
    directory: PathBuf,
    place: tempfile::TempDir,
    // Held while the directory is in use: one that nobody holds was left by a kill.
    _lock: File,
    /// Whether the directory itself was made.
    made: bool,
    overwrite: bool,
}

impl Staging {
    /// A place for files of machine `name` that will appear in `directory`, which is made where it is missing. What a
    /// killed one of the same name left is removed.
    pub fn create(directory: &Path, name: &str, overwrite: bool) -> Result<Self, Failure> {
        let made = !directory.exists();
        std::fs::create_dir_all(directory).map_err(io("make the directory", directory))?;
        let prefix = format!(".{name}.");
        remove_leftovers(directory, &prefix);
        let place = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(SUFFIX)
            .tempdir_in(directory)
            .map_err(io("make a directory in", directory))?;
        let lock = File::open(place.path()).map_err(io("open", place.path()))?;
        // Where it cannot be locked, what a kill leaves is not removed by the next.
        let _ = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive);
        Ok(Self { directory: directory.to_owned(), place, _lock: lock, made, overwrite })
    }

    /// Where the file that will have the name `path` is made.
    pub fn place(&self, path: &str) -> Result<String, Failure> {
        let unfit = || Failure::new(Code::Usage, format!("{path}: not a path in UTF-8"));
        let name = Path::new(path).file_name().ok_or_else(unfit)?;
        self.place.path().join(name).into_os_string().into_string().map_err(|_| unfit())
    }

    /// Refuses a name that is taken, before work is done for it.
    pub fn check_free(&self, path: &str) -> Result<(), Failure> {
        let path = Path::new(path);
        match path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io("examine", path)(error)),
            Ok(metadata) if !metadata.is_file() => Err(Failure::new(
                Code::Refused,
                format!("{}: refused: there is something that is no file", path.display()),
            )
            .hint("choose another name with --as, or another directory")),
            Ok(_) if !self.overwrite => {
                Err(Failure::new(Code::Refused, format!("{}: refused: the file exists", path.display()))
                    .hint("choose another name with --as, or say --force to replace it"))
            }
            Ok(_) => Ok(Held::lock(path).map(|_| ())?),
        }
    }

    /// Makes a file with this content.
    pub fn write(&self, path: &str, content: &str, is_program: bool) -> Result<(), Failure> {
        let place = PathBuf::from(self.place(path)?);
        let mode = if is_program { 0o755 } else { 0o644 };
        let mut options = File::options();
        options.write(true).create_new(true).mode(mode);
        options
            .open(&place)
            .and_then(|mut file| file.write_all(content.as_bytes()).and_then(|()| file.sync_all()))
            .map_err(io("write", &place))
    }

    /// Gives all files their names. When one cannot have it, none has, and what had the names before is there again.
    pub fn publish(mut self, durable: bool) -> Result<(), Failure> {
        check_interrupt()?;
        let mut names = Vec::new();
        for entry in self.place.path().read_dir().map_err(io("list", self.place.path()))? {
            names.push(entry.map_err(io("list", self.place.path()))?.file_name());
        }
        names.sort();
        let mut done = Vec::new();
        // No machine starts from a disk that is being replaced.
        let mut held = Vec::new();
        for name in &names {
            let (from, to) = (self.place.path().join(name), self.directory.join(name));
            let replaced = match self.replaces(&to) {
                Ok(lock) => {
                    let replaced = lock.is_some();
                    held.push(lock);
                    replaced
                }
                Err(failure) => return Err(undo(&done, failure)),
            };
            let flags = if replaced { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
            match rustix::fs::renameat_with(CWD, &from, CWD, &to, flags) {
                Ok(()) => done.push((from, to, replaced)),
                Err(errno) => {
                    return Err(undo(&done, io("give the finished file the name", &to)(errno.into())));
                }
            }
        }
        self.made = false;
        if durable {
            let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
            synced.map_err(io("flush", &self.directory))?;
        }
        Ok(())
    }

    fn replaces(&self, path: &Path) -> Result<Option<Held>, Failure> {
        let there = path.symlink_metadata().is_ok();
        if there && self.overwrite { Ok(Some(Held::lock(path)?)) } else { Ok(None) }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.made {
            let _ = std::fs::remove_dir_all(self.place.path());
            let _ = std::fs::remove_dir(&self.directory);
        }
    }
}

fn undo(done: &[(PathBuf, PathBuf, bool)], failure: Failure) -> Failure {
    for (from, to, replaced) in done.iter().rev() {
        let flags = if *replaced { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
        // The first error is the one to tell.
        let _ = rustix::fs::renameat_with(CWD, to, CWD, from, flags);
    }
    failure
}

fn remove_leftovers(directory: &Path, prefix: &str) {
    for entry in directory.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| {
            // What is between is random letters and digits, so that no longer name of a machine is meant.
            let middle = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(SUFFIX));
            middle
                .is_some_and(|middle| middle.len() == 6 && middle.bytes().all(|b| b.is_ascii_alphanumeric()))
        });
        let Ok(file) = File::open(entry.path()) else { continue };
        let is_left = is_ours
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if is_left {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
