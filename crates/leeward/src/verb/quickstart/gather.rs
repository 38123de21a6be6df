//! Files of this machine from which a disk is made.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::tools::{check_interrupt, io};
use crate::failure::{Code, Failure};

/// Where files are taken from, and which share of the whole each may give, in percent.
const ROOTS: [(&str, u64); 3] = [("/usr/bin", 30), ("/usr/lib", 40), ("/usr/share", 30)];
/// Names that every file system takes, and that need no quoting anywhere.
const NAME_CHARACTERS: &[u8] = b"._-+=,@~";
/// Longest name of a file or folder.
const NAME_BYTES_MAX: usize = 200;

/// A file of this machine.
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// Its name on the disk: a relative path.
    pub name: String,
    /// Its size in bytes when it was found.
    pub size: u64,
    /// Its permissions.
    pub mode: u32,
}

impl Found {
    /// Opens it if it is still a regular file; what is now a link or a pipe is not followed.
    pub fn open(&self) -> Result<std::fs::File, Failure> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let file = std::fs::OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(&self.path);
        file.map_err(io("open", &self.path))
    }
}

/// Regular files that everybody may read, up to `limit` bytes in all.
pub fn gather(limit: u64) -> Result<Vec<Found>, Failure> {
    let mut gathered = Gathered { files: Vec::new(), rest: 0, largest: limit / 16 };
    for (root, percent) in ROOTS {
        gathered.rest = limit / 100 * percent;
        // On a merged /usr this is no link; elsewhere it is no matter.
        let root = Path::new(root);
        if std::fs::symlink_metadata(root).is_ok_and(|metadata| is_open_folder(&metadata)) {
            gathered.folder(root)?;
        }
    }
    if gathered.files.is_empty() {
        return Err(Failure::new(Code::NotFound, "found no files in /usr to make a disk of")
            .hint("name a disk image: leeward quickstart DISK"));
    }
    Ok(gathered.files)
}

fn is_open_folder(metadata: &Metadata) -> bool {
    metadata.is_dir() && metadata.mode() & 0o005 == 0o005
}

fn is_open_file(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.mode() & 0o7004 == 0o004 && metadata.size() > 0
}

struct Gathered {
    files: Vec<Found>,
    rest: u64,
    largest: u64,
}

impl Gathered {
    /// A folder that cannot be listed, and a file that has gone, are left out.
    fn folder(&mut self, folder: &Path) -> Result<(), Failure> {
        check_interrupt()?;
        let Ok(entries) = folder.read_dir() else { return Ok(()) };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let usable = path.file_name().and_then(|name| name.to_str()).is_some_and(is_plain);
            let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
            if !usable || self.rest == 0 {
                continue;
            }
            if is_open_folder(&metadata) {
                self.folder(&path)?;
            } else if is_open_file(&metadata) && metadata.size() <= self.rest.min(self.largest) {
                self.take(path, &metadata);
            }
        }
        Ok(())
    }

    fn take(&mut self, path: PathBuf, metadata: &Metadata) {
        let Some(name) = path.to_str().map(|name| name.trim_start_matches('/').to_owned()) else { return };
        self.rest -= metadata.size();
        self.files.push(Found { path, name, size: metadata.size(), mode: metadata.mode() & 0o777 });
    }
}

fn is_plain(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && !name.ends_with('.')
        && !name.starts_with('-')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || NAME_CHARACTERS.contains(&byte))
}
