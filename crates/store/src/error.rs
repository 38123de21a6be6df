//! What can go wrong with a store.

use std::io;
use std::time::Duration;

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
    /// The answer to a write was lost, and the object was changed by somebody else since: nobody can tell whether the
    /// write had been made for a while.
    #[error(
        "{store}: object {key} was changed by somebody else after an answer of the service was lost ({what}), so it cannot \
         be told whether it was written; run the command again"
    )]
    Uncertain {
        /// The store.
        store: String,
        /// Key of the object.
        key: String,
        /// What the service answered, or what became of the connection.
        what: String,
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
    /// Whoever asks may not do that.
    #[error("{store}: not allowed to {action} {key}: {what}")]
    Denied {
        /// The store.
        store: String,
        /// What was tried.
        action: &'static str,
        /// Key of the object, or what stands for it.
        key: String,
        /// What the service said.
        what: String,
    },
    /// The store cannot do what is needed.
    #[error("{store}: {what}")]
    Unsupported {
        /// The store.
        store: String,
        /// What it lacks.
        what: String,
    },
    /// A service, or the way to it, failed.
    #[error("{store}: cannot {action} {key}: {what}")]
    Remote {
        /// The store.
        store: String,
        /// What was tried.
        action: &'static str,
        /// Key of the object, or what stands for it.
        key: String,
        /// What happened: the service's answer, or what became of the connection.
        what: String,
        /// Whether it may pass by itself. A write may have been made all the same.
        is_transient: bool,
    },
    /// The bucket, or what a service calls so, is not there.
    #[error("{store}: cannot {action} {key}: {what}")]
    NoBucket {
        /// The store.
        store: String,
        /// What was tried.
        action: &'static str,
        /// Key of the object, or what stands for it.
        key: String,
        /// The service's answer.
        what: String,
    },
    /// A service is asked more than it bears. A write was hardly made, but nobody promises that.
    #[error("{store}: cannot {action} {key}: {what}; the service asks for fewer requests: try again later")]
    Throttled {
        /// The store.
        store: String,
        /// What was tried.
        action: &'static str,
        /// Key of the object, or what stands for it.
        key: String,
        /// The service's answer.
        what: String,
        /// How long the service asks to wait, where it says.
        wait: Option<Duration>,
    },
    /// The store contradicts itself, or what it said before.
    #[error("{store}: {key} cannot be believed: {what}")]
    Contradiction {
        /// The store.
        store: String,
        /// Key of the object, or what stands for it.
        key: String,
        /// What was said, and what was said before or should have been.
        what: String,
    },
    /// Parts of the object are lost or were overwritten.
    #[error("{store}: object {key} is damaged: {what}")]
    Damaged {
        /// The store.
        store: String,
        /// Key of the object.
        key: String,
        /// What is wrong, and with which part.
        what: String,
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
    /// A write may have been made and replaced since. Read again, and see whether what was to be done is done.
    Uncertain,
    /// The object is not what it should be.
    Damaged,
    /// Free space, then try again.
    NoSpace,
    /// The medium failed; trying again may help.
    Io,
    /// Other credentials or rights are needed.
    Denied,
    /// The store lacks an ability; use another.
    Unsupported,
}

impl Error {
    /// The class of this error; stable.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::Uncertain { .. } => ErrorKind::Uncertain,
            Self::TooLarge { .. } | Self::Contradiction { .. } | Self::Damaged { .. } => ErrorKind::Damaged,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::Io { .. } if self.is_bad_place() => ErrorKind::Damaged,
            // That a bucket is not there must not be taken for an object that is not there.
            Self::Io { .. } | Self::Remote { .. } | Self::NoBucket { .. } | Self::Throttled { .. } => {
                ErrorKind::Io
            }
            Self::Denied { .. } => ErrorKind::Denied,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
        }
    }

    /// Whether the medium cannot give what is stored in one place, as with a bad sector, or where a file system finds that
    /// its own sums do not fit. What is stored elsewhere, also of the same object, can be read.
    #[must_use]
    pub fn is_bad_place(&self) -> bool {
        let is_bad = |source: &io::Error| source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
        matches!(self, Self::Io { action: "read", source, .. } if is_bad(source))
    }

    /// Whether a service failed in a way that may pass by itself; a write that failed so may have been made.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Remote { is_transient: true, .. } | Self::Throttled { .. })
    }
}

/// An error with all its causes in one text, for a person. A cause that its error has told already is not told again: those of
/// connections often repeat what is inside of them.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.ends_with(&told) {
            text = format!("{text}: {told}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::with_causes;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Step(&'static str, #[source] Option<Box<Step>>);

    #[test]
    fn causes_are_told_once_and_in_order() {
        let inside = Step("refused", None);
        let repeated = Step("no connection: refused", Some(Box::new(inside)));
        let whole = Step("cannot read a", Some(Box::new(repeated)));
        assert_eq!(with_causes(&whole), "cannot read a: no connection: refused");
        assert_eq!(with_causes(&Step("alone", None)), "alone");
    }
}
