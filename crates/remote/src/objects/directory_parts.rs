//! Files that are written in parts: under a hidden name beside their place, until they are whole.

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
        file.set_len(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        let identity = |metadata: &std::fs::Metadata| (metadata.dev(), metadata.ino());
        match existing {
            Existing::Replace => {
                let renamed = rustix::fs::renameat(&directory, upload, &directory, name.as_str());
                renamed.map_err(|errno| failed(errno.into()))?;
                self.keep_metadata(&directory, &name, upload, object)?;
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
                self.keep_metadata(&directory, &name, upload, object)?;
                let removed = rustix::fs::unlinkat(&directory, upload, AtFlags::empty());
                removed.map_err(|errno| failed(errno.into()))?;
            }
        }
        directory.sync_all().map_err(failed)?;
        Ok(self.state(&file, "write", object)?.1)
    }

    fn abort(&self, object: &str, upload: &str) -> Result<()> {
        self.check(object)?;
        let (directory, name) = self.parent(object)?;
        if self.check_upload(object, name, upload).is_err() {
            return Ok(());
        }
        for name in [upload.to_owned(), format!("{upload}{METADATA}")] {
            match rustix::fs::unlinkat(&directory, name.as_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.failed("give up writing", object, errno)),
            }
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
