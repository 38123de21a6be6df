//! What can go wrong with a repository.

use crate::id::{BlobId, PackId, SnapshotId};

/// The result of an operation on a repository.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation: what, on which object, where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store below failed.
    #[error(transparent)]
    Store(leeward_store::Error),
    /// The disk that is read or written failed.
    #[error(transparent)]
    Disk(#[from] leeward_disk::Error),
    /// There is no repository.
    #[error("{store}: there is no repository here")]
    NoRepository {
        /// The store.
        store: String,
    },
    /// There is a repository already.
    #[error("{store}: there is a repository here already")]
    RepositoryExists {
        /// The store.
        store: String,
    },
    /// The repository was made by a version that does what this one does not know.
    #[error(
        "{store}: the repository needs {what}, which this version of leeward does not know — use a newer leeward"
    )]
    TooNew {
        /// The store.
        store: String,
        /// Format version or feature.
        what: String,
    },
    /// The repository is encrypted, and nothing was given that could open it.
    #[error("{store}: the repository is encrypted, and no key or passphrase was given")]
    Locked {
        /// The store.
        store: String,
    },
    /// What would open the repository cannot be had.
    #[error("{store}: the key or passphrase cannot be had")]
    NoCredential {
        /// The store.
        store: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The key or passphrase opens none of the repository's wrapped keys. Nobody is told why.
    #[error("{store}: the key or passphrase does not open this repository")]
    NoKeyFits {
        /// The store.
        store: String,
    },
    /// The key that was given is not enough.
    #[error("{store}: {what}")]
    Denied {
        /// The store.
        store: String,
        /// What it is not enough for.
        what: &'static str,
    },
    /// The caller takes the repository to be encrypted, but it says that it is not.
    #[error("{store}: a key was given, but the repository is not encrypted")]
    NotEncrypted {
        /// The store.
        store: String,
    },
    /// The repository opens, but with other keys than the caller expects.
    #[error("{store}: the repository has the fingerprint {found}, not {expected}: it is another one")]
    WrongFingerprint {
        /// The store.
        store: String,
        /// What was expected.
        expected: String,
        /// What it has.
        found: String,
    },
    /// A stored object is not what its name or its own digest says.
    #[error("{store}: object {key} is damaged: {what}")]
    Damaged {
        /// The store.
        store: String,
        /// Key of the object.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// A chunk or node is not in the index, or its pack is gone.
    #[error("{store}: {kind} {id} is missing{whom}")]
    MissingBlob {
        /// The store.
        store: String,
        /// `chunk` or `tree node`.
        kind: &'static str,
        /// Its name.
        id: BlobId,
        /// Which image and offset need it, or empty.
        whom: String,
    },
    /// A chunk or node is there but its content does not match its name.
    #[error("{store}: {kind} {id} in pack {pack} does not match its digest")]
    WrongContent {
        /// The store.
        store: String,
        /// `chunk` or `tree node`.
        kind: &'static str,
        /// Its name.
        id: BlobId,
        /// The pack that was read.
        pack: PackId,
    },
    /// Compressing gave bytes that do not decompress to what went in: the memory or the processor is at fault.
    #[error(
        "compressed data did not decompress to what went in: memory or processor of this machine are at fault; nothing was stored"
    )]
    BadCompression,
    /// A name that no image may have.
    #[error("{name:?} is not a name for an image: {why}")]
    BadImageName {
        /// The name.
        name: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// There is no image of that name.
    #[error("{store}: there is no image {image}")]
    NoImage {
        /// The store.
        store: String,
        /// The name.
        image: String,
    },
    /// The image has no such snapshot.
    #[error("image {image} has no snapshot {wanted}")]
    NoSnapshot {
        /// The image.
        image: String,
        /// What was asked for.
        wanted: String,
    },
    /// Several snapshots match.
    #[error("{wanted} could be any of {count} snapshots of {image} — give more digits")]
    AmbiguousSnapshot {
        /// The image.
        image: String,
        /// What was asked for.
        wanted: String,
        /// How many match.
        count: usize,
    },
    /// A snapshot reference that cannot be read.
    #[error(
        "{text:?} does not name a snapshot: use IMAGE@latest, IMAGE@~1, IMAGE@DIGEST, IMAGE@TIME or IMAGE@TAG"
    )]
    BadSpec {
        /// The text.
        text: String,
    },
    /// Others changed the same object again and again.
    #[error("{store}: {key} is being changed by others all the time — try again")]
    Contended {
        /// The store.
        store: String,
        /// Key of the object.
        key: String,
    },
    /// This writer was declared dead by a collection.
    #[error(
        "{store}: this backup was declared dead by a collection and may not publish what it wrote — run it again; what was stored is used again"
    )]
    Revoked {
        /// The store.
        store: String,
    },
    /// The snapshot is held.
    #[error("snapshot {snapshot} of {image} is held ({reason}) — release it first")]
    Held {
        /// The image.
        image: String,
        /// The snapshot.
        snapshot: SnapshotId,
        /// Why it is held.
        reason: String,
    },
    /// The caller asked for something impossible.
    #[error("{0}")]
    Invalid(String),
    /// A backup cannot build on the snapshot.
    #[error("snapshot {}: {what}", snapshot.short())]
    Unfit {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Why not.
        what: String,
    },
    /// The source turned out not to be what it should be, after it had been read.
    #[error("nothing was published: {source}")]
    Unconfirmed {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The work was interrupted; a rerun continues.
    #[error("interrupted; what was stored so far is kept, and the next run continues from it")]
    Interrupted,
}

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The medium or network failed.
    Io,
    /// Stored bytes are wrong or missing.
    Damaged,
    /// The thing that was named does not exist.
    NotFound,
    /// Somebody else was faster; try again.
    Conflict,
    /// Refused for safety.
    Refused,
    /// A key is missing, wrong, or not enough.
    Denied,
    /// The caller asked for something impossible.
    Usage,
    /// Interrupted by the caller.
    Interrupted,
}

impl From<leeward_store::Error> for Error {
    fn from(error: leeward_store::Error) -> Self {
        match error {
            leeward_store::Error::Damaged { store, key, what } => Self::Damaged { store, key, what },
            other => Self::Store(other),
        }
    }
}

impl Error {
    /// The class of this error; stable.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        use leeward_disk::ErrorKind as Disk;
        use leeward_store::ErrorKind as Store;
        match self {
            Self::Store(error) => match error.kind() {
                Store::NotFound => ErrorKind::NotFound,
                Store::AlreadyExists | Store::Conflict | Store::Uncertain => ErrorKind::Conflict,
                Store::Damaged => ErrorKind::Damaged,
                Store::Denied => ErrorKind::Refused,
                _ => ErrorKind::Io,
            },
            Self::Disk(error) => match error.kind() {
                Disk::Corrupt => ErrorKind::Damaged,
                Disk::Refused => ErrorKind::Refused,
                Disk::Usage | Disk::Unsupported => ErrorKind::Usage,
                _ => ErrorKind::Io,
            },
            Self::NoRepository { .. } | Self::NoImage { .. } | Self::NoSnapshot { .. } => ErrorKind::NotFound,
            Self::TooNew { .. }
            | Self::Held { .. }
            | Self::NotEncrypted { .. }
            | Self::WrongFingerprint { .. } => ErrorKind::Refused,
            Self::Locked { .. } | Self::NoKeyFits { .. } | Self::Denied { .. } => ErrorKind::Denied,
            Self::Damaged { .. }
            | Self::MissingBlob { .. }
            | Self::WrongContent { .. }
            | Self::BadCompression => ErrorKind::Damaged,
            Self::Contended { .. } | Self::Revoked { .. } => ErrorKind::Conflict,
            Self::RepositoryExists { .. }
            | Self::BadImageName { .. }
            | Self::AmbiguousSnapshot { .. }
            | Self::BadSpec { .. }
            | Self::Unfit { .. }
            | Self::NoCredential { .. }
            | Self::Invalid(_) => ErrorKind::Usage,
            Self::Unconfirmed { .. } => ErrorKind::Io,
            Self::Interrupted => ErrorKind::Interrupted,
        }
    }

    /// Whether an object was not in the store.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Store(error) if error.kind() == leeward_store::ErrorKind::NotFound)
    }
}
