//! The temporary folder in which everything happens.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::tools::io;
use crate::failure::{Code, Failure};
use crate::size;

/// A folder that only its owner can enter, and that disappears with this value unless it is kept: at the end, on an
/// error, and after Ctrl-C.
pub struct Workspace {
    folder: TempDir,
    /// Free bytes where the folder is, when it was made.
    pub free_bytes: u64,
}

impl Workspace {
    /// A new folder in `parent`, or where TMPDIR says.
    pub fn new(parent: Option<&Path>, keep: bool) -> Result<Self, Failure> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let parent = parent.canonicalize().map_err(|error| {
            Failure::new(Code::NotFound, format!("cannot use the folder {}: {error}", parent.display()))
                .hint("name an existing folder with --dir")
        })?;
        let free = rustix::fs::statvfs(&parent)
            .map_err(|errno| io("ask for the free space of", &parent)(errno.into()))?;
        let mut folder = tempfile::Builder::new()
            .prefix("leeward-quickstart-")
            .tempdir_in(&parent)
            .map_err(io("make a folder in", &parent))?;
        folder.disable_cleanup(keep);
        Ok(Self { folder, free_bytes: free.f_bavail.saturating_mul(free.f_frsize) })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Refuses work that needs more space than there is.
    pub fn require(&self, bytes: u64) -> Result<(), Failure> {
        if bytes <= self.free_bytes {
            return Ok(());
        }
        let folder = self.path().parent().unwrap_or(self.path()).display();
        Err(Failure::new(
            Code::Refused,
            format!(
                "{folder} has {} free, but this may need up to {}",
                size::show(self.free_bytes),
                size::show(bytes)
            ),
        )
        .hint("name a folder with more space with --dir"))
    }

    /// Removes it, and says so when that fails.
    pub fn close(self) -> Result<(), Failure> {
        let path = self.path().to_owned();
        self.folder.close().map_err(io("remove", &path))
    }
}
