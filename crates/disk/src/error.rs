//! What can go wrong with a disk image.

use std::path::PathBuf;

use crate::Format;

/// The result of an operation on a disk.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation on a disk image: what failed and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a read, write or other call.
    #[error("{path}: cannot {action} (offset {offset}, {length} bytes)")]
    Io {
        /// File, device or URL.
        path: String,
        /// What was tried: `read`, `write`, `flush` …
        action: &'static str,
        /// Byte offset in the file.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file cannot be opened, created or examined.
    #[error("{path}: cannot {action}")]
    Open {
        /// File, device or URL.
        path: String,
        /// What was tried: `open`, `create`, `find the size of` …
        action: &'static str,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The image contradicts its format: damaged, truncated, or made to harm.
    #[error("{path}: not a sound {format} image: {what}")]
    Corrupt {
        /// Image.
        path: String,
        /// Format under which it was read.
        format: Format,
        /// What is wrong, with the offset or table entry.
        what: String,
    },
    /// The image is valid but needs something that this reader does not do.
    #[error("{path}: {format} image needs {what}, which is not supported")]
    Unsupported {
        /// Image.
        path: String,
        /// Its format.
        format: Format,
        /// The feature.
        what: String,
    },
    /// The image names another file, and the caller did not allow that.
    #[error(
        "{path}: refused: the {format} image refers to another file, {reference:?} — if you trust it, allow references with --allow-references DIR"
    )]
    ReferenceRefused {
        /// Image.
        path: String,
        /// Its format.
        format: Format,
        /// The file that it names, as written in the image.
        reference: String,
    },
    /// The image names a file that lies outside the directory that the caller allowed, or cannot be used.
    #[error("{path}: refused: the image refers to {reference:?}: {why}")]
    ReferenceUnusable {
        /// Image.
        path: String,
        /// The file that it names.
        reference: String,
        /// Why it is not used.
        why: String,
    },
    /// The map of an overlay is damaged, or is none.
    #[error("{path}: not a sound map of an overlay: {what}")]
    DamagedMap {
        /// The map.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// Somebody else has the overlay open.
    #[error(
        "{path}: the overlay is in use by another process (an export, a hydration or a backup): end that first"
    )]
    OverlayInUse {
        /// Its map.
        path: String,
    },
    /// A running machine has the disk.
    #[error("{path}: refused: a running machine or another program has it open and locked")]
    InUse {
        /// File or device.
        path: String,
    },
    /// The content matches more than one format.
    #[error(
        "{path}: refused: the file can be read as {first} and as {second} — name the one you mean with -f"
    )]
    Ambiguous {
        /// Image.
        path: String,
        /// One format.
        first: Format,
        /// The other.
        second: Format,
    },
    /// The content is not of the format that was asked for.
    #[error("{path}: not a {expected} image: {what}")]
    WrongFormat {
        /// Image.
        path: String,
        /// Format asked for.
        expected: Format,
        /// What was found instead.
        what: String,
    },
    /// A read or write reaches past the end of the virtual disk.
    #[error("{path}: offset {offset} + {length} bytes lies outside the virtual disk of {virtual_size} bytes")]
    OutOfRange {
        /// Image.
        path: String,
        /// Offset asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// Size of the virtual disk.
        virtual_size: u64,
    },
    /// The other side of a network connection broke the protocol or refused.
    #[error("{peer}: {what}")]
    Protocol {
        /// URL of the server.
        peer: String,
        /// What it did.
        what: String,
    },
    /// What lies behind the disk failed: a disk that is a snapshot in a repository, for example.
    #[error("{path}: cannot read offset {offset} + {length} bytes")]
    Backend {
        /// The disk.
        path: String,
        /// Byte offset on the disk.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// The class that this error belongs to.
        kind: ErrorKind,
        /// What failed there.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file to be created is there already, or the device may hold something, and overwriting was not asked for.
    #[error("{path}: refused: {what} — to overwrite it, say --force")]
    WouldOverwrite {
        /// File or device.
        path: String,
        /// What is there.
        what: String,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// The caller's request makes no sense.
    #[error("{path}: {what}")]
    Invalid {
        /// File, device or URL.
        path: String,
        /// What is wrong with the request and what to do.
        what: String,
    },
}

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system or the network failed; trying again may help.
    Io,
    /// The image is damaged or hostile.
    Corrupt,
    /// The image needs a feature that is missing here.
    Unsupported,
    /// Refused for safety; the caller may allow it.
    Refused,
    /// Somebody else holds it; trying again later may help.
    Busy,
    /// The caller asked for something impossible.
    Usage,
    /// The caller asked to stop.
    Cancelled,
}

impl Error {
    /// The class of this error; stable.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } | Self::Open { .. } | Self::Protocol { .. } => ErrorKind::Io,
            Self::Backend { kind, .. } => *kind,
            Self::Corrupt { .. } | Self::DamagedMap { .. } => ErrorKind::Corrupt,
            Self::OverlayInUse { .. } => ErrorKind::Busy,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::ReferenceRefused { .. }
            | Self::ReferenceUnusable { .. }
            | Self::Ambiguous { .. }
            | Self::InUse { .. }
            | Self::WouldOverwrite { .. } => ErrorKind::Refused,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::WrongFormat { .. } | Self::OutOfRange { .. } | Self::Invalid { .. } => ErrorKind::Usage,
        }
    }

    /// An [`Error::Open`] for a path.
    pub fn open(path: impl Into<PathBuf>, action: &'static str, source: std::io::Error) -> Self {
        Self::Open { path: path.into().display().to_string(), action, source }
    }
}
