//! What can go wrong with an import.

use std::path::PathBuf;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure: what, on which object or volume, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The object is another one than the import began with.
    #[error(
        "{place}: the object {object} was replaced while it was imported: nothing of the new one was used; start a new import"
    )]
    Replaced {
        /// The bucket.
        place: String,
        /// The object.
        object: String,
    },
    /// A service, or the way to it, failed.
    #[error(transparent)]
    Objects(leeward_store::Error),
    /// The image is damaged, hostile or not supported, or cannot be read.
    #[error(transparent)]
    Disk(leeward_disk::Error),
    /// The object holds what cannot be imported.
    #[error("{object}: {what}")]
    Image {
        /// The object, and the member of it.
        object: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The object expands to more than is allowed.
    #[error(
        "{object}: it expands to more than {bytes_max} bytes, which is the limit here: if that is meant, raise the limit"
    )]
    Expands {
        /// The object.
        object: String,
        /// The limit in bytes.
        bytes_max: u64,
    },
    /// The content is not what its digest states.
    #[error(
        "{object}: the content does not match the {kind} that is stated for it ({stated}, but it is {found}): upload it again"
    )]
    Digest {
        /// The object.
        object: String,
        /// `MD5` or `SHA-256`.
        kind: &'static str,
        /// What is stated, in hexadecimal digits.
        stated: String,
        /// What was found.
        found: String,
    },
    /// The volume, or the way to it, cannot be used.
    #[error(transparent)]
    Device(leeward_cloud::Error),
    /// The volume cannot be used.
    #[error("{}: cannot {action}", .path.display())]
    Volume {
        /// Device or file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The volume is smaller than the disk.
    #[error("{}: the volume has {bytes} bytes, and the disk {needed}: use a larger volume", .path.display())]
    TooSmall {
        /// Device or file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// What the disk needs.
        needed: u64,
    },
    /// A checkpoint is not of this object and volume.
    #[error("the checkpoint is not of this import: {what}; begin without it")]
    Checkpoint {
        /// What differs.
        what: String,
    },
    /// The checkpoint could not be kept.
    #[error("the checkpoint at byte {position} could not be kept")]
    Keep {
        /// How far the work was.
        position: u64,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The partition table is damaged, or is not one that can be changed.
    #[error("{}: {what}", .path.display())]
    Table {
        /// Device or file.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// Metadata of the object asks for something impossible.
    #[error("the object's metadata {key} = {value:?}: {what}")]
    Metadata {
        /// The key.
        key: String,
        /// Its value, shortened.
        value: String,
        /// What is right.
        what: String,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Start a new import: the object is another one.
    Replaced,
    /// Try again: a service, the network or a medium failed.
    Io,
    /// The object is damaged, hostile, or does not match its digest: upload another.
    Object,
    /// The object is not there, or may not be read.
    Access,
    /// Another volume is needed, or more space.
    Space,
    /// What was asked for makes no sense: change the inputs.
    Usage,
    /// The caller asked to stop.
    Cancelled,
}

impl Error {
    /// The class of this error; stable.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Replaced { .. } => ErrorKind::Replaced,
            Self::Objects(error) => of_store(error.kind()),
            Self::Disk(error) => of_disk(error),
            Self::Device(error) => of_cloud(error.kind()),
            Self::Image { .. } | Self::Expands { .. } | Self::Digest { .. } | Self::Table { .. } => {
                ErrorKind::Object
            }
            Self::Volume { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                ErrorKind::Space
            }
            Self::Volume { .. } | Self::Keep { .. } => ErrorKind::Io,
            Self::TooSmall { .. } => ErrorKind::Space,
            Self::Checkpoint { .. } | Self::Metadata { .. } => ErrorKind::Usage,
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.kind() == ErrorKind::Io
    }
}

fn of_store(kind: leeward_store::ErrorKind) -> ErrorKind {
    use leeward_store::ErrorKind as Store;
    match kind {
        Store::NotFound | Store::Denied => ErrorKind::Access,
        Store::Conflict => ErrorKind::Replaced,
        Store::Unsupported => ErrorKind::Usage,
        Store::Damaged => ErrorKind::Object,
        Store::NoSpace => ErrorKind::Space,
        _ => ErrorKind::Io,
    }
}

fn of_cloud(kind: leeward_cloud::ErrorKind) -> ErrorKind {
    use leeward_cloud::ErrorKind as Cloud;
    match kind {
        Cloud::Limit => ErrorKind::Space,
        Cloud::Refused => ErrorKind::Usage,
        Cloud::Denied => ErrorKind::Access,
        Cloud::Cancelled => ErrorKind::Cancelled,
        _ => ErrorKind::Io,
    }
}

fn of_disk(error: &leeward_disk::Error) -> ErrorKind {
    use leeward_disk::ErrorKind as Disk;
    if let Some(store) = store_error(error) {
        return of_store(store.kind());
    }
    if matches!(error, leeward_disk::Error::InUse { .. }) {
        // Whoever has it may be a worker that was taken for lost, and that ends when it learns of it.
        return ErrorKind::Io;
    }
    match error.kind() {
        Disk::Io | Disk::Busy => ErrorKind::Io,
        Disk::Cancelled => ErrorKind::Cancelled,
        Disk::Usage => ErrorKind::Usage,
        _ => ErrorKind::Object,
    }
}

/// The error of a store that a disk's error stands for.
fn store_error(error: &leeward_disk::Error) -> Option<&leeward_store::Error> {
    match error {
        leeward_disk::Error::Backend { source, .. } => source.downcast_ref(),
        _ => None,
    }
}

impl From<leeward_disk::Error> for Error {
    fn from(error: leeward_disk::Error) -> Self {
        match store_error(&error) {
            Some(leeward_store::Error::Conflict { store, key }) => {
                Self::Replaced { place: store.clone(), object: key.clone() }
            }
            _ if matches!(error, leeward_disk::Error::Cancelled) => Self::Cancelled,
            _ => Self::Disk(error),
        }
    }
}

impl From<leeward_store::Error> for Error {
    fn from(error: leeward_store::Error) -> Self {
        match error {
            leeward_store::Error::Conflict { store, key } => Self::Replaced { place: store, object: key },
            error => Self::Objects(error),
        }
    }
}
