//! What can go wrong while looking into a file system.

/// The result of an operation on a file system.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation on a file system: what failed and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk below cannot be read.
    #[error("cannot read the disk")]
    Disk(#[from] leeward_disk::Error),
    /// The content is no file system that is known here.
    #[error("no file system that can be read: {what}")]
    Unknown {
        /// What was found instead.
        what: String,
    },
    /// The file system contradicts its format: damaged, truncated, or made to harm.
    #[error("the {kind} file system is damaged: {what}")]
    Corrupt {
        /// Its kind.
        kind: &'static str,
        /// What is wrong, with the inode or block.
        what: String,
    },
    /// The file system is valid but needs something that this reader does not do.
    #[error("the {kind} file system needs {what}, which is not supported")]
    Unsupported {
        /// Its kind.
        kind: &'static str,
        /// The feature.
        what: String,
    },
    /// There is nothing under this path.
    #[error("{path}: there is no such file or directory in the file system")]
    NotFound {
        /// The path, with bytes that are no UTF-8 replaced.
        path: String,
    },
    /// A part of a path, or what was to be listed, is not a directory.
    #[error("{path}: not a directory")]
    NotADirectory {
        /// The path or the number of the inode.
        path: String,
    },
    /// What was to be read has no content of this kind.
    #[error("{path}: not a {wanted}")]
    WrongType {
        /// The path or the number of the inode.
        path: String,
        /// What it should have been: `file`, `symbolic link`.
        wanted: &'static str,
    },
    /// Too many symbolic links on a path.
    #[error("{path}: more than {limit} symbolic links lead on")]
    TooManyLinks {
        /// The path.
        path: String,
        /// How many are followed.
        limit: usize,
    },
    /// The reader broke on this input; that is a fault of Leeward, not of the caller.
    #[error("the reader of {kind} file systems broke on this disk: {what}")]
    Broken {
        /// Kind of the file system.
        kind: &'static str,
        /// What it said.
        what: String,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
}

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The medium or the network failed; trying again may help.
    Io,
    /// The disk is damaged or hostile.
    Corrupt,
    /// It needs a feature that is missing here.
    Unsupported,
    /// What was named does not exist, or is of another type.
    NotFound,
    /// The caller asked to stop.
    Cancelled,
    /// What the disk below says.
    Disk(leeward_disk::ErrorKind),
}

impl Error {
    /// The class of this error; stable.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Disk(error) => ErrorKind::Disk(error.kind()),
            Self::Corrupt { .. } | Self::Broken { .. } => ErrorKind::Corrupt,
            Self::Unsupported { .. } | Self::Unknown { .. } => ErrorKind::Unsupported,
            Self::NotFound { .. }
            | Self::NotADirectory { .. }
            | Self::WrongType { .. }
            | Self::TooManyLinks { .. } => ErrorKind::NotFound,
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }

    pub(crate) fn corrupt(kind: &'static str, what: impl Into<String>) -> Self {
        Self::Corrupt { kind, what: what.into() }
    }

    pub(crate) fn unsupported(kind: &'static str, what: impl Into<String>) -> Self {
        Self::Unsupported { kind, what: what.into() }
    }
}
