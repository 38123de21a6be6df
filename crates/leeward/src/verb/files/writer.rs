//! Writing below a directory, and nowhere else.
//!
//! Names come from inside of a disk. Each is one part of a path (checked by [`super::names::refused`]) and is used
//! relative to an open directory, never as a path, with `O_NOFOLLOW`: a link that was made a moment ago, or was there
//! before, is never walked through. So no name can lead outside of the directory that the person chose.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use leeward_files::{Metadata, Time};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

const SPECIAL_BITS: u32 = 0o6000;

/// A directory that is written into.
pub struct Directory {
    handle: OwnedFd,
}

/// How entries are written.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Replaces files and links that are there.
    pub force: bool,
    /// Keeps owners, groups, setuid and setgid.
    pub owners: bool,
}

impl Directory {
    /// Opens the directory that the person chose; links on the way are the person's own.
    pub fn open(path: &std::path::Path) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { handle: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// Makes a directory in this one, or takes the one that is there; a link to one is refused.
    pub fn directory(&self, name: &[u8]) -> Result<Self, Errno> {
        let name = OsStr::from_bytes(name);
        match rustix::fs::mkdirat(&self.handle, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { handle: rustix::fs::openat(&self.handle, name, flags, Mode::empty())? })
    }

    /// Takes away what is in the place of a new file or link, if that is allowed and it is no directory.
    fn clear(&self, name: &OsStr, rules: Rules) -> Result<(), Errno> {
        match rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Err(Errno::ISDIR),
            Ok(_) if !rules.force => Err(Errno::EXIST),
            Ok(_) => rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()),
        }
    }

    /// Makes a new file that only its owner may touch until it is complete.
    pub fn create(&self, name: &[u8], rules: Rules) -> Result<File, Errno> {
        let name = OsStr::from_bytes(name);
        self.clear(name, rules)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.handle, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(File::from(file))
    }

    /// Takes away a file that was not completed.
    pub fn remove(&self, name: &[u8]) {
        let _ = rustix::fs::unlinkat(&self.handle, OsStr::from_bytes(name), AtFlags::empty());
    }

    /// Makes a symbolic link. Where it leads is only written, never looked at.
    pub fn link(&self, name: &[u8], target: &[u8], metadata: &Metadata, rules: Rules) -> Result<(), Errno> {
        let name = OsStr::from_bytes(name);
        self.clear(name, rules)?;
        rustix::fs::symlinkat(OsStr::from_bytes(target), &self.handle, name)?;
        if rules.owners {
            let (owner, group) = owner(metadata);
            rustix::fs::chownat(&self.handle, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        rustix::fs::utimensat(&self.handle, name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Gives the directory its mode, times and owner, once everything is in it.
    pub fn finish(&self, metadata: &Metadata, rules: Rules) -> Result<(), Errno> {
        finish(&self.handle, metadata, rules)
    }
}

/// Gives a file or directory its owner, mode and times, in this order: a change of the owner clears setuid.
pub fn finish(handle: impl AsFd, metadata: &Metadata, rules: Rules) -> Result<(), Errno> {
    if rules.owners {
        let (owner, group) = owner(metadata);
        rustix::fs::fchown(&handle, owner, group)?;
    }
    let mode = if rules.owners { metadata.mode } else { metadata.mode & !SPECIAL_BITS };
    rustix::fs::fchmod(&handle, Mode::from_raw_mode(mode & 0o7777))?;
    rustix::fs::futimens(&handle, &times(metadata))
}

/// An id of all ones means "leave it" to the kernel, so such an owner becomes nobody.
fn owner(metadata: &Metadata) -> (Option<Uid>, Option<Gid>) {
    let sound = |id: u32| if id == u32::MAX { 65_534 } else { id };
    (Some(Uid::from_raw(sound(metadata.uid))), Some(Gid::from_raw(sound(metadata.gid))))
}

fn times(metadata: &Metadata) -> Timestamps {
    let Time { seconds, nanoseconds } = metadata.modified;
    let moment = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds.min(999_999_999)) };
    Timestamps { last_access: moment, last_modification: moment }
}
