//! Files that are written in parts: under a hidden name beside their place, until they are whole.
//!
//! A whole file gets its name as a second one, then its metadata are put beside it, and only then the hidden name goes. So whatever
//! dies in between leaves a file that is known: one that has the hidden name of an upload as well is what that upload has made, and
//! its metadata are those that still lie beside the hidden name. Metadata are never there before the file that they are of: what lies
//! in its place may be somebody else's.

use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::fs::{FileExt, MetadataExt};

use leeward_store::{Error, Result};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::directory::{DirectoryObjects, METADATA_ENDING};
use super::parts::{Existing, Part, Parts};
use super::{Metadata, ObjectVersion};
use crate::digest::md5_hex;
use crate::http::Bytes;

/// Zeros of this length make a hole, in bytes.
const HOLE_BYTES: usize = 64 << 10;
/// What the name of a file ends with beside which its metadata lies until it is whole.
const METADATA: &str = ".metadata";
/// What the name of a file ends with that is about to take the place of another.
const NEXT: &str = ".next";

impl DirectoryObjects {
    /// What the hidden names of an object's uploads begin with. By its digest, as it may be as long as a name can be.
    fn beginning(name: &str) -> String {
        format!(".leeward-{}-", md5_hex(&[Bytes::copy_from_slice(name.as_bytes())]))
    }

    /// Whether a name is that of an upload of this object, so that nothing else is opened by it.
    fn check_upload(&self, object: &str, name: &str, upload: &str) -> Result<()> {
        let rest = upload.strip_prefix(&Self::beginning(name)).and_then(|rest| rest.strip_suffix(".part"));
        match rest.is_some_and(|rest| rest.len() == 16 && rest.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            true => Ok(()),
            false => Err(Error::NotFound { store: self.name.clone(), key: object.to_owned() }),
        }
    }

    fn upload(&self, object: &str, upload: &str) -> Result<(File, File, String)> {
        self.check(object)?;
        let (directory, name) = self.parent(object)?;
        self.check_upload(object, name, upload)?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, upload, flags, Mode::empty());
        let file = file.map_err(|errno| self.failed("write", object, errno))?;
        Ok((directory, file.into(), name.to_owned()))
    }

    /// The upload that an object was made by, where its making has not ended: both are names of one file.
    pub(super) fn made_by(&self, object: &str, file: &File) -> Result<Option<String>> {
        let failed = |source: std::io::Error| self.failed("look at", object, source);
        let there = file.metadata().map_err(failed)?;
        if there.nlink() < 2 {
            return Ok(None);
        }
        let (directory, _) = self.parent(object)?;
        for upload in self.unfinished(object)? {
            match rustix::fs::statat(&directory, upload.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if (stat.st_dev, stat.st_ino) == (there.dev(), there.ino()) => {
                    return Ok(Some(upload));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        Ok(None)
    }

    /// The name of an upload's metadata, seen from the directory.
    pub(super) fn metadata_of(object: &str, upload: &str) -> String {
        let under = object.rsplit_once('/').map_or(String::new(), |(under, _)| format!("{under}/"));
        format!("{under}{upload}{METADATA}")
    }

    /// Gives a whole file the place of another, or an empty one; its hidden name stays where the file system has files of two names.
    fn put_in_place(directory: &File, upload: &str, name: &str) -> rustix::io::Result<()> {
        let next = format!("{upload}{NEXT}");
        match rustix::fs::linkat(directory, upload, directory, next.as_str(), AtFlags::empty()) {
            // An attempt before had come so far.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK) => {
                return rustix::fs::renameat(directory, upload, directory, name);
            }
            Err(errno) => return Err(errno),
        }
        rustix::fs::renameat(directory, next.as_str(), directory, name)?;
        // Nothing is renamed where both were names of the same file.
        remove_name(directory, &next)
    }

    /// Puts the metadata beside an object.
    fn keep_metadata(&self, directory: &File, name: &str, upload: &str, object: &str) -> Result<()> {
        let kept = format!("{upload}{METADATA}");
        let beside = format!("{name}{METADATA_ENDING}");
        match rustix::fs::renameat(directory, kept.as_str(), directory, beside.as_str()) {
            // Another attempt has done so.
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("write the metadata of", object, errno)),
        }
    }
}

/// Removes a name; one that is not there is as good.
fn remove_name(directory: &File, name: &str) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn write(file: &File, content: &[u8], offset: u64) -> std::io::Result<()> {
    for (piece, at) in content.chunks(HOLE_BYTES).zip((offset..).step_by(HOLE_BYTES)) {
        let is_hole = piece.iter().all(|byte| *byte == 0) && {
            // An attempt before may have left something else there.
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(file, flags, at, piece.len() as u64).is_ok()
        };
        if !is_hole {
            file.write_all_at(piece, at)?;
        }
    }
    Ok(())
}

impl Parts for DirectoryObjects {
    fn part_bytes(&self) -> RangeInclusive<u64> {
        1..=u64::MAX
    }

    fn parts_max(&self) -> u32 {
        u32::MAX
    }

    fn begin(&self, object: &str, metadata: &Metadata) -> Result<String> {
        self.check(object)?;
        let (directory, name) = self.parent(object)?;
        let failed = |source: std::io::Error| self.failed("begin to write", object, source);
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| failed(std::io::Error::other(error)))?;
        let upload = format!("{}{}.part", Self::beginning(name), crate::encode::hex(&random));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&directory, upload.as_str(), flags, Mode::from_raw_mode(0o666));
        made.map_err(|errno| failed(errno.into()))?;
        if !metadata.is_empty() {
            let text = serde_json::to_vec_pretty(metadata).map_err(|error| failed(error.into()))?;
            self.publish(&directory, &format!("{upload}{METADATA}"), &mut text.as_slice()).map_err(failed)?;
        }
        Ok(upload)
    }

    fn send(&self, object: &str, upload: &str, part: &Part) -> Result<String> {
        let (_, file, _) = self.upload(object, upload)?;
        write(&file, &part.content, part.offset)
            // What is told to be there outlives a crash of the machine.
            .and_then(|()| file.sync_data())
            .map_err(|source| self.failed("write a part of", object, source))?;
        Ok(part.number.to_string())
    }

    fn complete(
        &self,
        object: &str,
        upload: &str,
        _tags: &[String],
        bytes: u64,
        existing: Existing,
    ) -> Result<ObjectVersion> {
        let (directory, file, name) = self.upload(object, upload)?;
        let failed = |source: std::io::Error| self.failed("write", object, source);
        // What has its size keeps its version: it may be in its place already.
        let length = file.metadata().map_err(failed)?.len();
        let sized = if length == bytes { Ok(()) } else { file.set_len(bytes) };
        sized.and_then(|()| file.sync_all()).map_err(failed)?;
        let identity = |metadata: &std::fs::Metadata| (metadata.dev(), metadata.ino());
        match existing {
            Existing::Replace => {
                let placed = Self::put_in_place(&directory, upload, &name);
                placed.map_err(|errno| failed(errno.into()))?;
            }
            Existing::Keep => {
                match rustix::fs::linkat(&directory, upload, &directory, name.as_str(), AtFlags::empty()) {
                    Ok(()) => {}
                    // It may be this very file, from an attempt that had come so far.
                    Err(Errno::EXIST) => {
                        let mine = file.metadata().map_err(failed)?;
                        let there = self.file("look at", object)?.metadata().map_err(failed)?;
                        if identity(&mine) != identity(&there) {
                            let (store, key) = (self.name.clone(), object.to_owned());
                            return Err(Error::AlreadyExists { store, key });
                        }
                    }
                    Err(errno) => return Err(failed(errno.into())),
                }
            }
        }
        directory.sync_all().map_err(failed)?;
        self.keep_metadata(&directory, &name, upload, object)?;
        directory.sync_all().map_err(failed)?;
        remove_name(&directory, upload).map_err(|errno| failed(errno.into()))?;
        directory.sync_all().map_err(failed)?;
        Ok(self.state(&file, "write", object)?.1)
    }

    fn abort(&self, object: &str, upload: &str) -> Result<()> {
        self.check(object)?;
        let (directory, name) = self.parent(object)?;
        if self.check_upload(object, name, upload).is_err() {
            return Ok(());
        }
        let failed = |errno: Errno| self.failed("give up writing", object, errno);
        // What the upload has made stays, and is told as what it is.
        let there = match self.file("look at", object) {
            Ok(file) => self.made_by(object, &file)?,
            Err(_) => None,
        };
        if there.as_deref() == Some(upload) {
            self.keep_metadata(&directory, name, upload, object)?;
        }
        // The upload's own name last: by it the others are found.
        for name in [format!("{upload}{METADATA}"), format!("{upload}{NEXT}"), upload.to_owned()] {
            remove_name(&directory, &name).map_err(failed)?;
        }
        Ok(())
    }

    fn unfinished(&self, object: &str) -> Result<Vec<String>> {
        self.check(object)?;
        let (directory, name) = self.parent(object)?;
        let failed = |errno: Errno| self.failed("list the uploads of", object, errno);
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Ok(found_name) = entry.file_name().to_str()
                && self.check_upload(object, name, found_name).is_ok()
            {
                found.push(found_name.to_owned());
            }
        }
        Ok(found)
    }
}
