//! What can go wrong before a bucket can be used.

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A location is not one.
    #[error("{text}: {what}")]
    Location {
        /// What was given.
        text: String,
        /// What is wrong with it, and what is right.
        what: String,
    },
    /// There are no credentials.
    #[error("{store}: no credentials: {what}")]
    Credentials {
        /// The store.
        store: String,
        /// Where they were looked for.
        what: String,
    },
    /// Requests cannot be sent from here at all.
    #[error("{store}: no request can be sent")]
    Client {
        /// The store.
        store: String,
        /// Why.
        #[source]
        source: crate::http::Fault,
    },
    /// The service, or the way to it, failed.
    #[error(transparent)]
    Store(#[from] leeward_store::Error),
}

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The location has to be spelt otherwise.
    Usage,
    /// Credentials have to be given.
    Denied,
    /// This machine lacks something.
    Io,
    /// See the kind of the store's error.
    Store(leeward_store::ErrorKind),
}

impl Error {
    /// The class of this error; stable.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Location { .. } => ErrorKind::Usage,
            Self::Credentials { .. } => ErrorKind::Denied,
            Self::Client { .. } => ErrorKind::Io,
            Self::Store(error) => ErrorKind::Store(error.kind()),
        }
    }
}
