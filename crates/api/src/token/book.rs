//! The tokens of a running server: the file, read anew when it has changed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Error, TokenFile};

/// What tells one state of a file from another: a file that is replaced has another inode, one that is edited another time.
type Stamp = (u64, u64, i64, i64);

/// A file of tokens that is looked at with every request.
pub struct TokenBook {
    path: PathBuf,
    state: Mutex<(Option<Stamp>, Arc<TokenFile>)>,
}

impl TokenBook {
    /// The book of a file.
    ///
    /// # Errors
    /// As [`TokenFile::load`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (before, file) = (stamp(path), TokenFile::load(path)?);
        Ok(Self { path: path.to_owned(), state: Mutex::new((before, Arc::new(file))) })
    }

    /// The tokens as they are now. A file that cannot be read any more lets nobody in: a token that was meant to be removed
    /// must not live on because the file is damaged.
    ///
    /// # Errors
    /// As [`TokenFile::load`].
    pub fn current(&self) -> Result<Arc<TokenFile>, Error> {
        let present = stamp(&self.path);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.is_none() || state.0 != present {
            let file = Arc::new(TokenFile::load(&self.path)?);
            *state = (present, file);
        }
        Ok(Arc::clone(&state.1))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}
