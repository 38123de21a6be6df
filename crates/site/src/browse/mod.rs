//! Files in snapshots, seen and taken without a restore.
//!
//! What is in a disk was written by a guest: names are bytes, directories may be huge, sizes may be lies, file systems may be
//! made to harm. A listing keeps a page of a directory in memory, not the directory; a file is read in pieces.

mod path;
mod shelf;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use leeward_files::{
    Content, Error as FilesError, FileSystem, FileType, Flow, Follow, Metadata, Node, Volume, lookup, shown,
};
use leeward_repository::{ImageName, SnapshotId};
use serde::Serialize;

pub use path::FilePath;
use shelf::{OpenDisk, SharedFiles, Shelf};

use crate::{Error, Result, Site};

/// Entries of a directory that are looked at for a page of it.
const ENTRIES_MAX: usize = 4_000_000;
/// The longest target of a link that is read, in bytes.
const LINK_BYTES_MAX: u64 = 4096;

/// Something in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileLine {
    /// Its name, for people: what is no text, and what could deceive, is written as `\xNN` and `\u{NNNN}`.
    pub name: String,
    /// Where it is: what one asks for to see into it, or to take it.
    pub path: String,
    /// What it is: `partition`, `unreadable` (a partition without files that are read here), `directory`, `file`, `symlink`,
    /// `device`, `fifo`, `socket`, `other`, or `damaged`.
    pub kind: &'static str,
    /// Its size.
    pub bytes: Option<u64>,
    /// When its content was last changed.
    pub modified: Option<Timestamp>,
    /// What a partition holds, or where a link leads.
    pub about: Option<String>,
}

/// A page of a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FileListing {
    /// What is in it, by name; the partitions of a disk in its order.
    pub entries: Vec<FileLine>,
    /// Where the next page begins; none at the end.
    pub next: Option<String>,
    /// What a person has to know before trusting it.
    pub warnings: Vec<String>,
}

/// A file that can be read.
pub struct OpenFile {
    files: SharedFiles,
    node: Node,
    /// Its size.
    pub bytes: u64,
    /// Its name in the disk.
    pub name: Vec<u8>,
}

impl OpenFile {
    /// Reads from `offset` on; fewer bytes than the buffer takes come only at the end.
    ///
    /// # Errors
    /// The repository or the file system cannot be read.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        Ok(self.files.read_at(self.node, buffer, offset)?)
    }
}

/// Looks into snapshots.
#[derive(Default)]
pub(crate) struct Browser(Shelf);

impl Browser {
    /// Closes what nobody has used for a while.
    pub fn close_idle(&self) {
        self.0.close_idle();
    }
}

/// Which snapshot, and where in it.
struct Looking {
    id: SnapshotId,
    disk: Arc<OpenDisk>,
}

impl Site {
    fn look_into(&self, image: &ImageName, id: SnapshotId) -> Result<Looking> {
        let repository = self.repository()?;
        // Asked each time: one that was forgotten shows nothing any more.
        Self::entry(&repository, image, id)?;
        Ok(Looking { id, disk: self.inner().browser.0.disk(&repository, id)? })
    }

    /// The file system of a path, and the way in it.
    fn file_system(&self, looking: &Looking, path: &FilePath) -> Result<(SharedFiles, Vec<u8>)> {
        let nothing = || Error::NotFound(format!("there is nothing at {path}"));
        let volumes = &looking.disk.volumes.volumes;
        let number = volumes
            .iter()
            .position(|volume| Some(volume.id.as_bytes()) == path.volume())
            .ok_or_else(nothing)?;
        let inside = path.inside().ok_or_else(nothing)?;
        let files = self.inner().browser.0.files(looking.id, &looking.disk, number)?.ok_or_else(nothing)?;
        Ok((files, inside))
    }

    /// A page of a directory in a snapshot, of at most `most` entries whose names come after `after`; for the path `/` the
    /// partitions of its disk. `goes_on` is asked on the way whether somebody still wants to know.
    ///
    /// # Errors
    /// There is no such snapshot or directory, its file system is damaged or not read here, the repository cannot be read, or
    /// nobody wants to know any more.
    pub fn files(
        &self,
        image: &ImageName,
        id: SnapshotId,
        path: &FilePath,
        after: Option<&str>,
        most: usize,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<FileListing> {
        let after = after.map(path::decoded).transpose().map_err(Error::Invalid)?;
        let looking = self.look_into(image, id)?;
        if path.volume().is_none() {
            return Ok(partitions(&looking.disk));
        }
        let (files, inside) = self.file_system(&looking, path)?;
        let directory = lookup(files.as_ref(), &inside, Follow::Yes)?;
        let mut listing = page(files.as_ref(), directory, path, after.as_deref(), most, goes_on)?;
        listing.warnings.extend(files.summary().warnings.iter().map(|warning| shown(warning.as_bytes())));
        Ok(listing)
    }

    /// Opens a file in a snapshot; links are followed within its file system.
    ///
    /// # Errors
    /// There is no such snapshot or file, its file system is damaged or not read here, or the repository cannot be read.
    pub fn open_file(&self, image: &ImageName, id: SnapshotId, path: &FilePath) -> Result<OpenFile> {
        let no_file = || Error::NotFound(format!("there is no file at {path}"));
        let looking = self.look_into(image, id)?;
        let name = path.name().ok_or_else(no_file)?.to_vec();
        let (files, inside) = self.file_system(&looking, path)?;
        let node = lookup(files.as_ref(), &inside, Follow::Yes)?;
        let metadata = files.metadata(node)?;
        match metadata.file_type {
            FileType::File => Ok(OpenFile { files, node, bytes: metadata.size, name }),
            _ => Err(no_file()),
        }
    }
}

/// The partitions of a disk.
fn partitions(disk: &OpenDisk) -> FileListing {
    let line = |volume: &Volume| {
        let content = match &volume.content {
            Content::Files(kind) => kind.to_string(),
            Content::Other(what) => what.clone(),
        };
        let parts =
            [Some(content), Some(volume.purpose.clone()), volume.name.clone(), volume.problem.clone()];
        let parts: Vec<_> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        FileLine {
            name: shown(volume.id.as_bytes()),
            path: FilePath::default().join(volume.id.as_bytes()).to_string(),
            kind: if volume.has_files() { "partition" } else { "unreadable" },
            bytes: Some(volume.size),
            modified: None,
            about: Some(shown(parts.join(", ").as_bytes())),
        }
    };
    FileListing {
        entries: disk.volumes.volumes.iter().map(line).collect(),
        next: None,
        warnings: disk.volumes.problems.iter().map(|problem| shown(problem.as_bytes())).collect(),
    }
}

/// A page of a directory. All of it is looked at, for a disk has its names in no order; as many as make the page are kept.
fn page(
    files: &dyn FileSystem,
    directory: Node,
    path: &FilePath,
    after: Option<&[u8]>,
    most: usize,
    goes_on: &dyn Fn() -> bool,
) -> Result<FileListing> {
    let mut found: BTreeMap<Vec<u8>, Node> = BTreeMap::new();
    let (mut seen, mut has_more) = (0, false);
    files.read_dir(directory, &mut |entry| {
        seen += 1;
        if seen % 1024 == 1 && !goes_on() {
            return Err(FilesError::Cancelled);
        }
        if seen > ENTRIES_MAX {
            return Ok(Flow::Stop);
        }
        if after.is_some_and(|after| entry.name.as_slice() <= after) {
            return Ok(Flow::Continue);
        }
        found.insert(entry.name, entry.node);
        if found.len() > most {
            found.pop_last();
            has_more = true;
        }
        Ok(Flow::Continue)
    })?;
    let next = found.last_key_value().filter(|_| has_more).map(|(name, _)| path::encoded(name));
    let mut listing = FileListing { next, ..FileListing::default() };
    if seen > ENTRIES_MAX {
        listing.warnings.push(format!(
            "the directory has more than {ENTRIES_MAX} entries; only that many of them were looked at"
        ));
    }
    for (name, node) in found {
        if !goes_on() {
            return Err(FilesError::Cancelled.into());
        }
        listing.entries.push(entry(files, path, &name, node)?);
    }
    Ok(listing)
}

/// An entry of a directory. One that is damaged says so, and the others are shown all the same.
fn entry(files: &dyn FileSystem, path: &FilePath, name: &[u8], node: Node) -> Result<FileLine> {
    let line = |kind, bytes, modified, about| FileLine {
        name: shown(name),
        path: path.join(name).to_string(),
        kind,
        bytes,
        modified,
        about,
    };
    let metadata = match files.metadata(node) {
        Ok(metadata) => metadata,
        Err(error) if is_of_the_disk(&error) => {
            return Ok(line("damaged", None, None, Some(error.to_string())));
        }
        Err(error) => return Err(error.into()),
    };
    let target = match metadata.file_type {
        FileType::Symlink if metadata.size <= LINK_BYTES_MAX => match files.read_link(node) {
            Ok(target) => Some(shown(&target)),
            Err(error) if is_of_the_disk(&error) => None,
            Err(error) => return Err(error.into()),
        },
        _ => None,
    };
    let bytes = (metadata.file_type == FileType::File).then_some(metadata.size);
    Ok(line(kind(metadata.file_type), bytes, modified(&metadata), target))
}

/// Whether a failure says something of the guest's disk, and not of the repository.
fn is_of_the_disk(error: &FilesError) -> bool {
    crate::error::of_files(error.kind()) == crate::ErrorKind::Unreadable
        || matches!(error.kind(), leeward_files::ErrorKind::NotFound)
}

fn modified(metadata: &Metadata) -> Option<Timestamp> {
    let nanoseconds =
        i32::try_from(metadata.modified.nanoseconds).ok().filter(|count| *count < 1_000_000_000)?;
    Timestamp::new(metadata.modified.seconds, nanoseconds).ok()
}

fn kind(file_type: FileType) -> &'static str {
    match file_type {
        FileType::File => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::Other => "other",
    }
}

#[cfg(test)]
mod tests;
