//! A local directory as a user's bucket.
//!
//! An object is a regular file under the directory; its name is the path from there. Its metadata lies beside it in
//! `NAME.leeward.json`, an object of JSON whose values are texts: `{"ad_number": "2", "display_name": "web"}`. Extended
//! attributes were the other way: they are lost by most tools that copy files, and cannot be seen in a listing.
//!
//! No link is followed, and nothing outside is opened, whoever writes into the directory meanwhile: every path is resolved
//! by the kernel beneath it. Names of which a part begins with a dot are hidden: they are no objects.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use leeward_store::{Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{
    ListPage, ListedObject, Metadata, ObjectHead, ObjectVersion, Objects, Parts, StatedDigests, name,
};

/// What the name of the file with an object's metadata ends with.
pub const METADATA_ENDING: &str = ".leeward.json";
/// The largest file of metadata, in bytes.
const METADATA_BYTES_MAX: u64 = 64 << 10;
/// Objects on a page of a listing.
const PAGE_ENTRIES: usize = 1000;
/// Files in a directory tree that are listed, at most.
const ENTRIES_MAX: usize = 1_000_000;
/// Directories inside of each other, at most.
const DEPTH_MAX: usize = 32;

/// The files under a directory.
pub struct DirectoryObjects {
    directory: File,
    path: PathBuf,
    pub(super) name: String,
}

impl DirectoryObjects {
    /// The files under `path`.
    ///
    /// # Errors
    /// It is no directory that can be read.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let directory =
            rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let directory = directory.map_err(|errno| Error::Io {
            store: name.clone(),
            action: "open",
            key: "the directory".to_owned(),
            source: errno.into(),
        })?;
        Ok(Self { directory: directory.into(), path: path.to_owned(), name })
    }

    pub(super) fn check(&self, object: &str) -> Result<()> {
        name::check(&self.name, object)?;
        if object.split('/').any(|part| part.starts_with('.')) || object.ends_with(METADATA_ENDING) {
            return Err(Error::NotFound { store: self.name.clone(), key: object.to_owned() });
        }
        Ok(())
    }

    pub(super) fn failed(
        &self,
        action: &'static str,
        object: &str,
        source: impl Into<std::io::Error>,
    ) -> Error {
        let (store, key, source) = (self.name.clone(), object.to_owned(), source.into());
        match source.kind() {
            std::io::ErrorKind::NotFound => Error::NotFound { store, key },
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Error::NoSpace { store, action, key, source }
            }
            std::io::ErrorKind::PermissionDenied => {
                Error::Denied { store, action, key, what: "the file's rights do not allow it".to_owned() }
            }
            _ => Error::Io { store, action, key, source },
        }
    }

    /// Opens what lies at a path under the directory, without following a link.
    fn beneath(&self, path: &str, flags: OFlags) -> rustix::io::Result<File> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        rustix::fs::openat2(&self.directory, path, flags, Mode::empty(), resolve).map(File::from)
    }

    pub(super) fn file(&self, action: &'static str, object: &str) -> Result<File> {
        let denied = |what: &str| Error::Denied {
            store: self.name.clone(),
            action,
            key: object.to_owned(),
            what: what.to_owned(),
        };
        let file = self.beneath(object, OFlags::RDONLY).map_err(|errno| match errno {
            Errno::LOOP | Errno::XDEV => {
                denied("it is a link, and links are not followed; put the file itself there")
            }
            errno => self.failed(action, object, errno),
        })?;
        let metadata = file.metadata().map_err(|source| self.failed(action, object, source))?;
        if metadata.is_file() { Ok(file) } else { Err(denied("it is not a regular file")) }
    }

    pub(super) fn state(
        &self,
        file: &File,
        action: &'static str,
        object: &str,
    ) -> Result<(u64, ObjectVersion, Option<Timestamp>)> {
        let metadata = file.metadata().map_err(|source| self.failed(action, object, source))?;
        Ok((metadata.len(), version(&metadata), modified(&metadata)))
    }

    /// The metadata of an object that is open. Those of one whose making has not ended lie beside its upload.
    fn metadata(&self, object: &str, file: &File) -> Result<Metadata> {
        let unfinished = self.made_by(object, file)?.map(|upload| Self::metadata_of(object, &upload));
        for beside in unfinished.into_iter().chain([format!("{object}{METADATA_ENDING}")]) {
            match self.file("read the metadata of", &beside) {
                Err(Error::NotFound { .. }) => {}
                found => return self.read_metadata(object, &beside, found?),
            }
        }
        Ok(Metadata::new())
    }

    fn read_metadata(&self, object: &str, beside: &str, file: File) -> Result<Metadata> {
        let mut text = String::new();
        let read = file.take(METADATA_BYTES_MAX + 1).read_to_string(&mut text);
        read.map_err(|source| self.failed("read the metadata of", object, source))?;
        let wrong = |what: String| Error::Denied {
            store: self.name.clone(),
            action: "read the metadata of",
            key: object.to_owned(),
            what: format!("{beside} is not an object of JSON with texts as values ({what})"),
        };
        if text.len() as u64 > METADATA_BYTES_MAX {
            return Err(wrong(format!("it has more than {METADATA_BYTES_MAX} bytes")));
        }
        let metadata: Metadata = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        Ok(metadata.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), value)).collect())
    }

    /// Adds the names of the files under a directory, in order, to a list.
    fn gather(&self, under: &str, depth: usize, found: &mut BTreeSet<String>) -> Result<()> {
        let failed = |source: std::io::Error| self.failed("list", under, source);
        let place = if under.is_empty() { "." } else { under };
        let directory = match self.beneath(place, OFlags::RDONLY | OFlags::DIRECTORY) {
            // Removed, or replaced by a link, since its name was read.
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => return Ok(()),
            other => other.map_err(|errno| failed(errno.into()))?,
        };
        let entries = rustix::fs::Dir::read_from(&directory).map_err(|errno| failed(errno.into()))?;
        for entry in entries {
            let entry = entry.map_err(|errno| failed(errno.into()))?;
            let Ok(part) = entry.file_name().to_str() else { continue };
            if part.starts_with('.') || part.ends_with(METADATA_ENDING) {
                continue;
            }
            let name = if under.is_empty() { part.to_owned() } else { format!("{under}/{part}") };
            match self.kind(&name, &directory, part) {
                Some(rustix::fs::FileType::Directory) if depth < DEPTH_MAX => {
                    self.gather(&name, depth + 1, found)?;
                }
                Some(rustix::fs::FileType::RegularFile) if found.len() < ENTRIES_MAX => {
                    found.insert(name);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn kind(&self, name: &str, directory: &File, part: &str) -> Option<rustix::fs::FileType> {
        name::check(&self.name, name).ok()?;
        let stat = rustix::fs::statat(directory, part, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(rustix::fs::FileType::from_raw_mode(stat.st_mode))
    }

    /// The directory in which an object lies, made where it is not there, and the object's name in it.
    pub(super) fn parent<'a>(&self, object: &'a str) -> Result<(File, &'a str)> {
        let failed = |errno: Errno| self.failed("make the directory of", object, errno);
        let (under, name) = object.rsplit_once('/').unwrap_or(("", object));
        let mut made = String::new();
        for part in under.split('/').filter(|part| !part.is_empty()) {
            let parent = if made.is_empty() { "." } else { made.as_str() };
            let parent = self.beneath(parent, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
            match rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno)),
            }
            made = if made.is_empty() { part.to_owned() } else { format!("{made}/{part}") };
        }
        let place = if under.is_empty() { "." } else { under };
        Ok((self.beneath(place, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?, name))
    }

    /// Writes a file beside its final name, and gives it that name when it is whole and durable.
    pub(super) fn publish(
        &self,
        directory: &File,
        name: &str,
        content: &mut dyn Read,
    ) -> std::io::Result<File> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        let temporary = format!(".leeward-{}.part", crate::encode::hex(&random));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file: File =
            rustix::fs::openat(directory, temporary.as_str(), flags, Mode::from_raw_mode(0o666))?.into();
        let written = std::io::copy(content, &mut file)
            .and_then(|_| file.flush())
            .and_then(|()| file.sync_all())
            .and_then(|()| Ok(rustix::fs::renameat(directory, temporary.as_str(), directory, name)?));
        if written.is_err() {
            let _ = rustix::fs::unlinkat(directory, temporary.as_str(), AtFlags::empty());
        }
        written.and_then(|()| directory.sync_all()).map(|()| file)
    }
}

impl Objects for DirectoryObjects {
    fn name(&self) -> &str {
        &self.name
    }

    fn head(&self, object: &str) -> Result<ObjectHead> {
        self.check(object)?;
        let file = self.file("look at", object)?;
        let (bytes, version, modified) = self.state(&file, "look at", object)?;
        let metadata = self.metadata(object, &file)?;
        Ok(ObjectHead { bytes, version, digests: StatedDigests::default(), metadata, modified })
    }

    fn read(&self, object: &str, range: Range<u64>, version: &ObjectVersion) -> Result<Vec<u8>> {
        self.check(object)?;
        let file = self.file("read", object)?;
        let mut content = vec![0; usize::try_from(range.end.saturating_sub(range.start)).unwrap_or_default()];
        let read = file.read_exact_at(&mut content, range.start);
        // Looked at after the read: a file written in place while it was read has another time then.
        if self.state(&file, "read", object)?.1 != *version {
            return Err(Error::Conflict { store: self.name.clone(), key: object.to_owned() });
        }
        read.map_err(|source| self.failed("read", object, source))?;
        Ok(content)
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage> {
        let mut found = BTreeSet::new();
        self.gather("", 0, &mut found)?;
        let mut names = found
            .into_iter()
            .filter(|name| name.starts_with(prefix) && after.is_none_or(|after| name.as_str() > after));
        let mut page = ListPage::default();
        for name in names.by_ref().take(PAGE_ENTRIES) {
            page.last = Some(name.clone());
            if let Ok(file) = self.file("list", &name) {
                let (bytes, version, modified) = self.state(&file, "list", &name)?;
                page.objects.push(ListedObject { name, bytes, version: Some(version), modified });
            }
        }
        page.goes_on = names.next().is_some();
        Ok(page)
    }

    fn parts(&self) -> Option<&dyn Parts> {
        Some(self)
    }

    fn put(&self, object: &str, content: &mut dyn Read, metadata: &Metadata) -> Result<ObjectVersion> {
        self.check(object)?;
        let (directory, name) = self.parent(object)?;
        let failed = |source: std::io::Error| self.failed("write", object, source);
        let beside = format!("{name}{METADATA_ENDING}");
        // The metadata first: whoever sees the object finds what belongs to it.
        if metadata.is_empty() {
            let _ = rustix::fs::unlinkat(&directory, beside.as_str(), AtFlags::empty());
        } else {
            let text = serde_json::to_vec_pretty(metadata).map_err(|error| failed(error.into()))?;
            self.publish(&directory, &beside, &mut text.as_slice()).map_err(failed)?;
        }
        let file = self.publish(&directory, name, content).map_err(failed)?;
        Ok(self.state(&file, "write", object)?.1)
    }

    fn delete(&self, object: &str) -> Result<()> {
        self.check(object)?;
        let (under, name) = object.rsplit_once('/').unwrap_or((".", object));
        let directory = match self.beneath(under, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.map_err(|errno| self.failed("delete", object, errno))?,
        };
        for name in [name.to_owned(), format!("{name}{METADATA_ENDING}")] {
            match rustix::fs::unlinkat(&directory, name.as_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.failed("delete", object, errno)),
            }
        }
        Ok(())
    }
}

impl DirectoryObjects {
    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Which file, of which size, last written when: whoever writes a file changes one of them.
fn version(metadata: &std::fs::Metadata) -> ObjectVersion {
    ObjectVersion(format!(
        "{}-{}-{}-{}.{:09}",
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    ))
}

fn modified(metadata: &std::fs::Metadata) -> Option<Timestamp> {
    Timestamp::new(metadata.mtime(), i32::try_from(metadata.mtime_nsec()).ok()?).ok()
}
