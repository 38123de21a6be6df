//! What can go wrong at a site.

/// Errors of a site.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be used.
    #[error("{place}: cannot {action}")]
    Io {
        /// The file.
        place: String,
        /// What was tried.
        action: &'static str,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The configuration makes no sense.
    #[error("{place}: {what}")]
    Config {
        /// The file.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// Something that was named is not there.
    #[error("{0}")]
    NotFound(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Something is there that would be overwritten.
    #[error("{0}")]
    Exists(String),
    /// The site has no such thing configured.
    #[error("this site has no {what}")]
    NotOffered {
        /// What.
        what: &'static str,
    },
    /// It is not in the state for what was asked.
    #[error("{0}")]
    Conflict(String),
    /// Files in a snapshot.
    #[error(transparent)]
    Files(#[from] leeward_files::Error),
    /// Runs.
    #[error(transparent)]
    Runs(#[from] leeward_runs::Error),
    /// A source or a store.
    #[error(transparent)]
    Store(#[from] leeward_store::Error),
    /// A provider.
    #[error(transparent)]
    Cloud(#[from] leeward_cloud::Error),
    /// A location or credentials.
    #[error(transparent)]
    Remote(#[from] leeward_remote::Error),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] leeward_repository::Error),
    /// What is to be restored does not suit.
    #[error("the state cannot be restored: {what}")]
    Unfit {
        /// Why.
        what: String,
    },
    /// It would do harm, as to work on a state that was moved elsewhere.
    #[error("{place}: {what}")]
    Refused {
        /// Where.
        place: String,
        /// Why, and what to do.
        what: String,
    },
    /// Whoever asked for it wants it to end.
    #[error("interrupted")]
    Interrupted,
    /// The catalog.
    #[error("{place}: cannot {action}")]
    Catalog {
        /// The file.
        place: String,
        /// What was tried.
        action: &'static str,
        /// The database's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Anything that the caller's own code said, as who opens the repository.
    #[error("{0}")]
    Other(String),
}

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was named does not exist.
    NotFound,
    /// What was asked makes no sense.
    Invalid,
    /// Not in this state.
    Conflict,
    /// Not configured here.
    NotOffered,
    /// What a disk holds is damaged, or of a kind that is not read here.
    Unreadable,
    /// Of another release, or damaged, or it would do harm.
    Unfit,
    /// Something outside failed; trying again may help.
    Passing,
    /// A person has to look.
    Lasting,
}

impl Error {
    pub(crate) fn io(place: &str, action: &'static str) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let place = place.to_owned();
        move |source| Self::Io { place, action, source }
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        use leeward_runs::ErrorKind as Runs;
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Invalid(_) | Self::Config { .. } | Self::Remote(_) => ErrorKind::Invalid,
            Self::Exists(_) => ErrorKind::Conflict,
            Self::NotOffered { .. } => ErrorKind::NotOffered,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::Files(error) => of_files(error.kind()),
            Self::Unfit { .. } | Self::Refused { .. } => ErrorKind::Unfit,
            Self::Runs(error) => match error.kind() {
                Runs::Passing => ErrorKind::Passing,
                Runs::NotFound => ErrorKind::NotFound,
                Runs::Invalid => ErrorKind::Invalid,
                Runs::Conflict => ErrorKind::Conflict,
                Runs::Lasting => ErrorKind::Lasting,
            },
            Self::Store(error) => match error.kind() {
                leeward_store::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Passing,
            },
            Self::Cloud(_) | Self::Catalog { .. } => ErrorKind::Passing,
            Self::Repository(error) => match error.kind() {
                leeward_repository::ErrorKind::NotFound => ErrorKind::NotFound,
                leeward_repository::ErrorKind::Io | leeward_repository::ErrorKind::Conflict => {
                    ErrorKind::Passing
                }
                _ => ErrorKind::Lasting,
            },
            Self::Io { .. } | Self::Other(_) | Self::Interrupted => ErrorKind::Lasting,
        }
    }
}

/// What is wrong with a guest's disk is nothing of the daemon's; that the disk cannot be had is.
pub(crate) fn of_files(kind: leeward_files::ErrorKind) -> ErrorKind {
    use leeward_disk::ErrorKind as Disk;
    use leeward_files::ErrorKind as Files;
    match kind {
        Files::NotFound => ErrorKind::NotFound,
        Files::Corrupt | Files::Unsupported | Files::Disk(Disk::Usage | Disk::Unsupported) => {
            ErrorKind::Unreadable
        }
        Files::Io | Files::Cancelled | Files::Disk(Disk::Io | Disk::Cancelled) => ErrorKind::Passing,
        _ => ErrorKind::Lasting,
    }
}

/// Results of a site.
pub type Result<T, E = Error> = std::result::Result<T, E>;
