//! What can go wrong with a store.

use std::io;

/// The result of an operation on a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation: what, on which object, where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such object.
    #[error("{store}: there is no object {key}")]
    NotFound {
        /// The store.
        store: String,
        /// Key of the object.
        key: String,
    },
    /// An object of that key is there already.
    #[error("{store}: object {key} exists already")]
    AlreadyExists {
        /// The store.
        store: String,
        /// Key of the object.
        key: String,
    },
    /// The object was changed by somebody else since it was read.
    #[error("{store}: object {key} was changed by somebody else in the meantime")]
    Conflict {
        /// The store.
        store: String,
        /// Key of the object.
        key: String,
    },
    /// The object is larger than its kind may be.
    #[error("{store}: object {key} has {size} bytes, more than the {size_max} that it may have")]
    TooLarge {
        /// The store.
        store: String,
        /// Key of the object.
        key: String,
        /// Its size in bytes.
        size: u64,
        /// The largest size allowed, in bytes.
        size_max: u64,
    },
    /// The medium is full.
    #[error(
        "{store}: no space left to {action} {key}; nothing was lost, free some space and run the command again"
    )]
    NoSpace {
        /// The store.
        store: String,
        /// What was tried.
        action: &'static str,
        /// Key of the object.
        key: String,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The medium failed.
    #[error("{store}: cannot {action} {key}")]
    Io {
        /// The store.
        store: String,
        /// What was tried.
        action: &'static str,
        /// Key of the object, or path.
        key: String,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The object is not there.
    NotFound,
    /// The object is there already.
    AlreadyExists,
    /// Read it again and decide anew.
    Conflict,
    /// The object is not what it should be.
    Damaged,
    /// Free space, then try again.
    NoSpace,
    /// The medium failed; trying again may help.
    Io,
}

impl Error {
    /// The class of this error; stable.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::TooLarge { .. } => ErrorKind::Damaged,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::Io { .. } => ErrorKind::Io,
        }
    }
}
