//! What can go wrong with the state of runs.

use crate::RunId;

/// Errors of the state of runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database failed.
    #[error("{place}: cannot {action}")]
    Database {
        /// The database, without secrets.
        place: String,
        /// What was tried.
        action: &'static str,
        /// Its reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database is of a newer release.
    #[error("{place}: written by a newer release (schema {found}, this one knows {known})")]
    Newer {
        /// The database.
        place: String,
        /// Its schema.
        found: i64,
        /// The newest one that this release knows.
        known: i64,
    },
    /// What is stored makes no sense.
    #[error("{place}: run {run} is damaged: {what}")]
    Damaged {
        /// The database.
        place: String,
        /// The run.
        run: String,
        /// What is wrong.
        what: String,
    },
    /// The run has no such step.
    #[error("run {run} has no step {step}")]
    NoStep {
        /// The run.
        run: RunId,
        /// What was asked for.
        step: String,
    },
    /// There is no such run.
    #[error("there is no run {0}")]
    NoRun(RunId),
    /// A plan, its inputs or a command make no sense.
    #[error("{0}")]
    Invalid(String),
    /// The run is not in a state in which that can be done.
    #[error("run {run}: {what}")]
    NotNow {
        /// The run.
        run: RunId,
        /// Why not.
        what: String,
    },
    /// It was changed by somebody else again and again.
    #[error("run {0} changes too often; try again")]
    Busy(RunId),
    /// The operating system gives no random bytes.
    #[error("no random bytes")]
    Random(#[source] getrandom::Error),
}

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Trying again may help.
    Passing,
    /// What was named does not exist.
    NotFound,
    /// What was asked makes no sense.
    Invalid,
    /// Not in this state.
    Conflict,
    /// A person has to look.
    Lasting,
}

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Database { .. } | Self::Busy(_) => ErrorKind::Passing,
            Self::NoRun(_) | Self::NoStep { .. } => ErrorKind::NotFound,
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::NotNow { .. } => ErrorKind::Conflict,
            Self::Newer { .. } | Self::Damaged { .. } | Self::Random(_) => ErrorKind::Lasting,
        }
    }
}

/// Results of the state of runs.
pub type Result<T, E = Error> = std::result::Result<T, E>;
