//! What can go wrong with protection.

/// The result of protection.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Something that could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] leeward_disk::Error),
    /// A provider of disks.
    #[error(transparent)]
    Cloud(#[from] leeward_cloud::Error),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] leeward_repository::Error),
    /// It was refused for safety, makes no sense, or is not there.
    #[error("{what}")]
    Asked {
        /// Which of these.
        kind: ErrorKind,
        /// What.
        what: String,
        /// What to do next.
        hint: String,
    },
}

/// What a caller can do about an error that is none of the layers below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Refused for safety.
    Refused,
    /// What was asked makes no sense.
    Usage,
    /// What was named does not exist.
    NotFound,
    /// Something is wrong that nobody foresaw.
    Failed,
}

impl Error {
    pub(crate) fn asked(kind: ErrorKind, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Asked { kind, what: what.into(), hint: hint.into() }
    }

    /// Whether the work was told to stop.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        match self {
            Self::Disk(error) | Self::Repository(leeward_repository::Error::Disk(error)) => {
                error.kind() == leeward_disk::ErrorKind::Cancelled
            }
            Self::Cloud(error) => error.kind() == leeward_cloud::ErrorKind::Cancelled,
            Self::Repository(error) => error.kind() == leeward_repository::ErrorKind::Interrupted,
            Self::Asked { .. } => false,
        }
    }

    /// Whether the same may succeed later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        use leeward_cloud::ErrorKind as Cloud;
        use leeward_disk::ErrorKind as Disk;
        use leeward_repository::ErrorKind as Repository;
        match self {
            Self::Disk(error) => matches!(error.kind(), Disk::Io | Disk::Busy),
            Self::Cloud(error) => {
                matches!(
                    error.kind(),
                    Cloud::Io | Cloud::Protocol | Cloud::Busy | Cloud::Passing | Cloud::Conflict
                )
            }
            Self::Repository(error) => matches!(error.kind(), Repository::Io | Repository::Conflict),
            Self::Asked { .. } => false,
        }
    }

    /// It with all its causes.
    #[must_use]
    pub fn told(&self) -> String {
        leeward_store::with_causes(self)
    }
}
