//! A partition as a file that cannot be written.
//!
//! A loop device would need rights that not everybody has, shows itself to every program that looks for disks, and knows
//! no logical volumes. FUSE needs none of it: the file is made of the same memory-safe readers as everything else, and
//! exists for one tool.

use std::ffi::OsStr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen,
    Request, Session, SessionACL,
};
use leeward_disk::SharedSource;
use rustix::mount::{UnmountFlags, unmount};

use crate::Result;
use crate::digest::hex;
use crate::target::failed;

const ROOT: u64 = 1;
const FILE: u64 = 2;
const NAME: &str = "volume";
/// How long the kernel may remember what never changes.
const KEPT: Duration = Duration::from_secs(3600);
/// The largest answer to one read, in bytes: more than the kernel asks for.
const READ_BYTES_MAX: u32 = 1 << 20;

/// A file that is served until this is dropped.
pub(super) struct Served {
    place: PathBuf,
    file: PathBuf,
    session: Option<BackgroundSession>,
}

impl Served {
    /// Serves `source` to one user: the one that is named, or this process' own. Nobody else may read a disk that is checked.
    pub(super) fn new(source: SharedSource, user: Option<u32>) -> Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| {
            failed(Path::new("/dev/urandom"), "read random numbers from", std::io::Error::other(error))
        })?;
        let place = std::env::temp_dir().join(format!("leeward-check-{}", hex(&random)));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&place)
            .map_err(|source| failed(&place, "make the directory", source))?;
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::RO,
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoExec,
            MountOption::NoAtime,
            MountOption::DefaultPermissions,
            MountOption::FSName("leeward".to_owned()),
        ];
        config.acl = if user.is_some() { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(2);
        let file = place.join(NAME);
        let session = Session::new(OneFile { source, user }, &place, &config).and_then(Session::spawn);
        let mut served = Self { place, file, session: None };
        served.session = Some(session.map_err(|source| {
            failed(&served.place, "show the volume by FUSE (install the package fuse3) in", source)
        })?);
        Ok(served)
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // Not fuser's way, which gives up while a file is open: a tool that was killed may take a moment to go.
            if unmount(&self.place, UnmountFlags::DETACH).is_err() {
                let _ = Command::new("fusermount3")
                    .args(["-u", "-z", "--"])
                    .arg(&self.place)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
            }
            drop(session);
        }
        // Never what is in it: an empty directory only.
        let _ = std::fs::remove_dir(&self.place);
    }
}

/// A directory with one file.
struct OneFile {
    source: SharedSource,
    user: Option<u32>,
}

impl OneFile {
    fn attributes(&self, number: u64) -> FileAttr {
        let is_file = number == FILE;
        let (size, time) = (if is_file { self.source.virtual_size() } else { 0 }, SystemTime::UNIX_EPOCH);
        FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: if is_file { 0o400 } else { 0o500 },
            nlink: 1,
            uid: self.user.unwrap_or_else(|| rustix::process::getuid().as_raw()),
            gid: self.user.unwrap_or_else(|| rustix::process::getgid().as_raw()),
            rdev: 0,
            blksize: 64 << 10,
            flags: 0,
        }
    }
}

impl Filesystem for OneFile {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent.0 == ROOT && name == NAME {
            reply.entry(&KEPT, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&KEPT, &self.attributes(number.0));
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() == OpenAccMode::O_RDONLY {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        } else {
            reply.error(Errno::EROFS);
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.source.virtual_size().saturating_sub(offset);
        let mut buffer = vec![0; left.min(u64::from(size.min(READ_BYTES_MAX))) as usize];
        match self.source.read_at(&mut buffer, offset) {
            Ok(()) => reply.data(&buffer),
            Err(_) => reply.error(Errno::EIO),
        }
    }
}
