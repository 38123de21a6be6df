//! What can go wrong with a provider.

use std::time::Duration;

use crate::provider::Fault;

/// The result of an operation on a provider.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation on a provider: what failed and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a call.
    #[error("{place}: cannot {action}")]
    Io {
        /// Socket, file or directory.
        place: String,
        /// What was tried: `connect`, `send a command` …
        action: &'static str,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The other side did not answer in time.
    #[error("{peer}: no answer to {waited_for} within {} s", limit.as_secs_f32())]
    TimedOut {
        /// Socket.
        peer: String,
        /// What was waited for.
        waited_for: String,
        /// How long.
        limit: Duration,
    },
    /// The other side broke its protocol.
    #[error("{peer}: {what}")]
    Protocol {
        /// Socket.
        peer: String,
        /// What it did.
        what: String,
    },
    /// QEMU, or the guest's agent, refused a command.
    #[error("{peer}: {command} failed: {description}")]
    Command {
        /// Socket.
        peer: String,
        /// The command.
        command: String,
        /// Class of the error: `GenericError`, `CommandNotFound`, `DeviceNotFound` …
        class: String,
        /// Its text.
        description: String,
    },
    /// The machine or the request does not allow it.
    #[error("{peer}: {what}")]
    Refused {
        /// Machine or socket.
        peer: String,
        /// Why, and what to do.
        what: String,
    },
    /// What was captured cannot be believed any more, and is not published.
    #[error("{peer}: {what}")]
    Doubtful {
        /// Machine or socket.
        peer: String,
        /// What happened, and what to do.
        what: String,
    },
    /// Another process is at work on the same machine.
    #[error("{peer}: {what}")]
    Busy {
        /// Machine or socket.
        peer: String,
        /// Who, and what to do.
        what: String,
    },
    /// What was asked for does not exist.
    #[error("{peer}: {what}")]
    NotFound {
        /// Machine or socket.
        peer: String,
        /// What is missing, and what there is.
        what: String,
    },
    /// A provider of volumes or instances failed or refused.
    #[error(transparent)]
    Provider(Box<Fault>),
    /// A disk of the machine could not be read.
    #[error(transparent)]
    Disk(#[from] leeward_disk::Error),
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
}

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system, the provider or the connection failed; trying again may help.
    Io,
    /// The other side does not keep to its protocol.
    Protocol,
    /// Refused for safety, or because the machine cannot do it.
    Refused,
    /// Somebody else is at work; trying again later may help.
    Busy,
    /// Something that was named does not exist, or may not be seen: providers often do not tell which.
    NotFound,
    /// The provider is asked too much, or it or the way to it is disturbed; the same call may succeed soon.
    Passing,
    /// Something is in another state than it must be, or belongs to something else; it may change.
    Conflict,
    /// A quota or limit is reached, or the provider has no room.
    Limit,
    /// The credentials are missing or wrong, or do not give the right.
    Denied,
    /// The caller asked to stop.
    Cancelled,
}

impl Error {
    /// The class of this error; stable.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. }
            | Self::TimedOut { .. }
            | Self::Command { .. }
            | Self::Doubtful { .. }
            | Self::Disk(_) => ErrorKind::Io,
            Self::Protocol { .. } => ErrorKind::Protocol,
            Self::Refused { .. } => ErrorKind::Refused,
            Self::Busy { .. } => ErrorKind::Busy,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Provider(fault) => fault.kind,
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }

    /// Whether the same call may succeed soon by itself.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self.kind(), ErrorKind::Passing)
    }

    /// How long the other side asks to wait before the next attempt.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Provider(fault) => fault.wait,
            _ => None,
        }
    }

    /// Whether the other side answered that it failed, rather than not at all.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Command { .. })
    }

    /// A provider cannot do it, and never will as it was asked.
    pub(crate) fn refused(
        provider: impl Into<String>,
        action: impl Into<String>,
        what: impl Into<String>,
    ) -> Self {
        Fault::new(ErrorKind::Refused, provider, action, what).into()
    }

    /// There are no credentials, or they do not give the right.
    pub(crate) fn denied(
        provider: impl Into<String>,
        action: impl Into<String>,
        what: impl Into<String>,
    ) -> Self {
        Fault::new(ErrorKind::Denied, provider, action, what).into()
    }

    /// A limit of a provider.
    pub(crate) fn limit(
        provider: impl Into<String>,
        action: impl Into<String>,
        what: impl Into<String>,
    ) -> Self {
        Fault::new(ErrorKind::Limit, provider, action, what).into()
    }

    /// Something is not in the state, or not the thing, that is asked for.
    pub(crate) fn conflict(
        provider: impl Into<String>,
        action: impl Into<String>,
        what: impl Into<String>,
    ) -> Self {
        Fault::new(ErrorKind::Conflict, provider, action, what).into()
    }

    /// An [`Error::Io`].
    pub(crate) fn io(place: impl Into<String>, action: &'static str, source: std::io::Error) -> Self {
        Self::Io { place: place.into(), action, source }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Provider(Box::new(fault))
    }
}
